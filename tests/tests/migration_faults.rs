//! A migration of all classes that is killed, runs out of room, or loses its TPM, at every step: each
//! secret is in the old place or opens from the vault, the next run finishes, and all can be given back.
//!
//! `make test` tries a sample of the steps, which `STRONGROOM_TEST_SEED` chooses; `make test-all` tries
//! each, on the databases that each release made where they are at hand. Where strace is missing or may
//! not trace, what needs it is skipped with a word.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use strongroom_tests::instants::scrambled;
use strongroom_tests::nas::{Nas, Saved};
use strongroom_tests::truenas_fixture::{Fixture, Generation, Place};
use strongroom_tests::{Gate, Output};

const ALL: [&str; 2] = [
    "--only",
    "datasets,credentials,keychain,certificates,replication,tasks",
];

/// The calls that change files, of the vault, the backup, and a database with its journal.
const CHANGES: [&str; 8] = [
    "write",
    "pwrite64",
    "rename",
    "unlink",
    "ftruncate",
    "fsync",
    "fdatasync",
    "mkdir",
];

/// What a disk says when it is full, broken, or read-only; for this once, or from then on (`+`).
const ERRORS: [&str; 3] = ["ENOSPC", "EIO", "EROFS"];

/// Response codes (Part 2, section 6.6.3).
const TPM_RC_LOCKOUT: u32 = 0x921;
const TPM_RC_RETRY: u32 = 0x922;

#[test]
fn killed_at_a_change_of_a_file_nothing_is_lost() {
    if !traces() {
        return;
    }
    for faulted in [Faulted::delete(), Faulted::wal()] {
        faulted.at_changes(Steps::Sample(4), |faulted, call, place| {
            faulted
                .nas
                .faulted_by_strace(call, &place.to_string(), "signal=KILL", &ALL)
        });
    }
}

#[test]
fn with_a_disk_that_fails_nothing_is_lost() {
    if !traces() {
        return;
    }
    let mut errors = ERRORS.iter().cycle();
    Faulted::delete().at_changes(Steps::Sample(5), |faulted, call, place| {
        let error = errors.next().expect("they go round");
        faulted.failing(call, place, error)
    });
}

#[test]
fn with_a_tpm_that_fails_nothing_is_lost() {
    Faulted::wal().at_commands(Steps::Sample(2));
}

#[test]
#[ignore = "takes an hour; make test-all runs it"]
fn killed_at_every_change_of_a_file_nothing_is_lost() {
    if !traces() {
        return;
    }
    for faulted in Faulted::samples() {
        faulted.at_changes(Steps::All, |faulted, call, place| {
            faulted
                .nas
                .faulted_by_strace(call, &place.to_string(), "signal=KILL", &ALL)
        });
    }
}

#[test]
#[ignore = "takes an hour; make test-all runs it"]
fn with_a_disk_that_fails_at_every_step_nothing_is_lost() {
    if !traces() {
        return;
    }
    for error in ERRORS {
        Faulted::delete().at_changes(Steps::All, |faulted, call, place| {
            faulted.failing(call, place, error)
        });
    }
}

#[test]
#[ignore = "takes an hour; make test-all runs it"]
fn with_a_tpm_that_fails_at_every_step_nothing_is_lost() {
    Faulted::delete().at_commands(Steps::All);
}

/// A rollback is one transaction: killed at any change of a file, the database is as before it, or as
/// before the migration.
#[test]
fn a_killed_rollback_can_be_repeated() {
    if !traces() {
        return;
    }
    for faulted in [Faulted::delete(), Faulted::wal()] {
        let nas = &faulted.nas;
        nas.restore(&faulted.pristine);
        nas.migrate().args(ALL).ok();
        let migrated = nas.save();
        let cleared = nas.fixture.readings();
        for call in ["pwrite64", "fdatasync", "fsync", "unlink", "ftruncate"] {
            for place in [1, 2, 4, 8, 16] {
                nas.restore(&migrated);
                let run = nas
                    .vault
                    .run("strace")
                    .args(["-f", "-qq", "-o", "/dev/null", "-e"])
                    .arg(format!("trace={call}"))
                    .arg("-e")
                    .arg(format!("inject={call}:signal=KILL:when={place}"))
                    .arg(nas.vault.programs().strongroom())
                    .args(["migrate", "rollback", "--yes", "--recovery"])
                    .arg(nas.vault.recovery())
                    .arg("--database")
                    .arg(&nas.fixture.database)
                    .arg("--pwenc-secret")
                    .arg(&nas.fixture.pwenc_secret)
                    .finish();
                let now = nas.fixture.readings();
                assert!(
                    now == cleared || now == faulted.before,
                    "half, killed at {call} {place}: {run}"
                );
                nas.roll_back_by_recovery().ok();
                assert!(nas.fixture.readings() == faulted.before);
            }
        }
    }
}

/// How many steps are tried.
#[derive(Clone, Copy)]
enum Steps {
    /// So many of each kind, as the seed chooses.
    Sample(u64),
    All,
}

impl Steps {
    fn of(self, count: u64, seed: &mut u64) -> BTreeSet<u64> {
        match self {
            Self::All => (1..=count).collect(),
            Self::Sample(size) => (0..size.min(count))
                .map(|_| {
                    *seed = scrambled(*seed);
                    *seed % count + 1
                })
                .collect(),
        }
    }
}

/// A box whose migration has something happen to it again and again, each time from the start.
struct Faulted {
    nas: Nas,
    before: BTreeMap<Place, Option<String>>,
    pristine: Saved,
    seed: u64,
}

impl Faulted {
    fn delete() -> Self {
        Self::new(Nas::new(Generation::Mixed, 0))
    }

    fn wal() -> Self {
        Self::new(Nas::with(|dir| {
            Fixture::build(dir, Generation::V25_10, 5, 0).in_wal_mode()
        }))
    }

    /// Those that the releases made; the tests' own where they are not at hand.
    fn samples() -> Vec<Self> {
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/truenas");
        let found: Vec<_> = ["24.10", "25.10", "26.0"]
            .map(|release| samples.join(release))
            .into_iter()
            .filter(|sample| sample.is_dir())
            .map(|sample| Self::new(Nas::with(|dir| Fixture::from_sample(&sample, dir))))
            .collect();
        if found.is_empty() {
            vec![Self::delete(), Self::wal()]
        } else {
            found
        }
    }

    fn new(nas: Nas) -> Self {
        let seed = env::var("STRONGROOM_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(|| {
                SystemTime::UNIX_EPOCH
                    .elapsed()
                    .map_or(1, |now| u64::from(now.subsec_nanos()))
            });
        println!("STRONGROOM_TEST_SEED={seed}");
        let before = nas.fixture.readings();
        // After it was opened: that merges a WAL.
        let pristine = nas.save();
        Self {
            nas,
            before,
            pristine,
            seed,
        }
    }

    /// Has something happen at changes of files.
    fn at_changes(mut self, steps: Steps, mut fault: impl FnMut(&Self, &str, u64) -> Output) {
        let counts = self.nas.count_calls(&CHANGES, &ALL);
        let mut cases = 0;
        for (call, count) in counts {
            for place in steps.of(count, &mut self.seed) {
                self.nas.restore(&self.pristine);
                let output = fault(&self, &call, place);
                self.nothing_is_lost(&format!("{call} {place} of {count}: {output}"));
                cases += 1;
            }
        }
        println!("{cases} cases");
    }

    /// A call that fails once, or, by turns, from then on.
    fn failing(&self, call: &str, place: u64, error: &str) -> Output {
        let from_then_on = if place % 2 == 0 { "" } else { "+" };
        let fault = format!("error={error}");
        let place = format!("{place}{from_then_on}");
        self.nas.faulted_by_strace(call, &place, &fault, &ALL)
    }

    /// Has the TPM go away, lock up, and ask for another try, at commands.
    fn at_commands(mut self, steps: Steps) {
        self.nas.vault.recorder().take();
        self.nas.migrate().args(ALL).ok();
        let total = self.nas.vault.recorder().take().len();
        let gate = Gate::start(self.nas.vault.recorder());
        let count = u64::try_from(total).expect("not so many");
        for fault in ["gone", "locked out", "asks again", "asks again for ever"] {
            for place in steps.of(count, &mut self.seed) {
                let passed = usize::try_from(place - 1).expect("not so many");
                self.nas.restore(&self.pristine);
                match fault {
                    "gone" => gate.cut_after(passed),
                    "locked out" => gate.answer_after(passed, TPM_RC_LOCKOUT, usize::MAX),
                    "asks again" => gate.answer_after(passed, TPM_RC_RETRY, 1),
                    _ => gate.answer_after(passed, TPM_RC_RETRY, usize::MAX),
                }
                let output = self
                    .nas
                    .migrate()
                    .args(ALL)
                    .env("STRONGROOM_TCTI", gate.tcti())
                    .finish();
                gate.open();
                let what = format!("{fault} after {passed} of {total} commands: {output}");
                match fault {
                    "asks again" => assert_eq!(output.code(), Some(0), "{what}"),
                    // The last commands only tidy up.
                    _ => assert!(matches!(output.code(), Some(0 | 4)), "{what}"),
                }
                self.nothing_is_lost(&what);
            }
        }
    }

    /// Checks, in whatever state a run was left, that all can be given back as it was; and that the next
    /// run finishes, after which it can, too.
    #[track_caller]
    fn nothing_is_lost(&self, what: &str) {
        let nas = &self.nas;
        nas.clear_tpm();
        let left = nas.save();
        let back = nas.roll_back_by_recovery().finish();
        assert_eq!(back.code(), Some(0), "{what}\nrolled back: {back}");
        self.is_as_before(what);
        nas.restore(&left);
        let next = nas.migrate().args(ALL).arg("--resume").finish();
        assert_eq!(next.code(), Some(0), "{what}\nresumed: {next}");
        let cleared = nas.fixture.readings();
        assert!(cleared != self.before, "{what}: nothing was moved");
        nas.roll_back_by_recovery().ok();
        self.is_as_before(what);
    }

    #[track_caller]
    fn is_as_before(&self, what: &str) {
        let now = self.nas.fixture.readings();
        assert!(now.keys().eq(self.before.keys()), "{what}");
        for (place, reading) in now {
            assert_eq!(reading, self.before[&place], "{place:?}, {what}");
        }
    }
}

/// Whether strace may trace.
fn traces() -> bool {
    let traced = Command::new("strace")
        .args(["-qq", "-e", "trace=none", "true"])
        .status();
    let possible = traced.is_ok_and(|status| status.success());
    if !possible {
        println!("skipped: there is no strace that may trace");
    }
    possible
}
