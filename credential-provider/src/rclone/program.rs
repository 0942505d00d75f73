//! Where rclone is: on PATH, and not ourselves under its name.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The first rclone on a PATH that is not this program itself.
pub(crate) fn find(path: &OsStr, ourselves: &Path) -> Option<PathBuf> {
    std::env::split_paths(path)
        // An empty part would mean the working folder, from where no secret's user is to come.
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("rclone"))
        .find(|file| is_program(file) && !same_file(file, ourselves))
}

/// Whether two paths lead to one file, by links of either kind or not.
pub(crate) fn same_file(one: &Path, other: &Path) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

fn is_program(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn ourselves_folders_and_texts_are_passed_over() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        let program = |name: &str, mode| {
            let file = at(name);
            fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            fs::write(&file, "").expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
            file
        };
        let ourselves = program("ours/credential-provider", 0o755);
        for name in ["soft", "hard", "folder/rclone"] {
            fs::create_dir_all(at(name)).expect("made");
        }
        symlink(&ourselves, at("soft/rclone")).expect("linked");
        fs::hard_link(&ourselves, at("hard/rclone")).expect("linked");
        program("text/rclone", 0o644);
        let right = program("right/rclone", 0o755);

        let parts = ["soft", "hard", "folder", "text", "missing", "right"].map(at);
        let path = std::env::join_paths(&parts).expect("no colons");
        assert_eq!(find(&path, &ourselves), Some(right));
        let path = std::env::join_paths(&parts[..5]).expect("no colons");
        assert_eq!(find(&path, &ourselves), None);
    }
}
