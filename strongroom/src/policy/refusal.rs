//! What a refusal of the policy means: which PCRs are not as in any allowed boot, and what was
//! measured differently.

use std::fmt;

use serde::Serialize;

use super::branch::Branches;
use super::pcr::PcrValues;
use crate::event_log::Change;

/// How many changes of one PCR are told to people. JSON has all.
const TOLD: usize = 3;

/// The machine was booted into a state that the policy does not allow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Refusal {
    /// For the allowed boot that is nearest to the present state: the PCRs that differ.
    pub differing: Vec<u8>,
    /// How many boots are allowed.
    pub branches: usize,
    /// What was measured differently into these PCRs, as far as the event logs of both boots say.
    pub changes: Vec<Change>,
}

impl Refusal {
    /// Compares the present state with each allowed one. `present` holds all PCRs of all branches.
    pub(crate) fn explain(present: &PcrValues, allowed: &Branches) -> Self {
        // A suspension that is over may be over the very same PCRs.
        let for_good = allowed.iter().filter(|branch| branch.suspended.is_none());
        let differing = for_good
            .map(|branch| branch.pcrs.differing_from(present))
            .min_by_key(Vec::len)
            .unwrap_or_default();
        Self {
            differing,
            branches: allowed.count(),
            changes: Vec::new(),
        }
    }

    /// The changes for people, each with its PCR.
    fn told(&self) -> Vec<String> {
        let mut told = Vec::new();
        for pcr in &self.differing {
            let its: Vec<_> = self.changes.iter().filter(|it| it.pcr == *pcr).collect();
            told.extend(its.iter().take(TOLD).map(ToString::to_string));
            if its.len() > TOLD {
                told.push(format!("PCR {pcr}: {} more", its.len() - TOLD));
            }
        }
        told
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let boots = match self.branches {
            1 => "the allowed boot".to_owned(),
            count => format!("any of the {count} allowed boots (nearest compared)"),
        };
        match self.differing.as_slice() {
            // The PCRs were put back between the refusal and the comparison, or N says no for
            // another reason; either way the honest word is that the state was refused.
            [] => write!(
                f,
                "the policy refused this boot, though the PCRs now match {boots}: try again"
            )?,
            [pcr] => write!(
                f,
                "the policy refused this boot: PCR {pcr} is not as in {boots}"
            )?,
            pcrs => {
                let pcrs: Vec<_> = pcrs.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "the policy refused this boot: PCRs {} are not as in {boots}",
                    pcrs.join(", ")
                )?;
            }
        }
        if !self.changes.is_empty() {
            write!(f, " ({})", self.told().join("; "))?;
        }
        f.write_str(
            "; if the change was yours (an update, a setting), run \
             `strongroom rebind --recovery FILE --yes`",
        )
    }
}
