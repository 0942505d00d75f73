//! Where the log of the present boot is, and a log as it was read: the bytes, which can be kept,
//! and what they say.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::systemd::RECORD_SEPARATOR;
use super::{EventLog, KERNEL_LOG, SYSTEMD_LOG, bytes_of};
use crate::error::{Error, Result};

/// Names the environment variable that says where the log is.
pub const VARIABLE: &str = "STRONGROOM_EVENT_LOG";

/// How many of systemd's records are looked at one by one. A boot has some ten.
const MOST_STAGES: usize = 64;

/// Where the log of the present boot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where the kernel has it, below this root folder, and beside it what systemd has extended
    /// since.
    System(PathBuf),
    /// A file that was named.
    File(PathBuf),
    /// Nowhere: the kernel has a log of its own TPM alone.
    Nowhere,
}

/// A log, and what it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// The firmware's log, byte by byte.
    pub firmware: Vec<u8>,
    /// systemd's.
    pub systemd: Option<Vec<u8>>,
    log: EventLog,
}

impl Place {
    /// The file that was named, or the one that `STRONGROOM_EVENT_LOG` names, or else the kernel's
    /// log, where the TPM is the kernel's.
    pub fn new(named: Option<&Path>, is_kernels_tpm: bool) -> Self {
        let named = named.map(Path::to_owned).or_else(from_environment);
        match named {
            Some(file) => Self::File(file),
            None if is_kernels_tpm => Self::System(PathBuf::from("/")),
            None => Self::Nowhere,
        }
    }

    /// Reads it; `None` where there is none. A file that was named must be there.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Input`] for what is no log.
    pub fn read(&self) -> Result<Option<Recording>> {
        match self {
            Self::File(file) => Recording::read(file, None).map(Some),
            Self::System(root) => {
                let file = root.join(KERNEL_LOG);
                if !file.exists() {
                    return Ok(None);
                }
                let more = root.join(SYSTEMD_LOG);
                Recording::read(&file, more.exists().then_some(&more)).map(Some)
            }
            Self::Nowhere => Ok(None),
        }
    }

    /// The files and folders that [`Place::read`] reads: for who confines itself.
    pub fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::File(file) => vec![file.clone()],
            Self::System(root) => {
                let systemd = root.join(SYSTEMD_LOG);
                // It may be made later, and is replaced when it is written.
                let folder = systemd.parent().unwrap_or(&systemd).to_owned();
                vec![root.join(KERNEL_LOG), folder]
            }
            Self::Nowhere => Vec::new(),
        }
    }
}

impl Recording {
    /// Of the bytes of both files.
    ///
    /// # Errors
    /// [`Error::Input`] for what is no log.
    pub(crate) fn new(firmware: Vec<u8>, systemd: Option<Vec<u8>>) -> Result<Self> {
        Self::named("the event log", firmware, systemd)
    }

    /// What it says.
    pub fn log(&self) -> &EventLog {
        &self.log
    }

    /// The same as it was in each phase of this boot so far, the present one first: without what
    /// systemd has extended since.
    pub(crate) fn stages(&self) -> impl Iterator<Item = Self> + '_ {
        let systemd = self.systemd.as_deref().unwrap_or_default();
        let begins = systemd
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == RECORD_SEPARATOR)
            .map(|(at, _)| at);
        let begins: Vec<usize> = begins.take(MOST_STAGES).collect();
        let earlier = begins.into_iter().rev().filter_map(|end| {
            let systemd = (end > 0).then(|| systemd[..end].to_vec());
            Self::new(self.firmware.clone(), systemd).ok()
        });
        std::iter::once(self.clone()).chain(earlier)
    }

    fn read(firmware: &Path, systemd: Option<&PathBuf>) -> Result<Self> {
        let name = format!("event log {}", firmware.display());
        let systemd = systemd.map(|file| bytes_of(file)).transpose()?;
        Self::named(&name, bytes_of(firmware)?, systemd)
    }

    fn named(name: &str, firmware: Vec<u8>, systemd: Option<Vec<u8>>) -> Result<Self> {
        let mut log = EventLog::parse_as(name, &firmware)?;
        if let Some(bytes) = &systemd {
            log = log
                .followed_by_systemds(bytes)
                .map_err(|reason| Error::input("systemd's measurement log", reason))?;
        }
        Ok(Self {
            firmware,
            systemd,
            log,
        })
    }
}

/// Read once: a host of the PKCS#11 module may change its environment while other threads run.
fn from_environment() -> Option<PathBuf> {
    static NAMED: OnceLock<Option<PathBuf>> = OnceLock::new();
    NAMED
        .get_or_init(|| {
            std::env::var_os(VARIABLE)
                .filter(|file| !file.is_empty())
                .map(PathBuf::from)
        })
        .clone()
}
