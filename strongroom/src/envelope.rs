//! The cryptography of the vault outside the TPM: the vault key K_vault, an object's data
//! encryption key (DEK), the payload under both, and the MACs. `docs/format.md` specifies it.

use aes_gcm::aead::AeadInPlace;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use serde::Serialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::encoding::{Base64, canonical, canonical_without_mac};
use crate::object::{Metadata, Payload};
use crate::secret::Secret;

/// Length of K_vault, of a DEK and of the keys derived from them, in bytes.
pub(crate) const KEY_LEN: usize = 32;

/// K_vault: 32 random bytes that belong to one vault. It authenticates the manifest and every
/// object, and without it no DEK opens anything.
pub(crate) struct VaultKey(Secret);

/// A data encryption key: 32 random bytes, new for every write of an object.
pub(crate) struct Dek(Secret);

/// Why a payload does not open. Deliberately without detail.
#[derive(Debug)]
pub(crate) struct DoesNotOpen;

impl VaultKey {
    pub(crate) fn random() -> Self {
        Self(Secret::random(KEY_LEN))
    }

    /// `None` if it is not 32 bytes.
    pub(crate) fn new(secret: Secret) -> Option<Self> {
        (secret.len() == KEY_LEN).then_some(Self(secret))
    }

    pub(crate) fn expose(&self) -> &Secret {
        &self.0
    }

    /// SHA-256(K_vault), which the recovery kit carries: a fingerprint that tells vaults apart
    /// and, for 256 random bits, gives nothing away.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(self.0.expose()).into()
    }

    /// HMAC-SHA-256 over the canonical encoding of `value` without its member `mac`, under a key
    /// for this `purpose` alone.
    pub(crate) fn mac(&self, purpose: Purpose, value: &impl Serialize) -> Base64 {
        Base64(self.hmac(purpose, value).finalize().into_bytes().to_vec())
    }

    /// Whether `mac` is the one of `value`, in constant time.
    pub(crate) fn verifies(&self, purpose: Purpose, value: &impl Serialize, mac: &Base64) -> bool {
        self.hmac(purpose, value).verify_slice(&mac.0).is_ok()
    }

    fn hmac(&self, purpose: Purpose, value: &impl Serialize) -> Hmac<Sha256> {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        Hkdf::<Sha256>::new(None, self.0.expose())
            .expand(purpose.info(), key.as_mut())
            .expect("32 bytes are within HKDF's limit");
        <Hmac<Sha256> as Mac>::new_from_slice(key.as_ref())
            .expect("HMAC takes keys of any length")
            .chain_update(canonical_without_mac(value))
    }
}

/// What a MAC is for; each has a key of its own.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Manifest,
    Object,
    Backup,
    RecoveryCopy,
}

impl Purpose {
    fn info(self) -> &'static [u8] {
        match self {
            Self::Manifest => b"strongroom v1 manifest",
            Self::Object => b"strongroom v1 object",
            Self::Backup => b"strongroom v1 backup",
            Self::RecoveryCopy => b"strongroom v1 recovery copy",
        }
    }
}

impl Dek {
    pub(crate) fn random() -> Self {
        Self(Secret::random(KEY_LEN))
    }

    /// `None` if it is not 32 bytes.
    pub(crate) fn new(secret: Secret) -> Option<Self> {
        (secret.len() == KEY_LEN).then_some(Self(secret))
    }

    pub(crate) fn expose(&self) -> &Secret {
        &self.0
    }

    /// Encrypts a payload under this DEK, K_vault and all metadata.
    pub(crate) fn encrypt(
        &self,
        vault_key: &VaultKey,
        metadata: &Metadata,
        payload: &Secret,
    ) -> Payload {
        let keys = self.payload_keys(vault_key, metadata);
        let nonce: [u8; 12] = {
            let mut nonce = [0; 12];
            getrandom::fill(&mut nonce).expect("getrandom(2) cannot fail once seeded");
            nonce
        };
        // Encrypted in place in secret memory, so that no copy of the plaintext is left behind.
        let mut buffer = Secret::copy_of(payload.expose());
        let tag = keys
            .cipher()
            .encrypt_in_place_detached(Nonce::from_slice(&nonce), &[], buffer.expose_mut())
            .expect("a payload is far below AES-GCM's limit");
        Payload {
            nonce: Base64(nonce.to_vec()),
            ciphertext: Base64([buffer.expose(), tag.as_slice()].concat()),
            commitment: Base64(keys.commitment().to_vec()),
            encrypted_as: None,
        }
    }

    /// Decrypts a payload, if it was encrypted under exactly this DEK, K_vault and metadata.
    pub(crate) fn decrypt(
        &self,
        vault_key: &VaultKey,
        metadata: &Metadata,
        payload: &Payload,
    ) -> Result<Secret, DoesNotOpen> {
        let keys = self.payload_keys(vault_key, metadata);
        // GCM alone does not commit to its key: one ciphertext can be made to open under two.
        if !bool::from(keys.commitment().ct_eq(&payload.commitment.0)) {
            return Err(DoesNotOpen);
        }
        let ciphertext = &payload.ciphertext.0;
        let text_len = ciphertext.len().checked_sub(TAG_LEN).ok_or(DoesNotOpen)?;
        if payload.nonce.0.len() != 12 {
            return Err(DoesNotOpen);
        }
        let (text, tag) = ciphertext.split_at(text_len);
        let mut buffer = Secret::copy_of(text);
        keys.cipher()
            .decrypt_in_place_detached(
                Nonce::from_slice(&payload.nonce.0),
                &[],
                buffer.expose_mut(),
                tag.into(),
            )
            .map_err(|_| DoesNotOpen)?;
        Ok(buffer)
    }

    fn payload_keys(&self, vault_key: &VaultKey, metadata: &Metadata) -> PayloadKeys {
        let ikm = Secret::concat(&[self.0.expose(), vault_key.0.expose()]);
        let mut info = b"strongroom v1 payload".to_vec();
        info.extend_from_slice(&Sha256::digest(canonical(&metadata.of_one_tpm())));
        let mut okm = Zeroizing::new([0; 2 * KEY_LEN]);
        Hkdf::<Sha256>::new(None, ikm.expose())
            .expand(&info, okm.as_mut())
            .expect("64 bytes are within HKDF's limit");
        PayloadKeys(okm)
    }
}

/// Bytes that AES-GCM adds to a payload.
pub(crate) const TAG_LEN: usize = 16;

/// The AES-256 key, and 32 bytes that commit to it.
struct PayloadKeys(Zeroizing<[u8; 2 * KEY_LEN]>);

impl PayloadKeys {
    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new_from_slice(&self.0[..KEY_LEN]).expect("the key is 32 bytes")
    }

    fn commitment(&self) -> &[u8] {
        &self.0[KEY_LEN..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Kind, OBJECT_FORMAT, ObjectId, TokenName};

    fn metadata() -> Metadata {
        Metadata {
            format: OBJECT_FORMAT,
            id: ObjectId::random(),
            token: TokenName::datasets(),
            kind: Kind::DatasetKey,
            label: "tank/home".parse().expect("valid"),
            attributes: [("keyformat".to_owned(), "hex".to_owned())].into(),
            pool_guid: Some(u64::MAX),
            dataset_guid: None,
            generation: 1,
        }
    }

    fn change(metadata: &Metadata, change: impl Fn(&mut Metadata)) -> Metadata {
        let mut changed = metadata.clone();
        change(&mut changed);
        changed
    }

    #[test]
    fn a_payload_opens_under_its_own_keys_and_metadata_alone() {
        let (dek, key, metadata) = (Dek::random(), VaultKey::random(), metadata());
        let payload = dek.encrypt(&key, &metadata, &Secret::copy_of(b"secret"));
        let opened = dek.decrypt(&key, &metadata, &payload).expect("opens");
        assert_eq!(opened.expose(), b"secret");

        assert!(Dek::random().decrypt(&key, &metadata, &payload).is_err());
        assert!(
            dek.decrypt(&VaultKey::random(), &metadata, &payload)
                .is_err()
        );
        for changed in [
            change(&metadata, |m| m.id = ObjectId::random()),
            change(&metadata, |m| m.token = TokenName::keys()),
            change(&metadata, |m| m.kind = Kind::SecretKey),
            change(&metadata, |m| m.label = "tank/work".parse().expect("valid")),
            change(&metadata, |m| m.attributes.clear()),
            change(&metadata, |m| m.pool_guid = Some(1)),
            change(&metadata, |m| m.dataset_guid = Some(1)),
            change(&metadata, |m| m.generation = 2),
        ] {
            assert!(
                dek.decrypt(&key, &changed, &payload).is_err(),
                "{changed:?}"
            );
        }
    }

    #[test]
    fn every_flipped_bit_of_a_payload_is_noticed() {
        let (dek, key, metadata) = (Dek::random(), VaultKey::random(), metadata());
        let payload = dek.encrypt(&key, &metadata, &Secret::copy_of(b"secret"));
        for which in 0..3 {
            let len = [&payload.nonce, &payload.ciphertext, &payload.commitment][which]
                .0
                .len();
            for bit in 0..len * 8 {
                let mut bad = payload.clone();
                let bytes = match which {
                    0 => &mut bad.nonce.0,
                    1 => &mut bad.ciphertext.0,
                    _ => &mut bad.commitment.0,
                };
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(dek.decrypt(&key, &metadata, &bad).is_err(), "{which} {bit}");
            }
        }
        for cut in [0, 1, TAG_LEN, payload.ciphertext.0.len() - 1] {
            let mut bad = payload.clone();
            bad.ciphertext.0.truncate(cut);
            assert!(dek.decrypt(&key, &metadata, &bad).is_err(), "cut to {cut}");
        }
    }

    #[test]
    fn macs_of_different_purposes_differ() {
        let (key, metadata) = (VaultKey::random(), metadata());
        let mac = key.mac(Purpose::Object, &metadata);
        assert!(key.verifies(Purpose::Object, &metadata, &mac));
        assert!(!key.verifies(Purpose::Manifest, &metadata, &mac));
        let other = change(&metadata, |m| m.generation = 2);
        assert!(!key.verifies(Purpose::Object, &other, &mac));
    }
}
