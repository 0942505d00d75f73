//! Key management (PKCS#11 3.1, section 5.18): keys that are generated or derived. Keys of the
//! vault are made in the TPM where it can, session keys in memory.

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG,
    CKA_ALWAYS_SENSITIVE, CKA_CLASS, CKA_DERIVE, CKA_KEY_TYPE, CKA_MODULUS_BITS,
    CKA_NEVER_EXTRACTABLE, CKA_PUBLIC_EXPONENT, CKA_VALUE_LEN, CKF_DERIVE, CKF_GENERATE,
    CKF_GENERATE_KEY_PAIR, CKK_AES, CKK_EC, CKK_GENERIC_SECRET, CKK_RSA,
    CKR_ATTRIBUTE_VALUE_INVALID, CKR_KEY_SIZE_RANGE, CKR_MECHANISM_INVALID,
    CKR_MECHANISM_PARAM_INVALID, CKR_TEMPLATE_INCOMPLETE, CKR_TEMPLATE_INCONSISTENT,
};
use strongroom::Secret;
use strongroom::key::KeyAlgorithm;

use crate::attributes::Class;
use crate::creation::{Origin, check_secret_key_len, create_key_pair, create_secret_key};
use crate::fault::{Answer, Fault, answer};
use crate::foreign::Foreign;
use crate::mechanisms::{Chosen, Method, Parameter};
use crate::public_key::{curve_of, read_point};
use crate::state::with_module;
use crate::template::Template;

/// C_GenerateKey, section 5.18.1.
pub(crate) unsafe extern "C" fn generate_key(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_GenerateKey", || {
        // SAFETY: the caller's mechanism, template and CK_OBJECT_HANDLE.
        let (chosen, mut template, handle) = unsafe {
            (
                Chosen::required(mechanism, CKF_GENERATE),
                Template::read(template, count)?,
                Foreign::one(key)?,
            )
        };
        with_module(|module| {
            module.session(session)?;
            let chosen = chosen?;
            module.check_has_mechanisms(session)?;
            let Method::SecretKey(key_type) = chosen.method() else {
                return Err(Fault::Code(CKR_MECHANISM_INVALID));
            };
            template.fix_number(CKA_CLASS, Class::SecretKey.number())?;
            template.fix_number(CKA_KEY_TYPE, key_type)?;
            let len = value_len(&template)?.ok_or(Fault::Code(CKR_TEMPLATE_INCOMPLETE))?;
            check_secret_key_len(key_type, len)?;
            let (_, max) = chosen.mechanism.sizes;
            let max_len = if key_type == CKK_AES { max } else { max / 8 };
            if len > usize::try_from(max_len).unwrap_or(0) {
                return Err(Fault::Code(CKR_KEY_SIZE_RANGE));
            }
            let value = Secret::random(len);
            let origin = Origin::Generated;
            let created = create_secret_key(module, session, &template, key_type, value, origin)?;
            handle.set(0, created);
            Ok(())
        })
    })
}

/// C_GenerateKeyPair, section 5.18.2.
pub(crate) unsafe extern "C" fn generate_key_pair(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    public_template: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private_template: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public_key: *mut CK_OBJECT_HANDLE,
    private_key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_GenerateKeyPair", || {
        // SAFETY: the caller's mechanism, templates and CK_OBJECT_HANDLEs.
        let (chosen, mut for_public, mut for_private, public_handle, private_handle) = unsafe {
            (
                Chosen::required(mechanism, CKF_GENERATE_KEY_PAIR),
                Template::read(public_template, public_count)?,
                Template::read(private_template, private_count)?,
                Foreign::one(public_key)?,
                Foreign::one(private_key)?,
            )
        };
        with_module(|module| {
            module.session(session)?;
            let chosen = chosen?;
            module.check_has_mechanisms(session)?;
            let (algorithm, key_type) = match chosen.method() {
                Method::RsaKeyPair => (rsa_of(&for_public)?, CKK_RSA),
                _ => (KeyAlgorithm::Ec(curve_of(&for_public)?), CKK_EC),
            };
            for_public.fix_number(CKA_CLASS, Class::PublicKey.number())?;
            for_public.fix_number(CKA_KEY_TYPE, key_type)?;
            for_private.fix_number(CKA_CLASS, Class::PrivateKey.number())?;
            for_private.fix_number(CKA_KEY_TYPE, key_type)?;
            let (public, private) =
                create_key_pair(module, session, algorithm, &for_public, &for_private)?;
            public_handle.set(0, public);
            private_handle.set(0, private);
            Ok(())
        })
    })
}

/// C_DeriveKey, section 5.18.5: ECDH. Of an agreed value that is longer than the key, the leading
/// bytes go (section 6.3.20).
pub(crate) unsafe extern "C" fn derive_key(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    base_key: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_DeriveKey", || {
        // SAFETY: the caller's mechanism, template and CK_OBJECT_HANDLE.
        let (chosen, mut template, handle) = unsafe {
            (
                Chosen::required(mechanism, CKF_DERIVE),
                Template::read(template, count)?,
                Foreign::one(key)?,
            )
        };
        with_module(|module| {
            module.session(session)?;
            let chosen = chosen?;
            let base = module.key_for(session, base_key, &chosen, Class::PrivateKey, CKA_DERIVE)?;
            let (Parameter::Ecdh(point), Some(public)) = (&chosen.parameter, base.public_key())
            else {
                return Err(Fault::Code(CKR_MECHANISM_PARAM_INVALID));
            };
            let KeyAlgorithm::Ec(curve) = public.algorithm() else {
                return Err(Fault::Code(CKR_MECHANISM_PARAM_INVALID));
            };
            let point =
                read_point(curve, point).map_err(|_| Fault::Code(CKR_MECHANISM_PARAM_INVALID))?;
            template.fix_number(CKA_CLASS, Class::SecretKey.number())?;
            let key_type = template.number(CKA_KEY_TYPE)?.unwrap_or(CKK_GENERIC_SECRET);
            let len = value_len(&template)?.unwrap_or(curve.field_len());
            if len > curve.field_len() {
                return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT));
            }
            check_secret_key_len(key_type, len)?;
            let agreed = module.derive(&base, point)?;
            let value = Secret::copy_of(&agreed.expose()[agreed.len() - len..]);
            let origin = Origin::Derived {
                always_sensitive: base.has(CKA_ALWAYS_SENSITIVE),
                never_extractable: base.has(CKA_NEVER_EXTRACTABLE),
            };
            let created = create_secret_key(module, session, &template, key_type, value, origin)?;
            handle.set(0, created);
            Ok(())
        })
    })
}

/// The RSA algorithm of a template: its size, and the one exponent that there is.
fn rsa_of(template: &Template) -> Answer<KeyAlgorithm> {
    const SIZES: [u16; 3] = [2048, 3072, 4096];
    let bits = template.required_number(CKA_MODULUS_BITS)?;
    let bits = SIZES
        .into_iter()
        .find(|size| CK_ULONG::from(*size) == bits)
        .ok_or(Fault::Code(CKR_KEY_SIZE_RANGE))?;
    let is_65537 = |bytes: &[u8]| {
        let start = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes[start..] == [1, 0, 1]
    };
    match template.bytes(CKA_PUBLIC_EXPONENT) {
        Some(exponent) if !is_65537(exponent) => Err(Fault::Code(CKR_ATTRIBUTE_VALUE_INVALID)),
        _ => Ok(KeyAlgorithm::Rsa(bits)),
    }
}

fn value_len(template: &Template) -> Answer<Option<usize>> {
    template
        .number(CKA_VALUE_LEN)?
        .map(|len| usize::try_from(len).map_err(|_| Fault::Code(CKR_ATTRIBUTE_VALUE_INVALID)))
        .transpose()
}
