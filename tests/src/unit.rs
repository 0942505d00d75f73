//! systemd's units out of the folder `systemd/`, as far as a test can do what they say without
//! systemd.

use std::fs;
use std::path::PathBuf;

use crate::someone::skipped;
use crate::{Programs, Run};

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

    /// The values of a setting, each word of each line that there is.
    pub fn settings(&self, name: &str) -> Vec<&str> {
        self.text
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .flat_map(str::split_whitespace)
            .collect()
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

/// Has systemd say what is wrong with units, where it can. Our programs are wherever they were
/// built, which systemd does not know.
pub fn verify(names: &[&str]) {
    if !has_systemd_analyze("systemd's own opinion of the units") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder for units");
    let (place, programs) = (self::folder(), Programs::locate());
    let files = names.iter().map(|name| {
        let mut text = fs::read_to_string(place.join(name)).expect("a unit");
        for (program, built) in [
            ("zfs-keyprovider", programs.zfs_keyprovider()),
            ("strongroom", programs.strongroom()),
        ] {
            let built = format!("ExecStart={} ", built.display());
            text = text.replace(&format!("ExecStart={program} "), &built);
        }
        let file = folder.path().join(name);
        fs::write(&file, text).expect("a folder");
        file
    });
    let checked = Run::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(files)
        .ok();
    assert_eq!(checked.stderr, "", "{checked}");
}

/// How exposed systemd finds a service, in tenths: 0 is not at all, 100 entirely. Nothing where it
/// cannot say.
pub fn exposure(name: &str) -> Option<u32> {
    if !has_systemd_analyze("how exposed systemd finds the units") {
        return None;
    }
    let told = Run::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(folder().join(name))
        .finish();
    assert!(!told.stderr.contains("nknown"), "{told}");
    let text = told.text();
    let level = text.split("Overall exposure level for").nth(1);
    let level = level.and_then(|rest| rest.split_whitespace().nth(1));
    let digits = level.map(|level| level.replace('.', ""));
    let tenths = digits.and_then(|digits| digits.parse().ok());
    Some(tenths.unwrap_or_else(|| panic!("it should have told a level: {told}")))
}

fn has_systemd_analyze(what: &str) -> bool {
    let there = Run::new("sh").args(["-c", "command -v systemd-analyze"]);
    let is_there = there.finish().code() == Some(0);
    if !is_there {
        skipped(&format!("{what}: systemd-analyze is not there"));
    }
    is_there
}

/// Where the units are.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../systemd")
}
