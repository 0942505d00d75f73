//! rclone and restic that really copy, started as the middleware starts them, with secrets out of the
//! vault: to S3, WebDAV, SFTP and a folder, each server refusing who has not the secret.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use strongroom_tests::launcher::obscure;
use strongroom_tests::ssh::user_name;
use strongroom_tests::{Agent, KeyType, Launcher, Run, S3, Sshd, TestVault, Token, WebDav};

const NOTE: &str = "worth keeping";

#[test]
fn rclone_copies_to_s3_and_another_secret_is_refused() {
    let vault = TestVault::new();
    let launcher = Launcher::new(&vault);
    let server = S3::start();
    let source = files(&launcher);
    let config = |id: &str| {
        launcher.write(
            "rclone.conf",
            format!(
                "[remote]\ntype = s3\nprovider = Other\nendpoint = {}\nregion = us-east-1\n\
                 access_key_id = {}\nsecret_access_key = strongroom:v1:{id}\n",
                server.url(),
                server.access_key(),
            ),
        )
    };
    let seal = |secret: &str| {
        let secrets = json!({ "secret_access_key": secret }).to_string();
        vault.seal("credentials", "s3", secrets.as_bytes())
    };
    let right = config(&seal(server.secret_key()));
    let before = fs::read(&right).expect("the configuration");
    rclone(&launcher, &right)
        .arg("sync")
        .arg(&source)
        .arg("remote:bucket/x")
        .ok();
    let read = rclone(&launcher, &right)
        .args(["cat", "remote:bucket/x/note"])
        .ok();
    assert_eq!(read.text(), NOTE);
    assert_eq!(fs::read(&right).expect("the configuration"), before);

    let wrong = config(&seal("another"));
    let run = rclone(&launcher, &wrong)
        .args(["lsf", "remote:bucket"])
        .finish();
    assert_ne!(run.code(), Some(0), "{run}");
    run.says("SignatureDoesNotMatch");
}

#[test]
fn rclone_copies_to_webdav_what_it_encrypts() {
    let vault = TestVault::new();
    let launcher = Launcher::new(&vault);
    let password = "p{ss wörd \"quoted\" \\ 密";
    let server = WebDav::start("nas", password);
    let source = files(&launcher);
    let seal = |label: &str, secrets: serde_json::Value| {
        let id = vault.seal("credentials", label, secrets.to_string().as_bytes());
        obscure(&format!("strongroom:v1:{id}"))
    };
    let config = launcher.write(
        "rclone.conf",
        format!(
            "[remote]\ntype = webdav\nurl = {}\nvendor = other\nuser = nas\npass = {}\n\
             [encrypted]\ntype = crypt\nremote = remote:\nfilename_encryption = standard\n\
             password = {}\npassword2 = {}\n",
            server.url(),
            seal("dav", json!({ "pass": password })),
            seal("password", json!({ "password": "crypt word" })),
            seal("salt", json!({ "password2": "salt" })),
        ),
    );
    rclone(&launcher, &config)
        .arg("copy")
        .arg(&source)
        .arg("encrypted:")
        .ok();
    let there = rclone(&launcher, &config)
        .args(["lsf", "-R", "encrypted:"])
        .ok();
    assert_eq!(there.text(), "folder/\nnote\nfolder/large\n");
    let clear = strongroom_tests::vault_files::snapshot(&server.root());
    assert_eq!(clear.len(), 2);
    for (file, bytes) in clear {
        assert!(bytes.starts_with(b"RCLONE\0\0"), "{}", file.display());
    }
    // Whoever knows the passwords reads it without us.
    let mine = launcher.write(
        "mine.conf",
        format!(
            "[e]\ntype = crypt\nremote = {}\npassword = {}\npassword2 = {}\n",
            server.root().display(),
            obscure("crypt word"),
            obscure("salt")
        ),
    );
    let read = Run::new("rclone")
        .arg("--config")
        .arg(mine)
        .args(["cat", "e:note"])
        .ok();
    assert_eq!(read.text(), NOTE);
}

/// The middleware writes the key of a key pair into a file of its own, or what the keychain has in its
/// place.
#[test]
fn rclone_copies_over_sftp_with_a_key_of_the_keychain() {
    let vault = TestVault::new();
    let launcher = Launcher::new(&vault);
    let source = files(&launcher);
    for kind in ["ed25519", "rsa"] {
        let (private, public) = key_pair(&launcher, kind);
        let sshd = Sshd::start(&public);
        let secrets = json!({ "private_key": private }).to_string();
        let id = vault.seal("credentials", kind, secrets.as_bytes());
        let placeholder = format!("strongroom:v1:{id}");
        let key_file = launcher.write("tmpkey", &placeholder);
        let target = launcher.file(&format!("target-{kind}"));
        let text = format!("{}key_file = {}\n", sftp(&sshd), key_file.display());
        let config = launcher.write("rclone.conf", &text);
        let remote = format!("remote:{}", target.display());
        let copied = rclone(&launcher, &config)
            .arg("sync")
            .arg(&source)
            .arg(&remote)
            .finish();
        assert_eq!(copied.code(), Some(0), "{copied}\n{}", sshd.log());
        let copied = fs::read_to_string(target.join("note")).expect("it was copied");
        assert_eq!(copied, NOTE);
        assert_eq!(launcher.read("rclone.conf"), text);
        assert_eq!(launcher.read("tmpkey"), placeholder);
    }
}

/// A key that is in the TPM alone: rclone asks an agent, which has our module.
#[test]
fn rclone_copies_over_sftp_with_a_key_that_never_leaves_the_tpm() {
    let token = Token::new();
    let Some(vault) = token.vault() else {
        return;
    };
    let launcher = Launcher::new(vault);
    let source = files(&launcher);
    token.generate(KeyType::P256, "nas");
    let agent = Agent::start(&token);
    agent.add_token();
    let public = agent.run("ssh-add").arg("-L").ok().text();
    let sshd = Sshd::start(&public);
    let target = launcher.file("target");
    let config = launcher.write(
        "rclone.conf",
        format!("{}key_use_agent = true\n", sftp(&sshd)),
    );
    let run = launcher
        .environment()
        .into_iter()
        .fold(run_of(&agent, &launcher), |run, (name, value)| {
            run.env(name, value)
        });
    let copied = run
        .arg("--config")
        .arg(&config)
        .args(["--retries", "1", "sync"])
        .arg(&source)
        .arg(format!("remote:{}", target.display()))
        .finish();
    assert_eq!(copied.code(), Some(0), "{copied}\n{}", sshd.log());
    let copied = fs::read_to_string(target.join("note")).expect("it was copied");
    assert_eq!(copied, NOTE);
}

fn run_of(agent: &Agent<'_>, launcher: &Launcher<'_>) -> Run {
    let program = launcher.file("ahead/rclone");
    agent.run(program.to_str().expect("a plain path"))
}

#[test]
fn restic_backs_up_to_s3_and_to_a_folder_and_gives_back() {
    let vault = TestVault::new();
    let launcher = Launcher::new(&vault);
    let server = S3::start();
    let source = files(&launcher);
    let seal = |label: &str, secrets: serde_json::Value| {
        let id = vault.seal("credentials", label, secrets.to_string().as_bytes());
        format!("strongroom:v1:{id}")
    };
    let password = "restic {wörd}";
    let task = seal("task", json!({ "password": password }));
    let s3 = seal("s3", json!({ "secret_access_key": server.secret_key() }));
    let local = launcher.file("repository");
    let settings = launcher.write(
        "settings",
        format!(
            "STRONGROOM_DIR={}\nSTRONGROOM_TCTI={}\n",
            vault.dir().display(),
            vault.recorder().tcti()
        ),
    );
    for repository in [
        local.display().to_string(),
        format!("s3:{}/bucket/backup", server.url()),
    ] {
        // The middleware's environment for restic: no PATH, and nothing that is ours.
        let restic = |arguments: &[&str]| {
            Run::new("env")
                .arg("-i")
                .arg(format!("STRONGROOM_SETTINGS={}", settings.display()))
                .arg(format!("AWS_ACCESS_KEY_ID={}", server.access_key()))
                .arg(format!("AWS_SECRET_ACCESS_KEY={s3}"))
                .arg(format!("RESTIC_PASSWORD={task}"))
                .arg(launcher.file("ahead/restic"))
                .args(["--no-cache", "--json", "-r", &repository])
                .args(arguments)
        };
        restic(&["init"]).ok().does_not_show(password);
        restic(&["backup", &source.display().to_string()]).ok();
        let target = launcher.file("restored");
        restic(&[
            "restore",
            "latest",
            "--target",
            &target.display().to_string(),
        ])
        .ok();
        let restored = target.join(source.strip_prefix("/").expect("a whole path"));
        let restored = fs::read_to_string(restored.join("note")).expect("it was restored");
        assert_eq!(restored, NOTE);
        fs::remove_dir_all(&target).expect("it was restored");
    }
    // It is really the password of the vault.
    let check = |password: &str| {
        Run::new("restic")
            .args(["--no-cache", "-r"])
            .arg(&local)
            .arg("snapshots")
            .env("RESTIC_PASSWORD", password)
    };
    check(password).ok();
    check(&task).fails_with(1);
}

/// rclone, as the middleware starts it.
fn rclone(launcher: &Launcher<'_>, config: &Path) -> Run {
    launcher.run("rclone").arg("--config").arg(config).args([
        "-v",
        "--stats",
        "1s",
        "--retries",
        "1",
        "--low-level-retries",
        "1",
    ])
}

fn files(launcher: &Launcher<'_>) -> PathBuf {
    let folder = launcher.file("files");
    fs::create_dir_all(folder.join("folder")).expect("the folder can be written");
    fs::write(folder.join("note"), NOTE).expect("the folder can be written");
    let large: Vec<u8> = (0..=250).cycle().take(3 << 20).collect();
    fs::write(folder.join("folder/large"), large).expect("the folder can be written");
    folder
}

fn key_pair(launcher: &Launcher<'_>, kind: &str) -> (String, String) {
    let file = launcher.file(&format!("key-{kind}"));
    Run::new("ssh-keygen")
        .args(["-q", "-N", "", "-t", kind, "-f"])
        .arg(&file)
        .ok();
    let pair = (
        launcher.read(&format!("key-{kind}")),
        launcher.read(&format!("key-{kind}.pub")),
    );
    fs::remove_file(&file).expect("it is ours");
    pair
}

/// The section of an sftp remote, without its key.
fn sftp(sshd: &Sshd) -> String {
    format!(
        "[remote]\ntype = sftp\nhost = 127.0.0.1\nport = {}\nuser = {}\nknown_hosts_file = {}\n\
         shell_type = none\n",
        sshd.port(),
        user_name(),
        sshd.known_hosts().display(),
    )
}
