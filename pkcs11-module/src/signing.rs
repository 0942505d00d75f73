//! Signing and verifying (PKCS#11 3.1, sections 5.13 and 5.15). Private keys are used where they
//! live, public ones in memory.

use cryptoki_sys::{
    CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CKA_ALWAYS_AUTHENTICATE,
    CKA_SIGN, CKA_VERIFY, CKF_SIGN, CKF_VERIFY, CKR_DATA_LEN_RANGE, CKR_KEY_TYPE_INCONSISTENT,
    CKR_MECHANISM_PARAM_INVALID, CKR_OPERATION_ACTIVE, CKR_OPERATION_NOT_INITIALIZED,
};
use strongroom::key::{PublicKey, SignScheme};

use crate::attributes::{Class, Object};
use crate::digesting::{Hasher, take};
use crate::fault::{Answer, Fault, answer};
use crate::foreign::{Foreign, Output, Room};
use crate::mechanisms::{Chosen, Method, Parameter};
use crate::public_key::{signature_len, verify as verify_signature};
use crate::state::{Module, with_module};

/// A signature that is being made or verified.
pub(crate) struct Signing {
    key: Object,
    public: PublicKey,
    scheme: SignScheme,
    input: Input,
    in_parts: bool,
}

/// What is to be signed, as far as it has come.
enum Input {
    Hashed(Box<Hasher>),
    /// As the caller gives it, up to the longest that can be right.
    Plain {
        bytes: Vec<u8>,
        limit: usize,
    },
}

impl Signing {
    fn new(key: Object, chosen: &Chosen) -> Answer<Self> {
        let public = key
            .public_key()
            .ok_or(Fault::Code(CKR_KEY_TYPE_INCONSISTENT))?;
        let len = signature_len(&public);
        let (scheme, limit) = match (chosen.method(), &chosen.parameter) {
            (Method::RsaPkcs(hash), _) => (SignScheme::RsaPkcs1 { hash }, len - 11),
            (Method::RsaPss(_), Parameter::Pss { hash, salt_len }) => {
                let hash = *hash;
                // RFC 8017, section 9.1.1, step 3.
                let most = len.checked_sub(hash.digest_len() + 2);
                if most.is_none_or(|most| *salt_len > most) {
                    return Err(Fault::Code(CKR_MECHANISM_PARAM_INVALID));
                }
                let scheme = SignScheme::RsaPss {
                    hash,
                    mgf: hash,
                    salt_len: *salt_len,
                };
                (scheme, hash.digest_len())
            }
            // A longer digest than any hash's is a mistake.
            _ => (SignScheme::Ecdsa, 64),
        };
        let input = match chosen.method().hash() {
            Some(hash) => Input::Hashed(Box::new(Hasher::new(hash))),
            None => Input::Plain {
                bytes: Vec::new(),
                limit,
            },
        };
        Ok(Self {
            key,
            public,
            scheme,
            input,
            in_parts: false,
        })
    }

    fn update(&mut self, data: &Foreign<u8>) -> Answer {
        match &mut self.input {
            Input::Hashed(hasher) => data.pieces(|piece| hasher.update(piece)),
            Input::Plain { bytes, limit } => {
                let more = data
                    .bytes(*limit - bytes.len())
                    .ok_or(Fault::Code(CKR_DATA_LEN_RANGE))?;
                bytes.extend_from_slice(&more);
            }
        }
        Ok(())
    }

    /// The digest, or what the caller has encoded.
    fn finish(self) -> Answer<(Object, PublicKey, SignScheme, Vec<u8>)> {
        let input = match self.input {
            Input::Hashed(hasher) => hasher.finish(),
            Input::Plain { bytes, .. } => bytes,
        };
        let right = match &self.scheme {
            SignScheme::RsaPkcs1 { .. } => true,
            SignScheme::RsaPss { hash, .. } => input.len() == hash.digest_len(),
            SignScheme::Ecdsa => !input.is_empty(),
        };
        if !right {
            return Err(Fault::Code(CKR_DATA_LEN_RANGE));
        }
        Ok((self.key, self.public, self.scheme, input))
    }

    fn sign(self, module: &mut Module, session: CK_SESSION_HANDLE, output: &Output) -> Answer {
        let (key, _, scheme, input) = self.finish()?;
        module.check_authenticated(session, &key)?;
        output.give(&module.sign(&key, &scheme, &input)?)
    }

    /// Whether a login must come before each signature.
    pub(crate) fn asks(&self) -> bool {
        self.key.has(CKA_ALWAYS_AUTHENTICATE)
    }

    fn verify(self, signature: &Foreign<u8>) -> Answer {
        let (_, public, scheme, input) = self.finish()?;
        // One that is too long is told from one that is wrong by its length alone.
        let signature = signature.bytes(MAX_SIGNATURE).unwrap_or_default();
        verify_signature(&public, &scheme, &input, &signature)
    }
}

/// Longer than any signature.
const MAX_SIGNATURE: usize = 1024;

/// C_SignInit, section 5.13.1.
pub(crate) unsafe extern "C" fn sign_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_SignInit", || {
        with_module(|module| {
            // SAFETY: the caller's CK_MECHANISM.
            let chosen = unsafe { Chosen::read(mechanism, CKF_SIGN) };
            if module.session(session)?.signing.is_some() && !mechanism.is_null() {
                return Err(Fault::Code(CKR_OPERATION_ACTIVE));
            }
            let started = match chosen? {
                Some(chosen) => {
                    let key = module.key_for(session, key, &chosen, Class::PrivateKey, CKA_SIGN)?;
                    Some(Signing::new(key, &chosen)?)
                }
                None => None,
            };
            let open = module.session(session)?;
            open.authenticated = false;
            open.signing = started;
            Ok(())
        })
    })
}

/// C_Sign, section 5.13.2.
pub(crate) unsafe extern "C" fn sign(
    session: CK_SESSION_HANDLE,
    data: *mut u8,
    data_len: CK_ULONG,
    signature: *mut u8,
    signature_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_Sign", || {
        with_module(|module| {
            let mut signing = take(&mut module.session(session)?.signing)?;
            if signing.in_parts {
                return Err(Fault::Code(CKR_OPERATION_NOT_INITIALIZED));
            }
            // SAFETY: the caller's data and memory.
            let (data, output) = unsafe {
                (
                    Foreign::many(data, data_len)?,
                    Output::new(signature, signature_len)?,
                )
            };
            match output.room(self::signature_len(&signing.public)) {
                Ok(Room::Enough) => {
                    signing.update(&data)?;
                    signing.sign(module, session, &output)
                }
                other => {
                    module.session(session)?.signing = Some(signing);
                    other.map(|_| ())
                }
            }
        })
    })
}

/// C_SignUpdate, section 5.13.3. Where the caller has hashed the data, it may come in parts too.
pub(crate) unsafe extern "C" fn sign_update(
    session: CK_SESSION_HANDLE,
    part: *mut u8,
    part_len: CK_ULONG,
) -> CK_RV {
    answer("C_SignUpdate", || {
        with_module(|module| {
            let mut signing = take(&mut module.session(session)?.signing)?;
            // SAFETY: the caller's data.
            signing.update(&unsafe { Foreign::many(part, part_len) }?)?;
            signing.in_parts = true;
            module.session(session)?.signing = Some(signing);
            Ok(())
        })
    })
}

/// C_SignFinal, section 5.13.4.
pub(crate) unsafe extern "C" fn sign_final(
    session: CK_SESSION_HANDLE,
    signature: *mut u8,
    signature_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_SignFinal", || {
        with_module(|module| {
            let signing = take(&mut module.session(session)?.signing)?;
            // SAFETY: the caller's memory.
            let output = unsafe { Output::new(signature, signature_len) }?;
            match output.room(self::signature_len(&signing.public)) {
                Ok(Room::Enough) => signing.sign(module, session, &output),
                other => {
                    module.session(session)?.signing = Some(signing);
                    other.map(|_| ())
                }
            }
        })
    })
}

/// C_VerifyInit, section 5.15.1.
pub(crate) unsafe extern "C" fn verify_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_VerifyInit", || {
        with_module(|module| {
            // SAFETY: the caller's CK_MECHANISM.
            let chosen = unsafe { Chosen::read(mechanism, CKF_VERIFY) };
            if module.session(session)?.verifying.is_some() && !mechanism.is_null() {
                return Err(Fault::Code(CKR_OPERATION_ACTIVE));
            }
            let started = match chosen? {
                Some(chosen) => {
                    let key =
                        module.key_for(session, key, &chosen, Class::PublicKey, CKA_VERIFY)?;
                    Some(Signing::new(key, &chosen)?)
                }
                None => None,
            };
            module.session(session)?.verifying = started;
            Ok(())
        })
    })
}

/// C_Verify, section 5.15.2.
pub(crate) unsafe extern "C" fn verify(
    session: CK_SESSION_HANDLE,
    data: *mut u8,
    data_len: CK_ULONG,
    signature: *mut u8,
    signature_len: CK_ULONG,
) -> CK_RV {
    answer("C_Verify", || {
        with_module(|module| {
            let mut verifying = take(&mut module.session(session)?.verifying)?;
            if verifying.in_parts {
                return Err(Fault::Code(CKR_OPERATION_NOT_INITIALIZED));
            }
            // SAFETY: the caller's data and signature.
            let (data, signature) = unsafe {
                (
                    Foreign::many(data, data_len)?,
                    Foreign::many(signature, signature_len)?,
                )
            };
            verifying.update(&data)?;
            verifying.verify(&signature)
        })
    })
}

/// C_VerifyUpdate, section 5.15.3.
pub(crate) unsafe extern "C" fn verify_update(
    session: CK_SESSION_HANDLE,
    part: *mut u8,
    part_len: CK_ULONG,
) -> CK_RV {
    answer("C_VerifyUpdate", || {
        with_module(|module| {
            let mut verifying = take(&mut module.session(session)?.verifying)?;
            // SAFETY: the caller's data.
            verifying.update(&unsafe { Foreign::many(part, part_len) }?)?;
            verifying.in_parts = true;
            module.session(session)?.verifying = Some(verifying);
            Ok(())
        })
    })
}

/// C_VerifyFinal, section 5.15.4.
pub(crate) unsafe extern "C" fn verify_final(
    session: CK_SESSION_HANDLE,
    signature: *mut u8,
    signature_len: CK_ULONG,
) -> CK_RV {
    answer("C_VerifyFinal", || {
        with_module(|module| {
            let verifying = take(&mut module.session(session)?.verifying)?;
            // SAFETY: the caller's signature.
            verifying.verify(&unsafe { Foreign::many(signature, signature_len) }?)
        })
    })
}
