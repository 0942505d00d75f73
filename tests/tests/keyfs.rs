//! `zfs-keyprovider serve`: dataset keys as files, to root alone, and what becomes of them when
//! something hangs, breaks or is killed.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use strongroom_tests::executable;
use strongroom_tests::someone::{mode, set_mode};
use strongroom_tests::zfs::{StandInDataset, ZfsStandIn};
use strongroom_tests::{Gate, KeyFs, Run, Someone, TestVault};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const OTHER: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

#[test]
fn root_reads_each_key_in_its_form_and_every_opening_is_logged() {
    let Some(vault) = vault(&["tank/hex", "pool"]) else {
        return;
    };
    let raw = hex::decode(KEY).expect("it is hexadecimal");
    seal(&vault, "tank/deep/raw", "raw", &raw);
    seal(&vault, "tank/words", "passphrase", b"correct horse");
    vault.seal("datasets", "tank/no-key", b"a credential among keys");
    let keys = KeyFs::start(&vault);

    assert_eq!(keys.key("tank/hex"), KEY.as_bytes());
    assert_eq!(keys.key("tank/deep/raw"), raw);
    assert_eq!(keys.key("tank/words"), b"correct horse");
    assert_eq!(keys.key(".flat/tank%2Fdeep%2Fraw"), raw);
    assert_eq!(keys.key("pool"), KEY.as_bytes());
    assert_eq!(keys.names(""), [".flat", "pool", "tank"]);
    assert_eq!(keys.names("tank"), ["deep", "hex", "words"]);
    assert_eq!(
        keys.names(".flat"),
        ["pool", "tank%2Fdeep%2Fraw", "tank%2Fhex", "tank%2Fwords"]
    );

    let read = Run::new("cat").arg(keys.file("tank/words")).ok();
    assert_eq!(read.stdout, b"correct horse");
    let log = keys.log();
    assert_eq!(log.matches(" is given to pid ").count(), 6, "{log}");
    assert!(
        log.contains("the key of tank/words is given to pid"),
        "{log}"
    );
    assert!(log.contains(" (cat)"), "{log}");
    assert!(
        !log.contains("correct horse") && !log.contains(KEY),
        "{log}"
    );
    is_left_clean(&vault);
}

#[test]
fn a_file_shows_neither_its_length_nor_itself_to_others_and_is_not_written() {
    let Some(vault) = vault(&["tank/home"]) else {
        return;
    };
    let keys = KeyFs::start(&vault);
    let path = keys.file("tank/home");
    let stat = fs::metadata(&path).expect("it is there");
    assert!(stat.is_file());
    assert_eq!((stat.len(), stat.blocks(), stat.uid()), (0, 0, 0));
    assert_eq!(mode(&path), 0o400);
    assert_eq!(mode(&keys.file("tank")), 0o500);
    assert_eq!(mode(keys.mountpoint()), 0o500);

    let refused = OpenOptions::new().write(true).open(&path);
    assert_eq!(errno(refused), Errno::ROFS);
    assert_eq!(errno(File::create(keys.file("tank/new"))), Errno::ROFS);
    assert_eq!(errno(fs::remove_file(&path)), Errno::ROFS);
    assert_eq!(errno(fs::remove_dir(keys.file("tank"))), Errno::ROFS);

    // As libzfs reads it, and as others might.
    let mut file = File::open(&path).expect("root may");
    let mut part = [0; 8];
    file.read_exact(&mut part).expect("there are 64 digits");
    assert_eq!(part, KEY.as_bytes()[..8]);
    file.seek(SeekFrom::Start(60)).expect("it can");
    let mut rest = String::new();
    file.read_to_string(&mut rest).expect("the last four");
    assert_eq!(rest, KEY[60..]);
    assert_eq!(file.read_at(&mut part, 64).expect("the end"), 0);
    assert_eq!(file.read_at(&mut part, 1 << 40).expect("beyond it"), 0);
}

#[test]
fn whoever_is_not_root_is_refused_before_the_tpm_is_asked() {
    let Some(vault) = vault(&["tank/home"]) else {
        return;
    };
    if !Someone::can_be() {
        return;
    }
    let keys = KeyFs::start(&vault);
    set_mode(vault.folder(), 0o711);
    let before = vault.recorder().commands().len();
    for someone in [Someone::nobody(&[]), Someone::nobody(&[0])] {
        let prefix = someone.prefix();
        for name in ["tank/home", ".flat/tank%2Fhome", ""] {
            let refused = Run::new(&prefix[0])
                .args(&prefix[1..])
                .args(["head", "-c", "1"])
                .arg(keys.file(name))
                .fails_with(1);
            refused.says("Permission denied").does_not_show(&KEY[..8]);
        }
    }
    assert_eq!(vault.recorder().commands().len(), before);
    assert!(!keys.log().contains("given to"), "{}", keys.log());
    assert_eq!(keys.key("tank/home"), KEY.as_bytes());
}

#[test]
fn a_key_with_others_beneath_it_is_where_it_always_was() {
    let Some(vault) = vault(&["tank"]) else {
        return;
    };
    let keys = KeyFs::start(&vault);
    assert_eq!(keys.key("tank"), KEY.as_bytes());
    assert_eq!(keys.key(".flat/tank"), KEY.as_bytes());

    // While it is served.
    seal(&vault, "tank/home", "hex", OTHER.as_bytes());
    assert_eq!(keys.key(".flat/tank%2Fhome"), OTHER.as_bytes());
    keys.wait_for("the new key has its place", |keys| {
        keys.read("tank/home").ok().as_deref() == Some(OTHER.as_bytes())
    });
    assert_eq!(keys.key(".flat/tank"), KEY.as_bytes());
    assert_eq!(keys.errno("tank"), Errno::ISDIR.raw_os_error());
    assert_eq!(keys.names(".flat"), ["tank", "tank%2Fhome"]);
    drop(keys);

    let keys = KeyFs::start(&vault);
    let told = "tank has datasets with keys beneath it: its own key is .flat/tank alone";
    assert!(keys.log().contains(told), "{}", keys.log());
}

#[test]
fn what_changes_in_the_vault_is_seen_at_the_next_opening() {
    let Some(vault) = vault(&["tank/home"]) else {
        return;
    };
    let keys = KeyFs::start(&vault);
    assert_eq!(keys.key("tank/home"), KEY.as_bytes());
    seal(&vault, "tank/home", "hex", OTHER.as_bytes());
    assert_eq!(keys.key("tank/home"), OTHER.as_bytes());

    assert_eq!(keys.errno("tank/new"), Errno::NOENT.raw_os_error());
    let id = seal(&vault, "tank/new", "hex", KEY.as_bytes());
    assert_eq!(keys.key("tank/new"), KEY.as_bytes());
    vault.strongroom(&["remove", "--id", &id, "--yes"]).ok();
    assert_eq!(keys.errno("tank/new"), Errno::NOENT.raw_os_error());

    // Whoever has a file open has the key that it was opened for.
    let mut open = File::open(keys.file("tank/home")).expect("root may");
    seal(&vault, "tank/home", "hex", KEY.as_bytes());
    let mut read = String::new();
    open.read_to_string(&mut read).expect("a key");
    assert_eq!(read, OTHER);
}

#[test]
fn zfs_says_in_which_form_a_key_is_wanted_and_which_of_several_it_is() {
    let Some(vault) = vault(&["tank/raw", "tank/hex", "tank/turned"]) else {
        return;
    };
    let zfs = ZfsStandIn::new();
    let (raw, other) = (bytes(KEY), bytes(OTHER));
    zfs.pool("tank", 1);
    let hex = StandInDataset::raw("tank/hex", &raw).with_format("hex");
    zfs.dataset("tank/raw", 2, &StandInDataset::raw("tank/raw", &raw));
    zfs.dataset("tank/hex", 3, &hex);
    // A change of its key was cut short: the newest sealed one is not the dataset's.
    zfs.dataset("tank/turned", 4, &StandInDataset::raw("tank/turned", &raw));
    seal(&vault, "tank/turned", "raw", &other);
    let keys = start_with_zfs(&vault, &zfs);

    assert_eq!(keys.key("tank/raw"), raw);
    assert_eq!(keys.key("tank/hex"), KEY.as_bytes());
    assert_eq!(keys.key("tank/turned"), raw);
    zfs.write("tank/turned", "wrapping-key", &other);
    assert_eq!(keys.key("tank/turned"), other);
    zfs.write("tank/turned", "wrapping-key", bytes(&"77".repeat(32)));
    assert_eq!(keys.errno("tank/turned"), Errno::INVAL.raw_os_error());
    keys.wait_for("the log says why", |keys| {
        keys.log().contains("it is not the dataset's key")
    });
    is_left_clean(&vault);
}

#[test]
fn what_was_put_in_a_datasets_place_is_not_given_its_key() {
    let Some(vault) = vault(&[]) else {
        return;
    };
    let zfs = ZfsStandIn::new();
    let raw = bytes(KEY);
    zfs.pool("tank", 1);
    zfs.dataset("tank/home", 2, &StandInDataset::raw("tank/home", &raw));
    let adopt = Run::new(vault.programs().zfs_keyprovider())
        .args(["adopt", "tank/home"])
        .env("STRONGROOM_DIR", vault.dir())
        .env("STRONGROOM_TCTI", vault.recorder().tcti())
        .stdin(raw.as_slice());
    zfs.around(adopt).ok();
    let keys = start_with_zfs(&vault, &zfs);
    assert_eq!(keys.key("tank/home"), raw);
    zfs.pool("tank", 77);
    assert_eq!(keys.errno("tank/home"), Errno::INVAL.raw_os_error());
    keys.wait_for("the log says why", |keys| {
        keys.log()
            .contains("another pool was put in its place under the same name")
    });
}

#[test]
fn a_pool_that_hangs_costs_no_other_its_keys() {
    let Some(vault) = vault(&["tank/home", "stuck/home"]) else {
        return;
    };
    let bin = vault.folder().join("bin");
    fs::create_dir(&bin).expect("the folder can be written");
    let zfs = "#!/bin/sh
case $* in
*stuck/home) exec sleep 30 ;;
*) echo \"cannot open 'tank/home': dataset does not exist\" >&2; exit 1 ;;
esac
";
    executable::write(&bin.join("zfs"), zfs);
    let path = std::env::var("PATH").expect("there is one");
    let keys = KeyFs::start_with(&vault, |server| {
        server.env("PATH", format!("{}:{path}", bin.display()));
    });
    assert_eq!(keys.errno("stuck/home"), Errno::IO.raw_os_error());
    keys.wait_for("the log says why", |keys| {
        keys.log().contains("ZFS does not answer in time")
    });
    assert_eq!(keys.key("tank/home"), KEY.as_bytes());
}

#[test]
fn what_fails_has_its_own_error_and_words_in_the_log() {
    let Some(mut vault) = vault(&["tank/home", "tank/bad"]) else {
        return;
    };
    let gate = Gate::start(vault.recorder());
    let keys = KeyFs::start_with(&vault, |server| {
        server.env("STRONGROOM_TCTI", gate.tcti());
    });
    assert_eq!(keys.errno("tank/none"), Errno::NOENT.raw_os_error());

    let bad = object_file(&vault, "tank/bad");
    let good = fs::read(&bad).expect("an object");
    let mut changed = good.clone();
    let place = find(&changed, b"\"ciphertext\": \"").expect("it has one") + 15;
    changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
    fs::write(&bad, &changed).expect("the test may");
    assert_eq!(keys.errno("tank/bad"), Errno::IO.raw_os_error());
    keys.wait_for("the log says which", |keys| {
        keys.log().contains("is unusable")
    });
    assert_eq!(keys.key("tank/home"), KEY.as_bytes());

    gate.cut_after(0);
    assert_eq!(keys.errno("tank/home"), Errno::IO.raw_os_error());
    gate.open();
    assert_eq!(keys.key("tank/home"), KEY.as_bytes());

    vault.reboot(&[(7, "another boot"), (9, "x"), (11, "y")]);
    assert_eq!(keys.errno("tank/home"), Errno::ACCESS.raw_os_error());
    assert!(
        keys.log().contains("the policy refused this boot"),
        "{}",
        keys.log()
    );

    let manifest = vault.dir().join("vault.json");
    fs::rename(&manifest, vault.folder().join("away")).expect("the test may");
    keys.wait_for("the vault is gone", |keys| {
        keys.read("tank/home")
            .err()
            .and_then(|it| it.raw_os_error())
            == Some(Errno::IO.raw_os_error())
    });
    assert!(
        keys.log().contains("there is no vault in"),
        "{}",
        keys.log()
    );
    assert!(fs::metadata(keys.mountpoint()).is_ok());
}

#[test]
fn a_tpm_that_hangs_gives_an_error_in_time_and_keys_again_afterwards() {
    let Some(vault) = vault(&["tank/home", "tank/other"]) else {
        return;
    };
    let gate = Gate::start(vault.recorder());
    let keys = KeyFs::start_with(&vault, |server| {
        server
            .args(["--patience", "1"])
            .env("STRONGROOM_TCTI", gate.tcti());
    });
    gate.hold_after(4);
    let begun = Instant::now();
    thread::scope(|scope| {
        for name in ["tank/home", "tank/other", ".flat/tank%2Fhome"] {
            let keys = &keys;
            scope.spawn(move || assert_eq!(keys.errno(name), Errno::IO.raw_os_error()));
        }
        keys.wait_for("the TPM hangs", |_| gate.holds_one());
        // Names are no affair of the TPM's.
        let listed = Instant::now();
        assert_eq!(keys.names("tank"), ["home", "other"]);
        assert!(listed.elapsed() < Duration::from_millis(500));
    });
    let took = begun.elapsed();
    let bounds = Duration::from_millis(900)..Duration::from_millis(2500);
    assert!(bounds.contains(&took), "it took {took:?}");
    assert!(
        keys.log().contains("the TPM does not answer in time"),
        "{}",
        keys.log()
    );

    gate.open();
    assert_eq!(keys.key("tank/home"), KEY.as_bytes());
    keys.wait_for("the late key is told of", |keys| {
        keys.log().contains("came too late")
    });
    is_left_clean(&vault);
}

#[test]
fn a_tpm_that_hangs_holds_up_no_shutdown() {
    let Some(vault) = vault(&["tank/home"]) else {
        return;
    };
    let gate = Gate::start(vault.recorder());
    let mut keys = KeyFs::start_with(&vault, |server| {
        server.env("STRONGROOM_TCTI", gate.tcti());
    });
    let open = File::open(keys.file("tank/home")).expect("the TPM does not hang yet");
    gate.hold_after(3);
    let path = keys.file("tank/home");
    let waiting = thread::spawn(move || fs::read(path).is_err());
    keys.wait_for("the TPM hangs", |_| gate.holds_one());
    let inner = keys.inner_pid();

    let begun = Instant::now();
    terminate(keys.pid());
    let status = end_of(&mut keys);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "it took {took:?}");
    assert!(status.success(), "{status}: {}", keys.log());
    assert!(!keys.is_mounted());
    assert!(!Path::new(&format!("/proc/{inner}")).exists());
    assert!(waiting.join().expect("no panic"), "who waited has no key");
    drop(open);
    gate.turn_away();
}

#[test]
fn the_mount_of_a_server_that_was_killed_is_taken_over() {
    let Some(vault) = vault(&["tank/home"]) else {
        return;
    };
    let mut killed = KeyFs::start(&vault);
    let inner = killed.inner_pid();
    killed.daemon().kill();
    killed.wait_for("the other process ends too", |_| {
        !Path::new(&format!("/proc/{inner}")).exists()
    });
    assert!(killed.is_mounted());
    let left_over = Errno::NOTCONN.raw_os_error();
    assert_eq!(killed.errno("tank/home"), left_over);
    assert_eq!(errno(fs::metadata(killed.mountpoint())), Errno::NOTCONN);

    let keys = KeyFs::start(&vault);
    assert!(keys.log().contains("it is taken over"), "{}", keys.log());
    assert_eq!(keys.key("tank/home"), KEY.as_bytes());
    drop(keys);
    assert!(!killed.is_mounted(), "nothing of the first is beneath it");
}

#[test]
fn when_the_process_that_answers_is_killed_nothing_stays_mounted() {
    let Some(vault) = vault(&["tank/home"]) else {
        return;
    };
    let mut keys = KeyFs::start(&vault);
    let inner = process(keys.inner_pid());
    kill_process(inner, Signal::KILL).expect("it is ours");
    let status = end_of(&mut keys);
    assert_eq!(status.code(), Some(7), "{}", keys.log());
    assert!(
        keys.log()
            .contains("its server has ended (signal: 9 (SIGKILL)); it was unmounted"),
        "{}",
        keys.log()
    );
    assert!(!keys.is_mounted());
}

#[test]
fn a_mount_that_somebody_undoes_is_an_end_and_no_failure() {
    let Some(vault) = vault(&["tank/home"]) else {
        return;
    };
    let mut keys = KeyFs::start(&vault);
    Run::new("umount").arg(keys.mountpoint()).ok();
    let status = end_of(&mut keys);
    assert!(status.success(), "{status}: {}", keys.log());
}

#[test]
fn a_mountpoint_that_cannot_be_one_is_refused_in_words() {
    let Some(vault) = vault(&["tank/home"]) else {
        return;
    };
    let serve = |place: &Path| {
        vault
            .run(vault.programs().zfs_keyprovider())
            .arg("serve")
            .arg(place)
            .timeout(Duration::from_secs(10))
    };
    let folder = vault.folder().join("mountpoints");
    fs::create_dir(&folder).expect("the folder can be written");
    let file = folder.join("file");
    fs::write(&file, "").expect("the folder can be written");
    serve(&folder.join("no/such"))
        .fails_with(7)
        .says("does not exist");
    serve(&file).fails_with(7).says("it is not a folder");
    serve(&file.join("x")).fails_with(7).says("Not a directory");
    serve(&folder).fails_with(7).says("it is not empty");
    serve(Path::new("/proc")).fails_with(7).says("it is busy");

    let tmpfs = folder.join("tmpfs");
    fs::create_dir(&tmpfs).expect("the folder can be written");
    Run::new("mount")
        .args(["-t", "tmpfs", "x"])
        .arg(&tmpfs)
        .ok();
    let refused = serve(&tmpfs).fails_with(7);
    Run::new("umount").arg(&tmpfs).ok();
    refused.says("it is busy: a file system of type tmpfs is mounted there");

    let keys = KeyFs::start(&vault);
    serve(keys.mountpoint())
        .fails_with(7)
        .says("it is busy: another zfs-keyprovider serves it");
    let detour = folder.join("detour");
    symlink(keys.mountpoint(), &detour).expect("the folder can be written");
    serve(&detour).fails_with(7).says("it is busy");
    // One that does not answer is there all the same.
    let inner = process(keys.inner_pid());
    kill_process(inner, Signal::STOP).expect("it is ours");
    let refused = serve(keys.mountpoint()).fails_with(7);
    kill_process(inner, Signal::CONT).expect("it is ours");
    refused.says("it is busy: another zfs-keyprovider serves it");
    assert_eq!(keys.key("tank/home"), KEY.as_bytes());

    let nowhere = vault.folder().join("no-vault");
    serve(&folder.join("new"))
        .env("STRONGROOM_DIR", &nowhere)
        .fails_with(5)
        .says("there is no vault in");
    assert!(!folder.join("new").exists());
}

#[test]
fn a_folder_that_alone_is_missing_is_made_for_root() {
    let Some(vault) = vault(&["tank/home"]) else {
        return;
    };
    let keys = KeyFs::start(&vault);
    let place = keys.mountpoint().to_owned();
    drop(keys);
    assert_eq!(mode(&place), 0o700);
    // It serves again.
    assert_eq!(KeyFs::start(&vault).key("tank/home"), KEY.as_bytes());
}

#[test]
fn nothing_of_a_key_stays_in_memory_when_its_file_is_closed() {
    let Some(vault) = vault(&["tank/home"]) else {
        return;
    };
    let phrase = b"a phrase of nobody else's, 5b1f";
    seal(&vault, "tank/words", "passphrase", phrase);
    let keys = KeyFs::start(&vault);
    let inner = keys.inner_pid();
    let open = File::open(keys.file("tank/words")).expect("root may");
    assert!(memory_has(inner, phrase), "it is looked for rightly");
    drop(open);
    keys.wait_for("the key is forgotten", |_| !memory_has(inner, phrase));
    assert_eq!(keys.key("tank/words"), phrase);
    keys.wait_for("the key is forgotten", |_| !memory_has(inner, phrase));
    assert!(!memory_has(keys.pid(), phrase));
}

#[test]
fn the_process_that_handles_keys_has_confined_itself() {
    let Some(vault) = vault(&["tank/home"]) else {
        return;
    };
    let keys = KeyFs::start(&vault);
    let inner = keys.inner_pid();
    // By then all its threads are there.
    keys.key("tank/home");
    let tasks = fs::read_dir(format!("/proc/{inner}/task")).expect("it runs");
    let mut threads = 0;
    for task in tasks {
        let status = task.expect("an entry").path().join("status");
        let status = fs::read_to_string(status).expect("it runs");
        // CAP_DAC_OVERRIDE, and nothing that mounts, traces or loads modules.
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000002"] {
            assert!(status.contains(line), "{line}: {status}");
        }
        threads += 1;
    }
    assert!(threads >= 4, "{threads}");
    // It holds neither the terminal nor a file of somebody's.
    for number in ["0", "1"] {
        let open = fs::read_link(format!("/proc/{inner}/fd/{number}")).expect("it runs");
        assert_eq!(open, Path::new("/dev/null"));
    }
}

#[test]
fn the_service_manager_is_told_when_the_files_are_there() {
    let Some(vault) = vault(&["tank/home"]) else {
        return;
    };
    let place = vault.folder().join("notify");
    let manager = UnixDatagram::bind(&place).expect("the folder can be written");
    manager
        .set_read_timeout(Some(Duration::from_secs(15)))
        .expect("it can");
    let keys = KeyFs::spawn(&vault, |server| {
        server.env("NOTIFY_SOCKET", &place);
    });
    let mut message = [0; 64];
    let len = manager.recv(&mut message).expect("it says something");
    assert_eq!(&message[..len], b"READY=1");
    // At once, with no wait.
    assert_eq!(keys.key("tank/home"), KEY.as_bytes());
}

#[test]
fn many_readers_at_once_are_served_one_after_another() {
    let names = ["tank/a", "tank/b", "tank/c", "tank/d"];
    let Some(vault) = vault(&names) else {
        return;
    };
    let keys = KeyFs::start(&vault);
    thread::scope(|scope| {
        for reader in 0..8 {
            let keys = &keys;
            scope.spawn(move || assert_eq!(keys.key(names[reader % 4]), KEY.as_bytes()));
        }
    });
    is_left_clean(&vault);
}

/// A vault with keys of these datasets; nothing where they cannot be served.
fn vault(datasets: &[&str]) -> Option<TestVault> {
    if !KeyFs::can_be() {
        return None;
    }
    let vault = TestVault::new();
    for dataset in datasets {
        seal(&vault, dataset, "hex", KEY.as_bytes());
    }
    Some(vault)
}

fn seal(vault: &TestVault, dataset: &str, format: &str, key: &[u8]) -> String {
    let sealed = vault
        .strongroom(&["seal", "--token", "datasets", "--label", dataset, "--json"])
        .args(["--kind", "dataset-key", "--keyformat", format])
        .stdin(key)
        .ok();
    sealed.json()["id"].as_str().expect("an id").to_owned()
}

fn start_with_zfs(vault: &TestVault, zfs: &ZfsStandIn) -> KeyFs {
    KeyFs::start_with(vault, |server| {
        server.envs(zfs.environment());
    })
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    hex::decode(hexadecimal).expect("it is hexadecimal")
}

fn is_left_clean(vault: &TestVault) {
    assert_eq!(vault.tpm().transient_handles(), [0; 0]);
    assert_eq!(vault.tpm().loaded_sessions(), [0; 0]);
}

/// The file of a dataset's only key.
fn object_file(vault: &TestVault, dataset: &str) -> std::path::PathBuf {
    let listed = vault.strongroom(&["list", "--json"]).ok().json();
    let objects = listed["objects"].as_array().expect("a list").iter();
    let id = objects
        .filter(|object| object["label"] == dataset)
        .find_map(|object| object["id"].as_str())
        .expect("it is listed")
        .to_owned();
    vault.dir().join(format!("objects/datasets/{id}.json"))
}

fn errno<T>(outcome: std::io::Result<T>) -> Errno {
    match outcome {
        Ok(_) => panic!("it should have failed"),
        Err(error) => Errno::from_io_error(&error).expect("an error of the system"),
    }
}

fn terminate(pid: u32) {
    kill_process(process(pid), Signal::TERM).expect("it is ours");
}

fn process(pid: u32) -> Pid {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.expect("a process")
}

/// How the server ended, once it has.
fn end_of(keys: &mut KeyFs) -> ExitStatus {
    loop {
        match keys.daemon().ended() {
            Some(status) => return status,
            None => thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Whether a process has these bytes anywhere in its memory.
fn memory_has(pid: u32, bytes: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("the test is root");
    maps.lines()
        .filter(|line| line.contains(" rw"))
        .any(|line| {
            let range = line.split(' ').next().and_then(|it| it.split_once('-'));
            let (start, end) = range.expect("a range");
            let number = |digits| u64::from_str_radix(digits, 16).expect("a number");
            let (start, end) = (number(start), number(end));
            let mut here = vec![0; usize::try_from(end - start).expect("it fits")];
            memory.read_exact_at(&mut here, start).is_ok() && find(&here, bytes).is_some()
        })
}

fn find(bytes: &[u8], sought: &[u8]) -> Option<usize> {
    bytes
        .windows(sought.len())
        .position(|window| window == sought)
}
