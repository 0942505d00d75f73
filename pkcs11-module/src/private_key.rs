//! Private keys in templates, and how their parts are called. What keys do, wherever they are, is the
//! library's.

use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CKA_COEFFICIENT, CKA_EC_PARAMS, CKA_EC_POINT, CKA_EXPONENT_1,
    CKA_EXPONENT_2, CKA_KEY_TYPE, CKA_MODULUS, CKA_PRIME_1, CKA_PRIME_2, CKA_PRIVATE_EXPONENT,
    CKA_PUBLIC_EXPONENT, CKA_VALUE, CKK_EC, CKK_EC_EDWARDS, CKK_EC_MONTGOMERY, CKK_RSA,
    CKR_TEMPLATE_INCOMPLETE, CKR_TEMPLATE_INCONSISTENT,
};
use strongroom::Secret;
use strongroom::key::{KeyAlgorithm, Parts, PrivateKey};

use crate::fault::{Answer, Fault};
use crate::public_key::algorithm_of;
use crate::template::{Template, invalid};

/// The attributes of a template that are the key itself.
pub(crate) const PARTS: [CK_ATTRIBUTE_TYPE; 12] = [
    CKA_KEY_TYPE,
    CKA_MODULUS,
    CKA_PUBLIC_EXPONENT,
    CKA_PRIVATE_EXPONENT,
    CKA_PRIME_1,
    CKA_PRIME_2,
    CKA_EXPONENT_1,
    CKA_EXPONENT_2,
    CKA_COEFFICIENT,
    CKA_EC_PARAMS,
    CKA_EC_POINT,
    CKA_VALUE,
];

/// The key that a template has.
pub(crate) fn private_key_of(template: &Template) -> Answer<PrivateKey> {
    let incomplete = || Fault::Code(CKR_TEMPLATE_INCOMPLETE);
    let secret = |kind| template.secret(kind).map(Secret::expose);
    match template.required_number(CKA_KEY_TYPE)? {
        CKK_RSA => {
            let n = template.bytes(CKA_MODULUS).ok_or_else(incomplete)?;
            let e = template.bytes(CKA_PUBLIC_EXPONENT).unwrap_or(&[1, 0, 1]);
            let d = secret(CKA_PRIVATE_EXPONENT).ok_or_else(incomplete)?;
            let primes: Vec<_> = [CKA_PRIME_1, CKA_PRIME_2]
                .into_iter()
                .filter_map(secret)
                .collect();
            PrivateKey::from_rsa_numbers(n, e, d, &primes).map_err(|_| invalid())
        }
        key_type @ (CKK_EC | CKK_EC_EDWARDS | CKK_EC_MONTGOMERY) => {
            let value = secret(CKA_VALUE).ok_or_else(incomplete)?;
            let algorithm = algorithm_of(template, key_type)?;
            let value = match algorithm {
                KeyAlgorithm::Ec(curve) => of_len(value, curve.field_len())?,
                _ => Secret::copy_of(value),
            };
            PrivateKey::from_scalar(algorithm, value.expose()).map_err(|_| invalid())
        }
        _ => Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT)),
    }
}

/// The attributes of a key that are secret, for one that may be read.
pub(crate) fn secret_parts(key: &PrivateKey) -> Vec<(CK_ATTRIBUTE_TYPE, Secret)> {
    match key.parts() {
        Parts::Rsa {
            d,
            primes: [p, q],
            exponents: [dp, dq],
            coefficient,
        } => vec![
            (CKA_PRIVATE_EXPONENT, d),
            (CKA_PRIME_1, p),
            (CKA_PRIME_2, q),
            (CKA_EXPONENT_1, dp),
            (CKA_EXPONENT_2, dq),
            (CKA_COEFFICIENT, coefficient),
        ],
        Parts::Scalar(scalar) => vec![(CKA_VALUE, scalar)],
    }
}

/// A private value as long as the field: some callers leave out leading zeros.
fn of_len(value: &[u8], len: usize) -> Answer<Secret> {
    let start = value.len().saturating_sub(len);
    if value[..start].iter().any(|byte| *byte != 0) {
        return Err(invalid());
    }
    let value = &value[start..];
    Ok(Secret::concat(&[&vec![0; len - value.len()], value]))
}
