//! Why the program was not launched, and the exit code that says so.

use std::fmt;

use strongroom::ErrorKind;

/// Added to the exit code that a kind of failure has in Strongroom's other programs, because the
/// small numbers are the launched program's own.
const OFFSET: u8 = 120;

/// The exit code of wrong usage.
pub(crate) const USAGE: u8 = OFFSET + 2;

/// What failed. Its text carries no secret.
#[derive(Clone, Debug)]
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

    /// rclone is asked for something that it must not do with a secret.
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

    pub(crate) fn exit_code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
