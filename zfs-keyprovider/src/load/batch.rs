//! The batch: the TPM unseals one key after the other; whatever else there is to do for a key, such
//! as the hundred thousands of iterations of a passphrase, happens on other threads meanwhile, on
//! all cores. What there is to do comes part by part, too: ZFS is asked for the next datasets while the
//! TPM unseals the keys of those before.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use strongroom::dataset_key::KeyFormat;
use strongroom::error::{Error, ErrorKind};
use strongroom::object::Metadata;
use strongroom::{Result, Secret};

use super::parts::{Event, Parts};
use super::plan::{Plan, State};
use crate::failure::Failure;
use crate::sealed;
use crate::zfs::{Dataset, Keys, Refused};

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

/// What became of a dataset.
pub(super) enum Outcome {
    Loaded(Metadata),
    /// Nothing was loaded, but this is the dataset's key.
    Checked(Metadata),
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

/// A key on its way to the kernel.
struct Unsealed {
    job: usize,
    candidate: usize,
    dataset: Arc<Dataset>,
    check_only: bool,
    key: Secret,
}

/// Where it has come to.
pub(super) struct Given {
    job: usize,
    candidate: usize,
    answer: Result<(), Refused>,
}

/// Runs a batch: what the plan says, and what is found meanwhile. `unseal` is called on this thread alone, and not any more when `interrupted` is set; `progress` is told
/// how many more datasets there are, and how many of them are done.
pub(super) fn run(
    plan: &mut Plan,
    parts: Parts,
    mut unseal: impl FnMut(&Metadata) -> Result<Secret>,
    interrupted: &AtomicBool,
    keys: &Keys,
    mut progress: impl FnMut(usize, usize),
) -> Done {
    let Parts {
        sender,
        events,
        all_asked,
    } = parts;
    let mut batch = Batch {
        plan,
        jobs: Vec::new(),
        queue: VecDeque::new(),
        on_the_way: 0,
        all_asked,
        done: Done {
            outcomes: Vec::new(),
            stopped: None,
            unasked: None,
        },
        progress: &mut progress,
    };
    batch.add_jobs(jobs(batch.plan));
    let (to_kernel, unsealed) = mpsc::channel::<Unsealed>();
    let unsealed = Mutex::new(unsealed);
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            let (answers, unsealed) = (sender.clone(), &unsealed);
            scope.spawn(move || give(keys, unsealed, &answers));
        }
        // Whoever asks has its own.
        drop(sender);
        while let Some((job, candidate)) = batch.next(&events) {
            let object = &batch.jobs[job].candidates[candidate];
            if interrupted.load(Ordering::Relaxed) {
                batch.fail(job, "left as it was: this was interrupted".to_owned());
                continue;
            }
            if let Some(error) = &batch.done.stopped {
                let reason = error.to_string();
                batch.fail(job, reason);
                continue;
            }
            let dataset = &batch.jobs[job].dataset;
            let key = unseal(object).and_then(|key| sealed::in_form_of(dataset, object, &key));
            match key {
                Ok(key) => {
                    batch.on_the_way += 1;
                    let unsealed = Unsealed {
                        job,
                        candidate,
                        dataset: Arc::clone(dataset),
                        check_only: batch.jobs[job].check_only,
                        key,
                    };
                    to_kernel
                        .send(unsealed)
                        .expect("threads live as long as there is something to send");
                }
                Err(error) if ends_the_batch(&error) => {
                    batch.fail(job, error.to_string());
                    batch.done.stopped = Some(error);
                }
                // Another version may do: the kernel tells whether it is the right one.
                Err(error) => {
                    let reason = format!("{}: {error}", sealed::name(object));
                    match tried(&mut batch.jobs[job], candidate, reason) {
                        Some(next) => batch.queue.push_back((job, next)),
                        None => batch.fail(job, batch.jobs[job].reasons.join("; ")),
                    }
                }
            }
        }
        drop(to_kernel);
    });
    batch.done
}

struct Batch<'a> {
    plan: &'a mut Plan,
    jobs: Vec<Job>,
    /// What is to be unsealed next: a job, and which of its candidates.
    queue: VecDeque<(usize, usize)>,
    /// How many keys are with the threads.
    on_the_way: usize,
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
        let first = self.jobs.len();
        self.queue
            .extend((first..first + jobs.len()).map(|job| (job, 0)));
        self.jobs.extend(jobs);
    }

    /// The next key to unseal, after all that has happened meanwhile: a key that was not the right
    /// one makes the next version the next. `None` when all is done.
    fn next(&mut self, events: &Receiver<Event>) -> Option<(usize, usize)> {
        loop {
            while let Ok(event) = events.try_recv() {
                self.settle(event);
            }
            if let Some(next) = self.queue.pop_front() {
                return Some(next);
            }
            if self.on_the_way == 0 && self.all_asked {
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
            Event::AllAsked(outcome) => {
                self.all_asked = true;
                self.done.unasked = outcome.err();
            }
            Event::Given(given) => {
                self.on_the_way -= 1;
                let job = given.job;
                match settle(given, &mut self.jobs[job]) {
                    Settled::TryNext(candidate) => self.queue.push_back((job, candidate)),
                    Settled::As(outcome) => self.finish(job, outcome),
                }
            }
        }
    }

    fn fail(&mut self, job: usize, reason: String) {
        self.finish(job, Outcome::Failed(reason));
    }

    fn finish(&mut self, job: usize, outcome: Outcome) {
        let name = self.jobs[job].dataset.name.clone();
        self.done.outcomes.push((name, outcome));
        (self.progress)(0, 1);
    }
}

/// What an answer means for a dataset.
enum Settled {
    TryNext(usize),
    As(Outcome),
}

/// Takes note of an answer.
fn settle(given: Given, job: &mut Job) -> Settled {
    let object = job.candidates[given.candidate].clone();
    Settled::As(match given.answer {
        Ok(()) if job.check_only => Outcome::Checked(object),
        Ok(()) => Outcome::Loaded(object),
        Err(Refused::AlreadyLoaded) => Outcome::LoadedMeanwhile,
        Err(Refused::WrongKey) => {
            let reason = format!("{} is not its key", sealed::name(&object));
            if let Some(next) = tried(job, given.candidate, reason) {
                return Settled::TryNext(next);
            }
            Outcome::Failed(format!(
                "{}: its key was changed since, or it was made anew; seal the present key with \
                 `zfs-keyprovider adopt`",
                job.reasons.join("; ")
            ))
        }
        Err(error) => Outcome::Failed(error.to_string()),
    })
}

/// Takes note that a candidate was not it; the next one, if there is any.
fn tried(job: &mut Job, candidate: usize, reason: String) -> Option<usize> {
    log::info!("{}: {reason}", job.dataset.name);
    job.reasons.push(reason);
    let next = candidate + 1;
    (next < job.candidates.len()).then_some(next)
}

/// Whether an error concerns all that is still to be unsealed, and not one object.
fn ends_the_batch(error: &Error) -> bool {
    match error {
        // One object that the TPM does not like.
        Error::NotLoadable { .. } | Error::Tpm { .. } => false,
        other => matches!(other.kind(), ErrorKind::Policy | ErrorKind::Tpm),
    }
}

/// A thread's work: derives what is to be derived, and gives it to the kernel.
fn give(keys: &Keys, unsealed: &Mutex<Receiver<Unsealed>>, answers: &Sender<Event>) {
    loop {
        // Waiting with the lock held: another that waits would wait for the same.
        let received = unsealed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok(unsealed) = received else {
            return;
        };
        let Unsealed { dataset, key, .. } = &unsealed;
        let answer = if unsealed.check_only {
            keys.check(dataset, key)
        } else {
            keys.load(dataset, key)
        };
        let given = Given {
            job: unsealed.job,
            candidate: unsealed.candidate,
            answer,
        };
        if answers.send(Event::Given(given)).is_err() {
            return;
        }
    }
}
