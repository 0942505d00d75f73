//! Copies of single objects for the recovery kit alone.

use super::Unlocked;
use super::sealing::Content;
use crate::error::{Error, Result};
use crate::object::{Meant, Metadata, ObjectFile, Payload, Slot};
use crate::recovery_copy::{CopiedObject, RecoveryCopy};

impl Unlocked {
    pub(super) fn copy_for_recovery(&self, objects: &[&Metadata]) -> Result<RecoveryCopy> {
        let objects = objects
            .iter()
            .map(|listed| {
                let object = self.vault.read_genuine(&self.key, Meant::Listed(listed))?;
                Content::of(&object).check_secret(&object.metadata)?;
                Ok(object)
            })
            .collect::<Result<Vec<_>>>()?;
        self.copy_for_kit(objects)
    }

    /// A copy of genuine objects that have a secret.
    pub(super) fn copy_for_kit(&self, objects: Vec<ObjectFile>) -> Result<RecoveryCopy> {
        let copied = objects
            .into_iter()
            .map(copied)
            .collect::<Result<Vec<_>>>()?;
        let manifest = &self.vault.manifest;
        let vault_key = manifest.vault_key.recovery.clone();
        Ok(RecoveryCopy::new(
            manifest.id.clone(),
            vault_key,
            copied,
            &self.key,
        ))
    }
}

/// What of an object the kit needs.
fn copied(object: ObjectFile) -> Result<CopiedObject> {
    let recovery = object.slots.into_iter().find_map(|slot| match slot {
        Slot::Recovery { age } => Some(age),
        Slot::Tpm { .. } | Slot::TpmDuplicate { .. } | Slot::TpmKey { .. } => None,
    });
    match (object.payload, recovery) {
        (Some(payload), Some(recovery)) => Ok(CopiedObject {
            // It has no slot of any TPM.
            metadata: object.metadata.of_one_tpm(),
            payload: of_one_tpm(payload),
            recovery,
        }),
        _ => Err(Error::input(
            format!("object {}", object.metadata.id),
            "it has no recovery slot, so that the recovery kit would not open a copy of it",
        )),
    }
}

fn of_one_tpm(mut payload: Payload) -> Payload {
    let before = payload.encrypted_as.take();
    payload.encrypted_as = before.map(|before| Box::new(before.of_one_tpm()));
    payload
}
