//! What a caller says of an object: a template, copied out of the caller's memory and checked for
//! its form (PKCS#11 3.1, section 4.1.1).

use std::collections::BTreeMap;

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_BBOOL, CK_FALSE, CK_TRUE, CK_ULONG, CKA_COEFFICIENT,
    CKA_DERIVE_TEMPLATE, CKA_EXPONENT_1, CKA_EXPONENT_2, CKA_PRIME_1, CKA_PRIME_2,
    CKA_PRIVATE_EXPONENT, CKA_UNWRAP_TEMPLATE, CKA_VALUE, CKA_WRAP_TEMPLATE, CKR_ARGUMENTS_BAD,
    CKR_ATTRIBUTE_TYPE_INVALID, CKR_ATTRIBUTE_VALUE_INVALID, CKR_TEMPLATE_INCOMPLETE,
    CKR_TEMPLATE_INCONSISTENT,
};
use strongroom::Secret;
use strongroom::object::MAX_PAYLOAD;

use crate::fault::{Answer, Fault};
use crate::foreign::Foreign;
use crate::served::is_served;

/// The longest template: several times as many attributes as the specification knows.
const MAX_TEMPLATE: CK_ULONG = 1024;

/// The longest attribute that is not a value, in bytes.
const MAX_ATTRIBUTE: usize = 1 << 16;

/// The longest attribute of a template within a template.
const MAX_INNER: usize = 1 << 12;

/// Attributes that a caller has given.
#[derive(Default)]
pub(crate) struct Template {
    open: BTreeMap<CK_ATTRIBUTE_TYPE, Vec<u8>>,
    secret: BTreeMap<CK_ATTRIBUTE_TYPE, Secret>,
}

/// # Safety
/// As [`Foreign::many`].
pub(crate) unsafe fn foreign_template(
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> Answer<Foreign<CK_ATTRIBUTE>> {
    if count > MAX_TEMPLATE {
        return Err(Fault::Code(CKR_ARGUMENTS_BAD));
    }
    // SAFETY: the caller vouches for it.
    unsafe { Foreign::many(template, count) }
}

/// Whether the content of an attribute may be what nobody must know.
fn is_secret(kind: CK_ATTRIBUTE_TYPE) -> bool {
    matches!(
        kind,
        CKA_VALUE
            | CKA_PRIVATE_EXPONENT
            | CKA_PRIME_1
            | CKA_PRIME_2
            | CKA_EXPONENT_1
            | CKA_EXPONENT_2
            | CKA_COEFFICIENT
    )
}

/// Whether the content of an attribute is a template itself.
pub(crate) fn is_template(kind: CK_ATTRIBUTE_TYPE) -> bool {
    matches!(
        kind,
        CKA_WRAP_TEMPLATE | CKA_UNWRAP_TEMPLATE | CKA_DERIVE_TEMPLATE
    )
}

/// A template within a template as bytes: of each attribute its type and its length, as CK_ULONGs, and
/// its content.
///
/// # Safety
/// As [`Template::read`].
unsafe fn read_inner(item: &CK_ATTRIBUTE) -> Answer<Vec<u8>> {
    let each = CK_ULONG::try_from(size_of::<CK_ATTRIBUTE>()).map_err(|_| invalid())?;
    if item.ulValueLen % each != 0 {
        return Err(invalid());
    }
    // SAFETY: the caller vouches for it.
    let inner = unsafe { foreign_template(item.pValue.cast(), item.ulValueLen / each) }
        .map_err(|_| invalid())?;
    let mut written = Vec::new();
    for index in 0..inner.len() {
        let item = inner.get(index);
        // Nor is a template in it, which no specification foresees.
        if is_secret(item.type_) || is_template(item.type_) {
            return Err(invalid());
        }
        // SAFETY: the caller vouches for it.
        let bytes = unsafe { Foreign::many(item.pValue.cast::<u8>(), item.ulValueLen) }
            .map_err(|_| invalid())?
            .bytes(MAX_INNER)
            .ok_or_else(invalid)?;
        written.extend(item.type_.to_ne_bytes());
        written.extend(item.ulValueLen.to_ne_bytes());
        written.extend(bytes);
    }
    if written.len() > MAX_ATTRIBUTE {
        return Err(invalid());
    }
    Ok(written)
}

/// The attributes of such bytes, as far as they are some.
pub(crate) fn inner_template(mut bytes: &[u8]) -> Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)> {
    const NUMBER: usize = size_of::<CK_ULONG>();
    let mut all = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(2 * NUMBER) {
        let number = |bytes: &[u8]| bytes.try_into().map(CK_ULONG::from_ne_bytes);
        let (Ok(kind), Ok(len)) = (number(&head[..NUMBER]), number(&head[NUMBER..])) else {
            break;
        };
        let Some((content, rest)) = usize::try_from(len)
            .ok()
            .and_then(|len| rest.split_at_checked(len))
        else {
            break;
        };
        all.push((kind, content.to_vec()));
        bytes = rest;
    }
    all
}

impl Template {
    /// Copies a caller's template.
    ///
    /// # Safety
    /// `template` is the caller's array of `count` attributes, and each one's `pValue` the
    /// caller's memory of `ulValueLen` bytes.
    pub(crate) unsafe fn read(template: *mut CK_ATTRIBUTE, count: CK_ULONG) -> Answer<Self> {
        // SAFETY: the caller vouches for it.
        let template = unsafe { foreign_template(template, count) }?;
        let mut read = Self::default();
        for index in 0..template.len() {
            let item = template.get(index);
            // SAFETY: the caller vouches for it.
            let bytes = unsafe { Foreign::many(item.pValue.cast::<u8>(), item.ulValueLen) }
                .map_err(|_| Fault::Code(CKR_ATTRIBUTE_VALUE_INVALID))?;
            let twice = if is_template(item.type_) && is_served() {
                return Err(Fault::Code(CKR_ATTRIBUTE_TYPE_INVALID));
            } else if is_template(item.type_) {
                // SAFETY: the caller vouches for it.
                let inner = unsafe { read_inner(&item) }?;
                read.open.insert(item.type_, inner).is_some()
            } else if is_secret(item.type_) {
                let value = bytes.secret(MAX_PAYLOAD).ok_or_else(invalid)?;
                read.secret.insert(item.type_, value).is_some()
            } else {
                let value = bytes.bytes(MAX_ATTRIBUTE).ok_or_else(invalid)?;
                read.open.insert(item.type_, value).is_some()
            };
            if twice {
                return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT));
            }
        }
        Ok(read)
    }

    /// The attributes that it has.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = CK_ATTRIBUTE_TYPE> {
        self.open.keys().chain(self.secret.keys()).copied()
    }

    /// The content of an attribute that is not secret.
    pub(crate) fn bytes(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<&[u8]> {
        self.open.get(&kind).map(Vec::as_slice)
    }

    /// The content of an attribute that is secret, or may be.
    pub(crate) fn secret(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<&Secret> {
        self.secret.get(&kind)
    }

    /// The same, to be kept.
    pub(crate) fn take_secret(&mut self, kind: CK_ATTRIBUTE_TYPE) -> Option<Secret> {
        self.secret.remove(&kind)
    }

    /// An attribute that is true or false.
    pub(crate) fn flag(&self, kind: CK_ATTRIBUTE_TYPE) -> Answer<Option<bool>> {
        self.bytes(kind).map(read_flag).transpose()
    }

    /// An attribute that is a number.
    pub(crate) fn number(&self, kind: CK_ATTRIBUTE_TYPE) -> Answer<Option<CK_ULONG>> {
        self.bytes(kind).map(read_number).transpose()
    }

    /// The same where it must be there.
    pub(crate) fn required_number(&self, kind: CK_ATTRIBUTE_TYPE) -> Answer<CK_ULONG> {
        self.number(kind)?
            .ok_or(Fault::Code(CKR_TEMPLATE_INCOMPLETE))
    }

    /// The same without some attributes; and without those that are secret, which are never said of an
    /// object that is there.
    pub(crate) fn without(&self, kinds: &[CK_ATTRIBUTE_TYPE]) -> Self {
        Self {
            open: self
                .open
                .iter()
                .filter(|(kind, _)| !kinds.contains(kind))
                .map(|(kind, value)| (*kind, value.clone()))
                .collect(),
            secret: BTreeMap::new(),
        }
    }

    /// Whether it has attributes that may be secret.
    pub(crate) fn has_secrets(&self) -> bool {
        !self.secret.is_empty()
    }

    /// Leaves an attribute out.
    pub(crate) fn remove(&mut self, kind: CK_ATTRIBUTE_TYPE) {
        self.open.remove(&kind);
    }

    /// Checks of each attribute of a template within another object that it, if it is there, is the same
    /// here, and puts it there.
    pub(crate) fn fix_all(&mut self, inner: &[u8]) -> Answer {
        for (kind, value) in inner_template(inner) {
            self.fix(kind, &value)?;
        }
        Ok(())
    }

    /// The same of each attribute of another template that is not secret.
    pub(crate) fn fix_as(&mut self, demanded: &Self) -> Answer {
        for (kind, value) in &demanded.open {
            self.fix(*kind, value)?;
        }
        Ok(())
    }

    /// The same of one attribute.
    pub(crate) fn fix(&mut self, kind: CK_ATTRIBUTE_TYPE, value: &[u8]) -> Answer {
        if self.open.get(&kind).is_some_and(|given| given != value) {
            return Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT));
        }
        self.open.insert(kind, value.to_vec());
        Ok(())
    }

    /// Checks that an attribute, if it is there, is this flag, and puts it there.
    pub(crate) fn fix_flag(&mut self, kind: CK_ATTRIBUTE_TYPE, value: bool) -> Answer {
        match self.flag(kind)? {
            Some(other) if other != value => Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT)),
            _ => {
                let flag = if value { CK_TRUE } else { CK_FALSE };
                self.open.insert(kind, vec![flag]);
                Ok(())
            }
        }
    }

    /// Checks that an attribute, if it is there, has this number, and puts it there.
    pub(crate) fn fix_number(&mut self, kind: CK_ATTRIBUTE_TYPE, value: CK_ULONG) -> Answer {
        match self.number(kind)? {
            Some(other) if other != value => Err(Fault::Code(CKR_TEMPLATE_INCONSISTENT)),
            _ => {
                self.open.insert(kind, value.to_ne_bytes().to_vec());
                Ok(())
            }
        }
    }
}

pub(crate) fn invalid() -> Fault {
    Fault::Code(CKR_ATTRIBUTE_VALUE_INVALID)
}

/// A CK_BBOOL.
pub(crate) fn read_flag(bytes: &[u8]) -> Answer<bool> {
    const NO: CK_BBOOL = CK_FALSE;
    const YES: CK_BBOOL = CK_TRUE;
    match bytes {
        [NO] => Ok(false),
        [YES] => Ok(true),
        _ => Err(invalid()),
    }
}

/// A CK_ULONG.
pub(crate) fn read_number(bytes: &[u8]) -> Answer<CK_ULONG> {
    bytes
        .try_into()
        .map(CK_ULONG::from_ne_bytes)
        .map_err(|_| invalid())
}

pub(crate) fn flag(value: bool) -> Vec<u8> {
    vec![if value { CK_TRUE } else { CK_FALSE }]
}

pub(crate) fn number(value: CK_ULONG) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}
