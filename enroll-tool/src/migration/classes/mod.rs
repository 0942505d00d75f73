//! What is moved together: how a value of each class becomes an object, and what takes its place.
//!
//! What is left in the database must fail closed for whoever reads it without Strongroom. A
//! placeholder does, in a cloud credential: no provider takes it for a key. It would not as the key of
//! a new dataset, or as the password of a new repository, which take any text; so there is nothing
//! left in the place of the first, and the second does not move before its credential.

mod certificates;
mod credentials;
mod datasets;
mod passwords;

use std::collections::BTreeSet;

use strongroom::Secret;
use strongroom::object::{Label, Metadata, NewObject, ObjectId};

use super::plan::{Item, Left};
use crate::cli::Class;
use crate::truenas::columns::Column;
use crate::truenas::credentials::{AttributesError, PLACEHOLDER, placeholders};
use crate::truenas::database::{Cell, Database, Value};
use crate::truenas::pwenc::{Padding, PwencSecret};

pub(crate) use self::certificates::{is_of as is_key_of, pem};
pub(crate) use self::credentials::Fields;
pub(crate) use self::datasets::check as check_dataset_key;
pub(crate) use self::passwords::of_field;

/// What a class's values are read with.
pub(crate) struct Reading<'a> {
    /// The database's own.
    pub(crate) secret: &'a PwencSecret,
    /// What the vault holds already.
    pub(crate) known: &'a [Metadata],
    /// The certificate that the web interface serves with, if it is to stay.
    pub(crate) kept_certificate: Option<String>,
    /// The cloud credentials that are in the vault, or will be by this run.
    pub(crate) moved_credentials: BTreeSet<String>,
    /// The class's token asks for a PIN that nobody is there to give.
    pub(crate) keys_have_pin: bool,
}

/// What takes a value's place.
pub(crate) enum Successor {
    /// Nothing: NULL, which TrueNAS reads as "there is no key".
    Nothing,
    /// The JSON as it was, with placeholders in its secret fields.
    Fields(Fields),
    /// A placeholder for the whole text.
    Placeholder,
}

/// How a secret is put into the vault.
pub(crate) enum Form {
    /// Sealed.
    Sealed,
    /// A private key, into the TPM where that has its kind, with the certificate (DER) beside it.
    PrivateKey { certificate: Option<Vec<u8>> },
}

impl Class {
    /// The columns that are read beside a value of the class.
    pub(crate) fn beside(self) -> &'static [&'static str] {
        match self {
            Self::Datasets => &["kmip_uid"],
            Self::Credentials => &["provider"],
            Self::Keychain => &["type"],
            Self::Certificates => &["cert_certificate"],
            Self::Replication => &[],
            Self::Tasks => &["credential_id"],
        }
    }

    /// As on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Datasets => "datasets",
            Self::Credentials => "credentials",
            Self::Keychain => "keychain",
            Self::Certificates => "certificates",
            Self::Replication => "replication",
            Self::Tasks => "tasks",
        }
    }

    /// One of them, in an admin's words.
    pub(crate) fn singular(self) -> &'static str {
        match self {
            Self::Datasets => "dataset",
            Self::Credentials => "credential",
            Self::Keychain => "SSH key",
            Self::Certificates => "certificate",
            Self::Replication => "replication",
            Self::Tasks => "task",
        }
    }

    /// What a value of the class becomes, or why it is left.
    pub(crate) fn read(
        self,
        column: &'static Column,
        value: Value,
        reading: &Reading<'_>,
    ) -> Result<Item, Left> {
        let row = Row {
            class: self,
            column,
            value,
        };
        match self {
            Self::Datasets => datasets::read(row, reading),
            Self::Credentials | Self::Keychain => credentials::read(row, reading),
            Self::Certificates => certificates::read(row, reading),
            Self::Replication | Self::Tasks => passwords::read(row, reading),
        }
    }
}

/// A value on its way to becoming an item.
struct Row {
    class: Class,
    column: &'static Column,
    value: Value,
}

impl Row {
    fn left(&self, reason: impl Into<String>) -> Left {
        Left {
            class: self.class,
            cell: Cell::new(self.column, &self.value.row),
            name: self.value.name.clone(),
            reason: reason.into(),
            unknown_object: false,
        }
    }

    /// The text that the column decrypts to, and how it was padded.
    ///
    /// # Errors
    /// Why there is none.
    fn text(&self, secret: &PwencSecret) -> Result<(Secret, Padding), Left> {
        let column = match self.value.column.as_deref() {
            None => return Err(self.left("there is nothing in it")),
            Some("") => return Err(self.left("it is the empty text")),
            Some(column) => column,
        };
        let undecryptable = |error| self.left(format!("cannot be decrypted: {error}"));
        let text = secret.decrypt(column).map_err(undecryptable)?;
        let padding = secret.padding_of(column).map_err(undecryptable)?;
        Ok((text, padding))
    }

    fn label(&self, text: &str) -> Result<Label, Left> {
        text.parse().map_err(|_| {
            self.left("its name cannot be a label: it is empty, too long or has control characters")
        })
    }

    /// The newest object that came out of this very place.
    fn object<'a>(&self, known: &'a [Metadata]) -> Option<&'a Metadata> {
        let origin = origin(&Cell::new(self.column, &self.value.row));
        known
            .iter()
            .filter(|object| object.origin() == Some(&origin))
            .max_by_key(|object| object.generation)
    }

    fn into_item(
        self,
        padding: Padding,
        object: NewObject,
        payload: Secret,
        successor: Successor,
    ) -> Item {
        Item {
            class: self.class,
            cell: Cell::new(self.column, &self.value.row),
            name: self.value.name,
            ciphertext: self.value.column.unwrap_or_default(),
            padding,
            object,
            payload,
            form: Form::Sealed,
            successor,
        }
    }
}

/// An origin names a value for good: its table, its row's primary key, and, where the table has
/// several or more than the first release had, its column.
pub(crate) fn origin(cell: &Cell) -> String {
    let Cell { table, column, row } = cell;
    match *table {
        "storage_encrypteddataset" | "system_cloudcredentials" => format!("truenas:{table}/{row}"),
        _ => format!("truenas:{table}/{row}/{column}"),
    }
}

/// The objects that more than one row of credentials or key pairs refers to.
///
/// # Errors
/// [`strongroom::Error::Input`] for a table that cannot be read.
pub(crate) fn shared(
    database: &Database,
    secret: &PwencSecret,
) -> strongroom::Result<BTreeSet<ObjectId>> {
    let (mut once, mut shared) = (BTreeSet::new(), BTreeSet::new());
    for class in [Class::Credentials, Class::Keychain] {
        for column in Column::of_class(class) {
            if !database.has(column.table, column.name)? {
                continue;
            }
            for value in database.values(column, &[])? {
                let text = value.column.and_then(|text| secret.decrypt(&text).ok());
                let objects: BTreeSet<ObjectId> = (text.as_ref().map(placeholders))
                    .into_iter()
                    .flatten()
                    .map(|(_, id)| id)
                    .collect();
                shared.extend(objects.into_iter().filter(|id| !once.insert(*id)));
            }
        }
    }
    Ok(shared)
}

/// The text that stands for an object.
pub(crate) fn placeholder(id: ObjectId) -> String {
    format!("{PLACEHOLDER}{id}")
}

/// The object that a text stands for, if it does.
pub(crate) fn placeholder_in(text: &[u8]) -> Option<ObjectId> {
    std::str::from_utf8(text)
        .ok()?
        .strip_prefix(PLACEHOLDER)?
        .parse()
        .ok()
}

fn unusable(reason: &AttributesError) -> String {
    format!("its attributes are not usable: {reason}")
}
