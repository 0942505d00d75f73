//! Public keys: how PKCS#11 writes them (PKCS#11 3.1, sections 6.1.2 and 6.3.3), and what is done
//! with them, in memory.

use cryptoki_sys::{
    CKA_EC_PARAMS, CKA_EC_POINT, CKA_KEY_TYPE, CKA_MODULUS, CKA_PUBLIC_EXPONENT, CKK_EC, CKK_RSA,
    CKR_ATTRIBUTE_VALUE_INVALID, CKR_CURVE_NOT_SUPPORTED, CKR_DATA_LEN_RANGE,
    CKR_SIGNATURE_INVALID, CKR_SIGNATURE_LEN_RANGE, CKR_TEMPLATE_INCOMPLETE,
    CKR_TEMPLATE_INCONSISTENT,
};
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::pkcs8::EncodePublicKey;
use rsa::{BigUint, Pkcs1v15Sign, Pss, RsaPublicKey};
use strongroom::Secret;
use strongroom::key::{Curve, Hash, KeyAlgorithm, PublicKey, SignScheme};

use crate::digesting::digest_of;
use crate::fault::{Answer, Fault};
use crate::template::{Template, invalid};

/// The curves that there are, with their OIDs in DER.
const CURVES: [(Curve, &[u8]); 2] = [
    (
        Curve::P256,
        &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
    ),
    (Curve::P384, &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22]),
];

/// CKA_EC_PARAMS of a curve: its OID.
pub(crate) fn ec_parameters(curve: Curve) -> &'static [u8] {
    match curve {
        Curve::P256 => CURVES[0].1,
        Curve::P384 => CURVES[1].1,
    }
}

/// The curve of a template.
pub(crate) fn curve_of(template: &Template) -> Answer<Curve> {
    let wanted = template
        .bytes(CKA_EC_PARAMS)
        .ok_or(Fault::Code(CKR_TEMPLATE_INCOMPLETE))?;
    CURVES
        .iter()
        .find(|(_, oid)| *oid == wanted)
        .map(|(curve, _)| *curve)
        .ok_or(Fault::Code(CKR_CURVE_NOT_SUPPORTED))
}

/// Bytes as a DER OCTET STRING, which CKA_EC_POINT is.
pub(crate) fn octet_string(bytes: &[u8]) -> Vec<u8> {
    let len = u8::try_from(bytes.len())
        .ok()
        .filter(|len| *len < 0x80)
        .expect("a point of P-256 or P-384 has at most 97 bytes");
    [&[0x04, len], bytes].concat()
}

/// A point, which callers write as it is or as a DER OCTET STRING. Uncompressed, the second byte
/// of a point that is written as it is can be any: the length decides.
pub(crate) fn read_point(curve: Curve, bytes: &[u8]) -> Answer<&[u8]> {
    let len = 1 + 2 * curve.field_len();
    match bytes.len() {
        it if it == len => Ok(bytes),
        it if it == len + 2 && bytes[0] == 0x04 && usize::from(bytes[1]) == len => Ok(&bytes[2..]),
        _ => Err(invalid()),
    }
}

/// The public key that a template describes.
pub(crate) fn public_key_of(template: &Template) -> Answer<PublicKey> {
    let bytes = |kind| {
        template
            .bytes(kind)
            .ok_or(Fault::Code(CKR_TEMPLATE_INCOMPLETE))
    };
    match template.required_number(CKA_KEY_TYPE)? {
        CKK_RSA => rsa_key(bytes(CKA_MODULUS)?, bytes(CKA_PUBLIC_EXPONENT)?),
        CKK_EC => {
            let curve = curve_of(template)?;
            ec_key(curve, read_point(curve, bytes(CKA_EC_POINT)?)?)
        }
        _ => Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT)),
    }
}

fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Answer<PublicKey> {
    RsaPublicKey::new(
        BigUint::from_bytes_be(modulus),
        BigUint::from_bytes_be(exponent),
    )
    .map_err(|_| invalid())
    .and_then(|key| of_encodable(&key))
}

fn ec_key(curve: Curve, point: &[u8]) -> Answer<PublicKey> {
    match curve {
        Curve::P256 => p256::PublicKey::from_sec1_bytes(point)
            .map_err(|_| invalid())
            .and_then(|key| of_encodable(&key)),
        Curve::P384 => p384::PublicKey::from_sec1_bytes(point)
            .map_err(|_| invalid())
            .and_then(|key| of_encodable(&key)),
    }
}

pub(crate) fn of_encodable(key: &impl EncodePublicKey) -> Answer<PublicKey> {
    let spki = key.to_public_key_der().map_err(|_| invalid())?;
    PublicKey::from_spki(spki.as_bytes()).map_err(|_| Fault::Code(CKR_ATTRIBUTE_VALUE_INVALID))
}

/// The length of a key's signatures in bytes; for RSA, that of its modulus and all its outputs.
pub(crate) fn signature_len(key: &PublicKey) -> usize {
    match key.algorithm() {
        KeyAlgorithm::Rsa(bits) => usize::from(bits) / 8,
        KeyAlgorithm::Ec(curve) => 2 * curve.field_len(),
    }
}

/// Verifies a signature over a digest, or over what the caller has encoded.
pub(crate) fn verify(
    key: &PublicKey,
    scheme: &SignScheme,
    input: &[u8],
    signature: &[u8],
) -> Answer {
    if signature.len() != signature_len(key) {
        return Err(Fault::Code(CKR_SIGNATURE_LEN_RANGE));
    }
    let right = match (key.algorithm(), scheme) {
        (KeyAlgorithm::Rsa(_), SignScheme::RsaPkcs1 { hash }) => {
            let scheme = match hash {
                None => Pkcs1v15Sign::new_unprefixed(),
                Some(Hash::Sha1) => Pkcs1v15Sign::new::<sha1::Sha1>(),
                Some(Hash::Sha256) => Pkcs1v15Sign::new::<sha2::Sha256>(),
                Some(Hash::Sha384) => Pkcs1v15Sign::new::<sha2::Sha384>(),
                Some(Hash::Sha512) => Pkcs1v15Sign::new::<sha2::Sha512>(),
            };
            rsa(key)?.verify(scheme, input, signature).is_ok()
        }
        (KeyAlgorithm::Rsa(_), SignScheme::RsaPss { hash, salt_len, .. }) => {
            let scheme = match hash {
                Hash::Sha1 => Pss::new_with_salt::<sha1::Sha1>(*salt_len),
                Hash::Sha256 => Pss::new_with_salt::<sha2::Sha256>(*salt_len),
                Hash::Sha384 => Pss::new_with_salt::<sha2::Sha384>(*salt_len),
                Hash::Sha512 => Pss::new_with_salt::<sha2::Sha512>(*salt_len),
            };
            rsa(key)?.verify(scheme, input, signature).is_ok()
        }
        (KeyAlgorithm::Ec(curve), SignScheme::Ecdsa) => {
            let point = key.ec_point().ok_or_else(invalid)?;
            let digest = as_long_as_field(input, curve);
            match curve {
                Curve::P256 => p256::ecdsa::VerifyingKey::from_sec1_bytes(point)
                    .and_then(|key| {
                        let signature = p256::ecdsa::Signature::from_slice(signature)?;
                        key.verify_prehash(&digest, &signature)
                    })
                    .is_ok(),
                Curve::P384 => p384::ecdsa::VerifyingKey::from_sec1_bytes(point)
                    .and_then(|key| {
                        let signature = p384::ecdsa::Signature::from_slice(signature)?;
                        key.verify_prehash(&digest, &signature)
                    })
                    .is_ok(),
            }
        }
        _ => false,
    };
    if right {
        Ok(())
    } else {
        Err(Fault::Code(CKR_SIGNATURE_INVALID))
    }
}

/// A digest at the length of the field, and still the same number: the leftmost bits of a longer
/// one (FIPS 186-4, section 6.4).
pub(crate) fn as_long_as_field(digest: &[u8], curve: Curve) -> Vec<u8> {
    let len = curve.field_len();
    let digest = &digest[..digest.len().min(len)];
    let mut number = vec![0; len - digest.len()];
    number.extend_from_slice(digest);
    number
}

/// How to encrypt.
pub(crate) enum EncryptScheme {
    /// RSAES-PKCS1-v1_5 (RFC 8017, section 7.2).
    RsaPkcs1,
    /// RSAES-OAEP (RFC 8017, section 7.1).
    RsaOaep {
        hash: Hash,
        mgf: Hash,
        label: Vec<u8>,
    },
}

/// Encrypts under an RSA key. The padding is ours, because the rsa crate's takes no label but
/// UTF-8.
pub(crate) fn encrypt(key: &PublicKey, scheme: &EncryptScheme, message: &[u8]) -> Answer<Vec<u8>> {
    let (modulus, exponent) = key.rsa().ok_or_else(invalid)?;
    let len = modulus.len();
    let encoded = match scheme {
        EncryptScheme::RsaPkcs1 => pad_pkcs1(message, len),
        EncryptScheme::RsaOaep { hash, mgf, label } => pad_oaep(message, len, *hash, *mgf, label),
    }
    .ok_or(Fault::Code(CKR_DATA_LEN_RANGE))?;
    let [n, e, message] = [modulus, exponent, encoded.expose()].map(BigUint::from_bytes_be);
    let ciphertext = message.modpow(&e, &n).to_bytes_be();
    let mut padded = vec![0; len - ciphertext.len()];
    padded.extend_from_slice(&ciphertext);
    Ok(padded)
}

/// RFC 8017, section 7.2.1, step 2: 0, 2, at least eight random bytes that are not 0, 0, message.
fn pad_pkcs1(message: &[u8], len: usize) -> Option<Secret> {
    let random_len = len.checked_sub(message.len() + 3).filter(|it| *it >= 8)?;
    let mut random = Secret::random(random_len);
    for byte in random.expose_mut() {
        while *byte == 0 {
            *byte = Secret::random(1).expose()[0];
        }
    }
    Some(Secret::concat(&[&[0, 2], random.expose(), &[0], message]))
}

/// RFC 8017, section 7.1.1, step 2.
fn pad_oaep(message: &[u8], len: usize, hash: Hash, mgf: Hash, label: &[u8]) -> Option<Secret> {
    let hash_len = hash.digest_len();
    let zeros = vec![0; len.checked_sub(message.len() + 2 * hash_len + 2)?];
    let mut seed = Secret::random(hash_len);
    let mut block = Secret::concat(&[&digest_of(hash, &[label]), &zeros, &[1], message]);
    mask(block.expose_mut(), mgf, seed.expose());
    mask(seed.expose_mut(), mgf, block.expose());
    Some(Secret::concat(&[&[0], seed.expose(), block.expose()]))
}

/// XORs MGF1 of a seed over some bytes (RFC 8017, appendix B.2.1).
pub(crate) fn mask(bytes: &mut [u8], mgf: Hash, seed: &[u8]) {
    for (counter, piece) in (0_u32..).zip(bytes.chunks_mut(mgf.digest_len())) {
        let mask = digest_of(mgf, &[seed, &counter.to_be_bytes()]);
        for (byte, mask) in piece.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
}

fn rsa(key: &PublicKey) -> Answer<RsaPublicKey> {
    let (modulus, exponent) = key.rsa().ok_or_else(invalid)?;
    RsaPublicKey::new(
        BigUint::from_bytes_be(modulus),
        BigUint::from_bytes_be(exponent),
    )
    .map_err(|_| invalid())
}
