//! What an admin sees and types at a terminal: the kit shown once and confirmed, secrets kept off
//! the screen, progress where there is something to wait for.

use std::path::Path;

use strongroom_tests::{Output, Run, Swtpm, TestVault};

/// Runs a program on a pseudo-terminal of its own and answers its questions. Python's standard
/// library has one, and so has every machine that the tests run on.
const TERMINAL: &str = r#"
import os, pty, re, select, sys, time

answer, program = sys.argv[1], sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(program[0], program)
seen, answered, end = b"", False, time.time() + 20
while time.time() < end:
    if select.select([terminal], [], [], 0.1)[0]:
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            break
        if not piece:
            break
        seen += piece
        if not answered and re.search(rb"(characters|go on): $", seen):
            shown = re.search(rb"AGE-SECRET-KEY-1\w+", seen)
            reply = shown.group()[-6:] if answer == "SHOWN" else answer.encode()
            os.write(terminal, reply + b"\n")
            answered = True
_, status = os.waitpid(pid, 0)
sys.stdout.buffer.write(seen)
sys.exit(os.waitstatus_to_exitcode(status))
"#;

#[test]
fn the_kit_is_shown_once_and_its_keeping_confirmed() {
    let vault = TestVault::without_init(Swtpm::measured());
    let made = at_terminal(&vault, "SHOWN", &["init"]).ok();
    let shown = made.text();
    let kit: Vec<_> = shown
        .lines()
        .map(str::trim_end)
        .filter(|line| line.starts_with('#') || line.starts_with("AGE-SECRET-KEY-1"))
        .collect();
    vault.seal("credentials", "offsite", b"secret");
    // What was shown is the kit, and works as one.
    let opened = vault
        .strongroom(&["unseal", "--token", "credentials", "--label", "offsite"])
        .args(["--recovery", "-"])
        .stdin(kit.join("\n"))
        .ok();
    assert_eq!(opened.stdout, b"secret");
}

#[test]
fn without_the_confirmation_there_is_no_vault() {
    let vault = TestVault::without_init(Swtpm::measured());
    at_terminal(&vault, "WRONG", &["init"]).fails_with(7);
    assert!(!vault.dir().join("vault.json").exists());
    assert!(vault.tpm().handles("nv-index").is_empty());
    // Nobody could see it, so nothing is made either.
    vault
        .strongroom(&["init"])
        .fails_with(2)
        .says("--recovery-out");
    vault.strongroom(&["init", "--yes"]).fails_with(2);
    assert!(!vault.dir().exists());
}

#[test]
fn what_cannot_be_taken_back_is_asked_for() {
    let vault = TestVault::new();
    let id = vault.seal("credentials", "offsite", b"secret");
    let remove = ["remove", "--id", &id];
    at_terminal(&vault, "no", &remove).fails_with(2);
    vault.strongroom(&remove).fails_with(2).says("--yes");
    assert_eq!(vault.unseal_id(&id), b"secret");
    at_terminal(&vault, "yes", &["rebind"]).ok();
    at_terminal(&vault, "yes", &remove).ok();
}

#[test]
fn a_secret_is_not_shown_on_a_terminal_unless_forced() {
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"hunter2");
    let unseal = ["unseal", "--token", "credentials", "--label", "offsite"];
    let refused = at_terminal(&vault, "", &unseal).fails_with(2);
    assert!(!refused.text().contains("hunter2"));
    let forced = [&unseal[..], &["--force"]].concat();
    let shown = at_terminal(&vault, "", &forced).ok();
    assert!(shown.text().contains("hunter2"));
}

#[test]
fn long_work_shows_its_progress_on_a_terminal_alone() {
    let mut vault = TestVault::new();
    for number in 0..10 {
        vault.seal("credentials", &format!("c{number}"), b"secret");
    }
    vault.replace_tpm(Swtpm::measured());
    let kit = vault.recovery();
    let recover = ["recover", "--yes", "--recovery", path(&kit)];
    let shown = at_terminal(&vault, "", &recover).ok();
    assert!(shown.text().contains("/10"), "{}", shown.text());
    vault.replace_tpm(Swtpm::measured());
    let quiet = vault.strongroom(&recover).ok();
    assert!(!quiet.text().contains("/10") && !quiet.stderr.contains("/10"));
}

/// `strongroom ARGS...` at a terminal, where its question is answered so; `SHOWN` stands for the
/// last characters of the kit that it showed.
fn at_terminal(vault: &TestVault, answer: &str, arguments: &[&str]) -> Output {
    run(vault, answer, arguments).finish()
}

fn run(vault: &TestVault, answer: &str, arguments: &[&str]) -> Run {
    vault
        .run("/usr/bin/python3")
        .args(["-c", TERMINAL, answer])
        .arg(vault.programs().strongroom())
        .args(arguments)
}

fn path(file: &Path) -> &str {
    file.to_str().expect("a test's path is UTF-8")
}
