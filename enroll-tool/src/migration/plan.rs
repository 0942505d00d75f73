//! What is in a database, row by row, and what would be done with it. Changes nothing.

use serde::Serialize;
use strongroom::dataset_key::KeyFormat;
use strongroom::object::{KEYFORMAT, Kind, Label, Metadata, NewObject, ORIGIN, TokenName};
use strongroom::{Result, Secret};

use crate::cli::Class;
use crate::truenas::credentials::{self, AttributesError};
use crate::truenas::database::{
    CredentialRow, CredentialState, Database, DatasetRow, DatasetState,
};
use crate::truenas::pwenc::{Padding, PwencSecret};

/// What a run would do.
pub(crate) struct Plan {
    /// Secrets to move.
    pub(crate) items: Vec<Item>,
    /// Rows to leave as they are.
    pub(crate) left: Vec<Left>,
}

/// One row's secret.
pub(crate) struct Item {
    pub(crate) class: Class,
    pub(crate) row: i64,
    pub(crate) name: String,
    /// The column as it is now: it is cleared only while it is still this.
    pub(crate) ciphertext: String,
    /// The object that it becomes.
    pub(crate) object: NewObject,
    /// What is sealed.
    pub(crate) payload: Secret,
    /// For a cloud credential, the whole of its column.
    pub(crate) credential: Option<Credential>,
}

/// A cloud credential's column, decrypted.
pub(crate) struct Credential {
    pub(crate) provider: String,
    pub(crate) attributes: Secret,
    pub(crate) padding: Padding,
}

/// A row that stays as it is.
#[derive(Debug, Serialize)]
pub(crate) struct Left {
    pub(crate) class: Class,
    pub(crate) row: i64,
    pub(crate) name: String,
    pub(crate) reason: String,
    /// Whether the row refers to an object that this vault does not hold: nothing is lost by this
    /// run, but something is wrong.
    #[serde(skip)]
    pub(crate) unknown_object: bool,
}

impl Plan {
    /// Reads the rows of the classes that were asked for. `known`: what the vault holds already.
    pub(crate) fn read(
        database: &Database,
        secret: &PwencSecret,
        classes: &[Class],
        known: &[Metadata],
    ) -> Result<Self> {
        let mut plan = Self {
            items: Vec::new(),
            left: Vec::new(),
        };
        if classes.contains(&Class::Datasets) {
            for row in database.dataset_rows()? {
                plan.take(dataset(row, secret, known));
            }
        }
        if classes.contains(&Class::Credentials) {
            for row in database.credential_rows()? {
                plan.take(credential(row, secret, known));
            }
        }
        Ok(plan)
    }

    /// The items of a class.
    pub(crate) fn of(&self, class: Class) -> impl Iterator<Item = (usize, &Item)> {
        self.items
            .iter()
            .enumerate()
            .filter(move |(_, item)| item.class == class)
    }

    fn take(&mut self, row: Result<Item, Left>) {
        match row {
            Ok(item) => self.items.push(item),
            Err(left) => self.left.push(left),
        }
    }
}

/// An origin names the row for good: its table and its primary key.
fn origin(table: &str, row: i64) -> String {
    format!("truenas:{table}/{row}")
}

fn dataset(row: DatasetRow, secret: &PwencSecret, known: &[Metadata]) -> Result<Item, Left> {
    let left = |reason: String| Left {
        class: Class::Datasets,
        row: row.id,
        name: row.name.clone(),
        reason,
        unknown_object: false,
    };
    let origin = origin("storage_encrypteddataset", row.id);
    let state = row.state(secret);
    let key = match state {
        DatasetState::Key(key) => key,
        DatasetState::Null
            if known.iter().any(|object| {
                object.kind == Kind::DatasetKey && object.label.as_str() == row.name
            }) =>
        {
            return Err(left("is in the vault already".to_owned()));
        }
        other => {
            return Err(left(
                other
                    .left_alone_because()
                    .unwrap_or_else(|| "holds no key".to_owned()),
            ));
        }
    };
    let label: Label = row.name.parse().map_err(|_| {
        left("its name cannot be a label: it is empty, too long or has control characters".into())
    })?;
    Ok(Item {
        class: Class::Datasets,
        row: row.id,
        name: row.name,
        ciphertext: row.ciphertext.unwrap_or_default(),
        object: NewObject::new(TokenName::datasets(), label, Kind::DatasetKey)
            .with_attribute(KEYFORMAT, KeyFormat::Hex.as_str())
            .with_attribute(ORIGIN, origin),
        payload: key,
        credential: None,
    })
}

fn credential(row: CredentialRow, secret: &PwencSecret, known: &[Metadata]) -> Result<Item, Left> {
    let left = |reason: String| Left {
        class: Class::Credentials,
        row: row.id,
        name: row.name.clone(),
        reason,
        unknown_object: false,
    };
    let attributes = match row.state(secret) {
        CredentialState::Attributes(attributes) => attributes,
        CredentialState::Empty => return Err(left("is empty".to_owned())),
        CredentialState::Undecryptable(reason) => {
            return Err(left(format!("cannot be decrypted: {reason}")));
        }
    };
    let padding = secret
        .padding_of(&row.ciphertext)
        .map_err(|reason| left(format!("cannot be decrypted: {reason}")))?;
    let unusable =
        |reason: AttributesError| left(format!("its attributes are not usable: {reason}"));
    let payload = {
        let split = credentials::split(&row.provider, &attributes).map_err(unusable)?;
        for field in split.urls_with_password() {
            log::warn!(
                "cloud credential {}: the address in {field} holds a password; it stays where it \
                 is, because TrueNAS accepts no placeholder there",
                row.name
            );
        }
        if split.is_empty() {
            let placeholders = credentials::placeholders(&attributes);
            let unknown = placeholders
                .iter()
                .find(|(_, id)| !known.iter().any(|object| object.id == *id));
            return Err(match (placeholders.is_empty(), unknown) {
                (true, _) => left("holds no secret of its own".to_owned()),
                (false, None) => left("is in the vault already".to_owned()),
                (false, Some((field, id))) => Left {
                    unknown_object: true,
                    ..left(format!(
                        "its field {field} is in object {id}, which this vault does not hold"
                    ))
                },
            });
        }
        split.secret_fields()
    };
    let label: Label = row.name.parse().map_err(|_| {
        left("its name cannot be a label: it is empty, too long or has control characters".into())
    })?;
    Ok(Item {
        class: Class::Credentials,
        row: row.id,
        name: row.name,
        ciphertext: row.ciphertext,
        object: NewObject::new(TokenName::credentials(), label, Kind::Credential)
            .with_attribute(ORIGIN, origin("system_cloudcredentials", row.id)),
        payload,
        credential: Some(Credential {
            provider: row.provider,
            attributes,
            padding,
        }),
    })
}
