//! The boots that are allowed: up to eight branches, and the digest that the index N holds.

use serde::{Deserialize, Serialize};

use super::digest::PolicyDigest;
use super::pcr::{PcrSelection, PcrValues};
use crate::error::{Error, Result};

/// One allowed state of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Branch {
    /// What the PCRs must be.
    pub pcrs: PcrValues,
}

impl Branch {
    pub(crate) fn digest(&self) -> PolicyDigest {
        PolicyDigest::EMPTY.pcr(&self.pcrs)
    }
}

/// One to eight branches, each of which alone may unseal. (TPM2_PolicyOR takes at most eight,
/// Part 2, section 10.9.5.)
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Branch>", into = "Vec<Branch>")]
pub struct Branches(Vec<Branch>);

impl Branches {
    /// The most branches that a policy can hold.
    pub const MAX: usize = 8;

    /// The one boot that left the PCRs so.
    pub fn only(pcrs: PcrValues) -> Self {
        Self(vec![Branch { pcrs }])
    }

    /// The branches.
    pub fn iter(&self) -> impl Iterator<Item = &Branch> {
        self.0.iter()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The same and one more; a branch that is there already is not added twice.
    ///
    /// # Errors
    /// [`Error::Input`] if there are eight already.
    pub fn with(mut self, pcrs: PcrValues) -> Result<Self> {
        let branch = Branch { pcrs };
        if self.0.contains(&branch) {
            return Ok(self);
        }
        if self.0.len() == Self::MAX {
            return Err(Error::input(
                "another allowed boot",
                "the policy holds eight already; `strongroom rebind` without --add first drops all \
                 but the present boot",
            ));
        }
        self.0.push(branch);
        Ok(self)
    }

    /// The distinct PCR selections, in the order of their first branch.
    pub(crate) fn selections(&self) -> Vec<PcrSelection> {
        let mut selections = Vec::new();
        for branch in &self.0 {
            let selection = branch.pcrs.selection();
            if !selections.contains(&selection) {
                selections.push(selection);
            }
        }
        selections
    }

    /// Every PCR that some branch looks at.
    pub(crate) fn all_pcrs(&self) -> PcrSelection {
        PcrSelection::union(self.0.iter().map(|branch| branch.pcrs.selection()))
    }

    /// The digest of each branch, in order, as TPM2_PolicyOR takes them.
    pub(crate) fn branch_digests(&self) -> Vec<PolicyDigest> {
        self.0.iter().map(Branch::digest).collect()
    }

    /// What N holds: a single branch's digest, or that of the PolicyOR over several.
    pub(crate) fn digest(&self) -> PolicyDigest {
        match self.branch_digests().as_slice() {
            [only] => *only,
            several => PolicyDigest::or(several),
        }
    }
}

impl TryFrom<Vec<Branch>> for Branches {
    type Error = Error;

    fn try_from(branches: Vec<Branch>) -> Result<Self> {
        if branches.is_empty() || branches.len() > Self::MAX {
            return Err(Error::input(
                "list of allowed boots",
                format!("it has {} branches and must have 1 to 8", branches.len()),
            ));
        }
        Ok(Self(branches))
    }
}

impl From<Branches> for Vec<Branch> {
    fn from(branches: Branches) -> Self {
        branches.0
    }
}
