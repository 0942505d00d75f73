//! Fences: dataset keys that open until they are loaded, and then no more in that boot, whoever
//! asks.

use std::fs;

use serde_json::{Value, json};
use strongroom_tests::swtpm::USUAL_BOOT;
use strongroom_tests::vault_files::{Kit, authenticate, read_json, write_json};
use strongroom_tests::{Output, Run, StandInDataset, Swtpm, TestVault, ZfsStandIn};

const KEY: [u8; 32] = [0x5A; 32];
const OTHER_BOOT: &[(u32, &str)] = &[
    (7, "Secure Boot off"),
    (9, "a rescue kernel"),
    (11, "no stub"),
];

#[test]
fn what_was_loaded_opens_no_more_and_everything_else_does() {
    let mut fenced = Fenced::new();
    fenced.vault.seal("credentials", "offsite", b"a secret");
    fenced.load(&["-a"]).ok();
    assert_eq!(fenced.dataset_key(), KEY, "it was asked for no fence");
    fenced.zfs.restart();

    fenced.load(&["-a", "--fence"]).ok();
    assert_eq!(fenced.zfs.read("tank/home", "keystatus"), "available");
    for bank in ["sha1", "sha256"] {
        assert!(fenced.is_extended(bank, 13), "{bank}");
    }
    fenced.dataset_key_refused();
    let refused = fenced.seal("tank/more").fails_with(3);
    refused.says("PCR 13 was extended").says("restart");
    fenced.zfs.restart();
    let refused = fenced.load(&["-a"]).fails_with(3);
    refused.says("the fence before these keys is closed");
    assert_eq!(fenced.vault.unseal("credentials", "offsite"), b"a secret");
    fenced.vault.strongroom(&["status"]).ok();
    // Rebinding is not the fence's matter, nor does it open it.
    fenced.vault.strongroom(&["rebind", "--yes"]).ok();
    fenced.dataset_key_refused();

    fenced.vault.reboot(USUAL_BOOT);
    assert_eq!(fenced.dataset_key(), KEY);
}

#[test]
fn a_fence_is_closed_whatever_comes_of_the_load() {
    // In a boot that may load nothing.
    let mut fenced = Fenced::new();
    fenced.vault.reboot(OTHER_BOOT);
    fenced.load(&["-a", "--fence"]).fails_with(3);
    assert!(fenced.is_extended("sha256", 13));
    // Where there is nothing to load.
    fenced.vault.reboot(USUAL_BOOT);
    fenced.load(&["tank/nothing", "--fence"]).fails_with(6);
    assert!(fenced.is_extended("sha256", 13));
    // Where a vault whose fence somebody took out of the manifest opens nothing, ...
    fenced.vault.reboot(USUAL_BOOT);
    let file = fenced.vault.dir().join("vault.json");
    write_json(&file, &without_fence(&read_json(&file)));
    fenced.load(&["-a", "--fence"]).fails_with(5);
    assert!(!fenced.is_extended("sha256", 13), "nobody named it");
    fenced.load(&["-a", "--fence=13"]).fails_with(5);
    assert!(fenced.is_extended("sha256", 13));
    // ... and where there is none at all.
    fenced.vault.reboot(USUAL_BOOT);
    fs::remove_file(&file).expect("removed");
    fenced.load(&["-a", "--fence=13"]).fails_with(5);
    assert!(fenced.is_extended("sha256", 13));
    // A dry run closes nothing.
    let both = fenced.load(&["-a", "--dry-run", "--fence"]);
    both.fails_with(2);
}

#[test]
fn a_fence_costs_each_object_one_command() {
    let fenced = Fenced::new();
    let commands = |part: &str| {
        let commands = fenced.vault.recorder().take();
        commands.iter().filter(|it| it.name == part).count()
    };
    fenced.vault.recorder().take();
    fenced.load(&["-a"]).ok();
    assert_eq!(commands("PolicyPCR"), 3, "K_vault, and twice for the key");
}

#[test]
fn whoever_asserts_what_they_like_finds_it_closed() {
    let fenced = Fenced::new();
    fenced.load(&["-a", "--fence"]).ok();
    // The manifest without the fence, under its own MAC, as only a holder of K_vault could write it:
    // what decides is the storage key's policy.
    let vault = &fenced.vault;
    let file = vault.dir().join("vault.json");
    let manifest = read_json(&file);
    let vault_key = Kit::read(&vault.recovery()).vault_key(&manifest);
    let mut without = without_fence(&manifest);
    authenticate(&mut without, "manifest", &vault_key);
    write_json(&file, &without);
    let refused = fenced.get().finish();
    assert_ne!(refused.code(), Some(0), "{refused}");
    assert!(refused.stdout.is_empty());
}

#[test]
fn what_is_no_fence_is_refused() {
    for (fence, words) in [
        ("7", "8, 9 and 11 to 15"),
        ("10", "8, 9 and 11 to 15"),
        ("16", "8, 9 and 11 to 15"),
        ("x", "8, 9 and 11 to 15"),
    ] {
        init(Swtpm::measured(), fence).fails_with(2).says(words);
    }
    init(Swtpm::measured(), "11")
        .fails_with(7)
        .says("part of the boot");
    let used = Swtpm::measured();
    used.extend(13, b"used by something");
    init(used, "13").fails_with(7).says("something extends it");

    let fenced = Fenced::new();
    let vault = &fenced.vault;
    let rebound = vault.strongroom(&["rebind", "--yes", "--pcrs", "7,13"]);
    rebound.fails_with(7).says("fence");
    let rebound = vault.strongroom(&["rebind", "--yes", "--pcrs", "7,13", "--recovery"]);
    rebound.arg(vault.recovery()).fails_with(7).says("fence");
    vault
        .strongroom(&["token", "add", "late", "--fence", "11"])
        .fails_with(7);
    vault
        .strongroom(&["token", "add", "late", "--fence", "12"])
        .ok();
    let listed = vault.strongroom(&["token", "list", "--json"]).ok().json();
    let tokens = listed["tokens"].as_array().expect("a list");
    let fence_of = |name: &str| {
        let token = tokens.iter().find(|token| token["token"] == name);
        token.expect("it is there")["fence"].clone()
    };
    assert_eq!(fence_of("late"), 12);
    assert_eq!(fence_of("datasets"), 13);
    assert_eq!(fence_of("keys"), Value::Null);
    // All that there are.
    fenced.load(&["-a", "--fence"]).ok();
    assert!(fenced.is_extended("sha256", 12) && fenced.is_extended("sha256", 13));
    vault
        .strongroom(&["token", "add", "later", "--fence", "12"])
        .fails_with(7)
        .says("it was closed");
}

#[test]
fn a_vault_takes_its_fence_to_another_tpm() {
    let mut fenced = Fenced::new();
    drop(fenced.vault.replace_tpm(Swtpm::measured()));
    let recover = |fenced: &Fenced| {
        let kit = fenced.vault.recovery();
        fenced
            .vault
            .strongroom(&["recover", "--yes", "--recovery"])
            .arg(kit)
    };
    // Behind a closed one nothing could be sealed again.
    fenced.vault.tpm().extend(13, b"closed");
    recover(&fenced).fails_with(7).says("restart");
    fenced.vault.reboot(USUAL_BOOT);
    recover(&fenced).ok();
    assert_eq!(fenced.dataset_key(), KEY);
    fenced.load(&["-a", "--fence"]).ok();
    fenced.dataset_key_refused();
    // The kit opens it without the TPM, as ever.
    let id = fenced.id.clone();
    let opened = fenced
        .vault
        .strongroom(&["unseal", "--id", &id, "--recovery"]);
    assert_eq!(opened.arg(fenced.vault.recovery()).ok().stdout, KEY);
}

/// A vault with a fence, and a dataset whose key is in it.
struct Fenced {
    vault: TestVault,
    zfs: ZfsStandIn,
    id: String,
}

impl Fenced {
    fn new() -> Self {
        let vault = TestVault::on(Swtpm::measured(), &["--fence", "13"]);
        let zfs = ZfsStandIn::new();
        zfs.pool("tank", 1);
        zfs.dataset("tank", 1, &StandInDataset::plain());
        zfs.dataset("tank/home", 2, &StandInDataset::raw("tank/home", &KEY));
        let mut fenced = Self {
            vault,
            zfs,
            id: String::new(),
        };
        let sealed = fenced.seal("tank/home").ok().json();
        sealed["id"]
            .as_str()
            .expect("an id")
            .clone_into(&mut fenced.id);
        fenced
    }

    fn seal(&self, dataset: &str) -> Run {
        let seal = ["seal", "--token", "datasets", "--label", dataset, "--json"];
        self.vault
            .strongroom(&seal)
            .args(["--kind", "dataset-key", "--keyformat", "raw"])
            .stdin(KEY)
    }

    fn load(&self, args: &[&str]) -> Run {
        let load = self.vault.run(self.vault.programs().zfs_keyprovider());
        self.zfs.around(load).arg("load").args(args)
    }

    fn get(&self) -> Run {
        let get = self.vault.run(self.vault.programs().zfs_keyprovider());
        self.zfs.around(get).args(["get", "tank/home"])
    }

    fn dataset_key(&self) -> Vec<u8> {
        self.get().ok().stdout
    }

    fn dataset_key_refused(&self) {
        let refused = self.get().fails_with(3);
        assert!(refused.stdout.is_empty());
        refused.says("PCR 13 was extended in this boot");
    }

    fn is_extended(&self, bank: &str, pcr: u32) -> bool {
        let read = ["pcrread", &format!("{bank}:{pcr}")];
        let text = self.vault.tpm().tpm2(&read).ok().text();
        let (_, value) = text.rsplit_once("0x").expect("a value");
        value.trim().bytes().any(|digit| digit != b'0')
    }
}

/// The same manifest, under its old MAC.
fn without_fence(manifest: &Value) -> Value {
    let mut without = manifest.clone();
    without["format"] = json!(1);
    let token = without.pointer_mut("/tokens/datasets");
    let token = token.and_then(Value::as_object_mut).expect("a token");
    token.remove("fence").expect("a fence");
    without
}

fn init(tpm: Swtpm, fence: &str) -> Output {
    let vault = TestVault::without_init(tpm);
    vault
        .strongroom(&["init", "--yes", "--fence", fence, "--recovery-out"])
        .arg(vault.recovery())
        .finish()
}
