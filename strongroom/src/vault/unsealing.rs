//! Unsealing in its parts: reading an object's file, what the TPM does, and opening the payload. The first
//! and the last need no TPM, so that they happen on other threads while it is at work on the next key.

use std::sync::Arc;

use super::sealing::Content;
use super::{Unlocked, Vault};
use crate::envelope::{Dek, VaultKey};
use crate::error::Result;
use crate::object::{Meant, Metadata, ObjectFile};
use crate::secret::Secret;

/// Reads an unlocked vault's objects without its TPM. A clone is the same reader.
#[derive(Clone)]
pub struct Reader(Arc<Files>);

/// The files, and the key that tells which of them are genuine.
struct Files {
    vault: Vault,
    key: Arc<VaultKey>,
}

/// An object with a secret, genuine, as it was read.
pub struct Genuine {
    object: Box<ObjectFile>,
    reader: Reader,
}

/// A genuine object whose data encryption key the TPM has given out.
pub struct Unwrapped {
    object: Genuine,
    dek: Dek,
}

impl Unlocked {
    /// Reads objects, on whichever thread.
    pub fn reader(&self) -> Reader {
        Reader(Arc::new(Files {
            vault: self.vault.clone(),
            key: Arc::clone(&self.key),
        }))
    }

    /// The TPM's part of [`Unlocked::unseal`], with the same commands.
    ///
    /// # Errors
    /// [`Error::ObjectDamaged`](crate::Error::ObjectDamaged) where no slot opens;
    /// [`Error::PolicyRefused`](crate::Error::PolicyRefused).
    pub fn unwrap_dek(&mut self, object: Genuine) -> Result<Unwrapped> {
        let dek = self.dek_undisturbed(&object.object)?;
        Ok(Unwrapped { object, dek })
    }
}

impl Reader {
    /// Reads an object, and sees that it is genuine, is what is meant, and has a secret.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`](crate::Error::NoSuchObject),
    /// [`Error::ObjectDamaged`](crate::Error::ObjectDamaged);
    /// [`Error::Input`](crate::Error::Input) for a certificate, and for a private key in the TPM.
    pub fn read<'a>(&self, object: impl Into<Meant<'a>>) -> Result<Genuine> {
        let Files { vault, key } = &*self.0;
        let object = vault.read_genuine(key, object.into())?;
        Content::of(&object).check_secret(&object.metadata)?;
        Ok(Genuine {
            object: Box::new(object),
            reader: self.clone(),
        })
    }
}

impl Genuine {
    /// What is known of it.
    pub fn metadata(&self) -> &Metadata {
        &self.object.metadata
    }

    pub(super) fn file(&self) -> &ObjectFile {
        &self.object
    }
}

impl Unwrapped {
    /// Opens the payload. No TPM is asked. The object is given back too, for who wants to copy it.
    ///
    /// # Errors
    /// [`Error::ObjectDamaged`](crate::Error::ObjectDamaged).
    pub fn open(self) -> Result<(Genuine, Secret)> {
        let Files { vault, key } = &*self.object.reader.0;
        let payload = vault.open_payload(key, &self.object.object, &self.dek)?;
        Ok((self.object, payload))
    }
}
