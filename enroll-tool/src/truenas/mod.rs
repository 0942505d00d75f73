//! All that knows TrueNAS: its database, the cipher of its encrypted columns, its credentials.
//!
//! [`columns`] lists what is encrypted there, [`database`] reads and rewrites the rows, [`holders`] says
//! who has it open, [`still`] reads databases that must stay as they are, [`pwenc`] opens and closes
//! columns, [`credentials`] tells the secret fields of a cloud credential from the others, [`providers`]
//! says where each provider renews its own, [`ways_in`] tells who gets in without a key, and
//! [`middleware`] speaks to TrueNAS itself. None of them
//! knows a vault or a TPM, and none decides what is migrated.

pub(crate) mod columns;
pub(crate) mod credentials;
pub(crate) mod database;
pub(crate) mod holders;
pub(crate) mod middleware;
pub(crate) mod providers;
pub(crate) mod pwenc;
pub(crate) mod still;
pub(crate) mod ways_in;
