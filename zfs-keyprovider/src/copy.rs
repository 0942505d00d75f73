//! The recovery copy that an encryption root carries as a ZFS user property.

use strongroom::object::Metadata;
use strongroom::vault::Genuine;
use strongroom::{Error, Unlocked};

use crate::failure::Failure;
use crate::zfs::ZfsError;
use crate::zfs::properties::{self, FORMER_RECOVERY, MAX_USER_PROPERTY, RECOVERY};

/// A copy of these sealed keys, newest first, as the property holds it.
pub(crate) fn text(unlocked: &Unlocked, objects: &[&Metadata]) -> Result<String, Failure> {
    that_has_room(unlocked.recovery_copy(objects)?.to_string())
}

/// The same of one that was read already.
pub(crate) fn text_of(unlocked: &Unlocked, object: &Genuine) -> Result<String, Failure> {
    that_has_room(unlocked.recovery_copy_of(object)?.to_string())
}

fn that_has_room(text: String) -> Result<String, Failure> {
    if text.len() > MAX_USER_PROPERTY {
        return Err(Error::input(
            "recovery copy",
            format!(
                "it has {} bytes, and a ZFS property has room for {MAX_USER_PROPERTY}",
                text.len()
            ),
        )
        .into());
    }
    Ok(text)
}

/// Has a dataset carry a copy, and sees that it does.
pub(crate) fn put(dataset: &str, text: &str) -> Result<(), ZfsError> {
    properties::set(dataset, RECOVERY, text)?;
    match properties::recovery_copies(&[dataset])?.get(dataset) {
        Some(there) if there == text => Ok(()),
        _ => Err(ZfsError::Failed(format!(
            "the property {RECOVERY} of {dataset} is not what it was set to"
        ))),
    }
}

/// The copies that a dataset carries: its own, and while its key was being changed the one before.
pub(crate) fn of(dataset: &str) -> Result<Vec<String>, Failure> {
    let mut texts = Vec::new();
    for property in [RECOVERY, FORMER_RECOVERY] {
        texts.extend(properties::copies(property, &[dataset])?.remove(dataset));
    }
    if texts.is_empty() {
        return Err(Failure::unknown(
            dataset,
            format!("it carries no recovery copy (its property {RECOVERY} is not set)"),
        ));
    }
    Ok(texts)
}
