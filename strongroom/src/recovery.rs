//! The recovery way: one age X25519 identity that the owner keeps off the box, and the slots that
//! are encrypted to it. Only its public half, the recipient, is on the box.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;

use age::secrecy::ExposeSecret;
use age::x25519;
use serde::{Deserialize, Serialize};

use crate::encoding::Base64;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::{process, store};

/// The public half: whom recovery slots are encrypted to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecoveryRecipient(String);

impl RecoveryRecipient {
    /// Encrypts `secret` to the recipient, as a binary age file.
    pub(crate) fn encrypt(&self, secret: &Secret) -> Base64 {
        let recipient =
            x25519::Recipient::from_str(&self.0).expect("checked when the recipient was parsed");
        Base64(age::encrypt(&recipient, secret.expose()).expect("writing to memory cannot fail"))
    }
}

impl fmt::Display for RecoveryRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RecoveryRecipient {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        match x25519::Recipient::from_str(&text) {
            // One spelling only; Bech32 has two.
            Ok(recipient) => Ok(Self(recipient.to_string())),
            Err(reason) => Err(Error::input(format!("recovery recipient {text:?}"), reason)),
        }
    }
}

impl From<RecoveryRecipient> for String {
    fn from(recipient: RecoveryRecipient) -> Self {
        recipient.0
    }
}

/// The secret half, which opens every recovery slot of its vault.
pub struct RecoveryIdentity(x25519::Identity);

impl RecoveryIdentity {
    pub(crate) fn generate() -> Self {
        Self(x25519::Identity::generate())
    }

    pub(crate) fn recipient(&self) -> RecoveryRecipient {
        RecoveryRecipient(self.0.to_public().to_string())
    }

    /// Decrypts a slot.
    pub(crate) fn decrypt(&self, slot: &Base64) -> Result<Secret> {
        age::decrypt(&self.0, &slot.0)
            .map(Secret::take)
            .map_err(|reason| Error::RecoveryIdentity(reason.to_string()))
    }
}

/// What the owner keeps: the recovery identity, and by what to tell whether a vault is the one
/// that it belongs to.
///
/// As text it is an age identity file with comments, so that the `age` program reads it too.
pub struct RecoveryKit {
    /// Opens the recovery slots.
    pub identity: RecoveryIdentity,
    /// The vault's id.
    pub vault_id: String,
    /// SHA-256(K_vault).
    pub fingerprint: [u8; 32],
}

const VAULT_LINE: &str = "# vault: ";
const FINGERPRINT_LINE: &str = "# vault key SHA-256: ";

impl RecoveryKit {
    /// The longest kit file that is read, in bytes.
    const MAX_LEN: usize = 64 << 10;

    /// Reads a kit from a file, or from standard input where the path is `-`.
    ///
    /// # Errors
    /// [`Error::Input`] if it cannot be read or is no recovery kit.
    pub fn read(path: &Path) -> Result<Self> {
        let what = || format!("recovery kit {}", path.display());
        let text = if path == Path::new("-") {
            process::take_in(Self::MAX_LEN)
        } else {
            File::open(path).and_then(|file| Secret::read_from(file, Self::MAX_LEN))
        };
        let text = text.map_err(|error| {
            Error::input(
                what(),
                format!(
                    "{error}; name the file that `strongroom init` wrote, or - for standard input"
                ),
            )
        })?;
        Self::parse(&text).map_err(|reason| {
            Error::input(
                what(),
                format!("{reason}; it must be what `strongroom init` gave out"),
            )
        })
    }

    /// Writes the kit into a new file of mode 0600, and reads it back: it is the only copy.
    ///
    /// # Errors
    /// [`Error::Input`] if there is a file already, or it cannot be written; what was begun is
    /// removed.
    pub fn write(&self, path: &Path) -> Result<()> {
        let refuse = |reason: String| {
            Error::input(
                format!("recovery kit {}", path.display()),
                format!("{reason}; name a new file in a folder that can be written"),
            )
        };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| refuse(error.to_string()))?;
        let text = self.to_text();
        let written = file
            .write_all(text.expose())
            .and_then(|()| file.sync_all())
            .map_err(|error| refuse(error.to_string()))
            .and_then(|()| {
                let folder = path.parent().filter(|dir| !dir.as_os_str().is_empty());
                store::sync_dir(folder.unwrap_or(Path::new(".")))
            })
            .and_then(|()| match Self::read(path)?.to_text() {
                again if again.same_as(text.expose()) => Ok(()),
                _ => Err(refuse(
                    "what was read back is not what was written".to_owned(),
                )),
            });
        if written.is_err() {
            let _ = std::fs::remove_file(path);
        }
        written
    }

    /// The kit as text, to be printed or kept in a file.
    pub fn to_text(&self) -> Secret {
        let secret = self.identity.0.to_string();
        let head = format!(
            "# Strongroom recovery kit. Whoever holds it can open the vault; without it a dead\n\
             # mainboard takes the keys with it. Keep it off this machine: print it, or put it\n\
             # into a safe.\n\
             {VAULT_LINE}{}\n\
             {FINGERPRINT_LINE}{}\n\
             # public key: {}\n",
            self.vault_id,
            hex::encode(self.fingerprint),
            self.identity.recipient(),
        );
        Secret::concat(&[head.as_bytes(), secret.expose_secret().as_bytes(), b"\n"])
    }

    fn parse(text: &Secret) -> Result<Self, String> {
        let text = std::str::from_utf8(text.expose()).map_err(|_| "it is not text".to_owned())?;
        let find = |prefix: &str| {
            text.lines()
                .find_map(|line| line.trim().strip_prefix(prefix))
        };
        let vault_id = find(VAULT_LINE).ok_or("it does not name its vault")?.trim();
        let mut fingerprint = [0; 32];
        find(FINGERPRINT_LINE)
            .and_then(|digits| hex::decode_to_slice(digits.trim(), &mut fingerprint).ok())
            .ok_or("it has no SHA-256 of the vault key")?;
        let identity = text
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with('#'))
            .ok_or("it has no identity")?;
        Ok(Self {
            identity: x25519::Identity::from_str(identity)
                .map(RecoveryIdentity)
                .map_err(|_| "its identity is not an age secret key")?,
            vault_id: vault_id.to_owned(),
            fingerprint,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_kit_reads_as_what_it_prints_and_opens_its_slots() {
        let kit = RecoveryKit {
            identity: RecoveryIdentity::generate(),
            vault_id: "v".to_owned(),
            fingerprint: [7; 32],
        };
        let slot = kit.identity.recipient().encrypt(&Secret::copy_of(b"dek"));
        let again = RecoveryKit::parse(&kit.to_text()).expect("its own text");
        assert_eq!((again.vault_id.as_str(), again.fingerprint), ("v", [7; 32]));
        assert_eq!(
            again.identity.decrypt(&slot).expect("opens").expose(),
            b"dek"
        );
        assert!(RecoveryIdentity::generate().decrypt(&slot).is_err());
    }

    #[test]
    fn what_is_no_kit_is_refused() {
        for bad in ["", "# vault: v\n", "AGE-SECRET-KEY-1XYZ", "\u{0}"] {
            assert!(RecoveryKit::parse(&Secret::copy_of(bad.as_bytes())).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = RecoveryKit::parse(&Secret::copy_of(&bytes));
        }

        #[test]
        fn a_kit_with_one_byte_changed_is_refused_or_means_the_same(
            place in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let kit = RecoveryKit {
                identity: RecoveryIdentity::generate(),
                vault_id: "3f0c9c2e-7a39-4f0e-9b7a-0a4f6f6f8a11".to_owned(),
                fingerprint: [7; 32],
            };
            let slot = kit.identity.recipient().encrypt(&Secret::copy_of(b"dek"));
            let mut text = kit.to_text();
            let place = place.index(text.len());
            text.expose_mut()[place] = byte;
            if let Ok(read) = RecoveryKit::parse(&text) {
                // The identity has a checksum; the rest is compared with the vault.
                prop_assert!(read.identity.decrypt(&slot).is_ok());
            }
        }
    }
}
