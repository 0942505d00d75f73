//! Keys that are derived from others (PKCS#11 3.1, section 5.18.5): Diffie-Hellman (6.3.20, 6.4), what AES makes
//! of some data (6.13.7), what a pseudorandom function does (6.42), and keys and data put together or
//! taken apart (6.43).

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_KEY_TYPE, CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG,
    CKA_ALWAYS_SENSITIVE, CKA_CLASS, CKA_DERIVE, CKA_DERIVE_TEMPLATE, CKA_EXTRACTABLE,
    CKA_KEY_TYPE, CKA_NEVER_EXTRACTABLE, CKA_SENSITIVE, CKF_DERIVE, CKK_AES, CKK_GENERIC_SECRET,
    CKR_KEY_SIZE_RANGE, CKR_KEY_TYPE_INCONSISTENT, CKR_MECHANISM_PARAM_INVALID,
    CKR_TEMPLATE_INCOMPLETE, CKR_TEMPLATE_INCONSISTENT,
};
use strongroom::Secret;
use strongroom::key::KeyAlgorithm;

use crate::attributes::{Attribute, Class, Object};
use crate::creation::{Origin, check_secret_key_len, create_secret_key, take_back};
use crate::digesting::Hasher;
use crate::fault::{Answer, Fault, answer};
use crate::foreign::Foreign;
use crate::kbkdf;
use crate::keys::value_len;
use crate::legacy::des;
use crate::legacy::field::FieldKey;
use crate::mechanisms::{Chosen, Kdf, Method, Parameter};
use crate::public_key::read_point;
use crate::state::{Module, with_module};
use crate::symmetric::{BLOCK, Cipher, encrypt};
use crate::template::Template;

/// C_DeriveKey, section 5.18.5.
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
        let (chosen, template, handle) = unsafe {
            (
                Chosen::required(mechanism, CKF_DERIVE),
                Template::read(template, count)?,
                Foreign::one(key)?,
            )
        };
        with_module(|module| {
            module.session(session)?;
            let chosen = chosen?;
            let class = match chosen.method() {
                Method::Ecdh | Method::Dh => Class::PrivateKey,
                _ => Class::SecretKey,
            };
            let base = module.key_for(session, base_key, &chosen, class, CKA_DERIVE)?;
            if let Parameter::Kbkdf(parameters) = chosen.parameter {
                return derive_several(module, session, &base, *parameters, template, handle);
            }
            let created = derive_one(module, session, &base, &chosen, template)?;
            handle.set(0, created);
            Ok(())
        })
    })
}

fn derive_one(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    base: &Object,
    chosen: &Chosen,
    mut template: Template,
) -> Answer<CK_OBJECT_HANDLE> {
    let invalid = || Fault::Code(CKR_MECHANISM_PARAM_INVALID);
    let key_type = complete(&mut template, base)?;
    let mut origin = Origin::Derived {
        always_sensitive: base.has(CKA_ALWAYS_SENSITIVE),
        never_extractable: base.has(CKA_NEVER_EXTRACTABLE),
    };
    let value = match &chosen.parameter {
        Parameter::Ecdh { point, kdf } => {
            module.check_authenticated(session, base)?;
            agree(module, base, point, kdf.as_ref(), key_type, &template)?
        }
        Parameter::Peer(peer) => {
            module.check_authenticated(session, base)?;
            agree_in_field(base, peer, key_type, &template)?
        }
        Parameter::Data { iv, data } => {
            // Section 6.13.7: what comes of a sensitive key by AES is as sensitive.
            inherit(&mut template, base)?;
            let value = module.value_of(base)?;
            encrypt_data(chosen, &value, iv, data, key_type, &template)?
        }
        Parameter::Key(other) => {
            let other = module.key_for(session, *other, chosen, Class::SecretKey, CKA_DERIVE)?;
            // Section 6.43.3: of the two, the one that is less open decides.
            inherit(&mut template, base)?;
            inherit(&mut template, &other)?;
            origin = Origin::Derived {
                always_sensitive: base.has(CKA_ALWAYS_SENSITIVE) && other.has(CKA_ALWAYS_SENSITIVE),
                never_extractable: base.has(CKA_NEVER_EXTRACTABLE)
                    && other.has(CKA_NEVER_EXTRACTABLE),
            };
            let (first, second) = (module.value_of(base)?, module.value_of(&other)?);
            beginning(
                &Secret::concat(&[first.expose(), second.expose()]),
                key_type,
                &template,
            )?
        }
        Parameter::Bytes(data) => {
            inherit(&mut template, base)?;
            let value = module.value_of(base)?;
            let whole = match chosen.method() {
                Method::ConcatenateData { before: true } => Secret::concat(&[data, value.expose()]),
                Method::ConcatenateData { .. } => Secret::concat(&[value.expose(), data]),
                // Section 6.43.6: as long as the shorter of both.
                _ => Secret::take(
                    (value.expose().iter().zip(data))
                        .map(|(one, other)| one ^ other)
                        .collect(),
                ),
            };
            beginning(&whole, key_type, &template)?
        }
        Parameter::Bit(first) => {
            inherit(&mut template, base)?;
            let value = module.value_of(base)?;
            if *first >= 8 * value.len() {
                return Err(invalid());
            }
            beginning(&from_bit(&value, *first), key_type, &template)?
        }
        _ => return Err(invalid()),
    };
    create_secret_key(module, session, &template, key_type, value, origin)
}

/// Keys of a pseudorandom function (section 6.42): all of them or none.
fn derive_several(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    base: &Object,
    mut parameters: kbkdf::Parameters,
    template: Template,
    handle: Foreign<CK_OBJECT_HANDLE>,
) -> Answer {
    if matches!(parameters.function, Method::Cmac { .. }) && base.key_type() != Some(CKK_AES) {
        return Err(Fault::Code(CKR_KEY_TYPE_INCONSISTENT));
    }
    let (mut wanted, mut handles) = (vec![template], vec![handle]);
    for further in parameters.more.drain(..) {
        wanted.push(further.template);
        handles.push(further.handle);
    }
    let mut types = Vec::new();
    let mut lens = Vec::new();
    for template in &mut wanted {
        let key_type = complete(template, base)?;
        let len = wanted_len(template, key_type)?.ok_or(Fault::Code(CKR_TEMPLATE_INCOMPLETE))?;
        check_secret_key_len(key_type, len)?;
        types.push(key_type);
        lens.push(len);
    }
    let origin = Origin::Derived {
        always_sensitive: base.has(CKA_ALWAYS_SENSITIVE),
        never_extractable: base.has(CKA_NEVER_EXTRACTABLE),
    };
    let values = parameters.derive(&module.value_of(base)?, &lens)?;
    let mut made = Vec::new();
    for ((template, key_type), value) in wanted.iter().zip(types).zip(values) {
        match create_secret_key(module, session, template, key_type, value, origin) {
            Ok(created) => made.push(created),
            Err(fault) => {
                for created in made {
                    take_back(module, session, created)?;
                }
                return Err(fault);
            }
        }
    }
    for (handle, created) in handles.into_iter().zip(made) {
        handle.set(0, created);
    }
    Ok(())
}

/// Puts into a template what the base key demands and what all derived keys are; the type of the key.
fn complete(template: &mut Template, base: &Object) -> Answer<CK_KEY_TYPE> {
    if let Some(Attribute::Known(inner)) = base.attribute(CKA_DERIVE_TEMPLATE) {
        template.fix_all(&inner)?;
    }
    template.fix_number(CKA_CLASS, Class::SecretKey.number())?;
    Ok(template.number(CKA_KEY_TYPE)?.unwrap_or(CKK_GENERIC_SECRET))
}

/// As much of the beginning of a value as the key is to be long: all of it, where the template does not
/// say and the type leaves it open (section 6.43.3).
fn beginning(whole: &Secret, key_type: CK_KEY_TYPE, template: &Template) -> Answer<Secret> {
    let len = match wanted_len(template, key_type)? {
        Some(len) => len,
        None if key_type == CKK_AES => return Err(Fault::Code(CKR_TEMPLATE_INCOMPLETE)),
        None => whole.len(),
    };
    if len > whole.len() {
        return Err(Fault::Code(CKR_KEY_SIZE_RANGE));
    }
    check_secret_key_len(key_type, len)?;
    Ok(Secret::copy_of(&whole.expose()[..len]))
}

/// A value from a bit of its on, and at its end from the beginning (section 6.43.7).
fn from_bit(value: &Secret, first: usize) -> Secret {
    let value = value.expose();
    let (start, shift) = (first / 8, first % 8);
    let at = |index: usize| u16::from(value[index % value.len()]);
    Secret::take(
        (start..start + value.len())
            .map(|index| {
                let [_, byte] = ((at(index) << 8 | at(index + 1)) >> (8 - shift)).to_be_bytes();
                byte
            })
            .collect(),
    )
}

/// What a private key and another party's point come to, and what a function makes of that. Of an agreed
/// value that is longer than the key, the leading bytes go (section 6.3.20).
fn agree(
    module: &mut Module,
    base: &Object,
    point: &[u8],
    kdf: Option<&Kdf>,
    key_type: CK_KEY_TYPE,
    template: &Template,
) -> Answer<Secret> {
    let invalid = || Fault::Code(CKR_MECHANISM_PARAM_INVALID);
    let algorithm = base.public_key().ok_or_else(invalid)?.algorithm();
    let field_len = match algorithm {
        KeyAlgorithm::Ec(curve) => curve.field_len(),
        KeyAlgorithm::X25519 => 32,
        _ => return Err(invalid()),
    };
    let point = read_point(algorithm, point).map_err(|_| invalid())?;
    let (usual, most) = match kdf {
        None => (field_len, field_len),
        Some(kdf) => (kdf.hash.digest_len(), MOST_OF_KDF),
    };
    let len = wanted_len(template, key_type)?.unwrap_or(usual);
    if len > most {
        return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT));
    }
    check_secret_key_len(key_type, len)?;
    let agreed = module.derive(base, point)?;
    Ok(match kdf {
        None => Secret::copy_of(&agreed.expose()[agreed.len() - len..]),
        Some(kdf) => expand(kdf, &agreed, len),
    })
}

/// What a private key and another party's value come to over a finite field: of it the leading bytes go too
/// (section 6.4).
fn agree_in_field(
    base: &Object,
    peer: &[u8],
    key_type: CK_KEY_TYPE,
    template: &Template,
) -> Answer<Secret> {
    let Some(FieldKey::DhPrivate(key)) = base.field_key() else {
        return Err(Fault::Code(CKR_KEY_TYPE_INCONSISTENT));
    };
    let most = key.group().prime().len();
    let len = wanted_len(template, key_type)?.unwrap_or(most);
    if len > most {
        return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT));
    }
    check_secret_key_len(key_type, len)?;
    let agreed = key
        .agree(peer)
        .ok_or(Fault::Code(CKR_MECHANISM_PARAM_INVALID))?;
    Ok(Secret::copy_of(&agreed.expose()[most - len..]))
}

/// How long a key is to be: as the template says, or as all keys of its type are.
fn wanted_len(template: &Template, key_type: CK_KEY_TYPE) -> Answer<Option<usize>> {
    Ok(value_len(template)?.or(des::key_len(key_type)))
}

/// The longest key that a function makes of what was agreed on.
const MOST_OF_KDF: usize = 1 << 12;

/// The key derivation functions of X9.63 (SEC 1, section 3.6.1) and of NIST SP 800-56A, section 5.8.1,
/// which differ in the order alone.
fn expand(kdf: &Kdf, agreed: &Secret, len: usize) -> Secret {
    let mut made = Vec::new();
    for counter in 1..=len.div_ceil(kdf.hash.digest_len()) {
        let counter = u32::try_from(counter)
            .expect("a key of 4,096 bytes takes few hashes")
            .to_be_bytes();
        let input = if kdf.counter_first {
            Secret::concat(&[&counter, agreed.expose(), &kdf.shared])
        } else {
            Secret::concat(&[agreed.expose(), &counter, &kdf.shared])
        };
        let mut hasher = Hasher::new(kdf.hash);
        hasher.update(input.expose());
        made.push(Secret::take(hasher.finish()));
    }
    let made: Vec<_> = made.iter().map(Secret::expose).collect();
    Secret::copy_of(&Secret::concat(&made).expose()[..len])
}

/// What AES makes of some data: as much of its beginning as the key is long (section 6.13.7).
fn encrypt_data(
    chosen: &Chosen,
    base: &Secret,
    iv: &[u8; BLOCK],
    data: &[u8],
    key_type: CK_KEY_TYPE,
    template: &Template,
) -> Answer<Secret> {
    let invalid = || Fault::Code(CKR_MECHANISM_PARAM_INVALID);
    let len = wanted_len(template, key_type)?.unwrap_or(data.len());
    if data.is_empty() || data.len() % BLOCK != 0 || len > data.len() {
        return Err(invalid());
    }
    check_secret_key_len(key_type, len)?;
    let (method, parameter) = match chosen.method() {
        Method::DeriveEcb => (Method::AesEcb, Parameter::Nothing),
        _ => (Method::AesCbc { padded: false }, Parameter::Iv(*iv)),
    };
    let made = Secret::take(encrypt(Cipher::new(method, &parameter, base, true)?, data)?);
    Ok(Secret::copy_of(&made.expose()[..len]))
}

/// Has a new key be no more open than the one that it comes from: where a template does not say, it
/// is the same; where it says otherwise, it is refused.
fn inherit(template: &mut Template, base: &Object) -> Answer {
    if base.has(CKA_SENSITIVE) {
        template.fix_flag(CKA_SENSITIVE, true)?;
    }
    if !base.has(CKA_EXTRACTABLE) {
        template.fix_flag(CKA_EXTRACTABLE, false)?;
    }
    Ok(())
}
