//! The settings that a file has for a launcher whose environment lacks them: the middleware starts
//! restic with an environment that has nothing but what is restic's.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Names another file.
const VARIABLE: &str = "STRONGROOM_SETTINGS";

const FILE: &str = "/etc/default/strongroom";

/// Takes what the file says of variables that are not set. A file that anyone but root and ourselves
/// may write says nothing, and one that is not there neither.
///
/// Among the first lines of `main`, while there is one thread.
pub(crate) fn take() {
    let file = std::env::var_os(VARIABLE).map_or_else(|| PathBuf::from(FILE), PathBuf::from);
    if !is_trusted(&file) {
        return;
    }
    let text = fs::read_to_string(&file).unwrap_or_default();
    for (name, value) in parse(&text) {
        strongroom::process::set_default_variable(name, value);
    }
}

fn is_trusted(file: &Path) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    fs::metadata(file).is_ok_and(|it| {
        it.is_file() && [0, ours].contains(&it.uid()) && it.permissions().mode() & 0o022 == 0
    })
}

/// The assignments to variables of ours, in a file that shells read too.
fn parse(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=')?;
        let is_ours = name.strip_prefix("STRONGROOM_").is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
        });
        let value = value.trim();
        let quoted = ['"', '\'']
            .into_iter()
            .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
        is_ours.then_some((name, quoted.unwrap_or(value)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_to_our_variables_are_read() {
        let text = "# STRONGROOM_DIR=/no\nSTRONGROOM_DIR=/data/strongroom\n\
            export STRONGROOM_RESTIC=\"/usr/bin/restic\"\nPATH=/evil\nLD_PRELOAD=x\n\
            STRONGROOM_TCTI='device:/dev/tpmrm0'\nSTRONGROOM_=x\nSTRONGROOM_A;b=c\n";
        let found: Vec<_> = parse(text).collect();
        assert_eq!(
            found,
            [
                ("STRONGROOM_DIR", "/data/strongroom"),
                ("STRONGROOM_RESTIC", "/usr/bin/restic"),
                ("STRONGROOM_TCTI", "device:/dev/tpmrm0"),
            ]
        );
    }

    #[test]
    fn a_file_that_others_write_says_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("strongroom");
        fs::write(&file, "").expect("written");
        for (mode, trusted) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
            assert_eq!(is_trusted(&file), trusted, "{mode:o}");
        }
        assert!(!is_trusted(folder.path()));
    }
}
