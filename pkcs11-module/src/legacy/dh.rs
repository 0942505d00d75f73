//! Diffie-Hellman over finite fields (PKCS#11 3.1, section 6.4; PKCS#3), in time that does not depend on the
//! private value.
//!
//! Groups are the caller's choice: that a prime is one, and what its base generates, is not looked at. What
//! is, is its size, and that no peer's value is one that leaves nothing to guess.

use crypto_bigint::modular::runtime_mod::{DynResidue, DynResidueParams};
use crypto_bigint::{Limb, U2048, U3072, U4096, Uint};
use strongroom::Secret;
use zeroize::Zeroizing;

/// The sizes of primes, in bits: NIST SP 800-56A, section 5.5.1.1, has none below.
pub(crate) const SIZES: (usize, usize) = (2048, 4096);

/// The shortest private value that one may ask for, in bits: twice the strength of the shortest prime.
const SHORTEST: usize = 224;

/// A prime and a base.
#[derive(Clone)]
pub(crate) struct Group {
    prime: Vec<u8>,
    base: Vec<u8>,
}

/// A private key.
pub(crate) struct PrivateKey {
    group: Group,
    /// As long as the prime.
    value: Secret,
    bits: usize,
}

impl Group {
    /// The group of these numbers, if the prime is odd and of a right size, and the base lies between 1
    /// and the prime less 1.
    pub(crate) fn new(prime: &[u8], base: &[u8]) -> Option<Self> {
        let (prime, base) = (trimmed(prime).to_vec(), trimmed(base).to_vec());
        let (min, max) = SIZES;
        let right = (min..=max).contains(&bits_of(&prime)) && prime.last()? & 1 == 1;
        let group = Self { prime, base };
        (right && group.has(&group.base)).then_some(group)
    }

    pub(crate) fn prime(&self) -> &[u8] {
        &self.prime
    }

    pub(crate) fn base(&self) -> &[u8] {
        &self.base
    }

    /// How many bits the prime has.
    pub(crate) fn bits(&self) -> usize {
        bits_of(&self.prime)
    }

    /// Whether a public value is one: more than 1 and less than the prime less 1 (NIST SP 800-56A,
    /// section 5.6.2.3.1, as far as a group without order allows).
    pub(crate) fn has(&self, value: &[u8]) -> bool {
        let value = trimmed(value);
        let [_, _, most] = self.trivial();
        bits_of(value) > 1 && (value.len(), value) < (most.len(), &most)
    }

    /// A new key, with a private value of so many bits, or of all but one that there are (PKCS#3,
    /// section 7). None if there are not so many, or they are too few.
    pub(crate) fn generate(&self, bits: Option<usize>) -> Option<PrivateKey> {
        let most = bits_of(&self.prime) - 1;
        let wanted = bits.unwrap_or(most);
        if !(SHORTEST..=most).contains(&wanted) {
            return None;
        }
        let mut value = Secret::random(self.prime.len());
        let bytes = value.expose_mut();
        // Of a random number, the last `wanted` bits, the first of which is set.
        let first = bytes.len() - wanted.div_ceil(8);
        bytes[..first].fill(0);
        let top = (wanted - 1) % 8;
        bytes[first] &= u8::MAX >> (7 - top);
        bytes[first] |= 1 << top;
        Some(PrivateKey {
            group: self.clone(),
            value,
            bits: wanted,
        })
    }

    /// The key of a private value, which lies between 0 and the prime less 1.
    pub(crate) fn key_of(&self, value: &[u8]) -> Option<PrivateKey> {
        let value = trimmed(value);
        let is_one = value == [1];
        if !is_one && !self.has(value) {
            return None;
        }
        let zeros = vec![0; self.prime.len() - value.len()];
        Some(PrivateKey {
            group: self.clone(),
            bits: 8 * value.len(),
            value: Secret::concat(&[&zeros, value]),
        })
    }

    /// The numbers that are no public value, as long as the prime: 0, 1, and the prime less 1.
    fn trivial(&self) -> [Vec<u8>; 3] {
        let zero = vec![0; self.prime.len()];
        let mut one = zero.clone();
        let mut most = self.prime.clone();
        if let (Some(one), Some(most)) = (one.last_mut(), most.last_mut()) {
            *one = 1;
            // The prime is odd, so that one less differs in its last bit alone.
            *most &= 0xfe;
        }
        [zero, one, most]
    }

    fn power(&self, base: &[u8], exponent: &Secret) -> Secret {
        match bits_of(&self.prime) {
            ..=2048 => power::<{ U2048::LIMBS }>(base, exponent, &self.prime),
            2049..=3072 => power::<{ U3072::LIMBS }>(base, exponent, &self.prime),
            _ => power::<{ U4096::LIMBS }>(base, exponent, &self.prime),
        }
    }
}

impl PrivateKey {
    pub(crate) fn group(&self) -> &Group {
        &self.group
    }

    /// The private value.
    pub(crate) fn value(&self) -> &Secret {
        &self.value
    }

    /// How many bits it has at most.
    pub(crate) fn bits(&self) -> usize {
        self.bits
    }

    /// The public value that goes with it.
    pub(crate) fn public(&self) -> Vec<u8> {
        let public = self.group.power(&self.group.base, &self.value);
        trimmed(public.expose()).to_vec()
    }

    /// What both sides come to, as long as the prime; nothing where the peer's value is none, or lies in a
    /// group so small that both would come to 1.
    pub(crate) fn agree(&self, peer: &[u8]) -> Option<Secret> {
        if !self.group.has(peer) {
            return None;
        }
        let agreed = self.group.power(trimmed(peer), &self.value);
        // Compared in constant time, which `has` need not be.
        let nothing_left = (self.group.trivial().iter()).any(|value| agreed.same_as(value));
        (!nothing_left).then_some(agreed)
    }
}

/// A power modulo an odd prime, whose number of bits alone decides on the time.
fn power<const LIMBS: usize>(base: &[u8], exponent: &Secret, prime: &[u8]) -> Secret {
    let read = |bytes: &[u8]| {
        let mut wide = Zeroizing::new(vec![0; LIMBS * Limb::BYTES]);
        let start = wide.len() - bytes.len();
        wide[start..].copy_from_slice(bytes);
        Zeroizing::new(Uint::<LIMBS>::from_be_slice(&wide))
    };
    let modulus = DynResidueParams::new(&read(prime));
    let exponent = read(exponent.expose());
    let power = DynResidue::new(&read(base), modulus).pow_bounded_exp(&exponent, bits_of(prime));
    let power = Zeroizing::new(power.retrieve());
    let mut wide = Secret::zeroed(LIMBS * Limb::BYTES);
    let places = wide.expose_mut().rchunks_exact_mut(Limb::BYTES);
    for (place, word) in places.zip(power.as_words()) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    Secret::copy_of(&wide.expose()[LIMBS * Limb::BYTES - prime.len()..])
}

/// A number without the zeros that it begins with.
fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// How many bits a number without leading zeros has.
fn bits_of(number: &[u8]) -> usize {
    let first = number.first().map_or(0, |byte| byte.leading_zeros());
    8 * number.len() - first as usize
}
