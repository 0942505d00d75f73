//! Encrypting and decrypting (PKCS#11 3.1, sections 5.8 and 5.10): with RSA, whose private keys are used
//! where they live and whose public ones in memory, and with AES and triple DES, in memory.

use cryptoki_sys::{
    CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CKA_ALWAYS_AUTHENTICATE,
    CKA_DECRYPT, CKA_ENCRYPT, CKF_DECRYPT, CKF_ENCRYPT, CKK_RSA, CKR_DATA_LEN_RANGE,
    CKR_ENCRYPTED_DATA_LEN_RANGE, CKR_KEY_TYPE_INCONSISTENT, CKR_OPERATION_NOT_INITIALIZED,
};
use strongroom::Secret;
use strongroom::key::{DecryptScheme, PublicKey};

use crate::attributes::Object;
use crate::beginning::Operation;
use crate::class::Class;
use crate::digesting::take;
use crate::fault::{Answer, Fault, answer};
use crate::foreign::{Foreign, MOST_AT_ONCE, Output, Room};
use crate::mechanisms::Method;
use crate::parameters::{Chosen, Parameter};
use crate::state::{Module, with_module};
use crate::symmetric::Cipher;

/// Something that is being encrypted.
pub(crate) struct Encrypting {
    work: Encryption,
    in_parts: bool,
}

enum Encryption {
    Rsa {
        key: PublicKey,
        scheme: DecryptScheme,
        input: Gathered,
    },
    Aes(Cipher),
}

/// Something that is being decrypted.
pub(crate) struct Decrypting {
    work: Decryption,
    in_parts: bool,
    /// What it came to at its end, for which the caller had no room.
    output: Option<Secret>,
}

enum Decryption {
    Rsa {
        key: Object,
        scheme: DecryptScheme,
        input: Gathered,
    },
    Aes(Option<Cipher>),
}

/// What has come in so far, never more than what one RSA operation takes.
struct Gathered {
    bytes: Secret,
    limit: usize,
}

impl Gathered {
    fn new(limit: usize) -> Self {
        Self {
            bytes: Secret::zeroed(0),
            limit,
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

/// The scheme of RSA that a caller chose.
pub(crate) fn scheme_of(chosen: &Chosen) -> DecryptScheme {
    match (chosen.method(), &chosen.parameter) {
        (_, Parameter::Oaep { hash, mgf, label }) => DecryptScheme::RsaOaep {
            hash: *hash,
            mgf: *mgf,
            label: label.clone(),
        },
        (Method::RsaRaw, _) => DecryptScheme::RsaRaw,
        _ => DecryptScheme::RsaPkcs1,
    }
}

/// The class of the keys that encrypt, and that of those that decrypt, with a mechanism.
pub(crate) fn classes_of(chosen: &Chosen) -> (Class, Class) {
    match chosen.method().key_type() {
        Some(CKK_RSA) => (Class::PublicKey, Class::PrivateKey),
        _ => (Class::SecretKey, Class::SecretKey),
    }
}

impl Encrypting {
    fn new(module: &mut Module, key: &Object, chosen: &Chosen) -> Answer<Self> {
        let work = if key.class() == Class::SecretKey {
            let value = module.value_of(key)?;
            Encryption::Aes(Cipher::new(
                chosen.method(),
                &chosen.parameter,
                &value,
                true,
            )?)
        } else {
            let key = key
                .public_key()
                .cloned()
                .ok_or(Fault::Code(CKR_KEY_TYPE_INCONSISTENT))?;
            let input = Gathered::new(key.signature_len());
            Encryption::Rsa {
                key,
                scheme: scheme_of(chosen),
                input,
            }
        };
        Ok(Self {
            work,
            in_parts: false,
        })
    }

    /// How long what comes of so many more bytes is, and what comes at the end after them.
    fn lens(&self, more: usize) -> (usize, usize) {
        match &self.work {
            Encryption::Rsa { input, .. } => (0, input.limit),
            Encryption::Aes(cipher) => (cipher.update_len(more), cipher.finish_len(more)),
        }
    }

    /// How long what comes of so many more bytes is.
    pub(crate) fn update_len(&self, more: usize) -> usize {
        self.lens(more).0
    }

    /// Takes a part.
    pub(crate) fn update(&mut self, data: &Foreign<u8>) -> Answer<Vec<u8>> {
        self.in_parts = true;
        let too_long = || Fault::Code(CKR_DATA_LEN_RANGE);
        match &mut self.work {
            Encryption::Rsa { input, .. } => input.add(data).then(Vec::new).ok_or_else(too_long),
            Encryption::Aes(cipher) => {
                cipher.update(&data.bytes(MOST_AT_ONCE).ok_or_else(too_long)?)
            }
        }
    }

    fn finish(self) -> Answer<Vec<u8>> {
        match self.work {
            Encryption::Rsa { key, scheme, input } => key
                .encrypt(&scheme, input.bytes.expose())
                .map_err(|_| Fault::Code(CKR_DATA_LEN_RANGE)),
            Encryption::Aes(cipher) => cipher.finish(),
        }
    }
}

impl Decrypting {
    /// Whether a login must come before each decryption.
    pub(crate) fn asks(&self) -> bool {
        match &self.work {
            Decryption::Rsa { key, .. } => key.has(CKA_ALWAYS_AUTHENTICATE),
            Decryption::Aes(_) => false,
        }
    }

    fn new(module: &mut Module, key: &Object, chosen: &Chosen) -> Answer<Self> {
        let work = if key.class() == Class::SecretKey {
            let value = module.value_of(key)?;
            let cipher = Cipher::new(chosen.method(), &chosen.parameter, &value, false)?;
            Decryption::Aes(Some(cipher))
        } else {
            let public = key
                .public_key()
                .cloned()
                .ok_or(Fault::Code(CKR_KEY_TYPE_INCONSISTENT))?;
            Decryption::Rsa {
                key: key.clone(),
                scheme: scheme_of(chosen),
                input: Gathered::new(public.signature_len()),
            }
        };
        Ok(Self {
            work,
            in_parts: false,
            output: None,
        })
    }

    /// How long what comes of so many more bytes is.
    pub(crate) fn update_len(&self, more: usize) -> usize {
        match &self.work {
            Decryption::Aes(Some(cipher)) => cipher.update_len(more),
            _ => 0,
        }
    }

    /// Takes a part.
    pub(crate) fn update(&mut self, data: &Foreign<u8>) -> Answer<Vec<u8>> {
        self.in_parts = true;
        let too_long = || Fault::Code(CKR_ENCRYPTED_DATA_LEN_RANGE);
        match &mut self.work {
            Decryption::Rsa { input, .. } => input.add(data).then(Vec::new).ok_or_else(too_long),
            Decryption::Aes(Some(cipher)) => {
                cipher.update(&data.bytes(MOST_AT_ONCE).ok_or_else(too_long)?)
            }
            Decryption::Aes(None) => Err(too_long()),
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
            None if output.is_query() => {
                let more = data.map_or(0, Foreign::len);
                output.room(match &self.work {
                    Decryption::Rsa { input, .. } => input.limit,
                    Decryption::Aes(Some(cipher)) => cipher
                        .update_len(more)
                        .saturating_add(cipher.finish_len(more)),
                    Decryption::Aes(None) => 0,
                })
            }
            None => {
                let mut plaintext = match data {
                    Some(data) => self.update(data)?,
                    None => Vec::new(),
                };
                // One that came at once is asked for again at once.
                self.in_parts = data.is_none();
                let plaintext = match &mut self.work {
                    Decryption::Rsa { key, scheme, input } => {
                        if input.bytes.len() != input.limit {
                            return Err(Fault::Code(CKR_ENCRYPTED_DATA_LEN_RANGE));
                        }
                        module.check_authenticated(session, key)?;
                        module.decrypt(key, scheme, &input.bytes)?
                    }
                    Decryption::Aes(cipher) => {
                        let cipher =
                            (cipher.take()).ok_or(Fault::Code(CKR_OPERATION_NOT_INITIALIZED))?;
                        plaintext.extend(cipher.finish()?);
                        Secret::take(plaintext)
                    }
                };
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
        // SAFETY: the caller's CK_MECHANISM.
        let chosen = unsafe { Chosen::read(mechanism, CKF_ENCRYPT) };
        let encrypting = Operation {
            place: |session| &mut session.encrypting,
            class: |chosen| classes_of(chosen).0,
            usage: CKA_ENCRYPT,
            asks: false,
            make: Encrypting::new,
        };
        encrypting.begin(session, chosen, key)
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
            if encrypting.in_parts {
                return Err(Fault::Code(CKR_OPERATION_NOT_INITIALIZED));
            }
            // SAFETY: the caller's data and memory.
            let (data, output) = unsafe {
                (
                    Foreign::many(data, data_len)?,
                    Output::new(encrypted, encrypted_len)?,
                )
            };
            let (now, then) = encrypting.lens(data.len());
            match output.room(now.saturating_add(then)) {
                Ok(Room::Enough) => {
                    let mut all = encrypting.update(&data)?;
                    all.extend(encrypting.finish()?);
                    output.give(&all)
                }
                other => {
                    module.session(session)?.encrypting = Some(encrypting);
                    other.map(|_| ())
                }
            }
        })
    })
}

/// C_EncryptUpdate, section 5.8.3. With RSA there is no output before the end.
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
            let (now, _) = encrypting.lens(part.len());
            let room = output.room(now);
            if let Ok(Room::Enough) = room {
                let out = encrypting.update(&part)?;
                output.give(&out)?;
            }
            module.session(session)?.encrypting = Some(encrypting);
            room.map(|_| ())
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
            let (_, then) = encrypting.lens(0);
            match output.room(then) {
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
        // SAFETY: the caller's CK_MECHANISM.
        let chosen = unsafe { Chosen::read(mechanism, CKF_DECRYPT) };
        let decrypting = Operation {
            place: |session| &mut session.decrypting,
            class: |chosen| classes_of(chosen).1,
            usage: CKA_DECRYPT,
            asks: true,
            make: Decrypting::new,
        };
        decrypting.begin(session, chosen, key)
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
            if decrypting.in_parts {
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

/// C_DecryptUpdate, section 5.10.3. With RSA there is no output before the end, and with GCM none before the tag was
/// compared.
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
            let room = output.room(decrypting.update_len(encrypted.len()));
            if let Ok(Room::Enough) = room {
                let out = decrypting.update(&encrypted)?;
                output.give(&out)?;
            }
            module.session(session)?.decrypting = Some(decrypting);
            room.map(|_| ())
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
