//! Tokens of a vault: what they are, made, changed, removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Unlocked, Vault, fencing};
use crate::error::{Error, Result};
use crate::manifest::{Manifest, TokenRecord};
use crate::object::{Kind, Metadata, TokenLabel, TokenName};
use crate::pin::{Pin, PinAuth, Role};
use crate::policy::Fence;
use crate::provision::{self, FirstPins, Maker, TokenPlan};
use crate::store;

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its name, for life: what its folder is called.
    pub name: TokenName,
    /// What it is called, if its name is not enough.
    pub label: Option<TokenLabel>,
    /// Whether it is write-protected through PKCS#11.
    pub write_protected: bool,
    /// Whether it has PINs.
    pub has_pins: bool,
    /// The fence that must be open, where it has one.
    pub fence: Option<Fence>,
}

/// A token to be made.
pub struct NewToken {
    /// Its name.
    pub name: TokenName,
    /// What it is to be called, if its name is not enough.
    pub label: Option<TokenLabel>,
    /// The PIN of its security officer, if it is to have PINs; the user's is set afterwards.
    pub officer: Option<Pin>,
    /// The fence behind which it is to be, for life.
    pub fence: Option<Fence>,
}

impl Vault {
    /// What a token is. Not authenticated before the vault is unlocked.
    ///
    /// # Errors
    /// [`Error::NoSuchToken`].
    pub fn token(&self, name: &TokenName) -> Result<Token> {
        let record = self.manifest.token(name)?;
        // No client's mistake must cost a dataset key or a credential.
        let precious = [TokenName::datasets(), TokenName::credentials()].contains(name);
        Ok(Token {
            name: name.clone(),
            label: record.label.clone(),
            write_protected: record.write_protected.unwrap_or(precious),
            has_pins: record.pins.is_some(),
            fence: record.fence,
        })
    }

    /// What is made again of a token on another TPM. Nobody knows its PINs there, so that they are
    /// set with the recovery kit.
    pub(super) fn plan_again(&self, name: &TokenName) -> Result<TokenPlan> {
        let record = self.manifest.token(name)?;
        Ok(TokenPlan {
            name: name.clone(),
            label: record.label.clone(),
            write_protected: record.write_protected,
            // The user's, to seal what is behind it again; `set_by_recovery` ends that.
            pins: record.pins.as_ref().map(|_| FirstPins {
                user: Some(Arc::new(PinAuth::random())),
                security_officer: None,
            }),
            fence: record.fence,
        })
    }
}

impl Unlocked {
    /// Makes a token.
    ///
    /// # Errors
    /// [`Error::Input`] for a name that is taken, and for a fence that is closed or no fence.
    pub fn add_token(&mut self, token: &NewToken) -> Result<()> {
        let manifest = self.manifest_to_change()?;
        if manifest.tokens.contains_key(&token.name) {
            return Err(Error::input(
                format!("token name {}", token.name),
                "there is such a token; choose another name",
            ));
        }
        let plan = TokenPlan {
            name: token.name.clone(),
            label: token.label.clone(),
            write_protected: None,
            pins: token
                .officer
                .as_ref()
                .map(|pin| self.first_pins(&token.name, pin)),
            fence: token.fence,
        };
        self.make_room()?;
        if let Some(fence) = plan.fence {
            fencing::check_open(&mut self.tpm, fence, &self.gate.branches.all_pcrs())?;
        }
        let (maker, tpm) = self.maker(&manifest);
        let record = maker.token(tpm, &plan)?;
        let name = plan.name;
        let made = self
            .vault
            .store
            .create_folders([name.clone()])
            .and_then(|()| self.replace_record(manifest, &name, Some(record.clone())));
        if made.is_err() {
            self.remove_pins(&name, &record);
        }
        made
    }

    /// Begins a token anew, as C_InitToken has it (PKCS#11 3.1, section 5.5.7): the objects that
    /// `destroy` names are destroyed, and the user's PIN is to be set. A token with PINs takes its
    /// security officer's; one without gets PINs, if it holds no object.
    ///
    /// # Errors
    /// [`Error::PinIncorrect`], [`Error::PinLocked`]; [`Error::Input`] for a token without PINs
    /// that holds objects, and for one with a dataset key.
    pub fn begin_token_anew(
        &mut self,
        name: &TokenName,
        label: Option<&TokenLabel>,
        officer: &Pin,
        destroy: impl Fn(&Metadata) -> bool,
    ) -> Result<()> {
        let manifest = self.manifest_to_change()?;
        let mut record = manifest.token(name)?.clone();
        let had_pins = record.pins.is_some();
        // Before anything is refused for another reason: who does not know the PIN learns nothing.
        if had_pins {
            self.check_pin(name, Role::SecurityOfficer, officer)?;
        }
        let objects: Vec<Metadata> = self
            .vault
            .list()?
            .objects
            .into_iter()
            .filter(|object| object.token == *name)
            .collect();
        let refuse = |reason: &str| Err(Error::input(format!("token {name}"), reason));
        if objects.iter().any(|object| object.kind == Kind::DatasetKey) {
            return refuse("it holds dataset keys, which are not to be lost so");
        }
        if !had_pins && !objects.is_empty() {
            return refuse("it holds objects and has no PIN that would allow to destroy them");
        }
        if had_pins {
            self.set_user_pin(name, officer, None)?;
            for object in objects.iter().filter(|object| destroy(object)) {
                self.remove(object.id)?;
            }
        } else {
            let first = self.first_pins(name, officer);
            self.make_room()?;
            let (maker, tpm) = self.maker(&manifest);
            record.pins = Some(maker.pins(tpm, name, &first, record.fence)?);
        }
        record.label = label.cloned();
        let done = self.replace_record(manifest, name, Some(record.clone()));
        if done.is_err() && !had_pins {
            self.remove_pins(name, &record);
        }
        done
    }

    /// Says whether a token is write-protected through PKCS#11.
    pub fn protect_token(&mut self, name: &TokenName, protected: bool) -> Result<()> {
        let manifest = self.manifest_to_change()?;
        let mut record = manifest.token(name)?.clone();
        record.write_protected = Some(protected);
        self.replace_record(manifest, name, Some(record))
    }

    /// Removes a token that holds nothing, and its PINs.
    ///
    /// # Errors
    /// [`Error::Input`] for one that holds objects, damaged ones included, and for `datasets` and
    /// `credentials`, which migrations fill.
    pub fn remove_token(&mut self, name: &TokenName) -> Result<()> {
        let manifest = self.manifest_to_change()?;
        let record = manifest.token(name)?.clone();
        let refuse = |reason: &str| Err(Error::input(format!("token {name}"), reason));
        if [TokenName::datasets(), TokenName::credentials()].contains(name) {
            return refuse("migrations fill it, and it stays");
        }
        let listing = self.vault.store.list([name.clone()])?;
        if !listing.objects.is_empty() || !listing.damaged.is_empty() {
            return refuse("it holds objects; remove them first");
        }
        self.make_room()?;
        self.replace_record(manifest, name, None)?;
        self.remove_pins(name, &record);
        self.vault.store.remove_folder(name)
    }

    /// The manifest as it is on disk now, after the right to write was had.
    ///
    /// # Errors
    /// [`Error::Input`] on a second machine: what is made there of a token is that machine's alone.
    pub(super) fn manifest_to_change(&mut self) -> Result<Manifest> {
        if self.vault.machine.is_some() {
            return Err(Error::input(
                "this machine",
                "it is a second one of the vault; change tokens and second machines on the vault's own, \
                 or make this one that with `strongroom recover --recovery FILE`",
            ));
        }
        self.keep_others_off()?;
        let now = self.vault.reread()?.manifest;
        now.authenticate(&self.key, &self.vault.store.manifest_file())?;
        Ok(now)
    }

    fn replace_record(
        &mut self,
        manifest: Manifest,
        name: &TokenName,
        record: Option<TokenRecord>,
    ) -> Result<()> {
        let change = |tokens: &mut BTreeMap<_, _>| match record {
            Some(record) => drop(tokens.insert(name.clone(), record)),
            None => drop(tokens.remove(name)),
        };
        self.replace_manifest(manifest.with_tokens(change, &self.key))
    }

    /// Puts a changed manifest in the place of what it was.
    pub(super) fn replace_manifest(&mut self, manifest: Manifest) -> Result<()> {
        let file = self.vault.store.manifest_file();
        store::write(&file, &store::to_json(&manifest))?;
        self.vault.manifest = manifest;
        Ok(())
    }

    fn first_pins(&self, name: &TokenName, officer: &Pin) -> FirstPins {
        FirstPins {
            user: None,
            security_officer: Some(Arc::new(officer.auth(
                self.vault.id(),
                name,
                Role::SecurityOfficer,
            ))),
        }
    }

    fn maker<'a>(&'a mut self, manifest: &'a Manifest) -> (Maker<'a>, &'a mut crate::tpm::Tpm) {
        let maker = Maker {
            root: self.root,
            session: self.gate.session,
            boot: self.gate.index.index.policy(),
            vault_id: &manifest.id,
            k_rec: &manifest.writers.k_rec,
        };
        (maker, &mut self.tpm)
    }

    fn remove_pins(&mut self, name: &TokenName, record: &TokenRecord) {
        let manifest = &self.vault.manifest;
        provision::remove_pins(
            &mut self.tpm,
            &manifest.id,
            &manifest.writers.k_rec,
            name,
            record,
        );
    }
}
