//! Turns on a TPM that several processes reach and that nothing shares out among them: a simulator
//! without resource manager, in which there is room for what one of them loads.
//!
//! Whoever has something in such a TPM holds a [`Turn`]; so nobody runs out of room, and nobody
//! flushes what is in use by another. A turn is a lock on a file of the vault's, by flock(2):
//!
//! - The file is empty and has no other use. `vault.json` is replaced when it changes, and with it
//!   its lock; the folder is not open to a token's group, which only comes through it.
//! - Who may only read can lock it. An exclusive record lock (fcntl(2)), the kind that is a
//!   process's own, needs a descriptor that is open for writing.
//! - Each turn opens the file anew, so that threads keep each other off as processes do.
//!
//! But a child of a fork shares the lock, and keeps it where its parent is killed. So it closes
//! what it has inherited, before fork(2) returns in it; and by exec(2) no descriptor goes on.
//!
//! Vaults that share a simulator do not know of each other's turns.
#![allow(
    unsafe_code,
    reason = "only the C library tells of forks, and a child has nothing but a number to close"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock};
use rustix::io::Errno;

use super::answer;
use super::tcti::{Sharing, Tcti};
use crate::error::{Error, Result};

/// How long one waits for one's turn, and how often one looks whether it has come.
const PATIENCE: Duration = Duration::from_secs(30);
const GLANCE: Duration = Duration::from_millis(5);

/// The mode of the file: it says nothing, and is no way to any other.
const MODE: Mode = Mode::from_raw_mode(0o644);

/// The right to use a TPM, and where that is. Clones are the same turn, which is over when all of
/// them are gone.
#[derive(Clone)]
pub(crate) struct Turn {
    tcti: Tcti,
    lock: Option<Arc<Lock>>,
}

impl Turn {
    /// Waits until it is this caller's turn, at a TPM where there are turns.
    ///
    /// # Errors
    /// [`Error::TpmUnavailable`] after thirty seconds.
    pub(crate) fn wait(tcti: &Tcti, file: &Path) -> Result<Self> {
        let lock = match tcti.sharing() {
            Sharing::InTurns => Some(Arc::new(Lock::wait(file)?)),
            Sharing::Managed | Sharing::OneOpener => None,
        };
        Ok(Self {
            tcti: tcti.clone(),
            lock,
        })
    }

    /// For who looks at a TPM and loads nothing, which disturbs nobody and may be before there is
    /// a folder.
    pub(crate) fn to_look(tcti: &Tcti) -> Self {
        Self {
            tcti: tcti.clone(),
            lock: None,
        }
    }

    /// Where the TPM is.
    pub(crate) fn tcti(&self) -> &Tcti {
        &self.tcti
    }

    /// Whether others may be waiting for its end.
    pub(crate) fn keeps_others_off(&self) -> bool {
        self.lock.is_some()
    }

    /// Whether an error may be the doing of somebody else, who is at the TPM at the same time: it
    /// has no room, or its resource manager could not put back what it had put aside.
    pub(crate) fn is_disturbed(&self, error: &Error) -> bool {
        let may_be = answer::is_want_of_room(error) || matches!(error, Error::TpmLost { .. });
        may_be && !self.keeps_others_off()
    }
}

/// A lock on a file, of the process that made it and not of its children.
struct Lock {
    /// Always there, but in a child.
    open: Option<Known>,
    process: u32,
}

impl Lock {
    fn wait(file: &Path) -> Result<Self> {
        let start = Instant::now();
        let mut open = None;
        loop {
            if open.is_none() {
                open = Known::open(file).map_err(Error::io("open", file))?;
            }
            match open.as_ref().map(Known::try_lock) {
                Some(Ok(true)) => break,
                Some(Ok(false)) | None => {}
                Some(Err(error)) => return Err(Error::io("lock", file)(error)),
            }
            if start.elapsed() > PATIENCE {
                return Err(Error::TpmUnavailable {
                    operation: "unlocking the vault",
                    state: "in use by another process, and has no resource manager",
                    remedy: "end that process, or use a TPM with a resource manager",
                });
            }
            thread::sleep(GLANCE);
        }
        Ok(Self {
            open,
            process: process::id(),
        })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if process::id() != self.process {
            // A child's copy. The descriptor is closed, and its number may be another's by now.
            std::mem::forget(self.open.take());
        }
    }
}

/// A descriptor that children close.
struct Known {
    file: File,
    number: &'static AtomicI32,
}

/// The descriptors that a child closes: more than anyone has TPMs.
static NUMBERS: [AtomicI32; 64] = [const { AtomicI32::new(NONE) }; 64];
const NONE: i32 = -1;
const RESERVED: i32 = -2;

/// How many forks there were, and how many of them are not over yet.
static FORKS: AtomicUsize = AtomicUsize::new(0);
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

impl Known {
    /// Opens a file to lock it; `None` while there is no room to remember it, and where another
    /// thread forked between opening and remembering: its child has the descriptor, and must not
    /// have a lock by it.
    fn open(file: &Path) -> io::Result<Option<Self>> {
        static FOLLOW_FORKS: Once = Once::new();
        FOLLOW_FORKS.call_once(follow_forks);
        let reserve = |number: &&AtomicI32| {
            let reserved = number.compare_exchange(NONE, RESERVED, SeqCst, SeqCst);
            reserved.is_ok()
        };
        let Some(number) = NUMBERS.iter().find(reserve) else {
            return Ok(None);
        };
        let forks = FORKS.load(SeqCst);
        let forking = UNDER_WAY.load(SeqCst) != 0;
        let file = match open_or_make(file) {
            Ok(open) => open,
            Err(error) => {
                number.store(NONE, SeqCst);
                return Err(error);
            }
        };
        number.store(file.as_raw_fd(), SeqCst);
        let known = Self { file, number };
        Ok((!forking && FORKS.load(SeqCst) == forks).then_some(known))
    }

    /// Locks it, if nobody else has; whether it did.
    fn try_lock(&self) -> io::Result<bool> {
        match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        // In this order: whatever a child that is forked in between inherits is not locked, and it
        // closes no number that has become another's.
        let _ = flock(&self.file, FlockOperation::Unlock);
        self.number.store(NONE, SeqCst);
    }
}

/// Opens a file, which is made where it is not there: whoever comes through its folder may lock it.
fn open_or_make(file: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(file, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?.into()),
    }
    match rustix::fs::open(file, flags | OFlags::CREATE | OFlags::EXCL, MODE) {
        Ok(made) => {
            // Whatever the umask is.
            fchmod(&made, MODE)?;
            Ok(made.into())
        }
        // Somebody was quicker.
        Err(Errno::EXIST) => Ok(rustix::fs::open(file, flags, Mode::empty())?.into()),
        Err(error) => Err(error.into()),
    }
}

/// Has [`in_child`] called in every child that is forked from now on.
fn follow_forks() {
    // SAFETY: the handlers are functions of this library, and the C library forgets them with it.
    // They do nothing but what is allowed to a child of several threads (signal-safety(7)).
    let refused =
        unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(in_child)) };
    if refused != 0 {
        log::warn!("a child of a killed process may keep others from its TPM: error {refused}");
    }
}

extern "C" fn before_fork() {
    UNDER_WAY.fetch_add(1, SeqCst);
    FORKS.fetch_add(1, SeqCst);
}

extern "C" fn after_fork() {
    // Not below zero, should the handlers have come while another thread was forking.
    let _ = UNDER_WAY.fetch_update(SeqCst, SeqCst, |forks| forks.checked_sub(1));
}

extern "C" fn in_child() {
    UNDER_WAY.store(0, SeqCst);
    for number in &NUMBERS {
        let open = number.swap(NONE, SeqCst);
        if open >= 0 {
            // SAFETY: a descriptor that this library has open. Who owned it does not run in the
            // child, or forgets it.
            unsafe { libc::close(open) };
        }
    }
}
