//! What rclone writes over a placeholder, a refreshed token above all: it is sealed in the place of the
//! old one, and is never in the middleware's configuration, nor in any file, whoever is killed when.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use strongroom_tests::launcher::{keepers, obscure, recorded_environment, wait_until};
use strongroom_tests::nas::kill_and_wait;
use strongroom_tests::{Daemon, Gate, Launcher, Run, TestVault, TokenServer};

const TYPES: [&str; 7] = [
    "box",
    "drive",
    "google photos",
    "onedrive",
    "pcloud",
    "yandex",
    "dropbox",
];

/// An access token of this name, spelled so that it stands in no script.
fn token(name: &str, expiry: &str) -> String {
    json!({ "access_token": name, "token_type": "Bearer", "refresh_token": format!("r-{name}"),
        "expiry": expiry })
    .to_string()
}

/// In a stand-in's script: `token NAME EXPIRY`, where NAME is written backwards.
const TOKEN: &str = r#"
token() {
    name=$(echo "$1" | rev)
    echo "{\"access_token\":\"$name\",\"token_type\":\"Bearer\",\"refresh_token\":\"r-$name\",\"expiry\":\"$2\"}"
}
for last; do :; done
"#;

const OLD: &str = "2020-01-01T00:00:00Z";
const NEW: &str = "2026-06-01T12:00:00.123456789+02:00";
const NEWER: &str = "2026-06-01T11:00:00Z";

/// A credential with a token, and its configuration as the middleware writes it.
struct Credential<'a> {
    vault: &'a TestVault,
    launcher: Launcher<'a>,
    id: String,
    config: String,
    /// A name that nothing else on this machine has, part of each of its secrets.
    name: String,
}

impl<'a> Credential<'a> {
    fn new(vault: &'a TestVault, launcher: Launcher<'a>, kind: &str, more: &str) -> Self {
        let name = vault.folder().file_name().expect("it has a name");
        let name = format!("{}-{kind}", name.to_string_lossy().trim_start_matches('.'));
        let secrets = json!({
            "client_secret": format!("hidden \"{name}\""),
            "token": token(&format!("old-at-{name}"), OLD),
        });
        let id = vault.seal("credentials", kind, secrets.to_string().as_bytes());
        let config = format!(
            "[remote]\ntype = {kind}\nclient_id = c\nclient_secret = strongroom:v1:{id}\n{more}\
             token = strongroom:v1:{id}\n"
        );
        launcher.write("rclone.conf", &config);
        Self {
            vault,
            launcher,
            id,
            config,
            name,
        }
    }

    fn stand_in(&self, script: &str) {
        self.launcher
            .stand_in("rclone", &format!("{TOKEN}\n{script}"));
    }

    fn run(&self) -> Run {
        let config = self.launcher.file("rclone.conf");
        self.launcher.run("rclone").arg("--config").arg(config)
    }

    fn start(&self, last: &str) -> Daemon {
        let config = self.launcher.file("rclone.conf");
        let arguments = [OsStr::new("--config"), config.as_os_str(), OsStr::new(last)];
        self.launcher
            .start("rclone", &arguments, &format!("log-{last}"))
    }

    /// Under strace, which has something happen to calls; nothing where there is none that may trace.
    fn start_under_strace(&self, inject: &str) -> Option<Daemon> {
        let tried = Command::new("strace")
            .args(["-qq", "-e", "trace=none", "true"])
            .status();
        if !tried.is_ok_and(|status| status.success()) {
            println!("skipped: there is no strace that may trace");
            return None;
        }
        let call = inject.split(':').next().expect("a call");
        let mut command = Daemon::command("strace");
        command
            .args(["-f", "-qq", "-o", "/dev/null", "-e"])
            .arg(format!("trace={call}"))
            .arg("-e")
            .arg(format!("inject={inject}"))
            .arg(self.launcher.file("ahead/rclone"))
            .arg("--config")
            .arg(self.launcher.file("rclone.conf"))
            .envs(self.launcher.environment());
        Some(Daemon::spawn(command, &self.launcher.file("log")))
    }

    /// Tells stand-ins that wait for it.
    fn tell(&self, file: &str) {
        self.launcher.write(file, "");
    }

    fn is_there(&self, file: &str) -> bool {
        self.launcher.file(file).exists()
    }

    fn sealed(&self) -> Value {
        serde_json::from_slice(&self.vault.unseal_id(&self.id)).expect("JSON")
    }

    fn sealed_token(&self) -> Value {
        let sealed = self.sealed();
        serde_json::from_str(sealed["token"].as_str().expect("a text")).expect("JSON")
    }

    /// The token is there, the other field is what it was, and of all this the middleware sees
    /// nothing.
    #[track_caller]
    fn has(&self, access_token: &str) {
        assert_eq!(self.sealed_token()["access_token"], access_token);
        assert_eq!(
            self.sealed()["client_secret"],
            format!("hidden \"{}\"", self.name)
        );
        assert_eq!(self.launcher.read("rclone.conf"), self.config);
        let files = fs::read_dir(self.vault.folder()).expect("the folder");
        let others = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
        let others: Vec<_> = others.filter(|it| it.starts_with("rclone.conf")).collect();
        assert_eq!(others, ["rclone.conf"]);
    }
}

#[test]
fn a_refreshed_token_is_sealed_in_the_place_of_the_old_one() {
    let vault = TestVault::new();
    for kind in TYPES {
        let credential = Credential::new(&vault, Launcher::new(&vault), kind, "");
        credential.stand_in(&format!(
            "rewrite remote token \"$(token ta-wen {NEW})\"; exit 6"
        ));
        vault.recorder().take();
        credential.run().fails_with(6).does_not_show("new-at");
        let commands = vault.recorder().take().len();
        println!("a launch with a refreshed token: {commands} TPM commands");
        credential.has("new-at");
        let listed = vault.strongroom(&["list", "--json"]).ok().json();
        let of_kind = |object: &&Value| object["label"] == kind;
        let objects = listed["objects"].as_array().expect("a list");
        assert_eq!(objects.iter().filter(of_kind).count(), 1, "{listed:#}");

        // The next run is given it.
        credential.stand_in("record");
        credential.run().ok();
        let given = recorded_environment(&credential.launcher);
        assert!(!given.contains_key("RCLONE_CONFIG_REMOTE_TOKEN"));
        assert!(credential.launcher.read("seen.conf").contains("new-at"));
    }
    let kit = vault.recovery();
    vault
        .strongroom(&["recovery-test", "--recovery"])
        .arg(kit)
        .ok();
}

/// rclone itself refreshes a token, at a server that is not its provider's.
#[test]
fn the_real_rclone_refreshes_a_token_and_it_is_sealed() {
    let vault = TestVault::new();
    for kind in TYPES {
        let server = TokenServer::start();
        let more = format!(
            "token_url = {}\nauth_url = http://127.0.0.1:9/\nregion = global\ndrive_id = 1\n\
             drive_type = personal\nhostname = 127.0.0.1:9\n",
            server.url()
        );
        let credential = Credential::new(&vault, Launcher::new(&vault), kind, &more);
        let ended = credential
            .run()
            // Of Google Photos, rclone knows the first level by heart.
            .args([
                "lsd",
                "remote:album",
                "--retries",
                "3",
                "--low-level-retries",
                "2",
            ])
            .args(["--contimeout", "2s", "--timeout", "2s"])
            // Nobody beyond this machine is to be asked.
            .env("HTTPS_PROXY", "http://127.0.0.1:9")
            .finish()
            .does_not_show("access-1");
        let asked = server.asked();
        assert!(!asked.is_empty(), "{kind}: {ended}");
        assert!(asked[0].contains("r-old-at"), "{asked:?}");
        // Each time with the one that it was given last: a spent one would be refused.
        for (number, form) in asked.iter().enumerate().skip(1) {
            let last = format!("refresh_token=refresh-{number}");
            assert!(form.contains(&last), "{kind}: {asked:?}");
        }
        println!("{kind}: refreshed {} times in one run", asked.len());
        let newest = format!("access-{}", asked.len());
        credential.has(&newest);
    }
}

#[test]
fn two_at_once_leave_the_newest_token() {
    let vault = TestVault::new();
    let orders: [&[&[&str]]; 3] = [
        &[&["new"], &["newer"]],
        &[&["newer"], &["new"]],
        &[&["new", "newer"]],
    ];
    for order in orders {
        let credential = Credential::new(&vault, Launcher::new(&vault), "box", "");
        for file in ["go-new", "go-newer", "end"] {
            let _ = fs::remove_file(credential.launcher.file(file));
        }
        credential.stand_in(&format!(
            "case $last in new) expiry={NEW} name=ta-wen;; newer) expiry={NEWER} name=ta-rewen;; esac\n\
             until_there go-$last; rewrite remote token \"$(token $name $expiry)\"; until_there end"
        ));
        let mut runs = ["new", "newer"].map(|which| credential.start(which));
        for together in order {
            for which in *together {
                credential.tell(&format!("go-{which}"));
            }
            if together.len() == 1 && together == &order[0] {
                let access = format!("{}-at", together[0]);
                wait_until("it is sealed", || {
                    credential.sealed_token()["access_token"] == *access
                });
            }
        }
        credential.tell("end");
        for run in &mut runs {
            wait_until("it ends", || run.ended().is_some());
            assert!(run.ended().is_some_and(|it| it.success()), "{}", run.log());
        }
        credential.has("newer-at");
        assert_eq!(credential.sealed_token()["expiry"], NEWER);
    }
}

/// At the worst moment: the token was refreshed, and nothing of it is in the vault.
#[test]
fn a_launcher_killed_while_it_holds_a_refreshed_token_loses_nothing() {
    let vault = TestVault::new();
    let gate = Gate::start(vault.recorder());
    let launcher = Launcher::new(&vault).by(gate.tcti());
    let credential = Credential::new(&vault, launcher, "box", "");
    credential.stand_in(&format!(
        "echo $$ >\"$HERE/pid\"; touch \"$HERE/ready\"; until_there go\n\
         rewrite remote token \"$(token ta-wen {NEW})\"; touch \"$HERE/written\"; until_there never"
    ));
    let mut run = credential.start("sync");
    wait_until("rclone runs", || credential.is_there("ready"));
    gate.hold_after(0);
    credential.tell("go");
    wait_until("rclone has written", || credential.is_there("written"));
    wait_until("the TPM is asked", || gate.holds_one());
    run.kill();
    let child = credential.launcher.read("pid").trim().to_owned();
    wait_until("the child ends", || {
        fs::read(format!("/proc/{child}/cmdline")).map_or(true, |line| line.is_empty())
    });
    assert_eq!(credential.launcher.read("rclone.conf"), credential.config);
    assert_eq!(keepers(&vault.dir()).len(), 1);
    gate.open();
    wait_until("the keeper ends", || keepers(&vault.dir()).is_empty());
    credential.has("new-at");
}

#[test]
fn a_killed_child_and_a_killed_keeper_lose_nothing() {
    let vault = TestVault::new();
    let credential = Credential::new(&vault, Launcher::new(&vault), "box", "");
    credential.stand_in(&format!(
        "rewrite remote token \"$(token eno-ta {NEW})\"; kill -9 $$"
    ));
    let ended = credential.run().finish();
    assert_eq!(ended.status.signal(), Some(9), "{ended}");
    credential.has("at-one");

    // Between the two renames by which rclone puts its configuration into place.
    credential.stand_in(&format!(
        "new=$config.$$; install -m 600 /dev/null \"$new\"\n\
         sed \"s|^token = .*|token = $(token owt-ta {NEWER})|\" \"$config\" >\"$new\"\n\
         mv \"$config\" \"$config.old\"; kill -9 $$"
    ));
    let ended = credential.run().finish();
    assert_eq!(ended.status.signal(), Some(9), "{ended}");
    credential.has("at-two");

    // The keeper is killed, and the launcher does its work.
    credential.stand_in(
        "touch \"$HERE/ready\"; until_there go\n\
         rewrite remote token \"$(token eerht-ta 2026-07-01T00:00:00Z)\"",
    );
    let mut run = credential.start("sync");
    wait_until("rclone runs", || credential.is_there("ready"));
    for keeper in keepers(&vault.dir()) {
        kill(keeper, rustix::process::Signal::KILL);
    }
    credential.tell("go");
    wait_until("it ends", || run.ended().is_some());
    assert!(run.ended().is_some_and(|it| it.success()), "{}", run.log());
    credential.has("at-three");
}

/// The system has no room for another watch (EMFILE): the keeper looks by itself.
#[test]
fn a_keeper_that_is_told_of_nothing_looks_for_itself() {
    let vault = TestVault::new();
    let credential = Credential::new(&vault, Launcher::new(&vault), "box", "");
    credential.stand_in(&format!(
        "rewrite remote token \"$(token ta-wen {NEW})\"; touch \"$HERE/written\"; until_there end"
    ));
    let Some(mut run) = credential.start_under_strace("inotify_init1:error=EMFILE") else {
        return;
    };
    wait_until("rclone has written", || credential.is_there("written"));
    wait_until("it is sealed", || {
        credential.sealed_token()["access_token"] == "new-at"
    });
    credential.tell("end");
    wait_until("it ends", || run.ended().is_some());
    credential.has("new-at");
}

/// Nobody would seal what rclone writes then.
#[test]
fn without_a_keeper_rclone_is_not_started() {
    let vault = TestVault::new();
    let credential = Credential::new(&vault, Launcher::new(&vault), "box", "");
    credential.stand_in("touch \"$HERE/started\"");
    let Some(mut run) = credential.start_under_strace("inotify_init1:signal=KILL") else {
        return;
    };
    wait_until("it ends", || run.ended().is_some());
    let code = run.ended().and_then(|it| it.code());
    assert_eq!(code, Some(127), "{}", run.log());
    assert!(run.log().contains("nobody would seal"), "{}", run.log());
    assert!(!credential.is_there("started"));
    assert_eq!(credential.launcher.read("rclone.conf"), credential.config);
}

/// The keeper is gone, and the launcher cannot seal it: nobody will.
#[test]
fn a_token_that_nobody_seals_is_called_lost() {
    let vault = TestVault::new();
    let credential = Credential::new(&vault, Launcher::new(&vault), "box", "");
    credential.stand_in(&format!(
        "touch \"$HERE/ready\"; until_there go; rewrite remote token \"$(token ta-wen {NEW})\""
    ));
    let mut run = credential.start("sync");
    wait_until("rclone runs", || credential.is_there("ready"));
    for keeper in keepers(&vault.dir()) {
        kill(keeper, rustix::process::Signal::KILL);
    }
    vault.tpm().extend(9, b"something");
    credential.tell("go");
    wait_until("it ends", || run.ended().is_some());
    let code = run.ended().and_then(|it| it.code());
    assert_eq!(code, Some(123), "{}", run.log());
    assert!(run.log().contains("is lost: sign in"), "{}", run.log());
}

/// Who ends a launcher that waits for the keeper does not end the keeper.
#[test]
fn a_launcher_that_waits_can_be_ended() {
    let vault = TestVault::new();
    let gate = Gate::start(vault.recorder());
    let launcher = Launcher::new(&vault).by(gate.tcti());
    let credential = Credential::new(&vault, launcher, "box", "");
    credential.stand_in(&format!(
        "touch \"$HERE/ready\"; until_there go\n\
         rewrite remote token \"$(token ta-wen {NEW})\"; touch \"$HERE/written\""
    ));
    let mut run = credential.start("sync");
    wait_until("rclone runs", || credential.is_there("ready"));
    gate.hold_after(0);
    credential.tell("go");
    wait_until("rclone has written", || credential.is_there("written"));
    wait_until("the TPM is asked", || gate.holds_one());
    // It waits for the keeper as soon as rclone has ended; a signal before that is rclone's.
    wait_until("it ends", || {
        if run.ended().is_none() {
            kill(run.pid(), rustix::process::Signal::TERM);
        }
        run.ended().is_some()
    });
    let ended = run.ended().expect("it has");
    assert_eq!(ended.signal(), Some(15), "{}", run.log());
    assert!(run.log().contains("still being sealed"), "{}", run.log());
    assert_eq!(credential.launcher.read("rclone.conf"), credential.config);
    gate.open();
    wait_until("the keeper ends", || keepers(&vault.dir()).is_empty());
    credential.has("new-at");
}

/// A keeper on a loaded machine finds all that it was told in one go.
#[test]
fn a_keeper_that_begins_late_answers_all_the_same() {
    let vault = TestVault::new();
    let folder = vault.folder().join("memory");
    fs::create_dir(&folder).expect("ours");
    fs::write(folder.join("rclone.conf"), "").expect("ours");
    let (mut control, theirs) = UnixStream::pair().expect("a pair");
    let (_lifeline, watched) = UnixStream::pair().expect("a pair");
    control
        .write_all(b"{\"places\":[],\"folder\":null}\n\n\n")
        .expect("it takes them");
    let mut keeper = Command::new(vault.programs().credential_provider())
        .arg("keep")
        .stdin(OwnedFd::from(theirs))
        .stdout(OwnedFd::from(watched))
        .stderr(fs::File::open(folder).expect("a folder"))
        .spawn()
        .expect("it starts");
    control
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("set");
    let mut lines = BufReader::new(&control).lines();
    for expected in ["ready", "[]"] {
        let line = lines.next().and_then(Result::ok);
        assert_eq!(line.as_deref(), Some(expected));
    }
    kill_and_wait(&mut keeper);
}

/// The policy refuses from one moment to the next, while rclone runs.
#[test]
fn a_token_that_cannot_be_sealed_is_kept_until_it_can() {
    let vault = TestVault::new();
    let credential = Credential::new(&vault, Launcher::new(&vault), "box", "");
    credential.stand_in(&format!(
        "touch \"$HERE/ready\"; until_there go; rewrite remote token \"$(token ta-wen {NEW})\""
    ));
    let mut run = credential.start("sync");
    wait_until("rclone runs", || credential.is_there("ready"));
    vault.tpm().extend(9, b"something");
    credential.tell("go");
    wait_until("it ends", || run.ended().is_some());
    // rclone itself ended well.
    assert_eq!(
        run.ended().and_then(|it| it.code()),
        Some(123),
        "{}",
        run.log()
    );
    assert!(
        run.log().contains("PCR 9") && run.log().contains("field token"),
        "{}",
        run.log()
    );
    assert!(!run.log().contains("new-at"), "{}", run.log());
    assert_eq!(credential.launcher.read("rclone.conf"), credential.config);
    assert_eq!(keepers(&vault.dir()).len(), 1);
    let kit = vault.recovery();
    vault
        .strongroom(&["rebind", "--yes", "--recovery"])
        .arg(kit)
        .ok();
    wait_until("the keeper ends", || keepers(&vault.dir()).is_empty());
    credential.has("new-at");
}

#[test]
fn a_password_that_rclone_writes_is_sealed_as_it_is() {
    let vault = TestVault::new();
    let launcher = Launcher::new(&vault);
    let id = vault.seal("credentials", "dav", br#"{"pass": "old"}"#);
    let config = format!(
        "[r]\ntype = webdav\nurl = x\npass = {}\n",
        obscure(&format!("strongroom:v1:{id}"))
    );
    let file = launcher.write("rclone.conf", &config);
    let run = launcher.run("rclone").arg("--config").arg(&file);
    run.args(["config", "update", "r", "pass", "new pässword", "--obscure"])
        .ok();
    assert_eq!(
        vault.unseal_id(&id),
        "{\"pass\": \"new pässword\"}".as_bytes()
    );
    assert_eq!(launcher.read("rclone.conf"), config);
}

/// While rclone runs: its environment has the secrets that it was given, but for the token, and nothing else
/// on this machine has any of them, nor what it has written since.
#[test]
fn secrets_are_in_the_childs_environment_and_nowhere_else() {
    let vault = TestVault::new();
    let credential = Credential::new(&vault, Launcher::new(&vault), "box", "");
    let name = &credential.name;
    let begun = credential.launcher.write("begun", "");
    let long_ago = SystemTime::now() - Duration::from_secs(1);
    fs::File::options()
        .write(true)
        .open(&begun)
        .and_then(|file| file.set_modified(long_ago))
        .expect("the file is ours");
    credential.stand_in(&format!(
        "echo $$ >\"$HERE/pid\"; rewrite remote token \"$(token {}-ta-wen {NEW})\"\n\
         touch \"$HERE/written\"; until_there end",
        name.chars().rev().collect::<String>()
    ));
    let mut run = credential.start("sync");
    wait_until("rclone has written", || credential.is_there("written"));
    let child: u32 = credential
        .launcher
        .read("pid")
        .trim()
        .parse()
        .expect("a process id");
    let given = [format!("hidden \"{name}\""), format!("old-at-{name}")];
    let written = &format!("new-at-{name}");

    let mut has_them = Vec::new();
    for process in fs::read_dir("/proc")
        .expect("/proc can be read")
        .filter_map(Result::ok)
    {
        let Some(id) = process
            .file_name()
            .to_str()
            .and_then(|it| it.parse::<u32>().ok())
        else {
            continue;
        };
        let read = |file: &str| fs::read(process.path().join(file)).unwrap_or_default();
        let (arguments, environment) = (read("cmdline"), read("environ"));
        // What a shell starts inherits its environment.
        let is_childs = id == child || parent(&process.path()) == Some(child);
        for secret in &given {
            assert!(!contains(&arguments, secret), "{secret}: process {id}");
            if contains(&environment, secret) {
                assert!(is_childs, "{secret}: process {id}");
                has_them.push((id, secret));
            }
        }
        assert!(
            !contains(&arguments, written) && !contains(&environment, written),
            "{id}"
        );
    }
    let [hidden, token] = &given;
    assert!(has_them.contains(&(child, hidden)), "{has_them:?}");
    assert!(
        !has_them.iter().any(|(_, secret)| *secret == token),
        "{has_them:?}"
    );

    // Every file that was written since, wherever a program of ours or rclone might have done it.
    for secret in given.iter().chain([written]) {
        let found = Run::new("sh")
            .args([
                "-c",
                "find / \\( -path /proc -o -path /sys \\) -prune -o -type f -newer \"$1\" -print0 \
                2>/dev/null | xargs -0 -r grep -lF -e \"$2\" 2>/dev/null || true",
                "sh",
            ])
            .arg(&begun)
            .arg(secret)
            .ok()
            .text();
        assert!(found.is_empty(), "{secret}: {found:?}");
    }
    // What rclone has written is in no file system that anything can be found in.
    let mounts = fs::read_to_string(format!("/proc/{child}/mountinfo")).expect("it runs");
    assert!(!mounts.contains("ramfs"), "{mounts}");
    assert!(!vault.recorder().contains(b"old-at") && !vault.recorder().contains(b"new-at"));

    credential.tell("end");
    wait_until("it ends", || run.ended().is_some());
    credential.has(written);
}

fn kill(process: u32, signal: rustix::process::Signal) {
    let process = process.try_into().ok();
    let process = process.and_then(rustix::process::Pid::from_raw);
    // It may have ended.
    let _ = rustix::process::kill_process(process.expect("a process id"), signal);
}

fn parent(process: &Path) -> Option<u32> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}
