//! Which PCRs to bind to: those that mean something on this machine.

use super::SecureBoot;
use super::pcrs::{PcrReport, PcrState, kind};
use crate::policy::PcrSelection;

/// A selection, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recommendation {
    /// The PCRs; `None` where none means anything.
    pub pcrs: Option<PcrSelection>,
    /// Why each is there.
    pub because: Vec<(u8, &'static str)>,
    /// Those that one might expect and that are not there, and why.
    pub left_out: Vec<(u8, &'static str)>,
}

pub(super) fn recommend(reports: &[PcrReport], secure_boot: SecureBoot) -> Recommendation {
    let mut recommendation = Recommendation::default();
    for (pcr, why) in candidates(reports, secure_boot) {
        let report = reports.iter().find(|report| report.pcr == pcr);
        match report.map_or(Err(UNUSED), usable) {
            Ok(()) => recommendation.because.push((pcr, why)),
            Err(reason) => recommendation.left_out.push((pcr, reason)),
        }
    }
    recommendation.because.sort_unstable();
    let pcrs: Vec<_> = recommendation
        .because
        .iter()
        .map(|(pcr, _)| pcr.to_string())
        .collect();
    recommendation.pcrs = pcrs.join(",").parse().ok();
    recommendation
}

const UNUSED: &str = "nothing is measured there, so that any unmeasured boot would be allowed";

fn usable(report: &PcrReport) -> Result<(), &'static str> {
    match report.state {
        PcrState::Replays => Ok(()),
        // There may be no log at all: then it is at least extended.
        PcrState::Unlogged if report.replayed.is_none() => Ok(()),
        PcrState::NotCompared if !report.measured.is_empty() => Ok(()),
        PcrState::Unused | PcrState::NotCompared => Err(UNUSED),
        PcrState::Differs | PcrState::Unlogged => Err(
            "the event log does not lead to its value, so that nobody can say what it stands for",
        ),
    }
}

/// 7, 9 and 11 as ever, and those that this machine makes something of.
fn candidates(reports: &[PcrReport], secure_boot: SecureBoot) -> Vec<(u8, &'static str)> {
    let mut candidates = vec![
        (7, "whether Secure Boot is on, and whose code it lets run"),
        (
            9,
            "the kernel and the initrd, as boot loader and kernel measure them",
        ),
        (
            11,
            "the unified kernel image: kernel, initrd and command line",
        ),
    ];
    if secure_boot != SecureBoot::On {
        candidates.push((
            4,
            "Secure Boot is off, so that nothing but this tells which boot loader was started",
        ));
    }
    let has = |pcr: u8, kind: &str| {
        reports
            .iter()
            .any(|report| report.pcr == pcr && report.has(kind))
    };
    if has(8, kind::COMMANDS) || has(8, kind::COMMAND_LINE) {
        candidates.push((
            8,
            "GRUB measures its commands and the kernel's command line here",
        ));
    }
    if has(12, kind::FROM_OUTSIDE) {
        candidates.push((
            12,
            "systemd's stub measures here what overrides the kernel image",
        ));
    }
    if has(14, kind::OWNERS_KEYS) {
        candidates.push((
            14,
            "shim measures here whose keys it accepts beside the firmware's",
        ));
    }
    candidates
}
