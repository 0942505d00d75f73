//! `strongroom install`: what Strongroom needs on a TrueNAS system, put where it may run.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Serialize;
use serde_json::json;
use strongroom::Result;

use super::Place;
use crate::cli::Install;
use crate::durable;
use crate::failure::Failure;
use crate::installation::{Pieces, State, System};
use crate::output::{self, say};

/// What was done about a piece, or would be.
#[derive(Serialize)]
pub(super) struct Step {
    path: PathBuf,
    state: State,
}

pub(super) fn run(place: &Place, args: &Install) -> Result<(), Failure> {
    let system = System::below(&args.at.root)?;
    let pieces = Pieces::with_programs(&Pieces::source(args.from.as_deref())?);
    let steps = put(&system, &pieces, args.at.dry_run)?;
    if !args.at.dry_run {
        make_vault_folder(&system)?;
        if system.is_running() {
            start_units();
        }
    }
    let has_vault = system.vault().join("vault.json").exists();
    let report = json!({
        "root": system.root(),
        "dry-run": args.at.dry_run,
        "pieces": steps,
        "vault": has_vault,
    });
    output::show(place.json, &report, || {
        say_steps(&steps, args.at.dry_run);
        if !has_vault {
            say!(
                "There is no vault yet: `/root/strongroom/strongroom init` makes it, in {}.",
                system.vault().display()
            );
        }
        if !args.at.dry_run && system.is_running() {
            say!(
                "The middleware finds the launcher when it is started anew, at the next boot at the latest."
            );
        }
    });
    Ok(())
}

/// Puts in its place what is not there as it should be.
pub(super) fn put(system: &System, pieces: &Pieces, dry_run: bool) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    // All are looked at first: a program that is missing leaves the system as it was.
    for piece in &pieces.0 {
        let state = piece.state(system)?;
        steps.push(Step {
            path: piece.path.clone(),
            state,
        });
    }
    if !dry_run {
        for (piece, step) in pieces.0.iter().zip(&steps) {
            if step.state != State::Right {
                piece.put(system)?;
            }
        }
    }
    Ok(steps)
}

pub(super) fn say_steps(steps: &[Step], dry_run: bool) {
    let would = if dry_run { "would be " } else { "" };
    let mut right = 0;
    for step in steps {
        match step.state {
            State::Right => right += 1,
            State::Missing => say!("{would}put there: /{}", step.path.display()),
            State::Other => say!("{would}replaced: /{}", step.path.display()),
        }
    }
    say!("{right} of {} pieces were as they should be.", steps.len());
}

/// Where every program here looks for the vault, if nobody names another place.
fn make_vault_folder(system: &System) -> Result<()> {
    let dir = system.vault();
    if dir.exists() {
        return Ok(());
    }
    durable::make_folder(&dir, 0o700)?;
    // Whatever the umask is.
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700))
        .map_err(strongroom::Error::io("change the mode of", &dir))
}

/// Those that watch, and the launcher in restic's place. The others are started by what they belong to.
const STARTED: [&str; 7] = [
    "run-strongroom-programs.mount",
    "usr-bin-restic.mount",
    "strongroom-enrol.path",
    "strongroom-enrol.timer",
    "strongroom-upgrade-guard.path",
    "strongroom-upgrade-guard.timer",
    "strongroom-before-restart.service",
];

fn start_units() {
    systemctl(&["daemon-reload"]);
    systemctl(&[&["start"], STARTED.as_slice()].concat());
}

/// What those that watch have started, and may be at work.
const AT_WORK: [&str; 3] = [
    "strongroom-enrol.service",
    "strongroom-upgrade-guard.service",
    "strongroom-hand-over.service",
];

/// Before their files go.
pub(super) fn stop_units() {
    // One that is stopped by its ExecStop= does once more what it is there for, which does no harm.
    systemctl(&[&["stop"], STARTED.as_slice(), AT_WORK.as_slice()].concat());
}

/// Nothing is enrolled as long as this lives; from then on, it is watched for again.
pub(super) struct NoEnrolment {
    started_again: Vec<&'static str>,
}

impl NoEnrolment {
    /// Stops what watches for new keys, and whatever is being enrolled: killed at any instant, that loses
    /// nothing.
    pub(super) fn begin() -> Self {
        let watching = ["strongroom-enrol.path", "strongroom-enrol.timer"];
        let started_again = (watching.into_iter())
            .filter(|unit| systemctl_says(&["is-active", "--quiet", unit]))
            .collect();
        systemctl(&[&["stop"], &watching[..], &["strongroom-enrol.service"]].concat());
        Self { started_again }
    }

    /// There is nothing to watch for any more.
    pub(super) fn for_good(mut self) {
        self.started_again.clear();
    }
}

impl Drop for NoEnrolment {
    fn drop(&mut self) {
        if !self.started_again.is_empty() {
            systemctl(&[&["start"], &self.started_again[..]].concat());
        }
    }
}

/// After their files are gone.
pub(super) fn forget_units() {
    systemctl(&["daemon-reload"]);
}

fn systemctl_says(args: &[&str]) -> bool {
    let run = Command::new("systemctl")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    run.is_ok_and(|status| status.success())
}

/// What systemd does not do now, it does at the next boot.
fn systemctl(args: &[&str]) {
    let run = Command::new("systemctl")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    match run {
        Ok(status) if status.success() => {}
        Ok(status) => log::warn!("systemctl {}: {status}", args.join(" ")),
        Err(error) => log::warn!("systemctl {}: {error}", args.join(" ")),
    }
}
