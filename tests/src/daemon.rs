//! Servers that a test starts, and that must not outlive it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to get ready, and then to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// A running server. Dropping it ends it, by its own process id; if the test
/// process itself dies, even by SIGKILL, the kernel ends it.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// A command that starts `program` as a server; complete it with its
    /// arguments and hand it to [`Daemon::spawn`].
    pub fn command(program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(program);
        command
    }

    /// Starts the server of a [`Daemon::command`]. What it prints goes to
    /// `log`, which is shown if it fails.
    pub fn spawn(command: Command, log: &Path) -> Self {
        Self::spawn_with(command, Stdio::null(), log)
    }

    /// The same, with a standard input.
    pub fn spawn_with(mut command: Command, stdin: Stdio, log: &Path) -> Self {
        let output = File::create(log).expect("create the server's log");
        let errors = output.try_clone().expect("share the server's log");
        command.stdin(stdin).stdout(output).stderr(errors);
        let child = spawn_from_lasting_thread(command).expect("start setpriv (util-linux)");
        let log = log.to_owned();
        Self { child, log }
    }

    /// Waits until `ready` returns something, and returns that. Panics with
    /// the server's log if it ends first, or takes too long.
    pub fn wait_until<T>(&mut self, what: &str, mut ready: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ready(self) {
                return answer;
            }
            if let Some(status) = self.child.try_wait().expect("ask for the server's status") {
                panic!("{what}: it ended with {status}:\n{}", self.log());
            }
            assert!(
                Instant::now() < deadline,
                "{what}: not within {PATIENCE:?}:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// All that the server has printed.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the server as a crash does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How the server ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("ask for the server's status")
    }

    /// Asks the server to end, makes it if it will not, and waits until it has.
    pub fn stop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        // Not yet reaped, so the id is still this child's and nobody else's.
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() < deadline {
                let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
                thread::sleep(Duration::from_millis(2));
            } else {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts `command` as a child of a thread that lasts as long as the process.
///
/// The parent whose death `--pdeathsig` tells of is the thread that called
/// fork, not its process. A test runs in a thread of its own, so a server that
/// several tests share would otherwise end with the test that was first.
pub(crate) fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    struct Order {
        command: Command,
        reply: Sender<io::Result<Child>>,
    }

    static SPAWNER: LazyLock<Sender<Order>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for mut order in inbox {
                let _ = order.reply.send(order.command.spawn());
            }
        });
        orders
    });

    let (reply, answer) = mpsc::channel();
    SPAWNER
        .send(Order { command, reply })
        .expect("the spawning thread lasts");
    answer.recv().expect("the spawning thread answers")
}
