//! Changing the list of allowed boots, and with it what the index N holds.

use super::opening::Connection;
use super::{Change, Rebound, Vault, suspending};
use crate::envelope::VaultKey;
use crate::error::{Error, Result};
use crate::event_log::EventLog;
use crate::policy::{
    BootLogs, Branch, Branches, Label, PHASES_PCR, PcrSelection, PcrValues, PolicyFile,
};
use crate::prediction::{self, Forecast};
use crate::provision;
use crate::recovery::RecoveryKit;
use crate::store;
use crate::tpm::session::{Gate, Session};
use crate::tpm::{Tpm, Turn};

impl Vault {
    pub(super) fn try_rebind(&self, turn: &Turn, change: &Change) -> Result<Rebound> {
        self.check_apart_from_fences(change)?;
        let mut connection = self.connect(turn)?;
        let old = self.branches(&connection.in_force)?;
        let new = self.new_branches(&mut connection.tpm, Some(&old), change)?;
        let rebound = if new.digest().as_bytes() == &connection.in_force {
            self.settle(new, false)?
        } else {
            self.write_ahead(Some(old.clone()), &new)?;
            let session = Session::start(&mut connection.tpm, connection.root)?;
            let gate = Gate {
                session,
                index: connection.index,
                branches: old,
                logs: self.boot_logs(turn.tcti()),
            };
            self.seat()?.writers.rewrite(
                &mut connection.tpm,
                connection.root,
                &gate,
                &self.manifest.id,
                new.digest(),
            )?;
            self.confirm(&mut connection, new)?
        };
        drop(connection);
        if let Change::PresentBoot(Some(pcrs)) = change {
            let key = self.unlock_here(turn)?.key;
            self.remember_pcrs(pcrs, &key)?;
        }
        Ok(rebound)
    }

    pub(super) fn rebind_locked(
        &self,
        turn: &Turn,
        kit: &RecoveryKit,
        change: &Change,
    ) -> Result<Rebound> {
        let file = self.store.manifest_file();
        let vault_key = self.manifest.vault_key_by_recovery(kit, &file)?;
        self.check_expected(&vault_key)?;
        self.check_apart_from_fences(change)?;
        let mut connection = self.connect(turn)?;
        // The list may be lost or spoilt: the kit is there to mend that too.
        let old = match self.branches(&connection.in_force) {
            Ok(old) => Some(old),
            Err(Error::PolicyFile { .. }) => None,
            Err(error) => return Err(error),
        };
        let new = self.new_branches(&mut connection.tpm, old.as_ref(), change)?;
        let rebound = if new.digest().as_bytes() == &connection.in_force {
            self.settle(new, false)?
        } else {
            self.write_ahead(old, &new)?;
            let writers = self.seat()?.writers;
            let key = writers.k_rec.open(&kit.identity)?;
            writers.rewrite_by_recovery(
                &mut connection.tpm,
                connection.root,
                connection.index,
                &key,
                &self.manifest.id,
                new.digest(),
            )?;
            self.confirm(&mut connection, new)?
        };
        if let Change::PresentBoot(Some(pcrs)) = change {
            self.remember_pcrs(pcrs, &vault_key)?;
        }
        Ok(rebound)
    }

    /// The list that a change makes of the one in force, `None` where that is lost.
    pub(super) fn new_branches(
        &self,
        tpm: &mut Tpm,
        old: Option<&Branches>,
        change: &Change,
    ) -> Result<Branches> {
        let pcrs = old.map_or_else(|| Ok(self.seat()?.pcrs.clone()), |old| Ok(old.all_pcrs()))?;
        let logs = self.boot_logs(tpm.turn().tcti());
        match (change, old) {
            (Change::PresentBoot(Some(pcrs)), _) => {
                provision::present_boot(tpm, Some(pcrs), None).map(Branches::only)
            }
            (Change::PresentBoot(None), _) => {
                Ok(Branches::only(tpm.pcr_values(&pcrs)?.check_extended()?))
            }
            (Change::Add(values), Some(old)) => {
                let mut added = tpm.pcr_values(&pcrs)?;
                for (pcr, value) in values {
                    added = added.with(*pcr, *value)?;
                }
                let pcrs = added.check_extended()?;
                old.clone().with([Branch::of(pcrs)])
            }
            (Change::Prepare(forecast), Some(old)) => {
                prepared(old, forecast, &tpm.pcr_values(&pcrs)?, &logs)
            }
            (Change::Commit(log), Some(old)) => {
                let present = tpm.pcr_values(&pcrs)?;
                let Some(_) = old.suspensions().next() else {
                    return committed(old, log.as_ref(), &present, &logs);
                };
                let resets = tpm.resets()?;
                if let Some(list) = suspending::let_in(old, log.as_ref(), &present, resets)? {
                    return Ok(list);
                }
                let goes_on = old.suspensions().filter(|it| !it.is_over(resets)).cloned();
                committed(&suspending::resumed(old)?, log.as_ref(), &present, &logs)?.with(goes_on)
            }
            (Change::Suspend { boots, pcrs }, Some(old)) => {
                suspending::suspended(tpm, old, *boots, pcrs.as_ref())
            }
            (Change::Resume, Some(old)) => suspending::resumed(old),
            (_, None) => Err(Error::input(
                "this change",
                "the list of allowed boots is lost, so that nothing can be added to it or dropped; \
                 run `strongroom rebind --recovery FILE` without --add",
            )),
        }
    }

    /// A closed fence must not look like another boot.
    fn check_apart_from_fences(&self, change: &Change) -> Result<()> {
        match change {
            Change::PresentBoot(Some(pcrs)) => self.check_fences_apart_from(pcrs),
            _ => Ok(()),
        }
    }

    pub(super) fn remember_pcrs(&self, pcrs: &PcrSelection, key: &VaultKey) -> Result<()> {
        if pcrs == self.seat()?.pcrs {
            return Ok(());
        }
        let manifest = self
            .manifest
            .clone()
            .with_pcrs(self.machine, pcrs.clone(), key);
        store::write(&self.store.manifest_file(), &store::to_json(&manifest))
    }

    pub(super) fn write_ahead(&self, old: Option<Branches>, new: &Branches) -> Result<()> {
        let policy = match old {
            Some(old) => PolicyFile::ahead(old, new.clone()),
            None => PolicyFile::settled(new.clone()),
        };
        store::write(
            &self.store.policy_file(self.machine),
            &store::to_json(&policy),
        )
    }

    pub(super) fn confirm(&self, connection: &mut Connection, new: Branches) -> Result<Rebound> {
        let now = connection.index.read(&mut connection.tpm)?;
        if &now != new.digest().as_bytes() {
            return Err(Error::Tpm {
                operation: "NV_Write(policy index)",
                reason: "the index does not hold what was written; the old list is still in force"
                    .to_owned(),
            });
        }
        self.settle(new, true)
    }

    pub(super) fn settle(&self, branches: Branches, written: bool) -> Result<Rebound> {
        let policy = PolicyFile::settled(branches.clone());
        store::write(
            &self.store.policy_file(self.machine),
            &store::to_json(&policy),
        )?;
        Ok(Rebound { branches, written })
    }
}

/// The list with what was predicted. What was predicted before from the same files is no longer to
/// come, unless it is what has booted.
fn prepared(
    old: &Branches,
    forecast: &Forecast,
    present: &PcrValues,
    logs: &BootLogs,
) -> Result<Branches> {
    let new = forecast.branches(present)?;
    let booted = prediction::phases_of_present(&forecast.log, present)?;
    let label = Label::new(forecast.next.name().as_deref(), None);
    let is_superseded = |branch: &Branch| {
        let prepared = branch.label.as_ref().and_then(Label::prepared);
        prepared.is_some()
            && prepared == label.as_ref().and_then(Label::prepared)
            && !booted.contains(&branch.pcrs)
            && new.iter().all(|new| new.pcrs != branch.pcrs)
    };
    match old.only_those(|branch| !is_superseded(branch)) {
        Some(kept) => kept.with(new),
        None => Err(Error::PolicyRefused(logs.explain(present, old))),
    }
}

/// The list without all that is not of the present boot.
fn committed(
    old: &Branches,
    log: Option<&EventLog>,
    present: &PcrValues,
    logs: &BootLogs,
) -> Result<Branches> {
    let here = |branch: &Branch| branch.pcrs.differing_from(present).is_empty();
    if !old.iter().any(here) {
        return Err(Error::PolicyRefused(logs.explain(present, old)));
    }
    // Another phase of this boot differs in nothing but the PCR of phases; so may another boot.
    let may_be_phase = |branch: &Branch| branch.pcrs.differing_from(present) == [PHASES_PCR];
    let phases = if old.iter().any(may_be_phase) {
        phases_of_present(log, present)?
    } else {
        Vec::new()
    };
    let kept = old.only_those(|branch| {
        here(branch)
            || phases
                .iter()
                .any(|phase| branch.pcrs.differing_from(phase).is_empty())
    });
    let kept = kept.ok_or_else(|| Error::PolicyRefused(logs.explain(present, old)))?;
    // What is not changed is not called another name either: nothing would be written but that.
    if kept.count() == old.count() {
        Ok(kept)
    } else {
        Ok(kept.booted())
    }
}

fn phases_of_present(log: Option<&EventLog>, present: &PcrValues) -> Result<Vec<PcrValues>> {
    let log = log.ok_or_else(|| {
        Error::input(
            "this boot's event log",
            "there is none, so that its phases cannot be told from another boot; `strongroom rebind \
             --yes` leaves its present state alone in the list",
        )
    })?;
    prediction::phases_of_present(log, present)
}
