//! The keeper: a process beside rclone that seals what rclone writes over a placeholder, the moment
//! it is written, and lives on if the launcher is killed before it did.
//!
//! It holds rclone's configuration open, in which the only copy of a refreshed token may be, and is
//! told by three ends of sockets, its standard streams, what goes on:
//!
//! - standard input, the launcher's: first the places that have a placeholder; a line when the
//!   configuration is as rclone gets it, which is answered when the keeper is at work; then a line for each
//!   time that it wants to know what could not be sealed. Its end says that nobody asks any more.
//! - standard output, the lifeline: rclone, and whatever it starts, holds the other end. Its end says
//!   that nobody writes to the configuration any more.
//! - standard error, the folder in memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use strongroom::{ErrorKind, Secret};

use super::config::Config;
use super::copy::Folder;
use super::places::Place;
use super::renewal;
use crate::child;
use crate::failure::Failure;

/// The argument that makes a keeper of this program.
pub(crate) const COMMAND: &str = "keep";

/// What a keeper answers when it is at work.
const READY: &str = "ready\n";

/// How long the launcher waits for what cannot be sealed at once: a TPM may be busy, another writer
/// at work.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the launcher waits for a keeper to be at work: it was started before the TPM was asked.
const BEGINNING: Duration = Duration::from_secs(10);

/// How often the configuration is looked at where nothing tells of changes.
const GLANCE: Duration = Duration::from_secs(1);

/// How long a keeper that nobody asks any more goes on trying, and how often.
const PERSISTENCE: Duration = Duration::from_secs(24 * 60 * 60);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a keeper is told first.
#[derive(Serialize, Deserialize)]
struct Order {
    places: Vec<Place>,
    /// The name of the folder, if it has one.
    folder: Option<PathBuf>,
}

/// The launcher's side: a keeper at work.
pub(crate) struct Keeper {
    control: BufReader<UnixStream>,
    /// rclone's end.
    lifeline: UnixStream,
    pub(crate) folder: Folder,
    places: Vec<Place>,
}

impl Keeper {
    /// Puts the configuration into memory, and a keeper beside it.
    pub(crate) fn start(text: &str, places: &[Place]) -> io::Result<Self> {
        let folder = Folder::new(text)?;
        let (control, theirs) = UnixStream::pair()?;
        let (lifeline, watched) = UnixStream::pair()?;
        let spawned = Command::new("/proc/self/exe")
            .arg0("credential-provider")
            .arg(COMMAND)
            .current_dir("/")
            // What ends a group of processes, at a terminal or by a middleware, is not for it.
            .process_group(0)
            .stdin(OwnedFd::from(theirs))
            .stdout(OwnedFd::from(watched))
            .stderr(Stdio::from(folder.as_fd().try_clone_to_owned()?))
            .spawn();
        let order = Order {
            places: places.to_vec(),
            folder: folder.name().map(PathBuf::from),
        };
        let mut keeper = Self {
            control: BufReader::new(control),
            lifeline,
            folder,
            places: order.places.clone(),
        };
        let told = spawned.and_then(|_| {
            let mut line = serde_json::to_vec(&order)?;
            line.push(b'\n');
            keeper.control.get_mut().write_all(&line)
        });
        match told {
            Ok(()) => Ok(keeper),
            Err(error) => {
                keeper.folder.remove();
                Err(error)
            }
        }
    }

    /// Returns when the keeper is at work: from now on it seals what is written over this configuration.
    ///
    /// # Errors
    /// Where it is not in time. Then rclone must not be started: what it writes would be nobody's.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        self.control.get_ref().set_read_timeout(Some(BEGINNING))?;
        self.control.get_mut().write_all(b"\n")?;
        let mut answer = String::new();
        let read = self.control.read_line(&mut answer);
        self.control.get_ref().set_read_timeout(None)?;
        match read {
            Ok(_) if answer == READY => Ok(()),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(error),
        }
    }

    /// Lets the next child that is spawned inherit what makes it rclone.
    pub(crate) fn hand_on(&self) -> io::Result<()> {
        fcntl_setfd(&self.folder, FdFlags::empty())?;
        fcntl_setfd(&self.lifeline, FdFlags::empty())?;
        Ok(())
    }

    /// What rclone, which has ended, wrote over placeholders, and cannot be sealed. The keeper goes on
    /// trying.
    pub(crate) fn finish(mut self) -> Finished {
        let (failures, is_kept) = match self.ask() {
            Ok(Asked::Answered(failures)) => (failures, true),
            Ok(Asked::Interrupted(signal)) => {
                return Finished {
                    folder: self.folder,
                    failures: Vec::new(),
                    is_kept: true,
                    interrupted: Some(signal),
                };
            }
            Err(_) => {
                // It was killed: what it was to do is done here, and by nobody afterwards.
                let mut seals = Seals::of(self.places);
                seals.make(&self.folder);
                seals.make_patiently(&self.folder);
                (seals.failures, false)
            }
        };
        Finished {
            folder: self.folder,
            failures,
            is_kept,
            interrupted: None,
        }
    }

    /// Asks the keeper what could not be sealed, until a signal says that nobody wants to know.
    fn ask(&mut self) -> io::Result<Asked> {
        let which = Arc::new(AtomicUsize::new(0));
        let (signalled, ours) = UnixStream::pair()?;
        for signal in child::ending_signals() {
            // In this order: whoever is woken finds which it was.
            let number = usize::try_from(signal).expect("signals are small numbers above 0");
            signal_hook::flag::register_usize(signal, Arc::clone(&which), number)?;
            signal_hook::low_level::pipe::register(signal, ours.try_clone()?)?;
        }
        self.control.get_mut().write_all(b"\n")?;
        let mut ends = [
            PollFd::new(self.control.get_ref(), PollFlags::IN),
            PollFd::new(&signalled, PollFlags::IN),
        ];
        loop {
            match poll(&mut ends, None) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => break,
            }
        }
        let is_answered = !ends[0].revents().is_empty();
        if !is_answered {
            let signal = i32::try_from(which.load(Ordering::SeqCst));
            return Ok(Asked::Interrupted(signal.unwrap_or(SIGTERM)));
        }
        let mut answer = String::new();
        self.control.read_line(&mut answer)?;
        Ok(Asked::Answered(serde_json::from_str(&answer)?))
    }
}

enum Asked {
    Answered(Vec<Failure>),
    Interrupted(i32),
}

/// What there is to be said when rclone has ended.
pub(crate) struct Finished {
    pub(crate) folder: Folder,
    /// What could not be sealed.
    pub(crate) failures: Vec<Failure>,
    /// Whether a keeper goes on trying.
    pub(crate) is_kept: bool,
    /// The signal that said not to wait for the keeper.
    pub(crate) interrupted: Option<i32>,
}

/// What a keeper does, from its beginning to its end.
pub(crate) fn keep() -> ExitCode {
    match Watch::begin().and_then(Watch::keep) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody is there to be told.
        Err(_) => ExitCode::FAILURE,
    }
}

struct Watch {
    control: Option<BufReader<UnixStream>>,
    lifeline: Option<UnixStream>,
    folder: Folder,
    /// Tells of what is written; `None` where the system has no room for another watch.
    changes: Option<OwnedFd>,
    seals: Seals,
}

/// The places that have a placeholder, and what became of what rclone wrote over them.
struct Seals {
    places: Vec<Place>,
    /// For each place, what was sealed last.
    sealed: Vec<Option<Secret>>,
    /// What could not be sealed when it was tried last.
    failures: Vec<Failure>,
}

impl Watch {
    fn begin() -> io::Result<Self> {
        let taken: Arc<AtomicBool> = Arc::default();
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2] {
            signal_hook::flag::register(signal, Arc::clone(&taken))?;
        }
        let control = UnixStream::from(rustix::stdio::stdin().try_clone_to_owned()?);
        let lifeline = UnixStream::from(rustix::stdio::stdout().try_clone_to_owned()?);
        let open = rustix::stdio::stderr().try_clone_to_owned()?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;

        let changes = changes_in(&open).ok();
        let mut control = BufReader::new(control);
        let mut line = String::new();
        control.read_line(&mut line)?;
        let order: Order = serde_json::from_str(&line)?;
        let mut watch = Self {
            control: None,
            lifeline: Some(lifeline),
            folder: Folder::handed_on(open, order.folder),
            changes,
            seals: Seals::of(order.places),
        };
        let begun = control.read_line(&mut line)?;
        if begun == 0 {
            // The launcher has given up, and has started nothing.
            watch.folder.remove();
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        watch.seals.take_for_sealed(&watch.folder)?;
        control.get_mut().write_all(READY.as_bytes())?;
        watch.control = Some(control);
        Ok(watch)
    }

    fn keep(mut self) -> io::Result<()> {
        let mut pause = FIRST_PAUSE;
        let mut alone_since = None;
        loop {
            let is_alone = self.control.is_none() && self.lifeline.is_none();
            if is_alone {
                let since = *alone_since.get_or_insert_with(Instant::now);
                let is_over = self.seals.failures.iter().all(Failure::is_final);
                if is_over || since.elapsed() > PERSISTENCE {
                    self.folder.remove();
                    return Ok(());
                }
            }
            let again = (!self.seals.failures.is_empty()).then_some(pause);
            let glance = self.changes.is_none().then_some(GLANCE);
            let woken = self.wait(again.into_iter().chain(glance).min())?;
            pause = match woken {
                Woken::ByTime => (pause * 2).min(LONGEST_PAUSE),
                _ => FIRST_PAUSE,
            };
            self.seals.make(&self.folder);
            if woken == Woken::ByLauncher {
                self.answer()?;
            }
        }
    }

    /// Waits for something to happen, and takes it off what tells of it.
    fn wait(&mut self, longest: Option<Duration>) -> io::Result<Woken> {
        let timeout = longest.map(|it| Timespec {
            tv_sec: it.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: it.subsec_nanos().into(),
        });
        if self
            .control
            .as_ref()
            .is_some_and(|it| !it.buffer().is_empty())
        {
            // It has come with what was read before, and no end tells of it any more.
            return Ok(self.asked());
        }
        let (lifeline_ended, asked, changed) = {
            let mut ends = Vec::new();
            let changes = self.changes.as_ref().map(|end| {
                ends.push(PollFd::new(end, PollFlags::IN));
                ends.len() - 1
            });
            let lifeline = self.lifeline.as_ref().map(|end| {
                ends.push(PollFd::new(end, PollFlags::IN));
                ends.len() - 1
            });
            let control = self.control.as_ref().map(|end| {
                ends.push(PollFd::new(end.get_ref(), PollFlags::IN));
                ends.len() - 1
            });
            match poll(&mut ends, timeout.as_ref()) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => return Ok(Woken::Else),
                Err(error) => return Err(error.into()),
            }
            let is_ready = |end: usize| !ends[end].revents().is_empty();
            (
                lifeline.is_some_and(is_ready),
                control.is_some_and(is_ready),
                changes.is_some_and(is_ready),
            )
        };
        if let Some(changes) = self.changes.as_ref().filter(|_| changed) {
            // That there was something is all that counts.
            let _ = rustix::io::read(changes, &mut [0_u8; 4096]);
        }
        if lifeline_ended {
            self.lifeline = self.lifeline.take().filter(|end| !has_ended(end));
        }
        if asked {
            return Ok(self.asked());
        }
        Ok(if changed || lifeline_ended {
            Woken::Else
        } else {
            Woken::ByTime
        })
    }

    /// Reads the line by which the launcher asks, or its end.
    fn asked(&mut self) -> Woken {
        let mut line = String::new();
        let control = self.control.as_mut().map(|end| end.read_line(&mut line));
        if matches!(control, Some(Ok(1..))) {
            return Woken::ByLauncher;
        }
        self.control = None;
        Woken::Else
    }

    /// Tells the launcher what is not sealed, after some more tries where they may help.
    fn answer(&mut self) -> io::Result<()> {
        self.seals.make_patiently(&self.folder);
        let mut line = serde_json::to_vec(&self.seals.failures)?;
        line.push(b'\n');
        let told = match &mut self.control {
            Some(control) => control.get_mut().write_all(&line),
            None => Ok(()),
        };
        if told.is_err() {
            // It was killed while it waited.
            self.control = None;
        }
        Ok(())
    }
}

impl Seals {
    fn of(places: Vec<Place>) -> Self {
        Self {
            sealed: places.iter().map(|_| None).collect(),
            places,
            failures: Vec::new(),
        }
    }

    /// Takes what is in the placeholders' places by now for sealed: the launcher has put it there.
    fn take_for_sealed(&mut self, folder: &Folder) -> io::Result<()> {
        let text = folder.read()?;
        let now = Config::parse(&String::from_utf8_lossy(text.expose()));
        for (place, sealed) in self.places.iter().zip(&mut self.sealed) {
            let written = place.written_over(&now);
            *sealed = written.map(|it| Secret::copy_of(it.as_bytes()));
        }
        Ok(())
    }

    /// Tries again for a while, where that may help.
    fn make_patiently(&mut self, folder: &Folder) {
        let begun = Instant::now();
        while self.failures.iter().any(Failure::may_pass) && begun.elapsed() < PATIENCE {
            std::thread::sleep(FIRST_PAUSE);
            self.make(folder);
        }
    }

    /// Seals what rclone has written over a placeholder since it was last looked at.
    fn make(&mut self, folder: &Folder) {
        self.failures.clear();
        let text = match folder.read() {
            Ok(text) => text,
            Err(error) => {
                let text = format!("rclone's configuration in memory cannot be read: {error}");
                self.failures.push(Failure::new(ErrorKind::Vault, text));
                return;
            }
        };
        let now = Config::parse(&String::from_utf8_lossy(text.expose()));
        let (mut which, mut values) = (Vec::new(), Vec::new());
        for (number, place) in self.places.iter().enumerate() {
            let written = place.written_over(&now).filter(|written| {
                let sealed = self.sealed[number].as_ref();
                !sealed.is_some_and(|sealed| sealed.same_as(written.as_bytes()))
            });
            if let Some(written) = written {
                which.push(number);
                values.push((place, Secret::copy_of(written.as_bytes())));
            }
        }
        if values.is_empty() {
            return;
        }
        let outcomes = renewal::seal(&values);
        for ((number, (place, value)), outcome) in which.into_iter().zip(values).zip(outcomes) {
            match outcome {
                Ok(()) => self.sealed[number] = Some(value),
                Err(failure) => {
                    let place = format!("{place}: object {}", place.object);
                    self.failures.push(failure.at(place));
                }
            }
        }
    }
}

/// What tells of files that are written or renamed in a folder.
fn changes_in(folder: &OwnedFd) -> io::Result<OwnedFd> {
    let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let folder = format!("/proc/self/fd/{}", folder.as_raw_fd());
    let written = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CLOSE_WRITE;
    inotify::add_watch(&changes, folder, written)?;
    Ok(changes)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Woken {
    ByTime,
    ByLauncher,
    Else,
}

/// Whether nobody holds the other end any more. What is written to it means nothing.
fn has_ended(mut end: &UnixStream) -> bool {
    matches!(end.read(&mut [0; 64]), Ok(0) | Err(_))
}
