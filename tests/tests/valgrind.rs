//! valgrind over the clients: neither they nor what they have the module do reads or writes what is not
//! theirs in the module's code. What is wrong in the clients themselves is not ours, and left out: Debian's
//! pkcs11-tool 0.23 reads memory that it has freed when it lists EC keys.

use std::fs;
use std::path::Path;
use std::time::Duration;

use strongroom_tests::openssl::{Way, plain};
use strongroom_tests::token::id_of;
use strongroom_tests::{KeyType, OpenSsl, Run, Token};

/// A debug build of the module takes a quarter of a minute to be read by valgrind, each time.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
#[ignore = "takes minutes"]
fn pkcs11_tool_lists_makes_signs_and_deletes() {
    let token = Token::new();
    let login = token.pin().map(|pin| ["--login", "--pin", pin]);
    let data = token.write("data", [7; 32]);
    let key = [
        "--keypairgen",
        "--key-type",
        "EC:prime256v1",
        "--label",
        "mine",
    ];
    let id = id_of("mine");
    let sign = ["--sign", "--mechanism", "ECDSA", "--id", &id];
    let input = ["--input-file", path(&data), "--output-file", "/dev/null"];
    for args in [
        &["--list-mechanisms"][..],
        &[&key[..], &["--id", &id]].concat(),
        &["--list-objects"],
        &[&sign[..], &input].concat(),
        &["--keygen", "--key-type", "AES:32", "--label", "secret"],
        &["--generate-random", "64"],
        &["--delete-object", "--type", "privkey", "--label", "mine"],
    ] {
        let run = watched(&token, token.run("valgrind"), "pkcs11-tool")
            .arg("--module")
            .arg(token.module())
            .args(["--token-label", "keys"])
            .args(login.iter().flatten())
            .args(args);
        is_clean(&token, run);
    }
}

#[test]
#[ignore = "takes minutes"]
fn p11tool_lists_generates_and_signs() {
    let token = Token::new();
    let login = token.pin().map(|_| "--login");
    let uri = Token::uri("mine");
    for args in [
        &[
            "--generate-privkey=ecdsa",
            "--label=mine",
            "pkcs11:token=keys",
        ][..],
        &["--list-all", "pkcs11:token=keys"],
        &["--test-sign", &uri],
    ] {
        let run = watched(&token, token.run("valgrind"), "p11tool")
            .env("GNUTLS_PIN", token.pin().unwrap_or_default())
            .args(["--batch", "--provider"])
            .arg(token.module())
            .args(login)
            .args(args);
        is_clean(&token, run);
    }
}

#[test]
#[ignore = "takes minutes"]
fn openssl_signs_and_decrypts() {
    let token = Token::new();
    token.generate(KeyType::Rsa2048, "rsa");
    let openssl = OpenSsl::new(&token, Way::Provider);
    let public = openssl.public_key("rsa");
    let data = token.write("data", "what is signed");
    let (signature, encrypted) = (token.file("signature"), token.file("encrypted"));
    let run = watched(&token, openssl.host("valgrind"), "openssl")
        .args(["dgst", "-sha256", "-out", path(&signature)])
        .args(openssl.key("-sign", "rsa"))
        .arg(&data);
    is_clean(&token, run);
    plain(&["dgst", "-sha256", "-verify"])
        .arg(&public)
        .arg("-signature")
        .arg(&signature)
        .arg(&data)
        .ok();
    plain(&["pkeyutl", "-encrypt", "-pubin", "-inkey"])
        .arg(&public)
        .arg("-in")
        .arg(&data)
        .arg("-out")
        .arg(&encrypted)
        .ok();
    let run = watched(&token, openssl.host("valgrind"), "openssl")
        .args(["pkeyutl", "-decrypt", "-out", "/dev/null", "-in"])
        .arg(&encrypted)
        .args(openssl.key("-inkey", "rsa"));
    is_clean(&token, run);
}

/// A program that valgrind, which is this run, runs; what it finds goes into a file.
fn watched(token: &Token, valgrind: Run, program: &str) -> Run {
    let found = token.file("valgrind.xml");
    valgrind
        .args([
            "--xml=yes",
            "--leak-check=full",
            "--show-leak-kinds=definite",
        ])
        .arg(format!("--xml-file={}", found.display()))
        .arg(program)
        .timeout(PATIENCE)
}

/// Runs to the end, which must be a good one, and looks for errors in which the module is.
#[track_caller]
fn is_clean(token: &Token, run: Run) {
    let done = run.ok();
    let found = fs::read_to_string(token.file("valgrind.xml")).expect("valgrind has written");
    assert!(found.contains("</valgrindoutput>"), "{done}{found}");
    let module = format!("<obj>{}</obj>", token.module().display());
    let ours: Vec<_> = found
        .split("<error>")
        .skip(1)
        .map(|error| error.split("</error>").next().unwrap_or_default())
        .filter(|error| error.contains(&module))
        .collect();
    assert!(ours.is_empty(), "{done}{}", ours.join("\n"));
}

fn path(file: &Path) -> &str {
    file.to_str().expect("the test's folder has a plain name")
}
