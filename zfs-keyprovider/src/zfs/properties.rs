//! Properties of datasets and pools: one call for all datasets.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, mem, slice};

use strongroom::dataset_key::KeyFormat;

use super::command::{self, ZfsError};
use super::scan::{self, Scan};

/// The user property that an encryption root carries its recovery copy in.
pub(crate) const RECOVERY: &str = "strongroom:recovery";

/// Where an encryption root keeps the copy that it carried before, while its key is changed and the
/// vault does not have the present one: the kit of another vault may open it.
pub(crate) const FORMER_RECOVERY: &str = "strongroom:recovery-former";

/// The longest user property that every ZFS release takes, in bytes.
pub(crate) const MAX_USER_PROPERTY: usize = 8000;

/// A filesystem or volume, as far as its key is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dataset {
    pub(crate) name: String,
    /// The dataset whose key encrypts it; `None` where it is not encrypted.
    pub(crate) encryption_root: Option<String>,
    pub(crate) key_status: KeyStatus,
    /// `None` where it is not encrypted, and for a form of which nothing is known here.
    pub(crate) key_format: Option<KeyFormat>,
    pub(crate) guid: Option<u64>,
    pub(crate) pbkdf2_iters: u64,
    pub(crate) pbkdf2_salt: u64,
}

/// ZFS's `keystatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum KeyStatus {
    /// There is no key, for the dataset is not encrypted.
    #[default]
    None,
    Available,
    Unavailable,
}

/// Which datasets are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which<'a> {
    All,
    Named {
        names: &'a [String],
        /// Those below them too.
        recursive: bool,
    },
}

/// Datasets by name, and what ZFS said of names that it does not know.
#[derive(Debug, Default)]
pub(crate) struct Datasets {
    pub(crate) known: BTreeMap<String, Dataset>,
    pub(crate) unknown: BTreeMap<String, String>,
    /// The recovery copies that were told of in passing; `None` where they are still to be asked for.
    copies: Option<BTreeMap<String, String>>,
}

/// Of how many datasets a pool tells first, and of how many then at a time: the first key is to be on its
/// way soon, and few processes are to be started.
const FIRST_PART: usize = 8;
const PART: usize = 32;

/// Where the kernel's module shows its pools on Linux, a folder for each.
const POOLS: &str = "/proc/spl/kstat/zfs";

/// The GUIDs of the pools that are imported.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pools(BTreeMap<String, u64>);

impl Dataset {
    /// Whether its key is its own.
    pub(crate) fn is_encryption_root(&self) -> bool {
        self.encryption_root.as_deref() == Some(self.name.as_str())
    }

    /// The name of its pool.
    pub(crate) fn pool(&self) -> &str {
        pool_of(&self.name)
    }
}

/// ZFS's words for a name that it does not know.
fn not_there() -> String {
    "dataset does not exist".to_owned()
}

fn pool_of(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

impl KeyStatus {
    /// In ZFS's word.
    pub(super) fn of(word: &str) -> Self {
        match word {
            "available" => Self::Available,
            "unavailable" => Self::Unavailable,
            _ => Self::None,
        }
    }
}

impl Datasets {
    /// Asks ZFS, pool by pool, so that one which does not answer stands before no other, and hands on what
    /// it says part by part. Of a dataset that was not asked for by its own name and is no encryption
    /// root, it is not said which its root is. `pools`: all that there are, where all datasets are meant.
    ///
    /// # Errors
    /// Where ZFS cannot be asked. A name that it does not know is no error, and a pool that does
    /// not answer is one among several.
    pub(crate) fn read_in_parts(
        which: Which<'_>,
        pools: &Pools,
        each: &mut dyn FnMut(Self),
    ) -> Result<(), ZfsError> {
        match which {
            Which::All => {
                for pool in pools.0.keys() {
                    Self::read_in(pool, slice::from_ref(pool), true, each)
                        .or_else(|error| Self::no_answer(slice::from_ref(pool), error, each))?;
                }
            }
            Which::Named { names, recursive } => {
                let mut by_pool = BTreeMap::<&str, Vec<String>>::new();
                for name in names {
                    by_pool.entry(pool_of(name)).or_default().push(name.clone());
                }
                let alone = by_pool.len() == 1;
                for (pool, names) in by_pool {
                    match Self::read_in(pool, &names, recursive, each) {
                        Err(error) if !alone => Self::no_answer(&names, error, each)?,
                        read => read?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes a pool that does not answer for one among several.
    fn no_answer(
        names: &[String],
        error: ZfsError,
        each: &mut dyn FnMut(Self),
    ) -> Result<(), ZfsError> {
        if matches!(error, ZfsError::NotInstalled(_)) {
            return Err(error);
        }
        let reason = |name: &String| (name.clone(), error.to_string());
        each(Self {
            unknown: names.iter().map(reason).collect(),
            ..Self::default()
        });
        Ok(())
    }

    /// Asks for datasets of one pool.
    fn read_in(
        pool: &str,
        names: &[String],
        recursive: bool,
        each: &mut dyn FnMut(Self),
    ) -> Result<(), ZfsError> {
        let below = if recursive { FIRST_PART } else { 0 };
        // What is mounted at a path, only `zfs get` can say.
        let scan = match pool {
            "" => None,
            pool => scan::scan(pool, names, below)?,
        };
        let Some(mut scan) = scan else {
            each(Self::read_named(names, recursive)?.none_unsaid(names));
            return Ok(());
        };
        let rest = mem::take(&mut scan.rest);
        each(Self::of_scan(scan, names)?.none_unsaid(names));
        for names in rest.chunks(PART) {
            each(match scan::scan(pool, names, 0)? {
                // One that has gone meanwhile was asked for by nobody.
                Some(scan) => Self::of_scan(scan, &[])?,
                None => Self::read_named(names, false)?,
            });
        }
        Ok(())
    }

    /// What a channel program told, and what it does not tell: why one of these names is not there, which
    /// its root is, and how long the way is from a passphrase to its key.
    fn of_scan(scan: Scan, names: &[String]) -> Result<Self, ZfsError> {
        let Scan {
            datasets, copies, ..
        } = scan;
        let untold = |name: &&String| {
            !datasets
                .get(*name)
                .is_some_and(|it| it.is_encryption_root() || it.key_status == KeyStatus::None)
        };
        let mut again: Vec<String> = names.iter().filter(untold).cloned().collect();
        let derived = datasets.values().filter(|dataset| {
            dataset.is_encryption_root() && dataset.key_format == Some(KeyFormat::Passphrase)
        });
        again.extend(derived.map(|dataset| dataset.name.clone()));
        let mut all = Self {
            known: datasets,
            unknown: BTreeMap::new(),
            copies: Some(copies),
        };
        if !again.is_empty() {
            let more = Self::read_named(&again, false)?;
            all.known.extend(more.known);
            all.unknown.extend(more.unknown);
        }
        Ok(all)
    }

    /// The recovery copies that encryption roots carry themselves.
    pub(crate) fn recovery_copies(
        &self,
        names: &[&str],
    ) -> Result<BTreeMap<String, String>, ZfsError> {
        match &self.copies {
            None => recovery_copies(names),
            Some(copies) => {
                let copy = |name: &&str| Some(((*name).to_owned(), copies.get(*name)?.clone()));
                Ok(names.iter().filter_map(copy).collect())
            }
        }
    }

    fn read_named(names: &[String], recursive: bool) -> Result<Self, ZfsError> {
        const PROPERTIES: &str = "encryptionroot,keystatus,keyformat,guid,pbkdf2iters,pbkdf2salt";
        let mut args = vec!["get", "-Hp", "-o", "name,property,value"];
        args.extend(["-t", "filesystem,volume"]);
        args.extend(recursive.then_some("-r"));
        args.extend([PROPERTIES, "--"]);
        args.extend(names.iter().map(String::as_str));
        let output = command::ask("zfs", &args)?;
        let mut datasets = Self {
            known: parse(&output.stdout),
            unknown: complaints(&output.stderr),
            copies: None,
        };
        if !output.succeeded && datasets.unknown.is_empty() {
            if datasets.known.is_empty() {
                output.expect("zfs get")?;
            } else {
                // What it did say is good; that there is more is not to be passed over.
                let rest = format!("{}/*", names.join(","));
                datasets.unknown.insert(rest, output.reason());
            }
        }
        Ok(datasets)
    }

    /// A dataset, where there is ZFS and it knows it.
    ///
    /// # Errors
    /// Where ZFS does not say.
    pub(crate) fn if_known(name: &str) -> Result<Option<Dataset>, ZfsError> {
        match Self::one(name) {
            Ok(known) => Ok(known.ok()),
            Err(ZfsError::NotInstalled(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One dataset that was asked for by its name.
    pub(crate) fn one(name: &str) -> Result<Result<Dataset, String>, ZfsError> {
        let mut datasets = Self::read_named(&[name.to_owned()], false)?;
        let mut why = datasets.unknown.remove(name);
        Ok(datasets
            .known
            .remove(name)
            .ok_or_else(|| why.take().unwrap_or_else(not_there)))
    }

    /// Says something of each of these names.
    fn none_unsaid(mut self, names: &[String]) -> Self {
        for name in names {
            if !self.known.contains_key(name) {
                self.unknown.entry(name.clone()).or_insert_with(not_there);
            }
        }
        self
    }
}

impl Pools {
    /// Asks ZFS for the GUIDs of all pools.
    pub(crate) fn read() -> Result<Self, ZfsError> {
        let shown = Self::shown_in(Path::new(POOLS));
        if !shown.0.is_empty() {
            return Ok(shown);
        }
        let output = command::ask("zpool", &["get", "-Hp", "-o", "name,value", "guid"])?;
        let rows = output.expect("zpool get")?;
        let pools = rows
            .lines()
            .filter_map(|row| row.split_once('\t'))
            .filter_map(|(name, guid)| Some((name.to_owned(), guid.parse().ok()?)));
        Ok(Self(pools.collect()))
    }

    /// The pools that the kernel's module shows, from OpenZFS 2.2 on with their GUIDs: without a process that
    /// asks. None, where it shows one without.
    fn shown_in(folder: &Path) -> Self {
        let Ok(entries) = fs::read_dir(folder) else {
            return Self::default();
        };
        let mut pools = BTreeMap::new();
        for entry in entries.flatten() {
            // What else is there are files, not folders.
            if !entry.path().join("state").exists() {
                continue;
            }
            let guid = fs::read_to_string(entry.path().join("guid"));
            let (Ok(guid), Ok(name)) = (guid, entry.file_name().into_string()) else {
                return Self::default();
            };
            let Ok(guid) = guid.trim().parse() else {
                return Self::default();
            };
            pools.insert(name, guid);
        }
        Self(pools)
    }

    /// The GUID of a dataset's pool.
    pub(crate) fn guid(&self, dataset: &Dataset) -> Option<u64> {
        self.0.get(dataset.pool()).copied()
    }
}

/// The recovery copies that datasets carry themselves, not those that they inherit.
pub(crate) fn recovery_copies(names: &[&str]) -> Result<BTreeMap<String, String>, ZfsError> {
    copies(RECOVERY, names)
}

/// The recovery copies in one of the two properties.
///
/// In a call of its own: everyone who can write the pool's disks chooses this text, and must not
/// be able to write lines among those of other properties.
pub(crate) fn copies(property: &str, names: &[&str]) -> Result<BTreeMap<String, String>, ZfsError> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut args = vec!["get", "-Hp", "-o", "name,value", "-s", "local,received"];
    args.extend([property, "--"]);
    args.extend(names);
    // One that has gone by now has no copy either.
    let output = command::ask("zfs", &args)?;
    let rows = output.stdout.lines().filter_map(|row| row.split_once('\t'));
    Ok(rows
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

/// Sets a property. Its value is in the arguments of a process, which everyone reads.
pub(crate) fn set(name: &str, property: &str, value: &str) -> Result<(), ZfsError> {
    let setting = format!("{property}={value}");
    let what = format!("zfs set {property} on {name}");
    command::run("zfs", &["set", &setting, name], None)?
        .expect(&what)
        .map(|_| ())
}

/// Takes a property of a dataset's own away from it.
pub(crate) fn inherit(name: &str, property: &str) -> Result<(), ZfsError> {
    let what = format!("zfs inherit {property} on {name}");
    command::run("zfs", &["inherit", property, name], None)?
        .expect(&what)
        .map(|_| ())
}

/// One property of one dataset.
pub(crate) fn get(name: &str, property: &str) -> Result<String, ZfsError> {
    let args = ["get", "-Hp", "-o", "value", property, "--", name];
    let value = command::ask("zfs", &args)?.expect("zfs get")?;
    Ok(value.trim_end_matches('\n').to_owned())
}

/// `zfs get -Hp -o name,property,value`: a line for each, with tabs in between. What is not
/// understood is left out: one odd dataset must not cost the others their keys.
fn parse(text: &str) -> BTreeMap<String, Dataset> {
    let mut datasets: BTreeMap<String, Dataset> = BTreeMap::new();
    for row in text.lines() {
        let mut columns = row.splitn(3, '\t');
        let (Some(name), Some(property), Some(value)) =
            (columns.next(), columns.next(), columns.next())
        else {
            continue;
        };
        let dataset = datasets.entry(name.to_owned()).or_insert_with(|| Dataset {
            name: name.to_owned(),
            ..Dataset::default()
        });
        match property {
            "encryptionroot" if value != "-" => {
                dataset.encryption_root = Some(value.to_owned());
            }
            "keystatus" => {
                dataset.key_status = KeyStatus::of(value);
            }
            "keyformat" => dataset.key_format = value.parse().ok(),
            "guid" => dataset.guid = value.parse().ok(),
            "pbkdf2iters" => dataset.pbkdf2_iters = value.parse().unwrap_or(0),
            "pbkdf2salt" => dataset.pbkdf2_salt = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    datasets
}

/// What `zfs` says of a name that it cannot open: `cannot open 'NAME': REASON`.
fn complaints(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            line.strip_prefix("cannot open '")?
                .split_once("': ")
                .map(|(name, reason)| (name.to_owned(), reason.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_zfs_prints_is_understood() {
        // As OpenZFS 2.1.11 and 2.3.2 print it.
        let text = "\
tank\tencryptionroot\t-
tank\tkeystatus\t-
tank\tkeyformat\tnone
tank\tguid\t9843291470937712345
tank\tpbkdf2iters\t0
tank\tpbkdf2salt\t-
tank/My Media\tencryptionroot\ttank/My Media
tank/My Media\tkeystatus\tunavailable
tank/My Media\tkeyformat\tpassphrase
tank/My Media\tguid\t18446744073709551615
tank/My Media\tpbkdf2iters\t350000
tank/My Media\tpbkdf2salt\t13870911297236498221
tank/My Media/child\tencryptionroot\ttank/My Media
tank/My Media/child\tkeystatus\tavailable
";
        let datasets = parse(text);
        let plain = &datasets["tank"];
        assert_eq!(plain.key_status, KeyStatus::None);
        assert!(plain.encryption_root.is_none() && plain.key_format.is_none());
        let media = &datasets["tank/My Media"];
        assert!(media.is_encryption_root());
        assert_eq!(
            *media,
            Dataset {
                name: "tank/My Media".to_owned(),
                encryption_root: Some("tank/My Media".to_owned()),
                key_status: KeyStatus::Unavailable,
                key_format: Some(KeyFormat::Passphrase),
                guid: Some(u64::MAX),
                pbkdf2_iters: 350_000,
                pbkdf2_salt: 13_870_911_297_236_498_221,
            }
        );
        assert_eq!(media.pool(), "tank");
        let child = &datasets["tank/My Media/child"];
        assert!(!child.is_encryption_root());
        assert_eq!(child.key_status, KeyStatus::Available);
    }

    #[test]
    fn what_zfs_cannot_open_is_named_with_its_reason() {
        let text = "\
cannot open 'tank/none': dataset does not exist
cannot open 'tank/a@b': operation not applicable to datasets of this type
something else
";
        let complaints = complaints(text);
        assert_eq!(complaints.len(), 2);
        assert_eq!(complaints["tank/none"], "dataset does not exist");
    }

    /// A dataset's rows in any order, with rows of others in between.
    fn row() -> impl Strategy<Value = String> {
        let property = prop::sample::select(vec![
            "encryptionroot",
            "keystatus",
            "keyformat",
            "guid",
            "pbkdf2iters",
            "pbkdf2salt",
            "strange",
        ]);
        ("[a-z]{1,3}(/[a-z ]{1,3})?", property, "[^\n]{0,12}")
            .prop_map(|(name, property, value)| format!("{name}\t{property}\t{value}"))
    }

    proptest! {
        #[test]
        fn no_output_makes_the_parser_panic(text in any::<String>()) {
            parse(&text);
            complaints(&text);
        }

        #[test]
        fn each_row_concerns_its_own_dataset_alone(
            rows in prop::collection::vec(row(), 0..20),
            guid in any::<u64>(),
            place in any::<prop::sample::Index>(),
        ) {
            let mut rows: Vec<_> = rows
                .into_iter()
                .filter(|row| !row.starts_with("zz/ours\t"))
                .collect();
            let before = parse(&rows.join("\n"));
            let place = place.index(rows.len() + 1);
            rows.insert(place, format!("zz/ours\tguid\t{guid}"));
            let mut after = parse(&rows.join("\n"));
            let ours = after.remove("zz/ours").expect("its row is there");
            prop_assert_eq!(ours.guid, Some(guid));
            prop_assert_eq!(after, before);
        }

        #[test]
        fn numbers_that_are_none_are_taken_for_none(value in "[^0-9\n]{1,8}") {
            let datasets = parse(&format!("d\tguid\t{value}\nd\tpbkdf2salt\t{value}"));
            prop_assert_eq!(datasets["d"].guid, None);
            prop_assert_eq!(datasets["d"].pbkdf2_salt, 0);
        }
    }
}
