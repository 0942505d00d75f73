//! Running a program as somebody who may do less than the test: what the kernel allows them, and
//! what it does not, only they can show.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::executable;

/// A user of the system, in these groups and no others.
#[derive(Clone, Debug)]
pub struct Someone {
    uid: u32,
    groups: Vec<u32>,
}

/// Groups, and what they stand for here.
pub mod groups {
    /// Who may use the TPM's device: `tss` on a real system.
    pub const TPM: u32 = 64_001;
    /// The group that a token is given to. It has a name, on every Debian.
    pub const TOKEN: u32 = 60;
    /// The name of [`TOKEN`].
    pub const TOKEN_NAME: &str = "games";
    /// Another one.
    pub const OTHER: u32 = 100;
    /// The name of [`OTHER`].
    pub const OTHER_NAME: &str = "users";
    /// Who may use a socket.
    pub const SOCKET: u32 = 64_002;
}

const NOBODY: u32 = 65_534;

impl Someone {
    /// The user nobody, in these groups besides their own.
    pub fn nobody(groups: &[u32]) -> Self {
        Self::new(NOBODY, groups)
    }

    /// A user, in these groups besides that of the same number.
    pub fn new(uid: u32, groups: &[u32]) -> Self {
        let groups = groups.to_vec();
        Self { uid, groups }
    }

    /// Whether a test can be somebody else, which takes root, and folders that everybody comes
    /// through. Where it cannot, it says so.
    pub fn can_be() -> bool {
        let here = std::env::temp_dir();
        let reason = if !rustix::process::geteuid().is_root() {
            "only root can run a program as somebody else".to_owned()
        } else if let Some(closed) = closed_above(&here) {
            format!("nobody else comes through {}", closed.display())
        } else {
            return true;
        };
        skipped(&reason);
        false
    }

    /// What comes before a program and its arguments for them to run it.
    pub fn prefix(&self) -> Vec<String> {
        let uid = self.uid.to_string();
        let mut prefix = vec!["setpriv".to_owned()];
        prefix.extend(["--reuid", &uid, "--regid", &uid].map(str::to_owned));
        if self.groups.is_empty() {
            prefix.push("--clear-groups".to_owned());
        } else {
            let groups: Vec<_> = self.groups.iter().map(ToString::to_string).collect();
            prefix.extend(["--groups".to_owned(), groups.join(",")]);
        }
        // A change of user has undone what a daemon was to be told of its parent's death.
        let rest = [
            "--pdeathsig",
            "TERM",
            "--no-new-privs",
            "--inh-caps=-all",
            "--",
        ];
        prefix.extend(rest.map(str::to_owned));
        prefix
    }
}

/// Says that a test, or a part of it, was not run.
pub fn skipped(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Past cargo's capture, which shows nobody what a test that passes prints.
    let _ = writeln!(io::stderr(), "skipped: {test}: {reason}");
}

/// A copy of a program or module that everybody can run: where it was built, they perhaps come not.
pub fn copy_for_all(built: &Path, folder: &Path) -> PathBuf {
    let copy = folder.join(built.file_name().unwrap_or(OsStr::new("copy")));
    if !copy.exists() {
        executable::copy(built, &copy);
    }
    copy
}

/// Sets the mode of a file or folder.
pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is the test's own");
}

/// The mode of a file or folder, with the bits for setuid, setgid and stickiness.
pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").mode() & 0o7777
}

/// Gives a file, folder or socket to a group, with this mode.
pub fn give(path: &Path, gid: u32, mode: u32) {
    chown(path, None, Some(gid)).expect("the test is root");
    set_mode(path, mode);
}

/// The folder, of this one and those above, that others do not come through.
fn closed_above(folder: &Path) -> Option<PathBuf> {
    let whole = fs::canonicalize(folder).ok()?;
    let closed = whole.ancestors().find(|dir| mode(dir) & 0o001 == 0);
    closed.map(Path::to_owned)
}
