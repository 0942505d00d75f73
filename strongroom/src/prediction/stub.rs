//! Unified kernel images: what systemd's stub measures of its own image, and what it hands to the
//! kernel in it (systemd, `src/boot/stub.c`, `src/fundamental/uki.h`). Another release of the stub
//! may measure otherwise, so the image has to say a release that is known here.

use std::ops::RangeInclusive;

use super::pe::Image;

/// Releases whose habits are known: the first one that measures its sections, to the last one that
/// was looked at.
const KNOWN: RangeInclusive<u32> = 252..=257;

/// Sections in the order in which they are measured, and the first release that does so.
const MEASURED: [(&str, u32); 10] = [
    (".linux", 252),
    (".osrel", 252),
    (".cmdline", 252),
    (".initrd", 252),
    (".ucode", 256),
    (".splash", 252),
    (".dtb", 252),
    (".uname", 253),
    (".sbat", 253),
    (".pcrpkey", 252),
];

/// Sections of which the stub chooses, by a profile of the boot menu or by the machine's hardware.
const CHOSEN_FROM: [&str; 4] = [".profile", ".dtbauto", ".hwids", ".efifw"];

/// What the stub wraps into an archive for the initrd, in this order, and the first release that
/// does so.
const WRAPPED: [(&str, &str, u32); 3] = [
    (".pcrsig", "tpm2-pcr-signature.json", 252),
    (".pcrpkey", "tpm2-pcr-public-key.pem", 252),
    (".osrel", "os-release", 257),
];

/// A unified kernel image whose stub is of a known release.
pub(super) struct UnifiedImage<'a> {
    image: Image<'a>,
    release: u32,
}

impl<'a> UnifiedImage<'a> {
    /// # Errors
    /// What is wrong, for a sentence about the file.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let image = Image::parse(bytes)?;
        let magic = image.section(".sdmagic")?.ok_or(
            "it is no unified kernel image with systemd's stub, of which alone is known what it \
             measures",
        )?;
        let release = release(&magic).ok_or("its stub does not say its release")?;
        if !KNOWN.contains(&release) {
            return Err(format!(
                "its stub is of systemd {release}, and what that measures is known of {} to {} \
                 alone",
                KNOWN.start(),
                KNOWN.end()
            ));
        }
        for name in CHOSEN_FROM {
            if image.section(name)?.is_some() {
                return Err(format!(
                    "it has a section {name}, by which the stub chooses what it starts: that \
                     cannot be known beforehand"
                ));
            }
        }
        let unified = Self { image, release };
        unified.linux()?;
        Ok(unified)
    }

    pub(super) fn image(&self) -> &Image<'a> {
        &self.image
    }

    /// The kernel, an image of its own.
    pub(super) fn linux(&self) -> Result<Vec<u8>, String> {
        Ok(self
            .image
            .section(".linux")?
            .ok_or("it has no section .linux")?)
    }

    /// What PCR 11 is extended with: of each section its name, and what it holds.
    pub(super) fn measured(&self) -> Result<Vec<(&'static str, Vec<u8>)>, String> {
        let mut measured = Vec::new();
        for (name, since) in MEASURED {
            if since <= self.release {
                if let Some(content) = self.image.section(name)? {
                    measured.push((name, content));
                }
            }
        }
        Ok(measured)
    }

    /// Whether it has a command line of its own.
    pub(super) fn has_command_line(&self) -> Result<bool, String> {
        Ok(self.image.section(".cmdline")?.is_some())
    }

    /// The command line of its own as the kernel gets it.
    pub(super) fn command_line(&self) -> Result<String, String> {
        let section = self
            .image
            .section(".cmdline")?
            .ok_or("it has no command line of its own")?;
        let text = String::from_utf8(section).map_err(|_| "its command line is no text")?;
        let text = text.split('\0').next().unwrap_or_default();
        let blank = |it: char| it <= ' ' || it == '\x7F';
        let tidied = text.trim_matches(blank).replace(blank, " ");
        if tidied != text && self.release < 254 {
            return Err(
                "its command line has blanks at an end, or control characters, which this stub \
                 does not treat as later ones do: take them away"
                    .to_owned(),
            );
        }
        Ok(tidied)
    }

    /// The initrd as the kernel gets it: what the image has, and what the stub adds.
    pub(super) fn initrd(&self) -> Result<Vec<u8>, String> {
        let mut parts = Vec::new();
        for name in [".ucode", ".initrd"] {
            if name == ".initrd" || self.release >= 256 {
                parts.extend(self.image.section(name)?);
            }
        }
        for (name, file, since) in WRAPPED {
            if since <= self.release {
                if let Some(content) = self.image.section(name)? {
                    parts.push(archive(file, &content)?);
                }
            }
        }
        if parts.is_empty() {
            return Err("it has no initrd".to_owned());
        }
        Ok(joined(parts))
    }
}

/// Initrds one behind the other, as a boot loader hands on several: each begins at a multiple of
/// four. A single one stays as it is.
pub(super) fn joined(mut parts: Vec<Vec<u8>>) -> Vec<u8> {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    for part in &mut parts {
        pad(part);
    }
    parts.concat()
}

/// `#### LoaderInfo: systemd-stub 257.13-1 ####`
fn release(magic: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(magic).ok()?;
    let (_, version) = text.split_once("systemd-stub ")?;
    let digits = version.split(|it: char| !it.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// One file in `.extra` as the stub packs it (`src/boot/cpio.c`, the kernel's
/// `Documentation/driver-api/early-userspace/buffer-format.rst`).
fn archive(file: &str, content: &[u8]) -> Result<Vec<u8>, String> {
    const FOLDER: &str = ".extra";
    const TRAILER: &[u8] = b"070701\
        00000000000000000000000000000000\
        00000001\
        000000000000000000000000000000000000000000000000\
        0000000B00000000TRAILER!!!\0\0\0\0";
    let size = u32::try_from(content.len()).map_err(|_| "a section is too long")?;
    let mut bytes = Vec::new();
    entry(&mut bytes, 1, 0o040_555, 0, FOLDER);
    entry(&mut bytes, 2, 0o100_444, size, &format!("{FOLDER}/{file}"));
    bytes.extend_from_slice(content);
    pad(&mut bytes);
    bytes.extend_from_slice(TRAILER);
    Ok(bytes)
}

fn entry(bytes: &mut Vec<u8>, inode: u32, mode: u32, size: u32, name: &str) {
    bytes.extend_from_slice(
        format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{2:08x}{0:08x}{name}\0",
            0,
            1,
            name.len() + 1,
        )
        .as_bytes(),
    );
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
