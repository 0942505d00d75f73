//! Who may read a token's objects: mode and group of its folder, and of the files in it.
//!
//! A vault is its owner's alone: folders have mode 0700, files 0600. The folder of a token that was
//! given to a group has mode 2750, setgid, so that what is written there later is the group's too;
//! its files have 0640. What every reader needs besides, and what is no secret, is open to
//! everybody then: the way through the folders, though not what else lies there, and `vault.json`
//! and `policy.json`. Whoever can read those and use the TPM in an allowed boot has K_vault, which
//! opens no object whose file they cannot read.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Gid, Mode, OFlags, accessat, fchmod, fchown};

use super::{Store, folder, sync_dir};
use crate::error::{Error, Result};
use crate::object::TokenName;

/// Owner alone, of a folder and of a file.
const CLOSED_FOLDER: u32 = 0o700;
const CLOSED_FILE: u32 = 0o600;

/// The mode of a file that nobody was given.
pub(super) const OWNER_ALONE: Mode = Mode::from_raw_mode(CLOSED_FILE);

/// A group's too. The setgid bit tells such a folder from one that is merely open.
const GIVEN_FOLDER: u32 = 0o2750;
const SETGID: u32 = 0o2000;
const GIVEN_FILE: u32 = 0o640;

/// What everybody gets of the vault's own folders and files where a token was given to a group.
const THROUGH: u32 = 0o011;
const READ: u32 = 0o044;

/// Who may read a token's objects, as the file system has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenAccess {
    /// The mode of the token's folder.
    pub mode: u32,
    /// The group of the token's folder.
    pub gid: u32,
}

impl TokenAccess {
    /// The group that the token was given to.
    pub fn group(&self) -> Option<u32> {
        (self.mode & GIVEN_FOLDER == GIVEN_FOLDER).then_some(self.gid)
    }

    fn of(metadata: &Metadata) -> Self {
        Self {
            mode: metadata.mode() & 0o7777,
            gid: metadata.gid(),
        }
    }
}

impl Store {
    /// Who may read a token.
    pub(crate) fn access(&self, token: &TokenName) -> Result<TokenAccess> {
        let dir = self.token_dir(token);
        fs::metadata(&dir)
            .map(|metadata| TokenAccess::of(&metadata))
            .map_err(Error::io("read", &dir))
    }

    /// Gives a token to a group, and to no other one any more. Only the holder of the lock may.
    pub(crate) fn allow(&self, token: &TokenName, gid: u32) -> Result<()> {
        give(&self.token_dir(token), gid, GIVEN_FOLDER, GIVEN_FILE)?;
        for dir in self.folders() {
            change_mode(&dir, |mode| mode | THROUGH)?;
        }
        for file in self.read_by_all() {
            change_mode(&file, |mode| mode | READ)?;
        }
        sync_dir(&self.dir)
    }

    /// Takes a token back; with the last one, what was open to everybody is closed again. Only the
    /// holder of the lock may.
    pub(crate) fn deny(
        &self,
        token: &TokenName,
        tokens: impl IntoIterator<Item = TokenName>,
    ) -> Result<()> {
        // Whoever the vault belongs to.
        let owner = fs::metadata(&self.dir).map_err(Error::io("read", &self.dir))?;
        give(
            &self.token_dir(token),
            owner.gid(),
            CLOSED_FOLDER,
            CLOSED_FILE,
        )?;
        for other in tokens {
            if self.access(&other)?.group().is_some() {
                return Ok(());
            }
        }
        for file in self.read_by_all() {
            change_mode(&file, |mode| mode & CLOSED_FILE)?;
        }
        for dir in self.folders() {
            change_mode(&dir, |mode| mode & CLOSED_FOLDER)?;
        }
        sync_dir(&self.dir)
    }

    /// Tokens that were given to a group, and of which, or of the way to which, the group's or everybody's
    /// bits are gone. What `chmod` leaves of such a folder is the setgid bit and the group.
    pub(crate) fn to_mend(&self, tokens: &[TokenName]) -> Vec<(TokenName, u32)> {
        let mode = |path: &Path| fs::metadata(path).map_or(0, |it| it.mode());
        let way_is_open = self
            .folders()
            .iter()
            .all(|dir| mode(dir) & THROUGH == THROUGH)
            && [self.manifest_file(), self.policy_file(None)]
                .iter()
                .all(|file| !file.exists() || mode(file) & READ == READ);
        let files_are_given = |token: &TokenName| {
            let entries = fs::read_dir(self.token_dir(token));
            entries.into_iter().flatten().flatten().all(|entry| {
                let metadata = entry.metadata();
                metadata.is_ok_and(|it| !it.is_file() || it.mode() & GIVEN_FILE == GIVEN_FILE)
            })
        };
        tokens
            .iter()
            .filter_map(|token| {
                let access = self.access(token).ok()?;
                let was_given = access.mode & SETGID == SETGID;
                let is_whole = access.group().is_some() && way_is_open && files_are_given(token);
                (was_given && !is_whole).then(|| (token.clone(), access.gid))
            })
            .collect()
    }

    /// Whether this process may read a token's objects. A folder that is not there hides nothing.
    pub(crate) fn may_read(&self, token: &TokenName) -> bool {
        let asked = may(
            &self.token_dir(token),
            Access::READ_OK.union(Access::EXEC_OK),
        );
        asked != Err(rustix::io::Errno::ACCESS)
    }

    /// Whether this process may write a token's objects, which takes the vault's lock too.
    pub(crate) fn may_write(&self, token: &TokenName) -> bool {
        let change = Access::WRITE_OK.union(Access::EXEC_OK);
        let lock = match may(&self.lock_file(), Access::WRITE_OK) {
            Err(rustix::io::Errno::NOENT) => may(&self.dir, change),
            other => other,
        };
        lock.is_ok() && may(&self.token_dir(token), change).is_ok()
    }

    /// What every reader needs: the manifest, the list of allowed boots, and on a second machine its
    /// own files.
    fn read_by_all(&self) -> Vec<PathBuf> {
        let always = [self.manifest_file(), self.policy_file(None)];
        let of_a_second_machine = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(is_read_by_all))
            .map(|entry| entry.path())
            .filter(|file| !always.contains(file));
        let others: Vec<_> = of_a_second_machine.collect();
        always.into_iter().chain(others).collect()
    }

    /// The folders that every reader goes through. Either may be a link to where it really is.
    fn folders(&self) -> [PathBuf; 2] {
        [self.dir.join("objects/."), self.dir.join(".")]
    }
}

/// Whether a file beside the manifest is one that goes with it.
fn is_read_by_all(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".json") else {
        return false;
    };
    stem == "policy" || stem.starts_with("policy-") || stem.starts_with("vault-key-")
}

/// The mode of a file that is about to be written: never wider than that of what it replaces, or
/// than its folder says.
pub(super) fn mode_for(file: &Path) -> Mode {
    let mode_of = |path: &Path| {
        let there = fs::symlink_metadata(path).ok()?;
        there.is_file().then_some(there.mode())
    };
    let beside = match file.file_name().and_then(|name| name.to_str()) {
        Some("vault.json") => Some("policy.json"),
        Some(name) if is_read_by_all(name) => Some("vault.json"),
        _ => None,
    };
    let open = match beside {
        // Readers need both, so one that was lost is like the other.
        Some(beside) => mode_of(file).or_else(|| mode_of(&file.with_file_name(beside))),
        None => fs::metadata(folder(file))
            .ok()
            .and_then(|dir| TokenAccess::of(&dir).group())
            .map(|_| mode_of(file).unwrap_or(GIVEN_FILE) & GIVEN_FILE),
    };
    let mode = open.map_or(CLOSED_FILE, |mode| mode & READ | CLOSED_FILE);
    Mode::from_raw_mode(mode)
}

/// Gives a folder and the files in it to a group. Nobody's access is wider on the way than before
/// or afterwards.
fn give(dir: &Path, gid: u32, folder_mode: u32, file_mode: u32) -> Result<()> {
    let open = open(dir, OFlags::DIRECTORY)?;
    set(&open, dir, None, CLOSED_FOLDER)?;
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let entry = entry.map_err(Error::io("read", dir))?;
        let path = entry.path();
        let is_file = entry.file_type().map_err(Error::io("read", &path))?;
        if is_file.is_file() {
            let file = self::open(&path, OFlags::NONBLOCK)?;
            set(&file, &path, Some(gid), file_mode)?;
        }
    }
    set(&open, dir, Some(gid), folder_mode)?;
    open.sync_all().map_err(Error::io("sync the folder", dir))
}

fn change_mode(path: &Path, change: impl FnOnce(u32) -> u32) -> Result<()> {
    let open = open(path, OFlags::NONBLOCK)?;
    let metadata = open.metadata().map_err(Error::io("read", path))?;
    set(&open, path, None, change(metadata.mode() & 0o7777))
}

/// Opens what is there, and never what a link there leads to.
fn open(path: &Path, flags: OFlags) -> Result<File> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map(File::from)
        .map_err(|error| Error::io("open", path)(error.into()))
}

/// The group first: a change of it clears the setgid bit.
fn set(open: &File, path: &Path, gid: Option<u32>, mode: u32) -> Result<()> {
    let now = open
        .metadata()
        .map_err(Error::io("read", path))?
        .permissions();
    if let Some(gid) = gid {
        fchown(open, None, Some(Gid::from_raw(gid)))
            .map_err(|error| Error::io("change the group of", path)(error.into()))?;
    }
    if gid.is_some() || now.mode() & 0o7777 != mode {
        fchmod(open, Mode::from_raw_mode(mode))
            .map_err(|error| Error::io("change the mode of", path)(error.into()))?;
    }
    Ok(())
}

fn may(path: &Path, access: Access) -> rustix::io::Result<()> {
    accessat(CWD, path, access, AtFlags::EACCESS)
}
