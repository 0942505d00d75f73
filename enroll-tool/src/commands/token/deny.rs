//! `strongroom token deny`: a token back from its group.

use serde_json::json;
use strongroom::object::TokenName;

use super::super::Place;
use crate::failure::Failure;
use crate::output::{self, say};

pub(super) fn run(place: &Place, token: &TokenName) -> Result<(), Failure> {
    place.vault()?.deny(token)?;
    output::show(place.json, &json!({ "token": token }), || {
        say!(
            "Token {token} is for the vault's owner alone. Whoever was in its group may have copied \
             its files: where that matters, put new secrets in their place."
        );
    });
    Ok(())
}
