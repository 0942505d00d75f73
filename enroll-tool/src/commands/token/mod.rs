//! `strongroom token`: the tokens of the vault, their PINs, and who may use them. One file for each
//! action.

mod add;
mod allow;
mod deny;
mod list;
mod protect;
mod remove;
mod set_pin;

use super::Place;
use crate::cli::TokenAction;
use crate::failure::Failure;

pub(super) fn run(place: &Place, action: &TokenAction) -> Result<(), Failure> {
    match action {
        TokenAction::Add(args) => add::run(place, args),
        TokenAction::SetPin(args) => set_pin::run(place, args),
        TokenAction::Protect { token } => protect::run(place, token, true),
        TokenAction::Unprotect { token } => protect::run(place, token, false),
        TokenAction::Remove { token } => remove::run(place, token),
        TokenAction::Allow(args) => allow::run(place, args),
        TokenAction::Deny { token } => deny::run(place, token),
        TokenAction::List => list::run(place),
    }
}
