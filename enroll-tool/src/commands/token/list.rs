//! `strongroom token list`: the tokens, how many objects each has, and whose they are.

use serde_json::{Value, json};
use strongroom::TokenAccess;

use super::super::Place;
use crate::failure::Failure;
use crate::groups::Group;
use crate::output;

/// A token as it is shown.
struct Row {
    token: String,
    /// `None` where this user may not look.
    objects: Option<usize>,
    group: Option<String>,
    mode: String,
}

pub(super) fn run(place: &Place) -> Result<(), Failure> {
    let vault = place.vault()?;
    let listing = vault.list()?;
    let mut rows = Vec::new();
    for token in vault.tokens() {
        let access: TokenAccess = vault.access(&token)?;
        let objects = listing.objects.iter().filter(|it| it.token == token);
        rows.push(Row {
            objects: (!listing.unreadable.contains(&token)).then(|| objects.count()),
            group: access.group().map(|gid| Group::of(gid).name),
            mode: format!("{:04o}", access.mode),
            token: token.to_string(),
        });
    }
    let tokens: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "token": row.token,
                "objects": row.objects,
                "group": row.group,
                "mode": row.mode,
            })
        })
        .collect();
    output::show(place.json, &json!({ "tokens": tokens }), || {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        output::table(
            ["TOKEN", "OBJECTS", "GROUP", "MODE"],
            rows.into_iter().map(|row| {
                let objects = row.objects.map(|count| count.to_string());
                [row.token, or_dash(objects), or_dash(row.group), row.mode]
            }),
        );
    });
    Ok(())
}
