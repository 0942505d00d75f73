//! All that knows TrueNAS: its database, the cipher of its encrypted columns, its credentials.
//!
//! [`columns`] lists what is encrypted there, [`database`] reads and rewrites the rows, [`pwenc`]
//! opens and closes their columns, [`still`] reads databases that must stay as they are, and [`credentials`] tells the secret fields of a cloud credential
//! from the others; [`providers`] says where each provider renews its own. None of them knows a vault or a TPM, and none decides what is migrated.

#[allow(dead_code)] // Until all of migration goes by it.
pub(crate) mod columns;
pub(crate) mod credentials;
pub(crate) mod database;
pub(crate) mod providers;
pub(crate) mod pwenc;
pub(crate) mod still;
