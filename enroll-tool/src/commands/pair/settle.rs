//! `strongroom pair settle`: what was sent to this machine, sealed again under its own boot.

use serde_json::json;

use super::Place;
use crate::failure::Failure;
use crate::output::{self, say};

pub(super) fn run(place: &Place) -> Result<(), Failure> {
    let mut vault = place.unlock_to_write()?;
    let bar = output::progress("sealing", 0);
    let settled = vault.settle(|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let settled = settled?;
    let report = json!({
        "vault-key": settled.vault_key,
        "sealed": settled.sealed,
        "fenced": settled.fenced,
        "damaged": output::damaged(&settled.damaged),
    });
    output::show(place.json, &report, || {
        if settled.vault_key {
            say!("The vault key is sealed under this machine's boot.");
        }
        say!(
            "{} object(s) were sealed under this machine's boot.",
            settled.sealed
        );
        for object in &settled.fenced {
            say!(
                "later: {} ({}) is behind a fence that is closed in this boot",
                object.label,
                object.id
            );
        }
        for bad in &settled.damaged {
            say!("damaged: {}: {}", bad.file.display(), bad.reason);
        }
    });
    match settled.damaged.len() {
        0 => Ok(()),
        failed => Err(Failure::Partial {
            failed,
            total: failed + settled.sealed + settled.fenced.len(),
        }),
    }
}
