//! `vault.json`: what a vault is made of, authenticated by K_vault.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::encoding::Base64;
use crate::envelope::{Purpose, VaultKey};
use crate::error::{Error, Result};
use crate::object::{TokenLabel, TokenName};
use crate::peer::{PeerId, PeerRecord};
use crate::policy::{Fence, PcrSelection};
use crate::recovery::{RecoveryKit, RecoveryRecipient};
use crate::store;
use crate::tpm::index::{Index, IndexHandle};
use crate::tpm::key_file::KeyFile;
use crate::tpm::pin::{Owner, PinIndices, Pins};
use crate::tpm::root_key::RootKeyRecord;
use crate::tpm::writer::Writers;

/// The newest format that this library reads. A manifest is written in the oldest that has all of
/// it: 4 where there is a second TPM, 3 where some token has a fence, 2 where some has a PIN, a label or a word on its protection, 1
/// otherwise.
pub(crate) const FORMAT: u64 = 4;

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
    /// Second TPMs, each with an N and storage keys of its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) peers: BTreeMap<PeerId, PeerRecord>,
    pub(crate) mac: Base64,
}

/// What of a manifest is of one machine: the vault's own, or a second one.
#[derive(Clone, Copy)]
pub(crate) struct Seat<'a> {
    pub(crate) pcrs: &'a PcrSelection,
    pub(crate) root_key: &'a RootKeyRecord,
    pub(crate) writers: &'a Writers,
    pub(crate) storage_key: &'a Base64,
    index: IndexHandle,
    vault_id: &'a str,
}

impl Seat<'_> {
    /// The machine's N.
    pub(crate) fn index(&self) -> Result<Index> {
        self.writers.index(self.index, self.vault_id)
    }
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
        peers: BTreeMap<PeerId, PeerRecord>,
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
            peers,
            mac: Base64::default(),
        };
        manifest.authenticated(key)
    }

    /// The same, with a machine of it bound to other PCRs.
    pub(crate) fn with_pcrs(
        mut self,
        machine: Option<PeerId>,
        pcrs: PcrSelection,
        key: &VaultKey,
    ) -> Self {
        match machine {
            None => self.pcrs = pcrs,
            Some(peer) => {
                if let Some(record) = self.peers.get_mut(&peer) {
                    record.pcrs = pcrs;
                }
            }
        }
        self.authenticated(key)
    }

    /// The same with other second machines.
    pub(crate) fn with_peers(
        mut self,
        change: impl FnOnce(&mut BTreeMap<PeerId, PeerRecord>),
        key: &VaultKey,
    ) -> Self {
        change(&mut self.peers);
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
        if !self.peers.is_empty() {
            return 4;
        }
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

    /// What is of one machine: the vault's own, or a second one.
    pub(crate) fn seat(&self, machine: Option<PeerId>) -> Result<Seat<'_>> {
        Ok(match machine {
            None => Seat {
                pcrs: &self.pcrs,
                root_key: &self.root_key,
                writers: &self.writers,
                storage_key: &self.storage_key,
                index: self.index,
                vault_id: &self.id,
            },
            Some(peer) => {
                let record = self.peer(peer)?;
                Seat {
                    pcrs: &record.pcrs,
                    root_key: &record.root_key,
                    writers: &record.writers,
                    storage_key: &record.storage_key,
                    index: record.index,
                    vault_id: &self.id,
                }
            }
        })
    }

    /// What is kept of a second machine.
    pub(crate) fn peer(&self, peer: PeerId) -> Result<&PeerRecord> {
        self.peers.get(&peer).ok_or_else(|| {
            Error::input(
                format!("second TPM {peer}"),
                "the vault has none of this id; `strongroom pair list` shows those that it has",
            )
        })
    }

    /// All machines but one: the vault's own as `None`.
    pub(crate) fn machines_but(
        &self,
        this: Option<PeerId>,
    ) -> impl Iterator<Item = Option<PeerId>> + '_ {
        std::iter::once(None)
            .chain(self.peers.keys().copied().map(Some))
            .filter(move |machine| *machine != this)
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

    /// A token's storage key on a machine: the one behind its PIN, or the other.
    pub(crate) fn token_key(
        &self,
        machine: Option<PeerId>,
        token: &TokenName,
        behind_pin: bool,
        file: &Path,
    ) -> Result<KeyFile> {
        let record = self.token(token)?;
        if let Some(peer) = machine {
            let key = self
                .peer_key(peer, token, behind_pin)?
                .ok_or_else(|| not_at_second(token, behind_pin))?;
            return key_file(key, file);
        }
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

impl Manifest {
    /// The storage key that a second machine has for objects of a token; `None` where it has none: for
    /// what is behind a PIN, and for a token that was made after the machine's export.
    pub(crate) fn peer_key(
        &self,
        peer: PeerId,
        token: &TokenName,
        behind_pin: bool,
    ) -> Result<Option<&Base64>> {
        let record = self.peer(peer)?;
        let token = record.tokens.get(token).filter(|_| !behind_pin);
        Ok(token.map(|token| &token.storage_key))
    }
}

fn not_at_second(token: &TokenName, behind_pin: bool) -> Error {
    let reason = if behind_pin {
        "what is behind a PIN opens on the vault's own TPM and with the recovery kit, not on this second \
         TPM"
    } else {
        "this second TPM was paired before the token was made; pair it again (`strongroom pair export`)"
    };
    Error::input(format!("token {token}"), reason)
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
