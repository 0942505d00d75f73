//! What lies on which disk, as far as the kernel's table of mounts tells.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Whether two places are on one file system.
pub(crate) fn same_file_system(one: &Path, other: &Path) -> bool {
    let device = |path: &Path| fs::metadata(existing(path)).map(|meta| meta.dev()).ok();
    device(one).is_some() && device(one) == device(other)
}

/// The ZFS pool that two places are both on; `None` if they are not. Every dataset is a file
/// system of its own, so that the device alone does not tell.
pub(crate) fn same_pool(one: &Path, other: &Path) -> Option<String> {
    let mounts = mounts();
    let pool = |path: &Path| pool_of(&mounts, &fs::canonicalize(existing(path)).ok()?);
    pool(one).filter(|there| pool(other).as_ref() == Some(there))
}

/// The nearest place at or above a path that exists.
fn existing(path: &Path) -> PathBuf {
    let above = path
        .ancestors()
        .find(|place| place.exists() && !place.as_os_str().is_empty());
    above.unwrap_or(Path::new(".")).to_owned()
}

/// A line of the kernel's table of mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Where.
    pub(crate) point: PathBuf,
    /// The kind of file system, such as `zfs`.
    pub(crate) kind: String,
    /// What is mounted; for ZFS the dataset or snapshot.
    pub(crate) source: String,
}

/// What is mounted, in the order of mounting; nothing where the kernel does not say.
pub(crate) fn mounts() -> Vec<Mount> {
    fs::read_to_string("/proc/self/mountinfo").map_or_else(|_| Vec::new(), |text| parse(&text))
}

/// The mount that a path is on. Of two at one place the later one hides the other.
pub(crate) fn mount_of<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

/// proc_pid_mountinfo(5).
fn parse(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (head, tail) = line.split_once(" - ")?;
        let mut tail = tail.split(' ');
        Some(Mount {
            point: unescape(head.split(' ').nth(4)?).into(),
            kind: tail.next()?.to_owned(),
            source: unescape(tail.next()?),
        })
    };
    text.lines().filter_map(mount).collect()
}

/// The pool of the mount that a path is on, if that is ZFS.
fn pool_of(mounts: &[Mount], path: &Path) -> Option<String> {
    let mount = mount_of(mounts, path).filter(|mount| mount.kind == "zfs")?;
    mount.source.split('/').next().map(str::to_owned)
}

/// Octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (escape, plain)| {
        text.replace(escape, plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 0:20 / / rw - zfs boot-pool/ROOT/25.10 rw\n\
23 22 0:21 / /data rw - zfs boot-pool/ROOT/25.10/data rw\n\
24 22 0:22 / /mnt/tank rw - zfs tank rw\n\
25 24 0:23 / /mnt/tank/My\\040Media rw - zfs tank/My\\040Media rw\n\
26 22 0:24 / /run rw - tmpfs tmpfs rw\n";

    #[test]
    fn a_place_is_on_the_pool_of_its_nearest_mount() {
        for (path, pool) in [
            ("/data/strongroom", Some("boot-pool")),
            ("/root/backup", Some("boot-pool")),
            ("/mnt/tank/My Media/backup", Some("tank")),
            ("/mnt/tankard", Some("boot-pool")),
            ("/run/backup", None),
        ] {
            assert_eq!(
                pool_of(&parse(MOUNTS), Path::new(path)).as_deref(),
                pool,
                "{path}"
            );
        }
    }
}
