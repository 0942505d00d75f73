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

use std::path::{Path, PathBuf};

pub use error::{Error, ErrorKind, Result};
pub use secret::Secret;
pub use store::{Damaged, NoWriter, TokenAccess, WriteLock};
pub use tpm::{Tcti, TpmState};
pub use vault::{Unlocked, Vault};

/// Names the environment variable that says where the vault is.
pub const DIR_VARIABLE: &str = "STRONGROOM_DIR";

/// What is in a folder that is a vault's.
const MANIFEST: &str = "vault.json";

/// Where the vault is: where the caller says, else `STRONGROOM_DIR`, else `/var/lib/strongroom`; or
/// `/data/strongroom`, where that has a vault and the other has none. A storage appliance keeps
/// `/data` over its upgrades, and hands none of our environment on to what it starts.
pub fn vault_dir(flag: Option<PathBuf>) -> PathBuf {
    flag.or_else(|| {
        std::env::var_os(DIR_VARIABLE)
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
    })
    .unwrap_or_else(|| {
        let [usual, appliance] = ["/var/lib/strongroom", "/data/strongroom"].map(Path::new);
        usual_dir(usual, appliance).to_owned()
    })
}

/// A folder without a vault in it is no reason to look nowhere else. Where neither has one, it is where
/// somebody has made room for it.
fn usual_dir<'a>(usual: &'a Path, appliance: &'a Path) -> &'a Path {
    let has_vault = |dir: &Path| dir.join(MANIFEST).exists();
    if has_vault(usual) {
        return usual;
    }
    if has_vault(appliance) || (appliance.is_dir() && !usual.exists()) {
        appliance
    } else {
        usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_that_has_a_vault_is_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let [usual, appliance] = ["usual", "appliance"].map(|name| folder.path().join(name));
        let taken = || usual_dir(&usual, &appliance).to_owned();
        assert_eq!(taken(), usual);
        std::fs::create_dir(&appliance).expect("ours");
        assert_eq!(taken(), appliance);
        std::fs::create_dir(&usual).expect("ours");
        assert_eq!(taken(), usual);
        std::fs::write(appliance.join(MANIFEST), "{}").expect("ours");
        assert_eq!(taken(), appliance);
        std::fs::write(usual.join(MANIFEST), "{}").expect("ours");
        assert_eq!(taken(), usual);
    }
}
