//! `strongroom recover`: the vault onto this TPM, by the recovery kit.

use serde_json::json;
use strongroom::Vault;
use strongroom::recovery::RecoveryKit;

use super::Place;
use crate::cli::Recover;
use crate::failure::Failure;
use crate::output;

pub(super) fn run(place: &Place, args: &Recover) -> Result<(), Failure> {
    let kit = RecoveryKit::read(&args.recovery)?;
    if !args.yes {
        output::confirm(
            "The vault will be sealed to this machine's TPM and its present boot. \
             Type yes to go on:",
            "yes",
        )?;
    }
    let vault = match &args.backup {
        Some(backup) => Vault::restore(&place.dir, backup, &kit)?,
        None => place.vault()?,
    };
    let bar = output::progress("sealing", 0);
    let recovered = vault.recover(&place.tcti()?, &kit, args.pcrs.as_ref(), |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let recovered = recovered?;
    let report = json!({
        "vault": vault.id(),
        "objects": recovered.objects,
        "damaged": recovered.damaged.iter().map(|bad| json!({
            "file": bad.file, "reason": bad.reason,
        })).collect::<Vec<_>>(),
    });
    output::show(place.json, &report, || {
        println!(
            "Vault {}: {} objects are sealed to this TPM.",
            vault.id(),
            recovered.objects
        );
        for bad in &recovered.damaged {
            println!("not recovered: {}: {}", bad.file.display(), bad.reason);
        }
    });
    match recovered.damaged.len() {
        0 => Ok(()),
        failed => Err(Failure::Partial {
            failed,
            total: failed + recovered.objects,
        }),
    }
}
