//! A refusal that names what has changed: the event log of the allowed boot was kept, and is
//! compared with the present one's. It is a hint, and where it is of no use, PCRs are named.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use strongroom::event_log::Measured;
use strongroom_tests::vault_files::snapshot;
use strongroom_tests::{KeyFs, Run, StandInDataset, TestVault, ZfsStandIn, event_logs};

const KEY: [u8; 32] = [0x42; 32];

const GRUB: &str = "grub-without-secure-boot";

const INITRD: &str = "PCR 9: the initrd (/initrd.img) is not the one that was enrolled";

#[test]
fn every_front_names_the_change() {
    let mut box_ = Enrolled::by(GRUB, "7,8,9");
    let credential = json!({ "pass": "x" }).to_string();
    let id = box_
        .vault
        .seal("credentials", "offsite", credential.as_bytes());
    box_.seal_dataset_key();
    let zfs = ZfsStandIn::new();
    zfs.pool("tank", 1);
    zfs.dataset("tank", 7, &StandInDataset::raw("tank", &KEY));
    box_.boot(&box_.other_initrd());

    for args in [
        &["unseal", "--token", "credentials", "--label", "offsite"][..],
        &["status"],
        &["rebind", "--yes"],
    ] {
        let refused = box_.strongroom(args).finish();
        assert_eq!(refused.code(), Some(3), "{refused}");
        assert!(format!("{refused}").contains(INITRD), "{refused}");
    }
    box_.provider(&["get", "tank"]).fails_with(3).says(INITRD);
    zfs.around(box_.provider(&["load", "-a"]))
        .fails_with(3)
        .says(INITRD);
    let tool = box_
        .run("pkcs11-tool")
        .arg("--module")
        .arg(box_.vault.programs().pkcs11_module())
        .args(["--token-label", "credentials", "--read-object"])
        .args(["--type", "data", "--label", "offsite"])
        .finish();
    assert_ne!(tool.code(), Some(0));
    tool.says(INITRD);
    let config = box_.vault.folder().join("rclone.conf");
    let text = format!(
        "[remote]\ntype = webdav\nurl = http://127.0.0.1:9\nvendor = other\nuser = nas\n\
         pass = strongroom:v1:{id}\n"
    );
    fs::write(&config, text).expect("written");
    box_.run(box_.vault.programs().credential_provider())
        .args(["rclone", "--", "--config"])
        .arg(&config)
        .args(["lsf", "remote:"])
        .fails_with(123)
        .says(INITRD);
    if KeyFs::can_be() {
        let log = box_.log.clone();
        let keys = KeyFs::start_with(&box_.vault, |command| {
            command.env("STRONGROOM_EVENT_LOG", &log);
        });
        // EACCES
        assert_eq!(keys.errno("tank"), 13);
        assert!(keys.log().contains(INITRD), "{}", keys.log());
    }
}

#[test]
fn what_changed_is_data_too() {
    let mut box_ = Enrolled::by(GRUB, "7,8,9");
    box_.seal_dataset_key();
    box_.boot(&box_.other_initrd());
    let expected = json!({
        "differing": [9],
        "branches": 1,
        "changes": [{
            "pcr": 9,
            "kind": "changed",
            "name": "/initrd.img",
            "words": INITRD.trim_start_matches("PCR 9: "),
        }],
    });
    let status = box_.strongroom(&["status", "--json"]).fails_with(3).json();
    assert_eq!(status["boot"]["refusal"], expected);
    let failed = box_
        .strongroom(&["rebind", "--yes", "--json"])
        .fails_with(3);
    assert_eq!(failed.json()["refusal"], expected);
    let zfs = ZfsStandIn::new();
    zfs.pool("tank", 1);
    zfs.dataset("tank", 7, &StandInDataset::raw("tank", &KEY));
    let load = box_.provider(&["load", "-a", "--json"]);
    let report = zfs.around(load).fails_with(3).json();
    assert_eq!(report["refusal"], expected);
    assert_eq!(report["exit"], 3);
}

#[test]
fn each_machine_has_its_own_words() {
    type Is = fn(u32, &Measured) -> bool;
    let cases: [(&str, &str, Is, &str); 6] = [
        (
            "shim-grub-with-secure-boot",
            "7,8,9,14",
            |_, it| matches!(it, Measured::Variable(it) if it.name == "dbx"),
            "PCR 7: the Secure Boot variable dbx has changed",
        ),
        (
            "shim-grub-with-secure-boot",
            "7,8,9,14",
            |_, it| matches!(it, Measured::GrubCommandLine(_)),
            "PCR 8: GRUB's command line for the kernel is not the one that was enrolled",
        ),
        (
            "shim-grub-with-secure-boot",
            "7,8,9,14",
            |pcr, _| pcr == 14,
            "PCR 14: shim's MokList has changed",
        ),
        (
            "uki-with-secure-boot",
            "7,9,11",
            |_, it| matches!(it, Measured::StubSection(it) if it == ".linux"),
            "PCR 11: section .linux of the unified kernel image is not the one that was enrolled",
        ),
        (
            "uki-without-secure-boot",
            "4,7,9,11",
            |_, it| matches!(it, Measured::Application(_)),
            "PCR 4: the program \\EFI\\BOOT\\BOOTX64.EFI is not the one that was enrolled",
        ),
        (
            "uki-without-secure-boot",
            "4,7,9,11",
            |_, it| matches!(it, Measured::LinuxLoadOptions),
            "PCR 9: the kernel's command line is not the one that was enrolled",
        ),
    ];
    for (machine, pcrs, is_it, words) in cases {
        let mut box_ = Enrolled::by(machine, pcrs);
        let log = box_.other(is_it);
        box_.boot(&log);
        let refused = box_.strongroom(&["status"]).fails_with(3);
        assert!(refused.text().contains(words), "{machine}: {refused}");
    }
}

#[test]
fn the_log_is_kept_with_the_list_and_goes_with_it() {
    let mut box_ = Enrolled::by(GRUB, "7,8,9");
    let first = box_.kept();
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!(
        fs::read(&first[0]).expect("there"),
        fs::read(&box_.log).expect("there")
    );
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
    assert_eq!(mode(&box_.kept_folder()), 0o700);
    assert_eq!(mode(&first[0]), 0o600);

    // One more boot, of which there is no log before it was there.
    let (original, other) = (box_.log.clone(), box_.other_initrd());
    let nine = hex::encode(event_logs::tpm_after(&other).pcr(9));
    box_.strongroom(&["rebind", "--add", &format!("9={nine}"), "--yes"])
        .ok();
    assert_eq!(box_.kept(), first);
    box_.boot(&other);
    // What a writer that was killed has left goes too.
    fs::write(box_.kept_folder().join(".x.bin.half"), "half").expect("written");
    box_.strongroom(&["rebind", "--yes"]).ok();
    let second = box_.kept();
    assert_eq!(second.len(), 1, "{second:?}");
    assert_ne!(second, first);
    box_.boot(&original);
    box_.strongroom(&["status"]).fails_with(3);
    box_.strongroom(&["rebind", "--yes", "--recovery"])
        .arg(box_.vault.recovery())
        .ok();
    assert_eq!(box_.kept(), first);
}

#[test]
fn a_vault_on_another_tpm_has_the_log_of_its_boot() {
    let mut box_ = Enrolled::by(GRUB, "7,8,9");
    box_.vault.seal("credentials", "offsite", b"secret");
    fs::remove_dir_all(box_.kept_folder()).expect("removed");
    box_.vault.replace_tpm(event_logs::tpm_after(&box_.log));
    let backup = box_.vault.folder().join("backup");
    box_.strongroom(&["recover", "--yes", "--recovery"])
        .arg(box_.vault.recovery())
        .ok();
    assert_eq!(box_.kept().len(), 1);
    // A backup is without: it says nothing that the present boot does not.
    box_.strongroom(&["backup"]).arg(&backup).ok();
    let copied = fs::read(&backup).expect("there");
    let part = &fs::read(&box_.log).expect("there")[100..140];
    assert!(!copied.windows(part.len()).any(|it| it == part));
    box_.boot(&box_.other_initrd());
    let refused = box_.strongroom(&["status"]).fails_with(3);
    assert!(refused.text().contains(INITRD), "{refused}");
}

#[test]
fn the_nearest_allowed_boot_is_compared() {
    let mut box_ = Enrolled::by(GRUB, "7,8,9");
    let other_line = box_.other(|_, it| matches!(it, Measured::GrubCommandLine(_)));
    let eight = hex::encode(event_logs::tpm_after(&other_line).pcr(8));
    box_.strongroom(&["rebind", "--add", &format!("8={eight}"), "--yes"])
        .ok();
    box_.boot(&other_line);
    // Whatever writes the list keeps the log of the allowed boot that this is.
    let seven = "7=".to_owned() + &"ab".repeat(32);
    box_.strongroom(&["rebind", "--add", &seven, "--yes"]).ok();
    assert_eq!(box_.kept().len(), 2);

    // Of the first boot it differs in two.
    let both = box_.other_initrd();
    box_.boot(&both);
    let refused = box_.strongroom(&["status"]).fails_with(3).text();
    assert!(refused.contains(INITRD), "{refused}");
    assert!(!refused.contains("PCR 8:"), "{refused}");
    assert!(refused.contains("any of the 3 allowed boots"), "{refused}");
}

#[test]
fn a_suspension_that_is_over_is_not_what_a_boot_is_compared_with() {
    let mut box_ = Enrolled::by(GRUB, "7,8,9");
    let first = box_.kept();
    box_.strongroom(&["suspend", "--boots", "1", "--yes"]).ok();
    assert_eq!(box_.kept(), first);
    let other = box_.other_initrd();
    for _ in 0..2 {
        box_.boot(&other);
    }
    let refused = box_.strongroom(&["status"]).fails_with(3).text();
    assert!(refused.contains(INITRD), "{refused}");
    assert_eq!(box_.kept(), first);
}

#[test]
fn a_log_that_is_of_no_use_leaves_the_pcrs_numbers() {
    let mut box_ = Enrolled::by(GRUB, "7,8,9");
    let kept = box_.kept().remove(0);
    let genuine = fs::read(&kept).expect("there");
    box_.boot(&box_.other_initrd());
    let numbers_alone = |box_: &Enrolled, what: &str| {
        let refused = box_.strongroom(&["status"]).fails_with(3);
        let text = refused.text();
        assert!(
            text.contains("PCR 9 is not as in the allowed boot;"),
            "{what}: {text}"
        );
        // Nobody is told of it who has not asked.
        assert_eq!(refused.stderr.lines().count(), 1, "{what}: {refused}");
        let asked = box_.strongroom(&["status"]).env("STRONGROOM_LOG", "debug");
        let said = asked.fails_with(3).stderr;
        let told = said
            .lines()
            .filter(|it| it.contains("what has changed"))
            .count();
        assert!(told <= 1, "{what}: {said}");
    };
    fs::remove_file(&kept).expect("removed");
    numbers_alone(&box_, "missing");
    fs::write(&kept, &genuine[..genuine.len() - 7]).expect("written");
    numbers_alone(&box_, "damaged");
    fs::write(
        &kept,
        fs::read(event_logs::fixture("uki-systemd")).expect("there"),
    )
    .expect("written");
    numbers_alone(&box_, "another machine's");
    // Forged so that it would blame the kernel.
    let other = box_.vault.folder().join("forged");
    event_logs::write_other(
        &box_.log,
        &other,
        |_, it| matches!(it, Measured::GrubFile(it) if it == "/vmlinuz"),
    );
    fs::copy(&other, &kept).expect("copied");
    numbers_alone(&box_, "forged");
    let mut long = genuine.clone();
    long.resize(2 << 20, 0);
    fs::write(&kept, long).expect("written");
    numbers_alone(&box_, "too long");
    fs::remove_file(&kept).expect("removed");
    Run::new("mkfifo").arg(&kept).ok();
    numbers_alone(&box_, "a pipe");
    fs::remove_file(&kept).expect("removed");
    fs::write(&kept, &genuine).expect("written");

    // The present log.
    let present = std::mem::replace(&mut box_.log, box_.vault.folder().join("nowhere"));
    numbers_alone(&box_, "no present log");
    fs::write(&box_.log, "no log").expect("written");
    numbers_alone(&box_, "a present log that is none");
    box_.log = event_logs::fixture("uki-systemd");
    numbers_alone(&box_, "a present log of another machine");
    box_.log = present;
    let refused = box_.strongroom(&["status"]).fails_with(3).text();
    assert!(refused.contains(INITRD), "{refused}");
}

#[test]
fn an_explanation_costs_the_tpm_nothing_and_an_allowed_boot_needs_no_log() {
    let mut box_ = Enrolled::by(GRUB, "7,8,9");
    box_.seal_dataset_key();
    let original = box_.log.clone();
    let allowed = box_.provider(&["get", "tank"]).ok();
    assert_eq!(allowed.stdout, KEY);
    box_.log = box_.vault.folder().join("nowhere");
    let without = box_.provider(&["get", "tank"]).ok();
    assert_eq!(without.stdout, KEY);
    assert_eq!(without.stderr, "");

    box_.log = original;
    box_.boot(&box_.other_initrd());
    let commands = |box_: &Enrolled| {
        box_.vault.recorder().take();
        box_.provider(&["get", "tank"]).fails_with(3);
        box_.vault.recorder().take().len()
    };
    let with = commands(&box_);
    fs::remove_dir_all(box_.kept_folder()).expect("removed");
    assert_eq!(commands(&box_), with);
}

#[test]
fn without_a_log_nothing_is_kept_and_a_log_that_does_not_lead_there_is_not_either() {
    let vault = TestVault::new();
    assert!(!vault.dir().join("event-logs").exists());
    let before = snapshot(&vault.dir());
    vault
        .strongroom(&["rebind", "--yes", "--event-log"])
        .arg(event_logs::fixture(GRUB))
        .ok();
    assert_eq!(snapshot(&vault.dir()), before);
    // One that cannot be read is said to be missed, and fails nothing.
    vault
        .strongroom(&["rebind", "--yes", "--event-log", "/nowhere"])
        .ok()
        .says("event log is not kept");
    assert_eq!(snapshot(&vault.dir()), before);
}

/// A box that was enrolled in a boot of a fixture.
struct Enrolled {
    vault: TestVault,
    /// The present boot's.
    log: PathBuf,
}

impl Enrolled {
    fn by(machine: &str, pcrs: &str) -> Self {
        let log = event_logs::fixture(machine);
        let vault = TestVault::without_init(event_logs::tpm_after(&log));
        let box_ = Self { vault, log };
        box_.strongroom(&["init", "--yes", "--pcrs", pcrs, "--recovery-out"])
            .arg(box_.vault.recovery())
            .ok();
        box_
    }

    /// Restarts it, into the boot of this log.
    fn boot(&mut self, log: &Path) {
        self.vault.reboot(&[]);
        event_logs::measure(self.vault.tpm(), log);
        log.clone_into(&mut self.log);
    }

    /// The log of the present boot, if one thing were another.
    fn other(&self, is_it: impl Fn(u32, &Measured) -> bool) -> PathBuf {
        let number = fs::read_dir(self.vault.folder()).expect("a folder").count();
        let file = self.vault.folder().join(format!("other-{number}"));
        event_logs::write_other(&self.log, &file, is_it);
        file
    }

    fn other_initrd(&self) -> PathBuf {
        self.other(|_, it| matches!(it, Measured::GrubFile(it) if it == "/initrd.img"))
    }

    fn run(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        self.vault
            .run(program)
            .env("STRONGROOM_EVENT_LOG", &self.log)
    }

    fn strongroom(&self, args: &[&str]) -> Run {
        self.run(self.vault.programs().strongroom()).args(args)
    }

    fn provider(&self, args: &[&str]) -> Run {
        self.run(self.vault.programs().zfs_keyprovider()).args(args)
    }

    fn seal_dataset_key(&self) {
        self.strongroom(&["seal", "--token", "datasets", "--label", "tank"])
            .args(["--kind", "dataset-key", "--keyformat", "raw"])
            .stdin(KEY)
            .ok();
    }

    fn kept_folder(&self) -> PathBuf {
        self.vault.dir().join("event-logs")
    }

    fn kept(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.kept_folder()).expect("there");
        let mut files: Vec<_> = entries.map(|it| it.expect("an entry").path()).collect();
        files.sort();
        files
    }
}
