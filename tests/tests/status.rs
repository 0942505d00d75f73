//! `strongroom status`: what an admin wants to know, for people, as JSON, as metrics, and as a web page
//! that a real browser shows.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use strongroom_tests::nas::{Nas, content};
use strongroom_tests::swtpm::USUAL_BOOT;
use strongroom_tests::truenas_fixture::{Fixture, Generation};
use strongroom_tests::{Run, TestVault};

#[test]
fn what_is_in_plaintext_is_counted_class_by_class() {
    let nas = Nas::new(Generation::V26, 0);
    let before = plaintext(&nas);
    let datasets = nas.fixture.dataset_keys.len();
    assert_eq!(class(&before, "datasets")["in-plaintext"], datasets);
    assert_eq!(class(&before, "datasets")["in-vault"], 0);
    assert_eq!(class(&before, "datasets")["watched"], true);
    assert_eq!(class(&before, "tasks")["watched"], false);
    nas.migrate().ok();
    let after = plaintext(&nas);
    for name in ["datasets", "credentials"] {
        assert_eq!(class(&after, name)["in-plaintext"], 0);
        assert_eq!(
            class(&after, name)["in-vault"],
            class(&before, name)["in-plaintext"]
        );
    }
    assert_eq!(
        class(&after, "certificates"),
        class(&before, "certificates")
    );
    assert_eq!(after["stays"], before["stays"]);

    // One that the middleware has written since is told of, by its name.
    let (row, dataset, _) = nas.key_of("tank/vm/zvol0");
    let key = "1e".repeat(32);
    nas.write_key(row, &key);
    let status = status(&nas).arg("--json").ok().json();
    assert_eq!(
        class(&status["plaintext"], "datasets")["names"],
        json!([dataset])
    );
    assert_eq!(status["standing"], "attention");
    let text = words(&nas);
    assert!(text.contains("in plaintext: 1 datasets"), "{text}");
    assert!(!status.to_string().contains(&key) && !text.contains(&key));
}

/// It looks, and changes nothing.
#[test]
fn nothing_is_changed_by_looking() {
    for wal in [false, true] {
        let nas = Nas::with(|dir| {
            let fixture = Fixture::build(dir, Generation::V25_10, 3, 0);
            if wal { fixture.in_wal_mode() } else { fixture }
        });
        nas.migrate().ok();
        let all = || {
            let mut files = content(nas.vault.folder());
            // Files to lock, and those that SQLite leaves beside a database that it has read, empty.
            files.retain(|file, bytes| {
                let name = file.to_string_lossy();
                !name.ends_with("-shm") && !bytes.is_empty()
            });
            files
        };
        let before = all();
        status(&nas).ok();
        assert!(all() == before);
    }
}

#[test]
fn the_age_of_the_recovery_test_is_told() {
    let vault = TestVault::new();
    let kit = || vault.strongroom(&["status", "--json"]).ok().json();
    assert_eq!(kit()["recovery-test"], Value::Null);
    assert_eq!(kit()["standing"], "attention");
    vault.seal("credentials", "offsite", b"secret");
    vault
        .strongroom(&["recovery-test", "--recovery"])
        .arg(vault.recovery())
        .ok();
    let status = kit();
    assert_eq!(status["recovery-test"]["opened"], 1);
    assert_eq!(status["recovery-test"]["failed"], 0);
    assert_eq!(status["standing"], "good", "{status:#}");
    // A year later.
    let note = vault.dir().join(".recovery-test.json");
    let mut old: Value = serde_json::from_slice(&fs::read(&note).expect("noted")).expect("JSON");
    old["at"] = json!(old["at"].as_u64().expect("seconds") - 367 * 86_400);
    fs::write(&note, old.to_string()).expect("the test's own vault");
    assert_eq!(kit()["standing"], "attention");
    let text = vault.strongroom(&["status"]).ok().text();
    assert!(text.contains("367 days ago"), "{text}");
    // A note that is spoilt hides nothing.
    fs::write(&note, "{").expect("the test's own vault");
    assert_eq!(kit()["recovery-test"], Value::Null);
}

#[test]
fn metrics_are_as_prometheus_reads_them() {
    let nas = Nas::new(Generation::V26, 0);
    nas.migrate().ok();
    let metrics = |run: Run| parse(&run.arg("--prometheus").finish().text());
    let all = metrics(status(&nas));
    assert_eq!(all["strongroom_boot_allowed"], [(String::new(), 1.0)]);
    assert_eq!(all["strongroom_tpm_up"], [(String::new(), 1.0)]);
    assert_eq!(all["strongroom_standing"], [(String::new(), 1.0)]);
    let datasets = nas.fixture.dataset_keys.len();
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let expected = (
        r#"token="datasets",kind="dataset-key""#.to_owned(),
        datasets as f64,
    );
    assert!(all["strongroom_objects"].contains(&expected), "{all:?}");
    assert!(
        all["strongroom_plaintext_values"].contains(&(r#"class="datasets""#.to_owned(), 0.0)),
        "{all:?}"
    );
    assert!(!all.contains_key("strongroom_last_boot_success"));

    nas.vault.tpm().extend(7, b"another boot loader");
    let refused = metrics(status(&nas));
    assert_eq!(refused["strongroom_boot_allowed"], [(String::new(), 0.0)]);
    assert_eq!(refused["strongroom_standing"], [(String::new(), 2.0)]);
    let no_tpm = metrics(status(&nas).env("STRONGROOM_TCTI", "swtpm:path=/nowhere/tpm"));
    assert_eq!(no_tpm["strongroom_tpm_up"], [(String::new(), 0.0)]);
}

/// Whoever names a token, a dataset or a folder writes nothing into the page but words.
#[test]
fn a_page_holds_words_alone() {
    let vault = TestVault::new();
    let evil = "<script>alert(1)</script>\"'&";
    vault.seal("credentials", evil, b"secret");
    let dir = vault.folder().join("<img src=x onerror=alert(1)>");
    std::os::unix::fs::symlink(vault.dir(), &dir).expect("a link");
    let page = vault.folder().join("status.html");
    vault
        .strongroom(&["status", "--dir"])
        .arg(&dir)
        .arg("--html")
        .arg(&page)
        .ok();
    let text = fs::read_to_string(page).expect("written");
    assert!(!text.contains("<script") && !text.contains("<img"));
    assert!(text.contains("&lt;img src=x"));
    for outside in [
        "http:", "https:", "url(", "@import", "href=", "<link", "<iframe",
    ] {
        assert!(!text.contains(outside), "{outside}");
    }
}

/// Debian's chromium, at the width of a desk and of a telephone.
#[test]
fn a_browser_shows_the_page() {
    let Some(browser) = Browser::find() else {
        println!("skipped: there is no chromium");
        return;
    };
    let mut nas = Nas::new(Generation::V26, 0);
    nas.migrate().ok();
    nas.vault
        .strongroom(&["recovery-test", "--recovery"])
        .arg(nas.vault.recovery())
        .ok();
    let good = browser.show(&nas, "good", |run| run.ok());
    for word in [
        "All is well",
        "allowed",
        "Datasets",
        "opens everything",
        "In the vault",
    ] {
        assert!(good.contains(word), "{word}: {good}");
    }
    let (row, dataset, _) = nas.key_of("tank/vm/zvol0");
    nas.write_key(row, &"1e".repeat(32));
    nas.vault
        .reboot(&[USUAL_BOOT[0], USUAL_BOOT[1], (11, "another command line")]);
    nas.vault
        .strongroom(&["hand-over", "--wait", "0", "--socket"])
        .arg(nas.vault.folder().join("nowhere.sock"))
        .fails_with(7);
    let bad = browser.show(&nas, "trouble", |run| run.fails_with(3));
    for word in [
        "Trouble",
        "refused",
        "PCR 11",
        "still in plaintext",
        &dataset,
    ] {
        assert!(bad.contains(word), "{word}: {bad}");
    }
}

struct Browser(PathBuf);

impl Browser {
    fn find() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut programs = std::env::split_paths(&path).map(|folder| folder.join("chromium"));
        programs.find(|program| program.is_file()).map(Self)
    }

    /// The text of the page as the browser has it. `STRONGROOM_TEST_SCREENSHOTS` names a folder that
    /// pictures of it are kept in.
    fn show(
        &self,
        nas: &Nas,
        name: &str,
        expect: impl FnOnce(Run) -> strongroom_tests::Output,
    ) -> String {
        let page = nas.vault.folder().join(format!("{name}.html"));
        expect(status(nas).arg("--html").arg(&page));
        let url = format!("file://{}", page.display());
        let kept = std::env::var_os("STRONGROOM_TEST_SCREENSHOTS").map(PathBuf::from);
        for (screen, width, height, dark) in [
            ("desktop", 1280, 1100, false),
            ("desktop-dark", 1280, 1100, true),
            ("phone", 500, 1900, false),
        ] {
            let folder = kept.clone().unwrap_or(nas.vault.folder().to_owned());
            let picture = folder.join(format!("{name}-{screen}.png"));
            let mut run = self
                .run(nas, &format!("{name}-{screen}"))
                .arg(format!("--window-size={width},{height}"))
                .arg(format!("--screenshot={}", picture.display()));
            if dark {
                run = run
                    .arg("--force-dark-mode")
                    .arg("--blink-settings=preferredColorScheme=0");
            }
            // No window of chromium is as narrow as a telephone, so there it is in a frame that is.
            let shown = if screen == "phone" {
                let frame = nas.vault.folder().join(format!("{name}-phone.html"));
                let text = format!(
                    "<body style='margin:0'><iframe src='{url}' \
                     style='border:0;width:390px;height:{height}px'></iframe>"
                );
                fs::write(&frame, text).expect("ours");
                format!("file://{}", frame.display())
            } else {
                url.clone()
            };
            run.arg(&shown).ok();
            let bytes = fs::read(&picture).expect("a picture");
            assert!(bytes.starts_with(b"\x89PNG"));
            // The width that was asked for (PNG, section 11.2.2).
            let wide = u32::from_be_bytes(bytes[16..20].try_into().expect("four bytes"));
            assert_eq!(wide, width);
        }
        self.run(nas, &format!("{name}-dom"))
            .arg("--dump-dom")
            .arg(&url)
            .ok()
            .text()
    }

    fn run(&self, nas: &Nas, profile: &str) -> Run {
        let profile = nas.vault.folder().join(format!("chromium-{profile}"));
        Run::new(&self.0)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--hide-scrollbars",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .timeout(Duration::from_secs(180))
    }
}

fn status(nas: &Nas) -> Run {
    nas.on_the_database(&["status"])
}

fn words(nas: &Nas) -> String {
    status(nas).ok().text()
}

fn plaintext(nas: &Nas) -> Value {
    status(nas).arg("--json").ok().json()["plaintext"].clone()
}

fn class(plaintext: &Value, name: &str) -> Value {
    let classes = plaintext["classes"].as_array().expect("a list");
    let found = classes.iter().find(|class| class["class"] == name);
    found
        .unwrap_or_else(|| panic!("{name}: {plaintext}"))
        .clone()
}

/// A strict reader of Prometheus's text format, as far as gauges go: for each metric one HELP, one TYPE,
/// then its samples together, each with other labels.
fn parse(text: &str) -> BTreeMap<String, Vec<(String, f64)>> {
    assert!(text.ends_with('\n'), "the last line must end, too");
    let mut metrics: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let help = line
            .strip_prefix("# HELP ")
            .unwrap_or_else(|| panic!("no HELP: {line}"));
        let (name, words) = help.split_once(' ').expect("a name and words");
        assert!(!words.is_empty() && is_name(name), "{line}");
        assert_eq!(lines.next(), Some(&*format!("# TYPE {name} gauge")));
        let mut samples: Vec<(String, f64)> = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let labels = series
                .strip_prefix(name)
                .unwrap_or_else(|| panic!("{line}: not {name}"));
            let labels = match labels {
                "" => "",
                braced => braced
                    .strip_prefix('{')
                    .and_then(|rest| rest.strip_suffix('}'))
                    .unwrap_or_else(|| panic!("{line}")),
            };
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (key, quoted) = label.split_once('=').expect("a label");
                assert!(is_name(key), "{line}");
                let value = quoted
                    .strip_prefix('"')
                    .and_then(|rest| rest.strip_suffix('"'));
                assert!(
                    value.is_some_and(|value| !value.contains(['"', '\\'])),
                    "{line}"
                );
            }
            assert!(
                samples.iter().all(|(there, _)| there != labels),
                "twice: {line}"
            );
            samples.push((labels.to_owned(), value.parse().expect("a number")));
        }
        assert!(
            metrics.insert(name.to_owned(), samples).is_none(),
            "twice: {name}"
        );
    }
    metrics
}

fn is_name(text: &str) -> bool {
    let mut letters = text.chars();
    letters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}
