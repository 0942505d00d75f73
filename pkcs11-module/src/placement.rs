//! Where a new object goes: into the vault or a session, and whether it is for the token's user alone.

use cryptoki_sys::{
    CK_SESSION_HANDLE, CKA_ALWAYS_AUTHENTICATE, CKA_LABEL, CKA_PRIVATE, CKA_TOKEN,
    CKR_SESSION_READ_ONLY, CKR_TEMPLATE_INCONSISTENT, CKR_TOKEN_WRITE_PROTECTED,
    CKR_USER_NOT_LOGGED_IN,
};
use strongroom::object::{Kind, Label, NewObject, PIN};

use crate::attributes::{Face, Given, write_down};
use crate::class::Class;
use crate::fault::{Answer, Fault};
use crate::state::Module;
use crate::template::{Template, read_flag};

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
        let is = |kind| given.get(&kind).map(|bytes| read_flag(bytes)).transpose();
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

/// Whether a template is that of a token object, which the session may make.
pub(crate) fn goes_to_vault(
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

pub(crate) fn check_may_write(module: &mut Module, session: CK_SESSION_HANDLE) -> Answer {
    if module.token_of(session)?.write_protected {
        return Err(Fault::Code(CKR_TOKEN_WRITE_PROTECTED));
    }
    if !module.session(session)?.may_write() {
        return Err(Fault::Code(CKR_SESSION_READ_ONLY));
    }
    Ok(())
}

/// A new object of the vault in the session's token.
pub(crate) fn new_object(
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
pub(crate) fn describe_object(
    object: &mut NewObject,
    given: &Given,
    class: Class,
    face: Face,
) -> Answer {
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
