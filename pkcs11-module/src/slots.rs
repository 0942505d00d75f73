//! Slots and tokens (PKCS#11 3.1, section 5.5): each token of the vault, in a slot of its own.

use std::ffi::c_void;

use cryptoki_sys::{
    CK_BBOOL, CK_EFFECTIVELY_INFINITE, CK_FLAGS, CK_RV, CK_SLOT_ID, CK_SLOT_INFO, CK_TOKEN_INFO,
    CK_ULONG, CK_UNAVAILABLE_INFORMATION, CKF_DONT_BLOCK, CKF_RNG, CKF_TOKEN_INITIALIZED,
    CKF_TOKEN_PRESENT, CKF_WRITE_PROTECTED, CKR_ARGUMENTS_BAD, CKR_BUFFER_TOO_SMALL,
    CKR_FUNCTION_NOT_SUPPORTED, CKR_NO_EVENT,
};
use sha2::{Digest, Sha256};
use strongroom::object::TokenName;

use crate::fault::{Answer, Fault, answer};
use crate::foreign::{Foreign, ulong};
use crate::general::{MANUFACTURER, library_version, padded};
use crate::state::with_module;

/// A token of the vault.
pub(crate) struct Token {
    /// Its name, and label.
    pub(crate) name: TokenName,
    serial: [u8; 16],
    /// Whether this process may write the token's folder.
    may_write: bool,
}

impl Token {
    /// The token of this name in the vault of this id, and whether this process may write it.
    pub(crate) fn new(vault: &str, name: TokenName, may_write: bool) -> Self {
        // The serial number is the same for as long as the vault lives, and another vault's
        // token of the same name has another.
        let digest = Sha256::digest(format!("{vault}/{name}"));
        let mut serial = [0; 16];
        hex::encode_to_slice(&digest[..8], &mut serial).expect("16 digits for 8 bytes");
        Self {
            name,
            serial,
            may_write,
        }
    }

    /// Whether its objects can be read and used, and not made, changed or destroyed: by anybody, or
    /// by this process.
    pub(crate) fn is_write_protected(&self) -> bool {
        !self.may_write || is_write_protected(&self.name)
    }

    /// Whether it holds keys to be used, and not only what is to be read.
    pub(crate) fn has_mechanisms(&self) -> bool {
        !is_write_protected(&self.name)
    }
}

/// Whether a token is write-protected through PKCS#11: no client's mistake must cost a dataset key
/// or a credential.
pub(crate) fn is_write_protected(token: &TokenName) -> bool {
    [TokenName::datasets(), TokenName::credentials()].contains(token)
}

/// C_GetSlotList, section 5.5.1. Every slot has a token. A vault that could not be opened so far
/// is tried again where the specification lets the list change: when only its length is asked
/// for.
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
                // The reason was logged as an error when the module started.
                if let Err(error) = module.open_vault() {
                    log::debug!("there are still no tokens: {error}");
                }
            }
            let slots: Vec<CK_SLOT_ID> = (0..module.tokens().len()).map(ulong).collect();
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
            let token = module.token(slot)?;
            info.set(
                0,
                CK_SLOT_INFO {
                    slotDescription: padded(&format!("Strongroom vault, token {}", token.name)),
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

/// C_GetTokenInfo, section 5.5.3.
pub(crate) unsafe extern "C" fn get_token_info(
    slot: CK_SLOT_ID,
    info: *mut CK_TOKEN_INFO,
) -> CK_RV {
    answer("C_GetTokenInfo", || {
        // SAFETY: the caller's CK_TOKEN_INFO.
        let info = unsafe { Foreign::one(info) }?;
        with_module(|module| {
            let token = module.token(slot)?;
            let sessions = || module.sessions.values().filter(|it| it.slot() == slot);
            let flags = CKF_TOKEN_INITIALIZED | CKF_RNG;
            let (flags, max_writing) = if token.is_write_protected() {
                // Zero would mean infinitely many.
                (flags | CKF_WRITE_PROTECTED, CK_UNAVAILABLE_INFORMATION)
            } else {
                (flags, CK_EFFECTIVELY_INFINITE)
            };
            info.set(
                0,
                CK_TOKEN_INFO {
                    label: padded(token.name.as_str()),
                    manufacturerID: padded(MANUFACTURER),
                    model: padded("TPM 2.0 vault"),
                    serialNumber: token.serial,
                    flags,
                    ulMaxSessionCount: CK_EFFECTIVELY_INFINITE,
                    ulSessionCount: ulong(sessions().count()),
                    ulMaxRwSessionCount: max_writing,
                    ulRwSessionCount: ulong(sessions().filter(|it| it.may_write()).count()),
                    ulMaxPinLen: 0,
                    ulMinPinLen: 0,
                    ulTotalPublicMemory: CK_UNAVAILABLE_INFORMATION,
                    ulFreePublicMemory: CK_UNAVAILABLE_INFORMATION,
                    ulTotalPrivateMemory: CK_UNAVAILABLE_INFORMATION,
                    ulFreePrivateMemory: CK_UNAVAILABLE_INFORMATION,
                    hardwareVersion: library_version(),
                    firmwareVersion: library_version(),
                    utcTime: padded(""),
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
