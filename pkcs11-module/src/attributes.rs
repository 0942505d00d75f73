//! Which PKCS#11 object an object of the vault is, and which attributes it has (PKCS#11 3.1,
//! chapter 4): [`ATTRIBUTES`] is the table.
//!
//! | In the vault | In PKCS#11 |
//! |---|---|
//! | credential | data object (section 4.5) |
//! | dataset key, secret key | secret key (section 4.10) |
//! | private key | private key and public key (sections 4.8 and 4.9), both out of one object |
//! | certificate | X.509 certificate (section 4.6) |
//! | credential without payload, with the attribute `public-key` | public key (section 4.8) |
//!
//! Domain parameters and keys of [`crate::legacy`] are session objects alone.
//!
//! What PKCS#11 knows of an object and the vault does not is in the vault object's attributes, as
//! `cka.NAME`, and where the public key of a pair differs from its private key, as
//! `cka-public.NAME`. Flags are `true` or `false` there, numbers decimal, the rest hexadecimal.
//!
//! Dataset keys are sensitive and not extractable: a client that lists what there is, as
//! `pkcs11-tool -O` does, prints every value that it can read. ZFS gets its keys from
//! `zfs-keyprovider`.
//!
//! Two attributes go beyond those sections. `CKA_UNIQUE_ID`, of version 3.0, is answered through
//! the interface of version 2.40 too. `CKA_ID` is the vault's id, 16 bytes, where nobody gave
//! another, and for data objects as well: labels need not be unique, and it is what the `id` of a
//! PKCS#11 URI (RFC 7512) and `pkcs11-tool --id` look for.

mod settable;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_CERTIFICATE_CATEGORY_UNSPECIFIED, CK_DATE, CK_KEY_TYPE,
    CK_MECHANISM_TYPE, CK_SESSION_HANDLE, CK_SLOT_ID, CK_TRUE, CK_ULONG,
    CK_UNAVAILABLE_INFORMATION, CKA_ALLOWED_MECHANISMS, CKA_ALWAYS_AUTHENTICATE,
    CKA_ALWAYS_SENSITIVE, CKA_APPLICATION, CKA_BASE, CKA_CERTIFICATE_CATEGORY,
    CKA_CERTIFICATE_TYPE, CKA_CLASS, CKA_COEFFICIENT, CKA_COPYABLE, CKA_DECRYPT, CKA_DERIVE,
    CKA_DERIVE_TEMPLATE, CKA_DESTROYABLE, CKA_EC_PARAMS, CKA_EC_POINT, CKA_ENCRYPT, CKA_END_DATE,
    CKA_EXPONENT_1, CKA_EXPONENT_2, CKA_EXTRACTABLE, CKA_HASH_OF_ISSUER_PUBLIC_KEY,
    CKA_HASH_OF_SUBJECT_PUBLIC_KEY, CKA_ID, CKA_ISSUER, CKA_KEY_GEN_MECHANISM, CKA_KEY_TYPE,
    CKA_LABEL, CKA_LOCAL, CKA_MECHANISM_TYPE, CKA_MODIFIABLE, CKA_MODULUS, CKA_MODULUS_BITS,
    CKA_NEVER_EXTRACTABLE, CKA_OBJECT_ID, CKA_PRIME, CKA_PRIME_1, CKA_PRIME_2, CKA_PRIME_BITS,
    CKA_PRIVATE, CKA_PRIVATE_EXPONENT, CKA_PROFILE_ID, CKA_PUBLIC_EXPONENT, CKA_PUBLIC_KEY_INFO,
    CKA_SENSITIVE, CKA_SERIAL_NUMBER, CKA_SIGN, CKA_SIGN_RECOVER, CKA_START_DATE, CKA_SUBJECT,
    CKA_SUBPRIME, CKA_SUBPRIME_BITS, CKA_TOKEN, CKA_TRUSTED, CKA_UNIQUE_ID, CKA_UNWRAP,
    CKA_UNWRAP_TEMPLATE, CKA_URL, CKA_VALUE, CKA_VALUE_BITS, CKA_VALUE_LEN, CKA_VERIFY,
    CKA_VERIFY_RECOVER, CKA_WRAP, CKA_WRAP_TEMPLATE, CKA_WRAP_WITH_TRUSTED, CKC_X_509, CKK_AES,
    CKK_DES2, CKK_DES3, CKK_DH, CKK_DSA, CKK_EC, CKK_EC_EDWARDS, CKK_EC_MONTGOMERY,
    CKK_GENERIC_SECRET, CKK_RSA, CKK_SHA_1_HMAC, CKK_SHA224_HMAC, CKK_SHA256_HMAC, CKK_SHA384_HMAC,
    CKK_SHA512_HMAC, CKM_AES_KEY_GEN, CKM_DES2_KEY_GEN, CKM_DES3_KEY_GEN, CKM_DH_PKCS_KEY_PAIR_GEN,
    CKM_DSA_KEY_PAIR_GEN, CKM_EC_EDWARDS_KEY_PAIR_GEN, CKM_EC_KEY_PAIR_GEN,
    CKM_EC_MONTGOMERY_KEY_PAIR_GEN, CKM_GENERIC_SECRET_KEY_GEN, CKM_RSA_PKCS_KEY_PAIR_GEN,
    CKM_SHA_1_KEY_GEN, CKM_SHA224_KEY_GEN, CKM_SHA256_KEY_GEN, CKM_SHA384_KEY_GEN,
    CKM_SHA512_KEY_GEN, CKR_ATTRIBUTE_TYPE_INVALID,
};
use strongroom::Secret;
use strongroom::object::{CERTIFICATE, KEYFORMAT, Kind, Metadata, PIN};

pub(crate) use self::settable::{changed_by, changed_by_copy, given_by};

use crate::certificate::Certificate;
use crate::class::Class;
use crate::fault::{Answer, Fault};
use crate::legacy::field::FieldKey;
use crate::legacy::is_legacy;
use crate::public_key::{ec_parameters, key_type_of, octet_string};
use crate::template::{flag, invalid, number, read_flag, read_number};
use strongroom::key::{KeyAlgorithm, LOCAL, PUBLIC_KEY, PublicKey};

/// What CKA_APPLICATION says of a data object that was not made through PKCS#11.
const APPLICATION: &str = "strongroom";

/// The length of a key that ZFS writes as hexadecimal digits.
const HEX_KEY_LEN: usize = 32;

/// Attribute of a vault's private key whose public key, as an object, was destroyed, or was there
/// before it.
pub(crate) const PUBLIC_DESTROYED: &str = "cka-public.destroyed";

/// Which of the PKCS#11 objects of a vault's object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Face {
    /// The object itself; of a key pair, the private key.
    Itself,
    /// The public key of a key pair.
    Public,
}

/// An object of the vault, as it was listed.
pub(crate) struct Listed {
    pub(crate) metadata: Metadata,
    /// Whether its token is write-protected.
    pub(crate) protected: bool,
    /// Its public key, read once: to see that a point is one takes a millisecond or two on Curve448.
    public: Option<PublicKey>,
}

impl Listed {
    pub(crate) fn new(metadata: Metadata, protected: bool) -> Self {
        let public = (metadata.attributes.contains_key(PUBLIC_KEY))
            .then(|| PublicKey::of(&metadata).ok())
            .flatten();
        Self {
            metadata,
            protected,
            public,
        }
    }
}

impl Deref for Listed {
    type Target = Metadata;

    fn deref(&self) -> &Metadata {
        &self.metadata
    }
}

/// An object as PKCS#11 has it.
#[derive(Clone)]
pub(crate) enum Object {
    /// In the vault: a token object.
    Sealed(Arc<Listed>, Face),
    /// In the module's memory: a session object.
    Held(Held),
    /// What the token itself says of itself.
    Standing(Standing),
}

/// An object that every token has: a mechanism of its (section 4.11), or a profile that it follows
/// (section 4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Standing {
    pub(crate) slot: CK_SLOT_ID,
    pub(crate) class: Class,
    /// Which mechanism or profile.
    pub(crate) number: CK_ULONG,
}

/// A session object.
#[derive(Clone)]
pub(crate) struct Held {
    /// Whose end is the object's too.
    pub(crate) session: CK_SESSION_HANDLE,
    pub(crate) slot: CK_SLOT_ID,
    /// Tells it from all others of the process.
    pub(crate) number: u64,
    pub(crate) class: Class,
    /// Whether it is for the token's user alone.
    pub(crate) private: bool,
    /// What was said of it.
    pub(crate) given: Given,
    pub(crate) content: Arc<Content>,
}

/// What a session object is.
#[derive(Default)]
pub(crate) struct Content {
    /// CKA_VALUE of data objects and secret keys; what may be read of private keys.
    pub(crate) secrets: BTreeMap<CK_ATTRIBUTE_TYPE, Secret>,
    pub(crate) public: Option<PublicKey>,
    pub(crate) certificate: Option<Certificate>,
    /// A key over a finite field, or the parameters of such keys.
    pub(crate) field: Option<FieldKey>,
    /// A private key as PKCS#8.
    pub(crate) private: Option<Secret>,
    /// Whether it has the value of a key of the vault.
    pub(crate) of_vault: bool,
    pub(crate) local: bool,
}

/// Attributes that were given, in PKCS#11's form.
pub(crate) type Given = BTreeMap<CK_ATTRIBUTE_TYPE, Vec<u8>>;

/// The content of an attribute that an object has.
pub(crate) enum Attribute {
    /// Known without the TPM.
    Known(Vec<u8>),
    /// CKA_VALUE, whose length is known and whose content the TPM has.
    Value,
    /// Part of a key that does not leave the token as plaintext.
    Sensitive,
    /// CKA_VALUE_LEN, a `CK_ULONG`.
    ValueLen,
}

/// How the content of an attribute is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Flag,
    Number,
    /// A CK_DATE, or nothing.
    Date,
    Bytes,
}

/// When an attribute may be given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settable {
    /// It follows from the object, and whoever gives it must say the same.
    Never,
    /// When the object is made.
    Once,
    /// Whenever the object may be modified.
    Always,
    /// The same, but only to `true`.
    ToTrue,
    /// The same, but only to `false`.
    ToFalse,
}

/// An attribute.
struct Known {
    kind: CK_ATTRIBUTE_TYPE,
    /// The name in the vault.
    name: &'static str,
    form: Form,
    /// The classes that have it, as a sum of [`Class`].
    classes: u8,
    settable: Settable,
}

const D: u8 = Class::Data as u8;
const C: u8 = Class::Certificate as u8;
const P: u8 = Class::PublicKey as u8;
const V: u8 = Class::PrivateKey as u8;
const S: u8 = Class::SecretKey as u8;
const M: u8 = Class::Mechanism as u8;
const O: u8 = Class::Profile as u8;
const G: u8 = Class::DomainParameters as u8;

/// Every attribute that any object has.
static ATTRIBUTES: &[Known] = {
    use Form::{Bytes, Date, Flag, Number};
    use Settable::{Always, Never, Once, ToFalse, ToTrue};
    macro_rules! table {
        ($($kind:ident, $name:literal, $form:ident, $classes:expr, $settable:ident;)+) => {
            &[$(Known {
                kind: $kind,
                name: $name,
                form: $form,
                classes: $classes,
                settable: $settable,
            }),+]
        };
    }
    table! {
        // Of every object.
        CKA_CLASS, "class", Number, D | C | P | V | S | M | O | G, Never;
        CKA_TOKEN, "token", Flag, D | C | P | V | S | M | O | G, Never;
        CKA_PRIVATE, "private", Flag, D | C | P | V | S | M | O | G, Once;
        CKA_MODIFIABLE, "modifiable", Flag, D | C | P | V | S | M | O | G, Once;
        CKA_COPYABLE, "copyable", Flag, D | C | P | V | S | M | O | G, Once;
        CKA_DESTROYABLE, "destroyable", Flag, D | C | P | V | S | M | O | G, Once;
        CKA_LABEL, "label", Bytes, D | C | P | V | S | M | O | G, Always;
        CKA_UNIQUE_ID, "unique-id", Bytes, D | C | P | V | S | M | O | G, Never;
        CKA_ID, "id", Bytes, D | C | P | V | S, Always;
        CKA_VALUE, "value", Bytes, D | C | P | V | S, Never;
        // Of what a token says of itself.
        CKA_MECHANISM_TYPE, "mechanism-type", Number, M, Never;
        CKA_PROFILE_ID, "profile-id", Number, O, Never;
        // Of data.
        CKA_APPLICATION, "application", Bytes, D, Always;
        CKA_OBJECT_ID, "object-id", Bytes, D, Always;
        // Of certificates.
        CKA_CERTIFICATE_TYPE, "certificate-type", Number, C, Never;
        CKA_CERTIFICATE_CATEGORY, "certificate-category", Number, C, Once;
        CKA_ISSUER, "issuer", Bytes, C, Always;
        CKA_SERIAL_NUMBER, "serial-number", Bytes, C, Always;
        CKA_URL, "url", Bytes, C, Once;
        CKA_HASH_OF_SUBJECT_PUBLIC_KEY, "hash-of-subject-public-key", Bytes, C, Once;
        CKA_HASH_OF_ISSUER_PUBLIC_KEY, "hash-of-issuer-public-key", Bytes, C, Once;
        CKA_SUBJECT, "subject", Bytes, C | P | V, Always;
        CKA_PUBLIC_KEY_INFO, "public-key-info", Bytes, C | P | V, Never;
        CKA_TRUSTED, "trusted", Flag, C | P | S, ToFalse;
        CKA_START_DATE, "start-date", Date, C | P | V | S, Always;
        CKA_END_DATE, "end-date", Date, C | P | V | S, Always;
        // Of keys.
        CKA_KEY_TYPE, "key-type", Number, P | V | S | G, Never;
        CKA_LOCAL, "local", Flag, P | V | S | G, Never;
        CKA_KEY_GEN_MECHANISM, "key-gen-mechanism", Number, P | V | S, Never;
        CKA_ALLOWED_MECHANISMS, "allowed-mechanisms", Bytes, P | V | S, Once;
        CKA_DERIVE, "derive", Flag, P | V | S, Always;
        CKA_ENCRYPT, "encrypt", Flag, P | S, Always;
        CKA_VERIFY, "verify", Flag, P | S, Always;
        CKA_VERIFY_RECOVER, "verify-recover", Flag, P, Always;
        CKA_WRAP, "wrap", Flag, P | S, Always;
        CKA_DECRYPT, "decrypt", Flag, V | S, Always;
        CKA_SIGN, "sign", Flag, V | S, Always;
        CKA_SIGN_RECOVER, "sign-recover", Flag, V, Always;
        CKA_UNWRAP, "unwrap", Flag, V | S, Always;
        CKA_SENSITIVE, "sensitive", Flag, V | S, ToTrue;
        CKA_EXTRACTABLE, "extractable", Flag, V | S, ToFalse;
        CKA_ALWAYS_SENSITIVE, "always-sensitive", Flag, V | S, Never;
        CKA_NEVER_EXTRACTABLE, "never-extractable", Flag, V | S, Never;
        CKA_WRAP_WITH_TRUSTED, "wrap-with-trusted", Flag, V | S, ToTrue;
        CKA_ALWAYS_AUTHENTICATE, "always-authenticate", Flag, V, Once;
        CKA_WRAP_TEMPLATE, "wrap-template", Bytes, P | S, Once;
        CKA_UNWRAP_TEMPLATE, "unwrap-template", Bytes, V | S, Once;
        CKA_DERIVE_TEMPLATE, "derive-template", Bytes, V | S, Once;
        CKA_VALUE_LEN, "value-len", Number, S, Never;
        // Of RSA keys.
        CKA_MODULUS, "modulus", Bytes, P | V, Never;
        CKA_MODULUS_BITS, "modulus-bits", Number, P, Never;
        CKA_PUBLIC_EXPONENT, "public-exponent", Bytes, P | V, Never;
        CKA_PRIVATE_EXPONENT, "private-exponent", Bytes, V, Never;
        CKA_PRIME_1, "prime-1", Bytes, V, Never;
        CKA_PRIME_2, "prime-2", Bytes, V, Never;
        CKA_EXPONENT_1, "exponent-1", Bytes, V, Never;
        CKA_EXPONENT_2, "exponent-2", Bytes, V, Never;
        CKA_COEFFICIENT, "coefficient", Bytes, V, Never;
        // Of EC keys. The point of a private key is no attribute of section 6.3.4, and asked for
        // all the same by clients that look for the public key.
        CKA_EC_PARAMS, "ec-params", Bytes, P | V, Never;
        CKA_EC_POINT, "ec-point", Bytes, P | V, Never;
        // Of keys over finite fields, and of the parameters that they share.
        CKA_PRIME, "prime", Bytes, P | V | G, Never;
        CKA_SUBPRIME, "subprime", Bytes, P | V | G, Never;
        CKA_BASE, "base", Bytes, P | V | G, Never;
        CKA_PRIME_BITS, "prime-bits", Number, G, Never;
        CKA_SUBPRIME_BITS, "subprime-bits", Number, G, Never;
        CKA_VALUE_BITS, "value-bits", Number, V, Never;
    }
};

impl Known {
    fn find(kind: CK_ATTRIBUTE_TYPE, class: Class) -> Option<&'static Self> {
        ATTRIBUTES
            .iter()
            .find(|it| it.kind == kind && it.classes & class as u8 != 0)
    }

    /// Whether it says what a key may be used for.
    fn is_usage(&self) -> bool {
        self.form == Form::Flag && self.settable == Settable::Always
    }

    /// From PKCS#11's form to the vault's.
    fn write(&self, bytes: &[u8]) -> Answer<String> {
        Ok(match self.form {
            Form::Flag => read_flag(bytes)?.to_string(),
            Form::Number => read_number(bytes)?.to_string(),
            Form::Date if !is_date(bytes) => return Err(invalid()),
            Form::Date | Form::Bytes => hex::encode(bytes),
        })
    }

    /// And back; nothing for what is no such text.
    fn read(&self, text: &str) -> Option<Vec<u8>> {
        match self.form {
            Form::Flag => text.parse().ok().map(flag),
            Form::Number => text.parse().ok().map(number),
            Form::Date | Form::Bytes => hex::decode(text).ok(),
        }
    }
}

/// Whether these are the digits of a year, month and day (section 3.4), or nothing.
fn is_date(bytes: &[u8]) -> bool {
    let number = |range: std::ops::Range<usize>| {
        let text = std::str::from_utf8(&bytes[range]).ok()?;
        text.parse::<u32>().ok()
    };
    bytes.is_empty()
        || bytes.len() == size_of::<CK_DATE>()
            && bytes.iter().all(u8::is_ascii_digit)
            && number(4..6).is_some_and(|month| (1..=12).contains(&month))
            && number(6..8).is_some_and(|day| (1..=31).contains(&day))
}

impl Face {
    /// What the name of an attribute begins with in the vault, in the order of precedence. A public
    /// key of which nothing else was said has its private key's name.
    fn prefixes(self, kind: CK_ATTRIBUTE_TYPE) -> &'static [&'static str] {
        match (self, kind) {
            (Self::Itself, _) => &["cka."],
            (Self::Public, CKA_LABEL | CKA_ID | CKA_SUBJECT) => &["cka-public.", "cka."],
            (Self::Public, _) => &["cka-public."],
        }
    }

    /// The name under which the vault keeps an attribute of this face.
    fn name(self, known: &Known) -> String {
        format!("{}{}", self.prefixes(known.kind)[0], known.name)
    }

    /// The PKCS#11 objects of a vault's object.
    pub(crate) fn all_of(object: &Listed) -> &'static [Self] {
        match object.kind {
            Kind::PrivateKey if object.public.is_none() => &[],
            Kind::PrivateKey if object.attributes.contains_key(PUBLIC_DESTROYED) => &[Self::Itself],
            Kind::PrivateKey => &[Self::Itself, Self::Public],
            Kind::Credential
                if object.attributes.contains_key(PUBLIC_KEY) && object.public.is_none() =>
            {
                &[]
            }
            Kind::Certificate if certificate_of(object).is_none() => &[],
            _ => &[Self::Itself],
        }
    }
}

impl Object {
    pub(crate) fn class(&self) -> Class {
        match self {
            Self::Held(held) => held.class,
            Self::Standing(standing) => standing.class,
            Self::Sealed(_, Face::Public) => Class::PublicKey,
            Self::Sealed(object, Face::Itself) => match object.kind {
                Kind::Credential if object.attributes.contains_key(PUBLIC_KEY) => Class::PublicKey,
                Kind::Credential => Class::Data,
                Kind::DatasetKey | Kind::SecretKey => Class::SecretKey,
                Kind::PrivateKey => Class::PrivateKey,
                Kind::Certificate => Class::Certificate,
            },
        }
    }

    /// Whether it is for those alone who have logged in as the token's user. A public key out of a
    /// private one is not, unless that was asked for.
    pub(crate) fn is_private(&self) -> bool {
        match self {
            Self::Sealed(object, Face::Itself) => object.needs_pin(),
            Self::Sealed(object, Face::Public) => {
                object.attributes.contains_key(PIN)
                    && self.given(CKA_PRIVATE).is_some_and(|it| it == flag(true))
            }
            Self::Held(held) => held.private,
            Self::Standing(_) => false,
        }
    }

    /// Whether it is in the vault.
    pub(crate) fn is_token_object(&self) -> bool {
        matches!(self, Self::Sealed(..) | Self::Standing(_))
    }

    /// Whether it is in the vault, or has the value of what is.
    pub(crate) fn is_of_vault(&self) -> bool {
        match self {
            Self::Sealed(..) => true,
            Self::Held(held) => held.content.of_vault,
            Self::Standing(_) => false,
        }
    }

    /// The public key that it is, or belongs to.
    pub(crate) fn public_key(&self) -> Option<&PublicKey> {
        match self {
            Self::Sealed(object, _) => object.public.as_ref(),
            Self::Held(held) => held.content.public.as_ref(),
            Self::Standing(_) => None,
        }
    }

    /// The certificate that it is.
    pub(crate) fn certificate(&self) -> Option<Certificate> {
        match self {
            Self::Sealed(object, _) => certificate_of(object),
            Self::Held(held) => held.content.certificate.clone(),
            Self::Standing(_) => None,
        }
    }

    /// The key over a finite field, or the parameters, that it is.
    pub(crate) fn field_key(&self) -> Option<&FieldKey> {
        match self {
            Self::Held(held) => held.content.field.as_ref(),
            _ => None,
        }
    }

    /// The type of key that it is.
    pub(crate) fn key_type(&self) -> Option<CK_KEY_TYPE> {
        if let Some(key) = self.field_key() {
            return Some(key.key_type());
        }
        match self.class() {
            Class::PublicKey | Class::PrivateKey => {
                Some(key_type_of(self.public_key()?.algorithm()))
            }
            Class::SecretKey => {
                let given = self.given(CKA_KEY_TYPE);
                Some(
                    given
                        .and_then(|it| read_number(&it).ok())
                        .unwrap_or(CKK_GENERIC_SECRET),
                )
            }
            Class::Data
            | Class::Certificate
            | Class::Mechanism
            | Class::Profile
            | Class::DomainParameters => None,
        }
    }

    /// Whether it has this flag.
    pub(crate) fn has(&self, kind: CK_ATTRIBUTE_TYPE) -> bool {
        matches!(self.attribute(kind), Some(Attribute::Known(value)) if value == [CK_TRUE])
    }

    /// An attribute; none if it has no such attribute.
    pub(crate) fn attribute(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<Attribute> {
        let class = self.class();
        Known::find(kind, class)?;
        let known = match kind {
            CKA_CLASS => number(class.number()),
            CKA_TOKEN => flag(self.is_token_object()),
            CKA_PRIVATE => flag(self.is_private()),
            // Without a login there is none that could come before each use.
            CKA_ALWAYS_AUTHENTICATE if self.is_private() => {
                self.given(kind).unwrap_or_else(|| flag(false))
            }
            CKA_COPYABLE if !self.can_be_copied() => flag(false),
            CKA_COPYABLE => self.given(kind).unwrap_or_else(|| flag(true)),
            CKA_TRUSTED | CKA_ALWAYS_AUTHENTICATE => flag(false),
            // An empty list would say that nothing is allowed.
            CKA_ALLOWED_MECHANISMS
            | CKA_WRAP_TEMPLATE
            | CKA_UNWRAP_TEMPLATE
            | CKA_DERIVE_TEMPLATE => self.given(kind)?,
            CKA_MODIFIABLE | CKA_DESTROYABLE if self.is_protected() => flag(false),
            CKA_MODIFIABLE | CKA_DESTROYABLE => self.given(kind).unwrap_or_else(|| flag(true)),
            CKA_UNIQUE_ID => self.unique_id().into_bytes(),
            CKA_LABEL => self.label(),
            CKA_ID => self.id(),
            CKA_KEY_TYPE => number(self.key_type()?),
            CKA_LOCAL => flag(self.is_local()),
            CKA_KEY_GEN_MECHANISM => number(self.key_gen_mechanism()),
            _ => {
                return match class {
                    Class::Data => Some(self.of_data(kind)),
                    Class::Certificate => self.of_certificate(kind),
                    Class::SecretKey => self.of_secret_key(kind),
                    Class::PublicKey | Class::PrivateKey | Class::DomainParameters => {
                        match self.field_key() {
                            Some(key) => self.of_field_key(kind, key),
                            None => self.of_key_pair(kind),
                        }
                    }
                    Class::Mechanism | Class::Profile => match self {
                        Self::Standing(standing) => Some(Attribute::Known(number(standing.number))),
                        _ => None,
                    },
                };
            }
        };
        Some(Attribute::Known(known))
    }

    /// What was given when it was made or modified, in PKCS#11's form.
    fn given(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<Vec<u8>> {
        match self {
            Self::Held(held) => held.given.get(&kind).cloned(),
            Self::Standing(_) => None,
            Self::Sealed(object, face) => {
                let known = Known::find(kind, self.class())?;
                let text = face
                    .prefixes(kind)
                    .iter()
                    .find_map(|prefix| object.attributes.get(&format!("{prefix}{}", known.name)))?;
                known.read(text)
            }
        }
    }

    /// All that was given, and what follows for a copy from what the object is.
    pub(crate) fn all_given(&self) -> Given {
        let class = self.class();
        ATTRIBUTES
            .iter()
            .filter(|it| it.classes & class as u8 != 0)
            .filter_map(|it| Some((it.kind, self.given(it.kind)?)))
            .collect()
    }

    /// The label of a copy of it of which this was said.
    pub(crate) fn label_of(&self, given: &Given) -> Vec<u8> {
        given
            .get(&CKA_LABEL)
            .cloned()
            .unwrap_or_else(|| self.label())
    }

    /// Whether there can be two of it: private keys in the TPM are there alone, and dataset keys are
    /// the owner's to pass on.
    fn can_be_copied(&self) -> bool {
        let is_ours = match self {
            Self::Sealed(object, Face::Itself) => object.kind != Kind::PrivateKey,
            Self::Sealed(_, Face::Public) | Self::Held(_) => true,
            Self::Standing(_) => false,
        };
        is_ours && !self.is_dataset_key()
    }

    fn given_or_empty(&self, kind: CK_ATTRIBUTE_TYPE) -> Attribute {
        Attribute::Known(self.given(kind).unwrap_or_default())
    }

    fn given_or(&self, kind: CK_ATTRIBUTE_TYPE, default: bool) -> Attribute {
        Attribute::Known(self.given(kind).unwrap_or_else(|| flag(default)))
    }

    fn is_protected(&self) -> bool {
        match self {
            Self::Sealed(object, _) => object.protected,
            Self::Held(_) => false,
            Self::Standing(_) => true,
        }
    }

    fn unique_id(&self) -> String {
        match self {
            Self::Sealed(object, Face::Itself) => object.id.to_string(),
            Self::Sealed(object, Face::Public) => format!("{}/public", object.id),
            Self::Held(held) => format!("session/{}", held.number),
            Self::Standing(it) => format!("{:?}/{}", it.class, it.number),
        }
    }

    fn label(&self) -> Vec<u8> {
        self.given(CKA_LABEL).unwrap_or_else(|| match self {
            Self::Sealed(object, _) => object.label.as_str().as_bytes().to_vec(),
            Self::Held(_) | Self::Standing(_) => Vec::new(),
        })
    }

    fn id(&self) -> Vec<u8> {
        self.given(CKA_ID).unwrap_or_else(|| match self {
            Self::Sealed(object, _) => object.id.as_bytes().to_vec(),
            Self::Held(_) | Self::Standing(_) => Vec::new(),
        })
    }

    /// Whether it was made here.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Sealed(object, _) => object.attributes.get(LOCAL).is_some_and(|it| it == "true"),
            Self::Held(held) => held.content.local,
            Self::Standing(_) => true,
        }
    }

    fn key_gen_mechanism(&self) -> CK_MECHANISM_TYPE {
        match self.key_type() {
            Some(CKK_RSA) if self.is_local() => CKM_RSA_PKCS_KEY_PAIR_GEN,
            Some(CKK_EC) if self.is_local() => CKM_EC_KEY_PAIR_GEN,
            Some(CKK_EC_EDWARDS) if self.is_local() => CKM_EC_EDWARDS_KEY_PAIR_GEN,
            Some(CKK_EC_MONTGOMERY) if self.is_local() => CKM_EC_MONTGOMERY_KEY_PAIR_GEN,
            Some(CKK_AES) if self.is_local() => CKM_AES_KEY_GEN,
            Some(CKK_SHA_1_HMAC) if self.is_local() => CKM_SHA_1_KEY_GEN,
            Some(CKK_SHA224_HMAC) if self.is_local() => CKM_SHA224_KEY_GEN,
            Some(CKK_SHA256_HMAC) if self.is_local() => CKM_SHA256_KEY_GEN,
            Some(CKK_SHA384_HMAC) if self.is_local() => CKM_SHA384_KEY_GEN,
            Some(CKK_SHA512_HMAC) if self.is_local() => CKM_SHA512_KEY_GEN,
            Some(CKK_GENERIC_SECRET) if self.is_local() => CKM_GENERIC_SECRET_KEY_GEN,
            Some(CKK_DES2) if self.is_local() => CKM_DES2_KEY_GEN,
            Some(CKK_DES3) if self.is_local() => CKM_DES3_KEY_GEN,
            Some(CKK_DSA) if self.is_local() => CKM_DSA_KEY_PAIR_GEN,
            Some(CKK_DH) if self.is_local() => CKM_DH_PKCS_KEY_PAIR_GEN,
            _ => CK_UNAVAILABLE_INFORMATION,
        }
    }

    /// Whether CKA_VALUE and its like may be read.
    pub(crate) fn is_readable(&self) -> bool {
        !self.has(CKA_SENSITIVE) && self.has(CKA_EXTRACTABLE)
    }

    fn is_dataset_key(&self) -> bool {
        matches!(self, Self::Sealed(object, _) if object.kind == Kind::DatasetKey)
    }

    /// Whether it is a key that encrypts unless something else is said of it.
    fn is_of_cipher(&self) -> bool {
        matches!(self.key_type(), Some(CKK_AES | CKK_DES2 | CKK_DES3))
    }

    fn of_data(&self, kind: CK_ATTRIBUTE_TYPE) -> Attribute {
        match kind {
            CKA_VALUE => self.value(),
            CKA_APPLICATION => Attribute::Known(self.given(kind).unwrap_or_else(|| match self {
                Self::Sealed(..) => APPLICATION.as_bytes().to_vec(),
                _ => Vec::new(),
            })),
            _ => self.given_or_empty(kind),
        }
    }

    fn value(&self) -> Attribute {
        match self {
            Self::Sealed(..) | Self::Standing(_) => Attribute::Value,
            Self::Held(held) => Attribute::Known(
                held.content
                    .secrets
                    .get(&CKA_VALUE)
                    .map(|value| value.expose().to_vec())
                    .unwrap_or_default(),
            ),
        }
    }

    fn of_certificate(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<Attribute> {
        let certificate = self.certificate()?;
        let parsed = match kind {
            CKA_VALUE => return Some(Attribute::Known(certificate.der)),
            CKA_CERTIFICATE_TYPE => return Some(Attribute::Known(number(CKC_X_509))),
            CKA_PUBLIC_KEY_INFO => return Some(Attribute::Known(certificate.public_key_info)),
            CKA_CERTIFICATE_CATEGORY => number(CK_CERTIFICATE_CATEGORY_UNSPECIFIED),
            CKA_SUBJECT => certificate.subject,
            CKA_ISSUER => certificate.issuer,
            CKA_SERIAL_NUMBER => certificate.serial_number,
            _ => Vec::new(),
        };
        Some(Attribute::Known(self.given(kind).unwrap_or(parsed)))
    }

    fn of_secret_key(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<Attribute> {
        Some(match kind {
            CKA_VALUE if self.is_readable() => self.value(),
            CKA_VALUE => Attribute::Sensitive,
            CKA_VALUE_LEN if self.key_type().is_some_and(is_legacy) => return None,
            CKA_VALUE_LEN => match self {
                Self::Sealed(..) | Self::Standing(_) => Attribute::ValueLen,
                Self::Held(held) => {
                    let value = held.content.secrets.get(&CKA_VALUE)?;
                    Attribute::Known(number(crate::foreign::ulong(value.len())))
                }
            },
            CKA_START_DATE | CKA_END_DATE => self.given_or_empty(kind),
            // A dataset key is for ZFS, whatever was said of it.
            CKA_ENCRYPT | CKA_DECRYPT | CKA_SIGN | CKA_VERIFY | CKA_WRAP | CKA_UNWRAP
            | CKA_DERIVE
                if self.is_dataset_key() =>
            {
                Attribute::Known(flag(false))
            }
            CKA_ENCRYPT | CKA_DECRYPT => self.given_or(kind, self.is_of_cipher()),
            CKA_SIGN | CKA_VERIFY => self.given_or(kind, !self.is_of_cipher()),
            // Those that were not made through PKCS#11 came from outside, in clear, and are not
            // to be read.
            _ => self.given_or(kind, kind == CKA_SENSITIVE),
        })
    }

    fn of_key_pair(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<Attribute> {
        let public = self.public_key()?;
        let is_rsa = public.rsa().is_some();
        let algorithm = public.algorithm();
        Some(match kind {
            CKA_PUBLIC_KEY_INFO => Attribute::Known(public.spki().to_vec()),
            CKA_MODULUS => Attribute::Known(public.rsa()?.0.to_vec()),
            CKA_PUBLIC_EXPONENT => Attribute::Known(public.rsa()?.1.to_vec()),
            CKA_MODULUS_BITS => match public.algorithm() {
                KeyAlgorithm::Rsa(bits) => Attribute::Known(number(bits.into())),
                _ => return None,
            },
            CKA_EC_PARAMS => Attribute::Known(ec_parameters(public.algorithm())?.to_vec()),
            CKA_EC_POINT => Attribute::Known(octet_string(public.ec_point()?)),
            CKA_VALUE if is_rsa || self.class() == Class::PublicKey => return None,
            CKA_PRIME | CKA_SUBPRIME | CKA_BASE | CKA_VALUE_BITS => return None,
            CKA_PRIVATE_EXPONENT | CKA_PRIME_1 | CKA_PRIME_2 | CKA_EXPONENT_1 | CKA_EXPONENT_2
            | CKA_COEFFICIENT
                if !is_rsa =>
            {
                return None;
            }
            CKA_VALUE | CKA_PRIVATE_EXPONENT | CKA_PRIME_1 | CKA_PRIME_2 | CKA_EXPONENT_1
            | CKA_EXPONENT_2 | CKA_COEFFICIENT => self.of_private_key(kind),
            CKA_SUBJECT | CKA_START_DATE | CKA_END_DATE => self.given_or_empty(kind),
            CKA_SENSITIVE => self.given_or(kind, true),
            CKA_VERIFY | CKA_SIGN => self.given_or(kind, algorithm != KeyAlgorithm::X25519),
            CKA_ENCRYPT | CKA_DECRYPT => self.given_or(kind, is_rsa),
            CKA_DERIVE => {
                let signs_alone = matches!(algorithm, KeyAlgorithm::Ed25519 | KeyAlgorithm::Ed448);
                let agrees = !is_rsa && !signs_alone;
                self.given_or(kind, agrees && self.class() == Class::PrivateKey)
            }
            CKA_ALWAYS_SENSITIVE | CKA_NEVER_EXTRACTABLE if self.is_token_object() => {
                Attribute::Known(flag(self.is_local()))
            }
            _ => self.given_or(kind, false),
        })
    }

    fn of_field_key(&self, kind: CK_ATTRIBUTE_TYPE, key: &FieldKey) -> Option<Attribute> {
        let signs = key.key_type() == CKK_DSA;
        Some(match kind {
            CKA_VALUE if self.class() == Class::PrivateKey => match key.private_value() {
                Some(value) if self.is_readable() => Attribute::Known(value.expose().to_vec()),
                _ => Attribute::Sensitive,
            },
            CKA_VALUE | CKA_VALUE_BITS | CKA_PRIME | CKA_SUBPRIME | CKA_BASE | CKA_PRIME_BITS
            | CKA_SUBPRIME_BITS => Attribute::Known(key.open(kind)?),
            CKA_MODULUS | CKA_MODULUS_BITS | CKA_PUBLIC_EXPONENT | CKA_PRIVATE_EXPONENT
            | CKA_PRIME_1 | CKA_PRIME_2 | CKA_EXPONENT_1 | CKA_EXPONENT_2 | CKA_COEFFICIENT
            | CKA_EC_PARAMS | CKA_EC_POINT => return None,
            CKA_SUBJECT | CKA_START_DATE | CKA_END_DATE | CKA_PUBLIC_KEY_INFO => {
                self.given_or_empty(kind)
            }
            CKA_SENSITIVE => self.given_or(kind, true),
            CKA_VERIFY | CKA_SIGN => self.given_or(kind, signs),
            CKA_DERIVE => self.given_or(kind, !signs && self.class() == Class::PrivateKey),
            _ => self.given_or(kind, false),
        })
    }

    fn of_private_key(&self, kind: CK_ATTRIBUTE_TYPE) -> Attribute {
        match self {
            Self::Held(held) if self.is_readable() => match held.content.secrets.get(&kind) {
                Some(part) => Attribute::Known(part.expose().to_vec()),
                None => Attribute::Sensitive,
            },
            _ => Attribute::Sensitive,
        }
    }
}

/// Writes attributes down as the vault keeps them.
pub(crate) fn write_down(
    given: &Given,
    class: Class,
    face: Face,
    attributes: &mut BTreeMap<String, String>,
) -> Answer {
    for (kind, bytes) in given {
        let known = Known::find(*kind, class).ok_or(Fault::Code(CKR_ATTRIBUTE_TYPE_INVALID))?;
        attributes.insert(face.name(known), known.write(bytes)?);
    }
    Ok(())
}

/// The length of an object's value, given its payload's: a key may be written as digits.
pub(crate) fn value_len(object: &Metadata, payload_len: usize) -> usize {
    if is_hex_key(object) && payload_len == 2 * HEX_KEY_LEN {
        HEX_KEY_LEN
    } else {
        payload_len
    }
}

fn is_hex_key(object: &Metadata) -> bool {
    object.kind == Kind::DatasetKey
        && object
            .attributes
            .get(KEYFORMAT)
            .is_some_and(|format| format == "hex")
}

fn certificate_of(object: &Metadata) -> Option<Certificate> {
    let text = object.attributes.get(CERTIFICATE)?;
    Certificate::parse(&STANDARD.decode(text).ok()?)
}
