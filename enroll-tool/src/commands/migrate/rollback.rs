//! `strongroom migrate rollback`: gives a database back what was moved out of it, with the vault or with
//! the recovery kit alone.

use std::path::Path;

use serde_json::json;
use strongroom::error::Error;
use strongroom::object::Metadata;
use strongroom::vault::ByRecovery;
use strongroom::{Result, Secret, Unlocked, Vault};

use super::super::Place;
use super::{check_unused, open};
use crate::cli::{Class, PassphraseFile, Rollback};
use crate::failure::Failure;
use crate::kits;
use crate::migration::journal::Journal;
use crate::migration::rollback::{Opener, Returns};
use crate::output::{self, say};
use crate::truenas::database::{Change, Database};

pub(super) fn run(place: &Place, args: &Rollback) -> Result<(), Failure> {
    check_unused(&args.database, args.while_in_use)?;
    let (mut database, secret) = open(&args.database, &args.pwenc_secret)?;
    database.check_writable()?;
    let classes = args.only.clone().unwrap_or(Class::ALL.to_vec());
    // Dropped after what was read from it.
    let restored;
    let (vault, mut opener): (Vault, Box<dyn Opener>) = match (&args.recovery, &args.backup) {
        (Some(kit), Some(backup)) => {
            let kit = kits::read(kit, &args.passphrase, None)?;
            restored = Restored::new();
            let (vault, _) = Vault::restore(&restored.0, backup, &kit)?;
            let by_recovery = vault.open_by_recovery(kit)?;
            (vault, Box::new(by_recovery))
        }
        (kit, _) => {
            let vault = place.vault()?;
            let opener = opened(place, &vault, kit.as_deref(), &args.passphrase)?;
            (vault, opener)
        }
    };
    // Whoever moves secrets in is done by then, and nobody else begins. Into a vault that cannot be
    // written nobody does.
    let _lock = match vault.lock() {
        Err(error @ Error::VaultBusy { .. }) => return Err(error.into()),
        lock => lock.ok(),
    };
    let listing = vault.list()?;
    for bad in &listing.damaged {
        log::warn!("damaged: {}: {}", bad.file.display(), bad.reason);
    }
    let bar = output::progress("opening", 0);
    let returns = Returns::read(
        &database,
        &secret,
        &classes,
        &listing,
        opener.as_mut(),
        || bar.inc(1),
    );
    bar.finish_and_clear();
    let returns = returns?;
    if !args.yes {
        output::confirm(
            &format!(
                "{} secrets will be written back into {}, where the pwenc secret opens them. Type \
                 yes to go on:",
                returns.values.len(),
                args.database.display()
            ),
            "yes",
        )?;
    }
    let missed = if args.backup.is_none() {
        give_back(&vault, &mut database, &classes, &returns)?
    } else {
        database.replace(&changes(&returns))?
    };
    report(place, &args.database, &returns, &missed);
    match missed.len() + returns.kept.len() {
        0 => Ok(()),
        failed => Err(Failure::Partial {
            failed,
            total: returns.values.len() + returns.kept.len(),
        }),
    }
}

/// What opens a vault's objects: the recovery kit, or else the TPM.
pub(in crate::commands) fn opened(
    place: &Place,
    vault: &Vault,
    kit: Option<&Path>,
    passphrase: &PassphraseFile,
) -> Result<Box<dyn Opener>, Failure> {
    Ok(match kit {
        Some(kit) => {
            let kit = kits::read(kit, passphrase, Some(vault.id()))?;
            Box::new(vault.open_by_recovery(kit)?)
        }
        None => Box::new(vault.unlock(&place.tcti()?)?),
    })
}

/// Gives values back, after the watch (`strongroom enrol`) was told that they stay: or it would move them
/// again. The places of those that were changed meanwhile.
pub(in crate::commands) fn give_back(
    vault: &Vault,
    database: &mut Database,
    classes: &[Class],
    returns: &Returns,
) -> Result<Vec<usize>> {
    if let Ok(Some(mut journal)) = Journal::read(vault) {
        if journal.stop_watching(classes) {
            journal.write(vault)?;
        }
    }
    database.replace(&changes(returns))
}

fn changes(returns: &Returns) -> Vec<Change> {
    let values = returns.values.iter();
    values.map(|value| value.change.clone()).collect()
}

impl Opener for Unlocked {
    fn open(&mut self, object: &Metadata) -> Result<Secret> {
        self.unseal(object)
    }

    fn instead_for_keys(&self) -> &'static str {
        "repeat with --recovery FILE, for the recovery kit opens the copy that was kept of it"
    }
}

impl Opener for ByRecovery {
    fn open(&mut self, object: &Metadata) -> Result<Secret> {
        self.unseal(object)
    }

    fn instead_for_keys(&self) -> &'static str {
        "no copy was kept of it"
    }
}

/// A folder for the files of a backup, ciphertext only, that goes with this.
struct Restored(std::path::PathBuf);

impl Restored {
    fn new() -> Self {
        let name = format!(
            "strongroom-rollback.{}",
            strongroom::object::ObjectId::random()
        );
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        // Where it cannot be removed, nothing is lost but room.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn report(place: &Place, database: &Path, returns: &Returns, missed: &[usize]) {
    let outcome = |at: usize| {
        if missed.contains(&at) {
            "changed meanwhile and left: run again"
        } else {
            "given back"
        }
    };
    let values: Vec<_> = (returns.values.iter().enumerate())
        .map(|(at, value)| {
            json!({
                "class": value.class,
                "table": value.change.cell.table,
                "row": value.change.cell.row,
                "column": value.change.cell.column,
                "name": value.name,
                "outcome": outcome(at),
            })
        })
        .collect();
    let kept: Vec<_> = (returns.kept.iter())
        .map(|kept| {
            json!({
                "class": kept.class,
                "table": kept.cell.table,
                "row": kept.cell.row,
                "column": kept.cell.column,
                "name": kept.name,
                "reason": kept.reason,
            })
        })
        .collect();
    let value = json!({ "database": database, "values": values, "kept": kept });
    output::show(place.json, &value, || {
        let given = returns.values.iter().enumerate().map(|(at, value)| {
            [
                value.class.singular().to_owned(),
                value.change.cell.row.clone(),
                value.name.clone(),
                outcome(at).to_owned(),
            ]
        });
        let kept = returns.kept.iter().map(|kept| {
            [
                kept.class.singular().to_owned(),
                kept.cell.row.clone(),
                kept.name.clone(),
                format!("not given back: {}", kept.reason),
            ]
        });
        output::table(["CLASS", "ROW", "NAME", "OUTCOME"], given.chain(kept));
        say!(
            "{} secrets are in the database again. The vault still holds them.",
            returns.values.len() - missed.len()
        );
    });
}
