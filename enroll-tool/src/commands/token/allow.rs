//! `strongroom token allow`: a token to a group.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::Place;
use crate::cli::TokenAllow;
use crate::failure::Failure;
use crate::groups::Group;
use crate::output::{self, say};

pub(super) fn run(place: &Place, args: &TokenAllow) -> Result<(), Failure> {
    let vault = place.vault()?;
    let group = Group::find(&args.group)?;
    vault.allow(&args.token, group.gid)?;
    let closed = closed_above(&place.dir, group.gid);
    let report = json!({
        "token": args.token,
        "group": group.name,
        "gid": group.gid,
        "closed": closed,
    });
    output::show(place.json, &report, || {
        say!(
            "Members of {} may use token {}; where they use it themselves, they need the TPM too \
             (group tss).",
            group.name,
            args.token
        );
    });
    for dir in closed {
        log::warn!(
            "{} lets nobody through to the vault; `chmod o+x` it",
            dir.display()
        );
    }
    Ok(())
}

/// The folders above the vault that a member of the group does not come through.
fn closed_above(dir: &Path, gid: u32) -> Vec<PathBuf> {
    let whole = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let is_closed = |dir: &&Path| {
        fs::metadata(dir).is_ok_and(|it| {
            let needed = if it.gid() == gid { 0o010 } else { 0o001 };
            it.mode() & needed == 0
        })
    };
    let above = whole.ancestors().skip(1);
    above.filter(is_closed).map(Path::to_owned).collect()
}
