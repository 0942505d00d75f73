//! The vault: the whole public API at a glance.
//!
//! A [`Vault`] is a folder; opening it touches no TPM, and what it lists is not secret. To seal or
//! unseal it is unlocked, which takes an allowed boot and authenticates the manifest first; an
//! [`Unlocked`] vault is the only thing that seals or unseals with the TPM. [`ByRecovery`] is the
//! other way in, with the recovery kit and in any boot. What an unlocked vault does with private
//! keys is in `vault/keys.rs`.

mod backing_up;
mod changing;
mod clearing;
mod copying;
mod fencing;
mod finding;
mod keys;
mod making;
mod opening;
mod pairing;
mod pins;
mod proving;
mod rebinding;
mod recovering;
mod sealing;
mod suspending;
mod tokens;
mod unsealing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backup::Backup;
use crate::envelope::{TAG_LEN, VaultKey};
use crate::error::{Error, Result};
use crate::event_log::{EventLog, Recording};
use crate::manifest::Manifest;
use crate::object::{Meant, Metadata, NewObject, ObjectId, TokenName};
use crate::peer::PeerId;
use crate::pin::PinAuth;
use crate::policy::{Branches, Fence, PcrSelection, PcrValues, Refusal};
use crate::prediction::Forecast;
use crate::recovery::{RecoveryIdentity, RecoveryKit};
use crate::recovery_copy::RecoveryCopy;
use crate::secret::Secret;
use crate::store::{self, Damaged, NoWriter, Store, TokenAccess, WriteLock};
use crate::tpm::pin::Guard;
use crate::tpm::root_key::RootKey;
use crate::tpm::session::Gate;
use crate::tpm::storage::StorageKey;
use crate::tpm::{Tcti, Tpm};

pub use self::fencing::close_fences;
pub use self::pairing::{Aligned, LeftOut, Peer, Reason, Settled};
pub use self::pins::LoggedIn;
pub use self::tokens::{NewToken, Token};
pub use self::unsealing::{Genuine, Reader, Unwrapped};

use self::recovering::dek_by_recovery;
use self::sealing::Content;

pub use crate::store::{Listing, TokenStamp};

/// A vault's folder and manifest.
#[derive(Clone)]
pub struct Vault {
    store: Store,
    manifest: Manifest,
    /// SHA-256(K_vault), where the owner has said which vault it must be.
    expected: Option<[u8; 32]>,
    /// The event log of the present boot, where the owner has named a file.
    event_log: Option<PathBuf>,
    /// As which machine it is seen: the vault's own, or a second one. [`Vault::here`] finds out.
    machine: Option<PeerId>,
}

/// A vault that an allowed boot has opened. Its TPM session ends when it is dropped.
pub struct Unlocked {
    vault: Vault,
    /// Shared with the readers of its files.
    key: Arc<VaultKey>,
    tpm: Tpm,
    root: RootKey,
    gate: Gate,
    /// The token whose storage key is loaded, and whether it is the one behind the PIN: one at a
    /// time, for a TPM has three slots.
    loaded: Option<(TokenName, bool, StorageKey)>,
    /// The PINs that were given, of users of tokens. The TPM says whether they are right.
    pins: BTreeMap<TokenName, Arc<PinAuth>>,
    /// The one of them that was presented to the TPM: one at a time too.
    presented: Option<(TokenName, Arc<Guard>)>,
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
    /// This boot's event log, where there is one: PCRs that it does not lead to are refused, unless
    /// `pcrs` names them. It is kept, to say what has changed when the policy refuses.
    pub event_log: Option<Recording>,
    /// The tokens to make.
    pub tokens: Vec<TokenName>,
    /// The fence behind which the token `datasets` is to be, for life.
    pub fence: Option<Fence>,
}

/// How to change the list of allowed boots.
#[derive(Clone, Debug)]
pub enum Change {
    /// The present boot, and no other; over these PCRs, or those that the list is over now.
    PresentBoot(Option<PcrSelection>),
    /// One more: the present boot with these PCRs at other values.
    Add(Vec<(u8, [u8; 32])>),
    /// The next boot, in each of its phases, as it was predicted.
    Prepare(Box<Forecast>),
    /// The present boot in those of its phases that are in the list, and no other boot. Its event
    /// log tells them from another boot's. A boot that only a suspension has let in is allowed for good
    /// from now on, and the suspension ends; one that the list had all along leaves it.
    Commit(Option<EventLog>),
    /// One more, for so many restarts: whatever leaves these PCRs as they are now, by themselves PCR 7
    /// where the list looks at it.
    Suspend {
        /// How many restarts: 1 to [`Suspension::MOST`](crate::policy::Suspension::MOST).
        boots: u32,
        /// The PCRs, fewer than the list is over.
        pcrs: Option<PcrSelection>,
    },
    /// No suspension any more.
    Resume,
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
    /// For a suspended policy, how often the TPM was reset so far.
    pub resets: Option<u32>,
    /// Which second machine of the vault this is; `None` for its own.
    pub second: Option<PeerId>,
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
    /// Objects behind a PIN, which was not given: they were left as they are.
    pub unchecked: Vec<Metadata>,
    /// Tokens whose PINs are to be set anew, because the vault has come to another TPM.
    pub pins_to_set: Vec<TokenName>,
    /// Keys that were made in the TPM that the vault comes from, and are lost with it. Nothing is
    /// wrong with their files, and no backup brings them back.
    pub lost: Vec<Metadata>,
}

/// What a test of the recovery way came to, of a vault or of a backup.
#[derive(Debug, Default)]
pub struct RecoveryTest {
    /// Objects that the kit opens.
    pub opened: Vec<Metadata>,
    /// Objects that have no secret, and are genuine.
    pub public: Vec<Metadata>,
    /// Keys that were made in a TPM and are in that alone: no kit brings them back. Nothing is
    /// wrong with them.
    pub in_tpm_alone: Vec<Metadata>,
    /// Objects that the kit does not open: their files, and why.
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
        Self::make(dir, tcti, options, keep)
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
            event_log: None,
            machine: None,
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

    /// The same, with the event log of the present boot in this file, and not where
    /// `STRONGROOM_EVENT_LOG` says or the kernel has it.
    #[must_use]
    pub fn with_event_log(mut self, file: PathBuf) -> Self {
        self.event_log = Some(file);
        self
    }

    /// Waits for the right to write, and keeps other writers off until it is dropped.
    ///
    /// # Errors
    /// [`Error::VaultBusy`] after ten seconds.
    pub fn lock(&self) -> Result<WriteLock> {
        self.store.lock(self.tokens())
    }

    /// Keeps writers off for a moment; `None` where one is at work. Needs no right to write.
    pub fn lock_writers_out(&self) -> Result<Option<NoWriter>> {
        self.store.lock_writers_out()
    }

    /// Writes the journal of whoever moves secrets in, so that it stays after a power cut. The vault
    /// does not read it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_journal(&self, text: &[u8]) -> Result<()> {
        store::write(&self.store.journal_file(), text)
    }

    /// That journal; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::VaultDamaged`] for what is no file of a sane size.
    pub fn read_journal(&self) -> Result<Option<Vec<u8>>> {
        store::read_if_there(&self.store.journal_file())
    }

    /// The vault's identity: a UUID as text.
    pub fn id(&self) -> &str {
        &self.manifest.id
    }

    /// Whether this user may add tokens, as far as the vault's folder says.
    pub fn takes_tokens(&self) -> bool {
        self.store.takes_tokens()
    }

    /// The vault's tokens.
    pub fn tokens(&self) -> Vec<TokenName> {
        self.manifest.tokens.keys().cloned().collect()
    }

    /// Everything in the vault that this process may read. Labels are authenticated when an object
    /// is opened, not here.
    ///
    /// # Errors
    /// [`Error::Io`] where a folder cannot be read for another reason than whose it is; a bad file
    /// is listed as damaged.
    pub fn list(&self) -> Result<Listing> {
        self.store.list(self.tokens())
    }

    /// The same for who looks for an object in a vault that may have thousands: of each file no more is
    /// read than what a list has of it. One that is damaged further on is listed, and does not open.
    ///
    /// # Errors
    /// As [`Vault::list`].
    pub fn glance(&self) -> Result<Listing> {
        self.store.glance(self.tokens())
    }

    /// The same of one token.
    ///
    /// # Errors
    /// As [`Vault::list`].
    pub fn list_token(&self, token: &TokenName) -> Result<Listing> {
        self.store.list([token.clone()])
    }

    /// The files of a token as they are now: as long as this stays the same, so does what
    /// [`Vault::list_token`] says.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn stamp(&self, token: &TokenName) -> Result<TokenStamp> {
        self.store.stamp(token)
    }

    /// Whether this process may read a token's objects.
    pub fn may_read(&self, token: &TokenName) -> bool {
        self.store.may_read(token)
    }

    /// Whether this process may make, change and remove a token's objects.
    pub fn may_write(&self, token: &TokenName) -> bool {
        self.store.may_write(token)
    }

    /// Who may read a token's objects, as the file system has it.
    ///
    /// # Errors
    /// [`Error::NoSuchToken`]; [`Error::Io`].
    pub fn access(&self, token: &TokenName) -> Result<TokenAccess> {
        self.check_has(token)?;
        self.store.access(token)
    }

    /// Gives a token to a group of this system, and to no other any more: its members may read its
    /// objects' files, and so, with the TPM and in an allowed boot, use and open them. The manifest
    /// and the list of allowed boots, which are no secrets, can be read by everybody then.
    ///
    /// # Errors
    /// [`Error::NoSuchToken`]; [`Error::VaultBusy`]; [`Error::Io`].
    pub fn allow(&self, token: &TokenName, gid: u32) -> Result<()> {
        self.check_has(token)?;
        let _lock = self.lock()?;
        self.store.allow(token, gid)
    }

    /// Takes a token back from its group. With the last one, the vault is its owner's alone again.
    ///
    /// # Errors
    /// As for [`Vault::allow`].
    pub fn deny(&self, token: &TokenName) -> Result<()> {
        self.check_has(token)?;
        let _lock = self.lock()?;
        self.store.deny(token, self.tokens())
    }

    /// Gives tokens back to their groups where somebody took every group's bits away
    /// (`chmod -R g=,o=`, as an appliance's upgrade does to all its data), and opens again what every
    /// reader needs. Gives back which tokens that were; none where nothing was to be done.
    ///
    /// # Errors
    /// [`Error::VaultBusy`]; [`Error::Io`].
    pub fn mend_access(&self) -> Result<Vec<TokenName>> {
        let tokens = self.tokens();
        if self.store.to_mend(&tokens).is_empty() {
            return Ok(Vec::new());
        }
        let _lock = self.lock()?;
        let to_mend = self.store.to_mend(&tokens);
        for (token, gid) in &to_mend {
            self.store.allow(token, *gid)?;
        }
        Ok(to_mend.into_iter().map(|(token, _)| token).collect())
    }

    /// The one object that a selector means. Of several versions of one thing it is the newest.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::AmbiguousObject`], and [`Error::ObjectDamaged`] if the
    /// selector names a damaged object by its id.
    pub fn find(&self, selector: &crate::uri::Selector) -> Result<Metadata> {
        self.find_newest(selector)
    }

    /// An object's payload length in bytes, without opening it; `None` where it has none.
    pub fn payload_len(&self, id: ObjectId) -> Result<Option<usize>> {
        let payload = self.read(id, |_| Ok(()))?.payload;
        Ok(payload.map(|payload| payload.ciphertext.0.len().saturating_sub(TAG_LEN)))
    }

    /// Unlocks the vault on its TPM in an allowed boot, and authenticates its manifest.
    ///
    /// # Errors
    /// [`Error::PolicyRefused`] with the PCRs that differ; [`Error::ForeignTpm`] and
    /// [`Error::RootKey`] on another TPM; [`Error::VaultForged`].
    pub fn unlock(&self, tcti: &Tcti) -> Result<Unlocked> {
        self.unlock_in(&self.turn(tcti)?)
    }

    /// The same for who writes: waits for the right to write first, and unlocks the vault as it is
    /// then.
    ///
    /// # Errors
    /// As [`Vault::unlock`], and [`Error::VaultBusy`] after ten seconds.
    pub fn unlock_to_write(&self, tcti: &Tcti) -> Result<Unlocked> {
        let lock = self.lock()?;
        Ok(self.reread()?.unlock(tcti)?.holding(lock))
    }

    /// Opens the vault with the recovery kit, in any boot and without a TPM.
    ///
    /// # Errors
    /// [`Error::RecoveryIdentity`] for another vault's kit; [`Error::VaultForged`] where the
    /// manifest is not the kit's.
    pub fn open_by_recovery(&self, kit: RecoveryKit) -> Result<ByRecovery> {
        let file = self.store.manifest_file();
        let key = self.manifest.vault_key_by_recovery(&kit, &file)?;
        self.check_expected(&key)?;
        Ok(ByRecovery {
            vault: self.clone(),
            key,
            identity: kit.identity,
        })
    }

    /// Refuses a recovery kit that is not this vault's, in whole: one that opens its objects and
    /// writes its list of allowed boots.
    ///
    /// # Errors
    /// As for [`Vault::open_by_recovery`].
    pub fn check_kit(&self, kit: &RecoveryKit) -> Result<()> {
        let file = self.store.manifest_file();
        let key = self.manifest.vault_key_by_recovery(kit, &file)?;
        self.check_expected(&key)?;
        self.manifest.writers.k_rec.open(&kit.identity)?;
        Ok(())
    }

    /// Whether a TPM is the vault's own, by its root key: whatever else it has lost, `recover` brings
    /// back in place. One command.
    pub fn is_on(&self, tcti: &Tcti) -> Result<bool> {
        let turn = self.turn(tcti)?;
        let opened = Tpm::with_room(&turn, || {
            self.manifest.root_key.open(&mut Tpm::connect(&turn)?)
        });
        match opened {
            Ok(_) => Ok(true),
            Err(Error::ForeignTpm(_) | Error::RootKey { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How the present boot stands to the policy. Three TPM commands and a PCR_Read, and ReadClock where
    /// the policy is suspended.
    pub fn boot_state(&self, tcti: &Tcti) -> Result<BootState> {
        let turn = self.turn(tcti)?;
        let vault = self.here(&turn)?;
        let mut connection = vault.connect(&turn)?;
        let branches = vault.branches(&connection.in_force)?;
        let present = connection.tpm.pcr_values(&branches.all_pcrs())?;
        let resets = match branches.suspensions().next() {
            Some(_) => Some(connection.tpm.resets()?),
            None => None,
        };
        let allowed = branches
            .iter()
            .any(|branch| branch.allows(&present, resets.unwrap_or_default()));
        let refusal = (!allowed).then(|| vault.boot_logs(tcti).explain(&present, &branches));
        Ok(BootState {
            branches,
            present,
            refusal,
            resets,
            second: vault.machine,
        })
    }

    /// What a change would make of the list of allowed boots; nothing is written.
    ///
    /// # Errors
    /// Those of [`Vault::rebind`] before it writes.
    pub fn foresee(&self, tcti: &Tcti, change: &Change) -> Result<Rebound> {
        let turn = self.turn(tcti)?;
        let vault = self.here(&turn)?;
        let mut connection = vault.connect(&turn)?;
        let old = vault.branches(&connection.in_force)?;
        let branches = vault.new_branches(&mut connection.tpm, Some(&old), change)?;
        Ok(Rebound {
            branches,
            written: false,
        })
    }

    /// Changes the list of allowed boots from an allowed boot, by itself. One NV write, whatever
    /// the number of objects.
    ///
    /// # Errors
    /// [`Error::PolicyRefused`] in a boot that is not allowed itself.
    pub fn rebind(&self, tcti: &Tcti, change: &Change) -> Result<Rebound> {
        let _lock = self.lock()?;
        let vault = self.reread()?;
        let turn = vault.turn(tcti)?;
        let vault = vault.here(&turn)?;
        if vault.expected.is_some() {
            // What the owner has named, only K_vault shows; without it, it need not be unsealed.
            vault.unlock_here(&turn)?;
        }
        let rebound = Tpm::with_room(&turn, || vault.try_rebind(&turn, change))?;
        vault.keep_event_log(tcti);
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
        let vault = self.reread()?;
        let turn = vault.turn(tcti)?;
        let vault = vault.here(&turn)?;
        let rebound = Tpm::with_room(&turn, || vault.rebind_locked(&turn, kit, change))?;
        vault.keep_event_log(tcti);
        Ok(rebound)
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
        Self::restore_from(dir, backup, kit)
    }

    /// Opens every object of a backup with the recovery kit, for nothing but to see that it opens.
    /// Touches no TPM, and changes nothing. `progress` is called after each object with how many
    /// are done and how many there are.
    ///
    /// # Errors
    /// [`Error::RecoveryIdentity`] for another vault's kit; [`Error::VaultForged`] and
    /// [`Error::VaultDamaged`] for a backup that is not whole and genuine, which brings nothing
    /// back.
    pub fn test_backup(
        file: &Path,
        kit: &RecoveryKit,
        progress: impl FnMut(usize, usize),
    ) -> Result<RecoveryTest> {
        Self::prove_backup(file, kit, progress)
    }

    /// Where a backup to this file really goes, links followed: what is looked at must be what is
    /// written. Touches no TPM.
    ///
    /// # Errors
    /// [`Error::Input`] for a folder that is not there, and a link to nothing.
    pub fn backup_place(file: &Path) -> Result<PathBuf> {
        Backup::place(file)
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
        let lock = self.lock()?;
        let vault = self.reread()?;
        let recovered = vault.recover_here(&vault.turn(tcti)?, kit, pcrs, lock, progress)?;
        vault.keep_event_log(tcti);
        Ok(recovered)
    }
}

impl Unlocked {
    /// The vault that this is.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// SHA-256(K_vault), which tells this vault from another.
    pub fn vault_key_sha256(&self) -> [u8; 32] {
        self.key.fingerprint()
    }

    /// Whether others may be waiting for the TPM until this is dropped, because nothing shares it
    /// out.
    pub fn keeps_tpm_from_others(&self) -> bool {
        self.tpm.keeps_others_off()
    }

    /// Where the TPM is, in TCTI notation: of the kernel's two devices the one that was taken.
    pub fn tcti(&self) -> &str {
        &self.tpm.taken
    }

    /// Keeps other writers off until this is dropped, with a lock that the caller has already.
    #[must_use]
    pub fn holding(mut self, lock: WriteLock) -> Self {
        self.lock = Some(lock);
        self
    }

    /// Seals a payload of up to 1 MiB as a new object, writes it, reads it back from disk,
    /// unseals it and compares. Only then is it an object.
    ///
    /// # Errors
    /// [`Error::NoSuchToken`]; [`Error::Input`] for a payload that is too long;
    /// [`Error::ObjectDamaged`] if what was read back is not what was sealed (it is removed).
    pub fn seal(&mut self, object: NewObject, payload: &Secret) -> Result<ObjectId> {
        self.seal_new(object, payload)
    }

    /// Unseals an object. In a batch of one token: PolicyPCR [, PolicyOR], PolicyAuthorizeNV,
    /// Load, Unseal, FlushContext. In parts, for a batch on several threads: [`Unlocked::reader`],
    /// [`Unlocked::unwrap_dek`], [`Unwrapped::open`].
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::ObjectDamaged`], [`Error::PolicyRefused`];
    /// [`Error::Input`] for a certificate, and for a private key in the TPM.
    pub fn unseal<'a>(&mut self, object: impl Into<Meant<'a>>) -> Result<Secret> {
        let object = self.vault.read_genuine(&self.key, object.into())?;
        Content::of(&object).check_secret(&object.metadata)?;
        let dek = self.dek_undisturbed(&object)?;
        self.vault.open_payload(&self.key, &object, &dek)
    }

    /// Writes an object without a secret, a certificate or other public data, under its MAC.
    ///
    /// # Errors
    /// [`Error::NoSuchToken`]; [`Error::Input`] for a kind that is a secret.
    pub fn store(&mut self, object: NewObject) -> Result<ObjectId> {
        self.store_new(object)
    }

    /// Changes an object's label, attributes and GUIDs. It stays the same object, and its payload
    /// is encrypted anew, under a new DEK; what one writes and reads back and unseals is put in the
    /// old file's place at the very end. (The copy of an imported key, which the recovery kit alone
    /// opens, stays as it is.)
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::ObjectDamaged`], [`Error::PolicyRefused`];
    /// [`Error::Input`] for a change of token, of kind, or of what a key is.
    pub fn update<'a>(
        &mut self,
        object: impl Into<Meant<'a>>,
        change: impl FnOnce(&mut NewObject),
    ) -> Result<()> {
        self.change(object.into(), change)
    }

    /// Gives a credential another payload. It stays the same object, so that what names it by its
    /// id still does; the old payload is in place until the new one was written, read back from
    /// disk, unsealed and compared.
    ///
    /// # Errors
    /// As [`Unlocked::update`]; [`Error::Input`] for an object that is no credential with a
    /// payload, and for a payload that is too long.
    pub fn replace<'a>(&mut self, object: impl Into<Meant<'a>>, payload: &Secret) -> Result<()> {
        self.replace_payload(object.into(), payload)
    }

    /// Removes an object for good. The caller knows that nobody needs it.
    pub fn remove<'a>(&mut self, object: impl Into<Meant<'a>>) -> Result<()> {
        let meant = object.into();
        self.known()?;
        match (self.vault.read_genuine(&self.key, meant), meant) {
            (Ok(object), _) => {
                let token = &object.metadata.token;
                self.vault.store.remove_object(token, meant.id())?;
            }
            // Named by its identity, and of no use to anyone.
            (Err(Error::ObjectDamaged { file, .. }), Meant::Id(_)) => store::remove(&file)?,
            (Err(error), _) => return Err(error),
        }
        self.known()?.retain(|object| object.id != meant.id());
        Ok(())
    }

    /// A copy of some objects that the recovery kit opens by itself, without vault and TPM. No TPM
    /// command.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::ObjectDamaged`]; [`Error::Input`] for an object that the
    /// kit does not open, such as a key that was made in the TPM.
    pub fn recovery_copy(&self, objects: &[&Metadata]) -> Result<RecoveryCopy> {
        self.copy_for_recovery(objects)
    }

    /// The same of one that was read already.
    ///
    /// # Errors
    /// [`Error::Input`] for an object that the kit does not open.
    pub fn recovery_copy_of(&self, object: &Genuine) -> Result<RecoveryCopy> {
        self.copy_for_kit(vec![object.file().clone()])
    }

    /// Refuses a backup file that is there already and is no backup of this vault, or one with
    /// objects of a token that was removed since.
    pub fn check_backup_file(&self, file: &Path) -> Result<()> {
        self.former_backup(file).map(|_| ())
    }

    /// Writes a whole copy of the vault into one file: ciphertext only, opened by the recovery
    /// kit. Reads it back and compares. Where the file is a backup of this vault already, objects
    /// of it that the vault has lost are kept.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that is anything else, or that holds objects of a token that was
    /// removed since; [`Error::Io`]; [`Error::VaultDamaged`]
    /// if what was read back is not what was written.
    pub fn backup(&mut self, file: &Path) -> Result<BackupReport> {
        self.back_up(file)
    }
}

impl ByRecovery {
    /// Opens an object by its recovery slot.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::ObjectDamaged`]; [`Error::Input`] for a certificate, and
    /// for a private key that was made in a TPM.
    pub fn unseal<'a>(&self, object: impl Into<Meant<'a>>) -> Result<Secret> {
        let object = self.vault.read_genuine(&self.key, object.into())?;
        if object.payload.is_none() {
            Content::of(&object).check_secret(&object.metadata)?;
        }
        let dek = dek_by_recovery(&self.vault, &object, &self.identity)?;
        self.vault.open_payload(&self.key, &object, &dek)
    }

    /// Opens every object by its recovery slots, for nothing but to see that it opens. Touches no
    /// TPM, and changes nothing. `progress` is called after each object with how many are done and
    /// how many there are.
    ///
    /// # Errors
    /// [`Error::Io`] where some token cannot be read: nothing must be overlooked.
    pub fn test(&self, progress: impl FnMut(usize, usize)) -> Result<RecoveryTest> {
        self.prove_all(progress)
    }
}
