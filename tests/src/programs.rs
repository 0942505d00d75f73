//! Where the programs under test are: `make` builds them, the tests only run
//! them.

use std::env;
use std::path::PathBuf;

/// The folder of the built programs.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// The folder that STRONGROOM_BIN names by an absolute path, or else that of the profile the
    /// test itself was built with: `target/release` or `target/debug`.
    pub fn locate() -> Self {
        let folder = env::var_os("STRONGROOM_BIN").map_or_else(folder_of_this_build, PathBuf::from);
        // cargo runs tests in their package's folder, not where it was called.
        assert!(
            folder.is_absolute(),
            "STRONGROOM_BIN must be an absolute path"
        );
        Self { folder }
    }

    /// The admin's tool.
    pub fn strongroom(&self) -> PathBuf {
        self.built("strongroom")
    }

    /// What loads dataset keys.
    pub fn zfs_keyprovider(&self) -> PathBuf {
        self.built("zfs-keyprovider")
    }

    /// What launches rclone and restic.
    pub fn credential_provider(&self) -> PathBuf {
        self.built("credential-provider")
    }

    /// The PKCS#11 module.
    pub fn pkcs11_module(&self) -> PathBuf {
        self.built("libstrongroom_pkcs11.so")
    }

    fn built(&self, name: &str) -> PathBuf {
        let path = self.folder.join(name);
        assert!(
            path.is_file(),
            "{} is not built: run `make`, or name its folder in STRONGROOM_BIN",
            path.display()
        );
        path
    }
}

/// `target/PROFILE`, of the test at `target/PROFILE/deps/TEST`.
pub(crate) fn folder_of_this_build() -> PathBuf {
    let test = env::current_exe().expect("know the test's own path");
    let folder = test.ancestors().nth(2).expect("cargo puts tests in deps/");
    folder.to_owned()
}
