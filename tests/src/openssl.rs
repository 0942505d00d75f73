//! OpenSSL over a token, by either of the ways in which its users reach one: the provider of
//! OpenSSL 3, and libp11's engine.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use der::{Any, Encode, Tag};

use crate::token::in_library_folder;
use crate::{Daemon, Run, Token, port};

/// How OpenSSL reaches the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// pkcs11-provider.
    Provider,
    /// libengine-pkcs11-openssl, for the keys that are named to be its.
    Engine,
    /// The same, which its user makes the default for everything, as `openssl -engine` and
    /// `curl --engine` do: also for what the token's module itself, or a TPM's library in it, asks
    /// OpenSSL to do.
    DefaultEngine,
}

/// OpenSSL with a configuration that leads to a token.
pub struct OpenSsl<'a> {
    token: &'a Token,
    way: Way,
    config: PathBuf,
}

impl<'a> OpenSsl<'a> {
    /// Configures OpenSSL for this token.
    pub fn new(token: &'a Token, way: Way) -> Self {
        let name = format!("{way:?}.cnf").to_lowercase();
        let config = token.write(&name, config(token, way));
        Self { token, way, config }
    }

    /// The way that it is configured for.
    pub fn way(&self) -> Way {
        self.way
    }

    /// The token that it is configured for.
    pub fn token(&self) -> &'a Token {
        self.token
    }

    /// Any program whose OpenSSL reads this configuration.
    pub fn host(&self, program: &str) -> Run {
        self.token.run(program).env("OPENSSL_CONF", &self.config)
    }

    /// Any server whose OpenSSL reads this configuration.
    pub fn daemon(&self, program: &str) -> Command {
        let mut command = self.token.daemon(program);
        command.env("OPENSSL_CONF", &self.config);
        command
    }

    /// `openssl ARGS...`
    pub fn run(&self, args: &[&str]) -> Run {
        self.host("openssl").args(args)
    }

    /// Options that name a private key of the token to a command that takes it by `option`, such
    /// as `-inkey`.
    pub fn key(&self, option: &str, label: &str) -> Vec<String> {
        let uri = Token::uri(label);
        match self.way {
            Way::Provider => vec![option.to_owned(), uri],
            Way::Engine => vec![
                option.to_owned(),
                format!("org.openssl.engine:pkcs11:{uri}"),
            ],
            Way::DefaultEngine => {
                let form = match option {
                    "-in" => "-inform",
                    "-sign" | "-key" | "-inkey" => "-keyform",
                    _ => panic!("which option gives the form of {option}'s key?"),
                };
                [option, &uri, form, "engine", "-engine", "pkcs11"]
                    .map(str::to_owned)
                    .to_vec()
            }
        }
    }

    /// Writes the public half of a key.
    #[track_caller]
    pub fn public_key(&self, label: &str) -> PathBuf {
        let file = self.token.file(&format!("{label}-public.pem"));
        self.run(&["pkey", "-pubout", "-out"])
            .arg(&file)
            .args(self.key("-in", label))
            .ok();
        file
    }

    /// Writes a certificate for 127.0.0.1 that a key signs for itself.
    #[track_caller]
    pub fn certificate(&self, label: &str) -> PathBuf {
        let file = self.token.file(&format!("{label}-certificate.pem"));
        self.run(&[
            "req",
            "-x509",
            "-days",
            "2",
            "-subj",
            &format!("/CN={label}"),
        ])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-out"])
        .arg(&file)
        .args(self.key("-key", label))
        .ok();
        file
    }

    /// A PEM file that stands for a key of the token, for programs that take files only. Read by
    /// the provider.
    pub fn key_file(&self, label: &str) -> PathBuf {
        assert_eq!(self.way, Way::Provider, "engines have no such files");
        let text = |tag, text: &str| Any::new(tag, text.as_bytes()).expect("it is short");
        let uri = vec![
            text(Tag::VisibleString, "PKCS#11 Provider URI v1.0"),
            text(Tag::Utf8String, &Token::uri(label)),
        ];
        let encoded = BASE64.encode(uri.to_der().expect("it is short"));
        let mut pem = String::from("-----BEGIN PKCS#11 PROVIDER URI-----\n");
        for line in encoded.as_bytes().chunks(64) {
            let line = std::str::from_utf8(line).expect("base64 is ASCII");
            writeln!(pem, "{line}").expect("writing to memory cannot fail");
        }
        pem.push_str("-----END PKCS#11 PROVIDER URI-----\n");
        self.token.write(&format!("{label}-uri.pem"), pem)
    }

    /// `openssl s_server OPTIONS...` with a key of the token.
    pub fn serve(&self, label: &str, certificate: &Path, options: &[&str]) -> TlsServer {
        let port = port::reserve();
        let mut command = self.daemon("openssl");
        command
            .args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-www"])
            .arg("-cert")
            .arg(certificate)
            .args(self.key("-key", label))
            .args(options);
        let log = self.token.file(&format!("s_server-{port}.log"));
        let mut daemon = Daemon::spawn(command, &log);
        daemon.wait_until("s_server accepts connections", |server| {
            server.log().contains("ACCEPT").then_some(())
        });
        TlsServer { daemon, port }
    }
}

/// A running `openssl s_server`.
pub struct TlsServer {
    daemon: Daemon,
    port: u16,
}

impl TlsServer {
    /// HOST:PORT.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}

/// `openssl ARGS...` without any token: the other side of a test.
pub fn plain(args: &[&str]) -> Run {
    Run::new("openssl")
        .args(args)
        .env("OPENSSL_CONF", "/dev/null")
}

/// Makes a key pair in software.
#[track_caller]
pub fn generate(key: crate::KeyType, file: &Path) {
    plain(&["genpkey", "-out"])
        .arg(file)
        .args(key.genpkey())
        .ok();
}

fn config(token: &Token, way: Way) -> String {
    let module = token.module().display();
    let pin = |name: &str| {
        token
            .pin()
            .map_or_else(String::new, |pin| format!("{name} = {pin}\n"))
    };
    let behaviour = if token.is_peer() {
        // SoftHSM2 needs OpenSSL itself, which is half gone when the provider takes its leave.
        "pkcs11-module-quirks = no-deinit\n"
    } else {
        // A provider that loads its module late only, in a process forked from that which loaded
        // the key, verifies others' EC signatures in the token too; and cannot, if that needs no
        // login.
        "pkcs11-module-load-behavior = early\n"
    };
    let access = match way {
        // The default provider first: TLS takes what comes first for its own cryptography, and fails
        // with what pkcs11-provider offers for that.
        Way::Provider => format!(
            "providers = providers\n\
             [providers]\n\
             default = default_provider\n\
             pkcs11 = pkcs11_access\n\
             [default_provider]\n\
             activate = 1\n\
             [pkcs11_access]\n\
             module = {}\n\
             pkcs11-module-path = {module}\n\
             {behaviour}\
             activate = 1\n\
             {}",
            in_library_folder("ossl-modules/pkcs11.so").display(),
            pin("pkcs11-module-token-pin")
        ),
        Way::Engine | Way::DefaultEngine => format!(
            "engines = engines\n\
             [engines]\n\
             pkcs11 = pkcs11_access\n\
             [pkcs11_access]\n\
             engine_id = pkcs11\n\
             dynamic_path = {}\n\
             MODULE_PATH = {module}\n\
             {}\
             init = 1\n",
            in_library_folder("engines-3/pkcs11.so").display(),
            pin("PIN")
        ),
    };
    format!(
        "openssl_conf = openssl\n\
         [req]\n\
         distinguished_name = name\n\
         [name]\n\
         [openssl]\n\
         {access}"
    )
}
