//! What is left open on this machine, in plain words, with the remedy.

use super::pcrs::{PcrReport, PcrState, kind};
use super::{Examination, Protection, Recommendation, SecureBoot, Storage};
use crate::tpm::TpmState;

/// One thing that its owner should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub grade: Grade,
    /// Its name, for programs: it stays the same from version to version.
    pub id: &'static str,
    /// What it is.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// A thief gets in, or a vault cannot be made.
    Serious,
    /// A thief with skill or luck gets in, or the owner may be refused.
    Caution,
    /// Good to know.
    Note,
}

impl Grade {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Serious => "serious",
            Self::Caution => "caution",
            Self::Note => "note",
        }
    }
}

/// TPM_PT_MANUFACTURER of those who have none but firmware TPMs, and of virtual machines (TCG
/// Vendor ID Registry).
const FIRMWARE_TPMS: [&str; 5] = ["AMD", "INTC", "MSFT", "QCOM", "HISI"];
const VIRTUAL_TPMS: [&str; 5] = ["IBM", "GOOG", "VMW", "AMZN", "XCG"];

pub(super) fn of(
    seen: &Examination,
    secure_boot: SecureBoot,
    pcrs: &[PcrReport],
    recommendation: &Recommendation,
) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    match &seen.tpm {
        Ok(tpm) => findings.tpm(tpm, seen.facts.tpm_driver.as_deref()),
        Err(reason) => findings.add(
            Grade::Serious,
            "tpm-missing",
            format!("No TPM could be asked: {reason}"),
            "Turn the TPM on in the firmware (it may be called PTT, fTPM or Security Device), and \
             run this as root.",
        ),
    }
    findings.log(seen, pcrs);
    findings.boot(secure_boot, pcrs, recommendation);
    findings.root(seen.facts.root.as_ref());
    findings.swap(&seen.facts.swaps);
    // Stable: those of one grade stay in the order of the boot.
    findings.0.sort_by_key(|finding| finding.grade);
    findings.0
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        grade: Grade,
        id: &'static str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.push(Finding {
            grade,
            id,
            what: what.into(),
            remedy: remedy.into(),
        });
    }

    fn tpm(&mut self, tpm: &TpmState, driver: Option<&str>) {
        if tpm.pcrs.is_none() {
            self.add(
                Grade::Serious,
                "sha256-bank-off",
                "The TPM's SHA-256 bank of PCRs is off: nothing can be bound to the boot.",
                "Turn the SHA-256 bank on in the firmware's TPM settings.",
            );
        }
        if !tpm.lacks.is_empty() {
            self.add(
                Grade::Serious,
                "tpm-too-old",
                format!(
                    "The TPM lacks what a vault rests on: {}.",
                    tpm.lacks.join(", ")
                ),
                "Update the TPM's firmware, or fit a newer TPM. There is no way around it: a vault \
                 without would not outlive an update.",
            );
        }
        if tpm.owner_auth_set {
            self.add(
                Grade::Serious,
                "owner-auth-set",
                "The TPM's owner hierarchy has a password, and init cannot define its index.",
                "Take the password off for init (tpm2_changeauth -c owner -p OLD), or clear the TPM \
                 if nothing else is sealed to it.",
            );
        } else {
            self.add(
                Grade::Note,
                "owner-auth-empty",
                "The TPM's owner hierarchy has no password: who runs as root, in whatever system, \
                 can remove the vault's index, but not make another that opens the vault.",
                "None is needed: a vault rests on the boot and not on this password. Against a \
                 removed index there is the recovery kit.",
            );
        }
        self.lockout(tpm);
        self.bus(tpm, driver);
    }

    fn lockout(&mut self, tpm: &TpmState) {
        let TpmState {
            failed_tries,
            max_tries,
            ..
        } = tpm;
        if tpm.in_lockout {
            self.add(
                Grade::Caution,
                "lockout",
                format!("The TPM is in lockout after {failed_tries} wrong authorisations."),
                "Strongroom's keys are exempt from it and open all the same. For other software: \
                 wait until it ends by itself, or tpm2_dictionarylockout --clear-lockout.",
            );
        } else if *failed_tries > 0 {
            self.add(
                Grade::Note,
                "failed-tries",
                format!(
                    "The TPM counts {failed_tries} wrong authorisations of {max_tries} before it \
                     locks itself. A power cut can count as one."
                ),
                "Nothing of Strongroom's is subject to it. Find out which software tries.",
            );
        }
    }

    fn bus(&mut self, tpm: &TpmState, driver: Option<&str>) {
        let maker = tpm.manufacturer.as_str();
        let wired = driver.is_some_and(|it| it.contains("spi") || it.contains("i2c"));
        let inside = FIRMWARE_TPMS.contains(&maker) || VIRTUAL_TPMS.contains(&maker);
        if wired || !inside {
            self.add(
                Grade::Caution,
                "discrete-tpm",
                format!(
                    "The TPM ({maker}) is a chip of its own: what it says can be listened to on \
                     the board, and who opens the box can reset it apart from the machine."
                ),
                "Strongroom encrypts what crosses the bus, which stops listening. Against a device \
                 put between chip and board, and against resets, use a firmware TPM where the \
                 machine has one, or give tokens a PIN.",
            );
        }
    }

    fn log(&mut self, seen: &Examination, pcrs: &[PcrReport]) {
        if let Err(reason) = &seen.log {
            self.add(
                Grade::Caution,
                "log-missing",
                format!("There is no event log to read: {reason}"),
                "Run this as root, with securityfs mounted at /sys/kernel/security. Without a log \
                 nobody can say what the PCRs stand for.",
            );
        }
        let numbers = |wanted: fn(&PcrReport) -> bool| {
            let found: Vec<_> = pcrs
                .iter()
                .filter(|report| wanted(report))
                .map(|report| report.pcr.to_string())
                .collect();
            (!found.is_empty()).then(|| found.join(", "))
        };
        if let Some(found) = numbers(|it| it.state == PcrState::Differs && it.pcr < 8) {
            self.add(
                Grade::Serious,
                "log-differs",
                format!("The event log does not lead to the values of PCRs of firmware: {found}."),
                "Is it this boot's log, and this machine's? If it is, firmware extends what it does \
                 not log, or someone changed the log. Bind to none of these PCRs; look for a \
                 firmware update.",
            );
        }
        // 10 is IMA's, and of those from 16 on nobody logs anything.
        let later = |it: &PcrReport| {
            let logged = it.replayed.is_some() && matches!(it.pcr, 8 | 9 | 11..=15);
            let beyond = matches!(it.state, PcrState::Differs | PcrState::Unlogged);
            let unlogged = it.state == PcrState::Unlogged && it.pcr < 8;
            logged && beyond || it.replayed.is_some() && unlogged
        };
        if let Some(found) = numbers(later) {
            self.add(
                Grade::Caution,
                "extended-unlogged",
                format!("The log does not say all that was extended into PCRs {found}."),
                "Something extends them after firmware, and may do so differently next time: find \
                 out what it is before you bind to them.",
            );
        }
        let failed = |it: &PcrReport| it.has(kind::FAILURE);
        if let Some(found) = numbers(failed) {
            self.add(
                Grade::Serious,
                "firmware-failure",
                format!("Firmware noted a failure of its own in PCRs {found}."),
                "Look into the firmware's log; update it.",
            );
        }
    }

    fn boot(
        &mut self,
        secure_boot: SecureBoot,
        pcrs: &[PcrReport],
        recommendation: &Recommendation,
    ) {
        let pcrs_wanted = recommendation
            .pcrs
            .as_ref()
            .map_or_else(String::new, |pcrs| {
                format!(" Until then bind to --pcrs {pcrs}.")
            });
        match secure_boot {
            SecureBoot::On => {}
            SecureBoot::Off => self.add(
                Grade::Serious,
                "secure-boot-off",
                "Secure Boot is off: firmware starts whatever it finds, and PCR 7 is the same for \
                 every system that is started so.",
                format!("Turn Secure Boot on in the firmware.{pcrs_wanted}"),
            ),
            SecureBoot::NoUefi => self.add(
                Grade::Serious,
                "no-uefi",
                "The machine was not started by UEFI: nothing checks the boot loader.",
                format!("Start it by UEFI, with Secure Boot on.{pcrs_wanted}"),
            ),
        }
        let Some(report) = pcrs.iter().find(|report| report.pcr == 11) else {
            return;
        };
        if report.has(kind::PHASES) {
            self.add(
                Grade::Caution,
                "pcr-11-phases",
                "systemd extends PCR 11 at each phase of the boot: what is enrolled late in the \
                 boot does not match when datasets are to be unlocked.",
                "Once a vault is made, `strongroom prepare --yes` allows this boot in its other phases.",
            );
        }
        let unused = report.state == PcrState::Unused
            || report.state == PcrState::NotCompared
                && report.replayed.is_some()
                && report.measured.is_empty();
        if !unused {
            return;
        }
        let taken = |pcr: u8| recommendation.because.iter().any(|(it, _)| *it == pcr);
        let remedy = "Boot a unified kernel image with systemd's stub (ukify, or dracut --uefi), or \
                      a GRUB with its tpm module.";
        if taken(9) {
            self.add(
                Grade::Note,
                "pcr-11-unused",
                "PCR 11 is never extended: the kernel is no unified image. PCR 9 stands for kernel \
                 and initrd instead.",
                "None is needed.",
            );
        } else if taken(4) {
            self.add(
                Grade::Caution,
                "pcr-11-unused",
                "PCR 11 is never extended, nor is 9: of kernel, initrd and command line at most \
                 what firmware itself starts is measured.",
                remedy,
            );
        } else {
            self.add(
                Grade::Serious,
                "pcr-11-unused",
                "PCR 11 is never extended, nor is 9: nothing measures kernel, initrd and command \
                 line. Who edits the command line is let in.",
                remedy,
            );
        }
    }

    fn root(&mut self, root: Option<&Storage>) {
        const REMEDY: &str = "Encrypt the root (LUKS bound to the TPM), or make it one that is \
                              verified (dm-verity).";
        match root {
            Some(root) => match root.protection {
                Protection::Encrypted | Protection::Authenticated | Protection::Memory => {}
                Protection::Open => self.add(
                    Grade::Serious,
                    "root-open",
                    format!(
                        "The root file system ({}) is neither encrypted nor authenticated: who has \
                         the disk for a minute can change a program on it, which the next measured \
                         boot then runs with the keys at hand. No PCR tells.",
                        root.source
                    ),
                    REMEDY,
                ),
                Protection::Zfs => self.add(
                    Grade::Caution,
                    "root-zfs",
                    format!(
                        "The root file system is the ZFS dataset {0}. Unless it is encrypted, who \
                         has the disk for a minute can change a program on it, which the next \
                         measured boot then runs with the keys at hand. TrueNAS's is not encrypted.",
                        root.source
                    ),
                    format!(
                        "See `zfs get encryption {}`. A boot pool of TrueNAS cannot be encrypted: \
                         keep its disks inside the locked box.",
                        root.source
                    ),
                ),
                Protection::Unknown => self.root_unknown(&format!("{} ({})", root.source, root.kind)),
            },
            None => self.root_unknown("?"),
        }
    }

    fn root_unknown(&mut self, root: &str) {
        self.add(
            Grade::Caution,
            "root-unknown",
            format!(
                "It cannot be seen here whether the root file system {root} is encrypted or \
                 authenticated. Where it is neither, a changed disk is not noticed."
            ),
            "See what it lies on: lsblk -o NAME,TYPE,FSTYPE,MOUNTPOINTS.",
        );
    }

    fn swap(&mut self, swaps: &[Storage]) {
        let names = |wanted: &[Protection]| {
            let found: Vec<_> = swaps
                .iter()
                .filter(|swap| wanted.contains(&swap.protection))
                .map(|swap| swap.source.as_str())
                .collect();
            (!found.is_empty()).then(|| found.join(", "))
        };
        if let Some(found) = names(&[Protection::Open, Protection::Authenticated]) {
            self.add(
                Grade::Caution,
                "swap-open",
                format!(
                    "Swap on {found} is not encrypted. Strongroom's own memory is locked, but what \
                     it hands a secret to (rclone, ZFS, OpenSSL) can be swapped out and stay on the \
                     disk."
                ),
                "Encrypt swap with a key of each boot (crypttab: swap,cipher=aes-xts-plain64), or \
                 turn it off.",
            );
        }
        if let Some(found) = names(&[Protection::Zfs, Protection::Unknown]) {
            self.add(
                Grade::Note,
                "swap-unknown",
                format!("It cannot be seen here whether swap on {found} is encrypted."),
                "See what it lies on: lsblk; for a ZFS volume `zfs get encryption`.",
            );
        }
    }
}
