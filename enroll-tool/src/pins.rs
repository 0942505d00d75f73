//! PINs from an admin: out of a file, or typed where nobody sees them. Never from the command line,
//! which everyone on the machine can read.

use std::fs::File;
use std::io;
use std::path::Path;

use strongroom::Secret;
use strongroom::error::Error;
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
        from_file(file)
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
    from_file(file)
}

/// One newline may end it.
fn from_file(file: &Path) -> Result<Pin, Failure> {
    let refuse = |error: io::Error| Error::input(file.display().to_string(), error.to_string());
    let read = File::open(file)
        .and_then(|open| Secret::read_from(open, Pin::MAX + 1))
        .map_err(refuse)?;
    let pin = match read.expose() {
        [line @ .., b'\n'] => Secret::copy_of(line),
        _ => read,
    };
    Ok(Pin::new(pin)?)
}

fn ask(option: &str, question: &str) -> Result<Secret, Failure> {
    output::ask_hidden("the PIN", option, question)
}
