//! `strongroom migrate`: seals, copies, and only then clears.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use strongroom::error::Error;
use strongroom::object::Metadata;
use strongroom::{Unlocked, Vault};

use super::super::{Place, backup};
use super::{check_unused, open};
use crate::cli::{Class, MigrateRun};
use crate::disk;
use crate::failure::Failure;
use crate::migration::classes;
use crate::migration::journal::{Journal, Stage};
use crate::migration::plan::{Left, Plan, Wanted};
use crate::migration::run::{self, Outcome};
use crate::migration::zfs_check;
use crate::output::{self, say};
use crate::truenas::database::Database;
use crate::truenas::pwenc::PwencSecret;

/// How often values that were edited meanwhile are read and sealed anew, before it is left to the
/// next run.
const ROUNDS: usize = 4;

pub(super) fn run(place: &Place, args: &MigrateRun) -> Result<(), Failure> {
    let asked = Asked::new(place, args)?;
    if args.dry_run {
        let (database, secret) = open(&asked.database, &asked.pwenc_secret)?;
        database.leave_as_it_is()?;
        let vault = place.vault()?;
        let known = vault.list()?.objects;
        let plan = Plan::read(&database, &secret, &asked.wanted, &known, Some(&vault))?;
        report(place, &asked, true, &Done::would_be(plan));
        return Ok(());
    }
    check_unused(&asked.database, args.while_in_use)?;
    let done = migrate(
        place,
        &asked,
        |_| Ok(asked.wanted.clone()),
        |plan| {
            if args.yes {
                return Ok(());
            }
            let question = format!(
                "{} secrets will be sealed to the TPM and then cleared from {}. Type yes to go on:",
                plan.items.len(),
                asked.database.display()
            );
            output::confirm(&question, "yes")
        },
        |_, _| {},
    )?;
    report(place, &asked, false, &done);
    done.failure()
}

/// Moves what is asked for, in the one order that loses nothing. `still_wanted` says what that is by the
/// time that nobody else writes the vault; `confirm` is asked when it is known which values that means;
/// `before_clearing` is told of each round of secrets that are sealed, proven and copied,
/// before they are cleared.
pub(in crate::commands) fn migrate(
    place: &Place,
    asked: &Asked,
    still_wanted: impl FnOnce(&Vault) -> Result<Wanted, Failure>,
    confirm: impl FnOnce(&Plan) -> Result<(), Failure>,
    mut before_clearing: impl FnMut(&Plan, &[Outcome]),
) -> Result<Done, Failure> {
    let (mut database, secret) = open(&asked.database, &asked.pwenc_secret)?;
    let Some(backup_file) = &asked.backup else {
        return Err(Failure::Usage("--backup FILE is needed".to_owned()));
    };
    let backup_file = &Vault::backup_place(backup_file)?;
    check_backup_place(place, asked, backup_file)?;
    database.check_writable()?;
    let lock = place.vault()?.lock()?;
    // As it is now that nobody else writes.
    let vault = place.vault()?;
    let wanted = &still_wanted(&vault)?;
    if wanted.classes.is_empty() {
        return Ok(Done::would_be(Plan::default()));
    }
    let known = vault.list()?.objects;
    let plan = Plan::read(&database, &secret, wanted, &known, Some(&vault))?;
    confirm(&plan)?;
    let mut unlocked = vault.unlock(&place.tcti()?)?.holding(lock);
    unlocked.check_backup_file(backup_file)?;
    // One that cannot be read is not needed.
    let former = Journal::read(&vault).ok().flatten();
    // A run that finds nothing to do has nothing to note, unless one was cut short before, or more is
    // to be watched from now on.
    let noted = !plan.items.is_empty()
        || former
            .as_ref()
            .is_some_and(|former| former.is_unfinished() || !former.watches_all(wanted));
    let journal = noted.then(|| {
        Journal::begin(
            former,
            &asked.database,
            &asked.pwenc_secret,
            backup_file,
            asked.backup_on_same_pool,
            wanted,
        )
    });
    let mut migration = Migration {
        vault: &vault,
        unlocked: &mut unlocked,
        secret: &secret,
        backup: backup_file,
        journal,
        before_clearing: &mut before_clearing,
        locked: Duration::ZERO,
    };
    let mut done = migration.run(&mut database, wanted, plan, &known)?;
    migration.scrub(database, &mut done)?;
    Ok(done)
}

/// What is asked for, on the command line or by the journal of a run that was cut short.
pub(in crate::commands) struct Asked {
    pub(in crate::commands) database: PathBuf,
    pub(in crate::commands) pwenc_secret: PathBuf,
    pub(in crate::commands) backup: Option<PathBuf>,
    pub(in crate::commands) backup_on_same_pool: bool,
    pub(in crate::commands) wanted: Wanted,
}

impl Asked {
    fn new(place: &Place, args: &MigrateRun) -> Result<Self, Failure> {
        let journal = if args.resume {
            Journal::read(&place.vault()?)?.filter(Journal::is_unfinished)
        } else {
            None
        };
        let journal = journal.as_ref();
        let needed = |given: &Option<PathBuf>, noted: Option<&PathBuf>, option: &str| {
            given.clone().or(noted.cloned()).ok_or_else(|| {
                Failure::Usage(if args.resume {
                    format!("there is no unfinished migration to resume; {option} FILE is needed")
                } else {
                    format!("{option} FILE is needed")
                })
            })
        };
        let database = journal.map(|journal| &journal.database);
        let pwenc_secret = journal.map(|journal| &journal.pwenc_secret);
        let classes = match (&args.only, journal) {
            (Some(only), _) => only.clone(),
            (None, Some(journal)) => journal.only.clone(),
            (None, None) => MigrateRun::USUAL.to_vec(),
        };
        Ok(Self {
            database: needed(&args.database, database, "--database")?,
            pwenc_secret: needed(&args.pwenc_secret, pwenc_secret, "--pwenc-secret")?,
            backup: args
                .backup
                .clone()
                .or(journal.map(|journal| journal.backup.clone())),
            backup_on_same_pool: args.backup_on_same_pool,
            wanted: Wanted {
                classes,
                ui_certificate: args.ui_certificate
                    || journal.is_some_and(|journal| journal.ui_certificate),
            },
        })
    }
}

/// A migration that is under way.
struct Migration<'a> {
    vault: &'a Vault,
    unlocked: &'a mut Unlocked,
    secret: &'a PwencSecret,
    backup: &'a Path,
    /// Where there is something to note.
    journal: Option<Journal>,
    before_clearing: &'a mut dyn FnMut(&Plan, &[Outcome]),
    /// How long nobody else could write the database.
    locked: Duration,
}

impl Migration<'_> {
    /// Moves what the plan says; what was edited meanwhile is read and sealed anew.
    fn run(
        &mut self,
        database: &mut Database,
        wanted: &Wanted,
        first: Plan,
        known: &[Metadata],
    ) -> Result<Done, Failure> {
        let mut done = self.round(database, first, known)?;
        for _ in 1..ROUNDS {
            if !done.is_changed() {
                break;
            }
            let known = self.vault.list()?.objects;
            let plan = Plan::read(database, self.secret, wanted, &known, Some(self.vault))?;
            log::info!("{} values were edited meanwhile", plan.items.len());
            let again = self.round(database, plan, &known)?;
            done.take(again);
        }
        Ok(done)
    }

    fn round(
        &mut self,
        database: &mut Database,
        mut plan: Plan,
        known: &[Metadata],
    ) -> Result<Done, Failure> {
        let checked = zfs_check::check(&plan);
        let bar = output::progress("sealing", plan.items.len());
        // With the first secret that is sealed: by then it is known that the vault is the TPM's own.
        let mut begun = Ok(());
        let shared = classes::shared(database, self.secret)?;
        let progress = || {
            if let (0, Some(journal)) = (bar.position(), &self.journal) {
                begun = journal.write(self.vault);
            }
            bar.inc(1);
        };
        let sealed = run::seal(
            &mut plan,
            &checked.wrong,
            self.unlocked,
            known,
            &shared,
            progress,
        );
        bar.finish_and_clear();
        let mut outcomes = sealed?;
        begun?;
        self.note(Stage::Sealing, &plan, &outcomes, &[])?;
        run::check_backup(&self.unlocked.backup(self.backup)?, &outcomes)?;
        self.note(Stage::Clearing, &plan, &outcomes, &[])?;
        (self.before_clearing)(&plan, &outcomes);
        let mut cleared = Vec::new();
        let begun = Instant::now();
        run::clear(&plan, &mut outcomes, database, self.secret, |class| {
            cleared.push(class);
            Ok(())
        })?;
        self.locked += begun.elapsed();
        self.note(Stage::Scrubbing, &plan, &outcomes, &cleared)?;
        Ok(Done {
            checked_by_zfs: checked.right,
            locked: self.locked,
            plan,
            outcomes,
        })
    }

    fn scrub(&mut self, database: Database, done: &mut Done) -> Result<(), Failure> {
        let gone: Vec<_> = run::gone(&done.plan, &done.outcomes).collect();
        done.locked += database.scrub(&gone)?;
        match &mut self.journal {
            Some(journal) => {
                journal.stage = Stage::Done;
                Ok(journal.write(self.vault)?)
            }
            None => Ok(()),
        }
    }

    fn note(
        &mut self,
        stage: Stage,
        plan: &Plan,
        outcomes: &[Outcome],
        cleared: &[Class],
    ) -> Result<(), Failure> {
        match &mut self.journal {
            Some(journal) => Ok(journal.note(self.vault, stage, plan, outcomes, |item| {
                cleared.contains(&item.class)
            })?),
            None => Ok(()),
        }
    }
}

/// What a migration came to.
pub(in crate::commands) struct Done {
    pub(in crate::commands) plan: Plan,
    /// By place in the plan; none in a dry run.
    pub(in crate::commands) outcomes: Vec<Outcome>,
    checked_by_zfs: usize,
    locked: Duration,
}

impl Done {
    pub(in crate::commands) fn would_be(plan: Plan) -> Self {
        Self {
            plan,
            outcomes: Vec::new(),
            checked_by_zfs: 0,
            locked: Duration::ZERO,
        }
    }

    fn is_changed(&self) -> bool {
        self.outcomes
            .iter()
            .any(|outcome| matches!(outcome, Outcome::Changed { .. }))
    }

    /// Puts what a later round came to in the place of what was changed before it.
    fn take(&mut self, later: Self) {
        self.checked_by_zfs += later.checked_by_zfs;
        self.locked = later.locked;
        for (item, outcome) in later.plan.items.into_iter().zip(later.outcomes) {
            let place = self.plan.items.iter().position(|its| its.cell == item.cell);
            if let Some(place) = place {
                self.plan.items[place] = item;
                self.outcomes[place] = outcome;
            } else {
                self.plan.items.push(item);
                self.outcomes.push(outcome);
            }
        }
        // What was edited into something that is left.
        for left in later.plan.left {
            let place = self.plan.items.iter().position(|its| its.cell == left.cell);
            let changed =
                place.filter(|place| matches!(self.outcomes[*place], Outcome::Changed { .. }));
            if let Some(place) = changed {
                self.outcomes[place] = Outcome::Failed {
                    reason: left.reason,
                };
            }
        }
    }

    pub(in crate::commands) fn failure(&self) -> Result<(), Failure> {
        let left = self
            .outcomes
            .iter()
            .filter(|outcome| !matches!(outcome, Outcome::Moved { .. }))
            .count();
        let unknown = self.plan.left.iter().filter(|left| left.unknown_object);
        match left + unknown.count() + self.plan.unknown.len() {
            0 => Ok(()),
            failed => Err(Failure::Partial {
                failed,
                total: self.outcomes.len() + self.plan.left.len() + self.plan.unknown.len(),
            }),
        }
    }
}

/// Whether the backup can be written where it is meant to be, and is off the boot pool there.
fn check_backup_place(place: &Place, asked: &Asked, file: &Path) -> Result<(), Failure> {
    let refuse = |reason: String| {
        let what = format!("--backup {}", file.display());
        Failure::from(Error::input(what, reason))
    };
    match disk::same_pool(&place.dir, file) {
        Some(pool) if !asked.backup_on_same_pool => Err(refuse(format!(
            "it is on the pool {pool}, as the vault is, and a dead pool would take both; name a \
             file on another pool, or insist with --backup-on-same-pool"
        ))),
        _ => {
            backup::warn_of_same_disk(place, file);
            Ok(())
        }
    }
}

pub(in crate::commands) fn report(place: &Place, asked: &Asked, dry_run: bool, done: &Done) {
    let outcome = |item: usize| match done.outcomes.get(item) {
        None => "would be moved".to_owned(),
        Some(Outcome::Moved { before: true, .. }) => "moved (sealed by an earlier run)".to_owned(),
        Some(Outcome::Moved { .. }) => "moved".to_owned(),
        Some(Outcome::Changed { .. }) => {
            "sealed; its row changed meanwhile and was left: run again".to_owned()
        }
        Some(Outcome::Failed { reason }) => format!("left as it is: {reason}"),
    };
    let plan = &done.plan;
    let items: Vec<_> = plan
        .items
        .iter()
        .enumerate()
        .map(|(place, item)| {
            json!({
                "class": item.class,
                "table": item.cell.table,
                "row": row(&item.cell.row),
                "column": item.cell.column,
                "name": item.name,
                "id": done.outcomes.get(place).and_then(Outcome::id),
                "outcome": outcome(place),
            })
        })
        .collect();
    let value = json!({
        "dry-run": dry_run,
        "database": asked.database,
        "backup": asked.backup,
        "items": items,
        "left": plan.left.iter().map(left).collect::<Vec<_>>(),
        "unknown": plan.unknown,
        "checked-by-zfs": done.checked_by_zfs,
        "database-locked-ms": u64::try_from(done.locked.as_millis()).unwrap_or(u64::MAX),
    });
    output::show(place.json, &value, || {
        let moved_rows = plan.items.iter().enumerate().map(|(place, item)| {
            [
                item.class.singular().to_owned(),
                item.cell.row.clone(),
                item.name.clone(),
                outcome(place),
            ]
        });
        let left_rows = plan.left.iter().map(|left| {
            [
                left.class.singular().to_owned(),
                left.cell.row.clone(),
                left.name.clone(),
                format!("left as it is: {}", left.reason),
            ]
        });
        output::table(
            ["CLASS", "ROW", "NAME", "OUTCOME"],
            moved_rows.chain(left_rows),
        );
        for unknown in &plan.unknown {
            say!(
                "not offered: {}: {}",
                unknown.class.as_str(),
                unknown.reason
            );
        }
        if dry_run {
            let count = plan.items.len();
            say!("Dry run: {count} secrets would be moved, and nothing was changed.");
        } else {
            let moved = done.outcomes.iter();
            let count = moved
                .filter(|outcome| matches!(outcome, Outcome::Moved { .. }))
                .count();
            say!("{count} secrets were moved into the vault.");
        }
    });
}

fn left(left: &Left) -> Value {
    json!({
        "class": left.class,
        "table": left.cell.table,
        "row": row(&left.cell.row),
        "column": left.cell.column,
        "name": left.name,
        "reason": left.reason,
    })
}

/// A primary key: a number, where it is one.
fn row(key: &str) -> Value {
    key.parse::<i64>().map_or_else(|_| json!(key), Value::from)
}
