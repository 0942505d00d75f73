//! NSS on the token `keys`: modutil registers the module, certutil makes keys, certificates and requests,
//! and selfserv serves TLS with them.

use std::fs;
use std::path::{Path, PathBuf};

use strongroom_tests::namespace::{PORT, serve_and_ask};
use strongroom_tests::openssl::plain;
use strongroom_tests::{Run, Token};

const RSA: [&str; 4] = ["-k", "rsa", "-g", "2048"];
const P256: [&str; 4] = ["-k", "ec", "-q", "nistp256"];
const P384: [&str; 4] = ["-k", "ec", "-q", "nistp384"];

#[test]
fn modutil_shows_the_module_and_its_tokens() {
    let token = Token::new();
    let nss = Nss::new(&token);
    let shown = nss.run("modutil").args(["-list", "tested"]).ok().text();
    for line in ["Status: Enabled", "Token Name: keys", "PKCS #11 Version"] {
        assert!(shown.contains(line), "{shown}");
    }
    if !token.is_peer() {
        assert!(shown.contains("Manufacturer: Strongroom"), "{shown}");
    }
    nss.run("modutil")
        .args(["-force", "-delete", "tested"])
        .ok();
}

#[test]
fn certutil_makes_keys_and_certificates_lists_and_deletes_them() {
    let token = Token::new();
    let nss = Nss::new(&token);
    for (name, key) in [("rsa", RSA), ("p256", P256), ("p384", P384)] {
        let certificate = nss.self_signed(name, &key);
        plain(&["verify", "-check_ss_sig", "-CAfile"])
            .arg(&certificate)
            .arg(&certificate)
            .ok();
    }
    let keys = nss.certutil(&["-K"]).ok().text();
    let certificates = nss.certutil(&["-L"]).ok().text();
    for name in ["rsa", "p256", "p384"] {
        assert!(keys.contains(name), "{keys}");
        // That there is the private key too, NSS found out by itself.
        let line = certificates
            .lines()
            .find(|line| line.starts_with(&format!("keys:{name} ")));
        assert!(
            line.is_some_and(|line| line.ends_with("u,u,u")),
            "{certificates}"
        );
    }
    nss.certutil(&["-F", "-n", "keys:rsa"]).ok();
    let keys = nss.certutil(&["-K"]).ok().text();
    assert!(!keys.contains("keys:rsa"), "{keys}");
    token.is_left_clean();
}

#[test]
fn certutil_signs_requests() {
    let token = Token::new();
    let nss = Nss::new(&token);
    for key in [RSA, P256, P384] {
        let request = token.file("request.pem");
        nss.certutil(&["-R", "-a", "-s", "CN=asked"])
            .args(key)
            .args(["-z", path(&nss.noise), "-o", path(&request)])
            .ok();
        plain(&["req", "-verify", "-noout", "-in"])
            .arg(&request)
            .ok();
    }
    token.is_left_clean();
}

#[test]
fn selfserv_serves_with_keys_and_certificates_of_the_token() {
    let token = Token::new();
    if token.is_peer() {
        // selfserv runs out of memory, it says, when it is to serve with a key of SoftHSM2's.
        return;
    }
    let nss = Nss::new(&token);
    for (name, key) in [("rsa", RSA), ("p256", P256)] {
        let certificate = nss.self_signed(name, &key);
        let server = [
            "selfserv",
            "-v",
            "-d",
            &nss.database,
            "-n",
            &format!("keys:{name}"),
            "-w",
            token.pin().unwrap_or("none"),
            "-p",
            &PORT.to_string(),
        ];
        let (run, log) = serve_and_ask(&token, &server, &certificate);
        let asked = run.finish();
        let said = fs::read_to_string(&log).unwrap_or_default();
        assert_eq!(asked.code(), Some(0), "{asked}{said}");
        let answer = asked.says("Verification: OK").text();
        assert!(answer.contains("200 OK"), "{answer}");
        token.is_left_clean();
    }
}

/// A database of NSS's in which the module is registered.
struct Nss<'a> {
    token: &'a Token,
    database: String,
    pin: PathBuf,
    noise: PathBuf,
}

impl<'a> Nss<'a> {
    fn new(token: &'a Token) -> Self {
        let folder = token.file("nss");
        fs::create_dir(&folder).expect("the folder can be written");
        let nss = Self {
            token,
            database: format!("sql:{}", folder.display()),
            pin: token.write("pin", token.pin().unwrap_or_default()),
            // certutil asks somebody to type otherwise.
            noise: token.write("noise", (0..=255).collect::<Vec<u8>>()),
        };
        nss.run("certutil").args(["-N", "--empty-password"]).ok();
        nss.run("modutil")
            .args(["-force", "-add", "tested", "-libfile"])
            .arg(token.module())
            .ok();
        nss
    }

    /// A program of NSS's with the database.
    fn run(&self, program: &str) -> Run {
        let option = match program {
            "modutil" => "-dbdir",
            _ => "-d",
        };
        self.token.run(program).args([option, &self.database])
    }

    /// `certutil ARGS...` on the token.
    fn certutil(&self, args: &[&str]) -> Run {
        self.run("certutil")
            .args(args)
            .args(["-h", "keys", "-f", path(&self.pin)])
    }

    /// Makes a key and a certificate for 127.0.0.1, and returns the latter, read back.
    #[track_caller]
    fn self_signed(&self, name: &str, key: &[&str]) -> PathBuf {
        let subject = format!("CN={name}");
        let serial = name.len().to_string();
        self.certutil(&["-S", "-x", "-t", "u,u,u", "-v", "1"])
            .args(["-n", name, "-s", &subject, "-m", &serial])
            .args(["--extSAN", "ip:127.0.0.1", "-z", path(&self.noise)])
            .args(key)
            .ok();
        let read = self.certutil(&["-L", "-a", "-n", &format!("keys:{name}")]);
        self.token.write(&format!("{name}.pem"), read.ok().stdout)
    }
}

fn path(file: &Path) -> &str {
    file.to_str().expect("the test's folder has a plain name")
}
