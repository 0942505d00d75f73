//! Random sequences of calls: whatever a host calls with memory that is its own, it gets an answer, nothing
//! panics, and nothing is written where there was no room.
//!
//! `STRONGROOM_FUZZ_SECONDS` says how long it goes on, `STRONGROOM_TEST_SEED` where it begins; a failure
//! prints the seed of its sequence, which alone is enough to see it again.

use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::keys::{KEYS, RSA};
use super::legacy::{AGREED, DES3, DSA_1024, MODP_2048, bytes, peer};
use super::*;
use crate::foreign::ulong;
use crate::mechanisms::{MECHANISMS, Method};
use crate::tests::mechanisms::{With, of, usual};

/// The calls of one sequence, each on a new module.
const CALLS: usize = 300;

/// How much room outputs have, and what is behind it.
const ROOM: usize = 2048;
const BEHIND: [u8; 16] = [0xa5; 16];

#[test]
fn some_random_calls_are_answered() {
    let mut round = 0;
    play_until(&mut || {
        round += 1;
        round <= 30
    });
}

/// A minute in `make test-all`, an hour before a release.
#[test]
#[ignore = "takes as long as STRONGROOM_FUZZ_SECONDS says, a minute unless it does"]
fn random_calls_are_answered() {
    let seconds = std::env::var("STRONGROOM_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(60);
    let end = Instant::now() + Duration::from_secs(seconds);
    let played = play_until(&mut || Instant::now() < end);
    println!("{played} sequences of {CALLS} calls");
}

fn play_until(go_on: &mut dyn FnMut() -> bool) -> u64 {
    let given = std::env::var("STRONGROOM_TEST_SEED").ok();
    let first = given
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(seed_of_now);
    let mut seed: u64 = first;
    while go_on() {
        let outcome = std::panic::catch_unwind(|| Player::new(seed).play());
        assert!(outcome.is_ok(), "STRONGROOM_TEST_SEED={seed}");
        seed = seed.wrapping_add(1);
    }
    seed.wrapping_sub(first)
}

/// A seed that differs from run to run.
fn seed_of_now() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("the clock is right");
    now.as_secs() << 30 | u64::from(now.subsec_nanos())
}

/// A host that calls whatever comes to its mind.
struct Player {
    random: ChaCha8Rng,
    host: Host,
    sessions: Vec<u64>,
    objects: Vec<u64>,
    /// The keys that it begins with, by their type.
    typed: Vec<(CK_KEY_TYPE, u64)>,
    /// The calls that go on with what was begun last, by their numbers.
    follow: Option<Calls>,
    /// What templates and inputs point to, until the sequence is over.
    kept: Vec<Vec<u8>>,
}

/// The numbers of calls, from the first to the last.
type Calls = (usize, usize);

/// Where an output goes.
struct Room {
    bytes: Vec<u8>,
    len: CK_ULONG,
    said: CK_ULONG,
    is_null: bool,
}

impl Room {
    fn start(&mut self) -> *mut u8 {
        if self.is_null {
            null()
        } else {
            self.bytes.as_mut_ptr()
        }
    }

    /// Nothing is where there was no room, and what is said to be there fits.
    fn check(&self, code: CK_RV) {
        let said = usize::try_from(self.said).expect("a length");
        assert_eq!(self.bytes[said..said + 16], BEHIND, "it wrote too much");
        if code == CKR_OK && !self.is_null {
            assert!(self.len <= self.said, "{} of {}", self.len, self.said);
        }
    }
}

impl Player {
    fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut fake = Fake::default();
        // Half of the time there are PINs, and a login is needed.
        let has_pins = random.next_u32() % 2 == 0;
        fake.tokens[2].has_pins = has_pins;
        fake.user.limit = 10;
        fake.takes_tokens = true;
        let host = Host::with(fake);
        let sessions = vec![host.writing(KEYS), host.session(KEYS), host.session(0)];
        if has_pins && random.next_u32() % 4 != 0 {
            let pin = b"1234".as_ptr().cast_mut();
            assert_eq!(call!(host.C_Login(sessions[0], CKU_USER, pin, 4)), CKR_OK);
        }
        let mut player = Self {
            random,
            host,
            sessions,
            objects: vec![1, 2, 3, 4],
            typed: Vec::new(),
            follow: None,
            kept: Vec::new(),
        };
        player.begin_with_keys();
        player
    }

    /// Something to work with: keys that random templates would rarely make.
    fn begin_with_keys(&mut self) {
        let session = self.sessions[0];
        let yes: &[u8] = &[CK_TRUE];
        let (class, aes, generic) = (
            CKO_SECRET_KEY.to_ne_bytes(),
            CKK_AES.to_ne_bytes(),
            CKK_GENERIC_SECRET.to_ne_bytes(),
        );
        let (des2, des3) = (CKK_DES2.to_ne_bytes(), CKK_DES3.to_ne_bytes());
        let usages = [
            CKA_ENCRYPT,
            CKA_DECRYPT,
            CKA_SIGN,
            CKA_VERIFY,
            CKA_WRAP,
            CKA_UNWRAP,
            CKA_DERIVE,
            CKA_EXTRACTABLE,
        ]
        .map(|usage| (usage, yes));
        for (kind, value) in [
            (&aes, &[7_u8; 16][..]),
            (&generic, &[9; 20]),
            (&des2, &DES3[..16]),
            (&des3, DES3),
        ] {
            let mut template: Vec<(CK_ATTRIBUTE_TYPE, &[u8])> = vec![
                (CKA_CLASS, &class),
                (CKA_KEY_TYPE, kind),
                (CKA_VALUE, value),
            ];
            template.extend(usages);
            let key_type = CK_KEY_TYPE::from_ne_bytes(*kind);
            let made = self.host.create(session, &template).ok();
            self.typed.extend(made.map(|key| (key_type, key)));
        }
        let p256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        for (kind, key_type, public) in [
            (CKM_EC_KEY_PAIR_GEN, CKK_EC, vec![(CKA_EC_PARAMS, p256)]),
            (CKM_EC_EDWARDS_KEY_PAIR_GEN, CKK_EC_EDWARDS, vec![]),
            (
                CKM_EC_EDWARDS_KEY_PAIR_GEN,
                CKK_EC_EDWARDS,
                vec![(CKA_EC_PARAMS, b"\x13\x0aedwards448")],
            ),
            (CKM_EC_MONTGOMERY_KEY_PAIR_GEN, CKK_EC_MONTGOMERY, vec![]),
        ] {
            let made = self
                .host
                .generate_pair(session, kind, &public, &[(CKA_DERIVE, yes)]);
            if let Ok((public, private)) = made {
                self.typed.extend([(key_type, public), (key_type, private)]);
            }
        }
        let bits = 2048_usize.to_ne_bytes();
        let made = self.host.generate_pair(
            session,
            CKM_RSA_PKCS_KEY_PAIR_GEN,
            &[(CKA_MODULUS_BITS, &bits), (CKA_WRAP, yes)],
            &[(CKA_TOKEN, yes), (CKA_UNWRAP, yes)],
        );
        if let Ok((public, private)) = made {
            self.typed.extend([(CKK_RSA, public), (CKK_RSA, private)]);
        }
        let private = self.host.known_dh(session).ok();
        self.typed.extend(private.map(|key| (CKK_DH, key)));
        // Whether numbers are primes takes longer than all the rest.
        if self.one_in(3) {
            if let Ok((public, private)) = self.host.dsa_pair(session) {
                self.typed.extend([(CKK_DSA, public), (CKK_DSA, private)]);
            }
        }
        self.objects.extend(self.typed.iter().map(|(_, key)| *key));
    }

    /// The attributes without which there is no pair of such keys.
    fn group(&mut self, kind: CK_MECHANISM_TYPE) -> Vec<CK_ATTRIBUTE> {
        let numbers = match kind {
            CKM_DSA_KEY_PAIR_GEN => {
                let [p, q, g] = DSA_1024.map(bytes);
                vec![(CKA_PRIME, p), (CKA_SUBPRIME, q), (CKA_BASE, g)]
            }
            CKM_DH_PKCS_KEY_PAIR_GEN => {
                vec![(CKA_PRIME, bytes(MODP_2048)), (CKA_BASE, vec![2])]
            }
            _ => Vec::new(),
        };
        let mut group = Vec::new();
        for (kind, mut number) in numbers {
            if self.one_in(8) {
                let spoilt = self.below(number.len());
                number[spoilt] ^= 1 << self.below(8);
            }
            let len = ulong(number.len());
            self.kept.push(number);
            let start = self.kept.last_mut().expect("it was put there").as_mut_ptr();
            group.push(CK_ATTRIBUTE {
                type_: kind,
                pValue: start.cast(),
                ulValueLen: len,
            });
        }
        group
    }

    /// What a mechanism is for, as the number of the call that begins it, and what goes on with it.
    fn begin_with(&mut self, kind: CK_MECHANISM_TYPE) -> Option<usize> {
        const BEGINNINGS: [(CK_FLAGS, usize, Option<Calls>); 12] = [
            (CKF_ENCRYPT, 0, Some((3, 7))),
            (CKF_DECRYPT, 8, Some((11, 15))),
            (CKF_SIGN, 16, Some((19, 23))),
            (CKF_VERIFY, 24, Some((27, 31))),
            (CKF_SIGN_RECOVER, 32, Some((33, 33))),
            (CKF_VERIFY_RECOVER, 34, Some((35, 35))),
            (CKF_DIGEST, 36, Some((38, 41))),
            (CKF_GENERATE, 59, None),
            (CKF_GENERATE_KEY_PAIR, 61, None),
            (CKF_DERIVE, 62, None),
            (CKF_WRAP, 64, None),
            (CKF_UNWRAP, 65, None),
        ];
        let mut info = CK_MECHANISM_INFO::default();
        let host = &self.host;
        let code = call!(host.C_GetMechanismInfo(KEYS, kind, &raw mut info));
        let fitting: Vec<_> = BEGINNINGS
            .into_iter()
            .filter(|(flag, _, _)| code == CKR_OK && info.flags & flag != 0)
            .collect();
        if fitting.is_empty() {
            return None;
        }
        let (_, number, follow) = self.pick(&fitting);
        self.follow = follow;
        Some(number)
    }

    /// A key for a mechanism, or any object.
    fn key_for(&mut self, kind: CK_MECHANISM_TYPE) -> u64 {
        let method = MECHANISMS.iter().find(|it| it.kind == kind);
        let fitting: Vec<_> = (self.typed.iter())
            .filter(|(key_type, _)| method.is_some_and(|it| it.method.takes(Some(*key_type))))
            .map(|(_, key)| *key)
            .collect();
        if fitting.is_empty() || self.one_in(6) {
            self.object()
        } else {
            self.pick(&fitting)
        }
    }

    fn play(mut self) {
        for _ in 0..CALLS {
            let code = self.call();
            // That is what a panic answers.
            assert_ne!(code, CKR_GENERAL_ERROR);
            assert_ne!(code, CKR_FUNCTION_NOT_SUPPORTED);
            let (known, own) = (0..=0x202, code & CKR_VENDOR_DEFINED != 0);
            assert!(known.contains(&code) || own, "{code:#x} is no answer");
        }
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.random.next_u64() % end as u64).expect("it is less than a usize")
    }

    fn one_in(&mut self, chance: usize) -> bool {
        self.below(chance) == 0
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn session(&mut self) -> u64 {
        if self.one_in(20) {
            self.random.next_u64() >> self.below(64)
        } else if self.one_in(5) || self.sessions.is_empty() {
            let all = self.sessions.clone();
            if all.is_empty() { 0 } else { self.pick(&all) }
        } else {
            self.sessions[0]
        }
    }

    fn object(&mut self) -> u64 {
        if self.one_in(15) {
            return self.random.next_u64() >> self.below(64);
        }
        let all = self.objects.clone();
        self.pick(&all)
    }

    fn number(&mut self) -> CK_ULONG {
        if self.one_in(4) {
            return self.random.next_u64() >> self.below(64);
        }
        self.pick(&[
            0,
            1,
            2,
            3,
            4,
            5,
            8,
            15,
            16,
            17,
            20,
            24,
            31,
            32,
            33,
            64,
            100,
            255,
            256,
            512,
            1024,
            2048,
            4096,
            0x10,
            0x13,
            0x1f,
            0x40,
            0x41,
            CK_ULONG::MAX,
            CK_ULONG::MAX - 1,
            1 << 31,
            1 << 63,
        ])
    }

    fn len(&mut self) -> usize {
        self.pick(&[
            0, 1, 2, 7, 8, 12, 15, 16, 17, 20, 24, 31, 32, 33, 48, 64, 65, 100, 256, 300, 1100,
        ])
    }

    fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        if !self.one_in(3) {
            self.random.fill_bytes(&mut bytes);
        }
        bytes
    }

    /// Memory of the host's, or none, and how long it is said to be: that, or less.
    fn input(&mut self) -> (*mut u8, CK_ULONG) {
        let bytes = self.bytes();
        let len = if self.one_in(12) {
            self.below(bytes.len() + 1)
        } else {
            bytes.len()
        };
        if self.one_in(25) {
            return (null(), ulong(len));
        }
        self.kept.push(bytes);
        let start = self.kept.last_mut().expect("it was put there").as_mut_ptr();
        (start, ulong(len))
    }

    fn room(&mut self) -> Room {
        let said = self.pick(&[0, 1, 15, 16, 17, 32, 64, 256, ROOM, ROOM, ROOM]);
        let mut bytes = vec![0xa5; ROOM + BEHIND.len()];
        bytes[..said].fill(0);
        Room {
            bytes,
            len: ulong(said),
            said: ulong(said),
            is_null: self.one_in(6),
        }
    }

    #[allow(clippy::too_many_lines, reason = "a list of all that there is")]
    fn attribute(&mut self) -> CK_ATTRIBUTE {
        const KINDS: [CK_ATTRIBUTE_TYPE; 48] = [
            CKA_CLASS,
            CKA_TOKEN,
            CKA_PRIVATE,
            CKA_LABEL,
            CKA_APPLICATION,
            CKA_VALUE,
            CKA_OBJECT_ID,
            CKA_CERTIFICATE_TYPE,
            CKA_ISSUER,
            CKA_SERIAL_NUMBER,
            CKA_TRUSTED,
            CKA_KEY_TYPE,
            CKA_SUBJECT,
            CKA_ID,
            CKA_SENSITIVE,
            CKA_ENCRYPT,
            CKA_DECRYPT,
            CKA_WRAP,
            CKA_UNWRAP,
            CKA_SIGN,
            CKA_VERIFY,
            CKA_DERIVE,
            CKA_START_DATE,
            CKA_END_DATE,
            CKA_MODULUS,
            CKA_MODULUS_BITS,
            CKA_PUBLIC_EXPONENT,
            CKA_PRIVATE_EXPONENT,
            CKA_PRIME_1,
            CKA_VALUE_LEN,
            CKA_EXTRACTABLE,
            CKA_LOCAL,
            CKA_MODIFIABLE,
            CKA_COPYABLE,
            CKA_DESTROYABLE,
            CKA_EC_PARAMS,
            CKA_EC_POINT,
            CKA_ALWAYS_AUTHENTICATE,
            CKA_ALLOWED_MECHANISMS,
            CKA_WRAP_TEMPLATE,
            CKA_UNIQUE_ID,
            CKA_PUBLIC_KEY_INFO,
            CKA_PRIME,
            CKA_SUBPRIME,
            CKA_BASE,
            CKA_PRIME_BITS,
            CKA_SUBPRIME_BITS,
            CKA_VALUE_BITS,
        ];
        let kind = if self.one_in(20) {
            self.random.next_u64() >> self.below(64)
        } else {
            self.pick(&KINDS)
        };
        let value: Vec<u8> = match kind {
            CKA_CLASS => self
                .pick::<CK_ULONG>(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
                .to_ne_bytes()
                .into(),
            CKA_KEY_TYPE => {
                let kinds = [
                    CKK_RSA,
                    CKK_EC,
                    CKK_AES,
                    CKK_GENERIC_SECRET,
                    CKK_EC_EDWARDS,
                    CKK_DES2,
                    CKK_DES3,
                    CKK_DSA,
                    CKK_DH,
                    99,
                ];
                self.pick(&kinds).to_ne_bytes().into()
            }
            CKA_EC_PARAMS => self
                .pick::<&[u8]>(&[
                    b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
                    b"\x06\x05\x2b\x81\x04\x00\x23",
                    b"\x13\x0cedwards25519",
                    b"\x13\x0aedwards448",
                    b"\x06\x03\x2b\x65\x6e",
                    b"\x05\x00",
                ])
                .into(),
            CKA_WRAP_TEMPLATE => Vec::new(),
            CKA_VALUE if self.one_in(6) => RSA.into(),
            CKA_PRIME if self.one_in(2) => bytes(self.pick(&[DSA_1024[0], MODP_2048])),
            CKA_SUBPRIME if self.one_in(2) => bytes(DSA_1024[1]),
            CKA_BASE if self.one_in(2) => bytes(DSA_1024[2]),
            CKA_MODULUS_BITS | CKA_VALUE_LEN | CKA_CERTIFICATE_TYPE | CKA_PRIME_BITS
            | CKA_SUBPRIME_BITS | CKA_VALUE_BITS => self.number().to_ne_bytes().into(),
            _ if self.one_in(2) => vec![self.pick(&[0, 1, 1, 2])],
            _ => self.bytes(),
        };
        let len = if self.one_in(20) {
            self.below(value.len() + 1)
        } else {
            value.len()
        };
        let is_null = self.one_in(20);
        self.kept.push(value);
        let start = self.kept.last_mut().expect("it was put there").as_mut_ptr();
        CK_ATTRIBUTE {
            type_: kind,
            pValue: if is_null { null() } else { start.cast() },
            ulValueLen: ulong(len),
        }
    }

    fn template(&mut self) -> Vec<CK_ATTRIBUTE> {
        (0..self.below(9)).map(|_| self.attribute()).collect()
    }

    /// A mechanism with the parameter that it takes, more or less.
    fn mechanism(&mut self) -> With {
        let it = &MECHANISMS[self.below(MECHANISMS.len())];
        let kind = it.kind;
        let bytes = self.bytes();
        let mut with = match it.method {
            // Another key, or what is none.
            Method::ConcatenateKey => of(kind, self.object(), Vec::new()),
            Method::Ecdh => {
                let (mut point, mut shared) = (Box::new(bytes), Box::new(self.bytes()));
                let parameter = CK_ECDH1_DERIVE_PARAMS {
                    kdf: self.pick(&[CKD_NULL, CKD_SHA1_KDF, CKD_SHA256_KDF_SP800, 99]),
                    ulSharedDataLen: ulong(shared.len()),
                    pSharedData: shared.as_mut_ptr(),
                    ulPublicDataLen: ulong(point.len()),
                    pPublicData: point.as_mut_ptr(),
                };
                of(kind, parameter, vec![point, shared])
            }
            Method::Eddsa if self.one_in(2) => {
                let mut context = Box::new(bytes);
                let parameter = CK_EDDSA_PARAMS {
                    phFlag: self.pick(&[0, 1, 2]),
                    ulContextDataLen: ulong(context.len()),
                    pContextData: context.as_mut_ptr(),
                };
                of(kind, parameter, vec![context])
            }
            Method::AesCtr => {
                let parameter = CK_AES_CTR_PARAMS {
                    ulCounterBits: self.number(),
                    cb: [0xff; 16],
                };
                of(kind, parameter, Vec::new())
            }
            Method::RsaPss(_) if self.one_in(2) => {
                let parameter = CK_RSA_PKCS_PSS_PARAMS {
                    hashAlg: self.pick(&[CKM_SHA_1, CKM_SHA256, CKM_SHA512, CKM_RSA_PKCS]),
                    mgf: self.pick(&[1, 2, 3, 4, 5, 99]),
                    sLen: self.number(),
                };
                of(kind, parameter, Vec::new())
            }
            Method::Extract
            | Method::Cmac { cut: true }
            | Method::AesMac { cut: true }
            | Method::Hmac { cut: true, .. } => of::<CK_ULONG>(kind, self.number(), Vec::new()),
            Method::Dh if self.one_in(2) => peer(&legacy::bytes(AGREED[3])),
            Method::Dh => peer(&bytes),
            method => usual(kind, method),
        };
        if self.one_in(15) {
            // Less than there is, and nothing of what is named.
            let len = usize::try_from(with.mechanism.ulParameterLen).expect("a length");
            with.mechanism.ulParameterLen = ulong(self.below(len + 1));
        }
        if self.one_in(25) {
            with.mechanism.pParameter = null();
        }
        if self.one_in(25) {
            with.mechanism = CK_MECHANISM {
                mechanism: self.random.next_u64() >> self.below(64),
                pParameter: null(),
                ulParameterLen: 0,
            };
        }
        with
    }

    /// One call.
    #[allow(
        clippy::too_many_lines,
        clippy::cognitive_complexity,
        reason = "a function after the other, each once"
    )]
    fn call(&mut self) -> CK_RV {
        // An output with its room, by a function of these arguments.
        macro_rules! output {
            ($function:ident($($argument:expr),*)) => {{
                let mut room = self.room();
                let (start, len) = (room.start(), &raw mut room.len);
                let host = &self.host;
                let code = call!(host.$function($($argument,)* start, len));
                room.check(code);
                code
            }};
        }
        macro_rules! plain_call {
            ($function:ident($($argument:expr),*)) => {{
                let host = &self.host;
                call!(host.$function($($argument),*))
            }};
        }
        let session = self.session();
        let mut with = self.mechanism();
        let mechanism: *mut CK_MECHANISM = if self.one_in(30) {
            null()
        } else {
            &raw mut with.mechanism
        };
        let key = self.key_for(with.mechanism.mechanism);
        // Half of the time something is begun that may succeed, and then gone on with.
        let follow = self.follow;
        let number = match follow {
            Some((first, last)) if !self.one_in(4) => first + self.below(last - first + 1),
            _ if self.one_in(2) => {
                let begun = self.begin_with(with.mechanism.mechanism);
                begun.unwrap_or_else(|| self.below(78))
            }
            _ => self.below(78),
        };
        let (data, len) = self.input();
        let (more, more_len) = self.input();
        let mut template = self.template();
        let count = if self.one_in(40) {
            CK_ULONG::MAX >> self.below(40)
        } else {
            ulong(template.len())
        };
        let start: *mut CK_ATTRIBUTE = if template.is_empty() && self.one_in(2) {
            null()
        } else {
            template.as_mut_ptr()
        };
        // More than the specification's longest template is refused before it is looked at; what is
        // between that and what is there would be read.
        let count = if count > ulong(template.len()) && count <= 1024 {
            ulong(template.len())
        } else {
            count
        };
        let (mut made, mut other) = (0, 0);
        let made_here = &raw mut made;
        let code = match number {
            0..=2 => plain_call!(C_EncryptInit(session, mechanism, key)),
            3..=4 => output!(C_Encrypt(session, data, len)),
            5..=6 => output!(C_EncryptUpdate(session, data, len)),
            7 => output!(C_EncryptFinal(session)),
            8..=10 => plain_call!(C_DecryptInit(session, mechanism, key)),
            11..=12 => output!(C_Decrypt(session, data, len)),
            13..=14 => output!(C_DecryptUpdate(session, data, len)),
            15 => output!(C_DecryptFinal(session)),
            16..=18 => plain_call!(C_SignInit(session, mechanism, key)),
            19..=20 => output!(C_Sign(session, data, len)),
            21..=22 => plain_call!(C_SignUpdate(session, data, len)),
            23 => output!(C_SignFinal(session)),
            24..=26 => plain_call!(C_VerifyInit(session, mechanism, key)),
            27..=28 => plain_call!(C_Verify(session, data, len, more, more_len)),
            29..=30 => plain_call!(C_VerifyUpdate(session, data, len)),
            31 => plain_call!(C_VerifyFinal(session, data, len)),
            32 => plain_call!(C_SignRecoverInit(session, mechanism, key)),
            33 => output!(C_SignRecover(session, data, len)),
            34 => plain_call!(C_VerifyRecoverInit(session, mechanism, key)),
            35 => output!(C_VerifyRecover(session, data, len)),
            36..=37 => plain_call!(C_DigestInit(session, mechanism)),
            38 => output!(C_Digest(session, data, len)),
            39 => plain_call!(C_DigestUpdate(session, data, len)),
            40 => plain_call!(C_DigestKey(session, key)),
            41 => output!(C_DigestFinal(session)),
            42 => output!(C_DigestEncryptUpdate(session, data, len)),
            43 => output!(C_DecryptDigestUpdate(session, data, len)),
            44 => output!(C_SignEncryptUpdate(session, data, len)),
            45 => output!(C_DecryptVerifyUpdate(session, data, len)),
            46..=48 => plain_call!(C_CreateObject(session, start, count, made_here)),
            49 => plain_call!(C_CopyObject(session, key, start, count, made_here)),
            50 if self.one_in(3) => plain_call!(C_DestroyObject(session, key)),
            50 | 51 => plain_call!(C_SetAttributeValue(session, key, start, count)),
            52..=53 => {
                // Each attribute has as much room as it says.
                plain_call!(C_GetAttributeValue(session, key, start, count))
            }
            54 => plain_call!(C_GetObjectSize(session, key, made_here)),
            55..=56 => plain_call!(C_FindObjectsInit(session, start, count)),
            57 => {
                let mut found = [0; 8];
                let start = found.as_mut_ptr();
                plain_call!(C_FindObjects(session, start, 8, &raw mut other))
            }
            58 => plain_call!(C_FindObjectsFinal(session)),
            59..=60 => plain_call!(C_GenerateKey(session, mechanism, start, count, made_here)),
            61 => {
                // A pair of RSA's in memory takes seconds to find without optimisation.
                if !mechanism.is_null() && with.mechanism.mechanism == CKM_RSA_PKCS_KEY_PAIR_GEN {
                    return CKR_OK;
                }
                template.extend(self.group(with.mechanism.mechanism));
                let count = ulong(template.len());
                let start = template.as_mut_ptr();
                plain_call!(C_GenerateKeyPair(
                    session,
                    mechanism,
                    start,
                    count,
                    null(),
                    0,
                    made_here,
                    &raw mut other
                ))
            }
            62..=63 => plain_call!(C_DeriveKey(
                session, mechanism, key, start, count, made_here
            )),
            64 => {
                let wrapped = self.object();
                output!(C_WrapKey(session, mechanism, key, wrapped))
            }
            65 => plain_call!(C_UnwrapKey(
                session, mechanism, key, data, len, start, count, made_here
            )),
            66 => plain_call!(C_GenerateRandom(session, data, len)),
            67 => plain_call!(C_SeedRandom(session, data, len)),
            68 => plain_call!(C_SessionCancel(session, self.number())),
            69 => {
                let user = self.pick(&[CKU_SO, CKU_USER, CKU_CONTEXT_SPECIFIC, 99]);
                plain_call!(C_Login(session, user, data, len))
            }
            70 if self.one_in(4) => plain_call!(C_Logout(session)),
            70 => plain_call!(C_SetPIN(session, data, len, more, more_len)),
            71 => plain_call!(C_InitPIN(session, data, len)),
            72 => {
                let flags =
                    self.pick(&[CKF_SERIAL_SESSION, CKF_SERIAL_SESSION | CKF_RW_SESSION, 0]);
                let slot = self.pick(&[0, 1, KEYS, KEYS, KEYS, 3, 99]);
                let code = plain_call!(C_OpenSession(slot, flags, null(), None, &raw mut other));
                if code == CKR_OK {
                    self.sessions.push(other);
                }
                code
            }
            73 if self.one_in(10) => {
                self.sessions.retain(|it| *it != session);
                plain_call!(C_CloseSession(session))
            }
            73 => output!(C_GetOperationState(session)),
            74 => {
                let mut parameter = [0_u8; 64];
                let start: *mut c_void = parameter.as_mut_ptr().cast();
                // Of whatever length but that of the structure, which would be full of pointers.
                let len = self.pick(&[0, 8, 63]);
                match self.below(4) {
                    0 => plain_call!(C_MessageEncryptInit(session, mechanism, key)),
                    1 => plain_call!(C_MessageDecryptInit(session, mechanism, key)),
                    2 => plain_call!(C_EncryptMessageBegin(session, start, len, data, 0)),
                    _ => plain_call!(C_DecryptMessageBegin(session, start, len, data, 0)),
                }
            }
            75 if self.one_in(2) => plain_call!(C_MessageEncryptFinal(session)),
            75 => plain_call!(C_MessageDecryptFinal(session)),
            76 => {
                let mut info = CK_SESSION_INFO::default();
                plain_call!(C_GetSessionInfo(session, &raw mut info))
            }
            _ => {
                let mut info = CK_TOKEN_INFO::default();
                let slot = self.pick(&[0, 1, KEYS, 3, 99]);
                plain_call!(C_GetTokenInfo(slot, &raw mut info))
            }
        };
        if code == CKR_OK && made != 0 && made < 1 << 32 {
            self.objects.push(made);
        }
        code
    }
}
