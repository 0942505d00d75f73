//! Private keys in the TPM: made there under a storage key, or brought in encrypted to it; loaded,
//! and used.
//!
//! Loading one has cost its parent's policy, so its own auth is empty, and a use costs one command.

use tss_esapi::Context;
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::structures::{
    Digest, EccParameter, EccPoint, EccScheme, EncryptedSecret, HashScheme,
    KeyDerivationFunctionScheme, Private, Public, PublicBuilder, PublicEccParameters, PublicKeyRsa,
    PublicParameters, PublicRsaParameters, PublicRsaParametersBuilder, RsaDecryptionScheme,
    RsaExponent, RsaScheme, Signature, SignatureScheme, SymmetricDefinitionObject,
};

use super::duplicate::{Duplicate, Sensitive};
use super::key_file::KeyFile;
use super::session::{Encrypt, Gate};
use super::storage::StorageKey;
use super::{Answer, Tpm, answer};
use crate::error::{Error, Result};
use crate::key::{Curve, KeyAlgorithm, PublicKey, padded};
use crate::secret::Secret;

/// A private key, loaded.
pub(crate) struct TpmKey {
    handle: KeyHandle,
    /// The connection that loaded it.
    serial: u64,
}

/// Whether what a private operation gives may cross the bus in clear.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A signature. One command.
    Public,
    /// What was encrypted.
    Secret,
}

impl Tpm {
    /// Whether this TPM has an algorithm and size. One command.
    pub(crate) fn has_algorithm(&mut self, algorithm: KeyAlgorithm) -> Result<bool> {
        const OPERATION: &str = "TestParms";
        let Some(parameters) = parameters(algorithm) else {
            return Ok(false);
        };
        let tested = self
            .context
            .execute_without_session(|tpm| tpm.test_parms(parameters.into()));
        match tested {
            Ok(()) => Ok(true),
            Err(error) => match Answer::of(error) {
                Answer::Value | Answer::Lacks => Ok(false),
                _ => Err(answer::error(OPERATION, error)),
            },
        }
    }

    /// Random numbers of the TPM's own, encrypted on the bus. One command for each digest's
    /// length.
    pub(crate) fn random(&mut self, gate: &Gate, len: usize) -> Result<Secret> {
        self.gather(len, |tpm, wanted| {
            gate.session
                .authorise(tpm, Encrypt::Response, |tpm| tpm.get_random(wanted))
        })
    }

    /// The same in clear, without a session.
    pub(crate) fn plain_random(&mut self, len: usize) -> Result<Secret> {
        self.gather(len, |tpm, wanted| {
            tpm.context
                .execute_without_session(|tpm| tpm.get_random(wanted))
        })
    }

    fn gather(
        &mut self,
        len: usize,
        mut get: impl FnMut(&mut Self, usize) -> tss_esapi::Result<Digest>,
    ) -> Result<Secret> {
        const OPERATION: &str = "GetRandom";
        /// Part 3, section 16.1: never more than the longest digest, which is 32 bytes at least.
        const MOST: usize = 32;
        let mut random = Secret::zeroed(len);
        let mut rest = random.expose_mut();
        while !rest.is_empty() {
            let wanted = rest.len().min(MOST);
            let some = get(self, wanted).map_err(|error| answer::error(OPERATION, error))?;
            let some = some.as_slice();
            if some.is_empty() || some.len() > wanted {
                return Err(Error::Tpm {
                    operation: OPERATION,
                    reason: "it gives no random numbers".to_owned(),
                });
            }
            let (here, behind) = rest.split_at_mut(some.len());
            here.copy_from_slice(some);
            rest = behind;
        }
        Ok(random)
    }
}

impl StorageKey {
    /// Makes a private key in the TPM. Three commands and a branch's PolicyOR.
    pub(crate) fn create_key(
        &self,
        tpm: &mut Tpm,
        gate: &Gate,
        algorithm: KeyAlgorithm,
    ) -> Result<KeyFile> {
        const OPERATION: &str = "Create(private key)";
        let template = template(algorithm, None).map_err(|e| answer::error(OPERATION, e))?;
        let made = self.pass(tpm, gate, OPERATION, Encrypt::Command, |tpm| {
            tpm.create(self.handle(), template.clone(), None, None, None, None)
        })?;
        Ok(KeyFile {
            public: made.out_public,
            private: made.out_private,
        })
    }

    /// Brings a private key into the TPM, encrypted on the bus to this storage key, whose public
    /// area `parent` is. Three commands and a branch's PolicyOR.
    pub(crate) fn import_key(
        &self,
        tpm: &mut Tpm,
        gate: &Gate,
        parent: &Public,
        key: &PublicKey,
        sensitive: &Secret,
    ) -> Result<KeyFile> {
        const OPERATION: &str = "Import(private key)";
        let public =
            template(key.algorithm(), Some(key)).map_err(|e| answer::error(OPERATION, e))?;
        let sensitive = Sensitive::private_key(key.algorithm(), sensitive);
        let duplicate = Duplicate::new(parent, &public, sensitive)?;
        let private = self.pass(tpm, gate, OPERATION, Encrypt::Nothing, |tpm| {
            tpm.import(
                self.handle().into(),
                None,
                public.clone(),
                Private::try_from(duplicate.private.clone())?,
                EncryptedSecret::try_from(duplicate.seed.clone())?,
                SymmetricDefinitionObject::Null,
            )
        })?;
        Ok(KeyFile { public, private })
    }

    /// Loads a private key. PolicyPCR [, PolicyOR], PolicyAuthorizeNV, Load.
    pub(crate) fn load_key(&self, tpm: &mut Tpm, gate: &Gate, file: &KeyFile) -> Result<TpmKey> {
        self.pass(tpm, gate, "Load(private key)", Encrypt::Nothing, |tpm| {
            tpm.load(self.handle(), file.private.clone(), file.public.clone())
        })
        .map(|handle| TpmKey {
            handle,
            serial: tpm.serial,
        })
    }
}

impl TpmKey {
    pub(crate) fn unload(self, tpm: &mut Tpm) -> Result<()> {
        let handle = self.at(tpm)?;
        tpm.flush(handle)
    }

    /// The key's handle on the connection that loaded it. On another one the same handle is
    /// another key.
    fn at(&self, tpm: &Tpm) -> Result<KeyHandle> {
        if self.serial == tpm.serial {
            Ok(self.handle)
        } else {
            Err(Error::input(
                "loaded key",
                "another unlocked vault loaded it; load it again",
            ))
        }
    }

    /// RSA's private operation alone (Part 3, section 14.3, TPM_ALG_NULL). `input` is as long as the
    /// modulus, and so is what comes of it.
    pub(crate) fn rsa(
        &self,
        tpm: &mut Tpm,
        gate: &Gate,
        input: &[u8],
        outcome: Outcome,
    ) -> Result<Secret> {
        const OPERATION: &str = "RSA_Decrypt";
        let handle = self.at(tpm)?;
        let command = |tpm: &mut Context| {
            let input = PublicKeyRsa::try_from(input.to_vec())?;
            tpm.rsa_decrypt(handle, input, RsaDecryptionScheme::Null, None)
        };
        let result = match outcome {
            Outcome::Public => tpm.with_empty_auth(OPERATION, command),
            Outcome::Secret => gate
                .session
                .encrypt(tpm, OPERATION, Encrypt::Response, command),
        }?;
        Ok(padded(&Secret::copy_of(result.as_slice()), input.len()))
    }

    /// ECDSA over a digest as long as the field: r ‖ s. One command.
    pub(crate) fn ecdsa(&self, tpm: &mut Tpm, curve: Curve, digest: &[u8]) -> Result<Vec<u8>> {
        const OPERATION: &str = "Sign";
        let handle = self.at(tpm)?;
        // A TPM wants a hash that is as long as the digest, and does nothing else with it.
        let hash = match curve {
            Curve::P256 => HashingAlgorithm::Sha256,
            Curve::P384 => HashingAlgorithm::Sha384,
            Curve::P521 => return Err(crate::key::not_of_its_kind()),
        };
        let scheme = SignatureScheme::EcDsa {
            scheme: HashScheme::new(hash),
        };
        let signature = tpm.with_empty_auth(OPERATION, |tpm| {
            tpm.sign(handle, Digest::try_from(digest.to_vec())?, scheme, None)
        })?;
        let Signature::EcDsa(signature) = signature else {
            return Err(Error::Tpm {
                operation: OPERATION,
                reason: "it answered with another scheme's signature".to_owned(),
            });
        };
        let mut joined = Vec::with_capacity(2 * curve.field_len());
        for half in [signature.signature_r(), signature.signature_s()] {
            joined.extend(coordinate(half, curve));
        }
        Ok(joined)
    }

    /// The x coordinate of what both sides come to, encrypted on the bus. `peer` is an uncompressed
    /// point of the key's curve.
    pub(crate) fn ecdh(
        &self,
        tpm: &mut Tpm,
        gate: &Gate,
        curve: Curve,
        peer: &[u8],
    ) -> Result<Secret> {
        let handle = self.at(tpm)?;
        let point = gate
            .session
            .encrypt(tpm, "ECDH_ZGen", Encrypt::Response, |tpm| {
                tpm.ecdh_z_gen(handle, point(peer)?)
            })?;
        let x = Secret::copy_of(point.x().as_slice());
        Ok(padded(&x, curve.field_len()))
    }
}

impl KeyFile {
    /// The public half.
    pub(crate) fn public_key(&self) -> Result<PublicKey> {
        const DEFAULT_EXPONENT: u32 = 65_537;
        match &self.public {
            Public::Rsa {
                parameters, unique, ..
            } => {
                let exponent = match parameters.exponent().value() {
                    0 => DEFAULT_EXPONENT,
                    other => other,
                };
                PublicKey::from_rsa_parts(unique.as_slice(), &exponent.to_be_bytes())
            }
            Public::Ecc {
                parameters, unique, ..
            } => {
                let curve = match parameters.ecc_curve() {
                    EccCurve::NistP256 => Curve::P256,
                    EccCurve::NistP384 => Curve::P384,
                    _ => return Err(no_key()),
                };
                let mut point = vec![4];
                point.extend(coordinate(unique.x(), curve));
                point.extend(coordinate(unique.y(), curve));
                PublicKey::from_point(KeyAlgorithm::Ec(curve), &point)
            }
            _ => Err(no_key()),
        }
    }
}

/// What is asked of a TPM for an algorithm; `None` where no TPM has the size.
enum Parameters {
    Rsa(PublicRsaParameters),
    Ecc(PublicEccParameters),
}

impl From<Parameters> for PublicParameters {
    fn from(parameters: Parameters) -> Self {
        match parameters {
            Parameters::Rsa(parameters) => Self::Rsa(parameters),
            Parameters::Ecc(parameters) => Self::Ecc(parameters),
        }
    }
}

/// Neither scheme nor symmetric algorithm, so that each use names its own.
fn parameters(algorithm: KeyAlgorithm) -> Option<Parameters> {
    match algorithm {
        KeyAlgorithm::Rsa(bits) => {
            let parameters = PublicRsaParametersBuilder::new()
                .with_scheme(RsaScheme::Null)
                .with_key_bits(RsaKeyBits::try_from(bits).ok()?)
                .with_exponent(RsaExponent::ZERO_EXPONENT)
                .with_is_signing_key(true)
                .with_is_decryption_key(true)
                .build();
            parameters.ok().map(Parameters::Rsa)
        }
        KeyAlgorithm::Ec(curve) => Some(Parameters::Ecc(PublicEccParameters::new(
            SymmetricDefinitionObject::Null,
            EccScheme::Null,
            match curve {
                Curve::P256 => EccCurve::NistP256,
                Curve::P384 => EccCurve::NistP384,
                // Hardly any TPM has it, and none was there to try it on.
                Curve::P521 => return None,
            },
            KeyDerivationFunctionScheme::Null,
        ))),
        // Not in the TPM's registry as of revision 1.59.
        KeyAlgorithm::Ed25519 | KeyAlgorithm::Ed448 | KeyAlgorithm::X25519 => None,
    }
}

/// A key that signs and decrypts, with empty auth, because the parent has asked for the policy
/// already; noDA; stClear, so that what an allowed boot loaded can be neither made persistent nor
/// restored after a restart. One that is made here is bound to this TPM and parent. TPM2_Import
/// takes none that is (Part 3, section 13.3); yet without a policy of its own it cannot be duplicated
/// either, for that takes TPM2_PolicyCommandCode (Part 1, section 19.6).
fn template(algorithm: KeyAlgorithm, import: Option<&PublicKey>) -> tss_esapi::Result<Public> {
    let made_here = import.is_none();
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(made_here)
        .with_fixed_parent(made_here)
        .with_sensitive_data_origin(made_here)
        .with_st_clear(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_sign_encrypt(true)
        .with_decrypt(true)
        .build()?;
    let builder = PublicBuilder::new()
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(Digest::default());
    match parameters(algorithm) {
        Some(Parameters::Rsa(parameters)) => builder
            .with_public_algorithm(PublicAlgorithm::Rsa)
            .with_rsa_parameters(parameters)
            .with_rsa_unique_identifier(match import.and_then(PublicKey::rsa) {
                Some((n, _)) => PublicKeyRsa::try_from(n.to_vec())?,
                None => PublicKeyRsa::default(),
            })
            .build(),
        Some(Parameters::Ecc(parameters)) => builder
            .with_public_algorithm(PublicAlgorithm::Ecc)
            .with_ecc_parameters(parameters)
            .with_ecc_unique_identifier(match import.and_then(PublicKey::ec_point) {
                Some(bytes) => point(bytes)?,
                None => EccPoint::default(),
            })
            .build(),
        None => Err(invalid()),
    }
}

/// An uncompressed point as the TPM's structure.
fn point(bytes: &[u8]) -> tss_esapi::Result<EccPoint> {
    let (_, halves) = bytes.split_first().ok_or_else(invalid)?;
    let (x, y) = halves.split_at(halves.len() / 2);
    Ok(EccPoint::new(
        EccParameter::try_from(x.to_vec())?,
        EccParameter::try_from(y.to_vec())?,
    ))
}

/// A public number as long as the field; TPMs may leave out leading zeros.
pub(super) fn coordinate(number: &EccParameter, curve: Curve) -> Vec<u8> {
    let mut bytes = vec![0; curve.field_len().saturating_sub(number.as_slice().len())];
    bytes.extend_from_slice(number.as_slice());
    bytes
}

fn invalid() -> tss_esapi::Error {
    tss_esapi::Error::WrapperError(tss_esapi::WrapperErrorKind::InvalidParam)
}

pub(super) fn no_key() -> Error {
    Error::input("TPM object", "it is no key that Strongroom uses")
}
