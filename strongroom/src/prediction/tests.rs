//! Predictions on the logs of real machines: what such a machine would start again must come to the
//! PCRs that it has, and what it would start instead to other ones, where it cannot be told to words.
#![allow(clippy::cast_possible_truncation, reason = "what tests write is short")]

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::event_log::EventType;
use crate::event_log::writer::Writer;

/// What these machines were started with.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 quiet";
const RELEASE: &[u8] = b"ID=strongroom-tests\n";

fn fixture(name: &str) -> EventLog {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/event-logs");
    let log = EventLog::read(&folder.join(format!("{name}.bin"))).expect("a fixture");
    let more = folder.join(format!("{name}.systemd"));
    if more.exists() {
        log.with_systemd_log(&more).expect("a fixture")
    } else {
        log
    }
}

/// What a log leads to, over some PCRs.
fn values(log: &EventLog, pcrs: &str) -> PcrValues {
    let bound: PcrSelection = pcrs.parse().expect("a selection");
    PcrValues::new(&bound, bound.iter().map(|pcr| log.value(pcr)))
}

fn forecast(log: &EventLog, image: Image) -> Forecast {
    Forecast {
        log: log.clone(),
        command_line: Some(COMMAND_LINE.to_owned()),
        next: NextBoot {
            image,
            updates: Vec::new(),
            phases: Phase::USUAL.to_vec(),
        },
    }
}

fn refused(forecast: &Forecast, present: &PcrValues) -> String {
    match forecast.branches(present) {
        Ok(branches) => panic!("it should have been refused: {branches:?}"),
        Err(error) => error.to_string(),
    }
}

/// An image of these sections, as a linker writes one. The content of each is a multiple of nothing.
fn pe_image(sections: &[(&str, &[u8])]) -> Vec<u8> {
    const HEADERS: usize = 0x400;
    const ALIGNMENT: usize = 0x200;
    let mut bytes = vec![0; HEADERS];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[0x3C] = 0x40;
    bytes[0x40..0x44].copy_from_slice(b"PE\0\0");
    bytes[0x46] = u8::try_from(sections.len()).expect("few");
    // The optional header of 64 bits with its sixteen directories.
    bytes[0x54] = 0xF0;
    bytes[0x58..0x5A].copy_from_slice(&0x20B_u16.to_le_bytes());
    bytes[0x58 + 60..0x58 + 64].copy_from_slice(&(HEADERS as u32).to_le_bytes());
    bytes[0x58 + 108] = 16;
    let mut virtual_address = 0x1000;
    for (index, (name, content)) in sections.iter().enumerate() {
        let at = 0x58 + 0xF0 + 40 * index;
        bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
        let raw_at = bytes.len();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        let fields = [content.len(), virtual_address, bytes.len() - raw_at, raw_at];
        for (place, field) in fields.into_iter().enumerate() {
            let at = at + 8 + 4 * place;
            bytes[at..at + 4].copy_from_slice(&(field as u32).to_le_bytes());
        }
        virtual_address += content.len().next_multiple_of(0x1000);
    }
    bytes
}

const MAGIC: &[u8] = b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####";

fn unified(content: Vec<u8>) -> Image {
    Image::Unified {
        name: "/boot/new.efi".to_owned(),
        content,
    }
}

/// A unified image whose kernel is an image too.
fn unified_image(command_line: &str, initrd: &[u8]) -> Vec<u8> {
    let kernel = pe_image(&[(".text", b"a kernel")]);
    pe_image(&[
        (".sdmagic", MAGIC),
        (".osrel", RELEASE),
        (".cmdline", command_line.as_bytes()),
        (".linux", &kernel),
        (".initrd", initrd),
    ])
}

/// A log of a boot of such an image, from what the specifications say that is measured.
fn log_of(command_line: &str, initrd: &[u8], content: &[u8]) -> EventLog {
    let kernel = pe_image(&[(".text", b"a kernel")]);
    let parsed = pe::Image::parse(content).expect("an image");
    let mut writer = Writer::new().data(7, EventType::SEPARATOR, &[0; 4]).event(
        4,
        EventType::EFI_BOOT_SERVICES_APPLICATION,
        parsed.authenticode(),
        b"",
    );
    for (name, content) in [
        (".linux", kernel.as_slice()),
        (".osrel", RELEASE),
        (".cmdline", command_line.as_bytes()),
        (".initrd", initrd),
    ] {
        let named = digest(&[name.as_bytes(), b"\0"].concat());
        writer = writer.event(11, EventType::IPL, named, &wide(name)).event(
            11,
            EventType::IPL,
            digest(content),
            &wide(name),
        );
    }
    let options = digest(&wide(command_line));
    let tag = crate::event_log::writer::tagged;
    let all = stub::UnifiedImage::parse(content)
        .expect("an image")
        .initrd();
    let bytes = writer
        .event(
            9,
            EventType::EVENT_TAG,
            options,
            &tag(0x8F3B_22ED, b"LOADED_IMAGE::LoadOptions\0"),
        )
        .event(
            9,
            EventType::EVENT_TAG,
            digest(&all.expect("an initrd")),
            &tag(0x8F3B_22EC, b"Linux initrd\0"),
        )
        .bytes();
    EventLog::parse(&bytes).expect("well-formed")
}

#[test]
fn an_images_digest_is_of_all_but_its_signature() {
    let image = pe_image(&[(".text", b"a kernel"), (".data", b"and its data")]);
    let digest_of = |image: &[u8]| pe::Image::parse(image).expect("an image").authenticode();
    // All but the checksum, and the entry that says where the signature is.
    let (checksum, entry) = (0x58 + 64, 0x58 + 112 + 4 * 8);
    let rest = [
        &image[..checksum],
        &image[checksum + 4..entry],
        &image[entry + 8..],
    ];
    assert_eq!(digest_of(&image), digest(&rest.concat()));
    // What lies behind the sections counts.
    let longer = [&image[..], b"overlay."].concat();
    assert_eq!(
        digest_of(&longer),
        digest(&[&rest.concat()[..], b"overlay."].concat())
    );

    let mut signed = [&image[..], b"a signature, of 24 bytes"].concat();
    let place = [image.len() as u32, 24].map(u32::to_le_bytes).concat();
    signed[entry..entry + 8].copy_from_slice(&place);
    signed[checksum] = 0xFF;
    assert_eq!(digest_of(&signed), digest_of(&image));
    let parsed = pe::Image::parse(&signed).expect("an image");
    assert_eq!(parsed.certificates(), b"a signature, of 24 bytes");
    // Nobody hides something behind it.
    signed.push(0);
    pe::Image::parse(&signed).map(|_| ()).expect_err("refused");
}

#[test]
fn an_image_that_a_known_key_has_signed_keeps_pcr_7() {
    let log = fixture("uki-with-secure-boot");
    let present = values(&log, "7,11");
    let owner = log
        .extended(7)
        .find_map(|event| match &event.measured {
            Measured::Authority(it) => Some(it.data[16..].to_vec()),
            _ => None,
        })
        .expect("somebody has signed the present image");
    let image = unified_image("quiet", b"an initrd");
    let entry = 0x58 + 112 + 4 * 8;
    let signed_with = |certificate: &[u8]| {
        let signature = [b"a signature with ", certificate].concat();
        let mut signed = [&image[..], &signature].concat();
        let place = [image.len() as u32, signature.len() as u32];
        let place = place.map(u32::to_le_bytes).concat();
        signed[entry..entry + 8].copy_from_slice(&place);
        forecast(&log, unified(signed))
    };
    let predicted = signed_with(&owner).branches(&present).expect("it is");
    assert_eq!(predicted[0].pcrs.differing_from(&present), [11]);
    let said = refused(&signed_with(b"of somebody else"), &present);
    assert!(said.contains("not signed"), "{said}");
}

#[test]
fn the_present_boot_predicted_is_the_present_boot() {
    for (name, pcrs) in [
        ("uki-with-secure-boot", "4,7,9,11"),
        ("uki-without-secure-boot", "0,2,4,7,9,11"),
        ("shim-grub-with-secure-boot", "4,7,8,9,14"),
        ("grub-without-secure-boot", "4,7,8,9"),
    ] {
        let log = fixture(name);
        let present = values(&log, pcrs);
        let predicted = forecast(&log, Image::Present)
            .branches(&present)
            .expect("it is");
        assert_eq!(predicted.len(), 1, "{name}");
        assert_eq!(predicted[0].pcrs, present, "{name}");
        assert_eq!(predicted[0].label, None, "{name}");
    }
}

#[test]
fn phases_are_computed_and_the_last_one_is_the_present() {
    let log = fixture("uki-systemd");
    let present = values(&log, "7,9,11");
    let predicted = forecast(&log, Image::Present)
        .branches(&present)
        .expect("it is");
    let phases: Vec<_> = predicted
        .iter()
        .map(|branch| branch.label.as_ref().and_then(Label::phase))
        .collect();
    assert_eq!(phases, Phase::USUAL.map(Some));
    assert_eq!(predicted[2].pcrs, present);
    // Without systemd, the same machine is where systemd begins.
    let before = fixture("uki-with-secure-boot");
    assert_eq!(predicted[0].pcrs.get(11), Some(&before.value(11)));
    // ... and the same without systemd's own log, which older releases do not keep.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/event-logs");
    let alone = EventLog::read(&folder.join("uki-systemd.bin")).expect("a fixture");
    let again = forecast(&alone, Image::Present)
        .branches(&present)
        .expect("it is");
    assert_eq!(again, predicted);
    // PCR 15 depends on how far the boot has come, and nobody computes it.
    let more = values(&log, "7,15");
    assert!(refused(&forecast(&log, Image::Present), &more).contains("PCR 15"));
}

#[test]
fn a_log_that_does_not_lead_to_the_pcrs_predicts_nothing() {
    let log = fixture("uki-with-secure-boot");
    for pcr in [7, 9, 11] {
        let present = values(&log, "7,9,11").with(pcr, [0x5A; 32]).expect("bound");
        let said = refused(&forecast(&log, Image::Present), &present);
        assert!(
            said.contains(&format!("PCR {pcr}")) && said.contains("doctor"),
            "{said}"
        );
    }
}

#[test]
fn another_image_is_predicted_as_its_boot_is_measured() {
    let old = unified_image("quiet", b"an initrd");
    let log = log_of("quiet", b"an initrd", &old);
    let present = values(&log, "4,7,9,11");
    let same = forecast(&log, unified(old))
        .branches(&present)
        .expect("it is");
    assert_eq!(same[0].pcrs, present);
    for (line, initrd) in [
        ("quiet debug", &b"an initrd"[..]),
        ("quiet", b"another initrd!"),
    ] {
        let new = unified_image(line, initrd);
        let booted = log_of(line, initrd, &new);
        let predicted = forecast(&log, unified(new))
            .branches(&present)
            .expect("it is");
        assert_eq!(predicted[0].pcrs, values(&booted, "4,7,9,11"));
        let label = predicted[0].label.as_ref().expect("a label");
        assert_eq!(
            (label.prepared(), label.phase()),
            (Some("/boot/new.efi"), None)
        );
    }
}

#[test]
fn the_initrd_that_the_stub_puts_together_is_the_one_that_a_kernel_has_measured() {
    // Behind the test machine's initrd, which is not kept here, it comes to the digest that the
    // fixtures' logs have.
    let archive = {
        let with_release = pe_image(&[(".sdmagic", MAGIC), (".linux", b"x"), (".osrel", RELEASE)]);
        let image = stub::UnifiedImage::parse(&with_release).expect("an image");
        image.initrd().expect("the release alone")
    };
    assert_eq!(archive.len() % 4, 0);
    assert_eq!(
        hex::encode(digest(&archive)),
        "d883a808ae95c19c43d9ad0dec43e91b006e370e018e7037b363e36c7970db31"
    );
}

#[test]
fn what_the_kernel_measures_is_what_real_kernels_have_measured() {
    for name in ["uki-with-secure-boot", "uki-systemd"] {
        let log = fixture(name);
        let options = log
            .extended(9)
            .find(|event| event.measured == Measured::LinuxLoadOptions)
            .expect("a kernel");
        assert_eq!(options.digest, digest(&wide(COMMAND_LINE)), "{name}");
    }
}

#[test]
fn the_kernel_in_the_image_is_put_where_firmware_has_loaded_it() {
    // Without Secure Boot, the stub has the firmware load the kernel, which measures that too.
    let log = fixture("uki-without-secure-boot");
    let present = values(&log, "4");
    let new = unified_image("quiet", b"an initrd");
    let inner = pe_image(&[(".text", b"a kernel")]);
    let mut programs = [&new, &inner]
        .map(|it| pe::Image::parse(it).expect("an image").authenticode())
        .into_iter();
    let expected = log.extended(4).fold([0; 32], |value, event| {
        let digest = match event.measured {
            Measured::Application(_) => programs.next().expect("two programs"),
            _ => event.digest,
        };
        super::digest(&[value, digest].concat())
    });
    assert_eq!(programs.next(), None);
    let predicted = forecast(&log, unified(new))
        .branches(&present)
        .expect("it is");
    assert_eq!(predicted[0].pcrs.get(4), Some(&expected));
}

#[test]
fn a_command_line_from_outside_stays_and_anything_else_from_there_is_refused() {
    let image = unified_image("quiet", b"an initrd");
    let with = |outside: &[(u32, &[u8])]| {
        let log = log_of("quiet", b"an initrd", &image);
        let mut events = log.events().to_vec();
        for (pcr, data) in outside {
            let bytes = Writer::new().data(*pcr, EventType::IPL, data).bytes();
            events.extend(
                EventLog::parse(&bytes)
                    .expect("well-formed")
                    .events()
                    .to_vec(),
            );
        }
        EventLog::of(events)
    };
    let new = unified(unified_image("debug", b"an initrd"));
    let log = with(&[(12, &wide("quiet"))]);
    let present = values(&log, "9,12");
    let predicted = forecast(&log, new.clone())
        .branches(&present)
        .expect("it is");
    assert_eq!(predicted[0].pcrs, present);
    for outside in [(12, &b"a credential"[..]), (13, b"an extension")] {
        let log = with(&[outside]);
        let said = refused(&forecast(&log, new.clone()), &values(&log, "9,12"));
        assert!(said.contains("from outside"), "{said}");
        // ... which changes nothing for who has not bound to PCR 9.
        let present = values(&log, "12");
        let predicted = forecast(&log, new.clone())
            .branches(&present)
            .expect("it is");
        assert_eq!(predicted[0].pcrs, present);
    }
}

#[test]
fn images_of_which_it_is_not_known_what_is_measured_are_refused_in_words() {
    let log = fixture("uki-with-secure-boot");
    let present = values(&log, "11");
    let with = |sections: &[(&str, &[u8])]| {
        refused(&forecast(&log, unified(pe_image(sections))), &present)
    };
    let linux = (".linux", &b"a kernel"[..]);
    assert!(with(&[linux]).contains("no unified kernel image"));
    for release in ["251.1", "258", "300~rc1"] {
        let magic = format!("#### LoaderInfo: systemd-stub {release} ####");
        let said = with(&[(".sdmagic", magic.as_bytes()), linux]);
        assert!(said.contains("252 to 257"), "{said}");
    }
    assert!(with(&[(".sdmagic", MAGIC)]).contains(".linux"));
    assert!(with(&[(".sdmagic", MAGIC), linux, (".profile", b"ID=x")]).contains(".profile"));
    assert!(with(&[(".sdmagic", MAGIC), linux, linux]).contains("twice"));
    let said = refused(
        &forecast(&log, unified(b"MZ and no more".to_vec())),
        &present,
    );
    assert!(
        said.contains("/boot/new.efi") && said.contains("no PE image"),
        "{said}"
    );
}

#[test]
fn an_image_that_secure_boot_would_refuse_or_name_another_key_for_is_refused() {
    let log = fixture("uki-with-secure-boot");
    let image = unified(unified_image("quiet", b"an initrd"));
    let said = refused(&forecast(&log, image.clone()), &values(&log, "7,11"));
    assert!(said.contains("not signed"), "{said}");
    // What PCR 7 is does not matter to who has not bound to it.
    forecast(&log, image)
        .branches(&values(&log, "11"))
        .expect("it is");
}

#[test]
fn a_kernel_and_its_initrd_are_put_into_grubs_log() {
    for name in ["grub-without-secure-boot", "shim-grub-with-secure-boot"] {
        let log = fixture(name);
        let pcrs = if name.starts_with("grub") {
            "4,7,8,9"
        } else {
            "8,9,14"
        };
        let present = values(&log, pcrs);
        let with = |name: &str, line: Option<&str>, initrds: Option<Vec<Vec<u8>>>| {
            forecast(
                &log,
                Image::Linux {
                    name: name.to_owned(),
                    kernel: pe_image(&[(".text", b"a kernel")]),
                    initrds,
                    command_line: line.map(str::to_owned),
                },
            )
        };
        let initrds = Some(vec![b"an initrd".to_vec()]);
        let predicted = with("/boot/vmlinuz", Some(COMMAND_LINE), initrds.clone())
            .branches(&present)
            .expect("it is");
        let differing = predicted[0].pcrs.differing_from(&present);
        assert_eq!(differing, [9], "{name}");
        // Added up by hand.
        let kernel = digest(&pe_image(&[(".text", b"a kernel")]));
        let value = log.extended(9).fold([0; 32], |value, event| {
            let new = match &event.measured {
                Measured::GrubFile(file) if file == "/vmlinuz" => kernel,
                Measured::GrubFile(file) if file == "/initrd.img" => digest(b"an initrd"),
                Measured::LinuxInitrd => digest(b"an initrd"),
                _ => event.digest,
            };
            digest(&[value, new].concat())
        });
        assert_eq!(predicted[0].pcrs.get(9), Some(&value), "{name}");

        let two = Some(vec![b"one".to_vec(), b"two".to_vec()]);
        assert!(refused(&with("/boot/vmlinuz", None, two), &present).contains("--initrd"));
        let said = refused(&with("/boot/vmlinuz-6.13", None, initrds.clone()), &present);
        assert!(
            said.contains("another grub.cfg") && said.contains("/vmlinuz-6.13"),
            "{said}"
        );
        let said = refused(&with("/boot/vmlinuz", Some("debug"), initrds), &present);
        assert!(said.contains("another command line"), "{said}");
    }
}

#[test]
fn a_kernel_that_firmware_starts_has_its_command_line_and_initrd_measured() {
    let tag = crate::event_log::writer::tagged;
    let boot = |options: &[u8], initrd: &[u8], kernel: [u8; 32]| {
        let bytes = Writer::new()
            .event(4, EventType::EFI_BOOT_SERVICES_APPLICATION, [1; 32], b"")
            .event(4, EventType::EFI_BOOT_SERVICES_APPLICATION, kernel, b"")
            .event(12, EventType::IPL, digest(options), options)
            .event(
                9,
                EventType::EVENT_TAG,
                digest(options),
                &tag(0x8F3B_22ED, b"LOADED_IMAGE::LoadOptions\0"),
            )
            .event(
                9,
                EventType::EVENT_TAG,
                digest(initrd),
                &tag(0x8F3B_22EC, b"Linux initrd\0"),
            )
            .bytes();
        EventLog::parse(&bytes).expect("well-formed")
    };
    let bare = |text: &str| wide(text)[..2 * text.len()].to_vec();
    let new = pe_image(&[(".text", b"a kernel")]);
    let kernel = pe::Image::parse(&new).expect("an image").authenticode();
    for form in [&bare as &dyn Fn(&str) -> Vec<u8>, &wide] {
        let log = boot(&form(COMMAND_LINE), b"old", [2; 32]);
        let present = values(&log, "4,9,12");
        let next = |line: &str| Image::Linux {
            name: "/boot/vmlinuz".to_owned(),
            kernel: new.clone(),
            initrds: Some(vec![b"one".to_vec(), b"three".to_vec()]),
            command_line: Some(line.to_owned()),
        };
        let predicted = forecast(&log, next("quiet"))
            .branches(&present)
            .expect("it is");
        let booted = boot(&form("quiet"), b"one\0three\0\0\0", kernel);
        assert_eq!(predicted[0].pcrs, values(&booted, "4,9,12"));
        // Nobody knows in which form a boot entry has it whose command line is not the kernel's.
        let mut other = forecast(&log, next("quiet"));
        other.command_line = Some("something else".to_owned());
        assert!(refused(&other, &present).contains("not the one that it has measured"));
    }
}

#[test]
fn an_image_in_the_place_of_a_kernel_and_the_other_way_round_are_refused() {
    let grub = fixture("grub-without-secure-boot");
    let image = unified(unified_image("quiet", b"an initrd"));
    assert!(refused(&forecast(&grub, image), &values(&grub, "9")).contains("--kernel"));
    let uki = fixture("uki-without-secure-boot");
    let kernel = Image::Linux {
        name: "/boot/vmlinuz".to_owned(),
        kernel: pe_image(&[(".text", b"a kernel")]),
        initrds: None,
        command_line: None,
    };
    assert!(refused(&forecast(&uki, kernel), &values(&uki, "9")).contains("--uki"));
}

/// EFI_CERT_SHA256_GUID.
const HASHES: [u8; 16] = [
    0x26, 0x16, 0xC4, 0xC1, 0x4C, 0x50, 0x92, 0x40, 0xAC, 0xA9, 0x41, 0xF9, 0x36, 0x93, 0x43, 0x28,
];

fn hash_list(hashes: &[[u8; 48]]) -> Vec<u8> {
    let mut list = HASHES.to_vec();
    for field in [28 + 48 * hashes.len(), 0, 48] {
        list.extend((field as u32).to_le_bytes());
    }
    list.extend(hashes.concat());
    list
}

#[test]
fn a_dbx_update_is_appended_without_what_is_there_already() {
    let log = fixture("shim-grub-with-secure-boot");
    let present = values(&log, "7");
    let held = log
        .extended(7)
        .find_map(|event| match &event.measured {
            Measured::Variable(it) if it.name == "dbx" => Some(it.clone()),
            _ => None,
        })
        .expect("it has one");
    let known: [u8; 48] = held.data[28..].try_into().expect("one hash");
    let update = |bytes: &[u8]| {
        let mut forecast = forecast(&log, Image::Present);
        let update = DatabaseUpdate::parse(Database::Forbidden, "dbxupdate.bin", bytes);
        forecast.next.updates.push(update.expect("an update"));
        forecast.branches(&present).expect("it is").remove(0)
    };
    // Nothing new.
    assert_eq!(update(&hash_list(&[known])).pcrs, present);

    let new = hash_list(&[[7; 48], [8; 48]]);
    let variable = secure_boot_variable(&[held.data.clone(), new].concat());
    let expected = log.extended(7).fold([0; 32], |value, event| {
        let is_dbx = matches!(&event.measured, Measured::Variable(it) if it.name == "dbx");
        let new = if is_dbx {
            digest(&variable)
        } else {
            event.digest
        };
        digest(&[value, new].concat())
    });
    let lists = hash_list(&[[7; 48], known, [8; 48]]);
    let branch = update(&lists);
    assert_eq!(branch.pcrs.get(7), Some(&expected));
    assert_eq!(
        branch
            .label
            .and_then(|it| it.prepared().map(str::to_owned))
            .as_deref(),
        Some("dbxupdate.bin")
    );

    // Signed, as it comes from who publishes it, and with attributes before.
    let mut signed = vec![0xE8; 16];
    signed.extend(28_u32.to_le_bytes());
    signed.extend([0, 2, 0xF1, 0x0E]);
    signed.extend(secure_boot::PKCS7);
    signed.extend(b"PKCS");
    signed.extend(&lists);
    assert_eq!(update(&signed).pcrs.get(7), Some(&expected));
    assert_eq!(
        update(&[&[0x67, 0, 0, 0][..], &signed].concat())
            .pcrs
            .get(7),
        Some(&expected)
    );
    for bad in [
        &b""[..],
        b"something",
        &lists[..lists.len() - 1],
        &signed[..40],
    ] {
        DatabaseUpdate::parse(Database::Forbidden, "x", bad).expect_err("it is none");
    }
}

fn secure_boot_variable(data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![
        0xCB, 0xB2, 0x19, 0xD7, 0x3A, 0x3D, 0x96, 0x45, 0xA3, 0xBC, 0xDA, 0xD0, 0x0E, 0x67, 0x65,
        0x6F,
    ];
    bytes.extend(3_u64.to_le_bytes());
    bytes.extend((data.len() as u64).to_le_bytes());
    bytes.extend(b"d\0b\0x\0");
    bytes.extend(data);
    bytes
}

proptest! {
    /// No file of whatever bytes makes the readers panic.
    #[test]
    fn any_bytes_are_an_image_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = pe::Image::parse(&bytes).map(|image| image.authenticode());
        let _ = DatabaseUpdate::parse(Database::Allowed, "x", &bytes);
    }

    /// Nor an image in which bytes of the headers are others.
    #[test]
    fn a_damaged_image_is_an_image_or_refused(places in proptest::collection::vec((0_usize..0x400, any::<u8>()), 1..8)) {
        let mut bytes = unified_image("quiet", b"an initrd");
        for (at, byte) in places {
            bytes[at] = byte;
        }
        if let Ok(image) = stub::UnifiedImage::parse(&bytes) {
            image.image().authenticode();
            let _ = (image.measured(), image.initrd(), image.command_line());
        }
    }
}
