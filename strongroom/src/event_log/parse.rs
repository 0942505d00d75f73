//! The log's own structures: TCG_PCClientPCREvent with the Spec ID event first (PC Client Platform
//! Firmware Profile, section 10.4.5.1), then TCG_PCR_EVENT2 one after the other (section 10.2.2).
//!
//! Strict: an event has a digest of each bank that the Spec ID event names and of no other, and
//! the last one ends where the log does. Nothing is allocated that is not in the log.

use super::kind::EventType;
use super::measured::Measured;
use super::reader::{Malformed, Reader};
use super::{Event, replay};

/// The Spec ID event's signature in a crypto-agile log.
pub(super) const SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";

/// TPM_ALG_SHA256 (TPM 2.0 Library, Part 2, section 6.3).
pub(super) const SHA256: u16 = 0x000B;

/// The digest sizes of the hash algorithms that a bank can be of.
const KNOWN_SIZES: [(u16, u16); 8] = [
    (0x0004, 20),
    (SHA256, 32),
    (0x000C, 48),
    (0x000D, 64),
    (0x0012, 32),
    (0x0027, 32),
    (0x0028, 48),
    (0x0029, 64),
];

/// More banks than any TPM has (Part 2, section 10.6.1, TPML_DIGEST_VALUES: HASH_COUNT).
const MOST_BANKS: u32 = 16;

/// A bank, and how long its digests are.
struct Bank {
    algorithm: u16,
    size: usize,
}

/// All events of a log but the first, which says how to read the others.
pub(super) fn events(bytes: &[u8]) -> Result<Vec<Event>, Malformed> {
    let mut reader = Reader::new(bytes);
    let banks = spec_id_event(&mut reader)?;
    let mut events = Vec::new();
    while !reader.is_empty() {
        events.push(event(&mut reader, &banks)?);
    }
    Ok(events)
}

fn spec_id_event(reader: &mut Reader<'_>) -> Result<Vec<Bank>, Malformed> {
    let begin = reader.clone();
    let (_pcr, event_type) = (reader.u32()?, EventType(reader.u32()?));
    let _sha1: [u8; 20] = reader.array()?;
    let size = reader.u32()?;
    let here = reader.clone();
    let mut data = Reader::new(reader.take_counted(size.into())?);
    if event_type != EventType::NO_ACTION {
        return Err(begin.malformed(
            "it does not begin with a Spec ID event: it is no event log, or one of a TPM 1.2, \
             which has SHA-1 digests alone",
        ));
    }
    // Places in the event are counted from the log's begin.
    let placed = |malformed: Malformed| Malformed {
        at: malformed.at + here_at(&here),
        ..malformed
    };
    let banks = banks(&mut data).map_err(placed)?;
    if banks.iter().any(|bank| bank.algorithm == SHA256) {
        Ok(banks)
    } else {
        Err(here.malformed(
            "it says that there are no SHA-256 digests: turn the TPM's SHA-256 bank on in the \
             firmware",
        ))
    }
}

fn here_at(reader: &Reader<'_>) -> usize {
    reader.malformed("").at
}

fn banks(data: &mut Reader<'_>) -> Result<Vec<Bank>, Malformed> {
    if &data.array::<16>()? != SIGNATURE {
        return Err(data.malformed(
            "the first event has another signature than Spec ID Event03: it is no event log, or \
             one in the old format with SHA-1 digests alone",
        ));
    }
    let _platform_class = data.u32()?;
    let (_minor, _major, _errata, _uintn) = (data.u8()?, data.u8()?, data.u8()?, data.u8()?);
    let count = data.u32()?;
    if count > MOST_BANKS {
        return Err(data.malformed("there are more banks than a TPM has"));
    }
    let mut banks: Vec<Bank> = Vec::new();
    for _ in 0..count {
        let here = data.clone();
        let (algorithm, size) = (data.u16()?, data.u16()?);
        let known = KNOWN_SIZES.iter().find(|(known, _)| *known == algorithm);
        if known.is_some_and(|(_, known)| *known != size) {
            return Err(here.malformed("a hash algorithm has digests of another size"));
        }
        if banks.iter().any(|bank| bank.algorithm == algorithm) {
            return Err(here.malformed("a bank is there twice"));
        }
        banks.push(Bank {
            algorithm,
            size: size.into(),
        });
    }
    let vendor_info = data.u8()?;
    data.take(vendor_info.into())?;
    if data.is_empty() {
        Ok(banks)
    } else {
        Err(data.malformed("the Spec ID event is longer than it says"))
    }
}

fn event(reader: &mut Reader<'_>, banks: &[Bank]) -> Result<Event, Malformed> {
    let begin = reader.clone();
    let (pcr, event_type) = (reader.u32()?, EventType(reader.u32()?));
    if event_type != EventType::NO_ACTION && pcr >= replay::PCR_COUNT {
        return Err(begin.malformed("an event extends a PCR that no TPM has"));
    }
    let here = reader.clone();
    if usize::try_from(reader.u32()?) != Ok(banks.len()) {
        return Err(here.malformed("an event has not one digest for each bank"));
    }
    let mut seen = Vec::with_capacity(banks.len());
    let mut sha256 = None;
    for _ in banks {
        let here = reader.clone();
        let algorithm = reader.u16()?;
        let bank = banks
            .iter()
            .find(|bank| bank.algorithm == algorithm && !seen.contains(&algorithm))
            .ok_or_else(|| here.malformed("an event has not one digest for each bank"))?;
        seen.push(algorithm);
        let digest = reader.take(bank.size)?;
        if algorithm == SHA256 {
            sha256 = digest.try_into().ok();
        }
    }
    let digest = sha256.ok_or_else(|| here.malformed("an event has no SHA-256 digest"))?;
    let size = reader.u32()?;
    let data = reader.take_counted(size.into())?.to_vec();
    Ok(Event {
        pcr,
        event_type: Some(event_type),
        digest,
        measured: Measured::of(pcr, event_type, &data),
        data,
    })
}
