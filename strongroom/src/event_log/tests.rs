//! Logs made by hand, and logs of any bytes.

use std::fs;

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::parse::SHA256;
use super::writer::{Writer, image_load, tagged, utf16, variable};
use super::*;

/// SHA-1, SHA-256, SHA-384, SM3, as a firmware that has all of them.
const ALL_BANKS: [(u16, u16); 4] = [(0x04, 20), (SHA256, 32), (0x0C, 48), (0x12, 32)];

fn refused(bytes: &[u8]) -> String {
    match EventLog::parse(bytes) {
        Ok(log) => panic!("it should have been refused: {log:?}"),
        Err(error) => error.to_string(),
    }
}

fn measured(pcr: u32, event_type: EventType, data: &[u8]) -> Measured {
    let bytes = Writer::new().data(pcr, event_type, data).bytes();
    let log = EventLog::parse(&bytes).expect("well-formed");
    log.events()[0].measured.clone()
}

#[test]
fn a_replay_is_the_hashes_one_after_the_other() {
    let bytes = Writer::with_banks(&ALL_BANKS)
        .event(7, EventType::SEPARATOR, [1; 32], &[0; 4])
        .event(4, EventType::EFI_ACTION, [2; 32], b"x")
        .event(7, EventType::NO_ACTION, [9; 32], b"said, not extended")
        .event(7, EventType(0x1234), [3; 32], b"")
        .bytes();
    let log = EventLog::parse(&bytes).expect("well-formed");
    let first = Sha256::digest([[0; 32], [1; 32]].concat());
    let second: [u8; 32] = Sha256::digest([first.as_slice(), &[3; 32]].concat()).into();
    assert_eq!(log.value(7), second);
    assert_eq!(log.replay().keys().copied().collect::<Vec<_>>(), [4, 7]);
    assert_eq!((log.value(9), log.value(17)), ([0; 32], [0xFF; 32]));
    assert_eq!(log.extended(7).count(), 2);
}

#[test]
fn pcr_0_begins_with_the_locality_that_the_tpm_was_started_from() {
    let bytes = Writer::new()
        .event(0, EventType::NO_ACTION, [0; 32], b"StartupLocality\0\x03")
        .event(0, EventType::S_CRTM_VERSION, [5; 32], &utf16("1.2"))
        .event(1, EventType::SEPARATOR, [5; 32], &[0; 4])
        .bytes();
    let log = EventLog::parse(&bytes).expect("well-formed");
    let mut before = [0; 32];
    before[31] = 3;
    let value: [u8; 32] = Sha256::digest([before, [5; 32]].concat()).into();
    assert_eq!(log.value(0), value);
    // PCR 0 alone.
    let value: [u8; 32] = Sha256::digest([[0; 32], [5; 32]].concat()).into();
    assert_eq!(log.value(1), value);
}

#[test]
fn what_is_no_log_is_refused_with_the_place() {
    let whole = Writer::with_banks(&ALL_BANKS)
        .event(7, EventType::SEPARATOR, [1; 32], &[0; 4])
        .bytes();
    let head = Writer::with_banks(&ALL_BANKS).bytes().len();
    EventLog::parse(&whole).expect("well-formed");
    for length in (0..whole.len()).filter(|length| *length != head) {
        refused(&whole[..length]);
    }
    assert!(refused(&[&whole[..], &[0]].concat()).contains(&format!("at byte {},", whole.len())));
    assert!(refused(b"").contains("at byte 0,"));

    // One digest too few, one bank twice, an unknown bank.
    for (at, byte) in [(head + 8, 3), (head + 12, 0x0B), (head + 12, 0x77)] {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        assert!(refused(&bytes).contains("one digest for each bank"), "{at}");
    }
    // One bank twice in an event, where another has digests of the same size.
    let banks = [(SHA256, 32), (0x12, 32)];
    let mut bytes = Writer::with_banks(&banks)
        .event(7, EventType::SEPARATOR, [1; 32], b"")
        .bytes();
    let second = bytes.len() - 4 - 34;
    bytes[second] = 0x0B;
    assert!(refused(&bytes).contains("one digest for each bank"));
    // An event that says to be four gigabytes long.
    let mut bytes = whole.clone();
    let size = whole.len() - 8;
    bytes[size..size + 4].fill(0xFF);
    assert!(refused(&bytes).contains("in the middle"));
    // A PCR that no TPM has.
    let bytes = Writer::new().data(24, EventType::IPL, b"").bytes();
    assert!(refused(&bytes).contains("no TPM has"));
    // ... which an event that extends nothing may name.
    let bytes = Writer::new().data(u32::MAX, EventType::NO_ACTION, b"");
    EventLog::parse(&bytes.bytes()).expect("well-formed");
}

#[test]
fn logs_of_other_kinds_are_named() {
    let without = Writer::with_banks(&[(0x04, 20)]).bytes();
    assert!(refused(&without).contains("SHA-256 bank"));
    let wrong_size = Writer::with_banks(&[(SHA256, 20)]).bytes();
    assert!(refused(&wrong_size).contains("another size"));
    let twice = Writer::with_banks(&[(SHA256, 32), (SHA256, 32)]).bytes();
    assert!(refused(&twice).contains("twice"));
    // The first event of a log of TPM 1.2.
    let mut old = vec![0; 32];
    old[4] = EventType::S_CRTM_VERSION.0.to_le_bytes()[0];
    assert!(refused(&old).contains("TPM 1.2"));
    let mut many = Writer::new().bytes();
    // The number of banks.
    many[32 + 24..32 + 28].fill(0xFF);
    assert!(refused(&many).contains("more banks"));
}

#[test]
fn firmwares_events_are_understood() {
    assert_eq!(
        measured(0, EventType::S_CRTM_VERSION, &utf16("F.42")),
        Measured::FirmwareVersion("F.42".to_owned())
    );
    let Measured::Variable(secure_boot) = measured(
        7,
        EventType::EFI_VARIABLE_DRIVER_CONFIG,
        &variable("SecureBoot", &[1]),
    ) else {
        panic!("a variable");
    };
    assert_eq!(secure_boot.name, "SecureBoot");
    assert!(secure_boot.is_on());
    let Measured::Authority(db) = measured(
        7,
        EventType::EFI_VARIABLE_AUTHORITY,
        &variable("db", b"certificate"),
    ) else {
        panic!("an authority");
    };
    assert_eq!(
        (db.name.as_str(), db.data.as_slice()),
        ("db", &b"certificate"[..])
    );
    let path = image_load(&[
        (2, 1, &[0; 8]),
        (4, 1, &[0; 38]),
        (4, 4, &utf16("\\EFI\\debian")),
        (4, 4, &utf16("shimx64.efi")),
        (0x7F, 0xFF, &[]),
    ]);
    assert_eq!(
        measured(4, EventType::EFI_BOOT_SERVICES_APPLICATION, &path),
        Measured::Application(Some("\\EFI\\debian\\shimx64.efi".to_owned()))
    );
    let built_in = image_load(&[(4, 7, &[0; 16]), (4, 6, &[0; 16]), (0x7F, 0xFF, &[])]);
    assert_eq!(
        measured(4, EventType::EFI_BOOT_SERVICES_APPLICATION, &built_in),
        Measured::Application(None)
    );
    assert_eq!(
        measured(7, EventType::SEPARATOR, &[1, 0, 0, 0]),
        Measured::Separator(true)
    );
    assert_eq!(
        measured(
            4,
            EventType::EFI_ACTION,
            b"Calling EFI Application from Boot Option"
        ),
        Measured::Action("Calling EFI Application from Boot Option".to_owned())
    );
}

#[test]
fn events_whose_lengths_do_not_add_up_are_not_believed() {
    let longer = |mut bytes: Vec<u8>| {
        bytes.push(0);
        bytes
    };
    let secure_boot = longer(variable("SecureBoot", &[1]));
    let kind = EventType::EFI_VARIABLE_DRIVER_CONFIG;
    assert!(matches!(
        measured(7, kind, &secure_boot),
        Measured::Other(_)
    ));
    let program = longer(image_load(&[(4, 4, &utf16("a.efi"))]));
    let kind = EventType::EFI_BOOT_SERVICES_APPLICATION;
    assert_eq!(measured(4, kind, &program), Measured::Application(None));
    let initrd = longer(tagged(0x8F3B_22EC, b"Linux initrd\0"));
    assert!(matches!(
        measured(9, EventType::EVENT_TAG, &initrd),
        Measured::Other(_)
    ));
}

#[test]
fn boot_loaders_are_told_apart() {
    let grub = |pcr, text: &[u8]| measured(pcr, EventType::IPL, text);
    assert_eq!(
        grub(8, b"grub_cmd: linux /vmlinuz quiet\0"),
        Measured::GrubCommand("linux /vmlinuz quiet".to_owned())
    );
    assert_eq!(
        grub(8, b"kernel_cmdline: /vmlinuz quiet\0"),
        Measured::GrubCommandLine("/vmlinuz quiet".to_owned())
    );
    assert_eq!(
        grub(9, b"(hd0,gpt2)/boot/initrd.img\0"),
        Measured::GrubFile("(hd0,gpt2)/boot/initrd.img".to_owned())
    );
    assert_eq!(
        grub(14, b"MokList\0"),
        Measured::MachineOwnerKeys("MokList".to_owned())
    );
    assert_eq!(
        grub(11, &utf16(".linux")),
        Measured::StubSection(".linux".to_owned())
    );
    assert_eq!(
        grub(12, &utf16("init=/bin/sh")),
        Measured::StubInput("init=/bin/sh".to_owned())
    );
    let kernel = |id, text: &[u8]| measured(9, EventType::EVENT_TAG, &tagged(id, text));
    assert_eq!(
        kernel(0x8F3B_22EC, b"Linux initrd\0"),
        Measured::LinuxInitrd
    );
    assert_eq!(
        kernel(0x8F3B_22ED, b"LOADED_IMAGE::LoadOptions\0"),
        Measured::LinuxLoadOptions
    );
    assert_eq!(
        measured(
            5,
            EventType::EVENT_TAG,
            &tagged(0x1234, &utf16("loader.conf"))
        ),
        Measured::StubInput("loader.conf".to_owned())
    );
}

#[test]
fn a_text_cannot_steer_a_terminal() {
    let Measured::GrubCommand(command) = measured(
        8,
        EventType::IPL,
        b"grub_cmd: \x1B[2J\x9B\r\nok \xE2\x80\xAE\0",
    ) else {
        panic!("a command");
    };
    assert!(!command.contains(|it: char| it.is_control() || it == '\u{202E}'));
    assert!(command.contains("ok"));
}

#[test]
fn what_systemd_extended_is_counted_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tpm2-measure.log");
    let record = |pcr: &str, digit: &str, said: &str| {
        format!(
            "\u{1E}{{{pcr}\"digests\":[{{\"hashAlg\":\"sha1\",\"digest\":\"00\"}},\
             {{\"hashAlg\":\"sha256\",\"digest\":\"{}\"}}],\"content_type\":\"systemd\",\
             \"content\":{{\"string\":\"{said}\",\"eventType\":\"phase\"}}}}\n",
            digit.repeat(64)
        )
    };
    let text = [
        record("\"pcr\":11,", "1", "enter-initrd"),
        record("\"nv_index\":1,", "2", "an NV index"),
        record("\"pcr\":15,", "3", "machine-id:0"),
    ];
    fs::write(&file, text.concat()).expect("written");
    let firmware = Writer::new().data(11, EventType::IPL, &utf16(".linux"));
    let before = EventLog::parse(&firmware.bytes()).expect("well-formed");
    let log = before.clone().with_systemd_log(&file).expect("readable");
    let value: [u8; 32] =
        Sha256::digest([before.value(11).as_slice(), &[0x11; 32]].concat()).into();
    assert_eq!(log.value(11), value);
    assert_eq!(log.extended(15).count(), 1);
    assert_eq!(
        log.events().last().expect("there are").measured,
        Measured::Systemd("machine-id:0".to_owned())
    );
    for bad in [
        "no JSON",
        &record("\"pcr\":24,", "1", ""),
        &record("\"pcr\":1,", "x", ""),
    ] {
        fs::write(&file, bad).expect("written");
        assert!(before.clone().with_systemd_log(&file).is_err(), "{bad}");
    }
}

#[test]
fn a_log_that_never_ends_is_not_read_to_the_end() {
    let refused = EventLog::read(Path::new("/dev/zero")).expect_err("it has no end");
    assert!(refused.to_string().contains("16 MiB"), "{refused}");
}

#[test]
fn a_system_without_a_log_has_none_and_one_that_cannot_be_read_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = Place::System(folder.path().to_owned());
    assert_eq!(place.read().expect("nothing is wrong"), None);
    let write = |file: &str, bytes: &[u8]| {
        let file = folder.path().join(file);
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        fs::write(file, bytes).expect("written");
    };
    let firmware = Writer::new().data(7, EventType::SEPARATOR, &[0; 4]).bytes();
    write(KERNEL_LOG, &firmware);
    let read = || place.read().map(|it| it.expect("there is one"));
    let recording = read().expect("a log");
    assert_eq!(recording.firmware, firmware);
    assert_eq!(recording.systemd, None);
    write(SYSTEMD_LOG, b"");
    assert_eq!(read().expect("a log").systemd, Some(Vec::new()));
    write(SYSTEMD_LOG, b"no log");
    read().expect_err("refused");
    write(SYSTEMD_LOG, b"");
    write(KERNEL_LOG, b"no log");
    read().expect_err("refused");
    // Both can be seen to be read by who confines itself.
    let seen = place.paths();
    for file in [KERNEL_LOG, SYSTEMD_LOG] {
        let file = folder.path().join(file);
        assert!(seen.iter().any(|it| file.starts_with(it)), "{seen:?}");
    }
}

proptest! {
    #[test]
    fn bytes_that_are_anything_are_refused_or_read(bytes: Vec<u8>) {
        let _ = EventLog::parse(&bytes);
    }

    /// With a right beginning, so that what comes after it is reached.
    #[test]
    fn events_that_are_anything_are_refused_or_read(bytes: Vec<u8>) {
        let _ = EventLog::parse(&[Writer::new().bytes(), bytes].concat());
    }

    /// Data that is anything, of events that are looked into.
    #[test]
    fn data_that_is_anything_is_read(
        pcr in 0_u32..24,
        kind in prop_oneof![0_u32..0x20, 0x8000_0000_u32..0x8000_00F0],
        data: Vec<u8>,
    ) {
        let bytes = Writer::new().data(pcr, EventType(kind), &data).bytes();
        let log = EventLog::parse(&bytes).expect("well-formed");
        prop_assert_eq!(&log.events()[0].data, &data);
    }

    #[test]
    fn what_was_written_is_read_again(
        events in prop::collection::vec(
            (0_u32..24, any::<u32>(), any::<[u8; 32]>(), any::<Vec<u8>>()), 0..20),
    ) {
        let mut writer = Writer::with_banks(&ALL_BANKS);
        let mut values = std::collections::BTreeMap::new();
        for (pcr, kind, digest, data) in &events {
            writer = writer.event(*pcr, EventType(*kind), *digest, data);
            if EventType(*kind) != EventType::NO_ACTION {
                let value = values.entry(u8::try_from(*pcr).expect("small")).or_insert([0; 32]);
                *value = Sha256::digest([*value, *digest].concat()).into();
            }
        }
        let log = EventLog::parse(&writer.bytes()).expect("well-formed");
        let read: Vec<_> = log
            .events()
            .iter()
            .map(|it| (it.pcr, it.event_type.map_or(0, |it| it.0), it.digest, it.data.clone()))
            .collect();
        prop_assert_eq!(read, events);
        prop_assert_eq!(log.replay(), values);
    }
}
