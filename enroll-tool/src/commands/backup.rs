//! `strongroom backup`: the whole vault in one file that only the recovery kit opens.

use std::path::Path;

use serde_json::json;
use strongroom::Vault;

use super::Place;
use crate::disk;
use crate::failure::Failure;
use crate::output::{self, say};

pub(super) fn run(place: &Place, file: &Path) -> Result<(), Failure> {
    let file = &Vault::backup_place(file)?;
    let written = place.unlock_to_write()?.backup(file)?;
    warn_of_same_disk(place, file);
    let report = json!({
        "file": file,
        "objects": written.objects.len(),
        "kept": written.kept,
        "damaged": output::damaged(&written.damaged),
    });
    output::show(place.json, &report, || {
        say!(
            "{} objects are in {}.",
            written.objects.len(),
            file.display()
        );
        if written.kept > 0 {
            say!(
                "{} of them were kept from the backup before, for the vault has lost them.",
                written.kept
            );
        }
        for bad in &written.damaged {
            say!("damaged: {}: {}", bad.file.display(), bad.reason);
        }
    });
    match written.damaged.len() {
        0 => Ok(()),
        failed => Err(Failure::Partial {
            failed,
            total: failed + written.objects.len() - written.kept,
        }),
    }
}

/// Warns where a backup would lie beside the vault.
pub(super) fn warn_of_same_disk(place: &Place, file: &Path) {
    if disk::same_file_system(&place.dir, file) {
        log::warn!(
            "{} is on the same file system as the vault: a dead disk would take both; copy it off \
             this disk",
            file.display()
        );
    }
}
