//! `strongroom enrol`: what TrueNAS has written into its database since the migration, moved in the
//! migration's own order of work. A unit runs it, when the database changes and every half minute, so
//! where nothing is new it asks no TPM and writes nothing.
//!
//! The middleware runs meanwhile. Its own `datastore.update` cannot say "only if the value is still
//! this", and what it wrote between our reading and our clearing would be lost. So values are cleared in
//! SQLite, in one transaction that holds the database's lock, each only if it still is what was sealed.
//! The middleware reads dataset keys from the database each time; what it needs in its memory it is given
//! before, and a standby controller is sent the database afterwards.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use strongroom::Vault;
use strongroom::error::Error;

use super::Place;
use super::hand_over::{self, Which};
use super::migrate::open;
use super::migrate::run::{Asked, Done, migrate, report};
use crate::cli::{Class, Enrol};
use crate::failure::Failure;
use crate::migration::journal::Journal;
use crate::migration::plan::{Plan, Wanted};
use crate::migration::run::Outcome;
use crate::migration::zfs_check;
use crate::notes::{NotHandedOver, Note};
use crate::output::{self, say};
use crate::truenas::middleware::{MemoryKeys, Middleware};

pub(super) fn run(place: &Place, args: &Enrol) -> Result<(), Failure> {
    let vault = place.vault()?;
    let Some(journal) = Journal::read(&vault)?.filter(|journal| !journal.watched().is_empty())
    else {
        output::show(place.json, &json!({ "watched": [], "items": [] }), || {
            say!("Nothing is watched: nothing was migrated, or all of it was given back.");
        });
        return Ok(());
    };
    if !args.dry_run {
        if let Err(failure) = catch_up(place, &vault, args) {
            log::warn!("{failure}");
        }
    }
    let asked = asked(args, &journal);
    let plan = peek(&vault, &asked)?;
    if args.dry_run {
        report(place, &asked, true, &Done::would_be(plan));
        return Ok(());
    }
    if plan.items.is_empty() && !journal.is_unfinished() {
        output::show(
            place.json,
            &json!({ "watched": journal.watched(), "items": [] }),
            || {
                say!("Nothing is new.");
            },
        );
        return Ok(());
    }
    if !plan.items.is_empty() {
        // What ZFS says is no key of its dataset stays, and is no reason to unlock the vault for.
        let checked = zfs_check::check(&plan);
        if checked.wrong.len() == plan.items.len() {
            for (place, reason) in &checked.wrong {
                log::error!("{}: {reason}", plan.items[*place].name);
            }
            return Err(Failure::Partial {
                failed: plan.items.len(),
                total: plan.items.len(),
            });
        }
    }
    drop(plan);
    let mut middleware = Answering::new(place, &args.socket);
    let done = migrate(
        place,
        &asked,
        |vault| still_watched(vault, &asked.wanted),
        |_| Ok(()),
        |plan, outcomes| {
            middleware.remember(keys(plan, outcomes));
        },
    )?;
    let moved = |outcome: &Outcome| matches!(outcome, Outcome::Moved { .. });
    if done.outcomes.iter().any(moved) {
        middleware.tell_standby();
    }
    report(place, &asked, false, &done);
    done.failure()
}

fn asked(args: &Enrol, journal: &Journal) -> Asked {
    let or = |given: &Option<PathBuf>, noted: &PathBuf| given.clone().unwrap_or(noted.clone());
    Asked {
        database: or(&args.database, &journal.database),
        pwenc_secret: or(&args.pwenc_secret, &journal.pwenc_secret),
        backup: Some(or(&args.backup, &journal.backup)),
        backup_on_same_pool: journal.backup_on_same_pool,
        wanted: Wanted {
            classes: journal.watched(),
            ui_certificate: journal.ui_certificate,
        },
    }
}

/// Gives the middleware what it could not be given when it was cleared from the database, because it did not
/// answer: until then, the key is neither there nor in its memory.
fn catch_up(place: &Place, vault: &Vault, args: &Enrol) -> Result<(), Failure> {
    // One that is not running is handed all of them when it is started.
    let Some(owed) = NotHandedOver::read(&place.dir).filter(|_| args.socket.exists()) else {
        return Ok(());
    };
    // Or another one might note more meanwhile.
    let _lock = vault.lock()?;
    let mut middleware = Middleware::connect(&args.socket, PATIENCE)?;
    let which = Which::These(&owed.datasets);
    let done = hand_over::give(place, vault, &vault.list()?, &mut middleware, which)?;
    match done.stopped {
        Some(error) => Err(error.into()),
        None => Ok(NotHandedOver::remove(&place.dir)?),
    }
}

/// What is watched now that nobody else writes the vault: a rollback may have been at work until then, and
/// what it has given back stays.
fn still_watched(vault: &Vault, wanted: &Wanted) -> Result<Wanted, Failure> {
    let watched = Journal::read(vault)?.map_or_else(Vec::new, |journal| journal.watched());
    let mut wanted = wanted.clone();
    wanted.classes.retain(|class| watched.contains(class));
    Ok(wanted)
}

/// What is new, without a trace that somebody looked: a file that changed would have this run again.
fn peek(vault: &Vault, asked: &Asked) -> Result<Plan, Error> {
    let (database, secret) = open(&asked.database, &asked.pwenc_secret)?;
    database.leave_as_it_is()?;
    let known = vault.list()?.objects;
    Plan::read(&database, &secret, &asked.wanted, &known, Some(vault))
}

/// The dataset keys that are about to be cleared, as the middleware has them.
fn keys(plan: &Plan, outcomes: &[Outcome]) -> MemoryKeys {
    plan.of(Class::Datasets)
        .filter(|(place, _)| matches!(outcomes[*place], Outcome::Moved { .. }))
        .map(|(_, item)| {
            let key = String::from_utf8_lossy(item.payload.expose()).into_owned();
            (item.name.clone(), key)
        })
        .collect()
}

/// The middleware, where it answers: enrolling does not depend on it. One that is started later is
/// handed the keys then (strongroom-hand-over.service); one that is too slow, by the next run.
struct Answering<'a> {
    middleware: Option<Middleware>,
    /// Where it is noted what it was not given.
    dir: &'a Path,
    is_running: bool,
}

impl<'a> Answering<'a> {
    fn new(place: &'a Place, socket: &Path) -> Self {
        let connected = Middleware::connect(socket, PATIENCE);
        Self {
            middleware: connected.inspect_err(|error| log::warn!("{error}")).ok(),
            dir: &place.dir,
            is_running: socket.exists(),
        }
    }

    fn remember(&mut self, keys: MemoryKeys) {
        if keys.is_empty() {
            return;
        }
        let datasets: Vec<String> = keys.keys().cloned().collect();
        self.ask(|middleware| middleware.change_memory_keys(|now| now.extend(keys)));
        if self.middleware.is_some() || !self.is_running {
            return;
        }
        let mut owed = NotHandedOver::read(self.dir).unwrap_or_default();
        owed.datasets.extend(datasets);
        if let Err(error) = owed.write(self.dir) {
            log::warn!("not noted: {error}");
        }
    }

    fn tell_standby(&mut self) {
        self.ask(|middleware| middleware.send_database_to_standby().map(|_| ()));
    }

    fn ask(&mut self, ask: impl FnOnce(&mut Middleware) -> Result<(), Error>) {
        if let Some(Err(error)) = self.middleware.as_mut().map(ask) {
            log::warn!("{error}");
            // What did not answer once is not waited for again.
            self.middleware = None;
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(3);
