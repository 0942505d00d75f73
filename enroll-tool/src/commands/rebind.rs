//! `strongroom rebind`: which boots are allowed, changed with one write to the TPM.

use serde_json::json;
use strongroom::vault::Change;

use super::Place;
use crate::cli::Rebind;
use crate::failure::Failure;
use crate::kits;
use crate::output::{self, say};

pub(super) fn run(place: &Place, args: &Rebind) -> Result<(), Failure> {
    let change = if args.add.is_empty() {
        Change::PresentBoot(args.pcrs.clone())
    } else {
        Change::Add(args.add.clone())
    };
    let vault = place.vault()?;
    if !args.yes {
        let what = if args.add.is_empty() {
            "Only the present boot will be allowed to open the vault."
        } else {
            "One more boot will be allowed to open the vault."
        };
        output::confirm(&format!("{what} Type yes to go on:"), "yes")?;
    }
    let tcti = place.tcti()?;
    let rebound = match &args.recovery {
        Some(kit) => vault.rebind_by_recovery(
            &tcti,
            &kits::read(kit, &args.passphrase, Some(vault.id()))?,
            &change,
        )?,
        None => vault.rebind(&tcti, &change)?,
    };
    let report = json!({
        "written": rebound.written,
        "branches": rebound.branches,
    });
    output::show(place.json, &report, || {
        let how = if rebound.written {
            "written to the TPM"
        } else {
            "in force already, nothing was written"
        };
        say!("{} allowed boot(s), {how}.", rebound.branches.count());
    });
    Ok(())
}
