//! From digests to PCR values (TPM 2.0 Library, Part 1, section 17, and PC Client Platform Firmware
//! Profile, section 10.4.5.3).

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::measured::Measured;
use super::{Event, EventLog};

/// A TPM has 24 PCRs on every platform (PC Client Platform TPM Profile, section 4.6).
pub(super) const PCR_COUNT: u32 = 24;

/// What a PCR is after a restart before anything is extended: ones in those that a dynamic launch
/// resets (PC Client Platform TPM Profile, section 4.6.2).
pub fn reset_value(pcr: u8) -> [u8; 32] {
    if (17..=22).contains(&pcr) {
        [0xFF; 32]
    } else {
        [0; 32]
    }
}

impl EventLog {
    /// What the log makes of each PCR that it extends. All others it leaves at
    /// [`reset_value`].
    pub fn replay(&self) -> BTreeMap<u8, [u8; 32]> {
        let mut values = BTreeMap::new();
        let mut locality = 0;
        for event in &self.events {
            if let Measured::StartupLocality(said) = event.measured {
                locality = said;
            }
            let Some(pcr) = extended(event) else { continue };
            let value = values
                .entry(pcr)
                .or_insert_with(|| first_value(pcr, locality));
            *value = Sha256::new_with_prefix(*value)
                .chain_update(event.digest)
                .finalize()
                .into();
        }
        values
    }

    /// What the log makes of one PCR, whether or not it extends it.
    pub fn value(&self, pcr: u8) -> [u8; 32] {
        let replayed = self.replay();
        replayed
            .get(&pcr)
            .copied()
            .unwrap_or_else(|| reset_value(pcr))
    }
}

fn extended(event: &Event) -> Option<u8> {
    event
        .is_extended()
        .then(|| u8::try_from(event.pcr).ok())
        .flatten()
}

/// What an event finds that is the first to extend its PCR. PCR 0 begins with the locality of
/// TPM2_Startup; the others that a dynamic launch resets, with zeros after it.
fn first_value(pcr: u8, locality: u8) -> [u8; 32] {
    let mut value = [0; 32];
    if pcr == 0 {
        value[31] = locality;
    }
    value
}
