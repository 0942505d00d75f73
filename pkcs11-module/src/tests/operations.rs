//! Operations that fail, end, or wait for a login: what is left of them.

use super::keys::{KEYS, P256, YES, plain, room_of, with_parameter, written};
use super::mechanisms::{Way, With, of};
use super::*;
use crate::foreign::ulong;

/// AES in counter mode, of which one block is left.
fn last_block() -> With {
    let parameter = CK_AES_CTR_PARAMS {
        ulCounterBits: 8,
        cb: [0xff; 16],
    };
    of(CKM_AES_CTR, parameter, Vec::new())
}

/// Section 5.2: a call that fails ends the operation, unless there was too little room.
#[test]
fn two_operations_that_fail_have_ended_both() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let aes = host.secret(session, CKK_AES, &[1; 16]);
    let (data, mut room) = ([6; 17], [0; 32]);
    let (start, to) = (room_of(&data), room.as_mut_ptr());
    let (mut digest, mut hmac) = (plain(CKM_SHA256), plain(CKM_AES_CMAC));
    for pair in 0..4 {
        let encrypts = pair % 2 == 0;
        let way = if encrypts { Way::Encrypt } else { Way::Decrypt };
        let begin = |digest: &mut CK_MECHANISM, hmac: &mut CK_MECHANISM| match pair {
            0 | 1 => call!(host.C_DigestInit(session, digest)),
            2 => call!(host.C_SignInit(session, hmac, aes)),
            _ => call!(host.C_VerifyInit(session, hmac, aes)),
        };
        let update = |len: CK_ULONG, got: &mut CK_ULONG| match pair {
            0 => call!(host.C_DigestEncryptUpdate(session, start, len, to, got)),
            1 => call!(host.C_DecryptDigestUpdate(session, start, len, to, got)),
            2 => call!(host.C_SignEncryptUpdate(session, start, len, to, got)),
            _ => call!(host.C_DecryptVerifyUpdate(session, start, len, to, got)),
        };
        assert_eq!(begin(&mut digest, &mut hmac), CKR_OK);
        let mut ctr = last_block();
        assert_eq!(host.start(session, way, &mut ctr.mechanism, aes), CKR_OK);
        // Too little room, and a question for it, end nothing.
        let mut got = 15;
        assert_eq!(update(16, &mut got), CKR_BUFFER_TOO_SMALL);
        assert_eq!(got, 16);
        assert_eq!(update(16, &mut got), CKR_OK);
        // There is no block left.
        got = 32;
        assert_ne!(update(1, &mut got), CKR_OK);
        assert_eq!(begin(&mut digest, &mut hmac), CKR_OK, "{pair}");
        assert_eq!(host.start(session, way, &mut ctr.mechanism, aes), CKR_OK);
        // And where the one is missing, the other goes on.
        match pair {
            0 | 1 => assert_eq!(call!(host.C_SessionCancel(session, CKF_DIGEST)), CKR_OK),
            _ => assert_eq!(
                call!(host.C_SessionCancel(session, CKF_SIGN | CKF_VERIFY)),
                CKR_OK
            ),
        }
        assert_eq!(update(1, &mut got), CKR_OPERATION_NOT_INITIALIZED);
        assert_eq!(
            host.start(session, way, &mut ctr.mechanism, aes),
            CKR_OPERATION_ACTIVE
        );
        let both = CKF_ENCRYPT | CKF_DECRYPT;
        assert_eq!(call!(host.C_SessionCancel(session, both)), CKR_OK);
    }
}

fn parameter(iv: *mut u8, tag: *mut u8, tag_bits: CK_ULONG) -> CK_GCM_MESSAGE_PARAMS {
    CK_GCM_MESSAGE_PARAMS {
        pIv: iv,
        ulIvLen: 12,
        ulIvFixedBits: 0,
        ivGenerator: CKG_NO_GENERATE,
        pTag: tag,
        ulTagBits: tag_bits,
    }
}

/// A tag of another length than was said at the beginning is noticed before anything goes out.
#[test]
fn a_message_has_the_tag_that_it_began_with() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let aes = host.secret(session, CKK_AES, &[1; 16]);
    let mut gcm = plain(CKM_AES_GCM);
    let (mut iv, mut tag) = ([3; 12], [0; 16]);
    let (iv, tag_start) = (iv.as_mut_ptr(), tag.as_mut_ptr());
    let mut parameters = [128, 96].map(|bits| parameter(iv, tag_start, bits));
    let [whole, short] = parameters
        .each_mut()
        .map(|it| ptr::from_mut(it).cast::<c_void>());
    let len = ulong(size_of::<CK_GCM_MESSAGE_PARAMS>());
    let (data, mut room, mut got) = ([6; 20], [0; 20], 20);
    let (start, to) = (room_of(&data), room.as_mut_ptr());
    let end = CKF_END_OF_MESSAGE;
    assert_eq!(
        call!(host.C_MessageEncryptInit(session, &raw mut gcm, aes)),
        CKR_OK
    );
    assert_eq!(
        call!(host.C_EncryptMessageBegin(session, whole, len, null(), 0)),
        CKR_OK
    );
    let mut next = |with| {
        call!(host.C_EncryptMessageNext(session, with, len, start, 20, to, &raw mut got, end))
    };
    assert_eq!(next(short), CKR_MECHANISM_PARAM_INVALID);
    assert_eq!(room, [0; 20], "nothing has gone out");
    assert_eq!(next(whole), CKR_OK);
    assert_ne!(room, [0; 20]);
    assert_eq!(call!(host.C_MessageEncryptFinal(session)), CKR_OK);

    let (mut opened, mut got) = ([0; 20], 20);
    let (start, to) = (room_of(&room), opened.as_mut_ptr());
    assert_eq!(
        call!(host.C_MessageDecryptInit(session, &raw mut gcm, aes)),
        CKR_OK
    );
    assert_eq!(
        call!(host.C_DecryptMessageBegin(session, whole, len, null(), 0)),
        CKR_OK
    );
    let mut next = |with| {
        call!(host.C_DecryptMessageNext(session, with, len, start, 20, to, &raw mut got, end))
    };
    assert_eq!(next(short), CKR_MECHANISM_PARAM_INVALID);
    assert_eq!(next(whole), CKR_OK);
    assert_eq!(opened, data);
}

/// Section 6.13.4: the tag comes at the end, and the initialization vector is said at the beginning.
#[test]
fn a_message_in_parts_needs_its_parameter_part_by_part() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let aes = host.secret(session, CKK_AES, &[1; 16]);
    let mut gcm = plain(CKM_AES_GCM);
    let (mut iv, mut tag) = ([3; 12], [0; 16]);
    let mut first = parameter(iv.as_mut_ptr(), null(), 128);
    let mut between = parameter(null(), null(), 128);
    let mut last = parameter(null(), tag.as_mut_ptr(), 128);
    let [first, between, last] =
        [&mut first, &mut between, &mut last].map(|it| ptr::from_mut(it).cast::<c_void>());
    let len = ulong(size_of::<CK_GCM_MESSAGE_PARAMS>());
    let (data, mut sealed, mut opened) = ([6; 20], [0; 20], [0; 20]);
    let (from, middle, to) = (room_of(&data), sealed.as_mut_ptr(), opened.as_mut_ptr());
    let mut got = 20;
    assert_eq!(
        call!(host.C_MessageEncryptInit(session, &raw mut gcm, aes)),
        CKR_OK
    );
    assert_eq!(
        call!(host.C_EncryptMessageBegin(session, first, len, null(), 0)),
        CKR_OK
    );
    assert_eq!(
        call!(host.C_EncryptMessageNext(session, between, len, from, 20, middle, &raw mut got, 0)),
        CKR_OK
    );
    let end = CKF_END_OF_MESSAGE;
    let mut none = 0;
    let mut finish = |with| {
        call!(host.C_EncryptMessageNext(session, with, len, null(), 0, to, &raw mut none, end))
    };
    // Where there is to be a tag, it must have a place.
    assert_eq!(finish(between), CKR_MECHANISM_PARAM_INVALID);
    assert_eq!(finish(last), CKR_OK);
    assert_ne!(tag, [0; 16]);
    assert_eq!(
        call!(host.C_MessageDecryptInit(session, &raw mut gcm, aes)),
        CKR_OK
    );
    assert_eq!(
        call!(host.C_DecryptMessageBegin(session, first, len, null(), 0)),
        CKR_OK
    );
    assert_eq!(
        call!(host.C_DecryptMessageNext(session, between, len, middle, 20, to, &raw mut none, 0)),
        CKR_OK
    );
    got = 20;
    assert_eq!(
        call!(host.C_DecryptMessageNext(session, last, len, null(), 0, to, &raw mut got, end)),
        CKR_OK
    );
    assert_eq!(opened, data);
    // A message that is encrypted or decrypted at once needs all of it.
    assert_ne!(
        call!(host.C_DecryptMessage(session, first, len, null(), 0, middle, 20, to, &raw mut got)),
        CKR_OK
    );
}

/// Whatever goes on has a state that cannot be saved.
#[test]
fn every_operation_is_one_that_goes_on() {
    let host = Host::with(Fake::default());
    let (session, public, private) = host.with_rsa();
    let aes = host.secret(session, CKK_AES, &[1; 16]);
    assert_eq!(
        host.set(session, private, &[(CKA_SIGN_RECOVER, YES)]),
        CKR_OK
    );
    assert_eq!(
        host.set(session, public, &[(CKA_VERIFY_RECOVER, YES)]),
        CKR_OK
    );
    let (mut rsa, mut gcm, mut len) = (plain(CKM_RSA_PKCS), plain(CKM_AES_GCM), 0);
    let (rsa, gcm) = (&raw mut rsa, &raw mut gcm);
    let mut state = || call!(host.C_GetOperationState(session, null(), &raw mut len));
    let begin: [(CK_FLAGS, &dyn Fn() -> CK_RV); 4] = [
        (CKF_SIGN_RECOVER, &|| {
            call!(host.C_SignRecoverInit(session, rsa, private))
        }),
        (CKF_VERIFY_RECOVER, &|| {
            call!(host.C_VerifyRecoverInit(session, rsa, public))
        }),
        (CKF_MESSAGE_ENCRYPT, &|| {
            call!(host.C_MessageEncryptInit(session, gcm, aes))
        }),
        (CKF_MESSAGE_DECRYPT, &|| {
            call!(host.C_MessageDecryptInit(session, gcm, aes))
        }),
    ];
    for (flag, begin) in begin {
        assert_eq!((begin(), state()), (CKR_OK, CKR_STATE_UNSAVEABLE));
        assert_eq!(call!(host.C_SessionCancel(session, flag)), CKR_OK);
        assert_eq!(state(), CKR_OPERATION_NOT_INITIALIZED);
    }
}

/// A login before the use of a key is for that use: it neither outlives the operation nor goes with
/// another key's.
#[test]
fn a_login_for_one_use_is_for_that_use() {
    let mut fake = Fake::default();
    fake.tokens[2].has_pins = true;
    let host = Host::with(fake);
    let session = host.writing(KEYS);
    let pin = b"1234".as_ptr().cast_mut();
    let login = |who| call!(host.C_Login(session, who, pin, 4));
    assert_eq!(login(CKU_USER), CKR_OK);
    let (public, private) = host
        .generate_pair(
            session,
            CKM_EC_KEY_PAIR_GEN,
            &[(CKA_EC_PARAMS, P256)],
            &[(CKA_ALWAYS_AUTHENTICATE, YES), (CKA_DERIVE, YES)],
        )
        .expect("a key pair");
    let mut point = host.get(session, public, CKA_EC_POINT).expect("a point");
    let mut parameter = CK_ECDH1_DERIVE_PARAMS {
        kdf: CKD_NULL,
        ulSharedDataLen: 0,
        pSharedData: null(),
        ulPublicDataLen: ulong(point.len()),
        pPublicData: point.as_mut_ptr(),
    };
    let mut ecdh = with_parameter(CKM_ECDH1_DERIVE, &mut parameter);
    let (mut ecdsa, ecdh) = (plain(CKM_ECDSA), &raw mut ecdh);
    let derive = || {
        let mut key = 0;
        call!(host.C_DeriveKey(session, ecdh, private, null(), 0, &raw mut key))
    };
    let mut sign = || call!(host.C_SignInit(session, &raw mut ecdsa, private));
    let finish = || {
        let (mut signature, mut len) = ([0; 64], 64);
        let (data, room) = (room_of(&[7; 32]), signature.as_mut_ptr());
        call!(host.C_Sign(session, data, 32, room, &raw mut len))
    };
    assert_eq!(derive(), CKR_USER_NOT_LOGGED_IN);
    assert_eq!((sign(), login(CKU_CONTEXT_SPECIFIC)), (CKR_OK, CKR_OK));
    assert_eq!(call!(host.C_SessionCancel(session, CKF_SIGN)), CKR_OK);
    assert_eq!(
        derive(),
        CKR_USER_NOT_LOGGED_IN,
        "what it was for has ended"
    );

    assert_eq!((sign(), login(CKU_CONTEXT_SPECIFIC)), (CKR_OK, CKR_OK));
    // Another key's use, which asks for no login.
    let aes = host.secret(session, CKK_AES, &[1; 16]);
    let wrapped = {
        let target = host.secret(session, CKK_AES, &[2; 16]);
        host.wrap(session, &mut plain(CKM_AES_KEY_WRAP), aes, target)
    };
    let (class, kind) = (CKO_SECRET_KEY.to_ne_bytes(), CKK_AES.to_ne_bytes());
    let like = [(CKA_CLASS, &class[..]), (CKA_KEY_TYPE, &kind[..])];
    let wrapped = wrapped.expect("it wraps");
    let unwrapped = host.unwrap_with(session, &mut plain(CKM_AES_KEY_WRAP), aes, &wrapped, &like);
    assert!(unwrapped.is_ok());
    assert_eq!(finish(), CKR_OK);
}

/// A length without anything there is a parameter that is none, whichever mechanism's.
#[test]
fn a_parameter_that_points_nowhere_is_none() {
    let host = Host::with(Fake::default());
    let (session, ec_public, ec_private) = host.with_pair();
    let (_, rsa_public, _) = host.with_rsa();
    let aes = host.secret(session, CKK_AES, &[1; 16]);
    let mut point = host.get(session, ec_public, CKA_EC_POINT).expect("a point");
    let point = (point.as_mut_ptr(), ulong(point.len()));
    let mut oaep = CK_RSA_PKCS_OAEP_PARAMS {
        hashAlg: CKM_SHA256,
        mgf: CKG_MGF1_SHA256,
        source: CKZ_DATA_SPECIFIED,
        pSourceData: null(),
        ulSourceDataLen: 3,
    };
    let mut iv = [3; 12];
    let iv = iv.as_mut_ptr();
    let mut gcm = [(null(), 0), (iv, 5)].map(|(iv, aad_len)| CK_GCM_PARAMS {
        pIv: iv,
        ulIvLen: 12,
        ulIvBits: 96,
        pAAD: null(),
        ulAADLen: aad_len,
        ulTagBits: 128,
    });
    let [mut no_iv, mut no_aad] = gcm.each_mut().map(|it| with_parameter(CKM_AES_GCM, it));
    let mut oaep = with_parameter(CKM_RSA_PKCS_OAEP, &mut oaep);
    for (mechanism, key) in [
        (&mut oaep, rsa_public),
        (&mut no_iv, aes),
        (&mut no_aad, aes),
    ] {
        assert_eq!(
            host.start(session, Way::Encrypt, mechanism, key),
            CKR_MECHANISM_PARAM_INVALID
        );
    }
    let mut eddsa = CK_EDDSA_PARAMS {
        phFlag: CK_FALSE,
        ulContextDataLen: 3,
        pContextData: null(),
    };
    let mut eddsa = with_parameter(CKM_EDDSA, &mut eddsa);
    assert_eq!(
        call!(host.C_SignInit(session, &raw mut eddsa, ec_private)),
        CKR_MECHANISM_PARAM_INVALID
    );
    let ecdh = |public: (*mut u8, CK_ULONG), shared_len, kdf| CK_ECDH1_DERIVE_PARAMS {
        kdf,
        ulSharedDataLen: shared_len,
        pSharedData: null(),
        ulPublicDataLen: public.1,
        pPublicData: public.0,
    };
    let mut ecdh = [
        ecdh((null(), 65), 0, CKD_NULL),
        ecdh(point, 3, CKD_SHA256_KDF),
    ];
    let mut string = CK_KEY_DERIVATION_STRING_DATA {
        pData: null(),
        ulLen: 16,
    };
    let mut cbc = CK_AES_CBC_ENCRYPT_DATA_PARAMS {
        iv: [0; 16],
        pData: null(),
        length: 16,
    };
    let [one, other] = ecdh
        .each_mut()
        .map(|it| with_parameter(CKM_ECDH1_DERIVE, it));
    for (mut mechanism, base) in [
        (one, ec_private),
        (other, ec_private),
        (with_parameter(CKM_AES_ECB_ENCRYPT_DATA, &mut string), aes),
        (with_parameter(CKM_XOR_BASE_AND_DATA, &mut string), aes),
        (with_parameter(CKM_AES_CBC_ENCRYPT_DATA, &mut cbc), aes),
    ] {
        let mut key = 0;
        let mut template = written(&[]);
        let start = template.as_mut_ptr();
        assert_eq!(
            call!(host.C_DeriveKey(session, &raw mut mechanism, base, start, 0, &raw mut key)),
            CKR_MECHANISM_PARAM_INVALID,
            "{:#x}",
            mechanism.mechanism
        );
    }
    let mut cbc = CK_MECHANISM {
        mechanism: CKM_AES_CBC,
        pParameter: null(),
        ulParameterLen: 16,
    };
    assert_eq!(
        host.start(session, Way::Encrypt, &mut cbc, aes),
        CKR_MECHANISM_PARAM_INVALID
    );
}
