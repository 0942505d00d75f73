//! OpenSSL on the token `keys`, by pkcs11-provider and by libp11's engine: public keys, digests
//! signed, certificates, decryption, key agreement, CMS, and TLS servers.

use std::fs;
use std::path::Path;
use std::thread;

use strongroom_tests::openssl::{Way, generate, plain};
use strongroom_tests::token::id_of;
use strongroom_tests::{KeyType, OpenSsl, Token};

#[test]
fn the_provider_signs_with_rsa_and_ec_keys() {
    signs(Way::Provider);
}

#[test]
fn the_engine_signs_with_rsa_and_ec_keys() {
    signs(Way::Engine);
}

#[test]
fn the_provider_decrypts() {
    decrypts(Way::Provider);
}

#[test]
fn the_engine_decrypts() {
    decrypts(Way::Engine);
}

#[test]
fn the_provider_agrees_on_keys() {
    agrees_on_keys(Way::Provider);
}

#[test]
fn the_engine_agrees_on_keys() {
    agrees_on_keys(Way::Engine);
}

#[test]
fn the_provider_makes_certificates_and_signs_messages() {
    certifies(Way::Provider);
}

#[test]
fn the_engine_makes_certificates_and_signs_messages() {
    certifies(Way::Engine);
}

#[test]
fn the_provider_serves_tls() {
    serves_tls(Way::Provider);
}

#[test]
fn the_engine_serves_tls() {
    serves_tls(Way::Engine);
}

#[test]
fn the_default_engine_signs_with_rsa_and_ec_keys() {
    signs(Way::DefaultEngine);
}

#[test]
fn the_default_engine_decrypts() {
    decrypts(Way::DefaultEngine);
}

#[test]
fn the_default_engine_makes_certificates_and_signs_messages() {
    certifies(Way::DefaultEngine);
}

#[test]
fn the_default_engine_serves_tls() {
    serves_tls(Way::DefaultEngine);
}

#[test]
fn the_provider_reads_a_certificate_out_of_the_token() {
    let token = Token::new();
    token.generate(KeyType::P256, "web");
    let openssl = OpenSsl::new(&token, Way::Provider);
    let certificate = openssl.certificate("web");
    let der = token.file("web.der");
    plain(&["x509", "-outform", "DER", "-in"])
        .arg(&certificate)
        .arg("-out")
        .arg(&der)
        .ok();
    token
        .pkcs11_tool(&["--type", "cert", "--label", "web", "--write-object"])
        .arg(&der)
        .ok();
    let stored = openssl
        .run(&["x509", "-in", &Token::uri_of("web", "cert")])
        .ok();
    assert_eq!(stored.stdout, read(&certificate));
    token.is_left_clean();
}

#[test]
fn processes_that_sign_at_once_take_turns() {
    let token = Token::new();
    if token.is_peer() {
        // Of eight processes with SoftHSM2, one or the other crashes.
        return;
    }
    token.generate(KeyType::Rsa2048, "rsa");
    token.generate(KeyType::P256, "p256");
    let openssl = OpenSsl::new(&token, Way::Provider);
    let data = token.write("data", "what is signed");
    let publics = ["rsa", "p256"].map(|label| (label, openssl.public_key(label)));
    thread::scope(|scope| {
        for process in 0..8 {
            let (label, public) = &publics[process % 2];
            let (openssl, token, data) = (&openssl, &token, &data);
            scope.spawn(move || {
                let signature = token.file(&format!("signature-{process}"));
                for _ in 0..4 {
                    openssl
                        .run(&["dgst", "-sha256", "-out"])
                        .arg(&signature)
                        .args(openssl.key("-sign", label))
                        .arg(data)
                        .ok();
                    plain(&["dgst", "-sha256", "-verify"])
                        .arg(public)
                        .arg("-signature")
                        .arg(&signature)
                        .arg(data)
                        .ok();
                }
            });
        }
    });
    token.is_left_clean();
}

/// The public key, and signatures with it in each padding and hash.
fn signs(way: Way) {
    let token = Token::new();
    let openssl = OpenSsl::new(&token, way);
    let data = token.write("data", "what is signed");
    let signature = token.file("signature");
    let rsa: &[&[&str]] = &[
        &["-sha1"],
        &["-sha256"],
        &["-sha384"],
        &["-sha512"],
        &["-sha256", "-sigopt", "rsa_padding_mode:pss"],
        &[
            "-sha512",
            "-sigopt",
            "rsa_padding_mode:pss",
            "-sigopt",
            "rsa_pss_saltlen:digest",
        ],
    ];
    let ec: &[&[&str]] = &[&["-sha1"], &["-sha256"], &["-sha384"], &["-sha512"]];
    for (key, label, ways) in [
        (KeyType::Rsa2048, "rsa", rsa),
        (KeyType::P256, "p256", ec),
        (KeyType::P384, "p384", ec),
    ] {
        token.generate(key, label);
        let public = openssl.public_key(label);
        for options in ways {
            openssl
                .run(&["dgst", "-out"])
                .arg(&signature)
                .args(*options)
                .args(openssl.key("-sign", label))
                .arg(&data)
                .ok();
            plain(&["dgst", "-verify"])
                .arg(&public)
                .args(*options)
                .arg("-signature")
                .arg(&signature)
                .arg(&data)
                .ok();
        }
        signs_a_digest(&openssl, label, &public);
    }
    token.is_left_clean();
}

/// Signs a hash that was made elsewhere.
fn signs_a_digest(openssl: &OpenSsl, label: &str, public: &Path) {
    let digest = openssl.token().write("digest", [0x5a; 32]);
    let signature = openssl.token().file("signature");
    openssl
        .run(&["pkeyutl", "-sign", "-pkeyopt", "digest:sha256", "-in"])
        .arg(&digest)
        .arg("-out")
        .arg(&signature)
        .args(openssl.key("-inkey", label))
        .ok();
    plain(&["pkeyutl", "-verify", "-pkeyopt", "digest:sha256", "-pubin"])
        .arg("-inkey")
        .arg(public)
        .arg("-in")
        .arg(&digest)
        .arg("-sigfile")
        .arg(&signature)
        .ok();
}

/// What was encrypted for an RSA key in each padding, decrypted by the token.
fn decrypts(way: Way) {
    let token = Token::new();
    token.generate(KeyType::Rsa2048, "rsa");
    let openssl = OpenSsl::new(&token, way);
    let public = openssl.public_key("rsa");
    let secret = token.write("secret", "for your eyes only");
    let (encrypted, decrypted) = (token.file("encrypted"), token.file("decrypted"));
    // The provider does not know, as OpenSSL does, that MGF1's hash is OAEP's unless it is named.
    let mut paddings: Vec<&[&str]> = vec![
        &["rsa_padding_mode:pkcs1"],
        &[
            "rsa_padding_mode:oaep",
            "rsa_oaep_md:sha1",
            "rsa_mgf1_md:sha1",
        ],
    ];
    // SoftHSM2 has no other OAEP.
    if !token.is_peer() {
        paddings.push(&[
            "rsa_padding_mode:oaep",
            "rsa_oaep_md:sha256",
            "rsa_mgf1_md:sha256",
        ]);
    }
    // libp11 would do a label's OAEP itself, with a key that decrypts without padding.
    if !token.is_peer() && way == Way::Provider {
        paddings.push(&[
            "rsa_padding_mode:oaep",
            "rsa_oaep_md:sha512",
            "rsa_mgf1_md:sha512",
            "rsa_oaep_label:6c6162656c",
        ]);
    }
    for padding in paddings {
        let options = || padding.iter().flat_map(|option| ["-pkeyopt", option]);
        plain(&["pkeyutl", "-encrypt", "-pubin", "-inkey"])
            .arg(&public)
            .args(options())
            .arg("-in")
            .arg(&secret)
            .arg("-out")
            .arg(&encrypted)
            .ok();
        openssl
            .run(&["pkeyutl", "-decrypt", "-in"])
            .arg(&encrypted)
            .arg("-out")
            .arg(&decrypted)
            .args(options())
            .args(openssl.key("-inkey", "rsa"))
            .ok();
        assert_eq!(read(&decrypted), read(&secret), "{padding:?}");
    }
    token.is_left_clean();
}

/// ECDH between a key of the token and one in software, from both ends.
fn agrees_on_keys(way: Way) {
    let token = Token::new();
    let openssl = OpenSsl::new(&token, way);
    for (key, label) in [(KeyType::P256, "p256"), (KeyType::P384, "p384")] {
        token
            .pkcs11_tool(&["--keypairgen", "--key-type", key.name()])
            .args(["--usage-derive", "--label", label, "--id", &id_of(label)])
            .ok();
        let ours = openssl.public_key(label);
        let theirs = token.file("theirs.pem");
        generate(key, &theirs);
        let theirs_public = token.file("theirs-public.pem");
        plain(&["pkey", "-pubout", "-in"])
            .arg(&theirs)
            .arg("-out")
            .arg(&theirs_public)
            .ok();
        let (one, other) = (token.file("one"), token.file("other"));
        openssl
            .run(&["pkeyutl", "-derive", "-out"])
            .arg(&one)
            .arg("-peerkey")
            .arg(&theirs_public)
            .args(openssl.key("-inkey", label))
            .ok();
        plain(&["pkeyutl", "-derive", "-out"])
            .arg(&other)
            .arg("-inkey")
            .arg(&theirs)
            .arg("-peerkey")
            .arg(&ours)
            .ok();
        assert_eq!(read(&one), read(&other));
    }
    token.is_left_clean();
}

/// A certificate that the key signs for itself, and a message signed with both.
fn certifies(way: Way) {
    let token = Token::new();
    let openssl = OpenSsl::new(&token, way);
    let message = token.write("message", "what is signed");
    let signed = token.file("signed");
    for (key, label) in [
        (KeyType::Rsa2048, "rsa"),
        (KeyType::P256, "p256"),
        (KeyType::P384, "p384"),
    ] {
        token.generate(key, label);
        let certificate = openssl.certificate(label);
        plain(&["verify", "-check_ss_sig", "-CAfile"])
            .arg(&certificate)
            .arg(&certificate)
            .ok();
        openssl
            .run(&["cms", "-sign", "-binary", "-nodetach", "-outform", "PEM"])
            .arg("-in")
            .arg(&message)
            .arg("-signer")
            .arg(&certificate)
            .arg("-out")
            .arg(&signed)
            .args(openssl.key("-inkey", label))
            .ok();
        let verified = plain(&["cms", "-verify", "-inform", "PEM", "-purpose", "any"])
            .arg("-in")
            .arg(&signed)
            .arg("-CAfile")
            .arg(&certificate)
            .ok();
        assert_eq!(verified.stdout, read(&message));
    }
    token.is_left_clean();
}

/// TLS servers with keys of the token, and a client that believes nothing else.
fn serves_tls(way: Way) {
    let token = Token::new();
    let openssl = OpenSsl::new(&token, way);
    for (key, label) in [(KeyType::Rsa2048, "rsa"), (KeyType::P256, "p256")] {
        token.generate(key, label);
        let certificate = openssl.certificate(label);
        for version in ["-tls1_2", "-tls1_3"] {
            let server = openssl.serve(label, &certificate, &[version]);
            // More than one, for the key stays loaded.
            for _ in 0..3 {
                let client = plain(&["s_client", "-verify_return_error", "-brief", version])
                    .args(["-connect", &server.address(), "-CAfile"])
                    .arg(&certificate)
                    .finish();
                assert_eq!(client.code(), Some(0), "{client}\n{}", server.log());
                client.says("Verification: OK");
            }
        }
    }
}

fn read(file: &Path) -> Vec<u8> {
    fs::read(file).expect("the file can be read")
}
