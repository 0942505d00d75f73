//! `strongroom pair add`: every object, and all that is sealed later, for a second machine too.

use serde_json::json;
use strongroom::peer::Export;

use super::Place;
use crate::cli::PairAdd;
use crate::failure::Failure;
use crate::output::{self, say};

pub(super) fn run(place: &Place, args: &PairAdd) -> Result<(), Failure> {
    let export = Export::read(&args.export)?;
    let id = export.peer();
    let shown = match args.fingerprint {
        Some(shown) => shown,
        None => output::ask_line(
            "Whoever holds the machine that this export is of will be able to open the vault. Type the \
             fingerprint that `strongroom pair export` has shown there: ",
        )?
        .parse()?,
    };
    let trusted = export.trusted_by(shown)?;
    if !args.yes && args.fingerprint.is_some() {
        output::confirm(
            &format!("The second machine {id} will be able to open the vault. Type yes to go on:"),
            "yes",
        )?;
    }
    let mut vault = place.unlock_to_write()?;
    let bar = output::progress("giving", 0);
    let added = vault.add_second(&trusted, |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let added = added?;
    let vault_key = hex::encode(vault.vault_key_sha256());
    let mut report = super::aligned(&added);
    report["id"] = json!(id.to_string());
    report["vault-key-sha256"] = json!(vault_key);
    output::show(place.json, &report, || {
        say!(
            "The second machine {id} opens {} object(s), as soon as it has a copy of the vault.",
            added.objects
        );
        super::say_open_points(&added);
        say!("Copy the vault's folder there, all but its own files, and run there once:");
        say!("  strongroom pair settle --vault-key-sha256 {vault_key}");
    });
    super::outcome(&added)
}
