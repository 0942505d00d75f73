//! `strongroom list`: what is in the vault. Needs no TPM and no allowed boot.

use serde_json::json;

use super::{Place, pair};
use crate::failure::Failure;
use crate::output::{self, say};

pub(super) fn run(place: &Place) -> Result<(), Failure> {
    let vault = place.vault()?;
    let listing = vault.list()?;
    let seconds = vault.seconds()?;
    let report = json!({
        "objects": listing.objects,
        "damaged": output::damaged(&listing.damaged),
        "unreadable": listing.unreadable,
        "seconds": seconds.iter().map(pair::report).collect::<Vec<_>>(),
    });
    output::show(place.json, &report, || {
        output::table(
            ["TOKEN", "KIND", "LABEL", "ID"],
            listing.objects.iter().map(|object| {
                [
                    object.token.to_string(),
                    object.kind.to_string(),
                    object.label.to_string(),
                    object.id.to_string(),
                ]
            }),
        );
        for line in seconds.iter().flat_map(pair::words) {
            say!("{line}");
        }
        for bad in &listing.damaged {
            say!("damaged: {}: {}", bad.file.display(), bad.reason);
        }
        for token in &listing.unreadable {
            say!("not readable by this user: token {token}");
        }
    });
    match listing.damaged.len() {
        0 => Ok(()),
        failed => Err(Failure::Partial {
            failed,
            total: failed + listing.objects.len(),
        }),
    }
}
