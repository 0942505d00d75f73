//! `strongroom token set-pin`: a PIN by the old one, by the security officer's, or by the recovery
//! kit.

use serde_json::json;
use strongroom::pin::Role;

use super::super::Place;
use crate::cli::TokenSetPin;
use crate::failure::Failure;
use crate::kits;
use crate::output::{self, say};
use crate::pins;

pub(super) fn run(place: &Place, args: &TokenSetPin) -> Result<(), Failure> {
    let role = if args.so {
        Role::SecurityOfficer
    } else {
        Role::User
    };
    let token = &args.token;
    let new = || pins::new(args.pin_file.as_deref(), "--pin-file", token, role);
    let old = |role| pins::known(args.old_pin_file.as_deref(), "--old-pin-file", token, role);
    let vault = place.vault()?;
    let tcti = place.tcti()?;
    if let Some(kit) = &args.recovery {
        let kit = kits::read(kit, &args.passphrase, Some(vault.id()))?;
        vault.set_pin_by_recovery(&tcti, &kit, &args.token, role, &new()?)?;
    } else if args.by_so {
        let (officer, new) = (old(Role::SecurityOfficer)?, new()?);
        vault.unlock(&tcti)?.set_pin(&args.token, &officer, &new)?;
    } else {
        let (old, new) = (old(role)?, new()?);
        vault
            .unlock(&tcti)?
            .change_pin(&args.token, role, &old, &new)?;
    }
    let report = json!({ "token": args.token, "role": role.to_string() });
    output::show(place.json, &report, || {
        say!("The PIN of the {role} of token {} is set.", args.token);
    });
    Ok(())
}
