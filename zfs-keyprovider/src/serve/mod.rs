//! `serve MOUNTPOINT`: a folder with one file for each dataset key, for `keylocation=file://`.
//!
//! Two processes share the work, so that neither has more than it needs. This one mounts, unmounts,
//! asks ZFS and talks to the service manager; it never speaks to the TPM, so that nothing holds it up,
//! and sees a key only where several are sealed for a dataset and ZFS has to say which is the right
//! one. The other one ([`server`]) answers what the kernel asks, and may do nothing
//! but read the vault and use the TPM: a process that has confined itself so far may not unmount any
//! more, and one that hangs in the TPM could not either. When one ends, so does the other.

mod confinement;
mod desk;
mod files;
mod line;
mod mountpoint;
mod names;
mod notify;
pub(crate) mod server;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use strongroom::Secret;
use strongroom::error::Error;

use self::line::Said;
use self::mountpoint::Mountpoint;
use crate::failure::Failure;
use crate::sealed::Choice;
use crate::zfs::{Datasets, Keys, Refused};
use crate::{Cli, VaultPlace};

/// How long the other process may take to end when it is killed. One that the kernel holds in a
/// command to the TPM does not end before that is over, and is not waited for.
const GRACE: Duration = Duration::from_millis(300);

pub(crate) const HELP: &str = "\
Examples:
  zfs-keyprovider serve /run/zfs-keys
  zfs create -o encryption=on -o keyformat=raw \\
      -o keylocation=file:///run/zfs-keys/tank/home tank/home
  zfs set keylocation=file:///run/zfs-keys/.flat/tank tank

The files:
  MOUNTPOINT/tank/home          the key of tank/home
  MOUNTPOINT/.flat/tank%2Fhome  the same; every key has such a name, with / written as %2F
  A dataset with keys of others beneath it is a folder, so that its own key is in .flat alone.

Only root reads them. A key is unsealed when its file is opened, in the dataset's keyformat, and
forgotten when it is closed. In another boot state the file says EACCES, without a TPM EIO, and
the log says why. The program stays in the foreground until SIGTERM, then unmounts.";

/// What to serve, and where.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// An empty folder; it is made if only it is missing
    mountpoint: PathBuf,

    #[command(flatten)]
    patience: Patience,
}

/// How long who opens a file waits for the TPM.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Patience {
    /// How long the TPM may take for a key, before whoever opens the file is given EIO
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    patience: u64,
}

impl Patience {
    fn duration(self) -> Duration {
        Duration::from_secs(self.patience)
    }
}

/// What the process waits for.
#[derive(Clone, Copy)]
enum Event {
    /// Somebody wants an end.
    Signal,
    /// The server answers the kernel from now on.
    Ready,
    /// The server has ended, or is about to.
    Gone,
}

pub(crate) fn run(cli: &Cli, args: &Serve) -> Result<(), Failure> {
    // Said at once rather than by a file that nobody can open.
    cli.vault()?;
    cli.tcti()?;
    let (events, happened) = mpsc::channel();
    // From here on a signal unmounts.
    pass_on_signals(events.clone())?;

    let (mounted, device) = Mountpoint::prepare(&args.mountpoint)?.mount()?;
    let mut server = start_server(cli, args, device, events)?;
    let mut asked_to_end = false;
    for event in happened {
        match event {
            Event::Ready => {
                log::info!("serving {}", mounted.path().display());
                notify::ready();
                continue;
            }
            Event::Signal => asked_to_end = true,
            Event::Gone => {}
        }
        break;
    }
    // Whoever waits for a key is sent away, and the server's wait for the kernel ends.
    drop(mounted);
    let ended = match end(&mut server) {
        _ if asked_to_end => return Ok(()),
        // Somebody has unmounted it by hand.
        Some(status) if status.success() => return Ok(()),
        Some(status) => format!("its server has ended ({status}); it was unmounted"),
        None => "its server hangs in the TPM; it was unmounted".to_owned(),
    };
    Err(Error::input(args.mountpoint.display().to_string(), ended).into())
}

fn pass_on_signals(events: Sender<Event>) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| Error::input("the signals", error.to_string()))?;
    thread::spawn(move || {
        for _ in signals.forever() {
            if events.send(Event::Signal).is_err() {
                break;
            }
        }
    });
    Ok(())
}

/// Starts the other process: this program, with the kernel's end of the mount as its standard
/// input, and the line between the two as its standard output.
fn start_server(
    cli: &Cli,
    args: &Serve,
    device: OwnedFd,
    events: Sender<Event>,
) -> Result<Child, Failure> {
    let failed = |error: std::io::Error| Error::input("the server's process", error.to_string());
    let (line, other_end) = line::pair().map_err(failed)?;
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command
        .args(options(cli))
        .arg("serve-inside")
        .args(["--patience", &args.patience.patience.to_string()])
        .stdin(Stdio::from(device))
        .stdout(Stdio::from(other_end));
    let server = command.spawn().map_err(failed)?;
    // It has copies of the descriptors, which must be gone when the server is.
    drop(command);
    let zfs = AskZfs(cli.vault_place());
    thread::spawn(move || {
        // ZFS is asked here: neither by the server, which may start nothing, nor where signals are
        // waited for.
        line::answer(line, zfs, |said| {
            let _ = events.send(match said {
                Said::Ready => Event::Ready,
                Said::Gone => Event::Gone,
            });
        });
    });
    Ok(server)
}

/// ZFS, and of the vault what is no secret.
struct AskZfs(VaultPlace);

impl line::Zfs for AskZfs {
    fn choice(&self, dataset: &str) -> Result<Choice, Failure> {
        // Where there is no ZFS, or the pool is not imported, the vault alone answers.
        let known = Datasets::if_known(dataset)?;
        Choice::of(&self.0.open()?, dataset, known.as_ref())
    }

    fn fits(&self, dataset: &str, key: &Secret) -> Result<(), Refused> {
        let known =
            Datasets::if_known(dataset).map_err(|error| Refused::Other(error.to_string()))?;
        Keys::open().check(&known.ok_or(Refused::Gone)?, key)
    }
}

/// The options that say which vault and which TPM.
fn options(cli: &Cli) -> Vec<OsString> {
    let mut options = Vec::new();
    if let Some(dir) = &cli.dir {
        options.extend(["--dir".into(), dir.into()]);
    }
    if let Some(digest) = cli.vault_key_sha256 {
        options.extend(["--vault-key-sha256".into(), hex::encode(digest).into()]);
    }
    if let Some(tcti) = &cli.tcti {
        options.extend(["--tcti".into(), tcti.to_string().into()]);
    }
    options
}

/// Ends the other process. `None`: it does not end.
fn end(server: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + GRACE;
    wait(server, deadline).or_else(|| {
        let _ = server.kill();
        wait(server, deadline + GRACE)
    })
}

fn wait(server: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        match server.try_wait() {
            Ok(Some(status)) => return Some(status),
            _ if Instant::now() >= deadline => return None,
            _ => thread::sleep(Duration::from_millis(5)),
        }
    }
}
