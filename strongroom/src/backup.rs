//! A backup: the whole vault in one file, ciphertext only, with a MAC over all of it, so that an
//! object that someone left out is missed.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::encoding::Base64;
use crate::envelope::{Purpose, VaultKey};
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::object::ObjectFile;
use crate::recovery::RecoveryKit;
use crate::store;

/// The newest format that this library reads, and the one that it writes.
const FORMAT: u64 = 1;

/// The largest backup that is read, in bytes: far above a thousand objects of 1 MiB.
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
        let mut bytes = Vec::new();
        File::open(file)
            .and_then(|open| open.take(MAX_LEN).read_to_end(&mut bytes))
            .map_err(|error| {
                Error::input(format!("backup {}", file.display()), error.to_string())
            })?;
        store::parse_json(&bytes, file, FORMAT)
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
