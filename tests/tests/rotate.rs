//! `strongroom rotate`: each dataset gets a new key by itself, and one that fails stops no other; which
//! cloud credentials are to be made anew is listed with where.

use strongroom_tests::nas::Nas;
use strongroom_tests::truenas_fixture::Generation;
use strongroom_tests::{StandInDataset, TestVault, ZfsStandIn};

#[test]
fn each_dataset_gets_a_new_key_and_one_that_fails_stops_no_other() {
    let vault = TestVault::new();
    let zfs = ZfsStandIn::new();
    zfs.pool("tank", 7);
    for (number, name) in ["tank/a", "tank/b", "tank/locked"].iter().enumerate() {
        let byte = u8::try_from(number + 1).expect("few");
        let guid = u64::from(byte) + 10;
        zfs.dataset(name, guid, &StandInDataset::raw(name, &[byte; 32]));
        seal(&vault, name, "raw", &[byte; 32]);
        if number < 2 {
            zfs.write(name, "keystatus", "available");
        }
    }
    seal(&vault, "tank/words", "passphrase", b"correct horse battery");
    let rotate = |args: &[&str]| {
        let run = vault.strongroom(&["rotate", "--yes"]).args(args);
        zfs.around(run)
    };
    let told = rotate(&["--all"]).fails_with(1);
    let told = format!("{told}");
    for word in [
        "tank/a",
        "tank/b",
        "tank/locked",
        "must be loaded",
        "tank/words",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
    for (name, byte) in [("tank/a", 1), ("tank/b", 2)] {
        let key = zfs.wrapping_key(name);
        assert_ne!(key, [byte; 32], "{name}");
        let get = vault.run(vault.programs().zfs_keyprovider());
        let sealed = zfs.around(get.args(["get", name])).ok().stdout;
        assert_eq!(sealed, key, "{name}");
    }
    assert_eq!(zfs.wrapping_key("tank/locked"), [3; 32]);
    // One that is named, and no other.
    let before = zfs.wrapping_key("tank/b");
    rotate(&["tank/a"]).ok();
    assert_eq!(zfs.wrapping_key("tank/b"), before);
    assert!(!zfs.calls().contains("01010101"));
}

#[test]
fn cloud_credentials_are_listed_with_where_to_make_them_anew() {
    let nas = Nas::new(Generation::V25_10, 0);
    nas.migrate().ok();
    let list = nas
        .vault
        .strongroom(&["rotate", "--list", "--database"])
        .arg(&nas.fixture.database)
        .env("STRONGROOM_TCTI", "swtpm:path=/nowhere/tpm")
        .ok()
        .text();
    for (_, name, ..) in nas.fixture.credentials.iter().filter(|it| !it.3.is_empty()) {
        assert!(list.contains(name.as_str()), "{name}: {list}");
    }
    for word in ["Amazon S3", "Backblaze B2"] {
        assert!(list.contains(word), "{word}: {list}");
    }
}

fn seal(vault: &TestVault, dataset: &str, format: &str, key: &[u8]) {
    let seal = ["seal", "--token", "datasets", "--kind", "dataset-key"];
    vault
        .strongroom(&seal)
        .args(["--label", dataset, "--keyformat", format])
        .stdin(key)
        .ok();
}
