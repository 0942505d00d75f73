//! The policy suspended for a few restarts, which the TPM counts, and taken up again.

use std::fs;

use strongroom_tests::swtpm::USUAL_BOOT;
use strongroom_tests::vault_files::{read_json, snapshot, write_json};
use strongroom_tests::{Output, Swtpm, TestVault};

/// What new firmware leaves: Secure Boot's keys as they were, and the rest of the boot another.
const NEW_FIRMWARE: &[(u32, &str)] = &[USUAL_BOOT[0], (9, "new firmware"), (11, "new firmware")];
const OTHER_KEYS: &[(u32, &str)] = &[(7, "Secure Boot off"), USUAL_BOOT[1], USUAL_BOOT[2]];

#[test]
fn other_boots_are_let_in_for_so_many_restarts_and_no_more() {
    let mut machine = Machine::new();
    machine.suspend(&["--boots", "2"]).ok();
    assert!(machine.opens(), "in the boot that is allowed for good");
    machine.vault.reboot(NEW_FIRMWARE);
    assert!(machine.opens());
    machine.vault.reboot(OTHER_KEYS);
    assert!(!machine.opens(), "those keys have not signed it");
    // It was the second.
    machine.vault.reboot(NEW_FIRMWARE);
    assert!(!machine.opens());
    let status = machine.vault.strongroom(&["status"]).fails_with(3);
    assert!(status.text().contains("SUSPENDED  over"), "{status}");
    machine.vault.reboot(USUAL_BOOT);
    assert!(machine.opens());
}

#[test]
fn files_that_are_put_back_do_not_set_the_count_back() {
    let mut machine = Machine::new();
    machine.suspend(&["--boots", "1"]).ok();
    let copied = snapshot(&machine.vault.dir());
    machine.vault.reboot(NEW_FIRMWARE);
    assert!(machine.opens());
    machine.vault.reboot(NEW_FIRMWARE);
    for (file, content) in &copied {
        fs::write(machine.vault.dir().join(file), content).expect("put back");
    }
    assert!(!machine.opens());
    // Nor does a list that says another count, or none.
    let file = machine.vault.dir().join("policy.json");
    let good = read_json(&file);
    let place = good["current"].as_array().expect("a list").len() - 1;
    for resets in [u64::from(u32::MAX), 0] {
        let mut edited = good.clone();
        edited["current"][place]["suspended"]["resets"] = resets.into();
        write_json(&file, &edited);
        machine.unseal().fails_with(5);
    }
    let mut edited = good.clone();
    edited["current"][place]
        .as_object_mut()
        .expect("a branch")
        .remove("suspended");
    write_json(&file, &edited);
    machine.unseal().fails_with(5);
    // And after it has ended, an old list is of no use to anybody.
    write_json(&file, &good);
    machine.vault.reboot(USUAL_BOOT);
    machine.suspend(&["--boots", "3"]).ok();
    let suspended = read_json(&file);
    machine.suspend(&["--end"]).ok();
    write_json(&file, &suspended);
    machine.vault.reboot(NEW_FIRMWARE);
    machine.unseal().fails_with(5).says("policy.json");
}

#[test]
fn it_is_said_loudly_who_could_boot() {
    let machine = Machine::new();
    let said = machine.suspend(&["--boots", "3"]).ok();
    said.says("whoever boots anything on this machine that leaves PCR 7")
        .says("the keys in the firmware have signed");
    let status = machine.vault.strongroom(&["status"]).ok();
    assert!(
        status.text().contains("SUSPENDED  3 restart(s) left"),
        "{status}"
    );
    let json = machine.vault.strongroom(&["status", "--json"]).ok().json();
    assert_eq!(json["boot"]["suspended"]["boots-left"], 3);
    assert_eq!(json["boot"]["suspended"]["pcrs"], "7");
    machine.unseal().ok().says("the policy is suspended");
    machine.suspend(&["--end"]).ok();
    let json = machine.vault.strongroom(&["status", "--json"]).ok().json();
    assert!(json["boot"]["suspended"].is_null());
    let said = machine.unseal().ok();
    assert!(!said.stderr.contains("suspended"), "{said}");
}

#[test]
fn a_good_boot_of_what_is_new_ends_it_and_is_allowed_for_good() {
    let mut machine = Machine::new();
    machine.suspend(&["--boots", "4"]).ok();
    // Nothing is new yet: it waits.
    machine.vault.reboot(USUAL_BOOT);
    machine.vault.strongroom(&["commit", "--yes"]).ok();
    let json = machine.vault.strongroom(&["status", "--json"]).ok().json();
    assert_eq!(json["boot"]["suspended"]["boots-left"], 3);
    machine.vault.reboot(NEW_FIRMWARE);
    machine.vault.strongroom(&["commit", "--yes"]).ok();
    let json = machine.vault.strongroom(&["status", "--json"]).ok().json();
    assert!(json["boot"]["suspended"].is_null());
    machine.vault.reboot(NEW_FIRMWARE);
    assert!(machine.opens());
    machine.vault.reboot(USUAL_BOOT);
    assert!(!machine.opens(), "the old firmware's boot is revoked");
    // One that was never needed ends by itself.
    machine.vault.reboot(NEW_FIRMWARE);
    machine.suspend(&["--boots", "1"]).ok();
    machine.vault.reboot(NEW_FIRMWARE);
    machine.vault.reboot(NEW_FIRMWARE);
    machine.vault.strongroom(&["commit", "--yes"]).ok();
    let json = machine.vault.strongroom(&["status", "--json"]).ok().json();
    assert!(json["boot"]["suspended"].is_null());
}

#[test]
fn what_is_no_suspension_is_refused() {
    let machine = Machine::new();
    let before = snapshot(&machine.vault.dir());
    for (args, words) in [
        (&["--boots", "0"][..], "1 to 16"),
        (&["--boots", "17"], "1 to 16"),
        (&["--boots", "2", "--pcrs", "7,9,11"], "bound to no others"),
        (&["--boots", "2", "--pcrs", "4"], "not bound to it"),
        (&["--boots", "2", "--pcrs", "7,10"], "10"),
        (&["--boots", "2", "--pcrs", ""], "numbers with commas"),
    ] {
        let refused = machine.suspend(args).finish();
        assert!(matches!(refused.code(), Some(2 | 7)), "{refused}");
        refused.says(words);
    }
    machine.suspend(&[]).fails_with(2);
    assert_eq!(snapshot(&machine.vault.dir()), before);
    // A boot that is not allowed suspends nothing.
    let mut machine = machine;
    machine.vault.reboot(NEW_FIRMWARE);
    machine.suspend(&["--boots", "2"]).fails_with(3);
    // PCRs that nothing was measured into would let in everything.
    let tpm = Swtpm::boot(&[(9, "a boot without Secure Boot")]);
    let vault = TestVault::on(tpm, &["--pcrs", "7,9"]);
    let suspend = ["suspend", "--yes", "--boots", "2"];
    vault.strongroom(&suspend).fails_with(7).says("at reset");
}

#[test]
fn a_suspended_batch_costs_two_commands_more() {
    let mut machine = Machine::new();
    machine.suspend(&["--boots", "2"]).ok();
    machine.vault.reboot(NEW_FIRMWARE);
    machine.vault.recorder().take();
    machine.unseal().ok();
    let commands = machine.vault.recorder().take();
    let count = |name: &str| commands.iter().filter(|it| it.name == name).count();
    assert_eq!(count("Unseal"), 2, "K_vault, and the secret");
    assert_eq!(count("PolicyCounterTimer"), 4);
}

/// A machine with a vault and a credential in it.
struct Machine {
    vault: TestVault,
}

impl Machine {
    fn new() -> Self {
        let vault = TestVault::new();
        vault.seal("credentials", "offsite", b"a secret");
        Self { vault }
    }

    fn suspend(&self, args: &[&str]) -> strongroom_tests::Run {
        self.vault.strongroom(&["suspend", "--yes"]).args(args)
    }

    fn unseal(&self) -> strongroom_tests::Run {
        let unseal = ["unseal", "--token", "credentials", "--label", "offsite"];
        self.vault.strongroom(&unseal)
    }

    fn opens(&self) -> bool {
        let unsealed: Output = self.unseal().finish();
        if unsealed.code() == Some(0) {
            assert_eq!(unsealed.stdout, b"a secret");
            return true;
        }
        unsealed.fails_with(3);
        false
    }
}
