//! The system's groups, wherever it keeps them: in a file, or in a directory service.

use std::process::{Command, Stdio};

use strongroom::error::Error;

use crate::failure::Failure;

/// A group of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Its name, or its number where it has none.
    pub(crate) name: String,
    /// Its number.
    pub(crate) gid: u32,
}

impl Group {
    /// The group of this name or number.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none.
    pub(crate) fn find(text: &str) -> Result<Self, Failure> {
        look_up(text)?.ok_or_else(|| {
            let reason = "this system has no such group (`getent group` shows those that it has)";
            Error::input(format!("group {text:?}"), reason).into()
        })
    }

    /// The group of this number, whether it has a name or not.
    pub(crate) fn of(gid: u32) -> Self {
        look_up(&gid.to_string()).ok().flatten().unwrap_or(Self {
            name: gid.to_string(),
            gid,
        })
    }
}

/// Asks the C library's own tool, which knows every place that groups come from.
fn look_up(text: &str) -> Result<Option<Group>, Failure> {
    let asked = Command::new("getent")
        .args(["group", "--", text])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|error| Error::input("`getent group`", error.to_string()))?;
    Ok(std::str::from_utf8(&asked.stdout).ok().and_then(parse))
}

/// `NAME:PASSWORD:GID:MEMBERS`.
fn parse(line: &str) -> Option<Group> {
    let mut fields = line.trim_end().split(':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let gid = fields.nth(1)?.parse().ok()?;
    Some(Group { name, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_name_and_by_number() {
        let root = Group {
            name: "root".to_owned(),
            gid: 0,
        };
        assert_eq!(Group::find("root").ok(), Some(root.clone()));
        assert_eq!(Group::of(0), root);
        assert_eq!(Group::of(4_294_967_000).name, "4294967000");
    }

    #[test]
    fn what_is_no_group_is_refused() {
        for text in ["no such group", "", "--help", "4294967000"] {
            assert!(Group::find(text).is_err(), "{text:?}");
        }
    }
}
