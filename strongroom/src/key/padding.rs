//! What RSA is padded with (RFC 8017). The private operation itself is the TPM's, or memory's.
//!
//! What is decrypted is taken apart in time that does not depend on it, and whatever is wrong with
//! it gets one and the same answer: nobody must learn from us where a padding broke
//! (Bleichenbacher 1998, Manger 2001).

use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::{DecryptScheme, Hash, SignScheme};
use crate::error::{Error, Result};
use crate::secret::Secret;

/// What is to be signed, encoded by a scheme to the `len` bytes of the modulus.
pub(crate) fn encode(scheme: &SignScheme, input: &[u8], len: usize) -> Result<Vec<u8>> {
    match scheme {
        SignScheme::RsaPkcs1 { hash } => pkcs1(*hash, input, len),
        SignScheme::RsaPss {
            hash,
            mgf,
            salt_len,
        } => {
            // A salt that long fits no modulus; nor is so much random memory asked for.
            if *salt_len > len {
                return Err(does_not_fit());
            }
            pss(*hash, *mgf, Secret::random(*salt_len).expose(), input, len)
        }
        SignScheme::RsaRaw if input.len() == len => Ok(input.to_vec()),
        SignScheme::RsaRaw => Err(does_not_fit()),
        SignScheme::Ecdsa | SignScheme::Eddsa { .. } => Err(Error::input(
            "signature scheme",
            "an RSA key does not do it",
        )),
    }
}

/// What is to be encrypted, encoded by a scheme to the `len` bytes of the modulus.
///
/// # Errors
/// [`Error::Input`] for what does not fit.
pub(crate) fn encode_message(scheme: &DecryptScheme, message: &[u8], len: usize) -> Result<Secret> {
    match scheme {
        // Shorter ones are numbers too.
        DecryptScheme::RsaRaw if message.len() <= len => {
            Some(super::padded(&Secret::copy_of(message), len))
        }
        DecryptScheme::RsaRaw => None,
        DecryptScheme::RsaPkcs1 => pad_pkcs1(message, len),
        DecryptScheme::RsaOaep { hash, mgf, label } => pad_oaep(*hash, *mgf, label, message, len),
    }
    .ok_or_else(does_not_fit)
}

/// What was encrypted, out of the encoding that the private operation gave.
pub(crate) fn decode(scheme: &DecryptScheme, encoded: Secret) -> Result<Secret> {
    match scheme {
        DecryptScheme::RsaRaw => Ok(encoded),
        DecryptScheme::RsaPkcs1 => unpad_pkcs1(&encoded),
        DecryptScheme::RsaOaep { hash, mgf, label } => unpad_oaep(*hash, *mgf, label, encoded),
    }
}

/// The one answer to a ciphertext that does not decrypt.
pub(crate) fn does_not_decrypt() -> Error {
    Error::input("ciphertext", "it does not decrypt with this key and scheme")
}

/// EMSA-PKCS1-v1_5 (section 9.2).
fn pkcs1(hash: Option<Hash>, input: &[u8], len: usize) -> Result<Vec<u8>> {
    let prefix = match hash {
        Some(hash) => {
            check_digest(hash, input)?;
            digest_info(hash)
        }
        None => &[],
    };
    let filling = len
        .checked_sub(3 + prefix.len() + input.len())
        .filter(|filling| *filling >= 8)
        .ok_or_else(does_not_fit)?;
    let mut encoded = vec![0, 1];
    encoded.resize(2 + filling, 0xFF);
    encoded.push(0);
    encoded.extend_from_slice(prefix);
    encoded.extend_from_slice(input);
    Ok(encoded)
}

/// EMSA-PSS (section 9.1.1) for a modulus whose highest bit is the highest of its first byte.
fn pss(hash: Hash, mgf: Hash, salt: &[u8], digest: &[u8], len: usize) -> Result<Vec<u8>> {
    check_digest(hash, digest)?;
    let hash_len = hash.digest_len();
    let filling = len
        .checked_sub(hash_len + salt.len() + 2)
        .ok_or_else(does_not_fit)?;
    let h = hash_of(hash, &[&[0; 8], digest, salt]);
    let mut encoded = vec![0; filling];
    encoded.push(1);
    encoded.extend_from_slice(salt);
    mask(mgf, &h, &mut encoded);
    encoded[0] &= 0x7F;
    encoded.extend_from_slice(&h);
    encoded.push(0xBC);
    Ok(encoded)
}

/// EMSA-PSS-VERIFY (section 9.1.2), of what the public operation gave.
pub(super) fn is_pss(
    hash: Hash,
    mgf: Hash,
    salt_len: usize,
    digest: &[u8],
    encoded: &[u8],
) -> bool {
    let hash_len = hash.digest_len();
    let Some(block_len) = encoded.len().checked_sub(hash_len + 1) else {
        return false;
    };
    let (block, rest) = encoded.split_at(block_len);
    let (h, end) = rest.split_at(hash_len);
    if end != [0xBC] || block[0] & 0x80 != 0 {
        return false;
    }
    let mut block = block.to_vec();
    mask(mgf, h, &mut block);
    block[0] &= 0x7F;
    let Some(salt_at) = block.len().checked_sub(salt_len) else {
        return false;
    };
    // The same encoding comes of the same salt.
    pss(hash, mgf, &block[salt_at..], digest, encoded.len()).is_ok_and(|right| right == encoded)
}

/// RSAES-PKCS1-v1_5 (section 7.2.2, step 3): 0, 2, at least eight bytes that are not 0, 0, M.
fn unpad_pkcs1(encoded: &Secret) -> Result<Secret> {
    let bytes = encoded.expose();
    let [first, second, rest @ ..] = bytes else {
        return Err(does_not_decrypt());
    };
    let good = first.ct_eq(&0) & second.ct_eq(&2);
    let (found, at) = first_where(rest, |byte| byte.ct_eq(&0));
    // The filling is what stands before the separator.
    let long_enough = !less_than(at, 8);
    cut(rest, good & found & long_enough, at)
}

/// RSAES-PKCS1-v1_5 (section 7.2.1, step 2): 0, 2, at least eight random bytes that are not 0, 0,
/// message.
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

/// EME-OAEP encoding (section 7.1.1, step 2).
fn pad_oaep(hash: Hash, mgf: Hash, label: &[u8], message: &[u8], len: usize) -> Option<Secret> {
    let hash_len = hash.digest_len();
    let zeros = vec![0; len.checked_sub(message.len() + 2 * hash_len + 2)?];
    let mut seed = Secret::random(hash_len);
    let mut block = Secret::concat(&[&hash_of(hash, &[label]), &zeros, &[1], message]);
    mask(mgf, seed.expose(), block.expose_mut());
    mask(mgf, block.expose(), seed.expose_mut());
    Some(Secret::concat(&[&[0], seed.expose(), block.expose()]))
}

/// EME-OAEP decoding (section 7.1.2, step 3).
fn unpad_oaep(hash: Hash, mgf: Hash, label: &[u8], mut encoded: Secret) -> Result<Secret> {
    let hash_len = hash.digest_len();
    if encoded.len() < 2 * hash_len + 2 {
        return Err(does_not_fit());
    }
    let label_hash = hash_of(hash, &[label]);
    let (first, masked) = encoded.expose_mut().split_at_mut(1);
    let (seed, block) = masked.split_at_mut(hash_len);
    mask(mgf, block, seed);
    mask(mgf, seed, block);
    let (found_hash, rest) = block.split_at(hash_len);
    let good = first[0].ct_eq(&0) & found_hash.ct_eq(&label_hash);
    let (found, at) = first_where(rest, |byte| !byte.ct_eq(&0));
    // It is in `rest` if it was found; where it was not, any byte will do.
    let separator = rest.iter().zip(0_u32..).fold(0, |so_far, (byte, index)| {
        u8::conditional_select(&so_far, byte, index.ct_eq(&at))
    });
    cut(rest, good & found & separator.ct_eq(&1), at)
}

/// What stands behind the separator at `at`, or the one answer.
fn cut(bytes: &[u8], good: Choice, at: u32) -> Result<Secret> {
    if bool::from(good) {
        let at = usize::try_from(at).expect("an index of a slice");
        Ok(Secret::copy_of(&bytes[at + 1..]))
    } else {
        Err(does_not_decrypt())
    }
}

/// Whether and where the first byte is that `is` says yes to, in time that depends on the length
/// alone.
fn first_where(bytes: &[u8], is: impl Fn(&u8) -> Choice) -> (Choice, u32) {
    bytes
        .iter()
        .zip(0_u32..)
        .fold((Choice::from(0), 0), |(found, at), (byte, index)| {
            let here = is(byte) & !found;
            (found | here, u32::conditional_select(&at, &index, here))
        })
}

/// a < b, for numbers below 2^31.
fn less_than(a: u32, b: u32) -> Choice {
    Choice::from(u8::from((a.wrapping_sub(b) >> 31) & 1 == 1))
}

/// MGF1 (section B.2.1), laid over `target`.
fn mask(hash: Hash, seed: &[u8], target: &mut [u8]) {
    for (counter, part) in (0_u32..).zip(target.chunks_mut(hash.digest_len())) {
        let block = Secret::take(hash_of(hash, &[seed, &counter.to_be_bytes()]).into_vec());
        for (byte, mask) in part.iter_mut().zip(block.expose()) {
            *byte ^= mask;
        }
    }
}

fn hash_of(hash: Hash, pieces: &[&[u8]]) -> Box<[u8]> {
    let mut state = hash.start();
    for piece in pieces {
        state.update(piece);
    }
    state.finalize()
}

fn check_digest(hash: Hash, digest: &[u8]) -> Result<()> {
    if digest.len() == hash.digest_len() {
        Ok(())
    } else {
        Err(Error::input(
            "digest",
            format!("it must be {} bytes", hash.digest_len()),
        ))
    }
}

fn does_not_fit() -> Error {
    Error::input("input", "it does not fit the key's modulus in this scheme")
}

/// The DER of a DigestInfo up to the digest (section 9.2, note 1).
fn digest_info(hash: Hash) -> &'static [u8] {
    match hash {
        Hash::Sha1 => b"\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14",
        Hash::Sha224 => {
            b"\x30\x2d\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x04\x05\x00\x04\x1c"
        }
        Hash::Sha256 => {
            b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"
        }
        Hash::Sha384 => {
            b"\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30"
        }
        Hash::Sha512 => {
            b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 256;

    #[test]
    fn a_pkcs1_ciphertext_gives_its_message_or_one_answer() {
        let good = |filling: usize, message: &[u8]| {
            let mut encoded = vec![0, 2];
            encoded.resize(2 + filling, 7);
            encoded.push(0);
            encoded.extend_from_slice(message);
            encoded
        };
        for message in [&b""[..], b"x", b"\0\0", &[5; 50]] {
            let opened = unpad_pkcs1(&Secret::take(good(8, message))).expect("padded");
            assert_eq!(opened.expose(), message);
        }
        let mut bad = vec![
            vec![],
            vec![0],
            good(7, b"x"),
            vec![0, 2],
            vec![7; LEN],
            [vec![0, 2], vec![9; 100]].concat(),
        ];
        for (at, value) in [(0, 1), (1, 1), (5, 0)] {
            let mut spoilt = good(8, b"message");
            spoilt[at] = value;
            bad.push(spoilt);
        }
        for encoded in bad {
            let said = unpad_pkcs1(&Secret::copy_of(&encoded))
                .err()
                .expect("refused");
            assert_eq!(
                said.to_string(),
                does_not_decrypt().to_string(),
                "{encoded:?}"
            );
        }
    }

    /// EME-OAEP encoding (section 7.1.1, step 2) with a fixed seed.
    fn oaep(hash: Hash, mgf: Hash, label: &[u8], message: &[u8]) -> Vec<u8> {
        let mut block = hash_of(hash, &[label]).into_vec();
        block.resize(LEN - hash.digest_len() - 2 - message.len(), 0);
        block.push(1);
        block.extend_from_slice(message);
        let mut seed = vec![0xA5; hash.digest_len()];
        mask(mgf, &seed, &mut block);
        mask(mgf, &block, &mut seed);
        [vec![0], seed, block].concat()
    }

    #[test]
    fn an_oaep_ciphertext_gives_its_message_or_one_answer() {
        for (hash, mgf) in [
            (Hash::Sha1, Hash::Sha1),
            (Hash::Sha256, Hash::Sha1),
            (Hash::Sha512, Hash::Sha384),
        ] {
            for label in [&b""[..], b"a\0b"] {
                let longest = vec![3; LEN - 2 - 2 * hash.digest_len()];
                for message in [&b""[..], b"m", b"\0\x01\0", &longest] {
                    let encoded = oaep(hash, mgf, label, message);
                    let open = |encoded: Vec<u8>, label| {
                        unpad_oaep(hash, mgf, label, Secret::take(encoded))
                    };
                    assert_eq!(
                        open(encoded.clone(), label).expect("padded").expose(),
                        message
                    );
                    assert!(open(encoded.clone(), b"other").is_err());
                    for at in [0, 1, 30, LEN - 1] {
                        let mut spoilt = encoded.clone();
                        spoilt[at] ^= 1;
                        if at == LEN - 1 && !message.is_empty() {
                            continue; // The message itself; nothing but the key guards that.
                        }
                        let said = open(spoilt, label).err().expect("refused");
                        assert_eq!(said.to_string(), does_not_decrypt().to_string());
                    }
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let pss_with = |salt_len| {
            let scheme = SignScheme::RsaPss {
                hash: Hash::Sha256,
                mgf: Hash::Sha256,
                salt_len,
            };
            encode(&scheme, &[0; 32], LEN)
        };
        assert_eq!(pss_with(LEN - 34).expect("fits").len(), LEN);
        assert!(pss_with(LEN - 33).is_err() && pss_with(usize::MAX).is_err());
        let raw = SignScheme::RsaPkcs1 { hash: None };
        assert!(encode(&raw, &[1; LEN - 11], LEN).is_ok());
        assert!(encode(&raw, &[1; LEN - 10], LEN).is_err());
        let hashed = SignScheme::RsaPkcs1 {
            hash: Some(Hash::Sha256),
        };
        assert!(encode(&hashed, &[1; 31], LEN).is_err());
        assert!(encode(&SignScheme::Ecdsa, &[1; 32], LEN).is_err());
    }
}
