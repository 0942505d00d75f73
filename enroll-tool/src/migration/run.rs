//! Doing what the plan says, in the one order that loses nothing: seal, read back, unseal, compare
//! (which [`Unlocked::seal`] does), copy off the boot disk, and only then clear; at last scrub.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use strongroom::error::Error;
use strongroom::object::{
    CERTIFICATE, Kind, Label, Metadata, NewObject, ORIGIN, ObjectId, TokenName,
};
use strongroom::vault::BackupReport;
use strongroom::{Result, Secret, Unlocked};

use super::classes::{self, Form, Successor, placeholder};
use super::plan::{Item, Plan};
use crate::cli::Class;
use crate::truenas::credentials;
use crate::truenas::database::{Change, Database};
use crate::truenas::pwenc::PwencSecret;

/// What became of an item.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// Sealed, and its value cleared.
    Moved {
        id: ObjectId,
        /// Whether an earlier run had sealed it already.
        before: bool,
    },
    /// Sealed, but its value was edited meanwhile and left as it is.
    Changed { id: ObjectId },
    /// Not sealed; its value was left as it is.
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
/// `refused`: by place, the items that are not to be sealed, and why; `shared`: the objects that more than
/// one row refers to ([`classes::shared`]).
///
/// # Errors
/// What stops the whole run, such as a policy that refuses; what is wrong with one value is its
/// outcome.
pub(crate) fn seal(
    plan: &mut Plan,
    refused: &BTreeMap<usize, String>,
    vault: &mut Unlocked,
    known: &[Metadata],
    shared: &BTreeSet<ObjectId>,
    mut progress: impl FnMut(),
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::with_capacity(plan.items.len());
    let mut rows: BTreeMap<(TokenName, Label), usize> = BTreeMap::new();
    for NewObject { token, label, .. } in plan.items.iter().map(|item| &item.object) {
        *rows.entry((token.clone(), label.clone())).or_default() += 1;
    }
    for (place, item) in plan.items.iter_mut().enumerate() {
        let name = (item.object.token.clone(), item.object.label.clone());
        let sealed = match refused.get(&place) {
            Some(reason) => Ok(Outcome::Failed {
                reason: reason.clone(),
            }),
            None => seal_one(item, rows[&name] == 1, vault, known, shared),
        };
        let outcome = match sealed {
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

/// Clears the old places of what is sealed, one transaction for each class, of which `done` is told
/// afterwards.
pub(crate) fn clear(
    plan: &Plan,
    outcomes: &mut [Outcome],
    database: &mut Database,
    secret: &PwencSecret,
    mut done: impl FnMut(Class) -> Result<()>,
) -> Result<()> {
    for class in Class::ALL {
        let mut places = Vec::new();
        let mut changes = Vec::new();
        for (place, item) in plan.of(class) {
            if let Some(id) = outcomes[place].id() {
                places.push(place);
                changes.push(change(item, id, secret)?);
            }
        }
        if changes.is_empty() {
            continue;
        }
        for missed in database.replace(&changes)? {
            let place = places[missed];
            if let Some(id) = outcomes[place].id() {
                outcomes[place] = Outcome::Changed { id };
            }
        }
        done(class)?;
    }
    Ok(())
}

/// The ciphertexts of what was moved: none of them may be left in the database's files.
pub(crate) fn gone<'a>(
    plan: &'a Plan,
    outcomes: &'a [Outcome],
) -> impl Iterator<Item = String> + use<'a> {
    plan.items
        .iter()
        .zip(outcomes)
        .filter(|(_, outcome)| matches!(outcome, Outcome::Moved { .. }))
        .map(|(item, _)| item.ciphertext.clone())
}

/// What takes an item's place.
fn change(item: &Item, id: ObjectId, secret: &PwencSecret) -> Result<Change> {
    let new = match &item.successor {
        Successor::Nothing => None,
        Successor::Placeholder => Some(secret.encrypt(placeholder(id).as_bytes(), item.padding)),
        Successor::Fields(fields) => {
            let attributes = fields
                .with_placeholders(id)
                .map_err(|reason| unusable(item, reason.to_string()))?;
            Some(secret.encrypt(attributes.expose(), item.padding))
        }
    };
    Ok(Change {
        cell: item.cell.clone(),
        expected: Some(item.ciphertext.clone()),
        new,
        kmip_uid: (item.class == Class::Datasets).then_some(None),
    })
}

/// `alone`: no other row has a secret of the same name.
fn seal_one(
    item: &mut Item,
    alone: bool,
    vault: &mut Unlocked,
    known: &[Metadata],
    shared: &BTreeSet<ObjectId>,
) -> Result<Outcome> {
    let former = complete(item, vault, known)?.filter(|former| !shared.contains(former));
    if let Some(object) = newest_of(item, alone, known) {
        if holds(object, item, vault)? {
            check_fields(item, object.id, &item.payload)?;
            keep_certificate(item, object.id, vault, known)?;
            return Ok(Outcome::Moved {
                id: object.id,
                before: true,
            });
        }
    }
    let id = match (&item.form, former) {
        (Form::Sealed, Some(former)) => {
            vault.replace(former, &item.payload)?;
            former
        }
        (Form::Sealed, None) => vault.seal(item.object.clone(), &item.payload)?,
        (Form::PrivateKey { .. }, _) => vault.import_key(item.object.clone(), &item.payload)?,
    };
    keep_certificate(item, id, vault, known)?;
    // What was unsealed again was this, to the byte, or it would not be an object.
    check_fields(item, id, &item.payload)?;
    Ok(Outcome::Moved { id, before: false })
}

/// What an earlier run may have made of an item: the newest alone, the one that its name means. A key
/// that was changed back is sealed again, though an older version would hold it.
fn newest_of<'a>(item: &Item, alone: bool, known: &'a [Metadata]) -> Option<&'a Metadata> {
    let origin = item.object.attributes.get(ORIGIN).map(String::as_str);
    // A dataset's key is the dataset's, whichever row it is in: rows are made anew. Two rows of one
    // name, and all else, each have their own.
    let by_name = item.class == Class::Datasets && alone;
    known
        .iter()
        .filter(|object| {
            object.kind == item.object.kind
                && object.token == item.object.token
                && object.label == item.object.label
                && (by_name || object.origin() == origin)
        })
        .max_by_key(|object| object.generation)
}

/// Whether an object holds an item's secret, and opens.
fn holds(object: &Metadata, item: &Item, vault: &mut Unlocked) -> Result<bool> {
    let opened = match item.form {
        Form::Sealed => vault
            .unseal(object)
            .map(|payload| payload.same_as(item.payload.expose())),
        Form::PrivateKey { .. } if !classes::is_key_of(object, &item.payload) => return Ok(false),
        Form::PrivateKey { .. } => vault
            .load_key(object)
            .and_then(|key| vault.unload_key(key))
            .map(|()| true),
    };
    match opened {
        // No help, and nothing to stop for: the secret is sealed anew.
        Err(Error::ObjectDamaged { .. } | Error::KeyLost { .. }) => Ok(false),
        other => other,
    }
}

/// Puts the certificate that belongs to a private key beside it, for whoever looks for one by the
/// other.
fn keep_certificate(
    item: &Item,
    key: ObjectId,
    vault: &mut Unlocked,
    known: &[Metadata],
) -> Result<()> {
    let Form::PrivateKey {
        certificate: Some(der),
    } = &item.form
    else {
        return Ok(());
    };
    let certificate = certificate_of(item, key, der);
    // Of a run that was killed between the two there is but one.
    let is_there = known.iter().any(|object| {
        object.kind == Kind::Certificate && object.attributes == certificate.attributes
    });
    if !is_there {
        vault.store(certificate)?;
    }
    Ok(())
}

fn certificate_of(item: &Item, key: ObjectId, der: &[u8]) -> NewObject {
    let object = &item.object;
    let mut certificate = NewObject::new(
        object.token.clone(),
        object.label.clone(),
        Kind::Certificate,
    )
    .with_attribute(CERTIFICATE, BASE64.encode(der))
    // What PKCS#11 calls CKA_ID is the private key's identity, where nobody gave another.
    .with_attribute("cka.id", hex::encode(key.as_bytes()));
    if let Some(origin) = object.attributes.get(ORIGIN) {
        certificate = certificate.with_attribute(ORIGIN, origin);
    }
    certificate
}

/// A credential that was migrated before, and of which someone typed a field anew, still has
/// placeholders in the others. One object takes all of its fields, so that none depends on an
/// object that looks obsolete.
///
/// Where that is the one that its token is in, answers which: rclone may be running with it, and the token
/// that it refreshes is sealed there. In a new object nobody would look for it, and the one that was copied
/// is spent. A token that was typed anew is no such run's: it goes into a new object.
fn complete(item: &mut Item, vault: &mut Unlocked, known: &[Metadata]) -> Result<Option<ObjectId>> {
    let Successor::Fields(fields) = &mut item.successor else {
        return Ok(None);
    };
    let placeholders = credentials::placeholders(&fields.attributes);
    let has_token = placeholders.iter().any(|(field, _)| field == "token");
    let older: BTreeSet<ObjectId> = placeholders.into_iter().map(|(_, id)| id).collect();
    if older.is_empty() {
        return Ok(None);
    }
    let former = known
        .iter()
        .filter(|object| has_token && older.len() == 1 && older.contains(&object.id))
        .find(|object| is_object_of(object, &item.object))
        .map(|object| object.id);
    let what = format!("{} {}", item.class.singular(), item.name);
    let unusable = |reason: credentials::AttributesError| Error::input(&what, reason.to_string());
    let mut names = BTreeSet::new();
    for id in older {
        let payload = vault.unseal(id)?;
        names.extend(credentials::names(&payload));
        fields.attributes =
            credentials::restore(&fields.attributes, id, &payload).map_err(unusable)?;
    }
    item.payload = credentials::split(&fields.provider, &fields.attributes)
        .map_err(unusable)?
        .secret_fields();
    // What is no field of the row any more stays in the vault.
    let now = credentials::names(&item.payload);
    Ok(former.filter(|_| names.is_subset(&now)))
}

/// Whether an object is what an item becomes, but for its payload.
fn is_object_of(object: &Metadata, new: &NewObject) -> bool {
    object.kind == new.kind
        && object.token == new.token
        && object.label == new.label
        && object.origin() == new.attributes.get(ORIGIN).map(String::as_str)
}

/// Sees that the column with placeholders and the object together give the column as it was.
fn check_fields(item: &Item, id: ObjectId, unsealed: &Secret) -> Result<()> {
    let Successor::Fields(fields) = &item.successor else {
        return Ok(());
    };
    let replaced = fields
        .with_placeholders(id)
        .map_err(|reason| unusable(item, reason.to_string()))?;
    let restored = credentials::restore(&replaced, id, unsealed)
        .map_err(|reason| unusable(item, reason.to_string()))?;
    if restored.same_as(fields.attributes.expose()) {
        return Ok(());
    }
    let reason = "its secret fields and placeholders would not give it back as it was";
    Err(unusable(item, reason.to_owned()))
}

fn unusable(item: &Item, reason: String) -> Error {
    Error::input(format!("{} {}", item.class.singular(), item.name), reason)
}
