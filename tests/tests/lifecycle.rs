//! A vault's life as its owner sees it: made, used, moved through updates, lost and recovered.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use strongroom_tests::swtpm::USUAL_BOOT;
use strongroom_tests::{Swtpm, TestVault};

#[test]
fn a_secret_comes_out_as_it_went_in() {
    let vault = TestVault::new();
    let every_byte: Vec<u8> = (0..=255).collect();
    let long = every_byte.repeat(4096);
    for (label, secret) in [
        ("one byte", &every_byte[..1]),
        ("every byte", &every_byte),
        ("1 MiB", &long),
        ("tank/My Media; ü", b"x\n"),
    ] {
        let id = vault.seal("credentials", label, secret);
        assert!(vault.unseal("credentials", label) == secret, "{label}");
        assert!(vault.unseal_id(&id) == secret, "{label} by id");
    }
}

#[test]
fn files_are_their_owners_alone() {
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"x");
    let out = vault.folder().join("out");
    vault
        .strongroom(&["unseal", "--token", "credentials", "--label", "offsite"])
        .arg("--out")
        .arg(&out)
        .ok();
    let backup = vault.folder().join("backup");
    vault.strongroom(&["backup"]).arg(&backup).ok();
    for file in [
        vault.recovery(),
        out,
        backup,
        vault.dir().join("vault.json"),
    ] {
        let mode = fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    let mode = fs::metadata(vault.dir())
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn status_and_list_say_how_things_stand() {
    let vault = TestVault::new();
    let id = vault.seal("credentials", "offsite", b"x");
    let status = vault.strongroom(&["status", "--json"]).ok().json();
    assert_eq!(status["boot"]["allowed"], true);
    assert_eq!(status["tokens"]["credentials"], 1);
    let listed = vault.strongroom(&["list", "--json"]).ok().json();
    assert_eq!(listed["objects"][0]["id"], Value::from(id));
    assert_eq!(listed["objects"][0]["label"], "offsite");
    let table = vault.strongroom(&["list"]).ok().text();
    assert!(
        table.contains("TOKEN") && table.contains("offsite"),
        "{table}"
    );

    vault.tpm().extend(7, b"another key in db");
    let status = vault.strongroom(&["status", "--json"]).fails_with(3).json();
    assert_eq!(status["boot"]["allowed"], false);
    // Labels are not secret, and a list needs no TPM.
    vault.strongroom(&["list"]).ok();
}

#[test]
fn a_reboot_into_the_same_state_opens_and_another_does_not() {
    let mut vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    vault.reboot(USUAL_BOOT);
    assert_eq!(vault.unseal("credentials", "offsite"), b"secret");
    vault.reboot(&[(7, "another key"), USUAL_BOOT[1], USUAL_BOOT[2]]);
    unseal(&vault).fails_with(3).says("PCR 7");
    vault.reboot(&[]);
    unseal(&vault).fails_with(3).says("PCRs 7, 9, 11");
    vault.reboot(USUAL_BOOT);
    assert_eq!(vault.unseal("credentials", "offsite"), b"secret");
}

#[test]
fn an_update_that_was_announced_needs_no_kit_and_an_old_boot_can_be_revoked() {
    let mut vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    let updated = [USUAL_BOOT[0], USUAL_BOOT[1], (11, "kernel 2")];
    let next = {
        let ahead = Swtpm::boot(&updated);
        format!("11={}", hex::encode(ahead.pcr(11)))
    };
    vault.strongroom(&["rebind", "--add", &next, "--yes"]).ok();
    vault.reboot(&updated);
    assert_eq!(vault.unseal("credentials", "offsite"), b"secret");
    vault.reboot(USUAL_BOOT);
    assert_eq!(vault.unseal("credentials", "offsite"), b"secret");

    vault.reboot(&updated);
    vault.strongroom(&["rebind", "--yes"]).ok();
    assert_eq!(vault.unseal("credentials", "offsite"), b"secret");
    vault.reboot(USUAL_BOOT);
    unseal(&vault).fails_with(3).says("PCR 11");
}

#[test]
fn the_recovery_kit_allows_a_boot_that_locked_the_vault() {
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    vault.tpm().extend(9, b"an unannounced initrd");
    unseal(&vault).fails_with(3).says("PCR 9");
    vault.strongroom(&["rebind", "--yes"]).fails_with(3);
    let kit = vault.recovery();
    vault
        .strongroom(&["rebind", "--yes", "--recovery"])
        .arg(&kit)
        .ok();
    assert_eq!(vault.unseal("credentials", "offsite"), b"secret");
    // From standard input too, so that it need not touch a disk.
    vault.tpm().extend(9, b"one more");
    vault
        .strongroom(&["rebind", "--yes", "--recovery", "-"])
        .stdin(fs::read(&kit).expect("the kit"))
        .ok();
    assert_eq!(vault.unseal("credentials", "offsite"), b"secret");
}

#[test]
fn the_recovery_kit_opens_an_object_in_any_boot_and_without_a_tpm() {
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    vault.tpm().extend(7, b"another key");
    let opened = unseal(&vault)
        .arg("--recovery")
        .arg(vault.recovery())
        .env("STRONGROOM_TCTI", "swtpm:path=/nonexistent")
        .ok();
    assert_eq!(opened.stdout, b"secret");
}

#[test]
fn a_new_mainboard_is_recovered_in_place() {
    let mut vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    vault.seal("keys", "other", b"another");
    vault.replace_tpm(Swtpm::measured());
    unseal(&vault).fails_with(4).says("recover");
    recover(&vault, &[]).ok();
    assert_eq!(vault.unseal("credentials", "offsite"), b"secret");
    assert_eq!(vault.unseal("keys", "other"), b"another");
    // All that a vault can do, it can do here: seal, rebind, and be recovered again.
    vault.seal("credentials", "new", b"new");
    vault.tpm().extend(11, b"kernel 2");
    vault
        .strongroom(&["rebind", "--yes", "--recovery"])
        .arg(vault.recovery())
        .ok();
    assert_eq!(vault.unseal("credentials", "new"), b"new");
    vault.replace_tpm(Swtpm::measured());
    recover(&vault, &[]).ok();
    assert_eq!(vault.unseal("credentials", "new"), b"new");
}

#[test]
fn a_backup_and_the_kit_open_everything_on_an_empty_tpm() {
    let mut vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    let backup = vault.folder().join("backup");
    vault.strongroom(&["backup"]).arg(&backup).ok();
    fs::remove_dir_all(vault.dir()).expect("removed");
    vault.replace_tpm(Swtpm::boot(&[(7, "a"), (9, "b"), (11, "c")]));
    unseal(&vault).fails_with(5).says("there is no vault");
    let backup = backup.to_str().expect("UTF-8").to_owned();
    recover(&vault, &["--backup", &backup]).ok();
    assert_eq!(vault.unseal("credentials", "offsite"), b"secret");
    // Once more changes nothing.
    let again = recover(&vault, &["--backup", &backup, "--json"])
        .ok()
        .json();
    assert_eq!(
        (&again["restored"], &again["sealed"]),
        (&0.into(), &0.into())
    );
}

#[test]
fn recovery_on_the_same_tpm_leaves_no_index_behind() {
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    let before = vault.tpm().handles("nv-index").len();
    recover(&vault, &[]).ok();
    assert_eq!(vault.tpm().handles("nv-index").len(), before);
    assert_eq!(vault.unseal("credentials", "offsite"), b"secret");
    assert!(vault.tpm().transient_handles().is_empty());
    assert!(vault.tpm().loaded_sessions().is_empty());
}

#[test]
fn one_damaged_object_does_not_stop_the_recovery_of_the_rest() {
    let mut vault = TestVault::new();
    vault.seal("credentials", "good", b"good");
    let bad = vault.seal("credentials", "bad", b"bad");
    let file = vault.dir().join(format!("objects/credentials/{bad}.json"));
    let text = fs::read_to_string(&file)
        .expect("there")
        .replace("\"bad\"", "\"worse\"");
    fs::write(&file, text).expect("written");
    vault.replace_tpm(Swtpm::measured());
    let report = recover(&vault, &[]).fails_with(1).text();
    assert!(report.contains(&bad), "{report}");
    assert_eq!(vault.unseal("credentials", "good"), b"good");
}

fn unseal(vault: &TestVault) -> strongroom_tests::Run {
    vault.strongroom(&["unseal", "--token", "credentials", "--label", "offsite"])
}

fn recover(vault: &TestVault, options: &[&str]) -> strongroom_tests::Run {
    vault
        .strongroom(&["recover", "--yes", "--recovery"])
        .arg(vault.recovery())
        .args(options)
}
