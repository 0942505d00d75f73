//! Block ciphers in memory: AES (PKCS#11 3.1, section 6.13) in the modes of operation of NIST SP 800-38A and
//! 800-38D, and triple DES in two of them, piece by piece.

use aes::cipher::block_padding::{Pkcs7, RawPadding};
use aes::cipher::consts::U16;
use aes::cipher::generic_array::GenericArray;
use aes::cipher::{BlockDecrypt, BlockEncrypt, InnerIvInit, KeyInit, KeyIvInit, StreamCipher};
use cryptoki_sys::{
    CKR_DATA_LEN_RANGE, CKR_ENCRYPTED_DATA_INVALID, CKR_ENCRYPTED_DATA_LEN_RANGE,
    CKR_KEY_SIZE_RANGE, CKR_MECHANISM_PARAM_INVALID,
};
use ghash::GHash;
use ghash::universal_hash::UniversalHash;
use strongroom::Secret;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::blocks::{Blocks, blocks_of, chained};
use crate::fault::{Answer, Fault};
use crate::legacy::des;
use crate::mechanisms::Method;
use crate::parameters::Parameter;

/// The length of a block of AES.
pub(crate) const BLOCK: usize = 16;

/// The most that one invocation of GCM encrypts (NIST SP 800-38D, section 5.2.1.1).
const MOST_OF_GCM: u64 = (1 << 36) - 32;

type Block = GenericArray<u8, U16>;
/// One that would give away the tags of all messages.
type SecretBlock = Zeroizing<[u8; BLOCK]>;
type KeyStream = Box<dyn FnMut(&mut [u8]) + Send>;

/// Does something with the implementation for a key of its length.
macro_rules! with_aes {
    ($key:expr, $aes:ident => $action:expr) => {{
        match $key.len() {
            16 => {
                type $aes = aes::Aes128;
                Ok($action)
            }
            24 => {
                type $aes = aes::Aes192;
                Ok($action)
            }
            32 => {
                type $aes = aes::Aes256;
                Ok($action)
            }
            _ => Err(Fault::Code(CKR_KEY_SIZE_RANGE)),
        }
    }};
}
pub(crate) use with_aes;

/// An encryption or decryption that goes on.
pub(crate) struct Cipher {
    encrypts: bool,
    mode: Mode,
}

enum Mode {
    /// Whole blocks.
    Blocks {
        apply: Blocks,
        block_len: usize,
        /// What is not yet a block, or may be the last one.
        pending: Vec<u8>,
        padded: bool,
    },
    /// As many bytes as there are.
    Stream {
        apply: KeyStream,
        /// How many more bytes there are before the counter begins anew.
        left: u128,
    },
    Gcm(Box<Gcm>),
}

struct Gcm {
    apply: KeyStream,
    tag: Tag,
    tag_len: usize,
    /// Of a decryption, all that came: nothing goes out before the tag was compared.
    pending: Vec<u8>,
}

impl Cipher {
    /// Begins.
    pub(crate) fn new(
        method: Method,
        parameter: &Parameter,
        key: &Secret,
        encrypts: bool,
    ) -> Answer<Self> {
        let key = key.expose();
        let of_blocks = |apply, block_len, padded| Mode::Blocks {
            apply,
            block_len,
            pending: Vec::new(),
            padded,
        };
        let mode = match (method, parameter) {
            (Method::AesEcb, _) => of_blocks(ecb(key, encrypts)?, BLOCK, false),
            (Method::AesCbc { padded }, Parameter::Iv(iv)) => {
                of_blocks(cbc(key, iv, encrypts)?, BLOCK, padded)
            }
            (Method::Des3Ecb, _) => of_blocks(des::ecb(key, encrypts)?, des::BLOCK, false),
            (Method::Des3Cbc { padded }, Parameter::ShortIv(iv)) => {
                of_blocks(des::cbc(key, *iv, encrypts)?, des::BLOCK, padded)
            }
            (Method::AesCtr, Parameter::Counter { block, bits }) => Mode::Stream {
                apply: ctr(key, block)?,
                left: until_overflow(block, *bits),
            },
            (Method::AesGcm, Parameter::Gcm { iv, aad, tag_len }) => {
                Mode::Gcm(Box::new(Gcm::new(key, iv, aad, *tag_len)?))
            }
            _ => return Err(Fault::Code(CKR_MECHANISM_PARAM_INVALID)),
        };
        Ok(Self { encrypts, mode })
    }

    /// How long what comes of so many more bytes is.
    pub(crate) fn update_len(&self, more: usize) -> usize {
        match &self.mode {
            Mode::Blocks {
                block_len,
                pending,
                padded,
                ..
            } => {
                let all = pending.len().saturating_add(more);
                self.ready(all, *block_len, *padded)
            }
            Mode::Gcm(_) if !self.encrypts => 0,
            Mode::Stream { .. } | Mode::Gcm(_) => more,
        }
    }

    /// How long what comes at the end is at most, if so many more bytes come before.
    pub(crate) fn finish_len(&self, more: usize) -> usize {
        match &self.mode {
            Mode::Blocks {
                block_len,
                padded: true,
                ..
            } => *block_len,
            Mode::Blocks { .. } | Mode::Stream { .. } => 0,
            Mode::Gcm(gcm) if self.encrypts => gcm.tag_len,
            Mode::Gcm(gcm) => (gcm.pending.len() + more).saturating_sub(gcm.tag_len),
        }
    }

    /// Goes on.
    pub(crate) fn update(&mut self, data: &[u8]) -> Answer<Vec<u8>> {
        let too_long = || Fault::Code(CKR_DATA_LEN_RANGE);
        let ready = self.update_len(data.len());
        match &mut self.mode {
            Mode::Blocks { apply, pending, .. } => {
                pending.extend_from_slice(data);
                let mut out: Vec<u8> = pending.drain(..ready).collect();
                apply(&mut out);
                Ok(out)
            }
            Mode::Stream { apply, left } => {
                let len = u128::try_from(data.len()).map_err(|_| too_long())?;
                *left = left.checked_sub(len).ok_or_else(too_long)?;
                let mut out = data.to_vec();
                apply(&mut out);
                Ok(out)
            }
            Mode::Gcm(gcm) if self.encrypts => {
                gcm.tag.check_room(data.len())?;
                let mut out = data.to_vec();
                (gcm.apply)(&mut out);
                gcm.tag.add(&out);
                Ok(out)
            }
            Mode::Gcm(gcm) => {
                gcm.tag.check_room(gcm.pending.len() + data.len())?;
                gcm.pending.extend_from_slice(data);
                Ok(Vec::new())
            }
        }
    }

    /// Comes to the end.
    pub(crate) fn finish(self) -> Answer<Vec<u8>> {
        let invalid = || Fault::Code(CKR_ENCRYPTED_DATA_INVALID);
        match self.mode {
            Mode::Stream { .. } => Ok(Vec::new()),
            Mode::Blocks {
                mut apply,
                block_len,
                pending: mut last,
                padded: true,
            } if self.encrypts => {
                let len = last.len();
                last.resize(block_len, 0);
                Pkcs7::raw_pad(&mut last, len);
                apply(&mut last);
                Ok(last)
            }
            Mode::Blocks {
                mut apply,
                block_len,
                pending: mut last,
                padded: true,
            } => {
                if last.len() != block_len {
                    return Err(Fault::Code(CKR_ENCRYPTED_DATA_LEN_RANGE));
                }
                apply(&mut last);
                Pkcs7::raw_unpad(&last)
                    .map(<[u8]>::to_vec)
                    .map_err(|_| invalid())
            }
            Mode::Blocks { pending, .. } if pending.is_empty() => Ok(Vec::new()),
            Mode::Blocks { .. } => Err(self.wrong_len()),
            Mode::Gcm(gcm) if self.encrypts => Ok(gcm.tag.finish()[..gcm.tag_len].to_vec()),
            Mode::Gcm(mut gcm) => {
                let len = gcm
                    .pending
                    .len()
                    .checked_sub(gcm.tag_len)
                    .ok_or(Fault::Code(CKR_ENCRYPTED_DATA_LEN_RANGE))?;
                let tag = gcm.pending.split_off(len);
                gcm.open(&tag).ok_or_else(invalid)
            }
        }
    }

    /// How many of these bytes are blocks that can be worked on.
    fn ready(&self, all: usize, block_len: usize, padded: bool) -> usize {
        let blocks = all / block_len;
        // The last one has the padding, and nobody knows yet which is the last.
        let kept = usize::from(padded && !self.encrypts && all % block_len == 0 && blocks > 0);
        (blocks - kept) * block_len
    }

    fn wrong_len(&self) -> Fault {
        Fault::Code(if self.encrypts {
            CKR_DATA_LEN_RANGE
        } else {
            CKR_ENCRYPTED_DATA_LEN_RANGE
        })
    }
}

/// Encrypts or decrypts in one piece.
pub(crate) fn at_once(mut cipher: Cipher, data: &[u8]) -> Answer<Vec<u8>> {
    let mut out = cipher.update(data)?;
    out.extend(cipher.finish()?);
    Ok(out)
}

/// A message of GCM with its own tag.
pub(crate) struct MessageCipher(Gcm);

impl MessageCipher {
    pub(crate) fn new(key: &Secret, iv: &[u8], aad: &[u8], tag_len: usize) -> Answer<Self> {
        Gcm::new(key.expose(), iv, aad, tag_len).map(Self)
    }

    pub(crate) fn encrypt(&mut self, mut part: Vec<u8>) -> Answer<Vec<u8>> {
        self.0.tag.check_room(part.len())?;
        (self.0.apply)(&mut part);
        self.0.tag.add(&part);
        Ok(part)
    }

    /// How long its tag is.
    pub(crate) fn tag_len(&self) -> usize {
        self.0.tag_len
    }

    /// The tag of what was encrypted.
    pub(crate) fn tag(self) -> Vec<u8> {
        self.0.tag.finish()[..self.0.tag_len].to_vec()
    }

    /// What the whole of a ciphertext comes to; nothing where the tag is not its own.
    pub(crate) fn open(mut self, ciphertext: Vec<u8>, tag: &[u8]) -> Option<Vec<u8>> {
        self.0.tag.check_room(ciphertext.len()).ok()?;
        self.0.pending = ciphertext;
        (tag.len() == self.0.tag_len).then_some(())?;
        self.0.open(tag)
    }
}

impl Gcm {
    fn new(key: &[u8], iv: &[u8], aad: &[u8], tag_len: usize) -> Answer<Self> {
        // NIST SP 800-38D, section 7.1.
        let mut h = SecretBlock::default();
        ecb(key, true)?(&mut *h);
        let h = Block::from_slice(&*h);
        let mut first = Block::default();
        if iv.len() == 12 {
            first[..12].copy_from_slice(iv);
            first[15] = 1;
        } else {
            let mut hash = GHash::new(h);
            hash.update_padded(iv);
            hash.update(&[lengths(0, iv.len())]);
            first = hash.finalize();
        }
        let mut apply = with_aes!(key, Aes => {
            let aes = Aes::new(GenericArray::from_slice(key));
            let counter = ctr::CtrCore::inner_iv_init(aes, &first);
            let mut stream: ctr::Ctr32BE<Aes> = aes::cipher::StreamCipherCoreWrapper::from_core(counter);
            Box::new(move |data: &mut [u8]| stream.apply_keystream(data)) as KeyStream
        })?;
        let mut mask = SecretBlock::default();
        apply(&mut *mask);
        let mut hash = GHash::new(h);
        hash.update_padded(aad);
        Ok(Self {
            apply,
            tag: Tag {
                hash,
                mask,
                aad_len: aad.len(),
                len: 0,
                partial: Vec::new(),
            },
            tag_len,
            pending: Vec::new(),
        })
    }

    /// What was encrypted, if this is its tag.
    fn open(mut self, tag: &[u8]) -> Option<Vec<u8>> {
        self.tag.add(&self.pending);
        let right = self.tag.finish();
        if !bool::from(right[..tag.len()].ct_eq(tag)) {
            return None;
        }
        (self.apply)(&mut self.pending);
        Some(self.pending)
    }
}

/// The tag of GCM over a ciphertext that comes piece by piece.
struct Tag {
    hash: GHash,
    mask: SecretBlock,
    aad_len: usize,
    len: usize,
    /// What is not yet a block.
    partial: Vec<u8>,
}

impl Tag {
    fn check_room(&self, more: usize) -> Answer {
        let all = self.len.saturating_add(more);
        if u64::try_from(all).is_ok_and(|all| all <= MOST_OF_GCM) {
            Ok(())
        } else {
            Err(Fault::Code(CKR_DATA_LEN_RANGE))
        }
    }

    fn add(&mut self, ciphertext: &[u8]) {
        self.len += ciphertext.len();
        self.partial.extend_from_slice(ciphertext);
        let whole = self.partial.len() / BLOCK * BLOCK;
        for block in self.partial[..whole].chunks_exact(BLOCK) {
            self.hash.update(&[Block::clone_from_slice(block)]);
        }
        self.partial.drain(..whole);
    }

    fn finish(mut self) -> Block {
        self.hash.update_padded(&self.partial);
        self.hash.update(&[lengths(self.aad_len, self.len)]);
        let mut tag = self.hash.finalize();
        for (byte, mask) in tag.iter_mut().zip(self.mask.iter()) {
            *byte ^= mask;
        }
        tag
    }
}

/// Two lengths in bits, as GHASH takes them at its end.
fn lengths(first: usize, second: usize) -> Block {
    let bits = |len: usize| (len as u64 * 8).to_be_bytes();
    let mut block = Block::default();
    block[..8].copy_from_slice(&bits(first));
    block[8..].copy_from_slice(&bits(second));
    block
}

/// How many bytes there are before a counter of so many bits begins anew, so that no block of the key
/// stream comes twice.
fn until_overflow(block: &[u8; BLOCK], bits: u32) -> u128 {
    let mask = u128::MAX >> (128 - bits);
    let rest = mask - (u128::from_be_bytes(*block) & mask);
    rest.saturating_add(1).saturating_mul(16)
}

fn ecb(key: &[u8], encrypts: bool) -> Answer<Blocks> {
    with_aes!(key, Aes => {
        let aes = Aes::new(GenericArray::from_slice(key));
        if encrypts {
            Box::new(move |bytes: &mut [u8]| aes.encrypt_blocks_inout(blocks_of(bytes))) as Blocks
        } else {
            Box::new(move |bytes: &mut [u8]| aes.decrypt_blocks_inout(blocks_of(bytes))) as Blocks
        }
    })
}

fn cbc(key: &[u8], iv: &[u8; BLOCK], encrypts: bool) -> Answer<Blocks> {
    with_aes!(key, Aes => chained::<Aes, _>(key, iv, encrypts))
}

fn ctr(key: &[u8], block: &[u8; BLOCK]) -> Answer<KeyStream> {
    with_aes!(key, Aes => {
        let mut mode = ctr::Ctr128BE::<Aes>::new(GenericArray::from_slice(key), block.into());
        Box::new(move |data: &mut [u8]| mode.apply_keystream(data)) as KeyStream
    })
}
