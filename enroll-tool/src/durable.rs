//! Files that are there wholly or not at all, and stay after a power cut.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use strongroom::object::ObjectId;
use strongroom::{Error, Result};

/// Writes a file of this mode in one step.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn write(file: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let staged = staged(file);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&staged)
        .and_then(|mut open| {
            // Whatever the umask is.
            open.set_permissions(fs::Permissions::from_mode(mode))?;
            open.write_all(bytes)?;
            open.sync_all()
        })
        .and_then(|()| fs::rename(&staged, file));
    if written.is_err() {
        // It is nobody's file.
        let _ = fs::remove_file(&staged);
    }
    written.map_err(Error::io("write", file))?;
    sync(folder(file))
}

/// Makes a symbolic link in one step, in the place of whatever file or link is there.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn link(to: &Path, link: &Path) -> Result<()> {
    let staged = staged(link);
    std::os::unix::fs::symlink(to, &staged)
        .and_then(|()| fs::rename(&staged, link))
        .map_err(Error::io("make the link", link))?;
    sync(folder(link))
}

/// Removes a file or link, if it is there.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Ok(()) => sync(folder(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("remove", file)(error)),
    }
}

/// Makes a folder, with those above it.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn make_folder(dir: &Path, mode: u32) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(above) = dir.parent().filter(|above| !above.is_dir()) {
        make_folder(above, 0o755)?;
    }
    match DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::io("make the folder", dir)(error));
        }
        _ => {}
    }
    sync(folder(dir))
}

/// Removes what was killed over a write into this folder.
pub(crate) fn clean(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_ours = name
            .to_str()
            .and_then(|name| name.strip_prefix('.'))
            .and_then(|name| name.rsplit_once(STAGED))
            .is_some_and(|(_, id)| id.parse::<ObjectId>().is_ok());
        if is_ours {
            // If it cannot be removed, it is still nobody's file.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Syncs a folder.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn sync(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::io("sync the folder", dir))
}

const STAGED: &str = ".strongroom-";

fn staged(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    folder(file).join(format!(".{name}{STAGED}{}", ObjectId::random()))
}

fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
