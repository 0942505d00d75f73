//! docs/format.md: that it says the truth. A reader and a writer made from the document alone
//! (tests/reader, Python) agree with the programs byte for byte, refuse what the document has them
//! refuse, and the document's own example checks out. And what was written once stays readable: one
//! frozen vault, and one test, for each version of the format.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use strongroom::key::{Curve, KeyAlgorithm};
use strongroom::object::{Kind, NewObject, ObjectId, PIN, TokenName};
use strongroom::pin::{Pin, Role};
use strongroom::recovery::RecoveryKit;
use strongroom::vault::{NewToken, Recovered};
use strongroom::{Secret, Tcti, Unlocked, Vault};
use strongroom_tests::truenas_fixture::{Fixture, Generation};
use strongroom_tests::vault_files::{KeyFile, snapshot};
use strongroom_tests::{Output, Run, Swtpm, TestVault};

/// The PINs of the token `guarded`.
const USER: &str = "größer als 1234";
const OFFICER: &str = "87654321";

/// Debian's own Python, whatever else is on the PATH: it has Debian's python3-cryptography.
const PYTHON: &str = "/usr/bin/python3";

#[test]
fn a_stranger_reads_what_strongroom_wrote() {
    let vault = TestVault::new();
    let large = large();
    let id = vault.seal("credentials", "100 KiB", &large);
    for (label, secret) in labels() {
        vault.seal("credentials", label, secret.as_bytes());
    }
    seal_dataset_key(&vault, "tank/größe", "passphrase", b"correct horse");
    seal_dataset_key(&vault, "tank/raw", "raw", &Sha256::digest("raw"));
    migrate(&vault, Generation::Mixed);
    let backup = back_up(&vault);

    let objects = listed(&vault);
    let attribute = |name: &str| {
        objects
            .iter()
            .filter(|object| object["attributes"][name].is_string())
            .count()
    };
    assert!(attribute("keyformat") > 2 && attribute("origin") > 2);
    for source in [vault.dir(), backup] {
        let read = Reader::of(&vault, &source);
        assert_eq!(sorted(read.list()), sorted(objects.clone()));
        assert_eq!(read.digests(), unsealed_digests(&vault));
        assert!(read.show(&id) == large, "{}", source.display());
    }
}

#[test]
fn a_stranger_reads_a_vault_that_moved_to_another_tpm() {
    let mut vault = TestVault::new();
    let large = large();
    let id = vault.seal("credentials", "100 KiB", &large);
    seal_dataset_key(&vault, "tank/größe", "passphrase", b"correct horse");
    migrate(&vault, Generation::V25_10);
    let (before, old_backup) = (unsealed_digests(&vault), back_up(&vault));

    let file = vault.dir().join(format!("objects/credentials/{id}.json"));
    let mut slots = slots_of(&read_json(&file));
    for _ in 0..2 {
        vault.replace_tpm(Swtpm::measured());
        recover(&vault, &[]);
        assert_eq!(unsealed_digests(&vault), before);
        // The slot of the TPM that it is on now, and the way of the kit as it always was.
        let moved = slots_of(&read_json(&file));
        assert_eq!(kinds(&moved), ["tpm", "recovery"]);
        assert_ne!(moved[0], slots[0]);
        assert_eq!(moved[1], slots[1]);
        slots = moved;
    }
    for source in [vault.dir(), back_up(&vault), old_backup] {
        let read = Reader::of(&vault, &source);
        assert_eq!(read.digests(), before, "{}", source.display());
        assert!(read.show(&id) == large, "{}", source.display());
        read.policy();
    }
}

#[test]
fn a_stranger_reads_keys_and_certificates() {
    let mut vault = TestVault::new();
    let mut unlocked = unlock(&vault);
    let keys = Keys::make(&vault, &mut unlocked);
    let Keys {
        made,
        secrets,
        files,
        ..
    } = &keys;

    // Their forms, which a change of the label leaves as they are.
    let first: BTreeMap<_, _> = files
        .iter()
        .map(|(id, file)| (id, read_json(file)))
        .collect();
    let imported = |object: &Value| kinds(&slots_of(object)) == ["tpm-key", "recovery"];
    let bad_place = first.iter().find(|(_, object)| imported(object));
    let one_imported = (*bad_place.expect("it went into the TPM").0).clone();
    for label in ["changed", "changed again"] {
        for id in files.keys() {
            let id: ObjectId = id.parse().expect("an id");
            let change = |object: &mut NewObject| object.label = label.parse().expect("a label");
            unlocked.update(id, change).expect("update");
        }
        for (id, file) in files {
            let (before, object) = (&first[id], read_json(file));
            assert_eq!(object["metadata"]["label"], *label);
            if imported(before) {
                assert_eq!(object["payload"]["encrypted-as"], before["metadata"]);
                assert_eq!(object["slots"], before["slots"]);
            } else {
                assert_eq!(object["payload"]["encrypted-as"], Value::Null);
                assert_eq!(kinds(&slots_of(&object)), kinds(&slots_of(before)));
            }
        }
    }
    drop(unlocked);
    let residences = secrets.keys().map(|id| {
        let attributes = &first[id]["metadata"]["attributes"];
        attributes["residence"].as_str().expect("a text")
    });
    let in_tpm = residences.filter(|residence| *residence == "tpm").count();
    assert_eq!(in_tpm, 2);

    keys.agree(&vault);
    a_key_has_one_spelling(&vault, &one_imported, &files[&one_imported]);
    let made_file = &files[&made[0]];
    keys_are_what_they_say(&vault, &files[&one_imported], made_file);

    // On another TPM: the imported ones are there, those that were made are lost with theirs.
    vault.replace_tpm(Swtpm::measured());
    let recovered = recover_here(&vault);
    assert_eq!((recovered.objects, recovered.lost.len()), (4, 2));
    for (id, file) in files {
        let (before, object) = (&first[id], read_json(file));
        assert_eq!(kinds(&slots_of(&object)), kinds(&slots_of(before)));
        let same = object["slots"][0] == before["slots"][0];
        assert_eq!(same, !secrets.contains_key(id), "{id}");
        if imported(before) {
            assert_eq!(object["payload"]["encrypted-as"], before["metadata"]);
            assert_eq!(object["slots"][1], before["slots"][1]);
        }
    }
    keys.agree(&vault);
}

/// Private keys of every form, and a certificate.
struct Keys {
    made: [String; 2],
    /// PKCS#8, by id.
    secrets: BTreeMap<String, Vec<u8>>,
    certificate: String,
    files: BTreeMap<String, PathBuf>,
}

impl Keys {
    fn make(vault: &TestVault, unlocked: &mut Unlocked) -> Self {
        let mut generate = |label: &str, algorithm| {
            let made = unlocked.generate_key(key(label), algorithm);
            made.expect("generate").to_string()
        };
        let made = [
            generate("made", KeyAlgorithm::Rsa(2048)),
            generate("made", KeyAlgorithm::Ec(Curve::P384)),
        ];
        let mut secrets = BTreeMap::new();
        for (label, algorithm, option) in [
            ("imported", "RSA", "rsa_keygen_bits:2048"),
            ("imported", "EC", "ec_paramgen_curve:P-256"),
            // The TPM does not take it: a key in memory.
            ("in memory", "RSA", "rsa_keygen_pubexp:3"),
        ] {
            let pkcs8 = new_pkcs8(algorithm, option);
            let imported = unlocked.import_key(key(label), &Secret::copy_of(&pkcs8));
            secrets.insert(imported.expect("import").to_string(), pkcs8);
        }
        let public = NewObject::new(
            TokenName::keys(),
            "public".parse().expect("a label"),
            Kind::Certificate,
        );
        let certificate = public.with_attribute("certificate", BASE64.encode("a certificate"));
        let certificate = unlocked.store(certificate).expect("store").to_string();
        let files: BTreeMap<String, PathBuf> = secrets
            .keys()
            .chain(&made)
            .chain([&certificate])
            .map(|id| {
                (
                    id.clone(),
                    vault.dir().join(format!("objects/keys/{id}.json")),
                )
            })
            .collect();

        Self {
            made,
            secrets,
            certificate,
            files,
        }
    }

    /// What the reader and the programs say of them.
    fn agree(&self, vault: &TestVault) {
        for source in [vault.dir(), back_up(vault)] {
            let read = Reader::of(vault, &source);
            assert_eq!(sorted(read.list()), sorted(listed(vault)));
            let digests = self
                .secrets
                .iter()
                .map(|(id, secret)| (id.clone(), hex::encode(Sha256::digest(secret))));
            assert_eq!(read.digests(), digests.collect());
            for (id, secret) in &self.secrets {
                assert!(read.show(id) == *secret, "{id}");
            }
            for id in &self.made {
                assert_eq!(kinds(&slots_of(&read_json(&self.files[id]))), ["tpm-key"]);
                let show = read.run(&["show", "--id", id]);
                show.fails_with(5).says("in its TPM alone");
                let unseal = ["unseal", "--id", id, "--recovery"];
                let refused = vault.strongroom(&unseal).arg(vault.recovery());
                refused.fails_with(7).says("does not give it out");
            }
            let show = read.run(&["show", "--id", &self.certificate]);
            show.fails_with(5).says("no secret");
            read.policy();
        }
    }
}

/// An imported key whose label was changed, in ways in which it is refused.
fn a_key_has_one_spelling(vault: &TestVault, id: &str, file: &Path) {
    let good = read_json(file);
    let mut bad = Bad::of(vault, file);
    bad.doubled("/payload/encrypted-as");
    bad.doubled("/slots/0");
    bad.null("/payload/encrypted-as", "pool-guid");
    bad.as_array(
        "/payload",
        &["nonce", "ciphertext", "commitment", "encrypted-as"],
    );
    for (part, value) in [
        ("/payload/encrypted-as", json!({})),
        ("/payload/encrypted-as", Value::Null),
        ("/payload/encrypted-as/label", json!("")),
        ("/payload/encrypted-as/attributes", json!({})),
        ("/payload/encrypted-as/new", json!(1)),
        ("/payload/encrypted-as/generation", json!("1")),
        ("/slots/0/type", json!("tpm-keys")),
        ("/slots/0/type", json!(["tpm-key"])),
        ("/slots/0/age", json!("")),
        ("/slots/1/type", json!("tpm-key")),
        ("/slots/0/key-file", json!("AB==")),
    ] {
        bad.signed(with(&good, part, value));
    }
    let by_kit = ["unseal", "--id", id, "--recovery"];
    bad.refused_by_both(&["show", "--id", id], &[&by_kit]);

    // Authentic, and of a spelling that is right; but the payload was encrypted as something else.
    let mut own = good.clone();
    let payload = own["payload"].as_object_mut().expect("an object");
    payload.remove("encrypted-as");
    let other = with(&good, "/payload/encrypted-as/label", json!("another"));
    for bad in [own, other] {
        write_json(file, &signed(vault, &bad));
        let show = Reader::of(vault, &vault.dir()).run(&["show", "--id", id]);
        show.fails_with(5).says("does not open");
        let refused = vault.strongroom(&by_kit).arg(vault.recovery());
        refused.fails_with(5).says("does not open");
    }
    write_json(file, &good);
}

/// The TPM's key in a slot is the one that the attributes tell of.
fn keys_are_what_they_say(vault: &TestVault, imported: &Path, made: &Path) {
    let (good, other) = (read_json(imported), read_json(made));
    let attributes = "/metadata/attributes";
    let public = &other["metadata"]["attributes"]["public-key"];
    for (file, bad) in [
        (
            made,
            with(&other, &format!("{attributes}/local"), json!("false")),
        ),
        (
            made,
            with(
                &other,
                &format!("{attributes}/algorithm"),
                json!("rsa-3072"),
            ),
        ),
        (
            made,
            with(&other, &format!("{attributes}/residence"), json!("memory")),
        ),
        (made, with(&other, "/metadata/kind", json!("credential"))),
        (made, with(&other, "/slots/0/type", json!("tpm"))),
        (
            imported,
            with(
                &good,
                "/slots/0/key-file",
                other["slots"][0]["key-file"].clone(),
            ),
        ),
        (
            imported,
            with(&good, &format!("{attributes}/public-key"), public.clone()),
        ),
    ] {
        let before = read_json(file);
        write_json(file, &signed(vault, &bad));
        let read = Reader::of(vault, &vault.dir()).run(&["policy"]);
        assert!(!read.status.success(), "{bad:#}: {read}");
        write_json(file, &before);
    }
    Reader::of(vault, &vault.dir()).policy();
}

#[test]
fn a_stranger_reads_what_is_behind_a_pin() {
    let mut vault = TestVault::new();
    let guarded = Guarded::make(&vault);
    let file = vault.dir().join("vault.json");
    let manifest = || read_json(&file);
    assert_eq!(manifest()["format"], 2);
    guarded.agree(&vault);

    // What the TPM counts, and takes for the PIN, is what the document says.
    let (before, names) = (manifest(), pins_agree(&vault, [(0, 10), (0, 10)]));
    for (role, index, pin) in [(Role::User, 0, USER), (Role::SecurityOfficer, 1, OFFICER)] {
        give_to_the_tpm(&vault, role, "wrong").fails_with(1);
        let mut counted = [(0, 10); 2];
        counted[index].0 = 1;
        pins_agree(&vault, counted);
        give_to_the_tpm(&vault, role, pin).ok();
        pins_agree(&vault, [(0, 10), (0, 10)]);
    }
    for (id, asks) in [(&guarded.private, true), (&guarded.public, false)] {
        let trace = Reader::of(&vault, &vault.dir()).run(&["trace", "--id", id]);
        let dek = texts(&trace.ok().json())["DEK"].clone();
        for pin in [Some(USER), None] {
            let opened = open_at_the_tpm(&vault, id, asks, pin);
            if asks && pin.is_none() {
                assert!(!opened.status.success(), "{opened}");
            } else {
                assert_eq!(hex::encode(opened.ok().stdout), dek);
            }
        }
    }

    // Removed from the TPM, N and both of them: the kit makes them again, the same.
    for handle in pin_handles(&before)
        .into_iter()
        .chain([hex_handle(&before["index"])])
    {
        vault.tpm().tpm2(&["nvundefine", &handle]).ok();
    }
    assert!(!recover_here(&vault).moved);
    for (role, pin) in [(Role::SecurityOfficer, OFFICER), (Role::User, USER)] {
        set_pin_by_recovery(&vault, role, pin);
    }
    assert_eq!(manifest(), before);
    assert_eq!(pins_agree(&vault, [(0, 10), (0, 10)]), names);
    guarded.agree(&vault);

    // On another TPM they are made anew, and nobody knows them until the kit has set them.
    vault.replace_tpm(Swtpm::measured());
    let recovered = recover_here(&vault);
    assert_eq!(recovered.lost.len(), 1, "the key that was made in the TPM");
    let moved = manifest();
    let (old, new) = (&before["tokens"]["guarded"], &moved["tokens"]["guarded"]);
    assert_eq!(moved["format"], 2);
    assert_eq!(old["label"], new["label"]);
    assert_eq!(old["write-protected"], new["write-protected"]);
    for part in [
        "/pins/storage-key",
        "/pins/indices/user/first-writer",
        "/pins/indices/security-officer/first-writer",
        "/pins/indices/user/changer",
        "/pins/indices/security-officer/changer",
    ] {
        assert_ne!(old.pointer(part), new.pointer(part), "{part}");
    }
    let moved = pins_agree(&vault, [(0, 0), (0, 0)]);
    assert_ne!(moved, names);
    set_pin_by_recovery(&vault, Role::User, USER);
    assert_eq!(pins_agree(&vault, [(0, 10), (0, 0)]), moved);
    give_to_the_tpm(&vault, Role::User, USER).ok();
    open_at_the_tpm(&vault, &guarded.private, true, Some(USER)).ok();
    guarded.agree(&vault);
}

/// What is in a token with PINs.
struct Guarded {
    private: String,
    public: String,
    /// Payloads, by id.
    secrets: BTreeMap<String, Vec<u8>>,
}

impl Guarded {
    fn make(vault: &TestVault) -> Self {
        let mut unlocked = add_guarded_token(vault);
        let mut seal = |label, needs: &str| {
            let object = in_guarded(label, Kind::Credential).with_attribute(PIN, needs);
            let sealed = unlocked.seal(object, &Secret::copy_of(label.as_bytes()));
            sealed.expect("seal").to_string()
        };
        let (private, public) = (seal("private", "true"), seal("public", "false"));
        let pkcs8 = new_pkcs8("EC", "ec_paramgen_curve:P-256");
        let key = || in_guarded("key", Kind::PrivateKey);
        let imported = unlocked.import_key(key(), &Secret::copy_of(&pkcs8));
        let imported = imported.expect("import").to_string();
        let made = unlocked.generate_key(key(), KeyAlgorithm::Ec(Curve::P256));
        let certificate = in_guarded("key", Kind::Certificate);
        let certificate = certificate.with_attribute("certificate", BASE64.encode("x"));
        let certificate = unlocked.store(certificate).expect("store").to_string();
        let needs = |id: &str| {
            let file = vault.dir().join(format!("objects/guarded/{id}.json"));
            read_json(&file)["metadata"]["attributes"]["pin"].clone()
        };
        for id in [&private, &imported, &made.expect("generate").to_string()] {
            assert_eq!(needs(id), "true");
        }
        assert_eq!(needs(&public), "false");
        assert_eq!(needs(&certificate), Value::Null);
        let secrets = [
            (private.clone(), b"private".to_vec()),
            (public.clone(), b"public".to_vec()),
            (imported, pkcs8),
        ];
        Self {
            private,
            public,
            secrets: secrets.into(),
        }
    }

    /// What the reader and the programs say of it.
    fn agree(&self, vault: &TestVault) {
        for source in [vault.dir(), back_up(vault)] {
            let read = Reader::of(vault, &source);
            assert_eq!(sorted(read.list()), sorted(listed(vault)));
            let digests = self
                .secrets
                .iter()
                .map(|(id, secret)| (id.clone(), hex::encode(Sha256::digest(secret))));
            assert_eq!(read.digests(), digests.collect());
            for (id, secret) in &self.secrets {
                assert!(read.show(id) == *secret, "{id}");
            }
            read.policy();
        }
    }
}

/// The Names of the user's and the security officer's index in the TPM, which are the reader's; and
/// their counters are these.
fn pins_agree(vault: &TestVault, counters: [(u32, u32); 2]) -> [String; 2] {
    let steps = Reader::of(vault, &vault.dir()).policy();
    let handles = pin_handles(&read_json(&vault.dir().join("vault.json")));
    let names = ["the user's", "the security officer's"]
        .map(|whose| steps[&format!("Name of {whose} index of guarded")].clone());
    for ((handle, name), (count, limit)) in handles.iter().zip(&names).zip(counters) {
        let public = vault.tpm().tpm2(&["nvreadpublic", handle]).ok().text();
        assert!(public.contains(name), "{name}: {public}");
        let read = ["nvread", handle, "-C", "o", "-s", "8"];
        let content = vault.tpm().tpm2(&read).ok().stdout;
        assert_eq!(hex::encode(content), format!("{count:08x}{limit:08x}"));
    }
    names
}

/// A PIN as the document makes an authorisation value of it.
fn pin_auth(vault: &TestVault, role: Role, text: &str) -> String {
    let role = match role {
        Role::User => "user",
        Role::SecurityOfficer => "security-officer",
    };
    let computed = python("strongroom_reader.py", &vault.recovery(), &vault.dir())
        .args(["pin", "--token", "guarded", "--role", role])
        .stdin(text)
        .ok();
    computed.text().trim().to_owned()
}

/// Has the TPM compare a PIN, by other hands.
fn give_to_the_tpm(vault: &TestVault, role: Role, text: &str) -> Output {
    let [user, officer] = pin_handles(&read_json(&vault.dir().join("vault.json")));
    let handle = match role {
        Role::User => user,
        Role::SecurityOfficer => officer,
    };
    let auth = pin_auth(vault, role, text);
    let read = ["nvread", &handle, "-C", &handle, "-s", "8", "-P", &auth];
    vault.tpm().tpm2(&read)
}

/// The DEK of an object of the token `guarded`, unsealed by the document and tpm2-tools, which know
/// nothing of Strongroom.
fn open_at_the_tpm(vault: &TestVault, id: &str, behind_pin: bool, pin: Option<&str>) -> Output {
    let manifest = read_json(&vault.dir().join("vault.json"));
    let object = read_json(&vault.dir().join(format!("objects/guarded/{id}.json")));
    let token = &manifest["tokens"]["guarded"];
    let parent = if behind_pin { &token["pins"] } else { token };
    let folder = tempfile::tempdir().expect("create a folder");
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    KeyFile::parse(&parent["storage-key"]).write(Path::new(&at("parent")));
    KeyFile::parse(&object["slots"][0]["key-file"]).write(Path::new(&at("sealed")));
    let tpm2 = |args: &[&str]| {
        let output = vault.tpm().tpm2(args);
        vault.tpm().tpm2(&["flushcontext", "-t"]).ok();
        output
    };
    let (session, auth) = (at("session"), format!("session:{}", at("session")));
    let load = |name: &str| ["pub", "priv", "ctx"].map(|part| at(&format!("{name}.{part}")));
    let [public, private, parent] = load("parent");
    let under = ["-u", &public, "-r", &private, "-c", &parent];
    tpm2(&[&["load", "-C", "0x81000001"][..], &under].concat()).ok();
    tpm2(&["startauthsession", "--policy-session", "-S", &session]).ok();
    tpm2(&["policypcr", "-S", &session, "-l", "sha256:7,9,11"]).ok();
    let n = hex_handle(&manifest["index"]);
    tpm2(&["policyauthorizenv", "-S", &session, "-C", &n, &n]).ok();
    if let Some(pin) = pin.filter(|_| behind_pin) {
        let [user, _] = pin_handles(&manifest);
        let pin = pin_auth(vault, Role::User, pin);
        tpm2(&["policysecret", "-S", &session, "-c", &user, &pin]).ok();
    }
    let [public, private, sealed] = load("sealed");
    let under = ["-u", &public, "-r", &private, "-c", &sealed, "-P", &auth];
    let loaded = tpm2(&[&["load", "-C", &parent][..], &under].concat());
    tpm2(&["flushcontext", &session]).ok();
    if loaded.status.success() {
        tpm2(&["unseal", "-c", &sealed])
    } else {
        loaded
    }
}

#[test]
fn a_backup_is_not_written_over_with_what_a_removed_token_held() {
    let vault = TestVault::new();
    let guarded = Guarded::make(&vault);
    let backup = back_up(&vault);
    let before = fs::read(&backup).expect("the backup is there");
    let mut unlocked = unlock(&vault);
    for object in listed(&vault) {
        let id: ObjectId = object["id"].as_str().expect("an id").parse().expect("one");
        unlocked.remove(id).expect("removed");
    }
    unlocked.remove_token(&guarded_token()).expect("removed");
    drop(unlocked);
    let refused = vault.strongroom(&["backup"]).arg(&backup);
    refused.fails_with(7).says("token guarded");
    assert!(fs::read(&backup).expect("the backup is there") == before);
    let read = Reader::of(&vault, &backup);
    assert_eq!(read.digests().len(), guarded.secrets.len());
    // And what has no place in the vault any more is not put into it.
    let restored = restore(&vault, &backup).ok();
    assert!(!vault.dir().join("objects/guarded").exists(), "{restored}");
    assert!(listed(&vault).is_empty());
}

#[test]
fn strongroom_reads_what_a_stranger_wrote() {
    let vault = TestVault::new();
    let secret: Vec<u8> = (0..=255).collect();
    let id = write_as_a_stranger(&vault, &odd_object(), Some(&secret));
    let empty = write_as_a_stranger(&vault, &certificate(), None);
    let third = json!({ "token": "keys", "kind": "credential", "label": "odd", "generation": 2 });
    let third = write_as_a_stranger(&vault, &third, Some(b"2"));
    let by_recovery = |id: &str| {
        vault
            .strongroom(&["unseal", "--id", id, "--recovery"])
            .arg(vault.recovery())
            .ok()
            .stdout
    };
    assert_eq!(by_recovery(&id), secret);
    assert_eq!(by_recovery(&empty), b"");

    // And what Strongroom makes of it, once it has a TPM slot too.
    recover(&vault, &[]);
    assert_eq!(vault.unseal_id(&id), secret);
    assert_eq!(vault.unseal("keys", "odd"), b"2");
    vault.seal("keys", "odd", b"3");
    assert_eq!(vault.unseal("keys", "odd"), b"3");
    assert_eq!(vault.unseal_id(&third), b"2");
    let read = Reader::of(&vault, &vault.dir());
    assert_eq!(read.show(&id), secret);
    assert_eq!(sorted(read.list()), sorted(listed(&vault)));
    let generations: Vec<Value> = read
        .list()
        .into_iter()
        .filter(|object| object["label"] == "odd")
        .map(|object| object["generation"].clone())
        .collect();
    assert_eq!(generations.len(), 2);
    assert!(generations.contains(&json!(3)), "{generations:?}");
}

#[test]
fn a_stranger_finds_in_a_backup_what_the_vault_has_lost() {
    let vault = TestVault::new();
    let lost = vault.seal("credentials", "lost", b"lost");
    vault.seal("credentials", "other", b"other");
    let (backup, before) = (back_up(&vault), unsealed_digests(&vault));
    let place = vault.dir().join(format!("objects/credentials/{lost}.json"));
    fs::remove_file(&place).expect("the object can be lost");
    let new = vault.seal("credentials", "new", b"new");
    vault.strongroom(&["backup"]).arg(&backup).ok();
    let read = Reader::of(&vault, &backup);
    let mut digests = read.digests();
    assert_eq!(
        digests.remove(&new),
        Some(hex::encode(Sha256::digest("new")))
    );
    assert_eq!(digests, before);
    assert_eq!(read.show(&lost), b"lost");
    recover(&vault, &["--backup", &backup.to_string_lossy()]);
    assert_eq!(Reader::of(&vault, &vault.dir()).show(&lost), b"lost");
}

#[test]
fn nobody_minds_what_a_killed_writer_left() {
    let vault = TestVault::new();
    let id = vault.seal("credentials", "offsite", b"x");
    let name = format!(".{id}.json.{id}");
    let left = [
        vault.dir().join("objects/credentials").join(name),
        vault.dir().join(format!(".vault.json.{id}")),
    ];
    for file in &left {
        fs::write(file, "half").expect("it can be written");
    }
    let lock = fs::metadata(vault.dir().join(".lock")).expect("the lock is there");
    assert!(lock.is_file() && lock.len() == 0 && lock.permissions().mode() & 0o777 == 0o600);
    let read = Reader::of(&vault, &vault.dir());
    assert_eq!(read.digests(), unsealed_digests(&vault));
    assert!(
        left.iter().all(|file| file.exists()),
        "a reader writes nothing"
    );
    vault.seal("credentials", "other", b"y");
    assert!(!left.iter().any(|file| file.exists()), "a writer tidies up");
}

#[test]
fn a_stranger_refuses_a_changed_manifest() {
    let vault = TestVault::new();
    let id = vault.seal("credentials", "offsite", b"x");
    let file = vault.dir().join("vault.json");
    let good = read_json(&file);
    let flips = [
        "/recovery-recipient",
        "/id",
        "/root-key/public",
        "/writers/k-rec/private",
        "/vault-key/tpm",
        "/vault-key/recovery",
        "/tokens/credentials/storage-key",
        "/mac",
    ];
    let mut bad: Vec<(&str, Value)> = flips.map(|part| (part, flipped(&good, part))).into();
    bad.push(("another index", with(&good, "/index", json!(0x0185_7201))));
    bad.push(("no token", with(&good, "/tokens", json!({}))));
    bad.push(("unknown member", with(&good, "/new", json!(1))));
    bad.push(("other PCRs", with(&good, "/pcrs", json!("7"))));
    bad.push(("format 0", with(&good, "/format", json!(0))));
    for (what, manifest) in bad {
        write_json(&file, &manifest);
        let refused = Reader::of(&vault, &vault.dir()).run(&["list"]);
        refused.fails_with(5).says("vault.json");
        let unseal = ["unseal", "--id", &id, "--recovery"];
        let refused = vault.strongroom(&unseal).arg(vault.recovery()).finish();
        assert!(!refused.status.success(), "{what}: {refused}");
    }
}

// One spelling: what a lenient parser takes for the same, and its MAC with it, is refused, and so is
// what is authentic and out of range. Two readers must not take one file differently.

#[test]
fn an_object_has_one_spelling() {
    let vault = TestVault::new();
    let id = seal_dataset_key(&vault, "tank/a", "raw", &Sha256::digest("a"));
    let object = vault.dir().join(format!("objects/datasets/{id}.json"));
    let good = read_json(&object);
    let mut bad = Bad::of(&vault, &object);
    for part in [
        "",
        "/metadata",
        "/metadata/attributes",
        "/payload",
        "/slots/1",
    ] {
        bad.doubled(part);
    }
    bad.null("/metadata", "pool-guid");
    bad.null("/metadata", "dataset-guid");
    bad.text(&id, &id.to_uppercase());
    bad.text(&id, &id.replace('-', ""));
    bad.as_array("/payload", &["nonce", "ciphertext", "commitment"]);
    bad.signed(with(&good, "/metadata/attributes", json!({})));
    for key in ["", "A", "a_b", "ü", &"a".repeat(65)] {
        let attributes = json!({ "keyformat": "raw", key: "" });
        bad.signed(with(&good, "/metadata/attributes", attributes));
    }
    for generation in [json!(0), json!(1_u64 << 53), json!(1.0), json!("1")] {
        bad.signed(with(&good, "/metadata/generation", generation));
    }
    for guid in ["01", "+1", "18446744073709551616", ""] {
        bad.signed(with(&good, "/metadata/pool-guid", json!(guid)));
    }
    bad.signed(with(&good, "/metadata/format", json!(0)));
    let other = json!({ "type": "other", "key-file": "" });
    bad.signed(with(&good, "/slots", json!([good["slots"][0], other])));
    let unseal = ["unseal", "--id", &id];
    let by_kit = ["unseal", "--id", &id, "--recovery"];
    bad.refused_by_both(&["show", "--id", &id], &[&unseal, &by_kit]);

    // One without a payload, which only a stranger writes.
    let id = write_as_a_stranger(&vault, &certificate(), None);
    let object = vault.dir().join(format!("objects/keys/{id}.json"));
    let mut bad = Bad::of(&vault, &object);
    bad.null("", "payload");
    bad.null("/metadata", "attributes");
    let by_kit = ["unseal", "--id", &id, "--recovery"];
    bad.refused_by_both(&["show", "--id", &id], &[&by_kit]);
}

#[test]
fn a_manifest_has_one_spelling() {
    let vault = TestVault::new();
    let id = vault.seal("credentials", "offsite", b"x");
    let manifest = vault.dir().join("vault.json");
    let good = read_json(&manifest);
    let mut bad = Bad::of(&vault, &manifest);
    for part in ["", "/root-key", "/writers/k-rec", "/tokens", "/tokens/keys"] {
        bad.doubled(part);
    }
    bad.as_array("/root-key", &["handle", "template", "public"]);
    bad.as_array("/vault-key", &["tpm", "recovery"]);
    bad.as_array("/tokens/keys", &["storage-key"]);
    for pcrs in [
        "", "7,7,9,11", "11,7,9", "07,9,11", "7, 9,11", "7+9+11", "7,9,11,", "7,10", "24",
    ] {
        bad.signed(with(&good, "/pcrs", json!(pcrs)));
    }
    bad.signed(with(&good, "/pcrs", json!([7, 9, 11])));
    bad.signed(with(&good, "/format", json!(0)));
    let upper = good["id"].as_str().expect("a text").to_uppercase();
    bad.signed(with(&good, "/id", json!(upper)));
    bad.signed(with(&good, "/id", json!("not a UUID")));
    let unseal = ["unseal", "--id", &id];
    let by_kit = ["unseal", "--id", &id, "--recovery"];
    bad.refused_by_both(&["list"], &[&unseal, &by_kit]);
}

#[test]
fn a_manifest_of_format_3_has_one_spelling() {
    let vault = TestVault::on(Swtpm::measured(), &["--fence", "13"]);
    let manifest = vault.dir().join("vault.json");
    let id = vault.seal("credentials", "offsite", b"x");
    let good = read_json(&manifest);
    assert_eq!(good["format"], 3);
    let mut bad = Bad::of(&vault, &manifest);
    for format in [1, 2] {
        bad.signed(with(&good, "/format", json!(format)));
    }
    bad.null("/tokens/keys", "fence");
    for fence in [
        json!(7),
        json!(10),
        json!(16),
        json!(269),
        json!(-1),
        json!(13.0),
        json!("13"),
        json!([13]),
        json!(true),
    ] {
        bad.signed(with(&good, "/tokens/datasets/fence", fence));
    }
    let unseal = ["unseal", "--id", &id];
    let by_kit = ["unseal", "--id", &id, "--recovery"];
    bad.refused_by_both(&["list"], &[&unseal, &by_kit]);
}

#[test]
fn a_manifest_of_format_2_has_one_spelling() {
    let vault = TestVault::new();
    let id = vault.seal("credentials", "offsite", b"x");
    let manifest = vault.dir().join("vault.json");
    let first = read_json(&manifest);
    // A label that is the name says nothing, and is not written.
    let mut unlocked = unlock(&vault);
    let plain = NewToken {
        name: "plain".parse().expect("a name"),
        label: Some("plain".parse().expect("a label")),
        officer: None,
        fence: None,
    };
    unlocked.add_token(&plain).expect("a token");
    let plain = read_json(&manifest);
    assert_eq!(plain["format"], 1);
    assert_eq!(plain["tokens"]["plain"]["label"], Value::Null);
    drop(unlocked);
    drop(add_guarded_token(&vault));
    let good = read_json(&manifest);
    let mut bad = Bad::of(&vault, &manifest);
    // The format is the oldest that has all of it: neither older nor newer.
    bad.signed(with(&good, "/format", json!(1)));
    bad.signed(with(&first, "/format", json!(2)));
    let (token, user) = ("/tokens/guarded", "/tokens/guarded/pins/indices/user");
    for part in [
        token,
        "/tokens/guarded/pins",
        "/tokens/guarded/pins/indices",
        user,
    ] {
        bad.doubled(part);
    }
    for member in ["label", "write-protected", "pins"] {
        bad.null("/tokens/keys", member);
    }
    bad.as_array("/tokens/guarded/pins", &["indices", "storage-key"]);
    bad.as_array(
        "/tokens/guarded/pins/indices",
        &["user", "security-officer"],
    );
    bad.as_array(
        user,
        &["changer", "changer-signature", "first-writer", "handle"],
    );
    let long = "a".repeat(33);
    for label in ["", " a", "a ", "a\u{2003}", "a\tb", "guarded", &long] {
        bad.signed(with(&good, "/tokens/guarded/label", json!(label)));
    }
    for (part, value) in [
        ("label", json!(1)),
        ("write-protected", json!("true")),
        ("write-protected", json!(1)),
        ("pins", json!({})),
        ("pins/new", json!(1)),
        ("pins/indices", json!({})),
        ("pins/indices/new", json!({})),
        ("pins/indices/user/new", json!(1)),
        ("pins/indices/user/handle", json!(0x017F_FFFF)),
        ("pins/indices/security-officer/handle", json!(0x01C0_0000)),
        ("pins/indices/user/first-writer", json!("AB==")),
        ("pins/indices/user/changer", json!("AB==")),
        ("pins/indices/user/changer-signature", json!(1)),
    ] {
        bad.signed(with(&good, &format!("{token}/{part}"), value));
    }
    let unseal = ["unseal", "--id", &id];
    let by_kit = ["unseal", "--id", &id, "--recovery"];
    bad.refused_by_both(&["list"], &[&unseal, &by_kit]);
}

#[test]
fn a_list_of_boots_has_one_spelling() {
    let vault = TestVault::new();
    let id = vault.seal("credentials", "offsite", b"x");
    let policy = vault.dir().join("policy.json");
    let mut bad = Bad::of(&vault, &policy);
    bad.doubled("");
    bad.doubled("/current/0");
    bad.doubled("/current/0/pcrs");
    bad.null("", "next");
    bad.as_array("/current/0", &["pcrs"]);
    bad.text("\"7\"", "\"07\"");
    let value = read_json(&policy)["current"][0]["pcrs"]["7"].clone();
    let value = value.as_str().expect("a text");
    bad.text(value, &value.to_uppercase());
    bad.text("\"format\": 1", "\"format\": 0");
    bad.refused_by_both(&["policy"], &[&["unseal", "--id", &id]]);
}

#[test]
fn a_list_of_boots_with_labels_has_one_spelling() {
    let vault = TestVault::new();
    let id = vault.seal("credentials", "offsite", b"x");
    let policy = vault.dir().join("policy.json");
    let mut list = read_json(&policy);
    list["format"] = json!(2);
    list["current"][0]["label"] = json!({ "prepared": "/boot/a.efi", "phase": "ready" });
    write_json(&policy, &list);
    assert_eq!(vault.unseal_id(&id), b"x");
    Reader::of(&vault, &vault.dir()).policy();
    let mut bad = Bad::of(&vault, &policy);
    bad.doubled("/current/0/label");
    bad.text("\"format\": 2", "\"format\": 1");
    bad.text("\"ready\"", "\"late\"");
    bad.text("\"ready\"", "null");
    bad.text("\"phase\"", "\"stage\"");
    bad.text("\"/boot/a.efi\"", "\"\"");
    bad.text("/boot/a.efi", "/boot/\\u0007.efi");
    bad.text("/boot/a.efi", &"x".repeat(1025));
    for empty in [json!({}), Value::Null] {
        bad.texts
            .push(with(&list, "/current/0/label", empty).to_string());
    }
    // Format 2, and nothing of it.
    let mut plain = list.clone();
    let branch = plain["current"][0].as_object_mut();
    branch.expect("a branch").remove("label");
    bad.texts.push(plain.to_string());
    bad.refused_by_both(&["policy"], &[&["unseal", "--id", &id]]);
}

#[test]
fn a_backup_has_one_spelling() {
    let vault = TestVault::new();
    let id = seal_dataset_key(&vault, "tank/a", "raw", &Sha256::digest("a"));
    write_as_a_stranger(&vault, &certificate(), None);
    let backup = back_up(&vault);
    let good = read_json(&backup);
    let mut bad = Bad::of(&vault, &backup);
    for part in ["", "/manifest/tokens", "/objects/0/metadata/attributes"] {
        bad.doubled(part);
    }
    bad.null("/objects/0/metadata", "pool-guid");
    bad.null("/objects/1", "payload");
    bad.text(&id, &id.to_uppercase());
    bad.as_array("/manifest/root-key", &["handle", "template", "public"]);
    bad.as_array("/objects/0/payload", &["nonce", "ciphertext", "commitment"]);
    let object = &good["objects"][0];
    bad.signed(with(&good, "/objects", json!([object, object])));
    let strange = with(object, "/metadata/token", json!("strange"));
    bad.signed(with(&good, "/objects", json!([strange])));
    for (part, value) in [
        ("/format", json!(0)),
        ("/manifest/format", json!(0)),
        ("/objects/0/metadata/format", json!(0)),
        ("/objects/0/metadata/generation", json!(0)),
        ("/objects/0/metadata/attributes", json!({ "A": "" })),
        ("/manifest/pcrs", json!("9,7")),
        ("/objects", json!({})),
    ] {
        bad.signed(with(&good, part, value));
    }
    let file = backup.to_str().expect("a path of text");
    let restore = ["recover", "--yes", "--backup", file, "--recovery"];
    bad.refused_by_both(&["list"], &[&restore]);
}

#[test]
fn a_changed_object_costs_itself_alone() {
    let vault = TestVault::new();
    let id = vault.seal("credentials", "offsite", b"secret");
    let other = vault.seal("credentials", "other", b"other");
    let place = |token: &str, id: &str| vault.dir().join(format!("objects/{token}/{id}.json"));
    let file = place("credentials", &id);
    let good = read_json(&file);
    let mut bad: Vec<Value> = [
        "/payload/nonce",
        "/payload/ciphertext",
        "/payload/commitment",
        "/slots/0/key-file",
        "/slots/1/age",
        "/mac",
    ]
    .map(|part| flipped(&good, part))
    .into();
    bad.push(with(&good, "/metadata/label", json!("offside")));
    bad.push(with(&good, "/metadata/generation", json!(2)));
    bad.push(with(&good, "/metadata/attributes", json!({})));
    bad.push(with(&good, "/metadata/pool-guid", Value::Null));
    bad.push(with(&good, "/slots", json!([good["slots"][0]])));
    bad.push(with(&good, "/new", json!(1)));
    for object in bad {
        write_json(&file, &object);
        let read = Reader::of(&vault, &vault.dir());
        let listed = read.run(&["list"]).fails_with(1).says(&id);
        assert_eq!(listed.json()[0]["id"], *other, "{listed}");
        read.run(&["show", "--id", &id]).fails_with(5).says(&id);
        assert_eq!(read.show(&other), b"other");
    }

    // Authentic, and yet its payload does not open.
    for part in ["nonce", "ciphertext", "commitment"] {
        let bad = signed(&vault, &flipped(&good, &format!("/payload/{part}")));
        write_json(&file, &bad);
        let show = Reader::of(&vault, &vault.dir()).run(&["show", "--id", &id]);
        show.fails_with(5).says("does not open");
        let refused = vault.strongroom(&["unseal", "--id", &id]);
        refused.fails_with(5).says("does not open");
    }

    // Whole, authentic, and in another's place.
    write_json(&file, &good);
    for elsewhere in [place("keys", &id), place("credentials", &other)] {
        let kept = fs::read(&elsewhere).ok();
        fs::copy(&file, &elsewhere).expect("the object can be copied");
        let listed = Reader::of(&vault, &vault.dir()).run(&["list"]);
        listed.fails_with(1).says(&elsewhere.display().to_string());
        match kept {
            Some(bytes) => fs::write(&elsewhere, bytes),
            None => fs::remove_file(&elsewhere),
        }
        .expect("the place can be put back");
    }
    Reader::of(&vault, &vault.dir()).run(&["list"]).ok();
}

#[test]
fn a_stranger_refuses_a_changed_backup_and_another_vaults_kit() {
    let vault = TestVault::new();
    let id = vault.seal("credentials", "offsite", b"x");
    vault.seal("credentials", "other", b"x");
    let backup = back_up(&vault);
    let good = read_json(&backup);
    let swapped = json!([good["objects"][1], good["objects"][0]]);
    for bad in [
        with(&good, "/objects", json!([good["objects"][0]])),
        with(&good, "/objects", swapped),
        flipped(&good, "/objects/0/payload/ciphertext"),
        flipped(&good, "/objects/1/slots/0/key-file"),
        flipped(&good, "/manifest/vault-key/tpm"),
        flipped(&good, "/mac"),
        with(&good, "/policy", json!(1)),
    ] {
        write_json(&backup, &bad);
        Reader::of(&vault, &backup).run(&["list"]).fails_with(5);
        restore(&vault, &backup).fails_with(5);
    }
    let text = good.to_string();
    fs::write(&backup, &text[..text.len() - 1]).expect("the backup can be written");
    Reader::of(&vault, &backup).run(&["list"]).fails_with(5);

    let kit = fs::read_to_string(vault.recovery()).expect("the kit is text");
    let fingerprint = Sha256::digest("another vault's key");
    let line = "# vault key SHA-256: ";
    let (head, tail) = kit.split_once(line).expect("the kit has a fingerprint");
    let others = [
        (kit.replace("# vault: ", "# vault: 0"), "is of vault"),
        (
            format!("{head}{line}{}{}", hex::encode(fingerprint), &tail[64..]),
            "not the one that the kit names",
        ),
        (format!("{head}{}", &tail[65..]), "no recovery kit"),
        (kit.replace("AGE-SECRET-KEY", "# AGE"), "no recovery kit"),
    ];
    let file = vault.folder().join("other kit");
    for (text, reason) in others {
        fs::write(&file, text).expect("a kit can be written");
        let read = Reader {
            kit: file.clone(),
            source: vault.dir(),
        };
        read.run(&["show", "--id", &id]).fails_with(5).says(reason);
        let unseal = ["unseal", "--id", &id, "--recovery"];
        let refused = vault.strongroom(&unseal).arg(&file).finish();
        assert!(!refused.status.success(), "{refused}");
    }
}

#[test]
fn what_is_newer_is_called_newer() {
    let vault = TestVault::new();
    let id = vault.seal("credentials", "offsite", b"x");
    let backup = back_up(&vault);
    let good = read_json(&backup);
    for (part, format) in [
        ("/format", 2),
        ("/manifest/format", 5),
        ("/objects/0/metadata/format", 3),
    ] {
        // Authentic, and with a member that only a newer program can know.
        let newer = with(&good, part, json!(format));
        let newer = with(&newer, &part.replace("format", "new"), json!(1));
        write_json(&backup, &signed(&vault, &newer));
        // Whatever else a newer program made of it.
        let twice =
            json!([good["objects"][0], good["objects"][0], { "metadata": { "format": format } }]);
        for newer in [
            newer.clone(),
            with(&newer, "/new", json!(1)),
            with(&newer, "/objects", twice),
        ] {
            write_json(&backup, &newer);
            let refused = Reader::of(&vault, &backup).run(&["list"]);
            refused
                .fails_with(5)
                .says("newer")
                .says(&format!("format {format}"));
            restore(&vault, &backup)
                .fails_with(5)
                .says(&backup.display().to_string())
                .says(&format!("has format {format}"));
        }
    }
    assert_eq!(vault.unseal_id(&id), b"x", "nothing of it was put back");
    for (file, part, format) in [
        (
            format!("objects/credentials/{id}.json"),
            "/metadata/format",
            3,
        ),
        ("vault.json".to_owned(), "/format", 5),
    ] {
        let file = vault.dir().join(file);
        let newer = with(&read_json(&file), part, json!(format));
        let newer = with(&newer, "/new", json!(1));
        let newer = signed(&vault, &newer);
        write_json(&file, &newer);
        let read = Reader::of(&vault, &vault.dir());
        let refused = read.run(&["show", "--id", &id]);
        refused
            .fails_with(5)
            .says("newer")
            .says(&format!("format {format}"));
        let refused = vault.strongroom(&["unseal", "--id", &id]);
        refused.fails_with(5).says(&format!("has format {format}"));
    }
}

#[test]
fn the_policies_in_the_tpm_are_the_documents() {
    let vault = TestVault::new();
    let handle = read_json(&vault.dir().join("vault.json"))["index"]
        .as_u64()
        .map(|handle| format!("{handle:#x}"))
        .expect("the index is a handle");
    let tpm2 = |args: &[&str]| vault.tpm().tpm2(args).ok();
    let agree = || {
        let steps = Reader::of(&vault, &vault.dir()).policy();
        let public = tpm2(&["nvreadpublic", &handle]).text();
        assert!(public.contains(&steps["Name of N"]), "{public}");
        let root = tpm2(&["readpublic", "-c", "0x81000001"]).text();
        assert!(root.contains(&steps["Name of the root key"]), "{root}");
        let content = tpm2(&["nvread", &handle, "-C", &handle, "-s", "34"]).stdout;
        assert_eq!(hex::encode(content), steps["content of N for current"]);
        steps
    };
    let one = agree();
    let other_kernel = format!("11={}", hex::encode(Sha256::digest("another kernel")));
    let add = ["rebind", "--yes", "--add", &other_kernel];
    vault.strongroom(&add).ok();
    let two = agree();
    assert_eq!(two["digest of current[0]"], one["digest of current[0]"]);
    assert_ne!(
        two["content of N for current"],
        one["content of N for current"]
    );
    assert_eq!(two["Name of N"], one["Name of N"]);
    vault.strongroom(&["suspend", "--boots", "2", "--yes"]).ok();
    let three = agree();
    assert_eq!(
        three["digest of current[1]"], two["digest of current[1]"],
        "and a suspended one behind it"
    );
    assert!(three.contains_key("digest of current[2]"));
}

#[test]
fn the_worked_example_of_the_document_checks_out() {
    let document = Document::read();
    let frozen = Frozen::version_1();
    let kit = fs::read_to_string(frozen.kit()).expect("the kit is text");
    assert_eq!(document.blocks("text").first(), Some(&kit));

    let object: Value = document.json(0);
    let id = object["metadata"]["id"].as_str().expect("an id").to_owned();
    let backup = read_json(&frozen.backup());
    let objects = backup["objects"].as_array().expect("a list");
    assert!(objects.contains(&object), "the document's object");

    // A vault as the document has it: the backup's manifest, and the document's own list of boots.
    let folder = tempfile::tempdir().expect("create a folder");
    write_json(&folder.path().join("vault.json"), &backup["manifest"]);
    write_json(&folder.path().join("policy.json"), &document.json(1));
    let keys = folder.path().join("objects/datasets");
    fs::create_dir_all(&keys).expect("create a folder");
    write_json(&keys.join(format!("{id}.json")), &object);

    let read = Reader {
        kit: frozen.kit(),
        source: folder.path().to_owned(),
    };
    let mut computed = texts(&read.run(&["trace", "--id", &id]).ok().json());
    computed.extend(read.policy());
    assert_eq!(document.values("values"), computed);

    // The reader's arithmetic is checked by the programs; what the document says of it is not.
    let value = |name: &str| hex::decode(&computed[name]).expect("hexadecimal digits");
    let digest = |bytes: &[u8]| Sha256::digest(bytes).to_vec();
    assert_eq!(value("SHA-256(K_vault)"), digest(&value("K_vault")));
    assert_eq!(value("IKM"), [value("DEK"), value("K_vault")].concat());
    assert_eq!(value("OKM"), [value("key"), value("commitment")].concat());
    let metadata = digest(computed["canonical metadata"].as_bytes());
    assert_eq!(
        value("info"),
        [b"strongroom v1 payload", &metadata[..]].concat()
    );
    assert_eq!(
        value("payload"),
        frozen.payloads()[&id],
        "what the vault gave out when it was made"
    );
}

#[test]
fn the_worked_example_of_pins_checks_out() {
    let document = Document::read();
    let frozen = Frozen::version_2();
    let read = Reader {
        kit: frozen.kit(),
        source: frozen.backup(),
    };
    let mut computed: BTreeMap<_, _> = read
        .policy()
        .into_iter()
        .filter(|(name, _)| {
            name.contains(" of guarded") || ["Name of K_rec", "policy of P"].contains(&&name[..])
        })
        .collect();
    let id = read_json(&frozen.backup())["manifest"]["id"].clone();
    let id = id.as_str().expect("an id").to_owned();
    // Once more by hand: the reader's is what the TPM takes, see above.
    for (role, byte, pin) in [("user", 0, USER), ("security-officer", 1, OFFICER)] {
        assert!(document.0.contains(&format!("`{pin}`")));
        let digest = Sha256::new()
            .chain_update(format!("strongroom v1 PIN\0{id}\0guarded\0"))
            .chain_update([byte])
            .chain_update(pin)
            .finalize();
        let name = format!("authorisation value, {role}");
        computed.insert(name, hex::encode(&digest[..16]));
    }
    computed.insert("id".to_owned(), id);
    assert_eq!(document.values("pin-values"), computed);
}

#[test]
fn a_vault_of_format_1_is_recovered_with_every_byte_the_same() {
    let frozen = Frozen::version_1();
    let vault = frozen.recovered();
    assert_eq!(read_json(&vault.dir().join("vault.json"))["format"], 1);
    for (id, payload) in frozen.payloads() {
        assert!(vault.unseal_id(&id) == payload, "{id}");
    }
    frozen.takes_more(&vault);
}

#[test]
fn a_vault_of_format_2_is_recovered_with_every_byte_the_same() {
    let vault = recovered_with_pins(&Frozen::version_2());
    assert_eq!(read_json(&vault.dir().join("vault.json"))["format"], 2);
}

#[test]
fn a_vault_of_format_3_is_recovered_with_every_byte_the_same() {
    let frozen = Frozen::version_3();
    let vault = recovered_with_pins(&frozen);
    let manifest = read_json(&vault.dir().join("vault.json"));
    assert_eq!(manifest["format"], 3);
    assert_eq!(manifest["tokens"]["datasets"]["fence"], 13);
    let read = Reader {
        kit: frozen.kit(),
        source: frozen.backup(),
    };
    let steps = read.policy();
    assert!(steps.contains_key("policy of P of datasets, behind its fence"));
}

#[test]
fn a_vault_of_format_4_is_recovered_with_every_byte_the_same() {
    let frozen = Frozen::version_4();
    let vault = recovered_with_pins(&frozen);
    let manifest = read_json(&vault.dir().join("vault.json"));
    assert_eq!(manifest["format"], 4, "its second machine is still one");
    let formats: BTreeSet<u64> = frozen
        .metadata()
        .iter()
        .filter_map(|metadata| metadata["format"].as_u64())
        .collect();
    assert_eq!(
        formats,
        [1, 2].into(),
        "what is behind a PIN is for one machine"
    );
    let read = Reader {
        kit: frozen.kit(),
        source: frozen.backup(),
    };
    let peers = manifest["peers"].as_object().expect("machines");
    let (peer, _) = peers.iter().next().expect("one");
    let steps = read.policy();
    let of_peer = format!("policy of P of datasets, behind its fence, of {peer}");
    assert!(steps.contains_key(&of_peer), "{of_peer}");
}

/// On either machine, settled there and not: what each TPM holds is what the document says.
#[test]
fn a_stranger_reads_a_vault_of_two_machines() {
    let vault = TestVault::new();
    let id = vault.seal("credentials", "offsite", b"for both");
    let second = pair(&vault);
    fs::copy(vault.recovery(), second.recovery()).expect("copy the kit for the reader");
    for (machine, settle) in [(&vault, false), (&second, false), (&second, true)] {
        if settle {
            let kit = fs::read_to_string(vault.recovery()).expect("the kit");
            let line = kit
                .lines()
                .find_map(|line| line.strip_prefix("# vault key SHA-256: "));
            let named = [
                "pair",
                "settle",
                "--vault-key-sha256",
                line.expect("its line"),
            ];
            machine.strongroom(&named).ok();
            assert_eq!(machine.unseal_id(&id), b"for both");
        }
        let read = Reader::of(machine, &machine.dir());
        assert_eq!(read.show(&id), b"for both");
        read.policy();
    }
    let manifest = read_json(&second.dir().join("vault.json"));
    let peers = manifest["peers"].as_object().expect("machines");
    let (peer, record) = peers.iter().next().expect("one");
    let steps = Reader::of(&second, &second.dir()).policy();
    let handle = format!("{:#x}", record["index"].as_u64().expect("a handle"));
    let tpm2 = |args: &[&str]| second.tpm().tpm2(args).ok();
    let public = tpm2(&["nvreadpublic", &handle]).text();
    assert!(
        public.contains(&steps[&format!("Name of N, of {peer}")]),
        "{public}"
    );
    let root = tpm2(&["readpublic", "-c", "0x81000001"]).text();
    assert!(
        root.contains(&steps[&format!("Name of the root key, of {peer}")]),
        "{root}"
    );
    let content = tpm2(&["nvread", &handle, "-C", &handle, "-s", "34"]).stdout;
    let expected = &steps[&format!("content of N for current, of {peer}")];
    assert_eq!(hex::encode(content), *expected);
}

/// Another machine, which is a second one of the vault from now on, and has a copy of it.
fn pair(vault: &TestVault) -> TestVault {
    let second = TestVault::without_init(Swtpm::measured());
    fs::create_dir(second.dir()).expect("a folder");
    let manifest = "vault.json";
    fs::copy(vault.dir().join(manifest), second.dir().join(manifest)).expect("copy vault.json");
    let export = second.folder().join("export");
    let shown = second
        .strongroom(&["pair", "export", "--json", "--out"])
        .arg(&export)
        .ok();
    let shown = shown.json()["fingerprint"]
        .as_str()
        .expect("shown")
        .to_owned();
    vault
        .strongroom(&["pair", "add", "--yes", "--fingerprint", &shown])
        .arg(&export)
        .ok();
    for file in snapshot(&vault.dir()).into_keys() {
        let name = file.strip_prefix(vault.dir()).expect("in the folder");
        if name == Path::new(manifest)
            || name.starts_with("objects")
            || name == Path::new("policy.json")
        {
            let copy = second.dir().join(name);
            fs::create_dir_all(copy.parent().expect("a folder")).expect("make folders");
            fs::copy(&file, copy).expect("copy");
        }
    }
    second
}

/// A vault with a guarded token, recovered: by the kit without a PIN, all of it; and by the TPM once
/// the kit has set the PIN.
fn recovered_with_pins(frozen: &Frozen) -> TestVault {
    let vault = frozen.recovered();
    let token = Vault::open(&vault.dir()).and_then(|opened| opened.token(&guarded_token()));
    let token = token.expect("the token is there");
    assert_eq!(token.label.expect("a label").as_str(), GUARDED_LABEL);
    assert!(token.write_protected && token.has_pins);
    set_pin_by_recovery(&vault, Role::User, USER);
    let mut unlocked = unlock(&vault);
    let (mut behind, mut keys) = (0, 0);
    for (id, payload) in frozen.payloads() {
        let by_kit = vault.strongroom(&["unseal", "--id", &id, "--recovery"]);
        assert!(by_kit.arg(vault.recovery()).ok().stdout == payload, "{id}");
        let metadata = frozen.metadata();
        let metadata = metadata.iter().find(|metadata| metadata["id"] == *id);
        let metadata = metadata.expect("it is there");
        let id: ObjectId = id.parse().expect("an id");
        let asks = metadata["attributes"]["pin"] == "true";
        if asks {
            behind += 1;
            unlocked.forget_pin(&guarded_token()).expect("forgotten");
            let refused = match metadata["kind"].as_str() {
                Some("private-key") => unlocked.load_key(id).map(|_| ()),
                _ => unlocked.unseal(id).map(|_| ()),
            };
            assert!(matches!(refused, Err(strongroom::Error::PinRequired(_))));
            unlocked
                .give_pin(&guarded_token(), &pin(USER))
                .expect("one");
        }
        if metadata["kind"] == "private-key" {
            keys += 1;
            let loaded = unlocked.load_key(id).expect("it loads");
            unlocked.unload_key(loaded).expect("it unloads");
        } else {
            let unsealed = unlocked.unseal(id).expect("it opens");
            assert!(unsealed.expose() == payload, "{id}");
        }
    }
    assert!(behind >= 2 && keys == 1, "{behind} {keys}");
    drop(unlocked);
    frozen.takes_more(&vault);
    vault
}

/// Not a test: makes the frozen vault of a new format, in the new folder that STRONGROOM_FREEZE
/// names by an absolute path. `tests/reader/write_example.py` then writes the document's example.
#[test]
#[ignore = "makes a fixture; set STRONGROOM_FREEZE"]
fn freeze_a_vault_of_the_present_format() {
    let Some(folder) = std::env::var_os("STRONGROOM_FREEZE").map(PathBuf::from) else {
        return;
    };
    fs::create_dir(&folder).expect("a frozen vault is never made twice");
    let vault = TestVault::on(Swtpm::measured(), &["--fence", "13"]);
    seal_dataset_key(&vault, "tank/größe", "passphrase", b"correct horse battery");
    seal_dataset_key(&vault, "tank/raw", "raw", &Sha256::digest("raw"));
    for (label, secret) in labels() {
        vault.seal("credentials", label, secret.as_bytes());
    }
    migrate(&vault, Generation::V25_10);
    let guarded = Guarded::make(&vault);
    // With what no command of today writes.
    let secret: Vec<u8> = (0..=255).collect();
    write_as_a_stranger(&vault, &odd_object(), Some(&secret));
    write_as_a_stranger(&vault, &certificate(), None);
    recover(&vault, &[]);
    // A key that was made in the TPM is in no frozen vault.
    let mut unlocked = unlock(&vault);
    for object in listed(&vault) {
        if object["attributes"]["local"] == "true" {
            let id: ObjectId = object["id"].as_str().expect("an id").parse().expect("one");
            unlocked.remove(id).expect("removed");
        }
    }
    drop(unlocked);
    // A second machine, which nobody will have again.
    drop(pair(&vault));

    let objects: Vec<Value> = listed(&vault)
        .into_iter()
        .map(|metadata| {
            let id = metadata["id"].as_str().expect("an id");
            let unseal = vault.strongroom(&["unseal", "--id", id, "--recovery"]);
            let unsealed = unseal.arg(vault.recovery()).finish();
            if unsealed.status.success() {
                json!({ "metadata": metadata, "payload": BASE64.encode(unsealed.stdout) })
            } else {
                unsealed.fails_with(7).says("no secret");
                json!({ "metadata": metadata })
            }
        })
        .collect();
    let expected = json!({
        "worked-example": guarded.private,
        "pins": { "token": guarded_token().as_str(), "user": USER, "security-officer": OFFICER },
        "objects": objects,
    });
    write_json(&folder.join("expected.json"), &expected);
    vault
        .strongroom(&["backup"])
        .arg(folder.join("backup"))
        .ok();
    for (from, to) in [
        (vault.recovery(), "recovery-kit"),
        (vault.dir().join("policy.json"), "policy.json"),
    ] {
        fs::copy(from, folder.join(to)).expect("the fixture can be written");
    }
}

/// The reader that was made from the document, on a vault's folder or a backup.
struct Reader {
    kit: PathBuf,
    source: PathBuf,
}

impl Reader {
    fn of(vault: &TestVault, source: &Path) -> Self {
        Self {
            kit: vault.recovery(),
            source: source.to_owned(),
        }
    }

    fn run(&self, args: &[&str]) -> Output {
        python("strongroom_reader.py", &self.kit, &self.source)
            .args(args)
            .finish()
    }

    fn list(&self) -> Vec<Value> {
        let listed = self.run(&["list"]).ok().json();
        listed.as_array().expect("a list").clone()
    }

    fn show(&self, id: &str) -> Vec<u8> {
        self.run(&["show", "--id", id]).ok().stdout
    }

    /// SHA-256 of every payload, by id.
    fn digests(&self) -> BTreeMap<String, String> {
        texts(&self.run(&["digests"]).ok().json())
    }

    /// Every Name and digest of the TPM's part.
    fn policy(&self) -> BTreeMap<String, String> {
        texts(&self.run(&["policy"]).ok().json())
    }
}

/// One file of a vault in all the ways in which it is bad.
struct Bad<'a> {
    vault: &'a TestVault,
    file: &'a Path,
    good: Value,
    texts: Vec<String>,
}

impl<'a> Bad<'a> {
    fn of(vault: &'a TestVault, file: &'a Path) -> Self {
        Self {
            vault,
            file,
            good: read_json(file),
            texts: Vec::new(),
        }
    }

    /// With every text of one kind replaced, in the file as Strongroom wrote it.
    fn text(&mut self, from: &str, to: &str) {
        let good = fs::read_to_string(self.file).expect("the file is text");
        let bad = good.replace(from, to);
        assert_ne!(bad, good, "{from}");
        self.texts.push(bad);
    }

    /// With the first member of an object there twice, and the same both times.
    fn doubled(&mut self, part: &str) {
        let object = self.good.pointer(part).and_then(Value::as_object);
        let object = object.expect("an object").clone();
        let (key, value) = object.iter().next().expect("it has a member");
        let double = format!("{}:{value},", json!(key));
        let text = Value::from(object.clone()).to_string();
        self.replaced(part, &format!("{{{double}{}", &text[1..]));
    }

    /// With `null` for a member that is not there.
    fn null(&mut self, part: &str, member: &str) {
        let mut bad = self.good.clone();
        let object = bad.pointer_mut(part).and_then(Value::as_object_mut);
        let before = object
            .expect("an object")
            .insert(member.to_owned(), Value::Null);
        assert_eq!(before, None);
        self.texts.push(bad.to_string());
    }

    /// With an object written as an array of its values.
    fn as_array(&mut self, part: &str, members: &[&str]) {
        let object = self.good.pointer(part).expect("an object");
        let values: Vec<_> = members.iter().map(|member| &object[*member]).collect();
        assert!(values.iter().all(|value| !value.is_null()));
        let array = json!(values).to_string();
        self.replaced(part, &array);
    }

    /// Changed by someone who holds the kit.
    fn signed(&mut self, bad: Value) {
        let bad = if bad["objects"].is_object() {
            bad
        } else {
            signed(self.vault, &bad)
        };
        self.texts.push(bad.to_string());
    }

    fn replaced(&mut self, part: &str, text: &str) {
        const MARK: &str = "the part that is replaced";
        let mut bad = self.good.clone();
        *bad.pointer_mut(part).expect("the part is there") = json!(MARK);
        self.texts
            .push(bad.to_string().replace(&json!(MARK).to_string(), text));
    }

    /// Neither reads any of it; and both read it as it was. A command that ends in `--recovery` is
    /// given the kit.
    fn refused_by_both(self, read: &[&str], commands: &[&[&str]]) {
        let good = fs::read(self.file).expect("the file is there");
        let source = if self.file.starts_with(self.vault.dir()) {
            self.vault.dir()
        } else {
            self.file.to_owned()
        };
        let reader = Reader::of(self.vault, &source);
        for text in &self.texts {
            fs::write(self.file, text).expect("the file can be written");
            reader.run(read).fails_with(5).says("damaged");
            for command in commands {
                let refused = self.command(command).finish();
                assert_eq!(refused.code(), Some(5), "{command:?} of {text}: {refused}");
            }
        }
        fs::write(self.file, good).expect("the file can be written");
        reader.run(read).ok();
        for command in commands {
            self.command(command).ok();
        }
    }

    fn command(&self, args: &[&str]) -> Run {
        let run = self.vault.strongroom(args);
        if args.last() == Some(&"--recovery") {
            run.arg(self.vault.recovery())
        } else {
            run
        }
    }
}

/// docs/format.md, from its worked example on.
struct Document(String);

impl Document {
    fn read() -> Self {
        let text = fs::read_to_string(here("../docs/format.md")).expect("the document is there");
        let (_, example) = text
            .split_once("\n## Worked example\n")
            .expect("the document has an example");
        Self(example.to_owned())
    }

    /// The fenced blocks of a language.
    fn blocks(&self, language: &str) -> Vec<String> {
        let (mut blocks, mut open) = (Vec::new(), None);
        for line in self.0.lines() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(_), Some(_)) => open = None,
                (Some(found), None) => {
                    blocks.push((found == language, String::new()));
                    open = Some(blocks.len() - 1);
                }
                (None, Some(place)) => {
                    blocks[*place].1.push_str(line);
                    blocks[*place].1.push('\n');
                }
                (None, None) => {}
            }
        }
        let wanted = blocks.into_iter().filter(|(wanted, _)| *wanted);
        wanted.map(|(_, block)| block).collect()
    }

    fn json(&self, place: usize) -> Value {
        serde_json::from_str(&self.blocks("json")[place]).expect("the document's JSON is JSON")
    }

    /// Every `name = value` in the blocks of a language.
    fn values(&self, language: &str) -> BTreeMap<String, String> {
        let blocks = self.blocks(language).concat();
        let pairs = blocks
            .lines()
            .map(|line| line.split_once(" = ").expect("name = value"));
        pairs
            .map(|(name, value)| (name.trim().to_owned(), value.to_owned()))
            .collect()
    }
}

/// A vault that was made once, and what must come out of it for ever.
struct Frozen {
    folder: PathBuf,
    objects: Vec<Value>,
}

impl Frozen {
    fn version_1() -> Self {
        Self::of("fixtures/vault-v1")
    }

    fn version_2() -> Self {
        Self::of("fixtures/vault-v2")
    }

    fn version_3() -> Self {
        Self::of("fixtures/vault-v3")
    }

    fn version_4() -> Self {
        Self::of("fixtures/vault-v4")
    }

    fn of(folder: &str) -> Self {
        let folder = here(folder);
        let expected = read_json(&folder.join("expected.json"));
        let objects = expected["objects"].as_array().expect("a list").clone();
        Self { folder, objects }
    }

    fn backup(&self) -> PathBuf {
        self.folder.join("backup")
    }

    fn kit(&self) -> PathBuf {
        self.folder.join("recovery-kit")
    }

    fn metadata(&self) -> Vec<Value> {
        let objects = self.objects.iter();
        objects.map(|object| object["metadata"].clone()).collect()
    }

    /// A vault on a new TPM, recovered from the frozen one.
    fn recovered(&self) -> TestVault {
        let vault = TestVault::without_init(Swtpm::measured());
        fs::copy(self.kit(), vault.recovery()).expect("the kit can be copied");
        recover(&vault, &["--backup", &self.backup().to_string_lossy()]);
        assert_eq!(sorted(listed(&vault)), sorted(self.metadata()));
        vault
    }

    /// It is a vault like any other: it takes more, and a stranger reads it all.
    fn takes_more(&self, vault: &TestVault) {
        let new = vault.seal("credentials", "new", b"new");
        let digests = Reader::of(vault, &vault.dir()).digests();
        assert_eq!(digests.len(), self.payloads().len() + 1);
        assert_eq!(digests[&new], hex::encode(Sha256::digest("new")));
    }

    /// What opens, by id.
    fn payloads(&self) -> BTreeMap<String, Vec<u8>> {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let objects = self.objects.iter();
        objects
            .filter(|object| !object["payload"].is_null())
            .map(|object| {
                let payload = BASE64.decode(text(&object["payload"])).expect("base64");
                (text(&object["metadata"]["id"]), payload)
            })
            .collect()
    }
}

/// Labels that JSON escapes, that are long in UTF-8, or that sort differently in UTF-16.
fn labels() -> [(&'static str, &'static str); 5] {
    [
        ("größe 🦀 \u{e000} \u{2028}", "x"),
        (r#"quote " backslash \ slash / \u0041"#, "\u{0}\n\u{7f}"),
        ("<script>&'\u{feff}", "{\"password\":\"ü\"}"),
        ("e\u{301} is not \u{e9}", "not normalised"),
        ("offsite", "offsite"),
    ]
}

/// 100 KiB without a pattern.
fn large() -> Vec<u8> {
    (0..100 * 1024 / 32_u32)
        .flat_map(|block| Sha256::digest(block.to_be_bytes()))
        .collect()
}

/// Metadata with everything that the format has and no command writes.
fn odd_object() -> Value {
    let escapes: String = (0..=0x20).filter_map(char::from_u32).collect();
    json!({
        "token": "keys",
        "kind": "secret-key",
        "label": "from a stranger",
        "attributes": {
            "escapes": format!("{escapes}\u{7f}\u{80}\"\\/\u{2028}\u{e000}\u{ffff}🦀"),
            "empty": "",
        },
        "pool-guid": "18446744073709551615",
        "dataset-guid": "0",
        "generation": (1_u64 << 53) - 1,
    })
}

fn certificate() -> Value {
    json!({ "token": "keys", "kind": "certificate", "label": "without a payload" })
}

/// Writes an object by the document alone.
fn write_as_a_stranger(vault: &TestVault, metadata: &Value, payload: Option<&[u8]>) -> String {
    let mut object = json!({ "metadata": metadata });
    if let Some(payload) = payload {
        object["payload"] = json!(BASE64.encode(payload));
    }
    let written = python("strongroom_writer.py", &vault.recovery(), &vault.dir())
        .arg("seal")
        .stdin(object.to_string());
    written.ok().text().trim().to_owned()
}

/// A file with its MACs made anew by someone who holds the kit.
fn signed(vault: &TestVault, value: &Value) -> Value {
    python("strongroom_writer.py", &vault.recovery(), &vault.dir())
        .arg("sign")
        .stdin(value.to_string())
        .ok()
        .json()
}

fn python(program: &str, kit: &Path, vault: &Path) -> Run {
    Run::new(PYTHON)
        // Without a developer's own modules, and without compiled ones left in the source.
        .args(["-E", "-s", "-B"])
        .arg(here("reader").join(program))
        .arg("--recovery")
        .arg(kit)
        .arg(vault)
}

/// A path in the package of the tests.
fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn tcti(vault: &TestVault) -> Tcti {
    vault.recorder().tcti().parse().expect("a TCTI")
}

fn unlock(vault: &TestVault) -> Unlocked {
    let opened = Vault::open(&vault.dir()).expect("open");
    opened.unlock(&tcti(vault)).expect("unlock")
}

/// A private key that was made elsewhere.
fn new_pkcs8(algorithm: &str, option: &str) -> Vec<u8> {
    let pem = Run::new("openssl")
        .args(["genpkey", "-quiet", "-algorithm", algorithm])
        .args(["-pkeyopt", option])
        .ok()
        .stdout;
    Run::new("openssl")
        .args(["pkcs8", "-topk8", "-nocrypt", "-outform", "DER"])
        .stdin(pem)
        .ok()
        .stdout
}

fn key(label: &str) -> NewObject {
    let label = label.parse().expect("a label");
    NewObject::new(TokenName::keys(), label, Kind::PrivateKey)
}

/// A token with all that a manifest of format 2 has, and its user's PIN given.
fn add_guarded_token(vault: &TestVault) -> Unlocked {
    let mut unlocked = unlock(vault);
    let token = NewToken {
        name: guarded_token(),
        label: Some(GUARDED_LABEL.parse().expect("a label")),
        officer: Some(pin(OFFICER)),
        fence: None,
    };
    unlocked.add_token(&token).expect("a token");
    unlocked
        .set_pin(&guarded_token(), &pin(OFFICER), &pin(USER))
        .expect("the user's PIN");
    unlocked
        .protect_token(&guarded_token(), true)
        .expect("protected");
    unlocked
        .give_pin(&guarded_token(), &pin(USER))
        .expect("one");
    unlocked
}

const GUARDED_LABEL: &str = "Größe 🦀";

fn guarded_token() -> TokenName {
    "guarded".parse().expect("a name")
}

fn in_guarded(label: &str, kind: Kind) -> NewObject {
    NewObject::new(guarded_token(), label.parse().expect("a label"), kind)
}

fn pin(text: &str) -> Pin {
    Pin::new(Secret::copy_of(text.as_bytes())).expect("a PIN")
}

fn set_pin_by_recovery(vault: &TestVault, role: Role, text: &str) {
    let kit = RecoveryKit::read(&vault.recovery()).expect("the kit");
    Vault::open(&vault.dir())
        .and_then(|opened| {
            opened.set_pin_by_recovery(&tcti(vault), &kit, &guarded_token(), role, &pin(text))
        })
        .expect("set");
}

/// The handles of the user's and the security officer's index of `guarded`, as tpm2-tools take them.
fn pin_handles(manifest: &Value) -> [String; 2] {
    let indices = &manifest["tokens"]["guarded"]["pins"]["indices"];
    ["user", "security-officer"].map(|role| hex_handle(&indices[role]["handle"]))
}

fn hex_handle(handle: &Value) -> String {
    format!("{:#x}", handle.as_u64().expect("a handle"))
}

fn seal_dataset_key(vault: &TestVault, label: &str, form: &str, key: &[u8]) -> String {
    let sealed = vault
        .strongroom(&["seal", "--token", "datasets", "--label", label])
        .args(["--kind", "dataset-key", "--keyformat", form, "--json"])
        .stdin(key)
        .ok();
    sealed.json()["id"].as_str().expect("an id").to_owned()
}

fn migrate(vault: &TestVault, generation: Generation) {
    let folder = vault.folder().join("truenas");
    fs::create_dir(&folder).expect("create a folder");
    let fixture = Fixture::build(&folder, generation, 1, 0);
    vault
        .strongroom(&["migrate", "--yes", "--database"])
        .arg(&fixture.database)
        .arg("--pwenc-secret")
        .arg(&fixture.pwenc_secret)
        .arg("--backup")
        .arg(folder.join("backup"))
        .ok();
}

/// A new backup, each in a file of its own.
fn back_up(vault: &TestVault) -> PathBuf {
    let name = |place: usize| vault.folder().join(format!("backup {place}"));
    let free = (0..10).map(name).find(|file| !file.exists());
    let file = free.expect("some name is free");
    vault.strongroom(&["backup"]).arg(&file).ok();
    file
}

fn recover(vault: &TestVault, options: &[&str]) {
    vault
        .strongroom(&["recover", "--yes", "--recovery"])
        .arg(vault.recovery())
        .args(options)
        .ok();
}

/// A recovery by the library, which loses keys unasked.
fn recover_here(vault: &TestVault) -> Recovered {
    let kit = RecoveryKit::read(&vault.recovery()).expect("the kit");
    Vault::open(&vault.dir())
        .and_then(|opened| opened.recover(&tcti(vault), &kit, None, |_, _| ()))
        .expect("recover")
}

/// `strongroom recover` from a backup, whatever comes of it.
fn restore(vault: &TestVault, backup: &Path) -> Output {
    vault
        .strongroom(&["recover", "--yes", "--recovery"])
        .arg(vault.recovery())
        .arg("--backup")
        .arg(backup)
        .finish()
}

fn slots_of(object: &Value) -> Vec<Value> {
    object["slots"].as_array().expect("a list").clone()
}

fn kinds(slots: &[Value]) -> Vec<&str> {
    slots
        .iter()
        .map(|slot| slot["type"].as_str().expect("a type"))
        .collect()
}

/// All objects' metadata, by `strongroom list`.
fn listed(vault: &TestVault) -> Vec<Value> {
    let listed = vault.strongroom(&["list", "--json"]).ok().json();
    listed["objects"].as_array().expect("a list").clone()
}

/// SHA-256 of every payload, by `strongroom unseal`.
fn unsealed_digests(vault: &TestVault) -> BTreeMap<String, String> {
    listed(vault)
        .into_iter()
        .map(|object| {
            let id = object["id"].as_str().expect("an id").to_owned();
            let payload = vault.unseal_id(&id);
            (id, hex::encode(Sha256::digest(payload)))
        })
        .collect()
}

fn sorted(mut objects: Vec<Value>) -> Vec<Value> {
    objects.sort_by_key(|object| object["id"].to_string());
    objects
}

fn texts(value: &Value) -> BTreeMap<String, String> {
    let members = value.as_object().expect("an object");
    members
        .iter()
        .map(|(name, text)| (name.clone(), text.as_str().expect("a text").to_owned()))
        .collect()
}

fn read_json(file: &Path) -> Value {
    let bytes = fs::read(file).expect("the file is there");
    serde_json::from_slice(&bytes).expect("the file is JSON")
}

fn write_json(file: &Path, value: &Value) {
    fs::write(file, format!("{value:#}\n")).expect("the file can be written");
}

/// The same with another value in one place, be it new.
fn with(value: &Value, pointer: &str, part: Value) -> Value {
    let mut changed = value.clone();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer has a slash");
    let parent = changed.pointer_mut(parent).expect("the place is there");
    parent[name] = part;
    changed
}

/// The same with one bit flipped in a base64 text, or a letter in another text.
fn flipped(value: &Value, pointer: &str) -> Value {
    let found = value.pointer(pointer).and_then(Value::as_str);
    let text = found.expect("a text is there");
    let changed = match BASE64.decode(text) {
        Ok(mut bytes) => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            BASE64.encode(bytes)
        }
        Err(_) if text.ends_with('q') => format!("{}p", &text[..text.len() - 1]),
        Err(_) => format!("{}q", &text[..text.len() - 1]),
    };
    let mut copy = value.clone();
    *copy.pointer_mut(pointer).expect("it is there") = json!(changed);
    copy
}
