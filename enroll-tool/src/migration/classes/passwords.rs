//! Values that are a secret as a whole: the keys that replications give to the datasets they make, and
//! the passwords of cloud sync and cloud backup tasks.

use strongroom::object::{Kind, NewObject, ORIGIN, TokenName};

use super::{Reading, Row, Successor, origin, placeholder_in};
use crate::cli::Class;
use crate::migration::plan::{Item, Left};
use crate::truenas::database::Cell;

pub(super) fn read(row: Row, reading: &Reading<'_>) -> Result<Item, Left> {
    if row.value.column.is_none() && row.object(reading.known).is_some() {
        return Err(row.left("is in the vault already"));
    }
    let (text, padding) = row.text(reading.secret)?;
    if let Some(id) = placeholder_in(text.expose()) {
        let unknown_object = !reading.known.iter().any(|object| object.id == id);
        return Err(if unknown_object {
            Left {
                unknown_object,
                ..row.left(format!(
                    "it is in object {id}, which this vault does not hold"
                ))
            }
        } else {
            row.left("is in the vault already")
        });
    }
    if row.class == Class::Tasks {
        check_credential(&row, reading)?;
    }
    let name = match row.value.name.as_str() {
        "" => format!("row {}", row.value.row),
        name => name.to_owned(),
    };
    let label = row.label(&format!("{}/{name}/{}", row.column.table, row.column.name))?;
    let cell = Cell::new(row.column, &row.value.row);
    let object = NewObject::new(TokenName::credentials(), label, Kind::Credential)
        .with_attribute(ORIGIN, origin(&cell));
    let successor = match row.class {
        Class::Tasks => Successor::Placeholder,
        _ => Successor::Nothing,
    };
    Ok(row.into_item(padding, object, text, successor))
}

/// rclone and restic take any text for a password. What stops a run that the launcher does not see is
/// the placeholder in its credential; so that must be there first.
fn check_credential(row: &Row, reading: &Reading<'_>) -> Result<(), Left> {
    let credential = row.value.beside.first().cloned().flatten();
    match credential {
        Some(id) if reading.moved_credentials.contains(&id) => Ok(()),
        _ => Err(row.left(
            "its cloud credential has no secret in the vault: move that first (--only \
             credentials,tasks), for without it a task that runs past the launcher would take the \
             placeholder for its password",
        )),
    }
}
