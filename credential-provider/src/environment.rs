//! Placeholders in our own environment, which the program would inherit.

use std::fmt;

use strongroom::object::ObjectId;

use crate::failure::Failure;
use crate::placeholder::{is_within, object_of};
use crate::rclone::places::object_of_obscured;

/// A variable whose value is a placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    pub(crate) name: String,
    /// The object that holds the value.
    pub(crate) object: ObjectId,
    /// Whether the placeholder is obscured, as rclone wants its passwords.
    pub(crate) obscured: bool,
}

/// All variables that are a placeholder, by name.
///
/// # Errors
/// For one in which a placeholder is only a part: to put the secret there would need to know what
/// the rest means.
pub(crate) fn placeholders() -> Result<Vec<Variable>, Failure> {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    placeholders_among(variables)
}

fn placeholders_among(
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<Variable>, Failure> {
    let mut found = Vec::new();
    for (name, value) in variables {
        if let Some(object) = object_of(&value) {
            let obscured = name.starts_with("RCLONE_")
                && ["_PASS", "_PASSWORD", "_PASSWORD2"]
                    .iter()
                    .any(|it| name.ends_with(it));
            found.push(Variable {
                name,
                object,
                obscured,
            });
        } else if let Some(object) = object_of_obscured(&value) {
            found.push(Variable {
                name,
                object,
                obscured: true,
            });
        } else if is_within(&value) {
            return Err(Failure::input(format!(
                "variable {name}: a placeholder is a part of its value; a secret can be put in the \
                 place of a whole value alone"
            )));
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "variable {}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rclone::obscure::obscure;

    #[test]
    fn placeholders_are_found_whole_and_refused_in_parts() {
        let placeholder = "strongroom:v1:11111111-1111-4111-8111-111111111111";
        let hidden = obscure(placeholder.as_bytes());
        let hidden = std::str::from_utf8(hidden.expose()).expect("ASCII");
        let among = |variables: &[(&str, &str)]| {
            let owned = variables
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
            placeholders_among(owned).map_err(|failure| failure.exit_code())
        };
        let found = among(&[
            ("RESTIC_PASSWORD", placeholder),
            ("PATH", "/bin"),
            ("AWS_SECRET_ACCESS_KEY", placeholder),
            ("RCLONE_CONFIG_R_PASS", hidden),
            ("RCLONE_CONFIG_S_PASS", placeholder),
        ])
        .expect("whole ones");
        let names: Vec<_> = found
            .iter()
            .map(|it| (it.name.as_str(), it.obscured))
            .collect();
        assert_eq!(
            names,
            [
                ("AWS_SECRET_ACCESS_KEY", false),
                ("RCLONE_CONFIG_R_PASS", true),
                ("RCLONE_CONFIG_S_PASS", true),
                ("RESTIC_PASSWORD", false)
            ]
        );
        let part = format!("rest:http://nas:{placeholder}@host/");
        assert_eq!(among(&[("RESTIC_REPOSITORY", &part)]), Err(127));
    }
}
