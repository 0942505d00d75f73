//! Object files that somebody has spoilt, at random: an object opens to what was sealed, or it does not open.
//! Nothing panics, no file costs another object, and the module still finds the others.
//!
//! `STRONGROOM_FUZZ_SECONDS` says how long it goes on, `STRONGROOM_TEST_SEED` where it begins.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use strongroom::object::ObjectId;
use strongroom::recovery::RecoveryKit;
use strongroom::vault::ByRecovery;
use strongroom::{Secret, Vault};
use strongroom_tests::{KeyType, TestVault, Token, openssl};

#[test]
fn some_spoilt_files_cost_their_objects_alone() {
    let spoiler = Spoiler::new();
    let mut round = 0;
    spoiler.spoil_until(&mut || {
        round += 1;
        round <= 300
    });
}

/// A minute in `make test-all`, an hour before a release.
#[test]
#[ignore = "takes as long as STRONGROOM_FUZZ_SECONDS says, a minute unless it does"]
fn spoilt_files_cost_their_objects_alone() {
    let seconds = std::env::var("STRONGROOM_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(60);
    let end = Instant::now() + Duration::from_secs(seconds);
    let spoilt = Spoiler::new().spoil_until(&mut || Instant::now() < end);
    println!("{spoilt} files");
}

#[test]
fn the_module_finds_the_objects_whose_files_are_whole() {
    let spoiler = Spoiler::new();
    let vault = spoiler.token.vault().expect("it is ours");
    let all = found_by_module(vault);
    let mut random = Random(seed());
    for _ in 0..60 {
        let index = random.below(spoiler.files.len());
        let (file, good) = &spoiler.files[index];
        let spoilt = random.spoil(good, &spoiler.files);
        fs::write(file, &spoilt).expect("the file can be written");
        // A pair is two objects, and a spoilt file may still be a whole one.
        let found = found_by_module(vault);
        assert!((all - 2..=all + 1).contains(&found), "{found} of {all}");
        fs::write(file, good).expect("the file can be written");
    }
    assert_eq!(found_by_module(vault), all);
}

/// A vault with an object of each kind, and what opens it without its TPM.
struct Spoiler {
    token: Token,
    files: Vec<(PathBuf, Vec<u8>)>,
    opener: ByRecovery,
    /// What each object is, if the kit opens it.
    content: BTreeMap<ObjectId, Option<Secret>>,
}

impl Spoiler {
    fn new() -> Self {
        let token = Token::of(TestVault::new());
        let vault = token.vault().expect("it is ours");
        vault.seal("credentials", "short", b"a password");
        vault.seal("credentials", "long", &[7; 3000]);
        vault
            .strongroom(&["seal", "--token", "datasets", "--label", "tank"])
            .args(["--kind", "dataset-key", "--keyformat", "raw"])
            .stdin(vec![9; 32])
            .ok();
        token.generate(KeyType::P256, "made");
        let private = token.file("outside.pem");
        openssl::generate(KeyType::P384, &private);
        let imported = ["--type", "privkey", "--label", "imported", "--write-object"];
        token.pkcs11_tool(&imported).arg(&private).ok();
        token
            .pkcs11_tool(&["--keygen", "--key-type", "AES:32", "--label", "aes"])
            .ok();

        let closed = Vault::open(&vault.dir()).expect("a vault");
        let kit = RecoveryKit::read(&vault.recovery()).expect("its kit");
        let opener = closed.open_by_recovery(kit).expect("its own kit");
        let listed = closed.list().expect("it can be listed");
        assert!(listed.damaged.is_empty() && listed.objects.len() == 6);
        let content = listed
            .objects
            .iter()
            .map(|object| (object.id, opener.unseal(object.id).ok()))
            .collect();
        let files = listed
            .objects
            .iter()
            .map(|object| {
                let name = format!("objects/{}/{}.json", object.token, object.id);
                let file = vault.dir().join(name);
                let bytes = fs::read(&file).expect("the file can be read");
                (file, bytes)
            })
            .collect();
        Self {
            token,
            files,
            opener,
            content,
        }
    }

    fn spoil_until(&self, go_on: &mut dyn FnMut() -> bool) -> usize {
        let first = seed();
        let mut done = 0;
        while go_on() {
            let seed = first.wrapping_add(done as u64);
            let outcome = catch_unwind(AssertUnwindSafe(|| self.spoil_one(Random(seed))));
            assert!(outcome.is_ok(), "STRONGROOM_TEST_SEED={seed}");
            done += 1;
        }
        done
    }

    fn spoil_one(&self, mut random: Random) {
        let (file, good) = &self.files[random.below(self.files.len())];
        let spoilt = random.spoil(good, &self.files);
        fs::write(file, &spoilt).expect("the file can be written");
        let opened = Vault::open(&self.token.vault().expect("it is ours").dir()).expect("a vault");
        let listed = opened.list().expect("it can be listed");
        let (whole, damaged) = (listed.objects.len(), listed.damaged.len());
        assert_eq!(
            whole + damaged,
            self.files.len(),
            "every file is accounted for"
        );
        assert!(damaged <= 1, "one file was spoilt");
        for object in &listed.objects {
            let _ = opened.payload_len(object.id);
            let content = self.content.get(&object.id).expect("none was added");
            if let Ok(opens_to) = self.opener.unseal(object) {
                let right = content.as_ref().map(Secret::expose);
                assert_eq!(Some(opens_to.expose()), right, "{}", object.label);
            }
        }
        fs::write(file, good).expect("the file can be written");
    }
}

fn found_by_module(vault: &TestVault) -> usize {
    let listed = vault
        .run("pkcs11-tool")
        .arg("--module")
        .arg(vault.programs().pkcs11_module())
        .args(["--token-label", "keys", "-O"])
        .ok();
    listed.text().matches(" Object").count()
}

fn seed() -> u64 {
    let given = std::env::var("STRONGROOM_TEST_SEED").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("the clock is right");
        now.as_secs() << 30 | u64::from(now.subsec_nanos())
    })
}

/// SplitMix64, which is enough to spoil files with.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it is less than a usize")
    }

    fn spoil(&mut self, good: &[u8], others: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        for _ in 0..=self.below(3) {
            bytes = match self.below(3) {
                0 => self.spoil_bytes(bytes),
                _ => self.spoil_json(bytes, others),
            };
        }
        bytes
    }

    fn spoil_bytes(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        if bytes.is_empty() {
            return vec![b'{'];
        }
        let at = self.below(bytes.len());
        let len = self.below(bytes.len() - at).min(40);
        match self.below(5) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..at + len)),
            3 => {
                let twice = bytes[at..at + len].to_vec();
                bytes.splice(at..at, twice);
            }
            _ => {
                let noise: Vec<u8> = (0..len).map(|_| self.next().to_be_bytes()[0]).collect();
                bytes.splice(at..at, noise);
            }
        }
        bytes
    }

    fn spoil_json(&mut self, bytes: Vec<u8>, others: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
        let Ok(mut value) = serde_json::from_slice::<Value>(&bytes) else {
            return self.spoil_bytes(bytes);
        };
        let node = self.node(&mut value);
        let other = &others[self.below(others.len())].1;
        let mut other: Value = serde_json::from_slice(other).expect("it is JSON");
        *node = match self.below(9) {
            0 => Value::Null,
            1 => json!(self.next()),
            2 => json!(-1),
            3 => json!(""),
            4 => json!("A".repeat(self.below(5000))),
            5 => json!([]),
            6 => {
                // Deeper than recursion should go.
                let deep = "[".repeat(self.below(3000)) + "1";
                return serde_json::to_string(&value)
                    .expect("it is JSON")
                    .replacen('1', &deep, 1)
                    .into_bytes();
            }
            7 => self.node(&mut other).clone(),
            _ => match node.take() {
                Value::Object(mut members) => {
                    let name = members
                        .keys()
                        .nth(self.below(members.len().max(1)))
                        .cloned();
                    if let Some(taken) = name.and_then(|name| members.remove(&name)) {
                        members.insert("another".to_owned(), taken);
                    }
                    Value::Object(members)
                }
                Value::Array(mut items) => {
                    items.extend(items.clone());
                    Value::Array(items)
                }
                Value::String(text) => json!(text.chars().rev().collect::<String>()),
                other => json!([other]),
            },
        };
        serde_json::to_vec(&value).expect("it is JSON")
    }

    /// A node of a tree, each depth as likely.
    fn node<'a>(&mut self, value: &'a mut Value) -> &'a mut Value {
        let count = match value {
            Value::Object(members) => members.len(),
            Value::Array(items) => items.len(),
            _ => 0,
        };
        if count == 0 || self.below(4) == 0 {
            return value;
        }
        let index = self.below(count);
        let child = match value {
            Value::Object(members) => members.values_mut().nth(index),
            Value::Array(items) => items.get_mut(index),
            _ => None,
        };
        self.node(child.expect("there are as many"))
    }
}
