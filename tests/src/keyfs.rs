//! Dataset keys as files: `zfs-keyprovider serve`, as a unit runs it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};

use crate::someone::skipped;
use crate::{Daemon, TestVault};

/// A folder of keys that is served. Dropped, it is unmounted, whatever became of its server.
pub struct KeyFs {
    daemon: Daemon,
    mountpoint: PathBuf,
}

impl KeyFs {
    /// Whether files can be served here, which takes root and FUSE. Where they cannot, it says so.
    pub fn can_be() -> bool {
        if !rustix::process::geteuid().is_root() {
            skipped("only root can mount");
            return false;
        }
        if let Err(error) = fs::File::options().write(true).open("/dev/fuse") {
            skipped(&format!("/dev/fuse cannot be used: {error}"));
            return false;
        }
        true
    }

    /// Serves a vault's keys, and waits until it does.
    pub fn start(vault: &TestVault) -> Self {
        Self::start_with(vault, |_| {})
    }

    /// The same, with other arguments or another environment.
    pub fn start_with(vault: &TestVault, change: impl FnOnce(&mut Command)) -> Self {
        let mut keys = Self::spawn(vault, change);
        keys.daemon.wait_until("keys are served", |server| {
            server.log().contains("serving").then_some(())
        });
        keys
    }

    /// The same, without waiting.
    pub fn spawn(vault: &TestVault, change: impl FnOnce(&mut Command)) -> Self {
        let mountpoint = vault.folder().join("keys");
        let mut command = Daemon::command(vault.programs().zfs_keyprovider());
        command
            .arg("serve")
            .arg(&mountpoint)
            .env("STRONGROOM_DIR", vault.dir())
            .env("STRONGROOM_TCTI", vault.recorder().tcti())
            .env_remove("STRONGROOM_LOG");
        change(&mut command);
        let daemon = Daemon::spawn(command, &vault.folder().join("keyfs.log"));
        Self { daemon, mountpoint }
    }

    /// Where the files are.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The path of a file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.mountpoint.join(name)
    }

    /// What a file holds.
    pub fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.file(name))
    }

    /// What a file holds, which must be a key.
    #[track_caller]
    pub fn key(&self, name: &str) -> Vec<u8> {
        match self.read(name) {
            Ok(key) => key,
            Err(error) => panic!("{name}: {error}\n{}", self.log()),
        }
    }

    /// The number of the error with which a file cannot be read.
    #[track_caller]
    pub fn errno(&self, name: &str) -> i32 {
        match self.read(name) {
            Ok(_) => panic!("{name} can be read\n{}", self.log()),
            Err(error) => error.raw_os_error().expect("an error of the system"),
        }
    }

    /// The names in a folder, in order.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.file(folder)).expect("the folder can be read");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.into_string().expect("ASCII"))
            .collect();
        names.sort();
        names
    }

    /// Whether something is mounted there, dead or alive.
    pub fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("a list of mounts");
        let place = format!(" {} ", self.mountpoint.display());
        mounts.contains(&place)
    }

    /// The server's log.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// The process that a service manager knows, which mounts.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// The process that answers the kernel.
    pub fn inner_pid(&self) -> u32 {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.expect("the server runs");
        children.trim().parse().expect("it has one child")
    }

    /// The server.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// Waits until something has come about.
    #[track_caller]
    pub fn wait_for(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(15);
        while !is_so(self) {
            assert!(Instant::now() < deadline, "{what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for KeyFs {
    fn drop(&mut self) {
        self.daemon.stop();
        // The test's folder cannot be removed otherwise.
        while self.is_mounted() {
            if unmount(&self.mountpoint, UnmountFlags::DETACH).is_err() {
                break;
            }
        }
    }
}
