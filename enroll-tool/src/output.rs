//! What people see besides what all programs show: damaged files, and questions.

use std::io::{self, IsTerminal};

use serde_json::{Value, json};
use strongroom::Damaged;
pub(crate) use strongroom_console::{laid_out, progress, say, show, table};

use crate::failure::Failure;

/// Damaged files, for a report in JSON.
pub(crate) fn damaged(files: &[Damaged]) -> Vec<Value> {
    files
        .iter()
        .map(|bad| json!({ "file": bad.file, "reason": bad.reason }))
        .collect()
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
