//! How an operation with a key begins (PKCS#11 3.1, sections 5.8 to 5.16): the same for all of them.

use cryptoki_sys::{CK_ATTRIBUTE_TYPE, CK_OBJECT_HANDLE, CK_SESSION_HANDLE, CKR_OPERATION_ACTIVE};

use crate::attributes::Object;
use crate::class::Class;
use crate::fault::{Answer, Fault};
use crate::parameters::Chosen;
use crate::sessions::Session;
use crate::state::{Module, with_module};

/// What an operation takes.
pub(crate) struct Operation<T> {
    /// Where its session keeps it.
    pub(crate) place: fn(&mut Session) -> &mut Option<T>,
    /// The class of its keys.
    pub(crate) class: fn(&Chosen) -> Class,
    /// What its keys must be for.
    pub(crate) usage: CK_ATTRIBUTE_TYPE,
    /// Whether it is one before which a login may be asked for: one that came before is not for it.
    pub(crate) asks: bool,
    /// Begins it.
    pub(crate) make: fn(&mut Module, &Object, &Chosen) -> Answer<T>,
}

impl<T> Operation<T> {
    /// Begins it with a key; or without a mechanism, which since version 3.0 ends what goes on.
    pub(crate) fn begin(
        &self,
        session: CK_SESSION_HANDLE,
        chosen: Answer<Option<Chosen>>,
        key: CK_OBJECT_HANDLE,
    ) -> Answer {
        with_module(|module| {
            let is_active = (self.place)(module.session(session)?).is_some();
            if is_active && !matches!(chosen, Ok(None)) {
                return Err(Fault::Code(CKR_OPERATION_ACTIVE));
            }
            let started = match chosen? {
                Some(chosen) => {
                    let class = (self.class)(&chosen);
                    let key = module.key_for(session, key, &chosen, class, self.usage)?;
                    Some((self.make)(module, &key, &chosen)?)
                }
                None => None,
            };
            let open = module.session(session)?;
            if self.asks {
                open.authenticated = false;
            }
            *(self.place)(open) = started;
            Ok(())
        })
    }
}
