//! What people see besides what all programs show: damaged files, and questions.

use std::io::{self, IsTerminal};

use serde_json::{Value, json};
use strongroom::{Damaged, Secret};
pub(crate) use strongroom_console::{laid_out, progress, say, show, table};

use crate::failure::Failure;

/// Damaged files, for a report in JSON.
pub(crate) fn damaged(files: &[Damaged]) -> Vec<Value> {
    files
        .iter()
        .map(|bad| json!({ "file": bad.file, "reason": bad.reason }))
        .collect()
}

/// Asks for a line at a terminal.
///
/// # Errors
/// [`Failure::NotConfirmed`] where there is no line any more.
pub(crate) fn ask_line(question: &str) -> Result<String, Failure> {
    eprint!("{question}");
    let mut line = String::new();
    match io::stdin().read_line(&mut line) {
        Ok(read) if read > 0 => Ok(line.trim().to_owned()),
        _ => Err(Failure::NotConfirmed("nothing was typed")),
    }
}

/// Asks for a secret to be typed where nobody sees it. `what` it is, and the option that names a
/// file instead, are for those who cannot be asked.
///
/// # Errors
/// [`Failure::Usage`] where nobody can be asked.
pub(crate) fn ask_hidden(what: &str, option: &str, question: &str) -> Result<Secret, Failure> {
    strongroom_console::ask_hidden(question).ok_or_else(|| {
        Failure::Usage(format!(
            "{what} is to be typed, and nobody can be asked here; name a file with {option}"
        ))
    })
}

/// Asks for a word to be typed.
///
/// # Errors
/// [`Failure::NotConfirmed`] if another was, [`Failure::Usage`] where nobody can be asked.
pub(crate) fn confirm(question: &str, expected: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "nobody can be asked here; repeat with --yes".to_owned(),
        ));
    }
    eprint!("{question} ");
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    if read.is_ok() && answer.trim() == expected {
        Ok(())
    } else {
        Err(Failure::NotConfirmed("it was not confirmed"))
    }
}
