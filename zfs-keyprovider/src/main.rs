//! `zfs-keyprovider`: dataset keys out of the vault, in the forms that ZFS takes them in.

mod adopt;
mod check;
mod copy;
mod failure;
mod get;
mod load;
mod login;
mod sealed;
mod serve;
mod wrapping_key;
mod zfs;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use strongroom::{Tcti, Vault, vault_dir};

use adopt::Adopt;
use check::Check;
use get::Get;
use load::Load;
use serve::Serve;
use serve::server::ServeInside;

/// Wipes every block that is freed, so that what passed through ordinary memory does not stay.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  some datasets failed, the rest are done; or ZFS cannot be asked, or failed
  2  wrong usage
  3  the policy refused: the machine is in another boot state
  4  TPM missing, not the vault's, busy or in lockout; or the PIN that the keys are behind is locked
  5  vault missing, damaged, forged or of a newer format
  6  no such dataset, or no key of it in the vault; in `load`, of all that were named
  7  the input is not what it must be: the key is not the dataset's, or not of the form that was
     asked for; the dataset is not the one that the key was sealed for; the PIN is wrong, or nobody
     gave it

Environment:
  STRONGROOM_DIR        the vault's folder (default /var/lib/strongroom, else /data/strongroom)
  STRONGROOM_TCTI       the TPM, in tpm2-tss's notation (default /dev/tpm0, else /dev/tpmrm0)
  STRONGROOM_EVENT_LOG  the event log of the present boot, which says why the policy refuses it
                        (default the kernel's)
  STRONGROOM_LOG        error, warn (default), info (default of serve), debug";

/// Hands ZFS its dataset keys out of the vault.
#[derive(Debug, Parser)]
#[command(name = "zfs-keyprovider", version, after_long_help = EXIT_CODES)]
struct Cli {
    /// The vault's folder [default: $STRONGROOM_DIR, else /var/lib/strongroom, else /data/strongroom]
    #[arg(long, global = true, value_name = "FOLDER")]
    dir: Option<PathBuf>,

    /// The TPM, such as device:/dev/tpmrm0 [default: $STRONGROOM_TCTI, else the kernel's]
    #[arg(long, global = true)]
    tcti: Option<Tcti>,

    /// Go on only with the vault whose key has this SHA-256, which init and the recovery kit name
    #[arg(long, global = true, value_name = "HEX", env = "STRONGROOM_VAULT_KEY_SHA256",
        value_parser = sha256)]
    vault_key_sha256: Option<[u8; 32]>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load the keys of encryption roots that are locked
    #[command(
        after_help = "Examples:\n  zfs-keyprovider load -a\n  zfs-keyprovider load -r tank\n  \
        zfs-keyprovider load -a --dry-run --json"
    )]
    Load(Load),

    /// Seal the key of an existing dataset, or give it a new one, and have it carry a recovery copy
    #[command(after_help = "Examples:\n  zfs-keyprovider adopt tank/home < key\n  \
        zfs-keyprovider adopt tank/home --rotate\n  \
        zfs-keyprovider adopt tank/home --key-file key --keylocation file:///run/zfs-keys/tank/home")]
    Adopt(Adopt),

    /// Say whether a key is a dataset's; loads nothing
    #[command(after_help = "Example:\n  zfs-keyprovider check tank/home < key")]
    Check(Check),

    /// Print a dataset's key as `zfs load-key` reads it from standard input
    #[command(
        after_help = "Examples:\n  zfs-keyprovider get tank/home | zfs load-key tank/home\n  \
        zfs-keyprovider get --recovery kit.txt tank/home | zfs load-key tank/home"
    )]
    Get(Get),

    /// Serve a folder with one file per dataset key, for keylocation=file://
    #[command(after_help = serve::HELP)]
    Serve(Serve),

    #[command(hide = true)]
    ServeInside(ServeInside),

    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        folder: PathBuf,
    },
}

impl Cli {
    /// The vault; whichever its owner has named, if any.
    fn vault(&self) -> strongroom::Result<Vault> {
        self.vault_place().open()
    }

    fn vault_place(&self) -> VaultPlace {
        VaultPlace {
            dir: vault_dir(self.dir.clone()),
            key_sha256: self.vault_key_sha256,
        }
    }

    fn tcti(&self) -> strongroom::Result<Tcti> {
        match &self.tcti {
            Some(tcti) => Ok(tcti.clone()),
            None => Tcti::from_environment(),
        }
    }

    /// Whether the report is to be JSON.
    fn json(&self) -> bool {
        match &self.command {
            Command::Load(args) => args.json,
            Command::Adopt(args) => args.json,
            Command::Check(_)
            | Command::Get(_)
            | Command::Serve(_)
            | Command::ServeInside(_)
            | Command::Man { .. } => false,
        }
    }

    /// What is logged where STRONGROOM_LOG does not say: a service tells who was given what.
    fn log_level(&self) -> log::LevelFilter {
        match &self.command {
            Command::Serve(_) | Command::ServeInside(_) => log::LevelFilter::Info,
            Command::Load(_)
            | Command::Adopt(_)
            | Command::Check(_)
            | Command::Get(_)
            | Command::Man { .. } => log::LevelFilter::Warn,
        }
    }
}

/// Where the vault is, and which it must be.
#[derive(Clone)]
struct VaultPlace {
    dir: PathBuf,
    /// What its owner has named it by, if at all.
    key_sha256: Option<[u8; 32]>,
}

impl VaultPlace {
    /// The vault as it is now.
    fn open(&self) -> strongroom::Result<Vault> {
        let vault = Vault::open(&self.dir)?;
        Ok(match self.key_sha256 {
            Some(expected) => vault.expecting(expected),
            None => vault,
        })
    }
}

fn main() -> ExitCode {
    strongroom::process::harden();
    let cli = Cli::parse();
    strongroom::logging::start("zfs-keyprovider", cli.log_level());
    let outcome = match &cli.command {
        Command::Load(args) => load::run(&cli, args),
        Command::Adopt(args) => adopt::run(&cli, args),
        Command::Check(args) => check::run(args),
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
            let json = cli.json() && !failure.is_reported();
            strongroom_console::failed(
                "zfs-keyprovider",
                json,
                &failure,
                failure.refusal(),
                failure.exit_code(),
            )
        }
    }
}

fn sha256(text: &str) -> Result<[u8; 32], String> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest)
        .map(|()| digest)
        .map_err(|_| "it must be 64 hexadecimal digits".to_owned())
}
