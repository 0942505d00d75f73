//! `credential-provider`: launches a program with its secrets, which lie in a Strongroom vault and
//! are read from it through PKCS#11.
//!
//! The program is rclone or restic. Where its configuration or its environment has a placeholder
//! instead of a secret, the secret is put into the environment of that one process, or into a file in
//! memory that it alone has open. The files: `rclone` and `restic` (each launch, step by step),
//! `environment`, `placeholder`, `credential` (what a placeholder stands for), `vault` (reading objects
//! through the PKCS#11 module), `program` (where the real program is), `child` (being its parent).

mod child;
mod credential;
mod environment;
mod failure;
mod launch;
mod placeholder;
mod program;
mod rclone;
mod restic;
mod settings;
mod vault;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::failure::{Failure, USAGE};
use crate::rclone::keeper;

/// Wipes every block that is freed: what clap, serde and the standard library leave behind too.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

/// Launches a program with the secrets that its configuration names by placeholder.
#[derive(Parser)]
#[command(
    name = "credential-provider",
    version,
    after_help = "Examples:\n  credential-provider rclone -- --config /etc/rclone.conf lsd remote:\n  \
        RESTIC_PASSWORD=strongroom:v1:ID credential-provider restic -- -r /mnt/backup snapshots",
    after_long_help = LONG_HELP
)]
struct CommandLine {
    /// The PKCS#11 module [default: libstrongroom_pkcs11.so beside this program or in ../lib]
    #[arg(long, env = "STRONGROOM_MODULE", value_name = "FILE")]
    module: Option<PathBuf>,

    #[command(subcommand)]
    program: Program,
}

#[derive(Subcommand)]
enum Program {
    /// Launches rclone
    ///
    /// A value strongroom:v1:ID in rclone's configuration, obscured or not, stands for the field
    /// of the key's name in the vault's object ID. It is given to rclone by
    /// RCLONE_CONFIG_REMOTE_KEY, in the environment of rclone alone; so is one in the environment. A
    /// token, which rclone may refresh, is in a copy of the configuration in memory instead.
    /// Where a key file has nothing but such a text, rclone gets a file in memory instead. What rclone
    /// writes over a placeholder, such as a refreshed token, is sealed at once as what the
    /// placeholder stands for; the configuration keeps the placeholder. Without a placeholder, rclone
    /// just runs.
    #[command(
        after_help = "Examples:\n  credential-provider rclone -- --config /etc/rclone.conf lsd remote:\n  \
            ln -s /root/strongroom/credential-provider /usr/local/bin/rclone"
    )]
    Rclone {
        /// What to give to rclone
        #[arg(last = true, value_name = "ARGS")]
        arguments: Vec<OsString>,
    },

    /// Launches restic
    ///
    /// A variable whose value is strongroom:v1:ID stands for the field of the vault's object ID by
    /// which the variable's name ends: secret_access_key of AWS_SECRET_ACCESS_KEY, password of
    /// RESTIC_PASSWORD; or for the only field that there is. Without a placeholder, restic just runs.
    #[command(
        after_help = "Examples:\n  RESTIC_PASSWORD=strongroom:v1:ID credential-provider restic -- -r /mnt/backup \
            snapshots\n  ln -s /root/strongroom/credential-provider /usr/local/bin/restic"
    )]
    Restic {
        /// What to give to restic
        #[arg(last = true, value_name = "ARGS")]
        arguments: Vec<OsString>,
    },

    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        folder: PathBuf,
    },
}

const LONG_HELP: &str = "\
Examples:
  credential-provider rclone -- --config /etc/rclone.conf lsd remote:
  RESTIC_PASSWORD=strongroom:v1:ID credential-provider restic -- -r /mnt/backup snapshots

Installed under the name rclone or restic ahead of the real one on PATH, it takes that one's own
arguments.

Environment:
  STRONGROOM_DIR        the vault's folder [default: /var/lib/strongroom, else /data/strongroom]
  STRONGROOM_TCTI       the TPM, such as device:/dev/tpmrm0
  STRONGROOM_EVENT_LOG  the event log of the present boot, which says why the policy refuses it
  STRONGROOM_VAULT_KEY_SHA256  which vault it must be that a refreshed token is sealed in
  STRONGROOM_MODULE     the PKCS#11 module
  STRONGROOM_RCLONE, STRONGROOM_RESTIC  the real program [default: the first on PATH that is not this one]
  STRONGROOM_LOG        error (the default), warn, info, debug or trace
  STRONGROOM_SETTINGS   a file that sets those of these that are not set, NAME=value, and that only root
                        can write [default: /etc/default/strongroom]

Exit code: the program's own, or if it could not be launched
  122  wrong usage
  123  the TPM's policy refuses: the machine is in another boot state
  124  the TPM is missing, busy or in lockout
  125  the vault or an object is missing, damaged, forged or of a newer format
  126  the vault has no such object, or the object no such field
  127  the configuration, the module or the program is not what it must be
One of these after rclone has ended well: what it wrote over a placeholder could not be sealed.";

fn main() -> ExitCode {
    // What is launched without a secret is to find nothing changed, and each launch hardens this process
    // before it has one.
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let name = Path::new(&name).file_name();
    let launch: Option<Launch> = match name.and_then(OsStr::to_str) {
        Some("rclone") => Some(rclone::launch::run),
        Some("restic") => Some(restic::run),
        _ => None,
    };
    if let Some(launch) = launch {
        settings::take();
        let module = std::env::var_os("STRONGROOM_MODULE").map(PathBuf::from);
        return code_of(launch(module, arguments.collect()));
    }
    if std::env::args_os()
        .nth(1)
        .is_some_and(|it| it == keeper::COMMAND)
    {
        strongroom::process::harden();
        return keeper::keep();
    }
    settings::take();
    match CommandLine::try_parse() {
        Ok(CommandLine {
            module,
            program: Program::Rclone { arguments },
        }) => code_of(rclone::launch::run(module, arguments)),
        Ok(CommandLine {
            module,
            program: Program::Restic { arguments },
        }) => code_of(restic::run(module, arguments)),
        Ok(CommandLine {
            program: Program::Man { folder },
            ..
        }) => match clap_mangen::generate_to(CommandLine::command(), &folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("credential-provider: {}: {error}", folder.display());
                ExitCode::from(USAGE)
            }
        },
        Err(error) => {
            // Nowhere is left to say that nothing can be said.
            let _ = error.print();
            if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            }
        }
    }
}

/// Launches a program, with a module that was named and its arguments.
type Launch = fn(Option<PathBuf>, Vec<OsString>) -> Result<ExitCode, Vec<Failure>>;

/// The program's exit code, or what is in the way, and the exit code of that.
fn code_of(outcome: Result<ExitCode, Vec<Failure>>) -> ExitCode {
    outcome.unwrap_or_else(|failures| {
        for failure in &failures {
            launch::say(failure);
        }
        ExitCode::from(failures.first().map_or(u8::MAX, Failure::exit_code))
    })
}
