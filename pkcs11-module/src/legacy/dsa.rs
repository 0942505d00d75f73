//! DSA (PKCS#11 3.1, section 6.2; FIPS 186-4), by the crate of that name. Its arithmetic takes a time that
//! depends on the numbers, so that somebody who can measure that may learn of a private value.

use dsa::signature::hazmat::PrehashVerifier;
use dsa::{BigUint, Components, KeySize, Signature, SigningKey, VerifyingKey};
use num_bigint_dig::prime::probably_prime;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use strongroom::Secret;
use strongroom::key::Hash;
use zeroize::Zeroizing;

/// The sizes of primes, in bits.
pub(crate) const SIZES: (usize, usize) = (1024, 3072);

/// The sizes of a prime and of the order of its group (FIPS 186-4, section 4.2).
const PAIRS: [(usize, usize); 4] = [(1024, 160), (2048, 224), (2048, 256), (3072, 256)];

/// How often Miller's and Rabin's test is made of a number of others, with bases that come of the number. Who
/// makes one up for these is not stopped by them, but by the test of Lucas that is made besides.
const ROUNDS: usize = 32;

/// A prime, the order of a group in its field, and what generates the group.
#[derive(Clone)]
pub(crate) struct Parameters(Components);

/// A public key.
#[derive(Clone)]
pub(crate) struct PublicKey(VerifyingKey);

/// A private key.
pub(crate) struct PrivateKey {
    public: PublicKey,
    /// As long as the order.
    value: Secret,
}

impl Parameters {
    /// New ones, of so many bits, and of the order's; none for sizes that there are not.
    pub(crate) fn generate(bits: usize, order_bits: Option<usize>) -> Option<Self> {
        #[allow(deprecated, reason = "whoever asks for 1,024 bits has keys that old")]
        let size = match (bits, order_bits) {
            (1024, None | Some(160)) => KeySize::DSA_1024_160,
            (2048, Some(224)) => KeySize::DSA_2048_224,
            (2048, None | Some(256)) => KeySize::DSA_2048_256,
            (3072, None | Some(256)) => KeySize::DSA_3072_256,
            _ => return None,
        };
        Some(Self(Components::generate(&mut generator(), size)))
    }

    /// Those of these numbers, if they are some (FIPS 186-4, appendices A.1.1.3 and A.2.2).
    pub(crate) fn new(prime: &[u8], order: &[u8], base: &[u8]) -> Option<Self> {
        // Before anything is computed.
        let most = SIZES.1 / 8 + 1;
        if [prime, order, base].iter().any(|it| it.len() > most) {
            return None;
        }
        let [p, q, g] = [prime, order, base].map(BigUint::from_bytes_be);
        let one = BigUint::from(1_u8);
        let right = PAIRS.contains(&(p.bits(), q.bits()))
            && g > one
            && g < p
            && (&p - &one) % &q == BigUint::from(0_u8)
            && probably_prime(&q, ROUNDS)
            && probably_prime(&p, ROUNDS)
            && g.modpow(&q, &p) == one;
        if !right {
            return None;
        }
        Components::from_components(p, q, g).ok().map(Self)
    }

    /// A new key pair.
    pub(crate) fn generate_key(&self) -> PrivateKey {
        let key = SigningKey::generate(&mut generator(), self.0.clone());
        let public = PublicKey(key.verifying_key().clone());
        let value = padded(key.x(), public.order_len());
        PrivateKey { public, value }
    }

    /// The public key of a value, if it is one of the group.
    pub(crate) fn public_key_of(&self, value: &[u8]) -> Option<PublicKey> {
        let y = BigUint::from_bytes_be(value);
        if y >= *self.0.p() {
            return None;
        }
        VerifyingKey::from_components(self.0.clone(), y)
            .ok()
            .map(PublicKey)
    }

    /// The private key of a value between 0 and the order.
    pub(crate) fn private_key_of(&self, value: &[u8]) -> Option<PrivateKey> {
        let x = BigUint::from_bytes_be(value);
        if x == BigUint::from(0_u8) || x >= *self.0.q() {
            return None;
        }
        let y = self.0.g().modpow(&x, self.0.p());
        let public = VerifyingKey::from_components(self.0.clone(), y).ok()?;
        let public = PublicKey(public);
        let value = padded(&x, public.order_len());
        Some(PrivateKey { public, value })
    }

    pub(crate) fn prime(&self) -> Vec<u8> {
        self.0.p().to_bytes_be()
    }

    pub(crate) fn order(&self) -> Vec<u8> {
        self.0.q().to_bytes_be()
    }

    pub(crate) fn base(&self) -> Vec<u8> {
        self.0.g().to_bytes_be()
    }

    pub(crate) fn bits(&self) -> usize {
        self.0.p().bits()
    }

    pub(crate) fn order_bits(&self) -> usize {
        self.0.q().bits()
    }
}

impl PublicKey {
    pub(crate) fn parameters(&self) -> Parameters {
        Parameters(self.0.components().clone())
    }

    pub(crate) fn value(&self) -> Vec<u8> {
        self.0.y().to_bytes_be()
    }

    /// Whether this is a signature of a digest: two numbers, each as long as the order (section 6.2).
    pub(crate) fn verifies(&self, digest: &[u8], signature: &[u8]) -> bool {
        if signature.len() != self.signature_len() {
            return false;
        }
        let (r, s) = signature.split_at(self.order_len());
        let [r, s] = [r, s].map(BigUint::from_bytes_be);
        Signature::from_components(r, s)
            .is_ok_and(|signature| self.0.verify_prehash(digest, &signature).is_ok())
    }

    pub(crate) fn signature_len(&self) -> usize {
        2 * self.order_len()
    }

    fn order_len(&self) -> usize {
        self.0.components().q().bits().div_ceil(8)
    }
}

impl PrivateKey {
    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The private value.
    pub(crate) fn value(&self) -> &Secret {
        &self.value
    }

    /// Signs a digest of one of the hashes, whose own function makes the number that nobody must guess
    /// (RFC 6979). None for what is as long as no digest.
    pub(crate) fn sign(&self, digest: &[u8]) -> Option<Vec<u8>> {
        let x = BigUint::from_bytes_be(self.value.expose());
        let key = SigningKey::from_components(self.public.0.clone(), x).ok()?;
        let signature = match hash_of(digest.len())? {
            Hash::Sha1 => key.sign_prehashed_rfc6979::<sha1::Sha1>(digest),
            Hash::Sha224 => key.sign_prehashed_rfc6979::<sha2::Sha224>(digest),
            Hash::Sha256 => key.sign_prehashed_rfc6979::<sha2::Sha256>(digest),
            Hash::Sha384 => key.sign_prehashed_rfc6979::<sha2::Sha384>(digest),
            Hash::Sha512 => key.sign_prehashed_rfc6979::<sha2::Sha512>(digest),
        }
        .ok()?;
        let len = self.public.order_len();
        let [r, s] = [signature.r(), signature.s()].map(|number| padded(number, len));
        Some([r.expose(), s.expose()].concat())
    }
}

/// The hash whose digests are so long.
pub(crate) fn hash_of(digest_len: usize) -> Option<Hash> {
    [
        Hash::Sha1,
        Hash::Sha224,
        Hash::Sha256,
        Hash::Sha384,
        Hash::Sha512,
    ]
    .into_iter()
    .find(|hash| hash.digest_len() == digest_len)
}

/// A number in so many bytes, which are enough.
fn padded(number: &BigUint, len: usize) -> Secret {
    let bytes = Secret::take(number.to_bytes_be());
    let zeros = vec![0; len - bytes.len()];
    Secret::concat(&[&zeros, bytes.expose()])
}

fn generator() -> ChaCha20Rng {
    let mut seed = Zeroizing::new(<ChaCha20Rng as SeedableRng>::Seed::default());
    let random = Secret::random(seed.len());
    seed.copy_from_slice(random.expose());
    ChaCha20Rng::from_seed(*seed)
}
