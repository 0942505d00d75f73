//! PCR 7: the firmware's key databases with an update in them, and whose signature a program must
//! carry so that the PCR stays what it is.

use super::pe::Image;
use super::{cannot, digest, is_digest_of};
use crate::error::{Error, Result};
use crate::event_log::{Event, Measured, Variable};
use crate::policy::PcrSelection;

/// EFI_IMAGE_SECURITY_DATABASE_GUID, as it is in memory (UEFI Specification, section 32.4.1).
const DATABASES: [u8; 16] = [
    0xCB, 0xB2, 0x19, 0xD7, 0x3A, 0x3D, 0x96, 0x45, 0xA3, 0xBC, 0xDA, 0xD0, 0x0E, 0x67, 0x65, 0x6F,
];

/// EFI_CERT_TYPE_PKCS7_GUID: what an authenticated update is signed by (section 8.2.2).
pub(super) const PKCS7: [u8; 16] = [
    0x9D, 0xD2, 0xAF, 0x4A, 0xDF, 0x68, 0xEE, 0x49, 0x8A, 0xA9, 0x34, 0x7D, 0x37, 0x56, 0x65, 0xA7,
];

/// A key database of the firmware's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// What may run.
    Allowed,
    /// What may not, whoever has signed it.
    Forbidden,
}

/// What a key database will get beside what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseUpdate {
    /// What it is called in the list of allowed boots: its file.
    pub(super) name: String,
    database: Database,
    lists: Vec<SignatureList>,
}

/// EFI_SIGNATURE_LIST (section 32.4.1): entries of one kind and length.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SignatureList {
    /// Kind, and what the list has before its entries.
    kind: [u8; 16],
    header: Vec<u8>,
    entries: Vec<Vec<u8>>,
    size: u32,
}

impl Database {
    fn variable(self) -> &'static str {
        match self {
            Self::Allowed => "db",
            Self::Forbidden => "dbx",
        }
    }
}

impl DatabaseUpdate {
    /// Reads an update file: signature lists alone (`.esl`), or with the signature that the firmware
    /// wants to see (`.auth`, `dbxupdate.bin`).
    ///
    /// # Errors
    /// [`Error::Input`] for anything else.
    pub fn parse(database: Database, name: &str, bytes: &[u8]) -> Result<Self> {
        let lists = signature_lists(bytes)
            .or_else(|| signature_lists(without_signature(bytes)?))
            // As efivarfs and sbvarsign --include-attrs have it.
            .or_else(|| signature_lists(without_signature(bytes.get(4..)?)?))
            .filter(|lists| !lists.is_empty())
            .ok_or_else(|| {
                Error::input(
                    format!("{} update {name}", database.variable()),
                    "it is neither a signature list nor an authenticated update of one",
                )
            })?;
        Ok(Self {
            name: name.to_owned(),
            database,
            lists,
        })
    }

    /// Appends it in the log as firmware appends it: what is there already is left out (EDK2,
    /// `FilterSignatureList`).
    pub(super) fn put_in(&self, events: &mut [Event], bound: &PcrSelection) -> Result<()> {
        if bound.iter().all(|pcr| pcr != 7) {
            return Ok(());
        }
        let variable = self.database.variable();
        let is_it = |event: &&mut Event| {
            event.extends(7)
                && matches!(&event.measured, Measured::Variable(it)
                    if it.vendor == DATABASES && it.name == variable)
        };
        let mut found = events.iter_mut().filter(is_it);
        let (Some(event), None) = (found.next(), found.next()) else {
            return Err(cannot(
                7,
                format!("the log does not have {variable} there exactly once"),
            ));
        };
        let held = match &event.measured {
            Measured::Variable(held) if is_digest_of(event, &event.data) => held.clone(),
            _ => {
                return Err(cannot(
                    7,
                    format!("the log's {variable} is not what was measured"),
                ));
            }
        };
        let old = signature_lists(&held.data).ok_or_else(|| {
            cannot(
                7,
                format!("{variable} holds something else than signature lists"),
            )
        })?;
        let mut data = held.data.clone();
        for list in &self.lists {
            list.append_new(&old, &mut data);
        }
        event.data = measured_variable(&held, &data);
        event.digest = digest(&event.data);
        event.measured = Measured::Variable(Variable { data, ..held });
        Ok(())
    }
}

/// Whether the log says that Secure Boot is on.
pub(super) fn is_on(events: &[Event]) -> bool {
    events.iter().any(|event| {
        event.extends(7)
            && matches!(&event.measured, Measured::Variable(it) if it.name == "SecureBoot" && it.is_on())
    })
}

/// Refuses a program that none of those has signed whom the log names: PCR 7 names whoever did.
pub(super) fn check_signer(events: &[Event], name: &str, image: &Image<'_>) -> Result<()> {
    if !is_on(events) {
        return Ok(());
    }
    let signature = image.certificates();
    let signs = |event: &Event| match &event.measured {
        Measured::Authority(by) => certificate(&by.data)
            .is_some_and(|it| contains(signature, it) || contains_issuer(signature, it)),
        _ => false,
    };
    if events.iter().any(|event| event.extends(7) && signs(event)) {
        return Ok(());
    }
    Err(Error::input(
        format!("kernel image {name}"),
        "Secure Boot is on, and it is not signed by any key that the present boot was verified by: \
         the firmware would refuse it, or PCR 7 would name another key",
    ))
}

/// The certificate of an EFI_SIGNATURE_DATA, behind the owner's GUID; shim logs some without one.
fn certificate(authority: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    [authority.get(16..), Some(authority)]
        .into_iter()
        .flatten()
        .find(|it| it.first() == Some(&SEQUENCE) && it.len() > 64)
}

/// Whether a signature has a certificate that was issued by this one: its subject is in there, as
/// the issuer of the other.
fn contains_issuer(signature: &[u8], certificate: &[u8]) -> bool {
    subject(certificate).is_some_and(|subject| contains(signature, subject))
}

fn contains(whole: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && whole.windows(part.len()).any(|window| window == part)
}

/// A certificate's subject, encoded (RFC 5280, section 4.1): the fifth of the fields behind the
/// version.
fn subject(certificate: &[u8]) -> Option<&[u8]> {
    const VERSION: u8 = 0xA0;
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    // Serial number, algorithm, issuer, validity.
    for _ in 0..4 {
        fields = element(fields)?.2;
    }
    Some(element(fields)?.0)
}

/// The first element of some DER: whole, its content, and what comes after it.
fn element(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (header, length) = match *bytes.get(1)? {
        short @ 0..=0x7F => (2, usize::from(short)),
        0x81 => (3, usize::from(*bytes.get(2)?)),
        0x82 => (
            4,
            usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])),
        ),
        _ => return None,
    };
    let (whole, rest) = bytes.split_at_checked(header + length)?;
    Some((whole, &whole[header..], rest))
}

impl SignatureList {
    /// Appends the entries that `old` does not have, as a list.
    fn append_new(&self, old: &[Self], data: &mut Vec<u8>) {
        let known = |entry: &Vec<u8>| {
            old.iter().any(|list| {
                list.kind == self.kind && list.size == self.size && list.entries.contains(entry)
            })
        };
        let new: Vec<_> = self.entries.iter().filter(|entry| !known(entry)).collect();
        if new.is_empty() {
            return;
        }
        let entries = new.iter().map(|entry| entry.len()).sum::<usize>();
        let length = 28 + self.header.len() + entries;
        data.extend(self.kind);
        for field in [length, self.header.len(), self.size as usize] {
            // No longer than the list that was read.
            data.extend(u32::try_from(field).unwrap_or(u32::MAX).to_le_bytes());
        }
        data.extend(&self.header);
        data.extend(new.into_iter().flatten());
    }
}

/// All lists of a database, which must end where the last of them does.
fn signature_lists(mut bytes: &[u8]) -> Option<Vec<SignatureList>> {
    let mut lists = Vec::new();
    while !bytes.is_empty() {
        let kind = bytes.get(..16)?.try_into().ok()?;
        let field = |at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        let (length, header, size) = (field(16)? as usize, field(20)? as usize, field(24)?);
        let (list, rest) = bytes.split_at_checked(length)?;
        let entries = list.get(28usize.checked_add(header)?..)?;
        // An entry is its owner's GUID and at least something.
        let whole = size > 16 && !entries.is_empty() && entries.len() % size as usize == 0;
        whole.then_some(())?;
        lists.push(SignatureList {
            kind,
            header: list[28..28 + header].to_vec(),
            entries: entries.chunks(size as usize).map(<[u8]>::to_vec).collect(),
            size,
        });
        bytes = rest;
    }
    Some(lists)
}

/// What an EFI_VARIABLE_AUTHENTICATION_2 stands before: a time, and a WIN_CERTIFICATE_UEFI_GUID.
fn without_signature(bytes: &[u8]) -> Option<&[u8]> {
    const TIME: usize = 16;
    let certificate = bytes.get(TIME..)?;
    let length = u32::from_le_bytes(certificate.get(..4)?.try_into().ok()?) as usize;
    let is_one = certificate.get(4..8)? == [0, 2, 0xF1, 0x0E] && certificate.get(8..24)? == PKCS7;
    (is_one && length >= 24).then_some(())?;
    certificate.get(length..)
}

/// UEFI_VARIABLE_DATA (PC Client Platform Firmware Profile, section 10.4.2.6).
fn measured_variable(variable: &Variable, data: &[u8]) -> Vec<u8> {
    let name: Vec<u8> = variable
        .name
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let mut bytes = variable.vendor.to_vec();
    bytes.extend((name.len() as u64 / 2).to_le_bytes());
    bytes.extend((data.len() as u64).to_le_bytes());
    bytes.extend(name);
    bytes.extend(data);
    bytes
}
