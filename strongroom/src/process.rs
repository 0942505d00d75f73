//! What is common to our programs as processes: that no one reads their memory, what they find in
//! their environment, how a secret leaves them, and how a child of theirs ends with them.
#![allow(
    unsafe_code,
    reason = "std's set_var and pre_exec are unsafe, and libtss2 is told by the environment alone to be quiet"
)]

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, getpid, getppid, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};

use crate::secret::Secret;

/// Makes the process not dumpable and not traceable by its own user (`PR_SET_DUMPABLE`), forbids
/// core dumps, and turns off libtss2's own log, whose lines our errors already say in words.
///
/// The first line of each of our programs' `main`, while there is one thread. Not for the PKCS#11
/// module, which is a guest in other people's processes.
pub fn harden() {
    // On kernels that refuse either, the vault still works, and keeps its other protections.
    if set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        log::warn!("this process cannot be made undumpable");
    }
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if setrlimit(Resource::Core, none).is_err() {
        log::warn!("core dumps cannot be turned off");
    }
    set_default_variable("TSS2_LOG", "all+NONE");
}

/// Sets a variable of this process's environment, unless it is set.
///
/// Among the first lines of a `main`, while there is one thread.
pub fn set_default_variable(name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) {
    if std::env::var_os(&name).is_none() {
        // SAFETY: documented as for the beginning of `main`: there is no other thread that could
        // read the environment meanwhile.
        unsafe { std::env::set_var(name, value) };
    }
}

/// Has the kernel kill the child of a command when this process ends, however it ends. The thread
/// that spawns it is the one whose end counts: the main one.
pub fn end_with_us(command: &mut Command) {
    let parent = getpid();
    let bind = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // We have ended before the kernel was told.
        if getppid() != Some(parent) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls, allocates nothing, and
    // takes no lock: the errors it makes are numbers.
    unsafe { command.pre_exec(bind) };
}

/// Reads a secret from standard input to its end, straight from the descriptor: std's buffer would
/// keep a copy.
///
/// # Errors
/// What the system answers, and `InvalidData` if there are more than `limit` bytes.
pub fn take_in(limit: usize) -> io::Result<Secret> {
    Secret::read_from(
        File::from(rustix::stdio::stdin().try_clone_to_owned()?),
        limit,
    )
}

/// Writes a secret to standard output, straight to the descriptor: std's buffer would keep a copy.
///
/// # Errors
/// What the system answers; part of the secret may have been written.
pub fn hand_out(secret: &Secret) -> io::Result<()> {
    let mut bytes = secret.expose();
    while !bytes.is_empty() {
        let written =
            rustix::io::retry_on_intr(|| rustix::io::write(rustix::stdio::stdout(), bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}
