//! `libstrongroom_pkcs11.so`: the objects of a vault as PKCS#11 tokens, to be read by whatever
//! speaks PKCS#11.
//!
//! Each token of the vault is a slot with a token of the same name; nobody logs in, because the
//! TPM's policy decides who may read, and nothing can be written. Where the vault lies is read
//! from `STRONGROOM_DIR`, the TPM from `STRONGROOM_TCTI`, the log level from `STRONGROOM_LOG`
//! (default `error`), all when the module starts; a vault that could not be opened then is looked
//! for again when the host asks for the slots.
//!
//! The files follow the chapters of the PKCS#11 specification, version 3.1: [`interface`] and
//! `general` (5.4), `slots` (5.5), `sessions` (5.6), `objects` (5.7), `unsupported` (the rest).
//! `attributes` says what PKCS#11 object a vault's object is (chapter 4). `fault` is the one
//! place where an error or a panic becomes a `CK_RV`, and `foreign` the one where the caller's
//! memory is touched.
#![allow(
    unsafe_code,
    reason = "PKCS#11 is a C interface: its functions take the caller's pointers"
)]

mod attributes;
mod fault;
mod foreign;
mod general;
pub mod interface;
mod objects;
mod sessions;
mod slots;
mod source;
mod state;
#[cfg(test)]
mod tests;
mod unsupported;

/// Wipes every block that the module's own code frees; the host's allocator is not touched.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);
