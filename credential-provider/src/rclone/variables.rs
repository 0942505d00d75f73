//! The variables by which rclone takes an option of a remote from its environment.

use std::collections::BTreeSet;

/// The variables that override a key of a section.
///
/// They are two where the section's name has a hyphen: up to 1.61 rclone looks for it as an
/// underscore, later as a hyphen.
pub(crate) fn names(section: &str, key: &str) -> BTreeSet<String> {
    let section = upper(section);
    let key = upper(key).replace('-', "_");
    [section.replace('-', "_"), section]
        .map(|section| format!("RCLONE_CONFIG_{section}_{key}"))
        .into()
}

/// What the variables of a section begin with.
pub(crate) fn prefixes(section: &str) -> BTreeSet<String> {
    names(section, "")
}

/// As Go's strings.ToUpper has it: letter by letter, and what has no single capital stays.
fn upper(text: &str) -> String {
    text.chars()
        .map(|letter| {
            let mut capitals = letter.to_uppercase();
            match (capitals.next(), capitals.next()) {
                (Some(capital), None) => capital,
                _ => letter,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_rclones() {
        let all = |section, key| names(section, key).into_iter().collect::<Vec<_>>();
        assert_eq!(
            all("remote", "secret_access_key"),
            ["RCLONE_CONFIG_REMOTE_SECRET_ACCESS_KEY"]
        );
        assert_eq!(
            all("my-größe 2", "some-key"),
            [
                "RCLONE_CONFIG_MY-GRÖßE 2_SOME_KEY",
                "RCLONE_CONFIG_MY_GRÖßE 2_SOME_KEY"
            ]
        );
    }
}
