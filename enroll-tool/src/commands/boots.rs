//! The list of allowed boots, as the commands that change it report it.

use std::path::Path;

use serde_json::json;
use strongroom::doctor::System;
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
    match label.and_then(Label::phase) {
        Some(phase) => format!("{which} (phase {phase})"),
        None => which,
    }
}

/// The log that was named, or else the kernel's, of the kernel's TPM; `None` where there is none.
pub(super) fn event_log(place: &Place, named: Option<&Path>) -> Result<Option<EventLog>, Failure> {
    if let Some(file) = named {
        return Ok(Some(EventLog::read(file)?));
    }
    if !place.tcti()?.is_kernels() {
        return Ok(None);
    }
    Ok(System::here().event_log()?)
}
