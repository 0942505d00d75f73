//! The whole vault into one file.

use std::collections::BTreeSet;
use std::path::Path;

use super::{BackupReport, Unlocked};
use crate::backup::Backup;
use crate::error::{Error, Result};
use crate::object::ObjectId;
use crate::store::Damaged;

impl Unlocked {
    /// The backup of this vault that is in a file already, if there is any file.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that is anything else, and for a backup with objects of a token
    /// that was removed since: a backup of today has no place for them, and this one may be the
    /// last that has them.
    pub(super) fn former_backup(&self, file: &Path) -> Result<Option<Backup>> {
        let before = Backup::existing(file, self.vault.id(), &self.key)?;
        let tokens = &self.vault.manifest.tokens;
        let mut objects = before.iter().flat_map(|backup| &backup.objects);
        match objects.find(|object| !tokens.contains_key(&object.metadata.token)) {
            Some(object) => Err(Error::input(
                format!("backup {}", file.display()),
                format!(
                    "it holds objects of token {}, which the vault has no more; name another file, \
                     and keep this one as long as anyone may need them",
                    object.metadata.token
                ),
            )),
            None => Ok(before),
        }
    }

    pub(super) fn back_up(&mut self, file: &Path) -> Result<BackupReport> {
        // As it is now that nobody else writes: a token may have come since.
        self.vault.manifest = self.manifest_to_change()?;
        let file = &Backup::place(file)?;
        let before = self.former_backup(file)?;
        let mut listing = self.vault.list_all()?;
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
        self.vault
            .check_belongs(listing.objects.len(), objects.len())?;
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
}
