//! The process that answers the kernel: it confines itself first, and ends with the mount or with
//! the process that made it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use fuser::{Config, Session, SessionACL};
use rustix::process::{Signal, set_parent_process_death_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use strongroom::error::Error;

use super::Patience;
use super::confinement::confine;
use super::desk::Desk;
use super::files::{self, Files};
use super::line::Line;
use super::names;
use crate::Cli;
use crate::failure::Failure;

/// What `serve` starts; nothing for people.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeInside {
    #[command(flatten)]
    patience: Patience,
}

pub(crate) fn run(cli: &Cli, args: &ServeInside) -> Result<(), Failure> {
    let failed = |error: io::Error| Error::input("the server's process", error.to_string());
    // Whatever becomes of the other process, its end is the end of this one.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| failed(error.into()))?;
    ignore_signals().map_err(failed)?;
    let (device, line) = take_descriptors().map_err(failed)?;
    let vault = cli.vault_place();
    let tcti = cli.tcti()?;
    for dataset in files::names(&vault)?.flat_alone() {
        log::warn!(
            "{dataset} has datasets with keys beneath it: its own key is .flat/{} alone",
            names::flat(dataset)
        );
    }

    let (desk, backroom) = Desk::new(args.patience.duration());
    // The kernel's first question is answered here; from then on there is a file system.
    let session = Session::from_fd(
        Files::new(vault.clone(), desk),
        device,
        SessionACL::Owner,
        Config::default(),
    )
    .map_err(failed)?;
    // No thread was started yet: all that are inherit it.
    confine(&vault.dir, &tcti)?;
    let line = Line::open(line).map_err(failed)?;
    line.say_ready().map_err(failed)?;
    backroom.open(vault, tcti, line).map_err(failed)?;
    session.run().map_err(failed)?;
    Ok(())
}

/// A signal that is sent to both processes is the other one's to act on; this one ends with the
/// mount.
fn ignore_signals() -> io::Result<()> {
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    Ok(())
}

/// The kernel's device and the line, which came as standard input and output.
fn take_descriptors() -> io::Result<(OwnedFd, OwnedFd)> {
    let device = rustix::stdio::stdin().try_clone_to_owned()?;
    let line = rustix::stdio::stdout().try_clone_to_owned()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok((device, line))
}
