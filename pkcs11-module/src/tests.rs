//! The module as a host sees it: every call goes through the function lists, over a vault that is
//! made up. (Over a real vault and TPM: the black-box tests in `tests/`.)
//!
//! PKCS#11 gives a process one module, so the tests take turns: see [`Host`].

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cryptoki_sys::*;
use strongroom::key::{DecryptScheme, KeyAlgorithm, LOCAL, PUBLIC_KEY, PrivateKey, SignScheme};
use strongroom::object::{
    KEYFORMAT, Kind, Metadata, NewObject, OBJECT_FORMAT, ObjectId, TokenLabel, TokenName,
};
use strongroom::pin::{Pin, PinState, Role};
use strongroom::vault::{Listing, NewToken, Token};
use strongroom::{Damaged, Error, Result, Secret};

use crate::fault::VAULT_UNUSABLE;
use crate::interface::{C_GetInterface, C_GetInterfaceList};
use crate::source::Source;
use crate::state;

const PASSWORD: &[u8] = br#"{"pass":"correct horse"}"#;
const DAMAGED: &str = "0d0d0d0d-0d0d-4d0d-8d0d-0d0d0d0d0d0d";
const HEX_KEY: &[u8] = b"000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";

/// Calls a function of the list with pointers to the test's own variables.
macro_rules! call {
    ($host:ident.$function:ident($($argument:expr),*)) => {{
        let function = $host.functions.$function.expect("no list has gaps");
        // SAFETY: null or the test's own variables, as long as the test says.
        #[allow(unused_unsafe, reason = "one call is within an unsafe block")]
        unsafe { function($($argument),*) }
    }};
}

mod derivation;
mod fuzz;
mod keys;
mod legacy;
mod mechanisms;
mod operations;
mod served;

#[test]
fn nothing_works_before_initialize_or_after_finalize() {
    let host = Host::without_module();
    let mut info = CK_INFO::default();
    let mut session = 0;
    assert_eq!(
        call!(host.C_GetInfo(&raw mut info)),
        CKR_CRYPTOKI_NOT_INITIALIZED
    );
    assert_eq!(
        call!(host.C_OpenSession(0, CKF_SERIAL_SESSION, null(), None, &raw mut session)),
        CKR_CRYPTOKI_NOT_INITIALIZED
    );
    assert_eq!(call!(host.C_Finalize(null())), CKR_CRYPTOKI_NOT_INITIALIZED);
    assert_eq!(call!(host.C_Initialize(null())), CKR_OK);
    assert_eq!(
        call!(host.C_Initialize(null())),
        CKR_CRYPTOKI_ALREADY_INITIALIZED
    );
    assert_eq!(call!(host.C_GetInfo(&raw mut info)), CKR_OK);
    assert_eq!(&info.manufacturerID, b"Strongroom                      ");
    assert_eq!(
        call!(host.C_Finalize((&raw mut info).cast::<c_void>())),
        CKR_ARGUMENTS_BAD
    );
    assert_eq!(call!(host.C_Finalize(null())), CKR_OK);
    assert_eq!(
        call!(host.C_GetInfo(&raw mut info)),
        CKR_CRYPTOKI_NOT_INITIALIZED
    );
}

#[test]
fn initialize_checks_how_the_host_locks() {
    unsafe extern "C" fn create(_: *mut *mut c_void) -> CK_RV {
        CKR_OK
    }
    unsafe extern "C" fn other(_: *mut c_void) -> CK_RV {
        CKR_OK
    }
    let host = Host::without_module();
    let none = CK_C_INITIALIZE_ARGS {
        CreateMutex: None,
        DestroyMutex: None,
        LockMutex: None,
        UnlockMutex: None,
        flags: 0,
        pReserved: null(),
    };
    let all = CK_C_INITIALIZE_ARGS {
        CreateMutex: Some(create),
        DestroyMutex: Some(other),
        LockMutex: Some(other),
        UnlockMutex: Some(other),
        ..none
    };
    let os = CKF_OS_LOCKING_OK;
    let reserved = ptr::dangling_mut();
    for (mut arguments, expected) in [
        (none, CKR_OK),
        (CK_C_INITIALIZE_ARGS { flags: os, ..none }, CKR_OK),
        (all, CKR_CANT_LOCK),
        (CK_C_INITIALIZE_ARGS { flags: os, ..all }, CKR_OK),
        (
            CK_C_INITIALIZE_ARGS {
                LockMutex: None,
                flags: os,
                ..all
            },
            CKR_ARGUMENTS_BAD,
        ),
        (
            CK_C_INITIALIZE_ARGS {
                pReserved: reserved,
                ..none
            },
            CKR_ARGUMENTS_BAD,
        ),
    ] {
        let code = call!(host.C_Initialize((&raw mut arguments).cast()));
        assert_eq!(code, expected);
        if code == CKR_OK {
            assert_eq!(call!(host.C_Finalize(null())), CKR_OK);
        }
    }
}

#[test]
fn without_a_vault_there_are_no_slots_until_there_is_one() {
    let host = Host::without_module();
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    state::initialize(Box::new(move || {
        if counted.fetch_add(1, Ordering::Relaxed) < 2 {
            Err(Error::VaultMissing(PathBuf::from("/nowhere")))
        } else {
            Ok(Box::new(Fake::default()))
        }
    }))
    .expect("not initialized");
    let mut count = 9;
    assert_eq!(
        call!(host.C_GetSlotList(CK_TRUE, null(), &raw mut count)),
        CKR_OK
    );
    assert_eq!(count, 0);
    assert_eq!(
        call!(host.C_GetSlotList(CK_TRUE, null(), &raw mut count)),
        CKR_OK
    );
    assert_eq!(count, 3);
}

#[test]
fn every_function_of_every_list_is_there() {
    let host = Host::without_module();
    let mut count = 0;
    // SAFETY: pointers to our own variables; the lists live as long as the program.
    unsafe {
        assert_eq!(C_GetInterfaceList(null(), &raw mut count), CKR_OK);
        assert_eq!(count, 3);
        let mut interfaces = [CK_INTERFACE {
            pInterfaceName: null(),
            pFunctionList: null(),
            flags: 0,
        }; 3];
        count = 1;
        assert_eq!(
            C_GetInterfaceList(interfaces.as_mut_ptr(), &raw mut count),
            CKR_BUFFER_TOO_SMALL
        );
        assert_eq!(count, 3);
        assert_eq!(
            C_GetInterfaceList(interfaces.as_mut_ptr(), &raw mut count),
            CKR_OK
        );
        for (interface, functions) in interfaces.iter().zip([92, 92, 68]) {
            let start = interface.pFunctionList.cast::<*const c_void>();
            // The version, padded to a pointer, then pointers only.
            assert!((1..=functions).all(|index| !(*start.add(index)).is_null()));
        }
        assert_eq!(size_of::<CK_FUNCTION_LIST_3_0>(), 93 * size_of::<usize>());
        assert_eq!(size_of::<CK_FUNCTION_LIST>(), 69 * size_of::<usize>());
    }
    // None is there in name alone.
    assert_eq!(
        call!(host.C_SignMessageBegin(1, null(), 0)),
        CKR_CRYPTOKI_NOT_INITIALIZED
    );
    assert_eq!(call!(host.C_CancelFunction(1)), CKR_FUNCTION_NOT_PARALLEL);
}

#[test]
fn interfaces_are_found_by_name_and_version() {
    let _host = Host::with(Fake::default());
    let find = |name: Option<&[u8]>, version: Option<(u8, u8)>, flags| {
        let mut interface = null();
        let mut version = version.map(|(major, minor)| CK_VERSION { major, minor });
        // SAFETY: pointers to our own variables; an interface lives as long as the program.
        unsafe {
            let code = C_GetInterface(
                name.map_or(null(), |name| name.as_ptr().cast_mut()),
                version.as_mut().map_or(null(), ptr::from_mut),
                &raw mut interface,
                flags,
            );
            (code == CKR_OK).then(|| {
                let list = (*interface).pFunctionList;
                let version = list.cast::<CK_VERSION>().read();
                // A list says of itself what the library says by it.
                let mut info = CK_INFO::default();
                let get_info = (*list.cast::<CK_FUNCTION_LIST>())
                    .C_GetInfo
                    .expect("it is there");
                assert_eq!(get_info(&raw mut info), CKR_OK);
                let said = info.cryptokiVersion;
                assert_eq!((said.major, said.minor), (version.major, version.minor));
                (version.major, version.minor)
            })
        }
    };
    assert_eq!(find(None, None, 0), Some((3, 0)));
    assert_eq!(find(Some(b"PKCS 11\0"), Some((3, 1)), 0), Some((3, 1)));
    assert_eq!(find(Some(b"PKCS 11\0"), Some((3, 0)), 0), Some((3, 0)));
    assert_eq!(find(Some(b"PKCS 11\0"), Some((2, 40)), 0), Some((2, 40)));
    assert_eq!(find(Some(b"PKCS 11\0"), Some((3, 2)), 0), None);
    assert_eq!(find(Some(b"PKCS\0"), None, 0), None);
    assert_eq!(find(Some(b"PKCS 11+\0"), None, 0), None);
    assert_eq!(find(None, None, CKF_INTERFACE_FORK_SAFE), None);
}

#[test]
fn null_pointers_are_refused_everywhere() {
    let host = Host::with(Fake::default());
    let session = host.session(1);
    let mut count = 1;
    let bad = [
        call!(host.C_GetInfo(null())),
        call!(host.C_GetFunctionList(null())),
        call!(host.C_GetSlotList(CK_TRUE, null(), null())),
        call!(host.C_GetSlotInfo(0, null())),
        call!(host.C_GetTokenInfo(0, null())),
        call!(host.C_GetMechanismList(0, null(), null())),
        call!(host.C_GetMechanismInfo(0, 0, null())),
        call!(host.C_WaitForSlotEvent(CKF_DONT_BLOCK, null(), null())),
        call!(host.C_OpenSession(0, CKF_SERIAL_SESSION, null(), None, null())),
        call!(host.C_GetSessionInfo(session, null())),
        call!(host.C_Login(session, CKU_USER, null(), 4)),
        call!(host.C_FindObjectsInit(session, null(), 1)),
        call!(host.C_FindObjectsInit(session, null(), CK_ULONG::MAX)),
        call!(host.C_FindObjects(session, null(), 1, &raw mut count)),
        call!(host.C_FindObjects(session, &mut 0, 1, null())),
        call!(host.C_GetAttributeValue(session, 1, null(), 1)),
        call!(host.C_GetObjectSize(session, 1, null())),
    ];
    assert_eq!(bad, [CKR_ARGUMENTS_BAD; 17]);
    // A criterion that points nowhere.
    let mut criterion = CK_ATTRIBUTE {
        type_: CKA_LABEL,
        pValue: null(),
        ulValueLen: 3,
    };
    assert_eq!(
        call!(host.C_FindObjectsInit(session, &raw mut criterion, 1)),
        CKR_ARGUMENTS_BAD
    );
    // A misaligned array.
    let mut bytes = [0_usize; 4];
    let crooked = bytes.as_mut_ptr().cast::<u8>().wrapping_add(1).cast();
    assert_eq!(
        call!(host.C_GetAttributeValue(session, 1, crooked, 1)),
        CKR_ARGUMENTS_BAD
    );
}

#[test]
fn what_is_not_for_keys_is_write_protected_and_nobody_logs_in() {
    let host = Host::with(Fake::default());
    let mut info = CK_TOKEN_INFO::default();
    assert_eq!(call!(host.C_GetTokenInfo(1, &raw mut info)), CKR_OK);
    assert_eq!(&info.label, b"credentials                     ");
    assert_eq!(
        info.flags,
        CKF_RNG | CKF_TOKEN_INITIALIZED | CKF_WRITE_PROTECTED
    );
    let mut other = CK_TOKEN_INFO::default();
    assert_eq!(call!(host.C_GetTokenInfo(0, &raw mut other)), CKR_OK);
    assert_ne!(info.serialNumber, other.serialNumber);
    assert_eq!(
        call!(host.C_GetTokenInfo(3, &raw mut other)),
        CKR_SLOT_ID_INVALID
    );

    let mut session = 0;
    let mut open = |flags| call!(host.C_OpenSession(1, flags, null(), None, &raw mut session));
    assert_eq!(
        open(CKF_SERIAL_SESSION | CKF_RW_SESSION),
        CKR_TOKEN_WRITE_PROTECTED
    );
    assert_eq!(open(0), CKR_SESSION_PARALLEL_NOT_SUPPORTED);
    assert_eq!(open(CKF_SERIAL_SESSION), CKR_OK);
    let login = |user| call!(host.C_Login(session, user, b"1234".as_ptr().cast_mut(), 4));
    assert_eq!(login(CKU_USER), CKR_USER_PIN_NOT_INITIALIZED);
    assert_eq!(login(CKU_SO), CKR_SESSION_READ_ONLY_EXISTS);
    assert_eq!(login(77), CKR_USER_TYPE_INVALID);
    assert_eq!(call!(host.C_Logout(session)), CKR_USER_NOT_LOGGED_IN);

    let mut count = 9;
    assert_eq!(
        call!(host.C_GetMechanismList(1, null(), &raw mut count)),
        CKR_OK
    );
    assert_eq!(count, 0);
}

#[test]
fn sessions_close_one_by_one_and_by_slot() {
    let host = Host::with(Fake::default());
    let (one, two, three) = (host.session(0), host.session(0), host.session(1));
    let mut info = CK_SESSION_INFO::default();
    assert_eq!(call!(host.C_CloseSession(one)), CKR_OK);
    assert_eq!(call!(host.C_CloseSession(one)), CKR_SESSION_HANDLE_INVALID);
    assert_eq!(call!(host.C_CloseAllSessions(0)), CKR_OK);
    assert_eq!(
        call!(host.C_GetSessionInfo(two, &raw mut info)),
        CKR_SESSION_HANDLE_INVALID
    );
    assert_eq!(call!(host.C_GetSessionInfo(three, &raw mut info)), CKR_OK);
    assert_eq!((info.slotID, info.state), (1, CKS_RO_PUBLIC_SESSION));
}

#[test]
fn objects_are_found_by_what_they_are() {
    let fake = Fake::default();
    let [password, hex_key, passphrase, _] = fake.ids();
    let unsealed = Arc::clone(&fake.unsealed);
    let host = Host::with(fake);
    let (datasets, credentials) = (host.session(0), host.session(1));

    assert_eq!(host.find(datasets, &[]).len(), 2);
    assert_eq!(
        host.find(credentials, &[]).len(),
        1,
        "private keys are not shown"
    );
    let hex_key_id = hex_key.to_string();
    let by_id = host.find(datasets, &[(CKA_UNIQUE_ID, hex_key_id.as_bytes())]);
    assert_eq!(by_id, host.find(datasets, &[(CKA_ID, hex_key.as_bytes())]));
    assert_eq!(by_id.len(), 1, "a handle stays an object's");
    let length = 32_usize.to_ne_bytes();
    assert_eq!(by_id, host.find(datasets, &[(CKA_VALUE_LEN, &length)]));
    let class = CKO_SECRET_KEY.to_ne_bytes();
    let label: (_, &[u8]) = (CKA_LABEL, b"tank/secret");
    assert_eq!(host.find(datasets, &[(CKA_CLASS, &class), label]).len(), 1);
    assert_eq!(host.find(credentials, &[(CKA_CLASS, &class)]).len(), 0);
    assert_eq!(
        host.find(credentials, &[(CKA_APPLICATION, b"strongroom")])
            .len(),
        1
    );
    assert_eq!(
        host.find(datasets, &[(CKA_APPLICATION, b"strongroom")])
            .len(),
        0
    );
    assert_eq!(
        host.find(credentials, &[(CKA_ID, passphrase.as_bytes())])
            .len(),
        0
    );
    assert_eq!(
        host.find(credentials, &[(CKA_ID, password.as_bytes())])
            .len(),
        1
    );
    assert_eq!(unsealed.load(Ordering::Relaxed), 0);

    // A value of the right length alone is worth the TPM.
    assert_eq!(host.find(credentials, &[(CKA_VALUE, b"short")]).len(), 0);
    assert_eq!(unsealed.load(Ordering::Relaxed), 0);
    assert_eq!(host.find(credentials, &[(CKA_VALUE, PASSWORD)]).len(), 1);
    assert_eq!(unsealed.load(Ordering::Relaxed), 1);

    assert_eq!(call!(host.C_FindObjectsInit(datasets, null(), 0)), CKR_OK);
    assert_eq!(
        call!(host.C_FindObjectsInit(datasets, null(), 0)),
        CKR_OPERATION_ACTIVE
    );
    assert_eq!(call!(host.C_FindObjectsFinal(datasets)), CKR_OK);
    assert_eq!(
        call!(host.C_FindObjectsFinal(datasets)),
        CKR_OPERATION_NOT_INITIALIZED
    );
}

#[test]
fn a_damaged_object_is_missed_only_by_who_asks_for_it() {
    let host = Host::with(Fake::default());
    assert_eq!(host.find(host.session(2), &[]).len(), 0);
    let search = |slot, id: &str| {
        let session = host.session(slot);
        let mut wanted = CK_ATTRIBUTE {
            type_: CKA_UNIQUE_ID,
            pValue: id.as_ptr().cast_mut().cast(),
            ulValueLen: id.len() as CK_ULONG,
        };
        call!(host.C_FindObjectsInit(session, &raw mut wanted, 1))
    };
    assert_eq!(search(2, DAMAGED), VAULT_UNUSABLE);
    assert_eq!(search(2, &ObjectId::random().to_string()), CKR_OK);
    assert_eq!(search(0, DAMAGED), CKR_OK);
}

#[test]
fn lengths_never_ask_the_tpm_and_a_value_asks_once() {
    let fake = Fake::default();
    let unsealed = Arc::clone(&fake.unsealed);
    let host = Host::with(fake);
    let session = host.session(1);
    let object = host.find(session, &[])[0];

    let mut template = [
        ask(CKA_LABEL, None),
        ask(CKA_VALUE, None),
        ask(CKA_OBJECT_ID, None),
    ];
    assert_eq!(host.read(session, object, &mut template), CKR_OK);
    assert_eq!(template.map(|item| item.ulValueLen), [6, 24, 0]);

    let mut small = [0; 23];
    let mut template = [ask(CKA_VALUE, Some(&mut small))];
    assert_eq!(
        host.read(session, object, &mut template),
        CKR_BUFFER_TOO_SMALL
    );
    assert_eq!(template[0].ulValueLen, CK_UNAVAILABLE_INFORMATION);
    assert_eq!(unsealed.load(Ordering::Relaxed), 0);

    let (mut first, mut second, mut label) = ([0; 30], [0; 24], [0; 2]);
    let mut template = [
        ask(CKA_VALUE, Some(&mut first)),
        ask(CKA_MODULUS, None),
        ask(CKA_LABEL, Some(&mut label)),
        ask(CKA_VALUE, Some(&mut second)),
        ask(CKA_SENSITIVE, None),
    ];
    // One that there is not, one that does not fit: the others are given all the same.
    assert_eq!(
        host.read(session, object, &mut template),
        CKR_ATTRIBUTE_TYPE_INVALID
    );
    let no = CK_UNAVAILABLE_INFORMATION;
    assert_eq!(template.map(|item| item.ulValueLen), [24, no, no, 24, no]);
    assert_eq!(&first[..24], PASSWORD);
    assert_eq!(second, PASSWORD);
    assert_eq!(unsealed.load(Ordering::Relaxed), 1);

    let mut size = 0;
    assert_eq!(
        call!(host.C_GetObjectSize(session, object, &raw mut size)),
        CKR_OK
    );
    assert_eq!(size, 24);
    let elsewhere = host.session(0);
    assert_eq!(
        call!(host.C_GetObjectSize(elsewhere, object, &raw mut size)),
        CKR_OBJECT_HANDLE_INVALID
    );
}

#[test]
fn a_key_is_listed_and_never_read() {
    let fake = Fake::default();
    let unsealed = Arc::clone(&fake.unsealed);
    let host = Host::with(fake);
    let session = host.session(0);
    let object = host.find(session, &[(CKA_LABEL, b"tank/secret")])[0];
    let (mut value, mut len, mut sensitive) = ([0xff; 32], [0; 8], [9; 1]);
    let mut template = [
        ask(CKA_VALUE, Some(&mut value)),
        ask(CKA_VALUE_LEN, Some(&mut len)),
        ask(CKA_SENSITIVE, Some(&mut sensitive)),
    ];
    assert_eq!(
        host.read(session, object, &mut template),
        CKR_ATTRIBUTE_SENSITIVE
    );
    assert_eq!(template[0].ulValueLen, CK_UNAVAILABLE_INFORMATION);
    assert_eq!(value, [0xff; 32]);
    // 64 hexadecimal digits are a key of 32 bytes.
    assert_eq!((usize::from_ne_bytes(len), sensitive), (32, [CK_TRUE]));

    // Nor is it found out by a search for it, right or wrong.
    let key: Vec<u8> = (0..32).collect();
    assert_eq!(host.find(session, &[(CKA_VALUE, &key)]).len(), 0);
    assert_eq!(unsealed.load(Ordering::Relaxed), 0);
}

#[test]
fn a_value_that_cannot_be_had_has_a_code_and_leaves_the_rest() {
    let mut fake = Fake::default();
    let id = fake.objects[0].0.id;
    fake.broken = Some(id);
    let host = Host::with(fake);
    let session = host.session(1);
    let object = host.find(session, &[])[0];
    let (mut value, mut label) = ([0; 64], [0; 64]);
    let mut template = [
        ask(CKA_VALUE, Some(&mut value)),
        ask(CKA_LABEL, Some(&mut label)),
    ];
    assert_eq!(host.read(session, object, &mut template), VAULT_UNUSABLE);
    assert_eq!(value, [0; 64]);
    assert_eq!(template[0].ulValueLen, CK_UNAVAILABLE_INFORMATION);
    assert_ne!(template[1].ulValueLen, CK_UNAVAILABLE_INFORMATION);
}

#[test]
fn a_child_of_a_fork_starts_anew_even_while_its_parent_is_busy() {
    unsafe extern "C" {
        fn fork() -> i32;
        fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
        fn _exit(code: i32) -> !;
    }
    let fake = Fake::default();
    let let_go = Arc::clone(&fake.let_go);
    let host = Host::with(fake);
    // The lock of the parent's module is held at the fork.
    let status = state::with_module(|_| {
        // SAFETY: the child calls only the module and `_exit`; pointers are to our variables.
        unsafe {
            let child = fork();
            if child == 0 {
                let mut info = CK_INFO::default();
                let right = call!(host.C_GetInfo(&raw mut info)) == CKR_CRYPTOKI_NOT_INITIALIZED
                    && let_go.load(Ordering::Relaxed) == 0
                    && state::initialize(Box::new(|| Ok(Box::new(Fake::default())))).is_ok()
                    && call!(host.C_GetInfo(&raw mut info)) == CKR_OK
                    && call!(host.C_Finalize(null())) == CKR_OK
                    // The parent's is forgotten, not flushed.
                    && let_go.load(Ordering::Relaxed) == 0;
                _exit(i32::from(!right));
            }
            let mut status = -1;
            assert_eq!(waitpid(child, &raw mut status, 0), child);
            Ok(status)
        }
    });
    assert_eq!(status.expect("initialized"), 0);
    assert_eq!(host.find(host.session(0), &[]).len(), 2);
}

/// The test's turn with the process's one module, which ends when the test does.
struct Host {
    functions: CK_FUNCTION_LIST_3_0,
    _turn: MutexGuard<'static, ()>,
}

impl Host {
    /// Without a module, and with an empty folder where a vault would be.
    fn without_module() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: whatever reads or writes the environment here does it through std, which locks.
        unsafe { std::env::set_var("STRONGROOM_DIR", "/nonexistent/strongroom-test") };
        let mut interface = null();
        // SAFETY: a pointer to our own variable; the list lives as long as the program.
        let functions = unsafe {
            let code = C_GetInterface(null(), null(), &raw mut interface, 0);
            assert_eq!(code, CKR_OK);
            (*interface)
                .pFunctionList
                .cast::<CK_FUNCTION_LIST_3_0>()
                .read()
        };
        let host = Self {
            functions,
            _turn: turn,
        };
        let _ = state::finalize();
        host
    }

    fn with(fake: Fake) -> Self {
        let host = Self::without_module();
        let fake = Mutex::new(Some(fake));
        state::initialize(Box::new(move || {
            let fake = fake.lock().expect("no test panics here").take();
            Ok(Box::new(fake.expect("opened once")))
        }))
        .expect("not initialized");
        host
    }

    /// The same where the host is a server.
    fn serving(fake: Fake) -> Self {
        let host = Self::with(fake);
        // SAFETY: as in `without_module`.
        unsafe { std::env::set_var("STRONGROOM_SERVED", "1") };
        assert!(crate::served::look());
        host
    }

    fn session(&self, slot: CK_SLOT_ID) -> CK_SESSION_HANDLE {
        let mut session = 0;
        assert_eq!(
            call!(self.C_OpenSession(slot, CKF_SERIAL_SESSION, null(), None, &raw mut session)),
            CKR_OK
        );
        session
    }

    fn find(
        &self,
        session: CK_SESSION_HANDLE,
        wanted: &[(CK_ATTRIBUTE_TYPE, &[u8])],
    ) -> Vec<CK_OBJECT_HANDLE> {
        let mut template: Vec<CK_ATTRIBUTE> = wanted
            .iter()
            .map(|(kind, bytes)| CK_ATTRIBUTE {
                type_: *kind,
                pValue: bytes.as_ptr().cast_mut().cast(),
                ulValueLen: bytes.len() as CK_ULONG,
            })
            .collect();
        let count = template.len() as CK_ULONG;
        assert_eq!(
            call!(self.C_FindObjectsInit(session, template.as_mut_ptr(), count)),
            CKR_OK
        );
        let mut found = Vec::new();
        loop {
            let (mut object, mut count) = (0, 0);
            assert_eq!(
                call!(self.C_FindObjects(session, &raw mut object, 1, &raw mut count)),
                CKR_OK
            );
            if count == 0 {
                break;
            }
            found.push(object);
        }
        assert_eq!(call!(self.C_FindObjectsFinal(session)), CKR_OK);
        found
    }

    fn read(
        &self,
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        template: &mut [CK_ATTRIBUTE],
    ) -> CK_RV {
        let count = template.len() as CK_ULONG;
        call!(self.C_GetAttributeValue(session, object, template.as_mut_ptr(), count))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: as in `without_module`.
        unsafe { std::env::remove_var("STRONGROOM_SERVED") };
        crate::served::forget();
        let _ = state::finalize();
    }
}

fn ask(kind: CK_ATTRIBUTE_TYPE, room: Option<&mut [u8]>) -> CK_ATTRIBUTE {
    let (start, len) = room.map_or((null(), 0), |room| (room.as_mut_ptr(), room.len()));
    CK_ATTRIBUTE {
        type_: kind,
        pValue: start.cast(),
        ulValueLen: len as CK_ULONG,
    }
}

fn null<T>() -> *mut T {
    ptr::null_mut()
}

/// A vault that is made up: a credential, two dataset keys, a private key of unknown make, and a
/// damaged file.
struct Fake {
    objects: Vec<(Metadata, Vec<u8>)>,
    /// An object that does not unseal.
    broken: Option<ObjectId>,
    unsealed: Arc<AtomicUsize>,
    /// When a private key was last used, if it is still held.
    used: Option<Instant>,
    decrypted: Arc<AtomicUsize>,
    let_go: Arc<AtomicUsize>,
    tokens: Vec<Token>,
    takes_tokens: bool,
    logins: BTreeMap<TokenName, Role>,
    user: PinState,
}

impl Fake {
    fn ids(&self) -> [ObjectId; 4] {
        std::array::from_fn(|index| self.objects[index].0.id)
    }

    fn find(&self, id: ObjectId) -> Result<&(Metadata, Vec<u8>)> {
        let found = self.objects.iter().find(|(object, _)| object.id == id);
        found.ok_or_else(|| Error::NoSuchObject(id.to_string()))
    }

    fn add(&mut self, object: NewObject, payload: &[u8]) -> ObjectId {
        let metadata = Metadata {
            format: OBJECT_FORMAT,
            id: ObjectId::random(),
            token: object.token,
            kind: object.kind,
            label: object.label,
            attributes: object.attributes,
            pool_guid: None,
            dataset_guid: None,
            generation: 1,
        };
        let id = metadata.id;
        self.objects.push((metadata, payload.to_vec()));
        id
    }

    fn add_key(&mut self, mut object: NewObject, key: &PrivateKey, local: bool) -> ObjectId {
        let public = key.public();
        for (name, value) in [
            (PUBLIC_KEY, STANDARD.encode(public.spki())),
            (LOCAL, local.to_string()),
        ] {
            object.attributes.insert(name.to_owned(), value);
        }
        let pkcs8 = key.to_pkcs8();
        self.add(object, pkcs8.expose())
    }

    fn key(&mut self, id: ObjectId) -> Result<PrivateKey> {
        self.used = Some(Instant::now());
        let (_, payload) = self.find(id)?;
        Ok(PrivateKey::from_pkcs8(&Secret::copy_of(payload)).expect("a key"))
    }
}

impl Default for Fake {
    fn default() -> Self {
        let (datasets, credentials) = (TokenName::datasets(), TokenName::credentials());
        let mut fake = Self {
            objects: Vec::new(),
            broken: None,
            unsealed: Arc::default(),
            used: None,
            decrypted: Arc::default(),
            let_go: Arc::default(),
            tokens: [
                (TokenName::datasets(), true),
                (TokenName::credentials(), true),
                (TokenName::keys(), false),
            ]
            .map(|(name, write_protected)| Token {
                name,
                label: None,
                write_protected,
                has_pins: false,
                fence: None,
            })
            .into(),
            takes_tokens: false,
            logins: BTreeMap::new(),
            user: PinState {
                failures: 0,
                limit: 0,
            },
        };
        for (token, kind, label, keyformat, payload) in [
            (&credentials, Kind::Credential, "backup", None, PASSWORD),
            (
                &datasets,
                Kind::DatasetKey,
                "tank/secret",
                Some("hex"),
                HEX_KEY,
            ),
            (
                &datasets,
                Kind::DatasetKey,
                "tank/phrase",
                Some("passphrase"),
                b"open, now!",
            ),
            (&credentials, Kind::PrivateKey, "host", None, b""),
        ] {
            let label = label.parse().expect("a label");
            let mut object = NewObject::new(token.clone(), label, kind);
            if let Some(keyformat) = keyformat {
                object = object.with_attribute(KEYFORMAT, keyformat);
            }
            fake.add(object, payload);
        }
        fake
    }
}

impl Source for Fake {
    fn id(&self) -> String {
        "7f2c".to_owned()
    }

    fn tokens(&mut self) -> Result<Vec<Token>> {
        Ok(self.tokens.clone())
    }

    fn takes_tokens(&self) -> bool {
        self.takes_tokens
    }

    fn add_token(&mut self, token: &NewToken) -> Result<()> {
        self.tokens.push(Token {
            name: token.name.clone(),
            label: token.label.clone(),
            write_protected: false,
            has_pins: token.officer.is_some(),
            fence: token.fence,
        });
        Ok(())
    }

    fn begin_token_anew(
        &mut self,
        token: &TokenName,
        label: Option<&TokenLabel>,
        _: &Pin,
    ) -> Result<()> {
        let found = self.tokens.iter_mut().find(|it| it.name == *token);
        let found = found.expect("it is there");
        found.label = label.cloned();
        found.has_pins = true;
        Ok(())
    }

    fn user_pin(&mut self, token: &TokenName) -> Result<Option<PinState>> {
        let found = self.tokens.iter().find(|it| it.name == *token);
        Ok(found.filter(|it| it.has_pins).map(|_| self.user))
    }

    fn officer_pin(&self, _: &TokenName) -> Option<PinState> {
        None
    }

    fn login(&self, token: &TokenName) -> Option<Role> {
        self.logins.get(token).copied()
    }

    /// Every PIN is right; what the TPM says of wrong ones is tested over one.
    fn log_in(&mut self, token: &TokenName, role: Role, _: Pin) -> Result<()> {
        self.logins.insert(token.clone(), role);
        Ok(())
    }

    fn log_out(&mut self, token: &TokenName) {
        self.logins.remove(token);
    }

    fn check_pin(&mut self, _: &TokenName, _: &Pin) -> Result<()> {
        Ok(())
    }

    fn change_pin(&mut self, _: &TokenName, _: Role, _: &Pin, _: Pin) -> Result<()> {
        Ok(())
    }

    fn set_pin(&mut self, _: &TokenName, _: &Pin) -> Result<()> {
        self.user.limit = 10;
        Ok(())
    }

    fn list(&self) -> Result<Listing> {
        Ok(Listing {
            objects: self
                .objects
                .iter()
                .map(|(object, _)| object.clone())
                .collect(),
            damaged: vec![Damaged {
                file: PathBuf::from(format!("objects/keys/{DAMAGED}.json")),
                reason: "as this test wants".to_owned(),
            }],
            unreadable: Vec::new(),
        })
    }

    fn payload_len(&self, id: ObjectId) -> Result<Option<usize>> {
        Ok(self.find(id).ok().map(|(_, payload)| payload.len()))
    }

    fn unseal(&mut self, listed: &Metadata) -> Result<Secret> {
        let id = listed.id;
        self.unsealed.fetch_add(1, Ordering::Relaxed);
        if self.broken == Some(id) {
            return Err(Error::ObjectDamaged {
                file: PathBuf::from("x"),
                reason: "as this test wants".to_owned(),
            });
        }
        self.find(id).map(|(_, payload)| Secret::copy_of(payload))
    }

    fn seal(&mut self, object: NewObject, payload: &Secret) -> Result<ObjectId> {
        Ok(self.add(object, payload.expose()))
    }

    fn store(&mut self, object: NewObject) -> Result<ObjectId> {
        Ok(self.add(object, b""))
    }

    fn generate_key(&mut self, object: NewObject, algorithm: KeyAlgorithm) -> Result<ObjectId> {
        // An RSA key takes long to find without optimisation.
        let key = match algorithm {
            KeyAlgorithm::Rsa(_) => PrivateKey::from_pkcs8(&Secret::copy_of(keys::RSA)),
            _ => PrivateKey::generate(algorithm),
        };
        Ok(self.add_key(object, &key.expect("a key"), true))
    }

    fn import_key(&mut self, object: NewObject, pkcs8: &Secret) -> Result<ObjectId> {
        let key = PrivateKey::from_pkcs8(pkcs8)?;
        Ok(self.add_key(object, &key, false))
    }

    fn update(&mut self, listed: &Metadata, change: &dyn Fn(&mut NewObject)) -> Result<()> {
        let id = listed.id;
        let index = self.objects.iter().position(|(object, _)| object.id == id);
        let (metadata, _) = &mut self.objects[index.expect("it is there")];
        let mut object = NewObject::new(
            metadata.token.clone(),
            metadata.label.clone(),
            metadata.kind,
        );
        object.attributes = metadata.attributes.clone();
        change(&mut object);
        metadata.label = object.label;
        metadata.attributes = object.attributes;
        Ok(())
    }

    fn remove(&mut self, listed: &Metadata) -> Result<()> {
        let id = listed.id;
        self.find(id)?;
        self.objects.retain(|(object, _)| object.id != id);
        Ok(())
    }

    fn sign(&mut self, listed: &Metadata, scheme: &SignScheme, input: &[u8]) -> Result<Vec<u8>> {
        let id = listed.id;
        let key = self.key(id)?;
        key.sign(scheme, input)
            .map_err(|_| Error::input("data", "as this test wants"))
    }

    fn decrypt(
        &mut self,
        listed: &Metadata,
        scheme: &DecryptScheme,
        ciphertext: &[u8],
    ) -> Result<Secret> {
        let id = listed.id;
        self.decrypted.fetch_add(1, Ordering::Relaxed);
        let key = self.key(id)?;
        key.decrypt(scheme, ciphertext)
            .map_err(|_| Error::input("ciphertext", "as this test wants"))
    }

    fn derive(&mut self, listed: &Metadata, point: &[u8]) -> Result<Secret> {
        let id = listed.id;
        let key = self.key(id)?;
        key.derive(point)
            .map_err(|_| Error::input("point", "as this test wants"))
    }

    fn tpm_random(&mut self) -> Result<Secret> {
        Ok(Secret::random(32))
    }

    fn holds_since(&self) -> Option<Instant> {
        self.used
    }

    fn let_go(&mut self) {
        if self.used.take().is_some() {
            self.let_go.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.let_go();
    }
}
