//! Policy digests, computed in software as a TPM computes them in a trial session
//! (TPM 2.0 Library, Part 3, section 23, and Part 1, section 19.7).

use sha2::{Digest, Sha256};

use super::pcr::PcrValues;
use super::suspension::ClockCondition;

/// The running digest of an enhanced authorization policy, SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PolicyDigest([u8; 32]);

/// TPM_CC values (Part 2, section 6.5.2) of the assertions.
mod command_code {
    pub(super) const POLICY_SECRET: u32 = 0x151;
    pub(super) const POLICY_SIGNED: u32 = 0x160;
    pub(super) const POLICY_AUTHORIZE: u32 = 0x16A;
    pub(super) const POLICY_AUTH_VALUE: u32 = 0x16B;
    pub(super) const POLICY_COMMAND_CODE: u32 = 0x16C;
    pub(super) const POLICY_OR: u32 = 0x171;
    pub(super) const POLICY_COUNTER_TIMER: u32 = 0x16D;
    pub(super) const POLICY_PCR: u32 = 0x17F;
    pub(super) const POLICY_AUTHORIZE_NV: u32 = 0x192;
}

impl PolicyDigest {
    /// The digest of a session in which nothing was asserted yet.
    pub(crate) const EMPTY: Self = Self([0; 32]);

    /// The digest's bytes.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// TPM2_PolicyPCR.
    pub(crate) fn pcr(self, values: &PcrValues) -> Self {
        self.extend(&[
            &command_code::POLICY_PCR.to_be_bytes(),
            &values.selection().marshal(),
            &values.digest(),
        ])
    }

    /// TPM2_PolicyCounterTimer.
    pub(super) fn counter_timer(self, condition: &ClockCondition) -> Self {
        let arguments = Sha256::new()
            .chain_update(condition.operand)
            .chain_update(condition.offset.to_be_bytes())
            .chain_update(condition.comparison.code().to_be_bytes())
            .finalize();
        self.extend(&[
            &command_code::POLICY_COUNTER_TIMER.to_be_bytes(),
            &arguments,
        ])
    }

    /// TPM2_PolicyOR; what came before is replaced.
    pub(crate) fn or(branches: &[Self]) -> Self {
        let digests = branches
            .iter()
            .flat_map(|branch| branch.0)
            .collect::<Vec<_>>();
        Self::EMPTY.extend(&[&command_code::POLICY_OR.to_be_bytes(), &digests])
    }

    /// TPM2_PolicyAuthorizeNV; what came before is replaced. `name`: the index's Name, with
    /// WRITTEN set.
    pub(crate) fn authorize_nv(name: &[u8]) -> Self {
        Self::EMPTY.extend(&[&command_code::POLICY_AUTHORIZE_NV.to_be_bytes(), name])
    }

    /// TPM2_PolicyAuthorize without policyRef; what came before is replaced.
    pub(crate) fn authorize(key_name: &[u8]) -> Self {
        Self::EMPTY.update(command_code::POLICY_AUTHORIZE, key_name, &[])
    }

    /// TPM2_PolicySecret without policyRef.
    pub(crate) fn secret(self, name: &[u8]) -> Self {
        self.update(command_code::POLICY_SECRET, name, &[])
    }

    /// TPM2_PolicySigned.
    pub(crate) fn signed(self, key_name: &[u8], policy_ref: &[u8]) -> Self {
        self.update(command_code::POLICY_SIGNED, key_name, policy_ref)
    }

    /// TPM2_PolicyCommandCode.
    pub(crate) fn command_code(self, code: u32) -> Self {
        self.extend(&[
            &command_code::POLICY_COMMAND_CODE.to_be_bytes(),
            &code.to_be_bytes(),
        ])
    }

    /// TPM2_PolicyPassword, which enters the digest as TPM2_PolicyAuthValue does.
    pub(crate) fn password(self) -> Self {
        self.extend(&[&command_code::POLICY_AUTH_VALUE.to_be_bytes()])
    }

    fn extend(self, parts: &[&[u8]]) -> Self {
        let hash = parts
            .iter()
            .fold(Sha256::new_with_prefix(self.0), |hash, part| {
                hash.chain_update(part)
            });
        Self(hash.finalize().into())
    }

    /// PolicyUpdate() of Part 3, section 23.2.3: two hashes, the second even for an empty
    /// policyRef.
    fn update(self, code: u32, name: &[u8], policy_ref: &[u8]) -> Self {
        self.extend(&[&code.to_be_bytes(), name])
            .extend(&[policy_ref])
    }
}
