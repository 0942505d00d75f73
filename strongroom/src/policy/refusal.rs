//! What a refusal of the policy means: which PCRs are not as in any allowed boot.

use std::fmt;

use super::branch::Branches;
use super::pcr::PcrValues;

/// The machine was booted into a state that the policy does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the allowed boot that is nearest to the present state: the PCRs that differ.
    pub differing: Vec<u8>,
    /// How many boots are allowed.
    pub branches: usize,
}

impl Refusal {
    /// Compares the present state with each allowed one. `present` holds all PCRs of all branches.
    pub(crate) fn explain(present: &PcrValues, allowed: &Branches) -> Self {
        let differing = allowed
            .iter()
            .map(|branch| branch.pcrs.differing_from(present))
            .min_by_key(Vec::len)
            .unwrap_or_default();
        Self {
            differing,
            branches: allowed.count(),
        }
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
        f.write_str(
            "; if the change was yours (an update, a setting), run \
             `strongroom rebind --recovery FILE --yes`",
        )
    }
}
