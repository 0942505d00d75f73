//! A TPM of the test's own: swtpm, a software TPM 2.0, with its own state.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{Daemon, Output, Run};

/// What [`Swtpm::measured`] measures: a boot as firmware, boot loader and stub
/// leave it in the PCRs that a vault is bound to by default.
pub const USUAL_BOOT: &[(u32, &str)] = &[
    (7, "Secure Boot on, db of the distribution"),
    (9, "kernel 6.12.15 and its initrd"),
    (11, "sections of the unified kernel image"),
];

/// A running software TPM. Its state goes with it when it is dropped.
///
/// Like a bare chip it has no resource manager and three slots for loaded
/// objects: what one client leaves loaded stays, see
/// [`Swtpm::transient_handles`].
pub struct Swtpm {
    // Dropped in this order: the server must not outlive its folder.
    daemon: Daemon,
    folder: TempDir,
}

impl Swtpm {
    /// A fresh TPM after power-on, all boot PCRs zero.
    pub fn start() -> Self {
        let folder = socket_folder();
        fs::create_dir(folder.path().join("state")).expect("create the TPM's state folder");
        let daemon = power_on(folder.path());
        Self { daemon, folder }
    }

    /// A fresh TPM that has measured a boot: each text into its PCR.
    pub fn boot(measurements: &[(u32, &str)]) -> Self {
        let tpm = Self::start();
        tpm.measure(measurements);
        tpm
    }

    /// A fresh TPM that has measured [`USUAL_BOOT`].
    pub fn measured() -> Self {
        Self::boot(USUAL_BOOT)
    }

    /// Shuts the TPM down in order, powers it off and on, and measures another
    /// boot. Connections through a [`Recorder`](crate::Recorder) go on.
    pub fn reboot(&mut self, measurements: &[(u32, &str)]) {
        self.tpm2(&["shutdown", "--clear"]).ok();
        self.daemon.stop();
        self.daemon = power_on(self.folder.path());
        self.measure(measurements);
    }

    /// Where this TPM is, in TCTI notation.
    pub fn tcti(&self) -> String {
        tcti_of(&self.socket())
    }

    /// The Unix socket that takes commands; the control channel's is
    /// [`control_of`] it.
    pub fn socket(&self) -> PathBuf {
        socket_in(self.folder.path())
    }

    /// Runs `tpm2 ARGS...` of tpm2-tools at this TPM.
    pub fn tpm2(&self, args: &[&str]) -> Output {
        Run::new("tpm2")
            .args(args)
            .env("TPM2TOOLS_TCTI", self.tcti())
            .finish()
    }

    /// Extends a PCR of the SHA-256 bank with the hash of `data`.
    pub fn extend(&self, pcr: u32, data: &[u8]) {
        let digest = hex::encode(Sha256::digest(data));
        self.tpm2(&["pcrextend", &format!("{pcr}:sha256={digest}")])
            .ok();
    }

    /// The value of a PCR in the SHA-256 bank.
    pub fn pcr(&self, pcr: u32) -> [u8; 32] {
        let printed = self
            .tpm2(&["pcrread", &format!("sha256:{pcr}")])
            .ok()
            .text();
        let (_, digits) = printed.split_once("0x").expect("pcrread prints a value");
        let mut value = [0; 32];
        hex::decode_to_slice(digits.trim(), &mut value).expect("pcrread prints 32 bytes");
        value
    }

    /// The handles of all loaded objects. A client that has ended must have
    /// left none.
    pub fn transient_handles(&self) -> Vec<u32> {
        self.handles("transient")
    }

    /// The handles of all loaded sessions. A client that has ended must have
    /// left none.
    pub fn loaded_sessions(&self) -> Vec<u32> {
        self.handles("loaded-session")
    }

    /// The handles of a kind that `tpm2 getcap handles-KIND` knows:
    /// `transient`, `persistent`, `nv-index`, `loaded-session`,
    /// `saved-session`.
    pub fn handles(&self, kind: &str) -> Vec<u32> {
        let printed = self
            .tpm2(&["getcap", &format!("handles-{kind}")])
            .ok()
            .text();
        printed
            .lines()
            .map(|line| {
                let digits = line.trim_start_matches("- 0x");
                u32::from_str_radix(digits.trim(), 16).expect("getcap prints handles")
            })
            .collect()
    }

    /// Takes out of the TPM whatever clients have left loaded.
    pub fn flush(&self) {
        self.tpm2(&["flushcontext", "--transient-object"]).ok();
        self.tpm2(&["flushcontext", "--loaded-session"]).ok();
        self.tpm2(&["flushcontext", "--saved-session"]).ok();
    }

    /// Measures a boot: each text into its PCR, in order.
    fn measure(&self, measurements: &[(u32, &str)]) {
        for (pcr, text) in measurements {
            self.extend(*pcr, text.as_bytes());
        }
    }
}

/// A temporary folder whose sockets have names short enough for the 108 bytes
/// of a Unix socket address, however long TMPDIR is.
pub(crate) fn socket_folder() -> TempDir {
    const LONGEST_PARENT: usize = 80;
    let mut parent = env::temp_dir();
    // A comma would end the path in TCTI notation.
    if parent.as_os_str().len() > LONGEST_PARENT || parent.to_string_lossy().contains(',') {
        parent = PathBuf::from("/tmp");
    }
    tempfile::Builder::new()
        .prefix("sr-")
        .tempdir_in(parent)
        .expect("create a folder for sockets")
}

/// The command socket in a [`socket_folder`].
pub(crate) fn socket_in(folder: &Path) -> PathBuf {
    folder.join("tpm")
}

/// The socket of the control channel, which libtss2 and swtpm expect beside
/// that of the commands.
pub fn control_of(socket: &Path) -> PathBuf {
    let mut control = socket.as_os_str().to_owned();
    control.push(".ctrl");
    control.into()
}

/// A socket in TCTI notation.
pub(crate) fn tcti_of(socket: &Path) -> String {
    format!("swtpm:path={}", socket.display())
}

/// Starts swtpm on the state in `folder`, and TPM2_Startup(CLEAR) with it.
fn power_on(folder: &Path) -> Daemon {
    let socket = socket_in(folder);
    let control = control_of(&socket);
    // Left from before a reboot, and in the way.
    let _ = fs::remove_file(&socket);
    let _ = fs::remove_file(&control);

    let mut command = Daemon::command("swtpm");
    command
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--tpmstate")
        .arg(format!("dir={}", folder.join("state").display()))
        .arg("--server")
        .arg(format!("type=unixio,path={}", socket.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", control.display()));
    let mut daemon = Daemon::spawn(command, &folder.join("log"));
    daemon.wait_until("swtpm answers", |_| answers(&socket).then_some(()));
    daemon
}

/// Whether the TPM at `socket` executes a command, TPM2_ReadClock, which it
/// refuses before TPM2_Startup.
fn answers(socket: &Path) -> bool {
    const READ_CLOCK: [u8; 10] = [0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x81];
    let ask = || {
        let mut tpm = UnixStream::connect(socket)?;
        tpm.set_read_timeout(Some(Duration::from_secs(1)))?;
        tpm.write_all(&READ_CLOCK)?;
        let mut header = [0; 10];
        tpm.read_exact(&mut header)?;
        std::io::Result::Ok(header)
    };
    ask().is_ok_and(|header| header.ends_with(&[0; 4]))
}
