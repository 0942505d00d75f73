//! Running a program to its end, and saying all about it when that is not the
//! end that was expected.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// Variables of these names steer the programs under test: what the developer
/// has set must reach none of them, for it may lead to a real vault.
const STEERING: [&str; 5] = ["STRONGROOM_", "TPM2TOOLS_", "RCLONE_", "RESTIC_", "AWS_"];

/// A program about to run.
#[must_use = "nothing runs before ok, fails_with or finish"]
pub struct Run {
    command: Command,
    stdin: Vec<u8>,
    timeout: Duration,
}

impl Run {
    /// Runs `program` with an empty standard input for at most a minute.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        for (name, _) in env::vars_os() {
            if STEERING
                .iter()
                .any(|prefix| name.to_string_lossy().starts_with(prefix))
            {
                command.env_remove(name);
            }
        }
        Self {
            command,
            stdin: Vec::new(),
            timeout: Duration::from_secs(60),
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What the program reads.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long the program may take, with all that it started.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs the program and expects success.
    #[track_caller]
    pub fn ok(self) -> Output {
        self.finish().ok()
    }

    /// Runs the program and expects it to exit with `code`.
    #[track_caller]
    pub fn fails_with(self, code: i32) -> Output {
        self.finish().fails_with(code)
    }

    /// Runs the program to its end, whatever that is. Panics if it does not
    /// come in time.
    #[track_caller]
    pub fn finish(mut self) -> Output {
        let shown = format!("{:?}", self.command);
        let begun = Instant::now();
        let mut child = self
            .command
            // A group of its own, so that what it started can be ended with it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
        let group = Pid::from_child(&child);
        feed(&mut child, self.stdin);
        let stdout = Tap::open(child.stdout.take());
        let stderr = Tap::open(child.stderr.take());

        let mut status = None;
        while status.is_none() || !stdout.is_closed() || !stderr.is_closed() {
            status = child.try_wait().expect("ask for the program's status");
            if begun.elapsed() > self.timeout {
                let _ = kill_process_group(group, Signal::KILL);
                let status = child.wait().expect("wait for the program");
                let timeout = self.timeout;
                let so_far = Output::new(shown, status, &stdout, &stderr, begun);
                panic!("not done, with all that it started, within {timeout:?}: {so_far}");
            }
            thread::sleep(Duration::from_millis(1));
        }
        let status = status.expect("the loop ends with a status");
        Output::new(shown, status, &stdout, &stderr, begun)
    }
}

/// What a program that has ended left behind. Displayed, it says everything.
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: String,
    /// How long it took, to the millisecond.
    pub took: Duration,
    pub(crate) command: String,
}

// Its expectations return it for one more; the last one's caller needs no more.
#[allow(clippy::return_self_not_must_use)]
impl Output {
    fn new(
        command: String,
        status: ExitStatus,
        stdout: &Tap,
        stderr: &Tap,
        begun: Instant,
    ) -> Self {
        Self {
            status,
            stdout: stdout.bytes(),
            stderr: String::from_utf8_lossy(&stderr.bytes()).into_owned(),
            took: begun.elapsed(),
            command,
        }
    }

    /// The exit code; `None` if a signal ended the program.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Expects that the program succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "it should have succeeded: {self}");
        self
    }

    /// Expects that the program exited with `code`.
    #[track_caller]
    pub fn fails_with(self, code: i32) -> Self {
        assert!(
            self.code() == Some(code),
            "it should have exited with {code}: {self}"
        );
        self
    }

    /// Expects that standard error contains `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "it should have said {text:?}: {self}"
        );
        self
    }

    /// Expects that neither output contains `secret`.
    #[track_caller]
    pub fn does_not_show(self, secret: &str) -> Self {
        let shows = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(secret);
        assert!(
            !shows(&self.stdout) && !shows(self.stderr.as_bytes()),
            "it should not have shown {secret:?}: {self}"
        );
        self
    }

    /// Standard output as text.
    #[track_caller]
    pub fn text(&self) -> String {
        match std::str::from_utf8(&self.stdout) {
            Ok(text) => text.to_owned(),
            Err(error) => panic!("it should have printed text ({error}): {self}"),
        }
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_slice(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("it should have printed JSON ({error}): {self}"),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, took, .. } = self;
        let stdout = String::from_utf8_lossy(&self.stdout);
        writeln!(f, "{}", self.command)?;
        writeln!(f, "{status}, after {took:.1?}")?;
        writeln!(f, "--- stdout\n{stdout}\n--- stderr\n{}\n---", self.stderr)
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Writes the child's standard input, from a thread: it may be more than a
/// pipe holds. That the child does not want it all is the child's affair.
fn feed(child: &mut Child, bytes: Vec<u8>) {
    let mut pipe = child.stdin.take().expect("standard input is a pipe");
    thread::spawn(move || pipe.write_all(&bytes));
}

/// An output of the child, collected while it comes.
struct Tap {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<io::Result<()>>,
}

impl Tap {
    fn open(pipe: Option<impl Read + Send + 'static>) -> Self {
        let mut pipe = pipe.expect("the output is a pipe");
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut chunk = [0; 16 * 1024];
            loop {
                match pipe.read(&mut chunk)? {
                    0 => return Ok(()),
                    len => lock(&sink).extend_from_slice(&chunk[..len]),
                }
            }
        });
        Self { bytes, reader }
    }

    /// Whether the child, and whoever inherited the output from it, closed it.
    fn is_closed(&self) -> bool {
        self.reader.is_finished()
    }

    fn bytes(&self) -> Vec<u8> {
        lock(&self.bytes).clone()
    }
}

fn lock(bytes: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    bytes.lock().unwrap_or_else(PoisonError::into_inner)
}
