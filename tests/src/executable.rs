//! Programs and scripts that a test puts into a folder and starts.
//!
//! Another program writes them. The tests of a file run in threads of one process: a file that this
//! process has open to write is open in whatever another thread starts in that instant too, for as long
//! as that takes to become another program, and is "busy" for who would run it (ETXTBSY).

use std::path::Path;

use crate::run::Run;

/// Writes a script that everybody can read and run.
pub fn write(file: &Path, script: impl Into<Vec<u8>>) {
    install().arg("/dev/stdin").arg(file).stdin(script).ok();
}

/// Copies a program, module or script, for everybody to read and run.
pub fn copy(from: &Path, to: &Path) {
    install().arg(from).arg(to).ok();
}

fn install() -> Run {
    Run::new("install").args(["--mode", "755", "--"])
}
