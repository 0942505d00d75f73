//! Who may use a token: `strongroom token allow` and `deny`, and what members of the group and
//! others then can do, as the kernel has it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use strongroom_tests::someone::{copy_for_all, give, groups, mode, set_mode, skipped};
use strongroom_tests::{Run, Someone, Swtpm, TestVault};

#[test]
fn a_member_of_the_group_uses_its_token_and_no_other() {
    if !Someone::can_be() {
        return;
    }
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    let other = vault.seal("keys", "other", b"another");
    vault.recorder().let_in(groups::TPM);
    let member = Someone::nobody(&[groups::TPM, groups::TOKEN]);
    let stranger = Someone::nobody(&[groups::TPM]);

    // Before anybody is given anything, the vault is its owner's.
    strongroom(&vault, &member, &["list"])
        .fails_with(5)
        .says("Permission denied");
    allow(&vault, "credentials");

    let listed = strongroom(&vault, &member, &["list", "--json"]).ok().json();
    assert_eq!(labels(&listed), ["offsite"]);
    assert_eq!(listed["unreadable"], json!(["datasets", "keys"]));
    let table = strongroom(&vault, &member, &["list"]).ok().text();
    assert!(
        table.contains("not readable by this user: token keys"),
        "{table}"
    );
    let status = strongroom(&vault, &member, &["status", "--json"])
        .ok()
        .json();
    assert_eq!(status["boot"]["allowed"], true);
    assert_eq!(status["tokens"], json!({ "credentials": 1 }));
    assert_eq!(status["unreadable"], json!(["datasets", "keys"]));
    let opened = unseal(&vault, &member, "credentials", "offsite").ok();
    assert_eq!(opened.stdout, b"secret");

    // A token that they may not read holds nothing for them, however it is asked for.
    unseal(&vault, &member, "keys", "other")
        .fails_with(6)
        .says("datasets, keys")
        .does_not_show("another");
    strongroom(&vault, &member, &["unseal", "--id", &other])
        .fails_with(6)
        .says("datasets, keys")
        .does_not_show("another");
    // They read; they do not write, and no backup is made of the part that they see.
    let backup = vault.folder().join("backup");
    let backup = backup.to_str().expect("UTF-8");
    strongroom(&vault, &member, &["backup", backup]).fails_with(5);
    strongroom(&vault, &member, &["token", "deny", "credentials"]).fails_with(5);

    // Who has the TPM alone has the vault's key, and no object's file.
    let listed = strongroom(&vault, &stranger, &["list", "--json"])
        .ok()
        .json();
    assert_eq!(
        listed["unreadable"],
        json!(["credentials", "datasets", "keys"])
    );
    unseal(&vault, &stranger, "credentials", "offsite").fails_with(6);
    // Who has the files alone has no TPM.
    let without_tpm = Someone::nobody(&[groups::TOKEN]);
    unseal(&vault, &without_tpm, "credentials", "offsite").fails_with(4);
    // Root sees all of it, as ever.
    let listed = vault.strongroom(&["list", "--json"]).ok().json();
    assert_eq!(listed["unreadable"], json!([]));
}

#[test]
fn what_is_written_later_is_the_groups_too() {
    if !Someone::can_be() {
        return;
    }
    let mut vault = TestVault::new();
    let member = Someone::nobody(&[groups::TPM, groups::TOKEN]);
    allow(&vault, "credentials");
    vault.seal("credentials", "offsite", b"secret");
    vault.seal("keys", "other", b"another");
    let works = |vault: &TestVault, what: &str| {
        vault.recorder().let_in(groups::TPM);
        let opened = unseal(vault, &member, "credentials", "offsite").finish();
        assert_eq!(opened.stdout, b"secret", "{what}: {opened}");
        let listed = strongroom(vault, &member, &["list", "--json"]).ok().json();
        assert_eq!(listed["unreadable"], json!(["datasets", "keys"]), "{what}");
        for file in files_of(&vault.dir().join("objects/keys")) {
            assert_eq!(mode(&file), 0o600, "{what}: {}", file.display());
        }
    };
    works(&vault, "sealed");

    vault.tpm().extend(11, b"kernel 2");
    let kit = vault.recovery();
    vault
        .strongroom(&["rebind", "--yes", "--pcrs", "7,11", "--recovery"])
        .arg(&kit)
        .ok();
    works(
        &vault,
        "rebound, with vault.json and policy.json written anew",
    );

    fs::remove_file(vault.dir().join("policy.json")).expect("it was there");
    vault
        .strongroom(&["rebind", "--yes", "--recovery"])
        .arg(&kit)
        .ok();
    works(&vault, "rebound, after policy.json was lost");

    vault.replace_tpm(Swtpm::measured());
    vault
        .strongroom(&["recover", "--yes", "--recovery"])
        .arg(&kit)
        .ok();
    works(&vault, "recovered onto another TPM");

    let backup = vault.folder().join("backup");
    vault.strongroom(&["backup"]).arg(&backup).ok();
    assert_eq!(mode(&backup), 0o600);
    let file = files_of(&vault.dir().join("objects/credentials")).remove(0);
    fs::write(&file, "spoilt").expect("the test is root");
    vault
        .strongroom(&["recover", "--yes", "--recovery"])
        .arg(&kit)
        .arg("--backup")
        .arg(&backup)
        .ok();
    works(&vault, "put back from a backup");
}

#[test]
fn a_token_that_is_taken_back_is_its_owners_alone() {
    if !Someone::can_be() {
        return;
    }
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    vault.seal("keys", "other", b"another");
    let before = modes(&vault);
    for path in [vault.dir(), vault.dir().join("objects")] {
        assert_eq!(mode(&path), 0o700, "{}", path.display());
    }
    allow(&vault, "credentials");
    vault
        .strongroom(&["token", "allow", "keys", "--group", groups::OTHER_NAME])
        .ok();
    let listed = vault.strongroom(&["token", "list", "--json"]).ok().json();
    let row = |token: &str, objects, group: Option<&str>, mode: &str| {
        json!({
            "token": token,
            "label": null,
            "objects": objects,
            "group": group,
            "mode": mode,
            "pins": false,
            "write_protected": token != "keys",
            "fence": null,
        })
    };
    assert_eq!(
        listed["tokens"],
        json!([
            row("credentials", 1, Some(groups::TOKEN_NAME), "2750"),
            row("datasets", 0, None, "0700"),
            row("keys", 1, Some(groups::OTHER_NAME), "2750"),
        ])
    );
    let table = vault.strongroom(&["token", "list"]).ok().text();
    assert!(table.contains(groups::TOKEN_NAME), "{table}");

    vault.recorder().let_in(groups::TPM);
    let member = Someone::nobody(&[groups::TPM, groups::TOKEN]);
    unseal(&vault, &member, "credentials", "offsite").ok();
    vault.strongroom(&["token", "deny", "credentials"]).ok();
    unseal(&vault, &member, "credentials", "offsite").fails_with(6);
    // The other group keeps its token, and what its members need.
    let others = Someone::nobody(&[groups::TPM, groups::OTHER]);
    assert_eq!(
        unseal(&vault, &others, "keys", "other").ok().stdout,
        b"another"
    );
    // To give a token to a group is to take it from the one before.
    vault
        .strongroom(&["token", "allow", "keys", "--group", groups::TOKEN_NAME])
        .ok();
    unseal(&vault, &others, "keys", "other").fails_with(6);
    unseal(&vault, &member, "keys", "other").ok();

    vault.strongroom(&["token", "deny", "keys"]).ok();
    assert_eq!(modes(&vault), before);
    strongroom(&vault, &member, &["list"]).fails_with(5);
    // A second time changes nothing.
    vault.strongroom(&["token", "deny", "keys"]).ok();
    assert_eq!(modes(&vault), before);
}

#[test]
fn a_token_is_given_without_a_tpm_and_a_wrong_name_changes_nothing() {
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    let before = modes(&vault);
    let token = |args: &[&str]| {
        vault
            .strongroom(&["token"])
            .args(args)
            .env("STRONGROOM_TCTI", "swtpm:path=/nonexistent")
    };
    token(&["allow", "nowhere", "--group", groups::TOKEN_NAME])
        .fails_with(6)
        .says("no token nowhere");
    token(&["allow", "keys", "--group", "no-such-group"])
        .fails_with(7)
        .says("no such group");
    token(&["allow", "keys"]).fails_with(2);
    token(&["deny", "nowhere"]).fails_with(6);
    assert_eq!(modes(&vault), before);
    token(&["list"]).ok();
    token(&["deny", "keys"]).ok();
    if Someone::can_be() {
        token(&["allow", "keys", "--group", groups::TOKEN_NAME]).ok();
        assert_eq!(mode(&vault.dir().join("objects/keys")), 0o2750);
    }
}

#[test]
fn a_file_is_never_wider_than_what_it_replaces_or_than_its_folder_was_made() {
    let vault = TestVault::new();
    // Open by hand, as some admin has it, and not given to a group.
    set_mode(&vault.dir(), 0o755);
    set_mode(&vault.dir().join("objects/credentials"), 0o755);
    vault.seal("credentials", "offsite", b"secret");
    for file in files_of(&vault.dir().join("objects/credentials")) {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    vault
        .strongroom(&["rebind", "--yes", "--pcrs", "7,11"])
        .ok();
    for name in ["vault.json", "policy.json"] {
        assert_eq!(mode(&vault.dir().join(name)), 0o600, "{name}");
    }
    // Writable for others it does not stay, whoever made it so.
    set_mode(&vault.dir().join("policy.json"), 0o666);
    vault.strongroom(&["rebind", "--yes"]).ok();
    assert_eq!(mode(&vault.dir().join("policy.json")), 0o644);
}

#[test]
fn a_host_of_the_module_has_a_slot_for_each_token_that_it_may_read() {
    if !Someone::can_be() {
        return;
    }
    let vault = TestVault::new();
    let owner = vault
        .run("pkcs11-tool")
        .arg("--module")
        .arg(vault.programs().pkcs11_module());
    owner
        .args(["--token-label", "keys", "--keypairgen", "--key-type"])
        .args(["EC:prime256v1", "--label", "web", "--id", "01"])
        .ok();
    vault.seal("credentials", "offsite", b"secret");
    vault.recorder().let_in(groups::TPM);
    allow(&vault, "keys");
    let member = Someone::nobody(&[groups::TPM, groups::TOKEN]);

    let slots = pkcs11_tool(&vault, &member, &["--list-slots"]).ok().text();
    assert_eq!(slots_of(&slots), ["keys"], "{slots}");
    assert!(slots.contains("readonly"), "{slots}");
    let as_root = vault
        .run("pkcs11-tool")
        .arg("--module")
        .arg(vault.programs().pkcs11_module())
        .arg("--list-slots")
        .ok()
        .text();
    assert_eq!(slots_of(&as_root), ["credentials", "datasets", "keys"]);

    // Keys are used; nothing is made or destroyed.
    let signed = pkcs11_tool(
        &vault,
        &member,
        &["--token-label", "keys", "--sign", "--mechanism"],
    );
    signed
        .args(["ECDSA-SHA256", "--id", "01"])
        .stdin("what is signed")
        .ok();
    let made = pkcs11_tool(
        &vault,
        &member,
        &["--token-label", "keys", "--keypairgen", "--key-type"],
    )
    .args(["EC:prime256v1", "--label", "mine"])
    .finish();
    assert_ne!(made.code(), Some(0), "{made}");
    made.says("CKR_TOKEN_WRITE_PROTECTED");
    let removed = pkcs11_tool(
        &vault,
        &member,
        &["--token-label", "keys", "--delete-object", "--type"],
    )
    .args(["privkey", "--id", "01"])
    .finish();
    assert_ne!(removed.code(), Some(0), "{removed}");
    let listed = strongroom(&vault, &member, &["list", "--json"]).ok().json();
    assert_eq!(labels(&listed), ["web"]);

    // Of several tokens, those that are left keep their order.
    vault
        .strongroom(&[
            "token",
            "allow",
            "credentials",
            "--group",
            groups::TOKEN_NAME,
        ])
        .ok();
    let slots = pkcs11_tool(&vault, &member, &["--list-slots"]).ok().text();
    assert_eq!(slots_of(&slots), ["credentials", "keys"], "{slots}");
    let stranger = Someone::nobody(&[groups::TPM]);
    let none = pkcs11_tool(&vault, &stranger, &["--list-slots"])
        .finish()
        .text();
    assert_eq!(slots_of(&none), Vec::<String>::new(), "{none}");
    assert!(vault.tpm().transient_handles().is_empty());
    assert!(vault.tpm().loaded_sessions().is_empty());
}

#[test]
fn a_group_that_may_write_a_folder_by_hand_still_does_not_write_the_vault() {
    if !Someone::can_be() {
        return;
    }
    let vault = TestVault::new();
    vault.recorder().let_in(groups::TPM);
    allow(&vault, "credentials");
    give(
        &vault.dir().join("objects/credentials"),
        groups::TOKEN,
        0o2770,
    );
    let member = Someone::nobody(&[groups::TPM, groups::TOKEN]);
    strongroom(&vault, &member, &["seal", "--token", "credentials"])
        .args(["--label", "mine", "--kind", "credential"])
        .stdin("secret")
        .fails_with(5)
        .says(".lock");
}

#[test]
fn a_vault_that_is_mounted_read_only_is_write_protected_for_root_too() {
    if !Someone::can_be() {
        return;
    }
    let vault = TestVault::new();
    let mount = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
    let listed = vault
        .run("unshare")
        .args(["--mount", "sh", "-c", mount])
        .arg(vault.dir())
        .args(["pkcs11-tool", "--list-slots", "--module"])
        .arg(vault.programs().pkcs11_module())
        .finish();
    if listed.stderr.contains("unshare failed") {
        skipped("this root may not mount");
        return;
    }
    let slots = listed.ok().text();
    assert_eq!(slots.matches("readonly").count(), 3, "{slots}");
    let writable = vault
        .run("pkcs11-tool")
        .args(["--list-slots", "--module"])
        .arg(vault.programs().pkcs11_module())
        .ok()
        .text();
    assert_eq!(writable.matches("readonly").count(), 2, "{writable}");
}

#[test]
fn whoever_does_not_see_all_of_the_vault_makes_no_backup_of_it() {
    if !Someone::can_be() {
        return;
    }
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"secret");
    vault.seal("keys", "other", b"another");
    vault.recorder().let_in(groups::TPM);
    // A vault of another owner than root, who has lost a token's folder to root.
    let owner = Someone::new(64_100, &[groups::TPM]);
    Run::new("chown")
        .args(["-R", "64100"])
        .arg(vault.dir())
        .ok();
    set_mode(vault.folder(), 0o777);
    let backup = vault.folder().join("backup");
    let attempt = || {
        let run = vault.run_as(&owner, &vault.programs().strongroom());
        set_mode(vault.folder(), 0o777);
        run.arg("backup").arg(&backup)
    };
    attempt().ok();
    fs::remove_file(&backup).expect("it was written");
    Run::new("chown")
        .arg("0")
        .arg(vault.dir().join("objects/keys"))
        .ok();
    attempt().fails_with(5).says("objects/keys");
    assert!(!backup.exists());
    strongroom(&vault, &owner, &["seal", "--token", "credentials"])
        .args(["--label", "mine", "--kind", "credential"])
        .stdin("secret")
        .fails_with(5)
        .says("objects/keys");
    unseal(&vault, &owner, "credentials", "offsite").ok();
}

#[test]
fn a_vault_behind_a_link_is_given_where_it_lies() {
    if !Someone::can_be() {
        return;
    }
    let vault = TestVault::new();
    let link = vault.folder().join("link");
    std::os::unix::fs::symlink(vault.dir(), &link).expect("the folder can be written");
    vault
        .strongroom(&["token", "allow", "keys", "--group", groups::TOKEN_NAME])
        .env("STRONGROOM_DIR", &link)
        .ok();
    assert_eq!(mode(&vault.dir()), 0o711);
    vault
        .strongroom(&["token", "deny", "keys"])
        .env("STRONGROOM_DIR", &link)
        .ok();
    assert_eq!(mode(&vault.dir()), 0o700);
}

fn allow(vault: &TestVault, token: &str) {
    vault
        .strongroom(&["token", "allow", token, "--group", groups::TOKEN_NAME])
        .ok();
}

fn strongroom(vault: &TestVault, someone: &Someone, args: &[&str]) -> Run {
    vault
        .run_as(someone, &vault.programs().strongroom())
        .args(args)
}

fn unseal(vault: &TestVault, someone: &Someone, token: &str, label: &str) -> Run {
    let args = ["unseal", "--token", token, "--label", label];
    strongroom(vault, someone, &args)
}

fn pkcs11_tool(vault: &TestVault, someone: &Someone, args: &[&str]) -> Run {
    let module = copy_for_all(&vault.programs().pkcs11_module(), vault.folder());
    let prefix = someone.prefix();
    set_mode(vault.folder(), 0o711);
    vault
        .run(&prefix[0])
        .args(&prefix[1..])
        .args(["pkcs11-tool", "--module"])
        .arg(module)
        .args(args)
}

/// The labels of the tokens in what `pkcs11-tool --list-slots` prints.
fn slots_of(printed: &str) -> Vec<String> {
    printed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("token label"))
        .map(|rest| rest.trim_start_matches([' ', ':']).to_owned())
        .collect()
}

fn labels(listed: &Value) -> Vec<&str> {
    let objects = listed["objects"].as_array().expect("an array");
    objects
        .iter()
        .filter_map(|object| object["label"].as_str())
        .collect()
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the test may read it");
    entries
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

/// Mode and group of everything in the vault.
fn modes(vault: &TestVault) -> Vec<(PathBuf, u32, u32)> {
    let mut found = vec![vault.dir()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        if path.is_dir() {
            found.extend(files_of(&path));
        }
        next += 1;
    }
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let gid = fs::metadata(&path).expect("it is there").gid();
            (path.clone(), mode(&path), gid)
        })
        .collect()
}
