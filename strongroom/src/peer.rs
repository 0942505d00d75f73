//! A second TPM: what a machine says of itself so that a vault can be given to it, and what the manifest
//! keeps of that.
//!
//! The machine that is to be the second one makes a root key, an index N of its own, and a storage key for
//! each token, all under its own boot, and writes down what is public of them: an [`Export`]. Whoever
//! believes a forged one encrypts every key to a stranger. So it is believed by its [`Fingerprint`]
//! alone, which a person carries from one machine to the other.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::encoding::{Base64, canonical};
use crate::error::{Error, Result};
use crate::object::TokenName;
use crate::policy::{Fence, PcrSelection};
use crate::recovery::RecoveryRecipient;
use crate::store;
use crate::tpm::duplicate::SealedDuplicate;
use crate::tpm::index::IndexHandle;
use crate::tpm::root_key::RootKeyRecord;
use crate::tpm::writer::Writers;

/// The newest format of an export that this library reads, and the one that it writes.
const FORMAT: u64 = 1;

/// A second machine of a vault, as the first knows it: a random UUID, of one pairing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PeerId(Uuid);

impl PeerId {
    pub(crate) fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for PeerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Uuid::parse_str(text)
            .ok()
            .map(Self)
            .filter(|id| id.to_string() == text)
            .ok_or_else(|| {
                Error::input(
                    format!("id of a second TPM {text:?}"),
                    "it must be a UUID in lower case, as `strongroom pair list` shows it",
                )
            })
    }
}

/// What the manifest keeps of a second machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct PeerRecord {
    /// The PCRs that it was bound to.
    pub(crate) pcrs: PcrSelection,
    pub(crate) root_key: RootKeyRecord,
    /// Its own N.
    pub(crate) index: IndexHandle,
    /// Who may write that. K_rec in it is another than the vault's, for the same recovery recipient.
    pub(crate) writers: Writers,
    /// The storage key that K_vault is encrypted to.
    pub(crate) storage_key: Base64,
    /// K_vault, encrypted to that.
    pub(crate) vault_key: SealedDuplicate,
    pub(crate) tokens: BTreeMap<TokenName, PeerToken>,
}

/// What a second machine has of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct PeerToken {
    /// The storage key that the DEKs of the token's objects are encrypted to.
    pub(crate) storage_key: Base64,
}

/// What a machine says of itself, for `strongroom pair add` on the vault's own. Nothing in it is
/// secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Export {
    format: u64,
    /// The vault that it is made for: its id is in the policy of the machine's N.
    pub(crate) vault: String,
    /// Whom the private half of the machine's K_rec is encrypted to.
    pub(crate) recovery_recipient: RecoveryRecipient,
    pub(crate) peer: PeerId,
    pub(crate) pcrs: PcrSelection,
    pub(crate) root_key: RootKeyRecord,
    pub(crate) index: IndexHandle,
    pub(crate) writers: Writers,
    pub(crate) storage_key: Base64,
    pub(crate) tokens: BTreeMap<TokenName, ExportedToken>,
}

/// What an export has of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ExportedToken {
    pub(crate) storage_key: Base64,
    /// The fence that is in the storage key's policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fence: Option<Fence>,
}

/// What an export is made of.
pub(crate) struct Exported {
    pub(crate) vault: String,
    pub(crate) recovery_recipient: RecoveryRecipient,
    pub(crate) pcrs: PcrSelection,
    pub(crate) root_key: RootKeyRecord,
    pub(crate) index: IndexHandle,
    pub(crate) writers: Writers,
    pub(crate) storage_key: Base64,
    pub(crate) tokens: BTreeMap<TokenName, ExportedToken>,
}

impl Export {
    pub(crate) fn new(peer: PeerId, what: Exported) -> Self {
        Self {
            format: FORMAT,
            vault: what.vault,
            recovery_recipient: what.recovery_recipient,
            peer,
            pcrs: what.pcrs,
            root_key: what.root_key,
            index: what.index,
            writers: what.writers,
            storage_key: what.storage_key,
            tokens: what.tokens,
        }
    }

    /// Reads an export. What it says is not to be believed before its fingerprint was compared.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that is no export; [`Error::VaultNewer`].
    pub fn read(file: &Path) -> Result<Self> {
        let refuse = |reason: String| Error::input(format!("export {}", file.display()), reason);
        let bytes = store::read(file).map_err(|error| match error {
            Error::Io { source, .. } => refuse(source.to_string()),
            Error::VaultDamaged { reason, .. } => refuse(reason),
            other => other,
        })?;
        store::parse_json(&bytes, file, FORMAT).map_err(|error| match error {
            Error::VaultDamaged { reason, .. } => refuse(reason),
            other => other,
        })
    }

    /// As a file holds it.
    pub fn to_json(&self) -> Vec<u8> {
        store::to_json(self)
    }

    /// The machine that it is of.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Believes it, if its fingerprint is the one that was shown where it was made.
    ///
    /// # Errors
    /// [`Error::Input`] for another.
    pub fn trusted_by(self, shown: Fingerprint) -> Result<TrustedExport> {
        let its = self.fingerprint();
        if its == shown {
            return Ok(TrustedExport(self));
        }
        Err(Error::input(
            "this export",
            format!(
                "its fingerprint is {its}, and not the one that was typed: it was changed on its way, or \
                 another one's was typed. Compare it with what `strongroom pair export` has shown; nothing \
                 was given to that machine"
            ),
        ))
    }

    /// What it is believed by.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(Sha256::digest(canonical(self)).into())
    }
}

/// An export whose fingerprint a person has brought from the machine that it is of.
pub struct TrustedExport(Export);

impl TrustedExport {
    pub(crate) fn export(&self) -> &Export {
        &self.0
    }
}

/// SHA-256 of an export's canonical encoding. People see it in groups of four digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, pair) in self.0.chunks(2).enumerate() {
            let blank = if place == 0 { "" } else { " " };
            write!(f, "{blank}{:02x}{:02x}", pair[0], pair[1])?;
        }
        Ok(())
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    /// Takes it as people type it: either case, and blanks, colons and hyphens where they please. All
    /// of it, always.
    fn from_str(text: &str) -> Result<Self> {
        let digits: String = text
            .chars()
            .filter(|c| !c.is_whitespace() && !":-".contains(*c))
            .collect();
        let mut bytes = [0; 32];
        hex::decode_to_slice(&digits, &mut bytes).map_err(|_| {
            Error::input(
                "fingerprint",
                "it must be the 64 hexadecimal digits that `strongroom pair export` has shown",
            )
        })?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_taken_as_people_type_it_and_never_in_part() {
        let shown = Fingerprint([0xAB; 32]).to_string();
        assert_eq!(shown.split(' ').count(), 16);
        for typed in [
            shown.clone(),
            shown.to_uppercase(),
            shown.replace(' ', ""),
            shown.replace(' ', ":"),
            format!("  {}\n", shown.replace(' ', "-")),
        ] {
            assert_eq!(
                typed.parse::<Fingerprint>().ok(),
                Some(Fingerprint([0xAB; 32]))
            );
        }
        for bad in [
            "",
            "abab",
            &shown[1..],
            &format!("{shown} ab"),
            &shown.replace('b', "g"),
        ] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad:?}");
        }
    }
}
