//! `strongroom token remove`: an empty token, and its PINs out of the TPM.

use serde_json::json;
use strongroom::object::TokenName;

use super::super::Place;
use crate::failure::Failure;
use crate::output::{self, say};

pub(super) fn run(place: &Place, token: &TokenName) -> Result<(), Failure> {
    place.unlock_to_write()?.remove_token(token)?;
    output::show(place.json, &json!({ "removed": token }), || {
        say!("removed token {token}");
    });
    Ok(())
}
