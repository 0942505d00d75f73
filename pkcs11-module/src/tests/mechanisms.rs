//! Every mechanism that the token lists, with what its specification says of it.

#![allow(
    clippy::too_many_lines,
    clippy::similar_names,
    reason = "a mechanism after the other, each by the names of the specification"
)]

use std::ffi::c_void;

use super::keys::{KEYS, NO, Outcome, Template, YES, plain, room_of, with_parameter, written};
use super::legacy::{DSA_1024, MODP_2048, bytes, peer};
use super::*;
use crate::foreign::ulong;
use crate::mechanisms::{Iteration, MECHANISMS, Method};

/// NIST SP 800-38A, appendix F: the key of AES-128, and four blocks.
const AES: &str = "2b7e151628aed2a6abf7158809cf4f3c";
const BLOCKS: &str = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
                      30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710";
const IV: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// A mechanism with whatever parameter it takes, of which this is the owner.
pub(super) struct With {
    pub(super) mechanism: CK_MECHANISM,
    owned: Vec<Box<dyn std::any::Any>>,
}

impl With {
    /// Keeps what the parameter points to.
    pub(super) fn own(&mut self, it: Box<dyn std::any::Any>) {
        self.owned.push(it);
    }
}

pub(super) fn of<T: 'static>(
    kind: CK_MECHANISM_TYPE,
    parameter: T,
    besides: Vec<Box<dyn std::any::Any>>,
) -> With {
    let mut parameter = Box::new(parameter);
    let mechanism = with_parameter(kind, &mut *parameter);
    let mut all = besides;
    all.push(parameter);
    With {
        mechanism,
        owned: all,
    }
}

/// What a mechanism of the table is used with.
pub(super) fn usual(kind: CK_MECHANISM_TYPE, method: Method) -> With {
    let pss = |hash, mgf, len| CK_RSA_PKCS_PSS_PARAMS {
        hashAlg: hash,
        mgf,
        sLen: len,
    };
    match method {
        Method::RsaPss(hash) => {
            let (name, mgf, len) = match hash.map_or(32, strongroom::key::Hash::digest_len) {
                20 => (CKM_SHA_1, CKG_MGF1_SHA1, 20),
                28 => (CKM_SHA224, CKG_MGF1_SHA1, 28),
                32 => (CKM_SHA256, CKG_MGF1_SHA256, 32),
                48 => (CKM_SHA384, CKG_MGF1_SHA384, 48),
                _ => (CKM_SHA512, CKG_MGF1_SHA512, 0),
            };
            of(kind, pss(name, mgf, len), Vec::new())
        }
        Method::RsaOaep => {
            let mut label = Box::new([0xff_u8, 0, 0x80]);
            let parameter = CK_RSA_PKCS_OAEP_PARAMS {
                hashAlg: CKM_SHA224,
                mgf: CKG_MGF1_SHA384,
                source: CKZ_DATA_SPECIFIED,
                pSourceData: (&raw mut *label).cast(),
                ulSourceDataLen: 3,
            };
            of(kind, parameter, vec![label])
        }
        Method::AesCbc { .. } => of(kind, IV, Vec::new()),
        Method::AesCtr => {
            let parameter = CK_AES_CTR_PARAMS {
                ulCounterBits: 32,
                cb: IV,
            };
            of(kind, parameter, Vec::new())
        }
        Method::AesGcm => gcm(&IV[..12], b"said in clear", 128),
        Method::Cmac { cut: true } | Method::AesMac { cut: true } => {
            of::<CK_ULONG>(kind, 8, Vec::new())
        }
        Method::Des3Cbc { .. } => of(kind, *b"its own.", Vec::new()),
        Method::Hmac { cut: true, .. } => of::<CK_ULONG>(kind, 10, Vec::new()),
        Method::DeriveEcb | Method::ConcatenateData { .. } | Method::Xor => {
            let mut data = Box::new(IV);
            let parameter = CK_KEY_DERIVATION_STRING_DATA {
                pData: data.as_mut_ptr(),
                ulLen: 16,
            };
            of(kind, parameter, vec![data])
        }
        Method::DeriveCbc => {
            let mut data = Box::new([7_u8; 32]);
            let parameter = CK_AES_CBC_ENCRYPT_DATA_PARAMS {
                iv: IV,
                pData: data.as_mut_ptr(),
                length: 32,
            };
            of(kind, parameter, vec![data])
        }
        Method::Extract => of::<CK_EXTRACT_PARAMS>(kind, 0, Vec::new()),
        Method::Kbkdf(iteration) => {
            let counter = CK_SP800_108_COUNTER_FORMAT {
                bLittleEndian: CK_FALSE,
                ulWidthInBits: 8,
            };
            kbkdf(iteration, CKM_SHA256_HMAC, counter, &[], &mut Vec::new())
        }
        _ => With {
            mechanism: plain(kind),
            owned: Vec::new(),
        },
    }
}

/// The derivation of NIST SP 800-108 over "label", a zero, "context" and the length of all keys in 32
/// bits, after the counter, or what is iterated and the counter.
pub(super) fn kbkdf(
    iteration: Iteration,
    function: CK_MECHANISM_TYPE,
    counter: CK_SP800_108_COUNTER_FORMAT,
    iv: &[u8],
    more: &mut Vec<CK_DERIVED_KEY>,
) -> With {
    let mut counter = Box::new(counter);
    let mut len = Box::new(CK_SP800_108_DKM_LENGTH_FORMAT {
        dkmLengthMethod: CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS,
        bLittleEndian: CK_FALSE,
        ulWidthInBits: 32,
    });
    let mut fixed = Box::new(*b"label\0context");
    let mut iv = Box::new(iv.to_vec());
    let field = |kind, start: *mut c_void, len| CK_PRF_DATA_PARAM {
        type_: kind,
        pValue: start,
        ulValueLen: ulong(len),
    };
    let count = (&raw mut *counter).cast();
    let count_len = size_of::<CK_SP800_108_COUNTER_FORMAT>();
    let mut fields = match iteration {
        Iteration::Counter => vec![field(CK_SP800_108_ITERATION_VARIABLE, count, count_len)],
        _ => vec![
            field(CK_SP800_108_ITERATION_VARIABLE, null(), 0),
            field(CK_SP800_108_COUNTER, count, count_len),
        ],
    };
    let (start, fixed_len) = ((&raw mut *fixed).cast(), fixed.len());
    fields.push(field(CK_SP800_108_BYTE_ARRAY, start, fixed_len));
    let start = (&raw mut *len).cast();
    let len_len = size_of::<CK_SP800_108_DKM_LENGTH_FORMAT>();
    fields.push(field(CK_SP800_108_DKM_LENGTH, start, len_len));
    let mut fields = Box::new(fields);
    let parameter = CK_SP800_108_KDF_PARAMS {
        prfType: function,
        ulNumberOfDataParams: ulong(fields.len()),
        pDataParams: fields.as_mut_ptr(),
        ulAdditionalDerivedKeys: ulong(more.len()),
        pAdditionalDerivedKeys: more.as_mut_ptr(),
    };
    let with_iv = CK_SP800_108_FEEDBACK_KDF_PARAMS {
        prfType: parameter.prfType,
        ulNumberOfDataParams: parameter.ulNumberOfDataParams,
        pDataParams: parameter.pDataParams,
        ulIVLen: ulong(iv.len()),
        pIV: iv.as_mut_ptr(),
        ulAdditionalDerivedKeys: parameter.ulAdditionalDerivedKeys,
        pAdditionalDerivedKeys: parameter.pAdditionalDerivedKeys,
    };
    let owned: Vec<Box<dyn std::any::Any>> = vec![counter, len, fixed, iv, fields];
    match iteration {
        Iteration::Counter => of(CKM_SP800_108_COUNTER_KDF, parameter, owned),
        Iteration::Feedback => of(CKM_SP800_108_FEEDBACK_KDF, with_iv, owned),
        Iteration::DoublePipeline => of(CKM_SP800_108_DOUBLE_PIPELINE_KDF, parameter, owned),
    }
}

pub(super) fn gcm(iv: &[u8], aad: &[u8], tag_bits: CK_ULONG) -> With {
    let (mut iv, mut aad) = (Box::new(iv.to_vec()), Box::new(aad.to_vec()));
    let parameter = CK_GCM_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: ulong(iv.len()),
        ulIvBits: ulong(iv.len() * 8),
        pAAD: aad.as_mut_ptr(),
        ulAADLen: ulong(aad.len()),
        ulTagBits: tag_bits,
    };
    of(CKM_AES_GCM, parameter, vec![iv, aad])
}

/// Which way a cipher goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Encrypt,
    Decrypt,
}

impl Host {
    pub(super) fn secret(
        &self,
        session: CK_SESSION_HANDLE,
        key_type: CK_KEY_TYPE,
        value: &[u8],
    ) -> u64 {
        let (class, kind) = (CKO_SECRET_KEY.to_ne_bytes(), key_type.to_ne_bytes());
        let mut template: Vec<(CK_ATTRIBUTE_TYPE, &[u8])> = vec![
            (CKA_CLASS, &class),
            (CKA_KEY_TYPE, &kind),
            (CKA_VALUE, value),
            (CKA_EXTRACTABLE, YES),
        ];
        if key_type == CKK_GENERIC_SECRET {
            template.push((CKA_SENSITIVE, NO));
        }
        for usage in [
            CKA_ENCRYPT,
            CKA_DECRYPT,
            CKA_SIGN,
            CKA_VERIFY,
            CKA_WRAP,
            CKA_UNWRAP,
            CKA_DERIVE,
        ] {
            template.push((usage, YES));
        }
        self.create(session, &template).expect("a secret key")
    }

    /// The value of a key that is derived, to be read.
    pub(super) fn derived(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &mut CK_MECHANISM,
        base: u64,
        len: Option<usize>,
    ) -> Outcome<Vec<u8>> {
        let len = len.map(usize::to_ne_bytes);
        let mut given: Vec<(CK_ATTRIBUTE_TYPE, &[u8])> =
            vec![(CKA_SENSITIVE, NO), (CKA_EXTRACTABLE, YES)];
        given.extend(len.as_ref().map(|len| (CKA_VALUE_LEN, &len[..])));
        let mut template = written(&given);
        let (start, count, mut key) = (template.as_mut_ptr(), ulong(given.len()), 0);
        match call!(self.C_DeriveKey(session, mechanism, base, start, count, &raw mut key)) {
            CKR_OK => self.get(session, key, CKA_VALUE),
            code => Err(code),
        }
    }

    pub(super) fn start(
        &self,
        session: CK_SESSION_HANDLE,
        way: Way,
        mechanism: &mut CK_MECHANISM,
        key: u64,
    ) -> CK_RV {
        match way {
            Way::Encrypt => call!(self.C_EncryptInit(session, mechanism, key)),
            Way::Decrypt => call!(self.C_DecryptInit(session, mechanism, key)),
        }
    }

    fn at_once(
        &self,
        session: CK_SESSION_HANDLE,
        way: Way,
        input: &[u8],
        room: *mut u8,
        len: &mut CK_ULONG,
    ) -> CK_RV {
        let (start, count) = (room_of(input), ulong(input.len()));
        match way {
            Way::Encrypt => call!(self.C_Encrypt(session, start, count, room, len)),
            Way::Decrypt => call!(self.C_Decrypt(session, start, count, room, len)),
        }
    }

    /// In one piece: first the length is asked for, then there is too little room, then enough.
    pub(super) fn crypt(
        &self,
        session: CK_SESSION_HANDLE,
        way: Way,
        mechanism: &mut CK_MECHANISM,
        key: u64,
        input: &[u8],
    ) -> Outcome<Vec<u8>> {
        let done = |code| if code == CKR_OK { Ok(()) } else { Err(code) };
        done(self.start(session, way, mechanism, key))?;
        let mut len = 0;
        done(self.at_once(session, way, input, null(), &mut len))?;
        let most = len;
        let mut out = vec![0; usize::try_from(most).expect("a length")];
        len = 0;
        let code = self.at_once(session, way, input, out.as_mut_ptr(), &mut len);
        if code != CKR_BUFFER_TOO_SMALL {
            // There was nothing to give, or it is no ciphertext.
            return done(code).map(|()| Vec::new());
        }
        len = most;
        done(self.at_once(session, way, input, out.as_mut_ptr(), &mut len))?;
        out.truncate(usize::try_from(len).expect("a length"));
        Ok(out)
    }

    /// In pieces of these lengths, again and again.
    pub(super) fn crypt_in_parts(
        &self,
        session: CK_SESSION_HANDLE,
        way: Way,
        mechanism: &mut CK_MECHANISM,
        key: u64,
        mut input: &[u8],
    ) -> Outcome<Vec<u8>> {
        let done = |code| if code == CKR_OK { Ok(()) } else { Err(code) };
        done(self.start(session, way, mechanism, key))?;
        let mut all = Vec::new();
        for len in [1, 15, 0, 16, 17, 31, 40].into_iter().cycle() {
            if input.is_empty() {
                break;
            }
            let (part, rest) = input.split_at(len.min(input.len()));
            input = rest;
            let mut room = vec![0; part.len() + 32];
            let mut got = ulong(room.len());
            let (start, count, to) = (room_of(part), ulong(part.len()), room.as_mut_ptr());
            done(match way {
                Way::Encrypt => {
                    call!(self.C_EncryptUpdate(session, start, count, to, &raw mut got))
                }
                Way::Decrypt => {
                    call!(self.C_DecryptUpdate(session, start, count, to, &raw mut got))
                }
            })?;
            all.extend(&room[..usize::try_from(got).expect("a length")]);
        }
        let mut got = 0;
        let mut last = |to: *mut u8| match way {
            Way::Encrypt => call!(self.C_EncryptFinal(session, to, &raw mut got)),
            Way::Decrypt => call!(self.C_DecryptFinal(session, to, &raw mut got)),
        };
        done(last(null()))?;
        let mut room = vec![0; 1024];
        got = 1024;
        let to = room.as_mut_ptr();
        done(match way {
            Way::Encrypt => call!(self.C_EncryptFinal(session, to, &raw mut got)),
            Way::Decrypt => call!(self.C_DecryptFinal(session, to, &raw mut got)),
        })?;
        all.extend(&room[..usize::try_from(got).expect("a length")]);
        Ok(all)
    }

    pub(super) fn sign_in_parts(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &mut CK_MECHANISM,
        key: u64,
        data: &[u8],
    ) -> Vec<u8> {
        assert_eq!(call!(self.C_SignInit(session, mechanism, key)), CKR_OK);
        for part in data.chunks(5) {
            let (start, len) = (room_of(part), ulong(part.len()));
            assert_eq!(call!(self.C_SignUpdate(session, start, len)), CKR_OK);
        }
        let (mut room, mut len) = (vec![0; 1024], 1024);
        let start = room.as_mut_ptr();
        assert_eq!(
            call!(self.C_SignFinal(session, start, &raw mut len)),
            CKR_OK
        );
        room.truncate(usize::try_from(len).expect("a length"));
        room
    }

    pub(super) fn wrap(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &mut CK_MECHANISM,
        with: u64,
        key: u64,
    ) -> Outcome<Vec<u8>> {
        let mut len = 0;
        match call!(self.C_WrapKey(session, mechanism, with, key, null(), &raw mut len)) {
            CKR_OK => {}
            code => return Err(code),
        }
        let mut room = vec![0; usize::try_from(len).expect("a length")];
        let start = room.as_mut_ptr();
        assert_eq!(
            call!(self.C_WrapKey(session, mechanism, with, key, start, &raw mut len)),
            CKR_OK
        );
        Ok(room)
    }

    pub(super) fn unwrap_with(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &mut CK_MECHANISM,
        with: u64,
        wrapped: &[u8],
        given: Template<'_>,
    ) -> Outcome<u64> {
        let mut template = written(given);
        let (mut key, count) = (0, ulong(given.len()));
        let (start, len) = (room_of(wrapped), ulong(wrapped.len()));
        let code = call!(self.C_UnwrapKey(
            session,
            mechanism,
            with,
            start,
            len,
            template.as_mut_ptr(),
            count,
            &raw mut key
        ));
        if code == CKR_OK { Ok(key) } else { Err(code) }
    }
}

/// Goes through the list that the token gives, so that nothing is listed that does not work: each in one
/// piece and in parts, there and back, and with what was spoilt.
/// The mechanisms of the token with keys.
pub(super) fn kinds(host: &Host) -> Vec<CK_MECHANISM_TYPE> {
    let mut count = 0;
    assert_eq!(
        call!(host.C_GetMechanismList(KEYS, null(), &raw mut count)),
        CKR_OK
    );
    let mut kinds = vec![0; usize::try_from(count).expect("a length")];
    let list = kinds.as_mut_ptr();
    assert_eq!(
        call!(host.C_GetMechanismList(KEYS, list, &raw mut count)),
        CKR_OK
    );
    kinds
}

#[test]
fn every_mechanism_that_is_listed_works() {
    let host = Host::with(Fake::default());
    let (session, ec_public, ec_private) = host.with_pair();
    let (_, rsa_public, rsa_private) = host.with_rsa();
    let usages: Vec<_> = [CKA_WRAP, CKA_VERIFY_RECOVER]
        .map(|usage| (usage, YES))
        .into();
    assert_eq!(host.set(session, rsa_public, &usages), CKR_OK);
    let usages: Vec<_> = [CKA_UNWRAP, CKA_SIGN_RECOVER]
        .map(|usage| (usage, YES))
        .into();
    assert_eq!(host.set(session, rsa_private, &usages), CKR_OK);
    let (ed_public, ed_private) = host
        .generate_pair(
            session,
            CKM_EC_EDWARDS_KEY_PAIR_GEN,
            &[],
            &[(CKA_TOKEN, YES)],
        )
        .expect("a key pair");
    let aes = host.secret(session, CKK_AES, &hex::decode(AES).expect("digits"));
    let generic = host.secret(session, CKK_GENERIC_SECRET, b"a key of any length");
    let des3 = host.secret(session, CKK_DES3, legacy::DES3);
    let (dsa_public, dsa_private) = host.with_dsa(session);
    let (dh_public, dh_private) = host.with_dh(session);
    let kinds = kinds(&host);
    assert_eq!(kinds.len(), MECHANISMS.len());
    for (kind, it) in kinds.into_iter().zip(MECHANISMS) {
        assert_eq!(kind, it.kind);
        let mut info = CK_MECHANISM_INFO::default();
        assert_eq!(
            call!(host.C_GetMechanismInfo(KEYS, kind, &raw mut info)),
            CKR_OK
        );
        let has = |flag| info.flags & flag != 0;
        let mut with = match it.method {
            Method::ConcatenateKey => of(kind, generic, Vec::new()),
            Method::Dh => peer(&host.get(session, dh_public, CKA_VALUE).expect("a value")),
            method => usual(kind, method),
        };
        let mechanism = &mut with.mechanism;
        let (public, private) = match it.method.key_type() {
            Some(CKK_RSA) => (rsa_public, rsa_private),
            Some(CKK_EC_EDWARDS) => (ed_public, ed_private),
            Some(CKK_AES) => (aes, aes),
            Some(CKK_GENERIC_SECRET) => (generic, generic),
            Some(CKK_DES3) => (des3, des3),
            Some(CKK_DSA) => (dsa_public, dsa_private),
            Some(CKK_DH) => (dh_public, dh_private),
            _ => (ec_public, ec_private),
        };
        let mut tried = 0;
        if has(CKF_SIGN) && has(CKF_VERIFY) {
            tried |= CKF_SIGN | CKF_VERIFY;
            let data = [7; 32];
            let signature = host.sign(session, mechanism, private, &data);
            let signature = signature.unwrap_or_else(|code| panic!("{kind:#x}: {code:#x}"));
            let in_parts = host.sign_in_parts(session, mechanism, private, &data);
            for signature in [&signature, &in_parts] {
                let verified = host.verify(session, mechanism, public, &data, signature);
                assert_eq!(verified, CKR_OK, "{kind:#x}");
            }
            let other = host.verify(session, mechanism, public, &[8; 32], &signature);
            assert_eq!(other, CKR_SIGNATURE_INVALID, "{kind:#x}");
            let short = host.verify(session, mechanism, public, &data, &signature[1..]);
            assert_eq!(short, CKR_SIGNATURE_LEN_RANGE, "{kind:#x}");
        }
        if has(CKF_SIGN_RECOVER) {
            tried |= CKF_SIGN_RECOVER | CKF_VERIFY_RECOVER;
            recover(&host, session, mechanism, public, private);
        }
        if has(CKF_ENCRYPT) && has(CKF_DECRYPT) {
            tried |= CKF_ENCRYPT | CKF_DECRYPT;
            let data: &[u8] = if it.method.key_type() == Some(CKK_RSA) {
                // For RSA alone, a number that is below any modulus.
                &[9; 32]
            } else {
                &[9; 160]
            };
            let context = format!("{kind:#x}");
            for encrypted in [
                host.crypt(session, Way::Encrypt, mechanism, public, data),
                host.crypt_in_parts(session, Way::Encrypt, mechanism, public, data),
            ] {
                let encrypted = encrypted.expect(&context);
                assert_ne!(encrypted, data);
                for decrypted in [
                    host.crypt(session, Way::Decrypt, mechanism, private, &encrypted),
                    host.crypt_in_parts(session, Way::Decrypt, mechanism, private, &encrypted),
                ] {
                    let decrypted = decrypted.expect(&context);
                    // Of RSA alone, zeros are before it.
                    let start = decrypted.len() - data.len();
                    assert_eq!(&decrypted[start..], data, "{context}");
                    assert!(start == 0 || kind == CKM_RSA_X_509, "{context}");
                }
            }
        }
        if has(CKF_WRAP) && has(CKF_UNWRAP) {
            tried |= CKF_WRAP | CKF_UNWRAP;
            wrap_and_unwrap(&host, session, mechanism, public, private);
        }
        if has(CKF_MESSAGE_ENCRYPT) && has(CKF_MESSAGE_DECRYPT) {
            tried |= CKF_MESSAGE_ENCRYPT | CKF_MESSAGE_DECRYPT | CKF_MULTI_MESSAGE;
            messages(&host, session, mechanism, aes);
        }
        if has(CKF_DIGEST) {
            tried |= CKF_DIGEST;
            let (mut digest, mut len) = ([0; 64], 64);
            assert_eq!(call!(host.C_DigestInit(session, mechanism)), CKR_OK);
            let (data, room) = (room_of(b"abc"), digest.as_mut_ptr());
            assert_eq!(
                call!(host.C_Digest(session, data, 3, room, &raw mut len)),
                CKR_OK
            );
            // FIPS 180-4's examples begin so.
            let start: [u8; 2] = match kind {
                CKM_SHA_1 => [0xa9, 0x99],
                CKM_SHA224 => [0x23, 0x09],
                CKM_SHA256 => [0xba, 0x78],
                CKM_SHA384 => [0xcb, 0x00],
                _ => [0xdd, 0xaf],
            };
            assert_eq!(digest[..2], start);
        }
        if has(CKF_GENERATE) {
            tried |= CKF_GENERATE;
            let (len, bits) = (16_usize.to_ne_bytes(), 1024_usize.to_ne_bytes());
            let (asked, given): (_, &[u8]) = match it.method {
                Method::DsaParameters => (CKA_PRIME_BITS, &bits),
                Method::SecretKey(CKK_DES2 | CKK_DES3) => (CKA_LABEL, b"old"),
                _ => (CKA_VALUE_LEN, &len),
            };
            let key = host.generate(session, kind, &[(asked, given)]);
            let key = key.expect("a key");
            assert_eq!(host.get(session, key, asked).as_deref(), Ok(given));
        }
        if has(CKF_GENERATE_KEY_PAIR) {
            tried |= CKF_GENERATE_KEY_PAIR;
            let bits = 2048_usize.to_ne_bytes();
            let p521: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
            let numbers = DSA_1024.map(bytes);
            let dsa: Vec<(_, &[u8])> = [CKA_PRIME, CKA_SUBPRIME, CKA_BASE]
                .into_iter()
                .zip(numbers.iter().map(Vec::as_slice))
                .collect();
            let prime = bytes(MODP_2048);
            let group: [(_, &[u8]); 2] = [(CKA_PRIME, &prime), (CKA_BASE, &[2])];
            let public: Template<'_> = match it.method {
                Method::RsaKeyPair => &[(CKA_MODULUS_BITS, &bits)],
                Method::EcKeyPair => &[(CKA_EC_PARAMS, p521)],
                Method::DsaKeyPair => &dsa,
                Method::DhKeyPair => &group,
                _ => &[],
            };
            let is_old = matches!(it.method, Method::DsaKeyPair | Method::DhKeyPair);
            for private in [&[(CKA_TOKEN, YES)], &[(CKA_TOKEN, NO)]] {
                if is_old && private[0].1 == YES {
                    let refused = host.generate_pair(session, kind, public, private);
                    assert_eq!(refused, Err(CKR_TEMPLATE_INCONSISTENT), "{kind:#x}");
                    continue;
                }
                if it.method == Method::RsaKeyPair && private[0].1 == NO {
                    continue; // It takes long.
                }
                let made = host.generate_pair(session, kind, public, private);
                assert!(made.is_ok(), "{kind:#x}: {made:?}");
            }
        }
        if has(CKF_DERIVE) && it.method != Method::Ecdh {
            tried |= CKF_DERIVE;
            // What has the value of a sensitive key has all of it.
            let len: usize = match it.method {
                Method::ConcatenateKey => 16 + b"a key of any length".len(),
                Method::ConcatenateData { .. } => 16 + 16,
                _ => 16,
            };
            let (mut key, len) = (0, len.to_ne_bytes());
            let base = if it.method == Method::Dh {
                dh_private
            } else {
                aes
            };
            let mut template = written(&[(CKA_VALUE_LEN, &len)]);
            let start = template.as_mut_ptr();
            assert_eq!(
                call!(host.C_DeriveKey(session, mechanism, base, start, 1, &raw mut key)),
                CKR_OK
            );
            if it.method == Method::Dh {
                continue;
            }
            // What comes of a sensitive key is not to be read either, but for what only a pseudorandom
            // function says of it (section 6.42).
            if matches!(it.method, Method::Kbkdf(_)) {
                continue;
            }
            let mut template = written(&[(CKA_SENSITIVE, NO)]);
            let start = template.as_mut_ptr();
            assert_eq!(
                call!(host.C_DeriveKey(session, mechanism, aes, start, 1, &raw mut key)),
                CKR_TEMPLATE_INCONSISTENT
            );
        }
        if it.method == Method::Ecdh {
            tried |= CKF_DERIVE;
            agree(&host, session, ec_public, ec_private);
            let x25519 = host
                .generate_pair(
                    session,
                    CKM_EC_MONTGOMERY_KEY_PAIR_GEN,
                    &[],
                    &[(CKA_TOKEN, YES)],
                )
                .expect("a key pair");
            agree(&host, session, x25519.0, x25519.1);
        }
        let known = CKF_HW | CKF_EC_F_P | CKF_EC_OID | CKF_EC_UNCOMPRESS | CKF_EC_CURVENAME;
        assert_eq!(info.flags & !known, tried, "{kind:#x}: all was tried");
    }
}

fn agree(host: &Host, session: CK_SESSION_HANDLE, public: u64, private: u64) {
    let mut point = host.get(session, public, CKA_EC_POINT).expect("a point");
    let mut parameter = CK_ECDH1_DERIVE_PARAMS {
        kdf: CKD_NULL,
        ulSharedDataLen: 0,
        pSharedData: null(),
        ulPublicDataLen: ulong(point.len()),
        pPublicData: point.as_mut_ptr(),
    };
    let mut mechanism = with_parameter(CKM_ECDH1_DERIVE, &mut parameter);
    let mut key = 0;
    let mut template = written(&[(CKA_SENSITIVE, NO), (CKA_EXTRACTABLE, YES)]);
    let start = template.as_mut_ptr();
    assert_eq!(
        call!(host.C_DeriveKey(session, &raw mut mechanism, private, start, 2, &raw mut key)),
        CKR_OK
    );
    assert!(
        host.get(session, key, CKA_VALUE)
            .is_ok_and(|value| value.len() == 32)
    );
}

fn recover(
    host: &Host,
    session: CK_SESSION_HANDLE,
    mechanism: &mut CK_MECHANISM,
    public: u64,
    private: u64,
) {
    let (mut signature, mut len) = ([0; 256], 256);
    assert_eq!(
        call!(host.C_SignRecoverInit(session, mechanism, private)),
        CKR_OK
    );
    let room = signature.as_mut_ptr();
    assert_eq!(
        call!(host.C_SignRecover(session, room_of(&[5; 20]), 20, room, &raw mut len)),
        CKR_OK
    );
    let mut recovered = [0; 256];
    len = 256;
    let room = recovered.as_mut_ptr();
    let mut again = |signature: &[u8]| {
        assert_eq!(
            call!(host.C_VerifyRecoverInit(session, mechanism, public)),
            CKR_OK
        );
        let start = room_of(signature);
        call!(host.C_VerifyRecover(session, start, 256, room, &raw mut len))
    };
    assert_eq!(again(&signature), CKR_OK);
    let len_now = usize::try_from(len).expect("a length");
    assert!(recovered[..len_now].ends_with(&[5; 20]));
}

fn wrap_and_unwrap(
    host: &Host,
    session: CK_SESSION_HANDLE,
    mechanism: &mut CK_MECHANISM,
    wrapping: u64,
    unwrapping: u64,
) {
    let value = [3; 24];
    let target = host.secret(session, CKK_AES, &value);
    let wrapped = host
        .wrap(session, mechanism, wrapping, target)
        .expect("it wraps");
    assert!(!wrapped.windows(8).any(|some| some == [3; 8]));
    let (class, kind) = (CKO_SECRET_KEY.to_ne_bytes(), CKK_AES.to_ne_bytes());
    let like = [(CKA_CLASS, &class[..]), (CKA_KEY_TYPE, &kind[..])];
    let open = [&like[..], &[(CKA_SENSITIVE, NO), (CKA_EXTRACTABLE, YES)]].concat();
    let key = host
        .unwrap_with(session, mechanism, unwrapping, &wrapped, &open)
        .expect("it unwraps");
    assert_eq!(host.get(session, key, CKA_VALUE).as_deref(), Ok(&value[..]));
    assert_eq!(host.get(session, key, CKA_LOCAL).as_deref(), Ok(NO));
    assert_eq!(
        host.get(session, key, CKA_NEVER_EXTRACTABLE).as_deref(),
        Ok(NO)
    );
    // Unless the template says so, nobody reads it or wraps it again.
    let key = host
        .unwrap_with(session, mechanism, unwrapping, &wrapped, &like)
        .expect("it unwraps");
    assert_eq!(
        host.get(session, key, CKA_VALUE),
        Err(CKR_ATTRIBUTE_SENSITIVE)
    );
    assert_eq!(
        host.wrap(session, mechanism, wrapping, key),
        Err(CKR_KEY_UNEXTRACTABLE)
    );
    // What is spoilt, and what is too short, is no key.
    let mut spoilt = wrapped.clone();
    let last = spoilt.len() - 1;
    spoilt[last] ^= 0x40;
    spoilt[0] = 0;
    for bad in [&spoilt[..], &wrapped[..1], &[]] {
        let outcome = host.unwrap_with(session, mechanism, unwrapping, bad, &like);
        assert!(
            matches!(
                outcome,
                Err(CKR_WRAPPED_KEY_INVALID
                    | CKR_WRAPPED_KEY_LEN_RANGE
                    | CKR_ENCRYPTED_DATA_LEN_RANGE)
            ),
            "{outcome:?}"
        );
    }
}

fn messages(host: &Host, session: CK_SESSION_HANDLE, mechanism: &mut CK_MECHANISM, key: u64) {
    // Both are written through the parameter.
    let mut both = [0_u8; 28];
    let start = both.as_mut_ptr();
    let mut parameter = |generator| CK_GCM_MESSAGE_PARAMS {
        pIv: start,
        ulIvLen: 12,
        ulIvFixedBits: 0,
        ivGenerator: generator,
        pTag: start.wrapping_add(12),
        ulTagBits: 128,
    };
    let mut parameter = [CKG_GENERATE, CKG_NO_GENERATE].map(&mut parameter);
    let len = ulong(size_of::<CK_GCM_MESSAGE_PARAMS>());
    let [making, given] = parameter
        .each_mut()
        .map(|it| ptr::from_mut(it).cast::<c_void>());
    // SAFETY: our own memory, through the pointer that the parameters have too.
    let read = || unsafe { start.cast::<[u8; 28]>().read() };
    // SAFETY: the same.
    let write = |bytes: [u8; 28]| unsafe { start.cast::<[u8; 28]>().write(bytes) };
    assert_eq!(
        call!(host.C_MessageEncryptInit(session, mechanism, key)),
        CKR_OK
    );
    let (aad, data) = (room_of(b"aad"), room_of(&[1; 40]));
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (mut sealed, mut got) = ([0; 40], 40);
        let room = sealed.as_mut_ptr();
        assert_eq!(
            call!(host.C_EncryptMessage(
                session,
                making,
                len,
                aad,
                3,
                data,
                40,
                room,
                &raw mut got
            )),
            CKR_OK
        );
        seen.push((read(), sealed));
    }
    assert_ne!(
        seen[0].0[..12],
        seen[1].0[..12],
        "each message has an initialization vector of its own"
    );
    // In parts it is the same.
    let (mut sealed, mut got) = ([0; 40], 25);
    assert_eq!(
        call!(host.C_EncryptMessageBegin(session, given, len, aad, 3)),
        CKR_OK
    );
    let room = sealed.as_mut_ptr();
    assert_eq!(
        call!(host.C_EncryptMessageNext(session, given, len, data, 25, room, &raw mut got, 0)),
        CKR_OK
    );
    got = 15;
    let (data, room) = (data.wrapping_add(25), room.wrapping_add(25));
    assert_eq!(
        call!(host.C_EncryptMessageNext(
            session,
            given,
            len,
            data,
            15,
            room,
            &raw mut got,
            CKF_END_OF_MESSAGE
        )),
        CKR_OK
    );
    assert_eq!((read(), sealed), seen[1]);
    assert_eq!(call!(host.C_MessageEncryptFinal(session)), CKR_OK);
    assert_eq!(
        call!(host.C_MessageEncryptFinal(session)),
        CKR_OPERATION_NOT_INITIALIZED
    );

    assert_eq!(
        call!(host.C_MessageDecryptInit(session, mechanism, key)),
        CKR_OK
    );
    for (number, (its_own, sealed)) in seen.iter().enumerate() {
        write(*its_own);
        let (mut opened, mut got) = ([0; 40], 40);
        let (start, room) = (room_of(sealed), opened.as_mut_ptr());
        if number == 0 {
            assert_eq!(
                call!(host.C_DecryptMessage(
                    session,
                    given,
                    len,
                    aad,
                    3,
                    start,
                    40,
                    room,
                    &raw mut got
                )),
                CKR_OK
            );
        } else {
            assert_eq!(
                call!(host.C_DecryptMessageBegin(session, given, len, aad, 3)),
                CKR_OK
            );
            assert_eq!(
                call!(host.C_DecryptMessageNext(
                    session,
                    given,
                    len,
                    start,
                    40,
                    room,
                    &raw mut got,
                    CKF_END_OF_MESSAGE
                )),
                CKR_OK
            );
        }
        assert_eq!(opened, [1; 40]);
    }
    // Another tag, or other additional data.
    let mut spoilt = seen[1].0;
    spoilt[27] ^= 1;
    let (mut opened, mut got) = ([0; 40], 40);
    let (start, room) = (room_of(&seen[1].1), opened.as_mut_ptr());
    for (its_own, aad_len) in [(spoilt, 3), (seen[1].0, 2)] {
        write(its_own);
        assert_eq!(
            call!(host.C_DecryptMessage(
                session,
                given,
                len,
                aad,
                aad_len,
                start,
                40,
                room,
                &raw mut got
            )),
            CKR_AEAD_DECRYPT_FAILED
        );
    }
    assert_eq!(opened, [0; 40]);
    assert_eq!(call!(host.C_MessageDecryptFinal(session)), CKR_OK);
}

/// Examples of those who specified them.
#[test]
fn known_answers() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let bytes = |digits: &str| hex::decode(digits).expect("digits");
    let aes = host.secret(session, CKK_AES, &bytes(AES));
    let blocks = bytes(BLOCKS);
    let mut counter = [0; 16];
    counter.copy_from_slice(&bytes("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"));
    // NIST SP 800-38A, appendices F.1.1, F.2.1 and F.5.1.
    for (mut with, first, last) in [
        (
            usual(CKM_AES_ECB, Method::AesEcb),
            "3ad77bb40d7a3660a89ecaf32466ef97",
            "7b0c785e27e8ad3f8223207104725dd4",
        ),
        (
            usual(CKM_AES_CBC, Method::AesCbc { padded: false }),
            "7649abac8119b246cee98e9b12e9197d",
            "3ff1caa1681fac09120eca307586e1a7",
        ),
        (
            of(
                CKM_AES_CTR,
                CK_AES_CTR_PARAMS {
                    ulCounterBits: 128,
                    cb: counter,
                },
                Vec::new(),
            ),
            "874d6191b620e3261bef6864990db6ce",
            "1e031dda2fbe03d1792170a0f3009cee",
        ),
    ] {
        let encrypted = host
            .crypt(session, Way::Encrypt, &mut with.mechanism, aes, &blocks)
            .expect("it encrypts");
        assert_eq!(encrypted[..16], bytes(first));
        assert_eq!(encrypted[48..], bytes(last));
    }
    // The GCM specification's test cases 4, 5 and 6: initialization vectors of 12, 8 and 60 bytes.
    let key = host.secret(session, CKK_AES, &bytes("feffe9928665731c6d6a8f9467308308"));
    let plaintext = bytes(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
         1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    );
    let aad = bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    for (iv, tag) in [
        (
            "cafebabefacedbaddecaf888",
            "5bc94fbc3221a5db94fae95ae7121a47",
        ),
        ("cafebabefacedbad", "3612d2e79e3b0785561be14aaca2fccb"),
        (
            "9313225df88406e555909c5aff5269aa6a7a9538534f7da1e4c303d2a318a728\
             c3c0c95156809539fcf0e2429a6b525416aedbf5a0de6a57a637b39b",
            "619cc5aefffe0bfa462af43c1699d050",
        ),
    ] {
        let mut with = gcm(&bytes(iv), &aad, 128);
        let encrypted = host
            .crypt_in_parts(session, Way::Encrypt, &mut with.mechanism, key, &plaintext)
            .expect("it encrypts");
        assert_eq!(encrypted[60..], bytes(tag));
    }
    // RFC 4493, section 4, examples 1 and 3; RFC 4231, section 4.3.
    let mut cmac = plain(CKM_AES_CMAC);
    for (data, code) in [
        (&blocks[..0], "bb1d6929e95937287fa37d129b756746"),
        (&blocks[..40], "dfa66747de9ae63030ca32611497c827"),
    ] {
        let signed = host.sign(session, &mut cmac, aes, data).expect("a code");
        assert_eq!(signed, bytes(code));
    }
    let jefe = host.secret(session, CKK_SHA256_HMAC, b"Jefe");
    let data = b"what do ya want for nothing?";
    let signed = host.sign(session, &mut plain(CKM_SHA256_HMAC), jefe, data);
    let right = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    assert_eq!(signed, Ok(bytes(right)));
    assert_eq!(
        host.sign(session, &mut plain(CKM_SHA512_HMAC), jefe, data),
        Err(CKR_KEY_TYPE_INCONSISTENT)
    );
    // RFC 3394, section 4.1; RFC 5649, section 6.
    let kek = host.secret(session, CKK_AES, &bytes("000102030405060708090a0b0c0d0e0f"));
    let target = host.secret(session, CKK_AES, &bytes("00112233445566778899aabbccddeeff"));
    assert_eq!(
        host.wrap(session, &mut plain(CKM_AES_KEY_WRAP), kek, target),
        Ok(bytes("1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5"))
    );
    let kek = "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8";
    let kek = host.secret(session, CKK_AES, &bytes(kek));
    let short = host.secret(session, CKK_GENERIC_SECRET, &bytes("466f7250617369"));
    assert_eq!(
        host.wrap(session, &mut plain(CKM_AES_KEY_WRAP_KWP), kek, short),
        Ok(bytes("afbeb0f07dfbf5419200f2ccb50bb24f"))
    );
    assert_eq!(
        host.wrap(session, &mut plain(CKM_AES_KEY_WRAP), kek, short),
        Err(CKR_KEY_SIZE_RANGE)
    );
}

/// RFC 8032, sections 7.1 (test 2), 7.2 (foo), 7.3, 7.4 (1 octet, with context and without) and 7.5 (TEST abc
/// with context).
#[test]
fn signatures_of_edwards_curves_are_known() {
    const OF_25519: &[u8] = b"\x13\x0cedwards25519";
    const OF_448: &[u8] = b"\x13\x0aedwards448";
    const ED448: &str = "c4eab05d357007c632f3dbb48489924d552b08fe0c353a0d4a1f00acda2c463a\
                         fbea67c5e8d2877c5e3bc397a659949ef8021e954e0a12274e";
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let bytes = |digits: &str| hex::decode(digits).expect("digits");
    let (class, kind) = (CKO_PRIVATE_KEY.to_ne_bytes(), CKK_EC_EDWARDS.to_ne_bytes());
    let key = |curve: &[u8], seed: &str| {
        let template = [
            (CKA_CLASS, &class[..]),
            (CKA_KEY_TYPE, &kind),
            (CKA_EC_PARAMS, curve),
            (CKA_VALUE, &bytes(seed)),
        ];
        host.create(session, &template)
    };
    let abc_448 = "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42\
                   ef7822e0d5104127dc05d6dbefde69e3ab2cec7c867c6e2c49";
    for (curve, seed, parameter, message, right) in [
        (
            OF_25519,
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            None,
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            OF_25519,
            "0305334e381af78f141cb666f6199f57bc3495335a256a95bd2a55bf546663f6",
            Some((CK_FALSE, &b"foo"[..])),
            "f726936d19c800494e3fdaff20b276a8",
            "55a4cc2f70a54e04288c5f4cd1e45a7bb520b36292911876cada7323198dd87a\
             8b36950b95130022907a7fb7c4e9b2d5f6cca685a587b4b21f4b888e4e7edb0d",
        ),
        (
            OF_25519,
            "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
            Some((CK_TRUE, b"")),
            "616263",
            "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae41\
             31f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406",
        ),
        (
            OF_448,
            ED448,
            None,
            "03",
            "26b8f91727bd62897af15e41eb43c377efb9c610d48f2335cb0bd0087810f435\
             2541b143c4b981b7e18f62de8ccdf633fc1bf037ab7cd779805e0dbcc0aae1cb\
             cee1afb2e027df36bc04dcecbf154336c19f0af7e0a6472905e799f1953d2a0f\
             f3348ab21aa4adafd1d234441cf807c03a00",
        ),
        (
            OF_448,
            ED448,
            Some((CK_FALSE, b"foo")),
            "03",
            "d4f8f6131770dd46f40867d6fd5d5055de43541f8c5e35abbcd001b32a89f7d2\
             151f7647f11d8ca2ae279fb842d607217fce6e042f6815ea000c85741de5c8da\
             1144a6a1aba7f96de42505d7a7298524fda538fccbbb754f578c1cad10d54d0d\
             5428407e85dcbc98a49155c13764e66c3c00",
        ),
        (
            OF_448,
            abc_448,
            Some((CK_TRUE, b"foo")),
            "616263",
            "c32299d46ec8ff02b54540982814dce9a05812f81962b649d528095916a2aa48\
             1065b1580423ef927ecf0af5888f90da0f6a9a85ad5dc3f280d91224ba9911a3\
             653d00e484e2ce232521481c8658df304bb7745a73514cdb9bf3e15784ab7128\
             4f8d0704a608c54a6b62d97beb511d132100",
        ),
    ] {
        let private = key(curve, seed).expect("a private key");
        let signed = if let Some((flag, context)) = parameter {
            let parameter = CK_EDDSA_PARAMS {
                phFlag: flag,
                ulContextDataLen: ulong(context.len()),
                pContextData: context.as_ptr().cast_mut(),
            };
            let mut with = of(CKM_EDDSA, parameter, Vec::new());
            host.sign(session, &mut with.mechanism, private, &bytes(message))
        } else {
            host.sign(session, &mut plain(CKM_EDDSA), private, &bytes(message))
        };
        assert_eq!(signed, Ok(bytes(right)));
    }
    // A seed of the other curve's.
    assert_eq!(key(OF_25519, ED448), Err(CKR_ATTRIBUTE_VALUE_INVALID));
    assert_eq!(key(OF_448, &ED448[2..]), Err(CKR_ATTRIBUTE_VALUE_INVALID));
}

/// Of HMAC and CMAC with counter and feedback, OpenSSL says the same, and python-cryptography; of the
/// double pipeline what NIST SP 800-108, section 5.3, says was computed by Python's hmac.
#[test]
fn derived_keys_are_known() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let bytes = |digits: &str| hex::decode(digits).expect("digits");
    let counter = |width| CK_SP800_108_COUNTER_FORMAT {
        bLittleEndian: CK_FALSE,
        ulWidthInBits: width,
    };
    let base = host.secret(session, CKK_GENERIC_SECRET, &IV);
    let aes = host.secret(session, CKK_AES, &IV);
    let (hmac, cmac) = (CKM_SHA256_HMAC, CKM_AES_CMAC);
    let none = &mut Vec::new();
    for (base, mut with, right) in [
        (
            base,
            kbkdf(Iteration::Counter, hmac, counter(32), &[], none),
            "ea7d2f723c7c89aff21be0deb82b56a4a8245b01afe4a26f5bd4cf6bafd59f0337835beb381a6598",
        ),
        (
            aes,
            kbkdf(Iteration::Counter, cmac, counter(16), &[], none),
            "8a704fde618e6980772a611a93f00dd4d02e8c124934821dffc9740751771bdf70ce16ad3482bff7",
        ),
        (
            base,
            kbkdf(Iteration::Feedback, hmac, counter(32), &[7; 32], none),
            "ac3f9e4874878a54acd482996edf3df0fe894a4a591876877ea5b4fb32bd56d890b911a9e55a2128",
        ),
        (
            base,
            kbkdf(Iteration::DoublePipeline, hmac, counter(8), &[], none),
            "420c82460c6d799d136783df8dfc3ccfb8ef0becdbe3fa8b4060668329fb1ed05f5e1c026e1c0814",
        ),
    ] {
        let made = host.derived(session, &mut with.mechanism, base, Some(40));
        assert_eq!(made, Ok(bytes(right)));
    }
    // CMAC is AES's.
    let mut with = kbkdf(Iteration::Counter, cmac, counter(16), &[], none);
    assert_eq!(
        host.derived(session, &mut with.mechanism, base, Some(16)),
        Err(CKR_KEY_TYPE_INCONSISTENT)
    );
    // A counter of eight bits counts to 255.
    let mut with = kbkdf(Iteration::Counter, hmac, counter(8), &[], none);
    for (len, right) in [(255 * 32, true), (256 * 32, false)] {
        let made = host.derived(session, &mut with.mechanism, base, Some(len));
        assert_eq!(made != Err(CKR_KEY_SIZE_RANGE), right, "{len}");
    }

    // PKCS#11 3.1, section 6.43: its own examples, and what follows from them.
    let example = host.secret(session, CKK_GENERIC_SECRET, &bytes("329f84a9"));
    let mut with = of::<CK_EXTRACT_PARAMS>(CKM_EXTRACT_KEY_FROM_KEY, 21, Vec::new());
    assert_eq!(
        host.derived(session, &mut with.mechanism, example, Some(2)),
        Ok(bytes("9526"))
    );
    for (bit, len, refused) in [
        (32, 2, CKR_MECHANISM_PARAM_INVALID),
        (0, 5, CKR_KEY_SIZE_RANGE),
    ] {
        let mut with = of::<CK_EXTRACT_PARAMS>(CKM_EXTRACT_KEY_FROM_KEY, bit, Vec::new());
        let made = host.derived(session, &mut with.mechanism, example, Some(len));
        assert_eq!(made, Err(refused));
    }
    let first = host.secret(session, CKK_GENERIC_SECRET, &bytes("01234567"));
    let other = host.secret(session, CKK_GENERIC_SECRET, &bytes("89abcdef"));
    let mut with = of(CKM_CONCATENATE_BASE_AND_KEY, other, Vec::new());
    for (len, right) in [(None, "0123456789abcdef"), (Some(5), "0123456789")] {
        let made = host.derived(session, &mut with.mechanism, first, len);
        assert_eq!(made, Ok(bytes(right)));
    }
    let mut with = of(CKM_CONCATENATE_BASE_AND_KEY, first + 1000, Vec::new());
    assert_eq!(
        host.derived(session, &mut with.mechanism, first, None),
        Err(CKR_KEY_HANDLE_INVALID)
    );
    for (kind, right) in [
        (CKM_CONCATENATE_BASE_AND_DATA, "0123456789abcdef01"),
        (CKM_CONCATENATE_DATA_AND_BASE, "89abcdef0101234567"),
        (CKM_XOR_BASE_AND_DATA, "88888888"),
    ] {
        let mut data = bytes("89abcdef01");
        let mut parameter = CK_KEY_DERIVATION_STRING_DATA {
            pData: data.as_mut_ptr(),
            ulLen: 5,
        };
        let mut mechanism = with_parameter(kind, &mut parameter);
        let made = host.derived(session, &mut mechanism, first, None);
        assert_eq!(made, Ok(bytes(right)));
    }
}

/// Further keys have each its own part of what is derived, and where one cannot be made there is none.
#[test]
fn several_keys_are_derived_at_once_or_none() {
    let host = Host::with(Fake::default());
    let session = host.writing(KEYS);
    let base = host.secret(session, CKK_GENERIC_SECRET, &IV);
    let counter = CK_SP800_108_COUNTER_FORMAT {
        bLittleEndian: CK_FALSE,
        ulWidthInBits: 32,
    };
    let derive = |second_len: usize| {
        let (lens, kind) = (
            [20_usize, second_len].map(usize::to_ne_bytes),
            CKK_AES.to_ne_bytes(),
        );
        let mut first = written(&[
            (CKA_VALUE_LEN, &lens[0]),
            (CKA_SENSITIVE, NO),
            (CKA_EXTRACTABLE, YES),
            (CKA_TOKEN, YES),
        ]);
        let mut second = written(&[
            (CKA_KEY_TYPE, &kind),
            (CKA_VALUE_LEN, &lens[1]),
            (CKA_SENSITIVE, NO),
            (CKA_EXTRACTABLE, YES),
        ]);
        let (mut one, mut two) = (0, 0);
        let mut more = vec![CK_DERIVED_KEY {
            pTemplate: second.as_mut_ptr(),
            ulAttributeCount: ulong(second.len()),
            phKey: &raw mut two,
        }];
        let function = CKM_SHA256_HMAC;
        let mut with = kbkdf(Iteration::Counter, function, counter, &[], &mut more);
        let (start, count) = (first.as_mut_ptr(), ulong(first.len()));
        let mechanism = &raw mut with.mechanism;
        let code = call!(host.C_DeriveKey(session, mechanism, base, start, count, &raw mut one));
        (code, one, two)
    };
    let before = host.find(session, &[]).len();
    let (code, one, two) = derive(16);
    assert_eq!(code, CKR_OK);
    let value = |key| host.get(session, key, CKA_VALUE).expect("it is to be read");
    let (one, two) = (value(one), value(two));
    assert_eq!((one.len(), two.len()), (20, 16));
    // One key of both segments has the second one from its 33rd byte on; the length of all, which goes
    // in, differs, so that only their own lengths are compared here.
    assert_ne!(one[..16], two[..]);
    assert_eq!(host.find(session, &[]).len(), before + 2);
    // AES has no keys of 17 bytes.
    let (code, one, two) = derive(17);
    assert_eq!((code, one, two), (CKR_ATTRIBUTE_VALUE_INVALID, 0, 0));
    assert_eq!(host.find(session, &[]).len(), before + 2);
}

/// NIST SP 800-56A's and X9.63's functions beside Diffie-Hellman; the first is the vector of rust
/// cryptoki's tests, the second is what python-cryptography says of the same agreement.
#[test]
fn agreed_keys_go_through_a_function() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let bytes = |digits: &str| hex::decode(digits).expect("digits");
    let (class, kind) = (
        CKO_PRIVATE_KEY.to_ne_bytes(),
        CKK_EC_MONTGOMERY.to_ne_bytes(),
    );
    let scalar = bytes("f00670c5f139e7e6c2511ea04ff507afbbe237ce3c71a89ca59a1c5cf8856562");
    let key = host
        .create(
            session,
            &[
                (CKA_CLASS, &class),
                (CKA_KEY_TYPE, &kind),
                (CKA_EC_PARAMS, b"\x13\x0acurve25519"),
                (CKA_VALUE, &scalar),
                (CKA_DERIVE, YES),
            ],
        )
        .expect("a private key");
    let mut point = bytes("533b3f09e53b3deed661a13f7a7d9694ab71ce156c728e00dee87a1ee3a14c4a");
    let mut shared = bytes(
        "0a2b0601040197550105011203010807416e6f6e796d6f75732053656e646572202020205633a4c5ae4305bc\
         0fe2abb699a8ee54632790a0",
    );
    for (kdf, len, right) in [
        (CKD_SHA256_KDF_SP800, 16, "af8ce51d0139a6d60831a9babab20186"),
        (
            CKD_SHA256_KDF,
            40,
            "a33f54a7ef6a1b210752c51ac01b4e29f6b46418f93c729d3360c2681c3db5753a483b9415bf0aa2",
        ),
    ] {
        let mut parameter = CK_ECDH1_DERIVE_PARAMS {
            kdf,
            ulSharedDataLen: ulong(shared.len()),
            pSharedData: shared.as_mut_ptr(),
            ulPublicDataLen: ulong(point.len()),
            pPublicData: point.as_mut_ptr(),
        };
        let mut mechanism = with_parameter(CKM_ECDH1_DERIVE, &mut parameter);
        let made = host.derived(session, &mut mechanism, key, Some(len));
        assert_eq!(made, Ok(bytes(right)));
    }
}

#[test]
fn what_is_no_ciphertext_gives_nothing() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let aes = host.secret(session, CKK_AES, &[1; 16]);
    let decrypt = |mut with: With, input: &[u8]| {
        host.crypt(session, Way::Decrypt, &mut with.mechanism, aes, input)
    };
    let encrypt = |mut with: With, input: &[u8]| {
        host.crypt(session, Way::Encrypt, &mut with.mechanism, aes, input)
    };
    let cbc = || usual(CKM_AES_CBC, Method::AesCbc { padded: false });
    let padded = || usual(CKM_AES_CBC_PAD, Method::AesCbc { padded: true });
    let ecb = || usual(CKM_AES_ECB, Method::AesEcb);
    for with in [cbc(), ecb()] {
        assert_eq!(encrypt(with, &[0; 17]), Err(CKR_DATA_LEN_RANGE));
    }
    for with in [cbc(), ecb(), padded()] {
        assert_eq!(decrypt(with, &[0; 17]), Err(CKR_ENCRYPTED_DATA_LEN_RANGE));
    }
    assert_eq!(decrypt(padded(), &[]), Err(CKR_ENCRYPTED_DATA_LEN_RANGE));
    assert_eq!(decrypt(padded(), &[0; 32]), Err(CKR_ENCRYPTED_DATA_INVALID));
    let mut sealed = encrypt(gcm(&IV, b"a", 96), b"twelve bytes").expect("a ciphertext");
    assert_eq!(sealed.len(), 24);
    assert_eq!(
        decrypt(gcm(&IV, b"a", 96), &sealed).as_deref(),
        Ok(&b"twelve bytes"[..])
    );
    assert_eq!(
        decrypt(gcm(&IV, b"b", 96), &sealed),
        Err(CKR_ENCRYPTED_DATA_INVALID)
    );
    assert_eq!(
        decrypt(gcm(&IV, b"a", 96), &sealed[..11]),
        Err(CKR_ENCRYPTED_DATA_LEN_RANGE)
    );
    sealed[0] ^= 1;
    assert_eq!(
        decrypt(gcm(&IV, b"a", 96), &sealed),
        Err(CKR_ENCRYPTED_DATA_INVALID)
    );
    // Parameters that are none.
    for with in [
        gcm(&IV, b"", 97),
        gcm(&IV, b"", 8),
        gcm(&[], b"", 128),
        gcm(&[0; 257], b"", 128),
        of(CKM_AES_CBC, [0_u8; 15], Vec::new()),
        of::<CK_ULONG>(CKM_AES_ECB, 0, Vec::new()),
        of(
            CKM_AES_CTR,
            CK_AES_CTR_PARAMS {
                ulCounterBits: 0,
                cb: IV,
            },
            Vec::new(),
        ),
        of(
            CKM_AES_CTR,
            CK_AES_CTR_PARAMS {
                ulCounterBits: 129,
                cb: IV,
            },
            Vec::new(),
        ),
    ] {
        assert_eq!(encrypt(with, &[0; 16]), Err(CKR_MECHANISM_PARAM_INVALID));
    }
    // A counter that would begin anew: three blocks are left.
    let mut block = [0xff; 16];
    block[15] = 0xfd;
    let ctr = || {
        let parameter = CK_AES_CTR_PARAMS {
            ulCounterBits: 8,
            cb: block,
        };
        of(CKM_AES_CTR, parameter, Vec::new())
    };
    assert!(encrypt(ctr(), &[0; 48]).is_ok());
    assert_eq!(encrypt(ctr(), &[0; 49]), Err(CKR_DATA_LEN_RANGE));
    for len in [0_u64, 17] {
        let mut with = of::<CK_ULONG>(CKM_AES_CMAC_GENERAL, len, Vec::new());
        assert_eq!(
            host.sign(session, &mut with.mechanism, aes, b"x"),
            Err(CKR_MECHANISM_PARAM_INVALID)
        );
    }
}

#[test]
fn two_operations_share_a_part() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let aes = host.secret(session, CKK_AES, &[1; 16]);
    let (data, mut encrypted, mut got) = ([6; 32], [0; 32], 32);
    let (start, room) = (room_of(&data), encrypted.as_mut_ptr());
    assert_eq!(
        call!(host.C_DigestEncryptUpdate(session, start, 32, room, &raw mut got)),
        CKR_OPERATION_NOT_INITIALIZED
    );
    let digest = || {
        let (mut digest, mut len) = ([0; 32], 32);
        let room = digest.as_mut_ptr();
        assert_eq!(
            call!(host.C_DigestFinal(session, room, &raw mut len)),
            CKR_OK
        );
        digest
    };
    let begin = || {
        assert_eq!(
            call!(host.C_DigestInit(session, &mut plain(CKM_SHA256))),
            CKR_OK
        );
    };
    begin();
    let mut ecb = plain(CKM_AES_ECB);
    assert_eq!(host.start(session, Way::Encrypt, &mut ecb, aes), CKR_OK);
    assert_eq!(
        call!(host.C_DigestEncryptUpdate(session, start, 32, room, &raw mut got)),
        CKR_OK
    );
    let first = digest();
    begin();
    assert_eq!(host.start(session, Way::Decrypt, &mut ecb, aes), CKR_OK);
    let (mut opened, start) = ([0; 32], room_of(&encrypted));
    let room = opened.as_mut_ptr();
    assert_eq!(
        call!(host.C_DecryptDigestUpdate(session, start, 32, room, &raw mut got)),
        CKR_OK
    );
    assert_eq!((opened, digest()), (data, first));
    let mut len = 0;
    assert_eq!(
        call!(host.C_GetOperationState(session, null(), &raw mut len)),
        CKR_STATE_UNSAVEABLE
    );
    assert_eq!(
        call!(host.C_SetOperationState(session, room, 32, 0, 0)),
        CKR_SAVED_STATE_INVALID
    );
}

#[test]
fn templates_of_keys_hold_for_what_they_wrap_unwrap_and_derive() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let (class, kind) = (CKO_SECRET_KEY.to_ne_bytes(), CKK_AES.to_ne_bytes());
    let mut inner = written(&[(CKA_LABEL, b"wrapped")]);
    // SAFETY: plain old data, looked at while it is there.
    let inner_bytes = unsafe {
        std::slice::from_raw_parts(inner.as_mut_ptr().cast::<u8>(), size_of::<CK_ATTRIBUTE>())
    };
    let kek = host
        .create(
            session,
            &[
                (CKA_CLASS, &class),
                (CKA_KEY_TYPE, &kind),
                (CKA_VALUE, &[1; 16]),
                (CKA_WRAP, YES),
                (CKA_UNWRAP, YES),
                (CKA_WRAP_TEMPLATE, inner_bytes),
                (CKA_UNWRAP_TEMPLATE, inner_bytes),
            ],
        )
        .expect("a key");
    let target = host.secret(session, CKK_AES, &[2; 16]);
    let mut mechanism = plain(CKM_AES_KEY_WRAP);
    assert_eq!(
        host.wrap(session, &mut mechanism, kek, target),
        Err(CKR_KEY_HANDLE_INVALID)
    );
    assert_eq!(
        host.set(session, target, &[(CKA_LABEL, b"wrapped")]),
        CKR_OK
    );
    let wrapped = host
        .wrap(session, &mut mechanism, kek, target)
        .expect("it fits");
    let like = [(CKA_CLASS, &class[..]), (CKA_KEY_TYPE, &kind[..])];
    let key = host
        .unwrap_with(session, &mut mechanism, kek, &wrapped, &like)
        .expect("a key");
    assert_eq!(
        host.get(session, key, CKA_LABEL).as_deref(),
        Ok(&b"wrapped"[..])
    );
    let other = [&like[..], &[(CKA_LABEL, b"other")]].concat();
    assert_eq!(
        host.unwrap_with(session, &mut mechanism, kek, &wrapped, &other),
        Err(CKR_TEMPLATE_INCONSISTENT)
    );
    // It is given as it was.
    let mut label = [0_u8; 7];
    let mut room = [ask(0, Some(&mut label))];
    let mut template = [CK_ATTRIBUTE {
        type_: CKA_WRAP_TEMPLATE,
        pValue: room.as_mut_ptr().cast(),
        ulValueLen: ulong(size_of::<CK_ATTRIBUTE>()),
    }];
    assert_eq!(host.read(session, kek, &mut template), CKR_OK);
    assert_eq!(
        (room[0].type_, room[0].ulValueLen, &label),
        (CKA_LABEL, 7, b"wrapped")
    );
}

#[test]
fn objects_are_copied_as_far_as_they_may_be() {
    let host = Host::with(Fake::default());
    let (session, _, private) = host.with_pair();
    let copy = |object: u64, given: Template<'_>| {
        let (mut template, mut copy) = (written(given), 0);
        let (start, count) = (template.as_mut_ptr(), ulong(given.len()));
        match call!(host.C_CopyObject(session, object, start, count, &raw mut copy)) {
            CKR_OK => Ok(copy),
            code => Err(code),
        }
    };
    // The TPM has it once.
    assert_eq!(copy(private, &[]), Err(CKR_ACTION_PROHIBITED));
    let key = host.secret(session, CKK_AES, &[1; 16]);
    assert_eq!(
        copy(key, &[(CKA_SENSITIVE, NO)]),
        Err(CKR_ATTRIBUTE_READ_ONLY)
    );
    assert_eq!(
        copy(key, &[(CKA_VALUE, &[2; 16])]),
        Err(CKR_ATTRIBUTE_READ_ONLY)
    );
    let kept = copy(key, &[(CKA_TOKEN, YES), (CKA_LABEL, b"kept")]).expect("a copy");
    assert_eq!(host.get(session, kept, CKA_TOKEN).as_deref(), Ok(YES));
    assert_eq!(
        host.get(session, kept, CKA_LABEL).as_deref(),
        Ok(&b"kept"[..])
    );
    assert_eq!(
        host.get(session, kept, CKA_VALUE),
        Err(CKR_ATTRIBUTE_SENSITIVE)
    );
    let mut ecb = plain(CKM_AES_ECB);
    let encrypted = [key, kept].map(|key| {
        host.crypt(session, Way::Encrypt, &mut ecb, key, &[0; 16])
            .expect("it encrypts")
    });
    assert_eq!(encrypted[0], encrypted[1]);
    let closed = copy(kept, &[(CKA_COPYABLE, NO), (CKA_TOKEN, NO)]).expect("a copy");
    assert_eq!(copy(closed, &[]), Err(CKR_ACTION_PROHIBITED));
}

#[test]
fn a_token_says_what_it_can_do() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let found = |class: CK_OBJECT_CLASS| host.find(session, &[(CKA_CLASS, &class.to_ne_bytes())]);
    let mechanisms = found(CKO_MECHANISM);
    assert_eq!(mechanisms.len(), MECHANISMS.len());
    let kind = host.get(session, mechanisms[0], CKA_MECHANISM_TYPE);
    assert_eq!(kind, Ok(MECHANISMS[0].kind.to_ne_bytes().to_vec()));
    assert_eq!(found(CKO_PROFILE).len(), 3);
    let id = host.get(session, found(CKO_PROFILE)[0], CKA_PROFILE_ID);
    assert_eq!(id, Ok(CKP_BASELINE_PROVIDER.to_ne_bytes().to_vec()));
    assert_eq!(
        call!(host.C_DestroyObject(session, mechanisms[0])),
        CKR_SESSION_READ_ONLY
    );
    // Who does not ask for them does not find them.
    let all = host.find(session, &[]);
    assert!(!all.contains(&mechanisms[0]));
}

#[test]
fn dates_are_dates() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let key = host.secret(session, CKK_AES, &[1; 16]);
    for (date, expected) in [
        (&b"20261128"[..], CKR_OK),
        (b"", CKR_OK),
        (b"20261328", CKR_ATTRIBUTE_VALUE_INVALID),
        (b"20261100", CKR_ATTRIBUTE_VALUE_INVALID),
        (b"2026112", CKR_ATTRIBUTE_VALUE_INVALID),
        (b"2026-1-1", CKR_ATTRIBUTE_VALUE_INVALID),
    ] {
        assert_eq!(
            host.set(session, key, &[(CKA_START_DATE, date)]),
            expected,
            "{date:?}"
        );
    }
}
