//! What `load` says: a line for each dataset and a summary, or JSON.

use serde_json::{Value, json};

use super::plan::{CopyState, Item, Plan, State};
use crate::failure::Failure;
use crate::zfs::Keys;
use strongroom_console::{self as console, say};

/// The way that keys took.
pub(super) struct Way {
    /// The TPM, in TCTI notation; `None` where it was not needed.
    pub(super) tpm: Option<String>,
    /// How they came to the kernel; `None` in a dry run.
    loader: Option<&'static str>,
}

impl Way {
    pub(super) fn dry() -> Self {
        Self {
            tpm: None,
            loader: None,
        }
    }

    pub(super) fn through(keys: &Keys) -> Self {
        Self {
            tpm: None,
            loader: Some(keys.name()),
        }
    }

    fn is_dry(&self) -> bool {
        self.loader.is_none()
    }
}

/// `outcome`: what the process ends with; why it failed, people are told after this.
pub(super) fn show(json: bool, plan: &Plan, way: &Way, outcome: &Result<(), Failure>) {
    let count = |wanted: &str| {
        let mut states = plan.items.values().map(|item| state(&item.state, way));
        states.by_ref().filter(|state| *state == wanted).count()
    };
    let (loaded, already, failed, not_sealed) = (
        count("loaded"),
        count("already-loaded"),
        count("failed"),
        count("not-sealed"),
    );
    let would = count("would-be-loaded");
    let value = json!({
        "dry-run": way.is_dry(),
        "tpm": way.tpm,
        "loader": way.loader,
        "datasets": plan.items.iter().map(|(name, item)| entry(name, item, way)).collect::<Vec<_>>(),
        "loaded": loaded,
        "would-be-loaded": would,
        "already-loaded": already,
        "not-sealed": not_sealed,
        "failed": failed,
        "exit": outcome.as_ref().err().map_or(0, Failure::exit_code),
        "error": outcome.as_ref().err().map(ToString::to_string),
        "refusal": outcome.as_ref().err().and_then(Failure::refusal),
    });
    console::show(json, &value, || {
        if !plan.items.is_empty() {
            let rows = plan
                .items
                .iter()
                .map(|(name, item)| [name.clone(), words(item, way)]);
            console::table(["DATASET", "KEY"], rows);
        }
        let mut parts = Vec::new();
        if way.is_dry() {
            parts.push(format!("{would} would be loaded"));
        } else {
            parts.push(format!("{loaded} loaded"));
        }
        for (count, what) in [
            (already, "loaded already"),
            (not_sealed, "not in the vault"),
            (failed, "failed"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        let dry = if way.is_dry() { "Dry run: " } else { "" };
        say!("{dry}{}.", parts.join(", "));
    });
}

fn entry(name: &str, item: &Item, way: &Way) -> Value {
    let mut entry = json!({ "dataset": name, "state": state(&item.state, way) });
    match &item.state {
        State::Loaded { object } => {
            entry["object"] = json!(object.id);
            entry["version"] = json!(object.generation);
        }
        State::Locked => entry["object"] = json!(item.candidates.first().map(|object| object.id)),
        State::Failed { reason, .. } => entry["reason"] = json!(reason),
        State::AlreadyLoaded | State::NotSealed => {}
    }
    match &item.copy_state {
        CopyState::Untouched => {}
        CopyState::UpToDate => entry["recovery-copy"] = json!("up-to-date"),
        CopyState::Written => entry["recovery-copy"] = json!("written"),
        CopyState::Failed(reason) => {
            entry["recovery-copy"] = json!("failed");
            entry["recovery-copy-reason"] = json!(reason);
        }
    }
    entry
}

/// What is still locked in the end was not tried, which a dry run alone leaves so.
fn state(state: &State, way: &Way) -> &'static str {
    match state {
        State::Loaded { .. } => "loaded",
        State::AlreadyLoaded => "already-loaded",
        State::NotSealed => "not-sealed",
        State::Locked if way.is_dry() => "would-be-loaded",
        State::Locked | State::Failed { .. } => "failed",
    }
}

fn words(item: &Item, way: &Way) -> String {
    let words = match &item.state {
        State::Loaded { .. } => "loaded".to_owned(),
        State::AlreadyLoaded => "loaded already".to_owned(),
        State::NotSealed => "not in the vault; left locked".to_owned(),
        State::Failed { reason, .. } => format!("failed: {reason}"),
        State::Locked if way.is_dry() => "would be loaded".to_owned(),
        State::Locked => "left locked".to_owned(),
    };
    match &item.copy_state {
        CopyState::Written => format!("{words}; recovery copy written"),
        CopyState::Failed(_) => format!("{words}; recovery copy not written"),
        CopyState::Untouched | CopyState::UpToDate => words,
    }
}
