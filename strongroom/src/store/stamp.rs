//! Whether anything in a token's folder was written since one looked, without reading it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::Store;
use crate::error::{Error, Result};
use crate::object::TokenName;

/// The files of a token as they are at one moment. Every file is written under another name and then put
/// in its place, so a changed one is another inode.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TokenStamp(BTreeMap<OsString, FileStamp>);

#[derive(Debug, PartialEq, Eq)]
struct FileStamp {
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds, of the inode's last change.
    changed: (i64, i64),
}

impl Store {
    /// The files of a token now.
    pub(crate) fn stamp(&self, token: &TokenName) -> Result<TokenStamp> {
        let dir = self.token_dir(token);
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(TokenStamp(BTreeMap::new()));
            }
            other => other.map_err(Error::io("read", &dir))?,
        };
        let mut files = BTreeMap::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("read", &dir))?;
            let metadata = match entry.metadata() {
                // Removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(Error::io("read", &entry.path()))?,
            };
            let stamp = FileStamp {
                inode: metadata.ino(),
                size: metadata.len(),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            };
            files.insert(entry.file_name(), stamp);
        }
        Ok(TokenStamp(files))
    }
}
