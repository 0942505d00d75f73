//! Recovery copies after a batch: each dataset carries one of the key that turned out to be its
//! own. What goes wrong here is said, and is no reason to fail.

use std::collections::BTreeMap;

use strongroom::{Result, Unlocked};

use super::plan::{CopyState, Plan};
use crate::copy;
use crate::sealed::SealedKeys;
use crate::zfs::properties::{self, RECOVERY};
use strongroom_console as console;

/// `sealed`: the sealed keys that the plan was made by.
pub(super) fn bring_up_to_date(plan: &mut Plan, sealed: &SealedKeys, unlocked: &Unlocked) {
    if plan.items.values().all(|item| item.copied.is_none()) {
        return;
    }
    // Nobody changes a key meanwhile; and a dataset whose keys were changed since they were looked
    // up has got its copy from who did that.
    let vault = unlocked.vault();
    let now = || -> Result<_> {
        let Some(lock) = vault.lock_writers_out()? else {
            return Ok(None);
        };
        let changed = if sealed.are_current(vault)? {
            None
        } else {
            Some(SealedKeys::list(vault)?)
        };
        Ok(Some((lock, changed)))
    };
    let (_lock, changed) = match now() {
        Ok(Some(now)) => now,
        Ok(None) => {
            log::info!("the vault is being changed: recovery copies are left as they are");
            return;
        }
        Err(error) => {
            log::warn!("recovery copies were not brought up to date: {error}");
            return;
        }
    };
    let sealed = changed.as_ref().unwrap_or(sealed);
    let mut to_write = BTreeMap::new();
    for (name, item) in &mut plan.items {
        let Some(object) = &item.copied else {
            continue;
        };
        if sealed.named(object.metadata().label.as_str()).first() != item.newest.as_ref() {
            continue;
        }
        match copy::text_of(unlocked, object) {
            Ok(text) if item.copy.as_deref() == Some(text.as_str()) => {
                item.copy_state = CopyState::UpToDate;
            }
            Ok(text) => {
                to_write.insert(name.clone(), text);
            }
            Err(failure) => item.copy_state = CopyState::Failed(failure.to_string()),
        }
    }
    for (name, state) in write(&to_write) {
        if let Some(item) = plan.items.get_mut(name) {
            item.copy_state = state;
        }
    }
    for (name, item) in &plan.items {
        if let CopyState::Failed(reason) = &item.copy_state {
            log::warn!("{name}: its recovery copy was not written: {reason}");
        }
    }
}

/// Writes each copy, and reads all of them back at once.
fn write(copies: &BTreeMap<String, String>) -> Vec<(&str, CopyState)> {
    let bar = console::progress("copies", copies.len());
    let mut states: Vec<(&str, CopyState)> = copies
        .iter()
        .map(|(name, text)| {
            let state = match properties::set(name, RECOVERY, text) {
                Ok(()) => CopyState::Written,
                Err(error) => CopyState::Failed(error.to_string()),
            };
            bar.inc(1);
            (name.as_str(), state)
        })
        .collect();
    bar.finish_and_clear();
    let names: Vec<&str> = copies.keys().map(String::as_str).collect();
    let there = properties::recovery_copies(&names);
    for (name, state) in &mut states {
        if *state == CopyState::Written {
            match &there {
                Ok(there) if there.get(*name) == copies.get(*name) => {}
                Ok(_) => {
                    *state = CopyState::Failed("it is not what it was set to".to_owned());
                }
                Err(error) => *state = CopyState::Failed(error.to_string()),
            }
        }
    }
    states
}
