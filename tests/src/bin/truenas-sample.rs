//! `truenas-sample FOLDER`: a TrueNAS database full of made-up secrets, for the demo. Beside the
//! database and its `pwenc_secret` it writes `expected.json`: what the database holds.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};
use strongroom_tests::truenas_fixture::{Fixture, Generation};

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: truenas-sample FOLDER");
        return ExitCode::from(2);
    };
    let fixture = Fixture::build(&folder, Generation::V25_10, 1, 0);
    let datasets: Vec<Value> = fixture
        .dataset_keys
        .iter()
        .map(|(row, name, key)| json!({ "row": row, "name": name, "key": key }))
        .collect();
    let credentials: Vec<Value> = fixture
        .credentials
        .iter()
        .map(|(row, name, attributes, secret)| {
            json!({ "row": row, "name": name, "attributes": attributes, "secret": secret })
        })
        .collect();
    let expected = json!({
        "database": fixture.database,
        "pwenc-secret": fixture.pwenc_secret,
        "datasets": datasets,
        "credentials": credentials,
    });
    match std::fs::write(folder.join("expected.json"), format!("{expected:#}\n")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("truenas-sample: {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}
