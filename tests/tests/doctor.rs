//! `strongroom doctor`, and `strongroom init` by the same judgement: event logs of real machines
//! beside real TPMs, and where there is neither.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use strongroom_tests::{Run, Swtpm, TestVault, event_logs};

#[test]
fn the_replay_is_that_of_tpm2_eventlog() {
    let vault = TestVault::without_init(Swtpm::start());
    for log in event_logs::all() {
        let report = doctor(&vault, &log).ok().json();
        let replayed: BTreeMap<u64, String> = report["pcrs"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|pcr| pcr["measured"].as_array().is_some_and(|it| !it.is_empty()))
            .map(|pcr| {
                let value = pcr["replayed"].as_str().expect("a value");
                (pcr["pcr"].as_u64().expect("a number"), value.to_owned())
            })
            .collect();
        assert_eq!(replayed, of_tpm2_tools(&log), "{}", log.display());
    }
}

#[test]
fn a_log_is_compared_with_the_tpm() {
    let log = event_logs::all().remove(0);
    let vault = TestVault::without_init(event_logs::tpm_after(&log));
    let report = doctor(&vault, &log).ok().json();
    assert_eq!(report["event-log"]["replays"], true, "{report:#}");
    assert_eq!(report["tpm"]["manufacturer"], "IBM");
    assert_eq!(report["tpm"]["lacks"], serde_json::json!([]));
    assert_eq!(report["tpm"]["owner-auth-set"], false);

    vault.tpm().extend(9, b"something that nobody logged");
    vault
        .tpm()
        .tpm2(&["changeauth", "-c", "owner", "secret"])
        .ok();
    let report = doctor(&vault, &log).ok().json();
    assert_eq!(report["event-log"]["replays"], false);
    let ids = ids(&report);
    assert!(ids.contains(&"extended-unlogged".to_owned()), "{ids:?}");
    assert!(ids.contains(&"owner-auth-set".to_owned()), "{ids:?}");
    // It looks, and leaves nothing behind.
    assert!(vault.tpm().transient_handles().is_empty());
    assert!(vault.tpm().loaded_sessions().is_empty());
    assert!(!vault.dir().exists());
}

#[test]
fn wrong_authorisations_and_lockout_are_told_apart() {
    let log = event_logs::all().remove(0);
    let vault = TestVault::without_init(event_logs::tpm_after(&log));
    let tpm = vault.tpm();
    let wrong = || {
        let refused = tpm.tpm2(&["nvread", "-C", "0x1500000", "-P", "wrong", "0x1500000"]);
        assert!(!refused.status.success(), "{refused}");
    };
    tpm.tpm2(&["nvdefine", "-p", "right", "-s", "4", "0x1500000"])
        .ok();
    tpm.tpm2(&[
        "dictionarylockout",
        "-s",
        "-n",
        "2",
        "-t",
        "1000",
        "-l",
        "1000",
    ])
    .ok();
    wrong();
    let counted = ids(&doctor(&vault, &log).ok().json());
    assert!(counted.contains(&"failed-tries".to_owned()), "{counted:?}");
    wrong();
    let locked = ids(&doctor(&vault, &log).ok().json());
    assert!(locked.contains(&"lockout".to_owned()), "{locked:?}");
}

#[test]
fn without_a_tpm_or_a_log_it_says_so_and_that_is_no_failure() {
    let vault = TestVault::without_init(Swtpm::measured());
    let nowhere = vault.folder().join("nowhere");
    let tcti = format!("swtpm:path={}", nowhere.display());
    let run = || {
        vault
            .strongroom(&["doctor", "--json"])
            .env("STRONGROOM_TCTI", &tcti)
    };
    let report = run().ok().json();
    assert!(report["tpm"]["missing"].is_string(), "{report:#}");
    assert!(report["event-log"]["missing"].is_string(), "{report:#}");
    // Another TPM's log is not the kernel's.
    let report = vault.strongroom(&["doctor", "--json"]).ok().json();
    assert_eq!(report["tpm"]["sha256-bank"], true);
    let missing = report["event-log"]["missing"].as_str().expect("a reason");
    assert!(missing.contains("--event-log"), "{missing}");
    assert_eq!(
        report["recommended"]["pcrs"]
            .as_str()
            .map(|it| it.contains("7,9,11")),
        Some(true)
    );
    let shown = vault.strongroom(&["doctor"]).ok().text();
    assert!(shown.contains("Recommended (*): --pcrs"), "{shown}");

    let no_log = vault.folder().join("no-log");
    fs::write(&no_log, "this is no event log, though it is long enough").expect("written");
    doctor(&vault, &no_log).fails_with(7).says("event log");
    doctor(&vault, &nowhere).fails_with(5);
}

#[test]
fn init_refuses_pcrs_that_the_log_does_not_lead_to() {
    let log = event_logs::all().remove(0);
    let vault = TestVault::without_init(event_logs::tpm_after(&log));
    vault.tpm().extend(9, b"something that nobody logged");
    init(&vault, &log, &[])
        .fails_with(7)
        .says("does not lead to the value of PCR 9")
        .says("--pcrs");
    assert!(!vault.dir().exists() && !vault.recovery().exists());
    assert!(vault.tpm().handles("nv-index").is_empty());
    // Insisted on.
    init(&vault, &log, &["--pcrs", "7,9"])
        .ok()
        .says("does not lead to the value of PCR 9");
    vault.seal("credentials", "offsite", b"secret");
    assert_eq!(vault.unseal("credentials", "offsite"), b"secret");
}

#[test]
fn init_takes_pcrs_that_the_log_leads_to() {
    for log in event_logs::all() {
        let vault = TestVault::without_init(event_logs::tpm_after(&log));
        let made = init(&vault, &log, &[]).ok();
        assert!(!made.stderr.contains("does not lead"), "{made}");
    }
    // A log that was named and is none is not passed over.
    let vault = TestVault::without_init(Swtpm::measured());
    init(&vault, &vault.folder().join("nowhere"), &[]).fails_with(5);
}

fn doctor(vault: &TestVault, log: &Path) -> Run {
    vault
        .strongroom(&["doctor", "--json", "--event-log"])
        .arg(log)
}

fn init(vault: &TestVault, log: &Path, options: &[&str]) -> Run {
    vault
        .strongroom(&["init", "--yes", "--recovery-out"])
        .arg(vault.recovery())
        .arg("--event-log")
        .arg(log)
        .args(options)
}

fn ids(report: &serde_json::Value) -> Vec<String> {
    let findings = report["findings"].as_array().expect("a list");
    findings
        .iter()
        .map(|finding| finding["id"].as_str().expect("a name").to_owned())
        .collect()
}

/// What tpm2-tools makes of each PCR that a log extends.
fn of_tpm2_tools(log: &Path) -> BTreeMap<u64, String> {
    let printed = Run::new("tpm2_eventlog").arg(log).ok().text();
    let (_, pcrs) = printed.split_once("\npcrs:").expect("it ends with them");
    let (_, sha256) = pcrs.split_once("  sha256:\n").expect("of each bank");
    sha256
        .lines()
        .map_while(|line| {
            let (pcr, value) = line.strip_prefix("    ")?.split_once(':')?;
            let value = value.trim().strip_prefix("0x")?;
            Some((pcr.trim().parse().ok()?, value.to_owned()))
        })
        .collect()
}

/// What stands open on TrueNAS itself, whatever the boot is worth.
#[test]
fn truenass_open_doors_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = folder.path().join("freenas-v1.db");
    let connection = rusqlite::Connection::open(&database).expect("a new database");
    connection
        .execute_batch(
            "CREATE TABLE system_settings (id INTEGER PRIMARY KEY, stg_pwenc_check TEXT);
             CREATE TABLE system_advanced (id INTEGER PRIMARY KEY, adv_consolemenu BOOLEAN NOT NULL,
                 adv_sed_passwd VARCHAR(120) NOT NULL);
             INSERT INTO system_advanced VALUES (1, 0, '');
             CREATE TABLE account_bsdusers (id INTEGER PRIMARY KEY, bsdusr_uid INTEGER NOT NULL,
                 bsdusr_username VARCHAR(16) NOT NULL, bsdusr_password_disabled BOOLEAN NOT NULL,
                 bsdusr_locked BOOLEAN NOT NULL, bsdusr_smbhash TEXT,
                 bsdusr_ssh_password_enabled BOOLEAN DEFAULT '0' NOT NULL);
             INSERT INTO account_bsdusers VALUES (1, 0, 'root', 0, 0, '*', 0),
                 (2, 3000, 'anna', 0, 0, '*', 1);",
        )
        .expect("its tables");
    let nowhere = TestVault::without_init(Swtpm::start());
    let found = || -> Vec<String> {
        let before = fs::read(&database).expect("it is there");
        let doctor = nowhere.strongroom(&["doctor", "--json", "--database"]);
        let report = doctor.arg(&database).ok().json();
        assert!(fs::read(&database).is_ok_and(|now| now == before));
        let all = ids(&report).into_iter();
        all.filter(|id| id.starts_with("truenas-")).collect()
    };
    assert_eq!(found(), &[] as &[&str]);
    let set = |sql: &str| connection.execute_batch(sql).expect("a statement");
    set("UPDATE system_advanced SET adv_consolemenu = 1");
    assert_eq!(found(), ["truenas-console-open"]);
    set("UPDATE account_bsdusers SET bsdusr_ssh_password_enabled = 1 WHERE id = 1");
    assert_eq!(
        found(),
        ["truenas-console-open", "truenas-root-ssh-password"]
    );
    // A password that root does not have lets nobody in.
    set("UPDATE account_bsdusers SET bsdusr_password_disabled = 1 WHERE id = 1");
    assert_eq!(found(), ["truenas-console-open"]);
    let text = nowhere
        .strongroom(&["doctor", "--database"])
        .arg(&database)
        .ok()
        .text();
    assert!(text.contains("Show Text Console without"), "{text}");
    // A release that has it no more has no door there.
    set("ALTER TABLE system_advanced DROP COLUMN adv_consolemenu");
    assert_eq!(found(), &[] as &[&str]);
    // What was named must be what it is named.
    fs::write(&database, "no database").expect("ours");
    nowhere
        .strongroom(&["doctor", "--database"])
        .arg(&database)
        .fails_with(7);
}

/// The databases that each release made, where they are at hand.
#[test]
fn the_samples_of_each_release_are_read() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/truenas");
    let nowhere = TestVault::without_init(Swtpm::start());
    for release in ["24.10", "25.10", "26.0"] {
        let sample = samples.join(release).join("freenas-v1.db");
        if !sample.is_file() {
            println!("skipped: there is no sample of TrueNAS {release}");
            continue;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let database = folder.path().join("freenas-v1.db");
        fs::copy(sample, &database).expect("ours");
        let connection = rusqlite::Connection::open(&database).expect("a database");
        let doctor = || {
            let doctor = nowhere.strongroom(&["doctor", "--json", "--database"]);
            ids(&doctor.arg(&database).ok().json())
        };
        for (menu, open) in [(1, true), (0, false)] {
            connection
                .execute("UPDATE system_advanced SET adv_consolemenu = ?1", [menu])
                .expect("a column");
            let found = doctor().contains(&"truenas-console-open".to_owned());
            assert_eq!(found, open, "{release}");
        }
    }
}
