//! All that knows TrueNAS: its database, the cipher of its encrypted columns, its credentials.
//!
//! [`columns`] lists what is encrypted there, [`database`] reads and rewrites the rows, [`pwenc`]
//! opens and closes their columns, and [`credentials`] tells the secret fields of a cloud credential
//! from the others. None of them knows a vault or a TPM, and none decides what is migrated.

pub(crate) mod columns;
pub(crate) mod credentials;
pub(crate) mod database;
pub(crate) mod holders;
pub(crate) mod middleware;
pub(crate) mod pwenc;
