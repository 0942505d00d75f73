//! The log that systemd keeps of what it extends: phases of the boot into PCR 11, the machine's
//! identity into PCR 15. JSON texts, each after a record separator (RFC 7464), in the Canonical
//! Event Log's words (systemd, docs/TPM2_PCR_MEASUREMENTS).

use serde::Deserialize;

use super::measured::Measured;
use super::{Event, replay, text};

/// RFC 7464, section 2.2.
pub(super) const RECORD_SEPARATOR: u8 = 0x1E;

#[derive(Deserialize)]
struct Record {
    /// `None` where an NV index was extended instead.
    pcr: Option<u32>,
    digests: Vec<BankDigest>,
    #[serde(default)]
    content: Content,
}

#[derive(Deserialize)]
struct BankDigest {
    #[serde(rename = "hashAlg")]
    algorithm: String,
    digest: String,
}

#[derive(Default, Deserialize)]
struct Content {
    #[serde(default)]
    string: String,
}

/// What was extended, in order.
pub(super) fn events(bytes: &[u8]) -> Result<Vec<Event>, String> {
    let mut events = Vec::new();
    for record in bytes.split(|byte| *byte == RECORD_SEPARATOR) {
        if record.trim_ascii().is_empty() {
            continue;
        }
        let record: Record = serde_json::from_slice(record).map_err(|error| error.to_string())?;
        let Some(pcr) = record.pcr else { continue };
        if pcr >= replay::PCR_COUNT {
            return Err(format!("PCR {pcr}, which no TPM has, was extended"));
        }
        let mut digest = [0; 32];
        record
            .digests
            .iter()
            .find(|digest| digest.algorithm == "sha256")
            .and_then(|found| hex::decode_to_slice(&found.digest, &mut digest).ok())
            .ok_or("a record has no SHA-256 digest")?;
        let said = text::narrow(record.content.string.as_bytes());
        events.push(Event {
            pcr,
            event_type: None,
            digest,
            data: record.content.string.into_bytes(),
            measured: Measured::Systemd(said),
        });
    }
    Ok(events)
}
