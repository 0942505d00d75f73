//! A box as `strongroom migrate` finds it, a TPM, a vault and a TrueNAS database, and what must be
//! true of vault and database afterwards.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::truenas_fixture::{DatasetNow, Fixture, Generation, ReadBack};
use crate::{Gate, Output, Run, TestVault};

/// The table of dataset keys.
pub const DATASETS: &str = "storage_encrypteddataset";
/// The table of cloud credentials.
pub const CREDENTIALS: &str = "system_cloudcredentials";

/// A box: a TPM, a vault, and a database.
pub struct Nas {
    /// The vault, and the TPM that it is sealed to.
    pub vault: TestVault,
    /// The database, and what is known to be in it.
    pub fixture: Fixture,
}

/// What a database held before.
pub struct Before {
    /// Every row of every table.
    pub rows: ReadBack,
    /// Credentials as their columns decrypt, padding included.
    texts: BTreeMap<i64, Vec<u8>>,
    schema: Vec<String>,
    /// `delete` or `wal`.
    pub journal_mode: String,
    /// Ciphertext that must be gone in the end.
    gone: Vec<String>,
}

/// How to open an object.
#[derive(Clone, Copy)]
pub enum By {
    /// With the TPM, as in daily use.
    Tpm,
    /// With the recovery file, which is four times as fast.
    Recovery,
}

impl Nas {
    /// With a database of this generation, and so many more datasets than there are kinds of rows.
    pub fn new(generation: Generation, datasets: usize) -> Self {
        Self::with(|dir| Fixture::build(dir, generation, 1, datasets))
    }

    /// With the database that `build` makes in a folder.
    pub fn with(build: impl FnOnce(&Path) -> Fixture) -> Self {
        let vault = TestVault::new();
        for folder in ["data", "usb"] {
            fs::create_dir(vault.folder().join(folder)).expect("the vault's folder is ours");
        }
        let fixture = build(&vault.folder().join("data"));
        Self { vault, fixture }
    }

    /// A file in a folder of its own, as on a stick.
    pub fn backup(&self) -> PathBuf {
        self.vault.folder().join("usb/strongroom.backup")
    }

    /// The database's file of another suffix.
    pub fn sidecar(&self, suffix: &str) -> PathBuf {
        let mut name = self.fixture.database.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// `strongroom ARGS...` on this database.
    pub fn on_the_database(&self, args: &[&str]) -> Run {
        self.vault
            .strongroom(args)
            .arg("--database")
            .arg(&self.fixture.database)
            .arg("--pwenc-secret")
            .arg(&self.fixture.pwenc_secret)
    }

    /// `strongroom migrate`, complete, with `--json`.
    pub fn migrate(&self) -> Run {
        self.vault
            .run(self.vault.programs().strongroom())
            .args(self.migrate_args())
    }

    /// `strongroom migrate rollback`, with `--json`.
    pub fn roll_back(&self) -> Run {
        self.on_the_database(&["migrate", "rollback", "--yes", "--json"])
    }

    /// The same with the recovery kit, and without a TPM.
    pub fn roll_back_by_recovery(&self) -> Run {
        self.roll_back()
            .arg("--recovery")
            .arg(self.vault.recovery())
            .env("STRONGROOM_TCTI", "swtpm:path=/nowhere/tpm")
    }

    fn migrate_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = ["migrate", "--yes", "--json"].map(Into::into).into();
        for (option, file) in [
            ("--database", &self.fixture.database),
            ("--pwenc-secret", &self.fixture.pwenc_secret),
            ("--backup", &self.backup()),
        ] {
            args.extend([option.into(), file.into()]);
        }
        args
    }

    /// Runs it after a shell's `script` has mounted something at `place` (`$0`), which nobody
    /// else sees and which is gone with it.
    pub fn migrate_with_mount(&self, script: &str, place: &Path) -> Output {
        self.vault
            .run("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(place)
            .arg(self.vault.programs().strongroom())
            .args(self.migrate_args())
            .finish()
    }

    /// Runs it, and does something in the middle, between two TPM commands.
    pub fn disturbed(&self, meanwhile: impl FnOnce()) -> Output {
        let gate = Gate::start(self.vault.recorder());
        gate.hold_after(60);
        thread::scope(|scope| {
            let run = scope.spawn(|| self.migrate().env("STRONGROOM_TCTI", gate.tcti()).finish());
            wait_until("a command waits at the gate", || gate.holds_one());
            meanwhile();
            gate.open();
            run.join().expect("it ends in time")
        })
    }

    /// Starts it, for a test that kills it.
    pub fn start(&self, tcti: &str) -> Child {
        let mut command = Command::new(self.vault.programs().strongroom());
        command.args(self.migrate_args());
        self.spawn(command, tcti)
    }

    fn spawn(&self, mut command: Command, tcti: &str) -> Child {
        command
            .env("STRONGROOM_DIR", self.vault.dir())
            .env("STRONGROOM_TCTI", tcti)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts")
    }

    /// Kills a run that has had the answers to exactly so many commands.
    pub fn kill_at_command(&self, gate: &Gate, commands: usize) {
        gate.hold_after(commands);
        let mut run = self.start(&gate.tcti());
        let mut has_ended = || run.try_wait().is_ok_and(|ended| ended.is_some());
        wait_until("a command waits at the gate", || {
            gate.holds_one() || has_ended()
        });
        kill_and_wait(&mut run);
        gate.turn_away();
    }

    /// Kills a run as soon as something is so.
    pub fn kill_when(&self, is_so: impl Fn() -> bool) {
        let mut run = self.start(&self.vault.recorder().tcti());
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_so() && run.try_wait().is_ok_and(|ended| ended.is_none()) {
            assert!(Instant::now() < deadline, "it was never so");
        }
        kill_and_wait(&mut run);
    }

    /// Runs it under strace, which kills it at the call `place` of those of a name.
    pub fn killed_by_strace(&self, call: &str, place: u64) {
        let mut command = Command::new("strace");
        command
            .args(["-f", "-qq", "-o", "/dev/null", "-e"])
            .arg(format!("trace={call}"))
            .arg("-e")
            .arg(format!("inject={call}:signal=KILL:when={place}"))
            .arg(self.vault.programs().strongroom())
            .args(self.migrate_args());
        let mut run = self.spawn(command, &self.vault.recorder().tcti());
        let ended = run.wait().expect("it ends");
        assert_eq!(ended.code(), None, "it was not killed: {ended}");
    }

    /// Runs it under strace, which has something happen to a call of a name: `fault` and `place` in
    /// strace's words, such as `error=ENOSPC` and `7`, or from then on `7+`.
    pub fn faulted_by_strace(&self, call: &str, place: &str, fault: &str, args: &[&str]) -> Output {
        self.vault
            .run("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e"])
            .arg(format!("trace={call}"))
            .arg("-e")
            .arg(format!("inject={call}:{fault}:when={place}"))
            .arg(self.vault.programs().strongroom())
            .args(self.migrate_args())
            .args(args)
            .timeout(Duration::from_secs(60))
            .finish()
    }

    /// How many calls of these names an undisturbed run makes.
    pub fn count_calls(&self, calls: &[&str], args: &[&str]) -> BTreeMap<String, u64> {
        let log = self.vault.folder().join("strace");
        self.vault
            .run("strace")
            .args(["-f", "-qq", "-o"])
            .arg(&log)
            .args(["-e", &format!("trace={}", calls.join(","))])
            .arg(self.vault.programs().strongroom())
            .args(self.migrate_args())
            .args(args)
            .ok();
        let log = fs::read_to_string(log).expect("strace wrote it");
        let mut counts = BTreeMap::new();
        for line in log.lines() {
            let call = line
                .split_once(' ')
                .and_then(|(_, call)| call.trim().split_once('('));
            if let Some((call, _)) = call {
                *counts.entry(call.to_owned()).or_default() += 1;
            }
        }
        counts
    }

    /// How many TPM commands an undisturbed run needs. Leaves all as it was.
    pub fn commands_of_a_run(&self) -> usize {
        let pristine = self.save();
        self.vault.recorder().take();
        self.migrate().ok();
        self.restore(&pristine);
        self.vault.recorder().take().len()
    }

    /// What the kernel's resource manager, or a restart, does after a client died.
    pub fn clear_tpm(&self) {
        for what in ["--transient-object", "--loaded-session"] {
            self.vault.tpm().tpm2(&["flushcontext", what]).ok();
        }
    }

    /// Vault and database as they are now.
    pub fn save(&self) -> Saved {
        let saved = ["vault", "data", "usb"].map(|name| content(&self.vault.folder().join(name)));
        Saved(saved.into_iter().flatten().collect())
    }

    /// Puts vault and database back.
    pub fn restore(&self, saved: &Saved) {
        for name in ["vault", "data", "usb"] {
            for file in content(&self.vault.folder().join(name)).into_keys() {
                fs::remove_file(file).expect("the test's own file");
            }
        }
        for (file, bytes) in &saved.0 {
            fs::write(file, bytes).expect("its folder is still there");
        }
    }

    /// The same database in another folder: opened there, what SQLite does to a database that it
    /// finds after a crash is not done to this one.
    pub fn copy_of_database(&self) -> Fixture {
        let folder = self.vault.folder().join("copy");
        // With what SQLite may have left beside an earlier copy.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).expect("the vault's folder is ours");
        let name = self.fixture.database.file_name().expect("it has a name");
        for suffix in ["", "-wal", "-journal"] {
            let mut to = folder.join(name).into_os_string();
            to.push(suffix);
            // Not every database has all of them.
            let _ = fs::copy(self.sidecar(suffix), &to);
        }
        let fixture = &self.fixture;
        Fixture {
            database: folder.join(name),
            pwenc_secret: fixture.pwenc_secret.clone(),
            dataset_keys: fixture.dataset_keys.clone(),
            credentials: fixture.credentials.clone(),
            left_alone: fixture.left_alone.clone(),
            ghosts: fixture.ghosts.clone(),
        }
    }

    /// What the database holds now.
    pub fn before(&self) -> Before {
        self.before_of(&self.fixture)
    }

    /// What a database holds now that is this one's copy.
    pub fn before_of(&self, fixture: &Fixture) -> Before {
        let rows = fixture.read_back();
        let to_move = self.rows_to_move();
        let datasets = rows.datasets.iter().filter_map(|(id, row)| {
            let moves = to_move.contains(&("datasets".to_owned(), *id));
            row.column.clone().filter(|_| moves)
        });
        let credentials = rows.credentials.iter().filter_map(|(id, row)| {
            let moves = to_move.contains(&("credentials".to_owned(), *id));
            moves.then(|| row.column.clone())
        });
        Before {
            gone: datasets
                .chain(credentials)
                .chain(fixture.ghosts.iter().cloned())
                .collect(),
            texts: fixture
                .credentials
                .iter()
                .map(|(id, ..)| (*id, plaintext(fixture, &rows.credentials[id].column)))
                .collect(),
            schema: query(
                fixture,
                "SELECT coalesce(sql, '') FROM sqlite_master ORDER BY name",
            ),
            journal_mode: query(fixture, "PRAGMA journal_mode").concat(),
            rows,
        }
    }

    /// Class and row of everything that must be moved.
    pub fn rows_to_move(&self) -> BTreeSet<(String, i64)> {
        let datasets = self
            .fixture
            .dataset_keys
            .iter()
            .map(|(id, ..)| ("datasets", *id));
        let credentials = self.fixture.credentials.iter();
        let credentials = credentials
            .filter(|(.., secrets)| !secrets.is_empty())
            .map(|(id, ..)| ("credentials", *id));
        named(datasets.chain(credentials))
    }

    /// Class and row of everything that must be left.
    pub fn rows_to_leave(&self) -> BTreeSet<(String, i64)> {
        let bad = self.fixture.left_alone.iter().map(|(table, id)| {
            let class = if *table == DATASETS {
                "datasets"
            } else {
                "credentials"
            };
            (class, *id)
        });
        let credentials = self.fixture.credentials.iter();
        let without_secret = credentials
            .filter(|(.., secrets)| secrets.is_empty())
            .map(|(id, ..)| ("credentials", *id));
        named(bad.chain(without_secret))
    }

    /// Row, name and key of a dataset.
    pub fn key_of(&self, dataset: &str) -> (i64, String, String) {
        let mut keys = self.fixture.dataset_keys.iter();
        keys.find(|(_, name, _)| name == dataset)
            .cloned()
            .expect("the fixture has this dataset")
    }

    /// Row, name, attributes and secret fields of a credential.
    pub fn credential(&self, name: &str) -> (i64, String, Value, Vec<&'static str>) {
        let mut credentials = self.fixture.credentials.iter();
        credentials
            .find(|(_, its, ..)| its == name)
            .cloned()
            .expect("the fixture has this credential")
    }

    /// What the middleware does when a dataset's key is changed.
    pub fn write_key(&self, row: i64, key: &str) {
        let column = self.fixture.encrypt(key, true, [9; 8]);
        let written = self.fixture.connect().execute(
            "UPDATE storage_encrypteddataset SET encryption_key = ?2 WHERE id = ?1",
            (row, column),
        );
        assert_eq!(written, Ok(1));
    }

    /// What the middleware does when a credential is edited.
    pub fn write_attributes(&self, row: i64, attributes: &Value) {
        let column = self.fixture.encrypt(&attributes.to_string(), true, [8; 8]);
        let written = self.fixture.connect().execute(
            "UPDATE system_cloudcredentials SET attributes = ?2 WHERE id = ?1",
            (row, column),
        );
        assert_eq!(written, Ok(1));
    }

    /// What ZFS is given for a dataset.
    #[track_caller]
    pub fn get(&self, dataset: &str) -> String {
        let get = self.vault.run(self.vault.programs().zfs_keyprovider());
        get.args(["get", dataset]).ok().text()
    }

    /// The vault's objects, of which none may be damaged: by origin, with generation and id.
    pub fn objects(&self) -> BTreeMap<String, Vec<(u64, String)>> {
        let listing = self.vault.strongroom(&["list", "--json"]).ok().json();
        assert_eq!(listing["damaged"], json!([]));
        let mut objects: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for object in list(&listing["objects"]) {
            let generation = object["generation"].as_u64().expect("a number");
            objects
                .entry(text(&object["attributes"]["origin"]))
                .or_default()
                .push((generation, text(&object["id"])));
        }
        objects
    }

    /// The only object that came out of a row.
    pub fn object(&self, table: &str, row: i64) -> String {
        let origin = origin(table, row);
        match self.objects().get(&origin).map(Vec::as_slice) {
            Some([(_, id)]) => id.clone(),
            other => panic!("{origin}: {other:?}"),
        }
    }

    fn unseal(&self, id: &str, by: By) -> Vec<u8> {
        let unseal = self.vault.strongroom(&["unseal", "--id", id]);
        match by {
            By::Tpm => unseal.ok().stdout,
            By::Recovery => {
                unseal
                    .arg("--recovery")
                    .arg(self.vault.recovery())
                    .ok()
                    .stdout
            }
        }
    }

    /// Checks that a run which may not do anything did not, apart from so many objects that it
    /// sealed before it found out.
    #[track_caller]
    pub fn is_unchanged_by(
        &self,
        before: &Before,
        objects: RangeInclusive<usize>,
        run: impl FnOnce() -> Output,
    ) {
        let data = self.vault.folder().join("data");
        let files = content(&data);
        let output = run();
        assert!(
            content(&data) == files,
            "the database was changed: {output}"
        );
        assert_eq!(self.fixture.read_back(), before.rows, "{output}");
        let sealed = self.objects();
        assert!(
            objects.contains(&sealed.len()),
            "{} objects: {output}",
            sealed.len()
        );
        assert!(
            sealed.values().all(|versions| versions.len() == 1),
            "{sealed:?}"
        );
    }

    /// Checks that every secret is in the vault, once, that it opens, and that the database has
    /// all else and nothing of these.
    #[track_caller]
    pub fn is_migrated(&self, before: &Before, by: By) {
        let database = &self.fixture;
        let mut objects = BTreeMap::new();
        for (origin, mut versions) in self.objects() {
            assert_eq!(versions.len(), 1, "{origin} is there more than once");
            objects.extend(versions.pop().map(|(_, id)| (origin, id)));
        }
        let origins = self
            .rows_to_move()
            .into_iter()
            .map(|(class, row)| origin(table_of(&class), row));
        assert!(
            objects.keys().cloned().eq(origins.collect::<BTreeSet<_>>()),
            "{objects:?}"
        );

        let now = database.read_back();
        assert_eq!(now.others, before.rows.others);
        assert!(now.datasets.keys().eq(before.rows.datasets.keys()));
        assert!(now.credentials.keys().eq(before.rows.credentials.keys()));
        let mut untouched: BTreeSet<_> = self.rows_to_leave();
        for (id, name, key) in &database.dataset_keys {
            let empty = DatasetNow {
                name: name.clone(),
                column: None,
                key: None,
                kmip_uid: None,
            };
            assert_eq!(now.datasets[id], empty);
            let unsealed = self.unseal(&objects[&origin(DATASETS, *id)], by);
            assert!(unsealed == key.as_bytes(), "{name} is another key");
        }
        for credential in &database.credentials {
            if !credential.3.is_empty() {
                let id = &objects[&origin(CREDENTIALS, credential.0)];
                self.has_placeholders(credential, &now, before, id, by);
            }
        }
        for (id, row) in &now.datasets {
            if untouched.remove(&("datasets".to_owned(), *id)) {
                assert_eq!(*row, before.rows.datasets[id]);
            }
        }
        for (id, row) in &now.credentials {
            if untouched.remove(&("credentials".to_owned(), *id)) {
                assert_eq!(*row, before.rows.credentials[id]);
            }
        }
        assert!(untouched.is_empty(), "{untouched:?} are gone");

        let schema = query(
            database,
            "SELECT coalesce(sql, '') FROM sqlite_master ORDER BY name",
        );
        assert_eq!(schema, before.schema);
        assert_eq!(
            query(database, "PRAGMA journal_mode").concat(),
            before.journal_mode
        );
        assert_eq!(query(database, "PRAGMA integrity_check"), ["ok"]);
        assert_eq!(traces(&database.all_bytes(), &before.gone), &[] as &[&str]);
        assert!(!self.sidecar("-journal").exists());
        let backup = self.ids_in_backup();
        assert!(objects.values().all(|id| backup.contains(id)));
    }

    /// Checks a credential's row and its object.
    #[track_caller]
    fn has_placeholders(
        &self,
        (row, name, attributes, secrets): &(i64, String, Value, Vec<&str>),
        now: &ReadBack,
        before: &Before,
        id: &str,
        by: By,
    ) {
        let (old, new) = (&before.rows.credentials[row], &now.credentials[row]);
        assert_eq!((&new.name, &new.provider), (&old.name, &old.provider));
        let mut expected = attributes.clone();
        let payload = self.unseal(id, by);
        let sealed: BTreeMap<&str, &RawValue> =
            serde_json::from_slice(&payload).expect("a credential's object is JSON");
        assert!(
            sealed
                .keys()
                .copied()
                .eq(secrets.iter().copied().collect::<BTreeSet<_>>())
        );
        let after = plaintext(&self.fixture, &new.column);
        let mut restored = String::from_utf8(after).expect("the column is text");
        for (field, raw) in &sealed {
            let value: Value = serde_json::from_str(raw.get()).expect("a string");
            assert!(value == attributes[field], "{name}: {field} is another");
            expected[field] = json!(placeholder(id));
            let (put, was) = (format!("\"{field}\": \"{}\"", placeholder(id)), raw.get());
            assert_eq!(restored.matches(&put).count(), 1, "{name}");
            restored = restored.replace(&put, &format!("\"{field}\": {was}"));
        }
        assert_eq!(new.attributes.as_ref(), Some(&expected), "{name}");

        // To the byte, apart from padding, which is of the old one's style.
        let (before, after) = (&before.texts[row], plaintext(&self.fixture, &new.column));
        let unpadded = |text: &[u8]| {
            let padding = text.iter().rev().take_while(|&&byte| byte == b'{').count();
            text.len() - padding
        };
        assert!(
            restored.as_bytes()[..unpadded(restored.as_bytes())] == before[..unpadded(before)],
            "{name}: the secrets put back do not give the column as it was"
        );
        let padded = unpadded(before) < before.len();
        let rest = if padded {
            32 - unpadded(&after) % 32
        } else {
            0
        };
        assert_eq!(after.len() - unpadded(&after), rest, "{name}");
    }

    /// Checks a first run's `--json` against what was there.
    #[track_caller]
    pub fn is_reported(&self, before: &Before, report: &Value) {
        let (items, left) = (list(&report["items"]), list(&report["left"]));
        assert_eq!(rows(items), self.rows_to_move());
        assert_eq!(rows(left), self.rows_to_leave());
        for item in items {
            assert_eq!(item["outcome"], "moved");
            let table = table_of(&text(&item["class"]));
            let row = item["row"].as_i64().expect("a number");
            assert_eq!(item["id"], self.object(table, row));
        }
        for row in items.iter().chain(left) {
            let id = row["row"].as_i64().expect("a number");
            let name = if row["class"] == "datasets" {
                &before.rows.datasets[&id].name
            } else {
                &before.rows.credentials[&id].name
            };
            assert_eq!(row["name"], **name);
        }
        for row in left {
            assert!(
                row["reason"]
                    .as_str()
                    .is_some_and(|reason| !reason.is_empty()),
                "{row}"
            );
        }
        assert_eq!(report["dry-run"], false);
        assert_eq!(report["backup"], self.backup().to_string_lossy().as_ref());
    }

    /// Checks, in whatever state a run was left, that each secret is in the database or comes out
    /// of the vault, and that what is out of the database is in the backup too.
    #[track_caller]
    pub fn nothing_is_lost(&self, before: &Before) {
        let copy = self.copy_of_database();
        assert_eq!(query(&copy, "PRAGMA integrity_check"), ["ok"]);
        let now = copy.read_back();
        assert_eq!(now.others, before.rows.others);
        let objects = self.objects();
        let sealed = |table: &str, row: i64| {
            let versions = objects.get(&origin(table, row));
            let newest = versions.and_then(|versions| versions.iter().max());
            let (_, id) = newest.unwrap_or_else(|| panic!("{table}/{row} is in neither place"));
            assert!(
                self.ids_in_backup().contains(id),
                "{table}/{row} is in no backup"
            );
            (id.clone(), self.unseal(id, By::Recovery))
        };
        for (id, name, key) in &copy.dataset_keys {
            let row = &now.datasets[id];
            if row.key.as_ref() != Some(key) {
                assert_eq!(row.column, None, "{name}");
                assert!(sealed(DATASETS, *id).1 == key.as_bytes(), "{name} is lost");
            }
        }
        for (id, name, attributes, secrets) in &copy.credentials {
            let row = now.credentials[id].attributes.as_ref();
            if row == Some(attributes) {
                continue;
            }
            let mut row = row
                .cloned()
                .expect("it decrypts to JSON, with placeholders");
            let (object, payload) = sealed(CREDENTIALS, *id);
            let fields: Value = serde_json::from_slice(&payload).expect("JSON");
            for field in secrets {
                assert_eq!(row[*field], placeholder(&object), "{name}");
                row[*field] = fields[*field].clone();
            }
            assert!(row == *attributes, "{name} is lost");
        }
    }

    /// Every object that the backup holds; none where there is no backup.
    fn ids_in_backup(&self) -> BTreeSet<String> {
        let Ok(bytes) = fs::read(self.backup()) else {
            return BTreeSet::new();
        };
        let backup: Value = serde_json::from_slice(&bytes).expect("a backup is whole or not there");
        list(&backup["objects"])
            .iter()
            .map(|object| text(&object["metadata"]["id"]))
            .collect()
    }
}

/// Files by their paths.
pub struct Saved(BTreeMap<PathBuf, Vec<u8>>);

/// The fixture in WAL mode, with rows that are only in the WAL, as a middleware that was killed
/// leaves it.
pub fn with_unmerged_wal(fixture: Fixture) -> Fixture {
    let fixture = fixture.in_wal_mode();
    let connection = fixture.connect();
    connection
        .execute_batch(
            "UPDATE storage_encrypteddataset SET name = name || '+';\
             UPDATE storage_encrypteddataset SET name = rtrim(name, '+');\
             UPDATE system_cloudcredentials SET name = name || '+';\
             UPDATE system_cloudcredentials SET name = rtrim(name, '+')",
        )
        .expect("the rows are there");
    let files = ["", "-wal"].map(|suffix| {
        let mut file = fixture.database.clone().into_os_string();
        file.push(suffix);
        let bytes = fs::read(&file).expect("the database is open");
        (file, bytes)
    });
    drop(connection);
    for (file, bytes) in files {
        fs::write(file, bytes).expect("the test's own file");
    }
    fixture
}

/// A column decrypted, with whatever padding it has. In this cipher, what zeros encrypt to under
/// the same nonce undoes the encryption.
fn plaintext(fixture: &Fixture, column: &str) -> Vec<u8> {
    let decode = |column: &str| {
        let bytes = BASE64.decode(column);
        bytes.expect("a good column is base64")
    };
    let bytes = decode(column);
    let (nonce, text) = bytes.split_first_chunk().expect("it has a nonce");
    let zeros = "\0".repeat(text.len());
    let keystream = decode(&fixture.encrypt(&zeros, false, *nonce));
    text.iter()
        .zip(&keystream[nonce.len()..])
        .map(|(a, b)| a ^ b)
        .collect()
}

/// Which of the ciphertexts have left even a fragment of 20 characters, 120 random bits.
fn traces<'a>(bytes: &[u8], gone: &'a [String]) -> Vec<&'a str> {
    const PIECE: usize = 20;
    let pieces: HashSet<&[u8]> = bytes.windows(PIECE).collect();
    gone.iter()
        .map(String::as_str)
        .filter(|text| {
            let mut parts = text.as_bytes().chunks_exact(PIECE);
            parts.any(|part| pieces.contains(part))
        })
        .collect()
}

/// Every file in a folder and the folders in it.
pub fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            files.extend(content(&path));
        } else {
            let bytes = fs::read(&path).expect("the file can be read");
            files.insert(path, bytes);
        }
    }
    files
}

fn query(fixture: &Fixture, sql: &str) -> Vec<String> {
    let connection = fixture.connect();
    let mut statement = connection.prepare(sql).expect("a statement");
    let answer = statement.query_map((), |row| row.get(0));
    answer
        .and_then(Iterator::collect)
        .expect("the database answers")
}

fn origin(table: &str, row: i64) -> String {
    format!("truenas:{table}/{row}")
}

/// What stands in the database for a field that is in an object.
pub fn placeholder(id: &str) -> String {
    format!("strongroom:v1:{id}")
}

/// A JSON list.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

/// A JSON text.
pub fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn table_of(class: &str) -> &'static str {
    if class == "datasets" {
        DATASETS
    } else {
        CREDENTIALS
    }
}

/// Class and row of a report's entries.
pub fn rows(entries: &[Value]) -> BTreeSet<(String, i64)> {
    entries
        .iter()
        .map(|entry| {
            (
                text(&entry["class"]),
                entry["row"].as_i64().expect("a number"),
            )
        })
        .collect()
}

fn named<'a>(rows: impl Iterator<Item = (&'a str, i64)>) -> BTreeSet<(String, i64)> {
    rows.map(|(class, row)| (class.to_owned(), row)).collect()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: never");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Ends a run by SIGKILL.
pub fn kill_and_wait(run: &mut Child) {
    // It may have ended by itself.
    let _ = run.kill();
    run.wait().expect("it is our child");
}
