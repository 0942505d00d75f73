//! The function lists and the three symbols by which a host finds them (PKCS#11 3.1, sections
//! 5.4.4 to 5.4.6).
//!
//! No other function is exported by name: the names are the same in every module, and a host that
//! loads several would mix them up.

use std::cell::UnsafeCell;

use cryptoki_sys::{
    CK_FLAGS, CK_FUNCTION_LIST, CK_FUNCTION_LIST_3_0, CK_INTERFACE, CK_RV, CK_ULONG, CK_UTF8CHAR,
    CK_VERSION, CKR_ARGUMENTS_BAD,
};

use crate::fault::{Fault, answer};
use crate::foreign::Foreign;
use crate::slots::give_list;
use crate::{
    changing, creation, derivation, digesting, dual, encryption, general, keys, messages, objects,
    pins, random, sessions, signing, slots, tokens,
};

/// C_GetFunctionList, section 5.4.4: the list of version 2.40.
///
/// # Safety
/// `list` is null or points to memory for a pointer.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the specification's name")]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    answer("C_GetFunctionList", || {
        // SAFETY: the caller's pointer.
        unsafe { Foreign::one(list) }?.set(0, (&raw const FUNCTIONS_2_40).cast_mut());
        Ok(())
    })
}

/// C_GetInterfaceList, section 5.4.5: versions 3.0, 3.1 and 2.40.
///
/// # Safety
/// `count` is null or points to a `CK_ULONG`; `list` is null or points to memory for as many
/// interfaces as that says.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the specification's name")]
pub unsafe extern "C" fn C_GetInterfaceList(
    list: *mut CK_INTERFACE,
    count: *mut CK_ULONG,
) -> CK_RV {
    answer("C_GetInterfaceList", || {
        // SAFETY: the caller's CK_ULONG, and the caller's list as long as that says.
        unsafe { give_list(&INTERFACES, list, &Foreign::one(count)?) }
    })
}

/// C_GetInterface, section 5.4.6: version 3.0 unless another is asked for. The list of 3.1 has the same
/// functions, and hosts are about that know 3.0 alone, such as OpenSC's pkcs11-spy.
///
/// # Safety
/// `name` is null or a text that ends with a zero; `version` is null or points to a version;
/// `interface` is null or points to memory for a pointer.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the specification's name")]
pub unsafe extern "C" fn C_GetInterface(
    name: *mut CK_UTF8CHAR,
    version: *mut CK_VERSION,
    interface: *mut *mut CK_INTERFACE,
    flags: CK_FLAGS,
) -> CK_RV {
    answer("C_GetInterface", || {
        // SAFETY: the caller's pointer.
        let interface = unsafe { Foreign::one(interface) }?;
        // SAFETY: the caller's text, read no further than it is the same as ours.
        let right_name = name.is_null() || unsafe { is_our_name(name) };
        let wanted_version = if version.is_null() {
            None
        } else {
            // SAFETY: the caller's CK_VERSION.
            Some(unsafe { Foreign::one(version) }?.get(0))
        };
        // The first that fits, and the newest is first. No flag but none is offered: what fork
        // does to a process that uses the module is not "nothing".
        let found = VERSIONS.iter().position(|version| {
            right_name
                && flags == 0
                && wanted_version
                    .is_none_or(|it| (it.major, it.minor) == (version.major, version.minor))
        });
        let found = found.ok_or(Fault::Code(CKR_ARGUMENTS_BAD))?;
        let lent = LENT.0.get().cast::<CK_INTERFACE>();
        interface.set(0, lent.wrapping_add(found));
        Ok(())
    })
}

const VERSION_3_1: CK_VERSION = CK_VERSION { major: 3, minor: 1 };
const VERSION_3_0: CK_VERSION = CK_VERSION { major: 3, minor: 0 };
const VERSION_2_40: CK_VERSION = CK_VERSION {
    major: 2,
    minor: 40,
};

/// The versions of [`INTERFACES`].
const VERSIONS: [CK_VERSION; 3] = [VERSION_3_0, VERSION_3_1, VERSION_2_40];

/// The name of every interface that the specification defines.
const NAME: &[u8] = b"PKCS 11\0";

const INTERFACES: [CK_INTERFACE; 3] = [
    CK_INTERFACE {
        pInterfaceName: NAME.as_ptr().cast_mut(),
        pFunctionList: (&raw const FUNCTIONS_3_0).cast_mut().cast(),
        flags: 0,
    },
    CK_INTERFACE {
        pInterfaceName: NAME.as_ptr().cast_mut(),
        pFunctionList: (&raw const FUNCTIONS_3_1).cast_mut().cast(),
        flags: 0,
    },
    CK_INTERFACE {
        pInterfaceName: NAME.as_ptr().cast_mut(),
        pFunctionList: (&raw const FUNCTIONS_2_40).cast_mut().cast(),
        flags: 0,
    },
];

/// What [`C_GetInterface`] gives out: memory that the host may write to, for the specification gives
/// out no `const`. OpenSC's pkcs11-spy puts its own function lists there. We only give out where it
/// is.
struct Lent(UnsafeCell<[CK_INTERFACE; 3]>);

// SAFETY: this module neither reads nor writes what is in it.
unsafe impl Sync for Lent {}

static LENT: Lent = Lent(UnsafeCell::new(INTERFACES));

/// # Safety
/// `name` is a text that ends with a zero.
unsafe fn is_our_name(name: *const CK_UTF8CHAR) -> bool {
    NAME.iter().enumerate().all(|(index, byte)| {
        // SAFETY: all bytes before this one were ours and so not the zero that ends the text.
        unsafe { name.add(index).read() == *byte }
    })
}

/// A function list of a version: what all versions have, and what this one has besides.
macro_rules! functions {
    ($list:ident, $version:ident, { $($besides:tt)* }) => {
        $list {
            version: $version,
            C_Initialize: Some(general::initialize),
            C_Finalize: Some(general::finalize),
            C_GetInfo: Some(general::get_info::<{ $version.major }, { $version.minor }>),
            C_GetFunctionList: Some(C_GetFunctionList),
            C_GetSlotList: Some(slots::get_slot_list),
            C_GetSlotInfo: Some(slots::get_slot_info),
            C_GetTokenInfo: Some(tokens::get_token_info),
            C_GetMechanismList: Some(slots::get_mechanism_list),
            C_GetMechanismInfo: Some(slots::get_mechanism_info),
            C_InitToken: Some(tokens::init_token),
            C_InitPIN: Some(pins::init_pin),
            C_SetPIN: Some(pins::set_pin),
            C_OpenSession: Some(sessions::open_session),
            C_CloseSession: Some(sessions::close_session),
            C_CloseAllSessions: Some(sessions::close_all_sessions),
            C_GetSessionInfo: Some(sessions::get_session_info),
            C_GetOperationState: Some(dual::get_operation_state),
            C_SetOperationState: Some(dual::set_operation_state),
            C_Login: Some(pins::login),
            C_Logout: Some(pins::logout),
            C_CreateObject: Some(creation::create_object),
            C_CopyObject: Some(changing::copy_object),
            C_DestroyObject: Some(changing::destroy_object),
            C_GetObjectSize: Some(objects::get_object_size),
            C_GetAttributeValue: Some(objects::get_attribute_value),
            C_SetAttributeValue: Some(changing::set_attribute_value),
            C_FindObjectsInit: Some(objects::find_objects_init),
            C_FindObjects: Some(objects::find_objects),
            C_FindObjectsFinal: Some(objects::find_objects_final),
            C_EncryptInit: Some(encryption::encrypt_init),
            C_Encrypt: Some(encryption::encrypt),
            C_EncryptUpdate: Some(encryption::encrypt_update),
            C_EncryptFinal: Some(encryption::encrypt_final),
            C_DecryptInit: Some(encryption::decrypt_init),
            C_Decrypt: Some(encryption::decrypt),
            C_DecryptUpdate: Some(encryption::decrypt_update),
            C_DecryptFinal: Some(encryption::decrypt_final),
            C_DigestInit: Some(digesting::digest_init),
            C_Digest: Some(digesting::digest),
            C_DigestUpdate: Some(digesting::digest_update),
            C_DigestKey: Some(digesting::digest_key),
            C_DigestFinal: Some(digesting::digest_final),
            C_SignInit: Some(signing::sign_init),
            C_Sign: Some(signing::sign),
            C_SignUpdate: Some(signing::sign_update),
            C_SignFinal: Some(signing::sign_final),
            C_SignRecoverInit: Some(signing::sign_recover_init),
            C_SignRecover: Some(signing::sign_recover),
            C_VerifyInit: Some(signing::verify_init),
            C_Verify: Some(signing::verify),
            C_VerifyUpdate: Some(signing::verify_update),
            C_VerifyFinal: Some(signing::verify_final),
            C_VerifyRecoverInit: Some(signing::verify_recover_init),
            C_VerifyRecover: Some(signing::verify_recover),
            C_DigestEncryptUpdate: Some(dual::digest_encrypt_update),
            C_DecryptDigestUpdate: Some(dual::decrypt_digest_update),
            C_SignEncryptUpdate: Some(dual::sign_encrypt_update),
            C_DecryptVerifyUpdate: Some(dual::decrypt_verify_update),
            C_GenerateKey: Some(keys::generate_key),
            C_GenerateKeyPair: Some(keys::generate_key_pair),
            C_WrapKey: Some(keys::wrap_key),
            C_UnwrapKey: Some(keys::unwrap_key),
            C_DeriveKey: Some(derivation::derive_key),
            C_SeedRandom: Some(random::seed_random),
            C_GenerateRandom: Some(random::generate_random),
            C_GetFunctionStatus: Some(general::not_parallel),
            C_CancelFunction: Some(general::not_parallel),
            C_WaitForSlotEvent: Some(slots::wait_for_slot_event),
            $($besides)*
        }
    };
}

static FUNCTIONS_2_40: CK_FUNCTION_LIST = functions!(CK_FUNCTION_LIST, VERSION_2_40, {});

/// Version 3.1 has the functions of 3.0, and no others.
macro_rules! functions_3 {
    ($version:ident) => {
        functions!(CK_FUNCTION_LIST_3_0, $version, {
            C_GetInterfaceList: Some(C_GetInterfaceList),
            C_GetInterface: Some(C_GetInterface),
            C_LoginUser: Some(pins::login_user),
            C_SessionCancel: Some(sessions::session_cancel),
            C_MessageEncryptInit: Some(messages::message_encrypt_init),
            C_EncryptMessage: Some(messages::encrypt_message),
            C_EncryptMessageBegin: Some(messages::encrypt_message_begin),
            C_EncryptMessageNext: Some(messages::encrypt_message_next),
            C_MessageEncryptFinal: Some(messages::message_encrypt_final),
            C_MessageDecryptInit: Some(messages::message_decrypt_init),
            C_DecryptMessage: Some(messages::decrypt_message),
            C_DecryptMessageBegin: Some(messages::decrypt_message_begin),
            C_DecryptMessageNext: Some(messages::decrypt_message_next),
            C_MessageDecryptFinal: Some(messages::message_decrypt_final),
            C_MessageSignInit: Some(messages::message_sign_init),
            C_SignMessage: Some(messages::not_begun::sign_message),
            C_SignMessageBegin: Some(messages::not_begun::sign_message_begin),
            C_SignMessageNext: Some(messages::not_begun::sign_message_next),
            C_MessageSignFinal: Some(messages::not_begun::message_final),
            C_MessageVerifyInit: Some(messages::message_verify_init),
            C_VerifyMessage: Some(messages::not_begun::verify_message),
            C_VerifyMessageBegin: Some(messages::not_begun::verify_message_begin),
            C_VerifyMessageNext: Some(messages::not_begun::verify_message_next),
            C_MessageVerifyFinal: Some(messages::not_begun::message_final),
        })
    };
}

static FUNCTIONS_3_1: CK_FUNCTION_LIST_3_0 = functions_3!(VERSION_3_1);
static FUNCTIONS_3_0: CK_FUNCTION_LIST_3_0 = functions_3!(VERSION_3_0);
