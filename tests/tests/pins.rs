//! PINs of tokens, by the library's own calls, over a real TPM simulator: what they open, what
//! wrong ones cost, who sets them, and what a thief of the disk or of the box gets.

use sha2::{Digest as _, Sha256};
use strongroom::key::{Curve, KeyAlgorithm, SignScheme};
use strongroom::object::{Kind, NewObject, ObjectId, PIN, TokenName};
use strongroom::pin::{Pin, PinState, Role};
use strongroom::recovery::RecoveryKit;
use strongroom::vault::NewToken;
use strongroom::{Error, Result, Secret, Tcti, Unlocked, Vault};
use strongroom_tests::swtpm::USUAL_BOOT;
use strongroom_tests::{Swtpm, TestVault};

const USER: &str = "1234 and more";
const OFFICER: &str = "87654321";

/// As many wrong ones lock a PIN.
const LIMIT: u32 = 10;

#[test]
fn what_is_behind_a_pin_opens_with_the_pin_alone() {
    let bench = Bench::new();
    let (private, public) = bench.seal_both();
    let mut vault = bench.unlock();
    assert_eq!(vault.unseal(public).expect("public").expose(), b"public");
    assert!(matches!(vault.unseal(private), Err(Error::PinRequired(_))));
    vault.give_pin(&token(), &pin(USER)).expect("a PIN");
    assert_eq!(vault.unseal(private).expect("private").expose(), b"private");
    assert_eq!(vault.unseal(public).expect("public").expose(), b"public");
    assert_eq!(vault.unseal(private).expect("private").expose(), b"private");
    vault.forget_pin(&token()).expect("forgotten");
    assert!(matches!(vault.unseal(private), Err(Error::PinRequired(_))));
    vault.give_pin(&token(), &pin("wrong")).expect("a PIN");
    assert!(matches!(
        vault.unseal(private),
        Err(Error::PinIncorrect { .. })
    ));
    // The session is clean again.
    assert_eq!(vault.unseal(public).expect("public").expose(), b"public");
    drop(vault);
    bench.is_left_clean();
}

#[test]
fn private_keys_are_made_imported_loaded_and_used_behind_the_pin() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    let key = || named("key", Kind::PrivateKey);
    let p256 = KeyAlgorithm::Ec(Curve::P256);
    assert!(matches!(
        vault.generate_key(key(), p256),
        Err(Error::PinRequired(_))
    ));
    vault.give_pin(&token(), &pin(USER)).expect("a PIN");
    let id = vault.generate_key(key(), p256).expect("made");
    let loaded = vault.load_key(id).expect("loaded");
    vault
        .sign(&loaded, &SignScheme::Ecdsa, &[7; 32])
        .expect("signed");
    vault.unload_key(loaded).expect("unloaded");
    vault
        .update(id, |object| {
            object.label = "another".parse().expect("a label");
        })
        .expect("another label");
    drop(vault);
    let mut vault = bench.unlock();
    assert!(matches!(vault.load_key(id), Err(Error::PinRequired(_))));
    vault.give_pin(&token(), &pin("wrong")).expect("a PIN");
    assert!(matches!(
        vault.load_key(id),
        Err(Error::PinIncorrect { .. })
    ));
}

#[test]
fn what_an_object_needs_does_not_change_and_says_so() {
    let bench = Bench::new();
    let (private, _) = bench.seal_both();
    let mut vault = bench.unlock();
    vault.give_pin(&token(), &pin(USER)).expect("a PIN");
    let changed = vault.update(private, |object| {
        object.attributes.insert(PIN.to_owned(), "false".to_owned());
    });
    assert!(matches!(changed, Err(Error::Input { .. })));
    let plain = NewObject::new(
        TokenName::keys(),
        "x".parse().expect("a label"),
        Kind::Credential,
    )
    .with_attribute(PIN, "true");
    let sealed = vault.seal(plain, &Secret::copy_of(b"x"));
    assert!(matches!(sealed, Err(Error::Input { .. })));
    // What is meant for `true` is not taken for `false`.
    let unclear = named("x", Kind::Credential).with_attribute(PIN, "True");
    let sealed = vault.seal(unclear, &Secret::copy_of(b"x"));
    assert!(matches!(sealed, Err(Error::Input { .. })));
}

#[test]
fn wrong_pins_are_counted_lock_it_and_are_told_apart_from_a_lockout() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    let check =
        |vault: &mut Unlocked, text: &str| vault.check_pin(&token(), Role::User, &pin(text));
    assert!(matches!(
        check(&mut vault, "wrong"),
        Err(Error::PinIncorrect {
            role: Role::User,
            ..
        })
    ));
    let state = bench.states();
    assert_eq!((state.user.failures, state.user.limit), (1, LIMIT));
    assert!(!state.user.is_final_try() && !state.user.is_locked());
    assert_eq!(state.security_officer.failures, 0);
    check(&mut vault, USER).expect("the right one");
    assert_eq!(bench.states().user.failures, 0);
    for _ in 0..LIMIT - 1 {
        assert!(matches!(
            check(&mut vault, "wrong"),
            Err(Error::PinIncorrect { .. })
        ));
    }
    assert!(bench.states().user.is_final_try());
    // A TPM that is in lockout is another matter: our PINs do not hang on it.
    bench
        .vault
        .tpm()
        .tpm2(&["dictionarylockout", "-s", "-n", "1"]);
    bench.vault.tpm().tpm2(&["dictionarylockout", "-c"]);
    assert!(matches!(
        check(&mut vault, "wrong"),
        Err(Error::PinIncorrect { .. })
    ));
    assert!(bench.states().user.is_locked());
    for text in [USER, "wrong"] {
        assert!(matches!(
            check(&mut vault, text),
            Err(Error::PinLocked { .. })
        ));
    }
    // Nobody's lockout reset helps, nor does a restart.
    bench.vault.tpm().tpm2(&["dictionarylockout", "-c"]);
    assert!(matches!(
        check(&mut vault, USER),
        Err(Error::PinLocked { .. })
    ));
    drop(vault);
    let mut bench = bench;
    bench.vault.reboot(USUAL_BOOT);
    assert!(matches!(
        check(&mut bench.unlock(), USER),
        Err(Error::PinLocked { .. })
    ));
    // The security officer opens it, with a new PIN.
    let mut vault = bench.unlock();
    vault
        .set_pin(&token(), &pin(OFFICER), &pin("a new one"))
        .expect("set");
    assert!(matches!(
        check(&mut vault, USER),
        Err(Error::PinIncorrect { .. })
    ));
    check(&mut vault, "a new one").expect("the new one");
}

#[test]
fn a_locked_pin_is_not_found_out_by_changing_it() {
    let bench = Bench::new();
    let mut vault = bench.unlock();
    for role in [Role::User, Role::SecurityOfficer] {
        let right = if role == Role::User { USER } else { OFFICER };
        for _ in 0..LIMIT {
            let wrong = vault.change_pin(&token(), role, &pin("wrong"), &pin("never"));
            assert!(matches!(wrong, Err(Error::PinIncorrect { .. })), "{role}");
        }
        // A TPM compares an authorisation value all the same where a policy asks for it.
        for guess in ["wrong", right] {
            let locked = vault.change_pin(&token(), role, &pin(guess), &pin(guess));
            assert!(matches!(locked, Err(Error::PinLocked { .. })), "{role}");
        }
        assert_eq!(failures(&bench, role), LIMIT);
    }
}

#[test]
fn no_session_is_bound_to_a_pin_where_the_tpm_would_compare_it_and_not_count() {
    let bench = Bench::new();
    let session = bench.vault.folder().join("session");
    let session = session.to_str().expect("a path");
    for handle in pin_handles(&bench) {
        // TPM_RC_HANDLE, before the authorisation value is of any account (Part 3, section 11.1).
        bench
            .vault
            .tpm()
            .tpm2(&["startauthsession", "--hmac-session", "-S", session])
            .ok();
        bench.vault.tpm().tpm2(&["flushcontext", session]).ok();
        let bound = ["--bind-context", &handle, "--bind-auth", "guess"];
        let start = ["startauthsession", "--hmac-session", "-S", session];
        let refused = bench.vault.tpm().tpm2(&[&start[..], &bound].concat());
        refused.fails_with(1).says("0x28B");
    }
    assert_eq!(bench.states().user.failures, 0);
}

#[test]
fn a_pin_is_changed_by_whoever_knows_it_and_the_old_one_is_dead() {
    let bench = Bench::new();
    let (private, _) = bench.seal_both();
    for (role, old) in [(Role::User, USER), (Role::SecurityOfficer, OFFICER)] {
        let mut vault = bench.unlock();
        let wrong = vault.change_pin(&token(), role, &pin("wrong"), &pin("never"));
        assert!(matches!(wrong, Err(Error::PinIncorrect { .. })), "{role}");
        assert_eq!(failures(&bench, role), 1);
        vault
            .change_pin(&token(), role, &pin(old), &pin("changed"))
            .expect("changed");
        assert!(matches!(
            vault.check_pin(&token(), role, &pin(old)),
            Err(Error::PinIncorrect { .. })
        ));
        vault
            .check_pin(&token(), role, &pin("changed"))
            .expect("the new one");
    }
    let mut vault = bench.unlock();
    vault.give_pin(&token(), &pin(USER)).expect("a PIN");
    assert!(vault.unseal(private).is_err());
    vault.give_pin(&token(), &pin("changed")).expect("a PIN");
    assert_eq!(vault.unseal(private).expect("opens").expose(), b"private");
    drop(vault);
    bench.is_left_clean();
}

#[test]
fn a_token_whose_user_has_no_pin_yet_gives_nothing_and_says_so() {
    let bench = Bench::without_user_pin();
    let mut vault = bench.unlock();
    assert!(!bench.states().user.is_set());
    assert!(matches!(
        vault.check_pin(&token(), Role::User, &pin(USER)),
        Err(Error::PinNotSet { .. })
    ));
    vault.give_pin(&token(), &pin(USER)).expect("a PIN");
    let sealed = vault.seal(named("x", Kind::Credential), &Secret::copy_of(b"x"));
    assert!(matches!(sealed, Err(Error::PinNotSet { .. })));
    let wrong = vault.set_pin(&token(), &pin("wrong"), &pin(USER));
    assert!(matches!(
        wrong,
        Err(Error::PinIncorrect {
            role: Role::SecurityOfficer,
            ..
        })
    ));
    vault
        .set_pin(&token(), &pin(OFFICER), &pin(USER))
        .expect("set");
    vault
        .check_pin(&token(), Role::User, &pin(USER))
        .expect("the PIN");
}

#[test]
fn the_recovery_kit_sets_a_pin_that_is_forgotten_locked_or_removed() {
    let bench = Bench::new();
    let (private, _) = bench.seal_both();
    let mut vault = bench.unlock();
    for _ in 0..LIMIT {
        let _ = vault.check_pin(&token(), Role::User, &pin("wrong"));
        let _ = vault.check_pin(&token(), Role::SecurityOfficer, &pin("wrong"));
    }
    assert!(bench.states().user.is_locked() && bench.states().security_officer.is_locked());
    drop(vault);
    let set = |role, text| {
        Vault::open(&bench.vault.dir())
            .and_then(|vault| {
                vault.set_pin_by_recovery(&bench.tcti(), &bench.kit(), &token(), role, &pin(text))
            })
            .expect("set");
    };
    let opens = |text: &str| {
        let mut vault = bench.unlock();
        vault.give_pin(&token(), &pin(text)).expect("a PIN");
        vault.unseal(private).map(|secret| secret.expose().to_vec())
    };
    set(Role::User, "from the kit");
    assert_eq!(opens("from the kit").expect("opens"), b"private");
    set(Role::SecurityOfficer, "officer's");
    bench
        .unlock()
        .set_pin(&token(), &pin("officer's"), &pin("by officer"))
        .expect("set");
    assert_eq!(opens("by officer").expect("opens"), b"private");
    // Removed, both of them: owner auth is empty.
    for handle in pin_handles(&bench) {
        bench.vault.tpm().tpm2(&["nvundefine", &handle]);
    }
    assert!(matches!(
        opens("by officer"),
        Err(Error::PinUnusable { .. })
    ));
    set(Role::SecurityOfficer, "officer's");
    set(Role::User, "once more");
    assert_eq!(opens("once more").expect("opens"), b"private");
    bench.is_left_clean();
}

#[test]
fn a_pin_index_that_a_stranger_defines_again_opens_nothing() {
    let bench = Bench::new();
    let (private, _) = bench.seal_both();
    let handles = pin_handles(&bench);
    let tpm = bench.vault.tpm();
    // The same public area, with the stranger's own PIN: it cannot be written.
    for handle in &handles {
        let public = tpm.tpm2(&["nvreadpublic", handle]).text();
        let policy = public
            .lines()
            .find_map(|line| line.trim().strip_prefix("authorization policy: "))
            .expect("a policy");
        let file = bench.vault.folder().join("policy");
        std::fs::write(&file, hex::decode(policy).expect("digits")).expect("written");
        tpm.tpm2(&["nvundefine", handle]);
        tpm.tpm2(&[
            "nvdefine",
            handle,
            "-s",
            "8",
            "-p",
            "stranger",
            "-L",
            file.to_str().expect("a path"),
            "-a",
            "nt=pinfail|policywrite|ownerread|authread|no_da",
        ]);
    }
    let mut vault = bench.unlock();
    vault.give_pin(&token(), &pin("stranger")).expect("a PIN");
    assert!(matches!(
        vault.unseal(private),
        Err(Error::PinUnusable { .. })
    ));
    drop(vault);
    // The same but for the policy, written.
    for handle in &handles {
        tpm.tpm2(&["nvundefine", handle]);
        tpm.tpm2(&[
            "nvdefine",
            handle,
            "-s",
            "8",
            "-p",
            "stranger",
            "-a",
            "nt=pinfail|ownerwrite|ownerread|authread|no_da",
        ]);
    }
    let mut vault = bench.unlock();
    vault.give_pin(&token(), &pin("stranger")).expect("a PIN");
    assert!(matches!(
        vault.unseal(private),
        Err(Error::PinUnusable { .. })
    ));
    // And the kit brings the owner's back.
    drop(vault);
    let vault = Vault::open(&bench.vault.dir()).expect("opens");
    vault
        .set_pin_by_recovery(
            &bench.tcti(),
            &bench.kit(),
            &token(),
            Role::User,
            &pin("back"),
        )
        .expect("set");
    let mut vault = bench.unlock();
    vault.give_pin(&token(), &pin("back")).expect("a PIN");
    assert_eq!(vault.unseal(private).expect("opens").expose(), b"private");
}

#[test]
fn the_pin_never_crosses_the_bus() {
    let bench = Bench::new();
    let (private, _) = bench.seal_both();
    let recorder = bench.vault.recorder();
    let mut vault = bench.unlock();
    vault.give_pin(&token(), &pin(USER)).expect("a PIN");
    vault.unseal(private).expect("opens");
    vault
        .change_pin(&token(), Role::User, &pin(USER), &pin("another one"))
        .expect("changed");
    vault
        .set_pin(&token(), &pin(OFFICER), &pin("a third one"))
        .expect("set");
    for text in [USER, OFFICER, "another one", "a third one", "private"] {
        assert!(!recorder.contains(text.as_bytes()), "{text}");
    }
    // Nor what it is to the TPM, docs/format.md, which is as good.
    for (role, text) in [
        (Role::User, USER),
        (Role::User, "another one"),
        (Role::User, "a third one"),
        (Role::SecurityOfficer, OFFICER),
    ] {
        let auth = auth_value(&bench, role, text);
        assert!(!recorder.contains(auth.as_bytes()), "{role}: {text}");
    }
    // An index that is made sends the PIN too.
    let fresh = NewToken {
        name: "fresh".parse().expect("a name"),
        label: None,
        officer: Some(pin(OFFICER)),
        fence: None,
    };
    vault.add_token(&fresh).expect("made");
    let auth = auth_value_in(&bench, &fresh.name, Role::SecurityOfficer, OFFICER);
    assert!(!recorder.contains(auth.as_bytes()));
}

#[test]
fn a_command_behind_the_pin_costs_one_more_and_a_login_three() {
    let bench = Bench::new();
    let (private, _) = bench.seal_both();
    let recorder = bench.vault.recorder();
    let mut vault = bench.unlock();
    vault.give_pin(&token(), &pin(USER)).expect("a PIN");
    vault.unseal(private).expect("opens");
    recorder.take();
    vault.unseal(private).expect("opens");
    let names = |commands: Vec<strongroom_tests::recorder::Command>| {
        commands
            .iter()
            .map(|command| command.name)
            .collect::<Vec<_>>()
    };
    let per_object = [
        "PolicyPCR",
        "PolicyAuthorizeNV",
        "PolicySecret",
        "Load",
        "Unseal",
        "FlushContext",
    ];
    assert_eq!(names(recorder.take()), per_object);
    drop(vault);
    let mut vault = bench.unlock();
    recorder.take();
    vault.log_in(&token(), &pin(USER)).expect("right");
    assert_eq!(
        names(recorder.take()),
        ["NV_ReadPublic", "StartAuthSession", "NV_Read"]
    );
    // Whatever the number of objects.
    vault
        .change_pin(&token(), Role::User, &pin(USER), &pin("another"))
        .expect("changed");
    let changed = names(recorder.take());
    let writes = |name: &&&str| ["NV_ChangeAuth", "NV_Write"].contains(name);
    assert_eq!(changed.iter().filter(writes).count(), 1, "{changed:?}");
}

#[test]
fn a_vault_with_pins_moves_to_another_tpm_where_they_are_set_anew() {
    let mut bench = Bench::new();
    let (private, public) = bench.seal_both();
    let before = bench.vault.replace_tpm(Swtpm::measured());
    let vault = Vault::open(&bench.vault.dir()).expect("opens");
    let recovered = vault
        .recover(&bench.tcti(), &bench.kit(), None, |_, _| ())
        .expect("recovered");
    assert!(recovered.moved);
    assert_eq!(recovered.pins_to_set, [token()]);
    assert_eq!((recovered.objects, recovered.sealed), (2, 2));
    let mut open = bench.unlock();
    assert_eq!(open.unseal(public).expect("public").expose(), b"public");
    open.give_pin(&token(), &pin(USER)).expect("a PIN");
    assert!(matches!(open.unseal(private), Err(Error::PinNotSet { .. })));
    drop(open);
    let vault = Vault::open(&bench.vault.dir()).expect("opens");
    vault
        .set_pin_by_recovery(
            &bench.tcti(),
            &bench.kit(),
            &token(),
            Role::User,
            &pin("new"),
        )
        .expect("set");
    let mut open = bench.unlock();
    open.give_pin(&token(), &pin("new")).expect("a PIN");
    assert_eq!(open.unseal(private).expect("private").expose(), b"private");
    drop(open);
    bench.is_left_clean();
    drop(before);
}

#[test]
fn a_recovery_in_place_leaves_what_is_behind_a_pin_and_says_so() {
    let bench = Bench::new();
    bench.seal_both();
    let vault = Vault::open(&bench.vault.dir()).expect("opens");
    let recovered = vault
        .recover(&bench.tcti(), &bench.kit(), None, |_, _| ())
        .expect("recovered");
    assert!(!recovered.moved && recovered.damaged.is_empty());
    assert_eq!((recovered.objects, recovered.unchecked.len()), (1, 1));
}

#[test]
fn a_token_is_begun_anew_by_its_officer_alone_and_never_one_with_dataset_keys() {
    let bench = Bench::new();
    let (private, public) = bench.seal_both();
    let mut vault = bench.unlock();
    let anew = |vault: &mut Unlocked, token: &TokenName, officer: &str| {
        vault.begin_token_anew(token, None, &pin(officer), |_| true)
    };
    assert!(matches!(
        anew(&mut vault, &token(), "wrong"),
        Err(Error::PinIncorrect { .. })
    ));
    assert!(vault.unseal(public).is_ok());
    anew(&mut vault, &token(), OFFICER).expect("anew");
    for id in [private, public] {
        assert!(matches!(vault.unseal(id), Err(Error::NoSuchObject(_))));
    }
    assert!(!bench.states().user.is_set());
    // A token without PINs takes them if it is empty.
    let keys = TokenName::keys();
    let id = vault
        .seal(
            NewObject::new(
                keys.clone(),
                "x".parse().expect("a label"),
                Kind::Credential,
            ),
            &Secret::copy_of(b"x"),
        )
        .expect("sealed");
    assert!(matches!(
        anew(&mut vault, &keys, OFFICER),
        Err(Error::Input { .. })
    ));
    assert!(vault.unseal(id).is_ok());
    vault.remove(id).expect("removed");
    anew(&mut vault, &keys, OFFICER).expect("anew");
    vault
        .set_pin(&keys, &pin(OFFICER), &pin(USER))
        .expect("set");
    let datasets = NewObject::new(
        TokenName::datasets(),
        "tank/home".parse().expect("a label"),
        Kind::DatasetKey,
    );
    let id = vault
        .seal(
            datasets.with_attribute("keyformat", "raw"),
            &Secret::random(32),
        )
        .expect("sealed");
    assert!(matches!(
        anew(&mut vault, &TokenName::datasets(), OFFICER),
        Err(Error::Input { .. })
    ));
    assert!(vault.unseal(id).is_ok());
}

#[test]
fn tokens_come_and_go_and_leave_nothing_in_the_tpm() {
    let bench = Bench::new();
    let (private, public) = bench.seal_both();
    let before = bench.vault.tpm().handles("nv-index");
    let mut vault = bench.unlock();
    let again = NewToken {
        name: token(),
        label: None,
        officer: None,
        fence: None,
    };
    assert!(matches!(vault.add_token(&again), Err(Error::Input { .. })));
    assert!(matches!(
        vault.remove_token(&token()),
        Err(Error::Input { .. })
    ));
    vault.remove(public).expect("removed");
    vault.remove(private).expect("removed");
    vault.remove_token(&token()).expect("removed");
    assert_eq!(
        bench.vault.tpm().handles("nv-index").len() + 2,
        before.len()
    );
    assert!(matches!(
        vault.remove_token(&TokenName::datasets()),
        Err(Error::Input { .. })
    ));
    drop(vault);
    let vault = Vault::open(&bench.vault.dir()).expect("opens");
    assert!(!vault.tokens().contains(&token()));
    assert!(bench.unlock().add_token(&again).is_ok());
    bench.is_left_clean();
}

#[test]
fn an_older_program_is_told_that_a_vault_with_pins_is_newer() {
    let bench = Bench::new();
    let text = std::fs::read_to_string(bench.vault.dir().join("vault.json")).expect("read");
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(manifest["format"], 2);
    let mut vault = bench.unlock();
    vault.remove_token(&token()).expect("removed");
    let text = std::fs::read_to_string(bench.vault.dir().join("vault.json")).expect("read");
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(manifest["format"], 1);
}

/// A vault with a token that has PINs.
struct Bench {
    vault: TestVault,
}

impl Bench {
    fn new() -> Self {
        let bench = Self::without_user_pin();
        bench
            .unlock()
            .set_pin(&token(), &pin(OFFICER), &pin(USER))
            .expect("set");
        bench
    }

    fn without_user_pin() -> Self {
        let bench = Self {
            vault: TestVault::new(),
        };
        bench
            .unlock()
            .add_token(&NewToken {
                name: token(),
                label: None,
                officer: Some(pin(OFFICER)),
                fence: None,
            })
            .expect("made");
        bench
    }

    fn tcti(&self) -> Tcti {
        self.vault.recorder().tcti().parse().expect("a TCTI")
    }

    fn unlock(&self) -> Unlocked {
        Vault::open(&self.vault.dir())
            .and_then(|vault| vault.unlock(&self.tcti()))
            .expect("unlocked")
    }

    fn kit(&self) -> RecoveryKit {
        RecoveryKit::read(&self.vault.recovery()).expect("the kit")
    }

    fn states(&self) -> PinStates {
        let vault = Vault::open(&self.vault.dir()).expect("opens");
        let state = |role| {
            let state = vault.pin_state(&self.tcti(), &token(), role);
            state.expect("read").expect("it has PINs")
        };
        PinStates {
            user: state(Role::User),
            security_officer: state(Role::SecurityOfficer),
        }
    }

    /// A secret behind the PIN, and one that is not.
    fn seal_both(&self) -> (ObjectId, ObjectId) {
        let mut vault = self.unlock();
        vault.give_pin(&token(), &pin(USER)).expect("a PIN");
        let mut seal = |object, secret: &[u8]| -> Result<ObjectId> {
            vault.seal(object, &Secret::copy_of(secret))
        };
        let private = seal(named("private", Kind::Credential), b"private").expect("sealed");
        let public = named("public", Kind::Credential).with_attribute(PIN, "false");
        (private, seal(public, b"public").expect("sealed"))
    }

    fn is_left_clean(&self) {
        assert!(self.vault.tpm().transient_handles().is_empty());
        assert!(self.vault.tpm().loaded_sessions().is_empty());
    }
}

/// How both PINs stand.
struct PinStates {
    user: PinState,
    security_officer: PinState,
}

fn failures(bench: &Bench, role: Role) -> u32 {
    match role {
        Role::User => bench.states().user.failures,
        Role::SecurityOfficer => bench.states().security_officer.failures,
    }
}

/// What a PIN is to the TPM, as docs/format.md has it.
fn auth_value(bench: &Bench, role: Role, text: &str) -> String {
    auth_value_in(bench, &token(), role, text)
}

fn auth_value_in(bench: &Bench, token: &TokenName, role: Role, text: &str) -> String {
    let vault = Vault::open(&bench.vault.dir()).expect("opens");
    let role = match role {
        Role::User => 0,
        Role::SecurityOfficer => 1,
    };
    let digest = Sha256::new()
        .chain_update("strongroom v1 PIN\0")
        .chain_update(vault.id())
        .chain_update([0])
        .chain_update(token.as_str())
        .chain_update([0, role])
        .chain_update(format!("{text}...."))
        .finalize();
    hex::encode(&digest[..16])
}

/// The handles of the token's two indices, as tpm2-tools take them.
fn pin_handles(bench: &Bench) -> Vec<String> {
    let text = std::fs::read_to_string(bench.vault.dir().join("vault.json")).expect("read");
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let indices = &manifest["tokens"][token().as_str()]["pins"]["indices"];
    ["user", "security-officer"]
        .iter()
        .map(|role| {
            let handle = indices[role]["handle"].as_u64().expect("a handle");
            format!("{handle:#x}")
        })
        .collect()
}

fn token() -> TokenName {
    "guarded".parse().expect("a name")
}

fn named(label: &str, kind: Kind) -> NewObject {
    NewObject::new(token(), label.parse().expect("a label"), kind)
}

fn pin(text: &str) -> Pin {
    // Short ones are longer here, so that each is one that a PIN may be.
    Pin::new(Secret::copy_of(format!("{text}....").as_bytes())).expect("a PIN")
}
