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

use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{Signature as P256Signature, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::constants::CommandCode;
use tss_esapi::handles::{AuthHandle, KeyHandle, ObjectHandle};
use tss_esapi::interface_types::algorithm::{
    EccSchemeAlgorithm, HashingAlgorithm, PublicAlgorithm,
};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::reserved_handles::{Hierarchy, NvAuth};
use tss_esapi::structures::{
    Digest, DigestList, EccParameter, EccPoint, EccScheme, EccSignature,
    KeyDerivationFunctionScheme, Name as TpmName, Nonce, Public, PublicBuilder,
    PublicEccParametersBuilder, SensitiveData, Signature, SymmetricDefinitionObject,
    VerifiedTicket,
};
use tss_esapi::tss2_esys::TPMT_TK_VERIFIED;

use super::index::{self, Index, IndexHandle, OpenIndex};
use super::key_file::KeyFile;
use super::name::Name;
use super::root_key::RootKey;
use super::session::{Encrypt, Gate, Session};
use super::storage::{load_under_root, sealed_template};
use super::{Tpm, answer};
use crate::encoding::Base64;
use crate::error::{Error, Result};
use crate::policy::PolicyDigest;
use crate::recovery::{RecoveryIdentity, RecoveryRecipient};
use crate::secret::Secret;

/// TPM_CC_NV_Write.
const NV_WRITE: u32 = 0x137;

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

/// K_rec: a P-256 signing key whose private half only the recovery identity opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RecoveryKey {
    public: VerifyKey,
    /// The private scalar, 32 bytes, encrypted to the recovery recipient (age).
    private: Base64,
}

/// A P-256 public key: the uncompressed point (SEC 1, 65 bytes).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct VerifyKey(Base64);

impl RecoveryKey {
    /// A new key, and its private half encrypted to `recipient`.
    pub(crate) fn generate(recipient: &RecoveryRecipient) -> (Self, OpenRecoveryKey) {
        let open = OpenRecoveryKey(signing_key(&Secret::random(32)));
        let private = Secret::copy_of(&open.0.to_bytes());
        let record = Self {
            public: VerifyKey::of(&open.0),
            private: recipient.encrypt(&private),
        };
        (record, open)
    }

    /// Opens the private half.
    pub(crate) fn open(&self, identity: &RecoveryIdentity) -> Result<OpenRecoveryKey> {
        let private = identity.decrypt(&self.private)?;
        let key = SigningKey::from_slice(private.expose())
            .ok()
            .filter(|key| VerifyKey::of(key) == self.public)
            .ok_or_else(|| {
                Error::RecoveryIdentity("its signing key is not the vault's".to_owned())
            })?;
        Ok(OpenRecoveryKey(key))
    }
}

/// K_rec with its private half.
pub(crate) struct OpenRecoveryKey(SigningKey);

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
        let k_x = signing_key(&Secret::random(32));
        let verify_k_x = VerifyKey::of(&k_x);
        let x = create_x(tpm, root, session, &verify_k_x)?;
        let mut writers = Self {
            x: x.to_der(root.persistent)?,
            k_x: verify_k_x,
            k_x_signature: Base64::default(),
            k_rec: k_rec.clone(),
        };
        let index = Index::define(tpm, writers.branches(vault_id)?.or())?;
        // K_x's one signature: PolicyAuthorize's aHash over the policy, with no policyRef.
        let approved = index.index.policy();
        writers.k_x_signature = sign(&k_x, &authorize_digest(approved));
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
        let ticket = {
            let key = self.k_x.load(tpm)?;
            let digest = authorize_digest(approved);
            let ticket = tpm.without_session("VerifySignature(K_x)", |tpm| {
                tpm.verify_signature(
                    key,
                    Digest::try_from(digest.to_vec())?,
                    signature(&self.k_x_signature)?,
                )
            });
            let flushed = tpm.flush(key);
            // The crate's ticket is not Clone, and an attempt that begins anew needs it again.
            let ticket = TPMT_TK_VERIFIED::try_from(ticket?)
                .map_err(|error| answer::error(OPERATION, error))?;
            flushed?;
            ticket
        };
        let k_x_name = TpmName::try_from(self.k_x.name()?.as_bytes().to_vec())
            .map_err(|error| answer::error(OPERATION, error))?;
        let x_file = self.x()?;
        let x = load_under_root(tpm, root, &x_file, "Load(X)")?;
        let writing = Session::start(tpm, root)?;
        let done = gate.attempt(tpm, OPERATION, |tpm| {
            let prover = gate.session.policy();
            tpm.context.execute_without_session(|tpm| {
                tpm.policy_authorize(
                    prover,
                    Digest::try_from(approved.as_bytes().to_vec())?,
                    Nonce::default(),
                    &k_x_name,
                    VerifiedTicket::try_from(ticket)?,
                )?;
                tpm.policy_password(prover)
            })?;
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
        let verify = self.k_rec.public.load(tpm)?;
        let writing = Session::start(tpm, root)?;
        let done = (|| {
            let nonce = writing.nonce(tpm)?;
            // aHash of TPM2_PolicySigned (Part 3, section 23.3): this session, for ever or never,
            // this write, this vault.
            let digest: [u8; 32] = Sha256::new()
                .chain_update(nonce.as_slice())
                .chain_update(0_i32.to_be_bytes())
                .chain_update(write.cp_hash())
                .chain_update(vault_id.as_bytes())
                .finalize()
                .into();
            let signed = signature(&sign(&key.0, &digest))?;
            tpm.context.execute_without_session(|tpm| {
                tpm.policy_signed(
                    writing.policy(),
                    verify.into(),
                    nonce,
                    Digest::try_from(write.cp_hash().to_vec())?,
                    Nonce::try_from(vault_id.as_bytes().to_vec())?,
                    None,
                    signed,
                )
            })?;
            self.finish(tpm, writing, write, vault_id)
        })()
        .map_err(|error| answer::error(OPERATION, error));
        let flushed = tpm.flush(verify).and(writing.close(tpm));
        done.and(flushed)
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
        let k_rec = self.k_rec.public.name()?;
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
    /// cpHash of TPM2_NV_Write (Part 1, section 18.7): code, Names of both handles (N authorises
    /// itself), data and offset 0.
    fn cp_hash(&self) -> [u8; 32] {
        let content = index::content(self.policy);
        let len = u16::try_from(content.len()).expect("34");
        Sha256::new()
            .chain_update(NV_WRITE.to_be_bytes())
            .chain_update(self.name.as_bytes())
            .chain_update(self.name.as_bytes())
            .chain_update(len.to_be_bytes())
            .chain_update(&content)
            .chain_update(0_u16.to_be_bytes())
            .finalize()
            .into()
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

impl VerifyKey {
    fn of(key: &SigningKey) -> Self {
        let point = VerifyingKey::from(key).to_encoded_point(false);
        Self(Base64(point.as_bytes().to_vec()))
    }

    fn name(&self) -> Result<Name> {
        Name::of_object(&self.public()?)
    }

    /// Loads it for the TPM to verify with. In the owner hierarchy, because a ticket of the null
    /// hierarchy authorises nothing.
    fn load(&self, tpm: &mut Tpm) -> Result<KeyHandle> {
        let public = self.public()?;
        tpm.without_session("LoadExternal(verifying key)", |tpm| {
            tpm.load_external(None, public, Hierarchy::Owner)
        })
    }

    fn public(&self) -> Result<Public> {
        let bad = || Error::input("verifying key in vault.json", "it is not a point of P-256");
        let [4, point @ ..] = self.0.0.as_slice() else {
            return Err(bad());
        };
        if point.len() != 64 {
            return Err(bad());
        }
        let (x, y) = point.split_at(32);
        let build = || -> tss_esapi::Result<Public> {
            let attributes = ObjectAttributesBuilder::new()
                .with_user_with_auth(true)
                .with_sign_encrypt(true)
                .build()?;
            let scheme = EccScheme::create(
                EccSchemeAlgorithm::EcDsa,
                Some(HashingAlgorithm::Sha256),
                None,
            )?;
            let parameters = PublicEccParametersBuilder::new()
                .with_symmetric(SymmetricDefinitionObject::Null)
                .with_ecc_scheme(scheme)
                .with_curve(EccCurve::NistP256)
                .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
                .with_is_signing_key(true)
                .build()?;
            PublicBuilder::new()
                .with_public_algorithm(PublicAlgorithm::Ecc)
                .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
                .with_object_attributes(attributes)
                .with_ecc_parameters(parameters)
                .with_ecc_unique_identifier(EccPoint::new(
                    EccParameter::try_from(x.to_vec())?,
                    EccParameter::try_from(y.to_vec())?,
                ))
                .build()
        };
        build().map_err(|_| bad())
    }
}

/// aHash of TPM2_PolicyAuthorize (Part 3, section 23.16) for a policy without policyRef.
fn authorize_digest(approved: PolicyDigest) -> [u8; 32] {
    Sha256::digest(approved.as_bytes()).into()
}

/// A P-256 key from 32 random bytes. All but about 2^-32 of them are one; the rest draw again.
fn signing_key(seed: &Secret) -> SigningKey {
    SigningKey::from_slice(seed.expose()).unwrap_or_else(|_| signing_key(&Secret::random(32)))
}

fn sign(key: &SigningKey, digest: &[u8; 32]) -> Base64 {
    let signature: P256Signature = key
        .sign_prehash(digest)
        .expect("a SHA-256 digest is as long as P-256 wants");
    Base64(signature.to_bytes().to_vec())
}

/// r and s of 32 bytes each, as the TPM's structure.
fn signature(bytes: &Base64) -> tss_esapi::Result<Signature> {
    if bytes.0.len() != 64 {
        return Err(invalid());
    }
    let (r, s) = bytes.0.split_at(32);
    EccSignature::create(
        HashingAlgorithm::Sha256,
        EccParameter::try_from(r.to_vec())?,
        EccParameter::try_from(s.to_vec())?,
    )
    .map(Signature::EcDsa)
}

fn invalid() -> tss_esapi::Error {
    tss_esapi::Error::WrapperError(tss_esapi::WrapperErrorKind::InvalidParam)
}
