//! Objects without a payload, and objects that get another label, other attributes or another payload.

use super::Unlocked;
use super::keys::check_unchanged;
use crate::encoding::Base64;
use crate::error::{Error, Result};
use crate::object::{Kind, MAX_PAYLOAD, Meant, Metadata, NewObject, ObjectFile, ObjectId, PIN};
use crate::secret::Secret;

impl Unlocked {
    pub(super) fn store_new(&mut self, object: NewObject) -> Result<ObjectId> {
        // What is a secret by its kind must not be there without one.
        if !matches!(object.kind, Kind::Certificate | Kind::Credential) {
            return Err(Error::input(
                format!("object {}", object.label),
                format!("a {} has a secret, and is sealed", object.kind),
            ));
        }
        let file = ObjectFile {
            metadata: self.new_metadata(object)?,
            payload: None,
            slots: Vec::new(),
            mac: Base64::default(),
        };
        let metadata = file.metadata.clone();
        self.keep(file, |vault, _| vault.genuine(&metadata).map(|_| ()))
    }

    pub(super) fn change(
        &mut self,
        meant: Meant<'_>,
        change: impl FnOnce(&mut NewObject),
    ) -> Result<()> {
        // After this nobody else writes.
        self.known()?;
        let old = self.vault.read_genuine(&self.key, meant)?;
        let metadata = self.changed(&old.metadata, change)?;
        if metadata == old.metadata {
            return Ok(());
        }
        let machine = self.vault.machine;
        let opens_here = old.slots.iter().any(|slot| slot.is_dek_of(machine));
        let (secret, file) = if opens_here {
            let dek = self.dek(&old)?;
            let secret = self.vault.open_payload(&self.key, &old, &dek)?;
            let (payload, slots) = self.envelope(&metadata, &secret)?;
            let file = ObjectFile {
                metadata,
                payload: Some(payload),
                slots,
                mac: Base64::default(),
            };
            (Some(secret), file)
        } else {
            // The copy of an imported key, which the recovery kit alone opens, stays as it is.
            let payload = old.payload.map(|mut payload| {
                let before = payload
                    .encrypted_as
                    .take()
                    .unwrap_or_else(|| Box::new(old.metadata));
                // Changed back, it has nothing to say.
                payload.encrypted_as =
                    Some(before).filter(|before| before.of_one_tpm() != metadata.of_one_tpm());
                payload
            });
            let file = ObjectFile {
                metadata,
                payload,
                slots: old.slots,
                mac: Base64::default(),
            };
            (None, file)
        };
        self.write_over(file, secret.as_ref())
    }

    pub(super) fn replace_payload(&mut self, meant: Meant<'_>, payload: &Secret) -> Result<()> {
        // After this nobody else writes.
        self.known()?;
        let old = self.vault.read_genuine(&self.key, meant)?;
        let metadata = old.metadata;
        if metadata.kind != Kind::Credential || old.payload.is_none() {
            return Err(Error::input(
                format!("object {}", metadata.id),
                "only what is in a credential can be replaced; anything else is sealed as a new object",
            ));
        }
        if payload.len() > MAX_PAYLOAD {
            return Err(Error::input(
                format!("the new secret of object {}", metadata.id),
                format!("it is longer than {MAX_PAYLOAD} bytes"),
            ));
        }
        let (sealed, slots) = self.envelope(&metadata, payload)?;
        let file = ObjectFile {
            metadata,
            payload: Some(sealed),
            slots,
            mac: Base64::default(),
        };
        self.write_over(file, Some(payload))
    }

    /// Puts an object's file in the place of the old one, once it was read back from disk, and its
    /// secret, where it has one that opens here, was unsealed and compared.
    fn write_over(&mut self, file: ObjectFile, secret: Option<&Secret>) -> Result<()> {
        let file = self.with_mac(file);
        let staged = self.vault.store.stage_object(&file)?;
        let again = staged.read()?;
        let same = match secret {
            Some(secret) => {
                let dek = self.dek(&again)?;
                let payload = self.vault.open_payload(&self.key, &again, &dek)?;
                payload.same_as(secret.expose())
            }
            None => true,
        };
        if again != file || !same {
            let reason =
                "what was read back is not what was to be written; the object is as it was";
            return Err(self.vault.damaged(&file, reason.to_owned()));
        }
        staged.commit()?;
        let id = file.metadata.id;
        let known = self.known()?;
        known.retain(|object| object.id != id);
        known.push(file.metadata);
        Ok(())
    }

    /// The metadata after a change of what may change.
    fn changed(&mut self, old: &Metadata, change: impl FnOnce(&mut NewObject)) -> Result<Metadata> {
        let mut new = NewObject::of(old);
        change(&mut new);
        if new.token != old.token || new.kind != old.kind {
            return Err(Error::input(
                format!("change of object {}", old.id),
                "an object keeps its token and its kind",
            ));
        }
        check_unchanged(old, &new)?;
        if old.attributes.get(PIN) != new.attributes.get(PIN) {
            return Err(Error::input(
                format!("attribute {PIN} of object {}", old.id),
                "it is what the object is sealed under, and does not change",
            ));
        }
        let mut metadata = self.new_metadata(new)?;
        (metadata.id, metadata.format) = (old.id, old.format);
        if metadata.version_of() == old.version_of() {
            metadata.generation = old.generation;
        }
        Ok(metadata)
    }
}
