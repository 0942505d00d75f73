//! Memory that holds secrets: locked against swap, left out of core dumps, wiped when dropped.
//!
//! A [`Secret`] has neither `Debug` nor `Clone`: it can be printed or copied only by someone who
//! writes [`Secret::expose`]. This is one of the few places of the workspace with `unsafe` code.
#![allow(
    unsafe_code,
    reason = "locking and unlocking pages has no safe interface"
)]

use std::ffi::c_void;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// Secret bytes of any length, in pages of their own.
///
/// The pages are excluded from core dumps (`MADV_DONTDUMP`), wiped in the child of a fork
/// (`MADV_WIPEONFORK`), and locked (`mlock`) as far as the process's `RLIMIT_MEMLOCK` allows; what
/// could not be locked is logged once and used all the same, because a box without its keys is the
/// worse outcome.
pub struct Secret {
    pages: Option<Pages>,
    len: usize,
}

impl Secret {
    /// `len` zero bytes, to be filled through [`Secret::expose_mut`].
    pub fn zeroed(len: usize) -> Self {
        Self {
            pages: NonZeroUsize::new(len).map(Pages::map),
            len,
        }
    }

    /// A copy of `bytes`; the caller wipes the original.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut secret = Self::zeroed(bytes.len());
        secret.expose_mut().copy_from_slice(bytes);
        secret
    }

    /// Moves `bytes` into secret memory and wipes the vector.
    pub fn take(mut bytes: Vec<u8>) -> Self {
        let secret = Self::copy_of(&bytes);
        bytes.zeroize();
        secret
    }

    /// The pieces, one after the other.
    pub fn concat(pieces: &[&[u8]]) -> Self {
        let mut secret = Self::zeroed(pieces.iter().map(|piece| piece.len()).sum());
        let mut rest = secret.expose_mut();
        for piece in pieces {
            let (here, behind) = rest.split_at_mut(piece.len());
            here.copy_from_slice(piece);
            rest = behind;
        }
        secret
    }

    /// `len` bytes from the kernel's random number generator.
    ///
    /// # Panics
    /// If the kernel has no random numbers to give, which Linux never does after boot.
    pub fn random(len: usize) -> Self {
        let mut secret = Self::zeroed(len);
        getrandom::fill(secret.expose_mut()).expect("getrandom(2) cannot fail once seeded");
        secret
    }

    /// Reads `source` to its end, straight into secret memory.
    ///
    /// # Errors
    /// What `source` answers, and `InvalidData` if there are more than `limit` bytes.
    pub fn read_from(mut source: impl Read, limit: usize) -> io::Result<Self> {
        let mut buffer = Self::zeroed(limit.min(4096) + 1);
        let mut filled = 0;
        loop {
            if filled == buffer.len {
                let mut larger = Self::zeroed((buffer.len * 2).min(limit + 1));
                larger.expose_mut()[..filled].copy_from_slice(buffer.expose());
                buffer = larger;
            }
            match source.read(&mut buffer.expose_mut()[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if filled > limit {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("longer than {limit} bytes"),
                ));
            }
        }
        buffer.len = filled;
        Ok(buffer)
    }

    /// The bytes themselves. Every use is a place where the secret may leak.
    pub fn expose(&self) -> &[u8] {
        match &self.pages {
            // SAFETY: the mapping is `pages.len >= self.len` readable, initialised bytes that
            // live as long as `self`, and the borrow of `self` excludes `expose_mut`.
            Some(pages) => unsafe {
                std::slice::from_raw_parts(pages.start.as_ptr().cast::<u8>(), self.len)
            },
            None => &[],
        }
    }

    /// The bytes themselves, to be filled.
    pub fn expose_mut(&mut self) -> &mut [u8] {
        match &mut self.pages {
            // SAFETY: as in `expose`, and the exclusive borrow of `self` makes this the only
            // reference into the mapping.
            Some(pages) => unsafe {
                std::slice::from_raw_parts_mut(pages.start.as_ptr().cast::<u8>(), self.len)
            },
            None => &mut [],
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether two secrets are the same, in time that depends on their lengths alone.
    pub fn same_as(&self, other: &[u8]) -> bool {
        self.expose().ct_eq(other).into()
    }
}

/// The size of the system's pages, as the C library has it: rustix reads it where the kernel put it, which
/// is not there for hosts that valgrind runs.
fn page_size() -> usize {
    // SAFETY: it takes a number and gives one.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).expect("every Linux has pages")
}

/// An anonymous mapping that belongs to one secret.
struct Pages {
    start: NonNull<c_void>,
    len: usize,
}

impl Pages {
    fn map(len: NonZeroUsize) -> Self {
        let len = len.get().next_multiple_of(page_size());
        // SAFETY: a new anonymous private mapping at an address of the kernel's choice touches
        // no memory that exists.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .ok()
        .and_then(NonNull::new)
        .unwrap_or_else(|| {
            std::alloc::handle_alloc_error(
                std::alloc::Layout::array::<u8>(len).expect("a length that mmap was asked for"),
            )
        });
        // SAFETY: all calls name exactly the mapping that was just made.
        let (dump, lock) = unsafe {
            // A child of a host's fork has no business with it, and finds zeros. Where the kernel
            // cannot, the child still never looks.
            let _ = madvise(start.as_ptr(), len, Advice::LinuxWipeOnFork);
            (
                madvise(start.as_ptr(), len, Advice::LinuxDontDump),
                mlock(start.as_ptr(), len),
            )
        };
        if dump.is_err() || lock.is_err() {
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| {
                log::warn!("secret memory cannot be locked: raise RLIMIT_MEMLOCK (LimitMEMLOCK=)");
            });
        }
        Self { start, len }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is `len` writable bytes, and no reference into it outlives the
        // `Secret` that owns it; it is unmapped once, here.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.as_ptr().cast::<u8>(), self.len).zeroize();
            // What cannot be unmapped has been wiped all the same.
            let _ = munmap(self.start.as_ptr(), self.len);
        }
    }
}

// SAFETY: a mapping is owned by one `Pages` and is not bound to the thread that made it.
unsafe impl Send for Pages {}
// SAFETY: shared references to a `Pages` only read.
unsafe impl Sync for Pages {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_in_order() {
        let secret = Secret::concat(&[b"ab", b"", b"cde"]);
        assert_eq!(secret.expose(), b"abcde");
        assert!(secret.same_as(b"abcde") && !secret.same_as(b"abcdf") && !secret.same_as(b"abc"));
    }

    #[test]
    fn reading_stops_at_the_limit() {
        let bytes = vec![7_u8; 10_000];
        let read = |limit| Secret::read_from(bytes.as_slice(), limit);
        assert_eq!(read(10_000).expect("fits").expose(), bytes);
        assert!(read(9_999).is_err());
        assert!(Secret::read_from(&b""[..], 5).expect("empty").is_empty());
    }

    #[test]
    fn secret_pages_are_excluded_from_core_dumps_and_forks_and_locked() {
        let secret = Secret::random(64);
        let address = secret.expose().as_ptr() as usize;
        // The mapping may have been merged with a neighbour of the same kind.
        let contains = |line: &&str| {
            let range = line
                .split(' ')
                .next()
                .and_then(|range| range.split_once('-'));
            range.is_some_and(|(start, end)| {
                let number = |digits| usize::from_str_radix(digits, 16);
                matches!((number(start), number(end)), (Ok(start), Ok(end)) if (start..end).contains(&address))
            })
        };
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let flags = maps
            .lines()
            .skip_while(|line| !contains(line))
            .find(|line| line.starts_with("VmFlags:"))
            .expect("every mapping has its flags");
        for flag in [" dd", " lo", " wf"] {
            assert!(flags.contains(flag), "{flag} in {flags}");
        }
    }
}
