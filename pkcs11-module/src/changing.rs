//! Objects that are there (PKCS#11 3.1, sections 5.7.2, 5.7.3 and 5.7.6): how they are copied, destroyed and
//! changed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CKA_COPYABLE,
    CKA_DESTROYABLE, CKA_LABEL, CKA_MODIFIABLE, CKA_TOKEN, CKA_VALUE, CKR_ACTION_PROHIBITED,
    CKR_TEMPLATE_INCONSISTENT,
};
use strongroom::key::{LOCAL, PUBLIC_KEY};
use strongroom::object::{CERTIFICATE, Kind, NewObject};

use crate::attributes::{
    Content, Face, Given, Object, PUBLIC_DESTROYED, changed_by, changed_by_copy,
};
use crate::class::Class;
use crate::fault::{Answer, Fault, answer};
use crate::foreign::Foreign;
use crate::key_pairs::check_stays_in_vault;
use crate::legacy;
use crate::placement::{Privacy, check_may_write, describe_object, new_object};
use crate::private_key::secret_parts;
use crate::source::describe;
use crate::state::{Module, private_key, with_module};
use crate::template::Template;

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
