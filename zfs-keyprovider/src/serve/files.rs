//! The files as the kernel asks for them: a FUSE file system that is read-only and keeps nothing.
//!
//! A file's size is 0 and the kernel keeps none of its pages (`FOPEN_DIRECT_IO`), as with files of
//! /proc: a key's length is not shown, and nothing of it stays in the page cache. A key lives in
//! this process from the opening of its file to its closing.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, Request,
};
use strongroom::Secret;
use strongroom::error::Error;
use strongroom::object::{Kind, TokenName};

use super::desk::{Caller, Desk, Refusal};
use super::names::{Names, Place};
use crate::VaultPlace;

/// How long the kernel may believe what it was told: not at all.
const NO_TIME: Duration = Duration::ZERO;

/// How long a list of names serves: one walk to a file asks for it several times.
const NAMES_LAST: Duration = Duration::from_millis(500);

/// The file system.
pub(super) struct Files {
    vault: VaultPlace,
    desk: Desk,
    names: Mutex<Option<(Instant, Arc<Names>)>>,
    inodes: Mutex<Inodes>,
    open: Arc<Mutex<HashMap<u64, Secret>>>,
    next_handle: AtomicU64,
    began: SystemTime,
}

impl Files {
    pub(super) fn new(vault: VaultPlace, desk: Desk) -> Self {
        Self {
            vault,
            desk,
            names: Mutex::default(),
            inodes: Mutex::default(),
            open: Arc::default(),
            next_handle: AtomicU64::new(1),
            began: SystemTime::now(),
        }
    }

    /// The names of the keys that are in the vault, or were a moment ago.
    fn names(&self) -> Result<Arc<Names>, Errno> {
        if let Some((when, names)) = &*lock(&self.names) {
            if when.elapsed() < NAMES_LAST {
                return Ok(Arc::clone(names));
            }
        }
        self.names_now()
    }

    fn names_now(&self) -> Result<Arc<Names>, Errno> {
        let names = names(&self.vault).map_err(|error| {
            log::error!("the names of the keys cannot be read: {error}");
            Errno::EIO
        })?;
        let names = Arc::new(names);
        *lock(&self.names) = Some((Instant::now(), Arc::clone(&names)));
        Ok(names)
    }

    /// What an inode stands for, while it is there.
    fn place(&self, inode: INodeNo) -> Result<Place, Errno> {
        let place = lock(&self.inodes).place(inode).ok_or(Errno::ENOENT)?;
        // A vault that cannot be read still has a folder to say so in.
        if place == Place::Root || self.names()?.has(&place) {
            Ok(place)
        } else {
            Err(Errno::ENOENT)
        }
    }

    fn find(&self, folder: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let folder = self.place(folder)?;
        let name = name.to_str().ok_or(Errno::ENOENT)?;
        let mut found = self.names()?.in_folder(&folder, name);
        if found.is_none() {
            // It may have been sealed this moment.
            found = self.names_now()?.in_folder(&folder, name);
        }
        Ok(self.attributes(&found.ok_or(Errno::ENOENT)?))
    }

    fn attributes(&self, place: &Place) -> FileAttr {
        let (kind, perm, nlink) = match place {
            Place::Key(_) => (FileType::RegularFile, 0o400, 1),
            Place::Root | Place::Flat | Place::Folder(_) => (FileType::Directory, 0o500, 2),
        };
        FileAttr {
            ino: lock(&self.inodes).number(place),
            size: 0,
            blocks: 0,
            atime: self.began,
            mtime: self.began,
            ctime: self.began,
            crtime: self.began,
            kind,
            perm,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 512,
            flags: 0,
        }
    }

    /// The dataset whose key somebody wants to read.
    fn wanted(&self, request: &Request, inode: INodeNo, flags: OpenFlags) -> Result<String, Errno> {
        // The kernel lets in nobody else, and the mode says the same; this is the last word.
        if request.uid() != 0 {
            return Err(Errno::EACCES);
        }
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return Err(Errno::EROFS);
        }
        match lock(&self.inodes).place(inode) {
            Some(Place::Key(dataset)) => Ok(dataset),
            Some(_) => Err(Errno::EISDIR),
            None => Err(Errno::ENOENT),
        }
    }
}

/// The datasets whose keys are in the vault.
pub(super) fn names(vault: &VaultPlace) -> Result<Names, Error> {
    let datasets = TokenName::datasets();
    let objects = vault.open()?.list()?.objects.into_iter();
    Ok(Names::new(
        objects
            .filter(|object| object.kind == Kind::DatasetKey && object.token == datasets)
            .map(|object| object.label.as_str().to_owned()),
    ))
}

impl Filesystem for Files {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Ok(attributes) => reply.entry(&NO_TIME, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        match self.place(inode) {
            Ok(place) => reply.attr(&NO_TIME, &self.attributes(&place)),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self
            .place(inode)
            .and_then(|folder| Ok(self.names()?.list(&folder)));
        let entries = match listed {
            Ok(entries) => entries,
            Err(error) => return reply.error(error),
        };
        let itself = [".", ".."].map(|name| (name.to_owned(), inode, FileType::Directory));
        let others = entries.into_iter().map(|(name, place)| {
            let attributes = self.attributes(&place);
            (name, attributes.ino, attributes.kind)
        });
        for ((name, inode, kind), next) in itself.into_iter().chain(others).zip(1..) {
            if next > offset && reply.add(inode, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let caller = Caller::new(request.pid());
        let dataset = match self.wanted(request, inode, flags) {
            Ok(dataset) => dataset,
            Err(error) => {
                log::warn!("{caller} may not open that");
                return reply.error(error);
            }
        };
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let open = Arc::clone(&self.open);
        let answer = move |key| match key {
            Ok(key) => {
                lock(&open).insert(handle, key);
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(refusal) => reply.error(errno(refusal)),
        };
        self.desk.ask(dataset, caller, Box::new(answer));
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let open = lock(&self.open);
        let Some(key) = open.get(&handle.0) else {
            return reply.error(Errno::EBADF);
        };
        let key = key.expose();
        let from = usize::try_from(offset).map_or(key.len(), |from| from.min(key.len()));
        let to = usize::try_from(size).map_or(key.len(), |size| key.len().min(from + size));
        reply.data(&key[from..to]);
    }

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.open).remove(&handle.0);
        reply.ok();
    }
}

fn errno(refusal: Refusal) -> Errno {
    match refusal {
        Refusal::NoSuchKey => Errno::ENOENT,
        Refusal::Policy => Errno::EACCES,
        Refusal::NotUsable => Errno::EINVAL,
        Refusal::Failed => Errno::EIO,
    }
}

/// Numbers for places, which the kernel wants. There are no more than there were names of keys.
struct Inodes {
    places: Vec<Place>,
    numbers: HashMap<Place, INodeNo>,
}

impl Default for Inodes {
    fn default() -> Self {
        let mut inodes = Self {
            places: Vec::new(),
            numbers: HashMap::new(),
        };
        // Numbers begin at 1, which is FUSE's for the root.
        inodes.number(&Place::Root);
        inodes
    }
}

impl Inodes {
    fn number(&mut self, place: &Place) -> INodeNo {
        if let Some(&number) = self.numbers.get(place) {
            return number;
        }
        self.places.push(place.clone());
        let number = INodeNo(self.places.len() as u64);
        self.numbers.insert(place.clone(), number);
        number
    }

    fn place(&self, number: INodeNo) -> Option<Place> {
        let index = usize::try_from(number.0).ok()?.checked_sub(1)?;
        self.places.get(index).cloned()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
