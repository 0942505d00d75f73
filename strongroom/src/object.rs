//! Objects: what is known of a secret without opening it, and how an object looks on disk.
//!
//! An object is an envelope with key slots: the payload under a random data encryption key (DEK),
//! and the DEK once in a TPM slot and once in a recovery slot. `docs/format.md` specifies the file.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::encoding::Base64;
use crate::error::{Error, Result};
use crate::peer::PeerId;
use crate::tpm::duplicate::SealedDuplicate;

/// The format of an object of one TPM.
pub const OBJECT_FORMAT: u64 = 1;

/// The newest object format that this library reads: of an object with slots of a second TPM, or for
/// one. It says nothing of the metadata but for itself.
pub(crate) const NEWEST_OBJECT_FORMAT: u64 = 2;

/// The longest payload, in bytes (1 MiB).
pub const MAX_PAYLOAD: usize = 1 << 20;

/// An object's identity, for life: a random UUID, the name of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectId(Uuid);

impl ObjectId {
    /// A new random id.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The 16 bytes, for interfaces whose ids are bytes (CKA_ID).
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for ObjectId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // One spelling only: the file's name must be the id's own.
        Uuid::parse_str(text)
            .ok()
            .map(Self)
            .filter(|id| id.to_string() == text)
            .ok_or_else(|| {
                Error::input(
                    format!("object id {text:?}"),
                    "it must be a UUID in lower case",
                )
            })
    }
}

/// The name of a token: 1 to 32 characters of `a-z`, `0-9` and `-`, so that it is a folder's name
/// and fits a PKCS#11 label (32 bytes).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenName(String);

impl TokenName {
    /// The token that dataset keys live in.
    pub fn datasets() -> Self {
        Self("datasets".to_owned())
    }

    /// The token that cloud credentials live in.
    pub fn credentials() -> Self {
        Self("credentials".to_owned())
    }

    /// The token for keys made through PKCS#11.
    pub fn keys() -> Self {
        Self("keys".to_owned())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TokenName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fits = (1..=32).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fits {
            return Err(Error::input(
                format!("token name {text:?}"),
                "it must be 1 to 32 characters of a-z, 0-9 and -",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for TokenName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<TokenName> for String {
    fn from(name: TokenName) -> Self {
        name.0
    }
}

/// What people call a token, where that is no [`TokenName`]: 1 to 32 bytes of UTF-8 without control
/// characters and without a blank at either end, as PKCS#11 has room for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenLabel(String);

impl TokenLabel {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TokenLabel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fits = (1..=32).contains(&text.len())
            && text.trim() == text
            && !text.chars().any(char::is_control);
        if !fits {
            return Err(Error::input(
                format!("token label {text:?}"),
                "it must be 1 to 32 bytes, without control characters and blanks at its ends",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for TokenLabel {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<TokenLabel> for String {
    fn from(label: TokenLabel) -> Self {
        label.0
    }
}

/// A name that people give an object: 1 to 1,024 bytes of UTF-8 without control characters.
/// A dataset key's label is the dataset's name. Labels need not be unique.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

impl Label {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Label {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() || text.len() > 1024 || text.chars().any(char::is_control) {
            return Err(Error::input(
                format!("label {text:?}"),
                "it must be 1 to 1024 bytes without control characters",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Label {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The wrapping key of a ZFS encryption root, as `zfs load-key` takes it; the attribute
    /// [`KEYFORMAT`] says in which of ZFS's three forms.
    DatasetKey,
    /// Any secret bytes up to [`MAX_PAYLOAD`]; for TrueNAS a JSON object of secret fields.
    Credential,
    /// A symmetric key.
    SecretKey,
    /// A private key.
    PrivateKey,
    /// An X.509 certificate.
    Certificate,
}

impl Kind {
    /// All kinds, in the order in which help lists them.
    pub const ALL: [Self; 5] = [
        Self::DatasetKey,
        Self::Credential,
        Self::SecretKey,
        Self::PrivateKey,
        Self::Certificate,
    ];

    /// As text, as in the object's file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DatasetKey => "dataset-key",
            Self::Credential => "credential",
            Self::SecretKey => "secret-key",
            Self::PrivateKey => "private-key",
            Self::Certificate => "certificate",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| {
                Error::input(
                    format!("kind {text:?}"),
                    "it must be dataset-key, credential, secret-key, private-key or certificate",
                )
            })
    }
}

/// Attribute of a dataset key: the payload's form in ZFS's own words. `raw`: 32 bytes. `hex`: 64
/// hexadecimal digits. `passphrase`: 8 to 512 bytes.
pub const KEYFORMAT: &str = "keyformat";

/// Attribute of what came out of a database: where it was, such as
/// `truenas:storage_encrypteddataset/7`.
pub const ORIGIN: &str = "origin";

/// Attribute of what has a secret, in a token that has a PIN: whether that takes the PIN (`true`,
/// unless something else was said) or an allowed boot alone (`false`). It is what the object is
/// sealed under, and does not change.
pub const PIN: &str = "pin";

/// Attribute of a certificate (X.509): its DER in base64.
pub const CERTIFICATE: &str = "certificate";

/// What is said of an object before it is sealed.
#[derive(Clone, Debug)]
pub struct NewObject {
    /// The token to put it in.
    pub token: TokenName,
    /// The name that people give it.
    pub label: Label,
    /// What it is.
    pub kind: Kind,
    /// Further facts, such as [`KEYFORMAT`] and [`ORIGIN`]; keys are lower-case ASCII.
    pub attributes: BTreeMap<String, String>,
    /// The ZFS pool's GUID, where the key is bound to one.
    pub pool_guid: Option<u64>,
    /// The ZFS dataset's GUID, where the key is bound to one.
    pub dataset_guid: Option<u64>,
}

impl NewObject {
    /// An object without attributes and GUIDs.
    pub fn new(token: TokenName, label: Label, kind: Kind) -> Self {
        Self {
            token,
            label,
            kind,
            attributes: BTreeMap::new(),
            pool_guid: None,
            dataset_guid: None,
        }
    }

    /// What was said of an object that is there.
    pub(crate) fn of(object: &Metadata) -> Self {
        Self {
            token: object.token.clone(),
            label: object.label.clone(),
            kind: object.kind,
            attributes: object.attributes.clone(),
            pool_guid: object.pool_guid,
            dataset_guid: object.dataset_guid,
        }
    }

    /// The same with one more attribute.
    #[must_use]
    pub fn with_attribute(mut self, key: &str, value: impl Into<String>) -> Self {
        self.attributes.insert(key.to_owned(), value.into());
        self
    }
}

/// All that is known of an object without opening it. Not secret, and not to be trusted before
/// the object was opened: its payload key is derived from it, and the file carries a MAC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Metadata {
    /// Format version of the whole file: [`OBJECT_FORMAT`], or the next where there is a second TPM.
    pub format: u64,
    /// The object's identity and the name of its file.
    pub id: ObjectId,
    /// The token it lives in.
    pub token: TokenName,
    /// What it is.
    pub kind: Kind,
    /// The name that people gave it.
    pub label: Label,
    /// Further facts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// The ZFS pool's GUID. Text, because JSON's numbers do not hold 64 bits.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::encoding::guid"
    )]
    pub pool_guid: Option<u64>,
    /// The ZFS dataset's GUID.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::encoding::guid"
    )]
    pub dataset_guid: Option<u64>,
    /// Counts, from 1, the objects of one token, kind, label and (but for dataset keys) [`ORIGIN`]:
    /// the newest is meant when the label is named. The older ones stay until someone removes them: a key that turns
    /// out to be needed after all is worth more than order.
    pub generation: u64,
}

/// The largest generation: JSON's integers are exact up to here (RFC 8785, section 3.2.2.3).
const MAX_GENERATION: u64 = (1 << 53) - 1;

impl Metadata {
    /// What the types do not say.
    pub(crate) fn check(&self) -> Result<(), String> {
        let fits = |key: &String| {
            (1..=64).contains(&key.len())
                && key
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        if let Some(key) = self.attributes.keys().find(|key| !fits(key)) {
            return Err(format!(
                "attribute {key:?} must be 1 to 64 characters of a-z, 0-9, - and ."
            ));
        }
        if !(1..=MAX_GENERATION).contains(&self.generation) {
            return Err(format!("generation {} is out of range", self.generation));
        }
        Ok(())
    }

    /// The same of an object of one TPM: slots of others change what the file is, and nothing of what
    /// is known of the object. Payload keys are derived from this.
    pub(crate) fn of_one_tpm(&self) -> Self {
        Self {
            format: OBJECT_FORMAT,
            ..self.clone()
        }
    }

    /// Where the object came from, as its attribute [`ORIGIN`] says.
    pub fn origin(&self) -> Option<&str> {
        self.attributes.get(ORIGIN).map(String::as_str)
    }

    /// Whether it opens for those alone who give the PIN of its token's user.
    pub fn needs_pin(&self) -> bool {
        self.attributes.get(PIN).is_some_and(|pin| pin == "true")
    }

    /// Whether `self` is a newer version of what `other` is.
    pub fn supersedes(&self, other: &Self) -> bool {
        self.version_of() == other.version_of() && self.generation > other.generation
    }

    /// What versions of one thing have in common. A dataset's key is the dataset's, whichever row
    /// of a database it came from: rows are made anew when a pool is imported.
    pub(crate) fn version_of(&self) -> (&TokenName, Kind, &Label, Option<&str>) {
        let origin = match self.kind {
            Kind::DatasetKey => None,
            _ => self.origin(),
        };
        (&self.token, self.kind, &self.label, origin)
    }
}

/// Which object is meant.
#[derive(Clone, Copy, Debug)]
pub enum Meant<'a> {
    /// The one of this identity, in whichever token.
    Id(ObjectId),
    /// The one that was listed so, and no other: what a list says is not authenticated, and who
    /// chose by a token, a label or an attribute is given nothing that is genuinely otherwise.
    Listed(&'a Metadata),
}

impl Meant<'_> {
    /// The object's identity.
    pub fn id(&self) -> ObjectId {
        match self {
            Self::Id(id) => *id,
            Self::Listed(metadata) => metadata.id,
        }
    }
}

impl From<ObjectId> for Meant<'_> {
    fn from(id: ObjectId) -> Self {
        Self::Id(id)
    }
}

impl<'a> From<&'a Metadata> for Meant<'a> {
    fn from(listed: &'a Metadata) -> Self {
        Self::Listed(listed)
    }
}

/// An object as its file holds it, before anything was checked but its shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ObjectFile {
    pub(crate) metadata: Metadata,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<Payload>,
    pub(crate) slots: Vec<Slot>,
    /// HMAC-SHA-256 over the canonical encoding of all of the above.
    pub(crate) mac: Base64,
}

impl ObjectFile {
    /// What the types do not say.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.metadata.check()?;
        let least = self.least_format();
        if self.metadata.format != least {
            return Err(format!(
                "it says that it has format {}, and what it holds is format {least}",
                self.metadata.format
            ));
        }
        let payload = self.payload.as_ref();
        let Some(before) = payload.and_then(|payload| payload.encrypted_as.as_deref()) else {
            return Ok(());
        };
        before.check()?;
        let same = |metadata: &Metadata| {
            (
                metadata.format,
                metadata.id,
                metadata.token.clone(),
                metadata.kind,
            )
        };
        if same(before) == same(&self.metadata) {
            Ok(())
        } else {
            Err("its payload was encrypted as another object's".to_owned())
        }
    }

    /// The same, in the oldest format that has all of it.
    pub(crate) fn in_least_format(mut self) -> Self {
        let format = self.least_format();
        self.metadata.format = format;
        let before = self
            .payload
            .as_mut()
            .and_then(|it| it.encrypted_as.as_mut());
        if let Some(before) = before {
            before.format = format;
        }
        self
    }

    fn least_format(&self) -> u64 {
        if self.slots.iter().any(Slot::is_of_format_2) {
            NEWEST_OBJECT_FORMAT
        } else {
            OBJECT_FORMAT
        }
    }
}

/// The payload, encrypted with AES-256-GCM under the payload key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Payload {
    /// 12 bytes.
    pub(crate) nonce: Base64,
    /// Ciphertext and the 16-byte tag.
    pub(crate) ciphertext: Base64,
    /// 32 bytes derived beside the payload key: no other key gives the same ones.
    pub(crate) commitment: Base64,
    /// The metadata that the payload was encrypted under, where the object's own was changed since
    /// by a box that cannot open the payload: that of an imported key in the TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) encrypted_as: Option<Box<Metadata>>,
}

/// A way to the DEK, or the object itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "type"
)]
pub(crate) enum Slot {
    /// A TPM sealed data object, as a TSS2 key file (TSSPrivKey, DER).
    Tpm {
        /// The key file.
        key_file: Base64,
        /// The second TPM whose it is; the vault's own otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<PeerId>,
    },
    /// The DEK, encrypted to a TPM's storage key, which has not sealed it yet.
    TpmDuplicate {
        /// The second TPM whose it is; the vault's own otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<PeerId>,
        /// What that imports.
        duplicate: SealedDuplicate,
    },
    /// A private key in the TPM, as a TSS2 key file. It gives no DEK: it is the object itself.
    TpmKey {
        /// The key file.
        key_file: Base64,
    },
    /// The DEK, encrypted to the recovery recipient (age).
    Recovery {
        /// The age file.
        age: Base64,
    },
}

impl Slot {
    /// Whether the vault's own TPM alone opens it.
    pub(crate) fn is_of_a_tpm(&self) -> bool {
        match self {
            Self::Tpm { peer, .. } | Self::TpmDuplicate { peer, .. } => peer.is_none(),
            Self::TpmKey { .. } => true,
            Self::Recovery { .. } => false,
        }
    }

    /// The second TPM that alone opens it.
    pub(crate) fn peer(&self) -> Option<PeerId> {
        match self {
            Self::Tpm { peer, .. } | Self::TpmDuplicate { peer, .. } => *peer,
            Self::TpmKey { .. } | Self::Recovery { .. } => None,
        }
    }

    /// Whether it gives the DEK to the vault's own TPM, or to a second one.
    pub(crate) fn is_dek_of(&self, machine: Option<PeerId>) -> bool {
        match self {
            Self::Tpm { peer, .. } | Self::TpmDuplicate { peer, .. } => *peer == machine,
            Self::TpmKey { .. } | Self::Recovery { .. } => false,
        }
    }

    fn is_of_format_2(&self) -> bool {
        match self {
            Self::Tpm { peer, .. } => peer.is_some(),
            Self::TpmDuplicate { .. } => true,
            Self::TpmKey { .. } | Self::Recovery { .. } => false,
        }
    }
}
