//! N: the NV index that holds the digest of what may boot. TPM2_PolicyAuthorizeNV puts its Name
//! into the policy of every storage key, so what it holds can change while no object does.

use serde::{Deserialize, Serialize};
use tss_esapi::attributes::NvIndexAttributesBuilder;
use tss_esapi::constants::CapabilityType;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::reserved_handles::{NvAuth, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{CapabilityData, Digest, MaxNvBuffer, NvPublic, NvPublicBuilder};

use super::name::{ALG_SHA256, Name};
use super::root_key::owner_has_password;
use super::{Answer, Tpm, answer};
use crate::error::{Error, Result};
use crate::policy::PolicyDigest;

/// TPMI_ALG_HASH and a SHA-256 digest.
const SIZE: u16 = 34;

/// Handles for owner-defined indices (TCG Registry of Reserved TPM 2.0 Handles, section 2.3.2).
const HANDLES: std::ops::RangeInclusive<u32> = 0x0180_0000..=0x01BF_FFFF;

/// Where within that range ours begin, away from the start that other software takes.
const FIRST: u32 = 0x0185_7200;

/// TPMA_NV (Part 2, section 13.4).
mod attribute {
    pub(super) const POLICYWRITE: u32 = 1 << 3;
    pub(super) const AUTHREAD: u32 = 1 << 18;
    pub(super) const NO_DA: u32 = 1 << 25;
    pub(super) const WRITTEN: u32 = 1 << 29;
}

/// What the manifest says of N; the rest of its public area is the same in every vault.
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

/// N as it must be: at its handle, with its write policy.
#[derive(Clone, Copy)]
pub(crate) struct Index {
    pub(crate) handle: IndexHandle,
    write_policy: PolicyDigest,
}

/// N, open on this connection.
#[derive(Clone, Copy)]
pub(crate) struct OpenIndex {
    pub(crate) handle: NvIndexHandle,
    pub(crate) index: Index,
}

impl Index {
    pub(crate) fn new(handle: IndexHandle, write_policy: PolicyDigest) -> Self {
        Self {
            handle,
            write_policy,
        }
    }

    /// Defines N at a handle that is free. It holds nothing yet.
    pub(crate) fn define(tpm: &mut Tpm, write_policy: PolicyDigest) -> Result<OpenIndex> {
        const OPERATION: &str = "NV_DefineSpace(policy index)";
        let mut handle = first_free_handle(tpm)?;
        loop {
            let index = Self::new(IndexHandle(handle), write_policy);
            let public = index.public()?;
            let defined = tpm
                .context
                .execute_with_session(Some(AuthSession::Password), |tpm| {
                    tpm.nv_define_space(Provision::Owner, None, public)
                });
            match defined {
                Ok(handle) => return Ok(OpenIndex { handle, index }),
                Err(error) => match Answer::of(error) {
                    Answer::NvDefined if HANDLES.contains(&(handle + 1)) => handle += 1,
                    Answer::Auth => return Err(owner_has_password(OPERATION)),
                    _ => return Err(answer::error(OPERATION, error)),
                },
            }
        }
    }

    /// Opens N, and refuses an index at its handle that is another.
    pub(crate) fn open(self, tpm: &mut Tpm) -> Result<OpenIndex> {
        const OPERATION: &str = "NV_ReadPublic(policy index)";
        let place = self.tpm_handle()?;
        let found = tpm
            .context
            .execute_without_session(|tpm| tpm.tr_from_tpm_public(TpmHandle::NvIndex(place)));
        let object = match found {
            Ok(object) => object,
            Err(error) if Answer::of(error) == Answer::NoSuchHandle => {
                return Err(Error::ForeignTpm(format!(
                    "it has no NV index {:#010x}",
                    self.handle.0
                )));
            }
            Err(error) => return Err(answer::error(OPERATION, error)),
        };
        let name = tpm
            .context
            .tr_get_name(object)
            .map_err(|error| answer::error(OPERATION, error))?;
        let open = OpenIndex {
            handle: NvIndexHandle::from(object),
            index: self,
        };
        if Name::from_tpm(name.value()) == self.name_written() {
            Ok(open)
        } else {
            Err(open.foreign())
        }
    }

    /// The Name once N has been written, which is the one in policies.
    pub(crate) fn name_written(&self) -> Name {
        self.name(attribute::WRITTEN)
    }

    /// The Name before the first write.
    pub(crate) fn name_unwritten(&self) -> Name {
        self.name(0)
    }

    /// The digest of TPM2_PolicyAuthorizeNV(N), the policy of storage keys.
    pub(crate) fn policy(&self) -> PolicyDigest {
        PolicyDigest::authorize_nv(self.name_written().as_bytes())
    }

    /// The Name over TPMS_NV_PUBLIC (Part 2, section 13.5).
    fn name(&self, state: u32) -> Name {
        let attributes = attribute::POLICYWRITE | attribute::AUTHREAD | attribute::NO_DA | state;
        let policy = self.write_policy.as_bytes();
        let mut area = Vec::with_capacity(48);
        area.extend_from_slice(&self.handle.0.to_be_bytes());
        area.extend_from_slice(&ALG_SHA256);
        area.extend_from_slice(&attributes.to_be_bytes());
        area.extend_from_slice(&[0, 32]);
        area.extend_from_slice(policy);
        area.extend_from_slice(&SIZE.to_be_bytes());
        Name::of_area(&area)
    }

    fn public(&self) -> Result<NvPublic> {
        let place = self.tpm_handle()?;
        let build = || -> tss_esapi::Result<NvPublic> {
            NvPublicBuilder::new()
                .with_nv_index(place)
                .with_index_name_algorithm(HashingAlgorithm::Sha256)
                .with_index_attributes(
                    NvIndexAttributesBuilder::new()
                        .with_policy_write(true)
                        .with_auth_read(true)
                        .with_no_da(true)
                        .build()?,
                )
                .with_index_auth_policy(Digest::try_from(self.write_policy.as_bytes().to_vec())?)
                .with_data_area_size(SIZE.into())
                .build()
        };
        build().map_err(|error| answer::error("policy index", error))
    }

    fn tpm_handle(&self) -> Result<NvIndexTpmHandle> {
        NvIndexTpmHandle::new(self.handle.0).map_err(|_| {
            Error::input(
                format!("NV index {:#010x}", self.handle.0),
                "this is no handle of an NV index",
            )
        })
    }
}

impl OpenIndex {
    /// The digest that N holds: what may boot. It is public.
    pub(crate) fn read(&self, tpm: &mut Tpm) -> Result<[u8; 32]> {
        const OPERATION: &str = "NV_Read(policy index)";
        let handle = self.handle;
        let read = tpm
            .context
            .execute_with_session(Some(AuthSession::Password), |tpm| {
                tpm.nv_read(NvAuth::NvIndex(handle), handle, SIZE, 0)
            });
        let content = match read {
            Ok(content) => content,
            Err(error) if Answer::of(error) == Answer::NvUninitialized => {
                return Err(self.foreign());
            }
            Err(error) => return Err(answer::error(OPERATION, error)),
        };
        content
            .as_slice()
            .strip_prefix(&ALG_SHA256)
            .and_then(|digest| digest.try_into().ok())
            .ok_or_else(|| self.foreign())
    }

    /// Removes N, which anyone with owner auth may. For what could not be finished.
    pub(crate) fn undefine(self, tpm: &mut Tpm) -> Result<()> {
        tpm.with_empty_auth("NV_UndefineSpace(policy index)", |tpm| {
            tpm.nv_undefine_space(Provision::Owner, self.handle)
        })
    }

    /// The error for an index that stands where N stood and is not N.
    pub(crate) fn foreign(&self) -> Error {
        Error::ForeignTpm(format!(
            "its NV index {:#010x} was removed and defined again by something other than Strongroom",
            self.index.handle.0
        ))
    }
}

/// What is written into N for a policy.
pub(super) fn content(policy: PolicyDigest) -> Vec<u8> {
    [&ALG_SHA256[..], policy.as_bytes()].concat()
}

/// The same as the command's parameter.
pub(super) fn buffer(policy: PolicyDigest) -> MaxNvBuffer {
    MaxNvBuffer::try_from(content(policy)).expect("34 bytes are fewer than the 2,048 that fit")
}

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
