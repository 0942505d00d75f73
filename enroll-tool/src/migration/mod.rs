//! Moving secrets out of a TrueNAS database into the vault, so that a run that is killed at any
//! instant leaves each of them in at least one of the two; and back.
//!
//! [`survey`] says of every value what it is and where it would go; [`plan`] is what a run would do,
//! one class at a time ([`classes`]); [`run`] does it; [`journal`] remembers what was asked for, and
//! how far it came; [`rollback`] gives it all back, and [`alone`] says what nothing was given back of.

pub(crate) mod alone;
pub(crate) mod classes;
pub(crate) mod journal;
pub(crate) mod plan;
pub(crate) mod rollback;
pub(crate) mod run;
pub(crate) mod survey;
pub(crate) mod zfs_check;
