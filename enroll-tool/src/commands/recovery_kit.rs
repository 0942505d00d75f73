//! `strongroom recovery-kit`: the kit as a sheet for paper. It is kept nowhere on the box, so it is
//! given; what comes out is a kit as well.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::json;
use strongroom::error::Error;
use strongroom::recovery::{self, KitFile, RecoveryKit, RecoveryRecipient};
use strongroom::{Secret, Vault, process};

use super::Place;
use crate::cli;
use crate::disk;
use crate::failure::Failure;
use crate::kits;
use crate::output::{self, say};
use crate::qr::Qr;

/// What to do with it. No line of it may begin as one of a kit's own does.
const STEPS: &str = "\
#
# FILE, below, is a file with the text of this sheet, or with what the QR code
# holds: vault, SHA-256 and identity. With `--recovery -` at a terminal these are
# asked for, to be typed or scanned.
#
# Does it open everything? This changes nothing:
#     strongroom recovery-test --recovery FILE --backup BACKUP
# A new mainboard, or a TPM that was cleared:
#     strongroom recover --recovery FILE --yes
# A dead boot disk: on the new one, with the last backup
#     strongroom recover --recovery FILE --backup BACKUP --yes
# An update that locked the vault:
#     strongroom rebind --recovery FILE --yes
# One dataset, wherever its pool is imported, without vault and TPM:
#     zfs-keyprovider get --recovery FILE DATASET | zfs load-key DATASET
# One secret:
#     strongroom unseal --recovery FILE --id ID --out NEWFILE
#
";

pub(super) fn run(place: &Place, args: &cli::RecoveryKit) -> Result<(), Failure> {
    if place.json && args.out.is_none() {
        return Err(Failure::Usage(
            "the sheet is no JSON; name a new file for it with --out".to_owned(),
        ));
    }
    let vault = match place.vault() {
        Ok(vault) => Some(vault),
        Err(Error::VaultMissing(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let file = kits::file(&args.recovery, vault.as_ref().map(Vault::id))?;
    let was_protected = matches!(file, KitFile::Protected(_));
    let kit = kits::open(file, &args.passphrase)?;
    match &vault {
        Some(vault) => vault.check_kit(&kit)?,
        None => check_named(place, &kit)?,
    }
    let lines = if args.protect {
        let file = args.new_passphrase_file.as_deref();
        kit.to_protected_lines(&kits::new_passphrase(file)?)?
    } else {
        kit.to_lines()
    };
    if was_protected && !args.protect {
        log::warn!("the kit was protected by a passphrase, and the sheet is not (--protect)");
    }
    let qr = Qr::of(&lines)?;
    let sheet = |columns| sheet(&lines, &kit.recipient(), &qr, args.protect, columns);
    let besides = if args.protect {
        ", with its passphrase"
    } else {
        ""
    };
    if let Some(out) = &args.out {
        recovery::write_new(out, &sheet(Columns::Paper))?;
    } else {
        log::warn!(
            "what is printed now opens everything in the vault{besides}: leave no copy on this machine"
        );
        process::hand_out(&sheet(Columns::of_output()))
            .map_err(|error| Error::input("standard output", error.to_string()))?;
    }
    if let Some(svg) = &args.svg {
        write_drawing(svg, &qr.to_svg())?;
    }
    let files = || args.out.iter().chain(&args.svg);
    for file in files() {
        if disk::same_file_system(&place.dir, file) {
            log::warn!(
                "{} is on the same file system as the vault: move it off this machine",
                file.display()
            );
        }
    }
    if args.out.is_none() {
        return Ok(());
    }
    let report = json!({
        "vault": kit.vault_id,
        "vault-key-sha256": hex::encode(kit.fingerprint),
        "public-key": kit.recipient(),
        "checked": vault.is_some(),
        "protected": args.protect,
        "sheet": args.out,
        "svg": args.svg,
    });
    output::show(place.json, &report, || {
        for file in files() {
            say!(
                "{} opens everything in vault {}{besides}: move it off this machine.",
                file.display(),
                kit.vault_id
            );
        }
    });
    Ok(())
}

/// Where there is no vault, the owner's word on it is all that there is.
fn check_named(place: &Place, kit: &RecoveryKit) -> Result<(), Error> {
    match place.vault_key_sha256 {
        Some(named) if named == kit.fingerprint => {}
        Some(_) => {
            return Err(Error::RecoveryIdentity(
                "it is of another vault than the one whose key you named".to_owned(),
            ));
        }
        None => log::warn!(
            "there is no vault in {}, so that nothing tells whether this is its kit",
            place.dir.display()
        ),
    }
    Ok(())
}

/// How much room there is for a line.
#[derive(Clone, Copy)]
enum Columns {
    /// As much as it takes.
    Paper,
    /// A terminal's, as far as it says.
    Terminal(Option<usize>),
}

impl Columns {
    fn of_output() -> Self {
        if !io::stdout().is_terminal() {
            return Self::Paper;
        }
        let size = rustix::termios::tcgetwinsize(io::stdout());
        let columns = size.ok().map(|size| usize::from(size.ws_col));
        Self::Terminal(columns.filter(|columns| *columns > 0))
    }
}

fn sheet(
    lines: &Secret,
    recipient: &RecoveryRecipient,
    qr: &Qr,
    protected: bool,
    columns: Columns,
) -> Secret {
    let what = if protected {
        "# Strongroom recovery kit. WHOEVER HOLDS IT AND KNOWS ITS PASSPHRASE CAN OPEN\n\
         # EVERYTHING IN THE VAULT. Without either a dead mainboard takes the keys with it.\n"
    } else {
        "# Strongroom recovery kit. WHOEVER HOLDS IT CAN OPEN EVERYTHING IN THE VAULT.\n\
         # Without it a dead mainboard takes the keys with it.\n"
    };
    let head =
        format!("{what}# Print it, put it into a safe, and leave no copy on the machine.\n#\n");
    let public = format!("# public key: {recipient}\n");
    // The mark of a comment before it.
    let needed = qr.columns() + 2;
    let drawn = match columns {
        Columns::Paper => qr.to_comment(false),
        Columns::Terminal(Some(there)) if there < needed => Secret::copy_of(
            format!(
                "# The QR code has {needed} columns, and this terminal {there}: use a wider one, \
                 --out or --svg.\n"
            )
            .as_bytes(),
        ),
        Columns::Terminal(_) => qr.to_comment(true),
    };
    Secret::concat(&[
        head.as_bytes(),
        lines.expose(),
        public.as_bytes(),
        STEPS.as_bytes(),
        drawn.expose(),
    ])
}

fn write_drawing(file: &Path, drawing: &Secret) -> Result<(), Error> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut open| {
            open.write_all(drawing.expose())?;
            open.sync_all()
        })
        .map_err(|error| {
            Error::input(
                format!("drawing {}", file.display()),
                format!("{error}; name a new file in a folder that can be written"),
            )
        })
}
