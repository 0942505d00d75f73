//! Programs in namespaces of their own, which takes root: a network where a server that binds to every
//! address reaches nobody else, and a file system in which p11-kit knows no module but the one under test.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Run, Token};

/// The port of [`serve_and_ask`]'s server. Nobody else is in its network.
pub const PORT: u16 = 5556;

/// Runs a server in a network of its own and asks it by TLS for a page, as `openssl s_client` does, which
/// must trust this certificate alone. Returns the run, which says what came, and the server's log.
pub fn serve_and_ask(token: &Token, server: &[&str], trusted: &Path) -> (Run, PathBuf) {
    // The module takes what it has loaded out of the TPM in far less than half a second.
    const SCRIPT: &str = r#"
        set -eu
        log=$1 trusted=$2 port=$3
        shift 3
        ip link set lo up
        "$@" >"$log" 2>&1 &
        server=$!
        trap 'sleep 0.5; kill $server; wait $server 2>/dev/null || true' EXIT
        for try in $(seq 150); do
            ss -Hltn "sport = :$port" | grep -q . && break
            kill -0 $server
            sleep 0.1
        done
        printf 'GET / HTTP/1.0\r\n\r\n' | timeout 20 openssl s_client -brief -ign_eof \
            -verify_return_error -CAfile "$trusted" -connect "127.0.0.1:$port"
    "#;
    let log = token.file("server.log");
    let run = token
        .run("unshare")
        .env("OPENSSL_CONF", "/dev/null")
        .args(["--net", "sh", "-c", SCRIPT, "sh"])
        .arg(&log)
        .arg(trusted)
        .arg(PORT.to_string())
        .args(server);
    (run, log)
}

/// A program to which p11-kit shows the token's module and no other.
pub fn registered(token: &Token, program: &str) -> Run {
    const MODULES: &str = "/usr/share/p11-kit/modules";
    const SCRIPT: &str = r#"mount --bind "$1" "$2" && shift 2 && exec "$@""#;
    let modules = token.file("modules");
    fs::create_dir_all(&modules).expect("the folder can be written");
    let module = format!("module: {}\n", token.module().display());
    fs::write(modules.join("tested.module"), module).expect("the folder can be written");
    token
        .run("unshare")
        .args(["--mount", "sh", "-c", SCRIPT, "sh"])
        .arg(&modules)
        .arg(MODULES)
        .arg(program)
}
