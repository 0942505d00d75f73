//! `strongroom token list`: the tokens, how many objects each has, and whose they are.

use serde_json::{Value, json};
use strongroom::TokenAccess;
use strongroom::policy::Fence;

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
    label: Option<String>,
    pins: bool,
    write_protected: bool,
    fence: Option<Fence>,
}

pub(super) fn run(place: &Place) -> Result<(), Failure> {
    let vault = place.vault()?;
    let listing = vault.list()?;
    let mut rows = Vec::new();
    for token in vault.tokens() {
        let what = vault.token(&token)?;
        let access: TokenAccess = vault.access(&token)?;
        let objects = listing.objects.iter().filter(|it| it.token == token);
        rows.push(Row {
            objects: (!listing.unreadable.contains(&token)).then(|| objects.count()),
            group: access.group().map(|gid| Group::of(gid).name),
            mode: format!("{:04o}", access.mode),
            label: what.label.map(|label| label.to_string()),
            pins: what.has_pins,
            write_protected: what.write_protected,
            fence: what.fence,
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
                "label": row.label,
                "pins": row.pins,
                "write_protected": row.write_protected,
                "fence": row.fence,
            })
        })
        .collect();
    output::show(place.json, &json!({ "tokens": tokens }), || {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        output::table(
            [
                "TOKEN", "OBJECTS", "GROUP", "MODE", "PINS", "FENCE", "PKCS#11",
            ],
            rows.into_iter().map(|row| {
                let objects = row.objects.map(|count| count.to_string());
                let pins = if row.pins { "yes" } else { "-" };
                let may = if row.write_protected {
                    "read, use"
                } else {
                    "read, use, write"
                };
                let name = match row.label {
                    Some(label) => format!("{} ({label})", row.token),
                    None => row.token,
                };
                [
                    name,
                    or_dash(objects),
                    or_dash(row.group),
                    row.mode,
                    pins.to_owned(),
                    or_dash(row.fence.map(|fence| fence.to_string())),
                    may.to_owned(),
                ]
            }),
        );
    });
    Ok(())
}
