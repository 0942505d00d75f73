//! The way back: every value that a migration took out of a database, as the middleware read it before.
//!
//! What is to be given back is found in the database and in the objects, not in a journal: a
//! placeholder names its object, and where there is nothing left, an object names the value that it
//! came from ([`strongroom::object::ORIGIN`]). A value that is something else by now is its owner's
//! newer will, and stays.

use std::collections::BTreeMap;
use std::path::Path;

use strongroom::dataset_key::KeyFormat;
use strongroom::error::Error;
use strongroom::object::{KEYFORMAT, Kind, Metadata, ORIGIN, ObjectId, TokenName};
use strongroom::vault::Listing;
use strongroom::{Damaged, Result, Secret};

use super::classes::{self, origin, placeholder_in};
use crate::cli::Class;
use crate::truenas::columns::Column;
use crate::truenas::credentials;
use crate::truenas::database::{Cell, Change, Database, Value};
use crate::truenas::pwenc::{Padding, PwencSecret};

/// Attribute of a dataset's key: the name that a KMIP server had for it beside the database.
pub(crate) const KMIP_UID: &str = "kmip-uid";

/// A value that is to be given back.
pub(crate) struct Return {
    pub(crate) class: Class,
    pub(crate) name: String,
    /// Where it goes, and in which place; the new value is encrypted under the database's secret.
    pub(crate) change: Change,
}

/// A value of which something is in the vault, and which cannot be given back.
pub(crate) struct Kept {
    pub(crate) class: Class,
    pub(crate) name: String,
    pub(crate) cell: Cell,
    pub(crate) reason: String,
}

/// What opens objects: the TPM, or the recovery kit.
pub(crate) trait Opener {
    /// The secret of an object; for a private key, its PKCS#8.
    fn open(&mut self, object: &Metadata) -> Result<Secret>;

    /// What else would open a private key that this does not.
    fn instead_for_keys(&self) -> &'static str;
}

/// What a rollback would do.
#[derive(Default)]
pub(crate) struct Returns {
    pub(crate) values: Vec<Return>,
    pub(crate) kept: Vec<Kept>,
}

/// What the values are given back with.
struct Way<'a> {
    secret: &'a PwencSecret,
    padding: Padding,
    objects: &'a [Metadata],
    damaged: &'a [Damaged],
}

impl Returns {
    /// Opens what came out of the database and is not in it any more. Changes nothing.
    ///
    /// # Errors
    /// What stops the whole run, such as a policy that refuses; what is wrong with one value is told
    /// of it.
    pub(crate) fn read(
        database: &Database,
        secret: &PwencSecret,
        wanted: &[Class],
        listing: &Listing,
        opener: &mut dyn Opener,
        mut progress: impl FnMut(),
    ) -> Result<Self> {
        let way = Way {
            secret,
            padding: padding(database, secret)?,
            objects: &listing.objects,
            damaged: &listing.damaged,
        };
        let mut returns = Self::default();
        for class in wanted {
            for column in Column::of_class(*class) {
                if !database.has(column.table, column.name)? {
                    continue;
                }
                let rows = database.values(column, beside(*class))?;
                let mut names: BTreeMap<String, usize> = BTreeMap::new();
                for row in &rows {
                    *names.entry(row.name.clone()).or_default() += 1;
                }
                for row in rows {
                    let alone = names[&row.name] == 1;
                    returns.take(*class, column, &row, &way, alone, opener)?;
                    progress();
                }
            }
        }
        Ok(returns)
    }

    fn take(
        &mut self,
        class: Class,
        column: &'static Column,
        row: &Value,
        way: &Way<'_>,
        alone: bool,
        opener: &mut dyn Opener,
    ) -> Result<()> {
        let cell = Cell::new(column, &row.row);
        let given = match class {
            Class::Datasets => dataset(row, &cell, way, alone, opener),
            Class::Credentials | Class::Keychain => fields(row, way, opener),
            Class::Certificates => nothing(row, &cell, &TokenName::keys(), way, opener),
            Class::Replication => nothing(row, &cell, &TokenName::credentials(), way, opener),
            Class::Tasks => whole(row, way, opener),
        };
        match given {
            Ok(None) => {}
            Ok(Some(given)) => self.values.push(Return {
                class,
                name: row.name.clone(),
                change: Change {
                    expected: row.column.clone(),
                    new: Some(encrypted(&given.text, &cell, way)?),
                    cell,
                    kmip_uid: given.kmip_uid.map(Some),
                },
            }),
            // One value's; the others are given back.
            Err(
                error
                @ (Error::Input { .. } | Error::ObjectDamaged { .. } | Error::NoSuchObject(_)),
            ) => self.kept.push(Kept {
                class,
                name: row.name.clone(),
                cell,
                reason: error.to_string(),
            }),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// A text that is to be given back.
struct Given {
    text: Secret,
    kmip_uid: Option<String>,
}

impl Given {
    fn text(text: Secret) -> Self {
        Self {
            text,
            kmip_uid: None,
        }
    }
}

/// A dataset's key: the newest of its name, if any of that name came out of a TrueNAS database. Keys
/// that were changed since are given back as they are now, for they are what opens the dataset.
fn dataset(
    row: &Value,
    cell: &Cell,
    way: &Way<'_>,
    alone: bool,
    opener: &mut dyn Opener,
) -> Result<Option<Given>> {
    if !is_empty(row) {
        return Ok(None);
    }
    way.check_undamaged(&TokenName::datasets())?;
    let origin = origin(cell);
    let of_name = || {
        way.objects.iter().filter(|object| {
            object.kind == Kind::DatasetKey
                && object.label.as_str() == row.name
                && (alone || object.origin() == Some(&origin))
        })
    };
    let came_from_here = |object: &Metadata| object.origin().is_some_and(is_truenas);
    let Some(object) = of_name()
        .max_by_key(|object| object.generation)
        .filter(|_| of_name().any(came_from_here))
    else {
        return Ok(None);
    };
    let key = opener.open(object)?;
    let format = object.attributes.get(KEYFORMAT).map(String::as_str);
    let text = match format.and_then(|format| format.parse::<KeyFormat>().ok()) {
        Some(KeyFormat::Hex) => key,
        Some(KeyFormat::Raw) => Secret::take(hex::encode(key.expose()).into_bytes()),
        _ => {
            return Err(Error::input(
                format!("key of {}", row.name),
                "it is a passphrase by now, and TrueNAS keeps none",
            ));
        }
    };
    classes::check_dataset_key(&text)
        .map_err(|reason| Error::input(format!("key of {}", row.name), reason))?;
    let kmip_uid = object.attributes.get(KMIP_UID).cloned();
    Ok(Some(Given { text, kmip_uid }))
}

/// What tells, beside the column, whether a row of a class is empty.
fn beside(class: Class) -> &'static [&'static str] {
    match class {
        Class::Datasets => &["kmip_uid"],
        _ => &[],
    }
}

/// Whether a row has no value, in its column or with a KMIP server.
fn is_empty(row: &Value) -> bool {
    let is_empty = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
    is_empty(&row.column) && row.beside.iter().all(is_empty)
}

/// What is empty in a database as a migration leaves it, whoever emptied it: classes and names.
///
/// # Errors
/// [`Error::Input`] for a table that cannot be read.
pub(crate) fn emptied(database: &Database) -> Result<Vec<(Class, String)>> {
    let mut emptied = Vec::new();
    for class in [Class::Datasets, Class::Certificates, Class::Replication] {
        for column in Column::of_class(class) {
            if database.has(column.table, column.name)? {
                let rows = database.values(column, beside(class))?;
                emptied.extend(
                    rows.into_iter()
                        .filter(is_empty)
                        .map(|row| (class, row.name)),
                );
            }
        }
    }
    Ok(emptied)
}

/// JSON with placeholders in its fields.
fn fields(row: &Value, way: &Way<'_>, opener: &mut dyn Opener) -> Result<Option<Given>> {
    let Some(Ok(mut text)) = row.column.as_deref().map(|text| way.secret.decrypt(text)) else {
        return Ok(None);
    };
    let mut ids: Vec<ObjectId> = credentials::placeholders(&text)
        .into_iter()
        .map(|(_, id)| id)
        .collect();
    ids.dedup();
    if ids.is_empty() {
        return Ok(None);
    }
    for id in ids {
        let payload = opener.open(way.object(id)?)?;
        text = credentials::restore(&text, id, &payload)
            .map_err(|reason| Error::input(format!("object {id}"), reason.to_string()))?;
    }
    Ok(Some(Given::text(text)))
}

/// A placeholder that is the whole text.
fn whole(row: &Value, way: &Way<'_>, opener: &mut dyn Opener) -> Result<Option<Given>> {
    let Some(Ok(text)) = row.column.as_deref().map(|text| way.secret.decrypt(text)) else {
        return Ok(None);
    };
    match placeholder_in(text.expose()) {
        Some(id) => {
            let payload = opener.open(way.object(id)?)?;
            let text = classes::of_field(&payload).ok_or_else(|| {
                Error::input(
                    format!("object {id}"),
                    "it is not one field of a credential",
                )
            })?;
            Ok(Some(Given::text(text)))
        }
        None => Ok(None),
    }
}

/// A value in whose place there is nothing.
fn nothing(
    row: &Value,
    cell: &Cell,
    token: &TokenName,
    way: &Way<'_>,
    opener: &mut dyn Opener,
) -> Result<Option<Given>> {
    if row.column.is_some() {
        return Ok(None);
    }
    way.check_undamaged(token)?;
    let origin = origin(cell);
    let Some(object) = way
        .objects
        .iter()
        .filter(|object| object.kind != Kind::Certificate && object.origin() == Some(&origin))
        .max_by_key(|object| object.generation)
    else {
        return Ok(None);
    };
    if object.kind != Kind::PrivateKey {
        return Ok(Some(Given::text(opener.open(object)?)));
    }
    let pkcs8 = opener.open(object).map_err(|error| match error {
        Error::Input { .. } => Error::input(
            format!("private key of {}", row.name),
            format!(
                "it is in the TPM, which does not give it out: {}",
                opener.instead_for_keys()
            ),
        ),
        other => other,
    })?;
    let pem = classes::pem(&pkcs8, object).ok_or_else(|| {
        Error::input(
            format!("object {}", object.id),
            "it does not say how the private key was spelled",
        )
    })?;
    Ok(Some(Given::text(pem)))
}

impl Way<'_> {
    fn object(&self, id: ObjectId) -> Result<&Metadata> {
        self.objects
            .iter()
            .find(|object| object.id == id)
            .ok_or_else(|| Error::NoSuchObject(id.to_string()))
    }

    /// Sees that every file of a token can be read: one that cannot may be the newest version of what was
    /// in any empty value's place, and an older one opens nothing by now.
    fn check_undamaged(&self, token: &TokenName) -> Result<()> {
        let of_token = |bad: &&Damaged| {
            let folder = bad.file.parent().and_then(Path::file_name);
            folder.is_some_and(|name| name == token.as_str())
        };
        match self.damaged.iter().find(of_token) {
            None => Ok(()),
            Some(bad) => Err(Error::input(
                bad.file.display().to_string(),
                format!(
                    "{}; it may be the newest version of this value. `strongroom recover --backup FILE` \
                     puts it back; if nobody needs it, move it away",
                    bad.reason
                ),
            )),
        }
    }
}

/// Whether an origin ([`ORIGIN`]) is in a TrueNAS database.
pub(crate) fn is_truenas(origin: &str) -> bool {
    debug_assert_eq!(ORIGIN, "origin");
    origin.starts_with("truenas:")
}

/// A column that the middleware reads as `text`: it strips every `{` from the end.
fn encrypted(text: &Secret, cell: &Cell, way: &Way<'_>) -> Result<String> {
    let column = way.secret.encrypt(text.expose(), way.padding);
    match way.secret.decrypt(&column) {
        Ok(again) if again.same_as(text.expose()) => Ok(column),
        _ => Err(Error::input(
            format!("{}.{} of row {}", cell.table, cell.column, cell.row),
            "TrueNAS would not read it as it was",
        )),
    }
}

/// How this database's middleware pads, as its own check value shows.
fn padding(database: &Database, secret: &PwencSecret) -> Result<Padding> {
    let column = Column::of("system_settings", "stg_pwenc_check").expect("it is catalogued");
    let values = database.values(column, &[])?;
    let check = values.into_iter().find_map(|value| value.column);
    Ok(check
        .and_then(|check| secret.padding_of(&check).ok())
        .unwrap_or(Padding::None))
}
