//! New objects out of templates (PKCS#11 3.1, section 5.7.1). Keys have files of their own.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CKA_APPLICATION,
    CKA_CERTIFICATE_TYPE, CKA_CLASS, CKA_KEY_TYPE, CKA_VALUE, CKC_X_509, CKK_DH, CKK_DSA,
    CKR_TEMPLATE_INCOMPLETE,
};
use strongroom::Secret;
use strongroom::object::{CERTIFICATE, Kind};

use crate::attributes::{Content, Face, given_by};
use crate::certificate::Certificate;
use crate::class::Class;
use crate::fault::{Answer, Fault, answer};
use crate::foreign::Foreign;
use crate::key_pairs::{create_private_key, create_public_key};
use crate::legacy;
use crate::placement::{Privacy, goes_to_vault, new_object};
use crate::secret_keys::{Origin, create_secret_key};
use crate::state::{Module, with_module};
use crate::template::{Template, invalid};

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
