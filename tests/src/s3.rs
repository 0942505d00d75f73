//! An S3 server for a client under test: moto, which compares signatures.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{Daemon, Run};

/// A running S3 server on the loopback interface, with one user and one bucket, `bucket`.
pub struct S3 {
    // Dropped in this order: the server must not outlive its folder.
    _daemon: Daemon,
    _folder: TempDir,
    port: u16,
    access_key: String,
    secret_key: String,
}

impl S3 {
    /// An empty bucket. The first time, the server is installed.
    pub fn start() -> Self {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("s3");
        let installed = Run::new(sources.join("build"))
            .timeout(std::time::Duration::from_secs(600))
            .ok();
        let python = PathBuf::from(installed.text().trim_end()).join("bin/python");
        let folder = tempfile::tempdir().expect("create a folder for the server's log");
        let mut command = Daemon::command(python);
        command
            .arg(sources.join("server.py"))
            // It talks to itself alone.
            .env_remove("AWS_CA_BUNDLE")
            .env("AWS_EC2_METADATA_DISABLED", "true");
        let mut daemon = Daemon::spawn(command, &folder.path().join("log"));
        let said = daemon.wait_until("the S3 server has made its user", |server| {
            let log = server.log();
            let mut whole = log
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            whole.find_map(words)
        });
        let [port, access_key, secret_key] = said;
        Self {
            _daemon: daemon,
            _folder: folder,
            port: port.parse().expect("a port"),
            access_key,
            secret_key,
        }
    }

    /// Where it serves.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Who its user is.
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    /// What its user signs with.
    pub fn secret_key(&self) -> &str {
        &self.secret_key
    }
}

/// The three words of the line that the server prints.
fn words(line: &str) -> Option<[String; 3]> {
    let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
    let is_ours = words.first()?.bytes().all(|byte| byte.is_ascii_digit());
    words.try_into().ok().filter(|_| is_ours)
}
