//! Where the TPM is: a TCTI in the notation of tpm2-tss, such as `device:/dev/tpmrm0` or
//! `swtpm:host=127.0.0.1,port=2321`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use tss_esapi::Context;
use tss_esapi::tcti_ldr::TctiNameConf;

use crate::error::{Error, Result};

/// Names the environment variable that says where the TPM is.
const VARIABLE: &str = "STRONGROOM_TCTI";

/// The kernel's TPM, and the same behind its resource manager, which puts several times as many
/// commands on the TPM but can be shared.
const DEVICE: &str = "/dev/tpm0";
const MANAGED_DEVICE: &str = "/dev/tpmrm0";

/// Where the TPM is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcti(Place);

/// How processes share a TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// By a resource manager, which gives each all the room, and flushes what it leaves.
    Managed,
    /// The kernel's own device has one opener at a time. What that leaves stays.
    OneOpener,
    /// A simulator takes in everybody. What they leave stays.
    InTurns,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// The kernel's own, whichever of its two devices can be had.
    Kernel,
    Named(String),
}

impl Tcti {
    /// What `STRONGROOM_TCTI` says, or else the kernel's TPM: `/dev/tpm0` where nobody else holds
    /// it, `/dev/tpmrm0` otherwise.
    ///
    /// # Errors
    /// [`Error::Input`] if the variable is not a TCTI.
    pub fn from_environment() -> Result<Self> {
        match std::env::var(VARIABLE) {
            Ok(text) if !text.is_empty() => text.parse(),
            _ => Ok(Self(Place::Kernel)),
        }
    }

    /// Whether it is the kernel's first TPM, whose event log the kernel has; none of any other
    /// TPM is to be had.
    pub fn is_kernels(&self) -> bool {
        match &self.0 {
            Place::Kernel => true,
            Place::Named(text) => {
                let device = text
                    .strip_prefix("device")
                    .map(|it| it.trim_start_matches(':'));
                matches!(device, Some("" | DEVICE | MANAGED_DEVICE))
            }
        }
    }

    /// Who can use the TPM at the same time.
    pub(super) fn sharing(&self) -> Sharing {
        match &self.0 {
            Place::Kernel if Path::new(DEVICE).exists() => Sharing::OneOpener,
            Place::Kernel => Sharing::Managed,
            Place::Named(text) if text.contains("tpmrm") || text.starts_with("tabrmd") => {
                Sharing::Managed
            }
            Place::Named(text) if Self::has_one_opener(text) => Sharing::OneOpener,
            Place::Named(_) => Sharing::InTurns,
        }
    }

    /// Whether it is a kernel's device without resource manager, in TCTI notation.
    pub(super) fn has_one_opener(text: &str) -> bool {
        text.starts_with("device") && !text.contains("tpmrm")
    }

    /// Connects, and says where in TCTI notation: of the kernel's two devices the one that was to
    /// be had.
    pub(super) fn connect(&self) -> Result<(Context, String)> {
        let connected = match &self.0 {
            Place::Named(text) => connect(text),
            // The device has one opener at a time, so that trying is asking.
            Place::Kernel if Path::new(DEVICE).exists() => connect(&format!("device:{DEVICE}"))
                .or_else(|_| connect(&format!("device:{MANAGED_DEVICE}"))),
            Place::Kernel => connect(&format!("device:{MANAGED_DEVICE}")),
        };
        if let Ok((_, taken)) = &connected {
            log::info!("TPM: {taken}");
        }
        connected
    }
}

fn connect(text: &str) -> Result<(Context, String)> {
    let missing = |error: tss_esapi::Error| Error::TpmMissing {
        tcti: text.to_owned(),
        reason: error.to_string(),
    };
    let place = TctiNameConf::from_str(text).map_err(missing)?;
    let context = Context::new(place).map_err(missing)?;
    Ok((context, text.to_owned()))
}

impl fmt::Display for Tcti {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Kernel => write!(f, "device:{DEVICE}"),
            Place::Named(text) => f.write_str(text),
        }
    }
}

impl FromStr for Tcti {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        TctiNameConf::from_str(text).map_err(|_| {
            Error::input(
                format!("TCTI {text:?}"),
                "it must be one of tpm2-tss, such as device:/dev/tpmrm0 or swtpm:path=SOCKET",
            )
        })?;
        Ok(Self(Place::Named(text.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tpm_is_known_by_whatever_name() {
        for (text, kernels) in [
            ("device:/dev/tpm0", true),
            ("device:/dev/tpmrm0", true),
            ("device", true),
            ("device:/dev/tpm1", false),
            ("swtpm:path=/tmp/tpm", false),
            ("tabrmd:bus_type=session", false),
        ] {
            let tcti: Tcti = text.parse().expect("a TCTI");
            assert_eq!(tcti.is_kernels(), kernels, "{text}");
        }
    }
}
