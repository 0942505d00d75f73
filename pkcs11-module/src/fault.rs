//! Where a failure becomes a `CK_RV`, and where a panic ends: [`answer`], around every function.
//!
//! | What failed | `CK_RV` |
//! |---|---|
//! | what the specification foresees | its own `CKR_` code |
//! | the policy refused: another boot state | [`POLICY_REFUSED`] |
//! | the TPM: missing, foreign, busy, in lockout | `CKR_DEVICE_ERROR` |
//! | the vault or an object: missing, damaged, forged, newer | [`VAULT_UNUSABLE`] |
//! | the object is gone | `CKR_OBJECT_HANDLE_INVALID` |
//! | an object's content is not what its metadata says | [`CONTENT_UNUSABLE`] |
//! | a bug: the module panicked | `CKR_GENERAL_ERROR` |
//!
//! The vendor-defined codes end in the exit code that Strongroom's own programs have for the same
//! kind. PKCS#11 has no code for a refusing policy, and `CKR_DATA_INVALID`, which would suit a
//! damaged object, is no answer that `C_GetAttributeValue` may give. A code says little, so all
//! but the first row are logged at `error` with the full text.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cryptoki_sys::{
    CK_RV, CKR_DEVICE_ERROR, CKR_GENERAL_ERROR, CKR_OBJECT_HANDLE_INVALID, CKR_OK,
    CKR_PIN_INCORRECT, CKR_PIN_LOCKED, CKR_USER_NOT_LOGGED_IN, CKR_USER_PIN_NOT_INITIALIZED,
    CKR_VENDOR_DEFINED,
};
use strongroom::{Error, ErrorKind};

/// The policy refused: the machine has booted into a state that the vault does not allow.
pub(crate) const POLICY_REFUSED: CK_RV = CKR_VENDOR_DEFINED | 0x5352_0003;

/// The vault or the object is missing, damaged, forged, or of a newer format.
pub(crate) const VAULT_UNUSABLE: CK_RV = CKR_VENDOR_DEFINED | 0x5352_0005;

/// The object was opened, and its content is not what its metadata says.
pub(crate) const CONTENT_UNUSABLE: CK_RV = CKR_VENDOR_DEFINED | 0x5352_0007;

/// Why a function does not answer `CKR_OK`.
#[derive(Debug)]
pub(crate) enum Fault {
    /// As the specification foresees.
    Code(CK_RV),
    /// As the library says.
    Library {
        /// On what, to be put before the error's text; empty if the text says it.
        subject: String,
        /// What failed.
        error: Error,
    },
}

/// What the inside of a function answers.
pub(crate) type Answer<T = ()> = Result<T, Fault>;

/// Runs the inside of the function of this name and makes a `CK_RV` of its answer.
pub(crate) fn answer(function: &str, inside: impl FnOnce() -> Answer) -> CK_RV {
    // What a panic may leave half done is behind the state's mutex; see `state::with_module`.
    match catch_unwind(AssertUnwindSafe(inside)) {
        Ok(Ok(())) => CKR_OK,
        Ok(Err(fault)) => {
            fault.log(function);
            fault.code()
        }
        // The panic's own text went to stderr already.
        Err(_) => {
            log::error!("{function}: the module panicked, which is a bug of Strongroom's");
            CKR_GENERAL_ERROR
        }
    }
}

impl Fault {
    /// For `map_err`: the same with what it happened on.
    pub(crate) fn about(subject: impl ToString) -> impl FnOnce(Error) -> Self {
        move |error| Self::Library {
            subject: subject.to_string(),
            error,
        }
    }

    /// Says at the level that it deserves what failed in the function of this name. A wrong PIN is
    /// the user's affair, and told by its code.
    pub(crate) fn log(&self, function: &str) {
        match self {
            Self::Library {
                error: error @ (Error::PinIncorrect { .. } | Error::PinRequired(_)),
                ..
            } => log::info!("{function}: {error}"),
            Self::Code(code) => log::debug!("{function}: answers {code:#x}"),
            Self::Library { subject, error } if subject.is_empty() => {
                log::error!("{function}: {error}");
            }
            Self::Library { subject, error } => log::error!("{function}: {subject}: {error}"),
        }
    }

    /// The code that the caller gets.
    pub(crate) fn code(&self) -> CK_RV {
        match self {
            Self::Code(code) => *code,
            Self::Library { error, .. } => match error {
                Error::PinIncorrect { .. } => CKR_PIN_INCORRECT,
                Error::PinLocked { .. } => CKR_PIN_LOCKED,
                Error::PinNotSet { .. } => CKR_USER_PIN_NOT_INITIALIZED,
                Error::PinRequired(_) => CKR_USER_NOT_LOGGED_IN,
                _ => match error.kind() {
                    ErrorKind::Policy => POLICY_REFUSED,
                    ErrorKind::Tpm => CKR_DEVICE_ERROR,
                    ErrorKind::Vault => VAULT_UNUSABLE,
                    ErrorKind::NoObject => CKR_OBJECT_HANDLE_INVALID,
                    ErrorKind::Input => CONTENT_UNUSABLE,
                },
            },
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::about("")(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_here() {
        let code = answer("C_Test", || panic!("as this test wants"));
        assert_eq!(code, CKR_GENERAL_ERROR);
    }

    #[test]
    fn kinds_have_codes_of_their_own() {
        let code = |error: Error| answer("C_Test", || Err(error.into()));
        let missing = Error::VaultMissing("/nowhere".into());
        assert_eq!(code(missing), VAULT_UNUSABLE);
        assert_eq!(code(Error::TpmTooOld("NV")), CKR_DEVICE_ERROR);
        let gone = Error::NoSuchObject("x".to_owned());
        assert_eq!(code(gone), CKR_OBJECT_HANDLE_INVALID);
        assert_eq!(code(Error::input("x", "y")), CONTENT_UNUSABLE);
    }
}
