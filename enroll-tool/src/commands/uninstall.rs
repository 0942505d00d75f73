//! `strongroom uninstall`: the keys go back to TrueNAS, that is proven, and only then is anything removed.

use std::path::Path;

use serde_json::json;
use strongroom::error::Error;
use strongroom::object::Metadata;
use strongroom::vault::Listing;
use strongroom::{Result, Vault, WriteLock};

use super::migrate::rollback::{give_back, opened};
use super::migrate::{check_unused, open};
use super::{Place, install};
use crate::cli::{Class, Uninstall};
use crate::failure::Failure;
use crate::installation::{Pieces, System};
use crate::migration::alone::in_vault_alone;
use crate::migration::rollback::{self, Returns};
use crate::output::{self, say};
use crate::truenas::columns::Column;
use crate::truenas::credentials;
use crate::truenas::database::Database;
use crate::truenas::pwenc::PwencSecret;

pub(super) fn run(place: &Place, args: &Uninstall) -> Result<(), Failure> {
    let system = System::below(&args.at.root)?;
    // Those that are there: whoever runs this may be one of them.
    let pieces = Pieces::with_programs(&system.at("root/strongroom"));
    let dry_run = args.at.dry_run;
    // Or what is given back would be moved into the vault again.
    let stopped = (!dry_run && system.is_running()).then(install::NoEnrolment::begin);
    let back = if let Some(vault) = vault(place, args, &system)? {
        keys_back(place, args, &system, &vault)?
    } else {
        let (database, secret) = open(&system.database(), &system.pwenc_secret())?;
        database.leave_as_it_is()?;
        check_no_placeholders(&database, &secret)?;
        if !args.without_vault {
            check_nothing_emptied(&database)?;
        }
        Back::default()
    };
    let there: Vec<_> = (pieces.0.iter())
        .filter(|piece| piece.is_there(&system))
        .collect();
    if !dry_run {
        if system.is_running() {
            install::stop_units();
        }
        // What others refer to goes last.
        for piece in pieces.0.iter().rev() {
            piece.take(&system)?;
        }
        if system.is_running() {
            install::forget_units();
        }
        if let Some(stopped) = stopped {
            stopped.for_good();
        }
    }
    let Back { given, alone, .. } = &back;
    let report = json!({
        "root": system.root(),
        "dry-run": dry_run,
        "given-back": given,
        "in-vault-alone": alone.iter().map(|object| json!({
            "token": object.token,
            "label": object.label,
            "kind": object.kind,
            "id": object.id,
        })).collect::<Vec<_>>(),
        "removed": there.iter().map(|piece| &piece.path).collect::<Vec<_>>(),
        "vault": system.vault(),
    });
    output::show(place.json, &report, || {
        let (back, gone) = if dry_run {
            ("would be given back", "would be removed")
        } else {
            ("were given back", "are removed")
        };
        say!("{given} secrets {back}.");
        for object in alone {
            say!(
                "In the vault alone: {} {} of token {}.",
                object.kind,
                object.label,
                object.token
            );
        }
        say!("{} pieces {gone}.", there.len());
        say!("The vault stays in {}.", system.vault().display());
    });
    Ok(())
}

/// What was given back.
#[derive(Default)]
struct Back {
    given: usize,
    /// What is in the vault, and in no place of the database.
    alone: Vec<Metadata>,
    /// As long as this lives, nothing is moved out of the database again.
    _lock: Option<WriteLock>,
}

/// The vault that the system's secrets are in; `None` where nobody named one, and there is none.
fn vault(place: &Place, args: &Uninstall, system: &System) -> Result<Option<Vault>, Failure> {
    // With --root, the one below it, unless another was named.
    let dir = if system.is_running() || place.is_named {
        place.dir.clone()
    } else {
        system.vault()
    };
    match Vault::open(&dir) {
        Ok(_) if args.without_vault => Err(Failure::Usage(format!(
            "--without-vault: there is one, in {}",
            dir.display()
        ))),
        Ok(vault) => Ok(Some(place.expecting(vault))),
        Err(Error::VaultMissing(_))
            if !place.is_named && is_empty(&dir) && is_empty(&system.vault()) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether nothing is there: neither a vault, nor what is left of one.
fn is_empty(dir: &Path) -> bool {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Sees that there is no value of which a vault that was not found may have the only copy.
fn check_nothing_emptied(database: &Database) -> Result<()> {
    let emptied = rollback::emptied(database)?;
    let Some((class, name)) = emptied.first() else {
        return Ok(());
    };
    Err(Error::input(
        format!("{} {name}", class.singular()),
        format!(
            "the database has no value of it, and of {} more, as after a migration, and there is no \
             vault: name it with --dir, or bring it back (`strongroom recover`); if there never was \
             one, say so with --without-vault. Nothing was removed",
            emptied.len() - 1
        ),
    ))
}

/// Gives back what came out of the database, and reads that again.
fn keys_back(
    place: &Place,
    args: &Uninstall,
    system: &System,
    vault: &Vault,
) -> Result<Back, Failure> {
    if !args.at.dry_run {
        check_unused(&system.database(), args.while_in_use)?;
    }
    let mut opener = opened(place, vault, args.recovery.as_deref(), &args.passphrase)?;
    let (mut database, secret) = open(&system.database(), &system.pwenc_secret())?;
    let lock = vault.lock()?;
    let listing = vault.list()?;
    check_readable(&listing)?;
    let read = |database: &Database, opener: &mut dyn rollback::Opener| {
        Returns::read(database, &secret, &Class::ALL, &listing, opener, || {})
    };
    let returns = read(&database, opener.as_mut())?;
    for kept in &returns.kept {
        log::error!(
            "{} {}: not given back: {}",
            kept.class.singular(),
            kept.name,
            kept.reason
        );
    }
    if !returns.kept.is_empty() {
        return Err(stays(returns.kept.len(), returns.values.len()));
    }
    let alone = in_vault_alone(&listing.objects, &database, &returns)?;
    let alone: Vec<Metadata> = alone.into_iter().cloned().collect();
    if args.at.dry_run {
        database.leave_as_it_is()?;
        return Ok(Back {
            given: returns.values.len(),
            alone,
            _lock: None,
        });
    }
    if !args.yes {
        let question = format!(
            "{} secrets will be written back into {}, and Strongroom removed from this system. Type \
             yes to go on:",
            returns.values.len(),
            system.database().display()
        );
        output::confirm(&question, "yes")?;
    }
    let missed = give_back(vault, &mut database, &Class::ALL, &returns)?;
    drop(database);
    // As the next reader finds it, from the disk.
    let (database, _) = open(&system.database(), &system.pwenc_secret())?;
    let left = read(&database, opener.as_mut())?;
    let still = left.values.len() + left.kept.len();
    if still > 0 || !missed.is_empty() {
        return Err(stays(still.max(missed.len()), returns.values.len()));
    }
    check_no_placeholders(&database, &secret)?;
    Ok(Back {
        given: returns.values.len(),
        alone,
        _lock: Some(lock),
    })
}

/// Sees that it is known of every file what it is: what cannot be read may be all that there is of a secret.
fn check_readable(listing: &Listing) -> Result<(), Failure> {
    for bad in &listing.damaged {
        log::error!(
            "damaged: {}: {}; `strongroom recover --backup FILE` puts it back; if nobody needs it, move \
             it away",
            bad.file.display(),
            bad.reason
        );
    }
    for token in &listing.unreadable {
        log::error!("token {token}: it is not ours to read");
    }
    match listing.damaged.len() + listing.unreadable.len() {
        0 => Ok(()),
        failed => Err(stays(failed, listing.objects.len() + failed)),
    }
}

fn stays(failed: usize, total: usize) -> Failure {
    log::error!("nothing was removed: {failed} secrets are, or may be, in the vault alone");
    Failure::Partial {
        failed,
        total: failed.max(total),
    }
}

/// Sees that no placeholder is left, of this vault or another.
fn check_no_placeholders(database: &Database, secret: &PwencSecret) -> Result<()> {
    for class in Class::ALL {
        for column in Column::of_class(class) {
            if !database.has(column.table, column.name)? {
                continue;
            }
            for value in database.values(column, &[])? {
                let text = value
                    .column
                    .as_deref()
                    .and_then(|text| secret.decrypt(text).ok());
                let found = text.is_some_and(|text| credentials::has_placeholder(text.expose()));
                if found {
                    return Err(Error::input(
                        format!("{} {}", class.singular(), value.name),
                        "the database refers to an object of a vault that is not here: name it with \
                         --dir, or bring it back (`strongroom recover`). Nothing was removed",
                    ));
                }
            }
        }
    }
    Ok(())
}
