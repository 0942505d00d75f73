//! Small files that give themselves away by what is in them: recovery kits, exports of keys, backups
//! of a vault, credentials of other programs.

use std::collections::BTreeMap;

use strongroom::Secret;
use strongroom::recovery::KitFile;

use super::sorting::contains;

/// The longest file that is read for this, in bytes.
pub(crate) const LONGEST: usize = 1 << 20;

/// The longest that is read if it does not look like JSON.
pub(crate) const LONGEST_TEXT: usize = 64 << 10;

/// What a file is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A recovery kit, which opens a whole vault.
    Kit {
        vault_id: Option<String>,
        protected: bool,
    },
    /// Dataset keys as TrueNAS exports them.
    Export { keys: usize },
    /// A vault's backup: ciphertext.
    Backup,
    /// Credentials of rclone, restic or an S3 client.
    Credentials {
        program: &'static str,
        fields: Vec<&'static str>,
    },
    /// 64 hexadecimal digits.
    HexKey,
    /// A private key without a passphrase.
    PrivateKey,
}

/// What a file's beginning says that may be longer than is read: of a backup, enough.
pub(crate) fn of_beginning(head: &[u8]) -> Option<Content> {
    let is_backup = head.trim_ascii_start().starts_with(b"{")
        && [
            &b"\"format\""[..],
            b"\"manifest\"",
            b"\"recovery-recipient\"",
        ]
        .iter()
        .all(|name| contains(head, name));
    is_backup.then_some(Content::Backup)
}

/// What a whole file is, where that matters.
pub(crate) fn of_whole(file: &Secret) -> Option<Content> {
    let bytes = file.expose();
    let text = std::str::from_utf8(bytes).ok()?;
    kit(file, text)
        .or_else(|| export(text))
        .or_else(|| credentials(text))
        .or_else(|| {
            let line = text.trim_end_matches('\n').as_bytes();
            let is_key = line.len() == 64 && line.iter().all(u8::is_ascii_hexdigit);
            is_key.then_some(Content::HexKey)
        })
        .or_else(|| private_key(text))
}

fn kit(file: &Secret, text: &str) -> Option<Content> {
    if let Ok(kit) = KitFile::of_text(file, "a file") {
        return Some(match kit {
            KitFile::Open(kit) => Content::Kit {
                vault_id: Some(kit.vault_id),
                protected: false,
            },
            KitFile::Protected(_) => Content::Kit {
                vault_id: None,
                protected: true,
            },
        });
    }
    // What the other lines of a kit say is in the vault's own files.
    let is_identity = text
        .lines()
        .any(|line| line.trim().starts_with("AGE-SECRET-KEY-1"));
    is_identity.then_some(Content::Kit {
        vault_id: None,
        protected: false,
    })
}

fn export(text: &str) -> Option<Content> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let keys: BTreeMap<&str, &str> = serde_json::from_str(text).ok()?;
    let is_key = |key: &&str| key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    let all = !keys.is_empty() && keys.values().all(is_key);
    all.then_some(Content::Export { keys: keys.len() })
}

fn credentials(text: &str) -> Option<Content> {
    let fields = |names: &[&'static str]| -> Vec<&'static str> {
        let is_set = |name: &&&'static str| {
            text.lines().any(|line| {
                let line = line.trim().trim_start_matches("export ");
                line.split_once('=').is_some_and(|(field, value)| {
                    let value = value.trim().trim_matches(['"', '\'']);
                    field.trim() == **name
                        && !value.is_empty()
                        && !value.starts_with("strongroom:v1:")
                })
            })
        };
        names.iter().filter(is_set).copied().collect()
    };
    let is_rclone = text.lines().any(|line| line.trim().starts_with('['))
        && text
            .lines()
            .any(|line| line.trim_start().starts_with("type"));
    let rclone = if is_rclone {
        fields(&RCLONE)
    } else {
        Vec::new()
    };
    let (program, fields) = if rclone.is_empty() {
        ("restic or an S3 client", fields(&ENVIRONMENT))
    } else {
        ("rclone", rclone)
    };
    (!fields.is_empty()).then_some(Content::Credentials { program, fields })
}

/// rclone's options that are secret, of the providers that TrueNAS has (rclone.org/docs).
const RCLONE: [&str; 9] = [
    "secret_access_key",
    "key",
    "pass",
    "password",
    "password2",
    "token",
    "client_secret",
    "service_account_credentials",
    "application_credential_secret",
];

/// What restic and AWS's clients read.
const ENVIRONMENT: [&str; 6] = [
    "RESTIC_PASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "aws_secret_access_key",
    "B2_ACCOUNT_KEY",
    "AZURE_ACCOUNT_KEY",
    "RCLONE_CONFIG_PASS",
];

/// OpenSSH's form says inside of its base64 whether there is a passphrase: `none` comes early.
fn private_key(text: &str) -> Option<Content> {
    let first = text.lines().next()?;
    let is_open = match first {
        "-----BEGIN OPENSSH PRIVATE KEY-----" => text.contains("b3BlbnNzaC1rZXktdjEAAAAABG5vbmU"),
        "-----BEGIN PRIVATE KEY-----" => true,
        "-----BEGIN RSA PRIVATE KEY-----" | "-----BEGIN EC PRIVATE KEY-----" => {
            !text.contains("ENCRYPTED")
        }
        _ => false,
    };
    is_open.then_some(Content::PrivateKey)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Content> {
        of_whole(&Secret::copy_of(text.as_bytes()))
    }

    #[test]
    fn files_are_told_by_what_is_in_them() {
        let key = "0123456789abcdefABCDEF0123456789".repeat(2);
        assert_eq!(of(&format!("{key}\n")), Some(Content::HexKey));
        assert_eq!(of(&format!("{key}0\n")), None);
        let export = format!("{{\"tank/a\": \"{key}\", \"tank/b\": \"{key}\"}}");
        assert_eq!(of(&export), Some(Content::Export { keys: 2 }));
        assert_eq!(of("{\"tank/a\": \"short\"}"), None);
        assert_eq!(of("{}"), None);
        let conf = "[remote]\ntype = s3\naccess_key_id = A\nsecret_access_key = B\n";
        let Some(Content::Credentials { program, fields }) = of(conf) else {
            panic!("rclone's configuration has credentials");
        };
        assert_eq!((program, &*fields), ("rclone", &["secret_access_key"][..]));
        assert_eq!(of(&conf.replace("= B", "= strongroom:v1:x")), None);
        assert!(matches!(
            of("export RESTIC_PASSWORD='x'\n"),
            Some(Content::Credentials { .. })
        ));
        assert_eq!(of("RESTIC_PASSWORD=\n"), None);
        assert!(matches!(
            of("# mine\nAGE-SECRET-KEY-1QQQ\n"),
            Some(Content::Kit {
                protected: false,
                ..
            })
        ));
        assert_eq!(
            of("-----BEGIN PRIVATE KEY-----\nAA\n"),
            Some(Content::PrivateKey)
        );
        assert_eq!(of("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA\n"), None);
    }
}
