//! Message-based encryption and decryption (PKCS#11 3.1, sections 5.9 and 5.11), with AES-GCM: the key is
//! looked up once, and each message has an initialization vector, a tag and additional data of its
//! own. Message-based signing (sections 5.14 and 5.16), for which no mechanism here is.

use std::ffi::c_void;

use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_FLAGS, CK_GCM_MESSAGE_PARAMS, CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV,
    CK_SESSION_HANDLE, CK_ULONG, CKA_DECRYPT, CKA_ENCRYPT, CKF_END_OF_MESSAGE, CKF_MESSAGE_DECRYPT,
    CKF_MESSAGE_ENCRYPT, CKF_MESSAGE_SIGN, CKF_MESSAGE_VERIFY, CKG_GENERATE, CKG_GENERATE_RANDOM,
    CKG_NO_GENERATE, CKR_AEAD_DECRYPT_FAILED, CKR_ARGUMENTS_BAD, CKR_DATA_LEN_RANGE,
    CKR_ENCRYPTED_DATA_LEN_RANGE, CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID,
    CKR_OPERATION_ACTIVE, CKR_OPERATION_NOT_INITIALIZED,
};
use strongroom::Secret;

use crate::beginning::Operation;
use crate::class::Class;
use crate::digesting::take;
use crate::fault::{Answer, Fault, answer};
use crate::foreign::{Foreign, MOST_AT_ONCE, Output, Room, ulong};
use crate::parameters::{Chosen, MAX_AAD, tag_len};
use crate::sessions::Session;
use crate::state::with_module;
use crate::symmetric::MessageCipher;

/// Messages that are being encrypted, or decrypted, with one key.
pub(crate) struct Messaging {
    key: Secret,
    /// The message that comes in parts.
    message: Option<Message>,
}

struct Message {
    cipher: MessageCipher,
    /// Of one that is decrypted, all that came: nothing goes out before the tag was compared.
    pending: Vec<u8>,
}

/// Which of a session's operations.
type Place = fn(&mut Session) -> &mut Option<Messaging>;

fn encrypting(session: &mut Session) -> &mut Option<Messaging> {
    &mut session.encrypting_messages
}

fn decrypting(session: &mut Session) -> &mut Option<Messaging> {
    &mut session.decrypting_messages
}

/// C_MessageEncryptInit, section 5.9.1.
pub(crate) unsafe extern "C" fn message_encrypt_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_MessageEncryptInit", || {
        // SAFETY: the caller's CK_MECHANISM.
        let chosen = unsafe { Chosen::read(mechanism, CKF_MESSAGE_ENCRYPT) };
        messaging(CKA_ENCRYPT, encrypting).begin(session, chosen, key)
    })
}

/// C_MessageDecryptInit, section 5.11.1.
pub(crate) unsafe extern "C" fn message_decrypt_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_MessageDecryptInit", || {
        // SAFETY: the caller's CK_MECHANISM.
        let chosen = unsafe { Chosen::read(mechanism, CKF_MESSAGE_DECRYPT) };
        messaging(CKA_DECRYPT, decrypting).begin(session, chosen, key)
    })
}

fn messaging(usage: CK_ATTRIBUTE_TYPE, place: Place) -> Operation<Messaging> {
    Operation {
        place,
        class: |_| Class::SecretKey,
        usage,
        asks: false,
        make: |module, key, _| {
            Ok(Messaging {
                key: module.value_of(key)?,
                message: None,
            })
        },
    }
}

/// C_EncryptMessage, section 5.9.2.
#[allow(clippy::too_many_arguments, reason = "the specification's")]
pub(crate) unsafe extern "C" fn encrypt_message(
    session: CK_SESSION_HANDLE,
    parameter: *mut c_void,
    parameter_len: CK_ULONG,
    aad: *mut u8,
    aad_len: CK_ULONG,
    plaintext: *mut u8,
    plaintext_len: CK_ULONG,
    ciphertext: *mut u8,
    ciphertext_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_EncryptMessage", || {
        with_module(|module| {
            let messaging = idle(encrypting(module.session(session)?))?;
            // SAFETY: the caller's parameter, data and memory.
            let (parameter, aad, plaintext, output) = unsafe {
                (
                    GcmMessage::read(parameter, parameter_len)?,
                    Foreign::many(aad, aad_len)?,
                    Foreign::many(plaintext, plaintext_len)?,
                    Output::new(ciphertext, ciphertext_len)?,
                )
            };
            if let Room::LengthOnly = output.room(plaintext.len())? {
                return Ok(());
            }
            let too_long = || Fault::Code(CKR_DATA_LEN_RANGE);
            let iv = parameter.iv_to_encrypt()?;
            let aad = aad.bytes(MAX_AAD).ok_or_else(too_long)?;
            let tag = parameter.tag()?;
            let plaintext = plaintext.bytes(MOST_AT_ONCE).ok_or_else(too_long)?;
            let mut cipher = MessageCipher::new(&messaging.key, &iv, &aad, tag.len())?;
            output.give(&cipher.encrypt(plaintext)?)?;
            tag.fill(&cipher.tag());
            Ok(())
        })
    })
}

/// C_DecryptMessage, section 5.11.2.
#[allow(clippy::too_many_arguments, reason = "the specification's")]
pub(crate) unsafe extern "C" fn decrypt_message(
    session: CK_SESSION_HANDLE,
    parameter: *mut c_void,
    parameter_len: CK_ULONG,
    aad: *mut u8,
    aad_len: CK_ULONG,
    ciphertext: *mut u8,
    ciphertext_len: CK_ULONG,
    plaintext: *mut u8,
    plaintext_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_DecryptMessage", || {
        with_module(|module| {
            let messaging = idle(decrypting(module.session(session)?))?;
            // SAFETY: the caller's parameter, data and memory.
            let (parameter, aad, ciphertext, output) = unsafe {
                (
                    GcmMessage::read(parameter, parameter_len)?,
                    Foreign::many(aad, aad_len)?,
                    Foreign::many(ciphertext, ciphertext_len)?,
                    Output::new(plaintext, plaintext_len)?,
                )
            };
            if let Room::LengthOnly = output.room(ciphertext.len())? {
                return Ok(());
            }
            let too_long = || Fault::Code(CKR_ENCRYPTED_DATA_LEN_RANGE);
            let aad = aad.bytes(MAX_AAD).ok_or_else(too_long)?;
            let tag = parameter.given_tag()?;
            let ciphertext = ciphertext.bytes(MOST_AT_ONCE).ok_or_else(too_long)?;
            let cipher = MessageCipher::new(&messaging.key, &parameter.iv()?, &aad, tag.len())?;
            let opened = cipher.open(ciphertext, &tag);
            output.give(&opened.ok_or(Fault::Code(CKR_AEAD_DECRYPT_FAILED))?)
        })
    })
}

/// C_EncryptMessageBegin, section 5.9.3.
pub(crate) unsafe extern "C" fn encrypt_message_begin(
    session: CK_SESSION_HANDLE,
    parameter: *mut c_void,
    parameter_len: CK_ULONG,
    aad: *mut u8,
    aad_len: CK_ULONG,
) -> CK_RV {
    answer("C_EncryptMessageBegin", || {
        with_module(|module| {
            let messaging = idle(encrypting(module.session(session)?))?;
            // SAFETY: the caller's parameter and data.
            let (parameter, aad) = unsafe {
                (
                    GcmMessage::read(parameter, parameter_len)?,
                    Foreign::many(aad, aad_len)?,
                )
            };
            let iv = parameter.iv_to_encrypt()?;
            messaging.begin(&iv, &aad, parameter.tag_len)
        })
    })
}

/// C_DecryptMessageBegin, section 5.11.3.
pub(crate) unsafe extern "C" fn decrypt_message_begin(
    session: CK_SESSION_HANDLE,
    parameter: *mut c_void,
    parameter_len: CK_ULONG,
    aad: *mut u8,
    aad_len: CK_ULONG,
) -> CK_RV {
    answer("C_DecryptMessageBegin", || {
        with_module(|module| {
            let messaging = idle(decrypting(module.session(session)?))?;
            // SAFETY: the caller's parameter and data.
            let (parameter, aad) = unsafe {
                (
                    GcmMessage::read(parameter, parameter_len)?,
                    Foreign::many(aad, aad_len)?,
                )
            };
            messaging.begin(&parameter.iv()?, &aad, parameter.tag_len)
        })
    })
}

/// C_EncryptMessageNext, section 5.9.4.
#[allow(clippy::too_many_arguments, reason = "the specification's")]
pub(crate) unsafe extern "C" fn encrypt_message_next(
    session: CK_SESSION_HANDLE,
    parameter: *mut c_void,
    parameter_len: CK_ULONG,
    plaintext: *mut u8,
    plaintext_len: CK_ULONG,
    ciphertext: *mut u8,
    ciphertext_len: *mut CK_ULONG,
    flags: CK_FLAGS,
) -> CK_RV {
    answer("C_EncryptMessageNext", || {
        with_module(|module| {
            let messaging = busy(encrypting(module.session(session)?))?;
            // SAFETY: the caller's parameter, data and memory.
            let (parameter, plaintext, output) = unsafe {
                (
                    GcmMessage::read(parameter, parameter_len)?,
                    Foreign::many(plaintext, plaintext_len)?,
                    Output::new(ciphertext, ciphertext_len)?,
                )
            };
            let room = output.room(plaintext.len())?;
            let plaintext = plaintext
                .bytes(MOST_AT_ONCE)
                .ok_or(Fault::Code(CKR_DATA_LEN_RANGE))?;
            if let Room::LengthOnly = room {
                return Ok(());
            }
            // What is wrong with the tag's place is found before anything goes out.
            let tag = match flags & CKF_END_OF_MESSAGE {
                0 => None,
                _ => Some(messaging.tag_of(&parameter)?),
            };
            let mut message = take(&mut messaging.message)?;
            output.give(&message.cipher.encrypt(plaintext)?)?;
            match tag {
                Some(tag) => tag.fill(&message.cipher.tag()),
                None => messaging.message = Some(message),
            }
            Ok(())
        })
    })
}

/// C_DecryptMessageNext, section 5.11.4: the plaintext goes out with the last part, when the tag was
/// compared.
#[allow(clippy::too_many_arguments, reason = "the specification's")]
pub(crate) unsafe extern "C" fn decrypt_message_next(
    session: CK_SESSION_HANDLE,
    parameter: *mut c_void,
    parameter_len: CK_ULONG,
    ciphertext: *mut u8,
    ciphertext_len: CK_ULONG,
    plaintext: *mut u8,
    plaintext_len: *mut CK_ULONG,
    flags: CK_FLAGS,
) -> CK_RV {
    answer("C_DecryptMessageNext", || {
        with_module(|module| {
            let messaging = busy(decrypting(module.session(session)?))?;
            // SAFETY: the caller's parameter, data and memory.
            let (parameter, ciphertext, output) = unsafe {
                (
                    GcmMessage::read(parameter, parameter_len)?,
                    Foreign::many(ciphertext, ciphertext_len)?,
                    Output::new(plaintext, plaintext_len)?,
                )
            };
            let message = messaging
                .message
                .as_mut()
                .ok_or(Fault::Code(CKR_OPERATION_NOT_INITIALIZED))?;
            let more = ciphertext
                .bytes(MOST_AT_ONCE - message.pending.len().min(MOST_AT_ONCE))
                .ok_or(Fault::Code(CKR_ENCRYPTED_DATA_LEN_RANGE))?;
            let is_last = flags & CKF_END_OF_MESSAGE != 0;
            let len = if is_last {
                message.pending.len() + more.len()
            } else {
                0
            };
            if let Room::LengthOnly = output.room(len)? {
                return Ok(());
            }
            if is_last {
                messaging.tag_of(&parameter)?;
            }
            let mut message = take(&mut messaging.message)?;
            message.pending.extend_from_slice(&more);
            if !is_last {
                messaging.message = Some(message);
                return output.give(&[]);
            }
            let tag = parameter.given_tag()?;
            let opened = (message.cipher.open(message.pending, &tag))
                .ok_or(Fault::Code(CKR_AEAD_DECRYPT_FAILED))?;
            output.give(&opened)
        })
    })
}

/// C_MessageEncryptFinal, section 5.9.5.
pub(crate) unsafe extern "C" fn message_encrypt_final(session: CK_SESSION_HANDLE) -> CK_RV {
    answer("C_MessageEncryptFinal", || {
        with_module(|module| take(encrypting(module.session(session)?)).map(|_| ()))
    })
}

/// C_MessageDecryptFinal, section 5.11.5.
pub(crate) unsafe extern "C" fn message_decrypt_final(session: CK_SESSION_HANDLE) -> CK_RV {
    answer("C_MessageDecryptFinal", || {
        with_module(|module| take(decrypting(module.session(session)?)).map(|_| ()))
    })
}

/// C_MessageSignInit, section 5.14.1: there is no mechanism for it.
pub(crate) unsafe extern "C" fn message_sign_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    _: CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_MessageSignInit", || {
        // SAFETY: the caller's CK_MECHANISM.
        let chosen = unsafe { Chosen::read(mechanism, CKF_MESSAGE_SIGN) };
        refuse(session, chosen)
    })
}

/// C_MessageVerifyInit, section 5.16.1: there is no mechanism for it.
pub(crate) unsafe extern "C" fn message_verify_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    _: CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_MessageVerifyInit", || {
        // SAFETY: the caller's CK_MECHANISM.
        let chosen = unsafe { Chosen::read(mechanism, CKF_MESSAGE_VERIFY) };
        refuse(session, chosen)
    })
}

fn refuse(session: CK_SESSION_HANDLE, chosen: Answer<Option<Chosen>>) -> Answer {
    with_module(|module| {
        module.session(session)?;
        match chosen? {
            Some(_) => Err(Fault::Code(CKR_MECHANISM_INVALID)),
            // Ends what goes on, which is nothing.
            None => Ok(()),
        }
    })
}

/// What is left of message-based signing where nothing can have begun.
pub(crate) mod not_begun {
    use super::{
        Answer, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CKR_OPERATION_NOT_INITIALIZED, Fault, answer,
        c_void, with_module,
    };

    fn not_begun(session: CK_SESSION_HANDLE) -> Answer {
        with_module(|module| {
            module.session(session)?;
            Err(Fault::Code(CKR_OPERATION_NOT_INITIALIZED))
        })
    }

    /// C_SignMessage, section 5.14.2.
    pub(crate) unsafe extern "C" fn sign_message(
        session: CK_SESSION_HANDLE,
        _: *mut c_void,
        _: CK_ULONG,
        _: *mut u8,
        _: CK_ULONG,
        _: *mut u8,
        _: *mut CK_ULONG,
    ) -> CK_RV {
        answer("C_SignMessage", || not_begun(session))
    }

    /// C_SignMessageBegin, section 5.14.3.
    pub(crate) unsafe extern "C" fn sign_message_begin(
        session: CK_SESSION_HANDLE,
        _: *mut c_void,
        _: CK_ULONG,
    ) -> CK_RV {
        answer("C_SignMessageBegin", || not_begun(session))
    }

    /// C_SignMessageNext, section 5.14.4.
    pub(crate) unsafe extern "C" fn sign_message_next(
        session: CK_SESSION_HANDLE,
        _: *mut c_void,
        _: CK_ULONG,
        _: *mut u8,
        _: CK_ULONG,
        _: *mut u8,
        _: *mut CK_ULONG,
    ) -> CK_RV {
        answer("C_SignMessageNext", || not_begun(session))
    }

    /// C_MessageSignFinal, section 5.14.5, and C_MessageVerifyFinal, section 5.16.5.
    pub(crate) unsafe extern "C" fn message_final(session: CK_SESSION_HANDLE) -> CK_RV {
        answer("C_MessageSignFinal or C_MessageVerifyFinal", || {
            not_begun(session)
        })
    }

    /// C_VerifyMessage, section 5.16.2.
    pub(crate) unsafe extern "C" fn verify_message(
        session: CK_SESSION_HANDLE,
        _: *mut c_void,
        _: CK_ULONG,
        _: *mut u8,
        _: CK_ULONG,
        _: *mut u8,
        _: CK_ULONG,
    ) -> CK_RV {
        answer("C_VerifyMessage", || not_begun(session))
    }

    /// C_VerifyMessageBegin, section 5.16.3.
    pub(crate) unsafe extern "C" fn verify_message_begin(
        session: CK_SESSION_HANDLE,
        _: *mut c_void,
        _: CK_ULONG,
    ) -> CK_RV {
        answer("C_VerifyMessageBegin", || not_begun(session))
    }

    /// C_VerifyMessageNext, section 5.16.4.
    pub(crate) unsafe extern "C" fn verify_message_next(
        session: CK_SESSION_HANDLE,
        _: *mut c_void,
        _: CK_ULONG,
        _: *mut u8,
        _: CK_ULONG,
        _: *mut u8,
        _: CK_ULONG,
    ) -> CK_RV {
        answer("C_VerifyMessageNext", || not_begun(session))
    }
}

/// The operation, with no message begun.
fn idle(place: &mut Option<Messaging>) -> Answer<&mut Messaging> {
    let messaging = busy(place)?;
    if messaging.message.is_some() {
        return Err(Fault::Code(CKR_OPERATION_ACTIVE));
    }
    Ok(messaging)
}

fn busy(place: &mut Option<Messaging>) -> Answer<&mut Messaging> {
    place
        .as_mut()
        .ok_or(Fault::Code(CKR_OPERATION_NOT_INITIALIZED))
}

impl Messaging {
    fn begin(&mut self, iv: &[u8], aad: &Foreign<u8>, tag_len: usize) -> Answer {
        let aad = aad.bytes(MAX_AAD).ok_or(Fault::Code(CKR_DATA_LEN_RANGE))?;
        self.message = Some(Message {
            cipher: MessageCipher::new(&self.key, iv, &aad, tag_len)?,
            pending: Vec::new(),
        });
        Ok(())
    }

    /// Where the tag of the message that goes on is, which must be as long as was said when it began.
    fn tag_of<'a>(&self, parameter: &'a GcmMessage) -> Answer<&'a Foreign<u8>> {
        let begun = self.message.as_ref().map(|it| it.cipher.tag_len());
        let tag = parameter.tag()?;
        if begun.is_some_and(|len| len != tag.len()) {
            return Err(Fault::Code(CKR_MECHANISM_PARAM_INVALID));
        }
        Ok(tag)
    }
}

/// What goes with one message (section 6.13.4), in the caller's memory. Of one that comes in parts, the
/// initialization vector is of use at its beginning alone, and the tag at its end.
struct GcmMessage {
    iv: Option<Foreign<u8>>,
    fixed_bits: CK_ULONG,
    generator: CK_ULONG,
    tag: Option<Foreign<u8>>,
    tag_len: usize,
}

impl GcmMessage {
    /// # Safety
    /// `parameter` is null or the caller's CK_GCM_MESSAGE_PARAMS, and what it points to the caller's
    /// memory of the lengths that it says.
    unsafe fn read(parameter: *mut c_void, len: CK_ULONG) -> Answer<Self> {
        if usize::try_from(len) != Ok(size_of::<CK_GCM_MESSAGE_PARAMS>()) {
            return Err(Fault::Code(CKR_ARGUMENTS_BAD));
        }
        // SAFETY: the caller vouches for it.
        let given = unsafe { Foreign::one(parameter.cast::<CK_GCM_MESSAGE_PARAMS>()) }?.get(0);
        let tag_len = tag_len(given.ulTagBits)?;
        // SAFETY: the caller vouches for both.
        unsafe {
            Ok(Self {
                iv: Foreign::many(given.pIv, given.ulIvLen).ok(),
                fixed_bits: given.ulIvFixedBits,
                generator: given.ivGenerator,
                tag: Foreign::many(given.pTag, ulong(tag_len)).ok(),
                tag_len,
            })
        }
    }

    /// Where the initialization vector is: 1 to 256 bytes.
    fn place_of_iv(&self) -> Answer<&Foreign<u8>> {
        (self.iv.as_ref())
            .filter(|iv| (1..=256).contains(&iv.len()))
            .ok_or(Fault::Code(CKR_MECHANISM_PARAM_INVALID))
    }

    fn iv(&self) -> Answer<Vec<u8>> {
        (self.place_of_iv()?.bytes(256)).ok_or(Fault::Code(CKR_MECHANISM_PARAM_INVALID))
    }

    /// Where the tag is.
    fn tag(&self) -> Answer<&Foreign<u8>> {
        (self.tag.as_ref()).ok_or(Fault::Code(CKR_MECHANISM_PARAM_INVALID))
    }

    /// The tag that came with a ciphertext.
    fn given_tag(&self) -> Answer<Vec<u8>> {
        (self.tag()?.bytes(16)).ok_or(Fault::Code(CKR_MECHANISM_PARAM_INVALID))
    }

    /// The same, made here where the caller wants that, and told. Counters would begin anew with each
    /// operation, and so come twice under one key: there are none.
    fn iv_to_encrypt(&self) -> Answer<Vec<u8>> {
        let invalid = || Fault::Code(CKR_MECHANISM_PARAM_INVALID);
        let mut iv = self.iv()?;
        match self.generator {
            CKG_NO_GENERATE => Ok(iv),
            CKG_GENERATE | CKG_GENERATE_RANDOM => {
                let fixed = usize::try_from(self.fixed_bits)
                    .ok()
                    .filter(|bits| bits % 8 == 0)
                    .map(|bits| bits / 8)
                    // NIST SP 800-38D, section 8.2.2: 96 random bits at least.
                    .filter(|fixed| fixed + 12 <= iv.len())
                    .ok_or_else(invalid)?;
                let random = Secret::random(iv.len() - fixed);
                iv[fixed..].copy_from_slice(random.expose());
                self.place_of_iv()?.fill(&iv);
                Ok(iv)
            }
            _ => Err(invalid()),
        }
    }
}
