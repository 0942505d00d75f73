//! What an event is about. Types alone do not say it: boot loaders share EV_IPL, and are known by
//! the PCR that they use and the words that they write.
//!
//! - GRUB 2.04 and later, `grub-core/commands/tpm.c`: commands and command lines into PCR 8 as
//!   `grub_cmd: `, `kernel_cmdline: ` and `module_cmdline: `, files into PCR 9 by their names
//! - systemd-stub and systemd-boot, `systemd-stub(7)`: names and contents of sections into PCR 11,
//!   what overrides or accompanies them into PCR 12 and 13, in UTF-16
//! - the kernel's EFI stub, `drivers/firmware/efi/libstub/efi-stub-helper.c`: EV_EVENT_TAG into
//!   PCR 9
//! - shim, `shim.c`: the machine owner's keys into PCR 14, and as authorities into PCR 7

use super::device_path;
use super::kind::EventType;
use super::reader::Reader;
use super::text;
use super::variable::Variable;

/// EV_NO_ACTION of this text tells the locality of TPM2_Startup (section 10.4.5.3).
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// The kernel's EFI stub: `INITRD_EVENT_TAG_ID` and `LOAD_OPTIONS_EVENT_TAG_ID`.
const LINUX_INITRD: u32 = 0x8F3B_22EC;
const LINUX_LOAD_OPTIONS: u32 = 0x8F3B_22ED;

/// What was measured, and in most cases by whom. Texts are the log's, without what would disturb a
/// terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Measured {
    /// Nothing: the locality that the TPM was started from, which PCR 0 begins with.
    StartupLocality(u8),
    /// Nothing else either: EV_NO_ACTION.
    Nothing,
    /// The firmware's version.
    FirmwareVersion(String),
    /// Code of the firmware or the processor.
    FirmwareCode,
    /// Tables and settings of the platform.
    PlatformTables,
    /// A variable that decides what may run, or what is tried first.
    Variable(Variable),
    /// The entry of a key database that a program was verified by. shim's name the state of the
    /// machine owner's keys and of revocations (`MokList`, `SbatLevel`).
    Authority(Variable),
    /// A program that firmware started: its path, unless it is a part of the firmware.
    Application(Option<String>),
    /// A driver that firmware loaded.
    Driver(Option<String>),
    /// The disk's partition table.
    PartitionTable,
    /// The end of what firmware measures into this PCR. With `true`, firmware has failed.
    Separator(bool),
    /// Something happened.
    Action(String),
    /// A section of a unified kernel image, by systemd's stub: once its name, once its content.
    StubSection(String),
    /// What came to a unified kernel image from outside, by systemd's stub or boot loader: another
    /// command line, credentials, extensions.
    StubInput(String),
    /// A command that GRUB executed.
    GrubCommand(String),
    /// The command line that GRUB gave to the kernel or a module.
    GrubCommandLine(String),
    /// A file that GRUB read.
    GrubFile(String),
    /// The machine owner's keys or their state, by shim.
    MachineOwnerKeys(String),
    /// The initrd, by the kernel's EFI stub.
    LinuxInitrd,
    /// The command line, by the kernel's EFI stub, in UTF-16 as it was given. The log has the
    /// digest alone.
    LinuxLoadOptions,
    /// What systemd extended while it ran.
    Systemd(String),
    /// Anything else, with its text where it has one.
    Other(String),
}

impl Measured {
    /// Never fails: what cannot be understood is [`Measured::Other`], and counts in a replay as
    /// anything does.
    pub(super) fn of(pcr: u32, event_type: EventType, data: &[u8]) -> Self {
        let path = || device_path::of_image_load(data);
        let variable =
            |known: fn(Variable) -> Self| Variable::parse(data).map_or_else(|| other(data), known);
        match event_type {
            EventType::NO_ACTION => no_action(data),
            EventType::S_CRTM_VERSION => Self::FirmwareVersion(text::either(data)),
            EventType::POST_CODE
            | EventType::POST_CODE2
            | EventType::S_CRTM_CONTENTS
            | EventType::CPU_MICROCODE
            | EventType::NONHOST_CODE
            | EventType::EFI_PLATFORM_FIRMWARE_BLOB
            | EventType::EFI_PLATFORM_FIRMWARE_BLOB2
            | EventType::EFI_HCRTM_EVENT
            | EventType::EFI_SPDM_FIRMWARE_BLOB => Self::FirmwareCode,
            EventType::PLATFORM_CONFIG_FLAGS
            | EventType::TABLE_OF_DEVICES
            | EventType::NONHOST_CONFIG
            | EventType::NONHOST_INFO
            | EventType::EFI_HANDOFF_TABLES
            | EventType::EFI_HANDOFF_TABLES2
            | EventType::EFI_SPDM_FIRMWARE_CONFIG => Self::PlatformTables,
            EventType::EFI_VARIABLE_DRIVER_CONFIG
            | EventType::EFI_VARIABLE_BOOT
            | EventType::EFI_VARIABLE_BOOT2 => variable(Self::Variable),
            EventType::EFI_VARIABLE_AUTHORITY => variable(Self::Authority),
            EventType::EFI_BOOT_SERVICES_APPLICATION => Self::Application(path()),
            EventType::EFI_BOOT_SERVICES_DRIVER | EventType::EFI_RUNTIME_SERVICES_DRIVER => {
                Self::Driver(path())
            }
            EventType::EFI_GPT_EVENT
            | EventType::EFI_GPT_EVENT2
            | EventType::IPL_PARTITION_DATA => Self::PartitionTable,
            // Four bytes of one value; 1 stands for a failure (section 10.4.1).
            EventType::SEPARATOR => Self::Separator(data == [1, 0, 0, 0]),
            EventType::ACTION | EventType::EFI_ACTION => Self::Action(text::either(data)),
            EventType::IPL => ipl(pcr, data),
            EventType::EVENT_TAG => tagged(pcr, data),
            _ => other(data),
        }
    }
}

fn other(data: &[u8]) -> Measured {
    let said = text::either(data);
    // What is no text would be shown as rubbish.
    let readable = !said.is_empty() && !said.contains(char::REPLACEMENT_CHARACTER);
    Measured::Other(if readable { said } else { String::new() })
}

fn no_action(data: &[u8]) -> Measured {
    match data.strip_prefix(STARTUP_LOCALITY) {
        Some(&[locality]) => Measured::StartupLocality(locality),
        _ => Measured::Nothing,
    }
}

fn ipl(pcr: u32, data: &[u8]) -> Measured {
    let said = text::either(data);
    match pcr {
        8 => {
            if let Some(command) = said.strip_prefix("grub_cmd: ") {
                Measured::GrubCommand(command.to_owned())
            } else if let Some(line) = said
                .strip_prefix("kernel_cmdline: ")
                .or_else(|| said.strip_prefix("module_cmdline: "))
            {
                Measured::GrubCommandLine(line.to_owned())
            } else {
                // systemd's stub used this PCR before it had 12.
                Measured::StubInput(said)
            }
        }
        9 => Measured::GrubFile(said),
        11 => Measured::StubSection(said),
        12 | 13 => Measured::StubInput(said),
        14 => Measured::MachineOwnerKeys(said),
        _ => other(data),
    }
}

/// TCG_PCClientTaggedEvent (section 10.4.2.1): a number, a length, and as many bytes.
fn tagged(pcr: u32, data: &[u8]) -> Measured {
    let mut reader = Reader::new(data);
    let parts = (|| {
        let (id, length) = (reader.u32().ok()?, reader.u32().ok()?);
        let content = reader.take_counted(length.into()).ok()?;
        reader.is_empty().then_some((id, content))
    })();
    match parts {
        Some((LINUX_INITRD, _)) => Measured::LinuxInitrd,
        Some((LINUX_LOAD_OPTIONS, _)) => Measured::LinuxLoadOptions,
        Some((_, content)) if matches!(pcr, 5 | 12 | 13) => {
            Measured::StubInput(text::either(content))
        }
        Some((_, content)) => other(content),
        None => other(data),
    }
}
