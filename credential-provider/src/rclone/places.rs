//! The places of rclone's configuration where a secret was, and a placeholder is now.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use strongroom::object::ObjectId;

use super::config::Config;
use super::obscure;
use crate::placeholder::object_of;

/// A place in the configuration whose value is a placeholder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) section: String,
    pub(crate) key: String,
    /// The object that holds the value.
    pub(crate) object: ObjectId,
    pub(crate) form: Form,
}

/// How rclone takes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Form {
    /// As it is.
    Plain,
    /// Obscured.
    Obscured,
    /// In a file, whose name is what stands in the configuration: the middleware writes an SSH key
    /// there, or what its keychain has instead of one.
    File,
}

/// Whether rclone takes an option's value in obscured form, as TrueNAS writes it.
pub(crate) fn is_password(key: &str) -> bool {
    matches!(key, "pass" | "password" | "password2")
}

/// All places of a configuration that have a placeholder, as it is or obscured, or in a file.
pub(crate) fn places(config: &Config) -> Vec<Place> {
    let mut places = Vec::new();
    for (section, values) in &config.sections {
        for (key, value) in values {
            let found = match object_of(value) {
                Some(object) if is_password(key) => Some((object, Form::Obscured)),
                Some(object) => Some((object, Form::Plain)),
                // Who obscured the placeholder took it for a password, whatever the key's name.
                None => object_of_obscured(value)
                    .map(|object| (object, Form::Obscured))
                    .or_else(|| Some((object_in_file(key, value)?, Form::File))),
            };
            if let Some((object, form)) = found {
                places.push(Place {
                    section: section.clone(),
                    key: key.clone(),
                    object,
                    form,
                });
            }
        }
    }
    places
}

impl Place {
    /// What rclone has written over the placeholder, as it stands there; none if it has not.
    pub(crate) fn written_over<'a>(&self, now: &'a Config) -> Option<&'a str> {
        let value = now.value(&self.section, &self.key)?;
        let is_ours = match self.form {
            // What a file has is its own affair.
            Form::File => true,
            Form::Plain | Form::Obscured => {
                object_of(value).or_else(|| object_of_obscured(value)) == Some(self.object)
            }
        };
        (!is_ours && !value.is_empty()).then_some(value)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "section [{}], field {}", self.section, self.key)
    }
}

/// The object that an obscured placeholder names.
pub(crate) fn object_of_obscured(value: &str) -> Option<ObjectId> {
    let revealed = obscure::reveal(value)?;
    object_of(std::str::from_utf8(revealed.expose()).ok()?)
}

/// The object that the placeholder names which is all that a key file has.
fn object_in_file(key: &str, file: &str) -> Option<ObjectId> {
    const LONGEST: u64 = 100;
    let file = Path::new(file);
    if !key.ends_with("_file") || !file.is_absolute() || !file.is_file() {
        return None;
    }
    let mut text = String::new();
    File::open(file)
        .ok()?
        .take(LONGEST)
        .read_to_string(&mut text)
        .ok()?;
    object_of(text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "11111111-1111-4111-8111-111111111111";

    fn obscured(text: &str) -> String {
        let text = obscure::obscure(text.as_bytes());
        String::from_utf8(text.expose().to_vec()).expect("ASCII")
    }

    #[test]
    fn placeholders_are_found_plain_obscured_and_in_files() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).expect("written");
            file.display().to_string()
        };
        let text = format!(
            "[remote]\ntype = s3\nsecret_access_key = strongroom:v1:{ID}\nregion = strongroom\n\
             pass = {}\nkey_file_pass = {0}\npassword = strongroom:v1:{ID}\n\
             key_file = {}\ncert_file = {}\nnone_file = /nonexistent\nplace = {2}\n\
             [encrypted]\npassword2 = {}\npassword = strongroom:v2:{ID}\n",
            obscured(&format!("strongroom:v1:{ID}")),
            write("key", &format!("strongroom:v1:{ID}\n")),
            write("certificate", &format!("strongroom:v1:{ID}\nand more")),
            obscured("strongroom:v1:nothing"),
        );
        let config = Config::parse(&text);
        let places = places(&config);
        let found: Vec<_> = places
            .iter()
            .map(|place| (place.section.as_str(), place.key.as_str(), place.form))
            .collect();
        assert_eq!(
            found,
            [
                ("remote", "key_file", Form::File),
                ("remote", "key_file_pass", Form::Obscured),
                ("remote", "pass", Form::Obscured),
                ("remote", "password", Form::Obscured),
                ("remote", "secret_access_key", Form::Plain),
            ]
        );
        assert!(places.iter().all(|place| place.object.to_string() == ID));
        assert!(
            places
                .iter()
                .all(|place| place.written_over(&config).is_none())
        );
    }

    #[test]
    fn what_rclone_wrote_over_a_placeholder_is_seen() {
        let before = Config::parse(&format!(
            "[a]\ntoken = strongroom:v1:{ID}\npass = strongroom:v1:{ID}\nuser = strongroom:v1:{ID}\n"
        ));
        let places = places(&before);
        let after = Config::parse(&format!(
            "[a]\ntoken = {{\"access_token\":\"new\"}}\npass = {}\n",
            obscured(&format!("strongroom:v1:{ID}")),
        ));
        let written: Vec<_> = places
            .iter()
            .filter_map(|place| Some((place.key.as_str(), place.written_over(&after)?)))
            .collect();
        assert_eq!(written, [("token", "{\"access_token\":\"new\"}")]);
    }
}
