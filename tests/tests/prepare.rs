//! `strongroom prepare` and `strongroom commit`: the next boot allowed before it comes, the last one
//! revoked after it. Logs of real machines beside TPMs that have measured what they say.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use strongroom::event_log::{Event, EventLog, Measured};
use strongroom_tests::kernel_image::pe_image;
use strongroom_tests::{KernelImage, Output, Run, Swtpm, TestVault};

const SECRET: &[u8] = b"a secret of the present boot";

/// The most commands of a prepare or a commit.
const MOST: usize = 24;

#[test]
fn the_next_boot_is_allowed_before_it_comes_and_the_last_one_revoked_after_it() {
    let mut nas = MeasuredBox::new("uki-without-secure-boot");
    let (image, file) = nas.image("quiet", b"another initrd");
    let next = nas.events_with(&image);
    nas.boot(&next);
    nas.refuses();
    nas.boot(&nas.enrolled());

    let seen = nas.prepare(&["--dry-run", "--uki", &file]).ok().json();
    assert_eq!(
        (&seen["dry-run"], &seen["written"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(nas.allowed(), 1);
    let done = nas.prepare(&["--yes", "--uki", &file]).ok().json();
    assert_eq!(
        (&done["written"], &done["branches"]),
        (&json!(true), &seen["branches"])
    );
    assert_eq!(done["branches"][1]["label"], json!({ "prepared": file }));
    nas.opens();
    // Again, and nothing is written.
    let list = fs::read(nas.list()).expect("a list");
    let again = nas.prepare(&["--yes", "--uki", &file]).ok().json();
    assert_eq!(again["written"], false);
    assert_eq!(fs::read(nas.list()).expect("a list"), list);

    nas.boot(&next);
    nas.opens();
    let done = nas.commit(&["--yes"]).ok().json();
    assert_eq!(done["written"], true);
    assert_eq!(done["branches"].as_array().map(Vec::len), Some(1));
    nas.opens();
    assert_eq!(nas.commit(&["--yes"]).ok().json()["written"], false);

    // The old image, and the old list from a copy of the disk beside it.
    nas.boot(&nas.enrolled());
    nas.refuses();
    nas.commit(&["--yes"]).fails_with(3);
    nas.prepare(&["--yes"]).fails_with(3);
    fs::write(nas.list(), list).expect("put back");
    nas.unseal()
        .fails_with(5)
        .says("not the list of allowed boots");
    nas.commit(&["--yes"]).fails_with(5);
}

#[test]
fn a_list_that_somebody_has_edited_allows_nothing() {
    let nas = MeasuredBox::new("uki-without-secure-boot");
    let (_, file) = nas.image("quiet", b"another initrd");
    nas.prepare(&["--yes", "--uki", &file]).ok();
    let genuine = fs::read(nas.list()).expect("a list");
    let list: Value = serde_json::from_slice(&genuine).expect("JSON");
    let (one, two) = (list["current"][0].clone(), list["current"][1].clone());
    let mut theirs = two.clone();
    theirs["pcrs"]["11"] = json!("5a".repeat(32));
    for (what, current) in [
        ("another boot", json!([one, two, theirs])),
        ("another boot instead", json!([one, theirs])),
        ("one that always holds", json!([one, two, { "pcrs": {} }])),
        (
            "fewer PCRs",
            json!([one, { "pcrs": { "7": one["pcrs"]["7"] } }]),
        ),
        ("another order", json!([two, one])),
    ] {
        let mut edited = list.clone();
        edited["current"] = current;
        nas.write_list(&edited);
        let said = nas.unseal().fails_with(5);
        assert!(said.stderr.contains("policy.json"), "{what}: {said}");
        nas.prepare(&["--yes"]).fails_with(5);
        nas.commit(&["--yes"]).fails_with(5);
    }
    // What a boot is called is nobody's secret, and decides nothing.
    let mut edited = list.clone();
    edited["current"][0]["label"] = json!({ "prepared": file });
    edited["current"][1]["label"] = json!({ "phase": "ready" });
    nas.write_list(&edited);
    nas.opens();
    // Whoever calls the present boot one that was prepared does not make it go.
    fs::write(&file, nas.image("quiet", b"a third initrd").0.content).expect("written");
    nas.prepare(&["--yes", "--uki", &file]).ok();
    nas.opens();
}

#[test]
fn a_log_that_is_not_this_boots_prepares_nothing() {
    let nas = MeasuredBox::new("uki-without-secure-boot");
    let (_, file) = nas.image("quiet", b"another initrd");
    let genuine = fs::read(&nas.log).expect("a fixture");
    // The last digest of PCR 9 another one, as who wants another initrd predicted would have it.
    let log = EventLog::parse(&genuine).expect("a log");
    let digest = log.extended(9).last().expect("an event").digest;
    let at = genuine
        .windows(32)
        .rposition(|it| it == digest)
        .expect("it is there");
    let mut forged = genuine.clone();
    forged[at] ^= 1;
    let other = MeasuredBox::file_of("uki-with-secure-boot");
    for (what, bytes) in [
        ("forged", forged),
        ("another machine's", fs::read(other).expect("a fixture")),
    ] {
        let log = nas.vault.folder().join("log");
        fs::write(&log, bytes).expect("written");
        let prepared = nas
            .vault
            .strongroom(&["prepare", "--yes", "--uki", &file, "--event-log"])
            .arg(&log);
        let said = prepared
            .fails_with(7)
            .says("does not lead to the value of PCR")
            .stderr;
        assert!(said.contains("doctor"), "{what}: {said}");
    }
    assert_eq!(nas.allowed(), 1);
    // Nor does a machine whose log nobody has.
    nas.vault
        .strongroom(&["prepare", "--yes", "--uki", &file])
        .fails_with(7)
        .says("--event-log");
}

#[test]
fn what_cannot_be_predicted_is_refused_in_words() {
    let nas = MeasuredBox::new("uki-without-secure-boot");
    let file = nas.file("vmlinuz", &pe_image(&[(".text", b"a kernel")]));
    nas.prepare(&["--yes", "--kernel", &file])
        .fails_with(7)
        .says("--uki");
    nas.prepare(&["--yes", "--uki", &file])
        .fails_with(7)
        .says("no unified kernel image");
    let missing = nas.at("missing").display().to_string();
    nas.prepare(&["--yes", "--uki", &missing])
        .fails_with(7)
        .says("missing");
    let text = nas.file("text", b"something");
    nas.prepare(&["--yes", "--dbx", &text])
        .fails_with(7)
        .says("dbx update");
    nas.prepare(&["--yes", "--initrd", &text]).fails_with(2);
    nas.prepare(&["--yes", "--phases", "late"])
        .fails_with(2)
        .says("ready");
    // Nobody is there to say yes.
    nas.prepare(&[]).fails_with(2).says("--yes");
    assert_eq!(nas.allowed(), 1);
}

#[test]
fn what_is_prepared_anew_takes_the_place_of_what_was_and_a_full_list_says_so() {
    let mut nas = MeasuredBox::new("uki-without-secure-boot");
    let (first, file) = nas.image("quiet", b"first initrd");
    nas.prepare(&["--yes", "--uki", &file]).ok();
    let (second, _) = nas.image("quiet", b"second initrd");
    nas.prepare(&["--yes", "--uki", &file]).ok();
    assert_eq!(nas.allowed(), 2);
    nas.boot(&nas.events_with(&first));
    nas.refuses();
    nas.boot(&nas.events_with(&second));
    nas.opens();
    nas.boot(&nas.enrolled());
    for number in 1..=6 {
        let (image, _) = nas.image("quiet", format!("initrd {number}").as_bytes());
        let other = nas.file(&format!("image-{number}"), &image.content);
        nas.prepare(&["--yes", "--uki", &other]).ok();
    }
    assert_eq!(nas.allowed(), 8);
    let (image, _) = nas.image("debug", b"a ninth");
    let ninth = nas.file("ninth", &image.content);
    nas.prepare(&["--yes", "--uki", &ninth])
        .fails_with(7)
        .says("room for eight; it holds 8")
        .says("strongroom commit");
    nas.opens();
}

#[test]
fn a_boot_is_allowed_in_its_phases_and_they_are_told_from_another_boot() {
    let mut nas = MeasuredBox::new("uki-systemd");
    let early = nas.enrolled();
    let phase = |words: &[&str]| {
        let mut events = early.clone();
        events.extend(words.iter().map(|word| (11, sha256(word.as_bytes()))));
        events
    };
    // It was enrolled when all was up, as a running system is.
    nas.boot(&phase(&["sysinit", "ready"]));
    nas.enrol();
    let seen = nas.prepare(&["--yes"]).ok().json();
    assert_eq!(
        seen["branches"].as_array().map(Vec::len),
        Some(3),
        "{seen:#}"
    );
    assert_eq!(seen["branches"][1]["label"], json!({ "phase": "start" }));
    for words in [&["sysinit", "ready"][..], &["sysinit"], &[]] {
        nas.boot(&phase(words));
        nas.opens();
    }
    for words in [
        &["ready"][..],
        &["sysinit", "ready", "shutdown"],
        &["enter-initrd"],
    ] {
        nas.boot(&phase(words));
        nas.refuses();
    }
    nas.boot(&phase(&["sysinit", "ready"]));
    // Another boot, in which nothing but PCR 11 differs, is no phase of this one.
    let other = format!("11={}", "ab".repeat(32));
    nas.vault
        .strongroom(&["rebind", "--add", &other, "--yes"])
        .ok();
    nas.vault
        .strongroom(&["commit", "--yes"])
        .fails_with(7)
        .says("phases");
    let left = nas.commit(&["--yes"]).ok().json();
    assert_eq!(left["branches"].as_array().map(Vec::len), Some(3));
    assert_eq!(left["written"], true);
    for words in [&[][..], &["sysinit"], &["sysinit", "ready"]] {
        nas.boot(&phase(words));
        nas.opens();
    }
}

#[test]
fn a_kernel_and_its_initrd_in_another_root_are_prepared_for_grub() {
    let mut nas = MeasuredBox::new("grub-without-secure-boot");
    nas.enrol_with(&["--pcrs", "4,8,9"]);
    let kernel = pe_image(&[(".text", b"another kernel")]);
    fs::create_dir_all(nas.at("root/etc")).expect("folders");
    fs::create_dir_all(nas.at("root/boot")).expect("folders");
    nas.file("root/boot/vmlinuz", &kernel);
    nas.file("root/boot/initrd.img", b"another initrd");
    nas.file("root/etc/cmdline", b"console=ttyS0 panic=-1 quiet\n");
    let root = nas.at("root").display().to_string();
    let names = ["--kernel", "/boot/vmlinuz", "--initrd", "/boot/initrd.img"];
    let prepared = [
        &["--yes", "--root", &root, "--cmdline", "@/etc/cmdline"][..],
        &names,
    ]
    .concat();
    let done = nas.prepare(&prepared).ok().json();
    assert_eq!(
        done["branches"][1]["label"],
        json!({ "prepared": format!("{root}/boot/vmlinuz") })
    );
    let next = nas.events(|event| match &event.measured {
        Measured::GrubFile(file) if file == "/vmlinuz" => sha256(&kernel),
        Measured::GrubFile(file) if file == "/initrd.img" => sha256(b"another initrd"),
        Measured::LinuxInitrd => sha256(b"another initrd"),
        _ => event.digest,
    });
    nas.boot(&next);
    nas.opens();
    nas.commit(&["--yes"]).ok();
    nas.boot(&nas.enrolled());
    nas.refuses();
    // The root is another one; here there is no such kernel.
    nas.boot(&next);
    nas.prepare(&[&["--yes"][..], &names].concat())
        .fails_with(7);
}

#[test]
fn a_prepare_costs_the_same_whatever_the_number_of_objects() {
    compare_costs(40);
}

#[test]
#[ignore = "seals 1,000 objects"]
fn a_prepare_with_a_thousand_objects_costs_what_one_with_one_does() {
    compare_costs(1000);
}

fn compare_costs(many: usize) {
    let costs = |objects: usize| {
        let mut nas = MeasuredBox::new("uki-without-secure-boot");
        for number in 1..objects {
            nas.vault
                .seal("credentials", &format!("offsite {number}"), SECRET);
        }
        let (image, file) = nas.image("quiet", b"another initrd");
        let prepare = nas.commands(&["prepare", "--uki", &file]);
        let again = nas.commands(&["prepare", "--uki", &file]);
        nas.boot(&nas.events_with(&image));
        let commit = nas.commands(&["commit"]);
        let nothing = nas.commands(&["commit"]);
        [prepare, again, commit, nothing]
    };
    let (few, many) = (costs(1), costs(many));
    assert_eq!(few, many);
    for (commands, writes) in few.iter().zip([1, 0, 1, 0]) {
        assert!(commands.len() <= MOST, "{}: {commands:?}", commands.len());
        let written = commands.iter().filter(|name| **name == "NV_Write").count();
        assert_eq!(written, writes, "{commands:?}");
    }
}

/// A box whose TPM has measured what a fixture's log says, with a vault that was enrolled by it.
struct MeasuredBox {
    vault: TestVault,
    log: PathBuf,
    events: Vec<Event>,
}

impl MeasuredBox {
    fn new(name: &str) -> Self {
        let log = Self::file_of(name);
        let events = EventLog::read(&log).expect("a fixture").events().to_vec();
        let mut measured = Self {
            vault: TestVault::without_init(Swtpm::start()),
            log,
            events,
        };
        measured.boot(&measured.enrolled());
        measured.enrol();
        measured
    }

    fn file_of(name: &str) -> PathBuf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/event-logs");
        folder.join(format!("{name}.bin"))
    }

    /// A vault of the present boot, in the place of whichever there is.
    fn enrol(&mut self) {
        self.enrol_with(&["--pcrs", "7,9,11"]);
    }

    fn enrol_with(&mut self, options: &[&str]) {
        let _ = fs::remove_dir_all(self.vault.dir());
        let _ = fs::remove_file(self.vault.recovery());
        self.vault
            .strongroom(&["init", "--yes", "--recovery-out"])
            .arg(self.vault.recovery())
            .args(options)
            .ok();
        self.vault.seal("credentials", "offsite", SECRET);
    }

    /// What the log has.
    fn enrolled(&self) -> Vec<(u32, [u8; 32])> {
        self.events(|event| event.digest)
    }

    fn events(&self, digest: impl Fn(&Event) -> [u8; 32]) -> Vec<(u32, [u8; 32])> {
        let extended = self.events.iter().filter(|event| event.is_extended());
        extended.map(|event| (event.pcr, digest(event))).collect()
    }

    /// What a boot of another image measures, as systemd-stub(7) and the kernel say.
    fn events_with(&self, image: &KernelImage) -> Vec<(u32, [u8; 32])> {
        let mut events = self.events(|event| match event.measured {
            Measured::LinuxLoadOptions => image.command_line,
            Measured::LinuxInitrd => image.initrd,
            _ => event.digest,
        });
        events.retain(|(pcr, _)| *pcr != 11);
        events.extend(image.sections.iter().map(|digest| (11, *digest)));
        events
    }

    fn boot(&mut self, events: &[(u32, [u8; 32])]) {
        self.vault.reboot(&[]);
        for (pcr, digest) in events {
            let extension = format!("{pcr}:sha256={}", hex::encode(digest));
            self.vault.tpm().tpm2(&["pcrextend", &extension]).ok();
        }
    }

    /// An image, always in the same file.
    fn image(&self, command_line: &str, initrd: &[u8]) -> (KernelImage, String) {
        let image = KernelImage::new(b"a kernel", command_line, initrd);
        let file = self.file("linux.efi", &image.content);
        (image, file)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.vault.folder().join(name)
    }

    fn file(&self, name: &str, content: &[u8]) -> String {
        let file = self.at(name);
        fs::write(&file, content).expect("written");
        file.display().to_string()
    }

    fn prepare(&self, args: &[&str]) -> Run {
        self.with_log("prepare").args(args)
    }

    fn commit(&self, args: &[&str]) -> Run {
        self.with_log("commit").args(args)
    }

    fn with_log(&self, command: &str) -> Run {
        let run = self.vault.strongroom(&[command, "--json", "--event-log"]);
        run.arg(&self.log)
    }

    fn unseal(&self) -> Run {
        let args = ["unseal", "--token", "credentials", "--label", "offsite"];
        self.vault.strongroom(&args)
    }

    #[track_caller]
    fn opens(&self) {
        assert_eq!(self.unseal().ok().stdout, SECRET);
    }

    #[track_caller]
    fn refuses(&self) -> Output {
        self.unseal()
            .fails_with(3)
            .says("the policy refused this boot")
    }

    fn list(&self) -> PathBuf {
        self.vault.dir().join("policy.json")
    }

    /// Writes the list as Strongroom would.
    fn write_list(&self, list: &Value) {
        let text = serde_json::to_string_pretty(list).expect("JSON");
        fs::write(self.list(), text + "\n").expect("written");
    }

    /// How many boots the list has.
    fn allowed(&self) -> usize {
        let list = fs::read(self.list()).expect("a list");
        let list: Value = serde_json::from_slice(&list).expect("JSON");
        list["current"].as_array().map_or(0, Vec::len)
    }

    /// What a command sends to the TPM.
    fn commands(&self, args: &[&str]) -> Vec<&'static str> {
        self.vault.recorder().take();
        let (command, rest) = args.split_first().expect("a command");
        self.with_log(command).arg("--yes").args(rest).ok();
        let commands = self.vault.recorder().take();
        commands.iter().map(|command| command.name).collect()
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}
