//! `adopt DATASET`: puts an encryption root under the provider's care. Its present key, or with
//! `--rotate` a new one, is sealed and bound to pool and dataset; the dataset carries a recovery
//! copy; its keylocation is set.
//!
//! Killed at any instant, the dataset's key is in the vault, or with its owner as before, and
//! running it again finishes. With `--rotate` there are two keys for a while. The present one is
//! sealed, or nothing is changed; the new one is sealed, and in the recovery copy beside the present
//! one, before the dataset gets it; so until that has happened the newest sealed key is not the
//! dataset's. Whoever loads a key asks ZFS which it is.

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
use crate::zfs::properties::{self, FORMER_RECOVERY, RECOVERY};
use crate::zfs::{Dataset, Datasets, KeyStatus, Keys, Pools, Refused, keys};
use crate::{Cli, copy};

#[derive(Debug, clap::Args)]
pub(crate) struct Adopt {
    /// The dataset, an encryption root
    dataset: String,

    /// Give it a new random key; its present key must be loaded, and in the vault or named
    #[arg(long)]
    rotate: bool,

    /// The new key's keyformat: raw, or hex, which can also be typed
    #[arg(long, value_name = "FORMAT", default_value = "raw", requires = "rotate",
        value_parser = new_key_format)]
    keyformat: KeyFormat,

    /// Rotate though nobody has the present key any more, which is loaded: until the new one is in
    /// place, a power cut would lock the dataset for good
    #[arg(long, requires = "rotate", conflicts_with = "key_file")]
    without_present_key: bool,

    /// The file with its present key, - for standard input; with --rotate, to seal that one too
    /// [default: standard input, without --rotate]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// The keylocation that it is to have, such as file:///run/zfs-keys/tank/home
    /// [default: one in /run/zfs-keys stays, everything else becomes prompt]
    #[arg(long, value_name = "LOCATION", value_parser = keylocation)]
    keylocation: Option<String>,

    /// Report as JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(cli: &Cli, args: &Adopt) -> Result<(), Failure> {
    let dataset = find(&args.dataset)?;
    let keys = Keys::open();
    let present = present_key(args, &dataset, &keys)?;
    if args.rotate && dataset.key_status != KeyStatus::Available {
        return Err(Failure::dataset(
            &dataset.name,
            "its key must be loaded to be changed; load it first",
        ));
    }
    let lock = cli.vault()?.lock()?;
    // As it is now that nobody else writes: another adoption may just have changed its key.
    let dataset = find(&args.dataset)?;
    if let Some(key) = &present {
        check_present(&dataset, &keys, "the present key", key)?;
    }
    let pool_guid = Pools::read()?.guid(&dataset);
    if pool_guid.is_none() || dataset.guid.is_none() {
        let reason = "ZFS does not say its GUID or its pool's, which its key is to be bound to";
        return Err(Failure::unclear(&dataset.name, reason));
    }
    let unlocked = cli.vault()?.unlock(&cli.tcti()?)?.holding(lock);
    let location = properties::get(&dataset.name, "keylocation")?;
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
    let (sealed, former) = match (args.rotate, sealed) {
        (true, sealed) => adoption.rotate(sealed, args)?,
        (false, Some(sealed)) => {
            adoption.carry_copy(&[&sealed])?;
            (sealed, None)
        }
        (false, None) => return Err(Failure::Usage("there is no key to seal")),
    };
    let name = &adoption.dataset.name;
    let wanted = match &args.keylocation {
        Some(wanted) => wanted.as_str(),
        None if location.starts_with(SERVED) => &location,
        None => "prompt",
    };
    if properties::get(name, "keylocation")? != wanted {
        properties::set(name, "keylocation", wanted)?;
    }
    if location.starts_with("file://") && !location.starts_with(SERVED) {
        log::warn!(
            "{name}: its key may still lie in {location}, for everyone who gets at the disk"
        );
    }
    let report = json!({
        "dataset": name,
        "object": sealed.id,
        "version": sealed.generation,
        "rotated": args.rotate,
        "former-object": former.as_ref().map(|former| former.id),
        "keylocation": wanted,
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
        if let Some(former) = &former {
            say!(
                "Its former key stays sealed as {}, for replicas that have it. A backup of the vault \
                 from before has the former key alone: make a new one (strongroom backup).",
                former.id
            );
        }
    });
    if args.rotate && is_of_the_root_file_system(&adoption.dataset) {
        log::warn!(
            "{name} is what / is on: the initramfs has its former key; make it anew \
             (update-initramfs -u) before the next boot"
        );
    }
    Ok(())
}

/// Where `zfs-keyprovider serve` has its files.
const SERVED: &str = "file:///run/zfs-keys/";

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
    /// Answers the new and the former one.
    fn rotate(
        &mut self,
        present: Option<Metadata>,
        args: &Adopt,
    ) -> Result<(Metadata, Option<Metadata>), Failure> {
        let present = match present {
            Some(present) => Some(present),
            None => self.present_among_sealed()?,
        };
        let name = self.dataset.name.clone();
        if present.is_none() && !args.without_present_key {
            return Err(Failure::dataset(
                &name,
                "its present key is not in the vault, and was not changed: a power cut at the wrong \
                 moment would leave nobody with a key. Name it with --key-file, or say \
                 --without-present-key where nobody has it",
            ));
        }
        // Bound to the pool and dataset that are there, as the new one: or else that alone would be
        // asked for, should the change be cut short.
        let present = match present {
            Some(present) => Some(self.bind(&present)?),
            None => None,
        };
        let copy_before = properties::recovery_copies(&[&name])?.remove(&name);
        if let (None, Some(copy)) = (&present, &copy_before) {
            // Another kit may open it.
            properties::set(&name, FORMER_RECOVERY, copy)?;
        }
        let format = args.keyformat;
        let key = new_key(format)?;
        let new = self.seal(format, &key)?;
        let prepared = match &present {
            Some(present) => self.carry_copy(&[&new, present]),
            None => self.carry_copy(&[&new]),
        };
        let changed =
            prepared.and_then(|()| keys::change(&name, format, &key).map_err(Failure::from));
        // Whatever was said of it: what counts is which key the dataset has.
        let now = find(&name)?;
        // Key and keyformat are changed together, or not at all.
        let checked = match now.key_format {
            Some(now_format) if now_format == format => self.keys.check(&now, &key),
            Some(_) => Err(Refused::WrongKey),
            None => Err(Refused::Other("its keyformat is not known".to_owned())),
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
                return Err(Failure::unclear(
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
        if present.is_none() && copy_before.is_some() {
            properties::inherit(&name, FORMER_RECOVERY)?;
        }
        Ok((new, present))
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
        Ok(sealed.named(&self.dataset.name).to_vec())
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
        if (object.pool_guid, object.dataset_guid) == (pool_guid, dataset_guid) {
            return Ok(object.clone());
        }
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
    check_present(dataset, keys, &what, &key)?;
    Ok(Some(key))
}

fn check_present(dataset: &Dataset, keys: &Keys, what: &str, key: &Secret) -> Result<(), Failure> {
    keys.check(dataset, key)
        .map_err(|error| Failure::dataset(&dataset.name, format!("{what} was not sealed: {error}")))
}

/// A new random key.
fn new_key(format: KeyFormat) -> Result<Secret> {
    KeyFormat::Raw.convert(&Secret::random(32), format)
}

/// Whether the root file system's key is the dataset's.
fn is_of_the_root_file_system(dataset: &Dataset) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let root = mounts.lines().find_map(|line| {
        let mut columns = line.split(' ');
        let (source, place, kind) = (columns.next()?, columns.next()?, columns.next()?);
        (place == "/" && kind == "zfs").then(|| source.replace("\\040", " "))
    });
    root.and_then(|name| Datasets::if_known(&name).ok().flatten())
        .is_some_and(|root| root.encryption_root.as_deref() == Some(&dataset.name))
}

fn keylocation(location: &str) -> Result<String, &'static str> {
    if location == "prompt" || location.starts_with("file:///") {
        Ok(location.to_owned())
    } else {
        Err("it must be prompt, or file:/// and a path")
    }
}

fn new_key_format(format: &str) -> Result<KeyFormat, &'static str> {
    match format.parse() {
        Ok(KeyFormat::Passphrase) | Err(_) => Err("it must be raw or hex"),
        Ok(format) => Ok(format),
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
