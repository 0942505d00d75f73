//! Message digesting (PKCS#11 3.1, section 5.12), in memory.

use cryptoki_sys::{
    CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CKF_DIGEST,
    CKR_KEY_INDIGESTIBLE, CKR_OPERATION_ACTIVE, CKR_OPERATION_NOT_INITIALIZED,
};
use sha2::Digest;

use crate::class::Class;
use crate::fault::{Answer, Fault, answer};
use crate::foreign::{Foreign, Output, Room};
use crate::mechanisms::Method;
use crate::parameters::Chosen;
use crate::state::with_module;
use strongroom::key::Hash;

/// A hash function at work.
pub(crate) enum Hasher {
    Sha1(sha1::Sha1),
    Sha224(sha2::Sha224),
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl Hasher {
    pub(crate) fn new(hash: Hash) -> Self {
        match hash {
            Hash::Sha1 => Self::Sha1(sha1::Sha1::new()),
            Hash::Sha224 => Self::Sha224(sha2::Sha224::new()),
            Hash::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Hash::Sha384 => Self::Sha384(sha2::Sha384::new()),
            Hash::Sha512 => Self::Sha512(sha2::Sha512::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(it) => it.update(bytes),
            Self::Sha224(it) => it.update(bytes),
            Self::Sha256(it) => it.update(bytes),
            Self::Sha384(it) => it.update(bytes),
            Self::Sha512(it) => it.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha1(it) => it.finalize().to_vec(),
            Self::Sha224(it) => it.finalize().to_vec(),
            Self::Sha256(it) => it.finalize().to_vec(),
            Self::Sha384(it) => it.finalize().to_vec(),
            Self::Sha512(it) => it.finalize().to_vec(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Sha1(_) => Hash::Sha1.digest_len(),
            Self::Sha224(_) => Hash::Sha224.digest_len(),
            Self::Sha256(_) => Hash::Sha256.digest_len(),
            Self::Sha384(_) => Hash::Sha384.digest_len(),
            Self::Sha512(_) => Hash::Sha512.digest_len(),
        }
    }
}

/// A digest that is being computed.
pub(crate) struct Digesting {
    hasher: Hasher,
    in_parts: bool,
}

impl Digesting {
    /// Takes a part.
    pub(crate) fn update(&mut self, part: &Foreign<u8>) {
        part.pieces(|piece| self.hasher.update(piece));
        self.in_parts = true;
    }

    /// The same of what is ours.
    pub(crate) fn update_with(&mut self, part: &[u8]) {
        self.hasher.update(part);
        self.in_parts = true;
    }
}

/// C_DigestInit, section 5.12.1.
pub(crate) unsafe extern "C" fn digest_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
) -> CK_RV {
    answer("C_DigestInit", || {
        with_module(|module| {
            module.session(session)?;
            // SAFETY: the caller's CK_MECHANISM.
            let chosen = unsafe { Chosen::read(mechanism, CKF_DIGEST) }?;
            let Some(chosen) = chosen else {
                module.session(session)?.digesting = None;
                return Ok(());
            };
            module.check_has_mechanisms(session)?;
            let Method::Digest(hash) = chosen.method() else {
                unreachable!("the table gives CKF_DIGEST to digests only");
            };
            let digesting = &mut module.session(session)?.digesting;
            if digesting.is_some() {
                return Err(Fault::Code(CKR_OPERATION_ACTIVE));
            }
            *digesting = Some(Digesting {
                hasher: Hasher::new(hash),
                in_parts: false,
            });
            Ok(())
        })
    })
}

/// C_Digest, section 5.12.2.
pub(crate) unsafe extern "C" fn digest(
    session: CK_SESSION_HANDLE,
    data: *mut u8,
    data_len: CK_ULONG,
    digest: *mut u8,
    digest_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_Digest", || {
        with_module(|module| {
            let mut digesting = take(&mut module.session(session)?.digesting)?;
            if digesting.in_parts {
                return Err(Fault::Code(CKR_OPERATION_NOT_INITIALIZED));
            }
            // SAFETY: the caller's data and memory.
            let (data, output) = unsafe {
                (
                    Foreign::many(data, data_len)?,
                    Output::new(digest, digest_len)?,
                )
            };
            match output.room(digesting.hasher.len()) {
                Ok(Room::Enough) => {
                    data.pieces(|piece| digesting.hasher.update(piece));
                    output.give(&digesting.hasher.finish())
                }
                other => {
                    module.session(session)?.digesting = Some(digesting);
                    other.map(|_| ())
                }
            }
        })
    })
}

/// C_DigestUpdate, section 5.12.3.
pub(crate) unsafe extern "C" fn digest_update(
    session: CK_SESSION_HANDLE,
    part: *mut u8,
    part_len: CK_ULONG,
) -> CK_RV {
    answer("C_DigestUpdate", || {
        with_module(|module| {
            let mut digesting = take(&mut module.session(session)?.digesting)?;
            // SAFETY: the caller's data.
            digesting.update(&unsafe { Foreign::many(part, part_len) }?);
            module.session(session)?.digesting = Some(digesting);
            Ok(())
        })
    })
}

/// C_DigestKey, section 5.12.4: of secret keys whose value may be read.
pub(crate) unsafe extern "C" fn digest_key(
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    answer("C_DigestKey", || {
        with_module(|module| {
            let mut digesting = take(&mut module.session(session)?.digesting)?;
            let key = module.key(session, key)?;
            // A digest of what nobody may read would let them try out what it is.
            if key.class() != Class::SecretKey || !key.is_readable() {
                return Err(Fault::Code(CKR_KEY_INDIGESTIBLE));
            }
            digesting.update_with(module.value_of(&key)?.expose());
            module.session(session)?.digesting = Some(digesting);
            Ok(())
        })
    })
}

/// C_DigestFinal, section 5.12.5.
pub(crate) unsafe extern "C" fn digest_final(
    session: CK_SESSION_HANDLE,
    digest: *mut u8,
    digest_len: *mut CK_ULONG,
) -> CK_RV {
    answer("C_DigestFinal", || {
        with_module(|module| {
            let digesting = take(&mut module.session(session)?.digesting)?;
            // SAFETY: the caller's memory.
            let output = unsafe { Output::new(digest, digest_len) }?;
            match output.room(digesting.hasher.len()) {
                Ok(Room::Enough) => output.give(&digesting.hasher.finish()),
                other => {
                    module.session(session)?.digesting = Some(digesting);
                    other.map(|_| ())
                }
            }
        })
    })
}

/// Takes an operation out of its session: whatever does not put it back has ended it.
pub(crate) fn take<T>(operation: &mut Option<T>) -> Answer<T> {
    operation
        .take()
        .ok_or(Fault::Code(CKR_OPERATION_NOT_INITIALIZED))
}
