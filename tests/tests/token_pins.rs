//! `strongroom token` as an admin uses it: tokens with PINs, and what is sealed behind one.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use strongroom_tests::{Output, Run, Swtpm, TestVault};

#[test]
fn a_token_with_pins_is_made_used_and_removed() {
    let vault = with_pins();
    let listed = token(&vault, &["list", "--json"]).ok().json();
    let signing = &listed["tokens"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|it| it["token"] == "signing")
        .expect("it is there")
        .clone();
    assert_eq!(signing["label"], "Code signing");
    assert_eq!(signing["pins"], true);

    let id = seal(&vault, &[]).ok().json()["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let unseal = |args: &[&str]| vault.strongroom(&["unseal", "--id", &id]).args(args);
    assert_eq!(
        unseal(&["--pin-file", &pin(&vault, "user")]).ok().stdout,
        b"s"
    );
    unseal(&["--pin-file", &pin(&vault, "wrong")])
        .fails_with(7)
        .says("not the PIN of the user of token signing");
    // Nobody can be asked in a test.
    unseal(&[]).fails_with(2).says("--pin-file");
    // The recovery kit needs no PIN.
    assert_eq!(
        unseal(&["--recovery", vault.recovery().to_str().expect("a path")])
            .ok()
            .stdout,
        b"s"
    );
    let open = seal(&vault, &["--without-pin"]).ok().json()["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    assert_eq!(vault.unseal_id(&open), b"s");

    token(&vault, &["remove", "signing"])
        .fails_with(7)
        .says("it holds objects");
    for id in [&id, &open] {
        vault.strongroom(&["remove", "--yes", "--id", id]).ok();
    }
    token(&vault, &["remove", "signing"]).ok();
    assert_eq!(
        vault.tpm().handles("nv-index").len(),
        1,
        "the policy's alone"
    );
    token(&vault, &["remove", "datasets"]).fails_with(7);
}

#[test]
fn a_pin_is_changed_set_by_the_officer_and_by_the_kit() {
    let vault = with_pins();
    let id = seal(&vault, &[]).ok().json()["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let opens = |name: &str| {
        vault
            .strongroom(&["unseal", "--id", &id, "--pin-file", &pin(&vault, name)])
            .finish()
            .status
            .success()
    };
    let set = |args: &[&str]| token(&vault, &[&["set-pin", "signing"], args].concat());
    let (user, officer) = (pin(&vault, "user"), pin(&vault, "officer"));
    let (second, third) = (pin(&vault, "second"), pin(&vault, "third"));
    set(&["--old-pin-file", &user, "--pin-file", &second]).ok();
    assert!(opens("second") && !opens("user"));
    set(&["--old-pin-file", &user, "--pin-file", &third])
        .fails_with(7)
        .says("not the PIN");
    for _ in 0..10 {
        assert!(!opens("wrong"));
    }
    vault
        .strongroom(&["unseal", "--id", &id, "--pin-file", &second])
        .fails_with(4)
        .says("locked after too many wrong ones")
        .says("strongroom token set-pin --recovery");
    set(&["--by-so", "--old-pin-file", &officer, "--pin-file", &third]).ok();
    assert!(opens("third"));
    let kit = vault.recovery();
    let kit = kit.to_str().expect("a path");
    set(&["--recovery", kit, "--pin-file", &user]).ok();
    assert!(opens("user"));
    set(&["--recovery", kit, "--so", "--pin-file", &second]).ok();
    set(&["--by-so", "--old-pin-file", &second, "--pin-file", &third]).ok();
    assert!(opens("third"));
    token(
        &vault,
        &["set-pin", "keys", "--recovery", kit, "--pin-file", &user],
    )
    .fails_with(7)
    .says("it has no PINs");
}

#[test]
fn a_pin_is_never_on_the_command_line_and_is_long_enough() {
    let vault = TestVault::new();
    let short = vault.folder().join("short");
    fs::write(&short, "123\n").expect("written");
    let short = short.to_str().expect("a path");
    let long = pin(&vault, "officer");
    token(&vault, &["add", "x", "--with-pins", "--so-pin-file", &long])
        .args(["--pin-file", short])
        .fails_with(7)
        .says("4 to 255 bytes");
    let tokens = token(&vault, &["list", "--json"]).ok().json();
    assert_eq!(tokens["tokens"].as_array().expect("a list").len(), 3);
    token(&vault, &["add", "keys"])
        .fails_with(7)
        .says("choose another name");
    token(&vault, &["add", "x", "--pin-file", short]).fails_with(2);
}

#[test]
fn a_token_is_write_protected_as_its_owner_says() {
    let vault = TestVault::new();
    let write = |name: &str| {
        Run::new("pkcs11-tool")
            .arg("--module")
            .arg(vault.programs().pkcs11_module())
            .env("STRONGROOM_DIR", vault.dir())
            .env("STRONGROOM_TCTI", vault.recorder().tcti())
            .args(["--token-label", name, "--write-object"])
            .arg(file(&vault, "data", "x"))
            .args(["--type", "data", "--label", "written"])
            .finish()
    };
    let protected = |name: &str| write(name).says("CKR_TOKEN_WRITE_PROTECTED");
    assert!(write("keys").status.success());
    protected("credentials");
    token(&vault, &["unprotect", "credentials"]).ok();
    assert!(write("credentials").status.success());
    assert_eq!(vault.unseal("credentials", "written"), b"x");
    token(&vault, &["protect", "credentials"]).ok();
    protected("credentials");
    token(&vault, &["protect", "keys"]).ok();
    protected("keys");
    token(&vault, &["protect", "nothing"]).fails_with(6);
}

#[test]
fn a_move_says_which_pins_are_to_be_set() {
    let mut vault = with_pins();
    seal(&vault, &[]).ok();
    let before = vault.replace_tpm(Swtpm::measured());
    let kit = vault.recovery();
    let recovered = recover(&vault).ok();
    assert!(recovered.text().contains("set-pin signing"), "{recovered}");
    token(
        &vault,
        &["set-pin", "signing", "--pin-file", &pin(&vault, "second")],
    )
    .arg("--recovery")
    .arg(kit)
    .ok();
    let secret = vault
        .strongroom(&["unseal", "--token", "signing", "--label", "s"])
        .args(["--pin-file", &pin(&vault, "second")])
        .ok();
    assert_eq!(secret.stdout, b"s");
    drop(before);
}

#[test]
fn a_vault_that_lost_its_index_alone_is_put_right_in_place_with_its_keys() {
    let vault = TestVault::new();
    let sign = |what: &str| -> Output {
        Run::new("pkcs11-tool")
            .arg("--module")
            .arg(vault.programs().pkcs11_module())
            .env("STRONGROOM_DIR", vault.dir())
            .env("STRONGROOM_TCTI", vault.recorder().tcti())
            .args(["--token-label", "keys", "--label", "made"])
            .args(what.split(' '))
            .finish()
    };
    sign("--keypairgen --key-type EC:prime256v1").ok();
    let id = vault.seal("credentials", "offsite", b"x");
    let manifest: Value =
        serde_json::from_slice(&fs::read(vault.dir().join("vault.json")).expect("read"))
            .expect("JSON");
    let index = format!("{:#x}", manifest["index"].as_u64().expect("a handle"));
    vault.tpm().tpm2(&["nvundefine", "-C", "o", &index]).ok();
    vault
        .strongroom(&["unseal", "--id", &id])
        .fails_with(4)
        .says("no NV index");
    // Without --lose-keys: the key that was made in the TPM is there still.
    let recovered = recover(&vault).ok().text();
    assert!(recovered.contains("on this TPM already"), "{recovered}");
    assert_eq!(vault.unseal_id(&id), b"x");
    let digest = file(&vault, "digest", &"d".repeat(32));
    let sign_it = format!("--sign --mechanism ECDSA --input-file {digest}");
    sign(&sign_it).ok();
    // A stranger's index in its place too.
    vault.tpm().tpm2(&["nvundefine", "-C", "o", &index]).ok();
    vault
        .tpm()
        .tpm2(&["nvdefine", "-C", "o", &index, "-s", "34"])
        .ok();
    recover(&vault).ok();
    sign(&sign_it).ok();
    assert_eq!(vault.tpm().handles("nv-index").len(), 1);
}

/// A vault with the token `signing`, which has PINs.
fn with_pins() -> TestVault {
    let vault = TestVault::new();
    token(
        &vault,
        &["add", "signing", "--label", "Code signing", "--with-pins"],
    )
    .args(["--so-pin-file", &pin(&vault, "officer")])
    .args(["--pin-file", &pin(&vault, "user")])
    .ok();
    vault
}

fn token(vault: &TestVault, args: &[&str]) -> Run {
    vault.strongroom(&[&["token"], args].concat())
}

fn seal(vault: &TestVault, args: &[&str]) -> Run {
    let user = pin(vault, "user");
    let pin: &[&str] = if args.is_empty() {
        &["--pin-file", &user]
    } else {
        args
    };
    vault
        .strongroom(&["seal", "--token", "signing", "--label", "s", "--json"])
        .args(["--kind", "credential"])
        .args(pin)
        .stdin(*b"s")
}

fn recover(vault: &TestVault) -> Run {
    vault
        .strongroom(&["recover", "--yes", "--recovery"])
        .arg(vault.recovery())
}

/// A file with a PIN of this name.
fn pin(vault: &TestVault, name: &str) -> String {
    file(vault, name, &format!("the PIN {name}\n"))
}

fn file(vault: &TestVault, name: &str, content: &str) -> String {
    let file: PathBuf = vault.folder().join(name);
    fs::write(&file, content).expect("written");
    file.to_str().expect("a path").to_owned()
}
