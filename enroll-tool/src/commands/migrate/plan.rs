//! `strongroom migrate plan`: what is there, value by value. Changes nothing, and needs no TPM and no vault.

use strongroom::error::Error;

use super::super::Place;
use super::{check_unused, open};
use crate::cli::{MigratePlan, MigrateRun};
use crate::failure::Failure;
use crate::migration::plan::Wanted;
use crate::migration::survey::{Known, State, Survey};
use crate::output::{self, say};

pub(super) fn run(place: &Place, args: &MigratePlan) -> Result<(), Failure> {
    let in_use = check_unused(&args.database, false).err();
    let (database, secret) = open(&args.database, &args.pwenc_secret)?;
    database.leave_as_it_is()?;
    let vault = match place.vault() {
        Ok(vault) => Some(vault),
        Err(Error::VaultMissing(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let known = match &vault {
        Some(vault) => vault.list()?.objects,
        None => Vec::new(),
    };
    let wanted = Wanted {
        classes: args.only.clone().unwrap_or(MigrateRun::USUAL.to_vec()),
        ui_certificate: args.ui_certificate,
    };
    let survey = Survey::read(&database, &secret, &wanted, &known, vault.as_ref())?;
    output::show(place.json, &survey, || {
        output::table(
            [
                "VALUE",
                "ROW",
                "NAME",
                "STATE",
                "GOES TO",
                "READ BY, OR WHY IT STAYS",
            ],
            lines(&survey, args.all),
        );
        for unknown in &survey.unknown_columns {
            say!(
                "Not known here: {}.{} holds {} encrypted value(s); they stay.",
                unknown.table,
                unknown.column,
                unknown.values
            );
        }
        for unknown in &survey.unknown_classes {
            say!(
                "Not offered: {}: {}",
                unknown.class.as_str(),
                unknown.reason
            );
        }
        let hidden = survey
            .values
            .iter()
            .filter(|value| is_nothing(value))
            .count();
        if hidden > 0 && !args.all {
            say!("{hidden} values are empty and not shown; --all shows them.");
        }
        let goes = survey.values.iter().filter(|value| value.goes.is_some());
        let bad = survey
            .values
            .iter()
            .filter(|value| matches!(value.state, State::Unusable | State::Undecryptable));
        say!(
            "{} of {} values would be moved; {} are not what they must be and stay. Nothing was \
             changed.",
            goes.count(),
            survey.values.len(),
            bad.count()
        );
        if let Some(failure) = &in_use {
            say!("Before a run: {failure}.");
        }
    });
    Ok(())
}

/// A line for each value that moves or could; of columns that stay as a whole, one for each state that
/// their values are in.
fn lines(survey: &Survey, all: bool) -> Vec<[String; 6]> {
    let mut lines = Vec::new();
    let mut values = survey
        .values
        .iter()
        .filter(|value| all || !is_nothing(value))
        .peekable();
    while let Some(value) = values.next() {
        let mut count = 1;
        let is_like = |other: &&Known| {
            value.class.is_none()
                && (other.cell.table, other.cell.column, other.state)
                    == (value.cell.table, value.cell.column, value.state)
        };
        while !all && values.next_if(is_like).is_some() {
            count += 1;
        }
        let (row, name) = match count {
            1 => (value.cell.row.clone(), value.name.clone()),
            count => (format!("{count} rows"), format!("{}, ...", value.name)),
        };
        lines.push([
            format!("{}.{}", value.cell.table, value.cell.column),
            row,
            name,
            value.state.describe().to_owned(),
            value.goes.clone().unwrap_or_else(|| "stays".to_owned()),
            match (&value.reason, value.leaves) {
                (Some(reason), _) => reason.clone(),
                (None, Some(leaves)) => format!("{}; leaves {leaves}", value.reader),
                (None, None) => value.reader.to_owned(),
            },
        ]);
    }
    lines
}

fn is_nothing(value: &Known) -> bool {
    matches!(value.state, State::Null | State::Empty)
}
