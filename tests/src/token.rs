//! A PKCS#11 token with the module under test, for clients to use.
//!
//! It is the token `keys` of a [`TestVault`]. So that a failing test can be told from a failing
//! module, the same tests run over a peer's: `STRONGROOM_TEST_PEER` names SoftHSM2's module.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Daemon, Run, TestVault};

/// A kind of key pair that a token makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// RSA with 2048 bits.
    Rsa2048,
    /// On the curve P-256.
    P256,
    /// On the curve P-384.
    P384,
}

impl KeyType {
    /// As pkcs11-tool spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rsa2048 => "rsa:2048",
            Self::P256 => "EC:prime256v1",
            Self::P384 => "EC:secp384r1",
        }
    }

    /// Options of `openssl genpkey` for such a key in software.
    pub fn genpkey(self) -> [&'static str; 4] {
        let (algorithm, option) = match self {
            Self::Rsa2048 => ("RSA", "rsa_keygen_bits:2048"),
            Self::P256 => ("EC", "ec_paramgen_curve:P-256"),
            Self::P384 => ("EC", "ec_paramgen_curve:P-384"),
        };
        ["-algorithm", algorithm, "-pkeyopt", option]
    }
}

/// A token that is ready for use, and a folder for the test's own files.
pub struct Token {
    // Dropped in this order: nothing must lose what it still uses.
    server: Option<Daemon>,
    device: Device,
    folder: TempDir,
    module: PathBuf,
    environment: Vec<(&'static str, OsString)>,
}

enum Device {
    /// The token `keys` of a vault.
    Vault(Box<TestVault>),
    /// A token of SoftHSM2's in the folder.
    SoftHsm,
}

const LABEL: &str = "keys";
const SOFTHSM_PIN: &str = "1234";

impl Token {
    /// An empty token.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("create a folder for the test");
        if let Some(peer) = env::var_os("STRONGROOM_TEST_PEER") {
            let config = folder.path().join("softhsm2.conf");
            let token = Self {
                server: None,
                device: Device::SoftHsm,
                folder,
                module: peer.into(),
                environment: vec![("SOFTHSM2_CONF", config.into())],
            };
            token.initialize_softhsm();
            return token;
        }
        let vault = TestVault::new();
        Self {
            server: None,
            folder,
            module: vault.programs().pkcs11_module(),
            environment: vec![
                ("STRONGROOM_DIR", vault.dir().into()),
                ("STRONGROOM_TCTI", vault.recorder().tcti().into()),
            ],
            device: Device::Vault(Box::new(vault)),
        }
    }

    /// The same token, which clients now reach through p11-kit: the module is in a process of
    /// p11-kit's, and theirs know neither the TPM nor the vault.
    #[must_use]
    pub fn served(mut self) -> Self {
        if self.is_peer() {
            // p11-kit has a process for each client, and SoftHSM2 fails now and then in several.
            return self;
        }
        let socket = self.file("p11-kit");
        let mut command = self.daemon("p11-kit");
        command
            .args(["server", "--foreground", "--name"])
            .arg(&socket);
        command.arg("--provider").arg(&self.module);
        command.arg(format!("pkcs11:token={LABEL}"));
        let mut server = Daemon::spawn(command, &self.file("p11-kit.log"));
        server.wait_until("p11-kit listens", |_| UnixStream::connect(&socket).ok());
        let address = format!("unix:path={}", socket.display());
        self.server = Some(server);
        self.environment = vec![("P11_KIT_SERVER_ADDRESS", address.into())];
        self.module = in_library_folder("pkcs11/p11-kit-client.so");
        self
    }

    /// Whether this is a peer's token, which cannot do all that ours must.
    pub fn is_peer(&self) -> bool {
        matches!(self.device, Device::SoftHsm)
    }

    /// The vault whose token it is, if it is ours.
    pub fn vault(&self) -> Option<&TestVault> {
        match &self.device {
            Device::Vault(vault) => Some(vault),
            Device::SoftHsm => None,
        }
    }

    /// The module's file.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// The PIN, if it has one.
    pub fn pin(&self) -> Option<&'static str> {
        self.is_peer().then_some(SOFTHSM_PIN)
    }

    /// A path in the test's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file in the test's folder.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let file = self.file(name);
        fs::write(&file, bytes).expect("the folder can be written");
        file
    }

    /// What the module needs in its host's environment.
    pub fn environment(&self) -> &[(&'static str, OsString)] {
        &self.environment
    }

    /// A program that may load the module.
    pub fn run(&self, program: impl AsRef<OsStr>) -> Run {
        self.environment
            .iter()
            .fold(Run::new(program), |run, (name, value)| run.env(name, value))
    }

    /// A server that may load the module, see [`Daemon::command`].
    pub fn daemon(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Daemon::command(program);
        command.envs(self.environment.iter().cloned());
        command
    }

    /// `pkcs11-tool ARGS...` on this token, logged in if it has a PIN.
    pub fn pkcs11_tool(&self, args: &[&str]) -> Run {
        let login = self.pin().map(|pin| ["--login", "--pin", pin]);
        self.run("pkcs11-tool")
            .arg("--module")
            .arg(&self.module)
            .args(["--token-label", LABEL])
            .args(login.iter().flatten())
            .args(args)
    }

    /// Makes a key pair in the token.
    #[track_caller]
    pub fn generate(&self, key: KeyType, label: &str) {
        self.pkcs11_tool(&["--keypairgen", "--key-type", key.name()])
            .args(["--label", label, "--id", &id_of(label)])
            .ok();
    }

    /// The URI (RFC 7512) of a private key, without a PIN.
    pub fn uri(label: &str) -> String {
        Self::uri_of(label, "private")
    }

    /// The URI of an object of another type, such as `cert`.
    pub fn uri_of(label: &str, kind: &str) -> String {
        format!("pkcs11:token={LABEL};object={label};type={kind}")
    }

    /// Expects that no client has left anything in the TPM. A helper of a client that has ended,
    /// such as p11-kit's, is given time to notice.
    #[track_caller]
    pub fn is_left_clean(&self) {
        let Some(vault) = self.vault() else {
            return;
        };
        let left = || {
            (
                vault.tpm().transient_handles(),
                vault.tpm().loaded_sessions(),
            )
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        while left() != (Vec::new(), Vec::new()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(left(), (Vec::new(), Vec::new()), "objects and sessions");
    }

    fn initialize_softhsm(&self) {
        let tokens = self.file("tokens");
        fs::create_dir(&tokens).expect("the folder can be written");
        let config = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        );
        self.write("softhsm2.conf", config);
        self.run("softhsm2-util")
            .args(["--init-token", "--free", "--label", LABEL])
            .args(["--so-pin", "5678", "--pin", SOFTHSM_PIN])
            .ok();
    }
}

impl Default for Token {
    fn default() -> Self {
        Self::new()
    }
}

/// A `CKA_ID`, in hexadecimal, that goes with a label.
pub fn id_of(label: &str) -> String {
    hex::encode(label)
}

/// A file in the folder of libraries of whatever architecture this is.
pub fn in_library_folder(name: &str) -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("/usr/lib can be read");
    folders
        .filter_map(|folder| Some(folder.ok()?.path().join(name)))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is missing: run scripts/setup.sh"))
}
