//! What this machine notes beside its vault: for `strongroom status`, how the last boot went, and when
//! the recovery kit was last proven; for `strongroom enrol`, what it still owes the middleware. No secret,
//! and no secret's fate is decided by it; each machine's own, in hidden files, which a copy of the vault for
//! a second machine leaves out.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use strongroom::Result;

use crate::durable;

/// How the hand-over of dataset keys went, at boot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct LastBoot {
    /// Seconds since 1970.
    pub(crate) at: u64,
    /// What the kernel calls that boot.
    pub(crate) boot: Option<String>,
    /// How many datasets the middleware was given the keys of.
    pub(crate) handed_over: usize,
    /// The datasets whose keys could not be given.
    pub(crate) failed: Vec<String>,
    /// Why none could.
    pub(crate) reason: Option<String>,
    /// Whether an alert of it stands in the middleware.
    pub(crate) alert: bool,
}

/// That a recovery kit was tried.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct RecoveryTested {
    /// Seconds since 1970.
    pub(crate) at: u64,
    /// How many objects it opened.
    pub(crate) opened: usize,
    /// How many it did not.
    pub(crate) failed: usize,
    /// Whether a backup was tried too.
    pub(crate) backup: bool,
}

/// The datasets whose keys are in the vault, and which the middleware could not be told of.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct NotHandedOver {
    pub(crate) datasets: BTreeSet<String>,
}

impl LastBoot {
    /// Whether everything went well.
    pub(crate) fn is_good(&self) -> bool {
        self.reason.is_none() && self.failed.is_empty()
    }

    /// Whether it is of the boot that this process runs in; `None` where that cannot be told.
    pub(crate) fn is_present(&self) -> Option<bool> {
        Some(self.boot.as_ref()? == &boot_id()?)
    }
}

/// A note, by its file.
pub(crate) trait Note: Serialize + DeserializeOwned {
    const FILE: &'static str;

    /// Writes it into a vault's folder.
    ///
    /// # Errors
    /// [`strongroom::Error::Io`].
    fn write(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).expect("a note is plain data");
        durable::write(&dir.join(Self::FILE), &text, 0o600)
    }

    /// There is nothing to note any more.
    ///
    /// # Errors
    /// [`strongroom::Error::Io`].
    fn remove(dir: &Path) -> Result<()> {
        durable::remove(&dir.join(Self::FILE))
    }

    /// The last one; `None` where there is none that can be read.
    fn read(dir: &Path) -> Option<Self> {
        let text = fs::read(dir.join(Self::FILE)).ok()?;
        serde_json::from_slice(&text)
            .inspect_err(|error| log::warn!("{}: {error}", Self::FILE))
            .ok()
    }
}

impl Note for LastBoot {
    const FILE: &'static str = ".last-boot.json";
}

impl Note for RecoveryTested {
    const FILE: &'static str = ".recovery-test.json";
}

impl Note for NotHandedOver {
    const FILE: &'static str = ".not-handed-over.json";
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// What the kernel calls this boot (random(4)).
pub(crate) fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// A date and time for people, in UTC. Proleptic Gregorian, by Howard Hinnant's days-to-civil algorithm.
pub(crate) fn date(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of year 0.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// How long ago something was, for people.
pub(crate) fn ago(seconds: u64) -> String {
    let past = now().saturating_sub(seconds);
    let (number, unit) = match past {
        0..120 => return "just now".to_owned(),
        120..7_200 => (past / 60, "minutes"),
        7_200..172_800 => (past / 3_600, "hours"),
        _ => (past / 86_400, "days"),
    };
    format!("{number} {unit} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_795_886_100, "2026-11-28 17:15 UTC"),
            (4_107_542_399, "2100-02-28 23:59 UTC"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }
}
