//! Where objects come from: a vault and its TPM, or what a test makes up.

use std::path::PathBuf;

use strongroom::object::{Metadata, ObjectId, TokenName};
use strongroom::vault::Listing;
use strongroom::{Result, Secret, Tcti, Vault};

/// What the module needs of a vault.
pub(crate) trait Source: Send {
    /// The vault's id.
    fn id(&self) -> String;

    /// The vault's tokens, in the order of their slots.
    fn tokens(&self) -> Vec<TokenName>;

    /// What there is now. Touches no TPM.
    fn list(&self) -> Result<Listing>;

    /// How long the payload of an object is, if it has one. Touches no TPM.
    fn payload_len(&self, id: ObjectId) -> Result<Option<usize>>;

    /// The payload of an object, out of the TPM.
    fn unseal(&self, id: ObjectId) -> Result<Secret>;
}

/// The vault in a folder.
pub(crate) struct VaultSource {
    vault: Vault,
    dir: PathBuf,
    tcti: Tcti,
}

impl VaultSource {
    /// The vault in this folder, whose TPM is there. Touches no TPM.
    pub(crate) fn open(dir: PathBuf, tcti: Tcti) -> Result<Self> {
        let vault = Vault::open(&dir)?;
        Ok(Self { vault, dir, tcti })
    }
}

impl Source for VaultSource {
    fn id(&self) -> String {
        self.vault.id().to_owned()
    }

    fn tokens(&self) -> Vec<TokenName> {
        self.vault.tokens()
    }

    fn list(&self) -> Result<Listing> {
        self.vault.list()
    }

    fn payload_len(&self, id: ObjectId) -> Result<Option<usize>> {
        self.vault.payload_len(id)
    }

    fn unseal(&self, id: ObjectId) -> Result<Secret> {
        // Opened anew, because hosts live long: what the vault's manifest and policy said when
        // the host started may have been written again since.
        Vault::open(&self.dir)?.unlock(&self.tcti)?.unseal(id)
    }
}

/// For messages: an object by id and label.
pub(crate) fn describe(object: &Metadata) -> String {
    format!("object {} ({}, {})", object.id, object.token, object.label)
}
