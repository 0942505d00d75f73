//! Public keys in templates: how PKCS#11 writes them (PKCS#11 3.1, sections 6.1.2, 6.3.3, 6.3.5 and
//! 6.3.7). What is done with them is the library's.

use cryptoki_sys::{
    CK_KEY_TYPE, CKA_EC_PARAMS, CKA_EC_POINT, CKA_KEY_TYPE, CKA_MODULUS, CKA_PUBLIC_EXPONENT,
    CKK_EC, CKK_EC_EDWARDS, CKK_EC_MONTGOMERY, CKK_RSA, CKR_CURVE_NOT_SUPPORTED,
    CKR_TEMPLATE_INCOMPLETE, CKR_TEMPLATE_INCONSISTENT,
};
use strongroom::key::{Curve, KeyAlgorithm, PublicKey};

use crate::fault::{Answer, Fault};
use crate::template::{Template, invalid};

/// How a group is named in CKA_EC_PARAMS: by its OID in DER, or, those of
/// Edwards and Montgomery, also by a PrintableString.
struct Group {
    algorithm: KeyAlgorithm,
    key_type: CK_KEY_TYPE,
    oid: &'static [u8],
    name: &'static [u8],
}

static GROUPS: [Group; 6] = [
    Group {
        algorithm: KeyAlgorithm::Ec(Curve::P256),
        key_type: CKK_EC,
        oid: b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
        name: b"",
    },
    Group {
        algorithm: KeyAlgorithm::Ec(Curve::P384),
        key_type: CKK_EC,
        oid: b"\x06\x05\x2b\x81\x04\x00\x22",
        name: b"",
    },
    Group {
        algorithm: KeyAlgorithm::Ec(Curve::P521),
        key_type: CKK_EC,
        oid: b"\x06\x05\x2b\x81\x04\x00\x23",
        name: b"",
    },
    Group {
        algorithm: KeyAlgorithm::Ed25519,
        key_type: CKK_EC_EDWARDS,
        oid: b"\x06\x03\x2b\x65\x70",
        name: b"\x13\x0cedwards25519",
    },
    Group {
        algorithm: KeyAlgorithm::Ed448,
        key_type: CKK_EC_EDWARDS,
        oid: b"\x06\x03\x2b\x65\x71",
        name: b"\x13\x0aedwards448",
    },
    Group {
        algorithm: KeyAlgorithm::X25519,
        key_type: CKK_EC_MONTGOMERY,
        oid: b"\x06\x03\x2b\x65\x6e",
        name: b"\x13\x0acurve25519",
    },
];

/// The type of the keys of an algorithm.
pub(crate) fn key_type_of(algorithm: KeyAlgorithm) -> CK_KEY_TYPE {
    group(algorithm).map_or(CKK_RSA, |group| group.key_type)
}

/// CKA_EC_PARAMS of an algorithm: its OID.
pub(crate) fn ec_parameters(algorithm: KeyAlgorithm) -> Option<&'static [u8]> {
    group(algorithm).map(|group| group.oid)
}

fn group(algorithm: KeyAlgorithm) -> Option<&'static Group> {
    GROUPS.iter().find(|group| group.algorithm == algorithm)
}

/// The algorithm of a template for keys of a type other than RSA.
pub(crate) fn algorithm_of(template: &Template, key_type: CK_KEY_TYPE) -> Answer<KeyAlgorithm> {
    let wanted = template
        .bytes(CKA_EC_PARAMS)
        .ok_or(Fault::Code(CKR_TEMPLATE_INCOMPLETE))?;
    GROUPS
        .iter()
        .find(|group| group.key_type == key_type && [group.oid, group.name].contains(&wanted))
        .filter(|_| !wanted.is_empty())
        .map(|group| group.algorithm)
        .ok_or(Fault::Code(CKR_CURVE_NOT_SUPPORTED))
}

/// Bytes as a DER OCTET STRING, which CKA_EC_POINT is.
pub(crate) fn octet_string(bytes: &[u8]) -> Vec<u8> {
    let len = u8::try_from(bytes.len()).expect("a point has at most 133 bytes");
    let head: &[u8] = if len < 0x80 {
        &[0x04, len]
    } else {
        &[0x04, 0x81, len]
    };
    [head, bytes].concat()
}

/// A point, which callers write as it is or as a DER OCTET STRING. Uncompressed, the second byte
/// of a point that is written as it is can be any: the length decides.
pub(crate) fn read_point(algorithm: KeyAlgorithm, bytes: &[u8]) -> Answer<&[u8]> {
    let len = algorithm.point_len().ok_or_else(invalid)?;
    if bytes.len() == len {
        return Ok(bytes);
    }
    let start = bytes.len().saturating_sub(len);
    if bytes.len() <= 136 && octet_string(&bytes[start..]) == bytes {
        Ok(&bytes[start..])
    } else {
        Err(invalid())
    }
}

/// The public key that a template describes.
pub(crate) fn public_key_of(template: &Template) -> Answer<PublicKey> {
    let bytes = |kind| {
        template
            .bytes(kind)
            .ok_or(Fault::Code(CKR_TEMPLATE_INCOMPLETE))
    };
    match template.required_number(CKA_KEY_TYPE)? {
        CKK_RSA => PublicKey::from_rsa_parts(bytes(CKA_MODULUS)?, bytes(CKA_PUBLIC_EXPONENT)?),
        key_type @ (CKK_EC | CKK_EC_EDWARDS | CKK_EC_MONTGOMERY) => {
            let algorithm = algorithm_of(template, key_type)?;
            PublicKey::from_point(algorithm, read_point(algorithm, bytes(CKA_EC_POINT)?)?)
        }
        _ => return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT)),
    }
    .map_err(|_| invalid())
}
