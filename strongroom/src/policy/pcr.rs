//! PCRs of the SHA-256 bank: a selection of them, and their values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A TPM has 24 PCRs on every platform (PC Client Platform TPM Profile, section 4.6).
const PCR_COUNT: u8 = 24;

/// PCRs that no boot policy may rest on: IMA's own changes with every file that is opened, and 16
/// and 23 can be reset by anyone at locality 0.
const MEANINGLESS: [u8; 3] = [10, 16, 23];

/// A set of PCRs, such as `7,9,11`: not empty, each below 24 and none of 10, 16 and 23.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PcrSelection(BTreeSet<u8>);

impl PcrSelection {
    /// 7 (Secure Boot), 9 (the initrd) and 11 (the unified kernel image).
    pub fn recommended() -> Self {
        Self(BTreeSet::from([7, 9, 11]))
    }

    /// The PCRs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        self.0.iter().copied()
    }

    /// Those of `self` for which `keep` holds.
    ///
    /// # Errors
    /// [`Error::Input`] if none is left: a policy over no PCR would hold in every boot.
    pub fn filter(&self, keep: impl Fn(u8) -> bool) -> Result<Self> {
        Self::try_from_iter(self.iter().filter(|&pcr| keep(pcr)))
    }

    /// One PCR that the caller has checked.
    pub(super) fn of_one(pcr: u8) -> Self {
        Self(BTreeSet::from([pcr]))
    }

    /// All PCRs of all selections.
    pub(crate) fn union(selections: impl IntoIterator<Item = Self>) -> Self {
        Self(selections.into_iter().flat_map(|some| some.0).collect())
    }

    fn try_from_iter(pcrs: impl IntoIterator<Item = u8>) -> Result<Self> {
        let set: BTreeSet<u8> = pcrs.into_iter().collect();
        if set.is_empty() {
            return Err(Error::input(
                "PCR selection",
                "it is empty, and a policy over no PCR would hold in every boot",
            ));
        }
        for pcr in &set {
            if *pcr >= PCR_COUNT {
                return Err(Error::input(
                    format!("PCR {pcr}"),
                    "a TPM has the PCRs 0 to 23",
                ));
            }
            if MEANINGLESS.contains(pcr) {
                return Err(Error::input(
                    format!("PCR {pcr}"),
                    "it says nothing about a boot: 10 changes with every file that IMA measures, \
                     16 and 23 can be reset by anyone",
                ));
            }
        }
        Ok(Self(set))
    }

    /// TPML_PCR_SELECTION (Part 2, section 10.9.7) with the one bank SHA-256 and three octets.
    pub(crate) fn marshal(&self) -> Vec<u8> {
        let mut octets = [0_u8; 3];
        for pcr in &self.0 {
            octets[usize::from(pcr / 8)] |= 1 << (pcr % 8);
        }
        let mut bytes = vec![0, 0, 0, 1, 0x00, 0x0B, 3];
        bytes.extend_from_slice(&octets);
        bytes
    }
}

impl FromStr for PcrSelection {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let pcrs = text
            .split([',', '+'])
            .map(|pcr| pcr.trim().parse::<u8>())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| {
                Error::input(
                    format!("PCR selection {text:?}"),
                    "it must be numbers with commas, such as 7,9,11",
                )
            })?;
        Self::try_from_iter(pcrs)
    }
}

impl TryFrom<String> for PcrSelection {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<PcrSelection> for String {
    fn from(selection: PcrSelection) -> Self {
        selection.to_string()
    }
}

impl fmt::Display for PcrSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pcrs: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&pcrs.join(","))
    }
}

/// The SHA-256 values of a selection of PCRs: a state that a boot can leave the machine in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, String>",
    into = "BTreeMap<String, String>"
)]
pub struct PcrValues(BTreeMap<u8, [u8; 32]>);

impl PcrValues {
    /// The values in the order of the selection.
    ///
    /// # Panics
    /// If there are not as many values as PCRs.
    pub(crate) fn new(
        selection: &PcrSelection,
        values: impl IntoIterator<Item = [u8; 32]>,
    ) -> Self {
        let values: BTreeMap<_, _> = selection.iter().zip(values).collect();
        assert_eq!(values.len(), selection.0.len(), "one value for each PCR");
        Self(values)
    }

    /// Which PCRs.
    pub fn selection(&self) -> PcrSelection {
        PcrSelection(self.0.keys().copied().collect())
    }

    /// The value of one PCR.
    pub fn get(&self, pcr: u8) -> Option<&[u8; 32]> {
        self.0.get(&pcr)
    }

    /// The same with one PCR at another value.
    ///
    /// # Errors
    /// [`Error::Input`] if the PCR is not one of these.
    pub fn with(mut self, pcr: u8, value: [u8; 32]) -> Result<Self> {
        match self.0.get_mut(&pcr) {
            Some(slot) => {
                *slot = value;
                Ok(self)
            }
            None => Err(Error::input(
                format!("PCR {pcr}"),
                format!("the vault is bound to PCRs {}", self.selection()),
            )),
        }
    }

    /// The PCRs at the value that a reset leaves: all zeros, or all ones for those that a dynamic
    /// launch resets.
    pub fn at_reset(&self) -> Vec<u8> {
        let reset = |value: &[u8; 32]| *value == [0; 32] || *value == [0xFF; 32];
        self.0
            .iter()
            .filter(|(_, value)| reset(value))
            .map(|(pcr, _)| *pcr)
            .collect()
    }

    /// Refuses a state in which some PCR is at its reset value: any boot that measures nothing
    /// leaves that, and would be allowed.
    ///
    /// # Errors
    /// [`Error::Input`] with the PCRs.
    pub fn check_extended(self) -> Result<Self> {
        let unused: Vec<_> = self.at_reset().iter().map(ToString::to_string).collect();
        if unused.is_empty() {
            return Ok(self);
        }
        Err(Error::input(
            format!("a boot with PCR {} at reset", unused.join(", ")),
            "nothing was measured there, so that any unmeasured boot would be allowed; if that is \
             what you want, name the PCRs with --pcrs",
        ))
    }

    /// The PCRs whose values are not those of `other`.
    pub fn differing_from(&self, other: &Self) -> Vec<u8> {
        self.0
            .iter()
            .filter(|(pcr, value)| other.get(**pcr) != Some(value))
            .map(|(pcr, _)| *pcr)
            .collect()
    }

    /// The digest over the values in ascending order, as TPM2_PolicyPCR takes it (Part 3,
    /// section 23.7).
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.0
            .values()
            .fold(Sha256::new(), Digest::chain_update)
            .finalize()
            .into()
    }
}

impl TryFrom<BTreeMap<String, String>> for PcrValues {
    type Error = Error;

    fn try_from(texts: BTreeMap<String, String>) -> Result<Self> {
        let mut values = BTreeMap::new();
        for (pcr, value) in texts {
            let refuse = || Error::input(format!("PCR {pcr}={value}"), "it must be NUMBER=SHA-256");
            let mut digest = [0; 32];
            hex::decode_to_slice(&value, &mut digest).map_err(|_| refuse())?;
            values.insert(pcr.parse().map_err(|_| refuse())?, digest);
        }
        // The same checks as for what an admin types.
        PcrSelection::try_from_iter(values.keys().copied())?;
        Ok(Self(values))
    }
}

impl From<PcrValues> for BTreeMap<String, String> {
    fn from(values: PcrValues) -> Self {
        values
            .0
            .into_iter()
            .map(|(pcr, value)| (pcr.to_string(), hex::encode(value)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections_that_mean_nothing_are_refused() {
        for bad in ["", "24", "7,10", "16", "23", "7;9", "x"] {
            assert!(bad.parse::<PcrSelection>().is_err(), "{bad:?}");
        }
        let good: PcrSelection = "11,7, 9".parse().expect("valid");
        assert_eq!(good.to_string(), "7,9,11");
    }

    #[test]
    fn the_marshalled_selection_is_the_tpms() {
        let selection = PcrSelection::recommended();
        assert_eq!(selection.marshal(), [0, 0, 0, 1, 0, 0x0B, 3, 0x80, 0x0A, 0]);
    }
}
