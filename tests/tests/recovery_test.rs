//! `strongroom recovery-test`: what it says of a vault and a backup that are whole, and of those
//! that are not; and that it leaves everything as it was.

use std::fs;
use std::path::{Path, PathBuf};

use p256::pkcs8::EncodePrivateKey;
use serde_json::Value;
use strongroom::key::{Curve, KeyAlgorithm};
use strongroom::object::{Kind, NewObject, TokenName};
use strongroom::{Secret, Vault};
use strongroom_tests::vault_files::{
    Kit, authenticate, encrypt_to, read_json, snapshot, strange_recipient, write_json,
};
use strongroom_tests::{Output, Run, TestVault, converse};

#[test]
fn a_whole_vault_opens_and_nothing_is_touched() {
    let bench = Bench::new();
    let made = bench.keys_of_all_kinds();
    let backup = bench.backup();
    bench.vault.recorder().take();
    let before = snapshot(bench.vault.folder());
    let tested = bench.test(&["--backup", &backup, "--json"]).ok();
    // But for the note of the day, which `status` reads.
    let note = bench.vault.dir().join(".recovery-test.json");
    fs::remove_file(note).expect("it was noted");
    assert!(snapshot(bench.vault.folder()) == before, "{tested}");
    let commands = bench.vault.recorder().commands();
    assert!(commands.is_empty(), "{commands:?}");
    let report = tested.json();
    for place in ["vault", "backup"] {
        let found = &report[place];
        // Two credentials, a dataset's key, an imported key; a key of the TPM's; a certificate.
        assert_eq!(found["objects"], 6, "{tested}");
        assert_eq!(found["opened"], 4, "{tested}");
        assert_eq!(found["public"], 1, "{tested}");
        assert_eq!(found["damaged"], Value::from(Vec::<Value>::new()));
        assert_eq!(found["in-tpm-alone"][0]["id"], made, "{tested}");
    }
    assert_eq!(report["not-in-backup"], Value::from(Vec::<Value>::new()));
    let said = bench.test(&[]).ok().text();
    assert!(
        said.contains("in this TPM alone: private key made"),
        "{said}"
    );
    assert!(said.contains("Of the 6 objects"), "{said}");
}

#[test]
fn it_needs_neither_tpm_nor_an_allowed_boot() {
    let bench = Bench::new();
    bench.vault.tpm().extend(7, b"another key in db");
    bench.test(&[]).ok();
    bench
        .run(&bench.vault.recovery())
        .env("STRONGROOM_TCTI", "swtpm:path=/nonexistent")
        .ok();
}

#[test]
fn each_object_that_does_not_open_is_named_and_no_other() {
    let bench = Bench::new();
    let backup = bench.backup();
    let file = bench.file(&bench.id);
    let genuine = read_json(&file);
    let other = read_json(&bench.file(&bench.other));
    let vault_key = bench.vault_key();
    let slot = |object: &Value| {
        let slots = object["slots"].as_array().expect("slots").clone();
        let place = slots.iter().position(|slot| slot["type"] == "recovery");
        (place.expect("a recovery slot"), slots)
    };
    let (place, mut slots) = slot(&genuine);
    let (others_place, others) = slot(&other);
    let with_slots = |slots: Vec<Value>, by_holder: bool| {
        let mut object = genuine.clone();
        object["slots"] = slots.into();
        if by_holder {
            authenticate(&mut object, "object", &vault_key);
        }
        object
    };
    let own = slots[place].clone();
    slots[place] = others[others_place].clone();
    let exchanged = with_slots(slots.clone(), false);
    // What no stranger can write; a fault of ours could.
    let exchanged_by_holder = with_slots(slots.clone(), true);
    slots[place]["age"] = encrypt_to(&strange_recipient(), &[7; 32]).into();
    let foreign = with_slots(slots.clone(), true);
    slots[place]["age"] = encrypt_to(&bench.recipient(), &[7; 16]).into();
    let short = with_slots(slots.clone(), true);
    slots[place] = own.clone();
    slots.push(others[others_place].clone());
    let one_more = with_slots(slots.clone(), true);
    slots.pop();
    slots.remove(place);
    let missing = with_slots(slots, true);
    let mut label = genuine.clone();
    label["metadata"]["label"] = "onsite".into();
    for (damaged, reason) in [
        (label, "changed by something other"),
        (exchanged, "changed by something other"),
        (exchanged_by_holder, "payload does not open"),
        (foreign, "recovery slot does not open"),
        (short, "not 32 bytes"),
        (one_more, "payload does not open"),
        (missing, "no recovery slot"),
        (Value::from("{"), "format version"),
    ] {
        write_json(&file, &damaged);
        let tested = bench.test(&["--backup", &backup]).fails_with(1);
        let lines: Vec<_> = tested
            .text()
            .lines()
            .filter(|line| line.starts_with("does not open: "))
            .map(str::to_owned)
            .collect();
        assert_eq!(lines.len(), 1, "{tested}");
        assert!(lines[0].contains(&bench.id), "{tested}");
        assert!(lines[0].contains(reason), "{reason}: {tested}");
        let tested = tested.says("1 of 6 objects do not open");
        // The other, and the whole backup.
        assert!(tested.text().contains("the kit opens 3;"), "{tested}");
        let report = bench.test(&["--json"]).fails_with(1).json();
        assert_eq!(
            report["vault"]["damaged"][0]["file"],
            file.display().to_string()
        );
        assert_eq!(report["vault"]["opened"], 2);
    }
    write_json(&file, &genuine);
    bench.test(&["--backup", &backup]).ok();
}

#[test]
fn another_kit_opens_nothing() {
    let bench = Bench::new();
    let other = TestVault::new();
    bench
        .run(&other.recovery())
        .fails_with(7)
        .says("it is of vault");
    // Nor does one whose identity alone is another's.
    let own = fs::read_to_string(bench.vault.recovery()).expect("the kit");
    let (mine, strange) = (bench.kit(), Kit::read(&other.recovery()));
    let mixed = bench.vault.folder().join("mixed");
    fs::write(&mixed, own.replace(mine.secret(), strange.secret())).expect("written");
    let refused = bench.run(&mixed).fails_with(7).says("does not open");
    assert!(refused.stdout.is_empty(), "{refused}");
}

#[test]
fn a_backup_from_before_opens_and_what_it_lacks_is_said() {
    let bench = Bench::new();
    let backup = bench.backup();
    bench.test(&["--backup", &backup]).ok();
    let newer = bench.vault.seal("credentials", "newer", b"new");
    let tested = bench.test(&["--backup", &backup]).ok().text();
    let line = format!("not in the backup: newer ({newer})");
    assert!(tested.contains(&line), "{tested}");
    let report = bench.test(&["--backup", &backup, "--json"]).ok().json();
    assert_eq!(report["not-in-backup"][0]["id"], newer);
    assert_eq!(report["backup"]["opened"], 3);
    assert_eq!(report["vault"]["opened"], 4);
}

#[test]
fn a_backup_is_tested_where_there_is_no_vault() {
    let bench = Bench::new();
    let backup = bench.backup();
    let elsewhere = |run: Run| run.env("STRONGROOM_DIR", bench.vault.folder().join("nowhere"));
    let kit = bench.vault.recovery();
    let tested = elsewhere(bench.run(&kit))
        .args(["--backup", &backup, "--json"])
        .ok()
        .says("the backup alone");
    assert_eq!(tested.json()["vault"], Value::Null);
    assert_eq!(tested.json()["backup"]["opened"], 3);
    elsewhere(bench.run(&kit)).fails_with(5);
    assert!(!bench.vault.folder().join("nowhere").exists());
}

#[test]
fn a_backup_that_is_not_whole_is_refused_as_recover_would() {
    let bench = Bench::new();
    let backup = bench.backup();
    let genuine = read_json(Path::new(&backup));
    let mut fewer = genuine.clone();
    fewer["objects"].as_array_mut().expect("objects").pop();
    let mut label = genuine.clone();
    label["objects"][0]["metadata"]["label"] = "onsite".into();
    for damaged in [fewer, label, Value::from("{")] {
        write_json(Path::new(&backup), &damaged);
        let refused = bench.test(&["--backup", &backup]);
        refused.fails_with(5).says(&backup);
    }
    // One that its writer has spoilt says of which object.
    let mut spoilt = genuine.clone();
    let key = bench.vault_key();
    let slots = spoilt["objects"][0]["slots"].as_array_mut().expect("slots");
    let place = slots.iter().position(|slot| slot["type"] == "recovery");
    slots.remove(place.expect("a recovery slot"));
    let id = spoilt["objects"][0]["metadata"]["id"].to_string();
    authenticate(&mut spoilt["objects"][0], "object", &key);
    authenticate(&mut spoilt, "backup", &key);
    write_json(Path::new(&backup), &spoilt);
    let tested = bench.test(&["--backup", &backup]).fails_with(1).text();
    assert!(tested.contains(id.trim_matches('"')), "{tested}");
    bench
        .test(&["--backup", "/nonexistent"])
        .fails_with(7)
        .says("/nonexistent");
}

#[test]
fn a_signing_key_of_the_lists_that_does_not_open_is_noticed() {
    let bench = Bench::new();
    let file = bench.vault.dir().join("vault.json");
    let mut manifest = read_json(&file);
    let key = bench.vault_key();
    manifest["writers"]["k-rec"]["private"] = encrypt_to(&bench.recipient(), &[7; 32]).into();
    authenticate(&mut manifest, "manifest", &key);
    write_json(&file, &manifest);
    bench.test(&[]).fails_with(7).says("signing key");
}

#[test]
fn progress_is_shown_at_a_terminal_alone() {
    let bench = Bench::new();
    let program = bench.vault.programs().strongroom();
    let kit = bench.vault.recovery();
    let shown = converse(|python| bench.vault.run(python), &program, 100, &[])
        .args(["recovery-test", "--recovery"])
        .arg(&kit)
        .ok();
    assert!(shown.text().contains("/3"), "{}", shown.text());
    let quiet = bench.test(&[]).ok();
    assert!(!quiet.stderr.contains("/3"), "{quiet}");
}

/// A vault with two credentials and a dataset's key.
struct Bench {
    vault: TestVault,
    id: String,
    other: String,
}

impl Bench {
    fn new() -> Self {
        let vault = TestVault::new();
        let id = vault.seal("credentials", "offsite", b"secret");
        let other = vault.seal("credentials", "other", b"another");
        vault
            .strongroom(&["seal", "--token", "datasets", "--label", "tank"])
            .args(["--kind", "dataset-key", "--keyformat", "raw"])
            .stdin([7; 32])
            .ok();
        Self { vault, id, other }
    }

    /// A key made in the TPM, whose id this answers; one that was imported; a certificate.
    fn keys_of_all_kinds(&self) -> String {
        let tcti = self.vault.recorder().tcti().parse().expect("a TCTI");
        let vault = Vault::open(&self.vault.dir()).expect("open");
        let mut vault = vault.unlock_to_write(&tcti).expect("unlock");
        let named = |label: &str, kind| {
            NewObject::new(TokenName::keys(), label.parse().expect("a label"), kind)
        };
        let p256 = KeyAlgorithm::Ec(Curve::P256);
        let made = vault
            .generate_key(named("made", Kind::PrivateKey), p256)
            .expect("generate");
        let imported = p256::SecretKey::from_slice(&[7; 32]).expect("a number");
        let imported = imported.to_pkcs8_der().expect("it has an encoding");
        vault
            .import_key(
                named("imported", Kind::PrivateKey),
                &Secret::copy_of(imported.as_bytes()),
            )
            .expect("import");
        let certificate = named("certificate", Kind::Certificate);
        vault.store(certificate).expect("store");
        made.to_string()
    }

    fn file(&self, id: &str) -> PathBuf {
        let folder = self.vault.dir().join("objects/credentials");
        folder.join(format!("{id}.json"))
    }

    fn kit(&self) -> Kit {
        Kit::read(&self.vault.recovery())
    }

    fn manifest(&self) -> Value {
        read_json(&self.vault.dir().join("vault.json"))
    }

    fn vault_key(&self) -> Vec<u8> {
        self.kit().vault_key(&self.manifest())
    }

    fn recipient(&self) -> String {
        let manifest = self.manifest();
        let recipient = manifest["recovery-recipient"].as_str();
        recipient.expect("a recipient").to_owned()
    }

    fn backup(&self) -> String {
        let backup = self.vault.folder().join("backup").display().to_string();
        self.vault.strongroom(&["backup", &backup]).ok();
        backup
    }

    fn run(&self, kit: &Path) -> Run {
        self.vault
            .strongroom(&["recovery-test", "--recovery"])
            .arg(kit)
    }

    fn test(&self, options: &[&str]) -> Output {
        self.run(&self.vault.recovery()).args(options).finish()
    }
}
