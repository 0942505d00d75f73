//! `strongroom pair remove`: nothing more for a second machine.

use serde_json::json;

use super::Place;
use crate::cli::PairRemove;
use crate::failure::Failure;
use crate::output::{self, say};

pub(super) fn run(place: &Place, args: &PairRemove) -> Result<(), Failure> {
    if !args.yes {
        output::confirm(
            "What is sealed from now on, the second machine will not open. Type yes to go on:",
            "yes",
        )?;
    }
    let mut vault = place.unlock_to_write()?;
    let bar = output::progress("taking back", 0);
    let removed = vault.remove_second(args.id, |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let removed = removed?;
    let mut report = super::aligned(&removed);
    report["removed"] = json!(args.id.to_string());
    output::show(place.json, &report, || {
        say!("The second machine {} gets nothing any more.", args.id);
        say!(
            "What its copy of the vault holds it still opens: change the keys themselves where it is not \
             yours any more."
        );
        super::say_open_points(&removed);
    });
    super::outcome(&removed)
}
