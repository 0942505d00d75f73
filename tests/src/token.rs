//! A PKCS#11 token with the module under test, for clients to use.
//!
//! It is the token `keys` of a [`TestVault`]. So that a failing test can be told from a failing
//! module, the same tests run over a peer's: `STRONGROOM_TEST_PEER` names SoftHSM2's module.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::someone::{copy_for_all, give, groups, set_mode};
use crate::unit::ServiceUnit;
use crate::{Daemon, Run, Someone, TestVault};

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
    pin: Option<&'static str>,
    module: PathBuf,
    environment: Vec<(&'static str, OsString)>,
    /// Who the clients are, if not the test itself.
    client: Option<Someone>,
}

enum Device {
    /// The token `keys` of a vault.
    Vault(Box<TestVault>),
    /// A token of SoftHSM2's in the folder.
    SoftHsm,
}

const LABEL: &str = "keys";
const PIN: &str = "1234";
const OFFICER_PIN: &str = "5678";

/// Hands standard input on as systemd does a socket: as descriptor 3, to the process that it says.
const AS_SYSTEMD: &str = "exec 3<&0 0</dev/null; \
    export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";

impl Token {
    /// An empty token; with PINs where `STRONGROOM_TEST_PIN` says so.
    pub fn new() -> Self {
        if env::var_os("STRONGROOM_TEST_PIN").is_some() {
            Self::guarded()
        } else {
            Self::without_pin()
        }
    }

    fn without_pin() -> Self {
        if let Some(peer) = env::var_os("STRONGROOM_TEST_PEER") {
            let folder = tempfile::tempdir().expect("create a folder for the test");
            let config = folder.path().join("softhsm2.conf");
            let token = Self {
                server: None,
                device: Device::SoftHsm,
                folder,
                pin: Some(PIN),
                module: peer.into(),
                environment: vec![("SOFTHSM2_CONF", config.into())],
                client: None,
            };
            token.initialize_softhsm();
            return token;
        }
        Self::of(TestVault::new())
    }

    /// The token of a vault that has keys already, and no PIN.
    pub fn of(vault: TestVault) -> Self {
        Self {
            server: None,
            folder: tempfile::tempdir().expect("create a folder for the test"),
            pin: None,
            module: vault.programs().pkcs11_module(),
            environment: vec![
                ("STRONGROOM_DIR", vault.dir().into()),
                ("STRONGROOM_TCTI", vault.recorder().tcti().into()),
            ],
            device: Device::Vault(Box::new(vault)),
            client: None,
        }
    }

    /// An empty token with PINs.
    pub fn guarded() -> Self {
        let mut token = Self::without_pin();
        if !token.is_peer() {
            token.begin_with_pins();
        }
        token
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

    /// The same token, served by the units of `systemd/` as they stand there, to clients that are
    /// in no group but the socket's. The server runs as the service's user does: it may use the
    /// TPM and read this token.
    #[must_use]
    pub fn served_by_unit(mut self) -> Self {
        let vault = self.vault().expect("the units serve a vault's token");
        vault
            .strongroom(&["token", "allow", LABEL, "--group", groups::TOKEN_NAME])
            .ok();
        vault.recorder().let_in(groups::TPM);
        set_mode(vault.folder(), 0o711);
        let module = copy_for_all(&self.module, vault.folder());
        // Clients write their results here.
        set_mode(self.folder.path(), 0o777);

        let user = Someone::new(64_100, &[groups::TPM, groups::TOKEN]);
        let unit = ServiceUnit::read("strongroom-p11-kit@.service", LABEL);
        let command = unit
            .exec_start()
            .into_iter()
            .map(|word| match word.as_str() {
                "libstrongroom_pkcs11.so" => module.display().to_string(),
                _ => word,
            });
        let socket = self.file("p11-kit");
        let listener = UnixListener::bind(&socket).expect("the folder can be written");
        give(&socket, groups::SOCKET, 0o660);
        let mut launcher = self.daemon("sh");
        launcher.args(["-c", AS_SYSTEMD, "sh"]).args(user.prefix());
        launcher.args(command);
        let log = self.file("p11-kit.log");
        let listener = OwnedFd::from(listener).into();
        let mut server = Daemon::spawn_with(launcher, listener, &log);
        server.wait_until("the server listens", |server| {
            server.log().contains("Listening on").then_some(())
        });
        let address = format!("unix:path={}", socket.display());
        self.server = Some(server);
        self.environment = vec![("P11_KIT_SERVER_ADDRESS", address.into())];
        self.module = in_library_folder("pkcs11/p11-kit-client.so");
        self.client = Some(Someone::nobody(&[groups::SOCKET]));
        self
    }

    /// What the server has printed, if there is one.
    pub fn server_log(&self) -> String {
        self.server.as_ref().map(Daemon::log).unwrap_or_default()
    }

    /// Other clients from now on.
    #[must_use]
    pub fn for_client(mut self, client: Someone) -> Self {
        self.client = Some(client);
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
        self.pin
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
        let run = match &self.client {
            None => Run::new(program),
            Some(client) => {
                let prefix = client.prefix();
                Run::new(&prefix[0]).args(&prefix[1..]).arg(program)
            }
        };
        self.environment
            .iter()
            .fold(run, |run, (name, value)| run.env(name, value))
    }

    /// A server that may load the module, see [`Daemon::command`].
    pub fn daemon(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match &self.client {
            None => Daemon::command(program),
            Some(client) => {
                let prefix = client.prefix();
                let mut command = Daemon::command(&prefix[0]);
                command.args(&prefix[1..]).arg(program);
                command
            }
        };
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

    /// As an admin would, with pkcs11-tool.
    fn begin_with_pins(&mut self) {
        // The slot of `keys`: `credentials` and `datasets` are before it.
        let begin = ["--slot", "2", "--init-token", "--label", LABEL];
        let first = ["--token-label", LABEL, "--login", "--login-type", "so"];
        for args in [
            &[&begin[..], &["--so-pin", OFFICER_PIN]].concat(),
            &[
                &first[..],
                &["--so-pin", OFFICER_PIN, "--init-pin", "--pin", PIN],
            ]
            .concat(),
        ] {
            self.run("pkcs11-tool")
                .arg("--module")
                .arg(&self.module)
                .args(args)
                .ok();
        }
        self.pin = Some(PIN);
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
            .args(["--so-pin", OFFICER_PIN, "--pin", PIN])
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
