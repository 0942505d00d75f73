//! Triple DES with two keys or three (PKCS#11 3.1, double and triple-length DES; NIST
//! SP 800-67), and what its keys must be.

use aes::cipher::generic_array::GenericArray;
use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};
use cryptoki_sys::{
    CK_KEY_TYPE, CKK_DES2, CKK_DES3, CKR_ATTRIBUTE_VALUE_INVALID, CKR_KEY_SIZE_RANGE,
};
use strongroom::Secret;
use subtle::ConstantTimeEq;

use crate::blocks::{Blocks, blocks_of, chained};
use crate::fault::{Answer, Fault};

/// The length of a block, and of each of the keys of DES that make one of triple DES.
pub(crate) const BLOCK: usize = 8;

/// The length of a key of this type; none for other types.
pub(crate) fn key_len(key_type: CK_KEY_TYPE) -> Option<usize> {
    match key_type {
        CKK_DES2 => Some(2 * BLOCK),
        CKK_DES3 => Some(3 * BLOCK),
        _ => None,
    }
}

/// A new key of so many bytes.
pub(crate) fn generate(len: usize) -> Secret {
    loop {
        let key = with_parity(&Secret::random(len));
        if check(&key).is_ok() {
            return key;
        }
    }
}

/// Refuses a key whose parity is not odd, as the specification demands, and one that is no more than single
/// DES, because two keys that follow each other are the same.
pub(crate) fn check(key: &Secret) -> Answer {
    let mut right = key.same_as(with_parity(key).expose());
    let parts: Vec<_> = key.expose().chunks(BLOCK).collect();
    for pair in parts.windows(2) {
        right &= !bool::from(pair[0].ct_eq(pair[1]));
    }
    if right {
        Ok(())
    } else {
        Err(Fault::Code(CKR_ATTRIBUTE_VALUE_INVALID))
    }
}

/// The same key with odd parity: the last bit of each byte is no part of it.
pub(crate) fn with_parity(key: &Secret) -> Secret {
    let mut odd = Secret::copy_of(key.expose());
    for byte in odd.expose_mut() {
        let ones = (*byte >> 1).count_ones() & 1;
        *byte = *byte & 0xfe | u8::from(ones == 0);
    }
    odd
}

/// Block by block.
pub(crate) fn ecb(key: &[u8], encrypts: bool) -> Answer<Blocks> {
    match key.len() {
        16 => Ok(each::<des::TdesEde2>(key, encrypts)),
        24 => Ok(each::<des::TdesEde3>(key, encrypts)),
        _ => Err(Fault::Code(CKR_KEY_SIZE_RANGE)),
    }
}

/// In cipher block chaining.
pub(crate) fn cbc(key: &[u8], iv: [u8; BLOCK], encrypts: bool) -> Answer<Blocks> {
    match key.len() {
        16 => Ok(chained::<des::TdesEde2, _>(key, &iv, encrypts)),
        24 => Ok(chained::<des::TdesEde3, _>(key, &iv, encrypts)),
        _ => Err(Fault::Code(CKR_KEY_SIZE_RANGE)),
    }
}

fn each<C>(key: &[u8], encrypts: bool) -> Blocks
where
    C: BlockEncrypt + BlockDecrypt + KeyInit + Send + 'static,
{
    let cipher = C::new(GenericArray::from_slice(key));
    if encrypts {
        Box::new(move |bytes: &mut [u8]| cipher.encrypt_blocks_inout(blocks_of(bytes)))
    } else {
        Box::new(move |bytes: &mut [u8]| cipher.decrypt_blocks_inout(blocks_of(bytes)))
    }
}
