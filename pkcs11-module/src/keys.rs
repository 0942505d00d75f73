//! Key management (PKCS#11 3.1, section 5.18): keys that are generated, wrapped and unwrapped; those that
//! are derived are in [`crate::derivation`]. Keys of the vault are made in the TPM where it can, session
//! keys in memory.

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_KEY_TYPE, CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG,
    CKA_CLASS, CKA_EC_PARAMS, CKA_EXTRACTABLE, CKA_KEY_TYPE, CKA_MODULUS_BITS, CKA_PUBLIC_EXPONENT,
    CKA_TRUSTED, CKA_UNWRAP, CKA_UNWRAP_TEMPLATE, CKA_VALUE_LEN, CKA_WRAP, CKA_WRAP_TEMPLATE,
    CKA_WRAP_WITH_TRUSTED, CKF_GENERATE, CKF_GENERATE_KEY_PAIR, CKF_UNWRAP, CKF_WRAP, CKK_DSA,
    CKK_EC, CKK_GENERIC_SECRET, CKK_RSA, CKR_ATTRIBUTE_VALUE_INVALID, CKR_ENCRYPTED_DATA_INVALID,
    CKR_KEY_HANDLE_INVALID, CKR_KEY_NOT_WRAPPABLE, CKR_KEY_SIZE_RANGE, CKR_KEY_TYPE_INCONSISTENT,
    CKR_KEY_UNEXTRACTABLE, CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID,
    CKR_TEMPLATE_INCOMPLETE, CKR_TEMPLATE_INCONSISTENT, CKR_UNWRAPPING_KEY_HANDLE_INVALID,
    CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT, CKR_WRAPPED_KEY_INVALID, CKR_WRAPPED_KEY_LEN_RANGE,
    CKR_WRAPPING_KEY_HANDLE_INVALID, CKR_WRAPPING_KEY_TYPE_INCONSISTENT,
};
use strongroom::Secret;
use strongroom::key::{KeyAlgorithm, PrivateKey};

use crate::attributes::{Attribute, Object};
use crate::class::Class;
use crate::encryption::{classes_of, scheme_of};
use crate::fault::{Answer, Fault, answer};
use crate::foreign::{Foreign, Output, Room};
use crate::key_pairs::{create_key_pair, store_private_key};
use crate::legacy::{self, des};
use crate::mechanisms::Method;
use crate::parameters::{Chosen, Parameter};
use crate::public_key::{algorithm_of, key_type_of};
use crate::secret_keys::{Origin, check_secret_key_len, create_secret_key};
use crate::state::{Module, private_key, with_module};
use crate::symmetric::{Cipher, at_once, with_aes};
use crate::template::{Template, inner_template};

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
            let key_type = match chosen.method() {
                Method::SecretKey(key_type) => key_type,
                Method::DsaParameters => {
                    let made =
                        legacy::creation::generate_parameters(module, session, &mut template)?;
                    handle.set(0, made);
                    return Ok(());
                }
                _ => return Err(Fault::Code(CKR_MECHANISM_INVALID)),
            };
            template.fix_number(CKA_CLASS, Class::SecretKey.number())?;
            template.fix_number(CKA_KEY_TYPE, key_type)?;
            if let Some(len) = des::key_len(key_type) {
                let (value, origin) = (des::generate(len), Origin::Generated);
                let made = create_secret_key(module, session, &template, key_type, value, origin)?;
                handle.set(0, made);
                return Ok(());
            }
            let len = value_len(&template)?.ok_or(Fault::Code(CKR_TEMPLATE_INCOMPLETE))?;
            check_secret_key_len(key_type, len)?;
            let (_, max) = chosen.mechanism.sizes;
            // Section 6.8.3: the size of generic secrets is in bits.
            let max_len = if key_type == CKK_GENERIC_SECRET {
                max / 8
            } else {
                max
            };
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
                Method::DsaKeyPair | Method::DhKeyPair => {
                    let key_type = chosen.method().key_type().unwrap_or(CKK_DSA);
                    fix_pair(&mut for_public, &mut for_private, key_type)?;
                    let (public, private) = legacy::creation::generate_key_pair(
                        module,
                        session,
                        key_type,
                        &for_public,
                        &for_private,
                    )?;
                    public_handle.set(0, public);
                    private_handle.set(0, private);
                    return Ok(());
                }
                Method::RsaKeyPair => (rsa_of(&for_public)?, CKK_RSA),
                method => {
                    let key_type = method.key_type().unwrap_or(CKK_EC);
                    // Some clients leave out the curve where there was but one for long.
                    let algorithm = match (for_public.bytes(CKA_EC_PARAMS), method) {
                        (None, Method::EdwardsKeyPair) => KeyAlgorithm::Ed25519,
                        (None, Method::MontgomeryKeyPair) => KeyAlgorithm::X25519,
                        _ => algorithm_of(&for_public, key_type)?,
                    };
                    (algorithm, key_type)
                }
            };
            fix_pair(&mut for_public, &mut for_private, key_type)?;
            let (public, private) =
                create_key_pair(module, session, algorithm, &for_public, &for_private)?;
            public_handle.set(0, public);
            private_handle.set(0, private);
            Ok(())
        })
    })
}

/// Puts into the templates of a pair what both keys are.
fn fix_pair(public: &mut Template, private: &mut Template, key_type: CK_KEY_TYPE) -> Answer {
    public.fix_number(CKA_CLASS, Class::PublicKey.number())?;
    public.fix_number(CKA_KEY_TYPE, key_type)?;
    private.fix_number(CKA_CLASS, Class::PrivateKey.number())?;
    private.fix_number(CKA_KEY_TYPE, key_type)
}

/// C_WrapKey, section 5.18.3.
pub(crate) unsafe extern "C" fn wrap_key(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    wrapping_key: CK_OBJECT_HANDLE,
    key: CK_OBJECT_HANDLE,
    wrapped: *mut u8,
    wrapped_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_WrapKey", || {
        // SAFETY: the caller's mechanism and memory.
        let (chosen, output) = unsafe {
            (
                Chosen::required(mechanism, CKF_WRAP),
                Output::new(wrapped, wrapped_len)?,
            )
        };
        with_module(|module| {
            module.session(session)?;
            let chosen = chosen?;
            let (class, _) = classes_of(&chosen);
            let wrapping = module
                .key_for(session, wrapping_key, &chosen, class, CKA_WRAP)
                .map_err(in_words_of(&WRAPPING))?;
            let key = module.key(session, key)?;
            check_wrappable(&key, &wrapping, class)?;
            let value = match key.class() {
                Class::SecretKey => module.value_of(&key)?,
                // Those of the vault are never extractable.
                _ => match &key {
                    // PKCS#8 is the library's to write, which does not know them.
                    Object::Held(held) if held.content.field.is_some() => {
                        return Err(Fault::Code(CKR_KEY_NOT_WRAPPABLE));
                    }
                    Object::Held(held) => private_key(held)?.to_pkcs8(),
                    _ => return Err(Fault::Code(CKR_KEY_UNEXTRACTABLE)),
                },
            };
            let wrapped = wrap(module, &chosen, &wrapping, &value)?;
            match output.room(wrapped.len())? {
                Room::Enough => output.give(&wrapped),
                Room::LengthOnly => Ok(()),
            }
        })
    })
}

/// C_UnwrapKey, section 5.18.4. What comes out is sensitive and not extractable unless the template
/// says otherwise.
pub(crate) unsafe extern "C" fn unwrap_key(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    unwrapping_key: CK_OBJECT_HANDLE,
    wrapped: *mut u8,
    wrapped_len: CK_ULONG,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_UnwrapKey", || {
        // SAFETY: the caller's mechanism, bytes, template and CK_OBJECT_HANDLE.
        let (chosen, wrapped, mut template, handle) = unsafe {
            (
                Chosen::required(mechanism, CKF_UNWRAP),
                Foreign::many(wrapped, wrapped_len)?,
                Template::read(template, count)?,
                Foreign::one(key)?,
            )
        };
        let wrapped = wrapped
            .bytes(MAX_WRAPPED)
            .ok_or(Fault::Code(CKR_WRAPPED_KEY_LEN_RANGE))?;
        with_module(|module| {
            module.session(session)?;
            let chosen = chosen?;
            let (_, class) = classes_of(&chosen);
            let unwrapping = module
                .key_for(session, unwrapping_key, &chosen, class, CKA_UNWRAP)
                .map_err(in_words_of(&UNWRAPPING))?;
            module.check_authenticated(session, &unwrapping)?;
            if let Some(Attribute::Known(inner)) = unwrapping.attribute(CKA_UNWRAP_TEMPLATE) {
                template.fix_all(&inner)?;
            }
            let class = Class::of(template.required_number(CKA_CLASS)?)
                .ok_or(Fault::Code(CKR_TEMPLATE_INCONSISTENT))?;
            let key_type = template.required_number(CKA_KEY_TYPE)?;
            let value = unwrap(module, &chosen, &unwrapping, &wrapped)?;
            // Whoever learns why not learns something of what was wrapped.
            let wrong = || Fault::Code(CKR_WRAPPED_KEY_INVALID);
            let created = match class {
                Class::SecretKey => {
                    let wrong_len = value_len(&template)?.is_some_and(|len| len != value.len());
                    if wrong_len || check_secret_key_len(key_type, value.len()).is_err() {
                        return Err(wrong());
                    }
                    if des::key_len(key_type).is_some() && des::check(&value).is_err() {
                        return Err(Fault::Code(CKR_WRAPPED_KEY_INVALID));
                    }
                    create_secret_key(
                        module,
                        session,
                        &template,
                        key_type,
                        value,
                        Origin::Unwrapped,
                    )
                }
                Class::PrivateKey => {
                    let key = PrivateKey::from_pkcs8(&value).map_err(|_| wrong())?;
                    if key_type_of(key.public().algorithm()) != key_type {
                        return Err(wrong());
                    }
                    store_private_key(module, session, &template, &key)
                }
                _ => Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT)),
            }?;
            handle.set(0, created);
            Ok(())
        })
    })
}

/// The longest wrapped key: a private key of RSA has some 2,400 bytes.
const MAX_WRAPPED: usize = 1 << 16;

fn check_wrappable(key: &Object, wrapping: &Object, class: Class) -> Answer {
    let is_key = matches!(key.class(), Class::SecretKey | Class::PrivateKey);
    if !is_key {
        return Err(Fault::Code(CKR_KEY_HANDLE_INVALID));
    }
    if !key.has(CKA_EXTRACTABLE) {
        return Err(Fault::Code(CKR_KEY_UNEXTRACTABLE));
    }
    let trusted = !key.has(CKA_WRAP_WITH_TRUSTED) || wrapping.has(CKA_TRUSTED);
    let is_as_demanded = match wrapping.attribute(CKA_WRAP_TEMPLATE) {
        Some(Attribute::Known(inner)) => inner_template(&inner).into_iter().all(|(kind, value)| {
            matches!(key.attribute(kind), Some(Attribute::Known(its)) if its == value)
        }),
        _ => true,
    };
    // Section 4.9.3 names no code for a template that does not fit; that of the key does.
    if !is_as_demanded {
        return Err(Fault::Code(CKR_KEY_HANDLE_INVALID));
    }
    // RSA has no room for a private key.
    if !trusted || (class == Class::PublicKey && key.class() == Class::PrivateKey) {
        return Err(Fault::Code(CKR_KEY_NOT_WRAPPABLE));
    }
    Ok(())
}

fn wrap(module: &mut Module, chosen: &Chosen, key: &Object, value: &Secret) -> Answer<Vec<u8>> {
    let too_long = || Fault::Code(CKR_KEY_SIZE_RANGE);
    match chosen.method() {
        Method::RsaPkcs(_) | Method::RsaOaep => key
            .public_key()
            .ok_or(Fault::Code(CKR_WRAPPING_KEY_TYPE_INCONSISTENT))?
            .encrypt(&scheme_of(chosen), value.expose())
            .map_err(|_| too_long()),
        Method::AesKeyWrap { padded } => {
            let kek = module.value_of(key)?;
            let kek = kek.expose();
            let value = value.expose();
            with_aes!(kek, Aes => {
                let kek = aes_kw::Kek::<Aes>::new(kek.into());
                if padded {
                    kek.wrap_with_padding_vec(value)
                } else if value.len() < 16 {
                    // RFC 3394, section 2: two semiblocks at least.
                    return Err(too_long());
                } else {
                    kek.wrap_vec(value)
                }
                .map_err(|_| too_long())?
            })
        }
        method => {
            let kek = module.value_of(key)?;
            let cipher = Cipher::new(method, &chosen.parameter, &kek, true)?;
            at_once(cipher, value.expose())
        }
    }
}

/// Whatever is wrong with what was wrapped, the answer is one and the same.
fn unwrap(module: &mut Module, chosen: &Chosen, key: &Object, wrapped: &[u8]) -> Answer<Secret> {
    let wrong = || Fault::Code(CKR_WRAPPED_KEY_INVALID);
    match chosen.method() {
        Method::RsaPkcs(_) | Method::RsaOaep => module
            .decrypt(key, &scheme_of(chosen), &Secret::copy_of(wrapped))
            .map_err(|fault| match fault {
                Fault::Code(CKR_ENCRYPTED_DATA_INVALID) => wrong(),
                other => other,
            }),
        Method::AesKeyWrap { padded } => {
            let kek = module.value_of(key)?;
            let kek = kek.expose();
            // Three semiblocks at least, or, padded, two.
            if wrapped.len() < if padded { 16 } else { 24 } {
                return Err(Fault::Code(CKR_WRAPPED_KEY_LEN_RANGE));
            }
            with_aes!(kek, Aes => {
                let kek = aes_kw::Kek::<Aes>::new(kek.into());
                let value = if padded {
                    kek.unwrap_with_padding_vec(wrapped)
                } else {
                    kek.unwrap_vec(wrapped)
                };
                Secret::take(value.map_err(|_| wrong())?)
            })
        }
        method => {
            // NIST SP 800-38D, appendix C: a shorter one can be tried out, for a part of a key too.
            if matches!(chosen.parameter, Parameter::Gcm { tag_len, .. } if tag_len < 12) {
                return Err(Fault::Code(CKR_MECHANISM_PARAM_INVALID));
            }
            let kek = module.value_of(key)?;
            let cipher = Cipher::new(method, &chosen.parameter, &kek, false)?;
            at_once(cipher, wrapped)
                .map(Secret::take)
                .map_err(|_| wrong())
        }
    }
}

/// What is wrong with a key that wraps or unwraps is said so, with the codes for its handle and its
/// type.
fn in_words_of(words: &'static [CK_RV; 2]) -> impl FnOnce(Fault) -> Fault {
    let [handle, key_type] = *words;
    move |fault| match fault {
        Fault::Code(CKR_KEY_HANDLE_INVALID) => Fault::Code(handle),
        Fault::Code(CKR_KEY_TYPE_INCONSISTENT) => Fault::Code(key_type),
        other => other,
    }
}

const WRAPPING: [CK_RV; 2] = [
    CKR_WRAPPING_KEY_HANDLE_INVALID,
    CKR_WRAPPING_KEY_TYPE_INCONSISTENT,
];
const UNWRAPPING: [CK_RV; 2] = [
    CKR_UNWRAPPING_KEY_HANDLE_INVALID,
    CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT,
];

/// The RSA algorithm of a template: its size, and the one exponent that there is.
fn rsa_of(template: &Template) -> Answer<KeyAlgorithm> {
    const SIZES: [u16; 4] = [1024, 2048, 3072, 4096];
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

/// CKA_VALUE_LEN of a template.
pub(crate) fn value_len(template: &Template) -> Answer<Option<usize>> {
    template
        .number(CKA_VALUE_LEN)?
        .map(|len| usize::try_from(len).map_err(|_| Fault::Code(CKR_ATTRIBUTE_VALUE_INVALID)))
        .transpose()
}
