//! Bringing a vault onto a TPM: what `init` does for a new vault and `recover` for one that comes
//! from another TPM.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::encoding::Base64;
use crate::envelope::VaultKey;
use crate::error::{Error, Result};
use crate::event_log::EventLog;
use crate::manifest::{OnTpm, PinsRecord, TokenRecord};
use crate::object::{TokenLabel, TokenName};
use crate::pin::PinAuth;
use crate::policy::{BootLogs, Branches, Fence, PcrSelection, PcrValues, PolicyDigest};
use crate::tpm::index::Index;
use crate::tpm::key_file::PARENT_UNNAMED;
use crate::tpm::pin::{Owner, PinIndices};
use crate::tpm::root_key::{RootKey, RootKeyRecord};
use crate::tpm::session::{Gate, Session};
use crate::tpm::signer::{OpenRecoveryKey, RecoveryKey};
use crate::tpm::storage::StorageKey;
use crate::tpm::writer::Writers;
use crate::tpm::{Tpm, Turn};

/// What a vault brings along.
pub(crate) struct Request<'a> {
    pub(crate) vault_id: &'a str,
    pub(crate) k_rec: &'a RecoveryKey,
    pub(crate) open_k_rec: &'a OpenRecoveryKey,
    pub(crate) branches: &'a Branches,
    pub(crate) logs: &'a BootLogs,
}

/// A TPM with a root key and an index N that holds the first list of allowed boots.
pub(crate) struct Machine {
    pub(crate) root: RootKey,
    pub(crate) gate: Gate,
    root_key: RootKeyRecord,
    writers: Writers,
}

impl Machine {
    /// Connects, finds or makes the root key, makes X and N, and writes N.
    pub(crate) fn prepare(turn: &Turn, request: &Request<'_>) -> Result<(Tpm, Self)> {
        Tpm::with_room(turn, || {
            let mut tpm = Tpm::connect(turn)?;
            let machine = Self::make(&mut tpm, request)?;
            Ok((tpm, machine))
        })
    }

    fn make(tpm: &mut Tpm, request: &Request<'_>) -> Result<Self> {
        let (root_key, root) = RootKeyRecord::find_or_make(tpm)?;
        let session = Session::start(tpm, root)?;
        let provisioned = Writers::provision(
            tpm,
            root,
            session,
            request.k_rec,
            request.open_k_rec,
            request.vault_id,
            request.branches.digest(),
        )?;
        Ok(Self {
            root,
            gate: Gate {
                session,
                index: provisioned.index,
                branches: request.branches.clone(),
                logs: request.logs.clone(),
            },
            root_key,
            writers: provisioned.writers,
        })
    }

    /// Makes the storage keys and seals K_vault under the first. If it cannot, what was begun is
    /// removed again.
    pub(crate) fn complete(
        self,
        tpm: &mut Tpm,
        request: &Request<'_>,
        key: &VaultKey,
        tokens: impl IntoIterator<Item = TokenPlan>,
    ) -> Result<(OnTpm, Gate)> {
        let index = self.gate.index;
        let mut made = BTreeMap::new();
        let key = self.make_vault_key(tpm, key);
        let maker = Maker {
            root: self.root,
            session: self.gate.session,
            boot: index.index.policy(),
            vault_id: request.vault_id,
            k_rec: request.k_rec,
        };
        let made_all = key.and_then(|key| {
            for plan in tokens {
                let record = maker.token(tpm, &plan)?;
                made.insert(plan.name, record);
            }
            Ok(key)
        });
        match made_all {
            Ok((storage_key, sealed_vault_key)) => Ok((
                OnTpm {
                    pcrs: self.gate.branches.all_pcrs(),
                    root_key: self.root_key,
                    index: index.index.handle(),
                    writers: self.writers,
                    storage_key,
                    sealed_vault_key,
                    tokens: made,
                },
                self.gate,
            )),
            Err(error) => {
                for (token, record) in &made {
                    remove_pins(tpm, request.vault_id, request.k_rec, token, record);
                }
                if let Err(left) = index.undefine(tpm) {
                    log::warn!("an NV index of what could not be finished stays behind: {left}");
                }
                Err(error)
            }
        }
    }

    /// Makes the storage keys of a second machine, which does not have K_vault yet. If it cannot, what was
    /// begun is removed again.
    pub(crate) fn complete_as_second(
        self,
        tpm: &mut Tpm,
        request: &Request<'_>,
        tokens: impl IntoIterator<Item = TokenPlan>,
    ) -> Result<SecondOnTpm> {
        let index = self.gate.index;
        let maker = Maker {
            root: self.root,
            session: self.gate.session,
            boot: index.index.policy(),
            vault_id: request.vault_id,
            k_rec: request.k_rec,
        };
        let storage_key = StorageKey::create(tpm, self.root, self.gate.session, maker.boot)
            .and_then(|key| key.to_der(self.root.persistent));
        let made = storage_key.and_then(|storage_key| {
            let made: Result<BTreeMap<_, _>> = tokens
                .into_iter()
                .map(|plan| Ok((plan.name.clone(), maker.token(tpm, &plan)?)))
                .collect();
            Ok((storage_key, made?))
        });
        match made {
            Ok((storage_key, tokens)) => Ok(SecondOnTpm {
                pcrs: self.gate.branches.all_pcrs(),
                root_key: self.root_key,
                index: index.index,
                writers: self.writers,
                storage_key,
                tokens,
            }),
            Err(error) => {
                if let Err(left) = index.undefine(tpm) {
                    log::warn!("an NV index of what could not be finished stays behind: {left}");
                }
                Err(error)
            }
        }
    }

    /// A storage key, and K_vault sealed under it.
    fn make_vault_key(&self, tpm: &mut Tpm, key: &VaultKey) -> Result<(Base64, Base64)> {
        let policy = self.gate.index.index.policy();
        let storage_key = StorageKey::create(tpm, self.root, self.gate.session, policy)?;
        let loaded = StorageKey::load(tpm, self.root, &storage_key)?;
        let sealed = loaded.seal(tpm, &self.gate, key.expose());
        loaded.unload(tpm)?;
        Ok((
            storage_key.to_der(self.root.persistent)?,
            sealed?.to_der(PARENT_UNNAMED)?,
        ))
    }
}

/// What was made on a second machine.
pub(crate) struct SecondOnTpm {
    pub(crate) pcrs: PcrSelection,
    pub(crate) root_key: RootKeyRecord,
    pub(crate) index: Index,
    pub(crate) writers: Writers,
    pub(crate) storage_key: Base64,
    pub(crate) tokens: BTreeMap<TokenName, TokenRecord>,
}

/// A token to be made.
pub(crate) struct TokenPlan {
    pub(crate) name: TokenName,
    pub(crate) label: Option<TokenLabel>,
    pub(crate) write_protected: Option<bool>,
    pub(crate) pins: Option<FirstPins>,
    pub(crate) fence: Option<Fence>,
}

/// What PINs begin as. One that is not given can be used by nobody until it is set.
pub(crate) struct FirstPins {
    pub(crate) user: Option<Arc<PinAuth>>,
    pub(crate) security_officer: Option<Arc<PinAuth>>,
}

impl TokenPlan {
    /// A token without PIN, of which nothing is said.
    pub(crate) fn plain(name: TokenName) -> Self {
        Self {
            name,
            label: None,
            write_protected: None,
            pins: None,
            fence: None,
        }
    }
}

/// What makes tokens on a TPM.
pub(crate) struct Maker<'a> {
    pub(crate) root: RootKey,
    pub(crate) session: Session,
    /// The policy of the boot, which N holds.
    pub(crate) boot: PolicyDigest,
    pub(crate) vault_id: &'a str,
    pub(crate) k_rec: &'a RecoveryKey,
}

impl Maker<'_> {
    pub(crate) fn token(&self, tpm: &mut Tpm, plan: &TokenPlan) -> Result<TokenRecord> {
        let policy = self.behind_fence(plan.fence);
        let storage_key = StorageKey::create(tpm, self.root, self.session, policy)?;
        // What is unlocked by the hundred.
        if plan.name == TokenName::datasets() {
            StorageKey::keep(tpm, self.root, &storage_key)?;
        }
        let storage_key = storage_key.to_der(self.root.persistent)?;
        let pins = match &plan.pins {
            Some(first) => Some(self.pins(tpm, &plan.name, first, plan.fence)?),
            None => None,
        };
        Ok(TokenRecord {
            storage_key,
            label: plan.label.clone(),
            write_protected: plan.write_protected,
            pins,
            fence: plan.fence,
        })
    }

    /// The policy of the boot, and of a fence where there is one.
    fn behind_fence(&self, fence: Option<Fence>) -> PolicyDigest {
        fence.map_or(self.boot, |fence| self.boot.pcr(&fence.open()))
    }

    /// What a token with a PIN has besides.
    pub(crate) fn pins(
        &self,
        tpm: &mut Tpm,
        token: &TokenName,
        first: &FirstPins,
        fence: Option<Fence>,
    ) -> Result<PinsRecord> {
        let owner = Owner {
            vault_id: self.vault_id,
            k_rec: self.k_rec,
            token,
        };
        let (indices, pins) = PinIndices::make(
            tpm,
            self.root,
            self.session,
            owner,
            first.security_officer.as_deref(),
            first.user.as_deref(),
        )?;
        let policy = pins.policy(self.behind_fence(fence));
        let storage_key = StorageKey::create(tpm, self.root, self.session, policy)
            .and_then(|key| key.to_der(self.root.persistent));
        match storage_key {
            Ok(storage_key) => Ok(PinsRecord {
                storage_key,
                indices,
            }),
            Err(error) => {
                pins.undefine(tpm);
                Err(error)
            }
        }
    }
}

/// Removes the PINs of a token that a vault will not use after all, as far as that can be done.
pub(crate) fn remove_pins(
    tpm: &mut Tpm,
    vault_id: &str,
    k_rec: &RecoveryKey,
    token: &TokenName,
    record: &TokenRecord,
) {
    let owner = Owner {
        vault_id,
        k_rec,
        token,
    };
    let Some(pins) = &record.pins else {
        return;
    };
    match pins.indices.pins(owner) {
        Ok(pins) => pins.undefine(tpm),
        Err(error) => log::warn!("a PIN's NV index may stay behind: {error}"),
    }
}

/// Removes an index that a vault will not use after all, as far as that can be done.
pub(crate) fn remove_index(tpm: &mut Tpm, index: Index) {
    if let Err(left) = index.open(tpm).and_then(|index| index.undefine(tpm)) {
        log::warn!("an NV index of what could not be finished stays behind: {left}");
    }
}

/// The present boot over the PCRs that were asked for, or over those of 7, 9 and 11 that mean
/// something here.
///
/// # Errors
/// [`Error::Input`] where nobody asked for PCRs and none of the three is extended, or the event log
/// does not lead to one that is. Asked for by name, such a PCR is warned of and taken.
pub(crate) fn present_boot(
    tpm: &mut Tpm,
    pcrs: Option<&PcrSelection>,
    log: Option<&EventLog>,
) -> Result<PcrValues> {
    if let Some(pcrs) = pcrs {
        let present = tpm.pcr_values(pcrs)?;
        for pcr in present.at_reset() {
            log::warn!(
                "PCR {pcr} is at its reset value: nothing is measured into it on this machine, \
                 and binding to it protects nothing"
            );
        }
        for pcr in disagreeing(&present, log) {
            log::warn!(
                "the event log does not lead to the value of PCR {pcr}: nobody can say what it \
                 stands for, nor whether the next boot has it again"
            );
        }
        return Ok(present);
    }
    let recommended = PcrSelection::recommended();
    let unused = tpm.pcr_values(&recommended)?.at_reset();
    let used = recommended.filter(|pcr| !unused.contains(&pcr)).map_err(|_| {
        Error::input(
            "this machine's boot",
            format!(
                "PCRs {recommended} are at their reset values: the boot is not measured, so that \
                 nothing can be bound to it; turn on the TPM and Secure Boot in the firmware, or \
                 name other PCRs with --pcrs"
            ),
        )
    })?;
    for pcr in &unused {
        log::warn!("PCR {pcr} is not extended on this machine and is left out");
    }
    let present = tpm.pcr_values(&used)?;
    let unexplained: Vec<_> = disagreeing(&present, log)
        .iter()
        .map(ToString::to_string)
        .collect();
    if unexplained.is_empty() {
        return Ok(present);
    }
    Err(Error::input(
        "this machine's boot",
        format!(
            "the event log does not lead to the value of PCR {}: nobody can say what it stands \
             for, nor whether the next boot has it again; `strongroom doctor` says more. Name the \
             PCRs that you want all the same with --pcrs",
            unexplained.join(", ")
        ),
    ))
}

/// The PCRs that are extended, and not as the log says, where there is one.
fn disagreeing(present: &PcrValues, log: Option<&EventLog>) -> Vec<u8> {
    let Some(log) = log else { return Vec::new() };
    let unused = present.at_reset();
    present
        .selection()
        .iter()
        .filter(|pcr| !unused.contains(pcr) && present.get(*pcr) != Some(&log.value(*pcr)))
        .collect()
}
