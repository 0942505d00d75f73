//! What the tokens with keys can do: the one table of mechanisms (PKCS#11 3.1, section 5.5, and
//! chapter 6), and what a caller says with a mechanism.
//!
//! `docs/pkcs11.md` shows the table as a test here writes it, which compares the two.

use std::ffi::c_void;
use std::mem::size_of;

use cryptoki_sys::{
    CK_AES_CBC_ENCRYPT_DATA_PARAMS, CK_AES_CTR_PARAMS, CK_EC_KDF_TYPE, CK_ECDH1_DERIVE_PARAMS,
    CK_EDDSA_PARAMS, CK_EXTRACT_PARAMS, CK_FALSE, CK_FLAGS, CK_GCM_PARAMS,
    CK_KEY_DERIVATION_STRING_DATA, CK_KEY_TYPE, CK_MAC_GENERAL_PARAMS, CK_MECHANISM,
    CK_MECHANISM_INFO, CK_MECHANISM_TYPE, CK_OBJECT_HANDLE, CK_RSA_PKCS_MGF_TYPE,
    CK_RSA_PKCS_OAEP_PARAMS, CK_RSA_PKCS_PSS_PARAMS, CK_RV, CK_SLOT_ID, CK_ULONG, CKD_NULL,
    CKD_SHA1_KDF, CKD_SHA1_KDF_SP800, CKD_SHA224_KDF, CKD_SHA224_KDF_SP800, CKD_SHA256_KDF,
    CKD_SHA256_KDF_SP800, CKD_SHA384_KDF, CKD_SHA384_KDF_SP800, CKD_SHA512_KDF,
    CKD_SHA512_KDF_SP800, CKF_DECRYPT, CKF_DERIVE, CKF_DIGEST, CKF_EC_CURVENAME, CKF_EC_F_P,
    CKF_EC_OID, CKF_EC_UNCOMPRESS, CKF_ENCRYPT, CKF_GENERATE, CKF_GENERATE_KEY_PAIR, CKF_HW,
    CKF_MESSAGE_DECRYPT, CKF_MESSAGE_ENCRYPT, CKF_MULTI_MESSAGE, CKF_SIGN, CKF_SIGN_RECOVER,
    CKF_UNWRAP, CKF_VERIFY, CKF_VERIFY_RECOVER, CKF_WRAP, CKG_MGF1_SHA1, CKG_MGF1_SHA224,
    CKG_MGF1_SHA256, CKG_MGF1_SHA384, CKG_MGF1_SHA512, CKK_AES, CKK_DES2, CKK_DES3, CKK_DH,
    CKK_DSA, CKK_EC, CKK_EC_EDWARDS, CKK_EC_MONTGOMERY, CKK_GENERIC_SECRET, CKK_RSA,
    CKK_SHA_1_HMAC, CKK_SHA224_HMAC, CKK_SHA256_HMAC, CKK_SHA384_HMAC, CKK_SHA512_HMAC,
    CKM_AES_CBC, CKM_AES_CBC_ENCRYPT_DATA, CKM_AES_CBC_PAD, CKM_AES_CMAC, CKM_AES_CMAC_GENERAL,
    CKM_AES_CTR, CKM_AES_ECB, CKM_AES_ECB_ENCRYPT_DATA, CKM_AES_GCM, CKM_AES_KEY_GEN,
    CKM_AES_KEY_WRAP, CKM_AES_KEY_WRAP_KWP, CKM_AES_MAC, CKM_AES_MAC_GENERAL,
    CKM_CONCATENATE_BASE_AND_DATA, CKM_CONCATENATE_BASE_AND_KEY, CKM_CONCATENATE_DATA_AND_BASE,
    CKM_DES2_KEY_GEN, CKM_DES3_CBC, CKM_DES3_CBC_PAD, CKM_DES3_ECB, CKM_DES3_KEY_GEN,
    CKM_DH_PKCS_DERIVE, CKM_DH_PKCS_KEY_PAIR_GEN, CKM_DSA, CKM_DSA_KEY_PAIR_GEN,
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
    CKM_XOR_BASE_AND_DATA, CKR_ARGUMENTS_BAD, CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID,
    CKZ_DATA_SPECIFIED,
};

use crate::fault::{Answer, Fault, answer};
use crate::foreign::Foreign;
use crate::kbkdf;
use crate::served::is_served;
use crate::slots::give_list;
use crate::state::with_module;
use strongroom::key::Hash;

/// A mechanism of the tokens with keys.
pub(crate) struct Mechanism {
    pub(crate) kind: CK_MECHANISM_TYPE,
    #[cfg_attr(not(test), expect(dead_code, reason = "the documentation's"))]
    name: &'static str,
    pub(crate) method: Method,
    /// The functions that take it.
    functions: CK_FLAGS,
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
const MESSAGES: CK_FLAGS = CKF_MESSAGE_ENCRYPT | CKF_MESSAGE_DECRYPT | CKF_MULTI_MESSAGE;
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

/// C_GetMechanismList, section 5.5.5. Tokens that are there to be read have no mechanisms.
pub(crate) unsafe extern "C" fn get_mechanism_list(
    slot: CK_SLOT_ID,
    list: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    answer("C_GetMechanismList", || {
        // SAFETY: the caller's CK_ULONG.
        let count = unsafe { Foreign::one(count) }?;
        with_module(|module| {
            let kinds: Vec<_> = if module.has_mechanisms(slot)? {
                offered().map(|mechanism| mechanism.kind).collect()
            } else {
                Vec::new()
            };
            // SAFETY: the caller's list, as long as the caller says.
            unsafe { give_list(&kinds, list, &count) }
        })
    })
}

/// C_GetMechanismInfo, section 5.5.6.
pub(crate) unsafe extern "C" fn get_mechanism_info(
    slot: CK_SLOT_ID,
    kind: CK_MECHANISM_TYPE,
    info: *mut CK_MECHANISM_INFO,
) -> CK_RV {
    answer("C_GetMechanismInfo", || {
        // SAFETY: the caller's CK_MECHANISM_INFO.
        let info = unsafe { Foreign::one(info) }?;
        with_module(|module| {
            let has_any = module.has_mechanisms(slot)?;
            let mechanism = offered()
                .find(|mechanism| mechanism.kind == kind && has_any)
                .ok_or(Fault::Code(CKR_MECHANISM_INVALID))?;
            info.set(0, mechanism.info());
            Ok(())
        })
    })
}

impl Mechanism {
    /// Whether no key of the vault is used with it.
    pub(crate) fn is_legacy(&self) -> bool {
        self.runs == Runs::InSessions
    }

    fn info(&self) -> CK_MECHANISM_INFO {
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

    fn hash_of_code(self) -> Option<Hash> {
        match self {
            Self::Hmac { hash, .. } => Some(hash),
            _ => None,
        }
    }
}

/// A mechanism as a caller has chosen it.
pub(crate) struct Chosen {
    pub(crate) mechanism: &'static Mechanism,
    pub(crate) parameter: Parameter,
}

/// What is said with a mechanism.
pub(crate) enum Parameter {
    Nothing,
    Pss {
        hash: Hash,
        mgf: Hash,
        salt_len: usize,
    },
    Oaep {
        hash: Hash,
        mgf: Hash,
        label: Vec<u8>,
    },
    Ecdh {
        /// The other party's public key.
        point: Vec<u8>,
        /// What is made of what both come to.
        kdf: Option<Kdf>,
    },
    /// What the chaining begins with.
    Iv([u8; 16]),
    /// The same for shorter blocks.
    ShortIv([u8; 8]),
    /// The other party's public value.
    Peer(Vec<u8>),
    /// What is counted, in so many bits at the end.
    Counter {
        block: [u8; 16],
        bits: u32,
    },
    Gcm {
        iv: Vec<u8>,
        aad: Vec<u8>,
        tag_len: usize,
    },
    /// The length of a code.
    Len(usize),
    /// Of Ed25519: that, or, with a context, Ed25519ctx; prehashed, with one or without, Ed25519ph. Of
    /// Ed448: that or, prehashed, Ed448ph, with a context or without.
    Eddsa {
        prehashed: bool,
        context: Vec<u8>,
    },
    /// What is encrypted to be a key, and what the chaining begins with.
    Data {
        iv: [u8; 16],
        data: Vec<u8>,
    },
    /// Another key.
    Key(CK_OBJECT_HANDLE),
    /// What goes with a key.
    Bytes(Vec<u8>),
    /// The bit of a key where another one begins.
    Bit(usize),
    Kbkdf(Box<kbkdf::Parameters>),
}

/// A key derivation function that goes with Diffie-Hellman: a hash over what was agreed on, a counter and
/// some more.
pub(crate) struct Kdf {
    pub(crate) hash: Hash,
    /// Whether the counter comes first, as in NIST SP 800-56A; else it is X9.63's.
    pub(crate) counter_first: bool,
    pub(crate) shared: Vec<u8>,
}

/// The length of a block of AES, and of a tag.
const BLOCK: usize = 16;

impl Chosen {
    /// What the caller chose for a function; nothing if the pointer is null, which since version
    /// 3.0 ends an operation.
    ///
    /// # Safety
    /// `mechanism` is null or the caller's CK_MECHANISM, with a parameter of the length that it
    /// says.
    pub(crate) unsafe fn read(
        mechanism: *mut CK_MECHANISM,
        function: CK_FLAGS,
    ) -> Answer<Option<Self>> {
        if mechanism.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller's CK_MECHANISM.
        let given = unsafe { Foreign::one(mechanism) }?.get(0);
        // GnuTLS, up to 3.8 at least, has its pairs of Ed25519 generated by the name of the signature.
        let kind = match (given.mechanism, function) {
            (CKM_EDDSA, CKF_GENERATE_KEY_PAIR) => CKM_EC_EDWARDS_KEY_PAIR_GEN,
            (kind, _) => kind,
        };
        let mechanism = offered()
            .find(|it| it.kind == kind && it.functions & function != 0)
            .ok_or(Fault::Code(CKR_MECHANISM_INVALID))?;
        // Each message has its own, and what is given before is not looked at.
        let parameter = if function & MESSAGES != 0 {
            Parameter::Nothing
        } else {
            // SAFETY: the caller vouches for the parameter.
            unsafe { Parameter::read(mechanism.method, &given) }?
        };
        Ok(Some(Self {
            mechanism,
            parameter,
        }))
    }

    /// The same where there must be a mechanism.
    ///
    /// # Safety
    /// As [`Chosen::read`].
    pub(crate) unsafe fn required(
        mechanism: *mut CK_MECHANISM,
        function: CK_FLAGS,
    ) -> Answer<Self> {
        // SAFETY: the caller vouches for it.
        unsafe { Self::read(mechanism, function) }?.ok_or(Fault::Code(CKR_ARGUMENTS_BAD))
    }

    pub(crate) fn method(&self) -> Method {
        self.mechanism.method
    }
}

impl Parameter {
    /// # Safety
    /// The mechanism's parameter is the caller's, of the length that it says, and so is what the
    /// parameter points to.
    unsafe fn read(method: Method, given: &CK_MECHANISM) -> Answer<Self> {
        let invalid = || Fault::Code(CKR_MECHANISM_PARAM_INVALID);
        match method {
            Method::RsaPss(fixed) => {
                // SAFETY: the caller vouches for it.
                let given = unsafe { structure::<CK_RSA_PKCS_PSS_PARAMS>(given) }?;
                let hash = hash_of(given.hashAlg).ok_or_else(invalid)?;
                let mgf = mgf_of(given.mgf).ok_or_else(invalid)?;
                if fixed.is_some_and(|it| it != hash) {
                    return Err(invalid());
                }
                let salt_len = usize::try_from(given.sLen).map_err(|_| invalid())?;
                Ok(Self::Pss {
                    hash,
                    mgf,
                    salt_len,
                })
            }
            // SAFETY: the caller vouches for it.
            Method::RsaOaep => unsafe { Self::read_oaep(given) },
            // SAFETY: the caller vouches for it.
            Method::Ecdh => unsafe { Self::read_ecdh(given) },
            Method::AesCbc { .. } => {
                // SAFETY: the caller vouches for it.
                let iv = unsafe { bytes_of(given) }?;
                let iv = iv.try_into().map_err(|_| invalid())?;
                Ok(Self::Iv(iv))
            }
            Method::Des3Cbc { .. } => {
                // SAFETY: the caller vouches for it.
                let iv = unsafe { bytes_of(given) }?;
                let iv = iv.try_into().map_err(|_| invalid())?;
                Ok(Self::ShortIv(iv))
            }
            // SAFETY: the caller vouches for it.
            Method::Dh => Ok(Self::Peer(unsafe { bytes_of(given) }?)),
            Method::AesCtr => {
                // SAFETY: the caller vouches for it.
                let given = unsafe { structure::<CK_AES_CTR_PARAMS>(given) }?;
                let bits = u32::try_from(given.ulCounterBits)
                    .ok()
                    .filter(|bits| (1..=128).contains(bits))
                    .ok_or_else(invalid)?;
                Ok(Self::Counter {
                    block: given.cb,
                    bits,
                })
            }
            // SAFETY: the caller vouches for it.
            Method::AesGcm => unsafe { Self::read_gcm(given) },
            Method::Cmac { cut: true }
            | Method::AesMac { cut: true }
            | Method::Hmac { cut: true, .. } => {
                // SAFETY: the caller vouches for it.
                let len = unsafe { structure::<CK_MAC_GENERAL_PARAMS>(given) }?;
                let most = method.hash_of_code().map_or(BLOCK, Hash::digest_len);
                let len = usize::try_from(len)
                    .ok()
                    .filter(|len| (1..=most).contains(len))
                    .ok_or_else(invalid)?;
                Ok(Self::Len(len))
            }
            // SAFETY: the caller vouches for it.
            Method::Eddsa => unsafe { Self::read_eddsa(given) },
            Method::DeriveEcb => {
                // SAFETY: the caller vouches for it.
                let data = unsafe { string_of(given) }?;
                let iv = [0; BLOCK];
                Ok(Self::Data { iv, data })
            }
            Method::DeriveCbc => {
                // SAFETY: the caller vouches for it.
                let given = unsafe { structure::<CK_AES_CBC_ENCRYPT_DATA_PARAMS>(given) }?;
                // SAFETY: the caller vouches for it.
                let data =
                    unsafe { bytes_of_pointer(given.pData.cast(), given.length, MAX_PARAMETER) }?;
                let iv = given.iv;
                Ok(Self::Data { iv, data })
            }
            Method::ConcatenateKey => {
                // SAFETY: the caller vouches for it.
                let handle = unsafe { structure::<CK_OBJECT_HANDLE>(given) }?;
                Ok(Self::Key(handle))
            }
            Method::ConcatenateData { .. } | Method::Xor => {
                // SAFETY: the caller vouches for it.
                Ok(Self::Bytes(unsafe { string_of(given) }?))
            }
            Method::Extract => {
                // SAFETY: the caller vouches for it.
                let bit = unsafe { structure::<CK_EXTRACT_PARAMS>(given) }?;
                Ok(Self::Bit(usize::try_from(bit).map_err(|_| invalid())?))
            }
            Method::Kbkdf(iteration) => {
                // SAFETY: the caller vouches for it.
                let read = unsafe { kbkdf::Parameters::read(iteration, given) }?;
                Ok(Self::Kbkdf(Box::new(read)))
            }
            _ if given.ulParameterLen != 0 => Err(invalid()),
            _ => Ok(Self::Nothing),
        }
    }

    /// # Safety
    /// As [`Parameter::read`].
    unsafe fn read_oaep(given: &CK_MECHANISM) -> Answer<Self> {
        let invalid = || Fault::Code(CKR_MECHANISM_PARAM_INVALID);
        // SAFETY: the caller vouches for it.
        let given = unsafe { structure::<CK_RSA_PKCS_OAEP_PARAMS>(given) }?;
        let hash = hash_of(given.hashAlg).ok_or_else(invalid)?;
        let mgf = mgf_of(given.mgf).ok_or_else(invalid)?;
        // Without a label, clients leave the source out.
        let empty = given.ulSourceDataLen == 0;
        if given.source != CKZ_DATA_SPECIFIED && !(given.source == 0 && empty) {
            return Err(invalid());
        }
        // SAFETY: the caller vouches for it.
        let label =
            unsafe { bytes_of_pointer(given.pSourceData, given.ulSourceDataLen, MAX_PARAMETER) }?;
        Ok(Self::Oaep { hash, mgf, label })
    }

    /// # Safety
    /// As [`Parameter::read`].
    unsafe fn read_ecdh(given: &CK_MECHANISM) -> Answer<Self> {
        let invalid = || Fault::Code(CKR_MECHANISM_PARAM_INVALID);
        // SAFETY: the caller vouches for it.
        let given = unsafe { structure::<CK_ECDH1_DERIVE_PARAMS>(given) }?;
        // SAFETY: the caller vouches for both.
        let (point, shared) = unsafe {
            (
                bytes_of_pointer(
                    given.pPublicData.cast(),
                    given.ulPublicDataLen,
                    MAX_PARAMETER,
                )?,
                bytes_of_pointer(
                    given.pSharedData.cast(),
                    given.ulSharedDataLen,
                    MAX_PARAMETER,
                )?,
            )
        };
        let kdf = match (given.kdf, shared.is_empty()) {
            (CKD_NULL, true) => None,
            // Section 6.3.20: without a function there is nothing to share.
            (CKD_NULL, false) => return Err(invalid()),
            (kdf, _) => {
                let (hash, counter_first) = kdf_of(kdf).ok_or_else(invalid)?;
                Some(Kdf {
                    hash,
                    counter_first,
                    shared,
                })
            }
        };
        Ok(Self::Ecdh { point, kdf })
    }

    /// # Safety
    /// As [`Parameter::read`].
    unsafe fn read_eddsa(given: &CK_MECHANISM) -> Answer<Self> {
        if given.ulParameterLen == 0 {
            return Ok(Self::Eddsa {
                prehashed: false,
                context: Vec::new(),
            });
        }
        if is_served() {
            return Err(Fault::Code(CKR_MECHANISM_PARAM_INVALID));
        }
        // SAFETY: the caller vouches for it.
        let given = unsafe { structure::<CK_EDDSA_PARAMS>(given) }?;
        // SAFETY: the caller vouches for it; 255 bytes at most, RFC 8032, section 5.1.
        let context =
            unsafe { bytes_of_pointer(given.pContextData.cast(), given.ulContextDataLen, 255) }?;
        Ok(Self::Eddsa {
            prehashed: given.phFlag != CK_FALSE,
            context,
        })
    }

    /// # Safety
    /// As [`Parameter::read`].
    unsafe fn read_gcm(given: &CK_MECHANISM) -> Answer<Self> {
        // SAFETY: the caller vouches for it.
        let given = unsafe { structure::<CK_GCM_PARAMS>(given) }?;
        // SAFETY: the caller vouches for both.
        let (iv, aad) = unsafe {
            (
                // Section 6.13.3: 256 bytes at most.
                bytes_of_pointer(given.pIv.cast(), given.ulIvLen, 256)?,
                bytes_of_pointer(given.pAAD.cast(), given.ulAADLen, MAX_AAD)?,
            )
        };
        if iv.is_empty() {
            return Err(Fault::Code(CKR_MECHANISM_PARAM_INVALID));
        }
        let tag_len = tag_len(given.ulTagBits)?;
        Ok(Self::Gcm { iv, aad, tag_len })
    }
}

/// The length of a tag of GCM, which is given in bits: those that NIST SP 800-38D, section 5.2.1.2, has.
pub(crate) fn tag_len(bits: CK_ULONG) -> Answer<usize> {
    usize::try_from(bits)
        .ok()
        .filter(|bits| [32, 64, 96, 104, 112, 120, 128].contains(bits))
        .map(|bits| bits / 8)
        .ok_or(Fault::Code(CKR_MECHANISM_PARAM_INVALID))
}

/// The longest additional data, in bytes.
pub(crate) const MAX_AAD: usize = 1 << 24;

/// A parameter that is nothing but bytes.
///
/// # Safety
/// The mechanism's parameter is the caller's, of the length that it says.
unsafe fn bytes_of(given: &CK_MECHANISM) -> Answer<Vec<u8>> {
    // SAFETY: the caller vouches for it.
    unsafe { bytes_of_pointer(given.pParameter, given.ulParameterLen, MAX_PARAMETER) }
}

/// The data that goes with a key.
///
/// # Safety
/// As [`Parameter::read`].
unsafe fn string_of(given: &CK_MECHANISM) -> Answer<Vec<u8>> {
    // SAFETY: the caller vouches for both.
    unsafe {
        let given = structure::<CK_KEY_DERIVATION_STRING_DATA>(given)?;
        bytes_of_pointer(given.pData.cast(), given.ulLen, MAX_PARAMETER)
    }
}

/// The same of what a parameter points to.
///
/// # Safety
/// `start` is null or the caller's memory of `len` bytes.
pub(crate) unsafe fn bytes_of_pointer(
    start: *mut c_void,
    len: CK_ULONG,
    limit: usize,
) -> Answer<Vec<u8>> {
    let invalid = || Fault::Code(CKR_MECHANISM_PARAM_INVALID);
    // SAFETY: the caller vouches for it.
    unsafe { Foreign::many(start.cast::<u8>(), len) }
        .map_err(|_| invalid())?
        .bytes(limit)
        .ok_or_else(invalid)
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

/// The longest label or point, in bytes.
pub(crate) const MAX_PARAMETER: usize = 1 << 16;

/// # Safety
/// The mechanism's parameter is the caller's, of the length that it says.
pub(crate) unsafe fn structure<T: Copy>(given: &CK_MECHANISM) -> Answer<T> {
    let right_len = usize::try_from(given.ulParameterLen) == Ok(size_of::<T>());
    if given.pParameter.is_null() || !right_len {
        return Err(Fault::Code(CKR_MECHANISM_PARAM_INVALID));
    }
    // SAFETY: the caller vouches for as many bytes as a T has.
    Ok(unsafe { Foreign::one(given.pParameter.cast::<T>()) }?.get(0))
}

fn hash_of(kind: CK_MECHANISM_TYPE) -> Option<Hash> {
    MECHANISMS
        .iter()
        .find(|it| it.kind == kind)
        .and_then(|it| match it.method {
            Method::Digest(hash) => Some(hash),
            _ => None,
        })
}

fn mgf_of(kind: CK_RSA_PKCS_MGF_TYPE) -> Option<Hash> {
    Some(match kind {
        CKG_MGF1_SHA1 => Hash::Sha1,
        CKG_MGF1_SHA224 => Hash::Sha224,
        CKG_MGF1_SHA256 => Hash::Sha256,
        CKG_MGF1_SHA384 => Hash::Sha384,
        CKG_MGF1_SHA512 => Hash::Sha512,
        _ => return None,
    })
}

/// The hash of a key derivation function, and whether its counter comes first (section 6.3.17).
fn kdf_of(kdf: CK_EC_KDF_TYPE) -> Option<(Hash, bool)> {
    Some(match kdf {
        CKD_SHA1_KDF => (Hash::Sha1, false),
        CKD_SHA224_KDF => (Hash::Sha224, false),
        CKD_SHA256_KDF => (Hash::Sha256, false),
        CKD_SHA384_KDF => (Hash::Sha384, false),
        CKD_SHA512_KDF => (Hash::Sha512, false),
        CKD_SHA1_KDF_SP800 => (Hash::Sha1, true),
        CKD_SHA224_KDF_SP800 => (Hash::Sha224, true),
        CKD_SHA256_KDF_SP800 => (Hash::Sha256, true),
        CKD_SHA384_KDF_SP800 => (Hash::Sha384, true),
        CKD_SHA512_KDF_SP800 => (Hash::Sha512, true),
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
