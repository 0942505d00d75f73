//! How TPM objects are written down: the TSS2 key file (TSSPrivKey), as tpm2-tss-engine, the
//! tpm2-openssl provider and the kernel's trusted keys write it.
//!
//! ```text
//! TPMKey ::= SEQUENCE {
//!     type        OBJECT IDENTIFIER,
//!     emptyAuth   [0] EXPLICIT BOOLEAN OPTIONAL,
//!     parent      INTEGER,
//!     pubkey      OCTET STRING,   -- TPM2B_PUBLIC
//!     privkey     OCTET STRING }  -- TPM2B_PRIVATE
//! ```

use der::asn1::{ObjectIdentifier, OctetString};
use der::{Decode, Encode, Sequence};
use tss_esapi::structures::{Private, Public};
use tss_esapi::traits::{Marshall, UnMarshall};

use super::answer;
use super::name::Name;
use crate::encoding::Base64;
use crate::error::{Error, Result};

/// A TPM object as it lies on disk: loadable under its parent on the TPM that made it.
#[derive(Clone, Debug)]
pub(crate) struct KeyFile {
    pub(crate) public: Public,
    pub(crate) private: Private,
}

/// 2.23.133.10.1.3, id-loadablekey.
const LOADABLE_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.10.1.3");
/// 2.23.133.10.1.5, id-sealedkey.
const SEALED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.10.1.5");

/// TPM_RH_NULL (Part 2, section 7.4), for what hangs under a storage key: that is at no handle that
/// a stranger could know. What hangs under the root key names its persistent handle.
pub(crate) const PARENT_UNNAMED: u32 = 0x4000_0007;

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
    /// The object's Name.
    pub(crate) fn name(&self) -> Result<Name> {
        Name::of_object(&self.public)
    }

    /// The key file of an object whose parent is at this handle.
    pub(crate) fn to_der(&self, parent: u32) -> Result<Base64> {
        let marshalled = |error| answer::error("public area", error);
        let area = self.public.marshall().map_err(marshalled)?;
        let kind = match self.public {
            Public::KeyedHash { .. } => SEALED_DATA,
            _ => LOADABLE_KEY,
        };
        let encode = || -> der::Result<Vec<u8>> {
            TpmKey {
                kind,
                empty_auth: Some(true),
                parent,
                public: OctetString::new(sized(&area))?,
                private: OctetString::new(sized(self.private.as_slice()))?,
            }
            .to_der()
        };
        encode()
            .map(Base64)
            .map_err(|error| Error::input("TPM object", error.to_string()))
    }

    /// The reason of a refusal is for the caller to put beside the file's name.
    pub(crate) fn from_der(der: &Base64) -> Result<Self, String> {
        let key = TpmKey::from_der(&der.0).map_err(|error| format!("TSS2 key file: {error}"))?;
        if key.kind != LOADABLE_KEY && key.kind != SEALED_DATA {
            return Err(format!("TSS2 key file of unknown type {}", key.kind));
        }
        let public = unsized_(key.public.as_bytes())
            .and_then(|area| Public::unmarshall(area).ok())
            .ok_or("TSS2 key file: its public area is not one")?;
        let private = unsized_(key.private.as_bytes())
            .and_then(|area| Private::try_from(area.to_vec()).ok())
            .ok_or("TSS2 key file: its private area is not one")?;
        Ok(Self { public, private })
    }
}

/// A TPM2B: two octets of length, and the octets.
pub(super) fn sized(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("a TPM's structures are below 64 KiB");
    [&len.to_be_bytes(), bytes].concat()
}

fn unsized_(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = bytes.split_first_chunk()?;
    (usize::from(u16::from_be_bytes(*len)) == rest.len()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A key file of a storage key, as tpm2-tss-engine would have it: the frozen vault's.
    fn sample() -> Vec<u8> {
        let backup: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/fixtures/vault-v1/backup"))
                .expect("the frozen backup is JSON");
        let text = backup["manifest"]["storage-key"].clone();
        let Base64(bytes) = serde_json::from_value(text).expect("base64");
        bytes
    }

    #[test]
    fn a_key_file_is_written_as_it_was_read() {
        let der = Base64(sample());
        let parent = TpmKey::from_der(&der.0).expect("a key file").parent;
        let file = KeyFile::from_der(&der).expect("a key file");
        assert_eq!(file.to_der(parent).expect("a key file"), der);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = KeyFile::from_der(&Base64(bytes));
        }

        #[test]
        fn a_spoilt_key_file_does_not_make_it_panic(
            place in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = sample();
            let place = place.index(bytes.len());
            bytes[place] = byte;
            let _ = KeyFile::from_der(&Base64(bytes.clone()));
            bytes.truncate(cut.index(bytes.len()));
            prop_assert!(KeyFile::from_der(&Base64(bytes)).is_err());
        }
    }
}
