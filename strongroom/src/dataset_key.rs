//! Dataset keys in ZFS's three forms (zfsprops(7), `keyformat`), and what each must look like.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::error::{Error, Result};
use crate::object::{KEYFORMAT, Metadata};
use crate::secret::Secret;

/// The form of a dataset's wrapping key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyFormat {
    /// 32 bytes.
    Raw,
    /// 64 hexadecimal digits of either case, for 32 bytes.
    Hex,
    /// 8 to 512 bytes, without a newline.
    Passphrase,
}

impl KeyFormat {
    /// The form that an object's payload is in.
    ///
    /// # Errors
    /// [`Error::Input`] if the object does not say.
    pub fn of(object: &Metadata) -> Result<Self> {
        object
            .attributes
            .get(KEYFORMAT)
            .ok_or_else(|| {
                Error::input(
                    format!("object {}", object.label),
                    "it is no dataset key: it has no keyformat",
                )
            })?
            .parse()
    }

    /// ZFS's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Hex => "hex",
            Self::Passphrase => "passphrase",
        }
    }

    /// Refuses what ZFS would refuse.
    ///
    /// # Errors
    /// [`Error::Input`], which says what the form must be and nothing of the key.
    pub fn check(self, key: &Secret) -> Result<()> {
        let bytes = key.expose();
        let (fits, must_be) = match self {
            Self::Raw => (bytes.len() == 32, "exactly 32 bytes"),
            Self::Hex => (
                bytes.len() == 64 && bytes.iter().all(u8::is_ascii_hexdigit),
                "exactly 64 hexadecimal digits",
            ),
            Self::Passphrase => (
                (8..=512).contains(&bytes.len()) && !bytes.contains(&b'\n'),
                "one line of 8 to 512 bytes",
            ),
        };
        if fits {
            Ok(())
        } else {
            Err(Error::input(
                format!("{self} key"),
                format!("it must be {must_be}, and has {} bytes", bytes.len()),
            ))
        }
    }

    /// A key of this form in another: raw and hex are the same key written differently, and a
    /// passphrase is only itself.
    ///
    /// # Errors
    /// [`Error::Input`] for a key that is not of this form, or has no other.
    ///
    /// # Panics
    /// Never: the key was checked before it is converted.
    pub fn convert(self, key: &Secret, to: Self) -> Result<Secret> {
        self.check(key)?;
        match (self, to) {
            (from, to) if from == to => Ok(Secret::copy_of(key.expose())),
            (Self::Hex, Self::Raw) => {
                let mut raw = Secret::zeroed(32);
                hex::decode_to_slice(key.expose(), raw.expose_mut())
                    .expect("64 hexadecimal digits were just checked");
                Ok(raw)
            }
            (Self::Raw, Self::Hex) => {
                let mut digits = [0; 64];
                hex::encode_to_slice(key.expose(), &mut digits).expect("32 bytes were checked");
                let secret = Secret::copy_of(&digits);
                digits.zeroize();
                Ok(secret)
            }
            _ => Err(Error::input(
                format!("{self} key"),
                format!("it cannot be written as {to}"),
            )),
        }
    }
}

impl fmt::Display for KeyFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "raw" => Ok(Self::Raw),
            "hex" => Ok(Self::Hex),
            "passphrase" => Ok(Self::Passphrase),
            _ => Err(Error::input(
                format!("keyformat {text:?}"),
                "it must be raw, hex or passphrase",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked_as_zfs_checks_them() {
        for (format, key, fits) in [
            (KeyFormat::Raw, vec![b'\n'; 32], true),
            (KeyFormat::Raw, vec![1; 31], false),
            (KeyFormat::Raw, vec![1; 33], false),
            (KeyFormat::Hex, b"aF".repeat(32), true),
            (KeyFormat::Hex, b"ag".repeat(32), false),
            (KeyFormat::Hex, b"aF".repeat(31), false),
            (KeyFormat::Passphrase, b"eight ch".to_vec(), true),
            (KeyFormat::Passphrase, b"seven c".to_vec(), false),
            (KeyFormat::Passphrase, b"two lines\nof it".to_vec(), false),
            (KeyFormat::Passphrase, vec![b'x'; 513], false),
        ] {
            let outcome = format.check(&Secret::copy_of(&key));
            assert_eq!(outcome.is_ok(), fits, "{format} of {} bytes", key.len());
        }
    }

    #[test]
    fn raw_and_hex_are_one_key() {
        let raw = Secret::copy_of(&[0xAB; 32]);
        let hex = KeyFormat::Raw.convert(&raw, KeyFormat::Hex).expect("raw");
        assert_eq!(hex.expose(), b"ab".repeat(32));
        let again = KeyFormat::Hex.convert(&hex, KeyFormat::Raw).expect("hex");
        assert!(again.same_as(raw.expose()));
        assert!(KeyFormat::Raw.convert(&raw, KeyFormat::Passphrase).is_err());
    }
}
