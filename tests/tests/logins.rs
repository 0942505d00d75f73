//! PINs and logins as a host of the PKCS#11 module sees them, over a real TPM simulator.
//!
//! PKCS#11 gives a process one module, so that each test is a process of its own: it runs itself
//! again with the module's environment, and what it does in there is its `inside`.

use std::env;
use std::path::PathBuf;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;
use strongroom_tests::{Host, KeyType, Run, Token};

const USER: &str = "1234";
const OFFICER: &str = "5678";

/// What a host does at the TPM until it is logged in.
const LOGIN: [&str; 4] = ["ReadPublic", "NV_ReadPublic", "StartAuthSession", "NV_Read"];

#[test]
fn wrong_pins_are_told_by_codes_and_flags_until_the_pin_is_locked() {
    host(
        "wrong_pins_are_told_by_codes_and_flags_until_the_pin_is_locked",
        Token::guarded,
        |module| {
            let slot = keys(module);
            let session = module.open_rw_session(slot).expect("open");
            let flags = || {
                let info = module.get_token_info(slot).expect("info");
                assert!(info.login_required() && info.user_pin_initialized());
                assert_eq!((info.min_pin_length(), info.max_pin_length()), (4, 255));
                [
                    info.user_pin_count_low(),
                    info.user_pin_final_try(),
                    info.user_pin_locked(),
                ]
            };
            assert_eq!(flags(), [false; 3]);
            // What can be no PIN is wrong, and costs no try.
            refused(login(&session, "123"), RvError::PinIncorrect);
            assert_eq!(flags(), [false; 3]);
            for tries in 1..=9 {
                refused(login(&session, "wrong"), RvError::PinIncorrect);
                assert_eq!(flags(), [true, tries == 9, false], "after {tries}");
            }
            login(&session, USER).expect("the right one, in time");
            assert_eq!(flags(), [false; 3]);
            refused(login(&session, USER), RvError::UserAlreadyLoggedIn);
            refused(
                session.login(UserType::So, Some(&pin(OFFICER))),
                RvError::UserAnotherAlreadyLoggedIn,
            );
            session.logout().expect("logged out");
            refused(session.logout(), RvError::UserNotLoggedIn);
            for _ in 0..10 {
                refused(login(&session, "wrong"), RvError::PinIncorrect);
            }
            assert_eq!(flags(), [false, false, true]);
            refused(login(&session, USER), RvError::PinLocked);
            refused(
                session.set_pin(&pin(USER), &pin("other")),
                RvError::PinLocked,
            );
            // The security officer sets another.
            refused(session.init_pin(&pin("newer")), RvError::UserNotLoggedIn);
            session
                .login(UserType::So, Some(&pin(OFFICER)))
                .expect("the officer's");
            assert_eq!(state(&session), SessionState::RwSecurityOfficer);
            refused(session.init_pin(&pin("123")), RvError::PinLenRange);
            session.init_pin(&pin("newer")).expect("set");
            session.logout().expect("logged out");
            assert_eq!(flags(), [false; 3]);
            login(&session, "newer").expect("the new one");
            assert_eq!(state(&session), SessionState::RwUser);
        },
    );
}

#[test]
fn a_pin_is_changed_by_the_old_one() {
    host(
        "a_pin_is_changed_by_the_old_one",
        Token::guarded,
        |module| {
            let slot = keys(module);
            let reading = module.open_ro_session(slot).expect("open");
            refused(
                reading.set_pin(&pin(USER), &pin("other")),
                RvError::SessionReadOnly,
            );
            refused(
                reading.login(UserType::So, Some(&pin(OFFICER))),
                RvError::SessionReadOnlyExists,
            );
            drop(reading);
            let session = module.open_rw_session(slot).expect("open");
            refused(
                session.set_pin(&pin("wrong"), &pin("other")),
                RvError::PinIncorrect,
            );
            session.set_pin(&pin(USER), &pin("other")).expect("changed");
            refused(login(&session, USER), RvError::PinIncorrect);
            login(&session, "other").expect("the new one");
            // Logged in, it goes on with the new one.
            session
                .set_pin(&pin("other"), &pin("third"))
                .expect("changed");
            generate(&session, "key", &[]);
            session.logout().expect("logged out");
            session
                .login(UserType::So, Some(&pin(OFFICER)))
                .expect("the officer's");
            refused(
                module.open_ro_session(slot).map(drop),
                RvError::SessionReadWriteSoExists,
            );
            session
                .set_pin(&pin(OFFICER), &pin("their own"))
                .expect("changed");
            session.logout().expect("logged out");
            session
                .login(UserType::So, Some(&pin("their own")))
                .expect("the new one");
        },
    );
}

#[test]
fn what_is_private_is_there_for_its_user_alone() {
    host(
        "what_is_private_is_there_for_its_user_alone",
        Token::guarded,
        |module| {
            let slot = keys(module);
            let session = module.open_rw_session(slot).expect("open");
            let create = |label: &str, private: Option<bool>, token: bool| {
                let mut template = vec![
                    Attribute::Class(ObjectClass::DATA),
                    Attribute::Token(token),
                    Attribute::Label(label.into()),
                    Attribute::Value(b"a value".to_vec()),
                ];
                template.extend(private.map(Attribute::Private));
                session.create_object(&template)
            };
            refused(create("a", Some(true), true), RvError::UserNotLoggedIn);
            refused(create("b", None, true), RvError::UserNotLoggedIn);
            refused(create("c", Some(true), false), RvError::UserNotLoggedIn);
            let public = create("public", Some(false), true).expect("public");
            assert_eq!(value(&session, public).expect("public"), b"a value");
            login(&session, USER).expect("logged in");
            let private = create("private", None, true).expect("private");
            let held = create("held", Some(true), false).expect("held");
            assert_eq!(labels(&session), ["held", "private", "public"]);
            assert_eq!(value(&session, private).expect("private"), b"a value");
            let found = session.iter_objects(&[]).expect("a search");
            session.logout().expect("logged out");
            drop(found);
            assert_eq!(labels(&session), ["public"]);
            for gone in [private, held] {
                refused(value(&session, gone), RvError::ObjectHandleInvalid);
                refused(session.destroy_object(gone), RvError::ObjectHandleInvalid);
            }
            assert_eq!(value(&session, public).expect("public"), b"a value");
            login(&session, USER).expect("logged in");
            // Other handles, and the session object is gone.
            refused(value(&session, private), RvError::ObjectHandleInvalid);
            assert_eq!(labels(&session), ["private", "public"]);
            // Another session of the process is logged in too, until the last one goes.
            let another = module.open_ro_session(slot).expect("open");
            assert_eq!(state(&another), SessionState::RoUser);
            drop(another);
            assert_eq!(state(&session), SessionState::RwUser);
            drop(session);
            let session = module.open_rw_session(slot).expect("open");
            assert_eq!(state(&session), SessionState::RwPublic);
            assert_eq!(labels(&session), ["public"]);
        },
    );
}

#[test]
fn the_public_half_of_a_private_key_is_public() {
    host(
        "the_public_half_of_a_private_key_is_public",
        Token::guarded,
        |module| {
            let session = module.open_rw_session(keys(module)).expect("open");
            login(&session, USER).expect("logged in");
            let (public, private) = generate(&session, "key", &[]);
            let signature = session.sign(&Mechanism::Ecdsa, private, &[7; 32]);
            let signature = signature.expect("signed");
            session.logout().expect("logged out");
            session
                .verify(&Mechanism::Ecdsa, public, &[7; 32], &signature)
                .expect("verified");
            refused(
                session.sign(&Mechanism::Ecdsa, private, &[7; 32]),
                RvError::KeyHandleInvalid,
            );
        },
    );
}

#[test]
fn a_key_that_always_asks_wants_the_pin_before_each_use() {
    host(
        "a_key_that_always_asks_wants_the_pin_before_each_use",
        Token::guarded,
        |module| {
            let session = module.open_rw_session(keys(module)).expect("open");
            login(&session, USER).expect("logged in");
            let (_, private) = generate(&session, "asks", &[Attribute::AlwaysAuthenticate(true)]);
            let sign = || session.sign_final();
            let begin = || {
                session
                    .sign_init(&Mechanism::Ecdsa, private)
                    .expect("begun");
                session.sign_update(&[7; 32]).expect("a digest");
            };
            let authenticate = |text| session.login(UserType::ContextSpecific, Some(&pin(text)));
            refused(authenticate(USER), RvError::OperationNotInitialized);
            begin();
            refused(sign(), RvError::UserNotLoggedIn);
            begin();
            refused(authenticate("wrong"), RvError::PinIncorrect);
            authenticate(USER).expect("the PIN");
            sign().expect("signed");
            // Once is for one use.
            begin();
            refused(sign(), RvError::UserNotLoggedIn);
            // Another key does not ask.
            let (_, other) = generate(&session, "other", &[]);
            session
                .sign(&Mechanism::Ecdsa, other, &[7; 32])
                .expect("signed");
            // Nor can one that everybody sees.
            let asks = [
                Attribute::AlwaysAuthenticate(true),
                Attribute::Private(false),
            ];
            refused(
                try_generate(&session, "x", &asks),
                RvError::TemplateInconsistent,
            );
        },
    );
}

#[test]
fn a_pin_that_was_changed_elsewhere_logs_out_and_costs_one_try() {
    host(
        "a_pin_that_was_changed_elsewhere_logs_out_and_costs_one_try",
        Token::guarded,
        |module| {
            let slot = keys(module);
            let session = module.open_rw_session(slot).expect("open");
            login(&session, USER).expect("logged in");
            let (_, private) = generate(&session, "key", &[]);
            let sign = || session.sign(&Mechanism::Ecdsa, private, &[7; 32]);
            sign().expect("signed");
            Run::new("pkcs11-tool")
                .arg("--module")
                .arg(env::var_os(MODULE).expect("a module"))
                .args(["--token-label", "keys", "--login", "--pin", USER])
                .args(["--change-pin", "--new-pin", "another"])
                .env("STRONGROOM_DIR", env::var_os("STRONGROOM_DIR").expect("it"))
                .env(
                    "STRONGROOM_TCTI",
                    env::var_os("STRONGROOM_TCTI").expect("it"),
                )
                .ok();
            // The key is loaded still, for a second at most; then the PIN is asked for again.
            std::thread::sleep(std::time::Duration::from_millis(1500));
            refused(sign(), RvError::UserNotLoggedIn);
            assert_eq!(state(&session), SessionState::RwPublic);
            let info = module.get_token_info(slot).expect("info");
            assert!(info.user_pin_count_low() && !info.user_pin_final_try());
            login(&session, "another").expect("the new one");
        },
    );
}

#[test]
fn a_new_token_is_made_in_the_last_slot_and_stays() {
    let made = host(
        "a_new_token_is_made_in_the_last_slot_and_stays",
        Token::new,
        |module| {
            let slots = module.get_all_slots().expect("slots");
            assert_eq!(slots.len(), 4);
            let info = |slot| module.get_token_info(slot).expect("info");
            let free = slots[3];
            assert!(!info(free).token_initialized());
            refused(
                module.open_ro_session(free).map(drop),
                RvError::TokenNotRecognized,
            );
            refused(
                module.init_token(free, &pin("123"), "Web server"),
                RvError::PinLenRange,
            );
            module
                .init_token(free, &pin(OFFICER), "Web server")
                .expect("made");
            let new = info(free);
            assert_eq!(new.label(), "Web server");
            assert!(new.token_initialized() && new.login_required());
            assert!(!new.user_pin_initialized());
            // And there is another slot for another one.
            assert_eq!(module.get_all_slots().expect("slots").len(), 5);
            let session = module.open_rw_session(free).expect("open");
            refused(login(&session, USER), RvError::UserPinNotInitialized);
            refused(
                module.init_token(free, &pin(OFFICER), "Web server"),
                RvError::SessionExists,
            );
            session
                .login(UserType::So, Some(&pin(OFFICER)))
                .expect("the officer's");
            session.init_pin(&pin(USER)).expect("set");
            session.logout().expect("logged out");
            login(&session, USER).expect("the PIN");
            generate(&session, "key", &[]);
            assert_eq!(labels(&session), ["key", "key"]);
            drop(session);

            // Begun anew: by its officer alone.
            refused(
                module.init_token(free, &pin("wrong"), "Other"),
                RvError::PinIncorrect,
            );
            assert!(info(free).so_pin_count_low());
            let serial = new.serial_number().to_owned();
            module
                .init_token(free, &pin(OFFICER), "Other")
                .expect("anew");
            let new = info(free);
            assert_eq!((new.label(), new.serial_number()), ("Other", &*serial));
            assert!(!new.user_pin_initialized());
            let session = module.open_ro_session(free).expect("open");
            assert!(labels(&session).is_empty());
        },
    );
    if let Some(token) = made {
        // Another process finds it by its label.
        let listed = token
            .run("pkcs11-tool")
            .arg("--module")
            .arg(token.module())
            .arg("-L")
            .ok()
            .text();
        assert!(listed.contains("Other"), "{listed}");
        token.is_left_clean();
    }
}

#[test]
fn init_token_costs_no_dataset_key_no_credential_and_no_strangers_objects() {
    let token = host(
        "init_token_costs_no_dataset_key_no_credential_and_no_strangers_objects",
        || {
            let token = Token::new();
            if let Some(vault) = token.vault() {
                vault.seal("credentials", "offsite", b"secret");
            }
            token.generate(KeyType::P256, "kept");
            token
        },
        |module| {
            for slot in &module.get_all_slots().expect("slots")[..3] {
                refused(
                    module.init_token(*slot, &pin(OFFICER), "mine"),
                    RvError::TokenWriteProtected,
                );
            }
        },
    );
    if let Some(token) = token {
        let vault = token.vault().expect("ours");
        assert_eq!(vault.unseal("credentials", "offsite"), b"secret");
        let listed = token.pkcs11_tool(&["-O"]).ok().text();
        assert!(listed.contains("kept"), "{listed}");
    }
}

#[test]
fn a_login_costs_four_commands_and_a_list_none() {
    let name = "a_login_costs_four_commands_and_a_list_none";
    let prepare = || {
        let token = Token::guarded();
        token.generate(KeyType::P256, "key");
        token.vault().expect("ours").recorder().take();
        token
    };
    let token = host(name, prepare, |module| {
        let slot = Slot::try_from(2_u64).expect("a slot");
        let session = module.open_ro_session(slot).expect("open");
        if env::var_os("STRONGROOM_TEST_LIST").is_some() {
            assert_eq!(labels(&session), ["key"]);
        } else {
            login(&session, USER).expect("logged in");
            // What is at the end is not part of the login.
            std::process::exit(0);
        }
    });
    if let Some(token) = token {
        let recorder = token.vault().expect("ours").recorder();
        let commands: Vec<_> = recorder.take().iter().map(|it| it.name).collect();
        assert_eq!(commands[..LOGIN.len()], LOGIN);
        // At the end its session goes, and nothing else was done.
        assert_eq!(commands[LOGIN.len()..], ["FlushContext"]);
        child(name, &token).env("STRONGROOM_TEST_LIST", "1").ok();
        let commands = recorder.take();
        assert!(commands.is_empty(), "{commands:?}");
    }
}

#[test]
fn two_tokens_are_logged_in_to_at_once() {
    host(
        "two_tokens_are_logged_in_to_at_once",
        Token::guarded,
        |module| {
            let free = module.get_all_slots().expect("slots")[3];
            module
                .init_token(free, &pin(OFFICER), "second")
                .expect("made");
            let second = module.open_rw_session(free).expect("open");
            second
                .login(UserType::So, Some(&pin(OFFICER)))
                .expect("the officer's");
            second.init_pin(&pin("another")).expect("set");
            second.logout().expect("logged out");
            let first = module.open_rw_session(keys(module)).expect("open");
            // A login keeps the TPM for a moment, and must not wait for itself.
            let start = std::time::Instant::now();
            login(&first, USER).expect("logged in");
            login(&second, "another").expect("logged in");
            assert!(start.elapsed() < std::time::Duration::from_secs(20));
            for session in [&first, &second] {
                let (_, private) = generate(session, "key", &[]);
                session
                    .sign(&Mechanism::Ecdsa, private, &[7; 32])
                    .expect("signed");
            }
            first.logout().expect("logged out");
            assert_eq!(state(&second), SessionState::RwUser);
            assert_eq!(labels(&second), ["key", "key"]);
        },
    );
}

#[test]
fn whoever_may_be_served_by_p11_kit_logs_in_there() {
    let token = Token::guarded().served();
    token.generate(KeyType::P256, "key");
    let listed = token.pkcs11_tool(&["-O", "--type", "privkey"]).ok().text();
    assert!(listed.contains("key"), "{listed}");
    let without = token
        .run("pkcs11-tool")
        .arg("--module")
        .arg(token.module())
        .args(["--token-label", "keys", "-O", "--type", "privkey"])
        .ok()
        .text();
    assert!(!without.contains("key"), "{without}");
}

/// Says to a process that it is the host of the module in this file.
const MODULE: &str = "STRONGROOM_TEST_MODULE";

/// Prepares a token, runs the test of this name once more as a host of it, and gives the token
/// back; in there, `inside` is done and nothing comes back.
fn host(
    name: &str,
    prepare: impl FnOnce() -> Token,
    inside: impl FnOnce(&Pkcs11),
) -> Option<Token> {
    if let Some(module) = env::var_os(MODULE) {
        let module = Pkcs11::new(PathBuf::from(module)).expect("loaded");
        module
            .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
            .expect("initialized");
        inside(&module);
        module.finalize().expect("finalized");
        return None;
    }
    let token = prepare();
    if token.is_peer() {
        return None;
    }
    child(name, &token).ok();
    Some(token)
}

fn child(name: &str, token: &Token) -> Run {
    token
        .run(env::current_exe().expect("this test"))
        .args(["--exact", name, "--nocapture"])
        .env(MODULE, token.module())
}

/// The slot of the token `keys`.
fn keys(module: &Pkcs11) -> Slot {
    let is_keys = |info: TokenInfo| info.label() == "keys";
    let slots = module.get_slots_with_initialized_token().expect("slots");
    slots
        .into_iter()
        .find(|slot| module.get_token_info(*slot).is_ok_and(is_keys))
        .expect("keys is there")
}

fn login(session: &Session, text: &str) -> Result<(), Error> {
    session.login(UserType::User, Some(&pin(text)))
}

fn pin(text: &str) -> AuthPin {
    AuthPin::new(text.into())
}

fn state(session: &Session) -> SessionState {
    session.get_session_info().expect("info").session_state()
}

#[track_caller]
fn refused<T>(outcome: Result<T, Error>, code: RvError) {
    match outcome {
        Err(Error::Pkcs11(found, Function::CloseSession)) => panic!("{found:?}"),
        Err(Error::Pkcs11(found, _)) => {
            assert_eq!(format!("{found:?}"), format!("{code:?}"));
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it worked, and should be {code:?}"),
    }
}

fn generate(session: &Session, label: &str, more: &[Attribute]) -> (ObjectHandle, ObjectHandle) {
    try_generate(session, label, more).expect("made")
}

fn try_generate(
    session: &Session,
    label: &str,
    more: &[Attribute],
) -> Result<(ObjectHandle, ObjectHandle), Error> {
    // The OID of P-256.
    let curve = vec![0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];
    let both = [Attribute::Token(true), Attribute::Label(label.into())];
    let public = [&both[..], &[Attribute::EcParams(curve)]].concat();
    let private = [&both[..], more].concat();
    session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)
}

fn value(session: &Session, object: ObjectHandle) -> Result<Vec<u8>, Error> {
    let attributes = session.get_attributes(object, &[AttributeType::Value])?;
    match attributes.as_slice() {
        [Attribute::Value(value)] => Ok(value.clone()),
        other => panic!("{other:?}"),
    }
}

/// The labels of all objects, in order.
fn labels(session: &Session) -> Vec<String> {
    let objects = session.find_objects(&[]).expect("found");
    let mut labels: Vec<_> = objects
        .into_iter()
        .map(|object| {
            let attributes = session.get_attributes(object, &[AttributeType::Label]);
            match attributes.expect("it has one").as_slice() {
                [Attribute::Label(label)] => String::from_utf8(label.clone()).expect("text"),
                other => panic!("{other:?}"),
            }
        })
        .collect();
    labels.sort();
    labels
}

/// A TPM without resource manager has room for three sessions. Two that killed hosts leave there leave room
/// for the next one's own, and none for that of its PIN.
#[test]
fn hosts_that_were_killed_leave_room_for_the_session_of_a_pin() {
    let token = Token::guarded();
    if token.is_peer() {
        return;
    }
    token.generate(KeyType::P256, "p256");
    for _ in 0..2 {
        let mut host = Host::start(token.module(), token.environment().to_vec());
        host.prepare(token.pin()).expect("a session");
        host.kill();
    }
    let vault = token.vault().expect("it is ours");
    let left = vault.tpm().loaded_sessions().len();
    assert_eq!(left, 2, "they were killed in time");
    token.generate(KeyType::P256, "another");
    token.is_left_clean();
}
