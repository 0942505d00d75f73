//! Where the real program is: where its owner says, or on PATH, and never ourselves under its name.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Tells a program that we launch which file it was launched as.
pub(crate) const LAUNCHED_AS: &str = "STRONGROOM_LAUNCHED";

/// Counts the launches of a program of ours by another.
pub(crate) const LAUNCHES: &str = "STRONGROOM_LAUNCHES";

/// One for the name on PATH, one for a script around it, one for restic, which starts rclone, and
/// one to spare.
const MOST_LAUNCHES: u32 = 4;

/// Where a program is looked for that was started without a PATH, as the middleware starts restic.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a script is mounted over a program that it launches us for (`usr-bin-restic.mount`), and the same
/// folder as it is beneath (`run-strongroom-programs.mount`).
const COVERED: &str = "/usr/bin";
const BENEATH: &str = "/run/strongroom/programs";

/// The real program of this name: the file that `STRONGROOM_RCLONE` or `STRONGROOM_RESTIC` names, or
/// the first on PATH that is not this program itself; of one in /usr/bin what is beneath whatever is mounted
/// over it.
///
/// It is given secrets, so where we are root it must be root's, and nobody else's to write.
pub(crate) fn real(name: &str, ourselves: &Path) -> Result<PathBuf, Failure> {
    // Two copies of this program under its name, or a script of that name which calls us, would
    // launch each other without end.
    if launches() >= MOST_LAUNCHES {
        return Err(Failure::input(format!(
            "{name} on PATH leads back to this program again and again; leave one of them on PATH, or \
             name the real one with {}",
            variable(name)
        )));
    }
    if std::env::var_os(LAUNCHED_AS).is_some_and(|it| same_file(it.as_ref(), ourselves)) {
        return Err(Failure::input(format!(
            "{} was launched as {name} by another copy of itself; leave one of them on PATH, or name \
             the real {name} with {}",
            ourselves.display(),
            variable(name)
        )));
    }
    let named = std::env::var_os(variable(name)).filter(|file| !file.is_empty());
    let program = match named.map(PathBuf::from) {
        Some(file) if !file.is_absolute() || !is_program(&file) || same_file(&file, ourselves) => {
            return Err(Failure::input(format!(
                "{} names {}, which must be the real {name}, by its whole path",
                variable(name),
                file.display()
            )));
        }
        Some(file) => file,
        None => {
            let path = std::env::var_os("PATH").filter(|path| !path.is_empty());
            let path = path.unwrap_or_else(|| OsString::from(USUAL_PATH));
            find(name, &path, ourselves)
                .ok_or_else(|| Failure::input(format!("there is no {name} on PATH")))?
        }
    };
    let program = beneath(program, COVERED.as_ref(), BENEATH.as_ref());
    check_owner(&program)?;
    Ok(program)
}

/// What tells the program, and what it starts, how it was launched.
pub(crate) fn marks(program: &Path) -> [(&'static str, OsString); 2] {
    let count = (launches() + 1).to_string();
    [
        (LAUNCHED_AS, program.as_os_str().to_owned()),
        (LAUNCHES, count.into()),
    ]
}

/// How many of us are above us, each having launched the next.
fn launches() -> u32 {
    std::env::var(LAUNCHES)
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(0)
}

fn variable(name: &str) -> String {
    format!("STRONGROOM_{}", name.to_uppercase())
}

fn find(name: &str, path: &OsStr, ourselves: &Path) -> Option<PathBuf> {
    std::env::split_paths(path)
        // An empty part would mean the working folder, from where no secret's user is to come.
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|file| is_program(file) && !same_file(file, ourselves))
}

/// The program of this name beneath a folder in which others may be mounted over programs. Where nothing is,
/// it is the same.
fn beneath(program: PathBuf, covered: &Path, beneath: &Path) -> PathBuf {
    let is_covered = (program.parent()).is_some_and(|folder| same_file(folder, covered));
    let below = program.file_name().map(|name| beneath.join(name));
    below
        .filter(|below| is_covered && is_program(below))
        .unwrap_or(program)
}

fn check_owner(program: &Path) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let metadata = fs::metadata(program);
    if metadata.is_ok_and(|it| it.uid() == 0 && it.permissions().mode() & 0o022 == 0) {
        return Ok(());
    }
    Err(Failure::input(format!(
        "{} is not root's alone to write, and root gives no secret to it",
        program.display()
    )))
}

/// Whether two paths lead to one file, by links of either kind or not.
fn same_file(one: &Path, other: &Path) -> bool {
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
        assert_eq!(find("rclone", &path, &ourselves), Some(right));
        assert_eq!(find("restic", &path, &ourselves), None);
        let path = std::env::join_paths(&parts[..5]).expect("no colons");
        assert_eq!(find("rclone", &path, &ourselves), None);

        let below = program("below/rclone", 0o755);
        symlink(at("right"), at("another-name")).expect("linked");
        for (file, found) in [
            ("right/rclone", &below),
            ("another-name/rclone", &below),
            ("text/rclone", &at("text/rclone")),
            ("right/restic", &at("right/restic")),
        ] {
            let beneath = beneath(at(file), &at("right"), &at("below"));
            assert_eq!(&beneath, found, "{file}");
        }
    }

    #[test]
    fn root_gives_nothing_to_what_others_may_write() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("rclone");
        fs::write(&file, "").expect("written");
        for (mode, fits) in [(0o755, true), (0o775, false), (0o757, false)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
            assert_eq!(check_owner(&file).is_ok(), fits, "{mode:o}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("set");
        std::os::unix::fs::chown(&file, Some(65_534), None).expect("root may");
        assert!(check_owner(&file).is_err());
    }
}
