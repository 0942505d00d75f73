//! Event logs of real machines, TPMs that have gone through such a boot, and boots in which one
//! thing was another.

use std::fs;
use std::path::{Path, PathBuf};

use strongroom::event_log::{EventLog, Measured};

use crate::Swtpm;

/// The logs of the fixtures that firmware alone has written: without what systemd added later,
/// which is a file of its own.
pub fn all() -> Vec<PathBuf> {
    let mut logs: Vec<_> = fs::read_dir(folder())
        .expect("the fixtures are there")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|file| file.extension().is_some_and(|it| it == "bin"))
        .collect();
    logs.sort();
    logs
}

/// One of them.
pub fn fixture(name: &str) -> PathBuf {
    folder().join(format!("{name}.bin"))
}

/// A TPM into which all was measured that a log says.
pub fn tpm_after(log: &Path) -> Swtpm {
    let tpm = Swtpm::start();
    measure(&tpm, log);
    tpm
}

/// Measures into a TPM that was just started what a log says.
pub fn measure(tpm: &Swtpm, log: &Path) {
    let log = EventLog::read(log).expect("it can be read");
    for event in log.events().iter().filter(|event| event.is_extended()) {
        let digest = hex::encode(event.digest);
        let extension = format!("{}:sha256={digest}", event.pcr);
        tpm.tpm2(&["pcrextend", &extension]).ok();
    }
}

/// Writes the log of a boot in which something else was measured in the place of the one that
/// `is_it` is true of: the first such event has another digest, in the SHA-256 bank.
pub fn write_other(log: &Path, to: &Path, is_it: impl Fn(u32, &Measured) -> bool) {
    let mut bytes = fs::read(log).expect("it can be read");
    let parsed = EventLog::parse(&bytes).expect("it is a log");
    let event = parsed
        .events()
        .iter()
        .filter(|event| event.is_extended())
        .find(|event| is_it(event.pcr, &event.measured))
        .expect("there is such an event");
    let place = bytes
        .windows(event.digest.len())
        .position(|window| window == event.digest)
        .expect("its digest is in the log");
    bytes[place] ^= 1;
    fs::write(to, bytes).expect("written");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/event-logs")
}
