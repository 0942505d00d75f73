//! Dual-function operations (PKCS#11 3.1, section 5.17): one part for two operations that go on, and the
//! state of operations (section 5.6.6 and 5.6.7), which nobody can take along.

use cryptoki_sys::{
    CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CKR_BUFFER_TOO_SMALL,
    CKR_OPERATION_NOT_INITIALIZED, CKR_SAVED_STATE_INVALID, CKR_STATE_UNSAVEABLE,
};

use crate::digesting::take;
use crate::fault::{Answer, Fault, answer};
use crate::foreign::{Foreign, Output, Room};
use crate::state::with_module;

/// C_DigestEncryptUpdate, section 5.17.1.
pub(crate) unsafe extern "C" fn digest_encrypt_update(
    session: CK_SESSION_HANDLE,
    part: *mut u8,
    part_len: CK_ULONG,
    encrypted: *mut u8,
    encrypted_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_DigestEncryptUpdate", || {
        with_module(|module| {
            let open = module.session(session)?;
            with_both(
                &mut open.digesting,
                &mut open.encrypting,
                |digesting, encrypting| {
                    // SAFETY: the caller's data and memory.
                    let (part, output) =
                        unsafe { in_and_out(part, part_len, encrypted, encrypted_len) }?;
                    if let Room::Enough = output.room(encrypting.update_len(part.len()))? {
                        let out = encrypting.update(&part)?;
                        digesting.update(&part);
                        output.give(&out)?;
                    }
                    Ok(())
                },
            )
        })
    })
}

/// C_DecryptDigestUpdate, section 5.17.2.
pub(crate) unsafe extern "C" fn decrypt_digest_update(
    session: CK_SESSION_HANDLE,
    encrypted: *mut u8,
    encrypted_len: CK_ULONG,
    part: *mut u8,
    part_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_DecryptDigestUpdate", || {
        with_module(|module| {
            let open = module.session(session)?;
            with_both(
                &mut open.digesting,
                &mut open.decrypting,
                |digesting, decrypting| {
                    // SAFETY: the caller's data and memory.
                    let (encrypted, output) =
                        unsafe { in_and_out(encrypted, encrypted_len, part, part_len) }?;
                    if let Room::Enough = output.room(decrypting.update_len(encrypted.len()))? {
                        let out = decrypting.update(&encrypted)?;
                        digesting.update_with(&out);
                        output.give(&out)?;
                    }
                    Ok(())
                },
            )
        })
    })
}

/// C_SignEncryptUpdate, section 5.17.3.
pub(crate) unsafe extern "C" fn sign_encrypt_update(
    session: CK_SESSION_HANDLE,
    part: *mut u8,
    part_len: CK_ULONG,
    encrypted: *mut u8,
    encrypted_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_SignEncryptUpdate", || {
        with_module(|module| {
            let open = module.session(session)?;
            with_both(
                &mut open.signing,
                &mut open.encrypting,
                |signing, encrypting| {
                    // SAFETY: the caller's data and memory.
                    let (part, output) =
                        unsafe { in_and_out(part, part_len, encrypted, encrypted_len) }?;
                    if let Room::Enough = output.room(encrypting.update_len(part.len()))? {
                        let out = encrypting.update(&part)?;
                        signing.update_part(&part)?;
                        output.give(&out)?;
                    }
                    Ok(())
                },
            )
        })
    })
}

/// C_DecryptVerifyUpdate, section 5.17.4.
pub(crate) unsafe extern "C" fn decrypt_verify_update(
    session: CK_SESSION_HANDLE,
    encrypted: *mut u8,
    encrypted_len: CK_ULONG,
    part: *mut u8,
    part_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_DecryptVerifyUpdate", || {
        with_module(|module| {
            let open = module.session(session)?;
            with_both(
                &mut open.verifying,
                &mut open.decrypting,
                |verifying, decrypting| {
                    // SAFETY: the caller's data and memory.
                    let (encrypted, output) =
                        unsafe { in_and_out(encrypted, encrypted_len, part, part_len) }?;
                    if let Room::Enough = output.room(decrypting.update_len(encrypted.len()))? {
                        let out = decrypting.update(&encrypted)?;
                        verifying.update_with(&out)?;
                        output.give(&out)?;
                    }
                    Ok(())
                },
            )
        })
    })
}

/// C_GetOperationState, section 5.6.6: a state holds what nobody may know, and stays here.
pub(crate) unsafe extern "C" fn get_operation_state(
    session: CK_SESSION_HANDLE,
    state: *mut u8,
    state_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_GetOperationState", || {
        with_module(|module| {
            let active = module.session(session)?.is_active();
            // SAFETY: the caller's memory.
            let _ = unsafe { Output::new(state, state_len) }?;
            Err(Fault::Code(if active {
                CKR_STATE_UNSAVEABLE
            } else {
                CKR_OPERATION_NOT_INITIALIZED
            }))
        })
    })
}

/// C_SetOperationState, section 5.6.7: no state was ever given out.
pub(crate) unsafe extern "C" fn set_operation_state(
    session: CK_SESSION_HANDLE,
    state: *mut u8,
    state_len: CK_ULONG,
    _encryption_key: CK_OBJECT_HANDLE,
    _authentication_key: CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_SetOperationState", || {
        with_module(|module| {
            module.session(session)?;
            // SAFETY: the caller's memory, which is not read.
            let _ = unsafe { Foreign::many(state, state_len) }?;
            Err(Fault::Code(CKR_SAVED_STATE_INVALID))
        })
    })
}

/// # Safety
/// As [`Foreign::many`] and [`Output::new`].
unsafe fn in_and_out(
    input: *mut u8,
    input_len: CK_ULONG,
    output: *mut u8,
    output_len: *mut CK_ULONG,
) -> Answer<(Foreign<u8>, Output)> {
    // SAFETY: the caller vouches for both.
    unsafe {
        Ok((
            Foreign::many(input, input_len)?,
            Output::new(output, output_len)?,
        ))
    }
}

/// Does something with two operations that both go on. Whatever fails has ended them, but for a question for
/// room (section 5.2); and where the one is missing, the other goes on.
fn with_both<A, B>(
    first: &mut Option<A>,
    second: &mut Option<B>,
    action: impl FnOnce(&mut A, &mut B) -> Answer,
) -> Answer {
    if first.is_none() || second.is_none() {
        return Err(Fault::Code(CKR_OPERATION_NOT_INITIALIZED));
    }
    let (mut one, mut other) = (take(first)?, take(second)?);
    let outcome = action(&mut one, &mut other);
    if matches!(outcome, Ok(()) | Err(Fault::Code(CKR_BUFFER_TOO_SMALL))) {
        *first = Some(one);
        *second = Some(other);
    }
    outcome
}
