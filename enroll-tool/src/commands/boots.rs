//! The list of allowed boots, as the commands that change it report it.

use serde_json::json;
use strongroom::event_log::EventLog;
use strongroom::policy::{Branch, Label};
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
    let which = match label.and_then(Label::prepared) {
        Some(files) => format!("prepared: {files}"),
        None => "enrolled".to_owned(),
    };
    match (branch.suspended, label.and_then(Label::phase)) {
        (Some(suspension), _) => format!(
            "SUSPENDED: whatever leaves PCR {} so, until reset {} of the TPM",
            branch.pcrs.selection(),
            suspension.resets
        ),
        (None, Some(phase)) => format!("{which} (phase {phase})"),
        (None, None) => which,
    }
}

/// What a suspension lets in, in a sentence.
pub(super) fn who_may_boot(branch: &Branch) -> String {
    let pcrs = branch.pcrs.selection();
    let signed = match pcrs.to_string().as_str() {
        "7" => {
            ": any other system, and any rescue medium, that the keys in the firmware have signed"
        }
        _ => "",
    };
    format!(
        "While the policy is suspended, whoever boots anything on this machine that leaves PCR {pcrs} as \
         it is now can open the vault{signed}"
    )
}

/// What the present boot's event log says; `None` where there is none.
pub(super) fn event_log(place: &Place) -> Result<Option<EventLog>, Failure> {
    let recording = place.event_log().read()?;
    Ok(recording.map(|recording| recording.log().clone()))
}
