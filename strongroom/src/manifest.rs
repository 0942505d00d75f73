//! `vault.json`: what a vault is made of, authenticated by K_vault.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::encoding::Base64;
use crate::envelope::{Purpose, VaultKey};
use crate::error::{Error, Result};
use crate::object::{TokenLabel, TokenName};
use crate::policy::{Fence, PcrSelection};
use crate::recovery::{RecoveryKit, RecoveryRecipient};
use crate::store;
use crate::tpm::index::{Index, IndexHandle};
use crate::tpm::key_file::KeyFile;
use crate::tpm::pin::{Owner, PinIndices, Pins};
use crate::tpm::root_key::RootKeyRecord;
use crate::tpm::writer::Writers;

/// The newest format that this library reads. A manifest is written in the oldest that has all of
/// it: 3 where some token has a fence, 2 where some has a PIN, a label or a word on its protection, 1
/// otherwise.
pub(crate) const FORMAT: u64 = 3;

/// The manifest. Parsed, but not to be believed before [`Manifest::authenticate`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Manifest {
    pub(crate) format: u64,
    /// The vault's identity, for life: a random UUID, also the policyRef of K_rec's signatures.
    pub(crate) id: String,
    /// Whom the recovery slot of every object is encrypted to.
    pub(crate) recovery_recipient: RecoveryRecipient,
    /// The PCRs that the owner chose: what is bound to where the list of allowed boots is lost.
    pub(crate) pcrs: PcrSelection,
    pub(crate) root_key: RootKeyRecord,
    /// N's handle; its Name follows from the writers.
    pub(crate) index: IndexHandle,
    pub(crate) writers: Writers,
    /// The storage key that K_vault is sealed under.
    pub(crate) storage_key: Base64,
    /// K_vault in its two slots.
    pub(crate) vault_key: VaultKeySlots,
    pub(crate) tokens: BTreeMap<TokenName, TokenRecord>,
    pub(crate) mac: Base64,
}

/// K_vault: sealed to the TPM, and encrypted to the recovery recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct VaultKeySlots {
    pub(crate) tpm: Base64,
    pub(crate) recovery: Base64,
}

/// What a token is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct TokenRecord {
    /// The storage key that the token's objects are sealed under; where it has a PIN, those that
    /// do without.
    pub(crate) storage_key: Base64,
    /// What it is called, where that is not its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) label: Option<TokenLabel>,
    /// Whether it is write-protected through PKCS#11, where its owner has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) write_protected: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pins: Option<PinsRecord>,
    /// The PCR that must be as the boot leaves it, for life: it is in the storage keys' policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fence: Option<Fence>,
}

/// What a token with a PIN has besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct PinsRecord {
    /// The storage key whose policy asks for the user's PIN.
    pub(crate) storage_key: Base64,
    pub(crate) indices: PinIndices,
}

impl TokenRecord {
    /// The oldest format that has all of it.
    fn least_format(&self) -> u64 {
        if self.fence.is_some() {
            3
        } else if self.label.is_some() || self.write_protected.is_some() || self.pins.is_some() {
            2
        } else {
            1
        }
    }
}

/// What is made anew when a vault comes to a TPM; all else stays for a vault's life.
pub(crate) struct OnTpm {
    pub(crate) pcrs: PcrSelection,
    pub(crate) root_key: RootKeyRecord,
    pub(crate) index: IndexHandle,
    pub(crate) writers: Writers,
    pub(crate) storage_key: Base64,
    pub(crate) sealed_vault_key: Base64,
    pub(crate) tokens: BTreeMap<TokenName, TokenRecord>,
}

impl Manifest {
    /// A manifest of a vault on a TPM, with its MAC.
    pub(crate) fn new(
        id: String,
        recipient: RecoveryRecipient,
        recovery_slot: Base64,
        on_tpm: OnTpm,
        key: &VaultKey,
    ) -> Self {
        let manifest = Self {
            format: FORMAT,
            id,
            recovery_recipient: recipient,
            pcrs: on_tpm.pcrs,
            root_key: on_tpm.root_key,
            index: on_tpm.index,
            writers: on_tpm.writers,
            storage_key: on_tpm.storage_key,
            vault_key: VaultKeySlots {
                tpm: on_tpm.sealed_vault_key,
                recovery: recovery_slot,
            },
            tokens: on_tpm.tokens,
            mac: Base64::default(),
        };
        manifest.authenticated(key)
    }

    /// The same, bound to other PCRs.
    pub(crate) fn with_pcrs(mut self, pcrs: PcrSelection, key: &VaultKey) -> Self {
        self.pcrs = pcrs;
        self.authenticated(key)
    }

    /// The same with other tokens.
    pub(crate) fn with_tokens(
        mut self,
        change: impl FnOnce(&mut BTreeMap<TokenName, TokenRecord>),
        key: &VaultKey,
    ) -> Self {
        change(&mut self.tokens);
        self.authenticated(key)
    }

    fn authenticated(mut self, key: &VaultKey) -> Self {
        for (name, record) in &mut self.tokens {
            record.label.take_if(|label| is_name(label, name));
        }
        self.format = self.least_format();
        self.mac = key.mac(Purpose::Manifest, &self);
        self
    }

    pub(crate) fn parse(bytes: &[u8], file: &Path) -> Result<Self> {
        let manifest: Self = store::parse_json(bytes, file, FORMAT)?;
        manifest.check().map_err(|reason| Error::VaultDamaged {
            file: file.to_owned(),
            reason,
        })?;
        Ok(manifest)
    }

    /// What the types do not say. One manifest has one spelling: its format is the oldest that has
    /// all of it, and a label that is the token's name is left out.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !Uuid::parse_str(&self.id).is_ok_and(|id| id.to_string() == self.id) {
            return Err("its id is not a UUID in lower case".to_owned());
        }
        let least = self.least_format();
        if self.format != least {
            return Err(format!(
                "it says that it has format {}, and what it holds is format {least}",
                self.format
            ));
        }
        for (name, record) in &self.tokens {
            if record
                .label
                .as_ref()
                .is_some_and(|label| is_name(label, name))
            {
                return Err(format!("the label of token {name} is its name"));
            }
        }
        Ok(())
    }

    /// The oldest format that has all of it.
    fn least_format(&self) -> u64 {
        let tokens = self.tokens.values().map(TokenRecord::least_format);
        tokens.max().unwrap_or(1)
    }

    /// Refuses a manifest that was not written by a holder of K_vault.
    pub(crate) fn authenticate(&self, key: &VaultKey, file: &Path) -> Result<()> {
        if key.verifies(Purpose::Manifest, self, &self.mac) {
            Ok(())
        } else {
            Err(Error::VaultForged {
                file: file.to_owned(),
                reason: "its MAC does not fit its content".to_owned(),
            })
        }
    }

    /// K_vault by the recovery way, compared with the kit's fingerprint; the manifest is
    /// authenticated with it.
    pub(crate) fn vault_key_by_recovery(&self, kit: &RecoveryKit, file: &Path) -> Result<VaultKey> {
        if kit.vault_id != self.id {
            return Err(Error::RecoveryIdentity(format!(
                "it is of vault {}, and this is vault {}",
                kit.vault_id, self.id
            )));
        }
        let opened = kit
            .identity
            .decrypt(&self.vault_key.recovery)
            .map_err(|error| {
                if kit.identity.recipient() == self.recovery_recipient {
                    Error::VaultDamaged {
                        file: file.to_owned(),
                        reason: "the recovery slot of its vault key does not open".to_owned(),
                    }
                } else {
                    error
                }
            })?;
        let key = VaultKey::new(opened)
            .filter(|key| key.fingerprint() == kit.fingerprint)
            .ok_or_else(|| Error::VaultForged {
                file: file.to_owned(),
                reason: "its vault key is not the one that the recovery kit names".to_owned(),
            })?;
        self.authenticate(&key, file)?;
        Ok(key)
    }

    /// N as this manifest has it.
    pub(crate) fn index(&self) -> Result<Index> {
        self.writers.index(self.index, &self.id)
    }

    /// What a token is made of.
    pub(crate) fn token(&self, token: &TokenName) -> Result<&TokenRecord> {
        self.tokens
            .get(token)
            .ok_or_else(|| Error::NoSuchToken(token.to_string()))
    }

    /// A token's PINs, as this manifest has them; `None` where it has none.
    pub(crate) fn pins(&self, token: &TokenName) -> Result<Option<Pins>> {
        let owner = Owner {
            vault_id: &self.id,
            k_rec: &self.writers.k_rec,
            token,
        };
        let pins = &self.token(token)?.pins;
        pins.as_ref()
            .map(|pins| pins.indices.pins(owner))
            .transpose()
    }

    /// A token's storage key: the one behind its PIN, or the other.
    pub(crate) fn token_key(
        &self,
        token: &TokenName,
        behind_pin: bool,
        file: &Path,
    ) -> Result<KeyFile> {
        let record = self.token(token)?;
        let key = match (&record.pins, behind_pin) {
            (_, false) => &record.storage_key,
            (Some(pins), true) => &pins.storage_key,
            (None, true) => {
                return Err(Error::input(
                    format!("token {token}"),
                    "it has no PIN, so that nothing in it can ask for one",
                ));
            }
        };
        key_file(key, file)
    }
}

/// Whether a label says nothing that the token's name does not say.
fn is_name(label: &TokenLabel, name: &TokenName) -> bool {
    label.as_str() == name.as_str()
}

/// A TPM object of the manifest.
pub(crate) fn key_file(der: &Base64, file: &Path) -> Result<KeyFile> {
    KeyFile::from_der(der).map_err(|reason| Error::VaultDamaged {
        file: file.to_owned(),
        reason,
    })
}
