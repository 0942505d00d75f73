//! nginx and curl with keys of the token `keys`, by OpenSSL's provider and by libp11's engine:
//! a server of several processes, a client with a certificate, and both at once.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;

use strongroom_tests::nginx::WORKERS;
use strongroom_tests::openssl::Way;
use strongroom_tests::{KeyType, Nginx, OpenSsl, Run, Token};

#[test]
fn nginx_serves_with_several_workers_by_the_provider() {
    serves(Way::Provider);
}

#[test]
fn nginx_serves_with_several_workers_by_the_engine() {
    serves(Way::Engine);
}

#[test]
fn curl_and_nginx_know_each_other_by_the_provider() {
    know_each_other(Way::Provider);
}

#[test]
fn curl_and_nginx_know_each_other_by_the_engine() {
    // curl knows no other way than to make it the default.
    know_each_other(Way::DefaultEngine);
}

/// Every worker answers, also when several are asked at once.
fn serves(way: Way) {
    for key in [KeyType::Rsa2048, KeyType::P256] {
        let token = Token::new();
        token.generate(key, "server");
        let openssl = OpenSsl::new(&token, way);
        let certificate = openssl.certificate("server");
        let nginx = Nginx::start(&openssl, "server", &certificate, None);

        let workers: BTreeSet<String> = thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..8).map(|_| answer(&nginx)).collect::<Vec<_>>()))
                .collect();
            clients
                .into_iter()
                .flat_map(|client| client.join().expect("a client that was answered"))
                .collect()
        });
        assert_eq!(workers.len(), WORKERS, "{}", nginx.log());
        drop(nginx);
        token.is_left_clean();
    }
}

/// Mutual TLS, with both keys in the token.
fn know_each_other(way: Way) {
    for key in [KeyType::P256, KeyType::Rsa2048] {
        let token = Token::new();
        token.generate(KeyType::P256, "server");
        token.generate(key, "client");
        let openssl = OpenSsl::new(&token, way);
        let server = openssl.certificate("server");
        let client = openssl.certificate("client");
        let nginx = Nginx::start(&openssl, "server", &server, Some(&client));

        nginx.curl(Run::new("curl")).fails_with(22).says("400");
        for _ in 0..3 {
            let answered = nginx.curl(with_key(&openssl, "client", &client)).finish();
            assert_eq!(answered.code(), Some(0), "{answered}\n{}", nginx.log());
        }
        drop(nginx);
        token.is_left_clean();
    }
}

/// `curl` with a key of the token.
fn with_key(openssl: &OpenSsl, label: &str, certificate: &Path) -> Run {
    let curl = openssl.host("curl").arg("--cert").arg(certificate);
    match openssl.way() {
        Way::Provider => curl.arg("--key").arg(openssl.key_file(label)),
        Way::Engine | Way::DefaultEngine => curl
            .args(["--engine", "pkcs11", "--key-type", "ENG", "--key"])
            .arg(Token::uri(label)),
    }
}

/// Which process answered.
fn answer(nginx: &Nginx) -> String {
    let answered = nginx.curl(Run::new("curl")).finish();
    assert_eq!(answered.code(), Some(0), "{answered}\n{}", nginx.log());
    answered.text()
}
