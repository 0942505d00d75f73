//! The harness itself: whether its parts do what the other tests rest on.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use std::{fs, thread};

use strongroom_tests::swtpm::USUAL_BOOT;
use strongroom_tests::{Recorder, Run, Swtpm, WebDav};

#[test]
fn a_fresh_tpm_has_measured_nothing() {
    let tpm = Swtpm::start();
    for pcr in [0, 7, 9, 11] {
        assert_eq!(tpm.pcr(pcr), [0; 32], "PCR {pcr}");
    }
    assert!(tpm.transient_handles().is_empty());
    assert!(tpm.loaded_sessions().is_empty());
}

#[test]
fn a_usual_boot_is_measured() {
    let (tpm, other) = (Swtpm::measured(), Swtpm::measured());
    for (pcr, _) in USUAL_BOOT {
        assert_ne!(tpm.pcr(*pcr), [0; 32], "PCR {pcr}");
        assert_eq!(tpm.pcr(*pcr), other.pcr(*pcr), "PCR {pcr}");
    }
    assert_eq!(tpm.pcr(8), [0; 32]);
}

#[test]
fn a_reboot_resets_pcrs_and_keeps_the_rest() {
    let mut tpm = Swtpm::measured();
    let before = tpm.pcr(7);
    tpm.tpm2(&["nvdefine", "0x1500001", "--size=8"]).ok();
    let indices = tpm.handles("nv-index");

    tpm.reboot(&[]);
    assert_eq!(tpm.pcr(7), [0; 32]);
    assert!(indices.contains(&0x0150_0001));
    assert_eq!(tpm.handles("nv-index"), indices);

    tpm.reboot(USUAL_BOOT);
    assert_eq!(tpm.pcr(7), before);
}

#[test]
fn what_a_client_leaves_loaded_is_seen() {
    let tpm = Swtpm::start();
    tpm.tpm2(&["createprimary", "--quiet"]).ok();
    assert_eq!(tpm.transient_handles(), [0x8000_0000]);
    tpm.tpm2(&["flushcontext", "--transient-object"]).ok();
    assert!(tpm.transient_handles().is_empty());
}

#[test]
fn the_recorder_sees_every_command() {
    let tpm = Swtpm::measured();
    let recorder = Recorder::start(&tpm);
    let read = |pcr| {
        Run::new("tpm2")
            .args(["pcrread", pcr])
            .env("TPM2TOOLS_TCTI", recorder.tcti())
            .ok()
    };
    read("sha256:7");
    assert_eq!(recorder.counts()["PCR_Read"], 1);
    assert!(recorder.contains(&tpm.pcr(7)));
    assert!(!recorder.contains(&tpm.pcr(9)));

    let commands = recorder.take();
    assert!(recorder.commands().is_empty());
    for command in &commands {
        assert_eq!(command.rc, 0, "{}", command.name);
        assert!(command.request.len() >= 10 && command.response.len() >= 10);
        assert!(command.duration < Duration::from_secs(1));
    }

    // Clients at the same time, each with its own answers, and one that has
    // connected and says nothing, which would block swtpm itself.
    let _idle = UnixStream::connect(recorder.socket()).expect("connect");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| read("sha256:9"));
        }
    });
    assert_eq!(recorder.counts()["PCR_Read"], 4);
}

#[test]
fn the_recorder_outlasts_a_reboot() {
    let mut tpm = Swtpm::measured();
    let recorder = Recorder::start(&tpm);
    tpm.reboot(USUAL_BOOT);
    Run::new("tpm2")
        .args(["getrandom", "--hex", "8"])
        .env("TPM2TOOLS_TCTI", recorder.tcti())
        .ok();
    assert_eq!(recorder.counts()["GetRandom"], 1);
}

#[test]
fn a_tpm_is_not_bound_to_the_thread_that_started_it() {
    let tpm = thread::spawn(Swtpm::measured).join().expect("it starts");
    // Longer than a signal of the thread's death would need.
    thread::sleep(Duration::from_millis(50));
    assert_ne!(tpm.pcr(7), [0; 32]);
}

#[test]
fn webdav_wants_the_password() {
    let cloud = WebDav::start("backup", "correct horse");
    assert_eq!(cloud.status(None), 401);
    assert_eq!(cloud.status(Some(("backup", "battery staple"))), 401);
    assert_eq!(cloud.status(Some(("backup", "correct horse"))), 200);
    assert!(cloud.url().starts_with("http://127.0.0.1:"));
    let served = fs::read_dir(cloud.root()).expect("the folder is there");
    assert_eq!(served.count(), 0);
}

#[test]
fn a_run_tells_what_happened() {
    let shell = |script| Run::new("sh").args(["-c", script]);
    let output = shell("cat; echo odd >&2; exit 3").stdin("in").fails_with(3);
    assert_eq!(output.text(), "in");
    output.says("odd").does_not_show("even");

    // More than any pipe holds, both ways.
    let much = vec![b'x'; 1 << 20];
    assert_eq!(Run::new("cat").stdin(much.clone()).ok().stdout, much);
    // Not read at all.
    shell("exit 0").stdin(much).ok();

    assert_eq!(shell("kill -9 $$").finish().code(), None);
}

#[test]
fn a_run_ends_what_hangs_and_what_that_started() {
    let begun = Instant::now();
    let hung = thread::spawn(|| {
        Run::new("sh")
            .args(["-c", "echo before; sleep 60 & exit 0"])
            .timeout(Duration::from_millis(200))
            .finish()
    });
    let panic = hung.join().expect_err("it should have run out of time");
    assert!(begun.elapsed() < Duration::from_secs(10));
    let message = panic.downcast::<String>().expect("the panic has a message");
    assert!(message.contains("before"), "{message}");
}
