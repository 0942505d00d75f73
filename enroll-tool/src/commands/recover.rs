//! `strongroom recover`: the vault onto this TPM, by the recovery kit.

use serde_json::json;
use strongroom::Vault;
use strongroom::key::{self, Residence};

use super::Place;
use crate::cli::Recover;
use crate::failure::Failure;
use crate::kits;
use crate::output::{self, say};

pub(super) fn run(place: &Place, args: &Recover) -> Result<(), Failure> {
    let kit = {
        // One that cannot be read is what this is for.
        let here = place.vault().ok();
        kits::read(
            &args.recovery,
            &args.passphrase,
            here.as_ref().map(Vault::id),
        )?
    };
    if !args.yes {
        output::confirm(
            "The vault will be sealed to this machine's TPM and its present boot. \
             Type yes to go on:",
            "yes",
        )?;
    }
    let (vault, restored) = match &args.backup {
        Some(backup) => {
            let (vault, restored) = Vault::restore(&place.dir, backup, &kit)?;
            (place.expecting(vault), restored)
        }
        None => (place.vault()?, 0),
    };
    if !args.lose_keys {
        check_keys(place, &vault)?;
    }
    let bar = output::progress("checking", 0);
    let recovered = vault.recover(&place.tcti()?, &kit, args.pcrs.as_ref(), |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let recovered = recovered?;
    let report = json!({
        "vault": vault.id(),
        "moved": recovered.moved,
        "objects": recovered.objects,
        "sealed": recovered.sealed,
        "restored": restored,
        "damaged": output::damaged(&recovered.damaged),
        "lost": recovered.lost,
        "unchecked": recovered.unchecked,
        "pins_to_set": recovered.pins_to_set,
    });
    output::show(place.json, &report, || {
        if args.backup.is_some() {
            say!("{restored} objects were put back from the backup.");
        }
        if recovered.moved {
            say!("Vault {} is on this TPM now.", vault.id());
        } else {
            say!("Vault {} is on this TPM already.", vault.id());
        }
        say!(
            "{} objects open, {} of them sealed anew.",
            recovered.objects,
            recovered.sealed
        );
        for bad in &recovered.damaged {
            say!("not recovered: {}: {}", bad.file.display(), bad.reason);
        }
        for object in &recovered.unchecked {
            say!(
                "left as it is: {} ({}) is behind the PIN of token {}",
                object.label,
                object.id,
                object.token
            );
        }
        for token in &recovered.pins_to_set {
            say!(
                "The PINs of token {token} did not come along; set them with \
                 `strongroom token set-pin {token} --recovery FILE`, and --so."
            );
        }
        for key in &recovered.lost {
            say!(
                "lost: private key {} ({}) was made in another TPM and never left it; make a new one",
                key.label,
                key.id
            );
        }
    });
    match recovered.damaged.len() + recovered.lost.len() {
        0 => Ok(()),
        failed => Err(Failure::Partial {
            failed,
            total: failed + recovered.objects,
        }),
    }
}

/// Refuses to move a vault to another TPM while it has keys that would stay behind.
fn check_keys(place: &Place, vault: &Vault) -> Result<(), Failure> {
    // Whatever else it has lost: the keys are in it.
    if vault.is_on(&place.tcti()?)? {
        return Ok(());
    }
    let stay = vault.list()?.objects.into_iter().filter(|object| {
        Residence::of(object) == Some(Residence::Tpm)
            && object.attributes.get(key::LOCAL).map(String::as_str) == Some("true")
    });
    let stay: Vec<_> = stay.map(|object| object.label.to_string()).collect();
    if stay.is_empty() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "the private keys {} were made in the TPM that the vault is on and never left it: a move to \
         another TPM loses them; repeat with --lose-keys if \
         that TPM is gone",
        stay.join(", ")
    )))
}
