//! `strongroom audit`: where old copies of secrets still are. Changes nothing; needs no TPM, and a
//! vault only to say what was rotated since.

use std::path::PathBuf;

use strongroom::Error;
use strongroom::doctor::Grade;

use super::Place;
use crate::audit::findings::Finding;
use crate::audit::{self, Audit, Report};
use crate::cli;
use crate::failure::Failure;
use crate::output::{self, say};

/// The width that the report is laid out for.
const WIDTH: u16 = 100;

/// How many places of one kind are shown to people. JSON has all.
const SHOWN: usize = 20;

pub(super) fn run(place: &Place, args: &cli::Audit) -> Result<(), Failure> {
    let roots = audit::roots(&args.root).map_err(Failure::Usage)?;
    let vault = match place
        .vault()
        .and_then(|vault| Ok((vault.id().to_owned(), vault.list()?)))
    {
        Ok((id, listing)) => Some((id, listing.objects)),
        Err(Error::VaultMissing(_)) => None,
        Err(error) => {
            log::warn!("{error}; nothing is said of what was rotated since");
            None
        }
    };
    let mut secrets = args.pwenc_secret.clone();
    let live_secret = match secrets.first() {
        Some(_) => secrets.remove(0),
        None => PathBuf::from("/data/pwenc_secret"),
    };
    let report = Audit {
        roots,
        live_database: args.database.clone(),
        live_secret,
        secrets,
        vault_dir: place.dir.clone(),
        vault,
    }
    .run();
    output::show(place.json, &report, || say_all(&report));
    let serious = report
        .findings
        .iter()
        .filter(|it| it.grade != Grade::Note)
        .count();
    match report.not_looked_at.len() {
        0 if args.check && serious > 0 => Err(Failure::Found(serious)),
        0 => Ok(()),
        places => Err(Failure::NotLookedAt(places)),
    }
}

fn say_all(report: &Report) {
    let mut rest = report.findings.as_slice();
    while let Some(first) = rest.first() {
        let alike = |it: &&Finding| it.kind == first.kind && it.grade == first.grade;
        let count = rest.iter().take_while(alike).count();
        let (group, others) = rest.split_at(count);
        rest = others;
        let rows = group.iter().take(SHOWN).map(|finding| {
            let mut what = finding.what.clone();
            if !finding.opened_by.is_empty() {
                what.push_str("\nopened by ");
                what.push_str(&finding.opened_by.join(", "));
            }
            [
                finding.grade.name().to_owned(),
                format!("{}\n{what}\n-> {}", finding.path.display(), finding.remedy),
            ]
        });
        for line in output::laid_out(WIDTH, ["", ""], rows).iter().skip(1) {
            say!("{}", line.replace(|c: char| c.is_control(), " "));
        }
        if group.len() > SHOWN {
            say!(
                "          and {} more of this kind (--json shows all)",
                group.len() - SHOWN
            );
        }
        say!("");
    }
    for problem in &report.not_looked_at {
        say!(
            "not looked at: {}: {}",
            problem.path.display(),
            problem.reason
        );
    }
    for path in &report.passed_over {
        say!(
            "another file system, passed over: {} (--root names it)",
            path.display()
        );
    }
    say_next(report);
    let serious = |grade| {
        report
            .findings
            .iter()
            .filter(|it| it.grade == grade)
            .count()
    };
    say!(
        "{} files were looked at: {} findings are serious, {} call for caution, {} are notes.",
        report.files,
        serious(Grade::Serious),
        serious(Grade::Caution),
        serious(Grade::Note)
    );
}

fn say_next(report: &Report) {
    let names = |names: &std::collections::BTreeSet<String>| {
        let shown: Vec<_> = names.iter().take(SHOWN).map(String::as_str).collect();
        match names.len() - shown.len() {
            0 => shown.join(", "),
            more => format!("{} and {more} more", shown.join(", ")),
        }
    };
    let rotation = &report.rotation;
    if report.vault.is_none() {
        say!("There is no vault here, so that nothing can be said of what was rotated since.");
    }
    if !rotation.datasets.is_empty() {
        say!(
            "Old copies give the keys of these datasets away, and the vault knows no newer ones: {}. \
             Give them new ones: strongroom rotate DATASET...",
            names(&rotation.datasets)
        );
    }
    if !rotation.rotated.is_empty() {
        say!(
            "Given away too, but the vault has a newer key since: {}.",
            names(&rotation.rotated)
        );
    }
    if !rotation.credentials.is_empty() {
        say!(
            "Old copies give these cloud credentials away: {}. Make them anew if you have not since; \
             `strongroom rotate --list` says where.",
            names(&rotation.credentials)
        );
    }
}
