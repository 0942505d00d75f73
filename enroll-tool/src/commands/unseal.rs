//! `strongroom unseal`: a secret out of the vault, into a pipe or a new file of mode 0600.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;

use strongroom::error::Error;
use strongroom::object::Meant;
use strongroom::pin::Role;
use strongroom::process;
use strongroom::uri::Selector;

use super::Place;
use crate::cli::Unseal;
use crate::failure::Failure;
use crate::kits;
use crate::pins;

pub(super) fn run(place: &Place, args: &Unseal) -> Result<(), Failure> {
    if args.out.is_none() && io::stdout().is_terminal() && !args.force {
        return Err(Failure::Usage(
            "standard output is a terminal; use a pipe, --out FILE, or --force".to_owned(),
        ));
    }
    let selector = args.uri.clone().unwrap_or_else(|| Selector {
        token: args.token.clone(),
        label: args.label.clone(),
        class: None,
        id: args.id,
    });
    if selector == Selector::default() {
        return Err(Failure::Usage(
            "name the object: --token T --label L, --id ID, or a PKCS#11 URI".to_owned(),
        ));
    }
    let vault = place.vault()?;
    let object = vault.find(&selector)?;
    // Who named the id alone said nothing of where it is and what it is called.
    let by_id_alone = selector == Selector::id(object.id);
    let meant = if by_id_alone {
        Meant::Id(object.id)
    } else {
        Meant::Listed(&object)
    };
    let secret = if let Some(kit) = &args.recovery {
        vault
            .open_by_recovery(kits::read(kit, &args.passphrase, Some(vault.id()))?)?
            .unseal(meant)?
    } else {
        let pin = object
            .needs_pin()
            .then(|| {
                let file = args.pin_file.as_deref();
                pins::known(file, "--pin-file", &object.token, Role::User)
            })
            .transpose()?;
        let mut unlocked = vault.unlock(&place.tcti()?)?;
        if let Some(pin) = pin {
            unlocked.give_pin(&object.token, &pin)?;
        }
        unlocked.unseal(meant)?
    };
    let (what, written) = match &args.out {
        Some(file) => (
            file.display().to_string(),
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(file)
                .and_then(|mut open| open.write_all(secret.expose())),
        ),
        None => ("standard output".to_owned(), process::hand_out(&secret)),
    };
    written.map_err(|error| Error::input(what, error.to_string()).into())
}
