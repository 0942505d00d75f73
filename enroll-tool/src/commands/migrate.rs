//! `strongroom migrate`: dataset keys and cloud credentials out of a TrueNAS database.

use std::path::Path;

use serde_json::json;
use strongroom::Vault;
use strongroom::error::Error;

use super::{Place, backup};
use crate::cli::{Class, Migrate};
use crate::disk;
use crate::failure::Failure;
use crate::migration::plan::Plan;
use crate::migration::run::{self, Outcome};
use crate::output::{self, say};
use crate::truenas::database::Database;
use crate::truenas::pwenc::PwencSecret;

pub(super) fn run(place: &Place, args: &Migrate) -> Result<(), Failure> {
    let secret = PwencSecret::read(&args.pwenc_secret)?;
    let mut database = Database::open(&args.database)?;
    database.check_secret(&secret)?;
    if args.dry_run {
        database.leave_as_it_is()?;
        let known = place.vault()?.list()?.objects;
        let plan = Plan::read(&database, &secret, &args.only, &known)?;
        report(place, args, &plan, None);
        return Ok(());
    }
    let Some(backup_file) = &args.backup else {
        return Err(Failure::Usage("--backup FILE is needed".to_owned()));
    };
    let backup_file = &Vault::backup_place(backup_file)?;
    check_backup_place(place, args, backup_file)?;
    database.check_writable()?;
    let lock = place.vault()?.lock()?;
    // As it is now that nobody else writes.
    let vault = place.vault()?;
    let known = vault.list()?.objects;
    let mut plan = Plan::read(&database, &secret, &args.only, &known)?;
    if !args.yes {
        output::confirm(
            &format!(
                "{} secrets will be sealed to the TPM and then cleared from {}. Type yes to go on:",
                plan.items.len(),
                args.database.display()
            ),
            "yes",
        )?;
    }
    let mut unlocked = vault.unlock(&place.tcti()?)?.holding(lock);
    unlocked.check_backup_file(backup_file)?;
    let bar = output::progress("sealing", plan.items.len());
    let outcomes = run::seal(&mut plan, &mut unlocked, &known, || bar.inc(1));
    bar.finish_and_clear();
    let mut outcomes = outcomes?;
    run::check_backup(&unlocked.backup(backup_file)?, &outcomes)?;
    run::clear(&plan, &mut outcomes, database, &secret)?;
    report(place, args, &plan, Some(&outcomes));
    let left = outcomes
        .iter()
        .filter(|outcome| !matches!(outcome, Outcome::Moved { .. }))
        .count();
    let unknown = plan.left.iter().filter(|left| left.unknown_object).count();
    match left + unknown {
        0 => Ok(()),
        failed => Err(Failure::Partial {
            failed,
            total: outcomes.len() + plan.left.len(),
        }),
    }
}

/// Whether the backup can be written where it is meant to be, and is off the boot pool there.
fn check_backup_place(place: &Place, args: &Migrate, file: &Path) -> Result<(), Failure> {
    let refuse = |reason: String| {
        let what = format!("--backup {}", file.display());
        Failure::from(Error::input(what, reason))
    };
    match disk::same_pool(&place.dir, file) {
        Some(pool) if !args.backup_on_same_pool => Err(refuse(format!(
            "it is on the pool {pool}, as the vault is, and a dead pool would take both; name a \
             file on another pool, or insist with --backup-on-same-pool"
        ))),
        _ => {
            backup::warn_of_same_disk(place, file);
            Ok(())
        }
    }
}

fn report(place: &Place, args: &Migrate, plan: &Plan, outcomes: Option<&[Outcome]>) {
    let outcome = |item: usize| match outcomes.map(|outcomes| &outcomes[item]) {
        None => "would be moved".to_owned(),
        Some(Outcome::Moved { before: true, .. }) => "moved (sealed by an earlier run)".to_owned(),
        Some(Outcome::Moved { .. }) => "moved".to_owned(),
        Some(Outcome::Changed { .. }) => {
            "sealed; its row changed meanwhile and was left: run again".to_owned()
        }
        Some(Outcome::Failed { reason }) => format!("left as it is: {reason}"),
    };
    let id = |item: usize| outcomes.and_then(|outcomes| outcomes[item].id());
    let items: Vec<_> = plan
        .items
        .iter()
        .enumerate()
        .map(|(place, item)| {
            json!({
                "class": item.class,
                "row": item.row,
                "name": item.name,
                "id": id(place),
                "outcome": outcome(place),
            })
        })
        .collect();
    let value = json!({
        "dry-run": args.dry_run,
        "database": args.database,
        "backup": args.backup,
        "items": items,
        "left": plan.left,
    });
    output::show(place.json, &value, || {
        let moved_rows = plan.items.iter().enumerate().map(|(place, item)| {
            [
                class_name(item.class).to_owned(),
                item.row.to_string(),
                item.name.clone(),
                outcome(place),
            ]
        });
        let left_rows = plan.left.iter().map(|left| {
            [
                class_name(left.class).to_owned(),
                left.row.to_string(),
                left.name.clone(),
                format!("left as it is: {}", left.reason),
            ]
        });
        output::table(
            ["CLASS", "ROW", "NAME", "OUTCOME"],
            moved_rows.chain(left_rows),
        );
        if args.dry_run {
            let count = plan.items.len();
            say!("Dry run: {count} secrets would be moved, and nothing was changed.");
        } else {
            let moved = outcomes.into_iter().flatten();
            let count = moved
                .filter(|outcome| matches!(outcome, Outcome::Moved { .. }))
                .count();
            say!("{count} secrets were moved into the vault.");
        }
    });
}

fn class_name(class: Class) -> &'static str {
    match class {
        Class::Datasets => "dataset",
        Class::Credentials => "credential",
        Class::Keychain => "SSH key",
        Class::Certificates => "certificate",
        Class::Replication => "replication",
        Class::Tasks => "task",
    }
}
