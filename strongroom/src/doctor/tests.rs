//! The judgement over logs made by hand and TPMs made up. Logs of real machines are judged in
//! enroll-tool's golden tests.

use std::collections::BTreeMap;

use super::*;
use crate::event_log::writer::{Writer, tagged, utf16, variable};
use crate::event_log::{EventType, reset_value};

fn facts() -> Facts {
    Facts {
        secure_boot: SecureBoot::On,
        command_line: None,
        root: Some(storage("/dev/dm-0", Protection::Encrypted)),
        swaps: Vec::new(),
        tpm_driver: Some("tpm_crb".to_owned()),
    }
}

fn storage(source: &str, protection: Protection) -> Storage {
    Storage {
        source: source.to_owned(),
        kind: "ext4".to_owned(),
        protection,
    }
}

fn log(writer: Writer) -> EventLog {
    EventLog::parse(&writer.bytes()).expect("well-formed")
}

/// A TPM of the best kind whose PCRs are what a log makes of them.
fn tpm_after(log: &EventLog) -> TpmState {
    TpmState {
        manufacturer: "INTC".to_owned(),
        pcrs: Some((0..24).map(|pcr| (pcr, log.value(pcr))).collect()),
        max_tries: 32,
        ..TpmState::default()
    }
}

fn pcrs_of(seen: &mut Examination) -> &mut BTreeMap<u8, [u8; 32]> {
    let tpm = seen.tpm.as_mut().expect("there is one");
    tpm.pcrs.as_mut().expect("there are some")
}

/// A boot as it should be: Secure Boot on, a unified kernel image.
fn good() -> Writer {
    Writer::new()
        .data(0, EventType::S_CRTM_VERSION, &utf16("1"))
        .data(
            7,
            EventType::EFI_VARIABLE_DRIVER_CONFIG,
            &variable("SecureBoot", &[1]),
        )
        .data(7, EventType::SEPARATOR, &[0; 4])
        .data(11, EventType::IPL, &utf16(".linux"))
        .data(
            9,
            EventType::EVENT_TAG,
            &tagged(0x8F3B_22EC, b"Linux initrd\0"),
        )
}

fn seen(writer: Writer) -> Examination {
    let log = log(writer);
    Examination {
        tpm: Ok(tpm_after(&log)),
        log: Ok(log),
        facts: facts(),
    }
}

/// The findings' names but for the one that every machine has.
fn open(seen: &Examination) -> Vec<&'static str> {
    let findings = seen.diagnose().findings;
    assert!(findings.is_sorted_by_key(|finding| finding.grade));
    findings
        .iter()
        .map(|finding| finding.id)
        .filter(|id| *id != "owner-auth-empty")
        .collect()
}

fn recommended(seen: &Examination) -> String {
    let pcrs = seen.diagnose().recommendation.pcrs;
    pcrs.map_or_else(String::new, |pcrs| pcrs.to_string())
}

fn state(seen: &Examination, pcr: u8) -> Option<PcrState> {
    let pcrs = seen.diagnose().pcrs;
    let found = pcrs.iter().find(|report| report.pcr == pcr);
    found.map(|report| report.state)
}

#[test]
fn nothing_is_wrong_with_a_good_machine() {
    let seen = seen(good());
    assert_eq!(open(&seen), [""; 0]);
    assert_eq!(recommended(&seen), "7,9,11");
    assert_eq!(state(&seen, 11), Some(PcrState::Replays));
    assert_eq!(state(&seen, 4), None);
}

#[test]
fn each_thing_that_is_open_is_found() {
    type Change = fn(&mut Examination);
    let tpm: [(&str, Change); 9] = [
        ("tpm-missing", |it| it.tpm = Err("none".to_owned())),
        ("sha256-bank-off", |it| {
            it.tpm.as_mut().expect("there").pcrs = None;
        }),
        ("tpm-too-old", |it| {
            it.tpm.as_mut().expect("there").lacks = vec!["TPM2_PolicyAuthorizeNV"];
        }),
        ("owner-auth-set", |it| {
            it.tpm.as_mut().expect("there").owner_auth_set = true;
        }),
        ("lockout", |it| {
            let tpm = it.tpm.as_mut().expect("there");
            (tpm.in_lockout, tpm.failed_tries) = (true, 32);
        }),
        ("failed-tries", |it| {
            it.tpm.as_mut().expect("there").failed_tries = 3;
        }),
        ("discrete-tpm", |it| {
            it.tpm.as_mut().expect("there").manufacturer = "IFX".to_owned();
        }),
        ("discrete-tpm", |it| {
            it.facts.tpm_driver = Some("tpm_tis_spi".to_owned());
        }),
        ("log-missing", |it| it.log = Err("none".to_owned())),
    ];
    let system: [(&str, Change); 6] = [
        ("root-open", |it| {
            it.facts.root = Some(storage("/dev/sda2", Protection::Open));
        }),
        ("root-zfs", |it| {
            it.facts.root = Some(storage("boot-pool/ROOT/25.10", Protection::Zfs));
        }),
        ("root-unknown", |it| it.facts.root = None),
        ("swap-open", |it| {
            it.facts.swaps = vec![storage("/dev/sda3", Protection::Open)];
        }),
        ("swap-unknown", |it| {
            it.facts.swaps = vec![storage("/dev/zd0", Protection::Zfs)];
        }),
        ("log-differs", |it| {
            pcrs_of(it).insert(7, [1; 32]);
        }),
    ];
    for (id, change) in tpm.into_iter().chain(system) {
        let mut seen = seen(good());
        change(&mut seen);
        assert_eq!(open(&seen), [id]);
    }
}

#[test]
fn memory_and_encrypted_swap_are_well() {
    let mut seen = seen(good());
    seen.facts.swaps = vec![
        storage("/dev/zram0", Protection::Memory),
        storage("/dev/dm-1", Protection::Encrypted),
    ];
    assert_eq!(open(&seen), [""; 0]);
}

#[test]
fn without_secure_boot_the_boot_loader_itself_counts() {
    let writer = Writer::new()
        .data(4, EventType::EFI_BOOT_SERVICES_APPLICATION, b"")
        .data(
            7,
            EventType::EFI_VARIABLE_DRIVER_CONFIG,
            &variable("SecureBoot", &[0]),
        )
        .data(11, EventType::IPL, &utf16(".linux"));
    let seen = seen(writer);
    // The log's word goes before the system's.
    assert_eq!(open(&seen), ["secure-boot-off"]);
    assert_eq!(recommended(&seen), "4,7,11");
    let findings = seen.diagnose().findings;
    assert!(findings[0].remedy.contains("--pcrs 4,7,11"));
    let left_out = seen.diagnose().recommendation.left_out;
    assert_eq!(
        left_out.iter().map(|(pcr, _)| *pcr).collect::<Vec<_>>(),
        [9]
    );
}

#[test]
fn what_grub_shim_and_a_stub_measure_is_taken() {
    let grub = good()
        .data(8, EventType::IPL, b"grub_cmd: boot\0")
        .data(14, EventType::IPL, b"MokList\0")
        .data(12, EventType::IPL, &utf16("init=/bin/sh"));
    assert_eq!(recommended(&seen(grub)), "7,8,9,11,12,14");
}

#[test]
fn a_kernel_that_nothing_measures_is_serious() {
    let writer = || {
        Writer::new().data(
            7,
            EventType::EFI_VARIABLE_DRIVER_CONFIG,
            &variable("SecureBoot", &[1]),
        )
    };
    let bare = seen(writer());
    assert_eq!(open(&bare), ["pcr-11-unused"]);
    assert_eq!(bare.diagnose().findings[0].grade, Grade::Serious);
    assert_eq!(recommended(&bare), "7");
    let by_grub = seen(writer().data(9, EventType::IPL, b"/vmlinuz\0"));
    let findings = by_grub.diagnose().findings;
    assert!(findings.iter().all(|finding| finding.grade == Grade::Note));
}

#[test]
fn what_is_not_as_the_log_says_is_not_recommended() {
    let mut changed = seen(good());
    pcrs_of(&mut changed).insert(9, [1; 32]);
    assert_eq!(recommended(&changed), "7,11");
    assert_eq!(state(&changed, 9), Some(PcrState::Differs));
    assert_eq!(open(&changed), ["extended-unlogged"]);
    // In a PCR that the log leaves alone, too.
    let mut beyond = seen(good());
    pcrs_of(&mut beyond).insert(12, [1; 32]);
    assert_eq!(state(&beyond, 12), Some(PcrState::Unlogged));
    assert_eq!(open(&beyond), ["extended-unlogged"]);
    // IMA's is another matter.
    let mut ima = seen(good());
    pcrs_of(&mut ima).insert(10, [1; 32]);
    assert_eq!(open(&ima), [""; 0]);
}

#[test]
fn a_log_that_nothing_is_extended_by_is_told_from_one_that_is() {
    let mut reset = seen(good());
    *pcrs_of(&mut reset) = (0..24).map(|pcr| (pcr, reset_value(pcr))).collect();
    assert_eq!(recommended(&reset), "");
    assert_eq!(state(&reset, 7), Some(PcrState::Differs));
    assert_eq!(state(&reset, 17), None);
    // After a dynamic launch that measured nothing there.
    pcrs_of(&mut reset).insert(17, [0; 32]);
    assert_eq!(state(&reset, 17), None);
    pcrs_of(&mut reset).insert(17, [1; 32]);
    assert_eq!(state(&reset, 17), Some(PcrState::Unlogged));
}

#[test]
fn without_a_tpm_the_log_alone_is_judged_and_without_a_log_the_pcrs() {
    let mut no_tpm = seen(good());
    no_tpm.tpm = Err("none".to_owned());
    assert_eq!(recommended(&no_tpm), "7,9,11");
    assert_eq!(state(&no_tpm, 9), Some(PcrState::NotCompared));
    let mut no_log = seen(good());
    no_log.log = Err("none".to_owned());
    assert_eq!(recommended(&no_log), "7,9,11");
    assert_eq!(state(&no_log, 9), Some(PcrState::Unlogged));
    let neither = Examination {
        tpm: Err("none".to_owned()),
        log: Err("none".to_owned()),
        facts: facts(),
    };
    assert_eq!(open(&neither), ["tpm-missing", "log-missing"]);
    assert_eq!(recommended(&neither), "");
}

#[test]
fn firmware_that_failed_is_named() {
    let seen = seen(good().data(2, EventType::SEPARATOR, &[1, 0, 0, 0]));
    assert_eq!(open(&seen), ["firmware-failure"]);
}
