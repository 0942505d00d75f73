//! `strongroom migrate`, whole: what is planned of every value, all classes moved, and given back as
//! they were, with the vault, or with the recovery kit alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use strongroom_tests::nas::{Nas, content, list, text};
use strongroom_tests::truenas_fixture::{Fixture, Generation, Place, contains};
use strongroom_tests::{Gate, Output, StandInDataset, ZfsStandIn};

const GENERATIONS: [Generation; 4] = [
    Generation::V24_10,
    Generation::V25_10,
    Generation::V26,
    Generation::Mixed,
];

const ALL: &str = "datasets,credentials,keychain,certificates,replication,tasks";

/// What the middleware reads, value by value.
type Readings = BTreeMap<Place, Option<String>>;

#[test]
fn every_class_is_moved_and_given_back() {
    for generation in GENERATIONS {
        moved_and_given_back(&Nas::new(generation, 1), &[]);
    }
}

#[test]
fn the_samples_made_by_each_release_are_moved_and_given_back() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/truenas");
    for release in ["24.10", "25.10", "26.0"] {
        let sample = samples.join(release);
        if !sample.is_dir() {
            println!("skipped: there is no sample of TrueNAS {release}");
            continue;
        }
        moved_and_given_back(&Nas::with(|dir| Fixture::from_sample(&sample, dir)), &[]);
    }
}

#[test]
fn the_web_interfaces_key_moves_for_who_insists() {
    let nas = Nas::new(Generation::V25_10, 0);
    let ui = place("system_certificate", "1", "cert_privatekey");
    let before = nas.fixture.readings();
    migrate(&nas).ok();
    assert_eq!(nas.fixture.readings()[&ui], before[&ui]);
    let nas = Nas::new(Generation::V25_10, 0);
    moved_and_given_back(&nas, &["--ui-certificate"]);
    migrate(&nas).arg("--ui-certificate").ok();
    assert_eq!(nas.fixture.readings()[&ui], None);
}

/// A key in the TPM does not come out of it again, but by the kit.
#[test]
fn private_keys_are_in_the_tpm_with_their_certificates() {
    let nas = Nas::new(Generation::V26, 0);
    migrate(&nas).ok();
    let listed = nas.vault.strongroom(&["list", "--json"]).ok().json();
    let of = |kind: &str, label: &str| {
        let mut objects = list(&listed["objects"]).iter();
        objects
            .find(|object| object["kind"] == kind && object["label"] == label)
            .cloned()
            .unwrap_or_else(|| panic!("no {kind} {label}"))
    };
    for (label, algorithm) in [("nas.example", "rsa-2048"), ("apps.example", "ec-p256")] {
        let key = of("private-key", label);
        assert_eq!(key["token"], "keys");
        assert_eq!(key["attributes"]["residence"], "tpm");
        assert_eq!(key["attributes"]["algorithm"], algorithm);
        let certificate = of("certificate", label);
        let id = text(&key["id"]).replace('-', "");
        assert_eq!(certificate["attributes"]["cka.id"], id);
        assert!(certificate["attributes"]["certificate"].is_string());
    }
    let report = nas.roll_back().args(["--only", "certificates"]);
    let report = report.fails_with(1).json();
    assert_eq!(list(&report["values"]), &[] as &[Value]);
    for kept in list(&report["kept"]) {
        assert!(text(&kept["reason"]).contains("--recovery"), "{kept}");
    }
    assert_eq!(list(&report["kept"]).len(), 2);
}

#[test]
fn the_recovery_kit_alone_gives_all_back() {
    let nas = Nas::new(Generation::Mixed, 2);
    let before = nas.fixture.readings();
    migrate(&nas).ok();
    let migrated = nas.save();
    nas.roll_back_by_recovery().ok();
    same(&nas.fixture.readings(), &before);

    // Nor is the vault needed, where there is a backup.
    nas.restore(&migrated);
    let gone = nas.vault.folder().join("gone");
    std::fs::rename(nas.vault.dir(), &gone).expect("the test's own folder");
    let tmp = nas.vault.folder().join("tmp");
    std::fs::create_dir(&tmp).expect("the test's own folder");
    nas.roll_back_by_recovery()
        .arg("--backup")
        .arg(nas.backup())
        .env("TMPDIR", &tmp)
        .ok();
    same(&nas.fixture.readings(), &before);
    assert_eq!(
        content(&tmp).len(),
        0,
        "what was read from the backup is gone"
    );
    assert!(!nas.vault.dir().exists());
}

#[test]
fn a_rollback_leaves_what_was_changed_since() {
    let nas = Nas::new(Generation::V25_10, 0);
    let (row, dataset, _) = nas.key_of("tank/vm/zvol0");
    let (credential, ..) = nas.credential("nextcloud");
    nas.migrate().ok();
    // Typed by the admin, after the migration.
    nas.write_key(row, &"c3".repeat(32));
    let attributes = json!({"url": "https://cloud.example.org/", "vendor": "NEXTCLOUD",
        "user": "nas", "pass": "typed since"});
    nas.write_attributes(credential, &attributes);
    // Changed by `zfs-keyprovider adopt --rotate`, which makes raw keys.
    let (other_row, other, _) = nas.key_of("tank");
    let rotated = [0xd4; 32];
    let seal = [
        "seal",
        "--token",
        "datasets",
        "--kind",
        "dataset-key",
        "--keyformat",
        "raw",
    ];
    nas.vault
        .strongroom(&seal)
        .args(["--label", &other])
        .stdin(rotated)
        .ok();
    nas.roll_back().ok();
    let now = nas.fixture.read_back();
    assert_eq!(now.datasets[&row].key, Some("c3".repeat(32)), "{dataset}");
    assert_eq!(now.datasets[&other_row].key, Some("d4".repeat(32)));
    assert_eq!(now.credentials[&credential].attributes, Some(attributes));
}

#[test]
fn a_rollback_that_finds_nothing_to_do_changes_nothing() {
    let nas = Nas::new(Generation::V24_10, 0);
    let before = content(&nas.vault.folder().join("data"));
    let report = nas.roll_back().ok().json();
    assert_eq!(list(&report["values"]), &[] as &[Value]);
    assert!(content(&nas.vault.folder().join("data")) == before);
}

/// What a rollback gave back is found in the vault again by the next migration.
#[test]
fn migrated_again_nothing_is_sealed_twice() {
    let nas = Nas::new(Generation::Mixed, 0);
    migrate(&nas).ok();
    let objects = content(&nas.vault.dir().join("objects"));
    nas.roll_back_by_recovery().ok();
    let report = migrate(&nas).ok().json();
    for item in list(&report["items"]) {
        assert_eq!(item["outcome"], "moved (sealed by an earlier run)");
    }
    assert!(content(&nas.vault.dir().join("objects")) == objects);
}

#[test]
fn the_name_that_kmip_has_for_a_key_comes_back_with_it() {
    let nas = Nas::new(Generation::V26, 0);
    let (row, ..) = nas.key_of("tank");
    let uid = || nas.fixture.read_back().datasets[&row].kmip_uid.clone();
    let set = "UPDATE storage_encrypteddataset SET kmip_uid = 'uid-7' WHERE id = ?1";
    nas.fixture
        .connect()
        .execute(set, (row,))
        .expect("the row is there");
    nas.migrate().ok();
    assert_eq!(uid(), None);
    nas.roll_back().ok();
    assert_eq!(uid().as_deref(), Some("uid-7"));
}

/// rclone and restic would take a placeholder for a password. What stops them is the credential.
#[test]
fn a_task_does_not_move_before_its_credential() {
    let nas = Nas::new(Generation::V25_10, 0);
    let before = nas.fixture.readings();
    let only = |classes: &str| nas.migrate().args(["--only", classes]).ok().json();
    let report = only("tasks");
    assert_eq!(list(&report["items"]), &[] as &[Value]);
    let reasons: Vec<_> = (list(&report["left"]).iter())
        .filter(|left| text(&left["reason"]).contains("move that first"))
        .map(|left| text(&left["column"]))
        .collect();
    assert_eq!(
        reasons,
        ["encryption_password", "encryption_salt", "password"]
    );
    same(&nas.fixture.readings(), &before);
    only("credentials");
    assert_eq!(list(&only("tasks")["items"]).len(), 3);
}

/// The middleware obscures a task's password for rclone, whatever it is, and the launcher finds it.
#[test]
fn a_cloud_syncs_encryption_goes_on_through_the_launcher() {
    let nas = Nas::new(Generation::V25_10, 0);
    let of = |column: &str| {
        let readings = nas.fixture.readings();
        readings[&place("tasks_cloudsync", "1", column)]
            .clone()
            .expect("there is one")
    };
    let plain = [of("encryption_password"), of("encryption_salt")];
    migrate(&nas).ok();
    let placeholders = [of("encryption_password"), of("encryption_salt")];
    let (folder, remote) = (
        nas.vault.folder().join("rclone"),
        nas.vault.folder().join("remote"),
    );
    std::fs::create_dir(&folder).expect("the test's own folder");
    let config = |name: &str, values: &[String; 2]| {
        let obscured = |text: &str| {
            let obscure = nas.vault.run("rclone").args(["obscure", text]);
            obscure.ok().text().trim().to_owned()
        };
        let file = folder.join(name);
        let text = format!(
            "[encrypted]\ntype = crypt\nremote = {}\npassword = {}\npassword2 = {}\n",
            remote.display(),
            obscured(&values[0]),
            obscured(&values[1])
        );
        std::fs::write(&file, text).expect("the test's own folder");
        file
    };
    let (with_placeholders, with_passwords) = (
        config("task.conf", &placeholders),
        config("before.conf", &plain),
    );
    let file = folder.join("photo");
    std::fs::write(&file, "a photo").expect("the test's own folder");
    nas.vault
        .run(nas.vault.programs().credential_provider())
        .args(["rclone", "--", "--config"])
        .arg(&with_placeholders)
        .arg("copyto")
        .arg(&file)
        .arg("encrypted:photo")
        .ok();
    let cat = nas.vault.run("rclone").arg("--config").arg(&with_passwords);
    assert_eq!(cat.args(["cat", "encrypted:photo"]).ok().text(), "a photo");
}

#[test]
fn a_plan_says_what_each_value_is_and_changes_nothing() {
    for generation in GENERATIONS {
        let nas = Nas::new(generation, 1);
        let files = content(nas.vault.folder());
        let all = |run: strongroom_tests::Run| {
            run.args(["--only", ALL])
                .env("STRONGROOM_TCTI", "swtpm:path=/nowhere/tpm")
        };
        let plan = all(nas.on_the_database(&["migrate", "plan", "--json"])).ok();
        let words = all(nas.on_the_database(&["migrate", "plan"])).ok().text();
        assert!(content(nas.vault.folder()) == files, "files were changed");
        tells_no_secret(&nas, &plan);
        for word in [
            "tank/vm/zvol0",
            "vault, token datasets",
            "Nothing was changed",
        ] {
            assert!(words.contains(word), "{word}: {words}");
        }
        let plan = plan.json();
        let planned: BTreeSet<_> = (list(&plan["values"]).iter())
            .filter(|value| value["goes"].is_string())
            .map(place_of)
            .collect();
        for value in list(&plan["values"]) {
            for field in ["what", "reader", "state"] {
                assert!(!text(&value[field]).is_empty(), "{value}");
            }
            // Whatever stays says why.
            assert!(
                value["goes"].is_string() || value["reason"].is_string(),
                "{value}"
            );
        }
        assert_eq!(plan["unknown-columns"], json!([]));
        let report = migrate(&nas).ok().json();
        let moved: BTreeSet<_> = list(&report["items"]).iter().map(place_of).collect();
        assert_eq!(planned, moved);
        // And afterwards, that it is there.
        let plan = all(nas.on_the_database(&["migrate", "plan", "--json"]))
            .ok()
            .json();
        for value in list(&plan["values"]) {
            if moved.contains(&place_of(value)) {
                assert_eq!(value["state"], "in-vault", "{value}");
            }
        }
    }
}

#[test]
fn a_plan_needs_no_vault() {
    let nas = Nas::new(Generation::V26, 0);
    let plan = nas
        .on_the_database(&["migrate", "plan", "--json"])
        .env("STRONGROOM_DIR", nas.vault.folder().join("nothing"))
        .ok()
        .json();
    assert!(
        list(&plan["values"])
            .iter()
            .any(|value| value["goes"].is_string())
    );
}

/// Of a release that nobody has seen yet: what is known moves, what is not is named and stays.
#[test]
fn an_unknown_release_is_named_and_nothing_is_guessed() {
    let nas = Nas::new(Generation::V26, 0);
    let column = nas.fixture.encrypt("a secret of a new kind", true, [3; 8]);
    nas.fixture
        .connect()
        .execute_batch(&format!(
            "ALTER TABLE system_cloudcredentials RENAME COLUMN provider TO vendor;\
             CREATE TABLE services_quantum (id INTEGER PRIMARY KEY, name TEXT, q_key TEXT);\
             INSERT INTO services_quantum VALUES (1, 'entangled', '{column}');\
             DROP TABLE tasks_cloud_backup"
        ))
        .expect("valid SQL");
    let before = nas.fixture.readings();
    let plan = nas
        .on_the_database(&["migrate", "plan", "--json"])
        .ok()
        .json();
    assert_eq!(
        plan["unknown-columns"],
        json!([{"table": "services_quantum", "column": "q_key", "values": 1}])
    );
    let report = nas.migrate().fails_with(1).json();
    let unknown = list(&report["unknown"]);
    assert_eq!(unknown.len(), 1);
    assert_eq!(unknown[0]["class"], "credentials");
    assert!(text(&unknown[0]["reason"]).contains("system_cloudcredentials.provider"));
    let now = nas.fixture.readings();
    for (at, reading) in &before {
        if at.0 != "storage_encrypteddataset" {
            assert_eq!(now[at], *reading, "{at:?}");
        }
    }
    assert!(
        list(&report["items"])
            .iter()
            .all(|item| item["class"] == "datasets")
    );
    assert!(!list(&report["items"]).is_empty());
    nas.roll_back().ok();
    same(&nas.fixture.readings(), &before);
}

/// The journal knows what was asked for.
#[test]
fn a_run_that_was_cut_short_is_resumed_without_being_told_again() {
    let nas = Nas::new(Generation::V25_10, 3);
    let before = nas.fixture.readings();
    let gate = Gate::start(nas.vault.recorder());
    gate.cut_after(60);
    migrate(&nas)
        .env("STRONGROOM_TCTI", gate.tcti())
        .fails_with(4);
    nas.clear_tpm();
    let status = nas.vault.strongroom(&["status"]).ok().text();
    for word in ["MIGRATION", "cut short while sealing", "--resume"] {
        assert!(status.contains(word), "{status}");
    }
    let resume = |code: i32| {
        let run = nas
            .vault
            .strongroom(&["migrate", "--resume", "--yes", "--json"]);
        run.fails_with(code)
    };
    let report = resume(0).json();
    let moved: BTreeSet<_> = list(&report["items"])
        .iter()
        .map(|item| text(&item["class"]))
        .collect();
    assert_eq!(moved, ALL.split(',').map(str::to_owned).collect());
    let status = nas.vault.strongroom(&["status", "--json"]).ok().json();
    assert_eq!(status["migration"]["stage"], "done");
    assert!(
        !nas.vault
            .strongroom(&["status"])
            .ok()
            .text()
            .contains("MIGRATION")
    );
    resume(2).says("no unfinished migration");
    nas.roll_back_by_recovery().ok();
    same(&nas.fixture.readings(), &before);

    // A journal that cannot be read stands in nobody's way.
    let journal = nas.vault.dir().join("migration.json");
    std::fs::write(&journal, "{").expect("the test's own vault");
    resume(7).says("--database");
    nas.vault.strongroom(&["status"]).ok();
    migrate(&nas).ok();
}

#[test]
fn one_migration_waits_for_no_other() {
    let nas = Nas::new(Generation::V26, 0);
    let before = nas.before();
    let mut second = None;
    let first = nas.disturbed(|| {
        let run = nas.migrate().timeout(std::time::Duration::from_secs(60));
        second = Some(run.arg("--while-in-use").finish());
    });
    first.ok();
    let second: Output = second.expect("it ran");
    second.fails_with(5).says("another process is writing");
    nas.is_migrated(&before, strongroom_tests::nas::By::Recovery);
}

/// Where the pool is there, ZFS says whose key it is: one that is not its dataset's is not sealed under
/// its name, and not taken away from where it is.
#[test]
fn a_key_that_zfs_does_not_take_is_left() {
    let nas = Nas::new(Generation::V26, 0);
    let zfs = ZfsStandIn::new();
    zfs.pool("tank", 7);
    let (right, right_name, key) = nas.key_of("tank/vm/zvol0");
    let (wrong, wrong_name, other) = nas.key_of("tank");
    let wrapping = hex::decode(&key).expect("hexadecimal");
    // TrueNAS keeps the keys of raw datasets in hexadecimal digits too.
    zfs.dataset(&right_name, 8, &StandInDataset::raw(&right_name, &wrapping));
    let dataset = StandInDataset::raw(&wrong_name, &[9; 32]).with_format("hex");
    zfs.dataset(&wrong_name, 9, &dataset);
    let report = zfs.around(nas.migrate()).fails_with(1).json();
    let item = |row: i64| {
        let mut items = list(&report["items"]).iter();
        items
            .find(|item| item["class"] == "datasets" && item["row"] == row)
            .cloned()
            .expect("it is reported")
    };
    assert_eq!(report["checked-by-zfs"], 1);
    assert_eq!(item(right)["outcome"], "moved");
    assert_eq!(item(wrong)["id"], Value::Null);
    assert!(
        text(&item(wrong)["outcome"]).contains("not the dataset's key"),
        "{report}"
    );
    let now = nas.fixture.read_back();
    assert_eq!(now.datasets[&wrong].key.as_ref(), Some(&other));
    assert_eq!(now.datasets[&right].key, None);
    assert!(!zfs.calls().contains(&key));

    let check = |name: &str, key: &[u8]| {
        let run = nas.vault.run(nas.vault.programs().zfs_keyprovider());
        zfs.around(run.args(["check", name])).stdin(key)
    };
    check(&right_name, key.as_bytes()).ok();
    check(&right_name, &wrapping).ok();
    check(&wrong_name, "09".repeat(32).as_bytes()).ok();
    check(&wrong_name, other.as_bytes())
        .fails_with(7)
        .says("not the dataset's key");
    check(&wrong_name, b"short").fails_with(7);
    check("tank/nothing", key.as_bytes()).fails_with(6);
    zfs.dataset("tank/plain", 10, &StandInDataset::plain());
    check("tank/plain", key.as_bytes())
        .fails_with(7)
        .says("not encrypted");
    zfs.dataset(
        "tank/vm/zvol0/below",
        11,
        &StandInDataset::raw(&right_name, &wrapping),
    );
    check("tank/vm/zvol0/below", key.as_bytes())
        .fails_with(7)
        .says("its encryption root is tank/vm/zvol0");
    assert_eq!(zfs.read(&right_name, "keystatus"), "unavailable");
}

/// What a secret costs: Create and its policy, and the five commands of the check.
#[test]
#[ignore = "takes minutes; make test-all runs it"]
fn a_thousand_keys_and_two_hundred_credentials() {
    let cost = |datasets: usize, credentials: usize| {
        let nas = Nas::with(|dir| {
            let fixture = Fixture::build(dir, Generation::V26, 1, datasets);
            let connection = fixture.connect();
            for number in 0..credentials {
                let attributes = json!({"access_key_id": format!("AKIA{number}"),
                    "secret_access_key": format!("{number:040x}"), "endpoint": ""});
                let nonce = u64::try_from(number).expect("few").to_be_bytes();
                let column = fixture.encrypt(&attributes.to_string(), false, nonce);
                connection
                    .execute(
                        "INSERT INTO system_cloudcredentials (name, provider, attributes) VALUES \
                         (?1, 'S3', ?2)",
                        (format!("more {number}"), column),
                    )
                    .expect("a new row");
            }
            drop(connection);
            fixture
        });
        nas.vault.recorder().take();
        let output = nas
            .migrate()
            .timeout(std::time::Duration::from_secs(900))
            .ok();
        let locked = output.json()["database-locked-ms"]
            .as_u64()
            .expect("a number");
        let moved = list(&output.json()["items"]).len();
        println!(
            "{moved} secrets in {:?}, the database locked for {locked} ms",
            output.took
        );
        nas.vault.recorder().counts()
    };
    let total = |counts: &BTreeMap<&str, usize>| counts.values().sum::<usize>();
    let (none, all) = (cost(0, 0), cost(1000, 200));
    let each: BTreeMap<_, _> = (all.iter())
        .map(|(name, count)| (*name, count - none.get(name).copied().unwrap_or(0)))
        .filter(|(_, more)| *more > 0)
        .collect();
    println!("1,200 secrets more: {each:?}");
    // Create under PolicyPCR and PolicyAuthorizeNV, after a PolicyRestart; the same for Load; Unseal,
    // FlushContext.
    assert_eq!(each["Create"], 1200);
    assert!(total(&all) - total(&none) <= 1200 * 9, "{each:?}");
}

/// Migrates all classes of a box, checks that nothing else changed and that nothing of it is left, and
/// gives all back.
#[track_caller]
fn moved_and_given_back(nas: &Nas, options: &[&str]) {
    let before = nas.fixture.readings();
    let columns: BTreeMap<Place, Option<String>> = (before.keys())
        .map(|place| (place.clone(), nas.fixture.column(place)))
        .collect();
    let output = migrate(nas).args(options).ok();
    tells_no_secret_of(&output, &before);
    let report = output.json();
    let moved: BTreeSet<Place> = list(&report["items"]).iter().map(place_of).collect();
    let classes: BTreeSet<_> = list(&report["items"])
        .iter()
        .map(|item| text(&item["class"]))
        .collect();
    assert_eq!(classes, ALL.split(',').map(str::to_owned).collect());
    for item in list(&report["items"]) {
        assert_eq!(item["outcome"], "moved");
    }

    // All else is as it was, but for the names that KMIP has for keys that moved.
    let now = nas.fixture.readings();
    assert!(now.keys().eq(before.keys()));
    for (place, reading) in &now {
        let key = (
            place.0.clone(),
            place.1.clone(),
            "encryption_key".to_owned(),
        );
        let uid = place.2 == "kmip_uid" && moved.contains(&key);
        if moved.contains(place) {
            assert_ne!(*reading, before[place], "{place:?}");
        } else if !uid {
            assert_eq!(nas.fixture.column(place), columns[place], "{place:?}");
        }
    }
    // Nothing is left of ciphertext in the database, nor of plaintext anywhere.
    let database = nas.fixture.all_bytes();
    let vault: Vec<u8> = content(&nas.vault.dir()).into_values().flatten().collect();
    let backup = std::fs::read(nas.backup()).expect("it was written");
    for place in &moved {
        let ciphertext = columns[place].as_deref().expect("it was there");
        for (what, bytes) in [
            ("database", &database),
            ("vault", &vault),
            ("backup", &backup),
        ] {
            assert!(
                !contains(bytes, ciphertext.as_bytes()),
                "{place:?} in the {what}"
            );
            for secret in secrets(before[place].as_deref().expect("it was there")) {
                assert!(
                    !contains(bytes, secret.as_bytes()),
                    "{place:?} in the {what}"
                );
            }
        }
    }

    // With the vault, all but what is in the TPM; with the kit, that too.
    let given = nas.roll_back().finish();
    tells_no_secret_of(&given, &before);
    let given = given.fails_with(1).json();
    let kept: BTreeSet<_> = list(&given["kept"]).iter().map(place_of).collect();
    assert!(
        !kept.is_empty() && kept.iter().all(|place| place.2 == "cert_privatekey"),
        "{kept:?}"
    );
    for (place, reading) in nas.fixture.readings() {
        if !kept.contains(&place) {
            assert_eq!(reading, before[&place], "{place:?}");
        }
    }
    let given = nas.roll_back_by_recovery().ok();
    tells_no_secret_of(&given, &before);
    same(&nas.fixture.readings(), &before);
    nas.roll_back().ok();
}

fn migrate(nas: &Nas) -> strongroom_tests::Run {
    nas.migrate().args(["--only", ALL])
}

#[track_caller]
fn same(now: &Readings, before: &Readings) {
    assert!(now.keys().eq(before.keys()));
    for (place, reading) in now {
        assert_eq!(*reading, before[place], "{place:?}");
    }
}

/// The secrets in what a value reads as: a JSON object's fields that are secret by their names, or all.
fn secrets(reading: &str) -> Vec<String> {
    const NAMES: [&str; 6] = [
        "secret_access_key",
        "key",
        "pass",
        "token",
        "client_secret",
        "private_key",
    ];
    match serde_json::from_str::<Value>(reading) {
        Ok(Value::Object(fields)) => (fields.into_iter())
            .filter(|(name, _)| NAMES.contains(&name.as_str()))
            .filter_map(|(_, value)| value.as_str().map(str::to_owned))
            .filter(|value| value.len() > 7)
            .collect(),
        _ => vec![
            reading
                .trim()
                .lines()
                .max_by_key(|line| line.len())
                .unwrap_or("")
                .to_owned(),
        ]
        .into_iter()
        .filter(|secret| secret.len() > 7)
        .collect(),
    }
}

#[track_caller]
fn tells_no_secret(nas: &Nas, output: &Output) {
    tells_no_secret_of(output, &nas.fixture.readings());
}

#[track_caller]
fn tells_no_secret_of(output: &Output, readings: &Readings) {
    const COLUMNS: [&str; 7] = [
        "encryption_key",
        "attributes",
        "cert_privatekey",
        "repl_encryption_key",
        "encryption_password",
        "password",
        "bsdusr_smbhash",
    ];
    let said = [&output.stdout[..], output.stderr.as_bytes()].concat();
    for (place, reading) in readings {
        if COLUMNS.contains(&place.2.as_str()) {
            for secret in reading.iter().flat_map(|reading| secrets(reading)) {
                assert!(!contains(&said, secret.as_bytes()), "{place:?} is told");
            }
        }
    }
}

fn place(table: &str, row: &str, column: &str) -> Place {
    (table.to_owned(), row.to_owned(), column.to_owned())
}

/// Where a value of a report is.
fn place_of(value: &Value) -> Place {
    let row = match &value["row"] {
        Value::String(row) => row.clone(),
        other => other.to_string(),
    };
    (text(&value["table"]), row, text(&value["column"]))
}
