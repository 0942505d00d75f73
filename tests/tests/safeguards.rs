//! What keeps an owner from losing keys by a wrong command, a bad disk or a run cut short, and
//! from weakening the vault without having said so.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use strongroom::object::{Kind, NewObject, ORIGIN, TokenName};
use strongroom::{Secret, Tcti, Vault};
use strongroom_tests::swtpm::USUAL_BOOT;
use strongroom_tests::truenas_fixture::{Fixture, Generation};
use strongroom_tests::vault_files::{read_json, snapshot};
use strongroom_tests::{Gate, Run, Swtpm, TestVault};

#[test]
fn a_backup_is_written_over_a_backup_of_the_same_vault_alone() {
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    let other = TestVault::new();
    let foreign = backup(&other, "foreign");
    let fixture = fixture(&vault);
    for file in [
        vault.recovery(),
        fixture.database.clone(),
        fixture.pwenc_secret.clone(),
        foreign,
    ] {
        let before = fs::read(&file).expect("there");
        vault
            .strongroom(&["backup"])
            .arg(&file)
            .fails_with(7)
            .says("no backup of this vault");
        migrate(&vault, &fixture, &file)
            .fails_with(7)
            .says("no backup of this vault");
        assert_eq!(
            fs::read(&file).expect("there"),
            before,
            "{}",
            file.display()
        );
    }
    assert_eq!(
        fixture.read_back().datasets.len(),
        fixture.read_back().datasets.len()
    );
    // Nothing was sealed either: the place was looked at first.
    let listed = vault.strongroom(&["list", "--json"]).ok().json();
    assert_eq!(listed["objects"].as_array().map(Vec::len), Some(1));

    let file = backup(&vault, "backup");
    vault.strongroom(&["backup"]).arg(&file).ok();
}

#[test]
fn a_backup_keeps_what_the_vault_has_lost_since() {
    let mut vault = TestVault::new();
    let spoilt = vault.seal("credentials", "spoilt", b"first");
    let gone = vault.seal("credentials", "gone", b"second");
    vault.seal("credentials", "good", b"third");
    let file = backup(&vault, "backup");
    cut_in_half(&object_file(&vault, &spoilt));
    fs::remove_file(object_file(&vault, &gone)).expect("removed");

    let report = vault
        .strongroom(&["backup", "--json"])
        .arg(&file)
        .fails_with(1)
        .json();
    assert_eq!(report["kept"], 2);
    assert_eq!(report["objects"], 3);
    fs::remove_dir_all(vault.dir()).expect("removed");
    vault.replace_tpm(Swtpm::measured());
    recover(&vault, &file).ok();
    for (label, secret) in [("spoilt", "first"), ("gone", "second"), ("good", "third")] {
        assert_eq!(vault.unseal("credentials", label), secret.as_bytes());
    }
}

#[test]
fn a_damaged_object_is_put_back_in_place_and_all_else_stays() {
    let vault = TestVault::new();
    let spoilt = vault.seal("credentials", "spoilt", b"first");
    let file = backup(&vault, "backup");
    vault.seal("credentials", "newer", b"second");
    cut_in_half(&object_file(&vault, &spoilt));
    vault
        .strongroom(&["unseal", "--id", &spoilt])
        .fails_with(5)
        .says("strongroom recover --recovery FILE --backup FILE");
    let indices = vault.tpm().handles("nv-index");

    recover(&vault, &file).ok();
    assert_eq!(vault.unseal("credentials", "spoilt"), b"first");
    assert_eq!(vault.unseal("credentials", "newer"), b"second");
    assert_eq!(vault.tpm().handles("nv-index"), indices);
    // The other way round: the manifest is lost, and the objects are not.
    fs::remove_file(vault.dir().join("vault.json")).expect("removed");
    recover(&vault, &file).ok();
    assert_eq!(vault.unseal("credentials", "newer"), b"second");
}

#[test]
fn a_backup_that_is_restored_elsewhere_leaves_the_live_vault_alone() {
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    let file = backup(&vault, "backup");
    vault.seal("credentials", "newer", b"second");
    let copy = vault.folder().join("copy");
    recover(&vault, &file).env("STRONGROOM_DIR", &copy).ok();
    assert_eq!(vault.unseal("credentials", "newer"), b"second");
    vault.seal("credentials", "newest", b"third");
}

#[test]
fn another_vaults_folder_is_not_restored_into() {
    let (vault, other) = (TestVault::new(), TestVault::new());
    vault.seal("credentials", "offsite", b"secret");
    let file = backup(&vault, "backup");
    let before = snapshot(&other.dir());
    recover(&vault, &file)
        .env("STRONGROOM_DIR", other.dir())
        .fails_with(5)
        .says("another vault");
    assert_eq!(snapshot(&other.dir()), before);
}

#[test]
fn a_recovery_that_is_cut_short_can_be_run_again_or_taken_back() {
    let mut vault = TestVault::new();
    let ids: Vec<_> = (0..6)
        .map(|number| vault.seal("credentials", &format!("c{number}"), b"secret"))
        .collect();
    let first = vault.replace_tpm(Swtpm::measured());
    let whole = {
        // On a TPM of its own, of a copy, to know how long one is.
        let copy = vault.folder().join("copy");
        Run::new("cp").arg("-a").arg(vault.dir()).arg(&copy).ok();
        recover_in_place(&vault).env("STRONGROOM_DIR", &copy).ok();
        vault.recorder().take().len()
    };
    vault.replace_tpm(Swtpm::measured());
    let manifest = fs::read(vault.dir().join("vault.json")).expect("there");
    let mut rewritten = 0;
    for commands in [whole / 3, whole / 2, whole * 2 / 3, whole - 12] {
        let gate = Gate::start(vault.recorder());
        gate.cut_after(commands);
        recover_in_place(&vault)
            .env("STRONGROOM_TCTI", gate.tcti())
            .fails_with(4);
        rewritten += ids.iter().filter(|id| tpm_slots(&vault, id) == 2).count();
        assert_eq!(
            fs::read(vault.dir().join("vault.json")).expect("there"),
            manifest
        );
    }
    assert!(rewritten > 0, "no run was cut short among the objects");

    // Back on the TPM that it came from, nothing has happened.
    let second = vault.replace_tpm(first);
    for id in &ids {
        assert_eq!(vault.unseal_id(id), b"secret");
    }
    vault.replace_tpm(second);
    recover_in_place(&vault).ok();
    for id in &ids {
        assert_eq!(vault.unseal_id(id), b"secret");
        assert_eq!(tpm_slots(&vault, id), 1);
    }
}

#[test]
fn a_move_on_one_tpm_leaves_no_older_list_in_force() {
    let mut vault = TestVault::new();
    let id = vault.seal("credentials", "offsite", b"secret");
    let before = vault.folder().join("before");
    Run::new("cp").arg("-a").arg(vault.dir()).arg(&before).ok();
    // Another program takes the root key's place, and the vault moves beside it.
    vault
        .tpm()
        .tpm2(&["evictcontrol", "-C", "o", "-c", "0x81000001"])
        .ok();
    let primary = vault.folder().join("primary").display().to_string();
    vault
        .tpm()
        .tpm2(&["createprimary", "-C", "o", "-G", "rsa", "-c", &primary])
        .ok();
    vault
        .tpm()
        .tpm2(&["evictcontrol", "-C", "o", "-c", &primary, "0x81000001"])
        .ok();
    vault.tpm().tpm2(&["flushcontext", "-t"]).ok();
    recover_in_place(&vault).ok();
    assert_eq!(vault.unseal_id(&id), b"secret");
    assert_eq!(vault.tpm().handles("nv-index").len(), 1);
    // The boot of then is revoked.
    let now = [
        USUAL_BOOT[0],
        USUAL_BOOT[1],
        (11, "a kernel without the hole"),
    ];
    vault.reboot(&now);
    rebind_by_recovery(&vault, &[]).ok();
    // The thief boots the old kernel, with the old lists and the present objects.
    vault.reboot(USUAL_BOOT);
    vault
        .tpm()
        .tpm2(&["evictcontrol", "-C", "o", "-c", "0x81000001"])
        .ok();
    let theirs = vault.folder().join("theirs");
    Run::new("cp").arg("-a").arg(vault.dir()).arg(&theirs).ok();
    for file in ["vault.json", "policy.json"] {
        fs::copy(before.join(file), theirs.join(file)).expect("copied");
    }
    vault
        .strongroom(&["unseal", "--id", &id])
        .env("STRONGROOM_DIR", &theirs)
        .fails_with(4);
}

#[test]
fn a_word_that_does_not_fit_changes_nothing() {
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    let file = backup(&vault, "backup");
    let before = snapshot(&vault.dir());
    let indices = vault.tpm().handles("nv-index");
    let wrong = "ab".repeat(32);
    for run in [
        recover_in_place(&vault),
        recover(&vault, &file),
        rebind_by_recovery(&vault, &[]),
        vault.strongroom(&["rebind", "--yes"]),
        vault.strongroom(&["backup"]).arg(&file),
    ] {
        run.args(["--vault-key-sha256", &wrong])
            .fails_with(5)
            .says("another vault");
    }
    assert_eq!(snapshot(&vault.dir()), before);
    assert_eq!(vault.tpm().handles("nv-index"), indices);
}

#[test]
fn an_init_that_failed_can_be_run_again() {
    let vault = TestVault::without_init(Swtpm::measured());
    let init = || {
        vault
            .strongroom(&["init", "--yes", "--recovery-out"])
            .arg(vault.recovery())
    };
    vault
        .tpm()
        .tpm2(&["changeauth", "-c", "owner", "word"])
        .ok();
    init().fails_with(4).says("owner hierarchy has a password");
    assert!(!vault.recovery().exists());
    vault
        .tpm()
        .tpm2(&["changeauth", "-c", "owner", "-p", "word"])
        .ok();
    init().ok();
    vault.seal("credentials", "offsite", b"secret");
}

#[test]
fn a_backup_by_a_link_is_where_the_link_leads() {
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    let there = vault.folder().join("there");
    fs::create_dir(&there).expect("a folder");
    let link = vault.folder().join("link");
    std::os::unix::fs::symlink(there.join("backup"), &link).expect("a link");
    vault
        .strongroom(&["backup"])
        .arg(&link)
        .fails_with(7)
        .says("link to nothing");
    let file = there.join("backup");
    vault.strongroom(&["backup"]).arg(&file).ok();
    vault.seal("credentials", "newer", b"secret");
    let before = fs::read(&file).expect("there");
    vault.strongroom(&["backup"]).arg(&link).ok();
    assert!(link.is_symlink());
    assert_ne!(fs::read(&file).expect("there"), before);
}

#[test]
fn a_backup_waits_for_who_writes() {
    let vault = TestVault::new();
    let lock = Vault::open(&vault.dir())
        .and_then(|vault| vault.lock())
        .expect("nobody else writes");
    vault
        .strongroom(&["backup"])
        .arg(vault.folder().join("backup"))
        .fails_with(5)
        .says("another process is writing");
    drop(lock);
    backup(&vault, "backup");
}

#[test]
fn a_row_that_was_made_anew_is_the_same_dataset() {
    let vault = TestVault::new();
    let fixture = fixture(&vault);
    let (row, name, key) = fixture.dataset_keys[0].clone();
    let column: String = fixture
        .connect()
        .query_row(
            "SELECT encryption_key FROM storage_encrypteddataset WHERE id = ?1",
            [row],
            |found| found.get(0),
        )
        .expect("the row");
    let file = vault.folder().join("backup");
    migrate(&vault, &fixture, &file).ok();
    fixture
        .connect()
        .execute(
            "INSERT INTO storage_encrypteddataset (name, encryption_key) VALUES (?1, ?2)",
            (&name, &column),
        )
        .expect("inserted");
    migrate(&vault, &fixture, &file).ok();
    assert_eq!(dataset_key(&vault, &name), key.as_bytes());
}

#[test]
fn the_key_that_was_written_last_is_the_one_given() {
    let vault = TestVault::new();
    let fixture = fixture(&vault);
    let (row, name, key) = fixture.dataset_keys[0].clone();
    let file = vault.folder().join("backup");
    let column = |key: &str, nonce| fixture.encrypt(key, true, [nonce; 8]);
    let other = key.replace(|digit: char| digit.is_ascii_digit(), "f");
    migrate(&vault, &fixture, &file).ok();
    // In a row made anew, and then back in the old one.
    fixture
        .connect()
        .execute(
            "INSERT INTO storage_encrypteddataset (name, encryption_key) VALUES (?1, ?2)",
            (&name, column(&other, 1)),
        )
        .expect("inserted");
    migrate(&vault, &fixture, &file).ok();
    assert_eq!(dataset_key(&vault, &name), other.as_bytes());
    fixture
        .connect()
        .execute(
            "UPDATE storage_encrypteddataset SET encryption_key = ?2 WHERE id = ?1",
            (row, column(&key, 2)),
        )
        .expect("updated");
    migrate(&vault, &fixture, &file).ok();
    assert_eq!(dataset_key(&vault, &name), key.as_bytes());
}

#[test]
fn a_damaged_object_can_be_removed_by_its_id() {
    let vault = TestVault::new();
    let id = vault.seal("credentials", "spoilt", b"first");
    vault.seal("credentials", "good", b"second");
    cut_in_half(&object_file(&vault, &id));
    vault.strongroom(&["list"]).fails_with(1);
    vault.strongroom(&["remove", "--yes", "--id", &id]).ok();
    vault.strongroom(&["list"]).ok();
}

#[test]
fn a_boot_that_measures_nothing_is_allowed_by_name_only() {
    let mut vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    vault.reboot(&[]);
    rebind_by_recovery(&vault, &[])
        .fails_with(7)
        .says("PCR 7, 9, 11");
    vault.reboot(&[USUAL_BOOT[0], USUAL_BOOT[1]]);
    rebind_by_recovery(&vault, &[]).fails_with(7).says("PCR 11");
    vault.reboot(USUAL_BOOT);
    let zeros = format!("11={}", "00".repeat(32));
    vault
        .strongroom(&["rebind", "--yes", "--add", &zeros])
        .fails_with(7);
    // Insisted on by name, it is done, and warned of.
    vault.reboot(&[]);
    rebind_by_recovery(&vault, &["--pcrs", "7"])
        .ok()
        .says("reset value");
    assert_eq!(vault.unseal("credentials", "offsite"), b"secret");
}

#[test]
fn a_lost_list_of_boots_does_not_lose_the_choice_of_pcrs() {
    let vault = TestVault::on(
        Swtpm::boot(&[(4, "loader"), (7, "keys"), (9, "initrd")]),
        &["--pcrs", "4,7,9"],
    );
    vault.seal("credentials", "offsite", b"secret");
    fs::remove_file(vault.dir().join("policy.json")).expect("removed");
    vault
        .strongroom(&["unseal", "--token", "credentials", "--label", "offsite"])
        .fails_with(5)
        .says("rebind --recovery");
    rebind_by_recovery(&vault, &[]).ok();
    assert_eq!(vault.unseal("credentials", "offsite"), b"secret");
    vault.tpm().extend(4, b"another loader");
    vault
        .strongroom(&["unseal", "--token", "credentials", "--label", "offsite"])
        .fails_with(3)
        .says("PCR 4");
    // Another choice is remembered as well.
    rebind_by_recovery(&vault, &["--pcrs", "7"]).ok();
    fs::remove_file(vault.dir().join("policy.json")).expect("removed");
    rebind_by_recovery(&vault, &[]).ok();
    vault.tpm().extend(9, b"another initrd");
    assert_eq!(vault.unseal("credentials", "offsite"), b"secret");
}

#[test]
fn a_vault_that_was_exchanged_as_a_whole_is_handed_nothing() {
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    let kit = fs::read_to_string(vault.recovery()).expect("the kit");
    let fingerprint = kit
        .lines()
        .find_map(|line| line.strip_prefix("# vault key SHA-256: "))
        .expect("the kit names the vault's key")
        .to_owned();
    // The attacker's own vault on this TPM, bound to the owner's boot.
    let theirs = vault.folder().join("theirs");
    vault
        .strongroom(&["init", "--yes", "--recovery-out"])
        .arg(vault.folder().join("their-kit"))
        .env("STRONGROOM_DIR", &theirs)
        .ok();
    for file in ["vault.json", "policy.json"] {
        fs::copy(theirs.join(file), vault.dir().join(file)).expect("copied");
    }
    let seal = || {
        vault
            .strongroom(&["seal", "--token", "credentials", "--label", "next"])
            .args(["--kind", "credential"])
            .stdin(*b"the next secret")
    };
    // None of the objects that are here is of that vault.
    seal().fails_with(5).says("1 of the 1 objects");
    // Who plants as many of their own gets by that, and not by the owner's word.
    vault
        .strongroom(&["seal", "--token", "credentials", "--label", "theirs"])
        .args(["--kind", "credential"])
        .env("STRONGROOM_DIR", &theirs)
        .stdin(*b"theirs")
        .ok();
    let planted = theirs.join("objects/credentials");
    Run::new("cp")
        .arg("-a")
        .arg(planted.join("."))
        .arg(vault.dir().join("objects/credentials"))
        .ok();
    seal()
        .env("STRONGROOM_VAULT_KEY_SHA256", &fingerprint)
        .fails_with(5)
        .says("another vault");
    // Where there is none at all, likewise.
    fs::remove_dir_all(vault.dir().join("objects/credentials")).expect("removed");
    seal()
        .env("STRONGROOM_VAULT_KEY_SHA256", &fingerprint)
        .fails_with(5)
        .says("another vault");
    let fixture = fixture(&vault);
    migrate(&vault, &fixture, &vault.folder().join("backup"))
        .args(["--vault-key-sha256", &fingerprint])
        .fails_with(5);
}

#[test]
fn the_owners_word_fits_the_owners_vault() {
    let vault = TestVault::without_init(Swtpm::measured());
    let made = vault
        .strongroom(&["init", "--yes", "--json", "--recovery-out"])
        .arg(vault.recovery())
        .ok()
        .json();
    let fingerprint = made["vault-key-sha256"].as_str().expect("named").to_owned();
    vault
        .strongroom(&["seal", "--token", "credentials", "--label", "x"])
        .args(["--kind", "credential", "--vault-key-sha256", &fingerprint])
        .stdin(*b"secret")
        .ok();
}

#[test]
fn writers_take_turns() {
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    let add = |byte: &str| format!("11={}", byte.repeat(32));
    thread::scope(|scope| {
        for byte in ["a1", "b2", "c3", "d4"] {
            let value = add(byte);
            let vault = &vault;
            scope.spawn(move || vault.strongroom(&["rebind", "--yes", "--add", &value]).ok());
        }
        for number in 0..4 {
            let vault = &vault;
            scope.spawn(move || vault.seal("credentials", "same", format!("{number}").as_bytes()));
        }
    });
    let status = vault.strongroom(&["status", "--json"]).ok().json();
    assert_eq!(status["boot"]["branches"].as_array().map(Vec::len), Some(5));
    // Each of the four superseded the one before, so that the label has one meaning.
    vault.unseal("credentials", "same");
    let listed = vault.strongroom(&["list", "--json"]).ok().json();
    let mut generations: Vec<_> = listed["objects"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|object| object["label"] == "same")
        .filter_map(|object| object["generation"].as_u64())
        .collect();
    generations.sort_unstable();
    assert_eq!(generations, [1, 2, 3, 4]);
}

#[test]
fn sealing_a_label_again_makes_a_newer_version_and_keeps_the_older() {
    let vault = TestVault::new();
    let first = vault.seal("credentials", "offsite", b"old");
    let second = vault.seal("credentials", "offsite", b"new");
    assert_eq!(vault.unseal("credentials", "offsite"), b"new");
    assert_eq!(vault.unseal_id(&first), b"old");
    vault.strongroom(&["remove", "--yes", "--id", &second]).ok();
    assert_eq!(vault.unseal("credentials", "offsite"), b"old");
    vault
        .strongroom(&["remove", "--yes", "--id", &second])
        .fails_with(6);
}

#[test]
fn two_things_of_one_name_are_told_apart_by_id() {
    let vault = TestVault::new();
    let tcti: Tcti = vault.recorder().tcti().parse().expect("a TCTI");
    let mut open = Vault::open(&vault.dir())
        .and_then(|vault| vault.unlock(&tcti))
        .expect("the usual boot");
    let ids = ["row/1", "row/2"].map(|origin| {
        let label = "tank/backup".parse().expect("a label");
        let object = NewObject::new(TokenName::credentials(), label, Kind::Credential)
            .with_attribute(ORIGIN, origin);
        let secret = Secret::copy_of(origin.as_bytes());
        open.seal(object, &secret).expect("sealed").to_string()
    });
    drop(open);
    vault
        .strongroom(&["unseal", "--token", "credentials", "--label", "tank/backup"])
        .fails_with(6)
        .says(&ids[0])
        .says(&ids[1]);
    assert_eq!(vault.unseal_id(&ids[1]), b"row/2");
}

#[test]
fn a_vault_is_made_in_an_empty_folder_alone() {
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    fs::remove_file(vault.dir().join("vault.json")).expect("removed");
    let before = snapshot(&vault.dir());
    let kit = vault.folder().join("new-kit");
    vault
        .strongroom(&["init", "--yes", "--recovery-out"])
        .arg(&kit)
        .fails_with(5)
        .says("lost its vault.json");
    assert_eq!(snapshot(&vault.dir()), before);
    assert!(!kit.exists());
}

#[test]
fn a_pipe_in_an_objects_place_is_one_damaged_object() {
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    let id = "00000000-0000-4000-8000-000000000000";
    Run::new("mkfifo").arg(object_file(&vault, id)).ok();
    let listed = vault.strongroom(&["list"]).fails_with(1).text();
    assert!(listed.contains("not a file"), "{listed}");
    assert_eq!(vault.unseal("credentials", "offsite"), b"secret");
}

#[test]
fn a_report_that_nobody_reads_is_no_failure() {
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    let program = vault.programs().strongroom().display().to_string();
    for command in ["list >/dev/full", "list >&-", "status | true"] {
        vault
            .run("bash")
            .args(["-c", &format!("set -o pipefail; {program} {command}")])
            .ok();
    }
    // A secret that could not be handed out is one.
    let unseal = format!("{program} unseal --token credentials --label offsite >/dev/full");
    vault.run("bash").args(["-c", &unseal]).fails_with(7);
}

fn dataset_key(vault: &TestVault, name: &str) -> Vec<u8> {
    vault
        .run(vault.programs().zfs_keyprovider())
        .args(["get", name])
        .ok()
        .stdout
}

fn fixture(vault: &TestVault) -> Fixture {
    let folder = vault.folder().join("truenas");
    fs::create_dir(&folder).expect("a folder");
    Fixture::build(&folder, Generation::V25_10, 7, 0)
}

fn migrate(vault: &TestVault, fixture: &Fixture, backup: &Path) -> Run {
    vault
        .strongroom(&["migrate", "--yes", "--database"])
        .arg(&fixture.database)
        .arg("--pwenc-secret")
        .arg(&fixture.pwenc_secret)
        .arg("--backup")
        .arg(backup)
}

fn backup(vault: &TestVault, name: &str) -> PathBuf {
    let file = vault.folder().join(name);
    vault.strongroom(&["backup"]).arg(&file).ok();
    file
}

fn recover(vault: &TestVault, backup: &Path) -> Run {
    vault
        .strongroom(&["recover", "--yes", "--recovery"])
        .arg(vault.recovery())
        .arg("--backup")
        .arg(backup)
}

fn recover_in_place(vault: &TestVault) -> Run {
    vault
        .strongroom(&["recover", "--yes", "--recovery"])
        .arg(vault.recovery())
}

/// How many TPMs an object has slots of.
fn tpm_slots(vault: &TestVault, id: &str) -> usize {
    let object = read_json(&object_file(vault, id));
    let slots = object["slots"].as_array().expect("a list");
    slots.iter().filter(|slot| slot["type"] == "tpm").count()
}

fn rebind_by_recovery(vault: &TestVault, options: &[&str]) -> Run {
    vault
        .strongroom(&["rebind", "--yes", "--recovery"])
        .arg(vault.recovery())
        .args(options)
}

fn object_file(vault: &TestVault, id: &str) -> PathBuf {
    vault.dir().join(format!("objects/credentials/{id}.json"))
}

fn cut_in_half(file: &Path) {
    let bytes = fs::read(file).expect("there");
    fs::write(file, &bytes[..bytes.len() / 2]).expect("written");
}
