//! Whether ZFS takes a key for its dataset's, where the pool is there. `zfs-keyprovider check` asks it:
//! nothing else here knows ZFS.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use strongroom::Secret;

use super::plan::Plan;
use crate::cli::Class;

/// What ZFS says of the dataset keys of a plan.
#[derive(Default)]
pub(crate) struct Checked {
    /// How many it takes.
    pub(crate) right: usize,
    /// How many it was not asked about: no ZFS here, or no such dataset.
    pub(crate) unknown: usize,
    /// By place in the plan, why a key is not its dataset's.
    pub(crate) wrong: BTreeMap<usize, String>,
}

/// Asks for every dataset key of a plan.
pub(crate) fn check(plan: &Plan) -> Checked {
    let mut checked = Checked::default();
    let mut program = program();
    for (place, item) in plan.of(Class::Datasets) {
        let Some(found) = &program else {
            checked.unknown += 1;
            continue;
        };
        match ask(found, &item.name, &item.payload) {
            Ok(Answer::Right) => checked.right += 1,
            Ok(Answer::Wrong(reason)) => {
                checked.wrong.insert(place, reason);
            }
            Ok(Answer::NoDataset) => checked.unknown += 1,
            Err(error) => {
                log::info!("ZFS is not asked about keys: {error}");
                program = None;
                checked.unknown += 1;
            }
        }
    }
    checked
}

enum Answer {
    Right,
    Wrong(String),
    NoDataset,
}

/// The program beside ours.
fn program() -> Option<PathBuf> {
    let ours = std::env::current_exe().ok()?;
    Some(ours.with_file_name("zfs-keyprovider")).filter(|program| program.is_file())
}

fn ask(program: &PathBuf, dataset: &str, key: &Secret) -> std::io::Result<Answer> {
    let mut child = Command::new(program)
        .args(["check", "--", dataset])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdin = child.stdin.take();
    // Where it ends before it has read all, its exit code says why.
    let _ = stdin.map(|mut stdin| stdin.write_all(key.expose()));
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches("zfs-keyprovider: ");
    Ok(match output.status.code() {
        Some(0) => Answer::Right,
        Some(6) => Answer::NoDataset,
        Some(7) => Answer::Wrong(said.to_owned()),
        _ => return Err(std::io::Error::other(said.to_owned())),
    })
}
