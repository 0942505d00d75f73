//! N: the NV index that holds the digest of what may boot. TPM2_PolicyAuthorizeNV puts its Name
//! into the policy of every storage key, so what it holds can change while no object does.

use tss_esapi::handles::NvIndexHandle;
use tss_esapi::interface_types::reserved_handles::NvAuth;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::MaxNvBuffer;

use super::name::{ALG_SHA256, Name};
use super::nv::{self, Found, NvIndex, NvShape, attribute};
use super::session::Session;
use super::{Answer, Tpm, answer};
use crate::error::{Error, Result};
use crate::policy::PolicyDigest;

pub(crate) use nv::IndexHandle;

/// TPMI_ALG_HASH and a SHA-256 digest.
const SIZE: u16 = 34;

/// N as it must be: at its handle, with its write policy.
#[derive(Clone, Copy)]
pub(crate) struct Index(NvIndex);

/// N, open on this connection.
#[derive(Clone, Copy)]
pub(crate) struct OpenIndex {
    pub(crate) handle: NvIndexHandle,
    pub(crate) index: Index,
}

impl Index {
    pub(crate) fn new(handle: IndexHandle, write_policy: PolicyDigest) -> Self {
        Self(NvIndex {
            handle,
            shape: shape(write_policy),
        })
    }

    /// Defines N at a handle that is free. It holds nothing yet.
    pub(crate) fn define(
        tpm: &mut Tpm,
        session: Session,
        write_policy: PolicyDigest,
    ) -> Result<OpenIndex> {
        let operation = "NV_DefineSpace(policy index)";
        let (index, handle) = NvIndex::define(tpm, session, shape(write_policy), None, operation)?;
        Ok(OpenIndex {
            handle,
            index: Self(index),
        })
    }

    /// Defines N again where it was, after something else removed it. It holds nothing yet.
    pub(super) fn define_again(self, tpm: &mut Tpm, session: Session) -> Result<OpenIndex> {
        if let Found::Index(stranger, _) = self.0.find(tpm, "NV_ReadPublic(policy index)")? {
            nv::undefine(tpm, stranger, "NV_UndefineSpace(a stranger's index)")?;
        }
        let handle = self
            .0
            .define_again(tpm, session, None, "NV_DefineSpace(policy index)")?;
        Ok(OpenIndex {
            handle,
            index: self,
        })
    }

    /// Opens N, and refuses an index at its handle that is another.
    pub(crate) fn open(self, tpm: &mut Tpm) -> Result<OpenIndex> {
        match self.0.find(tpm, "NV_ReadPublic(policy index)")? {
            Found::Nothing => Err(Error::ForeignTpm(format!(
                "it has no NV index {:#010x}",
                u32::from(self.0.handle)
            ))),
            Found::Index(handle, name) => {
                let open = OpenIndex {
                    handle,
                    index: self,
                };
                if name == self.name_written() {
                    Ok(open)
                } else {
                    Err(open.foreign())
                }
            }
        }
    }

    pub(crate) fn handle(&self) -> IndexHandle {
        self.0.handle
    }

    /// The Name once N has been written, which is the one in policies.
    pub(crate) fn name_written(&self) -> Name {
        self.0.name_written()
    }

    /// The Name before the first write.
    pub(crate) fn name_unwritten(&self) -> Name {
        self.0.name_unwritten()
    }

    /// The digest of TPM2_PolicyAuthorizeNV(N), the policy of storage keys.
    pub(crate) fn policy(&self) -> PolicyDigest {
        PolicyDigest::authorize_nv(self.name_written().as_bytes())
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

    /// Removes N. For what could not be finished.
    pub(crate) fn undefine(self, tpm: &mut Tpm) -> Result<()> {
        nv::undefine(tpm, self.handle, "NV_UndefineSpace(policy index)")
    }

    /// The error for an index that stands where N stood and is not N.
    pub(crate) fn foreign(&self) -> Error {
        Error::ForeignTpm(format!(
            "its NV index {:#010x} was removed and defined again by something other than Strongroom",
            u32::from(self.index.handle())
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

fn shape(write_policy: PolicyDigest) -> NvShape {
    NvShape {
        attributes: attribute::POLICYWRITE | attribute::AUTHREAD | attribute::NO_DA,
        policy: write_policy,
        size: SIZE,
    }
}
