//! systemd-cryptenroll and cryptsetup: a LUKS2 volume in a file that an RSA key of the token unlocks. The
//! module is registered with p11-kit, where systemd looks for tokens.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use strongroom_tests::namespace::registered;
use strongroom_tests::openssl::{Way, plain};
use strongroom_tests::token::id_of;
use strongroom_tests::{KeyType, OpenSsl, Output, Run, Token};

const PASSPHRASE: &str = "of the volume";

#[test]
fn a_volume_is_unlocked_by_a_key_of_the_token() {
    let token = Token::new();
    key_with_certificate(&token, "luks");
    let volume = volume(&token);
    enrol(&token, "luks", &volume).ok();
    let dump = plain_cryptsetup(&["luksDump"], &volume).ok().text();
    assert!(dump.contains("systemd-pkcs11"), "{dump}");
    unlock(&token, &volume).ok();
    token.is_left_clean();
    // It is the key that does: without it nothing opens, and the passphrase still does.
    token
        .pkcs11_tool(&["--delete-object", "--type", "privkey", "--label", "luks"])
        .ok();
    let refused = unlock(&token, &volume);
    assert_ne!(refused.code(), Some(0), "{refused}");
    plain_cryptsetup(&["open", "--test-passphrase"], &volume)
        .stdin(PASSPHRASE)
        .ok();
}

#[test]
fn another_tokens_key_of_the_same_name_does_not_unlock_it() {
    let token = Token::new();
    key_with_certificate(&token, "luks");
    let volume = volume(&token);
    enrol(&token, "luks", &volume).ok();
    let other = Token::new();
    key_with_certificate(&other, "luks");
    let refused = unlock(&other, &volume);
    assert_ne!(refused.code(), Some(0), "{refused}");
}

#[test]
fn a_key_that_is_to_sign_alone_does_not_unlock() {
    let token = Token::new();
    if token.is_peer() {
        return;
    }
    let private = token.file("outside.pem");
    plain(&["genpkey", "-algorithm", "RSA", "-out"])
        .arg(&private)
        .ok();
    let login = token.pin().map(|_| "--login");
    token
        .run("p11tool")
        .env("GNUTLS_PIN", token.pin().unwrap_or_default())
        .args(["--batch", "--provider"])
        .arg(token.module())
        .args(login)
        .args([
            "--write",
            "--mark-sign",
            "--label",
            "sign",
            "--load-privkey",
        ])
        .arg(&private)
        .arg("pkcs11:token=keys")
        .ok();
    certificate(&token, "sign");
    let volume = volume(&token);
    enrol(&token, "sign", &volume).ok();
    let refused = unlock(&token, &volume);
    assert_ne!(refused.code(), Some(0), "{refused}");
}

/// An RSA key and a certificate of the same name, which systemd-cryptenroll reads the public key from.
fn key_with_certificate(token: &Token, label: &str) {
    token.generate(KeyType::Rsa2048, label);
    certificate(token, label);
}

fn certificate(token: &Token, label: &str) {
    let pem = OpenSsl::new(token, Way::Provider).certificate(label);
    let der = token.file("certificate.der");
    plain(&["x509", "-outform", "DER", "-in"])
        .arg(&pem)
        .arg("-out")
        .arg(&der)
        .ok();
    token
        .pkcs11_tool(&["--type", "cert", "--label", label, "--id", &id_of(label)])
        .arg("--write-object")
        .arg(&der)
        .ok();
}

/// A LUKS2 volume in a file; a passphrase opens it, with as little effort as there can be.
fn volume(token: &Token) -> PathBuf {
    let volume = token.file("volume");
    File::create(&volume)
        .and_then(|file| file.set_len(32 << 20))
        .expect("the folder can be written");
    let cheap = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    plain_cryptsetup(&["luksFormat", "--type", "luks2", "--batch-mode"], &volume)
        .args(cheap)
        .args(["--key-file", "-"])
        .stdin(PASSPHRASE)
        .ok();
    volume
}

fn enrol(token: &Token, label: &str, volume: &Path) -> Output {
    // Without a type: the certificate is looked for by this URI, and later the private key.
    registered(token, "systemd-cryptenroll")
        .env("PASSWORD", PASSPHRASE)
        .env("PIN", token.pin().unwrap_or_default())
        .arg(format!(
            "--pkcs11-token-uri=pkcs11:token=keys;object={label}"
        ))
        .arg(volume)
        .finish()
}

/// Opens the volume by its token alone, and makes no device of it.
fn unlock(token: &Token, volume: &Path) -> Output {
    registered(token, "cryptsetup")
        .args(["open", "--test-passphrase", "--token-only", "--verbose"])
        .arg(volume)
        .stdin(token.pin().unwrap_or_default())
        .finish()
}

fn plain_cryptsetup(args: &[&str], volume: &Path) -> Run {
    assert!(fs::metadata(volume).is_ok(), "the volume is there");
    Run::new("cryptsetup").args(args).arg(volume)
}
