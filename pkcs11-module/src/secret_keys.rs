//! Secret keys, wherever their value comes from: what they are for, and how secret.

use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_KEY_TYPE, CK_OBJECT_HANDLE, CK_SESSION_HANDLE, CKA_ALWAYS_SENSITIVE,
    CKA_DECRYPT, CKA_DERIVE, CKA_ENCRYPT, CKA_EXTRACTABLE, CKA_KEY_TYPE, CKA_NEVER_EXTRACTABLE,
    CKA_SENSITIVE, CKA_SIGN, CKA_UNWRAP, CKA_VALUE, CKA_VALUE_LEN, CKA_VERIFY, CKA_WRAP, CKK_AES,
    CKK_GENERIC_SECRET, CKR_ATTRIBUTE_TYPE_INVALID, CKR_ATTRIBUTE_VALUE_INVALID,
    CKR_KEY_SIZE_RANGE, CKR_TEMPLATE_INCONSISTENT,
};
use strongroom::Secret;
use strongroom::key::LOCAL;
use strongroom::object::Kind;

use crate::attributes::{Content, Face, Given, Object, given_by};
use crate::class::Class;
use crate::fault::{Answer, Fault};
use crate::foreign::ulong;
use crate::legacy::{self, des};
use crate::mechanisms::hash_of_hmac_key;
use crate::placement::{Privacy, goes_to_vault, new_object};
use crate::state::Module;
use crate::template::{Template, flag, invalid, number, read_flag};

/// Where the value of a new secret key comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The caller gives it.
    Created,
    /// Somebody wrapped it, who may know it.
    Unwrapped,
    /// It was made here.
    Generated,
    /// It was derived from a key that has always been sensitive, or not, and has never been
    /// extractable, or was; and has the value of a key of the vault in it, or not.
    Derived {
        always_sensitive: bool,
        never_extractable: bool,
        of_vault: bool,
    },
}

/// Makes a secret key.
pub(crate) fn create_secret_key(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    template: &Template,
    key_type: CK_KEY_TYPE,
    value: Secret,
    origin: Origin,
) -> Answer<CK_OBJECT_HANDLE> {
    let to_vault = goes_to_vault(module, session, template)?;
    legacy::check_stays_in_session(template, key_type)?;
    // Section 4.1.1: whoever has a key made does not say what it is.
    if template.secret(CKA_VALUE).is_some() {
        return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT));
    }
    check_secret_key_len(key_type, value.len())?;
    let value = if des::key_len(key_type).is_none() {
        value
    } else {
        // All of a type are as long.
        if template.number(CKA_VALUE_LEN)?.is_some() {
            return Err(Fault::Code(CKR_ATTRIBUTE_TYPE_INVALID));
        }
        des_key(value, origin)?
    };
    // Whoever gives a value need not, and according to section 4.10 must not, give its length.
    if template
        .number(CKA_VALUE_LEN)?
        .is_some_and(|len| len != ulong(value.len()))
    {
        return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT));
    }
    let class = Class::SecretKey;
    let mut given = given_by(template, class, &[CKA_KEY_TYPE, CKA_VALUE_LEN])?;
    given.insert(CKA_KEY_TYPE, number(key_type));
    name_its_uses(&mut given)?;
    let privacy = Privacy::of(module, session, class, &given)?;
    let secret = !(origin == Origin::Created && is_said_public(privacy, &given));
    let sensitive = read_flag(given.entry(CKA_SENSITIVE).or_insert_with(|| flag(secret)))?;
    let extractable = read_flag(
        given
            .entry(CKA_EXTRACTABLE)
            .or_insert_with(|| flag(!secret)),
    )?;
    let (always_sensitive, never_extractable) = match origin {
        Origin::Created | Origin::Unwrapped => (false, false),
        Origin::Generated => (sensitive, !extractable),
        Origin::Derived {
            always_sensitive,
            never_extractable,
            ..
        } => (
            always_sensitive && sensitive,
            never_extractable && !extractable,
        ),
    };
    given.insert(CKA_ALWAYS_SENSITIVE, flag(always_sensitive));
    given.insert(CKA_NEVER_EXTRACTABLE, flag(never_extractable));
    let local = origin == Origin::Generated;
    if !to_vault {
        let content = Content {
            secrets: [(CKA_VALUE, value)].into(),
            local,
            of_vault: matches!(origin, Origin::Derived { of_vault: true, .. }),
            ..Content::default()
        };
        return module.hold(session, class, privacy, given, content);
    }
    let mut object = new_object(module, session, Kind::SecretKey, privacy, &given, class)?;
    object
        .attributes
        .insert(LOCAL.to_owned(), local.to_string());
    let id = module.source()?.seal(object, &value)?;
    module.handle_of(id, Face::Itself)
}

/// Whether somebody who gives a secret key's value says of it that no login is needed, where one could
/// be, and nothing of how secret it is: then it is not hidden from those who have the token. Section 4.10
/// has every secret key without CKA_SENSITIVE so; here the others are secret.
fn is_said_public(privacy: Privacy, given: &Given) -> bool {
    privacy == Privacy::Guarded(false)
        && ![CKA_SENSITIVE, CKA_EXTRACTABLE]
            .iter()
            .any(|kind| given.contains_key(kind))
}

/// A key of triple DES; one that is derived gets its parity.
fn des_key(value: Secret, origin: Origin) -> Answer<Secret> {
    let value = match origin {
        Origin::Derived { .. } => des::with_parity(&value),
        Origin::Created | Origin::Unwrapped | Origin::Generated => value,
    };
    des::check(&value)?;
    Ok(value)
}

/// Destroys a secret key that was made just now, with others that could not be made.
pub(crate) fn take_back(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    handle: CK_OBJECT_HANDLE,
) -> Answer {
    if let Object::Sealed(metadata, _) = module.object(session, handle)? {
        module.source()?.remove(&metadata)?;
        module.refresh_objects()
    } else {
        module.forget(handle);
        Ok(())
    }
}

/// What secret keys are for: nobody says so of a key and means more than he says.
fn name_its_uses(given: &mut Given) -> Answer {
    const USES: [CK_ATTRIBUTE_TYPE; 7] = [
        CKA_ENCRYPT,
        CKA_DECRYPT,
        CKA_SIGN,
        CKA_VERIFY,
        CKA_WRAP,
        CKA_UNWRAP,
        CKA_DERIVE,
    ];
    let mut some = false;
    for kind in USES {
        if let Some(bytes) = given.get(&kind) {
            some |= read_flag(bytes)?;
        }
    }
    if some {
        for kind in USES {
            given.entry(kind).or_insert_with(|| flag(false));
        }
    }
    Ok(())
}

/// The longest secret key, in bytes: keys that are put together would grow without an end.
const MOST_OF_SECRET: usize = 1 << 13;

/// Refuses a length that keys of a type do not have.
pub(crate) fn check_secret_key_len(key_type: CK_KEY_TYPE, len: usize) -> Answer {
    if len > MOST_OF_SECRET {
        return Err(Fault::Code(CKR_KEY_SIZE_RANGE));
    }
    let right = match key_type {
        CKK_GENERIC_SECRET => len > 0,
        CKK_AES => [16, 24, 32].contains(&len),
        hmac if hash_of_hmac_key(hmac).is_some() => len > 0,
        other => des::key_len(other).ok_or_else(invalid)? == len,
    };
    if right {
        Ok(())
    } else {
        Err(Fault::Code(CKR_ATTRIBUTE_VALUE_INVALID))
    }
}
