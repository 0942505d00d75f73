//! Names of TPM entities (Part 1, section 16): what they are known by in policies. Computed here
//! from public areas, never taken from a TPM's word.

use sha2::{Digest, Sha256};
use tss_esapi::structures::Public;
use tss_esapi::traits::Marshall;

use super::answer;
use crate::error::Result;

/// TPM_ALG_SHA256 (Part 2, section 6.3), the name algorithm of all that is ours.
pub(super) const ALG_SHA256: [u8; 2] = [0x00, 0x0B];

/// A Name: the algorithm's identifier and the SHA-256 digest of the public area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name([u8; 34]);

impl Name {
    /// The Name of an object with this public area (TPMT_PUBLIC).
    pub(crate) fn of_object(public: &Public) -> Result<Self> {
        let bytes = public
            .marshall()
            .map_err(|error| answer::error("public area", error))?;
        Ok(Self::of_area(&bytes))
    }

    /// The Name of an entity whose marshalled public area this is.
    pub(super) fn of_area(area: &[u8]) -> Self {
        let mut name = [0; 34];
        name[..2].copy_from_slice(&ALG_SHA256);
        name[2..].copy_from_slice(&Sha256::digest(area));
        Self(name)
    }

    /// A Name that ESYS computed; one of another algorithm is none that is ours, and equals none.
    pub(super) fn from_tpm(bytes: &[u8]) -> Self {
        Self(bytes.try_into().unwrap_or([0; 34]))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
