//! Each PCR: what is measured into it here, by whom, and what would change it.

use std::collections::BTreeMap;
use std::fmt;

use super::Examination;
use crate::event_log::{Event, EventLog, Measured, reset_value};

/// A PCR as it is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrReport {
    /// Its number.
    pub pcr: u8,
    /// How its value stands to the log.
    pub state: PcrState,
    /// Its value, where the TPM could be asked.
    pub present: Option<[u8; 32]>,
    /// What the log makes of it, where there is one.
    pub replayed: Option<[u8; 32]>,
    /// What the log says was measured, in the order of the first of each kind.
    pub measured: Vec<Measurements>,
    /// What would change it.
    pub changes_with: String,
}

/// How a PCR's value stands to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PcrState {
    /// The log leads to it.
    Replays,
    /// The log leads to another value.
    Differs,
    /// It is extended, and no log says with what.
    Unlogged,
    /// Nothing was extended.
    Unused,
    /// There is a log, and no TPM to compare it with.
    NotCompared,
}

/// Measurements of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurements {
    /// Who extended them.
    pub by: Author,
    /// What kind, such as `programs started`.
    pub kind: &'static str,
    /// How many.
    pub count: usize,
    /// What each is, where the log names it, none twice.
    pub names: Vec<String>,
}

/// Who measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// The platform's firmware.
    Firmware,
    /// The boot loader that lets machine owners add keys.
    Shim,
    /// The boot loader GRUB.
    Grub,
    /// systemd-stub and systemd-boot.
    SystemdStub,
    /// The kernel's EFI stub.
    LinuxStub,
    /// systemd, while it runs.
    Systemd,
    /// The kernel's IMA.
    Ima,
    /// The log does not say.
    Unknown,
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Firmware => "firmware",
            Self::Shim => "shim",
            Self::Grub => "GRUB",
            Self::SystemdStub => "systemd-stub",
            Self::LinuxStub => "kernel's EFI stub",
            Self::Systemd => "systemd",
            Self::Ima => "kernel's IMA",
            Self::Unknown => "unknown",
        })
    }
}

impl PcrReport {
    /// Whether the log has something of this kind.
    pub(super) fn has(&self, kind: &str) -> bool {
        self.measured.iter().any(|some| some.kind == kind)
    }
}

/// Names of kinds that decisions are made by.
pub(super) mod kind {
    pub(in super::super) const COMMANDS: &str = "commands";
    pub(in super::super) const COMMAND_LINE: &str = "command line";
    pub(in super::super) const FROM_OUTSIDE: &str = "given from outside";
    pub(in super::super) const OWNERS_KEYS: &str = "machine owner's keys";
    pub(in super::super) const PHASES: &str = "while it runs";
    pub(in super::super) const SECTIONS: &str = "sections of the kernel image";
    pub(in super::super) const SEPARATOR: &str = "separator";
    pub(in super::super) const FAILURE: &str = "a failure of its own";
}

/// PCRs of which it is worth saying that they are not used.
const ALWAYS_SHOWN: [u8; 3] = [7, 9, 11];

pub(super) fn reports(seen: &Examination) -> Vec<PcrReport> {
    let present = seen.tpm.as_ref().ok().and_then(|tpm| tpm.pcrs.as_ref());
    let log = seen.log.as_ref().ok();
    let replayed = log.map(EventLog::replay);
    (0..24)
        .map(|pcr| {
            let present = present.and_then(|pcrs| pcrs.get(&pcr)).copied();
            let measured = log.map(|log| measured(log, pcr)).unwrap_or_default();
            let state = state(pcr, present, replayed.as_ref());
            PcrReport {
                pcr,
                state,
                present,
                replayed: log.map(|log| log.value(pcr)),
                changes_with: changes_with(pcr, &measured),
                measured: with_known_author(pcr, state, measured),
            }
        })
        .filter(|report| {
            let unused = report.state == PcrState::Unused
                || report.state == PcrState::NotCompared && report.measured.is_empty();
            !unused || ALWAYS_SHOWN.contains(&report.pcr)
        })
        .collect()
}

/// `replayed`: what the log, where there is one, makes of the PCRs that it extends.
fn state(
    pcr: u8,
    present: Option<[u8; 32]>,
    replayed: Option<&BTreeMap<u8, [u8; 32]>>,
) -> PcrState {
    let Some(present) = present else {
        return PcrState::NotCompared;
    };
    if let Some(logged) = replayed.and_then(|values| values.get(&pcr)) {
        return if *logged == present {
            PcrState::Replays
        } else {
            PcrState::Differs
        };
    }
    // Those of a dynamic launch are zero once it has begun.
    let is_unused = present == reset_value(pcr) || (17..=22).contains(&pcr) && present == [0; 32];
    if is_unused {
        PcrState::Unused
    } else {
        PcrState::Unlogged
    }
}

fn measured(log: &EventLog, pcr: u8) -> Vec<Measurements> {
    let mut all: Vec<Measurements> = Vec::new();
    for event in log.extended(pcr) {
        let (by, kind, name) = attribute(event);
        let known = all
            .iter()
            .position(|some| some.by == by && some.kind == kind);
        let at = known.unwrap_or_else(|| {
            all.push(Measurements {
                by,
                kind,
                count: 0,
                names: Vec::new(),
            });
            all.len() - 1
        });
        let some = &mut all[at];
        some.count += 1;
        if let Some(name) = name.filter(|name| !name.is_empty() && !some.names.contains(name)) {
            some.names.push(name);
        }
    }
    all
}

/// Who has measured something, of which kind it is, and its name.
fn attribute(event: &Event) -> (Author, &'static str, Option<String>) {
    use Author::{Firmware, Grub, LinuxStub, Shim, Systemd, SystemdStub, Unknown};
    let some = |text: &String| Some(text.clone());
    match &event.measured {
        Measured::FirmwareVersion(version) => (Firmware, "version", some(version)),
        Measured::FirmwareCode => (Firmware, "code", None),
        Measured::PlatformTables => (Firmware, "tables and settings", None),
        Measured::Variable(it) if event.pcr == 7 => {
            let name = match it.name.as_str() {
                "SecureBoot" if it.is_on() => "Secure Boot on".to_owned(),
                "SecureBoot" => "Secure Boot off".to_owned(),
                name if it.data.is_empty() => format!("{name} (empty)"),
                name => name.to_owned(),
            };
            (Firmware, "what may run", Some(name))
        }
        Measured::Variable(it) => (Firmware, "boot entries", some(&it.name)),
        Measured::Authority(it) if it.is_shims() => (Shim, "what it lets run", some(&it.name)),
        Measured::Authority(it) => (Firmware, "signers of what was started", some(&it.name)),
        Measured::Application(path) => (Firmware, "programs started", path.clone()),
        Measured::Driver(path) => (Firmware, "drivers loaded", path.clone()),
        Measured::PartitionTable => (Firmware, "partition table", None),
        Measured::Separator(false) => (Firmware, kind::SEPARATOR, None),
        Measured::Separator(true) => (Firmware, kind::FAILURE, None),
        Measured::Action(text) => (Firmware, "steps", some(text)),
        Measured::StubSection(name) => (SystemdStub, kind::SECTIONS, some(name)),
        Measured::StubInput(text) => (SystemdStub, kind::FROM_OUTSIDE, some(text)),
        Measured::GrubCommand(text) => (Grub, kind::COMMANDS, some(text)),
        Measured::GrubCommandLine(text) => (Grub, kind::COMMAND_LINE, some(text)),
        Measured::GrubFile(path) => (Grub, "files", some(path)),
        Measured::MachineOwnerKeys(name) => (Shim, kind::OWNERS_KEYS, some(name)),
        Measured::LinuxInitrd => (LinuxStub, "initrd", None),
        Measured::LinuxLoadOptions => (LinuxStub, kind::COMMAND_LINE, None),
        Measured::Systemd(text) => (Systemd, kind::PHASES, some(text)),
        // Of these PCRs everything is firmware's.
        Measured::Other(text) if event.pcr < 8 => (Firmware, "other", some(text)),
        Measured::Other(text) => (Unknown, "other", some(text)),
        // They extend nothing, and are not asked for.
        Measured::StartupLocality(_) | Measured::Nothing => (Unknown, "nothing", None),
    }
}

/// IMA has a log of its own, which is another one at every moment.
fn with_known_author(
    pcr: u8,
    state: PcrState,
    mut measured: Vec<Measurements>,
) -> Vec<Measurements> {
    if pcr == 10 && state == PcrState::Unlogged && measured.is_empty() {
        measured.push(Measurements {
            by: Author::Ima,
            kind: "files as they are opened",
            count: 0,
            names: Vec::new(),
        });
    }
    measured
}

fn changes_with(pcr: u8, measured: &[Measurements]) -> String {
    let has = |kind: &str| measured.iter().any(|some| some.kind == kind);
    let by = |author: Author| measured.iter().any(|some| some.by == author);
    let mut causes: Vec<&str> = match pcr {
        0 => vec!["a firmware update"],
        1 => vec!["firmware settings, the boot order, other hardware"],
        2 => vec!["another expansion card, or its firmware"],
        3 => vec!["settings of expansion cards"],
        4 => vec!["an update of a program that firmware starts: boot loader, kernel image"],
        5 => vec!["another partitioning of the boot disk"],
        6 => vec!["what the manufacturer wants"],
        7 => vec!["Secure Boot switched, its keys, db or dbx updated"],
        8 if by(Author::Grub) => vec!["another grub.cfg, menu entry or command line"],
        9 => vec!["an update of kernel or initrd"],
        10 => vec!["every file that is opened: of no use"],
        11 => vec!["an update of the unified kernel image"],
        12 => vec!["another command line or credentials for the kernel image"],
        13 => vec!["other extensions for the kernel image"],
        14 => vec!["keys enrolled or revoked with mokutil"],
        15 => vec!["another machine identity, root or volume key"],
        16 | 23 => vec!["anyone who wants it: of no use"],
        17..=22 => vec!["a dynamic launch of other code"],
        _ => vec!["what extends it"],
    };
    if pcr == 5 && by(Author::SystemdStub) {
        causes.push("another loader.conf");
    }
    if pcr == 7 && has("signers of what was started") {
        causes.push("a boot loader with another signer");
    }
    if pcr == 9 && has(kind::COMMAND_LINE) {
        causes.push("another command line");
    }
    if pcr == 9 && by(Author::Grub) {
        causes.push("another grub.cfg");
    }
    if pcr == 11 && has(kind::PHASES) {
        causes.push("each phase of the boot");
    }
    causes.join("; ")
}
