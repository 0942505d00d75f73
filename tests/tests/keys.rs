//! Private keys in a vault, by the library's own calls, over a real TPM simulator: made, imported,
//! used, moved and forged. OpenSSL checks what comes out, and makes what goes in.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256, Sha384, Sha512};
use strongroom::key::{
    Curve, DecryptScheme, Hash, KeyAlgorithm, LoadedKey, PublicKey, Residence, SignScheme,
};
use strongroom::object::{Kind, Metadata, NewObject, ObjectId, TokenName};
use strongroom::recovery::RecoveryKit;
use strongroom::vault::{InitOptions, Recovered};
use strongroom::{Error, Secret, Tcti, Unlocked, Vault};
use strongroom_tests::swtpm::USUAL_BOOT;
use strongroom_tests::vault_files::{edits, read_json, write_json};
use strongroom_tests::{Recorder, Run, Swtpm};
use tempfile::TempDir;

const RSA: KeyAlgorithm = KeyAlgorithm::Rsa(2048);
const P256: KeyAlgorithm = KeyAlgorithm::Ec(Curve::P256);
const P384: KeyAlgorithm = KeyAlgorithm::Ec(Curve::P384);

/// What openssl(1) makes the same keys from.
const MADE_BY_OPENSSL: [(KeyAlgorithm, &[&str]); 3] = [
    (RSA, &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
    (P256, &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
    (P384, &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"]),
];

#[test]
fn a_key_made_in_the_tpm_says_what_it_is_and_signs() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    for algorithm in [RSA, KeyAlgorithm::Rsa(3072), P256, P384] {
        let id = vault
            .generate_key(named("tls"), algorithm)
            .expect("generate");
        let object = bench.object(id);
        assert_eq!(object.attributes["algorithm"], algorithm.to_string());
        assert_eq!(object.attributes["residence"], "tpm");
        assert_eq!(object.attributes["local"], "true");
        assert_eq!(Residence::of(&object), Some(Residence::Tpm));
        let public = PublicKey::of(&object).expect("it is a key");
        assert_eq!(public.algorithm(), algorithm);
        assert_eq!(
            BASE64.encode(public.spki()),
            object.attributes["public-key"]
        );
        assert_eq!(vault.vault().payload_len(id).expect("there"), None);

        let key = vault.load_key(id).expect("load");
        assert_eq!(key.residence(), Residence::Tpm);
        assert_eq!(*key.public(), public);
        bench.check_signatures(&mut vault, &key);
        vault.unload_key(key).expect("unload");
    }
    drop(vault);
    assert!(bench.tpm.transient_handles().is_empty());
    assert!(bench.tpm.loaded_sessions().is_empty());
}

#[test]
fn a_size_that_the_tpm_lacks_is_sealed_and_used_in_memory() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    let made = vault
        .generate_key(named("made"), KeyAlgorithm::Rsa(4096))
        .expect("generate");
    let pem = bench.openssl_key(&["RSA", "-pkeyopt", "rsa_keygen_bits:4096"]);
    let imported = vault
        .import_key(named("imported"), &pkcs8_of(&pem))
        .expect("import");
    // This size the TPM has, but it knows one public exponent only.
    let odd = bench.openssl_key(&["RSA", "-pkeyopt", "rsa_keygen_pubexp:3"]);
    let odd = vault
        .import_key(named("exponent 3"), &pkcs8_of(&odd))
        .expect("import");
    for (id, local) in [(made, "true"), (imported, "false"), (odd, "false")] {
        let object = bench.object(id);
        assert_eq!(object.attributes["residence"], "memory");
        assert_eq!(object.attributes["local"], local);
        let key = vault.load_key(id).expect("load");
        assert_eq!(key.residence(), Residence::Memory);
        bench.check_signatures(&mut vault, &key);
        bench.check_decryption(&mut vault, &key);
    }
    assert_eq!(bench.object(made).attributes["algorithm"], "rsa-4096");
}

#[test]
fn an_imported_key_is_a_tpm_key_and_crosses_the_bus_encrypted() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    for (algorithm, options) in MADE_BY_OPENSSL {
        let pem = bench.openssl_key(options);
        let pkcs8 = pkcs8_of(&pem);
        bench.recorder.take();
        let id = vault.import_key(named("imported"), &pkcs8).expect("import");
        let counts = bench.recorder.counts();
        assert_eq!(counts["Import"], 1, "{counts:?}");
        let public = spki_of(&pem);
        assert!(
            bench
                .recorder
                .contains(&public[public.len() - 20..public.len() - 5])
        );
        for secret in secret_numbers(&pem) {
            assert!(!bench.recorder.contains(&secret), "{algorithm} on the bus");
        }
        let object = bench.object(id);
        assert_eq!(object.attributes["algorithm"], algorithm.to_string());
        assert_eq!(object.attributes["residence"], "tpm");
        assert_eq!(object.attributes["local"], "false");
        let public = PublicKey::of(&object).expect("it is a key");
        assert_eq!(public.spki(), spki_of(&pem), "{algorithm}");

        let key = vault.load_key(id).expect("load");
        bench.check_signatures(&mut vault, &key);
        vault.unload_key(key).expect("unload");
        // On the box nothing gives the private key out, but the kit does.
        let said = vault.unseal(id).err().expect("no TPM slot").to_string();
        assert!(said.contains("does not give it out"), "{said}");
        let by_kit = bench
            .vault()
            .open_by_recovery(bench.kit())
            .expect("the kit is the vault's");
        assert!(by_kit.unseal(id).expect("open").same_as(pkcs8.expose()));
    }
}

#[test]
fn algorithms_that_no_tpm_here_has_are_sealed_and_used_in_memory() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    for (algorithm, made_by_openssl) in [
        (
            KeyAlgorithm::Ec(Curve::P521),
            &["EC", "-pkeyopt", "ec_paramgen_curve:P-521"][..],
        ),
        (KeyAlgorithm::Ed25519, &["ED25519"]),
        (KeyAlgorithm::Ed448, &["ED448"]),
        (KeyAlgorithm::X25519, &["X25519"]),
    ] {
        let made = vault
            .generate_key(named("made"), algorithm)
            .expect("generate");
        let pkcs8 = pkcs8_of(&bench.openssl_key(made_by_openssl));
        let imported = vault.import_key(named("imported"), &pkcs8).expect("import");
        for id in [made, imported] {
            let object = bench.object(id);
            assert_eq!(object.attributes["algorithm"], algorithm.to_string());
            assert_eq!(object.attributes["residence"], "memory");
            let key = vault.load_key(id).expect("load");
            assert_eq!(key.residence(), Residence::Memory);
            assert_eq!(key.public().algorithm(), algorithm);
            bench.check_signatures(&mut vault, &key);
            vault.unload_key(key).expect("unload");
        }
        // It opens by the recovery kit as it was.
        let by_kit = bench
            .vault()
            .open_by_recovery(bench.kit())
            .expect("the kit is the vault's");
        assert!(
            by_kit
                .unseal(imported)
                .expect("open")
                .same_as(pkcs8.expose())
        );
    }
}

#[test]
fn what_is_no_private_key_is_refused() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    let good = bench.openssl_key(MADE_BY_OPENSSL[1].1);
    let pkcs8 = pkcs8_of(&good);
    let cut = Secret::copy_of(&pkcs8.expose()[..pkcs8.len() - 1]);
    let longer = Secret::concat(&[pkcs8.expose(), b"\0"]);
    let small = pkcs8_of(&bench.openssl_key(&["RSA", "-pkeyopt", "rsa_keygen_bits:1024"]));
    let other = pkcs8_of(&bench.openssl_key(&["EC", "-pkeyopt", "ec_paramgen_curve:P-224"]));
    let montgomery = pkcs8_of(&bench.openssl_key(&["X448"]));
    // RFC 5958 has the public half beside the private one, and RFC 8410 no parameters.
    let edwards = pkcs8_of(&bench.openssl_key(&["ED25519"]));
    let public = PublicKey::of_pkcs8(&edwards).expect("a key");
    let seed = &edwards.expose()[16..];
    let with_public = |public: &[u8]| {
        let head = b"\x30\x51\x02\x01\x01\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
        Secret::concat(&[head, seed, b"\x81\x21\x00", public])
    };
    let right = with_public(public.ec_point().expect("a point"));
    assert_eq!(PublicKey::of_pkcs8(&right).expect("a key"), public);
    let not_of_it = with_public(&[9; 32]);
    let head = b"\x30\x30\x02\x01\x00\x30\x07\x06\x03\x2b\x65\x70\x05\x00\x04\x22\x04\x20";
    let parameters = Secret::concat(&[head, seed]);
    for bad in [
        &not_of_it,
        &parameters,
        &cut,
        &longer,
        &small,
        &other,
        &montgomery,
        &Secret::zeroed(0),
    ] {
        let refused = vault.import_key(named("bad"), bad);
        assert!(matches!(refused, Err(Error::Input { .. })), "{refused:?}");
    }
    let mut credential = named("no key");
    credential.kind = Kind::Credential;
    let refused = vault.import_key(credential.clone(), &pkcs8);
    assert!(matches!(refused, Err(Error::Input { .. })), "{refused:?}");
    let refused = vault.generate_key(credential, P256);
    assert!(matches!(refused, Err(Error::Input { .. })), "{refused:?}");
    let refused = vault.generate_key(named("small"), KeyAlgorithm::Rsa(1024));
    assert!(matches!(refused, Err(Error::Input { .. })), "{refused:?}");
    assert!(bench.vault().list().expect("list").objects.is_empty());
}

#[test]
fn a_signature_is_one_command() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    for algorithm in [RSA, P256, P384] {
        let id = vault
            .generate_key(named("tls"), algorithm)
            .expect("generate");
        bench.recorder.take();
        let key = vault.load_key(id).expect("load");
        assert_eq!(
            bench.names(),
            ["PolicyPCR", "PolicyAuthorizeNV", "Load"],
            "{algorithm}"
        );
        for scheme in schemes(&key) {
            bench.recorder.take();
            vault
                .sign(&key, &scheme, &digest_for(&scheme, b"message"))
                .expect("sign");
            let expected = match algorithm {
                KeyAlgorithm::Rsa(_) => "RSA_Decrypt",
                _ => "Sign",
            };
            assert_eq!(bench.names(), [expected], "{algorithm} {scheme:?}");
        }
        bench.recorder.take();
        vault.unload_key(key).expect("unload");
        assert_eq!(bench.names(), ["FlushContext"]);
    }
}

#[test]
fn what_is_decrypted_and_derived_is_right_and_crosses_the_bus_encrypted() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    let id = vault.generate_key(named("rsa"), RSA).expect("generate");
    let key = vault.load_key(id).expect("load");
    bench.check_decryption(&mut vault, &key);
    vault.unload_key(key).expect("unload");
    for algorithm in [P256, P384] {
        let id = vault
            .generate_key(named("ec"), algorithm)
            .expect("generate");
        let key = vault.load_key(id).expect("load");
        bench.check_derivation(&mut vault, &key);
        vault.unload_key(key).expect("unload");
    }
}

#[test]
fn whatever_is_wrong_with_a_ciphertext_gets_one_answer() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    let id = vault.generate_key(named("rsa"), RSA).expect("generate");
    let key = vault.load_key(id).expect("load");
    let (modulus, _) = key.public().rsa().expect("RSA");
    let oaep = DecryptScheme::RsaOaep {
        hash: Hash::Sha256,
        mgf: Hash::Sha256,
        label: Vec::new(),
    };
    // Encrypted as they are: padding of every kind of wrong.
    let mut raw = Vec::new();
    for start in [
        &[0, 2][..],
        &[0, 1],
        &[0, 0],
        &[0, 2, 0],
        &[0, 2, 1, 1, 1, 0],
    ] {
        let mut padded = start.to_vec();
        padded.resize(modulus.len(), 0x5A);
        raw.push(bench.encrypt(&key, &["-pkeyopt", "rsa_padding_mode:none"], &padded));
    }
    raw.push(vec![0xFF; modulus.len()]);
    raw.push(modulus.to_vec());
    raw.push(vec![1; modulus.len() - 1]);
    raw.push(Vec::new());
    let mut answers = Vec::new();
    for ciphertext in &raw {
        for scheme in [&DecryptScheme::RsaPkcs1, &oaep] {
            let answer = vault.decrypt(&key, scheme, ciphertext);
            answers.push(answer.err().expect("it is no ciphertext").to_string());
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[test]
fn what_a_key_does_not_do_is_refused() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    let rsa = vault.generate_key(named("rsa"), RSA).expect("generate");
    let ec = vault.generate_key(named("ec"), P256).expect("generate");
    let rsa = vault.load_key(rsa).expect("load");
    let ec = vault.load_key(ec).expect("load");
    let pss = SignScheme::RsaPss {
        hash: Hash::Sha512,
        mgf: Hash::Sha512,
        salt_len: 300,
    };
    let pkcs1 = SignScheme::RsaPkcs1 { hash: None };
    for refused in [
        vault.sign(&rsa, &SignScheme::Ecdsa, &[1; 32]),
        vault.sign(&rsa, &pss, &[1; 64]),
        vault.sign(&rsa, &pss, &[1; 32]),
        vault.sign(&rsa, &pkcs1, &[1; 246]),
        vault.sign(&ec, &pkcs1, &[1; 32]),
        vault.sign(&ec, &SignScheme::Ecdsa, &[]),
        vault.derive(&rsa, &[4; 65]).map(|_| Vec::new()),
        vault.derive(&ec, &[4; 65]).map(|_| Vec::new()),
        vault.derive(&ec, &[]).map(|_| Vec::new()),
        vault
            .decrypt(&ec, &DecryptScheme::RsaRaw, &[1; 32])
            .map(|_| Vec::new()),
        vault.random(2 << 20).map(|_| Vec::new()),
    ] {
        assert!(matches!(refused, Err(Error::Input { .. })), "{refused:?}");
    }
    // What fails costs nothing else.
    bench.check_signatures(&mut vault, &rsa);
    bench.check_signatures(&mut vault, &ec);
}

#[test]
fn what_a_key_costs_is_known() {
    let bench = Bench::new();
    let id = {
        let mut vault = bench.unlock();
        bench.recorder.take();
        let id = vault.generate_key(named("tls"), P256).expect("generate");
        let proof = ["PolicyPCR", "PolicyAuthorizeNV"];
        let made = [&["TestParms", "Load"], &proof[..], &["Create"]].concat();
        let proven = [&proof[..], &["Load", "Sign", "FlushContext"]].concat();
        assert_eq!(bench.names(), [made, proven].concat());
        id
    };
    bench.recorder.take();
    let mut vault = bench.unlock();
    let unlocked = bench.names();
    let key = vault.load_key(id).expect("load");
    vault
        .sign(&key, &SignScheme::Ecdsa, &[1; 32])
        .expect("sign");
    let signed = bench.names();
    assert_eq!(unlocked.len() + signed.len(), 16, "{unlocked:?} {signed:?}");
}

/// Without a resource manager, whoever knows nothing of turns may make room in the TPM, and fill it
/// with his own: here, who uses a copy of the vault.
#[test]
fn a_signature_is_never_another_keys() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    let [one, two] =
        ["one", "two"].map(|name| vault.generate_key(named(name), P256).expect("generate"));
    let key = vault.load_key(one).expect("load");
    for handle in bench.tpm.transient_handles() {
        bench
            .tpm
            .tpm2(&["flushcontext", &format!("{handle:#x}")])
            .ok();
    }
    let lost = vault.sign(&key, &SignScheme::Ecdsa, &[1; 32]);
    assert!(matches!(lost, Err(Error::TpmLost { .. })), "{lost:?}");
    let copy = bench.folder.path().join("copy");
    Run::new("cp")
        .arg("-a")
        .args([bench.dir(), copy.clone()])
        .ok();
    let other = Vault::open(&copy).expect("open");
    let mut other = other.unlock(&bench.tcti()).expect("unlock");
    let in_its_place = other.load_key(two).expect("load");
    let wrong = vault.sign(&key, &SignScheme::Ecdsa, &[1; 32]);
    assert!(matches!(wrong, Err(Error::TpmLost { .. })), "{wrong:?}");
    // A handle is a connection's own.
    let stale = other.sign(&key, &SignScheme::Ecdsa, &[1; 32]);
    assert!(matches!(stale, Err(Error::Input { .. })), "{stale:?}");
    bench.check_signatures(&mut other, &in_its_place);
}

#[test]
fn random_numbers_are_the_tpms_and_cross_the_bus_encrypted() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    bench.recorder.take();
    let first = vault.random(100).expect("random");
    let second = vault.random(100).expect("random");
    assert!(!first.same_as(second.expose()));
    assert_eq!(
        (first.len(), vault.random(0).expect("none").len()),
        (100, 0)
    );
    assert_eq!(bench.recorder.counts()["GetRandom"], 8);
    for part in first.expose().chunks_exact(16) {
        assert!(!bench.recorder.contains(part), "random numbers on the bus");
    }
}

#[test]
fn a_loaded_key_can_be_neither_made_persistent_nor_duplicated() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    let made = vault.generate_key(named("made"), P256).expect("generate");
    let pkcs8 = pkcs8_of(&bench.openssl_key(MADE_BY_OPENSSL[1].1));
    let imported = vault.import_key(named("imported"), &pkcs8).expect("import");
    for id in [made, imported] {
        let before = bench.tpm.transient_handles();
        let key = vault.load_key(id).expect("load");
        let handles = bench.tpm.transient_handles();
        let handle = handles
            .iter()
            .find(|handle| !before.contains(handle))
            .expect("it is loaded");
        let handle = format!("{handle:#x}");
        let refused = bench
            .tpm
            .tpm2(&["evictcontrol", "-C", "o", "-c", &handle, "0x81000009"]);
        assert!(refused.code() != Some(0), "{refused}");
        assert!(refused.stderr.contains("0x282"), "{refused}");

        let session = bench.folder.path().join("session");
        let session = session.to_str().expect("UTF-8");
        bench
            .tpm
            .tpm2(&["startauthsession", "--policy-session", "-S", session])
            .ok();
        bench
            .tpm
            .tpm2(&["policycommandcode", "-S", session, "TPM2_CC_Duplicate"])
            .ok();
        let out = |name: &str| bench.folder.path().join(name).display().to_string();
        let auth = format!("session:{session}");
        let refused = bench.tpm.tpm2(&[
            "duplicate",
            "-C",
            "null",
            "-c",
            &handle,
            "-G",
            "null",
            "-p",
            &auth,
            "-r",
            &out("dup.priv"),
            "-s",
            &out("dup.seed"),
        ]);
        assert!(refused.code() != Some(0), "{refused}");
        bench.tpm.tpm2(&["flushcontext", session]).ok();
        vault.unload_key(key).expect("unload");
    }
}

#[test]
fn another_boot_makes_imports_and_loads_nothing() {
    let mut bench = Bench::new();
    let pkcs8 = pkcs8_of(&bench.openssl_key(MADE_BY_OPENSSL[1].1));
    let mut vault = bench.unlock();
    let made = vault.generate_key(named("made"), P256).expect("generate");
    let imported = vault.import_key(named("imported"), &pkcs8).expect("import");
    // Under an open vault, as when something is measured after it was unlocked.
    let loaded = vault.load_key(made).expect("load");
    bench.tpm.extend(11, b"another phase");
    let refused = [
        vault.load_key(made).err(),
        vault.load_key(imported).err(),
        vault.generate_key(named("new"), P256).err(),
        vault.import_key(named("new"), &pkcs8).err(),
    ];
    for error in refused {
        assert!(matches!(error, Some(Error::PolicyRefused(_))), "{error:?}");
    }
    vault.unload_key(loaded).expect("unload");
    drop(vault);

    bench
        .tpm
        .reboot(&[(7, "another key"), USUAL_BOOT[1], USUAL_BOOT[2]]);
    let refused = bench.vault().unlock(&bench.tcti()).err();
    assert!(matches!(refused, Some(Error::PolicyRefused(_))));
    bench.tpm.reboot(USUAL_BOOT);
    let mut vault = bench.unlock();
    for id in [made, imported] {
        let key = vault.load_key(id).expect("load");
        bench.check_signatures(&mut vault, &key);
        vault.unload_key(key).expect("unload");
    }
}

#[test]
fn on_another_tpm_imported_keys_work_again_and_generated_ones_are_reported() {
    let mut bench = Bench::new();
    let mut vault = bench.unlock();
    let imported: Vec<ObjectId> = MADE_BY_OPENSSL
        .into_iter()
        .map(|(_, options)| {
            let pkcs8 = pkcs8_of(&bench.openssl_key(options));
            vault.import_key(named("imported"), &pkcs8).expect("import")
        })
        .collect();
    // Its label was changed by a box that cannot open the copy.
    vault
        .update(imported[0], |object| object.label = label("renamed"))
        .expect("update");
    let made = vault.generate_key(named("made"), P256).expect("generate");
    let in_memory = vault
        .import_key(
            named("large"),
            &pkcs8_of(&bench.openssl_key(&["RSA", "-pkeyopt", "rsa_keygen_bits:4096"])),
        )
        .expect("import");
    let secret = vault
        .seal(credential("secret"), &Secret::copy_of(b"secret"))
        .expect("seal");
    let certificate = vault.store(certificate("tls")).expect("store");
    drop(vault);

    // On its own TPM there is nothing to do.
    let recovered = bench.recover();
    assert_eq!((recovered.objects, recovered.sealed), (7, 0));
    assert!(
        recovered.lost.is_empty() && recovered.damaged.is_empty(),
        "{recovered:?}"
    );

    bench.replace_tpm();
    let recovered = bench.recover();
    assert!(
        recovered.moved && recovered.damaged.is_empty(),
        "{recovered:?}"
    );
    assert_eq!((recovered.objects, recovered.sealed), (6, 5));
    let lost: Vec<ObjectId> = recovered.lost.iter().map(|object| object.id).collect();
    assert_eq!(lost, [made]);

    // And again, now that it is at home.
    let recovered = bench.recover();
    assert_eq!(
        (recovered.objects, recovered.sealed, recovered.lost.len()),
        (6, 0, 1)
    );

    let mut vault = bench.unlock();
    for id in imported.iter().chain([&in_memory]) {
        let key = vault.load_key(*id).expect("load");
        bench.check_signatures(&mut vault, &key);
        vault.unload_key(key).expect("unload");
    }
    assert_eq!(bench.object(imported[0]).label.as_str(), "renamed");
    let error = vault.load_key(made).err().expect("it is lost");
    assert!(matches!(error, Error::KeyLost { .. }), "{error}");
    assert!(error.to_string().contains("Generate a new key"), "{error}");
    assert!(vault.unseal(secret).expect("unseal").same_as(b"secret"));
    assert_eq!(bench.object(certificate).kind, Kind::Certificate);
    // The kit still opens the copies.
    let by_kit = bench.vault().open_by_recovery(bench.kit()).expect("kit");
    assert!(imported.iter().all(|id| by_kit.unseal(*id).is_ok()));
    for id in [made, certificate] {
        let refused = by_kit.unseal(id).err();
        assert!(matches!(refused, Some(Error::Input { .. })), "{refused:?}");
    }
}

#[test]
fn a_forged_key_is_refused_whatever_was_changed() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    let pkcs8 = pkcs8_of(&bench.openssl_key(MADE_BY_OPENSSL[1].1));
    let one = vault.import_key(named("one"), &pkcs8).expect("import");
    let two = vault.generate_key(named("two"), P256).expect("generate");
    let (file, other) = (bench.file(one), bench.file(two));
    let genuine = read_json(&file);
    let stranger = read_json(&other);

    // A public key that people would be told to trust, and a key of another object.
    let mut public = genuine.clone();
    public["metadata"]["attributes"]["public-key"] =
        stranger["metadata"]["attributes"]["public-key"].clone();
    let mut slot = genuine.clone();
    slot["slots"][0] = stranger["slots"][0].clone();
    for forged in [public, slot] {
        write_json(&file, &forged);
        let refused = vault.load_key(one).err().expect("forged");
        assert!(matches!(refused, Error::ObjectDamaged { .. }), "{refused}");
        assert!(
            vault
                .update(one, |object| object.label = label("x"))
                .is_err()
        );
        // The other object is none the worse for it.
        let key = vault.load_key(two).expect("load");
        vault.unload_key(key).expect("unload");
    }
    for edit in edits(&genuine) {
        write_json(&file, &edit.document);
        let refused = vault.load_key(one);
        assert!(refused.is_err(), "{}", edit.what);
    }
    write_json(&file, &genuine);
    let key = vault.load_key(one).expect("load");
    bench.check_signatures(&mut vault, &key);
}

#[test]
fn a_certificate_is_stored_and_a_changed_one_refused() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    let id = vault.store(certificate("tls")).expect("store");
    assert_eq!(vault.vault().payload_len(id).expect("there"), None);
    vault
        .update(id, |object| {
            object.label = label("web");
            object
                .attributes
                .insert("cka-id".to_owned(), "01".to_owned());
        })
        .expect("update");
    let object = bench.object(id);
    assert_eq!(object.label.as_str(), "web");
    assert_eq!(object.attributes["cka-id"], "01");
    assert_eq!(object.attributes["value"], "MIIB");

    for kind in [Kind::PrivateKey, Kind::SecretKey, Kind::DatasetKey] {
        let mut object = certificate("tls");
        object.kind = kind;
        assert!(
            matches!(vault.store(object), Err(Error::Input { .. })),
            "{kind}"
        );
    }
    let file = bench.file(id);
    let mut forged = read_json(&file);
    forged["metadata"]["attributes"]["value"] = "MIIC".into();
    write_json(&file, &forged);
    let refused = vault.update(id, |object| object.label = label("x"));
    assert!(
        matches!(refused, Err(Error::ObjectDamaged { .. })),
        "{refused:?}"
    );
}

#[test]
fn an_object_gets_another_label_and_stays_what_it_is() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    let id = vault
        .seal(credential("offsite"), &Secret::copy_of(b"secret"))
        .expect("seal");
    let before = read_json(&bench.file(id));
    vault
        .update(id, |object| {
            object.label = label("onsite");
            object.attributes.insert("note".to_owned(), "x".to_owned());
        })
        .expect("update");
    let after = read_json(&bench.file(id));
    assert_eq!(bench.object(id).label.as_str(), "onsite");
    assert!(vault.unseal(id).expect("unseal").same_as(b"secret"));
    // Under a new DEK.
    for changed in [
        "/payload/ciphertext",
        "/slots/0/key-file",
        "/slots/1/age",
        "/mac",
    ] {
        assert_ne!(before.pointer(changed), after.pointer(changed), "{changed}");
    }
    let by_kit = bench.vault().open_by_recovery(bench.kit()).expect("kit");
    assert!(by_kit.unseal(id).expect("open").same_as(b"secret"));

    // No change, no write.
    vault.update(id, |_| ()).expect("update");
    assert_eq!(read_json(&bench.file(id)), after);

    // It joins the versions of its new name as the newest of them.
    let named_so = vault
        .seal(credential("other"), &Secret::copy_of(b"2"))
        .expect("seal");
    vault
        .update(id, |object| object.label = label("other"))
        .expect("update");
    assert!(bench.object(id).supersedes(&bench.object(named_so)));

    let key = vault.generate_key(named("tls"), P256).expect("generate");
    let refusals = [
        vault.update(id, |object| object.token = TokenName::credentials()),
        vault.update(id, |object| object.kind = Kind::SecretKey),
        vault.update(id, |object| {
            object
                .attributes
                .insert("NOT A KEY".to_owned(), String::new());
        }),
        vault.update(key, |object| {
            object.attributes.remove("public-key");
        }),
        vault.update(key, |object| {
            object
                .attributes
                .insert("local".to_owned(), "false".to_owned());
        }),
    ];
    for refused in refusals {
        assert!(matches!(refused, Err(Error::Input { .. })), "{refused:?}");
    }
    vault
        .update(key, |object| {
            object
                .attributes
                .insert("cka-id".to_owned(), "0a".to_owned());
        })
        .expect("update");
    let loaded = vault.load_key(key).expect("load");
    bench.check_signatures(&mut vault, &loaded);
}

#[test]
fn an_update_that_cannot_be_verified_leaves_the_object_as_it_was() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    let id = vault
        .seal(credential("offsite"), &Secret::copy_of(b"secret"))
        .expect("seal");
    let before = fs::read(bench.file(id)).expect("there");
    bench.tpm.extend(9, b"something else");
    let refused = vault.update(id, |object| object.label = label("onsite"));
    assert!(
        matches!(refused, Err(Error::PolicyRefused(_))),
        "{refused:?}"
    );
    assert_eq!(fs::read(bench.file(id)).expect("there"), before);
    let left = fs::read_dir(bench.file(id).parent().expect("a folder"))
        .expect("read")
        .count();
    assert_eq!(left, 1, "nothing half-written stays behind");
}

/// Killed at any instant, an update has been made or not, and the object opens.
#[test]
fn an_update_that_is_killed_costs_nothing() {
    let bench = Bench::new();
    let (sealed, imported) = {
        let mut vault = bench.unlock();
        let pkcs8 = pkcs8_of(&bench.openssl_key(MADE_BY_OPENSSL[1].1));
        (
            vault
                .seal(credential("0"), &Secret::copy_of(b"secret"))
                .expect("seal"),
            vault.import_key(named("0"), &pkcs8).expect("import"),
        )
    };
    let kills = std::env::var("STRONGROOM_TEST_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok())
        .unwrap_or(8);
    let mut labels = Vec::new();
    for round in 0..kills {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "updates_without_end", "--ignored", "--quiet"])
            .env("KEYS_TEST_DIR", bench.dir())
            .env("KEYS_TEST_TCTI", bench.recorder.tcti())
            .env("KEYS_TEST_IDS", format!("{sealed} {imported}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the updates");
        thread::sleep(Duration::from_millis(150 + 37 * (round % 16)));
        child.kill().expect("kill");
        let status = child.wait().expect("wait");
        assert_eq!(status.signal(), Some(9), "it was at work until then");

        let mut vault = bench.unlock();
        assert!(vault.unseal(sealed).expect("unseal").same_as(b"secret"));
        let key = vault.load_key(imported).expect("load");
        bench.check_signatures(&mut vault, &key);
        let listing = bench.vault().list().expect("list");
        assert!(listing.damaged.is_empty(), "{listing:?}");
        labels.push(bench.object(sealed).label.to_string());
    }
    labels.dedup();
    assert!(labels.len() > 1, "something was updated: {labels:?}");
}

#[test]
#[ignore = "a part of the test above, in a process of its own"]
fn updates_without_end() {
    // Run with all the ignored ones, it is nobody's part.
    if std::env::var_os("KEYS_TEST_DIR").is_none() {
        return;
    }
    let variable = |name| std::env::var(name).expect("the test above sets it");
    let tcti: Tcti = variable("KEYS_TEST_TCTI").parse().expect("a TCTI");
    let vault = Vault::open(Path::new(&variable("KEYS_TEST_DIR"))).expect("open");
    let mut vault = vault.unlock(&tcti).expect("unlock");
    let ids: Vec<ObjectId> = variable("KEYS_TEST_IDS")
        .split(' ')
        .map(|id| id.parse().expect("an id"))
        .collect();
    for count in 0_u32.. {
        for id in &ids {
            let name = format!("{} {count}", std::process::id());
            vault
                .update(*id, |object| object.label = label(&name))
                .expect("update");
        }
    }
}

/// A vault with the token `keys`, its TPM, and OpenSSL beside it.
struct Bench {
    // Dropped in this order.
    recorder: Recorder,
    tpm: Swtpm,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let tpm = Swtpm::measured();
        let bench = Self {
            recorder: Recorder::start(&tpm),
            tpm,
            folder: tempfile::tempdir().expect("a folder"),
        };
        let options = InitOptions {
            fence: None,
            pcrs: None,
            event_log: None,
            tokens: vec![TokenName::keys(), TokenName::credentials()],
        };
        Vault::init(&bench.dir(), &bench.tcti(), &options, |kit| {
            kit.write(&bench.kit_file())
        })
        .expect("init");
        bench
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("vault")
    }

    fn kit_file(&self) -> PathBuf {
        self.folder.path().join("kit")
    }

    fn kit(&self) -> RecoveryKit {
        RecoveryKit::read(&self.kit_file()).expect("the kit")
    }

    fn tcti(&self) -> Tcti {
        self.recorder.tcti().parse().expect("a TCTI")
    }

    fn vault(&self) -> Vault {
        Vault::open(&self.dir()).expect("open")
    }

    fn unlock(&self) -> Unlocked {
        self.vault().unlock(&self.tcti()).expect("unlock")
    }

    fn recover(&self) -> Recovered {
        self.vault()
            .recover(&self.tcti(), &self.kit(), None, |_, _| ())
            .expect("recover")
    }

    fn replace_tpm(&mut self) {
        let tpm = Swtpm::measured();
        self.recorder = Recorder::start(&tpm);
        self.tpm = tpm;
    }

    fn object(&self, id: ObjectId) -> Metadata {
        let listing = self.vault().list().expect("list");
        let found = listing.objects.into_iter().find(|object| object.id == id);
        found.expect("it is there")
    }

    fn file(&self, id: ObjectId) -> PathBuf {
        let object = self.object(id);
        self.dir()
            .join("objects")
            .join(object.token.as_str())
            .join(format!("{id}.json"))
    }

    /// The commands since the record began.
    fn names(&self) -> Vec<&'static str> {
        self.recorder
            .take()
            .iter()
            .map(|command| command.name)
            .collect()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> String {
        let file = self.folder.path().join(name);
        fs::write(&file, bytes).expect("write");
        file.display().to_string()
    }

    fn openssl_key(&self, options: &[&str]) -> PathBuf {
        let file = self
            .folder
            .path()
            .join(format!("{}.pem", ObjectId::random()));
        Run::new("openssl")
            .args(["genpkey", "-quiet", "-algorithm"])
            .args(&options[..1])
            .args(&options[1..])
            .arg("-out")
            .arg(&file)
            .ok();
        file
    }

    /// Signs by every scheme, and has OpenSSL verify.
    #[track_caller]
    fn check_signatures(&self, vault: &mut Unlocked, key: &LoadedKey) {
        for scheme in schemes(key) {
            let digest = digest_for(&scheme, b"what is signed");
            let signature = vault.sign(key, &scheme, &digest).expect("sign");
            let (signature, options) = match &scheme {
                SignScheme::Ecdsa => (der_of(&signature), Vec::new()),
                SignScheme::RsaPkcs1 { hash: None } => {
                    (signature, vec!["rsa_padding_mode:pkcs1".to_owned()])
                }
                SignScheme::RsaPkcs1 { hash: Some(hash) } => (
                    signature,
                    vec![
                        "rsa_padding_mode:pkcs1".to_owned(),
                        format!("digest:{}", name(*hash)),
                    ],
                ),
                SignScheme::RsaRaw => (signature, vec!["rsa_padding_mode:none".to_owned()]),
                // OpenSSL takes the message as it is.
                SignScheme::Eddsa { .. } => (signature, Vec::new()),
                SignScheme::RsaPss {
                    hash,
                    mgf,
                    salt_len,
                } => (
                    signature,
                    vec![
                        "rsa_padding_mode:pss".to_owned(),
                        format!("digest:{}", name(*hash)),
                        format!("rsa_mgf1_md:{}", name(*mgf)),
                        format!("rsa_pss_saltlen:{salt_len}"),
                    ],
                ),
            };
            // A message, and no digest, is of any length.
            let raw = matches!(scheme, SignScheme::Eddsa { .. }).then_some("-rawin");
            Run::new("openssl")
                .args(["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey"])
                .arg(self.put("public.der", key.public().spki()))
                .args(raw)
                .arg("-in")
                .arg(self.put("digest", &digest))
                .arg("-sigfile")
                .arg(self.put("signature", &signature))
                .args(options.iter().flat_map(|option| ["-pkeyopt", option]))
                .ok();
        }
    }

    fn encrypt(&self, key: &LoadedKey, options: &[&str], message: &[u8]) -> Vec<u8> {
        Run::new("openssl")
            .args(["pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey"])
            .arg(self.put("public.der", key.public().spki()))
            .arg("-in")
            .arg(self.put("message", message))
            .args(options)
            .ok()
            .stdout
    }

    /// Has OpenSSL encrypt by every scheme, and decrypts.
    #[track_caller]
    fn check_decryption(&self, vault: &mut Unlocked, key: &LoadedKey) {
        let len = key.public().rsa().expect("RSA").0.len();
        let pkcs1 = ["-pkeyopt", "rsa_padding_mode:pkcs1"];
        let message = b"thirty-two bytes of what is told";
        for message in [&b""[..], message, &[7; 245][..]] {
            let ciphertext = self.encrypt(key, &pkcs1, message);
            let opened = self.decrypt(vault, key, &DecryptScheme::RsaPkcs1, &ciphertext);
            assert!(opened.same_as(message));
        }
        for (hash, mgf, label) in [
            (Hash::Sha1, Hash::Sha1, &b""[..]),
            (Hash::Sha256, Hash::Sha256, b""),
            (Hash::Sha256, Hash::Sha1, b"label\0with a zero"),
            (Hash::Sha512, Hash::Sha384, &[0xFF; 40]),
        ] {
            let label_option = format!("rsa_oaep_label:{}", hex::encode(label));
            let hash_option = format!("rsa_oaep_md:{}", name(hash));
            let mgf_option = format!("rsa_mgf1_md:{}", name(mgf));
            let mut options = vec!["-pkeyopt", "rsa_padding_mode:oaep"];
            options.extend(["-pkeyopt", &hash_option, "-pkeyopt", &mgf_option]);
            if !label.is_empty() {
                options.extend(["-pkeyopt", &label_option]);
            }
            let ciphertext = self.encrypt(key, &options, message);
            let scheme = DecryptScheme::RsaOaep {
                hash,
                mgf,
                label: label.to_vec(),
            };
            let opened = self.decrypt(vault, key, &scheme, &ciphertext);
            assert!(opened.same_as(message), "{scheme:?}");
            let other = DecryptScheme::RsaOaep {
                hash,
                mgf,
                label: b"another".to_vec(),
            };
            assert!(vault.decrypt(key, &other, &ciphertext).is_err());
        }
        // With leading zeros, which have to come back.
        let mut raw = vec![0; len];
        raw[len - message.len()..].copy_from_slice(message);
        let ciphertext = self.encrypt(key, &["-pkeyopt", "rsa_padding_mode:none"], &raw);
        let opened = self.decrypt(vault, key, &DecryptScheme::RsaRaw, &ciphertext);
        assert!(opened.same_as(&raw));
        assert!(!self.recorder.contains(message), "on the bus");
    }

    /// Decrypts, and counts the commands.
    fn decrypt(
        &self,
        vault: &mut Unlocked,
        key: &LoadedKey,
        scheme: &DecryptScheme,
        ciphertext: &[u8],
    ) -> Secret {
        let before = self.recorder.commands().len();
        let opened = vault.decrypt(key, scheme, ciphertext).expect("decrypt");
        let commands = &self.recorder.commands()[before..];
        let names: Vec<_> = commands.iter().map(|command| command.name).collect();
        match key.residence() {
            Residence::Tpm => assert_eq!(names, ["RSA_Decrypt"]),
            Residence::Memory => assert!(names.is_empty(), "{names:?}"),
        }
        opened
    }

    /// Derives, and compares with what OpenSSL derives on the other side.
    #[track_caller]
    fn check_derivation(&self, vault: &mut Unlocked, key: &LoadedKey) {
        let curve = match key.public().algorithm() {
            P256 => "ec_paramgen_curve:P-256",
            _ => "ec_paramgen_curve:P-384",
        };
        let peer = self.openssl_key(&["EC", "-pkeyopt", curve]);
        let peer_public = PublicKey::from_spki(&spki_of(&peer)).expect("a public key");
        let expected = Run::new("openssl")
            .args(["pkeyutl", "-derive", "-inkey"])
            .arg(&peer)
            .args(["-peerform", "DER", "-peerkey"])
            .arg(self.put("public.der", key.public().spki()))
            .ok()
            .stdout;
        self.recorder.take();
        let point = peer_public.ec_point().expect("EC");
        let derived = vault.derive(key, point).expect("derive");
        assert!(derived.same_as(&expected));
        assert!(!self.recorder.contains(&expected), "on the bus");
        assert_eq!(self.names(), ["ECDH_ZGen"]);
    }
}

fn pkcs8_of(pem: &Path) -> Secret {
    let der = Run::new("openssl")
        .args(["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in"])
        .arg(pem)
        .ok();
    Secret::take(der.stdout)
}

fn spki_of(pem: &Path) -> Vec<u8> {
    Run::new("openssl")
        .args(["pkey", "-pubout", "-outform", "DER", "-in"])
        .arg(pem)
        .ok()
        .stdout
}

/// What nobody may see: the scalar; or the primes, the private exponent and its parts.
fn secret_numbers(pem: &Path) -> Vec<Vec<u8>> {
    let text = Run::new("openssl")
        .args(["pkey", "-noout", "-text", "-in"])
        .arg(pem)
        .ok()
        .text();
    let mut numbers: Vec<Vec<u8>> = Vec::new();
    let mut secret = false;
    for line in text.lines() {
        if let Some(digits) = line.strip_prefix("    ") {
            let bytes = digits.split(':').filter(|digits| !digits.is_empty());
            let bytes = bytes.map(|digits| u8::from_str_radix(digits, 16).expect("hex"));
            if secret {
                numbers.last_mut().expect("begun").extend(bytes);
            }
            continue;
        }
        secret = [
            "priv:",
            "privateExponent:",
            "prime1:",
            "prime2:",
            "exponent1:",
            "exponent2:",
            "coefficient:",
        ]
        .contains(&line.trim());
        if secret {
            numbers.push(Vec::new());
        }
    }
    assert!(!numbers.is_empty(), "{text}");
    for number in &mut numbers {
        // 16 bytes of it are telling enough.
        *number = number[4..20].to_vec();
    }
    numbers
}

/// Every scheme that a key does.
fn schemes(key: &LoadedKey) -> Vec<SignScheme> {
    match key.public().algorithm() {
        KeyAlgorithm::Rsa(_) => {}
        KeyAlgorithm::Ec(_) => return vec![SignScheme::Ecdsa],
        // With a context or prehashed OpenSSL 3.0 does not have it.
        KeyAlgorithm::Ed25519 | KeyAlgorithm::Ed448 => return vec![SignScheme::PURE_EDDSA],
        KeyAlgorithm::X25519 => return Vec::new(),
    }
    let mut schemes = vec![SignScheme::RsaPkcs1 { hash: None }];
    for hash in [
        Hash::Sha1,
        Hash::Sha224,
        Hash::Sha256,
        Hash::Sha384,
        Hash::Sha512,
    ] {
        schemes.push(SignScheme::RsaPkcs1 { hash: Some(hash) });
        for (mgf, salt_len) in [(hash, hash.digest_len()), (hash, 0), (Hash::Sha1, 11)] {
            schemes.push(SignScheme::RsaPss {
                hash,
                mgf,
                salt_len,
            });
        }
    }
    schemes
}

/// A digest as a scheme takes it; for PKCS #1 without a hash, just bytes.
fn digest_for(scheme: &SignScheme, message: &[u8]) -> Vec<u8> {
    match scheme {
        SignScheme::RsaPkcs1 { hash: Some(hash) } | SignScheme::RsaPss { hash, .. } => match hash {
            // Any 20 bytes are a digest to who is given digests.
            Hash::Sha1 => Sha256::digest(message)[..20].to_vec(),
            Hash::Sha224 => Sha256::digest(message)[..28].to_vec(),
            Hash::Sha256 => Sha256::digest(message).to_vec(),
            Hash::Sha384 => Sha384::digest(message).to_vec(),
            Hash::Sha512 => Sha512::digest(message).to_vec(),
        },
        SignScheme::Ecdsa => Sha512::digest(message).to_vec(),
        SignScheme::RsaPkcs1 { hash: None } | SignScheme::RsaRaw | SignScheme::Eddsa { .. } => {
            message.to_vec()
        }
    }
}

fn name(hash: Hash) -> &'static str {
    match hash {
        Hash::Sha1 => "sha1",
        Hash::Sha224 => "sha224",
        Hash::Sha256 => "sha256",
        Hash::Sha384 => "sha384",
        Hash::Sha512 => "sha512",
    }
}

/// r ‖ s as OpenSSL takes it: SEQUENCE { INTEGER r, INTEGER s }.
fn der_of(signature: &[u8]) -> Vec<u8> {
    let integer = |number: &[u8]| {
        let significant = number.iter().position(|byte| *byte != 0).unwrap_or(0);
        let mut body = number[significant..].to_vec();
        if body[0] & 0x80 != 0 {
            body.insert(0, 0);
        }
        let len = u8::try_from(body.len()).expect("short");
        [vec![2, len], body].concat()
    };
    let (r, s) = signature.split_at(signature.len() / 2);
    let body = [integer(r), integer(s)].concat();
    let len = u8::try_from(body.len()).expect("short");
    // Of P-521 it is longer than a length of one byte says.
    let head = if len < 0x80 {
        vec![0x30, len]
    } else {
        vec![0x30, 0x81, len]
    };
    [head, body].concat()
}

fn label(text: &str) -> strongroom::object::Label {
    text.parse().expect("a label")
}

fn named(text: &str) -> NewObject {
    NewObject::new(TokenName::keys(), label(text), Kind::PrivateKey)
}

fn credential(text: &str) -> NewObject {
    NewObject::new(TokenName::keys(), label(text), Kind::Credential)
}

fn certificate(text: &str) -> NewObject {
    NewObject::new(TokenName::keys(), label(text), Kind::Certificate)
        .with_attribute("value", "MIIB")
}
