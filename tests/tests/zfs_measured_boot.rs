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
/// told is in `/run/words`, a line each.
const REFUSED_AND_REBOUND: &str = r#"
import_pools
while read -r words; do
    must 3 "$words" zfs-keyprovider load -a
    must 3 "$words" zfs-keyprovider get tank/home
done </run/words
is $(locked) 2
serve
fails zfs load-key -L file:///run/zfs-keys/tank/home tank/home
while read -r words; do
    grep -qF "$words" /run/serve.log
done </run/words
kill $server
export_pools
# Of a boot that nobody measured, it wants to hear which PCRs are meant.
strongroom rebind --recovery /var/lib/kit --yes || strongroom rebind --recovery /var/lib/kit --pcrs 7,9,11 --yes
"#;

#[test]
fn the_boot_that_was_enrolled_unlocks_and_another_command_line_does_not() {
    let mut machine = enrolled(Machine::new());
    let other = Boot::measured().command_line("init_on_alloc=1");
    refused_and_rebound(&mut machine, &other, &OTHER_COMMAND_LINE);
}

#[test]
#[ignore = "six boots through UEFI"]
fn nothing_else_unlocks_until_its_owner_says_so() {
    let mut machine = enrolled(Machine::with_secure_boot());
    let command_line = Boot::measured().command_line("init_on_alloc=1");
    refused_and_rebound(&mut machine, &command_line, &OTHER_COMMAND_LINE);
    let initrd = Boot::measured().initrd("something else");
    refused_and_rebound(&mut machine, &initrd, &OTHER_INITRD);
    machine.switch_secure_boot_off();
    refused_and_rebound(&mut machine, &Boot::measured(), &SECURE_BOOT_OFF);
    refused_and_rebound(&mut machine, &Boot::direct(), &NOT_MEASURED);
}

const NINE_AND_ELEVEN: &str = "PCRs 9, 11 are not as in";
const OTHER_COMMAND_LINE: [&str; 3] = [
    NINE_AND_ELEVEN,
    "PCR 9: the kernel's command line is not the one that was enrolled",
    "PCR 11: section .cmdline of the unified kernel image is not the one that was enrolled",
];
const OTHER_INITRD: [&str; 3] = [
    NINE_AND_ELEVEN,
    "PCR 9: the initrd is not the one that was enrolled",
    "PCR 11: section .initrd of the unified kernel image is not the one that was enrolled",
];
const SECURE_BOOT_OFF: [&str; 2] = [
    "PCRs 7, 9, 11 are not as in",
    "PCR 7: Secure Boot is off, and was on when enrolled",
];
/// Another firmware, which measures no more than that it was there.
const NOT_MEASURED: [&str; 3] = [
    "PCRs 7, 9, 11 are not as in",
    "PCR 9: the initrd was not measured, and was when enrolled",
    "PCR 11: section .linux of the unified kernel image was not measured, and was when enrolled",
];

/// A machine that has been enrolled, and unlocks at the next boot.
fn enrolled(mut machine: Machine) -> Machine {
    machine.add_disk(256 << 20);
    machine.run(&Boot::measured(), ENROL).ok();
    machine.run(&Boot::measured(), UNLOCKS).ok();
    machine
}

fn refused_and_rebound(machine: &mut Machine, boot: &Boot, words: &[&str]) {
    let words = words.join("\n");
    let script = format!("cat >/run/words <<'E'\n{words}\nE\n{REFUSED_AND_REBOUND}\n{UNLOCKS}");
    machine.run(boot, &script).ok();
}
