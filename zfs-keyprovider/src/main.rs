//! `zfs-keyprovider`: dataset keys out of the vault, in the forms that ZFS takes them in.

mod get;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use strongroom::Tcti;
use strongroom::dataset_key::KeyFormat;
use strongroom::object::ObjectId;

/// Wipes every block that is freed, so that what passed through ordinary memory does not stay.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  2  wrong usage
  3  the policy refused: the machine is in another boot state
  4  TPM missing, not the vault's, busy or in lockout
  5  vault missing, damaged, forged or of a newer format
  6  no such key
  7  the key cannot be given in the form that was asked for

Environment:
  STRONGROOM_DIR   the vault's folder (default /var/lib/strongroom)
  STRONGROOM_TCTI  the TPM, in tpm2-tss's notation (default /dev/tpm0, else /dev/tpmrm0)
  STRONGROOM_LOG   error, warn (default), info (default of serve), debug";

/// Hands ZFS its dataset keys out of the vault.
#[derive(Debug, Parser)]
#[command(name = "zfs-keyprovider", version, after_long_help = EXIT_CODES)]
struct Cli {
    /// The vault's folder [default: $STRONGROOM_DIR, else /var/lib/strongroom]
    #[arg(long, global = true, value_name = "FOLDER")]
    dir: Option<PathBuf>,

    /// The TPM, such as device:/dev/tpmrm0 [default: $STRONGROOM_TCTI, else the kernel's]
    #[arg(long, global = true)]
    tcti: Option<Tcti>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a dataset's key as `zfs load-key` reads it from standard input
    #[command(after_help = "Example:\n  zfs-keyprovider get tank/home | zfs load-key tank/home")]
    Get(Get),

    /// Serve a folder with one file per dataset key, for keylocation=file://
    #[command(after_help = serve::HELP)]
    Serve(serve::Serve),

    #[command(hide = true)]
    ServeInside(serve::server::ServeInside),

    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        folder: PathBuf,
    },
}

impl Command {
    /// What is logged where STRONGROOM_LOG does not say: a service tells who was given what.
    fn log_level(&self) -> log::LevelFilter {
        match self {
            Self::Serve(_) | Self::ServeInside(_) => log::LevelFilter::Info,
            Self::Get(_) | Self::Man { .. } => log::LevelFilter::Warn,
        }
    }
}

#[derive(Debug, clap::Args)]
struct Get {
    /// The dataset, an encryption root
    dataset: String,

    /// Which key, where several are sealed for one dataset
    #[arg(long)]
    id: Option<ObjectId>,

    /// The form: raw, hex or passphrase [default: the dataset's keyformat property where ZFS
    /// knows the dataset, else the form that the key was sealed in]
    #[arg(long)]
    format: Option<KeyFormat>,

    /// Write even to a terminal
    #[arg(long)]
    force: bool,
}

fn main() -> ExitCode {
    strongroom::process::harden();
    let cli = Cli::parse();
    strongroom::logging::start("zfs-keyprovider", cli.command.log_level());
    let outcome = match &cli.command {
        Command::Get(args) => get::run(&cli, args),
        Command::Serve(args) => serve::run(&cli, args),
        Command::ServeInside(args) => serve::server::run(&cli, args),
        Command::Man { folder } => {
            clap_mangen::generate_to(Cli::command(), folder).map_err(|error| {
                strongroom::Error::input(folder.display().to_string(), error.to_string()).into()
            })
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("zfs-keyprovider: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Why no key was given.
#[derive(Debug)]
enum Failure {
    Vault(strongroom::Error),
    Usage(&'static str),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Vault(error) => error.kind().exit_code(),
            Self::Usage(_) => 2,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vault(error) => error.fmt(f),
            Self::Usage(reason) => f.write_str(reason),
        }
    }
}

impl From<strongroom::Error> for Failure {
    fn from(error: strongroom::Error) -> Self {
        Self::Vault(error)
    }
}
