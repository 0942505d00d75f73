//! What an allowed boot is called, for people: from which file it was predicted, and in which phase
//! it is. A hint in a file that is itself a hint; the TPM knows nothing of it.

use serde::{Deserialize, Serialize};

use super::phase::Phase;
use crate::error::{Error, Result};

/// The most bytes of a name.
const LONGEST: usize = 1024;

/// A branch's label: not empty, and harmless on a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct Label {
    prepared: Option<String>,
    phase: Option<Phase>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Fields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prepared: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    phase: Option<Phase>,
}

impl Label {
    /// `None` where there is nothing to say.
    pub(crate) fn new(prepared: Option<&str>, phase: Option<Phase>) -> Option<Self> {
        let prepared = prepared.map(|name| {
            let mut end = name.len().min(LONGEST);
            while !name.is_char_boundary(end) {
                end -= 1;
            }
            name[..end].replace(char::is_control, "\u{FFFD}")
        });
        Self::of(Fields { prepared, phase })
    }

    /// From which files the boot was predicted; `None` where it is the one that has booted.
    pub fn prepared(&self) -> Option<&str> {
        self.prepared.as_deref()
    }

    /// The phase of the boot, where systemd has any.
    pub fn phase(&self) -> Option<Phase> {
        self.phase
    }

    /// The same of a boot that is no longer to come.
    pub(crate) fn booted(&self) -> Option<Self> {
        Self::new(None, self.phase)
    }

    fn of(fields: Fields) -> Option<Self> {
        (fields.prepared.is_some() || fields.phase.is_some()).then_some(Self {
            prepared: fields.prepared,
            phase: fields.phase,
        })
    }
}

impl TryFrom<Fields> for Label {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self> {
        let name = fields.prepared.as_deref().unwrap_or("-");
        if name.is_empty() || name.len() > LONGEST || name.contains(char::is_control) {
            return Err(Error::input(
                "label",
                "it is not what Strongroom calls a boot",
            ));
        }
        Self::of(fields).ok_or_else(|| Error::input("label", "it is empty"))
    }
}

impl From<Label> for Fields {
    fn from(label: Label) -> Self {
        Self {
            prepared: label.prepared,
            phase: label.phase,
        }
    }
}
