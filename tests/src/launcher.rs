//! `credential-provider` in the place of rclone and restic, and programs of their names behind it that
//! tell what they were given.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use aes::Aes256;
use aes::cipher::{KeyIvInit, StreamCipher};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ctr::Ctr128BE;
use rustix::process::{Pid, Signal, kill_process};

use crate::executable;
use crate::{Daemon, Run, TestVault};

/// A folder with the launcher under both names, and one behind it on PATH.
pub struct Launcher<'a> {
    vault: &'a TestVault,
    tcti: String,
}

impl<'a> Launcher<'a> {
    /// Ahead of this machine's own programs.
    pub fn new(vault: &'a TestVault) -> Self {
        let launcher = Self {
            vault,
            tcti: vault.recorder().tcti(),
        };
        for folder in ["ahead", "behind"] {
            // A second one for the same vault finds them there.
            let _ = fs::create_dir(launcher.file(folder));
        }
        for name in ["rclone", "restic"] {
            let _ = symlink(
                vault.programs().credential_provider(),
                launcher.file("ahead").join(name),
            );
        }
        launcher
    }

    /// The same, but it comes to the TPM by another way.
    #[must_use]
    pub fn by(mut self, tcti: String) -> Self {
        self.tcti = tcti;
        self
    }

    /// A file of the test's.
    pub fn file(&self, name: &str) -> PathBuf {
        self.vault.folder().join(name)
    }

    /// Writes a file of the test's.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let file = self.file(name);
        fs::write(&file, text).expect("the folder can be written");
        file
    }

    /// What a file of the test's says.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        let read = fs::read_to_string(self.file(name));
        read.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Puts a shell's script behind the launcher, under rclone's or restic's name. In it, `$HERE` is
    /// the folder of the test's files, and `config` the file that `--config` names.
    pub fn stand_in(&self, name: &str, script: &str) {
        let here = self.vault.folder().display();
        let script = format!(
            "#!/bin/sh\nset -eu\nHERE='{here}'\nconfig=${{RCLONE_CONFIG:-}}\n\
             for argument; do case $argument in --config=*) config=${{argument#--config=}};; esac; done\n\
             {REWRITES}\n{script}\n"
        );
        executable::write(&self.file("behind").join(name), script);
    }

    /// rclone, or restic, as one calls it who knows of no launcher.
    pub fn run(&self, name: &str) -> Run {
        let run = self.vault.run(self.file("ahead").join(name));
        self.environment()
            .into_iter()
            .fold(run, |run, (name, value)| run.env(name, value))
    }

    /// The same, to be started and killed. A script of the shell's that a test puts behind it goes
    /// on for long.
    pub fn start(&self, name: &str, arguments: &[&OsStr], log: &str) -> Daemon {
        let mut command = self.command(name);
        command.args(arguments);
        Daemon::spawn(command, &self.file(log))
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Daemon::command(self.file("ahead").join(name));
        for (name, _) in std::env::vars_os() {
            let is_ours = ["STRONGROOM_", "RCLONE_", "RESTIC_", "AWS_"]
                .iter()
                .any(|prefix| name.to_string_lossy().starts_with(prefix));
            if is_ours {
                command.env_remove(name);
            }
        }
        command.envs(self.environment());
        command
    }

    /// What a launcher needs to know.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let usual = std::env::var_os("PATH").unwrap_or_default();
        let path = [self.file("ahead"), self.file("behind")]
            .into_iter()
            .chain(std::env::split_paths(&usual).collect::<Vec<_>>());
        let path = std::env::join_paths(path).expect("no folder has a colon");
        vec![
            ("PATH", path),
            ("STRONGROOM_DIR", self.vault.dir().into()),
            ("STRONGROOM_TCTI", self.tcti.clone().into()),
            ("STRONGROOM_SETTINGS", self.file("no-settings").into()),
            // Not the developer's, which may name real clouds.
            ("XDG_CONFIG_HOME", self.file("no-settings").into()),
        ]
    }
}

/// What a keeper of a test that has failed could not seal it would try to for a day.
impl Drop for Launcher<'_> {
    fn drop(&mut self) {
        for keeper in keepers(&self.vault.dir()) {
            if let Some(keeper) = keeper.try_into().ok().and_then(Pid::from_raw) {
                // It may have ended by itself.
                let _ = kill_process(keeper, Signal::KILL);
            }
        }
    }
}

/// Functions for stand-ins: `rewrite SECTION KEY VALUE` writes a value into the configuration as
/// rclone does, by a new file beside it and two renames; `record` tells arguments and environment;
/// `until FILE` waits for the test.
const REWRITES: &str = r#"
rewrite() {
    new=$config.$$
    install -m 600 /dev/null "$new"
    awk -v section="[$1]" -v key="$2" -v value="$3" '
        /^\[/ { inside = ($0 == section) }
        inside && $1 == key && $2 == "=" { print key " = " value; next }
        { print }' "$config" >"$new"
    mv "$config" "$config.old"
    mv "$new" "$config"
    rm "$config.old"
}
record() {
    tr '\0' '\n' </proc/$$/cmdline >"$HERE/arguments"
    cat /proc/$$/environ >"$HERE/environment"
    cp "$config" "$HERE/seen.conf" 2>/dev/null || true
}
until_there() {
    while [ ! -e "$HERE/$1" ]; do sleep 0.02; done
}
"#;

/// What a stand-in that did `record` was given in its environment.
pub fn recorded_environment(launcher: &Launcher<'_>) -> BTreeMap<String, String> {
    launcher
        .read("environment")
        .split_terminator('\0')
        .filter_map(|variable| variable.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Waits for something that another process does.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "it did not come to pass: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The keepers of launches that have this vault in their environment.
pub fn keepers(vault: &Path) -> Vec<u32> {
    let wanted = format!("STRONGROOM_DIR={}\0", vault.display()).into_bytes();
    let processes = fs::read_dir("/proc").expect("/proc can be read");
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|process: &u32| {
            let read = |file: &str| fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
            let environment = read("environ");
            read("cmdline").split(|byte| *byte == 0).nth(1) == Some(b"keep")
                && environment.windows(wanted.len()).any(|part| part == wanted)
        })
        .collect()
}

/// rclone's obscured form of a text, by the key that is part of every rclone.
pub fn obscure(text: &str) -> String {
    let mut bytes = [[7; 16].as_slice(), text.as_bytes()].concat();
    apply(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What rclone has obscured.
#[track_caller]
pub fn reveal(obscured: &str) -> String {
    let mut bytes = URL_SAFE_NO_PAD.decode(obscured).expect("obscured");
    apply(&mut bytes);
    String::from_utf8(bytes.split_off(16)).expect("text")
}

fn apply(bytes: &mut [u8]) {
    const KEY: &str = "9c935b48730a554d6bfd7c63c886a92bd390198eb8128afbf4de162b8b95f638";
    let key = hex::decode(KEY).expect("hexadecimal");
    let (iv, text) = bytes.split_at_mut(16);
    Ctr128BE::<Aes256>::new_from_slices(&key, iv)
        .expect("a key of 32 bytes and an IV of 16")
        .apply_keystream(text);
}
