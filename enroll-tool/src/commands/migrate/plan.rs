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
        let shown: Vec<_> = (survey.values.iter())
            .filter(|value| args.all || !is_nothing(value))
            .collect();
        output::table(
            [
                "VALUE",
                "ROW",
                "NAME",
                "STATE",
                "GOES TO",
                "WHY NOT, OR WHO READS IT",
            ],
            shown.iter().map(|value| {
                [
                    format!("{}.{}", value.cell.table, value.cell.column),
                    value.cell.row.clone(),
                    value.name.clone(),
                    value.state.describe().to_owned(),
                    value.goes.clone().unwrap_or_else(|| "stays".to_owned()),
                    match &value.reason {
                        Some(reason) => reason.clone(),
                        None => format!(
                            "read by {}; leaves {}",
                            value.reader,
                            value.leaves.unwrap_or("it as it is")
                        ),
                    },
                ]
            }),
        );
        let hidden = survey.values.len() - shown.len();
        if hidden > 0 {
            say!("{hidden} values are empty and not shown; --all shows them.");
        }
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
        if let Err(failure) = check_unused(&args.database, false) {
            say!("Before a run: {failure}.");
        }
    });
    Ok(())
}

fn is_nothing(value: &Known) -> bool {
    matches!(value.state, State::Null | State::Empty)
}
