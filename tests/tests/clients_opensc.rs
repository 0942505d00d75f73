//! OpenSC's pkcs11-tool on the token `keys`: its own test, key pairs made and imported,
//! certificates, data and secret keys written, read back and deleted.

use std::fs;
use std::path::{Path, PathBuf};

use strongroom_tests::token::{id_of, in_library_folder};
use strongroom_tests::{KeyType, OpenSsl, Token, openssl};

#[test]
fn pkcs11_tools_own_test_passes() {
    its_own_test_passes(&Token::new());
}

#[test]
fn pkcs11_tools_own_test_passes_behind_a_pin() {
    its_own_test_passes(&Token::guarded());
}

fn its_own_test_passes(token: &Token) {
    token.generate(KeyType::Rsa2048, "rsa");
    token.generate(KeyType::P256, "p256");
    token.generate(KeyType::P384, "p384");
    let tested = token.pkcs11_tool(&["--test"]).finish();
    if token.is_peer() {
        // SoftHSM2 has no OAEP but that with SHA-1, and no label; the rest of it passes.
        tested.says("C_DecryptInit failed: rv = CKR_ARGUMENTS_BAD");
        return;
    }
    let tested = tested.ok().text();
    // That nothing failed does not say that anything was tried.
    for tried in ["SHA256-RSA-PKCS: OK", "RSA-PKCS-OAEP: ", "No errors"] {
        assert!(tested.contains(tried), "{tested}");
    }
    token.is_left_clean();
}

#[test]
fn every_listed_mechanism_is_tested_in_software_too() {
    let token = Token::new();
    token.generate(KeyType::Rsa2048, "rsa");
    token.generate(KeyType::P256, "p256");
    let tested = token.pkcs11_tool(&["--test", "--allow-sw"]).finish();
    if !token.is_peer() {
        let tested = tested.ok().text();
        assert!(!tested.contains("not implemented"), "{tested}");
    }
}

#[test]
fn a_new_key_pair_signs_and_openssl_verifies() {
    let token = Token::new();
    for key in [KeyType::Rsa2048, KeyType::P256, KeyType::P384] {
        token.generate(key, "made");
        let listed = token.pkcs11_tool(&["-O", "--label", "made"]).ok().text();
        assert!(listed.contains("never extractable, local"), "{listed}");
        let public = OpenSsl::new(&token, openssl::Way::Provider).public_key("made");
        if key == KeyType::Rsa2048 {
            let read = read_public_key(&token, "made");
            assert_eq!(modulus_or_point(&read), modulus_or_point(&public));
        } else {
            // pkcs11-tool 0.23 reads the curve's name out of memory that it
            // has freed when it makes a file of such a key, so what it
            // lists is compared.
            let point = listed_point(&token, "made");
            let public = subject_public_key_info(&token, &public);
            assert!(public.ends_with(&point), "{point} is not in {public}");
        }
        signs(&token, key, "made", &public);
        delete(&token, "privkey", "made");
        if token.is_peer() {
            // Ours is gone with its private key.
            delete(&token, "pubkey", "made");
        }
    }
    let left = token.pkcs11_tool(&["-O"]).ok().text();
    assert_eq!(left, "", "all was deleted");
    token.is_left_clean();
}

#[test]
fn an_imported_private_key_signs_as_it_did_outside() {
    let token = Token::new();
    for key in [KeyType::Rsa2048, KeyType::P256, KeyType::P384] {
        let private = token.file("outside.pem");
        openssl::generate(key, &private);
        write_object(&token, "privkey", "imported", &private);
        let public = token.file("outside-public.pem");
        openssl::plain(&["pkey", "-pubout", "-in"])
            .arg(&private)
            .arg("-out")
            .arg(&public)
            .ok();
        signs(&token, key, "imported", &public);
        delete(&token, "privkey", "imported");
    }
    token.is_left_clean();
}

#[test]
fn an_imported_rsa_key_decrypts_what_is_encrypted_for_it() {
    let token = Token::new();
    let private = token.file("outside.pem");
    openssl::generate(KeyType::Rsa2048, &private);
    write_object(&token, "privkey", "imported", &private);
    let plain = token.write("plain", "for your eyes only");
    let encrypted = token.file("encrypted");
    openssl::plain(&["pkeyutl", "-encrypt", "-inkey"])
        .arg(&private)
        .arg("-in")
        .arg(&plain)
        .arg("-out")
        .arg(&encrypted)
        .ok();
    let decrypted = token.file("decrypted");
    token
        .pkcs11_tool(&["--decrypt", "--mechanism", "RSA-PKCS"])
        .args(["--id", &id_of("imported"), "--input-file"])
        .arg(&encrypted)
        .arg("--output-file")
        .arg(&decrypted)
        .ok();
    assert_eq!(read(&decrypted), read(&plain));
}

#[test]
fn a_certificate_is_read_back_as_it_was_written() {
    let token = Token::new();
    token.generate(KeyType::P256, "web");
    let pem = OpenSsl::new(&token, openssl::Way::Provider).certificate("web");
    let certificate = token.file("web.der");
    openssl::plain(&["x509", "-outform", "DER", "-in"])
        .arg(&pem)
        .arg("-out")
        .arg(&certificate)
        .ok();
    write_object(&token, "cert", "web", &certificate);
    let listed = token.pkcs11_tool(&["-O", "--type", "cert"]).ok().text();
    assert!(listed.contains("X.509"), "{listed}");
    assert!(listed.contains("CN=web"), "{listed}");
    assert_eq!(read_object(&token, "cert", "web"), read(&certificate));
    delete(&token, "cert", "web");
    let left = token.pkcs11_tool(&["-O", "--type", "cert"]).ok().text();
    assert_eq!(left, "");
}

#[test]
fn data_is_read_back_as_it_was_written() {
    let token = Token::new();
    let bytes: Vec<u8> = (0..=255).cycle().take(1500).collect();
    let file = token.write("data", &bytes);
    token
        .pkcs11_tool(&["--type", "data", "--label", "note", "--private"])
        .args(["--application-label", "notebook", "--write-object"])
        .arg(&file)
        .ok();
    let listed = token.pkcs11_tool(&["-O", "--type", "data"]).ok().text();
    assert!(listed.contains("notebook"), "{listed}");
    assert_eq!(read_object(&token, "data", "note"), bytes);
    delete(&token, "data", "note");
    let left = token.pkcs11_tool(&["-O", "--type", "data"]).ok().text();
    assert_eq!(left, "");
    token.is_left_clean();
}

#[test]
fn an_extractable_secret_key_is_read_back_as_it_was_written() {
    let token = Token::new();
    // pkcs11-tool 0.23 writes no generic secrets.
    let key = [7; 32];
    let file = token.write("key", key);
    token
        .pkcs11_tool(&[
            "--type",
            "secrkey",
            "--key-type",
            "AES:32",
            "--label",
            "key",
        ])
        .args(["--extractable", "--write-object"])
        .arg(&file)
        .ok();
    assert_eq!(read_object(&token, "secrkey", "key"), key);
    delete(&token, "secrkey", "key");
    token.is_left_clean();
}

#[test]
fn a_new_secret_key_is_sensitive_if_so_wished() {
    let token = Token::new();
    for kind in ["AES:16", "AES:32", "GENERIC:32"] {
        token
            .pkcs11_tool(&["--keygen", "--key-type", kind, "--label", "secret"])
            .args(["--sensitive"])
            .ok();
        let refused = token
            .pkcs11_tool(&["--read-object", "--type", "secrkey", "--label", "secret"])
            .finish();
        assert_ne!(refused.code(), Some(0), "{refused}");
        delete(&token, "secrkey", "secret");
    }
}

#[test]
fn random_bytes_come_as_many_as_are_asked_for_and_differ() {
    let token = Token::new();
    let random = || token.pkcs11_tool(&["--generate-random", "200"]).ok().stdout;
    let (one, other) = (random(), random());
    assert_eq!(one.len(), 200);
    assert_eq!(other.len(), 200);
    assert_ne!(one, other);
}

#[test]
fn a_forked_child_starts_anew() {
    let token = Token::new();
    token.generate(KeyType::P256, "p256");
    let tested = token.pkcs11_tool(&["--test-fork"]).finish();
    if token.is_peer() {
        tested.says("CKR_CRYPTOKI_ALREADY_INITIALIZED");
        return;
    }
    tested.ok();
    token.is_left_clean();
}

#[test]
fn pkcs11_spy_writes_down_what_pkcs11_tool_asks_of_the_module() {
    let token = Token::new();
    if token.is_peer() {
        return;
    }
    token.generate(KeyType::P256, "p256");
    let data = token.write("digest", [7; 32]);
    let log = token.file("spy");
    // It puts its own functions in the place of ours, in the interface that it was given.
    token
        .run("pkcs11-tool")
        .env("PKCS11SPY", token.module())
        .env("PKCS11SPY_OUTPUT", &log)
        .arg("--module")
        .arg(in_library_folder("pkcs11/pkcs11-spy.so"))
        .args(["--token-label", "keys", "--sign", "--mechanism", "ECDSA"])
        .args(
            token
                .pin()
                .iter()
                .flat_map(|pin| ["--login", "--pin", *pin]),
        )
        .args(["--id", &id_of("p256"), "--input-file"])
        .arg(&data)
        .arg("--output-file")
        .arg(token.file("signature"))
        .ok();
    assert_eq!(read(&token.file("signature")).len(), 64);
    let spied = String::from_utf8(read(&log)).expect("it writes text");
    for call in ["C_GetInterface", "C_Initialize", "C_Sign"] {
        assert!(spied.contains(call), "{call}: {spied}");
    }
    token.is_left_clean();
}

/// Signs with pkcs11-tool in each way that suits the key, and verifies with OpenSSL.
#[track_caller]
fn signs(token: &Token, key: KeyType, label: &str, public: &Path) {
    let data = token.write("data", "what is signed");
    let signature = token.file("signature");
    let mechanisms: &[(&str, &[&str])] = match key {
        KeyType::Rsa2048 => &[
            ("SHA256-RSA-PKCS", &["-sha256"]),
            ("SHA512-RSA-PKCS", &["-sha512"]),
            (
                "SHA256-RSA-PKCS-PSS",
                &["-sha256", "-sigopt", "rsa_padding_mode:pss"],
            ),
        ],
        // SoftHSM2 has no ECDSA but that of a hash made outside.
        KeyType::P256 | KeyType::P384 if token.is_peer() => &[("ECDSA", &["-sha256"])],
        KeyType::P256 | KeyType::P384 => &[
            ("ECDSA", &["-sha256"]),
            ("ECDSA-SHA256", &["-sha256"]),
            ("ECDSA-SHA384", &["-sha384"]),
        ],
    };
    for (mechanism, options) in mechanisms {
        let input = if *mechanism == "ECDSA" {
            let digest = token.file("digest");
            openssl::plain(&["dgst", "-sha256", "-binary", "-out"])
                .arg(&digest)
                .arg(&data)
                .ok();
            digest
        } else {
            data.clone()
        };
        token
            .pkcs11_tool(&["--sign", "--mechanism", mechanism, "--id", &id_of(label)])
            .args(["--signature-format", "openssl", "--input-file"])
            .arg(&input)
            .arg("--output-file")
            .arg(&signature)
            .ok();
        openssl::plain(&["dgst", "-verify"])
            .arg(public)
            .args(*options)
            .arg("-signature")
            .arg(&signature)
            .arg(&data)
            .ok();
    }
}

/// The public key of a pair, as PEM, by the public key object.
#[track_caller]
fn read_public_key(token: &Token, label: &str) -> PathBuf {
    let der = token.write("public.der", read_object(token, "pubkey", label));
    let pem = token.file("public.pem");
    openssl::plain(&["pkey", "-pubin", "-inform", "DER", "-in"])
        .arg(&der)
        .arg("-out")
        .arg(&pem)
        .ok();
    pem
}

/// The public point of a pair on a curve, uncompressed, in hexadecimal.
#[track_caller]
fn listed_point(token: &Token, label: &str) -> String {
    let listed = token
        .pkcs11_tool(&["-O", "--type", "pubkey", "--label", label])
        .ok()
        .text();
    let octet_string = listed
        .lines()
        .find_map(|line| line.trim().strip_prefix("EC_POINT:"))
        .map(str::trim);
    // The tag of an OCTET STRING and a length of less than 128.
    match octet_string {
        Some(listed) if listed.starts_with("044104") || listed.starts_with("046104") => {
            listed[4..].to_owned()
        }
        _ => panic!("no point is listed:\n{listed}"),
    }
}

/// A public key's DER, whose last field is the key, in hexadecimal.
#[track_caller]
fn subject_public_key_info(token: &Token, public: &Path) -> String {
    let der = token.file("public.der");
    openssl::plain(&["pkey", "-pubin", "-outform", "DER", "-in"])
        .arg(public)
        .arg("-out")
        .arg(&der)
        .ok();
    hex::encode(read(&der))
}

/// What is in a public key, whichever form it has.
#[track_caller]
fn modulus_or_point(public: &Path) -> String {
    openssl::plain(&["pkey", "-pubin", "-noout", "-text", "-in"])
        .arg(public)
        .ok()
        .text()
}

#[track_caller]
fn read_object(token: &Token, kind: &str, label: &str) -> Vec<u8> {
    let file = token.file("read");
    token
        .pkcs11_tool(&["--read-object", "--type", kind, "--label", label])
        .arg("--output-file")
        .arg(&file)
        .ok();
    read(&file)
}

#[track_caller]
fn write_object(token: &Token, kind: &str, label: &str, file: &Path) {
    token
        .pkcs11_tool(&["--type", kind, "--label", label, "--id", &id_of(label)])
        .arg("--write-object")
        .arg(file)
        .ok();
}

#[track_caller]
fn delete(token: &Token, kind: &str, label: &str) {
    token
        .pkcs11_tool(&["--delete-object", "--type", kind, "--label", label])
        .ok();
}

fn read(file: &Path) -> Vec<u8> {
    fs::read(file).expect("the file can be read")
}
