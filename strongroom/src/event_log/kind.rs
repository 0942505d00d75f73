//! Event types (PC Client Platform Firmware Profile, section 10.4.1).

use std::fmt;

/// A TCG event type, known or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventType(pub u32);

/// One constant for each, and its name.
macro_rules! event_types {
    ($($(#[$doc:meta])* $constant:ident = $number:literal, $name:literal;)*) => {
        impl EventType {
            $($(#[$doc])* pub const $constant: Self = Self($number);)*

            /// The specification's name.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$constant => Some($name),)*
                    _ => None,
                }
            }
        }
    };
}

event_types! {
    /// Firmware code.
    POST_CODE = 0x01, "EV_POST_CODE";
    /// Extends nothing.
    NO_ACTION = 0x03, "EV_NO_ACTION";
    /// Firmware has done its part, or failed at it.
    SEPARATOR = 0x04, "EV_SEPARATOR";
    /// Something happened, as the text says.
    ACTION = 0x05, "EV_ACTION";
    /// Of an operating system's own kind, with a number of its own.
    EVENT_TAG = 0x06, "EV_EVENT_TAG";
    /// The first code.
    S_CRTM_CONTENTS = 0x07, "EV_S_CRTM_CONTENTS";
    /// The first code's version.
    S_CRTM_VERSION = 0x08, "EV_S_CRTM_VERSION";
    /// A patch of the processor.
    CPU_MICROCODE = 0x09, "EV_CPU_MICROCODE";
    /// Settings of the platform.
    PLATFORM_CONFIG_FLAGS = 0x0A, "EV_PLATFORM_CONFIG_FLAGS";
    /// The platform's devices.
    TABLE_OF_DEVICES = 0x0B, "EV_TABLE_OF_DEVICES";
    /// By a caller of the firmware's hash function.
    COMPACT_HASH = 0x0C, "EV_COMPACT_HASH";
    /// By a boot loader.
    IPL = 0x0D, "EV_IPL";
    /// By a boot loader, of the partition table.
    IPL_PARTITION_DATA = 0x0E, "EV_IPL_PARTITION_DATA";
    /// Code that does not run on the host's processor.
    NONHOST_CODE = 0x0F, "EV_NONHOST_CODE";
    /// Its settings.
    NONHOST_CONFIG = 0x10, "EV_NONHOST_CONFIG";
    /// That there is such.
    NONHOST_INFO = 0x11, "EV_NONHOST_INFO";
    /// Firmware measures no boot devices.
    OMIT_BOOT_DEVICE_EVENTS = 0x12, "EV_OMIT_BOOT_DEVICE_EVENTS";
    /// Firmware code.
    POST_CODE2 = 0x13, "EV_POST_CODE2";
    /// A variable that decides which code runs: Secure Boot's.
    EFI_VARIABLE_DRIVER_CONFIG = 0x8000_0001, "EV_EFI_VARIABLE_DRIVER_CONFIG";
    /// A variable of the boot order.
    EFI_VARIABLE_BOOT = 0x8000_0002, "EV_EFI_VARIABLE_BOOT";
    /// A program that firmware started.
    EFI_BOOT_SERVICES_APPLICATION = 0x8000_0003, "EV_EFI_BOOT_SERVICES_APPLICATION";
    /// A driver that firmware started.
    EFI_BOOT_SERVICES_DRIVER = 0x8000_0004, "EV_EFI_BOOT_SERVICES_DRIVER";
    /// A driver that stays.
    EFI_RUNTIME_SERVICES_DRIVER = 0x8000_0005, "EV_EFI_RUNTIME_SERVICES_DRIVER";
    /// The partition table.
    EFI_GPT_EVENT = 0x8000_0006, "EV_EFI_GPT_EVENT";
    /// Something happened, as the text says.
    EFI_ACTION = 0x8000_0007, "EV_EFI_ACTION";
    /// Firmware code.
    EFI_PLATFORM_FIRMWARE_BLOB = 0x8000_0008, "EV_EFI_PLATFORM_FIRMWARE_BLOB";
    /// Tables that firmware hands on.
    EFI_HANDOFF_TABLES = 0x8000_0009, "EV_EFI_HANDOFF_TABLES";
    /// Firmware code.
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000_000A, "EV_EFI_PLATFORM_FIRMWARE_BLOB2";
    /// Tables that firmware hands on.
    EFI_HANDOFF_TABLES2 = 0x8000_000B, "EV_EFI_HANDOFF_TABLES2";
    /// A variable of the boot order.
    EFI_VARIABLE_BOOT2 = 0x8000_000C, "EV_EFI_VARIABLE_BOOT2";
    /// The partition table.
    EFI_GPT_EVENT2 = 0x8000_000D, "EV_EFI_GPT_EVENT2";
    /// What measured the first code.
    EFI_HCRTM_EVENT = 0x8000_0010, "EV_EFI_HCRTM_EVENT";
    /// The entry of `db` that a program was verified by.
    EFI_VARIABLE_AUTHORITY = 0x8000_00E0, "EV_EFI_VARIABLE_AUTHORITY";
    /// Firmware of a device, as the device says.
    EFI_SPDM_FIRMWARE_BLOB = 0x8000_00E1, "EV_EFI_SPDM_FIRMWARE_BLOB";
    /// Its settings.
    EFI_SPDM_FIRMWARE_CONFIG = 0x8000_00E2, "EV_EFI_SPDM_FIRMWARE_CONFIG";
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#010x}", self.0),
        }
    }
}
