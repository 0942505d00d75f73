//! Closing the fences of tokens, after which nothing in this boot opens what is in them.

use std::collections::BTreeSet;

use super::Vault;
use crate::error::{Error, Result};
use crate::policy::{Fence, PcrSelection};
use crate::tpm::{Tcti, Tpm, Turn};

impl Vault {
    /// The fences of the vault's tokens. Not authenticated: who changed the manifest has made it
    /// one that opens nothing.
    pub fn fences(&self) -> Vec<Fence> {
        let fences: BTreeSet<Fence> = self
            .manifest
            .tokens
            .values()
            .filter_map(|token| token.fence)
            .collect();
        fences.into_iter().collect()
    }

    /// Refuses PCRs for the boot policy that are a fence of some token.
    pub(super) fn check_fences_apart_from(&self, boot: &PcrSelection) -> Result<()> {
        self.fences()
            .into_iter()
            .try_for_each(|fence| fence.check_apart_from(boot))
    }
}

/// Closes fences, whatever the vault. One command for each.
///
/// # Errors
/// Those of a TPM that does not answer. The fence is open then, for all that is known.
pub fn close_fences(tcti: &Tcti, fences: &[Fence]) -> Result<()> {
    if fences.is_empty() {
        return Ok(());
    }
    let mut tpm = Tpm::connect(&Turn::to_look(tcti))?;
    fences.iter().try_for_each(|fence| fence.close(&mut tpm))
}

/// Refuses a fence that the boot has closed already, so that the token could never be opened, and one
/// over what the boot is told by.
pub(super) fn check_open(tpm: &mut Tpm, fence: Fence, boot: &PcrSelection) -> Result<()> {
    fence.check_apart_from(boot)?;
    if tpm.pcr_values(&fence.selection())? == fence.open() {
        return Ok(());
    }
    Err(Error::input(
        fence.to_string(),
        "something extends it in this boot, so that it is no fence, or it was closed; choose one that \
         nothing uses (`strongroom doctor` shows them), or restart and try again before it is closed",
    ))
}
