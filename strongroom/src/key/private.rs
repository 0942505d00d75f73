//! Private keys in memory: on their way into the TPM, and where the TPM lacks their algorithm.

use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use rsa::hazmat::rsa_decrypt_and_check;
use rsa::rand_core::OsRng;
use rsa::traits::{PrivateKeyParts, PublicKeyParts};
use rsa::{BigUint, RsaPrivateKey};
use zeroize::Zeroize;

use super::padding::does_not_decrypt;
use super::{Curve, KeyAlgorithm, PublicKey};
use crate::error::{Error, Result};
use crate::secret::Secret;

/// A private key whose numbers are in memory. The crates behind it wipe them when it is dropped.
pub(crate) enum PrivateKey {
    Rsa(Box<RsaPrivateKey>),
    P256(p256::SecretKey),
    P384(p384::SecretKey),
}

impl PrivateKey {
    pub(crate) fn generate(algorithm: KeyAlgorithm) -> Result<Self> {
        match algorithm {
            KeyAlgorithm::Rsa(bits) => RsaPrivateKey::new(&mut OsRng, bits.into())
                .map(|key| Self::Rsa(Box::new(key)))
                .map_err(|error| {
                    Error::input(format!("key algorithm {algorithm}"), error.to_string())
                }),
            KeyAlgorithm::Ec(Curve::P256) => Ok(Self::P256(p256::SecretKey::random(&mut OsRng))),
            KeyAlgorithm::Ec(Curve::P384) => Ok(Self::P384(p384::SecretKey::random(&mut OsRng))),
        }
    }

    /// Reads a PKCS#8 (RFC 5208), and checks that its numbers belong together.
    pub(crate) fn from_pkcs8(pkcs8: &Secret) -> Result<Self> {
        let der = pkcs8.expose();
        if let Ok(key) = p256::SecretKey::from_pkcs8_der(der) {
            return Ok(Self::P256(key));
        }
        if let Ok(key) = p384::SecretKey::from_pkcs8_der(der) {
            return Ok(Self::P384(key));
        }
        let key = RsaPrivateKey::from_pkcs8_der(der)
            .ok()
            .filter(|key| key.validate().is_ok())
            .map(|key| Self::Rsa(Box::new(key)));
        // Its size is checked with its public half.
        key.filter(|key| key.public().is_ok()).ok_or_else(|| {
            Error::input(
                "private key",
                "it must be PKCS#8 in DER, without a passphrase: RSA of 2048 to 4096 bits and two \
                 primes, or EC on P-256 or P-384",
            )
        })
    }

    pub(crate) fn to_pkcs8(&self) -> Secret {
        let encoded = match self {
            Self::Rsa(key) => key.to_pkcs8_der(),
            Self::P256(key) => key.to_pkcs8_der(),
            Self::P384(key) => key.to_pkcs8_der(),
        };
        // The document wipes itself.
        Secret::copy_of(
            encoded
                .expect("a private key of known algorithm has an encoding")
                .as_bytes(),
        )
    }

    pub(crate) fn public(&self) -> Result<PublicKey> {
        match self {
            Self::Rsa(key) => PublicKey::of_rsa(&key.to_public_key()),
            Self::P256(key) => Ok(PublicKey::of_p256(&key.public_key())),
            Self::P384(key) => Ok(PublicKey::of_p384(&key.public_key())),
        }
    }

    /// What a TPM holds of the key, and it alone: one of the primes, or the scalar (Part 2,
    /// section 12.3.2.4, TPMU_SENSITIVE_COMPOSITE). `None` for a key that TPMs do not take: with a
    /// public exponent other than 2^16 + 1, or primes of different lengths.
    pub(crate) fn sensitive(&self) -> Option<Secret> {
        match self {
            Self::Rsa(key) => {
                let half = key.size() / 2;
                let usual = *key.e() == BigUint::from(65_537_u32)
                    && key.primes().len() == 2
                    && key.primes().iter().all(|prime| prime.bits() == half * 8);
                usual.then(|| Secret::take(key.primes()[0].to_bytes_be()))
            }
            Self::P256(key) => Some(wiped(key.to_bytes())),
            Self::P384(key) => Some(wiped(key.to_bytes())),
        }
    }

    /// The private operation of RSA, blinded, and checked against faults.
    pub(crate) fn rsa(&self, input: &[u8]) -> Result<Secret> {
        let Self::Rsa(key) = self else {
            return Err(not_of_its_kind());
        };
        let mut number = rsa_decrypt_and_check(
            key.as_ref(),
            Some(&mut OsRng),
            &BigUint::from_bytes_be(input),
        )
        .map_err(|_| does_not_decrypt())?;
        let bytes = Secret::take(number.to_bytes_be());
        number.zeroize();
        Ok(padded(&bytes, key.size()))
    }

    /// ECDSA with a nonce from RFC 6979, over a digest as long as the field.
    pub(crate) fn ecdsa(&self, digest: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::P256(key) => p256::ecdsa::SigningKey::from(key)
                .sign_prehash(digest)
                .map(|signature: p256::ecdsa::Signature| signature.to_bytes().to_vec()),
            Self::P384(key) => p384::ecdsa::SigningKey::from(key)
                .sign_prehash(digest)
                .map(|signature: p384::ecdsa::Signature| signature.to_bytes().to_vec()),
            Self::Rsa(_) => return Err(not_of_its_kind()),
        }
        .map_err(|error| Error::input("digest", error.to_string()))
    }

    /// The x coordinate of what both sides come to (SEC 1, section 3.3.1).
    pub(crate) fn ecdh(&self, peer: &[u8]) -> Result<Secret> {
        let bad = || Error::input("peer's point", "it is not on the key's curve");
        match self {
            Self::P256(key) => {
                let peer = p256::PublicKey::from_sec1_bytes(peer).map_err(|_| bad())?;
                let shared = p256::ecdh::diffie_hellman(key.to_nonzero_scalar(), peer.as_affine());
                Ok(Secret::copy_of(shared.raw_secret_bytes()))
            }
            Self::P384(key) => {
                let peer = p384::PublicKey::from_sec1_bytes(peer).map_err(|_| bad())?;
                let shared = p384::ecdh::diffie_hellman(key.to_nonzero_scalar(), peer.as_affine());
                Ok(Secret::copy_of(shared.raw_secret_bytes()))
            }
            Self::Rsa(_) => Err(not_of_its_kind()),
        }
    }
}

/// The same number at the length that everybody expects.
pub(crate) fn padded(number: &Secret, len: usize) -> Secret {
    let zeros = vec![0; len.saturating_sub(number.len())];
    Secret::concat(&[&zeros, number.expose()])
}

/// The error for an operation that keys of another kind do.
pub(crate) fn not_of_its_kind() -> Error {
    Error::input("operation", "a key of this algorithm does not do it")
}

fn wiped(mut bytes: impl AsMut<[u8]>) -> Secret {
    let secret = Secret::copy_of(bytes.as_mut());
    bytes.as_mut().zeroize();
    secret
}
