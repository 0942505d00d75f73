//! PINs from an admin: out of a file, or typed where nobody sees them. Never from the command line,
//! which everyone on the machine can read.

use std::path::Path;

use strongroom::Secret;
use strongroom::object::TokenName;
use strongroom::pin::{Pin, Role};

use crate::failure::Failure;
use crate::output;

/// A PIN that is to be right, out of the file that `option` names.
pub(crate) fn known(
    file: Option<&Path>,
    option: &str,
    token: &TokenName,
    role: Role,
) -> Result<Pin, Failure> {
    if let Some(file) = file {
        Ok(Pin::read(file)?)
    } else {
        let question = format!("PIN of the {role} of token {token}");
        Ok(Pin::new(ask(option, &question)?)?)
    }
}

/// A PIN that is to be set, typed twice where it is typed.
pub(crate) fn new(
    file: Option<&Path>,
    option: &str,
    token: &TokenName,
    role: Role,
) -> Result<Pin, Failure> {
    let Some(file) = file else {
        let question = format!("New PIN of the {role} of token {token}");
        let typed = ask(option, &question)?;
        if !ask(option, "The same again")?.same_as(typed.expose()) {
            return Err(Failure::NotConfirmed("the two were not the same"));
        }
        return Ok(Pin::new(typed)?);
    };
    Ok(Pin::read(file)?)
}

fn ask(option: &str, question: &str) -> Result<Secret, Failure> {
    output::ask_hidden("the PIN", option, question)
}
