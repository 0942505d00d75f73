//! `strongroom migrate`: every secret of a TrueNAS database ends in the vault and nowhere else,
//! nothing else changes, and whatever goes wrong on the way, killed at any instant, nothing is
//! lost and running it again finishes.
//!
//! `STRONGROOM_TEST_KILLS` says how many kills at random instants there are (default 15), and
//! `STRONGROOM_TEST_SEED` repeats those of an earlier run, as far as time can be repeated.
//! Where strace and root are missing, what needs them is skipped with a word.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};
use std::{env, fs, thread};

use serde_json::{Value, json};
use strongroom_tests::instants::{number, scrambled};
use strongroom_tests::nas::{
    Before, By, CREDENTIALS, DATASETS, Nas, Saved, content, kill_and_wait, list, placeholder, rows,
    text, with_unmerged_wal,
};
use strongroom_tests::truenas_fixture::{Fixture, Generation};
use strongroom_tests::{Gate, Run};

const GENERATIONS: [Generation; 4] = [
    Generation::V24_10,
    Generation::V25_10,
    Generation::V26,
    Generation::Mixed,
];

// What a run that nothing disturbs does.

#[test]
fn databases_of_all_generations_are_migrated() {
    for generation in GENERATIONS {
        let nas = Nas::new(generation, 2);
        let before = nas.before();
        let report = nas.migrate().ok().json();
        nas.is_migrated(&before, By::Tpm);
        nas.is_reported(&before, &report);
        assert_eq!(before.journal_mode, "delete");
    }
}

#[test]
fn databases_in_wal_mode_are_migrated() {
    for generation in GENERATIONS {
        let nas = Nas::with(|dir| Fixture::build(dir, generation, 2, 2).in_wal_mode());
        let before = nas.before();
        let report = nas.migrate().ok().json();
        nas.is_migrated(&before, By::Tpm);
        nas.is_reported(&before, &report);
        assert_eq!(before.journal_mode, "wal");
    }
}

#[test]
fn a_database_whose_changes_are_still_in_the_wal_is_migrated() {
    let nas = Nas::with(|dir| with_unmerged_wal(Fixture::build(dir, Generation::Mixed, 3, 2)));
    // Read from a copy: whoever closes the database last merges the WAL.
    let before = nas.before_of(&nas.copy_of_database());
    assert!(nas.sidecar("-wal").is_file());
    nas.migrate().ok();
    nas.is_migrated(&before, By::Recovery);
}

/// What has the database open, above all the middleware, may write back what it remembers. Who insists
/// gets it done: one that is idle is in nobody's way.
#[test]
fn a_database_that_is_open_elsewhere_is_migrated_by_who_insists() {
    for wal in [false, true] {
        let nas = Nas::with(|dir| {
            let fixture = Fixture::build(dir, Generation::V26, 6, 2);
            if wal { fixture.in_wal_mode() } else { fixture }
        });
        let before = nas.before();
        let middleware = nas.fixture.connect();
        let settings = "SELECT stg_timezone FROM system_settings";
        let read = || middleware.query_one(settings, (), |row| row.get::<_, String>(0));
        assert_eq!(read(), Ok("UTC".to_owned()));
        nas.is_unchanged_by(&before, 0..=0, || {
            let failed = nas.migrate().fails_with(7);
            let whom = format!("migration ({})", std::process::id());
            // The kernel cuts the name off.
            let whom = whom.replace("migration (", "(");
            failed.says(&whom).says("systemctl stop middlewared")
        });
        nas.migrate().arg("--while-in-use").ok();
        assert_eq!(read(), Ok("UTC".to_owned()));
        drop(middleware);
        nas.is_migrated(&before, By::Recovery);
    }
}

#[test]
fn the_samples_made_by_each_release_are_migrated() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/truenas");
    for release in ["24.10", "25.10", "26.0"] {
        let sample = samples.join(release);
        if !sample.is_dir() {
            println!("skipped: there is no sample of TrueNAS {release}");
            continue;
        }
        let nas = Nas::with(|dir| Fixture::from_sample(&sample, dir));
        let before = nas.before();
        let report = nas.migrate().ok().json();
        nas.is_migrated(&before, By::Tpm);
        nas.is_reported(&before, &report);
    }
}

#[test]
fn keys_come_out_as_zfs_wants_them() {
    let nas = Nas::new(Generation::Mixed, 0);
    nas.migrate().ok();
    for (id, name, key) in &nas.fixture.dataset_keys {
        let object = nas.object(DATASETS, *id);
        let get = nas
            .vault
            .run(nas.vault.programs().zfs_keyprovider())
            .args(["get", name, "--id", &object]);
        assert_eq!(get.ok().text(), *key, "{name}");
    }
}

#[test]
fn a_dry_run_changes_nothing_and_needs_no_tpm_and_no_backup() {
    let nas = Nas::new(Generation::Mixed, 2);
    nas.vault.recorder().take();
    let all = content(nas.vault.folder());
    let run = |args: &[&str]| {
        nas.on_the_database(&["migrate", "--dry-run"])
            .args(args)
            .env("STRONGROOM_TCTI", "swtpm:path=/nowhere/tpm")
            .ok()
    };
    let report = run(&["--json"]).json();
    let text = run(&[]).text();
    // Not even where a TPM answers.
    nas.on_the_database(&["migrate", "--dry-run"]).ok();
    assert!(nas.vault.recorder().commands().is_empty());
    assert!(content(nas.vault.folder()) == all, "files were changed");

    assert_eq!(report["dry-run"], true);
    let items = list(&report["items"]);
    assert_eq!(rows(items), nas.rows_to_move());
    for item in items {
        assert_eq!(item["outcome"], "would be moved");
        assert_eq!(item["id"], Value::Null);
    }
    assert_eq!(rows(list(&report["left"])), nas.rows_to_leave());
    for word in ["tank/vm/zvol0", "would be moved", "nothing was changed"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    // It told no secret.
    for (_, _, key) in &nas.fixture.dataset_keys {
        assert!(!text.contains(key) && !report.to_string().contains(key));
    }
}

/// Closing a database merges its WAL, unless one takes care.
#[test]
fn a_dry_run_leaves_the_wal_as_it_is() {
    let nas = Nas::with(|dir| with_unmerged_wal(Fixture::build(dir, Generation::V25_10, 4, 2)));
    let files = || {
        let database = &nas.fixture.database;
        (fs::read(database).ok(), fs::read(nas.sidecar("-wal")).ok())
    };
    let before = files();
    assert!(before.1.as_ref().is_some_and(|wal| !wal.is_empty()));
    let report = nas
        .on_the_database(&["migrate", "--dry-run", "--json"])
        .ok();
    assert_eq!(rows(list(&report.json()["items"])), nas.rows_to_move());
    assert!(files() == before, "the database's files were changed");
}

#[test]
fn only_the_class_that_was_asked_for_is_touched() {
    for (class, other) in [("datasets", CREDENTIALS), ("credentials", DATASETS)] {
        let nas = Nas::new(Generation::V26, 2);
        let before = nas.before();
        let report = nas.migrate().args(["--only", class]).ok().json();
        for row in list(&report["items"]).iter().chain(list(&report["left"])) {
            assert_eq!(row["class"], class);
        }
        let now = nas.fixture.read_back();
        if other == CREDENTIALS {
            assert_eq!(now.credentials, before.rows.credentials);
            assert!(now.datasets != before.rows.datasets);
        } else {
            assert_eq!(now.datasets, before.rows.datasets);
            assert!(now.credentials != before.rows.credentials);
        }
        assert_eq!(now.others, before.rows.others);
        // And the rest on another day.
        nas.migrate().ok();
        nas.is_migrated(&before, By::Recovery);
    }
}

/// Create, and what shows that it opens, is all that an object costs.
#[test]
#[ignore = "takes long; make test-all runs it"]
fn a_thousand_datasets_cost_as_much_each_as_ten() {
    let cost = |datasets: usize| {
        let nas = Nas::new(Generation::V26, datasets);
        let before = nas.before();
        nas.vault.recorder().take();
        nas.migrate().timeout(Duration::from_secs(600)).ok();
        let counts = nas.vault.recorder().counts();
        nas.is_migrated(&before, By::Recovery);
        counts
    };
    let (none, ten, thousand) = (cost(0), cost(10), cost(1000));
    let names: BTreeSet<_> = thousand.keys().collect();
    for name in names {
        let count = |counts: &BTreeMap<&str, usize>| counts.get(name).copied().unwrap_or(0);
        let (for_ten, for_thousand) = (count(&ten) - count(&none), count(&thousand) - count(&none));
        assert_eq!(for_ten % 10, 0, "{name}");
        println!("{name}: {} for each dataset", for_ten / 10);
        assert_eq!(for_thousand, for_ten * 100, "{name}");
    }
    assert_eq!(thousand["Create"] - none["Create"], 1000);
}

// Runs after the first.

#[test]
fn a_second_run_moves_nothing() {
    let nas = Nas::new(Generation::Mixed, 2);
    let before = nas.before();
    nas.migrate().ok();
    let (rows_now, objects) = (nas.fixture.read_back(), content(&nas.vault.dir()));
    let report = nas.migrate().arg("--resume").ok().json();
    assert_eq!(list(&report["items"]), &[] as &[Value]);
    let left = rows(list(&report["left"]));
    let all: BTreeSet<_> = nas
        .rows_to_move()
        .union(&nas.rows_to_leave())
        .cloned()
        .collect();
    assert_eq!(left, all);
    assert_eq!(nas.fixture.read_back(), rows_now);
    assert!(
        content(&nas.vault.dir()) == objects,
        "the vault was changed"
    );
    nas.is_migrated(&before, By::Recovery);
}

#[test]
fn what_was_edited_after_a_run_is_moved_by_the_next() {
    let nas = Nas::new(Generation::V25_10, 0);
    nas.migrate().ok();

    // The middleware writes a changed key of a dataset, and a new dataset's.
    let (row, dataset, old_key) = nas.key_of("tank/vm/zvol0");
    let old_object = nas.object(DATASETS, row);
    let (new_key, newer_key) = ("1f".repeat(32), "2e".repeat(32));
    nas.write_key(row, &new_key);
    nas.fixture
        .connect()
        .execute(
            "INSERT INTO storage_encrypteddataset (name, encryption_key) VALUES ('tank/new', ?1)",
            [nas.fixture.encrypt(&newer_key, true, [7; 8])],
        )
        .expect("the table takes a row");
    // The admin types one field of a credential anew, beside the other's placeholder.
    let (credential, _, original, secrets) = nas.credential("box-own-app");
    assert_eq!(secrets, ["client_secret", "token"]);
    let sealed = nas.object(CREDENTIALS, credential);
    let mut edited = nas.fixture.read_back().credentials[&credential]
        .attributes
        .clone()
        .expect("it decrypts");
    edited["client_secret"] = json!("typed anew");
    nas.write_attributes(credential, &edited);

    let report = nas.migrate().ok().json();
    let moved: Vec<_> = list(&report["items"])
        .iter()
        .map(|item| &item["name"])
        .collect();
    assert_eq!(moved, [&*dataset, "tank/new", "box-own-app"]);
    let ids: Vec<_> = list(&report["items"])
        .iter()
        .map(|item| text(&item["id"]))
        .collect();

    assert_eq!(nas.get(&dataset), new_key);
    assert_eq!(nas.get("tank/new"), newer_key);
    assert_eq!(nas.vault.unseal_id(&old_object), old_key.as_bytes());
    let now = nas.fixture.read_back();
    assert_eq!(now.datasets[&row].column, None);
    let attributes = now.credentials[&credential]
        .attributes
        .as_ref()
        .expect("it decrypts");
    let fields = |id: &str| -> Value {
        serde_json::from_slice(&nas.vault.unseal_id(id)).expect("a credential's object is JSON")
    };
    // One object holds all of them: the one that its token is in, which a running sync may refresh there.
    assert_eq!(ids[2], sealed);
    for field in secrets {
        assert_eq!(attributes[field], placeholder(&sealed));
    }
    let complete = json!({"client_secret": "typed anew", "token": original["token"]});
    assert_eq!(fields(&sealed), complete);

    // And then there is nothing more to do.
    let report = nas.migrate().ok().json();
    assert_eq!(list(&report["items"]), &[] as &[Value]);
}

/// The vault holds that key already, but not as the newest: what counts is what `get` gives.
#[test]
fn a_key_that_is_changed_back_is_the_newest_again() {
    let nas = Nas::new(Generation::V26, 0);
    nas.migrate().ok();
    let (row, dataset, first) = nas.key_of("tank/vm/zvol0");
    let second = "5a".repeat(32);
    for key in [&second, &first, &second] {
        nas.write_key(row, key);
        nas.migrate().ok();
        assert_eq!(nas.get(&dataset), *key);
        assert_eq!(nas.fixture.read_back().datasets[&row].column, None);
    }
}

// Runs that cannot go on: nothing is cleared, and when it is mended the next run finishes.

#[test]
fn nothing_is_cleared_where_the_policy_refuses() {
    let nas = Nas::new(Generation::V25_10, 0);
    let before = nas.before();
    nas.vault.tpm().extend(7, b"another boot loader");
    nas.is_unchanged_by(&before, 0..=0, || nas.migrate().fails_with(3).says("PCR 7"));
    nas.vault
        .strongroom(&["rebind", "--yes", "--recovery"])
        .arg(nas.vault.recovery())
        .ok();
    nas.migrate().ok();
    nas.is_migrated(&before, By::Tpm);
}

#[test]
fn nothing_is_cleared_where_the_tpm_goes_away() {
    let nas = Nas::new(Generation::Mixed, 0);
    let before = nas.before();
    let pristine = nas.save();
    let total = nas.commands_of_a_run();
    let gate = Gate::start(nas.vault.recorder());
    let objects = nas.rows_to_move().len();
    // The very last commands only tidy up.
    for commands in [0, 1, total / 3, total / 2, total - 4] {
        nas.restore(&pristine);
        gate.cut_after(commands);
        nas.is_unchanged_by(&before, 0..=objects, || {
            nas.migrate()
                .env("STRONGROOM_TCTI", gate.tcti())
                .fails_with(4)
        });
        // It is back, as after a restart.
        gate.open();
        nas.clear_tpm();
        nas.migrate().env("STRONGROOM_TCTI", gate.tcti()).ok();
        nas.is_migrated(&before, By::Recovery);
    }
}

#[test]
fn nothing_is_cleared_where_the_backup_has_no_folder() {
    let nas = Nas::new(Generation::V26, 0);
    let before = nas.before();
    let usb = nas
        .backup()
        .parent()
        .map(Path::to_owned)
        .expect("it has a folder");
    fs::remove_dir(&usb).expect("it is empty");
    nas.vault.recorder().take();
    nas.is_unchanged_by(&before, 0..=0, || {
        nas.migrate()
            .fails_with(7)
            .says("its folder does not exist")
    });
    assert!(nas.vault.recorder().commands().is_empty());
    fs::create_dir(&usb).expect("it is gone");
    nas.migrate().ok();
    nas.is_migrated(&before, By::Recovery);
}

#[test]
fn nothing_is_cleared_where_the_backup_does_not_fit() {
    if !mounts() {
        return;
    }
    let nas = Nas::new(Generation::V25_10, 0);
    let before = nas.before();
    let usb = nas
        .backup()
        .parent()
        .map(Path::to_owned)
        .expect("it has a folder");
    let objects = nas.rows_to_move().len();
    nas.is_unchanged_by(&before, objects..=objects, || {
        let full = "mount -t tmpfs -o size=8k none \"$0\" && exec \"$@\"";
        nas.migrate_with_mount(full, &usb)
            .fails_with(5)
            .says("strongroom.backup")
    });
    nas.migrate().ok();
    nas.is_migrated(&before, By::Recovery);
}

#[test]
fn nothing_is_cleared_where_the_vault_cannot_be_written() {
    if !mounts() {
        return;
    }
    let nas = Nas::new(Generation::V25_10, 0);
    let before = nas.before();
    nas.is_unchanged_by(&before, 0..=0, || {
        let read_only =
            "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
        nas.migrate_with_mount(read_only, &nas.vault.dir())
            .fails_with(5)
            .says("Read-only")
    });
    nas.is_unchanged_by(&before, 0..=0, || {
        let full = "mount -t tmpfs -o size=12k none \"$0\" && exec \"$@\"";
        let token = nas.vault.dir().join("objects/datasets");
        nas.migrate_with_mount(full, &token)
            .fails_with(5)
            .says("No space")
    });
    nas.migrate().ok();
    nas.is_migrated(&before, By::Recovery);
}

/// Between check and clear, another process begins a transaction, and does not end it.
#[test]
fn nothing_is_cleared_where_the_database_is_locked_meanwhile() {
    let nas = Nas::new(Generation::V25_10, 0);
    let before = nas.before();
    let mut middleware = None;
    let failed = nas.disturbed(|| {
        let connection = middleware.insert(nas.fixture.connect());
        connection
            .execute_batch("BEGIN IMMEDIATE")
            .expect("it is not locked while secrets are sealed");
    });
    failed.fails_with(7).says("locked");
    let status = nas.vault.strongroom(&["status"]).ok().text();
    assert!(status.contains("cut short while clearing"), "{status}");
    let connection = middleware.take().expect("it was opened");
    connection.execute_batch("ROLLBACK").expect("it was begun");
    drop(connection);
    assert_eq!(nas.fixture.read_back(), before.rows);
    nas.migrate().ok();
    nas.is_migrated(&before, By::Recovery);
}

/// The keys are out of their rows by then, and old pages still hold them.
#[test]
fn a_scrub_that_does_not_fit_is_said_and_finished_by_the_next_run() {
    if !mounts() {
        return;
    }
    let nas = Nas::new(Generation::V25_10, 0);
    nas.fixture
        .connect()
        .execute_batch(
            "CREATE TABLE filler (id INTEGER PRIMARY KEY, content BLOB);\
             INSERT INTO filler VALUES (1, randomblob(1000000))",
        )
        .expect("a new table");
    let before = nas.before();
    let room = fs::metadata(&nas.fixture.database).map_or(0, |file| file.len()) / 1024 + 200;
    // Its folder with little room; what it holds is brought out again.
    let little = format!(
        "cp -a \"$0\" \"$0\".there && mount -t tmpfs -o size={room}k none \"$0\" && \
         cp -a \"$0\".there/. \"$0\" && {{ \"$@\"; code=$?; cp -a \"$0\"/. \"$0\".there; exit $code; }}"
    );
    let data = nas
        .fixture
        .database
        .parent()
        .map(Path::to_owned)
        .expect("it has a folder");
    let failed = nas.migrate_with_mount(&little, &data).fails_with(7);
    failed.says("run the same command again");
    fs::remove_dir_all(&data).expect("the folder is there");
    fs::rename(data.with_extension("there"), &data).expect("it was made");
    assert!(nas.fixture.ghosts_left() > 0);
    nas.nothing_is_lost(&before);
    nas.migrate().ok();
    nas.is_migrated(&before, By::Recovery);
}

/// A row that is edited while a run seals what it held is not cleared of what was typed; it is read and
/// sealed anew.
#[test]
fn a_row_edited_meanwhile_is_sealed_anew() {
    let nas = Nas::new(Generation::Mixed, 0);
    let (row, dataset, old_key) = nas.key_of("tank/vm/zvol0");
    let (credential, name, ..) = nas.credential("nextcloud");
    let new_key = "c3".repeat(32);
    let attributes = json!({"url": "https://cloud.example.org/", "vendor": "NEXTCLOUD",
        "user": "nas", "pass": "typed while it ran"});
    let edited = nas.disturbed(|| {
        nas.write_key(row, &new_key);
        nas.write_attributes(credential, &attributes);
    });
    let report = edited.ok().json();
    assert!(
        list(&report["items"])
            .iter()
            .all(|item| item["outcome"] == "moved")
    );
    let id_of = |name: &str| {
        let mut items = list(&report["items"]).iter();
        text(
            &items
                .find(|item| item["name"] == name)
                .expect("it was moved")["id"],
        )
    };
    assert_eq!(nas.get(&dataset), new_key);
    assert_eq!(nas.vault.unseal_id(&id_of(&dataset)), new_key.as_bytes());
    let now = nas.fixture.read_back();
    assert_eq!(now.datasets[&row].column, None);
    let id = id_of(&name);
    assert_eq!(
        nas.vault.unseal_id(&id),
        br#"{"pass": "typed while it ran"}"#
    );
    let pass = &now.credentials[&credential]
        .attributes
        .as_ref()
        .expect("it decrypts")["pass"];
    assert_eq!(*pass, placeholder(&id));
    // What was sealed of the row before stays: which key the dataset has, only ZFS knows.
    let versions = &nas.objects()[&format!("truenas:{DATASETS}/{row}")];
    let (_, first) = versions.iter().min().expect("two versions");
    assert_eq!(nas.vault.unseal_id(first), old_key.as_bytes());
    nas.migrate().ok();
}

/// A wrong command loses nothing: a backup replaces nothing but a backup.
#[test]
fn a_backup_never_replaces_another_file() {
    let nas = Nas::new(Generation::V26, 0);
    let manifest = nas.vault.dir().join("vault.json");
    for file in [
        &nas.fixture.database,
        &nas.fixture.pwenc_secret,
        &nas.vault.recovery(),
        &manifest,
    ] {
        let before = fs::read(file).expect("it is there");
        let outcome = nas
            .on_the_database(&["migrate", "--yes"])
            .arg("--backup")
            .arg(file)
            .finish();
        let same = fs::read(file).is_ok_and(|now| now == before);
        assert!(same, "{} was overwritten: {outcome}", file.display());
        assert!(matches!(outcome.code(), Some(2 | 7)), "{outcome}");
    }
}

// Runs that are killed.

/// Where no resource manager stands before the TPM, nobody else cleans up after the dead.
#[test]
fn killed_runs_that_have_filled_the_tpm_lose_nothing() {
    let nas = Nas::new(Generation::V26, 0);
    let before = nas.before();
    let total = nas.commands_of_a_run();
    let gate = Gate::start(nas.vault.recorder());
    for round in 1..=4 {
        nas.kill_at_command(&gate, total / 5 * round);
    }
    let next = nas.migrate().finish();
    if !next.status.success() {
        // Then it says what to do, and that is all there is to do.
        next.fails_with(4)
            .says("tpm2_flushcontext --transient-object");
        nas.nothing_is_lost(&before);
        nas.clear_tpm();
        nas.migrate().ok();
    }
    nas.is_migrated(&before, By::Tpm);
}

#[test]
fn a_run_killed_at_random_can_be_repeated() {
    let seed = number("STRONGROOM_TEST_SEED").unwrap_or_else(|| {
        SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(1, |now| u64::from(now.subsec_nanos()))
    });
    let kills = number("STRONGROOM_TEST_KILLS").unwrap_or(15);
    println!("STRONGROOM_TEST_SEED={seed} STRONGROOM_TEST_KILLS={kills}");
    let kinds = [Generation::Mixed, Generation::V25_10].map(Killed::new);
    let mut random = seed;
    for kill in 0..kills {
        let killed = &kinds[usize::from(kill % 2 == 1)];
        random = scrambled(random);
        // A little past its end, for a loaded machine is slower now and then.
        let share =
            1.1 * f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX);
        let instant = killed.duration.mul_f64(share);
        killed.case(
            &format!("kill {kill}, {instant:?} of {:?}", killed.duration),
            |nas| {
                let mut run = nas.start(&nas.vault.recorder().tcti());
                thread::sleep(instant);
                kill_and_wait(&mut run);
            },
        );
    }
}

#[test]
fn a_run_killed_between_tpm_commands_can_be_repeated() {
    let killed = Killed::new(Generation::V26);
    let total = killed.nas.commands_of_a_run();
    let gate = Gate::start(killed.nas.vault.recorder());
    for commands in [0, 3, total / 4, total / 2 + 1, total - 2, total - 1] {
        killed.case(
            &format!("killed after {commands} of {total} commands"),
            |nas| {
                nas.kill_at_command(&gate, commands);
            },
        );
    }
}

#[test]
fn a_run_killed_at_its_turning_points_can_be_repeated() {
    for (generation, sidecar) in [
        (Generation::V24_10, "-journal"),
        (Generation::V25_10, "-wal"),
    ] {
        let killed = Killed::new(generation);
        killed.case("killed when the backup appears", |nas| {
            nas.kill_when(|| nas.backup().exists());
        });
        killed.case("killed when the database changes", |nas| {
            let (sidecar, unchanged) = (nas.sidecar(sidecar), nas.fixture.all_bytes());
            nas.kill_when(|| {
                nas.backup().exists() && (sidecar.exists() || nas.fixture.all_bytes() != unchanged)
            });
        });
    }
}

/// Every call that changes a file is an instant of its own: strace kills the run at each of a
/// sample of them.
#[test]
fn a_run_killed_at_a_change_of_a_file_can_be_repeated() {
    // Of the vault, and of a database with a journal; then of one with a WAL.
    const CHANGES: [(Generation, &[&str]); 2] = [
        (
            Generation::Mixed,
            &[
                "rename",
                "unlink",
                "pwrite64",
                "fdatasync",
                "fsync",
                "ftruncate",
            ],
        ),
        (Generation::V25_10, &["unlink", "pwrite64", "ftruncate"]),
    ];
    let traced = Command::new("strace")
        .args(["-qq", "-e", "trace=none", "true"])
        .status();
    if !traced.is_ok_and(|status| status.success()) {
        println!("skipped: there is no strace that may trace");
        return;
    }
    let points = number("STRONGROOM_TEST_KILLS").map_or(2, |kills| (kills / 10).max(2));
    let mut kills = 0;
    for (generation, changes) in CHANGES {
        let killed = Killed::new(generation);
        let counts = killed.nas.count_calls(changes, &[]);
        for (call, count) in counts {
            // Evenly, and the last.
            let sample: BTreeSet<u64> = (0..=points)
                .map(|point| (count * point / points).max(1))
                .filter(|place| *place > 1 || count == 1)
                .collect();
            for place in sample {
                killed.case(&format!("killed at {call} {place} of {count}"), |nas| {
                    nas.killed_by_strace(&call, place);
                });
                kills += 1;
            }
        }
    }
    println!("{kills} kills");
}

// Helpers.

/// A box whose migration is killed again and again, each time from the start.
struct Killed {
    nas: Nas,
    before: Before,
    pristine: Saved,
    duration: Duration,
}

impl Killed {
    /// 25.10's database is in WAL mode here, the others are not.
    fn new(generation: Generation) -> Self {
        let nas = Nas::with(|dir| {
            let fixture = Fixture::build(dir, generation, 5, 0);
            if generation == Generation::V25_10 {
                fixture.in_wal_mode()
            } else {
                fixture
            }
        });
        let (before, pristine) = (nas.before(), nas.save());
        let duration = nas.migrate().ok().took;
        nas.restore(&pristine);
        Self {
            nas,
            before,
            pristine,
            duration,
        }
    }

    /// Kills a run in some way, and checks what it left, and what the next run makes of that.
    fn case(&self, what: &str, kill: impl FnOnce(&Nas)) {
        let nas = &self.nas;
        nas.restore(&self.pristine);
        kill(nas);
        nas.clear_tpm();
        // Shown only if something fails: the last line then says where.
        let cleared = nas.copy_of_database().read_back() != self.before.rows;
        println!(
            "{what}: {} objects, cleared: {cleared}",
            nas.objects().len()
        );
        nas.nothing_is_lost(&self.before);
        nas.migrate().ok();
        nas.is_migrated(&self.before, By::Recovery);
    }
}

/// Whether a test may mount something for its children alone.
fn mounts() -> bool {
    let possible = Run::new("unshare")
        .args(["--mount", "true"])
        .finish()
        .status
        .success();
    if !possible {
        println!("skipped: mounting takes root");
    }
    possible
}
