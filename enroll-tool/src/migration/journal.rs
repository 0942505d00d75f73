//! The journal of a migration, in the vault's folder: what was asked for, how far it came, and what
//! became of each value. `migrate --resume` takes it from there, and `status` tells of one that was
//! cut short.
//!
//! It holds no secret and no ciphertext, and nothing is believed because it says so: what is still to
//! be done is in the database, and what has been done is in the vault.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use strongroom::error::Error;
use strongroom::object::ObjectId;
use strongroom::{Result, Vault};

use super::plan::{Item, Plan, Wanted};
use super::run::Outcome;
use crate::cli::Class;

/// The number of the format that is written, and the newest that is read.
const FORMAT: u64 = 1;

/// A migration, as asked for and as far as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Journal {
    format: u64,
    pub(crate) database: PathBuf,
    pub(crate) pwenc_secret: PathBuf,
    pub(crate) backup: PathBuf,
    #[serde(default)]
    pub(crate) backup_on_same_pool: bool,
    pub(crate) only: Vec<Class>,
    pub(crate) ui_certificate: bool,
    /// The classes that are to stay out of the database: those of all migrations until they are given
    /// back. Not noted before there was a watch.
    #[serde(default)]
    watched: Option<Vec<Class>>,
    /// Seconds since 1970.
    pub(crate) begun: u64,
    pub(crate) stage: Stage,
    pub(crate) values: Vec<Entry>,
}

/// How far a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// Secrets are sealed; the database is as it was.
    Sealing,
    /// All is sealed, and copied off the boot disk; the database is being cleared.
    Clearing,
    /// The database is cleared; old copies may be left in its files.
    Scrubbing,
    /// Nothing is left to do.
    Done,
}

/// What became of a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Entry {
    pub(crate) class: Class,
    pub(crate) table: String,
    pub(crate) row: String,
    pub(crate) column: String,
    pub(crate) name: String,
    pub(crate) object: Option<ObjectId>,
    pub(crate) state: State,
}

/// Where a value's secret is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// In the database alone.
    Left,
    /// In both.
    Sealed,
    /// In the vault alone.
    Cleared,
    /// In the vault; the database has another by now.
    Changed,
}

impl Stage {
    /// In an admin's words.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Sealing => "sealing; the database is as it was",
            Self::Clearing => "clearing the database; all is sealed and copied",
            Self::Scrubbing => "scrubbing the database's files; it is cleared",
            Self::Done => "done",
        }
    }
}

impl Journal {
    /// A migration that begins now, or goes on where `former` was cut short.
    pub(crate) fn begin(
        former: Option<Self>,
        database: &Path,
        pwenc_secret: &Path,
        backup: &Path,
        backup_on_same_pool: bool,
        wanted: &Wanted,
    ) -> Self {
        let mut watched = former.as_ref().map(Self::watched).unwrap_or_default();
        watched.extend(
            wanted
                .classes
                .iter()
                .filter(|class| !watched.contains(class))
                .copied()
                .collect::<Vec<_>>(),
        );
        // Once the web interface's own key has moved, its successor does too.
        let ui_certificate =
            wanted.ui_certificate || former.as_ref().is_some_and(|it| it.ui_certificate);
        // Whoever resumes it may stand in another folder.
        let absolute = |file: &Path| std::path::absolute(file).unwrap_or(file.to_owned());
        let database = absolute(database);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let former = former.filter(|former| former.is_unfinished() && former.database == database);
        Self {
            format: FORMAT,
            pwenc_secret: absolute(pwenc_secret),
            backup: absolute(backup),
            backup_on_same_pool,
            only: wanted.classes.clone(),
            ui_certificate,
            watched: Some(watched),
            begun: (former.as_ref()).map_or(now.map_or(0, |now| now.as_secs()), |it| it.begun),
            stage: Stage::Sealing,
            values: former.map(|former| former.values).unwrap_or_default(),
            database,
        }
    }

    /// The journal of the last migration; `None` where there was none.
    ///
    /// # Errors
    /// [`Error::Input`] for one that is damaged, or of a newer format.
    pub(crate) fn read(vault: &Vault) -> Result<Option<Self>> {
        let Some(text) = vault.read_journal()? else {
            return Ok(None);
        };
        let bad = |reason: String| Error::input("the journal of the last migration", reason);
        let journal: Self = serde_json::from_slice(&text).map_err(|error| {
            bad(format!(
                "{error}; it is not needed: name --database, --pwenc-secret and --backup instead"
            ))
        })?;
        if journal.format > FORMAT {
            return Err(bad(format!(
                "it is of format {}; this program reads up to {FORMAT}",
                journal.format
            )));
        }
        Ok(Some(journal))
    }

    /// The classes that are to stay out of the database.
    pub(crate) fn watched(&self) -> Vec<Class> {
        self.watched.clone().unwrap_or_else(|| self.only.clone())
    }

    /// Whether everything that is wanted is watched already.
    pub(crate) fn watches_all(&self, wanted: &Wanted) -> bool {
        let watched = self.watched();
        wanted.classes.iter().all(|class| watched.contains(class))
    }

    /// These classes are given back, and stay in the database from now on. Whether that changes
    /// anything.
    pub(crate) fn stop_watching(&mut self, classes: &[Class]) -> bool {
        let before = self.watched();
        let after: Vec<_> = (before.iter().copied())
            .filter(|class| !classes.contains(class))
            .collect();
        let changes = after != before;
        self.watched = Some(after);
        changes
    }

    /// Whether there is something left to do.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.stage != Stage::Done
    }

    /// Notes how far it is, on disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn note(
        &mut self,
        vault: &Vault,
        stage: Stage,
        plan: &Plan,
        outcomes: &[Outcome],
        cleared: impl Fn(&Item) -> bool,
    ) -> Result<()> {
        self.stage = stage;
        for (item, outcome) in plan.items.iter().zip(outcomes) {
            let entry = Entry {
                class: item.class,
                table: item.cell.table.to_owned(),
                row: item.cell.row.clone(),
                column: item.cell.column.to_owned(),
                name: item.name.clone(),
                object: outcome.id(),
                state: match outcome {
                    Outcome::Moved { .. } if cleared(item) => State::Cleared,
                    Outcome::Moved { .. } => State::Sealed,
                    Outcome::Changed { .. } => State::Changed,
                    Outcome::Failed { .. } => State::Left,
                },
            };
            let same = self.values.iter_mut().find(|former| {
                (&former.table, &former.row, &former.column)
                    == (&entry.table, &entry.row, &entry.column)
            });
            match same {
                Some(former) => *former = entry,
                None => self.values.push(entry),
            }
        }
        self.write(vault)
    }

    /// Writes it, durably.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn write(&self, vault: &Vault) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self).expect("a journal is plain data");
        text.push(b'\n');
        vault.write_journal(&text)
    }
}
