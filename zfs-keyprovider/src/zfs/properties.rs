//! Properties of datasets and pools: one `zfs get` for many datasets.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;

use strongroom::dataset_key::KeyFormat;

use super::command::{self, ZfsError};

/// The user property that an encryption root carries its recovery copy in.
pub(crate) const RECOVERY: &str = "strongroom:recovery";

/// Where an encryption root keeps the copy that it carried before, while its key is changed and the
/// vault does not have the present one: the kit of another vault may open it.
pub(crate) const FORMER_RECOVERY: &str = "strongroom:recovery-former";

/// The longest user property that every ZFS release takes, in bytes.
pub(crate) const MAX_USER_PROPERTY: usize = 8000;

/// ZFS's words for a name that it does not know.
const NOT_THERE: &str = "dataset does not exist";

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
}

/// The GUIDs of the pools that are imported.
#[derive(Debug, Default)]
pub(crate) struct Pools(BTreeMap<String, u64>);

impl Dataset {
    /// Whether its key is its own.
    pub(crate) fn is_encryption_root(&self) -> bool {
        self.encryption_root.as_deref() == Some(self.name.as_str())
    }

    /// The name of its pool.
    pub(crate) fn pool(&self) -> &str {
        self.name.split('/').next().unwrap_or(&self.name)
    }
}

impl Datasets {
    /// Asks ZFS, and hands on what it says part by part: if not all are asked for by their own names, first
    /// of the datasets `ahead` that there are, in a call for each of its parts; then in one call of all that
    /// are named, or of each pool where all are meant, so that a pool which does not answer stands before no
    /// other.
    /// `pools`: all that there are, where all datasets are meant.
    ///
    /// # Errors
    /// Where ZFS cannot be asked. A name that it does not know is no error, and a pool that does
    /// not answer is one among several.
    pub(crate) fn read_in_parts(
        which: Which<'_>,
        pools: &Pools,
        ahead: &[Vec<String>],
        each: &mut dyn FnMut(Self),
    ) -> Result<(), ZfsError> {
        if let Which::Named {
            names,
            recursive: false,
        } = which
        {
            each(Self::read_named(names, false)?.none_unsaid(names));
            return Ok(());
        }
        let mut told = BTreeSet::new();
        for names in ahead {
            // What is wrong with any of them is said below, and one that has no answer makes the rest of
            // them wait.
            let Ok(Self { known, .. }) = Self::read_named(names, false) else {
                break;
            };
            told.extend(known.keys().cloned());
            each(Self {
                known,
                ..Self::default()
            });
        }
        let mut rest = |mut part: Self| {
            part.known.retain(|name, _| !told.contains(name));
            // What was told of stays so; what may be beneath it is something else.
            let unknown = part.unknown.into_iter().map(|(name, reason)| {
                let name = if told.contains(&name) {
                    format!("{name}/*")
                } else {
                    name
                };
                (name, reason)
            });
            part.unknown = unknown.collect();
            each(part);
        };
        match which {
            Which::All => {
                for pool in pools.0.keys() {
                    rest(
                        Self::read_named(slice::from_ref(pool), true).unwrap_or_else(|error| {
                            Self {
                                unknown: BTreeMap::from([(pool.clone(), error.to_string())]),
                                ..Self::default()
                            }
                        }),
                    );
                }
            }
            Which::Named { names, .. } => rest(Self::read_named(names, true)?.none_unsaid(names)),
        }
        Ok(())
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

    /// Says something of each of these names.
    fn none_unsaid(mut self, names: &[String]) -> Self {
        for name in names {
            if !self.known.contains_key(name) {
                let reason = || NOT_THERE.to_owned();
                self.unknown.entry(name.clone()).or_insert_with(reason);
            }
        }
        self
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
        let names = [name.to_owned()];
        let mut datasets = Self::read_named(&names, false)?.none_unsaid(&names);
        let reason = datasets.unknown.remove(name).unwrap_or_default();
        Ok(datasets.known.remove(name).ok_or(reason))
    }
}

impl Pools {
    /// Asks ZFS for the GUIDs of all pools.
    pub(crate) fn read() -> Result<Self, ZfsError> {
        let output = command::ask("zpool", &["get", "-Hp", "-o", "name,value", "guid"])?;
        let rows = output.expect("zpool get")?;
        let pools = rows
            .lines()
            .filter_map(|row| row.split_once('\t'))
            .filter_map(|(name, guid)| Some((name.to_owned(), guid.parse().ok()?)));
        Ok(Self(pools.collect()))
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
                dataset.key_status = match value {
                    "available" => KeyStatus::Available,
                    "unavailable" => KeyStatus::Unavailable,
                    _ => KeyStatus::None,
                };
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
