//! What changed between boots of real machines, in the words that people see, and between logs of
//! anything.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::event_log::EventType;
use crate::event_log::writer::{Writer, image_load, utf16, variable};

const MACHINES: [&str; 5] = [
    "grub-without-secure-boot",
    "shim-grub-with-secure-boot",
    "uki-systemd",
    "uki-with-secure-boot",
    "uki-without-secure-boot",
];

fn log(name: &str) -> EventLog {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/event-logs");
    let file = |kind: &str| -> PathBuf { folder.join(format!("{name}.{kind}")) };
    let log = EventLog::read(&file("bin")).expect("the fixture is a log");
    let systemd = file("systemd");
    if systemd.exists() {
        log.with_systemd_log(&systemd)
            .expect("the fixture is a log")
    } else {
        log
    }
}

fn pcrs() -> impl Iterator<Item = u8> {
    0..24
}

fn all(before: &EventLog, now: &EventLog) -> Vec<Change> {
    pcrs().flat_map(|pcr| compare(before, now, pcr)).collect()
}

fn told(before: &EventLog, now: &EventLog, pcr: u8) -> Vec<String> {
    let changes = compare(before, now, pcr);
    changes.iter().map(ToString::to_string).collect()
}

/// The place of an event that says this.
fn place(log: &EventLog, said: &Measured) -> usize {
    let mut events = log.events.iter();
    let at = events.position(|event| event.measured == *said);
    at.unwrap_or_else(|| panic!("{said:?} is not in the log"))
}

fn other_content(log: &EventLog, said: &Measured) -> EventLog {
    let mut log = log.clone();
    let at = place(&log, said);
    log.events[at].digest[0] ^= 1;
    log
}

#[test]
fn one_event_that_is_another_is_one_change_on_every_machine() {
    for machine in MACHINES {
        let enrolled = log(machine);
        assert_eq!(all(&enrolled, &enrolled), []);
        for (at, event) in enrolled.events.iter().enumerate() {
            let mut other = enrolled.clone();
            other.events[at].digest[31] ^= 0x80;
            let kinds = |now: &EventLog| -> Vec<(u32, ChangeKind)> {
                let changes = all(&enrolled, now);
                changes.iter().map(|it| (it.pcr.into(), it.kind)).collect()
            };
            if !event.is_extended() {
                assert_eq!(kinds(&other), []);
                continue;
            }
            // A phase of systemd's is what it is called.
            let a_phase = matches!(&event.measured, Measured::Systemd(it) if !it.contains(':'));
            let expected = if a_phase {
                vec![ChangeKind::Added, ChangeKind::Missing]
            } else {
                vec![ChangeKind::Changed]
            };
            let expected: Vec<_> = expected.into_iter().map(|it| (event.pcr, it)).collect();
            assert_eq!(kinds(&other), expected, "{machine}: {event:?}");

            let mut less = enrolled.clone();
            less.events.remove(at);
            assert_eq!(kinds(&less), [(event.pcr, ChangeKind::Missing)]);
            let mut more = enrolled.clone();
            more.events.insert(at, event.clone());
            assert_eq!(kinds(&more), [(event.pcr, ChangeKind::Added)]);
        }
    }
}

#[test]
fn what_was_replaced_is_called_by_its_name() {
    let grub = log("shim-grub-with-secure-boot");
    let file = |path: &str| Measured::GrubFile(path.to_owned());
    for (said, pcr, words) in [
        (
            file("/initrd.img"),
            9,
            "PCR 9: the initrd (/initrd.img) is not the one that was enrolled",
        ),
        (
            file("/vmlinuz"),
            9,
            "PCR 9: the kernel (/vmlinuz) is not the one that was enrolled",
        ),
        (
            file("(hd0,msdos1)/EFI/debian/grub.cfg"),
            9,
            "PCR 9: GRUB's configuration ((hd0,msdos1)/EFI/debian/grub.cfg) is not the one that \
             was enrolled",
        ),
        (
            Measured::Application(Some("\\EFI\\BOOT\\grubx64.efi".to_owned())),
            4,
            "PCR 4: the program \\EFI\\BOOT\\grubx64.efi is not the one that was enrolled",
        ),
        (
            Measured::MachineOwnerKeys("MokList".to_owned()),
            14,
            "PCR 14: shim's MokList has changed",
        ),
        (
            Measured::FirmwareCode,
            0,
            "PCR 0: the firmware's code is not the one that was enrolled",
        ),
    ] {
        assert_eq!(told(&grub, &other_content(&grub, &said), pcr), [words]);
    }

    let image = log("uki-systemd");
    for (said, pcr, words) in [
        (
            Measured::LinuxInitrd,
            9,
            "PCR 9: the initrd is not the one that was enrolled",
        ),
        (
            Measured::LinuxLoadOptions,
            9,
            "PCR 9: the kernel's command line is not the one that was enrolled",
        ),
        (
            Measured::StubSection(".linux".to_owned()),
            11,
            "PCR 11: section .linux of the unified kernel image is not the one that was enrolled",
        ),
    ] {
        assert_eq!(told(&image, &other_content(&image, &said), pcr), [words]);
    }
    let mut later = image.clone();
    later
        .events
        .retain(|event| event.measured != Measured::Systemd("ready".to_owned()));
    assert_eq!(
        told(&image, &later, 11),
        ["PCR 11: systemd's measurement \"ready\" was not measured, and was when enrolled"]
    );
}

#[test]
fn two_boots_of_one_machine_differ_in_what_was_switched() {
    let (on, off) = (log("uki-with-secure-boot"), log("uki-without-secure-boot"));
    assert_eq!(
        told(&on, &off, 7),
        [
            "PCR 7: Secure Boot is off, and was on when enrolled",
            "PCR 7: the Secure Boot variable PK has changed",
            "PCR 7: the Secure Boot variable KEK has changed",
            "PCR 7: the Secure Boot variable db has changed",
            "PCR 7: the entry of db that a program was verified by was not measured, and was when \
             enrolled",
        ]
    );
    assert_eq!(
        told(&off, &on, 7)[0],
        "PCR 7: Secure Boot is on, and was off when enrolled"
    );
}

/// A log of one PCR's events.
fn made(pcr: u32, events: &[(EventType, Vec<u8>)]) -> EventLog {
    let writer = events.iter().fold(Writer::new(), |writer, (kind, data)| {
        writer.data(pcr, *kind, data)
    });
    EventLog::parse(&writer.bytes()).expect("well-formed")
}

fn grub(pcr: u32, texts: &[&str]) -> EventLog {
    let events: Vec<_> = texts
        .iter()
        .map(|text| (EventType::IPL, text.as_bytes().to_vec()))
        .collect();
    made(pcr, &events)
}

#[test]
fn command_lines_differ_by_their_words() {
    let before = grub(
        8,
        &[
            "grub_cmd: set timeout=0",
            "grub_cmd: linux /vmlinuz root=/dev/vda quiet",
            "kernel_cmdline: /vmlinuz root=/dev/vda quiet",
        ],
    );
    let now = grub(
        8,
        &[
            "grub_cmd: set timeout=0",
            "grub_cmd: linux /vmlinuz root=/dev/vda init=/bin/sh",
            "kernel_cmdline: /vmlinuz root=/dev/vda init=/bin/sh",
        ],
    );
    assert_eq!(
        told(&before, &now, 8),
        [
            "PCR 8: GRUB's command \"linux\" has \"init=/bin/sh\" where it had \"quiet\" when \
             enrolled",
            "PCR 8: GRUB's command line for the kernel has \"init=/bin/sh\" where it had \"quiet\" \
             when enrolled",
        ]
    );
    let line = |text: &str| grub(8, &[&format!("kernel_cmdline: {text}")]);
    assert_eq!(
        told(&line("/vmlinuz quiet"), &line("/vmlinuz quiet single"), 8),
        ["PCR 8: GRUB's command line for the kernel has \"single\" more than when enrolled"]
    );
    assert_eq!(
        told(&line("/vmlinuz a a"), &line("/vmlinuz a"), 8),
        ["PCR 8: GRUB's command line for the kernel has \"a\" less than when enrolled"]
    );
    assert_eq!(
        told(&line("/vmlinuz a b"), &line("/vmlinuz b a"), 8),
        ["PCR 8: GRUB's command line for the kernel is not the one that was enrolled"]
    );
    let outside = |text: &str| made(12, &[(EventType::IPL, utf16(text))]);
    assert_eq!(
        told(&made(12, &[]), &outside("init=/bin/sh"), 12),
        [
            "PCR 12: what the kernel image was given from outside \"init=/bin/sh\" was measured, \
             and was not when enrolled"
        ]
    );
}

#[test]
fn a_file_or_program_of_another_name_is_told_with_both() {
    let before = grub(9, &["/vmlinuz-6.12.1", "/initrd.img-6.12.1", "/logo.png"]);
    let now = grub(9, &["/vmlinuz-6.12.2", "/initrd.img-6.12.2", "/other.png"]);
    assert_eq!(
        told(&before, &now, 9),
        [
            "PCR 9: the kernel is /vmlinuz-6.12.2, and was /vmlinuz-6.12.1 when enrolled",
            "PCR 9: the initrd is /initrd.img-6.12.2, and was /initrd.img-6.12.1 when enrolled",
            "PCR 9: the file /other.png, which GRUB reads, was measured, and was not when enrolled",
            "PCR 9: the file /logo.png, which GRUB reads, was not measured, and was when enrolled",
        ]
    );
    let program = |path: &str| {
        let data = image_load(&[(4, 4, &utf16(path))]);
        made(4, &[(EventType::EFI_BOOT_SERVICES_APPLICATION, data)])
    };
    assert_eq!(
        told(&program("\\a.efi"), &program("\\b.efi"), 4),
        ["PCR 4: \\b.efi was started where it was \\a.efi when enrolled"]
    );
}

#[test]
fn variables_are_named_and_an_event_that_moved_is_no_change_of_it() {
    let config = EventType::EFI_VARIABLE_DRIVER_CONFIG;
    let with_dbx = |dbx: &[u8]| {
        made(
            7,
            &[
                (config, variable("SecureBoot", &[1])),
                (config, variable("dbx", dbx)),
            ],
        )
    };
    assert_eq!(
        told(&with_dbx(b"old"), &with_dbx(b"new"), 7),
        ["PCR 7: the Secure Boot variable dbx has changed"]
    );
    let authority = |name: &str, data: &[u8]| {
        let data = variable(name, data);
        made(7, &[(EventType::EFI_VARIABLE_AUTHORITY, data)])
    };
    assert_eq!(
        told(&authority("db", b"a"), &authority("db", b"b"), 7),
        ["PCR 7: the entry of db that a program was verified by is not the one that was enrolled"]
    );
    assert_eq!(
        told(
            &authority("SbatLevel", b"a"),
            &authority("SbatLevel", b"b"),
            7
        ),
        ["PCR 7: shim's SbatLevel has changed"]
    );
    let steps = |names: [&str; 3]| {
        let events = names.map(|it| (EventType::EFI_ACTION, it.as_bytes().to_vec()));
        made(4, &events)
    };
    assert_eq!(
        told(&steps(["a", "b", "c"]), &steps(["b", "c", "a"]), 4),
        ["PCR 4: the firmware's step \"a\" was measured earlier or later than when enrolled"]
    );
    let locality = |number: u8| {
        let mut data = b"StartupLocality\0".to_vec();
        data.push(number);
        made(
            0,
            &[
                (EventType::NO_ACTION, data),
                (EventType::S_CRTM_VERSION, utf16("1")),
            ],
        )
    };
    assert_eq!(told(&locality(0), &locality(3), 0).len(), 1);
}

#[test]
fn a_long_text_is_cut_and_a_long_log_is_not_gone_through_for_ever() {
    let long = "x".repeat(5000);
    let change = &compare(&grub(8, &[]), &grub(8, &[&format!("grub_cmd: {long}")]), 8)[0];
    assert!(change.words.len() < 300, "{}", change.words);
    assert!(change.name.as_ref().is_some_and(|it| it.len() < 200));

    let many = |letter: char| {
        let texts: Vec<_> = (0..20_000)
            .map(|number| format!("{letter}{number}"))
            .collect();
        grub(9, &texts.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let start = std::time::Instant::now();
    let changes = compare(&many('a'), &many('b'), 9);
    assert!(changes.len() <= 2 * MOST);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

/// Logs of events that are looked into, of few kinds and few contents, so that some are alike.
fn anything() -> impl Strategy<Value = EventLog> {
    let kind = prop_oneof![
        Just(EventType::IPL),
        Just(EventType::EVENT_TAG),
        Just(EventType::EFI_VARIABLE_DRIVER_CONFIG),
        Just(EventType::EFI_VARIABLE_AUTHORITY),
        Just(EventType::EFI_BOOT_SERVICES_APPLICATION),
        Just(EventType::NO_ACTION),
        any::<u32>().prop_map(EventType),
    ];
    let data = prop_oneof![
        Just(Vec::new()),
        Just(b"grub_cmd: a b\0".to_vec()),
        Just(b"kernel_cmdline: a \0".to_vec()),
        Just(variable("SecureBoot", &[1])),
        Just(image_load(&[(4, 4, &utf16("\\a.efi"))])),
        any::<Vec<u8>>(),
    ];
    let event = (0_u32..15, kind, 0_u8..8, data);
    prop::collection::vec(event, 0..40).prop_map(|events| {
        let writer = events
            .iter()
            .fold(Writer::new(), |writer, (pcr, kind, digest, data)| {
                writer.event(*pcr, *kind, [*digest; 32], data)
            });
        EventLog::parse(&writer.bytes()).expect("well-formed")
    })
}

proptest! {
    #[test]
    fn logs_of_anything_are_compared(before in anything(), now in anything()) {
        for pcr in pcrs() {
            let changes = compare(&before, &now, pcr);
            let digests = |log: &EventLog| -> Vec<[u8; 32]> {
                log.extended(pcr).map(|event| event.digest).collect()
            };
            // Where something is different, something is said of it, and nothing otherwise.
            let same = digests(&before) == digests(&now);
            prop_assert!(pcr == 0 || same == changes.is_empty());
            for change in &changes {
                prop_assert_eq!(change.pcr, pcr);
                prop_assert!(!change.words.chars().any(char::is_control));
            }
        }
    }
}
