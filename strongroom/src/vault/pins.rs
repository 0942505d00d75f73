//! PINs of tokens: how they stand, given, set and changed. Where a PIN is asked for is in
//! `sealing.rs`: at the storage key that a private object hangs under.

use std::sync::Arc;

use super::{Unlocked, Vault};
use crate::error::{Error, Result};
use crate::object::{Kind, NewObject, PIN, TokenName};
use crate::pin::{Pin, PinAuth, PinState, Role};
use crate::recovery::RecoveryKit;
use crate::tpm::pin::{Guard, Pins};
use crate::tpm::root_key::RootKey;
use crate::tpm::{Tcti, Tpm, Turn};

/// A user's PIN that the TPM has found right, before the vault is unlocked: that takes an allowed
/// boot besides, and can wait until something is asked for.
pub struct LoggedIn {
    vault: Vault,
    tpm: Tpm,
    root: RootKey,
    token: TokenName,
    pin: Arc<PinAuth>,
    guard: Guard,
}

impl LoggedIn {
    /// Unlocks the vault on the connection that there is, with the PIN given.
    ///
    /// # Errors
    /// As [`Vault::unlock`].
    pub fn unlock(self) -> Result<Unlocked> {
        let connection = self.vault.with_index(self.tpm, self.root)?;
        let mut unlocked = self.vault.unlock_on(connection)?;
        unlocked.pins.insert(self.token.clone(), self.pin);
        unlocked.presented = Some((self.token, Arc::new(self.guard)));
        Ok(unlocked)
    }
}

impl Vault {
    /// How a PIN of a token stands; `None` where it has none, and then the TPM is not asked. Two
    /// commands, and no PIN.
    ///
    /// # Errors
    /// [`Error::NoSuchToken`]; [`Error::PinUnusable`] where the index is gone.
    pub fn pin_state(
        &self,
        tcti: &Tcti,
        token: &TokenName,
        role: Role,
    ) -> Result<Option<PinState>> {
        match self.manifest.pins(token)? {
            Some(pins) => {
                let mut tpm = Tpm::connect(&Turn::to_look(tcti))?;
                pins.of(role).state(&mut tpm).map(Some)
            }
            None => Ok(None),
        }
    }

    /// Has the TPM compare the PIN of a token's user. ReadPublic, NV_ReadPublic, StartAuthSession,
    /// one command. The session is salted to a root key that was made in this TPM and cannot leave
    /// it, so that whoever wrote a manifest of their own learns nothing of the PIN; what they make
    /// of it opens nothing either, for the vault is authenticated when it is unlocked.
    ///
    /// # Errors
    /// [`Error::PinIncorrect`], [`Error::PinLocked`], [`Error::PinNotSet`];
    /// [`Error::Input`] for a token that has no PINs; [`Error::RootKey`], [`Error::ForeignTpm`].
    pub fn log_in(&self, tcti: &Tcti, token: &TokenName, pin: &Pin) -> Result<LoggedIn> {
        self.pins_of(token)?;
        let pin = Arc::new(pin.auth(self.id(), token, Role::User));
        let turn = self.turn(tcti)?;
        Tpm::with_room(&turn, || {
            let mut tpm = Tpm::connect(&turn)?;
            let root = self.manifest.root_key.open(&mut tpm)?;
            let guard = Guard::new(&mut tpm, root, self.pins_of(token)?, &pin)?;
            guard.verify(&mut tpm)?;
            Ok(LoggedIn {
                vault: self.clone(),
                tpm,
                root,
                token: token.clone(),
                pin: Arc::clone(&pin),
                guard,
            })
        })
    }

    /// Sets a PIN of a token with the recovery kit, in whatever state that is: forgotten, locked,
    /// never set, or removed from the TPM.
    ///
    /// # Errors
    /// [`Error::RecoveryIdentity`]; [`Error::Input`] for a token that has no PINs;
    /// [`Error::ForeignTpm`] on another TPM.
    pub fn set_pin_by_recovery(
        &self,
        tcti: &Tcti,
        kit: &RecoveryKit,
        token: &TokenName,
        role: Role,
        new: &Pin,
    ) -> Result<()> {
        let _lock = self.lock()?;
        let vault = self.reread()?;
        let file = vault.store.manifest_file();
        let key = vault.manifest.vault_key_by_recovery(kit, &file)?;
        vault.check_expected(&key)?;
        let pins = vault.pins_of(token)?;
        let k_rec = vault.manifest.writers.k_rec.open(&kit.identity)?;
        let new = new.auth(vault.id(), token, role);
        let turn = vault.turn(tcti)?;
        Tpm::with_room(&turn, || {
            let connection = vault.connect(&turn)?;
            let mut tpm = connection.tpm;
            pins.of(role)
                .set_by_recovery(&mut tpm, connection.root, &k_rec, Some(&new))
        })
    }

    /// The PINs of a token that has them.
    pub(super) fn pins_of(&self, token: &TokenName) -> Result<Pins> {
        self.manifest.pins(token)?.ok_or_else(|| {
            Error::input(
                format!("token {token}"),
                "it has no PINs; whoever makes a token says whether it has",
            )
        })
    }

    /// A new object that says whether it needs the PIN of its token.
    pub(super) fn with_pin_settled(&self, mut object: NewObject) -> Result<NewObject> {
        let has_pins = self.manifest.token(&object.token)?.pins.is_some();
        // Who meant `true` and wrote something else must not get less than that.
        let said = object.attributes.get(PIN).map(String::as_str);
        if !matches!(said, None | Some("true" | "false")) {
            return Err(Error::input(
                format!("attribute {PIN} of object {}", object.label),
                "it must be true or false",
            ));
        }
        if has_pins && object.kind != Kind::Certificate {
            object
                .attributes
                .entry(PIN.to_owned())
                .or_insert_with(|| true.to_string());
        } else if needs_pin(&object) {
            return Err(Error::input(
                format!("object {}", object.label),
                format!("it is to need a PIN, and token {} has none", object.token),
            ));
        }
        Ok(object)
    }
}

impl Unlocked {
    /// The same as [`Vault::pin_state`], on the connection that there is.
    pub fn pin_state(&mut self, token: &TokenName, role: Role) -> Result<Option<PinState>> {
        match self.vault.manifest.pins(token)? {
            Some(pins) => pins.of(role).state(&mut self.tpm).map(Some),
            None => Ok(None),
        }
    }

    /// Gives the PIN of a token's user, for all that follows until [`Unlocked::forget_pin`]. The
    /// TPM is not asked: a wrong one is noticed when it is used.
    ///
    /// # Errors
    /// [`Error::Input`] for a token that has no PINs.
    pub fn give_pin(&mut self, token: &TokenName, pin: &Pin) -> Result<()> {
        self.vault.pins_of(token)?;
        let auth = pin.auth(self.vault.id(), token, Role::User);
        let same = |given: &Arc<PinAuth>| given.expose().same_as(auth.expose().expose());
        if !self.pins.get(token).is_some_and(same) {
            self.forget_pin(token)?;
            self.pins.insert(token.clone(), Arc::new(auth));
        }
        Ok(())
    }

    /// The same, and has the TPM compare it. NV_ReadPublic, StartAuthSession, one command.
    ///
    /// # Errors
    /// [`Error::PinIncorrect`], [`Error::PinLocked`], [`Error::PinNotSet`]; then it is forgotten.
    pub fn log_in(&mut self, token: &TokenName, pin: &Pin) -> Result<()> {
        self.give_pin(token, pin)?;
        let guard = self.guard(token)?;
        let verified = guard.verify(&mut self.tpm);
        if verified.is_err() {
            self.forget_pin(token)?;
        }
        verified
    }

    /// Forgets the PIN of a token's user.
    pub fn forget_pin(&mut self, token: &TokenName) -> Result<()> {
        self.pins.remove(token);
        match &self.presented {
            Some((presented, _)) if presented == token => self.close_guard(),
            _ => Ok(()),
        }
    }

    /// Has the TPM compare a PIN. NV_ReadPublic, StartAuthSession, one command, FlushContext.
    ///
    /// # Errors
    /// [`Error::PinIncorrect`], [`Error::PinLocked`], [`Error::PinNotSet`];
    /// [`Error::Input`] for a token that has no PINs.
    pub fn check_pin(&mut self, token: &TokenName, role: Role, pin: &Pin) -> Result<()> {
        let pins = self.vault.pins_of(token)?;
        let auth = pin.auth(self.vault.id(), token, role);
        self.close_guard()?;
        let index = pins.of(role);
        let open = index.present(&mut self.tpm, self.root, &auth)?;
        let verified = index.verify(&mut self.tpm, open);
        let closed = open.close(&mut self.tpm);
        verified.and(closed)
    }

    /// Changes a PIN, by the old one.
    ///
    /// # Errors
    /// As [`Unlocked::check_pin`].
    pub fn change_pin(
        &mut self,
        token: &TokenName,
        role: Role,
        old: &Pin,
        new: &Pin,
    ) -> Result<()> {
        let pins = self.vault.pins_of(token)?;
        let auth = |pin: &Pin| pin.auth(self.vault.id(), token, role);
        let (old, new) = (auth(old), auth(new));
        if role == Role::User {
            self.forget_pin(token)?;
        }
        self.close_guard()?;
        let index = pins.of(role);
        let open = index.present(&mut self.tpm, self.root, &old)?;
        let changed = index.change(&mut self.tpm, self.root, self.gate.session, open, &new);
        let closed = open.close(&mut self.tpm);
        changed.and(closed)
    }

    /// Sets the user's PIN by the security officer's, whatever became of the old one.
    ///
    /// # Errors
    /// As [`Unlocked::check_pin`], of the security officer's PIN.
    pub fn set_pin(&mut self, token: &TokenName, officer: &Pin, new: &Pin) -> Result<()> {
        let new = new.auth(self.vault.id(), token, Role::User);
        self.set_user_pin(token, officer, Some(&new))
    }

    /// The same, or takes it away, so that nobody can use it until it is set.
    pub(super) fn set_user_pin(
        &mut self,
        token: &TokenName,
        officer: &Pin,
        new: Option<&PinAuth>,
    ) -> Result<()> {
        let pins = self.vault.pins_of(token)?;
        let officer = officer.auth(self.vault.id(), token, Role::SecurityOfficer);
        self.forget_pin(token)?;
        self.close_guard()?;
        let open = pins
            .of(Role::SecurityOfficer)
            .present(&mut self.tpm, self.root, &officer)?;
        let set = pins.set_by_officer(&mut self.tpm, self.root, self.gate.session, open, new);
        let closed = open.close(&mut self.tpm);
        set.and(closed)
    }

    /// The PIN of a token's user as it was given, presented to the TPM.
    pub(super) fn guard(&mut self, token: &TokenName) -> Result<Arc<Guard>> {
        if let Some((presented, guard)) = &self.presented {
            if presented == token {
                return Ok(Arc::clone(guard));
            }
        }
        self.close_guard()?;
        let pins = self.vault.pins_of(token)?;
        let pin = self.pins.get(token).cloned();
        let pin =
            pin.ok_or_else(|| Error::PinRequired(format!("what is asked for in token {token}")))?;
        let guard = Arc::new(Guard::new(&mut self.tpm, self.root, pins, &pin)?);
        self.presented = Some((token.clone(), Arc::clone(&guard)));
        Ok(guard)
    }

    /// Leaves nothing in the TPM but the batch's own session.
    pub(super) fn make_room(&mut self) -> Result<()> {
        self.close_guard()?;
        self.unload_storage_key()
    }

    /// Takes the session of the PIN that is presented out of the TPM, which has room for three,
    /// and the storage key behind it.
    pub(super) fn close_guard(&mut self) -> Result<()> {
        if matches!(&self.loaded, Some((_, true, _))) {
            self.unload_storage_key()?;
        }
        match self.presented.take() {
            Some((_, guard)) => guard.close(&mut self.tpm),
            None => Ok(()),
        }
    }
}

/// Whether a new object is for those alone who give the PIN.
pub(super) fn needs_pin(object: &NewObject) -> bool {
    object.attributes.get(PIN).is_some_and(|pin| pin == "true")
}
