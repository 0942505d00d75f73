//! `strongroom suspend`: other boots are let in for a few restarts.

use strongroom::vault::Change;

use super::{Place, boots};
use crate::cli::Suspend;
use crate::failure::Failure;
use crate::output;

pub(super) fn run(place: &Place, args: &Suspend) -> Result<(), Failure> {
    let vault = place.vault()?;
    let tcti = place.tcti()?;
    let change = match args.boots {
        Some(boots) => Change::Suspend {
            boots,
            pcrs: args.pcrs.clone(),
        },
        None => Change::Resume,
    };
    if !args.yes && !args.end {
        // Refused before anybody is asked.
        let list = vault.foresee(&tcti, &change)?.branches;
        for branch in list.suspensions() {
            eprintln!("{}.", boots::who_may_boot(branch));
        }
        output::confirm("Type yes to go on:", "yes")?;
    }
    let rebound = vault.rebind(&tcti, &change)?;
    for branch in rebound.branches.suspensions() {
        log::warn!("{}", boots::who_may_boot(branch));
    }
    boots::report(place, &rebound, false);
    Ok(())
}
