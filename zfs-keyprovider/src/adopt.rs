//! `adopt DATASET`: puts an encryption root under the provider's care. Its present key, or with
//! `--rotate` a new one, is sealed and bound to pool and dataset; the dataset carries a recovery
//! copy; its keylocation is set.
//!
//! Killed at any instant, the dataset's key is in the vault, or with its owner as before, and
//! running it again finishes. With `--rotate` there are two keys for a while. The new one is sealed,
//! and in the recovery copy beside the present one, before the dataset gets it; so until that has
//! happened the newest sealed key is not the dataset's. Whoever loads a key asks ZFS which it is.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use serde_json::json;
use strongroom::dataset_key::KeyFormat;
use strongroom::error::Error;
use strongroom::object::{KEYFORMAT, Kind, Label, Metadata, NewObject, ObjectId, TokenName};
use strongroom::uri::Selector;
use strongroom::{Result, Secret, Unlocked, process};

use crate::failure::Failure;
use crate::output::{self, say};
use crate::sealed::{self, SealedKeys};
use crate::zfs::properties::{self, RECOVERY};
use crate::zfs::{Dataset, Datasets, KeyStatus, Keys, Pools, Refused, keys};
use crate::{Cli, copy};

#[derive(Debug, clap::Args)]
pub(crate) struct Adopt {
    /// The dataset, an encryption root
    dataset: String,

    /// Give it a new random key of keyformat raw; its present key must be loaded
    #[arg(long)]
    rotate: bool,

    /// The file with its present key, - for standard input; with --rotate, to seal that one too
    /// [default: standard input, without --rotate]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// The keylocation that it is to have, such as file:///run/zfs-keys/tank/home
    #[arg(long, value_name = "LOCATION", default_value = "prompt")]
    keylocation: String,

    /// Report as JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(cli: &Cli, args: &Adopt) -> Result<(), Failure> {
    let dataset = find(&args.dataset)?;
    check_keylocation(&args.keylocation)?;
    let keys = Keys::open();
    let present = present_key(args, &dataset, &keys)?;
    if args.rotate && dataset.key_status != KeyStatus::Available {
        return Err(Failure::dataset(
            &dataset.name,
            "its key must be loaded to be changed; load it first",
        ));
    }
    let pool_guid = Pools::read()?.guid(&dataset);
    let lock = cli.vault()?.lock()?;
    // As it is now that nobody else writes.
    let unlocked = cli.vault()?.unlock(&cli.tcti()?)?.holding(lock);
    let mut adoption = Adoption {
        dataset,
        pool_guid,
        keys,
        unlocked,
    };
    let sealed = match &present {
        Some(key) => Some(adoption.seal_present(key)?),
        None => None,
    };
    let sealed = match (args.rotate, sealed) {
        (true, sealed) => adoption.rotate(sealed)?,
        (false, Some(sealed)) => {
            adoption.carry_copy(&[&sealed])?;
            sealed
        }
        (false, None) => return Err(Failure::Usage("there is no key to seal")),
    };
    let name = &adoption.dataset.name;
    let before = properties::get(name, "keylocation")?;
    if before != args.keylocation {
        properties::set(name, "keylocation", &args.keylocation)?;
    }
    if before.starts_with("file://") && before != args.keylocation {
        log::warn!("{name}: its key may still lie in {before}, for everyone who gets at the disk");
    }
    let report = json!({
        "dataset": name,
        "object": sealed.id,
        "version": sealed.generation,
        "rotated": args.rotate,
        "keylocation": args.keylocation,
    });
    output::show(args.json, &report, || {
        let what = if args.rotate {
            "has a new key, which"
        } else {
            "has a key that"
        };
        say!(
            "{name} {what} is sealed as {}, version {}; it carries its recovery copy.",
            sealed.id,
            sealed.generation
        );
    });
    Ok(())
}

/// A dataset that is being adopted, and what that takes.
struct Adoption {
    dataset: Dataset,
    pool_guid: Option<u64>,
    keys: Keys,
    unlocked: Unlocked,
}

impl Adoption {
    /// Seals the present key, unless the newest sealed one is the same.
    fn seal_present(&mut self, key: &Secret) -> Result<Metadata, Failure> {
        let format = self.dataset.key_format.unwrap_or(KeyFormat::Raw);
        if let Some(newest) = self.sealed()?.into_iter().next() {
            match self.unseal(&newest) {
                Ok(there) if there.same_as(key.expose()) => return self.bind(&newest),
                // What does not open is no help, and nothing to stop for: the key is sealed anew.
                Ok(_) | Err(Error::ObjectDamaged { .. } | Error::Input { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.seal(format, key)
    }

    /// Changes the dataset's key to a new one. `present`: the present key, if it was just sealed.
    fn rotate(&mut self, present: Option<Metadata>) -> Result<Metadata, Failure> {
        let present = match present {
            Some(present) => Some(present),
            None => self.present_among_sealed()?,
        };
        let name = self.dataset.name.clone();
        if present.is_none() {
            log::warn!("{name}: its present key is not in the vault; keep it until this is done");
        }
        let copy_before = properties::recovery_copies(&[&name])?.remove(&name);
        let key = Secret::random(32);
        let new = self.seal(KeyFormat::Raw, &key)?;
        let prepared = match &present {
            Some(present) => self.carry_copy(&[&new, present]),
            None => self.carry_copy(&[&new]),
        };
        let changed =
            prepared.and_then(|()| keys::change_to_raw(&name, &key).map_err(Failure::from));
        // Whatever was said of it: what counts is which key the dataset has.
        let now = find(&name)?;
        // Key and keyformat are changed together, or not at all.
        let checked = match now.key_format {
            Some(KeyFormat::Raw) => self.keys.check(&now, &key),
            _ => Err(Refused::WrongKey),
        };
        match (checked, changed) {
            (Ok(()), outcome) => {
                if let Err(failure) = outcome {
                    log::warn!("{name}: its key was changed, though: {failure}");
                }
            }
            // It has the old one for certain, so that the new one is of no use to anyone.
            (Err(Refused::WrongKey), Err(failure)) => {
                self.unlocked.remove(&new)?;
                restore_copy(&name, copy_before.as_deref());
                return Err(failure);
            }
            (Err(error), outcome) => {
                let said = outcome
                    .err()
                    .map_or(String::new(), |failure| format!(" ({failure})"));
                return Err(Failure::dataset(
                    &name,
                    format!(
                        "whether its key was changed is not known{said}: {error}. Both keys stay \
                         sealed; do not unload its key before `zfs-keyprovider adopt` has succeeded"
                    ),
                ));
            }
        }
        self.dataset = now;
        self.carry_copy(&[&new])?;
        if let Some(present) = present {
            log::info!(
                "{name}: its former key stays sealed as {}, for replicas and backups that have it; \
                 `strongroom remove --id {}` removes it",
                present.id,
                present.id
            );
        }
        Ok(new)
    }

    /// Which of the sealed keys is the dataset's.
    fn present_among_sealed(&mut self) -> Result<Option<Metadata>, Failure> {
        for object in self.sealed()? {
            match self.unseal(&object) {
                Ok(key) if self.keys.check(&self.dataset, &key).is_ok() => return Ok(Some(object)),
                Ok(_) | Err(Error::ObjectDamaged { .. } | Error::Input { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// The dataset's sealed keys, newest first, whatever they are bound to.
    fn sealed(&self) -> Result<Vec<Metadata>> {
        let sealed = SealedKeys::list(self.unlocked.vault())?;
        Ok(sealed.of(&self.dataset.name).to_vec())
    }

    /// A sealed key in the dataset's keyformat.
    fn unseal(&mut self, object: &Metadata) -> Result<Secret> {
        let key = self.unlocked.unseal(object)?;
        sealed::in_form_of(&self.dataset, object, &key)
    }

    /// Seals a key as the newest, bound to pool and dataset.
    fn seal(&mut self, format: KeyFormat, key: &Secret) -> Result<Metadata, Failure> {
        let label: Label = self.dataset.name.parse()?;
        let mut object = NewObject::new(TokenName::datasets(), label, Kind::DatasetKey)
            .with_attribute(KEYFORMAT, format.as_str());
        object.pool_guid = self.pool_guid;
        object.dataset_guid = self.dataset.guid;
        let id = self.unlocked.seal(object, key)?;
        Ok(self.listed(id)?)
    }

    /// Binds a sealed key to pool and dataset, if it is not yet.
    fn bind(&mut self, object: &Metadata) -> Result<Metadata, Failure> {
        let (pool_guid, dataset_guid) = (self.pool_guid, self.dataset.guid);
        self.unlocked.update(object, |change| {
            change.pool_guid = pool_guid;
            change.dataset_guid = dataset_guid;
        })?;
        Ok(self.listed(object.id)?)
    }

    fn listed(&self, id: ObjectId) -> Result<Metadata> {
        self.unlocked.vault().find(&Selector::id(id))
    }

    fn carry_copy(&self, objects: &[&Metadata]) -> Result<(), Failure> {
        let text = copy::text(&self.unlocked, objects)?;
        Ok(copy::put(&self.dataset.name, &text)?)
    }
}

/// The encryption root of this name.
fn find(name: &str) -> Result<Dataset, Failure> {
    let dataset = Datasets::one(name)?.map_err(|reason| Failure::unknown(name, reason))?;
    match &dataset.encryption_root {
        None => Err(Failure::dataset(name, "it is not encrypted")),
        Some(root) if root != name => Err(Failure::dataset(
            name,
            format!(
                "it is no encryption root: its key is that of {root}, which is the one to adopt"
            ),
        )),
        Some(_) => Ok(dataset),
    }
}

/// The present key as its owner gave it, if it was asked for: in the dataset's keyformat, and the
/// dataset's.
fn present_key(args: &Adopt, dataset: &Dataset, keys: &Keys) -> Result<Option<Secret>, Failure> {
    /// One more than the longest passphrase and its newline.
    const MAX: usize = 514;
    let file = match &args.key_file {
        None if args.rotate => return Ok(None),
        None => Path::new("-"),
        Some(file) => file,
    };
    let from_stdin = file == Path::new("-");
    if from_stdin && io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "the present key is read from standard input, which is a terminal; use a pipe, or \
             --key-file FILE",
        ));
    }
    let what = if from_stdin {
        "the key on standard input".to_owned()
    } else {
        format!("the key in {}", file.display())
    };
    let key = if from_stdin {
        process::take_in(MAX)
    } else {
        File::open(file).and_then(|file| Secret::read_from(file, MAX))
    };
    let key = key.map_err(|error| Error::input(&what, error.to_string()))?;
    let format = dataset
        .key_format
        .ok_or_else(|| Failure::dataset(&dataset.name, "nothing is known here of its keyformat"))?;
    // ZFS lets one newline end a hex key or a passphrase; it is not part of either.
    let key = match key.expose() {
        [line @ .., b'\n'] if format != KeyFormat::Raw => Secret::copy_of(line),
        _ => key,
    };
    format.check(&key)?;
    keys.check(dataset, &key).map_err(|error| {
        Failure::dataset(&dataset.name, format!("{what} was not sealed: {error}"))
    })?;
    Ok(Some(key))
}

fn check_keylocation(location: &str) -> Result<(), Failure> {
    if location == "prompt" || location.starts_with("file:///") {
        Ok(())
    } else {
        Err(Error::input(
            format!("keylocation {location:?}"),
            "it must be prompt, or file:/// and a path",
        )
        .into())
    }
}

/// Has the dataset carry what it carried before.
fn restore_copy(name: &str, before: Option<&str>) {
    let restored = match before {
        Some(text) => copy::put(name, text),
        None => properties::inherit(name, RECOVERY),
    };
    if let Err(error) = restored {
        log::warn!("{error}; the next `zfs-keyprovider load` puts it right");
    }
}
