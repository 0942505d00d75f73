//! The root key: a primary storage key of the owner hierarchy, kept persistent, that all of the
//! vault hangs under. TCG TPM v2.0 Provisioning Guidance calls it the SRK.

use serde::{Deserialize, Serialize};
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::algorithm::{
    EccSchemeAlgorithm, HashingAlgorithm, PublicAlgorithm,
};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::reserved_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    EccParameter, EccPoint, EccScheme, KeyDerivationFunctionScheme, Public, PublicBuilder,
    PublicEccParametersBuilder, SymmetricDefinitionObject,
};
use tss_esapi::traits::{Marshall, UnMarshall};

use super::name::Name;
use super::{Answer, Tpm, answer, persistent};
use crate::encoding::Base64;
use crate::error::{Error, Result};

/// The handle that the Provisioning Guidance gives the SRK, and those that are tried where that
/// one holds a stranger's key.
const HANDLES: std::ops::RangeInclusive<u32> = 0x8100_0001..=0x8100_000F;

/// What the manifest says of the root key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RootKeyRecord {
    /// Persistent handle.
    pub(crate) handle: u32,
    /// The template (TPMT_PUBLIC) from which TPM2_CreatePrimary makes it again.
    template: Base64,
    /// The key's public area (TPMT_PUBLIC), which its Name is the digest of.
    public: Base64,
}

/// The root key, open on this connection.
#[derive(Clone, Copy)]
pub(crate) struct RootKey {
    pub(crate) handle: KeyHandle,
    /// Where it is, or would be if it could be made persistent.
    pub(crate) persistent: u32,
}

impl RootKeyRecord {
    /// Finds the root key that this TPM has already, or makes one and keeps it.
    pub(crate) fn find_or_make(tpm: &mut Tpm) -> Result<(Self, RootKey)> {
        let template = template()?;
        let primary = create_primary(tpm, &template)?;
        let name = Name::of_object(&primary.public)?;
        for handle in HANDLES {
            let key = match persistent::at_handle(tpm, handle, "ReadPublic(root key)")? {
                Some((_, found)) if found != name => continue,
                Some((key, _)) => key,
                None => persistent::keep(tpm, primary.handle, handle, "EvictControl(root key)")?,
            };
            tpm.flush(primary.handle)?;
            let record = Self {
                handle,
                template: marshal(&template)?,
                public: marshal(&primary.public)?,
            };
            return Ok((
                record,
                RootKey {
                    handle: key,
                    persistent: handle,
                },
            ));
        }
        Err(Error::Tpm {
            operation: "EvictControl(root key)",
            reason: format!(
                "all handles from {:#010x} to {:#010x} hold other keys; remove one with tpm2_evictcontrol",
                HANDLES.start(),
                HANDLES.end()
            ),
        })
    }

    /// The recorded key's Name, computed from its public area.
    ///
    /// # Errors
    /// [`Error::RootKey`] for a record that is not of a storage key which was made in a TPM and cannot
    /// leave it.
    pub(crate) fn name(&self) -> Result<Name> {
        let refuse = |reason: &str| Error::RootKey {
            handle: self.handle,
            reason: reason.to_owned(),
        };
        if !HANDLES.contains(&self.handle) {
            return Err(refuse("it is not where Strongroom keeps one"));
        }
        let public = unmarshal(&self.public).ok_or_else(|| refuse("its record is not a key"))?;
        if !cannot_leave_a_tpm(&public) {
            return Err(refuse(
                "it is not a storage key that was made in a TPM and cannot leave it",
            ));
        }
        Name::of_object(&public)
    }

    /// Opens the recorded key, made again from its template where it is gone, and refuses any
    /// other: nobody may be handed a session's salt but the key that the vault was made under.
    pub(crate) fn open(&self, tpm: &mut Tpm) -> Result<RootKey> {
        let refuse = |reason: &str| Error::RootKey {
            handle: self.handle,
            reason: reason.to_owned(),
        };
        let name = self.name()?;
        match persistent::at_handle(tpm, self.handle, "ReadPublic(root key)")? {
            Some((key, found)) if found == name => Ok(self.at(key)),
            Some(_) => Err(refuse("another key is in its place")),
            None => self.make_again(tpm, &name),
        }
    }

    fn at(&self, handle: KeyHandle) -> RootKey {
        RootKey {
            handle,
            persistent: self.handle,
        }
    }

    fn make_again(&self, tpm: &mut Tpm, name: &Name) -> Result<RootKey> {
        let template = unmarshal(&self.template).ok_or_else(|| Error::RootKey {
            handle: self.handle,
            reason: "its record has no template".to_owned(),
        })?;
        let primary = create_primary(tpm, &template)?;
        if Name::of_object(&primary.public)? != *name {
            return Err(Error::ForeignTpm(
                "it makes another root key from the vault's template".to_owned(),
            ));
        }
        log::warn!(
            "the root key at {:#010x} was gone and has been made again",
            self.handle
        );
        match persistent::keep(tpm, primary.handle, self.handle, "EvictControl(root key)") {
            Ok(key) => {
                tpm.flush(primary.handle)?;
                Ok(self.at(key))
            }
            // It serves as it is, if more slowly; opening the vault is what matters.
            Err(error) => {
                log::warn!("{error}");
                Ok(self.at(primary.handle))
            }
        }
    }
}

/// The ECC P-256 storage key of the TCG EK Credential Profile's SRK template (H-2), with `unique`
/// of zeros, so that it is the same key as other software makes.
fn template() -> Result<Public> {
    let build = || -> tss_esapi::Result<Public> {
        let attributes = ObjectAttributesBuilder::new()
            .with_fixed_tpm(true)
            .with_fixed_parent(true)
            .with_sensitive_data_origin(true)
            .with_user_with_auth(true)
            .with_no_da(true)
            .with_restricted(true)
            .with_decrypt(true)
            .build()?;
        let zeros = EccParameter::try_from(vec![0; 32])?;
        PublicBuilder::new()
            .with_public_algorithm(PublicAlgorithm::Ecc)
            .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
            .with_object_attributes(attributes)
            .with_ecc_parameters(storage_parameters()?)
            .with_ecc_unique_identifier(EccPoint::new(zeros.clone(), zeros))
            .build()
    };
    build().map_err(|error| answer::error("root key template", error))
}

/// A storage key's parameters: P-256, and AES-128-CFB to protect its children.
pub(super) fn storage_parameters() -> tss_esapi::Result<tss_esapi::structures::PublicEccParameters>
{
    PublicEccParametersBuilder::new()
        .with_symmetric(SymmetricDefinitionObject::AES_128_CFB)
        .with_ecc_scheme(EccScheme::create(EccSchemeAlgorithm::Null, None, None)?)
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_restricted(true)
        .with_is_decryption_key(true)
        .build()
}

/// Whether a key was made in a TPM, cannot leave it, and does nothing but protect children. A key
/// that someone knows outside a TPM can be imported, but never with these attributes.
fn cannot_leave_a_tpm(public: &Public) -> bool {
    let attributes = public.object_attributes();
    attributes.fixed_tpm()
        && attributes.fixed_parent()
        && attributes.sensitive_data_origin()
        && attributes.restricted()
        && attributes.decrypt()
        && !attributes.sign_encrypt()
}

struct Primary {
    handle: KeyHandle,
    public: Public,
}

fn create_primary(tpm: &mut Tpm, template: &Public) -> Result<Primary> {
    const OPERATION: &str = "CreatePrimary(root key)";
    let made = tpm
        .context
        .execute_with_session(Some(AuthSession::Password), |tpm| {
            tpm.create_primary(Hierarchy::Owner, template.clone(), None, None, None, None)
        })
        .map_err(|error| match Answer::of(error) {
            Answer::Auth => owner_has_password(OPERATION),
            _ => answer::error(OPERATION, error),
        })?;
    Ok(Primary {
        handle: made.key_handle,
        public: made.out_public,
    })
}

/// The error for a TPM whose owner hierarchy has an authorisation value.
pub(super) fn owner_has_password(operation: &'static str) -> Error {
    Error::Tpm {
        operation,
        reason: "the owner hierarchy has a password; Strongroom needs it empty, and its security \
                 does not rest on it (tpm2_changeauth -c owner)"
            .to_owned(),
    }
}

fn marshal(public: &Public) -> Result<Base64> {
    public
        .marshall()
        .map(Base64)
        .map_err(|error| answer::error("public area", error))
}

fn unmarshal(bytes: &Base64) -> Option<Public> {
    Public::unmarshall(&bytes.0).ok()
}
