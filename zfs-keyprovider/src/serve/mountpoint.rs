//! The folder that the files appear in: what must be true of it before, and its mount.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use strongroom::error::Error;

/// The type that our mounts are known by. FUSE takes anything behind the full stop.
const TYPE: &str = "fuse.strongroom";

const DEVICE: &str = "/dev/fuse";

/// How long a server that is there may take to say so.
const LIVENESS: Duration = Duration::from_secs(2);

/// A folder that can be mounted on, with nobody else about to.
pub(super) struct Mountpoint {
    path: PathBuf,
    lock: File,
    /// Until it is mounted.
    _above: File,
}

/// A mount of ours. When it is dropped it is unmounted at once, whoever has a file of it open or
/// waits for a key.
pub(super) struct Mounted {
    path: PathBuf,
    /// Which file system it is, as the kernel numbers them.
    number: Option<String>,
    /// Another server that is started meanwhile finds it taken.
    _lock: File,
}

impl Mountpoint {
    /// Looks at a folder, makes it if it alone is missing, and takes over what a server that was
    /// killed has left there.
    ///
    /// # Errors
    /// [`Error::Input`] for what cannot be mounted on, in words.
    pub(super) fn prepare(given: &Path) -> Result<Self, Error> {
        let refuse = |reason: &str| Error::input(format!("mountpoint {}", given.display()), reason);
        if !rustix::process::geteuid().is_root() {
            return Err(refuse("only root can mount"));
        }
        let path = real_path(given).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => refuse("the folder that it is to be in does not exist"),
            _ => refuse(&error.to_string()),
        })?;
        // Two that start at once must not take over one another's mount: one after the other.
        let above = lock_above(&path).map_err(|error| refuse(&error.to_string()))?;
        while let Some(mount) = Mount::at(&path).map_err(|error| refuse(&error.to_string()))? {
            if mount.kind != TYPE {
                let kind = mount.kind;
                return Err(refuse(&format!(
                    "it is busy: a file system of type {kind} is mounted there"
                )));
            }
            if is_served(&path) {
                return Err(refuse(
                    "it is busy: another zfs-keyprovider serves it; stop that first",
                ));
            }
            log::warn!(
                "{} is left over from a server that was killed; it is taken over",
                path.display()
            );
            rustix::mount::unmount(&path, UnmountFlags::DETACH)
                .map_err(|error| refuse(&format!("what is left over stays: {error}")))?;
        }
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => log::info!("made the folder {}", path.display()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(refuse(&error.to_string())),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR => refuse("it is not a folder"),
            other => refuse(&io::Error::from(other).to_string()),
        })?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| refuse("it is busy: another zfs-keyprovider is about to serve it"))?;
        let is_empty = fs::read_dir(&path)
            .map(|mut entries| entries.next().is_none())
            .map_err(|error| refuse(&error.to_string()))?;
        if !is_empty {
            return Err(refuse(
                "it is not empty, and what is in it would be hidden; name an empty folder",
            ));
        }
        Ok(Self {
            path,
            lock: lock.into(),
            _above: above,
        })
    }

    /// Mounts, and gives the descriptor on which the kernel asks.
    ///
    /// # Errors
    /// [`Error::Input`] without FUSE; [`Error::Io`].
    pub(super) fn mount(self) -> Result<(Mounted, OwnedFd), Error> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(|error| {
            let reason = format!("{}; FUSE is needed (modprobe fuse)", io::Error::from(error));
            Error::input(DEVICE, reason)
        })?;
        // Without allow_other, the kernel lets in nobody but processes that are root's entirely.
        let options = format!(
            "fd={},rootmode=40500,user_id=0,group_id=0,default_permissions",
            device.as_raw_fd()
        );
        let options = CString::new(options).unwrap_or_default();
        let flags =
            MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::RDONLY;
        rustix::mount::mount("strongroom", &self.path, TYPE, flags, options.as_c_str())
            .map_err(|error| Error::io("mount on", &self.path)(error.into()))?;
        let number = Mount::at(&self.path).ok().flatten().map(|it| it.number);
        let mounted = Mounted {
            path: self.path,
            number,
            _lock: self.lock,
        };
        Ok((mounted, device))
    }
}

impl Mounted {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Somebody may have unmounted it, and mounted something else since.
        let is_ours = |mount: &Mount| {
            mount.kind == TYPE && self.number.as_ref().is_none_or(|it| *it == mount.number)
        };
        if !matches!(Mount::at(&self.path), Ok(Some(mount)) if is_ours(&mount)) {
            return;
        }
        // FORCE ends the wait of who waits, which DETACH would let go on.
        let flags = UnmountFlags::FORCE | UnmountFlags::DETACH;
        if let Err(error) = rustix::mount::unmount(&self.path, flags) {
            log::error!(
                "{} cannot be unmounted: {}",
                self.path.display(),
                io::Error::from(error)
            );
        }
    }
}

/// Waits until nobody else prepares a mountpoint in the same folder.
fn lock_above(path: &Path) -> io::Result<File> {
    let folder = File::open(path.parent().unwrap_or(path))?;
    flock(&folder, FlockOperation::LockExclusive)?;
    Ok(folder)
}

/// The path without links and detours, even where what is mounted there is dead.
fn real_path(given: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(given)?;
    match path.canonicalize() {
        Ok(real) => Ok(real),
        Err(error) if is_disconnected(&error) || error.kind() == io::ErrorKind::NotFound => {
            match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
                _ => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// Whether a server answers for what is mounted there. One that is stopped does not answer, and is
/// there all the same.
fn is_served(path: &Path) -> bool {
    let (sender, answer) = mpsc::channel();
    let path = path.to_owned();
    thread::spawn(move || {
        // Twice: a server that was just ending breaks off what it was asked.
        let looked = fs::metadata(&path).or_else(|_| fs::metadata(&path));
        let _ = sender.send(looked);
    });
    !matches!(answer.recv_timeout(LIVENESS), Ok(Err(error)) if is_disconnected(&error))
}

/// ENOTCONN, "Transport endpoint is not connected": the process behind a FUSE mount is gone.
fn is_disconnected(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotConnected
}

/// A line of /proc/self/mountinfo (proc_pid_mountinfo(5)), as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    number: String,
    kind: String,
}

impl Mount {
    /// What is mounted at a path, on top of all else that may be.
    fn at(path: &Path) -> io::Result<Option<Self>> {
        let mounts = fs::read("/proc/self/mountinfo")?;
        Ok(Self::among(&String::from_utf8_lossy(&mounts), path))
    }

    fn among(mounts: &str, path: &Path) -> Option<Self> {
        mounts.lines().rev().find_map(|line| {
            let (place, what) = line.split_once(" - ")?;
            let mut place = place.split(' ').skip(2);
            let number = place.next()?.to_owned();
            if Path::new(&plain(place.nth(1)?)) != path {
                return None;
            }
            let kind = what.split(' ').next()?.to_owned();
            Some(Self { number, kind })
        })
    }
}

/// A path as it is, where mountinfo writes blanks and backslashes as octal numbers.
fn plain(escaped: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(escaped.to_owned(), |plain, (code, character)| {
        plain.replace(code, character)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_last_at_a_path_counts() {
        let mounts = "\
22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /run/zfs-keys rw - tmpfs x rw
31 30 0:41 / /run/zfs-keys ro,nosuid - fuse.strongroom strongroom ro
32 22 0:42 /sub /run/my\\040keys rw - tmpfs x rw
";
        let at = |path| Mount::among(mounts, Path::new(path));
        let found = at("/run/zfs-keys").expect("it is mounted");
        assert_eq!((found.number.as_str(), found.kind.as_str()), ("0:41", TYPE));
        assert_eq!(at("/run/my keys").expect("it is mounted").kind, "tmpfs");
        assert_eq!(at("/run"), None);
    }
}
