//! The vault in the system that an upgrade has made: a clone of the running one's, as it was when the
//! upgrade began. What was sealed since, and above all the list of allowed boots, which the TPM holds to,
//! is brought over.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, chownat};
use strongroom::object::ObjectId;
use strongroom::{Error, Result, Vault};

use crate::durable;

/// Brings the copy at `to` up to date with the vault at `from`, file by file, the manifest and the list
/// of allowed boots last. What the copy alone has stays. How many files were written.
///
/// # Errors
/// [`Error::Input`] if another vault is there; [`Error::VaultBusy`]; [`Error::Io`].
pub(crate) fn bring_up_to_date(from: &Vault, dir: &Path, to: &Path) -> Result<usize> {
    match Vault::open(to) {
        Ok(there) if there.id() != from.id() => {
            let reason = format!("it is vault {}, and not {}", there.id(), from.id());
            return Err(Error::input(to.display().to_string(), reason));
        }
        // A damaged copy is mended by being written.
        _ => {}
    }
    let _lock = from.lock()?;
    durable::make_folder(to, 0o700)?;
    copy(dir, to)
}

fn copy(from: &Path, to: &Path) -> Result<usize> {
    let mut entries: Vec<_> = fs::read_dir(from)
        .and_then(Iterator::collect)
        .map_err(Error::io("read", from))?;
    // Folders first: what `vault.json` and `policy.json` speak of is there before them.
    entries.sort_by_key(|entry: &fs::DirEntry| (entry.path().is_file(), entry.file_name()));
    // What a guard was killed over.
    durable::clean(to);
    let mut written = 0;
    for entry in entries {
        let (source, place) = (entry.path(), to.join(entry.file_name()));
        let metadata = fs::symlink_metadata(&source).map_err(Error::io("read", &source))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let (mode, gid) = (metadata.mode() & 0o7777, metadata.gid());
        if metadata.is_dir() {
            durable::make_folder(&place, 0o700)?;
            written += copy(&source, &place)?;
        } else if metadata.is_file() && !is_left_out(&name) {
            let bytes = fs::read(&source).map_err(Error::io("read", &source))?;
            if fs::read(&place).is_ok_and(|there| there == bytes) {
                set(&place, mode, gid)?;
                continue;
            }
            durable::write(&place, &bytes, 0o600)?;
            written += 1;
        } else {
            continue;
        }
        set(&place, mode, gid)?;
    }
    Ok(written)
}

/// Files that are there to be locked, and what a writer was killed over.
fn is_left_out(name: &str) -> bool {
    let is_lock = name == ".lock" || name == ".turn";
    let id = name.len().checked_sub(36).and_then(|at| name.get(at..));
    let is_half_written =
        name.starts_with('.') && id.is_some_and(|id| id.parse::<ObjectId>().is_ok());
    is_lock || is_half_written
}

/// The group first: a change of it clears the setgid bit.
fn set(place: &Path, mode: u32, gid: u32) -> Result<()> {
    let now = fs::symlink_metadata(place).map_err(Error::io("read", place))?;
    if now.gid() != gid {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        chownat(CWD, place, None, Some(Gid::from_raw(gid)), flags)
            .map_err(|error| Error::io("change the group of", place)(error.into()))?;
    }
    if now.gid() != gid || now.mode() & 0o7777 != mode {
        fs::set_permissions(place, fs::Permissions::from_mode(mode))
            .map_err(Error::io("change the mode of", place))?;
    }
    Ok(())
}
