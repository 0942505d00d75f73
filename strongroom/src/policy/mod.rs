//! Which boots may unseal: PCR values, the branches that are allowed, and what a refusal means.
//!
//! Nothing here talks to a TPM; `crate::tpm` does, with what is computed here.

mod branch;
mod digest;
mod fence;
mod file;
mod pcr;
mod refusal;

pub use branch::{Branch, Branches};
pub(crate) use digest::PolicyDigest;
pub use fence::Fence;
pub(crate) use file::PolicyFile;
pub use pcr::{PcrSelection, PcrValues};
pub use refusal::Refusal;
