//! Ed25519ctx (RFC 8032, section 5.1): Ed25519 whose every hash begins with a context. ed25519-dalek has it
//! not, but takes another hash for the usual one.

use std::cell::RefCell;

use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign, raw_verify};
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use sha2::digest::{FixedOutput, HashMarker, Output, OutputSizeUser, Update};
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

/// Signs with a context of 1 to 255 bytes; nothing for any other.
pub(super) fn sign(key: &SigningKey, context: &[u8], message: &[u8]) -> Option<Signature> {
    let hashed = Zeroizing::new(<[u8; 64]>::from(Sha512::digest(key.as_bytes())));
    let expanded = ExpandedSecretKey::from_bytes(&hashed);
    within(context, || {
        raw_sign::<InContext>(&expanded, message, &key.verifying_key())
    })
}

/// Whether a signature is a key's, over a message in a context.
pub(super) fn verifies(
    key: &VerifyingKey,
    context: &[u8],
    message: &[u8],
    signature: &Signature,
) -> bool {
    let verified = within(context, || {
        raw_verify::<InContext>(key, message, signature).is_ok()
    });
    // With a key of small order, signatures fit many messages.
    verified.unwrap_or(false) && !key.is_weak()
}

thread_local! {
    /// What the hashes of this thread begin with. The library makes them itself, and has no place for it.
    static DOM2: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn within<T>(context: &[u8], action: impl FnOnce() -> T) -> Option<T> {
    let len = u8::try_from(context.len()).ok().filter(|len| *len > 0)?;
    // RFC 8032, section 2: dom2(0, C).
    let dom2 = [b"SigEd25519 no Ed25519 collisions", &[0, len][..], context].concat();
    DOM2.with_borrow_mut(|it| *it = dom2);
    let done = action();
    DOM2.with_borrow_mut(Vec::clear);
    Some(done)
}

/// SHA-512 after `DOM2`.
struct InContext(Sha512);

impl Default for InContext {
    fn default() -> Self {
        Self(DOM2.with_borrow(|dom2| Sha512::new_with_prefix(dom2)))
    }
}

impl Update for InContext {
    fn update(&mut self, data: &[u8]) {
        Update::update(&mut self.0, data);
    }
}

impl OutputSizeUser for InContext {
    type OutputSize = <Sha512 as OutputSizeUser>::OutputSize;
}

impl FixedOutput for InContext {
    fn finalize_into(self, out: &mut Output<Self>) {
        FixedOutput::finalize_into(self.0, out);
    }
}

impl HashMarker for InContext {}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, section 7.2, the first of its vectors.
    #[test]
    fn the_vector_of_the_specification_comes_out() {
        let seed = "0305334e381af78f141cb666f6199f57bc3495335a256a95bd2a55bf546663f6";
        let message = "f726936d19c800494e3fdaff20b276a8";
        let expected = "55a4cc2f70a54e04288c5f4cd1e45a7bb520b36292911876cada7323198dd87a\
                        8b36950b95130022907a7fb7c4e9b2d5f6cca685a587b4b21f4b888e4e7edb0d";
        let bytes = |text: &str| hex::decode(text).expect("it is hexadecimal");
        let seed: [u8; 32] = bytes(seed).try_into().expect("a seed has 32 bytes");
        let key = SigningKey::from_bytes(&seed);
        let message = bytes(message);
        let signature = sign(&key, b"foo", &message).expect("a context of three bytes");
        assert_eq!(hex::encode(signature.to_bytes()), expected);
        let public = key.verifying_key();
        assert!(verifies(&public, b"foo", &message, &signature));
        assert!(!verifies(&public, b"bar", &message, &signature));
        assert!(!verifies(&public, b"foo", b"another", &signature));
        assert!(sign(&key, b"", &message).is_none());
        assert!(sign(&key, &[0; 256], &message).is_none());
    }
}
