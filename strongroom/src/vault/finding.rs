//! Which object a selector means.

use super::{Listing, Vault};
use crate::error::{Error, Result};
use crate::object::{Metadata, ObjectFile, TokenName};
use crate::uri::Selector;

impl Vault {
    /// The same as [`Vault::list`], for what must not overlook anything: whoever writes, and backups.
    pub(super) fn list_all(&self) -> Result<Listing> {
        let listing = self.list()?;
        match listing.unreadable.first() {
            None => Ok(listing),
            Some(token) => {
                let denied = std::io::ErrorKind::PermissionDenied;
                Err(Error::io("read", &self.store.token_dir(token))(
                    denied.into(),
                ))
            }
        }
    }

    pub(super) fn check_has(&self, token: &TokenName) -> Result<()> {
        if self.manifest.tokens.contains_key(token) {
            Ok(())
        } else {
            Err(Error::NoSuchToken(token.to_string()))
        }
    }

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
        let Listing {
            objects,
            damaged,
            unreadable,
        } = self.list()?;
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
            0 if damaged.is_empty() => {
                Err(Error::NoSuchObject(among_readable(selector, &unreadable)))
            }
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

/// What was looked for, and where it was not looked for.
pub(super) fn among_readable(sought: &impl ToString, unreadable: &[TokenName]) -> String {
    let sought = sought.to_string();
    if unreadable.is_empty() {
        return sought;
    }
    let tokens: Vec<_> = unreadable.iter().map(TokenName::as_str).collect();
    format!(
        "{sought} in the tokens that this user may read ({} are not among them)",
        tokens.join(", ")
    )
}
