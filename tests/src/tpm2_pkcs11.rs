//! A token of the peer's: tpm2-pkcs11, on a TPM and with a store of its own.

use std::ffi::OsString;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::token::{id_of, in_library_folder};
use crate::{KeyType, Recorder, Run, Swtpm};

/// The token's PIN.
pub const PIN: &str = "123456";

const SO_PIN: &str = "567890";

/// The label of the token.
const LABEL: &str = "keys";

/// A token that is ready for use.
///
/// It is made through the module itself, as PKCS#11 has it: tpm2-pkcs11's own `tpm2_ptool` needs
/// Python's bindings of libtss2, and those of Debian 12 do not load with libtss2 4.
pub struct Tpm2Pkcs11 {
    // Dropped in this order: nothing must lose what it still uses.
    recorder: Recorder,
    tpm: Swtpm,
    store: TempDir,
}

impl Tpm2Pkcs11 {
    /// A token on a fresh TPM that has measured a boot, with no keys.
    pub fn new() -> Self {
        let tpm = Swtpm::measured();
        let token = Self {
            recorder: Recorder::start(&tpm),
            tpm,
            store: tempfile::tempdir().expect("create a folder for the store"),
        };
        token
            .tool(&["--init-token", "--slot-index", "0"])
            .args(["--label", LABEL, "--so-pin", SO_PIN])
            .ok();
        token
            .tool(&["--token-label", LABEL, "--init-pin", "--login"])
            .args(["--so-pin", SO_PIN, "--pin", PIN])
            .ok();
        // It leaves its primary key loaded.
        token.tpm.flush();
        token
    }

    /// Makes a key pair in the token.
    #[track_caller]
    pub fn generate(&self, key: KeyType, label: &str) {
        self.tool(&["--token-label", LABEL, "--login", "--pin", PIN])
            .args(["--keypairgen", "--key-type", key.name()])
            .args(["--label", label, "--id", &id_of(label)])
            .ok();
        self.tpm.flush();
    }

    /// The module's file.
    pub fn module(&self) -> PathBuf {
        in_library_folder("pkcs11/libtpm2_pkcs11.so")
    }

    /// What the module needs in its host's environment.
    pub fn environment(&self) -> [(&'static str, OsString); 3] {
        [
            ("TPM2_PKCS11_STORE", self.store.path().into()),
            ("TPM2_PKCS11_TCTI", self.recorder.tcti().into()),
            ("TPM2_PKCS11_LOG_LEVEL", "0".into()),
        ]
    }

    /// The TPM itself; what is done here is not recorded.
    pub fn tpm(&self) -> &Swtpm {
        &self.tpm
    }

    /// The record of all that the module did at the TPM.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    fn tool(&self, args: &[&str]) -> Run {
        let run = Run::new("pkcs11-tool")
            .arg("--module")
            .arg(self.module())
            .args(args);
        self.environment()
            .into_iter()
            .fold(run, |run, (name, value)| run.env(name, value))
    }
}

impl Default for Tpm2Pkcs11 {
    fn default() -> Self {
        Self::new()
    }
}
