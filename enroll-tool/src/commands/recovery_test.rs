//! `strongroom recovery-test`: that the recovery kit opens everything, in the vault and in a backup.
//! Needs no TPM, and changes nothing but the note of when that was, for `status`.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use strongroom::Vault;
use strongroom::error::Error;
use strongroom::object::{Metadata, ObjectId};
use strongroom::recovery::RecoveryKit;
use strongroom::vault::RecoveryTest;

use super::Place;
use crate::cli;
use crate::failure::Failure;
use crate::kits;
use crate::notes::{self, Note, RecoveryTested};
use crate::output::{self, say};

pub(super) fn run(place: &Place, args: &cli::RecoveryTest) -> Result<(), Failure> {
    let vault = match (place.vault(), &args.backup) {
        (Ok(vault), _) => Some(vault),
        // A backup is worth testing on another machine too.
        (Err(error @ Error::VaultMissing(_)), Some(_)) => {
            log::warn!("{error}; the backup alone is tested");
            None
        }
        (Err(error), _) => return Err(error.into()),
    };
    let here = vault.as_ref().map(Vault::id);
    let kit = kits::read(&args.recovery, &args.passphrase, here)?;
    let backup = match &args.backup {
        Some(file) => Some((file, test_backup(file, &kit)?)),
        None => None,
    };
    let tested = match &vault {
        Some(vault) => Some(test_vault(vault, kit)?),
        None => None,
    };
    let missing: Vec<&Metadata> = match (&tested, &backup) {
        (Some(tested), Some((_, backup))) => not_in(backup, tested),
        _ => Vec::new(),
    };
    let report = json!({
        "vault": tested.as_ref().map(as_json),
        "backup": backup.as_ref().map(|(_, tested)| as_json(tested)),
        "not-in-backup": missing,
    });
    output::show(place.json, &report, || {
        if let (Some(vault), Some(tested)) = (&vault, &tested) {
            say_what(&format!("vault {}", vault.id()), tested);
        }
        if let Some((file, tested)) = &backup {
            say_what(&format!("backup {}", file.display()), tested);
        }
        for object in &missing {
            say!(
                "not in the backup: {} ({}); make a new one",
                object.label,
                object.id
            );
        }
    });
    let all = tested.iter().chain(backup.iter().map(|(_, tested)| tested));
    let (failed, total) = all.fold((0, 0), |(failed, total), tested| {
        (failed + tested.damaged.len(), total + count(tested))
    });
    if let Some(tested) = &tested {
        let note = RecoveryTested {
            at: notes::now(),
            opened: tested.opened.len(),
            failed,
            backup: backup.is_some(),
        };
        // The test is what counts, and a vault is tested where it cannot be written, too.
        if let Err(error) = note.write(&place.dir) {
            log::info!("the day is not noted: {error}");
        }
    }
    match failed {
        0 => Ok(()),
        failed => Err(Failure::NotOpen { failed, total }),
    }
}

fn test_vault(vault: &Vault, kit: RecoveryKit) -> Result<RecoveryTest, Error> {
    let vault = vault.open_by_recovery(kit)?;
    with_progress(|progress| vault.test(progress))
}

fn test_backup(file: &Path, kit: &RecoveryKit) -> Result<RecoveryTest, Error> {
    with_progress(|progress| Vault::test_backup(file, kit, progress))
}

fn with_progress(
    test: impl FnOnce(&mut dyn FnMut(usize, usize)) -> Result<RecoveryTest, Error>,
) -> Result<RecoveryTest, Error> {
    let bar = output::progress("opening", 0);
    let tested = test(&mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    tested
}

/// What a backup lacks of what the vault has: it was made before.
fn not_in<'a>(backup: &RecoveryTest, vault: &'a RecoveryTest) -> Vec<&'a Metadata> {
    let there: BTreeSet<ObjectId> = whole(backup).map(|object| object.id).collect();
    whole(vault)
        .filter(|object| !there.contains(&object.id))
        .collect()
}

fn whole(tested: &RecoveryTest) -> impl Iterator<Item = &Metadata> {
    tested
        .opened
        .iter()
        .chain(&tested.public)
        .chain(&tested.in_tpm_alone)
}

fn count(tested: &RecoveryTest) -> usize {
    whole(tested).count() + tested.damaged.len()
}

fn as_json(tested: &RecoveryTest) -> Value {
    json!({
        "objects": count(tested),
        "opened": tested.opened.len(),
        "public": tested.public.len(),
        "in-tpm-alone": tested.in_tpm_alone,
        "damaged": output::damaged(&tested.damaged),
    })
}

fn say_what(what: &str, tested: &RecoveryTest) {
    for bad in &tested.damaged {
        say!("does not open: {}: {}", bad.file.display(), bad.reason);
    }
    for key in &tested.in_tpm_alone {
        say!(
            "in this TPM alone: private key {} ({}); no kit and no backup brings it back",
            key.label,
            key.id
        );
    }
    say!(
        "Of the {} objects of {what} the kit opens {}; {} hold no secret, {} are in this TPM alone, \
         {} do not open.",
        count(tested),
        tested.opened.len(),
        tested.public.len(),
        tested.in_tpm_alone.len(),
        tested.damaged.len()
    );
}
