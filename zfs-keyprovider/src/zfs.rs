//! What this program asks of ZFS, and what it has ZFS do. Properties go through the commands `zfs`
//! and `zpool`, whose output in a script's form (`-Hp`) is stable; keys go to the kernel through
//! libzfs_core, which is stable too.

mod command;
pub(crate) mod keys;
mod libzfs_core;
pub(crate) mod properties;

pub(crate) use command::ZfsError;
pub(crate) use keys::{Keys, Refused};
pub(crate) use properties::{Dataset, Datasets, KeyStatus, Pools, Which};
