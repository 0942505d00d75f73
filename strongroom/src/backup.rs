//! A backup: the whole vault in one file, ciphertext only, with a MAC over all of it, so that an
//! object that someone left out is missed.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::encoding::Base64;
use crate::envelope::{Purpose, VaultKey};
use crate::error::{Error, Result};
use crate::manifest::{self, Manifest};
use crate::object::{NEWEST_OBJECT_FORMAT, ObjectFile};
use crate::recovery::RecoveryKit;
use crate::store;

/// The newest format that this library reads, and the one that it writes.
const FORMAT: u64 = 1;

/// The largest backup that is read, in bytes. (It is built in memory, several times its size.)
const MAX_LEN: u64 = 4 << 30;

/// A vault as one file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Backup {
    format: u64,
    pub(crate) manifest: Manifest,
    pub(crate) objects: Vec<ObjectFile>,
    mac: Base64,
}

impl Backup {
    pub(crate) fn new(manifest: Manifest, objects: Vec<ObjectFile>, key: &VaultKey) -> Self {
        let mut backup = Self {
            format: FORMAT,
            manifest,
            objects,
            mac: Base64::default(),
        };
        backup.mac = key.mac(Purpose::Backup, &backup);
        backup
    }

    /// Where a backup to this file really goes: a link's target, for a file that is renamed over
    /// a link would lie beside the link.
    pub(crate) fn place(file: &Path) -> Result<PathBuf> {
        let refuse = |reason: &str| Error::input(format!("backup {}", file.display()), reason);
        let folder = file.parent().filter(|dir| !dir.as_os_str().is_empty());
        if !folder.unwrap_or(Path::new(".")).is_dir() {
            return Err(refuse(
                "its folder does not exist; name a file in one that does",
            ));
        }
        match fs::symlink_metadata(file) {
            Ok(there) if there.is_symlink() => fs::canonicalize(file)
                .map_err(|_| refuse("it is a link to nothing; name the file itself")),
            _ => Ok(file.to_owned()),
        }
    }

    /// The backup of this very vault that is in `file` already, if there is any file.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that is anything else: to write over it would destroy it.
    pub(crate) fn existing(file: &Path, vault_id: &str, key: &VaultKey) -> Result<Option<Self>> {
        if fs::symlink_metadata(file).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Ok(None);
        }
        Self::parse(file)
            .and_then(|backup| {
                backup.authenticate(file, key)?;
                Ok(backup)
            })
            .ok()
            .filter(|backup| backup.manifest.id == vault_id)
            .map(Some)
            .ok_or_else(|| {
                Error::input(
                    format!("backup {}", file.display()),
                    "it exists and is no backup of this vault; name another file",
                )
            })
    }

    /// Writes the file, reads it back and compares.
    pub(crate) fn write(&self, file: &Path, key: &VaultKey) -> Result<()> {
        store::write(file, &store::to_json(self))?;
        let again = Self::parse(file)?;
        again.authenticate(file, key)?;
        if again == *self {
            Ok(())
        } else {
            Err(Error::VaultDamaged {
                file: file.to_owned(),
                reason: "what was read back is not what was written".to_owned(),
            })
        }
    }

    /// Reads a backup and authenticates it with the recovery kit.
    pub(crate) fn read(file: &Path, kit: &RecoveryKit) -> Result<Self> {
        let backup = Self::parse(file)?;
        let key = backup.manifest.vault_key_by_recovery(kit, file)?;
        backup.authenticate(file, &key)?;
        Ok(backup)
    }

    fn parse(file: &Path) -> Result<Self> {
        let bytes = store::read_up_to(file, MAX_LEN).map_err(|error| match error {
            Error::Io { source, .. } => {
                Error::input(format!("backup {}", file.display()), source.to_string())
            }
            other => other,
        })?;
        let backup: Self = store::parse_json_at(
            &bytes,
            file,
            &[
                ("/format", FORMAT),
                ("/manifest/format", manifest::FORMAT),
                ("/objects/*/metadata/format", NEWEST_OBJECT_FORMAT),
            ],
        )?;
        backup.check().map_err(|reason| Error::VaultDamaged {
            file: file.to_owned(),
            reason,
        })?;
        Ok(backup)
    }

    /// Every object has a place in the vault, and one only.
    fn check(&self) -> Result<(), String> {
        self.manifest.check()?;
        let mut ids = BTreeSet::new();
        for object in &self.objects {
            let metadata = &object.metadata;
            object.check()?;
            if !self.manifest.tokens.contains_key(&metadata.token) {
                return Err(format!(
                    "object {} is of token {}, which the vault lacks",
                    metadata.id, metadata.token
                ));
            }
            if !ids.insert(metadata.id) {
                return Err(format!("object {} is there twice", metadata.id));
            }
        }
        Ok(())
    }

    fn authenticate(&self, file: &Path, key: &VaultKey) -> Result<()> {
        if key.verifies(Purpose::Backup, self, &self.mac) {
            Ok(())
        } else {
            Err(Error::VaultForged {
                file: file.to_owned(),
                reason: "the backup's MAC does not fit its content".to_owned(),
            })
        }
    }
}
