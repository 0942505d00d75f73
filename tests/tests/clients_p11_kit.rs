//! p11-kit with the token `keys`: it lists the module, its proxy shows the module's tokens beside those of
//! others, and its server lends them to another process. What systemd serves is in `p11_kit.rs`.

use strongroom_tests::namespace::registered;
use strongroom_tests::openssl::plain;
use strongroom_tests::token::{id_of, in_library_folder};
use strongroom_tests::{KeyType, OpenSsl, Run, Token, openssl};

#[test]
fn list_modules_shows_the_module_and_its_tokens() {
    let token = Token::new();
    let listed = registered(&token, "p11-kit")
        .arg("list-modules")
        .ok()
        .text();
    assert!(listed.contains("token: keys"), "{listed}");
    if !token.is_peer() {
        assert!(listed.contains("Strongroom PKCS#11 module"), "{listed}");
        assert!(listed.contains("token: datasets"), "{listed}");
    }
    token.is_left_clean();
}

#[test]
fn keys_sign_through_the_proxy() {
    let token = Token::new();
    for key in [KeyType::Rsa2048, KeyType::P256] {
        token.generate(key, "mine");
        let public = OpenSsl::new(&token, openssl::Way::Provider).public_key("mine");
        let proxy = in_library_folder("p11-kit-proxy.so");
        let tool = registered(&token, "pkcs11-tool").arg("--module").arg(proxy);
        signs(&token, tool, key, &public);
        token
            .pkcs11_tool(&["--delete-object", "--type", "privkey", "--label", "mine"])
            .ok();
        if token.is_peer() {
            token
                .pkcs11_tool(&["--delete-object", "--type", "pubkey", "--label", "mine"])
                .ok();
        }
    }
    token.is_left_clean();
}

#[test]
fn keys_sign_through_the_server() {
    let token = Token::new();
    for key in [KeyType::Rsa2048, KeyType::P256] {
        token.generate(key, key.name());
    }
    let publics = [KeyType::Rsa2048, KeyType::P256]
        .map(|key| OpenSsl::new(&token, openssl::Way::Provider).public_key(key.name()));
    let token = token.served();
    for (key, public) in [KeyType::Rsa2048, KeyType::P256].into_iter().zip(publics) {
        let tool = token.run("pkcs11-tool").arg("--module").arg(token.module());
        let id = id_of(key.name());
        signs_with(&token, tool, key, &id, &public);
    }
    token.is_left_clean();
}

#[track_caller]
fn signs(token: &Token, tool: Run, key: KeyType, public: &std::path::Path) {
    signs_with(token, tool, key, &id_of("mine"), public);
}

/// Signs with a pkcs11-tool that has its module, and has OpenSSL verify.
#[track_caller]
fn signs_with(token: &Token, tool: Run, key: KeyType, id: &str, public: &std::path::Path) {
    let data = token.write("data", "what is signed");
    let digest = token.file("digest");
    let signature = token.file("signature");
    plain(&["dgst", "-sha256", "-binary", "-out"])
        .arg(&digest)
        .arg(&data)
        .ok();
    let (mechanism, input) = match key {
        KeyType::Rsa2048 => ("SHA256-RSA-PKCS", &data),
        _ => ("ECDSA", &digest),
    };
    let login = token.pin().map(|pin| ["--login", "--pin", pin]);
    tool.args(["--token-label", "keys"])
        .args(login.iter().flatten())
        .args(["--sign", "--mechanism", mechanism, "--id", id])
        .args(["--signature-format", "openssl", "--input-file"])
        .arg(input)
        .arg("--output-file")
        .arg(&signature)
        .ok();
    plain(&["dgst", "-sha256", "-verify"])
        .arg(public)
        .arg("-signature")
        .arg(&signature)
        .arg(&data)
        .ok();
}
