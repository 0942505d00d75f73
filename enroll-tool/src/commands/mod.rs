//! One file for each command.

mod audit;
mod backup;
mod boots;
mod commit;
mod doctor;
mod enrol;
mod export;
mod hand_over;
mod init;
mod install;
mod list;
mod migrate;
mod pair;
mod prepare;
mod rebind;
mod recover;
mod recovery_kit;
mod recovery_test;
mod remove;
mod rotate;
mod seal;
mod status;
mod suspend;
mod token;
mod uninstall;
mod unseal;
mod upgrade_guard;

use std::path::PathBuf;

use clap::CommandFactory;
use strongroom::error::Error;
use strongroom::event_log::{self, Recording};
use strongroom::{Tcti, Unlocked, Vault, vault_dir};

use crate::cli::{Cli, Command};
use crate::failure::Failure;

/// Runs the command that was asked for.
pub(crate) fn run(cli: &Cli) -> Result<(), Failure> {
    let place = Place {
        dir: vault_dir(cli.dir.clone()),
        is_named: cli.dir.is_some()
            || std::env::var_os(strongroom::DIR_VARIABLE).is_some_and(|dir| !dir.is_empty()),
        tcti: cli.tcti.clone(),
        event_log: cli.event_log.clone(),
        json: cli.json,
        vault_key_sha256: cli.vault_key_sha256,
    };
    match &cli.command {
        Command::Init(args) => init::run(&place, args),
        Command::Doctor { database } => doctor::run(&place, database.as_deref()),
        Command::HandOver(args) => hand_over::run(&place, args),
        Command::Status(args) => status::run(&place, args),
        Command::Enrol(args) => enrol::run(&place, args),
        Command::Install(args) => install::run(&place, args),
        Command::Uninstall(args) => uninstall::run(&place, args),
        Command::UpgradeGuard(args) => upgrade_guard::run(&place, args),
        Command::List => list::run(&place),
        Command::Seal(args) => seal::run(&place, args),
        Command::Unseal(args) => unseal::run(&place, args),
        Command::Migrate(args) => migrate::run(&place, args),
        Command::Rebind(args) => rebind::run(&place, args),
        Command::Prepare(args) => prepare::run(&place, args),
        Command::Commit(args) => commit::run(&place, args),
        Command::Suspend(args) => suspend::run(&place, args),
        Command::Backup { file } => backup::run(&place, file),
        Command::Remove(args) => remove::run(&place, args),
        Command::Pair { action } => pair::run(&place, action),
        Command::Token { action } => token::run(&place, action),
        Command::Recover(args) => recover::run(&place, args),
        Command::RecoveryKit(args) => recovery_kit::run(&place, args),
        Command::RecoveryTest(args) => recovery_test::run(&place, args),
        Command::Audit(args) => audit::run(&place, args),
        Command::Rotate(args) => rotate::run(&place, args),
        Command::Export(args) => export::run(&place, args),
        Command::Man { folder } => clap_mangen::generate_to(Cli::command(), folder)
            .map_err(|error| Error::input(folder.display().to_string(), error.to_string()).into()),
    }
}

/// Where vault and TPM are, and how to report.
struct Place {
    dir: PathBuf,
    /// Whether somebody said that it is there.
    is_named: bool,
    tcti: Option<Tcti>,
    /// The present boot's.
    event_log: Option<PathBuf>,
    json: bool,
    /// Which vault it must be.
    vault_key_sha256: Option<[u8; 32]>,
}

impl Place {
    fn tcti(&self) -> strongroom::Result<Tcti> {
        match &self.tcti {
            Some(tcti) => Ok(tcti.clone()),
            None => Tcti::from_environment(),
        }
    }

    fn vault(&self) -> strongroom::Result<Vault> {
        Vault::open(&self.dir).map(|vault| self.expecting(vault))
    }

    /// Where the event log of the present boot is.
    fn event_log(&self) -> event_log::Place {
        let is_kernels = self.tcti().map_or(true, |tcti| tcti.is_kernels());
        event_log::Place::new(self.event_log.as_deref(), is_kernels)
    }

    /// The log that was named, or else the kernel's, which may be missing or unreadable.
    fn recording(&self) -> Result<Option<Recording>, Failure> {
        let log = self.event_log();
        match log.read() {
            Err(error) if !matches!(log, event_log::Place::File(_)) => {
                log::warn!("the PCRs are not compared with this boot's event log: {error}");
                Ok(None)
            }
            read => Ok(read?),
        }
    }

    /// Whichever vault the owner has named, if any, and with the event log that they named.
    fn expecting(&self, vault: Vault) -> Vault {
        let vault = match &self.event_log {
            Some(file) => vault.with_event_log(file.clone()),
            None => vault,
        };
        match self.vault_key_sha256 {
            Some(expected) => vault.expecting(expected),
            None => vault,
        }
    }

    /// The vault, unlocked for a command that writes.
    fn unlock_to_write(&self) -> strongroom::Result<Unlocked> {
        self.vault()?.unlock_to_write(&self.tcti()?)
    }
}
