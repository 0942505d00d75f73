//! Sessions (PKCS#11 3.1, section 5.6). Who logs in is in [`crate::pins`].

use std::ffi::c_void;
use std::vec;

use cryptoki_sys::{
    CK_FLAGS, CK_NOTIFY, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_SESSION_INFO, CK_SLOT_ID,
    CKF_DECRYPT, CKF_DIGEST, CKF_ENCRYPT, CKF_FIND_OBJECTS, CKF_MESSAGE_DECRYPT,
    CKF_MESSAGE_ENCRYPT, CKF_MESSAGE_SIGN, CKF_MESSAGE_VERIFY, CKF_RW_SESSION, CKF_SERIAL_SESSION,
    CKF_SIGN, CKF_SIGN_RECOVER, CKF_VERIFY, CKF_VERIFY_RECOVER, CKR_OPERATION_CANCEL_FAILED,
    CKR_SESSION_PARALLEL_NOT_SUPPORTED, CKR_SESSION_READ_WRITE_SO_EXISTS,
    CKR_TOKEN_WRITE_PROTECTED, CKS_RO_PUBLIC_SESSION, CKS_RO_USER_FUNCTIONS, CKS_RW_PUBLIC_SESSION,
    CKS_RW_SO_FUNCTIONS, CKS_RW_USER_FUNCTIONS,
};
use strongroom::pin::Role;

use crate::digesting::Digesting;
use crate::encryption::{Decrypting, Encrypting};
use crate::fault::{Fault, answer};
use crate::foreign::Foreign;
use crate::messages::Messaging;
use crate::signing::{Recovering, Signing};
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
    /// A signature from which the data will be recovered, and one from which they are.
    pub(crate) sign_recovering: Option<Signing>,
    pub(crate) verify_recovering: Option<Recovering>,
    pub(crate) encrypting_messages: Option<Messaging>,
    pub(crate) decrypting_messages: Option<Messaging>,
    /// Whether a login came before the next use of a key that wants one each time.
    pub(crate) authenticated: bool,
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
            sign_recovering: None,
            verify_recovering: None,
            encrypting_messages: None,
            decrypting_messages: None,
            authenticated: false,
        }
    }

    /// Whether an operation goes on that wants a login by itself.
    pub(crate) fn awaits_login(&self) -> bool {
        self.signing.as_ref().is_some_and(Signing::asks)
            || self.sign_recovering.as_ref().is_some_and(Signing::asks)
            || self.decrypting.as_ref().is_some_and(Decrypting::asks)
    }

    /// Whether anything of cryptography goes on.
    pub(crate) fn is_active(&self) -> bool {
        self.digesting.is_some()
            || self.signing.is_some()
            || self.verifying.is_some()
            || self.encrypting.is_some()
            || self.decrypting.is_some()
            || self.sign_recovering.is_some()
            || self.verify_recovering.is_some()
            || self.encrypting_messages.is_some()
            || self.decrypting_messages.is_some()
    }

    /// Ends what goes on.
    pub(crate) fn cancel(&mut self) {
        *self = Self::new(self.slot, self.may_write);
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
            let protected = module.token(slot)?.write_protected;
            if flags & CKF_SERIAL_SESSION == 0 {
                return Err(Fault::Code(CKR_SESSION_PARALLEL_NOT_SUPPORTED));
            }
            let may_write = flags & CKF_RW_SESSION != 0;
            if may_write && protected {
                return Err(Fault::Code(CKR_TOKEN_WRITE_PROTECTED));
            }
            if !may_write && module.login(slot) == Some(Role::SecurityOfficer) {
                return Err(Fault::Code(CKR_SESSION_READ_WRITE_SO_EXISTS));
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
            let (slot, may_write) = (session.slot(), session.may_write());
            let state = match (module.login(slot), may_write) {
                (None, true) => CKS_RW_PUBLIC_SESSION,
                (None, false) => CKS_RO_PUBLIC_SESSION,
                (Some(Role::User), true) => CKS_RW_USER_FUNCTIONS,
                (Some(Role::User), false) => CKS_RO_USER_FUNCTIONS,
                (Some(Role::SecurityOfficer), _) => CKS_RW_SO_FUNCTIONS,
            };
            let flags = if may_write {
                CKF_SERIAL_SESSION | CKF_RW_SESSION
            } else {
                CKF_SERIAL_SESSION
            };
            info.set(
                0,
                CK_SESSION_INFO {
                    slotID: slot,
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
            // The login before a use of a key was for what ends here.
            if flags & (CKF_SIGN | CKF_DECRYPT | CKF_SIGN_RECOVER) != 0 {
                session.authenticated = false;
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
            if names(CKF_SIGN_RECOVER) {
                session.sign_recovering = None;
            }
            if names(CKF_VERIFY_RECOVER) {
                session.verify_recovering = None;
            }
            if names(CKF_MESSAGE_ENCRYPT) {
                session.encrypting_messages = None;
            }
            if names(CKF_MESSAGE_DECRYPT) {
                session.decrypting_messages = None;
            }
            // Of what never begins, nothing is left to be ended.
            let never = CKF_MESSAGE_SIGN | CKF_MESSAGE_VERIFY;
            if rest & !never != 0 {
                return Err(Fault::Code(CKR_OPERATION_CANCEL_FAILED));
            }
            Ok(())
        })
    })
}
