//! Keys that do something: RSA and EC private keys, those on Curve25519 and Curve448, their public halves,
//! and what is done with them.
//!
//! A private key lives in the TPM ([`Residence::Tpm`]): its object has a slot that the TPM loads,
//! and no value that anyone could ask for. Where the TPM lacks the algorithm or size, the key is
//! sealed as PKCS#8 like any secret and used in this process's memory ([`Residence::Memory`]).
//! `vault/keys.rs` has what an unlocked vault does with keys.
//!
//! What is padded is padded here, with one private operation behind it that the TPM and memory
//! have alike ([`padding`]).

mod ed25519ctx;
mod ed448;
pub(crate) mod padding;
mod private;
mod public;
mod rfc8410;

use std::fmt;
use std::str::FromStr;

use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Sha224, Sha256, Sha384, Sha512};

pub use self::private::{Parts, PrivateKey};
pub use self::public::PublicKey;

pub(crate) use self::private::{not_of_its_kind, padded, unusable};

use crate::error::{Error, Result};
use crate::object::Metadata;
use crate::tpm::keys::TpmKey;

/// Attribute of a private key: its public half, SubjectPublicKeyInfo (RFC 5280) in base64.
pub const PUBLIC_KEY: &str = "public-key";

/// Attribute of a private key: its [`KeyAlgorithm`].
pub const ALGORITHM: &str = "algorithm";

/// Attribute of a private key: its [`Residence`].
pub const RESIDENCE: &str = "residence";

/// Attribute of a private key: `true` if it was made here, `false` if it was imported.
pub const LOCAL: &str = "local";

/// What the library says of a private key, and nobody else.
pub(crate) const ATTRIBUTES: [&str; 4] = [PUBLIC_KEY, ALGORITHM, RESIDENCE, LOCAL];

/// An elliptic curve (FIPS 186-4, D.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Curve {
    /// NIST P-256, secp256r1.
    P256,
    /// NIST P-384, secp384r1.
    P384,
    /// NIST P-521, secp521r1.
    P521,
}

impl Curve {
    /// Length of a coordinate, and of a number modulo the group's order, in bytes.
    pub fn field_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// What kind of key, and of what size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// RSA, and how many bits its modulus has: in the vault 2048, 3072 or 4096, and where it was
    /// imported any multiple of 8 between.
    Rsa(u16),
    /// Elliptic curve.
    Ec(Curve),
    /// Signatures on Curve25519 (RFC 8032).
    Ed25519,
    /// Signatures on Curve448 (RFC 8032).
    Ed448,
    /// Diffie-Hellman on Curve25519 (RFC 7748).
    X25519,
}

impl KeyAlgorithm {
    /// Length of a public key's point in bytes: an uncompressed one, or as RFC 8032 and RFC 7748 write it.
    /// RSA has none.
    pub fn point_len(self) -> Option<usize> {
        match self {
            Self::Rsa(_) => None,
            Self::Ec(curve) => Some(1 + 2 * curve.field_len()),
            Self::Ed25519 | Self::X25519 => Some(32),
            Self::Ed448 => Some(ed448::KEY_LEN),
        }
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "rsa-{bits}"),
            Self::Ec(Curve::P256) => f.write_str("ec-p256"),
            Self::Ec(Curve::P384) => f.write_str("ec-p384"),
            Self::Ec(Curve::P521) => f.write_str("ec-p521"),
            Self::Ed25519 => f.write_str("ed25519"),
            Self::Ed448 => f.write_str("ed448"),
            Self::X25519 => f.write_str("x25519"),
        }
    }
}

impl FromStr for KeyAlgorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "ec-p256" => Some(Self::Ec(Curve::P256)),
            "ec-p384" => Some(Self::Ec(Curve::P384)),
            "ec-p521" => Some(Self::Ec(Curve::P521)),
            "ed25519" => Some(Self::Ed25519),
            "ed448" => Some(Self::Ed448),
            "x25519" => Some(Self::X25519),
            _ => text
                .strip_prefix("rsa-")
                .and_then(|bits| bits.parse().ok())
                .filter(|bits| is_rsa_size(*bits))
                .map(Self::Rsa)
                // One spelling only.
                .filter(|algorithm| algorithm.to_string() == text),
        }
        .ok_or_else(|| {
            Error::input(
                format!("key algorithm {text:?}"),
                "it must be rsa-2048, rsa-3072, rsa-4096, ec-p256, ec-p384, ec-p521, ed25519, ed448 or x25519",
            )
        })
    }
}

/// Which sizes of RSA private keys are kept. Smaller ones are broken or soon will be; larger ones no
/// TPM has.
pub(crate) fn is_rsa_size(bits: u16) -> bool {
    (2048..=4096).contains(&bits) && bits % 8 == 0
}

/// Which sizes of RSA there may be at all: other people's public keys, and keys that nobody keeps.
pub(crate) fn is_any_rsa_size(bits: usize) -> bool {
    (1024..=MAX_RSA_BITS).contains(&bits) && bits % 8 == 0
}

/// The longest modulus of anybody's.
pub(crate) const MAX_RSA_BITS: usize = 8192;

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "their names say what they are")]
pub enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    /// Length of a digest in bytes.
    pub fn digest_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    pub(crate) fn start(self) -> Box<dyn DynDigest> {
        match self {
            Self::Sha1 => Box::new(Sha1::default()),
            Self::Sha224 => Box::new(Sha224::default()),
            Self::Sha256 => Box::new(Sha256::default()),
            Self::Sha384 => Box::new(Sha384::default()),
            Self::Sha512 => Box::new(Sha512::default()),
        }
    }
}

/// Where a private key is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Residence {
    /// In the TPM, which it does not leave.
    Tpm,
    /// In this process's memory, unsealed for as long as it is loaded.
    Memory,
}

impl Residence {
    /// As text, as in the attribute [`RESIDENCE`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tpm => "tpm",
            Self::Memory => "memory",
        }
    }

    /// Where the private key of this object is used; `None` where the object is no such key.
    pub fn of(object: &Metadata) -> Option<Self> {
        [Self::Tpm, Self::Memory].into_iter().find(|residence| {
            object.attributes.get(RESIDENCE).map(String::as_str) == Some(residence.as_str())
        })
    }
}

/// How to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignScheme {
    /// RSASSA-PKCS1-v1_5 (RFC 8017, section 8.2).
    RsaPkcs1 {
        /// The hash of which the input is a digest. `None`: the input is the whole DigestInfo, or
        /// whatever else is to be padded as it is.
        hash: Option<Hash>,
    },
    /// RSASSA-PSS (RFC 8017, section 8.1). The input is a digest.
    RsaPss {
        /// The hash of which the input is a digest.
        hash: Hash,
        /// The hash of the mask generation function MGF1.
        mgf: Hash,
        /// Length of the salt in bytes.
        salt_len: usize,
    },
    /// ECDSA (FIPS 186-4, section 6). The input is a digest of whatever hash; the signature is
    /// r ‖ s, each as long as the field.
    Ecdsa,
    /// RSA's private operation alone (RFC 8017, section 5.2.1). The input is as long as the modulus.
    RsaRaw,
    /// EdDSA (RFC 8032, section 5). The input is the message.
    Eddsa {
        /// Ed25519ph and Ed448ph: the message is hashed here first.
        prehashed: bool,
        /// At most 255 bytes. With any, Ed25519 is Ed25519ctx; Ed448 always has one, if an empty one.
        context: Vec<u8>,
    },
}

impl SignScheme {
    /// Ed25519 or Ed448 as nearly everybody has it: of the message itself, without a context.
    pub const PURE_EDDSA: Self = Self::Eddsa {
        prehashed: false,
        context: Vec::new(),
    };
}

/// How to decrypt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecryptScheme {
    /// RSAES-PKCS1-v1_5 (RFC 8017, section 7.2).
    RsaPkcs1,
    /// RSAES-OAEP (RFC 8017, section 7.1).
    RsaOaep {
        /// The hash of the label.
        hash: Hash,
        /// The hash of the mask generation function MGF1.
        mgf: Hash,
        /// The label, any bytes.
        label: Vec<u8>,
    },
    /// The private operation alone (RFC 8017, section 5.1.2). As long as the modulus.
    RsaRaw,
}

/// A digest at the length of the field, and still the same number: the leftmost bits of a longer one
/// (FIPS 186-4, section 6.4). P-521's field is longer than every digest.
pub(crate) fn as_long_as_field(digest: &[u8], curve: Curve) -> Result<Vec<u8>> {
    let len = curve.field_len();
    if digest.is_empty() {
        return Err(Error::input("digest", "it is empty"));
    }
    let digest = &digest[..digest.len().min(len)];
    let mut number = vec![0; len - digest.len()];
    number.extend_from_slice(digest);
    Ok(number)
}

/// A private key that is ready for use.
pub struct LoadedKey {
    pub(crate) public: PublicKey,
    pub(crate) private: Private,
}

/// Where a loaded key is.
pub(crate) enum Private {
    Tpm(TpmKey),
    Memory(PrivateKey),
}

impl LoadedKey {
    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Where the private half is used.
    pub fn residence(&self) -> Residence {
        match self.private {
            Private::Tpm(_) => Residence::Tpm,
            Private::Memory(_) => Residence::Memory,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_have_one_spelling() {
        for text in [
            "rsa-2048", "rsa-3072", "rsa-4096", "ec-p256", "ec-p384", "ec-p521", "ed25519",
            "ed448", "x25519",
        ] {
            let algorithm: KeyAlgorithm = text.parse().expect(text);
            assert_eq!(algorithm.to_string(), text);
        }
        for text in [
            "rsa-1024",
            "rsa-02048",
            "rsa-+2048",
            "rsa-2049",
            "rsa-8192",
            "ec-p-521",
            "Ed25519",
            "",
            "RSA-2048",
        ] {
            assert!(text.parse::<KeyAlgorithm>().is_err(), "{text}");
        }
    }
}
