//! Another unified kernel image in the place of the present one: systemd's stub measures its
//! sections into PCR 11, firmware the image and maybe the kernel in it into PCR 4, and the kernel
//! its command line and initrd into PCR 9.

use super::stub::UnifiedImage;
use super::{cannot, digest, is_digest_of, pe, secure_boot};
use crate::error::{Error, Result};
use crate::event_log::{Event, EventType, Measured};
use crate::policy::PcrSelection;

/// Puts an image in the place of the one that the log has, for the PCRs that count.
pub(super) fn put_in(
    events: &mut Vec<Event>,
    bound: &PcrSelection,
    name: &str,
    content: &[u8],
) -> Result<()> {
    let refuse = |reason: String| Error::input(format!("kernel image {name}"), reason);
    let image = UnifiedImage::parse(content).map_err(refuse)?;
    let sections = sections_of_log(events)?;
    let is_bound = |pcr: u8| bound.iter().any(|it| it == pcr);
    if is_bound(7) {
        secure_boot::check_signer(events, name, image.image())?;
    }
    if is_bound(4) {
        let kernel = image.linux().map_err(refuse)?;
        let kernel = pe::Image::parse(&kernel)
            .map_err(|reason| refuse(format!("its kernel: {reason}")))?
            .authenticode();
        programs(events, sections.start, image.image().authenticode(), kernel)?;
    }
    if is_bound(9) {
        kernels_own(events, &image, refuse)?;
    }
    if is_bound(11) {
        let measured = image.measured().map_err(refuse)?;
        let new = measured.iter().flat_map(|(name, content)| {
            [
                section(name, digest(&[name.as_bytes(), b"\0"].concat())),
                section(name, digest(content)),
            ]
        });
        events.splice(sections, new);
    }
    Ok(())
}

/// Where the log has the present image's sections: one unbroken run, in which each has its name and
/// then its content.
fn sections_of_log(events: &[Event]) -> Result<std::ops::Range<usize>> {
    let places: Vec<_> = (0..events.len())
        .filter(|place| events[*place].extends(11))
        .collect();
    let (Some(first), Some(last)) = (places.first(), places.last()) else {
        return Err(Error::input(
            "the present boot",
            "it was not started by a unified kernel image that measures itself, so that nothing \
             can be put in its place; name the kernel with --kernel, or enrol again after the first \
             boot of the image",
        ));
    };
    let range = *first..*last + 1;
    let of_stub = |event: &Event| matches!(event.measured, Measured::StubSection(_));
    let unbroken = places.len() == range.len() && places.iter().all(|at| of_stub(&events[*at]));
    let named = events[range.clone()].chunks(2).all(|pair| match pair {
        [name, _] => match &name.measured {
            Measured::StubSection(said) => is_digest_of(name, &[said.as_bytes(), b"\0"].concat()),
            _ => false,
        },
        _ => false,
    });
    if unbroken && named {
        Ok(range)
    } else {
        Err(cannot(
            11,
            "the log has something else there than the sections of one unified kernel image",
        ))
    }
}

/// PCR 4: the image is the last program before its stub measures, and the kernel in it, where
/// firmware is asked to load that, the one that comes after.
fn programs(events: &mut [Event], stub: usize, image: [u8; 32], kernel: [u8; 32]) -> Result<()> {
    let is_program = |event: &Event| {
        event.extends(4) && event.event_type == Some(EventType::EFI_BOOT_SERVICES_APPLICATION)
    };
    let (before, after) = events.split_at_mut(stub);
    let started = before
        .iter_mut()
        .rev()
        .find(|event| is_program(event))
        .ok_or_else(|| cannot(4, "the log does not have the present kernel image there"))?;
    started.digest = image;
    for event in after.iter_mut().filter(|event| event.extends(4)) {
        if !is_program(event) {
            return Err(cannot(
                4,
                "the stub is followed by something else than a kernel",
            ));
        }
        event.digest = kernel;
    }
    Ok(())
}

/// PCR 9: what the kernel's EFI stub measures of what systemd's stub gives it.
fn kernels_own(
    events: &mut [Event],
    image: &UnifiedImage<'_>,
    refuse: impl Fn(String) -> Error + Copy,
) -> Result<()> {
    let overridden = command_line_from_outside(events, image, refuse)?;
    for event in events.iter_mut().filter(|event| event.extends(9)) {
        event.digest = match event.measured {
            Measured::LinuxLoadOptions if overridden => event.digest,
            Measured::LinuxLoadOptions => {
                digest(&super::wide(&image.command_line().map_err(refuse)?))
            }
            Measured::LinuxInitrd => digest(&image.initrd().map_err(refuse)?),
            _ => {
                return Err(cannot(
                    9,
                    "something else than the kernel of the image is measured there",
                ));
            }
        };
    }
    Ok(())
}

/// Whether the command line comes from the boot entry or the boot menu, and so stays what it is.
/// The stub measures it into PCR 12 then; anything else there goes into the kernel's initrd or
/// command line besides, and nothing says what it was.
fn command_line_from_outside(
    events: &[Event],
    image: &UnifiedImage<'_>,
    refuse: impl Fn(String) -> Error,
) -> Result<bool> {
    let mut outside = events
        .iter()
        .filter(|event| event.extends(12) || event.extends(13))
        .peekable();
    if outside.peek().is_none() {
        return Ok(false);
    }
    let options = events
        .iter()
        .find(|event| event.extends(9) && event.measured == Measured::LinuxLoadOptions);
    let same = |event: &Event| options.is_some_and(|options| options.digest == event.digest);
    if !outside.all(|event| event.extends(12) && same(event)) {
        return Err(cannot(
            9,
            "credentials, extensions or add-ons from outside come with the image, as PCRs 12 and 13 \
             say, and become part of what the kernel measures",
        ));
    }
    if secure_boot::is_on(events) && image.has_command_line().map_err(refuse)? {
        return Err(cannot(
            9,
            "the command line came from outside, which the stub of an image with one of its own \
             does not take while Secure Boot is on",
        ));
    }
    Ok(true)
}

fn section(name: &str, digest: [u8; 32]) -> Event {
    Event {
        pcr: 11,
        event_type: Some(EventType::IPL),
        digest,
        data: super::wide(name),
        measured: Measured::StubSection(name.to_owned()),
    }
}
