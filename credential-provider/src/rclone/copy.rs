//! rclone's configuration in memory: a folder that is in no file system which anyone can walk
//! through, and is gone with the last process that has it open.
//!
//! rclone writes its configuration beside the old one and renames it, so one anonymous file is not
//! enough. The folder is the root of a ramfs that is mounted nowhere: its pages are not swapped.
//! Mounting takes root; others have a folder of their own in a tmpfs, which is removed at the end.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use strongroom::Secret;

use crate::failure::Failure;
use crate::placeholder;

/// What the configuration is called there.
const NAME: &str = "rclone.conf";

/// A longer configuration is none.
const LONGEST: usize = 16 << 20;

/// The folder, open.
pub(crate) struct Folder {
    open: OwnedFd,
    /// Where it can be found by its name, if it can.
    named: Option<PathBuf>,
}

impl Folder {
    /// A new folder with this configuration.
    pub(crate) fn new(text: &str) -> io::Result<Self> {
        let folder = match mount() {
            Ok(open) => Self { open, named: None },
            Err(_) => Self::named()?,
        };
        // The mount is open as a path alone (O_PATH).
        rustix::fs::chmodat(&folder.open, ".", Mode::RWXU, AtFlags::empty())?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder.open, NAME, flags, Mode::RUSR | Mode::WUSR)?;
        File::from(file).write_all(text.as_bytes())?;
        Ok(folder)
    }

    /// One that another process has made and handed on.
    pub(crate) fn handed_on(open: OwnedFd, named: Option<PathBuf>) -> Self {
        Self { open, named }
    }

    /// Where a process finds the configuration that has inherited this folder.
    pub(crate) fn file(&self) -> PathBuf {
        self.path().join(NAME)
    }

    /// Where such a process finds the folder.
    pub(crate) fn path(&self) -> PathBuf {
        match &self.named {
            Some(folder) => folder.clone(),
            None => PathBuf::from(format!("/proc/self/fd/{}", self.open.as_raw_fd())),
        }
    }

    /// The name that the folder has, if it has one.
    pub(crate) fn name(&self) -> Option<&Path> {
        self.named.as_deref()
    }

    /// What the configuration says now.
    pub(crate) fn read(&self) -> io::Result<Secret> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.open, NAME, flags, Mode::empty()) {
            Ok(file) => file.into(),
            Err(rustix::io::Errno::NOENT) => self.between_two_names()?,
            Err(error) => return Err(error.into()),
        };
        Secret::read_from(file, LONGEST)
    }

    /// rclone gives the old configuration another name first, and then its own to the new one, which
    /// is whole by then. Killed in between, it leaves none of that name.
    fn between_two_names(&self) -> io::Result<File> {
        let mut newest = None;
        for entry in fs::read_dir(format!("/proc/self/fd/{}", self.open.as_raw_fd()))? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().contains(".old") {
                let written = entry.metadata()?.modified()?;
                newest = newest.max(Some((written, entry.path())));
            }
        }
        let (_, file) = newest.ok_or(io::ErrorKind::NotFound)?;
        File::open(file)
    }

    /// Writes the configuration, which nobody else has read yet.
    pub(crate) fn write(&self, text: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.open, NAME, flags, Mode::empty())?;
        File::from(file).write_all(text.as_bytes())
    }

    /// Removes it from where it has a name.
    pub(crate) fn remove(&self) {
        if let Some(folder) = &self.named {
            // Whoever finds it gone has removed it.
            let _ = fs::remove_dir_all(folder);
        }
    }

    fn named() -> io::Result<Self> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let mut failure = io::Error::other("there is no file system in memory to write to");
        for place in runtime.into_iter().chain([PathBuf::from("/dev/shm")]) {
            if !is_in_memory(&place) {
                continue;
            }
            let random = Secret::random(8);
            let number = random.expose().iter().fold(0, |number: u64, byte| {
                number.rotate_left(8) ^ u64::from(*byte)
            });
            let folder = place.join(format!(".strongroom-{number:016x}"));
            let made = fs::DirBuilder::new().mode(0o700).create(&folder);
            match made.and_then(|()| File::open(&folder)) {
                Ok(open) => {
                    return Ok(Self {
                        open: open.into(),
                        named: Some(folder),
                    });
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.open.as_fd()
    }
}

/// A file in memory with this content, sealed against any change.
pub(crate) fn anonymous_file(content: &Secret) -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("strongroom", flags)?);
    file.write_all(content.expose())?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// The text of a configuration that rclone will read; nothing where it is no file, for a pipe can be
/// read only once, which is for rclone to do.
///
/// # Errors
/// For a file with placeholders, of which we could not give rclone a copy.
pub(crate) fn text_of(file: &Path) -> Result<String, Failure> {
    if !fs::metadata(file).is_ok_and(|metadata| metadata.is_file()) {
        return Ok(String::new());
    }
    // Of one that cannot be read rclone will complain.
    let bytes = fs::read(file).unwrap_or_default();
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) if placeholder::is_within(&String::from_utf8_lossy(error.as_bytes())) => {
            Err(Failure::input(format!(
                "{} has placeholders, and is not UTF-8",
                file.display()
            )))
        }
        Err(_) => Ok(String::new()),
    }
}

fn mount() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("ramfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn is_in_memory(folder: &Path) -> bool {
    const TMPFS: i64 = 0x0102_1994;
    rustix::fs::statfs(folder).is_ok_and(|it| it.f_type == TMPFS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_renamed_into_the_folder_is_read() {
        for folder in [Folder::new("[a]\n"), Folder::named()] {
            let folder = folder.expect("a folder in memory");
            let file = folder.file();
            fs::write(file.with_extension("new"), "[b]\n").expect("written");
            fs::rename(file.with_extension("new"), &file).expect("renamed");
            assert_eq!(folder.read().expect("read").expose(), b"[b]\n");
            fs::write(folder.path().join("rclone.conf123"), "[c]\n").expect("written");
            fs::rename(&file, folder.path().join("rclone.conf.old456")).expect("renamed");
            assert_eq!(folder.read().expect("read").expose(), b"[c]\n");
            folder.remove();
            assert!(folder.name().is_none_or(|name| !name.exists()));
        }
    }

    #[test]
    fn a_text_that_is_no_text_has_no_placeholders() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("rclone.conf");
        let text = |bytes: &[u8]| {
            fs::write(&file, bytes).expect("written");
            text_of(&file).map_err(|failure| failure.exit_code())
        };
        assert_eq!(text(b"[a]\n").as_deref(), Ok("[a]\n"));
        assert_eq!(text(b"[\xff]\n").as_deref(), Ok(""));
        let placeholder = b"[\xff]\na = strongroom:v1:11111111-1111-4111-8111-111111111111\n";
        assert_eq!(text(placeholder), Err(127));
        for none in ["/dev/null", "/nonexistent"] {
            assert_eq!(text_of(Path::new(none)).expect("nothing"), "");
        }
    }

    #[test]
    fn an_anonymous_file_is_read_twice_and_changed_never() {
        let file = anonymous_file(&Secret::copy_of(b"a key")).expect("made");
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        for _ in 0..2 {
            assert_eq!(fs::read(&path).expect("read"), b"a key");
        }
        assert!(File::from(file).write_all(b"x").is_err());
    }
}
