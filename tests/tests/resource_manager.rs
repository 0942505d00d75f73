//! Many hosts of the module at one TPM, with a resource manager before it and without: threads,
//! processes, and one that is killed.

use std::ffi::OsString;
use std::thread;
use std::time::{Duration, Instant};

use strongroom_tests::{Abrmd, Host, KeyType, Swtpm, Token};

const KEYS: [(KeyType, &str); 2] = [(KeyType::Rsa2048, "rsa"), (KeyType::P256, "p256")];

/// Longer than the module holds anything in the TPM, so that all of it is done more than once.
const WHILE: Duration = Duration::from_millis(2500);

#[test]
fn processes_sign_at_once_through_a_resource_manager() {
    let (token, abrmd) = managed();
    let before = Loaded::in_tpm(&token);
    let hosts = eight_hosts(&token, &abrmd.environment());
    sign_at_once(hosts);
    before.is_reached_again(&token);
}

#[test]
fn processes_that_sign_without_pause_take_turns_without_a_resource_manager() {
    let token = token();
    let hosts = eight_hosts(&token, &[]);
    sign_at_once(hosts);
    token.is_left_clean();
}

#[test]
fn threads_sign_at_once_through_a_resource_manager() {
    let (token, abrmd) = managed();
    let before = Loaded::in_tpm(&token);
    for (_, label) in KEYS {
        let mut host = host(&token, &abrmd.environment());
        host.start_signing(label, 16, WHILE);
        signed(&mut host);
        host.finish().expect("it finishes");
    }
    before.is_reached_again(&token);
}

#[test]
fn threads_sign_at_once_without_a_resource_manager() {
    let token = token();
    for (_, label) in KEYS {
        let mut host = host(&token, &[]);
        host.start_signing(label, 16, WHILE);
        signed(&mut host);
        host.finish().expect("it finishes");
        token.is_left_clean();
    }
}

#[test]
fn a_host_that_is_killed_leaves_nothing_behind_a_resource_manager() {
    let (token, abrmd) = managed();
    let before = Loaded::in_tpm(&token);
    let recorder = token.vault().expect("it is ours").recorder();
    for (_, label) in KEYS {
        let mut host = host(&token, &abrmd.environment());
        recorder.take();
        host.start_signing(label, 1, Duration::from_secs(60));
        let deadline = Instant::now() + Duration::from_secs(20);
        while signatures(&token) < 5 {
            assert!(Instant::now() < deadline, "it does not sign");
            thread::sleep(Duration::from_millis(1));
        }
        host.kill();
        before.is_reached_again(&token);
    }
    // And the TPM serves the next one.
    let mut host = host(&token, &abrmd.environment());
    host.sign("rsa", 1).expect("it signs");
    host.finish().expect("it finishes");
    before.is_reached_again(&token);
}

/// The handles of what is in the TPM, saved or loaded.
#[derive(Debug, PartialEq, Eq)]
struct Loaded([Vec<u32>; 3]);

impl Loaded {
    fn in_tpm(token: &Token) -> Self {
        let tpm = tpm(token);
        Self(["transient", "loaded-session", "saved-session"].map(|kind| tpm.handles(kind)))
    }

    /// Expects that the TPM will hold this again, as soon as the resource manager has noticed that
    /// its clients have gone.
    #[track_caller]
    fn is_reached_again(&self, token: &Token) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Self::in_tpm(token) != *self && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(Self::in_tpm(token), *self, "objects and sessions");
    }
}

fn token() -> Token {
    let token = Token::new();
    for (key, label) in KEYS {
        token.generate(key, label);
    }
    token
}

/// A token, and a resource manager before its TPM; between these two is the recorder.
fn managed() -> (Token, Abrmd) {
    let token = token();
    let vault = token.vault().expect("a peer's token is in no TPM");
    let abrmd = Abrmd::start(&vault.recorder().tcti());
    (token, abrmd)
}

fn tpm(token: &Token) -> &Swtpm {
    token.vault().expect("it is ours").tpm()
}

/// How many signatures the TPM has made.
fn signatures(token: &Token) -> usize {
    let counts = token.vault().expect("it is ours").recorder().counts();
    let made = |name| counts.get(name).copied().unwrap_or_default();
    made("Sign") + made("RSA_Decrypt")
}

/// A host that is ready to sign, with this in its environment besides.
fn host(token: &Token, more: &[(&'static str, OsString)]) -> Host {
    let environment = token.environment().iter().chain(more).cloned();
    let mut host = Host::start(token.module(), environment);
    host.prepare(token.pin()).expect("it is ready");
    host
}

fn eight_hosts(token: &Token, more: &[(&'static str, OsString)]) -> Vec<Host> {
    (0..8).map(|_| host(token, more)).collect()
}

/// Has all hosts sign, half of them with either key.
fn sign_at_once(mut hosts: Vec<Host>) {
    for (number, host) in hosts.iter_mut().enumerate() {
        let (_, label) = KEYS[number % KEYS.len()];
        host.start_signing(label, 1, WHILE);
    }
    for host in &mut hosts {
        signed(host);
    }
    for host in hosts {
        host.finish().expect("it finishes");
    }
}

/// Expects that a host has signed without any error.
#[track_caller]
fn signed(host: &mut Host) {
    host.outcome(WHILE).expect("it signs");
}
