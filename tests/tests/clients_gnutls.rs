//! GnuTLS on the token `keys`: p11tool lists, generates, writes, reads back, signs and deletes, and
//! gnutls-serv serves TLS with keys and certificates of the token.

use std::fs;
use std::path::{Path, PathBuf};

use strongroom_tests::namespace::{PORT, serve_and_ask};
use strongroom_tests::openssl::plain;
use strongroom_tests::{Output, Run, Token};

/// What p11tool generates: its options, and the hash that goes with the key where its own choice does not.
const PAIRS: [(&str, &[&str], Option<&str>); 5] = [
    ("rsa", &["--generate-privkey=rsa", "--bits=2048"], None),
    (
        "p256",
        &["--generate-privkey=ecdsa", "--curve=secp256r1"],
        None,
    ),
    (
        "p384",
        &["--generate-privkey=ecdsa", "--curve=secp384r1"],
        None,
    ),
    (
        "p521",
        &["--generate-privkey=ecdsa", "--curve=secp521r1"],
        None,
    ),
    // p11tool takes SHA-256 for Ed25519 unless told, and finds no such signature.
    (
        "ed25519",
        &["--generate-privkey=ed25519"],
        Some("--hash=SHA512"),
    ),
];

/// Keys from outside, as `openssl genpkey` makes them.
const OUTSIDE: [(&str, &[&str], Option<&str>); 4] = [
    (
        "rsa",
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        None,
    ),
    (
        "p256",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        None,
    ),
    (
        "p521",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
        None,
    ),
    ("ed25519", &["-algorithm", "ED25519"], Some("--hash=SHA512")),
];

#[test]
fn p11tool_lists_tokens_mechanisms_and_objects() {
    let token = Token::new();
    let tokens = p11tool(&token, &["--list-tokens"]).ok().text();
    assert!(tokens.contains("token=keys"), "{tokens}");
    let mechanisms = p11tool(&token, &["--list-mechanisms", "pkcs11:token=keys"]);
    let mechanisms = mechanisms.ok().text();
    for listed in ["CKM_RSA_PKCS_PSS", "CKM_ECDSA", "CKM_AES_GCM"] {
        assert!(mechanisms.contains(listed), "{mechanisms}");
    }
    generate(&token, "p256", &["--generate-privkey=ecdsa"]);
    let objects = p11tool(&token, &["--list-all", "pkcs11:token=keys"])
        .ok()
        .text();
    for listed in ["Private key (EC", "Public key (EC", "object=p256"] {
        assert!(objects.contains(listed), "{objects}");
    }
    token.is_left_clean();
}

#[test]
fn what_p11tool_generates_signs_and_is_verified_outside() {
    let token = Token::new();
    for (label, options, hash) in PAIRS {
        if token.is_peer() && label == "ed25519" {
            // p11tool asks for the pair by the name of the signature, which SoftHSM2 refuses.
            continue;
        }
        let public = generate(&token, label, options);
        test_signs(&token, label, hash);
        certifies_itself(&token, label, &public);
        p11tool(&token, &["--delete", &uri(label, "private")]).ok();
    }
    if !token.is_peer() {
        p11tool(&token, &["--list-all", "pkcs11:token=keys"])
            .fails_with(2)
            .says("No matching objects found");
    }
    token.is_left_clean();
}

#[test]
fn a_new_rsa_key_signs_with_every_hash_and_with_pss() {
    let token = Token::new();
    let (label, options, _) = PAIRS[0];
    generate(&token, label, options);
    for hash in ["SHA1", "SHA256", "SHA384", "SHA512"] {
        test_signs(&token, label, Some(&format!("--hash={hash}")));
    }
    if !token.is_peer() {
        test_signs(&token, label, Some("--sign-params=RSA-PSS"));
    }
    token.is_left_clean();
}

#[test]
fn what_p11tool_writes_is_used_and_read_back() {
    let token = Token::new();
    for (label, options, hash) in OUTSIDE {
        let key = outside(&token, label, options);
        let certificate = certificate(&token, label, &key);
        write(&token, label, &["--load-privkey", path(&key)]);
        write(&token, label, &["--load-certificate", path(&certificate)]);
        if !token.is_peer() {
            test_signs(&token, label, hash);
        }
        let exported = p11tool(&token, &["--export", &uri(label, "cert")])
            .ok()
            .text();
        assert_eq!(der(&exported), der(&read(&certificate)));
        let exported = p11tool(&token, &["--export-pubkey", &uri(label, "private")]);
        let public = plain(&["pkey", "-pubout", "-in"]).arg(&key).ok().text();
        assert_eq!(der(&exported.ok().text()), der(&public));
    }
    token.is_left_clean();
}

#[test]
fn public_and_secret_keys_are_written_and_deleted() {
    let token = Token::new();
    let key = outside(&token, "rsa", OUTSIDE[0].1);
    let public = token.file("public.pem");
    plain(&["pkey", "-pubout", "-in"])
        .arg(&key)
        .arg("-out")
        .arg(&public)
        .ok();
    write(&token, "alone", &["--load-pubkey", path(&public)]);
    write(
        &token,
        "secret",
        &["--secret-key", "00112233445566778899aabbccddeeff"],
    );
    for (label, kind) in [("alone", "public"), ("secret", "secret-key")] {
        let listed = || p11tool(&token, &["--list-all", "pkcs11:token=keys"]).finish();
        let named = format!("object={label};type={kind}");
        assert!(listed().text().contains(&named), "{}", listed());
        p11tool(&token, &["--delete", &uri(label, kind)]).ok();
        assert!(!listed().text().contains(&named), "{}", listed());
    }
    token.is_left_clean();
}

#[test]
fn gnutls_serv_serves_with_keys_and_certificates_of_the_token() {
    let token = Token::new();
    for (label, options, _) in OUTSIDE {
        if token.is_peer() && label == "ed25519" {
            continue;
        }
        let key = outside(&token, label, options);
        let certificate = certificate(&token, label, &key);
        write(&token, label, &["--load-privkey", path(&key)]);
        write(&token, label, &["--load-certificate", path(&certificate)]);
        let server = [
            "gnutls-serv",
            "--http",
            "--provider",
            path(token.module()),
            "--port",
            &PORT.to_string(),
            "--x509keyfile",
            &uri(label, "private"),
            "--x509certfile",
            &uri(label, "cert"),
        ];
        let (run, log) = serve_and_ask(&token, &server, &certificate);
        let asked = run
            .env("GNUTLS_PIN", token.pin().unwrap_or_default())
            .finish();
        assert_eq!(asked.code(), Some(0), "{asked}{}", read(&log));
        let answer = asked.says("Verification: OK").text();
        assert!(answer.contains("200 OK"), "{answer}");
        token.is_left_clean();
    }
}

/// `p11tool ARGS...` with the token's module, logged in if it has a PIN.
fn p11tool(token: &Token, args: &[&str]) -> Run {
    let login = token.pin().map(|_| "--login");
    token
        .run("p11tool")
        .env("GNUTLS_PIN", token.pin().unwrap_or_default())
        .args(["--batch", "--provider"])
        .arg(token.module())
        .args(login)
        .args(args)
}

/// Makes a pair, and returns the public key that p11tool wrote.
#[track_caller]
fn generate(token: &Token, label: &str, options: &[&str]) -> PathBuf {
    let public = token.file(&format!("{label}-public.pem"));
    p11tool(token, options)
        .args(["--label", label, "--outfile", path(&public)])
        .arg("pkcs11:token=keys")
        .ok();
    public
}

#[track_caller]
fn write(token: &Token, label: &str, what: &[&str]) {
    p11tool(token, &["--write", "--label", label])
        .args(what)
        .arg("pkcs11:token=keys")
        .ok();
}

/// Has p11tool sign, and verify with both halves of the key.
#[track_caller]
fn test_signs(token: &Token, label: &str, option: Option<&str>) -> Output {
    let signed = p11tool(token, &["--test-sign"])
        .args(option)
        .arg(uri(label, "private"))
        .ok();
    assert!(!signed.stderr.contains("failed"), "{signed}");
    signed
}

/// Has certtool sign a certificate for a key with the key, and OpenSSL verify it with the public key as
/// it was written.
#[track_caller]
fn certifies_itself(token: &Token, label: &str, public: &Path) {
    let template = token.write("template", format!("cn = {label}\nexpiration_days = 2\n"));
    let certificate = token.file(&format!("{label}.pem"));
    token
        .run("certtool")
        .env("GNUTLS_PIN", token.pin().unwrap_or_default())
        .args(["--generate-self-signed", "--provider"])
        .arg(token.module())
        .args(["--load-privkey", &uri(label, "private")])
        .args(["--load-pubkey", path(public)])
        .arg("--template")
        .arg(template)
        .arg("--outfile")
        .arg(&certificate)
        .ok();
    plain(&["verify", "-check_ss_sig", "-CAfile"])
        .arg(&certificate)
        .arg(&certificate)
        .ok();
}

fn outside(token: &Token, label: &str, options: &[&str]) -> PathBuf {
    let key = token.file(&format!("{label}-outside.pem"));
    plain(&["genpkey", "-out"]).arg(&key).args(options).ok();
    key
}

fn certificate(token: &Token, label: &str, key: &Path) -> PathBuf {
    let certificate = token.file(&format!("{label}-certificate.pem"));
    plain(&["req", "-x509", "-days", "2", "-subj"])
        .arg(format!("/CN={label}"))
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-key"])
        .arg(key)
        .arg("-out")
        .arg(&certificate)
        .env("OPENSSL_CONF", "/etc/ssl/openssl.cnf")
        .ok();
    certificate
}

fn uri(label: &str, kind: &str) -> String {
    Token::uri_of(label, kind)
}

/// What is in a PEM, whatever is written around it and however its lines are broken.
fn der(pem: &str) -> String {
    let from_begin = pem
        .lines()
        .skip_while(|line| !line.starts_with("-----BEGIN"));
    from_begin
        .skip(1)
        .take_while(|line| !line.starts_with("-----END"))
        .collect()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).expect("the file can be read")
}

fn path(file: &Path) -> &str {
    file.to_str().expect("the test's folder has a plain name")
}
