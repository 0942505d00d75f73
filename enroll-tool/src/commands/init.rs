//! `strongroom init`: a vault on this machine's TPM, and the recovery kit into the admin's hands.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::json;
use strongroom::error::Error;
use strongroom::object::TokenName;
use strongroom::recovery::RecoveryKit;
use strongroom::vault::{InitOptions, Vault};

use super::Place;
use crate::cli::Init;
use crate::failure::Failure;
use crate::output;

/// How many of the identity's last characters the admin types to show that the kit is kept.
const PROOF: usize = 6;

pub(super) fn run(place: &Place, args: &Init) -> Result<(), Failure> {
    let shown = args.recovery_out.is_none();
    if shown && (args.yes || place.json || !io::stdout().is_terminal()) {
        return Err(Failure::Usage(
            "the recovery kit would be shown to nobody: name a file for it with --recovery-out, \
             or run init at a terminal without --yes"
                .to_owned(),
        ));
    }
    if !shown && !args.yes {
        output::confirm(
            "The recovery kit will be written to a file that you must move off this machine. \
             Type yes to go on:",
            "yes",
        )?;
    }
    let options = InitOptions {
        pcrs: args.pcrs.clone(),
        tokens: vec![
            TokenName::datasets(),
            TokenName::credentials(),
            TokenName::keys(),
        ],
    };
    let mut written = None;
    let made = Vault::init(&place.dir, &place.tcti()?, &options, |kit| {
        match &args.recovery_out {
            Some(file) => {
                write_kit(file, kit)?;
                written = Some(file.clone());
                Ok(())
            }
            None => show_kit(kit),
        }
    });
    let vault = match made {
        Ok(vault) => vault,
        Err(error) => {
            // A kit of a vault that there is not would only confuse.
            if let Some(file) = written {
                let _ = std::fs::remove_file(file);
            }
            return Err(error.into());
        }
    };
    let state = vault.boot_state(&place.tcti()?)?;
    let pcrs = state.present.selection().to_string();
    let report = json!({
        "vault": vault.id(),
        "dir": place.dir,
        "pcrs": state.present,
        "tokens": vault.tokens(),
        "recovery-kit": args.recovery_out,
    });
    output::show(place.json, &report, || {
        println!("Vault {} made in {}.", vault.id(), place.dir.display());
        println!("It opens on this TPM while PCRs {pcrs} are as they are now.");
        if let Some(file) = &args.recovery_out {
            println!(
                "The recovery kit is in {}: move it off this machine. Whoever holds it can open \
                 the vault, and without it a dead mainboard takes the keys with it.",
                file.display()
            );
        }
    });
    Ok(())
}

fn write_kit(file: &Path, kit: &RecoveryKit) -> strongroom::Result<()> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut open| {
            open.write_all(kit.to_text().expose())?;
            open.sync_all()
        });
    written.map_err(|error| {
        Error::input(
            format!("--recovery-out {}", file.display()),
            format!("{error}; name a new file in a folder that can be written"),
        )
    })
}

fn show_kit(kit: &RecoveryKit) -> strongroom::Result<()> {
    let text = kit.to_text();
    let shown = io::stdout().write_all(text.expose());
    shown.map_err(|error| Error::input("standard output", error.to_string()))?;
    let bytes = text.expose().trim_ascii_end();
    let proof = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(PROOF)..]);
    output::confirm(
        &format!(
            "Print it or copy it now; it is not shown again. Type its last {PROOF} characters:"
        ),
        &proof,
    )
    .map_err(|failure| Error::input("recovery kit", failure.to_string()))
}
