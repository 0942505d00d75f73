//! pwenc, the cipher of the encrypted columns of a TrueNAS database.
//!
//! A column holds the standard base64 of `nonce[8] || ciphertext`; the cipher is AES-256-CTR under
//! the 32 raw bytes of `/data/pwenc_secret`, and the counter block is the nonce and a 64-bit
//! big-endian counter that starts at 1. Releases up to 25.10 pad the plaintext with `{` to a
//! multiple of 32, always by at least one; releases from 26.0 do not. Nothing authenticates: a
//! column under another secret may well decrypt, so the caller checks what the value must be.
//!
//! Source: `middlewared/plugins/pwenc.py` of <https://github.com/truenas/middleware>, releases
//! 24.10 to 27.0; `tests/fixtures/pwenc_vectors.json` was proven against its own code.

use std::fs::File;
use std::io;
use std::path::Path;

use aes::Aes256;
use aes::cipher::{BlockEncrypt, KeyInit, KeyIvInit, StreamCipher};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use ctr::Ctr64BE;
use strongroom::{Error, Result, Secret};
use zeroize::Zeroize;

/// The key of a TrueNAS database's encrypted columns.
pub(crate) struct PwencSecret(Secret);

/// Whether a writer fills a plaintext up with `{`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    /// Up to a multiple of 32, by at least one: releases up to 25.10.
    Padded,
    /// Not at all: releases from 26.0.
    None,
}

/// A secret made ready to decrypt many first blocks. Wiped when dropped.
pub(crate) struct Probe(Box<Aes256>);

impl Probe {
    /// How many bytes of nonce and ciphertext are looked at.
    pub(crate) const LEN: usize = NONCE_LEN + 16;

    /// Whether the first 16 bytes of a plaintext satisfy `test`.
    pub(crate) fn first_block(
        &self,
        bytes: &[u8; Self::LEN],
        test: impl FnOnce(&[u8; 16]) -> bool,
    ) -> bool {
        let mut block = [0; 16];
        block[..NONCE_LEN].copy_from_slice(&bytes[..NONCE_LEN]);
        block[15] = 1;
        self.0.encrypt_block((&mut block).into());
        for (byte, ciphertext) in block.iter_mut().zip(&bytes[NONCE_LEN..]) {
            *byte ^= ciphertext;
        }
        let passed = test(&block);
        block.zeroize();
        passed
    }
}

/// Why a column does not decrypt. The middleware reads such a column as the empty string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PwencError {
    /// Not standard, padded base64.
    #[error("it is not base64, so it is corrupt or was never encrypted")]
    NotBase64,
    /// Fewer bytes than a nonce has.
    #[error("it is too short to hold anything, so it is corrupt")]
    TooShort,
    /// What came out is no text.
    #[error("it decrypts to garbage, so it is corrupt or encrypted under another pwenc secret")]
    NotUtf8,
}

impl PwencSecret {
    /// Reads the secret from its file, `/data/pwenc_secret` on TrueNAS.
    ///
    /// # Errors
    /// [`Error::Input`] if the file cannot be read or is not exactly 32 bytes long.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let unusable =
            |reason: String| Error::input(format!("pwenc secret {}", path.display()), reason);
        let read = File::open(path).and_then(|file| Secret::read_from(file, KEY_LEN));
        match read {
            Ok(bytes) => {
                let found = bytes.len();
                Self::new(bytes).ok_or_else(|| {
                    unusable(format!(
                        "it is {found} bytes long; it must be the 32 raw bytes of /data/pwenc_secret"
                    ))
                })
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(unusable(
                "it is longer than the 32 raw bytes of /data/pwenc_secret; hexadecimal digits or \
                 a line feed at its end do not belong there"
                    .to_owned(),
            )),
            Err(error) => Err(unusable(format!(
                "{error}; on TrueNAS it is /data/pwenc_secret"
            ))),
        }
    }

    /// The text of a column, without any `{` at its end, as every release's reader strips them.
    ///
    /// # Errors
    /// If the column is malformed or what comes out is not UTF-8. Text that comes out under the
    /// wrong secret is not an error here.
    pub(crate) fn decrypt(&self, column: &str) -> Result<Secret, PwencError> {
        let plaintext = self.decipher(column)?;
        let text = strip_padding(plaintext.expose());
        std::str::from_utf8(text).map_err(|_| PwencError::NotUtf8)?;
        Ok(Secret::copy_of(text))
    }

    /// How the writer of a column padded it, for whoever replaces the column.
    ///
    /// Unpadded text that happens to end in `{` at a multiple of 32 bytes counts as padded: no
    /// reader can tell the two apart.
    ///
    /// # Errors
    /// As for [`PwencSecret::decrypt`], but the text may be anything.
    pub(crate) fn padding_of(&self, column: &str) -> Result<Padding, PwencError> {
        let plaintext = self.decipher(column)?;
        let plaintext = plaintext.expose();
        if plaintext.len() % PADDED_TO == 0 && plaintext.last() == Some(&PAD) {
            Ok(Padding::Padded)
        } else {
            Ok(Padding::None)
        }
    }

    /// A column that holds `plaintext` under a fresh nonce.
    ///
    /// What `plaintext` has of `{` at its end is lost to every reader.
    pub(crate) fn encrypt(&self, plaintext: &[u8], padding: Padding) -> String {
        self.encrypt_under(Secret::random(NONCE_LEN).expose(), plaintext, padding)
    }

    /// The secret from its bytes; `None` unless these are exactly 32.
    pub(crate) fn new(bytes: Secret) -> Option<Self> {
        (bytes.len() == KEY_LEN).then_some(Self(bytes))
    }

    /// For whoever looks for ciphertext where nothing says where one begins or ends.
    pub(crate) fn probe(&self) -> Probe {
        Probe(Box::new(Aes256::new(self.0.expose().into())))
    }

    /// What `nonce[8] || ciphertext` says, with its padding, be it text or not; `None` if it is
    /// shorter than a nonce.
    pub(crate) fn read_bytes(&self, bytes: &[u8]) -> Option<Secret> {
        let (nonce, text) = bytes.split_at_checked(NONCE_LEN)?;
        let mut plaintext = Secret::copy_of(text);
        self.apply_keystream(nonce, plaintext.expose_mut());
        Some(plaintext)
    }

    /// The plaintext as the writer left it, with its padding.
    fn decipher(&self, column: &str) -> Result<Secret, PwencError> {
        // The ciphertext is decoded into secret memory because it becomes the plaintext there.
        let mut decoded = Secret::zeroed(base64::decoded_len_estimate(column.len()));
        let len = BASE64
            .decode_slice(column, decoded.expose_mut())
            .map_err(|_| PwencError::NotBase64)?;
        let (nonce, text) = decoded.expose_mut()[..len]
            .split_at_mut_checked(NONCE_LEN)
            .ok_or(PwencError::TooShort)?;
        self.apply_keystream(nonce, text);
        Ok(Secret::copy_of(text))
    }

    fn encrypt_under(&self, nonce: &[u8], plaintext: &[u8], padding: Padding) -> String {
        let pad = match padding {
            Padding::Padded => PADDED_TO - plaintext.len() % PADDED_TO,
            Padding::None => 0,
        };
        let mut column = Secret::concat(&[nonce, plaintext, &[PAD; PADDED_TO][..pad]]);
        self.apply_keystream(nonce, &mut column.expose_mut()[NONCE_LEN..]);
        BASE64.encode(column.expose())
    }

    fn apply_keystream(&self, nonce: &[u8], text: &mut [u8]) {
        let mut counter = [0; 16];
        counter[..NONCE_LEN].copy_from_slice(nonce);
        counter[15] = 1;
        Ctr64BE::<Aes256>::new(self.0.expose().into(), &counter.into()).apply_keystream(text);
    }
}

const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 8;
const PAD: u8 = b'{';
const PADDED_TO: usize = 32;

/// As strict as Python's `b64decode(validate=True)`: padding is a must, bits that no byte uses may
/// be set.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

fn strip_padding(plaintext: &[u8]) -> &[u8] {
    let end = plaintext.iter().rposition(|&byte| byte != PAD);
    &plaintext[..end.map_or(0, |last| last + 1)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;
    use sha2::{Digest, Sha256};

    use super::*;

    fn secret_of(hex_digits: &str) -> PwencSecret {
        let bytes = hex::decode(hex_digits).expect("the vectors' keys are hexadecimal");
        PwencSecret::new(Secret::take(bytes)).expect("the vectors' keys are 32 bytes")
    }

    fn vectors(list: &str) -> Vec<Value> {
        let file = include_str!("../../../tests/fixtures/pwenc_vectors.json");
        let vectors: Value = serde_json::from_str(file).expect("the vectors are JSON");
        vectors[list].as_array().expect("a list").clone()
    }

    fn text<'a>(vector: &'a Value, field: &str) -> &'a str {
        vector[field]
            .as_str()
            .unwrap_or_else(|| panic!("{field} of {vector}"))
    }

    #[test]
    fn every_vector_reads_and_writes_as_the_middleware_does() {
        let cases = vectors("cases");
        for case in &cases {
            let secret = secret_of(text(case, "key"));
            let nonce = hex::decode(text(case, "nonce")).expect("hexadecimal");
            let padding = match text(case, "writer") {
                "legacy-padded" => Padding::Padded,
                "26.0-unpadded" => Padding::None,
                other => panic!("unknown writer {other}"),
            };
            let plaintext = if case["repeat"].is_null() {
                text(case, "plaintext").to_owned()
            } else {
                let times = case["repeat"][1].as_u64().expect("a number");
                let piece = case["repeat"][0].as_str().expect("a string");
                piece.repeat(usize::try_from(times).expect("small"))
            };
            let column = secret.encrypt_under(&nonce, plaintext.as_bytes(), padding);
            let read = secret.decrypt(&column).expect("own column");
            if case["repeat"].is_null() {
                assert_eq!(column, text(case, "column"), "{case}");
                assert_eq!(read.expose(), text(case, "read").as_bytes(), "{case}");
            } else {
                let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
                assert_eq!(digest(column.as_bytes()), text(case, "column_sha256"));
                assert_eq!(digest(read.expose()), text(case, "plaintext_sha256"));
            }
            if !plaintext.ends_with('{') {
                assert_eq!(secret.padding_of(&column), Ok(padding), "{case}");
            }
        }
        assert_eq!(cases.len() + vectors("malformed").len(), 82);
    }

    #[test]
    fn malformed_columns_are_refused_for_the_right_reason() {
        for case in vectors("malformed") {
            let column = text(&case, "column");
            let read = secret_of(text(&case, "key")).decrypt(column);
            let expected = match case["error"].as_str() {
                Some(error) if error.starts_with("not base64") => PwencError::NotBase64,
                Some("shorter than the nonce") => PwencError::TooShort,
                Some(error) => panic!("unknown error {error}"),
                None if text(&case, "read_strict").is_empty() => {
                    assert!(read.is_ok_and(|text| text.is_empty()), "{case}");
                    continue;
                }
                None => PwencError::NotUtf8,
            };
            assert_eq!(read.err(), Some(expected), "{case}");
        }
    }

    #[test]
    fn base64_is_as_strict_as_pythons() {
        let secret = PwencSecret(Secret::zeroed(32));
        for column in [
            "AAAAAAAAAAA",
            "AAAAAAAAAAA=\n",
            "AAAAAAAA AAA=",
            "AAAA====",
            "_-AA",
        ] {
            assert_eq!(secret.decrypt(column).err(), Some(PwencError::NotBase64));
        }
        // The two last bits of this B are nobody's.
        assert!(
            secret
                .decrypt("AAAAAAAAAAB=")
                .is_ok_and(|text| text.is_empty())
        );
    }

    #[test]
    fn a_secret_file_is_32_bytes_or_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pwenc_secret");
        for len in [0, 31, 33, 65] {
            std::fs::write(&path, vec![1; len]).expect("written");
            let error = PwencSecret::read(&path).err().expect("refused").to_string();
            assert!(
                error.contains("pwenc_secret") && error.contains("32 raw bytes"),
                "{error}"
            );
        }
        std::fs::write(&path, [1; 32]).expect("written");
        assert!(PwencSecret::read(&path).is_ok());
        let missing = PwencSecret::read(&folder.path().join("gone"));
        assert!(missing.err().expect("refused").to_string().contains("gone"));
    }

    proptest! {
        #[test]
        fn what_is_encrypted_decrypts(
            key in any::<[u8; 32]>(),
            plaintext in "\\PC{0,200}",
            padded in any::<bool>(),
        ) {
            let secret = PwencSecret(Secret::copy_of(&key));
            let padding = if padded { Padding::Padded } else { Padding::None };
            let column = secret.encrypt(plaintext.as_bytes(), padding);
            let read = secret.decrypt(&column).expect("own column");
            prop_assert_eq!(read.expose(), plaintext.trim_end_matches('{').as_bytes());
            prop_assert_ne!(&column, &secret.encrypt(plaintext.as_bytes(), padding));
        }

        #[test]
        fn no_column_panics(column in "\\PC{0,80}|[A-Za-z0-9+/]{0,80}={0,3}") {
            let secret = PwencSecret(Secret::zeroed(32));
            let _ = (secret.decrypt(&column), secret.padding_of(&column));
        }
    }
}
