//! `strongroom rotate`: new keys for datasets, each through `zfs-keyprovider adopt --rotate`, which
//! alone asks ZFS; and which cloud credentials are to be made anew, and where.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use strongroom::dataset_key::KeyFormat;
use strongroom::error::Error;
use strongroom::object::{Kind, Metadata, TokenName};

use super::Place;
use crate::cli::Rotate;
use crate::failure::Failure;
use crate::output::{self, say};
use crate::truenas::providers::{self, Provider};
use crate::truenas::still::StillDatabase;

/// The width that the list is laid out for.
const WIDTH: u16 = 120;

/// Where a cloud credential came from that was migrated.
const ORIGIN: &str = "truenas:system_cloudcredentials/";

pub(super) fn run(place: &Place, args: &Rotate) -> Result<(), Failure> {
    if args.list {
        return list(place, args.database.as_deref());
    }
    let (datasets, left) = datasets(place, args)?;
    let provider = provider()?;
    if !args.yes && !datasets.is_empty() {
        output::confirm(
            &format!(
                "{} datasets will get new keys: {}. Backups of the vault from before will not open \
                 them. Type yes to go on:",
                datasets.len(),
                datasets
                    .iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            "yes",
        )?;
    }
    let bar = output::progress("rotating", datasets.len());
    let mut outcomes: BTreeMap<&str, Outcome> = BTreeMap::new();
    for dataset in &datasets {
        outcomes.insert(dataset, rotate(place, args, &provider, dataset));
        bar.inc(1);
    }
    bar.finish_and_clear();
    for name in &left {
        outcomes.insert(name, Outcome::Left);
    }
    report(place, &outcomes);
    let failed = outcomes
        .values()
        .filter(|it| matches!(it, Outcome::Failed { .. }))
        .count();
    match failed {
        0 => Ok(()),
        failed => Err(Failure::Partial {
            failed,
            total: datasets.len(),
        }),
    }
}

/// What became of a dataset.
enum Outcome {
    Rotated(Value),
    Failed {
        reason: String,
        exit: Option<i32>,
    },
    /// Its key is a passphrase.
    Left,
}

/// Those to rotate, and those to leave.
fn datasets(place: &Place, args: &Rotate) -> Result<(BTreeSet<String>, BTreeSet<String>), Failure> {
    if !args.all {
        return Ok((args.datasets.iter().cloned().collect(), BTreeSet::new()));
    }
    let listing = place.vault()?.list()?;
    let mut newest: BTreeMap<&str, &Metadata> = BTreeMap::new();
    let keys = listing.objects.iter();
    for object in keys.filter(|it| it.kind == Kind::DatasetKey && it.token == TokenName::datasets())
    {
        let known = newest.entry(object.label.as_str()).or_insert(object);
        if object.generation > known.generation {
            *known = object;
        }
    }
    let is_passphrase =
        |object: &Metadata| matches!(KeyFormat::of(object), Ok(KeyFormat::Passphrase));
    let names = |passphrases: bool| {
        let objects = newest
            .iter()
            .filter(|(_, it)| is_passphrase(it) == passphrases);
        objects.map(|(name, _)| (*name).to_owned()).collect()
    };
    Ok((names(false), names(true)))
}

/// The program that asks ZFS, which is installed beside this one.
fn provider() -> Result<PathBuf, Failure> {
    const NAME: &str = "zfs-keyprovider";
    let ourselves =
        std::env::current_exe().map_err(|error| Error::input(NAME, error.to_string()))?;
    let beside = ourselves.with_file_name(NAME);
    if beside.is_file() {
        return Ok(beside);
    }
    let reason = format!(
        "there is no {}; install it beside strongroom, for it alone changes keys of ZFS",
        beside.display()
    );
    Err(Error::input(NAME, reason).into())
}

fn rotate(place: &Place, args: &Rotate, provider: &Path, dataset: &str) -> Outcome {
    let mut command = Command::new(provider);
    command.arg("--dir").arg(&place.dir);
    if let Some(tcti) = &place.tcti {
        command.arg("--tcti").arg(tcti.to_string());
    }
    if let Some(expected) = place.vault_key_sha256 {
        command.arg("--vault-key-sha256").arg(hex::encode(expected));
    }
    command
        .args([
            "adopt",
            "--rotate",
            "--json",
            "--keyformat",
            &args.keyformat,
        ])
        .args(["--", dataset])
        .stdin(Stdio::null());
    let ended = match command.output() {
        Ok(ended) => ended,
        Err(error) => {
            let reason = format!("{}: {error}", provider.display());
            return Outcome::Failed { reason, exit: None };
        }
    };
    let said = String::from_utf8_lossy(&ended.stderr);
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap_or_default();
    if ended.status.success() {
        // Its warnings.
        eprint!("{said}");
        return Outcome::Rotated(report);
    }
    let reason = match report["error"].as_str() {
        Some(reason) => reason.to_owned(),
        None if said.trim().is_empty() => format!("zfs-keyprovider ended with {}", ended.status),
        None => said.trim().to_owned(),
    };
    Outcome::Failed {
        reason,
        exit: ended.status.code(),
    }
}

fn report(place: &Place, outcomes: &BTreeMap<&str, Outcome>) {
    let entries: Vec<_> = outcomes
        .iter()
        .map(|(dataset, outcome)| match outcome {
            Outcome::Rotated(report) => json!({
                "dataset": dataset,
                "outcome": "rotated",
                "object": report["object"],
                "version": report["version"],
                "former-object": report["former-object"],
            }),
            Outcome::Failed { reason, exit } => json!({
                "dataset": dataset,
                "outcome": "failed",
                "reason": reason,
                "exit": exit,
            }),
            Outcome::Left => json!({
                "dataset": dataset,
                "outcome": "left",
                "reason": LEFT,
            }),
        })
        .collect();
    output::show(place.json, &json!({ "datasets": entries }), || {
        for (dataset, outcome) in outcomes {
            match outcome {
                Outcome::Rotated(report) => say!(
                    "{dataset}: has a new key, sealed as {}",
                    report["object"]
                        .as_str()
                        .unwrap_or("an object of the vault")
                ),
                Outcome::Failed { reason, .. } => say!("{dataset}: failed: {reason}"),
                Outcome::Left => say!("{dataset}: left: {LEFT}"),
            }
        }
        if outcomes
            .values()
            .any(|it| matches!(it, Outcome::Rotated(_)))
        {
            say!("{AFTERWARDS}");
        }
    });
}

const LEFT: &str = "its key is a passphrase; name it to give it a random key";

const AFTERWARDS: &str = "\
Make a new backup of the vault now (strongroom backup FILE): older ones lack the new keys.
ZFS has encrypted its master keys anew, not the data. Old blocks of a disk may hold a master key under the
old key until they are written over: where somebody may have both, move the data into a new dataset.";

/// The cloud credentials of the vault.
fn list(place: &Place, database: Option<&Path>) -> Result<(), Failure> {
    let listing = place.vault()?.list()?;
    let providers = database
        .map(read_providers)
        .transpose()?
        .unwrap_or_default();
    let all: Vec<_> = listing
        .objects
        .iter()
        .filter(|it| is_cloud_credential(it))
        .collect();
    let newest = all
        .iter()
        .filter(|it| !all.iter().any(|other| other.supersedes(it)));
    let rows: Vec<_> = newest
        .map(|object| {
            let row = object
                .origin()
                .and_then(|it| it.strip_prefix(ORIGIN)?.parse().ok());
            let by_database = row.and_then(|row: i64| providers.get(&row)).cloned();
            let name = by_database.or_else(|| object.attributes.get("provider").cloned());
            let known = name
                .as_deref()
                .and_then(Provider::of)
                .unwrap_or(&providers::ANY);
            (*object, name, known)
        })
        .collect();
    let entries: Vec<_> = rows
        .iter()
        .map(|(object, name, known)| {
            json!({
                "label": object.label,
                "id": object.id,
                "provider": name,
                "where": known.at,
                "how": known.how,
            })
        })
        .collect();
    output::show(place.json, &json!({ "credentials": entries }), || {
        let table = rows.iter().map(|(object, name, known)| {
            let title = match name {
                Some(name) if known.name == "-" => name.clone(),
                _ => known.title.to_owned(),
            };
            [
                object.label.to_string(),
                title,
                format!("{}\n{}", known.at, known.how),
            ]
        });
        let head = ["CREDENTIAL", "PROVIDER", "WHERE, AND WHAT TO DO THERE"];
        for line in output::laid_out(WIDTH, head, table) {
            say!("{line}");
        }
        if database.is_none() {
            say!("Which provider it is, the database knows: --database FILE.");
        }
        say!(
            "Put each new one into TrueNAS, and run `strongroom migrate` again: it moves into the vault."
        );
    });
    match listing.damaged.len() {
        0 => Ok(()),
        failed => Err(Failure::Partial {
            failed,
            total: failed + listing.objects.len(),
        }),
    }
}

/// One that was migrated, or that somebody sealed as one.
fn is_cloud_credential(object: &Metadata) -> bool {
    object.kind == Kind::Credential
        && object.token == TokenName::credentials()
        && object
            .origin()
            .is_none_or(|origin| origin.starts_with(ORIGIN))
}

fn read_providers(database: &Path) -> Result<HashMap<i64, String>, Failure> {
    let unusable =
        |reason: String| Error::input(format!("TrueNAS database {}", database.display()), reason);
    let bytes = fs::read(database).map_err(|error| unusable(error.to_string()))?;
    let found = StillDatabase::of(&bytes)
        .and_then(|database| database.cloud_credentials())
        .map_err(unusable)?;
    Ok(found.into_iter().map(|it| (it.id, it.provider)).collect())
}
