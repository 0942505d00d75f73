//! `credential-provider` as rclone and restic: what they are given for each provider, and what becomes
//! of everything else about them: streams, signals, exit codes, bad input.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use strongroom_tests::conversation::converse;
use strongroom_tests::executable;
use strongroom_tests::launcher::{keepers, obscure, recorded_environment, reveal, wait_until};
use strongroom_tests::someone::set_mode;
use strongroom_tests::{Launcher, Run, TestVault};

const PASSWORD: &str = "p{ss wörd \"quoted\" 密 = ; #";

/// A provider's section as the middleware writes it, and the secret fields of its credential.
struct Provider {
    name: &'static str,
    /// What is no secret.
    plain: &'static [&'static str],
    secrets: Value,
}

/// Those of the middleware's `rclone/remote`, with the fields of facts 4 of the design's.
fn providers() -> Vec<Provider> {
    let token = |provider: &str| {
        json!({ "access_token": format!("{provider} at"), "token_type": "Bearer",
            "refresh_token": format!("{provider} rt"), "expiry": "2026-01-01T00:00:00.5+01:00" })
        .to_string()
    };
    let oauth = |name: &'static str, plain| Provider {
        name,
        plain,
        secrets: json!({ "client_secret": format!("{name} cs"), "token": token(name) }),
    };
    let of = |name, plain, secrets| Provider {
        name,
        plain,
        secrets,
    };
    vec![
        of(
            "s3",
            &["access_key_id = AKIA", "endpoint = http://127.0.0.1:9"],
            json!({ "secret_access_key": "s3/+secret=" }),
        ),
        of("b2", &["account = 000b2"], json!({ "key": "K000b2secret" })),
        of(
            "azureblob",
            &["account = nas"],
            json!({ "key": "YXp1cmU=" }),
        ),
        of(
            "google cloud storage",
            &["bucket_policy_only = true"],
            json!({ "service_account_credentials":
                "{\"type\": \"service_account\", \"private_key\": \"-----BEGIN\\nx\\n\"}" }),
        ),
        // Storj's, by its gateway.
        of(
            "s3",
            &[
                "access_key_id = storj",
                "endpoint = https://gateway.storjshare.io",
            ],
            json!({ "secret_access_key": "storj secret" }),
        ),
        oauth("drive", &["client_id = c", "team_drive = "]),
        oauth("google photos", &["client_id = c"]),
        oauth("dropbox", &["client_id = c"]),
        oauth("pcloud", &["client_id = c", "hostname = api.pcloud.com"]),
        oauth("box", &["client_id = c"]),
        oauth(
            "onedrive",
            &["client_id = c", "drive_type = personal", "drive_id = 1"],
        ),
        oauth("yandex", &["client_id = c"]),
        of(
            "webdav",
            &["url = http://127.0.0.1:9", "user = nas"],
            json!({ "pass": PASSWORD }),
        ),
        of(
            "ftp",
            &["host = 127.0.0.1", "user = nas"],
            json!({ "pass": PASSWORD }),
        ),
        of(
            "sftp",
            &["host = 127.0.0.1", "user = nas"],
            json!({ "pass": PASSWORD }),
        ),
        of(
            "mega",
            &["user = nas@example.org"],
            json!({ "pass": PASSWORD }),
        ),
        of(
            "swift",
            &["user = nas", "auth = https://a"],
            json!({ "key": "k", "auth_token": "at", "application_credential_secret": "acs" }),
        ),
    ]
}

fn is_password(key: &str) -> bool {
    ["pass", "password", "password2"].contains(&key)
}

#[test]
fn each_provider_is_given_its_secrets_and_its_configuration_stays() {
    let vault = TestVault::new();
    let launcher = Launcher::new(&vault);
    launcher.stand_in("rclone", "record");
    let seal = |label: &str, secrets: &Value| {
        vault.seal("credentials", label, secrets.to_string().as_bytes())
    };
    let crypt = seal("task/password", &json!({ "password": "crypt word" }));
    let salt = seal("task/salt", &json!({ "password2": "crypt salt" }));
    for provider in providers() {
        let id = seal(provider.name, &provider.secrets);
        let mut lines = vec![format!("[remote]\ntype = {}", provider.name)];
        lines.extend(provider.plain.iter().map(|line| (*line).to_owned()));
        let secrets = provider.secrets.as_object().expect("an object");
        for key in secrets.keys() {
            let placeholder = format!("strongroom:v1:{id}");
            let written = if is_password(key) {
                obscure(&placeholder)
            } else {
                placeholder
            };
            lines.push(format!("{key} = {written}"));
        }
        lines.push(format!(
            "[encrypted]\ntype = crypt\nremote = remote:bucket\npassword = {}\npassword2 = {}\n",
            obscure(&format!("strongroom:v1:{crypt}")),
            obscure(&format!("strongroom:v1:{salt}")),
        ));
        let config = lines.join("\n");
        let file = launcher.write("middleware.conf", &config);
        vault.recorder().take();
        let run = launcher.run("rclone").arg("--config").arg(&file);
        run.args(["-v", "--stats", "1s", "sync", "/mnt/tank", "encrypted:x"])
            .ok();

        // Whatever the number of placeholders.
        for object in [&id, &crypt, &salt] {
            assert_eq!(unseals(&vault, object), 1, "{}: {object}", provider.name);
        }
        let given = recorded_environment(&launcher);
        let variable = |section: &str, key: &str| {
            let name = format!("RCLONE_CONFIG_{section}_{}", key.to_uppercase());
            let value = given.get(&name);
            let value = value.unwrap_or_else(|| panic!("{name}: {given:?}")).clone();
            if is_password(key) {
                reveal(&value)
            } else {
                value
            }
        };
        // Its place is where rclone writes another one.
        let mut seen = config.clone();
        for (key, value) in secrets {
            let value = value.as_str().expect("a text");
            if key == "token" {
                let placeholder = format!("token = strongroom:v1:{id}");
                seen = seen.replace(&placeholder, &format!("token = {value}"));
                assert!(!given.contains_key("RCLONE_CONFIG_REMOTE_TOKEN"));
            } else {
                assert_eq!(variable("REMOTE", key), value);
            }
        }
        assert_eq!(variable("ENCRYPTED", "password"), "crypt word");
        assert_eq!(variable("ENCRYPTED", "password2"), "crypt salt");
        // What is secret in there is there alone.
        let arguments = launcher.read("arguments");
        let expected = ["-v", "--stats", "1s", "sync", "/mnt/tank", "encrypted:x"];
        assert!(
            arguments.trim_end().ends_with(&expected.join("\n")),
            "{arguments}"
        );
        assert_eq!(launcher.read("seen.conf"), seen);
        assert_eq!(launcher.read("middleware.conf"), config);
    }
}

#[test]
fn a_placeholder_in_rclones_environment_is_filled_in_too() {
    let vault = TestVault::new();
    let launcher = Launcher::new(&vault);
    launcher.stand_in("rclone", "record");
    let id = vault.seal(
        "credentials",
        "dav",
        json!({ "pass": PASSWORD }).to_string().as_bytes(),
    );
    let placeholder = format!("strongroom:v1:{id}");
    let run = launcher
        .run("rclone")
        .args(["--config=/dev/null", "lsd", "r:"]);
    run.env("RCLONE_CONFIG_R_PASS", obscure(&placeholder))
        .env("RCLONE_WEBDAV_BEARER_TOKEN", &placeholder)
        .ok();
    let given = recorded_environment(&launcher);
    assert_eq!(reveal(&given["RCLONE_CONFIG_R_PASS"]), PASSWORD);
    assert_eq!(given["RCLONE_WEBDAV_BEARER_TOKEN"], PASSWORD);
}

/// The middleware's: nothing is in it but this.
#[test]
fn restic_is_given_its_secrets_in_an_environment_of_its_own() {
    let vault = TestVault::new();
    let launcher = Launcher::new(&vault);
    launcher.stand_in("restic", "record");
    let seal =
        |label, secrets: Value| vault.seal("credentials", label, secrets.to_string().as_bytes());
    let s3 = seal("s3", json!({ "secret_access_key": "s3/+secret=" }));
    let b2 = seal("b2", json!({ "key": "K000" }));
    let task = seal("task", json!({ "password": PASSWORD }));
    let settings = format!(
        "STRONGROOM_DIR={}\nSTRONGROOM_TCTI='{}'\nSTRONGROOM_RESTIC=\"{}\"\n",
        vault.dir().display(),
        vault.recorder().tcti(),
        launcher.file("behind/restic").display(),
    );
    let settings = launcher.write("settings", settings);
    vault.recorder().take();
    let run = Run::new("env")
        .arg("-i")
        .arg(format!("STRONGROOM_SETTINGS={}", settings.display()))
        .arg("AWS_ACCESS_KEY_ID=AKIA")
        .arg(format!("AWS_SECRET_ACCESS_KEY=strongroom:v1:{s3}"))
        .arg(format!("B2_ACCOUNT_KEY=strongroom:v1:{b2}"))
        .arg(format!("RESTIC_PASSWORD=strongroom:v1:{task}"))
        .arg(launcher.file("ahead/restic"))
        .args([
            "--no-cache",
            "--json",
            "-r",
            "s3:http://127.0.0.1:9/bucket",
            "backup",
            "/mnt",
        ]);
    run.ok();
    for object in [&s3, &b2, &task] {
        assert_eq!(unseals(&vault, object), 1, "{object}");
    }
    let given = recorded_environment(&launcher);
    assert_eq!(given["AWS_ACCESS_KEY_ID"], "AKIA");
    assert_eq!(given["AWS_SECRET_ACCESS_KEY"], "s3/+secret=");
    assert_eq!(given["B2_ACCOUNT_KEY"], "K000");
    assert_eq!(given["RESTIC_PASSWORD"], PASSWORD);
    assert!(launcher.read("arguments").ends_with("backup\n/mnt\n"));
}

#[test]
fn without_a_placeholder_the_program_is_as_if_we_were_not_there() {
    let vault = TestVault::new();
    let launcher = Launcher::new(&vault);
    let config = launcher.write("plain.conf", "[remote]\ntype = webdav\npass = x\n");
    vault.recorder().take();
    for name in ["rclone", "restic"] {
        launcher.stand_in(
            name,
            "record; echo $$ >\"$HERE/pid\"; ulimit -c; cat; exit 9",
        );
        let mut daemon = launcher.start(
            name,
            &[OsStr::new("--config"), config.as_os_str(), OsStr::new("ls")],
            "log",
        );
        wait_until("it ends", || daemon.ended().is_some());
        assert_eq!(daemon.ended().and_then(|status| status.code()), Some(9));
        // It is the process that was started, and not one of its children.
        assert_eq!(launcher.read("pid").trim(), daemon.pid().to_string());
        assert!(launcher.read("arguments").contains("plain.conf\nls\n"));
        let given = recorded_environment(&launcher);
        assert!(!given.contains_key("TSS2_LOG"), "{given:?}");
    }
    launcher.stand_in("rclone", "ulimit -c; cat; exit 9");
    let limit = Run::new("sh").args(["-c", "ulimit -c"]).ok();
    let limit = limit.text();
    let run = launcher
        .run("rclone")
        .arg("--config")
        .arg(&config)
        .stdin("given");
    assert_eq!(run.fails_with(9).text(), format!("{limit}given"));
    // No vault, no TPM, no matter.
    let run = launcher.run("rclone").arg("--config").arg(&config);
    run.env("STRONGROOM_DIR", "/nonexistent").fails_with(9);
    assert_eq!(vault.recorder().take().len(), 0);
}

/// More than any pipe holds, on three streams at once.
#[test]
fn output_of_any_size_and_all_input_pass_through() {
    let vault = TestVault::new();
    let launcher = Launcher::new(&vault);
    let config = with_placeholder(&vault, &launcher);
    launcher.stand_in(
        "rclone",
        "head -c 20000000 /dev/zero | tr '\\0' e >&2 &\nwc -c\nhead -c 30000000 /dev/zero; wait; exit 5",
    );
    let run = launcher.run("rclone").arg("--config").arg(&config);
    let ended = run.stdin(vec![b'i'; 10_000_000]).fails_with(5);
    assert!(ended.stdout.starts_with(b"10000000\n"));
    assert_eq!(ended.stdout.len(), 30_000_009);
    assert_eq!(ended.stderr.len(), 20_000_000);
}

#[test]
fn a_terminal_is_the_childs_too() {
    let vault = TestVault::new();
    let launcher = Launcher::new(&vault);
    let config = with_placeholder(&vault, &launcher);
    launcher.stand_in(
        "rclone",
        "test -t 0 && test -t 1 && test -t 2 && stty size; printf 'name: '; read name; echo \"<$name>\"",
    );
    let program = launcher.file("ahead/rclone");
    let start = |python: &str| {
        let run = Run::new(python);
        launcher
            .environment()
            .into_iter()
            .fold(run, |run, (name, value)| run.env(name, value))
    };
    let seen = converse(start, &program, 123, &[("name: ", "somebody")])
        .arg("--config")
        .arg(&config)
        .ok()
        .text();
    assert!(
        seen.contains("50 123") && seen.contains("<somebody>"),
        "{seen}"
    );

    launcher.stand_in("rclone", "test -t 1 || echo no terminal");
    let run = launcher.run("rclone").arg("--config").arg(&config);
    assert_eq!(run.ok().text(), "no terminal\n");
}

#[test]
fn signals_reach_the_child_and_its_death_is_ours() {
    let vault = TestVault::new();
    let launcher = Launcher::new(&vault);
    let config = with_placeholder(&vault, &launcher);
    let arguments = [OsStr::new("--config"), config.as_os_str()];
    launcher.stand_in(
        "rclone",
        "trap 'echo usr1' USR1; trap 'echo term; exit 77' TERM; echo $$ >\"$HERE/pid\"\n\
         while :; do sleep 0.05; done",
    );
    let mut daemon = launcher.start("rclone", &arguments, "log");
    wait_until("it runs", || launcher.file("pid").exists());
    let signal = |pid: u32, signal| {
        let pid = Pid::from_raw(pid.try_into().expect("a process id")).expect("not 0");
        kill_process(pid, signal).expect("it is there");
    };
    signal(daemon.pid(), Signal::USR1);
    wait_until("the signal arrives", || daemon.log().contains("usr1"));
    signal(daemon.pid(), Signal::TERM);
    wait_until("it ends", || daemon.ended().is_some());
    assert_eq!(daemon.ended().and_then(|status| status.code()), Some(77));

    // The child is killed.
    let _ = fs::remove_file(launcher.file("pid"));
    let mut daemon = launcher.start("rclone", &arguments, "log");
    wait_until("it runs", || {
        launcher.file("pid").metadata().is_ok_and(|it| it.len() > 1)
    });
    let child: u32 = launcher.read("pid").trim().parse().expect("a process id");
    signal(child, Signal::KILL);
    wait_until("it ends", || daemon.ended().is_some());
    assert_eq!(daemon.ended().and_then(|status| status.signal()), Some(9));

    // We are killed: who kills rclone means rclone.
    let _ = fs::remove_file(launcher.file("pid"));
    let mut daemon = launcher.start("rclone", &arguments, "log");
    wait_until("it runs", || {
        launcher.file("pid").metadata().is_ok_and(|it| it.len() > 1)
    });
    let child = launcher.read("pid").trim().to_owned();
    daemon.kill();
    wait_until("the child ends", || !is_running(&child));
    wait_until("the keeper ends", || keepers(&vault.dir()).is_empty());
}

#[test]
fn a_refused_boot_starts_nothing_and_changes_nothing() {
    let vault = TestVault::new();
    let launcher = Launcher::new(&vault);
    let config = with_placeholder(&vault, &launcher);
    let id = vault.seal("credentials", "task", br#"{"password": "hunter2"}"#);
    let before = fs::read(&config).expect("the configuration");
    vault.tpm().extend(9, b"another initrd");
    for name in ["rclone", "restic"] {
        launcher.stand_in(name, "touch \"$HERE/started\"");
        let run = launcher.run(name).arg("--config").arg(&config);
        run.env("RESTIC_PASSWORD", format!("strongroom:v1:{id}"))
            .fails_with(123)
            .says("PCR 9")
            .says("another boot state");
        assert!(!launcher.file("started").exists());
    }
    assert_eq!(fs::read(&config).expect("the configuration"), before);
    wait_until("the keeper ends", || keepers(&vault.dir()).is_empty());
}

#[test]
fn a_placeholder_that_leads_nowhere_starts_nothing_and_changes_nothing() {
    let vault = TestVault::new();
    let launcher = Launcher::new(&vault);
    for name in ["rclone", "restic"] {
        launcher.stand_in(name, "touch \"$HERE/started\"");
    }
    let removed = vault.seal("credentials", "removed", br#"{"pass": "x"}"#);
    vault
        .strongroom(&["remove", "--yes", "--id", &removed])
        .ok();
    let text = vault.seal("credentials", "text", b"hunter2");
    let other = vault.seal("credentials", "other", br#"{"token": "x", "key": "y"}"#);
    let foreign = "00000000-0000-4000-8000-000000000000";
    for (id, code) in [
        (removed.as_str(), 126),
        (foreign, 126),
        (&other, 126),
        (&text, 127),
    ] {
        let config = format!("[remote]\ntype = ftp\npass = strongroom:v1:{id}\n");
        let file = launcher.write("rclone.conf", &config);
        let run = launcher.run("rclone").arg("--config").arg(&file);
        run.fails_with(code)
            .says(id)
            .says("section [remote], field pass")
            .does_not_show("hunter2");
        assert_eq!(launcher.read("rclone.conf"), config);
        let run = launcher
            .run("restic")
            .env("RESTIC_PASSWORD", format!("strongroom:v1:{id}"));
        run.fails_with(code)
            .says(id)
            .says("variable RESTIC_PASSWORD")
            .does_not_show("hunter2");
    }
    let run = launcher.run("restic").env("STRONGROOM_DIR", "/nonexistent");
    run.env("RESTIC_PASSWORD", format!("strongroom:v1:{other}"))
        .fails_with(125);
    assert!(!launcher.file("started").exists());
}

#[test]
fn a_secret_goes_where_nobody_else_reads_it_or_nowhere() {
    let vault = TestVault::new();
    let launcher = Launcher::new(&vault);
    let config = with_placeholder(&vault, &launcher);
    let id = vault.seal("credentials", "one", br#"{"pass": "x"}"#);
    for name in ["rclone", "restic"] {
        launcher.stand_in(name, "touch \"$HERE/started\"");
    }
    let rclone = || launcher.run("rclone").arg("--config").arg(&config);
    for option in ["-vv", "-v=2", "--dump=headers", "--dump-bodies"] {
        rclone()
            .args([option, "ls", "remote:"])
            .fails_with(122)
            .says("log");
    }
    for (variable, value) in [("RCLONE_DUMP", "auth"), ("RCLONE_DUMP_BODIES", "true")] {
        rclone()
            .args(["ls", "remote:"])
            .env(variable, value)
            .fails_with(122)
            .says("log");
    }
    rclone()
        .arg(format!(":ftp,pass=strongroom:v1:{id}:"))
        .fails_with(122)
        .says("arguments");
    let restic = launcher.run("restic");
    restic
        .env(
            "RESTIC_REPOSITORY",
            format!("rest:http://nas:strongroom:v1:{id}@127.0.0.1/"),
        )
        .fails_with(127)
        .says("RESTIC_REPOSITORY");
    set_mode(&launcher.file("behind/rclone"), 0o777);
    rclone().fails_with(127).says("root");
    rclone()
        .env("STRONGROOM_RCLONE", "/nonexistent/rclone")
        .fails_with(127)
        .says("/nonexistent");
    let ahead = launcher.file("ahead");
    rclone()
        .env("PATH", &ahead)
        .fails_with(127)
        .says("no rclone");
    rclone()
        .env("STRONGROOM_RCLONE", ahead.join("rclone"))
        .fails_with(127);
    // A copy of us is not us, but knows us.
    executable::copy(
        &vault.programs().credential_provider(),
        &launcher.file("behind/rclone"),
    );
    launcher
        .run("rclone")
        .arg("--config=/dev/null")
        .fails_with(127)
        .says("copy of itself");
    assert!(!launcher.file("started").exists());
}

/// As on TrueNAS, where the middleware starts restic with an environment that has no PATH: a script that
/// starts the launcher is mounted over it, and is written anew by every `install`.
#[test]
fn restic_is_found_beneath_what_is_mounted_over_it() {
    let vault = TestVault::new();
    let programs = vault.programs();
    let folder = programs.credential_provider();
    let folder = folder.parent().expect("a folder");
    let id = vault.seal("credentials", "backup", br#"{"password": "sesame"}"#);
    let repository = vault.folder().join("repository");
    let run = |after: &str| {
        let script = format!(
            r#"set -eu
            mount -t tmpfs tmpfs /root
            mkdir -p /root/strongroom/bin
            cp "$0"/credential-provider "$0"/libstrongroom_pkcs11.so /root/strongroom
            ln -s ../credential-provider /root/strongroom/bin/restic
            cp {script} /root/strongroom/usr-bin-restic
            mount -t tmpfs tmpfs /run
            mkdir -p /run/strongroom/programs
            mount --bind /usr/bin /run/strongroom/programs
            mount --bind /root/strongroom/usr-bin-restic /usr/bin/restic
            {after}
            exec env -i TMPDIR=/tmp HOME=/nonexistent RESTIC_PASSWORD=strongroom:v1:{id}                 STRONGROOM_DIR={dir} STRONGROOM_TCTI={tcti} STRONGROOM_SETTINGS=/nonexistent                 /usr/bin/restic --no-cache -r {repository} "$@""#,
            script = concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../systemd/truenas/usr-bin-restic"
            ),
            dir = vault.dir().display(),
            tcti = vault.recorder().tcti(),
            repository = repository.display(),
        );
        Run::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .arg(folder)
    };
    let tried = Run::new("unshare").args(["--mount", "true"]).finish();
    if tried.code() != Some(0) {
        println!("skipped: {tried}");
        return;
    }
    run("").arg("init").ok();
    let anew = "cp /root/strongroom/usr-bin-restic /root/new; \
                mv /root/new /root/strongroom/usr-bin-restic";
    for after in ["", anew] {
        let listed = run(after).args(["snapshots", "--json"]).ok();
        assert_eq!(listed.text().trim(), "[]", "{after}");
    }
}

#[test]
fn what_else_rclone_changes_in_its_configuration_is_kept() {
    let vault = TestVault::new();
    let launcher = Launcher::new(&vault);
    let config = with_placeholder(&vault, &launcher);
    set_mode(&config, 0o640);
    let before = fs::read_to_string(&config).expect("the configuration");
    launcher.stand_in("rclone", "rewrite remote user somebody; exit 3");
    let run = launcher.run("rclone").arg("--config").arg(&config);
    run.fails_with(3);
    let after = fs::read_to_string(&config).expect("the configuration");
    assert_eq!(after, before.replace("user = nas", "user = somebody"));
    assert_eq!(strongroom_tests::someone::mode(&config), 0o640);
    // The real one.
    fs::remove_file(launcher.file("behind/rclone")).expect("the stand-in");
    let run = launcher.run("rclone").arg("--config").arg(&config);
    run.args(["config", "create", "second", "local", "nounc", "true"])
        .ok()
        .does_not_show("hunter2");
    let after = fs::read_to_string(&config).expect("the configuration");
    assert!(
        after.contains("[second]") && after.contains("user = somebody"),
        "{after}"
    );
    assert!(
        after.contains("secret_access_key = strongroom:v1:"),
        "{after}"
    );
}

/// A configuration with a placeholder of an object.
fn with_placeholder(vault: &TestVault, launcher: &Launcher<'_>) -> std::path::PathBuf {
    let id = vault.seal("credentials", "s3", br#"{"secret_access_key": "hunter2"}"#);
    launcher.write(
        "rclone.conf",
        format!("[remote]\ntype = s3\nuser = nas\nsecret_access_key = strongroom:v1:{id}\n"),
    )
}

/// How often an object was loaded into the TPM, as it is each time that it is unsealed. (K_vault is
/// unsealed again where a slow machine has kept the module waiting.)
fn unseals(vault: &TestVault, object: &str) -> usize {
    let file = vault
        .dir()
        .join(format!("objects/credentials/{object}.json"));
    let file: Value = serde_json::from_slice(&fs::read(file).expect("it is there")).expect("JSON");
    let slots = file["slots"].as_array().expect("slots");
    let key_file = slots.iter().find_map(|slot| slot["key-file"].as_str());
    let key_file = BASE64
        .decode(key_file.expect("a TPM slot"))
        .expect("base64");
    // Its private half is what ends it.
    let tail = &key_file[key_file.len() - 64..];
    let commands = vault.recorder().commands();
    let loads = commands.iter().filter(|command| command.name == "Load");
    loads
        .filter(|load| load.request.windows(tail.len()).any(|part| part == tail))
        .count()
}

fn is_running(pid: &str) -> bool {
    // A process that has ended and was not waited for has no command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}
