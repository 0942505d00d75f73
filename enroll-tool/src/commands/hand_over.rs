//! `strongroom hand-over`: dataset keys into the memory of TrueNAS's middleware, at boot, before it
//! imports pools. Its own unlock then works as it is, and nothing of them is written anywhere.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use strongroom::dataset_key::KeyFormat;
use strongroom::error::Error;
use strongroom::object::{KEYFORMAT, Kind, Metadata};
use strongroom::{Secret, Unlocked};

use super::Place;
use crate::cli::HandOver;
use crate::failure::Failure;
use crate::output::{self, say};
use crate::truenas::middleware::{Middleware, Protocol};

pub(super) fn run(place: &Place, args: &HandOver) -> Result<(), Failure> {
    let vault = place.vault()?;
    let listing = vault.list()?;
    for bad in &listing.damaged {
        log::warn!("damaged: {}: {}", bad.file.display(), bad.reason);
    }
    let newest = newest(&listing.objects);
    // Before the TPM is asked: where there is nobody to hand them to, no key is unsealed.
    let mut middleware = Middleware::connect(&args.socket, Duration::from_secs(args.wait))?;
    let mut keys = middleware.memory_keys()?;
    let had = keys.len();
    let mut unlocked = vault.unlock(&place.tcti()?)?;
    let mut failed = Vec::new();
    let mut given = 0;
    for object in newest.values() {
        match key(object, &mut unlocked) {
            Ok(Some(text)) => {
                given += 1;
                keys.insert(object.label.as_str().to_owned(), text);
            }
            Ok(None) => {}
            // One bad object never stops the others.
            Err(error @ (Error::ObjectDamaged { .. } | Error::Input { .. })) => {
                log::error!("{}: {error}", object.label);
                failed.push(object.label.to_string());
            }
            Err(error) => return Err(error.into()),
        }
    }
    middleware.replace_memory_keys(&keys)?;
    let report = json!({
        "handed-over": given,
        "had-before": had,
        "failed": failed,
        "protocol": match middleware.protocol() {
            Protocol::JsonRpc => "json-rpc",
            Protocol::Ddp => "ddp",
        },
    });
    output::show(place.json, &report, || {
        say!("The middleware has the keys of {given} datasets in its memory.");
    });
    match failed.len() + listing.damaged.len() {
        0 => Ok(()),
        failed => Err(Failure::Partial {
            failed,
            total: failed + given,
        }),
    }
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
