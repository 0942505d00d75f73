//! Opening a vault: its TPM with root key and index, the list of allowed boots, K_vault.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::pairing::SealedVaultKey;
use super::{Unlocked, Vault};
use crate::envelope::VaultKey;
use crate::error::{Error, Result};
use crate::event_log::Place;
use crate::manifest;
use crate::manifest::Seat;
use crate::policy::{BootLogs, Branches, PolicyFile};
use crate::tpm::index::OpenIndex;
use crate::tpm::root_key::RootKey;
use crate::tpm::session::{Gate, Session};
use crate::tpm::storage::StorageKey;
use crate::tpm::{Tcti, Tpm, Turn};

/// The vault's TPM with its root key and index, both checked against the manifest.
pub(super) struct Connection {
    pub(super) tpm: Tpm,
    pub(super) root: RootKey,
    pub(super) index: OpenIndex,
    /// The digest that the index holds.
    pub(super) in_force: [u8; 32],
}

impl Unlocked {
    /// Opens the vault again on a connection of its own, with the PINs that were given.
    pub(super) fn reopen(&mut self) -> Result<()> {
        let fresh = self.vault.unlock_in(&self.tpm.turn().clone())?;
        (self.tpm, self.root, self.gate) = (fresh.tpm, fresh.root, fresh.gate);
        (self.loaded, self.presented) = (None, None);
        Ok(())
    }
}

impl Vault {
    /// Waits until it is this vault's turn at its TPM. Who wants the right to write has it by then:
    /// two that wait for one another would wait in vain.
    pub(super) fn turn(&self, tcti: &Tcti) -> Result<Turn> {
        Turn::wait(tcti, &self.store.turn_file())
    }

    /// The same vault as the machine sees it whose TPM this is: its own, or a second one. Whose it is,
    /// its root key tells. Nothing is authenticated by that, as nothing is by the manifest, before
    /// K_vault was unsealed. Without a second machine, no command; with one, a connection more.
    ///
    /// # Errors
    /// [`Error::ForeignTpm`] and [`Error::RootKey`] where it is none of them.
    pub(super) fn here(&self, turn: &Turn) -> Result<Self> {
        let seen_from = |machine| Self {
            machine,
            ..self.clone()
        };
        if self.manifest.peers.is_empty() {
            return Ok(seen_from(None));
        }
        let fits = |machine| {
            Tpm::with_room(turn, || {
                let mut tpm = Tpm::connect(turn)?;
                self.manifest.seat(machine)?.root_key.open(&mut tpm)
            })
        };
        let not_the_own = match fits(None) {
            Ok(_) => return Ok(seen_from(None)),
            Err(error @ (Error::ForeignTpm(_) | Error::RootKey { .. })) => error,
            Err(error) => return Err(error),
        };
        for &peer in self.manifest.peers.keys() {
            match fits(Some(peer)) {
                Ok(_) => return Ok(seen_from(Some(peer))),
                Err(Error::ForeignTpm(_) | Error::RootKey { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(not_the_own)
    }

    /// What of the manifest is of this machine.
    pub(super) fn seat(&self) -> Result<Seat<'_>> {
        self.manifest.seat(self.machine)
    }

    pub(super) fn unlock_in(&self, turn: &Turn) -> Result<Unlocked> {
        self.here(turn)?.unlock_here(turn)
    }

    /// The same, where the machine is known.
    pub(super) fn unlock_here(&self, turn: &Turn) -> Result<Unlocked> {
        Tpm::undisturbed(turn, || self.try_unlock(turn))
    }

    fn try_unlock(&self, turn: &Turn) -> Result<Unlocked> {
        self.unlock_on(self.connect(turn)?)
    }

    pub(super) fn unlock_on(&self, connection: Connection) -> Result<Unlocked> {
        let file = self.store.manifest_file();
        let Connection {
            mut tpm,
            root,
            index,
            in_force,
        } = connection;
        let branches = self.branches(&in_force)?;
        for branch in branches.suspensions() {
            log::warn!(
                "the policy is suspended: whatever leaves PCR {} as it was may open this vault, until \
                 `strongroom commit` or `strongroom suspend --end`",
                branch.pcrs.selection()
            );
        }
        let session = Session::start(&mut tpm, root)?;
        let gate = Gate {
            session,
            index,
            branches,
            logs: self.boot_logs(tpm.turn().tcti()),
        };
        let key = self
            .unseal_vault_key(&mut tpm, root, &gate)
            .map_err(|error| self.blame_manifest(error))?;
        self.manifest.authenticate(&key, &file)?;
        self.check_expected(&key)?;
        Ok(self.unlocked(key, tpm, root, gate))
    }

    /// Refuses another vault than the one whose key the owner has named.
    pub(super) fn check_expected(&self, key: &VaultKey) -> Result<()> {
        let other = |expected: [u8; 32]| expected != key.fingerprint();
        if self.expected.is_some_and(other) {
            return Err(Error::OtherVault {
                file: self.store.manifest_file(),
            });
        }
        Ok(())
    }

    pub(super) fn unlocked(&self, key: VaultKey, tpm: Tpm, root: RootKey, gate: Gate) -> Unlocked {
        Unlocked {
            vault: self.clone(),
            key: Arc::new(key),
            tpm,
            root,
            gate,
            loaded: None,
            pins: BTreeMap::new(),
            presented: None,
            lock: None,
            known: None,
        }
    }

    /// The vault as it is on disk now: for who has waited for the right to write.
    pub(super) fn reread(&self) -> Result<Self> {
        Ok(Self {
            expected: self.expected,
            event_log: self.event_log.clone(),
            ..Self::open(&self.store.dir)?
        })
    }

    pub(super) fn connect(&self, turn: &Turn) -> Result<Connection> {
        let mut tpm = Tpm::connect(turn)?;
        let root = self.seat()?.root_key.open(&mut tpm)?;
        self.with_index(tpm, root)
    }

    /// The same, on a connection whose root key was opened.
    pub(super) fn with_index(&self, mut tpm: Tpm, root: RootKey) -> Result<Connection> {
        let expected = self
            .seat()?
            .index()
            .map_err(|error| self.blame_manifest(error))?;
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
    pub(super) fn branches(&self, in_force: &[u8; 32]) -> Result<Branches> {
        let file = self.store.policy_file(self.machine);
        PolicyFile::read(&file)?.that_holds(in_force, &file)
    }

    /// The event logs of the allowed boots, and of this one on this TPM.
    pub(super) fn boot_logs(&self, tcti: &Tcti) -> BootLogs {
        let present = Place::new(self.event_log.as_deref(), tcti.is_kernels());
        BootLogs::new(self.store.event_logs(self.machine), present)
    }

    /// Keeps the event log of this boot where the list on disk allows it, and no other than those
    /// of allowed boots.
    pub(super) fn keep_event_log(&self, tcti: &Tcti) {
        match PolicyFile::read(&self.store.policy_file(self.machine)) {
            Ok(policy) => self.boot_logs(tcti).keep(&policy.current),
            Err(error) => log::debug!("this boot's event log is not kept: {error}"),
        }
    }

    pub(super) fn unseal_vault_key(
        &self,
        tpm: &mut Tpm,
        root: RootKey,
        gate: &Gate,
    ) -> Result<VaultKey> {
        let file = self.store.manifest_file();
        let storage_key = manifest::key_file(self.seat()?.storage_key, &file)?;
        let sealed = match self.machine {
            None => SealedVaultKey::Here(manifest::key_file(&self.manifest.vault_key.tpm, &file)?),
            Some(peer) => self.vault_key_of_second(peer)?,
        };
        let storage_key = StorageKey::load(tpm, root, &storage_key)?;
        let unsealed = match &sealed {
            SealedVaultKey::Here(sealed) => storage_key.unseal(tpm, gate, sealed),
            SealedVaultKey::Sent(duplicate) => storage_key.unseal_duplicate(tpm, gate, duplicate),
        };
        storage_key.unload(tpm)?;
        VaultKey::new(unsealed?).ok_or_else(|| Error::VaultDamaged {
            file,
            reason: "its vault key is not 32 bytes".to_owned(),
        })
    }

    /// On the vault's own TPM, with its own root key and index, a TPM object that does not load
    /// was put into the manifest by someone else.
    pub(super) fn blame_manifest(&self, error: Error) -> Error {
        match error {
            Error::NotLoadable { reason, .. } | Error::Input { reason, .. } => Error::VaultForged {
                file: self.store.manifest_file(),
                reason,
            },
            other => other,
        }
    }
}
