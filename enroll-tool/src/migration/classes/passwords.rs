//! Values that are a secret as a whole: the keys that replications give to the datasets they make, and
//! the passwords of cloud sync and cloud backup tasks.
//!
//! The second are sealed like a credential of one field, named as rclone and restic have it: that is how
//! the launcher finds it, wherever the middleware puts the placeholder.

use std::collections::BTreeMap;

use strongroom::Secret;
use strongroom::object::{Kind, NewObject, ORIGIN, TokenName};

use super::{Reading, Row, Successor, origin, placeholder_in};
use crate::cli::Class;
use crate::migration::plan::{Item, Left};
use crate::truenas::columns::Column;
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
    if row.class != Class::Tasks {
        return Ok(row.into_item(padding, object, text, Successor::Nothing));
    }
    let payload = as_field(field_of(row.column), &text);
    Ok(row.into_item(padding, object, payload, Successor::Placeholder))
}

/// What rclone's crypt, and restic's launcher, call the value of a column.
fn field_of(column: &Column) -> &'static str {
    match column.name {
        "encryption_salt" => "password2",
        _ => "password",
    }
}

fn as_field(name: &'static str, text: &Secret) -> Secret {
    // The reading of a column is text, or there is none.
    let text = String::from_utf8_lossy(text.expose());
    let field = serde_json::to_vec(&BTreeMap::from([(name, text)]));
    Secret::take(field.expect("text has a spelling in JSON"))
}

/// The text that was sealed as the one field of a credential.
pub(crate) fn of_field(payload: &Secret) -> Option<Secret> {
    let fields: BTreeMap<String, String> = serde_json::from_slice(payload.expose()).ok()?;
    let mut values = fields.into_values();
    let text = values.next()?;
    values
        .next()
        .is_none()
        .then(|| Secret::take(text.into_bytes()))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_text_comes_back_as_it_was(text in any::<String>()) {
            let payload = as_field("password", &Secret::copy_of(text.as_bytes()));
            let again = of_field(&payload).expect("one field");
            prop_assert!(again.same_as(text.as_bytes()));
        }
    }

    #[test]
    fn what_is_no_single_field_is_none() {
        for payload in [
            "",
            "{}",
            "[]",
            "\"a\"",
            r#"{"a": 1}"#,
            r#"{"a": "b", "c": "d"}"#,
        ] {
            assert!(
                of_field(&Secret::copy_of(payload.as_bytes())).is_none(),
                "{payload}"
            );
        }
    }
}
