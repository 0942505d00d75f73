//! The vault, read through its PKCS#11 module.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::Session;
use strongroom::object::ObjectId;
use strongroom::{ErrorKind, Secret};

use crate::failure::Failure;

const MODULE: &str = "libstrongroom_pkcs11.so";

/// What the module answers where PKCS#11 has no code of its own; see its `fault` module.
const POLICY_REFUSED: u64 = 0x8000_0000 | 0x5352_0003;
const VAULT_UNUSABLE: u64 = 0x8000_0000 | 0x5352_0005;
const CONTENT_UNUSABLE: u64 = 0x8000_0000 | 0x5352_0007;

/// A session with each of the vault's tokens.
pub(crate) struct Vault {
    // Closed before the module is finalized.
    sessions: Vec<Session>,
    module: Pkcs11,
}

impl Vault {
    /// Loads the module: the one that is named, else the one that was installed with us.
    pub(crate) fn open(named: Option<PathBuf>, ourselves: &Path) -> Result<Self, Failure> {
        let file = match named {
            Some(file) => file,
            None => installed(ourselves)?,
        };
        let module = Pkcs11::new(&file).map_err(|error| {
            Failure::input(format!("{} is no PKCS#11 module: {error}", file.display()))
        })?;
        let sessions = module
            .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
            .and_then(|()| module.get_slots_with_initialized_token())
            .and_then(|slots| {
                let open = |slot| module.open_ro_session(slot);
                slots.into_iter().map(open).collect::<Result<Vec<_>, _>>()
            })
            .map_err(|error| failure(&error))?;
        if sessions.is_empty() {
            // The module has said on stderr what it misses.
            return Err(Failure::new(
                ErrorKind::Vault,
                "the vault cannot be opened; STRONGROOM_DIR names its folder",
            ));
        }
        Ok(Self { sessions, module })
    }

    /// The contents of credentials. Each is read once.
    pub(crate) fn read_all(&self, objects: impl IntoIterator<Item = ObjectId>) -> Contents {
        let objects: BTreeSet<_> = objects.into_iter().collect();
        let read = |object| (object, self.read(object));
        Contents(objects.into_iter().map(read).collect())
    }

    /// The content of a credential.
    fn read(&self, object: ObjectId) -> Result<Secret, Failure> {
        let wanted = [
            Attribute::Class(ObjectClass::DATA),
            Attribute::UniqueId(object.to_string().into_bytes()),
        ];
        for session in &self.sessions {
            let found = session.find_objects(&wanted);
            let Some(handle) = found.map_err(|error| failure(&error))?.pop() else {
                continue;
            };
            let values = session.get_attributes(handle, &[AttributeType::Value]);
            return match values.map_err(|error| failure(&error))?.pop() {
                Some(Attribute::Value(value)) => Ok(Secret::take(value)),
                _ => Err(Failure::new(ErrorKind::Vault, "it has no content")),
            };
        }
        Err(Failure::new(
            ErrorKind::NoObject,
            "the vault has no such credential: it was removed, or the placeholder is another \
             vault's; `strongroom list` shows what there is",
        ))
    }

    /// Lets go of vault and TPM before the launched program starts.
    pub(crate) fn close(self) {
        drop(self.sessions);
        // What cannot be finalized is let go of when the process ends.
        let _ = self.module.finalize();
    }
}

/// What was read of the vault.
pub(crate) struct Contents(BTreeMap<ObjectId, Result<Secret, Failure>>);

impl Contents {
    /// What was read of one of the objects that were asked for.
    pub(crate) fn of(&self, object: ObjectId) -> Result<&Secret, Failure> {
        match self.0.get(&object) {
            Some(Ok(content)) => Ok(content),
            Some(Err(failure)) => Err(failure.clone()),
            None => Err(Failure::new(ErrorKind::NoObject, "it was not asked for")),
        }
    }
}

fn installed(ourselves: &Path) -> Result<PathBuf, Failure> {
    let folder = ourselves.parent().unwrap_or(Path::new("/"));
    let places = [folder.join(MODULE), folder.join("../lib").join(MODULE)];
    let found = places.iter().find(|file| file.exists());
    found.cloned().ok_or_else(|| {
        let [beside, in_lib] = places.each_ref().map(|file| file.display());
        Failure::input(format!(
            "there is no {beside} and no {in_lib}; name the module with --module or STRONGROOM_MODULE"
        ))
    })
}

/// What the module's code means. The module itself says more, on stderr.
fn failure(error: &Error) -> Failure {
    let (kind, text) = match error {
        Error::Pkcs11(RvError::VendorDefined(POLICY_REFUSED), _) => (
            ErrorKind::Policy,
            "the TPM's policy refuses: the machine is in another boot state".to_owned(),
        ),
        Error::Pkcs11(RvError::VendorDefined(VAULT_UNUSABLE), _) => (
            ErrorKind::Vault,
            "the vault or the object is missing, damaged, forged or of a newer format".to_owned(),
        ),
        Error::Pkcs11(RvError::VendorDefined(CONTENT_UNUSABLE), _) => (
            ErrorKind::Input,
            "the object's content is not what it must be".to_owned(),
        ),
        Error::Pkcs11(RvError::DeviceError | RvError::DeviceRemoved, _) => (
            ErrorKind::Tpm,
            "the TPM is missing, busy or in lockout".to_owned(),
        ),
        Error::Pkcs11(RvError::ObjectHandleInvalid, _) => (
            ErrorKind::NoObject,
            "the object has just left the vault".to_owned(),
        ),
        other => (
            ErrorKind::Vault,
            format!("the PKCS#11 module failed: {other}"),
        ),
    };
    Failure::new(kind, text)
}
