//! Cloud credentials, and the key pairs of the keychain: a JSON object, of which the secret fields
//! become one object of the vault.

use strongroom::Secret;
use strongroom::object::{Kind, NewObject, ORIGIN, ObjectId, TokenName};

use super::{Reading, Row, Successor, origin, unusable};
use crate::cli::Class;
use crate::migration::plan::{Item, Left};
use crate::truenas::credentials::{self, AttributesError};
use crate::truenas::database::Cell;

/// A column of attributes, decrypted.
pub(crate) struct Fields {
    /// The provider, or what kind of keychain entry it is: it says which fields are secret.
    pub(crate) provider: String,
    pub(crate) attributes: Secret,
}

impl Fields {
    /// The attributes with a placeholder for object `id` in each secret field.
    pub(crate) fn with_placeholders(&self, id: ObjectId) -> Result<Secret, AttributesError> {
        Ok(credentials::split(&self.provider, &self.attributes)?.with_placeholders(id))
    }
}

pub(super) fn read(row: Row, reading: &Reading<'_>) -> Result<Item, Left> {
    if row.value.column.as_deref().is_none_or(str::is_empty) {
        return Err(row.left("is empty"));
    }
    let (attributes, padding) = row.text(reading.secret)?;
    let provider = row.value.beside.first().cloned().flatten();
    let provider = provider.unwrap_or_default();
    let payload = {
        let split = credentials::split(&provider, &attributes);
        let split = split.map_err(|reason| row.left(unusable(&reason)))?;
        for field in split.urls_with_password() {
            log::warn!(
                "{} {}: the address in {field} holds a password; it stays where it is, because \
                 TrueNAS accepts no placeholder there",
                row.class.singular(),
                row.value.name
            );
        }
        if split.is_empty() {
            return Err(why_left(&row, &attributes, reading));
        }
        split.secret_fields()
    };
    let label = match row.class {
        Class::Credentials => row.label(&row.value.name)?,
        _ => row.label(&format!("{}/{}", row.class.as_str(), row.value.name))?,
    };
    let cell = Cell::new(row.column, &row.value.row);
    let object = NewObject::new(TokenName::credentials(), label, Kind::Credential)
        .with_attribute(ORIGIN, origin(&cell));
    let fields = Fields {
        provider,
        attributes,
    };
    Ok(row.into_item(padding, object, payload, Successor::Fields(fields)))
}

/// Why attributes without a secret field are left.
fn why_left(row: &Row, attributes: &Secret, reading: &Reading<'_>) -> Left {
    let placeholders = credentials::placeholders(attributes);
    let unknown = placeholders
        .iter()
        .find(|(_, id)| !reading.known.iter().any(|object| object.id == *id));
    match (placeholders.is_empty(), unknown) {
        (true, _) => row.left("holds no secret of its own"),
        (false, None) => row.left("is in the vault already"),
        (false, Some((field, id))) => Left {
            unknown_object: true,
            ..row.left(format!(
                "its field {field} is in object {id}, which this vault does not hold"
            ))
        },
    }
}
