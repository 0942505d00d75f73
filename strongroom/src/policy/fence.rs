//! Fences: a PCR that nothing else uses, extended once the keys are loaded. What asks for it as the
//! boot leaves it opens no more in that boot.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::pcr::{PcrSelection, PcrValues};
use crate::error::{Error, Result};

/// A fence's PCR: 8, 9 or 11 to 15. The firmware has those below, IMA has 10, and those above can
/// be reset without a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Fence(u8);

impl Fence {
    /// The PCR.
    pub fn pcr(self) -> u8 {
        self.0
    }

    /// What the PCR is until the fence is closed: what a restart leaves.
    pub(crate) fn open(self) -> PcrValues {
        PcrValues::new(&self.selection(), [[0; 32]])
    }

    pub(crate) fn selection(self) -> PcrSelection {
        PcrSelection::of_one(self.0)
    }

    /// Refuses a boot policy that a closed fence would refuse too.
    ///
    /// # Errors
    /// [`Error::Input`].
    pub(crate) fn check_apart_from(self, boot: &PcrSelection) -> Result<()> {
        if boot.iter().any(|pcr| pcr == self.0) {
            return Err(Error::input(
                format!("PCR {}", self.0),
                "it cannot be a fence and part of the boot that the vault is bound to",
            ));
        }
        Ok(())
    }
}

impl TryFrom<u8> for Fence {
    type Error = Error;

    fn try_from(pcr: u8) -> Result<Self> {
        if matches!(pcr, 8 | 9 | 11..=15) {
            Ok(Self(pcr))
        } else {
            Err(Error::input(
                format!("fence {pcr}"),
                "it must be a PCR that this boot leaves unused, of 8, 9 and 11 to 15, such as 13",
            ))
        }
    }
}

impl From<Fence> for u8 {
    fn from(fence: Fence) -> Self {
        fence.0
    }
}

impl FromStr for Fence {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // 255 is no PCR, and so is what is no number.
        text.parse().unwrap_or(u8::MAX).try_into()
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PCR {}", self.0)
    }
}
