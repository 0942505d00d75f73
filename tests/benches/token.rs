//! What a full token costs, and random numbers, beside SoftHSM2 and tpm2-pkcs11 in one run.
//!
//! `C_FindObjects` by label among 10,000 objects, in a fresh process each time: what it takes beyond
//! reading the files' bytes, and how many TPM commands. `C_GenerateRandom`: how many calls a second. Each
//! round takes one contestant after the other, so that a machine whose speed drifts drifts for all.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use strongroom::object::ObjectId;
use strongroom_tests::host::Done;
use strongroom_tests::token::in_library_folder;
use strongroom_tests::{Host, Run, TestVault, Token, Tpm2Pkcs11, tpm2_pkcs11};
use tempfile::TempDir;

const OBJECTS: u32 = 10_000;
const ROUNDS: usize = 9;

/// How many bytes are asked for at once, and for how long.
const LENGTHS: [u32; 2] = [32, 1024];
const WHILE: Duration = Duration::from_secs(1);

fn main() {
    // Under `cargo test --benches` there is nothing to measure.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let wanted = |part: &str| {
        let mut parts = std::env::args().skip(1).filter(|it| !it.starts_with('-'));
        let first = parts.next();
        first.is_none_or(|first| first == part) || parts.any(|it| it == part)
    };
    let softhsm = SoftHsm::new();
    if wanted("find") {
        find(&softhsm);
    }
    if wanted("random") {
        random(&softhsm);
    }
}

fn find(softhsm: &SoftHsm) {
    println!(
        "C_FindObjects by label among {OBJECTS} objects, in a fresh process ({ROUNDS} rounds)\n"
    );
    let token = Token::of(full_vault());
    let vault = token.vault().expect("it is ours");
    let mut host = softhsm.host();
    host.prepare(Some(SoftHsm::PIN)).expect("SoftHSM2");
    host.fill(OBJECTS).expect("objects");
    host.finish().expect("SoftHSM2 ends");

    let (mut ours, mut theirs, mut reading) = (Vec::new(), Vec::new(), Vec::new());
    let mut commands = 0;
    for _ in 0..ROUNDS {
        reading.push(read_all(&vault.dir().join("objects/keys")));
        vault.recorder().take();
        let host = Host::start(token.module(), token.environment().to_vec());
        ours.push(found(host, None));
        commands = commands.max(vault.recorder().take().len());
        theirs.push(found(softhsm.host(), Some(SoftHsm::PIN)));
    }
    let reading = median(reading);
    let of =
        |times: &[[Duration; 2]], step: usize| median(times.iter().map(|it| it[step]).collect());
    println!("reading the files' bytes       {reading:>10.1?}");
    for (name, times) in [("strongroom", &ours), ("softhsm2", &theirs)] {
        println!(
            "{name:<12} until a session {:>10.1?}, the search {:>10.1?}",
            of(times, 0),
            of(times, 1)
        );
    }
    let beyond = of(&ours, 1).saturating_sub(reading);
    println!("strongroom, beyond reading     {beyond:>10.1?}, and at most {commands} TPM commands");
}

fn random(softhsm: &SoftHsm) {
    println!("\nC_GenerateRandom, calls in a second ({ROUNDS} rounds)\n");
    let (token, peer) = (Token::of(TestVault::new()), Tpm2Pkcs11::new());
    for len in LENGTHS {
        let (mut ours, mut soft, mut tpm2) = (Vec::new(), Vec::new(), Vec::new());
        let calls = |mut host: Host, pin: Option<&str>| {
            host.prepare(pin).expect("a host");
            let Done { count, took } = host.random(len, WHILE).expect("random numbers");
            f64::from(count) / took.as_secs_f64()
        };
        for _ in 0..ROUNDS {
            let host = Host::start(token.module(), token.environment().to_vec());
            ours.push(calls(host, None));
            soft.push(calls(softhsm.host(), Some(SoftHsm::PIN)));
            let mut environment = peer.environment().to_vec();
            environment.push(("TPM2_PKCS11_TCTI", peer.tpm().tcti().into()));
            let host = Host::start(&peer.module(), environment);
            tpm2.push(calls(host, Some(tpm2_pkcs11::PIN)));
            peer.tpm().flush();
        }
        for (name, mut rates) in [
            ("strongroom", ours),
            ("softhsm2", soft),
            ("tpm2-pkcs11", tpm2),
        ] {
            rates.sort_by(f64::total_cmp);
            println!(
                "{len:>5} bytes  {name:<12} {:>10.0}",
                rates[rates.len() / 2]
            );
        }
    }
}

/// Until there is a session, and then until the object is found.
fn found(mut host: Host, pin: Option<&str>) -> [Duration; 2] {
    let start = Instant::now();
    host.prepare(pin).expect("a session");
    let ready = start.elapsed();
    let found = host.find("object-7777").expect("a search");
    assert_eq!(found.count, 1, "it is there once");
    host.finish().expect("it ends");
    [ready, found.took]
}

fn read_all(folder: &Path) -> Duration {
    let start = Instant::now();
    let mut bytes = 0;
    for entry in fs::read_dir(folder).expect("the vault's own folder") {
        let entry = entry.expect("the vault's own folder");
        bytes += fs::read(entry.path()).expect("an object's file").len();
    }
    assert!(bytes > 0);
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// A vault whose token `keys` has as many objects. The TPM would take minutes for them, and a list
/// authenticates none: they are copies of one that was sealed, each with an id and a label of its own.
fn full_vault() -> TestVault {
    let vault = TestVault::new();
    let id = vault.seal("keys", "object", b"for your eyes only");
    let folder = vault.dir().join("objects/keys");
    let first = folder.join(format!("{id}.json"));
    let text = fs::read(&first).expect("an object's file");
    let mut object: Value = serde_json::from_slice(&text).expect("it is JSON");
    for number in 0..OBJECTS {
        let id = ObjectId::random().to_string();
        object["metadata"]["id"] = id.clone().into();
        object["metadata"]["label"] = format!("object-{number}").into();
        let text = serde_json::to_vec_pretty(&object).expect("it is JSON");
        fs::write(folder.join(format!("{id}.json")), text).expect("the folder can be written");
    }
    fs::remove_file(first).expect("the folder can be written");
    vault
}

/// A token of SoftHSM2's with the label `keys`.
struct SoftHsm {
    folder: TempDir,
}

impl SoftHsm {
    const PIN: &'static str = "1234";

    fn new() -> Self {
        let token = Self {
            folder: tempfile::tempdir().expect("create a folder for the token"),
        };
        let tokens = token.folder.path().join("tokens");
        fs::create_dir(&tokens).expect("the folder can be written");
        let config = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        );
        fs::write(token.config(), config).expect("the folder can be written");
        Run::new("softhsm2-util")
            .env("SOFTHSM2_CONF", token.config())
            .args(["--init-token", "--free", "--label", "keys"])
            .args(["--so-pin", "5678", "--pin", Self::PIN])
            .ok();
        token
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("softhsm2.conf")
    }

    fn host(&self) -> Host {
        let module = if Path::new("/usr/lib/softhsm/libsofthsm2.so").exists() {
            PathBuf::from("/usr/lib/softhsm/libsofthsm2.so")
        } else {
            in_library_folder("softhsm/libsofthsm2.so")
        };
        Host::start(&module, [("SOFTHSM2_CONF", self.config().into())])
    }
}
