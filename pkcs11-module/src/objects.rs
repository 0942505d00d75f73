//! Objects (PKCS#11 3.1, section 5.7): finding them and reading their attributes. How they are
//! made, changed and destroyed is in [`crate::creation`].
//!
//! The TPM is asked for one thing only, the content of CKA_VALUE, at most once in a call, and
//! nothing of it is kept.

use std::cell::OnceCell;
use std::ffi::OsStr;

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG,
    CK_UNAVAILABLE_INFORMATION, CKA_CLASS, CKA_ID, CKA_UNIQUE_ID, CKA_VALUE,
    CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID, CKR_BUFFER_TOO_SMALL, CKR_OK,
    CKR_OPERATION_ACTIVE, CKR_OPERATION_NOT_INITIALIZED,
};
use strongroom::object::{Metadata, ObjectId};
use strongroom::{Damaged, Error, Secret};

use crate::attributes::{self, Attribute, Face, Object};
use crate::class::Class;
use crate::fault::{Answer, Fault, answer};
use crate::foreign::{Foreign, ulong};
use crate::served::is_served;
use crate::source::{Source, describe};
use crate::state::with_module;
use crate::template::{foreign_template, inner_template, is_template};

/// C_GetObjectSize, section 5.7.4: the length of the value.
pub(crate) unsafe extern "C" fn get_object_size(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    size: *mut CK_ULONG,
) -> CK_RV {
    answer("C_GetObjectSize", || {
        // SAFETY: the caller's CK_ULONG.
        let size = unsafe { Foreign::one(size) }?;
        with_module(|module| {
            let size_of = match module.object(session, object)? {
                Object::Sealed(object, Face::Itself) => value_len(&object, module.source()?)?,
                object => match object.attribute(CKA_VALUE) {
                    Some(Attribute::Known(value)) => Some(value.len()),
                    _ => None,
                },
            };
            size.set(0, size_of.map_or(CK_UNAVAILABLE_INFORMATION, ulong));
            Ok(())
        })
    })
}

/// C_GetAttributeValue, section 5.7.5.
pub(crate) unsafe extern "C" fn get_attribute_value(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    answer("C_GetAttributeValue", || {
        // SAFETY: the caller's template, as long as the caller says.
        let template = unsafe { foreign_template(template, count) }?;
        with_module(|module| {
            let object = module.object(session, object)?;
            // SAFETY: the attributes are the caller's, and so is the memory that they name.
            unsafe { give_attributes(&object, module.source()?, &template) }
        })
    })
}

/// C_FindObjectsInit, section 5.7.7: reads anew which objects there are, and finds all at once.
/// Damaged objects are not found; but a search for one by its id fails, so that nobody takes it
/// for one that never was.
pub(crate) unsafe extern "C" fn find_objects_init(
    session: CK_SESSION_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    answer("C_FindObjectsInit", || {
        // SAFETY: the caller's template, as long as the caller says.
        let template = unsafe { foreign_template(template, count) }?;
        // SAFETY: the attributes are the caller's, and so is the memory that they name.
        let wanted = unsafe { read_criteria(&template) }?;
        with_module(|module| {
            let open = module.session(session)?;
            if open.search.is_some() {
                return Err(Fault::Code(CKR_OPERATION_ACTIVE));
            }
            let slot = open.slot();
            module.refresh_objects()?;
            let mut found = Vec::new();
            let class = (wanted.iter())
                .filter(|(kind, _)| *kind == CKA_CLASS)
                .find_map(|(_, bytes)| Class::of_bytes(&bytes.bytes(size_of::<CK_ULONG>())?));
            let mut candidates = module.objects_in(slot)?;
            if let Some(class) = class.filter(|class| class.is_standing()) {
                candidates.extend(module.standing_in(slot, class)?);
            }
            for (handle, object) in candidates {
                if meets(&object, &wanted, module.source()?)? {
                    found.push(handle);
                }
            }
            let token = &module.token(slot)?.name;
            if let Some(damaged) = module.damaged_of(token).find(|it| is_named(it, &wanted)) {
                return Err(Fault::from(Error::ObjectDamaged {
                    file: damaged.file.clone(),
                    reason: damaged.reason.clone(),
                }));
            }
            module.session(session)?.search = Some(found.into_iter());
            Ok(())
        })
    })
}

/// C_FindObjects, section 5.7.8.
pub(crate) unsafe extern "C" fn find_objects(
    session: CK_SESSION_HANDLE,
    objects: *mut CK_OBJECT_HANDLE,
    max_count: CK_ULONG,
    count: *mut CK_ULONG,
) -> CK_RV {
    answer("C_FindObjects", || {
        // SAFETY: the caller's array, as long as the caller says, and the caller's CK_ULONG.
        let (objects, count) =
            unsafe { (Foreign::many(objects, max_count)?, Foreign::one(count)?) };
        with_module(|module| {
            let search = (module.session(session)?.search.as_mut())
                .ok_or(Fault::Code(CKR_OPERATION_NOT_INITIALIZED))?;
            let found: Vec<CK_OBJECT_HANDLE> = search.take(objects.len()).collect();
            objects.fill(&found);
            count.set(0, ulong(found.len()));
            Ok(())
        })
    })
}

/// C_FindObjectsFinal, section 5.7.9.
pub(crate) unsafe extern "C" fn find_objects_final(session: CK_SESSION_HANDLE) -> CK_RV {
    answer("C_FindObjectsFinal", || {
        with_module(|module| match module.session(session)?.search.take() {
            Some(_) => Ok(()),
            None => Err(Fault::Code(CKR_OPERATION_NOT_INITIALIZED)),
        })
    })
}

/// Gives the caller what the template asks for: the five cases of section 5.7.5, each attribute
/// by itself, so that one that cannot be given does not keep back the others.
///
/// # Safety
/// Each attribute's `pValue` is null or the caller's memory of `ulValueLen` bytes.
unsafe fn give_attributes(
    object: &Object,
    source: &mut dyn Source,
    template: &Foreign<CK_ATTRIBUTE>,
) -> Answer {
    let mut outcome = CKR_OK;
    let mut sealed = Vec::new();
    let put = |index: usize, outcome: &mut CK_RV, value: Result<&[u8], CK_RV>| {
        let mut item = template.get(index);
        let given = value.and_then(|value| {
            // SAFETY: the caller of `give_attributes` vouches for it.
            unsafe { give_value(&item, value) }.map(|()| ulong(value.len()))
        });
        item.ulValueLen = given.unwrap_or(CK_UNAVAILABLE_INFORMATION);
        template.set(index, item);
        // "Any of the applicable" codes may be answered: the first one.
        if let (Err(code), CKR_OK) = (given, *outcome) {
            *outcome = code;
        }
    };
    let value_len = ValueLen::of(object);

    for index in 0..template.len() {
        let mut item = template.get(index);
        match object.attribute(item.type_) {
            _ if is_template(item.type_) && is_served() => {
                put(index, &mut outcome, Err(CKR_ATTRIBUTE_TYPE_INVALID));
            }
            Some(Attribute::Known(value)) if is_template(item.type_) => {
                // SAFETY: the caller of `give_attributes` vouches for it.
                let given = unsafe { give_inner(&mut item, &inner_template(&value)) };
                template.set(index, item);
                if let (Err(code), CKR_OK) = (given, outcome) {
                    outcome = code;
                }
            }
            Some(Attribute::Known(value)) => put(index, &mut outcome, Ok(&value)),
            Some(Attribute::ValueLen) => {
                let len = value_len.read(source)?.map(|len| ulong(len).to_ne_bytes());
                let len = len.as_ref().map(|len| &len[..]);
                put(index, &mut outcome, len.ok_or(CKR_ATTRIBUTE_TYPE_INVALID));
            }
            Some(Attribute::Value) => match value_len.read(source)?.map(ulong) {
                Some(len) if item.pValue.is_null() => {
                    item.ulValueLen = len;
                    template.set(index, item);
                }
                Some(len) if item.ulValueLen < len => {
                    put(index, &mut outcome, Err(CKR_BUFFER_TOO_SMALL));
                }
                Some(_) => sealed.push(index),
                None => put(index, &mut outcome, Err(CKR_ATTRIBUTE_TYPE_INVALID)),
            },
            Some(Attribute::Sensitive) => {
                put(index, &mut outcome, Err(CKR_ATTRIBUTE_SENSITIVE));
            }
            None => put(index, &mut outcome, Err(CKR_ATTRIBUTE_TYPE_INVALID)),
        }
    }

    if !sealed.is_empty() {
        let value = unseal(object, source);
        for index in sealed {
            let bytes = value.as_ref().map(Secret::expose).map_err(Fault::code);
            put(index, &mut outcome, bytes);
        }
        // What the vault says goes before what is wrong with the template: it is logged.
        value?;
    }
    match outcome {
        CKR_OK => Ok(()),
        code => Err(Fault::Code(code)),
    }
}

/// The length of an object's value, read at most once, and only if asked for.
struct ValueLen<'a> {
    object: &'a Object,
    known: OnceCell<Option<usize>>,
}

impl<'a> ValueLen<'a> {
    fn of(object: &'a Object) -> Self {
        Self {
            object,
            known: OnceCell::new(),
        }
    }

    fn read(&self, source: &dyn Source) -> Answer<Option<usize>> {
        if let Some(known) = self.known.get() {
            return Ok(*known);
        }
        let len = match self.object {
            Object::Sealed(object, _) => value_len(object, source)?,
            Object::Held(_) | Object::Standing(_) => None,
        };
        Ok(*self.known.get_or_init(|| len))
    }
}

/// Copies a value to where an attribute wants it, if it wants more than the length.
///
/// # Safety
/// The attribute's `pValue` is null or the caller's memory of `ulValueLen` bytes.
unsafe fn give_value(item: &CK_ATTRIBUTE, value: &[u8]) -> Result<(), CK_RV> {
    if item.pValue.is_null() {
        return Ok(());
    }
    if item.ulValueLen < ulong(value.len()) {
        return Err(CKR_BUFFER_TOO_SMALL);
    }
    // SAFETY: the caller vouches for `ulValueLen` bytes, which are at least as many.
    unsafe { Foreign::many(item.pValue.cast::<u8>(), ulong(value.len())) }
        .map_err(|fault| fault.code())?
        .fill(value);
    Ok(())
}

/// The same for an attribute that is a template itself: its attributes, of which each wants its length,
/// or its content too (section 5.7.5).
///
/// # Safety
/// The attribute's `pValue` is null or the caller's memory of `ulValueLen` bytes, and so is that of each
/// attribute there.
unsafe fn give_inner(
    item: &mut CK_ATTRIBUTE,
    inner: &[(CK_ATTRIBUTE_TYPE, Vec<u8>)],
) -> Result<(), CK_RV> {
    let wanted = ulong(inner.len());
    let len = wanted * ulong(size_of::<CK_ATTRIBUTE>());
    if item.pValue.is_null() {
        item.ulValueLen = len;
        return Ok(());
    }
    if item.ulValueLen < len {
        item.ulValueLen = CK_UNAVAILABLE_INFORMATION;
        return Err(CKR_BUFFER_TOO_SMALL);
    }
    item.ulValueLen = len;
    // SAFETY: the caller vouches for `ulValueLen` bytes, which are enough for as many.
    let room = unsafe { Foreign::many(item.pValue.cast::<CK_ATTRIBUTE>(), wanted) }
        .map_err(|fault| fault.code())?;
    let mut outcome = Ok(());
    for (index, (kind, value)) in inner.iter().enumerate() {
        let mut item = room.get(index);
        item.type_ = *kind;
        // SAFETY: the caller vouches for it.
        let given = unsafe { give_value(&item, value) };
        item.ulValueLen = match given {
            Ok(()) => ulong(value.len()),
            Err(_) => CK_UNAVAILABLE_INFORMATION,
        };
        room.set(index, item);
        outcome = outcome.and(given);
    }
    outcome
}

/// What a search is for: attributes with the bytes that they must have.
type Criteria = Vec<(CK_ATTRIBUTE_TYPE, Foreign<u8>)>;

/// # Safety
/// Each attribute's `pValue` is the caller's memory of `ulValueLen` bytes.
unsafe fn read_criteria(template: &Foreign<CK_ATTRIBUTE>) -> Answer<Criteria> {
    (0..template.len())
        .map(|index| {
            let item = template.get(index);
            // SAFETY: the caller vouches for it.
            let bytes = unsafe { Foreign::many(item.pValue.cast::<u8>(), item.ulValueLen) }?;
            Ok((item.type_, bytes))
        })
        .collect()
}

/// Whether an object is what a search is for. The TPM is asked only where the search is for a
/// value, and the object is right in all that is known without.
fn meets(object: &Object, wanted: &Criteria, source: &mut dyn Source) -> Answer<bool> {
    let mut sealed = Vec::new();
    for (kind, bytes) in wanted {
        let right = match object.attribute(*kind) {
            Some(Attribute::Known(value)) => bytes.holds(&value),
            Some(Attribute::ValueLen) => value_len_of_search(object, source)
                .is_some_and(|len| bytes.holds(&ulong(len).to_ne_bytes())),
            Some(Attribute::Value) => {
                sealed.push(bytes);
                value_len_of_search(object, source) == Some(bytes.len())
            }
            // Nobody may find out a key by guessing.
            Some(Attribute::Sensitive) | None => false,
        };
        if !right {
            return Ok(false);
        }
    }
    if sealed.is_empty() {
        return Ok(true);
    }
    let value = unseal(object, source)?;
    Ok(sealed.iter().all(|bytes| bytes.holds(value.expose())))
}

/// Whether a search is for the object of a damaged file, by its id.
fn is_named(damaged: &Damaged, wanted: &Criteria) -> bool {
    let name = damaged.file.file_stem().and_then(OsStr::to_str);
    let Some(id) = name.and_then(|name| name.parse::<ObjectId>().ok()) else {
        return false;
    };
    wanted.iter().any(|(kind, bytes)| match *kind {
        CKA_UNIQUE_ID => bytes.holds(id.to_string().as_bytes()),
        CKA_ID => bytes.holds(id.as_bytes()),
        _ => false,
    })
}

/// In a search, an object whose file cannot be read is left out like a damaged one.
fn value_len_of_search(object: &Object, source: &dyn Source) -> Option<usize> {
    ValueLen::of(object).read(source).unwrap_or_else(|fault| {
        fault.log("C_FindObjectsInit");
        None
    })
}

fn value_len(object: &Metadata, source: &dyn Source) -> Answer<Option<usize>> {
    let payload_len = source
        .payload_len(object.id)
        .map_err(Fault::about(describe(object)))?;
    Ok(payload_len.map(|len| attributes::value_len(object, len)))
}

/// The value of an object whose value the TPM has.
pub(crate) fn unseal(object: &Object, source: &mut dyn Source) -> Answer<Secret> {
    match object {
        Object::Sealed(object, _) => source
            .unseal(object)
            .map_err(Fault::about(describe(object))),
        Object::Held(_) | Object::Standing(_) => Err(Fault::Code(CKR_ATTRIBUTE_SENSITIVE)),
    }
}
