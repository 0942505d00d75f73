//! `strongroom backup`: the whole vault in one file that only the recovery kit opens.

use std::path::Path;

use serde_json::json;
use strongroom::Unlocked;

use super::Place;
use crate::failure::Failure;
use crate::output;

pub(super) fn run(place: &Place, file: &Path) -> Result<(), Failure> {
    let unlocked = place.unlock()?;
    let total = unlocked.vault().list()?.objects.len();
    let damaged = write(&unlocked, place, file)?;
    let report = json!({
        "file": file,
        "objects": total,
        "damaged": damaged.iter().map(|bad| json!({
            "file": bad.file, "reason": bad.reason,
        })).collect::<Vec<_>>(),
    });
    output::show(place.json, &report, || {
        println!("{total} objects copied to {}.", file.display());
        for bad in &damaged {
            println!("not copied: {}: {}", bad.file.display(), bad.reason);
        }
    });
    match damaged.len() {
        0 => Ok(()),
        failed => Err(Failure::Partial { failed, total }),
    }
}

/// Writes the backup, and warns where it lies beside the vault.
pub(super) fn write(
    unlocked: &Unlocked,
    place: &Place,
    file: &Path,
) -> strongroom::Result<Vec<strongroom::Damaged>> {
    let damaged = unlocked.backup(file)?;
    if same_file_system(&place.dir, file) {
        log::warn!(
            "{} lies on the same file system as the vault: a dead disk would take both; \
             copy it off this disk",
            file.display()
        );
    }
    Ok(damaged)
}

fn same_file_system(dir: &Path, file: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    device(dir).is_some() && device(dir) == device(file)
}
