//! What Strongroom has on a TrueNAS system, below its root folder, and how it gets there and away.
//!
//! An upgrade takes `/data` and `/root` along and makes `/etc` and `/usr` anew; `/data` and `/home` let
//! nothing run, `/usr` and `/opt` take no file. So programs are in `/root/strongroom`, the vault is in
//! `/data/strongroom`, and what is in `/etc` is made again in the new system before that is started.
//!
//! Each piece is there wholly or not at all. They are put in place in the order of [`Pieces`], what others
//! refer to first, and taken away the other way round: killed in between, either can be run again.

mod pieces;
mod vault_copy;

use std::path::{Path, PathBuf};

use strongroom::{Error, Result};

pub(crate) use self::pieces::{Pieces, State};
pub(crate) use self::vault_copy::bring_up_to_date;

/// A TrueNAS system, by its root folder.
#[derive(Clone, Debug)]
pub(crate) struct System {
    root: PathBuf,
}

impl System {
    /// The system below a root folder.
    ///
    /// # Errors
    /// [`Error::Input`] if none of TrueNAS is there.
    pub(crate) fn below(root: &Path) -> Result<Self> {
        let system = Self {
            root: root.to_owned(),
        };
        if system.database().is_file() {
            return Ok(system);
        }
        let reason = format!(
            "it is no TrueNAS system: it has no {}",
            system.database().display()
        );
        Err(Error::input(root.display().to_string(), reason))
    }

    /// Whether it is the running one.
    pub(crate) fn is_running(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Its root folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A place in it, by its path without the first slash.
    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// Where its vault is, or will be.
    pub(crate) fn vault(&self) -> PathBuf {
        self.at("data/strongroom")
    }

    /// Its database.
    pub(crate) fn database(&self) -> PathBuf {
        self.at("data/freenas-v1.db")
    }

    /// The secret that the database's columns are encrypted under.
    pub(crate) fn pwenc_secret(&self) -> PathBuf {
        self.at("data/pwenc_secret")
    }
}
