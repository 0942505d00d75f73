//! `strongroom audit`: each kind of old copy is found with its remedy, nothing is changed by the
//! search, nothing secret is shown, and no file, whatever it is, stops it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::write::GzEncoder;
use rusqlite::Connection;
use serde_json::{Value, json};
use strongroom_tests::nas::Nas;
use strongroom_tests::someone::{self, Someone, set_mode};
use strongroom_tests::truenas_fixture::{Fixture, Generation};
use strongroom_tests::{Output, Run};

const HEX_KEY: &str = "5a0fe0c6b1d2938475665748392a1b0cfedcba98765432100123456789abcdef";

// What is found.

#[test]
#[expect(clippy::too_many_lines, reason = "one of each kind")]
fn each_kind_of_old_copy_is_found_with_its_remedy() {
    let bench = Bench::new(Generation::V25_10);
    let database = fs::read(&bench.nas.fixture.database).expect("there");
    let secret = fs::read(&bench.nas.fixture.pwenc_secret).expect("there");
    bench.write("old/freenas-v1.db.bak", &database);
    bench.write("old/pwenc_secret_old.b5f0", [7; 32]);
    bench.write("old/by another name", &secret);
    bench.write("old/config.tar", tar(&[("freenas-v1.db", &database)]));
    bench.write(
        "old/config.tar.gz",
        gzip(&tar(&[
            ("freenas-v1.db", &database),
            ("pwenc_secret", &secret),
        ])),
    );
    bench.write(".zfs/snapshot/auto-1/data/freenas-v1.db", &database);
    bench.write(
        "old/dataset_keys.json",
        json!({ "tank/a": HEX_KEY, "tank/b": HEX_KEY }).to_string(),
    );
    bench.write("old/key", format!("{HEX_KEY}\n"));
    bench.write(
        "old/rclone.conf",
        "[remote]\ntype = s3\naccess_key_id = AKIA\nsecret_access_key = NotForAnyone\n",
    );
    bench.write("old/restic.env", "export RESTIC_PASSWORD='NotForAnyone'\n");
    bench.write(
        "old/id",
        "-----BEGIN RSA PRIVATE KEY-----\nNotForAnyone\n-----END RSA PRIVATE KEY-----\n",
    );
    bench
        .nas
        .vault
        .strongroom(&["backup"])
        .arg(bench.path("old/backup"))
        .ok();
    bench.protect_kit("old/protected kit");

    bench.nas.vault.recorder().take();
    let audit = changing_nothing(&bench, bench.audit(&["--json"]));
    assert!(bench.nas.vault.recorder().take().is_empty(), "no TPM");
    bench.shows_no_secret(&audit);
    let report = audit.json();
    assert_eq!(report["not-looked-at"], json!([]));
    let own = bench.nas.fixture.pwenc_secret.display().to_string();
    for (kind, grade, path, remedy, opened_by) in [
        ("recovery-kit", "serious", "recovery", "recovery-test", None),
        (
            "recovery-kit",
            "caution",
            "old/protected kit",
            "move it off",
            None,
        ),
        (
            "dataset-keys-export",
            "serious",
            "old/dataset_keys.json",
            "rm ",
            None,
        ),
        (
            "configuration-archive",
            "serious",
            "old/config.tar",
            "rm ",
            Some(&own),
        ),
        (
            "configuration-archive",
            "serious",
            "old/config.tar.gz",
            "rm ",
            Some(&own),
        ),
        (
            "database-copy",
            "serious",
            "old/freenas-v1.db.bak",
            "rm ",
            Some(&own),
        ),
        (
            "database-copy",
            "serious",
            ".zfs/snapshot/auto-1/data/freenas-v1.db",
            "destroy the snapshot @auto-1",
            Some(&own),
        ),
        (
            "old-ciphertext",
            "serious",
            "data/freenas-v1.db",
            "migrate",
            Some(&own),
        ),
        (
            "old-ciphertext",
            "serious",
            "old/freenas-v1.db.bak",
            "rm ",
            Some(&own),
        ),
        (
            "not-migrated",
            "serious",
            "data/freenas-v1.db",
            "strongroom migrate",
            Some(&own),
        ),
        (
            "stays-in-database",
            "note",
            "data/freenas-v1.db",
            "nothing moves",
            Some(&own),
        ),
        (
            "old-pwenc-secret",
            "caution",
            "old/pwenc_secret_old.b5f0",
            "rm ",
            None,
        ),
        (
            "old-pwenc-secret",
            "serious",
            "old/by another name",
            "'",
            None,
        ),
        (
            "pwenc-secret",
            "note",
            "data/pwenc_secret",
            "leave it",
            None,
        ),
        (
            "clear-credentials",
            "caution",
            "old/rclone.conf",
            "strongroom seal",
            None,
        ),
        (
            "clear-credentials",
            "caution",
            "old/restic.env",
            "strongroom seal",
            None,
        ),
        (
            "hex-key",
            "caution",
            "old/key",
            "adopt DATASET --rotate",
            None,
        ),
        ("private-key", "note", "old/id", "PKCS#11", None),
        (
            "vault-backup",
            "note",
            "old/backup",
            "off the boot disk",
            None,
        ),
    ] {
        let found = one(&report, kind, &bench.path(path));
        assert_eq!(found["grade"], grade, "{found}");
        assert!(text(&found["remedy"]).contains(remedy), "{found}");
        let by: Vec<_> = opened_by.into_iter().collect();
        let said = found.get("opened-by").cloned().unwrap_or(json!([]));
        assert_eq!(said, json!(by), "{found}");
    }
    // How many, exactly.
    let copy = one(
        &report,
        "database-copy",
        &bench.path("old/freenas-v1.db.bak"),
    );
    let fixture = &bench.nas.fixture;
    let with_secrets = fixture
        .credentials
        .iter()
        .filter(|it| !it.3.is_empty())
        .count();
    let counts = &copy["counts"];
    assert_eq!(
        counts["storage_encrypteddataset.encryption_key"],
        fixture.dataset_keys.len()
    );
    assert_eq!(counts["system_cloudcredentials.attributes"], with_secrets);
    // Which keys that gives away: those that the vault does not know to be rotated.
    let named: Vec<_> = fixture
        .dataset_keys
        .iter()
        .map(|(_, name, _)| name.as_str())
        .collect();
    for name in list(&report["rotation"]["datasets"]) {
        assert!(named.contains(&name.as_str()), "{name}");
    }
    assert!(list(&report["rotation"]["datasets"]).contains(&"tank/secure".to_owned()));
    // The most urgent first.
    let grades: Vec<_> = entries(&report)
        .iter()
        .map(|it| text(&it["grade"]))
        .collect();
    let mut sorted = grades.clone();
    sorted.sort_by_key(|grade| {
        ["serious", "caution", "note"]
            .iter()
            .position(|it| it == grade)
    });
    assert_eq!(grades, sorted);
    // And for people.
    let said = bench.audit(&[]).ok();
    bench.shows_no_secret(&said);
    let said = said.text();
    for words in [
        "recovery kit of this box's vault",
        "strongroom rotate",
        "'/",
        "files were looked at",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn after_a_migration_nothing_of_it_is_in_the_database_any_more() {
    let bench = Bench::new(Generation::Mixed);
    fs::remove_file(bench.nas.vault.recovery()).expect("kept elsewhere");
    let own = &bench.nas.fixture.database.clone();
    let before = bench.audit(&["--json"]).ok().json();
    let ghosts = &one(&before, "old-ciphertext", own)["counts"];
    let count = |of: &Value| {
        of.as_object()
            .expect("counts")
            .values()
            .map(number)
            .sum::<u64>()
    };
    // One that a page's end cuts short before it says what it is may be missed, and no more.
    assert!(
        count(ghosts) >= bench.nas.fixture.ghosts.len() as u64 * 9 / 10,
        "{ghosts}"
    );
    bench.nas.migrate().ok();
    let after = bench.audit(&["--json"]).ok().json();
    assert!(find(&after, "old-ciphertext", own).is_none(), "{after}");
    // Keys and credentials have gone; what migrations of other classes move is named.
    let counts = find(&after, "not-migrated", own).map_or(json!({}), |it| it["counts"].clone());
    for gone in [
        "storage_encrypteddataset.encryption_key",
        "system_cloudcredentials.attributes",
    ] {
        assert_eq!(counts[gone], Value::Null, "{counts}");
    }
}

#[test]
fn old_ciphertext_in_a_write_ahead_log_and_in_a_journal_is_found() {
    let bench = Bench::new(Generation::V26);
    let column = bench.nas.fixture.encrypt(HEX_KEY, false, [3; 8]);
    let database = bench.path("old/freenas-v1.db");
    fs::create_dir(bench.path("old")).expect("new");
    fs::copy(&bench.nas.fixture.database, &database).expect("copied");
    let connection = Connection::open(&database).expect("a database");
    connection
        .pragma_update(None, "journal_mode", "wal")
        .expect("set");
    connection
        .execute(
            "UPDATE storage_encrypteddataset SET encryption_key = ?1 WHERE id = 1",
            (&column,),
        )
        .expect("written");
    let old = |suffix: &str| {
        let mut name = database.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    };
    // As they are while another process holds them.
    let kept = ["", "-wal"].map(|suffix| fs::read(old(suffix)).expect("there"));
    drop(connection);
    for (suffix, bytes) in ["", "-wal"].iter().zip(&kept) {
        fs::write(old(suffix), bytes).expect("written");
    }
    // A journal has the pages of before, among them the very ciphertext that was there.
    let journal = bench.path("old/gone.db-journal");
    let mut bytes = vec![0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    bytes.resize(512, 0);
    bytes.extend(format!("tank/was/here{column}\u{1}").into_bytes());
    fs::write(&journal, bytes).expect("written");

    let report = changing_nothing(&bench, bench.audit(&["--json"])).json();
    for file in [old("-wal"), journal] {
        let found = one(&report, "old-ciphertext", &file);
        // A log has whole pages, with what else is on them.
        let keys = found["counts"]["dataset-key"].as_u64();
        assert!(keys >= Some(1), "{found}");
    }
}

#[test]
fn a_copy_that_nothing_here_opens_is_said_to_be_one() {
    let bench = Bench::new(Generation::V24_10);
    let other = bench.path("other");
    fs::create_dir(&other).expect("new");
    let stranger = Fixture::build(&other, Generation::V24_10, 99, 0);
    let secret = fs::read(&stranger.pwenc_secret).expect("there");
    fs::remove_file(&stranger.pwenc_secret).expect("ours");
    let report = bench.audit(&["--json"]).ok().json();
    let found = one(&report, "database-copy", &stranger.database);
    assert_eq!(found["grade"], "caution", "{found}");
    assert!(
        text(&found["what"]).contains("no secret found here opens"),
        "{found}"
    );
    assert!(find(&report, "old-ciphertext", &stranger.database).is_none());
    // Until somebody names the secret, which lies elsewhere.
    let elsewhere = tempfile::NamedTempFile::new().expect("a file");
    fs::write(elsewhere.path(), secret).expect("written");
    let audit = bench
        .audit(&["--json", "--pwenc-secret"])
        .arg(elsewhere.path());
    let report = audit.ok().json();
    let found = one(&report, "database-copy", &stranger.database);
    assert_eq!(found["grade"], "serious", "{found}");
    assert_eq!(found["opened-by"], json!([elsewhere.path()]), "{found}");
    assert!(find(&report, "old-ciphertext", &stranger.database).is_some());
}

#[test]
fn it_needs_neither_vault_nor_tpm_and_says_what_it_cannot_say() {
    let bench = Bench::new(Generation::V26);
    let audit = bench
        .audit(&["--json", "--dir", "/nonexistent"])
        .env("STRONGROOM_TCTI", "swtpm:path=/nonexistent")
        .ok();
    assert_eq!(audit.json()["vault"], Value::Null);
    let said = bench.audit(&["--dir", "/nonexistent"]).ok().text();
    assert!(said.contains("There is no vault here"), "{said}");
}

#[test]
fn the_exit_code_tells_only_where_it_was_asked_to() {
    let bench = Bench::new(Generation::V26);
    bench
        .audit(&["--check"])
        .fails_with(1)
        .says("more than a note");
    let clean = tempfile::tempdir().expect("a folder");
    let at = |args: &[&str]| {
        let run = bench
            .nas
            .vault
            .strongroom(&["audit", "--database", "/nonexistent"]);
        run.args(["--pwenc-secret", "/nonexistent", "--root"])
            .arg(clean.path())
            .args(args)
    };
    at(&["--check"]).ok();
    at(&["--root", "/nonexistent"])
        .fails_with(2)
        .says("/nonexistent");
    at(&["--root", "/proc/self"])
        .fails_with(2)
        .says("the kernel's");
}

// What stops it not.

#[test]
fn no_file_whatever_it_is_stops_the_search() {
    let bench = Bench::new(Generation::V26);
    let whole = fs::read(&bench.nas.fixture.database).expect("there");
    for len in [
        16,
        17,
        99,
        100,
        101,
        4096,
        5000,
        whole.len() / 2,
        whole.len() - 1,
    ] {
        bench.write(&format!("cut/{len}.db"), &whole[..len]);
    }
    // Random bytes where its pages are.
    let mut noise = whole.clone();
    let mut word: u32 = 7;
    for byte in noise.iter_mut().skip(100).step_by(3) {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte ^= (word >> 24) as u8;
    }
    bench.write("cut/noise.db", &noise);
    let sparse = bench.write("sparse/freenas-v1.db", &whole);
    File::options()
        .write(true)
        .open(&sparse)
        .expect("ours")
        .set_len(1 << 40)
        .expect("sparse");
    let archive = tar(&[("freenas-v1.db", &whole)]);
    for len in [300, 512, 600, 5000, archive.len() - 1025] {
        bench.write(&format!("cut/{len}.tar"), &archive[..len]);
        let zipped = gzip(&archive);
        bench.write(
            &format!("cut/{len}.tar.gz"),
            &zipped[..len.min(zipped.len() - 9)],
        );
    }
    let mut lies = archive.clone();
    lies[124..135].copy_from_slice(b"77777777777");
    bench.write("cut/size.tar", &lies);
    lies[124..136].copy_from_slice(&[0xff; 12]);
    bench.write("cut/binary-size.tar", &lies);
    bench.write("bomb.tar.gz", bomb());
    let fifo = bench.path("fifo.db");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .expect("a fifo");
    let _socket = UnixListener::bind(bench.path("pwenc_secret")).expect("a socket");
    symlink(bench.root(), bench.path("cut/loop")).expect("a link");
    symlink("self", bench.path("self")).expect("a link");
    symlink("/data/freenas-v1.db", bench.path("pwenc_secret_old.link")).expect("a link");
    bench.write("a\nname\u{1b}[31m/pwenc_secret_old.x", [1; 32]);
    endless(&bench.path("endless.db"));

    let begun = Instant::now();
    let audit = bench.audit(&["--json"]).fails_with(1);
    assert!(begun.elapsed() < Duration::from_secs(40), "{audit}");
    let report = audit.says("could not be looked at").json();
    bench.shows_no_secret(&bench.audit(&[]).fails_with(1));
    let reason = |path: &str| {
        let path = bench.path(path);
        let problems = report["not-looked-at"].as_array().expect("a list").iter();
        problems
            .filter(|it| it["path"] == json!(path))
            .map(|it| text(&it["reason"]))
            .collect::<String>()
    };
    assert!(
        reason("sparse/freenas-v1.db").contains("128 MiB"),
        "{report:#}"
    );
    assert!(reason("bomb.tar.gz").contains("256 MiB"), "{report:#}");
    assert!(!reason("cut/5000.tar").is_empty(), "{report:#}");
    assert!(reason("fifo.db").is_empty());
    // What is cut off is searched as bytes.
    let half = one(
        &report,
        "old-ciphertext",
        &bench.path(&format!("cut/{}.db", whole.len() / 2)),
    );
    assert!(text(&half["what"]).contains("damaged"), "{half}");
    // And all else was looked at: what lies after it in the order of names, too.
    one(&report, "recovery-kit", &bench.nas.vault.recovery());
    // Nobody's name steers the terminal.
    let said = bench.audit(&[]).fails_with(1).text();
    assert!(!said.contains('\u{1b}'), "{said}");
}

#[test]
fn files_that_come_and_go_meanwhile_are_no_error() {
    let bench = Bench::new(Generation::V26);
    let stop = AtomicBool::new(false);
    let folder = bench.path("come-and-go");
    fs::create_dir(&folder).expect("new");
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let path = folder.join((number % 50).to_string());
                // Now and then there is a folder of the name, or nothing.
                let _ = match number % 3 {
                    0 => fs::write(&path, [0; 32]),
                    1 => fs::remove_file(&path).and_then(|()| fs::create_dir(&path)),
                    _ => fs::remove_dir(&path),
                };
            }
        });
        for _ in 0..5 {
            bench.audit(&["--json"]).ok();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_this_user_may_not_read_is_named() {
    if !Someone::can_be() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    set_mode(folder.path(), 0o755);
    let bench = Bench::new(Generation::V26);
    let closed = folder.path().join("closed");
    fs::create_dir(&closed).expect("new");
    set_mode(&closed, 0o700);
    let secret = folder.path().join("pwenc_secret_old.1");
    fs::write(&secret, [1; 32]).expect("written");
    set_mode(&secret, 0o600);
    fs::write(
        folder.path().join("z.json"),
        json!({ "tank": HEX_KEY }).to_string(),
    )
    .expect("written");
    set_mode(&folder.path().join("z.json"), 0o644);
    let nobody = Someone::nobody(&[]);
    let run = bench
        .nas
        .vault
        .run_as(&nobody, &bench.nas.vault.programs().strongroom());
    let audit = run
        .args([
            "audit",
            "--json",
            "--database",
            "/nonexistent",
            "--pwenc-secret",
            "/nonexistent",
        ])
        .arg("--root")
        .arg(folder.path())
        .fails_with(1);
    let report = audit.json();
    let named: Vec<_> = report["not-looked-at"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| it["path"].clone())
        .collect();
    assert_eq!(named, [json!(closed), json!(secret)], "{audit}");
    one(
        &report,
        "dataset-keys-export",
        &folder.path().join("z.json"),
    );
}

#[test]
fn other_file_systems_are_passed_over_unless_they_are_named() {
    if !Someone::can_be() {
        someone::skipped("a mount takes root");
        return;
    }
    let bench = Bench::new(Generation::V26);
    let mount = bench.path("mounted");
    fs::create_dir(&mount).expect("new");
    let script = "mount -t tmpfs none \"$0\" && \
        head -c 32 /dev/zero > \"$0/pwenc_secret_old.1\" && exec \"$@\"";
    let audit = |roots: &[&Path]| {
        let run = bench
            .nas
            .vault
            .run("unshare")
            .args(["--mount", "sh", "-c", script]);
        let run = run.arg(&mount).arg(bench.nas.vault.programs().strongroom());
        let run = bench.on_this_box(run.args(["audit", "--json"]));
        roots
            .iter()
            .fold(run, |run, root| run.arg("--root").arg(root))
            .ok()
            .json()
    };
    let report = audit(&[&bench.root()]);
    assert_eq!(report["passed-over"], json!([mount]));
    assert!(
        find(
            &report,
            "old-pwenc-secret",
            &mount.join("pwenc_secret_old.1")
        )
        .is_none()
    );
    let report = audit(&[&bench.root(), &mount]);
    one(
        &report,
        "old-pwenc-secret",
        &mount.join("pwenc_secret_old.1"),
    );
}

/// A box, and the folder above all of it.
struct Bench {
    nas: Nas,
}

impl Bench {
    fn new(generation: Generation) -> Self {
        Self {
            nas: Nas::new(generation, 3),
        }
    }

    fn root(&self) -> PathBuf {
        self.nas.vault.folder().canonicalize().expect("there")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("made");
        fs::write(&path, bytes).expect("written");
        path
    }

    fn protect_kit(&self, name: &str) {
        let words = self.nas.vault.folder().join("passphrase");
        fs::write(&words, "correct horse battery staple").expect("written");
        let kit = self
            .nas
            .vault
            .strongroom(&["recovery-kit", "--protect", "--recovery"]);
        kit.arg(self.nas.vault.recovery())
            .arg("--new-passphrase-file")
            .arg(&words)
            .arg("--out")
            .arg(self.path(name))
            .ok();
        fs::remove_file(words).expect("ours");
    }

    fn on_this_box(&self, run: Run) -> Run {
        run.arg("--database")
            .arg(&self.nas.fixture.database)
            .arg("--pwenc-secret")
            .arg(&self.nas.fixture.pwenc_secret)
    }

    fn audit(&self, args: &[&str]) -> Run {
        let run = self
            .nas
            .vault
            .strongroom(&["audit", "--root"])
            .arg(self.root());
        self.on_this_box(run).args(args)
    }

    #[track_caller]
    fn shows_no_secret(&self, output: &Output) {
        let fixture = &self.nas.fixture;
        let secret = fs::read(&fixture.pwenc_secret).expect("there");
        let mut secrets = vec![
            HEX_KEY.to_owned(),
            "NotForAnyone".to_owned(),
            "AGE-SECRET-KEY".to_owned(),
            hex::encode(&secret),
            BASE64.encode(&secret),
        ];
        secrets.extend(fixture.dataset_keys.iter().map(|(.., key)| key.clone()));
        for (.., attributes, fields) in &fixture.credentials {
            secrets.extend(fields.iter().map(|field| text(&attributes[*field])));
        }
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for secret in secrets {
            assert!(!shown(&output.stdout).contains(&secret), "{secret}");
            assert!(!output.stderr.contains(&secret), "{secret}");
        }
    }
}

/// A file's content; and of files and folders, when they were last changed.
type State = BTreeMap<PathBuf, (Option<Vec<u8>>, SystemTime)>;

/// Runs it, and checks that it wrote nothing and that no file's time of reading tells of it.
#[track_caller]
fn changing_nothing(bench: &Bench, run: Run) -> Output {
    let before = state(&bench.root());
    // Long ago, for a file system notes no reading that is about as late as the last.
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    // The vault is read as any command reads it.
    let vault = bench.path("vault");
    let files = || {
        before
            .iter()
            .filter(|(path, (bytes, _))| bytes.is_some() && !path.starts_with(&vault))
    };
    for (path, _) in files() {
        let file = File::options().write(true).open(path).expect("ours");
        file.set_times(fs::FileTimes::new().set_accessed(long_ago))
            .expect("ours");
    }
    let output = run.ok();
    let accessed = |path: &Path| {
        fs::metadata(path)
            .and_then(|meta| meta.accessed())
            .expect("there")
    };
    let read: Vec<_> = files()
        .map(|(path, _)| path)
        .filter(|path| accessed(path) != long_ago)
        .collect();
    assert!(read.is_empty(), "{read:?} {output}");
    let after = state(&bench.root());
    let all = before.keys().chain(after.keys());
    let changed: Vec<_> = all
        .filter(|path| before.get(*path) != after.get(*path))
        .collect();
    assert!(changed.is_empty(), "{changed:?} {output}");
    output
}

fn state(root: &Path) -> State {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("readable") {
            let path = entry.expect("readable").path();
            let meta = fs::symlink_metadata(&path).expect("there");
            let bytes = meta.is_file().then(|| fs::read(&path).expect("readable"));
            if meta.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path, (bytes, meta.modified().expect("known")));
        }
    }
    found
}

/// An archive of files, as Python's tarfile makes it.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        archive
            .append_data(&mut header, name, *bytes)
            .expect("in memory");
    }
    archive.into_inner().expect("in memory")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

/// An archive with a file of 8 GiB of zeros, in less than a hundred thousandth of that.
fn bomb() -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path("freenas-v1.db").expect("short");
    header.set_size((8 << 30) - 1);
    header.set_cksum();
    // gzip's members follow one another.
    let mut bytes = gzip(header.as_bytes());
    let zeros = gzip(&vec![0; 1 << 20]);
    for _ in 0..400 {
        bytes.extend(&zeros);
    }
    bytes
}

/// A database whose table of keys is a view that never ends.
fn endless(path: &Path) {
    let connection = Connection::open(path).expect("new");
    connection
        .execute_batch(
            "CREATE VIEW storage_encrypteddataset AS WITH RECURSIVE more(id) AS \
             (SELECT 1 UNION ALL SELECT id + 1 FROM more) \
             SELECT id, 'tank' AS name, 'AAAA' AS encryption_key, NULL AS kmip_uid FROM more",
        )
        .expect("SQLite takes it");
}

fn entries(report: &Value) -> Vec<Value> {
    report["findings"].as_array().expect("a list").clone()
}

fn find(report: &Value, kind: &str, path: &Path) -> Option<Value> {
    let mut found = entries(report)
        .into_iter()
        .filter(|it| it["kind"] == kind && it["path"] == json!(path));
    let first = found.next();
    assert!(
        found.next().is_none(),
        "{kind} of {} is there twice",
        path.display()
    );
    first
}

#[track_caller]
fn one(report: &Value, kind: &str, path: &Path) -> Value {
    match find(report, kind, path) {
        Some(found) => found,
        None => panic!("no {kind} of {}: {report:#}", path.display()),
    }
}

fn list(value: &Value) -> Vec<String> {
    value.as_array().expect("a list").iter().map(text).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}
