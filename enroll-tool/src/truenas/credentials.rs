//! Cloud credentials, and entries of the keychain: which fields of their attributes are secret, and
//! placeholders for these.
//!
//! A credential's attributes are a JSON object. [`split`] finds its secret fields, which become
//! one object of the vault; what stays in the database has the placeholder `strongroom:v1:ID` in
//! each of them, which stands for "the field of this name in object ID". Everything else stays to
//! the byte, and [`restore`] gives back the original to the byte.
//!
//! All work is done on slices of the caller's [`Secret`]: no secret value is ever copied to
//! ordinary memory, nor does any error carry one.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use strongroom::Secret;
use strongroom::object::ObjectId;

/// Finds the secret fields in `attributes`, a credential of `provider` as the database spells it.
///
/// Only strings that are not empty count, and not those that are a placeholder already: a
/// credential into which the admin typed one new secret after a migration has just that one.
///
/// # Errors
/// If `attributes` is not a JSON object, is empty, or names a field twice: hands off such a row.
pub(crate) fn split<'a>(
    provider: &str,
    attributes: &'a Secret,
) -> Result<Split<'a>, AttributesError> {
    let text = as_text(attributes)?;
    let mut split = Split {
        attributes: text,
        secrets: Vec::new(),
        urls_with_password: Vec::new(),
    };
    for field in parse(text)? {
        if !field.is_filled_string() || field.placeholder().is_some() {
            continue;
        }
        if is_secret(provider, &field.name) {
            split.secrets.push(field);
        } else if has_url_password(field.raw_value) {
            split.urls_with_password.push(field.name.into_owned());
        }
    }
    Ok(split)
}

/// A credential's attributes, with its secret fields found.
pub(crate) struct Split<'a> {
    attributes: &'a str,
    secrets: Vec<Field<'a>>,
    urls_with_password: Vec<String>,
}

impl Split<'_> {
    /// Whether nothing is secret: an SFTP credential that refers to a key pair, for instance, or
    /// one that was migrated.
    pub(crate) fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// The names of the secret fields, in the order of the attributes.
    #[cfg(test)]
    pub(crate) fn fields(&self) -> Vec<&str> {
        self.secrets.iter().map(|field| &*field.name).collect()
    }

    /// Fields that stay in the clear although they are URLs with a password in them. The
    /// middleware wants a URL there, and may delete a row that has none, so no placeholder can
    /// take their place.
    pub(crate) fn urls_with_password(&self) -> &[String] {
        &self.urls_with_password
    }

    /// The secret fields as a JSON object, names and values spelled as they were.
    pub(crate) fn secret_fields(&self) -> Secret {
        let mut pieces = vec!["{"];
        for field in &self.secrets {
            if pieces.len() > 1 {
                pieces.push(", ");
            }
            pieces.extend([field.raw_name, ": ", field.raw_value]);
        }
        pieces.push("}");
        concat(&pieces)
    }

    /// The attributes with a placeholder for object `id` in each secret field.
    pub(crate) fn with_placeholders(&self, id: ObjectId) -> Secret {
        let placeholder = format!("\"{PLACEHOLDER}{id}\"");
        let changes = self.secrets.iter().map(|field| (field, &*placeholder));
        splice(self.attributes, changes)
    }
}

/// The attributes from before a migration: `attributes` with the fields that are placeholders for
/// object `id` taken from `secret_fields`, that object's payload.
///
/// # Errors
/// If either is not such a JSON object, or `secret_fields` lacks a field that is wanted.
pub(crate) fn restore(
    attributes: &Secret,
    id: ObjectId,
    secret_fields: &Secret,
) -> Result<Secret, AttributesError> {
    let text = as_text(attributes)?;
    let fields = parse(text)?;
    let secrets = parse(as_text(secret_fields)?)?;
    let changes = fields
        .iter()
        .filter(|field| field.placeholder() == Some(id))
        .map(|field| {
            secrets
                .iter()
                .find(|secret| secret.name == field.name)
                .map(|secret| (field, secret.raw_value))
                .ok_or_else(|| AttributesError::Missing(field.name.clone().into_owned()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(splice(text, changes))
}

/// Every field that is a placeholder, with the object that it stands for.
pub(crate) fn placeholders(attributes: &Secret) -> Vec<(String, ObjectId)> {
    as_text(attributes)
        .and_then(parse)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|field| Some((field.name.clone().into_owned(), field.placeholder()?)))
        .collect()
}

/// The names of the fields of a JSON object.
pub(crate) fn names(object: &Secret) -> BTreeSet<String> {
    let fields = as_text(object).and_then(parse).unwrap_or_default();
    fields
        .into_iter()
        .map(|field| field.name.into_owned())
        .collect()
}

/// Whether a text has a placeholder anywhere, of whatever object.
pub(crate) fn has_placeholder(text: &[u8]) -> bool {
    let placeholder = PLACEHOLDER.as_bytes();
    text.windows(placeholder.len())
        .any(|part| part == placeholder)
}

/// Why attributes cannot be split or restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AttributesError {
    /// Something else than a JSON object: what another secret's ciphertext decrypts to, as a rule.
    #[error("it is not a JSON object, so it is corrupt or encrypted under another pwenc secret")]
    NotAnObject,
    /// Begins as a JSON object but is none.
    #[error("it is not valid JSON from line {line}, column {column} on, so it is corrupt")]
    Malformed {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// `{}`, which the middleware writes for "nothing" and reads for any failure.
    #[error("it is an empty JSON object: there is no credential in it")]
    Empty,
    /// A field stands there twice, so readers differ on its value.
    #[error("its field {0:?} is there twice")]
    Duplicate(String),
    /// The object of a placeholder has no field of that name.
    #[error("the sealed object has no field {0:?}")]
    Missing(String),
}

/// What a placeholder begins with; the object's identity ends it.
pub(crate) const PLACEHOLDER: &str = "strongroom:v1:";

/// The secret fields of each provider: what the middleware's own forms show as a password.
///
/// Identifiers (`access_key_id`, `account`, `client_id`, `user`) stay readable, so that people
/// can tell their credentials apart.
///
/// Source: `credentials_schema` in `middlewared/rclone/remote/*.py` up to 25.04, the models in
/// `middlewared/api/v*/cloud_sync_providers.py` since.
fn known_fields(provider: &str) -> Option<&'static [&'static str]> {
    Some(match provider {
        "S3" | "STORJ_IX" => &["secret_access_key"],
        "AZUREBLOB" | "B2" => &["key"],
        "BOX" | "DROPBOX" | "GOOGLE_DRIVE" | "GOOGLE_PHOTOS" | "HUBIC" | "ONEDRIVE" | "PCLOUD"
        | "YANDEX" => &["client_secret", "token"],
        "FTP" | "MEGA" | "WEBDAV" => &["pass"],
        // A `private_key` is the number of a key pair in another table; one that is text is a key.
        "SFTP" => &["pass", "private_key"],
        // Of the keychain. A connection has the number of a key pair.
        "SSH_KEY_PAIR" => &["private_key"],
        "GOOGLE_CLOUD_STORAGE" => &["service_account_credentials"],
        "OPENSTACK_SWIFT" => &["key", "auth_token", "application_credential_secret"],
        // Nothing but a URL; of the keychain, a connection by the number of a key pair.
        "HTTP" | "SSH_CREDENTIALS" => &[],
        _ => return None,
    })
}

fn is_secret(provider: &str, name: &str) -> bool {
    known_fields(provider).map_or_else(|| sounds_secret(name), |known| known.contains(&name))
}

/// For providers that are not known: whether a field's name sounds like a secret's.
///
/// The last word decides that `token_url`, `access_key_id` or `key_file` are none. A placeholder
/// in such a field may make the middleware reject, and 27 delete, the whole row.
fn sounds_secret(name: &str) -> bool {
    const SECRET: [&str; 11] = [
        "pass",
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "token",
        "key",
        "credential",
        "cookie",
        "signature",
    ];
    const ABOUT: [&str; 19] = [
        "id",
        "name",
        "url",
        "uri",
        "endpoint",
        "host",
        "port",
        "user",
        "type",
        "format",
        "version",
        "file",
        "path",
        "expiry",
        "expires",
        "algorithm",
        "fingerprint",
        "size",
        "count",
    ];
    let words = words(name);
    let says = |word: &String| SECRET.iter().any(|secret| word.ends_with(secret));
    let is_about = words
        .last()
        .is_some_and(|last| ABOUT.contains(&last.as_str()));
    words.iter().any(says) && !is_about && !words.iter().any(|word| word == "public")
}

/// `clientSecret2` and `client-secrets` are the words "client" and "secret".
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut after_lower = false;
    for letter in name.chars() {
        if !letter.is_alphabetic() || (letter.is_uppercase() && after_lower) {
            words.push(String::new());
        }
        if letter.is_alphabetic() {
            let last = words.last_mut().expect("there is a first word");
            last.extend(letter.to_lowercase());
        }
        after_lower = letter.is_lowercase();
    }
    words.retain(|word| !word.is_empty());
    for word in &mut words {
        if word.len() > 3 && word.ends_with('s') && !word.ends_with("ss") {
            word.pop();
        }
    }
    words
}

/// Whether a JSON string is `scheme://user:password@...`.
fn has_url_password(raw_value: &str) -> bool {
    raw_value.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority
            .rsplit_once('@')
            .and_then(|(login, _)| login.split_once(':'))
            .is_some_and(|(_, password)| !password.is_empty())
    })
}

/// One field of a JSON object, as slices of its text. Without `Debug`, for it holds secrets.
struct Field<'a> {
    name: Cow<'a, str>,
    raw_name: &'a str,
    raw_value: &'a str,
}

impl Field<'_> {
    fn is_filled_string(&self) -> bool {
        self.raw_value.starts_with('"') && self.raw_value != "\"\""
    }

    fn placeholder(&self) -> Option<ObjectId> {
        self.raw_value
            .strip_prefix('"')?
            .strip_suffix('"')?
            .strip_prefix(PLACEHOLDER)?
            .parse()
            .ok()
    }
}

fn as_text(attributes: &Secret) -> Result<&str, AttributesError> {
    std::str::from_utf8(attributes.expose()).map_err(|_| AttributesError::NotAnObject)
}

fn parse(text: &str) -> Result<Vec<Field<'_>>, AttributesError> {
    // Asked for an object and given a string, serde would put that string into its error.
    if !text.trim_start().starts_with('{') {
        return Err(AttributesError::NotAnObject);
    }
    let Fields(fields) =
        serde_json::from_str(text).map_err(|error| AttributesError::Malformed {
            line: error.line(),
            column: error.column(),
        })?;
    if fields.is_empty() {
        return Err(AttributesError::Empty);
    }
    let mut seen = HashSet::new();
    if let Some(twice) = fields.iter().find(|field| !seen.insert(&field.name)) {
        return Err(AttributesError::Duplicate(twice.name.clone().into_owned()));
    }
    Ok(fields)
}

/// `text` with the values of some of its fields replaced.
fn splice<'a>(
    text: &'a str,
    changes: impl IntoIterator<Item = (&'a Field<'a>, &'a str)>,
) -> Secret {
    let mut pieces = Vec::new();
    let mut copied = 0;
    for (field, value) in changes {
        let Range { start, end } = position(text, field.raw_value);
        pieces.extend([&text[copied..start], value]);
        copied = end;
    }
    pieces.push(&text[copied..]);
    concat(&pieces)
}

/// Where in `text` the slice `part` of it lies.
fn position(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}

fn concat(pieces: &[&str]) -> Secret {
    let pieces: Vec<_> = pieces.iter().map(|piece| piece.as_bytes()).collect();
    Secret::concat(&pieces)
}

/// The fields of a JSON object in their order, borrowed from its text.
struct Fields<'a>(Vec<Field<'a>>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor).map(Self)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Vec<Field<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            let raw_name = name.get();
            fields.push(Field {
                // Python writes names that are no Unicode; these are taken as they are spelled.
                name: serde_json::from_str::<Name<'_>>(raw_name)
                    .map_or(Cow::Borrowed(raw_name), |Name(name)| name),
                raw_name,
                raw_value: value.get(),
            });
        }
        Ok(fields)
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::copy_of(text.as_bytes())
    }

    fn text(secret: &Secret) -> &str {
        std::str::from_utf8(secret.expose()).expect("JSON is UTF-8")
    }

    fn fields(provider: &str, attributes: &str) -> Vec<String> {
        let attributes = secret(attributes);
        let split = split(provider, &attributes).expect("an object");
        split.fields().into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn each_providers_secret_fields_are_found() {
        for (provider, attributes, expected) in [
            (
                "S3",
                r#"{"access_key_id": "AKIA", "secret_access_key": "s", "endpoint": "", "region": null}"#,
                &["secret_access_key"][..],
            ),
            (
                "STORJ_IX",
                r#"{"access_key_id": "j", "secret_access_key": "s"}"#,
                &["secret_access_key"],
            ),
            ("B2", r#"{"account": "a", "key": "k"}"#, &["key"]),
            (
                "AZUREBLOB",
                r#"{"account": "a", "key": "k", "endpoint": ""}"#,
                &["key"],
            ),
            (
                "BOX",
                r#"{"client_id": "i", "client_secret": "s", "token": "t"}"#,
                &["client_secret", "token"],
            ),
            (
                "DROPBOX",
                r#"{"client_id": "", "client_secret": "", "token": "t"}"#,
                &["token"],
            ),
            (
                "FTP",
                r#"{"host": "h", "port": 21, "user": "u", "pass": "p"}"#,
                &["pass"],
            ),
            (
                "GOOGLE_CLOUD_STORAGE",
                r#"{"service_account_credentials": "{\"type\": \"x\"}"}"#,
                &["service_account_credentials"],
            ),
            (
                "GOOGLE_DRIVE",
                r#"{"token": "{\"access_token\": \"y\"}", "team_drive": "d"}"#,
                &["token"],
            ),
            ("GOOGLE_PHOTOS", r#"{"token": "t"}"#, &["token"]),
            ("HTTP", r#"{"url": "http://h/"}"#, &[]),
            ("HUBIC", r#"{"token": "t"}"#, &["token"]),
            ("MEGA", r#"{"user": "u", "pass": "p"}"#, &["pass"]),
            (
                "ONEDRIVE",
                r#"{"token": "t", "drive_type": "PERSONAL", "drive_id": "d"}"#,
                &["token"],
            ),
            (
                "OPENSTACK_SWIFT",
                r#"{"user": "u", "key": "k", "auth": "https://a", "auth_token": "", "application_credential_id": "i", "application_credential_secret": "s"}"#,
                &["key", "application_credential_secret"],
            ),
            ("PCLOUD", r#"{"token": "t", "hostname": "h"}"#, &["token"]),
            (
                "SFTP",
                r#"{"host": "h", "port": 22, "user": "u", "pass": null, "private_key": 3}"#,
                &[],
            ),
            (
                "SFTP",
                r#"{"host": "h", "user": "u", "pass": "p", "private_key": null}"#,
                &["pass"],
            ),
            (
                "WEBDAV",
                r#"{"url": "https://h", "vendor": "OTHER", "user": "u", "pass": "p"}"#,
                &["pass"],
            ),
            ("YANDEX", r#"{"token": "t"}"#, &["token"]),
        ] {
            assert_eq!(fields(provider, attributes), expected, "{provider}");
        }
    }

    #[test]
    fn an_unknown_provider_is_judged_by_names_that_sound_secret() {
        for name in [
            "pass",
            "password2",
            "passphrase",
            "api_key",
            "apikey",
            "clientSecret",
            "SecretKey",
            "auth_token",
            "refresh-tokens",
            "service_account_credentials",
            "sharedSecrets",
        ] {
            assert!(sounds_secret(name), "{name}");
        }
        for name in [
            "user",
            "host",
            "access_key_id",
            "token_url",
            "key_file",
            "public_key",
            "token_expiry",
            "bucket",
            "region",
            "endpoint",
            "",
            "passenger_count",
            "secret_name",
            "compass_id",
        ] {
            assert!(!sounds_secret(name), "{name}");
        }
        let attributes = r#"{"user": "u", "pass": "p", "api_key": 7, "token": "", "secret": null}"#;
        assert_eq!(fields("KOOFR", attributes), ["pass"]);
    }

    #[test]
    fn placeholders_replace_the_values_and_nothing_else() {
        let original = secret(
            "{\"url\":  \"https://h/\", \"vendor\" : \"OTHER\",\n\"us\\u0065r\": \"n\\u00e4s\", \"pass\": \"p{ss \\\"w\\u00f6rd\\\" 密\" , \"n\": 1.50}",
        );
        let id = ObjectId::random();
        let split = split("WEBDAV", &original).expect("an object");
        assert_eq!(
            text(&split.secret_fields()),
            "{\"pass\": \"p{ss \\\"w\\u00f6rd\\\" 密\"}"
        );
        let kept = split.with_placeholders(id);
        assert_eq!(
            text(&kept),
            format!(
                "{{\"url\":  \"https://h/\", \"vendor\" : \"OTHER\",\n\"us\\u0065r\": \"n\\u00e4s\", \"pass\": \"strongroom:v1:{id}\" , \"n\": 1.50}}"
            )
        );
        assert!(placeholders(&kept).iter().all(|(_, found)| *found == id));
        assert!(placeholders(&original).is_empty());
        let restored = restore(&kept, id, &split.secret_fields()).expect("restored");
        assert!(restored.same_as(original.expose()));
    }

    #[test]
    fn a_migrated_credential_has_nothing_secret_but_what_was_typed_in_since() {
        let (old, new) = (ObjectId::random(), ObjectId::random());
        let migrated = format!(
            "{{\"client_secret\": \"strongroom:v1:{old}\", \"token\": \"strongroom:v1:{old}\"}}"
        );
        assert!(fields("BOX", &migrated).is_empty());
        let edited = secret(&format!(
            "{{\"client_secret\": \"typed\", \"token\": \"strongroom:v1:{old}\"}}"
        ));
        let split = split("BOX", &edited).expect("an object");
        assert_eq!(split.fields(), ["client_secret"]);
        let kept = split.with_placeholders(new);
        assert_eq!(
            placeholders(&kept),
            [("client_secret".to_owned(), new), ("token".to_owned(), old)]
        );
        let restored = restore(&kept, new, &split.secret_fields()).expect("restored");
        assert!(restored.same_as(edited.expose()));
    }

    #[test]
    fn what_is_no_credential_is_refused() {
        let refusal = |text: &str| split("S3", &secret(text)).err();
        for text in ["", " ", "null", "[]", "\"hunter2\"", "7", "\u{1}\u{2}"] {
            assert_eq!(
                refusal(text),
                Some(AttributesError::NotAnObject),
                "{text:?}"
            );
        }
        for text in [
            "{",
            "{\"a\": }",
            "{\"a\": 1,}",
            "{} x",
            "{\"a\": NaN}",
            "{a: 1}",
            "{1: 1}",
        ] {
            assert!(
                matches!(refusal(text), Some(AttributesError::Malformed { .. })),
                "{text:?}"
            );
        }
        assert_eq!(refusal(" {} "), Some(AttributesError::Empty));
        assert_eq!(
            refusal("{\"k\": 1, \"\\u006b\": 2}"),
            Some(AttributesError::Duplicate("k".to_owned()))
        );
        let not_text = Secret::copy_of(b"{\"a\": \"\xff\"}");
        assert_eq!(
            split("S3", &not_text).err(),
            Some(AttributesError::NotAnObject)
        );
    }

    #[test]
    fn errors_say_nothing_of_the_values() {
        for text in [
            "\"hunter2\"",
            "{\"pass\": \"hunter2\" hunter2}",
            "{hunter2",
            "{\"p\": hunter2}",
        ] {
            let error = split("FTP", &secret(text)).err().expect("refused");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn restoring_needs_every_field() {
        let id = ObjectId::random();
        let kept = secret(&format!("{{\"pass\": \"strongroom:v1:{id}\"}}"));
        assert_eq!(
            restore(&kept, id, &secret("{\"token\": \"t\"}")).err(),
            Some(AttributesError::Missing("pass".to_owned()))
        );
        let other = restore(&kept, ObjectId::random(), &secret("{\"pass\": \"x\"}"));
        assert!(other.expect("nothing to do").same_as(kept.expose()));
    }

    #[test]
    fn a_password_in_a_url_is_told() {
        let attributes = secret(
            r#"{"url": "https://nas:hunter2@h/", "endpoint": "https://u@h", "next": "https://h/a:b@c"}"#,
        );
        let split = split("HTTP", &attributes).expect("an object");
        assert!(split.is_empty());
        assert_eq!(split.urls_with_password(), ["url"]);
    }

    /// Python writes text that is no Unicode as escapes that are valid JSON all the same.
    #[test]
    fn lone_surrogates_pass_through() {
        let original = secret(r#"{"\ud800": "\udfff", "pass": "a\ud800b"}"#);
        let split = split("FTP", &original).expect("an object");
        assert_eq!(text(&split.secret_fields()), r#"{"pass": "a\ud800b"}"#);
    }

    proptest! {
        #[test]
        fn any_object_comes_back_to_the_byte(
            names in proptest::collection::btree_set("[a-z_]{1,8}|pass|token|key|\\PC{1,3}", 1..8),
            values in proptest::collection::vec("\\PC{0,12}", 8),
            kinds in proptest::collection::vec(0..4, 8),
            pretty in any::<bool>(),
        ) {
            let object: serde_json::Map<String, Value> = names
                .into_iter()
                .zip(values.into_iter().zip(kinds))
                .map(|(name, (value, kind))| (name, match kind {
                    0 => json!([value]),
                    1 => json!(value.len()),
                    _ => json!(value),
                }))
                .collect();
            let original = if pretty {
                serde_json::to_string_pretty(&object)
            } else {
                serde_json::to_string(&object)
            };
            let original = secret(&original.expect("JSON"));
            let id = ObjectId::random();
            let split = split("NEW_PROVIDER", &original).expect("an object");
            let kept = split.with_placeholders(id);
            prop_assert_eq!(placeholders(&kept).len(), split.fields().len());
            let json: Value = serde_json::from_slice(kept.expose()).expect("still JSON");
            prop_assert_eq!(json.as_object().map(serde_json::Map::len), Some(object.len()));
            if !split.is_empty() {
                let restored = restore(&kept, id, &split.secret_fields()).expect("restored");
                prop_assert!(restored.same_as(original.expose()));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}|\\{(\"[a-z\\\\]{0,3}\": ?\"?[a-z0-9]{0,3}\"?,? ?){0,3}\\}?") {
            let attributes = secret(&text);
            let _ = (split("X", &attributes).is_ok(), placeholders(&attributes));
        }
    }
}
