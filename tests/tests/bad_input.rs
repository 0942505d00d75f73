//! What bad input gets: an error that names the file or the object and says what to do next, its
//! own exit code, nothing changed and nothing lost.
//!
//! Whatever is refused here is refused with the whole of the test's folder (vault, kit, database,
//! backup) as it was before, byte for byte.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;

use rusqlite::Connection;
use serde_json::json;
use strongroom_tests::truenas_fixture::{Fixture, Generation};
use strongroom_tests::vault_files::{read_json, snapshot, write_json};
use strongroom_tests::{Output, Run, Swtpm, TestVault};

const UNKNOWN_ID: &str = "00000000-0000-4000-8000-00000000000f";

// The TPM.

#[test]
fn without_a_tpm_everything_that_needs_one_says_where_it_looked() {
    let bench = Bench::new();
    let nowhere = bench.at("no-such-socket");
    // Left by a TPM that has gone, and held by something that hangs up.
    let (left, rude) = (bench.at("left"), bench.at("rude"));
    drop(UnixListener::bind(&left).expect("bound"));
    let hangs_up = UnixListener::bind(&rude).expect("bound");
    thread::spawn(move || hangs_up.incoming().for_each(drop));
    for socket in [nowhere, left, rude] {
        let tcti = format!("swtpm:path={socket}");
        for run in bench.commands_with_tpm() {
            let run = run.env("STRONGROOM_TCTI", &tcti);
            bench.refuses(run, 4, &["no TPM", &socket, "STRONGROOM_TCTI"]);
        }
    }
    // What needs none goes on.
    let list = bench.vault.strongroom(&["list"]);
    list.env("STRONGROOM_TCTI", "swtpm:path=/nowhere").ok();
    bench.opens();
}

#[test]
fn a_tcti_that_is_none_is_called_so() {
    let bench = Bench::new();
    for wrong in ["banana", "swtpm", "device", "tabrmd:=,", "swtpm:path"] {
        let run = bench.unseal().env("STRONGROOM_TCTI", wrong);
        let output = run.finish();
        // A notation that tpm2-tss knows is refused by who should answer there.
        assert!(matches!(output.code(), Some(4 | 7)), "{wrong}: {output}");
        assert!(output.stderr.contains(wrong), "{output}");
    }
    for wrong in ["banana", ""] {
        bench.refuses(bench.unseal().args(["--tcti", wrong]), 2, &["--tcti"]);
    }
    bench.refuses(
        bench.unseal().env("STRONGROOM_TCTI", "banana"),
        7,
        &["TCTI", "banana", "device:/dev/tpmrm0"],
    );
}

// The vault.

#[test]
fn without_a_vault_everything_says_how_to_come_to_one() {
    let bench = Bench::new();
    let empty = bench.at("empty");
    fs::create_dir(&empty).expect("a folder");
    for dir in [bench.at("nowhere"), empty] {
        for run in bench.commands() {
            let run = run.env("STRONGROOM_DIR", &dir);
            bench.refuses(
                run,
                5,
                &["no vault", &dir, "STRONGROOM_DIR", "strongroom init"],
            );
        }
    }
}

#[test]
fn a_manifest_that_is_cut_short_or_garbage_is_damaged() {
    let bench = Bench::new();
    let genuine = fs::read(bench.manifest()).expect("a manifest");
    let mut contents: Vec<Vec<u8>> = (0..genuine.len() - 2)
        .step_by(64)
        .map(|len| genuine[..len].to_vec())
        .collect();
    contents.extend([
        b"\0\xff\xfe garbage".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"{}".to_vec(),
        b"{\"format\": \"1\"}".to_vec(),
        b"{\"format\": -1}".to_vec(),
        b"[".repeat(100_000),
        vec![b' '; 3 << 20],
        [&genuine[..], b"{}"].concat(),
    ]);
    for content in contents {
        fs::write(bench.manifest(), content).expect("written");
        bench.refuses(bench.unseal(), 5, &["vault.json", "strongroom recover"]);
        bench.refuses(bench.seal(), 5, &["vault.json", "strongroom recover"]);
    }
    // A disk that cannot be read.
    fs::remove_file(bench.manifest()).expect("removed");
    fs::create_dir(bench.manifest()).expect("made");
    for run in bench.commands() {
        bench.refuses(run, 5, &["vault.json"]);
    }
    fs::remove_dir(bench.manifest()).expect("removed");
    fs::write(bench.manifest(), genuine).expect("written");
    bench.opens();
}

#[test]
fn flipped_bits_of_the_manifest_and_the_list_never_panic() {
    let bench = Bench::new();
    for (file, count) in [(bench.manifest(), 150), (bench.policy_file(), 50)] {
        Bench::flip(&file, count, |what| {
            let output = bench.unseal().finish();
            match output.code() {
                // A letter's case where hexadecimal digits are read: no change of content.
                Some(0) => assert_eq!(output.stdout, SECRET, "{what}"),
                Some(3..=7) => assert!(output.stdout.is_empty(), "{what}: {output}"),
                _ => panic!("{what}: {output}"),
            }
        });
    }
    bench.opens();
}

#[test]
fn a_newer_vault_is_refused_with_a_clear_word() {
    let bench = Bench::new();
    bench.backup().ok();
    let newer = |file: &Path, pointer: &str| {
        let genuine = fs::read(file).expect("a file");
        let mut value = read_json(file);
        *value.pointer_mut(pointer).expect("a format") = json!(9);
        value["from-the-future"] = json!({"a": 1});
        write_json(file, &value);
        genuine
    };
    let words = ["format 9", "newer program"];

    let genuine = newer(&bench.manifest(), "/format");
    for run in bench.commands() {
        bench.refuses(run, 5, &[&["vault.json"], &words[..]].concat());
    }
    fs::write(bench.manifest(), genuine).expect("written");

    // The kit mends a list that is lost, and leaves alone one that it does not know.
    let genuine = newer(&bench.policy_file(), "/format");
    for run in [
        bench.unseal(),
        bench.seal(),
        bench.rebind(),
        bench.rebind_by_recovery(),
    ] {
        bench.refuses(run, 5, &[&["policy.json"], &words[..]].concat());
    }
    fs::write(bench.policy_file(), genuine).expect("written");

    newer(Path::new(&bench.at("out/backup")), "/format");
    let elsewhere = bench.at("elsewhere");
    let restore = bench.recover().args(["--backup", &bench.at("out/backup")]);
    let restore = restore.env("STRONGROOM_DIR", &elsewhere);
    bench.refuses(restore, 5, &[&["out/backup"], &words[..]].concat());

    let file = bench.file(&bench.id);
    let genuine = newer(&file, "/metadata/format");
    bench.refuses(
        bench.unseal(),
        5,
        &[&[bench.id.as_str()], &words[..]].concat(),
    );
    let list = bench.vault.strongroom(&["list"]).fails_with(1);
    assert!(list.text().contains("newer program"), "{list}");
    bench.other_opens();
    // A recovery of the rest does not touch it.
    let before = fs::read(&file).expect("a file");
    bench.recover().fails_with(1);
    assert_eq!(fs::read(&file).expect("a file"), before);
    bench.other_opens();
    fs::write(&file, genuine).expect("written");
}

// Objects.

#[test]
fn an_object_that_is_cut_short_costs_that_object_alone() {
    let bench = Bench::new();
    let file = bench.file(&bench.id);
    let genuine = fs::read(&file).expect("a file");
    for len in (0..genuine.len() - 2).step_by(61) {
        fs::write(&file, &genuine[..len]).expect("written");
        bench.refuses(bench.unseal(), 5, &[&bench.id, "strongroom recover"]);
        let listed = bench
            .vault
            .strongroom(&["list", "--json"])
            .fails_with(1)
            .json();
        assert!(listed["objects"].to_string().contains(&bench.other));
        assert!(listed["damaged"].to_string().contains(&bench.id));
    }
    for (what, content) in [
        ("garbage", b"\0\xff\xfe".to_vec()),
        ("null", b"null".to_vec()),
        ("too long", vec![b' '; 3 << 20]),
        ("deep", b"[".repeat(100_000)),
    ] {
        fs::write(&file, content).expect("written");
        bench.refuses(bench.unseal(), 5, &[&bench.id]);
        bench.vault.strongroom(&["list"]).fails_with(1);
        bench.other_opens();
        assert!(file.exists(), "{what}");
    }
    // The others are saved, and the loss is said.
    let saved = bench.backup().fails_with(1);
    assert!(saved.text().contains(&bench.id), "{saved}");
    let saved = read_json(Path::new(&bench.at("out/backup")));
    assert_eq!(saved["objects"].as_array().map(Vec::len), Some(1));
    let recovered = bench.recover().fails_with(1);
    assert!(recovered.text().contains(&bench.id), "{recovered}");
    bench.other_opens();
    fs::write(&file, genuine).expect("written");
}

#[test]
fn flipped_bits_of_an_object_cost_that_object_alone() {
    let bench = Bench::new();
    let file = bench.file(&bench.id);
    let mut harmless = 0;
    let mut count = 0;
    Bench::flip(&file, 300, |what| {
        let output = bench.unseal().finish();
        match output.code() {
            Some(0) => {
                assert_eq!(output.stdout, SECRET, "{what}");
                harmless += 1;
            }
            Some(5) => {
                assert!(output.stdout.is_empty(), "{what}: {output}");
                assert!(output.stderr.contains(&bench.id), "{what}: {output}");
            }
            _ => panic!("{what}: {output}"),
        }
        if count % 25 == 0 {
            bench.other_opens();
            let listed = bench.vault.strongroom(&["list", "--json"]).finish();
            assert!(matches!(listed.code(), Some(0 | 1)), "{what}: {listed}");
            let objects = listed.json()["objects"].to_string();
            assert!(objects.contains(&bench.other), "{what}: {listed}");
        }
        count += 1;
    });
    // A letter of the id in upper case is the same id; there is next to nothing else.
    assert!(harmless < 10, "{harmless} flips were not noticed");
    bench.opens();
}

#[test]
fn two_objects_whose_files_were_exchanged_are_refused() {
    let bench = Bench::new();
    let [one, other] = [bench.file(&bench.id), bench.file(&bench.other)];
    let third = bench.vault.seal("credentials", "third", b"third");
    let aside = bench.vault.folder().join("aside");
    let exchange = || {
        fs::rename(&one, &aside).expect("moved");
        fs::rename(&other, &one).expect("moved");
        fs::rename(&aside, &other).expect("moved");
    };
    exchange();
    for id in [&bench.id, &bench.other] {
        let unseal = bench.vault.strongroom(&["unseal", "--id", id]);
        bench.refuses(unseal, 5, &[id, "exchanged"]);
    }
    assert_eq!(bench.vault.unseal_id(&third), b"third");
    let listed = bench.vault.strongroom(&["list"]).fails_with(1).text();
    assert!(listed.contains(&bench.id) && listed.contains(&bench.other));
    exchange();
    bench.opens();
}

#[test]
fn files_that_are_nobodys_objects_are_no_harm() {
    let bench = Bench::new();
    let folder = bench.vault.dir().join("objects/credentials");
    // What a crash leaves, and what people leave.
    fs::write(folder.join(format!(".{}.json.x", bench.id)), b"half").expect("written");
    fs::write(folder.join("README"), b"hello").expect("written");
    bench.vault.strongroom(&["list"]).ok();
    bench.opens();
    fs::create_dir(folder.join(format!("{UNKNOWN_ID}.json"))).expect("made");
    fs::write(folder.join("notes.json"), b"{}").expect("written");
    let listed = bench.vault.strongroom(&["list"]).fails_with(1).text();
    assert!(listed.contains(UNKNOWN_ID) && listed.contains("notes.json"));
    bench.opens();
    bench.backup().fails_with(1);
}

// The recovery kit.

#[test]
fn a_kit_that_is_not_the_vaults_opens_and_changes_nothing() {
    let bench = Bench::new();
    let other = TestVault::new();
    bench.backup().ok();
    let own = fs::read_to_string(bench.vault.recovery()).expect("a kit");
    let strange = fs::read_to_string(other.recovery()).expect("a kit");
    let line = |kit: &str, prefix: &str| {
        let line = kit.lines().find(|line| line.starts_with(prefix));
        line.expect("a kit has it").to_owned()
    };
    let mixed = |prefix: &str| own.replace(&line(&own, prefix), &line(&strange, prefix));
    let fingerprint = line(&own, "# vault key SHA-256: ");
    let kits: Vec<(&str, &str, Vec<u8>)> = vec![
        ("another vault's", "it is of vault", strange.clone().into()),
        ("another's id", "it is of vault", mixed("# vault: ").into()),
        ("another's identity", "does not open", mixed("AGE-").into()),
        ("another's fingerprint", "", mixed("# vault key").into()),
        (
            "no id",
            "does not name",
            own.replace("# vault: ", "# v: ").into(),
        ),
        (
            "no fingerprint",
            "SHA-256",
            own.replace(&fingerprint, "").into(),
        ),
        (
            "no identity",
            "no identity",
            own.replace("AGE-", "# AGE-").into(),
        ),
        (
            "a recipient",
            "age secret key",
            own.replace("AGE-SECRET-KEY-1", "age1").into(),
        ),
        (
            "cut short",
            "age secret key",
            own.trim_end()[..own.len() - 9].into(),
        ),
        ("empty", "does not name", Vec::new()),
        ("garbage", "not text", b"\0\xff\xfe\x80".to_vec()),
        ("too long", "longer", vec![b'#'; 1 << 20]),
    ];
    let file = bench.at("kit");
    let identity = line(&own, "AGE-");
    for (what, words, content) in kits {
        fs::write(&file, content).expect("written");
        for run in bench.commands_with_kit(&file) {
            let output = bench.refused(run);
            // Kit and vault that name different vault keys: either may be at fault.
            let codes: &[i32] = if words.is_empty() { &[5, 7] } else { &[7] };
            let code = output.code().unwrap_or(-1);
            assert!(codes.contains(&code), "{what}: {output}");
            assert!(output.stderr.contains(words), "{what}: {output}");
            output.does_not_show(&identity);
        }
    }
    fs::remove_file(&file).expect("removed");
    for run in bench.commands_with_kit(&file) {
        bench.refuses(run, 7, &[&file]);
    }
    fs::create_dir(&file).expect("made");
    for run in bench.commands_with_kit(&file) {
        bench.refuses(run, 7, &[&file]);
    }
    bench.opens();
    let unseal = bench.unseal().arg("--recovery").arg(bench.vault.recovery());
    assert_eq!(unseal.ok().stdout, SECRET);
}

// Backups.

#[test]
fn a_backup_that_is_not_whole_restores_nothing() {
    let bench = Bench::new();
    bench.backup().ok();
    let backup = bench.at("out/backup");
    let genuine = fs::read(&backup).expect("a backup");
    let elsewhere = bench.at("elsewhere");
    let restore = || {
        bench
            .recover()
            .args(["--backup", &backup])
            .env("STRONGROOM_DIR", &elsewhere)
    };
    let mut contents: Vec<Vec<u8>> = (0..genuine.len() - 2)
        .step_by(499)
        .map(|len| genuine[..len].to_vec())
        .collect();
    let mut fewer = read_json(Path::new(&backup));
    fewer["objects"].as_array_mut().expect("objects").pop();
    contents.push(fewer.to_string().into_bytes());
    let mut swapped = read_json(Path::new(&backup));
    swapped["objects"]
        .as_array_mut()
        .expect("objects")
        .reverse();
    contents.push(swapped.to_string().into_bytes());
    contents.push(fs::read(bench.manifest()).expect("a manifest"));
    for content in contents {
        fs::write(&backup, content).expect("written");
        bench.refuses(restore(), 5, &["out/backup"]);
    }
    fs::write(&backup, &genuine).expect("written");
    Bench::flip(Path::new(&backup), 60, |what| {
        let output = restore().finish();
        match output.code() {
            Some(0) => fs::remove_dir_all(&elsewhere).expect("restored"),
            Some(5 | 7) => assert!(!Path::new(&elsewhere).exists(), "{what}: {output}"),
            _ => panic!("{what}: {output}"),
        }
    });
    // Over another vault, nothing is restored.
    let other = TestVault::new();
    let before = snapshot(&other.dir());
    let over = restore().env("STRONGROOM_DIR", other.dir());
    bench.refuses(over, 5, &[&other.dir().display().to_string()]);
    assert!(snapshot(&other.dir()) == before);
    let missing = bench.recover().args(["--backup", &bench.at("nowhere")]);
    let missing = missing.env("STRONGROOM_DIR", &elsewhere);
    bench.refuses(missing, 7, &["nowhere"]);
    restore().ok();
    let unsealed = bench.unseal().env("STRONGROOM_DIR", &elsewhere).ok();
    assert_eq!(unsealed.stdout, SECRET);
}

#[test]
fn a_backup_that_cannot_be_written_is_the_callers_affair() {
    let bench = Bench::new();
    for file in [bench.at("nowhere/backup"), bench.at("out")] {
        let run = bench.vault.strongroom(&["backup", &file]);
        bench.refuses(run, 7, &[&file]);
        let migrate = bench.migrate_to(&file);
        bench.refuses(migrate, 7, &[&file]);
    }
}

/// A slip of the finger must not cost what cannot be had again.
#[test]
fn a_backup_replaces_an_older_backup_and_nothing_else() {
    let bench = Bench::new();
    for file in [
        bench.at("recovery"),
        bench.at("vault/vault.json"),
        bench.at("vault/policy.json"),
        bench.at("truenas/freenas-v1.db"),
        bench.at("truenas/pwenc_secret"),
        bench.file(&bench.id).display().to_string(),
    ] {
        let run = bench.vault.strongroom(&["backup", &file]);
        bench.refuses(run, 7, &[&file]);
        bench.refuses(bench.migrate_to(&file), 7, &[&file]);
    }
    bench.backup().ok();
    let first = fs::read(bench.at("out/backup")).expect("a backup");
    bench.vault.seal("credentials", "later", b"sealed later");
    bench.backup().ok();
    assert_ne!(fs::read(bench.at("out/backup")).expect("a backup"), first);
}

// The TrueNAS database and its secret.

#[test]
fn a_database_that_is_locked_is_left_alone() {
    let bench = Bench::new();
    let before = snapshot(bench.vault.folder());
    let holder = bench.fixture.connect();
    let refuses = |run: Run| {
        run.fails_with(7)
            .says("freenas-v1.db")
            .says("locked")
            .says("systemctl stop middlewared");
    };
    // Whoever has it open stands in the way, locked or not.
    let open = bench.migrate().fails_with(7);
    open.says("has it open").says("systemctl stop middlewared");
    holder.execute_batch("BEGIN EXCLUSIVE").expect("locked");
    refuses(bench.migrate().arg("--while-in-use"));
    refuses(bench.migrate().arg("--dry-run"));
    holder.execute_batch("ROLLBACK").expect("unlocked");
    // Readable, but not writable: said before anything is sealed.
    holder.execute_batch("BEGIN IMMEDIATE").expect("locked");
    refuses(bench.migrate().arg("--while-in-use"));
    bench.migrate().arg("--dry-run").ok();
    holder.execute_batch("ROLLBACK").expect("unlocked");
    drop(holder);
    assert!(snapshot(bench.vault.folder()) == before);
    bench.migrate().ok();
}

#[test]
fn a_database_that_is_read_only_is_left_alone() {
    let bench = Bench::new();
    let words = ["freenas-v1.db", "Run as root"];
    for (path, mode) in [("truenas/freenas-v1.db", "0444"), ("truenas", "0555")] {
        let path = bench.at(path);
        Run::new("chmod").args([mode, &path]).ok();
        // Root without the capability that lets it pass over a file's mode.
        let restricted = |run: Option<&str>| {
            let programs = bench.vault.programs();
            bench
                .vault
                .run("setpriv")
                .arg("--bounding-set=-dac_override,-dac_read_search,-fowner")
                .arg(programs.strongroom())
                .args(bench.migrate_args(&bench.at("out/backup")))
                .args(run)
        };
        bench.refuses(restricted(None), 7, &words);
        restricted(Some("--dry-run")).ok();
        Run::new("chmod").args(["0755", &path]).ok();
    }
    bench.migrate().ok();
}

#[test]
fn a_database_that_is_none_is_left_alone() {
    let bench = Bench::new();
    let database = &bench.fixture.database;
    let genuine = fs::read(database).expect("a database");
    let mut no_header = genuine.clone();
    no_header[3] ^= 1;
    for content in [
        Vec::new(),
        b"SQLite".to_vec(),
        b"not a database at all, but a text".to_vec(),
        no_header,
    ] {
        fs::write(database, content).expect("written");
        for run in [bench.migrate(), bench.migrate().arg("--dry-run")] {
            bench.refuses(run, 7, &["freenas-v1.db", "not a SQLite database"]);
        }
    }
    // A header, and nothing sound behind it.
    for content in [
        genuine[..100].to_vec(),
        genuine[..genuine.len() / 2].to_vec(),
        {
            let mut spoilt = genuine.clone();
            spoilt[4096..].fill(0xA5);
            spoilt
        },
    ] {
        fs::write(database, content).expect("written");
        for run in [bench.migrate(), bench.migrate().arg("--dry-run")] {
            bench.refuses(run, 7, &["freenas-v1.db"]);
        }
    }
    fs::remove_file(database).expect("removed");
    bench.refuses(bench.migrate(), 7, &["freenas-v1.db", "no such file"]);
    assert!(!database.exists(), "SQLite would have made one");
    fs::create_dir(database).expect("made");
    bench.refuses(bench.migrate(), 7, &["freenas-v1.db"]);
    fs::remove_dir(database).expect("removed");
    fs::write(database, genuine).expect("written");
    bench.migrate().ok();
}

#[test]
fn a_database_of_an_unknown_schema_is_left_alone() {
    // A class of which something is not as it is known is not offered; the other one is.
    for (table, change) in [
        (
            "storage_encrypteddataset",
            "RENAME COLUMN encryption_key TO wrapped_key",
        ),
        ("storage_encrypteddataset", "DROP COLUMN kmip_uid"),
        (
            "system_cloudcredentials",
            "RENAME COLUMN attributes TO provider_attributes",
        ),
        ("system_cloudcredentials", "RENAME COLUMN provider TO kind"),
    ] {
        let bench = Bench::new();
        let connection = bench.fixture.connect();
        connection
            .execute_batch(&format!(
                "PRAGMA foreign_keys = OFF; ALTER TABLE {table} {change}"
            ))
            .expect(change);
        drop(connection);
        let rows = || {
            let readings = bench.fixture.readings().into_iter();
            readings
                .filter(|(place, _)| place.0 == table)
                .collect::<Vec<_>>()
        };
        let before = rows();
        let said = bench.migrate().fails_with(1).text();
        assert!(said.contains("release that is not known here"), "{said}");
        assert!(rows() == before, "{table} was changed");
    }
    for table in ["storage_encrypteddataset", "system_cloudcredentials"] {
        let bench = Bench::new();
        let connection = bench.fixture.connect();
        connection
            .execute_batch(&format!("PRAGMA foreign_keys = OFF; DROP TABLE {table}"))
            .expect(table);
        drop(connection);
        let said = bench.migrate().fails_with(1).text();
        assert!(said.contains("release that is not known here"), "{said}");
    }
    // And where its secret cannot be proven to be its own, nothing is.
    for change in [
        "DROP TABLE system_settings",
        "ALTER TABLE system_settings RENAME COLUMN stg_pwenc_check TO stg_check",
    ] {
        let bench = Bench::new();
        let change = format!("PRAGMA foreign_keys = OFF; {change}");
        let connection = bench.fixture.connect();
        connection.execute_batch(&change).expect(&change);
        drop(connection);
        for run in [bench.migrate(), bench.migrate().arg("--dry-run")] {
            bench.refuses(run, 7, &["freenas-v1.db", "unknown release"]);
        }
    }
    // Somebody else's database, and an empty one.
    let bench = Bench::new();
    let strange = bench.at("strange.db");
    let connection = Connection::open(&strange).expect("made");
    connection
        .execute_batch("CREATE TABLE moz_places (id INTEGER PRIMARY KEY, url TEXT)")
        .expect("made");
    drop(connection);
    let run = bench
        .vault
        .strongroom(&["migrate", "--yes", "--database", &strange, "--pwenc-secret"])
        .arg(&bench.fixture.pwenc_secret)
        .args(["--backup", &bench.at("out/backup")]);
    bench.refuses(run, 7, &["strange.db", "no TrueNAS database"]);
}

#[test]
fn a_pwenc_secret_that_is_not_the_databases_changes_nothing() {
    let bench = Bench::new();
    let file = &bench.fixture.pwenc_secret;
    let genuine = fs::read(file).expect("a secret");
    let mut flipped = genuine.clone();
    flipped[31] ^= 1;
    for (content, words) in [
        (genuine[..31].to_vec(), "31 bytes long"),
        (Vec::new(), "0 bytes long"),
        ([&genuine[..], b"\n"].concat(), "32 raw bytes"),
        (hex::encode(&genuine).into_bytes(), "32 raw bytes"),
        (flipped, "not this database's"),
        (vec![0; 32], "not this database's"),
    ] {
        fs::write(file, content).expect("written");
        for run in [bench.migrate(), bench.migrate().arg("--dry-run")] {
            bench.refuses(run, 7, &["pwenc", "pwenc_secret", words]);
        }
    }
    fs::remove_file(file).expect("removed");
    bench.refuses(bench.migrate(), 7, &["pwenc_secret"]);
    fs::create_dir(file).expect("made");
    bench.refuses(bench.migrate(), 7, &["pwenc_secret"]);
    fs::remove_dir(file).expect("removed");
    fs::write(file, &genuine).expect("written");
    // A database whose check value is gone or spoilt proves no secret to be its own.
    for spoil in [
        "UPDATE system_settings SET stg_pwenc_check = ''",
        "UPDATE system_settings SET stg_pwenc_check = 'AAAA'",
        "DELETE FROM system_settings",
    ] {
        bench
            .fixture
            .connect()
            .execute_batch(spoil)
            .expect("spoilt");
        bench.refuses(bench.migrate(), 7, &["freenas-v1.db", "check value"]);
    }
}

#[test]
fn a_migration_on_a_boot_or_tpm_that_is_not_the_vaults_changes_nothing() {
    let mut bench = Bench::new();
    bench
        .vault
        .reboot(&[(7, "other"), (9, "other"), (11, "other")]);
    bench.refuses(bench.migrate(), 3, &["PCRs 7, 9, 11", "strongroom rebind"]);
    bench.vault.replace_tpm(Swtpm::measured());
    bench.refuses(bench.migrate(), 4, &["TPM", "strongroom recover"]);
}

// What is sealed and unsealed.

#[test]
fn a_secret_that_is_empty_too_long_or_not_there_is_not_sealed() {
    let bench = Bench::new();
    let seal = || bench.seal_as("credentials", "l", "credential");
    bench.refuses(seal().stdin(""), 7, &["empty"]);
    let too_long = vec![7; (1 << 20) + 1];
    bench.refuses(seal().stdin(too_long), 7, &["longer than 1048576"]);
    for file in ["nowhere", "out"] {
        let file = bench.at(file);
        bench.refuses(seal().args(["--file", &file]), 7, &[&file]);
    }
    // The largest is no trouble.
    let large = vec![0xC3; 1 << 20];
    let sealed = seal().arg("--json").stdin(large.clone()).ok().json();
    assert!(bench.vault.unseal_id(sealed["id"].as_str().expect("an id")) == large);
}

#[test]
fn a_token_label_or_kind_that_is_none_is_refused() {
    let bench = Bench::new();
    let too_long = "l".repeat(1025);
    for (token, label, kind, code) in [
        ("nosuchtoken", "l", "credential", 6),
        ("Credentials", "l", "credential", 2),
        ("../vault", "l", "credential", 2),
        ("", "l", "credential", 2),
        ("credentials", "", "credential", 2),
        ("credentials", "a\nb", "credential", 2),
        ("credentials", &too_long, "credential", 2),
        ("credentials", "l", "banana", 2),
        ("credentials", "l", "certificate", 2),
        ("credentials", "l", "private-key", 2),
        ("datasets", "l", "dataset-key", 2),
    ] {
        bench.refuses(bench.seal_as(token, label, kind), code, &[]);
    }
}

#[test]
fn a_dataset_key_that_zfs_would_refuse_is_not_sealed() {
    let bench = Bench::new();
    let seal = |format| {
        bench
            .seal_as("datasets", "tank", "dataset-key")
            .args(["--keyformat", format])
    };
    for (format, content) in [
        ("raw", vec![b'k'; 31]),
        ("raw", vec![b'k'; 33]),
        ("hex", vec![b'a'; 63]),
        ("hex", vec![b'k'; 64]),
        ("hex", vec![b'a'; 66]),
        ("passphrase", b"sevenkk".to_vec()),
        ("passphrase", vec![b'k'; 513]),
        ("passphrase", b"two kkkkk\nlines".to_vec()),
    ] {
        let output = bench.refused(seal(format).stdin(content));
        output.fails_with(7).says("must be").does_not_show("kkkk");
    }
    bench.refuses(seal("banana"), 2, &[]);
}

#[test]
fn what_cannot_be_unsealed_is_refused() {
    let bench = Bench::new();
    let unseal = |args: &[&str]| bench.vault.strongroom(&["unseal"]).args(args);
    bench.refuses(
        unseal(&["--id", UNKNOWN_ID]),
        6,
        &[UNKNOWN_ID, "strongroom list"],
    );
    for args in [
        &["--token", "credentials", "--label", "nowhere"][..],
        &["--token", "keys", "--label", "offsite"],
        &["--token", "nosuchtoken", "--label", "offsite"],
        &["pkcs11:token=credentials;object=offsite;type=cert"],
        &["--id", &bench.id, "--label", "another"],
    ] {
        bench.refuses(unseal(args), 6, &["no object", "strongroom list"]);
    }
    for args in [
        &[][..],
        &["--id", "not-an-id"],
        &["--id", &bench.id.to_uppercase()],
        &["--id", "../../vault"],
        &["offsite"],
        &["pkcs11:colour=red"],
        &["pkcs11:object=%zz"],
        &["--token", "UPPER"],
        &["pkcs11:object=a", "--id", &bench.id],
    ] {
        bench.refuses(unseal(args), 2, &[]);
    }
    let sealed = bench
        .vault
        .strongroom(&[
            "seal",
            "--token",
            "credentials",
            "--label",
            "offsite",
            "--json",
        ])
        .args(["--kind", "secret-key"])
        .stdin("of another kind")
        .ok();
    let again = sealed.json()["id"].as_str().expect("an id").to_owned();
    let run = unseal(&["--token", "credentials", "--label", "offsite"]);
    bench.refuses(run, 6, &["2 objects", &bench.id, &again]);
    bench.refuses(
        unseal(&["--token", "credentials"]),
        6,
        &["3 objects", &bench.other],
    );
    bench.opens();

    for out in ["vault/vault.json", "recovery", "out", "nowhere/secret"] {
        let out = bench.at(out);
        bench.refuses(bench.unseal().args(["--out", &out]), 7, &[&out]);
    }
    // A terminal.
    let program = bench.vault.programs().strongroom();
    let shell = format!("{} unseal --id {}", program.display(), bench.id);
    let at_terminal = |more: &str| {
        bench
            .vault
            .run("script")
            .args([
                "--quiet",
                "--return",
                "--command",
                &format!("{shell}{more}"),
                "/dev/null",
            ])
            .finish()
    };
    let refused = at_terminal("").fails_with(2);
    assert!(refused.text().contains("--force"), "{refused}");
    let secret = String::from_utf8_lossy(SECRET).into_owned();
    refused.does_not_show(&secret);
    assert!(at_terminal(" --force").ok().text().contains(&secret));
}

#[test]
fn init_destroys_nothing_that_is_there() {
    let bench = Bench::new();
    let indices = bench.vault.tpm().handles("nv-index");
    let init = |dir: &str, kit: &str| {
        bench
            .vault
            .strongroom(&["init", "--yes", "--recovery-out", kit])
            .env("STRONGROOM_DIR", dir)
    };
    let (vault, fresh) = (bench.at("vault"), bench.at("fresh"));
    bench.refuses(
        init(&vault, &bench.at("kit")),
        5,
        &["already holds a vault", "STRONGROOM_DIR"],
    );
    for kit in ["recovery", "out", "nowhere/kit"] {
        let kit = bench.at(kit);
        bench.refuses(init(&fresh, &kit), 7, &[&kit, "name a new file"]);
    }
    // The folder cannot be made.
    let beneath_a_file = bench.at("recovery/vault");
    bench.refuses(
        init(&beneath_a_file, &bench.at("kit")),
        5,
        &["recovery/vault"],
    );
    for args in [
        &["init"][..],
        &["init", "--yes"],
        &["init", "--recovery-out", "kit"],
        &["init", "--yes", "--recovery-out", "kit", "--bank", "sha1"],
    ] {
        let run = bench.vault.strongroom(args).env("STRONGROOM_DIR", &fresh);
        bench.refuses(run, 2, &[]);
    }
    let json = bench.vault.strongroom(&["init", "--yes", "--json"]);
    let json = json.env("STRONGROOM_DIR", &fresh).fails_with(2).json();
    assert_eq!(json["exit"], 2);
    assert!(!Path::new(&fresh).exists());
    assert_eq!(bench.vault.tpm().handles("nv-index"), indices);
    bench.opens();
}

#[test]
fn what_changes_the_vault_asks_first() {
    let bench = Bench::new();
    let recovery = bench.at("recovery");
    for args in [
        &["rebind"][..],
        &["rebind", "--recovery", &recovery],
        &["recover", "--recovery", &recovery],
    ] {
        bench.refuses(bench.vault.strongroom(args).stdin("yes\n"), 2, &["--yes"]);
    }
    let mut args = bench.migrate_args(&bench.at("out/backup"));
    args.retain(|arg| arg != "--yes");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    bench.refuses(bench.vault.strongroom(&args).stdin("yes\n"), 2, &["--yes"]);
    for wrong in ["7", "7=5c", "x=00", &format!("99={}", "00".repeat(32))] {
        let output = bench.refused(bench.rebind().args(["--add", wrong]));
        assert!(matches!(output.code(), Some(2 | 7)), "{wrong}: {output}");
    }
    let unbound = format!("4={}", "00".repeat(32));
    bench.refuses(
        bench.rebind().args(["--add", &unbound]),
        7,
        &["PCR 4", "7,9,11"],
    );
}

// Helpers.

const SECRET: &[u8] = b"correct horse battery staple";

/// A vault with two credentials, a database, and folders `out` and `truenas`.
struct Bench {
    vault: TestVault,
    fixture: Fixture,
    id: String,
    other: String,
}

impl Bench {
    fn new() -> Self {
        let vault = TestVault::new();
        let id = vault.seal("credentials", "offsite", SECRET);
        let other = vault.seal("credentials", "other", b"the other");
        for folder in ["truenas", "out"] {
            fs::create_dir(vault.folder().join(folder)).expect("a folder");
        }
        let fixture = Fixture::build(&vault.folder().join("truenas"), Generation::Mixed, 9, 0);
        Self {
            vault,
            fixture,
            id,
            other,
        }
    }

    fn at(&self, name: &str) -> String {
        self.vault.folder().join(name).display().to_string()
    }

    fn manifest(&self) -> PathBuf {
        self.vault.dir().join("vault.json")
    }

    fn policy_file(&self) -> PathBuf {
        self.vault.dir().join("policy.json")
    }

    fn file(&self, id: &str) -> PathBuf {
        let folder = self.vault.dir().join("objects/credentials");
        folder.join(format!("{id}.json"))
    }

    // Commands.

    fn unseal(&self) -> Run {
        self.vault.strongroom(&["unseal", "--id", &self.id])
    }

    fn seal(&self) -> Run {
        self.seal_as("credentials", "next", "credential")
    }

    fn seal_as(&self, token: &str, label: &str, kind: &str) -> Run {
        self.vault
            .strongroom(&["seal", "--token", token, "--label", label])
            .args(["--kind", kind])
            .stdin("the next secret")
    }

    fn rebind(&self) -> Run {
        self.vault.strongroom(&["rebind", "--yes"])
    }

    fn rebind_by_recovery(&self) -> Run {
        self.rebind().arg("--recovery").arg(self.vault.recovery())
    }

    fn recover(&self) -> Run {
        self.vault
            .strongroom(&["recover", "--yes", "--recovery"])
            .arg(self.vault.recovery())
    }

    fn backup(&self) -> Run {
        self.vault.strongroom(&["backup", &self.at("out/backup")])
    }

    fn migrate(&self) -> Run {
        self.migrate_to(&self.at("out/backup"))
    }

    fn migrate_to(&self, backup: &str) -> Run {
        self.vault.strongroom(&[]).args(self.migrate_args(backup))
    }

    fn migrate_args(&self, backup: &str) -> Vec<String> {
        let shown = |path: &Path| path.display().to_string();
        [
            "migrate",
            "--yes",
            "--database",
            &shown(&self.fixture.database),
            "--pwenc-secret",
            &shown(&self.fixture.pwenc_secret),
            "--backup",
            backup,
        ]
        .map(ToOwned::to_owned)
        .to_vec()
    }

    fn keyprovider(&self) -> Run {
        self.vault
            .run(self.vault.programs().zfs_keyprovider())
            .args(["get", "tank"])
    }

    /// Everything that needs a vault.
    fn commands(&self) -> Vec<Run> {
        let list = self.vault.strongroom(&["list"]);
        let status = self.vault.strongroom(&["status"]);
        let mut commands = self.commands_with_vault_and_tpm();
        commands.extend([list, status, self.keyprovider()]);
        commands
    }

    /// Everything that needs a TPM.
    fn commands_with_tpm(&self) -> Vec<Run> {
        let mut commands = self.commands_with_vault_and_tpm();
        commands.push(
            self.vault
                .strongroom(&["init", "--yes", "--recovery-out", &self.at("kit")])
                .env("STRONGROOM_DIR", self.at("fresh")),
        );
        commands
    }

    fn commands_with_vault_and_tpm(&self) -> Vec<Run> {
        vec![
            self.seal(),
            self.unseal(),
            self.backup(),
            self.migrate(),
            self.rebind(),
            self.rebind_by_recovery(),
            self.recover(),
        ]
    }

    fn commands_with_kit(&self, kit: &str) -> Vec<Run> {
        let restore = self
            .vault
            .strongroom(&["recover", "--yes", "--backup", &self.at("out/backup")])
            .env("STRONGROOM_DIR", self.at("elsewhere"));
        [
            self.unseal(),
            self.rebind(),
            self.vault.strongroom(&["recover", "--yes"]),
            restore,
            self.vault.strongroom(&["recovery-kit"]),
            self.vault.strongroom(&["recovery-test"]),
        ]
        .map(|run| run.args(["--recovery", kit]))
        .into()
    }

    // Expectations.

    #[track_caller]
    fn opens(&self) {
        assert_eq!(self.vault.unseal_id(&self.id), SECRET);
        self.other_opens();
    }

    #[track_caller]
    fn other_opens(&self) {
        assert_eq!(self.vault.unseal_id(&self.other), b"the other");
    }

    /// Runs it, and expects that nothing came of it: no secret, no file, no index.
    #[track_caller]
    fn refused(&self, run: Run) -> Output {
        let before = snapshot(self.vault.folder());
        let indices = self.vault.tpm().handles("nv-index");
        let output = run.finish();
        let changed: Vec<_> = {
            let after = snapshot(self.vault.folder());
            let paths = before.keys().chain(after.keys());
            paths
                .filter(|path| before.get(*path) != after.get(*path))
                .cloned()
                .collect()
        };
        assert!(changed.is_empty(), "{changed:?} changed: {output}");
        assert_eq!(self.vault.tpm().handles("nv-index"), indices, "{output}");
        assert!(output.stdout.is_empty(), "{output}");
        assert!(!output.stderr.contains("panicked"), "{output}");
        output
    }

    #[track_caller]
    fn refuses(&self, run: Run, code: i32, words: &[&str]) {
        let mut output = self.refused(run).fails_with(code);
        for word in words {
            output = output.says(word);
        }
    }

    /// Flips `count` bits of a file, one at a time and the same ones in every run, and puts it
    /// back.
    fn flip(file: &Path, count: u64, mut look: impl FnMut(&str)) {
        let genuine = fs::read(file).expect("a file");
        let bits = genuine.len() as u64 * 8;
        for number in 0..count {
            // Spread over the file, and within a byte as chance has it.
            let place = number * bits / count + scatter(number) % (bits / count).max(1);
            let (byte, bit) = ((place / 8) as usize % genuine.len(), place % 8);
            let mut flipped = genuine.clone();
            flipped[byte] ^= 1 << bit;
            fs::write(file, flipped).expect("written");
            look(&format!("bit {bit} of byte {byte} of {}", file.display()));
        }
        fs::write(file, genuine).expect("written");
    }
}

/// SplitMix64's finish: the same numbers everywhere.
fn scatter(seed: u64) -> u64 {
    let mixed = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
