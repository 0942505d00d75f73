//! Another kernel, initrd or command line under GRUB, systemd-boot or the firmware itself: the
//! kernel's EFI stub measures command line and initrd into PCR 9, GRUB its commands into PCR 8 and
//! the files into PCR 9, systemd-boot the command line into PCR 12, and firmware or shim the kernel
//! into PCR 4.

use super::pe::Image;
use super::stub::joined;
use super::{cannot, digest, is_digest_of, secure_boot, wide};
use crate::error::{Error, Result};
use crate::event_log::{Event, EventType, Measured};
use crate::policy::PcrSelection;

/// What comes in the place of what is there.
pub(super) struct Next<'a> {
    pub(super) name: &'a str,
    pub(super) kernel: &'a [u8],
    pub(super) initrds: Option<&'a [Vec<u8>]>,
    pub(super) command_line: Option<&'a str>,
}

/// Puts a kernel and what it gets in the place of those that the log has, for the PCRs that count.
/// `command_line` is the kernel's now.
pub(super) fn put_in(
    events: &mut [Event],
    bound: &PcrSelection,
    command_line: Option<&str>,
    next: &Next<'_>,
) -> Result<()> {
    if events.iter().any(|event| event.extends(11)) {
        return Err(Error::input(
            "--kernel",
            "the present boot was started by a unified kernel image; name the new one with --uki",
        ));
    }
    let is_bound = |pcr: u8| bound.iter().any(|it| it == pcr);
    let image = Image::parse(next.kernel)
        .map_err(|reason| Error::input(format!("kernel {}", next.name), reason));
    let by_grub = events.iter().any(is_grubs);
    if is_bound(7) && secure_boot::is_on(events) {
        secure_boot::check_signer(events, next.name, image.as_ref().map_err(again)?)?;
    }
    if is_bound(4) {
        kernel_program(events, by_grub, image)?;
    }
    if by_grub {
        if is_bound(8) || is_bound(9) {
            under_grub(events, next)?;
        }
    } else if is_bound(9) || is_bound(12) {
        under_firmware(events, command_line, next)?;
    }
    Ok(())
}

fn again(error: &Error) -> Error {
    Error::input("the kernel", error.to_string())
}

fn is_grubs(event: &Event) -> bool {
    event.is_extended()
        && matches!(
            event.measured,
            Measured::GrubCommand(_) | Measured::GrubCommandLine(_) | Measured::GrubFile(_)
        )
}

/// PCR 4: the kernel is the last program that was started, where it was started as one. shim logs
/// it as often as it is asked for it.
fn kernel_program(events: &mut [Event], by_grub: bool, image: Result<Image<'_>>) -> Result<()> {
    let is_program = |event: &Event| {
        event.extends(4) && event.event_type == Some(EventType::EFI_BOOT_SERVICES_APPLICATION)
    };
    let begins = if by_grub {
        let first = events.iter().position(is_grubs);
        first.unwrap_or_default()
    } else {
        0
    };
    let Some(present) = events[begins..].iter().rfind(|event| is_program(event)) else {
        if by_grub {
            // GRUB has loaded it by itself, and measured it into PCR 9 alone.
            return Ok(());
        }
        return Err(cannot(4, "the log does not have the present kernel there"));
    };
    let (present, kernel) = (present.digest, image?.authenticode());
    for event in events[begins..]
        .iter_mut()
        .filter(|event| is_program(event))
    {
        if event.digest == present {
            event.digest = kernel;
        }
    }
    Ok(())
}

/// GRUB: kernel and initrds by the paths that its commands have. These come out of grub.cfg, which
/// is a program: what another one would do is not foretold.
fn under_grub(events: &mut [Event], next: &Next<'_>) -> Result<()> {
    let line = events
        .iter()
        .rev()
        .find_map(|event| match &event.measured {
            Measured::GrubCommandLine(line) if is_digest_of(event, line.as_bytes()) => {
                Some(line.clone())
            }
            _ => None,
        })
        .ok_or_else(|| cannot(8, "the log does not have the command line that GRUB gave"))?;
    let (path, line) = line.split_once(' ').unwrap_or((&line, ""));
    if base_name(path) != base_name(next.name) {
        return Err(cannot(
            8,
            format!(
                "GRUB has started {path}, and for {} it needs another grub.cfg, which is a program \
                 that it measures as it runs",
                next.name
            ),
        ));
    }
    if next.command_line.is_some_and(|new| new.trim() != line) {
        return Err(cannot(
            8,
            "another command line comes out of another grub.cfg, which is a program that GRUB \
             measures as it runs",
        ));
    }
    put_file(events, path, digest(next.kernel))?;
    let Some(initrds) = next.initrds else {
        return Ok(());
    };
    let paths = initrd_paths(events)?;
    if paths.len() != initrds.len() {
        return Err(Error::input(
            "--initrd",
            format!(
                "GRUB gives the kernel {} ({}): name as many, in this order",
                paths.len(),
                paths.join(", ")
            ),
        ));
    }
    for (path, initrd) in paths.iter().zip(initrds) {
        put_file(events, path, digest(initrd))?;
    }
    put_initrd(events, initrds);
    Ok(())
}

/// The files of GRUB's last `initrd`.
fn initrd_paths(events: &[Event]) -> Result<Vec<String>> {
    events
        .iter()
        .rev()
        .find_map(|event| match &event.measured {
            Measured::GrubCommand(command) if is_digest_of(event, command.as_bytes()) => {
                let mut words = command.split_ascii_whitespace();
                let is_it = words.next().is_some_and(|it| it.starts_with("initrd"));
                is_it.then(|| words.map(str::to_owned).collect())
            }
            _ => None,
        })
        .ok_or_else(|| cannot(9, "the log does not have the command that loads the initrd"))
}

fn put_file(events: &mut [Event], path: &str, new: [u8; 32]) -> Result<()> {
    let mut found = false;
    for event in events.iter_mut().filter(|event| event.extends(9)) {
        if matches!(&event.measured, Measured::GrubFile(file) if file == path) {
            event.digest = new;
            found = true;
        }
    }
    if found {
        Ok(())
    } else {
        Err(cannot(
            9,
            format!("GRUB's log does not have the file {path}"),
        ))
    }
}

/// What the kernel's EFI stub finds, whoever gave it.
fn put_initrd(events: &mut [Event], initrds: &[Vec<u8>]) {
    let whole = digest(&joined(initrds.to_vec()));
    for event in events.iter_mut() {
        if event.extends(9) && event.measured == Measured::LinuxInitrd {
            event.digest = whole;
        }
    }
}

/// The kernel as a program of its own, by firmware or systemd-boot.
fn under_firmware(events: &mut [Event], command_line: Option<&str>, next: &Next<'_>) -> Result<()> {
    let is_kernels = |event: &Event| {
        matches!(
            event.measured,
            Measured::LinuxLoadOptions | Measured::LinuxInitrd
        )
    };
    let mut of_kernel = events.iter().filter(|event| event.extends(9)).peekable();
    if of_kernel.peek().is_none() || !of_kernel.all(is_kernels) {
        return Err(cannot(
            9,
            "the log does not have there what the kernel's EFI stub measures, and that alone",
        ));
    }
    if let Some(new) = next.command_line {
        put_command_line(events, command_line, new)?;
    }
    if let Some(initrds) = next.initrds {
        put_initrd(events, initrds);
    }
    Ok(())
}

/// How a command line is in memory.
type Form = fn(&str) -> Vec<u8>;

/// Boot entries have their command line with a NUL at its end or without: as it is now, so it will
/// be.
fn put_command_line(events: &mut [Event], present: Option<&str>, new: &str) -> Result<()> {
    let options = events
        .iter()
        .find(|event| event.extends(9) && event.measured == Measured::LinuxLoadOptions)
        .ok_or_else(|| cannot(9, "this kernel does not measure its command line there"))?
        .digest;
    let bare: Form = |text| {
        let mut bytes = wide(text);
        bytes.truncate(bytes.len() - 2);
        bytes
    };
    let forms: [Form; 2] = [wide, bare];
    let form = present
        .and_then(|line| forms.iter().find(|form| digest(&form(line)) == options))
        .ok_or_else(|| {
            cannot(
                9,
                "the kernel's command line now is not the one that it has measured",
            )
        })?;
    let new = digest(&form(new));
    for event in events.iter_mut() {
        if (event.extends(9) || event.extends(12)) && event.digest == options {
            event.digest = new;
        }
    }
    Ok(())
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
