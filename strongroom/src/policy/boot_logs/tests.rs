//! The log of a boot that systemd goes on measuring: each phase in the list has what was measured
//! until then.

use super::*;

fn recording() -> Recording {
    let file = |kind: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/event-logs");
        fs::read(folder.join(format!("uki-systemd.{kind}"))).expect("the fixture is there")
    };
    Recording::new(file("bin"), Some(file("systemd"))).expect("it is a log")
}

fn values(log: &EventLog) -> PcrValues {
    let selection: crate::policy::PcrSelection = "7,9,11".parse().expect("valid");
    let values: Vec<_> = selection.iter().map(|pcr| log.value(pcr)).collect();
    PcrValues::new(&selection, values)
}

fn list(logs: &[&EventLog]) -> Branches {
    let branches = logs.iter().map(|log| Branch::of(values(log)));
    let branches: Vec<Branch> = branches.collect();
    branches.try_into().expect("one to eight")
}

#[test]
fn each_phase_has_the_log_of_its_own_moment() {
    let folder = tempfile::tempdir().expect("a folder");
    let stages: Vec<Recording> = recording().stages().collect();
    // After each of three records, and before any of them.
    assert_eq!(stages.len(), 4);
    assert_eq!(stages[3].systemd, None);
    assert_ne!(values(stages[0].log()), values(stages[3].log()));
    let logs = BootLogs::new(folder.path().join("event-logs"), Place::Nowhere);
    let allowed = list(&[stages[0].log(), stages[3].log()]);
    logs.keep_as_read(&allowed, Ok(Some(stages[0].clone())));
    for (branch, stage) in allowed.iter().zip([&stages[0], &stages[3]]) {
        let kept = logs.kept(branch).expect("readable").expect("kept");
        assert_eq!(values(&kept), values(stage.log()));
        assert_eq!(values(&kept), branch.pcrs);
    }

    // The same machine, before systemd has measured anything, with another kernel: what it is
    // compared with is the same moment of the boot that is allowed.
    let present = folder.path().join("present");
    let mut bytes = stages[3].firmware.clone();
    let linux = stages[3]
        .log()
        .extended(11)
        .nth(1)
        .expect("the content of .linux")
        .digest;
    let at = bytes.windows(32).position(|it| it == linux).expect("there");
    bytes[at] ^= 1;
    fs::write(&present, &bytes).expect("written");
    let logs = BootLogs::new(folder.path().join("event-logs"), Place::File(present));
    let now = values(Recording::new(bytes, None).expect("a log").log());
    let refusal = logs.explain(&now, &list(&[stages[3].log()]));
    let words: Vec<_> = refusal.changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        ["PCR 11: section .linux of the unified kernel image is not the one that was enrolled"]
    );
}

#[test]
fn what_cannot_be_kept_is_missed_by_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("event-logs");
    // A file where the folder was to be.
    fs::write(&place, "in the way").expect("written");
    let logs = BootLogs::new(place.clone(), Place::Nowhere);
    let recording = recording();
    let allowed = list(&[recording.log()]);
    logs.keep_as_read(&allowed, Ok(Some(recording.clone())));
    assert_eq!(fs::read(&place).expect("there"), b"in the way");

    // One that is longer than any.
    fs::remove_file(&place).expect("there");
    let mut long = recording.clone();
    long.systemd = Some(vec![b' '; 2 << 20]);
    logs.keep_as_read(&allowed, Ok(Some(long)));
    assert!(!place.exists());
    logs.keep_as_read(&allowed, Ok(Some(recording)));
    assert_eq!(fs::read_dir(&place).expect("a folder").count(), 2);
}
