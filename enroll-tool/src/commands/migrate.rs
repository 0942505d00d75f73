//! `strongroom migrate`: dataset keys and cloud credentials out of a TrueNAS database.

use serde_json::json;

use super::{Place, backup};
use crate::cli::{Class, Migrate};
use crate::failure::Failure;
use crate::migration::plan::Plan;
use crate::migration::run::{self, Moved};
use crate::output;
use crate::truenas::database::Database;
use crate::truenas::pwenc::PwencSecret;

pub(super) fn run(place: &Place, args: &Migrate) -> Result<(), Failure> {
    let secret = PwencSecret::read(&args.pwenc_secret)?;
    let mut database = Database::open(&args.database)?;
    database.check_secret(&secret)?;
    let vault = place.vault()?;
    let known = vault.list()?.objects;
    let mut plan = Plan::read(&database, &secret, &args.only, &known)?;
    if args.dry_run {
        report(place, args, &plan, None);
        return Ok(());
    }
    let Some(backup_file) = &args.backup else {
        return Err(Failure::Usage("--backup FILE is needed".to_owned()));
    };
    run::check_backup_place(backup_file)?;
    database.check_writable()?;
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
    let mut unlocked = vault.unlock(&place.tcti()?)?;
    let bar = output::progress("sealing", plan.items.len());
    let moved = run::seal(&mut plan, &mut unlocked, &known, || bar.inc(1));
    bar.finish_and_clear();
    let mut moved = moved?;
    let damaged = backup::write(&unlocked, place, backup_file)?;
    run::check_backup(&damaged, &moved)?;
    run::clear(&plan, &mut moved, database, &secret)?;
    report(place, args, &plan, Some(&moved));
    match moved.iter().filter(|item| item.changed).count() {
        0 => Ok(()),
        failed => Err(Failure::Partial {
            failed,
            total: moved.len(),
        }),
    }
}

fn report(place: &Place, args: &Migrate, plan: &Plan, moved: Option<&[Moved]>) {
    let outcome = |item: usize| match moved.map(|moved| &moved[item]) {
        None => "would be moved",
        Some(moved) if moved.changed => "sealed; its row changed meanwhile and was left: run again",
        Some(moved) if moved.before => "moved (sealed by an earlier run)",
        Some(_) => "moved",
    };
    let id = |item: usize| moved.map(|moved| moved[item].id);
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
                outcome(place).to_owned(),
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
        let count = plan.items.len();
        if args.dry_run {
            println!("Dry run: {count} secrets would be moved, and nothing was changed.");
        } else {
            println!("{count} secrets were moved into the vault.");
        }
    });
}

fn class_name(class: Class) -> &'static str {
    match class {
        Class::Datasets => "dataset",
        Class::Credentials => "credential",
    }
}
