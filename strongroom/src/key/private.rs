//! Private keys in memory: on their way into the TPM, where the TPM lacks their algorithm, and for as
//! long as nobody keeps them.

use ed25519_dalek::Signer;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey, PrivateKeyInfo};
use rsa::hazmat::rsa_decrypt_and_check;
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::rand_core::OsRng;
use rsa::traits::{PrivateKeyParts, PublicKeyParts};
use rsa::{BigUint, RsaPrivateKey, RsaPublicKey};
use sha2::Digest;
use zeroize::Zeroize;

use super::padding::{self, does_not_decrypt};
use super::rfc8410::{ED448, ED25519, Encoding, X25519};
use super::{
    Curve, DecryptScheme, KeyAlgorithm, MAX_RSA_BITS, PublicKey, SignScheme, as_long_as_field,
    ed448, ed25519ctx, is_rsa_size,
};
use crate::error::{Error, Result};
use crate::secret::Secret;

/// A private key whose numbers are in memory. The crates behind it wipe them when it is dropped.
pub struct PrivateKey(Numbers);

enum Numbers {
    Rsa(Box<RsaPrivateKey>),
    P256(p256::SecretKey),
    P384(p384::SecretKey),
    P521(p521::SecretKey),
    Ed25519(Box<ed25519_dalek::SigningKey>),
    Ed448(Box<ed448_goldilocks_plus::SigningKey>),
    X25519(x25519_dalek::StaticSecret),
}

/// The numbers that a private key is made of, big-endian but for those on Curve25519 and Curve448.
pub enum Parts {
    /// RSA with two primes.
    Rsa {
        /// The private exponent.
        d: Secret,
        /// The primes.
        primes: [Secret; 2],
        /// The private exponent modulo each prime less one.
        exponents: [Secret; 2],
        /// The inverse of the second prime modulo the first.
        coefficient: Secret,
    },
    /// What an EC key multiplies with; the seed of a key on Curve25519 or Curve448.
    Scalar(Secret),
}

impl PrivateKey {
    /// Makes one.
    ///
    /// # Errors
    /// [`Error::Input`] for a size of RSA that there is not.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self> {
        Ok(Self(match algorithm {
            KeyAlgorithm::Rsa(bits) => RsaPrivateKey::new(&mut OsRng, bits.into())
                .map(|key| Numbers::Rsa(Box::new(key)))
                .map_err(|error| {
                    Error::input(format!("key algorithm {algorithm}"), error.to_string())
                })?,
            KeyAlgorithm::Ec(Curve::P256) => Numbers::P256(p256::SecretKey::random(&mut OsRng)),
            KeyAlgorithm::Ec(Curve::P384) => Numbers::P384(p384::SecretKey::random(&mut OsRng)),
            KeyAlgorithm::Ec(Curve::P521) => Numbers::P521(p521::SecretKey::random(&mut OsRng)),
            KeyAlgorithm::Ed25519 | KeyAlgorithm::X25519 => {
                return Self::from_scalar(algorithm, Secret::random(32).expose());
            }
            KeyAlgorithm::Ed448 => {
                let seed = Secret::random(ed448::KEY_LEN);
                return Self::from_scalar(algorithm, seed.expose());
            }
        }))
    }

    /// An RSA key of its numbers. Without the primes, they are computed.
    ///
    /// # Errors
    /// [`Error::Input`] for numbers that do not belong together.
    pub fn from_rsa_numbers(n: &[u8], e: &[u8], d: &[u8], primes: &[&[u8]]) -> Result<Self> {
        let [n, e, d] = [n, e, d].map(BigUint::from_bytes_be);
        let primes = primes.iter().copied().map(BigUint::from_bytes_be).collect();
        RsaPrivateKey::from_components(n, e, d, primes)
            .map_err(|_| unusable())
            .and_then(Self::of_rsa)
    }

    /// A key of another algorithm, of [`Parts::Scalar`].
    ///
    /// # Errors
    /// [`Error::Input`] for another length, and for a number that is none of the group's.
    pub fn from_scalar(algorithm: KeyAlgorithm, scalar: &[u8]) -> Result<Self> {
        let seed = || -> Result<[u8; 32]> { scalar.try_into().map_err(|_| unusable()) };
        Ok(Self(match algorithm {
            KeyAlgorithm::Rsa(_) => return Err(unusable()),
            KeyAlgorithm::Ec(Curve::P256) => {
                Numbers::P256(p256::SecretKey::from_slice(scalar).map_err(|_| unusable())?)
            }
            KeyAlgorithm::Ec(Curve::P384) => {
                Numbers::P384(p384::SecretKey::from_slice(scalar).map_err(|_| unusable())?)
            }
            KeyAlgorithm::Ec(Curve::P521) => {
                Numbers::P521(p521::SecretKey::from_slice(scalar).map_err(|_| unusable())?)
            }
            KeyAlgorithm::Ed25519 => {
                let mut seed = seed()?;
                let key = ed25519_dalek::SigningKey::from_bytes(&seed);
                seed.zeroize();
                Numbers::Ed25519(Box::new(key))
            }
            KeyAlgorithm::Ed448 => {
                Numbers::Ed448(Box::new(ed448::from_seed(scalar).ok_or_else(unusable)?))
            }
            KeyAlgorithm::X25519 => Numbers::X25519(seed()?.into()),
        }))
    }

    /// Reads a PKCS#8 (RFC 5208, RFC 8410), and checks that its numbers belong together.
    ///
    /// # Errors
    /// [`Error::Input`] for what is none, and for another algorithm or size.
    pub fn from_pkcs8(pkcs8: &Secret) -> Result<Self> {
        let der = pkcs8.expose();
        if let Ok(key) = p256::SecretKey::from_pkcs8_der(der) {
            return Ok(Self(Numbers::P256(key)));
        }
        if let Ok(key) = p384::SecretKey::from_pkcs8_der(der) {
            return Ok(Self(Numbers::P384(key)));
        }
        if let Ok(key) = p521::SecretKey::from_pkcs8_der(der) {
            return Ok(Self(Numbers::P521(key)));
        }
        let info = PrivateKeyInfo::try_from(der).map_err(|_| unusable())?;
        if let Some(encoding) = Encoding::of(info.algorithm.oid) {
            // RFC 8410, section 3: there are no parameters.
            let seed = (encoding.seed(info.private_key))
                .filter(|_| info.algorithm.parameters.is_none())
                .ok_or_else(unusable)?;
            let key = Self::from_scalar(encoding.algorithm, seed)?;
            // RFC 5958: version 2 may have the public key too.
            let other = (info.public_key).is_some_and(|it| key.public().ec_point() != Some(it));
            return if other { Err(unusable()) } else { Ok(key) };
        }
        RsaPrivateKey::from_pkcs1_der(info.private_key)
            .ok()
            .filter(|_| info.algorithm.oid == rsa::pkcs1::ALGORITHM_OID)
            .filter(|key| key.validate().is_ok())
            .ok_or_else(unusable)
            .and_then(Self::of_rsa)
    }

    /// As PKCS#8.
    #[allow(
        clippy::missing_panics_doc,
        reason = "an invariant of the type says that it does not"
    )]
    pub fn to_pkcs8(&self) -> Secret {
        let encoded = match &self.0 {
            Numbers::Rsa(key) => key.to_pkcs8_der(),
            Numbers::P256(key) => key.to_pkcs8_der(),
            Numbers::P384(key) => key.to_pkcs8_der(),
            Numbers::P521(key) => key.to_pkcs8_der(),
            Numbers::Ed25519(key) => return ED25519.pkcs8(key.as_bytes()),
            Numbers::Ed448(key) => return ED448.pkcs8(key.as_bytes()),
            Numbers::X25519(key) => return X25519.pkcs8(key.as_bytes()),
        };
        // The document wipes itself.
        Secret::copy_of(
            encoded
                .expect("a private key of known algorithm has an encoding")
                .as_bytes(),
        )
    }

    /// The public half.
    #[allow(
        clippy::missing_panics_doc,
        reason = "an invariant of the type says that it does not"
    )]
    pub fn public(&self) -> PublicKey {
        match &self.0 {
            Numbers::Rsa(key) => PublicKey::of_rsa(&key.to_public_key())
                .expect("its size was looked at when the key was made"),
            Numbers::P256(key) => PublicKey::of_p256(&key.public_key()),
            Numbers::P384(key) => PublicKey::of_p384(&key.public_key()),
            Numbers::P521(key) => PublicKey::of_p521(&key.public_key()),
            Numbers::Ed25519(key) => PublicKey::encoded(&ED25519, key.verifying_key().as_bytes()),
            Numbers::Ed448(key) => PublicKey::encoded(&ED448, &ed448::point_of(key)),
            Numbers::X25519(key) => {
                PublicKey::encoded(&X25519, x25519_dalek::PublicKey::from(key).as_bytes())
            }
        }
    }

    /// The numbers.
    pub fn parts(&self) -> Parts {
        match &self.0 {
            Numbers::Rsa(key) => {
                let part = |number: &BigUint| Secret::take(number.to_bytes_be());
                let [p, q] = [&key.primes()[0], &key.primes()[1]];
                let less = |prime: &BigUint| key.d() % (prime - BigUint::from(1_u8));
                Parts::Rsa {
                    d: part(key.d()),
                    primes: [part(p), part(q)],
                    exponents: [part(&less(p)), part(&less(q))],
                    coefficient: key
                        .crt_coefficient()
                        .map_or_else(|| Secret::zeroed(0), |it| part(&it)),
                }
            }
            Numbers::P256(key) => Parts::Scalar(wiped(key.to_bytes())),
            Numbers::P384(key) => Parts::Scalar(wiped(key.to_bytes())),
            Numbers::P521(key) => Parts::Scalar(wiped(key.to_bytes())),
            Numbers::Ed25519(key) => Parts::Scalar(Secret::copy_of(key.as_bytes())),
            Numbers::Ed448(key) => Parts::Scalar(Secret::copy_of(key.as_bytes())),
            Numbers::X25519(key) => Parts::Scalar(Secret::copy_of(key.as_bytes())),
        }
    }

    /// Signs, and, where a fault could give the key away, verifies what it gives out.
    ///
    /// # Errors
    /// As [`Unlocked::sign`](crate::Unlocked::sign).
    pub fn sign(&self, scheme: &SignScheme, input: &[u8]) -> Result<Vec<u8>> {
        match (&self.0, scheme) {
            (Numbers::Rsa(key), _) => {
                let encoded = padding::encode(scheme, input, key.size())?;
                // Checked against faults there.
                Ok(self.rsa(&encoded)?.expose().to_vec())
            }
            (Numbers::Ed25519(key), SignScheme::Eddsa { prehashed, context }) => {
                sign_ed25519(key, *prehashed, context, input).ok_or_else(long_context)
            }
            (Numbers::Ed448(key), SignScheme::Eddsa { prehashed, context }) => {
                ed448::sign(key, *prehashed, context, input).ok_or_else(long_context)
            }
            (_, SignScheme::Ecdsa) => {
                let KeyAlgorithm::Ec(curve) = self.public().algorithm() else {
                    return Err(not_of_its_kind());
                };
                self.ecdsa(&as_long_as_field(input, curve)?)
            }
            _ => Err(not_of_its_kind()),
        }
    }

    /// Decrypts.
    ///
    /// # Errors
    /// As [`Unlocked::decrypt`](crate::Unlocked::decrypt).
    pub fn decrypt(&self, scheme: &DecryptScheme, ciphertext: &[u8]) -> Result<Secret> {
        let Numbers::Rsa(key) = &self.0 else {
            return Err(not_of_its_kind());
        };
        if ciphertext.len() != key.size() {
            return Err(does_not_decrypt());
        }
        padding::decode(scheme, self.rsa(ciphertext)?)
    }

    /// What both sides of a Diffie-Hellman come to: the x coordinate (SEC 1, section 3.3.1; RFC 7748,
    /// section 6.1).
    ///
    /// # Errors
    /// As [`Unlocked::derive`](crate::Unlocked::derive).
    pub fn derive(&self, peer: &[u8]) -> Result<Secret> {
        let bad = || Error::input("peer's point", "it is not on the key's curve");
        macro_rules! ecdh {
            ($curve:ident, $key:expr) => {{
                let peer = $curve::PublicKey::from_sec1_bytes(peer).map_err(|_| bad())?;
                let shared =
                    $curve::ecdh::diffie_hellman($key.to_nonzero_scalar(), peer.as_affine());
                Ok(Secret::copy_of(shared.raw_secret_bytes()))
            }};
        }
        match &self.0 {
            Numbers::P256(key) => ecdh!(p256, key),
            Numbers::P384(key) => ecdh!(p384, key),
            Numbers::P521(key) => ecdh!(p521, key),
            Numbers::X25519(key) => {
                let peer: [u8; 32] = peer.try_into().map_err(|_| bad())?;
                let shared = key.diffie_hellman(&peer.into());
                // RFC 7748, section 6.1: a peer of small order would leave out our key.
                if shared.was_contributory() {
                    Ok(Secret::copy_of(shared.as_bytes()))
                } else {
                    Err(bad())
                }
            }
            Numbers::Rsa(_) | Numbers::Ed25519(_) | Numbers::Ed448(_) => Err(not_of_its_kind()),
        }
    }

    /// Whether the vault keeps such a key.
    pub(crate) fn is_kept(&self) -> bool {
        match self.public().algorithm() {
            KeyAlgorithm::Rsa(bits) => is_rsa_size(bits),
            _ => true,
        }
    }

    /// What a TPM holds of the key, and it alone: one of the primes, or the scalar (Part 2,
    /// section 12.3.2.4, TPMU_SENSITIVE_COMPOSITE). `None` for a key that TPMs do not take: with a
    /// public exponent other than 2^16 + 1, or primes of different lengths.
    pub(crate) fn sensitive(&self) -> Option<Secret> {
        match &self.0 {
            Numbers::Rsa(key) => {
                let half = key.size() / 2;
                let usual = *key.e() == BigUint::from(65_537_u32)
                    && key.primes().len() == 2
                    && key.primes().iter().all(|prime| prime.bits() == half * 8);
                usual.then(|| Secret::take(key.primes()[0].to_bytes_be()))
            }
            Numbers::P256(key) => Some(wiped(key.to_bytes())),
            Numbers::P384(key) => Some(wiped(key.to_bytes())),
            Numbers::P521(key) => Some(wiped(key.to_bytes())),
            Numbers::Ed25519(_) | Numbers::Ed448(_) | Numbers::X25519(_) => None,
        }
    }

    /// A key whose size is one of those that there may be.
    fn of_rsa(key: RsaPrivateKey) -> Result<Self> {
        // With more than two primes, PKCS#11 could not say what they are.
        if key.primes().len() != 2 || PublicKey::of_rsa(&key.to_public_key()).is_err() {
            return Err(unusable());
        }
        Ok(Self(Numbers::Rsa(Box::new(key))))
    }

    /// The private operation of RSA, blinded, and checked against faults.
    fn rsa(&self, input: &[u8]) -> Result<Secret> {
        let Numbers::Rsa(key) = &self.0 else {
            return Err(not_of_its_kind());
        };
        let input = BigUint::from_bytes_be(input);
        if input >= *key.n() {
            return Err(does_not_decrypt());
        }
        let mut number = rsa_decrypt_and_check(key.as_ref(), Some(&mut OsRng), &input)
            .map_err(|_| does_not_decrypt())?;
        let bytes = Secret::take(number.to_bytes_be());
        number.zeroize();
        Ok(padded(&bytes, key.size()))
    }

    /// ECDSA with a nonce from RFC 6979, over a digest as long as the field.
    fn ecdsa(&self, digest: &[u8]) -> Result<Vec<u8>> {
        match &self.0 {
            Numbers::P256(key) => p256::ecdsa::SigningKey::from(key)
                .sign_prehash(digest)
                .map(|signature: p256::ecdsa::Signature| signature.to_bytes().to_vec()),
            Numbers::P384(key) => p384::ecdsa::SigningKey::from(key)
                .sign_prehash(digest)
                .map(|signature: p384::ecdsa::Signature| signature.to_bytes().to_vec()),
            Numbers::P521(key) => {
                p521::ecdsa::SigningKey::from_slice(wiped(key.to_bytes()).expose())
                    .and_then(|key| key.sign_prehash(digest))
                    .map(|signature: p521::ecdsa::Signature| signature.to_bytes().to_vec())
            }
            _ => return Err(not_of_its_kind()),
        }
        .map_err(|error| Error::input("digest", error.to_string()))
    }
}

/// Ed25519, Ed25519ctx or Ed25519ph; nothing for a context of more than 255 bytes.
fn sign_ed25519(
    key: &ed25519_dalek::SigningKey,
    prehashed: bool,
    context: &[u8],
    message: &[u8],
) -> Option<Vec<u8>> {
    let signature = if prehashed {
        key.sign_prehashed(sha2::Sha512::new().chain_update(message), Some(context))
            .ok()
    } else if context.is_empty() {
        Some(key.sign(message))
    } else {
        ed25519ctx::sign(key, context, message)
    };
    signature.map(|it| it.to_vec())
}

fn long_context() -> Error {
    Error::input("context", "it must have at most 255 bytes")
}

/// A public key of RSA that may be longer than the vault's own.
pub(super) fn rsa_public(n: &[u8], e: &[u8]) -> Result<RsaPublicKey> {
    let [n, e] = [n, e].map(BigUint::from_bytes_be);
    RsaPublicKey::new_with_max_size(n, e, MAX_RSA_BITS).map_err(|_| super::public::unusable())
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

/// The error for what is no private key that the vault keeps.
pub(crate) fn unusable() -> Error {
    Error::input(
        "private key",
        "it must be PKCS#8 in DER, without a passphrase: RSA of 2048 to 4096 bits and two \
         primes, EC on P-256, P-384 or P-521, Ed25519, Ed448 or X25519",
    )
}

fn wiped(mut bytes: impl AsMut<[u8]>) -> Secret {
    let secret = Secret::copy_of(bytes.as_mut());
    bytes.as_mut().zeroize();
    secret
}
