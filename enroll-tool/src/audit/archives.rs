//! Configurations that were downloaded: tar archives, gzipped or not, with a database and, where its
//! owner wanted that, the secret. Read as a stream; nothing of them is ever unpacked to a disk.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use strongroom::Secret;
use tar::{Archive, Entry};

use super::databases::{self, Database, Examined};
use super::keys::Keys;
use super::opening::{self, Place};
use crate::truenas::still;

/// How much of a compressed archive is unpacked, in bytes: a small file can pretend to hold anything.
const MOST_UNPACKED: u64 = 256 << 20;

/// How gzip begins (RFC 1952, section 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Where a tar header says that it is one (POSIX, pax).
const USTAR: std::ops::Range<usize> = 257..262;

/// What is in an archive that is a configuration.
#[derive(Default)]
pub(crate) struct Configuration {
    /// The databases.
    pub(crate) databases: Vec<Rc<Database>>,
    /// How many secrets of databases.
    pub(crate) secrets: usize,
    /// Whether a database lacks its end.
    pub(crate) is_cut_off: bool,
}

/// What an entry is, where it matters.
enum Part {
    /// Of so many bytes, as its header says.
    Database(u64),
    Secret,
}

/// Whether a file with this beginning is an archive. What is gzipped must hold one.
pub(crate) fn is_archive(head: &[u8], file: &mut File) -> bool {
    if head.get(USTAR) == Some(b"ustar") {
        return true;
    }
    if !head.starts_with(&GZIP) || file.seek(SeekFrom::Start(0)).is_err() {
        return false;
    }
    let mut unpacked = Vec::with_capacity(512);
    // One that is cut off may still say enough.
    let _ = MultiGzDecoder::new(file)
        .take(512)
        .read_to_end(&mut unpacked);
    unpacked.get(USTAR) == Some(b"ustar")
}

/// Finds the secrets in an archive, and whether it holds a configuration at all.
///
/// # Errors
/// In words, why it could not be read to its end; what came before has been taken.
pub(crate) fn find_secrets(place: &Place, keys: &mut Keys) -> (bool, Result<(), String>) {
    let mut is_configuration = false;
    let read = each(place, |part, name, entry| {
        is_configuration = true;
        if let Part::Secret = part {
            keys.add(place.with(name), Secret::read_from(entry, Keys::LEN)?);
        }
        Ok(())
    });
    (is_configuration, read)
}

/// Looks at the databases in an archive.
///
/// # Errors
/// In words, why it could not be read.
pub(crate) fn examine(
    place: &Place,
    examined: &mut Examined,
    keys: &mut Keys,
) -> Result<Configuration, String> {
    let mut found = Configuration::default();
    let read = each(place, |part, _, entry| {
        match part {
            Part::Secret => found.secrets += 1,
            Part::Database(len) => {
                let bytes = opening::read_whole(entry, databases::LONGEST)?;
                found.is_cut_off |= (bytes.len() as u64) < len;
                found.databases.extend(examined.bytes(&bytes, None, keys));
            }
        }
        Ok(())
    });
    // That it was cut off has been said already, and what is before that lies there all the same.
    if found.databases.is_empty() && found.secrets == 0 {
        read?;
    }
    Ok(found)
}

/// Calls `visit` with each entry that matters.
fn each(
    place: &Place,
    visit: impl FnMut(Part, &str, &mut dyn Read) -> io::Result<()>,
) -> Result<(), String> {
    let open = || -> io::Result<()> {
        let Some(mut file) = opening::open(&place.path)? else {
            return Ok(());
        };
        let mut head = [0; 2];
        let is_gzip = file.read(&mut head)? == 2 && head == GZIP;
        file.seek(SeekFrom::Start(0))?;
        if is_gzip {
            let unpacked = Bounded {
                source: MultiGzDecoder::new(file),
                left: MOST_UNPACKED,
            };
            visit_all(Archive::new(unpacked).entries()?, visit)
        } else {
            visit_all(Archive::new(file).entries_with_seek()?, visit)
        }
    };
    open().map_err(|error| error.to_string())
}

fn visit_all<R: Read>(
    entries: tar::Entries<'_, R>,
    mut visit: impl FnMut(Part, &str, &mut dyn Read) -> io::Result<()>,
) -> io::Result<()> {
    // Raw: a name of any length would be read into memory. Those of a configuration are short.
    for entry in entries.raw(true) {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = name_of(&entry);
        let file_name = Path::new(&name)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        if file_name.starts_with(SECRET_NAME) && entry.size() == Keys::LEN as u64 {
            visit(Part::Secret, &name, &mut entry)?;
            continue;
        }
        let mut head = [0; still::MAGIC.len()];
        if entry.size() >= head.len() as u64 {
            entry.read_exact(&mut head)?;
            if head == *still::MAGIC {
                visit(
                    Part::Database(entry.size()),
                    &name,
                    &mut head.chain(&mut entry),
                )?;
            }
        }
    }
    Ok(())
}

/// What a secret's file is called, or begins with.
pub(crate) const SECRET_NAME: &str = "pwenc_secret";

fn name_of<R: Read>(entry: &Entry<'_, R>) -> String {
    String::from_utf8_lossy(&entry.path_bytes()).into_owned()
}

/// A source that is not read for ever, and says so.
struct Bounded<R> {
    source: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("unpacked it is longer than {} MiB", MOST_UNPACKED >> 20),
            ));
        }
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let read = self.source.read(&mut buffer[..most])?;
        self.left -= read as u64;
        Ok(read)
    }
}
