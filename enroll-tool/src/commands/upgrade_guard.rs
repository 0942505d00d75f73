//! `strongroom upgrade-guard`: an installation, carried over into the system that an upgrade has made.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use strongroom::policy::Phase;
use strongroom::{Error, Result, Vault};

use super::{Place, boots, install, prepare};
use crate::cli::{Prepare, UpgradeGuard};
use crate::failure::Failure;
use crate::installation::{Pieces, System, bring_up_to_date};
use crate::output::{self, say};

pub(super) fn run(place: &Place, args: &UpgradeGuard) -> Result<(), Failure> {
    let system = System::below(&args.at.root)?;
    let dry_run = args.at.dry_run;
    let pieces = Pieces::with_programs(&Pieces::source(args.from.as_deref())?);
    let dir = if system.is_running() {
        place.dir.clone()
    } else {
        system.vault()
    };
    let vault = place.vault();
    let in_the_way = if is_same(&place.dir, &dir) {
        None
    } else {
        may_be_older(place, &vault, &dir)
    };
    let may_write = in_the_way.is_none();
    let mut problems: Vec<String> = (in_the_way.into_iter())
        .map(|reason| format!("{reason}; nothing was brought over"))
        .collect();
    let steps = if may_write {
        install::put(&system, &pieces, dry_run)?
    } else {
        Vec::new()
    };
    let prepared = match &vault {
        _ if !may_write => None,
        Ok(_) if !args.without_prepare => match allow(place, &system, dry_run) {
            Ok(prepared) => Some(prepared),
            Err(reason) => {
                problems.push(format!(
                    "the boot of this system's kernel and initrd could not be allowed: {reason}. \
                     Before the restart, `strongroom suspend --boots 2` lets it in; after it, \
                     `strongroom rebind --recovery FILE --yes` does"
                ));
                None
            }
        },
        // Before there is a vault, there is nothing to carry over but programs.
        Ok(_) | Err(Error::VaultMissing(_)) => None,
        Err(error) => {
            problems.push(error.to_string());
            None
        }
    };
    let mut mended = Vec::new();
    let mut brought = 0;
    if let (Ok(vault), false) = (&vault, dry_run || !may_write) {
        let mut tell = |what: &str, outcome: Result<()>| {
            if let Err(error) = outcome {
                problems.push(format!("{what}: {error}"));
            }
        };
        tell("groups of tokens", mend(vault, &mut mended));
        if !is_same(&place.dir, &dir) {
            let copied = bring_up_to_date(vault, &place.dir, &dir).map(|files| brought = files);
            tell("the system's copy of the vault", copied);
            let there = Vault::open(&dir).and_then(|there| mend(&there, &mut mended));
            tell("the system's copy of the vault", there);
        }
    }
    let report = json!({
        "root": system.root(),
        "dry-run": dry_run,
        "pieces": steps,
        "mended": mended,
        "vault-files": brought,
        "prepared": prepared,
        "problems": problems,
    });
    output::show(place.json, &report, || {
        install::say_steps(&steps, dry_run);
        if !mended.is_empty() {
            say!("Given back to their groups: {}", mended.join(", "));
        }
        if brought > 0 {
            say!("{brought} files of the vault were brought over.");
        }
        if let Some(prepared) = &prepared {
            say!(
                "{} is allowed{}.",
                prepared["kernel"].as_str().unwrap_or_default(),
                if prepared["written"] == true {
                    " now"
                } else {
                    ""
                }
            );
        }
        for problem in &problems {
            say!("LEFT TO BE DONE  {problem}");
        }
    });
    match problems.len() {
        0 => Ok(()),
        failed => Err(Failure::Partial {
            failed,
            total: steps.len() + failed,
        }),
    }
}

/// Why what is here might be older than what the system there has: it was started once more after that one
/// had been.
fn may_be_older(place: &Place, vault: &Result<Vault>, there: &Path) -> Option<String> {
    let vault = match vault {
        Ok(vault) => vault,
        Err(Error::VaultMissing(_)) if !there.join("vault.json").exists() => return None,
        Err(error) => {
            return Some(format!(
                "this system has not the vault that one has: {error}"
            ));
        }
    };
    // Which list the TPM holds to is asked of it in whatever boot.
    match place.tcti().and_then(|tcti| vault.boot_state(&tcti)) {
        Ok(_) => None,
        Err(Error::PolicyFile { .. }) => {
            Some("this system's vault is older than the TPM's list of allowed boots".to_owned())
        }
        Err(error) => Some(format!(
            "it is not known whether this system's vault is older than the TPM's list of allowed boots: \
             {error}"
        )),
    }
}

fn mend(vault: &Vault, mended: &mut Vec<String>) -> Result<()> {
    for token in vault.mend_access()? {
        let token = token.to_string();
        if !mended.contains(&token) {
            mended.push(token);
        }
    }
    Ok(())
}

/// Allows the boot of the kernel and initrd that a system has.
fn allow(place: &Place, system: &System, dry_run: bool) -> Result<Value, String> {
    let (kernel, initrd) = images(&system.at("boot"))?;
    let below = |file: &Path| -> PathBuf {
        Path::new("/").join(file.strip_prefix(system.root()).unwrap_or(file))
    };
    let args = Prepare {
        uki: None,
        kernel: Some(below(&kernel)),
        initrd: vec![below(&initrd)],
        cmdline: None,
        db: Vec::new(),
        dbx: Vec::new(),
        phases: Phase::USUAL.to_vec(),
        root: Some(system.root().to_owned()),
        dry_run,
        yes: true,
    };
    let allowed = prepare::allow(place, &args).map_err(|failure| failure.to_string())?;
    let words: Vec<_> = allowed.branches.iter().map(boots::words).collect();
    Ok(json!({
        "kernel": kernel,
        "initrd": initrd,
        "written": allowed.written,
        "allowed": words,
    }))
}

/// The kernel that TrueNAS starts, with its initrd: of several the newest, but no debugging one.
fn images(boot: &Path) -> Result<(PathBuf, PathBuf), String> {
    let entries = fs::read_dir(boot).map_err(|error| format!("{}: {error}", boot.display()))?;
    let mut versions: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix("vmlinuz-")?.to_owned();
            boot.join(format!("initrd.img-{version}"))
                .is_file()
                .then_some(version)
        })
        .collect();
    versions.sort_by_key(|version| (!version.contains("debug"), numbers(version)));
    // Some have but one, without a version.
    let names = versions.pop().map_or_else(
        || ["vmlinuz".to_owned(), "initrd.img".to_owned()],
        |version| {
            [
                format!("vmlinuz-{version}"),
                format!("initrd.img-{version}"),
            ]
        },
    );
    let [kernel, initrd] = names.map(|name| boot.join(name));
    if kernel.is_file() && initrd.is_file() {
        return Ok((kernel, initrd));
    }
    Err(format!(
        "{} has no kernel with an initrd (vmlinuz-VERSION, initrd.img-VERSION)",
        boot.display()
    ))
}

/// A version's numbers, in their order.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_that_is_not_for_debugging_is_taken() {
        let boot = tempfile::tempdir().expect("a folder");
        assert!(images(boot.path()).is_err());
        for version in [
            "6.6.44-production+truenas",
            "6.12.9-production+truenas",
            "6.12.33-debug+truenas",
            "6.12.33-production+truenas",
        ] {
            for name in ["vmlinuz-", "initrd.img-"] {
                fs::write(boot.path().join(format!("{name}{version}")), "").expect("written");
            }
        }
        // One without an initrd is none.
        fs::write(boot.path().join("vmlinuz-9.9"), "").expect("written");
        let (kernel, initrd) = images(boot.path()).expect("there are some");
        assert!(kernel.ends_with("vmlinuz-6.12.33-production+truenas"));
        assert!(initrd.ends_with("initrd.img-6.12.33-production+truenas"));
    }
}
