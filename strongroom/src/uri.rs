//! Names of objects: PKCS#11 URIs (RFC 7512), as far as they name objects of a vault.

use std::fmt::{self, Write};
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::object::{Kind, Metadata, ObjectId, TokenName};

/// Which objects are meant: all that match every part that is set.
///
/// As text it is a PKCS#11 URI of the attributes `token`, `object` (the label), `type` and `id`,
/// such as `pkcs11:token=datasets;object=tank%2Fhome;type=secret-key`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// The token's name.
    pub token: Option<TokenName>,
    /// The object's label, exactly.
    pub label: Option<String>,
    /// PKCS#11's class of object.
    pub class: Option<Class>,
    /// The object's id.
    pub id: Option<ObjectId>,
}

/// PKCS#11's classes as RFC 7512, section 2.3, names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// CKO_DATA: credentials.
    Data,
    /// CKO_SECRET_KEY: dataset keys and secret keys.
    SecretKey,
    /// CKO_PRIVATE_KEY.
    Private,
    /// CKO_CERTIFICATE.
    Cert,
}

impl Class {
    /// The class of an object's kind.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Credential => Self::Data,
            Kind::DatasetKey | Kind::SecretKey => Self::SecretKey,
            Kind::PrivateKey => Self::Private,
            Kind::Certificate => Self::Cert,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::SecretKey => "secret-key",
            Self::Private => "private",
            Self::Cert => "cert",
        }
    }
}

impl Selector {
    /// The object with this id.
    pub fn id(id: ObjectId) -> Self {
        Self {
            id: Some(id),
            ..Self::default()
        }
    }

    /// The objects of a token with this label.
    pub fn label(token: TokenName, label: impl Into<String>) -> Self {
        Self {
            token: Some(token),
            label: Some(label.into()),
            ..Self::default()
        }
    }

    /// Whether an object is meant.
    pub fn matches(&self, object: &Metadata) -> bool {
        self.token.as_ref().is_none_or(|t| *t == object.token)
            && self
                .label
                .as_ref()
                .is_none_or(|l| l == object.label.as_str())
            && self.class.is_none_or(|c| c == Class::of(object.kind))
            && self.id.is_none_or(|id| id == object.id)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(token) = &self.token {
            parts.push(format!("token={token}"));
        }
        if let Some(label) = &self.label {
            parts.push(format!("object={}", percent_encode(label.as_bytes())));
        }
        if let Some(class) = self.class {
            parts.push(format!("type={}", class.as_str()));
        }
        if let Some(id) = &self.id {
            let bytes = id.as_bytes().iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "%{byte:02X}");
                text
            });
            parts.push(format!("id={bytes}"));
        }
        write!(f, "pkcs11:{}", parts.join(";"))
    }
}

impl FromStr for Selector {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |reason: &str| Error::input(format!("object URI {text:?}"), reason);
        let path = text
            .strip_prefix("pkcs11:")
            .ok_or_else(|| refuse("it must begin with pkcs11:"))?;
        let path = path.split('?').next().unwrap_or_default();
        let mut selector = Self::default();
        for part in path.split(';').filter(|part| !part.is_empty()) {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| refuse("each part must be KEY=VALUE"))?;
            let value = percent_decode(value).ok_or_else(|| refuse("a % needs two hex digits"))?;
            let as_text =
                || String::from_utf8(value.clone()).map_err(|_| refuse("a value is not UTF-8"));
            match key {
                "token" => selector.token = Some(as_text()?.parse()?),
                "object" => selector.label = Some(as_text()?),
                "type" => {
                    selector.class = Some(match as_text()?.as_str() {
                        "data" => Class::Data,
                        "secret-key" => Class::SecretKey,
                        "private" => Class::Private,
                        "cert" => Class::Cert,
                        _ => return Err(refuse("type must be data, secret-key, private or cert")),
                    });
                }
                "id" => {
                    let bytes = <[u8; 16]>::try_from(value.as_slice())
                        .map_err(|_| refuse("id must be 16 bytes"))?;
                    selector.id = Some(uuid::Uuid::from_bytes(bytes).to_string().parse()?);
                }
                // The vault is one module with one manufacturer: what else a URI says of those
                // does not choose between its objects.
                "manufacturer"
                | "model"
                | "serial"
                | "library-manufacturer"
                | "library-description" => {}
                _ => return Err(refuse("it names an attribute that objects of a vault lack")),
            }
        }
        Ok(selector)
    }
}

fn percent_encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, &byte| {
        // RFC 3986's unreserved characters.
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(byte.into());
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            hex::decode(digits).ok()?[0]
        } else {
            byte
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_selector_reads_as_what_it_prints() {
        let selector = Selector {
            token: Some(TokenName::datasets()),
            label: Some("tank/My Media;ü%".to_owned()),
            class: Some(Class::SecretKey),
            id: Some(ObjectId::random()),
        };
        assert_eq!(
            selector,
            selector.to_string().parse().expect("its own text")
        );
    }

    #[test]
    fn the_designs_example_reads() {
        let selector: Selector = "pkcs11:token=datasets;object=tank%2Fhome;type=secret-key"
            .parse()
            .expect("valid");
        assert_eq!(selector.label.as_deref(), Some("tank/home"));
    }

    #[test]
    fn bad_uris_are_refused() {
        for bad in [
            "tank/home",
            "pkcs11:token",
            "pkcs11:object=%4",
            "pkcs11:object=%zz",
            "pkcs11:object=%ff",
            "pkcs11:id=%01",
            "pkcs11:type=banana",
            "pkcs11:colour=red",
            "pkcs11:token=UPPER",
        ] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_label_survives_a_uri(label in ".{1,80}") {
            let selector = Selector::label(TokenName::keys(), label);
            prop_assert_eq!(&selector, &selector.to_string().parse().expect("its own text"));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "(pkcs11:)?[a-z=;%0-9a-fA-F?&.-]{0,60}.{0,20}") {
            let _ = text.parse::<Selector>();
        }
    }
}
