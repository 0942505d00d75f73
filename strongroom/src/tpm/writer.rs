//! Who may write N, and how. N's write policy, part of its Name, is one of two:
//!
//! - A: PolicySecret(X), PolicyCommandCode(NV_Write). X is an object that only an allowed boot can
//!   use, because its policy is PolicyAuthorize(K_x), PolicyPassword, and K_x once signed the
//!   policy PolicyAuthorizeNV(N) and was destroyed. So an allowed boot writes N by itself, and
//!   leaves no signature that outlives it.
//! - B: PolicySigned(K_rec), PolicyCommandCode(NV_Write). K_rec's private half is encrypted to the
//!   recovery recipient; it signs over the session's nonce and the exact write.
//!
//! K_x breaks the circle in which N's Name holds X's, and X's policy N's.

use serde::{Deserialize, Serialize};
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::constants::CommandCode;
use tss_esapi::handles::{AuthHandle, ObjectHandle};
use tss_esapi::interface_types::reserved_handles::NvAuth;
use tss_esapi::structures::{Digest, DigestList, Nonce, SensitiveData};

use super::index::{self, Index, IndexHandle, OpenIndex};
use super::key_file::KeyFile;
use super::name::Name;
use super::nv::{self, NV_WRITE};
use super::root_key::RootKey;
use super::session::{Besides, Encrypt, Gate, Session};
use super::signer::{OpenRecoveryKey, RecoveryKey, SigningKey, VerifyKey, invalid};
use super::storage::{load_under_root, sealed_template};
use super::{Tpm, answer};
use crate::encoding::Base64;
use crate::error::{Error, Result};
use crate::policy::PolicyDigest;
use crate::secret::Secret;

/// What the manifest says of the two ways to write N.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Writers {
    /// X, as a TSS2 key file under the root key.
    x: Base64,
    /// K_x's public half.
    k_x: VerifyKey,
    /// K_x's signature over the policy PolicyAuthorizeNV(N).
    k_x_signature: Base64,
    /// K_rec, by which the recovery identity writes N.
    pub(crate) k_rec: RecoveryKey,
}

/// N as it was just defined and written for the first time, and who may write it from now on.
pub(crate) struct Provisioned {
    pub(crate) index: OpenIndex,
    pub(crate) writers: Writers,
}

impl Writers {
    /// Makes X and N, and writes `policy` into N for the first time. What was begun is removed
    /// again if it cannot be finished.
    pub(crate) fn provision(
        tpm: &mut Tpm,
        root: RootKey,
        session: Session,
        k_rec: &RecoveryKey,
        open_k_rec: &OpenRecoveryKey,
        vault_id: &str,
        policy: PolicyDigest,
    ) -> Result<Provisioned> {
        let k_x = SigningKey::generate();
        let verify_k_x = k_x.verify_key();
        let x = create_x(tpm, root, session, &verify_k_x)?;
        let mut writers = Self {
            x: x.to_der(root.persistent)?,
            k_x: verify_k_x,
            k_x_signature: Base64::default(),
            k_rec: k_rec.clone(),
        };
        let index = Index::define(tpm, session, writers.branches(vault_id)?.or())?;
        // K_x's one signature: PolicyAuthorize's aHash over the policy, with no policyRef.
        let approved = index.index.policy();
        writers.k_x_signature = k_x.approve(approved);
        let first = Write {
            index,
            name: index.index.name_unwritten(),
            policy,
        };
        match writers.write_signed(tpm, root, &first, open_k_rec, vault_id) {
            Ok(()) => Ok(Provisioned { index, writers }),
            Err(error) => {
                let _ = index.undefine(tpm);
                Err(error)
            }
        }
    }

    /// N as these writers make it.
    pub(crate) fn index(&self, handle: IndexHandle, vault_id: &str) -> Result<Index> {
        Ok(Index::new(handle, self.branches(vault_id)?.or()))
    }

    /// Makes N again on its own TPM, after something else removed it, with the same Name: what was
    /// sealed opens again.
    pub(crate) fn restore(
        &self,
        tpm: &mut Tpm,
        root: RootKey,
        index: Index,
        key: &OpenRecoveryKey,
        vault_id: &str,
        policy: PolicyDigest,
    ) -> Result<()> {
        let session = Session::start(tpm, root)?;
        let defined = index.define_again(tpm, session);
        let closed = session.close(tpm);
        let first = Write {
            index: defined?,
            name: index.name_unwritten(),
            policy,
        };
        closed?;
        self.write_signed(tpm, root, &first, key, vault_id)
    }

    /// Writes N from an allowed boot (A). `gate` is open on the list that N holds now.
    pub(crate) fn rewrite(
        &self,
        tpm: &mut Tpm,
        root: RootKey,
        gate: &Gate,
        vault_id: &str,
        policy: PolicyDigest,
    ) -> Result<()> {
        const OPERATION: &str = "NV_Write(policy index) by an allowed boot";
        let write = Write {
            index: gate.index,
            name: gate.index.index.name_written(),
            policy,
        };
        let approved = gate.index.index.policy();
        let ticket = self
            .k_x
            .ticket(tpm, approved, &self.k_x_signature, OPERATION)?;
        let x_file = self.x()?;
        let x = load_under_root(tpm, root, &x_file, "Load(X)")?;
        let writing = Session::start(tpm, root)?;
        let done = gate.attempt(tpm, &Besides::default(), OPERATION, |tpm| {
            let prover = gate.session;
            self.k_x.authorize_in(tpm, prover, approved, ticket)?;
            tpm.context
                .execute_without_session(|tpm| tpm.policy_password(prover.policy()))?;
            let cp_hash = Digest::try_from(write.cp_hash().to_vec())?;
            gate.session.authorise(tpm, Encrypt::Nothing, |tpm| {
                tpm.policy_secret(
                    writing.policy(),
                    AuthHandle::from(ObjectHandle::from(x)),
                    Nonce::default(),
                    cp_hash,
                    Nonce::default(),
                    None,
                )
            })
        });
        let done = done.and_then(|_| {
            self.finish(tpm, writing, &write, vault_id)
                .map_err(|error| answer::error(OPERATION, error))
        });
        // What failed first is what is said.
        let flushed = tpm.flush(x).and(writing.close(tpm));
        done.and(flushed)
    }

    /// Writes N by the recovery identity (B), in any boot.
    pub(crate) fn rewrite_by_recovery(
        &self,
        tpm: &mut Tpm,
        root: RootKey,
        index: OpenIndex,
        key: &OpenRecoveryKey,
        vault_id: &str,
        policy: PolicyDigest,
    ) -> Result<()> {
        let write = Write {
            index,
            name: index.index.name_written(),
            policy,
        };
        self.write_signed(tpm, root, &write, key, vault_id)
    }

    fn write_signed(
        &self,
        tpm: &mut Tpm,
        root: RootKey,
        write: &Write,
        key: &OpenRecoveryKey,
        vault_id: &str,
    ) -> Result<()> {
        const OPERATION: &str = "NV_Write(policy index) by the recovery identity";
        let writing = Session::start(tpm, root)?;
        let signed = key.signing_key().assert_in(
            tpm,
            writing,
            Some(write.cp_hash()),
            vault_id.as_bytes(),
            OPERATION,
        );
        let done = signed.and_then(|()| {
            self.finish(tpm, writing, write, vault_id)
                .map_err(|error| answer::error(OPERATION, error))
        });
        let closed = writing.close(tpm);
        done.and(closed)
    }

    /// PolicyCommandCode, PolicyOR, NV_Write: the end of both ways.
    fn finish(
        &self,
        tpm: &mut Tpm,
        writing: Session,
        write: &Write,
        vault_id: &str,
    ) -> tss_esapi::Result<()> {
        let branches = self.branches(vault_id).map_err(|_| invalid())?;
        let policy = writing.policy();
        tpm.context.execute_without_session(|tpm| {
            tpm.policy_command_code(policy, CommandCode::NvWrite)?;
            let mut list = DigestList::new();
            for branch in [branches.a, branches.b] {
                list.add(Digest::try_from(branch.as_bytes().to_vec())?)?;
            }
            tpm.policy_or(policy, list)
        })?;
        let handle = write.index.handle;
        writing.authorise(tpm, Encrypt::Nothing, |tpm| {
            tpm.nv_write(
                NvAuth::NvIndex(handle),
                handle,
                index::buffer(write.policy),
                0,
            )
        })
    }

    fn branches(&self, vault_id: &str) -> Result<WriteBranches> {
        let x = self.x()?.name()?;
        let k_rec = self.k_rec.name()?;
        Ok(WriteBranches {
            a: PolicyDigest::EMPTY
                .secret(x.as_bytes())
                .command_code(NV_WRITE),
            b: PolicyDigest::EMPTY
                .signed(k_rec.as_bytes(), vault_id.as_bytes())
                .command_code(NV_WRITE),
        })
    }

    fn x(&self) -> Result<KeyFile> {
        KeyFile::from_der(&self.x).map_err(|reason| Error::input("X in vault.json", reason))
    }
}

/// The two branches of N's write policy.
struct WriteBranches {
    a: PolicyDigest,
    b: PolicyDigest,
}

impl WriteBranches {
    fn or(&self) -> PolicyDigest {
        PolicyDigest::or(&[self.a, self.b])
    }
}

/// One write of N, exactly.
struct Write {
    index: OpenIndex,
    /// N's Name at the time of the write.
    name: Name,
    policy: PolicyDigest,
}

impl Write {
    fn cp_hash(&self) -> [u8; 32] {
        nv::write_cp_hash(&self.name, &index::content(self.policy))
    }
}

/// X: it holds random bytes that nobody needs; what counts is that using it takes an allowed boot.
fn create_x(tpm: &mut Tpm, root: RootKey, session: Session, k_x: &VerifyKey) -> Result<KeyFile> {
    const OPERATION: &str = "Create(X)";
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_admin_with_policy(true)
        .with_no_da(true);
    let policy = PolicyDigest::authorize(k_x.name()?.as_bytes()).password();
    let template =
        sealed_template(attributes, policy).map_err(|error| answer::error(OPERATION, error))?;
    let made = session.encrypt(tpm, OPERATION, Encrypt::Command, |tpm| {
        let filling = SensitiveData::try_from(Secret::random(32).expose().to_vec())?;
        tpm.create(root.handle, template, None, Some(filling), None, None)
    })?;
    Ok(KeyFile {
        public: made.out_public,
        private: made.out_private,
    })
}
