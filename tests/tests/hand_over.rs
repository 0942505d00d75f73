//! `strongroom hand-over`: the middleware has the keys of all datasets in its memory before it imports
//! pools, and keeps what it had; nothing is written; whatever is wrong with it, the boot goes on.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use strongroom::object::TokenName;
use strongroom::pin::Pin;
use strongroom::{Secret, Vault};
use strongroom_tests::middleware::{Behaviour, MiddlewareStandIn};
use strongroom_tests::nas::{Nas, content};
use strongroom_tests::swtpm::USUAL_BOOT;
use strongroom_tests::truenas_fixture::Generation;
use strongroom_tests::{Gate, Run, TestVault};

#[test]
fn keys_are_in_the_middlewares_memory_beside_those_that_were_there() {
    for (behaviour, protocol) in [(Behaviour::JsonRpc, "json-rpc"), (Behaviour::Ddp, "ddp")] {
        let nas = Nas::new(Generation::V26, 2);
        nas.migrate().ok();
        let middleware = start(&nas.vault, behaviour);
        middleware.has("tank/kmip", &"77".repeat(32));
        let vault = content(&nas.vault.dir());
        let output = hand_over(&nas.vault).arg("--json").ok();
        let report = output.json();
        assert_eq!(report["protocol"], protocol);
        assert_eq!(report["had-before"], 1);
        // Of two rows of one name, the later is the one that counts.
        let expected: BTreeMap<_, _> = (nas.fixture.dataset_keys.iter())
            .map(|(_, name, key)| (name.clone(), key.clone()))
            .chain([("tank/kmip".to_owned(), "77".repeat(32))])
            .collect();
        assert!(middleware.keys() == expected);
        for key in expected.values() {
            assert!(!format!("{output}").contains(key), "a key was told");
            assert!(!nas.vault.recorder().contains(key.as_bytes()));
        }
        let mut now = content(&nas.vault.dir());
        now.remove(&nas.vault.dir().join(".last-boot.json"));
        assert!(now == vault, "the vault was changed");
        // Again, and all is as it was.
        hand_over(&nas.vault).ok();
        assert!(middleware.keys() == expected);
    }
}

#[test]
fn keys_of_all_forms_come_in_hexadecimal_digits() {
    let vault = TestVault::new();
    let middleware = start(&vault, Behaviour::JsonRpc);
    seal(&vault, "tank/raw", "raw", &[0xab; 32]);
    seal(&vault, "tank/old", "hex", "11".repeat(32).as_bytes());
    seal(&vault, "tank/old", "hex", "22".repeat(32).as_bytes());
    seal(&vault, "tank/words", "passphrase", b"correct horse battery");
    let report = hand_over(&vault).arg("--json").ok().json();
    assert_eq!(report["handed-over"], 2);
    let keys = [("tank/old", "22".repeat(32)), ("tank/raw", "ab".repeat(32))];
    assert!(middleware.keys() == keys.map(|(name, key)| (name.to_owned(), key)).into());
}

/// Boot waits for this.
#[test]
fn a_key_costs_five_commands() {
    let cost = |count: usize| {
        let vault = TestVault::new();
        let _middleware = start(&vault, Behaviour::JsonRpc);
        for number in 0..count {
            seal(&vault, &format!("tank/{number}"), "raw", &[1; 32]);
        }
        vault.recorder().take();
        hand_over(&vault).ok();
        vault.recorder().take().len()
    };
    let (one, nine) = (cost(1), cost(9));
    assert_eq!(nine - one, 8 * 5);
    assert!(one - 5 <= 16, "{one}");
}

#[test]
#[ignore = "takes long; make test-all runs it"]
fn a_hundred_keys_cost_five_commands_each_and_at_most_sixteen_more() {
    let vault = TestVault::new();
    let middleware = start(&vault, Behaviour::JsonRpc);
    for number in 0..100 {
        seal(&vault, &format!("tank/{number}"), "raw", &[1; 32]);
    }
    vault.recorder().take();
    hand_over(&vault).ok();
    let commands = vault.recorder().take().len();
    println!("{commands} commands for 100 keys");
    assert_eq!(middleware.keys().len(), 100);
    assert!(commands <= 100 * 5 + 16, "{commands}");
}

#[test]
fn a_middleware_that_cannot_be_used_is_told_and_no_key_is_unsealed() {
    for (behaviour, word) in [
        (Behaviour::Hangs, "does not answer in time"),
        (Behaviour::Closes, "middleware at"),
        (Behaviour::Unknown, "knows neither"),
        (Behaviour::Garbage, "no JSON"),
        (
            Behaviour::Refuses,
            "kmip.kmip_memory_keys failed: Method does not exist",
        ),
    ] {
        let vault = TestVault::new();
        seal(&vault, "tank", "raw", &[1; 32]);
        let middleware = start(&vault, behaviour);
        vault.recorder().take();
        let begun = Instant::now();
        let run = hand_over(&vault).args(["--wait", "1"]);
        run.timeout(Duration::from_secs(20))
            .fails_with(7)
            .says(word);
        assert!(
            begun.elapsed() < Duration::from_secs(15),
            "it held up the boot"
        );
        assert_eq!(vault.recorder().take().len(), 0);
        assert!(middleware.keys().is_empty());
    }
    let vault = TestVault::new();
    hand_over(&vault)
        .args(["--wait", "0"])
        .fails_with(7)
        .says("No such file");
}

#[test]
fn it_waits_for_a_middleware_that_is_about_to_start() {
    let vault = TestVault::new();
    seal(&vault, "tank", "raw", &[1; 32]);
    thread::scope(|scope| {
        let run = scope.spawn(|| hand_over(&vault).args(["--wait", "30"]).finish());
        thread::sleep(Duration::from_millis(700));
        let middleware = start(&vault, Behaviour::JsonRpc);
        run.join().expect("it ends").ok();
        assert_eq!(middleware.keys().len(), 1);
    });
}

/// The boot goes on with the datasets locked, and says why.
#[test]
fn in_another_boot_nothing_is_handed_over() {
    let mut vault = TestVault::new();
    seal(&vault, "tank", "raw", &[1; 32]);
    let middleware = start(&vault, Behaviour::JsonRpc);
    middleware.has("tank/kmip", "77");
    vault.reboot(&[USUAL_BOOT[0], USUAL_BOOT[1], (11, "another command line")]);
    hand_over(&vault).fails_with(3).says("11");
    assert_eq!(middleware.keys().len(), 1);
    assert_eq!(
        middleware.calls(),
        ["kmip.kmip_memory_keys", "alert.oneshot_create"]
    );
    // Its admin is told, with the reason, and so is whoever asks for the status.
    let alerts = middleware.alerts();
    assert!(
        alerts.len() == 1 && alerts[0].contains("the policy refused this boot"),
        "{alerts:?}"
    );
    let status = vault.strongroom(&["status", "--json"]).fails_with(3).json();
    let last = &status["last-boot"];
    assert_eq!(last["present"], true);
    assert_eq!(last["handed-over"], 0);
    assert_eq!(last["alert"], true);
    assert!(
        last["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("PCR 11")),
        "{last}"
    );
    assert_eq!(status["standing"], "trouble");

    // In a boot that is allowed it is taken back.
    vault.reboot(USUAL_BOOT);
    hand_over(&vault).ok();
    assert_eq!(middleware.keys().len(), 2);
    assert!(middleware.alerts().is_empty());
    let status = vault.strongroom(&["status", "--json"]).ok().json();
    assert_eq!(status["last-boot"]["reason"], serde_json::Value::Null);
    assert_eq!(status["last-boot"]["handed-over"], 1);
    assert_eq!(status["last-boot"]["alert"], false);
}

/// A release that takes no alert from outside, and one that is not there at all: the journal has it, and
/// the note.
#[test]
fn without_an_alert_there_is_the_note() {
    let mut vault = TestVault::new();
    seal(&vault, "tank", "raw", &[1; 32]);
    vault.reboot(&[USUAL_BOOT[0], USUAL_BOOT[1], (11, "another command line")]);
    let middleware = start(&vault, Behaviour::NoAlerts);
    hand_over(&vault).fails_with(3).says("no alert");
    let note = || {
        let status = vault.strongroom(&["status", "--json"]).fails_with(3).json();
        status["last-boot"].clone()
    };
    assert_eq!(note()["alert"], false);
    assert!(
        note()["reason"]
            .as_str()
            .is_some_and(|it| it.contains("PCR 11"))
    );
    drop(middleware);
    hand_over(&vault).args(["--wait", "0"]).fails_with(7);
    assert!(
        note()["reason"]
            .as_str()
            .is_some_and(|it| it.contains("No such file"))
    );
}

#[test]
fn one_that_hangs_in_the_middle_does_not_hold_up_the_boot() {
    let vault = TestVault::new();
    seal(&vault, "tank", "raw", &[1; 32]);
    let middleware = start(&vault, Behaviour::HangsLater);
    let run = hand_over(&vault).args(["--wait", "1"]);
    run.timeout(Duration::from_secs(20))
        .fails_with(7)
        .says("does not answer in time");
    assert!(middleware.keys().is_empty());
    // It answers the next one who calls.
    assert_eq!(middleware.alerts().len(), 1);
}

/// Started anew, it has forgotten them. Where it has not, no TPM is asked.
#[test]
fn what_it_has_forgotten_it_is_given_again() {
    let vault = TestVault::new();
    seal(&vault, "tank/a", "raw", &[1; 32]);
    seal(&vault, "tank/words", "passphrase", b"correct horse battery");
    let middleware = start(&vault, Behaviour::JsonRpc);
    let missing = || {
        hand_over(&vault)
            .args(["--only-missing", "--json"])
            .ok()
            .json()
    };
    assert_eq!(missing()["handed-over"], 1);
    vault.recorder().take();
    assert_eq!(missing()["handed-over"], 0);
    assert_eq!(vault.recorder().take().len(), 0);
    middleware.forgets();
    assert_eq!(missing()["handed-over"], 1);
    assert_eq!(middleware.keys().len(), 1);
}

/// Who brings a vault back finds an empty folder.
#[test]
fn nothing_is_noted_where_there_is_no_vault() {
    let vault = TestVault::new();
    let nowhere = vault.folder().join("nowhere");
    std::fs::create_dir(&nowhere).expect("the test's own folder");
    hand_over(&vault)
        .args(["--wait", "0", "--dir"])
        .arg(&nowhere)
        .fails_with(5);
    assert!(content(&nowhere).is_empty());
}

#[test]
fn one_bad_object_does_not_stop_the_rest() {
    let vault = TestVault::new();
    seal(&vault, "tank/good", "raw", &[1; 32]);
    let bad = seal(&vault, "tank/bad", "raw", &[2; 32]);
    let file = vault.dir().join(format!("objects/datasets/{bad}.json"));
    let text = std::fs::read_to_string(&file).expect("the object's file");
    std::fs::write(&file, text.replace("tank/bad", "tank/bat")).expect("the test's own vault");
    let middleware = start(&vault, Behaviour::JsonRpc);
    hand_over(&vault).fails_with(1).says("tank/bat");
    assert_eq!(
        middleware.keys().into_keys().collect::<Vec<_>>(),
        ["tank/good"]
    );
}

/// Nobody is there to type it at boot: what is behind it stays locked, and nothing else does.
#[test]
fn a_key_behind_a_pin_does_not_stop_the_rest() {
    let vault = TestVault::new();
    let pin = |text: &str| Pin::new(Secret::copy_of(text.as_bytes())).expect("a PIN");
    let (officer, user) = (pin("officer"), pin("1234"));
    {
        let tcti = vault.recorder().tcti().parse().expect("a TCTI");
        let opened = Vault::open(&vault.dir()).expect("it opens");
        let mut unlocked = opened.unlock_to_write(&tcti).expect("allowed");
        let datasets = TokenName::datasets();
        unlocked
            .begin_token_anew(&datasets, None, &officer, |_| false)
            .expect("it is empty");
        unlocked.set_pin(&datasets, &officer, &user).expect("set");
    }
    let file = vault.folder().join("pin");
    std::fs::write(&file, "1234").expect("the test's own folder");
    let file = file.display().to_string();
    for (name, options) in [
        ("tank/a", &["--pin-file", &file][..]),
        ("tank/b", &["--without-pin"]),
    ] {
        vault
            .strongroom(&["seal", "--token", "datasets", "--kind", "dataset-key"])
            .args(["--keyformat", "raw", "--label", name])
            .args(options)
            .stdin([1; 32])
            .ok();
    }
    let middleware = start(&vault, Behaviour::JsonRpc);
    hand_over(&vault).fails_with(1).says("tank/a").says("PIN");
    let given: Vec<_> = middleware.keys().into_keys().collect();
    assert_eq!(given, ["tank/b"]);
    assert!(middleware.alerts()[0].contains("tank/a"));
}

/// What is open by then is of use.
#[test]
fn a_tpm_that_is_gone_in_the_middle_takes_no_key_back() {
    let vault = TestVault::new();
    for name in ["tank/a", "tank/b", "tank/c"] {
        seal(&vault, name, "raw", &[1; 32]);
    }
    let middleware = start(&vault, Behaviour::JsonRpc);
    vault.recorder().take();
    hand_over(&vault).ok();
    let commands = vault.recorder().take().len();
    middleware.forgets();
    let gate = Gate::start(vault.recorder());
    // In the middle of the last one's.
    gate.cut_after(commands - 3);
    hand_over(&vault)
        .env("STRONGROOM_TCTI", gate.tcti())
        .fails_with(4);
    let given: Vec<_> = middleware.keys().into_keys().collect();
    assert_eq!(given, ["tank/a", "tank/b"]);
    assert_eq!(middleware.alerts().len(), 1);
    gate.open();
    drop(gate);
    let status = vault.strongroom(&["status", "--json"]).finish().json();
    assert_eq!(status["last-boot"]["handed-over"], 2);
    assert!(status["last-boot"]["reason"].is_string());
}

/// It takes seconds to open a hundred keys. What others put into the middleware's memory meanwhile stays.
#[test]
fn what_others_hand_over_meanwhile_stays() {
    let vault = TestVault::new();
    seal(&vault, "tank/a", "raw", &[1; 32]);
    seal(&vault, "tank/b", "raw", &[2; 32]);
    let middleware = start(&vault, Behaviour::JsonRpc);
    middleware.has("tank/b", &"77".repeat(32));
    let gate = Gate::start(vault.recorder());
    gate.hold_after(3);
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            let run = hand_over(&vault).env("STRONGROOM_TCTI", gate.tcti());
            run.finish()
        });
        let deadline = Instant::now() + Duration::from_secs(30);
        while !gate.holds_one() {
            assert!(Instant::now() < deadline, "no command came to the gate");
            thread::sleep(Duration::from_millis(1));
        }
        // As `strongroom enrol`, which has just sealed them.
        middleware.has("tank/b", &"88".repeat(32));
        middleware.has("tank/new", &"99".repeat(32));
        gate.open();
        run.join().expect("it ends").ok();
    });
    let expected = [
        ("tank/a", "01".repeat(32)),
        ("tank/b", "88".repeat(32)),
        ("tank/new", "99".repeat(32)),
    ];
    assert!(middleware.keys() == expected.map(|(name, key)| (name.to_owned(), key)).into());
}

fn start(vault: &TestVault, behaviour: Behaviour) -> MiddlewareStandIn {
    MiddlewareStandIn::start(&vault.folder().join("middlewared.sock"), behaviour)
}

fn hand_over(vault: &TestVault) -> Run {
    let socket = vault.folder().join("middlewared.sock");
    vault.strongroom(&["hand-over", "--socket"]).arg(socket)
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
