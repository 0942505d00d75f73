//! `strongroom remove`: an object out of the vault, for good.

use serde_json::json;
use strongroom::error::Error;
use strongroom::uri::Selector;

use super::Place;
use crate::cli::Remove;
use crate::failure::Failure;
use crate::output::{self, say};

pub(super) fn run(place: &Place, args: &Remove) -> Result<(), Failure> {
    let vault = place.vault()?;
    let what = match vault.find(&Selector::id(args.id)) {
        Ok(object) => format!("{} {}", object.kind, object.label),
        Err(Error::ObjectDamaged { file, .. }) => format!("damaged object {}", file.display()),
        Err(error) => return Err(error.into()),
    };
    if !args.yes {
        output::confirm(
            &format!(
                "{what} will be gone for good; a backup keeps it until it is written to a new file. \
                 Type yes to go on:"
            ),
            "yes",
        )?;
    }
    place.unlock_to_write()?.remove(args.id)?;
    output::show(place.json, &json!({ "removed": args.id }), || {
        say!("removed {what}");
    });
    Ok(())
}
