//! PINs: what a person types to use the private objects of a token. A token may have two, its
//! user's and its security officer's (PKCS#11 3.1, section 2.4); the TPM counts wrong ones.

use std::fmt;
use std::fs::File;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::object::TokenName;
use crate::secret::Secret;

/// What somebody gave as a PIN: [`Pin::MIN`] to [`Pin::MAX`] bytes.
pub struct Pin(Secret);

/// Whose PIN it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Uses the token's private objects (CKU_USER).
    User,
    /// Sets the user's PIN, and nothing else (CKU_SO).
    SecurityOfficer,
}

/// How a PIN stands, as the TPM counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinState {
    /// Wrong PINs since the last right one.
    pub failures: u32,
    /// How many lock the PIN; 0 where none was set so far.
    pub limit: u32,
}

/// What a PIN is to a TPM: an authorisation value of 32 hexadecimal digits. A PIN may so be longer
/// than a TPM takes, and the same one is another value for another token.
pub(crate) struct PinAuth(Secret);

impl Pin {
    /// The fewest bytes of a PIN.
    pub const MIN: usize = 4;

    /// The most bytes of a PIN.
    pub const MAX: usize = 255;

    /// Takes a PIN.
    ///
    /// # Errors
    /// [`Error::Input`] for one that is too short or too long.
    pub fn new(pin: Secret) -> Result<Self> {
        if (Self::MIN..=Self::MAX).contains(&pin.len()) {
            Ok(Self(pin))
        } else {
            Err(Error::input(
                "PIN",
                format!("it must have {} to {} bytes", Self::MIN, Self::MAX),
            ))
        }
    }

    /// Reads a PIN from a file. One newline may end it.
    ///
    /// # Errors
    /// [`Error::Input`].
    pub fn read(file: &Path) -> Result<Self> {
        let read = File::open(file)
            .and_then(|open| Secret::read_from(open, Self::MAX + 1))
            .map_err(|error| Error::input(file.display().to_string(), error.to_string()))?;
        Self::from_line(read)
    }

    /// Takes a PIN as a line: without the newline, where there is one.
    ///
    /// # Errors
    /// As for [`Pin::new`].
    pub fn from_line(line: Secret) -> Result<Self> {
        match line.expose() {
            [pin @ .., b'\n'] => Self::new(Secret::copy_of(pin)),
            _ => Self::new(line),
        }
    }

    pub(crate) fn auth(&self, vault_id: &str, token: &TokenName, role: Role) -> PinAuth {
        let mut digest = Sha256::new()
            .chain_update(b"strongroom v1 PIN\0")
            .chain_update(vault_id)
            .chain_update([0])
            .chain_update(token.as_str())
            .chain_update([0, role as u8])
            .chain_update(self.0.expose())
            .finalize();
        let auth = PinAuth::of(&digest[..16]);
        zeroize::Zeroize::zeroize(digest.as_mut_slice());
        auth
    }
}

impl PinState {
    /// Whether anyone has set the PIN so far.
    pub fn is_set(self) -> bool {
        self.limit > 0
    }

    /// Whether it takes no further try.
    pub fn is_locked(self) -> bool {
        self.is_set() && self.failures >= self.limit
    }

    /// How many tries are left.
    pub fn tries_left(self) -> u32 {
        self.limit.saturating_sub(self.failures)
    }

    /// Whether the next wrong PIN locks it.
    pub fn is_final_try(self) -> bool {
        self.is_set() && self.failures + 1 == self.limit
    }
}

impl PinAuth {
    /// One that nobody knows.
    pub(crate) fn random() -> Self {
        Self::of(Secret::random(16).expose())
    }

    pub(crate) fn expose(&self) -> &Secret {
        &self.0
    }

    /// Digits, because a TPM cuts zero bytes off the end of an authorisation value.
    fn of(bytes: &[u8]) -> Self {
        let mut digits = Secret::zeroed(2 * bytes.len());
        hex::encode_to_slice(bytes, digits.expose_mut()).expect("there is room for two a byte");
        Self(digits)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::SecurityOfficer => "security officer",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(text: &str) -> Pin {
        Pin::new(Secret::copy_of(text.as_bytes())).expect("long enough")
    }

    #[test]
    fn a_pin_is_another_value_for_another_vault_token_or_role() {
        let token = |name: &str| name.parse::<TokenName>().expect("a name");
        let auth = |vault: &str, name: &str, role| {
            let auth = pin("1234").auth(vault, &token(name), role);
            String::from_utf8(auth.expose().expose().to_vec()).expect("digits")
        };
        let all = [
            auth("v", "a", Role::User),
            auth("w", "a", Role::User),
            auth("v", "b", Role::User),
            auth("v", "a", Role::SecurityOfficer),
        ];
        for (index, one) in all.iter().enumerate() {
            assert_eq!(one.len(), 32);
            assert!(!all[index + 1..].contains(one));
        }
    }

    #[test]
    fn a_pin_has_four_to_255_bytes() {
        for (len, fits) in [(0, false), (3, false), (4, true), (255, true), (256, false)] {
            assert_eq!(Pin::new(Secret::zeroed(len)).is_ok(), fits, "{len}");
        }
    }
}
