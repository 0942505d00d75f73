//! How the datasets of a pool stand, in one call of the kernel: a channel program (zfs-program(8)).
//!
//! `zfs get` answers the same, and takes a dozen calls for each dataset, which at boot is longer than
//! the TPM takes for its key on a fast one. Not every release has the properties in channel programs,
//! and only root may run them: where there is no answer, `zfs get` is asked after all.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::command::{self, ZfsError};
use super::properties::{Dataset, KeyStatus};

/// What it asks, in Lua.
const PROGRAM: &str = include_str!("scan.lua");

/// What its answer may take in the kernel, in bytes: some thousand datasets with their recovery
/// copies. ZFS allows up to 100 MiB.
const MEMORY_LIMIT: &str = "67108864";

/// Datasets of one pool.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The encryption root is said of encryption roots alone, and PBKDF2's figures of none.
    pub(super) datasets: BTreeMap<String, Dataset>,
    /// The recovery copies that encryption roots carry themselves.
    pub(super) copies: BTreeMap<String, String>,
    /// Those that are there too, and of which nothing is said yet.
    pub(super) rest: Vec<String>,
}

/// The datasets of these names that there are in a pool, and so many of those below them. `None` where
/// this ZFS does not say it so.
///
/// # Errors
/// Where ZFS does not answer at all.
pub(super) fn scan(pool: &str, names: &[String], below: usize) -> Result<Option<Scan>, ZfsError> {
    let below = below.to_string();
    let mut args = vec!["program", "-jn", "-m", MEMORY_LIMIT, pool, "-", &below];
    args.extend(names.iter().map(String::as_str));
    let output = command::ask_with("zfs", &args, Some(PROGRAM.as_bytes()))?;
    if !output.succeeded {
        log::info!(
            "zfs program does not tell of {pool}, zfs get is asked: {}",
            output.reason()
        );
        return Ok(None);
    }
    Ok(match parse(&output.stdout) {
        Ok(scan) => Some(scan),
        Err(error) => {
            log::info!("zfs program tells of {pool} what is not understood: {error}");
            None
        }
    })
}

fn parse(text: &str) -> serde_json::Result<Scan> {
    let answer: Answer = serde_json::from_str(text)?;
    let mut scan = Scan {
        rest: answer.told.rest.into_keys().collect(),
        ..Scan::default()
    };
    for (name, found) in answer.told.found {
        if let Some(copy) = found.recovery {
            scan.copies.insert(name.clone(), copy);
        }
        let dataset = Dataset {
            name: name.clone(),
            encryption_root: found.root.then(|| name.clone()),
            key_status: KeyStatus::of(&found.keystatus),
            key_format: found.keyformat.parse().ok(),
            // Lua's numbers have a sign.
            guid: Some(found.guid.cast_unsigned()),
            ..Dataset::default()
        };
        scan.datasets.insert(name, dataset);
    }
    Ok(scan)
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "return")]
    told: Told,
}

#[derive(Deserialize)]
struct Told {
    found: BTreeMap<String, Found>,
    rest: BTreeMap<String, bool>,
}

/// A dataset, in the words of the program.
#[derive(Deserialize)]
struct Found {
    guid: i64,
    keystatus: String,
    keyformat: String,
    root: bool,
    recovery: Option<String>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use strongroom::dataset_key::KeyFormat;

    use super::*;

    #[test]
    fn what_a_channel_program_answers_is_understood() {
        // As OpenZFS 2.3.9 prints it.
        let text = r#"{"return":{"found":{"tank":{"root":false,"keystatus":"none","guid":396008555606861882,"keyformat":"none"},"tank/a b":{"root":true,"keystatus":"unavailable","guid":-2570443473189445729,"keyformat":"hex","recovery":"a\ncopy"},"tank/a b/child":{"root":false,"keystatus":"unavailable","guid":7,"keyformat":"hex"}},"rest":{"tank/more":true}}}"#;
        let scan = parse(text).expect("understood");
        assert_eq!(scan.datasets.len(), 3);
        assert_eq!(
            scan.datasets["tank/a b"],
            Dataset {
                name: "tank/a b".to_owned(),
                encryption_root: Some("tank/a b".to_owned()),
                key_status: KeyStatus::Unavailable,
                key_format: Some(KeyFormat::Hex),
                guid: Some(15_876_300_600_520_105_887),
                ..Dataset::default()
            }
        );
        assert!(!scan.datasets["tank/a b/child"].is_encryption_root());
        assert_eq!(scan.copies.len(), 1);
        assert_eq!(scan.copies["tank/a b"], "a\ncopy");
        assert_eq!(scan.rest, ["tank/more"]);
    }

    #[test]
    fn nothing_found_is_an_answer_and_half_of_one_is_none() {
        assert!(
            parse(r#"{"return":{"found":{},"rest":{}}}"#)
                .is_ok_and(|scan| scan.datasets.is_empty())
        );
        for text in [
            "",
            r#"{"return":{"found":{}}}"#,
            r#"{"return":{"found":{"tank":{"guid":1}},"rest":{}}}"#,
            r#"{"error":"no"}"#,
            r#"{"return":{"found":{"tank":{"root":false,"keystatus":"none","guid":1,"keyformat":"none"}"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_output_makes_the_parser_panic(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
