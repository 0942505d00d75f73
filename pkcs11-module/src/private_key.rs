//! Private keys in memory: out of templates, as PKCS#8, and what those that are session objects
//! do. Those of the vault are the library's.

use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CKA_COEFFICIENT, CKA_EC_PARAMS, CKA_EC_POINT, CKA_EXPONENT_1,
    CKA_EXPONENT_2, CKA_KEY_TYPE, CKA_MODULUS, CKA_PRIME_1, CKA_PRIME_2, CKA_PRIVATE_EXPONENT,
    CKA_PUBLIC_EXPONENT, CKA_VALUE, CKK_EC, CKK_RSA, CKR_DATA_LEN_RANGE,
    CKR_ENCRYPTED_DATA_INVALID, CKR_FUNCTION_FAILED, CKR_KEY_TYPE_INCONSISTENT,
    CKR_MECHANISM_PARAM_INVALID, CKR_TEMPLATE_INCOMPLETE, CKR_TEMPLATE_INCONSISTENT,
};
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::elliptic_curve::rand_core::OsRng;
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use rsa::traits::{PrivateKeyParts, PublicKeyParts};
use rsa::{BigUint, Pkcs1v15Encrypt, Pkcs1v15Sign, Pss, RsaPrivateKey};
use strongroom::Secret;
use strongroom::key::{Curve, DecryptScheme, Hash, KeyAlgorithm, PublicKey, SignScheme};

use crate::digesting::digest_of;
use crate::fault::{Answer, Fault};
use crate::public_key::{as_long_as_field, curve_of, mask, of_encodable};
use crate::template::{Template, invalid};

/// A private key, parsed for one use.
pub(crate) enum PrivateKey {
    Rsa(Box<RsaPrivateKey>),
    P256(p256::SecretKey),
    P384(p384::SecretKey),
}

/// The attributes of a template that are the key itself.
pub(crate) const PARTS: [CK_ATTRIBUTE_TYPE; 12] = [
    CKA_KEY_TYPE,
    CKA_MODULUS,
    CKA_PUBLIC_EXPONENT,
    CKA_PRIVATE_EXPONENT,
    CKA_PRIME_1,
    CKA_PRIME_2,
    CKA_EXPONENT_1,
    CKA_EXPONENT_2,
    CKA_COEFFICIENT,
    CKA_EC_PARAMS,
    CKA_EC_POINT,
    CKA_VALUE,
];

impl PrivateKey {
    /// Makes one.
    pub(crate) fn generate(algorithm: KeyAlgorithm) -> Answer<Self> {
        Ok(match algorithm {
            KeyAlgorithm::Rsa(bits) => RsaPrivateKey::new(&mut OsRng, bits.into())
                .map(|key| Self::Rsa(Box::new(key)))
                .map_err(|_| Fault::Code(CKR_FUNCTION_FAILED))?,
            KeyAlgorithm::Ec(Curve::P256) => Self::P256(p256::SecretKey::random(&mut OsRng)),
            KeyAlgorithm::Ec(Curve::P384) => Self::P384(p384::SecretKey::random(&mut OsRng)),
        })
    }

    /// The key that a template has.
    pub(crate) fn of(template: &Template) -> Answer<Self> {
        let incomplete = || Fault::Code(CKR_TEMPLATE_INCOMPLETE);
        let secret = |kind| template.secret(kind).map(Secret::expose);
        let open = |kind| template.bytes(kind).ok_or_else(incomplete);
        match template.required_number(CKA_KEY_TYPE)? {
            CKK_RSA => {
                let n = BigUint::from_bytes_be(open(CKA_MODULUS)?);
                let e = match template.bytes(CKA_PUBLIC_EXPONENT) {
                    Some(bytes) => BigUint::from_bytes_be(bytes),
                    None => BigUint::from(65537_u32),
                };
                let d = secret(CKA_PRIVATE_EXPONENT).ok_or_else(incomplete)?;
                let primes = [CKA_PRIME_1, CKA_PRIME_2]
                    .into_iter()
                    .filter_map(secret)
                    .map(BigUint::from_bytes_be)
                    .collect();
                RsaPrivateKey::from_components(n, e, BigUint::from_bytes_be(d), primes)
                    .map(|key| Self::Rsa(Box::new(key)))
                    .map_err(|_| invalid())
            }
            CKK_EC => {
                let value = secret(CKA_VALUE).ok_or_else(incomplete)?;
                let curve = curve_of(template)?;
                let value = of_field_len(value, curve)?;
                match curve {
                    Curve::P256 => p256::SecretKey::from_slice(value.expose())
                        .map(Self::P256)
                        .map_err(|_| invalid()),
                    Curve::P384 => p384::SecretKey::from_slice(value.expose())
                        .map(Self::P384)
                        .map_err(|_| invalid()),
                }
            }
            _ => Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT)),
        }
    }

    /// The key that this module wrote as PKCS#8.
    pub(crate) fn from_pkcs8(pkcs8: &Secret, algorithm: KeyAlgorithm) -> Answer<Self> {
        let pkcs8 = pkcs8.expose();
        match algorithm {
            KeyAlgorithm::Rsa(_) => RsaPrivateKey::from_pkcs8_der(pkcs8)
                .ok()
                .map(|key| Self::Rsa(Box::new(key))),
            KeyAlgorithm::Ec(Curve::P256) => {
                p256::SecretKey::from_pkcs8_der(pkcs8).ok().map(Self::P256)
            }
            KeyAlgorithm::Ec(Curve::P384) => {
                p384::SecretKey::from_pkcs8_der(pkcs8).ok().map(Self::P384)
            }
        }
        .ok_or_else(invalid)
    }

    /// As PKCS#8.
    pub(crate) fn to_pkcs8(&self) -> Answer<Secret> {
        match self {
            Self::Rsa(key) => key.to_pkcs8_der(),
            Self::P256(key) => key.to_pkcs8_der(),
            Self::P384(key) => key.to_pkcs8_der(),
        }
        .map(|der| Secret::copy_of(der.as_bytes()))
        .map_err(|_| invalid())
    }

    /// Its public key.
    pub(crate) fn public(&self) -> Answer<PublicKey> {
        match self {
            Self::Rsa(key) => of_encodable(&key.to_public_key()),
            Self::P256(key) => of_encodable(&key.public_key()),
            Self::P384(key) => of_encodable(&key.public_key()),
        }
    }

    /// The attributes that are secret, for a key that may be read.
    pub(crate) fn parts(&self) -> Vec<(CK_ATTRIBUTE_TYPE, Secret)> {
        match self {
            Self::Rsa(key) => {
                let (p, q) = (&key.primes()[0], &key.primes()[1]);
                let part = |number: &BigUint| Secret::take(number.to_bytes_be());
                let mut parts = vec![
                    (CKA_PRIVATE_EXPONENT, part(key.d())),
                    (CKA_PRIME_1, part(p)),
                    (CKA_PRIME_2, part(q)),
                ];
                if let (Some(dp), Some(dq)) = (key.dp(), key.dq()) {
                    parts.push((CKA_EXPONENT_1, part(dp)));
                    parts.push((CKA_EXPONENT_2, part(dq)));
                }
                if let Some(coefficient) = key.crt_coefficient() {
                    parts.push((CKA_COEFFICIENT, part(&coefficient)));
                }
                parts
            }
            Self::P256(key) => vec![(CKA_VALUE, Secret::copy_of(&key.to_bytes()))],
            Self::P384(key) => vec![(CKA_VALUE, Secret::copy_of(&key.to_bytes()))],
        }
    }

    /// Signs a digest, or what the caller has encoded.
    pub(crate) fn sign(&self, scheme: &SignScheme, input: &[u8]) -> Answer<Vec<u8>> {
        let unusable = || Fault::Code(CKR_DATA_LEN_RANGE);
        match (self, scheme) {
            (Self::Rsa(key), SignScheme::RsaPkcs1 { hash }) => {
                let scheme = match hash {
                    None => Pkcs1v15Sign::new_unprefixed(),
                    Some(Hash::Sha1) => Pkcs1v15Sign::new::<sha1::Sha1>(),
                    Some(Hash::Sha256) => Pkcs1v15Sign::new::<sha2::Sha256>(),
                    Some(Hash::Sha384) => Pkcs1v15Sign::new::<sha2::Sha384>(),
                    Some(Hash::Sha512) => Pkcs1v15Sign::new::<sha2::Sha512>(),
                };
                // With random numbers, for blinding.
                key.sign_with_rng(&mut OsRng, scheme, input)
                    .map_err(|_| unusable())
            }
            (Self::Rsa(key), SignScheme::RsaPss { hash, salt_len, .. }) => {
                let scheme = match hash {
                    Hash::Sha1 => Pss::new_blinded_with_salt::<sha1::Sha1>(*salt_len),
                    Hash::Sha256 => Pss::new_blinded_with_salt::<sha2::Sha256>(*salt_len),
                    Hash::Sha384 => Pss::new_blinded_with_salt::<sha2::Sha384>(*salt_len),
                    Hash::Sha512 => Pss::new_blinded_with_salt::<sha2::Sha512>(*salt_len),
                };
                key.sign_with_rng(&mut OsRng, scheme, input)
                    .map_err(|_| unusable())
            }
            (Self::P256(key), SignScheme::Ecdsa) => {
                let signature: p256::ecdsa::Signature = p256::ecdsa::SigningKey::from(key)
                    .sign_prehash(&as_long_as_field(input, Curve::P256))
                    .map_err(|_| unusable())?;
                Ok(signature.to_bytes().to_vec())
            }
            (Self::P384(key), SignScheme::Ecdsa) => {
                let signature: p384::ecdsa::Signature = p384::ecdsa::SigningKey::from(key)
                    .sign_prehash(&as_long_as_field(input, Curve::P384))
                    .map_err(|_| unusable())?;
                Ok(signature.to_bytes().to_vec())
            }
            _ => Err(Fault::Code(CKR_KEY_TYPE_INCONSISTENT)),
        }
    }

    /// Decrypts. Whatever is wrong with a ciphertext, the answer is one and the same.
    pub(crate) fn decrypt(&self, scheme: &DecryptScheme, ciphertext: &[u8]) -> Answer<Secret> {
        let Self::Rsa(key) = self else {
            return Err(Fault::Code(CKR_KEY_TYPE_INCONSISTENT));
        };
        let wrong = || Fault::Code(CKR_ENCRYPTED_DATA_INVALID);
        match scheme {
            DecryptScheme::RsaPkcs1 => key
                .decrypt_blinded(&mut OsRng, Pkcs1v15Encrypt, ciphertext)
                .map(Secret::take)
                .map_err(|_| wrong()),
            DecryptScheme::RsaOaep { hash, mgf, label } => {
                let encoded = key
                    .decrypt_blinded(&mut OsRng, Unpadded, ciphertext)
                    .map(Secret::take)
                    .map_err(|_| wrong())?;
                strip_oaep(encoded, *hash, *mgf, label).ok_or_else(wrong)
            }
            DecryptScheme::RsaRaw => key
                .decrypt_blinded(&mut OsRng, Unpadded, ciphertext)
                .map(Secret::take)
                .map_err(|_| wrong()),
        }
    }

    /// The x coordinate of what both sides of an ECDH come to.
    pub(crate) fn derive(&self, point: &[u8]) -> Answer<Secret> {
        let invalid = || Fault::Code(CKR_MECHANISM_PARAM_INVALID);
        match self {
            Self::Rsa(_) => Err(Fault::Code(CKR_KEY_TYPE_INCONSISTENT)),
            Self::P256(key) => {
                let peer = p256::PublicKey::from_sec1_bytes(point).map_err(|_| invalid())?;
                let shared = p256::ecdh::diffie_hellman(key.to_nonzero_scalar(), peer.as_affine());
                Ok(Secret::copy_of(shared.raw_secret_bytes()))
            }
            Self::P384(key) => {
                let peer = p384::PublicKey::from_sec1_bytes(point).map_err(|_| invalid())?;
                let shared = p384::ecdh::diffie_hellman(key.to_nonzero_scalar(), peer.as_affine());
                Ok(Secret::copy_of(shared.raw_secret_bytes()))
            }
        }
    }
}

/// The bytes as they are, at the length of the modulus.
struct Unpadded;

impl rsa::traits::PaddingScheme for Unpadded {
    fn decrypt<R: p256::elliptic_curve::rand_core::CryptoRngCore>(
        self,
        rng: Option<&mut R>,
        key: &RsaPrivateKey,
        ciphertext: &[u8],
    ) -> rsa::Result<Vec<u8>> {
        let ciphertext = BigUint::from_bytes_be(ciphertext);
        let message = rsa::hazmat::rsa_decrypt_and_check(key, rng, &ciphertext)?.to_bytes_be();
        let mut padded = vec![0; key.size() - message.len()];
        padded.extend_from_slice(&message);
        Ok(padded)
    }

    fn encrypt<R: p256::elliptic_curve::rand_core::CryptoRngCore>(
        self,
        _: &mut R,
        _: &rsa::RsaPublicKey,
        _: &[u8],
    ) -> rsa::Result<Vec<u8>> {
        Err(rsa::Error::InvalidPaddingScheme)
    }
}

/// RFC 8017, section 7.1.2, step 3. All checks are made before any counts.
fn strip_oaep(mut encoded: Secret, hash: Hash, mgf: Hash, label: &[u8]) -> Option<Secret> {
    let hash_len = hash.digest_len();
    if encoded.len() < 2 * hash_len + 2 {
        return None;
    }
    let (first, rest) = encoded.expose_mut().split_at_mut(1);
    let (seed, block) = rest.split_at_mut(hash_len);
    mask(seed, mgf, block);
    mask(block, mgf, seed);
    let (digest, rest) = block.split_at(hash_len);
    let mut wrong = first[0];
    for (byte, expected) in digest.iter().zip(digest_of(hash, &[label])) {
        wrong |= byte ^ expected;
    }
    // The first byte that is not 0 must be 1; found without a branch on what was there before.
    let (mut start, mut found) = (0, 0_u8);
    for (index, byte) in rest.iter().enumerate() {
        let is_end = u8::from(*byte != 0) & (found ^ 1);
        start |= index * usize::from(is_end);
        wrong |= (byte ^ 1) * is_end;
        found |= is_end;
    }
    (wrong == 0 && found == 1).then(|| Secret::copy_of(&rest[start + 1..]))
}

/// A private value as long as the field: some callers leave out leading zeros.
fn of_field_len(value: &[u8], curve: Curve) -> Answer<Secret> {
    let len = curve.field_len();
    let start = value.len().saturating_sub(len);
    if value[..start].iter().any(|byte| *byte != 0) {
        return Err(invalid());
    }
    let value = &value[start..];
    Ok(Secret::concat(&[&vec![0; len - value.len()], value]))
}
