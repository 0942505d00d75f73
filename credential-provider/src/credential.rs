//! What is in a credential: a JSON object of secret fields, one of which a placeholder stands for.
//!
//! Fields are found in, and put into, the text as it is, so that the others stay to the byte, and no
//! value is in memory that is not wiped.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use strongroom::{ErrorKind, Secret};

use crate::failure::Failure;

type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// A field of a credential: a string's content, any other value's text.
pub(crate) fn field(content: &Secret, key: &str) -> Result<Secret, Failure> {
    let fields = fields(content)?;
    let value = fields.get(key).filter(|value| value.get() != "null");
    value.map(|value| text_of(value)).ok_or_else(no_such_field)
}

/// The field that is meant by a name which ends in the field's: `AWS_SECRET_ACCESS_KEY` and
/// `secret_access_key`. The longest such field; if there is none, the only field that there is.
pub(crate) fn field_meant_by(content: &Secret, name: &str) -> Result<Secret, Failure> {
    let fields = fields(content)?;
    let name = name.to_lowercase();
    let is_meant = |key: &&String| {
        let key = key.to_lowercase();
        name == key || name.ends_with(&format!("_{key}"))
    };
    let meant = fields.keys().filter(is_meant).max_by_key(|key| key.len());
    let only = fields.keys().next().filter(|_| fields.len() == 1);
    let value = meant
        .or(only)
        .map(|key| fields[key])
        .filter(|value| value.get() != "null");
    value.map(text_of).ok_or_else(no_such_field)
}

/// The credential with another string in one of its fields, and the rest as it was.
pub(crate) fn with_field(content: &Secret, key: &str, value: &Secret) -> Result<Secret, Failure> {
    let fields = fields(content)?;
    let old = fields.get(key).ok_or_else(no_such_field)?.get();
    // The slice lies within the content: it was borrowed from there.
    let start = old.as_ptr() as usize - content.expose().as_ptr() as usize;
    let (before, rest) = content.expose().split_at(start);
    let after = &rest[old.len()..];
    let text = std::str::from_utf8(value.expose())
        .map_err(|_| Failure::input("the new value is not text"))?;
    let spelled = serde_json::to_vec(text).expect("text has a spelling in JSON");
    let spelled = Secret::take(spelled);
    Ok(Secret::concat(&[before, spelled.expose(), after]))
}

fn fields(content: &Secret) -> Result<Fields<'_>, Failure> {
    // What serde_json says of an error may quote the content.
    serde_json::from_slice(content.expose())
        .map_err(|_| Failure::input("its content is not a JSON object of fields"))
}

fn text_of(value: &RawValue) -> Secret {
    match serde_json::from_str::<String>(value.get()) {
        Ok(text) => Secret::take(text.into_bytes()),
        Err(_) => Secret::copy_of(value.get().as_bytes()),
    }
}

fn no_such_field() -> Failure {
    Failure::new(ErrorKind::NoObject, "it has no such field")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(text: &str) -> Secret {
        Secret::copy_of(text.as_bytes())
    }

    fn text(value: Result<Secret, Failure>) -> Result<String, u8> {
        let value = value.map_err(|failure| failure.exit_code())?;
        Ok(String::from_utf8(value.expose().to_vec()).expect("UTF-8"))
    }

    #[test]
    fn fields_are_strings_or_the_text_of_other_values() {
        let content = content(
            r#"{"pass": "a\"b\u00fc", "port": 22, "token": {"a": [1]}, "none": null, "pass2": ""}"#,
        );
        let field = |key| text(field(&content, key));
        assert_eq!(field("pass").as_deref(), Ok("a\"bü"));
        assert_eq!(field("port").as_deref(), Ok("22"));
        assert_eq!(field("token").as_deref(), Ok("{\"a\": [1]}"));
        assert_eq!(field("pass2").as_deref(), Ok(""));
        assert_eq!(field("none"), Err(126));
        assert_eq!(field("missing"), Err(126));
    }

    #[test]
    fn a_variables_name_means_the_field_that_it_ends_with() {
        let meant = |of: &str, name| text(field_meant_by(&content(of), name));
        let s3 = r#"{"key": "short", "secret_access_key": "long"}"#;
        assert_eq!(meant(s3, "AWS_SECRET_ACCESS_KEY").as_deref(), Ok("long"));
        assert_eq!(meant(s3, "B2_ACCOUNT_KEY").as_deref(), Ok("short"));
        assert_eq!(meant(s3, "RESTIC_PASSWORD"), Err(126));
        let task = r#"{"password": "p"}"#;
        assert_eq!(meant(task, "RESTIC_PASSWORD").as_deref(), Ok("p"));
        assert_eq!(meant(task, "password").as_deref(), Ok("p"));
        assert_eq!(meant(task, "SOMETHING_ELSE").as_deref(), Ok("p"));
    }

    #[test]
    fn one_field_is_exchanged_and_the_rest_stays_to_the_byte() {
        let content = content("{ \"a\" : 1.50,\"token\":  \"old \\u00fc\" , \"z\": [ ] }");
        let new = Secret::copy_of("{\"access\": \"n\u{fc}\"}".as_bytes());
        assert_eq!(
            text(with_field(&content, "token", &new)).as_deref(),
            Ok("{ \"a\" : 1.50,\"token\":  \"{\\\"access\\\": \\\"n\u{fc}\\\"}\" , \"z\": [ ] }")
        );
        assert_eq!(text(with_field(&content, "none", &new)), Err(126));
    }

    #[test]
    fn no_failure_quotes_a_credential() {
        for text in [
            "\"hunter2\"",
            "hunter2",
            "{\"pass\": hunter2}",
            "[\"hunter2\"]",
            "",
        ] {
            let failure = field(&content(text), "pass").err().expect("no object");
            assert_eq!(failure.exit_code(), 127);
            assert!(!failure.to_string().contains("hunter2"));
        }
    }
}
