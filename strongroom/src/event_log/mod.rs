//! The TCG event log: what firmware, boot loader, stub and kernel say that they have extended into
//! the PCRs (TCG PC Client Platform Firmware Profile, sections 10.4 and 10.5).
//!
//! A log is a claim. It is as good as its replay: where [`EventLog::replay`] gives the value that
//! the TPM has, the digests are what was measured, and so is all that they are digests of. What the
//! log says beside the digests is worth less, and is shown but never decided upon.
//!
//! - `parse`: the log's own structures, strict on lengths
//! - `kind`: event types
//! - [`Measured`]: what an event is about, as far as we know its author's habits
//! - `replay`: from digests to PCR values
//! - `systemd`: the log that systemd keeps of what it extends after firmware is gone
//! - [`Place`]: where the present boot's log is
//! - `compare`: what two boots measured differently, in words

mod compare;
mod device_path;
mod kind;
mod measured;
mod parse;
mod place;
mod reader;
mod replay;
mod systemd;
#[cfg(test)]
mod tests;
mod text;
mod variable;
#[cfg(test)]
pub(crate) mod writer;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

pub use compare::{Change, ChangeKind, compare};
pub use kind::EventType;
pub use measured::Measured;
pub use place::{Place, Recording, VARIABLE};
pub use replay::reset_value;
pub use variable::Variable;

/// Where the kernel has the log of its first TPM, below the root.
pub const KERNEL_LOG: &str = "sys/kernel/security/tpm0/binary_bios_measurements";

/// Where systemd writes down what it extends, below the root.
pub const SYSTEMD_LOG: &str = "run/log/systemd/tpm2-measure.log";

/// The most that is read. Firmware keeps some 64 KiB, and at most a few hundred.
const LIMIT: u64 = 16 << 20;

/// A log whose every event was read, in the order in which it was extended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLog {
    events: Vec<Event>,
}

/// One thing that was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The PCR's number. Events that extend nothing may have one that no TPM has.
    pub pcr: u32,
    /// What kind of event, by TCG's numbers; `None` for systemd's own, which have none.
    pub event_type: Option<EventType>,
    /// What the SHA-256 bank was extended with.
    pub digest: [u8; 32],
    /// What the event's author wrote about it.
    pub data: Vec<u8>,
    /// What that says.
    pub measured: Measured,
}

impl Event {
    /// Whether it was extended into its PCR; EV_NO_ACTION only says something.
    pub fn is_extended(&self) -> bool {
        self.event_type != Some(EventType::NO_ACTION)
    }

    /// Whether it was extended into this PCR.
    pub fn extends(&self, pcr: u8) -> bool {
        self.is_extended() && self.pcr == u32::from(pcr)
    }
}

impl EventLog {
    /// Reads a crypto-agile log.
    ///
    /// # Errors
    /// [`Error::Input`] with the place of the first byte that cannot be what it should be, for a
    /// log in the older SHA-1 format, and for one without SHA-256 digests.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Self::parse_as("the event log", bytes)
    }

    /// Reads a log from a file, such as [`KERNEL_LOG`].
    ///
    /// # Errors
    /// [`Error::Io`], and those of [`EventLog::parse`].
    pub fn read(file: &Path) -> Result<Self> {
        Self::parse_as(&format!("event log {}", file.display()), &bytes_of(file)?)
    }

    fn parse_as(what: &str, bytes: &[u8]) -> Result<Self> {
        parse::events(bytes)
            .map(|events| Self { events })
            .map_err(|malformed| Error::input(what, malformed.to_string()))
    }

    /// The same and what systemd has extended since, by its own log (`tpm2-measure.log`).
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Input`] for what is not such a log.
    pub fn with_systemd_log(self, file: &Path) -> Result<Self> {
        self.followed_by_systemds(&bytes_of(file)?)
            .map_err(|reason| {
                Error::input(
                    format!("systemd's measurement log {}", file.display()),
                    reason,
                )
            })
    }

    fn followed_by_systemds(mut self, bytes: &[u8]) -> Result<Self, String> {
        self.events.extend(systemd::events(bytes)?);
        Ok(self)
    }

    /// A log of these events.
    pub(crate) fn of(events: Vec<Event>) -> Self {
        Self { events }
    }

    /// All events, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// What was extended into a PCR, in order.
    pub fn extended(&self, pcr: u8) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |event| event.extends(pcr))
    }
}

fn bytes_of(file: &Path) -> Result<Vec<u8>> {
    let read = || {
        let mut bytes = Vec::new();
        // The kernel's has no length beforehand.
        File::open(file)?.take(LIMIT + 1).read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    let bytes = read().map_err(Error::io("read", file))?;
    if bytes.len() as u64 > LIMIT {
        return Err(Error::input(
            format!("event log {}", file.display()),
            format!("it is longer than {} MiB, which no log is", LIMIT >> 20),
        ));
    }
    Ok(bytes)
}
