//! What there is to load, asked for on a thread of its own: what is found comes as events, among what the
//! other threads of a batch have to say.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::Scope;

use super::batch::{Given, Read};
use super::plan::Plan;
use crate::failure::Failure;
use crate::sealed::SealedKeys;
use crate::zfs::Which;
use strongroom::Vault;

/// What happens while a batch runs.
pub(super) enum Event {
    /// More datasets.
    Part(Plan),
    /// The recovery copies that datasets carry whose keys are to be loaded, by dataset.
    Copies(BTreeMap<String, String>),
    /// There are no more, or it cannot be found out.
    AllAsked(Result<(), Failure>),
    /// A sealed key's file was read, or cannot be.
    Read(Read),
    /// The kernel has taken a key, or not.
    Given(Given),
}

/// The questions, and what has been answered so far.
pub(super) struct Parts {
    pub(super) sender: Sender<Event>,
    pub(super) events: Receiver<Event>,
    /// Whether there is nothing more to come of what was asked.
    pub(super) all_asked: bool,
}

impl Parts {
    /// Begins to ask.
    pub(super) fn ask<'scope>(
        scope: &'scope Scope<'scope, '_>,
        vault: &'scope Vault,
        sealed: &'scope SealedKeys,
        which: Which<'scope>,
    ) -> Self {
        let (sender, events) = mpsc::channel();
        let answers = sender.clone();
        scope.spawn(move || {
            // Nobody may be waiting any more.
            let asked = Plan::make_in_parts(vault, sealed, which, &mut |found| {
                let _ = answers.send(found);
            });
            let _ = answers.send(Event::AllAsked(asked));
        });
        Self {
            sender,
            events,
            all_asked: false,
        }
    }

    /// Takes answers into the plan until it is as one wants it, or there are no more.
    ///
    /// # Errors
    /// Where ZFS or the vault's folder cannot be asked.
    pub(super) fn until(
        &mut self,
        plan: &mut Plan,
        is_enough: impl Fn(&Plan) -> bool,
    ) -> Result<(), Failure> {
        while !self.all_asked && !is_enough(plan) {
            match self.events.recv() {
                Ok(Event::Part(part)) => plan.extend(part),
                Ok(Event::Copies(copies)) => plan.carry(copies),
                Ok(Event::AllAsked(outcome)) => {
                    self.all_asked = true;
                    outcome?;
                }
                // Nothing is read or given before a batch runs.
                Ok(Event::Read(_) | Event::Given(_)) | Err(_) => {}
            }
        }
        Ok(())
    }
}
