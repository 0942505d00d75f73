//! Who a session's user is: C_Login, C_LoginUser and C_Logout (PKCS#11 3.1, sections 5.6.8 to
//! 5.6.10), and the PINs, C_InitPIN and C_SetPIN (sections 5.5.8 and 5.5.9).
//!
//! A token without PINs has nobody to be: the TPM's policy alone decides who reads and uses what
//! there is. With PINs, the TPM compares and counts them, and what is private hangs behind the
//! user's.

use cryptoki_sys::{
    CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_USER_TYPE, CK_UTF8CHAR, CKR_ARGUMENTS_BAD,
    CKR_OPERATION_NOT_INITIALIZED, CKR_PIN_INCORRECT, CKR_PIN_LEN_RANGE, CKR_SESSION_READ_ONLY,
    CKR_SESSION_READ_ONLY_EXISTS, CKR_USER_ALREADY_LOGGED_IN, CKR_USER_ANOTHER_ALREADY_LOGGED_IN,
    CKR_USER_NOT_LOGGED_IN, CKR_USER_PIN_NOT_INITIALIZED, CKR_USER_TYPE_INVALID,
    CKU_CONTEXT_SPECIFIC, CKU_SO, CKU_USER,
};
use strongroom::Secret;
use strongroom::object::TokenName;
use strongroom::pin::{Pin, Role};

use crate::fault::{Answer, Fault, answer};
use crate::foreign::Foreign;
use crate::state::{Module, with_module};

/// C_Login, section 5.6.8.
pub(crate) unsafe extern "C" fn login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    pin_len: CK_ULONG,
) -> CK_RV {
    answer("C_Login", || {
        // SAFETY: the caller's PIN.
        let pin = unsafe { read_pin(pin, pin_len) }?;
        with_module(|module| log_in(module, session, user, pin))
    })
}

/// C_LoginUser, section 5.6.9: users have no names here.
pub(crate) unsafe extern "C" fn login_user(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    pin_len: CK_ULONG,
    name: *mut CK_UTF8CHAR,
    name_len: CK_ULONG,
) -> CK_RV {
    answer("C_LoginUser", || {
        if name.is_null() && name_len != 0 {
            return Err(Fault::Code(CKR_ARGUMENTS_BAD));
        }
        // SAFETY: the caller's PIN.
        let pin = unsafe { read_pin(pin, pin_len) }?;
        with_module(|module| {
            module.session(session)?;
            if name_len != 0 {
                return Err(Fault::Code(CKR_USER_TYPE_INVALID));
            }
            log_in(module, session, user, pin)
        })
    })
}

/// C_Logout, section 5.6.10.
pub(crate) unsafe extern "C" fn logout(session: CK_SESSION_HANDLE) -> CK_RV {
    answer("C_Logout", || {
        with_module(|module| {
            let slot = module.session(session)?.slot();
            if module.login(slot).is_none() {
                return Err(Fault::Code(CKR_USER_NOT_LOGGED_IN));
            }
            module.log_out(slot);
            Ok(())
        })
    })
}

/// C_InitPIN, section 5.5.8: the security officer sets the user's PIN, whatever became of the old
/// one.
pub(crate) unsafe extern "C" fn init_pin(
    session: CK_SESSION_HANDLE,
    pin: *mut CK_UTF8CHAR,
    pin_len: CK_ULONG,
) -> CK_RV {
    answer("C_InitPIN", || {
        // SAFETY: the caller's PIN.
        let pin = unsafe { read_pin(pin, pin_len) }?;
        with_module(|module| {
            let slot = module.session(session)?.slot();
            if module.login(slot) != Some(Role::SecurityOfficer) {
                return Err(Fault::Code(CKR_USER_NOT_LOGGED_IN));
            }
            let token = module.token(slot)?.name.clone();
            module.source()?.set_pin(&token, &new_pin(pin)?)?;
            Ok(())
        })
    })
}

/// C_SetPIN, section 5.5.9: changes the PIN of whoever is logged in, or the user's, by the old one.
pub(crate) unsafe extern "C" fn set_pin(
    session: CK_SESSION_HANDLE,
    old: *mut CK_UTF8CHAR,
    old_len: CK_ULONG,
    new: *mut CK_UTF8CHAR,
    new_len: CK_ULONG,
) -> CK_RV {
    answer("C_SetPIN", || {
        // SAFETY: the caller's PINs.
        let (old, new) = unsafe { (read_pin(old, old_len)?, read_pin(new, new_len)?) };
        with_module(|module| {
            let open = module.session(session)?;
            let slot = open.slot();
            if !open.may_write() {
                return Err(Fault::Code(CKR_SESSION_READ_ONLY));
            }
            let token = with_pins(module, slot)?;
            let role = module.login(slot).unwrap_or(Role::User);
            let new = new_pin(new)?;
            let old = given_pin(old)?;
            module.source()?.change_pin(&token, role, &old, new)?;
            Ok(())
        })
    })
}

fn log_in(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: Secret,
) -> Answer {
    let slot = module.session(session)?.slot();
    let role = match user {
        CKU_USER => Role::User,
        CKU_SO => Role::SecurityOfficer,
        CKU_CONTEXT_SPECIFIC => return authenticate(module, session, pin),
        _ => return Err(Fault::Code(CKR_USER_TYPE_INVALID)),
    };
    let read_only = |module: &Module| {
        let mut sessions = module.sessions.values();
        sessions.any(|it| it.slot() == slot && !it.may_write())
    };
    if role == Role::SecurityOfficer && read_only(module) {
        return Err(Fault::Code(CKR_SESSION_READ_ONLY_EXISTS));
    }
    let token = with_pins(module, slot)?;
    match module.login(slot) {
        Some(now) if now == role => return Err(Fault::Code(CKR_USER_ALREADY_LOGGED_IN)),
        Some(_) => return Err(Fault::Code(CKR_USER_ANOTHER_ALREADY_LOGGED_IN)),
        None => {}
    }
    module.source()?.log_in(&token, role, given_pin(pin)?)?;
    Ok(())
}

/// The login that a key with CKA_ALWAYS_AUTHENTICATE wants before each use.
fn authenticate(module: &mut Module, session: CK_SESSION_HANDLE, pin: Secret) -> Answer {
    let open = module.session(session)?;
    let slot = open.slot();
    if !open.awaits_login() {
        return Err(Fault::Code(CKR_OPERATION_NOT_INITIALIZED));
    }
    if !module.is_user(slot) {
        return Err(Fault::Code(CKR_USER_NOT_LOGGED_IN));
    }
    let token = with_pins(module, slot)?;
    module.source()?.check_pin(&token, &given_pin(pin)?)?;
    module.session(session)?.authenticated = true;
    Ok(())
}

/// The token in a slot, which has PINs.
fn with_pins(module: &Module, slot: cryptoki_sys::CK_SLOT_ID) -> Answer<TokenName> {
    let token = module.token(slot)?;
    if token.has_pins {
        Ok(token.name.clone())
    } else {
        Err(Fault::Code(CKR_USER_PIN_NOT_INITIALIZED))
    }
}

/// # Safety
/// `pin` is null or the caller's memory of `len` bytes.
pub(crate) unsafe fn read_pin(pin: *mut CK_UTF8CHAR, len: CK_ULONG) -> Answer<Secret> {
    // SAFETY: the caller vouches for it.
    let bytes = unsafe { Foreign::many(pin, len) }?;
    // What is longer than any PIN is none, whatever it is.
    let none = || vec![0; Pin::MAX + 1];
    Ok(Secret::take(bytes.bytes(Pin::MAX).unwrap_or_else(none)))
}

/// A PIN that is to be one.
pub(crate) fn new_pin(pin: Secret) -> Answer<Pin> {
    Pin::new(pin).map_err(|_| Fault::Code(CKR_PIN_LEN_RANGE))
}

/// A PIN that should be right: what can be none is not, and the TPM need not be asked.
pub(crate) fn given_pin(pin: Secret) -> Answer<Pin> {
    Pin::new(pin).map_err(|_| Fault::Code(CKR_PIN_INCORRECT))
}
