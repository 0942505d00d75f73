//! All that talks to a TPM 2.0, and all that knows tss-esapi.
//!
//! - [`Tpm`]: the connection, PCR values, what the TPM can do
//! - [`root_key`]: the primary storage key that everything hangs under
//! - [`session`]: one salted policy session per batch
//! - [`clock`]: how often the TPM was reset
//! - [`index`]: N, the NV index that holds the digest of what may boot
//! - [`writer`]: who may write N, and how
//! - [`pin`]: a token's PINs, which are NV indices too
//! - [`fence`]: PCRs that are extended when the keys are loaded
//! - [`signer`]: keys that sign for the TPM to verify
//! - [`storage`]: storage keys under the boot policy, and the secrets sealed under them
//! - [`keys`]: private keys under them, and random numbers
//! - [`duplicate`]: what is encrypted to a storage key without its TPM, for that to import
//! - [`key_file`]: how TPM objects are written down
//! - [`crypto_callbacks`]: what encrypts and proves what crosses the bus
//! - [`state`]: what a TPM says of itself
//! - [`turn`]: who may use a TPM that nothing shares out

mod answer;
mod clock;
mod crypto_callbacks;
pub(crate) mod duplicate;
mod fence;
pub(crate) mod index;
pub(crate) mod key_file;
pub(crate) mod keys;
pub(crate) mod name;
mod nv;
mod persistent;
pub(crate) mod pin;
pub(crate) mod root_key;
pub(crate) mod session;
pub(crate) mod signer;
mod state;
pub(crate) mod storage;
mod tcti;
mod turn;
pub(crate) mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tss_esapi::Context;
use tss_esapi::constants::{CapabilityType, CommandCode};
use tss_esapi::handles::{ObjectHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{CapabilityData, PcrSelectionList, PcrSlot};

use crate::error::{Error, Result};
use crate::policy::{PcrSelection, PcrValues};

pub(crate) use answer::Answer;
use name::Name;
pub use state::TpmState;
pub use tcti::Tcti;
pub(crate) use turn::Turn;

/// How long one waits for room in a TPM that others use by the kernel's other device, and how often
/// one looks, at first and later.
const PATIENCE: Duration = Duration::from_secs(8);
const GLANCE: Duration = Duration::from_millis(10);
const LONG_GLANCE: Duration = Duration::from_millis(300);

/// A connection to a TPM. What was loaded or opened through it is flushed when it is dropped.
pub(crate) struct Tpm {
    context: Context,
    /// Where it is, in TCTI notation.
    pub(crate) taken: String,
    /// Which connection of this process this is: handles are a connection's own.
    serial: u64,
    /// Last: it is over when everything is flushed.
    turn: Turn,
}

impl Tpm {
    /// Connects. Sends nothing to the TPM, but for the kernel's device without resource manager: it
    /// has one opener, so that what is loaded in it was left there by one who was killed, and would
    /// be missing to all others. That is flushed (two commands, and one for each).
    pub(crate) fn connect(turn: &Turn) -> Result<Self> {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
        let (context, taken) = turn.tcti().connect()?;
        let alone = Tcti::has_one_opener(&taken);
        let mut tpm = Self {
            context,
            taken,
            serial: CONNECTIONS.fetch_add(1, Ordering::Relaxed),
            turn: turn.clone(),
        };
        if alone {
            tpm.flush_leftovers()?;
        }
        Ok(tpm)
    }

    /// Does something at a TPM, and where it has no room for it, once more: after what killed
    /// processes left there was flushed, or, where others use it too, when they may be done.
    pub(crate) fn with_room<T>(turn: &Turn, attempt: impl Fn() -> Result<T>) -> Result<T> {
        Self::again_if(answer::is_want_of_room, turn, attempt)
    }

    /// The same for what changes nothing, and so can also be done once more where a resource
    /// manager has lost what was loaded: it could not put it back beside what others have.
    pub(crate) fn undisturbed<T>(turn: &Turn, attempt: impl Fn() -> Result<T>) -> Result<T> {
        Self::again_if(|error| turn.is_disturbed(error), turn, attempt)
    }

    /// After an error of the holder of a turn, who has nothing in the TPM: flushes what killed processes
    /// left there, if that may have been the reason. Whether it did.
    pub(crate) fn clear_leftovers(turn: &Turn, error: &Error) -> Result<bool> {
        let may_help = turn.keeps_others_off() && answer::is_want_of_room(error);
        if may_help {
            Self::connect(turn)?.flush_leftovers()?;
        }
        Ok(may_help)
    }

    fn again_if<T>(
        may_pass: impl Fn(&Error) -> bool,
        turn: &Turn,
        attempt: impl Fn() -> Result<T>,
    ) -> Result<T> {
        let first = match attempt() {
            Err(error) if Self::clear_leftovers(turn, &error)? => return attempt(),
            Err(error) if !turn.keeps_others_off() && may_pass(&error) => error,
            other => return other,
        };
        log::info!("{first}; trying again");
        let deadline = Instant::now() + PATIENCE;
        let mut pause = GLANCE;
        loop {
            thread::sleep(pause);
            match attempt() {
                Err(error) if may_pass(&error) && Instant::now() < deadline => {
                    pause = (pause * 2).min(LONG_GLANCE);
                }
                other => return other,
            }
        }
    }

    /// Flushes every transient object and session that is in the TPM.
    fn flush_leftovers(&mut self) -> Result<()> {
        /// TPM_HT (Part 2, section 7.2): where the handles of each kind begin. The TPM lists
        /// loaded HMAC and policy sessions together.
        const KINDS: [u32; 2] = [0x8000_0000, 0x0200_0000];
        let mut found = 0;
        for first in KINDS {
            let (handles, _) = self.without_session("GetCapability(handles)", |tpm| {
                tpm.get_capability(CapabilityType::Handles, first, 64)
            })?;
            let CapabilityData::Handles(handles) = handles else {
                continue;
            };
            for &handle in handles.iter() {
                found += 1;
                // One that is gone by now needs no flush.
                let flushed = self
                    .without_session("ReadPublic(left behind)", |tpm| {
                        tpm.tr_from_tpm_public(handle)
                    })
                    .and_then(|object| self.flush(object));
                if let Err(error) = flushed {
                    log::info!("{error}");
                }
            }
        }
        if found > 0 {
            log::warn!("what a killed process had left in the TPM was flushed");
        }
        Ok(())
    }

    /// The right by which it was made.
    pub(crate) fn turn(&self) -> &Turn {
        &self.turn
    }

    /// Whether others may be waiting until this connection is closed.
    pub(crate) fn keeps_others_off(&self) -> bool {
        self.turn.keeps_others_off()
    }

    /// The present values of a selection of PCRs. One TPM2_PCR_Read for each eight PCRs.
    pub(crate) fn pcr_values(&mut self, selection: &PcrSelection) -> Result<PcrValues> {
        let pcrs: Vec<u8> = selection.iter().collect();
        Ok(PcrValues::new(selection, self.sha256_pcrs(&pcrs)?))
    }

    /// The same of any PCRs, in ascending order.
    fn sha256_pcrs(&mut self, pcrs: &[u8]) -> Result<Vec<[u8; 32]>> {
        const OPERATION: &str = "PCR_Read";
        let mut values = Vec::new();
        // A TPM returns as many as fit its answer, which is eight on every TPM there is.
        for some in pcrs.chunks(8) {
            let list = selection_list(some)?;
            let (_, _, digests) = self.without_session(OPERATION, |tpm| tpm.pcr_read(list))?;
            values.extend(
                digests
                    .value()
                    .iter()
                    .filter_map(|digest| <[u8; 32]>::try_from(digest.as_slice()).ok()),
            );
        }
        if values.len() != pcrs.len() {
            return Err(Error::TpmTooOld("SHA-256 bank of PCRs that is active"));
        }
        Ok(values)
    }

    /// Refuses a TPM without the commands that a vault rests on. One command.
    pub(crate) fn check_commands(&mut self) -> Result<()> {
        if self.has_command(CommandCode::PolicyAuthorizeNv)? {
            Ok(())
        } else {
            Err(Error::TpmTooOld("TPM2_PolicyAuthorizeNV command"))
        }
    }

    /// What is at a handle, and its Name as computed from its public area. TPM2_ReadPublic, or
    /// TPM2_NV_ReadPublic.
    fn find(
        &mut self,
        handle: TpmHandle,
        operation: &'static str,
    ) -> Result<Option<(ObjectHandle, Name)>> {
        let found = self
            .context
            .execute_without_session(|tpm| tpm.tr_from_tpm_public(handle));
        let object = match found {
            Ok(object) => object,
            Err(error) if Answer::of(error) == Answer::NoSuchHandle => return Ok(None),
            Err(error) => return Err(answer::error(operation, error)),
        };
        // ESYS refuses an answer in which Name and public area do not belong together.
        let name = self
            .context
            .tr_get_name(object)
            .map_err(|error| answer::error(operation, error))?;
        Ok(Some((object, Name::from_tpm(name.value()))))
    }

    fn has_command(&mut self, command: CommandCode) -> Result<bool> {
        let needed = u32::from(command);
        let (commands, _) = self.without_session("GetCapability(commands)", |tpm| {
            tpm.get_capability(CapabilityType::Command, needed, 1)
        })?;
        Ok(match commands {
            CapabilityData::Commands(list) => list
                .iter()
                .any(|attributes| u32::from(attributes.command_index()) == needed),
            _ => false,
        })
    }

    /// Runs one TPM command without authorisation.
    fn without_session<T>(
        &mut self,
        operation: &'static str,
        command: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T> {
        self.context
            .execute_without_session(command)
            .map_err(|error| answer::error(operation, error))
    }

    /// Runs one TPM command with empty authorisations: of hierarchies whose auth nobody set, of
    /// the root key, of sealed objects, of N's readers. They guard nothing, and say nothing.
    fn with_empty_auth<T>(
        &mut self,
        operation: &'static str,
        command: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T> {
        self.context
            .execute_with_session(Some(AuthSession::Password), command)
            .map_err(|error| answer::error(operation, error))
    }

    /// Flushes a transient object.
    fn flush(&mut self, handle: impl Into<ObjectHandle>) -> Result<()> {
        let handle = handle.into();
        self.without_session("FlushContext", |tpm| tpm.flush_context(handle))
    }
}

/// The TPM's form of some PCRs of the SHA-256 bank.
fn selection_list(pcrs: &[u8]) -> Result<PcrSelectionList> {
    let slots = pcrs
        .iter()
        .map(|&pcr| PcrSlot::try_from(1_u32 << pcr))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| answer::error("PCR selection", error))?;
    PcrSelectionList::builder()
        .with_selection(HashingAlgorithm::Sha256, &slots)
        .build()
        .map_err(|error| answer::error("PCR selection", error))
}
