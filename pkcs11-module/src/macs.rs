//! Message authentication codes in memory: HMAC (PKCS#11 3.1, section 6.20) and CMAC (section 6.14); and
//! CBC-MAC (section 6.13), for those who still have it.

use cbc_mac::CbcMac;
use cmac::Cmac;
use cryptoki_sys::{CKR_KEY_SIZE_RANGE, CKR_MECHANISM_INVALID};
use hmac::{Hmac, Mac};
use strongroom::Secret;
use strongroom::key::Hash;
use subtle::ConstantTimeEq;

use crate::fault::{Answer, Fault};
use crate::mechanisms::Method;
use crate::parameters::Parameter;
use crate::symmetric::{BLOCK, with_aes};

/// A code that is being computed.
pub(crate) struct Code {
    mac: Box<dyn Computing>,
    len: usize,
}

/// What all of them do.
trait Computing: Send {
    fn update(&mut self, bytes: &[u8]);
    fn finish(self: Box<Self>) -> Vec<u8>;
}

impl<M: Mac + Send> Computing for M {
    fn update(&mut self, bytes: &[u8]) {
        Mac::update(self, bytes);
    }

    fn finish(self: Box<Self>) -> Vec<u8> {
        self.finalize().into_bytes().to_vec()
    }
}

/// A code of cipher block chaining, whose last block is filled up with zeros. There is one block at least
/// (ISO/IEC 9797-1, padding method 1): without any, the code would be zeros, whatever the key.
struct Chained<M> {
    mac: M,
    is_empty: bool,
}

impl<M: Mac + Send> Computing for Chained<M> {
    fn update(&mut self, bytes: &[u8]) {
        self.is_empty &= bytes.is_empty();
        self.mac.update(bytes);
    }

    fn finish(mut self: Box<Self>) -> Vec<u8> {
        if self.is_empty {
            self.mac.update(&[0]);
        }
        self.mac.finalize().into_bytes().to_vec()
    }
}

impl Code {
    /// Begins.
    pub(crate) fn new(method: Method, parameter: &Parameter, key: &Secret) -> Answer<Self> {
        let key = key.expose();
        let (mac, whole) = match method {
            Method::Hmac { hash, .. } => (hmac(hash, key)?, hash.digest_len()),
            Method::Cmac { .. } => {
                let mac =
                    with_aes!(key, Aes => Box::new(of::<Cmac<Aes>>(key)?) as Box<dyn Computing>)?;
                (mac, BLOCK)
            }
            Method::AesMac { .. } => {
                let mac = with_aes!(key, Aes => Box::new(Chained {
                    mac: of::<CbcMac<Aes>>(key)?,
                    is_empty: true,
                }) as Box<dyn Computing>)?;
                (mac, BLOCK / 2)
            }
            _ => return Err(Fault::Code(CKR_MECHANISM_INVALID)),
        };
        let len = match parameter {
            Parameter::Len(len) => *len,
            _ => whole,
        };
        Ok(Self { mac, len })
    }

    /// Its length.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.mac.update(bytes);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        let mut code = self.mac.finish();
        code.truncate(self.len);
        code
    }

    /// Whether it is this one, in time that does not depend on it.
    pub(crate) fn is(self, code: &[u8]) -> bool {
        self.finish().ct_eq(code).into()
    }
}

fn hmac(hash: Hash, key: &[u8]) -> Answer<Box<dyn Computing>> {
    Ok(match hash {
        Hash::Sha1 => Box::new(of::<Hmac<sha1::Sha1>>(key)?),
        Hash::Sha224 => Box::new(of::<Hmac<sha2::Sha224>>(key)?),
        Hash::Sha256 => Box::new(of::<Hmac<sha2::Sha256>>(key)?),
        Hash::Sha384 => Box::new(of::<Hmac<sha2::Sha384>>(key)?),
        Hash::Sha512 => Box::new(of::<Hmac<sha2::Sha512>>(key)?),
    })
}

fn of<M: Mac + hmac::digest::KeyInit>(key: &[u8]) -> Answer<M> {
    <M as hmac::digest::KeyInit>::new_from_slice(key).map_err(|_| Fault::Code(CKR_KEY_SIZE_RANGE))
}
