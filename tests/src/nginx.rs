//! nginx serving HTTPS on the loopback interface, with a key in a token.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};

use crate::openssl::{OpenSsl, Way};
use crate::someone::set_mode;
use crate::{Daemon, Run, Token, port};

/// How many processes serve.
pub const WORKERS: usize = 2;

/// A running nginx: a master and [`WORKERS`]. Each answer is the id of the process that gave it.
pub struct Nginx {
    daemon: Daemon,
    port: u16,
    certificate: PathBuf,
}

impl Nginx {
    /// Serves with this key and its certificate; only to clients with `client`'s certificate, if
    /// there is one.
    pub fn start(
        openssl: &OpenSsl,
        label: &str,
        certificate: &Path,
        client: Option<&Path>,
    ) -> Self {
        let folder = openssl.token().file("nginx");
        fs::create_dir(&folder).expect("the folder can be written");
        // Whoever the token's clients are.
        set_mode(&folder, 0o777);
        let port = port::reserve();
        let config = config(openssl, port, label, certificate, client);
        let file = folder.join("nginx.conf");
        fs::write(&file, config).expect("the folder can be written");

        let mut command = openssl.daemon("nginx");
        command.args(["-e", "stderr", "-p"]).arg(&folder);
        command.arg("-c").arg(&file);
        let mut daemon = Daemon::spawn(command, &folder.join("log"));
        daemon.wait_until("nginx accepts connections", |_| {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        });
        Self {
            daemon,
            port,
            certificate: certificate.to_owned(),
        }
    }

    /// Where it serves.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}/", self.port)
    }

    /// A `curl` of this server, run by `host`, that believes its certificate and no other.
    pub fn curl(&self, curl: Run) -> Run {
        curl.args(["--silent", "--show-error", "--fail", "--cacert"])
            .arg(&self.certificate)
            .arg(self.url())
    }

    /// What nginx has logged.
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}

fn config(
    openssl: &OpenSsl,
    port: u16,
    label: &str,
    certificate: &Path,
    client: Option<&Path>,
) -> String {
    let key = match openssl.way() {
        Way::Provider => openssl.key_file(label).display().to_string(),
        Way::Engine | Way::DefaultEngine => format!("engine:pkcs11:{}", Token::uri(label)),
    };
    let verify = client.map_or_else(String::new, |client| {
        format!(
            "ssl_verify_client on;\nssl_client_certificate {};\n",
            client.display()
        )
    });
    // nginx hands nothing to its workers that is not named.
    let mut environment = String::from("env OPENSSL_CONF;\n");
    for (name, _) in openssl.token().environment() {
        writeln!(environment, "env {name};").expect("writing to memory cannot fail");
    }
    let certificate = certificate.display();
    format!(
        "daemon off;
        worker_processes {WORKERS};
        user {user};
        pid pid;
        error_log stderr warn;
        {environment}
        events {{}}
        http {{
            access_log off;
            client_body_temp_path body;
            proxy_temp_path proxy;
            fastcgi_temp_path fastcgi;
            uwsgi_temp_path uwsgi;
            scgi_temp_path scgi;
            server {{
                # Each worker has a queue of its own, so that none is left without work.
                listen 127.0.0.1:{port} ssl reuseport;
                ssl_certificate {certificate};
                ssl_certificate_key \"{key}\";
                ssl_session_cache off;
                ssl_session_tickets off;
                {verify}
                location / {{ return 200 $pid; }}
            }}
        }}
        ",
        user = crate::ssh::user_name(),
    )
}
