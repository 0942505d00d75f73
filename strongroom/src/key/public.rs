//! Public keys: SubjectPublicKeyInfo (RFC 5280, section 4.1; RFC 3279, RFC 5480, RFC 8410), and what is
//! in it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::pkcs8::{DecodePublicKey, EncodePublicKey, SubjectPublicKeyInfoRef};
use rsa::pkcs1::DecodeRsaPublicKey;
use rsa::traits::PublicKeyParts;
use rsa::{BigUint, RsaPublicKey};
use sha2::Digest;

use super::private::{PrivateKey, rsa_public};
use super::rfc8410::{ED448, ED25519, Encoding, X25519};
use super::{
    Curve, DecryptScheme, KeyAlgorithm, PUBLIC_KEY, SignScheme, as_long_as_field, ed448,
    ed25519ctx, is_any_rsa_size, padding,
};
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
    /// The uncompressed point (SEC 1, section 2.3.3); on Curve25519 and Curve448, as RFC 8032 and
    /// RFC 7748 write it.
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
        if let Ok(key) = p521::PublicKey::from_public_key_der(der) {
            return Ok(Self::of_p521(&key));
        }
        let info = SubjectPublicKeyInfoRef::try_from(der).map_err(|_| unusable())?;
        let bits = (info.subject_public_key.as_bytes()).ok_or_else(unusable)?;
        if let Some(encoding) = Encoding::of(info.algorithm.oid) {
            return Self::from_point(encoding.algorithm, bits);
        }
        if info.algorithm.oid != rsa::pkcs1::ALGORITHM_OID {
            return Err(unusable());
        }
        // The rsa crate reads no longer ones than 4096 bits by itself.
        if let Ok(key) = RsaPublicKey::from_pkcs1_der(bits) {
            return Self::of_rsa(&key);
        }
        let key = rsa::pkcs1::RsaPublicKey::try_from(bits).map_err(|_| unusable())?;
        Self::from_rsa_parts(key.modulus.as_bytes(), key.public_exponent.as_bytes())
    }

    /// The public half of a private key that is to be imported.
    ///
    /// # Errors
    /// [`Error::Input`] for what [`Unlocked::import_key`](crate::Unlocked::import_key) does not take.
    pub fn of_pkcs8(pkcs8: &Secret) -> Result<Self> {
        let key = PrivateKey::from_pkcs8(pkcs8)?;
        if !key.is_kept() {
            return Err(super::private::unusable());
        }
        Ok(key.public())
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

    /// An RSA key of modulus and public exponent, big-endian.
    ///
    /// # Errors
    /// [`Error::Input`] for another size than 1024 to 8192 bits.
    pub fn from_rsa_parts(n: &[u8], e: &[u8]) -> Result<Self> {
        rsa_public(n, e).and_then(|key| Self::of_rsa(&key))
    }

    /// A key of another algorithm by its point, of [`KeyAlgorithm::point_len`] bytes.
    ///
    /// # Errors
    /// [`Error::Input`] for a point that is not on the curve.
    pub fn from_point(algorithm: KeyAlgorithm, point: &[u8]) -> Result<Self> {
        if algorithm.point_len() != Some(point.len()) {
            return Err(unusable());
        }
        match algorithm {
            KeyAlgorithm::Ec(Curve::P256) => p256::PublicKey::from_sec1_bytes(point)
                .map(|key| Self::of_p256(&key))
                .map_err(|_| unusable()),
            KeyAlgorithm::Ec(Curve::P384) => p384::PublicKey::from_sec1_bytes(point)
                .map(|key| Self::of_p384(&key))
                .map_err(|_| unusable()),
            KeyAlgorithm::Ec(Curve::P521) => p521::PublicKey::from_sec1_bytes(point)
                .map(|key| Self::of_p521(&key))
                .map_err(|_| unusable()),
            KeyAlgorithm::Ed25519 => ed25519_dalek::VerifyingKey::try_from(point)
                .map(|key| Self::encoded(&ED25519, key.as_bytes()))
                .map_err(|_| unusable()),
            KeyAlgorithm::Ed448 if ed448::is_point(point) => Ok(Self::encoded(&ED448, point)),
            KeyAlgorithm::X25519 => Ok(Self::encoded(&X25519, point)),
            KeyAlgorithm::Ed448 | KeyAlgorithm::Rsa(_) => Err(unusable()),
        }
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

    /// The uncompressed point (SEC 1): 4, x, y. On Curve25519 and Curve448, as RFC 8032 and RFC 7748
    /// write it.
    pub fn ec_point(&self) -> Option<&[u8]> {
        match &self.parts {
            Parts::Ec { point } => Some(point),
            Parts::Rsa { .. } => None,
        }
    }

    /// The length of its signatures in bytes; of RSA, that of its modulus and all its outputs.
    pub fn signature_len(&self) -> usize {
        match self.algorithm {
            KeyAlgorithm::Rsa(bits) => usize::from(bits) / 8,
            KeyAlgorithm::Ec(curve) => 2 * curve.field_len(),
            KeyAlgorithm::Ed25519 => ed25519_dalek::SIGNATURE_LENGTH,
            KeyAlgorithm::Ed448 => ed448::SIGNATURE_LEN,
            KeyAlgorithm::X25519 => 0,
        }
    }

    /// Whether a signature over an input, as [`SignScheme`] has it, is this key's.
    pub fn verifies(&self, scheme: &SignScheme, input: &[u8], signature: &[u8]) -> bool {
        match (self.algorithm, scheme) {
            (
                KeyAlgorithm::Rsa(_),
                SignScheme::RsaPss {
                    hash,
                    mgf,
                    salt_len,
                },
            ) => self
                .rsa_opened(signature)
                .is_some_and(|encoded| padding::is_pss(*hash, *mgf, *salt_len, input, &encoded)),
            (KeyAlgorithm::Rsa(_), _) => padding::encode(scheme, input, self.signature_len())
                .is_ok_and(|encoded| self.rsa_opens_to(signature, &encoded)),
            (KeyAlgorithm::Ec(curve), SignScheme::Ecdsa) => as_long_as_field(input, curve)
                .is_ok_and(|digest| self.ecdsa_verifies(signature, &digest)),
            (_, SignScheme::Eddsa { prehashed, context }) => {
                self.eddsa_verifies(*prehashed, context, input, signature)
            }
            _ => false,
        }
    }

    /// What was signed, out of an RSA signature that has it in itself: [`SignScheme::RsaRaw`], or
    /// [`SignScheme::RsaPkcs1`] without a hash. Nothing for what is no such signature of this key's.
    pub fn recovers(&self, scheme: &SignScheme, signature: &[u8]) -> Option<Vec<u8>> {
        let encoded = self.rsa_opened(signature)?;
        if *scheme == SignScheme::RsaRaw {
            return Some(encoded);
        }
        let separator = 2 + encoded.get(2..)?.iter().position(|byte| *byte != 0xFF)?;
        let data = encoded.get(separator + 1..)?;
        // The same encoding comes of the same data.
        self.verifies(scheme, data, signature)
            .then(|| data.to_vec())
    }

    /// Encrypts to the holder of the private key.
    ///
    /// # Errors
    /// [`Error::Input`] for what does not fit the modulus, and for a key that is not RSA's.
    pub fn encrypt(&self, scheme: &DecryptScheme, message: &[u8]) -> Result<Vec<u8>> {
        let encoded = padding::encode_message(scheme, message, self.signature_len())?;
        self.rsa_operation(encoded.expose())
            .ok_or_else(|| Error::input("message", "it is no number below the modulus"))
    }

    /// RSA's public operation over a number as long as the modulus, and less than it.
    fn rsa_operation(&self, input: &[u8]) -> Option<Vec<u8>> {
        let Parts::Rsa { n, e } = &self.parts else {
            return None;
        };
        let len = n.len();
        let [n, e, input] = [n, e.as_slice(), input].map(BigUint::from_bytes_be);
        (input < n).then(|| {
            let output = input.modpow(&e, &n).to_bytes_be();
            let mut padded = vec![0; len - output.len()];
            padded.extend_from_slice(&output);
            padded
        })
    }

    pub(crate) fn of_rsa(key: &RsaPublicKey) -> Result<Self> {
        // Every padding here rests on a modulus of whole bytes.
        let bits = Some(key.n().bits())
            .filter(|bits| is_any_rsa_size(*bits))
            .and_then(|bits| u16::try_from(bits).ok())
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

    pub(crate) fn of_p256(key: &p256::PublicKey) -> Self {
        Self::of_curve(Curve::P256, key, key.to_encoded_point(false).as_bytes())
    }

    pub(crate) fn of_p384(key: &p384::PublicKey) -> Self {
        Self::of_curve(Curve::P384, key, key.to_encoded_point(false).as_bytes())
    }

    pub(crate) fn of_p521(key: &p521::PublicKey) -> Self {
        Self::of_curve(Curve::P521, key, key.to_encoded_point(false).as_bytes())
    }

    fn of_curve(curve: Curve, key: &impl EncodePublicKey, point: &[u8]) -> Self {
        Self {
            algorithm: KeyAlgorithm::Ec(curve),
            spki: der(key),
            parts: Parts::Ec {
                point: point.to_vec(),
            },
        }
    }

    pub(super) fn encoded(encoding: &Encoding, point: &[u8]) -> Self {
        Self {
            algorithm: encoding.algorithm,
            spki: encoding.spki(point),
            parts: Parts::Ec {
                point: point.to_vec(),
            },
        }
    }

    /// The public operation of RSA, and whether it gives `expected`, which is as long as the
    /// modulus.
    pub(crate) fn rsa_opens_to(&self, signature: &[u8], expected: &[u8]) -> bool {
        self.rsa_opened(signature).as_deref() == Some(expected)
    }

    fn rsa_opened(&self, signature: &[u8]) -> Option<Vec<u8>> {
        Some(signature)
            .filter(|it| it.len() == self.signature_len())
            .and_then(|signature| self.rsa_operation(signature))
    }

    /// Whether r ‖ s is an ECDSA signature over a digest as long as the field.
    pub(crate) fn ecdsa_verifies(&self, signature: &[u8], digest: &[u8]) -> bool {
        let (KeyAlgorithm::Ec(curve), Parts::Ec { point }) = (self.algorithm, &self.parts) else {
            return false;
        };
        macro_rules! verifies {
            ($curve:ident) => {
                $curve::ecdsa::VerifyingKey::from_sec1_bytes(point)
                    .and_then(|key| {
                        let signature = $curve::ecdsa::Signature::from_slice(signature)?;
                        key.verify_prehash(digest, &signature)
                    })
                    .is_ok()
            };
        }
        match curve {
            Curve::P256 => verifies!(p256),
            Curve::P384 => verifies!(p384),
            Curve::P521 => verifies!(p521),
        }
    }

    fn eddsa_verifies(
        &self,
        prehashed: bool,
        context: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        match (self.algorithm, &self.parts) {
            (KeyAlgorithm::Ed25519, Parts::Ec { point }) => {
                ed25519_verifies(point, prehashed, context, message, signature)
            }
            (KeyAlgorithm::Ed448, Parts::Ec { point }) => {
                ed448::verifies(point, prehashed, context, message, signature)
            }
            _ => false,
        }
    }
}

fn ed25519_verifies(
    point: &[u8],
    prehashed: bool,
    context: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    let (Ok(key), Ok(signature)) = (
        ed25519_dalek::VerifyingKey::try_from(point),
        ed25519_dalek::Signature::from_slice(signature),
    ) else {
        return false;
    };
    if prehashed {
        let hashed = sha2::Sha512::new().chain_update(message);
        return key
            .verify_prehashed_strict(hashed, Some(context), &signature)
            .is_ok();
    }
    if context.is_empty() {
        key.verify_strict(message, &signature).is_ok()
    } else {
        ed25519ctx::verifies(&key, context, message, &signature)
    }
}

fn der(key: &impl EncodePublicKey) -> Vec<u8> {
    key.to_public_key_der()
        .expect("a public key of known algorithm has an encoding")
        .into_vec()
}

pub(super) fn unusable() -> Error {
    Error::input(
        "public key",
        "it must be RSA of 1024 to 8192 bits, EC on P-256, P-384 or P-521, Ed25519, Ed448 or X25519",
    )
}
