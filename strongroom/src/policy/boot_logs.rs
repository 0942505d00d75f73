//! The event logs of the allowed boots, kept to say what is different when the policy refuses.
//!
//! ```text
//! VAULT/event-logs/DIGEST.bin       the firmware's log of the boot whose branch has this digest
//! VAULT/event-logs/DIGEST.systemd   systemd's log of the same boot, where it kept one
//! ```
//!
//! They are a hint, and nothing but words comes of them. One is used as far as it leads to the PCRs
//! of its branch, for which the TPM's index vouches: what somebody else has put there leads
//! nowhere, and a refusal says by numbers alone which PCRs differ. Nothing in them is secret; as
//! the kernel's, they are for their owner to read.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::branch::{Branch, Branches};
use super::pcr::PcrValues;
use super::refusal::Refusal;
use crate::error::{Error, Result};
use crate::event_log::{Change, EventLog, Place, Recording, compare, reset_value};
use crate::store;

/// The longest log that is kept. Firmware has room for some 64 KiB, and at most a few hundred.
const LONGEST: u64 = 1 << 20;

/// Where the logs are: those of the allowed boots in a folder, and the present one's.
#[derive(Clone, Debug)]
pub(crate) struct BootLogs {
    folder: PathBuf,
    present: Place,
}

/// What was measured, as far as a log leads to the values that the PCRs have.
struct Measured<'a> {
    log: EventLog,
    replayed: BTreeMap<u8, [u8; 32]>,
    values: &'a PcrValues,
}

impl BootLogs {
    pub(crate) fn new(folder: PathBuf, present: Place) -> Self {
        Self { folder, present }
    }

    /// Compares the present state with each allowed one. `present` holds all PCRs of all branches.
    /// Asks no TPM.
    pub(crate) fn explain(&self, present: &PcrValues, allowed: &Branches) -> Refusal {
        let mut refusal = Refusal::explain(present, allowed);
        if !refusal.differing.is_empty() {
            refusal.changes = self.changes(present, allowed, refusal.differing.len());
        }
        refusal
    }

    /// Keeps the present boot's log for each allowed boot that it leads to, and none of a boot that
    /// is not allowed. What cannot be kept is missed by nobody but who wants an explanation.
    pub(crate) fn keep(&self, allowed: &Branches) {
        self.keep_as_read(allowed, self.present.read());
    }

    /// The same of a log that was read already.
    pub(crate) fn keep_as_read(&self, allowed: &Branches, present: Result<Option<Recording>>) {
        let kept = self.drop_all_but(allowed).and_then(|()| {
            let Some(recording) = present? else {
                return Ok(());
            };
            // A phase that is past is a boot of its own in the list.
            let stages: Vec<Recording> = recording.stages().collect();
            boots(allowed).try_for_each(|branch| {
                let its = |stage: &&Recording| leads_to(stage.log(), &branch.pcrs);
                match stages.iter().find(its) {
                    Some(stage) => self.write(branch, stage),
                    None => Ok(()),
                }
            })
        });
        if let Err(error) = kept {
            log::warn!(
                "this boot's event log is not kept, so that a refusal will name PCRs alone: {error}"
            );
        }
    }

    fn write(&self, branch: &Branch, recording: &Recording) -> Result<()> {
        let parts = [Some(&recording.firmware), recording.systemd.as_ref()];
        if let Some(long) = parts.iter().flatten().find(|it| it.len() as u64 > LONGEST) {
            return Err(Error::input(
                "the event log",
                format!("it has {} bytes, more than any firmware's", long.len()),
            ));
        }
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io("make the folder", &self.folder)(error));
            }
            _ => store::sync_dir(self.folder.parent().unwrap_or(Path::new(".")))?,
        }
        for (file, bytes) in self.files(branch).into_iter().zip(parts) {
            let there = store::read_up_to(&file, LONGEST).ok();
            match bytes {
                Some(bytes) if there.as_ref() != Some(bytes) => store::write(&file, bytes)?,
                None if there.is_some() => store::remove(&file)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes whatever is no log of an allowed boot, and what a writer that was killed has left.
    fn drop_all_but(&self, allowed: &Branches) -> Result<()> {
        let expected: Vec<PathBuf> = allowed.iter().flat_map(|it| self.files(it)).collect();
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(Error::io("read", &self.folder))?,
        };
        for entry in entries {
            let file = entry.map_err(Error::io("read", &self.folder))?.path();
            if !expected.contains(&file) {
                store::remove(&file)?;
            }
        }
        Ok(())
    }

    fn files(&self, branch: &Branch) -> [PathBuf; 2] {
        let digest = hex::encode(branch.digest().as_bytes());
        ["bin", "systemd"].map(|kind| self.folder.join(format!("{digest}.{kind}")))
    }

    /// What is different from the nearest allowed boot of which that can be said. `fewest`: in how
    /// many PCRs the nearest differ.
    fn changes(&self, present: &PcrValues, allowed: &Branches, fewest: usize) -> Vec<Change> {
        let explained = || -> Result<Vec<Change>> {
            let Some(recording) = self.present.read()? else {
                return Ok(Vec::new());
            };
            let now = Measured::new(recording.log().clone(), present);
            for branch in boots(allowed) {
                let differing = branch.pcrs.differing_from(present);
                if differing.len() > fewest {
                    continue;
                }
                let Some(log) = self.kept(branch)? else {
                    continue;
                };
                let before = Measured::new(log, &branch.pcrs);
                let changes: Vec<Change> = differing
                    .into_iter()
                    .filter(|pcr| before.is_led_to(*pcr) && now.is_led_to(*pcr))
                    .flat_map(|pcr| compare(&before.log, &now.log, pcr))
                    .collect();
                if !changes.is_empty() {
                    return Ok(changes);
                }
            }
            Ok(Vec::new())
        };
        explained().unwrap_or_else(|error| {
            log::debug!("what has changed is not known: {error}");
            Vec::new()
        })
    }

    fn kept(&self, branch: &Branch) -> Result<Option<EventLog>> {
        let read = |file: &Path| match store::read_up_to(file, LONGEST) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(None)
            }
            other => other.map(Some),
        };
        let [firmware, systemd] = self.files(branch);
        match read(&firmware)? {
            Some(bytes) => Recording::new(bytes, read(&systemd)?).map(|it| Some(it.log().clone())),
            None => Ok(None),
        }
    }
}

/// The branches that are of one boot each, as a suspension is not.
fn boots(allowed: &Branches) -> impl Iterator<Item = &Branch> {
    allowed.iter().filter(|branch| branch.suspended.is_none())
}

impl<'a> Measured<'a> {
    fn new(log: EventLog, values: &'a PcrValues) -> Self {
        Self {
            replayed: log.replay(),
            log,
            values,
        }
    }

    fn is_led_to(&self, pcr: u8) -> bool {
        let replayed = self.replayed.get(&pcr).copied();
        self.values.get(pcr) == Some(&replayed.unwrap_or_else(|| reset_value(pcr)))
    }
}

fn leads_to(log: &EventLog, values: &PcrValues) -> bool {
    let measured = Measured::new(log.clone(), values);
    values.selection().iter().all(|pcr| measured.is_led_to(pcr))
}
