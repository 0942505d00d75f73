//! A second TPM: a machine that opens the vault beside its own, so that the death of either loses nothing
//! and takes no recovery identity.
//!
//! On the second machine: [`Vault::export_second`] makes what it needs in its TPM and says what is public
//! of it; [`Unlocked::settle`] seals again, under its own boot, what was sent to it. On the vault's own:
//! [`Unlocked::add_second`] gives it a way to K_vault and to every object, and what is sealed later gets
//! one as it is sealed ([`Unlocked::envelope`]). Readers write nothing on either.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::sealing::Content;
use super::{Listing, Unlocked, Vault, fencing};
use crate::encoding::Base64;
use crate::envelope::{Dek, VaultKey};
use crate::error::{Error, Result};
use crate::event_log::Recording;
use crate::key::LOCAL;
use crate::manifest;
use crate::object::{Metadata, ObjectFile, Slot, TokenName};
use crate::peer::{Export, Exported, ExportedToken, PeerId, PeerRecord, PeerToken, TrustedExport};
use crate::policy::{Branches, PcrSelection, PolicyDigest, PolicyFile};
use crate::provision::{self, Machine, TokenPlan};
use crate::store::{self, Damaged};
use crate::tpm::duplicate::SealedDuplicate;
use crate::tpm::key_file::{KeyFile, PARENT_UNNAMED};
use crate::tpm::signer::RecoveryKey;
use crate::tpm::storage::{StorageKey, is_storage_key};
use crate::tpm::{Tcti, Tpm};

/// The format of the file in which a second machine keeps K_vault.
const FORMAT: u64 = 1;

/// A second machine, as the vault's files have it. Not authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which one.
    pub id: PeerId,
    /// The Name of its root key (TPM 2.0 Library, Part 1, section 16).
    pub root_key: Vec<u8>,
    /// The handle of its index N.
    pub index: u32,
    /// How many objects it opens.
    pub objects: usize,
    /// How many of these it has sealed under its own boot, in this copy of the vault.
    pub sealed: usize,
    /// Objects that it ought to open and does not: `strongroom pair add` was cut short.
    pub missing: Vec<Metadata>,
    /// Objects that it does not open, and why.
    pub left_out: Vec<LeftOut>,
    /// Tokens that were made after its export.
    pub later_tokens: Vec<TokenName>,
}

/// An object that a second machine does not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Which one.
    pub object: Metadata,
    /// Why.
    pub reason: Reason,
}

/// Why a second machine does not open an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is behind a PIN, and PINs are a TPM's own.
    BehindPin,
    /// A private key that was made in the vault's own TPM, and exists there alone.
    MadeInTpm,
    /// A private key that was imported into the vault's own TPM. The recovery kit alone opens its copy.
    ImportedIntoTpm,
    /// Its token was made after the machine's export.
    LaterToken,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BehindPin => "behind a PIN",
            Self::MadeInTpm => "a private key that is in the vault's own TPM alone",
            Self::ImportedIntoTpm => {
                "a private key in the vault's own TPM, of which the recovery kit opens a copy"
            }
            Self::LaterToken => "in a token that was made after the second TPM was paired",
        })
    }
}

/// What giving the objects to the second machines came to.
#[derive(Debug, Default)]
pub struct Aligned {
    /// How many objects had to be changed.
    pub changed: usize,
    /// How many there are that every second machine opens.
    pub objects: usize,
    /// Objects that some second machine does not open.
    pub left_out: Vec<LeftOut>,
    /// Files that are no usable objects.
    pub damaged: Vec<Damaged>,
}

/// What sealing again came to.
#[derive(Debug, Default)]
pub struct Settled {
    /// Whether this machine has sealed K_vault now.
    pub vault_key: bool,
    /// How many objects were sealed under this machine's boot.
    pub sealed: usize,
    /// Objects behind a fence that is closed in this boot: they open after a restart, and settle then.
    pub fenced: Vec<Metadata>,
    /// Objects that this machine does not open: their files, and why.
    pub damaged: Vec<Damaged>,
}

/// K_vault for this machine.
pub(super) enum SealedVaultKey {
    /// Sealed by it. Nobody makes that outside of an allowed boot.
    Here(KeyFile),
    /// As it was sent. Anybody makes one.
    Sent(SealedDuplicate),
}

/// What a second machine keeps of K_vault: replaced by no copy of the vault, for it is in none.
#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct OwnVaultKey {
    format: u64,
    vault_key: Base64,
}

impl Vault {
    /// Makes this machine ready to be a second one of the vault, bound to its present boot: a root key, an
    /// index N and storage keys. The folder holds a copy of the vault's `vault.json`, which is believed in
    /// nothing: `strongroom pair add` refuses what was made for another vault or recipient. The list of
    /// allowed boots is written beside it.
    ///
    /// # Errors
    /// [`Error::Input`] on the vault's own TPM, for PCRs that mean nothing here, and for a fence that is
    /// closed; whatever the TPM answers. An index that was begun is removed again.
    pub fn export_second(
        &self,
        tcti: &Tcti,
        pcrs: Option<&PcrSelection>,
        event_log: Option<Recording>,
    ) -> Result<Export> {
        let _lock = self.lock()?;
        let peer = PeerId::random();
        let vault = Self {
            machine: Some(peer),
            ..self.reread()?
        };
        let turn = vault.turn(tcti)?;
        let own = Tpm::with_room(&turn, || {
            vault.manifest.root_key.open(&mut Tpm::connect(&turn)?)
        });
        match own {
            Err(Error::ForeignTpm(_) | Error::RootKey { .. }) => {}
            Ok(_) => {
                return Err(Error::input(
                    "this machine",
                    "its TPM is the vault's own; run this on the machine that is to be the second",
                ));
            }
            Err(error) => return Err(error),
        }
        let earlier = vault.here(&turn).ok().and_then(|vault| vault.machine);
        let mut tpm = Tpm::connect(&turn)?;
        tpm.check_commands()?;
        let log = event_log.as_ref().map(Recording::log);
        let branches = Branches::only(provision::present_boot(&mut tpm, pcrs, log)?);
        for fence in vault.fences() {
            fencing::check_open(&mut tpm, fence, &branches.all_pcrs())?;
        }
        drop(tpm);
        let recipient = vault.manifest.recovery_recipient.clone();
        let (k_rec, open_k_rec) = RecoveryKey::generate(&recipient);
        let logs = vault.boot_logs(tcti);
        let request = provision::Request {
            vault_id: &vault.manifest.id,
            k_rec: &k_rec,
            open_k_rec: &open_k_rec,
            branches: &branches,
            logs: &logs,
        };
        let plans = vault
            .manifest
            .tokens
            .iter()
            .map(|(name, record)| TokenPlan {
                fence: record.fence,
                ..TokenPlan::plain(name.clone())
            });
        let (mut tpm, machine) = Machine::prepare(&turn, &request)?;
        let made = machine.complete_as_second(&mut tpm, &request, plans)?;
        let policy = store::to_json(&PolicyFile::settled(branches.clone()));
        if let Err(error) = store::write(&vault.store.policy_file(vault.machine), &policy) {
            provision::remove_index(&mut tpm, made.index);
            return Err(error);
        }
        logs.keep_as_read(&branches, Ok(event_log));
        if let Some(record) = earlier.and_then(|peer| vault.manifest.peers.get(&peer)) {
            log::warn!(
                "this machine was paired before: until `strongroom pair add` replaces that, it opens as \
                 before; afterwards remove its former NV index with `tpm2_nvundefine -C o {:#010x}`",
                u32::from(record.index)
            );
        }
        let tokens = made.tokens.into_iter().map(|(name, record)| {
            let token = ExportedToken {
                storage_key: record.storage_key,
                fence: record.fence,
            };
            (name, token)
        });
        Ok(Export::new(
            peer,
            Exported {
                vault: vault.manifest.id,
                recovery_recipient: recipient,
                pcrs: made.pcrs,
                root_key: made.root_key,
                index: made.index.handle(),
                writers: made.writers,
                storage_key: made.storage_key,
                tokens: tokens.collect(),
            },
        ))
    }

    /// The second machines, and how the objects stand to them. Touches no TPM, and authenticates
    /// nothing.
    ///
    /// # Errors
    /// As for [`Vault::list`].
    pub fn seconds(&self) -> Result<Vec<Peer>> {
        let mut peers = Vec::new();
        for (&id, record) in &self.manifest.peers {
            let tokens = self.manifest.tokens.keys();
            peers.push(Peer {
                id,
                // Nobody vouches for it here.
                root_key: record
                    .root_key
                    .name()
                    .map_or_else(|_| Vec::new(), |name| name.as_bytes().to_vec()),
                index: record.index.into(),
                objects: 0,
                sealed: 0,
                missing: Vec::new(),
                left_out: Vec::new(),
                later_tokens: tokens
                    .filter(|token| !record.tokens.contains_key(*token))
                    .cloned()
                    .collect(),
            });
        }
        if peers.is_empty() {
            return Ok(peers);
        }
        for object in self.list()?.objects {
            let Ok(file) = self.store.read_object(&object.token, object.id) else {
                continue;
            };
            for peer in &mut peers {
                let own = file.slots.iter().find(|slot| slot.is_dek_of(Some(peer.id)));
                match (own, self.share(&file, peer.id)?) {
                    (Some(slot), _) => {
                        peer.objects += 1;
                        peer.sealed += usize::from(matches!(slot, Slot::Tpm { .. }));
                    }
                    (None, Share::Nothing) => {}
                    (None, Share::Dek) => peer.missing.push(object.clone()),
                    (None, Share::LeftOut(reason)) => peer.left_out.push(LeftOut {
                        object: object.clone(),
                        reason,
                    }),
                }
            }
        }
        Ok(peers)
    }

    /// What a second machine is to get of an object.
    fn share(&self, object: &ObjectFile, peer: PeerId) -> Result<Share> {
        let metadata = &object.metadata;
        Ok(match Content::of(object) {
            Content::Public => Share::Nothing,
            Content::TpmKey => {
                let local = metadata.attributes.get(LOCAL).map(String::as_str);
                Share::LeftOut(match local {
                    Some("false") => Reason::ImportedIntoTpm,
                    _ => Reason::MadeInTpm,
                })
            }
            Content::Secret if metadata.needs_pin() => Share::LeftOut(Reason::BehindPin),
            Content::Secret => match self.manifest.peer_key(peer, &metadata.token, false)? {
                Some(_) => Share::Dek,
                None => Share::LeftOut(Reason::LaterToken),
            },
        })
    }

    /// Refuses an object that this second machine was not given: nothing is wrong with its file.
    pub(super) fn check_is_shared(&self, object: &ObjectFile, peer: PeerId) -> Result<()> {
        if object.slots.iter().any(|slot| slot.is_dek_of(Some(peer))) {
            return Ok(());
        }
        let reason = match self.share(object, peer)? {
            Share::LeftOut(reason) => format!(
                "this second machine does not open it: it is {reason}; the vault's own machine and the \
                 recovery kit do"
            ),
            Share::Dek | Share::Nothing => {
                "this second machine was not given it yet: run `strongroom pair add` again on the vault's \
                 own machine, and copy the vault here"
                    .to_owned()
            }
        };
        Err(Error::input(
            format!("object {}", object.metadata.id),
            reason,
        ))
    }

    /// A DEK, encrypted to another machine's storage key; `None` where that has none for the object. No
    /// TPM command.
    pub(super) fn duplicate_for(
        &self,
        machine: Option<PeerId>,
        object: &Metadata,
        dek: &Dek,
    ) -> Result<Option<Slot>> {
        let file = self.store.manifest_file();
        let (token, behind_pin) = (&object.token, object.needs_pin());
        let key = match machine {
            Some(peer) => match self.manifest.peer_key(peer, token, behind_pin)? {
                Some(key) => manifest::key_file(key, &file)?,
                None => return Ok(None),
            },
            None => self.manifest.token_key(None, token, behind_pin, &file)?,
        };
        let duplicate =
            SealedDuplicate::new(&key, dek.expose()).map_err(|error| self.blame_manifest(error))?;
        Ok(Some(Slot::TpmDuplicate {
            peer: machine,
            duplicate,
        }))
    }

    /// K_vault as this second machine has it.
    ///
    /// # Errors
    /// [`Error::SecondUnsettled`] where it has not sealed it yet, and the owner has not named the vault:
    /// what was sent is what anybody can send.
    pub(super) fn vault_key_of_second(&self, peer: PeerId) -> Result<SealedVaultKey> {
        if self.expected.is_some() {
            return Ok(SealedVaultKey::Sent(
                self.manifest.peer(peer)?.vault_key.clone(),
            ));
        }
        self.own_vault_key(peer)
            .map(SealedVaultKey::Here)
            .ok_or_else(|| Error::SecondUnsettled(self.store.dir.clone()))
    }

    fn own_vault_key(&self, peer: PeerId) -> Option<KeyFile> {
        let file = self.store.vault_key_file(peer);
        let bytes = store::read(&file).ok()?;
        let own = store::parse_json::<OwnVaultKey>(&bytes, &file, FORMAT)
            .and_then(|own| manifest::key_file(&own.vault_key, &file));
        own.inspect_err(|error| log::warn!("{error}")).ok()
    }

    /// What of an export the manifest keeps, checked against this vault.
    fn checked(&self, export: &Export, key: &VaultKey) -> Result<PeerRecord> {
        let refuse = |reason: String| Error::input("this export", reason);
        if export.vault != self.manifest.id {
            return Err(refuse(format!(
                "it was made for vault {}, and this is vault {}",
                export.vault, self.manifest.id
            )));
        }
        if export.recovery_recipient != self.manifest.recovery_recipient {
            return Err(refuse(
                "it names another recovery recipient than the vault's, so that the recovery kit would be \
                 of no use on that machine; copy vault.json there anew, and export again"
                    .to_owned(),
            ));
        }
        if export.root_key.name()? == self.manifest.root_key.name()? {
            return Err(refuse("it is of the vault's own TPM".to_owned()));
        }
        let boot = export
            .writers
            .index(export.index, &self.manifest.id)
            .map_err(|error| refuse(error.to_string()))?
            .policy();
        let storage_key = |der: &Base64, policy: PolicyDigest| {
            KeyFile::from_der(der)
                .ok()
                .filter(|key| is_storage_key(&key.public, policy))
                .ok_or_else(|| refuse("a storage key in it is not under its own boot".to_owned()))
        };
        let mut tokens = std::collections::BTreeMap::new();
        for (name, token) in &export.tokens {
            // One that was removed since.
            let Ok(record) = self.manifest.token(name) else {
                continue;
            };
            if token.fence != record.fence {
                return Err(refuse(format!(
                    "the fence of token {name} is another there than here"
                )));
            }
            let policy = record.fence.map_or(boot, |fence| boot.pcr(&fence.open()));
            storage_key(&token.storage_key, policy)?;
            let storage_key = token.storage_key.clone();
            tokens.insert(name.clone(), PeerToken { storage_key });
        }
        let for_vault_key = storage_key(&export.storage_key, boot)?;
        Ok(PeerRecord {
            pcrs: export.pcrs.clone(),
            root_key: export.root_key.clone(),
            index: export.index,
            writers: export.writers.clone(),
            storage_key: export.storage_key.clone(),
            vault_key: SealedDuplicate::new(&for_vault_key, key.expose())?,
            tokens,
        })
    }
}

/// What a second machine is to get of an object.
enum Share {
    /// Nothing: all of it can be read.
    Nothing,
    /// A way to its DEK.
    Dek,
    /// Nothing, though it has a secret.
    LeftOut(Reason),
}

impl Unlocked {
    /// Gives K_vault and every object to a second machine, and all that is sealed later. Where the vault has
    /// a machine with the same root key already, that is replaced. Cut short, it is done by doing it
    /// again; until then nothing is worse off. For each object what it takes to unseal it, and no TPM
    /// command besides. `progress` is called after each with how many are done and how many there are.
    ///
    /// # Errors
    /// [`Error::Input`] for an export that was made for another vault, or on its own TPM, and on a second
    /// machine.
    pub fn add_second(
        &mut self,
        export: &TrustedExport,
        progress: impl FnMut(usize, usize),
    ) -> Result<Aligned> {
        let now = self.manifest_to_change()?;
        self.vault.manifest = now.clone();
        let export = export.export();
        let mut record = self.vault.checked(export, &self.key)?;
        if let Some(there) = now.peers.get(&export.peer) {
            // The same once more: nothing is changed that is as it should be.
            record.vault_key = there.vault_key.clone();
        }
        if now.peers.get(&export.peer) != Some(&record) {
            let name = record.root_key.name()?;
            let manifest = now.with_peers(
                |peers| {
                    peers.retain(|_, other| other.root_key.name().ok() != Some(name.clone()));
                    peers.insert(export.peer, record);
                },
                &self.key,
            );
            self.replace_manifest(manifest)?;
        }
        self.align(progress)
    }

    /// Takes a second machine out of the vault: what is sealed from now on it does not get. What its copy
    /// of the vault holds it still opens. Cut short, it is done by doing it again.
    ///
    /// # Errors
    /// [`Error::Input`] where there is no such machine, nor an object with a slot of it; and on a second
    /// machine.
    pub fn remove_second(
        &mut self,
        peer: PeerId,
        progress: impl FnMut(usize, usize),
    ) -> Result<Aligned> {
        let now = self.manifest_to_change()?;
        if now.peers.contains_key(&peer) {
            let manifest = now.with_peers(|peers| drop(peers.remove(&peer)), &self.key);
            self.replace_manifest(manifest)?;
        } else {
            self.vault.manifest = now;
            if !self.has_slot_of(peer)? {
                self.vault.manifest.peer(peer)?;
            }
        }
        self.align(progress)
    }

    /// Seals under this machine's own boot what was sent to it: K_vault, and the DEK of each object. Cut
    /// short, it is done by doing it again; what was sent opens until then.
    ///
    /// # Errors
    /// [`Error::PolicyRefused`]; whatever the TPM answers.
    pub fn settle(&mut self, mut progress: impl FnMut(usize, usize)) -> Result<Settled> {
        self.keep_others_off()?;
        let mut settled = Settled::default();
        if let Some(peer) = self.vault.machine {
            settled.vault_key = self.settle_vault_key(peer)?;
        }
        let Listing {
            objects, damaged, ..
        } = self.vault.list_all()?;
        settled.damaged = damaged;
        for (done, object) in objects.iter().enumerate() {
            match self.settle_object(object) {
                Ok(anew) => settled.sealed += usize::from(anew),
                Err(Error::FenceClosed(_)) => settled.fenced.push(object.clone()),
                Err(Error::ObjectDamaged { file, reason }) => {
                    settled.damaged.push(Damaged { file, reason });
                }
                Err(error) => return Err(error),
            }
            progress(done + 1, objects.len());
        }
        Ok(settled)
    }

    /// Drops what the vault has of a second machine that has become its own.
    pub(super) fn forget_second(&mut self, peer: PeerId) -> Result<()> {
        self.align(|_, _| {})?;
        let store = &self.vault.store;
        for file in [store.policy_file(Some(peer)), store.vault_key_file(peer)] {
            if file.exists() {
                store::remove(&file)?;
            }
        }
        // Words alone come of them.
        let _ = std::fs::remove_dir_all(store.event_logs(Some(peer)));
        Ok(())
    }

    /// Gives every object to each second machine, and takes from it what is of a machine that is none any
    /// more.
    fn align(&mut self, mut progress: impl FnMut(usize, usize)) -> Result<Aligned> {
        let Listing {
            objects, damaged, ..
        } = self.vault.list_all()?;
        let mut aligned = Aligned {
            damaged,
            ..Aligned::default()
        };
        for (done, object) in objects.iter().enumerate() {
            match self.align_object(object) {
                Ok((changed, left_out)) => {
                    aligned.changed += usize::from(changed);
                    aligned.objects += usize::from(left_out.is_none());
                    aligned.left_out.extend(left_out.map(|reason| LeftOut {
                        object: object.clone(),
                        reason,
                    }));
                }
                Err(Error::ObjectDamaged { file, reason }) => {
                    aligned.damaged.push(Damaged { file, reason });
                }
                Err(error) => return Err(error),
            }
            progress(done + 1, objects.len());
        }
        Ok(aligned)
    }

    /// Answers whether the object was changed, and why a second machine does not open it.
    fn align_object(&mut self, object: &Metadata) -> Result<(bool, Option<Reason>)> {
        let mut file = self.genuine(object)?;
        let peers = &self.vault.manifest.peers;
        let before = file.slots.len();
        file.slots
            .retain(|slot| slot.peer().is_none_or(|peer| peers.contains_key(&peer)));
        let mut changed = file.slots.len() < before;
        let (mut left_out, mut missing) = (None, Vec::new());
        for &peer in peers.keys() {
            match self.vault.share(&file, peer)? {
                Share::Nothing => {}
                Share::LeftOut(reason) => left_out = Some(reason),
                Share::Dek if file.slots.iter().any(|slot| slot.is_dek_of(Some(peer))) => {}
                Share::Dek => missing.push(peer),
            }
        }
        if !missing.is_empty() {
            let dek = self.dek_undisturbed(&file)?;
            for peer in missing {
                let slot = self.vault.duplicate_for(Some(peer), object, &dek)?;
                // Behind this TPM's own, before the recovery way.
                let place = file.slots.iter().position(is_recovery);
                let place = place.unwrap_or(file.slots.len());
                changed |= slot.is_some();
                file.slots.splice(place..place, slot);
            }
        }
        if changed {
            self.replace_object(file, |_, _| Ok(()))?;
        }
        Ok((changed, left_out))
    }

    /// Answers whether there was anything to seal.
    fn settle_object(&mut self, object: &Metadata) -> Result<bool> {
        let mut file = self.genuine(object)?;
        let machine = self.vault.machine;
        let sent =
            |slot: &Slot| matches!(slot, Slot::TpmDuplicate { .. }) && slot.is_dek_of(machine);
        let Some(place) = file.slots.iter().position(sent) else {
            return Ok(false);
        };
        let dek = self.dek_undisturbed(&file)?;
        let payload = self.vault.open_payload(&self.key, &file, &dek)?;
        file.slots[place] = self.tpm_slot(object, &dek)?;
        self.replace_object(file, |vault, again| {
            let dek = vault.dek_undisturbed(again)?;
            let opened = vault.vault.open_payload(&vault.key, again, &dek)?;
            if opened.same_as(payload.expose()) {
                Ok(())
            } else {
                Err(vault.vault.damaged(
                    again,
                    "what was read back is not what was sealed".to_owned(),
                ))
            }
        })?;
        Ok(true)
    }

    /// Puts a changed object in the place of what it was, once what was written was read back and passes
    /// `verify`.
    fn replace_object(
        &mut self,
        file: ObjectFile,
        verify: impl FnOnce(&mut Self, &ObjectFile) -> Result<()>,
    ) -> Result<()> {
        let file = self.with_mac(file);
        let staged = self.vault.store.stage_object(&file)?;
        let again = staged.read()?;
        if again != file {
            let reason =
                "what was read back is not what was to be written; the object is as it was";
            return Err(self.vault.damaged(&file, reason.to_owned()));
        }
        verify(self, &again)?;
        staged.commit()
    }

    /// Seals K_vault under this second machine's boot, unless that was done and nobody asks for it
    /// anew. It was authenticated: by what is sealed here, or by the owner's word.
    fn settle_vault_key(&mut self, peer: PeerId) -> Result<bool> {
        if self.vault.expected.is_none() {
            return Ok(false);
        }
        self.make_room()?;
        let file = self.vault.store.manifest_file();
        let storage_key = manifest::key_file(self.vault.seat()?.storage_key, &file)?;
        let storage_key = StorageKey::load(&mut self.tpm, self.root, &storage_key)?;
        let sealed = storage_key.seal(&mut self.tpm, &self.gate, self.key.expose());
        let unsealed = sealed.and_then(|sealed| {
            let again = storage_key.unseal(&mut self.tpm, &self.gate, &sealed)?;
            Ok((sealed, again))
        });
        storage_key.unload(&mut self.tpm)?;
        let (sealed, again) = unsealed?;
        if !again.same_as(self.key.expose().expose()) {
            return Err(Error::Tpm {
                operation: "Unseal(vault key)",
                reason: "what it unsealed is not what was sealed".to_owned(),
            });
        }
        let own = OwnVaultKey {
            format: FORMAT,
            vault_key: sealed.to_der(PARENT_UNNAMED)?,
        };
        let file = self.vault.store.vault_key_file(peer);
        store::write(&file, &store::to_json(&own))?;
        Ok(true)
    }

    fn has_slot_of(&self, peer: PeerId) -> Result<bool> {
        let objects = self.vault.list_all()?.objects;
        let has_slot = |object: &Metadata| {
            let file = self.vault.store.read_object(&object.token, object.id);
            file.is_ok_and(|file| file.slots.iter().any(|slot| slot.peer() == Some(peer)))
        };
        Ok(objects.iter().any(has_slot))
    }
}

fn is_recovery(slot: &Slot) -> bool {
    matches!(slot, Slot::Recovery { .. })
}
