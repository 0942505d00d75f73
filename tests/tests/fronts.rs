//! The ways out of the vault, each with the program that it is made for: ZFS's forms of keys,
//! OpenSC's pkcs11-tool, rclone.

use serde_json::json;
use strongroom_tests::{Run, TestVault, WebDav};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

#[test]
fn a_dataset_key_comes_in_the_form_that_zfs_reads() {
    let vault = TestVault::new();
    seal_dataset_key(&vault, "tank/hex", "hex", KEY.as_bytes());
    let raw = hex::decode(KEY).expect("hexadecimal");
    seal_dataset_key(&vault, "tank/raw", "raw", &raw);
    seal_dataset_key(&vault, "tank/words", "passphrase", b"correct horse\n");

    // No newline: a raw key would be too long with one, and the others need none.
    assert_eq!(get(&vault, &["tank/hex"]).ok().stdout, KEY.as_bytes());
    assert_eq!(get(&vault, &["tank/raw"]).ok().stdout, raw);
    assert_eq!(get(&vault, &["tank/words"]).ok().stdout, b"correct horse");
    assert_eq!(
        get(&vault, &["tank/hex", "--format", "raw"]).ok().stdout,
        raw
    );
    assert_eq!(
        get(&vault, &["tank/raw", "--format", "hex"]).ok().stdout,
        KEY.to_lowercase().as_bytes()
    );
    get(&vault, &["tank/words", "--format", "raw"]).fails_with(7);
    get(&vault, &["tank/none"])
        .fails_with(6)
        .says("tank%2Fnone");
}

#[test]
fn the_newest_key_of_a_dataset_is_given_and_an_older_one_by_its_id() {
    let vault = TestVault::new();
    let id = seal_dataset_key(&vault, "tank", "hex", KEY.as_bytes());
    let newer = KEY.replace('0', "1");
    seal_dataset_key(&vault, "tank", "hex", newer.as_bytes());
    assert_eq!(get(&vault, &["tank"]).ok().stdout, newer.as_bytes());
    let given = get(&vault, &["tank", "--id", &id]).ok().stdout;
    assert_eq!(given, KEY.as_bytes());
}

#[test]
fn pkcs11_tool_lists_objects_and_reads_a_credential() {
    let vault = TestVault::new();
    vault.seal("credentials", "offsite", b"the secret");
    seal_dataset_key(&vault, "tank/home", "hex", KEY.as_bytes());

    let slots = pkcs11_tool(&vault, &["--list-slots"]).ok().text();
    for token in ["datasets", "credentials", "keys"] {
        assert!(slots.contains(token), "{slots}");
    }
    vault.recorder().take();
    let listed = pkcs11_tool(&vault, &["--token-label", "credentials", "-O"]).ok();
    assert!(listed.text().contains("'offsite'"));
    let listed = pkcs11_tool(&vault, &["--token-label", "datasets", "-O"]).ok();
    assert!(listed.text().contains("tank/home"), "{}", listed.text());
    // A list of keys is not a print of keys, and needs no TPM.
    listed.does_not_show(KEY).does_not_show(&KEY.to_lowercase());
    assert_eq!(vault.recorder().take().len(), 0);

    let read = read_credential(&vault, "offsite").ok();
    assert_eq!(read.stdout, b"the secret");
}

#[test]
fn a_refused_boot_is_named_by_every_way_out() {
    let vault = TestVault::new();
    let id = vault.seal("credentials", "offsite", br#"{"pass": "x"}"#);
    seal_dataset_key(&vault, "tank", "hex", KEY.as_bytes());
    vault.tpm().extend(9, b"another initrd");

    let refused = get(&vault, &["tank"]).fails_with(3);
    refused.says("PCR 9").does_not_show(KEY);
    let config = rclone_config(&vault, "http://127.0.0.1:9", &id);
    rclone(&vault, &config, &["lsf", "remote:"])
        .fails_with(123)
        .says("PCR 9");
    let tool = read_credential(&vault, "offsite").finish();
    assert_ne!(tool.code(), Some(0));
    tool.says("PCR 9");
}

#[test]
fn rclone_copies_with_a_password_out_of_the_vault() {
    let vault = TestVault::new();
    let password = "p{ss wörd \"quoted\" \\ 密";
    let credential = json!({ "pass": password }).to_string();
    let id = vault.seal("credentials", "nextcloud", credential.as_bytes());
    let server = WebDav::start("nas", password);
    let config = rclone_config(&vault, &server.url(), &id);
    let before = std::fs::read(&config).expect("the configuration");
    let files = vault.folder().join("files");
    std::fs::create_dir(&files).expect("a folder");
    std::fs::write(files.join("note"), "worth keeping").expect("a file");

    let source = files.to_str().expect("UTF-8").to_owned();
    rclone(&vault, &config, &["copy", &source, "remote:"])
        .ok()
        .does_not_show(password);
    let copied = std::fs::read(server.root().join("note")).expect("it was copied");
    assert_eq!(copied, b"worth keeping");
    let after = std::fs::read(&config).expect("the configuration");
    assert_eq!(before, after, "the configuration keeps its placeholder");
}

#[test]
fn rclones_own_exit_code_is_passed_on_and_ours_are_above_120() {
    let vault = TestVault::new();
    let config = vault.folder().join("empty.conf");
    std::fs::write(&config, "").expect("written");
    // rclone 1.60: directory not found.
    rclone(&vault, &config, &["lsf", "/nowhere/at/all"]).fails_with(3);

    let unknown = "00000000-0000-4000-8000-000000000000";
    let config = rclone_config(&vault, "http://127.0.0.1:9", unknown);
    rclone(&vault, &config, &["lsf", "remote:"])
        .fails_with(126)
        .says(unknown);
    let id = vault.seal("credentials", "no-pass", br#"{"token": "x"}"#);
    let config = rclone_config(&vault, "http://127.0.0.1:9", &id);
    rclone(&vault, &config, &["lsf", "remote:"])
        .fails_with(126)
        .says("pass");
    let id = vault.seal("credentials", "no-json", b"hunter2");
    let config = rclone_config(&vault, "http://127.0.0.1:9", &id);
    rclone(&vault, &config, &["lsf", "remote:"])
        .fails_with(127)
        .does_not_show("hunter2");
}

fn seal_dataset_key(vault: &TestVault, label: &str, format: &str, key: &[u8]) -> String {
    let sealed = vault
        .strongroom(&["seal", "--token", "datasets", "--label", label, "--json"])
        .args(["--kind", "dataset-key", "--keyformat", format])
        .stdin(key)
        .ok();
    sealed.json()["id"].as_str().expect("an id").to_owned()
}

fn get(vault: &TestVault, arguments: &[&str]) -> Run {
    vault
        .run(vault.programs().zfs_keyprovider())
        .arg("get")
        .args(arguments)
}

fn pkcs11_tool(vault: &TestVault, arguments: &[&str]) -> Run {
    vault
        .run("pkcs11-tool")
        .arg("--module")
        .arg(vault.programs().pkcs11_module())
        .args(arguments)
}

fn read_credential(vault: &TestVault, label: &str) -> Run {
    pkcs11_tool(vault, &["--token-label", "credentials", "--read-object"])
        .args(["--type", "data", "--label", label])
}

fn rclone_config(vault: &TestVault, url: &str, id: &str) -> std::path::PathBuf {
    let file = vault.folder().join("rclone.conf");
    let text = format!(
        "[remote]\ntype = webdav\nurl = {url}\nvendor = other\nuser = nas\npass = strongroom:v1:{id}\n"
    );
    std::fs::write(&file, text).expect("written");
    file
}

fn rclone(vault: &TestVault, config: &std::path::Path, arguments: &[&str]) -> Run {
    vault
        .run(vault.programs().credential_provider())
        .args(["rclone", "--", "--retries", "1", "--low-level-retries", "1"])
        .arg("--config")
        .arg(config)
        .args(arguments)
}
