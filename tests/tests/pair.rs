//! A second machine that opens the vault beside its own: paired, settled, and alone when the first is
//! dead. Two TPMs, two folders, and what an admin carries between them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use p256::pkcs8::EncodePrivateKey;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use strongroom::key::{Curve, KeyAlgorithm};
use strongroom::object::{Kind, NewObject, ObjectId, TokenName};
use strongroom::{Secret, Tcti, Vault};
use strongroom_tests::swtpm::USUAL_BOOT;
use strongroom_tests::vault_files::{
    authenticate, edits, encrypt_to, read_json, snapshot, strange_recipient, write_json,
};
use strongroom_tests::{Gate, Output, Run, Swtpm, TestVault, duplicate};

/// What the second machine boots: not what the first does.
const ITS_BOOT: &[(u32, &str)] = &[(7, "its keys"), (9, "its initrd"), (11, "its kernel")];
const OTHER_BOOT: &[(u32, &str)] = &[(7, "its keys"), (9, "another initrd"), (11, "its kernel")];

#[test]
fn the_second_machine_opens_everything_when_the_first_is_dead() {
    let mut pair = Pair::new();
    let secrets = pair.fill();
    pair.add();
    pair.copy();
    pair.settle_first();
    let later = pair
        .a
        .seal("credentials", "later", b"sealed after the pairing");
    pair.copy();
    // The board with the first TPM is gone, and the kit lies in its safe.
    fs::remove_file(pair.a.recovery()).expect("the kit is not here");
    pair.a.replace_tpm(Swtpm::measured());
    for (id, secret) in &secrets {
        assert_eq!(pair.b.unseal_id(id), *secret);
    }
    assert_eq!(pair.b.unseal_id(&later), b"sealed after the pairing");
    pair.b.strongroom(&["pair", "settle"]).ok();
    pair.b.recorder().take();
    assert_eq!(pair.b.unseal_id(&later), b"sealed after the pairing");
    let imports = pair.b.recorder().counts().get("Import").copied();
    assert_eq!(imports, None, "it is sealed under this boot now");
    let status = pair.b.strongroom(&["status", "--json"]).ok().json();
    assert_eq!(status["second"], pair.id().as_str());
    // ZFS's way in.
    let key = pair
        .b
        .run(pair.b.programs().zfs_keyprovider())
        .args(["get", "tank/home"])
        .ok();
    assert_eq!(key.stdout, [7; 32]);
}

#[test]
fn readers_write_nothing_and_need_no_settling() {
    let pair = Pair::new();
    let secrets = pair.fill();
    pair.add();
    pair.copy();
    pair.settle_first();
    pair.copy();
    let before = snapshot(&pair.b.dir());
    for (id, secret) in &secrets {
        assert_eq!(pair.b.unseal_id(id), *secret);
    }
    assert_eq!(snapshot(&pair.b.dir()), before);
    // Whoever names the vault needs no settling at all.
    fs::remove_file(pair.own_key_file()).expect("it was there");
    let (id, secret) = &secrets[0];
    let unseal = ["unseal", "--id", id];
    pair.b
        .strongroom(&unseal)
        .fails_with(5)
        .says("strongroom pair settle --vault-key-sha256");
    let named = pair
        .b
        .strongroom(&unseal)
        .arg("--vault-key-sha256")
        .arg(pair.vault_key());
    assert_eq!(named.ok().stdout, *secret);
}

#[test]
fn an_export_that_was_changed_on_its_way_is_refused_and_changes_nothing() {
    let pair = Pair::new();
    pair.fill();
    let fingerprint = pair.export();
    let good = read_json(&pair.export_file());
    let before = snapshot(&pair.a.dir());
    for edit in edits(&good) {
        write_json(&pair.export_file(), &edit.document);
        let refused = pair.add_run(&fingerprint).finish();
        assert!(
            matches!(refused.code(), Some(5 | 7)),
            "{}: {refused}",
            edit.what
        );
    }
    assert!(snapshot(&pair.a.dir()) == before, "nothing was changed");
    write_json(&pair.export_file(), &good);
    pair.add_run(&fingerprint).ok();
}

#[test]
fn a_fingerprint_is_typed_in_full_and_in_groups() {
    let pair = Pair::new();
    let shown = pair.export();
    assert_eq!(shown.split(' ').count(), 16, "{shown}");
    let before = snapshot(&pair.a.dir());
    let mut other = shown.clone();
    let last = if other.pop() == Some('0') { '1' } else { '0' };
    other.push(last);
    pair.add_run(&other).fails_with(7).says(&shown);
    pair.add_run(&shown[..shown.len() - 5]).fails_with(2);
    // Nobody can be asked here.
    pair.a
        .strongroom(&["pair", "add", "--yes"])
        .arg(pair.export_file())
        .fails_with(2);
    assert!(snapshot(&pair.a.dir()) == before, "nothing was changed");
    let typed = shown.to_uppercase().replace(' ', "");
    pair.a
        .strongroom(&["pair", "add"])
        .arg(pair.export_file())
        .stdin(format!("{typed}\n"))
        .ok();
}

/// Checks that remain where the fingerprint is right: what a machine says of itself may be wrong, too.
#[test]
fn an_export_for_another_vault_or_recipient_or_of_this_tpm_is_refused() {
    let pair = Pair::new();
    let other = TestVault::new();
    pair.export();
    other
        .strongroom(&["pair", "add", "--yes", "--fingerprint", &pair.export()])
        .arg(pair.export_file())
        .fails_with(7)
        .says("it was made for vault");
    // B was handed a vault.json with a stranger's recipient, whose holder could write B's list.
    let file = pair.b.dir().join("vault.json");
    let mut manifest = read_json(&file);
    manifest["recovery-recipient"] = strange_recipient().into();
    write_json(&file, &manifest);
    pair.add_run(&pair.export())
        .fails_with(7)
        .says("another recovery recipient");
    // Nor is the vault's own TPM a second one.
    pair.a
        .strongroom(&["pair", "export"])
        .fails_with(7)
        .says("its TPM is the vault's own");
    // Storage keys that are open in any boot would open in a thief's.
    pair.copy();
    pair.export();
    let good = read_json(&pair.export_file());
    let own = read_json(&pair.a.dir().join("vault.json"));
    let x = good["writers"]["x"].clone();
    let others = own["tokens"]["keys"]["storage-key"].clone();
    for (part, value, reason) in [
        ("/tokens/datasets/storage-key", x, "not under its own boot"),
        (
            "/tokens/keys/storage-key",
            others.clone(),
            "not under its own boot",
        ),
        ("/storage-key", others, "not under its own boot"),
        ("/root-key", own["root-key"].clone(), "the vault's own TPM"),
    ] {
        let mut export = good.clone();
        *export.pointer_mut(part).expect("it is there") = value;
        let fingerprint = pair.write_export(&export);
        pair.add_run(&fingerprint).fails_with(7).says(reason);
    }
    let mut export = good.clone();
    export["tokens"]["keys"]["fence"] = 13.into();
    let fingerprint = pair.write_export(&export);
    pair.add_run(&fingerprint)
        .fails_with(7)
        .says("the fence of token keys");
    // One thing only the kit's holder sees: whether the kit would write that machine's list.
    let mut export = good.clone();
    export["writers"]["k-rec"]["private"] = encrypt_to(&strange_recipient(), &[9; 32]).into();
    let fingerprint = pair.write_export(&export);
    pair.add_run(&fingerprint).ok();
    let test = ["recovery-test", "--recovery"];
    let tested = pair
        .a
        .strongroom(&test)
        .arg(pair.a.recovery())
        .fails_with(1);
    assert!(
        tested
            .text()
            .contains("allowed boots of the second machine"),
        "{tested}"
    );
    let fingerprint = pair.export();
    pair.add_run(&fingerprint).ok();
    pair.a.strongroom(&test).arg(pair.a.recovery()).ok();
}

/// Who writes the boot disk puts a machine of their own into the manifest.
#[test]
fn a_machine_that_was_added_by_hand_gets_nothing() {
    let pair = Pair::new();
    let secrets = pair.fill();
    pair.export();
    let export = read_json(&pair.export_file());
    let storage_key = &export["storage-key"];
    let mut record = export.clone();
    for member in ["format", "vault", "recovery-recipient", "peer", "tokens"] {
        record.as_object_mut().expect("members").remove(member);
    }
    record["vault-key"] = duplicate::for_storage_key(storage_key, &[9; 32]);
    record["tokens"] = json!({"datasets": {
        "storage-key": export["tokens"]["datasets"]["storage-key"]
    }});
    let file = pair.a.dir().join("vault.json");
    let mut manifest = read_json(&file);
    let id = export["peer"].as_str().expect("an id").to_owned();
    manifest["peers"] = json!({ id: record });
    manifest["format"] = 4.into();
    write_json(&file, &manifest);
    let (id, _) = &secrets[0];
    let before = snapshot(&pair.a.dir());
    pair.a
        .strongroom(&["unseal", "--id", id])
        .fails_with(5)
        .says("changed by something other");
    pair.a
        .strongroom(&[
            "seal",
            "--token",
            "keys",
            "--label",
            "x",
            "--kind",
            "credential",
        ])
        .stdin("secret")
        .fails_with(5);
    pair.a
        .strongroom(&["pair", "remove", "--yes", &pair.id()])
        .fails_with(5);
    assert!(snapshot(&pair.a.dir()) == before, "nothing was written");
    pair.copy();
    let hex = pair.vault_key();
    pair.b
        .strongroom(&["pair", "settle", "--vault-key-sha256", &hex])
        .fails_with(5);
}

/// Anyone can encrypt to B's storage keys, and B's TPM imports it in an allowed boot. What comes out is
/// believed by K_vault alone.
#[test]
fn what_a_stranger_encrypts_to_the_second_machine_is_not_believed() {
    let pair = Pair::new();
    let secrets = pair.fill();
    pair.add();
    pair.copy();
    pair.settle_first();
    pair.copy();
    let (id, secret) = &secrets[0];
    let unseal = ["unseal", "--id", id];
    assert_eq!(pair.b.strongroom(&unseal).ok().stdout, *secret);
    let manifest_file = pair.b.dir().join("vault.json");
    let manifest = read_json(&manifest_file);
    let peer = &manifest["peers"][pair.id()];
    // A DEK of his.
    let object_file = pair.b.dir().join(format!("objects/credentials/{id}.json"));
    let object = read_json(&object_file);
    let mut forged = object.clone();
    let place = duplicate_place(&object);
    let storage_key = &peer["tokens"]["credentials"]["storage-key"];
    forged["slots"][place]["duplicate"] = duplicate::for_storage_key(storage_key, &[9; 32]);
    write_json(&object_file, &forged);
    pair.b
        .strongroom(&unseal)
        .fails_with(5)
        .says("changed by something other");
    write_json(&object_file, &object);
    // A whole vault of his, with a K_vault of his: in the manifest all is as he wants it.
    let stranger = [9; 32];
    let mut forged = manifest.clone();
    forged["peers"][pair.id()]["vault-key"] =
        duplicate::for_storage_key(&peer["storage-key"], &stranger);
    forged["recovery-recipient"] = strange_recipient().into();
    authenticate(&mut forged, "manifest", &stranger);
    write_json(&manifest_file, &forged);
    pair.b
        .strongroom(&unseal)
        .fails_with(5)
        .says("changed by something other");
    let seal = [
        "seal",
        "--token",
        "keys",
        "--label",
        "new",
        "--kind",
        "credential",
    ];
    let before = snapshot(&pair.b.dir());
    pair.b.strongroom(&seal).stdin("new").fails_with(5);
    // Without what this machine has sealed itself, he is not believed either.
    fs::remove_file(pair.own_key_file()).expect("it was there");
    pair.b
        .strongroom(&unseal)
        .fails_with(5)
        .says("has not sealed its vault key");
    pair.b.strongroom(&seal).stdin("new").fails_with(5);
    pair.b.strongroom(&["pair", "settle"]).fails_with(5);
    let named = ["pair", "settle", "--vault-key-sha256", &pair.vault_key()];
    pair.b
        .strongroom(&named)
        .fails_with(5)
        .says("another vault");
    assert!(!pair.own_key_file().exists());
    assert_eq!(
        snapshot(&pair.b.dir()).len() + 1,
        before.len(),
        "nothing was written"
    );
    // The attack itself works, as far as the TPM goes: who names his vault gets it.
    let his = hex::encode(Sha256::digest(stranger));
    pair.b
        .strongroom(&["pair", "settle", "--vault-key-sha256", &his])
        .fails_with(1);
    fs::remove_file(pair.own_key_file()).expect("his");
    write_json(&manifest_file, &manifest);
    pair.settle_first();
    assert_eq!(pair.b.strongroom(&unseal).ok().stdout, *secret);
}

#[test]
fn another_boot_of_the_second_machine_is_refused_and_the_drift_named() {
    let mut pair = Pair::new();
    let secrets = pair.fill();
    pair.add();
    pair.copy();
    pair.b.reboot(OTHER_BOOT);
    let settle = ["pair", "settle", "--vault-key-sha256", &pair.vault_key()];
    pair.b.strongroom(&settle).fails_with(3).says("PCR 9");
    pair.b.reboot(ITS_BOOT);
    pair.settle_first();
    let (id, secret) = &secrets[0];
    for settled in [true, false] {
        pair.b.reboot(OTHER_BOOT);
        pair.b
            .strongroom(&["unseal", "--id", id])
            .fails_with(3)
            .says("PCR 9");
        // The first machine's boot is none of the second's.
        pair.b.reboot(USUAL_BOOT);
        pair.b.strongroom(&["unseal", "--id", id]).fails_with(3);
        pair.b.reboot(ITS_BOOT);
        assert_eq!(pair.b.unseal_id(id), *secret, "settled: {settled}");
        pair.copy();
    }
}

#[test]
fn each_machine_has_its_own_list_of_allowed_boots() {
    let mut pair = Pair::new();
    let secrets = pair.fill();
    pair.add();
    pair.copy();
    pair.settle_first();
    let (id, secret) = &secrets[0];
    let own = pair.b.dir().join(format!("policy-{}.json", pair.id()));
    let of_a = read_json(&pair.a.dir().join("policy.json"));
    let pcr = hex::encode(Sha256::digest("another"));
    pair.b
        .strongroom(&["rebind", "--yes", "--add", &format!("9={pcr}")])
        .ok();
    assert_eq!(read_json(&own)["current"].as_array().map(Vec::len), Some(2));
    assert_eq!(pair.b.unseal_id(id), *secret);
    pair.b
        .strongroom(&["rebind", "--yes", "--pcrs", "7,11"])
        .ok();
    pair.b.reboot(OTHER_BOOT);
    assert_eq!(
        pair.b.unseal_id(id),
        *secret,
        "PCR 9 is not looked at any more"
    );
    assert_eq!(read_json(&pair.a.dir().join("policy.json")), of_a);
    assert_eq!(pair.a.unseal_id(id), *secret);
    // The kit writes it in whatever boot, and where the file is lost.
    pair.b.reboot(&[(7, "other keys"), (11, "other kernel")]);
    fs::remove_file(&own).expect("it was there");
    pair.b
        .strongroom(&["unseal", "--id", id])
        .fails_with(5)
        .says("policy-");
    pair.b
        .strongroom(&["rebind", "--yes", "--recovery"])
        .arg(pair.a.recovery())
        .ok();
    assert_eq!(pair.b.unseal_id(id), *secret);
}

#[test]
fn what_the_second_machine_seals_the_first_opens() {
    let pair = Pair::new();
    pair.fill();
    pair.add();
    pair.copy();
    pair.settle_first();
    let id = pair.b.seal("credentials", "made on B", b"by the second");
    assert_eq!(pair.b.unseal_id(&id), b"by the second");
    let file = format!("objects/credentials/{id}.json");
    fs::copy(pair.b.dir().join(&file), pair.a.dir().join(&file)).expect("copy");
    assert_eq!(pair.a.unseal_id(&id), b"by the second");
    pair.a.strongroom(&["pair", "settle"]).ok();
    assert_eq!(pair.a.unseal_id(&id), b"by the second");
    let object = read_json(&pair.a.dir().join(&file));
    let kinds: Vec<_> = slots(&object)
        .iter()
        .map(|slot| slot["type"].clone())
        .collect();
    assert_eq!(kinds, ["tpm", "tpm", "recovery"]);
    // It makes nothing that the first one would not have.
    pair.b
        .strongroom(&["token", "add", "web"])
        .fails_with(7)
        .says("a second one");
    let by_kit = ["unseal", "--id", &id, "--recovery"];
    let opened = pair.b.strongroom(&by_kit).arg(pair.a.recovery()).ok();
    assert_eq!(opened.stdout, b"by the second");
}

#[test]
fn a_removed_machine_gets_no_further_objects() {
    let pair = Pair::new();
    let secrets = pair.fill();
    pair.add();
    pair.copy();
    pair.settle_first();
    let id = pair.id();
    pair.a.strongroom(&["pair", "remove", "--yes", &id]).ok();
    let later = pair.a.seal("credentials", "later", b"not for B");
    for object in objects(&pair.a.dir()) {
        assert!(!object.to_string().contains(&id), "{object}");
        assert_eq!(object["metadata"]["format"], 1);
    }
    let manifest = read_json(&pair.a.dir().join("vault.json"));
    assert_eq!(manifest["format"], 1);
    assert!(manifest.get("peers").is_none());
    // Its own copy opens what it had, as is said; the later one it does not open.
    let file = format!("objects/credentials/{later}.json");
    fs::copy(pair.a.dir().join(&file), pair.b.dir().join(&file)).expect("copy");
    assert_eq!(pair.b.unseal_id(&secrets[0].0), secrets[0].1);
    pair.b
        .strongroom(&["unseal", "--id", &later])
        .fails_with(7)
        .says("was not given it");
    // And the new manifest does not know it.
    pair.copy();
    pair.b
        .strongroom(&["unseal", "--id", &secrets[0].0])
        .fails_with(4);
    pair.a
        .strongroom(&["pair", "remove", "--yes", &id])
        .fails_with(7);
    assert_eq!(pair.a.unseal_id(&later), b"not for B");
}

/// A PKCS#11 client goes on for weeks.
#[test]
fn what_was_unlocked_before_the_pairing_seals_for_the_second_machine_too() {
    let pair = Pair::new();
    let tcti: Tcti = pair.a.recorder().tcti().parse().expect("a TCTI");
    let unlock = || {
        let opened = Vault::open(&pair.a.dir()).expect("it opens");
        opened.unlock(&tcti).expect("it unlocks")
    };
    let object = |label: &str| {
        NewObject::new(
            TokenName::keys(),
            label.parse().expect("a label"),
            Kind::Credential,
        )
    };
    let id = pair.a.seal("keys", "listed", b"listed");
    let put_back = |files: &BTreeMap<PathBuf, Vec<u8>>| {
        for (file, content) in files {
            fs::write(file, content).expect("put back");
        }
    };
    let unpaired = snapshot(&pair.a.dir());
    pair.add();
    let paired = snapshot(&pair.a.dir());
    // Without a resource manager the programs would wait for the client: it sees what they did.
    put_back(&unpaired);
    let mut before = unlock();
    let objects = before.vault().list().expect("it lists").objects;
    let listed = objects
        .into_iter()
        .find(|object| object.id.to_string() == id);
    let listed = listed.expect("it is there");
    let copy = before
        .recovery_copy(&[&listed])
        .expect("a copy")
        .to_string();
    put_back(&paired);
    let id = before
        .seal(object("late"), &Secret::copy_of(b"late"))
        .expect("it seals");
    // What was listed is what it was: another machine's slots are nothing that a client knows of.
    let unsealed = before.unseal(&listed).expect("it opens");
    assert_eq!(unsealed.expose(), b"listed");
    let again = before
        .recovery_copy(&[&listed])
        .expect("a copy")
        .to_string();
    assert_eq!(again, copy, "a pool's property need not be written anew");
    drop(before);
    pair.copy();
    pair.settle_first();
    assert_eq!(pair.b.unseal_id(&id.to_string()), b"late");
    // Nor does it take over what a stranger has written meanwhile.
    let mut before = unlock();
    let file = pair.a.dir().join("vault.json");
    let mut forged = read_json(&file);
    forged["peers"][pair.id()]["pcrs"] = "7".into();
    write_json(&file, &forged);
    let refused = before.seal(object("later"), &Secret::copy_of(b"later"));
    assert!(refused.is_err(), "it is forged");
}

#[test]
fn a_pairing_that_is_made_anew_replaces_the_first() {
    let pair = Pair::new();
    let secrets = pair.fill();
    pair.add();
    let first = pair.id();
    pair.a.strongroom(&["token", "add", "web"]).ok();
    let left_out = pair.a.seal("web", "later", b"in a later token");
    let listed = pair.a.strongroom(&["pair", "list", "--json"]).ok().json();
    assert_eq!(listed["seconds"][0]["later-tokens"], json!(["web"]));
    assert_eq!(
        listed["seconds"][0]["left-out"][0]["object"]["id"],
        left_out.as_str()
    );
    pair.copy();
    pair.add();
    assert_ne!(pair.id(), first);
    for object in objects(&pair.a.dir()) {
        assert!(!object.to_string().contains(&first), "{object}");
    }
    pair.copy();
    pair.settle_first();
    assert_eq!(pair.b.unseal_id(&left_out), b"in a later token");
    assert_eq!(pair.b.unseal_id(&secrets[0].0), secrets[0].1);
}

#[test]
fn what_is_left_out_is_named() {
    let pair = Pair::on(TestVault::new());
    pair.a
        .strongroom(&["token", "add", "guarded", "--with-pins", "--pin-file"])
        .arg(file(&pair, "pin", "12345678"))
        .arg("--so-pin-file")
        .arg(file(&pair, "so-pin", "87654321"))
        .ok();
    pair.a
        .strongroom(&["seal", "--token", "guarded", "--label", "guarded one"])
        .args(["--kind", "credential", "--pin-file"])
        .arg(pair.a.folder().join("pin"))
        .stdin("behind the PIN")
        .ok();
    let open = pair
        .a
        .strongroom(&[
            "seal", "--token", "guarded", "--label", "open one", "--json",
        ])
        .args(["--kind", "credential", "--without-pin"])
        .stdin("beside it")
        .ok();
    pair.copy();
    let added = pair.add().json();
    let left_out = added["left-out"].as_array().expect("a list");
    assert_eq!(left_out.len(), 1, "{added}");
    assert_eq!(left_out[0]["object"]["label"], "guarded one");
    assert_eq!(left_out[0]["reason"], "behind a PIN");
    pair.copy();
    pair.settle_first();
    let id = open.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(pair.b.unseal_id(&id), b"beside it");
    pair.b
        .strongroom(&[
            "unseal",
            "--token",
            "guarded",
            "--label",
            "guarded one",
            "--pin-file",
        ])
        .arg(pair.a.folder().join("pin"))
        .fails_with(7)
        .says("behind a PIN");
    let status = pair.a.strongroom(&["status"]).ok();
    assert!(status.text().contains("left out: guarded one"), "{status}");
}

/// What does not go along by itself comes over with the kit.
#[test]
fn keys_and_what_is_behind_a_pin_come_over_with_the_kit() {
    let pair = Pair::new();
    pair.a
        .strongroom(&["token", "add", "guarded", "--with-pins", "--pin-file"])
        .arg(file(&pair, "pin", "12345678"))
        .arg("--so-pin-file")
        .arg(file(&pair, "so-pin", "87654321"))
        .ok();
    let seal = ["seal", "--token", "guarded", "--label", "guarded one"];
    pair.a
        .strongroom(&seal)
        .args(["--kind", "credential", "--pin-file"])
        .arg(pair.a.folder().join("pin"))
        .stdin("behind the PIN")
        .ok();
    let (imported, made) = {
        let tcti: Tcti = pair.a.recorder().tcti().parse().expect("a TCTI");
        let opened = Vault::open(&pair.a.dir()).expect("it opens");
        let mut unlocked = opened.unlock_to_write(&tcti).expect("it unlocks");
        let object = |label: &str| {
            let label = label.parse().expect("a label");
            NewObject::new(TokenName::keys(), label, Kind::PrivateKey)
        };
        let key = p256::SecretKey::random(&mut rsa::rand_core::OsRng);
        let pkcs8 = key.to_pkcs8_der().expect("PKCS#8");
        let imported = unlocked.import_key(object("imported"), &Secret::copy_of(pkcs8.as_bytes()));
        let made = unlocked.generate_key(object("made"), KeyAlgorithm::Ec(Curve::P256));
        (imported.expect("imported"), made.expect("made"))
    };
    pair.copy();
    let added = pair.add().json();
    let reasons: Vec<_> = added["left-out"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|left| left["reason"].as_str().expect("a reason").to_owned())
        .collect();
    assert_eq!(reasons.len(), 3, "{added}");
    pair.copy();
    pair.settle_first();
    let tcti: Tcti = pair.b.recorder().tcti().parse().expect("a TCTI");
    let load = |id: ObjectId| {
        let opened = Vault::open(&pair.b.dir()).expect("it opens");
        let mut unlocked = opened.unlock(&tcti).expect("it unlocks");
        unlocked.load_key(id).map(|_| ())
    };
    for id in [imported, made] {
        let refused = load(id).expect_err("it is in A's TPM").to_string();
        assert!(refused.contains("the vault's own machine"), "{refused}");
    }
    // Not in silence: the one is lost.
    let recover = ["recover", "--yes", "--recovery"];
    pair.b
        .strongroom(&recover)
        .arg(pair.a.recovery())
        .fails_with(2);
    let lose = pair.b.strongroom(&recover).arg(pair.a.recovery());
    lose.arg("--lose-keys").fails_with(1);
    load(imported).expect("it is here now");
    pair.b
        .strongroom(&["token", "set-pin", "guarded", "--recovery"])
        .arg(pair.a.recovery())
        .arg("--pin-file")
        .arg(pair.a.folder().join("pin"))
        .ok();
    let opened = pair
        .b
        .strongroom(&[
            "unseal",
            "--token",
            "guarded",
            "--label",
            "guarded one",
            "--pin-file",
        ])
        .arg(pair.a.folder().join("pin"))
        .ok();
    assert_eq!(opened.stdout, b"behind the PIN");
}

#[test]
fn a_token_that_was_given_to_a_group_is_theirs_on_the_second_machine_too() {
    let pair = Pair::new();
    pair.fill();
    pair.add();
    pair.copy();
    pair.settle_first();
    let own = format!("policy-{}.json", pair.id());
    let mode = |name: &str| {
        let file = pair.b.dir().join(name);
        fs::metadata(file)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777
    };
    fs::copy(
        pair.a.dir().join("policy.json"),
        pair.b.dir().join("policy.json"),
    )
    .expect("copy");
    pair.b
        .strongroom(&["token", "allow", "keys", "--group", "0"])
        .ok();
    assert_eq!(
        [mode(&own), mode(&own.replace("policy", "vault-key"))],
        [0o644; 2]
    );
    pair.b.strongroom(&["rebind", "--yes", "--pcrs", "7"]).ok();
    assert_eq!(mode(&own), 0o644);
    pair.b.strongroom(&["token", "deny", "keys"]).ok();
    assert_eq!(
        [mode(&own), mode(&own.replace("policy", "vault-key"))],
        [0o600; 2]
    );
}

#[test]
fn a_fence_is_closed_on_the_second_machine_too() {
    let mut pair = Pair::on(TestVault::on(Swtpm::measured(), &["--fence", "13"]));
    let secrets = pair.fill();
    pair.add();
    pair.copy();
    pair.settle_first();
    pair.copy();
    let (id, secret) = secrets.last().expect("the dataset's");
    for _settled in [false, true] {
        assert_eq!(pair.b.unseal_id(id), *secret);
        pair.b.tpm().extend(13, b"closed");
        pair.b
            .strongroom(&["unseal", "--id", id])
            .fails_with(3)
            .says("the fence");
        let settled = pair.b.strongroom(&["pair", "settle", "--json"]).ok().json();
        let fenced = settled["fenced"].as_array().expect("a list");
        assert!(
            fenced.iter().all(|object| object["id"] == id.as_str()),
            "{settled}"
        );
        pair.b.reboot(ITS_BOOT);
        pair.b.strongroom(&["pair", "settle"]).ok();
    }
}

#[test]
fn recover_on_the_second_machine_makes_it_the_vaults_own() {
    let pair = Pair::new();
    let secrets = pair.fill();
    pair.add();
    pair.copy();
    pair.settle_first();
    let indices = pair.b.tpm().handles("nv-index").len();
    pair.b
        .strongroom(&["recover", "--yes", "--recovery"])
        .arg(pair.a.recovery())
        .ok();
    let status = pair.b.strongroom(&["status", "--json"]).ok().json();
    assert!(
        status["second"].is_null() && status["seconds"] == json!([]),
        "{status}"
    );
    for (id, secret) in &secrets {
        assert_eq!(pair.b.unseal_id(id), *secret);
    }
    for object in objects(&pair.b.dir()) {
        assert_eq!(object["metadata"]["format"], 1);
        assert_eq!(slots(&object).len(), 2, "{object}");
    }
    assert_eq!(
        pair.b.tpm().handles("nv-index").len(),
        indices,
        "the former N is gone"
    );
    assert!(!pair.own_key_file().exists());
    pair.b.strongroom(&["token", "add", "web"]).ok();
}

#[test]
fn the_first_machine_on_a_new_board_keeps_the_second() {
    let mut pair = Pair::new();
    let secrets = pair.fill();
    pair.add();
    pair.copy();
    pair.settle_first();
    pair.a.replace_tpm(Swtpm::measured());
    pair.a
        .strongroom(&["recover", "--yes", "--recovery"])
        .arg(pair.a.recovery())
        .ok();
    for (id, secret) in &secrets {
        assert_eq!(pair.a.unseal_id(id), *secret);
    }
    pair.copy();
    let later = pair.a.seal("keys", "later", b"sealed on the new board");
    pair.copy();
    for (id, secret) in &secrets {
        assert_eq!(pair.b.unseal_id(id), *secret);
    }
    assert_eq!(pair.b.unseal_id(&later), b"sealed on the new board");
}

#[test]
fn a_backup_has_what_a_second_machine_needs() {
    let mut pair = Pair::new();
    let secrets = pair.fill();
    pair.add();
    let backup = pair.a.folder().join("backup");
    pair.a.strongroom(&["backup"]).arg(&backup).ok();
    pair.a
        .strongroom(&["recovery-test", "--recovery"])
        .arg(pair.a.recovery())
        .arg("--backup")
        .arg(&backup)
        .ok();
    fs::remove_dir_all(pair.a.dir()).expect("the folder is lost");
    pair.a.replace_tpm(Swtpm::measured());
    pair.a
        .strongroom(&["recover", "--yes", "--recovery"])
        .arg(pair.a.recovery())
        .arg("--backup")
        .arg(&backup)
        .ok();
    pair.copy();
    pair.settle_first();
    for (id, secret) in &secrets {
        assert_eq!(pair.a.unseal_id(id), *secret);
        assert_eq!(pair.b.unseal_id(id), *secret);
    }
}

#[test]
fn an_object_costs_no_command_more_for_a_second_machine() {
    let alone = TestVault::new();
    let pair = Pair::new();
    let unpaired = seal_some(&alone, 8);
    seal_some(&pair.a, 8);
    pair.export();
    let fingerprint = pair.export();
    pair.a.recorder().take();
    pair.add_run(&fingerprint).ok();
    let added = pair.a.recorder().take();
    // What it takes to unseal each, and not one more.
    let count = |name: &str| added.iter().filter(|command| command.name == name).count();
    assert_eq!(
        (count("Unseal"), count("Create"), count("Import")),
        (9, 0, 0)
    );
    let once = seal_some(&pair.a, 1);
    let twice = seal_some(&pair.a, 2);
    assert_eq!(twice - once, (unpaired - seal_some(&alone, 1)) / 7);
}

/// As docs/operations.md says.
#[test]
fn what_was_sent_costs_three_commands_more_until_it_is_settled() {
    let pair = Pair::new();
    let secrets = pair.fill();
    pair.add();
    pair.copy();
    pair.settle_first();
    let settled = pair.commands_of_unsealing(&secrets[0].0);
    pair.copy();
    assert_eq!(pair.commands_of_unsealing(&secrets[0].0), settled + 3);
    let pcr = hex::encode(Sha256::digest("another"));
    pair.b
        .strongroom(&["rebind", "--yes", "--add", &format!("9={pcr}")])
        .ok();
    let of_two_boots = pair.commands_of_unsealing(&secrets[0].0);
    pair.b.strongroom(&["pair", "settle"]).ok();
    assert_eq!(pair.commands_of_unsealing(&secrets[0].0) + 4, of_two_boots);
}

#[test]
#[ignore = "seals 1,000 objects"]
fn a_thousand_objects_are_given_and_settled() {
    let pair = Pair::new();
    seal_some(&pair.a, 1000);
    let fingerprint = pair.export();
    for again in [false, true] {
        pair.a.recorder().take();
        let start = std::time::Instant::now();
        pair.add_run(&fingerprint).ok();
        let commands = pair.a.recorder().take();
        println!(
            "add, again {again}: {} commands, {:?}",
            commands.len(),
            start.elapsed()
        );
        assert!(
            !again || commands.len() < 40,
            "nothing is unsealed that need not be"
        );
    }
    pair.copy();
    pair.b.recorder().take();
    let start = std::time::Instant::now();
    pair.settle_first();
    println!(
        "settle: {} commands, {:?}",
        pair.b.recorder().take().len(),
        start.elapsed()
    );
    for object in objects(&pair.b.dir()).iter().step_by(100) {
        let id = object["metadata"]["id"].as_str().expect("an id");
        assert_eq!(pair.b.unseal_id(id), b"secret");
    }
}

/// strace kills the program at each rename, by which alone anything in a vault changes.
#[test]
fn killed_at_every_step_adding_and_settling_can_be_done_again() {
    let traced = Command::new("strace")
        .args(["-qq", "-e", "trace=none", "true"])
        .status();
    if !traced.is_ok_and(|status| status.success()) {
        println!("skipped: there is no strace that may trace");
        return;
    }
    let pair = Pair::new();
    let secrets = pair.fill();
    let fingerprint = pair.export();
    let add = ["pair", "add", "--yes", "--fingerprint", &fingerprint];
    let export = pair.export_file();
    let mut kills = 0;
    // One more object is given each time, until it is done.
    while killed_at_rename(&pair.a, &add, Some(&export), 2) {
        kills += 1;
        for (id, secret) in &secrets {
            assert_eq!(pair.a.unseal_id(id), *secret, "A is never worse off");
        }
        assert!(kills < 20);
    }
    assert!(kills >= 3, "{kills}");
    pair.add_run(&fingerprint).ok();
    pair.copy();
    let hex = pair.vault_key();
    let settle = ["pair", "settle", "--vault-key-sha256", &hex];
    // The first is of the vault key, and is made each time.
    assert!(killed_at_rename(&pair.b, &settle, None, 1));
    pair.b
        .strongroom(&["unseal", "--id", &secrets[0].0])
        .fails_with(5);
    let mut kills = 0;
    while killed_at_rename(&pair.b, &settle, None, 3) {
        kills += 1;
        for (id, secret) in &secrets {
            assert_eq!(pair.b.unseal_id(id), *secret, "nor is B");
        }
        assert!(kills < 20);
    }
    assert!(kills >= 1, "{kills}");
    pair.settle_first();
    let listed = pair.b.strongroom(&["pair", "list", "--json"]).ok().json();
    assert_eq!(listed["seconds"][0]["settled-here"], 3);
    for (id, secret) in &secrets {
        assert_eq!(pair.b.unseal_id(id), *secret);
    }
}

/// The same between the commands of the TPM.
#[test]
fn cut_off_between_tpm_commands_adding_and_settling_can_be_done_again() {
    let pair = Pair::new();
    let secrets = pair.fill();
    let fingerprint = pair.export();
    let (gate_a, gate_b) = (
        Gate::start(pair.a.recorder()),
        Gate::start(pair.b.recorder()),
    );
    for commands in (0..60).step_by(7) {
        gate_a.cut_after(commands);
        let _ = pair
            .add_run(&fingerprint)
            .env("STRONGROOM_TCTI", gate_a.tcti())
            .finish();
        gate_a.open();
        pair.a.tpm().flush();
        for (id, secret) in &secrets {
            assert_eq!(pair.a.unseal_id(id), *secret, "A is never worse off");
        }
    }
    pair.add_run(&fingerprint).ok();
    pair.copy();
    pair.settle_first();
    pair.copy();
    for commands in (0..80).step_by(9) {
        gate_b.cut_after(commands);
        let settle = pair.b.strongroom(&["pair", "settle"]);
        let _ = settle.env("STRONGROOM_TCTI", gate_b.tcti()).finish();
        gate_b.open();
        pair.b.tpm().flush();
        for (id, secret) in &secrets {
            assert_eq!(pair.b.unseal_id(id), *secret, "nor is B");
        }
    }
    pair.b.strongroom(&["pair", "settle"]).ok();
}

/// Runs a program under strace, which kills it at this rename. Answers whether it came so far.
fn killed_at_rename(vault: &TestVault, args: &[&str], file: Option<&Path>, place: u64) -> bool {
    let mut run = vault
        .run("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=rename", "-e"])
        .arg(format!("inject=rename:signal=KILL:when={place}"))
        .arg(vault.programs().strongroom())
        .args(args);
    if let Some(file) = file {
        run = run.arg(file);
    }
    let ended = run.finish();
    vault.tpm().flush();
    match ended.code() {
        None => true,
        Some(code) => {
            assert_eq!(code, 0, "{ended}");
            false
        }
    }
}

/// Seals some objects in one go. Answers how many TPM commands that took.
fn seal_some(vault: &TestVault, count: usize) -> usize {
    vault.recorder().take();
    let tcti: Tcti = vault.recorder().tcti().parse().expect("a TCTI");
    let opened = Vault::open(&vault.dir()).expect("it opens");
    let mut unlocked = opened.unlock_to_write(&tcti).expect("it unlocks");
    for place in 0..count {
        let label = format!("object {place}").parse().expect("a label");
        let object = NewObject::new(TokenName::keys(), label, Kind::Credential);
        let sealed = unlocked.seal(object, &Secret::copy_of(b"secret"));
        sealed.expect("it seals");
    }
    drop(unlocked);
    vault.recorder().take().len()
}

fn file(pair: &Pair, name: &str, text: &str) -> PathBuf {
    let file = pair.a.folder().join(name);
    fs::write(&file, text).expect("write");
    file
}

fn slots(object: &Value) -> &Vec<Value> {
    object["slots"].as_array().expect("slots")
}

fn duplicate_place(object: &Value) -> usize {
    let is_one = |slot: &Value| slot["type"] == "tpm-duplicate";
    slots(object).iter().position(is_one).expect("it was sent")
}

fn objects(dir: &Path) -> Vec<Value> {
    let files = snapshot(&dir.join("objects")).into_keys();
    files.map(|file| read_json(&file)).collect()
}

/// Two machines, and one admin.
struct Pair {
    a: TestVault,
    b: TestVault,
}

impl Pair {
    /// A vault on A, and a copy of its `vault.json` on B.
    fn new() -> Self {
        Self::on(TestVault::new())
    }

    fn on(a: TestVault) -> Self {
        let b = TestVault::without_init(Swtpm::boot(ITS_BOOT));
        fs::create_dir(b.dir()).expect("create B's folder");
        fs::copy(a.dir().join("vault.json"), b.dir().join("vault.json")).expect("copy vault.json");
        Self { a, b }
    }

    /// An object of each kind that goes along, with what it holds.
    fn fill(&self) -> Vec<(String, Vec<u8>)> {
        let mut secrets = Vec::new();
        for (token, label) in [("credentials", "offsite"), ("keys", "hook")] {
            let secret = format!("the secret of {label}").into_bytes();
            secrets.push((self.a.seal(token, label, &secret), secret));
        }
        let sealed = self
            .a
            .strongroom(&[
                "seal",
                "--token",
                "datasets",
                "--label",
                "tank/home",
                "--json",
            ])
            .args(["--kind", "dataset-key", "--keyformat", "raw"])
            .stdin(vec![7; 32])
            .ok();
        let id = sealed.json()["id"].as_str().expect("an id").to_owned();
        secrets.push((id, vec![7; 32]));
        secrets
    }

    fn export_file(&self) -> PathBuf {
        self.b.folder().join("export")
    }

    /// Exports on B. Answers the fingerprint.
    fn export(&self) -> String {
        let _ = fs::remove_file(self.export_file());
        let made = self
            .b
            .strongroom(&["pair", "export", "--json", "--out"])
            .arg(self.export_file())
            .ok();
        made.json()["fingerprint"]
            .as_str()
            .expect("shown")
            .to_owned()
    }

    fn add_run(&self, fingerprint: &str) -> Run {
        self.a
            .strongroom(&[
                "pair",
                "add",
                "--yes",
                "--json",
                "--fingerprint",
                fingerprint,
            ])
            .arg(self.export_file())
    }

    /// Exports on B and adds on A. Answers what that has said.
    fn add(&self) -> Output {
        self.add_run(&self.export()).ok()
    }

    /// A's folder onto B, as the documentation has it.
    fn copy(&self) {
        copy_but_own(&self.a.dir(), &self.b.dir());
    }

    fn commands_of_unsealing(&self, id: &str) -> usize {
        self.b.recorder().take();
        self.b.unseal_id(id);
        self.b.recorder().take().len()
    }

    /// Writes another export, and answers the fingerprint that it has.
    fn write_export(&self, export: &Value) -> String {
        write_json(&self.export_file(), export);
        hex::encode(Sha256::digest(serde_json::to_vec(export).expect("JSON")))
    }

    /// The second machine's id.
    fn id(&self) -> String {
        let export = read_json(&self.export_file());
        export["peer"].as_str().expect("an id").to_owned()
    }

    /// Where B keeps K_vault as it has sealed it.
    fn own_key_file(&self) -> PathBuf {
        self.b.dir().join(format!("vault-key-{}.json", self.id()))
    }

    fn vault_key(&self) -> String {
        let kit = fs::read_to_string(self.a.recovery()).expect("the kit");
        let line = kit
            .lines()
            .find_map(|line| line.strip_prefix("# vault key SHA-256: "));
        line.expect("its line").to_owned()
    }

    fn settle_first(&self) {
        self.b
            .strongroom(&["pair", "settle", "--vault-key-sha256", &self.vault_key()])
            .ok();
    }
}

/// `rsync -a` without what is a machine's own.
fn copy_but_own(from: &Path, to: &Path) {
    let is_own = |file: &Path| {
        let name = file.to_string_lossy();
        name.starts_with("policy") || name.starts_with("event-logs") || name.starts_with('.')
    };
    for (file, content) in snapshot(from) {
        let file = file.strip_prefix(from).expect("a file of the folder");
        if !is_own(file) {
            let file = to.join(file);
            fs::create_dir_all(file.parent().expect("a folder")).expect("make folders");
            fs::write(file, content).expect("copy");
        }
    }
}
