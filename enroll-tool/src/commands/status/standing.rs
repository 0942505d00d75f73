//! How things stand, as all views of `strongroom status` have it: gathered once, changing nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use strongroom::TpmState;
use strongroom::error::Error;
use strongroom::vault::{BootState, Listing, Peer};

use super::super::Place;
use super::super::migrate::open;
use crate::cli::{Class, MigrateRun, Status};
use crate::failure::Failure;
use crate::installation::System;
use crate::migration::journal::Journal;
use crate::migration::plan::Wanted;
use crate::migration::survey::{State, Survey};
use crate::notes::{self, LastBoot, Note, RecoveryTested};

/// All of it.
pub(super) struct Standing {
    pub(super) vault: String,
    pub(super) dir: PathBuf,
    pub(super) listing: Listing,
    /// How many objects each token holds of each kind.
    pub(super) objects: BTreeMap<String, BTreeMap<&'static str, usize>>,
    pub(super) boot: Result<BootState, Error>,
    pub(super) tpm: Option<TpmState>,
    pub(super) migration: Option<Journal>,
    pub(super) seconds: Vec<Peer>,
    pub(super) plaintext: Option<Result<Plaintext, String>>,
    pub(super) last_boot: Option<LastBoot>,
    pub(super) recovery_test: Option<RecoveryTested>,
}

/// What is in a TrueNAS database that could be in the vault.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Plaintext {
    pub(super) database: PathBuf,
    pub(super) classes: Vec<OfClass>,
    /// How many values stay, for TrueNAS takes nothing else in their place.
    pub(super) stays: usize,
}

/// The values of a class.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct OfClass {
    pub(super) class: Class,
    /// Whether its values are to be in the vault.
    pub(super) watched: bool,
    pub(super) in_vault: usize,
    pub(super) in_plaintext: usize,
    /// What people call those in plaintext.
    pub(super) names: Vec<String>,
}

/// How good or bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Grade {
    Good,
    Attention,
    Trouble,
}

/// Something that an admin should do something about.
#[derive(Serialize)]
pub(super) struct Concern {
    pub(super) grade: Grade,
    pub(super) what: String,
}

/// After so many seconds the recovery kit is to be tried again.
const YEAR: u64 = 366 * 86_400;

impl Standing {
    pub(super) fn gather(place: &Place, args: &Status) -> Result<Self, Failure> {
        let vault = place.vault()?;
        let listing = vault.list()?;
        let mut objects: BTreeMap<String, BTreeMap<&'static str, usize>> = vault
            .tokens()
            .into_iter()
            .filter(|token| !listing.unreadable.contains(token))
            .map(|token| (token.to_string(), BTreeMap::new()))
            .collect();
        for object in &listing.objects {
            let kinds = objects.entry(object.token.to_string()).or_default();
            *kinds.entry(object.kind.as_str()).or_default() += 1;
        }
        // It is a note for people: one that cannot be read must not hide how things stand.
        let migration = Journal::read(&vault).unwrap_or_else(|error| {
            log::warn!("{error}");
            None
        });
        let seconds = vault.seconds()?;
        let boot = place.tcti().and_then(|tcti| vault.boot_state(&tcti));
        let tpm = match (&boot, place.tcti()) {
            (Ok(_), Ok(tcti)) => TpmState::read(&tcti).ok(),
            _ => None,
        };
        let plaintext = plaintext(args, &vault, &listing, migration.as_ref());
        Ok(Self {
            vault: vault.id().to_owned(),
            dir: place.dir.clone(),
            listing,
            objects,
            boot,
            tpm,
            migration,
            seconds,
            plaintext,
            last_boot: LastBoot::read(&place.dir),
            recovery_test: RecoveryTested::read(&place.dir),
        })
    }

    /// How many objects a token holds.
    pub(super) fn count(kinds: &BTreeMap<&'static str, usize>) -> usize {
        kinds.values().sum()
    }

    /// What is to be done something about, the worst first.
    pub(super) fn concerns(&self) -> Vec<Concern> {
        let mut concerns = Vec::new();
        let mut add = |grade, what: String| concerns.push(Concern { grade, what });
        match &self.boot {
            Err(error) => add(Grade::Trouble, format!("The vault does not open: {error}")),
            Ok(state) => {
                if let Some(refusal) = &state.refusal {
                    add(Grade::Trouble, sentence(&refusal.to_string()));
                }
                if state.branches.suspensions().next().is_some() {
                    add(
                        Grade::Attention,
                        "The policy is suspended: `strongroom commit`, or `strongroom suspend --end`"
                            .to_owned(),
                    );
                }
            }
        }
        if self.tpm.as_ref().is_some_and(|tpm| tpm.in_lockout) {
            add(
                Grade::Attention,
                "The TPM is in lockout, by other software's doing".to_owned(),
            );
        }
        if !self.listing.damaged.is_empty() {
            add(
                Grade::Trouble,
                format!(
                    "{} files of the vault are damaged: `strongroom recover --recovery FILE --backup \
                     FILE` puts them back",
                    self.listing.damaged.len()
                ),
            );
        }
        // One of a boot before says nothing of this one.
        if let Some(last) = self.last_boot.as_ref().filter(|last| !last.is_good()) {
            let grade = match last.is_present() {
                Some(false) => Grade::Attention,
                _ => Grade::Trouble,
            };
            add(grade, format!("At boot, {}", boot_words(last)));
        }
        if let Some(journal) = self.migration.as_ref().filter(|last| last.is_unfinished()) {
            add(
                Grade::Attention,
                format!(
                    "A migration was cut short while {}: `strongroom migrate --resume`",
                    journal.stage.describe()
                ),
            );
        }
        match &self.plaintext {
            Some(Ok(plaintext)) => {
                for class in plaintext.classes.iter().filter(|class| class.watched) {
                    if class.in_plaintext > 0 {
                        add(
                            Grade::Attention,
                            format!(
                                "{} still in plaintext: {}. `strongroom enrol`, or `strongroom migrate`",
                                class.in_plaintext,
                                listed(class.class.singular(), &class.names)
                            ),
                        );
                    }
                }
            }
            Some(Err(reason)) => add(
                Grade::Attention,
                format!("What is still in plaintext is not known: {reason}"),
            ),
            None => {}
        }
        let test = "`strongroom recovery-test --recovery FILE`";
        match &self.recovery_test {
            // Whoever may not read all of the vault may not read that either.
            None if !self.listing.unreadable.is_empty() => {}
            None => add(
                Grade::Attention,
                format!("The recovery kit was never tried here: {test}"),
            ),
            Some(tested) if tested.failed > 0 => add(
                Grade::Trouble,
                format!(
                    "The recovery kit did not open {} objects when it was last tried: {test}",
                    tested.failed
                ),
            ),
            Some(tested) if notes::now().saturating_sub(tested.at) > YEAR => add(
                Grade::Attention,
                format!(
                    "The recovery kit was last tried {}: {test}",
                    notes::ago(tested.at)
                ),
            ),
            Some(_) => {}
        }
        concerns.sort_by_key(|concern| std::cmp::Reverse(concern.grade));
        concerns
    }

    /// All in all.
    pub(super) fn grade(&self) -> Grade {
        let grades = self.concerns().into_iter().map(|concern| concern.grade);
        grades.max().unwrap_or(Grade::Good)
    }
}

impl Grade {
    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Attention => "attention",
            Self::Trouble => "trouble",
        }
    }
}

/// How a boot went, in a sentence without its end.
pub(super) fn boot_words(last: &LastBoot) -> String {
    match (&last.reason, last.failed.as_slice()) {
        (Some(reason), _) => format!("no dataset key was handed over: {reason}"),
        (None, []) => format!(
            "{} dataset keys were handed over, and all was well",
            last.handed_over
        ),
        (None, failed) => format!(
            "{} dataset keys were handed over, and not those of {}",
            last.handed_over,
            failed.join(", ")
        ),
    }
}

/// What they are, and the first of them by name.
fn listed(singular: &str, names: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => format!("{singular} {shown}"),
        more => format!("{singular} {shown} and {more} more"),
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + letters.as_str()
    })
}

/// What the database that was named still has, or that of TrueNAS, on TrueNAS.
fn plaintext(
    args: &Status,
    vault: &strongroom::Vault,
    listing: &Listing,
    journal: Option<&Journal>,
) -> Option<Result<Plaintext, String>> {
    let given = args.database.clone().zip(args.pwenc_secret.clone());
    let (database, pwenc_secret) = given.or_else(|| {
        let system = System::below(Path::new("/")).ok()?;
        Some((system.database(), system.pwenc_secret()))
    })?;
    let watched = journal.map_or(MigrateRun::USUAL.to_vec(), Journal::watched);
    let wanted = Wanted {
        classes: Class::ALL.to_vec(),
        ui_certificate: journal.is_some_and(|journal| journal.ui_certificate),
    };
    let survey = open(&database, &pwenc_secret).and_then(|(database, secret)| {
        database.leave_as_it_is()?;
        Survey::read(&database, &secret, &wanted, &listing.objects, Some(vault))
    });
    let survey = match survey {
        Ok(survey) => survey,
        Err(error) => return Some(Err(error.to_string())),
    };
    let of_class = |class: Class| {
        let values = || {
            survey
                .values
                .iter()
                .filter(move |value| value.class == Some(class))
        };
        let names: Vec<_> = values()
            .filter(|value| value.goes.is_some())
            .map(|value| value.name.clone())
            .collect();
        OfClass {
            class,
            watched: watched.contains(&class),
            in_vault: values()
                .filter(|value| value.state == State::InVault)
                .count(),
            in_plaintext: names.len(),
            names,
        }
    };
    let stays = survey
        .values
        .iter()
        .filter(|value| value.goes.is_none() && value.state == State::Good);
    Some(Ok(Plaintext {
        database,
        classes: Class::ALL.into_iter().map(of_class).collect(),
        stays: stays.count(),
    }))
}
