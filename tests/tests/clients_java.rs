//! Java's SunPKCS11 on the token `keys`: keytool makes pairs, requests and secret keys, lists and deletes
//! them.

use std::path::PathBuf;
use std::time::Duration;

use strongroom_tests::openssl::plain;
use strongroom_tests::{Run, Token};

const PAIRS: [(&str, [&str; 4]); 3] = [
    ("rsa", ["-keyalg", "RSA", "-keysize", "2048"]),
    ("p256", ["-keyalg", "EC", "-groupname", "secp256r1"]),
    ("p384", ["-keyalg", "EC", "-groupname", "secp384r1"]),
];

#[test]
fn keytool_makes_pairs_whose_certificates_and_requests_verify() {
    let keytool = Keytool::new();
    for (alias, algorithm) in PAIRS {
        keytool
            .run(&["-genkeypair", "-alias", alias])
            .args(["-dname", &format!("CN={alias}")])
            .args(algorithm)
            .ok();
        let request = keytool.run(&["-certreq", "-alias", alias]).ok().stdout;
        let request = keytool.token.write("request.pem", request);
        plain(&["req", "-verify", "-noout", "-in"])
            .arg(&request)
            .ok();
        let certificate = keytool.run(&["-exportcert", "-rfc", "-alias", alias]);
        let certificate = keytool
            .token
            .write("certificate.pem", certificate.ok().stdout);
        plain(&["verify", "-check_ss_sig", "-CAfile"])
            .arg(&certificate)
            .arg(&certificate)
            .ok();
    }
    let listed = keytool.run(&["-list"]).ok().text();
    for (alias, _) in PAIRS {
        let line = format!("{alias}, PrivateKeyEntry");
        assert!(listed.contains(&line), "{listed}");
    }
    keytool.token.is_left_clean();
}

#[test]
fn keytool_makes_secret_keys() {
    let keytool = Keytool::new();
    for (alias, size) in [("aes128", "128"), ("aes256", "256")] {
        keytool
            .run(&["-genseckey", "-alias", alias])
            .args(["-keyalg", "AES", "-keysize", size])
            .ok();
    }
    let listed = keytool.run(&["-list"]).ok().text();
    for alias in ["aes128", "aes256"] {
        let line = format!("{alias}, SecretKeyEntry");
        assert!(listed.contains(&line), "{listed}");
    }
    keytool.token.is_left_clean();
}

#[test]
fn keytool_deletes_what_it_made() {
    let keytool = Keytool::new();
    let (alias, algorithm) = PAIRS[1];
    keytool
        .run(&["-genkeypair", "-alias", alias, "-dname", "CN=short-lived"])
        .args(algorithm)
        .ok();
    keytool.run(&["-delete", "-alias", alias]).ok();
    let listed = keytool.run(&["-list"]).ok().text();
    assert!(listed.contains("contains 0 entries"), "{listed}");
    keytool.token.is_left_clean();
}

/// keytool with SunPKCS11 on a token.
struct Keytool {
    token: Token,
    config: PathBuf,
}

impl Keytool {
    fn new() -> Self {
        let token = Token::new();
        // Before it are `credentials` and `datasets`; SoftHSM2 has one token only.
        let slot = if token.is_peer() { 0 } else { 2 };
        let config = format!(
            "name = Tested\nlibrary = {}\nslotListIndex = {slot}\n",
            token.module().display()
        );
        let config = token.write("sunpkcs11.cfg", config);
        Self { token, config }
    }

    fn run(&self, args: &[&str]) -> Run {
        self.token
            .run("keytool")
            .args(args)
            .args(["-keystore", "NONE", "-storetype", "PKCS11", "-storepass"])
            .arg(self.token.pin().unwrap_or("none"))
            .args(["-addprovider", "SunPKCS11", "-providerArg"])
            .arg(&self.config)
            // A Java machine takes a second to begin, and two at once take longer.
            .timeout(Duration::from_secs(120))
    }
}
