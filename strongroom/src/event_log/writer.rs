//! Writes logs for tests, from the specification and not from what reads them.
#![allow(clippy::cast_possible_truncation, reason = "what tests write is short")]

use sha2::{Digest, Sha256};

use super::kind::EventType;
use super::parse::SHA256;

/// A crypto-agile log in the making.
pub(crate) struct Writer {
    banks: Vec<(u16, u16)>,
    bytes: Vec<u8>,
}

impl Writer {
    /// One with banks of these algorithms and digest sizes.
    pub(crate) fn with_banks(banks: &[(u16, u16)]) -> Self {
        let mut spec = b"Spec ID Event03\0".to_vec();
        // Platform class client, version 2.0, errata 0, 64 bits.
        spec.extend([0, 0, 0, 0, 0, 2, 0, 2]);
        spec.extend((banks.len() as u32).to_le_bytes());
        for (algorithm, size) in banks {
            spec.extend(algorithm.to_le_bytes());
            spec.extend(size.to_le_bytes());
        }
        spec.push(0);
        let mut bytes = Vec::new();
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(EventType::NO_ACTION.0.to_le_bytes());
        bytes.extend([0; 20]);
        bytes.extend((spec.len() as u32).to_le_bytes());
        bytes.extend(spec);
        Self {
            banks: banks.to_vec(),
            bytes,
        }
    }

    /// One of SHA-256 alone.
    pub(crate) fn new() -> Self {
        Self::with_banks(&[(SHA256, 32)])
    }

    /// An event whose SHA-256 digest is this; those of other banks are of another value.
    pub(crate) fn event(
        mut self,
        pcr: u32,
        event_type: EventType,
        digest: [u8; 32],
        data: &[u8],
    ) -> Self {
        self.bytes.extend(pcr.to_le_bytes());
        self.bytes.extend(event_type.0.to_le_bytes());
        self.bytes.extend((self.banks.len() as u32).to_le_bytes());
        for (algorithm, size) in &self.banks {
            self.bytes.extend(algorithm.to_le_bytes());
            if *algorithm == SHA256 {
                self.bytes.extend(digest);
            } else {
                self.bytes.extend(vec![0xEE; usize::from(*size)]);
            }
        }
        self.bytes.extend((data.len() as u32).to_le_bytes());
        self.bytes.extend(data);
        self
    }

    /// An event of this data, whose digest is the data's.
    pub(crate) fn data(self, pcr: u32, event_type: EventType, data: &[u8]) -> Self {
        let digest = Sha256::digest(data).into();
        self.event(pcr, event_type, digest, data)
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// UTF-16, little-endian, with its NUL.
pub(crate) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect()
}

/// UEFI_VARIABLE_DATA.
pub(crate) fn variable(name: &str, data: &[u8]) -> Vec<u8> {
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut bytes = vec![0x11; 16];
    bytes.extend((name.len() as u64 / 2).to_le_bytes());
    bytes.extend((data.len() as u64).to_le_bytes());
    bytes.extend(name);
    bytes.extend(data);
    bytes
}

/// UEFI_IMAGE_LOAD_EVENT over nodes of (type, subtype, data).
pub(crate) fn image_load(nodes: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let mut path = Vec::new();
    for (kind, subtype, data) in nodes {
        path.extend([*kind, *subtype]);
        path.extend((data.len() as u16 + 4).to_le_bytes());
        path.extend(*data);
    }
    let mut bytes = vec![0; 24];
    bytes.extend((path.len() as u64).to_le_bytes());
    bytes.extend(path);
    bytes
}

/// TCG_PCClientTaggedEvent.
pub(crate) fn tagged(id: u32, text: &[u8]) -> Vec<u8> {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text);
    bytes
}
