//! Random numbers (PKCS#11 3.1, section 5.21): the kernel's, which costs the TPM nothing.

use cryptoki_sys::{CK_RV, CK_SESSION_HANDLE, CK_ULONG, CKR_RANDOM_SEED_NOT_SUPPORTED};
use strongroom::Secret;

use crate::fault::{Fault, answer};
use crate::foreign::Foreign;
use crate::state::with_module;

/// C_SeedRandom, section 5.21.1: the kernel needs no help.
pub(crate) unsafe extern "C" fn seed_random(
    session: CK_SESSION_HANDLE,
    seed: *mut u8,
    seed_len: CK_ULONG,
) -> CK_RV {
    answer("C_SeedRandom", || {
        // SAFETY: the caller's seed, which is not read.
        let _ = unsafe { Foreign::many(seed, seed_len) }?;
        with_module(|module| {
            module.session(session)?;
            Err(Fault::Code(CKR_RANDOM_SEED_NOT_SUPPORTED))
        })
    })
}

/// C_GenerateRandom, section 5.21.2.
pub(crate) unsafe extern "C" fn generate_random(
    session: CK_SESSION_HANDLE,
    random: *mut u8,
    random_len: CK_ULONG,
) -> CK_RV {
    answer("C_GenerateRandom", || {
        // SAFETY: the caller's memory.
        let random = unsafe { Foreign::many(random, random_len) }?;
        with_module(|module| {
            module.session(session)?;
            Ok(())
        })?;
        random.fill_by_pieces(Secret::random);
        Ok(())
    })
}
