//! The whole vault into one file.

use std::collections::BTreeSet;
use std::path::Path;

use super::{BackupReport, Unlocked};
use crate::backup::Backup;
use crate::error::{Error, Result};
use crate::object::ObjectId;
use crate::store::Damaged;

impl Unlocked {
    pub(super) fn back_up(&mut self, file: &Path) -> Result<BackupReport> {
        self.keep_others_off()?;
        let file = &Backup::place(file)?;
        let before = Backup::existing(file, self.vault.id(), &self.key)?;
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
