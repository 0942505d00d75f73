//! A cloud of the test's own: rclone serving WebDAV behind a password.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tempfile::TempDir;

use crate::Daemon;

/// A running WebDAV server on the loopback interface, for one user.
pub struct WebDav {
    // Dropped in this order: the server must not outlive its folder.
    _daemon: Daemon,
    folder: TempDir,
    address: SocketAddr,
}

impl WebDav {
    /// Serves an empty folder to this user.
    pub fn start(user: &str, password: &str) -> Self {
        let folder = tempfile::tempdir().expect("create a folder to serve");
        std::fs::create_dir(root_in(folder.path())).expect("create a folder to serve");
        let mut command = Daemon::command("rclone");
        command
            .args(["serve", "webdav"])
            .arg(root_in(folder.path()))
            // A port that we had found to be free might be another's by the
            // time rclone takes it; rclone's own choice it holds already.
            .args(["--addr", "127.0.0.1:0"])
            // Anyone may read a command line.
            .env("RCLONE_USER", user)
            .env("RCLONE_PASS", password)
            // Not the developer's, which may name real clouds.
            .env("RCLONE_CONFIG", folder.path().join("rclone.conf"));
        let mut daemon = Daemon::spawn(command, &folder.path().join("log"));
        let port = daemon.wait_until("rclone serves WebDAV", |rclone| announced(&rclone.log()));
        Self {
            _daemon: daemon,
            folder,
            address: (Ipv4Addr::LOCALHOST, port).into(),
        }
    }

    /// The server's address, without the user.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The folder that is served.
    pub fn root(&self) -> PathBuf {
        root_in(self.folder.path())
    }

    /// The HTTP status that the server answers to someone who reads its root:
    /// a user with a password, or nobody.
    pub fn status(&self, login: Option<(&str, &str)>) -> u16 {
        let authorization = login.map_or_else(String::new, |(user, password)| {
            let login = BASE64.encode(format!("{user}:{password}"));
            format!("Authorization: Basic {login}\r\n")
        });
        let Self { address, .. } = self;
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{authorization}\r\n"
        );
        let answer = exchange(*address, &request).expect("talk to the WebDAV server");
        answer
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or_else(|| panic!("not an HTTP answer: {answer:?}"))
    }
}

/// The folder that is served, apart from rclone's own files.
fn root_in(folder: &Path) -> PathBuf {
    folder.join("root")
}

/// The port that rclone says, in its log, that it serves on.
fn announced(log: &str) -> Option<u16> {
    let (_, tail) = log.split_once("http://127.0.0.1:")?;
    // Without what follows them, the digits may be half written.
    let end = tail.find(|c: char| !c.is_ascii_digit())?;
    tail[..end].parse().ok()
}

/// Sends a request and returns the whole answer.
fn exchange(address: SocketAddr, request: &str) -> io::Result<String> {
    let mut server = TcpStream::connect(address)?;
    server.set_read_timeout(Some(Duration::from_secs(10)))?;
    server.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
