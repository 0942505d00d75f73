//! `strongroom status`: how vault, TPM, boot and TrueNAS stand, in one look: for people, for programs, as
//! a web page, and as metrics.

mod html;
mod prometheus;
mod standing;

use serde_json::{Value, json};
use strongroom::error::Error;
use strongroom::policy::Branch;
use strongroom::vault::BootState;

use self::standing::{Plaintext, Standing, boot_words};
use super::{Place, boots, pair};
use crate::cli::Status;
use crate::durable;
use crate::failure::Failure;
use crate::migration::journal::State;
use crate::notes;
use crate::output::{self, say};

pub(super) fn run(place: &Place, args: &Status) -> Result<(), Failure> {
    let standing = Standing::gather(place, args)?;
    if let Some(file) = &args.html {
        durable::write(file, html::page(&standing).as_bytes(), 0o644)?;
    }
    if args.prometheus {
        for line in prometheus::metrics(&standing).lines() {
            say!("{line}");
        }
    } else {
        output::show(place.json, &report(&standing), || text(&standing));
    }
    exit(standing)
}

fn exit(standing: Standing) -> Result<(), Failure> {
    let listing = standing.listing;
    match standing.boot {
        Err(error) => Err(Failure::Reported(error)),
        Ok(state) => match state.refusal {
            Some(refusal) => Err(Failure::Reported(Error::PolicyRefused(refusal))),
            None if listing.damaged.is_empty() => Ok(()),
            None => Err(Failure::Partial {
                failed: listing.damaged.len(),
                total: listing.objects.len() + listing.damaged.len(),
            }),
        },
    }
}

/// Whether the present boot is allowed, and how or why not.
fn boot(standing: &Standing) -> (bool, String) {
    match &standing.boot {
        Ok(state) => match &state.refusal {
            None => (
                true,
                format!("allowed ({} in the list)", state.branches.count()),
            ),
            Some(refusal) => (false, refusal.to_string()),
        },
        Err(error) => (false, error.to_string()),
    }
}

fn report(standing: &Standing) -> Value {
    let (allowed, detail) = boot(standing);
    let state = standing.boot.as_ref().ok();
    let counts: std::collections::BTreeMap<_, _> = (standing.objects.iter())
        .map(|(token, kinds)| (token, Standing::count(kinds)))
        .collect();
    json!({
        "standing": standing.grade().name(),
        "concerns": standing.concerns(),
        "vault": standing.vault,
        "dir": standing.dir,
        "tpm": standing.tpm.as_ref().map(|tpm| json!({
            "manufacturer": tpm.manufacturer,
            "vendor": tpm.vendor,
            "firmware": tpm.firmware,
            "in-lockout": tpm.in_lockout,
        })),
        "boot": {
            "allowed": allowed,
            "detail": detail,
            "pcrs": state.map(|state| &state.present),
            "branches": state.map(|state| &state.branches),
            "suspended": state.and_then(suspended),
            "refusal": state.and_then(|state| state.refusal.as_ref()),
        },
        "tokens": counts,
        "objects": standing.objects,
        "plaintext": match &standing.plaintext {
            None => Value::Null,
            Some(Ok(plaintext)) => json!(plaintext),
            Some(Err(reason)) => json!({ "unknown": reason }),
        },
        "last-boot": standing.last_boot.as_ref().map(|last| json!({
            "at": last.at,
            "present": last.is_present(),
            "handed-over": last.handed_over,
            "failed": last.failed,
            "reason": last.reason,
            "alert": last.alert,
        })),
        "recovery-test": standing.recovery_test,
        "migration": standing.migration,
        "second": state.and_then(|state| state.second).map(|id| id.to_string()),
        "seconds": standing.seconds.iter().map(pair::report).collect::<Vec<_>>(),
        "damaged": output::damaged(&standing.listing.damaged),
        "unreadable": standing.listing.unreadable,
    })
}

fn text(standing: &Standing) {
    let (_, boot) = boot(standing);
    say!("Standing {}", standing.grade().name());
    say!("Vault    {} in {}", standing.vault, standing.dir.display());
    if let Some(tpm) = &standing.tpm {
        let lockout = if tpm.in_lockout { ", in lockout" } else { "" };
        say!(
            "TPM      {} {}, firmware {}{lockout}",
            tpm.manufacturer,
            tpm.vendor,
            tpm.firmware
        );
    }
    say!("Boot     {boot}");
    for branch in standing.boot.iter().flat_map(|state| state.branches.iter()) {
        say!("Allowed  {}", boots::words(branch));
    }
    for (branch, left) in standing.boot.iter().flat_map(suspensions) {
        let left = left.map_or("over".to_owned(), |left| format!("{left} restart(s) left"));
        say!(
            "SUSPENDED  {left}: whatever leaves PCR {} as it was may open the vault; \
             `strongroom commit`, or `strongroom suspend --end`",
            branch.pcrs.selection()
        );
    }
    if let Some(last) = &standing.last_boot {
        let which = match last.is_present() {
            Some(false) => "the boot before, ",
            _ => "",
        };
        say!(
            "At boot  {which}{}: {}",
            notes::date(last.at),
            boot_words(last)
        );
    }
    if let Some(journal) = (standing.migration.as_ref()).filter(|last| last.is_unfinished()) {
        let sealed = (journal.values.iter()).filter(|value| value.state != State::Left);
        say!(
            "MIGRATION  cut short while {}; {} value(s) of {} are sealed: `strongroom migrate \
             --resume`",
            journal.stage.describe(),
            sealed.count(),
            journal.database.display()
        );
    }
    if let Some(id) = standing.boot.as_ref().ok().and_then(|state| state.second) {
        say!("Machine  second machine {id} of this vault");
    }
    for second in &standing.seconds {
        for line in pair::words(second) {
            say!("{line}");
        }
    }
    objects(standing);
    match &standing.plaintext {
        None => {}
        Some(Ok(plaintext)) => say!("Database {}", plaintext_words(plaintext)),
        Some(Err(reason)) => say!("Database not known: {reason}"),
    }
    match &standing.recovery_test {
        None if !standing.listing.unreadable.is_empty() => {}
        None => say!("Kit      never tried here: `strongroom recovery-test --recovery FILE`"),
        Some(tested) => say!(
            "Kit      tried {} ({}): it opened {} objects, and not {}",
            notes::date(tested.at),
            notes::ago(tested.at),
            tested.opened,
            tested.failed
        ),
    }
}

fn objects(standing: &Standing) {
    let counts: Vec<_> = (standing.objects.iter())
        .map(|(token, kinds)| format!("{token} {}", Standing::count(kinds)))
        .collect();
    if !counts.is_empty() {
        say!("Objects  {}", counts.join(", "));
    }
    for bad in &standing.listing.damaged {
        say!("Damaged  {}: {}", bad.file.display(), bad.reason);
    }
    for token in &standing.listing.unreadable {
        say!("Hidden   token {token}: this user may not read it");
    }
}

/// What is where, class by class.
fn plaintext_words(plaintext: &Plaintext) -> String {
    let moved: usize = plaintext.classes.iter().map(|class| class.in_vault).sum();
    let left: Vec<_> = (plaintext.classes.iter())
        .filter(|class| class.in_plaintext > 0)
        .map(|class| {
            let meant = if class.watched { "" } else { " (not migrated)" };
            format!("{} {}{meant}", class.in_plaintext, class.class.as_str())
        })
        .collect();
    let left = if left.is_empty() {
        "nothing of it in plaintext".to_owned()
    } else {
        format!("in plaintext: {}", left.join(", "))
    };
    format!(
        "{moved} values in the vault, {left}; {} stay, for TrueNAS reads them itself",
        plaintext.stays
    )
}

/// Each suspension, and how many restarts are left of it; `None` where it is over.
fn suspensions(state: &BootState) -> impl Iterator<Item = (&Branch, Option<u32>)> {
    let resets = state.resets.unwrap_or_default();
    let left = move |branch: &Branch| branch.suspended?.boots_left(resets);
    state
        .branches
        .suspensions()
        .map(move |branch| (branch, left(branch)))
}

fn suspended(state: &BootState) -> Option<Value> {
    let (branch, left) = suspensions(state).next()?;
    Some(json!({ "pcrs": branch.pcrs.selection(), "boots-left": left }))
}
