//! Why a command failed, and the one place where that becomes an exit code.

use strongroom::Error;
use strongroom::policy::Refusal;

/// Why a command did not do all that it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The library's, with its own exit codes 3 to 7.
    #[error("{0}")]
    Vault(#[from] Error),

    /// Some objects failed and the rest are done. What failed has been reported already.
    #[error("{failed} of {total} failed; the rest are done")]
    Partial {
        /// How many failed.
        failed: usize,
        /// How many there were.
        total: usize,
    },

    /// Some objects do not open by the recovery kit, and the command's report says which.
    #[error(
        "{failed} of {total} objects do not open by the recovery kit: put them back with \
         `strongroom recover --recovery FILE --backup FILE`, or seal them again"
    )]
    NotOpen {
        /// How many do not.
        failed: usize,
        /// How many there were.
        total: usize,
    },

    /// Something was found, and `--check` wants to hear of it by the exit code.
    #[error("{0} findings are more than a note")]
    Found(usize),

    /// An audit could not look at everything, and its report says at what not.
    #[error(
        "{0} places could not be looked at, so that nothing is known of them; everything else was \
         looked at"
    )]
    NotLookedAt(usize),

    /// The state of things is not good, and the command's report says so: 3 to 7.
    #[error("{0}")]
    Reported(Error),

    /// The command line asks for something that cannot be done so.
    #[error("{0}")]
    Usage(String),

    /// The admin said no.
    #[error("nothing was done: {0}")]
    NotConfirmed(&'static str),
}

impl Failure {
    /// Of a refusal of the policy, what is not as in an allowed boot.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Vault(error) | Self::Reported(error) => error.refusal(),
            _ => None,
        }
    }

    /// Whether a report has said it already.
    pub(crate) fn is_reported(&self) -> bool {
        matches!(
            self,
            Self::Reported(_)
                | Self::Partial { .. }
                | Self::NotOpen { .. }
                | Self::Found(_)
                | Self::NotLookedAt(_)
        )
    }

    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Vault(error) | Self::Reported(error) => error.kind().exit_code(),
            Self::Partial { .. } | Self::NotOpen { .. } | Self::Found(_) | Self::NotLookedAt(_) => {
                1
            }
            Self::Usage(_) | Self::NotConfirmed(_) => 2,
        }
    }
}
