//! What is there: every value of every encrypted column that is known, what it is, where it would go,
//! what reads it on TrueNAS, and what stays and why. Changes nothing.

use serde::Serialize;
use strongroom::Result;
use strongroom::object::Metadata;

use super::plan::{Plan, Unknown, Wanted};
use crate::cli::Class;
use crate::truenas::columns::{COLUMNS, Column, Form};
use crate::truenas::database::{Cell, Database};
use crate::truenas::pwenc::{PwencError, PwencSecret};

/// All that a database has.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Survey {
    /// What the middleware calls the state of its schema.
    pub(crate) revision: Option<String>,
    pub(crate) values: Vec<Known>,
    /// Columns that hold text under the database's secret, and that are not known here.
    pub(crate) unknown_columns: Vec<UnknownColumn>,
    /// Classes that are not offered.
    pub(crate) unknown_classes: Vec<Unknown>,
}

/// A value of a known column.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Known {
    pub(crate) class: Option<Class>,
    #[serde(flatten)]
    pub(crate) cell: Cell,
    pub(crate) name: String,
    pub(crate) what: &'static str,
    pub(crate) state: State,
    /// Where it would go; `None`: it stays.
    pub(crate) goes: Option<String>,
    /// What it would leave behind.
    pub(crate) leaves: Option<&'static str>,
    pub(crate) reader: &'static str,
    /// Why it stays.
    pub(crate) reason: Option<String>,
}

/// What a value is, as far as it can be told without a word of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// It decrypts, and has the form that it must have.
    Good,
    /// NULL.
    Null,
    /// The empty text.
    Empty,
    /// It decrypts to a form that it must not have.
    Unusable,
    /// It does not decrypt: it is corrupt, or under another secret.
    Undecryptable,
    /// It is no ciphertext: never encrypted, or corrupt.
    NotEncrypted,
    /// In the vault already.
    InVault,
}

/// A column that is not known.
#[derive(Serialize)]
pub(crate) struct UnknownColumn {
    pub(crate) table: String,
    pub(crate) column: String,
    /// How many of its values decrypt to text.
    pub(crate) values: usize,
}

impl State {
    /// In an admin's words.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Null => "no value",
            Self::Empty => "empty",
            Self::Unusable => "not of its form",
            Self::Undecryptable => "does not decrypt",
            Self::NotEncrypted => "is not encrypted",
            Self::InVault => "in the vault",
        }
    }
}

impl Survey {
    /// Reads all of it.
    ///
    /// # Errors
    /// [`strongroom::Error::Input`] for a table that cannot be read.
    pub(crate) fn read(
        database: &Database,
        secret: &PwencSecret,
        wanted: &Wanted,
        known: &[Metadata],
        vault: Option<&strongroom::Vault>,
    ) -> Result<Self> {
        let all = Wanted {
            classes: Class::ALL.to_vec(),
            ..wanted.clone()
        };
        let plan = Plan::read(database, secret, &all, known, vault)?;
        let mut values = Vec::new();
        for column in &COLUMNS {
            if !database.has(column.table, column.name)? {
                continue;
            }
            for value in database.values(column, &[])? {
                let cell = Cell::new(column, &value.row);
                values.push(classify(
                    column,
                    cell,
                    value.name,
                    value.column.as_deref(),
                    secret,
                    &plan,
                    wanted,
                ));
            }
        }
        Ok(Self {
            revision: database.revision()?,
            values,
            unknown_columns: unknown_columns(database, secret)?,
            unknown_classes: plan.unknown,
        })
    }
}

fn classify(
    column: &'static Column,
    cell: Cell,
    name: String,
    text: Option<&str>,
    secret: &PwencSecret,
    plan: &Plan,
    wanted: &Wanted,
) -> Known {
    let item = plan.items.iter().find(|item| item.cell == cell);
    let left = plan.left.iter().find(|left| left.cell == cell);
    let reason = left.map(|left| left.reason.clone());
    let decrypted = text.map(|text| secret.decrypt(text));
    let state = match (text, &decrypted) {
        _ if item.is_some() => State::Good,
        _ if reason
            .as_deref()
            .is_some_and(|reason| reason.starts_with(IN_VAULT)) =>
        {
            State::InVault
        }
        (None, _) => State::Null,
        (Some(""), _) => State::Empty,
        (_, Some(Ok(decrypted))) => {
            let must_parse = column.form == Form::Json;
            let is_json =
                || serde_json::from_slice::<serde::de::IgnoredAny>(decrypted.expose()).is_ok();
            // Whatever a class says of a value that it leaves, but what is said of its form.
            let formed = left.is_none_or(|left| !left.reason.contains("decrypts to"));
            if formed && (!must_parse || is_json()) {
                State::Good
            } else {
                State::Unusable
            }
        }
        (_, Some(Err(PwencError::NotBase64))) => State::NotEncrypted,
        (_, Some(Err(_)) | None) => State::Undecryptable,
    };
    let is_wanted = column
        .class
        .is_some_and(|class| wanted.classes.contains(&class));
    let goes = item.map(|item| format!("vault, token {}, {}", item.object.token, item.object.kind));
    let leaves = item.map(|item| match item.successor {
        super::classes::Successor::Nothing => "nothing",
        super::classes::Successor::Fields(_) => "placeholders in its secret fields",
        super::classes::Successor::Placeholder => "a placeholder",
    });
    let reason = match (column.class, item, reason) {
        (Some(class), Some(_), _) if !is_wanted => {
            Some(format!("not asked for: --only {} moves it", class.as_str()))
        }
        (_, Some(_), _) => None,
        (_, None, Some(reason)) => Some(reason),
        (None, None, None) => Some(match state {
            State::Good => {
                "TrueNAS reads it itself, and takes nothing else in its place".to_owned()
            }
            other => other.describe().to_owned(),
        }),
        (Some(_), None, None) => Some("its class is not offered for this release".to_owned()),
    };
    Known {
        class: column.class,
        cell,
        name,
        what: column.what,
        state,
        goes: goes.filter(|_| is_wanted),
        leaves: leaves.filter(|_| is_wanted),
        reader: column.reader,
        reason,
    }
}

/// What the classes say of a value that is there already.
const IN_VAULT: &str = "is in the vault";

/// Base64 of a nonce and twelve characters: by chance, so many decrypt to printable text once in a
/// hundred thousand times.
const SHORTEST: usize = 28;

/// Columns that are not catalogued and hold text that the secret opens.
fn unknown_columns(database: &Database, secret: &PwencSecret) -> Result<Vec<UnknownColumn>> {
    let mut unknown = Vec::new();
    for (table, columns) in database.tables()? {
        for column in columns {
            if Column::of(&table, &column).is_some() {
                continue;
            }
            let texts = database.texts(&table, &column, SHORTEST)?;
            let values = texts
                .iter()
                .filter(|text| {
                    secret
                        .decrypt(text)
                        .is_ok_and(|plain| is_text(plain.expose()))
                })
                .count();
            if values > 0 {
                unknown.push(UnknownColumn {
                    table: table.clone(),
                    column,
                    values,
                });
            }
        }
    }
    Ok(unknown)
}

fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| {
        !text.is_empty()
            && text
                .chars()
                .all(|letter| !letter.is_control() || letter.is_whitespace())
    })
}
