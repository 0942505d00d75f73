//! Moving secrets out of a TrueNAS database into the vault, so that a run that is killed at any
//! instant leaves each of them in at least one of the two.
//!
//! [`plan`] says what is there and what would be done with it; [`run`] does it.

pub(crate) mod plan;
pub(crate) mod run;
