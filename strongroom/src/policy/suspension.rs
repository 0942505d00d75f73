//! A suspension: for a number of restarts, whatever leaves a few PCRs as they are may boot. The TPM
//! counts its restarts, and no file that is put back sets that count back.

use serde::{Deserialize, Serialize};

use super::digest::PolicyDigest;
use crate::error::{Error, Result};

/// How long it lasts: until the TPM has been reset more often than this (resetCount of
/// TPMS_CLOCK_INFO, Part 2, section 10.11.1), and never over a hibernation, which resumes it
/// (restartCount).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Suspension {
    /// The last count at which it holds.
    pub resets: u32,
}

/// An assertion on the TPM's clock, as TPM2_PolicyCounterTimer takes it (Part 3, section 23.10).
pub(crate) struct ClockCondition {
    pub(crate) operand: [u8; 4],
    /// Where in TPMS_TIME_INFO (Part 2, section 10.11.6).
    pub(crate) offset: u16,
    pub(crate) comparison: Comparison,
}

/// TPM_EO (Part 2, section 6.8), as far as a suspension needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    AtMost,
}

impl Comparison {
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::Equal => 0x0000,
            Self::AtMost => 0x0009,
        }
    }
}

impl Suspension {
    /// The most restarts: a firmware update takes a few, and a forgotten suspension should end.
    pub const MOST: u32 = 16;

    /// For so many restarts from a count on.
    ///
    /// # Errors
    /// [`Error::Input`] for none, and for more than [`Suspension::MOST`].
    pub(crate) fn of(boots: u32, resets: u32) -> Result<Self> {
        let last = resets.checked_add(boots);
        match last {
            Some(resets) if (1..=Self::MOST).contains(&boots) => Ok(Self { resets }),
            _ => Err(Error::input(
                format!("{boots} restarts"),
                format!("a suspension is for 1 to {} of them", Self::MOST),
            )),
        }
    }

    /// How many restarts are left; `None` where it is over.
    pub fn boots_left(self, resets: u32) -> Option<u32> {
        self.resets.checked_sub(resets)
    }

    /// What the TPM is asked, in this order.
    pub(crate) fn conditions(self) -> [ClockCondition; 2] {
        [
            ClockCondition {
                operand: self.resets.to_be_bytes(),
                offset: 16,
                comparison: Comparison::AtMost,
            },
            ClockCondition {
                operand: [0; 4],
                offset: 20,
                comparison: Comparison::Equal,
            },
        ]
    }

    /// Both TPM2_PolicyCounterTimer.
    pub(crate) fn extend(self, policy: PolicyDigest) -> PolicyDigest {
        self.conditions()
            .iter()
            .fold(policy, PolicyDigest::counter_timer)
    }
}
