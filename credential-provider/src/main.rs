//! `credential-provider`: launches a program with its secrets, which lie in a Strongroom vault and
//! are read from it through PKCS#11.
//!
//! So far the program is rclone. Where its configuration has a placeholder instead of a secret,
//! the secret is put into the environment of that one process. The files: `rclone` (how rclone is
//! found, and finds and reads its configuration), `placeholder`, `vault` (reading objects through
//! the PKCS#11 module), `launch` (all of it, step by step), `child` (being rclone's parent).

mod child;
mod failure;
mod launch;
mod placeholder;
mod rclone;
mod vault;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::failure::USAGE;

/// Wipes every block that is freed: what clap, serde and the standard library leave behind too.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

/// Launches a program with the secrets that its configuration names by placeholder.
#[derive(Parser)]
#[command(
    name = "credential-provider",
    version,
    after_help = "Example:\n  credential-provider rclone -- --config /etc/rclone.conf lsd remote:",
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
    /// RCLONE_CONFIG_REMOTE_KEY, in the environment of rclone alone. Without a placeholder in
    /// the configuration, rclone just runs.
    Rclone {
        /// What to give to rclone
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
Example:
  credential-provider rclone -- --config /etc/rclone.conf lsd remote:

Installed under the name rclone ahead of rclone on PATH, it takes rclone's own arguments.

Environment:
  STRONGROOM_DIR        the vault's folder [default: /var/lib/strongroom, else /data/strongroom]
  STRONGROOM_TCTI       the TPM, such as device:/dev/tpmrm0
  STRONGROOM_EVENT_LOG  the event log of the present boot, which says why the policy refuses it
  STRONGROOM_MODULE     the PKCS#11 module
  STRONGROOM_LOG        error (the default), warn, info, debug or trace

Exit code: rclone's own, or if rclone could not be launched
  122  wrong usage
  123  the TPM's policy refuses: the machine is in another boot state
  124  the TPM is missing, busy or in lockout
  125  the vault or an object is missing, damaged, forged or of a newer format
  126  the vault has no such object, or the object no such field
  127  the configuration, the module or rclone itself is not what it must be";

fn main() -> ExitCode {
    strongroom::process::harden();
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    if Path::new(&name).file_name() == Some(OsStr::new("rclone")) {
        let module = std::env::var_os("STRONGROOM_MODULE").map(PathBuf::from);
        return launch::rclone(module, arguments.collect());
    }
    match CommandLine::try_parse() {
        Ok(CommandLine {
            module,
            program: Program::Rclone { arguments },
        }) => launch::rclone(module, arguments),
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
