//! The units of `systemd/` that serve a token through p11-kit, to clients that may touch neither
//! TPM nor vault.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;

use strongroom_tests::nginx::WORKERS;
use strongroom_tests::openssl::{Way, plain};
use strongroom_tests::someone::groups;
use strongroom_tests::unit::{self, ServiceUnit};
use strongroom_tests::{KeyType, Nginx, OpenSsl, Run, Someone, Token};

#[test]
fn a_client_that_has_the_socket_alone_signs_by_the_provider_and_by_the_engine() {
    let Some(token) = served(&[(KeyType::Rsa2048, "rsa"), (KeyType::P256, "p256")]) else {
        return;
    };
    for way in [Way::Provider, Way::Engine, Way::DefaultEngine] {
        let openssl = OpenSsl::new(&token, way);
        for label in ["rsa", "p256"] {
            let public = openssl.public_key(label);
            for _ in 0..2 {
                sign(&openssl, label, &public, "signature");
            }
        }
    }
    // What they have is the socket: neither the token's files nor the TPM.
    let vault = token.vault().expect("it is ours");
    let client = Someone::nobody(&[groups::SOCKET]);
    let program = vault.programs().strongroom();
    vault
        .run_as(&client, &program)
        .args(["list", "--json"])
        .ok()
        .does_not_show("p256");
    vault
        .run_as(&client, &program)
        .arg("status")
        .fails_with(4)
        .says("no TPM answers");
    token.is_left_clean();
}

#[test]
fn clients_at_once_and_one_after_another_are_served() {
    let Some(token) = served(&[(KeyType::Rsa2048, "rsa"), (KeyType::P256, "p256")]) else {
        return;
    };
    let openssl = OpenSsl::new(&token, Way::Provider);
    let publics = ["rsa", "p256"].map(|label| (label, openssl.public_key(label)));
    thread::scope(|scope| {
        for client in 0..6 {
            let (label, public) = &publics[client % 2];
            let openssl = &openssl;
            scope.spawn(move || {
                for _ in 0..3 {
                    sign(openssl, label, public, &format!("signature-{client}"));
                }
            });
        }
    });
    token.is_left_clean();
}

#[test]
fn a_client_that_is_killed_leaves_nothing_in_the_tpm() {
    let Some(token) = served(&[(KeyType::P256, "p256")]) else {
        return;
    };
    let openssl = OpenSsl::new(&token, Way::Provider);
    let certificate = openssl.certificate("p256");
    let mut servers: Vec<_> = (0..3)
        .map(|_| openssl.serve("p256", &certificate, &["-tls1_3"]))
        .collect();
    for server in &servers {
        plain(&["s_client", "-verify_return_error", "-brief"])
            .args(["-connect", &server.address(), "-CAfile"])
            .arg(&certificate)
            .ok()
            .says("Verification: OK");
    }
    for server in &mut servers {
        server.kill();
    }
    token.is_left_clean();
    // Those that come later find the server as it was.
    let public = openssl.public_key("p256");
    sign(&openssl, "p256", &public, "signature");
    token.is_left_clean();
}

#[test]
fn the_workers_of_a_web_server_are_served_after_their_fork() {
    let Some(token) = served(&[(KeyType::P256, "web")]) else {
        return;
    };
    for way in [Way::Engine, Way::Provider] {
        let openssl = OpenSsl::new(&token, way);
        let certificate = openssl.certificate("web");
        let nginx = Nginx::start(&openssl, "web", &certificate, None);
        let mut workers = BTreeSet::new();
        for _ in 0..40 {
            let answer = nginx.curl(Run::new("curl")).finish();
            assert_eq!(answer.code(), Some(0), "{answer}\n{}", nginx.log());
            workers.insert(answer.text());
        }
        assert_eq!(workers.len(), WORKERS, "{way:?}: {}", nginx.log());
        drop(nginx);
        fs::remove_dir_all(token.file("nginx")).expect("the test is root");
        token.is_left_clean();
    }
}

#[test]
fn only_its_own_token_is_served_and_only_to_be_used() {
    let Some(token) = served(&[(KeyType::P256, "p256")]) else {
        return;
    };
    // Even where the service's user may read another one.
    let vault = token.vault().expect("it is ours");
    vault
        .strongroom(&["token", "allow", "credentials", "--group"])
        .arg(groups::TOKEN_NAME)
        .ok();
    let slots = tool(&token, &["--list-slots"]).ok().text();
    assert!(
        slots.contains(": keys") && slots.contains("readonly"),
        "{slots}"
    );
    for other in ["credentials", "datasets"] {
        assert!(!slots.contains(other), "{slots}");
    }
    let made = token
        .pkcs11_tool(&[
            "--keypairgen",
            "--key-type",
            "EC:prime256v1",
            "--label",
            "mine",
        ])
        .finish();
    assert_ne!(made.code(), Some(0), "{made}");
    made.says("CKR_TOKEN_WRITE_PROTECTED");
    let removed = token
        .pkcs11_tool(&["--delete-object", "--type", "privkey", "--label", "p256"])
        .finish();
    assert_ne!(removed.code(), Some(0), "{removed}");
    let openssl = OpenSsl::new(&token, Way::Provider);
    let public = openssl.public_key("p256");
    sign(&openssl, "p256", &public, "signature");
    token.is_left_clean();
}

#[test]
fn who_may_not_write_to_the_socket_is_not_served() {
    let Some(token) = served(&[(KeyType::P256, "p256")]) else {
        return;
    };
    let token = token.for_client(Someone::nobody(&[]));
    let slots = tool(&token, &["--list-slots"]).finish();
    assert!(!slots.text().contains("keys"), "{slots}");
    assert!(
        !token.server_log().contains("Connection from"),
        "{}",
        token.server_log()
    );
}

#[test]
fn the_units_are_what_systemd_reads() {
    let socket = ServiceUnit::read("strongroom-p11-kit@.socket", "keys");
    assert_eq!(
        socket.setting("ListenStream"),
        "/run/strongroom/keys/p11-kit"
    );
    assert_eq!(socket.setting("SocketMode"), "0660");
    unit::verify(&["strongroom-p11-kit@.service", "strongroom-p11-kit@.socket"]);
}

/// A token with these keys, served; nothing where the test cannot be somebody else.
fn served(keys: &[(KeyType, &str)]) -> Option<Token> {
    if !Someone::can_be() {
        return None;
    }
    let token = Token::new();
    if token.is_peer() {
        return None;
    }
    for (key, label) in keys {
        token.generate(*key, label);
    }
    Some(token.served_by_unit())
}

fn sign(openssl: &OpenSsl, label: &str, public: &Path, signature: &str) {
    let data = openssl.token().file(&format!("{signature}-data"));
    fs::write(&data, "what is signed").expect("the folder can be written");
    let signature = openssl.token().file(signature);
    openssl
        .run(&["dgst", "-sha256", "-out"])
        .arg(&signature)
        .args(openssl.key("-sign", label))
        .arg(&data)
        .ok();
    plain(&["dgst", "-sha256", "-verify"])
        .arg(public)
        .arg("-signature")
        .arg(&signature)
        .arg(&data)
        .ok();
}

/// `pkcs11-tool`, of whatever tokens there are.
fn tool(token: &Token, args: &[&str]) -> Run {
    token
        .run("pkcs11-tool")
        .arg("--module")
        .arg(token.module())
        .args(args)
}
