//! Keys that come of others: what is derived, copied or unwrapped says no more of a key than the key
//! itself would.

#![allow(
    clippy::too_many_lines,
    reason = "one case after the other, for each mechanism"
)]

use super::keys::{KEYS, NO, Outcome, P256, Template, YES, plain, with_parameter, written};
use super::mechanisms::{Way, With, gcm, kbkdf, of, usual};
use super::*;
use crate::foreign::ulong;
use crate::mechanisms::{Iteration, Method};

const VALUE: [u8; 16] = *b"sixteen of bytes";
const COUNTER: CK_SP800_108_COUNTER_FORMAT = CK_SP800_108_COUNTER_FORMAT {
    bLittleEndian: CK_FALSE,
    ulWidthInBits: 32,
};

impl Host {
    /// A generic secret that derives, and whatever else the template says of it.
    fn base(&self, session: CK_SESSION_HANDLE, value: &[u8], more: Template<'_>) -> u64 {
        let (class, kind) = (
            CKO_SECRET_KEY.to_ne_bytes(),
            CKK_GENERIC_SECRET.to_ne_bytes(),
        );
        let all: Template<'_> = &[
            (CKA_CLASS, &class),
            (CKA_KEY_TYPE, &kind),
            (CKA_VALUE, value),
            (CKA_DERIVE, YES),
        ];
        self.create(session, &[all, more].concat()).expect("a key")
    }

    fn derive(
        &self,
        session: CK_SESSION_HANDLE,
        with: &mut With,
        base: u64,
        given: Template<'_>,
    ) -> Outcome<u64> {
        let (mut template, mut key) = (written(given), 0);
        let (start, count) = (template.as_mut_ptr(), ulong(given.len()));
        let mechanism = &raw mut with.mechanism;
        match call!(self.C_DeriveKey(session, mechanism, base, start, count, &raw mut key)) {
            CKR_OK => Ok(key),
            code => Err(code),
        }
    }

    fn copy(&self, session: CK_SESSION_HANDLE, object: u64, given: Template<'_>) -> Outcome<u64> {
        let (mut template, mut copy) = (written(given), 0);
        let (start, count) = (template.as_mut_ptr(), ulong(given.len()));
        match call!(self.C_CopyObject(session, object, start, count, &raw mut copy)) {
            CKR_OK => Ok(copy),
            code => Err(code),
        }
    }

    fn has(&self, session: CK_SESSION_HANDLE, object: u64, kind: CK_ATTRIBUTE_TYPE) -> bool {
        self.get(session, object, kind).as_deref() == Ok(YES)
    }
}

fn with_data(kind: CK_MECHANISM_TYPE, data: &[u8]) -> With {
    let mut data = Box::new(data.to_vec());
    let parameter = CK_KEY_DERIVATION_STRING_DATA {
        pData: data.as_mut_ptr(),
        ulLen: ulong(data.len()),
    };
    of(kind, parameter, vec![data])
}

fn extract(bit: CK_ULONG) -> With {
    of::<CK_EXTRACT_PARAMS>(CKM_EXTRACT_KEY_FROM_KEY, bit, Vec::new())
}

fn concatenate(other: u64) -> With {
    of(CKM_CONCATENATE_BASE_AND_KEY, other, Vec::new())
}

/// The bytes of a template that is the value of an attribute.
fn nested(inner: &[CK_ATTRIBUTE]) -> &[u8] {
    // SAFETY: plain old data, looked at while it is there.
    unsafe { std::slice::from_raw_parts(inner.as_ptr().cast(), size_of_val(inner)) }
}

/// Whoever had a key of one byte of another would find that byte in 256 tries, and all of them so: what
/// carries over the value of a key that may not be read carries over all of it.
#[test]
fn no_part_comes_of_a_key_that_may_not_be_read() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let open: Template<'_> = &[(CKA_SENSITIVE, NO), (CKA_EXTRACTABLE, YES)];
    let readable = host.base(session, &VALUE, open);
    let closed: [Template<'_>; 3] = [
        &[],
        &[(CKA_EXTRACTABLE, YES)],
        &[(CKA_SENSITIVE, NO), (CKA_EXTRACTABLE, NO)],
    ];
    for closed in closed {
        let base = host.base(session, &VALUE, closed);
        for (mut with, key, len, whole) in [
            (extract(0), base, 1, false),
            (extract(24), base, 1, false),
            (extract(0), base, 15, false),
            // Turned round, it would be compared with itself, a guess before the one and after the other.
            (extract(24), base, 16, false),
            (extract(1), base, 16, false),
            (extract(0), base, 16, true),
            (
                with_data(CKM_CONCATENATE_BASE_AND_DATA, b"xy"),
                base,
                1,
                false,
            ),
            (
                with_data(CKM_CONCATENATE_BASE_AND_DATA, b"xy"),
                base,
                17,
                false,
            ),
            (
                with_data(CKM_CONCATENATE_BASE_AND_DATA, b"xy"),
                base,
                18,
                true,
            ),
            (
                with_data(CKM_CONCATENATE_DATA_AND_BASE, &[7; 15]),
                base,
                16,
                false,
            ),
            (
                with_data(CKM_CONCATENATE_DATA_AND_BASE, &[7; 15]),
                base,
                31,
                true,
            ),
            (with_data(CKM_XOR_BASE_AND_DATA, &[7; 16]), base, 1, false),
            (with_data(CKM_XOR_BASE_AND_DATA, &[7; 1]), base, 1, false),
            (with_data(CKM_XOR_BASE_AND_DATA, &[7; 17]), base, 16, true),
            (concatenate(readable), base, 16, false),
            (concatenate(base), readable, 17, false),
            (concatenate(base), readable, 32, true),
        ] {
            let kind = with.mechanism.mechanism;
            let wanted = usize::to_ne_bytes(len);
            let made = host.derive(session, &mut with, key, &[(CKA_VALUE_LEN, &wanted)]);
            let expected = if whole { CKR_OK } else { CKR_KEY_SIZE_RANGE };
            assert_eq!(made.err().unwrap_or(CKR_OK), expected, "{kind:#x}, {len}");
        }
        // Shorter data leaves a part, too, where no length is given.
        let mut with = with_data(CKM_XOR_BASE_AND_DATA, &[7; 15]);
        let made = host.derive(session, &mut with, base, &[]);
        assert_eq!(made, Err(CKR_KEY_SIZE_RANGE));
    }
    // Of triple DES there are no keys of all of it: they leave the parity, and are found from both ends.
    let key = *b"twenty-four other bytes!";
    let (sensitive, des) = (host.base(session, &key, &[]), CKK_DES3.to_ne_bytes());
    let made = host.derive(session, &mut extract(0), sensitive, &[(CKA_KEY_TYPE, &des)]);
    assert_eq!(made, Err(CKR_KEY_SIZE_RANGE));
    let readable_key = host.base(session, &key, open);
    let made = host.derive(
        session,
        &mut extract(0),
        readable_key,
        &[(CKA_KEY_TYPE, &des)],
    );
    assert!(made.is_ok());
    // One that may be read is read in parts, too.
    assert_eq!(
        host.derived(session, &mut extract(8).mechanism, readable, Some(1)),
        Ok(vec![VALUE[1]])
    );
}

/// What a function makes of a key, too, would be found byte by byte by who lets it grow.
#[test]
fn what_must_not_be_read_is_not_derived_in_small_parts() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let inner = written(&[(CKA_SENSITIVE, YES)]);
    let base = host.base(session, &VALUE, &[(CKA_DERIVE_TEMPLATE, nested(&inner))]);
    let aes = host.secret(session, CKK_AES, &VALUE);
    let (public, private) = host
        .generate_pair(
            session,
            CKM_EC_KEY_PAIR_GEN,
            &[(CKA_EC_PARAMS, P256)],
            &[(CKA_DERIVE, YES), (CKA_DERIVE_TEMPLATE, nested(&inner))],
        )
        .expect("a key pair");
    let mut point = host.get(session, public, CKA_EC_POINT).expect("a point");
    let parameter = CK_ECDH1_DERIVE_PARAMS {
        kdf: CKD_NULL,
        ulSharedDataLen: 0,
        pSharedData: null(),
        ulPublicDataLen: ulong(point.len()),
        pPublicData: point.as_mut_ptr(),
    };
    let none = &mut Vec::new();
    for (mut with, base) in [
        (with_data(CKM_AES_ECB_ENCRYPT_DATA, &[7; 32]), aes),
        (usual(CKM_AES_CBC_ENCRYPT_DATA, Method::DeriveCbc), aes),
        (of(CKM_ECDH1_DERIVE, parameter, Vec::new()), private),
        (
            kbkdf(Iteration::Counter, CKM_SHA256_HMAC, COUNTER, &[], none),
            base,
        ),
    ] {
        let kind = with.mechanism.mechanism;
        for (len, expected) in [
            (1, CKR_KEY_SIZE_RANGE),
            (15, CKR_KEY_SIZE_RANGE),
            (16, CKR_OK),
            // A guess at the 17th byte, put to a key of 16, would be compared with this one.
            (17, CKR_KEY_SIZE_RANGE),
            (24, CKR_OK),
        ] {
            let len = usize::to_ne_bytes(len);
            let made = host.derive(session, &mut with, base, &[(CKA_VALUE_LEN, &len)]);
            assert_eq!(made.err().unwrap_or(CKR_OK), expected, "{kind:#x}");
        }
    }
    // Who may read what is derived may have it as short as they like.
    let base = host.base(session, &VALUE, &[]);
    let mut with = kbkdf(Iteration::Counter, CKM_SHA256_HMAC, COUNTER, &[], none);
    let made = host.derived(session, &mut with.mechanism, base, Some(1));
    assert_eq!(made.map(|value| value.len()), Ok(1));
}

/// To put zeros to a key leaves its value, and what was said of it.
#[test]
fn what_a_key_is_for_is_said_of_what_has_its_value() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let inner = written(&[(CKA_SENSITIVE, YES), (CKA_EXTRACTABLE, NO)]);
    let allowed = [CKM_XOR_BASE_AND_DATA, CKM_EXTRACT_KEY_FROM_KEY];
    let allowed = allowed.map(CK_MECHANISM_TYPE::to_ne_bytes).concat();
    let said: Template<'_> = &[
        (CKA_DERIVE_TEMPLATE, nested(&inner)),
        (CKA_UNWRAP_TEMPLATE, nested(&inner)),
        (CKA_WRAP_TEMPLATE, nested(&inner)),
        (CKA_ALLOWED_MECHANISMS, &allowed),
    ];
    let base = host.base(session, &VALUE, said);
    let len = usize::to_ne_bytes(16);
    let given: Template<'_> = &[(CKA_DERIVE, YES), (CKA_VALUE_LEN, &len)];
    for mut with in [with_data(CKM_XOR_BASE_AND_DATA, &[0; 16]), extract(0)] {
        let child = host.derive(session, &mut with, base, given).expect("a key");
        assert_eq!(
            host.get(session, child, CKA_ALLOWED_MECHANISMS).as_deref(),
            Ok(&allowed[..])
        );
        let mut function = kbkdf(
            Iteration::Counter,
            CKM_SHA256_HMAC,
            COUNTER,
            &[],
            &mut Vec::new(),
        );
        let made = host.derive(session, &mut function, child, &[(CKA_VALUE_LEN, &len)]);
        assert_eq!(made, Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
        let open: Template<'_> = &[(CKA_VALUE_LEN, &len), (CKA_SENSITIVE, NO)];
        let made = host.derive(session, &mut extract(0), child, open);
        assert_eq!(made, Err(CKR_TEMPLATE_INCONSISTENT));
        let otherwise: Template<'_> = &[
            (CKA_VALUE_LEN, &len),
            (CKA_ALLOWED_MECHANISMS, &allowed[..size_of::<CK_ULONG>()]),
        ];
        let made = host.derive(session, &mut with, base, otherwise);
        assert_eq!(made, Err(CKR_TEMPLATE_INCONSISTENT));
    }
}

#[test]
fn what_both_keys_demand_holds_for_what_comes_of_them() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let inner = written(&[(CKA_LABEL, b"derived")]);
    let demanding = host.base(session, &VALUE, &[(CKA_DERIVE_TEMPLATE, nested(&inner))]);
    let other = host.base(session, &VALUE, &[]);
    for (base, with) in [(demanding, other), (other, demanding)] {
        let mut with = concatenate(with);
        let key = host.derive(session, &mut with, base, &[]).expect("a key");
        assert_eq!(
            host.get(session, key, CKA_LABEL).as_deref(),
            Ok(&b"derived"[..])
        );
        let otherwise = host.derive(session, &mut with, base, &[(CKA_LABEL, b"other")]);
        assert_eq!(otherwise, Err(CKR_TEMPLATE_INCONSISTENT));
    }
    // Two that demand different things have nothing in common.
    let inner = written(&[(CKA_LABEL, b"otherwise")]);
    let third = host.base(session, &VALUE, &[(CKA_DERIVE_TEMPLATE, nested(&inner))]);
    let made = host.derive(session, &mut concatenate(third), demanding, &[]);
    assert_eq!(made, Err(CKR_TEMPLATE_INCONSISTENT));
}

/// A key is no more open for having been put together with something.
#[test]
fn what_is_said_of_a_key_is_said_of_what_has_its_value() {
    let mut fake = Fake::default();
    fake.tokens[2].has_pins = true;
    let host = Host::with(fake);
    let session = host.session(KEYS);
    let pin = b"1234".as_ptr().cast_mut();
    assert_eq!(call!(host.C_Login(session, CKU_USER, pin, 4)), CKR_OK);
    let base = host.base(
        session,
        &VALUE,
        &[(CKA_WRAP_WITH_TRUSTED, YES), (CKA_EXTRACTABLE, YES)],
    );
    assert!(host.has(session, base, CKA_PRIVATE));
    let public = host.base(
        session,
        &VALUE,
        &[(CKA_PRIVATE, NO), (CKA_EXTRACTABLE, YES)],
    );
    for (mut with, base) in [
        (with_data(CKM_CONCATENATE_BASE_AND_DATA, b"x"), base),
        (with_data(CKM_CONCATENATE_DATA_AND_BASE, b"x"), base),
        (with_data(CKM_XOR_BASE_AND_DATA, &[7; 16]), base),
        (extract(0), base),
        (concatenate(public), base),
        (concatenate(base), public),
    ] {
        let kind = with.mechanism.mechanism;
        let len = if kind == CKM_EXTRACT_KEY_FROM_KEY {
            [16]
        } else {
            [0]
        }
        .map(usize::to_ne_bytes);
        let len: Template<'_> = if kind == CKM_EXTRACT_KEY_FROM_KEY {
            &[(CKA_VALUE_LEN, &len[0])]
        } else {
            &[]
        };
        let open = [len, &[(CKA_EXTRACTABLE, YES)]].concat();
        let key = host.derive(session, &mut with, base, &open).expect("a key");
        for kept in [CKA_WRAP_WITH_TRUSTED, CKA_PRIVATE, CKA_SENSITIVE] {
            assert!(host.has(session, key, kept), "{kind:#x}, {kept:#x}");
            let otherwise = [len, &[(kept, NO)]].concat();
            let made = host.derive(session, &mut with, base, &otherwise);
            assert_eq!(made, Err(CKR_TEMPLATE_INCONSISTENT), "{kind:#x}, {kept:#x}");
        }
    }
    // Nothing put to a key leaves that key.
    for kind in [CKM_CONCATENATE_BASE_AND_DATA, CKM_CONCATENATE_DATA_AND_BASE] {
        let made = host.derive(session, &mut with_data(kind, b""), base, &[]);
        assert_eq!(made, Err(CKR_MECHANISM_PARAM_INVALID));
    }
    // Nor does a copy come out of the token's PIN.
    assert_eq!(
        host.copy(session, base, &[(CKA_PRIVATE, NO)]),
        Err(CKR_TEMPLATE_INCONSISTENT)
    );
    let copy = host.copy(session, base, &[]).expect("a copy");
    assert!(host.has(session, copy, CKA_PRIVATE));
    let copy = host.copy(session, public, &[(CKA_PRIVATE, YES)]);
    assert!(host.has(session, copy.expect("a copy"), CKA_PRIVATE));
}

#[test]
fn keys_do_not_grow_for_ever() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let mut key = host.base(session, &VALUE, &[]);
    let refused = (0..20).find_map(|_| {
        let made = host.derive(session, &mut concatenate(key), key, &[(CKA_DERIVE, YES)]);
        match made {
            Ok(made) => {
                key = made;
                None
            }
            Err(code) => Some(code),
        }
    });
    assert_eq!(refused, Some(CKR_KEY_SIZE_RANGE));
    // Nor is a length taken for a number that can be counted with.
    let base = host.base(session, &VALUE, &[]);
    for len in [usize::MAX, 1 << 63, 1 << 20] {
        let lens = [len.to_ne_bytes(), len.to_ne_bytes()];
        let (mut second, mut two) = (written(&[(CKA_VALUE_LEN, &lens[1])]), 0);
        let mut more = vec![CK_DERIVED_KEY {
            pTemplate: second.as_mut_ptr(),
            ulAttributeCount: 1,
            phKey: &raw mut two,
        }];
        let mut with = kbkdf(Iteration::Counter, CKM_SHA256_HMAC, COUNTER, &[], &mut more);
        let made = host.derive(session, &mut with, base, &[(CKA_VALUE_LEN, &lens[0])]);
        assert_eq!(made, Err(CKR_KEY_SIZE_RANGE), "{len:#x}");
    }
}

/// Without a usage no key of a token does what its owner has not foreseen, not even as a copy.
#[test]
fn a_copy_does_no_more_than_the_object() {
    let mut fake = Fake::default();
    let mut object = NewObject::new(
        TokenName::keys(),
        "sealed".parse().expect("a label"),
        Kind::SecretKey,
    );
    for (name, value) in [
        ("cka.key-type", CKK_AES.to_string()),
        ("cka.wrap", true.to_string()),
    ] {
        object.attributes.insert(name.to_owned(), value);
    }
    fake.add(object, &VALUE);
    let host = Host::with(fake);
    let reading = host.session(KEYS);
    let sealed = host.find(reading, &[(CKA_LABEL, b"sealed")])[0];
    let uses = [CKA_DERIVE, CKA_SIGN, CKA_VERIFY, CKA_UNWRAP];
    let in_memory: (CK_ATTRIBUTE_TYPE, &[u8]) = (CKA_TOKEN, NO);
    for usage in uses {
        assert_eq!(
            host.copy(reading, sealed, &[in_memory, (usage, YES)]),
            Err(CKR_ATTRIBUTE_READ_ONLY),
            "{usage:#x}"
        );
    }
    // Off is always possible, and so is a copy as it is.
    let copy = host.copy(reading, sealed, &[in_memory, (CKA_WRAP, NO)]);
    assert!(!host.has(reading, copy.expect("a copy"), CKA_WRAP));
    // Nor is it a way to what may be changed.
    for given in [&[in_memory][..], &[in_memory, (CKA_LABEL, b"new")]] {
        let copy = host.copy(reading, sealed, given).expect("a copy");
        assert!(host.has(reading, copy, CKA_WRAP));
        assert_eq!(
            host.set(reading, copy, &[(CKA_DERIVE, YES)]),
            CKR_ACTION_PROHIBITED
        );
        // And a copy's copy is one of the same.
        assert_eq!(
            host.copy(reading, copy, &[(CKA_DERIVE, YES)]),
            Err(CKR_ATTRIBUTE_READ_ONLY)
        );
    }
    assert_eq!(
        host.copy(reading, sealed, &[in_memory, (CKA_MODIFIABLE, YES)]),
        Err(CKR_TEMPLATE_INCONSISTENT)
    );
    // Who may change the key itself may change its copy.
    let writing = host.writing(KEYS);
    let copy = host.copy(writing, sealed, &[in_memory, (CKA_DERIVE, YES)]);
    let copy = copy.expect("a copy");
    assert!(host.has(writing, copy, CKA_DERIVE));
    assert_eq!(host.set(writing, copy, &[(CKA_SIGN, YES)]), CKR_OK);
    // Unless the key is not to be changed.
    let fixed = host.base(writing, &VALUE, &[(CKA_MODIFIABLE, NO)]);
    assert_eq!(
        host.copy(writing, fixed, &[(CKA_SIGN, YES)]),
        Err(CKR_ATTRIBUTE_READ_ONLY)
    );
    assert_eq!(
        host.copy(writing, fixed, &[(CKA_MODIFIABLE, YES)]),
        Err(CKR_TEMPLATE_INCONSISTENT)
    );
}

#[test]
fn a_copy_of_a_protected_key_does_no_more_than_the_key() {
    let mut fake = Fake::default();
    let object = NewObject::new(
        TokenName::keys(),
        "sealed".parse().expect("a label"),
        Kind::SecretKey,
    );
    fake.add(object, &VALUE);
    fake.tokens[2].write_protected = true;
    let host = Host::with(fake);
    let session = host.session(KEYS);
    let sealed = host.find(session, &[(CKA_LABEL, b"sealed")])[0];
    assert_eq!(
        host.copy(session, sealed, &[(CKA_TOKEN, NO), (CKA_DERIVE, YES)]),
        Err(CKR_ATTRIBUTE_READ_ONLY)
    );
    let copy = host.copy(session, sealed, &[(CKA_TOKEN, NO)]);
    assert_eq!(
        host.set(session, copy.expect("a copy"), &[(CKA_DERIVE, YES)]),
        CKR_ACTION_PROHIBITED
    );
}

/// What is weak is not had of a key of the vault by way of a copy either, or of what has its value.
#[test]
fn a_copy_of_a_key_of_the_vault_is_as_good_as_the_key() {
    let host = Host::with(Fake::default());
    let session = host.writing(KEYS);
    let (class, aes) = (CKO_SECRET_KEY.to_ne_bytes(), CKK_AES.to_ne_bytes());
    let key = |token| {
        let given = [
            (CKA_CLASS, &class[..]),
            (CKA_KEY_TYPE, &aes),
            (CKA_VALUE, &VALUE),
            (CKA_TOKEN, token),
            (CKA_SIGN, YES),
            (CKA_DERIVE, YES),
        ];
        host.create(session, &given).expect("a key")
    };
    let (sealed, held) = (key(YES), key(NO));
    let in_memory = [(CKA_TOKEN, NO)];
    let copy = |key| host.copy(session, key, &in_memory).expect("a copy");
    let derive = |mut with: With, key| {
        let len = 16_usize.to_ne_bytes();
        let given = [
            (CKA_KEY_TYPE, &aes[..]),
            (CKA_VALUE_LEN, &len),
            (CKA_SIGN, YES),
            (CKA_DERIVE, YES),
        ];
        host.derive(session, &mut with, key, &given).expect("a key")
    };
    let zeros = || with_data(CKM_XOR_BASE_AND_DATA, &[0; 16]);
    let others = || {
        kbkdf(
            Iteration::Counter,
            CKM_SHA256_HMAC,
            COUNTER,
            &[],
            &mut Vec::new(),
        )
    };
    let same = derive(extract(0), sealed);
    for (key, expected) in [
        (sealed, CKR_KEY_FUNCTION_NOT_PERMITTED),
        (copy(sealed), CKR_KEY_FUNCTION_NOT_PERMITTED),
        (copy(copy(sealed)), CKR_KEY_FUNCTION_NOT_PERMITTED),
        (derive(zeros(), sealed), CKR_KEY_FUNCTION_NOT_PERMITTED),
        (derive(extract(0), same), CKR_KEY_FUNCTION_NOT_PERMITTED),
        (derive(others(), sealed), CKR_OK),
        (held, CKR_OK),
        (copy(held), CKR_OK),
        (derive(zeros(), held), CKR_OK),
    ] {
        let code = host.sign(session, &mut plain(CKM_AES_MAC), key, b"data");
        assert_eq!(code.err().unwrap_or(CKR_OK), expected);
        assert!(
            host.sign(session, &mut plain(CKM_AES_CMAC), key, b"data")
                .is_ok()
        );
    }
}

/// Whatever a token that was unprotected says of them.
#[test]
fn dataset_keys_do_nothing() {
    let mut fake = Fake::default();
    fake.tokens[0].write_protected = false;
    let [_, id, ..] = fake.ids();
    let (object, _) = (fake.objects.iter_mut())
        .find(|(object, _)| object.id == id)
        .expect("a dataset key");
    for name in ["cka.derive", "cka.sign", "cka.wrap"] {
        object.attributes.insert(name.to_owned(), true.to_string());
    }
    let host = Host::with(fake);
    let session = host.writing(0);
    let key = host.find(session, &[(CKA_ID, id.as_bytes())])[0];
    for usage in [
        CKA_ENCRYPT,
        CKA_DECRYPT,
        CKA_SIGN,
        CKA_VERIFY,
        CKA_WRAP,
        CKA_UNWRAP,
        CKA_DERIVE,
    ] {
        assert!(!host.has(session, key, usage), "{usage:#x}");
        assert_eq!(
            host.set(session, key, &[(usage, YES)]),
            CKR_ATTRIBUTE_READ_ONLY,
            "{usage:#x}"
        );
        assert!(!host.has(session, key, usage), "{usage:#x}");
    }
    assert_eq!(host.set(session, key, &[(CKA_SIGN, NO)]), CKR_OK);
    assert_eq!(
        host.sign(session, &mut plain(CKM_SHA256_HMAC), key, b"x"),
        Err(CKR_KEY_FUNCTION_NOT_PERMITTED)
    );
}

/// Whoever is told what is wrong with a wrapped key that they made up learns what is in it.
#[test]
fn one_answer_for_whatever_is_no_wrapped_key() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let kek = host.secret(session, CKK_AES, &[1; 16]);
    let encrypt = |with: &mut With, data: &[u8]| {
        host.crypt(session, Way::Encrypt, &mut with.mechanism, kek, data)
            .expect("a ciphertext")
    };
    let mut padded = usual(CKM_AES_CBC_PAD, Method::AesCbc { padded: true });
    let mut whole = usual(CKM_AES_CBC, Method::AesCbc { padded: false });
    let right_padding = encrypt(&mut padded, &[5; 17]);
    let wrong_padding = encrypt(&mut whole, &[0; 32]);
    let half_a_block = &right_padding[..24];
    let too_long = encrypt(&mut padded, &[5; 1 << 14]);
    let unwrap = |wrapped: &[u8], class: CK_OBJECT_CLASS, kind: CK_KEY_TYPE, len: Option<usize>| {
        let (class, kind) = (class.to_ne_bytes(), kind.to_ne_bytes());
        let len = len.map(usize::to_ne_bytes);
        let mut given: Vec<(CK_ATTRIBUTE_TYPE, &[u8])> =
            vec![(CKA_CLASS, &class), (CKA_KEY_TYPE, &kind)];
        given.extend(len.as_ref().map(|len| (CKA_VALUE_LEN, &len[..])));
        let mut with = usual(CKM_AES_CBC_PAD, Method::AesCbc { padded: true });
        host.unwrap_with(session, &mut with.mechanism, kek, wrapped, &given)
    };
    let private = PrivateKey::generate(KeyAlgorithm::Ec(strongroom::key::Curve::P256));
    let private = private.expect("a key").to_pkcs8();
    let other_key = encrypt(&mut padded, private.expose());
    for (wrapped, class, kind, len) in [
        (&right_padding[..], CKO_SECRET_KEY, CKK_AES, None),
        (&right_padding, CKO_SECRET_KEY, CKK_GENERIC_SECRET, Some(16)),
        (&right_padding, CKO_PRIVATE_KEY, CKK_EC, None),
        (&wrong_padding, CKO_SECRET_KEY, CKK_AES, None),
        (&wrong_padding, CKO_SECRET_KEY, CKK_GENERIC_SECRET, None),
        (&wrong_padding, CKO_PRIVATE_KEY, CKK_EC, None),
        (half_a_block, CKO_SECRET_KEY, CKK_AES, None),
        (&too_long, CKO_SECRET_KEY, CKK_GENERIC_SECRET, None),
        (&other_key, CKO_PRIVATE_KEY, CKK_RSA, None),
    ] {
        let made = unwrap(wrapped, class, kind, len);
        assert_eq!(made, Err(CKR_WRAPPED_KEY_INVALID), "{class}, {kind:#x}");
    }
    assert!(unwrap(&right_padding, CKO_SECRET_KEY, CKK_GENERIC_SECRET, None).is_ok());
    // Nor is a part of a wrapped key unwrapped by who tries out a short tag.
    let (class, kind) = (
        CKO_SECRET_KEY.to_ne_bytes(),
        CKK_GENERIC_SECRET.to_ne_bytes(),
    );
    let like = [(CKA_CLASS, &class[..]), (CKA_KEY_TYPE, &kind[..])];
    for (bits, expected) in [
        (32, CKR_MECHANISM_PARAM_INVALID),
        (64, CKR_MECHANISM_PARAM_INVALID),
        (96, CKR_OK),
        (128, CKR_OK),
    ] {
        let sealed = encrypt(&mut gcm(&VALUE[..12], b"", bits), b"key");
        let mut with = gcm(&VALUE[..12], b"", bits);
        let made = host.unwrap_with(session, &mut with.mechanism, kek, &sealed, &like);
        assert_eq!(made.err().unwrap_or(CKR_OK), expected, "{bits}");
    }
    assert!(unwrap(&other_key, CKO_PRIVATE_KEY, CKK_EC, None).is_ok());
}

/// Section 6.42: of several keys none is there where one cannot be, and no handle says otherwise.
#[test]
fn keys_that_were_not_derived_have_no_handles() {
    let host = Host::with(Fake::default());
    let session = host.writing(KEYS);
    let base = host.base(session, &VALUE, &[]);
    let (lens, kind) = (
        [16_usize, 17].map(usize::to_ne_bytes),
        CKK_AES.to_ne_bytes(),
    );
    let no_label = CK_ATTRIBUTE {
        type_: CKA_LABEL,
        pValue: null(),
        ulValueLen: 3,
    };
    let wrong: [&[CK_ATTRIBUTE]; 4] = [
        &written(&[(CKA_KEY_TYPE, &kind), (CKA_VALUE_LEN, &lens[1])]),
        &written(&[(CKA_VALUE_LEN, &lens[0]), (CKA_EC_POINT, &kind)]),
        &written(&[(CKA_KEY_TYPE, &kind)]),
        &[no_label],
    ];
    let before = host.find(session, &[]).len();
    for second in wrong {
        let mut second = second.to_vec();
        let mut third = written(&[(CKA_VALUE_LEN, &lens[0])]);
        let (mut one, mut two, mut three) = (77, 78, 79);
        let mut more = vec![
            CK_DERIVED_KEY {
                pTemplate: third.as_mut_ptr(),
                ulAttributeCount: ulong(third.len()),
                phKey: &raw mut three,
            },
            CK_DERIVED_KEY {
                pTemplate: second.as_mut_ptr(),
                ulAttributeCount: ulong(second.len()),
                phKey: &raw mut two,
            },
        ];
        let mut with = kbkdf(Iteration::Counter, CKM_SHA256_HMAC, COUNTER, &[], &mut more);
        let mut first = written(&[(CKA_VALUE_LEN, &lens[0]), (CKA_TOKEN, YES)]);
        let (start, mechanism) = (first.as_mut_ptr(), &raw mut with.mechanism);
        let code = call!(host.C_DeriveKey(session, mechanism, base, start, 2, &raw mut one));
        assert_ne!(code, CKR_OK);
        assert_eq!(two, CK_INVALID_HANDLE, "{code:#x}");
        assert_ne!(
            (one, three),
            (0, 0),
            "{code:#x}: the others' are not touched"
        );
        assert_eq!(host.find(session, &[]).len(), before);
    }
}

#[test]
fn derivations_are_refused_in_the_words_of_the_specification() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let open: Template<'_> = &[(CKA_SENSITIVE, NO), (CKA_EXTRACTABLE, YES)];
    let base = host.base(session, &VALUE, open);
    let aes = host.secret(session, CKK_AES, &VALUE);
    let generic = CKK_GENERIC_SECRET.to_ne_bytes();
    // Section 6.43.7: a part has no length of its own.
    for given in [&[][..], &[(CKA_KEY_TYPE, &generic[..])]] {
        let made = host.derive(session, &mut extract(0), base, given);
        assert_eq!(made, Err(CKR_TEMPLATE_INCOMPLETE));
    }
    // There is not enough data.
    let len = 32_usize.to_ne_bytes();
    let mut ecb = usual(CKM_AES_ECB_ENCRYPT_DATA, Method::DeriveEcb);
    let made = host.derive(session, &mut ecb, aes, &[(CKA_VALUE_LEN, &len)]);
    assert_eq!(made, Err(CKR_MECHANISM_PARAM_INVALID));
    let mut odd = with_data(CKM_AES_ECB_ENCRYPT_DATA, &[7; 17]);
    let made = host.derive(session, &mut odd, aes, &[]);
    assert_eq!(made, Err(CKR_MECHANISM_PARAM_INVALID));
    // Section 4.1.1: what is made has no value that somebody gives.
    let (value, len, class) = (
        &VALUE[..],
        16_usize.to_ne_bytes(),
        CKO_SECRET_KEY.to_ne_bytes(),
    );
    let given = [(CKA_VALUE, value), (CKA_VALUE_LEN, &len[..])];
    assert_eq!(
        host.generate(session, CKM_AES_KEY_GEN, &given),
        Err(CKR_TEMPLATE_INCONSISTENT)
    );
    assert_eq!(
        host.derive(session, &mut ecb, aes, &given),
        Err(CKR_TEMPLATE_INCONSISTENT)
    );
    let mut wrap = plain(CKM_AES_KEY_WRAP);
    let wrapped = host.wrap(session, &mut wrap, aes, base).expect("it wraps");
    let like = [(CKA_CLASS, &class[..]), (CKA_KEY_TYPE, &generic[..])];
    let with_value = [&like[..], &[(CKA_VALUE, value)]].concat();
    assert_eq!(
        host.unwrap_with(session, &mut wrap, aes, &wrapped, &with_value),
        Err(CKR_TEMPLATE_INCONSISTENT)
    );
    assert!(
        host.unwrap_with(session, &mut wrap, aes, &wrapped, &like)
            .is_ok()
    );
    // Section 6.42: the sizes of base keys are in bits.
    let mut info = CK_MECHANISM_INFO::default();
    for kind in [
        CKM_SP800_108_COUNTER_KDF,
        CKM_SP800_108_FEEDBACK_KDF,
        CKM_SP800_108_DOUBLE_PIPELINE_KDF,
    ] {
        assert_eq!(
            call!(host.C_GetMechanismInfo(KEYS, kind, &raw mut info)),
            CKR_OK
        );
        assert_eq!((info.ulMinKeySize, info.ulMaxKeySize), (8, 4096));
    }
}

/// A length of all keys that has no room where it is to be written would be that of others.
#[test]
fn what_goes_into_a_function_is_what_was_said() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let base = host.base(session, &VALUE, &[]);
    let derive = |width: CK_ULONG, fixed: &[u8], len: usize| {
        let mut counter = COUNTER;
        let mut format = CK_SP800_108_DKM_LENGTH_FORMAT {
            dkmLengthMethod: CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS,
            bLittleEndian: CK_FALSE,
            ulWidthInBits: width,
        };
        let mut fixed = fixed.to_vec();
        let field = |kind, start: *mut c_void, len| CK_PRF_DATA_PARAM {
            type_: kind,
            pValue: start,
            ulValueLen: ulong(len),
        };
        let mut fields = [
            field(
                CK_SP800_108_ITERATION_VARIABLE,
                (&raw mut counter).cast(),
                size_of_val(&counter),
            ),
            field(
                CK_SP800_108_BYTE_ARRAY,
                fixed.as_mut_ptr().cast(),
                fixed.len(),
            ),
            field(
                CK_SP800_108_DKM_LENGTH,
                (&raw mut format).cast(),
                size_of_val(&format),
            ),
        ];
        let mut parameter = CK_SP800_108_KDF_PARAMS {
            prfType: CKM_SHA256_HMAC,
            ulNumberOfDataParams: 3,
            pDataParams: fields.as_mut_ptr(),
            ulAdditionalDerivedKeys: 0,
            pAdditionalDerivedKeys: null(),
        };
        let mut mechanism = with_parameter(CKM_SP800_108_COUNTER_KDF, &mut parameter);
        host.derived(session, &mut mechanism, base, Some(len))
            .map(|value| value.len())
    };
    assert_eq!(derive(8, b"label", 31), Ok(31));
    assert_eq!(derive(8, b"label", 32), Err(CKR_KEY_SIZE_RANGE));
    assert_eq!(derive(16, b"label", 32), Ok(32));
    assert_eq!(derive(64, b"label", 32), Ok(32));
    assert_eq!(derive(16, b"", 32), Err(CKR_MECHANISM_PARAM_INVALID));
}
