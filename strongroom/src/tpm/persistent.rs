//! Objects that stay in the TPM (TPM2_EvictControl, Part 3, section 28.5).

use tss_esapi::handles::{KeyHandle, ObjectHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::data_handles::Persistent;
use tss_esapi::interface_types::reserved_handles::Provision;

use super::Tpm;
use super::name::Name;
use crate::error::{Error, Result};

/// What is at a persistent handle, and its Name, which decides whether it is what was meant.
/// TPM2_ReadPublic.
pub(super) fn at_handle(
    tpm: &mut Tpm,
    handle: u32,
    operation: &'static str,
) -> Result<Option<(KeyHandle, Name)>> {
    let place = TpmHandle::Persistent(persistent(handle)?);
    let found = tpm.find(place, operation)?;
    Ok(found.map(|(object, name)| (KeyHandle::from(object), name)))
}

/// Keeps a loaded object at a handle that is free. The owner's authorisation must be empty.
pub(super) fn keep(
    tpm: &mut Tpm,
    key: KeyHandle,
    handle: u32,
    operation: &'static str,
) -> Result<KeyHandle> {
    let place = Persistent::Persistent(persistent(handle)?);
    let object = ObjectHandle::from(key);
    tpm.with_empty_auth(operation, |tpm| {
        tpm.evict_control(Provision::Owner, object, place)
    })
    .map(KeyHandle::from)
}

fn persistent(handle: u32) -> Result<PersistentTpmHandle> {
    PersistentTpmHandle::new(handle).map_err(|_| Error::RootKey {
        handle,
        reason: "this is no persistent handle".to_owned(),
    })
}
