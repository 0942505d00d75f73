//! `check DATASET < KEY`: whether a key is a dataset's. Loads nothing, and needs neither vault nor TPM.
//! For whoever is about to throw away the place that the key lies in now.

use strongroom::dataset_key::KeyFormat;
use strongroom::{Result, Secret, process};

use crate::failure::Failure;
use crate::zfs::{Dataset, Datasets, Keys, Refused};
use strongroom_console::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// The dataset, an encryption root
    dataset: String,
}

pub(crate) fn run(args: &Check) -> Result<(), Failure> {
    let key = process::take_in(MAX_KEY)
        .map_err(|error| strongroom::Error::input("standard input", error.to_string()))?;
    let name = args.dataset.as_str();
    let dataset = Datasets::one(name)?.map_err(|reason| Failure::unknown(name, reason))?;
    if !dataset.is_encryption_root() {
        let reason = match &dataset.encryption_root {
            Some(root) => format!("it has no key of its own; its encryption root is {root}"),
            None => "it is not encrypted".to_owned(),
        };
        return Err(Failure::dataset(name, reason));
    }
    let key = in_form_of(&dataset, key)?;
    if let Some(format) = dataset.key_format {
        format.check(&key)?;
    }
    match Keys::open().check(&dataset, &key) {
        Ok(()) => {
            say!("It is the key of {name}.");
            Ok(())
        }
        Err(refused @ Refused::WrongKey) => Err(Failure::dataset(name, refused.to_string())),
        Err(refused) => Err(Failure::unclear(name, refused.to_string())),
    }
}

/// The longest key that ZFS takes, a passphrase, and the line feed at its end.
const MAX_KEY: usize = 513;

/// A line feed may end a key of characters; and a database that keeps all keys in hexadecimal digits
/// has those of raw datasets in them too.
fn in_form_of(dataset: &Dataset, key: Secret) -> Result<Secret> {
    let line = match key.expose() {
        [line @ .., b'\n'] if dataset.key_format != Some(KeyFormat::Raw) => Secret::copy_of(line),
        _ => key,
    };
    match dataset.key_format {
        Some(KeyFormat::Raw) if line.len() == 64 => KeyFormat::Hex.convert(&line, KeyFormat::Raw),
        _ => Ok(line),
    }
}
