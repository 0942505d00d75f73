//! PE images (Microsoft's PE format, and the UEFI Specification, section 2.1): their sections, and
//! the digest by which firmware measures and verifies them.

use sha2::{Digest, Sha256};

/// More bytes of nothing behind a section's content than any linker adds.
const MOST_PADDING: usize = 16 << 20;

/// An image whose headers and sections lie within its file.
pub(super) struct Image<'a> {
    bytes: &'a [u8],
    sections: Vec<Section>,
    /// The header's two places that a signature changes: the checksum, and where the signature is.
    checksum: usize,
    certificates_entry: usize,
    headers: usize,
    /// Where the signature is, and how long.
    certificates: Option<(usize, usize)>,
}

struct Section {
    name: [u8; 8],
    virtual_size: usize,
    raw_at: usize,
    raw_size: usize,
}

impl<'a> Image<'a> {
    /// # Errors
    /// What is wrong, for a sentence about the file.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, &'static str> {
        parse(bytes).ok_or("it is no PE image, or cut short")
    }

    /// The Authenticode digest: what firmware extends PCR 4 with. ("Windows Authenticode Portable
    /// Executable Signature Format", Calculating the PE Image Hash.)
    pub(super) fn authenticode(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(&self.bytes[..self.checksum]);
        hash.update(&self.bytes[self.checksum + 4..self.certificates_entry]);
        hash.update(&self.bytes[self.certificates_entry + 8..self.headers]);
        let mut hashed = self.headers;
        let mut sections: Vec<&Section> =
            self.sections.iter().filter(|it| it.raw_size > 0).collect();
        sections.sort_by_key(|section| section.raw_at);
        for section in sections {
            hash.update(self.raw(section));
            hashed += section.raw_size;
        }
        // What lies behind the sections, but for the signature, which is last of all.
        let signature = self.certificates.map_or(0, |(_, length)| length);
        let end = self.bytes.len() - signature;
        if hashed < end {
            hash.update(&self.bytes[hashed..end]);
        }
        hash.finalize().into()
    }

    /// What signs it: empty where nothing does.
    pub(super) fn certificates(&self) -> &'a [u8] {
        self.certificates
            .map_or(&[], |(at, length)| &self.bytes[at..at + length])
    }

    /// A section as it is in memory, or `None` where there is none of this name or an empty one.
    ///
    /// # Errors
    /// What is wrong, for one that is there twice or is far longer than its content.
    pub(super) fn section(&self, name: &str) -> Result<Option<Vec<u8>>, &'static str> {
        let mut found = self.sections.iter().filter(|it| it.is_named(name));
        let Some(section) = found.next() else {
            return Ok(None);
        };
        if found.next().is_some() {
            return Err("it has a section twice, as images for several machines or profiles have");
        }
        let raw = self.raw(section);
        let mut content = raw[..raw.len().min(section.virtual_size)].to_vec();
        if section.virtual_size - content.len() > MOST_PADDING {
            return Err("a section is far longer than its content");
        }
        content.resize(section.virtual_size, 0);
        Ok((!content.is_empty()).then_some(content))
    }

    fn raw(&self, section: &Section) -> &'a [u8] {
        &self.bytes[section.raw_at..section.raw_at + section.raw_size]
    }
}

impl Section {
    fn is_named(&self, name: &str) -> bool {
        let end = self.name.iter().position(|byte| *byte == 0);
        &self.name[..end.unwrap_or(8)] == name.as_bytes()
    }
}

fn parse(bytes: &[u8]) -> Option<Image<'_>> {
    (bytes.get(..2)? == b"MZ").then_some(())?;
    let header = usize_at(bytes, 0x3C)?;
    (bytes.get(header..header.checked_add(4)?)? == b"PE\0\0").then_some(())?;
    let count = usize::from(u16_at(bytes, header + 6)?);
    let optional_size = usize::from(u16_at(bytes, header + 20)?);
    let optional = header + 24;
    // Directories come behind fields of two lengths: PE32, and PE32+ for 64 bits.
    let directories = match u16_at(bytes, optional)? {
        0x10B => optional + 96,
        0x20B => optional + 112,
        _ => return None,
    };
    // The signature is the fifth directory.
    let certificates_entry = directories + 4 * 8;
    (usize_at(bytes, directories - 4)? > 4).then_some(())?;
    (certificates_entry + 8 <= optional + optional_size).then_some(())?;
    let headers = usize_at(bytes, optional + 60)?;
    let table = optional + optional_size;
    (table + 40 * count <= headers && headers <= bytes.len()).then_some(())?;
    let sections = (0..count)
        .map(|index| section(bytes, table + 40 * index))
        .collect::<Option<Vec<_>>>()?;
    let certificates = match (
        usize_at(bytes, certificates_entry)?,
        usize_at(bytes, certificates_entry + 4)?,
    ) {
        (_, 0) => None,
        // Anything behind it would be measured in another order than it lies.
        (at, length) if at >= headers && at.checked_add(length)? == bytes.len() => {
            Some((at, length))
        }
        _ => return None,
    };
    Some(Image {
        bytes,
        sections,
        checksum: optional + 64,
        certificates_entry,
        headers,
        certificates,
    })
}

fn section(bytes: &[u8], at: usize) -> Option<Section> {
    let section = Section {
        name: bytes.get(at..at + 8)?.try_into().ok()?,
        virtual_size: usize_at(bytes, at + 8)?,
        raw_size: usize_at(bytes, at + 16)?,
        raw_at: usize_at(bytes, at + 20)?,
    };
    let end = section.raw_at.checked_add(section.raw_size)?;
    (end <= bytes.len()).then_some(section)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(field.try_into().ok()?))
}

fn usize_at(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(field.try_into().ok()?)).ok()
}
