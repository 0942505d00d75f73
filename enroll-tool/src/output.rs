//! What people see: tables, progress bars, and questions.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};
use strongroom::Damaged;

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
    for text in lines(&bare(head, rows)) {
        line(&text);
    }
}

/// The same as lines of at most so many characters, for what is read and not cut.
pub(crate) fn laid_out<const N: usize>(
    width: u16,
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Vec<String> {
    let mut table = bare(head, rows);
    table
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width);
    lines(&table)
}

fn bare<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn lines(table: &Table) -> Vec<String> {
    table
        .to_string()
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
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
