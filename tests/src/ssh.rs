//! OpenSSH around a token: an sshd on the loopback interface, an agent, and what their clients
//! need to know.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::executable;
use crate::someone::set_mode;
use crate::swtpm::socket_folder;
use crate::{Daemon, Run, Token, port};

/// A running sshd that lets in whoever runs the test, with keys that it is told of.
pub struct Sshd {
    // Dropped in this order: the server must not outlive its folder.
    daemon: Daemon,
    folder: TempDir,
    port: u16,
}

impl Sshd {
    /// Lets in the holders of these keys, one a line.
    pub fn start(authorized_keys: &str) -> Self {
        let folder = tempfile::tempdir().expect("create sshd's folder");
        let path = |name| folder.path().join(name);
        let port = port::reserve();
        Run::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(path("host"))
            .ok();
        let host = fs::read_to_string(path("host.pub")).expect("ssh-keygen wrote it");
        let write = |name, text: &str| fs::write(path(name), text).expect("the folder is ours");
        write("known_hosts", &format!("[127.0.0.1]:{port} {host}"));
        write("authorized_keys", authorized_keys);
        write(
            "sshd_config",
            &format!(
                "ListenAddress 127.0.0.1:{port}\n\
                 HostKey {}\n\
                 AuthorizedKeysFile {}\n\
                 PidFile none\n\
                 StrictModes no\n\
                 UsePAM no\n\
                 PermitRootLogin prohibit-password\n\
                 PasswordAuthentication no\n\
                 KbdInteractiveAuthentication no\n\
                 Subsystem sftp internal-sftp\n",
                path("host").display(),
                path("authorized_keys").display()
            ),
        );
        // sshd started by root confines a part of itself in it; a system's unit makes it.
        let _ = fs::create_dir_all("/run/sshd");
        // sshd starts itself anew for each connection, and so wants to know where it lies.
        let mut command = Daemon::command("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(path("sshd_config"));
        let mut daemon = Daemon::spawn(command, &path("log"));
        daemon.wait_until("sshd accepts connections", |_| {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        });
        Self {
            daemon,
            folder,
            port,
        }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file that says the server's host key.
    pub fn known_hosts(&self) -> PathBuf {
        self.folder.path().join("known_hosts")
    }

    /// Arguments of `ssh` or `sftp` for a login that asks nothing, and reads no configuration.
    pub fn login(&self) -> Vec<String> {
        let options = [
            format!("UserKnownHostsFile={}", self.known_hosts().display()),
            "StrictHostKeyChecking=yes".to_owned(),
            "IdentityFile=none".to_owned(),
            "PreferredAuthentications=publickey".to_owned(),
            format!("Port={}", self.port),
        ];
        let mut arguments = vec!["-F".to_owned(), "none".to_owned()];
        for option in options {
            arguments.extend(["-o".to_owned(), option]);
        }
        arguments.push("127.0.0.1".to_owned());
        arguments
    }

    /// What sshd has logged.
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}

/// A running ssh-agent, which loads a token's module and no other.
pub struct Agent<'a> {
    // Dropped in this order: the server must not outlive its folder.
    daemon: Daemon,
    folder: TempDir,
    token: &'a Token,
}

impl<'a> Agent<'a> {
    /// An agent without keys.
    pub fn start(token: &'a Token) -> Self {
        let folder = socket_folder();
        let socket = socket_in(folder.path());
        let mut command = token.daemon("ssh-agent");
        // The agent compares what it is asked for with its real path.
        let module = fs::canonicalize(token.module()).expect("the module is there");
        command
            .arg("-D")
            .arg("-P")
            .arg(module)
            .arg("-a")
            .arg(&socket);
        let mut daemon = Daemon::spawn(command, &folder.path().join("log"));
        daemon.wait_until("ssh-agent listens", |_| socket.exists().then_some(()));
        Self {
            daemon,
            folder,
            token,
        }
    }

    /// A program that may ask the agent.
    pub fn run(&self, program: &str) -> Run {
        with_askpass(self.token, program).env("SSH_AUTH_SOCK", socket_in(self.folder.path()))
    }

    /// `ssh-add -s`: all keys of the token.
    #[track_caller]
    pub fn add_token(&self) {
        self.run("ssh-add").arg("-s").arg(self.token.module()).ok();
    }

    /// What the agent has logged.
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}

/// A program of OpenSSH's that loads the token's module, and that gets the PIN when it asks.
pub fn with_askpass(token: &Token, program: &str) -> Run {
    let script = format!("#!/bin/sh\necho {}\n", token.pin().unwrap_or_default());
    let askpass = token.file("askpass");
    executable::write(&askpass, script);
    set_mode(&askpass, 0o700);
    token
        .run(program)
        .env("SSH_ASKPASS", askpass)
        .env("SSH_ASKPASS_REQUIRE", "force")
}

/// Who runs the test.
pub fn user_name() -> String {
    let name = Run::new("id").arg("-un").ok().text();
    name.trim_end().to_owned()
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("agent")
}
