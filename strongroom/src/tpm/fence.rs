//! Fences at the TPM: asked for in a policy, and closed.

use tss_esapi::handles::PcrHandle;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Digest, Event};

use super::session::Session;
use super::{Answer, Tpm, answer, selection_list};
use crate::error::{Error, Result};
use crate::policy::Fence;

/// What a fence is closed with. Whatever it is, it is not what the boot left.
const CLOSED: &[u8] = b"strongroom: fence closed";

impl Fence {
    /// PolicyPCR over the fence as it is while open.
    ///
    /// # Errors
    /// [`Error::FenceClosed`].
    pub(super) fn assert_in(self, tpm: &mut Tpm, session: Session) -> Result<()> {
        const OPERATION: &str = "PolicyPCR(fence)";
        let open = Digest::try_from(self.open().digest().to_vec());
        let list = selection_list(&[self.pcr()])?;
        let asserted = open.and_then(|open| {
            tpm.context
                .execute_without_session(|tpm| tpm.policy_pcr(session.policy(), open, list))
        });
        asserted.map_err(|error| match Answer::of(error) {
            Answer::Value => Error::FenceClosed(self),
            _ => answer::error(OPERATION, error),
        })
    }

    /// Extends the fence's PCR, in every bank: PCR_Event.
    pub(crate) fn close(self, tpm: &mut Tpm) -> Result<()> {
        const OPERATION: &str = "PCR_Event(fence)";
        let handle = match self.pcr() {
            8 => PcrHandle::Pcr8,
            9 => PcrHandle::Pcr9,
            11 => PcrHandle::Pcr11,
            12 => PcrHandle::Pcr12,
            13 => PcrHandle::Pcr13,
            14 => PcrHandle::Pcr14,
            _ => PcrHandle::Pcr15,
        };
        let closed = Event::try_from(CLOSED.to_vec()).and_then(|event| {
            tpm.context
                .execute_with_session(Some(AuthSession::Password), |tpm| {
                    tpm.pcr_event(handle, event)
                })
        });
        closed
            .map(drop)
            .map_err(|error| answer::error(OPERATION, error))
    }
}
