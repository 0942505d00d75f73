//! The TPM's response codes (Part 2, section 6.6), as far as a vault acts on them.

use tss_esapi::error::{Error as TssError, ReturnCode};

use crate::error::Error;

/// TPM_RC_OBJECT_MEMORY, TPM_RC_SESSION_MEMORY and their like.
pub(super) const OUT_OF_MEMORY: &str =
    "out of memory for keys or sessions, which killed processes leave behind";

/// What a TPM answered instead of success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// TPM_RC_PCR_CHANGED: some PCR was extended between TPM2_PolicyPCR and the use.
    PcrChanged,
    /// TPM_RC_VALUE: for TPM2_PolicyOR and TPM2_PolicyAuthorizeNV, the policy does not hold.
    Value,
    /// TPM_RC_ASYMMETRIC, KEY_SIZE, RANGE, SCHEME, CURVE: it does not have such keys.
    Lacks,
    /// TPM_RC_POLICY_FAIL: the session's digest is not the object's; TPM_RC_POLICY: what was asserted is
    /// not so.
    PolicyFail,
    /// TPM_RC_NV_UNINITIALIZED: the index was never written.
    NvUninitialized,
    /// TPM_RC_HANDLE: there is nothing at this handle.
    NoSuchHandle,
    /// TPM_RC_INTEGRITY and its like: a blob that this TPM, or this parent, did not make.
    NotItsOwn,
    /// TPM_RC_AUTH_FAIL, TPM_RC_BAD_AUTH: the authorisation is not empty as expected.
    Auth,
    /// TPM_RC_AUTH_UNAVAILABLE: for a PIN's index, too many wrong ones.
    AuthUnavailable,
    /// TPM_RC_NV_DEFINED: the handle is taken.
    NvDefined,
    /// Not now: TPM_RC_LOCKOUT, TPM_RC_NV_RATE, TPM_RC_RETRY and their like.
    Unavailable {
        state: &'static str,
        remedy: &'static str,
    },
    /// The TPM was not reached, or has none of what was loaded into it: TPM_RC_REFERENCE_H0 to S6.
    /// It was restarted, or another process made room in it.
    Lost,
    /// Anything else.
    Other,
}

impl Answer {
    pub(crate) fn of(error: TssError) -> Self {
        match error {
            TssError::TssError(code @ (ReturnCode::Tpm(_) | ReturnCode::TpmResourceManager(_))) => {
                Self::of_tpm(u32::from(code) & 0xFFF)
            }
            TssError::TssError(ReturnCode::Tcti(_)) => Self::Lost,
            _ => Self::Other,
        }
    }

    fn of_tpm(code: u32) -> Self {
        // Format one: the number of the handle, session or parameter is not part of the code.
        let code = if code & 0x080 != 0 {
            code & 0x0BF
        } else {
            code
        };
        let wait = |state| Self::Unavailable {
            state,
            remedy: "wait and try again",
        };
        match code {
            0x084 => Self::Value,
            0x081 | 0x087 | 0x08D | 0x092 | 0x0A6 => Self::Lacks,
            0x08B => Self::NoSuchHandle,
            0x08E | 0x0A2 => Self::Auth,
            0x09D | 0x126 => Self::PolicyFail,
            // ATTRIBUTES, HASH, TYPE, SIZE, INTEGRITY, BINDING.
            0x082 | 0x083 | 0x08A | 0x095 | 0x09F | 0x0A5 => Self::NotItsOwn,
            0x101 => Self::Unavailable {
                state: "in failure mode",
                remedy: "restart the machine",
            },
            0x128 => Self::PcrChanged,
            0x12F => Self::AuthUnavailable,
            0x14A => Self::NvUninitialized,
            0x14C => Self::NvDefined,
            // Nothing but a restart, or who put them there, takes them out again.
            0x902..=0x906 => Self::Unavailable {
                state: OUT_OF_MEMORY,
                remedy: "flush them with `tpm2_flushcontext -T device:/dev/tpm0 --transient-object` \
                         and `--loaded-session`, or restart the machine",
            },
            0x907..=0x909 | 0x922 => wait("busy"),
            0x90A => wait("testing itself"),
            0x910..=0x91E => Self::Lost,
            0x920 => wait("slowing down writes to protect its memory"),
            0x921 => Self::Unavailable {
                state: "in lockout",
                remedy: "wait until it ends by itself, or reset it with the lockout password",
            },
            0x923 => wait("without access to its memory"),
            _ => Self::Other,
        }
    }
}

/// Whether the TPM had no room for something.
pub(super) fn is_want_of_room(error: &Error) -> bool {
    matches!(error, Error::TpmUnavailable { state, .. } if *state == OUT_OF_MEMORY)
}

/// The library's error for what the TPM answered to `operation`.
pub(crate) fn error(operation: &'static str, error: TssError) -> Error {
    match Answer::of(error) {
        Answer::Unavailable { state, remedy } => Error::TpmUnavailable {
            operation,
            state,
            remedy,
        },
        Answer::Lost => Error::TpmLost {
            operation,
            reason: error.to_string(),
        },
        Answer::NotItsOwn | Answer::Lacks | Answer::Value => Error::NotLoadable {
            operation,
            reason: error.to_string(),
        },
        _ => Error::Tpm {
            operation,
            reason: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_whatever_handle_or_parameter_they_are_of() {
        for (code, answer) in [
            (0x1C4, Answer::Value),
            (0x99D, Answer::PolicyFail),
            (0x9A2, Answer::Auth),
            (0x18B, Answer::NoSuchHandle),
            (0x1DF, Answer::NotItsOwn),
            (0x1E6, Answer::Lacks),
            (0x128, Answer::PcrChanged),
            (0x12F, Answer::AuthUnavailable),
            (0x14A, Answer::NvUninitialized),
            (0x143, Answer::Other),
            (0x910, Answer::Lost),
            (0x918, Answer::Lost),
        ] {
            assert_eq!(Answer::of_tpm(code), answer, "{code:#x}");
        }
        for code in [0x101, 0x902, 0x903, 0x908, 0x920, 0x921, 0x922, 0x923] {
            let answer = Answer::of_tpm(code);
            assert!(matches!(answer, Answer::Unavailable { .. }), "{code:#x}");
        }
    }
}
