//! A host that passes on what others ask.

use super::keys::{KEYS, YES, plain, with_parameter, written};
use super::mechanisms::kinds;
use super::*;
use crate::foreign::ulong;

/// p11-kit gives a client's number for an address where it does not know the mechanism.
#[test]
fn a_server_is_asked_for_nothing_that_points_anywhere() {
    let host = Host::serving(Fake::default());
    let session = host.session(KEYS);
    let aes = host.secret(session, CKK_AES, &[1; 16]);
    let kinds = kinds(&host);
    assert!(kinds.contains(&CKM_RSA_PKCS_PSS) && kinds.contains(&CKM_AES_CBC));
    let found = host.find(session, &[(CKA_CLASS, &CKO_MECHANISM.to_ne_bytes())]);
    assert_eq!(found.len(), kinds.len());
    let mut info = CK_MECHANISM_INFO::default();
    // Nowhere is anybody's memory: who looked there would not come back.
    let nowhere = 0x1000_usize;
    let mut parameter = [nowhere, 64, nowhere, 64, nowhere, 64, nowhere, 64];
    for kind in [
        CKM_CONCATENATE_BASE_AND_DATA,
        CKM_CONCATENATE_DATA_AND_BASE,
        CKM_XOR_BASE_AND_DATA,
        CKM_AES_ECB_ENCRYPT_DATA,
        CKM_AES_CBC_ENCRYPT_DATA,
        CKM_ECDH1_DERIVE,
        CKM_SP800_108_COUNTER_KDF,
        CKM_SP800_108_FEEDBACK_KDF,
        CKM_SP800_108_DOUBLE_PIPELINE_KDF,
        CKM_AES_GCM,
    ] {
        assert!(!kinds.contains(&kind), "{kind:#x}");
        assert_eq!(
            call!(host.C_GetMechanismInfo(KEYS, kind, &raw mut info)),
            CKR_MECHANISM_INVALID
        );
        for len in 0..=parameter.len() {
            let mut mechanism = with_parameter(kind, &mut parameter);
            mechanism.ulParameterLen = ulong(len * size_of::<usize>());
            let (mechanism, mut key) = (&raw mut mechanism, 0);
            for code in [
                call!(host.C_DeriveKey(session, mechanism, aes, null(), 0, &raw mut key)),
                call!(host.C_EncryptInit(session, mechanism, aes)),
                call!(host.C_SignInit(session, mechanism, aes)),
                call!(host.C_MessageEncryptInit(session, mechanism, aes)),
                call!(host.C_MessageDecryptInit(session, mechanism, aes)),
            ] {
                assert_eq!(code, CKR_MECHANISM_INVALID, "{kind:#x}");
            }
        }
    }
    // Nor is a message looked at that could not begin.
    let start = parameter.as_mut_ptr().cast::<c_void>();
    let len = ulong(size_of::<CK_GCM_MESSAGE_PARAMS>());
    assert_eq!(
        call!(host.C_EncryptMessageBegin(session, start, len, null(), 0)),
        CKR_OPERATION_NOT_INITIALIZED
    );
    // EdDSA needs no parameter, and gets none that a client could have made up.
    assert!(kinds.contains(&CKM_EDDSA));
    let (_, private) = host
        .generate_pair(
            session,
            CKM_EC_EDWARDS_KEY_PAIR_GEN,
            &[(CKA_EC_PARAMS, b"\x13\x0cedwards25519")],
            &[],
        )
        .expect("a key pair");
    for len in 1..=parameter.len() {
        let mut mechanism = with_parameter(CKM_EDDSA, &mut parameter);
        mechanism.ulParameterLen = ulong(len * size_of::<usize>());
        assert_eq!(
            call!(host.C_SignInit(session, &raw mut mechanism, private)),
            CKR_MECHANISM_PARAM_INVALID
        );
    }
    let signed = host.sign(session, &mut plain(CKM_EDDSA), private, b"data");
    assert!(signed.is_ok());
    // What there is works.
    let encrypted = host.sign(session, &mut plain(CKM_AES_CMAC), aes, b"data");
    assert!(encrypted.is_ok());
}

#[test]
fn a_server_has_no_templates_within_templates() {
    let host = Host::serving(Fake::default());
    let session = host.session(KEYS);
    let (class, kind) = (CKO_SECRET_KEY.to_ne_bytes(), CKK_AES.to_ne_bytes());
    let nowhere = [CKA_LABEL, 0x1000, 64].map(CK_ULONG::to_ne_bytes).concat();
    for template in [CKA_WRAP_TEMPLATE, CKA_UNWRAP_TEMPLATE, CKA_DERIVE_TEMPLATE] {
        let given = [
            (CKA_CLASS, &class[..]),
            (CKA_KEY_TYPE, &kind),
            (CKA_VALUE, &[1; 16]),
            (CKA_DERIVE, YES),
            (template, &nowhere),
        ];
        assert_eq!(
            host.create(session, &given),
            Err(CKR_ATTRIBUTE_TYPE_INVALID)
        );
        let key = host.create(session, &given[..4]).expect("a key");
        assert_eq!(
            host.get(session, key, template),
            Err(CKR_ATTRIBUTE_TYPE_INVALID)
        );
        let mut wanted = written(&[(template, &nowhere)]);
        assert_eq!(
            call!(host.C_FindObjectsInit(session, wanted.as_mut_ptr(), 1)),
            CKR_OK
        );
        assert_eq!(call!(host.C_FindObjectsFinal(session)), CKR_OK);
    }
}
