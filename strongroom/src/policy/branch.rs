//! The boots that are allowed: up to eight branches, and the digest that the index N holds.

use serde::{Deserialize, Serialize};

use super::digest::PolicyDigest;
use super::label::Label;
use super::pcr::{PcrSelection, PcrValues};
use super::suspension::Suspension;
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
    /// Until when, where it is not for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Suspension>,
}

impl Branch {
    /// For good, and without a name.
    pub(crate) fn of(pcrs: PcrValues) -> Self {
        Self {
            pcrs,
            label: None,
            suspended: None,
        }
    }

    pub(crate) fn digest(&self) -> PolicyDigest {
        let pcrs = PolicyDigest::EMPTY.pcr(&self.pcrs);
        match self.suspended {
            Some(suspension) => suspension.extend(pcrs),
            None => pcrs,
        }
    }

    /// Whether it allows what the PCRs are now, after so many resets of the TPM.
    pub(crate) fn allows(&self, present: &PcrValues, resets: u32) -> bool {
        self.pcrs.differing_from(present).is_empty() && !self.is_over(resets)
    }

    /// Whether it allows nothing any more.
    pub(crate) fn is_over(&self, resets: u32) -> bool {
        let left = |suspension: Suspension| suspension.boots_left(resets);
        self.suspended.is_some_and(|it| left(it).is_none())
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
        Self(vec![Branch::of(pcrs)])
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
            if !self.has(&branch) {
                self.0.push(branch);
                new += 1;
            }
        }
        if self.0.len() > Self::MAX {
            return Err(Error::input(
                "another allowed boot",
                format!(
                    "the policy has room for eight; it holds {had}, and this is {new} more. \
                     `strongroom commit` drops all that are not of the present boot, and \
                     `strongroom rebind` without --add all but the present state of it"
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

    /// Whether the policy is the same with it, whatever it is called.
    fn has(&self, branch: &Branch) -> bool {
        let same = |it: &Branch| (&it.pcrs, it.suspended) == (&branch.pcrs, branch.suspended);
        self.0.iter().any(same)
    }

    /// Whether somebody has asked to be let in with less than a whole boot, for a while.
    pub fn suspensions(&self) -> impl Iterator<Item = &Branch> {
        self.0.iter().filter(|branch| branch.suspended.is_some())
    }

    /// Whether some branch has more than PCRs.
    pub(crate) fn are_of_format_2(&self) -> bool {
        let more = |branch: &Branch| branch.label.is_some() || branch.suspended.is_some();
        self.0.iter().any(more)
    }

    /// The same without a word of what was prepared: all of it has booted.
    #[must_use]
    pub(crate) fn booted(mut self) -> Self {
        for branch in &mut self.0 {
            branch.label = branch.label.as_ref().and_then(Label::booted);
        }
        self
    }

    /// The distinct things that a session can assert, in the order of their first branch: those that are
    /// for good first.
    pub(crate) fn assertions(&self) -> Vec<(PcrSelection, Option<Suspension>)> {
        let mut assertions = Vec::new();
        for branch in &self.0 {
            let assertion = (branch.pcrs.selection(), branch.suspended);
            if !assertions.contains(&assertion) {
                assertions.push(assertion);
            }
        }
        assertions.sort_by_key(|(_, suspended)| suspended.is_some());
        assertions
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
