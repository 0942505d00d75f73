//! `get DATASET`: one key on standard input's other side, for `| zfs load-key DATASET`.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use strongroom::dataset_key::KeyFormat;
use strongroom::error::Error;
use strongroom::object::{Metadata, ObjectId, TokenName};
use strongroom::recovery::{KitFile, Passphrase, RecoveryKit};
use strongroom::recovery_copy::{Recovered, RecoveryCopy};
use strongroom::uri::Selector;
use strongroom::{Result, Secret, Tcti, Unlocked, Vault, process};

use crate::failure::Failure;
use crate::login::{self, AskPin, Login};
use crate::sealed::{self, Choice};
use crate::zfs::{Dataset, Datasets, Keys, Refused};
use crate::{Cli, copy};

#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    /// The dataset, an encryption root
    dataset: String,

    /// Which key, where several are sealed for one dataset [default: the newest that is the
    /// dataset's, as ZFS says; the newest where ZFS does not know the dataset]
    #[arg(long)]
    id: Option<ObjectId>,

    /// Open the recovery copy that the dataset carries with this recovery kit (- for standard
    /// input), without vault and TPM
    #[arg(long, value_name = "KIT", conflicts_with = "id")]
    recovery: Option<PathBuf>,

    /// Of a recovery kit that is protected, the file with its passphrase
    #[arg(long, value_name = "FILE", requires = "recovery")]
    passphrase_file: Option<PathBuf>,

    /// The form: raw, hex or passphrase [default: the dataset's keyformat property where ZFS
    /// knows the dataset, else the form that the key was sealed in]
    #[arg(long)]
    format: Option<KeyFormat>,

    #[command(flatten)]
    pin: AskPin,

    /// Write even to a terminal
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(cli: &Cli, args: &Get) -> Result<(), Failure> {
    if io::stdout().is_terminal() && !args.force {
        return Err(Failure::Usage(
            "standard output is a terminal; use a pipe, or --force",
        ));
    }
    // Where there is no ZFS, or the pool is not imported, the vault alone answers.
    let dataset = Datasets::if_known(&args.dataset)?;
    let (object, key) = match &args.recovery {
        Some(kit) => from_copy(args, dataset.as_ref(), kit)?,
        None => from_vault(cli, args, dataset.as_ref())?,
    };
    let sealed = KeyFormat::of(&object)?;
    let wanted = args
        .format
        .or_else(|| dataset.and_then(|dataset| dataset.key_format))
        .unwrap_or(sealed);
    let key = sealed.convert(&key, wanted)?;
    // Without a newline, which would make a raw key too long and is needed by no other form.
    process::hand_out(&key)
        .map_err(|error| Error::input("standard output", error.to_string()).into())
}

fn from_vault(
    cli: &Cli,
    args: &Get,
    dataset: Option<&Dataset>,
) -> Result<(Metadata, Secret), Failure> {
    let vault = cli.vault()?;
    if args.id.is_some() {
        let object = vault.find(&Selector {
            id: args.id,
            ..Selector::label(TokenName::datasets(), &args.dataset)
        })?;
        let mut unlocked = unlock(&vault, &cli.tcti()?, object.needs_pin(), &args.pin)?;
        let key = unlocked.unseal(&object)?;
        return Ok((object, key));
    }
    let choice = Choice::of(&vault, &args.dataset, dataset)?;
    let mut unlocked = unlock(&vault, &cli.tcti()?, choice.needs_pin(), &args.pin)?;
    let fits = |key: &Secret| match dataset {
        Some(dataset) => Keys::open().check(dataset, key),
        None => Ok(()),
    };
    choice.open(|object| unlocked.unseal(object), fits)
}

/// Unlocks the vault, where need be by the PIN of the token's user.
fn unlock(vault: &Vault, tcti: &Tcti, by_pin: bool, how: &AskPin) -> Result<Unlocked, Failure> {
    if !by_pin {
        return Ok(vault.unlock(tcti)?);
    }
    match login::log_in(vault, tcti, &TokenName::datasets(), how)? {
        Login::In(logged_in) => Ok(logged_in.unlock()?),
        Login::Out(failure) => Err(failure),
    }
}

fn kit_from(args: &Get, kit: &Path) -> Result<RecoveryKit> {
    match (KitFile::read(kit)?, &args.passphrase_file) {
        (KitFile::Protected(kit), Some(file)) => kit.open(&Passphrase::read(file)?),
        (file, _) => file.unprotected(),
    }
}

/// The key in the dataset's recovery copy. The kit tells whether the copy is the vault's, and ZFS
/// whether it is the dataset's.
fn from_copy(
    args: &Get,
    dataset: Option<&Dataset>,
    kit: &Path,
) -> Result<(Metadata, Secret), Failure> {
    let name = &args.dataset;
    let dataset = dataset.ok_or_else(|| Failure::unknown(name, "dataset does not exist"))?;
    match &dataset.encryption_root {
        None => return Err(Failure::dataset(name, "it is not encrypted")),
        Some(root) if root != name => {
            let reason = format!("it is no encryption root: its key is that of {root}");
            return Err(Failure::dataset(name, reason));
        }
        Some(_) => {}
    }
    let opened = open_copies(name, &kit_from(args, kit)?)?;
    let guid = dataset.guid;
    for recovered in &opened {
        let sealed = recovered.object.dataset_guid;
        if sealed.is_some() && guid.is_some() && sealed != guid {
            log::warn!(
                "the recovery copy was made for dataset {} under another GUID; this may be a replica",
                recovered.object.label
            );
        }
    }
    let found = opened.into_iter().map(|one| (one.object, Ok(one.secret)));
    let keys = Keys::open();
    sealed::first_that_fits(name, found, |object, key| {
        let key = sealed::in_form_of(dataset, object, key)
            .map_err(|error| Refused::Other(error.to_string()))?;
        keys.check(dataset, &key)
    })
}

/// What the kit opens of a dataset's copies. Of the reasons why it opens none, the first.
fn open_copies(dataset: &str, kit: &RecoveryKit) -> Result<Vec<Recovered>, Failure> {
    let (mut opened, mut refused) = (Vec::new(), None);
    for text in copy::of(dataset)? {
        match text.parse().and_then(|copy: RecoveryCopy| copy.open(kit)) {
            Ok(objects) => opened.extend(objects),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    match refused {
        Some(error) if opened.is_empty() => Err(error.into()),
        _ => Ok(opened),
    }
}
