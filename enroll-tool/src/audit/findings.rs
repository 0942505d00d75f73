//! What was found, in words: how bad it is, what lies there, what opens it, and what to do.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use strongroom::doctor::Grade;

use super::archives::Configuration;
use super::content::Content;
use super::databases::{Database, Opened};
use super::keys::Keys;
use super::opening::Place;
use super::places;
use crate::cli::Class;
use crate::truenas::columns::COLUMNS;

/// One thing that was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Finding {
    /// What it is; stays the same from version to version.
    pub(crate) kind: Kind,
    #[serde(serialize_with = "grade_name")]
    pub(crate) grade: Grade,
    pub(crate) path: PathBuf,
    /// The ZFS snapshot that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot: Option<String>,
    /// What exactly lies there.
    pub(crate) what: String,
    /// The secrets on this disk that open it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) opened_by: Vec<String>,
    /// How many secrets they open, by column.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) counts: BTreeMap<String, usize>,
    pub(crate) remedy: String,
}

/// The kinds of findings, those that matter most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A recovery kit that lies on the box.
    RecoveryKit,
    /// An export of dataset keys.
    DatasetKeysExport,
    /// A configuration that was downloaded.
    ConfigurationArchive,
    /// A copy of the database.
    DatabaseCopy,
    /// Ciphertext in free pages, a log or a journal.
    OldCiphertext,
    /// Secrets in the database that TrueNAS runs on, which could be in the vault.
    NotMigrated,
    /// A secret of databases that TrueNAS does not run on.
    OldPwencSecret,
    /// Credentials of other programs.
    ClearCredentials,
    /// What looks like a dataset key in hexadecimal.
    HexKey,
    /// The database that TrueNAS runs on, and no secret of it.
    NoSecret,
    /// A private key without a passphrase.
    PrivateKey,
    /// Secrets that TrueNAS must have in its database.
    StaysInDatabase,
    /// The secret that TrueNAS runs on.
    PwencSecret,
    /// A backup of a vault.
    VaultBackup,
    /// Boot environments that are not mounted.
    BootEnvironments,
}

impl Finding {
    /// Most urgent first.
    pub(crate) fn by_urgency(&self, other: &Self) -> Ordering {
        let key = |it: &Self| (it.grade, it.kind, it.path.clone());
        key(self).cmp(&key(other))
    }

    fn new(kind: Kind, grade: Grade, place: &Place, what: String, remedy: String) -> Self {
        Self {
            kind,
            grade,
            path: place.path.clone(),
            snapshot: place.snapshot.clone(),
            what,
            opened_by: Vec::new(),
            counts: BTreeMap::new(),
            remedy,
        }
    }

    fn opened_by(mut self, openers: impl IntoIterator<Item = usize>, keys: &Keys) -> Self {
        let mut names: Vec<_> = openers
            .into_iter()
            .map(|key| keys.all()[key].places[0].to_string())
            .collect();
        names.sort();
        names.dedup();
        self.opened_by = names;
        self
    }

    fn counting<'a>(mut self, opened: impl IntoIterator<Item = &'a Opened>) -> Self {
        for it in opened {
            *self.counts.entry(it.column.clone()).or_insert(0) += it.count;
        }
        self
    }
}

/// Of a database, or of what SQLite keeps beside one.
pub(crate) fn of_database(
    place: &Place,
    found: &Database,
    keys: &Keys,
    is_live: bool,
) -> Vec<Finding> {
    let mut findings = if is_live {
        of_live_database(place, found, keys)
    } else {
        of_copy(place, found, keys).into_iter().collect()
    };
    if !found.leftovers.is_empty() {
        findings.push(of_leftovers(place, found, keys, is_live));
    }
    findings
}

fn of_live_database(place: &Place, found: &Database, keys: &Keys) -> Vec<Finding> {
    let (to_move, to_stay): (Vec<_>, Vec<_>) = found
        .opened
        .iter()
        .partition(|opened| opened.class.is_some());
    let mut findings = Vec::new();
    if !to_move.is_empty() {
        let grade = if to_move.iter().any(|opened| is_first(opened)) {
            Grade::Serious
        } else {
            Grade::Caution
        };
        let what = format!(
            "TrueNAS's own database holds what could be in the vault: {}",
            listed(&to_move)
        );
        let remedy = "move them with `strongroom migrate`; `--only` names the classes, and \
                      `--dry-run` says first what would happen";
        findings.push(
            Finding::new(Kind::NotMigrated, grade, place, what, remedy.to_owned())
                .opened_by(to_move.iter().map(|opened| opened.key), keys)
                .counting(to_move),
        );
    }
    if !to_stay.is_empty() {
        let what = format!(
            "TrueNAS's own database holds what it must have there: {}",
            listed(&to_stay)
        );
        let remedy = "nothing moves these yet: encrypt what the database is on, or see to it that a \
                      thief of the boot disk has no use for them";
        findings.push(
            Finding::new(
                Kind::StaysInDatabase,
                Grade::Note,
                place,
                what,
                remedy.to_owned(),
            )
            .opened_by(to_stay.iter().map(|opened| opened.key), keys)
            .counting(to_stay),
        );
    }
    if found.own.is_none() && found.closed > 0 {
        let what = format!(
            "TrueNAS's own database has {} values that no secret found here opens",
            found.closed
        );
        let remedy = "name its secret with --pwenc-secret, or nothing can be said of it".to_owned();
        findings.push(Finding::new(
            Kind::NoSecret,
            Grade::Caution,
            place,
            what,
            remedy,
        ));
    }
    findings
}

fn of_copy(place: &Place, found: &Database, keys: &Keys) -> Option<Finding> {
    let remedy = format!("{}. {AND_THEN}", delete(place));
    if found.opened.is_empty() {
        if found.own.is_some() || found.closed == 0 {
            return None;
        }
        let what = format!(
            "a copy of the database, with {} encrypted values that no secret found here opens; \
             whoever has its secret from elsewhere, such as a configuration that was downloaded with \
             it, opens them",
            found.closed
        );
        return Some(Finding::new(
            Kind::DatabaseCopy,
            Grade::Caution,
            place,
            what,
            remedy,
        ));
    }
    let all: Vec<_> = found.opened.iter().collect();
    let what = format!(
        "a copy of the database, of which a secret on this disk opens {}",
        listed(&all)
    );
    Some(
        Finding::new(
            Kind::DatabaseCopy,
            grade_of(&found.opened),
            place,
            what,
            remedy,
        )
        .opened_by(found.openers(), keys)
        .counting(&found.opened),
    )
}

fn of_leftovers(place: &Place, found: &Database, keys: &Keys, is_live: bool) -> Finding {
    let mut sorts = BTreeMap::new();
    for ((_, sort), count) in &found.leftovers {
        *sorts.entry(*sort).or_insert(0) += count;
    }
    let words: Vec<_> = sorts
        .iter()
        .map(|(sort, count)| sort.words(*count))
        .collect();
    let whence = match (&found.unreadable, found.has_rows) {
        (Some(reason), _) => format!("a damaged database ({reason})"),
        (None, true) => "free pages of a database, which no row holds any more".to_owned(),
        (None, false) => "what SQLite keeps beside a database".to_owned(),
    };
    let remedy = if is_live && found.unreadable.is_none() {
        "stop the middleware and run `strongroom migrate` again: it rewrites the database without its \
         free pages"
            .to_owned()
    } else if is_live {
        "put a whole database in its place, and see what `strongroom audit` says then".to_owned()
    } else if found.has_rows {
        delete(place)
    } else {
        format!(
            "if its database is in use, stop what uses it, which removes it; else {}",
            delete(place)
        )
    };
    let what = format!(
        "old ciphertext in {whence}: a secret on this disk opens {}",
        words.join(", ")
    );
    let remedy = format!("{remedy}. {AND_THEN}");
    let mut finding = Finding::new(Kind::OldCiphertext, Grade::Serious, place, what, remedy)
        .opened_by(found.leftovers.keys().map(|(key, _)| *key), keys);
    finding.counts = sorts
        .iter()
        .map(|(sort, count)| (sort.name().to_owned(), *count))
        .collect();
    finding
}

/// Of an archive with a configuration.
pub(crate) fn of_archive(place: &Place, found: &Configuration, keys: &Keys) -> Option<Finding> {
    if found.databases.is_empty() && found.secrets == 0 {
        return None;
    }
    let opened: Vec<_> = found.databases.iter().flat_map(|it| &it.opened).collect();
    let leftovers = found.databases.iter().any(|it| !it.leftovers.is_empty());
    let with = match (found.databases.len(), found.secrets) {
        (_, 0) => "without its secret",
        (0, _) => "of which only the secret is there",
        _ => "with its secret",
    };
    let (grade, what) = if opened.is_empty() && !leftovers {
        let what = format!("a configuration that was downloaded, {with}; nothing here opens it");
        (Grade::Caution, what)
    } else {
        let mut parts = listed(&opened);
        if leftovers {
            parts.push_str(if opened.is_empty() { "" } else { ", and " });
            parts.push_str("old ciphertext in free pages");
        }
        let what = format!(
            "a configuration that was downloaded, {with}; a secret on this disk opens {parts}"
        );
        let grade = match (leftovers, opened.iter().any(|it| it.class.is_some())) {
            (false, false) => Grade::Caution,
            _ => Grade::Serious,
        };
        (grade, what)
    };
    let remedy = format!("{}. {AND_THEN}", delete(place));
    Some(
        Finding::new(Kind::ConfigurationArchive, grade, place, what, remedy)
            .opened_by(found.databases.iter().flat_map(|it| it.openers()), keys)
            .counting(opened),
    )
}

/// Of the secrets themselves, where they lie as files.
pub(crate) fn of_secrets(keys: &Keys, live: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    for key in keys.all() {
        for place in key.places.iter().filter(|place| place.inside.is_none()) {
            if super::same(&place.path, live) {
                let what = "the secret that TrueNAS's database is encrypted under".to_owned();
                let remedy = "leave it there: the middleware deletes credentials when it starts \
                              without it. Take away what it opens";
                findings.push(Finding::new(
                    Kind::PwencSecret,
                    Grade::Note,
                    place,
                    what,
                    remedy.to_owned(),
                ));
                continue;
            }
            let (grade, opens) = if key.opened {
                (Grade::Serious, "it opens what is found here")
            } else {
                (
                    Grade::Caution,
                    "nothing that is found here opens with it, but copies elsewhere may",
                )
            };
            let what = format!("a copy of a database's secret, or a former one: {opens}");
            let remedy = format!(
                "{}, unless a configuration that you keep needs it",
                delete(place)
            );
            findings.push(Finding::new(
                Kind::OldPwencSecret,
                grade,
                place,
                what,
                remedy,
            ));
        }
    }
    findings
}

/// Of a file that gives itself away. `vault`: the id of the one that is here.
pub(crate) fn of_content(place: &Place, content: &Content, vault: Option<&str>) -> Finding {
    let (kind, grade, what, remedy) = match content {
        Content::Kit { protected: true, .. } => (
            Kind::RecoveryKit,
            Grade::Caution,
            "a recovery kit behind a passphrase".to_owned(),
            format!("move it off this machine, then {}", delete(place)),
        ),
        Content::Kit { vault_id, .. } => {
            let whose = match (vault_id, vault) {
                (Some(its), Some(here)) if its == here => "of this box's vault".to_owned(),
                (Some(its), _) => format!("of vault {its}"),
                (None, _) => "or another age identity".to_owned(),
            };
            (
                Kind::RecoveryKit,
                Grade::Serious,
                format!(
                    "a recovery kit {whose}: whoever reads it opens everything, in any boot and without \
                     the TPM"
                ),
                format!(
                    "keep it elsewhere (`strongroom recovery-kit` prints it), prove that copy with \
                     `strongroom recovery-test`, and only then {}",
                    delete(place)
                ),
            )
        }
        Content::Export { keys } => (
            Kind::DatasetKeysExport,
            Grade::Serious,
            format!("{keys} dataset keys in clear, as TrueNAS exports them"),
            format!("{}. Then `strongroom rotate` those datasets", delete(place)),
        ),
        Content::Backup => (
            Kind::VaultBackup,
            Grade::Note,
            "a backup of a vault: ciphertext, which the recovery kit opens".to_owned(),
            "keep it if it is off the boot disk; a copy on the vault's own disk dies with it".to_owned(),
        ),
        Content::Credentials { program, fields } => (
            Kind::ClearCredentials,
            Grade::Caution,
            format!("credentials of {program} in clear: {}", fields.join(", ")),
            "seal them (`strongroom seal`), start the program through credential-provider, and make \
             the credentials anew"
                .to_owned(),
        ),
        Content::HexKey => (
            Kind::HexKey,
            Grade::Caution,
            "64 hexadecimal digits and no more, as a dataset's key is written".to_owned(),
            format!(
                "if it is one, seal it with `zfs-keyprovider adopt DATASET --rotate --key-file FILE`, \
                 then {}",
                delete(place)
            ),
        ),
        Content::PrivateKey => (
            Kind::PrivateKey,
            Grade::Note,
            "a private key without a passphrase".to_owned(),
            "give its user one that is in the vault, through PKCS#11, and take this one back where it \
             is accepted"
                .to_owned(),
        ),
    };
    Finding::new(kind, grade, place, what, remedy)
}

/// Of what no walk reaches.
pub(crate) fn of_boot_environments() -> Option<Finding> {
    let (parent, name) = places::boot_environment()?;
    let place = Place::file(Path::new("/"));
    let what = format!(
        "this is the boot environment {name}; others of {parent} hold copies of /data, and were not \
         looked at unless they are mounted under a root"
    );
    let remedy = format!(
        "`zfs list -r {parent}` shows them: destroy those that you do not need, or mount one read-only \
         (`mount -t zfs -o ro {parent}/NAME/data /mnt/be`) and run `strongroom audit --root /mnt/be`"
    );
    Some(Finding::new(
        Kind::BootEnvironments,
        Grade::Note,
        &place,
        what,
        remedy,
    ))
}

/// What is worth more than to delete.
const AND_THEN: &str = "What it gave away is known until it is made anew (`strongroom rotate`)";

fn grade_of(opened: &[Opened]) -> Grade {
    if opened.iter().any(|opened| opened.class.is_some()) {
        Grade::Serious
    } else {
        Grade::Caution
    }
}

fn is_first(opened: &Opened) -> bool {
    matches!(opened.class, Some(Class::Datasets | Class::Credentials))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it so")]
fn grade_name<S: Serializer>(grade: &Grade, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(grade.name())
}

/// In words, with those of the rest counted that stay in TrueNAS's database anyway.
fn listed(opened: &[&Opened]) -> String {
    let mut counts: BTreeMap<(Option<usize>, &str), usize> = BTreeMap::new();
    let mut others = 0;
    for it in opened {
        // In the order of the catalogue: those first that matter most.
        let place = COLUMNS.iter().position(|column| column.what == it.what);
        match it.class {
            Some(_) => *counts.entry((place, it.what)).or_insert(0) += it.count,
            None => others += it.count,
        }
    }
    let mut parts: Vec<_> = counts
        .iter()
        .map(|((_, what), count)| format!("{what}: {count}"))
        .collect();
    if others > 0 {
        parts.push(format!("secrets of TrueNAS's services: {others}"));
    }
    parts.join(", ")
}

/// The command that takes it away.
fn delete(place: &Place) -> String {
    match &place.snapshot {
        Some(snapshot) if snapshot.starts_with('@') => {
            format!("destroy the snapshot {snapshot} of its file system (`zfs destroy`)")
        }
        Some(snapshot) => format!("`zfs destroy {}`", quoted(snapshot)),
        None => format!("`rm {}`", quoted(&place.path.to_string_lossy())),
    }
}

/// As a shell takes it.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-@:+,=%".contains(c);
    if text.chars().all(is_plain) && !text.starts_with('-') {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}
