//! `strongroom prepare`: the next boot, allowed before it happens.

use std::fs;
use std::path::{Path, PathBuf};

use strongroom::doctor::System;
use strongroom::error::Error;
use strongroom::prediction::{Database, DatabaseUpdate, Forecast, Image, NextBoot};
use strongroom::vault::{Change, Rebound};

use super::{Place, boots};
use crate::cli::Prepare;
use crate::failure::Failure;
use crate::output;

pub(super) fn run(place: &Place, args: &Prepare) -> Result<(), Failure> {
    let prepared = allow(place, args)?;
    boots::report(place, &prepared, args.dry_run);
    Ok(())
}

/// Allows it, and says what is allowed then.
pub(super) fn allow(place: &Place, args: &Prepare) -> Result<Rebound, Failure> {
    let vault = place.vault()?;
    let log = boots::event_log(place)?.ok_or_else(|| {
        Error::input(
            "this boot's event log",
            "there is none to predict the next boot from; name one with --event-log, or allow the \
             next boot after it has come with `strongroom rebind --recovery FILE --yes`",
        )
    })?;
    let change = Change::Prepare(Box::new(Forecast {
        log,
        command_line: System::here().facts().command_line,
        next: next_boot(args)?,
    }));
    let tcti = place.tcti()?;
    if args.dry_run {
        Ok(vault.foresee(&tcti, &change)?)
    } else {
        if !args.yes {
            output::confirm(
                "The next boot will be allowed to open the vault, besides the present one. Type \
                 yes to go on:",
                "yes",
            )?;
        }
        Ok(vault.rebind(&tcti, &change)?)
    }
}

fn next_boot(args: &Prepare) -> Result<NextBoot, Failure> {
    let root = args.root.as_deref();
    let image = match (&args.uki, &args.kernel) {
        (Some(file), _) => Image::Unified {
            name: name(root, file),
            content: read(root, file)?,
        },
        (None, Some(kernel)) => {
            let initrds = args.initrd.iter().map(|file| read(root, file));
            let initrds = initrds.collect::<Result<Vec<_>, _>>()?;
            Image::Linux {
                name: name(root, kernel),
                kernel: read(root, kernel)?,
                initrds: (!initrds.is_empty()).then_some(initrds),
                command_line: args
                    .cmdline
                    .as_deref()
                    .map(|line| command_line(root, line))
                    .transpose()?,
            }
        }
        (None, None) => Image::Present,
    };
    let mut updates = Vec::new();
    for (database, files) in [
        (Database::Allowed, &args.db),
        (Database::Forbidden, &args.dbx),
    ] {
        for file in files {
            let content = read(root, file)?;
            updates.push(DatabaseUpdate::parse(
                database,
                &name(root, file),
                &content,
            )?);
        }
    }
    Ok(NextBoot {
        image,
        updates,
        phases: args.phases.clone(),
    })
}

/// A text, or `@FILE`.
fn command_line(root: Option<&Path>, text: &str) -> Result<String, Failure> {
    let Some(file) = text.strip_prefix('@') else {
        return Ok(text.to_owned());
    };
    let bytes = read(root, Path::new(file))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::input(format!("command line {file}"), "it is no text"))?;
    Ok(text.trim().to_owned())
}

fn name(root: Option<&Path>, file: &Path) -> String {
    place(root, file).display().to_string()
}

fn read(root: Option<&Path>, file: &Path) -> Result<Vec<u8>, Error> {
    let place = place(root, file);
    fs::read(&place).map_err(|error| Error::input(place.display().to_string(), error.to_string()))
}

fn place(root: Option<&Path>, file: &Path) -> PathBuf {
    match root {
        Some(root) => root.join(file.strip_prefix("/").unwrap_or(file)),
        None => file.to_owned(),
    }
}
