//! The caller's memory: checked for what can be checked, read and written by copy.
//!
//! No reference into it is kept, because nothing forbids the caller to let two of its pointers
//! overlap.

use std::mem::size_of;
use std::ptr::NonNull;

use cryptoki_sys::{CK_ULONG, CKR_ARGUMENTS_BAD};

use crate::fault::{Answer, Fault};

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
    /// Whether the caller's bytes are these.
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        self.len == bytes.len() && (0..self.len).all(|index| self.get(index) == bytes[index])
    }
}

/// A length for the caller.
pub(crate) fn ulong(len: usize) -> CK_ULONG {
    CK_ULONG::try_from(len).expect("CK_ULONG is as wide as a pointer on every Linux")
}
