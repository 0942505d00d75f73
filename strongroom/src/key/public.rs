//! Public keys: SubjectPublicKeyInfo (RFC 5280, section 4.1; RFC 3279, RFC 5480), and what is in it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::pkcs8::{DecodePublicKey, EncodePublicKey};
use rsa::traits::PublicKeyParts;
use rsa::{BigUint, RsaPublicKey};

use super::private::PrivateKey;
use super::{Curve, KeyAlgorithm, PUBLIC_KEY, is_rsa_size};
use crate::error::{Error, Result};
use crate::object::Metadata;
use crate::secret::Secret;

/// A public key of an algorithm that the vault has private keys of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: KeyAlgorithm,
    spki: Vec<u8>,
    parts: Parts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Parts {
    /// Modulus and exponent, big-endian without leading zeros.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// The uncompressed point (SEC 1, section 2.3.3).
    Ec { point: Vec<u8> },
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`Error::Input`] for another algorithm or size, and for a point that is not on its curve.
    pub fn from_spki(der: &[u8]) -> Result<Self> {
        if let Ok(key) = p256::PublicKey::from_public_key_der(der) {
            return Ok(Self::of_p256(&key));
        }
        if let Ok(key) = p384::PublicKey::from_public_key_der(der) {
            return Ok(Self::of_p384(&key));
        }
        RsaPublicKey::from_public_key_der(der)
            .map_err(|_| unusable())
            .and_then(|key| Self::of_rsa(&key))
    }

    /// The public half of a private key that is to be imported.
    ///
    /// # Errors
    /// [`Error::Input`] for what [`Unlocked::import_key`](crate::Unlocked::import_key) does not take.
    pub fn of_pkcs8(pkcs8: &Secret) -> Result<Self> {
        PrivateKey::from_pkcs8(pkcs8)?.public()
    }

    /// The public half of a private key in the vault, as its object says.
    ///
    /// # Errors
    /// [`Error::Input`] for an object that is no such key.
    pub fn of(object: &Metadata) -> Result<Self> {
        object
            .attributes
            .get(PUBLIC_KEY)
            .and_then(|text| STANDARD.decode(text).ok())
            .ok_or_else(|| {
                Error::input(
                    format!("object {}", object.id),
                    "it is not a key that Strongroom generated or imported",
                )
            })
            .and_then(|der| Self::from_spki(&der))
    }

    /// The SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// What kind of key, and of what size.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// Modulus and public exponent, big-endian without leading zeros.
    pub fn rsa(&self) -> Option<(&[u8], &[u8])> {
        match &self.parts {
            Parts::Rsa { n, e } => Some((n, e)),
            Parts::Ec { .. } => None,
        }
    }

    /// The uncompressed point (SEC 1): 4, x, y.
    pub fn ec_point(&self) -> Option<&[u8]> {
        match &self.parts {
            Parts::Ec { point } => Some(point),
            Parts::Rsa { .. } => None,
        }
    }

    pub(crate) fn of_rsa(key: &RsaPublicKey) -> Result<Self> {
        // Every padding here rests on a modulus of whole bytes.
        let bits = u16::try_from(key.n().bits())
            .ok()
            .filter(|bits| is_rsa_size(*bits))
            .ok_or_else(unusable)?;
        Ok(Self {
            algorithm: KeyAlgorithm::Rsa(bits),
            spki: der(key),
            parts: Parts::Rsa {
                n: key.n().to_bytes_be(),
                e: key.e().to_bytes_be(),
            },
        })
    }

    pub(crate) fn from_rsa_parts(n: &[u8], e: u32) -> Result<Self> {
        RsaPublicKey::new(BigUint::from_bytes_be(n), BigUint::from(e))
            .map_err(|_| unusable())
            .and_then(|key| Self::of_rsa(&key))
    }

    pub(crate) fn of_p256(key: &p256::PublicKey) -> Self {
        Self {
            algorithm: KeyAlgorithm::Ec(Curve::P256),
            spki: der(key),
            parts: Parts::Ec {
                point: key.to_encoded_point(false).as_bytes().to_vec(),
            },
        }
    }

    pub(crate) fn of_p384(key: &p384::PublicKey) -> Self {
        Self {
            algorithm: KeyAlgorithm::Ec(Curve::P384),
            spki: der(key),
            parts: Parts::Ec {
                point: key.to_encoded_point(false).as_bytes().to_vec(),
            },
        }
    }

    /// An uncompressed point of a curve.
    pub(crate) fn from_point(curve: Curve, point: &[u8]) -> Result<Self> {
        if point.len() != 1 + 2 * curve.field_len() {
            return Err(unusable());
        }
        match curve {
            Curve::P256 => p256::PublicKey::from_sec1_bytes(point)
                .map(|key| Self::of_p256(&key))
                .map_err(|_| unusable()),
            Curve::P384 => p384::PublicKey::from_sec1_bytes(point)
                .map(|key| Self::of_p384(&key))
                .map_err(|_| unusable()),
        }
    }

    /// The public operation of RSA, and whether it gives `expected`, which is as long as the
    /// modulus.
    pub(crate) fn rsa_opens_to(&self, signature: &[u8], expected: &[u8]) -> bool {
        let Parts::Rsa { n, e } = &self.parts else {
            return false;
        };
        let [n, e, s, expected] =
            [n, e.as_slice(), signature, expected].map(BigUint::from_bytes_be);
        s < n && s.modpow(&e, &n) == expected
    }

    /// Whether r ‖ s is an ECDSA signature over a digest.
    pub(crate) fn ecdsa_verifies(&self, signature: &[u8], digest: &[u8]) -> bool {
        use p256::ecdsa::signature::hazmat::PrehashVerifier;
        let (KeyAlgorithm::Ec(curve), Parts::Ec { point }) = (self.algorithm, &self.parts) else {
            return false;
        };
        match curve {
            Curve::P256 => p256::ecdsa::VerifyingKey::from_sec1_bytes(point)
                .and_then(|key| {
                    key.verify_prehash(digest, &p256::ecdsa::Signature::from_slice(signature)?)
                })
                .is_ok(),
            Curve::P384 => p384::ecdsa::VerifyingKey::from_sec1_bytes(point)
                .and_then(|key| {
                    key.verify_prehash(digest, &p384::ecdsa::Signature::from_slice(signature)?)
                })
                .is_ok(),
        }
    }
}

fn der(key: &impl EncodePublicKey) -> Vec<u8> {
    key.to_public_key_der()
        .expect("a public key of known algorithm has an encoding")
        .into_vec()
}

fn unusable() -> Error {
    Error::input(
        "public key",
        "it must be RSA of 2048 to 4096 bits, or EC on P-256 or P-384",
    )
}
