//! `strongroom pair export`: this machine made ready to be a second one of the vault.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use serde_json::json;
use strongroom::error::Error;

use super::Place;
use crate::cli::PairExport;
use crate::failure::Failure;
use crate::output::{self, say};

pub(super) fn run(place: &Place, args: &PairExport) -> Result<(), Failure> {
    if args.out.is_none() && place.json {
        return Err(Failure::Usage(
            "the export itself is JSON: name a file for it with --out".to_owned(),
        ));
    }
    let vault = place.vault()?;
    // Before anything is made in the TPM.
    let out = match &args.out {
        Some(file) => {
            let open = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(file)
                .map_err(Error::io("write", file))?;
            Some((open, file))
        }
        None => None,
    };
    let made = vault.export_second(&place.tcti()?, args.pcrs.as_ref(), place.recording()?);
    let export = made.inspect_err(|_| {
        // An empty file would only confuse.
        if let Some((_, file)) = &out {
            let _ = std::fs::remove_file(file);
        }
    })?;
    let fingerprint = export.fingerprint();
    let bytes = export.to_json();
    let Some((mut open, file)) = out else {
        say!("{}", String::from_utf8_lossy(&bytes).trim_end());
        // Not beside the file: that may go the same way.
        eprintln!("Fingerprint {fingerprint}");
        return Ok(());
    };
    open.write_all(&bytes)
        .and_then(|()| open.sync_all())
        .map_err(Error::io("write", file))?;
    let report = json!({
        "id": export.peer().to_string(),
        "fingerprint": fingerprint.to_string(),
        "export": file,
    });
    output::show(place.json, &report, || {
        say!(
            "This machine is ready to be the second one {}.",
            export.peer()
        );
        say!("Fingerprint {fingerprint}");
        say!(
            "Take {} to the vault's own machine, run `strongroom pair add` with it there, and type the \
             fingerprint.",
            file.display()
        );
    });
    Ok(())
}
