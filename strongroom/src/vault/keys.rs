//! Private keys in an unlocked vault: made, imported, loaded, used.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::pins::needs_pin;
use super::{Unlocked, Vault};
use crate::encoding::Base64;
use crate::envelope::Dek;
use crate::error::{Error, Result};
use crate::key::padding::{self, does_not_decrypt};
use crate::key::{
    ALGORITHM, ATTRIBUTES, DecryptScheme, Hash, KeyAlgorithm, LOCAL, LoadedKey, PUBLIC_KEY,
    Private, PrivateKey, PublicKey, RESIDENCE, Residence, SignScheme, as_long_as_field,
    not_of_its_kind, unusable,
};
use crate::object::{Kind, Meant, Metadata, NewObject, ObjectFile, ObjectId, Slot};
use crate::recovery::RecoveryIdentity;
use crate::secret::Secret;
use crate::tpm::key_file::{KeyFile, PARENT_UNNAMED};
use crate::tpm::keys::{Outcome, TpmKey};
use crate::tpm::{Tcti, Tpm, Turn};

use super::recovering::{dek_by_recovery, put_first};

/// The longest random number that is asked for at once.
const MAX_RANDOM: usize = 1 << 20;

impl Vault {
    /// Random bytes from a TPM, in clear on the bus, for who mixes them with others. One command for
    /// each 32 bytes.
    ///
    /// # Errors
    /// [`Error::TpmUnavailable`], [`Error::Tpm`].
    pub fn random(&self, tcti: &Tcti, len: usize) -> Result<Secret> {
        Tpm::connect(&Turn::to_look(tcti))?.plain_random(len.min(MAX_RANDOM))
    }
}

impl Unlocked {
    /// Makes a private key, in the TPM where it has the algorithm, and there alone: no recovery kit
    /// brings it back. Otherwise in memory, sealed like any secret. Only after it was read back
    /// from disk and has signed is it an object.
    ///
    /// # Errors
    /// [`Error::Input`] for an object that is no private key; [`Error::PolicyRefused`].
    pub fn generate_key(&mut self, object: NewObject, algorithm: KeyAlgorithm) -> Result<ObjectId> {
        check_kind(&object)?;
        self.check_takes_keys()?;
        let object = self.vault.with_pin_settled(object)?;
        if let KeyAlgorithm::Rsa(bits) = algorithm {
            if ![2048, 3072, 4096].contains(&bits) {
                return Err(Error::input(
                    format!("key algorithm {algorithm}"),
                    "new RSA keys have 2048, 3072 or 4096 bits",
                ));
            }
        }
        if self.tpm_has(algorithm)? {
            // Before the key is made: this may have to wait for another writer.
            self.known()?;
            let storage_key = self.storage_key(&object.token, needs_pin(&object))?;
            let made = storage_key.create_key(&mut self.tpm, &self.gate, algorithm);
            if let Some(file) = taken(made)? {
                let object = described(object, &file.public_key()?, Residence::Tpm, true);
                return self.keep_key(object, &file, None);
            }
        }
        let key = PrivateKey::generate(algorithm)?;
        let object = described(object, &key.public(), Residence::Memory, true);
        self.keep_in_memory(object, &key.to_pkcs8())
    }

    /// Takes a private key over, into the TPM where it has the algorithm. The recovery kit, and
    /// nothing else, opens the copy that is kept for another TPM. Otherwise it is sealed like any
    /// secret. The caller wipes its own copy, and knows who else has one.
    ///
    /// # Errors
    /// [`Error::Input`] for what is no PKCS#8 of an RSA key of 2048 to 4096 bits, of an EC key on P-256,
    /// P-384 or P-521, or of a key on Curve25519 or Curve448; [`Error::PolicyRefused`].
    pub fn import_key(&mut self, object: NewObject, pkcs8: &Secret) -> Result<ObjectId> {
        check_kind(&object)?;
        self.check_takes_keys()?;
        let object = self.vault.with_pin_settled(object)?;
        let key = PrivateKey::from_pkcs8(pkcs8)?;
        if !key.is_kept() {
            return Err(unusable());
        }
        let public = key.public();
        if let Some(file) = self.bring_in(&object, &key)? {
            let object = described(object, &public, Residence::Tpm, false);
            return self.keep_key(object, &file, Some(pkcs8));
        }
        let object = described(object, &public, Residence::Memory, false);
        self.keep_in_memory(object, pkcs8)
    }

    /// Loads a private key. In the TPM: PolicyPCR [, PolicyOR], PolicyAuthorizeNV, Load. It stays
    /// there until [`Unlocked::unload_key`] or the end of this unlocked vault, and asks for no
    /// policy again. A TPM without a resource manager has room for two beside the storage key.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::ObjectDamaged`], [`Error::PolicyRefused`];
    /// [`Error::KeyLost`] for a key that was made in another TPM; [`Error::Input`] for an object
    /// that is no key.
    pub fn load_key<'a>(&mut self, object: impl Into<Meant<'a>>) -> Result<LoadedKey> {
        let object = self.vault.read_genuine(&self.key, object.into())?;
        let id = object.metadata.id;
        let public = PublicKey::of(&object.metadata)?;
        let private = match Residence::of(&object.metadata) {
            Some(Residence::Tpm) => self.load_from_slot(&object, &public).map(Private::Tpm),
            Some(Residence::Memory) => {
                let dek = self.dek(&object)?;
                let pkcs8 = self.vault.open_payload(&self.key, &object, &dek)?;
                PrivateKey::from_pkcs8(&pkcs8)
                    .ok()
                    .filter(|key| key.public() == public)
                    .map(Private::Memory)
                    .ok_or_else(|| {
                        let reason = "what is sealed is not the private key of its public key";
                        self.vault.damaged(&object, reason.to_owned())
                    })
            }
            None => Err(Error::input(
                format!("object {id}"),
                "it does not say where its private key is",
            )),
        }?;
        Ok(LoadedKey { public, private })
    }

    /// Signs, and verifies what it gives out: without a resource manager another process may have
    /// put its own key in the place of this one, and a faulty RSA signature gives the key away. In
    /// the TPM: one command.
    ///
    /// # Errors
    /// [`Error::Input`] for a scheme of other keys, a digest of another length than its hash's, and
    /// what does not fit the modulus; [`Error::TpmLost`] where the key is not in the TPM any more.
    pub fn sign(&mut self, key: &LoadedKey, scheme: &SignScheme, input: &[u8]) -> Result<Vec<u8>> {
        let private = match &key.private {
            Private::Tpm(private) => private,
            Private::Memory(private) => {
                let signature = private.sign(scheme, input)?;
                check_made_by(key, key.public.verifies(scheme, input, &signature))?;
                return Ok(signature);
            }
        };
        match (key.public.algorithm(), scheme) {
            (KeyAlgorithm::Rsa(_), _) => {
                let encoded = padding::encode(scheme, input, modulus_len(&key.public)?)?;
                let signature =
                    private.rsa(&mut self.tpm, &self.gate, &encoded, Outcome::Public)?;
                let signature = signature.expose().to_vec();
                check_made_by(key, key.public.rsa_opens_to(&signature, &encoded))?;
                Ok(signature)
            }
            (KeyAlgorithm::Ec(curve), SignScheme::Ecdsa) => {
                let digest = as_long_as_field(input, curve)?;
                let signature = private.ecdsa(&mut self.tpm, curve, &digest)?;
                check_made_by(key, key.public.ecdsa_verifies(&signature, &digest))?;
                Ok(signature)
            }
            _ => Err(not_of_its_kind()),
        }
    }

    /// Decrypts. In the TPM: one command, whose answer is encrypted on the bus.
    ///
    /// # Errors
    /// [`Error::Input`]: for a ciphertext that does not decrypt, one and the same, whatever is
    /// wrong with it.
    pub fn decrypt(
        &mut self,
        key: &LoadedKey,
        scheme: &DecryptScheme,
        ciphertext: &[u8],
    ) -> Result<Secret> {
        let (modulus, _) = key.public.rsa().ok_or_else(not_of_its_kind)?;
        // As long as the modulus, numbers compare as bytes do.
        if ciphertext.len() != modulus.len() || ciphertext >= modulus {
            return Err(does_not_decrypt());
        }
        let encoded = match &key.private {
            Private::Tpm(private) => {
                private.rsa(&mut self.tpm, &self.gate, ciphertext, Outcome::Secret)?
            }
            Private::Memory(private) => return private.decrypt(scheme, ciphertext),
        };
        padding::decode(scheme, encoded)
    }

    /// What both sides of an ECDH come to (SEC 1, section 3.3.1): the x coordinate, as long as the
    /// field. `peer_point` is an uncompressed point (SEC 1). In the TPM: one command, whose answer is
    /// encrypted on the bus.
    ///
    /// # Errors
    /// [`Error::Input`] for a point that is not on the key's curve, and for an RSA key.
    pub fn derive(&mut self, key: &LoadedKey, peer_point: &[u8]) -> Result<Secret> {
        let private = match &key.private {
            Private::Tpm(private) => private,
            Private::Memory(private) => return private.derive(peer_point),
        };
        let KeyAlgorithm::Ec(curve) = key.public.algorithm() else {
            return Err(not_of_its_kind());
        };
        // Checked here too: not every TPM has.
        PublicKey::from_point(key.public.algorithm(), peer_point).map_err(|_| {
            Error::input(
                "peer's point",
                "it must be an uncompressed point on the key's curve",
            )
        })?;
        private.ecdh(&mut self.tpm, &self.gate, curve, peer_point)
    }

    /// Takes a key out of the TPM, or out of memory, again.
    pub fn unload_key(&mut self, key: LoadedKey) -> Result<()> {
        match key.private {
            Private::Tpm(key) => key.unload(&mut self.tpm),
            Private::Memory(_) => Ok(()),
        }
    }

    /// Random bytes from the TPM, encrypted on the bus. One command for each 32 bytes.
    ///
    /// # Errors
    /// [`Error::Input`] for more than 1 MiB.
    pub fn random(&mut self, len: usize) -> Result<Secret> {
        if len > MAX_RANDOM {
            return Err(Error::input(
                format!("length {len}"),
                format!("it must be at most {MAX_RANDOM} bytes"),
            ));
        }
        self.tpm.random(&self.gate, len)
    }

    /// Puts an imported key, opened by the recovery way, into this TPM; or seals it, where this
    /// TPM lacks its algorithm.
    pub(super) fn import_again(
        &mut self,
        mut file: ObjectFile,
        identity: &RecoveryIdentity,
    ) -> Result<()> {
        let dek = dek_by_recovery(&self.vault, &file, identity)?;
        let pkcs8 = self.vault.open_payload(&self.key, &file, &dek)?;
        let key = PrivateKey::from_pkcs8(&pkcs8)
            .map_err(|error| self.vault.damaged(&file, error.to_string()))?;
        let object = NewObject::of(&file.metadata);
        if let Some(brought) = self.bring_in(&object, &key)? {
            put_first(&mut file.slots, key_slot(&brought)?);
        } else {
            let object = described(object, &key.public(), Residence::Memory, false);
            file.metadata.attributes = object.attributes;
            let (payload, slots) = self.envelope(&file.metadata, &pkcs8)?;
            (file.payload, file.slots) = (Some(payload), slots);
        }
        let id = file.metadata.id;
        self.vault.store.write_object(&self.with_mac(file))?;
        self.prove_key(id)
    }

    /// Whether the TPM has an algorithm; says so where it does not.
    fn tpm_has(&mut self, algorithm: KeyAlgorithm) -> Result<bool> {
        let has = self.tpm.has_algorithm(algorithm)?;
        if !has {
            log::warn!("this TPM has no {algorithm}: the key is sealed, and used in memory");
        }
        Ok(has)
    }

    /// A private key in the TPM, under the object's token; `None` where the TPM does not take it.
    fn bring_in(&mut self, object: &NewObject, key: &PrivateKey) -> Result<Option<KeyFile>> {
        let public = key.public();
        if !self.tpm_has(public.algorithm())? {
            return Ok(None);
        }
        let Some(sensitive) = key.sensitive() else {
            log::warn!("TPMs take no such RSA key as this: it is sealed, and used in memory");
            return Ok(None);
        };
        let file = self.vault.store.manifest_file();
        let behind_pin = needs_pin(object);
        let machine = self.vault.machine;
        let parent = (self.vault.manifest).token_key(machine, &object.token, behind_pin, &file)?;
        let storage_key = self.storage_key(&object.token, behind_pin)?;
        taken(storage_key.import_key(
            &mut self.tpm,
            &self.gate,
            &parent.public,
            &public,
            &sensitive,
        ))
    }

    /// Writes the object of a key in the TPM, with a copy for the recovery kit alone if there is
    /// one.
    fn keep_key(
        &mut self,
        object: NewObject,
        key: &KeyFile,
        copy: Option<&Secret>,
    ) -> Result<ObjectId> {
        let metadata = self.new_metadata(object)?;
        let mut slots = vec![key_slot(key)?];
        let payload = copy.map(|pkcs8| {
            let dek = Dek::random();
            slots.push(self.recovery_slot(&dek));
            dek.encrypt(&self.key, &metadata, pkcs8)
        });
        let file = ObjectFile {
            metadata,
            payload,
            slots,
            mac: Base64::default(),
        };
        self.keep(file, Self::prove_key)
    }

    fn keep_in_memory(&mut self, object: NewObject, pkcs8: &Secret) -> Result<ObjectId> {
        let metadata = self.new_metadata(object)?;
        let (payload, slots) = self.envelope(&metadata, pkcs8)?;
        let file = ObjectFile {
            metadata,
            payload: Some(payload),
            slots,
            mac: Base64::default(),
        };
        self.keep(file, Self::prove_key)
    }

    /// Loads a key from its file and lets it sign, which verifies with its public half; or, if it
    /// agrees alone, agree with the group's generator, which gives its public half.
    pub(super) fn prove_key(&mut self, id: ObjectId) -> Result<()> {
        let key = self.load_key(id)?;
        let scheme = match key.public.algorithm() {
            KeyAlgorithm::Rsa(_) => SignScheme::RsaPkcs1 {
                hash: Some(Hash::Sha256),
            },
            KeyAlgorithm::Ec(_) => SignScheme::Ecdsa,
            KeyAlgorithm::Ed25519 | KeyAlgorithm::Ed448 => SignScheme::PURE_EDDSA,
            KeyAlgorithm::X25519 => {
                let mut generator = [0; 32];
                generator[0] = 9;
                let agreed = self.derive(&key, &generator)?;
                let right = key.public.ec_point() == Some(agreed.expose());
                check_made_by(&key, right)?;
                return self.unload_key(key);
            }
        };
        let digest = Secret::random(Hash::Sha256.digest_len());
        let signed = self.sign(&key, &scheme, digest.expose());
        let unloaded = self.unload_key(key);
        signed.and(unloaded)
    }

    /// Refuses a second machine: what is made in its TPM no other has.
    fn check_takes_keys(&self) -> Result<()> {
        match self.vault.machine {
            None => Ok(()),
            Some(_) => Err(Error::input(
                "this machine",
                "it is a second one of the vault, where no private keys are made or imported; do it on \
                 the vault's own machine, or make this one that with `strongroom recover`",
            )),
        }
    }

    /// The key of the first slot that this TPM loads. The object is genuine.
    fn load_from_slot(&mut self, object: &ObjectFile, public: &PublicKey) -> Result<TpmKey> {
        if self.vault.machine.is_some() {
            return Err(Error::input(
                format!("private key {}", object.metadata.label),
                "it is in the TPM of the vault's own machine, and this is a second one; where it was \
                 imported, `strongroom recover` brings it here",
            ));
        }
        let mut reason = "it has no slot with a TPM key".to_owned();
        let mut foreign = false;
        let slots = object.slots.iter().filter_map(|slot| match slot {
            Slot::TpmKey { key_file } => Some(KeyFile::from_der(key_file)),
            Slot::Tpm { .. } | Slot::TpmDuplicate { .. } | Slot::Recovery { .. } => None,
        });
        for slot in slots {
            let file = match slot {
                Ok(file) => file,
                Err(bad) => {
                    reason = bad;
                    continue;
                }
            };
            if !file.public_key().is_ok_and(|its| its == *public) {
                "its TPM key is not the private key of its public key".clone_into(&mut reason);
                continue;
            }
            let storage_key =
                self.storage_key(&object.metadata.token, object.metadata.needs_pin())?;
            match storage_key.load_key(&mut self.tpm, &self.gate, &file) {
                Ok(key) => return Ok(key),
                // Of another TPM; another slot may do.
                Err(Error::NotLoadable { reason: bad, .. }) => (reason, foreign) = (bad, true),
                Err(error) => return Err(error),
            }
        }
        if foreign && object.payload.is_none() {
            return Err(Error::KeyLost {
                label: object.metadata.label.to_string(),
                file: self
                    .vault
                    .store
                    .object_file(&object.metadata.token, object.metadata.id),
            });
        }
        Err(self
            .vault
            .damaged(object, format!("no slot's TPM key loads: {reason}")))
    }
}

/// Refuses a signature that does not verify.
fn check_made_by(key: &LoadedKey, verifies: bool) -> Result<()> {
    match key.private {
        _ if verifies => Ok(()),
        Private::Tpm(_) => Err(Error::TpmLost {
            operation: "a signature",
            reason:
                "it is not this key's; the TPM was restarted, or another process made room in it"
                    .to_owned(),
        }),
        Private::Memory(_) => Err(Error::input(
            "private key",
            "what it signs does not verify with its public half",
        )),
    }
}

fn check_kind(object: &NewObject) -> Result<()> {
    if object.kind == Kind::PrivateKey {
        return Ok(());
    }
    Err(Error::input(
        format!("object {}", object.label),
        format!("a private key is no {}", object.kind),
    ))
}

/// The object with what the library says of keys.
fn described(
    mut object: NewObject,
    public: &PublicKey,
    residence: Residence,
    local: bool,
) -> NewObject {
    for (attribute, value) in [
        (PUBLIC_KEY, STANDARD.encode(public.spki())),
        (ALGORITHM, public.algorithm().to_string()),
        (RESIDENCE, residence.as_str().to_owned()),
        (LOCAL, local.to_string()),
    ] {
        object.attributes.insert(attribute.to_owned(), value);
    }
    object
}

/// Refuses a change of what the library says of a key.
pub(super) fn check_unchanged(old: &Metadata, new: &NewObject) -> Result<()> {
    match ATTRIBUTES
        .iter()
        .find(|key| old.attributes.get(**key) != new.attributes.get(**key))
    {
        Some(key) if old.kind == Kind::PrivateKey => Err(Error::input(
            format!("attribute {key} of object {}", old.id),
            "it is what the key is, and does not change",
        )),
        _ => Ok(()),
    }
}

/// A key that the TPM took; `None` where it does not take such keys after all.
fn taken(key: Result<KeyFile>) -> Result<Option<KeyFile>> {
    match key {
        Ok(key) => Ok(Some(key)),
        Err(error @ Error::NotLoadable { .. }) => {
            log::warn!("{error}; the key is sealed, and used in memory");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn key_slot(key: &KeyFile) -> Result<Slot> {
    Ok(Slot::TpmKey {
        key_file: key.to_der(PARENT_UNNAMED)?,
    })
}

fn modulus_len(public: &PublicKey) -> Result<usize> {
    public
        .rsa()
        .map(|(modulus, _)| modulus.len())
        .ok_or_else(not_of_its_kind)
}
