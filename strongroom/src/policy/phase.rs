//! systemd's phases of a boot: words that it extends into PCR 11 as it goes, so that a key that was
//! given out early is not given out later, and the other way round (systemd-pcrphase.service(8)).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Error;

/// The PCR that they are extended into.
pub(crate) const PCR: u8 = 11;

/// How far a boot has come, as far as keys can be asked for there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// In an initrd of systemd's: where the root file system is unlocked.
    Initrd,
    /// Before the basic system is up: where datasets are unlocked and mounted.
    Start,
    /// While services are started.
    Sysinit,
    /// When all that the boot starts has been started.
    Ready,
}

impl Phase {
    /// Those in which a running system asks for keys.
    pub const USUAL: [Self; 3] = [Self::Start, Self::Sysinit, Self::Ready];

    const NAMES: [(Self, &'static str); 4] = [
        (Self::Initrd, "initrd"),
        (Self::Start, "start"),
        (Self::Sysinit, "sysinit"),
        (Self::Ready, "ready"),
    ];

    /// What was extended by then. Not every initrd has systemd in it.
    fn words(self, by_initrd: bool) -> &'static [&'static str] {
        let all: &[&str] = if by_initrd {
            &["enter-initrd", "leave-initrd", "sysinit", "ready"]
        } else {
            &["sysinit", "ready"]
        };
        let after_initrd = all.len() - 2;
        match self {
            Self::Initrd => &all[..usize::from(by_initrd)],
            Self::Start => &all[..after_initrd],
            Self::Sysinit => &all[..=after_initrd],
            Self::Ready => all,
        }
    }
}

/// How a machine's boots go through the phases: what its initrd does, and how far the present boot
/// has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Course {
    by_initrd: bool,
    pub(crate) present: Phase,
}

impl Course {
    /// The course in which exactly these digests were extended by now, if there is one.
    pub(crate) fn of(extended: &[[u8; 32]]) -> Option<Self> {
        Self::all().find(|course| course.digests(course.present).eq(extended.iter().copied()))
    }

    /// The course that leads from what the image left to the present value, if one does. For where
    /// systemd keeps no log of what it extends (before 253).
    pub(crate) fn between(image: [u8; 32], present: &[u8; 32]) -> Option<Self> {
        Self::all().find(|course| course.value(image, course.present) == *present)
    }

    /// What a PCR comes to in a phase.
    pub(crate) fn value(self, image: [u8; 32], phase: Phase) -> [u8; 32] {
        self.digests(phase).fold(image, |value, digest| {
            Sha256::new_with_prefix(value)
                .chain_update(digest)
                .finalize()
                .into()
        })
    }

    fn digests(self, phase: Phase) -> impl Iterator<Item = [u8; 32]> {
        phase
            .words(self.by_initrd)
            .iter()
            .map(|word| Sha256::digest(word).into())
    }

    /// Where nothing was extended there is no course: nobody can know whether anything will be.
    fn all() -> impl Iterator<Item = Self> {
        [false, true].into_iter().flat_map(|by_initrd| {
            Phase::NAMES
                .into_iter()
                .map(move |(present, _)| Self { by_initrd, present })
                .filter(|course| !course.present.words(course.by_initrd).is_empty())
        })
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::NAMES.iter().find(|(phase, _)| phase == self);
        f.write_str(known.map_or("", |(_, name)| name))
    }
}

impl FromStr for Phase {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let known = Self::NAMES.iter().find(|(_, name)| *name == text);
        known.map(|(phase, _)| *phase).ok_or_else(|| {
            Error::input(
                format!("phase {text:?}"),
                "the phases are initrd, start, sysinit and ready",
            )
        })
    }
}
