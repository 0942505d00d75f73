//! `strongroom init`: a vault on this machine's TPM, and the recovery kit into the admin's hands.

use std::io::{self, IsTerminal};

use serde_json::json;
use strongroom::error::Error;
use strongroom::object::TokenName;
use strongroom::process;
use strongroom::recovery::RecoveryKit;
use strongroom::vault::{InitOptions, Vault};

use super::Place;
use crate::cli::Init;
use crate::failure::Failure;
use crate::output::{self, say};

/// How many of the identity's last characters the admin types to show that the kit is kept.
const PROOF: usize = 6;

pub(super) fn run(place: &Place, args: &Init) -> Result<(), Failure> {
    let shown = args.recovery_out.is_none();
    if shown && (args.yes || place.json || !io::stdout().is_terminal()) {
        return Err(Failure::Usage(
            "the recovery kit would be shown to nobody: name a file for it with --recovery-out, \
             or run init at a terminal without --yes"
                .to_owned(),
        ));
    }
    if !shown && !args.yes {
        output::confirm(
            "The recovery kit will be written to a file that you must move off this machine. \
             Type yes to go on:",
            "yes",
        )?;
    }
    let options = InitOptions {
        fence: args.fence,
        pcrs: args.pcrs.clone(),
        event_log: place.recording()?,
        tokens: vec![
            TokenName::datasets(),
            TokenName::credentials(),
            TokenName::keys(),
        ],
    };
    let mut kit_file = None;
    let mut fingerprint = String::new();
    let made = Vault::init(&place.dir, &place.tcti()?, &options, |kit| {
        fingerprint = hex::encode(kit.fingerprint);
        match &args.recovery_out {
            Some(file) => {
                kit.write(file)?;
                kit_file = Some(file);
                Ok(())
            }
            None => show_kit(kit),
        }
    });
    let vault = made.inspect_err(|_| {
        // A kit of a vault that there is not would only confuse.
        if let Some(file) = kit_file {
            let _ = std::fs::remove_file(file);
        }
    })?;
    let state = vault.boot_state(&place.tcti()?)?;
    let pcrs = state.present.selection().to_string();
    let report = json!({
        "vault": vault.id(),
        "vault-key-sha256": fingerprint,
        "dir": place.dir,
        "pcrs": state.present,
        "tokens": vault.tokens(),
        "fence": args.fence,
        "recovery-kit": args.recovery_out,
    });
    output::show(place.json, &report, || {
        say!("Vault {} made in {}.", vault.id(), place.dir.display());
        say!("Vault key SHA-256 {fingerprint}");
        say!("It opens on this TPM while PCRs {pcrs} are as they are now.");
        if let Some(fence) = args.fence {
            say!(
                "Dataset keys open only until {fence} is extended: `zfs-keyprovider load --fence`."
            );
        }
        if let Some(file) = &args.recovery_out {
            say!(
                "The recovery kit is in {}: move it off this machine. Whoever holds it can open \
                 the vault, and without it a dead mainboard takes the keys with it.",
                file.display()
            );
        }
    });
    Ok(())
}

fn show_kit(kit: &RecoveryKit) -> strongroom::Result<()> {
    let text = kit.to_text();
    process::hand_out(&text).map_err(|error| Error::input("standard output", error.to_string()))?;
    let bytes = text.expose().trim_ascii_end();
    let proof = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(PROOF)..]);
    output::confirm(
        &format!(
            "Print it or copy it now; it is not shown again. Type its last {PROOF} characters:"
        ),
        &proof,
    )
    .map_err(|failure| Error::input("recovery kit", failure.to_string()))
}
