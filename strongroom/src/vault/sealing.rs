//! Objects in an unlocked vault: sealing, unsealing, and telling the genuine ones from others.

use super::finding::among_readable;
use super::{Unlocked, Vault};
use crate::encoding::Base64;
use crate::envelope::{Dek, Purpose, VaultKey};
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::object::{
    MAX_PAYLOAD, Meant, Metadata, NewObject, OBJECT_FORMAT, ObjectFile, ObjectId, Payload, Slot,
    TokenName,
};
use crate::secret::Secret;
use crate::tpm::key_file::{KeyFile, PARENT_UNNAMED};
use crate::tpm::session::Besides;
use crate::tpm::storage::StorageKey;

/// What is wrong with an object whose MAC does not fit.
pub(super) const NOT_GENUINE: &str =
    "it was changed by something other than Strongroom, or belongs to another vault";

impl Unlocked {
    pub(super) fn seal_new(&mut self, object: NewObject, payload: &Secret) -> Result<ObjectId> {
        let object = self.vault.with_pin_settled(object)?;
        if payload.len() > MAX_PAYLOAD {
            return Err(Error::input(
                format!("secret {}", object.label),
                format!("it is longer than {MAX_PAYLOAD} bytes"),
            ));
        }
        let metadata = self.new_metadata(object)?;
        let (sealed, slots) = self.envelope(&metadata, payload)?;
        let file = ObjectFile {
            metadata,
            payload: Some(sealed),
            slots,
            mac: Base64::default(),
        };
        self.keep(file, |vault, id| {
            let again = vault.unseal(id)?;
            if again.same_as(payload.expose()) {
                return Ok(());
            }
            let file = vault.vault.read(id, |_| Ok(()))?;
            let reason = "what was read back is not what was sealed";
            Err(vault.vault.damaged(&file, reason.to_owned()))
        })
    }

    /// The metadata of a new object, of the next generation of what it is a version of.
    pub(super) fn new_metadata(&mut self, object: NewObject) -> Result<Metadata> {
        let mut metadata = Metadata {
            format: OBJECT_FORMAT,
            id: ObjectId::random(),
            token: object.token,
            kind: object.kind,
            label: object.label,
            attributes: object.attributes,
            pool_guid: object.pool_guid,
            dataset_guid: object.dataset_guid,
            generation: 1,
        };
        metadata
            .check()
            .map_err(|reason| Error::input(format!("object {}", metadata.label), reason))?;
        for older in self.known()? {
            if older.version_of() == metadata.version_of() {
                metadata.generation = metadata.generation.max(older.generation.saturating_add(1));
            }
        }
        Ok(metadata)
    }

    /// A payload under a new DEK, and the slots of that: this TPM's, what the vault's other TPMs
    /// import, and the recovery way.
    pub(super) fn envelope(
        &mut self,
        metadata: &Metadata,
        payload: &Secret,
    ) -> Result<(Payload, Vec<Slot>)> {
        let dek = Dek::random();
        let mut slots = vec![self.tpm_slot(metadata, &dek)?];
        for machine in self.vault.manifest.machines_but(self.vault.machine) {
            slots.extend(self.vault.duplicate_for(machine, metadata, &dek)?);
        }
        slots.push(self.recovery_slot(&dek));
        Ok((dek.encrypt(&self.key, metadata, payload), slots))
    }

    pub(super) fn recovery_slot(&self, dek: &Dek) -> Slot {
        Slot::Recovery {
            age: self.vault.manifest.recovery_recipient.encrypt(dek.expose()),
        }
    }

    /// Writes a new object, and removes it again unless it passes `verify`.
    pub(super) fn keep(
        &mut self,
        file: ObjectFile,
        verify: impl FnOnce(&mut Self, ObjectId) -> Result<()>,
    ) -> Result<ObjectId> {
        let file = self.with_mac(file);
        let metadata = file.metadata.clone();
        let id = metadata.id;
        self.vault.store.write_object(&file)?;
        match verify(self, id) {
            Ok(()) => {
                self.known()?.push(metadata);
                Ok(id)
            }
            Err(error) => {
                self.vault.store.remove_object(&metadata.token, id)?;
                Err(error)
            }
        }
    }

    /// The genuine objects, after the right to write was had.
    ///
    /// # Errors
    /// [`Error::VaultForged`] where most objects are not of this vault: it was exchanged as a whole,
    /// and whoever did it would be handed the next secret.
    pub(super) fn known(&mut self) -> Result<&mut Vec<Metadata>> {
        if self.known.is_none() {
            self.keep_others_off()?;
            let listed = self.vault.list_all()?.objects;
            let count = listed.len();
            let genuine: Vec<_> = listed
                .into_iter()
                .filter(|object| self.genuine(object).is_ok())
                .collect();
            if genuine.len() < count {
                log::warn!(
                    "{} of the {count} objects here do not belong to this vault, or are damaged",
                    count - genuine.len()
                );
            }
            self.vault.check_belongs(count, genuine.len())?;
            self.known = Some(genuine);
        }
        Ok(self.known.as_mut().expect("it was just set"))
    }

    /// Has the right to write, until this is dropped.
    pub(super) fn keep_others_off(&mut self) -> Result<()> {
        if self.lock.is_none() {
            self.lock = Some(self.vault.lock()?);
            self.look_for_seconds()?;
        }
        Ok(())
    }

    /// Takes over which second machines there are now: what is sealed from here on is for them too.
    fn look_for_seconds(&mut self) -> Result<()> {
        let now = self.vault.reread()?.manifest;
        let is_here = |manifest: &Manifest| (manifest.root_key.clone(), manifest.writers.clone());
        if now != self.vault.manifest && is_here(&now) == is_here(&self.vault.manifest) {
            now.authenticate(&self.key, &self.vault.store.manifest_file())?;
            self.vault.manifest = now;
        }
        Ok(())
    }

    pub(super) fn genuine(&self, object: &Metadata) -> Result<ObjectFile> {
        let read = self.vault.store.read_object(&object.token, object.id)?;
        self.vault.authenticate(&self.key, &read)?;
        Ok(read)
    }

    /// The storage key of an object's token, loaded: the one behind the PIN where the object needs
    /// it.
    ///
    /// # Errors
    /// [`Error::PinRequired`] where nobody has given the PIN.
    pub(super) fn storage_key(
        &mut self,
        token: &TokenName,
        behind_pin: bool,
    ) -> Result<StorageKey> {
        if let Some((loaded, behind, key)) = &self.loaded {
            if (loaded, *behind) == (token, behind_pin) {
                return Ok(key.clone());
            }
        }
        self.unload_storage_key()?;
        let file = self.vault.store.manifest_file();
        let machine = self.vault.machine;
        let key_file = (self.vault.manifest).token_key(machine, token, behind_pin, &file)?;
        let besides = Besides {
            fence: self.vault.manifest.token(token)?.fence,
            guard: behind_pin.then(|| self.guard(token)).transpose()?,
        };
        let opened = if *token == TokenName::datasets() && !behind_pin {
            StorageKey::find_or_load(&mut self.tpm, self.root, &key_file)
        } else {
            StorageKey::load(&mut self.tpm, self.root, &key_file)
        };
        let key = opened
            .map_err(|error| self.vault.blame_manifest(error))?
            .behind(besides);
        self.loaded = Some((token.clone(), behind_pin, key.clone()));
        Ok(key)
    }

    pub(super) fn unload_storage_key(&mut self) -> Result<()> {
        match self.loaded.take() {
            Some((_, _, key)) => key.unload(&mut self.tpm),
            None => Ok(()),
        }
    }

    pub(super) fn tpm_slot(&mut self, object: &Metadata, dek: &Dek) -> Result<Slot> {
        let key = self.storage_key(&object.token, object.needs_pin())?;
        let sealed = key.seal(&mut self.tpm, &self.gate, dek.expose())?;
        Ok(Slot::Tpm {
            key_file: sealed.to_der(PARENT_UNNAMED)?,
            peer: self.vault.machine,
        })
    }

    /// The DEK, once more on a connection of its own where others' use of the TPM has cost this vault
    /// what it had there, as happens behind a resource manager.
    pub(super) fn dek_undisturbed(&mut self, object: &ObjectFile) -> Result<Dek> {
        match self.dek(object) {
            Err(error) if self.tpm.turn().is_disturbed(&error) => {
                log::info!("{error}; the vault is opened again");
                self.reopen()?;
                self.dek(object)
            }
            other => other,
        }
    }

    /// The DEK by the first TPM slot that this TPM opens. The object is genuine.
    pub(super) fn dek(&mut self, object: &ObjectFile) -> Result<Dek> {
        let machine = self.vault.machine;
        if let Some(peer) = machine {
            self.vault.check_is_shared(object, peer)?;
        }
        let mut reason = "it has no TPM slot".to_owned();
        for slot in object.slots.iter().filter(|slot| slot.is_dek_of(machine)) {
            let sealed = match slot {
                Slot::Tpm { key_file, .. } => match KeyFile::from_der(key_file) {
                    Ok(sealed) => Ok(sealed),
                    Err(bad) => {
                        reason = bad;
                        continue;
                    }
                },
                Slot::TpmDuplicate { duplicate, .. } => Err(duplicate),
                Slot::TpmKey { .. } | Slot::Recovery { .. } => continue,
            };
            let key = self.storage_key(&object.metadata.token, object.metadata.needs_pin())?;
            let unsealed = match &sealed {
                Ok(sealed) => key.unseal(&mut self.tpm, &self.gate, sealed),
                Err(duplicate) => key.unseal_duplicate(&mut self.tpm, &self.gate, duplicate),
            };
            match unsealed {
                Ok(dek) => match Dek::new(dek) {
                    Some(dek) => return Ok(dek),
                    None => "its DEK is not 32 bytes".clone_into(&mut reason),
                },
                // Of another TPM, or spoilt; another slot may do.
                Err(Error::NotLoadable { reason: bad, .. }) => reason = bad,
                Err(error) => return Err(error),
            }
        }
        Err(self
            .vault
            .damaged(object, format!("no TPM slot opens: {reason}")))
    }

    pub(super) fn with_mac(&self, object: ObjectFile) -> ObjectFile {
        let mut object = object.in_least_format();
        object.mac = self.key.mac(Purpose::Object, &object);
        object
    }
}

impl Vault {
    /// The file of an object, in the folder of whichever token, that passes `check`. A spoilt copy
    /// in another folder does not stand before it.
    pub(super) fn read(
        &self,
        id: ObjectId,
        check: impl Fn(&ObjectFile) -> Result<()>,
    ) -> Result<ObjectFile> {
        let (readable, unreadable): (Vec<_>, Vec<_>) = self
            .tokens()
            .into_iter()
            .partition(|token| self.may_read(token));
        let mut outcome = Error::NoSuchObject(among_readable(&id, &unreadable));
        for token in &readable {
            let read = self.store.read_object(token, id).and_then(|object| {
                check(&object)?;
                Ok(object)
            });
            match read {
                Ok(object) => return Ok(object),
                Err(Error::NoSuchObject(_)) => {}
                Err(error) => outcome = error,
            }
        }
        Err(outcome)
    }

    /// The genuine file of the object that is meant.
    pub(super) fn read_genuine(&self, key: &VaultKey, meant: Meant<'_>) -> Result<ObjectFile> {
        let listed = match meant {
            Meant::Id(id) => return self.read(id, |object| self.authenticate(key, object)),
            Meant::Listed(listed) => listed,
        };
        let object = self.store.read_object(&listed.token, listed.id)?;
        self.authenticate(key, &object)?;
        // Another TPM's slots may have come or gone since; nothing that is known of it has.
        if object.metadata.of_one_tpm() == listed.of_one_tpm() {
            Ok(object)
        } else {
            Err(self.damaged(
                &object,
                "it is not what it was listed as; list again".to_owned(),
            ))
        }
    }

    /// Refuses a vault of which there are objects, and fewer than half of them are its own: it was
    /// exchanged as a whole. Who plants more than there were is not noticed here; the owner's word
    /// ([`Vault::expecting`]) is what decides.
    pub(super) fn check_belongs(&self, objects: usize, genuine: usize) -> Result<()> {
        let others = objects - genuine;
        if others > genuine {
            return Err(Error::VaultForged {
                file: self.store.manifest_file(),
                reason: format!("{others} of the {objects} objects here do not belong to it"),
            });
        }
        Ok(())
    }

    /// Refuses an object that was not written by a holder of K_vault, slots included.
    pub(super) fn authenticate(&self, key: &VaultKey, object: &ObjectFile) -> Result<()> {
        if key.verifies(Purpose::Object, object, &object.mac) {
            Ok(())
        } else {
            Err(self.damaged(object, NOT_GENUINE.to_owned()))
        }
    }

    pub(super) fn open_payload(
        &self,
        key: &VaultKey,
        object: &ObjectFile,
        dek: &Dek,
    ) -> Result<Secret> {
        match &object.payload {
            None => Ok(Secret::zeroed(0)),
            Some(payload) => {
                let metadata = payload.encrypted_as.as_deref().unwrap_or(&object.metadata);
                dek.decrypt(key, metadata, payload)
                    .map_err(|_| self.damaged(object, "its payload does not open".to_owned()))
            }
        }
    }

    pub(super) fn damaged(&self, object: &ObjectFile, reason: String) -> Error {
        Error::ObjectDamaged {
            file: self
                .store
                .object_file(&object.metadata.token, object.metadata.id),
            reason,
        }
    }
}

/// What an object is for a TPM.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing: all of it can be read.
    Public,
    /// A key that it loads.
    TpmKey,
    /// A DEK that it unseals.
    Secret,
}

impl Content {
    pub(super) fn of(object: &ObjectFile) -> Self {
        let is_key = |slot: &Slot| matches!(slot, Slot::TpmKey { .. });
        if object.slots.iter().any(is_key) {
            Self::TpmKey
        } else if object.payload.is_none() && object.slots.is_empty() {
            Self::Public
        } else {
            Self::Secret
        }
    }

    /// Refuses to give out what is not there to be given out.
    pub(super) fn check_secret(self, object: &Metadata) -> Result<()> {
        let reason = match self {
            Self::Secret => return Ok(()),
            Self::Public => "it has no secret; all of it can be read",
            Self::TpmKey => "its private key is in the TPM, which does not give it out",
        };
        Err(Error::input(format!("object {}", object.id), reason))
    }
}
