//! What a file of SQLite's holds that a secret opens: in its rows, and in bytes that belong to none.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use sha2::{Digest, Sha256};

use super::keys::Keys;
use super::leftovers::{self, Beginning};
use super::opening::{self, Place};
use super::sorting::{self, CHECK_VALUE, CREDENTIALS, DATASETS, Sort};
use crate::cli::Class;
use crate::truenas::still::{self, StillDatabase, Value};

/// The longest database that is read, in bytes; TrueNAS's have a few million.
pub(crate) const LONGEST: u64 = 128 << 20;

/// What is in a database, or in what SQLite keeps beside one.
#[derive(Default)]
pub(crate) struct Database {
    /// Which of the secrets is its own, by its check value.
    pub(crate) own: Option<usize>,
    /// Secrets in rows that a secret opens.
    pub(crate) opened: Vec<Opened>,
    /// Values in rows that none opens.
    pub(crate) closed: usize,
    /// Which datasets' keys are opened.
    pub(crate) datasets: BTreeSet<String>,
    /// Which cloud credentials are.
    pub(crate) credentials: BTreeSet<String>,
    /// Old ciphertext that belongs to no row, and that a secret opens.
    pub(crate) leftovers: BTreeMap<(usize, Sort), usize>,
    /// Why its rows could not be read; then all that it holds is among the leftovers.
    pub(crate) unreadable: Option<String>,
    /// Whether it has rows: a log or a journal has none.
    pub(crate) has_rows: bool,
}

/// Secrets of one column that one secret opens.
pub(crate) struct Opened {
    pub(crate) what: &'static str,
    pub(crate) column: String,
    pub(crate) class: Option<Class>,
    pub(crate) key: usize,
    pub(crate) count: usize,
}

impl Database {
    /// Which secrets opened anything.
    pub(crate) fn openers(&self) -> BTreeSet<usize> {
        let leftovers = self.leftovers.keys().map(|(key, _)| *key);
        self.opened
            .iter()
            .map(|opened| opened.key)
            .chain(leftovers)
            .collect()
    }
}

/// Databases that were looked at. Snapshots hold the same one over and over.
#[derive(Default)]
pub(crate) struct Examined {
    by_digest: HashMap<[u8; 32], Option<Rc<Database>>>,
}

impl Examined {
    /// Looks at a file; `None` if it has nothing of TrueNAS's, or is gone.
    ///
    /// # Errors
    /// In words, why it could not be read.
    pub(crate) fn file(
        &mut self,
        place: &Place,
        keys: &mut Keys,
    ) -> Result<Option<Rc<Database>>, String> {
        let read = |path: &Path| -> io::Result<Option<Vec<u8>>> {
            let Some(file) = opening::open(path)? else {
                return Ok(None);
            };
            // A sparse one pretends to be long, and is not read to see that.
            let len = file.metadata()?.len();
            opening::check_len(len, LONGEST)?;
            opening::read_whole(file, LONGEST).map(Some)
        };
        let bytes = read(&place.path).map_err(|error| error.to_string())?;
        let Some(bytes) = bytes else { return Ok(None) };
        // What is live in the database is no leftover in its log.
        let beside = database_beside(place).and_then(|path| read(&path).ok().flatten());
        Ok(self.bytes(&bytes, beside.as_deref(), keys))
    }

    /// Looks at a database's bytes. `beside`: the database that these are the log or journal of.
    pub(crate) fn bytes(
        &mut self,
        bytes: &[u8],
        beside: Option<&[u8]>,
        keys: &mut Keys,
    ) -> Option<Rc<Database>> {
        let mut digest = Sha256::new_with_prefix(bytes);
        digest.update(beside.unwrap_or_default());
        let digest = digest.finalize().into();
        if let Some(known) = self.by_digest.get(&digest) {
            return known.clone();
        }
        let found = examine(bytes, beside, keys).map(Rc::new);
        for key in found.iter().flat_map(|found| found.openers()) {
            keys.note_opened(key);
        }
        self.by_digest.insert(digest, found.clone());
        found
    }
}

fn database_beside(place: &Place) -> Option<PathBuf> {
    let name = place.path.file_name()?.to_str()?;
    let name = name
        .strip_suffix("-wal")
        .or_else(|| name.strip_suffix("-journal"))?;
    Some(place.path.with_file_name(name))
}

fn examine(bytes: &[u8], beside: Option<&[u8]>, keys: &mut Keys) -> Option<Database> {
    let has_rows = bytes.starts_with(still::MAGIC);
    let mut database = Database {
        has_rows,
        ..Database::default()
    };
    let mut known = HashSet::new();
    if has_rows {
        if !sorting::contains(bytes, DATASETS.as_bytes()) {
            return None;
        }
        match StillDatabase::of(bytes).and_then(|still| still.values()) {
            Ok(values) => database.take_rows(&values, keys, &mut known),
            Err(reason) => database.unreadable = Some(reason),
        }
    } else if let Some(values) =
        beside.and_then(|bytes| StillDatabase::of(bytes).ok()?.values().ok())
    {
        known.extend(
            values
                .iter()
                .filter_map(|it| leftovers::beginning(&it.ciphertext)),
        );
    }
    database.leftovers = leftovers::find(bytes, &known, keys.all());
    Some(database)
}

impl Database {
    fn take_rows(&mut self, values: &[Value], keys: &mut Keys, known: &mut HashSet<Beginning>) {
        known.extend(
            values
                .iter()
                .filter_map(|it| leftovers::beginning(&it.ciphertext)),
        );
        let is_check = |value: &&Value| value.column.name == "stg_pwenc_check";
        self.own = values.iter().find(is_check).and_then(|check| {
            keys.find(|secret| {
                secret
                    .decrypt(&check.ciphertext)
                    .is_ok_and(|text| text.same_as(CHECK_VALUE))
            })
        });
        let mut counts: BTreeMap<(&str, &str, usize), Opened> = BTreeMap::new();
        for value in values.iter().filter(|value| !is_check(value)) {
            match self.opens(value, keys) {
                Opens::Secret(key) => {
                    let column = value.column;
                    counts
                        .entry((column.table, column.name, key))
                        .or_insert_with(|| Opened {
                            what: column.what,
                            column: format!("{}.{}", column.table, column.name),
                            class: column.class,
                            key,
                            count: 0,
                        })
                        .count += 1;
                    let names = match column.table {
                        DATASETS => &mut self.datasets,
                        CREDENTIALS => &mut self.credentials,
                        _ => continue,
                    };
                    names.extend(value.name.clone());
                }
                Opens::Nothing => {}
                Opens::Not => self.closed += 1,
            }
        }
        self.opened = counts.into_values().collect();
    }

    fn opens(&self, value: &Value, keys: &Keys) -> Opens {
        let mut opens = Opens::Not;
        let all = keys.all().iter().enumerate();
        // Its own secret first: what that opens, it opens for certain.
        let (own, others): (Vec<_>, Vec<_>) = all.partition(|(key, _)| Some(*key) == self.own);
        for (key, it) in own.into_iter().chain(others) {
            let is_own = Some(key) == self.own;
            let Ok(text) = it.secret.decrypt(&value.ciphertext) else {
                continue;
            };
            if sorting::is_secret(value, &text, is_own) {
                return Opens::Secret(key);
            }
            if is_own {
                opens = Opens::Nothing;
            }
        }
        opens
    }
}

/// What comes of trying all secrets at a value.
enum Opens {
    /// A secret, by this one.
    Secret(usize),
    /// What holds no secret, or not any more.
    Nothing,
    /// None of them opens it.
    Not,
}
