//! `strongroom export`: all dataset keys in TrueNAS's own form, and never on a screen.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use strongroom_tests::nas::Nas;
use strongroom_tests::swtpm::USUAL_BOOT;
use strongroom_tests::truenas_fixture::Generation;
use strongroom_tests::{TestVault, converse};

#[test]
fn what_was_migrated_comes_out_as_truenas_takes_it() {
    let nas = Nas::new(Generation::Mixed, 2);
    nas.migrate().ok();
    let expected: BTreeMap<_, _> = (nas.fixture.dataset_keys.iter())
        .map(|(_, name, key)| (name.clone(), key.clone()))
        .collect();
    let by_tpm = nas.vault.strongroom(&["export"]).ok();
    assert_eq!(by_tpm.json(), json!(expected));
    let by_kit = nas
        .vault
        .strongroom(&["export", "--recovery"])
        .arg(nas.vault.recovery())
        .env("STRONGROOM_TCTI", "swtpm:path=/nowhere/tpm")
        .ok();
    assert_eq!(by_kit.json(), json!(expected));
    for output in [by_tpm, by_kit] {
        for key in expected.values() {
            assert!(!output.stderr.contains(key), "a key was told");
        }
    }
}

#[test]
fn keys_of_all_forms_and_only_the_newest_of_each() {
    let vault = TestVault::new();
    seal(&vault, "tank/old", "hex", "11".repeat(32).as_bytes());
    seal(&vault, "tank/old", "hex", "22".repeat(32).as_bytes());
    seal(&vault, "tank/raw", "raw", &[0xab; 32]);
    seal(
        &vault,
        "tank/words",
        "passphrase",
        b"correct \"horse\" battery",
    );
    let export = vault.strongroom(&["export"]).ok();
    assert!(export.stderr.contains("tank/words"), "{export}");
    let mut expected = json!({"tank/old": "22".repeat(32), "tank/raw": "ab".repeat(32)});
    assert_eq!(export.json(), expected);
    let export = vault.strongroom(&["export", "--passphrases"]).ok();
    expected["tank/words"] = Value::from("correct \"horse\" battery");
    assert_eq!(export.json(), expected);
}

#[test]
fn a_file_is_new_and_its_owners_alone() {
    let vault = TestVault::new();
    seal(&vault, "tank", "raw", &[1; 32]);
    let file = vault.folder().join("dataset_keys.json");
    let export = || vault.strongroom(&["export", "--out"]).arg(&file);
    export().ok();
    let mode = fs::metadata(&file).expect("written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = fs::read(&file).expect("written");
    export().fails_with(7);
    assert!(fs::read(&file).is_ok_and(|now| now == text));
}

#[test]
fn a_screen_gets_none() {
    let vault = TestVault::new();
    seal(&vault, "tank", "hex", "ab".repeat(32).as_bytes());
    let said = converse(
        |python| vault.run(python),
        &vault.programs().strongroom(),
        100,
        &[],
    )
    .arg("export")
    .finish();
    said.fails_with(2).does_not_show(&"ab".repeat(32));
}

#[test]
fn another_boot_and_a_damaged_object() {
    let mut vault = TestVault::new();
    seal(&vault, "tank/good", "raw", &[1; 32]);
    let bad = seal(&vault, "tank/bad", "raw", &[2; 32]);
    let file = vault.dir().join(format!("objects/datasets/{bad}.json"));
    let text = fs::read_to_string(&file).expect("the object's file");
    fs::write(&file, text.replace("tank/bad", "tank/bat")).expect("the test's own vault");
    let export = vault.strongroom(&["export"]).fails_with(1).says("tank/bat");
    assert_eq!(export.json(), json!({"tank/good": "01".repeat(32)}));
    vault.reboot(&[USUAL_BOOT[0], USUAL_BOOT[1], (11, "another command line")]);
    let refused = vault.strongroom(&["export"]).fails_with(3);
    assert!(refused.stdout.is_empty());
}

fn seal(vault: &TestVault, dataset: &str, format: &str, key: &[u8]) -> String {
    let seal = [
        "seal",
        "--token",
        "datasets",
        "--kind",
        "dataset-key",
        "--json",
    ];
    let sealed = vault
        .strongroom(&seal)
        .args(["--label", dataset, "--keyformat", format])
        .stdin(key)
        .ok()
        .json();
    sealed["id"].as_str().expect("an id").to_owned()
}
