//! Golden tests: what doctor says of the event logs of several machines, word by word. After a
//! change that is meant, `STRONGROOM_UPDATE_GOLDEN=1 cargo test -p enroll-tool golden` writes the
//! files anew; look at what changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use strongroom::doctor::Facts;

use super::*;

fn logs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/event-logs");
    let mut logs: Vec<_> = fs::read_dir(folder)
        .expect("the fixtures are there")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|file| file.extension().is_some_and(|it| it == "bin"))
        .collect();
    logs.sort();
    assert!(!logs.is_empty());
    logs
}

/// The values that the machine's own TPM had: `NUMBER HEX` on each line.
fn booted(log: &Path) -> BTreeMap<u8, [u8; 32]> {
    let text = fs::read_to_string(log.with_extension("pcrs")).expect("each log has its PCRs");
    text.lines()
        .map(|line| {
            let (pcr, digits) = line.split_once(' ').expect("a number and a value");
            let mut value = [0; 32];
            hex::decode_to_slice(digits.to_lowercase(), &mut value).expect("a value");
            (pcr.parse().expect("a number"), value)
        })
        .collect()
}

fn examination(file: &Path) -> Examination {
    let mut log = EventLog::read(file).expect("the log can be read");
    let more = file.with_extension("systemd");
    if more.exists() {
        log = log.with_systemd_log(&more).expect("it can be read");
    }
    Examination {
        tpm: Ok(TpmState {
            manufacturer: "IBM".to_owned(),
            vendor: "SW   TPM".to_owned(),
            firmware: "8217.4131.18.13878".to_owned(),
            pcrs: Some(booted(file)),
            max_tries: 3,
            ..TpmState::default()
        }),
        log: Ok(log),
        facts: Facts {
            secure_boot: SecureBoot::NoUefi,
            command_line: Some("console=ttyS0 panic=-1 quiet".to_owned()),
            root: Some(Storage {
                source: "/dev/vda".to_owned(),
                kind: "ext4".to_owned(),
                protection: Protection::Open,
            }),
            swaps: Vec::new(),
            tpm_driver: Some("tpm_crb".to_owned()),
        },
    }
}

#[test]
fn golden_reports_are_as_they_were() {
    let update = std::env::var_os("STRONGROOM_UPDATE_GOLDEN").is_some();
    for log in logs() {
        let seen = examination(&log);
        let diagnosis = seen.diagnose();
        let json = format!("{:#}\n", report(&seen, &diagnosis));
        let table = format!("{}\n", text(&seen, &diagnosis));
        for (extension, now) in [("json", json), ("txt", table)] {
            let file = log.with_extension(extension);
            if update {
                fs::write(&file, &now).expect("written");
            }
            let before = fs::read_to_string(&file).unwrap_or_default();
            assert_eq!(now, before, "{} has changed", file.display());
        }
    }
}

#[test]
fn every_log_leads_to_the_pcrs_of_the_boot_that_wrote_it() {
    for log in logs() {
        let diagnosis = examination(&log).diagnose();
        for report in &diagnosis.pcrs {
            // What the kernel's IMA or a program extends, nobody logs there.
            let expected = if report.measured.is_empty() || report.pcr == 10 {
                [PcrState::Unused, PcrState::Unlogged]
            } else {
                [PcrState::Replays; 2]
            };
            let name = log.display();
            assert!(
                expected.contains(&report.state),
                "{name}: PCR {} {:?}",
                report.pcr,
                report.state
            );
        }
    }
}

#[test]
fn a_report_fits_its_width() {
    for log in logs() {
        let seen = examination(&log);
        for line in text(&seen, &seen.diagnose()).lines() {
            assert!(line.chars().count() <= usize::from(WIDTH), "{line}");
        }
    }
}

#[test]
fn without_anything_to_look_at_it_says_so() {
    let mut seen = examination(&logs()[0]);
    seen.tpm = Err("no TPM answers".to_owned());
    seen.log = Err("the kernel shows none.".to_owned());
    let diagnosis = seen.diagnose();
    let json = report(&seen, &diagnosis);
    assert_eq!(json["tpm"]["missing"], "no TPM answers");
    assert_eq!(json["event-log"]["missing"], "the kernel shows none.");
    assert_eq!(json["recommended"]["pcrs"], Value::Null);
    let text = text(&seen, &diagnosis);
    assert!(text.contains("Recommended: none"), "{text}");
    assert!(text.contains("no log says it"), "{text}");
}
