//! `strongroom export`: all dataset keys in clear, as TrueNAS's own export has them, for who wants
//! out. Into a pipe or a new file of mode 0600, never to a terminal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;

use strongroom::dataset_key::KeyFormat;
use strongroom::error::Error;
use strongroom::object::{Kind, Meant, Metadata};
use strongroom::pin::Role;
use strongroom::{Secret, process};

use super::Place;
use crate::cli::Export;
use crate::failure::Failure;
use crate::{kits, pins};

pub(super) fn run(place: &Place, args: &Export) -> Result<(), Failure> {
    if args.out.is_none() && io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "standard output is a terminal, and keys are not shown there; use a pipe, or --out FILE"
                .to_owned(),
        ));
    }
    let vault = place.vault()?;
    let listing = vault.list()?;
    let (keys, left) = wanted(&listing.objects, args.passphrases);
    for object in left {
        log::warn!(
            "{}: left out: its key is a passphrase, which --passphrases gives too",
            object.label
        );
    }
    let exported = if let Some(kit) = &args.recovery {
        let kit = kits::read(kit, &args.passphrase, Some(vault.id()))?;
        let by_recovery = vault.open_by_recovery(kit)?;
        export(&keys, |object| by_recovery.unseal(Meant::Listed(object)))?
    } else {
        let behind_pins: BTreeSet<_> = keys
            .iter()
            .filter(|it| it.needs_pin())
            .map(|it| &it.token)
            .collect();
        let file = args.pin_file.as_deref();
        let pins = behind_pins
            .into_iter()
            .map(|token| Ok((token, pins::known(file, "--pin-file", token, Role::User)?)))
            .collect::<Result<Vec<_>, Failure>>()?;
        let mut unlocked = vault.unlock(&place.tcti()?)?;
        for (token, pin) in pins {
            unlocked.give_pin(token, &pin)?;
        }
        export(&keys, |object| unlocked.unseal(Meant::Listed(object)))?
    };
    let (what, written) = match &args.out {
        Some(file) => (
            file.display().to_string(),
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(file)
                .and_then(|mut open| {
                    open.write_all(exported.text.expose())?;
                    open.sync_all()
                }),
        ),
        None => (
            "standard output".to_owned(),
            process::hand_out(&exported.text),
        ),
    };
    written.map_err(|error| Failure::from(Error::input(what, error.to_string())))?;
    for bad in &listing.damaged {
        log::error!("left out: {}: {}", bad.file.display(), bad.reason);
    }
    match exported.failed + listing.damaged.len() {
        0 => Ok(()),
        failed => Err(Failure::Partial {
            failed,
            total: keys.len() + listing.damaged.len(),
        }),
    }
}

/// The newest key of each dataset, and those that are passphrases and not wanted.
fn wanted(objects: &[Metadata], passphrases: bool) -> (Vec<&Metadata>, Vec<&Metadata>) {
    let mut newest: BTreeMap<&str, &Metadata> = BTreeMap::new();
    for object in objects.iter().filter(|it| it.kind == Kind::DatasetKey) {
        let known = newest.entry(object.label.as_str()).or_insert(object);
        if object.generation > known.generation {
            *known = object;
        }
    }
    newest.into_values().partition(|object| {
        passphrases || !matches!(KeyFormat::of(object), Ok(KeyFormat::Passphrase))
    })
}

/// What is written.
struct Exported {
    text: Secret,
    failed: usize,
}

/// One bad object stops no other; what concerns the whole vault or its TPM stops all.
fn export(
    keys: &[&Metadata],
    mut unseal: impl FnMut(&Metadata) -> strongroom::Result<Secret>,
) -> Result<Exported, Failure> {
    let mut entries = Vec::new();
    let mut failed = 0;
    for object in keys {
        match unseal(object).and_then(|key| as_text(object, &key)) {
            Ok(key) => {
                let name = json_text(object.label.as_str());
                entries.push(Secret::concat(&[name.expose(), b": ", key.expose()]));
            }
            Err(error @ (Error::ObjectDamaged { .. } | Error::Input { .. })) => {
                log::error!("{} is left out: {error}", object.label);
                failed += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut pieces: Vec<&[u8]> = vec![b"{"];
    for (place, entry) in entries.iter().enumerate() {
        if place > 0 {
            pieces.push(b", ");
        }
        pieces.push(entry.expose());
    }
    pieces.push(b"}\n");
    Ok(Exported {
        text: Secret::concat(&pieces),
        failed,
    })
}

/// A key as JSON.
fn as_text(object: &Metadata, key: &Secret) -> strongroom::Result<Secret> {
    match KeyFormat::of(object)? {
        KeyFormat::Passphrase => std::str::from_utf8(key.expose())
            .map(json_text)
            .map_err(|_| {
                Error::input(
                    format!("object {}", object.label),
                    "its passphrase is not UTF-8, and JSON holds nothing else",
                )
            }),
        format => {
            let digits = format.convert(key, KeyFormat::Hex)?;
            Ok(Secret::concat(&[b"\"", digits.expose(), b"\""]))
        }
    }
}

fn json_text(text: &str) -> Secret {
    Secret::take(serde_json::to_vec(text).expect("text is always JSON"))
}
