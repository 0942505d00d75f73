//! Where firmware took a program from: UEFI_IMAGE_LOAD_EVENT (PC Client Platform Firmware Profile,
//! section 10.4.2.3) and the device path in it (UEFI Specification, section 10.3).

use super::reader::{Malformed, Reader};
use super::text;

/// Types of nodes (UEFI Specification, section 10.3.1).
const MEDIA: u8 = 4;
const END: u8 = 0x7F;

/// Subtype of MEDIA: a file on a file system. One in the firmware's own has another.
const FILE_PATH: u8 = 4;

/// The file of a program's event: its path on its file system, with backslashes. `None` for a part
/// of the firmware, and where the lengths do not add up.
pub(super) fn of_image_load(bytes: &[u8]) -> Option<String> {
    let mut reader = Reader::new(bytes);
    let (_place, _length, _link_time) = (reader.u64(), reader.u64(), reader.u64());
    let length = reader.u64().ok()?;
    let path = reader.take_counted(length).ok()?;
    reader.is_empty().then_some(())?;
    file(path).ok()?
}

fn file(bytes: &[u8]) -> Result<Option<String>, Malformed> {
    const HEADER: u16 = 4;
    let mut reader = Reader::new(bytes);
    let mut file: Option<String> = None;
    while !reader.is_empty() {
        let here = reader.clone();
        let (kind, subtype, length) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let length = length
            .checked_sub(HEADER)
            .ok_or_else(|| here.malformed("a node is shorter than its header"))?;
        let data = reader.take(length.into())?;
        match (kind, subtype) {
            (END, _) => break,
            // A path may be in several pieces, each of which may begin with a backslash.
            (MEDIA, FILE_PATH) => {
                let piece = text::utf16(data);
                let whole = file.get_or_insert_default();
                if !whole.is_empty() && !whole.ends_with('\\') && !piece.starts_with('\\') {
                    whole.push('\\');
                }
                whole.push_str(&piece);
            }
            _ => {}
        }
    }
    Ok(file)
}
