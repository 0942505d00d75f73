//! Keys, and what is done with them.

use std::thread;
use std::time::Duration;

use super::*;
use crate::foreign::ulong;
use crate::source::IDLE;

/// For tests alone: an RSA key of 2048 bits, PKCS#8, and a certificate of it.
pub(super) const RSA: &[u8] = include_bytes!("rsa.der");
const CERTIFICATE: &[u8] = include_bytes!("certificate.der");

/// The slot of the token `keys`.
pub(super) const KEYS: CK_SLOT_ID = 2;

pub(super) const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
pub(super) const YES: &[u8] = &[CK_TRUE];
pub(super) const NO: &[u8] = &[CK_FALSE];

pub(super) type Outcome<T> = std::result::Result<T, CK_RV>;
pub(super) type Template<'a> = &'a [(CK_ATTRIBUTE_TYPE, &'a [u8])];

impl Host {
    pub(super) fn writing(&self, slot: CK_SLOT_ID) -> CK_SESSION_HANDLE {
        let mut session = 0;
        let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
        assert_eq!(
            call!(self.C_OpenSession(slot, flags, null(), None, &raw mut session)),
            CKR_OK
        );
        session
    }

    pub(super) fn create(&self, session: CK_SESSION_HANDLE, given: Template<'_>) -> Outcome<u64> {
        let mut template = written(given);
        let (count, mut object) = (ulong(given.len()), 0);
        let start = template.as_mut_ptr();
        match call!(self.C_CreateObject(session, start, count, &raw mut object)) {
            CKR_OK => Ok(object),
            code => Err(code),
        }
    }

    /// A key of AES whose value the caller gives.
    fn aes(&self, session: CK_SESSION_HANDLE, token: &[u8], rest: Template<'_>) -> Outcome<u64> {
        let (class, aes) = (CKO_SECRET_KEY.to_ne_bytes(), CKK_AES.to_ne_bytes());
        let key: Template<'_> = &[
            (CKA_CLASS, &class),
            (CKA_KEY_TYPE, &aes),
            (CKA_VALUE, &[5; 16]),
            (CKA_TOKEN, token),
        ];
        self.create(session, &[key, rest].concat())
    }

    pub(super) fn generate_pair(
        &self,
        session: CK_SESSION_HANDLE,
        kind: CK_MECHANISM_TYPE,
        public: Template<'_>,
        private: Template<'_>,
    ) -> Outcome<(u64, u64)> {
        let (mut for_public, mut for_private) = (written(public), written(private));
        let (mut mechanism, mut one, mut two) = (plain(kind), 0, 0);
        let code = call!(self.C_GenerateKeyPair(
            session,
            &raw mut mechanism,
            for_public.as_mut_ptr(),
            ulong(public.len()),
            for_private.as_mut_ptr(),
            ulong(private.len()),
            &raw mut one,
            &raw mut two
        ));
        match code {
            CKR_OK => Ok((one, two)),
            code => Err(code),
        }
    }

    pub(super) fn generate(
        &self,
        session: CK_SESSION_HANDLE,
        kind: CK_MECHANISM_TYPE,
        given: Template<'_>,
    ) -> Outcome<u64> {
        let mut template = written(given);
        let (mut mechanism, mut key) = (plain(kind), 0);
        let (start, count) = (template.as_mut_ptr(), ulong(given.len()));
        match call!(self.C_GenerateKey(session, &raw mut mechanism, start, count, &raw mut key)) {
            CKR_OK => Ok(key),
            code => Err(code),
        }
    }

    pub(super) fn set(
        &self,
        session: CK_SESSION_HANDLE,
        object: u64,
        given: Template<'_>,
    ) -> CK_RV {
        let mut template = written(given);
        let (start, count) = (template.as_mut_ptr(), ulong(given.len()));
        call!(self.C_SetAttributeValue(session, object, start, count))
    }

    pub(super) fn get(
        &self,
        session: CK_SESSION_HANDLE,
        object: u64,
        kind: CK_ATTRIBUTE_TYPE,
    ) -> Outcome<Vec<u8>> {
        let mut room = vec![0; 4096];
        let mut template = [ask(kind, Some(&mut room))];
        match self.read(session, object, &mut template) {
            CKR_OK => {
                let len = usize::try_from(template[0].ulValueLen).expect("a length");
                room.truncate(len);
                Ok(room)
            }
            code => Err(code),
        }
    }

    pub(super) fn sign(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &mut CK_MECHANISM,
        key: u64,
        data: &[u8],
    ) -> Outcome<Vec<u8>> {
        match call!(self.C_SignInit(session, mechanism, key)) {
            CKR_OK => {}
            code => return Err(code),
        }
        let (mut room, mut len) = (vec![0; 1024], 1024);
        let (start, count) = (data.as_ptr().cast_mut(), ulong(data.len()));
        match call!(self.C_Sign(session, start, count, room.as_mut_ptr(), &raw mut len)) {
            CKR_OK => {
                room.truncate(usize::try_from(len).expect("a length"));
                Ok(room)
            }
            code => Err(code),
        }
    }

    pub(super) fn verify(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &mut CK_MECHANISM,
        key: u64,
        data: &[u8],
        signature: &[u8],
    ) -> CK_RV {
        match call!(self.C_VerifyInit(session, mechanism, key)) {
            CKR_OK => {}
            code => return code,
        }
        call!(self.C_Verify(
            session,
            data.as_ptr().cast_mut(),
            ulong(data.len()),
            signature.as_ptr().cast_mut(),
            ulong(signature.len())
        ))
    }

    /// An EC key pair in the vault: a session, the public and the private key.
    pub(super) fn with_pair(&self) -> (CK_SESSION_HANDLE, u64, u64) {
        let session = self.writing(KEYS);
        let (public, private) = self
            .generate_pair(
                session,
                CKM_EC_KEY_PAIR_GEN,
                &[(CKA_EC_PARAMS, P256), (CKA_TOKEN, YES)],
                &[(CKA_TOKEN, YES), (CKA_LABEL, b"ssh"), (CKA_ID, b"\x01")],
            )
            .expect("a key pair");
        (session, public, private)
    }

    /// The RSA key in the vault.
    pub(super) fn with_rsa(&self) -> (CK_SESSION_HANDLE, u64, u64) {
        let session = self.writing(KEYS);
        let bits = 2048_usize.to_ne_bytes();
        let (public, private) = self
            .generate_pair(
                session,
                CKM_RSA_PKCS_KEY_PAIR_GEN,
                &[(CKA_MODULUS_BITS, &bits), (CKA_PUBLIC_EXPONENT, &[1, 0, 1])],
                &[(CKA_TOKEN, YES)],
            )
            .expect("a key pair");
        (session, public, private)
    }
}

pub(super) fn written(given: Template<'_>) -> Vec<CK_ATTRIBUTE> {
    given
        .iter()
        .map(|(kind, bytes)| CK_ATTRIBUTE {
            type_: *kind,
            pValue: bytes.as_ptr().cast_mut().cast(),
            ulValueLen: ulong(bytes.len()),
        })
        .collect()
}

pub(super) fn plain(kind: CK_MECHANISM_TYPE) -> CK_MECHANISM {
    CK_MECHANISM {
        mechanism: kind,
        pParameter: null(),
        ulParameterLen: 0,
    }
}

pub(super) fn with_parameter<T>(kind: CK_MECHANISM_TYPE, parameter: &mut T) -> CK_MECHANISM {
    CK_MECHANISM {
        mechanism: kind,
        pParameter: ptr::from_mut(parameter).cast(),
        ulParameterLen: ulong(size_of::<T>()),
    }
}

#[test]
fn a_key_pair_is_one_object_with_two_faces() {
    let host = Host::with(Fake::default());
    let (session, public, private) = host.with_pair();
    let get = |object, kind| host.get(session, object, kind);
    for object in [public, private] {
        assert_eq!(get(object, CKA_LABEL).as_deref(), Ok(&b"ssh"[..]));
        assert_eq!(get(object, CKA_ID).as_deref(), Ok(&b"\x01"[..]));
        assert_eq!(get(object, CKA_TOKEN).as_deref(), Ok(YES));
        assert_eq!(get(object, CKA_PRIVATE).as_deref(), Ok(NO));
        assert_eq!(get(object, CKA_LOCAL).as_deref(), Ok(YES));
        assert_eq!(get(object, CKA_EC_PARAMS).as_deref(), Ok(P256));
        assert_eq!(get(object, CKA_MODULUS), Err(CKR_ATTRIBUTE_TYPE_INVALID));
        let made_by = CKM_EC_KEY_PAIR_GEN.to_ne_bytes();
        assert_eq!(
            get(object, CKA_KEY_GEN_MECHANISM).as_deref(),
            Ok(&made_by[..])
        );
    }
    assert_ne!(get(public, CKA_UNIQUE_ID), get(private, CKA_UNIQUE_ID));
    // A DER OCTET STRING of an uncompressed point.
    let point = get(public, CKA_EC_POINT).expect("a point");
    assert_eq!((point.len(), &point[..3]), (67, &[4, 65, 4][..]));
    assert_eq!(get(private, CKA_VALUE), Err(CKR_ATTRIBUTE_SENSITIVE));
    for (kind, expected) in [
        (CKA_SENSITIVE, YES),
        (CKA_ALWAYS_SENSITIVE, YES),
        (CKA_EXTRACTABLE, NO),
        (CKA_NEVER_EXTRACTABLE, YES),
        (CKA_ALWAYS_AUTHENTICATE, NO),
        (CKA_SIGN, YES),
        (CKA_DERIVE, YES),
        (CKA_DECRYPT, NO),
    ] {
        assert_eq!(get(private, kind).as_deref(), Ok(expected), "{kind:#x}");
    }

    // The public key goes alone; the private one takes what is left.
    assert_eq!(call!(host.C_DestroyObject(session, public)), CKR_OK);
    assert_eq!(host.find(session, &[]), [private]);
    let mut size = 0;
    assert_eq!(
        call!(host.C_GetObjectSize(session, public, &raw mut size)),
        CKR_OBJECT_HANDLE_INVALID
    );
    assert_eq!(call!(host.C_DestroyObject(session, private)), CKR_OK);
    assert!(host.find(session, &[]).is_empty());
}

#[test]
fn a_signature_is_given_by_the_conventions_of_the_specification() {
    let host = Host::with(Fake::default());
    let (session, public, private) = host.with_pair();
    let mut mechanism = plain(CKM_ECDSA_SHA256);
    let data = b"to be signed".as_ptr().cast_mut();
    let (mut signature, mut len) = ([0; 100], 100);
    let room = signature.as_mut_ptr();
    let sign = |room, len: &mut CK_ULONG| call!(host.C_Sign(session, data, 12, room, len));
    assert_eq!(sign(room, &mut len), CKR_OPERATION_NOT_INITIALIZED);
    let init = |mechanism| call!(host.C_SignInit(session, mechanism, private));
    assert_eq!(init(&raw mut mechanism), CKR_OK);
    assert_eq!(init(&raw mut mechanism), CKR_OPERATION_ACTIVE);
    assert_eq!((sign(null(), &mut len), len), (CKR_OK, 64));
    len = 63;
    assert_eq!((sign(room, &mut len), len), (CKR_BUFFER_TOO_SMALL, 64));
    assert_eq!((sign(room, &mut len), len), (CKR_OK, 64));
    assert_eq!(sign(room, &mut len), CKR_OPERATION_NOT_INITIALIZED);
    let mut verify =
        |data, signature| host.verify(session, &mut mechanism, public, data, signature);
    assert_eq!(verify(b"to be signed", &signature[..64]), CKR_OK);
    assert_eq!(
        verify(b"to be signee", &signature[..64]),
        CKR_SIGNATURE_INVALID
    );
    assert_eq!(
        verify(b"to be signed", &signature[..63]),
        CKR_SIGNATURE_LEN_RANGE
    );
    assert_eq!(verify(b"to be signed", &[7; 64]), CKR_SIGNATURE_INVALID);

    // In parts; a failure ends the operation, and so does a null mechanism.
    let (again, part) = (&mut plain(CKM_ECDSA_SHA256), b"to be ".as_ptr().cast_mut());
    assert_eq!(init(again), CKR_OK);
    assert_eq!(call!(host.C_SignUpdate(session, part, 6)), CKR_OK);
    assert_eq!(sign(room, &mut len), CKR_OPERATION_NOT_INITIALIZED);
    assert_eq!(init(again), CKR_OK);
    assert_eq!(call!(host.C_SignUpdate(session, part, 6)), CKR_OK);
    let rest = b"signed".as_ptr().cast_mut();
    assert_eq!(call!(host.C_SignUpdate(session, rest, 6)), CKR_OK);
    assert_eq!(
        call!(host.C_SignFinal(session, null(), &raw mut len)),
        CKR_OK
    );
    assert_eq!(call!(host.C_SignFinal(session, room, &raw mut len)), CKR_OK);
    assert_eq!(verify(b"to be signed", &signature[..64]), CKR_OK);
    assert_eq!(init(again), CKR_OK);
    assert_eq!(
        call!(host.C_SignUpdate(session, null(), 6)),
        CKR_ARGUMENTS_BAD
    );
    assert_eq!(
        call!(host.C_SignFinal(session, room, &raw mut len)),
        CKR_OPERATION_NOT_INITIALIZED
    );
    assert_eq!(init(again), CKR_OK);
    assert_eq!(init(null()), CKR_OK);
    assert_eq!(init(again), CKR_OK);
}

#[test]
fn keys_do_what_they_are_for_and_nothing_else() {
    let host = Host::with(Fake::default());
    let (session, public, private) = host.with_pair();
    let init = |key, kind| call!(host.C_SignInit(session, &mut plain(kind), key));
    assert_eq!(init(999, CKM_ECDSA), CKR_KEY_HANDLE_INVALID);
    assert_eq!(init(public, CKM_ECDSA), CKR_KEY_TYPE_INCONSISTENT);
    assert_eq!(init(private, CKM_RSA_PKCS), CKR_KEY_TYPE_INCONSISTENT);
    assert_eq!(init(private, CKM_SHA256), CKR_MECHANISM_INVALID);
    assert_eq!(init(private, CKM_ECDH1_DERIVE), CKR_MECHANISM_INVALID);
    let mut odd = plain(CKM_ECDSA);
    odd.ulParameterLen = 3;
    assert_eq!(
        call!(host.C_SignInit(session, &raw mut odd, private)),
        CKR_MECHANISM_PARAM_INVALID
    );
    assert_eq!(host.set(session, private, &[(CKA_SIGN, NO)]), CKR_OK);
    assert_eq!(init(private, CKM_ECDSA), CKR_KEY_FUNCTION_NOT_PERMITTED);
    // Tokens without keys have no mechanisms.
    let elsewhere = host.session(1);
    assert_eq!(
        call!(host.C_DigestInit(elsewhere, &mut plain(CKM_SHA256))),
        CKR_MECHANISM_INVALID
    );
    let only = CKM_ECDSA_SHA256.to_ne_bytes();
    let (_, limited) = host
        .generate_pair(
            session,
            CKM_EC_KEY_PAIR_GEN,
            &[(CKA_EC_PARAMS, P384)],
            &[(CKA_TOKEN, YES), (CKA_ALLOWED_MECHANISMS, &only)],
        )
        .expect("a key pair");
    assert_eq!(init(limited, CKM_ECDSA), CKR_KEY_FUNCTION_NOT_PERMITTED);
    assert_eq!(init(limited, CKM_ECDSA_SHA256), CKR_OK);
}

/// Encrypts and decrypts, with buffers that are too small once.
fn round_trip(
    host: &Host,
    session: CK_SESSION_HANDLE,
    kind: CK_MECHANISM_TYPE,
    public: u64,
    private: u64,
) -> Vec<u8> {
    let mut label = [0xff, 0, 0x80];
    let mut oaep = CK_RSA_PKCS_OAEP_PARAMS {
        hashAlg: CKM_SHA256,
        mgf: CKG_MGF1_SHA1,
        source: CKZ_DATA_SPECIFIED,
        pSourceData: label.as_mut_ptr().cast(),
        ulSourceDataLen: 3,
    };
    let mut mechanism = if kind == CKM_RSA_PKCS_OAEP {
        with_parameter(kind, &mut oaep)
    } else {
        plain(kind)
    };
    let (mut encrypted, mut len) = ([0; 256], 255);
    let data = b"secret".as_ptr().cast_mut();
    assert_eq!(
        call!(host.C_EncryptInit(session, &raw mut mechanism, public)),
        CKR_OK
    );
    let room = encrypted.as_mut_ptr();
    let encrypt = |len: &mut CK_ULONG| call!(host.C_Encrypt(session, data, 6, room, len));
    assert_eq!(encrypt(&mut len), CKR_BUFFER_TOO_SMALL);
    assert_eq!((encrypt(&mut len), len), (CKR_OK, 256));

    assert_eq!(
        call!(host.C_DecryptInit(session, &raw mut mechanism, private)),
        CKR_OK
    );
    let (mut plaintext, mut len) = ([0; 256], 0);
    let decrypt = |room: *mut u8, len: &mut CK_ULONG| {
        call!(host.C_Decrypt(session, room_of(&encrypted), 256, room, len))
    };
    assert_eq!((decrypt(null(), &mut len), len), (CKR_OK, 256));
    len = 5;
    let room = plaintext.as_mut_ptr();
    assert_eq!((decrypt(room, &mut len), len), (CKR_BUFFER_TOO_SMALL, 6));
    assert_eq!((decrypt(room, &mut len), len), (CKR_OK, 6));

    // Spoilt, and too short.
    let mut spoilt = encrypted;
    spoilt[0] = 0;
    spoilt[100] ^= 1;
    for (ciphertext, expected) in [
        (&spoilt[..], CKR_ENCRYPTED_DATA_INVALID),
        (&spoilt[..255], CKR_ENCRYPTED_DATA_LEN_RANGE),
    ] {
        let mut len = 256;
        let mut sink = [0; 256];
        assert_eq!(
            call!(host.C_DecryptInit(session, &raw mut mechanism, private)),
            CKR_OK
        );
        let count = ulong(ciphertext.len());
        let start = room_of(ciphertext);
        let room = sink.as_mut_ptr();
        assert_eq!(
            call!(host.C_Decrypt(session, start, count, room, &raw mut len)),
            expected
        );
    }
    plaintext[..6].to_vec()
}

pub(super) fn room_of(bytes: &[u8]) -> *mut u8 {
    bytes.as_ptr().cast_mut()
}

fn derive(
    host: &Host,
    session: CK_SESSION_HANDLE,
    key: u64,
    point: &[u8],
    given: Template<'_>,
) -> Outcome<u64> {
    let mut parameter = CK_ECDH1_DERIVE_PARAMS {
        kdf: CKD_NULL,
        ulSharedDataLen: 0,
        pSharedData: null(),
        ulPublicDataLen: ulong(point.len()),
        pPublicData: room_of(point),
    };
    let mut mechanism = with_parameter(CKM_ECDH1_DERIVE, &mut parameter);
    let mut template = written(given);
    let (start, count, mut derived) = (template.as_mut_ptr(), ulong(given.len()), 0);
    let code = call!(host.C_DeriveKey(
        session,
        &raw mut mechanism,
        key,
        start,
        count,
        &raw mut derived
    ));
    if code == CKR_OK {
        Ok(derived)
    } else {
        Err(code)
    }
}

#[test]
fn a_plaintext_costs_the_key_one_use() {
    let fake = Fake::default();
    let decrypted = Arc::clone(&fake.decrypted);
    let host = Host::with(fake);
    let (session, public, private) = host.with_rsa();
    round_trip(&host, session, CKM_RSA_PKCS, public, private);
    // Once for the good ciphertext, once for the spoilt one of the right length.
    assert_eq!(decrypted.load(Ordering::Relaxed), 2);
}

#[test]
fn both_sides_derive_the_same() {
    let host = Host::with(Fake::default());
    let (session, public, private) = host.with_pair();
    // A session key on the other side.
    let (other_public, other_private) = host
        .generate_pair(session, CKM_EC_KEY_PAIR_GEN, &[(CKA_EC_PARAMS, P256)], &[])
        .expect("a key pair");
    assert_eq!(
        host.get(session, other_private, CKA_TOKEN).as_deref(),
        Ok(NO)
    );
    let point = |key| host.get(session, key, CKA_EC_POINT).expect("a point");
    let readable: Template<'_> = &[(CKA_SENSITIVE, NO), (CKA_EXTRACTABLE, YES)];
    let value = |key| host.get(session, key, CKA_VALUE).expect("a value");
    let one = derive(&host, session, private, &point(other_public), readable).expect("a key");
    // The point as it is, without its DER.
    let two = derive(&host, session, other_private, &point(public)[2..], readable);
    let two = two.expect("a key");
    assert_eq!(value(one), value(two));
    // A shorter key is the end of the agreed value.
    let (len, aes) = (16_usize.to_ne_bytes(), CKK_AES.to_ne_bytes());
    let short: Template<'_> = &[
        (CKA_SENSITIVE, NO),
        (CKA_EXTRACTABLE, YES),
        (CKA_VALUE_LEN, &len),
        (CKA_KEY_TYPE, &aes),
    ];
    let three = derive(&host, session, private, &point(other_public), short).expect("a key");
    assert_eq!(value(three), value(one)[16..]);
    let off = [&[4, 65, 4][..], &[1; 64]].concat();
    assert_eq!(
        derive(&host, session, private, &off, &[]),
        Err(CKR_MECHANISM_PARAM_INVALID)
    );
}

#[test]
fn private_keys_come_from_templates() {
    let host = Host::with(Fake::default());
    let session = host.writing(KEYS);
    let (private, ec) = (CKO_PRIVATE_KEY.to_ne_bytes(), CKK_EC.to_ne_bytes());
    let value = [9; 32];
    let mut template = vec![
        (CKA_CLASS, &private[..]),
        (CKA_KEY_TYPE, &ec),
        (CKA_EC_PARAMS, P256),
        (CKA_VALUE, &value),
        (CKA_TOKEN, YES),
        (CKA_SUBJECT, b"0\0"),
    ];
    let key = host.create(session, &template).expect("a key");
    assert_eq!(host.get(session, key, CKA_LOCAL).as_deref(), Ok(NO));
    assert_eq!(
        host.get(session, key, CKA_NEVER_EXTRACTABLE).as_deref(),
        Ok(NO)
    );
    assert_eq!(
        host.get(session, key, CKA_SUBJECT).as_deref(),
        Ok(&b"0\0"[..])
    );
    let signature = host.sign(session, &mut plain(CKM_ECDSA), key, &[1; 32]);
    let class = CKO_PUBLIC_KEY.to_ne_bytes();
    let public = host.find(session, &[(CKA_CLASS, &class)])[0];
    let verified = host.verify(
        session,
        &mut plain(CKM_ECDSA),
        public,
        &[1; 32],
        &signature.expect("a signature"),
    );
    assert_eq!(verified, CKR_OK);

    // In the vault a key cannot be anything but sensitive; in memory it can.
    template.push((CKA_SENSITIVE, NO));
    template.push((CKA_EXTRACTABLE, YES));
    assert_eq!(
        host.create(session, &template),
        Err(CKR_TEMPLATE_INCONSISTENT)
    );
    template[4].1 = NO;
    let key = host.create(session, &template).expect("a key");
    assert_eq!(host.get(session, key, CKA_VALUE).as_deref(), Ok(&value[..]));
    // What is no key: no number below the order, and nothing at all.
    template[3].1 = &[0xff; 32];
    assert_eq!(
        host.create(session, &template),
        Err(CKR_ATTRIBUTE_VALUE_INVALID)
    );
    template.remove(3);
    assert_eq!(
        host.create(session, &template),
        Err(CKR_TEMPLATE_INCOMPLETE)
    );
}

#[test]
fn a_public_key_that_is_there_already_is_that_of_its_private_key() {
    let host = Host::with(Fake::default());
    let (session, public, private) = host.with_pair();
    let get = |kind| host.get(session, public, kind).expect("an attribute");
    let (class, ec, point) = (
        CKO_PUBLIC_KEY.to_ne_bytes(),
        CKK_EC.to_ne_bytes(),
        get(CKA_EC_POINT),
    );
    let template: Template<'_> = &[
        (CKA_CLASS, &class),
        (CKA_KEY_TYPE, &ec),
        (CKA_EC_PARAMS, P256),
        (CKA_EC_POINT, &point),
        (CKA_TOKEN, YES),
        (CKA_LABEL, b"for others"),
    ];
    assert_eq!(host.create(session, template), Ok(public));
    assert_eq!(get(CKA_LABEL), b"for others");
    assert_eq!(
        host.get(session, private, CKA_LABEL).as_deref(),
        Ok(&b"ssh"[..])
    );
    assert_eq!(host.find(session, &[]).len(), 2);
    // Alone, it is an object of its own.
    assert_eq!(call!(host.C_DestroyObject(session, private)), CKR_OK);
    let alone = host.create(session, template).expect("a public key");
    assert_eq!(host.find(session, &[(CKA_CLASS, &class)]), [alone]);
    assert_eq!(host.get(session, alone, CKA_EC_POINT), Ok(point));
}

#[test]
fn certificates_say_what_is_in_them() {
    let host = Host::with(Fake::default());
    let session = host.writing(KEYS);
    let (class, x509) = (CKO_CERTIFICATE.to_ne_bytes(), CKC_X_509.to_ne_bytes());
    let mut template = vec![
        (CKA_CLASS, &class[..]),
        (CKA_CERTIFICATE_TYPE, &x509),
        (CKA_VALUE, CERTIFICATE),
        (CKA_TOKEN, YES),
        (CKA_LABEL, b""),
        (CKA_ID, b"\x02"),
    ];
    let certificate = host.create(session, &template).expect("a certificate");
    let get = |kind| host.get(session, certificate, kind).expect("an attribute");
    assert_eq!(get(CKA_VALUE), CERTIFICATE);
    assert_eq!(get(CKA_SUBJECT), get(CKA_ISSUER));
    assert!(get(CKA_SUBJECT).ends_with(b"strongroom test"));
    assert_eq!(get(CKA_SERIAL_NUMBER)[0], 2, "a DER INTEGER");
    assert_eq!((get(CKA_LABEL), get(CKA_ID)), (vec![], vec![2]));
    let subject = get(CKA_SUBJECT);
    assert_eq!(
        host.find(session, &[(CKA_SUBJECT, &subject)]),
        [certificate]
    );
    template[2].1 = b"no certificate";
    assert_eq!(
        host.create(session, &template),
        Err(CKR_ATTRIBUTE_VALUE_INVALID)
    );
}

#[test]
fn values_are_read_only_where_the_specification_lets_them() {
    let host = Host::with(Fake::default());
    let session = host.writing(KEYS);
    let (class, aes) = (CKO_SECRET_KEY.to_ne_bytes(), CKK_AES.to_ne_bytes());
    for token in [YES, NO] {
        let create = |rest| host.aes(session, token, rest);
        let key = create(&[(CKA_SENSITIVE, NO), (CKA_EXTRACTABLE, YES)]).expect("a key");
        let get = |kind| host.get(session, key, kind);
        assert_eq!(get(CKA_VALUE).as_deref(), Ok(&[5; 16][..]));
        assert_eq!(get(CKA_KEY_TYPE).as_deref(), Ok(&aes[..]));
        // Only one way.
        assert_eq!(host.set(session, key, &[(CKA_SENSITIVE, YES)]), CKR_OK);
        assert_eq!(get(CKA_VALUE), Err(CKR_ATTRIBUTE_SENSITIVE));
        assert_eq!(
            host.set(session, key, &[(CKA_SENSITIVE, NO)]),
            CKR_ATTRIBUTE_READ_ONLY
        );
        // Without PINs all objects are public: that is no word on whether they may be read.
        for said in [&[][..], &[(CKA_PRIVATE, NO)]] {
            let key = create(said).expect("a key");
            assert_eq!(
                host.get(session, key, CKA_VALUE),
                Err(CKR_ATTRIBUTE_SENSITIVE)
            );
        }
        assert_eq!(
            create(&[(CKA_VALUE_LEN, &class)]),
            Err(CKR_TEMPLATE_INCONSISTENT)
        );
        let len = host.create(
            session,
            &[
                (CKA_CLASS, &class),
                (CKA_KEY_TYPE, &aes),
                (CKA_VALUE, &[5; 15]),
            ],
        );
        assert_eq!(len, Err(CKR_ATTRIBUTE_VALUE_INVALID));
    }
}

#[test]
fn what_its_giver_says_needs_no_login_may_be_read() {
    let mut fake = Fake::default();
    for token in &mut fake.tokens {
        token.has_pins = token.name == TokenName::keys();
    }
    fake.user.limit = 10;
    let host = Host::with(fake);
    let session = host.writing(KEYS);
    let login = call!(host.C_Login(session, CKU_USER, b"1234".as_ptr().cast_mut(), 4));
    assert_eq!(login, CKR_OK);
    let len = 16_u64.to_ne_bytes();
    for token in [YES, NO] {
        let create = |rest| host.aes(session, token, rest);
        let made: Template<'_> = &[(CKA_TOKEN, token), (CKA_PRIVATE, NO), (CKA_VALUE_LEN, &len)];
        for key in [
            create(&[]),
            create(&[(CKA_PRIVATE, YES)]),
            create(&[(CKA_PRIVATE, NO), (CKA_SENSITIVE, YES)]),
            create(&[(CKA_PRIVATE, NO), (CKA_EXTRACTABLE, NO)]),
            create(&[(CKA_PRIVATE, NO), (CKA_EXTRACTABLE, YES)]),
            create(&[(CKA_PRIVATE, NO), (CKA_SENSITIVE, NO)]),
            host.generate(session, CKM_AES_KEY_GEN, made),
        ] {
            let key = key.expect("a key");
            assert_eq!(
                host.get(session, key, CKA_VALUE),
                Err(CKR_ATTRIBUTE_SENSITIVE)
            );
        }
        let key = create(&[(CKA_PRIVATE, NO)]).expect("a key");
        let get = |kind| host.get(session, key, kind);
        assert_eq!(get(CKA_VALUE).as_deref(), Ok(&[5; 16][..]));
        assert_eq!(get(CKA_SENSITIVE).as_deref(), Ok(NO));
        assert_eq!(get(CKA_EXTRACTABLE).as_deref(), Ok(YES));
        assert_eq!(get(CKA_ALWAYS_SENSITIVE).as_deref(), Ok(NO));
        assert_eq!(get(CKA_NEVER_EXTRACTABLE).as_deref(), Ok(NO));
    }
}

#[test]
fn objects_change_as_far_as_they_may() {
    let host = Host::with(Fake::default());
    let session = host.writing(KEYS);
    let class = CKO_DATA.to_ne_bytes();
    for token in [YES, NO] {
        let template: Template<'_> = &[
            (CKA_CLASS, &class),
            (CKA_TOKEN, token),
            (CKA_VALUE, b"some data"),
            (CKA_LABEL, b"one"),
        ];
        let data = host.create(session, template).expect("data");
        let get = |kind| host.get(session, data, kind);
        assert_eq!(get(CKA_VALUE).as_deref(), Ok(&b"some data"[..]));
        assert_eq!(get(CKA_APPLICATION).as_deref(), Ok(&b""[..]));
        let set = |given: Template<'_>| host.set(session, data, given);
        // No label of the vault's, and yet a label.
        for label in [&b"two"[..], b"", b"\0\xff", b"three"] {
            assert_eq!(set(&[(CKA_LABEL, label), (CKA_APPLICATION, b"x")]), CKR_OK);
            assert_eq!(get(CKA_LABEL).as_deref(), Ok(label));
        }
        assert_eq!(get(CKA_APPLICATION).as_deref(), Ok(&b"x"[..]));
        assert_eq!(
            set(&[(CKA_LABEL, b"no"), (CKA_CLASS, &class)]),
            CKR_ATTRIBUTE_READ_ONLY
        );
        assert_eq!(
            set(&[(CKA_LABEL, b"no"), (CKA_MODULUS, b"")]),
            CKR_ATTRIBUTE_TYPE_INVALID
        );
        assert_eq!(
            get(CKA_LABEL).as_deref(),
            Ok(&b"three"[..]),
            "all or nothing"
        );
        let fixed: Template<'_> = &[(CKA_MODIFIABLE, NO), (CKA_DESTROYABLE, NO)];
        let fixed = host
            .create(session, &[template, fixed].concat())
            .expect("data");
        assert_eq!(
            host.set(session, fixed, &[(CKA_LABEL, b"")]),
            CKR_ACTION_PROHIBITED
        );
        assert_eq!(
            call!(host.C_DestroyObject(session, fixed)),
            CKR_ACTION_PROHIBITED
        );
        assert_eq!(call!(host.C_DestroyObject(session, data)), CKR_OK);
        assert_eq!(
            call!(host.C_DestroyObject(session, data)),
            CKR_OBJECT_HANDLE_INVALID
        );
    }
    // Only a session that may write touches what is in the vault.
    let (token, kept) = ((CKA_TOKEN, YES), (CKA_CLASS, &class[..]));
    let data = host.create(session, &[kept, token]).expect("data");
    let reading = host.session(KEYS);
    assert_eq!(
        host.create(reading, &[kept, token]),
        Err(CKR_SESSION_READ_ONLY)
    );
    assert_eq!(
        host.set(reading, data, &[(CKA_LABEL, b"")]),
        CKR_SESSION_READ_ONLY
    );
    assert_eq!(
        call!(host.C_DestroyObject(reading, data)),
        CKR_SESSION_READ_ONLY
    );
    assert!(host.create(reading, &[kept]).is_ok());
    let protected = host.session(1);
    assert_eq!(
        host.create(protected, &[kept, token]),
        Err(CKR_TOKEN_WRITE_PROTECTED)
    );
    let credential = host.find(protected, &[])[0];
    assert_eq!(
        call!(host.C_DestroyObject(protected, credential)),
        CKR_TOKEN_WRITE_PROTECTED
    );
}

#[test]
fn session_objects_go_with_their_session() {
    let host = Host::with(Fake::default());
    let (one, two) = (host.session(KEYS), host.session(KEYS));
    let class = CKO_DATA.to_ne_bytes();
    let data = host.create(one, &[(CKA_CLASS, &class)]).expect("data");
    assert_eq!(host.find(two, &[(CKA_TOKEN, NO)]), [data]);
    assert!(host.find(host.session(1), &[(CKA_TOKEN, NO)]).is_empty());
    assert_eq!(call!(host.C_CloseSession(one)), CKR_OK);
    assert!(host.find(two, &[(CKA_TOKEN, NO)]).is_empty());
}

#[test]
fn templates_that_make_no_sense_are_refused() {
    let host = Host::with(Fake::default());
    let session = host.writing(KEYS);
    let (class, odd) = (CKO_DATA.to_ne_bytes(), CKO_HW_FEATURE.to_ne_bytes());
    let create = |template: Template<'_>| host.create(session, template);
    let data = (CKA_CLASS, &class[..]);
    for (template, expected) in [
        (&[][..], CKR_TEMPLATE_INCOMPLETE),
        (&[data, data], CKR_TEMPLATE_INCONSISTENT),
        (&[(CKA_CLASS, &class[..3])], CKR_ATTRIBUTE_VALUE_INVALID),
        (&[(CKA_CLASS, &odd[..])], CKR_ATTRIBUTE_VALUE_INVALID),
        (&[data, (CKA_TOKEN, &[2])], CKR_ATTRIBUTE_VALUE_INVALID),
        (&[data, (CKA_MODIFIABLE, &[])], CKR_ATTRIBUTE_VALUE_INVALID),
        (&[data, (CKA_MODULUS, &[1])], CKR_ATTRIBUTE_TYPE_INVALID),
        (&[data, (CKA_UNIQUE_ID, &[1])], CKR_ATTRIBUTE_TYPE_INVALID),
    ] {
        assert_eq!(create(template), Err(expected), "{template:?}");
    }
    let pair = |public: Template<'_>, private: Template<'_>| {
        host.generate_pair(session, CKM_EC_KEY_PAIR_GEN, public, private)
    };
    let secp256k1: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a];
    assert_eq!(pair(&[], &[]), Err(CKR_TEMPLATE_INCOMPLETE));
    assert_eq!(
        pair(&[(CKA_EC_PARAMS, secp256k1)], &[]),
        Err(CKR_CURVE_NOT_SUPPORTED)
    );
    let curve = (CKA_EC_PARAMS, P256);
    let rsa = CKK_RSA.to_ne_bytes();
    assert_eq!(
        pair(&[curve, (CKA_KEY_TYPE, &rsa)], &[]),
        Err(CKR_TEMPLATE_INCONSISTENT)
    );
    assert_eq!(
        pair(&[curve, (CKA_TOKEN, YES)], &[]),
        Err(CKR_TEMPLATE_INCONSISTENT)
    );
    assert_eq!(
        pair(&[curve], &[(CKA_TOKEN, YES), (CKA_EXTRACTABLE, YES)]),
        Err(CKR_TEMPLATE_INCONSISTENT)
    );
    let bits = 1024_usize.to_ne_bytes();
    assert_eq!(
        host.generate_pair(
            session,
            CKM_RSA_PKCS_KEY_PAIR_GEN,
            &[(CKA_MODULUS_BITS, &bits)],
            &[(CKA_TOKEN, YES)]
        ),
        Err(CKR_KEY_SIZE_RANGE)
    );
}

#[test]
fn digests_come_in_one_piece_or_several() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let init = || call!(host.C_DigestInit(session, &mut plain(CKM_SHA256)));
    let (mut whole, mut parts, mut len) = ([0; 32], [0; 32], 32);
    let data = vec![b'x'; 10_000];
    let start = room_of(&data);
    assert_eq!(init(), CKR_OK);
    let room = whole.as_mut_ptr();
    assert_eq!(
        call!(host.C_Digest(session, start, 10_000, room, &raw mut len)),
        CKR_OK
    );
    assert_eq!(init(), CKR_OK);
    for _ in 0..4 {
        assert_eq!(call!(host.C_DigestUpdate(session, start, 2_500)), CKR_OK);
    }
    len = 31;
    let room = parts.as_mut_ptr();
    assert_eq!(
        call!(host.C_DigestFinal(session, room, &raw mut len)),
        CKR_BUFFER_TOO_SMALL
    );
    assert_eq!(
        call!(host.C_DigestFinal(session, room, &raw mut len)),
        CKR_OK
    );
    assert_eq!(whole, parts);
}

#[test]
fn random_numbers_are_random() {
    let host = Host::with(Fake::default());
    let session = host.session(0);
    let mut random = vec![0; 10_000];
    assert_eq!(
        call!(host.C_GenerateRandom(session, random.as_mut_ptr(), 10_000)),
        CKR_OK
    );
    // Sixteen zeros in a row come up once in 2^114.
    assert!(random.windows(16).all(|some| some != [0; 16]));
    assert_eq!(
        call!(host.C_SeedRandom(session, random.as_mut_ptr(), 9)),
        CKR_OK
    );
    let mut other = vec![0; 10_000];
    assert_eq!(
        call!(host.C_GenerateRandom(session, other.as_mut_ptr(), 10_000)),
        CKR_OK
    );
    assert_ne!(random, other);
    // More than one seed is good for.
    let mut much = vec![0; 3 << 20];
    let len = ulong(much.len());
    assert_eq!(
        call!(host.C_GenerateRandom(session, much.as_mut_ptr(), len)),
        CKR_OK
    );
    assert!(much.windows(16).all(|some| some != [0; 16]));
}

#[test]
fn the_tpm_is_let_go_when_idle_and_with_the_last_session() {
    let fake = Fake::default();
    let let_go = Arc::clone(&fake.let_go);
    let count = move || let_go.load(Ordering::Relaxed);
    let host = Host::with(fake);
    let (session, _, private) = host.with_pair();
    let other = host.session(0);
    let sign = || {
        host.sign(session, &mut plain(CKM_ECDSA), private, &[1; 32])
            .expect("a signature")
    };
    sign();
    sign();
    assert_eq!(count(), 0);
    // Patient, for the machine may be busy.
    let mut patience = 100;
    while count() == 0 && patience > 0 {
        thread::sleep(IDLE / 2);
        patience -= 1;
    }
    assert_eq!(count(), 1);
    sign();
    assert_eq!(call!(host.C_CloseSession(other)), CKR_OK);
    assert_eq!(call!(host.C_CloseSession(session)), CKR_OK);
    assert_eq!(count(), 2);
    let session = host.session(KEYS);
    let signed = host.sign(session, &mut plain(CKM_ECDSA), private, &[1; 32]);
    assert!(
        signed.is_ok(),
        "a handle outlives the session that it came from"
    );
    assert_eq!(call!(host.C_Finalize(null())), CKR_OK);
    assert_eq!(count(), 3);
    thread::sleep(Duration::from_millis(1));
}
