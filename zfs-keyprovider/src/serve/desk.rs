//! Keys out of the vault, one at a time on a thread of their own, each within a bounded time.
//!
//! A TPM that hangs holds that thread, and nothing else: whoever asks is answered when the time is
//! up.

use std::fmt;
use std::fs;
use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use strongroom::error::ErrorKind;
use strongroom::{Secret, Tcti};

use super::line::{Line, No};
use crate::VaultPlace;
use crate::failure::Failure;
use crate::zfs::ZfsError;

/// What becomes of the answer.
pub(super) type Answer = Box<dyn FnOnce(Result<Secret, Refusal>) + Send>;

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The vault has no such key.
    NoSuchKey,
    /// The policy refuses this boot.
    Policy,
    /// The dataset is not the one that the key was sealed for, or the key is none that the dataset
    /// could have.
    NotUsable,
    /// TPM, vault or ZFS failed, or the time was up.
    Failed,
}

impl Refusal {
    fn of(failure: &Failure) -> Self {
        match failure {
            Failure::Vault(error) => match error.kind() {
                ErrorKind::NoObject => Self::NoSuchKey,
                ErrorKind::Policy => Self::Policy,
                ErrorKind::Input => Self::NotUsable,
                ErrorKind::Tpm | ErrorKind::Vault => Self::Failed,
            },
            Failure::Dataset { code, .. } if *code == ErrorKind::NoObject.exit_code() => {
                Self::NoSuchKey
            }
            Failure::Dataset { .. } => Self::NotUsable,
            _ => Self::Failed,
        }
    }
}

/// The process that opens a file.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pid: u32,
    name: String,
}

impl Caller {
    pub(super) fn new(pid: u32) -> Self {
        let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        Self::named(pid, name.trim_ascii_end())
    }

    fn named(pid: u32, name: &[u8]) -> Self {
        // Its own choice, and it goes into a log.
        let name = String::from_utf8_lossy(name).escape_debug().to_string();
        Self { pid, name }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, name } = self;
        if name.is_empty() {
            write!(f, "pid {pid}")
        } else {
            write!(f, "pid {pid} ({name})")
        }
    }
}

/// Where keys are asked for.
pub(super) struct Desk {
    orders: Sender<Order>,
    deadlines: Sender<(Instant, Order)>,
    patience: Duration,
}

/// The other side of a desk, where nobody works yet.
pub(super) struct Backroom {
    orders: Receiver<Order>,
    deadlines: Receiver<(Instant, Order)>,
}

/// Who wants which key. It is answered once, by whoever comes first.
#[derive(Clone)]
struct Order {
    dataset: String,
    caller: Caller,
    answer: Arc<Mutex<Option<Answer>>>,
}

impl Order {
    fn answer(&self) -> MutexGuard<'_, Option<Answer>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_answer(&self) -> Option<Answer> {
        self.answer().take()
    }

    /// Gets the key, unless the time was up before its turn came.
    fn serve(&self, key: impl FnOnce() -> Result<Secret, Failure>) {
        if self.answer().is_none() {
            return;
        }
        let key = key();
        let Self {
            dataset, caller, ..
        } = self;
        let Some(answer) = self.take_answer() else {
            log::warn!("the key of {dataset} came too late for {caller}");
            return;
        };
        match key {
            Ok(key) => {
                log::info!("the key of {dataset} is given to {caller}");
                answer(Ok(key));
            }
            Err(error) => {
                log::error!("the key of {dataset} is not given to {caller}: {error}");
                answer(Err(Refusal::of(&error)));
            }
        }
    }

    fn is_due(&self) {
        let Self {
            dataset, caller, ..
        } = self;
        if let Some(answer) = self.take_answer() {
            log::error!(
                "the key of {dataset} is not given to {caller}: the TPM does not answer in time"
            );
            answer(Err(Refusal::Failed));
        }
    }
}

impl Desk {
    /// A desk at which one can queue already.
    pub(super) fn new(patience: Duration) -> (Self, Backroom) {
        let (orders, ordered) = mpsc::channel();
        let (deadlines, set) = mpsc::channel();
        let desk = Self {
            orders,
            deadlines,
            patience,
        };
        let backroom = Backroom {
            orders: ordered,
            deadlines: set,
        };
        (desk, backroom)
    }

    /// Asks for a dataset's key; `answer` is called in any case, from another thread or this one.
    pub(super) fn ask(&self, dataset: String, caller: Caller, answer: Answer) {
        let order = Order {
            dataset,
            caller,
            answer: Arc::new(Mutex::new(Some(answer))),
        };
        let due = Instant::now() + self.patience;
        let is_taken = self.deadlines.send((due, order.clone())).is_ok()
            && self.orders.send(order.clone()).is_ok();
        if !is_taken {
            order.is_due();
        }
    }
}

impl Backroom {
    /// Starts the two threads: one that gets keys, and one that keeps time.
    pub(super) fn open(self, vault: VaultPlace, tcti: Tcti, mut line: Line) -> io::Result<()> {
        let Self { orders, deadlines } = self;
        thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || {
                for order in orders {
                    order.serve(|| key(&vault, &tcti, &mut line, &order.dataset));
                }
            })?;
        thread::Builder::new()
            .name("deadlines".to_owned())
            .spawn(move || {
                // All have the same time, so that they are due in the order in which they came.
                for (due, order) in deadlines {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    order.is_due();
                }
            })?;
        Ok(())
    }
}

/// A dataset's key from the vault as it is now, in the dataset's keyformat.
fn key(vault: &VaultPlace, tcti: &Tcti, line: &mut Line, dataset: &str) -> Result<Secret, Failure> {
    // Before the TPM is opened, which others may wait for.
    let choice = line.choice(dataset).map_err(|no| match no {
        No::NoKey(reason) => Failure::unknown(dataset, reason),
        No::NotUsable(reason) => Failure::dataset(dataset, reason),
        No::Unclear(reason) => Failure::Zfs(ZfsError::Failed(reason)),
    })?;
    let mut unlocked = vault.open()?.unlock(tcti)?;
    let (object, key) = choice.open(
        |object| unlocked.unseal(object),
        |key| line.fits(dataset, key),
    )?;
    Ok(choice.in_form(&object, &key)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(desk: &Desk) -> Receiver<Result<Secret, Refusal>> {
        let (sender, answer) = mpsc::channel();
        let answered = move |key| sender.send(key).expect("somebody waits");
        desk.ask(
            "tank".to_owned(),
            Caller::named(1, b"x"),
            Box::new(answered),
        );
        answer
    }

    #[test]
    fn who_waits_too_long_is_answered_and_a_key_that_comes_later_goes_nowhere() {
        let (desk, backroom) = Desk::new(Duration::ZERO);
        let answer = ask(&desk);
        let order = backroom.orders.recv().expect("an order");
        let (_, same) = backroom.deadlines.recv().expect("a deadline");
        order.serve(|| {
            same.is_due();
            Ok(Secret::copy_of(b"too late"))
        });
        assert_eq!(
            answer.recv().expect("an answer").err(),
            Some(Refusal::Failed)
        );
        // What nobody waits for any more costs the TPM nothing.
        order.serve(|| panic!("the TPM was asked"));
    }

    #[test]
    fn a_key_that_comes_in_time_is_given_and_nobody_is_sent_away_later() {
        let (desk, backroom) = Desk::new(Duration::ZERO);
        let answer = ask(&desk);
        let order = backroom.orders.recv().expect("an order");
        order.serve(|| Ok(Secret::copy_of(b"a key")));
        order.is_due();
        let key = answer.recv().expect("an answer").expect("a key");
        assert_eq!(key.expose(), b"a key");
        assert!(answer.recv().is_err());
    }

    #[test]
    fn a_desk_at_which_nobody_works_any_more_sends_away_at_once() {
        let (desk, backroom) = Desk::new(Duration::from_secs(3600));
        drop(backroom);
        let answer = ask(&desk).recv().expect("an answer");
        assert_eq!(answer.err(), Some(Refusal::Failed));
    }

    #[test]
    fn the_name_of_a_caller_makes_no_line_of_the_log() {
        let caller = Caller::named(7, b"a\nerror: b");
        assert_eq!(caller.to_string(), "pid 7 (a\\nerror: b)");
        let pid = std::process::id();
        let caller = Caller::new(pid).to_string();
        assert!(caller.starts_with(&format!("pid {pid} (")), "{caller}");
    }
}
