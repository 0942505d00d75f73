//! ZFS that gets its keys from the vault, in a virtual machine: a real kernel, its ZFS, its TPM
//! device, and boots that firmware and kernel have measured themselves.
//!
//! Boots take some seconds each, one after the other, so `make test` runs a sample of these.

use strongroom_tests::{Boot, Machine};

/// A vault, and a pool with an encrypted dataset whose key is in the vault and nowhere else.
const ENROL: &str = r"
set -euo pipefail
strongroom init --recovery-out kit --yes
truncate -s 128M /var/lib/tank
zpool create -O mountpoint=none tank /var/lib/tank
openssl rand 32 >key
zfs create -o encryption=on -o keyformat=raw -o keylocation=prompt -o mountpoint=/home \
    tank/home <key
strongroom seal --token datasets --label tank/home --kind dataset-key --keyformat raw <key
rm key
echo precious >/home/file
zpool export tank
";

/// What a boot does to get at the data.
const UNLOCK: &str = r"
set -euo pipefail
zpool import -d /var/lib tank
zfs-keyprovider get tank/home | zfs load-key tank/home
zfs mount tank/home
cat /home/file
";

/// The PCRs, one a line.
const SHOW_PCRS: &str = r#"
for pcr in {0..15}; do
    echo "$pcr $(cat "/sys/class/tpm/tpm0/pcr-sha256/$pcr")"
done
"#;

#[test]
fn a_machine_has_zfs_and_a_tpm_and_says_how_a_script_went() {
    let mut machine = Machine::new();
    let disk = machine.add_disk(1 << 20);
    std::fs::write(&disk, b"from the host").expect("the disk is the test's");
    machine.bring("/etc/brought", "brought along");
    let output = machine.run(
        &Boot::direct(),
        r#"
        set -e
        test -c /dev/tpm0 -a -c /dev/tpmrm0 -a -c /dev/zfs
        head -c 13 /dev/vdd
        cat /etc/brought
        tpm2_getcap -T device:/dev/tpmrm0 properties-fixed >/dev/null
        strongroom --version >/dev/null
        test "$(ls /sys/class/net)" = lo
        echo this boot >/var/lib/left
        echo "on the other side" >&2
        exit 42
        "#,
    );
    let output = output.fails_with(42).says("on the other side");
    assert_eq!(output.text(), "from the hostbrought along");
    let next = machine.run(&Boot::direct(), "cat /var/lib/left").ok();
    assert_eq!(next.text(), "this boot\n");
}

#[test]
fn a_dataset_is_unlocked_by_the_boot_it_was_enrolled_in_and_by_no_other() {
    let (usual, other) = (
        Boot::measured(),
        Boot::measured().command_line("init_on_alloc=1"),
    );
    let mut machine = Machine::new();

    let script = format!(
        "{ENROL}\n{SHOW_PCRS}\n\
         tpm2_eventlog /sys/kernel/security/tpm0/binary_bios_measurements"
    );
    let measured = machine.run(&usual, &script).ok();
    let (text, events) = (measured.text(), event_log_of(&measured.text()));
    for pcr in [7, 9, 11] {
        assert_ne!(pcr_in(&text, pcr), "0".repeat(64), "PCR {pcr}");
        assert_eq!(pcr_in(&text, pcr), pcr_in(&events, pcr), "PCR {pcr}");
    }

    let unlocked = machine.run(&usual, &format!("{UNLOCK}\n{SHOW_PCRS}")).ok();
    let text = unlocked.text();
    assert!(text.starts_with("precious\n"), "{unlocked}");
    for pcr in [7, 9, 11] {
        assert_eq!(pcr_in(&text, pcr), pcr_in(&events, pcr), "PCR {pcr}");
    }

    machine
        .run(
            &other,
            &format!(
                r#"
                zpool import -d /var/lib tank || exit 99
                zfs-keyprovider get tank/home >nothing
                status=$?
                test ! -s nothing && test "$(zfs get -H -o value keystatus tank/home)" = unavailable || exit 98
                zpool export tank
                test $status = 3 || exit $status
                strongroom rebind --recovery kit --yes || exit 97
                {UNLOCK}
                zpool export tank
                exit 3
                "#
            ),
        )
        .fails_with(3)
        .says("PCRs 9, 11 are not as in");
}

#[test]
#[ignore = "two boots through UEFI"]
fn another_initrd_is_refused() {
    let mut machine = Machine::new();
    machine.run(&Boot::measured(), ENROL).ok();
    machine
        .run(
            &Boot::measured().initrd("something else"),
            "zfs-keyprovider get tank/home >nothing",
        )
        .fails_with(3)
        .says("PCRs 9, 11 are not as in");
}

#[test]
#[ignore = "four boots through UEFI"]
fn with_secure_boot_the_machine_starts_nothing_else_and_what_it_measures_differs() {
    let mut machine = Machine::with_secure_boot();
    let enforced = machine.run(
        &Boot::measured(),
        &format!(
            "od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-*\n\
             cat /sys/kernel/security/lockdown >&2\n{ENROL}\n{SHOW_PCRS}"
        ),
    );
    let enforced = enforced.ok().says("[integrity]");
    let text = enforced.text();
    assert!(text.trim_start().starts_with("1\n"), "{enforced}");

    let free = Machine::new().run(&Boot::measured(), SHOW_PCRS).ok();
    assert_ne!(pcr_in(&text, 7), pcr_in(&free.text(), 7));
    assert_eq!(pcr_in(&text, 11), pcr_in(&free.text(), 11));

    let unlocked = machine.run(&Boot::measured(), UNLOCK).ok();
    assert_eq!(unlocked.text(), "precious\n");
    machine.refuses(&Boot::unsigned());
}

#[test]
#[ignore = "four boots"]
fn a_tpm_that_is_gone_a_boot_nobody_measured_and_a_power_cut() {
    let mut machine = Machine::new();
    machine.run(&Boot::measured(), ENROL).ok();
    machine
        .run(&Boot::direct(), "zfs-keyprovider get tank/home >nothing")
        .fails_with(3);
    machine.run_until_power_cut(
        &Boot::measured(),
        &format!("({UNLOCK}) && echo b >/proc/sysrq-trigger"),
    );
    let unlocked = machine.run(&Boot::measured(), UNLOCK).ok();
    assert_eq!(unlocked.text(), "precious\n");
    machine.replace_tpm();
    machine
        .run(&Boot::measured(), "zfs-keyprovider get tank/home >nothing")
        .fails_with(4);
}

#[test]
#[ignore = "two boots of systemd"]
fn a_unit_runs_before_the_script_on_systemd() {
    let mut machine = Machine::new();
    machine.bring(
        "/etc/systemd/system/brought.service",
        "[Service]\nType=oneshot\nExecStart=/usr/local/bin/strongroom --version\n\
         ExecStart=/bin/touch /run/brought\n[Install]\nWantedBy=multi-user.target\n",
    );
    let systemd = Boot::direct().systemd();
    machine.run(&systemd, "systemctl enable brought").ok();
    let output = machine.run(
        &systemd,
        "set -ex\n\
         test -e /run/brought\n\
         test -c /dev/tpmrm0\n\
         test -c /dev/zfs\n\
         systemctl list-units --state=failed --no-legend",
    );
    assert_eq!(output.ok().text(), "");
}

#[test]
#[ignore = "one boot through UEFI, for figures"]
fn what_the_resource_manager_adds_is_counted() {
    let mut machine = Machine::new();
    machine
        .run(
            &Boot::measured(),
            &format!(
                "{ENROL}
            for device in tpm0 tpmrm0; do
                tpm-mark $device
                STRONGROOM_TCTI=device:/dev/$device strongroom unseal --token datasets \
                    --label tank/home | cat >/dev/null
            done
            tpm-mark end"
            ),
        )
        .ok();
    let names = |first, last| -> Vec<_> {
        let commands = machine.tpm_commands_between(first, last);
        commands.iter().map(|command| command.name).collect()
    };
    let (direct, managed) = (names("tpm0", "tpmrm0"), names("tpmrm0", "end"));
    let unseals = |names: &[&str]| names.iter().filter(|name| **name == "Unseal").count();
    assert!(unseals(&direct) > 0, "{direct:?}");
    assert_eq!(unseals(&direct), unseals(&managed), "{managed:?}");
    assert!(!direct.contains(&"ContextLoad"), "{direct:?}");
    assert!(managed.contains(&"ContextLoad"), "{managed:?}");
    assert!(managed.len() > 2 * direct.len(), "{managed:?}");
    eprintln!(
        "{} commands, {} through the manager",
        direct.len(),
        managed.len()
    );
}

/// The values of PCRs that a log's events lead to, as [`SHOW_PCRS`] shows them.
fn event_log_of(text: &str) -> String {
    let (_, replayed) = text.split_once("\npcrs:\n").expect("tpm2_eventlog replays");
    let (_, sha256) = replayed.split_once("sha256:\n").expect("a bank of SHA-256");
    let lines = sha256.lines().filter_map(|line| line.split_once(": 0x"));
    let shown = lines.map(|(pcr, value)| format!("{} {}", pcr.trim(), value.to_uppercase()));
    shown.collect::<Vec<_>>().join("\n")
}

/// The value that [`SHOW_PCRS`] showed.
#[track_caller]
fn pcr_in(text: &str, pcr: u32) -> String {
    let start = format!("{pcr} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("PCR {pcr} should be shown: {text}"))
        .to_owned()
}
