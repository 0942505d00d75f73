//! What a decrypted text is, so that an audit can say what a secret on the disk opens. Nothing
//! authenticates a column: a text counts as opened if chance does not make one like it.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use strongroom::Secret;

use crate::truenas::columns::Form;
use crate::truenas::credentials;
use crate::truenas::still::Value;

/// What was found of secrets, as people call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sort {
    /// 64 hexadecimal digits.
    DatasetKey,
    /// A JSON object.
    Attributes,
    /// A PEM block.
    PrivateKey,
    /// Text that its padding shows to be one.
    Text,
}

/// What the values that migrations move into the vault leave behind.
const PLACEHOLDER: &[u8] = b"strongroom:v1:";

/// The tables whose secrets migrations move, by what people call them.
pub(crate) const DATASETS: &str = "storage_encrypteddataset";
pub(crate) const CREDENTIALS: &str = "system_cloudcredentials";
const KEYCHAIN: &str = "system_keychaincredential";

/// Whether a value, decrypted, is a secret that lies there. `own`: the secret that opened it is the
/// database's own, so that any text counts.
pub(crate) fn is_secret(value: &Value, text: &Secret, own: bool) -> bool {
    let bytes = text.expose();
    if bytes.is_empty() || contains(bytes, PLACEHOLDER) && is_moved(value, text) {
        return false;
    }
    match value.column.form {
        // The middleware takes nothing else for a key either.
        Form::Text if value.column.table == DATASETS => is_key(bytes),
        Form::Text => own || is_key(bytes) || bytes.starts_with(b"-----BEGIN "),
        Form::Json => match value.column.table {
            CREDENTIALS => {
                let provider = value.provider.as_deref().unwrap_or_default();
                credentials::split(provider, text)
                    .is_ok_and(|it| !it.is_empty() || !it.urls_with_password().is_empty())
            }
            // A connection only refers to a key pair.
            KEYCHAIN => is_object(bytes) && contains(bytes, b"\"private_key\": \""),
            _ => is_object(bytes),
        },
    }
}

/// What text is that was found where no row tells; `None` for what chance may make. It may be cut off.
pub(crate) fn sort_of(bytes: &[u8]) -> Option<Sort> {
    let printable = |bytes: &[u8]| {
        bytes
            .iter()
            .all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\r'))
    };
    if bytes.get(..64).is_some_and(is_key) {
        return Some(Sort::DatasetKey);
    }
    let head = bytes.get(..16).filter(|head| printable(head))?;
    if head.starts_with(b"{\"") {
        return (!contains(bytes, PLACEHOLDER)).then_some(Sort::Attributes);
    }
    if head.starts_with(b"-----BEGIN ") {
        return Some(Sort::PrivateKey);
    }
    // Padded to 32 bytes, of which the last may be in the base64's odd end.
    let padded = bytes
        .get(..31)
        .filter(|text| printable(text) && text.ends_with(b"{{{{"))?;
    let text = padded
        .split(|byte| *byte == b'{')
        .next()
        .unwrap_or_default();
    (!text.is_empty() && text != CHECK_VALUE && !text.starts_with(PLACEHOLDER))
        .then_some(Sort::Text)
}

/// What a database's check value says: no secret.
pub(crate) const CHECK_VALUE: &[u8] = b"Donuts!";

impl Sort {
    /// For programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DatasetKey => "dataset-key",
            Self::Attributes => "attributes",
            Self::PrivateKey => "private-key",
            Self::Text => "text",
        }
    }

    /// In words, of so many.
    pub(crate) fn words(self, count: usize) -> String {
        let (one, many) = match self {
            Self::DatasetKey => ("dataset key", "dataset keys"),
            Self::Attributes => ("credential", "credentials"),
            Self::PrivateKey => ("private key", "private keys"),
            Self::Text => ("password", "passwords"),
        };
        format!("{count} {}", if count == 1 { one } else { many })
    }
}

/// Whether the placeholders are all the secret that there is.
fn is_moved(value: &Value, text: &Secret) -> bool {
    value.column.table != CREDENTIALS
        || credentials::split(value.provider.as_deref().unwrap_or_default(), text)
            .is_ok_and(|split| split.is_empty())
}

fn is_key(bytes: &[u8]) -> bool {
    bytes.len() == 64 && bytes.iter().all(u8::is_ascii_hexdigit)
}

/// Whether it is a JSON object with anything in it.
fn is_object(bytes: &[u8]) -> bool {
    serde_json::from_slice::<BTreeMap<String, &RawValue>>(bytes)
        .is_ok_and(|object| !object.is_empty())
}

pub(crate) fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
