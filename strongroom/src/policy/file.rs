//! `policy.json`: the list of allowed boots on disk. A hint only: it is believed if it hashes to
//! what N holds.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::branch::Branches;
use super::digest::PolicyDigest;
use crate::error::{Error, Result};
use crate::store;

/// The newest format that this library reads. It writes the lowest that has all that is there.
const FORMAT: u64 = LABELS;

/// The format of lists without labels, and the first that has them.
const PLAIN: u64 = 1;
const LABELS: u64 = 2;

/// The list that N holds, and while N is being rewritten the one that it will hold: written ahead,
/// so that a crash between the two writes loses neither.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct PolicyFile {
    format: u64,
    pub(crate) current: Branches,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<Branches>,
}

impl PolicyFile {
    pub(crate) fn settled(current: Branches) -> Self {
        Self::new(current, None)
    }

    pub(crate) fn ahead(current: Branches, next: Branches) -> Self {
        Self::new(current, Some(next))
    }

    fn new(current: Branches, next: Option<Branches>) -> Self {
        let labelled = [Some(&current), next.as_ref()]
            .into_iter()
            .flatten()
            .any(Branches::are_labelled);
        Self {
            format: if labelled { LABELS } else { PLAIN },
            current,
            next,
        }
    }

    /// # Errors
    /// [`Error::PolicyFile`] for one that is missing or spoilt, which the recovery kit mends.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let parsed = store::read(file)
            .and_then(|bytes| store::parse_json::<Self>(&bytes, file, FORMAT))
            .and_then(|parsed| parsed.of_its_format(file));
        parsed.map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Error::PolicyFile {
                    file: file.to_owned(),
                    reason: "it is missing".to_owned(),
                }
            }
            Error::VaultDamaged { file, reason } => Error::PolicyFile { file, reason },
            other => other,
        })
    }

    /// Refuses members that its format does not have: older versions would refuse them too.
    fn of_its_format(self, file: &Path) -> Result<Self> {
        if self == Self::new(self.current.clone(), self.next.clone()) {
            return Ok(self);
        }
        Err(Error::VaultDamaged {
            file: file.to_owned(),
            reason: format!("it is not what a file of format {} is", self.format),
        })
    }

    /// The list that hashes to what N holds.
    pub(crate) fn that_holds(self, in_force: &[u8; 32], file: &Path) -> Result<Branches> {
        let holds = |list: &Branches| same(list.digest(), in_force);
        [Some(self.current), self.next]
            .into_iter()
            .flatten()
            .find(holds)
            .ok_or_else(|| Error::PolicyFile {
                file: file.to_owned(),
                reason: "it is another list".to_owned(),
            })
    }
}

fn same(digest: PolicyDigest, in_force: &[u8; 32]) -> bool {
    digest.as_bytes() == in_force
}
