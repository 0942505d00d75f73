//! What anyone can make who has read a vault's files: secrets that are encrypted to a TPM's storage key,
//! for that to import (TPM 2.0 Library, Part 1, section 23.3). From the specification, apart from the
//! programs under test.

use aes::Aes128;
use aes::cipher::generic_array::GenericArray;
use aes::cipher::{BlockEncrypt, KeyInit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use p256::ecdh::EphemeralSecret;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use rsa::rand_core::OsRng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::vault_files::KeyFile;

/// A secret for the storage key that a vault's file has as `storage_key`, as a `duplicate` has it.
pub fn for_storage_key(storage_key: &Value, secret: &[u8]) -> Value {
    let parent = KeyFile::parse(storage_key).public;
    // TPMS_ECC_POINT is the last of a TPMT_PUBLIC: two times a length and 32 bytes.
    let (x, y) = parent[parent.len() - 68..].split_at(34);
    let (x, y) = (&x[2..], &y[2..]);
    let point = [&[4], x, y].concat();
    let point = p256::PublicKey::from_sec1_bytes(&point).expect("a storage key is on P-256");

    let seed_value = [0x5A; 32];
    let unique = Sha256::digest([&seed_value, secret].concat());
    let public = [
        &[0, 8, 0, 11, 0, 0, 4, 0x44, 0, 0, 0, 0x10][..],
        &sized(&unique),
    ]
    .concat();
    let name = [&[0, 11][..], &Sha256::digest(&public)].concat();

    let own = EphemeralSecret::random(&mut OsRng);
    let shared = own.diffie_hellman(&point);
    let own = own.public_key().to_encoded_point(false);
    let (own_x, own_y) = (own.x().expect("a point"), own.y().expect("a point"));
    let z = shared.raw_secret_bytes();
    let seed = Sha256::digest([&[0, 0, 0, 1], z.as_slice(), b"DUPLICATE\0", own_x, x].concat());

    let sensitive = [&[0, 8, 0, 0][..], &sized(&seed_value), &sized(secret)].concat();
    let key = kdfa(&seed, b"STORAGE", &name, 128);
    let encrypted = cfb(&key[..16], &sized(&sensitive));
    let key = kdfa(&seed, b"INTEGRITY", &[], 256);
    let integrity = hmac(&key, &[&encrypted, &name]);
    json!({
        "public": BASE64.encode(public),
        "private": BASE64.encode([sized(&integrity), encrypted].concat()),
        "seed": BASE64.encode([sized(own_x), sized(own_y)].concat()),
    })
}

/// A TPM2B.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("short");
    [&len.to_be_bytes(), bytes].concat()
}

fn kdfa(key: &[u8], label: &[u8], context: &[u8], bits: u32) -> Vec<u8> {
    hmac(
        key,
        &[&[0, 0, 0, 1], label, &[0], context, &bits.to_be_bytes()],
    )
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

/// AES-128 in CFB mode with whole blocks of feedback, from a zero IV.
fn cfb(key: &[u8], text: &[u8]) -> Vec<u8> {
    let cipher = Aes128::new(GenericArray::from_slice(key));
    let mut last = GenericArray::default();
    let mut encrypted = Vec::new();
    for block in text.chunks(16) {
        cipher.encrypt_block(&mut last);
        for (byte, mask) in block.iter().zip(&mut last) {
            *mask ^= byte;
        }
        encrypted.extend_from_slice(&last[..block.len()]);
    }
    encrypted
}
