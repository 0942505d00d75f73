//! Encrypting and decrypting (PKCS#11 3.1, sections 5.8 and 5.10), with RSA. Private keys are
//! used where they live, public ones in memory.

use cryptoki_sys::{
    CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CKA_ALWAYS_AUTHENTICATE,
    CKA_DECRYPT, CKA_ENCRYPT, CKF_DECRYPT, CKF_ENCRYPT, CKR_DATA_LEN_RANGE,
    CKR_ENCRYPTED_DATA_LEN_RANGE, CKR_KEY_TYPE_INCONSISTENT, CKR_OPERATION_ACTIVE,
    CKR_OPERATION_NOT_INITIALIZED,
};
use strongroom::Secret;
use strongroom::key::{DecryptScheme, PublicKey};

use crate::attributes::{Class, Object};
use crate::digesting::take;
use crate::fault::{Answer, Fault, answer};
use crate::foreign::{Foreign, Output, Room};
use crate::mechanisms::{Chosen, Parameter};
use crate::public_key::{EncryptScheme, encrypt as encrypt_message, signature_len};
use crate::state::{Module, with_module};

/// Something that is being encrypted.
pub(crate) struct Encrypting {
    key: PublicKey,
    scheme: EncryptScheme,
    input: Gathered,
}

/// Something that is being decrypted.
pub(crate) struct Decrypting {
    key: Object,
    scheme: DecryptScheme,
    input: Gathered,
    /// What it came to, for which the caller had no room.
    output: Option<Secret>,
}

/// What has come in so far, never more than what one RSA operation takes.
struct Gathered {
    bytes: Secret,
    limit: usize,
    in_parts: bool,
}

impl Gathered {
    fn new(limit: usize) -> Self {
        Self {
            bytes: Secret::zeroed(0),
            limit,
            in_parts: false,
        }
    }

    /// Answers whether there was room.
    fn add(&mut self, data: &Foreign<u8>) -> bool {
        match data.secret(self.limit - self.bytes.len()) {
            Some(more) => {
                self.bytes = Secret::concat(&[self.bytes.expose(), more.expose()]);
                true
            }
            None => false,
        }
    }
}

impl Encrypting {
    fn new(key: &Object, chosen: &Chosen) -> Answer<Self> {
        let key = key
            .public_key()
            .ok_or(Fault::Code(CKR_KEY_TYPE_INCONSISTENT))?;
        let scheme = match &chosen.parameter {
            Parameter::Oaep { hash, mgf, label } => EncryptScheme::RsaOaep {
                hash: *hash,
                mgf: *mgf,
                label: label.clone(),
            },
            _ => EncryptScheme::RsaPkcs1,
        };
        let input = Gathered::new(signature_len(&key));
        Ok(Self { key, scheme, input })
    }

    fn update(&mut self, data: &Foreign<u8>) -> Answer {
        if self.input.add(data) {
            Ok(())
        } else {
            Err(Fault::Code(CKR_DATA_LEN_RANGE))
        }
    }

    fn finish(self) -> Answer<Vec<u8>> {
        encrypt_message(&self.key, &self.scheme, self.input.bytes.expose())
    }
}

impl Decrypting {
    /// Whether a login must come before each decryption.
    pub(crate) fn asks(&self) -> bool {
        self.key.has(CKA_ALWAYS_AUTHENTICATE)
    }

    fn new(key: Object, chosen: &Chosen) -> Answer<Self> {
        let public = key
            .public_key()
            .ok_or(Fault::Code(CKR_KEY_TYPE_INCONSISTENT))?;
        let scheme = match &chosen.parameter {
            Parameter::Oaep { hash, mgf, label } => DecryptScheme::RsaOaep {
                hash: *hash,
                mgf: *mgf,
                label: label.clone(),
            },
            _ => DecryptScheme::RsaPkcs1,
        };
        Ok(Self {
            key,
            scheme,
            input: Gathered::new(signature_len(&public)),
            output: None,
        })
    }

    fn update(&mut self, data: &Foreign<u8>) -> Answer {
        if self.input.add(data) {
            Ok(())
        } else {
            Err(Fault::Code(CKR_ENCRYPTED_DATA_LEN_RANGE))
        }
    }

    /// Gives the plaintext, or says how long it is. Only a plaintext that was asked for is worth
    /// the TPM, and once; before that its length is said as the longest that it may have.
    fn finish(
        mut self,
        module: &mut Module,
        session: CK_SESSION_HANDLE,
        output: &Output,
        data: Option<&Foreign<u8>>,
    ) -> Answer {
        let outcome = match &self.output {
            None if output.is_query() => output.room(self.input.limit),
            None => {
                if let Some(data) = data {
                    self.update(data)?;
                }
                if self.input.bytes.len() != self.input.limit {
                    return Err(Fault::Code(CKR_ENCRYPTED_DATA_LEN_RANGE));
                }
                module.check_authenticated(session, &self.key)?;
                let plaintext = module.decrypt(&self.key, &self.scheme, &self.input.bytes)?;
                let outcome = output.room(plaintext.len());
                self.output = Some(plaintext);
                outcome
            }
            Some(plaintext) => output.room(plaintext.len()),
        };
        match (outcome, &self.output) {
            (Ok(Room::Enough), Some(plaintext)) => output.give(plaintext.expose()),
            (other, _) => {
                module.session(session)?.decrypting = Some(self);
                other.map(|_| ())
            }
        }
    }
}

/// C_EncryptInit, section 5.8.1.
pub(crate) unsafe extern "C" fn encrypt_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_EncryptInit", || {
        with_module(|module| {
            // SAFETY: the caller's CK_MECHANISM.
            let chosen = unsafe { Chosen::read(mechanism, CKF_ENCRYPT) };
            if module.session(session)?.encrypting.is_some() && !mechanism.is_null() {
                return Err(Fault::Code(CKR_OPERATION_ACTIVE));
            }
            let started = match chosen? {
                Some(chosen) => {
                    let key =
                        module.key_for(session, key, &chosen, Class::PublicKey, CKA_ENCRYPT)?;
                    Some(Encrypting::new(&key, &chosen)?)
                }
                None => None,
            };
            module.session(session)?.encrypting = started;
            Ok(())
        })
    })
}

/// C_Encrypt, section 5.8.2.
pub(crate) unsafe extern "C" fn encrypt(
    session: CK_SESSION_HANDLE,
    data: *mut u8,
    data_len: CK_ULONG,
    encrypted: *mut u8,
    encrypted_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_Encrypt", || {
        with_module(|module| {
            let mut encrypting = take(&mut module.session(session)?.encrypting)?;
            if encrypting.input.in_parts {
                return Err(Fault::Code(CKR_OPERATION_NOT_INITIALIZED));
            }
            // SAFETY: the caller's data and memory.
            let (data, output) = unsafe {
                (
                    Foreign::many(data, data_len)?,
                    Output::new(encrypted, encrypted_len)?,
                )
            };
            match output.room(encrypting.input.limit) {
                Ok(Room::Enough) => {
                    encrypting.update(&data)?;
                    output.give(&encrypting.finish()?)
                }
                other => {
                    module.session(session)?.encrypting = Some(encrypting);
                    other.map(|_| ())
                }
            }
        })
    })
}

/// C_EncryptUpdate, section 5.8.3: gathers; there is no output before the end.
pub(crate) unsafe extern "C" fn encrypt_update(
    session: CK_SESSION_HANDLE,
    part: *mut u8,
    part_len: CK_ULONG,
    encrypted: *mut u8,
    encrypted_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_EncryptUpdate", || {
        with_module(|module| {
            let mut encrypting = take(&mut module.session(session)?.encrypting)?;
            // SAFETY: the caller's data and memory.
            let (part, output) = unsafe {
                (
                    Foreign::many(part, part_len)?,
                    Output::new(encrypted, encrypted_len)?,
                )
            };
            if let Room::Enough = output.room(0)? {
                encrypting.update(&part)?;
                encrypting.input.in_parts = true;
                output.give(&[])?;
            }
            module.session(session)?.encrypting = Some(encrypting);
            Ok(())
        })
    })
}

/// C_EncryptFinal, section 5.8.4.
pub(crate) unsafe extern "C" fn encrypt_final(
    session: CK_SESSION_HANDLE,
    encrypted: *mut u8,
    encrypted_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_EncryptFinal", || {
        with_module(|module| {
            let encrypting = take(&mut module.session(session)?.encrypting)?;
            // SAFETY: the caller's memory.
            let output = unsafe { Output::new(encrypted, encrypted_len) }?;
            match output.room(encrypting.input.limit) {
                Ok(Room::Enough) => output.give(&encrypting.finish()?),
                other => {
                    module.session(session)?.encrypting = Some(encrypting);
                    other.map(|_| ())
                }
            }
        })
    })
}

/// C_DecryptInit, section 5.10.1.
pub(crate) unsafe extern "C" fn decrypt_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_DecryptInit", || {
        with_module(|module| {
            // SAFETY: the caller's CK_MECHANISM.
            let chosen = unsafe { Chosen::read(mechanism, CKF_DECRYPT) };
            if module.session(session)?.decrypting.is_some() && !mechanism.is_null() {
                return Err(Fault::Code(CKR_OPERATION_ACTIVE));
            }
            let started = match chosen? {
                Some(chosen) => {
                    let key =
                        module.key_for(session, key, &chosen, Class::PrivateKey, CKA_DECRYPT)?;
                    Some(Decrypting::new(key, &chosen)?)
                }
                None => None,
            };
            let open = module.session(session)?;
            open.authenticated = false;
            open.decrypting = started;
            Ok(())
        })
    })
}

/// C_Decrypt, section 5.10.2.
pub(crate) unsafe extern "C" fn decrypt(
    session: CK_SESSION_HANDLE,
    encrypted: *mut u8,
    encrypted_len: CK_ULONG,
    data: *mut u8,
    data_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_Decrypt", || {
        with_module(|module| {
            let decrypting = take(&mut module.session(session)?.decrypting)?;
            if decrypting.input.in_parts {
                return Err(Fault::Code(CKR_OPERATION_NOT_INITIALIZED));
            }
            // SAFETY: the caller's data and memory.
            let (encrypted, output) = unsafe {
                (
                    Foreign::many(encrypted, encrypted_len)?,
                    Output::new(data, data_len)?,
                )
            };
            decrypting.finish(module, session, &output, Some(&encrypted))
        })
    })
}

/// C_DecryptUpdate, section 5.10.3: gathers; there is no output before the end.
pub(crate) unsafe extern "C" fn decrypt_update(
    session: CK_SESSION_HANDLE,
    encrypted: *mut u8,
    encrypted_len: CK_ULONG,
    part: *mut u8,
    part_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_DecryptUpdate", || {
        with_module(|module| {
            let mut decrypting = take(&mut module.session(session)?.decrypting)?;
            // SAFETY: the caller's data and memory.
            let (encrypted, output) = unsafe {
                (
                    Foreign::many(encrypted, encrypted_len)?,
                    Output::new(part, part_len)?,
                )
            };
            if let Room::Enough = output.room(0)? {
                decrypting.update(&encrypted)?;
                decrypting.input.in_parts = true;
                output.give(&[])?;
            }
            module.session(session)?.decrypting = Some(decrypting);
            Ok(())
        })
    })
}

/// C_DecryptFinal, section 5.10.4.
pub(crate) unsafe extern "C" fn decrypt_final(
    session: CK_SESSION_HANDLE,
    part: *mut u8,
    part_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_DecryptFinal", || {
        with_module(|module| {
            let decrypting = take(&mut module.session(session)?.decrypting)?;
            // SAFETY: the caller's memory.
            let output = unsafe { Output::new(part, part_len) }?;
            decrypting.finish(module, session, &output, None)
        })
    })
}
