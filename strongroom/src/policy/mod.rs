//! Which boots may unseal: PCR values, the branches that are allowed, and what a refusal means.
//!
//! Nothing here talks to a TPM; `crate::tpm` does, with what is computed here.

mod boot_logs;
mod branch;
mod digest;
mod file;
mod pcr;
mod refusal;

pub(crate) use boot_logs::BootLogs;
pub use branch::{Branch, Branches};
pub(crate) use digest::PolicyDigest;
pub(crate) use file::PolicyFile;
pub use pcr::{PcrSelection, PcrValues};
pub use refusal::Refusal;
