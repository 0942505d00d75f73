//! Attacks on a vault, each shown to fail: by whoever edits its folder offline, listens on the
//! TPM's bus, holds the empty owner authorisation of the TPM, or takes the folder to another one.
//!
//! What they must never get is a secret, or the next secret that is sealed. What they always can
//! do is to destroy; then the message must say what stands in the way, and the recovery kit help.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use strongroom_tests::executable;
use strongroom_tests::recorder;
use strongroom_tests::swtpm::USUAL_BOOT;
use strongroom_tests::truenas_fixture::{Fixture, Generation, contains};
use strongroom_tests::vault_files::{
    self, Edit, KeyFile, Kit, authenticate, edits, encrypt_to, key_file_member, read_json,
    snapshot, strange_recipient, write_json,
};
use strongroom_tests::{Output, Recorder, Run, Swtpm, TestVault};

/// A boot that no vault of these tests allows.
const OTHER_BOOT: &[(u32, &str)] = &[
    (7, "Secure Boot off"),
    (9, "a rescue kernel"),
    (11, "no stub"),
];

/// Where `strongroom init` puts the root key and the index N on a fresh TPM.
const ROOT_KEY: &str = "0x81000001";
const INDEX: &str = "0x1857200";

// The vault's folder, edited offline.

#[test]
fn a_copy_under_another_label_in_another_token_opens_nothing() {
    let vault = TestVault::new();
    let key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let sealed = vault
        .strongroom(&["seal", "--token", "datasets", "--label", "tank/a", "--json"])
        .args(["--kind", "dataset-key", "--keyformat", "hex"])
        .stdin(*b"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff")
        .ok();
    let id = sealed.json()["id"].as_str().expect("an id").to_owned();
    let genuine = vault.dir().join(format!("objects/datasets/{id}.json"));
    let mut copy = read_json(&genuine);
    copy["metadata"]["token"] = "keys".into();
    copy["metadata"]["kind"] = "credential".into();
    copy["metadata"]["label"] = "innocent".into();
    write_json(&vault.dir().join(format!("objects/keys/{id}.json")), &copy);

    let module = vault.programs().pkcs11_module();
    let tool = |arguments: &[&str]| {
        vault
            .run("pkcs11-tool")
            .arg("--module")
            .arg(&module)
            .args([
                "--token-label",
                "keys",
                "--label",
                "innocent",
                "--type",
                "data",
            ])
            .args(arguments)
            .finish()
    };
    let read = tool(&["--read-object"]);
    assert_ne!(read.code(), Some(0));
    read.does_not_show(key);
    tool(&["--delete-object"]);
    assert!(
        genuine.exists(),
        "the genuine object is not theirs to delete"
    );
    vault
        .strongroom(&["unseal", "--token", "keys", "--label", "innocent"])
        .fails_with(5)
        .does_not_show(key);
    // By its identity alone, and by its own name, it is what it was.
    assert_eq!(vault.unseal_id(&id), key.as_bytes());
    let given = vault
        .run(vault.programs().zfs_keyprovider())
        .args(["get", "tank/a"])
        .ok();
    assert_eq!(given.stdout, key.as_bytes());
}

#[test]
fn a_manifest_edited_in_any_part_seals_nothing_and_gives_nothing_out() {
    let target = Target::new();
    let genuine = read_json(&target.manifest());
    target.refuses_manifests(edits(&genuine));
    write_json(&target.manifest(), &genuine);
    target.opens();
}

#[test]
fn a_manifest_edited_with_knowledge_seals_nothing_and_gives_nothing_out() {
    let target = Target::new();
    let genuine = read_json(&target.manifest());
    target.refuses_manifests(knowing_edits(&target, &genuine));
    write_json(&target.manifest(), &genuine);
    target.opens();
}

#[test]
fn a_manifest_with_doubled_members_seals_nothing_and_gives_nothing_out() {
    let target = Target::new();
    let genuine = fs::read_to_string(target.manifest()).expect("the manifest is text");
    let id = read_json(&target.manifest())["id"].clone();
    for doubled in [
        "\"format\": 1,".to_owned(),
        format!("\"id\": {id},"),
        format!("\"recovery-recipient\": \"{}\",", strange_recipient()),
        "\"mac\": \"\",".to_owned(),
    ] {
        for text in [
            genuine.replacen('{', &format!("{{{doubled}"), 1),
            format!(
                "{},{}}}",
                genuine.trim_end().trim_end_matches('}'),
                doubled.trim_end_matches(',')
            ),
        ] {
            fs::write(target.manifest(), text).expect("written");
            target.refuses_everything(&format!("doubled {doubled}"));
        }
    }
    fs::write(target.manifest(), genuine).expect("written");
    target.opens();
}

/// The tests above show something only if what they refuse is refused for its MAC: with K_vault,
/// which the kit opens, an edit that changes no meaning is taken.
#[test]
fn who_holds_the_vault_key_can_edit_and_nobody_else() {
    let target = Target::new();
    let genuine = read_json(&target.manifest());
    let key = Kit::read(&target.vault.recovery()).vault_key(&genuine);
    let mut again = genuine.clone();
    authenticate(&mut again, "manifest", &key);
    assert_eq!(again["mac"], genuine["mac"], "the test computes MACs right");

    let mut edited = genuine.clone();
    edited["recovery-recipient"] = Value::from(strange_recipient());
    authenticate(&mut edited, "manifest", &key);
    write_json(&target.manifest(), &edited);
    target.opens();

    let file = target.file(&target.bystander);
    let mut object = read_json(&file);
    let slots = object["slots"].as_array_mut().expect("slots");
    slots.reverse();
    write_json(&file, &object);
    target.refuses_object(&target.bystander, "slots turned round");
    authenticate(&mut object, "object", &key);
    write_json(&file, &object);
    target.opens();
}

#[test]
fn an_object_edited_in_any_part_is_refused_and_no_other() {
    let target = Target::new();
    let file = target.file(&target.victim);
    let genuine = read_json(&file);
    let mut all = edits(&genuine);
    for (member, value) in [
        ("pool-guid", json!("1")),
        ("dataset-guid", json!("18446744073709551615")),
        ("attributes", json!({"keyformat": "hex", "origin": "else"})),
        ("attributes", json!({"keyformat": "raw"})),
        ("kind", json!("secret-key")),
        ("generation", json!(9)),
    ] {
        let mut document = genuine.clone();
        document["metadata"][member] = value;
        let what = format!("{member} set");
        all.push(Edit { what, document });
    }
    for (place, edit) in all.iter().enumerate() {
        write_json(&file, &edit.document);
        target.refuses_object(&target.victim, &edit.what);
        if place % 16 == 0 {
            target.opens_bystander(&edit.what);
        }
    }
    write_json(&file, &genuine);
    target.opens();
}

#[test]
fn parts_exchanged_between_two_objects_are_refused_in_both() {
    let target = Target::new();
    let files = [&target.victim, &target.bystander].map(|id| target.file(id));
    let genuine = [read_json(&files[0]), read_json(&files[1])];
    for part in ["/slots/0", "/slots/1", "/slots", "/payload", "/mac"] {
        let mut changed = genuine.clone();
        let [one, other] = &mut changed;
        std::mem::swap(
            one.pointer_mut(part).expect("objects have it"),
            other.pointer_mut(part).expect("objects have it"),
        );
        for (file, object) in files.iter().zip(&changed) {
            write_json(file, object);
        }
        target.refuses_object(&target.victim, part);
        target.refuses_object(&target.bystander, part);
        target.opens_by_recovery(None, part);
    }
    for (file, object) in files.iter().zip(&genuine) {
        write_json(file, object);
    }
    target.opens();
}

#[test]
fn a_recovery_slot_for_someone_else_is_refused_by_both_ways_in() {
    let target = Target::new();
    let file = target.file(&target.victim);
    let genuine = read_json(&file);
    let recipient = read_json(&target.manifest())["recovery-recipient"].clone();
    for recipient in [
        recipient.as_str().expect("text").to_owned(),
        strange_recipient(),
    ] {
        let mut object = genuine.clone();
        object["slots"][1]["age"] = Value::from(encrypt_to(&recipient, &[7; 32]));
        write_json(&file, &object);
        target.refuses_object(&target.victim, "its recovery slot replaced");
        target.opens_by_recovery(Some(5), "its recovery slot replaced");
        target.opens_bystander("the other's recovery slot replaced");
    }
    write_json(&file, &genuine);
    target.opens();
    target.opens_by_recovery(Some(0), "as it was");
}

#[test]
fn an_object_forged_from_the_public_halves_is_refused() {
    let target = Target::new();
    let genuine = read_json(&target.file(&target.victim));
    let recipient = read_json(&target.manifest())["recovery-recipient"].clone();
    let recipient = recipient.as_str().expect("text");
    // What a stranger has: their own DEK, sealed by the TPM under the root key, whose auth is
    // empty, with the vault's own policy, and encrypted to the recipient.
    let forged_dek = [7; 32];
    let sealed = target.seal_by_stranger(&forged_dek);
    let id = "00000000-0000-4000-8000-000000000001";
    let mut forged = genuine.clone();
    forged["metadata"]["id"] = Value::from(id);
    forged["metadata"]["label"] = Value::from("tank/planted");
    let member = key_file_member(&forged["slots"][0]).to_owned();
    forged["slots"][0][member] = Value::from(sealed.to_text());
    forged["slots"][1]["age"] = Value::from(encrypt_to(recipient, &forged_dek));
    authenticate(&mut forged, "object", &[0; 32]);
    write_json(&target.file(id), &forged);

    target.refuses_object(id, "forged");
    target
        .vault
        .run(target.vault.programs().zfs_keyprovider())
        .args(["get", "tank/planted"])
        .fails_with(5)
        .says(id);
    target.opens();

    // It is left out of a backup, and said to be.
    let backup = target.vault.folder().join("backup");
    target
        .vault
        .strongroom(&["backup"])
        .arg(&backup)
        .fails_with(1);
    let objects = read_json(&backup)["objects"].clone();
    assert_eq!(objects.as_array().expect("a list").len(), 2);
    assert!(!objects.to_string().contains("planted"));
}

#[test]
fn an_object_under_another_name_is_refused_and_no_other() {
    let target = Target::new();
    let copy_id = "00000000-0000-4000-8000-000000000002";
    fs::copy(target.file(&target.victim), target.file(copy_id)).expect("copied");
    target.refuses_object(copy_id, "a copy under a new id");
    target.opens();
    let damaged = target.vault.strongroom(&["list", "--json"]).fails_with(1);
    assert!(damaged.json()["damaged"].to_string().contains(copy_id));
    fs::remove_file(target.file(copy_id)).expect("removed");

    let (here, there) = (
        target.file(&target.victim),
        target.file_in("keys", &target.victim),
    );
    fs::rename(&here, &there).expect("moved");
    target.refuses_object(&target.victim, "moved to another token");
    target.opens_bystander("another moved to another token");
    fs::rename(&there, &here).expect("moved back");
    target.opens();
}

/// A file in the wrong place must not hide the good one in the right place.
#[test]
fn a_copy_in_another_tokens_folder_costs_no_object() {
    let target = Target::new();
    for token in ["credentials", "keys"] {
        let copy = target.file_in(token, &target.victim);
        fs::copy(target.file(&target.victim), &copy).expect("copied");
        target.opens();
        target.opens_by_recovery(Some(0), "copied into another token");
        // The same, and made to look as if it belonged there.
        let mut object = read_json(&copy);
        object["metadata"]["token"] = Value::from(token);
        write_json(&copy, &object);
        target.opens();
        fs::remove_file(copy).expect("removed");
    }
}

/// The folder's manifest and list exchanged for those of a vault that the attacker made on the
/// same TPM in another boot, and that allows the owner's boot, whose PCRs lie open in the list.
#[test]
fn a_vault_exchanged_as_a_whole_is_not_handed_the_next_secret() {
    let mut target = Target::new();
    let (manifest, list) = (target.manifest(), target.vault.dir().join("policy.json"));
    let genuine = [&manifest, &list].map(|file| fs::read(file).expect("a file"));
    let allowed = read_json(&list)["current"][0]["pcrs"].clone();
    let allowed: Vec<_> = ["7", "9", "11"]
        .map(|pcr| format!("{pcr}={}", allowed[pcr].as_str().expect("a value")))
        .into();
    target.vault.reboot(OTHER_BOOT);
    let theirs = target.at("theirs");
    let run = |args: &[&str]| target.vault.strongroom(args).env("STRONGROOM_DIR", &theirs);
    run(&["init", "--yes", "--recovery-out", &target.at("their-kit")]).ok();
    run(&["rebind", "--yes", "--add", &allowed.join(",")]).ok();
    for file in ["vault.json", "policy.json"] {
        let from = Path::new(&theirs).join(file);
        fs::copy(from, target.vault.dir().join(file)).expect("exchanged");
    }
    target.vault.reboot(USUAL_BOOT);
    target.refuses_everything_with(5, "by something other than Strongroom");

    for (file, content) in [manifest, list].iter().zip(genuine) {
        fs::write(file, content).expect("put back");
    }
    target.opens();
}

// The bus.

#[test]
fn the_bus_carries_no_secret_in_any_command() {
    let mut vault = TestVault::without_init(Swtpm::measured());
    let recovery = vault.recovery();
    let kit = |command: &'static str, vault: &TestVault| {
        vault
            .strongroom(&[command, "--yes", "--recovery"])
            .arg(&recovery)
    };
    vault
        .strongroom(&["init", "--yes", "--recovery-out"])
        .arg(&recovery)
        .ok();
    let mut secrets = Secrets::default();
    // As long as a DEK, so that it would fit where a DEK goes.
    let credential = "sesame-0123456789-0123456789-xyz";
    secrets.text("the sealed credential", credential);
    let sealed = vault.seal("credentials", "offsite", credential.as_bytes());

    let database = vault.folder().join("truenas");
    fs::create_dir(&database).expect("a folder");
    let fixture = Fixture::build(&database, Generation::Mixed, 3, 4);
    migrate(&vault, &fixture).ok();
    let (dataset, key) = fixture
        .dataset_keys
        .iter()
        .find(|(_, name, _)| name == "tank/vm/zvol0")
        .map(|(_, name, key)| (name, key))
        .expect("the fixture has it");
    for (_, name, key) in &fixture.dataset_keys {
        secrets.hex(name, key);
    }
    for (_, name, attributes, fields) in &fixture.credentials {
        for field in fields {
            let text = attributes[field].as_str().expect("secrets are text");
            secrets.text(&format!("{name}.{field}"), text);
        }
    }

    assert_eq!(vault.unseal_id(&sealed), credential.as_bytes());
    let get = |vault: &TestVault| {
        vault
            .run(vault.programs().zfs_keyprovider())
            .args(["get", dataset])
            .ok()
            .text()
    };
    assert_eq!(get(&vault), *key);
    let next = format!("11={}", "5c".repeat(32));
    vault.strongroom(&["rebind", "--yes", "--add", &next]).ok();
    vault.reboot(OTHER_BOOT);
    vault.strongroom(&["unseal", "--id", &sealed]).fails_with(3);
    kit("rebind", &vault).ok();
    assert_eq!(get(&vault), *key);
    collect_keys(&vault, &mut secrets, "before");
    let mut commands = vault.recorder().take();
    vault.replace_tpm(Swtpm::measured());
    kit("recover", &vault).ok();
    assert_eq!(get(&vault), *key);
    vault
        .strongroom(&["backup"])
        .arg(vault.folder().join("copy"))
        .ok();
    collect_keys(&vault, &mut secrets, "after");
    commands.extend(vault.recorder().take());

    let did = |name| {
        commands
            .iter()
            .filter(|command| command.name == name)
            .count()
    };
    assert!(did("Create") > 40 && did("Unseal") > 45 && did("NV_Write") > 3);
    for (what, bytes) in &secrets.0 {
        assert!(!crossed(&commands, bytes), "{what} crossed the bus");
    }
    // What is no secret did cross it, so the record is one of what was done, in clear.
    assert!(crossed(&commands, &vault.tpm().pcr(7)));
    assert!(crossed(&commands, &storage_key_public(&vault)));
}

/// Whether the test above would notice: the same secret, without an encrypting session.
#[test]
fn the_bus_would_show_a_secret_that_is_not_encrypted() {
    let folder = tempfile::tempdir().expect("a folder");
    let tpm = Swtpm::measured();
    let recorder = Recorder::start(&tpm);
    let tpm2 = |args: &[&str]| {
        let run = Run::new("tpm2")
            .args(args)
            .env("TPM2TOOLS_TCTI", recorder.tcti());
        let output = run.ok();
        tpm.tpm2(&["flushcontext", "--transient-object"]).ok();
        output
    };
    let at = |name: &str| folder.path().join(name).display().to_string();
    let secret = [0x5a_u8; 32];
    fs::write(at("secret"), secret).expect("written");
    tpm2(&["createprimary", "-c", &at("primary"), "-Q"]);
    assert!(!crossed(&recorder.commands(), &secret));
    let (public, private) = (at("pub"), at("priv"));
    tpm2(&[
        "create",
        "-C",
        &at("primary"),
        "-i",
        &at("secret"),
        "-u",
        &public,
        "-r",
        &private,
        "-Q",
    ]);
    assert!(crossed(&recorder.take(), &secret), "on its way in");
    tpm2(&[
        "load",
        "-C",
        &at("primary"),
        "-u",
        &public,
        "-r",
        &private,
        "-c",
        &at("object"),
        "-Q",
    ]);
    assert!(!crossed(&recorder.take(), &secret));
    assert_eq!(tpm2(&["unseal", "-c", &at("object")]).stdout, secret);
    assert!(crossed(&recorder.take(), &secret), "on its way out");
}

// The TPM in the hands of who has owner auth.

#[test]
fn an_index_defined_again_by_a_stranger_opens_nothing() {
    let target = Target::new();
    let held = target.index_content();
    let policy = target.index_policy();
    // Their own auth value, and the same public area: the Name is N's, but for WRITTEN.
    target.tpm2(&["nvundefine", "-C", "o", INDEX]).ok();
    target.define_index("policywrite|authread|no_da", Some(&policy));
    target
        .tpm2(&["nvwrite", "-C", "o", INDEX, "-i", &held])
        .finish_failing("0x149");
    target
        .tpm2(&["nvwrite", "-C", INDEX, "-P", "stranger", INDEX, "-i", &held])
        .finish_failing("0x12F");
    target.refuses_everything_with(4, "defined again by something other than Strongroom");
    for (command, code) in [("status", 4), ("rebind", 4)] {
        target
            .vault
            .strongroom(&[command, "--yes"][..if command == "rebind" { 2 } else { 1 }])
            .fails_with(code);
    }
    // Not even in a boot that was allowed, nor by the way round the program.
    target.policy_session("boot", "7,9,11");
    target
        .tpm2(&[
            "policyauthorizenv",
            "-S",
            &target.at("boot"),
            "-C",
            INDEX,
            "-P",
            "stranger",
            INDEX,
        ])
        .finish_failing("0x14A");

    // The owner gets everything back.
    target.recover().ok();
    target.opens();
}

#[test]
fn an_index_that_a_stranger_can_write_opens_nothing() {
    for attributes in [
        "ownerwrite|policywrite|authread|no_da",
        "ownerwrite|authread|no_da",
        "ownerwrite|ownerread|authread|authwrite",
    ] {
        let target = Target::new();
        let held = target.index_content();
        let policy = target.index_policy();
        target.tpm2(&["nvundefine", "-C", "o", INDEX]).ok();
        let policy = attributes
            .contains("policywrite")
            .then_some(policy.as_str());
        target.define_index(attributes, policy);
        target
            .tpm2(&["nvwrite", "-C", "o", INDEX, "-i", &held])
            .ok();
        target.refuses_everything_with(4, "defined again by something other than Strongroom");
        target.recover().ok();
        target.opens();
    }
}

#[test]
fn an_index_that_was_removed_opens_nothing() {
    let target = Target::new();
    target.tpm2(&["nvundefine", "-C", "o", INDEX]).ok();
    target.refuses_everything_with(4, "it has no NV index");
    target.recover().ok();
    target.opens();
}

#[test]
fn a_root_key_that_was_swapped_is_refused_before_a_session_is_salted_to_it() {
    for (what, make) in [
        (
            "an imported key, known outside the TPM",
            make_known_key as fn(&Target),
        ),
        ("a primary that can be duplicated", make_duplicable_primary),
        ("another primary of this TPM", make_other_primary),
    ] {
        let target = Target::new();
        make(&target);
        target
            .tpm2(&["evictcontrol", "-C", "o", "-c", ROOT_KEY])
            .ok();
        target
            .tpm2(&["evictcontrol", "-C", "o", "-c", &target.at("key"), ROOT_KEY])
            .ok();
        target.flush();
        target.vault.recorder().take();
        target.refuses_everything_with(4, "the root key at handle 0x81000001 is not the vault's");
        target.starts_no_session(what);
    }
}

#[test]
fn a_root_key_that_could_leave_the_tpm_is_refused_even_where_the_manifest_names_it() {
    for make in [make_known_key as fn(&Target), make_duplicable_primary] {
        let target = Target::new();
        make(&target);
        target
            .tpm2(&["evictcontrol", "-C", "o", "-c", ROOT_KEY])
            .ok();
        target
            .tpm2(&["evictcontrol", "-C", "o", "-c", &target.at("key"), ROOT_KEY])
            .ok();
        target.flush();
        target.name_key_in_manifest();
        target.vault.recorder().take();
        target.refuses_everything("a manifest that names a key that can leave the TPM");
        target.starts_no_session("a manifest that names a key that can leave the TPM");
    }
}

/// It cannot leave the TPM either, so that a salt to it tells nobody anything; but it is not what
/// the vault hangs under.
#[test]
fn another_key_of_the_same_tpm_opens_nothing_even_where_the_manifest_names_it() {
    let target = Target::new();
    make_other_primary(&target);
    target
        .tpm2(&["evictcontrol", "-C", "o", "-c", ROOT_KEY])
        .ok();
    target
        .tpm2(&["evictcontrol", "-C", "o", "-c", &target.at("key"), ROOT_KEY])
        .ok();
    target.flush();
    target.name_key_in_manifest();
    target.refuses_everything("a manifest that names another primary");
}

#[test]
fn a_root_key_that_is_gone_is_made_again() {
    let target = Target::new();
    let before = target.tpm2(&["readpublic", "-c", ROOT_KEY]).ok().text();
    target
        .tpm2(&["evictcontrol", "-C", "o", "-c", ROOT_KEY])
        .ok();
    target.opens();
    let after = target.tpm2(&["readpublic", "-c", ROOT_KEY]).ok().text();
    assert_eq!(before, after);
    target.vault.seal("credentials", "later", b"sealed later");
    assert!(target.vault.tpm().transient_handles().is_empty());
}

#[test]
fn a_vault_on_another_tpm_opens_with_the_recovery_kit_alone() {
    // A TPM that nobody has used, one that has a root key, and one with a vault of its own.
    let used = || {
        let tpm = Swtpm::measured();
        let folder = tempfile::tempdir().expect("a folder");
        let context = folder.path().join("primary").display().to_string();
        tpm.tpm2(&["createprimary", "-G", "rsa", "-c", &context])
            .ok();
        tpm.tpm2(&["evictcontrol", "-C", "o", "-c", &context, ROOT_KEY])
            .ok();
        tpm.tpm2(&["flushcontext", "--transient-object"]).ok();
        tpm
    };
    for tpm in [Swtpm::measured(), used()] {
        let mut target = Target::new();
        target.vault.replace_tpm(tpm);
        target.refuses_everything_with(4, "strongroom recover");
        target.opens_by_recovery(Some(0), "on another TPM");
        target.recover().ok();
        target.opens();
    }
}

#[test]
fn two_vaults_do_not_open_each_other() {
    let (one, other) = (Target::new(), TestVault::new());
    other.seal("credentials", "other", b"other");
    // One's folder with the other's TPM, whose root key and index are at the same handles.
    let run = |args: &[&str]| {
        one.vault
            .strongroom(args)
            .env("STRONGROOM_TCTI", other.recorder().tcti())
    };
    other.recorder().take();
    run(&["unseal", "--id", &one.victim]).fails_with(4);
    assert!(!other.recorder().counts().contains_key("StartAuthSession"));
    run(&["recover", "--yes", "--recovery"])
        .arg(other.recovery())
        .fails_with(7);
    // Both live on one TPM, each for itself, once the one is recovered there.
    run(&["recover", "--yes", "--recovery"])
        .arg(one.vault.recovery())
        .ok();
    let unsealed = run(&["unseal", "--id", &one.victim]).ok().stdout;
    assert_eq!(unsealed, KEY.as_bytes());
    assert_eq!(other.unseal("credentials", "other"), b"other");
}

#[test]
fn recorded_writes_of_the_index_write_nothing_again() {
    let mut target = Target::new();
    let allowed = format!("11={}", "5c".repeat(32));
    target.vault.recorder().take();
    // By the recovery identity, and by the allowed boot itself.
    target.vault.reboot(OTHER_BOOT);
    target.rebind_by_recovery().ok();
    let by_recovery = target.vault.recorder().take();
    target
        .vault
        .strongroom(&["rebind", "--yes", "--add", &allowed])
        .ok();
    let by_itself = target.vault.recorder().take();
    for recorded in [&by_recovery, &by_itself] {
        assert!(recorded.iter().any(|command| command.name == "NV_Write"));
    }
    // Both lists are revoked, and the thief restarts the box into what the first allowed.
    target.vault.reboot(USUAL_BOOT);
    target.rebind_by_recovery().ok();
    for boot in [OTHER_BOOT, USUAL_BOOT] {
        for recorded in [&by_recovery, &by_itself] {
            target.vault.reboot(boot);
            let before = fs::read(target.index_content()).expect("N's content");
            let replayed = target.replay(recorded);
            let refused = |name: &str| {
                replayed
                    .iter()
                    .any(|(replayed, rc)| *replayed == name && *rc != 0)
            };
            assert!(refused("NV_Write"), "{replayed:x?}");
            let after = fs::read(target.index_content()).expect("N's content");
            assert_eq!(before, after);
        }
    }
    // Replayed at once, with the same handles in the same boot, it is the nonce that differs.
    target.vault.reboot(OTHER_BOOT);
    let replayed = target.replay(&by_recovery);
    let signed = replayed.iter().find(|(name, _)| *name == "PolicySigned");
    assert_eq!(
        signed.map(|(_, rc)| rc & 0xBF),
        Some(0x8F),
        "TPM_RC_NONCE: {replayed:x?}"
    );
}

// PCRs that say nothing.

#[test]
fn a_boot_that_is_not_measured_is_bound_to_only_by_name() {
    let init = |vault: &TestVault, pcrs: &[&str]| {
        vault
            .strongroom(&["init", "--yes", "--recovery-out"])
            .arg(vault.recovery())
            .args(pcrs)
    };
    let vault = TestVault::without_init(Swtpm::start());
    init(&vault, &[]).fails_with(7).says("--pcrs");
    assert!(!vault.dir().join("vault.json").exists() && !vault.recovery().exists());
    assert!(vault.tpm().handles("nv-index").is_empty());
    for meaningless in ["10", "16", "23", "7,10", "7,9,16", "23,11"] {
        init(&vault, &["--pcrs", meaningless])
            .fails_with(2)
            .says("says nothing about a boot");
    }
    for wrong in ["", "24", "7,99", "-1", "seven"] {
        init(&vault, &["--pcrs", wrong]).fails_with(2);
    }
    assert!(!vault.dir().exists() && vault.tpm().handles("nv-index").is_empty());
    init(&vault, &["--pcrs", "7"]).ok().says("PCR 7");
    vault.seal("credentials", "a", b"sealed");

    // Where some are used, the others are left out, and that is said.
    let vault = TestVault::without_init(Swtpm::boot(&[(7, "Secure Boot on")]));
    init(&vault, &["--json"]).ok().says("PCR 9").says("PCR 11");
    let pcrs = vault.strongroom(&["status", "--json"]).ok().json()["boot"]["pcrs"].clone();
    let pcrs: Vec<_> = pcrs.as_object().expect("PCRs").keys().cloned().collect();
    assert_eq!(pcrs, ["7"]);
    // None of the three that anyone can extend or reset slips in later.
    for meaningless in ["10", "16", "23"] {
        vault
            .strongroom(&["rebind", "--yes", "--pcrs", meaningless])
            .fails_with(2);
    }
}

// Other processes of the machine.

#[test]
fn other_processes_see_neither_arguments_nor_memory_nor_a_core() {
    let target = Target::new();
    // A copy that an unprivileged user may run, who can be told from root by the owner of what is
    // in /proc: root's where a process is not dumpable, the user's own where it is.
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("opened up");
    let programs = target.vault.programs();
    let waiting = |program: &Path, args: &[&str]| {
        let copy = folder.path().join(program.file_name().expect("a program"));
        executable::copy(program, &copy);
        Waiting::start(&copy, args, &target.vault.dir())
    };
    let seal = [
        "seal",
        "--token",
        "credentials",
        "--label",
        "l",
        "--kind",
        "credential",
    ];
    let mut sealing = waiting(&programs.strongroom(), &seal);
    sealing.give(b"hunter2-and-more");
    let mut cat = waiting(Path::new("/bin/cat"), &[]);
    cat.give(b"hunter2-and-more");
    sealing.wait_for("no core dumps", |it| it.core_limits() == ["0", "0"]);
    for file in ["environ", "mem", "maps", "fd"] {
        assert_eq!(sealing.owner_of(file), 0, "{file}");
        assert_ne!(cat.owner_of(file), 0, "{file}: this shows nothing here");
    }
    for file in ["cmdline", "environ"] {
        let shown = fs::read(sealing.proc(file)).expect("root reads everything");
        assert!(!shown.is_empty() && !contains(&shown, b"hunter2"), "{file}");
    }
    // zfs-keyprovider and the others are done before anyone could look; they begin the same way.
}

#[test]
fn no_program_takes_a_secret_as_an_argument() {
    let vault = TestVault::new();
    let seal = [
        "seal",
        "--token",
        "credentials",
        "--label",
        "l",
        "--kind",
        "credential",
    ];
    for secret in [
        &["hunter2"][..],
        &["--secret", "hunter2"],
        &["--value=hunter2"],
    ] {
        vault.strongroom(&seal).args(secret).fails_with(2);
    }
    assert!(vault.strongroom(&["list"]).ok().text().lines().count() <= 1);
}

// Helpers.

/// The dataset key that is sealed in every target.
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// The credential beside it.
const CREDENTIAL: &[u8] = b"correct horse battery staple";

/// A vault with two objects, a database that waits for its migration, and a folder.
struct Target {
    vault: TestVault,
    fixture: Fixture,
    /// A dataset key, in token `datasets`.
    victim: String,
    /// A credential, in the same token, so that both are in one folder.
    bystander: String,
}

impl Target {
    fn new() -> Self {
        let vault = TestVault::new();
        let sealed = vault
            .strongroom(&[
                "seal",
                "--token",
                "datasets",
                "--label",
                "tank/home",
                "--json",
            ])
            .args(["--kind", "dataset-key", "--keyformat", "hex"])
            .stdin(KEY)
            .ok()
            .json();
        let victim = sealed["id"].as_str().expect("an id").to_owned();
        let bystander = vault.seal("datasets", "bystander", CREDENTIAL);
        let database = vault.folder().join("truenas");
        fs::create_dir(&database).expect("a folder");
        let fixture = Fixture::build(&database, Generation::V25_10, 5, 0);
        fs::create_dir(vault.folder().join("out")).expect("a folder");
        Self {
            vault,
            fixture,
            victim,
            bystander,
        }
    }

    fn manifest(&self) -> PathBuf {
        self.vault.dir().join("vault.json")
    }

    fn file(&self, id: &str) -> PathBuf {
        self.file_in("datasets", id)
    }

    fn file_in(&self, token: &str, id: &str) -> PathBuf {
        let folder = self.vault.dir().join("objects").join(token);
        folder.join(format!("{id}.json"))
    }

    /// A file of the attacker's, as an argument.
    fn at(&self, name: &str) -> String {
        self.vault.folder().join(name).display().to_string()
    }

    /// Runs one of tpm2-tools at the vault's TPM, unrecorded.
    fn tpm2(&self, args: &[&str]) -> Tpm2 {
        Tpm2(self.vault.tpm().tpm2(args))
    }

    fn flush(&self) {
        self.tpm2(&["flushcontext", "--transient-object"]).ok();
    }

    #[track_caller]
    fn opens(&self) {
        assert_eq!(self.vault.unseal_id(&self.victim), KEY.as_bytes());
        let label = self.vault.unseal("datasets", "tank/home");
        assert_eq!(label, KEY.as_bytes());
        self.opens_bystander("as it was");
    }

    #[track_caller]
    fn opens_bystander(&self, what: &str) {
        let unsealed = self.vault.unseal_id(&self.bystander);
        assert_eq!(unsealed, CREDENTIAL, "{what}");
    }

    /// Opens the victim by recovery, and expects the exit code that is given.
    #[track_caller]
    fn opens_by_recovery(&self, code: Option<i32>, what: &str) {
        let output = self
            .vault
            .strongroom(&["unseal", "--id", &self.victim, "--recovery"])
            .arg(self.vault.recovery())
            .finish();
        let code = code.unwrap_or(5);
        assert_eq!(output.code(), Some(code), "{what}: {output}");
        let expected = if code == 0 { KEY.as_bytes() } else { b"" };
        assert_eq!(output.stdout, expected, "{what}: {output}");
    }

    #[track_caller]
    fn refuses_object(&self, id: &str, what: &str) {
        let output = self.vault.strongroom(&["unseal", "--id", id]).finish();
        assert_eq!(output.code(), Some(5), "{what}: {output}");
        assert!(output.stdout.is_empty(), "{what}: {output}");
        assert!(output.stderr.contains(id), "{what}: {output}");
        let listed = self.vault.strongroom(&["list", "--json"]).finish();
        let other = if id == self.bystander {
            &self.victim
        } else {
            &self.bystander
        };
        let names_other = listed.json()["objects"].to_string().contains(other);
        assert!(names_other, "{what}: {listed}");
    }

    /// Whatever seals or gives out is refused, and nothing is written anywhere.
    #[track_caller]
    fn refuses_everything(&self, what: &str) {
        let wrong = self.wrong_in_refusal(what, names_manifest_or_tpm);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[track_caller]
    fn refuses_everything_with(&self, code: i32, words: &str) {
        let wrong = self.wrong_in_refusal(words, |output| {
            output.code() == Some(code) && output.stderr.contains(words)
        });
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// The same for each of these manifests; what is wrong is said of all of them.
    #[track_caller]
    fn refuses_manifests(&self, edits: Vec<Edit>) {
        assert!(edits.len() > 10);
        let mut wrong = Vec::new();
        for edit in edits {
            write_json(&self.manifest(), &edit.document);
            wrong.extend(self.wrong_in_refusal(&edit.what, names_manifest_or_tpm));
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// What is not as it must be while everything is to be refused.
    fn wrong_in_refusal(&self, what: &str, as_expected: impl Fn(&Output) -> bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let before = snapshot(self.vault.folder());
        let recorded = self.vault.recorder().commands().len();
        let seal = [
            "seal",
            "--token",
            "datasets",
            "--label",
            "next",
            "--kind",
            "credential",
        ];
        let backup = self.at("out/backup");
        for run in [
            self.vault.strongroom(&seal).stdin("the next secret"),
            self.vault.strongroom(&["unseal", "--id", &self.victim]),
            self.vault.strongroom(&["backup", &backup]),
            migrate(&self.vault, &self.fixture),
        ] {
            let output = run.finish();
            if !as_expected(&output) || !output.stdout.is_empty() {
                wrong.push(format!("{what}: {output}"));
            }
        }
        if snapshot(self.vault.folder()) != before {
            wrong.push(format!("{what}: something was written"));
        }
        for command in &self.vault.recorder().commands()[recorded..] {
            let name = command.name;
            if ["Create", "NV_Write", "NV_DefineSpace"].contains(&name) {
                wrong.push(format!("{what}: {name} was sent"));
            }
        }
        wrong
    }

    #[track_caller]
    fn starts_no_session(&self, what: &str) {
        let counts = self.vault.recorder().counts();
        assert!(
            counts.contains_key("ReadPublic") || counts.is_empty(),
            "{what}"
        );
        assert!(
            !counts.contains_key("StartAuthSession"),
            "{what}: {counts:?}"
        );
    }

    fn rebind_by_recovery(&self) -> Run {
        self.vault
            .strongroom(&["rebind", "--yes", "--recovery"])
            .arg(self.vault.recovery())
    }

    fn recover(&self) -> Run {
        self.vault
            .strongroom(&["recover", "--yes", "--recovery"])
            .arg(self.vault.recovery())
    }

    /// N's content, in a file.
    fn index_content(&self) -> String {
        let file = self.at("content");
        self.tpm2(&["nvread", "-C", INDEX, "-s", "34", "-o", &file, INDEX])
            .ok();
        file
    }

    /// N's write policy, in a file.
    fn index_policy(&self) -> String {
        let public = self.tpm2(&["nvreadpublic", INDEX]).ok().text();
        let (_, digits) = public
            .split_once("authorization policy: ")
            .expect("nvreadpublic prints the policy");
        let policy = hex::decode(&digits[..64]).expect("a SHA-256 digest");
        let file = self.at("policy");
        fs::write(&file, policy).expect("written");
        file
    }

    fn define_index(&self, attributes: &str, policy: Option<&str>) {
        let mut args = vec!["nvdefine", INDEX, "-C", "o", "-s", "34", "-a", attributes];
        if let Some(policy) = policy {
            args.extend(["-L", policy]);
        }
        args.extend(["-p", "stranger"]);
        self.tpm2(&args).ok();
    }

    fn policy_session(&self, name: &str, pcrs: &str) {
        let file = self.at(name);
        self.tpm2(&["startauthsession", "--policy-session", "-S", &file])
            .ok();
        self.tpm2(&["policypcr", "-S", &file, "-l", &format!("sha256:{pcrs}")])
            .ok();
    }

    /// Seals as anyone can who has no more than the TPM: under the root key, with the policy of
    /// the vault's own storage keys.
    fn seal_by_stranger(&self, secret: &[u8]) -> KeyFile {
        let (input, policy) = (self.at("forged-secret"), self.at("forged-policy"));
        fs::write(&input, secret).expect("written");
        let manifest = read_json(&self.manifest());
        let storage_key = KeyFile::parse(&manifest["storage-key"]);
        // TPM2B_PUBLIC: size, type, nameAlg and attributes take 10 bytes, then a sized policy.
        fs::write(&policy, &storage_key.public[12..44]).expect("written");
        let stem = self.at("forged");
        self.tpm2(&[
            "create",
            "-C",
            ROOT_KEY,
            "-i",
            &input,
            "-L",
            &policy,
            "-u",
            &format!("{stem}.pub"),
            "-r",
            &format!("{stem}.priv"),
        ])
        .ok();
        self.flush();
        KeyFile::read(Path::new(&stem))
    }

    /// Makes the manifest name the key at the root key's handle, as an attacker who edits both
    /// the TPM and the folder would.
    fn name_key_in_manifest(&self) {
        let file = self.at("named");
        self.tpm2(&["readpublic", "-c", ROOT_KEY, "-f", "tss", "-o", &file])
            .ok();
        let area = fs::read(file).expect("readpublic wrote it");
        let mut manifest = read_json(&self.manifest());
        manifest["root-key"]["public"] = Value::from(BASE64.encode(&area[2..]));
        write_json(&self.manifest(), &manifest);
    }

    /// Sends the recorded requests again, byte for byte; answers what became of them.
    fn replay(&self, recorded: &[recorder::Command]) -> Vec<(&'static str, u32)> {
        recorded
            .iter()
            .map(|command| {
                let response = send(&self.vault.tpm().socket(), &command.request);
                let rc = u32::from_be_bytes(response[6..10].try_into().expect("four bytes"));
                (command.name, rc)
            })
            .collect()
    }
}

/// Refused as vault, TPM or policy, and the message says which part is not as it must be. An
/// object of a token that the manifest no longer has is not even found.
fn names_manifest_or_tpm(output: &Output) -> bool {
    let names = |word: &&str| output.stderr.contains(*word);
    match output.code() {
        Some(3..=5) => ["vault.json", "TPM", "root key"].iter().any(names),
        Some(6) => names(&"no object"),
        _ => false,
    }
}

/// What one of tpm2-tools came to.
struct Tpm2(Output);

impl Tpm2 {
    #[track_caller]
    fn ok(self) -> Output {
        self.0.ok()
    }

    /// Expects that the TPM refused, with this response code.
    #[track_caller]
    fn finish_failing(self, code: &str) {
        let Self(output) = self;
        assert!(!output.status.success(), "{output}");
        let digits = code.trim_start_matches("0x");
        assert!(output.stderr.contains(digits), "not {code}: {output}");
    }
}

/// One request to the TPM, on a connection of its own.
fn send(socket: &Path, request: &[u8]) -> Vec<u8> {
    let mut tpm = UnixStream::connect(socket).expect("the TPM answers");
    tpm.write_all(request).expect("the TPM reads");
    let mut response = vec![0; 10];
    tpm.read_exact(&mut response).expect("the TPM answers");
    let size = u32::from_be_bytes(response[2..6].try_into().expect("four bytes"));
    response.resize(size as usize, 0);
    tpm.read_exact(&mut response[10..]).expect("a whole answer");
    response
}

fn migrate(vault: &TestVault, fixture: &Fixture) -> Run {
    vault
        .strongroom(&["migrate", "--yes", "--database"])
        .arg(&fixture.database)
        .arg("--pwenc-secret")
        .arg(&fixture.pwenc_secret)
        .arg("--backup")
        .arg(vault.folder().join("migrated"))
}

/// A P-256 storage key that is known outside the TPM, imported.
fn make_known_key(target: &Target) {
    let (pem, primary) = (target.at("known.pem"), target.at("primary"));
    Run::new("openssl")
        .args([
            "ecparam",
            "-name",
            "prime256v1",
            "-genkey",
            "-noout",
            "-out",
            &pem,
        ])
        .ok();
    target
        .tpm2(&["createprimary", "-G", "ecc", "-c", &primary])
        .ok();
    let (public, private) = (target.at("known.pub"), target.at("known.priv"));
    target
        .tpm2(&[
            "import",
            "-C",
            &primary,
            "-G",
            "ecc:aes128cfb",
            "-i",
            &pem,
            "-u",
            &public,
            "-r",
            &private,
            "-a",
            "restricted|decrypt|userwithauth|noda",
        ])
        .ok();
    target.flush();
    target
        .tpm2(&[
            "load",
            "-C",
            &primary,
            "-u",
            &public,
            "-r",
            &private,
            "-c",
            &target.at("key"),
        ])
        .ok();
    target.flush();
}

fn make_duplicable_primary(target: &Target) {
    make_primary(
        target,
        "sensitivedataorigin|restricted|decrypt|userwithauth|noda",
    );
}

/// A key as good as the vault's, from another seed of the template.
fn make_other_primary(target: &Target) {
    make_primary(
        target,
        "fixedtpm|fixedparent|sensitivedataorigin|restricted|decrypt|userwithauth",
    );
}

fn make_primary(target: &Target, attributes: &str) {
    let key = target.at("key");
    target
        .tpm2(&["createprimary", "-G", "ecc", "-a", attributes, "-c", &key])
        .ok();
    target.flush();
}

/// Edits by someone who knows the format, has the TPM, and lacks nothing but K_vault.
fn knowing_edits(target: &Target, genuine: &Value) -> Vec<Edit> {
    let mut edits = Vec::new();
    let mut edit = |what: &str, change: &dyn Fn(&mut Value)| {
        let mut document = genuine.clone();
        change(&mut document);
        let what = what.to_owned();
        edits.push(Edit { what, document });
    };
    let own_key = [7; 32];
    let own_recipient = strange_recipient();
    let sealed = target.seal_by_stranger(&own_key).to_text();
    let own = |document: &mut Value| {
        document["recovery-recipient"] = Value::from(own_recipient.as_str());
        document["vault-key"]["recovery"] = Value::from(encrypt_to(&own_recipient, &own_key));
    };
    edit("the recipient", &|document| {
        document["recovery-recipient"] = Value::from(own_recipient.as_str());
    });
    edit("the recipient, with a MAC under another key", &|document| {
        own(document);
        authenticate(document, "manifest", &own_key);
    });
    edit(
        "the recipient and a vault key of the stranger's",
        &|document| {
            own(document);
            document["vault-key"]["tpm"] = Value::from(sealed.as_str());
            authenticate(document, "manifest", &own_key);
        },
    );
    let object = read_json(&target.file(&target.victim));
    let slot = vault_files::slot(&object, "tpm");
    let other_sealed = slot[key_file_member(slot)].clone();
    edit("another sealed object as the vault key", &|document| {
        document["vault-key"]["tpm"] = other_sealed.clone();
        authenticate(document, "manifest", &own_key);
    });
    edit("a token's storage key as the vault's", &|document| {
        document["storage-key"] = document["tokens"]["datasets"]["storage-key"].clone();
    });
    edit("two tokens' storage keys exchanged", &|document| {
        let tokens = &mut document["tokens"];
        let one = tokens["datasets"].take();
        tokens["datasets"] = tokens["credentials"].take();
        tokens["credentials"] = one;
    });
    edit("a token under another name", &|document| {
        let key = document["tokens"]["keys"].take();
        let tokens = document["tokens"].as_object_mut().expect("tokens");
        tokens.remove("keys");
        tokens.insert("keyz".to_owned(), key);
    });
    edit("a token added", &|document| {
        document["tokens"]["more"] = document["tokens"]["keys"].clone();
    });
    edit("X as K_rec", &|document| {
        document["writers"]["k-rec"]["public"] = document["writers"]["k-x"].clone();
    });
    edit("another index of the TPM's", &|document| {
        document["index"] = Value::from(0x0180_0001);
    });
    edit("no handle of an index", &|document| {
        document["index"] = Value::from(0x8100_0001_u32);
    });
    edit("no persistent handle", &|document| {
        document["root-key"]["handle"] = Value::from(0x4000_0001_u32);
    });
    edit("a handle of 33 bits", &|document| {
        document["root-key"]["handle"] = Value::from(0x1_8100_0001_u64);
    });
    edit("the newer format", &|document| {
        document["format"] = Value::from(2);
        authenticate(document, "manifest", &own_key);
    });
    edits
}

/// Secrets, each with what it is.
#[derive(Default)]
struct Secrets(Vec<(String, Vec<u8>)>);

impl Secrets {
    /// A secret of bytes, and how it is written down.
    fn bytes(&mut self, what: &str, bytes: &[u8]) {
        let hex = hex::encode(bytes);
        for written in [
            bytes.to_vec(),
            BASE64.encode(bytes).into_bytes(),
            hex.to_uppercase().into_bytes(),
            hex.into_bytes(),
        ] {
            self.0.push((what.to_owned(), written));
        }
    }

    fn text(&mut self, what: &str, text: &str) {
        assert!(text.len() >= 8, "{what}: too short to be looked for");
        self.bytes(what, text.as_bytes());
        let quoted = Value::from(text).to_string();
        self.0
            .push((what.to_owned(), quoted.trim_matches('"').into()));
    }

    fn hex(&mut self, what: &str, digits: &str) {
        self.text(what, digits);
        self.bytes(what, &hex::decode(digits).expect("a key is hex"));
    }
}

/// K_vault, every DEK and K_rec, by way of the kit.
fn collect_keys(vault: &TestVault, secrets: &mut Secrets, when: &str) {
    let kit = Kit::read(&vault.recovery());
    secrets.text("the recovery identity", kit.secret());
    let manifest = read_json(&vault.dir().join("vault.json"));
    secrets.bytes(&format!("K_vault {when}"), &kit.vault_key(&manifest));
    let k_rec = kit.open(&manifest["writers"]["k-rec"]["private"]);
    secrets.bytes(&format!("K_rec {when}"), &k_rec);
    let mut deks = 0;
    for (file, _) in snapshot(&vault.dir().join("objects")) {
        let object = read_json(&file);
        let what = format!("the DEK of {} {when}", object["metadata"]["label"]);
        secrets.bytes(&what, &kit.dek(&object));
        deks += 1;
    }
    assert!(deks > 10);
}

/// The public area of a storage key, which is no secret and goes to the TPM with every unlocking.
fn storage_key_public(vault: &TestVault) -> Vec<u8> {
    let manifest = read_json(&vault.dir().join("vault.json"));
    KeyFile::parse(&manifest["storage-key"]).public
}

fn crossed(commands: &[recorder::Command], bytes: &[u8]) -> bool {
    commands
        .iter()
        .any(|command| contains(&command.request, bytes) || contains(&command.response, bytes))
}

/// A program that waits for the rest of its input, run by an unprivileged user.
struct Waiting(Child);

impl Waiting {
    fn start(program: &Path, args: &[&str], vault: &Path) -> Self {
        let mut command = Command::new("setpriv");
        command
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--pdeathsig=KILL",
            ])
            .arg(program)
            .args(args)
            .env("STRONGROOM_DIR", vault)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut waiting = Self(command.spawn().expect("setpriv starts"));
        // setpriv has become the program once it is named so.
        let name = program.display().to_string();
        waiting.wait_for("the program to start", |waiting| {
            fs::read(waiting.proc("cmdline")).is_ok_and(|line| line.starts_with(name.as_bytes()))
        });
        waiting
    }

    fn give(&mut self, bytes: &[u8]) {
        let pipe = self.0.stdin.as_mut().expect("a pipe");
        pipe.write_all(bytes).expect("the program reads");
        pipe.flush().expect("the program reads");
    }

    fn wait_for(&mut self, what: &str, ready: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !ready(self) {
            assert!(
                begun.elapsed() < Duration::from_secs(15),
                "waited for {what}"
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.0.id()))
    }

    fn owner_of(&self, file: &str) -> u32 {
        fs::metadata(self.proc(file))
            .expect("the program runs")
            .uid()
    }

    /// The soft and the hard limit of core dumps.
    fn core_limits(&self) -> [String; 2] {
        let limits = fs::read_to_string(self.proc("limits")).expect("the program runs");
        let core = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max core file size"))
            .expect("the kernel has this limit");
        let mut words = core.split_whitespace().map(ToOwned::to_owned);
        [(); 2].map(|()| words.next().expect("two limits"))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
