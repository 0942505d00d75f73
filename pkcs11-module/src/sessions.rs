//! Sessions (PKCS#11 3.1, section 5.6). Nobody logs in, because the TPM's policy decides who may
//! read and use what there is.

use std::ffi::c_void;
use std::vec;

use cryptoki_sys::{
    CK_FLAGS, CK_NOTIFY, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_SESSION_INFO, CK_SLOT_ID,
    CK_ULONG, CK_USER_TYPE, CK_UTF8CHAR, CKF_DECRYPT, CKF_DIGEST, CKF_ENCRYPT, CKF_FIND_OBJECTS,
    CKF_RW_SESSION, CKF_SERIAL_SESSION, CKF_SIGN, CKF_VERIFY, CKR_ARGUMENTS_BAD,
    CKR_FUNCTION_NOT_SUPPORTED, CKR_OPERATION_CANCEL_FAILED, CKR_OPERATION_NOT_INITIALIZED,
    CKR_SESSION_PARALLEL_NOT_SUPPORTED, CKR_SESSION_READ_ONLY_EXISTS, CKR_TOKEN_WRITE_PROTECTED,
    CKR_USER_NOT_LOGGED_IN, CKR_USER_PIN_NOT_INITIALIZED, CKR_USER_TYPE_INVALID,
    CKS_RO_PUBLIC_SESSION, CKS_RW_PUBLIC_SESSION, CKU_CONTEXT_SPECIFIC, CKU_SO, CKU_USER,
};

use crate::digesting::Digesting;
use crate::encryption::{Decrypting, Encrypting};
use crate::fault::{Answer, Fault, answer};
use crate::foreign::Foreign;
use crate::signing::Signing;
use crate::state::with_module;

/// An open session, and the operations that are going on in it.
pub(crate) struct Session {
    slot: CK_SLOT_ID,
    may_write: bool,
    /// The search: the handles that were found and not yet given out.
    pub(crate) search: Option<vec::IntoIter<CK_OBJECT_HANDLE>>,
    pub(crate) digesting: Option<Digesting>,
    pub(crate) signing: Option<Signing>,
    pub(crate) verifying: Option<Signing>,
    pub(crate) encrypting: Option<Encrypting>,
    pub(crate) decrypting: Option<Decrypting>,
}

impl Session {
    /// A session with the token in this slot.
    pub(crate) fn new(slot: CK_SLOT_ID, may_write: bool) -> Self {
        Self {
            slot,
            may_write,
            search: None,
            digesting: None,
            signing: None,
            verifying: None,
            encrypting: None,
            decrypting: None,
        }
    }

    /// Whether it may make, change and destroy token objects.
    pub(crate) fn may_write(&self) -> bool {
        self.may_write
    }

    /// The slot of its token.
    pub(crate) fn slot(&self) -> CK_SLOT_ID {
        self.slot
    }
}

/// C_OpenSession, section 5.6.1.
pub(crate) unsafe extern "C" fn open_session(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    _application: *mut c_void,
    _notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    answer("C_OpenSession", || {
        // SAFETY: the caller's CK_SESSION_HANDLE.
        let session = unsafe { Foreign::one(session) }?;
        with_module(|module| {
            let protected = module.token(slot)?.is_write_protected();
            if flags & CKF_SERIAL_SESSION == 0 {
                return Err(Fault::Code(CKR_SESSION_PARALLEL_NOT_SUPPORTED));
            }
            let may_write = flags & CKF_RW_SESSION != 0;
            if may_write && protected {
                return Err(Fault::Code(CKR_TOKEN_WRITE_PROTECTED));
            }
            session.set(0, module.add_session(slot, may_write));
            Ok(())
        })
    })
}

/// C_CloseSession, section 5.6.2.
pub(crate) unsafe extern "C" fn close_session(session: CK_SESSION_HANDLE) -> CK_RV {
    answer("C_CloseSession", || {
        with_module(|module| {
            module.session(session)?;
            module.end_sessions(|handle, _| handle == session);
            Ok(())
        })
    })
}

/// C_CloseAllSessions, section 5.6.3.
pub(crate) unsafe extern "C" fn close_all_sessions(slot: CK_SLOT_ID) -> CK_RV {
    answer("C_CloseAllSessions", || {
        with_module(|module| {
            module.token(slot)?;
            module.end_sessions(|_, session| session.slot() == slot);
            Ok(())
        })
    })
}

/// C_GetSessionInfo, section 5.6.4.
pub(crate) unsafe extern "C" fn get_session_info(
    session: CK_SESSION_HANDLE,
    info: *mut CK_SESSION_INFO,
) -> CK_RV {
    answer("C_GetSessionInfo", || {
        // SAFETY: the caller's CK_SESSION_INFO.
        let info = unsafe { Foreign::one(info) }?;
        with_module(|module| {
            let session = module.session(session)?;
            let (state, flags) = if session.may_write() {
                (CKS_RW_PUBLIC_SESSION, CKF_SERIAL_SESSION | CKF_RW_SESSION)
            } else {
                (CKS_RO_PUBLIC_SESSION, CKF_SERIAL_SESSION)
            };
            info.set(
                0,
                CK_SESSION_INFO {
                    slotID: session.slot(),
                    state,
                    flags,
                    ulDeviceError: 0,
                },
            );
            Ok(())
        })
    })
}

/// C_SessionCancel, section 5.6.5: of the operations that the flags name, those that there are are
/// ended.
pub(crate) unsafe extern "C" fn session_cancel(
    session: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
) -> CK_RV {
    answer("C_SessionCancel", || {
        with_module(|module| {
            let session = module.session(session)?;
            let mut rest = flags;
            let mut names = |flag: CK_FLAGS| {
                rest &= !flag;
                flags & flag != 0
            };
            if names(CKF_FIND_OBJECTS) {
                session.search = None;
            }
            if names(CKF_DIGEST) {
                session.digesting = None;
            }
            if names(CKF_SIGN) {
                session.signing = None;
            }
            if names(CKF_VERIFY) {
                session.verifying = None;
            }
            if names(CKF_ENCRYPT) {
                session.encrypting = None;
            }
            if names(CKF_DECRYPT) {
                session.decrypting = None;
            }
            if rest != 0 {
                return Err(Fault::Code(CKR_OPERATION_CANCEL_FAILED));
            }
            Ok(())
        })
    })
}

/// C_Login, section 5.6.8: there is nobody to be, for a token without PIN.
pub(crate) unsafe extern "C" fn login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    pin_len: CK_ULONG,
) -> CK_RV {
    answer("C_Login", || {
        check_text(pin, pin_len)?;
        refuse_login(session, user)
    })
}

/// C_LoginUser, section 5.6.9.
pub(crate) unsafe extern "C" fn login_user(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    pin_len: CK_ULONG,
    name: *mut CK_UTF8CHAR,
    name_len: CK_ULONG,
) -> CK_RV {
    answer("C_LoginUser", || {
        check_text(pin, pin_len)?;
        check_text(name, name_len)?;
        refuse_login(session, user)
    })
}

/// C_Logout, section 5.6.10.
pub(crate) unsafe extern "C" fn logout(session: CK_SESSION_HANDLE) -> CK_RV {
    answer("C_Logout", || {
        with_module(|module| {
            module.session(session)?;
            Err(Fault::Code(CKR_USER_NOT_LOGGED_IN))
        })
    })
}

fn refuse_login(session: CK_SESSION_HANDLE, user: CK_USER_TYPE) -> Answer {
    with_module(|module| {
        let slot = module.session(session)?.slot();
        let mut others = module.sessions.values().filter(|it| it.slot() == slot);
        let read_only = others.any(|it| !it.may_write());
        Err(Fault::Code(match user {
            CKU_USER => CKR_USER_PIN_NOT_INITIALIZED,
            CKU_SO if read_only => CKR_SESSION_READ_ONLY_EXISTS,
            // There is no security officer yet.
            CKU_SO => CKR_FUNCTION_NOT_SUPPORTED,
            CKU_CONTEXT_SPECIFIC => CKR_OPERATION_NOT_INITIALIZED,
            _ => CKR_USER_TYPE_INVALID,
        }))
    })
}

/// No text is read, for none could be right.
fn check_text(text: *mut CK_UTF8CHAR, len: CK_ULONG) -> Answer {
    if text.is_null() && len != 0 {
        return Err(Fault::Code(CKR_ARGUMENTS_BAD));
    }
    Ok(())
}
