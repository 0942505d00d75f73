//! Which object a selector means.

use super::{Listing, Vault};
use crate::error::{Error, Result};
use crate::object::{Metadata, ObjectFile};
use crate::uri::Selector;

impl Vault {
    pub(super) fn find_newest(&self, selector: &Selector) -> Result<Metadata> {
        if let Some(id) = selector.id {
            let matches = |object: &ObjectFile| {
                if selector.matches(&object.metadata) {
                    Ok(())
                } else {
                    Err(Error::NoSuchObject(selector.to_string()))
                }
            };
            return self.read(id, matches).map(|object| object.metadata);
        }
        let Listing { objects, damaged } = self.list()?;
        let meant: Vec<Metadata> = objects
            .into_iter()
            .filter(|object| selector.matches(object))
            .collect();
        let newest = |object: &&Metadata| !meant.iter().any(|other| other.supersedes(object));
        let mut found: Vec<Metadata> = meant.iter().filter(newest).cloned().collect();
        // A damaged file does not tell whether it is the one that is meant, or a newer version.
        for bad in &damaged {
            log::warn!("{} is damaged: {}", bad.file.display(), bad.reason);
        }
        match found.len() {
            0 if damaged.is_empty() => Err(Error::NoSuchObject(selector.to_string())),
            0 => Err(Error::NoSuchObject(format!(
                "{selector} among those that can be read ({} cannot)",
                damaged.len()
            ))),
            1 => Ok(found.remove(0)),
            count => Err(Error::AmbiguousObject {
                selector: selector.to_string(),
                count,
                ids: found
                    .iter()
                    .map(|object| object.id.to_string())
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }
}
