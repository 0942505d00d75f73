//! The recovery way: one age X25519 identity that the owner keeps off the box, and the slots that
//! are encrypted to it. Only its public half, the recipient, is on the box.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::iter;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::secrecy::{ExposeSecret, SecretString};
use age::{DecryptError, Decryptor, Encryptor, scrypt, x25519};
use serde::{Deserialize, Serialize};

use crate::encoding::Base64;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::{process, store};

/// The public half: whom recovery slots are encrypted to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecoveryRecipient(String);

impl RecoveryRecipient {
    /// Encrypts `secret` to the recipient, as a binary age file.
    pub(crate) fn encrypt(&self, secret: &Secret) -> Base64 {
        let recipient =
            x25519::Recipient::from_str(&self.0).expect("checked when the recipient was parsed");
        Base64(age::encrypt(&recipient, secret.expose()).expect("writing to memory cannot fail"))
    }
}

impl fmt::Display for RecoveryRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RecoveryRecipient {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        match x25519::Recipient::from_str(&text) {
            // One spelling only; Bech32 has two.
            Ok(recipient) => Ok(Self(recipient.to_string())),
            Err(reason) => Err(Error::input(format!("recovery recipient {text:?}"), reason)),
        }
    }
}

impl From<RecoveryRecipient> for String {
    fn from(recipient: RecoveryRecipient) -> Self {
        recipient.0
    }
}

/// The secret half, which opens every recovery slot of its vault.
pub struct RecoveryIdentity(x25519::Identity);

impl RecoveryIdentity {
    pub(crate) fn generate() -> Self {
        Self(x25519::Identity::generate())
    }

    pub(crate) fn recipient(&self) -> RecoveryRecipient {
        RecoveryRecipient(self.0.to_public().to_string())
    }

    /// Decrypts a slot, which is a binary age file. (age's own `decrypt` would take one in letters
    /// too, and a slot has one spelling.)
    pub(crate) fn decrypt(&self, slot: &Base64) -> Result<Secret> {
        Decryptor::new_buffered(slot.0.as_slice())
            .and_then(|file| file.decrypt(iter::once(&self.0 as _)))
            .and_then(|plaintext| Ok(Secret::read_from(plaintext, slot.0.len())?))
            .map_err(|reason| Error::RecoveryIdentity(reason.to_string()))
    }

    /// The identity in age's spelling, and a newline.
    fn to_line(&self) -> Secret {
        Secret::concat(&[self.0.to_string().expose_secret().as_bytes(), b"\n"])
    }

    /// The identity of the first line that is neither empty nor a comment, as in age's own files.
    fn of_line(text: &str) -> Result<Self, &'static str> {
        let line = content(text).next().ok_or("it has no identity")?;
        x25519::Identity::from_str(line)
            .map(Self)
            .map_err(|_| "its identity is not an age secret key")
    }
}

/// What the owner keeps: the recovery identity, and by what to tell whether a vault is the one
/// that it belongs to.
///
/// As text it is an age identity file with comments, so that the `age` program reads it too.
pub struct RecoveryKit {
    /// Opens the recovery slots.
    pub identity: RecoveryIdentity,
    /// The vault's id.
    pub vault_id: String,
    /// SHA-256(K_vault).
    pub fingerprint: [u8; 32],
}

/// A recovery kit as its text has it.
pub enum KitFile {
    /// Whoever has the text has the kit.
    Open(RecoveryKit),
    /// It takes a passphrase besides.
    Protected(ProtectedKit),
}

/// A recovery kit whose identity is encrypted under a passphrase.
pub struct ProtectedKit {
    /// What it is called in errors.
    what: String,
    vault_id: String,
    fingerprint: [u8; 32],
    /// The identity's line, as an age file in letters, for one scrypt recipient.
    identity: String,
}

/// What protects a kit: text in UTF-8, of one line.
pub struct Passphrase(Secret);

const VAULT_LINE: &str = "# vault: ";
const FINGERPRINT_LINE: &str = "# vault key SHA-256: ";

/// The first and the last line of an age file in letters.
const ARMOR_BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const ARMOR_END: &str = "-----END AGE ENCRYPTED FILE-----";

/// scrypt's cost as a power of two, RFC 7914's N: that of the `age` program, a second and 256 MiB.
const WORK_FACTOR: u8 = 18;

/// The highest that is accepted, the `age` program's own limit: 4 GiB.
const MAX_WORK_FACTOR: u8 = 22;

impl RecoveryKit {
    /// The longest kit file that is read, in bytes.
    const MAX_LEN: usize = 64 << 10;

    /// Reads a kit that no passphrase protects from a file, or from standard input where the path
    /// is `-`.
    ///
    /// # Errors
    /// [`Error::Input`] if it cannot be read, is no recovery kit, or is protected.
    pub fn read(path: &Path) -> Result<Self> {
        KitFile::read(path)?.unprotected()
    }

    /// Writes the kit into a new file of mode 0600, and reads it back: it is the only copy.
    ///
    /// # Errors
    /// [`Error::Input`] if there is a file already, or it cannot be written; what was begun is
    /// removed.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_new(path, &self.to_text())
    }

    /// Whom the vault's recovery slots are encrypted to.
    pub fn recipient(&self) -> RecoveryRecipient {
        self.identity.recipient()
    }

    /// The kit as text, to be printed or kept in a file.
    pub fn to_text(&self) -> Secret {
        let head = format!(
            "# Strongroom recovery kit. Whoever holds it can open the vault; without it a dead\n\
             # mainboard takes the keys with it. Keep it off this machine: print it, or put it\n\
             # into a safe.\n\
             {}\
             # public key: {}\n",
            self.head(),
            self.recipient(),
        );
        Secret::concat(&[head.as_bytes(), self.identity.to_line().expose()])
    }

    /// The three lines of the kit that a reader takes.
    pub fn to_lines(&self) -> Secret {
        let identity = self.identity.to_line();
        Secret::concat(&[self.head().as_bytes(), identity.expose()])
    }

    /// The same with the identity encrypted under a passphrase. Takes a second and 256 MiB, as every
    /// try of a passphrase does.
    ///
    /// # Errors
    /// [`Error::Input`] for a passphrase of less than [`Passphrase::MIN`] bytes.
    pub fn to_protected_lines(&self, passphrase: &Passphrase) -> Result<Secret> {
        passphrase.check_protects()?;
        let block = passphrase.encrypt(&self.identity.to_line());
        Ok(Secret::concat(&[self.head().as_bytes(), &block]))
    }

    /// By what to tell the vault that it belongs to.
    fn head(&self) -> String {
        head(&self.vault_id, self.fingerprint)
    }
}

impl KitFile {
    /// Reads a kit from a file, or from standard input where the path is `-`.
    ///
    /// # Errors
    /// [`Error::Input`] if it cannot be read or is no recovery kit.
    pub fn read(path: &Path) -> Result<Self> {
        let what = format!("recovery kit {}", path.display());
        let text = if path == Path::new("-") {
            process::take_in(RecoveryKit::MAX_LEN)
        } else {
            File::open(path).and_then(|file| Secret::read_from(file, RecoveryKit::MAX_LEN))
        };
        match text {
            Ok(text) => Self::of_text(&text, &what),
            Err(error) => Err(Error::input(
                what,
                format!(
                    "{error}; name the file that `strongroom init` wrote, or - for standard input"
                ),
            )),
        }
    }

    /// A kit from its text; `what` names it in errors.
    ///
    /// # Errors
    /// [`Error::Input`] if it is no recovery kit.
    pub fn of_text(text: &Secret, what: &str) -> Result<Self> {
        Self::parse(text, what).map_err(|reason| {
            Error::input(
                what,
                format!("{reason}; it must be what `strongroom init` gave out"),
            )
        })
    }

    /// A kit from its parts: the identity in age's spelling, or the age file in letters that it is
    /// in. `what` names it in errors.
    ///
    /// # Errors
    /// [`Error::Input`] if they are not that.
    pub fn of_parts(
        vault_id: &str,
        fingerprint: [u8; 32],
        identity: &Secret,
        what: &str,
    ) -> Result<Self> {
        let head = head(vault_id, fingerprint);
        Self::of_text(
            &Secret::concat(&[head.as_bytes(), identity.expose(), b"\n"]),
            what,
        )
    }

    /// The kit, where there is no passphrase to open a protected one with.
    ///
    /// # Errors
    /// [`Error::Input`] for one that is protected.
    pub fn unprotected(self) -> Result<RecoveryKit> {
        match self {
            Self::Open(kit) => Ok(kit),
            Self::Protected(kit) => Err(Error::input(
                kit.what,
                "it is protected by a passphrase; name the file that has it with --passphrase-file",
            )),
        }
    }

    fn parse(text: &Secret, what: &str) -> Result<Self, String> {
        let text = std::str::from_utf8(text.expose()).map_err(|_| "it is not text".to_owned())?;
        let find = |prefix: &str| {
            text.lines()
                .find_map(|line| line.trim().strip_prefix(prefix))
        };
        let vault_id = find(VAULT_LINE)
            .ok_or("it does not name its vault")?
            .trim()
            .to_owned();
        let mut fingerprint = [0; 32];
        find(FINGERPRINT_LINE)
            .and_then(|digits| hex::decode_to_slice(digits.trim(), &mut fingerprint).ok())
            .ok_or("it has no SHA-256 of the vault key")?;
        if content(text).next() != Some(ARMOR_BEGIN) {
            return Ok(Self::Open(RecoveryKit {
                identity: RecoveryIdentity::of_line(text)?,
                vault_id,
                fingerprint,
            }));
        }
        let mut identity = String::new();
        for line in content(text) {
            identity.push_str(line);
            identity.push('\n');
            if line == ARMOR_END {
                return Ok(Self::Protected(ProtectedKit {
                    what: what.to_owned(),
                    vault_id,
                    fingerprint,
                    identity,
                }));
            }
        }
        Err("its protected identity is cut short".to_owned())
    }
}

impl ProtectedKit {
    /// Opens the kit. Takes a second and 256 MiB, or what its maker chose.
    ///
    /// # Errors
    /// [`Error::Input`] for another passphrase, and for a kit that is damaged.
    pub fn open(&self, passphrase: &Passphrase) -> Result<RecoveryKit> {
        let refuse = |reason: String| Error::input(self.what.clone(), reason);
        let identity = self.decrypt(passphrase).map_err(|error| match error {
            DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => {
                refuse("this is not its passphrase".to_owned())
            }
            other => refuse(format!("its protected identity is damaged ({other})")),
        })?;
        let identity = std::str::from_utf8(identity.expose())
            .map_err(|_| "its identity is not text")
            .and_then(RecoveryIdentity::of_line)
            .map_err(|reason| refuse(reason.to_owned()))?;
        Ok(RecoveryKit {
            identity,
            vault_id: self.vault_id.clone(),
            fingerprint: self.fingerprint,
        })
    }

    fn decrypt(&self, passphrase: &Passphrase) -> Result<Secret, DecryptError> {
        let mut identity = scrypt::Identity::new(passphrase.to_age());
        identity.set_max_work_factor(MAX_WORK_FACTOR);
        let plaintext = Decryptor::new_buffered(ArmoredReader::new(self.identity.as_bytes()))?
            .decrypt(iter::once(&identity as _))?;
        Ok(Secret::read_from(plaintext, RecoveryKit::MAX_LEN)?)
    }
}

impl Passphrase {
    /// The fewest bytes of one that a kit is protected by. (A kit that something else has protected
    /// opens with whatever protects it.)
    pub const MIN: usize = 12;

    /// The most bytes of one.
    pub const MAX: usize = 1024;

    /// Takes a passphrase.
    ///
    /// # Errors
    /// [`Error::Input`] for one that is empty, too long, not UTF-8, or has control characters.
    pub fn new(passphrase: Secret) -> Result<Self> {
        let reason = match std::str::from_utf8(passphrase.expose()) {
            Err(_) => "it is not UTF-8",
            Ok("") => "it is empty",
            Ok(text) if text.len() > Self::MAX => "it is too long",
            Ok(text) if text.contains(char::is_control) => "it must be one line of text",
            Ok(_) => return Ok(Self(passphrase)),
        };
        Err(Error::input("passphrase", reason))
    }

    /// Reads a passphrase from a file, which one newline may end.
    ///
    /// # Errors
    /// As [`Passphrase::new`], and [`Error::Input`] if the file cannot be read.
    pub fn read(file: &Path) -> Result<Self> {
        let read = File::open(file)
            .and_then(|open| Secret::read_from(open, Self::MAX + 1))
            .map_err(|error| {
                Error::input(
                    format!("passphrase file {}", file.display()),
                    error.to_string(),
                )
            })?;
        match read.expose() {
            [line @ .., b'\n'] => Self::new(Secret::copy_of(line)),
            _ => Self::new(read),
        }
    }

    /// Refuses one that would protect nothing: whoever finds the kit tries as many as they like.
    fn check_protects(&self) -> Result<()> {
        if self.0.len() < Self::MIN {
            return Err(Error::input(
                "passphrase",
                format!(
                    "it must have {} bytes or more: whoever finds the kit can try as many as they \
                     like. Six words that a die has chosen are good",
                    Self::MIN
                ),
            ));
        }
        Ok(())
    }

    /// An age file in letters.
    fn encrypt(&self, plaintext: &Secret) -> Vec<u8> {
        let mut recipient = scrypt::Recipient::new(self.to_age());
        recipient.set_work_factor(WORK_FACTOR);
        let encryptor = Encryptor::with_recipients(iter::once(&recipient as _))
            .expect("one recipient is as many as scrypt allows");
        let mut block = Vec::new();
        let written = ArmoredWriter::wrap_output(&mut block, Format::AsciiArmor)
            .and_then(|letters| encryptor.wrap_output(letters).map_err(io::Error::other))
            .and_then(|mut writer| {
                writer.write_all(plaintext.expose())?;
                writer.finish()?.finish()
            });
        written.expect("writing to memory cannot fail");
        block
    }

    /// As age takes it; it is wiped there too.
    fn to_age(&self) -> SecretString {
        let text = std::str::from_utf8(self.0.expose()).expect("checked when it was taken");
        // Exactly as long as its text: nothing is moved, and nothing stays where it was.
        SecretString::from(text.to_owned())
    }
}

/// Writes a kit's text into a new file of mode 0600, and reads it back: it may be the only copy.
///
/// # Errors
/// [`Error::Input`] if there is a file already, or it cannot be written; what was begun is
/// removed.
pub fn write_new(path: &Path, text: &Secret) -> Result<()> {
    let refuse = |reason: String| {
        Error::input(
            format!("recovery kit {}", path.display()),
            format!("{reason}; name a new file in a folder that can be written"),
        )
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| refuse(error.to_string()))?;
    let written = file
        .write_all(text.expose())
        .and_then(|()| file.sync_all())
        .map_err(|error| refuse(error.to_string()))
        .and_then(|()| {
            let folder = path.parent().filter(|dir| !dir.as_os_str().is_empty());
            store::sync_dir(folder.unwrap_or(Path::new(".")))
        })
        .and_then(|()| {
            let again = File::open(path)
                .and_then(|file| Secret::read_from(file, RecoveryKit::MAX_LEN))
                .map_err(|error| refuse(error.to_string()))?;
            if again.same_as(text.expose()) {
                KitFile::of_text(&again, &format!("recovery kit {}", path.display())).map(drop)
            } else {
                Err(refuse(
                    "what was read back is not what was written".to_owned(),
                ))
            }
        });
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written
}

/// The lines that say which vault a kit belongs to.
fn head(vault_id: &str, fingerprint: [u8; 32]) -> String {
    let fingerprint = hex::encode(fingerprint);
    format!("{VAULT_LINE}{vault_id}\n{FINGERPRINT_LINE}{fingerprint}\n")
}

/// The lines that are neither empty nor comments.
fn content(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kit() -> RecoveryKit {
        RecoveryKit {
            identity: RecoveryIdentity::generate(),
            vault_id: "3f0c9c2e-7a39-4f0e-9b7a-0a4f6f6f8a11".to_owned(),
            fingerprint: [7; 32],
        }
    }

    fn opened(text: &Secret) -> RecoveryKit {
        match KitFile::parse(text, "kit") {
            Ok(KitFile::Open(kit)) => kit,
            Ok(KitFile::Protected(_)) => panic!("it is not protected"),
            Err(reason) => panic!("{reason}"),
        }
    }

    fn protected(text: &Secret) -> ProtectedKit {
        match KitFile::parse(text, "kit") {
            Ok(KitFile::Protected(kit)) => kit,
            Ok(KitFile::Open(_)) => panic!("it is protected"),
            Err(reason) => panic!("{reason}"),
        }
    }

    fn passphrase(text: &[u8]) -> Result<Passphrase> {
        Passphrase::new(Secret::copy_of(text))
    }

    #[test]
    fn a_kit_reads_as_what_it_prints_and_opens_its_slots() {
        let kit = kit();
        let slot = kit.recipient().encrypt(&Secret::copy_of(b"dek"));
        for text in [kit.to_text(), kit.to_lines()] {
            let again = opened(&text);
            assert_eq!(again.vault_id, kit.vault_id);
            assert_eq!(again.fingerprint, [7; 32]);
            assert_eq!(
                again.identity.decrypt(&slot).expect("opens").expose(),
                b"dek"
            );
        }
        assert!(RecoveryIdentity::generate().decrypt(&slot).is_err());
    }

    #[test]
    fn a_slot_in_letters_is_no_slot() {
        let kit = kit();
        let slot = kit.recipient().encrypt(&Secret::copy_of(b"dek"));
        let mut letters = Vec::new();
        let mut writer =
            ArmoredWriter::wrap_output(&mut letters, Format::AsciiArmor).expect("memory");
        writer.write_all(&slot.0).expect("memory");
        writer.finish().expect("memory");
        assert!(kit.identity.decrypt(&Base64(letters)).is_err());
    }

    #[test]
    fn a_protected_kit_opens_by_its_passphrase_alone() {
        let kit = kit();
        let right = passphrase("six words, ü and all".as_bytes()).expect("a passphrase");
        let text = kit.to_protected_lines(&right).expect("long enough");
        let secret = kit.identity.to_line();
        let shown = String::from_utf8_lossy(text.expose()).into_owned();
        assert!(!shown.contains(String::from_utf8_lossy(secret.expose()).trim()));
        let read = protected(&text);
        let again = read.open(&right).expect("its passphrase");
        assert!(again.to_lines().same_as(kit.to_lines().expose()));
        let wrong = passphrase(b"six words, u and all").expect("a passphrase");
        let error = read.open(&wrong).err().expect("another passphrase");
        assert!(error.to_string().contains("not its passphrase"), "{error}");
    }

    #[test]
    fn a_protected_kit_that_is_damaged_is_called_so() {
        let right = passphrase(b"six words and more").expect("a passphrase");
        let text = kit().to_protected_lines(&right).expect("long enough");
        let shown = String::from_utf8_lossy(text.expose()).into_owned();
        let cut = Secret::copy_of(shown.replace(ARMOR_END, "").as_bytes());
        let reason = KitFile::parse(&cut, "kit").err().expect("no end");
        assert!(reason.contains("cut short"), "{reason}");
        let (begin, end) = (ARMOR_BEGIN.len() + 1, ARMOR_END.len() + 1);
        let block = shown.find(ARMOR_BEGIN).expect("its block") + begin;
        for place in (block..shown.len() - end).step_by(37) {
            let mut bad = shown.clone().into_bytes();
            bad[place] = if bad[place] == b'A' { b'B' } else { b'A' };
            let Ok(KitFile::Protected(bad)) = KitFile::parse(&Secret::copy_of(&bad), "kit") else {
                panic!("its lines are as they were");
            };
            assert!(bad.open(&right).is_err(), "{place}");
        }
    }

    #[test]
    fn a_passphrase_that_protects_nothing_is_refused() {
        let short = passphrase(b"11 letters.").expect("one that opens");
        assert!(kit().to_protected_lines(&short).is_err());
        let long = [b'x'; Passphrase::MAX + 1];
        for bad in [&b""[..], b"two\nlines, or more", b"\xff\xfe", &long] {
            assert!(passphrase(bad).is_err());
        }
    }

    #[test]
    fn what_is_no_kit_is_refused() {
        for bad in ["", "# vault: v\n", "AGE-SECRET-KEY-1XYZ", "\u{0}"] {
            assert!(KitFile::parse(&Secret::copy_of(bad.as_bytes()), "kit").is_err());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = KitFile::parse(&Secret::copy_of(&bytes), "kit");
        }

        #[test]
        fn a_kit_with_one_byte_changed_is_refused_or_means_the_same(
            place in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let kit = kit();
            let slot = kit.recipient().encrypt(&Secret::copy_of(b"dek"));
            let mut text = kit.to_text();
            let place = place.index(text.len());
            text.expose_mut()[place] = byte;
            if let Ok(KitFile::Open(read)) = KitFile::parse(&text, "kit") {
                // The identity has a checksum; the rest is compared with the vault.
                prop_assert!(read.identity.decrypt(&slot).is_ok());
            }
        }
    }
}
