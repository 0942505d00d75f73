//! How keys over finite fields, and their parameters, become objects of a session (PKCS#11 3.1, sections
//! 6.2 and 6.4).

use std::sync::Arc;

use cryptoki_sys::{
    CK_KEY_TYPE, CK_OBJECT_HANDLE, CK_SESSION_HANDLE, CKA_CLASS, CKA_KEY_TYPE, CKA_PRIME_BITS,
    CKA_SUBPRIME_BITS, CKA_VALUE_BITS, CKK_DSA, CKR_ATTRIBUTE_VALUE_INVALID,
    CKR_DOMAIN_PARAMS_INVALID, CKR_KEY_SIZE_RANGE,
};

use super::check_stays_in_session;
use super::dsa;
use super::field::{FieldKey, PARTS, Parameters};
use crate::attributes::{Content, given_by};
use crate::class::Class;
use crate::fault::{Answer, Fault};
use crate::key_pairs::{hold_pair, say_how_secret};
use crate::placement::Privacy;
use crate::state::Module;
use crate::template::Template;

/// Makes a key, or parameters, of what a template says.
pub(crate) fn create(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    template: &Template,
    class: Class,
    key_type: CK_KEY_TYPE,
) -> Answer<CK_OBJECT_HANDLE> {
    check_stays_in_session(template, key_type)?;
    let given = given_by(template, class, &PARTS)?;
    let privacy = Privacy::of(module, session, class, &given)?;
    // Numbers are tested for being prime, and new ones are sought: nobody else waits for the TPM so long.
    module.let_go();
    let key = FieldKey::of_template(template, class, key_type)?;
    module.hold(session, class, privacy, given, content_of(key, false))
}

/// Makes new parameters of DSA.
pub(crate) fn generate_parameters(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    template: &mut Template,
) -> Answer<CK_OBJECT_HANDLE> {
    let class = Class::DomainParameters;
    template.fix_number(CKA_CLASS, class.number())?;
    template.fix_number(CKA_KEY_TYPE, CKK_DSA)?;
    check_stays_in_session(template, CKK_DSA)?;
    let besides = [CKA_KEY_TYPE, CKA_PRIME_BITS, CKA_SUBPRIME_BITS];
    let given = given_by(template, class, &besides)?;
    let privacy = Privacy::of(module, session, class, &given)?;
    let wrong_size = |_| Fault::Code(CKR_KEY_SIZE_RANGE);
    let bits = usize::try_from(template.required_number(CKA_PRIME_BITS)?).map_err(wrong_size)?;
    let order_bits = template
        .number(CKA_SUBPRIME_BITS)?
        .map(usize::try_from)
        .transpose()
        .map_err(wrong_size)?;
    module.let_go();
    let parameters =
        dsa::Parameters::generate(bits, order_bits).ok_or(Fault::Code(CKR_KEY_SIZE_RANGE))?;
    let content = content_of(FieldKey::DsaParameters(parameters), true);
    module.hold(session, class, privacy, given, content)
}

/// Makes a new key pair of the parameters that the template of the public key has.
pub(crate) fn generate_key_pair(
    module: &mut Module,
    session: CK_SESSION_HANDLE,
    key_type: CK_KEY_TYPE,
    public_template: &Template,
    private_template: &Template,
) -> Answer<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE)> {
    check_stays_in_session(public_template, key_type)?;
    check_stays_in_session(private_template, key_type)?;
    let for_public = given_by(public_template, Class::PublicKey, &PARTS)?;
    let besides = [CKA_KEY_TYPE, CKA_VALUE_BITS];
    let mut for_private = given_by(private_template, Class::PrivateKey, &besides)?;
    say_how_secret(&mut for_private)?;
    let public_privacy = Privacy::of(module, session, Class::PublicKey, &for_public)?;
    let privacy = Privacy::of(module, session, Class::PrivateKey, &for_private)?;
    module.let_go();
    let wrong = || Fault::Code(CKR_DOMAIN_PARAMS_INVALID);
    let parameters = Parameters::of_template(public_template, key_type, &wrong)?;
    let bits = private_template
        .number(CKA_VALUE_BITS)?
        .map(usize::try_from)
        .transpose()
        .map_err(|_| Fault::Code(CKR_ATTRIBUTE_VALUE_INVALID))?;
    let (public, private) = match (parameters, bits) {
        (Parameters::Dsa(parameters), None) => {
            let key = parameters.generate_key();
            (
                FieldKey::DsaPublic(key.public().clone()),
                FieldKey::DsaPrivate(Arc::new(key)),
            )
        }
        (Parameters::Dh(group), bits) => {
            let key = group
                .generate(bits)
                .ok_or(Fault::Code(CKR_ATTRIBUTE_VALUE_INVALID))?;
            (
                FieldKey::DhPublic(group, key.public()),
                FieldKey::DhPrivate(Arc::new(key)),
            )
        }
        // A private value of DSA is as long as the order.
        (Parameters::Dsa(_), Some(_)) => return Err(Fault::Code(CKR_ATTRIBUTE_VALUE_INVALID)),
    };
    hold_pair(
        module,
        session,
        ((for_public, public_privacy), content_of(public, true)),
        ((for_private, privacy), content_of(private, true)),
    )
}

fn content_of(key: FieldKey, local: bool) -> Content {
    Content {
        field: Some(key),
        local,
        ..Content::default()
    }
}
