//! What the module remembers between calls, per process.
//!
//! A child of a fork starts without any of it: it is told `CKR_CRYPTOKI_NOT_INITIALIZED` until it
//! calls `C_Initialize` itself (PKCS#11 3.1, section 5.4.1), and neither shares nor waits for the
//! lock of its parent, which another thread of the parent may have held at the fork.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki_sys::{
    CK_OBJECT_HANDLE, CK_SESSION_HANDLE, CK_SLOT_ID, CKR_CRYPTOKI_ALREADY_INITIALIZED,
    CKR_CRYPTOKI_NOT_INITIALIZED, CKR_OBJECT_HANDLE_INVALID, CKR_SESSION_HANDLE_INVALID,
    CKR_SLOT_ID_INVALID,
};
use strongroom::Damaged;
use strongroom::object::{Metadata, ObjectId, TokenName};

use crate::fault::{Answer, Fault};
use crate::foreign::ulong;
use crate::sessions::Session;
use crate::slots::Token;
use crate::source::Source;

/// The module between `C_Initialize` and `C_Finalize`.
pub(crate) struct Module {
    open: Open,
    source: Option<Box<dyn Source>>,
    tokens: Vec<Token>,
    /// The open sessions by handle.
    pub(crate) sessions: BTreeMap<CK_SESSION_HANDLE, Session>,
    last_session: CK_SESSION_HANDLE,
    objects: Objects,
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
    match Process::current().lock().take() {
        Some(_) => Ok(()),
        None => Err(Fault::Code(CKR_CRYPTOKI_NOT_INITIALIZED)),
    }
}

/// Does something with this process's module, which nobody else uses meanwhile.
pub(crate) fn with_module<T>(action: impl FnOnce(&mut Module) -> Answer<T>) -> Answer<T> {
    match Process::current().lock().as_mut() {
        Some(module) => action(module),
        None => Err(Fault::Code(CKR_CRYPTOKI_NOT_INITIALIZED)),
    }
}

impl Module {
    /// A vault that cannot be opened makes no slots instead of a failure: the host is a guest's
    /// host, and may have other modules and other work. What is wrong is logged.
    fn start(open: Open) -> Self {
        let mut module = Self {
            open,
            source: None,
            tokens: Vec::new(),
            sessions: BTreeMap::new(),
            last_session: 0,
            objects: Objects::default(),
            damaged: Vec::new(),
            named_damage: BTreeSet::new(),
        };
        if let Err(error) = module.open_vault() {
            log::error!("there are no tokens: {error}");
        }
        module
    }

    /// Tries to open the vault if that has not been possible so far.
    pub(crate) fn open_vault(&mut self) -> strongroom::Result<()> {
        if self.source.is_none() {
            let source = (self.open)()?;
            self.tokens = source
                .tokens()
                .into_iter()
                .map(|name| Token::new(&source.id(), name))
                .collect();
            self.source = Some(source);
        }
        Ok(())
    }

    /// The tokens; each lies in the slot of its index.
    pub(crate) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// The token in a slot.
    pub(crate) fn token(&self, slot: CK_SLOT_ID) -> Answer<&Token> {
        usize::try_from(slot)
            .ok()
            .and_then(|slot| self.tokens.get(slot))
            .ok_or(Fault::Code(CKR_SLOT_ID_INVALID))
    }

    /// Opens a session with the token in a slot, which must be there.
    pub(crate) fn add_session(&mut self, slot: CK_SLOT_ID) -> CK_SESSION_HANDLE {
        self.last_session += 1;
        self.sessions.insert(self.last_session, Session::new(slot));
        self.last_session
    }

    /// An open session.
    pub(crate) fn session(&mut self, handle: CK_SESSION_HANDLE) -> Answer<&mut Session> {
        self.sessions
            .get_mut(&handle)
            .ok_or(Fault::Code(CKR_SESSION_HANDLE_INVALID))
    }

    /// The vault, if there is one. Whoever has a session has a vault.
    pub(crate) fn source(&self) -> Answer<&dyn Source> {
        self.source
            .as_deref()
            .ok_or(Fault::Code(CKR_SLOT_ID_INVALID))
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
        self.objects.refresh(listing.objects);
        Ok(())
    }

    /// The damaged files of a token, as last read. Each is named after its object's id.
    pub(crate) fn damaged_of(&self, token: &TokenName) -> impl Iterator<Item = &Damaged> {
        self.damaged.iter().filter(move |damaged| {
            let folder = damaged.file.parent().and_then(Path::file_name);
            folder.is_some_and(|folder| folder == token.as_str())
        })
    }

    /// The objects in the token of a session, as last read.
    pub(crate) fn objects_of(
        &self,
        token: &TokenName,
    ) -> impl Iterator<Item = (CK_OBJECT_HANDLE, &Metadata)> {
        self.objects
            .iter()
            .filter(move |(_, it)| it.token == *token)
    }

    /// An object by its handle, if it is in the token of this session.
    pub(crate) fn object(
        &mut self,
        session: CK_SESSION_HANDLE,
        handle: CK_OBJECT_HANDLE,
    ) -> Answer<&Metadata> {
        let slot = self.session(session)?.slot();
        let token = &self.token(slot)?.name;
        self.objects
            .get(handle)
            .filter(|object| object.token == *token)
            .ok_or(Fault::Code(CKR_OBJECT_HANDLE_INVALID))
    }
}

/// The objects that were ever listed. A handle is an object's for as long as the module runs.
#[derive(Default)]
struct Objects {
    /// `None` for what has left the vault. The handle is the index plus one.
    known: Vec<Option<Metadata>>,
    handles: BTreeMap<ObjectId, usize>,
}

impl Objects {
    fn refresh(&mut self, listed: Vec<Metadata>) {
        self.known.fill(None);
        for object in listed {
            let index = *self.handles.entry(object.id).or_insert_with(|| {
                self.known.push(None);
                self.known.len() - 1
            });
            self.known[index] = Some(object);
        }
    }

    fn iter(&self) -> impl Iterator<Item = (CK_OBJECT_HANDLE, &Metadata)> {
        (1..)
            .zip(&self.known)
            .filter_map(|(handle, object)| Some((ulong(handle), object.as_ref()?)))
    }

    fn get(&self, handle: CK_OBJECT_HANDLE) -> Option<&Metadata> {
        let index = usize::try_from(handle).ok()?.checked_sub(1)?;
        self.known.get(index)?.as_ref()
    }
}

/// A process that uses the module: this one, or one that this was forked from.
struct Process {
    pid: u32,
    module: Mutex<Option<Module>>,
}

impl Process {
    fn current() -> &'static Self {
        static CURRENT: AtomicPtr<Process> = AtomicPtr::new(ptr::null_mut());
        let pid = std::process::id();
        let mut found = CURRENT.load(Ordering::Acquire);
        loop {
            // SAFETY: the pointer is null or was made of a box below that is never freed.
            match unsafe { found.as_ref() } {
                Some(process) if process.pid == pid => return process,
                _ => {
                    // What the parent had stays allocated in the child, once per fork: to free
                    // it would take the parent's lock. It holds no secret.
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
}
