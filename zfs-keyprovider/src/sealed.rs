//! The sealed keys of a dataset: which there are, newest first, and which of them may be given to
//! the dataset that is there.
//!
//! The newest need not be the right one: a change of the key that was cut short leaves a sealed key
//! behind that the dataset never got. Only ZFS knows, and it is asked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use strongroom::Vault;
use strongroom::dataset_key::KeyFormat;
use strongroom::error::Error;
use strongroom::object::{Kind, Metadata, TokenName};
use strongroom::uri::Selector;
use strongroom::vault::TokenStamp;
use strongroom::{Result, Secret};

use crate::failure::Failure;
use crate::zfs::{Dataset, Pools, Refused, Which};

/// The vault's dataset keys, by dataset.
pub(crate) struct SealedKeys {
    by_dataset: BTreeMap<String, Vec<Metadata>>,
    /// The files that they were listed from.
    stamp: TokenStamp,
}

impl SealedKeys {
    /// Lists them. Nothing is authenticated yet: that is done when one is unsealed.
    pub(crate) fn list(vault: &Vault) -> Result<Self> {
        let token = TokenName::datasets();
        // Before: what is written meanwhile makes it another.
        let stamp = vault.stamp(&token)?;
        let listing = vault.list_token(&token)?;
        for bad in &listing.damaged {
            log::warn!("{} is damaged: {}", bad.file.display(), bad.reason);
        }
        let mut by_dataset: BTreeMap<String, Vec<Metadata>> = BTreeMap::new();
        for object in listing.objects {
            if object.kind == Kind::DatasetKey {
                let dataset = object.label.as_str().to_owned();
                by_dataset.entry(dataset).or_default().push(object);
            }
        }
        for versions in by_dataset.values_mut() {
            versions.sort_by_key(|object| std::cmp::Reverse((object.generation, object.id)));
        }
        Ok(Self { by_dataset, stamp })
    }

    /// Whether the vault has the same ones still. What was written since is not read for that.
    pub(crate) fn are_current(&self, vault: &Vault) -> Result<bool> {
        Ok(vault.stamp(&TokenName::datasets())? == self.stamp)
    }

    /// The datasets of which there are keys, and which are meant, in parts that ZFS can be asked of: the
    /// first is small, so that the TPM can soon begin, and each of the next is asked for while the TPM is
    /// busy with the one before it. None where there is hardly more than the first.
    pub(crate) fn in_parts(&self, which: Which<'_>) -> Vec<Vec<String>> {
        // A key takes the TPM some ten times as long as it takes ZFS to tell of a dataset.
        const FIRST: usize = 16;
        const GROWTH: usize = 4;
        // As many names as the arguments of a process have room for, with much to spare.
        const MOST: usize = 1024;
        let is_meant = |dataset: &&String| match which {
            Which::All => true,
            Which::Named { names, .. } => names.iter().any(|name| {
                let below = dataset.strip_prefix(name.as_str());
                below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }),
        };
        let mut meant: Vec<String> = self.by_dataset.keys().filter(is_meant).cloned().collect();
        if meant.len() <= FIRST {
            return Vec::new();
        }
        let (mut parts, mut len) = (Vec::new(), FIRST);
        while meant.len() > len {
            let rest = meant.split_off(len);
            parts.push(meant);
            meant = rest;
            len = MOST.min(len * GROWTH);
        }
        parts.push(meant);
        parts
    }

    /// Those of this name, newest first.
    pub(crate) fn named(&self, dataset: &str) -> &[Metadata] {
        self.by_dataset.get(dataset).map_or(&[], Vec::as_slice)
    }

    /// A dataset's, newest first: those of its name; where there are none, those of a name that it
    /// had before, as pool and dataset say by their GUIDs.
    pub(crate) fn of(&self, dataset: &Dataset, pools: &Pools) -> &[Metadata] {
        let named = self.named(&dataset.name);
        if !named.is_empty() || dataset.guid.is_none() {
            return named;
        }
        let pool_guid = pools.guid(dataset);
        let is_its = |object: &Metadata| {
            object.dataset_guid == dataset.guid && object.pool_guid == pool_guid
        };
        let former = self
            .by_dataset
            .values()
            .find(|versions| versions.first().is_some_and(is_its));
        former.map_or(&[], Vec::as_slice)
    }

    /// Whether any is behind a PIN.
    pub(crate) fn behind_pin(&self) -> bool {
        let mut objects = self.by_dataset.values().flatten();
        objects.any(Metadata::needs_pin)
    }

    /// Whether any is bound to a pool, so that it matters which pools there are.
    pub(crate) fn bound_to_pools(&self) -> bool {
        let mut objects = self.by_dataset.values().flatten();
        objects.any(|object| object.pool_guid.is_some())
    }
}

/// Those of a dataset's keys that may be given to it, newest first.
///
/// # Errors
/// Words, where there is none: the newest decides, for an older key that is bound to nothing must
/// not open what has taken the dataset's place.
pub(crate) fn candidates<'a>(
    sealed: &'a [Metadata],
    dataset: &Dataset,
    pools: &Pools,
) -> Result<Vec<&'a Metadata>, String> {
    if let Some(newest) = sealed.first() {
        check_guids(newest, dataset, pools)?;
    }
    let (mut fitting, mut other_forms) = (Vec::new(), Vec::new());
    for object in sealed {
        if check_guids(object, dataset, pools).is_err() {
            continue;
        }
        match check_form(object, dataset) {
            Ok(()) => fitting.push(object),
            Err(reason) => other_forms.push(reason),
        }
    }
    match other_forms.into_iter().next() {
        Some(reason) if fitting.is_empty() => Err(reason),
        _ => Ok(fitting),
    }
}

/// The sealed keys of which one is to be given to a dataset. Which, ZFS says where there are
/// several.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Choice {
    dataset: String,
    /// The dataset's; `None` where ZFS does not know it.
    key_format: Option<KeyFormat>,
    /// Newest first, and at least one.
    candidates: Vec<Metadata>,
}

impl Choice {
    /// Looks a dataset's keys up. `dataset`: what ZFS says of it; without that, as before its pool
    /// is imported or the dataset is made, the newest is meant.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`]; words, where the dataset is not the one that the keys were sealed
    /// for.
    pub(crate) fn of(
        vault: &Vault,
        name: &str,
        dataset: Option<&Dataset>,
    ) -> Result<Self, Failure> {
        let newest = || vault.find(&Selector::label(TokenName::datasets(), name));
        let candidates: Vec<Metadata> = match dataset {
            Some(dataset) if dataset.is_encryption_root() => {
                let sealed = SealedKeys::list(vault)?;
                let pools = if sealed.bound_to_pools() {
                    Pools::read()?
                } else {
                    Pools::default()
                };
                let fitting = candidates(sealed.of(dataset, &pools), dataset, &pools)
                    .map_err(|reason| Failure::dataset(name, reason))?;
                fitting.into_iter().cloned().collect()
            }
            _ => Vec::new(),
        };
        let candidates = match candidates {
            none if none.is_empty() => vec![newest()?],
            some => some,
        };
        Ok(Self {
            dataset: name.to_owned(),
            key_format: dataset.and_then(|dataset| dataset.key_format),
            candidates,
        })
    }

    /// Whether one of them is behind a PIN.
    pub(crate) fn needs_pin(&self) -> bool {
        self.candidates.iter().any(Metadata::needs_pin)
    }

    /// Opens the right one, which it answers as it was sealed. `fits` asks ZFS, with the key in the
    /// dataset's keyformat, and is asked where there are several alone.
    pub(crate) fn open(
        &self,
        mut unseal: impl FnMut(&Metadata) -> Result<Secret>,
        mut fits: impl FnMut(&Secret) -> Result<(), Refused>,
    ) -> Result<(Metadata, Secret), Failure> {
        if let [only] = self.candidates.as_slice() {
            return Ok((only.clone(), unseal(only)?));
        }
        let opened = self.candidates.iter().map(|it| (it.clone(), unseal(it)));
        first_that_fits(&self.dataset, opened, |object, key| {
            let key = self.in_form(object, key);
            fits(&key.map_err(|error| Refused::Other(error.to_string()))?)
        })
    }

    /// An opened key in the dataset's keyformat.
    pub(crate) fn in_form(&self, object: &Metadata, key: &Secret) -> Result<Secret> {
        let sealed = KeyFormat::of(object)?;
        sealed.convert(key, self.key_format.unwrap_or(sealed))
    }
}

/// The first key that ZFS takes for the dataset's. Nothing is loaded.
pub(crate) fn first_that_fits(
    dataset: &str,
    opened: impl Iterator<Item = (Metadata, Result<Secret>)>,
    mut fits: impl FnMut(&Metadata, &Secret) -> Result<(), Refused>,
) -> Result<(Metadata, Secret), Failure> {
    let mut reasons = Vec::new();
    for (object, key) in opened {
        // A spoilt version does not stand before a good one; what concerns all does.
        let key = match key {
            Ok(key) => key,
            Err(error @ (Error::ObjectDamaged { .. } | Error::NoSuchObject { .. })) => {
                log::warn!("{error}");
                reasons.push(error.to_string());
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match fits(&object, &key) {
            Ok(()) => return Ok((object, key)),
            Err(error) => {
                let reason = format!("{}: {error}", name(&object));
                log::info!("{dataset}: {reason}");
                reasons.push(reason);
            }
        }
    }
    Err(Failure::dataset(dataset, reasons.join("; ")))
}

/// A sealed key in the dataset's keyformat.
pub(crate) fn in_form_of(dataset: &Dataset, object: &Metadata, key: &Secret) -> Result<Secret> {
    let sealed = KeyFormat::of(object)?;
    sealed.convert(key, dataset.key_format.unwrap_or(sealed))
}

/// What a version is called in messages.
pub(crate) fn name(object: &Metadata) -> String {
    format!("sealed key {} (version {})", object.id, object.generation)
}

fn check_guids(object: &Metadata, dataset: &Dataset, pools: &Pools) -> Result<(), String> {
    let check = |what: &str, name: &str, sealed: Option<u64>, there: Option<u64>| match sealed {
        Some(guid) if there != Some(guid) => {
            let there = there.map_or("unknown".to_owned(), |guid| guid.to_string());
            let (id, label, now) = (object.id, &object.label, &dataset.name);
            Err(format!(
                "its key was sealed for the {what} {name} of GUID {guid}, and the one here has GUID \
                 {there}: another {what} was put in its place under the same name, and was not given \
                 the key. If that was you (zpool reguid, a replica), seal it for this one: \
                 `zfs-keyprovider get --id {id} '{label}' | zfs-keyprovider adopt '{now}'`"
            ))
        }
        _ => Ok(()),
    };
    check(
        "pool",
        dataset.pool(),
        object.pool_guid,
        pools.guid(dataset),
    )?;
    check("dataset", &dataset.name, object.dataset_guid, dataset.guid)
}

/// Whether a key of the sealed form can be one of the dataset's keyformat.
fn check_form(object: &Metadata, dataset: &Dataset) -> Result<(), String> {
    let sealed = KeyFormat::of(object).map_err(|error| error.to_string())?;
    let passphrase = |format| format == KeyFormat::Passphrase;
    match dataset.key_format {
        None => Err("nothing is known here of its keyformat".to_owned()),
        Some(format) if passphrase(format) != passphrase(sealed) => Err(format!(
            "its keyformat is {format}, and the {} is in the form {sealed}: its key was changed \
             since; seal the present one with `zfs-keyprovider adopt`",
            name(object)
        )),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use strongroom::object::{KEYFORMAT, OBJECT_FORMAT, ObjectId};

    fn object(generation: u64, form: &str, guid: Option<u64>) -> Metadata {
        Metadata {
            format: OBJECT_FORMAT,
            id: ObjectId::random(),
            token: TokenName::datasets(),
            kind: Kind::DatasetKey,
            label: "tank".parse().expect("a label"),
            attributes: [(KEYFORMAT.to_owned(), form.to_owned())].into(),
            pool_guid: None,
            dataset_guid: guid,
            generation,
        }
    }

    fn tank(form: KeyFormat) -> Dataset {
        Dataset {
            name: "tank".to_owned(),
            key_format: Some(form),
            guid: Some(7),
            ..Dataset::default()
        }
    }

    fn generations(sealed: &[Metadata], dataset: &Dataset) -> Result<Vec<u64>, String> {
        let found = candidates(sealed, dataset, &Pools::default())?;
        Ok(found.iter().map(|object| object.generation).collect())
    }

    #[test]
    fn what_is_meant_is_asked_for_in_parts_that_grow() {
        let lens = |count: usize, which: Which<'_>| -> Vec<usize> {
            let datasets = (0..count).map(|number| (format!("tank/d{number}"), Vec::new()));
            let sealed = SealedKeys {
                by_dataset: datasets.collect(),
                stamp: TokenStamp::default(),
            };
            let parts = sealed.in_parts(which);
            let all: BTreeSet<&String> = parts.iter().flatten().collect();
            assert_eq!(all.len(), parts.iter().map(Vec::len).sum::<usize>());
            parts.iter().map(Vec::len).collect()
        };
        assert!(lens(16, Which::All).is_empty());
        assert_eq!(lens(17, Which::All), [16, 1]);
        assert_eq!(lens(100, Which::All), [16, 64, 20]);
        assert_eq!(lens(3000, Which::All), [16, 64, 256, 1024, 1024, 616]);
        let named = |name: &str| {
            lens(
                100,
                Which::Named {
                    names: &[name.to_owned()],
                    recursive: true,
                },
            )
        };
        assert_eq!(named("tank"), [16, 64, 20]);
        assert!(named("tan").is_empty());
        assert!(named("tank/d7").is_empty());
    }

    #[test]
    fn an_older_key_without_guids_does_not_stand_in_for_one_that_does_not_fit() {
        let dataset = tank(KeyFormat::Raw);
        let sealed = [object(2, "raw", Some(8)), object(1, "raw", None)];
        let error = generations(&sealed, &dataset).expect_err("refused");
        assert!(
            error.contains("another dataset was put in its place"),
            "{error}"
        );
        // Made anew and adopted since: what was of the former is left out.
        let sealed = [
            object(3, "raw", Some(7)),
            object(2, "raw", Some(8)),
            object(1, "hex", None),
        ];
        assert_eq!(generations(&sealed, &dataset), Ok(vec![3, 1]));
    }

    #[test]
    fn a_pool_that_is_not_known_is_not_the_one_that_was_meant() {
        let mut bound = object(1, "raw", None);
        bound.pool_guid = Some(1);
        let error = generations(&[bound], &tank(KeyFormat::Raw)).expect_err("refused");
        assert!(error.contains("pool tank of GUID 1"), "{error}");
    }

    #[test]
    fn a_keyformat_that_was_changed_since_is_called_so() {
        let sealed = [object(2, "hex", None), object(1, "passphrase", None)];
        assert_eq!(generations(&sealed, &tank(KeyFormat::Raw)), Ok(vec![2]));
        assert_eq!(
            generations(&sealed, &tank(KeyFormat::Passphrase)),
            Ok(vec![1])
        );
        let error = generations(&sealed[1..], &tank(KeyFormat::Hex)).expect_err("refused");
        assert!(error.contains("keyformat is hex"), "{error}");
    }
}
