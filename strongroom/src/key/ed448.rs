//! Ed448 and Ed448ph (RFC 8032, section 5.2): what is signed always has a context, which may be empty.

use ed448_goldilocks_plus::{PreHasherXof, ScalarBytes, Signature, SigningKey, VerifyingKey};
use sha3::Shake256;
use sha3::digest::Update;
use zeroize::Zeroize;

/// Length of a seed, and of a point, in bytes.
pub(super) const KEY_LEN: usize = 57;

/// Length of a signature in bytes.
pub(super) const SIGNATURE_LEN: usize = 114;

/// The longest context in bytes, which the library looks at where it signs, and not where it verifies.
const MAX_CONTEXT: usize = 255;

/// The key of a seed.
pub(super) fn from_seed(seed: &[u8]) -> Option<SigningKey> {
    let mut seed: ScalarBytes = <[u8; KEY_LEN]>::try_from(seed).ok()?.into();
    let key = SigningKey::from(&seed);
    seed.as_mut_slice().zeroize();
    Some(key)
}

/// A key's public half.
pub(super) fn point_of(key: &SigningKey) -> [u8; KEY_LEN] {
    key.verifying_key().to_bytes()
}

/// Whether this is a public key: a point of the group that signs.
pub(super) fn is_point(point: &[u8]) -> bool {
    public_key(point).is_some()
}

/// Signs a message with a context of at most 255 bytes; nothing for a longer one.
pub(super) fn sign(
    key: &SigningKey,
    prehashed: bool,
    context: &[u8],
    message: &[u8],
) -> Option<Vec<u8>> {
    let signature = if prehashed {
        key.sign_prehashed(Some(context), prehash(message))
    } else {
        key.sign_ctx(context, message)
    };
    Some(signature.ok()?.to_bytes().to_vec())
}

/// Whether a signature is the key's of this point, over a message in a context.
pub(super) fn verifies(
    point: &[u8],
    prehashed: bool,
    context: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    let (Some(key), Ok(parsed)) = (public_key(point), Signature::try_from(signature)) else {
        return false;
    };
    context.len() <= MAX_CONTEXT
        && is_canonical(&signature[..KEY_LEN])
        && if prehashed {
            key.verify_prehashed(&parsed, Some(context), prehash(message))
        } else {
            key.verify_ctx(&parsed, context, message)
        }
        .is_ok()
}

fn public_key(point: &[u8]) -> Option<VerifyingKey> {
    let bytes = point.try_into().ok().filter(|_| is_canonical(point))?;
    VerifyingKey::from_bytes(bytes).ok()
}

/// Whether a point is written in the one way that it has (RFC 8032, section 5.2.3): y is below the prime, and
/// of the last byte there is but the sign of x. The library takes y modulo the prime, and looks at the sign
/// alone.
fn is_canonical(point: &[u8]) -> bool {
    // 2^448 - 2^224 - 1, little-endian.
    const PRIME: [u8; KEY_LEN - 1] = {
        let mut prime = [0xFF; KEY_LEN - 1];
        prime[28] = 0xFE;
        prime
    };
    match point {
        [y @ .., 0 | 0x80] => y.iter().rev().lt(PRIME.iter().rev()),
        _ => false,
    }
}

/// PH of RFC 8032, section 5.2: SHAKE256 of 64 bytes.
fn prehash(message: &[u8]) -> PreHasherXof<Shake256> {
    Shake256::default().chain(message).into()
}

#[cfg(test)]
mod tests {
    use ed448_goldilocks_plus::{EdwardsPoint, Scalar, WideScalarBytes};
    use sha3::digest::{ExtendableOutput, XofReader};

    use super::*;

    /// RFC 8032, sections 7.4 (blank; 1 octet; 1 octet with context) and 7.5 (TEST abc, with and without
    /// context): seed, point, context, message, signature.
    const VECTORS: [(bool, [&str; 5]); 5] = [
        (
            false,
            [
                "6c82a562cb808d10d632be89c8513ebf6c929f34ddfa8c9f63c9960ef6e348a3\
                 528c8a3fcc2f044e39a3fc5b94492f8f032e7549a20098f95b",
                "5fd7449b59b461fd2ce787ec616ad46a1da1342485a70e1f8a0ea75d80e96778\
                 edf124769b46c7061bd6783df1e50f6cd1fa1abeafe8256180",
                "",
                "",
                "533a37f6bbe457251f023c0d88f976ae2dfb504a843e34d2074fd823d41a591f\
                 2b233f034f628281f2fd7a22ddd47d7828c59bd0a21bfd3980ff0d2028d4b18a\
                 9df63e006c5d1c2d345b925d8dc00b4104852db99ac5c7cdda8530a113a0f4db\
                 b61149f05a7363268c71d95808ff2e652600",
            ],
        ),
        (
            false,
            [
                "c4eab05d357007c632f3dbb48489924d552b08fe0c353a0d4a1f00acda2c463a\
                 fbea67c5e8d2877c5e3bc397a659949ef8021e954e0a12274e",
                "43ba28f430cdff456ae531545f7ecd0ac834a55d9358c0372bfa0c6c6798c086\
                 6aea01eb00742802b8438ea4cb82169c235160627b4c3a9480",
                "",
                "03",
                "26b8f91727bd62897af15e41eb43c377efb9c610d48f2335cb0bd0087810f435\
                 2541b143c4b981b7e18f62de8ccdf633fc1bf037ab7cd779805e0dbcc0aae1cb\
                 cee1afb2e027df36bc04dcecbf154336c19f0af7e0a6472905e799f1953d2a0f\
                 f3348ab21aa4adafd1d234441cf807c03a00",
            ],
        ),
        (
            false,
            [
                "c4eab05d357007c632f3dbb48489924d552b08fe0c353a0d4a1f00acda2c463a\
                 fbea67c5e8d2877c5e3bc397a659949ef8021e954e0a12274e",
                "43ba28f430cdff456ae531545f7ecd0ac834a55d9358c0372bfa0c6c6798c086\
                 6aea01eb00742802b8438ea4cb82169c235160627b4c3a9480",
                "666f6f",
                "03",
                "d4f8f6131770dd46f40867d6fd5d5055de43541f8c5e35abbcd001b32a89f7d2\
                 151f7647f11d8ca2ae279fb842d607217fce6e042f6815ea000c85741de5c8da\
                 1144a6a1aba7f96de42505d7a7298524fda538fccbbb754f578c1cad10d54d0d\
                 5428407e85dcbc98a49155c13764e66c3c00",
            ],
        ),
        (
            true,
            [
                "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42\
                 ef7822e0d5104127dc05d6dbefde69e3ab2cec7c867c6e2c49",
                "259b71c19f83ef77a7abd26524cbdb3161b590a48f7d17de3ee0ba9c52beb743\
                 c09428a131d6b1b57303d90d8132c276d5ed3d5d01c0f53880",
                "",
                "616263",
                "822f6901f7480f3d5f562c592994d9693602875614483256505600bbc281ae38\
                 1f54d6bce2ea911574932f52a4e6cadd78769375ec3ffd1b801a0d9b3f4030cd\
                 433964b6457ea39476511214f97469b57dd32dbc560a9a94d00bff07620464a3\
                 ad203df7dc7ce360c3cd3696d9d9fab90f00",
            ],
        ),
        (
            true,
            [
                "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42\
                 ef7822e0d5104127dc05d6dbefde69e3ab2cec7c867c6e2c49",
                "259b71c19f83ef77a7abd26524cbdb3161b590a48f7d17de3ee0ba9c52beb743\
                 c09428a131d6b1b57303d90d8132c276d5ed3d5d01c0f53880",
                "666f6f",
                "616263",
                "c32299d46ec8ff02b54540982814dce9a05812f81962b649d528095916a2aa48\
                 1065b1580423ef927ecf0af5888f90da0f6a9a85ad5dc3f280d91224ba9911a3\
                 653d00e484e2ce232521481c8658df304bb7745a73514cdb9bf3e15784ab7128\
                 4f8d0704a608c54a6b62d97beb511d132100",
            ],
        ),
    ];

    #[test]
    fn the_vectors_of_the_specification_come_out() {
        for (prehashed, texts) in VECTORS {
            let [seed, point, context, message, expected] =
                texts.map(|text| hex::decode(text).expect("it is hexadecimal"));
            let key = from_seed(&seed).expect("a seed has 57 bytes");
            assert_eq!(point_of(&key)[..], point);
            let signature = sign(&key, prehashed, &context, &message).expect("a short context");
            assert_eq!(hex::encode(&signature), hex::encode(expected));
            let is_right = |prehashed, context: &[u8], message: &[u8], signature: &[u8]| {
                verifies(&point, prehashed, context, message, signature)
            };
            assert!(is_right(prehashed, &context, &message, &signature));
            assert!(!is_right(!prehashed, &context, &message, &signature));
            assert!(!is_right(prehashed, b"bar", &message, &signature));
            assert!(!is_right(prehashed, &context, b"another", &signature));
            assert!(!is_right(prehashed, &context, &message, &signature[1..]));
            for index in 0..SIGNATURE_LEN {
                let mut changed = signature.clone();
                changed[index] ^= 1;
                assert!(
                    !is_right(prehashed, &context, &message, &changed),
                    "{index}"
                );
            }
            assert!(sign(&key, prehashed, &[0; 256], &message).is_none());
            assert!(!is_right(prehashed, &[0; 256], &message, &signature));
        }
    }

    /// RFC 8032, section 5.2.7: S is below the order, or every signature would have a second spelling.
    #[test]
    fn a_signature_has_one_spelling() {
        // Section 5.2, little-endian.
        let order = hex::decode(
            "f34458ab92c27823558fc58d72c26c219036d6ae49db4ec4e923ca7cffffffff\
             ffffffffffffffffffffffffffffffffffffffffffffff3f00",
        )
        .expect("it is hexadecimal");
        let key = from_seed(&[7; KEY_LEN]).expect("a seed");
        let mut signature = sign(&key, false, b"", b"message").expect("a short context");
        assert!(verifies(
            &point_of(&key),
            false,
            b"",
            b"message",
            &signature
        ));
        let mut carry = 0;
        for (digit, more) in signature[KEY_LEN..].iter_mut().zip(order) {
            let sum = u16::from(*digit) + u16::from(more) + carry;
            *digit = (sum & 0xFF) as u8;
            carry = sum >> 8;
        }
        assert!(!verifies(
            &point_of(&key),
            false,
            b"",
            b"message",
            &signature
        ));
    }

    /// RFC 8032, section 5.2.3; and those of small order, with which one signature fits many messages: the
    /// neutral element (0, 1), (0, -1), and (1, 0).
    #[test]
    fn what_is_no_point_that_signs_is_no_key() {
        let mut neutral = [0; KEY_LEN];
        neutral[0] = 1;
        let mut of_order_two = [0xFF; KEY_LEN];
        of_order_two[0] = 0xFE;
        of_order_two[28] = 0xFE;
        of_order_two[56] = 0;
        let of_order_four = [0; KEY_LEN];
        for bad in [neutral, of_order_two, of_order_four] {
            assert!(!is_point(&bad), "{}", hex::encode(bad));
        }
        let good = point_of(&from_seed(&[7; KEY_LEN]).expect("a seed"));
        assert!(is_point(&good));
        assert!(!is_point(&good[1..]));
    }

    /// RFC 8032, section 5.2.3, steps 1 and 2. Of 19 and 19 + p the library thinks the same.
    #[test]
    fn a_point_has_one_spelling() {
        let mut small = [0; KEY_LEN];
        small[0] = 19;
        assert!(is_point(&small));
        let mut longer = [0xFF; KEY_LEN];
        longer[..28].copy_from_slice(&[0; 28]);
        longer[0] = 18;
        longer[56] = 0;
        assert!(!is_point(&longer));
        let good = point_of(&from_seed(&[7; KEY_LEN]).expect("a seed"));
        for bit in 0..7 {
            let mut changed = good;
            changed[56] |= 1 << bit;
            assert!(!is_point(&changed), "{bit}");
        }
    }

    /// A signer can sign over an R with a bit too many, or a context whose length does not fit into its byte,
    /// and the library does not mind. Nobody else's verifier takes that.
    #[test]
    fn what_the_library_alone_takes_is_no_signature() {
        let key = from_seed(&[7; KEY_LEN]).expect("a seed");
        let point = point_of(&key);
        let nonce = Scalar::from_bytes_mod_order(&ScalarBytes::from([5; KEY_LEN]));
        let sign = |junk: u8, context: &[u8]| {
            let mut r = (EdwardsPoint::GENERATOR * nonce).compress().to_bytes();
            r[56] |= junk;
            let mut digest = WideScalarBytes::default();
            Shake256::default()
                .chain(b"SigEd448\0")
                .chain(&context.len().to_le_bytes()[..1])
                .chain(context)
                .chain(r)
                .chain(point)
                .chain(b"message")
                .finalize_xof()
                .read(&mut digest);
            let k = Scalar::from_bytes_mod_order_wide(&digest);
            let s = nonce + k * key.to_scalar();
            [&r[..], &s.to_bytes_rfc_8032()].concat()
        };
        assert!(verifies(&point, false, b"", b"message", &sign(0, b"")));
        for junk in [1, 0x40] {
            let signature = sign(junk, b"");
            let parsed = Signature::try_from(&signature[..]).expect("the library takes it");
            assert!(key.verifying_key().verify_raw(&parsed, b"message").is_ok());
            assert!(!verifies(&point, false, b"", b"message", &signature));
        }
        let long = [0; 256];
        let signature = sign(0, &long);
        let parsed = Signature::try_from(&signature[..]).expect("a signature");
        assert!(
            key.verifying_key()
                .verify_ctx(&parsed, &long, b"message")
                .is_ok()
        );
        assert!(!verifies(&point, false, &long, b"message", &signature));
    }
}
