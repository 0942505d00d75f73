//! What can go wrong with a vault, said so that its owner knows what to do next.
//!
//! [`Error`] is what every operation of the library answers; [`Error::kind`] sorts it into the
//! kinds that a front tells apart, and [`ErrorKind::exit_code`] is the one place where a kind
//! becomes the exit code of a process. No error carries a secret.

use std::path::{Path, PathBuf};

use crate::pin::Role;
use crate::policy::{Fence, Refusal};

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What failed, on which object, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The TPM's PCRs are in none of the states that the vault's policy allows.
    #[error("{0}")]
    PolicyRefused(Refusal),

    /// The fence before a token was closed in this boot, as it is meant to be.
    #[error(
        "{0} was extended in this boot: the fence before these keys is closed, and nothing opens them, \
         nor seals any beside them, until a restart"
    )]
    FenceClosed(Fence),

    /// No TPM answers at the given TCTI.
    #[error(
        "no TPM answers at {tcti}: {reason}; check that the TPM is on, or name it with STRONGROOM_TCTI"
    )]
    TpmMissing {
        /// The TCTI that was tried, such as `device:/dev/tpmrm0`.
        tcti: String,
        /// What the transport said.
        reason: String,
    },

    /// The TPM refuses for the time being.
    #[error("the TPM is {state} and refuses {operation}; {remedy}")]
    TpmUnavailable {
        /// What was asked of it.
        operation: &'static str,
        /// "in lockout", "busy", "out of memory".
        state: &'static str,
        /// What to do: to wait helps against some of them only.
        remedy: &'static str,
    },

    /// The connection to the TPM broke.
    #[error("the connection to the TPM was lost at {operation}: {reason}; try again")]
    TpmLost {
        /// What was asked of it.
        operation: &'static str,
        /// What the transport said.
        reason: String,
    },

    /// The TPM does not take a blob for one of its own.
    #[error("the TPM does not accept what {operation} was given: {reason}")]
    NotLoadable {
        /// The TPM command, and on what.
        operation: &'static str,
        /// The TPM's response code in words and number.
        reason: String,
    },

    /// The TPM answered something else than success.
    #[error("the TPM failed at {operation}: {reason}")]
    Tpm {
        /// The TPM command, and on what.
        operation: &'static str,
        /// The TPM's response code in words and number.
        reason: String,
    },

    /// The TPM lacks what the vault rests on.
    #[error(
        "this TPM has no {0}, without which a vault would not outlive an update; Strongroom cannot use it"
    )]
    TpmTooOld(&'static str),

    /// The TPM is not the one that the vault was made on.
    #[error(
        "this TPM is not the vault's: {0}; if the mainboard or its TPM was replaced or cleared, \
         run `strongroom recover --recovery FILE`"
    )]
    ForeignTpm(String),

    /// The key at the root key's handle is not the vault's root key.
    #[error(
        "the root key at handle {handle:#010x} is not the vault's: {reason}; nothing was sent to it. \
         Remove it with `tpm2_evictcontrol -C o -c {handle:#010x}`, and Strongroom makes its own again; \
         if the mainboard or its TPM was replaced, run `strongroom recover --recovery FILE`"
    )]
    RootKey {
        /// Persistent handle.
        handle: u32,
        /// What is wrong with its public area.
        reason: String,
    },

    /// There is no vault at this place.
    #[error(
        "there is no vault in {0}; name its folder with STRONGROOM_DIR, or make one with `strongroom init`"
    )]
    VaultMissing(PathBuf),

    /// There is something at this place already.
    #[error(
        "{0} already holds {1}; a new vault needs a new or empty folder, named with STRONGROOM_DIR"
    )]
    VaultExists(PathBuf, &'static str),

    /// Another process is writing to the vault.
    #[error("another process is writing to the vault in {0}; wait for it and try again")]
    VaultBusy(PathBuf),

    /// The list of allowed boots is lost, or is not the one that the TPM holds.
    #[error(
        "{file} is not the list of allowed boots that the TPM holds ({reason}); \
         `strongroom rebind --recovery FILE --yes` writes both anew"
    )]
    PolicyFile {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// A file of the vault cannot be what it should be.
    #[error(
        "{file} is damaged: {reason}; restore it with `strongroom recover --recovery FILE --backup FILE`"
    )]
    VaultDamaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// A file of the vault was changed by someone who does not hold the vault key.
    #[error(
        "{file} was changed by something other than Strongroom ({reason}); nothing was sealed or given out. \
         Restore it with `strongroom recover --recovery FILE --backup FILE`, and find out who wrote it"
    )]
    VaultForged {
        /// The file.
        file: PathBuf,
        /// Which check failed.
        reason: String,
    },

    /// The vault is not the one that its owner has named.
    #[error(
        "{file} is of another vault than the one whose key you named; nothing was sealed or given \
         out. Compare the SHA-256 with the one in the recovery kit; if that is right, someone put \
         another vault in the place of yours"
    )]
    OtherVault {
        /// The manifest's file.
        file: PathBuf,
    },

    /// A second machine that has not been told which vault it belongs to.
    #[error(
        "this machine is a second one of the vault in {0}, and has not sealed its vault key yet: run \
         `strongroom pair settle --vault-key-sha256 HEX` here once, with the SHA-256 that `strongroom pair \
         add` has shown and the recovery kit names"
    )]
    SecondUnsettled(PathBuf),

    /// The vault was written by a newer Strongroom.
    #[error(
        "{file} has format {found}, and this Strongroom knows formats up to {known}; use the newer program"
    )]
    VaultNewer {
        /// The file.
        file: PathBuf,
        /// Its format version.
        found: u64,
        /// The newest that this program reads.
        known: u64,
    },

    /// One object's file is not what it must be; all others are unaffected.
    #[error(
        "object {file} is unusable: {reason}; restore it with `strongroom recover --recovery FILE --backup FILE`, or seal it again"
    )]
    ObjectDamaged {
        /// The object's file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// A key that was made in a TPM, and is nowhere else, in a vault that has come to another one.
    #[error(
        "key {label:?} ({file}) was generated in another TPM than this one, or in this one before it \
         was cleared, and existed there alone: it is lost. Generate a new key in its place, make the \
         new public key known where the old one was, and remove the old object"
    )]
    KeyLost {
        /// The key's label.
        label: String,
        /// The object's file.
        file: PathBuf,
    },

    /// No object answers to the selection.
    #[error("no object {0} in the vault; `strongroom list` shows what there is")]
    NoSuchObject(String),

    /// Several objects answer to a selection that must name one.
    #[error("{count} objects answer to {selector}: name one by its id ({ids})")]
    AmbiguousObject {
        /// What was asked for.
        selector: String,
        /// How many answer.
        count: usize,
        /// Their ids, separated by commas.
        ids: String,
    },

    /// The vault has no such token.
    #[error("the vault has no token {0}")]
    NoSuchToken(String),

    /// A PIN is not the right one.
    #[error(
        "this is not the PIN of the {role} of token {token}; too many wrong ones lock it. If it is \
         forgotten, {}",
        setting_anew(*role, token)
    )]
    PinIncorrect {
        /// The token's name.
        token: String,
        /// Whose PIN.
        role: Role,
    },

    /// A PIN was wrong too often.
    #[error(
        "the PIN of the {role} of token {token} is locked after too many wrong ones; {}",
        setting_anew(*role, token)
    )]
    PinLocked {
        /// The token's name.
        token: String,
        /// Whose PIN.
        role: Role,
    },

    /// Nobody has set the PIN.
    #[error("the {role} of token {token} has no PIN yet; {}", setting_anew(*role, token))]
    PinNotSet {
        /// The token's name.
        token: String,
        /// Whose PIN.
        role: Role,
    },

    /// A private object of a token with a PIN, and nobody has given that.
    #[error("{0} is private, and opens with the PIN of its token's user")]
    PinRequired(String),

    /// The NV index of a PIN is gone, or another.
    #[error(
        "the PIN of the {role} of token {token} cannot be used: of its NV index {handle:#010x}, {reason}; \
         {} makes it again",
        by_recovery(*role, token)
    )]
    PinUnusable {
        /// The token's name.
        token: String,
        /// Whose PIN.
        role: Role,
        /// The index's handle.
        handle: u32,
        /// What is wrong.
        reason: String,
    },

    /// The recovery identity does not open this vault.
    #[error(
        "this recovery identity does not open the vault ({0}); use the one that `strongroom init` gave out"
    )]
    RecoveryIdentity(String),

    /// The caller's input is not what it must be.
    #[error("{what} is not usable: {reason}")]
    Input {
        /// Which input.
        what: String,
        /// Why, and what it must be.
        reason: String,
    },

    /// The operating system refused to read or write.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// "read", "write", "rename".
        action: &'static str,
        /// What on.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The kinds of failure that fronts tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The policy refused: another boot state.
    Policy,
    /// TPM missing, foreign, busy or in lockout.
    Tpm,
    /// Vault or object missing, damaged, forged or of a newer format.
    Vault,
    /// No such object.
    NoObject,
    /// The input is not what it must be.
    Input,
}

impl ErrorKind {
    /// The exit code, the same in every binary: 3 policy, 4 TPM, 5 vault, 6 no object, 7 input.
    /// (0 is success, 1 is partial failure, 2 is clap's own for wrong usage.)
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Policy => 3,
            Self::Tpm => 4,
            Self::Vault => 5,
            Self::NoObject => 6,
            Self::Input => 7,
        }
    }
}

impl Error {
    /// Of a refusal of the policy, what is not as in an allowed boot.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::PolicyRefused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Which kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::PolicyRefused(_) | Self::FenceClosed(_) => ErrorKind::Policy,
            Self::TpmMissing { .. }
            | Self::TpmUnavailable { .. }
            | Self::TpmLost { .. }
            | Self::NotLoadable { .. }
            | Self::Tpm { .. }
            | Self::TpmTooOld(_)
            | Self::ForeignTpm(_)
            | Self::RootKey { .. }
            | Self::PinLocked { .. }
            | Self::PinUnusable { .. } => ErrorKind::Tpm,
            Self::VaultMissing(_)
            | Self::VaultExists(..)
            | Self::VaultBusy(_)
            | Self::PolicyFile { .. }
            | Self::VaultDamaged { .. }
            | Self::VaultForged { .. }
            | Self::OtherVault { .. }
            | Self::SecondUnsettled(_)
            | Self::VaultNewer { .. }
            | Self::ObjectDamaged { .. }
            | Self::KeyLost { .. }
            | Self::Io { .. } => ErrorKind::Vault,
            Self::NoSuchObject(_) | Self::AmbiguousObject { .. } | Self::NoSuchToken(_) => {
                ErrorKind::NoObject
            }
            Self::RecoveryIdentity(_)
            | Self::PinIncorrect { .. }
            | Self::PinNotSet { .. }
            | Self::PinRequired(_)
            | Self::Input { .. } => ErrorKind::Input,
        }
    }

    /// An input that is not what it must be.
    pub fn input(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Input {
            what: what.into(),
            reason: reason.into(),
        }
    }

    /// For `map_err` on file operations.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// Who sets a PIN anew.
fn setting_anew(role: Role, token: &str) -> String {
    let by_recovery = by_recovery(role, token);
    match role {
        Role::User => format!("the security officer sets it anew (C_InitPIN), or {by_recovery}"),
        Role::SecurityOfficer => format!("{by_recovery} sets it anew"),
    }
}

fn by_recovery(role: Role, token: &str) -> String {
    let options = match role {
        Role::User => "--recovery FILE",
        Role::SecurityOfficer => "--so --recovery FILE",
    };
    format!("`strongroom token set-pin {options} {token}`")
}
