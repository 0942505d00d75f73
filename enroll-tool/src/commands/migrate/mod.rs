//! `strongroom migrate`: secrets out of a TrueNAS database; `plan` says which, `rollback` gives them back.

mod plan;
pub(super) mod rollback;
pub(super) mod run;

use std::path::Path;

use strongroom::Result;
use strongroom::error::Error;

use super::Place;
use crate::cli::{Migrate, MigrateAction};
use crate::failure::Failure;
use crate::truenas::database::Database;
use crate::truenas::holders;
use crate::truenas::pwenc::PwencSecret;

pub(super) fn run(place: &Place, args: &Migrate) -> Result<(), Failure> {
    match &args.action {
        Some(MigrateAction::Plan(args)) => plan::run(place, args),
        Some(MigrateAction::Rollback(args)) => rollback::run(place, args),
        None => run::run(place, &args.run),
    }
}

/// A database and the secret that is its own.
pub(super) fn open(database: &Path, pwenc_secret: &Path) -> Result<(Database, PwencSecret)> {
    let secret = PwencSecret::read(pwenc_secret)?;
    let database = Database::open(database)?;
    database.check_secret(&secret)?;
    Ok((database, secret))
}

/// Refuses a database that another process has open: what that has in memory it writes back, and the
/// middleware's rows with it.
pub(super) fn check_unused(database: &Path, while_in_use: bool) -> Result<(), Failure> {
    let holders = holders::of(database);
    if holders.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = holders
        .iter()
        .map(|holder| format!("{} ({})", holder.name, holder.pid))
        .collect();
    let reason = format!(
        "{} has it open, and may write back what it has in memory. Stop the middleware for as long \
         as this takes (`systemctl stop middlewared`, and start it afterwards)",
        names.join(", ")
    );
    if while_in_use {
        log::warn!("database {}: {reason}", database.display());
        return Ok(());
    }
    Err(Error::input(
        format!("database {}", database.display()),
        format!("{reason}; or insist with --while-in-use. Nothing was changed"),
    )
    .into())
}
