//! EFI variables as they are measured: UEFI_VARIABLE_DATA (PC Client Platform Firmware Profile,
//! section 10.4.2.6).

use super::reader::Reader;
use super::text;

/// A variable, and what it held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// The vendor's GUID, as it is in memory.
    pub vendor: [u8; 16],
    /// Its name, such as `SecureBoot` or `dbx`.
    pub name: String,
    /// What it held. Of an authority, the one entry of it.
    pub data: Vec<u8>,
}

impl Variable {
    /// `None` where the lengths do not add up to the event's.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let vendor = reader.array().ok()?;
        let (characters, length) = (reader.u64().ok()?, reader.u64().ok()?);
        let name = reader.take_counted(characters.checked_mul(2)?).ok()?;
        let data = reader.take_counted(length).ok()?;
        reader.is_empty().then(|| Self {
            vendor,
            name: text::utf16(name),
            data: data.to_vec(),
        })
    }

    /// Whether shim measured it, into PCR 7, of which firmware knows nothing.
    pub fn is_shims(&self) -> bool {
        let name = self.name.as_str();
        name == "Shim" || name == "SbatLevel" || name.starts_with("Mok") || name == "vendor_db"
    }

    /// Of `SecureBoot`: whether it says that it is on.
    pub fn is_on(&self) -> bool {
        self.data == [1]
    }
}
