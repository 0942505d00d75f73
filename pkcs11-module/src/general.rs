//! General-purpose functions (PKCS#11 3.1, section 5.4). The function lists are in
//! [`crate::interface`].

use std::ffi::c_void;

use cryptoki_sys::{
    CK_C_INITIALIZE_ARGS, CK_INFO, CK_RV, CK_SESSION_HANDLE, CK_VERSION, CKF_OS_LOCKING_OK,
    CKR_ARGUMENTS_BAD, CKR_CANT_LOCK, CKR_FUNCTION_NOT_PARALLEL,
};

use crate::fault::{Answer, Fault, answer};
use crate::foreign::Foreign;
use crate::served;
use crate::source::{VaultSource, tcti};
use crate::state;

/// Who made library, slots and tokens.
pub(crate) const MANUFACTURER: &str = "Strongroom";

/// C_Initialize, section 5.4.1. A vault that cannot be opened is no failure: there are no slots
/// then, and the log says why; `C_GetSlotList` tries again.
pub(crate) unsafe extern "C" fn initialize(arguments: *mut c_void) -> CK_RV {
    answer("C_Initialize", || {
        strongroom::logging::start("strongroom", log::LevelFilter::Error);
        served::look();
        if !arguments.is_null() {
            // SAFETY: what is not null is a CK_C_INITIALIZE_ARGS of the caller's.
            let arguments = unsafe { Foreign::one(arguments.cast::<CK_C_INITIALIZE_ARGS>()) }?;
            check(&arguments.get(0))?;
        }
        state::initialize(Box::new(|| {
            let source = VaultSource::open(strongroom::vault_dir(None), tcti()?)?;
            Ok(Box::new(source))
        }))
    })
}

/// C_Finalize, section 5.4.2.
pub(crate) unsafe extern "C" fn finalize(reserved: *mut c_void) -> CK_RV {
    answer("C_Finalize", || {
        if !reserved.is_null() {
            return Err(Fault::Code(CKR_ARGUMENTS_BAD));
        }
        state::finalize()
    })
}

/// C_GetInfo, section 5.4.3: of the version that the list is of in which the host has found it, as NSS's
/// softoken has it. Hosts look here for what they may call.
pub(crate) unsafe extern "C" fn get_info<const MAJOR: u8, const MINOR: u8>(
    info: *mut CK_INFO,
) -> CK_RV {
    answer("C_GetInfo", || {
        // SAFETY: the caller's CK_INFO.
        let info = unsafe { Foreign::one(info) }?;
        state::with_module(|_| {
            info.set(
                0,
                CK_INFO {
                    cryptokiVersion: CK_VERSION {
                        major: MAJOR,
                        minor: MINOR,
                    },
                    manufacturerID: padded(MANUFACTURER),
                    flags: 0,
                    libraryDescription: padded("Strongroom PKCS#11 module"),
                    libraryVersion: library_version(),
                },
            );
            Ok(())
        })
    })
}

/// C_GetFunctionStatus and C_CancelFunction, sections 5.20.1 and 5.20.2: legacy functions whose
/// one answer the specification fixes.
pub(crate) unsafe extern "C" fn not_parallel(_session: CK_SESSION_HANDLE) -> CK_RV {
    CKR_FUNCTION_NOT_PARALLEL
}

/// This library's version, as far as PKCS#11 has room for it.
pub(crate) fn library_version() -> CK_VERSION {
    let part = |text: &str| text.parse().unwrap_or(u8::MAX);
    CK_VERSION {
        major: part(env!("CARGO_PKG_VERSION_MAJOR")),
        minor: part(env!("CARGO_PKG_VERSION_MINOR")),
    }
}

/// A text field: cut to what fits, filled with blanks, without a terminating zero.
pub(crate) fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut end = text.len().min(N);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut field = [b' '; N];
    field[..end].copy_from_slice(&text.as_bytes()[..end]);
    field
}

/// The four cases of threading in section 5.4.1. We lock with the operating system's mutexes in
/// every one, so all but "with my functions only" will do.
fn check(arguments: &CK_C_INITIALIZE_ARGS) -> Answer {
    let functions = [
        arguments.CreateMutex.is_some(),
        arguments.DestroyMutex.is_some(),
        arguments.LockMutex.is_some(),
        arguments.UnlockMutex.is_some(),
    ];
    let all = functions.iter().all(|given| *given);
    let any = functions.iter().any(|given| *given);
    if !arguments.pReserved.is_null() || any != all {
        return Err(Fault::Code(CKR_ARGUMENTS_BAD));
    }
    if all && arguments.flags & CKF_OS_LOCKING_OK == 0 {
        return Err(Fault::Code(CKR_CANT_LOCK));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_fields_are_padded_and_cut_between_characters() {
        assert_eq!(&padded::<6>("abc"), b"abc   ");
        assert_eq!(&padded::<3>("abcdef"), b"abc");
        assert_eq!(&padded::<4>("abcü"), b"abc ");
    }
}
