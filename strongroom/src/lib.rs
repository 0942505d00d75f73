//! Strongroom's library: a vault whose secrets are sealed one by one to this machine's TPM 2.0,
//! bound to its measured boot, each with a recovery way.
//!
//! Start at [`vault`]; everything else serves it. Dependencies point one way: `vault` to `tpm`,
//! `policy` and `store`; nothing but `tpm` knows tss-esapi.

mod backup;
pub mod dataset_key;
pub mod doctor;
mod encoding;
mod envelope;
pub mod error;
pub mod event_log;
pub mod key;
pub mod logging;
mod manifest;
pub mod object;
pub mod peer;
pub mod pin;
pub mod policy;
pub mod prediction;
pub mod process;
mod provision;
pub mod recovery;
pub mod recovery_copy;
mod secret;
mod store;
mod tpm;
pub mod uri;
pub mod vault;

use std::path::PathBuf;

pub use error::{Error, ErrorKind, Result};
pub use secret::Secret;
pub use store::{Damaged, NoWriter, TokenAccess, WriteLock};
pub use tpm::{Tcti, TpmState};
pub use vault::{Unlocked, Vault};

/// Names the environment variable that says where the vault is.
pub const DIR_VARIABLE: &str = "STRONGROOM_DIR";

/// Where the vault is: where the caller says, else `STRONGROOM_DIR`, else `/var/lib/strongroom`; or
/// `/data/strongroom`, where that folder is there and the other is not. A storage appliance keeps
/// `/data` over its upgrades, and hands none of our environment on to what it starts.
pub fn vault_dir(flag: Option<PathBuf>) -> PathBuf {
    flag.or_else(|| {
        std::env::var_os(DIR_VARIABLE)
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
    })
    .unwrap_or_else(|| {
        let [usual, appliance] = ["/var/lib/strongroom", "/data/strongroom"].map(PathBuf::from);
        if appliance.is_dir() && !usual.exists() {
            appliance
        } else {
            usual
        }
    })
}
