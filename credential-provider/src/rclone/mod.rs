//! What one must know of rclone to launch it: which configuration it will read, what that says and
//! where it has placeholders, and by which variables a value is overridden. Taken from rclone 1.60
//! to 1.71.
//!
//! rclone reads, and writes, a copy of its configuration that is in memory alone (`copy`): so what it
//! writes over a placeholder is in no file. Another process (`keeper`) seals that, the moment it is
//! written (`renewal`).

pub(crate) mod config;
mod copy;
pub(crate) mod keeper;
pub(crate) mod launch;
pub(crate) mod obscure;
pub(crate) mod places;
mod renewal;
mod variables;
