//! Running `zfs` and `zpool`. A key goes in on standard input and nowhere else.

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use strongroom::Secret;

/// How long ZFS may take to answer a question: a pool that is suspended never does.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why ZFS could not be asked, or did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ZfsError {
    /// There is none here.
    #[error("there is no program {0}; install ZFS, or put its folder into PATH")]
    NotInstalled(String),

    #[error("{0}")]
    Failed(String),
}

/// What a command left behind.
pub(super) struct Output {
    pub(super) succeeded: bool,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Output {
    /// Standard output, if the command succeeded.
    pub(super) fn expect(self, what: &str) -> Result<String, ZfsError> {
        if self.succeeded {
            Ok(self.stdout)
        } else {
            Err(ZfsError::Failed(format!(
                "{what} failed: {}",
                self.reason()
            )))
        }
    }

    /// What it said of its failure, in one line.
    pub(super) fn reason(&self) -> String {
        let lines: Vec<_> = self.stderr.lines().map(str::trim).collect();
        match lines.join(" ") {
            empty if empty.is_empty() => "it did not say why".to_owned(),
            said => said,
        }
    }
}

/// Asks something, for a limited time.
pub(super) fn ask(program: &str, args: &[&str]) -> Result<Output, ZfsError> {
    let (sender, answer) = mpsc::channel();
    let asked = format!("{program} {}", args.first().unwrap_or(&""));
    let (program, args) = (program.to_owned(), args.iter().map(ToString::to_string));
    let args: Vec<String> = args.collect();
    thread::spawn(move || {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        // Nobody may be waiting any more.
        let _ = sender.send(run(&program, &args, None));
    });
    answer.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        Err(ZfsError::Failed(format!(
            "{asked} does not answer; a pool may be suspended (zpool status)"
        )))
    })
}

/// Runs a command to its end, with a key on its standard input or nothing.
pub(super) fn run(
    program: &str,
    args: &[&str],
    stdin: Option<&Secret>,
) -> Result<Output, ZfsError> {
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => ZfsError::NotInstalled(program.to_owned()),
        _ => ZfsError::Failed(format!("{program} cannot be run: {error}")),
    };
    let mut child = Command::new(program)
        .args(args)
        // What it says is read here.
        .env("LC_ALL", "C")
        .stdin(stdin.map_or_else(Stdio::null, |_| Stdio::piped()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut written = Ok(());
    if let (Some(key), Some(mut pipe)) = (stdin, child.stdin.take()) {
        // A key is shorter than a pipe is deep. Who does not read it says why by itself.
        match pipe.write_all(key.expose()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => written = Err(error),
            _ => {}
        }
    }
    // In any case to its end: what it does must not go on behind the caller's back.
    let output = child.wait_with_output().map_err(failed)?;
    written.map_err(failed)?;
    Ok(Output {
        succeeded: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
