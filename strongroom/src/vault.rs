//! The vault: the whole public API at a glance.
//!
//! A [`Vault`] is a folder; opening it touches no TPM, and what it lists is not secret. To seal or
//! unseal it is unlocked, which takes an allowed boot and authenticates the manifest first; an
//! [`Unlocked`] vault is the only thing that seals or unseals with the TPM. [`ByRecovery`] is the
//! other way in, with the recovery kit and in any boot.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::backup::Backup;
use crate::envelope::{Dek, Purpose, TAG_LEN, VaultKey};
use crate::error::{Error, Result};
use crate::manifest::{self, Manifest};
use crate::object::{
    MAX_PAYLOAD, Metadata, NewObject, OBJECT_FORMAT, ObjectFile, ObjectId, Slot, TokenName,
};
use crate::policy::{Branches, PcrSelection, PcrValues, PolicyFile, Refusal};
use crate::provision;
use crate::recovery::{RecoveryIdentity, RecoveryKit};
use crate::secret::Secret;
use crate::store::{self, Damaged, Store, WriteLock};
use crate::tpm::index::OpenIndex;
use crate::tpm::key_file::{KeyFile, PARENT_UNNAMED};
use crate::tpm::root_key::RootKey;
use crate::tpm::session::{Gate, Session};
use crate::tpm::storage::StorageKey;
use crate::tpm::writer::RecoveryKey;
use crate::tpm::{Tcti, Tpm};

/// A vault's folder and manifest.
#[derive(Clone)]
pub struct Vault {
    store: Store,
    manifest: Manifest,
    /// SHA-256(K_vault), where the owner has said which vault it must be.
    expected: Option<[u8; 32]>,
}

/// A vault that an allowed boot has opened. Its TPM session ends when it is dropped.
pub struct Unlocked {
    vault: Vault,
    key: VaultKey,
    tpm: Tpm,
    root: RootKey,
    gate: Gate,
    /// The token whose storage key is loaded: one at a time, for a TPM has three slots.
    loaded: Option<(TokenName, StorageKey)>,
    lock: Option<WriteLock>,
    /// The genuine objects, once something is written: nobody else writes meanwhile.
    known: Option<Vec<Metadata>>,
}

/// A vault that the recovery kit has opened, in whatever boot, without a TPM.
pub struct ByRecovery {
    vault: Vault,
    key: VaultKey,
    identity: RecoveryIdentity,
}

/// What to bind a new vault to.
pub struct InitOptions {
    /// The PCRs; `None` for those of 7, 9 and 11 that are extended on this machine.
    pub pcrs: Option<PcrSelection>,
    /// The tokens to make.
    pub tokens: Vec<TokenName>,
}

/// What is in a vault.
#[derive(Debug)]
pub struct Listing {
    /// The objects, by token and label.
    pub objects: Vec<Metadata>,
    /// Files that are no usable objects.
    pub damaged: Vec<Damaged>,
}

/// How to change the list of allowed boots.
#[derive(Clone, Debug)]
pub enum Change {
    /// The present boot, and no other; over these PCRs, or those that the list is over now.
    PresentBoot(Option<PcrSelection>),
    /// One more: the present boot with these PCRs at other values.
    Add(Vec<(u8, [u8; 32])>),
}

/// What a change of the list came to.
#[derive(Debug)]
pub struct Rebound {
    /// The list that is in force now.
    pub branches: Branches,
    /// Whether the TPM's index was written; it is not where it held this list already.
    pub written: bool,
}

/// How the present boot stands to the policy.
#[derive(Debug)]
pub struct BootState {
    /// The allowed boots.
    pub branches: Branches,
    /// The PCRs as they are now.
    pub present: PcrValues,
    /// Why the policy refuses the present boot; `None` where it allows it.
    pub refusal: Option<Refusal>,
}

/// What a recovery came to.
#[derive(Debug)]
pub struct Recovered {
    /// How many objects open on this TPM now.
    pub objects: usize,
    /// How many of them had to be sealed to it.
    pub sealed: usize,
    /// Whether the vault was brought onto this TPM; it was there already otherwise.
    pub moved: bool,
    /// Objects that do not open: their files, and why.
    pub damaged: Vec<Damaged>,
}

/// What a backup came to.
#[derive(Debug)]
pub struct BackupReport {
    /// The objects that the file holds.
    pub objects: BTreeSet<ObjectId>,
    /// How many of them were taken over from the backup that was there before, because the vault
    /// has no usable file of theirs.
    pub kept: usize,
    /// Files of the vault that are no usable objects.
    pub damaged: Vec<Damaged>,
}

impl Vault {
    /// Makes a vault on this machine's TPM, bound to the present boot, and gives out the recovery
    /// kit, which is kept nowhere. `keep` is called with the kit before anything is made: where it
    /// fails, there is no vault.
    ///
    /// # Errors
    /// [`Error::VaultExists`]; [`Error::Input`] for PCRs that mean nothing here; whatever the TPM
    /// answers. The index that was begun on the TPM is removed again; a root key stays.
    pub fn init(
        dir: &Path,
        tcti: &Tcti,
        options: &InitOptions,
        keep: impl FnOnce(&RecoveryKit) -> Result<()>,
    ) -> Result<Self> {
        let store = Store::new(dir);
        store.check_unused()?;
        let mut tpm = Tpm::connect(tcti)?;
        tpm.check_commands()?;
        let present = provision::present_boot(&mut tpm, options.pcrs.as_ref())?;
        let (id, key) = (Uuid::new_v4().to_string(), VaultKey::random());
        let identity = RecoveryIdentity::generate();
        let recipient = identity.recipient();
        let (k_rec, open_k_rec) = RecoveryKey::generate(&recipient);
        // While nothing is loaded into the TPM: people take their time, and may give up.
        keep(&RecoveryKit {
            identity,
            vault_id: id.clone(),
            fingerprint: key.fingerprint(),
        })?;
        store.create_folders(options.tokens.iter().cloned())?;
        let _lock = store.lock(options.tokens.iter().cloned())?;
        let branches = Branches::only(present);
        let request = provision::Request {
            vault_id: &id,
            k_rec: &k_rec,
            open_k_rec: &open_k_rec,
            branches: &branches,
        };
        drop(tpm);
        let (mut tpm, machine) = provision::Machine::prepare(tcti, &request)?;
        let on_tpm = machine
            .complete(&mut tpm, &key, options.tokens.iter().cloned())
            .map(|(on_tpm, _)| on_tpm)?;
        let index = on_tpm.index;
        let recovery_slot = recipient.encrypt(key.expose());
        let manifest = Manifest::new(id, recipient, recovery_slot, on_tpm, &key);
        let policy = PolicyFile::settled(branches);
        let written = store::write(&store.policy_file(), &store::to_json(&policy))
            // Last: before it there is no vault.
            .and_then(|()| store::write(&store.manifest_file(), &store::to_json(&manifest)));
        match written {
            Ok(()) => Ok(Self {
                store,
                manifest,
                expected: None,
            }),
            Err(error) => {
                let left = manifest.writers.index(index, &manifest.id)?;
                provision::remove_index(&mut tpm, left);
                Err(error)
            }
        }
    }

    /// Opens the vault in a folder. Touches no TPM; nothing of it is authenticated yet.
    ///
    /// # Errors
    /// [`Error::VaultMissing`], [`Error::VaultDamaged`], [`Error::VaultNewer`].
    pub fn open(dir: &Path) -> Result<Self> {
        let store = Store::new(dir);
        let file = store.manifest_file();
        let bytes = match store::read(&file) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::VaultMissing(dir.to_owned()));
            }
            other => other?,
        };
        let manifest = Manifest::parse(&bytes, &file)?;
        Ok(Self {
            store,
            manifest,
            expected: None,
        })
    }

    /// The same, but it must be the vault whose key has this fingerprint, SHA-256(K_vault), which
    /// `init` and the recovery kit name. A vault that was exchanged as a whole, manifest, TPM
    /// index and all, is told from the owner's by this alone.
    #[must_use]
    pub fn expecting(mut self, fingerprint: [u8; 32]) -> Self {
        self.expected = Some(fingerprint);
        self
    }

    /// Waits for the right to write, and keeps other writers off until it is dropped.
    ///
    /// # Errors
    /// [`Error::VaultBusy`] after ten seconds.
    pub fn lock(&self) -> Result<WriteLock> {
        self.store.lock(self.tokens())
    }

    /// The vault's identity: a UUID as text.
    pub fn id(&self) -> &str {
        &self.manifest.id
    }

    /// The manifest's file.
    pub fn manifest_file(&self) -> PathBuf {
        self.store.manifest_file()
    }

    /// The vault's tokens.
    pub fn tokens(&self) -> Vec<TokenName> {
        self.manifest.tokens.keys().cloned().collect()
    }

    /// Everything in the vault. Labels are authenticated when an object is opened, not here.
    ///
    /// # Errors
    /// [`Error::Io`] where a folder cannot be read; a bad file is listed as damaged.
    pub fn list(&self) -> Result<Listing> {
        let (objects, damaged) = self.store.list(self.tokens())?;
        Ok(Listing { objects, damaged })
    }

    /// The one object that a selector means. Of several versions of one thing it is the newest.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::AmbiguousObject`], and [`Error::ObjectDamaged`] if the
    /// selector names a damaged object by its id.
    pub fn find(&self, selector: &crate::uri::Selector) -> Result<Metadata> {
        if let Some(id) = selector.id {
            return Some(self.read(id)?.metadata)
                .filter(|object| selector.matches(object))
                .ok_or_else(|| Error::NoSuchObject(selector.to_string()));
        }
        let Listing { objects, damaged } = self.list()?;
        let meant: Vec<Metadata> = objects
            .into_iter()
            .filter(|object| selector.matches(object))
            .collect();
        let newest = |object: &&Metadata| !meant.iter().any(|other| other.supersedes(object));
        let mut found: Vec<Metadata> = meant.iter().filter(newest).cloned().collect();
        // A damaged file does not tell whether it is the one that is meant, or a newer version.
        for bad in &damaged {
            log::warn!("{} is damaged: {}", bad.file.display(), bad.reason);
        }
        match found.len() {
            0 if damaged.is_empty() => Err(Error::NoSuchObject(selector.to_string())),
            0 => Err(Error::NoSuchObject(format!(
                "{selector} among those that can be read ({} cannot)",
                damaged.len()
            ))),
            1 => Ok(found.remove(0)),
            _ => {
                let ids: Vec<_> = found.iter().map(|object| object.id).collect();
                Err(Error::ambiguous(selector, &ids))
            }
        }
    }

    /// An object's payload length in bytes, without opening it; `None` where it has none.
    pub fn payload_len(&self, id: ObjectId) -> Result<Option<usize>> {
        let payload = self.read(id)?.payload;
        Ok(payload.map(|payload| payload.ciphertext.0.len().saturating_sub(TAG_LEN)))
    }

    /// Unlocks the vault on its TPM in an allowed boot, and authenticates its manifest.
    ///
    /// # Errors
    /// [`Error::PolicyRefused`] with the PCRs that differ; [`Error::ForeignTpm`] and
    /// [`Error::RootKey`] on another TPM; [`Error::VaultForged`].
    pub fn unlock(&self, tcti: &Tcti) -> Result<Unlocked> {
        Tpm::with_room(tcti, || self.try_unlock(tcti))
    }

    fn try_unlock(&self, tcti: &Tcti) -> Result<Unlocked> {
        let file = self.store.manifest_file();
        let Connection {
            mut tpm,
            root,
            index,
            in_force,
        } = self.connect(tcti)?;
        let branches = self.branches(&in_force)?;
        let session = Session::start(&mut tpm, root)?;
        let gate = Gate {
            session,
            index,
            branches,
        };
        let key = self
            .unseal_vault_key(&mut tpm, root, &gate)
            .map_err(|error| self.blame_manifest(error))?;
        self.manifest.authenticate(&key, &file)?;
        if self
            .expected
            .is_some_and(|expected| expected != key.fingerprint())
        {
            return Err(Error::VaultForged {
                file,
                reason: "its vault key is not the one that you named: it is another vault"
                    .to_owned(),
            });
        }
        Ok(self.unlocked(key, tpm, root, gate))
    }

    fn unlocked(&self, key: VaultKey, tpm: Tpm, root: RootKey, gate: Gate) -> Unlocked {
        Unlocked {
            vault: self.clone(),
            key,
            tpm,
            root,
            gate,
            loaded: None,
            lock: None,
            known: None,
        }
    }

    /// Opens the vault with the recovery kit, in any boot and without a TPM.
    ///
    /// # Errors
    /// [`Error::RecoveryIdentity`] for another vault's kit; [`Error::VaultForged`] where the
    /// manifest is not the kit's.
    pub fn open_by_recovery(&self, kit: RecoveryKit) -> Result<ByRecovery> {
        let file = self.store.manifest_file();
        let key = self.manifest.vault_key_by_recovery(&kit, &file)?;
        Ok(ByRecovery {
            vault: self.clone(),
            key,
            identity: kit.identity,
        })
    }

    /// How the present boot stands to the policy. Three TPM commands and a PCR_Read.
    pub fn boot_state(&self, tcti: &Tcti) -> Result<BootState> {
        let mut connection = self.connect(tcti)?;
        let branches = self.branches(&connection.in_force)?;
        let present = connection.tpm.pcr_values(&branches.all_pcrs())?;
        let allowed = branches
            .iter()
            .any(|branch| branch.pcrs.differing_from(&present).is_empty());
        let refusal = (!allowed).then(|| Refusal::explain(&present, &branches));
        Ok(BootState {
            branches,
            present,
            refusal,
        })
    }

    /// Changes the list of allowed boots from an allowed boot, by itself. One NV write, whatever
    /// the number of objects.
    ///
    /// # Errors
    /// [`Error::PolicyRefused`] in a boot that is not allowed itself.
    pub fn rebind(&self, tcti: &Tcti, change: &Change) -> Result<Rebound> {
        let _lock = self.lock()?;
        Tpm::with_room(tcti, || self.try_rebind(tcti, change))
    }

    fn try_rebind(&self, tcti: &Tcti, change: &Change) -> Result<Rebound> {
        let mut connection = self.connect(tcti)?;
        let old = self.branches(&connection.in_force)?;
        let new = self.new_branches(&mut connection.tpm, Some(&old), change)?;
        let rebound = if new.digest().as_bytes() == &connection.in_force {
            self.settle(new, false)?
        } else {
            self.write_ahead(Some(old.clone()), &new)?;
            let session = Session::start(&mut connection.tpm, connection.root)?;
            let gate = Gate {
                session,
                index: connection.index,
                branches: old,
            };
            self.manifest.writers.rewrite(
                &mut connection.tpm,
                connection.root,
                &gate,
                &self.manifest.id,
                new.digest(),
            )?;
            self.confirm(&mut connection, new)?
        };
        drop(connection);
        if let Change::PresentBoot(Some(pcrs)) = change {
            let key = self.unlock(tcti)?.key;
            self.remember_pcrs(pcrs, &key)?;
        }
        Ok(rebound)
    }

    /// Changes the list of allowed boots with the recovery kit, in any boot.
    ///
    /// # Errors
    /// [`Error::RecoveryIdentity`]; [`Error::ForeignTpm`] on another TPM, where `recover` helps.
    pub fn rebind_by_recovery(
        &self,
        tcti: &Tcti,
        kit: &RecoveryKit,
        change: &Change,
    ) -> Result<Rebound> {
        let _lock = self.lock()?;
        Tpm::with_room(tcti, || self.rebind_locked(tcti, kit, change))
    }

    /// Puts a vault's folder in order from a backup file: a folder that is gone is made again; in
    /// one that is there, what is missing or damaged is put back, and everything else stays. What
    /// the backup holds is authenticated with the kit before anything is written. Answers how many
    /// objects were put back.
    ///
    /// # Errors
    /// [`Error::VaultExists`] where the folder has another vault; [`Error::VaultForged`] and
    /// [`Error::VaultDamaged`] for a backup that is not whole and genuine.
    pub fn restore(dir: &Path, backup: &Path, kit: &RecoveryKit) -> Result<(Self, usize)> {
        let store = Store::new(dir);
        let backup_file = backup;
        let backup = Backup::read(backup, kit)?;
        let key = backup.manifest.vault_key_by_recovery(kit, backup_file)?;
        let tokens = || backup.manifest.tokens.keys().cloned();
        let file = store.manifest_file();
        let genuine = match Self::open(dir) {
            Ok(vault) if vault.manifest.id != kit.vault_id => {
                return Err(Error::VaultExists(dir.to_owned(), "another vault"));
            }
            Ok(vault) => match vault.manifest.authenticate(&key, &file) {
                Ok(()) => Some(vault.manifest),
                Err(_) => None,
            },
            Err(Error::VaultMissing(_) | Error::VaultDamaged { .. }) => None,
            Err(error) => return Err(error),
        };
        store.create_folders(tokens())?;
        let _lock = store.lock(tokens())?;
        let vault = Self {
            store,
            manifest: genuine.clone().unwrap_or_else(|| backup.manifest.clone()),
            expected: None,
        };
        let mut restored = 0;
        for object in &backup.objects {
            let (token, id) = (&object.metadata.token, object.metadata.id);
            let usable = vault
                .store
                .read_object(token, id)
                .and_then(|there| vault.authenticate(&key, &there));
            if usable.is_err() {
                vault.store.write_object(object)?;
                restored += 1;
            }
        }
        if genuine.is_none() {
            // Last: until then the folder is no vault, and this can be done again.
            store::write(&file, &store::to_json(&vault.manifest))?;
        }
        Ok((vault, restored))
    }

    /// Makes a vault open on this machine's TPM with the recovery kit: brings it onto this TPM
    /// where it is of another one (the mainboard died, the TPM was cleared), allows the present
    /// boot where the policy refuses it, and seals again what does not open. `progress` is called
    /// after each object with how many are done and how many there are.
    ///
    /// # Errors
    /// [`Error::RecoveryIdentity`], [`Error::VaultForged`]; whatever the TPM answers. The vault's
    /// manifest is replaced at the very end, so that a recovery that was cut short begins anew.
    pub fn recover(
        &self,
        tcti: &Tcti,
        kit: &RecoveryKit,
        pcrs: Option<&PcrSelection>,
        progress: impl FnMut(usize, usize),
    ) -> Result<Recovered> {
        let file = self.store.manifest_file();
        let key = self.manifest.vault_key_by_recovery(kit, &file)?;
        let lock = self.lock()?;
        let unlocked = self.unlock(tcti).or_else(|error| match error {
            Error::PolicyRefused(_) | Error::PolicyFile { .. } => {
                let change = Change::PresentBoot(pcrs.cloned());
                Tpm::with_room(tcti, || self.rebind_locked(tcti, kit, &change))?;
                self.unlock(tcti)
            }
            other => Err(other),
        });
        match unlocked {
            Ok(unlocked) => unlocked.holding(lock).repair(kit, false, progress),
            // The manifest is genuine, as the kit has shown, so what it names is of another TPM.
            Err(
                Error::ForeignTpm(_)
                | Error::RootKey { .. }
                | Error::NotLoadable { .. }
                | Error::VaultForged { .. },
            ) => self.move_here(tcti, kit, key, pcrs, lock, progress),
            Err(error) => Err(error),
        }
    }

    /// Brings the vault onto another TPM than the one that its manifest names.
    fn move_here(
        &self,
        tcti: &Tcti,
        kit: &RecoveryKit,
        key: VaultKey,
        pcrs: Option<&PcrSelection>,
        lock: WriteLock,
        progress: impl FnMut(usize, usize),
    ) -> Result<Recovered> {
        let open_k_rec = self.manifest.writers.k_rec.open(&kit.identity)?;
        let mut tpm = Tpm::connect(tcti)?;
        tpm.check_commands()?;
        let present = match pcrs {
            Some(_) => provision::present_boot(&mut tpm, pcrs)?,
            None => tpm.pcr_values(&self.manifest.pcrs)?.check_extended()?,
        };
        let branches = Branches::only(present);
        let request = provision::Request {
            vault_id: &self.manifest.id,
            k_rec: &self.manifest.writers.k_rec,
            open_k_rec: &open_k_rec,
            branches: &branches,
        };
        drop(tpm);
        let (mut tpm, machine) = provision::Machine::prepare(tcti, &request)?;
        let root = machine.root;
        let (on_tpm, gate) = machine.complete(&mut tpm, &key, self.tokens())?;
        let index = gate.index.index;
        let vault = Self {
            manifest: Manifest::new(
                self.manifest.id.clone(),
                self.manifest.recovery_recipient.clone(),
                self.manifest.vault_key.recovery.clone(),
                on_tpm,
                &key,
            ),
            ..self.clone()
        };
        let manifest = store::to_json(&vault.manifest);
        let unlocked = vault.unlocked(key, tpm, root, gate).holding(lock);
        let done = unlocked.repair(kit, true, progress).and_then(|recovered| {
            let policy = PolicyFile::settled(branches);
            store::write(&self.store.policy_file(), &store::to_json(&policy))?;
            // Last: until then the vault is the old one, and recovery can begin anew.
            store::write(&self.store.manifest_file(), &manifest)?;
            Ok(recovered)
        });
        if done.is_err() {
            if let Ok(mut tpm) = Tpm::connect(tcti) {
                provision::remove_index(&mut tpm, index);
            }
        }
        done
    }

    fn rebind_locked(&self, tcti: &Tcti, kit: &RecoveryKit, change: &Change) -> Result<Rebound> {
        let file = self.store.manifest_file();
        let vault_key = self.manifest.vault_key_by_recovery(kit, &file)?;
        let mut connection = self.connect(tcti)?;
        // The list may be lost or spoilt: the kit is there to mend that too.
        let old = match self.branches(&connection.in_force) {
            Ok(old) => Some(old),
            Err(Error::PolicyFile { .. }) => None,
            Err(error) => return Err(error),
        };
        let new = self.new_branches(&mut connection.tpm, old.as_ref(), change)?;
        let rebound = if new.digest().as_bytes() == &connection.in_force {
            self.settle(new, false)?
        } else {
            self.write_ahead(old, &new)?;
            let key = self.manifest.writers.k_rec.open(&kit.identity)?;
            self.manifest.writers.rewrite_by_recovery(
                &mut connection.tpm,
                connection.root,
                connection.index,
                &key,
                &self.manifest.id,
                new.digest(),
            )?;
            self.confirm(&mut connection, new)?
        };
        if let Change::PresentBoot(Some(pcrs)) = change {
            self.remember_pcrs(pcrs, &vault_key)?;
        }
        Ok(rebound)
    }

    /// The list that a change makes of the one in force, `None` where that is lost.
    fn new_branches(
        &self,
        tpm: &mut Tpm,
        old: Option<&Branches>,
        change: &Change,
    ) -> Result<Branches> {
        let pcrs = old.map_or_else(|| self.manifest.pcrs.clone(), Branches::all_pcrs);
        match (change, old) {
            (Change::PresentBoot(Some(pcrs)), _) => {
                provision::present_boot(tpm, Some(pcrs)).map(Branches::only)
            }
            (Change::PresentBoot(None), _) => {
                Ok(Branches::only(tpm.pcr_values(&pcrs)?.check_extended()?))
            }
            (Change::Add(values), Some(old)) => {
                let mut added = tpm.pcr_values(&pcrs)?;
                for (pcr, value) in values {
                    added = added.with(*pcr, *value)?;
                }
                old.clone().with(added.check_extended()?)
            }
            (Change::Add(_), None) => Err(Error::input(
                "--add",
                "the list of allowed boots is lost, so that nothing can be added to it; \
                 run `strongroom rebind --recovery FILE` without --add",
            )),
        }
    }

    fn remember_pcrs(&self, pcrs: &PcrSelection, key: &VaultKey) -> Result<()> {
        if *pcrs == self.manifest.pcrs {
            return Ok(());
        }
        let manifest = self.manifest.clone().with_pcrs(pcrs.clone(), key);
        store::write(&self.store.manifest_file(), &store::to_json(&manifest))
    }

    fn read(&self, id: ObjectId) -> Result<ObjectFile> {
        for token in self.manifest.tokens.keys() {
            match self.store.read_object(token, id) {
                Err(Error::NoSuchObject(_)) => {}
                other => return other,
            }
        }
        Err(Error::NoSuchObject(id.to_string()))
    }

    fn connect(&self, tcti: &Tcti) -> Result<Connection> {
        let expected = self
            .manifest
            .index()
            .map_err(|error| self.blame_manifest(error))?;
        let mut tpm = Tpm::connect(tcti)?;
        let root = self.manifest.root_key.open(&mut tpm)?;
        let index = expected.open(&mut tpm)?;
        let in_force = index.read(&mut tpm)?;
        Ok(Connection {
            tpm,
            root,
            index,
            in_force,
        })
    }

    /// The list of allowed boots that the TPM's index vouches for.
    fn branches(&self, in_force: &[u8; 32]) -> Result<Branches> {
        let file = self.store.policy_file();
        PolicyFile::read(&file)?.that_holds(in_force, &file)
    }

    fn unseal_vault_key(&self, tpm: &mut Tpm, root: RootKey, gate: &Gate) -> Result<VaultKey> {
        let file = self.store.manifest_file();
        let storage_key = manifest::key_file(&self.manifest.storage_key, &file)?;
        let sealed = manifest::key_file(&self.manifest.vault_key.tpm, &file)?;
        let storage_key = StorageKey::load(tpm, root, &storage_key)?;
        let unsealed = storage_key.unseal(tpm, gate, &sealed);
        storage_key.unload(tpm)?;
        VaultKey::new(unsealed?).ok_or_else(|| Error::VaultDamaged {
            file,
            reason: "its vault key is not 32 bytes".to_owned(),
        })
    }

    /// On the vault's own TPM, with its own root key and index, a TPM object that does not load
    /// was put into the manifest by someone else.
    fn blame_manifest(&self, error: Error) -> Error {
        match error {
            Error::NotLoadable { reason, .. } | Error::Input { reason, .. } => Error::VaultForged {
                file: self.store.manifest_file(),
                reason,
            },
            other => other,
        }
    }

    fn write_ahead(&self, old: Option<Branches>, new: &Branches) -> Result<()> {
        let policy = match old {
            Some(old) => PolicyFile::ahead(old, new.clone()),
            None => PolicyFile::settled(new.clone()),
        };
        store::write(&self.store.policy_file(), &store::to_json(&policy))
    }

    fn confirm(&self, connection: &mut Connection, new: Branches) -> Result<Rebound> {
        let now = connection.index.read(&mut connection.tpm)?;
        if &now != new.digest().as_bytes() {
            return Err(Error::Tpm {
                operation: "NV_Write(policy index)",
                reason: "the index does not hold what was written; the old list is still in force"
                    .to_owned(),
            });
        }
        self.settle(new, true)
    }

    fn settle(&self, branches: Branches, written: bool) -> Result<Rebound> {
        let policy = PolicyFile::settled(branches.clone());
        store::write(&self.store.policy_file(), &store::to_json(&policy))?;
        Ok(Rebound { branches, written })
    }
}

impl Unlocked {
    /// The vault that this is.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Keeps other writers off until this is dropped, with a lock that the caller has already.
    #[must_use]
    pub fn holding(mut self, lock: WriteLock) -> Self {
        self.lock = Some(lock);
        self
    }

    /// SHA-256(K_vault), the vault's fingerprint, to be compared with the recovery kit's.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.key.fingerprint()
    }

    /// Seals a payload of up to 1 MiB as a new object, writes it, reads it back from disk,
    /// unseals it and compares. Only then is it an object.
    ///
    /// # Errors
    /// [`Error::NoSuchToken`]; [`Error::Input`] for a payload that is too long;
    /// [`Error::ObjectDamaged`] if what was read back is not what was sealed (it is removed).
    pub fn seal(&mut self, object: NewObject, payload: &Secret) -> Result<ObjectId> {
        if payload.len() > MAX_PAYLOAD {
            return Err(Error::input(
                format!("secret {}", object.label),
                format!("it is longer than {MAX_PAYLOAD} bytes"),
            ));
        }
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
        for older in self.known()? {
            if older.version_of() == metadata.version_of() {
                metadata.generation = metadata.generation.max(older.generation.saturating_add(1));
            }
        }
        let dek = Dek::random();
        let (id, token) = (metadata.id, metadata.token.clone());
        let sealed = metadata.clone();
        let file = ObjectFile {
            payload: Some(dek.encrypt(&self.key, &metadata, payload)),
            slots: vec![
                self.tpm_slot(&token, &dek)?,
                Slot::Recovery {
                    age: self.vault.manifest.recovery_recipient.encrypt(dek.expose()),
                },
            ],
            metadata,
            mac: crate::encoding::Base64::default(),
        };
        self.vault.store.write_object(&self.with_mac(file))?;
        match self.unseal(id) {
            Ok(again) if again.same_as(payload.expose()) => {
                self.known()?.push(sealed);
                Ok(id)
            }
            outcome => {
                let file = self.vault.store.object_file(&token, id);
                self.vault.store.remove_object(&token, id)?;
                Err(outcome.err().unwrap_or(Error::ObjectDamaged {
                    file,
                    reason: "what was read back is not what was sealed".to_owned(),
                }))
            }
        }
    }

    /// Unseals an object. In a batch of one token: PolicyPCR [, PolicyOR], PolicyAuthorizeNV,
    /// Load, Unseal, FlushContext.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::ObjectDamaged`], [`Error::PolicyRefused`].
    pub fn unseal(&mut self, id: ObjectId) -> Result<Secret> {
        let object = self.vault.read(id)?;
        let dek = self.dek(&object)?;
        self.vault.open_payload(&self.key, &object, &dek)
    }

    /// Removes an object for good. The caller knows that nobody needs it.
    pub fn remove(&mut self, id: ObjectId) -> Result<()> {
        self.known()?.retain(|object| object.id != id);
        let object = self.vault.read(id)?;
        self.vault.store.remove_object(&object.metadata.token, id)
    }

    /// Refuses a backup file that is there already and is no backup of this vault.
    pub fn check_backup_file(&self, file: &Path) -> Result<()> {
        Backup::existing(file, self.vault.id(), &self.key).map(|_| ())
    }

    /// Writes a whole copy of the vault into one file: ciphertext only, opened by the recovery
    /// kit. Reads it back and compares. Where the file is a backup of this vault already, objects
    /// of it that the vault has lost are kept.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that is anything else; [`Error::Io`]; [`Error::VaultDamaged`]
    /// if what was read back is not what was written.
    pub fn backup(&self, file: &Path) -> Result<BackupReport> {
        let before = Backup::existing(file, self.vault.id(), &self.key)?;
        let mut listing = self.vault.list()?;
        let mut objects = Vec::new();
        for object in &listing.objects {
            match self.genuine(object) {
                Ok(object) => objects.push(object),
                Err(Error::ObjectDamaged { file, reason }) => {
                    listing.damaged.push(Damaged { file, reason });
                }
                Err(error) => return Err(error),
            }
        }
        let ids: BTreeSet<ObjectId> = objects.iter().map(|object| object.metadata.id).collect();
        let fresh = objects.len();
        let before = before.map(|backup| backup.objects).unwrap_or_default();
        objects.extend(
            before
                .into_iter()
                .filter(|old| !ids.contains(&old.metadata.id)),
        );
        let report = BackupReport {
            objects: objects.iter().map(|object| object.metadata.id).collect(),
            kept: objects.len() - fresh,
            damaged: listing.damaged,
        };
        Backup::new(self.vault.manifest.clone(), objects, &self.key).write(file, &self.key)?;
        Ok(report)
    }

    /// The genuine objects, after the right to write was had.
    ///
    /// # Errors
    /// [`Error::VaultForged`] where there are objects, and not one of them is of this vault: it
    /// was exchanged as a whole, and whoever did it would be handed the next secret.
    fn known(&mut self) -> Result<&mut Vec<Metadata>> {
        if self.known.is_none() {
            if self.lock.is_none() {
                self.lock = Some(self.vault.lock()?);
            }
            let listed = self.vault.list()?.objects;
            let count = listed.len();
            let genuine: Vec<_> = listed
                .into_iter()
                .filter(|object| self.genuine(object).is_ok())
                .collect();
            if count > 0 && genuine.is_empty() {
                return Err(Error::VaultForged {
                    file: self.vault.store.manifest_file(),
                    reason: format!("none of the {count} objects here belongs to it"),
                });
            }
            self.known = Some(genuine);
        }
        Ok(self.known.as_mut().expect("it was just set"))
    }

    fn genuine(&self, object: &Metadata) -> Result<ObjectFile> {
        let read = self.vault.store.read_object(&object.token, object.id)?;
        self.vault.authenticate(&self.key, &read)?;
        Ok(read)
    }

    /// The storage key of a token, loaded.
    fn storage_key(&mut self, token: &TokenName) -> Result<StorageKey> {
        if let Some((loaded, key)) = &self.loaded {
            if loaded == token {
                return Ok(*key);
            }
            let key = *key;
            self.loaded = None;
            key.unload(&mut self.tpm)?;
        }
        let file = self.vault.store.manifest_file();
        let key_file = self.vault.manifest.token_key(token, &file)?;
        let key = StorageKey::load(&mut self.tpm, self.root, &key_file)
            .map_err(|error| self.vault.blame_manifest(error))?;
        self.loaded = Some((token.clone(), key));
        Ok(key)
    }

    fn tpm_slot(&mut self, token: &TokenName, dek: &Dek) -> Result<Slot> {
        let key = self.storage_key(token)?;
        let sealed = key.seal(&mut self.tpm, &self.gate, dek.expose())?;
        Ok(Slot::Tpm {
            key_file: sealed.to_der(PARENT_UNNAMED)?,
        })
    }

    /// The DEK by the first TPM slot that this TPM opens. The object is authenticated first.
    fn dek(&mut self, object: &ObjectFile) -> Result<Dek> {
        self.vault.authenticate(&self.key, object)?;
        let mut reason = "it has no TPM slot".to_owned();
        let slots = object.slots.iter().filter_map(|slot| match slot {
            Slot::Tpm { key_file } => Some(KeyFile::from_der(key_file)),
            Slot::Recovery { .. } => None,
        });
        for slot in slots {
            let sealed = match slot {
                Ok(sealed) => sealed,
                Err(bad) => {
                    reason = bad;
                    continue;
                }
            };
            let key = self.storage_key(&object.metadata.token)?;
            match key.unseal(&mut self.tpm, &self.gate, &sealed) {
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

    /// Puts an object, opened by the recovery way, under this TPM. Its payload stays.
    fn seal_again(&mut self, object: &Metadata, identity: &RecoveryIdentity) -> Result<()> {
        let mut file = self.vault.store.read_object(&object.token, object.id)?;
        self.vault.authenticate(&self.key, &file)?;
        let dek = dek_by_recovery(&self.vault, &file, identity)?;
        let payload = self.vault.open_payload(&self.key, &file, &dek)?;
        let slot = self.tpm_slot(&object.token, &dek)?;
        // The slot of the TPM that the vault comes from stays, in case it goes back.
        let mut others = 0;
        file.slots.retain(|slot| {
            others += usize::from(matches!(slot, Slot::Tpm { .. }));
            matches!(slot, Slot::Recovery { .. }) || others == 1
        });
        file.slots.insert(0, slot);
        self.vault.store.write_object(&self.with_mac(file))?;
        let again = self.unseal(object.id)?;
        if again.same_as(payload.expose()) {
            Ok(())
        } else {
            Err(Error::ObjectDamaged {
                file: self.vault.store.object_file(&object.token, object.id),
                reason: "what was read back is not what was sealed".to_owned(),
            })
        }
    }

    /// Sees that every object opens here, and seals again those that do not, or all of them.
    fn repair(
        mut self,
        kit: &RecoveryKit,
        all: bool,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Recovered> {
        let Listing {
            objects,
            mut damaged,
        } = self.vault.list()?;
        let (mut usable, mut sealed) = (0, 0);
        for (done, object) in objects.iter().enumerate() {
            let opens = !all && self.unseal(object.id).is_ok();
            let outcome = if opens {
                Ok(())
            } else {
                sealed += 1;
                self.seal_again(object, &kit.identity)
            };
            match outcome {
                Ok(()) => usable += 1,
                Err(error) => {
                    let (file, reason) = match error {
                        Error::ObjectDamaged { file, reason } => (file, reason),
                        Error::RecoveryIdentity(reason) => (
                            self.vault.store.object_file(&object.token, object.id),
                            format!("its recovery slot does not open: {reason}"),
                        ),
                        other => return Err(other),
                    };
                    sealed -= 1;
                    damaged.push(Damaged { file, reason });
                }
            }
            progress(done + 1, objects.len());
        }
        Ok(Recovered {
            objects: usable,
            sealed,
            moved: all,
            damaged,
        })
    }

    fn with_mac(&self, mut object: ObjectFile) -> ObjectFile {
        object.mac = self.key.mac(Purpose::Object, &object);
        object
    }
}

impl ByRecovery {
    /// Opens an object by its recovery slot.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::ObjectDamaged`].
    pub fn unseal(&self, id: ObjectId) -> Result<Secret> {
        let object = self.vault.read(id)?;
        self.vault.authenticate(&self.key, &object)?;
        let dek = dek_by_recovery(&self.vault, &object, &self.identity)?;
        self.vault.open_payload(&self.key, &object, &dek)
    }
}

impl Vault {
    /// Refuses an object that was not written by a holder of K_vault, slots included.
    fn authenticate(&self, key: &VaultKey, object: &ObjectFile) -> Result<()> {
        if key.verifies(Purpose::Object, object, &object.mac) {
            Ok(())
        } else {
            Err(self.damaged(
                object,
                "it was changed by something other than Strongroom, or belongs to another vault"
                    .to_owned(),
            ))
        }
    }

    fn open_payload(&self, key: &VaultKey, object: &ObjectFile, dek: &Dek) -> Result<Secret> {
        match &object.payload {
            None => Ok(Secret::zeroed(0)),
            Some(payload) => dek
                .decrypt(key, &object.metadata, payload)
                .map_err(|_| self.damaged(object, "its payload does not open".to_owned())),
        }
    }

    fn damaged(&self, object: &ObjectFile, reason: String) -> Error {
        Error::ObjectDamaged {
            file: self
                .store
                .object_file(&object.metadata.token, object.metadata.id),
            reason,
        }
    }
}

/// The vault's TPM with its root key and index, both checked against the manifest.
struct Connection {
    tpm: Tpm,
    root: RootKey,
    index: OpenIndex,
    /// The digest that the index holds.
    in_force: [u8; 32],
}

fn dek_by_recovery(vault: &Vault, object: &ObjectFile, identity: &RecoveryIdentity) -> Result<Dek> {
    let slot = object.slots.iter().find_map(|slot| match slot {
        Slot::Recovery { age } => Some(age),
        Slot::Tpm { .. } => None,
    });
    let slot = slot.ok_or_else(|| vault.damaged(object, "it has no recovery slot".to_owned()))?;
    Dek::new(identity.decrypt(slot)?)
        .ok_or_else(|| vault.damaged(object, "its DEK is not 32 bytes".to_owned()))
}
