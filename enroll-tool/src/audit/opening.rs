//! How a file is opened that may be anything: never through a link, never waiting, never leaving a
//! trace in its times.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Where something lies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The file.
    pub(crate) path: PathBuf,
    /// The ZFS snapshot that it is in, as `zfs destroy` takes it, as far as that is known.
    pub(crate) snapshot: Option<String>,
    /// Where in the file, of an archive.
    pub(crate) inside: Option<String>,
}

impl Place {
    /// A file of the live file system.
    pub(crate) fn file(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            snapshot: None,
            inside: None,
        }
    }

    /// A file in this one.
    pub(crate) fn with(&self, inside: &str) -> Self {
        Self {
            inside: Some(inside.to_owned()),
            ..self.clone()
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inside {
            Some(inside) => write!(f, "{} in {}", inside, self.path.display()),
            None => self.path.display().fmt(f),
        }
    }
}

/// Opens a regular file; `None` for one that is gone meanwhile, and for what is no regular file.
///
/// # Errors
/// What the system answers.
pub(crate) fn open(path: &Path) -> io::Result<Option<File>> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(path, flags | OFlags::NOATIME, Mode::empty()) {
        // The times of other people's files are theirs to keep.
        Err(Errno::PERM) => rustix::fs::open(path, flags, Mode::empty()),
        other => other,
    };
    let file = match opened {
        Ok(descriptor) => File::from(descriptor),
        // Gone, exchanged for a link, a socket, or a device that nobody drives.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    Ok(file.metadata()?.is_file().then_some(file))
}

/// The whole of something that must not be longer than `limit`.
///
/// # Errors
/// What the system answers, and that it is too long.
pub(crate) fn read_whole(source: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes)?;
    check_len(bytes.len() as u64, limit)?;
    Ok(bytes)
}

/// Refuses what is longer than `limit`.
///
/// # Errors
/// That it is too long.
pub(crate) fn check_len(len: u64, limit: u64) -> io::Result<()> {
    if len <= limit {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("it is longer than {} MiB, and was not read", limit >> 20),
    ))
}
