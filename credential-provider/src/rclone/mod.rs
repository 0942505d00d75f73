//! What one must know of rclone to launch it: where it is, which configuration it will read, what
//! that says, and by which variables a value is overridden. Taken from rclone 1.60 to 1.71.

pub(crate) mod config;
pub(crate) mod environment;
pub(crate) mod obscure;
pub(crate) mod program;

/// Whether rclone takes an option's value in obscured form, as TrueNAS writes it.
pub(crate) fn is_password(key: &str) -> bool {
    matches!(key, "pass" | "password" | "password2")
}
