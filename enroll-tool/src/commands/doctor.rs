//! `strongroom doctor`: what this machine's boot is worth as something to bind keys to, and what is
//! left open. Needs no vault, and each of TPM, event log and system only for its own part.

use std::path::Path;

use serde_json::{Value, json};
use strongroom::TpmState;
use strongroom::doctor::{
    Diagnosis, Examination, Finding, Grade, Measurements, PcrReport, PcrState, Protection,
    SecureBoot, Storage, System,
};
use strongroom::event_log::{self, EventLog};

use super::Place;
use crate::failure::Failure;
use crate::output::{self, say};
use crate::truenas::database::Database;
use crate::truenas::ways_in::WaysIn;

/// The width that the report is laid out for: a terminal's beside which something else fits.
const WIDTH: u16 = 100;

/// How many names of measured things are shown to people. JSON has all.
const NAMES: usize = 4;

/// How many characters of one are.
const NAME_LENGTH: usize = 48;

pub(super) fn run(place: &Place, database: Option<&Path>) -> Result<(), Failure> {
    let system = System::here();
    let seen = Examination {
        tpm: place
            .tcti()
            .and_then(|tcti| TpmState::read(&tcti))
            .map_err(|error| error.to_string()),
        log: event_log(place)?,
        facts: system.facts(),
    };
    let mut diagnosis = seen.diagnose();
    diagnosis.findings.extend(truenas(database)?);
    // Stable: those of one grade stay in the order of the boot.
    diagnosis.findings.sort_by_key(|finding| finding.grade);
    output::show(place.json, &report(&seen, &diagnosis), || {
        for line in text(&seen, &diagnosis).lines() {
            say!("{line}");
        }
    });
    Ok(())
}

/// Who gets into a TrueNAS system without a key. A database that was named must be one; that of the
/// running system may be none.
fn truenas(named: Option<&Path>) -> Result<Vec<Finding>, Failure> {
    let database = match named {
        Some(named) => named.to_owned(),
        None => match crate::installation::System::below(Path::new("/")) {
            Ok(system) => system.database(),
            Err(_) => return Ok(Vec::new()),
        },
    };
    let read = Database::open(&database).and_then(|database| {
        database.leave_as_it_is()?;
        WaysIn::read(&database)
    });
    let ways_in = match (read, named) {
        (Ok(ways_in), _) => ways_in,
        (Err(error), Some(_)) => return Err(error.into()),
        (Err(error), None) => {
            return Ok(vec![Finding {
                grade: Grade::Note,
                id: "truenas-database-unread",
                what: format!("Who gets into TrueNAS without a key is not known: {error}."),
                remedy: "Run this as root.".to_owned(),
            }]);
        }
    };
    let mut findings = Vec::new();
    if ways_in.console_without_password {
        findings.push(Finding {
            grade: Grade::Serious,
            id: "truenas-console-open",
            what: "TrueNAS's text console asks for no password: whoever plugs in a keyboard and a \
                   screen, or has the BMC, is root in an allowed boot, with all datasets unlocked."
                .to_owned(),
            remedy: "System > Advanced Settings > Console: turn off \"Show Text Console without \
                     Password Prompt\"."
                .to_owned(),
        });
    }
    if ways_in.root_by_ssh_password {
        findings.push(Finding {
            grade: Grade::Caution,
            id: "truenas-root-ssh-password",
            what: "Root may log in by SSH with a password: as long as the SSH service runs, one \
                   password is what stands before the vault on the network."
                .to_owned(),
            remedy:
                "Credentials > Users > root: turn off \"SSH password login enabled\"; use a key."
                    .to_owned(),
        });
    }
    Ok(findings)
}

/// A file that was named must be a log; the kernel's may be missing.
fn event_log(place: &Place) -> Result<Result<EventLog, String>, Failure> {
    let log = place.event_log();
    Ok(match (log.read(), log) {
        (Ok(Some(recording)), _) => Ok(recording.log().clone()),
        (Ok(None), event_log::Place::Nowhere) => Err(format!(
            "the kernel has none of the TPM at {}; name one with --event-log.",
            place.tcti()?
        )),
        (Ok(None), _) => Err("the kernel shows none.".to_owned()),
        (Err(error), event_log::Place::File(_)) => return Err(error.into()),
        (Err(error), _) => Err(format!("{error}.")),
    })
}

fn report(seen: &Examination, diagnosis: &Diagnosis) -> Value {
    let recommendation = &diagnosis.recommendation;
    let reasons = |reasons: &[(u8, &str)]| -> Vec<Value> {
        reasons
            .iter()
            .map(|(pcr, why)| json!({ "pcr": pcr, "why": why }))
            .collect()
    };
    json!({
        "tpm": match &seen.tpm {
            Ok(tpm) => json!({
                "manufacturer": tpm.manufacturer,
                "vendor": tpm.vendor,
                "firmware": tpm.firmware,
                "driver": seen.facts.tpm_driver,
                "sha256-bank": tpm.pcrs.is_some(),
                "lacks": tpm.lacks,
                "owner-auth-set": tpm.owner_auth_set,
                "lockout-auth-set": tpm.lockout_auth_set,
                "in-lockout": tpm.in_lockout,
                "failed-tries": tpm.failed_tries,
                "max-tries": tpm.max_tries,
            }),
            Err(reason) => json!({ "missing": reason }),
        },
        "event-log": match &seen.log {
            Ok(log) => json!({ "events": log.events().len(), "replays": replays(diagnosis) }),
            Err(reason) => json!({ "missing": reason }),
        },
        "secure-boot": secure_boot(diagnosis.secure_boot),
        "command-line": seen.facts.command_line,
        "root": seen.facts.root.as_ref().map(storage),
        "swap": seen.facts.swaps.iter().map(storage).collect::<Vec<_>>(),
        "pcrs": diagnosis.pcrs.iter().map(pcr).collect::<Vec<_>>(),
        "recommended": {
            "pcrs": recommendation.pcrs,
            "because": reasons(&recommendation.because),
            "left-out": reasons(&recommendation.left_out),
        },
        "findings": diagnosis
            .findings
            .iter()
            .map(|finding| json!({
                "grade": finding.grade.name(),
                "id": finding.id,
                "what": finding.what,
                "remedy": finding.remedy,
            }))
            .collect::<Vec<_>>(),
    })
}

fn pcr(report: &PcrReport) -> Value {
    json!({
        "pcr": report.pcr,
        "state": state(report.state),
        "present": report.present.map(hex::encode),
        "replayed": report.replayed.map(hex::encode),
        "measured": report
            .measured
            .iter()
            .map(|some| json!({
                "by": some.by.to_string(),
                "kind": some.kind,
                "count": some.count,
                "names": some.names,
            }))
            .collect::<Vec<_>>(),
        "changes-with": report.changes_with,
    })
}

fn storage(storage: &Storage) -> Value {
    json!({
        "source": storage.source,
        "kind": storage.kind,
        "protection": protection(storage.protection),
    })
}

fn text(seen: &Examination, diagnosis: &Diagnosis) -> String {
    let recommendation = &diagnosis.recommendation;
    let facts = &seen.facts;
    let mut lines = Vec::new();
    lines.push(format!("TPM           {}", tpm_line(seen)));
    lines.push(format!("Event log     {}", log_line(seen, diagnosis)));
    lines.push(format!(
        "Secure Boot   {}",
        secure_boot(diagnosis.secure_boot)
    ));
    if let Some(line) = &facts.command_line {
        lines.push(format!(
            "Command line  {}",
            line.replace(char::is_control, " ")
        ));
    }
    if let Some(root) = &facts.root {
        lines.push(format!("Root          {}", storage_line(root)));
    }
    for swap in &facts.swaps {
        lines.push(format!("Swap          {}", storage_line(swap)));
    }
    lines.push(String::new());
    let taken = |pcr: u8| recommendation.because.iter().any(|(it, _)| *it == pcr);
    let table = output::laid_out(
        WIDTH,
        [
            "PCR",
            "LOG",
            "WHAT IS MEASURED HERE, BY WHOM",
            "CHANGES WITH",
        ],
        diagnosis.pcrs.iter().map(|report| {
            let mark = if taken(report.pcr) { "*" } else { "" };
            [
                format!("{:>2}{mark}", report.pcr),
                state(report.state).to_owned(),
                measured(report),
                report.changes_with.clone(),
            ]
        }),
    );
    lines.extend(table);
    lines.push(String::new());
    match &recommendation.pcrs {
        Some(pcrs) => lines.push(format!("Recommended (*): --pcrs {pcrs}")),
        None => lines.push("Recommended: none, for no PCR tells one boot from another".to_owned()),
    }
    for (pcr, why) in &recommendation.because {
        lines.push(format!("  {pcr:>2}  {why}"));
    }
    for (pcr, why) in &recommendation.left_out {
        lines.push(format!("  {pcr:>2}  left out: {why}"));
    }
    lines.push(String::new());
    lines.extend(output::laid_out(
        WIDTH,
        ["FINDING", "WHAT IT IS, AND WHAT TO DO"],
        diagnosis.findings.iter().map(|finding| {
            [
                finding.grade.name().to_owned(),
                format!("{}\n-> {}", finding.what, finding.remedy),
            ]
        }),
    ));
    lines.join("\n")
}

fn tpm_line(seen: &Examination) -> String {
    match &seen.tpm {
        Ok(tpm) => {
            let driver = match seen.facts.tpm_driver.as_deref() {
                Some(driver) if !driver.is_empty() => format!(", by {driver}"),
                _ => String::new(),
            };
            format!(
                "{} {}, firmware {}{driver}",
                tpm.manufacturer, tpm.vendor, tpm.firmware
            )
        }
        Err(_) => "none that answers: no PCR is compared".to_owned(),
    }
}

fn log_line(seen: &Examination, diagnosis: &Diagnosis) -> String {
    let Ok(log) = &seen.log else {
        return "none that can be read".to_owned();
    };
    let events = log.events().len();
    match replays(diagnosis) {
        Some(true) => format!("{events} events, which lead to the TPM's PCRs"),
        Some(false) => format!("{events} events, which do not lead to all of the TPM's PCRs"),
        None => format!("{events} events"),
    }
}

/// Whether the log leads to all PCRs that it extends; `None` where they cannot be compared.
fn replays(diagnosis: &Diagnosis) -> Option<bool> {
    let states: Vec<_> = diagnosis
        .pcrs
        .iter()
        .map(|report| report.state)
        .filter(|state| matches!(state, PcrState::Replays | PcrState::Differs))
        .collect();
    (!states.is_empty()).then(|| !states.contains(&PcrState::Differs))
}

fn measured(report: &PcrReport) -> String {
    let mut authors: Vec<String> = Vec::new();
    for some in &report.measured {
        // Every PCR of firmware ends with one.
        let only = report.measured.len() == 1;
        if some.kind == "separator" && !only {
            continue;
        }
        let by = some.by.to_string();
        let words = words(some);
        match authors.last_mut() {
            Some(last) if last.starts_with(&format!("{by}: ")) => {
                last.push_str("; ");
                last.push_str(&words);
            }
            _ => authors.push(format!("{by}: {words}")),
        }
    }
    if authors.is_empty() {
        return match report.state {
            PcrState::Unused => "nothing".to_owned(),
            PcrState::NotCompared if report.replayed.is_some() => "nothing".to_owned(),
            _ => "no log says it".to_owned(),
        };
    }
    authors.join("\n")
}

fn words(some: &Measurements) -> String {
    // Of these the number says more than the first few.
    let many = matches!(some.kind, "commands" | "steps");
    if some.names.is_empty() || many {
        return match some.count {
            0 | 1 => some.kind.to_owned(),
            count => format!("{} ({count})", some.kind),
        };
    }
    // One more takes no more room than to say so.
    let shown = match some.names.len() {
        all if all <= NAMES + 1 => all,
        _ => NAMES,
    };
    let mut names: Vec<_> = some.names[..shown].iter().map(|it| shortened(it)).collect();
    if some.names.len() > shown {
        names.push(format!("and {} more", some.names.len() - shown));
    }
    format!("{} ({})", some.kind, names.join(", "))
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_LENGTH {
        return name.to_owned();
    }
    let begin: String = name.chars().take(NAME_LENGTH).collect();
    format!("{begin}...")
}

fn storage_line(storage: &Storage) -> String {
    format!(
        "{} ({}), {}",
        storage.source,
        storage.kind,
        protection(storage.protection)
    )
}

fn state(state: PcrState) -> &'static str {
    match state {
        PcrState::Replays => "replays",
        PcrState::Differs => "differs",
        PcrState::Unlogged => "unlogged",
        PcrState::Unused => "unused",
        PcrState::NotCompared => "not compared",
    }
}

fn secure_boot(state: SecureBoot) -> &'static str {
    match state {
        SecureBoot::On => "on",
        SecureBoot::Off => "off",
        SecureBoot::NoUefi => "no UEFI",
    }
}

fn protection(protection: Protection) -> &'static str {
    match protection {
        Protection::Encrypted => "encrypted",
        Protection::Authenticated => "authenticated",
        Protection::Open => "neither encrypted nor authenticated",
        Protection::Memory => "in memory",
        Protection::Zfs => "as ZFS says",
        Protection::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests;
