//! OpenSSH with keys of the token `keys`: public keys shown, logins with and without an agent,
//! files signed, and rclone's sftp through that agent.

use std::fs;

use strongroom_tests::ssh::{user_name, with_askpass};
use strongroom_tests::vault_files::snapshot;
use strongroom_tests::{Agent, KeyType, Sshd, Token};

const KEYS: [(KeyType, &str); 3] = [
    (KeyType::Rsa2048, "rsa"),
    (KeyType::P256, "p256"),
    (KeyType::P384, "p384"),
];

#[test]
fn ssh_keygen_shows_the_public_keys_of_the_token() {
    let token = with_keys();
    let shown = public_keys(&token);
    assert_eq!(shown.lines().count(), KEYS.len(), "{shown}");
    for kind in ["ssh-rsa ", "ecdsa-sha2-nistp256 ", "ecdsa-sha2-nistp384 "] {
        assert!(shown.contains(kind), "{shown}");
    }
    token.is_left_clean();
}

#[test]
fn ssh_logs_in_with_a_key_of_the_token() {
    let token = Token::new();
    for (key, label) in KEYS {
        token.generate(key, label);
        // ssh offers one key after the other: the server takes this one alone.
        let shown = public_keys(&token);
        let newest = shown
            .lines()
            .find(|line| line.ends_with(label))
            .unwrap_or_else(|| panic!("{label} is not among {shown}"));
        let sshd = Sshd::start(newest);
        let login = with_askpass(&token, "ssh")
            .arg("-o")
            .arg(format!("PKCS11Provider={}", token.module().display()))
            .args(sshd.login())
            .arg("echo in")
            .finish();
        assert_eq!(login.stdout, b"in\n", "{login}\n{}", sshd.log());
    }
    token.is_left_clean();
}

#[test]
fn the_agent_logs_in_with_each_key_of_the_token() {
    let token = with_keys();
    let agent = Agent::start(&token);
    agent.add_token();
    let listed = agent.run("ssh-add").arg("-L").ok().text();
    assert_eq!(listed.lines().count(), KEYS.len(), "{listed}");
    for key in listed.lines() {
        let sshd = Sshd::start(key);
        let login = agent.run("ssh").args(sshd.login()).arg("echo in").finish();
        assert_eq!(login.stdout, b"in\n", "{login}\n{}", sshd.log());
    }
    agent.run("ssh-add").arg("-e").arg(token.module()).ok();
    agent.run("ssh-add").arg("-L").fails_with(1);
    drop(agent);
    token.is_left_clean();
}

#[test]
fn ssh_keygen_signs_a_file_and_verifies_it() {
    let token = with_keys();
    let agent = Agent::start(&token);
    agent.add_token();
    let listed = agent.run("ssh-add").arg("-L").ok().text();
    for (number, key) in listed.lines().enumerate() {
        let public = token.write("signer.pub", key);
        let allowed = token.write("allowed", format!("nas {key}\n"));
        let text = format!("file {number}");
        let file = token.write(&text, &text);
        agent
            .run("ssh-keygen")
            .args(["-Y", "sign", "-n", "file", "-f"])
            .arg(&public)
            .arg(&file)
            .ok();
        let verify = |text: &str| {
            agent
                .run("ssh-keygen")
                .args(["-Y", "verify", "-n", "file", "-I", "nas", "-f"])
                .arg(&allowed)
                .arg("-s")
                .arg(token.file(&format!("file {number}.sig")))
                .stdin(text)
        };
        verify(&text).ok();
        verify("another").fails_with(255);
    }
}

#[test]
fn rclone_copies_over_sftp_with_the_agents_keys() {
    let token = with_keys();
    let agent = Agent::start(&token);
    agent.add_token();
    let (source, target) = (token.file("source"), token.file("target"));
    fs::create_dir_all(source.join("deep/er")).expect("the folder can be written");
    for (name, len) in [("empty", 0), ("deep/small", 10), ("deep/er/large", 3 << 20)] {
        let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
        fs::write(source.join(name), bytes).expect("the folder can be written");
    }
    for key in agent.run("ssh-add").arg("-L").ok().text().lines() {
        let sshd = Sshd::start(key);
        let remote = format!(
            ":sftp,host=127.0.0.1,port={},user={},key_use_agent=true,known_hosts_file='{}',\
             shell_type=none:{}",
            sshd.port(),
            user_name(),
            sshd.known_hosts().display(),
            target.display()
        );
        let copied = agent
            .run("rclone")
            // Not the developer's, which may name real clouds.
            .args(["--config", "/dev/null", "--retries", "1", "copy"])
            .arg(&source)
            .arg(&remote)
            .finish();
        assert_eq!(copied.code(), Some(0), "{copied}\n{}", sshd.log());
        let names = |folder: &std::path::Path| {
            snapshot(folder)
                .into_iter()
                .map(|(path, bytes)| {
                    let path = path.strip_prefix(folder).expect("it is within");
                    (path.to_owned(), bytes)
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&target), names(&source));
        fs::remove_dir_all(&target).expect("it was copied");
    }
}

/// A token with a key pair of each kind.
fn with_keys() -> Token {
    let token = Token::new();
    for (key, label) in KEYS {
        token.generate(key, label);
    }
    token
}

/// `ssh-keygen -D`: one line a key.
fn public_keys(token: &Token) -> String {
    with_askpass(token, "ssh-keygen")
        .arg("-D")
        .arg(token.module())
        .ok()
        .text()
}
