//! What the command-line programs print: reports as tables for people or as JSON for programs,
//! failures, and progress bars; and what they ask for at a terminal.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use strongroom::Secret;

/// `println!` that does not panic where standard output is closed or full.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::line(&format!($($text)*)) };
}

/// Prints a line on standard output. What nobody reads any more is no reason to fail: the work that
/// is reported has been done.
pub fn line(text: &str) {
    if let Err(error) = writeln!(io::stdout(), "{text}") {
        log::info!("standard output: {error}");
    }
}

/// Prints a value as JSON, or what `people` prints.
pub fn show(json: bool, value: &impl Serialize, people: impl FnOnce()) {
    if json {
        match serde_json::to_string_pretty(value) {
            Ok(text) => line(&text),
            Err(error) => log::error!("the report cannot be written as JSON: {error}"),
        }
    } else {
        people();
    }
}

/// Says on standard error why a program failed, and as JSON on standard output where that is
/// wanted, there with what is known of a refusal of the policy.
pub fn failed(
    program: &str,
    json: bool,
    failure: &impl Display,
    refusal: Option<&impl Serialize>,
    code: u8,
) -> ExitCode {
    if json {
        let mut report = json!({ "error": failure.to_string(), "exit": code });
        if let Some(refusal) = refusal {
            report["refusal"] = json!(refusal);
        }
        line(&format!("{report:#}"));
    }
    eprintln!("{program}: {failure}");
    ExitCode::from(code)
}

/// Asks for a secret to be typed at the terminal, where nobody sees it; `None` where nobody is there.
pub fn ask_hidden(question: &str) -> Option<Secret> {
    if !io::stdin().is_terminal() {
        return None;
    }
    let typed = rpassword::prompt_password(format!("{question}: ")).ok()?;
    Some(Secret::take(typed.into_bytes()))
}

/// A table without lines, for people and for `cut` alike.
pub fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    for text in lines(&bare(head, rows)) {
        line(&text);
    }
}

/// The same as lines of at most so many characters, for what is read and not cut.
pub fn laid_out<const N: usize>(
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
pub fn progress(what: &'static str, total: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:>12} [{bar:32}] {pos}/{len} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    ProgressBar::new(total as u64)
        .with_style(style)
        .with_message(what)
}
