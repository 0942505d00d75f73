//! The launch of restic: it takes its secrets from the environment, where the middleware has put
//! placeholders. It writes none back, so it takes our place.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::environment;
use crate::failure::Failure;
use crate::launch;
use crate::program;
use crate::vault::Vault;

/// Becomes restic with these arguments. Comes back if that fails.
pub(crate) fn run(
    module: Option<PathBuf>,
    arguments: Vec<OsString>,
) -> Result<ExitCode, Vec<Failure>> {
    let ourselves = launch::ourselves()?;
    let restic = program::real("restic", &ourselves)?;
    let lacking = environment::placeholders()?;
    if lacking.is_empty() {
        return Err(launch::as_if_we_were_not_there("restic", &restic, arguments).into());
    }
    strongroom::process::harden();
    launch::check_arguments(&arguments)?;
    let vault = Vault::open(module, &ourselves)?;
    let contents = vault.read_all(lacking.iter().map(|variable| variable.object));
    vault.close();

    let mut command = launch::command("restic", &restic);
    command.args(arguments);
    let mut failures = Vec::new();
    for variable in &lacking {
        match launch::value_of(variable, &contents) {
            Ok(value) => {
                command.env(&variable.name, OsStr::from_bytes(value.expose()));
            }
            Err(failure) => failures.push(failure),
        }
    }
    if !failures.is_empty() {
        return Err(failures);
    }
    Err(launch::become_it(command, &restic).into())
}
