//! What there is to load: of each dataset that is meant, whether its key is to be loaded, and which
//! sealed keys may be it. No TPM is asked. It is found part by part, so that the TPM can begin with the
//! first while ZFS is asked for the next.

use std::collections::BTreeMap;

use rustix::process::setpriority_process;
use strongroom::Vault;
use strongroom::error::ErrorKind;
use strongroom::object::Metadata;
use strongroom::recovery_copy::RecoveryCopy;
use strongroom::vault::Genuine;

use super::parts::Event;
use crate::failure::Failure;
use crate::sealed::{self, SealedKeys};
use crate::zfs::properties::{self, RECOVERY};
use crate::zfs::{Dataset, Datasets, KeyStatus, Pools, Which};

/// The priority of this thread, and of what it starts, while the TPM is at work.
const BEHIND_THE_TPM: i32 = 10;

/// The datasets that are meant, by name.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) items: BTreeMap<String, Item>,
}

/// A dataset, and how it stands.
pub(super) struct Item {
    /// What ZFS says of it; `None` where it does not know it.
    pub(super) dataset: Option<Dataset>,
    /// The sealed keys that may be its key, newest first.
    pub(super) candidates: Vec<Metadata>,
    /// The newest of its sealed keys, may it be its key or not.
    pub(super) newest: Option<Metadata>,
    pub(super) state: State,
    /// The recovery copy that it carries.
    pub(super) copy: Option<String>,
    /// The sealed key that turned out to be its key, of which it shall carry a copy.
    pub(super) copied: Option<Genuine>,
    /// What became of the copy.
    pub(super) copy_state: CopyState,
}

/// How a dataset stands.
pub(super) enum State {
    /// Its key is to be loaded.
    Locked,
    Loaded {
        object: Metadata,
    },
    AlreadyLoaded,
    /// The vault has no key of it, and nobody has asked for this one by its name.
    NotSealed,
    Failed {
        reason: String,
        code: u8,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CopyState {
    Untouched,
    UpToDate,
    Written,
    Failed(String),
}

impl Plan {
    /// Asks ZFS, and hands on what is found: what the vault has keys of before the rest, and of that a few
    /// first. To be called on a thread of its own, for its priority sinks.
    pub(super) fn make_in_parts(
        vault: &Vault,
        sealed: &SealedKeys,
        which: Which<'_>,
        each: &mut dyn FnMut(Event),
    ) -> Result<(), Failure> {
        let pools = if sealed.bound_to_pools() || matches!(which, Which::All) {
            Pools::read()?
        } else {
            Pools::default()
        };
        let mut locked = Vec::new();
        let ahead = sealed.in_parts(which);
        Datasets::read_in_parts(which, &pools, &ahead, &mut |datasets| {
            let part = Self::of(vault, sealed, which, &pools, &datasets);
            let to_load = part.items.iter().filter(|(_, item)| item.is_to_load());
            locked.extend(to_load.map(|(name, _)| name.clone()));
            each(Event::Part(part));
            // From now on the TPM may be at work, for whose next command nothing else should be waited for. The unit
            // of the boot may not do this: it matters where there is one processor alone.
            if let Err(error) = setpriority_process(None, BEHIND_THE_TPM) {
                log::info!("ZFS is asked at the same priority as the TPM: {error}");
            }
        })?;
        // Not needed before the end.
        let locked: Vec<&str> = locked.iter().map(String::as_str).collect();
        match properties::recovery_copies(&locked) {
            Ok(copies) => each(Event::Copies(copies)),
            Err(error) => log::warn!("the property {RECOVERY} cannot be read: {error}"),
        }
        Ok(())
    }

    /// Takes note of recovery copies that datasets carry.
    pub(super) fn carry(&mut self, copies: BTreeMap<String, String>) {
        for (name, copy) in copies {
            if let Some(item) = self.items.get_mut(&name) {
                item.copy = Some(copy);
            }
        }
    }

    /// Takes up what was found more.
    pub(super) fn extend(&mut self, more: Self) {
        self.items.extend(more.items);
    }

    fn of(
        vault: &Vault,
        sealed: &SealedKeys,
        which: Which<'_>,
        pools: &Pools,
        datasets: &Datasets,
    ) -> Self {
        let mut items = BTreeMap::new();
        for (name, dataset) in &datasets.known {
            let named = matches!(which, Which::Named { names, .. } if names.contains(name));
            let recursive = matches!(
                which,
                Which::Named {
                    recursive: true,
                    ..
                }
            );
            // Who asks for all below a dataset need not know which of them have a key of their own.
            if !dataset.is_encryption_root() && (!named || recursive) {
                continue;
            }
            // A path, which ZFS takes for the name of what is mounted there.
            if matches!(
                which,
                Which::Named {
                    recursive: false,
                    ..
                }
            ) && !named
            {
                continue;
            }
            let versions = sealed.of(dataset, pools);
            let item = Item::new(dataset, versions, pools, named && !recursive);
            items.insert(name.clone(), item);
        }
        // Names that there are none of, and pools that do not say what is in them.
        for (name, reason) in &datasets.unknown {
            items.insert(name.clone(), Item::unknown(reason.clone()));
        }
        let mut plan = Self { items };
        plan.read_copies_of_loaded(vault);
        plan
    }

    /// Whether there is a key to load.
    pub(super) fn has_to_load(&self) -> bool {
        let mut items = self.items.values();
        items.any(|item| matches!(item.state, State::Locked))
    }

    /// Whether there is one behind a PIN.
    pub(super) fn has_to_load_behind_pin(&self) -> bool {
        let mut items = self.items.values();
        items.any(|item| {
            matches!(item.state, State::Locked) && item.candidates.iter().any(Metadata::needs_pin)
        })
    }

    /// Whether something was loaded.
    pub(super) fn has_loaded(&self) -> bool {
        let mut items = self.items.values();
        items.any(|item| matches!(item.state, State::Loaded { .. }))
    }

    /// Goes on without the keys that are behind a PIN, and notes why of what has no other.
    pub(super) fn leave_behind_pin(&mut self, why: &Failure) {
        self.pass_over_behind_pin();
        for item in self.items.values_mut() {
            if matches!(item.state, State::Locked) && item.candidates.is_empty() {
                item.state = State::Failed {
                    reason: why.to_string(),
                    code: why.exit_code(),
                };
            }
        }
    }

    /// Goes on without the keys that are behind a PIN.
    pub(super) fn pass_over_behind_pin(&mut self) {
        for item in self.items.values_mut() {
            item.candidates.retain(|object| !object.needs_pin());
        }
    }

    /// Notes of all that is to be loaded that it was not, for the vault was not opened.
    pub(super) fn leave_locked(&mut self) {
        for item in self.items.values_mut() {
            if matches!(item.state, State::Locked) {
                item.state = State::Failed {
                    reason: "left locked, for the vault cannot be opened".to_owned(),
                    code: 1,
                };
            }
        }
    }

    /// Whether there is anything to do that takes the unlocked vault.
    pub(super) fn needs_the_vault(&self) -> bool {
        self.items.values().any(|item| !item.candidates.is_empty())
    }

    /// What copies the datasets carry whose key is loaded already. Of these only the ones stay in the
    /// plan's care whose copy is missing or is of something else.
    fn read_copies_of_loaded(&mut self, vault: &Vault) {
        let loaded = |item: &&mut Item| {
            matches!(item.state, State::AlreadyLoaded) && !item.candidates.is_empty()
        };
        let mut items: Vec<_> = self.items.values_mut().filter(loaded).collect();
        let names: Vec<&str> = items
            .iter()
            .filter_map(|item| item.dataset.as_ref().map(|dataset| dataset.name.as_str()))
            .collect();
        let mut copies = match properties::recovery_copies(&names) {
            Ok(copies) => copies,
            Err(error) => {
                log::warn!("the property {RECOVERY} cannot be read: {error}");
                return;
            }
        };
        for item in &mut items {
            let name = item.dataset.as_ref().map(|dataset| &dataset.name);
            item.copy = name.and_then(|name| copies.remove(name));
            if item.has_copy_of_newest(vault) {
                item.candidates.clear();
                item.copy_state = CopyState::UpToDate;
            }
        }
    }
}

impl Item {
    fn is_to_load(&self) -> bool {
        matches!(self.state, State::Locked)
    }

    /// `named`: it was asked for by its name, so that it must have a key to load.
    fn new(dataset: &Dataset, sealed: &[Metadata], pools: &Pools, named: bool) -> Self {
        let failed = |reason: String| State::Failed { reason, code: 1 };
        let (state, candidates) = match &dataset.encryption_root {
            None => (failed("it is not encrypted".to_owned()), Vec::new()),
            Some(root) if *root != dataset.name => (
                failed(format!(
                    "it is no encryption root: its key is that of {root}, which is the one to load"
                )),
                Vec::new(),
            ),
            Some(_) => match (
                dataset.key_status,
                sealed::candidates(sealed, dataset, pools),
            ) {
                (KeyStatus::Available, candidates) => {
                    (State::AlreadyLoaded, candidates.unwrap_or_default())
                }
                (KeyStatus::None, _) => (
                    failed("ZFS does not say how its key stands".to_owned()),
                    Vec::new(),
                ),
                (KeyStatus::Unavailable, Err(reason)) => (failed(reason), Vec::new()),
                (KeyStatus::Unavailable, Ok(none)) if none.is_empty() => {
                    let state = if named {
                        State::Failed {
                            reason: "the vault has no key of it; seal it with \
                                     `zfs-keyprovider adopt`"
                                .to_owned(),
                            code: ErrorKind::NoObject.exit_code(),
                        }
                    } else {
                        State::NotSealed
                    };
                    (state, Vec::new())
                }
                (KeyStatus::Unavailable, Ok(candidates)) => (State::Locked, candidates),
            },
        };
        Self {
            dataset: Some(dataset.clone()),
            candidates: candidates.into_iter().cloned().collect(),
            newest: sealed.first().cloned(),
            state,
            copy: None,
            copied: None,
            copy_state: CopyState::Untouched,
        }
    }

    fn unknown(reason: String) -> Self {
        Self {
            dataset: None,
            candidates: Vec::new(),
            newest: None,
            state: State::Failed {
                reason,
                code: ErrorKind::NoObject.exit_code(),
            },
            copy: None,
            copied: None,
            copy_state: CopyState::Untouched,
        }
    }

    /// Whether the copy says that it is one of this vault's newest key and no other.
    fn has_copy_of_newest(&self, vault: &Vault) -> bool {
        let Some(newest) = self.candidates.first() else {
            return true;
        };
        self.copy
            .as_ref()
            .and_then(|text| text.parse::<RecoveryCopy>().ok())
            .is_some_and(|copy| {
                copy.vault_id() == vault.id() && copy.objects().eq(std::iter::once(newest))
            })
    }
}
