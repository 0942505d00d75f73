//! Storage keys (P in the design) under the boot policy, and the secrets that are sealed under
//! them.

use tss_esapi::Context;
use tss_esapi::attributes::{ObjectAttributes, ObjectAttributesBuilder};
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Digest, EccPoint, KeyedHashScheme, Public, PublicBuilder, PublicKeyedHashParameters,
    SensitiveData, SymmetricDefinitionObject,
};

use super::duplicate::SealedDuplicate;
use super::key_file::KeyFile;
use super::name::Name;
use super::root_key::{RootKey, storage_parameters};
use super::session::{Besides, Encrypt, Gate, Session};
use super::{Tpm, answer, persistent};
use crate::error::{Error, Result};
use crate::policy::PolicyDigest;
use crate::secret::Secret;

/// A storage key, loaded. Loading children and creating them both cost its policy, so that only an
/// allowed boot can open what is sealed or make what would pass for it.
#[derive(Clone)]
pub(crate) struct StorageKey {
    handle: KeyHandle,
    /// Whether it stays in the TPM.
    kept: bool,
    /// What the policy asks for besides the boot.
    besides: Besides,
}

impl StorageKey {
    /// Makes a storage key under the root key, with the boot policy that N holds, or that and a
    /// PIN.
    pub(crate) fn create(
        tpm: &mut Tpm,
        root: RootKey,
        session: Session,
        policy: PolicyDigest,
    ) -> Result<KeyFile> {
        const OPERATION: &str = "Create(storage key)";
        let template = template(policy).map_err(|e| answer::error(OPERATION, e))?;
        let made = session.encrypt(tpm, OPERATION, Encrypt::Command, |tpm| {
            tpm.create(root.handle, template, None, None, None, None)
        })?;
        Ok(KeyFile {
            public: made.out_public,
            private: made.out_private,
        })
    }

    /// Loads a storage key. One command.
    ///
    /// # Errors
    /// [`Error::NotLoadable`](crate::Error::NotLoadable) if it was not made under this root key.
    pub(crate) fn load(tpm: &mut Tpm, root: RootKey, file: &KeyFile) -> Result<Self> {
        load_under_root(tpm, root, file, "Load(storage key)").map(|handle| Self {
            handle,
            kept: false,
            besides: Besides::default(),
        })
    }

    /// Finds a storage key where [`StorageKey::keep`] has put it, or loads it. One command, or two.
    pub(crate) fn find_or_load(tpm: &mut Tpm, root: RootKey, file: &KeyFile) -> Result<Self> {
        let name = file.name()?;
        match persistent::at_handle(tpm, place(&name), "ReadPublic(storage key)")? {
            Some((handle, found)) if found == name => Ok(Self {
                handle,
                kept: true,
                besides: Besides::default(),
            }),
            _ => Self::load(tpm, root, file),
        }
    }

    /// Keeps a storage key in the TPM, for a batch: a resource manager moves what is loaded around
    /// each command, and what stays it leaves alone. Its policy guards it there as anywhere. Where
    /// the TPM has no room for it, it is loaded each time.
    pub(crate) fn keep(tpm: &mut Tpm, root: RootKey, file: &KeyFile) -> Result<()> {
        let place = place(&file.name()?);
        let loaded = Self::load(tpm, root, file)?;
        let kept = persistent::keep(tpm, loaded.handle, place, "EvictControl(storage key)");
        loaded.unload(tpm)?;
        if let Err(error) = kept {
            log::info!("a storage key is not kept in the TPM: {error}");
        }
        Ok(())
    }

    /// The same for one whose policy asks for more than the boot.
    #[must_use]
    pub(crate) fn behind(mut self, besides: Besides) -> Self {
        self.besides = besides;
        self
    }

    pub(super) fn handle(&self) -> KeyHandle {
        self.handle
    }

    pub(crate) fn unload(self, tpm: &mut Tpm) -> Result<()> {
        if self.kept {
            Ok(())
        } else {
            tpm.flush(self.handle)
        }
    }

    /// Runs a command that this key's policy authorises.
    pub(super) fn pass<T>(
        &self,
        tpm: &mut Tpm,
        gate: &Gate,
        operation: &'static str,
        encrypt: Encrypt,
        command: impl Fn(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T> {
        gate.pass(tpm, &self.besides, operation, encrypt, command)
    }

    /// Seals up to 128 bytes, encrypted on the bus. Three commands and a branch's PolicyOR.
    pub(crate) fn seal(&self, tpm: &mut Tpm, gate: &Gate, secret: &Secret) -> Result<KeyFile> {
        const OPERATION: &str = "Create(sealed data)";
        let template = sealed_template(sealed_attributes(), PolicyDigest::EMPTY)
            .map_err(|e| answer::error(OPERATION, e))?;
        let made = self.pass(tpm, gate, OPERATION, Encrypt::Command, |tpm| {
            let sensitive = SensitiveData::try_from(secret.expose().to_vec())?;
            tpm.create(
                self.handle,
                template.clone(),
                None,
                Some(sensitive),
                None,
                None,
            )
        })?;
        Ok(KeyFile {
            public: made.out_public,
            private: made.out_private,
        })
    }

    /// Unseals, encrypted on the bus. PolicyPCR [, PolicyOR], PolicyAuthorizeNV [, PolicyPCR]
    /// [, PolicySecret], Load, Unseal, FlushContext.
    pub(crate) fn unseal(&self, tpm: &mut Tpm, gate: &Gate, file: &KeyFile) -> Result<Secret> {
        let item = self.pass(tpm, gate, "Load(sealed data)", Encrypt::Nothing, |tpm| {
            tpm.load(self.handle, file.private.clone(), file.public.clone())
        })?;
        let unsealed = gate
            .session
            .encrypt(tpm, "Unseal", Encrypt::Response, |tpm| {
                tpm.unseal(item.into())
            });
        // At once: a TPM has three slots, and a resource manager moves whatever is open.
        let flushed = tpm.flush(item);
        let secret = Secret::copy_of(unsealed?.as_slice());
        flushed?;
        Ok(secret)
    }

    /// Unseals what was encrypted to this key without its TPM. Import costs the policy as Load does:
    /// three commands and a branch's PolicyOR more than [`StorageKey::unseal`].
    ///
    /// # Errors
    /// [`Error::NotLoadable`] for what was encrypted to another key, or spoilt.
    pub(crate) fn unseal_duplicate(
        &self,
        tpm: &mut Tpm,
        gate: &Gate,
        duplicate: &SealedDuplicate,
    ) -> Result<Secret> {
        const OPERATION: &str = "Import(sealed data)";
        let (public, sealed, seed) = duplicate.parts().map_err(|reason| Error::NotLoadable {
            operation: OPERATION,
            reason,
        })?;
        let private = self.pass(tpm, gate, OPERATION, Encrypt::Nothing, |tpm| {
            tpm.import(
                self.handle.into(),
                None,
                public.clone(),
                sealed.clone(),
                seed.clone(),
                SymmetricDefinitionObject::Null,
            )
        })?;
        self.unseal(tpm, gate, &KeyFile { public, private })
    }
}

/// Whether a public area is that of a storage key of ours with this policy. One that was not made in a
/// TPM cannot be loaded with these attributes.
pub(crate) fn is_storage_key(public: &Public, policy: PolicyDigest) -> bool {
    let expected = template(policy);
    match (public, expected) {
        (
            Public::Ecc {
                object_attributes,
                name_hashing_algorithm,
                auth_policy,
                parameters,
                ..
            },
            Ok(Public::Ecc {
                object_attributes: its_attributes,
                name_hashing_algorithm: its_algorithm,
                auth_policy: its_policy,
                parameters: its_parameters,
                ..
            }),
        ) => {
            *object_attributes == its_attributes
                && *name_hashing_algorithm == its_algorithm
                && *auth_policy == its_policy
                && *parameters == its_parameters
        }
        _ => false,
    }
}

/// Where a storage key is kept, by its Name: nothing needs to be written down, and another key that
/// is there is told by its own Name. In the owner's range (TCG Registry of Reserved TPM 2.0 Handles,
/// section 2.3.1), behind where root keys are.
fn place(name: &Name) -> u32 {
    const FIRST: u32 = 0x8100_0100;
    let [_, _, byte, ..] = name.as_bytes() else {
        return FIRST;
    };
    FIRST + u32::from(*byte)
}

/// Loads a child of the root key, whose auth is empty.
pub(super) fn load_under_root(
    tpm: &mut Tpm,
    root: RootKey,
    file: &KeyFile,
    operation: &'static str,
) -> Result<KeyHandle> {
    let loaded = tpm
        .context
        .execute_with_session(Some(AuthSession::Password), |tpm| {
            tpm.load(root.handle, file.private.clone(), file.public.clone())
        });
    loaded.map_err(|error| answer::error(operation, error))
}

/// fixedTPM and fixedParent, so that it exists on this TPM alone; userWithAuth clear and
/// adminWithPolicy set, so that nothing but the policy opens it; noDA, because power cuts in
/// mid-use must not lock the TPM.
fn template(policy: PolicyDigest) -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_admin_with_policy(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(Digest::try_from(policy.as_bytes().to_vec())?)
        .with_ecc_parameters(storage_parameters()?)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// Empty auth, for the parent has asked for the policy already; stClear, so that what an allowed
/// boot loaded can be neither made persistent nor restored after a restart.
fn sealed_attributes() -> ObjectAttributesBuilder {
    ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_st_clear(true)
        .with_user_with_auth(true)
        .with_no_da(true)
}

/// A sealed data object (Part 2, section 12.2.3.3, TPMS_KEYEDHASH_PARMS) with these attributes and policy.
pub(super) fn sealed_template(
    attributes: ObjectAttributesBuilder,
    policy: PolicyDigest,
) -> tss_esapi::Result<Public> {
    let attributes: ObjectAttributes = attributes.build()?;
    let policy = if policy == PolicyDigest::EMPTY {
        Digest::default()
    } else {
        Digest::try_from(policy.as_bytes().to_vec())?
    };
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(policy)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
}
