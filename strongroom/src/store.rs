//! The vault's folder: files that are whole or not there, and the objects in it, one file each.
//!
//! ```text
//! VAULT/vault.json                  the manifest
//! VAULT/policy.json                 the list of allowed boots
//! VAULT/objects/TOKEN/ID.json       one file for each object
//! VAULT/event-logs/                 what was measured in the allowed boots
//! VAULT/policy-PEER.json            on a second machine, its own list, and
//! VAULT/event-logs-PEER/            its own logs,
//! VAULT/vault-key-PEER.json         and the vault's key as it has sealed it
//! ```
//!
//! A file is written beside its place, synced, renamed, and its folder synced: readers need no
//! lock, and a crash leaves the old file or the new one. Writers take turns (`VAULT/.lock`). Who may
//! read what is in `store/access.rs`.

mod access;
mod stamp;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::encoding::Strict;
use crate::error::{Error, Result};
use crate::object::{MAX_PAYLOAD, Metadata, NEWEST_OBJECT_FORMAT, ObjectFile, ObjectId, TokenName};
use crate::peer::PeerId;

pub use access::TokenAccess;
pub use stamp::TokenStamp;

/// The largest file that is read: a 1 MiB payload in base64, and slots.
const MAX_FILE: u64 = 2 * MAX_PAYLOAD as u64;

/// The files that are there to be locked.
const LOCK: &str = ".lock";
const TURN: &str = ".turn";

/// How long a writer waits for another one.
const PATIENCE: Duration = Duration::from_secs(10);

/// The right to write to a vault, which one process at a time has. Readers need none.
pub struct WriteLock {
    _file: File,
}

/// That nobody has the right to write to a vault, as long as this lives.
pub struct NoWriter {
    _file: Option<File>,
}

/// A vault's folder.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) dir: PathBuf,
}

/// An object's file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// What is in a vault.
#[derive(Debug)]
pub struct Listing {
    /// The objects, by token and label.
    pub objects: Vec<Metadata>,
    /// Files that are no usable objects.
    pub damaged: Vec<Damaged>,
    /// The tokens that this process may not read, of which nothing else is said here.
    pub unreadable: Vec<TokenName>,
}

impl Store {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    pub(crate) fn manifest_file(&self) -> PathBuf {
        self.dir.join("vault.json")
    }

    /// A machine's list of allowed boots: the vault's own, or a second one's.
    pub(crate) fn policy_file(&self, machine: Option<PeerId>) -> PathBuf {
        match machine {
            None => self.dir.join("policy.json"),
            Some(peer) => self.dir.join(format!("policy-{peer}.json")),
        }
    }

    /// Where whoever moves secrets in notes how far it is.
    pub(crate) fn journal_file(&self) -> PathBuf {
        self.dir.join("migration.json")
    }

    /// K_vault as a second machine has sealed it under its own boot.
    pub(crate) fn vault_key_file(&self, peer: PeerId) -> PathBuf {
        self.dir.join(format!("vault-key-{peer}.json"))
    }

    /// Where the event logs of a machine's allowed boots are kept.
    pub(crate) fn event_logs(&self, machine: Option<PeerId>) -> PathBuf {
        match machine {
            None => self.dir.join("event-logs"),
            Some(peer) => self.dir.join(format!("event-logs-{peer}")),
        }
    }

    pub(crate) fn object_file(&self, token: &TokenName, id: ObjectId) -> PathBuf {
        self.token_dir(token).join(format!("{id}.json"))
    }

    fn lock_file(&self) -> PathBuf {
        self.dir.join(LOCK)
    }

    /// What is locked for a turn at a TPM that nothing shares out.
    pub(crate) fn turn_file(&self) -> PathBuf {
        self.dir.join(TURN)
    }

    pub(crate) fn token_dir(&self, token: &TokenName) -> PathBuf {
        self.dir.join("objects").join(token.as_str())
    }

    /// Waits for the right to write. What a writer that was killed left half-written is removed.
    ///
    /// # Errors
    /// [`Error::VaultBusy`] if another process keeps it.
    pub(crate) fn lock(&self, tokens: impl IntoIterator<Item = TokenName>) -> Result<WriteLock> {
        let file = self.lock_file();
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = rustix::fs::open(&file, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| Error::io("open", &file)(error.into()))?;
        let start = Instant::now();
        while let Err(error) = flock(&open, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(Error::io("lock", &file)(error.into()));
            }
            if start.elapsed() > PATIENCE {
                return Err(Error::VaultBusy(self.dir.clone()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let dirs = tokens.into_iter().map(|token| self.token_dir(&token));
        for dir in dirs.chain([self.dir.clone()]) {
            remove_temporary_files(&dir);
        }
        Ok(WriteLock { _file: open.into() })
    }

    /// Keeps writers off, unless there is one at the moment. Needs no right to write.
    pub(crate) fn lock_writers_out(&self) -> Result<Option<NoWriter>> {
        let file = self.lock_file();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = match rustix::fs::open(&file, flags, Mode::empty()) {
            Ok(open) => open,
            // Nobody has written yet.
            Err(rustix::io::Errno::NOENT) => return Ok(Some(NoWriter { _file: None })),
            Err(error) => return Err(Error::io("open", &file)(error.into())),
        };
        match flock(&open, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Some(NoWriter {
                _file: Some(open.into()),
            })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(Error::io("lock", &file)(error.into())),
        }
    }

    /// Whether this user may make files in the vault's folder, as every change of the manifest does.
    pub(crate) fn takes_tokens(&self) -> bool {
        rustix::fs::access(&self.dir, rustix::fs::Access::WRITE_OK).is_ok()
    }

    /// What a folder that is to hold a new vault has in it already.
    ///
    /// # Errors
    /// [`Error::VaultExists`]: the remains of a vault are worth more than a new one.
    pub(crate) fn check_unused(&self) -> Result<()> {
        if self.manifest_file().exists() {
            return Err(Error::VaultExists(self.dir.clone(), "a vault"));
        }
        // Folders alone are what an init that failed has left.
        let remains = has_files(&self.dir);
        if remains {
            return Err(Error::VaultExists(
                self.dir.clone(),
                "something, perhaps a vault that lost its vault.json",
            ));
        }
        Ok(())
    }

    /// Makes the folder and one for each token, readable by their owner alone.
    pub(crate) fn create_folders(&self, tokens: impl IntoIterator<Item = TokenName>) -> Result<()> {
        for token in tokens {
            let dir = self.token_dir(&token);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(Error::io("make the folder", &dir))?;
            sync_dir(&dir)?;
        }
        sync_dir(&self.dir.join("objects"))?;
        sync_dir(&self.dir)?;
        match self.dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
            _ => Ok(()),
        }
    }

    /// Removes the folder of a token in which there is nothing any more.
    pub(crate) fn remove_folder(&self, token: &TokenName) -> Result<()> {
        let dir = self.token_dir(token);
        fs::remove_dir(&dir).map_err(Error::io("remove", &dir))?;
        sync_dir(&self.dir.join("objects"))
    }

    pub(crate) fn write_object(&self, object: &ObjectFile) -> Result<()> {
        let file = self.object_file(&object.metadata.token, object.metadata.id);
        write(&file, &to_json(object))
    }

    /// Writes an object's file beside its place, for [`Staged::commit`] to put there.
    pub(crate) fn stage_object(&self, object: &ObjectFile) -> Result<Staged> {
        let file = self.object_file(&object.metadata.token, object.metadata.id);
        Staged::write(&file, &to_json(object))
    }

    /// Reads an object's file back from disk. Its MAC is not checked here, but its shape and that
    /// it is where it says that it belongs.
    pub(crate) fn read_object(&self, token: &TokenName, id: ObjectId) -> Result<ObjectFile> {
        let file = self.object_file(token, id);
        let object = match read(&file) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoSuchObject(id.to_string()));
            }
            // That of a token which this process may not read; nothing is wrong with it.
            Err(error @ Error::Io { .. }) if !self.may_read(token) => return Err(error),
            read => parse_object(read, &file)?,
        };
        if object.metadata.id != id || object.metadata.token != *token {
            return Err(Error::ObjectDamaged {
                file,
                reason: format!(
                    "it holds object {} of token {}: two files were exchanged",
                    object.metadata.id, object.metadata.token
                ),
            });
        }
        Ok(object)
    }

    pub(crate) fn remove_object(&self, token: &TokenName, id: ObjectId) -> Result<()> {
        remove(&self.object_file(token, id))
    }

    /// What a file says of its object, and no more than that: the rest of it must be JSON, and is looked
    /// at when the object is opened. Where that is not right, the whole file says what is wrong with it.
    fn glance_at(&self, token: &TokenName, id: ObjectId) -> Result<Metadata> {
        let whole = || self.read_object(token, id).map(|object| object.metadata);
        let Ok(bytes) = read(&self.object_file(token, id)) else {
            return whole();
        };
        match serde_json::from_slice::<Head>(&bytes) {
            Ok(Head { metadata, .. })
                if (1..=NEWEST_OBJECT_FORMAT).contains(&metadata.format)
                    && metadata.check().is_ok()
                    && metadata.id == id
                    && metadata.token == *token =>
            {
                Ok(metadata)
            }
            _ => whole(),
        }
    }

    /// Every object of the tokens, every file that is none, and the tokens that this process may
    /// not read.
    pub(crate) fn list(&self, tokens: impl IntoIterator<Item = TokenName>) -> Result<Listing> {
        self.list_by(tokens, |token, id| {
            self.read_object(token, id).map(|object| object.metadata)
        })
    }

    /// The same at a glance at each file, in a fraction of the time: who only looks for an object need not
    /// know whether the others would open.
    pub(crate) fn glance(&self, tokens: impl IntoIterator<Item = TokenName>) -> Result<Listing> {
        self.list_by(tokens, |token, id| self.glance_at(token, id))
    }

    fn list_by(
        &self,
        tokens: impl IntoIterator<Item = TokenName>,
        read: impl Fn(&TokenName, ObjectId) -> Result<Metadata>,
    ) -> Result<Listing> {
        let (mut objects, mut damaged, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        for token in tokens {
            if !self.may_read(&token) {
                unreadable.push(token);
                continue;
            }
            let dir = self.token_dir(&token);
            let entries = match fs::read_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(Error::io("read", &dir))?,
            };
            for entry in entries {
                let entry = entry.map_err(Error::io("read", &dir))?;
                let file = entry.path();
                let name = entry.file_name();
                // A temporary file that a crash left is nobody's object.
                let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".json")) else {
                    continue;
                };
                match stem.parse().and_then(|id| read(&token, id)) {
                    Ok(metadata) => objects.push(metadata),
                    // Removed by someone else while we were listing.
                    Err(Error::NoSuchObject(_)) => {}
                    Err(Error::ObjectDamaged { reason, .. }) => {
                        damaged.push(Damaged { file, reason });
                    }
                    Err(other) => damaged.push(Damaged {
                        file,
                        reason: other.to_string(),
                    }),
                }
            }
        }
        objects.sort_by(|a, b| (&a.token, &a.label, a.id).cmp(&(&b.token, &b.label, b.id)));
        damaged.sort_by(|a, b| a.file.cmp(&b.file));
        Ok(Listing {
            objects,
            damaged,
            unreadable,
        })
    }
}

/// The beginning of an object's file, and that there is the rest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Head {
    metadata: Metadata,
    #[serde(default, rename = "payload")]
    _payload: IgnoredAny,
    #[serde(rename = "slots")]
    _slots: IgnoredAny,
    #[serde(rename = "mac")]
    _mac: IgnoredAny,
}

/// An object from what was read of its file. Whatever is wrong with one file is one object's
/// misfortune.
fn parse_object(read: Result<Vec<u8>>, file: &Path) -> Result<ObjectFile> {
    let damaged = |reason: String| Error::ObjectDamaged {
        file: file.to_owned(),
        reason,
    };
    let bytes = match read {
        // One file that the disk does not give, or that is none.
        Err(Error::Io { source, .. }) => return Err(damaged(source.to_string())),
        Err(Error::VaultDamaged { reason, .. }) => return Err(damaged(reason)),
        other => other?,
    };
    let object: ObjectFile =
        match parse_json_at(&bytes, file, &[("/metadata/format", NEWEST_OBJECT_FORMAT)]) {
            Err(Error::VaultDamaged { reason, .. }) => return Err(damaged(reason)),
            other => other?,
        };
    object.check().map_err(damaged)?;
    Ok(object)
}

/// JSON for people and programs: indented, with a newline at its end.
pub(crate) fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes =
        serde_json::to_vec_pretty(value).expect("our types have string keys and no failing parts");
    bytes.push(b'\n');
    bytes
}

/// Parses a file whose `format` is at its top.
pub(crate) fn parse_json<T>(bytes: &[u8], file: &Path, known: u64) -> Result<T>
where
    T: Serialize + DeserializeOwned,
{
    parse_json_at(bytes, file, &[("/format", known)])
}

/// Parses a file after a look at its format versions, so that a newer file is called newer and
/// not damaged. Each version is a JSON pointer (RFC 6901) and the newest that is known there; `/*`
/// in it goes through each element of an array.
///
/// What is read must be what would be written: two programs cannot read one file differently.
pub(crate) fn parse_json_at<T>(bytes: &[u8], file: &Path, versions: &[(&str, u64)]) -> Result<T>
where
    T: Serialize + DeserializeOwned,
{
    let damaged = |reason: String| Error::VaultDamaged {
        file: file.to_owned(),
        reason,
    };
    let Strict(value) =
        serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    for (pointer, known) in versions {
        for version in at(&value, pointer) {
            let found = version
                .and_then(Value::as_u64)
                .filter(|version| *version > 0)
                .ok_or_else(|| damaged("it says no format version".to_owned()))?;
            if found > *known {
                return Err(Error::VaultNewer {
                    file: file.to_owned(),
                    found,
                    known: *known,
                });
            }
        }
    }
    let parsed = T::deserialize(&value).map_err(|error| damaged(error.to_string()))?;
    if serde_json::to_value(&parsed).is_ok_and(|again| again == value) {
        Ok(parsed)
    } else {
        Err(damaged(
            "it is not written as Strongroom writes it".to_owned(),
        ))
    }
}

/// The values at a pointer, one for each element where it goes through an array by `*`.
fn at<'a>(value: &'a Value, pointer: &str) -> Vec<Option<&'a Value>> {
    match pointer.split_once("/*") {
        None => vec![value.pointer(pointer)],
        Some((array, rest)) => value
            .pointer(array)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|element| element.pointer(rest))
            .collect(),
    }
}

/// Reads a whole file of a sane size.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>> {
    read_up_to(file, MAX_FILE)
}

/// The same of a file that need not be there.
pub(crate) fn read_if_there(file: &Path) -> Result<Option<Vec<u8>>> {
    match read(file) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Reads a whole file of up to `limit` bytes. A pipe or a device in a file's place is refused
/// rather than waited for.
pub(crate) fn read_up_to(file: &Path, limit: u64) -> Result<Vec<u8>> {
    let damaged = |reason: String| Error::VaultDamaged {
        file: file.to_owned(),
        reason,
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open: File = rustix::fs::open(file, flags, Mode::empty())
        .map_err(|error| Error::io("read", file)(error.into()))?
        .into();
    let metadata = open.metadata().map_err(Error::io("read", file))?;
    if !metadata.is_file() {
        return Err(damaged("it is not a file".to_owned()));
    }
    // Room for all, and for the look at the end: two reads, and nothing is moved.
    let room = usize::try_from(metadata.len().min(limit) + 1).unwrap_or_default();
    let mut bytes = Vec::with_capacity(room);
    open.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", file))?;
    if bytes.len() as u64 > limit {
        return Err(damaged(format!("it is longer than {limit} bytes")));
    }
    Ok(bytes)
}

/// Whether there is any file but those that are locked, at whatever depth.
fn has_files(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => has_files(&entry.path()),
        _ => ![LOCK, TURN].contains(&entry.file_name().to_string_lossy().as_ref()),
    })
}

/// Removes what [`write`] was killed over. Only the holder of the lock may.
fn remove_temporary_files(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let is_ours = name
            .to_str()
            .and_then(|name| name.strip_prefix('.'))
            .and_then(|name| name.rsplit_once(".json."))
            .is_some_and(|(_, id)| id.parse::<ObjectId>().is_ok());
        if is_ours {
            // If it cannot be removed, it is still nobody's file.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Writes a file so that it is there wholly or not at all, and stays after a power cut.
pub(crate) fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    Staged::write(file, bytes)?.commit()
}

/// A file that was written beside its place, and does not count yet. It goes unless it is committed.
pub(crate) struct Staged {
    file: PathBuf,
    temporary: PathBuf,
}

impl Staged {
    fn write(file: &Path, bytes: &[u8]) -> Result<Self> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let temporary = folder(file).join(format!(".{name}.{}", ObjectId::random()));
        let staged = Self {
            file: file.to_owned(),
            temporary,
        };
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(access::OWNER_ALONE.as_raw_mode())
            .open(&staged.temporary)
            .and_then(|mut open| {
                let mode = access::mode_for(file);
                // Not every file system that a backup goes to has modes.
                if mode != access::OWNER_ALONE {
                    fchmod(&open, mode)?;
                }
                open.write_all(bytes)?;
                open.sync_all()
            })
            .map_err(Error::io("write", file))?;
        Ok(staged)
    }

    /// Reads an object back from disk.
    pub(crate) fn read(&self) -> Result<ObjectFile> {
        parse_object(read(&self.temporary), &self.file)
    }

    /// Puts the file in its place, where it stays after a power cut.
    pub(crate) fn commit(self) -> Result<()> {
        fs::rename(&self.temporary, &self.file).map_err(Error::io("write", &self.file))?;
        sync_dir(folder(&self.file))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // It is in its place, or not wanted; there is nothing more to do if it cannot be removed.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// The folder of a file, which may be the one that we are in.
fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Removes a file for good.
pub(crate) fn remove(file: &Path) -> Result<()> {
    fs::remove_file(file).map_err(Error::io("remove", file))?;
    sync_dir(file.parent().unwrap_or(Path::new(".")))
}

/// Makes what happened to the entries of a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|open| open.sync_all())
        .map_err(Error::io("sync the folder", dir))
}
