//! X.509 certificates: what PKCS#11 says of one (PKCS#11 3.1, section 4.6.3).

use x509_cert::der::{Decode, Encode};

/// A certificate and the parts of it that are attributes, in DER.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) der: Vec<u8>,
    pub(crate) subject: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) serial_number: Vec<u8>,
    pub(crate) public_key_info: Vec<u8>,
}

impl Certificate {
    /// Nothing for what is no certificate.
    pub(crate) fn parse(der: &[u8]) -> Option<Self> {
        let certificate = x509_cert::Certificate::from_der(der).ok()?.tbs_certificate;
        Some(Self {
            der: der.to_vec(),
            subject: certificate.subject.to_der().ok()?,
            issuer: certificate.issuer.to_der().ok()?,
            serial_number: certificate.serial_number.to_der().ok()?,
            public_key_info: certificate.subject_public_key_info.to_der().ok()?,
        })
    }
}
