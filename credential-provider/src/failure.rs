//! Why the program was not launched, and the exit code that says so.

use std::fmt;

use serde::{Deserialize, Serialize};
use strongroom::ErrorKind;

/// Added to the exit code that a kind of failure has in Strongroom's other programs, because the
/// small numbers are the launched program's own.
const OFFSET: u8 = 120;

/// The exit code of wrong usage.
pub(crate) const USAGE: u8 = OFFSET + 2;

/// What failed. Its text carries no secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self {
            code: OFFSET + kind.exit_code(),
            text: text.into(),
        }
    }

    /// A program is asked for something that it must not do with a secret.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self {
            code: USAGE,
            text: text.into(),
        }
    }

    /// For `map_err`: something that the launch rests on is not what it must be.
    pub(crate) fn input(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Input, text)
    }

    /// The same, said of a place in the configuration.
    pub(crate) fn at(self, place: impl fmt::Display) -> Self {
        Self {
            text: format!("{place}: {}", self.text),
            ..self
        }
    }

    /// Whether no other try will come to another end: there is nothing to seal in.
    pub(crate) fn is_final(&self) -> bool {
        [ErrorKind::NoObject, ErrorKind::Input]
            .map(|kind| OFFSET + kind.exit_code())
            .contains(&self.code)
            || self.code == USAGE
    }

    /// Whether another try may soon come to another end: a TPM may be busy.
    pub(crate) fn may_pass(&self) -> bool {
        self.code == OFFSET + ErrorKind::Tpm.exit_code()
    }

    pub(crate) fn exit_code(&self) -> u8 {
        self.code
    }
}

impl From<strongroom::Error> for Failure {
    fn from(error: strongroom::Error) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl From<Failure> for Vec<Failure> {
    fn from(failure: Failure) -> Self {
        vec![failure]
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
