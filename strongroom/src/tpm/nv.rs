//! NV indices that are a vault's: defined in the owner's hierarchy at a handle that is free, and
//! known by their Names, which are computed here and never taken from a TPM's word.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tss_esapi::attributes::NvIndexAttributes;
use tss_esapi::constants::CapabilityType;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::reserved_handles::Provision;
use tss_esapi::structures::{Auth, CapabilityData, Digest, NvPublic, NvPublicBuilder};

use super::name::{ALG_SHA256, Name};
use super::root_key::owner_has_password;
use super::session::{Encrypt, Session};
use super::{Answer, Tpm, answer};
use crate::error::{Error, Result};
use crate::policy::PolicyDigest;

/// TPM_CC_NV_Write.
pub(super) const NV_WRITE: u32 = 0x137;

/// Handles for owner-defined indices (TCG Registry of Reserved TPM 2.0 Handles, section 2.3.2).
const HANDLES: std::ops::RangeInclusive<u32> = 0x0180_0000..=0x01BF_FFFF;

/// Where within that range ours begin, away from the start that other software takes.
const FIRST: u32 = 0x0185_7200;

/// TPMA_NV (Part 2, section 13.4): attributes of an index.
pub(super) mod attribute {
    pub(in crate::tpm) const POLICYWRITE: u32 = 1 << 3;
    /// TPM_NT_PIN_FAIL in the field of the index's type.
    pub(in crate::tpm) const PIN_FAIL: u32 = 8 << 4;
    pub(in crate::tpm) const OWNERREAD: u32 = 1 << 17;
    pub(in crate::tpm) const AUTHREAD: u32 = 1 << 18;
    pub(in crate::tpm) const NO_DA: u32 = 1 << 25;
    pub(in crate::tpm) const WRITTEN: u32 = 1 << 29;
}

/// The handle of an index that an owner defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub(crate) struct IndexHandle(u32);

impl TryFrom<u32> for IndexHandle {
    type Error = String;

    fn try_from(handle: u32) -> Result<Self, String> {
        if HANDLES.contains(&handle) {
            Ok(Self(handle))
        } else {
            Err(format!(
                "{handle:#010x} is no NV index that an owner defines"
            ))
        }
    }
}

impl From<IndexHandle> for u32 {
    fn from(handle: IndexHandle) -> Self {
        handle.0
    }
}

/// What an index must be, but for its handle.
#[derive(Clone, Copy)]
pub(super) struct NvShape {
    /// Without WRITTEN.
    pub(super) attributes: u32,
    /// Who may write it, change its authorisation, or what else it is for.
    pub(super) policy: PolicyDigest,
    /// In bytes.
    pub(super) size: u16,
}

/// An index as it must be.
#[derive(Clone, Copy)]
pub(super) struct NvIndex {
    pub(super) handle: IndexHandle,
    pub(super) shape: NvShape,
}

/// What lies at an index's handle.
pub(super) enum Found {
    Nothing,
    /// The index, and its Name as computed from its public area.
    Index(NvIndexHandle, Name),
}

impl NvIndex {
    /// Defines an index at the first handle that is free, for an authorisation value that crosses
    /// the bus encrypted. It holds nothing yet.
    pub(super) fn define(
        tpm: &mut Tpm,
        session: Session,
        shape: NvShape,
        auth: Option<&Auth>,
        operation: &'static str,
    ) -> Result<(Self, NvIndexHandle)> {
        let mut handle = first_free_handle(tpm)?;
        loop {
            let index = Self {
                handle: IndexHandle(handle),
                shape,
            };
            match index.define_here(tpm, session, auth, operation) {
                Ok(open) => return Ok((index, open)),
                Err(Answered(Answer::NvDefined, _)) if HANDLES.contains(&(handle + 1)) => {
                    handle += 1;
                }
                Err(Answered(_, error)) => return Err(error),
            }
        }
    }

    /// Defines an index again where it was.
    pub(super) fn define_again(
        self,
        tpm: &mut Tpm,
        session: Session,
        auth: Option<&Auth>,
        operation: &'static str,
    ) -> Result<NvIndexHandle> {
        self.define_here(tpm, session, auth, operation)
            .map_err(|Answered(_, error)| error)
    }

    fn define_here(
        self,
        tpm: &mut Tpm,
        session: Session,
        auth: Option<&Auth>,
        operation: &'static str,
    ) -> std::result::Result<NvIndexHandle, Answered> {
        let public = self
            .public()
            .map_err(|error| Answered(Answer::Other, answer::error(operation, error)))?;
        session
            .encrypt_raw(tpm, Encrypt::Command, |tpm| {
                tpm.nv_define_space(Provision::Owner, auth.cloned(), public)
            })
            .map_err(|error| {
                let answered = Answer::of(error);
                let error = match answered {
                    Answer::Auth => owner_has_password(operation),
                    _ => answer::error(operation, error),
                };
                Answered(answered, error)
            })
    }

    /// What is at the index's handle. One command.
    pub(super) fn find(self, tpm: &mut Tpm, operation: &'static str) -> Result<Found> {
        let place = NvIndexTpmHandle::new(self.handle.0)
            .map_err(|error| answer::error(operation, error))?;
        Ok(match tpm.find(TpmHandle::NvIndex(place), operation)? {
            Some((object, name)) => Found::Index(NvIndexHandle::from(object), name),
            None => Found::Nothing,
        })
    }

    /// The Name once the index has been written, which is the one in policies.
    pub(super) fn name_written(&self) -> Name {
        self.name(attribute::WRITTEN)
    }

    /// The Name before the first write.
    pub(super) fn name_unwritten(&self) -> Name {
        self.name(0)
    }

    /// The Name over TPMS_NV_PUBLIC (Part 2, section 13.5).
    fn name(&self, state: u32) -> Name {
        let attributes = self.shape.attributes | state;
        let mut area = Vec::with_capacity(48);
        area.extend_from_slice(&self.handle.0.to_be_bytes());
        area.extend_from_slice(&ALG_SHA256);
        area.extend_from_slice(&attributes.to_be_bytes());
        area.extend_from_slice(&[0, 32]);
        area.extend_from_slice(self.shape.policy.as_bytes());
        area.extend_from_slice(&self.shape.size.to_be_bytes());
        Name::of_area(&area)
    }

    fn public(&self) -> tss_esapi::Result<NvPublic> {
        NvPublicBuilder::new()
            .with_nv_index(NvIndexTpmHandle::new(self.handle.0)?)
            .with_index_name_algorithm(HashingAlgorithm::Sha256)
            .with_index_attributes(NvIndexAttributes::try_from(self.shape.attributes)?)
            .with_index_auth_policy(Digest::try_from(self.shape.policy.as_bytes().to_vec())?)
            .with_data_area_size(self.shape.size.into())
            .build()
    }
}

/// Removes an index, which anyone with owner auth may.
pub(super) fn undefine(
    tpm: &mut Tpm,
    handle: NvIndexHandle,
    operation: &'static str,
) -> Result<()> {
    tpm.with_empty_auth(operation, |tpm| {
        tpm.nv_undefine_space(Provision::Owner, handle)
    })
}

/// cpHash of TPM2_NV_Write (Part 1, section 18.7) of an index by its own authority: code, Names of
/// both handles, data and offset 0.
pub(super) fn write_cp_hash(name: &Name, content: &[u8]) -> [u8; 32] {
    let len = u16::try_from(content.len()).expect("an index of ours is tens of bytes");
    Sha256::new()
        .chain_update(NV_WRITE.to_be_bytes())
        .chain_update(name.as_bytes())
        .chain_update(name.as_bytes())
        .chain_update(len.to_be_bytes())
        .chain_update(content)
        .chain_update(0_u16.to_be_bytes())
        .finalize()
        .into()
}

/// What the TPM answered, and the library's error for it.
struct Answered(Answer, Error);

/// The first handle from [`FIRST`] on that no index has.
fn first_free_handle(tpm: &mut Tpm) -> Result<u32> {
    let mut free = FIRST;
    let (taken, _) = tpm.without_session("GetCapability(handles)", |tpm| {
        tpm.get_capability(CapabilityType::Handles, FIRST, 64)
    })?;
    if let CapabilityData::Handles(handles) = taken {
        for handle in handles.iter() {
            if u32::from(*handle) == free {
                free += 1;
            }
        }
    }
    Ok(free)
}
