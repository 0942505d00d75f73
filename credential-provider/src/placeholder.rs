//! Placeholders: what stands in a configuration where a secret was.

use std::fmt;

use strongroom::object::ObjectId;

use crate::rclone::config::Config;
use crate::rclone::{is_password, obscure};

/// A place in the configuration whose value is a placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) section: String,
    pub(crate) key: String,
    /// The object that holds the value, as its field of the key's name.
    pub(crate) object: ObjectId,
    /// Whether rclone wants the value obscured.
    pub(crate) obscured: bool,
}

/// The object that a placeholder, `strongroom:v1:ID`, names; none if the text is no placeholder.
pub(crate) fn object_of(text: &str) -> Option<ObjectId> {
    text.strip_prefix("strongroom:v1:")?.parse().ok()
}

/// All places of a configuration that have a placeholder, as it is or obscured.
pub(crate) fn places(config: &Config) -> Vec<Place> {
    let mut places = Vec::new();
    for (section, values) in &config.sections {
        for (key, value) in values {
            let plain = object_of(value);
            let Some(object) = plain.or_else(|| object_of_obscured(value)) else {
                continue;
            };
            places.push(Place {
                section: section.clone(),
                key: key.clone(),
                object,
                // Who obscured the placeholder took it for a password, whatever the key's name.
                obscured: is_password(key) || plain.is_none(),
            });
        }
    }
    places
}

/// The places that had a placeholder and now have another value, which rclone has written.
pub(crate) fn overwritten<'a>(
    places: &'a [Place],
    now: &Config,
) -> impl Iterator<Item = &'a Place> {
    places.iter().filter(|place| {
        now.value(&place.section, &place.key).is_some_and(|value| {
            object_of(value).or_else(|| object_of_obscured(value)) != Some(place.object)
        })
    })
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "section [{}], field {}", self.section, self.key)
    }
}

fn object_of_obscured(value: &str) -> Option<ObjectId> {
    let revealed = obscure::reveal(value)?;
    object_of(std::str::from_utf8(revealed.expose()).ok()?)
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
    fn placeholders_are_found_plain_and_obscured() {
        let text = format!(
            "[remote]\ntype = s3\nsecret_access_key = strongroom:v1:{ID}\nregion = strongroom\n\
             pass = {}\nkey_file_pass = {0}\npassword = strongroom:v1:{ID}\n\
             [encrypted]\npassword2 = {}\npassword = strongroom:v2:{ID}\n",
            obscured(&format!("strongroom:v1:{ID}")),
            obscured("strongroom:v1:nothing"),
        );
        let config = Config::parse(&text);
        let places = places(&config);
        let found: Vec<_> = places
            .iter()
            .map(|place| (place.section.as_str(), place.key.as_str(), place.obscured))
            .collect();
        assert_eq!(
            found,
            [
                ("remote", "key_file_pass", true),
                ("remote", "pass", true),
                ("remote", "password", true),
                ("remote", "secret_access_key", false),
            ]
        );
        assert!(places.iter().all(|place| place.object.to_string() == ID));
        assert_eq!(overwritten(&places, &config).count(), 0);
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
        let keys: Vec<_> = overwritten(&places, &after)
            .map(|it| it.key.as_str())
            .collect();
        assert_eq!(keys, ["token"]);
    }
}
