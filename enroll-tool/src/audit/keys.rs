//! The secrets of databases that were found: which places have the same one, and what each opened.

use std::mem;

use strongroom::Secret;

use super::opening::Place;
use crate::truenas::pwenc::{Probe, PwencSecret};

/// How many files of a secret's length are tried that are not called as one.
const MOST_UNNAMED: usize = 256;

/// All secrets that were found, each once.
#[derive(Default)]
pub(crate) struct Keys {
    keys: Vec<Key>,
    /// Files of the right length and another name.
    unnamed: Vec<(Place, Secret)>,
}

/// One secret.
pub(crate) struct Key {
    bytes: Secret,
    pub(crate) secret: PwencSecret,
    pub(crate) probe: Probe,
    /// Where it lies.
    pub(crate) places: Vec<Place>,
    /// Whether it opened anything.
    pub(crate) opened: bool,
}

impl Keys {
    /// How long one is.
    pub(crate) const LEN: usize = 32;

    /// Takes a secret that is called so.
    pub(crate) fn add(&mut self, place: Place, bytes: Secret) {
        let known = self
            .keys
            .iter_mut()
            .find(|key| key.bytes.same_as(bytes.expose()));
        if let Some(key) = known {
            if !key.places.contains(&place) {
                key.places.push(place);
            }
            return;
        }
        let Some(secret) = PwencSecret::new(Secret::copy_of(bytes.expose())) else {
            return;
        };
        self.keys.push(Key {
            bytes,
            probe: secret.probe(),
            secret,
            places: vec![place],
            opened: false,
        });
    }

    /// Takes a file that has a secret's length, and may be one. `false` if it is one too many.
    pub(crate) fn add_unnamed(&mut self, place: Place, bytes: Secret) -> bool {
        let has_room = self.unnamed.len() < MOST_UNNAMED;
        if has_room {
            self.unnamed.push((place, bytes));
        }
        has_room
    }

    /// The secrets, in the order in which they were found.
    pub(crate) fn all(&self) -> &[Key] {
        &self.keys
    }

    /// Notes that a secret opened something.
    pub(crate) fn note_opened(&mut self, key: usize) {
        self.keys[key].opened = true;
    }

    /// Which secret satisfies `test`. One of another name that does is taken as a secret from then on.
    pub(crate) fn find(&mut self, test: impl Fn(&PwencSecret) -> bool) -> Option<usize> {
        if let Some(found) = self.keys.iter().position(|key| test(&key.secret)) {
            return Some(found);
        }
        let found = self.unnamed.iter().position(|(_, bytes)| {
            PwencSecret::new(Secret::copy_of(bytes.expose())).is_some_and(|secret| test(&secret))
        })?;
        let (place, bytes) = self.unnamed.swap_remove(found);
        self.add(place, bytes);
        self.take_copies();
        Some(self.keys.len() - 1)
    }

    /// Takes the files of another name that hold a secret which is known by now.
    pub(crate) fn take_copies(&mut self) {
        for (place, bytes) in mem::take(&mut self.unnamed) {
            if self
                .keys
                .iter()
                .any(|key| key.bytes.same_as(bytes.expose()))
            {
                self.add(place, bytes);
            } else {
                self.unnamed.push((place, bytes));
            }
        }
    }
}
