//! The TPM's response codes (Part 2, section 6.6), as far as a vault acts on them.

use tss_esapi::error::{Error as TssError, ReturnCode};

use crate::error::Error;

/// What a TPM answered instead of success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// TPM_RC_PCR_CHANGED: some PCR was extended between TPM2_PolicyPCR and the use.
    PcrChanged,
    /// TPM_RC_VALUE: for TPM2_PolicyOR and TPM2_PolicyAuthorizeNV, the policy does not hold.
    Value,
    /// TPM_RC_POLICY_FAIL: the session's digest is not the object's.
    PolicyFail,
    /// TPM_RC_NV_UNINITIALIZED: the index was never written.
    NvUninitialized,
    /// TPM_RC_HANDLE: there is nothing at this handle.
    NoSuchHandle,
    /// TPM_RC_INTEGRITY: a blob that this TPM, or this parent, did not make.
    Integrity,
    /// TPM_RC_AUTH_FAIL, TPM_RC_BAD_AUTH: the authorisation is not empty as expected.
    Auth,
    /// TPM_RC_NV_DEFINED: the handle is taken.
    NvDefined,
    /// TPM_RC_LOCKOUT, TPM_RC_NV_RATE, TPM_RC_RETRY and their like: not now.
    Unavailable(&'static str),
    /// Anything else.
    Other,
}

impl Answer {
    pub(crate) fn of(error: TssError) -> Self {
        let TssError::TssError(code) = error else {
            return Self::Other;
        };
        match code {
            ReturnCode::Tpm(_) | ReturnCode::TpmResourceManager(_) => {
                Self::of_tpm(u32::from(code) & 0xFFF)
            }
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
        match code {
            0x084 => Self::Value,
            0x08B => Self::NoSuchHandle,
            0x08E | 0x0A2 => Self::Auth,
            0x09D => Self::PolicyFail,
            0x09F => Self::Integrity,
            0x128 => Self::PcrChanged,
            0x14A => Self::NvUninitialized,
            0x14C => Self::NvDefined,
            0x902..=0x904 => Self::Unavailable("out of memory for keys or sessions"),
            0x908 | 0x922 => Self::Unavailable("busy"),
            0x90A => Self::Unavailable("testing itself"),
            0x920 => Self::Unavailable("slowing down writes to protect its memory"),
            0x921 => Self::Unavailable("in lockout"),
            _ => Self::Other,
        }
    }
}

/// The library's error for what the TPM answered to `operation`.
pub(crate) fn error(operation: &'static str, error: TssError) -> Error {
    match Answer::of(error) {
        Answer::Unavailable(state) => Error::TpmUnavailable { operation, state },
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
            (0x1DF, Answer::Integrity),
            (0x128, Answer::PcrChanged),
            (0x14A, Answer::NvUninitialized),
            (0x921, Answer::Unavailable("in lockout")),
            (0x143, Answer::Other),
        ] {
            assert_eq!(Answer::of_tpm(code), answer, "{code:#x}");
        }
    }
}
