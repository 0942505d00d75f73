//! Keys on their way to the kernel: through libzfs_core where it can be had, else through the
//! command `zfs load-key`, on its standard input.

use std::io;

use strongroom::Secret;
use strongroom::dataset_key::KeyFormat;

use super::command::{self, ZfsError};
use super::libzfs_core::LibZfsCore;
use super::properties::Dataset;
use crate::wrapping_key;

/// The way to the kernel.
pub(crate) enum Keys {
    Library(LibZfsCore),
    Command,
}

/// Why ZFS does not take a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("it is not the dataset's key")]
    WrongKey,
    #[error("a key is loaded already")]
    AlreadyLoaded,
    #[error("the dataset is gone")]
    Gone,
    #[error("{0}")]
    Other(String),
}

impl Keys {
    /// The library, or where it cannot be had, the command.
    pub(crate) fn open() -> Self {
        match LibZfsCore::open() {
            Ok(library) => Self::Library(library),
            Err(reason) => {
                log::info!("keys go through `zfs load-key`: {reason}");
                Self::Command
            }
        }
    }

    /// What it is called in a report.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Library(_) => "libzfs_core",
            Self::Command => "zfs load-key",
        }
    }

    /// Loads a dataset's key, which is in the dataset's keyformat.
    pub(crate) fn load(&self, dataset: &Dataset, key: &Secret) -> Result<(), Refused> {
        self.give(dataset, key, false)
    }

    /// Whether it is the dataset's key, which may be loaded already. Nothing is loaded.
    pub(crate) fn check(&self, dataset: &Dataset, key: &Secret) -> Result<(), Refused> {
        self.give(dataset, key, true)
    }

    fn give(&self, dataset: &Dataset, key: &Secret, noop: bool) -> Result<(), Refused> {
        match self {
            Self::Library(library) => {
                let mut key = wrapping_key::derive(dataset, key).map_err(Refused::Other)?;
                library
                    .load_key(&dataset.name, noop, &mut key)
                    .map_err(|error| refused(&error))
            }
            Self::Command => by_command(&dataset.name, key, noop),
        }
    }
}

/// Changes a dataset's key, which must be loaded, to one that is asked for by a prompt.
pub(crate) fn change(dataset: &str, format: KeyFormat, key: &Secret) -> Result<(), ZfsError> {
    let format = format!("keyformat={format}");
    let args = [
        "change-key",
        "-o",
        &format,
        "-o",
        "keylocation=prompt",
        dataset,
    ];
    command::run("zfs", &args, Some(key))?
        .expect("zfs change-key")
        .map(|_| ())
}

/// The kernel's errors, as `zfs load-key` reads them too.
fn refused(error: &io::Error) -> Refused {
    match error.kind() {
        // EACCES, and EPERM, which the kernel says to who is not root.
        io::ErrorKind::PermissionDenied if error.raw_os_error() == Some(EACCES) => {
            Refused::WrongKey
        }
        io::ErrorKind::AlreadyExists => Refused::AlreadyLoaded,
        io::ErrorKind::NotFound => Refused::Gone,
        io::ErrorKind::InvalidInput => Refused::Other(
            "ZFS does not take it: it is no encryption root any more, or is not encrypted"
                .to_owned(),
        ),
        _ => Refused::Other(format!("ZFS does not load it: {error}")),
    }
}

/// errno(3), on every platform that ZFS runs on.
const EACCES: i32 = 13;

fn by_command(dataset: &str, key: &Secret, noop: bool) -> Result<(), Refused> {
    let mut args = vec!["load-key"];
    args.extend(noop.then_some("-n"));
    args.extend(["-L", "prompt", dataset]);
    let output =
        command::run("zfs", &args, Some(key)).map_err(|error| Refused::Other(error.to_string()))?;
    if output.succeeded {
        return Ok(());
    }
    // Exit codes differ between releases, and do not tell these apart.
    let said = |words| output.stderr.contains(words);
    Err(if said("Incorrect key provided") {
        Refused::WrongKey
    } else if said("Key already loaded") {
        Refused::AlreadyLoaded
    } else if said("does not exist") {
        Refused::Gone
    } else {
        Refused::Other(format!("ZFS does not load it: {}", output.reason()))
    })
}
