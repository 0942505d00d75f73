//! What the tokens with keys can do: the one table of mechanisms (PKCS#11 3.1, chapter 6).
//!
//! `docs/pkcs11.md` shows the table as a test here writes it, which compares the two.

use cryptoki_sys::{
    CK_FLAGS, CK_KEY_TYPE, CK_MECHANISM_INFO, CK_MECHANISM_TYPE, CK_ULONG, CKF_DECRYPT, CKF_DERIVE,
    CKF_DIGEST, CKF_EC_CURVENAME, CKF_EC_F_P, CKF_EC_OID, CKF_EC_UNCOMPRESS, CKF_ENCRYPT,
    CKF_GENERATE, CKF_GENERATE_KEY_PAIR, CKF_HW, CKF_MESSAGE_DECRYPT, CKF_MESSAGE_ENCRYPT,
    CKF_MULTI_MESSAGE, CKF_SIGN, CKF_SIGN_RECOVER, CKF_UNWRAP, CKF_VERIFY, CKF_VERIFY_RECOVER,
    CKF_WRAP, CKK_AES, CKK_DES2, CKK_DES3, CKK_DH, CKK_DSA, CKK_EC, CKK_EC_EDWARDS,
    CKK_EC_MONTGOMERY, CKK_GENERIC_SECRET, CKK_RSA, CKK_SHA_1_HMAC, CKK_SHA224_HMAC,
    CKK_SHA256_HMAC, CKK_SHA384_HMAC, CKK_SHA512_HMAC, CKM_AES_CBC, CKM_AES_CBC_ENCRYPT_DATA,
    CKM_AES_CBC_PAD, CKM_AES_CMAC, CKM_AES_CMAC_GENERAL, CKM_AES_CTR, CKM_AES_ECB,
    CKM_AES_ECB_ENCRYPT_DATA, CKM_AES_GCM, CKM_AES_KEY_GEN, CKM_AES_KEY_WRAP, CKM_AES_KEY_WRAP_KWP,
    CKM_AES_MAC, CKM_AES_MAC_GENERAL, CKM_CONCATENATE_BASE_AND_DATA, CKM_CONCATENATE_BASE_AND_KEY,
    CKM_CONCATENATE_DATA_AND_BASE, CKM_DES2_KEY_GEN, CKM_DES3_CBC, CKM_DES3_CBC_PAD, CKM_DES3_ECB,
    CKM_DES3_KEY_GEN, CKM_DH_PKCS_DERIVE, CKM_DH_PKCS_KEY_PAIR_GEN, CKM_DSA, CKM_DSA_KEY_PAIR_GEN,
    CKM_DSA_PARAMETER_GEN, CKM_DSA_SHA1, CKM_DSA_SHA224, CKM_DSA_SHA256, CKM_DSA_SHA384,
    CKM_DSA_SHA512, CKM_EC_EDWARDS_KEY_PAIR_GEN, CKM_EC_KEY_PAIR_GEN,
    CKM_EC_MONTGOMERY_KEY_PAIR_GEN, CKM_ECDH1_DERIVE, CKM_ECDSA, CKM_ECDSA_SHA1, CKM_ECDSA_SHA224,
    CKM_ECDSA_SHA256, CKM_ECDSA_SHA384, CKM_ECDSA_SHA512, CKM_EDDSA, CKM_EXTRACT_KEY_FROM_KEY,
    CKM_GENERIC_SECRET_KEY_GEN, CKM_RSA_PKCS, CKM_RSA_PKCS_KEY_PAIR_GEN, CKM_RSA_PKCS_OAEP,
    CKM_RSA_PKCS_PSS, CKM_RSA_X_509, CKM_SHA_1, CKM_SHA_1_HMAC, CKM_SHA_1_HMAC_GENERAL,
    CKM_SHA_1_KEY_GEN, CKM_SHA1_RSA_PKCS, CKM_SHA1_RSA_PKCS_PSS, CKM_SHA224, CKM_SHA224_HMAC,
    CKM_SHA224_HMAC_GENERAL, CKM_SHA224_KEY_GEN, CKM_SHA224_RSA_PKCS, CKM_SHA224_RSA_PKCS_PSS,
    CKM_SHA256, CKM_SHA256_HMAC, CKM_SHA256_HMAC_GENERAL, CKM_SHA256_KEY_GEN, CKM_SHA256_RSA_PKCS,
    CKM_SHA256_RSA_PKCS_PSS, CKM_SHA384, CKM_SHA384_HMAC, CKM_SHA384_HMAC_GENERAL,
    CKM_SHA384_KEY_GEN, CKM_SHA384_RSA_PKCS, CKM_SHA384_RSA_PKCS_PSS, CKM_SHA512, CKM_SHA512_HMAC,
    CKM_SHA512_HMAC_GENERAL, CKM_SHA512_KEY_GEN, CKM_SHA512_RSA_PKCS, CKM_SHA512_RSA_PKCS_PSS,
    CKM_SP800_108_COUNTER_KDF, CKM_SP800_108_DOUBLE_PIPELINE_KDF, CKM_SP800_108_FEEDBACK_KDF,
    CKM_XOR_BASE_AND_DATA,
};

use crate::served::is_served;
use strongroom::key::Hash;

/// A mechanism of the tokens with keys.
pub(crate) struct Mechanism {
    pub(crate) kind: CK_MECHANISM_TYPE,
    #[cfg_attr(not(test), expect(dead_code, reason = "the documentation's"))]
    name: &'static str,
    pub(crate) method: Method,
    /// The functions that take it.
    pub(crate) functions: CK_FLAGS,
    /// The smallest and largest key, in the unit that the specification has for the mechanism.
    pub(crate) sizes: (CK_ULONG, CK_ULONG),
    #[cfg_attr(not(test), expect(dead_code, reason = "the documentation's"))]
    unit: &'static str,
    runs: Runs,
}

/// What a mechanism does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Makes an RSA key pair.
    RsaKeyPair,
    /// Makes a key pair on a named curve.
    EcKeyPair,
    /// The same for signatures on Curve25519 and Curve448.
    EdwardsKeyPair,
    /// The same for Diffie-Hellman there.
    MontgomeryKeyPair,
    /// Makes a secret key of this type.
    SecretKey(CK_KEY_TYPE),
    /// Digests.
    Digest(Hash),
    /// RSASSA-PKCS1-v1_5, of data or of what the caller has encoded; RSAES-PKCS1-v1_5.
    RsaPkcs(Option<Hash>),
    /// RSA's operations alone.
    RsaRaw,
    /// RSASSA-PSS, of data or of a digest.
    RsaPss(Option<Hash>),
    /// RSAES-OAEP.
    RsaOaep,
    /// ECDSA, of data or of a digest.
    Ecdsa(Option<Hash>),
    /// Ed25519 and Ed448.
    Eddsa,
    /// ECDH as in X9.63, without key derivation function.
    Ecdh,
    /// AES, block by block.
    AesEcb,
    /// AES in cipher block chaining, the last block filled up (PKCS#7) or whole.
    AesCbc {
        /// Whether it is filled up.
        padded: bool,
    },
    /// AES in counter mode.
    AesCtr,
    /// AES in Galois/counter mode.
    AesGcm,
    /// AES key wrap (RFC 3394), or with padding (RFC 5649).
    AesKeyWrap {
        /// Whether any length can be wrapped.
        padded: bool,
    },
    /// The message authentication code of AES before CMAC, half a block or as much as is asked for.
    AesMac {
        /// Whether its length is a parameter.
        cut: bool,
    },
    /// Triple DES, block by block.
    Des3Ecb,
    /// Triple DES in cipher block chaining, the last block filled up (PKCS#7) or whole.
    Des3Cbc {
        /// Whether it is filled up.
        padded: bool,
    },
    /// Makes parameters of DSA.
    DsaParameters,
    /// Makes a key pair of such parameters.
    DsaKeyPair,
    /// DSA, of data or of a digest.
    Dsa(Option<Hash>),
    /// Makes a key pair in a group that the caller gives.
    DhKeyPair,
    /// Diffie-Hellman over a finite field.
    Dh,
    /// The message authentication code of AES, the whole or as much as is asked for.
    Cmac {
        /// Whether its length is a parameter.
        cut: bool,
    },
    /// The same of a hash function.
    Hmac {
        /// The hash function.
        hash: Hash,
        /// Whether its length is a parameter.
        cut: bool,
    },
    /// A key that is what AES makes of some data, in ECB.
    DeriveEcb,
    /// The same in CBC.
    DeriveCbc,
    /// A key and another one after it.
    ConcatenateKey,
    /// A key and some data before or after it.
    ConcatenateData {
        /// Whether the data comes first.
        before: bool,
    },
    /// A key and some data, bit by bit either or.
    Xor,
    /// A part of a key.
    Extract,
    /// What a code of this and that, over and over, comes to (NIST SP 800-108).
    Kbkdf(Iteration),
}

/// What a key derivation of NIST SP 800-108 goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Iteration {
    /// A counter.
    Counter,
    /// What came out last.
    Feedback,
    /// What comes out of a feedback beside it.
    DoublePipeline,
}

/// Where a mechanism runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Runs {
    /// Where the private key lives; public keys are used in memory.
    WithTheKey,
    /// In the TPM what it has room and algorithms for, if it is to stay in the vault.
    InTheTpm,
    /// In the module's memory.
    InMemory,
    /// The same, with session keys only: it is there for old keys.
    InSessions,
}

const RSA: (CK_ULONG, CK_ULONG) = (1024, 8192);
const NEW_RSA: (CK_ULONG, CK_ULONG) = (1024, 4096);
const EC: (CK_ULONG, CK_ULONG) = (256, 521);
const EDWARDS: (CK_ULONG, CK_ULONG) = (255, 448);
const MONTGOMERY: (CK_ULONG, CK_ULONG) = (255, 255);
const AES: (CK_ULONG, CK_ULONG) = (16, 32);
const SECRET: (CK_ULONG, CK_ULONG) = (1, 512);
const DSA: (CK_ULONG, CK_ULONG) = (1024, 3072);
const DH: (CK_ULONG, CK_ULONG) = (2048, 4096);
const SIGNING: CK_FLAGS = CKF_SIGN | CKF_VERIFY;
const CRYPTING: CK_FLAGS = CKF_ENCRYPT | CKF_DECRYPT;
const RECOVERING: CK_FLAGS = CKF_SIGN_RECOVER | CKF_VERIFY_RECOVER;
const WRAPPING: CK_FLAGS = CKF_WRAP | CKF_UNWRAP;
pub(crate) const MESSAGES: CK_FLAGS = CKF_MESSAGE_ENCRYPT | CKF_MESSAGE_DECRYPT | CKF_MULTI_MESSAGE;
/// What there is to say of curves: prime fields, by their OID, points written in full.
const CURVES: CK_FLAGS = CKF_EC_F_P | CKF_EC_OID | CKF_EC_UNCOMPRESS;

/// Every mechanism that there is, and none that does not work.
pub(crate) static MECHANISMS: &[Mechanism] = {
    use Hash::{Sha1, Sha224, Sha256, Sha384, Sha512};
    use Iteration::{Counter, DoublePipeline, Feedback};
    use Method::{
        AesCbc, AesCtr, AesEcb, AesGcm, AesKeyWrap, AesMac, Cmac, ConcatenateData, ConcatenateKey,
        DeriveCbc, DeriveEcb, Des3Cbc, Des3Ecb, Dh, DhKeyPair, Digest, Dsa, DsaKeyPair,
        DsaParameters, EcKeyPair, Ecdh, Ecdsa, Eddsa, EdwardsKeyPair, Extract, Hmac, Kbkdf,
        MontgomeryKeyPair, RsaKeyPair, RsaOaep, RsaPkcs, RsaPss, RsaRaw, SecretKey, Xor,
    };
    use Runs::{InMemory, InSessions, InTheTpm, WithTheKey};
    macro_rules! table {
        ($($kind:ident, $method:expr, $functions:expr, $sizes:expr, $unit:literal, $runs:ident;)+) => {
            &[$(Mechanism {
                kind: $kind,
                name: stringify!($kind),
                method: $method,
                functions: $functions,
                sizes: $sizes,
                unit: $unit,
                runs: $runs,
            }),+]
        };
    }
    table! {
        CKM_RSA_PKCS_KEY_PAIR_GEN, RsaKeyPair, CKF_GENERATE_KEY_PAIR, NEW_RSA, "bits", InTheTpm;
        CKM_RSA_PKCS, RsaPkcs(None), SIGNING | RECOVERING | CRYPTING | WRAPPING, RSA, "bits", WithTheKey;
        CKM_SHA1_RSA_PKCS, RsaPkcs(Some(Sha1)), SIGNING, RSA, "bits", WithTheKey;
        CKM_SHA224_RSA_PKCS, RsaPkcs(Some(Sha224)), SIGNING, RSA, "bits", WithTheKey;
        CKM_SHA256_RSA_PKCS, RsaPkcs(Some(Sha256)), SIGNING, RSA, "bits", WithTheKey;
        CKM_SHA384_RSA_PKCS, RsaPkcs(Some(Sha384)), SIGNING, RSA, "bits", WithTheKey;
        CKM_SHA512_RSA_PKCS, RsaPkcs(Some(Sha512)), SIGNING, RSA, "bits", WithTheKey;
        CKM_RSA_PKCS_PSS, RsaPss(None), SIGNING, RSA, "bits", WithTheKey;
        CKM_SHA1_RSA_PKCS_PSS, RsaPss(Some(Sha1)), SIGNING, RSA, "bits", WithTheKey;
        CKM_SHA224_RSA_PKCS_PSS, RsaPss(Some(Sha224)), SIGNING, RSA, "bits", WithTheKey;
        CKM_SHA256_RSA_PKCS_PSS, RsaPss(Some(Sha256)), SIGNING, RSA, "bits", WithTheKey;
        CKM_SHA384_RSA_PKCS_PSS, RsaPss(Some(Sha384)), SIGNING, RSA, "bits", WithTheKey;
        CKM_SHA512_RSA_PKCS_PSS, RsaPss(Some(Sha512)), SIGNING, RSA, "bits", WithTheKey;
        CKM_RSA_PKCS_OAEP, RsaOaep, CRYPTING | WRAPPING, RSA, "bits", WithTheKey;
        CKM_RSA_X_509, RsaRaw, SIGNING | RECOVERING | CRYPTING, RSA, "bits", WithTheKey;
        CKM_EC_KEY_PAIR_GEN, EcKeyPair, CKF_GENERATE_KEY_PAIR, EC, "bits", InTheTpm;
        CKM_ECDSA, Ecdsa(None), SIGNING, EC, "bits", WithTheKey;
        CKM_ECDSA_SHA1, Ecdsa(Some(Sha1)), SIGNING, EC, "bits", WithTheKey;
        CKM_ECDSA_SHA224, Ecdsa(Some(Sha224)), SIGNING, EC, "bits", WithTheKey;
        CKM_ECDSA_SHA256, Ecdsa(Some(Sha256)), SIGNING, EC, "bits", WithTheKey;
        CKM_ECDSA_SHA384, Ecdsa(Some(Sha384)), SIGNING, EC, "bits", WithTheKey;
        CKM_ECDSA_SHA512, Ecdsa(Some(Sha512)), SIGNING, EC, "bits", WithTheKey;
        CKM_ECDH1_DERIVE, Ecdh, CKF_DERIVE, EC, "bits", WithTheKey;
        CKM_EC_EDWARDS_KEY_PAIR_GEN, EdwardsKeyPair, CKF_GENERATE_KEY_PAIR, EDWARDS, "bits", InMemory;
        CKM_EDDSA, Eddsa, SIGNING, EDWARDS, "bits", InMemory;
        CKM_EC_MONTGOMERY_KEY_PAIR_GEN, MontgomeryKeyPair, CKF_GENERATE_KEY_PAIR, MONTGOMERY, "bits", InMemory;
        CKM_GENERIC_SECRET_KEY_GEN, SecretKey(CKK_GENERIC_SECRET), CKF_GENERATE, (8, 4096), "bits", InMemory;
        CKM_SHA_1_KEY_GEN, SecretKey(CKK_SHA_1_HMAC), CKF_GENERATE, SECRET, "bytes", InMemory;
        CKM_SHA224_KEY_GEN, SecretKey(CKK_SHA224_HMAC), CKF_GENERATE, SECRET, "bytes", InMemory;
        CKM_SHA256_KEY_GEN, SecretKey(CKK_SHA256_HMAC), CKF_GENERATE, SECRET, "bytes", InMemory;
        CKM_SHA384_KEY_GEN, SecretKey(CKK_SHA384_HMAC), CKF_GENERATE, SECRET, "bytes", InMemory;
        CKM_SHA512_KEY_GEN, SecretKey(CKK_SHA512_HMAC), CKF_GENERATE, SECRET, "bytes", InMemory;
        CKM_SHA_1_HMAC, Hmac { hash: Sha1, cut: false }, SIGNING, SECRET, "bytes", InMemory;
        CKM_SHA224_HMAC, Hmac { hash: Sha224, cut: false }, SIGNING, SECRET, "bytes", InMemory;
        CKM_SHA256_HMAC, Hmac { hash: Sha256, cut: false }, SIGNING, SECRET, "bytes", InMemory;
        CKM_SHA384_HMAC, Hmac { hash: Sha384, cut: false }, SIGNING, SECRET, "bytes", InMemory;
        CKM_SHA512_HMAC, Hmac { hash: Sha512, cut: false }, SIGNING, SECRET, "bytes", InMemory;
        CKM_SHA_1_HMAC_GENERAL, Hmac { hash: Sha1, cut: true }, SIGNING, SECRET, "bytes", InMemory;
        CKM_SHA224_HMAC_GENERAL, Hmac { hash: Sha224, cut: true }, SIGNING, SECRET, "bytes", InMemory;
        CKM_SHA256_HMAC_GENERAL, Hmac { hash: Sha256, cut: true }, SIGNING, SECRET, "bytes", InMemory;
        CKM_SHA384_HMAC_GENERAL, Hmac { hash: Sha384, cut: true }, SIGNING, SECRET, "bytes", InMemory;
        CKM_SHA512_HMAC_GENERAL, Hmac { hash: Sha512, cut: true }, SIGNING, SECRET, "bytes", InMemory;
        CKM_AES_KEY_GEN, SecretKey(CKK_AES), CKF_GENERATE, AES, "bytes", InMemory;
        CKM_AES_ECB, AesEcb, CRYPTING, AES, "bytes", InMemory;
        CKM_AES_CBC, AesCbc { padded: false }, CRYPTING, AES, "bytes", InMemory;
        CKM_AES_CBC_PAD, AesCbc { padded: true }, CRYPTING | WRAPPING, AES, "bytes", InMemory;
        CKM_AES_CTR, AesCtr, CRYPTING, AES, "bytes", InMemory;
        CKM_AES_GCM, AesGcm, CRYPTING | WRAPPING | MESSAGES, AES, "bytes", InMemory;
        CKM_AES_CMAC, Cmac { cut: false }, SIGNING, AES, "bytes", InMemory;
        CKM_AES_CMAC_GENERAL, Cmac { cut: true }, SIGNING, AES, "bytes", InMemory;
        CKM_AES_KEY_WRAP, AesKeyWrap { padded: false }, WRAPPING, AES, "bytes", InMemory;
        CKM_AES_KEY_WRAP_KWP, AesKeyWrap { padded: true }, WRAPPING, AES, "bytes", InMemory;
        CKM_AES_ECB_ENCRYPT_DATA, DeriveEcb, CKF_DERIVE, AES, "bytes", InMemory;
        CKM_AES_CBC_ENCRYPT_DATA, DeriveCbc, CKF_DERIVE, AES, "bytes", InMemory;
        CKM_CONCATENATE_BASE_AND_KEY, ConcatenateKey, CKF_DERIVE, SECRET, "bytes", InMemory;
        CKM_CONCATENATE_BASE_AND_DATA, ConcatenateData { before: false }, CKF_DERIVE, SECRET, "bytes", InMemory;
        CKM_CONCATENATE_DATA_AND_BASE, ConcatenateData { before: true }, CKF_DERIVE, SECRET, "bytes", InMemory;
        CKM_XOR_BASE_AND_DATA, Xor, CKF_DERIVE, SECRET, "bytes", InMemory;
        CKM_EXTRACT_KEY_FROM_KEY, Extract, CKF_DERIVE, SECRET, "bytes", InMemory;
        CKM_SP800_108_COUNTER_KDF, Kbkdf(Counter), CKF_DERIVE, (8, 4096), "bits", InMemory;
        CKM_SP800_108_FEEDBACK_KDF, Kbkdf(Feedback), CKF_DERIVE, (8, 4096), "bits", InMemory;
        CKM_SP800_108_DOUBLE_PIPELINE_KDF, Kbkdf(DoublePipeline), CKF_DERIVE, (8, 4096), "bits", InMemory;
        CKM_SHA_1, Digest(Sha1), CKF_DIGEST, (0, 0), "", InMemory;
        CKM_SHA224, Digest(Sha224), CKF_DIGEST, (0, 0), "", InMemory;
        CKM_SHA256, Digest(Sha256), CKF_DIGEST, (0, 0), "", InMemory;
        CKM_SHA384, Digest(Sha384), CKF_DIGEST, (0, 0), "", InMemory;
        CKM_SHA512, Digest(Sha512), CKF_DIGEST, (0, 0), "", InMemory;
        CKM_AES_MAC, AesMac { cut: false }, SIGNING, AES, "bytes", InSessions;
        CKM_AES_MAC_GENERAL, AesMac { cut: true }, SIGNING, AES, "bytes", InSessions;
        CKM_DES2_KEY_GEN, SecretKey(CKK_DES2), CKF_GENERATE, (0, 0), "", InSessions;
        CKM_DES3_KEY_GEN, SecretKey(CKK_DES3), CKF_GENERATE, (0, 0), "", InSessions;
        CKM_DES3_ECB, Des3Ecb, CRYPTING, (0, 0), "", InSessions;
        CKM_DES3_CBC, Des3Cbc { padded: false }, CRYPTING, (0, 0), "", InSessions;
        CKM_DES3_CBC_PAD, Des3Cbc { padded: true }, CRYPTING, (0, 0), "", InSessions;
        CKM_DSA_PARAMETER_GEN, DsaParameters, CKF_GENERATE, DSA, "bits", InSessions;
        CKM_DSA_KEY_PAIR_GEN, DsaKeyPair, CKF_GENERATE_KEY_PAIR, DSA, "bits", InSessions;
        CKM_DSA, Dsa(None), SIGNING, DSA, "bits", InSessions;
        CKM_DSA_SHA1, Dsa(Some(Sha1)), SIGNING, DSA, "bits", InSessions;
        CKM_DSA_SHA224, Dsa(Some(Sha224)), SIGNING, DSA, "bits", InSessions;
        CKM_DSA_SHA256, Dsa(Some(Sha256)), SIGNING, DSA, "bits", InSessions;
        CKM_DSA_SHA384, Dsa(Some(Sha384)), SIGNING, DSA, "bits", InSessions;
        CKM_DSA_SHA512, Dsa(Some(Sha512)), SIGNING, DSA, "bits", InSessions;
        CKM_DH_PKCS_KEY_PAIR_GEN, DhKeyPair, CKF_GENERATE_KEY_PAIR, DH, "bits", InSessions;
        CKM_DH_PKCS_DERIVE, Dh, CKF_DERIVE, DH, "bits", InSessions;
    }
};

/// Those that the host gets: all, unless it is a server, whose clients would point into it with some.
pub(crate) fn offered() -> impl Iterator<Item = &'static Mechanism> {
    let served = is_served();
    MECHANISMS
        .iter()
        .filter(move |it| !served || it.method.is_for_servers())
}

impl Mechanism {
    /// Whether no key of the vault is used with it.
    pub(crate) fn is_legacy(&self) -> bool {
        self.runs == Runs::InSessions
    }

    pub(crate) fn info(&self) -> CK_MECHANISM_INFO {
        let hardware = match self.runs {
            Runs::WithTheKey | Runs::InTheTpm => CKF_HW,
            Runs::InMemory | Runs::InSessions => 0,
        };
        let curves = match self.method.key_type() {
            Some(CKK_EC) => CURVES,
            Some(CKK_EC_EDWARDS | CKK_EC_MONTGOMERY) => CURVES | CKF_EC_CURVENAME,
            _ => 0,
        };
        CK_MECHANISM_INFO {
            ulMinKeySize: self.sizes.0,
            ulMaxKeySize: self.sizes.1,
            flags: self.functions | hardware | curves,
        }
    }
}

impl Method {
    /// Whether a server can pass on its parameter: there is no pointer in it, or p11-kit 0.24 and 0.25 know
    /// it and carry along what it points to. 0.25 knows those of ECDH and GCM too. EdDSA needs none, and from
    /// a server gets none.
    fn is_for_servers(self) -> bool {
        match self {
            Self::RsaKeyPair
            | Self::EcKeyPair
            | Self::EdwardsKeyPair
            | Self::MontgomeryKeyPair
            | Self::SecretKey(_)
            | Self::Digest(_)
            | Self::RsaPkcs(_)
            | Self::RsaRaw
            | Self::RsaPss(_)
            | Self::RsaOaep
            | Self::Ecdsa(_)
            | Self::Eddsa
            | Self::AesEcb
            | Self::AesCbc { .. }
            | Self::AesCtr
            | Self::AesKeyWrap { .. }
            | Self::Cmac { .. }
            | Self::Hmac { .. }
            | Self::ConcatenateKey
            | Self::Extract
            | Self::AesMac { .. }
            | Self::Des3Ecb
            | Self::Des3Cbc { .. }
            | Self::DsaParameters
            | Self::DsaKeyPair
            | Self::Dsa(_)
            | Self::DhKeyPair
            | Self::Dh => true,
            Self::Ecdh
            | Self::AesGcm
            | Self::DeriveEcb
            | Self::DeriveCbc
            | Self::ConcatenateData { .. }
            | Self::Xor
            | Self::Kbkdf(_) => false,
        }
    }

    /// The type of the keys that it makes or uses; of several, the first.
    pub(crate) fn key_type(self) -> Option<CK_KEY_TYPE> {
        Some(match self {
            Self::RsaKeyPair
            | Self::RsaPkcs(_)
            | Self::RsaPss(_)
            | Self::RsaOaep
            | Self::RsaRaw => CKK_RSA,
            Self::EcKeyPair | Self::Ecdsa(_) | Self::Ecdh => CKK_EC,
            Self::EdwardsKeyPair | Self::Eddsa => CKK_EC_EDWARDS,
            Self::MontgomeryKeyPair => CKK_EC_MONTGOMERY,
            Self::SecretKey(kind) => kind,
            Self::AesEcb
            | Self::AesCbc { .. }
            | Self::AesCtr
            | Self::AesGcm
            | Self::AesKeyWrap { .. }
            | Self::Cmac { .. }
            | Self::AesMac { .. }
            | Self::DeriveEcb
            | Self::DeriveCbc => CKK_AES,
            Self::Hmac { .. }
            | Self::ConcatenateKey
            | Self::ConcatenateData { .. }
            | Self::Xor
            | Self::Extract
            | Self::Kbkdf(_) => CKK_GENERIC_SECRET,
            Self::Des3Ecb | Self::Des3Cbc { .. } => CKK_DES3,
            Self::DsaParameters | Self::DsaKeyPair | Self::Dsa(_) => CKK_DSA,
            Self::DhKeyPair | Self::Dh => CKK_DH,
            Self::Digest(_) => return None,
        })
    }

    /// Whether it uses keys of this type.
    pub(crate) fn takes(self, key_type: Option<CK_KEY_TYPE>) -> bool {
        match (self, key_type) {
            (Self::Hmac { hash, .. }, Some(kind)) => {
                kind == CKK_GENERIC_SECRET || hash_of_hmac_key(kind) == Some(hash)
            }
            // And of secret keys those of any type; a code takes its own.
            (Self::Ecdh, Some(CKK_EC_MONTGOMERY))
            | (Self::Des3Ecb | Self::Des3Cbc { .. }, Some(CKK_DES2))
            | (
                Self::ConcatenateKey
                | Self::ConcatenateData { .. }
                | Self::Xor
                | Self::Extract
                | Self::Kbkdf(_),
                Some(_),
            ) => true,
            _ => self.key_type() == key_type,
        }
    }

    /// The hash that is computed over the data before the key is used.
    pub(crate) fn hash(self) -> Option<Hash> {
        match self {
            Self::RsaPkcs(hash) | Self::RsaPss(hash) | Self::Ecdsa(hash) | Self::Dsa(hash) => hash,
            Self::Digest(hash) => Some(hash),
            _ => None,
        }
    }

    pub(crate) fn hash_of_code(self) -> Option<Hash> {
        match self {
            Self::Hmac { hash, .. } => Some(hash),
            _ => None,
        }
    }
}

/// The hash of which keys of a type are for the HMAC alone.
pub(crate) fn hash_of_hmac_key(kind: CK_KEY_TYPE) -> Option<Hash> {
    Some(match kind {
        CKK_SHA_1_HMAC => Hash::Sha1,
        CKK_SHA224_HMAC => Hash::Sha224,
        CKK_SHA256_HMAC => Hash::Sha256,
        CKK_SHA384_HMAC => Hash::Sha384,
        CKK_SHA512_HMAC => Hash::Sha512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table as `docs/pkcs11.md` shows it.
    fn documentation() -> String {
        let functions = [
            (CKF_GENERATE, "generate"),
            (CKF_GENERATE_KEY_PAIR, "generate pair"),
            (CKF_SIGN, "sign"),
            (CKF_VERIFY, "verify"),
            (CKF_SIGN_RECOVER, "sign and recover"),
            (CKF_VERIFY_RECOVER, "recover"),
            (CKF_ENCRYPT, "encrypt"),
            (CKF_DECRYPT, "decrypt"),
            (CKF_DERIVE, "derive"),
            (CKF_DIGEST, "digest"),
            (CKF_WRAP, "wrap"),
            (CKF_UNWRAP, "unwrap"),
            (CKF_MESSAGE_ENCRYPT, "encrypt messages"),
            (CKF_MESSAGE_DECRYPT, "decrypt messages"),
        ];
        let mut text = "| Mechanism | For | Keys | Runs |\n|---|---|---|---|\n".to_owned();
        for it in MECHANISMS {
            let named: Vec<_> = functions
                .iter()
                .filter(|(flag, _)| it.functions & flag != 0)
                .map(|(_, name)| *name)
                .collect();
            let (min, max) = it.sizes;
            let keys = match it.sizes {
                (_, 0) => String::new(),
                (min, max) if min == max => format!("{max} {}", it.unit),
                _ => format!("{min} to {max} {}", it.unit),
            };
            let runs = match it.runs {
                Runs::InTheTpm => "in the TPM if it can and the key is a token object",
                Runs::WithTheKey => "private keys: where they live; public keys: in memory",
                Runs::InMemory => "in memory",
                Runs::InSessions => "in memory, with session keys only",
            };
            let line = format!(
                "| `{}` | {} | {keys} | {runs} |\n",
                it.name,
                named.join(", ")
            );
            text.push_str(&line);
        }
        text
    }

    #[test]
    fn the_documentation_has_this_table() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/pkcs11.md");
        let page = std::fs::read_to_string(page).expect("the documentation");
        let table = documentation();
        assert!(
            page.contains(&table),
            "docs/pkcs11.md must have this table:\n{table}"
        );
    }
}
