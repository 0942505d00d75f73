//! `strongroom seal`: a secret from a file or standard input into the vault. Never from the
//! command line, which everyone on the machine can read.

use std::fs::File;

use serde_json::json;
use strongroom::dataset_key::KeyFormat;
use strongroom::error::Error;
use strongroom::object::{KEYFORMAT, Kind, MAX_PAYLOAD, NewObject, PIN};
use strongroom::pin::Role;
use strongroom::process;
use strongroom::{Result, Secret};

use super::Place;
use crate::cli::Seal;
use crate::failure::Failure;
use crate::output::{self, say};
use crate::pins;

pub(super) fn run(place: &Place, args: &Seal) -> Result<(), Failure> {
    let mut object = NewObject::new(args.token.clone(), args.label.clone(), args.kind);
    let mut secret = read(args)?;
    match (args.kind, args.keyformat) {
        (Kind::DatasetKey, Some(format)) => {
            secret = without_newline(secret, format);
            format.check(&secret)?;
            object = object.with_attribute(KEYFORMAT, format.as_str());
        }
        (Kind::DatasetKey, None) => {
            return Err(Failure::Usage(
                "a dataset key needs --keyformat raw, hex or passphrase".to_owned(),
            ));
        }
        (Kind::PrivateKey | Kind::Certificate, _) => {
            return Err(Failure::Usage(format!(
                "objects of kind {} are not sealed from a file",
                args.kind
            )));
        }
        (_, Some(_)) => {
            return Err(Failure::Usage(
                "only a dataset key has a --keyformat".to_owned(),
            ));
        }
        (_, None) => {}
    }
    if secret.is_empty() {
        return Err(Error::input("secret", "there is nothing to seal: it is empty").into());
    }
    // Whoever is asked is asked before the vault is locked; whether it is so, the vault says then.
    let has_pins = (place.vault()?.token(&args.token)).is_ok_and(|token| token.has_pins);
    let pin = (has_pins && !args.without_pin)
        .then(|| {
            let file = args.pin_file.as_deref();
            pins::known(file, "--pin-file", &args.token, Role::User)
        })
        .transpose()?;
    if args.without_pin {
        object = object.with_attribute(PIN, "false");
    }
    let mut unlocked = place.unlock_to_write()?;
    if let Some(pin) = pin {
        unlocked.give_pin(&args.token, &pin)?;
    }
    let id = unlocked.seal(object, &secret)?;
    output::show(place.json, &json!({ "id": id }), || {
        say!("sealed {} in {} as {id}", args.label, args.token);
    });
    Ok(())
}

fn read(args: &Seal) -> Result<Secret> {
    match &args.file {
        Some(file) => File::open(file)
            .and_then(|open| Secret::read_from(open, MAX_PAYLOAD))
            .map_err(|error| Error::input(file.display().to_string(), error.to_string())),
        None => process::take_in(MAX_PAYLOAD)
            .map_err(|error| Error::input("standard input", error.to_string())),
    }
}

/// ZFS lets one newline end a hex key or a passphrase; it is not part of either.
fn without_newline(secret: Secret, format: KeyFormat) -> Secret {
    match secret.expose() {
        [line @ .., b'\n'] if format != KeyFormat::Raw => Secret::copy_of(line),
        _ => secret,
    }
}
