//! `get DATASET`: one key on standard input's other side, for `| zfs load-key DATASET`.

use std::io::{self, IsTerminal};
use std::process::{Command, Stdio};

use strongroom::dataset_key::KeyFormat;
use strongroom::error::Error;
use strongroom::object::TokenName;
use strongroom::process;
use strongroom::uri::Selector;
use strongroom::{Tcti, Vault, vault_dir};

use crate::{Cli, Failure, Get};

pub(crate) fn run(cli: &Cli, args: &Get) -> Result<(), Failure> {
    if io::stdout().is_terminal() && !args.force {
        return Err(Failure::Usage(
            "standard output is a terminal; use a pipe, or --force",
        ));
    }
    let vault = Vault::open(&vault_dir(cli.dir.clone()))?;
    let object = vault.find(&Selector {
        id: args.id,
        ..Selector::label(TokenName::datasets(), &args.dataset)
    })?;
    let sealed = KeyFormat::of(&object)?;
    let wanted = args
        .format
        .or_else(|| property(&args.dataset))
        .unwrap_or(sealed);
    let tcti = match &cli.tcti {
        Some(tcti) => tcti.clone(),
        None => Tcti::from_environment()?,
    };
    let key = vault.unlock(&tcti)?.unseal(&object)?;
    let key = sealed.convert(&key, wanted)?;
    // Without a newline, which would make a raw key too long and is needed by no other form.
    process::hand_out(&key)
        .map_err(|error| Error::input("standard output", error.to_string()).into())
}

/// The dataset's keyformat as ZFS has it: a TrueNAS database holds a raw key as hex too. `None`
/// where there is no ZFS, or the pool is not imported.
pub(crate) fn property(dataset: &str) -> Option<KeyFormat> {
    let output = Command::new("zfs")
        .args(["get", "-Hp", "-o", "value", "keyformat", "--", dataset])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
