//! Reading a log from left to right, never beyond its end.

use std::fmt;

/// Where a log cannot be read on, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) at: usize,
    pub(super) reason: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}, {}", self.at, self.reason)
    }
}

/// What is left to be read. Numbers are little-endian, as all of the log's are.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    left: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes, at: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// That the log cannot be read on from here.
    pub(super) fn malformed(&self, reason: &'static str) -> Malformed {
        Malformed {
            at: self.at,
            reason,
        }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, left) = self
            .left
            .split_at_checked(length)
            .ok_or_else(|| self.malformed("it ends in the middle of something"))?;
        self.left = left;
        self.at += length;
        Ok(taken)
    }

    /// As many bytes as a number in the log says, which may be more than there are in the world.
    pub(super) fn take_counted(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length)
            .map_err(|_| self.malformed("something is longer than the log"))?;
        self.take(length)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }
}
