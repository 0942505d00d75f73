//! What there is to load, asked for on a thread of its own: what is found comes as events, among the
//! answers of the threads that give keys to the kernel.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::Scope;

use strongroom::Vault;

use super::batch::Given;
use super::plan::Plan;
use crate::failure::Failure;
use crate::sealed::SealedKeys;
use crate::zfs::Which;

/// What happens while a batch runs.
pub(super) enum Event {
    /// More datasets.
    Part(Plan),
    /// There are no more, or it cannot be found out.
    AllAsked(Result<(), Failure>),
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
            let asked = Plan::make_in_parts(vault, sealed, which, &mut |part| {
                let _ = answers.send(Event::Part(part));
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
                Ok(Event::AllAsked(outcome)) => {
                    self.all_asked = true;
                    outcome?;
                }
                // Nothing is given before a batch runs.
                Ok(Event::Given(_)) | Err(_) => {}
            }
        }
        Ok(())
    }
}
