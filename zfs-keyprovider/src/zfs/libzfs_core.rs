//! ZFS's stable library, found at run time: one build serves every release, and runs where no ZFS
//! is installed.
#![allow(unsafe_code, reason = "a C library has no safe interface")]

use std::ffi::{CString, c_char, c_int, c_uint};
use std::io;

use libloading::Library;
use strongroom::Secret;

/// The name that every release since 0.7 has had.
const NAME: &str = "libzfs_core.so.3";

/// `int lzc_load_key(const char *fsname, boolean_t noop, uint8_t *wkeydata, uint_t wkeylen)`
type LoadKey = unsafe extern "C" fn(*const c_char, c_int, *mut u8, c_uint) -> c_int;

/// The library, initialised. Its functions may be called from several threads at once, as it says
/// of itself.
pub(crate) struct LibZfsCore {
    load_key: LoadKey,
    fini: unsafe extern "C" fn(),
    /// Last: the functions are in it.
    _library: Library,
}

impl LibZfsCore {
    /// Loads and initialises the library, which opens `/dev/zfs`.
    ///
    /// # Errors
    /// Why it cannot be had, in words.
    pub(super) fn open() -> Result<Self, String> {
        // SAFETY: loading runs the library's initialisers. It is ZFS's own, found as the system's
        // loader finds it, and has none that ask anything of their process.
        let library = unsafe { Library::new(NAME) }.map_err(|error| error.to_string())?;
        // SAFETY: the types are those of libzfs_core.h, where boolean_t is an enumeration, which
        // is an int on every platform that ZFS runs on. The functions are used as long as the
        // library lives: `Self` owns it.
        let (init, fini, load_key) = unsafe {
            (
                *library
                    .get::<unsafe extern "C" fn() -> c_int>(b"libzfs_core_init\0")
                    .map_err(|error| error.to_string())?,
                *library
                    .get::<unsafe extern "C" fn()>(b"libzfs_core_fini\0")
                    .map_err(|error| error.to_string())?,
                *library
                    .get::<LoadKey>(b"lzc_load_key\0")
                    .map_err(|error| error.to_string())?,
            )
        };
        // SAFETY: it takes nothing, and counts how often it was called.
        match unsafe { init() } {
            0 => Ok(Self {
                load_key,
                fini,
                _library: library,
            }),
            errno => Err(format!(
                "{NAME} cannot be initialised: {}",
                io::Error::from_raw_os_error(errno)
            )),
        }
    }

    /// Gives the kernel a dataset's wrapping key, or with `noop` asks it whether it is the right
    /// one.
    pub(super) fn load_key(&self, dataset: &str, noop: bool, key: &mut Secret) -> io::Result<()> {
        let name = CString::new(dataset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let bytes = key.expose_mut();
        let len = c_uint::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a name that ends in NUL, and as many bytes as are said; both are read, during
        // the call alone. `Self` shows that the library was initialised.
        match unsafe { (self.load_key)(name.as_ptr(), c_int::from(noop), bytes.as_mut_ptr(), len) }
        {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl Drop for LibZfsCore {
    fn drop(&mut self) {
        // SAFETY: once for the one `init`, and the library is still there.
        unsafe { (self.fini)() }
    }
}
