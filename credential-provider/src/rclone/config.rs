//! rclone's configuration: which file it is, and what it says. The format is that of the Go
//! package goconfig, which rclone reads it with.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The section of what stands before any section.
const DEFAULT_SECTION: &str = "DEFAULT";

/// The values of a configuration, by section and key.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) sections: BTreeMap<String, BTreeMap<String, String>>,
}

impl Config {
    /// What a text says. A line that rclone would refuse, it will: here it says nothing.
    pub(crate) fn parse(text: &str) -> Self {
        let mut config = Self::default();
        let mut section = DEFAULT_SECTION.to_owned();
        for line in text.trim_start_matches('\u{feff}').lines() {
            let line = line.trim();
            if line.is_empty() || is_comment(line) {
                continue;
            }
            let name = line.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
            if let Some(name) = name {
                let name = name.trim().to_owned();
                config.sections.entry(name.clone()).or_default();
                section = name;
            } else if let Some((key, value)) = key_and_value(line) {
                let values = config.sections.entry(section.clone()).or_default();
                values.insert(key.to_owned(), value.to_owned());
            }
        }
        config
    }

    /// This text, which rclone has written, with other values for some keys of sections. What is not
    /// in it stays out of it.
    pub(crate) fn with_values(text: &str, values: &BTreeMap<(&str, &str), &str>) -> String {
        let mut section = DEFAULT_SECTION;
        let mut changed = String::new();
        for line in text.split_inclusive('\n') {
            let bare = line.trim();
            let name = bare.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
            if let Some(name) = name {
                section = name.trim();
            }
            let key = key_and_value(bare).filter(|_| name.is_none() && !is_comment(bare));
            match key.and_then(|(key, _)| values.get(&(section, key)).map(|value| (key, value))) {
                Some((key, value)) => {
                    changed.extend([key, " = ", value, "\n"]);
                }
                None => changed.push_str(line),
            }
        }
        changed
    }

    /// The value of a key of a section.
    pub(crate) fn value(&self, section: &str, key: &str) -> Option<&str> {
        Some(self.sections.get(section)?.get(key)?.as_str())
    }
}

/// The configuration file that rclone will read, given its arguments and the folder it lies in;
/// none if it is told to read none.
pub(crate) fn file(
    arguments: &[OsString],
    program: &Path,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Option<PathBuf> {
    let named = flag(arguments).or_else(|| variable("RCLONE_CONFIG"));
    if let Some(file) = named {
        return Some(PathBuf::from(file)).filter(|file| !file.as_os_str().is_empty());
    }
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let home = set("HOME").map(PathBuf::from);
    let settings = match set("XDG_CONFIG_HOME") {
        Some(folder) => Some(PathBuf::from(folder)),
        None => home.as_ref().map(|home| home.join(".config")),
    };
    let beside = fs::canonicalize(program).ok();
    [
        beside.and_then(|program| Some(program.parent()?.join("rclone.conf"))),
        settings.map(|folder| folder.join("rclone/rclone.conf")),
        home.map(|home| home.join(".rclone.conf")),
    ]
    .into_iter()
    .flatten()
    .find(|file| file.exists())
}

/// The same arguments, for another configuration file.
pub(crate) fn with_file(arguments: &[OsString], file: &Path) -> Vec<OsString> {
    let mut flag = OsString::from("--config=");
    flag.push(file);
    let mut changed = vec![flag];
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let bytes = argument.as_bytes();
        if bytes == b"--" {
            changed.push(argument.clone());
            break;
        }
        if bytes == b"--config" {
            rest.next();
        } else if !bytes.starts_with(b"--config=") {
            changed.push(argument.clone());
        }
    }
    changed.extend(rest.cloned());
    changed
}

/// The value of the last `--config` among rclone's arguments.
fn flag(arguments: &[OsString]) -> Option<OsString> {
    let mut found = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let bytes = argument.as_bytes();
        if bytes == b"--" {
            break;
        }
        if bytes == b"--config" {
            found = rest.next().cloned();
        } else if let Some(file) = bytes.strip_prefix(b"--config=") {
            found = Some(OsStr::from_bytes(file).to_owned());
        }
    }
    found
}

fn is_comment(line: &str) -> bool {
    line.starts_with(['#', ';'])
}

/// Either may be quoted: the key with `"` or `` ` ``, the value with `` ` `` or `"""`.
fn key_and_value(line: &str) -> Option<(&str, &str)> {
    let quote = ["\"\"\"", "\"", "`"]
        .into_iter()
        .find(|it| line.starts_with(it));
    let (key, rest) = match quote {
        Some(quote) => line[quote.len()..].split_once(quote)?,
        None => ("", line),
    };
    let separator = rest.find(['=', ':'])?;
    let key = if quote.is_some() {
        key
    } else {
        &rest[..separator]
    };
    let value = rest[separator + 1..].trim();
    let value = ["\"\"\"", "`"]
        .into_iter()
        .find_map(|quote| Some(value.strip_prefix(quote)?.rsplit_once(quote)?.0))
        .unwrap_or(value);
    Some((key.trim(), value))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const TEXT: &str = "\u{feff}; a comment\n\
        stray = before any section\n\
        # another\n\
        [remote]\n\
        type = sftp\n\
        \thost=example.org  \n\
        pass = a = b : c ; no comment\n\
        empty =\n\
        colon: value\n\
        `quo=ted` = ` kept `\n\
        \n\
        [other one]\r\n\
        type = s3\r\n\
        [remote]\n\
        user = me\n\
        host = example.com\n\
        [bare]\n";

    #[test]
    fn values_are_read_as_rclone_reads_them() {
        let config = Config::parse(TEXT);
        let sections: Vec<_> = config.sections.keys().collect();
        assert_eq!(sections, ["DEFAULT", "bare", "other one", "remote"]);
        for (key, value) in [
            ("type", "sftp"),
            ("host", "example.com"),
            ("pass", "a = b : c ; no comment"),
            ("empty", ""),
            ("colon", "value"),
            ("quo=ted", " kept "),
            ("user", "me"),
        ] {
            assert_eq!(config.value("remote", key), Some(value), "{key}");
        }
        assert_eq!(config.value("other one", "type"), Some("s3"));
        assert_eq!(config.value("remote", "stray"), None);
        let stray = config.value("DEFAULT", "stray");
        assert_eq!(stray, Some("before any section"));
        assert_eq!(config.value("missing", "type"), None);
    }

    /// With the rclone of this machine, if it has one.
    #[test]
    fn rclone_reads_the_same() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("rclone.conf");
        fs::write(&file, TEXT).expect("written");
        let Ok(output) = Command::new("rclone")
            .args(["config", "dump", "--config"])
            .arg(&file)
            .output()
        else {
            return;
        };
        let sections = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(Config::parse(TEXT), Config { sections });
    }

    #[test]
    fn some_values_are_exchanged_and_all_else_stays() {
        let text = "; a = 1\n[one]\na = 1\nb = 2\n\n[two]\na = 3\n[one]\n a=4";
        let values = BTreeMap::from([(("one", "a"), "x = y"), (("three", "a"), "z")]);
        assert_eq!(
            Config::with_values(text, &values),
            "; a = 1\n[one]\na = x = y\nb = 2\n\n[two]\na = 3\n[one]\na = x = y\n"
        );
    }

    #[test]
    fn nonsense_says_nothing() {
        assert_eq!(
            Config::parse("no section\n\"open = 1\n`"),
            Config::default()
        );
        assert_eq!(
            Config::parse("[a]\nno value\n`x` y\n").sections["a"].len(),
            0
        );
    }

    #[test]
    fn the_file_is_the_one_that_rclone_reads() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        let variables = |name: &str| match name {
            "HOME" => Some(at("home").into_os_string()),
            "XDG_CONFIG_HOME" => Some(at("xdg").into_os_string()),
            _ => None,
        };
        let program = at("bin/rclone");
        let found = |arguments: &[&str]| {
            let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
            file(&arguments, &program, variables)
        };
        let given = |name: &str| Some(PathBuf::from(name));
        assert_eq!(found(&["ls", "--config", "a", "r:"]), given("a"));
        assert_eq!(found(&["--config=a", "ls", "--config=b"]), given("b"));
        assert_eq!(found(&["--config=", "ls"]), None);
        assert_eq!(found(&["ls", "--", "--config=a"]), None);

        for name in [
            "home/.rclone.conf",
            "xdg/rclone/rclone.conf",
            "bin/rclone.conf",
        ] {
            let file = at(name);
            fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            fs::write(&file, "").expect("written");
            fs::create_dir_all(at("bin")).expect("made");
            fs::write(&program, "").expect("written");
            assert_eq!(found(&["ls"]), Some(file));
        }

        let arguments = [
            "-v",
            "--config",
            "a",
            "ls",
            "--config=b",
            "--",
            "--config=c",
            "r:",
        ];
        let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
        assert_eq!(
            with_file(&arguments, Path::new("/x")),
            ["--config=/x", "-v", "ls", "--", "--config=c", "r:"]
        );

        let named = |name: &str| (name == "RCLONE_CONFIG").then(|| OsString::from("c"));
        assert_eq!(file(&[], &program, named), given("c"));
        assert_eq!(file(&["--config=a".into()], &program, named), given("a"));
    }
}
