//! Ciphertext in bytes that belong to no row: free pages, a write-ahead log, a journal.
//!
//! In a file of SQLite's a column's text stands between other columns, with nothing that says where
//! it begins, and a long one is cut into pages. So every place in a run of base64 is tried as a
//! beginning, with every secret; the beginning alone can be read, and is enough.

use std::collections::{BTreeMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::keys::Key;
use super::sorting::{self, Sort};
use crate::truenas::pwenc::Probe;

/// How many characters of base64 the part of a ciphertext has that is looked at first.
const HEAD: usize = Probe::LEN / 3 * 4;

/// How much of a plaintext is read to say what it is.
const READ: usize = 3 * 1024;

/// What tells ciphertexts apart: how each begins, its nonce first.
pub(crate) type Beginning = [u8; HEAD];

/// How a ciphertext begins, if it is long enough to be found.
pub(crate) fn beginning(ciphertext: &str) -> Option<Beginning> {
    ciphertext.as_bytes().get(..HEAD)?.try_into().ok()
}

/// What the secrets open in `bytes` besides the ciphertexts that are known: by secret and sort, how many.
pub(crate) fn find(
    bytes: &[u8],
    known: &HashSet<Beginning>,
    keys: &[Key],
) -> BTreeMap<(usize, Sort), usize> {
    let mut seen = HashSet::new();
    let mut found = BTreeMap::new();
    for run in bytes
        .split(|byte| !is_base64(*byte))
        .filter(|run| run.len() >= HEAD)
    {
        // The four ways to read it, for a ciphertext begins anywhere.
        for phase in 0..4 {
            let whole = (run.len() - phase) / 4 * 4;
            let Ok(decoded) = STANDARD_NO_PAD.decode(&run[phase..phase + whole]) else {
                continue;
            };
            for (at, window) in decoded.windows(Probe::LEN).enumerate().step_by(3) {
                let head: &[u8; Probe::LEN] = window.try_into().expect("the window is that long");
                let opener = keys
                    .iter()
                    .position(|key| key.probe.first_block(head, is_printable));
                let Some(key) = opener else { continue };
                let begins = phase + at / 3 * 4;
                let beginning = &run[begins..begins + HEAD];
                let beginning: Beginning = beginning.try_into().expect("the slice is that long");
                if known.contains(&beginning) || !seen.insert(beginning) {
                    continue;
                }
                let rest = &decoded[at..decoded.len().min(at + READ)];
                let text = keys[key].secret.read_bytes(rest);
                if let Some(sort) = text.and_then(|text| sorting::sort_of(text.expose())) {
                    *found.entry((key, sort)).or_insert(0) += 1;
                }
            }
        }
    }
    found
}

fn is_printable(block: &[u8; 16]) -> bool {
    block
        .iter()
        .all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\r'))
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')
}
