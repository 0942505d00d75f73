//! How bytes and structures are written down: base64 in JSON, and the one canonical encoding that
//! MACs and key derivations are computed over.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// Bytes that are standard base64 with padding (RFC 4648, section 4) in JSON. Never secret ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Base64(pub(crate) Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD
            .decode(text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// The canonical encoding: JSON as in RFC 8785 (keys sorted, no white space, shortest escapes).
///
/// What is encoded here holds only strings, booleans, integers below 2^53, arrays and objects with
/// ASCII keys, and for these serde_json's compact form of a sorted map is RFC 8785's.
pub(crate) fn canonical(value: &impl Serialize) -> Vec<u8> {
    let value =
        serde_json::to_value(value).expect("our types have string keys and no failing parts");
    serde_json::to_vec(&value).expect("a JSON value can be written to memory")
}

/// The canonical encoding of an object without its member `mac`: what that MAC is computed over.
pub(crate) fn canonical_without_mac(value: &impl Serialize) -> Vec<u8> {
    let mut value =
        serde_json::to_value(value).expect("our types have string keys and no failing parts");
    if let Some(members) = value.as_object_mut() {
        members.remove("mac");
    }
    canonical(&value)
}

/// A JSON value in which no object has one key twice. serde_json's own keeps the last of them, so
/// that two programs could read one file differently.
pub(crate) struct Strict(pub(crate) Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON of strings, booleans, integers, arrays and objects")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = array.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((key, Strict(value))) = object.next_entry::<String, _>()? {
            if members.contains_key(&key) {
                return Err(serde::de::Error::custom(format!("{key:?} is there twice")));
            }
            members.insert(key, value);
        }
        Ok(members.into())
    }
}

/// 64-bit ZFS GUIDs as decimal text.
pub(crate) mod guid {
    use super::{Deserialize, Deserializer, Serializer};

    #[allow(
        clippy::ref_option,
        reason = "serde's `with` passes a reference to the field"
    )]
    pub(crate) fn serialize<S: Serializer>(
        guid: &Option<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match guid {
            Some(guid) => serializer.collect_str(guid),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| text.parse().map_err(serde::de::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_form_sorts_and_does_not_pad() {
        #[derive(Serialize)]
        struct Sample {
            z: u64,
            a: &'static str,
            m: Base64,
        }
        let sample = Sample {
            z: 1,
            a: "ü\n\u{1}\"/",
            m: Base64(vec![0, 255]),
        };
        assert_eq!(
            String::from_utf8(canonical(&sample)).expect("UTF-8"),
            r#"{"a":"ü\n\u0001\"/","m":"AP8=","z":1}"#
        );
    }

    #[test]
    fn a_key_that_is_there_twice_is_refused_at_any_depth() {
        for bad in [
            r#"{"a":1,"a":1}"#,
            r#"{"x":[{"a":{},"b":{},"a":{}}]}"#,
            r#"{"a":1,"\u0061":1}"#,
        ] {
            assert!(serde_json::from_str::<Strict>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_and_nulls_that_we_never_write_are_refused() {
        for bad in ["null", "[1.5]", r#"{"a":-1}"#, r#"{"a":1e3}"#] {
            assert!(serde_json::from_str::<Strict>(bad).is_err(), "{bad}");
        }
    }
}
