//! What the PCRs will be at the next boot: the present boot's event log, with what will be started
//! put in the place of what was, added up again.
//!
//! A prediction is as good as the log that it begins with. So the log must lead to the PCRs as they
//! are, its author's habits must be known where the change lies, and what it measured there must be
//! what its words say. Anything else is refused, for a wrong prediction locks its owner out and a
//! guessed one lets somebody in.
//!
//! Nothing here asks a TPM or reads a file.

mod linux;
mod pe;
mod secure_boot;
mod stub;
#[cfg(test)]
mod tests;
mod unified;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::event_log::{Event, EventLog, Measured};
use crate::policy::{Branch, Course, Label, PHASES_PCR, PcrSelection, PcrValues, Phase};

pub use secure_boot::{Database, DatabaseUpdate};

/// What will be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// What the present boot has started.
    Present,
    /// A unified kernel image with systemd's stub.
    Unified {
        /// What it is called in the list of allowed boots: its file.
        name: String,
        /// What the file holds.
        content: Vec<u8>,
    },
    /// A kernel by itself, started by GRUB or by the firmware.
    Linux {
        /// What it is called in the list of allowed boots: its file.
        name: String,
        /// What the file holds.
        kernel: Vec<u8>,
        /// What the files of its initrds hold, in order; `None` where they stay.
        initrds: Option<Vec<Vec<u8>>>,
        /// Its command line; `None` where it stays.
        command_line: Option<String>,
    },
}

/// The next boot, as far as it is another one than the present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextBoot {
    /// What will be started.
    pub image: Image,
    /// What the firmware's key databases will get beside what they hold.
    pub updates: Vec<DatabaseUpdate>,
    /// The phases that may unseal, where systemd has any.
    pub phases: Vec<Phase>,
}

/// The present boot by its event log, and the one to come.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// The log of the present boot.
    pub log: EventLog,
    /// The kernel's command line now, where it is known: GRUB's log has it, and the kernel's EFI
    /// stub has its digest alone.
    pub command_line: Option<String>,
    /// What will be another.
    pub next: NextBoot,
}

impl NextBoot {
    /// What the list of allowed boots calls it: the files, or `None` where it is the present one.
    pub fn name(&self) -> Option<String> {
        let image = match &self.image {
            Image::Present => None,
            Image::Unified { name, .. } | Image::Linux { name, .. } => Some(name.as_str()),
        };
        let updates = self.updates.iter().map(|update| update.name.as_str());
        let names: Vec<_> = image.into_iter().chain(updates).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

impl Forecast {
    /// The boots to allow: one for each phase that may unseal, over the PCRs of `present`, which are
    /// the TPM's own now.
    ///
    /// # Errors
    /// [`Error::Input`] for whatever cannot be predicted, with the reason and what to do.
    pub(crate) fn branches(&self, present: &PcrValues) -> Result<Vec<Branch>> {
        let name = self.next.name();
        let bound = present.selection();
        let mut boot = PresentBoot::of(&self.log, present)?;
        match &self.next.image {
            Image::Present => {}
            Image::Unified { name, content } => {
                unified::put_in(&mut boot.events, &bound, name, content)?;
            }
            Image::Linux {
                name,
                kernel,
                initrds,
                command_line,
            } => {
                let next = linux::Next {
                    name,
                    kernel,
                    initrds: initrds.as_deref(),
                    command_line: command_line.as_deref(),
                };
                linux::put_in(
                    &mut boot.events,
                    &bound,
                    self.command_line.as_deref(),
                    &next,
                )?;
            }
        }
        for update in &self.next.updates {
            update.put_in(&mut boot.events, &bound)?;
        }
        Ok(boot
            .in_phases(&bound, &self.next.phases)
            .into_iter()
            .map(|(phase, pcrs)| Branch {
                pcrs,
                label: Label::new(name.as_deref(), phase),
            })
            .collect())
    }
}

/// The present boot in each phase that it has gone through or will.
///
/// # Errors
/// [`Error::Input`] where the log does not lead to the PCRs as they are.
pub(crate) fn phases_of_present(log: &EventLog, present: &PcrValues) -> Result<Vec<PcrValues>> {
    let all = [Phase::Initrd, Phase::Start, Phase::Sysinit, Phase::Ready];
    let values = PresentBoot::of(log, present)?.in_phases(&present.selection(), &all);
    Ok(values.into_iter().map(|(_, values)| values).collect())
}

/// A boot before systemd has extended anything, and how systemd goes on.
struct PresentBoot {
    events: Vec<Event>,
    course: Option<Course>,
}

impl PresentBoot {
    fn of(log: &EventLog, present: &PcrValues) -> Result<Self> {
        let is_phase = |event: &&Event| {
            event.extends(PHASES_PCR) && matches!(event.measured, Measured::Systemd(_))
        };
        let words: Vec<_> = log.events().iter().filter(is_phase).collect();
        let events: Vec<_> = log
            .events()
            .iter()
            .filter(|event| !is_phase(event))
            .cloned()
            .collect();
        let mut course = None;
        for pcr in present.selection().iter() {
            let value = present.get(pcr).copied().unwrap_or_default();
            let replayed = log.value(pcr);
            if pcr == PHASES_PCR && words.is_empty() {
                course = Course::between(replayed, &value);
            } else if pcr == PHASES_PCR {
                let digests: Vec<_> = words.iter().map(|event| event.digest).collect();
                course = Some(Course::of(&digests).ok_or_else(|| {
                    cannot(
                        pcr,
                        "systemd has extended something besides the phases of a boot",
                    )
                })?);
            }
            if replayed != value && (course.is_none() || !words.is_empty() || pcr != PHASES_PCR) {
                return Err(Error::input(
                    "this boot's event log",
                    format!(
                        "it does not lead to the value of PCR {pcr}, so that nothing can be \
                         predicted from it; `strongroom doctor` says more. After the update, allow \
                         the new boot with `strongroom rebind --recovery FILE --yes`"
                    ),
                ));
            }
            // What systemd extends elsewhere depends on the phase too, and nobody says how.
            let more = log
                .extended(pcr)
                .any(|event| matches!(event.measured, Measured::Systemd(_)));
            if pcr != PHASES_PCR && more {
                return Err(cannot(pcr, "systemd extends it while it runs"));
            }
        }
        Ok(Self { events, course })
    }

    /// The PCRs in each of these phases, none twice; once where there are no phases.
    fn in_phases(&self, bound: &PcrSelection, phases: &[Phase]) -> Vec<(Option<Phase>, PcrValues)> {
        let log = EventLog::of(self.events.clone());
        let start = PcrValues::new(bound, bound.iter().map(|pcr| log.value(pcr)));
        let Some(course) = self.course else {
            return vec![(None, start)];
        };
        let mut all: Vec<(Option<Phase>, PcrValues)> = Vec::new();
        for phase in phases {
            let value = course.value(log.value(PHASES_PCR), *phase);
            let Ok(values) = start.clone().with(PHASES_PCR, value) else {
                continue;
            };
            if all.iter().all(|(_, other)| *other != values) {
                all.push((Some(*phase), values));
            }
        }
        all
    }
}

/// That a PCR of the next boot cannot be told, and what to do then.
fn cannot(pcr: u8, reason: impl AsRef<str>) -> Error {
    Error::input(
        format!("PCR {pcr} of the next boot"),
        format!(
            "it cannot be predicted: {}. Do not restart without the recovery kit at hand: after the \
             update, allow the new boot with `strongroom rebind --recovery FILE --yes`",
            reason.as_ref()
        ),
    )
}

/// Whether some event says of itself what it is a digest of.
fn is_digest_of(event: &Event, bytes: &[u8]) -> bool {
    event.digest == digest(bytes)
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// UTF-16 as firmware has it, with its NUL.
fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect()
}
