//! `strongroom token protect` and `unprotect`: whether PKCS#11 clients may write a token.

use serde_json::json;
use strongroom::object::TokenName;

use super::super::Place;
use crate::failure::Failure;
use crate::output::{self, say};

pub(super) fn run(place: &Place, token: &TokenName, protected: bool) -> Result<(), Failure> {
    place.unlock_to_write()?.protect_token(token, protected)?;
    let report = json!({ "token": token, "write_protected": protected });
    output::show(place.json, &report, || {
        if protected {
            say!("PKCS#11 clients may read and use what is in token {token}, and no more.");
        } else {
            say!("PKCS#11 clients may make, change and destroy what is in token {token}.");
        }
    });
    Ok(())
}
