//! `strongroom hand-over`: the middleware has the keys of all datasets in its memory before it imports
//! pools, and keeps what it had; nothing is written; whatever is wrong with it, the boot goes on.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use strongroom_tests::middleware::{Behaviour, MiddlewareStandIn};
use strongroom_tests::nas::{Nas, content};
use strongroom_tests::swtpm::USUAL_BOOT;
use strongroom_tests::truenas_fixture::Generation;
use strongroom_tests::{Run, TestVault};

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
        assert!(content(&nas.vault.dir()) == vault, "the vault was changed");
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
    assert_eq!(middleware.calls(), ["kmip.kmip_memory_keys"]);
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
