//! Why a command did not do all that it was asked to, and the one place where that becomes an exit
//! code.

use strongroom::error::{Error, ErrorKind};
use strongroom::object::TokenName;
use strongroom::policy::Refusal;

use crate::zfs::ZfsError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The library's, with its own exit codes 3 to 7.
    #[error("{0}")]
    Vault(#[from] Error),

    /// ZFS cannot be asked, or refused.
    #[error("{0}")]
    Zfs(#[from] ZfsError),

    /// A dataset is not what it must be.
    #[error("{name}: {reason}")]
    Dataset {
        name: String,
        reason: String,
        /// The exit code: 6 where ZFS or the vault does not know it, 7 where it is not what it must
        /// be, 1 where ZFS does not say.
        code: u8,
    },

    /// Nobody has given the PIN that keys are behind.
    #[error(
        "what is behind the PIN of token {token} stays locked: {reason}; run this at a terminal, or \
         name a file with --pin-file"
    )]
    NoPin {
        token: TokenName,
        reason: &'static str,
    },

    /// Some datasets failed, and the rest are done. What failed has been reported.
    #[error("{failed} of {total} failed; the rest are done")]
    Partial {
        failed: usize,
        total: usize,
        /// 1; 6 where not one of them was known; where nothing but a PIN stood before all of them,
        /// what that says.
        code: u8,
    },

    /// What ended the work before it was done, after a report that says so.
    #[error("{0}")]
    Reported(Error),

    /// The command line asks for something that cannot be done so.
    #[error("{0}")]
    Usage(&'static str),
}

impl Failure {
    /// A dataset that ZFS or the vault does not know.
    pub(crate) fn unknown(name: &str, reason: impl Into<String>) -> Self {
        Self::Dataset {
            name: name.to_owned(),
            reason: reason.into(),
            code: ErrorKind::NoObject.exit_code(),
        }
    }

    /// A dataset of which is not known how it stands.
    pub(crate) fn unclear(name: &str, reason: impl Into<String>) -> Self {
        Self::Dataset {
            name: name.to_owned(),
            reason: reason.into(),
            code: 1,
        }
    }

    /// A dataset that is not what it must be.
    pub(crate) fn dataset(name: &str, reason: impl Into<String>) -> Self {
        Self::Dataset {
            name: name.to_owned(),
            reason: reason.into(),
            code: ErrorKind::Input.exit_code(),
        }
    }

    /// Of a refusal of the policy, what is not as in an allowed boot.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Vault(error) | Self::Reported(error) => error.refusal(),
            _ => None,
        }
    }

    /// Whether a report has said it already.
    pub(crate) fn is_reported(&self) -> bool {
        matches!(self, Self::Partial { .. } | Self::Reported(_))
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Vault(error) | Self::Reported(error) => error.kind().exit_code(),
            Self::Zfs(_) => 1,
            Self::Dataset { code, .. } | Self::Partial { code, .. } => *code,
            Self::NoPin { .. } => ErrorKind::Input.exit_code(),
            Self::Usage(_) => 2,
        }
    }
}
