//! rclone's obscured passwords: AES-256 in counter mode under a key that everyone knows. It keeps
//! a password from being read over a shoulder, and nothing else.

use aes::Aes256;
use aes::cipher::{KeyIvInit, StreamCipher};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ctr::Ctr128BE;
use strongroom::Secret;

/// The key that is part of every rclone.
const KEY: [u8; 32] = [
    0x9c, 0x93, 0x5b, 0x48, 0x73, 0x0a, 0x55, 0x4d, 0x6b, 0xfd, 0x7c, 0x63, 0xc8, 0x86, 0xa9, 0x2b,
    0xd3, 0x90, 0x19, 0x8e, 0xb8, 0x12, 0x8a, 0xfb, 0xf4, 0xde, 0x16, 0x2b, 0x8b, 0x95, 0xf6, 0x38,
];

const IV_LEN: usize = 16;

/// The obscured form of a password; another one each time.
pub(crate) fn obscure(password: &[u8]) -> Secret {
    let iv = Secret::random(IV_LEN);
    let mut text = Secret::concat(&[iv.expose(), password]);
    let (iv, password) = text.expose_mut().split_at_mut(IV_LEN);
    apply(iv, password);
    Secret::take(URL_SAFE_NO_PAD.encode(text.expose()).into_bytes())
}

/// The password of an obscured form; none if the text is no such form. Any text of the right
/// letters is one, so what comes out may be anything.
pub(crate) fn reveal(obscured: &str) -> Option<Secret> {
    let mut text = Secret::take(URL_SAFE_NO_PAD.decode(obscured).ok()?);
    let (iv, password) = text.expose_mut().split_at_mut_checked(IV_LEN)?;
    apply(iv, password);
    Some(Secret::copy_of(password))
}

fn apply(iv: &[u8], text: &mut [u8]) {
    Ctr128BE::<Aes256>::new_from_slices(&KEY, iv)
        .expect("a key of 32 bytes and an IV of 16")
        .apply_keystream(text);
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// From rclone's own tests.
    #[test]
    fn what_rclone_obscured_is_revealed() {
        for (password, obscured) in [
            ("", "YWFhYWFhYWFhYWFhYWFhYQ"),
            ("potato", "YWFhYWFhYWFhYWFhYWFhYXMaGgIlEQ"),
            ("potato", "YmJiYmJiYmJiYmJiYmJiYp3gcEWbAw"),
        ] {
            let revealed = reveal(obscured).expect("obscured");
            assert_eq!(revealed.expose(), password.as_bytes());
        }
        assert!(reveal("").is_none() && reveal("YWFh").is_none() && reveal("no base64!").is_none());
    }

    #[test]
    fn what_we_obscure_we_reveal() {
        let obscured = obscure("pass wörd".as_bytes());
        let text = std::str::from_utf8(obscured.expose()).expect("ASCII");
        let revealed = reveal(text).expect("obscured");
        assert_eq!(revealed.expose(), "pass wörd".as_bytes());
    }

    /// With the rclone of this machine, if it has one.
    #[test]
    fn rclone_understands_us_and_we_rclone() {
        let rclone = |action: &str, text: &str| {
            let output = Command::new("rclone").args([action, text]).output().ok()?;
            Some(
                String::from_utf8(output.stdout)
                    .expect("UTF-8")
                    .trim_end()
                    .to_owned(),
            )
        };
        let Some(obscured) = rclone("obscure", "correct horse") else {
            return;
        };
        assert_eq!(
            reveal(&obscured).expect("obscured").expose(),
            b"correct horse"
        );
        let ours = obscure(b"correct horse");
        let ours = std::str::from_utf8(ours.expose()).expect("ASCII");
        assert_eq!(rclone("reveal", ours).as_deref(), Some("correct horse"));
    }
}
