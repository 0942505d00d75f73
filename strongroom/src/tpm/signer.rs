//! Keys that sign for the TPM to verify, P-256: K_rec, whose private half the recovery identity
//! alone opens, and others that sign once, where an index or an object begins, and are forgotten.

use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{Signature as P256Signature, SigningKey as P256SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::algorithm::{
    EccSchemeAlgorithm, HashingAlgorithm, PublicAlgorithm,
};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::reserved_handles::Hierarchy;
use tss_esapi::structures::{
    Digest, EccParameter, EccPoint, EccScheme, EccSignature, KeyDerivationFunctionScheme,
    Name as TpmName, Nonce, Public, PublicBuilder, PublicEccParametersBuilder, Signature,
    SymmetricDefinitionObject, VerifiedTicket,
};
use tss_esapi::tss2_esys::TPMT_TK_VERIFIED;

use super::name::Name;
use super::session::Session;
use super::{Tpm, answer};
use crate::encoding::Base64;
use crate::error::{Error, Result};
use crate::policy::PolicyDigest;
use crate::recovery::{RecoveryIdentity, RecoveryRecipient};
use crate::secret::Secret;

/// K_rec: a signing key whose private half only the recovery identity opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RecoveryKey {
    public: VerifyKey,
    /// The private scalar, 32 bytes, encrypted to the recovery recipient (age).
    private: Base64,
}

/// K_rec with its private half.
pub(crate) struct OpenRecoveryKey(SigningKey);

/// A public key: the uncompressed point (SEC 1, 65 bytes).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct VerifyKey(Base64);

/// A private key. It is wiped when it is dropped.
pub(super) struct SigningKey(P256SigningKey);

impl RecoveryKey {
    /// A new key, and its private half encrypted to `recipient`.
    pub(crate) fn generate(recipient: &RecoveryRecipient) -> (Self, OpenRecoveryKey) {
        let open = OpenRecoveryKey(SigningKey::generate());
        let private = Secret::copy_of(&open.0.0.to_bytes());
        let record = Self {
            public: open.0.verify_key(),
            private: recipient.encrypt(&private),
        };
        (record, open)
    }

    /// Opens the private half.
    pub(crate) fn open(&self, identity: &RecoveryIdentity) -> Result<OpenRecoveryKey> {
        let private = identity.decrypt(&self.private)?;
        let key = P256SigningKey::from_slice(private.expose())
            .ok()
            .map(SigningKey)
            .filter(|key| key.verify_key() == self.public)
            .ok_or_else(|| {
                Error::RecoveryIdentity("its signing key is not the vault's".to_owned())
            })?;
        Ok(OpenRecoveryKey(key))
    }

    pub(super) fn name(&self) -> Result<Name> {
        self.public.name()
    }
}

impl OpenRecoveryKey {
    pub(super) fn signing_key(&self) -> &SigningKey {
        &self.0
    }
}

impl SigningKey {
    pub(super) fn generate() -> Self {
        // All but about 2^-32 of random numbers of 32 bytes are a key.
        P256SigningKey::from_slice(Secret::random(32).expose())
            .map_or_else(|_| Self::generate(), Self)
    }

    pub(super) fn verify_key(&self) -> VerifyKey {
        let point = VerifyingKey::from(&self.0).to_encoded_point(false);
        VerifyKey(Base64(point.as_bytes().to_vec()))
    }

    /// r and s, 32 bytes each.
    fn sign(&self, digest: &[u8; 32]) -> Base64 {
        let signature: P256Signature = self
            .0
            .sign_prehash(digest)
            .expect("a SHA-256 digest is as long as P-256 wants");
        Base64(signature.to_bytes().to_vec())
    }

    /// Signs a policy, for TPM2_PolicyAuthorize without policyRef.
    pub(super) fn approve(&self, policy: PolicyDigest) -> Base64 {
        self.sign(&authorize_digest(policy))
    }

    /// TPM2_PolicySigned (Part 3, section 23.3), for this session alone: the signature is over its
    /// nonce, does not expire, and where `cp_hash` says so is for one exact command. LoadExternal,
    /// PolicySigned, FlushContext.
    pub(super) fn assert_in(
        &self,
        tpm: &mut Tpm,
        session: Session,
        cp_hash: Option<[u8; 32]>,
        policy_ref: &[u8],
        operation: &'static str,
    ) -> Result<()> {
        let verify = self.verify_key().load(tpm)?;
        let cp_hash = cp_hash.map_or_else(Vec::new, |hash| hash.to_vec());
        let asserted = (|| {
            let nonce = session.nonce(tpm)?;
            let digest: [u8; 32] = Sha256::new()
                .chain_update(nonce.as_slice())
                .chain_update(0_i32.to_be_bytes())
                .chain_update(&cp_hash)
                .chain_update(policy_ref)
                .finalize()
                .into();
            let signed = signature(&self.sign(&digest))?;
            tpm.context.execute_without_session(|tpm| {
                tpm.policy_signed(
                    session.policy(),
                    verify.into(),
                    nonce,
                    Digest::try_from(cp_hash)?,
                    Nonce::try_from(policy_ref.to_vec())?,
                    None,
                    signed,
                )
            })
        })()
        .map_err(|error| answer::error(operation, error));
        let flushed = tpm.flush(verify);
        asserted.and(flushed)
    }
}

impl VerifyKey {
    /// The TPM's word that this key once signed a policy: what it wants for TPM2_PolicyAuthorize.
    /// LoadExternal, VerifySignature, FlushContext.
    pub(super) fn ticket(
        &self,
        tpm: &mut Tpm,
        approved: PolicyDigest,
        signed: &Base64,
        operation: &'static str,
    ) -> Result<TPMT_TK_VERIFIED> {
        let key = self.load(tpm)?;
        let digest = authorize_digest(approved);
        let ticket = tpm.without_session(operation, |tpm| {
            tpm.verify_signature(key, Digest::try_from(digest.to_vec())?, signature(signed)?)
        });
        let flushed = tpm.flush(key);
        // The crate's own ticket is not Clone, and an attempt that begins anew needs it again.
        let ticket =
            TPMT_TK_VERIFIED::try_from(ticket?).map_err(|error| answer::error(operation, error))?;
        flushed?;
        Ok(ticket)
    }

    /// TPM2_PolicyAuthorize, in a session in which the approved policy was satisfied.
    pub(super) fn authorize_in(
        &self,
        tpm: &mut Tpm,
        session: Session,
        approved: PolicyDigest,
        ticket: TPMT_TK_VERIFIED,
    ) -> tss_esapi::Result<()> {
        let name = self.name().map_err(|_| invalid())?;
        let name = TpmName::try_from(name.as_bytes().to_vec())?;
        tpm.context.execute_without_session(|tpm| {
            tpm.policy_authorize(
                session.policy(),
                Digest::try_from(approved.as_bytes().to_vec())?,
                Nonce::default(),
                &name,
                VerifiedTicket::try_from(ticket)?,
            )
        })
    }

    pub(super) fn name(&self) -> Result<Name> {
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

/// aHash of TPM2_PolicyAuthorize (Part 3, section 23.16) for a policy without policyRef.
fn authorize_digest(approved: PolicyDigest) -> [u8; 32] {
    Sha256::digest(approved.as_bytes()).into()
}

pub(super) fn invalid() -> tss_esapi::Error {
    tss_esapi::Error::WrapperError(tss_esapi::WrapperErrorKind::InvalidParam)
}
