//! Being the parent of the launched program so that nobody notices: signals reach it, its end is
//! ours, and ours is its own.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};

use rustix::process::{Pid, Signal, getpgrp, kill_process};
use rustix::termios::tcgetpgrp;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

/// Runs a program to its end.
pub(crate) fn run(mut command: Command) -> io::Result<End> {
    // A signal that we were told to ignore stays ignored, here and in the child: see nohup(1).
    let caught = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2];
    let mut signals = Signals::new(not_ignored(caught).chain([SIGCHLD]))?;
    // Who kills us with SIGKILL means the program.
    strongroom::process::end_with_us(&mut command);
    let mut child = command.spawn()?;
    // The secrets in the environment are the child's now.
    drop(command);
    for signal in signals.forever() {
        if signal == SIGCHLD {
            if let Some(status) = child.try_wait()? {
                return Ok(End(status));
            }
        } else if [SIGTERM, SIGUSR1, SIGUSR2].contains(&signal) || !from_terminal() {
            // The child was not waited for yet, so its id is still its own.
            forward(signal, &child);
        }
    }
    child.wait().map(End)
}

/// The signals that say that we are to end, but for those that we were told to ignore.
pub(crate) fn ending_signals() -> impl Iterator<Item = i32> {
    not_ignored([SIGTERM, SIGINT, SIGHUP, SIGQUIT])
}

/// Ends us as a signal does.
pub(crate) fn end_by(signal: i32) {
    // Does not come back, unless the signal is one that ends nobody.
    let _ = signal_hook::low_level::emulate_default_handler(signal);
}

/// How a program ended.
pub(crate) struct End(ExitStatus);

impl End {
    /// Whether it says that all went well.
    pub(crate) fn is_good(&self) -> bool {
        self.0.success()
    }

    /// Its exit code. If a signal ended it, the same signal ends us.
    pub(crate) fn exit_code(self) -> ExitCode {
        if let Some(signal) = self.0.signal() {
            end_by(signal);
        }
        let code = self.0.code().and_then(|code| u8::try_from(code).ok());
        ExitCode::from(code.unwrap_or(u8::MAX))
    }
}

/// Whether a signal such as Ctrl-C's went to the child as well, because a terminal sends it to
/// all processes of its foreground group. A second one would end rclone before it has cleaned up.
fn from_terminal() -> bool {
    File::open("/dev/tty")
        .ok()
        .and_then(|terminal| tcgetpgrp(terminal).ok())
        .is_some_and(|foreground| foreground == getpgrp())
}

fn forward(signal: i32, child: &Child) {
    let signal = match signal {
        SIGINT => Signal::INT,
        SIGHUP => Signal::HUP,
        SIGQUIT => Signal::QUIT,
        SIGUSR1 => Signal::USR1,
        // rclone's own: it switches its bandwidth limit.
        SIGUSR2 => Signal::USR2,
        _ => Signal::TERM,
    };
    // A child that has ended already needs no signal.
    let _ = kill_process(Pid::from_child(child), signal);
}

fn not_ignored<const N: usize>(signals: [i32; N]) -> impl Iterator<Item = i32> {
    let ignored = ignored_signals();
    (signals.into_iter()).filter(move |signal| ignored & (1 << (signal - 1)) == 0)
}

/// The set of signals that this process ignores, signal N as bit N - 1.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test: signals are the whole process's, and a second one would meet the first one's.
    #[test]
    fn the_end_of_the_child_is_ours_and_a_signal_reaches_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 9"]);
        let end = run(command).expect("a shell");
        assert_eq!(end.0.code(), Some(9));
        assert!(run(Command::new("/nonexistent")).is_err());

        for (name, signal) in [("TERM", SIGTERM), ("USR2", SIGUSR2)] {
            let mut command = Command::new("sh");
            // The shell signals its parent, us, and ends by what comes back.
            command.args(["-c", &format!("kill -{name} $PPID; sleep 10")]);
            let end = run(command).expect("a shell");
            assert_eq!(end.0.signal(), Some(signal));
        }
    }
}
