//! `load`: every encryption root that is locked, and of which the vault has a key, unlocked in one
//! batch at the TPM.
//!
//! What is to be done is found without a TPM ([`plan`]), and part by part ([`parts`]): as soon as there is
//! something to do, keys go from the TPM to the kernel ([`batch`]). At last each dataset's recovery copy
//! is brought up to date, which never fails the rest.

mod batch;
mod copies;
mod parts;
mod plan;
mod report;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use strongroom::error::{Error, ErrorKind};
use strongroom::object::TokenName;
use strongroom::policy::Fence;
use strongroom::vault;
use strongroom::{Tcti, Unlocked, Vault};

use crate::Cli;
use crate::failure::Failure;
use crate::login::{self, AskPin, Login};
use crate::sealed::SealedKeys;
use crate::zfs::{Keys, Which};
use strongroom_console as console;

use self::batch::Outcome;
use self::parts::Parts;
use self::plan::{Plan, State};

#[derive(Debug, clap::Args)]
#[allow(
    clippy::struct_excessive_bools,
    clippy::option_option,
    reason = "flags of a command line are just that, and one may have a value or none"
)]
pub(crate) struct Load {
    /// The datasets, each an encryption root
    #[arg(value_name = "DATASET", required_unless_present = "all")]
    datasets: Vec<String>,

    /// All encryption roots of all imported pools
    #[arg(short, long, conflicts_with = "datasets")]
    all: bool,

    /// The encryption roots below the datasets too
    #[arg(short, long)]
    recursive: bool,

    /// Whatever comes of it, extend the fences of the vault's tokens at the end, or this PCR too: what is
    /// behind them opens no more until a restart
    #[arg(long, value_name = "PCR", num_args = 0..=1, require_equals = true)]
    fence: Option<Option<Fence>>,

    /// Say what would be loaded, and change nothing; needs no TPM
    #[arg(long, conflicts_with = "fence")]
    dry_run: bool,

    #[command(flatten)]
    pin: AskPin,

    /// Report as JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(cli: &Cli, args: &Load) -> Result<(), Failure> {
    let outcome = load_keys(cli, args);
    let Some(named) = args.fence else {
        return outcome;
    };
    match (outcome, close_fences(cli, named)) {
        (Ok(()), closed) => closed,
        (failed, Ok(())) => failed,
        (failed, Err(open)) => {
            log::error!("the fence may be open: {open}");
            failed
        }
    }
}

fn load_keys(cli: &Cli, args: &Load) -> Result<(), Failure> {
    let which = if args.all {
        Which::All
    } else {
        Which::Named {
            names: &args.datasets,
            recursive: args.recursive,
        }
    };
    let vault = cli.vault()?;
    let sealed = SealedKeys::list(&vault)?;
    thread::scope(|scope| {
        let mut parts = Parts::ask(scope, &vault, &sealed, which);
        let mut plan = Plan::default();
        // Whether somebody is to be asked for a PIN is for all to say.
        if args.dry_run || sealed.behind_pin() {
            parts.until(&mut plan, |_| false)?;
        } else {
            parts.until(&mut plan, Plan::needs_the_vault)?;
        }
        if args.dry_run {
            let outcome = finish(&plan, None);
            report::show(args.json, &plan, &report::Way::dry(), &outcome);
            return outcome;
        }
        let keys = Keys::open();
        let mut way = report::Way::through(&keys);
        let (mut stopped, mut unasked) = (None, None);
        if plan.needs_the_vault() {
            let unlocked = cli
                .tcti()
                .and_then(|tcti| unlock(&vault, &tcti, &mut plan, &args.pin));
            match unlocked {
                // What was to be done is behind a PIN that was not given.
                Ok(None) => {}
                Ok(Some(mut unlocked)) => {
                    way.tpm = Some(unlocked.tcti().to_owned());
                    (stopped, unasked) = load(&mut plan, parts, &mut unlocked, &keys);
                    copies::bring_up_to_date(&mut plan, &sealed, &unlocked);
                }
                Err(error) => {
                    parts.until(&mut plan, |_| false)?;
                    if plan.has_to_load() {
                        plan.leave_locked();
                        stopped = Some(error);
                    } else {
                        // Copies alone are no reason to fail.
                        log::warn!("recovery copies were not brought up to date: {error}");
                    }
                }
            }
        }
        let outcome = finish(&plan, stopped);
        report::show(args.json, &plan, &way, &outcome);
        unasked.map_or(outcome, Err)
    })
}

/// Unlocks the vault, and where a key that is to be loaded is behind a PIN, by that. Without it,
/// what is behind it is left as it is, and the rest is done.
fn unlock(
    vault: &Vault,
    tcti: &Tcti,
    plan: &mut Plan,
    how: &AskPin,
) -> Result<Option<Unlocked>, Error> {
    if plan.has_to_load_behind_pin() {
        match login::log_in(vault, tcti, &TokenName::datasets(), how)? {
            Login::In(logged_in) => return logged_in.unlock().map(Some),
            Login::Out(failure) => {
                log::error!("{failure}");
                plan.leave_behind_pin(&failure);
            }
        }
    } else {
        // For a recovery copy alone nobody is asked.
        plan.pass_over_behind_pin();
    }
    if plan.needs_the_vault() {
        vault.unlock(tcti).map(Some)
    } else {
        Ok(None)
    }
}

/// Closes the fences that the vault knows of, and the one that was named even where there is no vault.
fn close_fences(cli: &Cli, named: Option<Fence>) -> Result<(), Failure> {
    let known = cli.vault().map(|vault| vault.fences());
    let mut fences = match (known, named) {
        (Err(error), None) => return Err(error.into()),
        (known, _) => known.unwrap_or_default(),
    };
    fences.extend(named.filter(|named| !fences.contains(named)));
    vault::close_fences(&cli.tcti()?, &fences)?;
    for fence in fences {
        log::info!("the fence {fence} is closed");
    }
    Ok(())
}

/// Loads what the plan says and what is still found, and writes down in it what became of it. Answers what
/// ended the batch before its time, and why what else there may be was not found out.
fn load(
    plan: &mut Plan,
    parts: Parts,
    unlocked: &mut Unlocked,
    keys: &Keys,
) -> (Option<Error>, Option<Failure>) {
    let interrupted = until_interrupted();
    let bar = console::progress("loading", 0);
    let done = batch::run(plan, parts, unlocked, &interrupted, keys, |more, done| {
        bar.inc_length(more as u64);
        bar.inc(done as u64);
    });
    bar.finish_and_clear();
    for (name, outcome) in done.outcomes {
        let Some(item) = plan.items.get_mut(&name) else {
            continue;
        };
        match outcome {
            Outcome::Loaded(object) => {
                item.state = State::Loaded {
                    object: object.metadata().clone(),
                };
                item.copied = Some(object);
            }
            Outcome::Checked(object) => item.copied = Some(object),
            Outcome::LoadedMeanwhile => item.state = State::AlreadyLoaded,
            Outcome::Failed(reason) if matches!(item.state, State::AlreadyLoaded) => {
                log::warn!("{name}: its recovery copy was not brought up to date: {reason}");
            }
            Outcome::Failed(reason) => item.state = State::Failed { reason, code: 1 },
        }
    }
    (done.stopped, done.unasked)
}

/// Is set by the first signal that asks for an end: what is in the TPM is flushed then, which the
/// kernel's device does not do by itself. The second signal ends the process.
fn until_interrupted() -> Arc<AtomicBool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let flag = Arc::clone(&interrupted);
        let ours = flag::register_conditional_default(signal, Arc::clone(&flag))
            .and_then(|_| flag::register(signal, flag));
        if let Err(error) = ours {
            log::info!("signal {signal} ends this at once: {error}");
        }
    }
    interrupted
}

/// What the process ends with.
fn finish(plan: &Plan, stopped: Option<Error>) -> Result<(), Failure> {
    let codes: Vec<u8> = plan
        .items
        .values()
        .filter_map(|item| match &item.state {
            State::Failed { code, .. } => Some(*code),
            _ => None,
        })
        .collect();
    if let (Some(error), false) = (stopped, codes.is_empty()) {
        return Err(Failure::Reported(error));
    }
    if codes.is_empty() {
        return Ok(());
    }
    let total = plan.items.len();
    let unknown = ErrorKind::NoObject.exit_code();
    let code = match codes.first() {
        Some(&first) if codes.iter().any(|code| *code != first) => 1,
        // Others were known, or loaded.
        Some(&first) if first == unknown && codes.len() < total => 1,
        Some(_) if plan.has_loaded() => 1,
        first => first.copied().unwrap_or(1),
    };
    Err(Failure::Partial {
        failed: codes.len(),
        total,
        code,
    })
}
