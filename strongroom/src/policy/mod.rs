//! Which boots may unseal: PCR values, the branches that are allowed, and what a refusal means.
//!
//! Nothing here talks to a TPM; `crate::tpm` does, with what is computed here.

mod boot_logs;
mod branch;
mod digest;
mod fence;
mod file;
mod label;
mod pcr;
mod phase;
mod refusal;

pub(crate) use boot_logs::BootLogs;
pub use branch::{Branch, Branches};
pub(crate) use digest::PolicyDigest;
pub use fence::Fence;
pub(crate) use file::PolicyFile;
pub use label::Label;
pub use pcr::{PcrSelection, PcrValues};
pub use phase::Phase;
pub(crate) use phase::{Course, PCR as PHASES_PCR};
pub use refusal::Refusal;
