//! Words for what changed. The texts in them are the log's: its author's choice, without what would
//! disturb a terminal, and no longer than a line or two.

use std::collections::HashMap;

use super::{Change, ChangeKind};
use crate::event_log::{Event, Measured};

/// How many characters of a text are shown.
const LONGEST: usize = 160;

/// Something that is measured.
struct Thing {
    /// What to call it, as the subject of a sentence.
    subject: String,
    /// Its name, where the log has one.
    name: Option<String>,
}

/// Whether both are about one thing: the same file, the same variable.
pub(super) fn is_same_thing(a: &Event, b: &Event) -> bool {
    use Measured as M;
    match (&a.measured, &b.measured) {
        (M::Variable(a), M::Variable(b)) => (a.vendor, &a.name) == (b.vendor, &b.name),
        (M::Authority(a), M::Authority(b)) => a.name == b.name,
        (M::Application(a), M::Application(b)) | (M::Driver(a), M::Driver(b)) => a == b,
        (M::GrubCommand(a), M::GrubCommand(b)) => first_word(a) == first_word(b),
        (M::StubSection(a), M::StubSection(b))
        | (M::GrubFile(a), M::GrubFile(b))
        | (M::MachineOwnerKeys(a), M::MachineOwnerKeys(b))
        | (M::Action(a), M::Action(b)) => a == b,
        // `machine-id:...`; phases of the boot are different things.
        (M::Systemd(a), M::Systemd(b)) => {
            matches!((a.split_once(':'), b.split_once(':')), (Some((a, _)), Some((b, _))) if a == b)
        }
        (M::Other(was), M::Other(is)) => was == is && a.event_type == b.event_type,
        _ => is_of_one_kind(a, b),
    }
}

/// Whether one may stand where the other stood: another program, another file for the same use.
pub(super) fn is_in_its_place(a: &Event, b: &Event) -> bool {
    use Measured as M;
    match (&a.measured, &b.measured) {
        (M::GrubFile(a), M::GrubFile(b)) => {
            matches!((role(a), role(b)), (Some(a), Some(b)) if a == b)
        }
        (M::Application(_), M::Application(_)) | (M::Driver(_), M::Driver(_)) => true,
        _ => false,
    }
}

/// Kinds of which there is one of each.
fn is_of_one_kind(a: &Event, b: &Event) -> bool {
    use Measured as M;
    matches!(
        (&a.measured, &b.measured),
        (M::FirmwareVersion(_), M::FirmwareVersion(_))
            | (M::FirmwareCode, M::FirmwareCode)
            | (M::PlatformTables, M::PlatformTables)
            | (M::PartitionTable, M::PartitionTable)
            | (M::Separator(_), M::Separator(_))
            | (M::StubInput(_), M::StubInput(_))
            | (M::GrubCommandLine(_), M::GrubCommandLine(_))
            | (M::LinuxInitrd, M::LinuxInitrd)
            | (M::LinuxLoadOptions, M::LinuxLoadOptions)
    )
}

/// One thing that is another now.
pub(super) fn changed(pcr: u8, was: &Event, is: &Event) -> Change {
    use Measured as M;
    let Thing { subject, name } = thing(is);
    let words = match (&was.measured, &is.measured) {
        (M::Variable(was), M::Variable(is))
            if is.name == "SecureBoot" && was.is_on() != is.is_on() =>
        {
            let (now, then) = if is.is_on() {
                ("on", "off")
            } else {
                ("off", "on")
            };
            format!("Secure Boot is {now}, and was {then} when enrolled")
        }
        (M::Separator(_), M::Separator(true)) => {
            "the firmware reports a failure of its own".to_owned()
        }
        (M::FirmwareVersion(was), M::FirmwareVersion(is)) => format!(
            "the firmware is version {}, and was {} when enrolled",
            shown(is),
            shown(was)
        ),
        (M::GrubCommandLine(was), M::GrubCommandLine(is)) => {
            format!("GRUB's command line for the kernel {}", difference(was, is))
        }
        (M::GrubCommand(was), M::GrubCommand(is)) => {
            let command = shown(first_word(is));
            format!("GRUB's command \"{command}\" {}", difference(was, is))
        }
        (M::StubInput(was), M::StubInput(is)) => format!(
            "what the kernel image was given from outside {}",
            difference(was, is)
        ),
        (M::Application(was), M::Application(is)) | (M::Driver(was), M::Driver(is))
            if was != is =>
        {
            let of_firmware = || "a part of the firmware".to_owned();
            format!(
                "{} was started where it was {} when enrolled",
                is.as_deref().map_or_else(of_firmware, shown),
                was.as_deref().map_or_else(of_firmware, shown)
            )
        }
        (M::GrubFile(was), M::GrubFile(is)) if was != is => format!(
            "{} is {}, and was {} when enrolled",
            role(is).unwrap_or("a file that GRUB reads"),
            shown(is),
            shown(was)
        ),
        (M::Variable(_) | M::MachineOwnerKeys(_) | M::PartitionTable | M::Separator(_), _) => {
            format!("{subject} has changed")
        }
        (M::Authority(_), M::Authority(is)) if is.is_shims() => {
            format!("{subject} has changed")
        }
        (M::PlatformTables, _) => format!("{subject} have changed"),
        _ => format!("{subject} is not the one that was enrolled"),
    };
    Change {
        pcr,
        kind: ChangeKind::Changed,
        name,
        words,
    }
}

/// One thing that came, went, or moved.
pub(super) fn alone(pcr: u8, kind: ChangeKind, event: &Event) -> Change {
    let Thing { subject, name } = thing(event);
    let were = if matches!(event.measured, Measured::PlatformTables) {
        "were"
    } else {
        "was"
    };
    let words = match kind {
        ChangeKind::Changed => format!("{subject} is not the one that was enrolled"),
        ChangeKind::Added => format!("{subject} {were} measured, and {were} not when enrolled"),
        ChangeKind::Missing => format!("{subject} {were} not measured, and {were} when enrolled"),
        ChangeKind::Moved => {
            format!("{subject} {were} measured earlier or later than when enrolled")
        }
    };
    Change {
        pcr,
        kind,
        name,
        words,
    }
}

fn thing(event: &Event) -> Thing {
    use Measured as M;
    let named = |before: &str, name: &str, after: &str| Thing {
        subject: format!("{before}{}{after}", shown(name)),
        name: Some(shown(name)),
    };
    let unnamed = |subject: &str| Thing {
        subject: subject.to_owned(),
        name: None,
    };
    match &event.measured {
        M::FirmwareVersion(_) => unnamed("the firmware's version"),
        M::FirmwareCode => unnamed("the firmware's code"),
        M::PlatformTables => unnamed("tables and settings of the platform"),
        M::Variable(it) if event.pcr == 7 => named("the Secure Boot variable ", &it.name, ""),
        M::Variable(it) => named("the boot variable ", &it.name, ""),
        M::Authority(it) if it.is_shims() => named("shim's ", &it.name, ""),
        M::Authority(it) => named("the entry of ", &it.name, " that a program was verified by"),
        M::Application(Some(path)) => named("the program ", path, ""),
        M::Application(None) => unnamed("a program of the firmware's own"),
        M::Driver(Some(path)) => named("the driver ", path, ""),
        M::Driver(None) => unnamed("a driver of the firmware's own"),
        M::PartitionTable => unnamed("the partition table of the boot disk"),
        M::Separator(_) => unnamed("the end of the firmware's own measurements"),
        M::Action(text) => quoted("the firmware's step", text),
        M::StubSection(name) => named("section ", name, " of the unified kernel image"),
        M::StubInput(text) => quoted("what the kernel image was given from outside", text),
        M::GrubCommand(text) => quoted("GRUB's command", text),
        M::GrubCommandLine(text) => quoted("GRUB's command line for the kernel", text),
        M::GrubFile(path) => match role(path) {
            Some(role) => named(&format!("{role} ("), path, ")"),
            None => named("the file ", path, ", which GRUB reads,"),
        },
        M::MachineOwnerKeys(name) => named("shim's ", name, ""),
        M::LinuxInitrd => unnamed("the initrd"),
        M::LinuxLoadOptions => unnamed("the kernel's command line"),
        M::Systemd(text) => quoted("systemd's measurement", text),
        M::Other(text) if text.is_empty() => match event.event_type {
            Some(kind) => unnamed(&format!("an event of type {kind}")),
            None => unnamed("an event"),
        },
        M::Other(text) => quoted("an event", text),
        M::StartupLocality(_) | M::Nothing => unnamed("an event that extends nothing"),
    }
}

fn quoted(subject: &str, text: &str) -> Thing {
    Thing {
        subject: format!("{subject} \"{}\"", shown(text)),
        name: Some(shown(text)),
    }
}

/// What a file that GRUB reads is for, as its name has it.
fn role(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let begins = |with: &[&str]| with.iter().any(|it| name.starts_with(it));
    if begins(&["initrd", "initramfs"]) {
        Some("the initrd")
    } else if begins(&["vmlinuz", "vmlinux", "bzImage", "linux", "kernel"]) {
        Some("the kernel")
    } else if name == "grub.cfg" {
        Some("GRUB's configuration")
    } else {
        None
    }
}

/// How one line differs from another: by its words.
fn difference(was: &str, is: &str) -> String {
    let more = words_beyond(is, was);
    let less = words_beyond(was, is);
    match (more.is_empty(), less.is_empty()) {
        (true, true) => "is not the one that was enrolled".to_owned(),
        (false, true) => format!("has \"{}\" more than when enrolled", shown(&more)),
        (true, false) => format!("has \"{}\" less than when enrolled", shown(&less)),
        (false, false) => format!(
            "has \"{}\" where it had \"{}\" when enrolled",
            shown(&more),
            shown(&less)
        ),
    }
}

/// The words of a line that are not in another one.
fn words_beyond(line: &str, other: &str) -> String {
    let mut others: HashMap<&str, usize> = HashMap::new();
    for word in other.split_whitespace() {
        *others.entry(word).or_default() += 1;
    }
    let beyond = line.split_whitespace().filter(|word| {
        let Some(left) = others.get_mut(word).filter(|left| **left > 0) else {
            return true;
        };
        *left -= 1;
        false
    });
    beyond.collect::<Vec<_>>().join(" ")
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or(text)
}

fn shown(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let begin: String = text.chars().take(LONGEST).collect();
    format!("{begin}...")
}
