//! Objects (PKCS#11 3.1, section 5.7): how they are made, changed and destroyed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_KEY_TYPE, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE,
    CK_ULONG, CKA_ALWAYS_AUTHENTICATE, CKA_ALWAYS_SENSITIVE, CKA_APPLICATION, CKA_CERTIFICATE_TYPE,
    CKA_CLASS, CKA_COPYABLE, CKA_DECRYPT, CKA_DERIVE, CKA_DESTROYABLE, CKA_EC_PARAMS, CKA_ENCRYPT,
    CKA_EXTRACTABLE, CKA_KEY_TYPE, CKA_LABEL, CKA_MODIFIABLE, CKA_MODULUS_BITS,
    CKA_NEVER_EXTRACTABLE, CKA_PRIVATE, CKA_PUBLIC_EXPONENT, CKA_PUBLIC_KEY_INFO, CKA_SENSITIVE,
    CKA_SIGN, CKA_TOKEN, CKA_UNWRAP, CKA_VALUE, CKA_VALUE_LEN, CKA_VERIFY, CKA_WRAP, CKC_X_509,
    CKK_AES, CKK_DH, CKK_DSA, CKK_GENERIC_SECRET, CKR_ACTION_PROHIBITED,
    CKR_ATTRIBUTE_TYPE_INVALID, CKR_ATTRIBUTE_VALUE_INVALID, CKR_KEY_SIZE_RANGE,
    CKR_SESSION_READ_ONLY, CKR_TEMPLATE_INCOMPLETE, CKR_TEMPLATE_INCONSISTENT,
    CKR_TOKEN_WRITE_PROTECTED, CKR_USER_NOT_LOGGED_IN,
};
use strongroom::Secret;
use strongroom::key::{KeyAlgorithm, LOCAL, PUBLIC_KEY, PrivateKey, PublicKey};
use strongroom::object::{CERTIFICATE, Kind, Label, NewObject, PIN};

use crate::attributes::{
    Class, Content, Face, Given, Object, PUBLIC_DESTROYED, changed_by, changed_by_copy, flag,
    given_by, number, write_down,
};
use crate::certificate::Certificate;
use crate::fault::{Answer, Fault, answer};
use crate::foreign::{Foreign, ulong};
use crate::legacy::{self, des};
use crate::mechanisms::hash_of_hmac_key;
use crate::private_key::{PARTS, private_key_of, secret_parts};
use crate::public_key::public_key_of;
use crate::source::describe;
use crate::state::{Module, private_key, with_module};
use crate::template::{Template, invalid, read_flag};

/// C_CreateObject, section 5.7.1.
pub(crate) unsafe extern "C" fn create_object(
    session: CK_SESSION_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    object: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_CreateObject", || {
        // SAFETY: the caller's template, and the caller's CK_OBJECT_HANDLE.
        let (template, handle) =
            unsafe { (Template::read(template, count)?, Foreign::one(object)?) };
        with_module(|module| {
            module.session(session)?;
            let class = Class::of(template.required_number(CKA_CLASS)?)
                .filter(|class| !class.is_standing())
                .ok_or_else(invalid)?;
            let created = match class {
                Class::Data => create_data(module, session, template),
                Class::Certificate => create_certificate(module, session, template),
                Class::PublicKey | Class::PrivateKey | Class::DomainParameters
                    if is_over_field(&template, class)? =>
                {
                    let key_type = template.required_number(CKA_KEY_TYPE)?;
                    legacy::creation::create(module, session, &template, class, key_type)
                }
                Class::PublicKey => create_public_key(module, session, &template),
                Class::PrivateKey => create_private_key(module, session, &template),
                Class::SecretKey => {
                    let mut template = template;
                    let value = template
                        .take_secret(CKA_VALUE)
                        .ok_or(Fault::Code(CKR_TEMPLATE_INCOMPLETE))?;
                    let key_type = template.required_number(CKA_KEY_TYPE)?;
                    create_secret_key(module, session, &template, key_type, value, Origin::Created)
                }
                Class::Mechanism | Class::Profile | Class::DomainParameters => Err(invalid()),
            }?;
            handle.set(0, created);
            Ok(())
        })
    })
}

/// Whether a template is that of a key over a finite field, or of its parameters. Of domain parameters
/// there are no others.
fn is_over_field(template: &Template, class: Class) -> Answer<bool> {
    let key_type = template.required_number(CKA_KEY_TYPE)?;
    Ok(matches!(key_type, CKK_DSA | CKK_DH) || class == Class::DomainParameters)
}

/// C_CopyObject, section 5.7.2. What was said of the object is said of the copy too, but for what the
/// template says otherwise, as far as it could be said of the object itself. A private key of the vault
/// is not copied: the TPM has it once.
pub(crate) unsafe extern "C" fn copy_object(
    session: CK_SESSION_HANDLE,
    handle: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    copy: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_CopyObject", || {
        // SAFETY: the caller's template, and the caller's CK_OBJECT_HANDLE.
        let (mut template, copy) =
            unsafe { (Template::read(template, count)?, Foreign::one(copy)?) };
        with_module(|module| {
            let object = module.object(session, handle)?;
            if !object.has(CKA_COPYABLE) {
                return Err(Fault::Code(CKR_ACTION_PROHIBITED));
            }
            let class = object.class();
            let to_vault = template
                .flag(CKA_TOKEN)?
                .unwrap_or(object.is_token_object());
            if to_vault {
                check_may_write(module, session)?;
                if object.key_type().is_some_and(legacy::is_legacy) {
                    return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT));
                }
            }
            template.remove(CKA_TOKEN);
            let mut given = object.all_given();
            let may_change = object.has(CKA_MODIFIABLE)
                && (!object.is_token_object() || check_may_write(module, session).is_ok());
            given.extend(changed_by_copy(&template, &object, may_change)?);
            given.insert(CKA_LABEL, object.label_of(&given));
            let privacy = Privacy::of(module, session, class, &given)?;
            let content = content_of_copy(module, &object)?;
            let created = if to_vault {
                put_copy(module, session, class, privacy, &given, content)?
            } else {
                module.hold(session, class, privacy, given, content)?
            };
            copy.set(0, created);
            Ok(())
        })
    })
}

fn content_of_copy(module: &mut Module, object: &Object) -> Answer<Content> {
    let mut content = Content {
        public: object.public_key().cloned(),
        certificate: object.certificate(),
        field: object.field_key().cloned(),
        local: object.is_local(),
        of_vault: object.is_of_vault(),
        ..Content::default()
    };
    match object.class() {
        Class::Data | Class::SecretKey => {
            content.secrets = [(CKA_VALUE, module.value_of(object)?)].into();
        }
        Class::PrivateKey if content.field.is_none() => {
            let Object::Held(held) = object else {
                return Err(Fault::Code(CKR_ACTION_PROHIBITED));
            };
            let key = private_key(held)?;
            content.private = Some(key.to_pkcs8());
            if object.is_readable() {
                content.secrets = secret_parts(&key).into_iter().collect();
            }
        }
        _ => {}
    }
    Ok(content)
}

/// Makes an object of the vault of a copy's content.
fn put_copy(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    class: Class,
    privacy: Privacy,
    given: &Given,
    mut content: Content,
) -> Answer<CK_OBJECT_HANDLE> {
    let kind = match class {
        Class::Data | Class::PublicKey => Kind::Credential,
        Class::SecretKey => Kind::SecretKey,
        Class::PrivateKey => {
            check_stays_in_vault(given)?;
            Kind::PrivateKey
        }
        Class::Certificate => Kind::Certificate,
        Class::Mechanism | Class::Profile | Class::DomainParameters => {
            return Err(Fault::Code(CKR_ACTION_PROHIBITED));
        }
    };
    let mut object = new_object(module, session, kind, privacy, given, class)?;
    let attributes = &mut object.attributes;
    if let (Class::PublicKey, Some(public)) = (class, &content.public) {
        attributes.insert(PUBLIC_KEY.to_owned(), STANDARD.encode(public.spki()));
    }
    if let Some(certificate) = &content.certificate {
        attributes.insert(CERTIFICATE.to_owned(), STANDARD.encode(&certificate.der));
    }
    if class == Class::SecretKey {
        attributes.insert(LOCAL.to_owned(), content.local.to_string());
    }
    let source = module.source()?;
    let id = match (content.secrets.remove(&CKA_VALUE), content.private) {
        (_, Some(pkcs8)) => source.import_key(object, &pkcs8)?,
        (Some(value), None) => source.seal(object, &value)?,
        (None, None) => source.store(object)?,
    };
    module.handle_of(id, Face::Itself)
}

/// C_DestroyObject, section 5.7.3. With the private key of a pair its public key goes too, for
/// they are one object of the vault; a public key that goes leaves the private one.
pub(crate) unsafe extern "C" fn destroy_object(
    session: CK_SESSION_HANDLE,
    handle: CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_DestroyObject", || {
        with_module(|module| {
            let object = module.object(session, handle)?;
            if object.is_token_object() {
                check_may_write(module, session)?;
            }
            if !object.has(CKA_DESTROYABLE) {
                return Err(Fault::Code(CKR_ACTION_PROHIBITED));
            }
            let (metadata, face) = match object {
                Object::Held(_) => {
                    module.forget(handle);
                    return Ok(());
                }
                Object::Standing(_) => return Err(Fault::Code(CKR_ACTION_PROHIBITED)),
                Object::Sealed(metadata, face) => (metadata, face),
            };
            let source = module.source()?;
            match face {
                Face::Itself => source.remove(&metadata),
                Face::Public => source.update(&metadata, &|object| {
                    object
                        .attributes
                        .insert(PUBLIC_DESTROYED.to_owned(), true.to_string());
                }),
            }
            .map_err(Fault::about(describe(&metadata)))?;
            module.refresh_objects()
        })
    })
}

/// C_SetAttributeValue, section 5.7.6: all of the template or nothing.
pub(crate) unsafe extern "C" fn set_attribute_value(
    session: CK_SESSION_HANDLE,
    handle: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    answer("C_SetAttributeValue", || {
        // SAFETY: the caller's template.
        let template = unsafe { Template::read(template, count) }?;
        with_module(|module| {
            let object = module.object(session, handle)?;
            if object.is_token_object() {
                check_may_write(module, session)?;
            }
            if !object.has(CKA_MODIFIABLE) {
                return Err(Fault::Code(CKR_ACTION_PROHIBITED));
            }
            let changed = changed_by(&template, &object)?;
            match object {
                Object::Held(mut held) => {
                    held.given.extend(changed);
                    module.replace(handle, held);
                    Ok(())
                }
                Object::Standing(_) => Err(Fault::Code(CKR_ACTION_PROHIBITED)),
                Object::Sealed(ref metadata, face) => {
                    let class = object.class();
                    // What cannot be written down is found before anything is written.
                    describe_object(
                        &mut NewObject::new(
                            metadata.token.clone(),
                            metadata.label.clone(),
                            metadata.kind,
                        ),
                        &changed,
                        class,
                        face,
                    )?;
                    module
                        .source()?
                        .update(metadata, &|object| {
                            describe_object(object, &changed, class, face)
                                .expect("it was possible just now");
                        })
                        .map_err(Fault::about(describe(metadata)))?;
                    module.refresh_objects()
                }
            }
        })
    })
}

/// Whether a new object is for the token's user alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privacy {
    /// The token has no PIN that could guard it.
    None,
    /// It is, or is not.
    Guarded(bool),
}

impl Privacy {
    /// What a template has as CKA_PRIVATE; unless it says so, secrets are private and what can be
    /// read by anyone is not.
    ///
    /// # Errors
    /// `CKR_USER_NOT_LOGGED_IN` for a private object of whoever is not the user.
    pub(crate) fn of(
        module: &mut Module,
        session: CK_SESSION_HANDLE,
        class: Class,
        given: &Given,
    ) -> Answer<Self> {
        let is = |kind| given.get(&kind).map(|bytes| flag_of(bytes)).transpose();
        let asks = is(CKA_ALWAYS_AUTHENTICATE)?.unwrap_or(false);
        let slot = module.session(session)?.slot();
        if !module.token(slot)?.has_pins {
            // No login could come before each use.
            return if asks {
                Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT))
            } else {
                Ok(Self::None)
            };
        }
        let open = [
            Class::Certificate,
            Class::PublicKey,
            Class::DomainParameters,
        ];
        let secret = !open.contains(&class);
        let private = is(CKA_PRIVATE)?.unwrap_or(secret);
        if asks && !private {
            return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT));
        }
        if private && !module.is_user(slot) {
            return Err(Fault::Code(CKR_USER_NOT_LOGGED_IN));
        }
        Ok(Self::Guarded(private))
    }

    pub(crate) fn is_private(self) -> bool {
        self == Self::Guarded(true)
    }
}

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
    let sensitive = flag_of(given.entry(CKA_SENSITIVE).or_insert_with(|| flag(secret)))?;
    let extractable = flag_of(
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
            some |= flag_of(bytes)?;
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

/// Whether a template is that of a token object, which the session may make.
fn goes_to_vault(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    template: &Template,
) -> Answer<bool> {
    let is_token_object = template.flag(CKA_TOKEN)?.unwrap_or(false);
    if is_token_object {
        check_may_write(module, session)?;
    }
    Ok(is_token_object)
}

fn check_may_write(module: &mut Module, session: CK_SESSION_HANDLE) -> Answer {
    if module.token_of(session)?.write_protected {
        return Err(Fault::Code(CKR_TOKEN_WRITE_PROTECTED));
    }
    if !module.session(session)?.may_write() {
        return Err(Fault::Code(CKR_SESSION_READ_ONLY));
    }
    Ok(())
}

/// A private key of the vault does not leave it, whatever else somebody wishes.
fn check_stays_in_vault(given: &Given) -> Answer {
    let is = |kind, value| given.get(&kind).is_some_and(|bytes| *bytes == flag(value));
    if is(CKA_SENSITIVE, false) || is(CKA_EXTRACTABLE, true) {
        return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT));
    }
    Ok(())
}

fn create_data(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    mut template: Template,
) -> Answer<CK_OBJECT_HANDLE> {
    let to_vault = goes_to_vault(module, session, &template)?;
    let value = template
        .take_secret(CKA_VALUE)
        .unwrap_or_else(|| Secret::zeroed(0));
    let class = Class::Data;
    let mut given = given_by(&template, class, &[])?;
    given.entry(CKA_APPLICATION).or_default();
    let privacy = Privacy::of(module, session, class, &given)?;
    if !to_vault {
        let content = Content {
            secrets: [(CKA_VALUE, value)].into(),
            ..Content::default()
        };
        return module.hold(session, class, privacy, given, content);
    }
    let object = new_object(module, session, Kind::Credential, privacy, &given, class)?;
    let id = module.source()?.seal(object, &value)?;
    module.handle_of(id, Face::Itself)
}

fn create_certificate(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    mut template: Template,
) -> Answer<CK_OBJECT_HANDLE> {
    let to_vault = goes_to_vault(module, session, &template)?;
    if template.required_number(CKA_CERTIFICATE_TYPE)? != CKC_X_509 {
        return Err(invalid());
    }
    let der = template
        .take_secret(CKA_VALUE)
        .ok_or(Fault::Code(CKR_TEMPLATE_INCOMPLETE))?;
    let certificate = Certificate::parse(der.expose()).ok_or_else(invalid)?;
    let class = Class::Certificate;
    let given = given_by(&template, class, &[CKA_CERTIFICATE_TYPE])?;
    let privacy = Privacy::of(module, session, class, &given)?;
    if !to_vault {
        let content = Content {
            certificate: Some(certificate),
            ..Content::default()
        };
        return module.hold(session, class, privacy, given, content);
    }
    let mut object = new_object(module, session, Kind::Certificate, privacy, &given, class)?;
    object
        .attributes
        .insert(CERTIFICATE.to_owned(), STANDARD.encode(&certificate.der));
    let id = module.source()?.store(object)?;
    module.handle_of(id, Face::Itself)
}

/// A public key whose private key is in the vault already belongs to it, and only says more of it.
fn create_public_key(
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

fn create_private_key(
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
    let sensitive = flag_of(given.entry(CKA_SENSITIVE).or_insert_with(|| flag(true)))?;
    let extractable = flag_of(given.entry(CKA_EXTRACTABLE).or_insert_with(|| flag(false)))?;
    given.insert(CKA_ALWAYS_SENSITIVE, flag(sensitive));
    given.insert(CKA_NEVER_EXTRACTABLE, flag(!extractable));
    Ok(())
}

/// A private key as a session object; its parts only if they may be read.
fn content_of(key: &PrivateKey, given: &Given, local: bool) -> Answer<Content> {
    let is = |kind, default| given.get(&kind).map_or(Ok(default), |bytes| flag_of(bytes));
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

fn flag_of(bytes: &[u8]) -> Answer<bool> {
    read_flag(bytes)
}

/// A new object of the vault in the session's token.
fn new_object(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    kind: Kind,
    privacy: Privacy,
    given: &Given,
    class: Class,
) -> Answer<NewObject> {
    let token = module.token_of(session)?.name.clone();
    let label = kind.as_str().parse::<Label>()?;
    let mut object = NewObject::new(token, label, kind);
    let mut given = given.clone();
    // An object without a label has the empty one.
    given.entry(CKA_LABEL).or_default();
    describe_object(&mut object, &given, class, Face::Itself)?;
    if let Privacy::Guarded(private) = privacy {
        object
            .attributes
            .insert(PIN.to_owned(), private.to_string());
    }
    Ok(object)
}

/// Writes down what was said of an object of the vault. Its label is the vault's own, if it can
/// be that: the empty one cannot.
fn describe_object(object: &mut NewObject, given: &Given, class: Class, face: Face) -> Answer {
    let mut given = given.clone();
    if face == Face::Itself {
        let label = given
            .get(&CKA_LABEL)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .and_then(|text| text.parse::<Label>().ok());
        if let Some(label) = label {
            object.label = label;
            object.attributes.remove("cka.label");
            given.remove(&CKA_LABEL);
        }
    }
    write_down(&given, class, face, &mut object.attributes)
}
