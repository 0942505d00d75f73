//! The boots that are allowed: up to eight branches, and the digest that the index N holds.

use serde::{Deserialize, Serialize};

use super::digest::PolicyDigest;
use super::label::Label;
use super::pcr::{PcrSelection, PcrValues};
use crate::error::{Error, Result};

/// One allowed state of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Branch {
    /// What the PCRs must be.
    pub pcrs: PcrValues,
    /// What it is called, where somebody has said so. It decides nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
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
        Self(vec![Branch { pcrs, label: None }])
    }

    /// The branches.
    pub fn iter(&self) -> impl Iterator<Item = &Branch> {
        self.0.iter()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The same and more; a boot that is there already is not added twice.
    ///
    /// # Errors
    /// [`Error::Input`] where they are more than eight together.
    pub fn with(mut self, more: impl IntoIterator<Item = Branch>) -> Result<Self> {
        let (had, mut new) = (self.0.len(), 0);
        for branch in more {
            if !self.allows(&branch.pcrs) {
                self.0.push(branch);
                new += 1;
            }
        }
        if self.0.len() > Self::MAX {
            return Err(Error::input(
                "another allowed boot",
                format!(
                    "the policy holds {had} of at most {} already, and this is {new} more; \
                     `strongroom commit` drops all that are not of the present boot, and \
                     `strongroom rebind` without --add all but the present state of it",
                    Self::MAX
                ),
            ));
        }
        Ok(self)
    }

    /// Those for which `keep` holds; `None` where it holds for none.
    #[must_use]
    pub fn only_those(&self, keep: impl Fn(&Branch) -> bool) -> Option<Self> {
        let kept: Vec<_> = self.0.iter().filter(|it| keep(it)).cloned().collect();
        (!kept.is_empty()).then_some(Self(kept))
    }

    /// Whether this very state is one of them.
    pub fn allows(&self, pcrs: &PcrValues) -> bool {
        self.0.iter().any(|branch| branch.pcrs == *pcrs)
    }

    /// Whether some branch has a label.
    pub(crate) fn are_labelled(&self) -> bool {
        self.0.iter().any(|branch| branch.label.is_some())
    }

    /// The same without a word of what was prepared: all of it has booted.
    #[must_use]
    pub(crate) fn booted(mut self) -> Self {
        for branch in &mut self.0 {
            branch.label = branch.label.as_ref().and_then(Label::booted);
        }
        self
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
