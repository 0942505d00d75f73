//! What the module remembers between calls, per process.
//!
//! A child of a fork starts without any of it: it is told `CKR_CRYPTOKI_NOT_INITIALIZED` until it
//! calls `C_Initialize` itself (PKCS#11 3.1, section 5.4.1), and neither shares nor waits for the
//! lock of its parent, which another thread of the parent may have held at the fork. What the
//! parent has in the TPM is the parent's: the child forgets it, and flushes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_MECHANISM_TYPE, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID,
    CK_ULONG, CKA_ALLOWED_MECHANISMS, CKA_ALWAYS_AUTHENTICATE, CKA_VALUE, CKP_AUTHENTICATION_TOKEN,
    CKP_BASELINE_PROVIDER, CKP_EXTENDED_PROVIDER, CKR_CRYPTOKI_ALREADY_INITIALIZED,
    CKR_CRYPTOKI_NOT_INITIALIZED, CKR_DATA_LEN_RANGE, CKR_DEVICE_REMOVED,
    CKR_ENCRYPTED_DATA_INVALID, CKR_KEY_FUNCTION_NOT_PERMITTED, CKR_KEY_HANDLE_INVALID,
    CKR_KEY_TYPE_INCONSISTENT, CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID,
    CKR_OBJECT_HANDLE_INVALID, CKR_SESSION_HANDLE_INVALID, CKR_SLOT_ID_INVALID,
    CKR_TOKEN_NOT_RECOGNIZED, CKR_USER_NOT_LOGGED_IN,
};
use strongroom::key::{DecryptScheme, PrivateKey, SignScheme};
use strongroom::object::{Metadata, ObjectId, TokenName};
use strongroom::pin::Role;
use strongroom::{Damaged, Error, Secret};

use crate::attributes::{Attribute, Content, Face, Given, Held, Listed, Object, Standing};
use crate::class::Class;
use crate::fault::{Answer, Fault};
use crate::idle::Watch;
use crate::mechanisms::offered;
use crate::parameters::Chosen;
use crate::placement::Privacy;
use crate::random::Generator;
use crate::sessions::Session;
use crate::source::{IDLE, Source, describe};
use crate::tokens::Token;

/// The module between `C_Initialize` and `C_Finalize`.
pub(crate) struct Module {
    open: Open,
    source: Option<Box<dyn Source>>,
    watch: Option<Watch>,
    /// Whether the thread will look by itself.
    watching: bool,
    /// The slots with their tokens; one without is for a new one.
    slots: Vec<Option<Token>>,
    /// The open sessions by handle.
    pub(crate) sessions: BTreeMap<CK_SESSION_HANDLE, Session>,
    last_session: CK_SESSION_HANDLE,
    objects: Objects,
    pub(crate) generator: Generator,
    damaged: Vec<Damaged>,
    named_damage: BTreeSet<String>,
}

/// How the vault is opened.
pub(crate) type Open = Box<dyn Fn() -> strongroom::Result<Box<dyn Source>> + Send>;

/// Starts this process's module.
pub(crate) fn initialize(open: Open) -> Answer {
    let mut module = Process::current().lock();
    if module.is_some() {
        return Err(Fault::Code(CKR_CRYPTOKI_ALREADY_INITIALIZED));
    }
    *module = Some(Module::start(open));
    Ok(())
}

/// Ends this process's module.
pub(crate) fn finalize() -> Answer {
    let module = Process::current().lock().take();
    let mut module = module.ok_or(Fault::Code(CKR_CRYPTOKI_NOT_INITIALIZED))?;
    if let Some(watch) = module.watch.take() {
        watch.end();
    }
    Ok(())
}

/// Does something with this process's module, which nobody else uses meanwhile.
pub(crate) fn with_module<T>(action: impl FnOnce(&mut Module) -> Answer<T>) -> Answer<T> {
    match Process::current().lock().as_mut() {
        Some(module) => {
            let outcome = action(module);
            module.watch_tpm();
            outcome
        }
        None => Err(Fault::Code(CKR_CRYPTOKI_NOT_INITIALIZED)),
    }
}

/// Has [`leave`] called when the process exits: many hosts exit without `C_Finalize`.
#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = leave;

/// Takes out of the TPM what this process has there, if no other thread is in the way for long. It
/// takes no more than FlushContext, which needs nothing that may be gone by now, such as OpenSSL.
extern "C" fn leave() {
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(10);
    let let_go = || {
        let Some(process) = Process::known() else {
            return;
        };
        for _ in 0..TRIES {
            if let Some(mut module) = process.try_lock() {
                if let Some(module) = module.as_mut() {
                    module.let_go();
                }
                return;
            }
            std::thread::sleep(PAUSE);
        }
    };
    // A panic's text went to stderr already, and the process ends anyway.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(let_go));
}

impl Module {
    /// A vault that cannot be opened makes no slots instead of a failure: the host is a guest's
    /// host, and may have other modules and other work. What is wrong is logged.
    fn start(open: Open) -> Self {
        let mut module = Self {
            open,
            source: None,
            watch: None,
            watching: false,
            slots: Vec::new(),
            sessions: BTreeMap::new(),
            last_session: 0,
            objects: Objects::default(),
            generator: Generator::default(),
            damaged: Vec::new(),
            named_damage: BTreeSet::new(),
        };
        if let Err(fault) = module.look_for_tokens() {
            fault.log("C_Initialize: there are no tokens");
        }
        module
    }

    fn open_vault(&mut self) -> Answer {
        if self.source.is_none() {
            self.source = Some((self.open)()?);
        }
        self.refresh_tokens()
    }

    /// Looks which tokens there are now, and tries to open the vault if that has not been possible
    /// so far. A token keeps its slot for as long as the module runs.
    pub(crate) fn look_for_tokens(&mut self) -> Answer {
        self.open_vault()?;
        let takes_tokens = self.source()?.takes_tokens();
        if takes_tokens && self.slots.iter().all(Option::is_some) {
            self.slots.push(None);
        }
        Ok(())
    }

    /// Reads anew what is known of the tokens.
    pub(crate) fn refresh_tokens(&mut self) -> Answer {
        let source = self.source()?;
        let vault = source.id();
        let tokens = source.tokens()?;
        for token in tokens {
            let may_write = self.source()?.may_write(&token.name);
            let token = Token::new(&vault, token, may_write);
            let known = self.slots.iter_mut().flatten();
            match known.into_iter().find(|known| known.name == token.name) {
                Some(known) => *known = token,
                None => self.slots.push(Some(token)),
            }
        }
        Ok(())
    }

    /// Puts a new token where the host asked for it.
    pub(crate) fn put_token_in(&mut self, slot: CK_SLOT_ID, name: &TokenName) -> Answer {
        let source = self.source()?;
        let vault = source.id();
        let token = source.tokens()?.into_iter().find(|it| it.name == *name);
        let slot = usize::try_from(slot)
            .ok()
            .and_then(|slot| self.slots.get_mut(slot))
            .ok_or(Fault::Code(CKR_SLOT_ID_INVALID))?;
        *slot = token.map(|token| Token::new(&vault, token, true));
        Ok(())
    }

    /// Sees to it that what the TPM holds now will be taken out of it in time.
    fn watch_tpm(&mut self) {
        let Some(source) = &mut self.source else {
            return;
        };
        if self.watching || source.holds_since().is_none() {
            return;
        }
        self.watching = true;
        match &self.watch {
            Some(watch) => watch.wake(),
            None => match Watch::start(look) {
                Ok(watch) => self.watch = Some(watch),
                Err(error) => {
                    log::info!("keys do not stay in the TPM, for there is no thread: {error}");
                    source.let_go();
                    self.watching = false;
                }
            },
        }
    }

    /// Leaves nothing in the TPM.
    pub(crate) fn let_go(&mut self) {
        if let Some(source) = &mut self.source {
            source.let_go();
        }
    }

    /// How many slots there are.
    pub(crate) fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// The tokens and their slots.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = (CK_SLOT_ID, &Token)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(slot, token)| Some((slot, token.as_ref()?)))
    }

    /// What is in a slot: a token, or room for one.
    pub(crate) fn slot(&self, slot: CK_SLOT_ID) -> Answer<Option<&Token>> {
        usize::try_from(slot)
            .ok()
            .and_then(|slot| self.slots.get(slot))
            .map(Option::as_ref)
            .ok_or(Fault::Code(CKR_SLOT_ID_INVALID))
    }

    /// The token in a slot.
    pub(crate) fn token(&self, slot: CK_SLOT_ID) -> Answer<&Token> {
        self.slot(slot)?
            .ok_or(Fault::Code(CKR_TOKEN_NOT_RECOGNIZED))
    }

    /// Whether the token in a slot has mechanisms. One that is not yet initialized will have them.
    pub(crate) fn has_mechanisms(&self, slot: CK_SLOT_ID) -> Answer<bool> {
        Ok(self.slot(slot)?.is_none_or(|token| token.has_mechanisms))
    }

    /// Who is logged in to the token in a slot.
    pub(crate) fn login(&self, slot: CK_SLOT_ID) -> Option<Role> {
        let token = self.slot(slot).ok()??;
        self.source.as_ref()?.login(&token.name)
    }

    /// Whether that is its user.
    pub(crate) fn is_user(&self, slot: CK_SLOT_ID) -> bool {
        self.login(slot) == Some(Role::User)
    }

    /// Logs out: private objects lose their handles, and private session objects and what goes on
    /// end.
    pub(crate) fn log_out(&mut self, slot: CK_SLOT_ID) {
        let Ok(Some(token)) = self.slot(slot) else {
            return;
        };
        let name = token.name.clone();
        if let Some(source) = &mut self.source {
            source.log_out(&name);
        }
        for session in self.sessions.values_mut().filter(|it| it.slot() == slot) {
            session.cancel();
        }
        self.objects
            .forget(|object| object.is_private() && is_in(object, slot, &name));
    }

    /// Refuses to use a key that wants a login before each use, and has not had it.
    pub(crate) fn check_authenticated(
        &mut self,
        session: CK_SESSION_HANDLE,
        key: &Object,
    ) -> Answer {
        let authenticated = &mut self.session(session)?.authenticated;
        // What came before the use of such a key is not spent on that of another.
        if key.has(CKA_ALWAYS_AUTHENTICATE) && !std::mem::take(authenticated) {
            return Err(Fault::Code(CKR_USER_NOT_LOGGED_IN));
        }
        Ok(())
    }

    /// The token of a session.
    pub(crate) fn token_of(&mut self, session: CK_SESSION_HANDLE) -> Answer<&Token> {
        let slot = self.session(session)?.slot();
        self.token(slot)
    }

    /// Opens a session with the token in a slot, which must be there.
    pub(crate) fn add_session(&mut self, slot: CK_SLOT_ID, may_write: bool) -> CK_SESSION_HANDLE {
        self.last_session += 1;
        self.sessions
            .insert(self.last_session, Session::new(slot, may_write));
        self.last_session
    }

    /// Ends sessions, with their operations and objects; and with the last one, what the TPM
    /// holds.
    pub(crate) fn end_sessions(&mut self, ends: impl Fn(CK_SESSION_HANDLE, &Session) -> bool) {
        let before: BTreeSet<_> = self.sessions.values().map(Session::slot).collect();
        self.sessions
            .retain(|handle, session| !ends(*handle, session));
        for slot in before {
            if !self.sessions.values().any(|session| session.slot() == slot) {
                self.log_out(slot);
            }
        }
        let sessions = &self.sessions;
        self.objects
            .retain_held(|held| sessions.contains_key(&held.session));
        if self.sessions.is_empty() {
            self.let_go();
        }
    }

    /// An open session.
    pub(crate) fn session(&mut self, handle: CK_SESSION_HANDLE) -> Answer<&mut Session> {
        self.sessions
            .get_mut(&handle)
            .ok_or(Fault::Code(CKR_SESSION_HANDLE_INVALID))
    }

    /// The vault, if there is one. Whoever has a session has a vault.
    pub(crate) fn source(&mut self) -> Answer<&mut dyn Source> {
        match &mut self.source {
            Some(source) => Ok(source.as_mut()),
            None => Err(Fault::Code(CKR_DEVICE_REMOVED)),
        }
    }

    /// Reads anew which objects there are. A damaged one is left out, and named once.
    pub(crate) fn refresh_objects(&mut self) -> Answer {
        let listing = self.source()?.list()?;
        for damaged in &listing.damaged {
            let text = format!("{}: {}", damaged.file.display(), damaged.reason);
            if !self.named_damage.contains(&text) {
                log::error!("an object is damaged and left out: {text}");
                self.named_damage.insert(text);
            }
        }
        self.damaged = listing.damaged;
        let protected: BTreeSet<_> = self
            .tokens()
            .filter(|(_, token)| token.write_protected)
            .map(|(_, token)| token.name.clone())
            .collect();
        let listed = listing.objects.into_iter().map(|metadata| {
            let protected = protected.contains(&metadata.token);
            (metadata, protected)
        });
        self.objects.refresh(listed);
        Ok(())
    }

    /// The damaged files of a token, as last read. Each is named after its object's id.
    pub(crate) fn damaged_of(&self, token: &TokenName) -> impl Iterator<Item = &Damaged> {
        self.damaged.iter().filter(move |damaged| {
            let folder = damaged.file.parent().and_then(Path::file_name);
            folder.is_some_and(|folder| folder == token.as_str())
        })
    }

    /// The objects that a session of a slot has, as last read.
    pub(crate) fn objects_in(&self, slot: CK_SLOT_ID) -> Answer<Vec<(CK_OBJECT_HANDLE, Object)>> {
        let token = &self.token(slot)?.name;
        let is_user = self.is_user(slot);
        Ok(self
            .objects
            .known
            .iter()
            .filter(|(_, object)| is_in(object, slot, token))
            .filter(|(_, object)| !object.class().is_standing())
            .filter(|(_, object)| is_user || !object.is_private())
            .map(|(handle, object)| (*handle, object.clone()))
            .collect())
    }

    /// What the token in a slot says of itself: its mechanisms, or the profiles that it follows. Nobody
    /// finds them who does not ask for their class (sections 4.7 and 4.11).
    pub(crate) fn standing_in(
        &mut self,
        slot: CK_SLOT_ID,
        class: Class,
    ) -> Answer<Vec<(CK_OBJECT_HANDLE, Object)>> {
        let has_mechanisms = self.token(slot)?.has_mechanisms;
        let numbers: Vec<CK_ULONG> = match class {
            Class::Mechanism if has_mechanisms => offered().map(|it| it.kind).collect(),
            Class::Profile if has_mechanisms => vec![
                CKP_BASELINE_PROVIDER,
                CKP_EXTENDED_PROVIDER,
                CKP_AUTHENTICATION_TOKEN,
            ],
            Class::Profile => vec![CKP_BASELINE_PROVIDER],
            _ => Vec::new(),
        };
        Ok(numbers
            .into_iter()
            .map(|number| {
                let object = Object::Standing(Standing {
                    slot,
                    class,
                    number,
                });
                (self.objects.standing(&object), object)
            })
            .collect())
    }

    /// An object by its handle, if it is in the token of this session.
    pub(crate) fn object(
        &mut self,
        session: CK_SESSION_HANDLE,
        handle: CK_OBJECT_HANDLE,
    ) -> Answer<Object> {
        let slot = self.session(session)?.slot();
        let token = &self.token(slot)?.name;
        let is_user = self.is_user(slot);
        self.objects
            .known
            .get(&handle)
            .filter(|object| is_in(object, slot, token))
            .filter(|object| is_user || !object.is_private())
            .cloned()
            .ok_or(Fault::Code(CKR_OBJECT_HANDLE_INVALID))
    }

    /// The same for a key.
    pub(crate) fn key(
        &mut self,
        session: CK_SESSION_HANDLE,
        handle: CK_OBJECT_HANDLE,
    ) -> Answer<Object> {
        self.object(session, handle).map_err(|fault| match fault {
            Fault::Code(CKR_OBJECT_HANDLE_INVALID) => Fault::Code(CKR_KEY_HANDLE_INVALID),
            other => other,
        })
    }

    /// Refuses mechanisms where the token of a session has none.
    pub(crate) fn check_has_mechanisms(&mut self, session: CK_SESSION_HANDLE) -> Answer {
        if !self.token_of(session)?.has_mechanisms {
            return Err(Fault::Code(CKR_MECHANISM_INVALID));
        }
        Ok(())
    }

    /// A key that is of this class, and may be used with this mechanism for what a flag of its
    /// says.
    pub(crate) fn key_for(
        &mut self,
        session: CK_SESSION_HANDLE,
        handle: CK_OBJECT_HANDLE,
        chosen: &Chosen,
        class: Class,
        usage: CK_ATTRIBUTE_TYPE,
    ) -> Answer<Object> {
        self.check_has_mechanisms(session)?;
        let key = self.key(session, handle)?;
        if key.class() != class || !chosen.method().takes(key.key_type()) {
            return Err(Fault::Code(CKR_KEY_TYPE_INCONSISTENT));
        }
        // What is weak must not be had of a key of the vault, for which something better is there.
        let is_too_good = chosen.mechanism.is_legacy() && key.is_of_vault();
        if !key.has(usage) || !allows(&key, chosen.mechanism.kind) || is_too_good {
            return Err(Fault::Code(CKR_KEY_FUNCTION_NOT_PERMITTED));
        }
        Ok(key)
    }

    /// Signs with a private key, wherever it lives.
    pub(crate) fn sign(
        &mut self,
        key: &Object,
        scheme: &SignScheme,
        input: &[u8],
    ) -> Answer<Vec<u8>> {
        match key {
            Object::Sealed(object, _) => self
                .source()?
                .sign(object, scheme, input)
                .map_err(refused(object, CKR_DATA_LEN_RANGE)),
            Object::Held(held) => private_key(held)?
                .sign(scheme, input)
                .map_err(|_| Fault::Code(CKR_DATA_LEN_RANGE)),
            Object::Standing(_) => Err(Fault::Code(CKR_KEY_TYPE_INCONSISTENT)),
        }
    }

    /// Decrypts with a private key, wherever it lives.
    pub(crate) fn decrypt(
        &mut self,
        key: &Object,
        scheme: &DecryptScheme,
        ciphertext: &Secret,
    ) -> Answer<Secret> {
        match key {
            Object::Sealed(object, _) => self
                .source()?
                .decrypt(object, scheme, ciphertext.expose())
                .map_err(refused(object, CKR_ENCRYPTED_DATA_INVALID)),
            Object::Held(held) => private_key(held)?
                .decrypt(scheme, ciphertext.expose())
                .map_err(|_| Fault::Code(CKR_ENCRYPTED_DATA_INVALID)),
            Object::Standing(_) => Err(Fault::Code(CKR_KEY_TYPE_INCONSISTENT)),
        }
    }

    /// What a private key and another party's point come to, wherever the key lives.
    pub(crate) fn derive(&mut self, key: &Object, point: &[u8]) -> Answer<Secret> {
        match key {
            Object::Sealed(object, _) => self
                .source()?
                .derive(object, point)
                .map_err(refused(object, CKR_MECHANISM_PARAM_INVALID)),
            Object::Held(held) => private_key(held)?
                .derive(point)
                .map_err(|_| Fault::Code(CKR_MECHANISM_PARAM_INVALID)),
            Object::Standing(_) => Err(Fault::Code(CKR_KEY_TYPE_INCONSISTENT)),
        }
    }

    /// The value of a secret key, for the use of the module itself, whether or not anybody may read
    /// it.
    pub(crate) fn value_of(&mut self, key: &Object) -> Answer<Secret> {
        match key {
            Object::Sealed(object, _) => self
                .source()?
                .unseal(object)
                .map_err(Fault::about(describe(object))),
            Object::Held(held) => (held.content.secrets.get(&CKA_VALUE))
                .map(|value| Secret::copy_of(value.expose()))
                .ok_or(Fault::Code(CKR_KEY_TYPE_INCONSISTENT)),
            Object::Standing(_) => Err(Fault::Code(CKR_KEY_TYPE_INCONSISTENT)),
        }
    }

    /// Keeps a session object.
    pub(crate) fn hold(
        &mut self,
        session: CK_SESSION_HANDLE,
        class: Class,
        privacy: Privacy,
        given: Given,
        content: Content,
    ) -> Answer<CK_OBJECT_HANDLE> {
        let slot = self.session(session)?.slot();
        let number = self.objects.last + 1;
        Ok(self.objects.add(Object::Held(Held {
            session,
            slot,
            number,
            class,
            private: privacy.is_private(),
            given,
            content: Arc::new(content),
        })))
    }

    /// Puts a session object in the place of what it was.
    pub(crate) fn replace(&mut self, handle: CK_OBJECT_HANDLE, held: Held) {
        self.objects.known.insert(handle, Object::Held(held));
    }

    /// Forgets a session object.
    pub(crate) fn forget(&mut self, handle: CK_OBJECT_HANDLE) {
        self.objects.known.remove(&handle);
    }

    /// The handle of an object that is in the vault now.
    pub(crate) fn handle_of(&mut self, id: ObjectId, face: Face) -> Answer<CK_OBJECT_HANDLE> {
        self.refresh_objects()?;
        self.objects
            .handles
            .get(&(id, face))
            .copied()
            .ok_or(Fault::Code(CKR_OBJECT_HANDLE_INVALID))
    }
}

/// The module's thread: takes out of the TPM what was not used for long enough, and says when to
/// look again.
fn look() -> Option<Duration> {
    let mut module = Process::current().lock();
    let module = module.as_mut()?;
    let rest = module.source.as_mut().and_then(|source| {
        let rest = IDLE.saturating_sub(source.holds_since()?.elapsed());
        if rest.is_zero() {
            source.let_go();
        }
        (!rest.is_zero()).then_some(rest)
    });
    module.watching = rest.is_some();
    rest
}

fn is_in(object: &Object, slot: CK_SLOT_ID, token: &TokenName) -> bool {
    match object {
        Object::Sealed(object, _) => object.token == *token,
        Object::Held(held) => held.slot == slot,
        Object::Standing(standing) => standing.slot == slot,
    }
}

/// Whether CKA_ALLOWED_MECHANISMS has a mechanism, or is empty.
fn allows(key: &Object, kind: CK_MECHANISM_TYPE) -> bool {
    match key.attribute(CKA_ALLOWED_MECHANISMS) {
        Some(Attribute::Known(list)) if !list.is_empty() => list
            .chunks(size_of::<CK_MECHANISM_TYPE>())
            .any(|it| it == kind.to_ne_bytes()),
        _ => true,
    }
}

/// What the library refuses as input is the caller's input; a key that is gone had a handle.
fn refused(object: &Metadata, code: CK_RV) -> impl FnOnce(Error) -> Fault {
    let subject = describe(object);
    move |error| match error {
        Error::Input { .. } => {
            log::info!("{subject}: {error}");
            Fault::Code(code)
        }
        _ => Fault::about(subject)(error),
    }
}

/// The private key of a session object.
pub(crate) fn private_key(held: &Held) -> Answer<PrivateKey> {
    (held.content.private.as_ref())
        .and_then(|pkcs8| PrivateKey::from_pkcs8(pkcs8).ok())
        .ok_or(Fault::Code(CKR_KEY_TYPE_INCONSISTENT))
}

/// The objects that there are. A handle is an object's for as long as the module runs.
#[derive(Default)]
struct Objects {
    known: BTreeMap<CK_OBJECT_HANDLE, Object>,
    /// Of all objects of the vault that were ever listed.
    handles: BTreeMap<(ObjectId, Face), CK_OBJECT_HANDLE>,
    /// Of what tokens say of themselves.
    standing: BTreeMap<Standing, CK_OBJECT_HANDLE>,
    last: CK_OBJECT_HANDLE,
}

impl Objects {
    /// The handle of what a token says of itself.
    fn standing(&mut self, object: &Object) -> CK_OBJECT_HANDLE {
        let Object::Standing(key) = object else {
            unreachable!("its caller made one");
        };
        if let Some(handle) = self.standing.get(key) {
            return *handle;
        }
        let handle = self.add(object.clone());
        self.standing.insert(*key, handle);
        handle
    }

    fn add(&mut self, object: Object) -> CK_OBJECT_HANDLE {
        self.last += 1;
        self.known.insert(self.last, object);
        self.last
    }

    /// Takes what is in the vault now, and whether it is write-protected.
    fn refresh(&mut self, listed: impl Iterator<Item = (Metadata, bool)>) {
        let mut before: BTreeMap<ObjectId, Arc<Listed>> = BTreeMap::new();
        self.known.retain(|_, object| {
            if let Object::Sealed(listed, _) = object {
                before.insert(listed.id, Arc::clone(listed));
            }
            !matches!(object, Object::Sealed(..))
        });
        for (metadata, protected) in listed {
            let object = match before.remove(&metadata.id) {
                Some(same) if (&same.metadata, same.protected) == (&metadata, protected) => same,
                _ => Arc::new(Listed::new(metadata, protected)),
            };
            for face in Face::all_of(&object) {
                let handle = *self.handles.entry((object.id, *face)).or_insert_with(|| {
                    self.last += 1;
                    self.last
                });
                self.known
                    .insert(handle, Object::Sealed(Arc::clone(&object), *face));
            }
        }
    }

    /// Forgets objects, and their handles for ever.
    fn forget(&mut self, which: impl Fn(&Object) -> bool) {
        let mut forgotten = BTreeSet::new();
        self.known.retain(|handle, object| {
            let keep = !which(object);
            if !keep {
                forgotten.insert(*handle);
            }
            keep
        });
        self.handles.retain(|_, handle| !forgotten.contains(handle));
    }

    fn retain_held(&mut self, keep: impl Fn(&Held) -> bool) {
        self.known.retain(|_, object| match object {
            Object::Sealed(..) | Object::Standing(_) => true,
            Object::Held(held) => keep(held),
        });
    }
}

/// A process that uses the module: this one, or one that this was forked from.
struct Process {
    pid: u32,
    module: Mutex<Option<Module>>,
}

static CURRENT: AtomicPtr<Process> = AtomicPtr::new(ptr::null_mut());

impl Process {
    /// This process, if it has used the module.
    fn known() -> Option<&'static Self> {
        // SAFETY: the pointer is null or was made of a box, in `current`, that is never freed.
        let process = unsafe { CURRENT.load(Ordering::Acquire).as_ref() }?;
        (process.pid == std::process::id()).then_some(process)
    }

    fn current() -> &'static Self {
        let pid = std::process::id();
        let mut found = CURRENT.load(Ordering::Acquire);
        loop {
            // SAFETY: the pointer is null or was made of a box below that is never freed.
            match unsafe { found.as_ref() } {
                Some(process) if process.pid == pid => return process,
                _ => {
                    // What the parent had stays allocated in the child, once per fork: to free
                    // it would take the parent's lock, and flush what the parent has in the TPM.
                    let new = Box::into_raw(Box::new(Self {
                        pid,
                        module: Mutex::new(None),
                    }));
                    match CURRENT.compare_exchange(found, new, Ordering::AcqRel, Ordering::Acquire)
                    {
                        Ok(_) => found = new,
                        Err(other) => {
                            // SAFETY: `new` was made of a box just now, and nobody saw it.
                            drop(unsafe { Box::from_raw(new) });
                            found = other;
                        }
                    }
                }
            }
        }
    }

    /// A panic while the lock was held leaves a module that is whole: every change to it is one
    /// insertion or removal. So its poison is no reason to refuse all later calls.
    fn lock(&self) -> MutexGuard<'_, Option<Module>> {
        self.module.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, if nobody holds it.
    fn try_lock(&self) -> Option<MutexGuard<'_, Option<Module>>> {
        match self.module.try_lock() {
            Ok(module) => Some(module),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
