//! `libstrongroom_pkcs11.so`: the objects of a vault as PKCS#11 tokens, to be read and used by
//! whatever speaks PKCS#11.
//!
//! Each token of the vault is a slot with a token of the same name. The tokens `datasets` and
//! `credentials` are there to be read; the others hold keys, which sign and decrypt where they
//! live, and can be written. The TPM's policy decides who may read and use what there is, and in a
//! token with PINs one logs in besides. Where the vault lies is read from `STRONGROOM_DIR`, the TPM from
//! `STRONGROOM_TCTI`, the log level from `STRONGROOM_LOG` (default `error`), all when the module
//! starts; a vault that could not be opened then is looked for again when the host asks for the
//! slots.
//!
//! The files follow the chapters of the PKCS#11 specification, version 3.1: [`interface`] and `general`
//! (5.4), `slots` and `tokens` (5.5), `pins` (5.5 and 5.6), `sessions` (5.6), `creation`, `changing` and
//! `objects` (5.7), `encryption` (5.8 and 5.10), `digesting` (5.12), `signing` (5.13 and 5.15; all of
//! these begin in `beginning`), `keys` and `derivation` (5.18), `messages` (5.9, 5.11, 5.14 and 5.16),
//! `dual` (5.17), `random` (5.21).
//!
//! Keys are made in `secret_keys` and `key_pairs`, and go where `placement` says. What functions compute is
//! in `symmetric`, `macs` and `kbkdf`, or the library's; keys of yesterday, for a session alone, are in
//! `legacy`. `mechanisms` is the table of what there is, and `parameters` what a caller says with one (chapter
//! 6); `attributes` says what PKCS#11 object a vault's object is (chapter 4), `template` what a caller says of
//! one. `state` is what is remembered between calls. `fault` is the one place where an error or a panic becomes
//! a `CK_RV`, and `foreign` the one where the caller's memory is touched; `served` says where the caller is a
//! server, and its memory its clients' numbers. `source` says how long a key stays in the TPM, and `idle` ends
//! that.
#![allow(
    unsafe_code,
    reason = "PKCS#11 is a C interface: its functions take the caller's pointers"
)]

mod attributes;
mod beginning;
mod blocks;
mod certificate;
mod changing;
mod class;
mod creation;
mod derivation;
mod digesting;
mod dual;
mod encryption;
mod fault;
mod foreign;
mod general;
mod idle;
pub mod interface;
mod kbkdf;
mod key_pairs;
mod keys;
mod legacy;
mod macs;
mod mechanisms;
mod messages;
mod objects;
mod parameters;
mod pins;
mod placement;
mod private_key;
mod public_key;
mod random;
mod secret_keys;
mod served;
mod sessions;
mod signing;
mod slots;
mod source;
mod state;
mod symmetric;
mod template;
#[cfg(test)]
mod tests;
mod tokens;

/// Wipes every block that the module's own code frees; the host's allocator is not touched.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);
