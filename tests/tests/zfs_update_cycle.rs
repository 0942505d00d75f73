//! Updates with no human step: a new initrd and command line, prepared through the hook that a kernel
//! update runs, unlock at the next boot; what was replaced is refused after it.

use std::fs;
use std::path::Path;

use serde_json::Value;
use strongroom_tests::{Boot, Machine};

/// Where the hook finds the next image.
const IMAGE: &str = "/boot/efi/EFI/Linux/debian-6.12.efi";

/// PCRs of everything that an image changes, and of what it does not.
const PCRS: [u32; 4] = [4, 7, 9, 11];

/// A vault, and a pool with an encrypted dataset whose key is in the vault and nowhere else.
const ENROL: &str = "
make_disk
strongroom init --pcrs 4,7,9,11 --recovery-out /var/lib/kit --yes
truncate -s 128M /pool/tank
zpool create -O mountpoint=/t/tank tank /pool/tank
make_root tank/home raw
echo precious >/t/tank/home/file
export_pools
";

/// A boot that unlocks by itself, and revokes all others. It prints how its PCRs are.
const UNLOCKS: &str = "
import_pools
zfs-keyprovider load -a >&2
is $(locked) 0
zfs mount -a
is $(cat /t/tank/home/file) precious
export_pools
strongroom commit --yes >&2
strongroom status >&2
is $(strongroom status --json | grep -c prepared) 0
";

/// What an update runs. It prints what is predicted.
const UPDATES: &str = "
/etc/initramfs/post-update.d/zzz-strongroom 6.12 /boot/initrd.img-6.12 2>/run/said
cat /run/said >&2
grep -q 'is prepared for the next boot' /run/said
cat /var/lib/strongroom/policy.json
";

/// A boot that was replaced.
const REFUSED: &str = r#"
import_pools
must 3 "the policy refused this boot" zfs-keyprovider load -a
must 3 "the policy refused this boot" strongroom commit --yes
is $(locked) 1
# From a copy of the disk.
cp /var/lib/old-policy.json /var/lib/strongroom/policy.json
must 5 "not the list of allowed boots" zfs-keyprovider load -a
must 5 "not the list of allowed boots" zfs-keyprovider get tank/home
is $(locked) 1
export_pools
"#;

#[test]
fn two_updates_in_a_row_unlock_and_the_first_image_is_refused() {
    cycles(Machine::new(), 2);
}

#[test]
#[ignore = "twenty-two boots through UEFI"]
fn twenty_updates_in_a_row_unlock_and_the_first_image_is_refused() {
    cycles(Machine::with_secure_boot(), 20);
}

#[test]
#[ignore = "two boots of systemd"]
fn units_unlock_in_an_early_phase_and_commit_when_all_is_up() {
    let mut machine = Machine::new();
    machine.add_disk(256 << 20);
    for unit in ["strongroom-zfs-load-key", "strongroom-commit"] {
        let file = format!("/etc/systemd/system/{unit}.service");
        machine.bring(&file, ours(&format!("systemd/{unit}.service")));
        // The programs are on a disk of their own.
        let programs = "[Unit]\nRequiresMountsFor=/usr/local/bin\n";
        machine.bring(&format!("{file}.d/programs.conf"), programs);
    }
    let boot = Boot::measured().systemd();
    machine.run(&boot, ENROL_LATE).ok();
    machine.run(&boot, UNLOCKED_EARLY).ok();
}

/// Enrolled when all is up. Of the boots that are allowed one never came.
const ENROL_LATE: &str = r#"
strongroom init --pcrs 7,9,11 --recovery-out /var/lib/kit --yes
zpool create -o cachefile=/etc/zfs/zpool.cache -O mountpoint=/t/tank tank /dev/vdd
make_root tank/home raw
strongroom prepare --yes | tee /dev/stderr | grep 'phase start'
strongroom rebind --yes --add 11=abababababababababababababababababababababababababababababababab
is "$(grep -c '"pcrs"' /var/lib/strongroom/policy.json)" 4
systemctl daemon-reload
systemctl enable strongroom-zfs-load-key strongroom-commit
sync
"#;

const UNLOCKED_EARLY: &str = r#"
journalctl -b -u strongroom-zfs-load-key -u strongroom-commit >&2
is "$(systemctl list-units --state=failed --plain --no-legend)" ""
is $(locked) 0
wait_for systemctl is-active strongroom-commit
is "$(grep -c '"pcrs"' /var/lib/strongroom/policy.json)" 3
strongroom status >&2
"#;

fn ours(file: &str) -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    fs::read(file).expect("a file of ours")
}

fn cycles(mut machine: Machine, count: usize) {
    machine.add_disk(256 << 20);
    for (place, file) in [
        ("/etc/initramfs/post-update.d/zzz-strongroom", "debian"),
        (
            "/usr/local/lib/strongroom/prepare-next-boot",
            "prepare-next-boot",
        ),
    ] {
        machine.bring(place, ours(&format!("update-hooks/{file}")));
    }
    let boot = |number: usize| match number {
        0 => Boot::measured(),
        _ => Boot::measured()
            .command_line(&format!("strongroom.update={number}"))
            .initrd(&format!("initrd of update {number}")),
    };
    let mut predicted: Option<Value> = None;
    for number in 0..=count {
        let mut script = String::from(
            "print_pcrs() { cat /sys/class/tpm/tpm0/pcr-sha256/{4,7,9,11}; }\nprint_pcrs\n",
        );
        script += if number == 0 { ENROL } else { UNLOCKS };
        if number < count {
            machine.bring(IMAGE, machine.kernel_image(&boot(number + 1)));
            script += "chmod 755 /etc/initramfs/post-update.d/* /usr/local/lib/strongroom/*\n";
            script += UPDATES;
        }
        if number == 0 {
            script += "cp /var/lib/strongroom/policy.json /var/lib/old-policy.json\nsync\n";
        }
        let output = machine.run(&boot(number), &script).ok().text();
        let mut lines = output.lines();
        for pcr in PCRS {
            let booted = lines.next().expect("a PCR").to_lowercase();
            if let Some(predicted) = &predicted {
                let predicted = &predicted[pcr.to_string()];
                assert_eq!(
                    predicted.as_str(),
                    Some(booted.as_str()),
                    "PCR {pcr} of boot {number}"
                );
            }
        }
        let list: String = lines.skip_while(|line| *line != "{").collect();
        predicted = serde_json::from_str::<Value>(&list).ok().map(|list| {
            let newest = list["current"].as_array().and_then(|it| it.last().cloned());
            newest.expect("a branch")["pcrs"].clone()
        });
        assert_eq!(predicted.is_some(), number < count, "{output}");
    }
    machine.run(&boot(0), REFUSED).ok();
}
