//! The keeper: a process beside rclone that seals what rclone writes over a placeholder, the moment
//! it is written, and lives on if the launcher is killed before it did.
//!
//! It holds rclone's configuration open, in which the only copy of a refreshed token may be, and is
//! told by three ends of sockets, its standard streams, what goes on:
//!
//! - standard input, the launcher's: first the places that have a placeholder, then a line for
//!   each time that it wants to know what could not be sealed. Its end says that nobody asks any more.
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
use std::sync::atomic::AtomicBool;
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
use crate::failure::Failure;

/// The argument that makes a keeper of this program.
pub(crate) const COMMAND: &str = "keep";

/// How long the launcher waits for what cannot be sealed at once: a TPM may be busy, another writer
/// at work.
const PATIENCE: Duration = Duration::from_secs(10);

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

    /// Lets the next child that is spawned inherit what makes it rclone.
    pub(crate) fn hand_on(&self) -> io::Result<()> {
        fcntl_setfd(&self.folder, FdFlags::empty())?;
        fcntl_setfd(&self.lifeline, FdFlags::empty())?;
        Ok(())
    }

    /// What rclone, which has ended, wrote over placeholders, and cannot be sealed. The keeper goes on
    /// trying.
    pub(crate) fn finish(mut self) -> (Folder, Vec<Failure>) {
        let mut answer = String::new();
        let asked = self
            .control
            .get_mut()
            .write_all(b"\n")
            .and_then(|()| self.control.read_line(&mut answer));
        let answered = asked.ok().and_then(|_| serde_json::from_str(&answer).ok());
        let failures = answered.unwrap_or_else(|| {
            // It was killed: what it was to do is done here.
            let mut seals = Seals::of(self.places);
            seals.make(&self.folder);
            seals.failures
        });
        (self.folder, failures)
    }
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
    changes: OwnedFd,
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

        let changes =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let folder = format!("/proc/self/fd/{}", open.as_raw_fd());
        let written = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CLOSE_WRITE;
        inotify::add_watch(&changes, folder, written)?;
        let mut control = BufReader::new(control);
        let mut line = String::new();
        control.read_line(&mut line)?;
        let order: Order = serde_json::from_str(&line)?;
        Ok(Self {
            control: Some(control),
            lifeline: Some(lifeline),
            folder: Folder::handed_on(open, order.folder),
            changes,
            seals: Seals::of(order.places),
        })
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
            let woken = self.wait((!self.seals.failures.is_empty()).then_some(pause))?;
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
        let (lifeline_ended, asked, changed) = {
            let mut ends = vec![PollFd::new(&self.changes, PollFlags::IN)];
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
                is_ready(0),
            )
        };
        if changed {
            // That there was something is all that counts.
            let _ = rustix::io::read(&self.changes, &mut [0_u8; 4096]);
        }
        if lifeline_ended {
            self.lifeline = self.lifeline.take().filter(|end| !has_ended(end));
        }
        if asked {
            let mut line = String::new();
            let control = self.control.as_mut().map(|end| end.read_line(&mut line));
            if matches!(control, Some(Ok(1..))) {
                return Ok(Woken::ByLauncher);
            }
            self.control = None;
        }
        let something = changed || lifeline_ended || asked;
        Ok(if something {
            Woken::Else
        } else {
            Woken::ByTime
        })
    }

    /// Tells the launcher what is not sealed, after some more tries where they may help.
    fn answer(&mut self) -> io::Result<()> {
        let asked = Instant::now();
        while self.seals.failures.iter().any(Failure::may_pass) && asked.elapsed() < PATIENCE {
            std::thread::sleep(FIRST_PAUSE);
            self.seals.make(&self.folder);
        }
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
