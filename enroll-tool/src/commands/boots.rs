//! The list of allowed boots, as the commands that change it report it.

use serde_json::json;
use strongroom::event_log::EventLog;
use strongroom::policy::Branch;
use strongroom::vault::Rebound;

use super::Place;
use crate::failure::Failure;
use crate::output::{self, say};

/// What a command made of the list, or would make of it.
pub(super) fn report(place: &Place, rebound: &Rebound, dry_run: bool) {
    let report = json!({
        "dry-run": dry_run,
        "written": rebound.written,
        "branches": rebound.branches,
    });
    output::show(place.json, &report, || {
        let how = match (dry_run, rebound.written) {
            (true, _) => "as it would be; nothing was written",
            (false, true) => "written to the TPM",
            (false, false) => "in force already, nothing was written",
        };
        say!("{} allowed boot(s), {how}:", rebound.branches.count());
        for branch in rebound.branches.iter() {
            say!("  {}", words(branch));
        }
    });
}

/// What a boot is called.
pub(super) fn words(branch: &Branch) -> String {
    let label = branch.label.as_ref();
    let which = match label.and_then(|label| label.prepared()) {
        Some(files) => format!("prepared: {files}"),
        None => "enrolled".to_owned(),
    };
    match label.and_then(|label| label.phase()) {
        Some(phase) => format!("{which} (phase {phase})"),
        None => which,
    }
}

/// What the present boot's event log says; `None` where there is none.
pub(super) fn event_log(place: &Place) -> Result<Option<EventLog>, Failure> {
    let recording = place.event_log().read()?;
    Ok(recording.map(|recording| recording.log().clone()))
}
