//! What the tokens with keys can do: the one table of mechanisms (PKCS#11 3.1, section 5.5, and
//! chapter 6), and what a caller says with a mechanism.
//!
//! `docs/pkcs11.md` shows the table as a test here writes it, which compares the two.

use std::mem::size_of;

use cryptoki_sys::{
    CK_ECDH1_DERIVE_PARAMS, CK_FLAGS, CK_KEY_TYPE, CK_MECHANISM, CK_MECHANISM_INFO,
    CK_MECHANISM_TYPE, CK_RSA_PKCS_MGF_TYPE, CK_RSA_PKCS_OAEP_PARAMS, CK_RSA_PKCS_PSS_PARAMS,
    CK_RV, CK_SLOT_ID, CK_ULONG, CKD_NULL, CKF_DECRYPT, CKF_DERIVE, CKF_DIGEST, CKF_EC_F_P,
    CKF_EC_OID, CKF_EC_UNCOMPRESS, CKF_ENCRYPT, CKF_GENERATE, CKF_GENERATE_KEY_PAIR, CKF_HW,
    CKF_SIGN, CKF_VERIFY, CKG_MGF1_SHA1, CKG_MGF1_SHA256, CKG_MGF1_SHA384, CKG_MGF1_SHA512,
    CKK_AES, CKK_EC, CKK_GENERIC_SECRET, CKK_RSA, CKM_AES_KEY_GEN, CKM_EC_KEY_PAIR_GEN,
    CKM_ECDH1_DERIVE, CKM_ECDSA, CKM_ECDSA_SHA1, CKM_ECDSA_SHA256, CKM_ECDSA_SHA384,
    CKM_ECDSA_SHA512, CKM_GENERIC_SECRET_KEY_GEN, CKM_RSA_PKCS, CKM_RSA_PKCS_KEY_PAIR_GEN,
    CKM_RSA_PKCS_OAEP, CKM_RSA_PKCS_PSS, CKM_SHA_1, CKM_SHA1_RSA_PKCS, CKM_SHA1_RSA_PKCS_PSS,
    CKM_SHA256, CKM_SHA256_RSA_PKCS, CKM_SHA256_RSA_PKCS_PSS, CKM_SHA384, CKM_SHA384_RSA_PKCS,
    CKM_SHA384_RSA_PKCS_PSS, CKM_SHA512, CKM_SHA512_RSA_PKCS, CKM_SHA512_RSA_PKCS_PSS,
    CKR_ARGUMENTS_BAD, CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID, CKZ_DATA_SPECIFIED,
};

use crate::fault::{Answer, Fault, answer};
use crate::foreign::Foreign;
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
    /// Makes a secret key of this type.
    SecretKey(CK_KEY_TYPE),
    /// Digests.
    Digest(Hash),
    /// RSASSA-PKCS1-v1_5, of data or of what the caller has encoded; RSAES-PKCS1-v1_5.
    RsaPkcs(Option<Hash>),
    /// RSASSA-PSS, of data or of a digest.
    RsaPss(Option<Hash>),
    /// RSAES-OAEP.
    RsaOaep,
    /// ECDSA, of data or of a digest.
    Ecdsa(Option<Hash>),
    /// ECDH as in X9.63, without key derivation function.
    Ecdh,
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
}

const RSA: (CK_ULONG, CK_ULONG) = (2048, 4096);
const EC: (CK_ULONG, CK_ULONG) = (256, 384);
const SIGNING: CK_FLAGS = CKF_SIGN | CKF_VERIFY;
const CRYPTING: CK_FLAGS = CKF_ENCRYPT | CKF_DECRYPT;
/// What there is to say of curves: prime fields, by their OID, points written in full.
const CURVES: CK_FLAGS = CKF_EC_F_P | CKF_EC_OID | CKF_EC_UNCOMPRESS;

/// Every mechanism that there is, and none that does not work.
pub(crate) static MECHANISMS: &[Mechanism] = {
    use Hash::{Sha1, Sha256, Sha384, Sha512};
    use Method::{Digest, EcKeyPair, Ecdh, Ecdsa, RsaKeyPair, RsaOaep, RsaPkcs, RsaPss, SecretKey};
    use Runs::{InMemory, InTheTpm, WithTheKey};
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
        CKM_RSA_PKCS_KEY_PAIR_GEN, RsaKeyPair, CKF_GENERATE_KEY_PAIR, RSA, "bits", InTheTpm;
        CKM_RSA_PKCS, RsaPkcs(None), SIGNING | CRYPTING, RSA, "bits", WithTheKey;
        CKM_SHA1_RSA_PKCS, RsaPkcs(Some(Sha1)), SIGNING, RSA, "bits", WithTheKey;
        CKM_SHA256_RSA_PKCS, RsaPkcs(Some(Sha256)), SIGNING, RSA, "bits", WithTheKey;
        CKM_SHA384_RSA_PKCS, RsaPkcs(Some(Sha384)), SIGNING, RSA, "bits", WithTheKey;
        CKM_SHA512_RSA_PKCS, RsaPkcs(Some(Sha512)), SIGNING, RSA, "bits", WithTheKey;
        CKM_RSA_PKCS_PSS, RsaPss(None), SIGNING, RSA, "bits", WithTheKey;
        CKM_SHA1_RSA_PKCS_PSS, RsaPss(Some(Sha1)), SIGNING, RSA, "bits", WithTheKey;
        CKM_SHA256_RSA_PKCS_PSS, RsaPss(Some(Sha256)), SIGNING, RSA, "bits", WithTheKey;
        CKM_SHA384_RSA_PKCS_PSS, RsaPss(Some(Sha384)), SIGNING, RSA, "bits", WithTheKey;
        CKM_SHA512_RSA_PKCS_PSS, RsaPss(Some(Sha512)), SIGNING, RSA, "bits", WithTheKey;
        CKM_RSA_PKCS_OAEP, RsaOaep, CRYPTING, RSA, "bits", WithTheKey;
        CKM_EC_KEY_PAIR_GEN, EcKeyPair, CKF_GENERATE_KEY_PAIR, EC, "bits", InTheTpm;
        CKM_ECDSA, Ecdsa(None), SIGNING, EC, "bits", WithTheKey;
        CKM_ECDSA_SHA1, Ecdsa(Some(Sha1)), SIGNING, EC, "bits", WithTheKey;
        CKM_ECDSA_SHA256, Ecdsa(Some(Sha256)), SIGNING, EC, "bits", WithTheKey;
        CKM_ECDSA_SHA384, Ecdsa(Some(Sha384)), SIGNING, EC, "bits", WithTheKey;
        CKM_ECDSA_SHA512, Ecdsa(Some(Sha512)), SIGNING, EC, "bits", WithTheKey;
        CKM_ECDH1_DERIVE, Ecdh, CKF_DERIVE, EC, "bits", WithTheKey;
        CKM_GENERIC_SECRET_KEY_GEN, SecretKey(CKK_GENERIC_SECRET), CKF_GENERATE, (8, 4096), "bits", InMemory;
        CKM_AES_KEY_GEN, SecretKey(CKK_AES), CKF_GENERATE, (16, 32), "bytes", InMemory;
        CKM_SHA_1, Digest(Sha1), CKF_DIGEST, (0, 0), "", InMemory;
        CKM_SHA256, Digest(Sha256), CKF_DIGEST, (0, 0), "", InMemory;
        CKM_SHA384, Digest(Sha384), CKF_DIGEST, (0, 0), "", InMemory;
        CKM_SHA512, Digest(Sha512), CKF_DIGEST, (0, 0), "", InMemory;
    }
};

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
            let kinds: Vec<_> = if module.token(slot)?.has_mechanisms {
                MECHANISMS.iter().map(|mechanism| mechanism.kind).collect()
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
            let has_any = module.token(slot)?.has_mechanisms;
            let mechanism = MECHANISMS
                .iter()
                .find(|mechanism| mechanism.kind == kind && has_any)
                .ok_or(Fault::Code(CKR_MECHANISM_INVALID))?;
            info.set(0, mechanism.info());
            Ok(())
        })
    })
}

impl Mechanism {
    fn info(&self) -> CK_MECHANISM_INFO {
        let hardware = match self.runs {
            Runs::WithTheKey | Runs::InTheTpm => CKF_HW,
            Runs::InMemory => 0,
        };
        let curves = match self.method.key_type() {
            Some(CKK_EC) => CURVES,
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
    /// The type of the keys that it uses.
    pub(crate) fn key_type(self) -> Option<CK_KEY_TYPE> {
        match self {
            Self::RsaKeyPair | Self::RsaPkcs(_) | Self::RsaPss(_) | Self::RsaOaep => Some(CKK_RSA),
            Self::EcKeyPair | Self::Ecdsa(_) | Self::Ecdh => Some(CKK_EC),
            Self::SecretKey(kind) => Some(kind),
            Self::Digest(_) => None,
        }
    }

    /// The hash that is computed over the data before the key is used.
    pub(crate) fn hash(self) -> Option<Hash> {
        match self {
            Self::RsaPkcs(hash) | Self::RsaPss(hash) | Self::Ecdsa(hash) => hash,
            Self::Digest(hash) => Some(hash),
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
        salt_len: usize,
    },
    Oaep {
        hash: Hash,
        mgf: Hash,
        label: Vec<u8>,
    },
    /// The other party's public key.
    Ecdh(Vec<u8>),
}

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
        let mechanism = MECHANISMS
            .iter()
            .find(|it| it.kind == given.mechanism && it.functions & function != 0)
            .ok_or(Fault::Code(CKR_MECHANISM_INVALID))?;
        // SAFETY: the caller vouches for the parameter.
        let parameter = unsafe { Parameter::read(mechanism.method, &given) }?;
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
                // With two hashes no TPM signs, and nobody is known to.
                if fixed.is_some_and(|it| it != hash) || mgf_of(given.mgf) != Some(hash) {
                    return Err(invalid());
                }
                let salt_len = usize::try_from(given.sLen).map_err(|_| invalid())?;
                Ok(Self::Pss { hash, salt_len })
            }
            Method::RsaOaep => {
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
                let label = unsafe {
                    Foreign::many(given.pSourceData.cast::<u8>(), given.ulSourceDataLen)
                }?;
                let label = label.bytes(MAX_PARAMETER).ok_or_else(invalid)?;
                Ok(Self::Oaep { hash, mgf, label })
            }
            Method::Ecdh => {
                // SAFETY: the caller vouches for it.
                let given = unsafe { structure::<CK_ECDH1_DERIVE_PARAMS>(given) }?;
                if given.kdf != CKD_NULL || given.ulSharedDataLen != 0 {
                    return Err(invalid());
                }
                // SAFETY: the caller vouches for it.
                let point = unsafe { Foreign::many(given.pPublicData, given.ulPublicDataLen) }?;
                let point = point.bytes(MAX_PARAMETER).ok_or_else(invalid)?;
                Ok(Self::Ecdh(point))
            }
            _ if given.ulParameterLen != 0 => Err(invalid()),
            _ => Ok(Self::Nothing),
        }
    }
}

/// The longest label or point, in bytes.
const MAX_PARAMETER: usize = 1 << 16;

/// # Safety
/// The mechanism's parameter is the caller's, of the length that it says.
unsafe fn structure<T: Copy>(given: &CK_MECHANISM) -> Answer<T> {
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
        CKG_MGF1_SHA256 => Hash::Sha256,
        CKG_MGF1_SHA384 => Hash::Sha384,
        CKG_MGF1_SHA512 => Hash::Sha512,
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
            (CKF_ENCRYPT, "encrypt"),
            (CKF_DECRYPT, "decrypt"),
            (CKF_DERIVE, "derive"),
            (CKF_DIGEST, "digest"),
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
                _ => format!("{min} to {max} {}", it.unit),
            };
            let runs = match it.runs {
                Runs::InTheTpm => "in the TPM if it can and the key is a token object",
                Runs::WithTheKey => "private keys: where they live; public keys: in memory",
                Runs::InMemory => "in memory",
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
