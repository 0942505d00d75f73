//! `strongroom hand-over`: dataset keys into the memory of TrueNAS's middleware, at boot, before it
//! imports pools. Its own unlock then works as it is, and nothing of them is written anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;
use strongroom::dataset_key::KeyFormat;
use strongroom::error::Error;
use strongroom::object::{KEYFORMAT, Kind, Metadata};
use strongroom::vault::Listing;
use strongroom::{Secret, Unlocked, Vault};

use super::Place;
use crate::cli::HandOver;
use crate::failure::Failure;
use crate::notes::{self, LastBoot, Note};
use crate::output::{self, say};
use crate::truenas::middleware::{MemoryKeys, Middleware, Protocol};

pub(super) fn run(place: &Place, args: &HandOver) -> Result<(), Failure> {
    let mut desk = Desk {
        args,
        middleware: None,
    };
    let outcome = hand_over(place, &mut desk);
    let done = match outcome {
        // Nothing was to be done, and nothing is to be noted.
        Ok(done)
            if args.only_missing
                && done.given == 0
                && done.failed.is_empty()
                && done.stopped.is_none() =>
        {
            report(place, &done);
            return Ok(());
        }
        Ok(done) => done,
        Err(failure) => {
            if matches!(failure, Failure::Vault(Error::Input { .. })) {
                // It is the middleware's. Another connection is not waited for as long.
                desk.middleware = None;
            }
            note(place, &mut desk, 0, Vec::new(), Some(failure.to_string()));
            return Err(failure);
        }
    };
    let reason = done.stopped.as_ref().map(Error::to_string);
    note(place, &mut desk, done.given, done.failed.clone(), reason);
    if let Some(error) = done.stopped {
        return Err(error.into());
    }
    report(place, &done);
    match done.failed.len() {
        0 => Ok(()),
        failed => Err(Failure::Partial {
            failed,
            total: failed + done.given,
        }),
    }
}

/// Where keys are handed over.
struct Desk<'a> {
    args: &'a HandOver,
    middleware: Option<Middleware>,
}

impl Desk<'_> {
    /// The middleware, as soon as it answers.
    fn middleware(&mut self, patience: u64) -> Result<&mut Middleware, Error> {
        if self.middleware.is_none() {
            let patience = Duration::from_secs(patience);
            self.middleware = Some(Middleware::connect(&self.args.socket, patience)?);
        }
        Ok(self.middleware.as_mut().expect("it was just put there"))
    }
}

/// What was handed over.
pub(super) struct Done {
    given: usize,
    had: usize,
    failed: Vec<String>,
    /// What was in the way of all that came after it.
    pub(super) stopped: Option<Error>,
    protocol: Protocol,
}

/// Of which datasets keys are handed over.
#[derive(Clone, Copy)]
pub(super) enum Which<'a> {
    All,
    /// Those that the middleware has none of.
    Missing,
    These(&'a BTreeSet<String>),
}

fn hand_over(place: &Place, desk: &mut Desk<'_>) -> Result<Done, Failure> {
    let vault = place.vault()?;
    let listing = vault.list()?;
    let which = if desk.args.only_missing {
        Which::Missing
    } else {
        Which::All
    };
    // Before the TPM is asked: where there is nobody to hand them to, no key is unsealed.
    let middleware = desk.middleware(desk.args.wait)?;
    give(place, &vault, &listing, middleware, which)
}

/// Gives a middleware the newest keys that the vault has.
pub(super) fn give(
    place: &Place,
    vault: &Vault,
    listing: &Listing,
    middleware: &mut Middleware,
    which: Which<'_>,
) -> Result<Done, Failure> {
    // Which dataset's it was, nobody knows.
    let mut failed: Vec<String> = (listing.damaged.iter())
        .map(|bad| {
            log::warn!("damaged: {}: {}", bad.file.display(), bad.reason);
            bad.file.display().to_string()
        })
        .collect();
    let mut newest = newest(&listing.objects);
    let before = middleware.memory_keys()?;
    newest.retain(|dataset, object| match which {
        Which::All => true,
        Which::Missing => !before.contains_key(*dataset) && !is_passphrase(object),
        Which::These(datasets) => datasets.contains(*dataset),
    });
    let (mut open, mut stopped) = (MemoryKeys::new(), None);
    if !newest.is_empty() || matches!(which, Which::All) {
        let mut unlocked = vault.unlock(&place.tcti()?)?;
        for object in newest.values() {
            match key(object, &mut unlocked) {
                Ok(Some(text)) => {
                    open.insert(object.label.as_str().to_owned(), text);
                }
                Ok(None) => {}
                // One object that does not open never stops the others.
                Err(
                    error @ (Error::ObjectDamaged { .. }
                    | Error::Input { .. }
                    | Error::PinRequired(_)
                    | Error::NoSuchObject(_)
                    | Error::KeyLost { .. }),
                ) => {
                    log::error!("{}: {error}", object.label);
                    failed.push(object.label.to_string());
                }
                // Those that are open are of use without the others.
                Err(error) => {
                    stopped = Some(error);
                    break;
                }
            }
        }
    }
    let given = open.len();
    if given > 0 {
        middleware.change_memory_keys(|now| {
            for (dataset, key) in open {
                // Whoever gave it another one meanwhile has a newer one.
                if now.get(&dataset) == before.get(&dataset) {
                    now.insert(dataset, key);
                }
            }
        })?;
    }
    Ok(Done {
        given,
        had: before.len(),
        failed,
        stopped,
        protocol: middleware.protocol(),
    })
}

/// Notes how it went, where `status` looks, and has the middleware tell its admin if it did not go well.
/// Neither may fail what has been done, or hold up a boot.
fn note(
    place: &Place,
    desk: &mut Desk<'_>,
    handed_over: usize,
    failed: Vec<String>,
    reason: Option<String>,
) {
    let words = match (&reason, failed.as_slice()) {
        (Some(reason), _) => Some(format!("[Strongroom: locked, for {reason}]")),
        (None, []) => None,
        (None, failed) => Some(format!("[Strongroom: not opened] {}", failed.join(", "))),
    };
    let before = LastBoot::read(&place.dir).is_some_and(|last| last.alert);
    let mut alert = false;
    if words.is_some() || before {
        let told =
            desk.middleware(PATIENCE.min(desk.args.wait))
                .and_then(|middleware| match &words {
                    Some(words) => middleware.raise_alert(words),
                    None => middleware.take_alert_back(),
                });
        match told {
            Ok(()) => alert = words.is_some(),
            Err(error) => {
                log::warn!("no alert: {error}");
                alert = before;
            }
        }
    }
    let note = LastBoot {
        at: notes::now(),
        boot: notes::boot_id(),
        handed_over,
        failed,
        reason,
        alert,
    };
    // A folder that holds no vault stays empty, for whoever brings one back.
    if place.dir.join("vault.json").exists() {
        if let Err(error) = note.write(&place.dir) {
            log::warn!("not noted: {error}");
        }
    }
}

/// How many seconds an alert may take.
const PATIENCE: u64 = 5;

fn report(place: &Place, done: &Done) {
    let report = json!({
        "handed-over": done.given,
        "had-before": done.had,
        "failed": done.failed,
        "protocol": match done.protocol {
            Protocol::JsonRpc => "json-rpc",
            Protocol::Ddp => "ddp",
        },
    });
    output::show(place.json, &report, || {
        say!(
            "The middleware was given the keys of {} datasets, into its memory.",
            done.given
        );
    });
}

/// The newest key of each dataset.
fn newest(objects: &[Metadata]) -> BTreeMap<&str, &Metadata> {
    let mut newest: BTreeMap<&str, &Metadata> = BTreeMap::new();
    for object in objects
        .iter()
        .filter(|object| object.kind == Kind::DatasetKey)
    {
        let known = newest.entry(object.label.as_str()).or_insert(object);
        if object.generation > known.generation {
            *known = object;
        }
    }
    newest
}

fn is_passphrase(object: &Metadata) -> bool {
    let format = object.attributes.get(KEYFORMAT).map(String::as_str);
    matches!(
        format.unwrap_or_default().parse(),
        Ok(KeyFormat::Passphrase)
    )
}

/// A key as the middleware has it; `None` for a passphrase, which it does not take so.
fn key(object: &Metadata, unlocked: &mut Unlocked) -> strongroom::Result<Option<String>> {
    let format = object.attributes.get(KEYFORMAT).map(String::as_str);
    let format: KeyFormat = format.unwrap_or_default().parse()?;
    if format == KeyFormat::Passphrase {
        log::info!("{}: a passphrase stays in the vault", object.label);
        return Ok(None);
    }
    let hex: Secret = format.convert(&unlocked.unseal(object)?, KeyFormat::Hex)?;
    Ok(Some(String::from_utf8_lossy(hex.expose()).into_owned()))
}
