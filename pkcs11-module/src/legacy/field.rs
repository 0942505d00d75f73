//! Keys over finite fields, of DSA and of Diffie-Hellman, and the parameters that such keys share, as
//! templates and attributes have them (PKCS#11 3.1, sections 6.2 and 6.4).

use std::sync::Arc;

use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_KEY_TYPE, CKA_BASE, CKA_KEY_TYPE, CKA_PRIME, CKA_PRIME_BITS,
    CKA_SUBPRIME, CKA_SUBPRIME_BITS, CKA_VALUE, CKA_VALUE_BITS, CKK_DH, CKK_DSA,
    CKR_TEMPLATE_INCOMPLETE, CKR_TEMPLATE_INCONSISTENT,
};
use strongroom::Secret;

use super::{dh, dsa};
use crate::class::Class;
use crate::fault::{Answer, Fault};
use crate::foreign::ulong;
use crate::template::{Template, invalid, number};

/// The attributes of a template that are the object itself.
pub(crate) const PARTS: [CK_ATTRIBUTE_TYPE; 5] =
    [CKA_KEY_TYPE, CKA_PRIME, CKA_SUBPRIME, CKA_BASE, CKA_VALUE];

/// A key, or the parameters of keys.
#[derive(Clone)]
pub(crate) enum FieldKey {
    DsaParameters(dsa::Parameters),
    DsaPublic(dsa::PublicKey),
    DsaPrivate(Arc<dsa::PrivateKey>),
    DhParameters(dh::Group),
    DhPublic(dh::Group, Vec<u8>),
    DhPrivate(Arc<dh::PrivateKey>),
}

/// Parameters that keys are made of.
pub(crate) enum Parameters {
    Dsa(dsa::Parameters),
    Dh(dh::Group),
}

impl Parameters {
    /// Those of a template for keys of a type.
    ///
    /// # Errors
    /// What `wrong` is for numbers that are no parameters; `CKR_TEMPLATE_INCOMPLETE`.
    pub(crate) fn of_template(
        template: &Template,
        key_type: CK_KEY_TYPE,
        wrong: &dyn Fn() -> Fault,
    ) -> Answer<Self> {
        let bytes = |kind| {
            template
                .bytes(kind)
                .ok_or(Fault::Code(CKR_TEMPLATE_INCOMPLETE))
        };
        let (prime, base) = (bytes(CKA_PRIME)?, bytes(CKA_BASE)?);
        match key_type {
            CKK_DSA => dsa::Parameters::new(prime, bytes(CKA_SUBPRIME)?, base).map(Self::Dsa),
            CKK_DH if template.bytes(CKA_SUBPRIME).is_none() => {
                dh::Group::new(prime, base).map(Self::Dh)
            }
            _ => return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT)),
        }
        .ok_or_else(wrong)
    }
}

impl FieldKey {
    /// The object of a class that a template has.
    pub(crate) fn of_template(
        template: &Template,
        class: Class,
        key_type: CK_KEY_TYPE,
    ) -> Answer<Self> {
        let parameters = Parameters::of_template(template, key_type, &invalid)?;
        let value = || {
            template
                .secret(CKA_VALUE)
                .map(Secret::expose)
                .filter(|value| value.len() <= dh::SIZES.1 / 8 + 1)
                .ok_or(if template.secret(CKA_VALUE).is_some() {
                    invalid()
                } else {
                    Fault::Code(CKR_TEMPLATE_INCOMPLETE)
                })
        };
        match (class, parameters) {
            (Class::DomainParameters, Parameters::Dsa(it)) => Some(Self::DsaParameters(it)),
            (Class::DomainParameters, Parameters::Dh(it)) => Some(Self::DhParameters(it)),
            (Class::PublicKey, Parameters::Dsa(it)) => {
                it.public_key_of(value()?).map(Self::DsaPublic)
            }
            (Class::PublicKey, Parameters::Dh(group)) => {
                let value = value()?.to_vec();
                group.has(&value).then_some(Self::DhPublic(group, value))
            }
            (_, Parameters::Dsa(it)) => it
                .private_key_of(value()?)
                .map(|key| Self::DsaPrivate(Arc::new(key))),
            (_, Parameters::Dh(group)) => group
                .key_of(value()?)
                .map(|key| Self::DhPrivate(Arc::new(key))),
        }
        .ok_or_else(invalid)
    }

    /// The type of key that it is, or that it is the parameters of.
    pub(crate) fn key_type(&self) -> CK_KEY_TYPE {
        match self {
            Self::DsaParameters(_) | Self::DsaPublic(_) | Self::DsaPrivate(_) => CKK_DSA,
            Self::DhParameters(_) | Self::DhPublic(..) | Self::DhPrivate(_) => CKK_DH,
        }
    }

    /// One of the attributes that anybody may know.
    pub(crate) fn open(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<Vec<u8>> {
        match (kind, self) {
            (CKA_VALUE, Self::DsaPublic(key)) => return Some(key.value()),
            (CKA_VALUE, Self::DhPublic(_, value)) => return Some(value.clone()),
            (CKA_VALUE_BITS, Self::DhPrivate(key)) => return Some(number(ulong(key.bits()))),
            _ => {}
        }
        let is_parameters = matches!(self, Self::DsaParameters(_) | Self::DhParameters(_));
        if matches!(kind, CKA_PRIME_BITS | CKA_SUBPRIME_BITS) && !is_parameters {
            return None;
        }
        let dsa = match self {
            Self::DsaParameters(it) => it.clone(),
            Self::DsaPublic(key) => key.parameters(),
            Self::DsaPrivate(key) => key.public().parameters(),
            Self::DhParameters(group) | Self::DhPublic(group, _) => return of_group(group, kind),
            Self::DhPrivate(key) => return of_group(key.group(), kind),
        };
        Some(match kind {
            CKA_PRIME => dsa.prime(),
            CKA_SUBPRIME => dsa.order(),
            CKA_BASE => dsa.base(),
            CKA_PRIME_BITS => number(ulong(dsa.bits())),
            CKA_SUBPRIME_BITS => number(ulong(dsa.order_bits())),
            _ => return None,
        })
    }

    /// The private value.
    pub(crate) fn private_value(&self) -> Option<&Secret> {
        match self {
            Self::DsaPrivate(key) => Some(key.value()),
            Self::DhPrivate(key) => Some(key.value()),
            _ => None,
        }
    }
}

fn of_group(group: &dh::Group, kind: CK_ATTRIBUTE_TYPE) -> Option<Vec<u8>> {
    Some(match kind {
        CKA_PRIME => group.prime().to_vec(),
        CKA_BASE => group.base().to_vec(),
        CKA_PRIME_BITS => number(ulong(group.bits())),
        _ => return None,
    })
}
