//! Keys that are derived from others (PKCS#11 3.1, section 5.18.5): Diffie-Hellman (6.3.20, 6.4), what AES makes
//! of some data (6.13.7), what a pseudorandom function does (6.42), and keys and data put together or
//! taken apart (6.43).
//!
//! A key that may not be read is not read through what comes of it. Where its value goes into the new key
//! as it is, all of it does, and in its own order: whoever had a key of one byte of it would find that byte in
//! 256 tries, and so all of them; and whoever had a key that is turned round would put a byte before the one and
//! after the other, and see by their codes when both are the same. What a function makes of a key does not grow
//! in small steps either, where it must not be read: see [`STEP`].

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_INVALID_HANDLE, CK_KEY_TYPE, CK_MECHANISM,
    CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CKA_ALLOWED_MECHANISMS,
    CKA_ALWAYS_SENSITIVE, CKA_CLASS, CKA_DERIVE, CKA_DERIVE_TEMPLATE, CKA_EXTRACTABLE,
    CKA_KEY_TYPE, CKA_NEVER_EXTRACTABLE, CKA_PRIVATE, CKA_SENSITIVE, CKA_UNWRAP_TEMPLATE,
    CKA_WRAP_TEMPLATE, CKA_WRAP_WITH_TRUSTED, CKF_DERIVE, CKK_AES, CKK_GENERIC_SECRET,
    CKR_KEY_SIZE_RANGE, CKR_KEY_TYPE_INCONSISTENT, CKR_MECHANISM_PARAM_INVALID,
    CKR_TEMPLATE_INCOMPLETE, CKR_TEMPLATE_INCONSISTENT,
};
use strongroom::Secret;
use strongroom::key::KeyAlgorithm;

use crate::attributes::{Attribute, Object};
use crate::class::Class;
use crate::digesting::Hasher;
use crate::fault::{Answer, Fault, answer};
use crate::foreign::Foreign;
use crate::kbkdf;
use crate::keys::value_len;
use crate::legacy::des;
use crate::legacy::field::FieldKey;
use crate::mechanisms::Method;
use crate::parameters::{Chosen, Kdf, Parameter};
use crate::public_key::read_point;
use crate::secret_keys::{Origin, check_secret_key_len, create_secret_key, take_back};
use crate::state::{Module, with_module};
use crate::symmetric::{BLOCK, Cipher, at_once};
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
            let parents = Parents::of(module, session, base_key, &chosen)?;
            if let Parameter::Kbkdf(parameters) = chosen.parameter {
                return derive_several(module, session, &parents, *parameters, template, handle);
            }
            let created = derive_one(module, session, &parents, &chosen, template)?;
            handle.set(0, created);
            Ok(())
        })
    })
}

/// The keys that another one comes of.
struct Parents {
    /// The base key and, if there is one, the key that is put to it.
    keys: Vec<Object>,
    /// Whether what comes of them has their values in it.
    go_in: bool,
    /// What they demand of what comes of them.
    demands: Template,
}

/// The shortest key that a function makes of one where it must not be read.
const LEAST: usize = 16;

/// The steps in which its length grows: whoever has a key of a part of it finds what a longer one has besides by
/// putting every guess to the first, which of eight bytes are too many.
const STEP: usize = 8;

/// What is said of a key that also holds for another with its value.
const KEPT: [CK_ATTRIBUTE_TYPE; 4] = [
    CKA_ALLOWED_MECHANISMS,
    CKA_DERIVE_TEMPLATE,
    CKA_UNWRAP_TEMPLATE,
    CKA_WRAP_TEMPLATE,
];

impl Parents {
    fn of(
        module: &mut Module,
        session: CK_SESSION_HANDLE,
        base: CK_OBJECT_HANDLE,
        chosen: &Chosen,
    ) -> Answer<Self> {
        let class = match chosen.method() {
            Method::Ecdh | Method::Dh => Class::PrivateKey,
            _ => Class::SecretKey,
        };
        let mut keys = vec![module.key_for(session, base, chosen, class, CKA_DERIVE)?];
        if let Parameter::Key(other) = chosen.parameter {
            keys.push(module.key_for(session, other, chosen, class, CKA_DERIVE)?);
        }
        let go_in = matches!(
            chosen.method(),
            Method::ConcatenateKey | Method::ConcatenateData { .. } | Method::Xor | Method::Extract
        );
        let mut demands = Template::default();
        for key in &keys {
            if let Some(Attribute::Known(inner)) = key.attribute(CKA_DERIVE_TEMPLATE) {
                demands.fix_all(&inner)?;
            }
            // Sections 6.13.7 and 6.43.3: what comes of a key by AES, or has its value, is no more open
            // than the key; of two, the one that is less open decides.
            if !matches!(
                chosen.method(),
                Method::Ecdh | Method::Dh | Method::Kbkdf(_)
            ) {
                inherit(&mut demands, key)?;
            }
            if go_in {
                keep(&mut demands, key)?;
            }
        }
        Ok(Self {
            keys,
            go_in,
            demands,
        })
    }

    fn base(&self) -> &Object {
        &self.keys[0]
    }

    fn origin(&self) -> Origin {
        let all = |kind| self.keys.iter().all(|key| key.has(kind));
        Origin::Derived {
            always_sensitive: all(CKA_ALWAYS_SENSITIVE),
            never_extractable: all(CKA_NEVER_EXTRACTABLE),
            of_vault: self.go_in && self.keys.iter().any(Object::is_of_vault),
        }
    }

    /// Whether what comes of them must not be read.
    fn hide(&self) -> Answer<bool> {
        Ok(self.demands.flag(CKA_SENSITIVE)? == Some(true)
            || self.demands.flag(CKA_EXTRACTABLE)? == Some(false))
    }

    /// Puts into a template what they demand and what all derived keys are; the type of the key.
    fn complete(&self, template: &mut Template) -> Answer<CK_KEY_TYPE> {
        template.fix_as(&self.demands)?;
        template.fix_number(CKA_CLASS, Class::SecretKey.number())?;
        Ok(template.number(CKA_KEY_TYPE)?.unwrap_or(CKK_GENERIC_SECRET))
    }

    /// Refuses lengths that a key has not, or that a function's key must not have. `whole`: how long what the
    /// function makes is by itself.
    fn check_len(&self, key_type: CK_KEY_TYPE, len: usize, whole: Option<usize>) -> Answer {
        check_secret_key_len(key_type, len)?;
        let in_steps = len >= LEAST && (len % STEP == 0 || Some(len) == whole);
        if !in_steps && self.hide()? {
            return Err(Fault::Code(CKR_KEY_SIZE_RANGE));
        }
        Ok(())
    }
}

/// Has a new key be no more open than the one that it comes from: where a template does not say, it
/// is the same; where it says otherwise, it is refused.
fn inherit(template: &mut Template, key: &Object) -> Answer {
    for kept in [CKA_SENSITIVE, CKA_WRAP_WITH_TRUSTED, CKA_PRIVATE] {
        if key.has(kept) {
            template.fix_flag(kept, true)?;
        }
    }
    if !key.has(CKA_EXTRACTABLE) {
        template.fix_flag(CKA_EXTRACTABLE, false)?;
    }
    Ok(())
}

/// Has a new key with a key's value obey what was said of that key.
fn keep(template: &mut Template, key: &Object) -> Answer {
    for kind in KEPT {
        match key.attribute(kind) {
            Some(Attribute::Known(said)) if !said.is_empty() => template.fix(kind, &said)?,
            _ => {}
        }
    }
    Ok(())
}

fn derive_one(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    parents: &Parents,
    chosen: &Chosen,
    mut template: Template,
) -> Answer<CK_OBJECT_HANDLE> {
    let key_type = parents.complete(&mut template)?;
    let value = match &chosen.parameter {
        Parameter::Ecdh { point, kdf } => {
            module.check_authenticated(session, parents.base())?;
            agree(module, parents, point, kdf.as_ref(), key_type, &template)?
        }
        Parameter::Peer(peer) => {
            module.check_authenticated(session, parents.base())?;
            agree_in_field(parents, peer, key_type, &template)?
        }
        Parameter::Data { iv, data } => {
            let base = module.value_of(parents.base())?;
            let len = wanted_len(&template, key_type)?.unwrap_or(data.len());
            let made = encrypt_data(chosen, &base, iv, data, len)?;
            parents.check_len(key_type, len, None)?;
            made
        }
        _ => {
            let len = wanted_len(&template, key_type)?;
            let values = (parents.keys.iter())
                .map(|key| module.value_of(key))
                .collect::<Answer<Vec<_>>>()?;
            let whole = put_together(&values, chosen, len)?;
            whole.beginning(key_type, len, parents.hide()?)?
        }
    };
    create_secret_key(
        module,
        session,
        &template,
        key_type,
        value,
        parents.origin(),
    )
}

/// Keys of a pseudorandom function (section 6.42): all of them or none.
fn derive_several(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    parents: &Parents,
    mut parameters: kbkdf::Parameters,
    template: Template,
    handle: Foreign<CK_OBJECT_HANDLE>,
) -> Answer {
    let base = parents.base();
    if matches!(parameters.function, Method::Cmac { .. }) && base.key_type() != Some(CKK_AES) {
        return Err(Fault::Code(CKR_KEY_TYPE_INCONSISTENT));
    }
    let mut wanted = vec![kbkdf::Further { template, handle }];
    wanted.append(&mut parameters.more);
    let mut types = Vec::new();
    let mut lens = Vec::new();
    for key in &mut wanted {
        let (key_type, len) = type_and_len(parents, &mut key.template).map_err(at_fault(key))?;
        types.push(key_type);
        lens.push(len);
    }
    let values = parameters.derive(&module.value_of(base)?, &lens)?;
    let mut made = Vec::new();
    for ((key, key_type), value) in wanted.iter().zip(types).zip(values) {
        let origin = parents.origin();
        match create_secret_key(module, session, &key.template, key_type, value, origin) {
            Ok(created) => made.push(created),
            Err(fault) => {
                // Each is tried; what went wrong first is what the caller must know.
                for created in made {
                    if let Err(fault) = take_back(module, session, created) {
                        fault.log("C_DeriveKey: a key that was to be taken back stays");
                    }
                }
                return Err(at_fault(key)(fault));
            }
        }
    }
    for (key, created) in wanted.into_iter().zip(made) {
        key.handle.set(0, created);
    }
    Ok(())
}

fn type_and_len(parents: &Parents, template: &mut Template) -> Answer<(CK_KEY_TYPE, usize)> {
    let key_type = parents.complete(template)?;
    let len = wanted_len(template, key_type)?.ok_or(Fault::Code(CKR_TEMPLATE_INCOMPLETE))?;
    parents.check_len(key_type, len, None)?;
    Ok((key_type, len))
}

/// Section 6.42: of several keys, the one that cannot be made is known by its handle, which is none.
fn at_fault(key: &kbkdf::Further) -> impl FnOnce(Fault) -> Fault {
    |fault| {
        key.handle.set(0, CK_INVALID_HANDLE);
        fault
    }
}

/// What keys and data come to that are put together or taken apart.
struct Whole {
    value: Secret,
    /// Whether all of the keys is in it, as it was.
    has_all: bool,
}

fn put_together(keys: &[Secret], chosen: &Chosen, len: Option<usize>) -> Answer<Whole> {
    let invalid = || Fault::Code(CKR_MECHANISM_PARAM_INVALID);
    let base = keys[0].expose();
    let all = |value| Whole {
        value,
        has_all: true,
    };
    Ok(match (&chosen.parameter, chosen.method()) {
        (Parameter::Key(_), _) => {
            let keys: Vec<_> = keys.iter().map(Secret::expose).collect();
            all(Secret::concat(&keys))
        }
        // Nothing put to a key would leave that key, and what was said of it would be gone.
        (Parameter::Bytes(data), _) if data.is_empty() => return Err(invalid()),
        (Parameter::Bytes(data), Method::ConcatenateData { before: true }) => {
            all(Secret::concat(&[data, base]))
        }
        (Parameter::Bytes(data), Method::ConcatenateData { .. }) => {
            all(Secret::concat(&[base, data]))
        }
        // Section 6.43.6: as long as the shorter of both.
        (Parameter::Bytes(data), _) => Whole {
            value: Secret::take(
                (base.iter().zip(data))
                    .map(|(one, other)| one ^ other)
                    .collect(),
            ),
            has_all: data.len() >= base.len(),
        },
        (Parameter::Bit(first), _) => {
            if *first >= 8 * base.len() {
                return Err(invalid());
            }
            // Section 6.43.7: a part has no length of its own.
            if len.is_none() {
                return Err(Fault::Code(CKR_TEMPLATE_INCOMPLETE));
            }
            Whole {
                value: from_bit(base, *first),
                has_all: *first == 0,
            }
        }
        _ => return Err(invalid()),
    })
}

impl Whole {
    /// As much of the beginning as the key is to be long: all of it, where the template does not say and
    /// the type leaves it open (section 6.43.3). Of what must not be read, all of it.
    fn beginning(self, key_type: CK_KEY_TYPE, len: Option<usize>, hides: bool) -> Answer<Secret> {
        let most = self.value.len();
        let len = match len {
            Some(len) => len,
            None if key_type == CKK_AES => return Err(Fault::Code(CKR_TEMPLATE_INCOMPLETE)),
            None => most,
        };
        // Triple DES leaves a bit of each byte, and keys of it are found from both of their ends.
        let leaves_some = len < most || !self.has_all || des::key_len(key_type).is_some();
        if len > most || (hides && leaves_some) {
            return Err(Fault::Code(CKR_KEY_SIZE_RANGE));
        }
        check_secret_key_len(key_type, len)?;
        Ok(Secret::copy_of(&self.value.expose()[..len]))
    }
}

/// A value from a bit of its on, and at its end from the beginning (section 6.43.7).
fn from_bit(value: &[u8], first: usize) -> Secret {
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
    parents: &Parents,
    point: &[u8],
    kdf: Option<&Kdf>,
    key_type: CK_KEY_TYPE,
    template: &Template,
) -> Answer<Secret> {
    let invalid = || Fault::Code(CKR_MECHANISM_PARAM_INVALID);
    let base = parents.base();
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
    parents.check_len(key_type, len, kdf.is_none().then_some(field_len))?;
    let agreed = module.derive(base, point)?;
    Ok(match kdf {
        None => Secret::copy_of(&agreed.expose()[agreed.len() - len..]),
        Some(kdf) => expand(kdf, &agreed, len),
    })
}

/// What a private key and another party's value come to over a finite field: of it the leading bytes go too
/// (section 6.4).
fn agree_in_field(
    parents: &Parents,
    peer: &[u8],
    key_type: CK_KEY_TYPE,
    template: &Template,
) -> Answer<Secret> {
    let Some(FieldKey::DhPrivate(key)) = parents.base().field_key() else {
        return Err(Fault::Code(CKR_KEY_TYPE_INCONSISTENT));
    };
    let most = key.group().prime().len();
    let len = wanted_len(template, key_type)?.unwrap_or(most);
    if len > most {
        return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT));
    }
    parents.check_len(key_type, len, Some(most))?;
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

/// What AES makes of some data: as much of its beginning as the key is long (section 6.13.7). Section 6.27.3
/// has CKR_DATA_LEN_RANGE for data that is too short; clients, python-pkcs11's tests among them, know the
/// code that other tokens answer, that of a parameter.
fn encrypt_data(
    chosen: &Chosen,
    base: &Secret,
    iv: &[u8; BLOCK],
    data: &[u8],
    len: usize,
) -> Answer<Secret> {
    if data.is_empty() || data.len() % BLOCK != 0 || len > data.len() {
        return Err(Fault::Code(CKR_MECHANISM_PARAM_INVALID));
    }
    let (method, parameter) = match chosen.method() {
        Method::DeriveEcb => (Method::AesEcb, Parameter::Nothing),
        _ => (Method::AesCbc { padded: false }, Parameter::Iv(*iv)),
    };
    let made = Secret::take(at_once(Cipher::new(method, &parameter, base, true)?, data)?);
    Ok(Secret::copy_of(&made.expose()[..len]))
}
