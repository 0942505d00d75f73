//! `strongroom status`: how vault, TPM and boot stand, in one look.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use strongroom::error::Error;
use strongroom::policy::Branch;
use strongroom::vault::BootState;

use super::{Place, boots, pair};
use crate::failure::Failure;
use crate::migration::journal::{Journal, State};
use crate::output::{self, say};

#[expect(clippy::too_many_lines, reason = "what is shown, from top to bottom")]
pub(super) fn run(place: &Place) -> Result<(), Failure> {
    let vault = place.vault()?;
    let listing = vault.list()?;
    let mut tokens: BTreeMap<String, usize> = vault
        .tokens()
        .into_iter()
        .filter(|token| !listing.unreadable.contains(token))
        .map(|token| (token.to_string(), 0))
        .collect();
    for object in &listing.objects {
        *tokens.entry(object.token.to_string()).or_default() += 1;
    }
    // It is a note for people: one that cannot be read must not hide how things stand.
    let migration = Journal::read(&vault).unwrap_or_else(|error| {
        log::warn!("{error}");
        None
    });
    let seconds = vault.seconds()?;
    let boot = place.tcti().and_then(|tcti| vault.boot_state(&tcti));
    let (allowed, boot_words) = match &boot {
        Ok(state) => match &state.refusal {
            None => (
                true,
                format!("allowed ({} in the list)", state.branches.count()),
            ),
            Some(refusal) => (false, refusal.to_string()),
        },
        Err(error) => (false, error.to_string()),
    };
    let report = json!({
        "vault": vault.id(),
        "dir": place.dir,
        "boot": {
            "allowed": allowed,
            "detail": boot_words,
            "pcrs": boot.as_ref().ok().map(|state| &state.present),
            "branches": boot.as_ref().ok().map(|state| &state.branches),
            "suspended": boot.as_ref().ok().and_then(suspended),
            "refusal": boot.as_ref().ok().and_then(|state| state.refusal.as_ref()),
        },
        "tokens": tokens,
        "migration": migration,
        "second": boot.as_ref().ok().and_then(|state| state.second).map(|id| id.to_string()),
        "seconds": seconds.iter().map(pair::report).collect::<Vec<_>>(),
        "damaged": output::damaged(&listing.damaged),
        "unreadable": listing.unreadable,
    });
    output::show(place.json, &report, || {
        say!("Vault    {} in {}", vault.id(), place.dir.display());
        say!("Boot     {boot_words}");
        for branch in boot.iter().flat_map(|state| state.branches.iter()) {
            say!("Allowed  {}", boots::words(branch));
        }
        let counts: Vec<_> = tokens
            .iter()
            .map(|(token, count)| format!("{token} {count}"))
            .collect();
        if let Ok(state) = &boot {
            for (branch, left) in suspensions(state) {
                let left = left.map_or("over".to_owned(), |left| format!("{left} restart(s) left"));
                say!(
                    "SUSPENDED  {left}: whatever leaves PCR {} as it was may open the vault; \
                     `strongroom commit`, or `strongroom suspend --end`",
                    branch.pcrs.selection()
                );
            }
        }
        if let Some(journal) = migration.as_ref().filter(|last| last.is_unfinished()) {
            let sealed = (journal.values.iter()).filter(|value| value.state != State::Left);
            say!(
                "MIGRATION  cut short while {}; {} value(s) of {} are sealed: `strongroom migrate \
                 --resume`",
                journal.stage.describe(),
                sealed.count(),
                journal.database.display()
            );
        }
        if let Some(id) = boot.as_ref().ok().and_then(|state| state.second) {
            say!("Machine  second machine {id} of this vault");
        }
        for second in &seconds {
            for line in pair::words(second) {
                say!("{line}");
            }
        }
        if !counts.is_empty() {
            say!("Objects  {}", counts.join(", "));
        }
        for bad in &listing.damaged {
            say!("Damaged  {}: {}", bad.file.display(), bad.reason);
        }
        for token in &listing.unreadable {
            say!("Hidden   token {token}: this user may not read it");
        }
    });
    match boot {
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
