//! A vault of the test's own, made and used through the programs alone, as an
//! admin would.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::someone::{copy_for_all, set_mode};
use crate::{Programs, Recorder, Run, Someone, Swtpm};

/// A TPM, a vault sealed to it, and the vault's recovery file.
///
/// The programs reach the TPM through a [`Recorder`], so that any test can
/// count what was done and look for secrets on the bus.
pub struct TestVault {
    // Dropped in this order: nothing must lose what it still uses.
    recorder: Recorder,
    tpm: Swtpm,
    folder: TempDir,
    programs: Programs,
}

impl TestVault {
    /// A vault bound to [`USUAL_BOOT`](crate::swtpm::USUAL_BOOT) by the
    /// defaults of `strongroom init`.
    pub fn new() -> Self {
        Self::on(Swtpm::measured(), &[])
    }

    /// A vault on this TPM, with more options for `strongroom init`, such as
    /// `["--pcrs", "7,9"]`.
    pub fn on(tpm: Swtpm, options: &[&str]) -> Self {
        let vault = Self::without_init(tpm);
        let recovery = vault.recovery();
        vault
            .strongroom(&["init", "--yes"])
            .arg("--recovery-out")
            .arg(recovery)
            .args(options)
            .ok();
        vault
    }

    /// All that a vault needs, before `strongroom init`: its folder is not
    /// there yet.
    pub fn without_init(tpm: Swtpm) -> Self {
        Self {
            recorder: Recorder::start(&tpm),
            tpm,
            folder: tempfile::tempdir().expect("create a folder for the vault"),
            programs: Programs::locate(),
        }
    }

    /// Where the vault is.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("vault")
    }

    /// The recovery file that `strongroom init` wrote.
    pub fn recovery(&self) -> PathBuf {
        self.folder.path().join("recovery")
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The TPM itself; what is done here is not recorded.
    pub fn tpm(&self) -> &Swtpm {
        &self.tpm
    }

    /// The record of all that the programs did at the TPM.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The programs under test.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Restarts the box with another boot, see [`Swtpm::reboot`].
    pub fn reboot(&mut self, measurements: &[(u32, &str)]) {
        self.tpm.reboot(measurements);
    }

    /// Puts another TPM in the box, as a new mainboard does. The record starts
    /// afresh.
    pub fn replace_tpm(&mut self, tpm: Swtpm) -> Swtpm {
        self.recorder = Recorder::start(&tpm);
        std::mem::replace(&mut self.tpm, tpm)
    }

    /// `strongroom ARGS...`, on this vault.
    pub fn strongroom(&self, args: &[&str]) -> Run {
        self.run(self.programs.strongroom()).args(args)
    }

    /// Any program, on this vault.
    pub fn run(&self, program: impl AsRef<OsStr>) -> Run {
        Run::new(program)
            .env("STRONGROOM_DIR", self.dir())
            .env("STRONGROOM_TCTI", self.recorder.tcti())
    }

    /// Any program, on this vault, run by somebody else. They come through the folders above the
    /// vault; what they may do in it, and at the TPM, is another matter.
    pub fn run_as(&self, someone: &Someone, program: &Path) -> Run {
        set_mode(self.folder(), 0o711);
        let prefix = someone.prefix();
        self.run(&prefix[0])
            .args(&prefix[1..])
            .arg(copy_for_all(program, self.folder()))
    }

    /// Seals a credential, and returns its id.
    #[track_caller]
    pub fn seal(&self, token: &str, label: &str, secret: &[u8]) -> String {
        let sealed = self
            .strongroom(&["seal", "--token", token, "--label", label])
            .args(["--kind", "credential", "--json"])
            .stdin(secret)
            .ok();
        match sealed.json()["id"].as_str() {
            Some(id) => id.to_owned(),
            None => panic!("it should have printed an id: {sealed}"),
        }
    }

    /// Unseals what token and label name.
    #[track_caller]
    pub fn unseal(&self, token: &str, label: &str) -> Vec<u8> {
        self.strongroom(&["unseal", "--token", token, "--label", label])
            .ok()
            .stdout
    }

    /// Unseals the object of this id.
    #[track_caller]
    pub fn unseal_id(&self, id: &str) -> Vec<u8> {
        self.strongroom(&["unseal", "--id", id]).ok().stdout
    }
}

impl Default for TestVault {
    fn default() -> Self {
        Self::new()
    }
}
