//! The walk: every file below the roots is sorted out by its first bytes, and by its name where
//! those say nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use strongroom::Secret;
use walkdir::{DirEntry, WalkDir};

use super::Problem;
use super::archives::{self, SECRET_NAME};
use super::content::{self, Content};
use super::keys::Keys;
use super::opening::{self, Place};
use super::places::Root;
use crate::truenas::still;

/// How SQLite's write-ahead log and its rollback journal begin (sqlite.org/fileformat.html, sections 3
/// and 4.1).
const LOGS: [&[u8]; 3] = [
    &[0x37, 0x7f, 0x06, 0x82],
    &[0x37, 0x7f, 0x06, 0x83],
    &[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7],
];

/// How much of a file is read to say what it is.
const HEAD: usize = 4096;

/// What a walk has found.
#[derive(Default)]
pub(crate) struct Search {
    pub(crate) keys: Keys,
    /// Databases, and what SQLite keeps beside them.
    pub(crate) databases: Vec<Place>,
    pub(crate) archives: Vec<Place>,
    /// Files that are a finding by themselves.
    pub(crate) known: Vec<(Place, Content)>,
    pub(crate) problems: Vec<Problem>,
    /// Other file systems.
    pub(crate) passed_over: Vec<PathBuf>,
    pub(crate) files: usize,
    seen: BTreeSet<PathBuf>,
    /// What is not gone into.
    vault_dir: PathBuf,
    said_too_many: bool,
}

impl Search {
    pub(crate) fn new(vault_dir: &Path) -> Self {
        Self {
            vault_dir: vault_dir
                .canonicalize()
                .unwrap_or_else(|_| vault_dir.to_owned()),
            ..Self::default()
        }
    }

    /// Takes a file that somebody has named as a secret.
    pub(crate) fn take_named_secret(&mut self, path: &Path) {
        let place = Place::file(&path.canonicalize().unwrap_or_else(|_| path.to_owned()));
        match opening::open(&place.path) {
            Ok(Some(file)) => match Secret::read_from(file, Keys::LEN) {
                Ok(bytes) if bytes.len() == Keys::LEN => self.keys.add(place, bytes),
                _ => self.problem(
                    &place.path,
                    &"it is no pwenc secret: it is not 32 bytes long",
                ),
            },
            Ok(None) => {}
            Err(error) => self.problem(&place.path, &error),
        }
    }

    /// Goes through a folder and all below it on the same file system.
    pub(crate) fn walk(&mut self, root: &Root) {
        let device = root.path.metadata().map(|meta| meta.dev()).ok();
        let vault_dir = self.vault_dir.clone();
        let walk = WalkDir::new(&root.path)
            .follow_root_links(false)
            .same_file_system(true)
            .sort_by_file_name()
            .into_iter()
            // Snapshots are roots of their own.
            .filter_entry(|entry| entry.path() != vault_dir && entry.file_name() != ".zfs");
        for entry in walk {
            match entry {
                Ok(entry) if entry.file_type().is_dir() => {
                    if is_elsewhere(&entry, device) {
                        self.passed_over.push(entry.into_path());
                    }
                }
                Ok(entry) if entry.file_type().is_file() => {
                    self.take(entry.path(), root.snapshot.as_deref());
                }
                Ok(_) => {}
                Err(error) => {
                    let path = error.path().unwrap_or(&root.path).to_owned();
                    match error.io_error() {
                        // It is gone meanwhile.
                        Some(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Some(error) => self.problem(&path, &error),
                        None => self.problem(&path, &"it leads back to a folder above it"),
                    }
                }
            }
        }
    }

    /// Looks at one file, if it is there.
    pub(crate) fn look_at(&mut self, path: &Path) {
        if let Ok(path) = path.canonicalize() {
            self.take(&path, None);
            for suffix in ["-wal", "-journal"] {
                let mut name = path.clone().into_os_string();
                name.push(suffix);
                let beside = PathBuf::from(name);
                if beside.exists() {
                    self.take(&beside, None);
                }
            }
        }
    }

    fn take(&mut self, path: &Path, snapshot: Option<&str>) {
        if !self.seen.insert(path.to_owned()) {
            return;
        }
        let place = Place {
            snapshot: snapshot.map(str::to_owned),
            ..Place::file(path)
        };
        match opening::open(path) {
            Ok(Some(mut file)) => {
                self.files += 1;
                if let Err(error) = self.sort_out(place, &mut file) {
                    self.problem(path, &error);
                }
            }
            Ok(None) => {}
            Err(error) => self.problem(path, &error),
        }
    }

    fn sort_out(&mut self, place: Place, file: &mut File) -> io::Result<()> {
        let len = file.metadata()?.len();
        if len == Keys::LEN as u64 {
            self.take_secret(place, file);
            return Ok(());
        }
        // It may hold anything, a key too.
        let head = Secret::read_from(file.by_ref().take(HEAD as u64), HEAD)?;
        let bytes = head.expose();
        if bytes.starts_with(still::MAGIC) || LOGS.iter().any(|magic| bytes.starts_with(magic)) {
            self.databases.push(place);
        } else if archives::is_archive(bytes, file) {
            let (is_configuration, read) = archives::find_secrets(&place, &mut self.keys);
            if let Err(reason) = read {
                self.problem(&place.path, &reason);
            }
            if is_configuration {
                self.archives.push(place);
            }
        } else if let Some(content) = content::of_beginning(bytes) {
            self.known.push((place, content));
        } else {
            let is_json = bytes.trim_ascii_start().starts_with(b"{");
            let longest = if is_json {
                content::LONGEST
            } else {
                content::LONGEST_TEXT
            };
            // One that has a zero byte at once is no text.
            if len > longest as u64 || bytes.contains(&0) {
                return Ok(());
            }
            file.seek(SeekFrom::Start(0))?;
            // One that has grown meanwhile is another one now.
            if let Ok(whole) = Secret::read_from(file, longest) {
                let content = content::of_whole(&whole);
                self.known.extend(content.map(|content| (place, content)));
            }
        }
        Ok(())
    }

    fn take_secret(&mut self, place: Place, file: &mut File) {
        let Ok(bytes) = Secret::read_from(file, Keys::LEN) else {
            return;
        };
        let name = place.path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(SECRET_NAME) {
            self.keys.add(place, bytes);
        } else if !self.keys.add_unnamed(place.clone(), bytes) && !self.said_too_many {
            self.said_too_many = true;
            self.problem(
                &place.path,
                &"there are too many files of 32 bytes; from here on none is tried as a secret that is \
                 not called pwenc_secret",
            );
        }
    }

    fn problem(&mut self, path: &Path, reason: &impl ToString) {
        self.problems.push(Problem {
            path: path.to_owned(),
            reason: reason.to_string(),
        });
    }
}

/// Whether an entry is on another file system than the root of the search.
fn is_elsewhere(entry: &DirEntry, device: Option<u64>) -> bool {
    let there = entry.metadata().map(|meta| meta.dev()).ok();
    entry.depth() > 0 && there.is_some() && there != device
}
