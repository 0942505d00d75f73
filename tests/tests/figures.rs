//! Figures that are promised, counted in TPM commands: a discrete TPM takes 10 to 100 ms for each.

use std::iter;

use strongroom::object::{Kind, NewObject, ObjectId, TokenName};
use strongroom::{Secret, Tcti, Vault};
use strongroom_tests::recorder::Command;
use strongroom_tests::{Host, KeyType, Swtpm, TestVault, Token};

/// What one object of a batch costs, in this order, and nothing else.
const PER_OBJECT: [&str; 5] = [
    "PolicyPCR",
    "PolicyAuthorizeNV",
    "Load",
    "Unseal",
    "FlushContext",
];

/// The most commands of a process beside those of its objects.
const ONCE_PER_PROCESS: usize = 16;

/// The most commands of a rebind.
const REBIND: usize = 24;

/// Signatures in a row.
const SIGNATURES: u32 = 8;

#[test]
fn an_object_of_a_batch_costs_five_commands() {
    let vault = TestVault::new();
    let ids = seal_some(&vault, 4);
    vault.recorder().take();
    unseal_in_a_batch(&vault, &ids);
    let commands = names(&vault.recorder().take());
    let expected: Vec<_> = iter::repeat_n(PER_OBJECT, ids.len()).flatten().collect();
    let start = position(&commands, &expected);
    let others = commands.len() - expected.len();
    assert!(others <= ONCE_PER_PROCESS, "{others}: {commands:?}");
    // The session is flushed at the end, and nothing is left open; the storage key stays in the TPM.
    assert_eq!(commands[start + expected.len()..], ["FlushContext"]);
    assert!(vault.tpm().transient_handles().is_empty());
    assert!(vault.tpm().loaded_sessions().is_empty());
}

#[test]
fn several_allowed_boots_add_a_policy_or_to_each_object() {
    let vault = TestVault::new();
    let ids = seal_some(&vault, 3);
    let other = format!("11={}", "ab".repeat(32));
    vault.strongroom(&["rebind", "--add", &other, "--yes"]).ok();
    vault.recorder().take();
    unseal_in_a_batch(&vault, &ids);
    let commands = names(&vault.recorder().take());
    let mut per_object = PER_OBJECT.to_vec();
    per_object.insert(1, "PolicyOR");
    let expected: Vec<_> = iter::repeat_n(per_object, ids.len()).flatten().collect();
    position(&commands, &expected);
}

#[test]
fn a_signature_costs_one_command_once_the_key_is_loaded() {
    let token = Token::new();
    let recorder = token.vault().expect("it is ours").recorder();
    for (key, label, command) in [
        (KeyType::Rsa2048, "rsa", "RSA_Decrypt"),
        (KeyType::P256, "p256", "Sign"),
    ] {
        token.generate(key, label);
        let mut host = Host::start(token.module(), token.environment().iter().cloned());
        host.prepare(token.pin()).expect("it is ready");
        recorder.take();
        host.sign(label, SIGNATURES).expect("it signs");
        let commands = names(&recorder.take());
        // As many as there are signatures; and, since on a slow machine the key may be due to be
        // loaded again between any two of them, three without anything between.
        let made = commands.iter().filter(|name| **name == command).count();
        assert_eq!(made, SIGNATURES as usize, "{commands:?}");
        position(&commands, &[command; 3]);
        host.finish().expect("it finishes");
        token.is_left_clean();
    }
}

#[test]
fn what_is_listed_without_login_costs_no_command() {
    let token = Token::new();
    token.generate(KeyType::Rsa2048, "rsa");
    token.generate(KeyType::P256, "p256");
    let recorder = token.vault().expect("it is ours").recorder();
    recorder.take();
    let mut host = Host::start(token.module(), token.environment().iter().cloned());
    host.initialize().expect("it loads");
    host.open().expect("it opens a session");
    let listed = host.list().expect("it lists");
    host.finish().expect("it finishes");
    assert!(listed.count >= 2, "{listed:?}");
    assert_eq!(names(&recorder.take()), [""; 0]);
}

#[test]
fn a_rebind_costs_the_same_whatever_the_number_of_objects() {
    let (few, many) = (TestVault::new(), TestVault::new());
    seal_some(&few, 1);
    seal_some(&many, 40);
    compare_rebinds(&few, &many);
}

#[test]
#[ignore = "seals 1,000 objects"]
fn a_rebind_of_a_thousand_objects_costs_what_one_of_one_does() {
    let (few, many) = (TestVault::new(), TestVault::new());
    seal_some(&few, 1);
    seal_some(&many, 1000);
    compare_rebinds(&few, &many);
}

#[test]
fn on_a_new_tpm_an_object_is_recovered_with_eight_commands() {
    compare_recoveries(40);
}

#[test]
#[ignore = "seals 1,000 objects"]
fn on_a_new_tpm_a_thousand_objects_are_recovered_with_eight_commands_each() {
    compare_recoveries(1000);
}

/// Create with its policy, which are three, and the five that open what was made.
fn compare_recoveries(many: usize) {
    let commands = |objects: usize| {
        let mut vault = TestVault::new();
        let ids = seal_some(&vault, objects);
        vault.replace_tpm(Swtpm::measured());
        vault.recorder().take();
        let recover = vault.strongroom(&["recover", "--yes", "--recovery"]);
        recover.arg(vault.recovery()).ok();
        let commands = vault.recorder().take();
        unseal_in_a_batch(&vault, &ids);
        names(&commands)
    };
    let (few, many_commands) = (commands(1), commands(many));
    let created = |names: &[&str]| names.iter().filter(|name| **name == "Create").count();
    println!("{} for one, {} for {many}", few.len(), many_commands.len());
    assert_eq!(created(&many_commands) - created(&few), many - 1);
    assert!(
        many_commands.len() - few.len() <= 8 * (many - 1),
        "{} for one, {} for {many}",
        few.len(),
        many_commands.len()
    );
}

/// From the allowed boot by itself, with one more boot, with the recovery kit; each with one NV
/// write.
fn compare_rebinds(few: &TestVault, many: &TestVault) {
    let other = format!("11={}", "cd".repeat(32));
    let add = ["rebind", "--add", &other, "--yes"];
    let drop = ["rebind", "--yes"];
    for arguments in [&add[..], &drop[..]] {
        assert_eq!(
            rebind(few, arguments, false),
            rebind(many, arguments, false)
        );
    }
    for vault in [few, many] {
        vault.tpm().extend(11, b"another kernel");
    }
    assert_eq!(rebind(few, &drop, true), rebind(many, &drop, true));
    for vault in [few, many] {
        let listed = vault.strongroom(&["list", "--json"]).ok().json();
        let last = listed["objects"][0]["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        vault.unseal_id(&last);
    }
}

/// Runs a rebind and answers the names of its commands.
fn rebind(vault: &TestVault, arguments: &[&str], by_recovery: bool) -> Vec<&'static str> {
    vault.recorder().take();
    let mut run = vault.strongroom(arguments);
    if by_recovery {
        run = run.arg("--recovery").arg(vault.recovery());
    }
    run.ok();
    let commands = names(&vault.recorder().take());
    let writes = commands.iter().filter(|name| **name == "NV_Write").count();
    assert_eq!(writes, 1, "{commands:?}");
    assert!(commands.len() <= REBIND, "{}: {commands:?}", commands.len());
    commands
}

fn seal_some(vault: &TestVault, count: usize) -> Vec<ObjectId> {
    let mut unlocked = open(vault).unlock(&tcti(vault)).expect("the usual boot");
    (0..count)
        .map(|number| {
            let label = format!("tank/{number}").parse().expect("a label");
            let object = NewObject::new(TokenName::datasets(), label, Kind::SecretKey);
            let secret = Secret::copy_of(format!("secret {number}").as_bytes());
            unlocked.seal(object, &secret).expect("sealed")
        })
        .collect()
}

fn unseal_in_a_batch(vault: &TestVault, ids: &[ObjectId]) {
    let mut unlocked = open(vault).unlock(&tcti(vault)).expect("the usual boot");
    for (number, id) in ids.iter().enumerate() {
        let secret = unlocked.unseal(*id).expect("unsealed");
        assert_eq!(secret.expose(), format!("secret {number}").as_bytes());
    }
}

fn open(vault: &TestVault) -> Vault {
    Vault::open(&vault.dir()).expect("a vault")
}

fn tcti(vault: &TestVault) -> Tcti {
    vault.recorder().tcti().parse().expect("a TCTI")
}

fn names(commands: &[Command]) -> Vec<&'static str> {
    commands.iter().map(|command| command.name).collect()
}

/// Where `part` begins in `whole`, of which it must be an unbroken run.
fn position(whole: &[&str], part: &[&str]) -> usize {
    whole
        .windows(part.len())
        .position(|window| window == part)
        .unwrap_or_else(|| panic!("not in this order and unbroken: {whole:?}"))
}
