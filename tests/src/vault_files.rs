//! A vault's files in other hands: what a bad disk or an attacker can make of them, and what the
//! holder of the recovery kit can read in them.
//!
//! The format is written down here a second time, so that a mistake of the library's is not
//! repeated by its tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use age::x25519;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use der::asn1::{ObjectIdentifier, OctetString};
use der::{Decode, Encode, Sequence};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;

/// Every file under a path, and what it holds: two snapshots are the same if nothing was written.
/// Not of a database that this process holds locked: reading its file drops SQLite's locks.
pub fn snapshot(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut paths = vec![path.to_owned()];
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("the folder can be read");
            paths.extend(entries.map(|entry| entry.expect("the folder can be read").path()));
        } else if path.is_file() {
            let bytes = fs::read(&path).expect("the file can be read");
            files.insert(path, bytes);
        }
    }
    files
}

/// A file of JSON.
pub fn read_json(file: &Path) -> Value {
    let bytes = fs::read(file).expect("the file is there");
    serde_json::from_slice(&bytes).expect("the file is JSON")
}

/// Writes a file of JSON.
pub fn write_json(file: &Path, value: &Value) {
    let text = serde_json::to_vec_pretty(value).expect("a JSON value can be written");
    fs::write(file, text).expect("the file can be written");
}

/// A document in which one thing was changed.
pub struct Edit {
    /// What, for people.
    pub what: String,
    /// The document as it is then.
    pub document: Value,
}

/// A document with each of its parts changed in turn, by someone who knows nothing but JSON and
/// base64: every text, number and list, every member left out, and an unknown one put in.
pub fn edits(document: &Value) -> Vec<Edit> {
    let mut edits = Vec::new();
    for pointer in pointers(document) {
        let part = document.pointer(&pointer).expect("it was just found");
        for (what, changed) in changes(part) {
            let mut document = document.clone();
            *document.pointer_mut(&pointer).expect("it was just found") = changed;
            let what = format!("{pointer}: {what}");
            edits.push(Edit { what, document });
        }
    }
    edits
}

/// Where every part of a document is, the document itself included (RFC 6901).
fn pointers(document: &Value) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut next = 0;
    while next < found.len() {
        let pointer = found[next].clone();
        match document.pointer(&pointer).expect("it was just found") {
            Value::Object(members) => {
                found.extend(members.keys().map(|name| format!("{pointer}/{name}")));
            }
            Value::Array(list) => {
                found.extend((0..list.len()).map(|place| format!("{pointer}/{place}")));
            }
            _ => {}
        }
        next += 1;
    }
    found
}

fn changes(part: &Value) -> Vec<(&'static str, Value)> {
    let mut changes = match part {
        Value::Number(number) => {
            let number = number.as_u64().expect("a vault's numbers are natural");
            vec![
                ("one more", Value::from(number + 1)),
                ("zero", Value::from(0)),
            ]
        }
        Value::String(text) => changed_texts(text),
        Value::Array(list) => vec![
            ("emptied", Value::from(Vec::<Value>::new())),
            (
                "turned round",
                list.iter().rev().cloned().collect::<Vec<_>>().into(),
            ),
            (
                "cut short",
                list[..list.len().saturating_sub(1)].to_vec().into(),
            ),
        ],
        Value::Object(members) => {
            let mut more = members.clone();
            more.insert("unknown".to_owned(), Value::from("member"));
            let left_out = members.keys().map(|name| {
                let mut fewer = members.clone();
                fewer.remove(name);
                ("a member left out", Value::from(fewer))
            });
            let put_in = ("a member put in", Value::from(more));
            std::iter::once(put_in).chain(left_out).collect()
        }
        Value::Bool(_) | Value::Null => Vec::new(),
    };
    changes.retain(|(_, changed)| changed != part);
    changes
}

fn changed_texts(text: &str) -> Vec<(&'static str, Value)> {
    let mut changes = vec![("emptied", Value::from(""))];
    match BASE64.decode(text) {
        Ok(bytes) if bytes.len() >= 12 => {
            let flipped = |place: usize| {
                let mut bytes = bytes.clone();
                bytes[place] ^= 1;
                Value::from(BASE64.encode(bytes))
            };
            changes.extend([
                ("first byte", flipped(0)),
                ("middle byte", flipped(bytes.len() / 2)),
                ("last byte", flipped(bytes.len() - 1)),
                (
                    "cut short",
                    Value::from(BASE64.encode(&bytes[..bytes.len() - 1])),
                ),
            ]);
        }
        _ => {
            let last = if text.ends_with('a') { 'b' } else { 'a' };
            let mut other = text.to_owned();
            other.pop();
            other.push(last);
            changes.push(("last letter", Value::from(other)));
        }
    }
    changes
}

/// The recovery kit, as the `age` program would use it.
pub struct Kit {
    identity: x25519::Identity,
    secret: String,
}

impl Kit {
    /// Reads the file that `strongroom init` wrote.
    pub fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).expect("the kit is there");
        let secret = text
            .lines()
            .find(|line| line.starts_with("AGE-SECRET-KEY-1"))
            .expect("the kit has an identity")
            .to_owned();
        let identity = x25519::Identity::from_str(&secret).expect("the kit's identity is age's");
        Self { identity, secret }
    }

    /// The identity itself, as the kit spells it.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// What a recovery slot holds.
    pub fn open(&self, slot: &Value) -> Vec<u8> {
        let slot = slot.as_str().expect("a slot is text");
        let slot = BASE64.decode(slot).expect("a slot is base64");
        age::decrypt(&self.identity, &slot).expect("the slot is the kit's")
    }

    /// K_vault, of a manifest.
    pub fn vault_key(&self, manifest: &Value) -> Vec<u8> {
        self.open(&manifest["vault-key"]["recovery"])
    }

    /// The DEK of an object.
    pub fn dek(&self, object: &Value) -> Vec<u8> {
        self.open(&slot(object, "recovery")["age"])
    }
}

/// A recipient whose identity nobody has.
pub fn strange_recipient() -> String {
    x25519::Identity::generate().to_public().to_string()
}

/// What anyone can make for a recipient: an age file, in base64.
pub fn encrypt_to(recipient: &str, bytes: &[u8]) -> String {
    let recipient = x25519::Recipient::from_str(recipient).expect("a recipient of age's");
    BASE64.encode(age::encrypt(&recipient, bytes).expect("writing to memory cannot fail"))
}

/// The slot of a type, of an object.
pub fn slot<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let slots = object["slots"].as_array().expect("an object has slots");
    slots
        .iter()
        .find(|slot| slot["type"] == kind)
        .expect("an object has a slot of each type")
}

/// The name of the member that holds a TPM slot's key file.
pub fn key_file_member(slot: &Value) -> &str {
    let members = slot.as_object().expect("a slot has members");
    let mut names = members.keys().filter(|name| *name != "type");
    names.next().expect("a TPM slot has a key file")
}

/// Puts the MAC right, as a holder of K_vault can. `purpose`: `manifest`, `object` or `backup`.
pub fn authenticate(document: &mut Value, purpose: &str, vault_key: &[u8]) {
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(None, vault_key)
        .expand(format!("strongroom v1 {purpose}").as_bytes(), &mut key)
        .expect("32 bytes are within HKDF's limit");
    let members = document.as_object_mut().expect("a document has members");
    members.remove("mac");
    let canonical = serde_json::to_vec(members).expect("a JSON value can be written");
    let mac = <Hmac<Sha256> as Mac>::new_from_slice(&key)
        .expect("HMAC takes keys of any length")
        .chain_update(canonical)
        .finalize()
        .into_bytes();
    members.insert("mac".to_owned(), Value::from(BASE64.encode(mac)));
}

/// A TPM object as a vault writes it down: a TSS2 key file.
pub struct KeyFile {
    /// TPM2B_PUBLIC.
    pub public: Vec<u8>,
    /// TPM2B_PRIVATE.
    pub private: Vec<u8>,
}

#[derive(Sequence)]
struct TpmKey {
    kind: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    empty_auth: Option<bool>,
    parent: u32,
    public: OctetString,
    private: OctetString,
}

impl KeyFile {
    /// Reads one out of a vault's file.
    pub fn parse(text: &Value) -> Self {
        let text = text.as_str().expect("a key file is text");
        let bytes = BASE64.decode(text).expect("a key file is base64");
        let key = TpmKey::from_der(&bytes).expect("a key file is DER");
        Self {
            public: key.public.into_bytes(),
            private: key.private.into_bytes(),
        }
    }

    /// What `tpm2_create -u FILE.pub -r FILE.priv` made.
    pub fn read(stem: &Path) -> Self {
        let part = |suffix| fs::read(stem.with_extension(suffix)).expect("tpm2_create wrote it");
        Self {
            public: part("pub"),
            private: part("priv"),
        }
    }

    /// Writes it for `tpm2_load -u FILE.pub -r FILE.priv`.
    pub fn write(&self, stem: &Path) {
        for (suffix, bytes) in [("pub", &self.public), ("priv", &self.private)] {
            fs::write(stem.with_extension(suffix), bytes).expect("the folder can be written");
        }
    }

    /// The same as a vault's files have sealed data.
    pub fn to_text(&self) -> String {
        let octets = |bytes: &[u8]| OctetString::new(bytes).expect("shorter than 256 MiB");
        let key = TpmKey {
            kind: ObjectIdentifier::new_unwrap("2.23.133.10.1.5"),
            empty_auth: Some(true),
            parent: 0x4000_0007,
            public: octets(&self.public),
            private: octets(&self.private),
        };
        BASE64.encode(key.to_der().expect("a key file can be written"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn edits_change_every_part_and_one_at_a_time() {
        let document = json!({"a": {"b": 7, "c": "text"}, "d": ["x", "y"], "e": ""});
        let edits = edits(&document);
        for edit in &edits {
            assert_ne!(edit.document, document, "{}", edit.what);
        }
        for pointer in pointers(&document) {
            assert!(
                edits.iter().any(|edit| edit.what.starts_with(&pointer)),
                "{pointer}"
            );
        }
    }
}
