//! Turns on a TPM without resource manager: the programs and the module's hosts, all at once, and
//! hosts that fork and are killed.
#![allow(
    unsafe_code,
    reason = "a host that forks, and goes on in both processes"
)]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use strongroom_tests::{KeyType, Token};

/// Well below the thirty seconds for which one waits.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn programs_and_hosts_that_sign_without_pause_do_not_disturb_each_other() {
    let token = Token::new();
    let Some(vault) = token.vault() else {
        return;
    };
    token.generate(KeyType::P256, "p256");
    vault.seal("credentials", "offsite", b"secret");
    let hosts: Vec<Host> = (0..2).map(|_| Host::start(&token, "signs")).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..12 {
                assert_eq!(vault.unseal("credentials", "offsite"), b"secret");
            }
        });
        scope.spawn(|| {
            for number in 0..4 {
                vault.seal("credentials", &format!("new {number}"), b"secret");
                vault.strongroom(&["status"]).ok();
            }
        });
        scope.spawn(|| {
            for byte in ["a1", "b2"] {
                let value = format!("11={}", byte.repeat(32));
                vault.strongroom(&["rebind", "--yes", "--add", &value]).ok();
                token.generate(KeyType::P256, byte);
            }
        });
    });
    for host in hosts {
        let signatures: u32 = host.end().parse().expect("a number");
        assert!(signatures > 50, "only {signatures} signatures meanwhile");
    }
    token.is_left_clean();
}

#[test]
fn the_child_of_a_host_that_was_killed_keeps_nobody_waiting() {
    let token = Token::new();
    let Some(vault) = token.vault() else {
        return;
    };
    token.generate(KeyType::P256, "p256");
    vault.seal("credentials", "offsite", b"secret");
    // While the parent has its turn.
    let mut host = Host::start(&token, "forks");
    host.child.kill().expect("kill the parent");
    host.child.wait().expect("the parent ends");

    let begun = Instant::now();
    vault.unseal("credentials", "offsite");
    assert!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
    // Until then it lived: it ends with its input, and says so.
    assert_eq!(host.end(), "the child");
    token.is_left_clean();
}

#[test]
fn a_host_forks_after_it_has_unloaded_the_module() {
    let token = Token::new();
    if token.is_peer() {
        return;
    }
    token.generate(KeyType::P256, "p256");
    assert_eq!(Host::start(&token, "unloads").end(), "the child");
    token.is_left_clean();
}

#[test]
fn a_child_signs_for_itself_while_its_parent_does() {
    let token = Token::new();
    if token.is_peer() {
        return;
    }
    token.generate(KeyType::P256, "p256");
    let host = Host::start(&token, "both sign");
    // For several turns of each.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(host.end(), "the child");
    token.is_left_clean();
}

/// A process that has the module loaded.
struct Host {
    child: Child,
    /// Not left to `child`, which closes it as soon as one waits for the parent.
    input: ChildStdin,
    lines: BufReader<Box<dyn Read>>,
}

impl Host {
    /// Starts [`host`] in a process of its own, and waits until it is at work.
    fn start(token: &Token, task: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "host", "--ignored", "--nocapture"])
            .envs(token.environment().iter().cloned())
            .env("TURNS_TEST_TASK", task)
            .env("TURNS_TEST_MODULE", token.module())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start a host");
        let output: Box<dyn Read> = Box::new(child.stdout.take().expect("it is a pipe"));
        let mut host = Self {
            input: child.stdin.take().expect("it is a pipe"),
            child,
            lines: BufReader::new(output),
        };
        assert_eq!(said(&mut host.lines), "at work");
        host
    }

    /// Ends it, with its child if that still reads; what was said at last.
    fn end(mut self) -> String {
        drop(self.input);
        let said = said(&mut self.lines);
        let status = self.child.wait().expect("it ends");
        assert!(status.success() || status.signal() == Some(9), "{status}");
        said
    }
}

/// What a host says next.
fn said(lines: &mut impl BufRead) -> String {
    let said = lines.lines().find_map(|line| {
        let line = line.expect("it writes text");
        line.split_once("host: ").map(|(_, said)| said.to_owned())
    });
    said.expect("it says something")
}

/// A host's part, in a process of its own.
#[test]
#[ignore = "a part of the tests above, in a process of its own"]
fn host() {
    // Run with all the ignored ones, it is nobody's part.
    let Ok(task) = std::env::var("TURNS_TEST_TASK") else {
        return;
    };
    let signer = Signer::start();
    signer.sign();
    match task.as_str() {
        "signs" => {
            println!("host: at work");
            println!("host: {}", signer.sign_to_the_end());
        }
        // The turn that began with a signature is not over so soon.
        "forks" => match fork() {
            Side::Parent => loop {
                signer.sign();
            },
            Side::Child => {
                println!("host: at work");
                wait_for_the_end();
                println!("host: the child");
                leave();
            }
        },
        "unloads" => {
            signer.end();
            match fork() {
                Side::Parent => wait_for_the_end(),
                Side::Child => {
                    println!("host: at work");
                    wait_for_the_end();
                    println!("host: the child");
                    leave();
                }
            }
        }
        "both sign" => match fork() {
            Side::Parent => {
                signer.sign_to_the_end();
            }
            Side::Child => {
                // What it has of its parent's session it does not use, and does not end.
                std::mem::forget(signer);
                let signer = Signer::start();
                signer.sign();
                println!("host: at work");
                signer.sign_to_the_end();
                println!("host: the child");
                leave();
            }
        },
        other => panic!("no host does {other:?}"),
    }
}

/// A session with the token `keys`, and a key in it.
struct Signer {
    session: Session,
    key: ObjectHandle,
    module: Pkcs11,
}

impl Signer {
    fn start() -> Self {
        let module = std::env::var_os("TURNS_TEST_MODULE").expect("a module");
        let module = Pkcs11::new(PathBuf::from(module)).expect("load the module");
        let arguments = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        module.initialize(arguments).expect("initialize");
        let slot = module
            .get_all_slots()
            .expect("slots")
            .into_iter()
            .find(|slot| module.get_token_info(*slot).expect("a token").label() == "keys")
            .expect("the token keys");
        let session = module.open_ro_session(slot).expect("a session");
        let wanted = [Attribute::Label(b"p256".to_vec()), Attribute::Sign(true)];
        let key = session.find_objects(&wanted).expect("search")[0];
        Self {
            session,
            key,
            module,
        }
    }

    fn sign(&self) {
        let signed = self.session.sign(&Mechanism::Ecdsa, self.key, &[7; 32]);
        assert_eq!(signed.expect("sign").len(), 64);
    }

    /// Signs until the input ends; how often that was.
    fn sign_to_the_end(&self) -> u32 {
        let end = thread::spawn(wait_for_the_end);
        let mut signatures = 0;
        while !end.is_finished() {
            self.sign();
            signatures += 1;
        }
        signatures
    }

    fn end(self) {
        self.session.close().expect("close");
        self.module.finalize().expect("finalize");
    }
}

fn wait_for_the_end() {
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).expect("read");
}

enum Side {
    Parent,
    Child,
}

fn fork() -> Side {
    // SAFETY: of the child's other threads, which do not go on, none holds a lock that the child
    // takes: the harness's main thread waits for this one.
    match unsafe { libc::fork() } {
        -1 => panic!("cannot fork"),
        0 => {
            // The harness would catch a panic, and the child live on in the module's thread.
            std::panic::set_hook(Box::new(|panic| {
                eprintln!("{panic}");
                std::process::abort();
            }));
            Side::Child
        }
        _ => Side::Parent,
    }
}

/// Ends a child without what the harness does at a test's end.
fn leave() -> ! {
    std::process::exit(0)
}
