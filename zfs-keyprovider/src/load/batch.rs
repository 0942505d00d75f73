//! The batch: the TPM unseals one key after the other, and whatever else there is to do for a key happens on
//! other threads meanwhile.
//!
//! ```text
//! ZFS is asked, part by part -> files are read -> the TPM, on the caller's thread -> payloads are opened,
//!                                     ^                                             keys are derived, and
//!                                     +---- the next version, where one is not it -- given to the kernel
//! ```
//!
//! Each step hands on to the next through a queue; what the caller's thread has to know comes back to it as
//! an [`Event`].

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use strongroom::dataset_key::KeyFormat;
use strongroom::error::{Error, ErrorKind};
use strongroom::object::Metadata;
use strongroom::vault::{Genuine, Reader, Unwrapped};
use strongroom::{Result, Unlocked};

use super::parts::{Event, Parts};
use super::plan::{Plan, State};
use crate::failure::Failure;
use crate::sealed;
use crate::zfs::{Dataset, Keys, Refused};

/// What became of a dataset.
pub(super) enum Outcome {
    Loaded(Genuine),
    /// Nothing was loaded, but this is the dataset's key.
    Checked(Genuine),
    /// Someone else was faster.
    LoadedMeanwhile,
    Failed(String),
}

/// What a batch came to.
pub(super) struct Done {
    pub(super) outcomes: Vec<(String, Outcome)>,
    /// What ended it before its time; what was still to do has failed.
    pub(super) stopped: Option<Error>,
    /// Why no more was found out of what there is to do.
    pub(super) unasked: Option<Failure>,
}

/// A sealed key's file, as it was read.
pub(super) struct Read {
    attempt: Attempt,
    object: Result<Genuine>,
}

/// What became of a key on its way to the kernel.
pub(super) struct Given {
    attempt: Attempt,
    answer: Answer,
}

enum Answer {
    /// The kernel has taken it.
    Taken(Genuine),
    Refused(Refused),
    /// It was not even opened.
    NotOpened(Error),
}

/// A dataset to unlock, with the sealed keys that may be its key.
struct Job {
    dataset: Arc<Dataset>,
    /// Newest first.
    candidates: Vec<Metadata>,
    /// Its key is loaded already, and only which of the sealed ones it is, is the question.
    check_only: bool,
    /// Why the candidates so far were not it.
    reasons: Vec<String>,
}

/// One of a job's candidates being tried.
#[derive(Clone, Copy)]
struct Attempt {
    job: usize,
    candidate: usize,
}

/// A file to be read.
struct ToRead {
    attempt: Attempt,
    listed: Metadata,
}

/// A key on its way to the kernel.
struct ToGive {
    attempt: Attempt,
    dataset: Arc<Dataset>,
    check_only: bool,
    object: Unwrapped,
}

/// Runs a batch: what the plan says, and what is found meanwhile. The TPM is used on this thread alone, and
/// not any more when `interrupted` is set; `progress` is told how many more datasets there are, and how many
/// of them are done.
pub(super) fn run(
    plan: &mut Plan,
    parts: Parts,
    unlocked: &mut Unlocked,
    interrupted: &AtomicBool,
    keys: &Keys,
    mut progress: impl FnMut(usize, usize),
) -> Done {
    let Parts {
        sender,
        events,
        all_asked,
    } = parts;
    let reader = unlocked.reader();
    let (to_read, files) = mpsc::channel::<ToRead>();
    let (to_give, opened) = mpsc::channel::<ToGive>();
    let opened = Mutex::new(opened);
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        let answers = sender.clone();
        scope.spawn(move || read(&reader, &files, &answers));
        for _ in 0..threads {
            let (answers, opened) = (sender.clone(), &opened);
            scope.spawn(move || give(keys, opened, &answers));
        }
        // Whoever asks has its own.
        drop(sender);
        let first = jobs(plan);
        let mut batch = Batch {
            plan,
            jobs: Vec::new(),
            to_read,
            ready: VecDeque::new(),
            unfinished: 0,
            all_asked,
            done: Done {
                outcomes: Vec::new(),
                stopped: None,
                unasked: None,
            },
            progress: &mut progress,
        };
        batch.add_jobs(first);
        while let Some((attempt, object)) = batch.next(&events) {
            if interrupted.load(Ordering::Relaxed) {
                batch.fail(
                    attempt.job,
                    "left as it was: this was interrupted".to_owned(),
                );
                continue;
            }
            if let Some(error) = &batch.done.stopped {
                let reason = error.to_string();
                batch.fail(attempt.job, reason);
                continue;
            }
            match unlocked.unwrap_dek(object) {
                Ok(object) => {
                    let job = &batch.jobs[attempt.job];
                    let key = ToGive {
                        attempt,
                        dataset: Arc::clone(&job.dataset),
                        check_only: job.check_only,
                        object,
                    };
                    to_give
                        .send(key)
                        .expect("threads live as long as there is something to send");
                }
                Err(error) => batch.not_it(attempt, error),
            }
        }
        drop(to_give);
        // With its queue the thread that reads ends.
        batch.done
    })
}

/// What the caller's thread keeps account of.
struct Batch<'a> {
    plan: &'a mut Plan,
    jobs: Vec<Job>,
    to_read: Sender<ToRead>,
    /// What the TPM is to unseal next.
    ready: VecDeque<(Attempt, Genuine)>,
    /// How many jobs have no outcome yet.
    unfinished: usize,
    /// Whether all there is to do is in the plan.
    all_asked: bool,
    done: Done,
    progress: &'a mut dyn FnMut(usize, usize),
}

/// What a plan has to do.
fn jobs(plan: &Plan) -> Vec<Job> {
    let items = plan.items.values();
    let mut jobs: Vec<Job> = items
        .filter(|item| !item.candidates.is_empty())
        .filter_map(|item| {
            Some(Job {
                dataset: Arc::new(item.dataset.clone()?),
                candidates: item.candidates.clone(),
                check_only: !matches!(item.state, State::Locked),
                reasons: Vec::new(),
            })
        })
        .collect();
    // What is still to be loaded comes first, and of that what has a long way: passphrases.
    jobs.sort_by_key(|job| {
        let quick = job.dataset.key_format != Some(KeyFormat::Passphrase);
        (job.check_only, quick)
    });
    jobs
}

impl Batch<'_> {
    fn add_jobs(&mut self, jobs: Vec<Job>) {
        (self.progress)(jobs.len(), 0);
        self.unfinished += jobs.len();
        let first = self.jobs.len();
        self.jobs.extend(jobs);
        for job in first..self.jobs.len() {
            self.have_read(Attempt { job, candidate: 0 });
        }
    }

    fn have_read(&self, attempt: Attempt) {
        let listed = self.jobs[attempt.job].candidates[attempt.candidate].clone();
        self.to_read
            .send(ToRead { attempt, listed })
            .expect("the thread that reads lives as long as there is something to send");
    }

    /// The next key to unseal, after all that has happened meanwhile. `None` when all is done.
    fn next(&mut self, events: &Receiver<Event>) -> Option<(Attempt, Genuine)> {
        loop {
            while let Ok(event) = events.try_recv() {
                self.settle(event);
            }
            if let Some(next) = self.ready.pop_front() {
                return Some(next);
            }
            if self.unfinished == 0 && self.all_asked {
                return None;
            }
            let event = events.recv().ok()?;
            self.settle(event);
        }
    }

    fn settle(&mut self, event: Event) {
        match event {
            Event::Part(part) => {
                self.add_jobs(jobs(&part));
                self.plan.extend(part);
            }
            Event::Copies(copies) => self.plan.carry(copies),
            Event::AllAsked(outcome) => {
                self.all_asked = true;
                self.done.unasked = outcome.err();
            }
            Event::Read(Read { attempt, object }) => match object {
                Ok(object) => self.ready.push_back((attempt, object)),
                Err(error) => self.not_it(attempt, error),
            },
            Event::Given(Given { attempt, answer }) => self.settle_answer(attempt, answer),
        }
    }

    fn settle_answer(&mut self, attempt: Attempt, answer: Answer) {
        let job = attempt.job;
        match answer {
            Answer::Taken(object) if self.jobs[job].check_only => {
                self.finish(job, Outcome::Checked(object));
            }
            Answer::Taken(object) => self.finish(job, Outcome::Loaded(object)),
            Answer::Refused(Refused::AlreadyLoaded) => self.finish(job, Outcome::LoadedMeanwhile),
            Answer::Refused(Refused::WrongKey) => {
                let reason = format!("{} is not its key", self.name(attempt));
                if let Err(reasons) = self.try_next(attempt, reason) {
                    let reason = format!(
                        "{reasons}: its key was changed since, or it was made anew; seal the present \
                         key with `zfs-keyprovider adopt`"
                    );
                    self.fail(job, reason);
                }
            }
            Answer::Refused(error) => self.fail(job, error.to_string()),
            Answer::NotOpened(error) => self.not_it(attempt, error),
        }
    }

    /// Takes note that a candidate cannot be had. Another version may do: the kernel tells whether it is
    /// the right one.
    fn not_it(&mut self, attempt: Attempt, error: Error) {
        if ends_the_batch(&error) {
            self.fail(attempt.job, error.to_string());
            self.done.stopped = Some(error);
            return;
        }
        let reason = format!("{}: {error}", self.name(attempt));
        if let Err(reasons) = self.try_next(attempt, reason) {
            self.fail(attempt.job, reasons);
        }
    }

    /// Has the next version tried, if there is any; else all reasons, why none was it.
    fn try_next(&mut self, attempt: Attempt, reason: String) -> Result<(), String> {
        let job = &mut self.jobs[attempt.job];
        log::info!("{}: {reason}", job.dataset.name);
        job.reasons.push(reason);
        let candidate = attempt.candidate + 1;
        if candidate == job.candidates.len() {
            return Err(job.reasons.join("; "));
        }
        self.have_read(Attempt {
            candidate,
            ..attempt
        });
        Ok(())
    }

    fn name(&self, attempt: Attempt) -> String {
        sealed::name(&self.jobs[attempt.job].candidates[attempt.candidate])
    }

    fn fail(&mut self, job: usize, reason: String) {
        self.finish(job, Outcome::Failed(reason));
    }

    fn finish(&mut self, job: usize, outcome: Outcome) {
        let name = self.jobs[job].dataset.name.clone();
        self.done.outcomes.push((name, outcome));
        self.unfinished -= 1;
        (self.progress)(0, 1);
    }
}

/// Whether an error concerns all that is still to be unsealed, and not one object.
fn ends_the_batch(error: &Error) -> bool {
    match error {
        // One object that the TPM does not like.
        Error::NotLoadable { .. } | Error::Tpm { .. } => false,
        other => matches!(other.kind(), ErrorKind::Policy | ErrorKind::Tpm),
    }
}

/// A thread's work: reads files, and sees that they are genuine.
fn read(reader: &Reader, files: &Receiver<ToRead>, answers: &Sender<Event>) {
    for ToRead { attempt, listed } in files {
        let object = reader.read(&listed);
        if answers.send(Event::Read(Read { attempt, object })).is_err() {
            return;
        }
    }
}

/// A thread's work: opens payloads, derives what is to be derived, and gives it to the kernel.
fn give(keys: &Keys, opened: &Mutex<Receiver<ToGive>>, answers: &Sender<Event>) {
    loop {
        // Waiting with the lock held: another that waits would wait for the same.
        let received = opened.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(key) = received else {
            return;
        };
        let given = Given {
            attempt: key.attempt,
            answer: key.give(keys),
        };
        if answers.send(Event::Given(given)).is_err() {
            return;
        }
    }
}

impl ToGive {
    fn give(self, keys: &Keys) -> Answer {
        let Self {
            dataset, object, ..
        } = self;
        let opened = object.open().and_then(|(object, key)| {
            let key = sealed::in_form_of(&dataset, object.metadata(), &key)?;
            Ok((object, key))
        });
        let (object, key) = match opened {
            Ok(opened) => opened,
            Err(error) => return Answer::NotOpened(error),
        };
        let taken = if self.check_only {
            keys.check(&dataset, &key)
        } else {
            keys.load(&dataset, &key)
        };
        match taken {
            Ok(()) => Answer::Taken(object),
            Err(refused) => Answer::Refused(refused),
        }
    }
}
