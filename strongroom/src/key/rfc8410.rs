//! How keys on Curve25519 and Curve448 are written (RFC 8410): SubjectPublicKeyInfo and PKCS#8, whose every
//! byte before the key itself is fixed.

use der::asn1::ObjectIdentifier;

use super::KeyAlgorithm;
use crate::secret::Secret;

/// The encodings of an algorithm's keys.
pub(super) struct Encoding {
    pub(super) algorithm: KeyAlgorithm,
    oid: ObjectIdentifier,
    /// What stands before the point in a SubjectPublicKeyInfo.
    spki_prefix: &'static [u8],
    /// What stands before the seed in a PKCS#8.
    pkcs8_prefix: &'static [u8],
}

pub(super) static ED25519: Encoding = Encoding {
    algorithm: KeyAlgorithm::Ed25519,
    oid: ObjectIdentifier::new_unwrap("1.3.101.112"),
    spki_prefix: b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00",
    pkcs8_prefix: b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20",
};

pub(super) static ED448: Encoding = Encoding {
    algorithm: KeyAlgorithm::Ed448,
    oid: ObjectIdentifier::new_unwrap("1.3.101.113"),
    spki_prefix: b"\x30\x43\x30\x05\x06\x03\x2b\x65\x71\x03\x3a\x00",
    pkcs8_prefix: b"\x30\x47\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x71\x04\x3b\x04\x39",
};

pub(super) static X25519: Encoding = Encoding {
    algorithm: KeyAlgorithm::X25519,
    oid: ObjectIdentifier::new_unwrap("1.3.101.110"),
    spki_prefix: b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x6e\x03\x21\x00",
    pkcs8_prefix: b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x6e\x04\x22\x04\x20",
};

impl Encoding {
    /// The encoding that an AlgorithmIdentifier names.
    pub(super) fn of(oid: ObjectIdentifier) -> Option<&'static Self> {
        [&ED25519, &ED448, &X25519]
            .into_iter()
            .find(|it| it.oid == oid)
    }

    /// A point as SubjectPublicKeyInfo.
    pub(super) fn spki(&self, point: &[u8]) -> Vec<u8> {
        [self.spki_prefix, point].concat()
    }

    /// A seed as PKCS#8.
    pub(super) fn pkcs8(&self, seed: &[u8]) -> Secret {
        Secret::concat(&[self.pkcs8_prefix, seed])
    }

    /// The seed in a PKCS#8's private key: CurvePrivateKey, an OCTET STRING in the OCTET STRING (section 7).
    pub(super) fn seed<'a>(&self, private_key: &'a [u8]) -> Option<&'a [u8]> {
        let header = &self.pkcs8_prefix[self.pkcs8_prefix.len() - 2..];
        private_key.strip_prefix(header)
    }
}
