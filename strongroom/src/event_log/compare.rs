//! What two boots have measured differently into a PCR, in words.
//!
//! Events are the same where their digests are. Of what is left, those of the two logs that are
//! about the same thing, such as one variable or one file, are a change of it; all others came or
//! went. Words are for people; nothing is decided by them.

#[cfg(test)]
mod tests;
mod words;

use std::fmt;

use serde::Serialize;

use super::{Event, EventLog, Measured};

/// How many events that are not the same are looked at. More is another boot altogether, or a log
/// that somebody made up.
const MOST: usize = 64;

/// How many pairs of events are compared to find what stayed in its order.
const PATIENCE: usize = 1 << 20;

/// One thing that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// The PCR that it was measured into.
    pub pcr: u8,
    /// What became of it.
    pub kind: ChangeKind,
    /// The file, variable, section or command, where the log names it.
    pub name: Option<String>,
    /// The same for people.
    pub words: String,
}

/// What became of something that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It is another.
    Changed,
    /// It was not there before.
    Added,
    /// It is not there now.
    Missing,
    /// It is the same, and comes earlier or later.
    Moved,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PCR {}: {}", self.pcr, self.words)
    }
}

/// What is different in a PCR between the boot `before` and the one `now`, none of it twice: what
/// changed or came, in its order, then what went.
pub fn compare(before: &EventLog, now: &EventLog, pcr: u8) -> Vec<Change> {
    let (was, is): (Vec<_>, Vec<_>) = (before.extended(pcr).collect(), now.extended(pcr).collect());
    let (mut was, mut is) = without_common(&was, &is);
    was.truncate(MOST);
    is.truncate(MOST);

    let mut partners: Vec<Option<(&Event, ChangeKind)>> = vec![None; is.len()];
    let rules: [(ChangeKind, Same); 3] = [
        (ChangeKind::Moved, |a, b| a.digest == b.digest),
        (ChangeKind::Changed, words::is_same_thing),
        (ChangeKind::Changed, words::is_in_its_place),
    ];
    for (kind, same) in rules {
        for (event, partner) in is.iter().zip(&mut partners) {
            if partner.is_some() {
                continue;
            }
            if let Some(at) = was.iter().position(|old| same(old, event)) {
                *partner = Some((was.remove(at), kind));
            }
        }
    }

    let mut changes: Vec<Change> = Vec::new();
    let mut add = |change: Change| {
        // A section is measured twice: its name and its content.
        if !changes.contains(&change) {
            changes.push(change);
        }
    };
    for (event, partner) in is.iter().zip(&partners) {
        add(match partner {
            Some((old, ChangeKind::Changed)) => words::changed(pcr, old, event),
            Some((_, kind)) => words::alone(pcr, *kind, event),
            None => words::alone(pcr, ChangeKind::Added, event),
        });
    }
    for event in was {
        add(words::alone(pcr, ChangeKind::Missing, event));
    }
    if changes.is_empty() && pcr == 0 {
        changes.extend(other_locality(before, now));
    }
    changes
}

type Same = fn(&Event, &Event) -> bool;

/// PCR 0 begins with it, and no event extends it.
fn other_locality(before: &EventLog, now: &EventLog) -> Option<Change> {
    let locality = |log: &EventLog| {
        log.events().iter().find_map(|event| match event.measured {
            Measured::StartupLocality(locality) => Some(locality),
            _ => None,
        })
    };
    (locality(before) != locality(now)).then(|| Change {
        pcr: 0,
        kind: ChangeKind::Changed,
        name: None,
        words: "the firmware started the TPM from another locality than when enrolled".to_owned(),
    })
}

/// Both without what stayed the same in its order.
fn without_common<'a>(was: &[&'a Event], is: &[&'a Event]) -> (Vec<&'a Event>, Vec<&'a Event>) {
    let same = |(a, b): &(&&Event, &&Event)| a.digest == b.digest;
    let begin = was.iter().zip(is).take_while(same).count();
    let (was, is) = (&was[begin..], &is[begin..]);
    let end = was
        .iter()
        .rev()
        .zip(is.iter().rev())
        .take_while(same)
        .count();
    let (was, is) = (&was[..was.len() - end], &is[..is.len() - end]);
    if was.len().saturating_mul(is.len()) > PATIENCE {
        return (was.to_vec(), is.to_vec());
    }

    // Longest common subsequence: lengths[i][j] is that of was[i..] and is[j..].
    let width = is.len() + 1;
    let mut lengths = vec![0_u32; (was.len() + 1) * width];
    for (i, old) in was.iter().enumerate().rev() {
        for (j, new) in is.iter().enumerate().rev() {
            lengths[i * width + j] = if old.digest == new.digest {
                lengths[(i + 1) * width + j + 1] + 1
            } else {
                lengths[(i + 1) * width + j].max(lengths[i * width + j + 1])
            };
        }
    }
    let (mut left_was, mut left_is) = (Vec::new(), Vec::new());
    let (mut i, mut j) = (0, 0);
    while i < was.len() && j < is.len() {
        if was[i].digest == is[j].digest {
            (i, j) = (i + 1, j + 1);
        } else if lengths[(i + 1) * width + j] >= lengths[i * width + j + 1] {
            left_was.push(was[i]);
            i += 1;
        } else {
            left_is.push(is[j]);
            j += 1;
        }
    }
    left_was.extend(&was[i..]);
    left_is.extend(&is[j..]);
    (left_was, left_is)
}
