//! `strongroom commit`: after a good boot, no other boot is allowed any more.

use strongroom::event_log;
use strongroom::vault::Change;

use super::{Place, boots};
use crate::cli::Commit;
use crate::failure::Failure;
use crate::output;

pub(super) fn run(place: &Place, args: &Commit) -> Result<(), Failure> {
    let vault = place.vault()?;
    // Without a log it may still be plain which boots are others.
    let log = boots::event_log(place).or_else(|failure| {
        if matches!(place.event_log(), event_log::Place::File(_)) {
            return Err(failure);
        }
        log::warn!("this boot's event log is not used: {failure}");
        Ok(None)
    })?;
    let change = Change::Commit(log);
    let tcti = place.tcti()?;
    let committed = if args.dry_run {
        vault.foresee(&tcti, &change)?
    } else {
        if !args.yes {
            output::confirm(
                "Only the present boot will be allowed to open the vault. Type yes to go on:",
                "yes",
            )?;
        }
        vault.rebind(&tcti, &change)?
    };
    boots::report(place, &committed, args.dry_run);
    Ok(())
}
