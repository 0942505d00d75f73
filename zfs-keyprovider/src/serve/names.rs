//! Where a dataset's key is in the folder: file names, and nothing of what is in the files.
//!
//! The key of `tank/home` is `tank/home`, as people expect it. But where `tank` has a key too, that
//! name cannot be both a file and a folder, and which of them it is would change with the keys that
//! are sealed. So each key has a second name, which stays the same whatever others there are:
//! `.flat/tank%2Fhome` and `.flat/tank`. No name of a pool begins with a full stop, and no name of a
//! dataset has a per cent sign in it, so that neither is anything else.

use std::collections::BTreeSet;
use std::ops::Bound;

/// The folder with the names that are always there.
const FLAT: &str = ".flat";
const SLASH: &str = "%2F";

/// The longest name of a dataset (`ZFS_MAX_DATASET_NAME_LEN`, which counts a NUL).
const LONGEST: usize = 255;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    /// The mountpoint.
    Root,
    /// `.flat`.
    Flat,
    /// A dataset's name, as a folder.
    Folder(String),
    /// A dataset's key.
    Key(String),
}

/// The datasets that have keys.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// Of these names those that a dataset can have.
    pub(super) fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().filter(|name| is_dataset(name)).collect())
    }

    /// Whether something is there.
    pub(super) fn has(&self, place: &Place) -> bool {
        match place {
            Place::Root | Place::Flat => true,
            Place::Folder(dataset) => self.has_beneath(dataset),
            Place::Key(dataset) => self.0.contains(dataset),
        }
    }

    /// What is of this name in a folder.
    pub(super) fn in_folder(&self, folder: &Place, name: &str) -> Option<Place> {
        let dataset = match folder {
            Place::Root if name == FLAT => return Some(Place::Flat),
            Place::Root => name.to_owned(),
            Place::Folder(dataset) => format!("{dataset}/{name}"),
            Place::Flat => {
                let found = Place::Key(name.replace(SLASH, "/"));
                return self.has(&found).then_some(found);
            }
            Place::Key(_) => return None,
        };
        if self.has_beneath(&dataset) {
            Some(Place::Folder(dataset))
        } else {
            self.0.contains(&dataset).then_some(Place::Key(dataset))
        }
    }

    /// All that is in a folder, with its name there.
    pub(super) fn list(&self, folder: &Place) -> Vec<(String, Place)> {
        let prefix = match folder {
            Place::Root => String::new(),
            Place::Folder(dataset) => format!("{dataset}/"),
            Place::Flat => {
                let flat = |name: &String| (flat(name), Place::Key(name.clone()));
                return self.0.iter().map(flat).collect();
            }
            Place::Key(_) => return Vec::new(),
        };
        let names: BTreeSet<&str> = self
            .beginning_with(&prefix)
            .filter_map(|name| name[prefix.len()..].split('/').next())
            .collect();
        let flat = matches!(folder, Place::Root).then_some(FLAT);
        flat.into_iter()
            .chain(names)
            .filter_map(|name| Some((name.to_owned(), self.in_folder(folder, name)?)))
            .collect()
    }

    /// The datasets whose keys are in `.flat` alone.
    pub(super) fn flat_alone(&self) -> impl Iterator<Item = &String> {
        self.0.iter().filter(|name| self.has_beneath(name))
    }

    fn has_beneath(&self, dataset: &str) -> bool {
        self.beginning_with(&format!("{dataset}/")).next().is_some()
    }

    fn beginning_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a String> {
        self.0
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |name| name.starts_with(prefix))
    }
}

/// A dataset's name in `.flat`.
pub(super) fn flat(dataset: &str) -> String {
    dataset.replace('/', SLASH)
}

/// Whether ZFS would take it for the name of a file system or volume (zfs(8)).
fn is_dataset(name: &str) -> bool {
    let may_be_in = |c: char| c.is_ascii_alphanumeric() || "-_.: ".contains(c);
    let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(may_be_in);
    name.len() <= LONGEST
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Names {
        Names::new(names.iter().map(ToString::to_string))
    }

    fn walk(names: &Names, path: &str) -> Option<Place> {
        path.split('/')
            .try_fold(Place::Root, |folder, name| names.in_folder(&folder, name))
    }

    #[track_caller]
    fn is_key(names: &Names, path: &str, dataset: &str) {
        assert_eq!(walk(names, path), Some(Place::Key(dataset.to_owned())));
    }

    #[test]
    fn a_key_is_where_its_dataset_is() {
        let names = names(&["tank/home", "tank/home2/x", "dozer"]);
        is_key(&names, "tank/home", "tank/home");
        is_key(&names, "tank/home2/x", "tank/home2/x");
        is_key(&names, "dozer", "dozer");
        assert_eq!(walk(&names, "tank"), Some(Place::Folder("tank".to_owned())));
        for absent in ["tan", "tank/hom", "tank/home/x", "dozer/x", "home"] {
            assert_eq!(walk(&names, absent), None, "{absent}");
        }
    }

    #[test]
    fn a_key_with_others_beneath_it_keeps_its_flat_name() {
        let alone = names(&["tank"]);
        let with_others = names(&["tank", "tank/home", "tank/home/deep"]);
        is_key(&alone, "tank", "tank");
        for names in [&alone, &with_others] {
            is_key(names, ".flat/tank", "tank");
        }
        assert_eq!(
            walk(&with_others, "tank/home"),
            Some(Place::Folder("tank/home".to_owned()))
        );
        is_key(&with_others, ".flat/tank%2Fhome", "tank/home");
        is_key(&with_others, "tank/home/deep", "tank/home/deep");
        assert_eq!(
            with_others.flat_alone().collect::<Vec<_>>(),
            ["tank", "tank/home"]
        );
        assert_eq!(walk(&with_others, ".flat/tank%2fhome"), None);
    }

    #[test]
    fn what_is_listed_is_what_is_found() {
        let names = names(&["tank", "tank/a", "tank/b c", "tank-2", "zoo/x/y"]);
        let mut folders = vec![Place::Root];
        let mut keys = Vec::new();
        while let Some(folder) = folders.pop() {
            for (name, place) in names.list(&folder) {
                assert_eq!(names.in_folder(&folder, &name).as_ref(), Some(&place));
                assert!(names.has(&place));
                match place {
                    Place::Key(dataset) => keys.push((folder == Place::Flat, dataset)),
                    folder => folders.push(folder),
                }
            }
        }
        keys.sort();
        let nested = ["tank-2", "tank/a", "tank/b c", "zoo/x/y"].map(|it| (false, it.to_owned()));
        let flat = ["tank", "tank-2", "tank/a", "tank/b c", "zoo/x/y"];
        let flat = flat.map(|it| (true, it.to_owned()));
        assert_eq!(keys, [nested.as_slice(), flat.as_slice()].concat());
    }

    #[test]
    fn a_label_that_is_no_name_of_a_dataset_has_no_file() {
        for label in [
            "",
            "/tank",
            "tank/",
            "tank//x",
            "tank/../x",
            "..",
            ".flat",
            "tank/.",
            "ta%nk",
            "tank@snap",
            "tänk",
            "1tank",
        ] {
            let names = names(&[label]);
            assert_eq!(names.list(&Place::Root).len(), 1, "{label}");
            assert_eq!(names.list(&Place::Flat).len(), 0, "{label}");
        }
    }
}
