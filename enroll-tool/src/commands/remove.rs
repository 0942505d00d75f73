//! `strongroom remove`: an object out of the vault, for good.

use serde_json::json;
use strongroom::uri::Selector;

use super::Place;
use crate::cli::Remove;
use crate::failure::Failure;
use crate::output::{self, say};

pub(super) fn run(place: &Place, args: &Remove) -> Result<(), Failure> {
    let vault = place.vault()?;
    let object = vault.find(&Selector::id(args.id))?;
    if !args.yes {
        output::confirm(
            &format!(
                "{} {} will be gone for good; a backup keeps it until it is written to a new file. \
                 Type yes to go on:",
                object.kind, object.label
            ),
            "yes",
        )?;
    }
    place.unlock_to_write()?.remove(args.id)?;
    output::show(place.json, &json!({ "removed": args.id }), || {
        say!("removed {} {}", object.kind, object.label);
    });
    Ok(())
}
