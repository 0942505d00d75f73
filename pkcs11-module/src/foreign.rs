//! The caller's memory: checked for what can be checked, read and written by copy.
//!
//! No reference into it is kept, because nothing forbids the caller to let two of its pointers
//! overlap.

use std::ffi::c_void;
use std::mem::size_of;
use std::ptr::NonNull;

use cryptoki_sys::{
    CK_MECHANISM, CK_ULONG, CKR_ARGUMENTS_BAD, CKR_BUFFER_TOO_SMALL, CKR_MECHANISM_PARAM_INVALID,
};
use strongroom::Secret;
use zeroize::Zeroizing;

use crate::fault::{Answer, Fault};

/// The longest message, and the longest part of one, that is taken at once, in bytes.
pub(crate) const MOST_AT_ONCE: usize = 1 << 30;

/// `len` values of the caller's, at an address that is neither null nor misaligned.
pub(crate) struct Foreign<T> {
    start: NonNull<T>,
    len: usize,
}

impl<T: Copy> Foreign<T> {
    /// One value.
    ///
    /// # Safety
    /// As for [`Foreign::many`], with a length of one.
    pub(crate) unsafe fn one(start: *mut T) -> Answer<Self> {
        // SAFETY: the caller vouches for one value.
        unsafe { Self::many(start, 1) }
    }

    /// `len` values; none may be at any address, null too.
    ///
    /// # Safety
    /// If `start` is neither null nor misaligned, `len` values there must be readable and
    /// writable while the result lives. That is what PKCS#11 demands of its callers.
    pub(crate) unsafe fn many(start: *mut T, len: CK_ULONG) -> Answer<Self> {
        let bad = || Fault::Code(CKR_ARGUMENTS_BAD);
        let len = usize::try_from(len).map_err(|_| bad())?;
        if len == 0 {
            let start = NonNull::dangling();
            return Ok(Self { start, len });
        }
        let start = NonNull::new(start).ok_or_else(bad)?;
        let fits = len
            .checked_mul(size_of::<T>())
            .is_some_and(|bytes| isize::try_from(bytes).is_ok());
        if !fits || !start.is_aligned() {
            return Err(bad());
        }
        Ok(Self { start, len })
    }

    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The value at `index`, which must be there.
    pub(crate) fn get(&self, index: usize) -> T {
        assert!(index < self.len, "an index within the caller's memory");
        // SAFETY: within the `len` readable values that `many`'s caller vouched for.
        unsafe { self.start.add(index).read() }
    }

    /// Writes the value at `index`, which must be there.
    pub(crate) fn set(&self, index: usize, value: T) {
        assert!(index < self.len, "an index within the caller's memory");
        // SAFETY: within the `len` writable values that `many`'s caller vouched for.
        unsafe { self.start.add(index).write(value) }
    }

    /// Writes the first `values.len()` values, which must fit.
    pub(crate) fn fill(&self, values: &[T]) {
        assert!(
            values.len() <= self.len,
            "no more than the caller's memory holds"
        );
        // SAFETY: within the `len` writable values that `many`'s caller vouched for; `values` is
        // ours and cannot overlap the caller's memory.
        unsafe {
            self.start
                .as_ptr()
                .copy_from_nonoverlapping(values.as_ptr(), values.len());
        }
    }
}

impl Foreign<u8> {
    /// A copy of the caller's bytes, if they are no more than `limit`.
    pub(crate) fn bytes(&self, limit: usize) -> Option<Vec<u8>> {
        (self.len <= limit).then(|| {
            let mut bytes = vec![0; self.len];
            self.copy_to(&mut bytes);
            bytes
        })
    }

    /// The same in secret memory.
    pub(crate) fn secret(&self, limit: usize) -> Option<Secret> {
        (self.len <= limit).then(|| {
            let mut secret = Secret::zeroed(self.len);
            self.copy_to(secret.expose_mut());
            secret
        })
    }

    /// Copies the caller's bytes to memory of the same length.
    pub(crate) fn copy_to(&self, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), self.len, "as many bytes as there are");
        // SAFETY: `len` readable bytes that `many`'s caller vouched for; `bytes` is ours and
        // cannot overlap the caller's memory.
        unsafe {
            bytes
                .as_mut_ptr()
                .copy_from_nonoverlapping(self.start.as_ptr(), self.len);
        }
    }

    /// Fills the caller's memory piece by piece.
    pub(crate) fn fill_by_pieces(&self, mut make: impl FnMut(&mut [u8])) {
        const PIECE: usize = 256;
        let mut buffer = Zeroizing::new([0; PIECE]);
        let mut done = 0;
        while done < self.len {
            let piece = &mut buffer[..PIECE.min(self.len - done)];
            make(piece);
            // SAFETY: within the `len` writable bytes that `many`'s caller vouched for; the piece
            // is ours.
            unsafe {
                self.start
                    .as_ptr()
                    .add(done)
                    .copy_from_nonoverlapping(piece.as_ptr(), piece.len());
            }
            done += piece.len();
        }
    }

    /// Calls `take` with the caller's bytes, piece by piece.
    pub(crate) fn pieces(&self, mut take: impl FnMut(&[u8])) {
        const PIECE: usize = 4096;
        let mut buffer = [0; PIECE];
        let mut done = 0;
        while done < self.len {
            let piece = &mut buffer[..PIECE.min(self.len - done)];
            // SAFETY: within the `len` readable bytes that `many`'s caller vouched for; the
            // buffer is ours.
            unsafe {
                piece
                    .as_mut_ptr()
                    .copy_from_nonoverlapping(self.start.as_ptr().add(done), piece.len());
            }
            take(piece);
            done += piece.len();
        }
    }

    /// Whether the caller's bytes are these.
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        self.len == bytes.len() && (0..self.len).all(|index| self.get(index) == bytes[index])
    }
}

/// Where a function's output goes, by the conventions of section 5.2.
pub(crate) struct Output {
    start: *mut u8,
    len: Foreign<CK_ULONG>,
}

/// Whether the caller has room for an output.
pub(crate) enum Room {
    /// For all of it.
    Enough,
    /// Only its length was asked for, and has been told.
    LengthOnly,
}

impl Output {
    /// # Safety
    /// `start` is null or the caller's memory of as many bytes as `len` says, and `len` is null
    /// or the caller's CK_ULONG.
    pub(crate) unsafe fn new(start: *mut u8, len: *mut CK_ULONG) -> Answer<Self> {
        // SAFETY: the caller vouches for it.
        let len = unsafe { Foreign::one(len) }?;
        Ok(Self { start, len })
    }

    /// Whether only the length is asked for.
    pub(crate) fn is_query(&self) -> bool {
        self.start.is_null()
    }

    /// Tells how long the output will be at most, and whether there is room for it.
    pub(crate) fn room(&self, len: usize) -> Answer<Room> {
        let room = self.len.get(0);
        if self.start.is_null() {
            self.len.set(0, ulong(len));
            return Ok(Room::LengthOnly);
        }
        if room < ulong(len) {
            self.len.set(0, ulong(len));
            return Err(Fault::Code(CKR_BUFFER_TOO_SMALL));
        }
        Ok(Room::Enough)
    }

    /// Gives an output for which there must be room.
    pub(crate) fn give(&self, bytes: &[u8]) -> Answer {
        if self.start.is_null() || self.len.get(0) < ulong(bytes.len()) {
            return Err(Fault::Code(CKR_BUFFER_TOO_SMALL));
        }
        // SAFETY: `new`'s caller vouched for as many bytes as the length says, which are enough.
        unsafe { Foreign::many(self.start, ulong(bytes.len())) }?.fill(bytes);
        self.len.set(0, ulong(bytes.len()));
        Ok(())
    }
}

/// A length for the caller.
pub(crate) fn ulong(len: usize) -> CK_ULONG {
    CK_ULONG::try_from(len).expect("CK_ULONG is as wide as a pointer on every Linux")
}

/// The longest label or point, in bytes.
pub(crate) const MAX_PARAMETER: usize = 1 << 16;

/// # Safety
/// The mechanism's parameter is the caller's, of the length that it says.
pub(crate) unsafe fn structure<T: Copy>(given: &CK_MECHANISM) -> Answer<T> {
    let right_len = usize::try_from(given.ulParameterLen) == Ok(size_of::<T>());
    if given.pParameter.is_null() || !right_len {
        return Err(Fault::Code(CKR_MECHANISM_PARAM_INVALID));
    }
    // SAFETY: the caller vouches for as many bytes as a T has.
    Ok(unsafe { Foreign::one(given.pParameter.cast::<T>()) }?.get(0))
}

/// The same of what a parameter points to.
///
/// # Safety
/// `start` is null or the caller's memory of `len` bytes.
pub(crate) unsafe fn bytes_of_pointer(
    start: *mut c_void,
    len: CK_ULONG,
    limit: usize,
) -> Answer<Vec<u8>> {
    let invalid = || Fault::Code(CKR_MECHANISM_PARAM_INVALID);
    // SAFETY: the caller vouches for it.
    unsafe { Foreign::many(start.cast::<u8>(), len) }
        .map_err(|_| invalid())?
        .bytes(limit)
        .ok_or_else(invalid)
}
