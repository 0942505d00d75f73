//! Where to look: folders, and the snapshots of the ZFS file systems that they are on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::disk::{self, Mount};

/// What TrueNAS keeps configurations, and copies of them, in: what an upgrade clones into the new boot
/// environment, and the system dataset.
const USUAL: [&str; 4] = ["/data", "/root", "/home", SYSTEM_DATASET];

/// Each of its parts is a file system of its own.
const SYSTEM_DATASET: &str = "/var/db/system";

/// What is no disk's.
const NEVER: [&str; 3] = ["/proc", "/sys", "/dev"];

/// A folder to be walked, or a file to be looked at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    /// The snapshot that it is in.
    pub(crate) snapshot: Option<String>,
}

/// The places that were named, or the usual ones that are there.
///
/// # Errors
/// In words, for one that is not there or is none of a disk.
pub(crate) fn roots(named: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    if named.is_empty() {
        let mounts = disk::mounts();
        let parts = mounts.iter().map(|mount| &mount.point);
        let parts = parts.filter(|point| point.starts_with(SYSTEM_DATASET));
        let mut usual: Vec<_> = USUAL.iter().map(PathBuf::from).collect();
        usual.extend(parts.cloned());
        return Ok(once(
            usual.into_iter().filter_map(|it| it.canonicalize().ok()),
        ));
    }
    let real = |path: &PathBuf| {
        let real = path
            .canonicalize()
            .map_err(|error| format!("--root {}: {error}", path.display()))?;
        if NEVER.iter().any(|never| real.starts_with(never)) {
            return Err(format!(
                "--root {}: it is the kernel's, and holds no files",
                path.display()
            ));
        }
        Ok(real)
    };
    let named: Result<Vec<_>, _> = named.iter().map(real).collect();
    Ok(once(named?.into_iter()))
}

/// The places, and the same places in every snapshot of their file systems.
pub(crate) fn with_snapshots(roots: &[PathBuf]) -> Vec<Root> {
    let mounts = disk::mounts();
    let mut all = Vec::new();
    for root in roots {
        all.push(Root {
            path: root.clone(),
            snapshot: None,
        });
        let top = top_of_file_system(root);
        all.extend(snapshots(&mounts, top, root));
        if top != root.as_path() {
            all.extend(snapshots(&mounts, root, root));
        }
    }
    all
}

/// Whether `/` is a boot environment of ZFS, and then its dataset's parent and its name.
pub(crate) fn boot_environment() -> Option<(String, String)> {
    let mounts = disk::mounts();
    let root = disk::mount_of(&mounts, Path::new("/")).filter(|mount| mount.kind == "zfs")?;
    let (parent, name) = root.source.rsplit_once('/')?;
    Some((parent.to_owned(), name.to_owned()))
}

/// `root` in each snapshot that `.zfs/snapshot` in `top` shows (zfsprops(7), `snapdir`: it is there even
/// where it is not listed).
fn snapshots(mounts: &[Mount], top: &Path, root: &Path) -> Vec<Root> {
    let Ok(entries) = fs::read_dir(top.join(".zfs/snapshot")) else {
        return Vec::new();
    };
    let dataset = disk::mount_of(mounts, top)
        .filter(|mount| mount.kind == "zfs")
        .map_or("", |mount| &mount.source);
    let below = root.strip_prefix(top).unwrap_or(Path::new(""));
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    names
        .into_iter()
        .map(|name| Root {
            path: top.join(".zfs/snapshot").join(&name).join(below),
            snapshot: Some(format!("{dataset}@{}", name.to_string_lossy())),
        })
        .filter(|root| root.path.exists())
        .collect()
}

/// The highest folder at or above a path that is on the same file system.
fn top_of_file_system(path: &Path) -> &Path {
    let device = |path: &Path| fs::symlink_metadata(path).map(|meta| meta.dev()).ok();
    let here = device(path);
    path.ancestors()
        .take_while(|above| device(above) == here)
        .last()
        .unwrap_or(path)
}

/// Each once.
fn once(roots: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut kept: Vec<PathBuf> = Vec::new();
    for root in roots {
        if !kept.contains(&root) {
            kept.push(root);
        }
    }
    kept
}
