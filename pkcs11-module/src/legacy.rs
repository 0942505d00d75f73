//! What is there for clients and suites that have old keys: triple DES, DSA, Diffie-Hellman over finite
//! fields, and the CBC-MAC of AES. Whoever begins anew takes AES, ECDSA or EdDSA, ECDH, and CMAC.
//!
//! Such keys live in a session only, in memory, and no key of the vault is used with these mechanisms, so
//! that nothing weak ever lies in a vault. [`field`] says what keys over finite fields are, and [`creation`]
//! makes objects of them; [`dsa`], [`dh`] and [`des`] compute.

pub(crate) mod creation;
pub(crate) mod des;
pub(crate) mod dh;
pub(crate) mod dsa;
pub(crate) mod field;

use cryptoki_sys::{
    CK_KEY_TYPE, CKA_TOKEN, CKK_DES2, CKK_DES3, CKK_DH, CKK_DSA, CKR_TEMPLATE_INCONSISTENT,
};

use crate::fault::{Answer, Fault};
use crate::template::Template;

/// Whether keys of a type live in a session only.
pub(crate) fn is_legacy(key_type: CK_KEY_TYPE) -> bool {
    matches!(key_type, CKK_DES2 | CKK_DES3 | CKK_DSA | CKK_DH)
}

/// Refuses a template that would put a key of such a type, or its parameters, into the vault.
pub(crate) fn check_stays_in_session(template: &Template, key_type: CK_KEY_TYPE) -> Answer {
    if is_legacy(key_type) && template.flag(CKA_TOKEN)? == Some(true) {
        return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT));
    }
    Ok(())
}
