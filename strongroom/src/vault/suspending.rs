//! Suspending the policy for a number of restarts, and what becomes of that after a good boot.

use crate::error::{Error, Result};
use crate::event_log::EventLog;
use crate::policy::{Branch, Branches, PHASES_PCR, PcrSelection, PcrValues, Phase, Suspension};
use crate::prediction::{Forecast, Image, NextBoot};
use crate::tpm::Tpm;

/// What a suspension looks at where nobody says: who may sign what boots. Firmware that was updated
/// leaves it, and so does another kernel.
const SECURE_BOOT: u8 = 7;

/// The list with a suspension, in the place of any that there was.
///
/// # Errors
/// [`Error::Input`] for PCRs that the list is not over, or all that it is over; for a PCR at its reset
/// value, which any boot leaves so; and for a number of restarts that is none.
pub(super) fn suspended(
    tpm: &mut Tpm,
    old: &Branches,
    boots: u32,
    pcrs: Option<&PcrSelection>,
) -> Result<Branches> {
    let all = old.all_pcrs();
    let refuse = |what: String, reason: &str| Err(Error::input(what, reason));
    let fewer = match pcrs {
        Some(pcrs) => pcrs.clone(),
        None => all.filter(|pcr| pcr == SECURE_BOOT).map_err(|_| {
            Error::input(
                "the PCRs that stay",
                format!(
                    "the vault is bound to {all}, and not to 7; name with --pcrs those of them that \
                     will be at the next boot as they are now"
                ),
            )
        })?,
    };
    if let Some(other) = fewer.iter().find(|pcr| !all.iter().any(|one| one == *pcr)) {
        return refuse(
            format!("PCR {other}"),
            "the vault is not bound to it, so that a suspension would ask for more than before",
        );
    }
    if fewer == all {
        return refuse(
            format!("PCRs {fewer}"),
            "the vault is bound to no others, so that nothing would be suspended",
        );
    }
    let branch = Branch {
        suspended: Some(Suspension::of(boots, tpm.resets()?)?),
        ..Branch::of(tpm.pcr_values(&fewer)?.check_extended()?)
    };
    resumed(old)?.with([branch])
}

/// The list without a suspension.
pub(super) fn resumed(old: &Branches) -> Result<Branches> {
    old.only_those(|branch| branch.suspended.is_none())
        .ok_or_else(|| {
            Error::input(
                "the list of allowed boots",
                "nothing in it is for good; `strongroom rebind` makes the present boot so",
            )
        })
}

/// What a good boot makes of the list, where it has a suspension: the present boot alone, where nothing
/// but the suspension has let it in. `None` where the list is to be cleared as any other.
pub(super) fn let_in(
    old: &Branches,
    log: Option<&EventLog>,
    present: &PcrValues,
    resets: u32,
) -> Result<Option<Branches>> {
    let is_let_in = |branch: &Branch| branch.allows(present, resets);
    let for_good = old.iter().filter(|branch| branch.suspended.is_none());
    if for_good.into_iter().any(is_let_in) || !old.suspensions().any(is_let_in) {
        return Ok(None);
    }
    let present = present.clone().check_extended()?;
    let phases = match log {
        Some(log) if present.get(PHASES_PCR).is_some() => Forecast {
            log: log.clone(),
            command_line: None,
            next: NextBoot {
                image: Image::Present,
                updates: Vec::new(),
                phases: Phase::USUAL.to_vec(),
            },
        }
        .branches(&present)
        .inspect_err(|error| log::warn!("the present phase of this boot alone: {error}"))
        .unwrap_or_default(),
        _ => Vec::new(),
    };
    Branches::only(present).with(phases).map(Some)
}
