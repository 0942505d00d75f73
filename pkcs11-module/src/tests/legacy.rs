//! Mechanisms and keys that are there for old clients: that they do what they are specified to do, that
//! nothing of them comes into the vault, and what bad input gets.

#![allow(
    clippy::too_many_lines,
    clippy::many_single_char_names,
    reason = "a mechanism after the other, each by the names of the specification"
)]

use super::keys::{KEYS, NO, Outcome, Template, YES, plain, written};
use super::mechanisms::{Way, With, of, usual};
use super::*;
use crate::foreign::ulong;
use crate::mechanisms::Method;

/// NIST SP 800-67, appendix B.
pub(super) const DES3: &[u8] =
    b"\x01\x23\x45\x67\x89\xab\xcd\xef\x23\x45\x67\x89\xab\xcd\xef\x01\x45\x67\x89\xab\xcd\xef\x01\x23";

/// RFC 6979, appendix A.2.1: the prime, the order and the base; the private and the public value.
pub(super) const DSA_1024: [&str; 3] = [
    "86f5ca03dcfeb225063ff830a0c769b9dd9d6153ad91d7ce27f787c43278b447e6533b86b18bed6e\
     8a48b784a14c252c5be0dbf60b86d6385bd2f12fb763ed8873abfd3f5ba2e0a8c0a59082eac05693\
     5e529daf7c610467899c77adedfc846c881870b7b19b2b58f9be0521a17002e3bdd6b86685ee90b3\
     d9a1b02b782b1779",
    "996f967f6c8e388d9e28d01e205fba957a5698b1",
    "07b0f92546150b62514bb771e2a0c0ce387f03bda6c56b505209ff25fd3c133d89bbcd97e904e091\
     14d9a7defdeadfc9078ea544d2e401aeecc40bb9fbbf78fd87995a10a1c27cb7789b594ba7efb5c4\
     326a9fe59a070e136db77175464adca417be5dce2f40d10a46a3a3943f26ab7fd9c0398ff8c76ee0\
     a56826a8a88f1dbd",
];
const DSA_1024_VALUES: [&str; 2] = [
    "411602cb19a6ccc34494d79d98ef1e7ed5af25f7",
    "5df5e01ded31d0297e274e1691c192fe5868fef9e19a84776454b100cf16f65392195a38b90523e2\
     542ee61871c0440cb87c322fc4b4d2ec5e1e7ec766e1be8d4ce935437dc11c3c8fd426338933ebfe\
     739cb3465f4d3668c5e473508253b1e682f65cbdc4fae93c2ea212390e54905a86e2223170b44eaa\
     7da5dd9ffcfb7f3b",
];

/// Appendix A.2.2.
const DSA_2048: [&str; 3] = [
    "9db6fb5951b66bb6fe1e140f1d2ce5502374161fd6538df1648218642f0b5c48c8f7a41aadfa1873\
     24b87674fa1822b00f1ecf8136943d7c55757264e5a1a44ffe012e9936e00c1d3e9310b01c7d1798\
     05d3058b2a9f4bb6f9716bfe6117c6b5b3cc4d9be341104ad4a80ad6c94e005f4b993e14f091eb51\
     743bf33050c38de235567e1b34c3d6a5c0ceaa1a0f368213c3d19843d0b4b09dcb9fc72d39c8de41\
     f1bf14d4bb4563ca28371621cad3324b6a2d392145bebfac748805236f5ca2fe92b871cd8f9c36d3\
     292b5509ca8caa77a2adfc7bfd77dda6f71125a7456fea153e433256a2261c6a06ed3693797e7995\
     fad5aabbcfbe3eda2741e375404ae25b",
    "f2c3119374ce76c9356990b465374a17f23f9ed35089bd969f61c6dde9998c1f",
    "5c7ff6b06f8f143fe8288433493e4769c4d988ace5be25a0e24809670716c613d7b0cee6932f8faa\
     7c44d2cb24523da53fbe4f6ec3595892d1aa58c4328a06c46a15662e7eaa703a1decf8bbb2d05dbe\
     2eb956c142a338661d10461c0d135472085057f3494309ffa73c611f78b32adbb5740c361c9f35be\
     90997db2014e2ef5aa61782f52abeb8bd6432c4dd097bc5423b285dafb60dc364e8161f4a2a35aca\
     3a10b1c4d203cc76a470a33afdcbdd92959859abd8b56e1725252d78eac66e71ba9ae3f1dd248719\
     9874393cd4d832186800654760e1e34c09e4d155179f9ec0dc4473f996bdce6eed1cabed8b6f116f\
     7ad9cf505df0f998e34ab27514b0ffe7",
];
const DSA_2048_VALUES: [&str; 2] = [
    "69c7548c21d0dfea6b9a51c9ead4e27c33d3b3f180316e5bcab92c933f0e4dbc",
    "667098c654426c78d7f8201eac6c203ef030d43605032c2f1fa937e5237dbd949f34a0a2564fe126\
     dc8b715c5141802ce0979c8246463c40e6b6bdaa2513fa611728716c2e4fd53bc95b89e69949d965\
     12e873b9c8f8dfd499cc312882561adecb31f658e934c0c197f2c4d96b05cbad67381e7b768891e4\
     da3843d24d94cdfb5126e9b8bf21e8358ee0e0a30ef13fd6a664c0dce3731f7fb49a4845a4fd8254\
     687972a2d382599c9bac4e0ed7998193078913032558134976410b89d2c171d123ac35fd97721959\
     7aa7d15c1a9a428e59194f75c721ebcbcfae44696a499afa74e04299f132026601638cb87ab79190\
     d4a0986315da8eec6561c938996beadf",
];

/// What is right in all but that the prime is two, or that the order is.
const DSA_OF_COMPOSITES: [[&str; 3]; 2] = [
    [
        "a1a39ae49856784bd2b55ea080483599a31d264e18eddd0353e450a30b733483a09bc323ba2cab9d\
     5a1e03b43f54a08f7376f0a34d5b0d0300cc2e7ee31582e279545d3898b6b4dcc7c55db8dc3ad4d0\
     8733b8b90248f2af30d2ca391810d526e1e179f6fe8728d1cafa13c7beaa1125e8b92fa33441b6e7\
     fedf67adf213fe31",
        "ebf66c66443c2f88c28f2b26f953e151f24b1925",
        "638410a721067fa51700a2ea377575df7a8becf2218f99f24a74b86201bf46868101a7583975db51\
     f0893efb1eaf648898e3cd3613454b2778c686e7f5344fe7bcb4253a7bd0fbce8841aa50a004398a\
     b9667afe2cd809524006d1cadecc5d9eed70d4235476152052d2f93ea12b2d664b7cf2e6c00e72dd\
     3b310215675a2570",
    ],
    [
        "d7311b4b84b3d514dc581436d59b88e5272389ada1e52aa7cfca127230b779045a46d309b872570a\
     81faf483bed18daf052489a297df62d841f2470a0ffc01253a57bfa2b55c7d4f6484641f8a551593\
     249687d58e9d768b63f48d30c85de560c01f4ae4c062622ab403270f28c54186c35b931d0170a78d\
     fb55aeb22b05a7c7",
        "bd4e700938b907158cd09f3e71566db555aa7df3",
        "66dea19ca90419c32375562bb6e3fbd085f67a2eda40f4235ab6946e22f7566a2ac422d1618b5cfe\
     ed1f0940101ab8df066791a4ea89f120179ddab6861058bc5fa13c5635a4f23ff9dbee23e85750dc\
     ecdb36ba96b88764f38c0cf9d979560ca4dfd2f57720d5320123608c2da554593fb27b344ba1ecdf\
     84c139c9aaf4bfee",
    ],
];

/// RFC 3526, section 3; its base is 2.
pub(super) const MODP_2048: &str = "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22\
     514a08798e3404ddef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6\
     f44c42e9a637ed6b0bff5cb6f406b7edee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3d\
     c2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f83655d23dca3ad961c62f356208552bb\
     9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3be39e772c180e8603\
     9b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa0510\
     15728e5a8aacaa68ffffffffffffffff";

/// A private and a public value of one side, those of the other, and what both come to, by OpenSSL 3.0
/// (`openssl genpkey`, `openssl pkeyutl -derive`).
pub(super) const AGREED: [&str; 5] = [
    "d7613bbfac50a2876d8a2ba75214610fcec6963bbee5ef4dc518c121",
    "c5b1b163d00665718f6be0e893bd159975700113d9e8a7e3a949edbc7e86745e2ef3b6727eddefde\
     f0e4407c65edad89431bfcc34ff965f83fd524fb398d3f1fbd191168082be79478250de26dfb41ac\
     1763c79254d8396c2bcec29acae0d3fdbd88b6f3c34e5076401ec0f86476968d587d9574a03bb49c\
     a446a12907d1929310a419fce00832e440abb859949d8d0ef263077f8a3f73bd3f712c7b10aedafb\
     b8aa0e8e47d70ecef86307ac413001ba03d9b0275f9f47edf5a467a30079e317ed1fc67df6b5e05f\
     869ee03101d256bfcc68b6d7e80c3bcb361894c452b040f0a26c42a5ed66bc06bfa9f7f9eae5ad94\
     6d745dac15afca95a0141d988b48133d",
    "acdd90205d18a539ca994e6a7b7cdafcbeeb407d4afb63a5e2a1010f",
    "28d4af55b8ccfacab96361894ebc453a27c4bdcaf469cdb6b7e1c46d1c4b79f0a7ae130d1046a598\
     4116345381b44eeeadfb0de15fde9bf559f6cd31d3c5f38ef0a9fb0302c1f331bdba199589b29031\
     c690d0aa1ec89aa4c3f65ec40b8b4cec29964ee6bd3bac0c915489794bcc91acd468c77e6329501a\
     ca18c2035873fb507aab0cf7682d5b408bc409c836ca3403656f2fc9d2ca9f68e4fe22a073562966\
     bfb0f972a5e976d05e0adc1916ec05dea5b53215f2a9e5eb87e7c47435261805fa78c20ef14a9e06\
     3dc435fbb0b4bafa7ca9f2d31d329266c9733a56e923d9c9dd1b7840f4e6436cb9ada80965fc5cb3\
     0097d8e987ccd6b1523af50527571092",
    "9b576729304cdcd7457494f123b5e971560dbb84eb954705ca921dafe687557beb3c1a6be3fdef1c\
     8a7caf346916fa8ac6c328fd49d3a81515ed2a982740b08fed2d922a5c5cb2f626f5d7bd44d1b326\
     d8965787b2dbe039678745de85d8e642f26e8162905ec35cfd929a563f85fa91b4162a4a521f511f\
     61a21d55a915323426714b16f1455be69783cd2151c524074408afc391f2ccb4ca415d6ecb64e52a\
     ba53bba2bbdf03d3abd09fe7a15df0e45fa06a0175948d880d3af8f693a49f04ebb10e98b341332a\
     29fd689edb45b50a5c3efa036b4c3b19181f6dbadeb67356950f024630913160851f3b62dc652ac5\
     c54ce4c7ce9ab0e86b1bf5e6bd5f2615",
];

pub(super) fn bytes(digits: &str) -> Vec<u8> {
    hex::decode(digits).expect("digits")
}

/// Diffie-Hellman with another party's public value.
pub(super) fn peer(value: &[u8]) -> With {
    let mut value = Box::new(value.to_vec());
    let mut with = of(CKM_DH_PKCS_DERIVE, 0_u8, Vec::new());
    with.mechanism.pParameter = value.as_mut_ptr().cast();
    with.mechanism.ulParameterLen = ulong(value.len());
    with.own(value);
    with
}

impl Host {
    /// A key of a session, or parameters, of this class and type.
    fn old(
        &self,
        session: CK_SESSION_HANDLE,
        class: CK_OBJECT_CLASS,
        key_type: CK_KEY_TYPE,
        given: Template<'_>,
    ) -> Outcome<u64> {
        let (class, key_type) = (class.to_ne_bytes(), key_type.to_ne_bytes());
        let like = [(CKA_CLASS, &class[..]), (CKA_KEY_TYPE, &key_type[..])];
        self.create(session, &[&like[..], given].concat())
    }

    /// The keys of the RFC: the public and the private one.
    fn dsa(
        &self,
        session: CK_SESSION_HANDLE,
        parameters: [&str; 3],
        values: [&str; 2],
    ) -> Outcome<(u64, u64)> {
        let [p, q, g] = parameters.map(bytes);
        let [x, y] = values.map(bytes);
        let like: [(_, &[u8]); 3] = [(CKA_PRIME, &p), (CKA_SUBPRIME, &q), (CKA_BASE, &g)];
        let key = |class, value: &[u8]| {
            let given = [&like[..], &[(CKA_VALUE, value)]].concat();
            self.old(session, class, CKK_DSA, &given)
        };
        Ok((key(CKO_PUBLIC_KEY, &y)?, key(CKO_PRIVATE_KEY, &x)?))
    }

    pub(super) fn dsa_pair(&self, session: CK_SESSION_HANDLE) -> Outcome<(u64, u64)> {
        self.dsa(session, DSA_1024, DSA_1024_VALUES)
    }

    pub(super) fn with_dsa(&self, session: CK_SESSION_HANDLE) -> (u64, u64) {
        self.dsa_pair(session).expect("a key pair")
    }

    /// A private key of Diffie-Hellman, without a computation.
    pub(super) fn known_dh(&self, session: CK_SESSION_HANDLE) -> Outcome<u64> {
        let (prime, value) = (bytes(MODP_2048), bytes(AGREED[0]));
        let given: [(_, &[u8]); 4] = [
            (CKA_PRIME, &prime),
            (CKA_BASE, &[2]),
            (CKA_VALUE, &value),
            (CKA_DERIVE, YES),
        ];
        self.old(session, CKO_PRIVATE_KEY, CKK_DH, &given)
    }

    /// A new key pair of Diffie-Hellman.
    pub(super) fn with_dh(&self, session: CK_SESSION_HANDLE) -> (u64, u64) {
        let prime = bytes(MODP_2048);
        let group: [(_, &[u8]); 2] = [(CKA_PRIME, &prime), (CKA_BASE, &[2])];
        let kind = CKM_DH_PKCS_KEY_PAIR_GEN;
        self.generate_pair(session, kind, &group, &[])
            .expect("a key pair")
    }
}

/// What OpenSSL's CBC makes of the blocks of NIST SP 800-38A, and the last one filled up with zeros.
#[test]
fn cbc_mac_is_known() {
    let host = Host::with(Fake::default());
    let session = host.writing(KEYS);
    let key = bytes("2b7e151628aed2a6abf7158809cf4f3c");
    let aes = host.secret(session, CKK_AES, &key);
    let blocks = bytes(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
         30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
    );
    for (len, code) in [
        (64, "a7356e1207bb406639e5e5ceb9a9ed93"),
        (40, "07d192e3e6f099edcc39fde6d09c762d"),
        // One block of zeros, and not none.
        (0, "7df76b0c1ab899b33e42f047b91b546f"),
    ] {
        let (data, code) = (&blocks[..len], bytes(code));
        let mut half = plain(CKM_AES_MAC);
        assert_eq!(
            host.sign(session, &mut half, aes, data).as_deref(),
            Ok(&code[..8])
        );
        assert_eq!(host.sign_in_parts(session, &mut half, aes, data), code[..8]);
        assert_eq!(
            host.verify(session, &mut half, aes, data, &code[..8]),
            CKR_OK
        );
        for cut in [1, 15, 16] {
            let mut with = of::<CK_ULONG>(CKM_AES_MAC_GENERAL, ulong(cut), Vec::new());
            let signed = host.sign(session, &mut with.mechanism, aes, data);
            assert_eq!(signed.as_deref(), Ok(&code[..cut]));
        }
    }
    for wrong in [0_u64, 17, CK_ULONG::MAX] {
        let mut with = of::<CK_ULONG>(CKM_AES_MAC_GENERAL, wrong, Vec::new());
        assert_eq!(
            host.sign(session, &mut with.mechanism, aes, b"x"),
            Err(CKR_MECHANISM_PARAM_INVALID)
        );
    }
    let mut with = of::<CK_ULONG>(CKM_AES_MAC, 8, Vec::new());
    assert_eq!(
        host.sign(session, &mut with.mechanism, aes, b"x"),
        Err(CKR_MECHANISM_PARAM_INVALID)
    );
    let generic = host.secret(session, CKK_GENERIC_SECRET, &key);
    assert_eq!(
        host.sign(session, &mut plain(CKM_AES_MAC), generic, b"x"),
        Err(CKR_KEY_TYPE_INCONSISTENT)
    );
    // A key of the vault has CMAC, which this would give away.
    let (class, kind) = (CKO_SECRET_KEY.to_ne_bytes(), CKK_AES.to_ne_bytes());
    let kept = host
        .create(
            session,
            &[
                (CKA_CLASS, &class),
                (CKA_KEY_TYPE, &kind),
                (CKA_VALUE, &key),
                (CKA_SIGN, YES),
                (CKA_TOKEN, YES),
            ],
        )
        .expect("a key");
    assert!(
        host.sign(session, &mut plain(CKM_AES_CMAC), kept, b"x")
            .is_ok()
    );
    assert_eq!(
        host.sign(session, &mut plain(CKM_AES_MAC), kept, b"x"),
        Err(CKR_KEY_FUNCTION_NOT_PERMITTED)
    );
}

/// NIST SP 800-67, appendix B, and NIST's example values of CBC; with two keys, OpenSSL's.
#[test]
fn triple_des_is_known() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let des3 = host.secret(session, CKK_DES3, DES3);
    let des2 = host.secret(session, CKK_DES2, &DES3[..16]);
    let blocks = bytes("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
    let iv = *b"\xf6\x9f\x24\x45\xdf\x4f\x9b\x17";
    let ecb = || usual(CKM_DES3_ECB, Method::Des3Ecb);
    let cbc = || of(CKM_DES3_CBC, iv, Vec::new());
    for (key, mut with, data, right) in [
        (
            des3,
            ecb(),
            &b"The qufck brown fox jump"[..],
            "a826fd8ce53b855fcce21c8112256fe668d5c05dd9b6b900",
        ),
        (
            des3,
            cbc(),
            &blocks,
            "2079c3d53aa763e193b79e2569ab5262516570481f25b50f73c0bda85c8e0da7",
        ),
        (
            des2,
            cbc(),
            &blocks,
            "7401ce1eab6d003caff84bf47b36cc2154f0238f9ffecd8f6acf118392b45581",
        ),
        (
            des2,
            ecb(),
            &blocks,
            "06ede3d82884090aff322c19f0518486730576972a666e58b6c88cf107340d3d",
        ),
    ] {
        let (mechanism, right) = (&mut with.mechanism, bytes(right));
        for way in [Way::Encrypt, Way::Decrypt] {
            let (from, to) = match way {
                Way::Encrypt => (data, &right[..]),
                Way::Decrypt => (&right[..], data),
            };
            let at_once = host.crypt(session, way, mechanism, key, from);
            assert_eq!(at_once.as_deref(), Ok(to));
            let in_parts = host.crypt_in_parts(session, way, mechanism, key, from);
            assert_eq!(in_parts.as_deref(), Ok(to));
        }
    }
    // Filled up, any length, of which the last block tells.
    let mut padded = of(CKM_DES3_CBC_PAD, iv, Vec::new());
    let mechanism = &mut padded.mechanism;
    for len in [0, 1, 7, 8, 9, 16, 31] {
        let data = vec![5; len];
        let sealed = host.crypt(session, Way::Encrypt, mechanism, des3, &data);
        let sealed = sealed.expect("it encrypts");
        assert_eq!(sealed.len(), (len / 8 + 1) * 8);
        for opened in [
            host.crypt(session, Way::Decrypt, mechanism, des3, &sealed),
            host.crypt_in_parts(session, Way::Decrypt, mechanism, des3, &sealed),
        ] {
            assert_eq!(opened.as_deref(), Ok(&data[..]));
        }
    }
    for (bad, code) in [
        (&[0; 17][..], CKR_ENCRYPTED_DATA_LEN_RANGE),
        (&[], CKR_ENCRYPTED_DATA_LEN_RANGE),
        (&[0; 16], CKR_ENCRYPTED_DATA_INVALID),
    ] {
        let opened = host.crypt(session, Way::Decrypt, mechanism, des3, bad);
        assert_eq!(opened, Err(code));
    }
    for mut with in [ecb(), cbc()] {
        let sealed = host.crypt(session, Way::Encrypt, &mut with.mechanism, des3, &[0; 9]);
        assert_eq!(sealed, Err(CKR_DATA_LEN_RANGE));
    }
    // Parameters that are none, and keys that are others.
    for mut with in [
        of(CKM_DES3_CBC, [0_u8; 16], Vec::new()),
        of(CKM_DES3_CBC_PAD, [0_u8; 7], Vec::new()),
        of(CKM_DES3_ECB, [0_u8; 8], Vec::new()),
    ] {
        let sealed = host.crypt(session, Way::Encrypt, &mut with.mechanism, des3, &[0; 8]);
        assert_eq!(sealed, Err(CKR_MECHANISM_PARAM_INVALID));
    }
    let aes = host.secret(session, CKK_AES, &DES3[..16]);
    for (mut with, key) in [(ecb(), aes), (usual(CKM_AES_ECB, Method::AesEcb), des2)] {
        let sealed = host.crypt(session, Way::Encrypt, &mut with.mechanism, key, &[0; 16]);
        assert_eq!(sealed, Err(CKR_KEY_TYPE_INCONSISTENT));
    }
}

#[test]
fn keys_of_triple_des_are_what_they_must_be() {
    let host = Host::with(Fake::default());
    let session = host.writing(KEYS);
    let is_odd = |value: &[u8]| value.iter().all(|byte| byte.count_ones() % 2 == 1);
    let open = [(CKA_SENSITIVE, NO), (CKA_EXTRACTABLE, YES)];
    for (kind, key_type, len) in [
        (CKM_DES2_KEY_GEN, CKK_DES2, 16),
        (CKM_DES3_KEY_GEN, CKK_DES3, 24),
    ] {
        let key = host.generate(session, kind, &open).expect("a key");
        let get = |attribute| host.get(session, key, attribute);
        let value = get(CKA_VALUE).expect("it is to be read");
        assert_eq!((value.len(), is_odd(&value)), (len, true));
        assert_eq!(get(CKA_VALUE_LEN), Err(CKR_ATTRIBUTE_TYPE_INVALID));
        assert_eq!(
            get(CKA_KEY_TYPE).as_deref(),
            Ok(&key_type.to_ne_bytes()[..])
        );
        assert_eq!(
            get(CKA_KEY_GEN_MECHANISM).as_deref(),
            Ok(&kind.to_ne_bytes()[..])
        );
        for (attribute, expected) in [
            (CKA_LOCAL, YES),
            (CKA_TOKEN, NO),
            (CKA_ENCRYPT, YES),
            (CKA_SIGN, NO),
        ] {
            assert_eq!(get(attribute).as_deref(), Ok(expected), "{attribute:#x}");
        }
        // None of them comes into the vault, on no way.
        let (size, kept) = (len.to_ne_bytes(), (CKA_TOKEN, YES));
        for (given, code) in [
            ((CKA_VALUE_LEN, &size[..]), CKR_ATTRIBUTE_TYPE_INVALID),
            (kept, CKR_TEMPLATE_INCONSISTENT),
        ] {
            assert_eq!(host.generate(session, kind, &[given]), Err(code));
            let with_value = [(CKA_VALUE, &DES3[..len]), given];
            let created = host.old(session, CKO_SECRET_KEY, key_type, &with_value);
            assert_eq!(created, Err(code));
        }
        let (mut template, mut copy) = (written(&[kept]), 0);
        let start = template.as_mut_ptr();
        assert_eq!(
            call!(host.C_CopyObject(session, key, start, 1, &raw mut copy)),
            CKR_TEMPLATE_INCONSISTENT
        );
        assert_eq!(
            call!(host.C_CopyObject(session, key, start, 0, &raw mut copy)),
            CKR_OK
        );
        assert_eq!(host.get(session, copy, CKA_VALUE), Ok(value));
        assert_eq!(host.set(session, key, &[kept]), CKR_ATTRIBUTE_READ_ONLY);
    }
    let create =
        |key_type, value: &[u8]| host.old(session, CKO_SECRET_KEY, key_type, &[(CKA_VALUE, value)]);
    let mut even = DES3.to_vec();
    even[23] ^= 1;
    for (key_type, value) in [
        (CKK_DES3, &DES3[..16]),
        (CKK_DES2, DES3),
        (CKK_DES3, &[]),
        (CKK_DES3, &even),
        // That would be single DES.
        (CKK_DES2, &[1; 16]),
        (CKK_DES3, &[&DES3[..8], DES3].concat()[..24]),
        (CKK_DES3, &[&DES3[..16], &DES3[8..16]].concat()),
        (CKK_DES, &DES3[..8]),
    ] {
        assert_eq!(create(key_type, value), Err(CKR_ATTRIBUTE_VALUE_INVALID));
    }
    assert_eq!(
        host.old(session, CKO_SECRET_KEY, CKK_DES3, &[]),
        Err(CKR_TEMPLATE_INCOMPLETE)
    );

    // Wrapped and unwrapped by AES, it is the same; what has another parity is no key.
    let kek = host.secret(session, CKK_AES, &[1; 16]);
    let mut wrapping = plain(CKM_AES_KEY_WRAP);
    let (class, kind) = (CKO_SECRET_KEY.to_ne_bytes(), CKK_DES3.to_ne_bytes());
    let like = [(CKA_CLASS, &class[..]), (CKA_KEY_TYPE, &kind[..])];
    let readable = [&like[..], &open].concat();
    let mut unwrap = |value: &[u8], key_type, given: Template<'_>| {
        let target = host.secret(session, key_type, value);
        let wrapped = host
            .wrap(session, &mut wrapping, kek, target)
            .expect("it wraps");
        host.unwrap_with(session, &mut wrapping, kek, &wrapped, given)
    };
    let key = unwrap(DES3, CKK_DES3, &readable).expect("a key");
    assert_eq!(host.get(session, key, CKA_VALUE).as_deref(), Ok(DES3));
    assert_eq!(
        unwrap(&even, CKK_GENERIC_SECRET, &like),
        Err(CKR_WRAPPED_KEY_INVALID)
    );
    assert_eq!(
        unwrap(&DES3[..16], CKK_GENERIC_SECRET, &like),
        Err(CKR_WRAPPED_KEY_INVALID)
    );
    let kept = [&like[..], &[(CKA_TOKEN, YES)]].concat();
    assert_eq!(
        unwrap(DES3, CKK_DES3, &kept),
        Err(CKR_TEMPLATE_INCONSISTENT)
    );

    // One that is derived gets its parity.
    let base = host.secret(session, CKK_GENERIC_SECRET, &even);
    let mut with = of::<CK_EXTRACT_PARAMS>(CKM_EXTRACT_KEY_FROM_KEY, 0, Vec::new());
    let mut derive = |given: Template<'_>| {
        let (mut template, mut key) = (written(given), 0);
        let (start, count) = (template.as_mut_ptr(), ulong(given.len()));
        let mechanism = &raw mut with.mechanism;
        match call!(host.C_DeriveKey(session, mechanism, base, start, count, &raw mut key)) {
            CKR_OK => Ok(key),
            code => Err(code),
        }
    };
    let kind = [(CKA_KEY_TYPE, &kind[..])];
    let key = derive(&[&kind[..], &open].concat()).expect("a key");
    assert_eq!(host.get(session, key, CKA_VALUE).as_deref(), Ok(DES3));
    let kept = [&kind[..], &[(CKA_TOKEN, YES)]].concat();
    assert_eq!(derive(&kept), Err(CKR_TEMPLATE_INCONSISTENT));
    let zeros = host.secret(session, CKK_GENERIC_SECRET, &[0; 24]);
    let (mut template, mut key) = (written(&kind), 0);
    let (mechanism, start) = (&raw mut with.mechanism, template.as_mut_ptr());
    assert_eq!(
        call!(host.C_DeriveKey(session, mechanism, zeros, start, 1, &raw mut key)),
        CKR_ATTRIBUTE_VALUE_INVALID
    );
}

/// RFC 6979, appendices A.2.1 and A.2.2, of the message "sample".
#[test]
fn dsa_is_known() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let small = host.with_dsa(session);
    let large = host
        .dsa(session, DSA_2048, DSA_2048_VALUES)
        .expect("a key pair");
    for ((public, private), kind, right) in [
        (
            &small,
            CKM_DSA_SHA1,
            "2e1a0c2562b2912caaf89186fb0f42001585da5529efb6b0aff2d7a68eb70ca313022253b9a88df5",
        ),
        (
            &small,
            CKM_DSA_SHA224,
            "4bc3b686aea70145856814a6f1bb53346f02101e410697b92295d994d21edd2f4ada85566f6f94c1",
        ),
        (
            &small,
            CKM_DSA_SHA256,
            "81f2f5850be5bc123c43f71a3033e9384611c5454cdd914b65eb6c66a8aaad27299bee6b035f5e89",
        ),
        (
            &small,
            CKM_DSA_SHA384,
            "07f2108557ee0e3921bc1774f1ca9b410b4ce65a54df70456c86fac10fab47c1949ab83f2c6f7595",
        ),
        (
            &small,
            CKM_DSA_SHA512,
            "16c3491f9b8c3fbbdd5e7a7b667057f0d8ee8e1b02c36a127a7b89edbb72e4ffbc71dabc7d4fc69c",
        ),
        (
            &large,
            CKM_DSA_SHA1,
            "3a1b2dbd7489d6ed7e608fd036c83af396e290dbd602408e8677daabd6e7445ad26fcba19fa3e305\
             8ffc02ca1596cdbb6e0d20cb37b06054f7e36ded0cdbbccf",
        ),
        (
            &large,
            CKM_DSA_SHA224,
            "dc9f4deada8d8ff588e98fed0ab690ffce858dc8c79376450eb6b76c24537e2ca65a9c3bc7babe28\
             6b195d5da68616da8d47fa0097f36dd19f517327dc848cec",
        ),
        (
            &large,
            CKM_DSA_SHA256,
            "eace8bdbbe353c432a795d9ec556c6d021f7a03f42c36e9bc87e4ac7932cc8097081e175455f9247\
             b812b74583e9e94f9ea79bd640dc962533b0680793a38d53",
        ),
        (
            &large,
            CKM_DSA_SHA384,
            "b2da945e91858834fd9bf616ebac151edbc4b45d27d0dd4a7f6a22739f45c00b19048b63d9fd6bca\
             1d9bae3664e1bcb97f7276c306130969f63f38fa8319021b",
        ),
        (
            &large,
            CKM_DSA_SHA512,
            "2016ed092dc5fb669b8efb3d1f31a91eecb199879be0cf78f02ba062cb4c942ed0c76f84b5f091e1\
             41572a639a4fb8c230807eea7d55c8a154a224400aff2351",
        ),
    ] {
        let (mut mechanism, right) = (plain(kind), bytes(right));
        let signed = host.sign(session, &mut mechanism, *private, b"sample");
        assert_eq!(signed.as_deref(), Ok(&right[..]), "{kind:#x}");
        let in_parts = host.sign_in_parts(session, &mut mechanism, *private, b"sample");
        assert_eq!(in_parts, right);
        let verify = |data: &[u8], signature: &[u8]| {
            host.verify(session, &mut plain(kind), *public, data, signature)
        };
        assert_eq!(verify(b"sample", &right), CKR_OK);
        assert_eq!(verify(b"simple", &right), CKR_SIGNATURE_INVALID);
        // Whoever has hashed himself gets the same.
        let digest = match kind {
            CKM_DSA_SHA1 => digest(&host, session, CKM_SHA_1),
            CKM_DSA_SHA224 => digest(&host, session, CKM_SHA224),
            CKM_DSA_SHA256 => digest(&host, session, CKM_SHA256),
            CKM_DSA_SHA384 => digest(&host, session, CKM_SHA384),
            _ => digest(&host, session, CKM_SHA512),
        };
        let raw = &mut plain(CKM_DSA);
        assert_eq!(
            host.sign(session, raw, *private, &digest),
            Ok(right.clone())
        );
        assert_eq!(host.verify(session, raw, *public, &digest, &right), CKR_OK);
    }
}

fn digest(host: &Host, session: CK_SESSION_HANDLE, kind: CK_MECHANISM_TYPE) -> Vec<u8> {
    let (mut digest, mut len) = (vec![0; 64], 64);
    let (data, room) = (b"sample".as_ptr().cast_mut(), digest.as_mut_ptr());
    assert_eq!(call!(host.C_DigestInit(session, &mut plain(kind))), CKR_OK);
    assert_eq!(
        call!(host.C_Digest(session, data, 6, room, &raw mut len)),
        CKR_OK
    );
    digest.truncate(usize::try_from(len).expect("a length"));
    digest
}

#[test]
fn what_is_no_signature_of_dsa_is_refused() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let (public, private) = host.with_dsa(session);
    let order = bytes(DSA_1024[1]);
    let right = host.sign(session, &mut plain(CKM_DSA_SHA256), private, b"sample");
    let right = right.expect("a signature");
    let verify = |signature: &[u8]| {
        let mechanism = &mut plain(CKM_DSA_SHA256);
        host.verify(session, mechanism, public, b"sample", signature)
    };
    let (r, s) = right.split_at(20);
    assert_eq!(verify(&right), CKR_OK);
    for (r, s) in [
        (&[0; 20][..], s),
        (r, &[0; 20]),
        (&[0; 20], &[0; 20]),
        (&order, s),
        (r, &order),
        (&[0xff; 20], s),
        (r, &[0xff; 20]),
        (s, r),
    ] {
        assert_eq!(verify(&[r, s].concat()), CKR_SIGNATURE_INVALID);
    }
    let longer = [&right[..], &[0]].concat();
    for wrong in [&right[..39], &longer, &[]] {
        assert_eq!(verify(wrong), CKR_SIGNATURE_LEN_RANGE);
    }
    // What is as long as no digest.
    for len in [0, 1, 19, 21, 63, 65] {
        let (digest, raw) = (vec![1; len], &mut plain(CKM_DSA));
        let signed = host.sign(session, raw, private, &digest);
        assert_eq!(signed, Err(CKR_DATA_LEN_RANGE), "{len}");
        let verified = host.verify(session, raw, public, &digest, &right);
        assert_eq!(verified, CKR_DATA_LEN_RANGE, "{len}");
    }
    // Keys that are others, or the other one.
    let (_, dh) = host.with_dh(session);
    for key in [public, dh] {
        let signed = host.sign(session, &mut plain(CKM_DSA_SHA256), key, b"x");
        assert_eq!(signed, Err(CKR_KEY_TYPE_INCONSISTENT));
    }
    let mut with = of::<CK_ULONG>(CKM_DSA_SHA256, 0, Vec::new());
    assert_eq!(
        host.sign(session, &mut with.mechanism, private, b"x"),
        Err(CKR_MECHANISM_PARAM_INVALID)
    );
}

#[test]
fn parameters_and_pairs_of_dsa_are_made_and_given() {
    let host = Host::with(Fake::default());
    let session = host.writing(KEYS);
    let bits = 1024_usize.to_ne_bytes();
    let kind = CKM_DSA_PARAMETER_GEN;
    let made = host
        .generate(
            session,
            kind,
            &[(CKA_PRIME_BITS, &bits), (CKA_LABEL, b"old")],
        )
        .expect("parameters");
    let get = |object, attribute| host.get(session, object, attribute);
    let number = |number: CK_ULONG| Ok(number.to_ne_bytes().to_vec());
    assert_eq!(get(made, CKA_CLASS), number(CKO_DOMAIN_PARAMETERS));
    assert_eq!(get(made, CKA_KEY_TYPE), number(CKK_DSA));
    assert_eq!(get(made, CKA_PRIME_BITS), number(1024));
    assert_eq!(get(made, CKA_SUBPRIME_BITS), number(160));
    assert_eq!(get(made, CKA_LOCAL).as_deref(), Ok(YES));
    assert_eq!(get(made, CKA_VALUE), Err(CKR_ATTRIBUTE_TYPE_INVALID));
    let class = CKO_DOMAIN_PARAMETERS.to_ne_bytes();
    assert_eq!(host.find(session, &[(CKA_CLASS, &class)]), [made]);
    let [p, q, g] = [CKA_PRIME, CKA_SUBPRIME, CKA_BASE].map(|it| get(made, it).expect("a number"));
    assert_eq!((p.len(), q.len()), (128, 20));

    // A pair of them, which knows what it is.
    let like: [(_, &[u8]); 3] = [(CKA_PRIME, &p), (CKA_SUBPRIME, &q), (CKA_BASE, &g)];
    let open = [(CKA_SENSITIVE, NO), (CKA_EXTRACTABLE, YES)];
    let pair = |public: Template<'_>, private: Template<'_>| {
        host.generate_pair(session, CKM_DSA_KEY_PAIR_GEN, public, private)
    };
    let (public, private) = pair(&like, &open).expect("a key pair");
    for key in [public, private] {
        assert_eq!(get(key, CKA_KEY_TYPE), number(CKK_DSA));
        assert_eq!(
            get(key, CKA_KEY_GEN_MECHANISM),
            number(CKM_DSA_KEY_PAIR_GEN)
        );
        for (kind, value) in like {
            assert_eq!(get(key, kind).as_deref(), Ok(value));
        }
        for none in [CKA_PRIME_BITS, CKA_EC_POINT, CKA_MODULUS, CKA_VALUE_BITS] {
            assert_eq!(get(key, none), Err(CKR_ATTRIBUTE_TYPE_INVALID));
        }
    }
    assert_eq!(get(private, CKA_SIGN).as_deref(), Ok(YES));
    assert_eq!(get(private, CKA_DERIVE).as_deref(), Ok(NO));
    let (x, y) = (get(private, CKA_VALUE), get(public, CKA_VALUE));
    let (x, y) = (x.expect("it is to be read"), y.expect("a value"));
    assert_eq!(x.len(), 20);
    // Their copies, and what is made of what was read, do what they do.
    let given = |class, value: &[u8]| {
        let given = [&like[..], &[(CKA_VALUE, value)]].concat();
        host.old(session, class, CKK_DSA, &given)
    };
    let mut copy = 0;
    assert_eq!(
        call!(host.C_CopyObject(session, private, null(), 0, &raw mut copy)),
        CKR_OK
    );
    let again = given(CKO_PRIVATE_KEY, &x).expect("a private key");
    let signed = [private, copy, again].map(|key| {
        host.sign(session, &mut plain(CKM_DSA_SHA1), key, b"abc")
            .expect("a signature")
    });
    assert_eq!(signed[0], signed[1]);
    assert_eq!(signed[0], signed[2]);
    assert_eq!(get(again, CKA_VALUE), Err(CKR_ATTRIBUTE_SENSITIVE));
    assert_eq!(get(again, CKA_LOCAL).as_deref(), Ok(NO));
    let again = given(CKO_PUBLIC_KEY, &y).expect("a public key");
    let verified = host.verify(session, &mut plain(CKM_DSA_SHA1), again, b"abc", &signed[0]);
    assert_eq!(verified, CKR_OK);
    // Nobody takes them out under another key, and a sensitive one is not read.
    let (_, closed) = pair(&like, &[]).expect("a key pair");
    assert_eq!(get(closed, CKA_VALUE), Err(CKR_ATTRIBUTE_SENSITIVE));
    let kek = host.secret(session, CKK_AES, &[1; 16]);
    assert_eq!(
        host.wrap(session, &mut plain(CKM_AES_KEY_WRAP_KWP), kek, private),
        Err(CKR_KEY_NOT_WRAPPABLE)
    );

    // Not into the vault.
    let kept = [(CKA_TOKEN, YES)];
    let refused = Err(CKR_TEMPLATE_INCONSISTENT);
    let bits_kept = [&[(CKA_PRIME_BITS, &bits[..])], &kept[..]].concat();
    assert_eq!(host.generate(session, kind, &bits_kept), refused);
    let like_kept = [&like[..], &kept].concat();
    assert_eq!(pair(&like_kept, &[]), Err(CKR_TEMPLATE_INCONSISTENT));
    assert_eq!(pair(&like, &kept), Err(CKR_TEMPLATE_INCONSISTENT));
    for (class, value) in [
        (CKO_DOMAIN_PARAMETERS, None),
        (CKO_PUBLIC_KEY, Some(&y)),
        (CKO_PRIVATE_KEY, Some(&x)),
    ] {
        let mut given = like_kept.clone();
        given.extend(value.map(|value| (CKA_VALUE, &value[..])));
        assert_eq!(host.old(session, class, CKK_DSA, &given), refused);
    }
    for object in [made, public, private] {
        let (mut template, mut copy) = (written(&kept), 0);
        let start = template.as_mut_ptr();
        assert_eq!(
            call!(host.C_CopyObject(session, object, start, 1, &raw mut copy)),
            CKR_TEMPLATE_INCONSISTENT
        );
    }

    // Sizes that there are not.
    for wrong in [0_usize, 512, 1023, 1025, 4096, usize::MAX] {
        let bits = wrong.to_ne_bytes();
        let made = host.generate(session, kind, &[(CKA_PRIME_BITS, &bits)]);
        assert_eq!(made, Err(CKR_KEY_SIZE_RANGE), "{wrong}");
    }
    let order_bits = 256_usize.to_ne_bytes();
    assert_eq!(
        host.generate(
            session,
            kind,
            &[(CKA_PRIME_BITS, &bits), (CKA_SUBPRIME_BITS, &order_bits)]
        ),
        Err(CKR_KEY_SIZE_RANGE)
    );
    assert_eq!(
        host.generate(session, kind, &[]),
        Err(CKR_TEMPLATE_INCOMPLETE)
    );
}

#[test]
fn what_is_no_key_of_dsa_is_refused() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let [p, q, g] = DSA_1024.map(bytes);
    let [x, y] = DSA_1024_VALUES.map(bytes);
    let less = |number: &[u8]| {
        let mut less = number.to_vec();
        *less.last_mut().expect("a number") -= 1;
        less
    };
    let huge = vec![0xff; 5000];
    let even = less(&p);
    let other_size = bytes(DSA_2048[0]);
    let one_less = less(&q);
    for [p, q, g] in [
        [&[][..], &q, &g],
        [&[0], &q, &g],
        [&even, &q, &g],
        [&huge, &q, &g],
        [&other_size, &q, &g],
        [&p[..127], &q, &g],
        [&p, &[], &g],
        [&p, &one_less, &g],
        [&p, &huge, &g],
        [&p, &q[1..], &g],
        [&p, &q, &[]],
        [&p, &q, &[1]],
        [&p, &q, &p],
        [&p, &q, &even],
        [&p, &q, &[2]],
        [&p, &q, &huge],
    ] {
        let like = [(CKA_PRIME, p), (CKA_SUBPRIME, q), (CKA_BASE, g)];
        let created = host.old(session, CKO_DOMAIN_PARAMETERS, CKK_DSA, &like);
        assert_eq!(created, Err(CKR_ATTRIBUTE_VALUE_INVALID));
        let made = host.generate_pair(session, CKM_DSA_KEY_PAIR_GEN, &like, &[]);
        assert_eq!(made, Err(CKR_DOMAIN_PARAMS_INVALID));
    }
    for numbers in DSA_OF_COMPOSITES {
        let [p, q, g] = numbers.map(bytes);
        let like: [(_, &[u8]); 3] = [(CKA_PRIME, &p), (CKA_SUBPRIME, &q), (CKA_BASE, &g)];
        let created = host.old(session, CKO_DOMAIN_PARAMETERS, CKK_DSA, &like);
        assert_eq!(created, Err(CKR_ATTRIBUTE_VALUE_INVALID));
    }
    let like: [(_, &[u8]); 3] = [(CKA_PRIME, &p), (CKA_SUBPRIME, &q), (CKA_BASE, &g)];
    assert!(
        host.old(session, CKO_DOMAIN_PARAMETERS, CKK_DSA, &like)
            .is_ok()
    );
    let longer = [&[1], &p[..]].concat();
    let sum = {
        // The same number modulo the prime, and another one.
        let mut carry = 0;
        let mut sum: Vec<u8> = std::iter::once(&0)
            .chain(&p)
            .rev()
            .zip(std::iter::once(&0).chain(&y).rev())
            .map(|(one, other)| {
                let [high, low] = (u16::from(*one) + u16::from(*other) + carry).to_be_bytes();
                carry = u16::from(high);
                low
            })
            .collect();
        sum.reverse();
        sum
    };
    for (class, value) in [
        (CKO_PUBLIC_KEY, &[][..]),
        (CKO_PUBLIC_KEY, &[0]),
        (CKO_PUBLIC_KEY, &[1]),
        (CKO_PUBLIC_KEY, &[2]),
        (CKO_PUBLIC_KEY, &p),
        (CKO_PUBLIC_KEY, &even),
        (CKO_PUBLIC_KEY, &sum),
        (CKO_PUBLIC_KEY, &longer),
        (CKO_PUBLIC_KEY, &huge),
        (CKO_PRIVATE_KEY, &[]),
        (CKO_PRIVATE_KEY, &[0]),
        (CKO_PRIVATE_KEY, &q),
        (CKO_PRIVATE_KEY, &huge),
    ] {
        let given = [&like[..], &[(CKA_VALUE, value)]].concat();
        let created = host.old(session, class, CKK_DSA, &given);
        assert_eq!(
            created,
            Err(CKR_ATTRIBUTE_VALUE_INVALID),
            "{class} {value:x?}"
        );
    }
    // What is missing, and what does not belong there.
    let all: [(_, &[u8]); 4] = [
        (CKA_PRIME, &p),
        (CKA_SUBPRIME, &q),
        (CKA_BASE, &g),
        (CKA_VALUE, &x),
    ];
    for missing in 0..4 {
        let mut given = all.to_vec();
        given.remove(missing);
        let created = host.old(session, CKO_PRIVATE_KEY, CKK_DSA, &given);
        assert_eq!(created, Err(CKR_TEMPLATE_INCOMPLETE));
    }
    for missing in 0..3 {
        let mut given = like.to_vec();
        given.remove(missing);
        let made = host.generate_pair(session, CKM_DSA_KEY_PAIR_GEN, &given, &[]);
        assert_eq!(made, Err(CKR_TEMPLATE_INCOMPLETE));
    }
    for (class, key_type, code) in [
        (CKO_DOMAIN_PARAMETERS, CKK_RSA, CKR_TEMPLATE_INCONSISTENT),
        (CKO_DOMAIN_PARAMETERS, CKK_DH, CKR_TEMPLATE_INCONSISTENT),
        (CKO_SECRET_KEY, CKK_DSA, CKR_TEMPLATE_INCOMPLETE),
    ] {
        assert_eq!(host.old(session, class, key_type, &like), Err(code));
    }
    let bits = 160_usize.to_ne_bytes();
    assert_eq!(
        host.generate_pair(
            session,
            CKM_DSA_KEY_PAIR_GEN,
            &like,
            &[(CKA_VALUE_BITS, &bits)]
        ),
        Err(CKR_ATTRIBUTE_VALUE_INVALID)
    );
    let given = [&like[..], &[(CKA_EC_PARAMS, &[5, 0])]].concat();
    assert_eq!(
        host.old(session, CKO_DOMAIN_PARAMETERS, CKK_DSA, &given),
        Err(CKR_ATTRIBUTE_TYPE_INVALID)
    );
}

#[test]
fn both_sides_of_diffie_hellman_agree() {
    let host = Host::with(Fake::default());
    let session = host.session(KEYS);
    let [x, y, other_x, other_y, agreed] = AGREED.map(bytes);
    let prime = bytes(MODP_2048);
    let group: [(_, &[u8]); 2] = [(CKA_PRIME, &prime), (CKA_BASE, &[2])];
    let key = |value: &[u8]| {
        let given = [&group[..], &[(CKA_VALUE, value), (CKA_DERIVE, YES)]].concat();
        host.old(session, CKO_PRIVATE_KEY, CKK_DH, &given)
            .expect("a private key")
    };
    let (one, two) = (key(&x), key(&[&[0; 5], &other_x[..]].concat()));
    let derive = |key, value: &[u8], len| {
        let mut with = peer(value);
        host.derived(session, &mut with.mechanism, key, len)
    };
    assert_eq!(derive(one, &other_y, None).as_deref(), Ok(&agreed[..]));
    assert_eq!(derive(two, &y, None).as_deref(), Ok(&agreed[..]));
    // The bytes that lead go (section 6.4), and zeros before a number are none of it.
    let zeros = [&[0; 9], &y[..]].concat();
    assert_eq!(derive(two, &zeros, Some(32)).as_deref(), Ok(&agreed[224..]));
    assert_eq!(derive(two, &y, Some(257)), Err(CKR_TEMPLATE_INCONSISTENT));
    assert_eq!(derive(two, &y, Some(0)), Err(CKR_ATTRIBUTE_VALUE_INVALID));

    // New pairs of each size, with private values of all bits or as few as asked for.
    for (prime_len, value_bits) in [
        (256, None),
        (256, Some(225_usize)),
        (300, None),
        (512, None),
    ] {
        // An odd number: what it is made of is the caller's affair.
        let prime = match prime_len {
            256 => prime.clone(),
            len => vec![0xff; len],
        };
        let group: [(_, &[u8]); 2] = [(CKA_PRIME, &prime), (CKA_BASE, &[5])];
        let bits = value_bits.map(usize::to_ne_bytes);
        let mut private: Vec<(CK_ATTRIBUTE_TYPE, &[u8])> =
            vec![(CKA_SENSITIVE, NO), (CKA_EXTRACTABLE, YES)];
        private.extend(bits.iter().map(|bits| (CKA_VALUE_BITS, &bits[..])));
        let pair = || {
            let kind = CKM_DH_PKCS_KEY_PAIR_GEN;
            host.generate_pair(session, kind, &group, &private)
                .expect("a key pair")
        };
        let (one, two) = (pair(), pair());
        let get = |key, attribute| host.get(session, key, attribute).expect("it has it");
        let values = [one, two].map(|(public, _)| get(public, CKA_VALUE));
        assert_ne!(values[0], values[1]);
        let made = [
            derive(one.1, &values[1], None).expect("a key"),
            derive(two.1, &values[0], None).expect("a key"),
        ];
        assert_eq!(made[0], made[1]);
        assert_eq!(made[0].len(), prime_len);
        let bits = value_bits.unwrap_or(8 * prime_len - 1);
        assert_eq!(get(one.1, CKA_VALUE_BITS), bits.to_ne_bytes());
        let value = get(one.1, CKA_VALUE);
        let start = value.iter().position(|byte| *byte != 0).expect("a number");
        let top = usize::try_from(value[start].ilog2()).expect("less than 8");
        assert_eq!(8 * (value.len() - start - 1) + top + 1, bits);
        assert_eq!(get(one.0, CKA_PRIME), prime);
        assert_eq!(get(one.1, CKA_BASE), [5]);
        assert_eq!(get(one.1, CKA_DERIVE), YES);
        assert_eq!(get(one.1, CKA_SIGN), NO);
        let none = host.get(session, one.1, CKA_SUBPRIME);
        assert_eq!(none, Err(CKR_ATTRIBUTE_TYPE_INVALID));
    }
}

#[test]
fn what_is_no_group_or_value_of_diffie_hellman_is_refused() {
    let host = Host::with(Fake::default());
    let session = host.writing(KEYS);
    let prime = bytes(MODP_2048);
    let mut even = prime.clone();
    even[255] -= 1;
    // 2,047 bits, and 4,104.
    let mut short = prime.clone();
    short[0] = 0x7f;
    let long = vec![0xff; 513];
    for [prime, base] in [
        [&[][..], &[2][..]],
        [&[0; 256], &[2]],
        [&even, &[2]],
        [&short, &[2]],
        [&[0xff; 128], &[2]],
        [&long, &[2]],
        [&prime, &[]],
        [&prime, &[0]],
        [&prime, &[1]],
        [&prime, &even],
        [&prime, &prime],
        [&prime, &long],
    ] {
        let group = [(CKA_PRIME, prime), (CKA_BASE, base)];
        let created = host.old(session, CKO_DOMAIN_PARAMETERS, CKK_DH, &group);
        assert_eq!(created, Err(CKR_ATTRIBUTE_VALUE_INVALID));
        let made = host.generate_pair(session, CKM_DH_PKCS_KEY_PAIR_GEN, &group, &[]);
        assert_eq!(made, Err(CKR_DOMAIN_PARAMS_INVALID));
    }
    let group: [(_, &[u8]); 2] = [(CKA_PRIME, &prime), (CKA_BASE, &[2])];
    let parameters = host.old(session, CKO_DOMAIN_PARAMETERS, CKK_DH, &group);
    let bits = host.get(session, parameters.expect("parameters"), CKA_PRIME_BITS);
    assert_eq!(bits, Ok(2048_usize.to_ne_bytes().to_vec()));

    // Public values, when they come as a key's and when they come as the other party's.
    let (public, private) = host.with_dh(session);
    let derive = |key, value: &[u8]| {
        let mut with = peer(value);
        host.derived(session, &mut with.mechanism, key, Some(16))
    };
    let most = {
        let mut most = even.clone();
        most[255] -= 1;
        most
    };
    for value in [
        &[][..],
        &[0],
        &[1],
        &[0, 0, 1],
        &even,
        &prime,
        &long,
        &[1; 257],
    ] {
        let refused = Err(CKR_MECHANISM_PARAM_INVALID);
        assert_eq!(derive(private, value), refused, "{value:x?}");
        let given = [&group[..], &[(CKA_VALUE, value)]].concat();
        let created = host.old(session, CKO_PUBLIC_KEY, CKK_DH, &given);
        assert_eq!(created, Err(CKR_ATTRIBUTE_VALUE_INVALID), "{value:x?}");
    }
    // In a field where 2 has the order 2048, both come to 1.
    let odd = vec![0xff; 256];
    let given: [(_, &[u8]); 3] = [
        (CKA_PRIME, &odd),
        (CKA_BASE, &[2]),
        (CKA_VALUE, &2048_u16.to_be_bytes()),
    ];
    let small = host.old(session, CKO_PRIVATE_KEY, CKK_DH, &given);
    let small = small.expect("a private key");
    assert_eq!(derive(small, &[2]), Err(CKR_MECHANISM_PARAM_INVALID));
    assert!(derive(small, &[3]).is_ok());
    for value in [&[2][..], &most] {
        assert!(derive(private, value).is_ok());
        let given = [&group[..], &[(CKA_VALUE, value)]].concat();
        assert!(host.old(session, CKO_PUBLIC_KEY, CKK_DH, &given).is_ok());
    }
    // Private ones.
    for value in [&[][..], &[0], &even, &prime, &long] {
        let given = [&group[..], &[(CKA_VALUE, value)]].concat();
        let created = host.old(session, CKO_PRIVATE_KEY, CKK_DH, &given);
        assert_eq!(created, Err(CKR_ATTRIBUTE_VALUE_INVALID), "{value:x?}");
    }
    for bits in [0_usize, 1, 223, 2048, usize::MAX] {
        let bits = bits.to_ne_bytes();
        let kind = CKM_DH_PKCS_KEY_PAIR_GEN;
        let made = host.generate_pair(session, kind, &group, &[(CKA_VALUE_BITS, &bits)]);
        assert_eq!(made, Err(CKR_ATTRIBUTE_VALUE_INVALID));
    }
    // Keys that are others.
    let (_, dsa) = host.with_dsa(session);
    for key in [public, dsa] {
        assert_eq!(derive(key, &[2]), Err(CKR_KEY_TYPE_INCONSISTENT));
    }
    // What is missing.
    for given in [&group[..1], &group[1..], &[]] {
        let refused = Err(CKR_TEMPLATE_INCOMPLETE);
        assert_eq!(
            host.old(session, CKO_DOMAIN_PARAMETERS, CKK_DH, given),
            refused
        );
        let made = host.generate_pair(session, CKM_DH_PKCS_KEY_PAIR_GEN, given, &[]);
        assert_eq!(made, Err(CKR_TEMPLATE_INCOMPLETE));
    }
    for class in [CKO_PUBLIC_KEY, CKO_PRIVATE_KEY] {
        let created = host.old(session, class, CKK_DH, &group);
        assert_eq!(created, Err(CKR_TEMPLATE_INCOMPLETE));
    }
    // Not into the vault.
    let kept = (CKA_TOKEN, YES);
    for (class, more) in [
        (CKO_DOMAIN_PARAMETERS, &[kept][..]),
        (CKO_PUBLIC_KEY, &[kept, (CKA_VALUE, &[2])]),
        (CKO_PRIVATE_KEY, &[kept, (CKA_VALUE, &[2])]),
    ] {
        let created = host.old(session, class, CKK_DH, &[&group[..], more].concat());
        assert_eq!(created, Err(CKR_TEMPLATE_INCONSISTENT));
    }
    for (public, private) in [(&[kept][..], &[][..]), (&[], &[kept])] {
        let public = [&group[..], public].concat();
        let made = host.generate_pair(session, CKM_DH_PKCS_KEY_PAIR_GEN, &public, private);
        assert_eq!(made, Err(CKR_TEMPLATE_INCONSISTENT));
    }
    assert!(host.find(session, &[(CKA_TOKEN, YES)]).is_empty());
}
