//! `strongroom token add`: a token, with PINs if it is to have them.

use serde_json::json;
use strongroom::pin::Role;
use strongroom::vault::NewToken;

use super::super::Place;
use crate::cli::TokenAdd;
use crate::failure::Failure;
use crate::output::{self, say};
use crate::pins;

pub(super) fn run(place: &Place, args: &TokenAdd) -> Result<(), Failure> {
    // Before anything is made: people take their time, and may give up.
    let (officer, user) = if args.with_pins {
        let officer = pins::new(
            args.so_pin_file.as_deref(),
            "--so-pin-file",
            &args.token,
            Role::SecurityOfficer,
        )?;
        let file = args.pin_file.as_deref();
        let user = pins::new(file, "--pin-file", &args.token, Role::User)?;
        (Some(officer), Some(user))
    } else {
        (None, None)
    };
    let mut token = NewToken {
        name: args.token.clone(),
        label: args.label.clone(),
        officer,
        fence: args.fence,
    };
    let mut vault = place.unlock_to_write()?;
    vault.add_token(&token)?;
    if let (Some(officer), Some(user)) = (token.officer.take(), user) {
        vault.set_pin(&token.name, &officer, &user)?;
    }
    let report = json!({ "token": token.name, "pins": args.with_pins });
    output::show(place.json, &report, || say!("made token {}", token.name));
    Ok(())
}
