//! `strongroom pair`: a second machine that opens the vault. One file for each action.

mod add;
mod export;
mod list;
mod remove;
mod settle;

use serde_json::{Value, json};
use strongroom::object::Metadata;
use strongroom::vault::{Aligned, LeftOut, Peer};

use super::Place;
use crate::cli::PairAction;
use crate::failure::Failure;
use crate::output::{self, say};

pub(super) fn run(place: &Place, action: &PairAction) -> Result<(), Failure> {
    match action {
        PairAction::Export(args) => export::run(place, args),
        PairAction::Add(args) => add::run(place, args),
        PairAction::Settle => settle::run(place),
        PairAction::List => list::run(place),
        PairAction::Remove(args) => remove::run(place, args),
    }
}

/// How a second machine stands, as JSON.
pub(super) fn report(peer: &Peer) -> Value {
    json!({
        "id": peer.id.to_string(),
        "root-key": hex::encode(&peer.root_key),
        "index": peer.index,
        "objects": peer.objects,
        "settled-here": peer.sealed,
        "missing": peer.missing,
        "left-out": left_out(&peer.left_out),
        "later-tokens": peer.later_tokens,
    })
}

/// The same, for people.
pub(super) fn words(peer: &Peer) -> Vec<String> {
    let mut lines = vec![format!(
        "Second   {}: opens {} object(s), {} of them settled in this copy of the vault",
        peer.id, peer.objects, peer.sealed
    )];
    if !peer.missing.is_empty() {
        lines.push(format!(
            "         {} more it ought to open: run `strongroom pair add` again",
            peer.missing.len()
        ));
    }
    for token in &peer.later_tokens {
        lines.push(format!(
            "         token {token} was made after it was paired; pair it again (`strongroom pair export`)"
        ));
    }
    lines.extend(
        peer.left_out
            .iter()
            .map(|left| format!("         {}", why(left))),
    );
    lines
}

/// What giving the objects to the second machines came to.
fn aligned(aligned: &Aligned) -> Value {
    json!({
        "objects": aligned.objects,
        "changed": aligned.changed,
        "left-out": left_out(&aligned.left_out),
        "damaged": output::damaged(&aligned.damaged),
    })
}

/// The part of it that people must know.
fn say_open_points(aligned: &Aligned) {
    for left in &aligned.left_out {
        say!("{}", why(left));
    }
    for bad in &aligned.damaged {
        say!("damaged: {}: {}", bad.file.display(), bad.reason);
    }
}

/// What failed, as an exit code.
fn outcome(aligned: &Aligned) -> Result<(), Failure> {
    match aligned.damaged.len() {
        0 => Ok(()),
        failed => Err(Failure::Partial {
            failed,
            total: failed + aligned.objects + aligned.left_out.len(),
        }),
    }
}

fn left_out(left: &[LeftOut]) -> Vec<Value> {
    left.iter()
        .map(|left| json!({ "object": left.object, "reason": left.reason.to_string() }))
        .collect()
}

fn why(left: &LeftOut) -> String {
    let Metadata { label, id, .. } = &left.object;
    format!("left out: {label} ({id}), {}", left.reason)
}
