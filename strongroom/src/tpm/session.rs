//! Sessions: one salted policy session per batch, which proves the boot and encrypts what crosses
//! the bus.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tss_esapi::Context;
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::SessionHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::reserved_handles::NvAuth;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{Digest, DigestList, Nonce, SymmetricDefinition};

use super::index::OpenIndex;
use super::pin::Guard;
use super::root_key::RootKey;
use super::{Answer, Tpm, answer, selection_list};
use crate::error::{Error, Result};
use crate::policy::{BootLogs, Branches, Fence, PcrSelection};

/// How long a command is begun anew because some PCR was extended meanwhile, which any process
/// that measures a file may do; and how often at least, on a TPM that is slow. Real bursts end.
const PATIENCE: Duration = Duration::from_secs(3);
const TRIES: u32 = 8;

/// A policy session, salted to the root key: nobody who listens on the bus learns its keys.
#[derive(Clone, Copy)]
pub(crate) struct Session {
    auth: AuthSession,
    policy: PolicySession,
}

/// Which of a command's first parameters the session encrypts on the bus.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encrypt {
    Nothing,
    /// What goes to the TPM (the session attribute `decrypt`).
    Command,
    /// What comes from it (the session attribute `encrypt`).
    Response,
}

/// What a policy asks for besides the boot: in this order.
#[derive(Clone, Default)]
pub(crate) struct Besides {
    /// The fence that must be open.
    pub(crate) fence: Option<Fence>,
    /// The PIN.
    pub(crate) guard: Option<Arc<Guard>>,
}

/// What a boot has to show: the present list of allowed boots, in the index's keeping.
pub(crate) struct Gate {
    pub(crate) session: Session,
    pub(crate) index: OpenIndex,
    pub(crate) branches: Branches,
    /// What explains a refusal.
    pub(crate) logs: BootLogs,
}

impl Session {
    /// Starts a session. The root key's Name was checked when `root` was opened.
    pub(crate) fn start(tpm: &mut Tpm, root: RootKey) -> Result<Self> {
        const OPERATION: &str = "StartAuthSession";
        let auth = start_salted(tpm, root, SessionType::Policy, OPERATION)?;
        let policy = PolicySession::try_from(auth).map_err(|e| answer::error(OPERATION, e))?;
        Ok(Self { auth, policy })
    }

    /// The TPM's latest nonce in this session, which a signature over it binds to the session.
    pub(super) fn nonce(self, tpm: &mut Tpm) -> tss_esapi::Result<Nonce> {
        tpm.context.tr_sess_get_nonce_tpm(self.auth)
    }

    pub(super) fn policy(self) -> PolicySession {
        self.policy
    }

    /// Flushes the session. A batch's own is flushed with its connection.
    pub(crate) fn close(self, tpm: &mut Tpm) -> Result<()> {
        tpm.flush(SessionHandle::from(self.auth))
    }

    fn restart(self, tpm: &mut Tpm) -> Result<()> {
        tpm.without_session("PolicyRestart", |tpm| tpm.policy_restart(self.policy))
    }

    /// Sets the attributes for the next command; nothing is sent.
    fn prepare(self, tpm: &mut Tpm, encrypt: Encrypt) -> tss_esapi::Result<()> {
        let (attributes, mask) = SessionAttributesBuilder::new()
            .with_continue_session(true)
            .with_decrypt(encrypt == Encrypt::Command)
            .with_encrypt(encrypt == Encrypt::Response)
            .build();
        tpm.context
            .tr_sess_set_attributes(self.auth, attributes, mask)
    }

    /// Runs a command that this session authorises, as its policy stands.
    pub(super) fn authorise<T>(
        self,
        tpm: &mut Tpm,
        encrypt: Encrypt,
        command: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> tss_esapi::Result<T> {
        self.prepare(tpm, encrypt)?;
        tpm.context.execute_with_session(Some(self.auth), command)
    }

    /// Runs a command that this session authorises, as its policy stands, and another encrypts.
    pub(super) fn authorise_encrypted<T>(
        self,
        tpm: &mut Tpm,
        encrypting: Self,
        command: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> tss_esapi::Result<T> {
        self.prepare(tpm, Encrypt::Nothing)?;
        encrypting.prepare(tpm, Encrypt::Command)?;
        let sessions = (Some(self.auth), Some(encrypting.auth), None);
        tpm.context.execute_with_sessions(sessions, command)
    }

    /// Runs a command that empty auth authorises, and that this session only encrypts.
    pub(super) fn encrypt<T>(
        self,
        tpm: &mut Tpm,
        operation: &'static str,
        encrypt: Encrypt,
        command: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T> {
        self.encrypt_raw(tpm, encrypt, command)
            .map_err(|error| answer::error(operation, error))
    }

    /// The same, with the TPM's own error.
    pub(super) fn encrypt_raw<T>(
        self,
        tpm: &mut Tpm,
        encrypt: Encrypt,
        command: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> tss_esapi::Result<T> {
        self.prepare(tpm, encrypt)?;
        tpm.context.execute_with_sessions(
            (Some(AuthSession::Password), Some(self.auth), None),
            command,
        )
    }
}

/// Starts a session that nobody who listens learns the keys of.
pub(super) fn start_salted(
    tpm: &mut Tpm,
    root: RootKey,
    kind: SessionType,
    operation: &'static str,
) -> Result<AuthSession> {
    let started = tpm.without_session(operation, |tpm| {
        tpm.start_auth_session(
            Some(root.handle),
            None,
            None,
            kind,
            SymmetricDefinition::AES_128_CFB,
            HashingAlgorithm::Sha256,
        )
    })?;
    Ok(started.expect("a session that was started has a handle"))
}

impl Besides {
    /// PolicyPCR for a fence, PolicySecret for a PIN.
    fn assert_in(&self, tpm: &mut Tpm, session: Session) -> Result<()> {
        if let Some(fence) = self.fence {
            fence.assert_in(tpm, session)?;
        }
        match &self.guard {
            Some(guard) => guard.assert_in(tpm, session),
            None => Ok(()),
        }
    }
}

impl Gate {
    /// Runs a command under the boot policy: proves the boot and what is asked for besides, then lets the
    /// session authorise the command. Begins anew where a PCR was extended in between.
    ///
    /// # Errors
    /// [`Error::PolicyRefused`] where the machine is in no allowed state;
    /// [`Error::FenceClosed`]; [`Error::PinIncorrect`] and [`Error::PinLocked`].
    pub(super) fn pass<T>(
        &self,
        tpm: &mut Tpm,
        besides: &Besides,
        operation: &'static str,
        encrypt: Encrypt,
        command: impl Fn(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T> {
        self.attempt(tpm, besides, operation, |tpm| {
            self.session.authorise(tpm, encrypt, &command)
        })
    }

    /// Proves the boot and then does what `steps` does with the session, as one attempt.
    pub(super) fn attempt<T>(
        &self,
        tpm: &mut Tpm,
        besides: &Besides,
        operation: &'static str,
        steps: impl Fn(&mut Tpm) -> tss_esapi::Result<T>,
    ) -> Result<T> {
        let start = Instant::now();
        let mut attempt = 0;
        while attempt < TRIES || start.elapsed() < PATIENCE {
            attempt += 1;
            self.prove(tpm)?;
            if let Err(error) = besides.assert_in(tpm, self.session) {
                // Never twice: each time counts at a PIN.
                let _ = self.session.restart(tpm);
                return Err(error);
            }
            let error = match steps(tpm) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            // After a failure the session's digest stays as it was; the next use would fail too.
            let restarted = self.session.restart(tpm);
            if Answer::of(error) != Answer::PcrChanged {
                return Err(answer::error(operation, error));
            }
            restarted?;
            log::info!("a PCR was extended during {operation}, attempt {attempt}");
        }
        Err(Error::TpmUnavailable {
            operation,
            state: "in a machine whose PCRs are being extended without pause",
            remedy: "find out by what, and try again",
        })
    }

    /// PolicyPCR [, PolicyOR], PolicyAuthorizeNV, for each distinct selection until one holds.
    fn prove(&self, tpm: &mut Tpm) -> Result<()> {
        for selection in self.branches.selections() {
            match self.assert(tpm, &selection) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    // Whatever it was, the next attempt begins with a clean session.
                    let restarted = self.session.restart(tpm);
                    match Answer::of(error) {
                        Answer::Value | Answer::PolicyFail | Answer::PcrChanged => restarted?,
                        Answer::NvUninitialized => return Err(self.index.foreign()),
                        _ => return Err(answer::error("policy of the boot", error)),
                    }
                }
            }
        }
        Err(self.refusal(tpm)?)
    }

    fn assert(&self, tpm: &mut Tpm, selection: &PcrSelection) -> tss_esapi::Result<()> {
        let policy = self.session.policy;
        let pcrs: Vec<u8> = selection.iter().collect();
        let list = selection_list(&pcrs).map_err(|_| {
            tss_esapi::Error::WrapperError(tss_esapi::WrapperErrorKind::InvalidParam)
        })?;
        tpm.context.execute_without_session(|tpm| {
            tpm.policy_pcr(policy, Digest::default(), list)?;
            let digests = self.branches.branch_digests();
            if digests.len() > 1 {
                let mut list = DigestList::new();
                for digest in digests {
                    list.add(Digest::try_from(digest.as_bytes().to_vec())?)?;
                }
                tpm.policy_or(policy, list)?;
            }
            Ok(())
        })?;
        let index = self.index.handle;
        tpm.context
            .execute_with_session(Some(AuthSession::Password), |tpm| {
                tpm.policy_authorize_nv(policy, NvAuth::NvIndex(index), index)
            })
    }

    /// Says what is not as in an allowed boot.
    fn refusal(&self, tpm: &mut Tpm) -> Result<Error> {
        let all = self.branches.all_pcrs();
        let present = tpm.pcr_values(&all)?;
        Ok(Error::PolicyRefused(
            self.logs.explain(&present, &self.branches),
        ))
    }
}
