//! That a recovery kit opens everything, shown without changing anything and without a TPM.

use std::path::Path;

use super::sealing::{Content, NOT_GENUINE};
use super::{ByRecovery, Listing, RecoveryTest, Vault};
use crate::backup::Backup;
use crate::envelope::{Dek, Purpose, VaultKey};
use crate::error::{Error, Result};
use crate::key::LOCAL;
use crate::manifest::Manifest;
use crate::object::{ObjectFile, Payload, Slot};
use crate::peer::{PeerId, PeerRecord};
use crate::recovery::{RecoveryIdentity, RecoveryKit};
use crate::store::Damaged;

impl ByRecovery {
    pub(super) fn prove_all(&self, mut progress: impl FnMut(usize, usize)) -> Result<RecoveryTest> {
        // Without K_rec, the kit would open objects and allow no boot.
        self.vault.manifest.writers.k_rec.open(&self.identity)?;
        let Listing {
            objects, damaged, ..
        } = self.vault.list_all()?;
        let mut test = RecoveryTest {
            damaged,
            ..RecoveryTest::default()
        };
        test.damaged.extend(unwritable_seconds(
            &self.vault.manifest,
            &self.identity,
            &self.vault.store.manifest_file(),
        ));
        for (done, listed) in objects.iter().enumerate() {
            let found = self
                .vault
                .store
                .read_object(&listed.token, listed.id)
                .and_then(|object| {
                    prove(&object, &self.key, &self.identity)
                        .map(|found| (found, object.metadata.clone()))
                        .map_err(|reason| self.vault.damaged(&object, reason))
                });
            match found {
                Ok((Found::Opened, object)) => test.opened.push(object),
                Ok((Found::Public, object)) => test.public.push(object),
                Ok((Found::InTpmAlone, object)) => test.in_tpm_alone.push(object),
                Err(Error::ObjectDamaged { file, reason }) => {
                    test.damaged.push(Damaged { file, reason });
                }
                // Removed by someone else meanwhile.
                Err(Error::NoSuchObject(_)) => {}
                Err(error) => return Err(error),
            }
            progress(done + 1, objects.len());
        }
        Ok(test)
    }
}

impl Vault {
    pub(super) fn prove_backup(
        file: &Path,
        kit: &RecoveryKit,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<RecoveryTest> {
        let Backup {
            manifest, objects, ..
        } = Backup::read(file, kit)?;
        let key = manifest.vault_key_by_recovery(kit, file)?;
        manifest.writers.k_rec.open(&kit.identity)?;
        let total = objects.len();
        let mut test = RecoveryTest {
            damaged: unwritable_seconds(&manifest, &kit.identity, file),
            ..RecoveryTest::default()
        };
        for (done, object) in objects.into_iter().enumerate() {
            match prove(&object, &key, &kit.identity) {
                Ok(Found::Opened) => test.opened.push(object.metadata),
                Ok(Found::Public) => test.public.push(object.metadata),
                Ok(Found::InTpmAlone) => test.in_tpm_alone.push(object.metadata),
                Err(reason) => test.damaged.push(Damaged {
                    file: file.to_owned(),
                    reason: format!("of object {}, {reason}", object.metadata.id),
                }),
            }
            progress(done + 1, total);
        }
        Ok(test)
    }
}

/// The second machines whose list of allowed boots the kit does not write, though it opens all objects.
fn unwritable_seconds(
    manifest: &Manifest,
    identity: &RecoveryIdentity,
    file: &Path,
) -> Vec<Damaged> {
    let does_not_open = |(peer, record): (&PeerId, &PeerRecord)| {
        let error = record.writers.k_rec.open(identity).err()?;
        Some(Damaged {
            file: file.to_owned(),
            reason: format!(
                "the kit does not write the allowed boots of the second machine {peer} ({error}); pair it \
                 again"
            ),
        })
    };
    manifest.peers.iter().filter_map(does_not_open).collect()
}

/// What there is in an object for the recovery way.
enum Found {
    /// A secret, and it opens.
    Opened,
    /// No secret.
    Public,
    /// A key that was made in a TPM, of which there is no copy.
    InTpmAlone,
}

/// Opens an object by each of its recovery slots, for nothing but to see that it opens.
fn prove(
    object: &ObjectFile,
    key: &VaultKey,
    identity: &RecoveryIdentity,
) -> Result<Found, String> {
    if !key.verifies(Purpose::Object, object, &object.mac) {
        return Err(NOT_GENUINE.to_owned());
    }
    let payload = match (Content::of(object), &object.payload) {
        (_, Some(payload)) => payload,
        (Content::Public, None) => return Ok(Found::Public),
        (Content::TpmKey, None)
            if object
                .metadata
                .attributes
                .get(LOCAL)
                .is_some_and(|local| local == "true") =>
        {
            return Ok(Found::InTpmAlone);
        }
        (_, None) => return Err("it has no payload".to_owned()),
    };
    let mut slots = 0;
    for slot in &object.slots {
        if let Slot::Recovery { age } = slot {
            let dek = identity
                .decrypt(age)
                .map_err(|error| match error {
                    Error::RecoveryIdentity(reason) => reason,
                    other => other.to_string(),
                })
                .map_err(|reason| format!("its recovery slot does not open: {reason}"))?;
            let dek = Dek::new(dek).ok_or("the DEK in its recovery slot is not 32 bytes")?;
            open(object, payload, &dek, key)?;
            slots += 1;
        }
    }
    match slots {
        0 => Err("it has no recovery slot".to_owned()),
        _ => Ok(Found::Opened),
    }
}

fn open(object: &ObjectFile, payload: &Payload, dek: &Dek, key: &VaultKey) -> Result<(), String> {
    let metadata = payload.encrypted_as.as_deref();
    dek.decrypt(key, metadata.unwrap_or(&object.metadata), payload)
        .map(drop)
        .map_err(|_| "its payload does not open by its recovery slot".to_owned())
}
