//! The classes of objects that there are (PKCS#11 3.1, chapter 4).

use cryptoki_sys::{
    CK_OBJECT_CLASS, CKO_CERTIFICATE, CKO_DATA, CKO_DOMAIN_PARAMETERS, CKO_MECHANISM,
    CKO_PRIVATE_KEY, CKO_PROFILE, CKO_PUBLIC_KEY, CKO_SECRET_KEY,
};

/// The classes of objects that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Data = 1,
    Certificate = 2,
    PublicKey = 4,
    PrivateKey = 8,
    SecretKey = 16,
    Mechanism = 32,
    Profile = 64,
    DomainParameters = 128,
}

impl Class {
    /// Whether its objects are what a token says of itself, which nobody makes or changes.
    pub(crate) fn is_standing(self) -> bool {
        matches!(self, Self::Mechanism | Self::Profile)
    }

    /// The class of PKCS#11's number, if it is one of those that there are.
    pub(crate) fn of(number: CK_OBJECT_CLASS) -> Option<Self> {
        Some(match number {
            CKO_DATA => Self::Data,
            CKO_CERTIFICATE => Self::Certificate,
            CKO_PUBLIC_KEY => Self::PublicKey,
            CKO_PRIVATE_KEY => Self::PrivateKey,
            CKO_SECRET_KEY => Self::SecretKey,
            CKO_MECHANISM => Self::Mechanism,
            CKO_PROFILE => Self::Profile,
            CKO_DOMAIN_PARAMETERS => Self::DomainParameters,
            _ => return None,
        })
    }

    /// The same of a number as a template has it.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        Self::of(CK_OBJECT_CLASS::from_ne_bytes(bytes.try_into().ok()?))
    }

    /// PKCS#11's number of it.
    pub(crate) fn number(self) -> CK_OBJECT_CLASS {
        match self {
            Self::Data => CKO_DATA,
            Self::Certificate => CKO_CERTIFICATE,
            Self::PublicKey => CKO_PUBLIC_KEY,
            Self::PrivateKey => CKO_PRIVATE_KEY,
            Self::SecretKey => CKO_SECRET_KEY,
            Self::Mechanism => CKO_MECHANISM,
            Self::Profile => CKO_PROFILE,
            Self::DomainParameters => CKO_DOMAIN_PARAMETERS,
        }
    }
}
