//! What the launches of all programs have in common.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use strongroom::Secret;

use crate::credential;
use crate::environment::Variable;
use crate::failure::Failure;
use crate::placeholder;
use crate::program;
use crate::rclone::obscure;
use crate::vault::Contents;

/// The file of this program.
pub(crate) fn ourselves() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::input(format!("this program cannot find itself: {error}")))
}

/// A command for a program that is called by its name.
pub(crate) fn command(name: &str, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg0(name).envs(program::marks(program));
    // Ours, and not what the program was to be told.
    if std::env::var_os("TSS2_LOG").is_some_and(|it| it == "all+NONE") {
        command.env_remove("TSS2_LOG");
    }
    command
}

/// Becomes the program. Comes back if that fails.
pub(crate) fn become_it(mut command: Command, program: &Path) -> Failure {
    let error = command.exec();
    Failure::input(format!("{} cannot be launched: {error}", program.display()))
}

/// Becomes the program, which lacks nothing that we have.
pub(crate) fn as_if_we_were_not_there(
    name: &str,
    program: &Path,
    arguments: Vec<OsString>,
) -> Failure {
    let mut command = command(name, program);
    command.args(arguments);
    become_it(command, program)
}

/// Anyone may read a command line: no secret is put there.
pub(crate) fn check_arguments(arguments: &[OsString]) -> Result<(), Failure> {
    if arguments
        .iter()
        .any(|argument| placeholder::is_within(&argument.to_string_lossy()))
    {
        return Err(Failure::usage(
            "there is a placeholder among the arguments, which everybody can read, so that no secret \
             can be put there; use the configuration or the environment",
        ));
    }
    Ok(())
}

/// The value for a variable that is a placeholder.
pub(crate) fn value_of(variable: &Variable, contents: &Contents) -> Result<Secret, Failure> {
    contents
        .of(variable.object)
        .and_then(|content| credential::field_meant_by(content, &variable.name))
        .and_then(|value| {
            if variable.obscured {
                Ok(obscure::obscure(value.expose()))
            } else {
                for_environment(value)
            }
        })
        .map_err(|failure| failure.at(format!("{variable}: object {}", variable.object)))
}

/// A value that an environment can carry.
pub(crate) fn for_environment(value: Secret) -> Result<Secret, Failure> {
    if value.expose().contains(&0) {
        return Err(Failure::input(
            "the field has a zero byte, which no environment can carry",
        ));
    }
    Ok(value)
}

/// Says something on standard error, between what the program says.
pub(crate) fn say(what: impl std::fmt::Display) {
    eprintln!("credential-provider: {what}");
}
