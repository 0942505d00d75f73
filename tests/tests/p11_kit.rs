//! The units of `systemd/` that serve a token through p11-kit, to clients that may touch neither
//! TPM nor vault.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;

use strongroom_tests::nginx::WORKERS;
use strongroom_tests::openssl::{Way, plain};
use strongroom_tests::rpc::{Call, Rpc, Said, number_in, numbers_in};
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

/// p11-kit passes on the parameters of mechanisms that it does not know as they came: pointers in them are
/// its client's to choose.
#[test]
fn a_client_that_makes_up_its_messages_reaches_no_memory_of_the_server() {
    let Some(token) = served(&[(KeyType::P256, "p256")]) else {
        return;
    };
    let unit = ServiceUnit::read("strongroom-p11-kit@.service", "keys");
    assert!(
        unit.exec_start()
            .contains(&"--setenv=STRONGROOM_SERVED=1".to_owned())
    );
    reaches_nothing(&token);
    token.is_left_clean();
    // p11-kit's own server needs not be told.
    let token = Token::new();
    token.generate(KeyType::P256, "p256");
    reaches_nothing(&token.served());
}

/// Tries each way that points anywhere, on a connection of its own, to a server's token.
fn reaches_nothing(token: &Token) {
    let (_, address) = (token.environment().iter())
        .find(|(name, _)| *name == "P11_KIT_SERVER_ADDRESS")
        .expect("it is served");
    let address = address.to_str().expect("UTF-8");
    let socket = Path::new(address.strip_prefix("unix:path=").expect("a path"));
    let begin = || {
        let mut client = Rpc::connect(socket).expect("a server");
        let said = Said::default().byte(1).room(8);
        let slots = client.call(Call::GetSlotList, &said).expect("a server");
        let slot = numbers_in(&slots.expect("slots"))[0];
        let said = Said::default().number(slot).number(CKF_SERIAL_SESSION);
        let session = client.call(Call::OpenSession, &said).expect("a server");
        let session = number_in(&session.expect("a session"));
        (client, slot, session)
    };
    let key_of = |session: u64, attributes: u32| {
        Said::default()
            .number(session)
            .attributes(4 + attributes)
            .numbered(CKA_CLASS, CKO_SECRET_KEY)
            .numbered(CKA_KEY_TYPE, CKK_AES)
            .flag(CKA_DERIVE, true)
            .content(CKA_VALUE, &[1; 16])
    };

    let (mut client, slot, _) = begin();
    let said = Said::default().number(slot).room(200);
    let listed = client.call(Call::GetMechanismList, &said);
    let listed = numbers_in(&listed.expect("a server").expect("a list"));
    assert!(listed.contains(&CKM_ECDSA), "{listed:x?}");

    // Nowhere is anybody's memory: a server that looks there is no more.
    let nowhere = [0x1000_u64, 64, 0x1000, 64, 0x1000, 64, 0x1000, 64];
    let parameter = |words: usize| {
        let bytes = nowhere[..words].iter().flat_map(|word| word.to_ne_bytes());
        bytes.collect::<Vec<u8>>()
    };
    for (kind, words) in POINTING {
        for call in [Call::DeriveKey, Call::SignInit] {
            let (mut client, _, session) = begin();
            let key = client.call(Call::CreateObject, &key_of(session, 0));
            let key = number_in(&key.expect("a server").expect("a key"));
            let said = Said::default()
                .number(session)
                .mechanism(kind, &parameter(words))
                .number(key);
            let said = match call {
                Call::DeriveKey => said.attributes(0),
                _ => said,
            };
            let refused = client.call(call, &said).expect("the server is still there");
            assert!(refused.is_err(), "{kind:#x}");
        }
    }
    // Nor does a template in a template, which p11-kit 0.24 refuses by itself.
    let (mut client, _, session) = begin();
    let inner = [&CKA_LABEL.to_ne_bytes()[..], &parameter(2)].concat();
    let said = key_of(session, 1).content(CKA_DERIVE_TEMPLATE, &inner);
    let refused = client.call(Call::CreateObject, &said);
    assert!(refused.expect("the server is still there").is_err());
    // Nor is any of it offered, but for EdDSA, which needs no parameter.
    for (kind, _) in POINTING {
        let offered = listed.contains(&u64::from(kind));
        assert_eq!(offered, kind == CKM_EDDSA, "{kind:#x}");
    }
}

// PKCS#11's own numbers.
const CKF_SERIAL_SESSION: u64 = 4;
const CKO_SECRET_KEY: u64 = 4;
const CKK_AES: u64 = 0x1f;
const CKA_CLASS: u32 = 0;
const CKA_LABEL: u64 = 3;
const CKA_VALUE: u32 = 0x11;
const CKA_KEY_TYPE: u32 = 0x100;
const CKA_DERIVE: u32 = 0x10c;
const CKA_DERIVE_TEMPLATE: u32 = 0x4000_0213;
const CKM_ECDSA: u64 = 0x1041;
const CKM_EDDSA: u32 = 0x1057;

/// Mechanisms that neither p11-kit 0.24 nor 0.25 knows, with the length of their parameters in words:
/// CKM_CONCATENATE_BASE_AND_DATA and _DATA_AND_BASE, CKM_XOR_BASE_AND_DATA, CKM_AES_ECB_ENCRYPT_DATA and _CBC_,
/// CKM_SP800_108_COUNTER_KDF, _FEEDBACK_KDF and _DOUBLE_PIPELINE_KDF, CKM_EDDSA.
const POINTING: [(u32, usize); 9] = [
    (0x362, 2),
    (0x363, 2),
    (0x364, 2),
    (0x1104, 2),
    (0x1105, 4),
    (0x3ac, 5),
    (0x3ad, 7),
    (0x3ae, 5),
    (CKM_EDDSA, 3),
];

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
