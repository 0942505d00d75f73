//! What is in a database, value by value, and what a run would do with it. Changes nothing.

use std::collections::BTreeSet;

use serde::Serialize;
use strongroom::object::{Metadata, NewObject, TokenName};
use strongroom::{Result, Secret, Vault};

use super::classes::{Form, Reading, Successor};
use crate::cli::Class;
use crate::truenas::columns::Column;
use crate::truenas::credentials;
use crate::truenas::database::{Cell, Database};
use crate::truenas::pwenc::{Padding, PwencSecret};

/// What a run would do.
#[derive(Default)]
pub(crate) struct Plan {
    /// Secrets to move.
    pub(crate) items: Vec<Item>,
    /// Values to leave as they are.
    pub(crate) left: Vec<Left>,
    /// What was asked for, and this database does not have as it is known here.
    pub(crate) unknown: Vec<Unknown>,
}

/// One value's secret.
pub(crate) struct Item {
    pub(crate) class: Class,
    pub(crate) cell: Cell,
    pub(crate) name: String,
    /// The value as it is now: it is replaced only while it is still this.
    pub(crate) ciphertext: String,
    pub(crate) padding: Padding,
    /// The object that it becomes.
    pub(crate) object: NewObject,
    /// What is sealed, or the private key in PKCS#8.
    pub(crate) payload: Secret,
    pub(crate) form: Form,
    pub(crate) successor: Successor,
}

/// A value that stays as it is.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    pub(crate) class: Class,
    pub(crate) cell: Cell,
    pub(crate) name: String,
    pub(crate) reason: String,
    /// Whether the value refers to an object that this vault does not hold: nothing is lost by this
    /// run, but something is wrong.
    pub(crate) unknown_object: bool,
}

/// A class that is not offered, because the database is of a release that is not known here.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Unknown {
    pub(crate) class: Class,
    pub(crate) reason: String,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) classes: Vec<Class>,
    /// The private key of the web interface's certificate too.
    pub(crate) ui_certificate: bool,
}

impl Plan {
    /// Reads the values of the classes that are wanted. `known`: what the vault holds already.
    pub(crate) fn read(
        database: &Database,
        secret: &PwencSecret,
        wanted: &Wanted,
        known: &[Metadata],
        vault: Option<&Vault>,
    ) -> Result<Self> {
        let mut plan = Self::default();
        let kept_certificate = if wanted.ui_certificate {
            None
        } else {
            ui_certificate(database)?
        };
        let mut reading = Reading {
            secret,
            known,
            kept_certificate,
            moved_credentials: BTreeSet::new(),
            keys_have_pin: vault
                .and_then(|vault| vault.token(&TokenName::keys()).ok())
                .is_some_and(|token| token.has_pins),
        };
        if wanted.classes.contains(&Class::Tasks) {
            reading.moved_credentials = in_vault(database, secret, known)?;
        }
        // In the order of the list of classes: credentials before the tasks that use them.
        for class in Class::ALL {
            if wanted.classes.contains(&class) {
                plan.read_class(class, database, &reading)?;
                if class == Class::Credentials {
                    let moving = plan.items.iter().map(|item| item.cell.row.clone());
                    let credentials = plan.items.iter().zip(moving);
                    reading.moved_credentials.extend(
                        credentials
                            .filter(|(item, _)| item.class == Class::Credentials)
                            .map(|(_, row)| row),
                    );
                }
            }
        }
        Ok(plan)
    }

    /// The items of a class, with their places.
    pub(crate) fn of(&self, class: Class) -> impl Iterator<Item = (usize, &Item)> {
        self.items
            .iter()
            .enumerate()
            .filter(move |(_, item)| item.class == class)
    }

    fn read_class(
        &mut self,
        class: Class,
        database: &Database,
        reading: &Reading<'_>,
    ) -> Result<()> {
        let mut found = false;
        for column in Column::of_class(class) {
            if !database.has(column.table, column.name)? {
                continue;
            }
            found = true;
            for beside in class.beside() {
                if !database.has(column.table, beside)? {
                    let reason = format!(
                        "it has no column {}.{beside}: it is of a release that is not known here, \
                         and its values stay",
                        column.table
                    );
                    self.unknown.push(Unknown { class, reason });
                    return Ok(());
                }
            }
            for value in database.values(column, class.beside())? {
                match class.read(column, value, reading) {
                    Ok(item) => self.items.push(item),
                    Err(left) => self.left.push(left),
                }
            }
        }
        if !found {
            let column = Column::of_class(class).next().expect("a class has columns");
            let reason = format!(
                "it has no column {}.{}: it is of a release that is not known here",
                column.table, column.name
            );
            self.unknown.push(Unknown { class, reason });
        }
        Ok(())
    }
}

/// The certificate that the web interface serves with.
fn ui_certificate(database: &Database) -> Result<Option<String>> {
    let column = Column::of("system_settings", "stg_pwenc_check").expect("it is catalogued");
    if !database.has(column.table, UI_CERTIFICATE)? {
        return Ok(None);
    }
    let rows = database.values(column, &[UI_CERTIFICATE])?;
    Ok(rows.into_iter().find_map(|mut row| row.beside.pop()?))
}

const UI_CERTIFICATE: &str = "stg_guicertificate_id";

/// The cloud credentials whose secrets are in the vault.
fn in_vault(
    database: &Database,
    secret: &PwencSecret,
    known: &[Metadata],
) -> Result<BTreeSet<String>> {
    let column = Column::of_class(Class::Credentials)
        .next()
        .expect("it is catalogued");
    if !database.has(column.table, column.name)? {
        return Ok(BTreeSet::new());
    }
    let rows = database.values(column, &[])?.into_iter();
    Ok(rows
        .filter(|row| {
            let attributes = row.column.as_deref().map(|column| secret.decrypt(column));
            let Some(Ok(attributes)) = attributes else {
                return false;
            };
            let placeholders = credentials::placeholders(&attributes);
            let is_known = |id| known.iter().any(|object| object.id == id);
            !placeholders.is_empty() && placeholders.iter().all(|(_, id)| is_known(*id))
        })
        .map(|row| row.row)
        .collect())
}
