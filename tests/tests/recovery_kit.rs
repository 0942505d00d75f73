//! The recovery kit in the hands of people: on paper, as a QR code, behind a passphrase, typed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use strongroom_tests::vault_files::{Kit, snapshot};
use strongroom_tests::{Output, Run, Swtpm, TestVault, converse};

const SECRET: &[u8] = b"hunter2";
const PASSPHRASE: &str = "correct horse battery staple";

/// More than a sheet needs.
const WIDE: usize = 200;

#[test]
fn the_sheet_is_a_kit_and_says_what_it_is() {
    let bench = Bench::new();
    bench.vault.recorder().take();
    let before = snapshot(bench.vault.folder());
    let printed = bench.sheet(&[]).ok().says("opens everything");
    assert!(snapshot(bench.vault.folder()) == before, "{printed}");
    assert!(bench.vault.recorder().commands().is_empty());
    let sheet = printed.text();
    for part in [
        bench.id(),
        bench.line("# vault key SHA-256: "),
        bench.identity(),
        "recovery-test".to_owned(),
        "recover --recovery".to_owned(),
    ] {
        assert!(sheet.contains(&part), "{part} in {sheet}");
    }
    bench.opens_by(sheet.as_bytes());
    let again = bench.run("recovery-kit", "-").stdin(sheet.clone()).ok();
    assert_eq!(again.text(), sheet);
}

#[test]
fn what_the_qr_code_holds_is_a_kit() {
    let bench = Bench::new();
    let sheet = bench.sheet(&[]).ok().text();
    let scanned = scan(&sheet);
    let lines: Vec<_> = scanned.lines().collect();
    assert_eq!(lines.len(), 3, "{scanned}");
    assert_eq!(lines[2], bench.identity());
    bench.opens_by(scanned.as_bytes());
}

#[test]
fn at_a_terminal_the_code_is_black_on_white_where_it_fits() {
    let bench = Bench::new();
    let kit = bench.kit.to_str().expect("UTF-8");
    let args = ["recovery-kit", "--recovery", kit];
    let shown = bench.talk(WIDE, &args, &[]).ok().text();
    assert!(shown.contains("opens everything"), "{shown}");
    assert!(shown.contains("\u{1b}[0;30;47m"), "{shown}");
    let plain = shown
        .replace("\u{1b}[0;30;47m", "")
        .replace("\u{1b}[0m", "");
    assert_eq!(scan(&plain).lines().nth(2), Some(bench.identity().as_str()));
    let shown = bench.talk(40, &args, &[]).ok().text();
    assert!(shown.contains("this terminal 40"), "{shown}");
    assert!(!shown.contains('\u{2588}'), "{shown}");
    assert!(shown.contains(&bench.identity()), "{shown}");
}

#[test]
fn files_of_it_are_new_and_their_owners_alone() {
    let bench = Bench::new();
    let (out, svg) = (bench.at("sheet"), bench.at("code.svg"));
    let files = ["--out", &out, "--svg", &svg, "--json"];
    let report = bench.sheet(&files).ok().does_not_show(&bench.identity());
    assert_eq!(report.json()["vault"], bench.id());
    assert_eq!(report.json()["checked"], true);
    for file in [&out, &svg] {
        let mode = fs::metadata(file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert!(fs::read_to_string(&svg).expect("there").contains("<svg"));
    bench.opens_by(&fs::read(&out).expect("there"));
    // What is there is nobody's to write over.
    bench.sheet(&["--out", &out]).fails_with(7).says("sheet");
    let other = bench.at("other");
    let taken = ["--out", &other, "--svg", &svg];
    bench.sheet(&taken).fails_with(7).says("code.svg");
    bench.opens_by(&fs::read(&out).expect("there"));
    bench.sheet(&["--json"]).fails_with(2).says("--out");
}

#[test]
fn a_sheet_is_printed_of_the_vaults_own_kit_alone() {
    let bench = Bench::new();
    let other = TestVault::new();
    let strange = other.recovery();
    let out = bench.at("sheet");
    let refused = bench
        .vault
        .strongroom(&["recovery-kit", "--out", &out, "--recovery"])
        .arg(&strange)
        .fails_with(7)
        .says("it is of vault");
    assert!(refused.stdout.is_empty() && !Path::new(&out).exists());
    // Where there is no vault, nothing tells, and that is said.
    let elsewhere = |run: Run| run.env("STRONGROOM_DIR", bench.at("nowhere"));
    let printed = elsewhere(bench.run("recovery-kit", &bench.kit))
        .ok()
        .says("there is no vault");
    bench.opens_by(&printed.stdout);
    // Unless the owner says which vault it must be of.
    elsewhere(bench.run("recovery-kit", &strange))
        .args([
            "--vault-key-sha256",
            &bench.line("# vault key SHA-256: ")[21..],
        ])
        .fails_with(7);
    // A vault that is there and cannot be read answers for nothing.
    fs::write(bench.vault.dir().join("vault.json"), "{").expect("written");
    bench.sheet(&[]).fails_with(5).says("vault.json");
}

#[test]
fn a_protected_kit_opens_everything_with_its_passphrase_alone() {
    let bench = Bench::new();
    let protected = bench.protect();
    let text = fs::read_to_string(&protected).expect("there");
    assert!(!text.contains(&bench.identity()) && text.contains("BEGIN AGE ENCRYPTED FILE"));
    // The code holds the same, and no more.
    let scanned = scan(&text);
    assert!(scanned.contains("BEGIN AGE ENCRYPTED FILE"), "{scanned}");

    let right = bench.write("passphrase", PASSPHRASE);
    let line = bench.write("line", &format!("{PASSPHRASE}\n"));
    for file in [&right, &line] {
        let opened = bench
            .unseal(&protected)
            .args(["--passphrase-file", file])
            .ok();
        assert_eq!(opened.stdout, SECRET);
    }
    bench.vault.tpm().extend(9, b"an unannounced initrd");
    for command in ["rebind", "recover"] {
        bench
            .run(command, &protected)
            .args(["--yes", "--passphrase-file", &right])
            .ok();
    }
    assert_eq!(bench.vault.unseal("credentials", "offsite"), SECRET);
    // A sheet of it is open again, and says so.
    let sheet = bench
        .run("recovery-kit", &protected)
        .args(["--passphrase-file", &right])
        .ok()
        .says("was protected");
    bench.opens_by(&sheet.stdout);
}

#[test]
fn a_protected_kit_without_its_passphrase_opens_nothing() {
    let bench = Bench::new();
    let protected = bench.protect();
    let wrong = bench.write("wrong", "correct horse battery stable");
    let empty = bench.write("empty", "\n");
    let binary = bench.at("binary");
    fs::write(&binary, b"\xff\xfe").expect("written");
    bench
        .unseal(&protected)
        .fails_with(2)
        .says("--passphrase-file");
    for (file, said) in [
        (wrong.as_str(), "not its passphrase"),
        (&empty, "empty"),
        (&binary, "UTF-8"),
        ("/nonexistent", "/nonexistent"),
    ] {
        let refused = bench
            .unseal(&protected)
            .args(["--passphrase-file", file])
            .fails_with(7)
            .says(said);
        assert!(refused.stdout.is_empty(), "{refused}");
    }
    let text = fs::read_to_string(&protected).expect("there");
    let right = bench.write("passphrase", PASSPHRASE);
    let damaged = [
        (text.replace("-----END AGE", "-----end age"), "cut short"),
        (text.replace("\nYWdl", "\nYWdm"), "damaged"),
        (
            text.replace("-----BEGIN AGE", "-----begin age"),
            "age secret key",
        ),
    ];
    for (text, said) in damaged {
        let bad = bench.write("bad", &text);
        bench
            .unseal(Path::new(&bad))
            .args(["--passphrase-file", &right])
            .fails_with(7)
            .says(said);
    }
    // One that anybody guesses protects nothing.
    let short = bench.write("short", "hunter2");
    let refused = bench.sheet(&["--protect", "--new-passphrase-file", &short]);
    assert!(refused.fails_with(7).says("12 bytes").stdout.is_empty());
    bench
        .sheet(&["--protect"])
        .fails_with(2)
        .says("--new-passphrase-file");
}

#[test]
fn a_passphrase_is_asked_for_at_a_terminal_and_not_shown() {
    let bench = Bench::new();
    let (kit, protected) = (bench.kit.to_str().expect("UTF-8"), bench.at("protected"));
    let protect = [
        "recovery-kit",
        "--protect",
        "--out",
        &protected,
        "--recovery",
        kit,
    ];
    bench
        .talk(
            WIDE,
            &protect,
            &[("New passphrase", PASSPHRASE), ("same again", "another")],
        )
        .fails_with(2);
    assert!(!Path::new(&protected).exists());
    bench
        .talk(
            WIDE,
            &protect,
            &[("New passphrase", PASSPHRASE), ("same again", PASSPHRASE)],
        )
        .ok()
        .does_not_show(PASSPHRASE);
    let out = bench.at("out");
    let unseal = [&UNSEAL[..], &["--out", &out, "--recovery", &protected]].concat();
    bench
        .talk(
            WIDE,
            &unseal,
            &[
                ("Passphrase", "a slip of the finger"),
                ("Passphrase", PASSPHRASE),
            ],
        )
        .ok()
        .does_not_show(PASSPHRASE);
    assert_eq!(fs::read(&out).expect("unsealed"), SECRET);
    let wrong = ("Passphrase", "a slip of the finger");
    bench.talk(WIDE, &unseal, &[wrong; 3]).fails_with(7);
}

#[test]
fn a_kit_can_be_typed_from_paper() {
    let bench = Bench::new();
    let (id, identity) = (bench.id(), bench.identity());
    let fingerprint = bench.line("# vault key SHA-256: ");
    let digits = fingerprint.rsplit(' ').next().expect("digits");
    let grouped = |text: &str| {
        let letters: Vec<char> = text.chars().collect();
        let groups: Vec<String> = letters.chunks(6).map(String::from_iter).collect();
        groups.join(" ")
    };
    let (small, capitals) = (identity.to_lowercase(), digits.to_uppercase());
    let half = identity.len() / 2;
    let mistyped = identity.replacen(
        &identity[20..21],
        if &identity[20..21] == "Q" { "P" } else { "Q" },
        1,
    );
    let talks: [Talk<'_>; 5] = [
        // As it is printed.
        &[
            ("Vault id", &id),
            ("SHA-256", digits),
            ("Identity", &identity),
        ],
        // As a scanner types what the code holds.
        &[
            ("Vault id", &bench.line("# vault: ")),
            ("SHA-256", &fingerprint),
            ("Identity", &identity),
        ],
        // As people type: in groups, small where it is large, and the vault's id is the one here.
        &[
            ("Vault id", ""),
            ("SHA-256", &grouped(&capitals)),
            ("Identity", &grouped(&small)),
        ],
        // In two lines, one of them without the shift key.
        &[
            ("Vault id", ""),
            ("SHA-256", digits),
            ("Identity", &identity[..half]),
            ("rest", &small[half..]),
        ],
        // With a slip in each.
        &[
            ("Vault id", ""),
            ("SHA-256", &digits[1..]),
            ("SHA-256", digits),
            ("Identity", &mistyped),
            ("Identity", &identity),
        ],
    ];
    for (number, talk) in talks.iter().enumerate() {
        let out = bench.at(&format!("out{number}"));
        let unseal = [&UNSEAL[..], &["--out", &out, "--recovery", "-"]].concat();
        bench
            .talk(WIDE, &unseal, talk)
            .ok()
            .does_not_show(&identity)
            .does_not_show(&small);
        assert_eq!(fs::read(&out).expect("unsealed"), SECRET, "{number}");
    }
}

#[test]
fn a_protected_kit_can_be_typed_too() {
    let bench = Bench::new();
    let text = fs::read_to_string(bench.protect()).expect("there");
    let digits = bench.line("# vault key SHA-256: ");
    let block: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let mut talk = vec![
        ("Vault id", ""),
        ("SHA-256", &digits),
        ("Identity", block[0]),
    ];
    // The lines that follow have no question; each is waited for by the stars of the one before.
    talk.extend(block[1..].iter().map(|line| ("*", *line)));
    talk.push(("Passphrase", PASSPHRASE));
    let out = bench.at("out");
    let unseal = [&UNSEAL[..], &["--out", &out, "--recovery", "-"]].concat();
    bench.talk(WIDE, &unseal, &talk).ok();
    assert_eq!(fs::read(&out).expect("unsealed"), SECRET);
}

#[test]
fn a_stranger_reads_a_protected_kit_too() {
    let bench = Bench::new();
    let protected = bench.protect();
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("reader/strongroom_reader.py");
    let read = |passphrase: &str| {
        let python = Path::new("/usr/bin/python3");
        converse(
            |python| bench.vault.run(python),
            python,
            WIDE,
            &[("passphrase", passphrase)],
        )
        .arg(&reader)
        .arg("--recovery")
        .arg(&protected)
        .arg(bench.vault.dir())
        .arg("digests")
    };
    let digest = hex::encode(Sha256::digest(SECRET));
    let shown = read(PASSPHRASE).ok().text();
    assert!(shown.contains(&digest), "{shown}");
    let refused = read("a slip of the finger").fails_with(5).text();
    assert!(!refused.contains(&digest), "{refused}");
}

#[test]
fn what_is_typed_wrong_opens_nothing() {
    let bench = Bench::new();
    let other = TestVault::new();
    let strange = Kit::read(&other.recovery()).secret().to_owned();
    let digits = bench.line("# vault key SHA-256: ");
    let zeros = "0".repeat(64);
    let identity = bench.identity();
    let talks: [(Talk<'_>, i32, &str); 5] = [
        (
            &[
                ("Vault id", ""),
                ("SHA-256", "x"),
                ("SHA-256", "y"),
                ("SHA-256", "z"),
            ],
            2,
            "64 hexadecimal",
        ),
        (
            &[
                ("Vault id", ""),
                ("SHA-256", &digits),
                ("Identity", "AGE-"),
                ("rest", ""),
                ("Identity", ""),
                ("rest", ""),
                ("Identity", ""),
                ("rest", ""),
            ],
            7,
            "no identity",
        ),
        (
            &[
                ("Vault id", ""),
                ("SHA-256", &digits),
                ("Identity", &strange),
            ],
            7,
            "does not open",
        ),
        (
            &[
                ("Vault id", ""),
                ("SHA-256", &zeros),
                ("Identity", &identity),
            ],
            5,
            "not the one that the recovery kit names",
        ),
        (
            &[
                ("Vault id", UNKNOWN_ID),
                ("SHA-256", &digits),
                ("Identity", &identity),
            ],
            7,
            "it is of vault",
        ),
    ];
    let out = bench.at("out");
    let unseal = [&UNSEAL[..], &["--out", &out, "--recovery", "-"]].concat();
    for (talk, code, said) in talks {
        let shown = bench.talk(WIDE, &unseal, talk).fails_with(code).text();
        assert!(shown.contains(said), "{said}: {shown}");
        assert!(!Path::new(&out).exists());
    }
}

/// Questions, and what somebody types.
type Talk<'a> = &'a [(&'a str, &'a str)];

const UNKNOWN_ID: &str = "00000000-0000-4000-8000-000000000000";
const UNSEAL: [&str; 5] = ["unseal", "--token", "credentials", "--label", "offsite"];

/// A vault with one credential, and its kit.
struct Bench {
    vault: TestVault,
    kit: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let vault = TestVault::on(Swtpm::measured(), &[]);
        vault.seal("credentials", "offsite", SECRET);
        let kit = vault.recovery();
        Self { vault, kit }
    }

    fn at(&self, name: &str) -> String {
        self.vault.folder().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let file = self.at(name);
        fs::write(&file, text).expect("written");
        file
    }

    fn line(&self, prefix: &str) -> String {
        let kit = fs::read_to_string(&self.kit).expect("the kit");
        let line = kit.lines().find(|line| line.starts_with(prefix));
        line.expect("a kit has it").to_owned()
    }

    fn id(&self) -> String {
        self.line("# vault: ")["# vault: ".len()..].to_owned()
    }

    fn identity(&self) -> String {
        Kit::read(&self.kit).secret().to_owned()
    }

    fn run(&self, command: &str, kit: impl AsRef<Path>) -> Run {
        self.vault
            .strongroom(&[command, "--recovery"])
            .arg(kit.as_ref())
    }

    fn sheet(&self, options: &[&str]) -> Output {
        self.run("recovery-kit", &self.kit).args(options).finish()
    }

    /// A protected kit.
    fn protect(&self) -> PathBuf {
        let (out, passphrase) = (self.at("protected"), self.write("new", PASSPHRASE));
        self.sheet(&[
            "--protect",
            "--new-passphrase-file",
            &passphrase,
            "--out",
            &out,
        ])
        .ok();
        out.into()
    }

    fn unseal(&self, kit: &Path) -> Run {
        self.vault.strongroom(&UNSEAL).arg("--recovery").arg(kit)
    }

    #[track_caller]
    fn opens_by(&self, kit: &[u8]) {
        let opened = self.unseal(Path::new("-")).stdin(kit).ok();
        assert_eq!(opened.stdout, SECRET);
    }

    fn talk(&self, columns: usize, args: &[&str], talk: &[(&str, &str)]) -> Output {
        let program = self.vault.programs().strongroom();
        converse(|python| self.vault.run(python), &program, columns, talk)
            .args(args)
            .finish()
    }
}

/// What a reader of QR codes sees on a sheet, black on white.
fn scan(sheet: &str) -> String {
    const SCALE: usize = 4;
    let rows: Vec<Vec<char>> = sheet
        .lines()
        .map(|line| line.trim_end_matches('\r'))
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.chars().count() > 40 && line.chars().all(|c| " ▀▄█".contains(c)))
        .map(|line| line.chars().collect())
        .collect();
    let (width, height) = (rows[0].len(), rows.len() * 2);
    let dark = |x: usize, y: usize| match rows[y / 2][x] {
        '█' => true,
        '▀' => y % 2 == 0,
        '▄' => y % 2 == 1,
        _ => false,
    };
    let mut image =
        rqrr::PreparedImage::prepare_from_greyscale(width * SCALE, height * SCALE, |x, y| {
            if dark(x / SCALE, y / SCALE) { 0 } else { 255 }
        });
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1, "{sheet}");
    grids[0].decode().expect("it is whole").1
}
