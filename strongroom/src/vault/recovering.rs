//! The ways back: files from a backup, and a vault onto the TPM that is there.

use std::collections::BTreeMap;
use std::path::Path;

use super::sealing::Content;
use super::{Change, Listing, Recovered, Unlocked, Vault, fencing};
use crate::backup::Backup;
use crate::envelope::{Dek, VaultKey};
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::object::{Metadata, ObjectFile, Slot, TokenName};
use crate::pin::Role;
use crate::policy::{Branches, PcrSelection, PcrValues, PolicyFile};
use crate::provision::{self, TokenPlan};
use crate::recovery::{RecoveryIdentity, RecoveryKit};
use crate::store::{self, Damaged, Store, WriteLock};
use crate::tpm::signer::OpenRecoveryKey;
use crate::tpm::{Tpm, Turn};

impl Vault {
    pub(super) fn restore_from(
        dir: &Path,
        backup: &Path,
        kit: &RecoveryKit,
    ) -> Result<(Self, usize)> {
        let store = Store::new(dir);
        let backup_file = backup;
        let backup = Backup::read(backup, kit)?;
        let key = backup.manifest.vault_key_by_recovery(kit, backup_file)?;
        let file = store.manifest_file();
        let genuine = match Self::open(dir) {
            Ok(vault) if vault.manifest.authenticate(&key, &file).is_ok() => Some(vault.manifest),
            Ok(vault) if vault.manifest.id != kit.vault_id => {
                return Err(Error::VaultExists(dir.to_owned(), "another vault"));
            }
            // Forged, spoilt, or not to be had from the disk.
            Ok(_) | Err(Error::VaultMissing(_) | Error::VaultDamaged { .. } | Error::Io { .. }) => {
                None
            }
            Err(error) => return Err(error),
        };
        let vault = Self {
            store,
            manifest: genuine.clone().unwrap_or_else(|| backup.manifest.clone()),
            expected: None,
            event_log: None,
            machine: None,
        };
        vault.store.create_folders(vault.tokens())?;
        let _lock = vault.lock()?;
        let mut restored = 0;
        for object in &backup.objects {
            let (token, id) = (&object.metadata.token, object.metadata.id);
            if vault.manifest.token(token).is_err() {
                log::warn!("object {id} stays in the backup: the vault has no token {token}");
                continue;
            }
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

    pub(super) fn recover_here(
        &self,
        turn: &Turn,
        kit: &RecoveryKit,
        pcrs: Option<&PcrSelection>,
        lock: WriteLock,
        progress: impl FnMut(usize, usize),
    ) -> Result<Recovered> {
        let file = self.store.manifest_file();
        let key = self.manifest.vault_key_by_recovery(kit, &file)?;
        self.check_expected(&key)?;
        // A second machine becomes the vault's own.
        match self.here(turn) {
            Ok(here) if here.machine.is_some() => {
                return here.move_here(turn, kit, key, pcrs, lock, progress);
            }
            _ => {}
        }
        let rebind = || {
            let change = Change::PresentBoot(pcrs.cloned());
            Tpm::with_room(turn, || self.rebind_locked(turn, kit, &change))?;
            self.reread()?.unlock_in(turn)
        };
        let unlocked = match self.unlock_in(turn) {
            // It opens, but not over the PCRs that were asked for.
            Ok(open) if pcrs.is_some() => {
                drop(open);
                rebind()
            }
            Err(Error::PolicyRefused(_) | Error::PolicyFile { .. }) => rebind(),
            Err(Error::ForeignTpm(_)) if self.restore_index(turn, kit, pcrs)? => {
                self.reread()?.unlock_in(turn)
            }
            other => other,
        };
        match unlocked {
            Ok(unlocked) => {
                let (recovered, unlocked) = unlocked.holding(lock).repair(kit, false, progress)?;
                unlocked.forget_other_tpms()?;
                Ok(recovered)
            }
            // The manifest is genuine, as the kit has shown, so what it names is of another TPM.
            Err(
                Error::ForeignTpm(_)
                | Error::RootKey { .. }
                | Error::NotLoadable { .. }
                | Error::VaultForged { .. },
            ) => self.move_here(turn, kit, key, pcrs, lock, progress),
            Err(error) => Err(error),
        }
    }

    /// Makes the index again on the TPM that is the vault's, by its root key, and has lost nothing
    /// else. Answers whether it is that.
    fn restore_index(
        &self,
        turn: &Turn,
        kit: &RecoveryKit,
        pcrs: Option<&PcrSelection>,
    ) -> Result<bool> {
        let open_k_rec = self.manifest.writers.k_rec.open(&kit.identity)?;
        Tpm::with_room(turn, || {
            let mut tpm = Tpm::connect(turn)?;
            let root = match self.manifest.root_key.open(&mut tpm) {
                Err(Error::ForeignTpm(_) | Error::RootKey { .. }) => return Ok(false),
                other => other?,
            };
            let branches = Branches::only(self.boot_to_allow(&mut tpm, pcrs)?);
            self.write_ahead(None, &branches)?;
            self.manifest.writers.restore(
                &mut tpm,
                root,
                self.seat()?.index()?,
                &open_k_rec,
                &self.manifest.id,
                branches.digest(),
            )?;
            log::warn!("the vault's NV index was gone from its TPM, and has been made again");
            Ok(true)
        })
    }

    /// The present boot, over the PCRs that were asked for or else the vault's.
    fn boot_to_allow(&self, tpm: &mut Tpm, pcrs: Option<&PcrSelection>) -> Result<PcrValues> {
        match pcrs {
            Some(_) => provision::present_boot(tpm, pcrs, None),
            None => tpm.pcr_values(self.seat()?.pcrs)?.check_extended(),
        }
    }

    /// Brings the vault onto another TPM than the one that its manifest names as its own. Where that is a
    /// second one (as which it is seen then), it is that no more.
    fn move_here(
        &self,
        turn: &Turn,
        kit: &RecoveryKit,
        key: VaultKey,
        pcrs: Option<&PcrSelection>,
        lock: WriteLock,
        progress: impl FnMut(usize, usize),
    ) -> Result<Recovered> {
        let open_k_rec = self.manifest.writers.k_rec.open(&kit.identity)?;
        let mut tpm = Tpm::connect(turn)?;
        tpm.check_commands()?;
        let branches = Branches::only(self.boot_to_allow(&mut tpm, pcrs)?);
        // All is sealed again, and behind a closed fence nothing is.
        for fence in self.fences() {
            fencing::check_open(&mut tpm, fence, &branches.all_pcrs())?;
        }
        let request = provision::Request {
            vault_id: &self.manifest.id,
            k_rec: &self.manifest.writers.k_rec,
            open_k_rec: &open_k_rec,
            branches: &branches,
            logs: &self.boot_logs(turn.tcti()),
        };
        drop(tpm);
        let plans: Vec<TokenPlan> = self
            .tokens()
            .iter()
            .map(|token| self.plan_again(token))
            .collect::<Result<_>>()?;
        let pins: BTreeMap<_, _> = plans
            .iter()
            .filter_map(|plan| Some((plan.name.clone(), plan.pins.as_ref()?.user.clone()?)))
            .collect();
        let (mut tpm, machine) = provision::Machine::prepare(turn, &request)?;
        let root = machine.root;
        let (on_tpm, gate) = machine.complete(&mut tpm, &request, &key, plans)?;
        let index = gate.index.index;
        let mut peers = self.manifest.peers.clone();
        peers.retain(|peer, _| self.machine != Some(*peer));
        let vault = Self {
            manifest: Manifest::new(
                self.manifest.id.clone(),
                self.manifest.recovery_recipient.clone(),
                self.manifest.vault_key.recovery.clone(),
                on_tpm,
                peers,
                &key,
            ),
            machine: None,
            ..self.clone()
        };
        let manifest = store::to_json(&vault.manifest);
        let mut unlocked = vault.clone().unlocked(key, tpm, root, gate).holding(lock);
        unlocked.pins = pins;
        let done =
            unlocked
                .repair(kit, true, progress)
                .and_then(|(mut recovered, mut unlocked)| {
                    recovered.pins_to_set = unlocked.take_pins_away(&open_k_rec)?;
                    let policy = PolicyFile::settled(branches);
                    store::write(&self.store.policy_file(None), &store::to_json(&policy))?;
                    // Last: until then the vault is the old one, and recovery can begin anew.
                    store::write(&self.store.manifest_file(), &manifest)?;
                    Ok((recovered, unlocked))
                });
        match done {
            Err(error) => {
                // Its connection is closed. Where the TPM is gone, so is what was to be removed,
                // and what failed first is what is said.
                if let Ok(mut tpm) = Tpm::connect(turn) {
                    provision::remove_index(&mut tpm, index);
                    vault.remove_all_pins(&mut tpm);
                }
                Err(error)
            }
            Ok((recovered, mut unlocked)) => {
                // What the old index still allows must not outlive the move: whoever has an older
                // vault.json would open the objects of today by it.
                let tpm = &mut unlocked.tpm;
                if let Ok(former) = self.seat()?.index()?.open(tpm) {
                    former.undefine(tpm)?;
                    if self.machine.is_none() {
                        self.remove_all_pins(tpm);
                    }
                    log::warn!("the vault was on this TPM before; its former NV index was removed");
                }
                unlocked.forget_other_tpms()?;
                if let Some(peer) = self.machine {
                    unlocked.forget_second(peer)?;
                }
                Ok(recovered)
            }
        }
    }

    /// Removes the PINs of all tokens from a TPM, as far as that can be done.
    fn remove_all_pins(&self, tpm: &mut Tpm) {
        let Manifest {
            id,
            writers,
            tokens,
            ..
        } = &self.manifest;
        for (token, record) in tokens {
            provision::remove_pins(tpm, id, &writers.k_rec, token, record);
        }
    }
}

impl Unlocked {
    /// Sees that every object opens here, and seals again those that do not, or all of them.
    fn repair(
        mut self,
        kit: &RecoveryKit,
        all: bool,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<(Recovered, Self)> {
        let Listing {
            objects,
            mut damaged,
            ..
        } = self.vault.list_all()?;
        let (mut usable, mut sealed) = (0, 0);
        let (mut lost, mut unchecked) = (Vec::new(), Vec::new());
        for (done, object) in objects.iter().enumerate() {
            let opens = !all && self.opens(object).is_ok();
            let outcome = if opens {
                Ok(false)
            } else {
                self.seal_again(object, &kit.identity)
            };
            match outcome {
                Err(Error::PinRequired(_)) => unchecked.push(object.clone()),
                Ok(anew) => {
                    usable += 1;
                    sealed += usize::from(anew);
                }
                Err(Error::KeyLost { .. }) => lost.push(object.clone()),
                Err(error) => {
                    let (file, reason) = match error {
                        Error::ObjectDamaged { file, reason } => (file, reason),
                        Error::RecoveryIdentity(reason) => (
                            self.vault.store.object_file(&object.token, object.id),
                            format!("its recovery slot does not open: {reason}"),
                        ),
                        other => return Err(other),
                    };
                    damaged.push(Damaged { file, reason });
                }
            }
            progress(done + 1, objects.len());
        }
        let recovered = Recovered {
            objects: usable,
            sealed,
            moved: all,
            damaged,
            unchecked,
            pins_to_set: Vec::new(),
            lost,
        };
        Ok((recovered, self))
    }

    /// Takes away the PINs that were needed to seal again, which nobody knows. Answers whose.
    fn take_pins_away(&mut self, k_rec: &OpenRecoveryKey) -> Result<Vec<TokenName>> {
        self.make_room()?;
        let tokens: Vec<_> = std::mem::take(&mut self.pins).into_keys().collect();
        for token in &tokens {
            self.vault.pins_of(token)?.of(Role::User).set_by_recovery(
                &mut self.tpm,
                self.root,
                k_rec,
                None,
            )?;
        }
        Ok(tokens)
    }

    /// Takes the slots of TPMs but the first out of every object. The first is the one that was
    /// made last, on the TPM that the vault is on now.
    fn forget_other_tpms(&self) -> Result<()> {
        for object in self.vault.list_all()?.objects {
            let Ok(mut file) = self.genuine(&object) else {
                continue;
            };
            let before = file.slots.len();
            let mut seen = 0;
            file.slots.retain(|slot| {
                seen += usize::from(slot.is_of_a_tpm());
                !slot.is_of_a_tpm() || seen == 1
            });
            if file.slots.len() < before {
                self.vault.store.write_object(&self.with_mac(file))?;
            }
        }
        Ok(())
    }

    /// Whether an object opens, or its key loads, on this TPM.
    fn opens(&mut self, object: &Metadata) -> Result<()> {
        match Content::of(&self.genuine(object)?) {
            Content::Public => Ok(()),
            Content::TpmKey => self
                .load_key(object.id)
                .and_then(|key| self.unload_key(key)),
            Content::Secret => self.unseal(object.id).map(|_| ()),
        }
    }

    /// Puts an object, opened by the recovery way, under this TPM. Its payload stays. Answers
    /// whether there was anything to do.
    fn seal_again(&mut self, object: &Metadata, identity: &RecoveryIdentity) -> Result<bool> {
        let mut file = self.genuine(object)?;
        match Content::of(&file) {
            Content::Public => return Ok(false),
            // There is no copy of it. It is in this TPM, or nowhere.
            Content::TpmKey if file.payload.is_none() => {
                return self.opens(object).map(|()| false);
            }
            Content::TpmKey => return self.import_again(file, identity).map(|()| true),
            Content::Secret => {}
        }
        let dek = dek_by_recovery(&self.vault, &file, identity)?;
        let payload = self.vault.open_payload(&self.key, &file, &dek)?;
        let slot = self.tpm_slot(object, &dek)?;
        put_first(&mut file.slots, slot);
        self.vault.store.write_object(&self.with_mac(file))?;
        let again = self.unseal(object.id)?;
        if again.same_as(payload.expose()) {
            Ok(true)
        } else {
            Err(Error::ObjectDamaged {
                file: self.vault.store.object_file(&object.token, object.id),
                reason: "what was read back is not what was sealed".to_owned(),
            })
        }
    }
}

/// Puts the slot of the TPM that a vault is moving to before the others. Until the manifest is
/// replaced, the vault is on the TPM that it came from, whose slot is the last; those between were
/// made by moves that were cut short, and go.
pub(super) fn put_first(slots: &mut Vec<Slot>, slot: Slot) {
    let last = slots.iter().rposition(Slot::is_of_a_tpm);
    let mut place = 0;
    slots.retain(|slot| {
        let keep = !slot.is_of_a_tpm() || Some(place) == last;
        place += 1;
        keep
    });
    slots.insert(0, slot);
}

pub(super) fn dek_by_recovery(
    vault: &Vault,
    object: &ObjectFile,
    identity: &RecoveryIdentity,
) -> Result<Dek> {
    let slot = object.slots.iter().find_map(|slot| match slot {
        Slot::Recovery { age } => Some(age),
        Slot::Tpm { .. } | Slot::TpmDuplicate { .. } | Slot::TpmKey { .. } => None,
    });
    let slot = slot.ok_or_else(|| vault.damaged(object, "it has no recovery slot".to_owned()))?;
    Dek::new(identity.decrypt(slot)?)
        .ok_or_else(|| vault.damaged(object, "its DEK is not 32 bytes".to_owned()))
}
