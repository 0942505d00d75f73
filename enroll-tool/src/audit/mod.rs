//! Where old copies of secrets still are, and what to do about each. Changes nothing: no byte, no
//! time stamp, no new file.
//!
//! It goes twice over what it is given. [`search`] walks the [`places`] and sorts out what is worth a
//! look: secrets of databases ([`keys`]), databases, archives with a configuration ([`archives`]), and
//! small files that [`content`] knows. Then every database is tried with every secret that was found
//! ([`databases`]), its bytes that belong to no row too ([`leftovers`]). [`findings`] says what it means.
//! Whatever cannot be looked at is named, and stops nothing.

mod archives;
mod content;
mod databases;
pub(crate) mod findings;
mod keys;
mod leftovers;
mod opening;
mod places;
mod search;
mod sorting;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use strongroom::object::{Kind, Metadata};

use self::findings::Finding;
use self::opening::Place;
use self::search::Search;

pub(crate) use self::places::roots;

/// What to look at.
pub(crate) struct Audit {
    /// Folders, or files.
    pub(crate) roots: Vec<PathBuf>,
    /// The database that TrueNAS runs on.
    pub(crate) live_database: PathBuf,
    /// The secret that it runs on.
    pub(crate) live_secret: PathBuf,
    /// More files with secrets.
    pub(crate) secrets: Vec<PathBuf>,
    /// The vault's folder, which holds what belongs there.
    pub(crate) vault_dir: PathBuf,
    /// The vault's id and objects, where there is a vault.
    pub(crate) vault: Option<(String, Vec<Metadata>)>,
}

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Report {
    pub(crate) roots: Vec<PathBuf>,
    /// Whether there is a vault; without one nothing is said of rotation.
    pub(crate) vault: Option<String>,
    /// How many files were opened.
    pub(crate) files: usize,
    /// Most urgent first.
    pub(crate) findings: Vec<Finding>,
    pub(crate) rotation: Rotation,
    pub(crate) not_looked_at: Vec<Problem>,
    /// Other file systems, which were not gone into.
    pub(crate) passed_over: Vec<PathBuf>,
}

/// What stays readable in old copies until it is made anew.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Rotation {
    /// Datasets whose key an old copy gives away, and of which the vault knows no newer key.
    pub(crate) datasets: BTreeSet<String>,
    /// Those of which it knows a newer one. That ZFS has that one, only ZFS can say.
    pub(crate) rotated: BTreeSet<String>,
    /// Cloud credentials that an old copy gives away.
    pub(crate) credentials: BTreeSet<String>,
}

/// What could not be looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    pub(crate) path: PathBuf,
    pub(crate) reason: String,
}

impl Audit {
    /// Looks.
    pub(crate) fn run(self) -> Report {
        let mut search = Search::new(&self.vault_dir);
        for secret in self.secrets.iter().chain([&self.live_secret]) {
            search.take_named_secret(secret);
        }
        for root in places::with_snapshots(&self.roots) {
            search.walk(&root);
        }
        for file in [&self.live_database, &self.live_secret] {
            search.look_at(file);
        }
        let Search {
            mut keys,
            databases,
            archives,
            known,
            mut problems,
            passed_over,
            files,
            ..
        } = search;

        keys.take_copies();
        let mut findings = Vec::new();
        let mut exposed = Exposed::default();
        let mut examined = databases::Examined::default();
        for place in &databases {
            match examined.file(place, &mut keys) {
                Ok(Some(found)) => {
                    let is_live = same(&place.path, &self.live_database);
                    exposed.take(&found, is_live);
                    findings.extend(findings::of_database(place, &found, &keys, is_live));
                }
                Ok(None) => {}
                Err(reason) => problems.push(Problem::of(place, reason)),
            }
        }
        for place in &archives {
            match archives::examine(place, &mut examined, &mut keys) {
                Ok(archive) => {
                    if archive.is_cut_off {
                        problems.push(Problem::of(place, CUT_OFF.to_owned()));
                    }
                    for found in &archive.databases {
                        exposed.take(found, false);
                    }
                    findings.extend(findings::of_archive(place, &archive, &keys));
                }
                Err(reason) => problems.push(Problem::of(place, reason)),
            }
        }
        findings.extend(findings::of_secrets(&keys, &self.live_secret));
        let vault_id = self.vault.as_ref().map(|(id, _)| id.clone());
        for (place, content) in &known {
            findings.push(findings::of_content(place, content, vault_id.as_deref()));
        }
        findings.extend(findings::of_boot_environments());
        findings.sort_by(Finding::by_urgency);
        Report {
            roots: self.roots,
            rotation: exposed.rotation(self.vault.as_ref().map(|(_, objects)| objects.as_slice())),
            vault: vault_id,
            files,
            findings,
            not_looked_at: problems,
            passed_over,
        }
    }
}

const CUT_OFF: &str = "it is cut off; what is left of it was looked at";

impl Problem {
    fn of(place: &Place, reason: String) -> Self {
        Self {
            path: place.path.clone(),
            reason,
        }
    }
}

/// What copies give away, by name.
#[derive(Default)]
struct Exposed {
    datasets: BTreeSet<String>,
    credentials: BTreeSet<String>,
}

impl Exposed {
    /// The database that TrueNAS runs on is no copy: what is in it is yet to be moved.
    fn take(&mut self, found: &databases::Database, is_live: bool) {
        if !is_live {
            self.datasets.extend(found.datasets.iter().cloned());
            self.credentials.extend(found.credentials.iter().cloned());
        }
    }

    fn rotation(self, objects: Option<&[Metadata]>) -> Rotation {
        let mut newest: BTreeMap<&str, &Metadata> = BTreeMap::new();
        let keys = objects.unwrap_or_default().iter();
        for object in keys.filter(|object| object.kind == Kind::DatasetKey) {
            let known = newest.entry(object.label.as_str()).or_insert(object);
            if object.generation > known.generation {
                *known = object;
            }
        }
        // What a migration sealed has its origin; what an adoption sealed has none.
        let (rotated, datasets) = self.datasets.into_iter().partition(|name| {
            newest
                .get(name.as_str())
                .is_some_and(|object| object.origin().is_none() && object.generation > 1)
        });
        Rotation {
            datasets,
            rotated,
            credentials: self.credentials,
        }
    }
}

/// Whether two paths are one file.
fn same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    one == other || real(one) == real(other)
}
