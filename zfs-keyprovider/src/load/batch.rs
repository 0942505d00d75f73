//! The batch: the TPM unseals one key after the other; whatever else there is to do for a key, such
//! as the hundred thousands of iterations of a passphrase, happens on other threads meanwhile, on
//! all cores.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use strongroom::dataset_key::KeyFormat;
use strongroom::error::{Error, ErrorKind};
use strongroom::object::Metadata;
use strongroom::{Result, Secret};

use super::plan::{Plan, State};
use crate::sealed;
use crate::zfs::{Dataset, Keys, Refused};

/// The datasets to unlock, each with the sealed keys that may be its key.
pub(super) struct Batch {
    jobs: Vec<Job>,
}

struct Job {
    dataset: Dataset,
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
}

/// A key on its way to the kernel.
struct Unsealed {
    job: usize,
    candidate: usize,
    key: Secret,
}

/// Where it has come to.
struct Given {
    job: usize,
    candidate: usize,
    answer: Result<(), Refused>,
}

impl Batch {
    pub(super) fn of(plan: &Plan) -> Self {
        let mut jobs: Vec<Job> = plan
            .items
            .values()
            .filter(|item| !item.candidates.is_empty())
            .filter_map(|item| {
                Some(Job {
                    dataset: item.dataset.clone()?,
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
        Self { jobs }
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Runs it. `unseal` is called on this thread alone, and not any more when `interrupted` is
    /// set; `progress` is called for each dataset.
    pub(super) fn run(
        self,
        mut unseal: impl FnMut(&Metadata) -> Result<Secret>,
        interrupted: &AtomicBool,
        keys: &Keys,
        mut progress: impl FnMut(),
    ) -> Done {
        let Self { mut jobs } = self;
        let targets: Vec<(Dataset, bool)> = jobs
            .iter()
            .map(|job| (job.dataset.clone(), job.check_only))
            .collect();
        let (to_kernel, unsealed) = mpsc::channel::<Unsealed>();
        let (answers, given) = mpsc::channel::<Given>();
        let unsealed = Mutex::new(unsealed);
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let mut done = Done {
            outcomes: Vec::with_capacity(jobs.len()),
            stopped: None,
        };
        thread::scope(|scope| {
            for _ in 0..threads.min(jobs.len()) {
                let (answers, unsealed, targets) = (answers.clone(), &unsealed, &targets);
                scope.spawn(move || give(keys, targets, unsealed, &answers));
            }
            drop(answers);
            let mut queue: VecDeque<(usize, usize)> = (0..jobs.len()).map(|job| (job, 0)).collect();
            let mut on_the_way = 0;
            while let Some((job, candidate)) = next(&mut queue, &mut on_the_way, &given, |answer| {
                settle(answer, &mut jobs, &mut done.outcomes, &mut progress)
            }) {
                if interrupted.load(Ordering::Relaxed) {
                    let reason = "left as it was: this was interrupted".to_owned();
                    fail(&jobs[job], reason, &mut done.outcomes, &mut progress);
                    continue;
                }
                if let Some(error) = &done.stopped {
                    let reason = error.to_string();
                    fail(&jobs[job], reason, &mut done.outcomes, &mut progress);
                    continue;
                }
                let object = &jobs[job].candidates[candidate];
                let key = unseal(object)
                    .and_then(|key| sealed::in_form_of(&jobs[job].dataset, object, &key));
                match key {
                    Ok(key) => {
                        on_the_way += 1;
                        let unsealed = Unsealed {
                            job,
                            candidate,
                            key,
                        };
                        to_kernel
                            .send(unsealed)
                            .expect("threads live as long as there is something to send");
                    }
                    Err(error) if ends_the_batch(&error) => {
                        let reason = error.to_string();
                        fail(&jobs[job], reason, &mut done.outcomes, &mut progress);
                        done.stopped = Some(error);
                    }
                    // Another version may do: the kernel tells whether it is the right one.
                    Err(error) => {
                        let reason = format!("{}: {error}", sealed::name(object));
                        let again = tried(&mut jobs[job], candidate, reason);
                        match again {
                            Some(next) => queue.push_back((job, next)),
                            None => fail(
                                &jobs[job],
                                jobs[job].reasons.join("; "),
                                &mut done.outcomes,
                                &mut progress,
                            ),
                        }
                    }
                }
            }
            drop(to_kernel);
        });
        done
    }
}

/// The next key to unseal, after what the threads have answered so far was settled: a key that was
/// not the right one makes the next version the next. `None` when all is done.
fn next(
    queue: &mut VecDeque<(usize, usize)>,
    on_the_way: &mut usize,
    given: &Receiver<Given>,
    mut settle: impl FnMut(Given) -> Option<(usize, usize)>,
) -> Option<(usize, usize)> {
    loop {
        while let Ok(answer) = given.try_recv() {
            *on_the_way -= 1;
            queue.extend(settle(answer));
        }
        if let Some(next) = queue.pop_front() {
            return Some(next);
        }
        if *on_the_way == 0 {
            return None;
        }
        let answer = given.recv().ok()?;
        *on_the_way -= 1;
        queue.extend(settle(answer));
    }
}

/// Takes note of an answer. Where the key was not the right one, answers which is to be tried next.
fn settle(
    given: Given,
    jobs: &mut [Job],
    outcomes: &mut Vec<(String, Outcome)>,
    progress: &mut impl FnMut(),
) -> Option<(usize, usize)> {
    let job = &mut jobs[given.job];
    let object = job.candidates[given.candidate].clone();
    let outcome = match given.answer {
        Ok(()) if job.check_only => Outcome::Checked(object),
        Ok(()) => Outcome::Loaded(object),
        Err(Refused::AlreadyLoaded) => Outcome::LoadedMeanwhile,
        Err(Refused::WrongKey) => {
            let reason = format!("{} is not its key", sealed::name(&object));
            if let Some(next) = tried(job, given.candidate, reason) {
                return Some((given.job, next));
            }
            Outcome::Failed(format!(
                "{}: its key was changed since, or it was made anew; seal the present key with \
                 `zfs-keyprovider adopt`",
                job.reasons.join("; ")
            ))
        }
        Err(error) => Outcome::Failed(error.to_string()),
    };
    outcomes.push((job.dataset.name.clone(), outcome));
    progress();
    None
}

/// Takes note that a candidate was not it; the next one, if there is any.
fn tried(job: &mut Job, candidate: usize, reason: String) -> Option<usize> {
    log::info!("{}: {reason}", job.dataset.name);
    job.reasons.push(reason);
    let next = candidate + 1;
    (next < job.candidates.len()).then_some(next)
}

fn fail(
    job: &Job,
    reason: String,
    outcomes: &mut Vec<(String, Outcome)>,
    progress: &mut impl FnMut(),
) {
    outcomes.push((job.dataset.name.clone(), Outcome::Failed(reason)));
    progress();
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
fn give(
    keys: &Keys,
    targets: &[(Dataset, bool)],
    unsealed: &Mutex<Receiver<Unsealed>>,
    answers: &Sender<Given>,
) {
    loop {
        // Waiting with the lock held: another that waits would wait for the same.
        let received = unsealed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok(Unsealed {
            job,
            candidate,
            key,
        }) = received
        else {
            return;
        };
        let (dataset, check_only) = &targets[job];
        let answer = if *check_only {
            keys.check(dataset, &key)
        } else {
            keys.load(dataset, &key)
        };
        let given = Given {
            job,
            candidate,
            answer,
        };
        if answers.send(given).is_err() {
            return;
        }
    }
}
