//! Doing what the plan says, in the one order that loses nothing: seal, read back, unseal, compare
//! (which [`Unlocked::seal`] does), copy off the boot disk, and only then clear; at last scrub.

use std::collections::{BTreeMap, BTreeSet};

use strongroom::error::Error;
use strongroom::object::{Label, Metadata, NewObject, ORIGIN, ObjectId, TokenName};
use strongroom::vault::BackupReport;
use strongroom::{Result, Secret, Unlocked};

use super::plan::{Credential, Item, Plan};
use crate::cli::Class;
use crate::truenas::credentials;
use crate::truenas::database::Database;
use crate::truenas::pwenc::PwencSecret;

/// What became of an item.
pub(crate) enum Outcome {
    /// Sealed, and its row cleared.
    Moved {
        id: ObjectId,
        /// Whether an earlier run had sealed it already.
        before: bool,
    },
    /// Sealed, but its row was edited meanwhile and left as it is.
    Changed { id: ObjectId },
    /// Not sealed; its row was left as it is.
    Failed { reason: String },
}

impl Outcome {
    /// The object, if there is one.
    pub(crate) fn id(&self) -> Option<ObjectId> {
        match self {
            Self::Moved { id, .. } | Self::Changed { id } => Some(*id),
            Self::Failed { .. } => None,
        }
    }
}

/// Seals every item, or finds the object that an earlier run made of it. Clears nothing.
///
/// # Errors
/// What stops the whole run, such as a policy that refuses; what is wrong with one row is its
/// outcome.
pub(crate) fn seal(
    plan: &mut Plan,
    vault: &mut Unlocked,
    known: &[Metadata],
    mut progress: impl FnMut(),
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::with_capacity(plan.items.len());
    let mut rows: BTreeMap<(TokenName, Label), usize> = BTreeMap::new();
    for NewObject { token, label, .. } in plan.items.iter().map(|item| &item.object) {
        *rows.entry((token.clone(), label.clone())).or_default() += 1;
    }
    for item in &mut plan.items {
        let name = (item.object.token.clone(), item.object.label.clone());
        let outcome = match seal_one(item, rows[&name] == 1, vault, known) {
            Ok(outcome) => outcome,
            Err(
                error
                @ (Error::Input { .. } | Error::ObjectDamaged { .. } | Error::NoSuchObject(_)),
            ) => Outcome::Failed {
                reason: error.to_string(),
            },
            Err(error) => return Err(error),
        };
        outcomes.push(outcome);
        progress();
    }
    Ok(outcomes)
}

/// Sees that the backup holds everything that is about to be cleared.
pub(crate) fn check_backup(backup: &BackupReport, outcomes: &[Outcome]) -> Result<()> {
    for bad in &backup.damaged {
        log::warn!("damaged: {}: {}", bad.file.display(), bad.reason);
    }
    let wanted: BTreeSet<ObjectId> = outcomes.iter().filter_map(Outcome::id).collect();
    match wanted.difference(&backup.objects).next() {
        None => Ok(()),
        Some(missing) => Err(Error::NoSuchObject(format!(
            "{missing} in the backup, so nothing was cleared"
        ))),
    }
}

/// Clears the old places, one transaction for each class, and scrubs the file.
pub(crate) fn clear(
    plan: &Plan,
    outcomes: &mut [Outcome],
    mut database: Database,
    secret: &PwencSecret,
) -> Result<()> {
    let sealed = |class| {
        plan.of(class)
            .filter(|(place, _)| outcomes[*place].id().is_some())
    };
    let datasets: Vec<_> = sealed(Class::Datasets)
        .map(|(_, item)| (item.row, item.ciphertext.clone()))
        .collect();
    let mut credentials = Vec::new();
    for (place, item) in sealed(Class::Credentials) {
        if let (Some(credential), Some(id)) = (&item.credential, outcomes[place].id()) {
            let column = placeholders(credential, id, secret).map_err(|reason| {
                Error::input(
                    format!("cloud credential {}", item.name),
                    reason.to_string(),
                )
            })?;
            credentials.push((item.row, item.ciphertext.clone(), column));
        }
    }
    let changed = database.clear_datasets(&datasets)?;
    mark(plan, outcomes, Class::Datasets, &changed);
    let changed = database.replace_credentials(&credentials)?;
    mark(plan, outcomes, Class::Credentials, &changed);

    let gone: Vec<String> = plan
        .items
        .iter()
        .zip(outcomes.iter())
        .filter(|(_, outcome)| matches!(outcome, Outcome::Moved { .. }))
        .map(|(item, _)| item.ciphertext.clone())
        .collect();
    database.scrub(&gone)
}

/// `alone`: no other row has a secret of the same name.
fn seal_one(
    item: &mut Item,
    alone: bool,
    vault: &mut Unlocked,
    known: &[Metadata],
) -> Result<Outcome> {
    complete(item, vault)?;
    let origin = item.object.attributes.get(ORIGIN).map(String::as_str);
    // A dataset's key is the dataset's, whichever row it is in: rows are made anew. Two rows of one
    // name, and credentials, each have their own.
    let by_name = item.class == Class::Datasets && alone;
    // The newest alone: it is the one that its name means. A key that was changed back is sealed
    // again, though an older version would hold it.
    let newest = known
        .iter()
        .filter(|object| {
            object.kind == item.object.kind
                && object.token == item.object.token
                && object.label == item.object.label
                && (by_name || object.origin() == origin)
        })
        .max_by_key(|object| object.generation);
    if let Some(object) = newest {
        let same = match vault.unseal(object) {
            Ok(payload) => payload.same_as(item.payload.expose()),
            // No help, and nothing to stop for: the secret is sealed anew.
            Err(Error::ObjectDamaged { .. }) => false,
            Err(error) => return Err(error),
        };
        if same {
            check_credential(item, object.id, &item.payload)?;
            return Ok(Outcome::Moved {
                id: object.id,
                before: true,
            });
        }
    }
    let id = vault.seal(item.object.clone(), &item.payload)?;
    if item.credential.is_some() {
        check_credential(item, id, &vault.unseal(id)?)?;
    }
    Ok(Outcome::Moved { id, before: false })
}

/// A credential that was migrated before, and of which someone typed a field anew, still has
/// placeholders in the others. One object takes all of its fields, so that none depends on an
/// object that looks obsolete.
fn complete(item: &mut Item, vault: &mut Unlocked) -> Result<()> {
    let Some(credential) = &mut item.credential else {
        return Ok(());
    };
    let older: BTreeSet<ObjectId> = credentials::placeholders(&credential.attributes)
        .into_iter()
        .map(|(_, id)| id)
        .collect();
    if older.is_empty() {
        return Ok(());
    }
    let unusable = |reason: credentials::AttributesError| {
        Error::input(
            format!("cloud credential {}", item.name),
            reason.to_string(),
        )
    };
    for id in older {
        let fields = vault.unseal(id)?;
        credential.attributes =
            credentials::restore(&credential.attributes, id, &fields).map_err(unusable)?;
    }
    item.payload = credentials::split(&credential.provider, &credential.attributes)
        .map_err(unusable)?
        .secret_fields();
    Ok(())
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

fn mark(plan: &Plan, outcomes: &mut [Outcome], class: Class, changed: &[i64]) {
    for (place, item) in plan.of(class) {
        if let (true, Some(id)) = (changed.contains(&item.row), outcomes[place].id()) {
            outcomes[place] = Outcome::Changed { id };
        }
    }
}
