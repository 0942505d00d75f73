//! What the running system says of itself, below a root folder: firmware's variables, the kernel's
//! command line, mounts, swap, the TPM's driver. All of it is the kernel's word in files.

use std::fs;
use std::path::{Path, PathBuf};

/// GUID of the UEFI Specification's own variables (section 3.3, EFI_GLOBAL_VARIABLE).
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// How often a device may lie on another: LVM on LUKS on RAID on partitions is five.
const DEEPEST: usize = 8;

/// A running system, by its root folder.
#[derive(Clone, Debug)]
pub struct System {
    root: PathBuf,
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether firmware checks what it starts.
    pub secure_boot: SecureBoot,
    /// The kernel's command line.
    pub command_line: Option<String>,
    /// Where the root file system is.
    pub root: Option<Storage>,
    /// Where each swap space is.
    pub swaps: Vec<Storage>,
    /// The kernel's driver of its first TPM, such as `tpm_crb`; `None` without such a TPM.
    pub tpm_driver: Option<String>,
}

/// UEFI Secure Boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecureBoot {
    /// Firmware starts only what a key of its database has signed.
    On,
    /// It starts anything.
    Off,
    /// The machine was not started by UEFI, or hides it.
    NoUefi,
}

/// A place on which files or memory pages come to lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// The device, file or dataset, as the kernel names it.
    pub source: String,
    /// The file system's type; for swap, `partition` or `file`.
    pub kind: String,
    /// Whether a thief can read it, and whether a change would be seen.
    pub protection: Protection,
}

/// What stands between a disk and who has it in their hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// dm-crypt.
    Encrypted,
    /// dm-verity or dm-integrity.
    Authenticated,
    /// Nothing.
    Open,
    /// It is in memory alone.
    Memory,
    /// A ZFS dataset or volume, of which ZFS must be asked.
    Zfs,
    /// It cannot be seen from here.
    Unknown,
}

impl System {
    /// The one that this process runs on.
    pub fn here() -> Self {
        Self::below("/")
    }

    /// One whose `/proc`, `/sys` and `/run` are below this folder.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// All that can be read of it. What cannot be read is unknown, and fails nothing.
    pub fn facts(&self) -> Facts {
        let mounts = self.mounts();
        Facts {
            secure_boot: self.secure_boot(),
            command_line: self.text("proc/cmdline").map(|line| line.trim().to_owned()),
            root: mounts
                .iter()
                .rev()
                .find(|mount| mount.at == Path::new("/"))
                .map(|mount| self.storage(mount)),
            swaps: self.swaps(&mounts),
            tpm_driver: self.tpm_driver(),
        }
    }

    fn secure_boot(&self) -> SecureBoot {
        let variables = self.root.join("sys/firmware/efi/efivars");
        // Four bytes of attributes, then the variable.
        match fs::read(variables.join(format!("SecureBoot-{GLOBAL}"))) {
            Ok(bytes) if bytes.get(4..) == Some(&[1]) => SecureBoot::On,
            Ok(_) => SecureBoot::Off,
            Err(_) if self.root.join("sys/firmware/efi").exists() => SecureBoot::Off,
            Err(_) => SecureBoot::NoUefi,
        }
    }

    fn tpm_driver(&self) -> Option<String> {
        let device = self.root.join("sys/class/tpm/tpm0");
        device.exists().then(|| {
            fs::read_link(device.join("device/driver"))
                .ok()
                .and_then(|driver| Some(driver.file_name()?.to_string_lossy().into_owned()))
                .unwrap_or_default()
        })
    }

    fn mounts(&self) -> Vec<Mount> {
        let text = self.text("proc/self/mounts").unwrap_or_default();
        text.lines().filter_map(Mount::parse).collect()
    }

    fn storage(&self, mount: &Mount) -> Storage {
        let protection = match mount.kind.as_str() {
            "zfs" => Protection::Zfs,
            "tmpfs" | "ramfs" | "rootfs" => Protection::Memory,
            _ => self.device(Path::new(&mount.source)),
        };
        Storage {
            source: mount.source.clone(),
            kind: mount.kind.clone(),
            protection,
        }
    }

    fn swaps(&self, mounts: &[Mount]) -> Vec<Storage> {
        let text = self.text("proc/swaps").unwrap_or_default();
        text.lines()
            .skip(1)
            .filter_map(|line| {
                let mut fields = line.split_whitespace();
                let (source, kind) = (unescape(fields.next()?), fields.next()?.to_owned());
                let place = Path::new(&source);
                let protection = if kind == "file" {
                    mounts
                        .iter()
                        .filter(|mount| place.starts_with(&mount.at))
                        .max_by_key(|mount| mount.at.components().count())
                        .map_or(Protection::Unknown, |mount| self.storage(mount).protection)
                } else {
                    self.device(place)
                };
                Some(Storage {
                    source,
                    kind,
                    protection,
                })
            })
            .collect()
    }

    /// What a block device lies on, by the kernel's own name for it.
    fn device(&self, path: &Path) -> Protection {
        let Some(name) = path.file_name().map(|name| name.to_string_lossy()) else {
            return Protection::Unknown;
        };
        if !path.starts_with("/dev") {
            return Protection::Unknown;
        }
        if path.starts_with("/dev/mapper") {
            return match self.mapped(&name) {
                Some(name) => self.block(&name, DEEPEST),
                None => Protection::Unknown,
            };
        }
        self.block(&name, DEEPEST)
    }

    /// The kernel's name of a device of the device mapper.
    fn mapped(&self, name: &str) -> Option<String> {
        let devices = fs::read_dir(self.root.join("sys/class/block")).ok()?;
        devices
            .flatten()
            .find(|device| {
                fs::read_to_string(device.path().join("dm/name"))
                    .is_ok_and(|found| found.trim() == name)
            })
            .map(|device| device.file_name().to_string_lossy().into_owned())
    }

    fn block(&self, name: &str, depth: usize) -> Protection {
        let device = self.root.join("sys/class/block").join(name);
        if name.starts_with("zram") {
            return Protection::Memory;
        }
        // ZFS volumes.
        if name.starts_with("zd") {
            return Protection::Zfs;
        }
        if !device.exists() {
            return Protection::Unknown;
        }
        let uuid = fs::read_to_string(device.join("dm/uuid")).unwrap_or_default();
        if uuid.starts_with("CRYPT-VERITY-") || uuid.starts_with("CRYPT-INTEGRITY-") {
            return Protection::Authenticated;
        }
        if uuid.starts_with("CRYPT-") {
            return Protection::Encrypted;
        }
        // As well as the worst of what it lies on.
        let below: Vec<_> = fs::read_dir(device.join("slaves"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|slave| slave.file_name().to_string_lossy().into_owned())
            .collect();
        let Some(depth) = depth.checked_sub(1) else {
            return Protection::Unknown;
        };
        let worst = |protection: &Protection| match protection {
            Protection::Open => 0,
            Protection::Unknown => 1,
            Protection::Zfs => 2,
            Protection::Authenticated => 3,
            Protection::Encrypted => 4,
            Protection::Memory => 5,
        };
        below
            .iter()
            .map(|slave| self.block(slave, depth))
            .min_by_key(worst)
            .unwrap_or(Protection::Open)
    }

    fn text(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.root.join(file)).ok()
    }
}

/// A line of `/proc/self/mounts` (fstab(5)).
struct Mount {
    source: String,
    at: PathBuf,
    kind: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        Some(Self {
            source: unescape(fields.next()?),
            at: unescape(fields.next()?).into(),
            kind: fields.next()?.to_owned(),
        })
    }
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .into_iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    struct Tree(TempDir);

    impl Tree {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a folder"))
        }

        fn with(self, file: &str, content: impl AsRef<[u8]>) -> Self {
            let file = self.0.path().join(file);
            fs::create_dir_all(file.parent().expect("below")).expect("made");
            fs::write(file, content).expect("written");
            self
        }

        fn facts(&self) -> Facts {
            System::below(self.0.path()).facts()
        }
    }

    const VARIABLE: &str =
        "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

    #[test]
    fn secure_boot_is_what_the_variable_says() {
        assert_eq!(Tree::new().facts().secure_boot, SecureBoot::NoUefi);
        for (bytes, state) in [
            ([6, 0, 0, 0, 1], SecureBoot::On),
            ([6, 0, 0, 0, 0], SecureBoot::Off),
            ([1, 0, 0, 0, 2], SecureBoot::Off),
        ] {
            assert_eq!(Tree::new().with(VARIABLE, bytes).facts().secure_boot, state);
        }
        let hidden = Tree::new().with("sys/firmware/efi/fw_platform_size", "64");
        assert_eq!(hidden.facts().secure_boot, SecureBoot::Off);
    }

    #[test]
    fn a_root_is_as_good_as_what_it_lies_on() {
        let mounted = |source: &str, kind: &str| {
            Tree::new()
                .with(
                    "proc/self/mounts",
                    format!(
                        "rootfs / rootfs rw 0 0\n{source} / {kind} rw 0 0\nproc /proc proc rw 0 0\n"
                    ),
                )
                .with("sys/class/block/sda2/partition", "2")
                .with("sys/class/block/dm-0/dm/name", "luks\n")
                .with("sys/class/block/dm-0/dm/uuid", "CRYPT-LUKS2-0123-luks\n")
                .with("sys/class/block/dm-0/slaves/sda2/partition", "2")
                .with("sys/class/block/dm-1/dm/name", "vg-root\n")
                .with("sys/class/block/dm-1/dm/uuid", "LVM-0123\n")
                .with("sys/class/block/dm-1/slaves/dm-0/size", "")
                .with("sys/class/block/dm-2/dm/name", "vg-mixed\n")
                .with("sys/class/block/dm-2/dm/uuid", "LVM-0124\n")
                .with("sys/class/block/dm-2/slaves/dm-0/size", "")
                .with("sys/class/block/dm-2/slaves/sda2/size", "")
                .with("sys/class/block/dm-3/dm/name", "usr\n")
                .with("sys/class/block/dm-3/dm/uuid", "CRYPT-VERITY-0125-usr\n")
                .facts()
                .root
                .expect("there is one")
                .protection
        };
        assert_eq!(mounted("/dev/sda2", "ext4"), Protection::Open);
        assert_eq!(mounted("/dev/mapper/luks", "ext4"), Protection::Encrypted);
        assert_eq!(mounted("/dev/mapper/vg-root", "xfs"), Protection::Encrypted);
        assert_eq!(mounted("/dev/mapper/vg-mixed", "xfs"), Protection::Open);
        assert_eq!(mounted("/dev/dm-3", "erofs"), Protection::Authenticated);
        assert_eq!(mounted("rpool/ROOT/debian", "zfs"), Protection::Zfs);
        assert_eq!(mounted("overlay", "overlay"), Protection::Unknown);
        assert_eq!(mounted("/dev/mapper/gone", "ext4"), Protection::Unknown);
        assert_eq!(mounted("tmpfs", "tmpfs"), Protection::Memory);
    }

    #[test]
    fn devices_that_lie_on_each_other_in_a_ring_are_unknown() {
        let tree = Tree::new()
            .with("proc/self/mounts", "/dev/dm-0 / ext4 rw 0 0\n")
            .with("sys/class/block/dm-0/slaves/dm-1/size", "")
            .with("sys/class/block/dm-1/slaves/dm-0/size", "");
        let root = tree.facts().root.expect("there is one");
        assert_eq!(root.protection, Protection::Unknown);
    }

    #[test]
    fn swap_is_as_good_as_what_it_lies_on() {
        let tree = Tree::new()
            .with(
                "proc/swaps",
                "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                 /dev/zram0                              partition\t1\t\t0\t\t100\n\
                 /dev/sda3                               partition\t1\t\t0\t\t-2\n\
                 /dev/zd16                               partition\t1\t\t0\t\t-3\n\
                 /data/swap\\040file                      file\t1\t\t0\t\t-4\n",
            )
            .with(
                "proc/self/mounts",
                "/dev/sda2 / ext4 rw 0 0\n/dev/dm-0 /data ext4 rw 0 0\n",
            )
            .with("sys/class/block/sda2/size", "")
            .with("sys/class/block/sda3/size", "")
            .with("sys/class/block/dm-0/dm/uuid", "CRYPT-PLAIN-data\n");
        let swaps: Vec<_> = tree
            .facts()
            .swaps
            .into_iter()
            .map(|swap| (swap.source, swap.protection))
            .collect();
        let expected = [
            ("/dev/zram0", Protection::Memory),
            ("/dev/sda3", Protection::Open),
            ("/dev/zd16", Protection::Zfs),
            ("/data/swap file", Protection::Encrypted),
        ];
        assert_eq!(
            swaps,
            expected.map(|(source, protection)| (source.to_owned(), protection))
        );
    }

    #[test]
    fn the_tpms_driver_is_named() {
        assert_eq!(Tree::new().facts().tpm_driver, None);
        let tree = Tree::new().with("sys/class/tpm/tpm0/device/uevent", "");
        assert_eq!(tree.facts().tpm_driver.as_deref(), Some(""));
        let driver = tree.0.path().join("sys/class/tpm/tpm0/device/driver");
        symlink("../../bus/spi/drivers/tpm_tis_spi", driver).expect("linked");
        assert_eq!(tree.facts().tpm_driver.as_deref(), Some("tpm_tis_spi"));
    }
}
