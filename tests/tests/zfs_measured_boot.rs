//! Boots that firmware, systemd's stub and the kernel have measured: what was enrolled unlocks ZFS,
//! and nothing else does until the owner says so.

use strongroom_tests::{Boot, Machine};

/// A vault, and a pool with an encrypted dataset whose key is in the vault and nowhere else.
const ENROL: &str = "
make_disk
strongroom init --recovery-out /var/lib/kit --yes
strongroom status --json >&2
truncate -s 128M /pool/tank
zpool create -O mountpoint=/t/tank tank /pool/tank
make_root tank/home raw
make_root tank/words passphrase -o pbkdf2iters=100000
echo precious >/t/tank/home/file
export_pools
";

/// What a boot does to get at the data.
const UNLOCKS: &str = "
import_pools
zfs-keyprovider load -a
is $(locked) 0
zfs mount -a
is $(cat /t/tank/home/file) precious
export_pools
";

/// What a boot is told that was not enrolled, and what its owner does about it. What it is to be
/// told is in `$words`.
const REFUSED_AND_REBOUND: &str = r#"
import_pools
must 3 "$words" zfs-keyprovider load -a
must 3 "$words" zfs-keyprovider get tank/home
is $(locked) 2
serve
fails zfs load-key -L file:///run/zfs-keys/tank/home tank/home
grep -qF "$words" /run/serve.log
kill $server
export_pools
strongroom rebind --recovery /var/lib/kit --yes
"#;

#[test]
fn the_boot_that_was_enrolled_unlocks_and_another_command_line_does_not() {
    let mut machine = Machine::new();
    machine.add_disk(256 << 20);
    machine.run(&Boot::measured(), ENROL).ok();
    machine.run(&Boot::measured(), UNLOCKS).ok();
    let other = Boot::measured().command_line("init_on_alloc=1");
    refused_and_rebound(&mut machine, &other, "PCRs 9, 11 are not as in");
}

#[test]
#[ignore = "six boots through UEFI"]
fn nothing_else_unlocks_until_its_owner_says_so() {
    let mut machine = Machine::with_secure_boot();
    machine.add_disk(256 << 20);
    machine.run(&Boot::measured(), ENROL).ok();
    machine.run(&Boot::measured(), UNLOCKS).ok();
    let command_line = Boot::measured().command_line("init_on_alloc=1");
    refused_and_rebound(&mut machine, &command_line, "PCRs 9, 11 are not as in");
    let initrd = Boot::measured().initrd("something else");
    refused_and_rebound(&mut machine, &initrd, "PCRs 9, 11 are not as in");
    machine.switch_secure_boot_off();
    refused_and_rebound(
        &mut machine,
        &Boot::measured(),
        "PCRs 7, 9, 11 are not as in",
    );
    refused_and_rebound(&mut machine, &Boot::direct(), "PCRs 7, 9, 11 are not as in");
}

fn refused_and_rebound(machine: &mut Machine, boot: &Boot, words: &str) {
    let script = format!("words='{words}'\n{REFUSED_AND_REBOUND}\n{UNLOCKS}");
    machine.run(boot, &script).ok();
}
