//! A token's PINs: two NV indices that count wrong ones (TPM_NT_PIN_FAIL, Part 1, section 37.2.7),
//! the user's and the security officer's. The PIN is the index's authorisation value, never a
//! key's: a key's old blob would load with its old PIN for ever.
//!
//! A token's private objects hang under a storage key whose policy ends in PolicySecret(user's
//! index). Who may do what to an index is its policy, a PolicyOR of
//!
//! 1. PolicySigned(K_rec), PolicyCommandCode(NV_Write)
//! 2. PolicyAuthorize(K_change), PolicyCommandCode(NV_ChangeAuth): whoever knows the PIN, for the
//!    one policy that K_change ever signed is PolicySecret(this index)
//! 3. PolicySigned(K_rec), PolicyCommandCode(NV_ChangeAuth)
//! 4. PolicySigned(K_first), PolicyCommandCode(NV_Write): a key that signed once, for the session
//!    of the first write, and was forgotten
//!
//! and of the user's index besides
//!
//! 5. PolicySecret(security officer's index), PolicyCommandCode(NV_Write)
//! 6. PolicySecret(security officer's index), PolicyCommandCode(NV_ChangeAuth)
//!
//! (PolicyAuthValue would be simpler in the second, and is a hole: it compares the PIN without
//! looking at the count, so that whoever locked it could go on guessing. Tried.)
//!
//! An index that a stranger defines again in the place of one stays unwritten, and its PIN opens
//! nothing. A PIN never crosses the bus to be compared: it is the key of a salted HMAC session.

use serde::{Deserialize, Serialize};
use tss_esapi::constants::{CommandCode, SessionType};
use tss_esapi::handles::{AuthHandle, NvIndexHandle, ObjectHandle, SessionHandle};
use tss_esapi::interface_types::reserved_handles::NvAuth;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Auth, Digest, DigestList, MaxNvBuffer, Nonce};

use super::name::Name;
use super::nv::{self, Found, IndexHandle, NV_WRITE, NvIndex, NvShape, attribute};
use super::root_key::RootKey;
use super::session::{Encrypt, Session, start_salted};
use super::signer::{OpenRecoveryKey, RecoveryKey, SigningKey, VerifyKey};
use super::{Answer, Tpm, answer};
use crate::encoding::Base64;
use crate::error::{Error, Result};
use crate::object::TokenName;
use crate::pin::{PinAuth, PinState, Role};
use crate::policy::PolicyDigest;

/// How many wrong PINs lock one.
const LIMIT: u32 = 10;

/// TPMS_NV_PIN_COUNTER_PARAMETERS (Part 2, section 13.3): pinCount and pinLimit.
const SIZE: u16 = 8;

/// TPM_CC_NV_ChangeAuth.
const NV_CHANGE_AUTH: u32 = 0x13B;

/// What the manifest says of a token's two indices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct PinIndices {
    user: IndexRecord,
    security_officer: IndexRecord,
}

/// What it says of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct IndexRecord {
    handle: IndexHandle,
    /// K_first's public half.
    first_writer: VerifyKey,
    /// K_change's public half, and its one signature.
    changer: VerifyKey,
    changer_signature: Base64,
}

/// Whose vault and token it is.
#[derive(Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) vault_id: &'a str,
    pub(crate) k_rec: &'a RecoveryKey,
    pub(crate) token: &'a TokenName,
}

/// The two indices as they must be.
pub(crate) struct Pins {
    user: PinIndex,
    security_officer: PinIndex,
}

/// An index as it must be.
pub(crate) struct PinIndex {
    nv: NvIndex,
    changer: VerifyKey,
    changer_signature: Base64,
    branches: Vec<PolicyDigest>,
    vault_id: String,
    token: TokenName,
    role: Role,
}

/// The user's PIN before what hangs under it: presented, and asserted whenever the TPM is asked.
pub(crate) struct Guard {
    index: PinIndex,
    pin: OpenPin,
}

/// A PIN that was presented on this connection: right or wrong, the TPM says when it is used.
#[derive(Clone, Copy)]
pub(crate) struct OpenPin {
    handle: NvIndexHandle,
    session: AuthSession,
}

impl Guard {
    /// NV_ReadPublic and StartAuthSession.
    pub(crate) fn new(tpm: &mut Tpm, root: RootKey, pins: Pins, pin: &PinAuth) -> Result<Self> {
        let index = pins.user;
        let pin = index.present(tpm, root, pin)?;
        Ok(Self { index, pin })
    }

    /// PolicySecret.
    pub(super) fn assert_in(&self, tpm: &mut Tpm, session: Session) -> Result<()> {
        self.pin
            .assert_in(tpm, session)
            .map_err(|error| self.index.explain(tpm, "PolicySecret(PIN)", error))
    }

    /// Has the TPM compare the PIN. One command.
    pub(crate) fn verify(&self, tpm: &mut Tpm) -> Result<()> {
        self.index.verify(tpm, self.pin)
    }

    pub(crate) fn close(&self, tpm: &mut Tpm) -> Result<()> {
        self.pin.close(tpm)
    }
}

impl PinIndices {
    /// Makes both indices. A PIN that is not given can be used by nobody until it is set. What was
    /// begun is removed again if it cannot be finished.
    pub(crate) fn make(
        tpm: &mut Tpm,
        root: RootKey,
        session: Session,
        owner: Owner<'_>,
        security_officer: Option<&PinAuth>,
        user: Option<&PinAuth>,
    ) -> Result<(Self, Pins)> {
        let (so_record, so_index) =
            PinIndex::make(tpm, root, session, owner, None, security_officer)?;
        match PinIndex::make(tpm, root, session, owner, Some(&so_index), user) {
            Ok((user_record, user_index)) => Ok((
                Self {
                    user: user_record,
                    security_officer: so_record,
                },
                Pins {
                    user: user_index,
                    security_officer: so_index,
                },
            )),
            Err(error) => {
                so_index.undefine(tpm);
                Err(error)
            }
        }
    }

    /// The indices as these records make them.
    pub(crate) fn pins(&self, owner: Owner<'_>) -> Result<Pins> {
        let security_officer = PinIndex::of(&self.security_officer, owner, None)?;
        Ok(Pins {
            user: PinIndex::of(&self.user, owner, Some(&security_officer))?,
            security_officer,
        })
    }
}

impl Pins {
    pub(crate) fn of(&self, role: Role) -> &PinIndex {
        match role {
            Role::User => &self.user,
            Role::SecurityOfficer => &self.security_officer,
        }
    }

    /// The policy of the storage key that private objects hang under, `boot` being that of all
    /// others.
    pub(crate) fn policy(&self, boot: PolicyDigest) -> PolicyDigest {
        boot.secret(self.user.nv.name_written().as_bytes())
    }

    /// Sets the user's PIN by the security officer's, which is presented, and makes its count zero;
    /// without a new one nobody can use it until it is set.
    pub(crate) fn set_by_officer(
        &self,
        tpm: &mut Tpm,
        root: RootKey,
        encrypting: Session,
        officer: OpenPin,
        new: Option<&PinAuth>,
    ) -> Result<()> {
        let random = PinAuth::random();
        let (new, state) = (new.unwrap_or(&random), state_of(new));
        let (user, officer_index) = (&self.user, &self.security_officer);
        let assert = |tpm: &mut Tpm, session| {
            officer
                .assert_in(tpm, session)
                .map_err(|error| officer_index.explain(tpm, "PolicySecret(SO PIN)", error))
        };
        let handle = user.find(tpm)?;
        with_session(tpm, root, |tpm, session| {
            assert(tpm, session)?;
            user.change_auth(tpm, session, encrypting, handle, new)
        })?;
        if user.state(tpm)? == state {
            return Ok(());
        }
        with_session(tpm, root, |tpm, session| {
            assert(tpm, session)?;
            user.write(tpm, session, handle, state)
        })
    }

    /// Removes both, as far as that can be done.
    pub(crate) fn undefine(&self, tpm: &mut Tpm) {
        self.user.undefine(tpm);
        self.security_officer.undefine(tpm);
    }
}

impl PinIndex {
    /// How the PIN stands. Two commands, and no PIN.
    pub(crate) fn state(&self, tpm: &mut Tpm) -> Result<PinState> {
        const OPERATION: &str = "NV_Read(PIN index)";
        let handle = self.find(tpm)?;
        let content =
            tpm.with_empty_auth(OPERATION, |tpm| tpm.nv_read(NvAuth::Owner, handle, SIZE, 0))?;
        let bytes: [u8; 8] = content
            .as_slice()
            .try_into()
            .map_err(|_| self.unusable("it does not hold two counters"))?;
        let both = u64::from_be_bytes(bytes);
        Ok(PinState {
            failures: u32::try_from(both >> 32).expect("32 bits"),
            limit: u32::try_from(both & 0xFFFF_FFFF).expect("32 bits"),
        })
    }

    /// Presents a PIN. NV_ReadPublic and StartAuthSession; nothing is compared yet.
    pub(crate) fn present(&self, tpm: &mut Tpm, root: RootKey, pin: &PinAuth) -> Result<OpenPin> {
        const OPERATION: &str = "StartAuthSession(PIN)";
        let handle = self.find(tpm)?;
        set_auth(tpm, handle, pin).map_err(|error| answer::error(OPERATION, error))?;
        let session = start_salted(tpm, root, SessionType::Hmac, OPERATION)?;
        Ok(OpenPin { handle, session })
    }

    /// Has the TPM compare a PIN that was presented. One command.
    ///
    /// # Errors
    /// [`Error::PinIncorrect`], [`Error::PinLocked`], [`Error::PinNotSet`].
    pub(crate) fn verify(&self, tpm: &mut Tpm, pin: OpenPin) -> Result<()> {
        tpm.context
            .execute_with_session(Some(pin.session), |tpm| {
                tpm.nv_read(NvAuth::NvIndex(pin.handle), pin.handle, SIZE, 0)
            })
            .map(|_| ())
            .map_err(|error| self.explain(tpm, "NV_Read(PIN)", error))
    }

    /// Changes the PIN that was presented, by itself.
    pub(crate) fn change(
        &self,
        tpm: &mut Tpm,
        root: RootKey,
        encrypting: Session,
        pin: OpenPin,
        new: &PinAuth,
    ) -> Result<()> {
        const OPERATION: &str = "PolicyAuthorize(PIN)";
        let approved = self.changing();
        let ticket = self
            .changer
            .ticket(tpm, approved, &self.changer_signature, OPERATION)?;
        with_session(tpm, root, |tpm, session| {
            pin.assert_in(tpm, session)
                .map_err(|error| self.explain(tpm, "PolicySecret(PIN)", error))?;
            self.changer
                .authorize_in(tpm, session, approved, ticket)
                .map_err(|error| answer::error(OPERATION, error))?;
            self.change_auth(tpm, session, encrypting, pin.handle, new)
        })
    }

    /// Sets the PIN by the recovery identity, and makes its count zero; without a new one nobody
    /// can use it. An index that is gone is made again, with the same Name.
    pub(crate) fn set_by_recovery(
        &self,
        tpm: &mut Tpm,
        root: RootKey,
        k_rec: &OpenRecoveryKey,
        new: Option<&PinAuth>,
    ) -> Result<()> {
        const OPERATION: &str = "PolicySigned(PIN) by the recovery identity";
        let random = PinAuth::random();
        let auth = new.unwrap_or(&random);
        let state = state_of(new);
        let (handle, name) = match self.nv.find(tpm, FIND)? {
            Found::Index(handle, name) if name == self.nv.name_written() => {
                with_session(tpm, root, |tpm, encrypting| {
                    with_session(tpm, root, |tpm, session| {
                        k_rec.signing_key().assert_in(
                            tpm,
                            session,
                            None,
                            self.vault_id.as_bytes(),
                            OPERATION,
                        )?;
                        self.change_auth(tpm, session, encrypting, handle, auth)
                    })
                })?;
                (handle, name)
            }
            found => {
                if let Found::Index(stranger, _) = found {
                    nv::undefine(tpm, stranger, UNDEFINE)?;
                }
                let auth = tss_auth(auth).map_err(|error| answer::error(DEFINE, error))?;
                let handle = with_session(tpm, root, |tpm, session| {
                    self.nv.define_again(tpm, session, Some(&auth), DEFINE)
                })?;
                (handle, self.nv.name_unwritten())
            }
        };
        with_session(tpm, root, |tpm, session| {
            k_rec.signing_key().assert_in(
                tpm,
                session,
                Some(nv::write_cp_hash(&name, &content(state))),
                self.vault_id.as_bytes(),
                OPERATION,
            )?;
            self.write(tpm, session, handle, state)
        })
    }

    fn make(
        tpm: &mut Tpm,
        root: RootKey,
        session: Session,
        owner: Owner<'_>,
        officer: Option<&Self>,
        pin: Option<&PinAuth>,
    ) -> Result<(IndexRecord, Self)> {
        let (k_first, k_change) = (SigningKey::generate(), SigningKey::generate());
        let (first_writer, changer) = (k_first.verify_key(), k_change.verify_key());
        let random = PinAuth::random();
        let auth = tss_auth(pin.unwrap_or(&random)).map_err(|e| answer::error(DEFINE, e))?;
        let (shape, branches) = shape(owner, &first_writer, &changer, officer)?;
        let (nv, handle) = NvIndex::define(tpm, session, shape, Some(&auth), DEFINE)?;
        let mut index = Self {
            nv,
            changer: changer.clone(),
            changer_signature: Base64::default(),
            branches,
            vault_id: owner.vault_id.to_owned(),
            token: owner.token.clone(),
            role: role_of(officer),
        };
        // K_change's one signature, now that the index has a Name.
        index.changer_signature = k_change.approve(index.changing());
        let state = state_of(pin);
        let cp_hash = nv::write_cp_hash(&nv.name_unwritten(), &content(state));
        let written = with_session(tpm, root, |tpm, session| {
            k_first.assert_in(tpm, session, Some(cp_hash), &[], "PolicySigned(PIN index)")?;
            index.write(tpm, session, handle, state)
        });
        match written {
            Ok(()) => Ok((
                IndexRecord {
                    handle: nv.handle,
                    first_writer,
                    changer,
                    changer_signature: index.changer_signature.clone(),
                },
                index,
            )),
            Err(error) => {
                index.undefine(tpm);
                Err(error)
            }
        }
    }

    fn of(record: &IndexRecord, owner: Owner<'_>, officer: Option<&Self>) -> Result<Self> {
        let (shape, branches) = shape(owner, &record.first_writer, &record.changer, officer)?;
        Ok(Self {
            nv: NvIndex {
                handle: record.handle,
                shape,
            },
            changer: record.changer.clone(),
            changer_signature: record.changer_signature.clone(),
            branches,
            vault_id: owner.vault_id.to_owned(),
            token: owner.token.clone(),
            role: role_of(officer),
        })
    }

    /// What must be shown to change the PIN: that it is known.
    fn changing(&self) -> PolicyDigest {
        PolicyDigest::EMPTY.secret(self.nv.name_written().as_bytes())
    }

    /// The index on this connection; refuses another in its place.
    fn find(&self, tpm: &mut Tpm) -> Result<NvIndexHandle> {
        match self.nv.find(tpm, FIND)? {
            Found::Index(handle, name) if name == self.nv.name_written() => Ok(handle),
            Found::Index(..) => Err(self
                .unusable("it was removed and defined again by something other than Strongroom")),
            Found::Nothing => Err(self.unusable("it was removed")),
        }
    }

    fn is_mine(&self, name: &Name) -> bool {
        [self.nv.name_written(), self.nv.name_unwritten()].contains(name)
    }

    fn undefine(&self, tpm: &mut Tpm) {
        let removed = self.nv.find(tpm, FIND).and_then(|found| match found {
            // A stranger's is the stranger's.
            Found::Index(handle, name) if self.is_mine(&name) => {
                nv::undefine(tpm, handle, UNDEFINE)
            }
            _ => Ok(()),
        });
        if let Err(left) = removed {
            log::warn!("a PIN's NV index may stay behind: {left}");
        }
    }

    /// PolicyCommandCode, PolicyOR, NV_ChangeAuth, encrypted on the bus by another session: the
    /// key of one that authorises has the old PIN in it, which not everyone knows.
    fn change_auth(
        &self,
        tpm: &mut Tpm,
        session: Session,
        encrypting: Session,
        handle: NvIndexHandle,
        new: &PinAuth,
    ) -> Result<()> {
        const OPERATION: &str = "NV_ChangeAuth(PIN)";
        let changed = self
            .narrow(tpm, session, CommandCode::NvChangeAuth)
            .and_then(|()| {
                let new = tss_auth(new)?;
                session.authorise_encrypted(tpm, encrypting, |tpm| tpm.nv_change_auth(handle, new))
            });
        changed.map_err(|error| self.explain(tpm, OPERATION, error))
    }

    /// PolicyCommandCode, PolicyOR, NV_Write.
    fn write(
        &self,
        tpm: &mut Tpm,
        session: Session,
        handle: NvIndexHandle,
        state: PinState,
    ) -> Result<()> {
        self.narrow(tpm, session, CommandCode::NvWrite)
            .and_then(|()| {
                let data = MaxNvBuffer::try_from(content(state).to_vec())?;
                session.authorise(tpm, Encrypt::Nothing, |tpm| {
                    tpm.nv_write(NvAuth::NvIndex(handle), handle, data, 0)
                })
            })
            .map_err(|error| answer::error("NV_Write(PIN index)", error))
    }

    fn narrow(&self, tpm: &mut Tpm, session: Session, code: CommandCode) -> tss_esapi::Result<()> {
        let policy = session.policy();
        tpm.context.execute_without_session(|tpm| {
            tpm.policy_command_code(policy, code)?;
            let mut list = DigestList::new();
            for branch in &self.branches {
                list.add(Digest::try_from(branch.as_bytes().to_vec())?)?;
            }
            tpm.policy_or(policy, list)
        })
    }

    /// What it means that the TPM refused a command that the PIN authorises.
    fn explain(&self, tpm: &mut Tpm, operation: &'static str, error: tss_esapi::Error) -> Error {
        let (token, role) = (self.token.to_string(), self.role);
        match Answer::of(error) {
            Answer::Auth => Error::PinIncorrect { token, role },
            Answer::AuthUnavailable => match self.state(tpm) {
                Ok(state) if !state.is_set() => Error::PinNotSet { token, role },
                _ => Error::PinLocked { token, role },
            },
            _ => answer::error(operation, error),
        }
    }

    fn unusable(&self, reason: &str) -> Error {
        Error::PinUnusable {
            token: self.token.to_string(),
            role: self.role,
            handle: self.nv.handle.into(),
            reason: reason.to_owned(),
        }
    }
}

impl OpenPin {
    /// TPM2_PolicySecret of the index in a policy session.
    fn assert_in(self, tpm: &mut Tpm, session: Session) -> tss_esapi::Result<()> {
        tpm.context
            .execute_with_session(Some(self.session), |tpm| {
                tpm.policy_secret(
                    session.policy(),
                    AuthHandle::from(ObjectHandle::from(self.handle)),
                    Nonce::default(),
                    Digest::default(),
                    Nonce::default(),
                    None,
                )
            })
            .map(|_| ())
    }

    /// Flushes its session, and forgets the PIN as far as ESYS does.
    pub(crate) fn close(self, tpm: &mut Tpm) -> Result<()> {
        // Nothing is sent for this; where it fails the connection is of no use anyway.
        let _ = tpm.context.tr_set_auth(self.handle.into(), Auth::default());
        tpm.flush(SessionHandle::from(self.session))
    }
}

const DEFINE: &str = "NV_DefineSpace(PIN index)";
const UNDEFINE: &str = "NV_UndefineSpace(PIN index)";
const FIND: &str = "NV_ReadPublic(PIN index)";

/// A PIN that was just set, and one that nobody has set.
const FRESH: PinState = PinState {
    failures: 0,
    limit: LIMIT,
};
const UNSET: PinState = PinState {
    failures: 0,
    limit: 0,
};

/// The user's index alone has an officer's.
fn role_of(officer: Option<&PinIndex>) -> Role {
    officer.map_or(Role::SecurityOfficer, |_| Role::User)
}

/// What the counters are after a PIN was set, or taken away.
fn state_of(new: Option<&PinAuth>) -> PinState {
    new.map_or(UNSET, |_| FRESH)
}

fn content(state: PinState) -> [u8; 8] {
    let mut content = [0; 8];
    content[..4].copy_from_slice(&state.failures.to_be_bytes());
    content[4..].copy_from_slice(&state.limit.to_be_bytes());
    content
}

/// The index's public area but for its handle, and the branches of its policy. Anyone may read
/// the counters, for they say nothing of the PIN.
fn shape(
    owner: Owner<'_>,
    first_writer: &VerifyKey,
    changer: &VerifyKey,
    officer: Option<&PinIndex>,
) -> Result<(NvShape, Vec<PolicyDigest>)> {
    let none = PolicyDigest::EMPTY;
    let k_rec = owner.k_rec.name()?;
    let by_recovery = || none.signed(k_rec.as_bytes(), owner.vault_id.as_bytes());
    let first: Name = first_writer.name()?;
    let mut branches = vec![
        by_recovery().command_code(NV_WRITE),
        PolicyDigest::authorize(changer.name()?.as_bytes()).command_code(NV_CHANGE_AUTH),
        by_recovery().command_code(NV_CHANGE_AUTH),
        none.signed(first.as_bytes(), &[]).command_code(NV_WRITE),
    ];
    if let Some(officer) = officer {
        let secret = none.secret(officer.nv.name_written().as_bytes());
        branches.push(secret.command_code(NV_WRITE));
        branches.push(secret.command_code(NV_CHANGE_AUTH));
    }
    let shape = NvShape {
        attributes: attribute::POLICYWRITE
            | attribute::PIN_FAIL
            | attribute::OWNERREAD
            | attribute::AUTHREAD
            | attribute::NO_DA,
        policy: PolicyDigest::or(&branches),
        size: SIZE,
    };
    Ok((shape, branches))
}

/// Does something with a policy session of its own.
fn with_session<T>(
    tpm: &mut Tpm,
    root: RootKey,
    steps: impl FnOnce(&mut Tpm, Session) -> Result<T>,
) -> Result<T> {
    let session = Session::start(tpm, root)?;
    let done = steps(tpm, session);
    let closed = session.close(tpm);
    done.and_then(|done| closed.map(|()| done))
}

fn set_auth(tpm: &mut Tpm, handle: NvIndexHandle, pin: &PinAuth) -> tss_esapi::Result<()> {
    tpm.context.tr_set_auth(handle.into(), tss_auth(pin)?)
}

fn tss_auth(pin: &PinAuth) -> tss_esapi::Result<Auth> {
    Auth::try_from(pin.expose().expose().to_vec())
}
