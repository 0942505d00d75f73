//! What people see: tables, progress bars, and questions.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};
use strongroom::{Damaged, Secret};

use crate::failure::Failure;

/// Prints a line on standard output. What nobody reads any more is no reason to fail: the work that
/// is reported has been done.
pub(crate) fn line(text: &str) {
    if let Err(error) = writeln!(io::stdout(), "{text}") {
        log::info!("standard output: {error}");
    }
}

/// `println!` that does not panic where standard output is closed or full.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::line(&format!($($text)*)) };
}
pub(crate) use say;

/// Prints a value as JSON, or what `people` prints.
pub(crate) fn show(json: bool, value: &impl Serialize, people: impl FnOnce()) {
    if json {
        match serde_json::to_string_pretty(value) {
            Ok(text) => say!("{text}"),
            Err(error) => log::error!("the report cannot be written as JSON: {error}"),
        }
    } else {
        people();
    }
}

/// Says what failed on standard error, and as JSON on standard output where nothing was reported
/// yet; gives the exit code.
pub(crate) fn failed(json: bool, failure: &Failure) -> ExitCode {
    let code = failure.exit_code();
    if json && !failure.is_reported() {
        let report = json!({ "error": failure.to_string(), "exit": code });
        line(&format!("{report:#}"));
    }
    eprintln!("strongroom: {failure}");
    ExitCode::from(code)
}

/// Damaged files, for a report in JSON.
pub(crate) fn damaged(files: &[Damaged]) -> Vec<Value> {
    files
        .iter()
        .map(|bad| json!({ "file": bad.file, "reason": bad.reason }))
        .collect()
}

/// A table without lines, for people and for `cut` alike.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for line in table.to_string().lines() {
        self::line(line.trim_end());
    }
}

/// A progress bar on standard error; nothing where that is no terminal.
pub(crate) fn progress(what: &'static str, total: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:>12} [{bar:32}] {pos}/{len} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    ProgressBar::new(total as u64)
        .with_style(style)
        .with_message(what)
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
    let nobody = || {
        Failure::Usage(format!(
            "{what} is to be typed, and nobody can be asked here; name a file with {option}"
        ))
    };
    if !io::stdin().is_terminal() {
        return Err(nobody());
    }
    let typed = rpassword::prompt_password(format!("{question}: ")).map_err(|_| nobody())?;
    Ok(Secret::take(typed.into_bytes()))
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
