//! Public and private keys, of this library's own making or given: in the vault one object is both.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_OBJECT_HANDLE, CK_SESSION_HANDLE, CKA_ALWAYS_SENSITIVE, CKA_EC_PARAMS,
    CKA_EXTRACTABLE, CKA_KEY_TYPE, CKA_MODULUS_BITS, CKA_NEVER_EXTRACTABLE, CKA_PUBLIC_EXPONENT,
    CKA_PUBLIC_KEY_INFO, CKA_SENSITIVE, CKR_KEY_SIZE_RANGE, CKR_TEMPLATE_INCONSISTENT,
};
use strongroom::key::{KeyAlgorithm, PUBLIC_KEY, PrivateKey, PublicKey};
use strongroom::object::{Kind, NewObject};

use crate::attributes::{Content, Face, Given, Object, PUBLIC_DESTROYED, given_by, write_down};
use crate::class::Class;
use crate::fault::{Answer, Fault};
use crate::placement::{Privacy, describe_object, goes_to_vault, new_object};
use crate::private_key::{PARTS, private_key_of, secret_parts};
use crate::public_key::public_key_of;
use crate::source::describe;
use crate::state::Module;
use crate::template::{Template, flag, read_flag};

/// Makes a key pair.
pub(crate) fn create_key_pair(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    algorithm: KeyAlgorithm,
    public_template: &Template,
    private_template: &Template,
) -> Answer<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE)> {
    let to_vault = goes_to_vault(module, session, private_template)?;
    // The public key is where the private key is.
    if !to_vault && goes_to_vault(module, session, public_template)? {
        return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT));
    }
    let besides = [
        CKA_KEY_TYPE,
        CKA_MODULUS_BITS,
        CKA_PUBLIC_EXPONENT,
        CKA_EC_PARAMS,
    ];
    let for_public = given_by(public_template, Class::PublicKey, &besides)?;
    let for_private = given_by(private_template, Class::PrivateKey, &besides)?;
    let public_privacy = Privacy::of(module, session, Class::PublicKey, &for_public)?;
    let privacy = Privacy::of(module, session, Class::PrivateKey, &for_private)?;
    if !to_vault {
        let key = PrivateKey::generate(algorithm)?;
        return hold_key_pair(
            module,
            session,
            &key,
            (for_public, public_privacy),
            (for_private, privacy),
        );
    }
    check_stays_in_vault(&for_private)?;
    if algorithm == KeyAlgorithm::Rsa(1024) {
        return Err(Fault::Code(CKR_KEY_SIZE_RANGE));
    }
    let mut object = new_object(
        module,
        session,
        Kind::PrivateKey,
        privacy,
        &for_private,
        Class::PrivateKey,
    )?;
    write_down(
        &for_public,
        Class::PublicKey,
        Face::Public,
        &mut object.attributes,
    )?;
    let id = module.source()?.generate_key(object, algorithm)?;
    Ok((
        module.handle_of(id, Face::Public)?,
        module.handle_of(id, Face::Itself)?,
    ))
}

/// A public key whose private key is in the vault already belongs to it, and only says more of it.
pub(crate) fn create_public_key(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    template: &Template,
) -> Answer<CK_OBJECT_HANDLE> {
    let to_vault = goes_to_vault(module, session, template)?;
    let public = public_key_of(template)?;
    check_public_key_info(template, &public)?;
    let class = Class::PublicKey;
    let given = given_by(template, class, &KEY_PARTS)?;
    let privacy = Privacy::of(module, session, class, &given)?;
    if !to_vault {
        let content = Content {
            public: Some(public),
            ..Content::default()
        };
        return module.hold(session, class, privacy, given, content);
    }
    if let Some(private) = find_key(module, session, Class::PrivateKey, &public)? {
        let Object::Sealed(metadata, _) = private else {
            unreachable!("only keys of the vault are looked for");
        };
        describe_object(
            &mut NewObject::new(
                metadata.token.clone(),
                metadata.label.clone(),
                metadata.kind,
            ),
            &given,
            class,
            Face::Public,
        )?;
        module
            .source()?
            .update(&metadata, &|object| {
                object.attributes.remove(PUBLIC_DESTROYED);
                describe_object(object, &given, class, Face::Public)
                    .expect("it was possible just now");
            })
            .map_err(Fault::about(describe(&metadata)))?;
        return module.handle_of(metadata.id, Face::Public);
    }
    let mut object = new_object(module, session, Kind::Credential, privacy, &given, class)?;
    object
        .attributes
        .insert(PUBLIC_KEY.to_owned(), STANDARD.encode(public.spki()));
    let id = module.source()?.store(object)?;
    module.handle_of(id, Face::Itself)
}

pub(crate) fn create_private_key(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    template: &Template,
) -> Answer<CK_OBJECT_HANDLE> {
    let key = private_key_of(template)?;
    store_private_key(module, session, template, &key)
}

/// Makes a private key of one that is at hand.
pub(crate) fn store_private_key(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    template: &Template,
    key: &PrivateKey,
) -> Answer<CK_OBJECT_HANDLE> {
    let to_vault = goes_to_vault(module, session, template)?;
    let public = key.public();
    check_public_key_info(template, &public)?;
    let class = Class::PrivateKey;
    let given = given_by(template, class, &KEY_PARTS)?;
    let privacy = Privacy::of(module, session, class, &given)?;
    if !to_vault {
        let content = content_of(key, &given, false)?;
        return module.hold(session, class, privacy, given, content);
    }
    check_stays_in_vault(&given)?;
    if matches!(public.algorithm(), KeyAlgorithm::Rsa(bits) if !(2048..=4096).contains(&bits)) {
        return Err(Fault::Code(CKR_KEY_SIZE_RANGE));
    }
    let mut object = new_object(module, session, Kind::PrivateKey, privacy, &given, class)?;
    if find_key(module, session, Class::PublicKey, &public)?.is_some() {
        object
            .attributes
            .insert(PUBLIC_DESTROYED.to_owned(), true.to_string());
    }
    let id = module.source()?.import_key(object, &key.to_pkcs8())?;
    module.handle_of(id, Face::Itself)
}

/// The attributes that are a key, or follow from it.
const KEY_PARTS: [CK_ATTRIBUTE_TYPE; 14] = {
    let mut all = [CKA_PUBLIC_KEY_INFO; 14];
    let mut index = 0;
    while index < PARTS.len() {
        all[index] = PARTS[index];
        index += 1;
    }
    all[12] = CKA_MODULUS_BITS;
    all
};

/// The key itself says what its SubjectPublicKeyInfo is.
fn check_public_key_info(template: &Template, public: &PublicKey) -> Answer {
    match template.bytes(CKA_PUBLIC_KEY_INFO) {
        Some(given) if !given.is_empty() && given != public.spki() => {
            Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT))
        }
        _ => Ok(()),
    }
}

/// The key of a class in the session's token, in the vault, that has this public key.
fn find_key(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    class: Class,
    public: &PublicKey,
) -> Answer<Option<Object>> {
    module.refresh_objects()?;
    let slot = module.session(session)?.slot();
    let found = module
        .objects_in(slot)?
        .into_iter()
        .map(|(_, object)| object)
        .find(|object| {
            object.is_token_object()
                && object.class() == class
                && object.public_key() == Some(public)
        });
    Ok(found)
}

fn hold_key_pair(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    key: &PrivateKey,
    for_public: (Given, Privacy),
    mut for_private: (Given, Privacy),
) -> Answer<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE)> {
    say_how_secret(&mut for_private.0)?;
    let public = Content {
        public: Some(key.public()),
        local: true,
        ..Content::default()
    };
    let private = content_of(key, &for_private.0, true)?;
    hold_pair(
        module,
        session,
        (for_public, public),
        (for_private, private),
    )
}

/// Has a session hold both keys of a pair: what was given of each, who may see it, and what it is.
pub(crate) fn hold_pair(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    ((for_public, public_privacy), public): ((Given, Privacy), Content),
    ((for_private, privacy), private): ((Given, Privacy), Content),
) -> Answer<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE)> {
    Ok((
        module.hold(
            session,
            Class::PublicKey,
            public_privacy,
            for_public,
            public,
        )?,
        module.hold(session, Class::PrivateKey, privacy, for_private, private)?,
    ))
}

/// Says of a new private key what its template did not.
pub(crate) fn say_how_secret(given: &mut Given) -> Answer {
    let sensitive = read_flag(given.entry(CKA_SENSITIVE).or_insert_with(|| flag(true)))?;
    let extractable = read_flag(given.entry(CKA_EXTRACTABLE).or_insert_with(|| flag(false)))?;
    given.insert(CKA_ALWAYS_SENSITIVE, flag(sensitive));
    given.insert(CKA_NEVER_EXTRACTABLE, flag(!extractable));
    Ok(())
}

/// A private key as a session object; its parts only if they may be read.
fn content_of(key: &PrivateKey, given: &Given, local: bool) -> Answer<Content> {
    let is = |kind, default| {
        given
            .get(&kind)
            .map_or(Ok(default), |bytes| read_flag(bytes))
    };
    let readable = !is(CKA_SENSITIVE, true)? && is(CKA_EXTRACTABLE, false)?;
    Ok(Content {
        secrets: if readable {
            secret_parts(key).into_iter().collect()
        } else {
            std::collections::BTreeMap::new()
        },
        public: Some(key.public()),
        private: Some(key.to_pkcs8()),
        local,
        ..Content::default()
    })
}

/// A private key of the vault does not leave it, whatever else somebody wishes.
pub(crate) fn check_stays_in_vault(given: &Given) -> Answer {
    let is = |kind, value| given.get(&kind).is_some_and(|bytes| *bytes == flag(value));
    if is(CKA_SENSITIVE, false) || is(CKA_EXTRACTABLE, true) {
        return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT));
    }
    Ok(())
}
