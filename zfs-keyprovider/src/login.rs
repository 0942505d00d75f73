//! The PIN of a token's user, where keys are behind one: out of a file, typed at a terminal, or, as
//! in a boot, where whoever answers systemd's questions types it. It is never in arguments or an
//! environment.
//!
//! A wrong PIN is asked for again a few times, and the last try before it locks is not spent without
//! a word. Nothing is held in the TPM while somebody types.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use strongroom::error::Error;
use strongroom::object::TokenName;
use strongroom::pin::{Pin, PinState, Role};
use strongroom::vault::LoggedIn;
use strongroom::{Secret, Tcti, Vault};
use strongroom_console as console;

use crate::failure::Failure;

/// How often a PIN is asked for.
const TRIES: u32 = 3;

/// The program that asks in a boot, and how long it waits for an answer. All tries together take
/// less than the unit of `load` may.
const ASK: &str = "systemd-ask-password";
const PATIENCE: Duration = Duration::from_secs(90);

/// How long that program may take to end by itself when its time is up.
const GRACE: Duration = Duration::from_secs(3);

/// How to come by a PIN.
#[derive(Debug, clap::Args)]
pub(crate) struct AskPin {
    /// Of keys behind a PIN, the file with the PIN of the token's user; asked for otherwise, at the
    /// terminal or else by systemd-ask-password
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,

    /// Ask nobody for a PIN
    #[arg(long, conflicts_with = "pin_file")]
    no_ask: bool,
}

/// What came of asking for a PIN.
pub(crate) enum Login {
    /// The TPM has found it right.
    In(Box<LoggedIn>),
    /// What is behind it stays locked, and nothing else is wrong.
    Out(Failure),
}

/// What somebody answered.
enum Answer {
    Typed(Pin),
    /// It is too short or too long to be one.
    NoPin(Error),
    /// Nobody is there, or they do not want to.
    Nobody(&'static str),
}

/// Has the PIN of a token's user given, and the TPM compare it.
///
/// # Errors
/// Those that are not about the PIN. Of a boot that the policy refuses nobody is asked.
pub(crate) fn log_in(
    vault: &Vault,
    tcti: &Tcti,
    token: &TokenName,
    how: &AskPin,
) -> Result<Login, Error> {
    if let Some(refusal) = vault.boot_state(tcti)?.refusal {
        return Err(Error::PolicyRefused(refusal));
    }
    let mut wrong = None;
    for _ in 0..TRIES {
        let state = match vault.pin_state(tcti, token, Role::User) {
            Ok(state) => state,
            Err(error @ Error::PinUnusable { .. }) => return Ok(Login::Out(error.into())),
            Err(error) => return Err(error),
        };
        let Some(state) = state else {
            return Err(Error::input(
                format!("token {token}"),
                "keys in it are behind a PIN, and it has none",
            ));
        };
        if let Some(error) = why_not(state, token) {
            return Ok(Login::Out(error.into()));
        }
        let error = match how.answer(vault, token, state, wrong.is_some()) {
            Answer::Nobody(reason) => {
                let failure = Failure::NoPin {
                    token: token.clone(),
                    reason,
                };
                return Ok(Login::Out(wrong.map_or(failure, Failure::from)));
            }
            Answer::NoPin(error) => error,
            Answer::Typed(pin) => match vault.log_in(tcti, token, &pin) {
                Ok(logged_in) => return Ok(Login::In(Box::new(logged_in))),
                Err(error) if is_of_the_pin(&error) => error,
                Err(error) => return Err(error),
            },
        };
        let again = matches!(error, Error::PinIncorrect { .. } | Error::Input { .. });
        if !again || how.pin_file.is_some() {
            return Ok(Login::Out(error.into()));
        }
        log::info!("{error}");
        wrong = Some(error);
    }
    let never = || Error::input("PIN", "it was not asked for");
    Ok(Login::Out(wrong.unwrap_or_else(never).into()))
}

/// Why nobody need be asked.
fn why_not(state: PinState, token: &TokenName) -> Option<Error> {
    let (token, role) = (token.to_string(), Role::User);
    if !state.is_set() {
        Some(Error::PinNotSet { token, role })
    } else if state.is_locked() {
        Some(Error::PinLocked { token, role })
    } else {
        None
    }
}

fn is_of_the_pin(error: &Error) -> bool {
    matches!(
        error,
        Error::PinIncorrect { .. }
            | Error::PinLocked { .. }
            | Error::PinNotSet { .. }
            | Error::PinUnusable { .. }
    )
}

impl AskPin {
    fn answer(&self, vault: &Vault, token: &TokenName, state: PinState, again: bool) -> Answer {
        if let Some(file) = &self.pin_file {
            if state.is_final_try() {
                log::warn!(
                    "one try is left for the PIN of token {token}: if the one in {} is wrong, it locks",
                    file.display()
                );
            }
            return Pin::read(file).map_or_else(Answer::NoPin, Answer::Typed);
        }
        if self.no_ask {
            return Answer::Nobody("nobody is to be asked (--no-ask)");
        }
        let question = question(token, state, again);
        let typed = match console::ask_hidden(&question) {
            Some(typed) => typed,
            None => match ask_by_systemd(vault, token, &question) {
                Ok(typed) => typed,
                Err(reason) => return Answer::Nobody(reason),
            },
        };
        if typed.expose().trim_ascii().is_empty() {
            return Answer::Nobody("nobody has typed it");
        }
        Pin::from_line(typed).map_or_else(Answer::NoPin, Answer::Typed)
    }
}

fn question(token: &TokenName, state: PinState, again: bool) -> String {
    let again = if again { "That was not it. " } else { "" };
    let left = match state.tries_left() {
        1 => " (the last try: a wrong one locks it)".to_owned(),
        left if left < TRIES || state.failures > 0 => format!(" ({left} tries are left)"),
        _ => String::new(),
    };
    format!("{again}PIN of token {token}{left}")
}

/// Asks whoever answers systemd's questions: at the console, in a splash screen, on the wall.
fn ask_by_systemd(
    vault: &Vault,
    token: &TokenName,
    question: &str,
) -> Result<Secret, &'static str> {
    let mut command = Command::new(ASK);
    command
        .arg("--no-tty")
        .arg("--icon=drive-harddisk")
        .arg(format!("--id=strongroom:{}:{token}", vault.id()))
        .arg(format!("--timeout={}", PATIENCE.as_secs()))
        .arg(format!("{question}:"));
    answer_of(&mut command, PATIENCE + GRACE)
}

/// What a program that asks prints, where it ends well and in time.
fn answer_of(command: &mut Command, patience: Duration) -> Result<Secret, &'static str> {
    const NOBODY: &str = "nobody can be asked here";
    let deadline = Instant::now() + patience;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                log::warn!("{ASK}: {error}");
            }
            NOBODY
        })?;
    let (sender, answer) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            // Whoever waits may have given up.
            let _ = sender.send(Secret::read_from(stdout, Pin::MAX + 2));
        });
    }
    let typed = answer.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    match (typed, end(&mut child, deadline)) {
        (Ok(Ok(typed)), true) => Ok(typed),
        _ => Err("nobody has typed it"),
    }
}

/// Whether the program has ended well, and in time.
fn end(child: &mut Child, deadline: Instant) -> bool {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(script: &str, patience: Duration) -> Result<Vec<u8>, &'static str> {
        let mut command = Command::new("sh");
        let typed = answer_of(command.args(["-c", script]), patience)?;
        Ok(typed.expose().to_vec())
    }

    #[test]
    fn an_answer_counts_where_it_comes_in_time_from_a_program_that_ends_well() {
        let long = Duration::from_secs(60);
        assert_eq!(answer("echo 1234", long), Ok(b"1234\n".to_vec()));
        let nobody = Err("nobody has typed it");
        assert_eq!(answer("echo 1234; exit 1", long), nobody);
        assert_eq!(answer("head -c 100000 /dev/zero", long), nobody);
        let start = Instant::now();
        let short = Duration::from_millis(100);
        assert_eq!(answer("exec sleep 60", short), nobody);
        assert_eq!(answer("echo 1234; exec >&-; exec sleep 60", short), nobody);
        assert!(start.elapsed() < Duration::from_secs(30));
        let mut missing = Command::new("/nowhere/at/all");
        assert_eq!(
            answer_of(&mut missing, long).err(),
            Some("nobody can be asked here")
        );
    }

    #[test]
    fn the_last_try_is_not_asked_for_without_a_word() {
        let asked = |failures: u32, again: bool| {
            let state = PinState {
                failures,
                limit: 10,
            };
            question(&TokenName::datasets(), state, again)
        };
        assert_eq!(asked(0, false), "PIN of token datasets");
        assert_eq!(
            asked(1, true),
            "That was not it. PIN of token datasets (9 tries are left)"
        );
        assert_eq!(
            asked(9, false),
            "PIN of token datasets (the last try: a wrong one locks it)"
        );
    }
}
