//! Dataset keys behind a PIN: `zfs-keyprovider load` and `get` ask for it, at a terminal or as in a
//! boot by systemd-ask-password, for which a stand-in answers here.

use std::fs;
use std::path::PathBuf;

use strongroom::object::TokenName;
use strongroom::pin::{Pin, PinState, Role};
use strongroom::{Secret, Tcti, Vault};
use strongroom_tests::executable;
use strongroom_tests::{Run, StandInDataset, TestVault, ZfsStandIn, converse};

const PIN: &str = "1234 and more";
const OFFICER: &str = "87654321";
const KEY: [u8; 32] = [0x42; 32];
const OTHER_KEY: [u8; 32] = [0x43; 32];

/// Answers with the next line of `answers`, and writes down how it was called. Without a line more,
/// nobody has answered.
const ASK: &str = r#"#!/bin/sh
here=${0%/*}
printf '%s\n' "$*" >>"$here/questions"
env >>"$here/environments"
answer=$(head -n 1 "$here/answers")
[ -n "$answer" ] || exit 1
sed -i 1d "$here/answers"
printf '%s\n' "$answer"
"#;

#[test]
fn a_boot_asks_and_asks_again_after_a_wrong_one() {
    let bench = Bench::new();
    bench.will_answer(&["wrong", PIN]);
    bench.load(&["-a"]).ok();
    assert_eq!(bench.status("tank/pin"), "available");
    assert_eq!(bench.status("tank/open"), "available");
    let questions = bench.questions();
    assert_eq!(questions.len(), 2, "{questions:?}");
    let id = Vault::open(&bench.vault.dir())
        .expect("it opens")
        .id()
        .to_owned();
    assert!(questions[0].contains(&format!("--id=strongroom:{id}:datasets")));
    assert!(questions[0].contains("--timeout=90"), "{questions:?}");
    assert!(
        questions[0].ends_with("PIN of token datasets:"),
        "{questions:?}"
    );
    assert!(
        questions[1].ends_with("That was not it. PIN of token datasets (9 tries are left):"),
        "{questions:?}"
    );
    assert_eq!(bench.state().failures, 0);
    // Nowhere but in the answer.
    let environments = fs::read_to_string(bench.folder().join("environments")).expect("there");
    assert!(!environments.contains(PIN));
    assert!(!questions.concat().contains(PIN));
    assert!(!bench.zfs.calls().contains(PIN));
    assert!(!bench.vault.recorder().contains(PIN.as_bytes()));
    assert!(bench.vault.tpm().transient_handles().is_empty());
    assert!(bench.vault.tpm().loaded_sessions().is_empty());
}

#[test]
fn a_pin_that_stays_wrong_leaves_locked_what_is_behind_it_alone() {
    let bench = Bench::new();
    bench.will_answer(&["wrong", "wrong", "wrong", PIN]);
    bench
        .load(&["-a"])
        .fails_with(1)
        .says("not the PIN of the user of token datasets")
        .says("strongroom token set-pin --recovery FILE datasets");
    assert_eq!(bench.questions().len(), 3);
    assert_eq!(bench.state().failures, 3);
    assert_eq!(bench.status("tank/pin"), "unavailable");
    assert_eq!(bench.status("tank/open"), "available");
    // Where nothing else was to be done, that is what the process says.
    bench.will_answer(&["wrong", "", ""]);
    bench
        .load(&["-a", "--json"])
        .fails_with(7)
        .says("not the PIN");
    bench.will_answer(&[PIN]);
    bench.load(&["tank/pin"]).ok();
    assert_eq!(bench.state().failures, 0);
}

#[test]
fn a_locked_pin_is_told_from_a_wrong_one_and_the_last_try_is_announced() {
    let bench = Bench::new();
    for _ in 0..2 {
        bench.will_answer(&["wrong 1", "wrong 2", "wrong 3"]);
        bench.load(&["tank/pin"]).fails_with(7);
    }
    bench.will_answer(&["wrong 1", "wrong 2"]);
    bench.load(&["tank/pin"]).fails_with(7);
    assert_eq!(bench.state().failures, 8);
    fs::remove_file(bench.folder().join("questions")).expect("there");

    bench.will_answer(&["wrong 1", "wrong 2", PIN]);
    bench
        .load(&["tank/pin"])
        .fails_with(4)
        .says("is locked after too many wrong ones")
        .says("strongroom token set-pin --recovery FILE datasets");
    let questions = bench.questions();
    assert_eq!(questions.len(), 2, "{questions:?}");
    assert!(
        questions[0].ends_with("(2 tries are left):"),
        "{questions:?}"
    );
    assert!(
        questions[1].contains("the last try: a wrong one locks it"),
        "{questions:?}"
    );
    // Now nobody is asked.
    bench.get(&["tank/pin"]).fails_with(4).says("locked");
    assert_eq!(bench.questions().len(), 2);

    bench
        .vault
        .strongroom(&["token", "set-pin", "datasets", "--recovery"])
        .arg(bench.vault.recovery())
        .arg("--pin-file")
        .arg(bench.pin_file("another one"))
        .ok();
    bench.will_answer(&["another one"]);
    bench.load(&["-a"]).ok();
    assert_eq!(bench.status("tank/pin"), "available");
}

#[test]
fn a_tpm_in_lockout_is_not_taken_for_a_wrong_pin() {
    let bench = Bench::new();
    let tpm = bench.vault.tpm();
    tpm.tpm2(&["nvdefine", "-p", "right", "-s", "4", "0x1500000"])
        .ok();
    let lockout = [
        "dictionarylockout",
        "-s",
        "-n",
        "1",
        "-t",
        "1000",
        "-l",
        "1000",
    ];
    tpm.tpm2(&lockout).ok();
    let refused = tpm.tpm2(&["nvread", "-C", "0x1500000", "-P", "wrong", "0x1500000"]);
    assert!(!refused.status.success(), "{refused}");
    // The PIN is counted by itself: who has others' lockout has the right PIN all the same.
    bench.will_answer(&["wrong", PIN]);
    bench.load(&["-a"]).ok();
    assert_eq!(bench.status("tank/pin"), "available");
}

#[test]
fn scripts_give_a_file_or_have_nobody_asked() {
    let bench = Bench::new();
    let file = bench.pin_file(PIN);
    let wrong = bench.pin_file("wrong");
    bench.will_answer(&[PIN]);
    bench
        .load(&["tank/pin", "--no-ask"])
        .fails_with(7)
        .says("--no-ask")
        .says("--pin-file");
    bench
        .load(&["tank/pin", "--no-ask", "--pin-file", &file])
        .fails_with(2);
    bench
        .load(&["tank/pin", "--pin-file", "/nowhere"])
        .fails_with(7)
        .says("/nowhere");
    // A file is not asked again.
    bench
        .load(&["tank/pin", "--pin-file", &wrong])
        .fails_with(7)
        .says("not the PIN");
    assert_eq!(bench.state().failures, 1);
    assert_eq!(
        bench.get(&["tank/pin", "--pin-file", &file]).ok().stdout,
        KEY
    );
    bench
        .get(&["tank/pin", "--no-ask"])
        .fails_with(7)
        .says("--no-ask");
    assert_eq!(bench.questions().len(), 0);
    for _ in 0..9 {
        bench.get(&["tank/pin", "--pin-file", &wrong]).fails_with(7);
    }
    bench
        .get(&["tank/pin", "--pin-file", &file])
        .ok()
        .says("one try is left");
    // Without the program that asks.
    bench
        .get(&["tank/pin"])
        .env("PATH", "/nowhere")
        .fails_with(7)
        .says("nobody can be asked here");
    bench.load(&["-a", "--pin-file", &file]).ok();
    assert_eq!(bench.status("tank/pin"), "available");
}

#[test]
fn nobody_is_asked_where_it_opens_nothing() {
    let mut bench = Bench::new();
    bench.will_answer(&[PIN, PIN]);
    // What is not behind it.
    assert_eq!(bench.get(&["tank/open"]).ok().stdout, OTHER_KEY);
    bench.load(&["tank/open"]).ok();
    // A dry run, and a key that is loaded already, whatever of its copy.
    bench.load(&["-a", "--dry-run"]).ok();
    bench.zfs.write("tank/pin", "keystatus", "available");
    bench.load(&["-a"]).ok();
    bench.zfs.write("tank/pin", "keystatus", "unavailable");
    assert_eq!(bench.questions().len(), 0);
    // In a boot that the policy refuses.
    bench.vault.reboot(&[(7, "another")]);
    bench.load(&["-a"]).fails_with(3).says("PCRs 7, 9, 11");
    bench.get(&["tank/pin"]).fails_with(3);
    assert_eq!(bench.questions().len(), 0);
}

#[test]
fn at_a_terminal_it_is_typed_there() {
    let bench = Bench::new();
    let at_terminal = |talk: &[(&str, &str)], args: &[&str]| {
        let start = |python: &str| bench.around(bench.vault.run(python));
        converse(start, &bench.vault.programs().zfs_keyprovider(), 100, talk).args(args)
    };
    let loaded = at_terminal(
        &[
            ("PIN of token datasets: ", "wrong"),
            (
                "That was not it. PIN of token datasets (9 tries are left): ",
                PIN,
            ),
        ],
        &["load", "-a"],
    )
    .ok();
    assert!(!loaded.text().contains(PIN), "{loaded}");
    assert_eq!(bench.status("tank/pin"), "available");
    // Who only presses Enter goes on without.
    bench.zfs.restart();
    let without = at_terminal(&[("PIN of token datasets: ", "")], &["load", "-a"]).fails_with(1);
    assert!(without.text().contains("nobody has typed it"), "{without}");
    assert_eq!(bench.status("tank/open"), "available");
    assert_eq!(bench.questions().len(), 0);
    assert_eq!(bench.state().failures, 0);
}

/// Two datasets, of which the key of one is behind a PIN.
struct Bench {
    vault: TestVault,
    zfs: ZfsStandIn,
}

impl Bench {
    fn new() -> Self {
        let vault = TestVault::new();
        let zfs = ZfsStandIn::new();
        let bench = Self { vault, zfs };
        bench.give_datasets_pins();
        bench.zfs.pool("tank", 1);
        bench.zfs.dataset("tank", 6, &StandInDataset::plain());
        for (name, key, options) in [
            ("tank/pin", KEY, &["--pin-file", &bench.pin_file(PIN)][..]),
            ("tank/open", OTHER_KEY, &["--without-pin"]),
        ] {
            bench.zfs.dataset(name, 7, &StandInDataset::raw(name, &key));
            bench
                .vault
                .strongroom(&["seal", "--token", "datasets", "--label", name])
                .args(["--kind", "dataset-key", "--keyformat", "raw"])
                .args(options)
                .stdin(key)
                .ok();
        }
        fs::create_dir(bench.folder()).expect("it is new");
        let program = bench.folder().join("systemd-ask-password");
        executable::write(&program, ASK);
        bench.will_answer(&[]);
        bench
    }

    /// As C_InitToken and C_InitPIN do it.
    fn give_datasets_pins(&self) {
        let pin = |text: &str| Pin::new(Secret::copy_of(text.as_bytes())).expect("a PIN");
        let vault = Vault::open(&self.vault.dir()).expect("it opens");
        let mut unlocked = vault.unlock_to_write(&self.tcti()).expect("allowed");
        let datasets = TokenName::datasets();
        unlocked
            .begin_token_anew(&datasets, None, &pin(OFFICER), |_| false)
            .expect("it is empty");
        unlocked
            .set_pin(&datasets, &pin(OFFICER), &pin(PIN))
            .expect("set");
    }

    fn tcti(&self) -> Tcti {
        self.vault.recorder().tcti().parse().expect("a TCTI")
    }

    /// Where the stand-in is, and what it writes down.
    fn folder(&self) -> PathBuf {
        self.vault.folder().join("ask")
    }

    fn will_answer(&self, answers: &[&str]) {
        let lines = answers.join("\n") + "\n";
        fs::write(self.folder().join("answers"), lines).expect("written");
    }

    fn questions(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.folder().join("questions")).unwrap_or_default();
        asked.lines().map(str::to_owned).collect()
    }

    fn state(&self) -> PinState {
        let vault = Vault::open(&self.vault.dir()).expect("it opens");
        vault
            .pin_state(&self.tcti(), &TokenName::datasets(), Role::User)
            .expect("it can be read")
            .expect("it has a PIN")
    }

    fn status(&self, dataset: &str) -> String {
        self.zfs.read(dataset, "keystatus").trim().to_owned()
    }

    fn pin_file(&self, pin: &str) -> String {
        let file = self
            .vault
            .folder()
            .join(format!("{}.pin", pin.replace(' ', "-")));
        fs::write(&file, format!("{pin}\n")).expect("written");
        file.display().to_string()
    }

    fn load(&self, args: &[&str]) -> Run {
        self.provider(&["load"]).args(args)
    }

    fn get(&self, args: &[&str]) -> Run {
        self.provider(&["get"]).args(args)
    }

    fn provider(&self, args: &[&str]) -> Run {
        let program = self.vault.programs().zfs_keyprovider();
        self.around(self.vault.run(program)).args(args)
    }

    /// Among ZFS and the program that asks.
    fn around(&self, run: Run) -> Run {
        let mut run = self.zfs.around(run);
        for (name, value) in self.zfs.environment() {
            if name == "PATH" {
                let mut path = self.folder().into_os_string();
                path.push(":");
                path.push(value);
                run = run.env("PATH", path);
            }
        }
        run
    }
}
