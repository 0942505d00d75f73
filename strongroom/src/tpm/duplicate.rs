//! Duplicates: objects that are encrypted, outside of any TPM, to a storage key whose TPM imports them.
//!
//! A duplicate is what TPM2_Duplicate would have made (Part 1, section 23.3): the outer wrap alone, by a
//! seed that the new parent's holder can compute. To make one takes the parent's public area and no
//! TPM command. So anybody can: what comes out of one is believed by what it opens, never for
//! itself.

use aes::Aes128;
use cfb_mode::cipher::{AsyncStreamCipher, KeyIvInit};
use hmac::{Hmac, Mac};
use p256::ecdh::EphemeralSecret;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use rsa::rand_core::OsRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::structures::{
    Digest, EncryptedSecret, KeyedHashScheme, Private, Public, PublicBuilder,
    PublicKeyedHashParameters,
};
use tss_esapi::traits::{Marshall, UnMarshall};

use super::answer;
use super::key_file::{KeyFile, sized};
use super::keys::{coordinate, no_key};
use super::name::Name;
use crate::encoding::Base64;
use crate::error::Result;
use crate::key::{Curve, KeyAlgorithm};
use crate::secret::Secret;

/// Up to 128 bytes that are encrypted to a storage key of another TPM, as they are written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct SealedDuplicate {
    /// TPMT_PUBLIC of the sealed data object.
    public: Base64,
    /// TPM2B_PRIVATE without its size.
    private: Base64,
    /// TPM2B_ENCRYPTED_SECRET without its size.
    seed: Base64,
}

impl SealedDuplicate {
    /// Encrypts a secret to a storage key. No TPM command.
    pub(crate) fn new(parent: &KeyFile, secret: &Secret) -> Result<Self> {
        // Part 1, section 27.3: what makes `unique` say nothing of the data.
        let seed_value = Secret::random(32);
        let unique = Sha256::new()
            .chain_update(seed_value.expose())
            .chain_update(secret.expose())
            .finalize();
        let public = template(&unique).map_err(|error| answer::error("public area", error))?;
        let sensitive = Sensitive::sealed_data(&seed_value, secret);
        let duplicate = Duplicate::new(&parent.public, &public, sensitive)?;
        Ok(Self {
            public: public
                .marshall()
                .map(Base64)
                .map_err(|error| answer::error("public area", error))?,
            private: Base64(duplicate.private),
            seed: Base64(duplicate.seed),
        })
    }

    /// What TPM2_Import takes. The reason of a refusal is for the caller to put beside the file's
    /// name.
    pub(super) fn parts(&self) -> Result<(Public, Private, EncryptedSecret), String> {
        let public = Public::unmarshall(&self.public.0)
            .ok()
            .filter(|public| matches!(public, Public::KeyedHash { .. }))
            .ok_or("duplicate: its public area is not of sealed data")?;
        let private = Private::try_from(self.private.0.clone())
            .map_err(|_| "duplicate: its private area is not one")?;
        let seed = EncryptedSecret::try_from(self.seed.0.clone())
            .map_err(|_| "duplicate: its seed is not one")?;
        Ok((public, private, seed))
    }
}

/// The attributes of other sealed data, but for what TPM2_Import takes of nothing: fixedTPM and
/// fixedParent.
fn template(unique: &[u8]) -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_st_clear(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(Digest::default())
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::try_from(unique.to_vec())?)
        .build()
}

/// An object on its way into a TPM, encrypted to its new parent and to nobody else. There is no
/// inner wrapper.
pub(super) struct Duplicate {
    /// TPM2B_PRIVATE without its size: the outer HMAC, and the encrypted TPM2B_SENSITIVE.
    pub(super) private: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET without its size: an ephemeral point.
    pub(super) seed: Vec<u8>,
}

impl Duplicate {
    pub(super) fn new(parent: &Public, public: &Public, sensitive: Sensitive) -> Result<Self> {
        let name = Name::of_object(public)?;
        let (seed, secret) = share_seed(parent)?;
        let key = kdfa(&seed, b"STORAGE", name.as_bytes(), 128);
        let Sensitive(mut area) = sensitive;
        cfb_mode::Encryptor::<Aes128>::new_from_slices(key.expose(), &[0; 16])
            .expect("the key is 16 bytes, and so is the IV")
            .encrypt(area.expose_mut());
        let key = kdfa(&seed, b"INTEGRITY", &[], 256);
        let integrity = <Hmac<Sha256> as Mac>::new_from_slice(key.expose())
            .expect("HMAC takes keys of any length")
            .chain_update(area.expose())
            .chain_update(name.as_bytes())
            .finalize()
            .into_bytes();
        Ok(Self {
            private: [&sized(&integrity), area.expose()].concat(),
            seed: secret,
        })
    }
}

/// TPM2B_SENSITIVE (Part 2, section 12.3.2.4) with empty auth.
pub(super) struct Sensitive(Secret);

impl Sensitive {
    /// Of a private key, which has no seed.
    pub(super) fn private_key(algorithm: KeyAlgorithm, key: &Secret) -> Self {
        let kind = match algorithm {
            KeyAlgorithm::Rsa(_) => [0x00, 0x01],
            KeyAlgorithm::Ec(_)
            | KeyAlgorithm::Ed25519
            | KeyAlgorithm::Ed448
            | KeyAlgorithm::X25519 => [0x00, 0x23],
        };
        Self::area(kind, &Secret::zeroed(0), key)
    }

    /// Of sealed data, TPM_ALG_KEYEDHASH.
    fn sealed_data(seed_value: &Secret, data: &Secret) -> Self {
        Self::area([0x00, 0x08], seed_value, data)
    }

    fn area(kind: [u8; 2], seed_value: &Secret, sensitive: &Secret) -> Self {
        let len = |len: usize| {
            u16::try_from(len)
                .expect("a key's numbers are below 64 KiB")
                .to_be_bytes()
        };
        Self(Secret::concat(&[
            &len(2 + 2 + 2 + seed_value.len() + 2 + sensitive.len()),
            &kind,
            &len(0),
            &len(seed_value.len()),
            seed_value.expose(),
            &len(sensitive.len()),
            sensitive.expose(),
        ]))
    }
}

/// A random seed that the holder of a P-256 storage key can compute (Part 1, sections C.6.1 and
/// C.6.3), and what it computes it from.
fn share_seed(parent: &Public) -> Result<(Secret, Vec<u8>)> {
    let Public::Ecc { unique, .. } = parent else {
        return Err(no_key());
    };
    let mut point = vec![4];
    point.extend(coordinate(unique.x(), Curve::P256));
    point.extend(coordinate(unique.y(), Curve::P256));
    let public = p256::PublicKey::from_sec1_bytes(&point).map_err(|_| no_key())?;
    let ephemeral = EphemeralSecret::random(&mut OsRng);
    let shared = ephemeral.diffie_hellman(&public);
    let own = ephemeral.public_key().to_encoded_point(false);
    let [own_x, own_y] =
        [own.x(), own.y()].map(|half| half.expect("it is not the point at infinity"));
    // KDFe (Part 1, section 11.4.10.3): one block is as many bits as are wanted.
    let mut seed = Sha256::new()
        .chain_update(1_u32.to_be_bytes())
        .chain_update(shared.raw_secret_bytes())
        .chain_update(b"DUPLICATE\0")
        .chain_update(own_x)
        .chain_update(unique.x().as_slice())
        .finalize();
    let secret = Secret::copy_of(&seed);
    zeroize::Zeroize::zeroize(seed.as_mut_slice());
    Ok((secret, [sized(own_x), sized(own_y)].concat()))
}

/// KDFa (Part 1, section 11.4.10.2) for up to 256 bits, with one context.
fn kdfa(key: &Secret, label: &[u8], context: &[u8], bits: u32) -> Secret {
    let mut block = <Hmac<Sha256> as Mac>::new_from_slice(key.expose())
        .expect("HMAC takes keys of any length")
        .chain_update(1_u32.to_be_bytes())
        .chain_update(label)
        .chain_update([0])
        .chain_update(context)
        .chain_update(bits.to_be_bytes())
        .finalize()
        .into_bytes();
    let len = usize::try_from(bits / 8).expect("32");
    let derived = Secret::copy_of(&block[..len]);
    zeroize::Zeroize::zeroize(block.as_mut_slice());
    derived
}
