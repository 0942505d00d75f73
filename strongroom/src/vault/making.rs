//! Making a vault.

use std::collections::BTreeMap;
use std::path::Path;

use uuid::Uuid;

use super::{InitOptions, Vault, fencing};
use crate::envelope::VaultKey;
use crate::error::Result;
use crate::event_log::{Place, Recording};
use crate::manifest::Manifest;
use crate::object::TokenName;
use crate::policy::{BootLogs, Branches, PolicyFile};
use crate::provision::{self, TokenPlan};
use crate::recovery::{RecoveryIdentity, RecoveryKit};
use crate::store::{self, Store};
use crate::tpm::signer::RecoveryKey;
use crate::tpm::{Tcti, Tpm, Turn};

impl Vault {
    pub(super) fn make(
        dir: &Path,
        tcti: &Tcti,
        options: &InitOptions,
        keep: impl FnOnce(&RecoveryKit) -> Result<()>,
    ) -> Result<Self> {
        let store = Store::new(dir);
        store.check_unused()?;
        let mut tpm = Tpm::connect(&Turn::to_look(tcti))?;
        tpm.check_commands()?;
        let present = provision::present_boot(
            &mut tpm,
            options.pcrs.as_ref(),
            options.event_log.as_ref().map(Recording::log),
        )?;
        if let Some(fence) = options.fence {
            fencing::check_open(&mut tpm, fence, &present.selection())?;
        }
        let (id, key) = (Uuid::new_v4().to_string(), VaultKey::random());
        let identity = RecoveryIdentity::generate();
        let recipient = identity.recipient();
        let (k_rec, open_k_rec) = RecoveryKey::generate(&recipient);
        // While nothing is loaded into the TPM: people take their time, and may give up.
        keep(&RecoveryKit {
            identity,
            vault_id: id.clone(),
            fingerprint: key.fingerprint(),
        })?;
        drop(tpm);
        store.create_folders(options.tokens.iter().cloned())?;
        let _lock = store.lock(options.tokens.iter().cloned())?;
        // Somebody else may have made one while we waited.
        store.check_unused()?;
        let turn = Turn::wait(tcti, &store.turn_file())?;
        let branches = Branches::only(present);
        let logs = BootLogs::new(store.event_logs(None), Place::new(None, tcti.is_kernels()));
        let request = provision::Request {
            vault_id: &id,
            k_rec: &k_rec,
            open_k_rec: &open_k_rec,
            branches: &branches,
            logs: &logs,
        };
        let (mut tpm, machine) = provision::Machine::prepare(&turn, &request)?;
        let on_tpm = machine
            .complete(
                &mut tpm,
                &request,
                &key,
                options.tokens.iter().cloned().map(|name| TokenPlan {
                    fence: options.fence.filter(|_| name == TokenName::datasets()),
                    ..TokenPlan::plain(name)
                }),
            )
            .map(|(on_tpm, _)| on_tpm)?;
        let index = on_tpm.index;
        let recovery_slot = recipient.encrypt(key.expose());
        let manifest = Manifest::new(id, recipient, recovery_slot, on_tpm, BTreeMap::new(), &key);
        let policy = PolicyFile::settled(branches.clone());
        let written = store::write(&store.policy_file(None), &store::to_json(&policy))
            // Last: before it there is no vault.
            .and_then(|()| store::write(&store.manifest_file(), &store::to_json(&manifest)));
        match written {
            Ok(()) => {
                logs.keep_as_read(&branches, Ok(options.event_log.clone()));
                Ok(Self {
                    store,
                    manifest,
                    expected: None,
                    event_log: None,
                    machine: None,
                })
            }
            Err(error) => {
                let left = manifest.writers.index(index, &manifest.id)?;
                provision::remove_index(&mut tpm, left);
                Err(error)
            }
        }
    }
}
