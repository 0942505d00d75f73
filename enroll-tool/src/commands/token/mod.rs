//! `strongroom token`: the tokens of the vault, and who may use them. Needs no TPM. One file for
//! each action.

mod allow;
mod deny;
mod list;

use super::Place;
use crate::cli::TokenAction;
use crate::failure::Failure;

pub(super) fn run(place: &Place, action: &TokenAction) -> Result<(), Failure> {
    match action {
        TokenAction::Allow(args) => allow::run(place, args),
        TokenAction::Deny { token } => deny::run(place, token),
        TokenAction::List => list::run(place),
    }
}
