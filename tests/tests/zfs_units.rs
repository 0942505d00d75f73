//! The units of `systemd/` that bring ZFS its keys: when they run, when they do not, and what they
//! may do.

use strongroom_tests::unit::{self, ServiceUnit};

const LOAD: &str = "strongroom-zfs-load-key.service";
const SERVE: &str = "strongroom-keyfs.service";

#[test]
fn the_units_are_what_systemd_reads() {
    unit::verify(&[LOAD, SERVE]);
}

#[test]
fn neither_is_more_exposed_than_it_must_be() {
    for (name, most) in [(LOAD, 15), (SERVE, 45)] {
        let Some(exposure) = unit::exposure(name) else {
            return;
        };
        assert!(exposure <= most, "{name}: {exposure} of 100");
    }
}

#[test]
fn keys_come_after_the_tpm_and_before_what_needs_them() {
    let load = ServiceUnit::read(LOAD, "");
    let serve = ServiceUnit::read(SERVE, "");
    for unit in [&load, &serve] {
        has(
            unit,
            "Before",
            &["zfs-mount.service", "zfs-load-key.service"],
        );
        has(unit, "After", &["tpm2.target", "dev-tpmrm0.device"]);
        assert_eq!(unit.setting("WantedBy"), "zfs.target");
        // A box whose keys do not come boots all the same, and nothing waits for ever.
        for stronger in ["RequiredBy", "Requires", "BindsTo", "OnFailure"] {
            has_none(unit, stronger);
        }
    }
    has(&load, "After", &["zfs-import.target", SERVE]);
    has(&serve, "Before", &[LOAD]);
    assert_eq!(load.setting("TimeoutStartSec"), "5min");
}

#[test]
fn a_boot_for_repairs_opens_nothing() {
    for name in [LOAD, SERVE] {
        let unit = ServiceUnit::read(name, "");
        has(&unit, "Conflicts", &["rescue.target", "emergency.target"]);
        has(&unit, "Conflicts", &["shutdown.target"]);
        has(
            &unit,
            "ConditionKernelCommandLine",
            &["!rescue", "!emergency", "!systemd.unit=rescue.target"],
        );
    }
}

#[test]
fn nothing_puts_either_into_a_circle_of_what_waits_for_what() {
    for name in [LOAD, SERVE] {
        let unit = ServiceUnit::read(name, "");
        // By default services come after basic.target, which comes after local-fs.target.
        assert_eq!(unit.setting("DefaultDependencies"), "no");
        // And these wait for systemd-tmpfiles-setup.service.
        for late in [
            "PrivateTmp",
            "RuntimeDirectory",
            "StateDirectory",
            "DynamicUser",
        ] {
            has_none(&unit, late);
        }
    }
}

#[test]
fn the_mount_is_made_where_the_host_sees_it() {
    let unit = ServiceUnit::read(SERVE, "");
    // Each of them gives the service a namespace of file systems of its own (systemd.exec(5)).
    for setting in [
        "BindPaths",
        "InaccessiblePaths",
        "MountFlags",
        "NoExecPaths",
        "PrivateDevices",
        "PrivateIPC",
        "PrivateMounts",
        "PrivateTmp",
        "ProcSubset",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "RootDirectory",
        "RootImage",
        "TemporaryFileSystem",
    ] {
        has_none(&unit, setting);
    }
    assert_eq!(unit.setting("Type"), "notify");
    assert_eq!(unit.setting("KillMode"), "mixed");
    assert_eq!(
        unit.exec_start(),
        ["zfs-keyprovider", "serve", "/run/zfs-keys"]
    );
}

#[track_caller]
fn has(unit: &ServiceUnit, setting: &str, words: &[&str]) {
    let there = unit.settings(setting);
    for word in words {
        assert!(there.contains(word), "{setting} without {word}: {there:?}");
    }
}

#[track_caller]
fn has_none(unit: &ServiceUnit, setting: &str) {
    assert_eq!(unit.settings(setting), [""; 0], "{setting}");
}
