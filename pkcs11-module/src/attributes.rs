//! Which PKCS#11 object an object of the vault is (PKCS#11 3.1, chapter 4).
//!
//! A credential is a data object (section 4.5), a dataset key or secret key a generic secret key
//! (sections 4.4, 4.7 and 4.10). Private keys and certificates are not shown yet.
//!
//! Keys are sensitive and not extractable: a client that lists what there is, as `pkcs11-tool -O`
//! does, prints every value that it can read. ZFS gets its keys from `zfs-keyprovider`.
//!
//! Two attributes go beyond those sections. `CKA_UNIQUE_ID`, of version 3.0, is answered through
//! the interface of version 2.40 too. `CKA_ID`, the id's 16 bytes, is answered for data objects
//! as well: labels need not be unique, and it is what the `id` of a PKCS#11 URI (RFC 7512) and
//! `pkcs11-tool --id` look for.

use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_BBOOL, CK_FALSE, CK_OBJECT_CLASS, CK_TRUE, CK_ULONG,
    CK_UNAVAILABLE_INFORMATION, CKA_ALLOWED_MECHANISMS, CKA_ALWAYS_SENSITIVE, CKA_APPLICATION,
    CKA_CLASS, CKA_COPYABLE, CKA_DECRYPT, CKA_DERIVE, CKA_DESTROYABLE, CKA_ENCRYPT, CKA_END_DATE,
    CKA_EXTRACTABLE, CKA_ID, CKA_KEY_GEN_MECHANISM, CKA_KEY_TYPE, CKA_LABEL, CKA_LOCAL,
    CKA_MODIFIABLE, CKA_NEVER_EXTRACTABLE, CKA_OBJECT_ID, CKA_PRIVATE, CKA_SENSITIVE, CKA_SIGN,
    CKA_START_DATE, CKA_TOKEN, CKA_TRUSTED, CKA_UNIQUE_ID, CKA_UNWRAP, CKA_VALUE, CKA_VALUE_LEN,
    CKA_VERIFY, CKA_WRAP, CKA_WRAP_WITH_TRUSTED, CKK_GENERIC_SECRET, CKO_DATA, CKO_SECRET_KEY,
};
use strongroom::object::{KEYFORMAT, Kind, Metadata};

/// What CKA_APPLICATION of every data object says.
const APPLICATION: &str = "strongroom";

/// The length of a key that ZFS writes as hexadecimal digits.
const HEX_KEY_LEN: usize = 32;

/// An attribute that an object has.
pub(crate) enum Attribute {
    /// Known from the object's metadata.
    Known(Vec<u8>),
    /// CKA_VALUE, whose length is known and whose content the TPM has.
    Value,
    /// CKA_VALUE of a key, which never leaves the token as plaintext.
    Sensitive,
    /// CKA_VALUE_LEN, a `CK_ULONG`.
    ValueLen,
}

/// The class of an object; none for what is not shown.
pub(crate) fn class(object: &Metadata) -> Option<CK_OBJECT_CLASS> {
    match object.kind {
        Kind::Credential => Some(CKO_DATA),
        Kind::DatasetKey | Kind::SecretKey => Some(CKO_SECRET_KEY),
        Kind::PrivateKey | Kind::Certificate => None,
    }
}

/// An attribute of an object; none if it has no such attribute.
pub(crate) fn attribute(object: &Metadata, kind: CK_ATTRIBUTE_TYPE) -> Option<Attribute> {
    let class = class(object)?;
    let of_any = match kind {
        CKA_CLASS => number(class),
        CKA_TOKEN => flag(true),
        // The policy guards what there is, not a login.
        CKA_PRIVATE | CKA_MODIFIABLE | CKA_COPYABLE | CKA_DESTROYABLE => flag(false),
        CKA_LABEL => text(object.label.as_str()),
        CKA_ID => Attribute::Known(object.id.as_bytes().to_vec()),
        CKA_UNIQUE_ID => text(&object.id.to_string()),
        CKA_VALUE if class == CKO_DATA => Attribute::Value,
        CKA_VALUE => Attribute::Sensitive,
        _ if class == CKO_DATA => return of_data(kind),
        _ => return of_secret_key(kind),
    };
    Some(of_any)
}

/// The length of an object's value, given its payload's: a key may be written as digits.
pub(crate) fn value_len(object: &Metadata, payload_len: usize) -> usize {
    if is_hex_key(object) && payload_len == 2 * HEX_KEY_LEN {
        HEX_KEY_LEN
    } else {
        payload_len
    }
}

fn of_data(kind: CK_ATTRIBUTE_TYPE) -> Option<Attribute> {
    Some(match kind {
        CKA_APPLICATION => text(APPLICATION),
        CKA_OBJECT_ID => Attribute::Known(Vec::new()),
        _ => return None,
    })
}

fn of_secret_key(kind: CK_ATTRIBUTE_TYPE) -> Option<Attribute> {
    Some(match kind {
        CKA_KEY_TYPE => number(CKK_GENERIC_SECRET),
        CKA_VALUE_LEN => Attribute::ValueLen,
        CKA_SENSITIVE => flag(true),
        CKA_EXTRACTABLE
        // They came from outside, in clear.
        | CKA_ALWAYS_SENSITIVE
        | CKA_NEVER_EXTRACTABLE
        | CKA_LOCAL
        | CKA_TRUSTED
        | CKA_WRAP_WITH_TRUSTED
        // What the token itself would do with the key: there are no mechanisms yet.
        | CKA_ENCRYPT
        | CKA_DECRYPT
        | CKA_SIGN
        | CKA_VERIFY
        | CKA_WRAP
        | CKA_UNWRAP
        | CKA_DERIVE => flag(false),
        CKA_KEY_GEN_MECHANISM => number(CK_UNAVAILABLE_INFORMATION),
        CKA_START_DATE | CKA_END_DATE | CKA_ALLOWED_MECHANISMS => Attribute::Known(Vec::new()),
        _ => return None,
    })
}

fn is_hex_key(object: &Metadata) -> bool {
    object.kind == Kind::DatasetKey
        && object
            .attributes
            .get(KEYFORMAT)
            .is_some_and(|format| format == "hex")
}

fn text(text: &str) -> Attribute {
    Attribute::Known(text.as_bytes().to_vec())
}

fn flag(value: bool) -> Attribute {
    let value: CK_BBOOL = if value { CK_TRUE } else { CK_FALSE };
    Attribute::Known(vec![value])
}

fn number(value: CK_ULONG) -> Attribute {
    Attribute::Known(value.to_ne_bytes().to_vec())
}
