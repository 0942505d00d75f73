//! What a template may say of an object: of a new one, of one that is there, and of a copy.

use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CKA_CLASS, CKA_COPYABLE, CKA_DESTROYABLE, CKA_MODIFIABLE, CKA_PRIVATE,
    CKA_TOKEN, CKA_TRUSTED, CKA_UNIQUE_ID, CKR_ATTRIBUTE_READ_ONLY, CKR_ATTRIBUTE_TYPE_INVALID,
    CKR_TEMPLATE_INCONSISTENT,
};

use super::{Given, Known, Object, Settable};
use crate::class::Class;
use crate::fault::{Answer, Fault};
use crate::template::{Template, flag, invalid, read_flag};

/// The attributes that a template gives to a new object of a class, besides what makes it what it
/// is, which `besides` lists.
pub(crate) fn given_by(
    template: &Template,
    class: Class,
    besides: &[CK_ATTRIBUTE_TYPE],
) -> Answer<Given> {
    let mut given = Given::new();
    for kind in template.kinds() {
        if [CKA_CLASS, CKA_TOKEN].contains(&kind) || besides.contains(&kind) {
            continue;
        }
        let known = Known::find(kind, class).ok_or(Fault::Code(CKR_ATTRIBUTE_TYPE_INVALID))?;
        let bytes = template.bytes(kind);
        match known.settable {
            // Section 4.4.1: it is the token's to give.
            Settable::Never if kind == CKA_UNIQUE_ID => {
                return Err(Fault::Code(CKR_ATTRIBUTE_TYPE_INVALID));
            }
            Settable::Never => return Err(Fault::Code(CKR_ATTRIBUTE_READ_ONLY)),
            // Only a security officer, whom there is not, could say so.
            Settable::ToFalse if kind == CKA_TRUSTED && template.flag(kind)? == Some(true) => {
                return Err(Fault::Code(CKR_ATTRIBUTE_READ_ONLY));
            }
            _ => {}
        }
        let bytes = bytes.ok_or_else(invalid)?;
        // Checks its form.
        known.write(bytes)?;
        given.insert(kind, bytes.to_vec());
    }
    Ok(given)
}

/// The attributes that a template gives to an object that is there.
pub(crate) fn changed_by(template: &Template, object: &Object) -> Answer<Given> {
    let mut changed = Given::new();
    for kind in template.kinds() {
        let known =
            Known::find(kind, object.class()).ok_or(Fault::Code(CKR_ATTRIBUTE_TYPE_INVALID))?;
        let read_only = || Fault::Code(CKR_ATTRIBUTE_READ_ONLY);
        let bytes = template.bytes(kind).ok_or_else(read_only)?;
        let allowed = match known.settable {
            Settable::Never | Settable::Once => false,
            Settable::Always if known.is_usage() && object.is_dataset_key() => !read_flag(bytes)?,
            Settable::Always => true,
            Settable::ToTrue => read_flag(bytes)? || !object.has(kind),
            Settable::ToFalse => !read_flag(bytes)? || object.has(kind),
        };
        if !allowed {
            return Err(read_only());
        }
        known.write(bytes)?;
        changed.insert(kind, bytes.to_vec());
    }
    Ok(changed)
}

/// The attributes that a template gives to a copy of an object: what could be changed, and what is said
/// when an object is made of who may do what with it. A copy is not the way to what the object itself does
/// not do: where the session may not change a key, the copy has no use that the key has not, and cannot be
/// given one; and a private object has private copies.
pub(crate) fn changed_by_copy(
    template: &Template,
    object: &Object,
    may_change: bool,
) -> Answer<Given> {
    let once = [CKA_PRIVATE, CKA_MODIFIABLE, CKA_COPYABLE, CKA_DESTROYABLE];
    if template.has_secrets() {
        return Err(Fault::Code(CKR_ATTRIBUTE_READ_ONLY));
    }
    let mut rest = template.without(&once);
    rest.remove(CKA_CLASS);
    if template
        .number(CKA_CLASS)?
        .is_some_and(|class| class != object.class().number())
    {
        return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT));
    }
    let mut changed = changed_by(&rest, object)?;
    for kind in once {
        if let Some(value) = template.flag(kind)? {
            changed.insert(kind, flag(value));
        }
    }
    let is_fixed = object.key_type().is_some() && !may_change;
    for (kind, value) in &changed {
        let is_usage = Known::find(*kind, object.class()).is_some_and(Known::is_usage);
        if is_fixed && is_usage && read_flag(value)? && !object.has(*kind) {
            return Err(Fault::Code(CKR_ATTRIBUTE_READ_ONLY));
        }
    }
    for (kind, value, applies) in [
        (CKA_PRIVATE, true, object.is_private()),
        (CKA_MODIFIABLE, false, is_fixed),
    ] {
        let given = applies.then(|| changed.insert(kind, flag(value))).flatten();
        if given.is_some_and(|given| given != flag(value)) {
            return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT));
        }
    }
    Ok(changed)
}
