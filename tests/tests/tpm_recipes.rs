//! The TPM recipes that a vault rests on, each shown to hold, and the attack beside it shown to
//! fail: at the TPM itself, with tpm2-tools and the very objects of a vault, so that no check of
//! the library's own stands in the way.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use strongroom::object::ObjectId;
use strongroom::{Error, Vault};
use strongroom_tests::swtpm::USUAL_BOOT;
use strongroom_tests::truenas_fixture::{Fixture, Generation};
use strongroom_tests::vault_files::{
    KeyFile, Kit, authenticate, key_file_member, read_json, slot, snapshot, write_json,
};
use strongroom_tests::{Gate, Output, TestVault};

const OTHER_BOOT: &[(u32, &str)] = &[
    (7, "Secure Boot off"),
    (9, "a rescue kernel"),
    (11, "no stub"),
];

/// Where `strongroom init` puts the root key and the index N on a fresh TPM.
const ROOT_KEY: &str = "0x81000001";
const INDEX: &str = "0x1857200";
const PCRS: &str = "sha256:7,9,11";

const SECRET: &[u8] = b"correct horse battery staple";

// Storage keys: P has the policy PolicyAuthorizeNV(N), and only an allowed boot meets it.

#[test]
fn an_allowed_boot_creates_loads_and_unseals_under_a_storage_key() {
    let bench = Bench::new();
    bench.load_storage_key();
    bench.prove("boot").ok();
    bench
        .create_under("storage-key", &["-P", &bench.session("boot")])
        .ok();
    bench.prove("boot").ok();
    bench
        .load("made", "storage-key", &["-P", &bench.session("boot")])
        .ok();
    let unsealed = bench.tpm2(&["unseal", "-c", &bench.at("made.ctx")]).ok();
    assert_eq!(unsealed.stdout, SECRET);

    // And the vault's own object, whose DEK the kit confirms.
    bench.prove("boot").ok();
    bench
        .load("object", "storage-key", &["-P", &bench.session("boot")])
        .ok();
    let unsealed = bench.tpm2(&["unseal", "-c", &bench.at("object.ctx")]).ok();
    let dek = Kit::read(&bench.vault.recovery()).dek(&bench.object());
    assert_eq!(unsealed.stdout, dek);
}

#[test]
fn another_boot_neither_creates_nor_loads_under_a_storage_key() {
    let mut bench = Bench::new();
    bench.vault.reboot(OTHER_BOOT);
    bench.load_storage_key();
    bench.write_key("object");
    // N does not vouch for it ...
    bench.prove("boot").refused("0x84");
    // ... and without N's word the policy fails, whatever else was asserted.
    for with in [
        |bench: &Bench| bench.start("boot"),
        |bench: &Bench| bench.assert_pcrs("boot"),
        |bench: &Bench| {
            bench.assert_pcrs("boot");
            let file = bench.at("boot");
            bench.tpm2(&["policypassword", "-S", &file]).ok();
        },
    ] {
        with(&bench);
        bench
            .create_under("storage-key", &["-P", &bench.session("boot")])
            .refused("0x99D");
        with(&bench);
        bench
            .load("object", "storage-key", &["-P", &bench.session("boot")])
            .refused("0x99D");
    }
    // Nor does the empty password, for userWithAuth is clear.
    bench.create_under("storage-key", &[]).refused("0x12F");
    bench.load("object", "storage-key", &[]).refused("0x12F");
}

#[test]
fn what_a_stranger_makes_under_the_root_key_does_not_load_under_a_storage_key() {
    let bench = Bench::new();
    // Creating under the root key costs nothing, as with any TPM.
    bench.create_under(ROOT_KEY, &[]).ok();
    bench.load_storage_key();
    bench.prove("boot").ok();
    bench
        .load("made", "storage-key", &["-P", &bench.session("boot")])
        .refused("0x1DF");
    // Nor does what was made under a storage key of their own, with P's own policy.
    bench.make_storage_key("twin");
    bench.prove("boot").ok();
    bench
        .create_under("twin", &["-P", &bench.session("boot")])
        .ok();
    bench.prove("boot").ok();
    bench
        .load("made", "storage-key", &["-P", &bench.session("boot")])
        .refused("0x1DF");
}

#[test]
fn what_was_loaded_cannot_be_made_persistent_or_outlive_a_restart() {
    let mut bench = Bench::new();
    bench.load_storage_key();
    bench.prove("boot").ok();
    bench
        .load("object", "storage-key", &["-P", &bench.session("boot")])
        .ok();
    let object = bench.at("object.ctx");
    bench
        .tpm2(&["evictcontrol", "-C", "o", "-c", &object, "0x81000005"])
        .refused("0x282");
    // The storage key can be kept; it still costs its policy.
    let storage_key = bench.at("storage-key.ctx");
    bench
        .tpm2(&["evictcontrol", "-C", "o", "-c", &storage_key, "0x81000006"])
        .ok();
    bench.tpm2(&["unseal", "-c", &object]).ok();
    bench.vault.reboot(OTHER_BOOT);
    let gone = bench.tpm2(&["unseal", "-c", &object]);
    assert!(!gone.0.status.success(), "{}", gone.0);
    bench
        .load_from("object", "0x81000006", &[])
        .refused("0x12F");
}

// N: what it holds may boot, and only two can write it.

#[test]
fn nobody_writes_the_index_by_owner_or_index_auth() {
    let bench = Bench::new();
    let held = bench.index_content();
    fs::write(bench.at("own"), [0x0b; 34]).expect("written");
    let own = bench.at("own");
    bench
        .tpm2(&["nvwrite", "-C", "o", INDEX, "-i", &own])
        .refused("0x149");
    bench
        .tpm2(&["nvwrite", "-C", INDEX, INDEX, "-i", &own])
        .refused("0x12F");
    assert_eq!(bench.index_content(), held);
}

#[test]
fn an_allowed_boot_writes_the_index_through_x() {
    let bench = Bench::new();
    let new = Bench::some_list();
    bench.rewrite_through_x(&new, Prover::Whole).ok();
    assert_eq!(bench.index_content(), new);
    // The boot that wrote it has shut itself out.
    bench.prove("boot").refused("0x84");
}

#[test]
fn another_boot_cannot_use_x() {
    let mut bench = Bench::new();
    let held = bench.index_content();
    bench.vault.reboot(OTHER_BOOT);
    let new = Bench::some_list();
    bench.load_x();
    bench.prove("prover").refused("0x84");
    // K_x approved PolicyAuthorizeNV(N), which is not what this session has shown.
    bench.assert_pcrs("prover");
    bench.approve().refused("0x1C4");
    // X says no to a session that has shown nothing, and to the empty password.
    bench
        .rewrite_through_x(&new, Prover::Unproven)
        .refused("0x99D");
    bench.start("writing");
    bench
        .tpm2(&[
            "policysecret",
            "-S",
            &bench.at("writing"),
            "-c",
            &bench.at("x.ctx"),
        ])
        .refused("0x12F");
    assert_eq!(bench.index_content(), held);
}

#[test]
fn x_wants_the_password_assertion_too() {
    let bench = Bench::new();
    let new = Bench::some_list();
    bench
        .rewrite_through_x(&new, Prover::WithoutPassword)
        .refused("0x989");
}

#[test]
fn what_an_allowed_boot_takes_along_is_of_no_use_in_another() {
    let mut bench = Bench::new();
    let held = bench.index_content();
    let new = Bench::some_list();
    // A ticket of PolicySecret(X), as stocked up by root in an allowed boot.
    bench.prove_x(Prover::Whole).ok();
    bench.start_beside("writing");
    let (writing, ticket, timeout) = (bench.at("writing"), bench.at("ticket"), bench.at("timeout"));
    bench
        .tpm2(&[
            "policysecret",
            "-S",
            &writing,
            "-c",
            &bench.at("x.ctx"),
            "--expiration=-3600",
            "--ticket",
            &ticket,
            "--timeout",
            &timeout,
            "-x",
            &bench.session("prover"),
        ])
        .ok();
    bench
        .tpm2(&[
            "readpublic",
            "-c",
            &bench.at("x.ctx"),
            "-n",
            &bench.at("x.name"),
        ])
        .ok();
    let use_ticket = |bench: &Bench| {
        bench.start("writing");
        bench.tpm2(&[
            "policyticket",
            "-S",
            &writing,
            "-n",
            &bench.at("x.name"),
            "--ticket",
            &ticket,
            "--timeout",
            &timeout,
        ])
    };
    use_ticket(&bench).ok();
    bench.vault.reboot(OTHER_BOOT);
    use_ticket(&bench).refused("0x5E0");
    // K_x's signature lies open in vault.json, and so it may.
    bench.load_x();
    bench.assert_pcrs("prover");
    bench.approve().refused("0x1C4");
    bench
        .rewrite_through_x(&new, Prover::Unproven)
        .refused("0x99D");
    assert_eq!(bench.index_content(), held);
}

#[test]
fn rewriting_the_index_revokes_the_boot_that_was_allowed_before() {
    let mut bench = Bench::new();
    bench.vault.reboot(OTHER_BOOT);
    bench.rebind_by_recovery(&[]).ok();
    bench.opens();
    bench.vault.reboot(USUAL_BOOT);
    bench.load_storage_key();
    bench.prove("boot").refused("0x84");
    bench
        .vault
        .strongroom(&["unseal", "--id", &bench.id])
        .fails_with(3);
    // An old list on disk is believed by nobody.
    let file = bench.policy_file();
    let mut policy = read_json(&file);
    for pcr in [7, 9, 11] {
        let value = hex::encode(bench.vault.tpm().pcr(pcr));
        policy["current"][0]["pcrs"][pcr.to_string()] = Value::from(value);
    }
    write_json(&file, &policy);
    bench
        .vault
        .strongroom(&["unseal", "--id", &bench.id])
        .fails_with(5)
        .says("policy.json");
}

// What the programs make of it.

#[test]
fn a_boot_rebinds_by_itself_only_where_it_is_allowed() {
    let mut bench = Bench::new();
    bench
        .rebind(&["--add", &format!("11={}", "5c".repeat(32))])
        .ok();
    let held = bench.index_content();
    bench.vault.reboot(OTHER_BOOT);
    for args in [
        &[][..],
        &["--pcrs", "7"],
        &["--add", &format!("11={}", "11".repeat(32))],
    ] {
        bench.vault.recorder().take();
        bench.rebind(args).fails_with(3);
        assert!(!bench.vault.recorder().counts().contains_key("NV_Write"));
        assert_eq!(bench.index_content(), held);
    }
    bench.vault.reboot(USUAL_BOOT);
    bench.opens();
    bench.rebind(&[]).ok();
    assert_ne!(bench.index_content(), held);
    bench.opens();
}

#[test]
fn a_list_holds_eight_boots_and_no_ninth() {
    let mut bench = Bench::new();
    let next = |number: u8| format!("11={}", hex::encode([number; 32]));
    for number in 1..8 {
        bench.rebind(&["--add", &next(number)]).ok();
    }
    let (held, files) = (bench.index_content(), snapshot(&bench.vault.dir()));
    bench
        .rebind(&["--add", &next(8)])
        .fails_with(7)
        .says("eight");
    assert_eq!(bench.index_content(), held);
    assert!(snapshot(&bench.vault.dir()) == files);
    // One that is there already is no ninth.
    bench.rebind(&["--add", &next(3)]).ok();
    bench.opens();
    // The last of them opens as the first does. PCR 11 alone is extended in the boot that was
    // added, so the list is made of what it will be.
    bench.rebind(&[]).ok();
    let mut coming = Sha256::new();
    coming.update([0; 32]);
    coming.update(Sha256::digest(b"the next kernel"));
    bench
        .rebind(&["--add", &format!("11={}", hex::encode(coming.finalize()))])
        .ok();
    let mut boot = USUAL_BOOT.to_vec();
    boot[2] = (11, "the next kernel");
    bench.vault.reboot(&boot);
    bench.opens();
    bench.vault.reboot(USUAL_BOOT);
    bench.opens();
}

#[test]
fn boots_over_different_pcrs_live_in_one_list() {
    let mut bench = Bench::new();
    let file = bench.policy_file();
    let both = |one: &Value, other: &Value| json!([one["current"][0], other["current"][0]]);
    let usual = read_json(&file);
    bench.vault.reboot(OTHER_BOOT);
    bench.rebind_by_recovery(&["--pcrs", "7"]).ok();
    let other = read_json(&file);
    // No command makes such a list yet; the library must open it all the same, whichever boot
    // it is, because tomorrow's will.
    bench.vault.reboot(USUAL_BOOT);
    for list in [both(&usual, &other), both(&other, &usual)] {
        bench.rebind_by_recovery(&["--pcrs", "7,9,11"]).ok();
        bench.force_list(&list);
        for boot in [USUAL_BOOT, OTHER_BOOT, USUAL_BOOT] {
            bench.vault.reboot(boot);
            bench.opens();
        }
        bench.vault.reboot(&[(7, "neither")]);
        bench
            .vault
            .strongroom(&["unseal", "--id", &bench.id])
            .fails_with(3);
        bench.vault.reboot(USUAL_BOOT);
    }
}

#[test]
fn the_same_list_again_writes_nothing() {
    let bench = Bench::new();
    bench
        .rebind(&["--add", &format!("11={}", "5c".repeat(32))])
        .ok();
    bench.vault.recorder().take();
    let again = |run: strongroom_tests::Run| {
        assert_eq!(run.arg("--json").ok().json()["written"], false);
        assert!(
            !bench
                .vault
                .recorder()
                .take()
                .iter()
                .any(|command| command.name == "NV_Write")
        );
    };
    again(bench.rebind(&["--add", &format!("11={}", "5c".repeat(32))]));
    again(bench.rebind_by_recovery(&["--add", &format!("11={}", "5c".repeat(32))]));
    bench.rebind(&[]).ok();
    bench.vault.recorder().take();
    again(bench.rebind(&[]));
    again(bench.rebind_by_recovery(&[]));
    bench.opens();
}

#[test]
fn a_crash_between_list_and_index_loses_neither() {
    let bench = Bench::new();
    let file = bench.policy_file();
    let old = read_json(&file)["current"].clone();
    bench
        .rebind(&["--add", &format!("11={}", "5c".repeat(32))])
        .ok();
    let new = read_json(&file)["current"].clone();
    // N holds `new`: the crash came after its write; and the other way round, before it.
    for (current, next) in [(&old, &new), (&new, &old)] {
        write_json(
            &file,
            &json!({"format": 1, "current": current, "next": next}),
        );
        bench.opens();
        bench.vault.strongroom(&["status"]).ok();
        let status = bench.vault.strongroom(&["status", "--json"]).ok().json();
        assert_eq!(status["boot"]["branches"], new);
    }
    // The next change begins from the list in force, and settles the file.
    write_json(&file, &json!({"format": 1, "current": old, "next": new}));
    bench
        .rebind(&["--add", &format!("11={}", "6d".repeat(32))])
        .ok();
    let settled = read_json(&file);
    assert_eq!(settled["current"].as_array().map(Vec::len), Some(3));
    assert!(settled.get("next").is_none());
    bench.opens();
}

#[test]
fn a_list_that_is_lost_or_spoilt_is_refused_and_mended_by_the_kit() {
    let bench = Bench::new();
    let file = bench.policy_file();
    let genuine = read_json(&file);
    let mut other = genuine.clone();
    other["current"][0]["pcrs"]["7"] = Value::from("5c".repeat(32));
    let mut nine = genuine.clone();
    nine["current"] = (0..9).map(|_| genuine["current"][0].clone()).collect();
    let mut meaningless = genuine.clone();
    meaningless["current"][0]["pcrs"] = json!({"16": "00".repeat(32)});
    let spoilt: Vec<(&str, Option<Vec<u8>>)> = vec![
        ("gone", None),
        ("empty", Some(Vec::new())),
        ("garbage", Some(b"\0\xff{{{".to_vec())),
        ("of another shape", Some(b"{\"format\": 1}".to_vec())),
        (
            "an empty list",
            Some(b"{\"format\": 1, \"current\": []}".to_vec()),
        ),
        ("another list", Some(other.to_string().into_bytes())),
        ("nine boots", Some(nine.to_string().into_bytes())),
        (
            "PCRs that say nothing",
            Some(meaningless.to_string().into_bytes()),
        ),
    ];
    let mut wrong = Vec::new();
    for (what, content) in spoilt {
        match &content {
            Some(bytes) => fs::write(&file, bytes).expect("written"),
            None => fs::remove_file(&file).expect("removed"),
        }
        for output in [
            bench
                .vault
                .strongroom(&["unseal", "--id", &bench.id])
                .finish(),
            bench.rebind(&[]).finish(),
        ] {
            let clear = output.code() == Some(5)
                && output.stdout.is_empty()
                && output.stderr.contains("policy.json")
                && output.stderr.contains("rebind --recovery");
            if !clear {
                wrong.push(format!("{what}: {output}"));
            }
        }
        bench.rebind_by_recovery(&[]).ok();
        bench.opens();
        assert_eq!(read_json(&file), genuine, "{what}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// The batch's one session.

#[test]
fn a_damaged_object_does_not_spoil_the_next_one_of_a_batch() {
    let bench = Bench::new();
    let ids: Vec<String> = (0..4)
        .map(|number| {
            bench
                .vault
                .seal("credentials", &format!("{number}"), SECRET)
        })
        .collect();
    // Spoilt so that it is the TPM that refuses, under a policy that was met: its MAC is right.
    bench.spoil_tpm_slot(&ids[1]);
    bench.spoil_tpm_slot(&ids[2]);
    bench.vault.recorder().take();
    let vault = Vault::open(&bench.vault.dir()).expect("a vault");
    let tcti = bench.vault.recorder().tcti().parse().expect("a TCTI");
    let mut unlocked = vault.unlock(&tcti).expect("an allowed boot");
    for _ in 0..2 {
        for (place, id) in ids.iter().enumerate() {
            let id: ObjectId = id.parse().expect("an id");
            match (place, unlocked.unseal(id)) {
                (0 | 3, Ok(secret)) => assert_eq!(secret.expose(), SECRET),
                (1 | 2, Err(Error::ObjectDamaged { .. })) => {}
                (_, outcome) => panic!("{place}: {:?}", outcome.map(|_| "unsealed")),
            }
        }
    }
    drop(unlocked);
    let counts = bench.vault.recorder().counts();
    assert_eq!(counts["PolicyRestart"], 4);
    assert_eq!(counts["StartAuthSession"], 1);
    assert!(bench.vault.tpm().transient_handles().is_empty());
    assert!(bench.vault.tpm().loaded_sessions().is_empty());
}

#[test]
fn a_slot_of_another_tpm_does_not_hide_the_one_of_this() {
    let bench = Bench::new();
    let (manifest, file) = (
        bench.manifest(),
        bench.object_file("credentials", &bench.id),
    );
    let other = Bench::new();
    let strange = slot(&other.object(), "tpm").clone();
    let mut object = read_json(&file);
    let slots = object["slots"].as_array_mut().expect("slots");
    slots.insert(0, strange);
    let key = Kit::read(&bench.vault.recovery()).vault_key(&manifest);
    authenticate(&mut object, "object", &key);
    write_json(&file, &object);
    bench.vault.recorder().take();
    bench.opens();
    assert_eq!(bench.vault.recorder().counts()["PolicyRestart"], 1);
}

#[test]
fn pcrs_that_are_extended_meanwhile_do_not_stop_a_batch() {
    let bench = Bench::new();
    let folder = bench.vault.folder().join("truenas");
    fs::create_dir(&folder).expect("a folder");
    let fixture = Fixture::build(&folder, Generation::V26, 11, 12);
    let done = AtomicBool::new(false);
    bench.vault.recorder().take();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                bench.measure_a_file();
                thread::sleep(Duration::from_millis(25));
            }
        });
        let migrated = bench
            .vault
            .strongroom(&["migrate", "--yes", "--database"])
            .arg(&fixture.database)
            .arg("--pwenc-secret")
            .arg(&fixture.pwenc_secret)
            .arg("--backup")
            .arg(bench.vault.folder().join("backup"))
            .finish();
        done.store(true, Ordering::SeqCst);
        migrated.ok();
    });
    let commands = bench.vault.recorder().commands();
    let changed = commands
        .iter()
        .filter(|command| command.rc == 0x128)
        .count();
    assert!(
        changed > 0,
        "no PCR was extended at the wrong moment: this shows nothing"
    );
    bench.opens();
}

#[test]
fn a_machine_that_extends_pcrs_without_pause_is_told_so() {
    let bench = Bench::new();
    let gate = Gate::start(bench.vault.recorder());
    let changed = || {
        let commands = bench.vault.recorder().commands();
        commands
            .iter()
            .filter(|command| command.rc == 0x128)
            .count()
    };
    // A file is measured before each command, until that was at the wrong moment so many times.
    let unseal = |times: usize| {
        gate.hold_after(0);
        bench.vault.recorder().take();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) && changed() < times {
                    if gate.holds_one() {
                        bench.measure_a_file();
                        gate.hold_after(1);
                    }
                    thread::sleep(Duration::from_micros(300));
                }
                gate.open();
            });
            let output = bench
                .vault
                .strongroom(&["unseal", "--id", &bench.id])
                .env("STRONGROOM_TCTI", gate.tcti())
                .finish();
            done.store(true, Ordering::SeqCst);
            output
        })
    };
    // For a while: it begins anew. For ever: it ends, and says why.
    assert_eq!(unseal(3).ok().stdout, SECRET);
    assert_eq!(changed(), 3);
    unseal(usize::MAX)
        .fails_with(4)
        .says("PCRs are being extended without pause");
    assert!(changed() >= 8);
    assert!(bench.vault.tpm().transient_handles().is_empty());
}

#[test]
fn every_session_is_salted_to_the_root_key() {
    let mut bench = Bench::new();
    bench.vault.reboot(OTHER_BOOT);
    bench.rebind_by_recovery(&[]).ok();
    bench.opens();
    bench.rebind(&["--pcrs", "7"]).ok();
    let sessions: Vec<_> = bench
        .vault
        .recorder()
        .commands()
        .into_iter()
        .filter(|command| command.name == "StartAuthSession")
        .collect();
    assert!(sessions.len() > 4);
    for session in sessions {
        // Part 3, section 11.1: header, tpmKey, bind, nonceCaller, encryptedSalt.
        let request = &session.request;
        assert_eq!(request[10..14], [0x81, 0, 0, 1], "tpmKey");
        assert_eq!(request[14..18], [0x40, 0, 0, 7], "bind");
        let nonce = usize::from(u16::from_be_bytes([request[18], request[19]]));
        let salt = u16::from_be_bytes([request[20 + nonce], request[21 + nonce]]);
        assert!(nonce >= 16 && salt >= 64, "{nonce} {salt}");
    }
}

// Helpers.

/// A vault with one credential, and tpm2-tools at its TPM.
struct Bench {
    vault: TestVault,
    id: String,
}

/// How far a session goes in proving the boot to X.
#[derive(Clone, Copy, PartialEq)]
enum Prover {
    Whole,
    WithoutPassword,
    Unproven,
}

impl Bench {
    fn new() -> Self {
        let vault = TestVault::new();
        let id = vault.seal("credentials", "offsite", SECRET);
        let bench = Self { vault, id };
        fs::write(bench.at("secret"), SECRET).expect("written");
        bench
    }

    fn manifest(&self) -> Value {
        read_json(&self.vault.dir().join("vault.json"))
    }

    fn policy_file(&self) -> PathBuf {
        self.vault.dir().join("policy.json")
    }

    fn object_file(&self, token: &str, id: &str) -> PathBuf {
        let folder = self.vault.dir().join("objects").join(token);
        folder.join(format!("{id}.json"))
    }

    fn object(&self) -> Value {
        read_json(&self.object_file("credentials", &self.id))
    }

    #[track_caller]
    fn opens(&self) {
        assert_eq!(self.vault.unseal_id(&self.id), SECRET);
    }

    fn rebind(&self, args: &[&str]) -> strongroom_tests::Run {
        self.vault.strongroom(&["rebind", "--yes"]).args(args)
    }

    fn rebind_by_recovery(&self, args: &[&str]) -> strongroom_tests::Run {
        self.rebind(args)
            .arg("--recovery")
            .arg(self.vault.recovery())
    }

    /// One of our files, as an argument of tpm2-tools.
    fn at(&self, name: &str) -> String {
        self.vault.folder().join(name).display().to_string()
    }

    /// A session, as an authorisation.
    fn session(&self, name: &str) -> String {
        format!("session:{}", self.at(name))
    }

    /// Runs one of tpm2-tools, unrecorded, and unloads what it left loaded.
    fn tpm2(&self, args: &[&str]) -> Tpm2 {
        let output = self.vault.tpm().tpm2(args);
        self.vault
            .tpm()
            .tpm2(&["flushcontext", "--transient-object"])
            .ok();
        Tpm2(output)
    }

    /// Starts a policy session in which nothing is asserted yet.
    fn start(&self, name: &str) {
        // A session that was given up still takes a place.
        self.vault
            .tpm()
            .tpm2(&["flushcontext", "--loaded-session"])
            .ok();
        self.vault
            .tpm()
            .tpm2(&["flushcontext", "--saved-session"])
            .ok();
        self.start_beside(name);
    }

    /// The same, while another goes on.
    fn start_beside(&self, name: &str) {
        self.tpm2(&["startauthsession", "--policy-session", "-S", &self.at(name)])
            .ok();
    }

    fn assert_pcrs(&self, name: &str) {
        self.start(name);
        self.tpm2(&["policypcr", "-S", &self.at(name), "-l", PCRS])
            .ok();
    }

    /// PolicyPCR and PolicyAuthorizeNV, in a new session.
    fn prove(&self, name: &str) -> Tpm2 {
        self.assert_pcrs(name);
        self.tpm2(&[
            "policyauthorizenv",
            "-S",
            &self.at(name),
            "-C",
            INDEX,
            INDEX,
        ])
    }

    /// Writes a key of the vault's for tpm2_load: the object's TPM slot, or the storage key of
    /// its token.
    fn write_key(&self, name: &str) {
        let key = match name {
            "object" => {
                let object = self.object();
                let slot = slot(&object, "tpm");
                KeyFile::parse(&slot[key_file_member(slot)])
            }
            "storage-key" => {
                KeyFile::parse(&self.manifest()["tokens"]["credentials"]["storage-key"])
            }
            "x" => KeyFile::parse(&self.manifest()["writers"]["x"]),
            _ => return,
        };
        key.write(Path::new(&self.at(name)));
    }

    /// Loads a key under a parent that is loaded itself.
    fn load(&self, name: &str, parent: &str, auth: &[&str]) -> Tpm2 {
        self.load_from(name, &self.at(&format!("{parent}.ctx")), auth)
    }

    fn load_from(&self, name: &str, parent: &str, auth: &[&str]) -> Tpm2 {
        self.write_key(name);
        let [public, private, context] =
            ["pub", "priv", "ctx"].map(|suffix| self.at(&format!("{name}.{suffix}")));
        let mut args = vec![
            "load", "-C", parent, "-u", &public, "-r", &private, "-c", &context,
        ];
        args.extend(auth);
        self.tpm2(&args)
    }

    fn load_storage_key(&self) {
        self.load_from("storage-key", ROOT_KEY, &[]).ok();
    }

    /// Creates a sealed object, `made`.
    fn create_under(&self, parent: &str, auth: &[&str]) -> Tpm2 {
        let parent = if parent == ROOT_KEY {
            ROOT_KEY.to_owned()
        } else {
            self.at(&format!("{parent}.ctx"))
        };
        let (secret, public, private) =
            (self.at("secret"), self.at("made.pub"), self.at("made.priv"));
        let mut args = vec![
            "create", "-C", &parent, "-i", &secret, "-u", &public, "-r", &private,
        ];
        args.extend(auth);
        self.tpm2(&args)
    }

    /// Makes and loads a storage key as the vault's are, policy and all.
    fn make_storage_key(&self, name: &str) {
        let policy = self.at("policy");
        fs::write(&policy, self.policy_of_storage_keys()).expect("written");
        let (public, private) = (
            self.at(&format!("{name}.pub")),
            self.at(&format!("{name}.priv")),
        );
        self.tpm2(&[
            "create",
            "-C",
            ROOT_KEY,
            "-G",
            "ecc",
            "-u",
            &public,
            "-r",
            &private,
            "-L",
            &policy,
            "-a",
            "fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|noda|restricted|decrypt",
        ])
        .ok();
        self.load_from(name, ROOT_KEY, &[]).ok();
    }

    /// The digest of PolicyAuthorizeNV(N), as a storage key's public area has it.
    fn policy_of_storage_keys(&self) -> Vec<u8> {
        let key = KeyFile::parse(&self.manifest()["storage-key"]);
        // TPM2B_PUBLIC: size, type, nameAlg and attributes take 10 bytes, then a sized policy.
        key.public[12..44].to_vec()
    }

    // X and K_x.

    fn load_x(&self) {
        self.load_from("x", ROOT_KEY, &[]).ok();
        // K_x's public area (Part 2, section 12.2.4): a P-256 key for ECDSA with SHA-256, with
        // userWithAuth and sign.
        let point = self.manifest()["writers"]["k-x"].clone();
        let point = BASE64
            .decode(point.as_str().expect("text"))
            .expect("base64");
        let area = [
            &[0x00, 0x23, 0x00, 0x0b, 0x00, 0x04, 0x00, 0x40, 0, 0][..],
            &[0x00, 0x10, 0x00, 0x18, 0x00, 0x0b, 0x00, 0x03, 0x00, 0x10],
            &[0, 32],
            &point[1..33],
            &[0, 32],
            &point[33..65],
        ]
        .concat();
        let len = u16::try_from(area.len()).expect("short");
        let public = [&len.to_be_bytes()[..], &area].concat();
        fs::write(self.at("k-x.pub"), public).expect("written");
        self.tpm2(&[
            "loadexternal",
            "-C",
            "o",
            "-u",
            &self.at("k-x.pub"),
            "-c",
            &self.at("k-x.ctx"),
            "-n",
            &self.at("k-x.name"),
        ])
        .ok();
        // TPMT_SIGNATURE of the signature that lies in the manifest.
        let signature = self.manifest()["writers"]["k-x-signature"].clone();
        let signature = BASE64
            .decode(signature.as_str().expect("text"))
            .expect("base64");
        let (r, s) = signature.split_at(32);
        let signature = [&[0x00, 0x18, 0x00, 0x0b, 0, 32][..], r, &[0, 32], s].concat();
        fs::write(self.at("k-x.sig"), signature).expect("written");
        fs::write(self.at("approved"), self.policy_of_storage_keys()).expect("written");
        self.tpm2(&[
            "verifysignature",
            "-c",
            &self.at("k-x.ctx"),
            "-g",
            "sha256",
            "-m",
            &self.at("approved"),
            "-s",
            &self.at("k-x.sig"),
            "-t",
            &self.at("k-x.ticket"),
        ])
        .ok();
    }

    /// PolicyAuthorize(K_x), in the session `prover`.
    fn approve(&self) -> Tpm2 {
        self.tpm2(&[
            "policyauthorize",
            "-S",
            &self.at("prover"),
            "-i",
            &self.at("approved"),
            "-n",
            &self.at("k-x.name"),
            "-t",
            &self.at("k-x.ticket"),
        ])
    }

    /// What X's policy asks for, in the session `prover`.
    fn prove_x(&self, how: Prover) -> Tpm2 {
        self.load_x();
        if how == Prover::Unproven {
            self.start("prover");
            return self.tpm2(&["policypassword", "-S", &self.at("prover")]);
        }
        self.prove("prover").ok();
        let approved = self.approve();
        if how == Prover::WithoutPassword {
            return approved;
        }
        approved.ok();
        self.tpm2(&["policypassword", "-S", &self.at("prover")])
    }

    /// The self-rebind of the design, command by command.
    fn rewrite_through_x(&self, content: &[u8], how: Prover) -> Tpm2 {
        let (b, content_file) = (self.branch_of_recovery(), self.at("new-content"));
        fs::write(&content_file, content).expect("written");
        self.prove_x(how).ok();
        self.start_beside("writing");
        let writing = self.at("writing");
        let secret = self.tpm2(&[
            "policysecret",
            "-S",
            &writing,
            "-c",
            &self.at("x.ctx"),
            &self.session("prover"),
        ]);
        if !secret.0.status.success() {
            return secret;
        }
        self.tpm2(&[
            "policycommandcode",
            "-S",
            &writing,
            "-L",
            &self.at("a"),
            "TPM2_CC_NV_Write",
        ])
        .ok();
        fs::write(self.at("b"), b).expect("written");
        let list = format!("sha256:{},{}", self.at("a"), self.at("b"));
        self.tpm2(&["policyor", "-S", &writing, "-l", &list]).ok();
        self.tpm2(&[
            "nvwrite",
            "-C",
            INDEX,
            "-P",
            &self.session("writing"),
            INDEX,
            "-i",
            &content_file,
        ])
    }

    /// The branch of N's write policy that is the recovery identity's: PolicySigned(K_rec) with
    /// the vault's id, PolicyCommandCode(NV_Write).
    fn branch_of_recovery(&self) -> [u8; 32] {
        let manifest = self.manifest();
        let point = manifest["writers"]["k-rec"]["public"]
            .as_str()
            .expect("text");
        let point = BASE64.decode(point).expect("base64");
        let area = [
            &[0x00, 0x23, 0x00, 0x0b, 0x00, 0x04, 0x00, 0x40, 0, 0][..],
            &[0x00, 0x10, 0x00, 0x18, 0x00, 0x0b, 0x00, 0x03, 0x00, 0x10],
            &[0, 32],
            &point[1..33],
            &[0, 32],
            &point[33..65],
        ]
        .concat();
        let name = [&[0x00, 0x0b][..], &Sha256::digest(area)].concat();
        let id = manifest["id"].as_str().expect("text").as_bytes();
        let extend = |digest: &[u8], more: &[u8]| Sha256::digest([digest, more].concat());
        let signed = extend(&[0; 32], &[&[0, 0, 0x01, 0x60][..], &name].concat());
        let signed = extend(&signed, id);
        extend(&signed, &[0, 0, 0x01, 0x6c, 0, 0, 0x01, 0x37]).into()
    }

    /// What N holds.
    fn index_content(&self) -> Vec<u8> {
        let file = self.at("content");
        self.tpm2(&["nvread", "-C", INDEX, "-s", "34", "-o", &file, INDEX])
            .ok();
        fs::read(file).expect("nvread wrote it")
    }

    /// A content of N that allows some other boot.
    fn some_list() -> Vec<u8> {
        [&[0x00, 0x0b][..], &[0x5c; 32]].concat()
    }

    /// Puts a list into force that no command makes: into the file, and its digest into N by way
    /// of X, from an allowed boot.
    fn force_list(&self, list: &Value) {
        let branch = |branch: &Value| {
            let pcrs = branch["pcrs"].as_object().expect("PCRs");
            let mut pcrs: Vec<(u32, Vec<u8>)> = pcrs
                .iter()
                .map(|(pcr, value)| {
                    let value = hex::decode(value.as_str().expect("text")).expect("hex");
                    (pcr.parse().expect("a number"), value)
                })
                .collect();
            pcrs.sort();
            let mut selected = [0_u8; 3];
            let mut values = Sha256::new();
            for (pcr, value) in &pcrs {
                selected[(pcr / 8) as usize] |= 1 << (pcr % 8);
                values.update(value);
            }
            Sha256::new()
                .chain_update([0; 32])
                .chain_update([0, 0, 0x01, 0x7f])
                .chain_update([0, 0, 0, 1, 0, 0x0b, 3])
                .chain_update(selected)
                .chain_update(values.finalize())
                .finalize()
        };
        let digest = list
            .as_array()
            .expect("a list")
            .iter()
            .map(branch)
            .fold(
                Sha256::new()
                    .chain_update([0; 32])
                    .chain_update([0, 0, 0x01, 0x71]),
                Digest::chain_update,
            )
            .finalize();
        let content = [&[0x00, 0x0b][..], &digest].concat();
        self.rewrite_through_x(&content, Prover::Whole).ok();
        write_json(&self.policy_file(), &json!({"format": 1, "current": list}));
    }

    /// Spoils an object's TPM slot, as by a flipped bit, in a file whose MAC is right.
    fn spoil_tpm_slot(&self, id: &str) {
        let file = self.object_file("credentials", id);
        let mut object = read_json(&file);
        let member = key_file_member(slot(&object, "tpm")).to_owned();
        let mut key = KeyFile::parse(&object["slots"][0][&member]);
        *key.private.last_mut().expect("a private area") ^= 1;
        object["slots"][0][&member] = Value::from(key.to_text());
        let vault_key = Kit::read(&self.vault.recovery()).vault_key(&self.manifest());
        authenticate(&mut object, "object", &vault_key);
        write_json(&file, &object);
    }

    /// Extends PCR 10, as IMA does when a file is opened.
    fn measure_a_file(&self) {
        // TPM2_PCR_Extend with the empty password (Part 3, section 22.2).
        let request = [
            &[0x80, 0x02, 0, 0, 0, 65, 0, 0, 0x01, 0x82, 0, 0, 0, 10][..],
            &[0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0],
            &[0, 0, 0, 1, 0x00, 0x0b],
            &[0x77; 32],
        ]
        .concat();
        let mut tpm = UnixStream::connect(self.vault.tpm().socket()).expect("the TPM answers");
        tpm.write_all(&request).expect("the TPM reads");
        let mut header = [0; 10];
        tpm.read_exact(&mut header).expect("the TPM answers");
        assert_eq!(header[6..], [0; 4], "PCR_Extend");
    }
}

/// What one of tpm2-tools came to.
struct Tpm2(Output);

impl Tpm2 {
    #[track_caller]
    fn ok(self) -> Output {
        self.0.ok()
    }

    /// Expects that the TPM refused with this response code.
    #[track_caller]
    fn refused(self, code: &str) {
        let Self(output) = self;
        assert!(!output.status.success(), "{output}");
        assert!(
            output.stderr.contains(&format!("({code})")),
            "not {code}: {output}"
        );
    }
}
