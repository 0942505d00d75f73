//! Running `zfs` and `zpool`. A key goes in on standard input and nowhere else.

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use strongroom::Secret;

/// Why ZFS could not be asked, or did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ZfsError(pub(crate) String);

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
            Err(ZfsError(format!("{what} failed: {}", self.reason())))
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

/// Runs a command to its end, with a key on its standard input or nothing.
pub(super) fn run(
    program: &str,
    args: &[&str],
    stdin: Option<&Secret>,
) -> Result<Output, ZfsError> {
    let failed = |error: std::io::Error| {
        ZfsError(if error.kind() == ErrorKind::NotFound {
            format!("there is no program {program}; install ZFS, or put its folder into PATH")
        } else {
            format!("{program} cannot be run: {error}")
        })
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
    if let (Some(key), Some(mut pipe)) = (stdin, child.stdin.take()) {
        // A key is shorter than a pipe is deep. Who does not read it says why by itself.
        match pipe.write_all(key.expose()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(failed(error)),
            _ => {}
        }
    }
    let output = child.wait_with_output().map_err(failed)?;
    Ok(Output {
        succeeded: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
