//! A TPM without resource manager in which processes that were killed have left what they had loaded, so
//! that there is no room for what comes later.

use super::Vault;
use crate::error::{Error, Result};
use crate::tpm::{Tcti, Tpm};

impl Vault {
    /// After an error, with nothing of one's own in the TPM: if there was no room, and nobody else can be
    /// using what is there, flushes it. Whether it is worth to try again.
    ///
    /// # Errors
    /// Those of the TPM, and of waiting for the turn at it.
    pub fn clear_leftovers(&self, tcti: &Tcti, error: &Error) -> Result<bool> {
        Tpm::clear_leftovers(&self.turn(tcti)?, error)
    }
}
