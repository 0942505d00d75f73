//! Slots (PKCS#11 3.1, section 5.5): each token of the vault in a slot of its own, and where the
//! vault can be written, a last one for C_InitToken to make a token in; and which mechanisms it has.

use std::ffi::c_void;

use cryptoki_sys::{
    CK_BBOOL, CK_FLAGS, CK_MECHANISM_INFO, CK_MECHANISM_TYPE, CK_RV, CK_SLOT_ID, CK_SLOT_INFO,
    CK_ULONG, CKF_DONT_BLOCK, CKF_TOKEN_PRESENT, CKR_ARGUMENTS_BAD, CKR_BUFFER_TOO_SMALL,
    CKR_FUNCTION_NOT_SUPPORTED, CKR_MECHANISM_INVALID, CKR_NO_EVENT,
};

use crate::fault::{Answer, Fault, answer};
use crate::foreign::{Foreign, ulong};
use crate::general::{MANUFACTURER, library_version, padded};
use crate::mechanisms::offered;
use crate::state::with_module;

/// C_GetSlotList, section 5.5.1. Every slot has a token, if one that is not initialized. What
/// tokens there are is looked at again where the specification lets the list change: when only its
/// length is asked for.
pub(crate) unsafe extern "C" fn get_slot_list(
    _token_present: CK_BBOOL,
    list: *mut CK_SLOT_ID,
    count: *mut CK_ULONG,
) -> CK_RV {
    answer("C_GetSlotList", || {
        // SAFETY: the caller's CK_ULONG.
        let count = unsafe { Foreign::one(count) }?;
        with_module(|module| {
            if list.is_null() {
                // Where there never were tokens, an error said why when the module started.
                if let Err(fault) = module.look_for_tokens() {
                    log::debug!("there are no other tokens than before: {fault:?}");
                }
            }
            let slots: Vec<CK_SLOT_ID> = (0..module.slot_count()).map(ulong).collect();
            // SAFETY: the caller's list, as long as the caller says.
            unsafe { give_list(&slots, list, &count) }
        })
    })
}

/// C_GetSlotInfo, section 5.5.2.
pub(crate) unsafe extern "C" fn get_slot_info(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO) -> CK_RV {
    answer("C_GetSlotInfo", || {
        // SAFETY: the caller's CK_SLOT_INFO.
        let info = unsafe { Foreign::one(info) }?;
        with_module(|module| {
            let description = match module.slot(slot)? {
                Some(token) => format!("Strongroom vault, token {}", token.name),
                None => "Strongroom vault, for a new token".to_owned(),
            };
            info.set(
                0,
                CK_SLOT_INFO {
                    slotDescription: padded(&description),
                    manufacturerID: padded(MANUFACTURER),
                    flags: CKF_TOKEN_PRESENT,
                    hardwareVersion: library_version(),
                    firmwareVersion: library_version(),
                },
            );
            Ok(())
        })
    })
}

/// C_WaitForSlotEvent, section 5.5.4: nothing is ever plugged in or out, so there is no event,
/// and no waiting for one.
pub(crate) unsafe extern "C" fn wait_for_slot_event(
    flags: CK_FLAGS,
    slot: *mut CK_SLOT_ID,
    reserved: *mut c_void,
) -> CK_RV {
    answer("C_WaitForSlotEvent", || {
        if slot.is_null() || !reserved.is_null() {
            return Err(Fault::Code(CKR_ARGUMENTS_BAD));
        }
        with_module(|_| {
            Err(Fault::Code(if flags & CKF_DONT_BLOCK == 0 {
                CKR_FUNCTION_NOT_SUPPORTED
            } else {
                CKR_NO_EVENT
            }))
        })
    })
}

/// Gives a list as section 5.2 has it: the length alone where `list` is null, else as far as the
/// caller's room, which `count` says, allows.
///
/// # Safety
/// `list` is null or the caller's memory for as many values as `count` says.
pub(crate) unsafe fn give_list<T: Copy>(
    values: &[T],
    list: *mut T,
    count: &Foreign<CK_ULONG>,
) -> Answer {
    let room = count.get(0);
    count.set(0, ulong(values.len()));
    if list.is_null() {
        return Ok(());
    }
    if room < ulong(values.len()) {
        return Err(Fault::Code(CKR_BUFFER_TOO_SMALL));
    }
    // SAFETY: the caller vouches for `room` values, which are at least as many.
    unsafe { Foreign::many(list, ulong(values.len())) }?.fill(values);
    Ok(())
}

/// C_GetMechanismList, section 5.5.5. Tokens that are there to be read have no mechanisms.
pub(crate) unsafe extern "C" fn get_mechanism_list(
    slot: CK_SLOT_ID,
    list: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    answer("C_GetMechanismList", || {
        // SAFETY: the caller's CK_ULONG.
        let count = unsafe { Foreign::one(count) }?;
        with_module(|module| {
            let kinds: Vec<_> = if module.has_mechanisms(slot)? {
                offered().map(|mechanism| mechanism.kind).collect()
            } else {
                Vec::new()
            };
            // SAFETY: the caller's list, as long as the caller says.
            unsafe { give_list(&kinds, list, &count) }
        })
    })
}

/// C_GetMechanismInfo, section 5.5.6.
pub(crate) unsafe extern "C" fn get_mechanism_info(
    slot: CK_SLOT_ID,
    kind: CK_MECHANISM_TYPE,
    info: *mut CK_MECHANISM_INFO,
) -> CK_RV {
    answer("C_GetMechanismInfo", || {
        // SAFETY: the caller's CK_MECHANISM_INFO.
        let info = unsafe { Foreign::one(info) }?;
        with_module(|module| {
            let has_any = module.has_mechanisms(slot)?;
            let mechanism = offered()
                .find(|mechanism| mechanism.kind == kind && has_any)
                .ok_or(Fault::Code(CKR_MECHANISM_INVALID))?;
            info.set(0, mechanism.info());
            Ok(())
        })
    })
}
