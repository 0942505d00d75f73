//! Keys of encrypted datasets: 64 hexadecimal digits. The row stays, without a key: TrueNAS needs it,
//! and takes the key that it is given at boot.

use strongroom::Secret;
use strongroom::dataset_key::KeyFormat;
use strongroom::object::{KEYFORMAT, Kind, NewObject, ORIGIN, TokenName};

use super::{Reading, Row, Successor, origin};
use crate::migration::plan::{Item, Left};
use crate::migration::rollback::KMIP_UID;
use crate::truenas::database::Cell;
use crate::truenas::pwenc::PwencError;

pub(super) fn read(row: Row, reading: &Reading<'_>) -> Result<Item, Left> {
    let uid = row.value.beside.first().cloned().flatten();
    let uid = uid.filter(|uid| !uid.is_empty());
    let (key, padding) = match (row.value.column.as_deref(), &uid) {
        // Where there is no key, the middleware looks for one from KMIP.
        (None | Some(""), Some(_)) => return Err(row.left("the key is on a KMIP server")),
        (None, None) if is_known(&row, reading) => return Err(row.left("is in the vault already")),
        (None, None) => return Err(row.left("the row has no key")),
        (Some(""), None) => return Err(row.left("the key is the empty text")),
        (Some(column), _) => {
            let key = reading.secret.decrypt(column);
            let key = key.map_err(|error| row.left(error.to_string()))?;
            let padding = reading.secret.padding_of(column);
            (key, padding.map_err(|error| row.left(error.to_string()))?)
        }
    };
    check(&key).map_err(|reason| row.left(reason))?;
    let label = row.label(&row.value.name)?;
    let cell = Cell::new(row.column, &row.value.row);
    let mut object = NewObject::new(TokenName::datasets(), label, Kind::DatasetKey)
        .with_attribute(KEYFORMAT, KeyFormat::Hex.as_str())
        .with_attribute(ORIGIN, origin(&cell));
    if let Some(uid) = uid {
        object = object.with_attribute(KMIP_UID, uid);
    }
    Ok(row.into_item(padding, object, key, Successor::Nothing))
}

fn is_known(row: &Row, reading: &Reading<'_>) -> bool {
    reading
        .known
        .iter()
        .any(|object| object.kind == Kind::DatasetKey && object.label.as_str() == row.value.name)
}

/// Why `key` is not 64 hexadecimal digits; nothing of it is said but its length.
pub(crate) fn check(key: &Secret) -> Result<(), String> {
    let key = key.expose();
    if key.len() == 64 && key.iter().all(u8::is_ascii_hexdigit) {
        return Ok(());
    }
    Err(if key.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        let len = key.len();
        format!("it decrypts to {len} characters that are not a key of 64 hexadecimal digits")
    } else {
        PwencError::NotUtf8.to_string()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cli::Class;
    use crate::truenas::columns::Column;
    use crate::truenas::database::Value;
    use crate::truenas::pwenc::{Padding, PwencSecret};

    const KEY: &str = "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789abcdef";

    fn secret(byte: u8) -> PwencSecret {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), [byte; 32]).expect("written");
        PwencSecret::read(file.path()).expect("32 bytes")
    }

    #[test]
    fn each_row_is_told_for_what_it_is() {
        let own = secret(1);
        let column = |text: &str| own.encrypt(text.as_bytes(), Padding::Padded);
        let garbage = secret(2).encrypt(KEY.as_bytes(), Padding::None);
        let uid = Some("uid");
        for (column, kmip_uid, expected) in [
            (Some(column(KEY)), None, None),
            (Some(column(KEY)), uid, None),
            (None, None, Some("no key")),
            (None, uid, Some("KMIP")),
            (Some(String::new()), uid, Some("KMIP")),
            (Some(String::new()), None, Some("empty")),
            (Some("c2hvcnQ".to_owned()), None, Some("not base64")),
            (Some("MTIzNDU2Nw==".to_owned()), None, Some("too short")),
            (Some(garbage), None, Some("another pwenc secret")),
            (
                Some(column("no\u{1}key")),
                None,
                Some("another pwenc secret"),
            ),
            (Some(column(&KEY[2..])), None, Some("62 characters")),
            (
                Some(column(&KEY.replace('a', "g"))),
                None,
                Some("64 characters"),
            ),
        ] {
            let row = Row {
                class: Class::Datasets,
                column: Column::of("storage_encrypteddataset", "encryption_key")
                    .expect("catalogued"),
                value: Value {
                    row: "1".to_owned(),
                    name: "tank".to_owned(),
                    column,
                    beside: vec![kmip_uid.map(str::to_owned)],
                },
            };
            let reading = Reading {
                secret: &own,
                known: &[],
                kept_certificate: None,
                moved_credentials: BTreeSet::new(),
                keys_have_pin: false,
            };
            match (expected, read(row, &reading)) {
                (None, Ok(item)) => {
                    assert!(item.payload.same_as(KEY.as_bytes()));
                    let attributes = item.object.attributes;
                    assert_eq!(attributes.get(KMIP_UID).map(String::as_str), kmip_uid);
                }
                (Some(expected), Err(left)) => {
                    assert!(
                        left.reason.contains(expected),
                        "{}, not {expected}",
                        left.reason
                    );
                }
                (Some(expected), Ok(_)) => panic!("a key, not {expected}"),
                (None, Err(left)) => panic!("no key: {}", left.reason),
            }
        }
    }
}
