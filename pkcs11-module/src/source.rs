//! Where objects come from: a vault and its TPM, or what a test makes up.
//!
//! A key stays in the TPM for a while after it was used, so that a signature costs one command;
//! see [`VaultSource`].

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use strongroom::key::{DecryptScheme, KeyAlgorithm, LoadedKey, SignScheme};
use strongroom::object::{Metadata, NewObject, ObjectId, TokenName};
use strongroom::vault::Listing;
use strongroom::{ErrorKind, Result, Secret, Tcti, Unlocked, Vault};

/// What the module needs of a vault.
pub(crate) trait Source: Send {
    /// The vault's id.
    fn id(&self) -> String;

    /// The vault's tokens, in the order of their slots.
    fn tokens(&self) -> Vec<TokenName>;

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
    holding: Option<Holding>,
}

/// What is in the TPM.
struct Holding {
    unlocked: Unlocked,
    key: Option<(Metadata, LoadedKey)>,
    begun: Instant,
    used: Instant,
}

impl VaultSource {
    /// The vault in this folder, whose TPM is there. Touches no TPM.
    pub(crate) fn open(dir: PathBuf, tcti: Tcti) -> Result<Self> {
        let vault = Vault::open(&dir)?;
        Ok(Self {
            vault,
            dir,
            tcti,
            holding: None,
        })
    }

    /// Does something with the unlocked vault. Where the TPM has lost what it held, once more with
    /// a vault that is unlocked anew.
    fn with<T>(&mut self, action: impl Fn(&mut Holding) -> Result<T>) -> Result<T> {
        let again = self.holding.is_some();
        match self.attempt(&action) {
            Err(error) if again && error.kind() == ErrorKind::Tpm => {
                log::info!("once more, with the vault unlocked anew: {error}");
                self.attempt(&action)
            }
            other => other,
        }
    }

    fn attempt<T>(&mut self, action: &impl Fn(&mut Holding) -> Result<T>) -> Result<T> {
        if let Some(holding) = &self.holding {
            let has_turn = holding.unlocked.keeps_tpm_from_others();
            let longest = if has_turn { LONGEST_TURN } else { LONGEST };
            if holding.begun.elapsed() > longest {
                self.let_go();
                if has_turn {
                    std::thread::sleep(STEP_ASIDE);
                }
            }
        }
        let holding = match &mut self.holding {
            Some(holding) => holding,
            None => self.holding.insert(Holding::begin(&self.dir, &self.tcti)?),
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
    fn write<T>(&mut self, action: impl FnOnce(&mut Unlocked) -> Result<T>) -> Result<T> {
        self.let_go();
        action(&mut Vault::open(&self.dir)?.unlock_to_write(&self.tcti)?)
    }
}

impl Holding {
    fn begin(dir: &Path, tcti: &Tcti) -> Result<Self> {
        // Opened anew, because hosts live long.
        let unlocked = Vault::open(dir)?.unlock(tcti)?;
        let now = Instant::now();
        Ok(Self {
            unlocked,
            key: None,
            begun: now,
            used: now,
        })
    }

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

    fn tokens(&self) -> Vec<TokenName> {
        self.vault.tokens()
    }

    fn list(&self) -> Result<Listing> {
        self.vault.list()
    }

    fn payload_len(&self, id: ObjectId) -> Result<Option<usize>> {
        self.vault.payload_len(id)
    }

    fn unseal(&mut self, object: &Metadata) -> Result<Secret> {
        self.with(|holding| holding.without_key()?.unseal(object))
    }

    fn seal(&mut self, object: NewObject, payload: &Secret) -> Result<ObjectId> {
        self.write(|vault| vault.seal(object, payload))
    }

    fn store(&mut self, object: NewObject) -> Result<ObjectId> {
        self.write(|vault| vault.store(object))
    }

    fn generate_key(&mut self, object: NewObject, algorithm: KeyAlgorithm) -> Result<ObjectId> {
        self.write(|vault| vault.generate_key(object, algorithm))
    }

    fn import_key(&mut self, object: NewObject, pkcs8: &Secret) -> Result<ObjectId> {
        self.write(|vault| vault.import_key(object, pkcs8))
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

    fn holds_since(&self) -> Option<Instant> {
        self.holding.as_ref().map(|holding| holding.used)
    }

    fn let_go(&mut self) {
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

/// For messages: an object by id and label.
pub(crate) fn describe(object: &Metadata) -> String {
    format!("object {} ({}, {})", object.id, object.token, object.label)
}
