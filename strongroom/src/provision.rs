//! Bringing a vault onto a TPM: what `init` does for a new vault and `recover` for one that comes
//! from another TPM.

use crate::envelope::VaultKey;
use crate::error::{Error, Result};
use crate::manifest::{OnTpm, TokenRecord};
use crate::object::TokenName;
use crate::policy::{Branches, PcrSelection, PcrValues};
use crate::tpm::index::Index;
use crate::tpm::key_file::PARENT_UNNAMED;
use crate::tpm::root_key::{RootKey, RootKeyRecord};
use crate::tpm::session::{Gate, Session};
use crate::tpm::storage::StorageKey;
use crate::tpm::writer::{OpenRecoveryKey, RecoveryKey, Writers};
use crate::tpm::{Tpm, Turn};

/// What a vault brings along.
pub(crate) struct Request<'a> {
    pub(crate) vault_id: &'a str,
    pub(crate) k_rec: &'a RecoveryKey,
    pub(crate) open_k_rec: &'a OpenRecoveryKey,
    pub(crate) branches: &'a Branches,
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
            },
            root_key,
            writers: provisioned.writers,
        })
    }

    /// Makes the storage keys and seals K_vault under the first. If it cannot, N is removed again.
    pub(crate) fn complete(
        self,
        tpm: &mut Tpm,
        key: &VaultKey,
        tokens: impl IntoIterator<Item = TokenName>,
    ) -> Result<(OnTpm, Gate)> {
        let index = self.gate.index;
        self.make_keys(tpm, key, tokens).inspect_err(|_| {
            if let Err(left) = index.undefine(tpm) {
                log::warn!("an NV index of what could not be finished stays behind: {left}");
            }
        })
    }

    fn make_keys(
        self,
        tpm: &mut Tpm,
        key: &VaultKey,
        tokens: impl IntoIterator<Item = TokenName>,
    ) -> Result<(OnTpm, Gate)> {
        let index = self.gate.index.index;
        let storage_key = StorageKey::create(tpm, self.root, self.gate.session, &index)?;
        let loaded = StorageKey::load(tpm, self.root, &storage_key)?;
        let sealed = loaded.seal(tpm, &self.gate, key.expose());
        loaded.unload(tpm)?;
        let tokens = tokens
            .into_iter()
            .map(|token| {
                let key = StorageKey::create(tpm, self.root, self.gate.session, &index)?;
                let storage_key = key.to_der(self.root.persistent)?;
                Ok((token, TokenRecord { storage_key }))
            })
            .collect::<Result<_>>()?;
        let on_tpm = OnTpm {
            pcrs: self.gate.branches.all_pcrs(),
            root_key: self.root_key,
            index: index.handle,
            writers: self.writers,
            storage_key: storage_key.to_der(self.root.persistent)?,
            sealed_vault_key: sealed?.to_der(PARENT_UNNAMED)?,
            tokens,
        };
        Ok((on_tpm, self.gate))
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
/// [`Error::Input`] where nobody asked for PCRs and none of the three is extended. Asked for by
/// name, a PCR at its reset value is warned of and taken.
pub(crate) fn present_boot(tpm: &mut Tpm, pcrs: Option<&PcrSelection>) -> Result<PcrValues> {
    if let Some(pcrs) = pcrs {
        let present = tpm.pcr_values(pcrs)?;
        for pcr in present.at_reset() {
            log::warn!(
                "PCR {pcr} is at its reset value: nothing is measured into it on this machine, \
                 and binding to it protects nothing"
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
    tpm.pcr_values(&used)
}
