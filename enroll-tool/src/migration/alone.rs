//! What the vault alone has: secrets that no value of a TrueNAS database is, or is to be after a rollback.

use std::collections::BTreeSet;

use strongroom::Result;
use strongroom::object::{Kind, Metadata};

use super::classes::origin;
use super::rollback::Returns;
use crate::cli::Class;
use crate::truenas::columns::Column;
use crate::truenas::database::{Cell, Database};

/// The newest versions of what was sealed by hand, made in the TPM, or belongs to a row that is gone.
///
/// # Errors
/// [`strongroom::Error::Input`] for a table that cannot be read.
pub(crate) fn in_vault_alone<'a>(
    objects: &'a [Metadata],
    database: &Database,
    returns: &Returns,
) -> Result<Vec<&'a Metadata>> {
    let (mut origins, mut datasets) = (BTreeSet::new(), BTreeSet::new());
    let mut has = |class: Class, cell: &Cell, name: &str| {
        origins.insert(origin(cell));
        if class == Class::Datasets {
            datasets.insert(name.to_owned());
        }
    };
    for class in Class::ALL {
        for column in Column::of_class(class) {
            if !database.has(column.table, column.name)? {
                continue;
            }
            for row in database.values(column, &[])? {
                if row.column.is_some_and(|text| !text.is_empty()) {
                    has(class, &Cell::new(column, &row.row), &row.name);
                }
            }
        }
    }
    for value in &returns.values {
        has(value.class, &value.change.cell, &value.name);
    }
    let is_in_database = |object: &Metadata| {
        object
            .origin()
            .is_some_and(|origin| origins.contains(origin))
            || (object.kind == Kind::DatasetKey && datasets.contains(object.label.as_str()))
    };
    Ok(objects
        .iter()
        // A certificate is no secret.
        .filter(|object| object.kind != Kind::Certificate && !is_in_database(object))
        .filter(|object| !objects.iter().any(|other| other.supersedes(object)))
        .collect())
}
