//! The virtual machine itself, which tests of ZFS, of measured boots and of the kernel's TPM rest on.
//!
//! Boots take some seconds each, one after the other, so `make test` runs a sample of these.

use strongroom_tests::{Boot, Machine};

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
#[ignore = "one boot through UEFI"]
fn what_is_measured_is_what_the_event_log_says() {
    let script =
        format!("{SHOW_PCRS}\ntpm2_eventlog /sys/kernel/security/tpm0/binary_bios_measurements");
    let measured = Machine::new().run(&Boot::measured(), &script).ok();
    let (text, events) = (measured.text(), event_log_of(&measured.text()));
    for pcr in [7, 9, 11] {
        assert_ne!(pcr_in(&text, pcr), "0".repeat(64), "PCR {pcr}");
        assert_eq!(pcr_in(&text, pcr), pcr_in(&events, pcr), "PCR {pcr}");
    }
}

#[test]
#[ignore = "three boots through UEFI"]
fn with_secure_boot_the_machine_starts_nothing_else_and_what_it_measures_differs() {
    let mut machine = Machine::with_secure_boot();
    let enforced = machine.run(
        &Boot::measured(),
        &format!(
            "od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-*\n\
             cat /sys/kernel/security/lockdown >&2\n{SHOW_PCRS}"
        ),
    );
    let enforced = enforced.ok().says("[integrity]");
    let text = enforced.text();
    assert!(text.trim_start().starts_with("1\n"), "{enforced}");

    let free = Machine::new().run(&Boot::measured(), SHOW_PCRS).ok();
    assert_ne!(pcr_in(&text, 7), pcr_in(&free.text(), 7));
    assert_eq!(pcr_in(&text, 11), pcr_in(&free.text(), 11));

    machine.refuses(&Boot::unsigned());
}

#[test]
#[ignore = "three boots"]
fn a_power_cut_loses_what_was_not_synced_and_another_tpm_knows_nothing() {
    let mut machine = Machine::new();
    let cut = "strongroom init --recovery-out /var/lib/kit --yes --pcrs 7; sync
        strongroom seal --token credentials --kind credential --label kept <<<'a secret'; sync
        echo lost >/var/lib/lost
        echo b >/proc/sysrq-trigger";
    machine.run_until_power_cut(&Boot::direct(), cut);
    let next = "test ! -s /var/lib/lost
        is \"$(strongroom unseal --label kept | cat)\" 'a secret'";
    machine.run(&Boot::direct(), next).ok();
    machine.replace_tpm();
    let other = "must 4 TPM strongroom unseal --label kept --force";
    machine.run(&Boot::direct(), other).ok();
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
