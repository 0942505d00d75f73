//! Doing what the plan says, in the one order that loses nothing: seal, read back, unseal, compare
//! (which [`Unlocked::seal`] does), copy off the boot disk, and only then clear; at last scrub.

use std::path::Path;

use strongroom::error::Error;
use strongroom::object::{Metadata, ObjectId};
use strongroom::{Damaged, Result, Secret, Unlocked};

use super::plan::{Credential, Item, Plan};
use crate::cli::Class;
use crate::truenas::credentials;
use crate::truenas::database::Database;
use crate::truenas::pwenc::PwencSecret;

/// What became of an item.
pub(crate) struct Moved {
    pub(crate) id: ObjectId,
    /// Whether an earlier run had sealed it already.
    pub(crate) before: bool,
    /// Whether the row was edited meanwhile and so was left as it is.
    pub(crate) changed: bool,
}

/// Seals every item, or finds the object that an earlier run made of it. Clears nothing.
pub(crate) fn seal(
    plan: &mut Plan,
    vault: &mut Unlocked,
    known: &[Metadata],
    mut progress: impl FnMut(),
) -> Result<Vec<Moved>> {
    let mut moved = Vec::with_capacity(plan.items.len());
    for item in &mut plan.items {
        moved.push(seal_one(item, vault, known)?);
        progress();
    }
    Ok(moved)
}

/// Writes the vault's copy and sees that it holds everything that is about to be cleared.
pub(crate) fn check_backup(damaged: &[Damaged], moved: &[Moved]) -> Result<()> {
    for bad in damaged {
        let ours = moved
            .iter()
            .any(|item| bad.file.ends_with(format!("{}.json", item.id)));
        if ours {
            return Err(Error::ObjectDamaged {
                file: bad.file.clone(),
                reason: bad.reason.clone(),
            });
        }
        log::warn!("not in the backup: {}: {}", bad.file.display(), bad.reason);
    }
    Ok(())
}

/// Clears the old places, one transaction for each class, and scrubs the file.
pub(crate) fn clear(
    plan: &Plan,
    moved: &mut [Moved],
    mut database: Database,
    secret: &PwencSecret,
) -> Result<()> {
    let datasets: Vec<_> = plan
        .of(Class::Datasets)
        .map(|(_, item)| (item.row, item.ciphertext.clone()))
        .collect();
    let changed = database.clear_datasets(&datasets)?;
    mark(plan, moved, Class::Datasets, &changed);

    let credentials: Vec<_> = plan
        .of(Class::Credentials)
        .filter_map(|(place, item)| {
            let credential = item.credential.as_ref()?;
            let column = placeholders(credential, moved[place].id, secret).ok()?;
            Some((item.row, item.ciphertext.clone(), column))
        })
        .collect();
    let changed = database.replace_credentials(&credentials)?;
    mark(plan, moved, Class::Credentials, &changed);

    let gone: Vec<String> = plan
        .items
        .iter()
        .zip(moved.iter())
        .filter(|(_, moved)| !moved.changed)
        .map(|(item, _)| item.ciphertext.clone())
        .collect();
    database.scrub(&gone)
}

fn seal_one(item: &mut Item, vault: &mut Unlocked, known: &[Metadata]) -> Result<Moved> {
    let earlier = known.iter().filter(|object| {
        object.kind == item.object.kind
            && object.token == item.object.token
            && object.origin()
                == item
                    .object
                    .attributes
                    .get(strongroom::object::ORIGIN)
                    .map(String::as_str)
    });
    for object in earlier {
        item.object.generation = item.object.generation.max(object.generation + 1);
        // A damaged one is no help, and nothing to stop for: the secret is sealed anew.
        let same = vault
            .unseal(object.id)
            .is_ok_and(|payload| payload.same_as(item.payload.expose()));
        if same && object.label == item.object.label {
            check_credential(item, object.id, &item.payload)?;
            return Ok(Moved {
                id: object.id,
                before: true,
                changed: false,
            });
        }
    }
    let id = vault.seal(item.object.clone(), &item.payload)?;
    check_credential(item, id, &vault.unseal(id)?)?;
    Ok(Moved {
        id,
        before: false,
        changed: false,
    })
}

/// Sees that the column with placeholders and the object together give the column as it was.
fn check_credential(item: &Item, id: ObjectId, unsealed: &Secret) -> Result<()> {
    let Some(credential) = &item.credential else {
        return Ok(());
    };
    let unusable = |reason: String| Error::input(format!("cloud credential {}", item.name), reason);
    let split = credentials::split(&credential.provider, &credential.attributes)
        .map_err(|reason| unusable(reason.to_string()))?;
    let restored = credentials::restore(&split.with_placeholders(id), id, unsealed)
        .map_err(|reason| unusable(reason.to_string()))?;
    if restored.same_as(credential.attributes.expose()) {
        Ok(())
    } else {
        Err(unusable(
            "its secret fields and placeholders would not give it back as it was".to_owned(),
        ))
    }
}

/// The new column: the attributes with placeholders, encrypted as the old one was.
fn placeholders(
    credential: &Credential,
    id: ObjectId,
    secret: &PwencSecret,
) -> Result<String, credentials::AttributesError> {
    let split = credentials::split(&credential.provider, &credential.attributes)?;
    let attributes = split.with_placeholders(id);
    Ok(secret.encrypt(attributes.expose(), credential.padding))
}

fn mark(plan: &Plan, moved: &mut [Moved], class: Class, changed: &[i64]) {
    for (place, item) in plan.of(class) {
        moved[place].changed |= changed.contains(&item.row);
    }
}

/// Whether a backup can be written here at all, before anything else is begun.
pub(crate) fn check_backup_place(file: &Path) -> Result<()> {
    let dir = match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    if dir.is_dir() && !file.is_dir() {
        Ok(())
    } else {
        Err(Error::input(
            format!("--backup {}", file.display()),
            "it must be a file in a folder that exists",
        ))
    }
}
