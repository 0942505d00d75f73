//! The recovery copy: objects of a vault in one line of text, which the recovery kit opens by
//! itself, where vault and TPM are gone. It has room in a property of the ZFS dataset whose key it
//! holds, so that a key is never on the boot disk alone. `docs/format.md` specifies it.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::encoding::{Base64, canonical};
use crate::envelope::{Dek, Purpose, VaultKey};
use crate::error::{Error, Result};
use crate::object::{Metadata, OBJECT_FORMAT, Payload};
use crate::recovery::RecoveryKit;
use crate::secret::Secret;
use crate::store;

/// The newest format that this library reads, and the one that it writes.
pub const FORMAT: u64 = 1;

/// Ciphertext of some objects, newest first, and what the recovery kit needs to open them. As text
/// it is one line without tabs.
///
/// Parsed, it says what it says: [`RecoveryCopy::open`] alone authenticates it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RecoveryCopy {
    format: u64,
    /// The vault's id.
    vault: String,
    /// K_vault, encrypted to the recovery recipient: the manifest's own slot.
    vault_key: Base64,
    objects: Vec<CopiedObject>,
    mac: Base64,
}

/// An object without what one TPM alone can open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct CopiedObject {
    pub(crate) metadata: Metadata,
    pub(crate) payload: Payload,
    /// The DEK, encrypted to the recovery recipient: the object's own slot.
    pub(crate) recovery: Base64,
}

/// An object that came out of a copy.
pub struct Recovered {
    /// What it is.
    pub object: Metadata,
    /// Its payload.
    pub secret: Secret,
}

impl RecoveryCopy {
    pub(crate) fn new(
        vault: String,
        vault_key: Base64,
        objects: Vec<CopiedObject>,
        key: &VaultKey,
    ) -> Self {
        let mut copy = Self {
            format: FORMAT,
            vault,
            vault_key,
            objects,
            mac: Base64::default(),
        };
        copy.mac = key.mac(Purpose::RecoveryCopy, &copy);
        copy
    }

    /// The id of the vault whose kit opens it.
    pub fn vault_id(&self) -> &str {
        &self.vault
    }

    /// The objects in it, as it says.
    pub fn objects(&self) -> impl Iterator<Item = &Metadata> {
        self.objects.iter().map(|object| &object.metadata)
    }

    /// Opens all objects with the kit of their vault.
    ///
    /// # Errors
    /// [`Error::RecoveryIdentity`] for another vault's kit; [`Error::Input`] for a copy that
    /// nobody made who held K_vault.
    pub fn open(&self, kit: &RecoveryKit) -> Result<Vec<Recovered>> {
        if kit.vault_id != self.vault {
            return Err(Error::RecoveryIdentity(format!(
                "it is of vault {}, and the recovery copy is of vault {}",
                kit.vault_id, self.vault
            )));
        }
        // The kit's word on K_vault comes before any use of it: who wrote the copy could have put
        // in a key of their own.
        let key = kit
            .identity
            .decrypt(&self.vault_key)
            .ok()
            .and_then(VaultKey::new)
            .filter(|key| key.fingerprint() == kit.fingerprint)
            .ok_or_else(|| refused("its vault key is not the one that the recovery kit names"))?;
        if !key.verifies(Purpose::RecoveryCopy, self, &self.mac) {
            return Err(refused("it was changed by something other than Strongroom"));
        }
        self.objects
            .iter()
            .map(|copied| {
                let secret = kit
                    .identity
                    .decrypt(&copied.recovery)
                    .ok()
                    .and_then(Dek::new)
                    .and_then(|dek| {
                        let payload = &copied.payload;
                        let metadata = payload.encrypted_as.as_deref();
                        dek.decrypt(&key, metadata.unwrap_or(&copied.metadata), payload)
                            .ok()
                    })
                    .ok_or_else(|| refused("its payload does not open"))?;
                Ok(Recovered {
                    object: copied.metadata.clone(),
                    secret,
                })
            })
            .collect()
    }
}

impl fmt::Display for RecoveryCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&canonical(self)))
    }
}

impl FromStr for RecoveryCopy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let versions = [
            ("/format", FORMAT),
            ("/objects/*/metadata/format", OBJECT_FORMAT),
        ];
        let parsed: Result<Self> = store::parse_json_at(text.as_bytes(), Path::new(""), &versions);
        // It is no file, and nothing restores it but its vault.
        let copy = parsed.map_err(|error| match error {
            Error::VaultNewer { found, known, .. } => refused(&format!(
                "it has format {found}, and this Strongroom knows formats up to {known}; use the \
                 newer program"
            )),
            Error::VaultDamaged { reason, .. } => refused(&reason),
            other => other,
        })?;
        for object in &copy.objects {
            object.metadata.check().map_err(|reason| refused(&reason))?;
        }
        Ok(copy)
    }
}

fn refused(reason: &str) -> Error {
    Error::input("recovery copy", reason)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::object::{KEYFORMAT, Kind, ObjectId, TokenName};
    use crate::recovery::RecoveryIdentity;

    struct Made {
        kit: RecoveryKit,
        key: VaultKey,
    }

    impl Made {
        fn new() -> Self {
            let key = VaultKey::random();
            let kit = RecoveryKit {
                identity: RecoveryIdentity::generate(),
                vault_id: "3f0c9c2e-7a39-4f0e-9b7a-0a4f6f6f8a11".to_owned(),
                fingerprint: key.fingerprint(),
            };
            Self { kit, key }
        }

        fn object(&self, label: &str, secret: &[u8]) -> CopiedObject {
            self.object_under(&self.key, label, secret)
        }

        /// Encrypted to the kit's recipient by whoever has this vault key.
        fn object_under(&self, key: &VaultKey, label: &str, secret: &[u8]) -> CopiedObject {
            let metadata = Metadata {
                format: OBJECT_FORMAT,
                id: ObjectId::random(),
                token: TokenName::datasets(),
                kind: Kind::DatasetKey,
                label: label.parse().expect("a label"),
                attributes: [(KEYFORMAT.to_owned(), "raw".to_owned())].into(),
                pool_guid: Some(u64::MAX),
                dataset_guid: Some(1),
                generation: 1,
            };
            let dek = Dek::random();
            CopiedObject {
                payload: dek.encrypt(key, &metadata, &Secret::copy_of(secret)),
                recovery: self.kit.identity.recipient().encrypt(dek.expose()),
                metadata,
            }
        }

        fn copy(&self, objects: Vec<CopiedObject>) -> RecoveryCopy {
            let recipient = self.kit.identity.recipient();
            RecoveryCopy::new(
                self.kit.vault_id.clone(),
                recipient.encrypt(self.key.expose()),
                objects,
                &self.key,
            )
        }
    }

    #[test]
    fn a_copy_is_one_line_and_opens_with_its_kit_alone() {
        let made = Made::new();
        let objects = vec![
            made.object("tank/home", b"newer"),
            made.object("tank/home", b"older"),
        ];
        let text = made.copy(objects).to_string();
        assert!(!text.contains(char::is_control), "{text}");
        let copy: RecoveryCopy = text.parse().expect("its own text");
        let opened = copy.open(&made.kit).expect("opens");
        let secrets: Vec<_> = opened.iter().map(|one| one.secret.expose()).collect();
        assert_eq!(secrets, [&b"newer"[..], b"older"]);

        let other = Made::new();
        assert!(copy.open(&other.kit).is_err());
        let same_identity = RecoveryKit {
            fingerprint: other.key.fingerprint(),
            ..made.kit
        };
        let error = copy.open(&same_identity).err().expect("refused");
        assert!(error.to_string().contains("not the one"), "{error}");
    }

    /// Whoever reads the recipient off the disk can encrypt to it, but does not hold K_vault.
    #[test]
    fn a_copy_that_a_stranger_made_is_refused() {
        let made = Made::new();
        let stranger = VaultKey::random();
        let recipient = made.kit.identity.recipient();
        let mut forged = RecoveryCopy::new(
            made.kit.vault_id.clone(),
            recipient.encrypt(stranger.expose()),
            vec![made.object_under(&stranger, "tank", b"the thief's")],
            &stranger,
        );
        let error = forged.open(&made.kit).err().expect("refused");
        assert!(error.to_string().contains("not the one"), "{error}");
        // With the genuine vault key's slot, which anyone can copy, it is the MAC that fails.
        forged.vault_key = recipient.encrypt(made.key.expose());
        let error = forged.open(&made.kit).err().expect("refused");
        assert!(error.to_string().contains("changed"), "{error}");
        // And an object in place of another, both genuine.
        let mut mixed = made.copy(vec![made.object("tank", b"one")]);
        mixed.objects = made.copy(vec![made.object("tank", b"two")]).objects;
        assert!(mixed.open(&made.kit).is_err());
    }

    #[test]
    fn two_keys_of_the_longest_dataset_name_fit_a_property_of_zfs() {
        let made = Made::new();
        let name = "n".repeat(255);
        let passphrase = [b'p'; 512];
        let two = vec![
            made.object(&name, &passphrase),
            made.object(&name, &passphrase),
        ];
        let length = made.copy(two).to_string().len();
        assert!(length <= 8000, "{length}");
    }

    #[test]
    fn what_is_newer_is_called_newer() {
        let made = Made::new();
        let text = made.copy(vec![made.object("tank", b"key")]).to_string();
        let newer = text.replacen("\"format\":1,\"mac\"", "\"format\":2,\"mac\"", 1);
        assert_ne!(newer, text);
        let error = newer.parse::<RecoveryCopy>().expect_err("refused");
        assert!(error.to_string().contains("newer program"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,200}") {
            let _ = text.parse::<RecoveryCopy>();
        }

        #[test]
        fn a_copy_with_one_byte_changed_is_refused_or_means_the_same(
            place in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let made = Made::new();
            let text = made.copy(vec![made.object("tank", b"key")]).to_string();
            let mut bytes = text.clone().into_bytes();
            let place = place.index(bytes.len());
            bytes[place] = byte;
            let opened = String::from_utf8(bytes)
                .ok()
                .and_then(|text| text.parse::<RecoveryCopy>().ok())
                .and_then(|copy| copy.open(&made.kit).ok());
            if let Some(opened) = opened {
                prop_assert_eq!(opened[0].secret.expose(), b"key");
            }
        }
    }
}
