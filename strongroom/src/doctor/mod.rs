//! The judgement of `strongroom doctor` and `strongroom init`: what a machine's boot is worth as
//! something to bind keys to, and what is left open.
//!
//! [`Examination`] is what was seen, each part on its own, for any may be missing; [`Diagnosis`] is
//! what follows from it. Nothing here asks a TPM or reads a file but [`System`].

mod findings;
mod pcrs;
mod recommendation;
mod system;
#[cfg(test)]
mod tests;

use crate::event_log::{EventLog, Measured};
use crate::tpm::TpmState;

pub use findings::{Finding, Grade};
pub use pcrs::{Author, Measurements, PcrReport, PcrState};
pub use recommendation::Recommendation;
pub use system::{Facts, Protection, SecureBoot, Storage, System};

/// What was seen. Where a part is missing, its place has the reason, for people.
#[derive(Clone, Debug)]
pub struct Examination {
    /// The TPM.
    pub tpm: Result<TpmState, String>,
    /// The event log of this boot.
    pub log: Result<EventLog, String>,
    /// The system.
    pub facts: Facts,
}

/// What follows.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// Whether firmware checks what it starts: as the log has it, or the running system.
    pub secure_boot: SecureBoot,
    /// Each PCR that has a meaning here, ascending.
    pub pcrs: Vec<PcrReport>,
    /// What to bind to.
    pub recommendation: Recommendation,
    /// What is left open, the worst first.
    pub findings: Vec<Finding>,
}

impl Examination {
    /// Judges what was seen.
    pub fn diagnose(&self) -> Diagnosis {
        let secure_boot = self.secure_boot();
        let pcrs = pcrs::reports(self);
        let recommendation = recommendation::recommend(&pcrs, secure_boot);
        let findings = findings::of(self, secure_boot, &pcrs, &recommendation);
        Diagnosis {
            secure_boot,
            pcrs,
            recommendation,
            findings,
        }
    }

    /// The log goes first: a PCR vouches for it, and it may be another machine's.
    fn secure_boot(&self) -> SecureBoot {
        let logged = self.log.as_ref().ok().and_then(|log| {
            log.extended(7).find_map(|event| match &event.measured {
                Measured::Variable(it) if it.name == "SecureBoot" => Some(it.is_on()),
                _ => None,
            })
        });
        match logged {
            Some(true) => SecureBoot::On,
            Some(false) => SecureBoot::Off,
            None => self.facts.secure_boot,
        }
    }
}
