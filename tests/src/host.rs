//! A host of a PKCS#11 module, in a process of its own, that does one thing after the other as it
//! is told: so a test sees what each costs, and has several hosts at work at once, or kills one.
//!
//! The other end is `src/bin/pkcs11-host.rs`.

use std::ffi::OsString;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Daemon;
use crate::daemon::spawn_from_lasting_thread;
use crate::programs::folder_of_this_build;

/// How long a host may take for anything, beside what it was told to spend.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running host. Dropped, it is killed, if it has not been told to [`Host::finish`].
pub struct Host {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
    log: Arc<Mutex<String>>,
}

/// What a host has done.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// How many it made, or found: signatures, or objects.
    pub count: u32,
    /// How long it took.
    pub took: Duration,
}

/// What a host could not do, and why; or that it has not answered in time.
#[derive(Clone)]
pub struct Failure {
    /// In one line.
    pub reason: String,
    /// All that the host and the module have said so far, which is mostly the module's log.
    pub log: String,
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, log } = self;
        writeln!(f, "{reason}\n--- stderr\n{log}\n---")
    }
}

/// Whether a host could do it.
pub type Answer = Result<Done, Failure>;

impl Host {
    /// Starts a host, which does not load the module before it is told to.
    pub fn start(
        module: &Path,
        environment: impl IntoIterator<Item = (&'static str, OsString)>,
    ) -> Self {
        let mut command = Daemon::command(folder_of_this_build().join("pkcs11-host"));
        command
            .arg(module)
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawn_from_lasting_thread(command).expect("start setpriv (util-linux)");
        let orders = child.stdin.take().expect("standard input is a pipe");
        let (sender, answers) = mpsc::channel();
        for_each_line(child.stdout.take(), move |line| {
            // Who does not wait for it any more does not want it.
            let _ = sender.send(line);
        });
        let log = Arc::<Mutex<String>>::default();
        let pages = Arc::clone(&log);
        for_each_line(child.stderr.take(), move |line| {
            let mut log = pages.lock().unwrap_or_else(PoisonError::into_inner);
            log.push_str(&line);
            log.push('\n');
        });
        Self {
            child,
            orders,
            answers,
            log,
        }
    }

    /// The host's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Loads the module, and calls `C_Initialize`.
    pub fn initialize(&mut self) -> Answer {
        self.ask("initialize")
    }

    /// Opens a session with the token `keys`.
    pub fn open(&mut self) -> Answer {
        self.ask("open")
    }

    /// `C_Login` as user.
    pub fn log_in(&mut self, pin: &str) -> Answer {
        self.ask(&format!("login {pin}"))
    }

    /// Makes all ready for use: the module, a session, and a login if there is a PIN.
    pub fn prepare(&mut self, pin: Option<&str>) -> Answer {
        self.initialize()?;
        let opened = self.open()?;
        pin.map_or(Ok(opened), |pin| self.log_in(pin))
    }

    /// Finds all objects and reads their labels, as any program does that shows them.
    pub fn list(&mut self) -> Answer {
        self.ask("list")
    }

    /// Finds the objects of this label.
    pub fn find(&mut self, label: &str) -> Answer {
        self.ask(&format!("find {label}"))
    }

    /// Makes so many data objects in the token, with the labels `object-0`, `object-1` and so on.
    pub fn fill(&mut self, count: u32) -> Answer {
        self.order(&format!("fill {count}"));
        self.answer(Duration::from_secs(600))
    }

    /// Calls `C_GenerateRandom` for so many bytes, without pause for so long.
    pub fn random(&mut self, len: u32, time: Duration) -> Answer {
        self.order(&format!("random {len} {}", time.as_millis()));
        self.answer(time + PATIENCE)
    }

    /// Signs `count` messages with the private key of this label, one after the other. Of these,
    /// as of all that a host signs, it verifies each afterwards, without the module, and fails if
    /// one is not right.
    pub fn sign(&mut self, label: &str, count: u32) -> Answer {
        self.ask(&format!("sign {label} {count}"))
    }

    /// Starts to sign in so many threads, each with a session of its own, and without pause for so
    /// long. [`Host::outcome`] waits for the end.
    pub fn start_signing(&mut self, label: &str, threads: u32, time: Duration) {
        let time = time.as_millis();
        self.order(&format!("sign-for {label} {threads} {time}"));
    }

    /// The outcome of [`Host::start_signing`], which was told to take so long. Each thread has made
    /// a signature at least, but what was ready too late is not counted.
    pub fn outcome(&mut self, time: Duration) -> Answer {
        self.answer(time + PATIENCE)
    }

    /// Kills the host, as by `kill -9`, and waits until it is dead.
    pub fn kill(&mut self) {
        // Not yet reaped, so the id is still this child's and nobody else's.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Closes the sessions, calls `C_Finalize`, and waits until the process has ended.
    pub fn finish(mut self) -> Answer {
        let done = self.ask("finish")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(done),
                Ok(Some(status)) => return Err(self.failure(format!("it ended with {status}"))),
                _ if Instant::now() > deadline => {
                    return Err(self.failure("it hangs when it is to exit"));
                }
                _ => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn ask(&mut self, order: &str) -> Answer {
        self.order(order);
        self.answer(PATIENCE)
    }

    fn order(&mut self, order: &str) {
        // If it is not there to read this, it will not answer either.
        let _ = writeln!(self.orders, "{order}");
    }

    fn answer(&mut self, patience: Duration) -> Answer {
        let line = match self.answers.recv_timeout(patience) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                return Err(self.failure(format!("it hangs: no answer in {patience:?}")));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(self.failure("it has crashed")),
        };
        let parse = |line: &str| {
            let mut words = line.strip_prefix("done ")?.split(' ');
            Some(Done {
                count: words.next()?.parse().ok()?,
                took: Duration::from_nanos(words.next()?.parse().ok()?),
            })
        };
        parse(&line).ok_or_else(|| self.failure(line.trim_start_matches("failed ")))
    }

    fn failure(&self, reason: impl Into<String>) -> Failure {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        Failure {
            reason: reason.into(),
            log: log.clone(),
        }
    }
}

/// Reads what the host prints, in a thread, until it prints no more.
fn for_each_line(
    printed: Option<impl Read + Send + 'static>,
    mut action: impl FnMut(String) + Send + 'static,
) {
    let printed = BufReader::new(printed.expect("it is a pipe"));
    thread::spawn(move || printed.lines().map_while(Result::ok).for_each(&mut action));
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}
