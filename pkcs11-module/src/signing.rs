//! Signing and verifying (PKCS#11 3.1, sections 5.13 and 5.15). Private keys are used where they
//! live, public ones and those of message authentication codes in memory.

use cryptoki_sys::{
    CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CKA_ALWAYS_AUTHENTICATE,
    CKA_SIGN, CKA_SIGN_RECOVER, CKA_VERIFY, CKA_VERIFY_RECOVER, CKF_SIGN, CKF_SIGN_RECOVER,
    CKF_VERIFY, CKF_VERIFY_RECOVER, CKR_DATA_LEN_RANGE, CKR_KEY_TYPE_INCONSISTENT,
    CKR_MECHANISM_PARAM_INVALID, CKR_OPERATION_NOT_INITIALIZED, CKR_SIGNATURE_INVALID,
    CKR_SIGNATURE_LEN_RANGE,
};
use strongroom::key::{Hash, PublicKey, SignScheme};

use crate::attributes::Object;
use crate::beginning::Operation;
use crate::class::Class;
use crate::digesting::{Hasher, take};
use crate::fault::{Answer, Fault, answer};
use crate::foreign::{Foreign, MOST_AT_ONCE, Output, Room};
use crate::legacy::dsa;
use crate::legacy::field::FieldKey;
use crate::macs::Code;
use crate::mechanisms::Method;
use crate::parameters::{Chosen, Parameter};
use crate::state::{Module, with_module};

/// A signature, or a code, that is being made or verified.
pub(crate) struct Signing {
    work: Work,
    in_parts: bool,
}

enum Work {
    Signature(Box<Signature>),
    /// With a key of DSA.
    Dsa {
        key: Object,
        input: Input,
    },
    Code(Code),
}

struct Signature {
    key: Object,
    public: PublicKey,
    scheme: SignScheme,
    input: Input,
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

impl Input {
    fn new(hash: Option<Hash>, limit: usize) -> Self {
        match hash {
            Some(hash) => Self::Hashed(Box::new(Hasher::new(hash))),
            None => Self::Plain {
                bytes: Vec::new(),
                limit,
            },
        }
    }

    fn update(&mut self, data: &Foreign<u8>) -> Answer {
        match self {
            Self::Hashed(hasher) => data.pieces(|piece| hasher.update(piece)),
            Self::Plain { bytes, limit } => {
                let more = data
                    .bytes(*limit - bytes.len())
                    .ok_or(Fault::Code(CKR_DATA_LEN_RANGE))?;
                bytes.extend_from_slice(&more);
            }
        }
        Ok(())
    }

    /// The same of what is ours.
    fn update_with(&mut self, data: &[u8]) -> Answer {
        match self {
            Self::Hashed(hasher) => hasher.update(data),
            Self::Plain { bytes, limit } if data.len() <= *limit - bytes.len() => {
                bytes.extend_from_slice(data);
            }
            Self::Plain { .. } => return Err(Fault::Code(CKR_DATA_LEN_RANGE)),
        }
        Ok(())
    }

    /// The digest, or what the caller has given.
    fn finish(self) -> Vec<u8> {
        match self {
            Self::Hashed(hasher) => hasher.finish(),
            Self::Plain { bytes, .. } => bytes,
        }
    }
}

/// The longest digest of any hash: whatever is longer is a mistake.
const MAX_DIGEST: usize = 64;

impl Signature {
    fn new(key: Object, chosen: &Chosen) -> Answer<Self> {
        let public = key
            .public_key()
            .cloned()
            .ok_or(Fault::Code(CKR_KEY_TYPE_INCONSISTENT))?;
        let len = public.signature_len();
        let (scheme, limit) = match (chosen.method(), &chosen.parameter) {
            (Method::RsaPkcs(hash), _) => (SignScheme::RsaPkcs1 { hash }, len - 11),
            (Method::RsaRaw, _) => (SignScheme::RsaRaw, len),
            (
                Method::RsaPss(_),
                Parameter::Pss {
                    hash,
                    mgf,
                    salt_len,
                },
            ) => {
                let (hash, mgf) = (*hash, *mgf);
                // RFC 8017, section 9.1.1, step 3.
                let most = len.checked_sub(hash.digest_len() + 2);
                if most.is_none_or(|most| *salt_len > most) {
                    return Err(Fault::Code(CKR_MECHANISM_PARAM_INVALID));
                }
                let scheme = SignScheme::RsaPss {
                    hash,
                    mgf,
                    salt_len: *salt_len,
                };
                (scheme, hash.digest_len())
            }
            (Method::Eddsa, Parameter::Eddsa { prehashed, context }) => {
                let scheme = SignScheme::Eddsa {
                    prehashed: *prehashed,
                    context: context.clone(),
                };
                (scheme, MOST_AT_ONCE)
            }
            _ => (SignScheme::Ecdsa, MAX_DIGEST),
        };
        let input = Input::new(chosen.method().hash(), limit);
        Ok(Self {
            key,
            public,
            scheme,
            input,
        })
    }

    /// The digest, or what the caller has encoded.
    fn finish(self) -> Answer<(Object, PublicKey, SignScheme, Vec<u8>)> {
        let mut input = self.input.finish();
        let right = match &self.scheme {
            SignScheme::RsaPss { hash, .. } => input.len() == hash.digest_len(),
            SignScheme::Ecdsa => !input.is_empty(),
            SignScheme::RsaRaw => {
                // Section 6.1.8: shorter ones are numbers too.
                let zeros = self.public.signature_len() - input.len();
                input.splice(..0, std::iter::repeat_n(0, zeros));
                true
            }
            _ => true,
        };
        if !right {
            return Err(Fault::Code(CKR_DATA_LEN_RANGE));
        }
        Ok((self.key, self.public, self.scheme, input))
    }
}

impl Signing {
    fn new(module: &mut Module, key: &Object, chosen: &Chosen) -> Answer<Self> {
        let work = if key.class() == Class::SecretKey {
            let value = module.value_of(key)?;
            Work::Code(Code::new(chosen.method(), &chosen.parameter, &value)?)
        } else if let Method::Dsa(hash) = chosen.method() {
            let input = Input::new(hash, MAX_DIGEST);
            Work::Dsa {
                key: key.clone(),
                input,
            }
        } else {
            Work::Signature(Box::new(Signature::new(key.clone(), chosen)?))
        };
        Ok(Self {
            work,
            in_parts: false,
        })
    }

    fn len(&self) -> usize {
        match &self.work {
            Work::Signature(signature) => signature.public.signature_len(),
            Work::Dsa { key, .. } => dsa_key(key).map_or(0, dsa::PublicKey::signature_len),
            Work::Code(code) => code.len(),
        }
    }

    fn update(&mut self, data: &Foreign<u8>) -> Answer {
        match &mut self.work {
            Work::Signature(signature) => signature.input.update(data),
            Work::Dsa { input, .. } => input.update(data),
            Work::Code(code) => {
                data.pieces(|piece| code.update(piece));
                Ok(())
            }
        }
    }

    /// Takes a part.
    pub(crate) fn update_part(&mut self, data: &Foreign<u8>) -> Answer {
        self.in_parts = true;
        self.update(data)
    }

    /// The same of what is ours.
    pub(crate) fn update_with(&mut self, part: &[u8]) -> Answer {
        self.in_parts = true;
        match &mut self.work {
            Work::Signature(signature) => signature.input.update_with(part),
            Work::Dsa { input, .. } => input.update_with(part),
            Work::Code(code) => {
                code.update(part);
                Ok(())
            }
        }
    }

    fn sign(self, module: &mut Module, session: CK_SESSION_HANDLE, output: &Output) -> Answer {
        match self.work {
            Work::Code(code) => output.give(&code.finish()),
            Work::Dsa { key, input } => {
                module.check_authenticated(session, &key)?;
                let Some(FieldKey::DsaPrivate(private)) = key.field_key() else {
                    return Err(Fault::Code(CKR_KEY_TYPE_INCONSISTENT));
                };
                let signature = private.sign(&input.finish());
                output.give(&signature.ok_or(Fault::Code(CKR_DATA_LEN_RANGE))?)
            }
            Work::Signature(signature) => {
                // Whatever comes of it, a login was for this signature.
                module.check_authenticated(session, &signature.key)?;
                let (key, _, scheme, input) = signature.finish()?;
                output.give(&module.sign(&key, &scheme, &input)?)
            }
        }
    }

    /// Whether a login must come before each signature.
    pub(crate) fn asks(&self) -> bool {
        match &self.work {
            Work::Signature(signature) => signature.key.has(CKA_ALWAYS_AUTHENTICATE),
            Work::Dsa { key, .. } => key.has(CKA_ALWAYS_AUTHENTICATE),
            Work::Code(_) => false,
        }
    }

    fn verify(self, signature: &Foreign<u8>) -> Answer {
        let right_len = self.len();
        let signature = signature
            .bytes(right_len)
            .filter(|it| it.len() == right_len)
            .ok_or(Fault::Code(CKR_SIGNATURE_LEN_RANGE));
        let right = match self.work {
            Work::Code(code) => code.is(&signature?),
            Work::Dsa { key, input } => {
                let digest = input.finish();
                if dsa::hash_of(digest.len()).is_none() {
                    return Err(Fault::Code(CKR_DATA_LEN_RANGE));
                }
                let signature = signature?;
                dsa_key(&key).is_some_and(|key| key.verifies(&digest, &signature))
            }
            Work::Signature(work) => {
                let (_, public, scheme, input) = work.finish()?;
                public.verifies(&scheme, &input, &signature?)
            }
        };
        if right {
            Ok(())
        } else {
            Err(Fault::Code(CKR_SIGNATURE_INVALID))
        }
    }
}

/// The public key of DSA that a key is, or belongs to.
fn dsa_key(key: &Object) -> Option<&dsa::PublicKey> {
    match key.field_key() {
        Some(FieldKey::DsaPublic(key)) => Some(key),
        Some(FieldKey::DsaPrivate(key)) => Some(key.public()),
        _ => None,
    }
}

/// The class of the keys that sign, and that of those that verify, with a mechanism.
fn classes_of(chosen: &Chosen) -> (Class, Class) {
    match chosen.method() {
        Method::Hmac { .. } | Method::Cmac { .. } | Method::AesMac { .. } => {
            (Class::SecretKey, Class::SecretKey)
        }
        _ => (Class::PrivateKey, Class::PublicKey),
    }
}

/// C_SignInit, section 5.13.1.
pub(crate) unsafe extern "C" fn sign_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_SignInit", || {
        // SAFETY: the caller's CK_MECHANISM.
        let chosen = unsafe { Chosen::read(mechanism, CKF_SIGN) };
        let signing = Operation {
            place: |session| &mut session.signing,
            class: |chosen| classes_of(chosen).0,
            usage: CKA_SIGN,
            asks: true,
            make: Signing::new,
        };
        signing.begin(session, chosen, key)
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
            match output.room(signing.len()) {
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
            match output.room(signing.len()) {
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
        // SAFETY: the caller's CK_MECHANISM.
        let chosen = unsafe { Chosen::read(mechanism, CKF_VERIFY) };
        let verifying = Operation {
            place: |session| &mut session.verifying,
            class: |chosen| classes_of(chosen).1,
            usage: CKA_VERIFY,
            asks: false,
            make: Signing::new,
        };
        verifying.begin(session, chosen, key)
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

/// A signature from which the data are recovered.
pub(crate) struct Recovering {
    public: PublicKey,
    scheme: SignScheme,
}

impl Recovering {
    fn new(_: &mut Module, key: &Object, chosen: &Chosen) -> Answer<Self> {
        let public = key
            .public_key()
            .cloned()
            .ok_or(Fault::Code(CKR_KEY_TYPE_INCONSISTENT))?;
        let scheme = match chosen.method() {
            Method::RsaRaw => SignScheme::RsaRaw,
            _ => SignScheme::RsaPkcs1 { hash: None },
        };
        Ok(Self { public, scheme })
    }
}

/// C_SignRecoverInit, section 5.13.5.
pub(crate) unsafe extern "C" fn sign_recover_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_SignRecoverInit", || {
        // SAFETY: the caller's CK_MECHANISM.
        let chosen = unsafe { Chosen::read(mechanism, CKF_SIGN_RECOVER) };
        let signing = Operation {
            place: |session| &mut session.sign_recovering,
            class: |_| Class::PrivateKey,
            usage: CKA_SIGN_RECOVER,
            asks: true,
            make: Signing::new,
        };
        signing.begin(session, chosen, key)
    })
}

/// C_SignRecover, section 5.13.6.
pub(crate) unsafe extern "C" fn sign_recover(
    session: CK_SESSION_HANDLE,
    data: *mut u8,
    data_len: CK_ULONG,
    signature: *mut u8,
    signature_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_SignRecover", || {
        with_module(|module| {
            let mut signing = take(&mut module.session(session)?.sign_recovering)?;
            // SAFETY: the caller's data and memory.
            let (data, output) = unsafe {
                (
                    Foreign::many(data, data_len)?,
                    Output::new(signature, signature_len)?,
                )
            };
            match output.room(signing.len()) {
                Ok(Room::Enough) => {
                    signing.update(&data)?;
                    signing.sign(module, session, &output)
                }
                other => {
                    module.session(session)?.sign_recovering = Some(signing);
                    other.map(|_| ())
                }
            }
        })
    })
}

/// C_VerifyRecoverInit, section 5.15.5.
pub(crate) unsafe extern "C" fn verify_recover_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_VerifyRecoverInit", || {
        // SAFETY: the caller's CK_MECHANISM.
        let chosen = unsafe { Chosen::read(mechanism, CKF_VERIFY_RECOVER) };
        let recovering = Operation {
            place: |session| &mut session.verify_recovering,
            class: |_| Class::PublicKey,
            usage: CKA_VERIFY_RECOVER,
            asks: false,
            make: Recovering::new,
        };
        recovering.begin(session, chosen, key)
    })
}

/// C_VerifyRecover, section 5.15.6.
pub(crate) unsafe extern "C" fn verify_recover(
    session: CK_SESSION_HANDLE,
    signature: *mut u8,
    signature_len: CK_ULONG,
    data: *mut u8,
    data_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_VerifyRecover", || {
        with_module(|module| {
            let recovering = take(&mut module.session(session)?.verify_recovering)?;
            // SAFETY: the caller's signature and memory.
            let (signature, output) = unsafe {
                (
                    Foreign::many(signature, signature_len)?,
                    Output::new(data, data_len)?,
                )
            };
            let right_len = recovering.public.signature_len();
            let signature = signature
                .bytes(right_len)
                .filter(|it| it.len() == right_len)
                .ok_or(Fault::Code(CKR_SIGNATURE_LEN_RANGE))?;
            let recovered = (recovering.public)
                .recovers(&recovering.scheme, &signature)
                .ok_or(Fault::Code(CKR_SIGNATURE_INVALID))?;
            match output.room(recovered.len()) {
                Ok(Room::Enough) => output.give(&recovered),
                other => {
                    module.session(session)?.verify_recovering = Some(recovering);
                    other.map(|_| ())
                }
            }
        })
    })
}
