//! `strongroom install`, `upgrade-guard` and `uninstall`, on root trees: everything is where it may run and
//! stays, or nothing is changed; an upgrade that takes `/etc` away and every group's bits is made good before
//! the restart; and nothing is removed before the keys are back, proven.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sha2::Digest;
use strongroom::event_log::{EventLog, Measured};
use strongroom_tests::executable;
use strongroom_tests::kernel_image::pe_image;
use strongroom_tests::nas::Nas;
use strongroom_tests::truenas_fixture::{Fixture, Generation};
use strongroom_tests::{Run, Swtpm, TestVault};

/// What is in a tree after an installation, besides what was there.
const PIECES: [&str; 32] = [
    "etc/pkcs11/modules/strongroom.module",
    "etc/systemd/system/ix-zfs.service.d/strongroom.conf",
    "etc/systemd/system/middlewared.service.d/strongroom.conf",
    "etc/systemd/system/middlewared.service.wants/run-strongroom-programs.mount",
    "etc/systemd/system/middlewared.service.wants/strongroom-hand-over.service",
    "etc/systemd/system/middlewared.service.wants/usr-bin-restic.mount",
    "etc/systemd/system/multi-user.target.wants/strongroom-before-restart.service",
    "etc/systemd/system/multi-user.target.wants/strongroom-commit.service",
    "etc/systemd/system/multi-user.target.wants/strongroom-enrol.path",
    "etc/systemd/system/multi-user.target.wants/strongroom-upgrade-guard.path",
    "etc/systemd/system/run-strongroom-programs.mount",
    "etc/systemd/system/strongroom-before-restart.service",
    "etc/systemd/system/strongroom-commit.service",
    "etc/systemd/system/strongroom-commit.service.d/truenas.conf",
    "etc/systemd/system/strongroom-enrol.path",
    "etc/systemd/system/strongroom-enrol.service",
    "etc/systemd/system/strongroom-enrol.timer",
    "etc/systemd/system/strongroom-hand-over.service",
    "etc/systemd/system/strongroom-upgrade-guard.path",
    "etc/systemd/system/strongroom-upgrade-guard.service",
    "etc/systemd/system/strongroom-upgrade-guard.timer",
    "etc/systemd/system/timers.target.wants/strongroom-enrol.timer",
    "etc/systemd/system/timers.target.wants/strongroom-upgrade-guard.timer",
    "etc/systemd/system/usr-bin-restic.mount",
    "root/strongroom/bin/restic",
    "root/strongroom/bin/rclone",
    "root/strongroom/credential-provider",
    "root/strongroom/guard-boot-environments",
    "root/strongroom/libstrongroom_pkcs11.so",
    "root/strongroom/strongroom",
    "root/strongroom/usr-bin-restic",
    "root/strongroom/zfs-keyprovider",
];

#[test]
fn everything_is_where_it_may_run_and_stays() {
    let tree = Tree::new();
    let before = tree.files();
    let seen = tree.install(&["--dry-run", "--json"]).ok().json();
    assert!(tree.files() == before);
    tree.install(&[]).ok();
    assert_eq!(tree.added(&before), PIECES);
    let planned = seen["pieces"].as_array().expect("a list");
    assert_eq!(planned.len(), PIECES.len());
    assert!(planned.iter().all(|piece| piece["state"] == "missing"));
    for name in ["rclone", "restic"] {
        let launcher = tree.at(&format!("root/strongroom/bin/{name}"));
        let found = fs::canonicalize(launcher).expect("a link that leads somewhere");
        assert!(found.ends_with("root/strongroom/credential-provider"));
    }
    assert_eq!(mode(&tree.at("root/strongroom/strongroom")), 0o755);
    assert_eq!(mode(&tree.at("data/strongroom")), 0o700);
    // The launcher's names come before the real ones, and nothing else does.
    let drop_in = tree.text("etc/systemd/system/middlewared.service.d/strongroom.conf");
    assert!(
        drop_in.contains("PATH=/root/strongroom/bin:/usr/"),
        "{drop_in}"
    );

    // Again, and no file is written.
    let times = tree.times();
    let again = tree.install(&["--json"]).ok().json();
    let pieces = again["pieces"].as_array().expect("a list");
    assert!(
        pieces.iter().all(|piece| piece["state"] == "right"),
        "{again:#}"
    );
    assert_eq!(tree.times(), times);
    // What somebody has changed is put right.
    fs::write(
        tree.at("etc/systemd/system/strongroom-enrol.timer"),
        "[Timer]\n",
    )
    .expect("ours");
    fs::remove_file(tree.at("root/strongroom/bin/rclone")).expect("ours");
    let mended = tree.install(&["--json"]).ok().json();
    let other: Vec<_> = mended["pieces"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|piece| piece["state"] != "right")
        .map(|piece| piece["path"].as_str().expect("a path"))
        .collect();
    assert_eq!(
        other,
        [
            "root/strongroom/bin/rclone",
            "etc/systemd/system/strongroom-enrol.timer"
        ]
    );
    assert_eq!(tree.added(&before), PIECES);

    // What its admin has switched off stays so, and what they have added stays too, to the end.
    let unit = tree.at("etc/systemd/system/strongroom-enrol.timer");
    fs::remove_file(&unit).expect("ours");
    symlink("/dev/null", &unit).expect("ours");
    let own = tree.at("etc/systemd/system/ix-zfs.service.d/override.conf");
    fs::write(&own, "[Service]\n").expect("ours");
    tree.install(&[]).ok();
    assert!(fs::read_link(&unit).is_ok_and(|to| to == Path::new("/dev/null")));
    assert!(own.exists());
}

#[test]
fn where_it_cannot_be_done_nothing_is_changed() {
    let tree = Tree::new();
    let before = tree.files();
    let empty = tempfile::tempdir().expect("a folder");
    Run::new(strongroom())
        .args(["install", "--root"])
        .arg(empty.path())
        .fails_with(7)
        .says("no TrueNAS system");
    assert_eq!(fs::read_dir(empty.path()).expect("there").count(), 0);
    fs::remove_file(tree.programs.path().join("zfs-keyprovider")).expect("ours");
    tree.install(&[]).fails_with(7).says("zfs-keyprovider");
    assert_eq!(tree.added(&before), &[] as &[&str]);
}

/// What systemd itself says of the units, with programs where they say.
#[test]
fn systemd_takes_the_units() {
    let there = Run::new("sh")
        .args(["-c", "command -v systemd-analyze"])
        .finish();
    if there.code() != Some(0) {
        println!("skipped: there is no systemd-analyze");
        return;
    }
    let tree = Tree::new();
    tree.install(&[]).ok();
    let units = tree.at("etc/systemd/system");
    let folder = tempfile::tempdir().expect("a folder");
    let mut files = Vec::new();
    for name in PIECES.iter().filter_map(|path| {
        let name = path.strip_prefix("etc/systemd/system/")?;
        (!name.contains('/')).then_some(name)
    }) {
        let text = fs::read_to_string(units.join(name)).expect("a unit");
        let here = format!("={}/", tree.at("root/strongroom").display());
        let text = text.replace("=/root/strongroom/", &here).replace(
            "ExecStart=strongroom ",
            &format!("ExecStart{here}strongroom "),
        );
        let file = folder.path().join(name);
        fs::write(&file, text).expect("a folder");
        files.push(file);
    }
    assert_eq!(files.len(), 11);
    let checked = Run::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(files)
        .finish();
    // It knows no middleware here.
    let said: Vec<_> = checked
        .stderr
        .lines()
        .filter(|line| line.contains("strongroom"))
        .collect();
    assert_eq!(said, &[] as &[&str], "{checked}");
}

#[test]
fn an_installation_killed_anywhere_is_finished_by_the_next() {
    if !traces() {
        return;
    }
    let tree = Tree::new();
    let before = tree.files();
    for call in ["rename", "fsync", "mkdir"] {
        for place in [1, 2, 7, 20] {
            tree.clear();
            tree.killed(&["install"], call, place);
            // Whatever is there is whole.
            for (path, bytes) in tree.files() {
                assert!(!bytes.is_empty(), "{path}");
            }
            tree.install(&[]).ok();
            assert_eq!(tree.added(&before), PIECES, "{call} {place}");
        }
    }
}

/// What an upgrade leaves: `/data` and `/root` cloned, `/etc` new, and no group's bits.
#[test]
fn an_upgrade_is_made_good_before_the_restart() {
    let Some(nas) = given_to_a_group() else {
        return;
    };
    let tree = Tree::of(nas.vault.folder());
    tree.install(&[]).ok();
    let new = tree.upgraded(&nas.vault.dir());
    let modes = |dir: &Path| -> BTreeMap<PathBuf, (u32, u32)> {
        let names = [
            "vault.json",
            "policy.json",
            ".",
            "objects",
            "objects/credentials",
            "objects/keys",
        ];
        let files = files_in(&dir.join("objects/credentials"));
        names
            .iter()
            .map(PathBuf::from)
            .chain(
                files
                    .into_keys()
                    .map(|name| Path::new("objects/credentials").join(name)),
            )
            .map(|name| {
                let metadata = fs::metadata(dir.join(&name)).expect("there");
                (name, (metadata.mode() & 0o7777, metadata.gid()))
            })
            .collect()
    };
    let right = modes(&nas.vault.dir());
    assert_ne!(modes(&new.at("data/strongroom")), right);
    // What was sealed after the upgrade had begun.
    let later = nas.vault.seal("credentials", "later", b"another secret");
    let right_later = modes(&nas.vault.dir());

    let report = tree.guard(&nas.vault, &new, &[]).fails_with(1);
    let report: Value = report.json();
    assert_eq!(report["mended"], json!(["credentials"]));
    // There is no event log here to predict by, which is said; all the rest is done.
    let problems = report["problems"].as_array().expect("a list");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0]
            .as_str()
            .is_some_and(|it| it.contains("strongroom suspend"))
    );
    let there: Vec<_> = PIECES
        .into_iter()
        .filter(|path| new.at(path).symlink_metadata().is_ok())
        .collect();
    assert_eq!(there, PIECES);
    assert_eq!(modes(&new.at("data/strongroom")), right_later);
    // The vault opens from there, with what came later.
    let unsealed = Run::new(strongroom())
        .args(["unseal", "--id", &later, "--dir"])
        .arg(new.at("data/strongroom"))
        .env("STRONGROOM_TCTI", nas.vault.recorder().tcti())
        .ok();
    assert_eq!(unsealed.stdout, b"another secret");

    // Again, and nothing is left to do but what could not be done.
    let times = new.times();
    tree.guard(&nas.vault, &new, &["--without-prepare"]).ok();
    assert_eq!(new.times(), times);
}

/// In the running system, too: for upgrades that nobody guarded.
#[test]
fn groups_are_given_back_in_the_running_system() {
    let Some(nas) = given_to_a_group() else {
        return;
    };
    let tree = Tree::of(nas.vault.folder());
    let access = || {
        let list = nas
            .vault
            .strongroom(&["token", "list", "--json"])
            .ok()
            .json();
        list.to_string()
    };
    let right = access();
    strip_groups(&nas.vault.dir());
    assert_ne!(access(), right);
    let report = nas
        .vault
        .strongroom(&["upgrade-guard", "--without-prepare", "--json", "--root"])
        .arg(tree.root())
        .arg("--from")
        .arg(tree.programs.path())
        .ok()
        .json();
    assert_eq!(report["mended"], json!(["credentials"]));
    assert_eq!(access(), right);
}

/// Another vault in the new system is another's.
#[test]
fn another_vault_is_not_written_over() {
    let nas = Nas::new(Generation::V26, 0);
    let other = TestVault::new();
    let tree = Tree::of(nas.vault.folder());
    tree.install(&[]).ok();
    let new = tree.upgraded(&other.dir());
    let before = files_in(&new.at("data/strongroom"));
    let report = tree
        .guard(&nas.vault, &new, &["--without-prepare"])
        .fails_with(1)
        .json();
    assert!(
        report["problems"].to_string().contains("it is vault"),
        "{report:#}"
    );
    assert!(files_in(&new.at("data/strongroom")) == before);
}

/// Started once more after the new system was committed, the old one is what is started next to no longer:
/// what it has is older than what is there.
#[test]
fn an_older_system_brings_nothing_over() {
    let nas = Nas::new(Generation::V26, 0);
    nas.vault.seal("credentials", "offsite", b"a secret");
    let tree = Tree::of(nas.vault.folder());
    tree.install(&[]).ok();
    let new = tree.upgraded(&nas.vault.dir());
    tree.guard(&nas.vault, &new, &["--without-prepare"]).ok();
    let there = new.at("data/strongroom");
    let before = new.files();
    // A TPM that cannot be asked says nothing of either.
    let run = tree.guard(&nas.vault, &new, &["--without-prepare"]);
    let report = run.env("STRONGROOM_TCTI", "swtpm:path=/nowhere/tpm");
    let problems = report.fails_with(1).json()["problems"].to_string();
    assert!(problems.contains("nothing was brought over"), "{problems}");
    assert!(new.files() == before);

    let in_new = |args: &[&str]| {
        let run = nas.vault.strongroom(args).arg("--dir").arg(&there);
        run.stdin(b"another secret")
    };
    let value = "11".repeat(32);
    in_new(&["rebind", "--yes", "--add", &format!("9={value}")]).ok();
    in_new(&["seal", "--token", "credentials", "--label", "later"])
        .args(["--kind", "credential"])
        .ok();
    fs::write(new.at("root/strongroom/strongroom"), "newer").expect("ours");
    fs::remove_file(new.at("etc/systemd/system/strongroom-enrol.timer")).expect("ours");
    let before = new.files();
    for args in [&["--without-prepare"][..], &[]] {
        let report = tree.guard(&nas.vault, &new, args).fails_with(1).json();
        let problems = report["problems"].to_string();
        assert!(problems.contains("older than"), "{report:#}");
        assert!(new.files() == before);
    }
    // Nor does one that has no vault at all.
    let none = tree.at("none");
    fs::create_dir(&none).expect("ours");
    let run = tree.guard(&nas.vault, &new, &["--without-prepare", "--dir"]);
    let problems = run.arg(&none).fails_with(1).json()["problems"].to_string();
    assert!(problems.contains("nothing was brought over"), "{problems}");
    assert!(new.files() == before);
}

/// The new system's kernel and initrd are allowed, and its copy of the vault has the list that the TPM
/// holds.
#[test]
fn the_new_systems_kernel_and_initrd_are_allowed() {
    let log = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/event-logs/grub-without-secure-boot.bin");
    let events = EventLog::read(&log).expect("a fixture").events().to_vec();
    let mut vault = TestVault::without_init(Swtpm::start());
    let boot = |vault: &mut TestVault, measured: &dyn Fn(&Measured) -> Option<[u8; 32]>| {
        vault.reboot(&[]);
        for event in events.iter().filter(|event| event.is_extended()) {
            let digest = measured(&event.measured).unwrap_or(event.digest);
            let extension = format!("{}:sha256={}", event.pcr, hex::encode(digest));
            vault.tpm().tpm2(&["pcrextend", &extension]).ok();
        }
    };
    boot(&mut vault, &|_| None);
    vault
        .strongroom(&["init", "--yes", "--pcrs", "4,8,9", "--recovery-out"])
        .arg(vault.recovery())
        .ok();
    vault.seal("credentials", "offsite", b"a secret");
    fs::create_dir(vault.folder().join("data")).expect("ours");
    Fixture::build(&vault.folder().join("data"), Generation::V26, 1, 0);
    let tree = Tree::of(vault.folder());
    let new = tree.upgraded(&vault.dir());
    let kernel = pe_image(&[(".text", b"another kernel")]);
    fs::create_dir_all(new.at("boot")).expect("ours");
    fs::write(new.at("boot/vmlinuz"), &kernel).expect("ours");
    fs::write(new.at("boot/initrd.img"), b"another initrd").expect("ours");

    let guard = |args: &[&str]| {
        let guard = tree.guard(&vault, &new, args).arg("--event-log").arg(&log);
        guard.ok().json()
    };
    assert_eq!(guard(&["--dry-run"])["prepared"]["written"], false);
    let report = guard(&[]);
    assert_eq!(report["prepared"]["written"], true, "{report:#}");
    assert_eq!(guard(&[])["prepared"]["written"], false);

    boot(&mut vault, &|measured| match measured {
        Measured::GrubFile(file) if file == "/vmlinuz" => {
            Some(sha2::Sha256::digest(&kernel).into())
        }
        Measured::GrubFile(file) if file == "/initrd.img" => {
            Some(sha2::Sha256::digest(b"another initrd").into())
        }
        Measured::LinuxInitrd => Some(sha2::Sha256::digest(b"another initrd").into()),
        _ => None,
    });
    let unsealed = vault
        .strongroom(&[
            "unseal",
            "--token",
            "credentials",
            "--label",
            "offsite",
            "--dir",
        ])
        .arg(new.at("data/strongroom"))
        .ok();
    assert_eq!(unsealed.stdout, b"a secret");
}

/// Killed anywhere, it can be run again.
#[test]
fn a_guard_killed_anywhere_is_finished_by_the_next() {
    if !traces() {
        return;
    }
    let nas = Nas::new(Generation::V26, 0);
    nas.vault.seal("credentials", "offsite", b"a secret");
    let tree = Tree::of(nas.vault.folder());
    tree.install(&[]).ok();
    let args = ["upgrade-guard", "--without-prepare", "--root"];
    for (call, place) in [("rename", 3), ("rename", 25), ("fsync", 40), ("chmod", 2)] {
        let new = tree.upgraded(&nas.vault.dir());
        nas.vault
            .seal("credentials", &format!("{call}{place}"), b"later");
        let mut command = killed_at(call, place);
        command
            .args(args)
            .arg(new.root())
            .arg("--from")
            .arg(tree.programs.path())
            .env("STRONGROOM_DIR", nas.vault.dir())
            .env("STRONGROOM_TCTI", nas.vault.recorder().tcti())
            .status()
            .expect("it ran");
        tree.guard(&nas.vault, &new, &["--without-prepare"]).ok();
        let mut here = files_in(&nas.vault.dir());
        let mut there = files_in(&new.at("data/strongroom"));
        for lock in [".lock", ".turn"] {
            here.remove(lock);
            there.remove(lock);
        }
        let differing: Vec<_> = here
            .keys()
            .filter(|name| here.get(*name) != there.get(*name))
            .collect();
        assert_eq!(differing, &[] as &[&String], "{call} {place}");
        assert_eq!(here.len(), there.len(), "{call} {place}");
    }
}

/// What finds the boot environment that is started next, beside stand-ins for ZFS and mount.
#[test]
fn the_boot_environment_that_is_started_next_is_guarded() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/truenas/guard-boot-environments");
    fs::create_dir(at("bin")).expect("ours");
    executable::copy(&script, &at("bin/guard-boot-environments"));
    let program = |name: &str, text: &str| {
        let file = at("bin").join(name);
        executable::write(&file, format!("#!/bin/sh\n{text}\n"));
    };
    let log = at("log").display().to_string();
    program(
        "strongroom",
        &format!("echo strongroom \"$@\" >> {log}; [ ! -e {log}.fail ]"),
    );
    program("findmnt", "echo boot-pool/ROOT/25.04");
    program("zpool", &format!("cat {log}.bootfs"));
    program("zfs", "case $5 in */home) exit 1 ;; esac; echo \"$5\"");
    // With a mountpoint of its own, where the first way fails.
    program(
        "mount",
        &format!(
            "case \"$*\" in *zfsutil*) ;; */root\\ *) exit 1 ;; esac; echo mount \"$@\" >> {log}"
        ),
    );
    program("umount", &format!("echo umount \"$@\" >> {log}"));
    let guard = |bootfs: &str| {
        fs::write(format!("{log}.bootfs"), format!("{bootfs}\n")).expect("ours");
        let _ = fs::remove_file(&log);
        let path = format!("{}:/usr/bin:/bin", at("bin").display());
        let run = Run::new("sh")
            .arg(at("bin/guard-boot-environments"))
            .env("PATH", path);
        let output = run.env("TMPDIR", folder.path()).finish();
        let said = fs::read_to_string(&log).expect("it ran");
        let root = said
            .lines()
            .find_map(|line| line.split("--root ").nth(1))
            .map(str::to_owned);
        let said = root.map_or(said.clone(), |root| said.replace(&root, "ROOT"));
        (output.code(), said)
    };
    assert_eq!(
        guard("boot-pool/ROOT/25.04"),
        (Some(0), "strongroom upgrade-guard\n".to_owned())
    );
    let (code, said) = guard("boot-pool/ROOT/25.10");
    assert_eq!(code, Some(0));
    assert_eq!(
        said,
        "strongroom upgrade-guard\n\
         mount -t zfs boot-pool/ROOT/25.10 ROOT\n\
         mount -t zfs boot-pool/ROOT/25.10/data ROOT/data\n\
         mount -t zfs boot-pool/ROOT/25.10/etc ROOT/etc\n\
         mount -t zfs -o zfsutil boot-pool/ROOT/25.10/root ROOT/root\n\
         strongroom upgrade-guard --root ROOT\n\
         umount -R ROOT\n"
    );
    fs::write(format!("{log}.fail"), "").expect("ours");
    assert_eq!(guard("boot-pool/ROOT/25.10").0, Some(1));
}

// The way out.

#[test]
fn the_keys_are_given_back_before_anything_is_removed() {
    for generation in [Generation::V24_10, Generation::V26] {
        let nas = Nas::new(generation, 0);
        let rows = nas.fixture.read_back();
        let tree = Tree::of(nas.vault.folder());
        let before = tree.files();
        tree.install(&[]).ok();
        nas.migrate().ok();
        let seen = tree
            .uninstall(&nas.vault, &["--dry-run", "--json"])
            .ok()
            .json();
        assert_eq!(seen["removed"].as_array().map(Vec::len), Some(PIECES.len()));
        let done = tree.uninstall(&nas.vault, &["--json"]).ok().json();
        assert_eq!(done["given-back"], seen["given-back"]);
        assert_eq!(nas.fixture.read_back().datasets.len(), rows.datasets.len());
        for (id, name, key) in &nas.fixture.dataset_keys {
            assert_eq!(
                nas.fixture.read_back().datasets[id].key.as_ref(),
                Some(key),
                "{name}"
            );
        }
        let left: Vec<_> = PIECES
            .into_iter()
            .filter(|path| tree.at(path).symlink_metadata().is_ok())
            .collect();
        assert_eq!(left, &[] as &[&str]);
        for folder in ["root/strongroom", "etc/systemd/system/ix-zfs.service.d"] {
            assert!(!tree.at(folder).exists(), "{folder}");
        }
        assert_eq!(
            tree.at("etc/hostname").exists(),
            before.contains_key("etc/hostname")
        );
        // The vault stays, with everything in it.
        assert!(!nas.objects().is_empty());
        // And again.
        tree.uninstall(&nas.vault, &[]).ok();
    }
}

#[test]
fn nothing_is_removed_as_long_as_one_secret_is_in_the_vault_alone() {
    let mut nas = Nas::new(Generation::V25_10, 0);
    let tree = Tree::of(nas.vault.folder());
    tree.install(&[]).ok();
    nas.migrate().args(["--only", "datasets,certificates"]).ok();
    let rows = nas.fixture.read_back();
    // Private keys are in the TPM, which gives them to nobody.
    tree.uninstall(&nas.vault, &[])
        .fails_with(1)
        .says("nothing was removed")
        .says("--recovery");
    assert_eq!(tree.installed(), PIECES.len());
    assert_eq!(nas.fixture.read_back(), rows);
    // A boot that the policy refuses.
    nas.vault.reboot(&[(7, "another boot loader")]);
    tree.uninstall(&nas.vault, &[]).fails_with(3);
    assert_eq!(tree.installed(), PIECES.len());
    // No vault, and a folder with something in it.
    let vault = nas.vault.dir().join("vault.json");
    fs::rename(&vault, vault.with_extension("away")).expect("ours");
    tree.uninstall(&nas.vault, &[]).fails_with(5);
    fs::rename(vault.with_extension("away"), &vault).expect("ours");
    assert_eq!(tree.installed(), PIECES.len());
    // Somebody has the database open.
    let middleware = nas.fixture.connect();
    middleware
        .execute_batch("SELECT 1 FROM system_settings")
        .expect("open");
    tree.uninstall(&nas.vault, &[])
        .fails_with(7)
        .says("has it open");
    drop(middleware);
    assert_eq!(tree.installed(), PIECES.len());
    // The kit opens all of it, in any boot.
    let kit = nas.vault.recovery().display().to_string();
    tree.uninstall(&nas.vault, &["--recovery", &kit]).ok();
    assert_eq!(tree.installed(), 0);
    for (id, name, key) in &nas.fixture.dataset_keys {
        assert_eq!(
            nas.fixture.read_back().datasets[id].key.as_ref(),
            Some(key),
            "{name}"
        );
    }
}

/// A placeholder of a vault that is not here: who removes the launcher now, loses the credential.
#[test]
fn a_database_that_refers_to_another_vault_keeps_its_programs() {
    let nas = Nas::new(Generation::V26, 0);
    let tree = Tree::of(nas.vault.folder());
    tree.install(&[]).ok();
    nas.migrate().ok();
    // The system's own folder holds none.
    tree.uninstall_unnamed()
        .fails_with(7)
        .says("a vault that is not here");
    assert!(tree.at("root/strongroom/strongroom").exists());
}

/// Where datasets alone have moved, nothing in the database says so: not the wrong folder is believed, nor
/// an empty one.
#[test]
fn a_vault_that_is_not_where_it_was_named_is_not_taken_for_none() {
    let nas = Nas::new(Generation::V26, 0);
    let tree = Tree::of(nas.vault.folder());
    tree.install(&[]).ok();
    nas.migrate().args(["--only", "datasets"]).ok();
    let rows = nas.fixture.read_back();
    let empty = tempfile::tempdir().expect("a folder");
    for wrong in [empty.path().to_owned(), empty.path().join("mistyped")] {
        let by_option = tree.uninstall_unnamed().arg("--dir").arg(&wrong);
        by_option.fails_with(5).says("no vault");
        let by_variable = tree.uninstall_unnamed().env("STRONGROOM_DIR", &wrong);
        by_variable.fails_with(5).says("no vault");
    }
    // Nobody named one, and there is none where it should be.
    tree.uninstall_unnamed()
        .fails_with(7)
        .says("dataset tank is")
        .says("--without-vault");
    assert_eq!(tree.installed(), PIECES.len());
    assert_eq!(nas.fixture.read_back(), rows);
    // Its owner knows better.
    tree.uninstall_unnamed().arg("--without-vault").ok();
    assert_eq!(tree.installed(), 0);
    // But not better than what is there.
    tree.install(&[]).ok();
    let named = tree.uninstall(&nas.vault, &["--without-vault"]);
    named.fails_with(2);
    assert_eq!(tree.installed(), PIECES.len());
}

/// A file that cannot be read may be the newest key of any dataset.
#[test]
fn an_older_key_is_not_given_back_in_the_place_of_a_damaged_one() {
    let nas = Nas::new(Generation::V26, 0);
    let tree = Tree::of(nas.vault.folder());
    tree.install(&[]).ok();
    nas.migrate().ok();
    let (row, dataset, _) = nas.key_of("tank/vm/zvol0");
    let newer = "7e".repeat(32);
    nas.write_key(row, &newer);
    nas.migrate().ok();
    let versions = &nas.objects()[&format!("truenas:storage_encrypteddataset/{row}")];
    let (_, id) = versions.iter().max().cloned().expect("two");
    let file = nas.vault.dir().join(format!("objects/datasets/{id}.json"));
    let whole = fs::read(&file).expect("the newest");
    fs::write(&file, &whole[..whole.len() / 2]).expect("ours");

    let rows = nas.fixture.read_back();
    tree.uninstall(&nas.vault, &[])
        .fails_with(1)
        .says(&id)
        .says("nothing was removed");
    assert_eq!(tree.installed(), PIECES.len());
    assert_eq!(nas.fixture.read_back(), rows);
    // The way back gives what it can, and no dataset's key.
    let report = nas.roll_back().fails_with(1).json();
    let kept = report["kept"].to_string();
    assert!(kept.contains(&dataset) && kept.contains(&id), "{kept}");
    let now = nas.fixture.read_back();
    assert_eq!(now.datasets, rows.datasets);
    assert_ne!(now.credentials, rows.credentials);

    fs::write(&file, &whole).expect("ours");
    tree.uninstall(&nas.vault, &[]).ok();
    assert_eq!(tree.installed(), 0);
    let key = nas.fixture.read_back().datasets[&row].key.clone();
    assert_eq!(key, Some(newer));
}

/// What never was in the database is not in it afterwards either, and that is said.
#[test]
fn what_is_in_the_vault_alone_is_named() {
    let nas = Nas::new(Generation::V26, 0);
    let tree = Tree::of(nas.vault.folder());
    nas.migrate().ok();
    nas.vault.seal("credentials", "typed by hand", b"a secret");
    for args in [&["--json", "--dry-run"], &["--json"] as &[&str]] {
        let report = tree.uninstall(&nas.vault, args).ok().json();
        let alone = report["in-vault-alone"].as_array().expect("a list");
        let labels: Vec<_> = alone.iter().map(|object| &object["label"]).collect();
        assert_eq!(labels, ["typed by hand"], "{args:?}");
    }
    let said = tree.uninstall(&nas.vault, &[]).ok().text();
    assert!(
        said.contains("In the vault alone: credential typed by hand"),
        "{said}"
    );
}

#[test]
fn an_uninstallation_killed_anywhere_is_finished_by_the_next() {
    if !traces() {
        return;
    }
    let nas = Nas::new(Generation::V26, 0);
    let tree = Tree::of(nas.vault.folder());
    nas.migrate().ok();
    let saved = nas.save();
    for (call, place) in [
        ("unlink", 1),
        ("unlink", 3),
        ("unlink", 12),
        ("pwrite64", 3),
        ("rename", 1),
        ("rmdir", 2),
    ] {
        nas.restore(&saved);
        tree.install(&[]).ok();
        let mut command = killed_at(call, place);
        command
            .args(["uninstall", "--yes", "--root"])
            .arg(tree.root())
            .env("STRONGROOM_DIR", nas.vault.dir())
            .env("STRONGROOM_TCTI", nas.vault.recorder().tcti())
            .status()
            .expect("it ran");
        nas.clear_tpm();
        let now = nas.copy_of_database().read_back();
        let back = (nas.fixture.dataset_keys.iter())
            .all(|(id, _, key)| now.datasets[id].key.as_ref() == Some(key));
        let whole = PIECES
            .iter()
            .all(|path| tree.at(path).symlink_metadata().is_ok());
        assert!(
            back || whole,
            "{call} {place}: something was removed before the keys were back"
        );
        tree.uninstall(&nas.vault, &[]).ok();
        assert!(!tree.at("root/strongroom").exists(), "{call} {place}");
        for (id, name, key) in &nas.fixture.dataset_keys {
            assert_eq!(
                nas.fixture.read_back().datasets[id].key.as_ref(),
                Some(key),
                "{name}"
            );
        }
    }
}

// Helpers.

/// A root tree of TrueNAS, and stand-ins for our programs.
struct Tree {
    root: PathBuf,
    programs: tempfile::TempDir,
    /// Goes with this, where nobody else has it.
    own_folder: Option<tempfile::TempDir>,
}

impl Tree {
    fn new() -> Self {
        let own = tempfile::tempdir().expect("a folder");
        fs::create_dir(own.path().join("data")).expect("ours");
        Fixture::build(&own.path().join("data"), Generation::V26, 1, 0);
        let mut tree = Self::of(own.path());
        tree.own_folder = Some(own);
        tree
    }

    /// One with a database in its `data` already.
    fn of(root: &Path) -> Self {
        let programs = tempfile::tempdir().expect("a folder");
        for name in [
            "strongroom",
            "zfs-keyprovider",
            "credential-provider",
            "libstrongroom_pkcs11.so",
        ] {
            let file = programs.path().join(name);
            executable::write(&file, format!("#!/bin/sh\necho {name}\n"));
        }
        fs::create_dir_all(root.join("etc")).expect("ours");
        fs::write(root.join("etc/hostname"), "truenas\n").expect("ours");
        Self {
            root: root.to_owned(),
            programs,
            own_folder: None,
        }
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).expect("it is there")
    }

    fn install(&self, args: &[&str]) -> Run {
        Run::new(strongroom())
            .args(["install", "--root"])
            .arg(&self.root)
            .arg("--from")
            .arg(self.programs.path())
            .args(args)
    }

    fn guard(&self, vault: &TestVault, new: &Tree, args: &[&str]) -> Run {
        vault
            .strongroom(&["upgrade-guard", "--json", "--root"])
            .arg(new.root())
            .arg("--from")
            .arg(self.programs.path())
            .args(args)
    }

    fn uninstall(&self, vault: &TestVault, args: &[&str]) -> Run {
        vault
            .strongroom(&["uninstall", "--yes", "--root"])
            .arg(&self.root)
            .args(args)
    }

    /// With nothing that says where the vault is.
    fn uninstall_unnamed(&self) -> Run {
        Run::new(strongroom())
            .args(["uninstall", "--yes", "--root"])
            .arg(&self.root)
    }

    /// How many pieces are there.
    fn installed(&self) -> usize {
        PIECES
            .into_iter()
            .filter(|path| self.at(path).symlink_metadata().is_ok())
            .count()
    }

    /// The files of what an installation touches, by their paths.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for folder in ["etc", "root", "data"] {
            for (name, bytes) in files_in(&self.at(folder)) {
                files.insert(format!("{folder}/{name}"), bytes);
            }
        }
        files
    }

    fn added(&self, before: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
        let now = self.files();
        let mut added: Vec<_> = now
            .into_keys()
            .filter(|path| !before.contains_key(path))
            .collect();
        added.sort_by_key(|path| PIECES.iter().position(|piece| piece == path));
        added
    }

    fn times(&self) -> Vec<Option<std::time::SystemTime>> {
        PIECES
            .iter()
            .map(|path| {
                self.at(path)
                    .symlink_metadata()
                    .and_then(|it| it.modified())
                    .ok()
            })
            .collect()
    }

    fn clear(&self) {
        for folder in ["etc/systemd", "etc/pkcs11", "root", "data/strongroom"] {
            let _ = fs::remove_dir_all(self.at(folder));
        }
    }

    fn killed(&self, args: &[&str], call: &str, place: u32) {
        killed_at(call, place)
            .args(args)
            .arg("--root")
            .arg(&self.root)
            .arg("--from")
            .arg(self.programs.path())
            .status()
            .expect("it ran");
    }

    /// The system that an upgrade has made of this one: with `data` and `root`, and no group's bits.
    fn upgraded(&self, vault: &Path) -> Tree {
        let own = tempfile::tempdir().expect("a folder");
        let copy = |from: &Path, to: &str| {
            Run::new("cp")
                .arg("-a")
                .arg(from)
                .arg(own.path().join(to))
                .ok();
        };
        copy(&self.at("data"), "data");
        let _ = fs::remove_dir_all(own.path().join("data/strongroom"));
        copy(vault, "data/strongroom");
        if self.at("root").exists() {
            copy(&self.at("root"), "root");
        }
        strip_groups(&own.path().join("data"));
        let mut tree = Self::of(own.path());
        tree.own_folder = Some(own);
        tree
    }
}

/// What TrueNAS's installer does to all data.
fn strip_groups(dir: &Path) {
    Run::new("chmod").args(["-R", "u=rwX,g=,o="]).arg(dir).ok();
}

/// A box with a token that a group may use; nothing where only root could make one.
fn given_to_a_group() -> Option<Nas> {
    let nas = Nas::new(Generation::V26, 0);
    nas.vault.seal("credentials", "offsite", b"a secret");
    nas.vault.seal("keys", "other", b"a secret of nobody else");
    let given = nas
        .vault
        .strongroom(&["token", "allow", "credentials", "--group", "3456"])
        .finish();
    if given.code() == Some(0) {
        return Some(nas);
    }
    // By number, where it has no name.
    let given = nas
        .vault
        .strongroom(&["token", "allow", "credentials", "--group", "www-data"])
        .finish();
    if given.code() != Some(0) {
        println!("skipped: {given}");
        return None;
    }
    Some(nas)
}

/// Every file and link below a folder.
fn files_in(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let kind = entry.file_type().expect("it is there");
            let name = path.strip_prefix(dir).expect("below").display().to_string();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_symlink() {
                let to = fs::read_link(&path).expect("a link");
                files.insert(name, to.display().to_string().into_bytes());
            } else {
                files.insert(name, fs::read(&path).expect("it is there"));
            }
        }
    }
    files
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").mode() & 0o7777
}

fn strongroom() -> PathBuf {
    strongroom_tests::Programs::locate().strongroom()
}

/// Our program under strace, which kills it at a call.
fn killed_at(call: &str, place: u32) -> Command {
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("trace={call}"))
        .arg("-e")
        .arg(format!("inject={call}:signal=KILL:when={place}"))
        .arg(strongroom())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn traces() -> bool {
    let tried = Command::new("strace")
        .args(["-qq", "-e", "trace=none", "true"])
        .status();
    let may = tried.is_ok_and(|status| status.success());
    if !may {
        println!("skipped: there is no strace that may trace");
    }
    may
}
