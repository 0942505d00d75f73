//! systemd's units out of the folder `systemd/`, as far as a test can do what they say without
//! systemd.

use std::fs;
use std::path::PathBuf;

/// A unit of a template, for one instance.
pub struct ServiceUnit {
    text: String,
}

impl ServiceUnit {
    /// Reads a template and puts the instance in.
    pub fn read(name: &str, instance: &str) -> Self {
        let file = folder().join(name);
        let text =
            fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let text = text.replace("%i", instance);
        assert!(!text.contains('%'), "{name} has a specifier besides %i");
        Self { text }
    }

    /// The value of a setting that is there once.
    #[track_caller]
    pub fn setting(&self, name: &str) -> &str {
        let mut found = self
            .text
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        match (found.next(), found.next()) {
            (Some(value), None) => value,
            (value, _) => panic!("{name} is there {} times", 2 * usize::from(value.is_some())),
        }
    }

    /// The command line of the service, word for word.
    #[track_caller]
    pub fn exec_start(&self) -> Vec<String> {
        let line = self.setting("ExecStart");
        assert!(
            !line.contains(['"', '\'', '\\', '$']),
            "only plain words are read here: {line}"
        );
        line.split_whitespace().map(str::to_owned).collect()
    }
}

/// Where the units are.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../systemd")
}
