//! `zfs-keyprovider load`, `adopt` and `get --recovery` over a stand-in for ZFS: keys come out in
//! one batch, one bad thing never stops the rest, and killed at any instant, a dataset's key is in
//! the vault or with its owner. What a real ZFS does
//! is in `zfs_unlock.rs` and its neighbours.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use strongroom::object::{KEYFORMAT, Kind, NewObject, TokenName};
use strongroom::{Secret, Tcti, Unlocked, Vault};
use strongroom_tests::vault_files::{read_json, snapshot, write_json};
use strongroom_tests::{Daemon, Gate, Run, StandInDataset, Swtpm, TestVault, ZfsStandIn};

const HEX: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";
const PASSPHRASE: &str = "correct horse battery";
/// PBKDF2-HMAC-SHA1 of it with the salt 0x0102030405060708 in little-endian and 100,000
/// iterations, by Python's hashlib.
const DERIVED: &str = "933d4dae14db68bae5c906b9da32889ddb3c031e3ebdfe6ba0bbb49a47d985f0";
const POOL_GUID: u64 = u64::MAX - 1;
const RECOVERY: &str = "strongroom:recovery";

// What a run that nothing disturbs does.

#[test]
fn keys_of_all_forms_are_loaded_and_each_dataset_carries_its_copy() {
    for zfs in [ZfsStandIn::new(), ZfsStandIn::without_library()] {
        let bench = Bench::with(zfs);
        bench.three_forms();
        let report = bench.load(&["-a", "--json"]).ok().json();
        for name in ["tank/hex", "tank/raw", "tank/words"] {
            assert_eq!(bench.status(name), "available", "{name}");
            assert_eq!(entry(&report, name)["state"], "loaded");
            assert_eq!(entry(&report, name)["recovery-copy"], "written");
            let copied = bench.copied_keys(name);
            assert_eq!(copied.len(), 1, "{name}");
        }
        assert_eq!(bench.copied_keys("tank/hex"), [HEX.as_bytes()]);
        assert_eq!(report["tpm"], json!(bench.vault.recorder().tcti()));
        assert_eq!(report["loaded"], 3);
        // What is not encrypted, or has its key from above, is nobody's business here.
        let names: Vec<_> = entries(&report).iter().map(|e| &e["dataset"]).collect();
        assert_eq!(names, ["tank/hex", "tank/raw", "tank/words"]);

        // Again: nothing to do, and no TPM needed.
        bench.vault.recorder().take();
        let again = bench.load(&["-a"]).ok().text();
        assert!(again.contains("0 loaded, 3 loaded already."), "{again}");
        assert_eq!(bench.vault.recorder().take().len(), 0);
        // Neither keys nor their forms were ever in the arguments of a process, or on the bus.
        let calls = bench.zfs.calls();
        for secret in [HEX, &HEX.to_lowercase(), PASSPHRASE, DERIVED] {
            assert!(!calls.contains(secret), "{calls}");
            assert!(!bench.vault.recorder().contains(secret.as_bytes()));
        }
    }
}

#[test]
fn a_batch_takes_five_commands_a_key_and_sixteen_at_most_besides() {
    let bench = Bench::new();
    let mut unlocked = bench.unlock();
    for number in 0..100_u8 {
        let name = format!("tank/d{number:02}");
        let key = [number; 32];
        bench.dataset(&name, &StandInDataset::raw(&name, &key));
        seal(&mut unlocked, &name, "raw", &key, |_| {});
    }
    drop(unlocked);
    bench.vault.recorder().take();
    let load = bench.load(&["-a", "--json"]);
    let report = load.timeout(Duration::from_secs(300)).ok().json();
    assert_eq!(report["loaded"], 100);
    let counts = bench.vault.recorder().counts();
    let commands = bench.vault.recorder().take().len();
    assert!(commands <= 100 * 5 + 16, "{commands}: {counts:?}");
    // One call for the properties of a few, one for those of more, one for those of all, one for their copies,
    // and one that reads these back.
    let calls = bench.zfs.calls();
    let gets = calls.lines().filter(|call| call.starts_with("zfs get"));
    assert_eq!(gets.count(), 5, "the calls of zfs");
}

#[test]
fn a_load_that_is_interrupted_ends_after_the_key_at_hand_and_leaves_nothing_in_the_tpm() {
    let bench = Bench::new();
    bench.three_forms();
    bench.vault.recorder().take();
    bench.load(&["tank/hex"]).ok();
    let commands = bench.vault.recorder().take().len();
    bench.zfs.restart();

    let gate = Gate::start(bench.vault.recorder());
    // In the middle of the second of three keys.
    gate.hold_after(commands);
    let mut load = Daemon::command(bench.vault.programs().zfs_keyprovider());
    load.args(["load", "-a"])
        .envs(bench.zfs.environment())
        .env("STRONGROOM_DIR", bench.vault.dir())
        .env("STRONGROOM_TCTI", gate.tcti());
    let mut load = Daemon::spawn(load, &bench.vault.folder().join("load.log"));
    load.wait_until("the TPM is at work", |_| gate.holds_one().then_some(()));
    let pid = Pid::from_raw(load.pid().try_into().expect("a number")).expect("not zero");
    kill_process(pid, Signal::TERM).expect("it runs");
    gate.open();
    let deadline = Instant::now() + Duration::from_secs(30);
    while load.ended().is_none() {
        assert!(Instant::now() < deadline, "{}", load.log());
        thread::sleep(Duration::from_millis(5));
    }
    let log = load.log();
    assert!(
        log.contains("left as it was: this was interrupted"),
        "{log}"
    );
    assert!(log.contains("2 loaded, 1 failed"), "{log}");
    assert_eq!(bench.vault.tpm().transient_handles(), [0; 0]);
    assert_eq!(bench.vault.tpm().loaded_sessions(), [0; 0]);
}

#[test]
fn a_dry_run_changes_nothing_and_needs_no_tpm() {
    let bench = Bench::new();
    bench.three_forms();
    bench.zfs.forget_calls();
    let before = snapshot(&bench.vault.dir());
    let report = bench
        .load(&["-a", "--dry-run", "--json"])
        .env("STRONGROOM_TCTI", "swtpm:path=/nowhere")
        .ok()
        .json();
    assert_eq!(report["would-be-loaded"], 3);
    assert_eq!(entry(&report, "tank/raw")["state"], "would-be-loaded");
    assert_eq!(bench.status("tank/raw"), "unavailable");
    assert_eq!(snapshot(&bench.vault.dir()), before);
    for call in bench.zfs.calls().lines() {
        assert!(call.contains(" get "), "{call}");
    }
    let text = bench.load(&["-a", "--dry-run"]).ok().text();
    assert!(text.contains("Dry run: 3 would be loaded."), "{text}");
}

#[test]
fn what_is_below_a_dataset_is_loaded_with_it_if_so_asked() {
    let bench = Bench::new();
    bench.three_forms();
    let report = bench.load(&["-r", "tank", "--json"]).ok().json();
    assert_eq!(report["loaded"], 3);
    bench.zfs.restart();
    // By its name, what has no key of its own is told which one it needs.
    bench
        .load(&["tank/raw/child", "tank/hex"])
        .fails_with(1)
        .does_not_show(HEX);
    assert_eq!(bench.status("tank/hex"), "available");
    assert_eq!(bench.status("tank/raw"), "unavailable");
}

// What is wrong with one dataset, and the rest.

#[test]
fn one_bad_dataset_never_stops_the_rest() {
    let bench = Bench::new();
    bench.three_forms();
    let mut unlocked = bench.unlock();
    let raw = |name: &str| StandInDataset::raw(name, &[9; 32]);
    let unbound = |_: &mut NewObject| {};
    // Another key than the sealed one.
    bench.dataset("tank/changed", &raw("tank/changed"));
    seal(&mut unlocked, "tank/changed", "raw", &[8; 32], unbound);
    // Another form than the sealed one.
    bench.dataset(
        "tank/reformed",
        &raw("tank/reformed").with_format("passphrase"),
    );
    seal(&mut unlocked, "tank/reformed", "raw", &[9; 32], unbound);
    // Gone by the time that its key is there.
    bench.dataset("tank/vanishing", &raw("tank/vanishing"));
    bench.zfs.write("tank/vanishing", "vanishes", "");
    seal(&mut unlocked, "tank/vanishing", "raw", &[9; 32], unbound);
    // Bound to another pool, and to another dataset.
    bench.dataset("tank/otherpool", &raw("tank/otherpool"));
    seal(&mut unlocked, "tank/otherpool", "raw", &[9; 32], |new| {
        new.pool_guid = Some(1);
    });
    bench.dataset("tank/otherset", &raw("tank/otherset"));
    seal(&mut unlocked, "tank/otherset", "raw", &[9; 32], |new| {
        new.pool_guid = Some(POOL_GUID);
        new.dataset_guid = Some(1);
    });
    // Spoilt on disk, but still to be parsed; and not even that.
    bench.dataset("tank/spoilt", &raw("tank/spoilt"));
    let spoilt = seal(&mut unlocked, "tank/spoilt", "raw", &[9; 32], unbound);
    bench.dataset("tank/illegible", &raw("tank/illegible"));
    let illegible = seal(&mut unlocked, "tank/illegible", "raw", &[9; 32], unbound);
    // Iterations that would take years.
    let endless = StandInDataset {
        iters: u64::MAX,
        ..raw("tank/endless").with_format("passphrase")
    };
    bench.dataset("tank/endless", &endless);
    seal(
        &mut unlocked,
        "tank/endless",
        "passphrase",
        PASSPHRASE.as_bytes(),
        unbound,
    );
    // Of a keyformat that nobody knows yet.
    bench.dataset("tank/future", &raw("tank/future").with_format("quantum"));
    seal(&mut unlocked, "tank/future", "raw", &[9; 32], unbound);
    drop(unlocked);
    let file = bench.object_file(&spoilt);
    let mut object = read_json(&file);
    object["payload"]["nonce"] = json!("AAAAAAAAAAAAAAAA");
    write_json(&file, &object);
    fs::write(bench.object_file(&illegible), "{").expect("written");

    let output = bench.load(&["-a", "--json"]).fails_with(1);
    let report = output.json();
    let reasons = [
        ("tank/changed", "is not its key"),
        ("tank/reformed", "its keyformat is passphrase"),
        ("tank/vanishing", "the dataset is gone"),
        ("tank/otherpool", "another pool was put in its place"),
        ("tank/otherset", "another dataset was put in its place"),
        ("tank/spoilt", "was changed by something other"),
        ("tank/endless", "pbkdf2iters of 18446744073709551615"),
        ("tank/future", "nothing is known here of its keyformat"),
    ];
    for (name, reason) in reasons {
        let entry = entry(&report, name);
        assert_eq!(entry["state"], "failed", "{name}");
        let said = entry["reason"].as_str().expect("a reason");
        assert!(said.contains(reason), "{name}: {said}");
        assert_eq!(bench.status(name), "unavailable", "{name}");
        assert_eq!(bench.zfs.read(name, RECOVERY), "", "{name}");
    }
    // Whose key it was, its file does not say any more.
    assert_eq!(entry(&report, "tank/illegible")["state"], "not-sealed");
    assert!(output.stderr.contains(&illegible), "{output}");
    for name in ["tank/hex", "tank/raw", "tank/words"] {
        assert_eq!(entry(&report, name)["state"], "loaded", "{name}");
    }
    assert_eq!(report["failed"], reasons.len());
}

/// A pool that tells of the datasets that it is asked for, and not what else there is: what it told of is
/// loaded, its own root too, and that there may be more is not lost over that.
#[test]
fn a_pool_that_cannot_be_listed_to_its_end_is_no_success() {
    let bench = Bench::new();
    let mut unlocked = bench.unlock();
    let names = (0..20).map(|number| format!("deep/d{number:02}"));
    bench.zfs.pool("deep", 77);
    for name in std::iter::once("deep".to_owned()).chain(names) {
        let dataset = StandInDataset::raw(&name, &[9; 32]);
        bench.zfs.dataset(&name, 7, &dataset);
        seal(&mut unlocked, &name, "raw", &[9; 32], |_| {});
    }
    drop(unlocked);
    bench.zfs.write("deep", "unlistable", "");
    for which in [&["-a"][..], &["-r", "deep"]] {
        bench.zfs.restart();
        let report = bench.load(&[which, &["--json"]].concat());
        let report = report.fails_with(1).json();
        assert_eq!(entry(&report, "deep")["state"], "loaded", "{report}");
        assert_eq!(entry(&report, "deep/d19")["state"], "loaded");
        let rest = entry(&report, "deep/*");
        assert_eq!(rest["state"], "failed");
        assert!(
            rest["reason"]
                .as_str()
                .is_some_and(|it| it.contains("I/O error"))
        );
    }
}

#[test]
fn what_is_named_and_cannot_be_loaded_says_why() {
    let bench = Bench::new();
    bench.three_forms();
    bench.dataset("tank/alien", &StandInDataset::raw("tank/alien", &[9; 32]));
    for (names, code, reason) in [
        (&["tank/none"][..], 6, "does not exist"),
        (&["tank/alien"], 6, "the vault has no key of it"),
        (&["tank/none", "tank/alien"], 6, "does not exist"),
        (&["tank"], 1, "it is not encrypted"),
        (
            &["tank/raw/child"],
            1,
            "its key is that of tank/raw, which is the one to load",
        ),
        (&["tank/none", "tank/raw"], 1, "does not exist"),
    ] {
        let failed = bench.load(names).fails_with(code);
        assert!(failed.text().contains(reason), "{failed}");
    }
    // The last of them did its part.
    assert_eq!(bench.status("tank/raw"), "available");
    bench.load(&["tank/raw"]).ok();
    bench.load(&[]).fails_with(2);
    bench.load(&["-a", "tank"]).fails_with(2);
}

#[test]
fn a_property_with_lines_in_it_is_no_dataset() {
    let bench = Bench::new();
    bench.three_forms();
    let lines = "x\ntank/raw\tguid\t1\ntank/zzz\tencryptionroot\ttank/zzz";
    bench.zfs.write("tank/hex", RECOVERY, lines);
    let report = bench.load(&["-a", "--json"]).ok().json();
    assert_eq!(report["loaded"], 3);
    assert_eq!(entries(&report).len(), 3);
    assert_eq!(bench.copied_keys("tank/hex"), [HEX.as_bytes()]);
}

#[test]
fn each_kind_of_failure_has_its_exit_code() {
    let bench = Bench::new();
    bench.three_forms();
    let nowhere = bench
        .load(&["-a", "--json"])
        .env("STRONGROOM_TCTI", "swtpm:path=/nowhere")
        .fails_with(4);
    assert_eq!(nowhere.json()["exit"], 4);
    bench
        .load(&["-a"])
        .env("STRONGROOM_DIR", bench.vault.folder().join("none"))
        .fails_with(5)
        .says("there is no vault");
    bench
        .load(&["-a"])
        .env("PATH", "/nowhere")
        .fails_with(1)
        .says("no program zpool");
    let other = "0".repeat(64);
    bench
        .load(&["-a", "--vault-key-sha256", &other])
        .fails_with(5)
        .says("another vault");
    bench.vault.tpm().extend(9, b"another initrd");
    bench.load(&["-a"]).fails_with(3).says("PCR 9");
    for name in ["tank/hex", "tank/raw", "tank/words"] {
        assert_eq!(bench.status(name), "unavailable");
    }
    // What is open already is no reason to fail, copies or none.
    for name in ["tank/hex", "tank/raw", "tank/words"] {
        bench.zfs.write(name, "keystatus", "available");
    }
    bench
        .load(&["-a"])
        .ok()
        .says("recovery copies were not brought up to date");
}

#[test]
fn a_tpm_that_goes_away_ends_the_batch_and_keeps_what_was_loaded() {
    let bench = Bench::new();
    bench.three_forms();
    bench.vault.recorder().take();
    let gate = Gate::start(bench.vault.recorder());
    // Unlocking, the token's storage key, and one key and a half.
    gate.cut_after(14 + 7);
    let output = bench
        .load(&["-a", "--json"])
        .env("STRONGROOM_TCTI", gate.tcti())
        .fails_with(4);
    let report = output.json();
    assert_eq!(report["loaded"], 1, "{output}");
    assert_eq!(report["failed"], 2);
    let open = |name: &&str| bench.status(name) == "available";
    let names = ["tank/hex", "tank/raw", "tank/words"];
    assert_eq!(names.iter().filter(|name| open(name)).count(), 1);
}

// Several sealed keys of one dataset.

#[test]
fn an_older_sealed_key_is_found_where_the_newest_is_not_the_datasets() {
    for zfs in [ZfsStandIn::new(), ZfsStandIn::without_library()] {
        let bench = Bench::with(zfs);
        bench.three_forms();
        let mut unlocked = bench.unlock();
        for wrong in [[1; 32], [2; 32]] {
            seal(&mut unlocked, "tank/raw", "raw", &wrong, |_| {});
        }
        drop(unlocked);
        let given = bench.get(&["tank/raw"]).ok().stdout;
        assert_eq!(given, raw_key());
        let report = bench.load(&["-a", "--json"]).ok().json();
        assert_eq!(entry(&report, "tank/raw")["version"], 1);
        assert_eq!(bench.status("tank/raw"), "available");
        // It carries a copy of the one that opens it.
        assert_eq!(bench.copied_keys("tank/raw"), [raw_key()]);
    }
}

#[test]
fn a_spoilt_newest_key_does_not_stand_before_the_datasets_own() {
    let bench = Bench::new();
    bench.three_forms();
    let mut unlocked = bench.unlock();
    let newest = seal(&mut unlocked, "tank/raw", "raw", &[1; 32], |_| {});
    drop(unlocked);
    let file = bench.object_file(&newest);
    let mut object = read_json(&file);
    object["mac"] = json!("AAAA");
    write_json(&file, &object);
    bench.load(&["tank/raw"]).ok();
    bench.zfs.restart();
    assert_eq!(bench.get(&["tank/raw"]).ok().stdout, raw_key());
}

// The recovery copy.

#[test]
fn the_kit_opens_a_copy_without_vault_and_tpm() {
    let bench = Bench::new();
    bench.three_forms();
    bench.load(&["-a"]).ok();
    bench.zfs.restart();
    fs::remove_dir_all(bench.vault.dir()).expect("removed");
    let by_kit = |name: &str| {
        bench
            .get(&["--recovery"])
            .arg(bench.vault.recovery())
            .arg(name)
            .env("STRONGROOM_TCTI", "swtpm:path=/nowhere")
    };
    assert_eq!(by_kit("tank/hex").ok().stdout, HEX.as_bytes());
    assert_eq!(by_kit("tank/raw").ok().stdout, raw_key());
    assert_eq!(by_kit("tank/words").ok().stdout, PASSPHRASE.as_bytes());
    by_kit("tank/none").fails_with(6);
    // A child has none of its own, though it shows its parent's.
    by_kit("tank/raw/child")
        .fails_with(7)
        .says("its key is that of tank/raw");

    // Behind a passphrase.
    let at = |name: &str| bench.vault.folder().join(name);
    fs::write(at("passphrase"), "correct horse battery staple\n").expect("written");
    bench
        .vault
        .strongroom(&["recovery-kit", "--protect", "--recovery"])
        .arg(bench.vault.recovery())
        .arg("--new-passphrase-file")
        .arg(at("passphrase"))
        .arg("--out")
        .arg(at("protected"))
        .ok();
    let by_protected = || {
        bench
            .get(&["tank/raw", "--recovery"])
            .arg(at("protected"))
            .env("STRONGROOM_TCTI", "swtpm:path=/nowhere")
    };
    by_protected().fails_with(7).says("--passphrase-file");
    let opened = by_protected()
        .arg("--passphrase-file")
        .arg(at("passphrase"))
        .ok();
    assert_eq!(opened.stdout, raw_key());

    // Another vault's kit.
    let other = TestVault::new();
    bench
        .get(&["tank/raw", "--recovery"])
        .arg(other.recovery())
        .fails_with(7)
        .says("of vault");
}

/// By the reader that was written from docs/format.md alone.
#[test]
fn a_stranger_reads_a_copy() {
    let bench = Bench::new();
    bench.three_forms();
    bench.load(&["-a"]).ok();
    let file = bench.vault.folder().join("copy");
    let reader = |args: &[&str]| {
        Run::new("/usr/bin/python3")
            // Without compiled modules left in the source.
            .args(["-E", "-s", "-B"])
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/reader/strongroom_reader.py"
            ))
            .arg("--recovery")
            .arg(bench.vault.recovery())
            .arg(&file)
            .args(args)
    };
    let text = bench.zfs.read("tank/words", RECOVERY);
    fs::write(&file, &text).expect("written");
    let objects: Value = reader(&["list"]).ok().json();
    let id = objects[0]["id"].as_str().expect("an id");
    assert_eq!(objects[0]["label"], "tank/words");
    assert_eq!(
        reader(&["show", "--id", id]).ok().stdout,
        PASSPHRASE.as_bytes()
    );
    fs::write(&file, text.replace("tank/words", "tank/sword")).expect("written");
    reader(&["list"]).fails_with(5).says("is forged");
}

#[test]
fn who_edits_a_copy_gets_it_refused_and_the_next_load_puts_it_right() {
    let bench = Bench::new();
    bench.three_forms();
    bench.load(&["-a"]).ok();
    let genuine = bench.zfs.read("tank/raw", RECOVERY);
    let mut bad: Value = serde_json::from_str(&genuine).expect("JSON");
    let by_kit = || {
        bench
            .get(&["tank/raw", "--recovery"])
            .arg(bench.vault.recovery())
    };
    let other = TestVault::new();
    let foreign = {
        // Made with a vault of the thief's own, and named as the owner's.
        let mut unlocked = unlock(&other);
        seal(&mut unlocked, "tank/raw", "raw", &[6; 32], |_| {});
        let sealed = other_objects(&unlocked);
        let copy = unlocked.recovery_copy(&[&sealed]).expect("a copy");
        let id = unlocked.vault().id().to_owned();
        copy.to_string()
            .replace(&id, unlock(&bench.vault).vault().id())
    };
    bad["mac"] = json!("AAAA");
    let another = bench.zfs.read("tank/hex", RECOVERY);
    for (text, said) in [
        (bad.to_string(), "was changed by something other"),
        (foreign, "its vault key is not the one"),
        // Genuine, but of another dataset: ZFS refuses it.
        (another, "is not the dataset's key"),
        ("{".to_owned(), "recovery copy is not usable"),
        (
            genuine.replacen("\"format\":1,\"mac\"", "\"format\":2,\"mac\"", 1),
            "newer",
        ),
    ] {
        bench.zfs.write("tank/raw", RECOVERY, &text);
        by_kit().fails_with(7).says(said);
        bench.zfs.restart();
        bench.load(&["tank/raw"]).ok();
        assert_eq!(bench.zfs.read("tank/raw", RECOVERY), genuine, "{text}");
    }
    by_kit().ok();
}

#[test]
fn load_writes_a_copy_that_is_missing_or_of_another_version_and_never_fails_for_it() {
    let bench = Bench::new();
    bench.three_forms();
    bench.load(&["-a"]).ok();
    let genuine = bench.zfs.read("tank/raw", RECOVERY);
    bench.zfs.remove("tank/raw", RECOVERY);
    // Its key is loaded: what is needed is one unsealing, and ZFS's word that it is the key.
    let report = bench.load(&["-a", "--json"]).ok().json();
    assert_eq!(entry(&report, "tank/raw")["state"], "already-loaded");
    assert_eq!(entry(&report, "tank/raw")["recovery-copy"], "written");
    assert_eq!(entry(&report, "tank/hex")["recovery-copy"], "up-to-date");
    assert_eq!(bench.zfs.read("tank/raw", RECOVERY), genuine);

    bench.zfs.remove("tank/raw", RECOVERY);
    bench.zfs.write("tank/raw", "readonly", "");
    bench.zfs.restart();
    let output = bench.load(&["-a", "--json"]).ok().says("read-only");
    let report = output.json();
    assert_eq!(entry(&report, "tank/raw")["state"], "loaded");
    assert_eq!(entry(&report, "tank/raw")["recovery-copy"], "failed");
}

// Adopting.

#[test]
fn an_adopted_key_is_checked_bound_and_loaded_from_then_on() {
    for zfs in [ZfsStandIn::new(), ZfsStandIn::without_library()] {
        let bench = Bench::with(zfs);
        bench.three_unsealed();
        for (name, key) in [
            ("tank/hex", format!("{HEX}\n").into_bytes()),
            ("tank/raw", raw_key()),
            ("tank/words", format!("{PASSPHRASE}\n").into_bytes()),
        ] {
            let report = bench.adopt(&[name, "--json"]).stdin(key).ok().json();
            assert_eq!(report["version"], 1);
            let id = report["object"].as_str().expect("an id");
            let object = &read_json(&bench.object_file(id))["metadata"];
            let guid = bench.zfs.read(name, "guid");
            assert_eq!(object["pool-guid"], json!(POOL_GUID.to_string()));
            assert_eq!(object["dataset-guid"], json!(guid));
            assert_eq!(bench.copied_keys(name).len(), 1);
            assert_eq!(bench.zfs.read(name, "keylocation"), "prompt");
        }
        let report = bench.load(&["-a", "--json"]).ok().json();
        assert_eq!(report["loaded"], 3);
        let calls = bench.zfs.calls();
        for secret in [HEX, &HEX.to_lowercase(), PASSPHRASE] {
            assert!(!calls.contains(secret));
        }
    }
}

#[test]
fn adopting_again_binds_what_was_sealed_before_and_seals_nothing_twice() {
    let bench = Bench::new();
    bench.three_forms();
    let before = bench.objects();
    let adopt = || bench.adopt(&["tank/hex"]).stdin(HEX);
    adopt().ok();
    adopt().ok();
    let after = bench.objects();
    assert_eq!(after.len(), before.len());
    let hex = after
        .iter()
        .find(|object| object["label"] == "tank/hex")
        .expect("there");
    assert_eq!(hex["pool-guid"], json!(POOL_GUID.to_string()));
    bench.load(&["-a"]).ok();
    // A pool made anew under the same name, with its keys adopted, is the one that counts.
    bench.zfs.pool("tank", 5);
    bench.zfs.restart();
    bench.load(&["tank/hex"]).fails_with(1);
    adopt().ok();
    bench.load(&["tank/hex"]).ok();
}

#[test]
fn what_cannot_be_adopted_is_refused_and_nothing_is_changed() {
    let bench = Bench::new();
    bench.three_unsealed();
    let before = (snapshot(&bench.vault.dir()), bench.zfs_state());
    let wrong = vec![3; 32];
    for (args, key, code, said) in [
        (&["tank/raw"][..], wrong, 7, "not the dataset's key"),
        (&["tank/raw"], vec![3; 31], 7, "exactly 32 bytes"),
        (
            &["tank/raw"],
            [raw_key(), b"\n".to_vec()].concat(),
            7,
            "exactly 32 bytes",
        ),
        (&["tank/hex"], HEX[1..].into(), 7, "64 hexadecimal digits"),
        (&["tank/words"], b"short".to_vec(), 7, "8 to 512 bytes"),
        (&["tank/words"], vec![b'w'; 4000], 7, "longer than"),
        (&["tank/raw"], Vec::new(), 7, "32 bytes"),
        (&["tank"], raw_key(), 7, "not encrypted"),
        (
            &["tank/raw/child"],
            raw_key(),
            7,
            "its key is that of tank/raw",
        ),
        (&["tank/none"], raw_key(), 6, "does not exist"),
        (&["tank/raw", "--rotate"], Vec::new(), 7, "must be loaded"),
        (
            &["tank/raw", "--keylocation", "pkcs11:x"],
            raw_key(),
            2,
            "prompt, or file:///",
        ),
        (
            &["tank/raw", "--key-file", "/nowhere"],
            Vec::new(),
            7,
            "/nowhere",
        ),
    ] {
        bench
            .adopt(args)
            .stdin(key)
            .fails_with(code)
            .says(said)
            .does_not_show(PASSPHRASE);
        assert_eq!(
            (snapshot(&bench.vault.dir()), bench.zfs_state()),
            before,
            "{args:?}"
        );
    }
}

#[test]
fn a_rotated_key_is_new_and_the_former_stays_sealed() {
    let bench = Bench::new();
    bench.three_forms();
    bench.load(&["-a"]).ok();
    for name in ["tank/hex", "tank/raw", "tank/words"] {
        let former = bench.zfs.wrapping_key(name);
        let args = [
            name,
            "--rotate",
            "--keylocation",
            "file:///run/zfs-keys/x",
            "--json",
        ];
        let report = bench.adopt(&args).ok().json();
        assert_eq!(report["version"], 2);
        let key = bench.zfs.wrapping_key(name);
        assert_ne!(key, former);
        assert_eq!(bench.zfs.read(name, "keyformat"), "raw");
        assert_eq!(
            bench.zfs.read(name, "keylocation"),
            "file:///run/zfs-keys/x"
        );
        assert_eq!(bench.copied_keys(name), std::slice::from_ref(&key));
        assert_eq!(bench.get(&[name]).ok().stdout, key);
        let versions = bench
            .objects()
            .into_iter()
            .filter(|object| object["label"] == name);
        assert_eq!(versions.count(), 2);
    }
    bench.zfs.restart();
    assert_eq!(bench.load(&["-a", "--json"]).ok().json()["loaded"], 3);
}

#[test]
fn a_change_that_zfs_refuses_leaves_everything_as_it_was() {
    for sealed in [true, false] {
        let bench = Bench::new();
        if sealed {
            bench.three_forms();
            bench.load(&["-a"]).ok();
            // Bound to pool and dataset.
            bench.adopt(&["tank/raw"]).stdin(raw_key()).ok();
            bench.adopt(&["tank/words"]).stdin(PASSPHRASE).ok();
        } else {
            bench.three_unsealed();
        }
        for obstacle in ["unchangeable", "readonly"] {
            for name in ["tank/raw", "tank/words"] {
                bench.zfs.write(name, "keystatus", "available");
                let before = (bench.objects(), bench.zfs_state());
                bench.zfs.write(name, obstacle, "");
                let mut rotate = bench.adopt(&[name, "--rotate"]);
                if !sealed {
                    rotate = rotate.arg("--without-present-key");
                }
                rotate.fails_with(1);
                bench.zfs.remove(name, obstacle);
                assert_eq!(
                    (bench.objects(), bench.zfs_state()),
                    before,
                    "{name} {obstacle}"
                );
            }
        }
    }
}

/// Wherever it is killed: the key that the dataset has opens it, out of the vault or by the kit out
/// of its copy, and running it again finishes.
#[test]
fn a_rotation_killed_at_any_call_loses_no_key() {
    let name = "tank/raw";
    let bench = Bench::new();
    bench.three_forms();
    bench.load(&["-a"]).ok();
    let calls = bench.calls_of_a_rotation(name).len();
    let mut seen = BTreeSet::new();
    for call in 0..calls {
        for after in [false, true] {
            let changed = bench.rotation_killed_at(name, call, after);
            seen.insert(changed);
            bench.opens_by_everything(name);
            if after {
                // As the next boot finds it, and as an admin repeats it.
                bench.zfs.restart();
                bench.load(&["-a"]).ok();
                bench.opens_by_everything(name);
            } else {
                bench.adopt(&[name, "--rotate"]).ok();
            }
            assert_eq!(bench.copied_keys(name).len(), 1, "call {call}");
        }
    }
    assert_eq!(seen.len(), 2, "killed before the change, and after it");
}

/// A passphrase that is sealed, and one that its owner alone has and names.
#[test]
fn a_rotation_of_a_passphrase_killed_at_the_change_loses_no_key() {
    let name = "tank/words";
    let bench = Bench::new();
    bench.three_forms();
    bench.load(&["-a"]).ok();
    let calls = bench.calls_of_a_rotation(name);
    let change = calls.iter().position(|call| call.contains("change-key"));
    let change = change.expect("it changes the key");
    for (sealed, after) in [(true, false), (true, true), (false, false), (false, true)] {
        let bench = Bench::new();
        if sealed {
            bench.three_forms();
        } else {
            bench.three_unsealed();
        }
        bench.zfs.write(name, "keystatus", "available");
        let before = bench.zfs.wrapping_key(name);
        bench.zfs.kill_at(change, after);
        let killed = bench.rotate_naming_the_key(name, !sealed).finish();
        assert_eq!(killed.code(), None, "{killed}");
        bench.zfs.kill_nobody();
        assert_eq!(bench.zfs.wrapping_key(name) != before, after);
        bench.opens_by_everything(name);
        bench.adopt(&[name, "--rotate"]).ok();
        bench.opens_by_everything(name);
    }
}

#[test]
fn a_key_that_nobody_has_is_rotated_only_when_that_is_said() {
    let name = "tank/words";
    let bench = Bench::new();
    bench.three_unsealed();
    bench.zfs.write(name, "keystatus", "available");
    // Of a vault that is lost, whose kit opens it.
    let lost = TestVault::on(Swtpm::measured(), &[]);
    let adopt = lost.run(lost.programs().zfs_keyprovider());
    let adopt = bench.zfs.around(adopt).args(["adopt", name]);
    adopt.stdin(PASSPHRASE).ok();
    let earlier = bench.zfs.read(name, RECOVERY);
    let before = (bench.objects(), bench.zfs_state());
    bench
        .adopt(&[name, "--rotate"])
        .fails_with(7)
        .says("its present key is not in the vault, and was not changed");
    assert_eq!((bench.objects(), bench.zfs_state()), before);

    let rotate = || bench.adopt(&[name, "--rotate", "--without-present-key"]);
    let former = "strongroom:recovery-former";
    bench.zfs.write(name, "unchangeable", "");
    rotate().fails_with(1);
    bench.zfs.remove(name, "unchangeable");
    assert_eq!(bench.zfs.read(name, RECOVERY), earlier);
    assert_eq!(bench.zfs.read(name, former), "");

    // Twice cut short before the key is changed: the lost vault's kit still opens it.
    bench.zfs.kill_at(usize::MAX >> 1, false);
    bench.zfs.forget_calls();
    bench.zfs.write(name, "unchangeable", "");
    rotate().fails_with(1);
    bench.zfs.remove(name, "unchangeable");
    bench.zfs.kill_nobody();
    let calls = bench.zfs.calls();
    let calls = calls.lines().filter(|call| call.starts_with("zfs "));
    let change = calls.clone().position(|call| call.contains("change-key"));
    let change = change.expect("it tries to change the key");
    // The second time it need not be kept any more.
    for change in [change, change - 1] {
        bench.zfs.kill_at(change, false);
        assert_eq!(rotate().finish().code(), None);
        bench.zfs.kill_nobody();
        let by_kit = bench.get(&["--recovery"]).arg(lost.recovery()).arg(name);
        assert_eq!(by_kit.ok().stdout, PASSPHRASE.as_bytes());
    }
    rotate().ok();
    assert_eq!(bench.zfs.read(name, former), "");
    bench.opens_by_everything(name);
}

#[test]
fn an_adoption_killed_at_any_call_can_be_run_again() {
    let bench = Bench::new();
    bench.three_unsealed();
    let adopt = |bench: &Bench| bench.adopt(&["tank/words"]).stdin(PASSPHRASE);
    bench.zfs.kill_at(usize::MAX >> 1, false);
    adopt(&bench).ok();
    let calls = bench.zfs.kill_nobody();
    for call in 0..calls {
        for after in [false, true] {
            let bench = Bench::new();
            bench.three_unsealed();
            bench.zfs.kill_at(call, after);
            assert_eq!(adopt(&bench).finish().code(), None, "call {call}");
            bench.zfs.kill_nobody();
            adopt(&bench).ok();
            assert_eq!(bench.objects().len(), 1, "call {call}");
            bench.load(&["tank/words"]).ok();
            bench.opens_by_everything("tank/words");
        }
    }
}

#[test]
fn a_rotation_cut_off_from_the_tpm_anywhere_loses_no_key() {
    let bench = Bench::new();
    bench.three_forms();
    bench.load(&["-a"]).ok();
    // The first binds the present key too.
    bench.adopt(&["tank/raw", "--rotate"]).ok();
    bench.vault.recorder().take();
    bench.adopt(&["tank/raw", "--rotate"]).ok();
    let commands = bench.vault.recorder().take().len();
    let gate = Gate::start(bench.vault.recorder());
    for passed in (0..commands).step_by(3) {
        gate.cut_after(passed);
        bench
            .adopt(&["tank/raw", "--rotate"])
            .env("STRONGROOM_TCTI", gate.tcti())
            .fails_with(4);
        bench.opens_by_everything("tank/raw");
    }
    bench.zfs.restart();
    bench.load(&["-a"]).ok();
}

/// A vault, and a pool `tank`.
struct Bench {
    vault: TestVault,
    zfs: ZfsStandIn,
}

impl Bench {
    fn new() -> Self {
        Self::with(ZfsStandIn::new())
    }

    fn with(zfs: ZfsStandIn) -> Self {
        let bench = Self {
            vault: TestVault::on(Swtpm::measured(), &[]),
            zfs,
        };
        bench.zfs.pool("tank", POOL_GUID);
        bench.dataset("tank", &StandInDataset::plain());
        bench
    }

    /// Datasets of each keyformat, and one below that has its key from above.
    fn three_unsealed(&self) {
        let hex = hex::decode(HEX).expect("digits");
        let words = StandInDataset {
            iters: 100_000,
            salt: 0x0102_0304_0506_0708,
            ..StandInDataset::raw("tank/words", &hex::decode(DERIVED).expect("digits"))
        };
        self.dataset(
            "tank/hex",
            &StandInDataset::raw("tank/hex", &hex).with_format("hex"),
        );
        self.dataset("tank/raw", &StandInDataset::raw("tank/raw", &raw_key()));
        self.dataset("tank/words", &words.with_format("passphrase"));
        self.dataset("tank/raw/child", &StandInDataset::raw("tank/raw", &[]));
    }

    /// The same with their keys in the vault, as `migrate` leaves them: bound to nothing.
    fn three_forms(&self) {
        self.three_unsealed();
        let mut unlocked = self.unlock();
        for (name, form, key) in [
            ("tank/hex", "hex", HEX.as_bytes()),
            ("tank/raw", "raw", &raw_key()),
            ("tank/words", "passphrase", PASSPHRASE.as_bytes()),
        ] {
            seal(&mut unlocked, name, form, key, |_| {});
        }
    }

    fn dataset(&self, name: &str, dataset: &StandInDataset) {
        // A GUID of its own, from its name.
        let guid = name.bytes().fold(7, |guid: u64, byte| {
            guid.wrapping_mul(31).wrapping_add(byte.into())
        });
        self.zfs.dataset(name, guid, dataset);
    }

    fn unlock(&self) -> Unlocked {
        unlock(&self.vault)
    }

    fn run(&self, command: &str, args: &[&str]) -> Run {
        let program = self.vault.programs().zfs_keyprovider();
        self.zfs
            .around(self.vault.run(program))
            .arg(command)
            .args(args)
    }

    fn load(&self, args: &[&str]) -> Run {
        self.run("load", args)
    }

    fn adopt(&self, args: &[&str]) -> Run {
        self.run("adopt", args)
    }

    fn get(&self, args: &[&str]) -> Run {
        self.run("get", args)
    }

    /// Rotates a key, and says which calls of `zfs` that takes.
    fn calls_of_a_rotation(&self, name: &str) -> Vec<String> {
        self.zfs.forget_calls();
        self.adopt(&[name, "--rotate"]).ok();
        let calls = self.zfs.calls();
        let calls = calls.lines().filter(|call| call.starts_with("zfs "));
        calls.map(str::to_owned).collect()
    }

    /// A rotation, where its owner names the present passphrase or need not.
    fn rotate_naming_the_key(&self, name: &str, named: bool) -> Run {
        if named {
            self.adopt(&[name, "--rotate", "--key-file", "-"])
                .stdin(PASSPHRASE)
        } else {
            self.adopt(&[name, "--rotate"])
        }
    }

    /// Whether the key was changed by a rotation that was killed at this call.
    fn rotation_killed_at(&self, name: &str, call: usize, after: bool) -> bool {
        let before = self.zfs.wrapping_key(name);
        self.zfs.kill_at(call, after);
        let killed = self.adopt(&[name, "--rotate"]).finish();
        self.zfs.kill_nobody();
        assert_eq!(killed.code(), None, "call {call}: {killed}");
        self.zfs.wrapping_key(name) != before
    }

    fn status(&self, name: &str) -> String {
        self.zfs.read(name, "keystatus")
    }

    fn object_file(&self, id: &str) -> PathBuf {
        let folder = self.vault.dir().join("objects/datasets");
        folder.join(format!("{id}.json"))
    }

    /// The metadata of all sealed keys.
    fn objects(&self) -> Vec<Value> {
        let mut objects: Vec<Value> = fs::read_dir(self.vault.dir().join("objects/datasets"))
            .expect("there")
            .map(|entry| read_json(&entry.expect("readable").path())["metadata"].clone())
            .collect();
        objects.sort_by_key(Value::to_string);
        objects
    }

    /// All that can be changed of the three datasets.
    fn zfs_state(&self) -> Vec<String> {
        let parts = ["keystatus", "keyformat", "keylocation", RECOVERY];
        ["tank/hex", "tank/raw", "tank/words"]
            .iter()
            .flat_map(|name| {
                let read = parts.iter().map(|part| self.zfs.read(name, part));
                let key = hex::encode(self.zfs.wrapping_key(name));
                read.chain([key]).collect::<Vec<_>>()
            })
            .collect()
    }

    /// What the kit finds in a dataset's copy, newest first.
    fn copied_keys(&self, name: &str) -> Vec<Vec<u8>> {
        let kit = strongroom::recovery::RecoveryKit::read(&self.vault.recovery()).expect("a kit");
        let copy: strongroom::recovery_copy::RecoveryCopy =
            self.zfs.read(name, RECOVERY).parse().expect("a copy");
        let opened = copy.open(&kit).expect("the kit opens it");
        opened
            .iter()
            .map(|one| one.secret.expose().to_vec())
            .collect()
    }

    /// The vault gives the dataset's key, and so does the kit.
    fn opens_by_everything(&self, name: &str) {
        let kit = self.vault.recovery();
        let kit = kit.to_str().expect("UTF-8");
        for args in [&[name][..], &[name, "--recovery", kit]] {
            let key = self.get(args).ok().stdout;
            let wrapping_key = match self.zfs.read(name, "keyformat").as_str() {
                "passphrase" => derived(&key),
                _ => key,
            };
            assert_eq!(wrapping_key, self.zfs.wrapping_key(name), "{args:?}");
        }
    }
}

/// What the passphrase is for the kernel; there is but one in these tests.
fn derived(passphrase: &[u8]) -> Vec<u8> {
    assert_eq!(passphrase, PASSPHRASE.as_bytes());
    hex::decode(DERIVED).expect("digits")
}

fn raw_key() -> Vec<u8> {
    (100..132).collect()
}

/// Seals a dataset key, and gives its id.
fn seal(
    unlocked: &mut Unlocked,
    label: &str,
    form: &str,
    key: &[u8],
    bind: impl FnOnce(&mut NewObject),
) -> String {
    let label = label.parse().expect("a label");
    let mut object = NewObject::new(TokenName::datasets(), label, Kind::DatasetKey)
        .with_attribute(KEYFORMAT, form);
    bind(&mut object);
    let id = unlocked
        .seal(object, &Secret::copy_of(key))
        .expect("sealed");
    id.to_string()
}

fn unlock(vault: &TestVault) -> Unlocked {
    let tcti: Tcti = vault.recorder().tcti().parse().expect("a TCTI");
    let opened = Vault::open(&vault.dir()).expect("open");
    opened.unlock(&tcti).expect("unlock")
}

/// The only object of a vault.
fn other_objects(unlocked: &Unlocked) -> strongroom::object::Metadata {
    unlocked.vault().list().expect("listed").objects.remove(0)
}

fn entries(report: &Value) -> &Vec<Value> {
    report["datasets"].as_array().expect("datasets")
}

fn entry<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut all = entries(report).iter();
    all.find(|entry| entry["dataset"] == name)
        .unwrap_or_else(|| panic!("{name} in {report}"))
}
