//! The cryptography of libtss2's sessions, done by RustCrypto.
//!
//! libtss2's own, by OpenSSL, makes a new library context for each hash and each HMAC, which costs
//! more than all the rest that a host does for an unsealed key. It also finds its ECDH through
//! OpenSSL's global state, where a host of ours may have put an engine that asks our own module.
//! ESYS takes callbacks instead (`Esys_SetCryptoCallbacks`), but tss-esapi keeps the ESYS context to
//! itself. So the linker hands us `Esys_Initialize`: each package's build script gives it
//! `--wrap=Esys_Initialize`, by which tss-esapi calls [`__wrap_Esys_Initialize`] below.
//!
//! Sessions are salted to the root key alone, a P-256 key; others are refused.
#![allow(
    unsafe_code,
    reason = "callbacks that C calls; each pointer of theirs is checked or named in a SAFETY line"
)]

use std::ffi::{c_char, c_void};
use std::ptr::null_mut;
use std::slice;

use aes::{Aes128, Aes192, Aes256};
use cfb_mode::cipher::{AsyncStreamCipher, KeyIvInit};
use hmac::Hmac;
use hmac::digest::{FixedOutput, KeyInit, Update};
use p256::ecdh::EphemeralSecret;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use rsa::rand_core::OsRng;
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use tss_esapi::constants::tss::{
    TPM2_ALG_AES, TPM2_ALG_CFB, TPM2_ALG_ECC, TPM2_ALG_SHA1, TPM2_ALG_SHA256, TPM2_ALG_SHA384,
    TPM2_ALG_SHA512, TPM2_ECC_NIST_P256,
};
use tss_esapi::tss2_esys::{
    BYTE, ESYS_CONTEXT, ESYS_CRYPTO_CALLBACKS, ESYS_CRYPTO_CONTEXT_BLOB, Esys_SetCryptoCallbacks,
    TPM2_ALG_ID, TPM2B_ECC_PARAMETER, TPM2B_NONCE, TPM2B_PUBLIC, TPMI_AES_KEY_BITS, TPMS_ECC_POINT,
    TSS2_ABI_VERSION, TSS2_RC, TSS2_TCTI_CONTEXT, size_t,
};

const SUCCESS: TSS2_RC = 0;
/// The layer of what ESYS itself answers, and its codes (TCG TSS 2.0 Overview and Common
/// Structures Specification, section 3.2.2).
const ESYS_LAYER: TSS2_RC = 7 << 16;
const GENERAL_FAILURE: TSS2_RC = ESYS_LAYER | 1;
const NOT_IMPLEMENTED: TSS2_RC = ESYS_LAYER | 2;
const BAD_REFERENCE: TSS2_RC = ESYS_LAYER | 5;
const BAD_VALUE: TSS2_RC = ESYS_LAYER | 0xB;
const BAD_SIZE: TSS2_RC = ESYS_LAYER | 0x10;

unsafe extern "C" {
    /// libtss2's `Esys_Initialize`, by the name that the linker gives what it wraps.
    fn __real_Esys_Initialize(
        context: *mut *mut ESYS_CONTEXT,
        tcti: *mut TSS2_TCTI_CONTEXT,
        abi: *mut TSS2_ABI_VERSION,
    ) -> TSS2_RC;
}

/// Makes an ESYS context, as `Esys_Initialize` does, and gives it our cryptography.
///
/// # Safety
/// As for `Esys_Initialize` (TCG TSS 2.0 Enhanced System API Specification, section 8.1).
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_Esys_Initialize(
    context: *mut *mut ESYS_CONTEXT,
    tcti: *mut TSS2_TCTI_CONTEXT,
    abi: *mut TSS2_ABI_VERSION,
) -> TSS2_RC {
    // SAFETY: the arguments are the caller's own, who promises what `Esys_Initialize` asks for.
    let made = unsafe { __real_Esys_Initialize(context, tcti, abi) };
    if made != SUCCESS {
        return made;
    }
    let mut callbacks = ESYS_CRYPTO_CALLBACKS {
        rsa_pk_encrypt: Some(rsa_pk_encrypt),
        hash_start: Some(hash_start),
        hash_update: Some(update),
        hash_finish: Some(finish),
        hash_abort: Some(abort),
        hmac_start: Some(hmac_start),
        hmac_update: Some(update),
        hmac_finish: Some(finish),
        hmac_abort: Some(abort),
        get_random2b: Some(get_random2b),
        get_ecdh_point: Some(get_ecdh_point),
        aes_encrypt: Some(aes_encrypt),
        aes_decrypt: Some(aes_decrypt),
        // Optional: without, libtss2's own stay.
        sm4_encrypt: None,
        sm4_decrypt: None,
        init: None,
        userdata: null_mut(),
    };
    // SAFETY: the call above succeeded, so that the context is one of libtss2's; it copies the
    // callbacks. It fails for a null pointer among them alone, and then keeps its own.
    unsafe { Esys_SetCryptoCallbacks(*context, &raw mut callbacks) }
}

/// A hash or an HMAC under way. What libtss2 holds is a `Box<Running>` as a raw pointer.
struct Running(Box<dyn Sum>);

trait Sum {
    fn add(&mut self, bytes: &[u8]);
    /// Ends it into the first bytes of `out`, and says how many.
    fn end(self: Box<Self>, out: &mut [u8]) -> Option<usize>;
}

impl<T: Update + FixedOutput> Sum for T {
    fn add(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }

    fn end(self: Box<Self>, out: &mut [u8]) -> Option<usize> {
        let size = T::output_size();
        let out = out.get_mut(..size)?;
        (*self).finalize_into(out.into());
        Some(size)
    }
}

unsafe extern "C" fn hash_start(
    context: *mut *mut ESYS_CRYPTO_CONTEXT_BLOB,
    algorithm: TPM2_ALG_ID,
    _: *mut c_void,
) -> TSS2_RC {
    let sum: Box<dyn Sum> = match algorithm {
        TPM2_ALG_SHA1 => Box::new(Sha1::default()),
        TPM2_ALG_SHA256 => Box::new(Sha256::default()),
        TPM2_ALG_SHA384 => Box::new(Sha384::default()),
        TPM2_ALG_SHA512 => Box::new(Sha512::default()),
        _ => return NOT_IMPLEMENTED,
    };
    // SAFETY: libtss2 passes the place where it keeps what was started.
    unsafe { hand_out(context, sum) }
}

unsafe extern "C" fn hmac_start(
    context: *mut *mut ESYS_CRYPTO_CONTEXT_BLOB,
    algorithm: TPM2_ALG_ID,
    key: *const u8,
    size: size_t,
    _: *mut c_void,
) -> TSS2_RC {
    // SAFETY: libtss2 passes a key of `size` bytes, which it does not change meanwhile.
    let Some(key) = (unsafe { bytes(key, size) }) else {
        return BAD_REFERENCE;
    };
    let sum = match algorithm {
        TPM2_ALG_SHA1 => keyed::<Hmac<Sha1>>(key),
        TPM2_ALG_SHA256 => keyed::<Hmac<Sha256>>(key),
        TPM2_ALG_SHA384 => keyed::<Hmac<Sha384>>(key),
        TPM2_ALG_SHA512 => keyed::<Hmac<Sha512>>(key),
        _ => return NOT_IMPLEMENTED,
    };
    let Some(sum) = sum else {
        return GENERAL_FAILURE;
    };
    // SAFETY: as in `hash_start`.
    unsafe { hand_out(context, sum) }
}

fn keyed<T: KeyInit + Sum + 'static>(key: &[u8]) -> Option<Box<dyn Sum>> {
    T::new_from_slice(key).ok().map(|sum| Box::new(sum) as _)
}

/// # Safety
/// `context` is null or may be written to.
unsafe fn hand_out(context: *mut *mut ESYS_CRYPTO_CONTEXT_BLOB, sum: Box<dyn Sum>) -> TSS2_RC {
    if context.is_null() {
        return BAD_REFERENCE;
    }
    // SAFETY: not null, and the caller promises the rest.
    unsafe { *context = Box::into_raw(Box::new(Running(sum))).cast() };
    SUCCESS
}

/// # Safety
/// `context` is null, or points to null or to what [`hand_out`] left there, which is taken back.
unsafe fn take_back(context: *mut *mut ESYS_CRYPTO_CONTEXT_BLOB) -> Option<Running> {
    if context.is_null() {
        return None;
    }
    // SAFETY: not null, and the caller promises the rest. It is left null, so that nothing is
    // taken back twice.
    unsafe {
        let running = std::mem::replace(&mut *context, null_mut()).cast::<Running>();
        (!running.is_null()).then(|| *Box::from_raw(running))
    }
}

unsafe extern "C" fn update(
    context: *mut ESYS_CRYPTO_CONTEXT_BLOB,
    buffer: *const u8,
    size: size_t,
    _: *mut c_void,
) -> TSS2_RC {
    // SAFETY: libtss2 passes what `hash_start` or `hmac_start` gave it and was not yet taken back,
    // and a buffer of `size` bytes.
    let (running, buffer) = unsafe { (context.cast::<Running>().as_mut(), bytes(buffer, size)) };
    let (Some(running), Some(buffer)) = (running, buffer) else {
        return BAD_REFERENCE;
    };
    running.0.add(buffer);
    SUCCESS
}

unsafe extern "C" fn finish(
    context: *mut *mut ESYS_CRYPTO_CONTEXT_BLOB,
    buffer: *mut u8,
    size: *mut size_t,
    _: *mut c_void,
) -> TSS2_RC {
    // SAFETY: as in `update`; libtss2 forgets what was finished. `size` is how long the buffer is.
    let (running, out) = unsafe {
        (
            take_back(context),
            size.as_ref().and_then(|size| bytes_mut(buffer, *size)),
        )
    };
    let (Some(running), Some(out)) = (running, out) else {
        return BAD_REFERENCE;
    };
    let Some(written) = running.0.end(out) else {
        return BAD_SIZE;
    };
    // SAFETY: it was read from above.
    unsafe { *size = size_of_bytes(written) };
    SUCCESS
}

unsafe extern "C" fn abort(context: *mut *mut ESYS_CRYPTO_CONTEXT_BLOB, _: *mut c_void) {
    // SAFETY: as in `finish`.
    drop(unsafe { take_back(context) });
}

unsafe extern "C" fn get_random2b(
    nonce: *mut TPM2B_NONCE,
    size: size_t,
    _: *mut c_void,
) -> TSS2_RC {
    // SAFETY: libtss2 passes a nonce of its own.
    let Some(nonce) = (unsafe { nonce.as_mut() }) else {
        return BAD_REFERENCE;
    };
    let size = u16::try_from(size).unwrap_or(u16::MAX);
    let Some(buffer) = nonce.buffer.get_mut(..size.into()) else {
        return BAD_SIZE;
    };
    if getrandom::fill(buffer).is_err() {
        return GENERAL_FAILURE;
    }
    nonce.size = size;
    SUCCESS
}

/// Makes an ephemeral key: Z is the x coordinate that it shares with `key`, Q its public point,
/// `out` that point as TPMS_ECC_POINT (Part 1, section C.6.1).
unsafe extern "C" fn get_ecdh_point(
    key: *mut TPM2B_PUBLIC,
    capacity: size_t,
    z: *mut TPM2B_ECC_PARAMETER,
    q: *mut TPMS_ECC_POINT,
    out: *mut BYTE,
    out_size: *mut size_t,
    _: *mut c_void,
) -> TSS2_RC {
    // SAFETY: libtss2 passes a key, room for the results, and a buffer of `capacity` bytes.
    let arguments = unsafe {
        (
            key.as_ref(),
            z.as_mut(),
            q.as_mut(),
            bytes_mut(out, capacity),
            out_size.as_mut(),
        )
    };
    let (Some(key), Some(z), Some(q), Some(out), Some(out_size)) = arguments else {
        return BAD_REFERENCE;
    };
    if key.publicArea.type_ != TPM2_ALG_ECC {
        return BAD_VALUE;
    }
    // SAFETY: the unions hold what an ECC key has, as its type says.
    let (curve, unique) = unsafe {
        (
            key.publicArea.parameters.eccDetail.curveID,
            &key.publicArea.unique.ecc,
        )
    };
    if curve != TPM2_ECC_NIST_P256 {
        return NOT_IMPLEMENTED;
    }
    let Some(public) = point(&unique.x, &unique.y) else {
        return BAD_VALUE;
    };
    let ephemeral = EphemeralSecret::random(&mut OsRng);
    let shared = ephemeral.diffie_hellman(&public);
    let own = ephemeral.public_key().to_encoded_point(false);
    let [own_x, own_y] =
        [own.x(), own.y()].map(|half| half.expect("it is not the point at infinity"));
    let written = [&[0, 32], own_x.as_slice(), &[0, 32], own_y].concat();
    let Some(out) = out.get_mut(..written.len()) else {
        return BAD_SIZE;
    };
    out.copy_from_slice(&written);
    *out_size = size_of_bytes(written.len());
    set(z, shared.raw_secret_bytes());
    set(&mut q.x, own_x);
    set(&mut q.y, own_y);
    SUCCESS
}

/// The point of P-256 with these coordinates, which a TPM may write without leading zeros.
fn point(x: &TPM2B_ECC_PARAMETER, y: &TPM2B_ECC_PARAMETER) -> Option<p256::PublicKey> {
    let mut encoded = [0; 65];
    encoded[0] = 4;
    for (coordinate, half) in [x, y].into_iter().zip(encoded[1..].chunks_exact_mut(32)) {
        let bytes = coordinate.buffer.get(..coordinate.size.into())?;
        half.get_mut(32_usize.checked_sub(bytes.len())?..)?
            .copy_from_slice(bytes);
    }
    p256::PublicKey::from_sec1_bytes(&encoded).ok()
}

fn set(parameter: &mut TPM2B_ECC_PARAMETER, bytes: &[u8]) {
    parameter.buffer[..bytes.len()].copy_from_slice(bytes);
    parameter.size = u16::try_from(bytes.len()).expect("a coordinate of P-256");
}

unsafe extern "C" fn aes_encrypt(
    key: *mut u8,
    algorithm: TPM2_ALG_ID,
    key_bits: TPMI_AES_KEY_BITS,
    mode: TPM2_ALG_ID,
    buffer: *mut u8,
    size: size_t,
    iv: *mut u8,
    _: *mut c_void,
) -> TSS2_RC {
    // SAFETY: libtss2 passes pointers as `cfb` asks for them.
    unsafe { cfb(true, key, algorithm, key_bits, mode, buffer, size, iv) }
}

unsafe extern "C" fn aes_decrypt(
    key: *mut u8,
    algorithm: TPM2_ALG_ID,
    key_bits: TPMI_AES_KEY_BITS,
    mode: TPM2_ALG_ID,
    buffer: *mut u8,
    size: size_t,
    iv: *mut u8,
    _: *mut c_void,
) -> TSS2_RC {
    // SAFETY: libtss2 passes pointers as `cfb` asks for them.
    unsafe { cfb(false, key, algorithm, key_bits, mode, buffer, size, iv) }
}

/// # Safety
/// The pointers are null or good for `key_bits`, `size` bytes and a block of AES.
#[expect(clippy::too_many_arguments, reason = "they are libtss2's")]
unsafe fn cfb(
    encrypt: bool,
    key: *const u8,
    algorithm: TPM2_ALG_ID,
    key_bits: TPMI_AES_KEY_BITS,
    mode: TPM2_ALG_ID,
    buffer: *mut u8,
    size: size_t,
    iv: *const u8,
) -> TSS2_RC {
    if algorithm != TPM2_ALG_AES || mode != TPM2_ALG_CFB {
        return BAD_VALUE;
    }
    // SAFETY: the caller promises it.
    let arguments = unsafe {
        (
            bytes(key, (key_bits / 8).into()),
            bytes_mut(buffer, size),
            bytes(iv, 16),
        )
    };
    let (Some(key), Some(data), Some(iv)) = arguments else {
        return BAD_REFERENCE;
    };
    macro_rules! run {
        ($cipher:ty) => {
            if encrypt {
                cfb_mode::Encryptor::<$cipher>::new(key.into(), iv.into()).encrypt(data);
            } else {
                cfb_mode::Decryptor::<$cipher>::new(key.into(), iv.into()).decrypt(data);
            }
        };
    }
    match key_bits {
        128 => run!(Aes128),
        192 => run!(Aes192),
        256 => run!(Aes256),
        _ => return BAD_VALUE,
    }
    SUCCESS
}

/// Never asked for: no session is salted to an RSA key.
unsafe extern "C" fn rsa_pk_encrypt(
    _: *mut TPM2B_PUBLIC,
    _: size_t,
    _: *mut BYTE,
    _: size_t,
    _: *mut BYTE,
    _: *mut size_t,
    _: *const c_char,
    _: *mut c_void,
) -> TSS2_RC {
    NOT_IMPLEMENTED
}

fn size_of_bytes(len: usize) -> size_t {
    size_t::try_from(len).expect("a digest, or a point")
}

/// # Safety
/// `start` is null or good for `size` bytes, which nobody writes to meanwhile.
unsafe fn bytes<'a>(start: *const u8, size: size_t) -> Option<&'a [u8]> {
    let size = usize::try_from(size).ok()?;
    // SAFETY: not null, and the caller promises the rest.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start, size) })
}

/// # Safety
/// `start` is null or good for `size` bytes, which nobody else uses meanwhile.
unsafe fn bytes_mut<'a>(start: *mut u8, size: size_t) -> Option<&'a mut [u8]> {
    let size = usize::try_from(size).ok()?;
    // SAFETY: not null, and the caller promises the rest.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts_mut(start, size) })
}
