//! Recovery kits from an admin: out of a file or a pipe, or typed at a terminal, line by line; and the
//! passphrases that protect them. Never from the command line, which everyone on the machine can
//! read.

use std::io::{self, IsTerminal};
use std::path::Path;

use rpassword::ConfigBuilder;
use strongroom::Secret;
use strongroom::recovery::{KitFile, Passphrase, RecoveryKit};

use crate::cli::{self, PassphraseFile};
use crate::failure::Failure;
use crate::output;

/// How often something is asked for that cannot be right as it was typed.
const TRIES: usize = 3;

/// Length of an identity in age's spelling: Bech32 (BIP 173) of 32 bytes under `AGE-SECRET-KEY-`.
const IDENTITY_LEN: usize = 74;

/// A kit that was named on the command line, opened. `here` is the id of the vault that is here.
pub(crate) fn read(
    recovery: &Path,
    passphrase: &PassphraseFile,
    here: Option<&str>,
) -> Result<RecoveryKit, Failure> {
    open(file(recovery, here)?, passphrase)
}

/// A kit that was named on the command line, as it is.
pub(crate) fn file(recovery: &Path, here: Option<&str>) -> Result<KitFile, Failure> {
    if recovery == Path::new("-") && io::stdin().is_terminal() {
        type_in(here)
    } else {
        Ok(KitFile::read(recovery)?)
    }
}

/// Opens a kit with its passphrase, if it has one.
pub(crate) fn open(file: KitFile, passphrase: &PassphraseFile) -> Result<RecoveryKit, Failure> {
    let kit = match file {
        KitFile::Open(kit) => return Ok(kit),
        KitFile::Protected(kit) => kit,
    };
    if let Some(file) = &passphrase.passphrase_file {
        return Ok(kit.open(&Passphrase::read(file)?)?);
    }
    again_if_wrong(|| {
        let typed = ask_passphrase("--passphrase-file", "Passphrase of the recovery kit")?;
        Ok(Passphrase::new(typed)?).and_then(|passphrase| Ok(kit.open(&passphrase)?))
    })
}

/// A passphrase that is to protect a kit, typed twice where it is typed.
pub(crate) fn new_passphrase(file: Option<&Path>) -> Result<Passphrase, Failure> {
    const OPTION: &str = "--new-passphrase-file";
    if let Some(file) = file {
        return Ok(Passphrase::read(file)?);
    }
    let typed = ask_passphrase(OPTION, "New passphrase of the recovery kit")?;
    if !ask_passphrase(OPTION, "The same again")?.same_as(typed.expose()) {
        return Err(Failure::NotConfirmed("the two were not the same"));
    }
    Ok(Passphrase::new(typed)?)
}

fn ask_passphrase(option: &str, question: &str) -> Result<Secret, Failure> {
    output::ask_hidden("the passphrase", option, question)
}

/// A kit that is typed from paper, or by a scanner that types what its QR code holds.
fn type_in(here: Option<&str>) -> Result<KitFile, Failure> {
    eprintln!(
        "The recovery kit is asked for line by line. Blanks mean nothing, nor do small and capital \
         letters."
    );
    let vault_id = again_if_wrong(|| {
        let question = match here {
            Some(here) => format!("Vault id (Enter for {here}): "),
            None => "Vault id: ".to_owned(),
        };
        match (output::ask_line(&question)?.as_str(), here) {
            ("", Some(here)) => Ok(here.to_owned()),
            (typed, _) => Ok(without_name(typed).to_lowercase()),
        }
    })?;
    let fingerprint = again_if_wrong(|| {
        let typed = output::ask_line("Vault key SHA-256: ")?;
        cli::sha256(&without_name(&typed))
            .map_err(|reason| Failure::Usage(format!("the SHA-256 cannot be used: {reason}")))
    })?;
    again_if_wrong(|| {
        let identity = type_identity()?;
        Ok(KitFile::of_parts(
            &vault_id,
            fingerprint,
            &identity,
            "recovery kit as typed",
        )?)
    })
}

/// What a line of a kit says, without blanks, be it typed with the line's name or without.
fn without_name(line: &str) -> String {
    let value = line.rsplit(": ").next().unwrap_or(line);
    value.split_whitespace().collect()
}

/// An identity in as many lines as it is typed in; or, with all its lines, one that is protected.
fn type_identity() -> Result<Secret, Failure> {
    let first = ask_masked("Identity (AGE-SECRET-KEY-1...): ")?;
    if first.expose().starts_with(b"-----BEGIN ") {
        return type_block(first);
    }
    let mut typed = in_capitals(&first);
    while typed.len() < IDENTITY_LEN {
        let more = ask_masked("The rest of it: ")?;
        if more.is_empty() {
            break;
        }
        typed = Secret::concat(&[typed.expose(), in_capitals(&more).expose()]);
    }
    Ok(typed)
}

/// A protected identity: an age file in letters, to its last line. Here letters are what they are.
fn type_block(first: Secret) -> Result<Secret, Failure> {
    let mut block = first;
    loop {
        let line = ask_masked("")?;
        block = Secret::concat(&[block.expose(), b"\n", line.expose()]);
        if line.is_empty() || line.expose().starts_with(b"-----END ") {
            return Ok(block);
        }
    }
}

/// Bech32 has small letters or capitals, age has capitals alone.
fn in_capitals(typed: &Secret) -> Secret {
    let letters = || {
        typed
            .expose()
            .iter()
            .filter(|byte| !byte.is_ascii_whitespace())
    };
    let mut clean = Secret::zeroed(letters().count());
    for (to, from) in clean.expose_mut().iter_mut().zip(letters()) {
        *to = from.to_ascii_uppercase();
    }
    clean
}

/// Asks for a line that nobody else shall read; who types it sees how much of it there is.
fn ask_masked(question: &str) -> Result<Secret, Failure> {
    let masked = ConfigBuilder::new().password_feedback_mask('*').build();
    rpassword::prompt_password_with_config(question, masked)
        .map(|typed| Secret::take(typed.into_bytes()))
        .map_err(|_| Failure::NotConfirmed("nothing was typed"))
}

/// Asks again where what was typed cannot be right.
fn again_if_wrong<T>(mut ask: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut tries = 1;
    loop {
        match ask() {
            Err(error @ (Failure::Vault(_) | Failure::Usage(_))) if tries < TRIES => {
                eprintln!("strongroom: {error}");
                tries += 1;
            }
            other => return other,
        }
    }
}
