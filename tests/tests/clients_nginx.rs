//! nginx and curl with keys of the token `keys`, by OpenSSL's provider and by libp11's engine:
//! a server of several processes, a client with a certificate, and both at once; and a server with
//! the certificates of a TrueNAS database.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;

use strongroom_tests::nas::Nas;
use strongroom_tests::nginx::WORKERS;
use strongroom_tests::openssl::{Way, plain};
use strongroom_tests::truenas_fixture::Generation;
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

#[test]
fn nginx_serves_with_keys_that_were_migrated_from_truenas_by_the_provider() {
    serves_what_was_migrated(Way::Provider);
}

#[test]
fn nginx_serves_with_keys_that_were_migrated_from_truenas_by_the_engine() {
    serves_what_was_migrated(Way::Engine);
}

/// The web interface's certificate, and one of each algorithm.
fn serves_what_was_migrated(way: Way) {
    let nas = Nas::new(Generation::V25_10, 0);
    nas.migrate()
        .args(["--only", "certificates", "--ui-certificate"])
        .ok();
    let token = Token::of(nas.vault);
    let openssl = OpenSsl::new(&token, way);
    let certificates = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/certificates");
    for (label, certificate) in [
        ("truenas_default", "ec.crt"),
        ("nas.example", "rsa.crt"),
        ("apps.example", "ec.crt"),
    ] {
        // As the middleware has it in /etc/certificates.
        let certificate = certificates.join(certificate);
        let nginx = Nginx::start(&openssl, label, &certificate, None);
        let mut fetch = Run::new("curl").args(["--silent", "--show-error", "--fail"]);
        // The certificates of the samples are for no address.
        fetch = fetch.arg("--insecure").arg(nginx.url());
        let answered = fetch.finish();
        assert_eq!(answered.code(), Some(0), "{answered}\n{}", nginx.log());
        // Whoever shows this certificate in a handshake has signed with its key.
        let address = nginx.url().replace("https://", "").replace('/', "");
        let shown = plain(&["s_client", "-connect", &address]).ok().text();
        let base64 = std::fs::read_to_string(&certificate).expect("a fixture");
        assert!(shown.contains(base64.trim()), "{label}: {shown}");
        drop(nginx);
        token.is_left_clean();
        std::fs::remove_dir_all(token.file("nginx")).expect("nginx has ended");
    }
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
