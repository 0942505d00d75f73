//! Where objects come from: a vault and its TPM, or what a test makes up.
//!
//! A key stays in the TPM for a while after it was used, so that a signature costs one command;
//! see [`VaultSource`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use strongroom::key::{DecryptScheme, KeyAlgorithm, LoadedKey, SignScheme};
use strongroom::object::{Metadata, NewObject, ObjectId, TokenLabel, TokenName};
use strongroom::pin::{Pin, PinState, Role};
use strongroom::vault::{Listing, LoggedIn, NewToken, Token};
use strongroom::{Error, ErrorKind, Result, Secret, Tcti, Unlocked, Vault};

/// What the module needs of a vault.
pub(crate) trait Source: Send {
    /// The vault's id.
    fn id(&self) -> String;

    /// The vault's tokens as they are now, in the order of their slots. Touches no TPM.
    fn tokens(&mut self) -> Result<Vec<Token>>;

    /// Whether tokens can be added.
    fn takes_tokens(&self) -> bool;

    /// Adds a token.
    fn add_token(&mut self, token: &NewToken) -> Result<()>;

    /// Begins a token anew, whose objects go as far as they are destroyable.
    fn begin_token_anew(
        &mut self,
        token: &TokenName,
        label: Option<&TokenLabel>,
        officer: &Pin,
    ) -> Result<()>;

    /// How the PIN of a token's user stands, as the TPM says.
    fn user_pin(&mut self, token: &TokenName) -> Result<Option<PinState>>;

    /// How that of its security officer stood, after the last try here that was wrong.
    fn officer_pin(&self, token: &TokenName) -> Option<PinState>;

    /// Who is logged in to a token.
    fn login(&self, token: &TokenName) -> Option<Role>;

    /// Logs in, if the PIN is right.
    fn log_in(&mut self, token: &TokenName, role: Role, pin: Pin) -> Result<()>;

    /// Logs out.
    fn log_out(&mut self, token: &TokenName);

    /// Compares the PIN of the user once more.
    fn check_pin(&mut self, token: &TokenName, pin: &Pin) -> Result<()>;

    /// Changes a PIN, by the old one.
    fn change_pin(&mut self, token: &TokenName, role: Role, old: &Pin, new: Pin) -> Result<()>;

    /// Sets the user's PIN, by that of the security officer who is logged in.
    fn set_pin(&mut self, token: &TokenName, new: &Pin) -> Result<()>;

    /// Whether this process may write what a token holds.
    fn may_write(&self, _token: &TokenName) -> bool {
        true
    }

    /// What there is now. Touches no TPM.
    fn list(&self) -> Result<Listing>;

    /// How long the payload of an object is, if it has one. Touches no TPM.
    fn payload_len(&self, id: ObjectId) -> Result<Option<usize>>;

    /// The payload of an object, out of the TPM: of the one that was listed so, as for all that
    /// follows. What a list says is not authenticated before.
    fn unseal(&mut self, object: &Metadata) -> Result<Secret>;

    /// A new object with a payload.
    fn seal(&mut self, object: NewObject, payload: &Secret) -> Result<ObjectId>;

    /// A new object without.
    fn store(&mut self, object: NewObject) -> Result<ObjectId>;

    /// A new private key, made here.
    fn generate_key(&mut self, object: NewObject, algorithm: KeyAlgorithm) -> Result<ObjectId>;

    /// A private key from elsewhere, as PKCS#8.
    fn import_key(&mut self, object: NewObject, pkcs8: &Secret) -> Result<ObjectId>;

    /// Changes what is said of an object.
    fn update(&mut self, object: &Metadata, change: &dyn Fn(&mut NewObject)) -> Result<()>;

    /// Removes an object for good.
    fn remove(&mut self, object: &Metadata) -> Result<()>;

    /// Signs with a private key.
    fn sign(&mut self, object: &Metadata, scheme: &SignScheme, input: &[u8]) -> Result<Vec<u8>>;

    /// Decrypts with a private key.
    fn decrypt(
        &mut self,
        object: &Metadata,
        scheme: &DecryptScheme,
        ciphertext: &[u8],
    ) -> Result<Secret>;

    /// What both sides of an ECDH come to.
    fn derive(&mut self, object: &Metadata, point: &[u8]) -> Result<Secret>;

    /// Random numbers of the TPM's own, 32 bytes. One command, or, encrypted, one where it is in use.
    fn tpm_random(&mut self) -> Result<Secret>;

    /// When the TPM was last used, if it holds something of ours.
    fn holds_since(&self) -> Option<Instant>;

    /// Leaves nothing in the TPM.
    fn let_go(&mut self);
}

/// How long the TPM holds what it held for a call, if no other call comes.
pub(crate) const IDLE: Duration = Duration::from_millis(100);

/// How long it does at most, however many calls come: what the vault's manifest and policy said may
/// have been written again since.
const LONGEST: Duration = Duration::from_secs(1);

/// And this many times as long as it took to unlock the vault, so that a slow TPM is not kept busy
/// with that.
const SHARE: u32 = 20;

/// The same where others wait for their turn, and how long one then steps aside.
const LONGEST_TURN: Duration = Duration::from_millis(400);
const STEP_ASIDE: Duration = Duration::from_millis(15);

/// The vault in a folder.
///
/// What a call loads into the TPM, a session, a storage key and a private key, stays there for
/// [`IDLE`] after the last call, and [`LONGEST`] altogether. A simulator has room for no more
/// than that, and no resource manager: there processes take turns, and ours is over after
/// [`LONGEST_TURN`].
pub(crate) struct VaultSource {
    vault: Vault,
    dir: PathBuf,
    tcti: Tcti,
    /// The tokens that are shown, where not all are.
    only: Option<Vec<TokenName>>,
    holding: Option<Holding>,
    /// Whether what goes on writes.
    writing: bool,
    /// A login, before anything was asked of the vault.
    ready: Option<(LoggedIn, Instant)>,
    /// How the PINs of security officers stood after a wrong one.
    officers: BTreeMap<TokenName, PinState>,
    /// Who has logged in, with the PIN, which is asked for at each thing that is behind it.
    logins: BTreeMap<TokenName, (Role, Pin)>,
}

/// What is in the TPM.
struct Holding {
    unlocked: Unlocked,
    key: Option<(Metadata, LoadedKey)>,
    begun: Instant,
    used: Instant,
    /// How long it stays at most.
    longest: Duration,
}

impl VaultSource {
    /// The vault in this folder, whose TPM is there. Touches no TPM.
    ///
    /// # Errors
    /// Those of [`Vault::open`], and [`Error::Input`] for a name in `STRONGROOM_TOKENS` that is none.
    pub(crate) fn open(dir: PathBuf, tcti: Tcti) -> Result<Self> {
        let vault = Vault::open(&dir)?;
        Ok(Self {
            vault,
            dir,
            tcti,
            only: only_tokens()?,
            holding: None,
            writing: false,
            ready: None,
            officers: BTreeMap::new(),
            logins: BTreeMap::new(),
        })
    }

    /// Does something with the unlocked vault. Where the TPM has lost what it held, once more with
    /// a vault that is unlocked anew.
    fn with<T>(&mut self, action: impl Fn(&mut Holding) -> Result<T>) -> Result<T> {
        match self.with_pin(action) {
            // Somebody has changed it since the login. No second try: the TPM counts.
            Err(
                Error::PinIncorrect { token, .. }
                | Error::PinLocked { token, .. }
                | Error::PinNotSet { token, .. },
            ) => {
                log::error!("the PIN of token {token} was changed since the login");
                if let Ok(token) = token.parse() {
                    self.log_out(&token);
                }
                Err(Error::PinRequired(format!("token {token}")))
            }
            other => other,
        }
    }

    /// The same for what is itself about a PIN.
    fn with_pin<T>(&mut self, action: impl Fn(&mut Holding) -> Result<T>) -> Result<T> {
        let again = self.holding.as_ref().is_some_and(|it| it.used > it.begun);
        match self.attempt(&action) {
            Err(error)
                if again
                    && error.kind() == ErrorKind::Tpm
                    && !matches!(error, Error::PinLocked { .. }) =>
            {
                log::info!("once more, with the vault unlocked anew: {error}");
                self.attempt(&action)
            }
            Err(error) if self.cleared(&error) => self.attempt(&action),
            other => other,
        }
    }

    /// Whether there was no room in the TPM, and now there may be: the session of a PIN is the third, and
    /// may be the first that does not fit beside what a killed process left there.
    fn cleared(&mut self, error: &Error) -> bool {
        if error.kind() != ErrorKind::Tpm || self.holding.is_some() {
            return false;
        }
        self.vault
            .clear_leftovers(&self.tcti, error)
            .unwrap_or_else(|error| {
                log::info!("what killed processes left in the TPM stays there: {error}");
                false
            })
    }

    fn attempt<T>(&mut self, action: &impl Fn(&mut Holding) -> Result<T>) -> Result<T> {
        if let Some(holding) = &self.holding {
            let has_turn = holding.unlocked.keeps_tpm_from_others();
            let longest = if has_turn {
                LONGEST_TURN
            } else {
                holding.longest
            };
            if holding.begun.elapsed() > longest {
                self.let_go();
                if has_turn {
                    std::thread::sleep(STEP_ASIDE);
                }
            }
        }
        let holding = if let Some(holding) = &mut self.holding {
            holding
        } else if let Some((ready, _)) = self.ready.take() {
            self.begin(|vault, tcti| {
                ready.unlock().or_else(|error| {
                    log::info!("once more, on a new connection: {error}");
                    vault.unlock(tcti)
                })
            })?
        } else if self.writing {
            self.begin(Vault::unlock_to_write)?
        } else {
            self.begin(Vault::unlock)?
        };
        let outcome = action(holding);
        holding.used = Instant::now();
        if matches!(&outcome, Err(error) if error.kind() == ErrorKind::Tpm) {
            self.let_go();
        }
        outcome
    }

    /// The same for what writes. Nothing is kept afterwards, for a writer keeps others off; nor
    /// before, while it waits for other writers, which may be waiting for the TPM.
    fn write<T>(&mut self, action: impl Fn(&mut Unlocked) -> Result<T>) -> Result<T> {
        self.begin_to_write()?;
        self.writing = true;
        let outcome = self.with(|holding| action(holding.without_key()?));
        self.writing = false;
        self.let_go();
        outcome
    }

    fn begin_to_write(&mut self) -> Result<()> {
        self.let_go();
        self.begin(Vault::unlock_to_write)?;
        Ok(())
    }

    /// How a PIN stands, as the TPM says.
    fn pin_state(&mut self, token: &TokenName, role: Role) -> Result<Option<PinState>> {
        // The kernel's own device has one opener at a time.
        match &mut self.holding {
            Some(holding) => holding.unlocked.pin_state(token, role),
            None => self.vault.pin_state(&self.tcti, token, role),
        }
    }

    /// Keeps in mind how a security officer's PIN stands, after it was tried.
    fn note_officer(&mut self, token: &TokenName, tried: &Result<()>) {
        self.officers.remove(token);
        if matches!(
            tried,
            Err(Error::PinIncorrect { .. } | Error::PinLocked { .. })
        ) {
            if let Ok(Some(state)) = self.pin_state(token, Role::SecurityOfficer) {
                self.officers.insert(token.clone(), state);
            }
        }
    }

    /// Unlocks the vault, opened anew, because hosts live long.
    fn begin(
        &mut self,
        unlock: impl FnOnce(&Vault, &Tcti) -> Result<Unlocked>,
    ) -> Result<&mut Holding> {
        let start = Instant::now();
        let mut unlocked = unlock(&Vault::open(&self.dir)?, &self.tcti)?;
        for (token, (role, pin)) in &self.logins {
            if *role == Role::User {
                unlocked.give_pin(token, pin)?;
            }
        }
        let now = Instant::now();
        Ok(self.holding.insert(Holding {
            unlocked,
            key: None,
            begun: now,
            used: now,
            longest: LONGEST.max((now - start) * SHARE),
        }))
    }
}

impl Holding {
    /// The vault with a private key loaded, and no other.
    fn with_key(&mut self, object: &Metadata) -> Result<(&mut Unlocked, &LoadedKey)> {
        if self.key.as_ref().is_none_or(|(loaded, _)| loaded != object) {
            self.without_key()?;
            self.key = Some((object.clone(), self.unlocked.load_key(object)?));
        }
        let (_, key) = self.key.as_ref().expect("it was just loaded");
        Ok((&mut self.unlocked, key))
    }

    /// The vault with room for another object.
    fn without_key(&mut self) -> Result<&mut Unlocked> {
        if let Some((_, key)) = self.key.take() {
            self.unlocked.unload_key(key)?;
        }
        Ok(&mut self.unlocked)
    }
}

impl Source for VaultSource {
    fn id(&self) -> String {
        self.vault.id().to_owned()
    }

    fn tokens(&mut self) -> Result<Vec<Token>> {
        let vault = Vault::open(&self.dir)?;
        if vault.id() != self.vault.id() {
            return Err(Error::VaultExists(self.dir.clone(), "another vault"));
        }
        self.vault = vault;
        let mut names = self.vault.tokens();
        // Those that every vault has come first, so that their slots stay as others come.
        let usual = [
            TokenName::credentials(),
            TokenName::datasets(),
            TokenName::keys(),
        ];
        names.sort_by_key(|name| {
            let place = usual.iter().position(|it| it == name);
            (place.unwrap_or(usual.len()), name.clone())
        });
        if let Some(only) = &self.only {
            names.retain(|name| only.contains(name));
        }
        let (readable, others): (Vec<_>, Vec<_>) =
            (names.into_iter()).partition(|token| self.vault.may_read(token));
        for token in &others {
            log::info!("token {token} is left out: this user may not read it");
        }
        if readable.is_empty() && !others.is_empty() {
            log::error!("there are no tokens: this user may read none of the vault's");
        }
        readable.iter().map(|name| self.vault.token(name)).collect()
    }

    fn takes_tokens(&self) -> bool {
        self.vault.takes_tokens()
    }

    fn add_token(&mut self, token: &NewToken) -> Result<()> {
        self.write(|vault| vault.add_token(token))?;
        // Whoever makes one sees it.
        if let Some(only) = &mut self.only {
            only.push(token.name.clone());
        }
        Ok(())
    }

    fn begin_token_anew(
        &mut self,
        token: &TokenName,
        label: Option<&TokenLabel>,
        officer: &Pin,
    ) -> Result<()> {
        self.begin_to_write()?;
        let outcome = self.with_pin(|holding| {
            holding
                .without_key()?
                .begin_token_anew(token, label, officer, is_destroyable)
        });
        self.note_officer(token, &outcome);
        self.let_go();
        outcome
    }

    fn user_pin(&mut self, token: &TokenName) -> Result<Option<PinState>> {
        self.pin_state(token, Role::User)
    }

    fn officer_pin(&self, token: &TokenName) -> Option<PinState> {
        self.officers.get(token).copied()
    }

    fn login(&self, token: &TokenName) -> Option<Role> {
        self.logins.get(token).map(|(role, _)| *role)
    }

    fn log_in(&mut self, token: &TokenName, role: Role, pin: Pin) -> Result<()> {
        match role {
            // The vault can wait until something is asked of it.
            Role::User if self.holding.is_none() => {
                // A login to another token may have the turn that this one would wait for.
                self.ready = None;
                let logged_in = Vault::open(&self.dir)?.log_in(&self.tcti, token, &pin)?;
                self.ready = Some((logged_in, Instant::now()));
            }
            Role::User => self.with_pin(|holding| holding.without_key()?.log_in(token, &pin))?,
            Role::SecurityOfficer => {
                let checked =
                    self.with_pin(|holding| holding.without_key()?.check_pin(token, role, &pin));
                self.note_officer(token, &checked);
                checked?;
            }
        }
        self.logins.insert(token.clone(), (role, pin));
        Ok(())
    }

    fn log_out(&mut self, token: &TokenName) {
        if self.logins.remove(token).is_some() {
            self.let_go();
        }
    }

    fn check_pin(&mut self, token: &TokenName, pin: &Pin) -> Result<()> {
        self.with_pin(|holding| holding.without_key()?.check_pin(token, Role::User, pin))
    }

    fn change_pin(&mut self, token: &TokenName, role: Role, old: &Pin, new: Pin) -> Result<()> {
        let changed =
            self.with_pin(|holding| holding.without_key()?.change_pin(token, role, old, &new));
        if role == Role::SecurityOfficer {
            self.note_officer(token, &changed);
        }
        changed?;
        if let Some((now, pin)) = self.logins.get_mut(token) {
            if *now == role {
                *pin = new;
            }
        }
        self.let_go();
        Ok(())
    }

    fn set_pin(&mut self, token: &TokenName, new: &Pin) -> Result<()> {
        let Some((Role::SecurityOfficer, officer)) = self.logins.remove(token) else {
            return Err(Error::PinRequired(format!("token {token}")));
        };
        let set = self.with_pin(|holding| holding.without_key()?.set_pin(token, &officer, new));
        if !matches!(set, Err(Error::PinIncorrect { .. })) {
            let login = (Role::SecurityOfficer, officer);
            self.logins.insert(token.clone(), login);
        }
        set
    }

    fn may_write(&self, token: &TokenName) -> bool {
        self.vault.may_write(token)
    }

    fn list(&self) -> Result<Listing> {
        self.vault.glance()
    }

    fn payload_len(&self, id: ObjectId) -> Result<Option<usize>> {
        self.vault.payload_len(id)
    }

    fn unseal(&mut self, object: &Metadata) -> Result<Secret> {
        self.with(|holding| holding.without_key()?.unseal(object))
    }

    fn seal(&mut self, object: NewObject, payload: &Secret) -> Result<ObjectId> {
        self.write(|vault| vault.seal(object.clone(), payload))
    }

    fn store(&mut self, object: NewObject) -> Result<ObjectId> {
        self.write(|vault| vault.store(object.clone()))
    }

    fn generate_key(&mut self, object: NewObject, algorithm: KeyAlgorithm) -> Result<ObjectId> {
        self.write(|vault| vault.generate_key(object.clone(), algorithm))
    }

    fn import_key(&mut self, object: NewObject, pkcs8: &Secret) -> Result<ObjectId> {
        self.write(|vault| vault.import_key(object.clone(), pkcs8))
    }

    fn update(&mut self, object: &Metadata, change: &dyn Fn(&mut NewObject)) -> Result<()> {
        self.write(|vault| vault.update(object, change))
    }

    fn remove(&mut self, object: &Metadata) -> Result<()> {
        self.write(|vault| vault.remove(object))
    }

    fn sign(&mut self, object: &Metadata, scheme: &SignScheme, input: &[u8]) -> Result<Vec<u8>> {
        self.with(|holding| {
            let (vault, key) = holding.with_key(object)?;
            vault.sign(key, scheme, input)
        })
    }

    fn decrypt(
        &mut self,
        object: &Metadata,
        scheme: &DecryptScheme,
        ciphertext: &[u8],
    ) -> Result<Secret> {
        self.with(|holding| {
            let (vault, key) = holding.with_key(object)?;
            vault.decrypt(key, scheme, ciphertext)
        })
    }

    fn derive(&mut self, object: &Metadata, point: &[u8]) -> Result<Secret> {
        self.with(|holding| {
            let (vault, key) = holding.with_key(object)?;
            vault.derive(key, point)
        })
    }

    fn tpm_random(&mut self) -> Result<Secret> {
        const LEN: usize = 32;
        match &mut self.holding {
            Some(holding) => holding.unlocked.random(LEN),
            None => self.vault.random(&self.tcti, LEN),
        }
    }

    fn holds_since(&self) -> Option<Instant> {
        let ready = self.ready.as_ref().map(|(_, since)| *since);
        self.holding.as_ref().map(|holding| holding.used).or(ready)
    }

    fn let_go(&mut self) {
        self.ready = None;
        if let Some(mut holding) = self.holding.take() {
            if let Err(error) = holding.without_key() {
                log::info!("a key may be left in the TPM: {error}");
            }
        }
    }
}

impl Drop for VaultSource {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Whether C_InitToken destroys an object.
fn is_destroyable(object: &Metadata) -> bool {
    object
        .attributes
        .get("cka.destroyable")
        .is_none_or(|it| it != "false")
}

/// The TPM for hosts of the module. Unless `STRONGROOM_TCTI` says otherwise, that is the kernel's
/// resource manager: hosts are killed and crash with keys loaded, and beneath it these would stay.
///
/// # Errors
/// [`Error::Input`] if the variable is not a TCTI.
pub(crate) fn tcti() -> Result<Tcti> {
    const MANAGED: &str = "/dev/tpmrm0";
    let named = std::env::var_os("STRONGROOM_TCTI").is_some_and(|tcti| !tcti.is_empty());
    if !named && Path::new(MANAGED).exists() {
        return format!("device:{MANAGED}").parse();
    }
    Tcti::from_environment()
}

/// The tokens that the host is to see, by the names in `STRONGROOM_TOKENS`, between commas; all of them
/// where that says nothing. It keeps clients from others that take the first slot for theirs; what a host
/// may read is decided elsewhere.
fn only_tokens() -> Result<Option<Vec<TokenName>>> {
    match std::env::var("STRONGROOM_TOKENS") {
        Ok(names) if !names.is_empty() => names
            .split(',')
            .map(str::parse)
            .collect::<Result<_>>()
            .map(Some),
        _ => Ok(None),
    }
}

/// For messages: an object by id and label.
pub(crate) fn describe(object: &Metadata) -> String {
    format!("object {} ({}, {})", object.id, object.token, object.label)
}
