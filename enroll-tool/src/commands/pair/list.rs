//! `strongroom pair list`: the second machines, and what each opens. Needs no TPM.

use serde_json::{Value, json};

use super::Place;
use crate::failure::Failure;
use crate::output::{self, say};

pub(super) fn run(place: &Place) -> Result<(), Failure> {
    let seconds = place.vault()?.seconds()?;
    let reports: Vec<Value> = seconds.iter().map(super::report).collect();
    output::show(place.json, &json!({ "seconds": reports }), || {
        if seconds.is_empty() {
            say!("The vault has no second machine.");
        }
        for second in &seconds {
            for line in super::words(second) {
                say!("{line}");
            }
        }
    });
    Ok(())
}
