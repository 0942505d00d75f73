//! Whole blocks of a cipher, whichever it is, one by one or chained (NIST SP 800-38A).

use aes::cipher::generic_array::{ArrayLength, GenericArray};
use aes::cipher::inout::InOutBuf;
use aes::cipher::{
    BlockCipher, BlockDecryptMut, BlockEncryptMut, BlockSizeUser, KeyInit, KeyIvInit,
};

/// What is done to whole blocks, one after the other.
pub(crate) type Blocks = Box<dyn FnMut(&mut [u8]) + Send>;

/// Bytes as the whole blocks that they are.
pub(crate) fn blocks_of<N: ArrayLength<u8>>(
    bytes: &mut [u8],
) -> InOutBuf<'_, '_, GenericArray<u8, N>> {
    let (blocks, rest) = InOutBuf::from(bytes).into_chunks::<N>();
    debug_assert!(rest.is_empty(), "whole blocks come here");
    blocks
}

/// Cipher block chaining with a cipher.
pub(crate) fn chained<C, N>(key: &[u8], iv: &[u8], encrypts: bool) -> Blocks
where
    C: BlockCipher + BlockEncryptMut + BlockDecryptMut + BlockSizeUser<BlockSize = N>,
    C: KeyInit + Send + 'static,
    N: ArrayLength<u8>,
    cbc::Encryptor<C>: Send,
    cbc::Decryptor<C>: Send,
{
    let (key, iv) = (GenericArray::from_slice(key), GenericArray::from_slice(iv));
    if encrypts {
        let mut mode = cbc::Encryptor::<C>::new(key, iv);
        Box::new(move |bytes: &mut [u8]| mode.encrypt_blocks_inout_mut(blocks_of(bytes)))
    } else {
        let mut mode = cbc::Decryptor::<C>::new(key, iv);
        Box::new(move |bytes: &mut [u8]| mode.decrypt_blocks_inout_mut(blocks_of(bytes)))
    }
}
