//! Processes that are killed, and several at once, between a real ZFS and the kernel's TPM: no
//! dataset is left without a way in, and nothing stays in the TPM.

use std::time::Duration;

use strongroom_tests::{Boot, Machine};

const ENROL: &str = "
make_disk
strongroom init --recovery-out /var/lib/kit --yes --pcrs 7
";

/// Kills one of `load`, `serve` and `adopt --rotate` at a random instant `$rounds` times, by a signal
/// that none of them hears, and after each time unlocks as after a restart, in turns by the kernel's
/// device and by its resource manager.
const KILLS: &str = r#"
truncate -s 256M /pool/tank
zpool create -O mountpoint=/t/tank tank /pool/tank
make_root tank/raw raw
make_root tank/words passphrase -o pbkdf2iters=100000
for name in raw words; do echo precious >/t/tank/$name/file; done

settle() { while pgrep -x zfs >/dev/null; do sleep 0.05; done; }
# kill_within MILLISECONDS COMMAND...
kill_within() {
    local ms=$((RANDOM % $1)) process
    shift
    "$@" >/run/said 2>&1 &
    process=$!
    sleep $(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))
    if kill -9 $process 2>/dev/null; then killed=$((killed + 1)); fi
    wait $process 2>/dev/null || :
    # `zfs` itself goes on to its end.
    settle
}
time_of() {
    local start=$(date +%s%N)
    "$@" >/dev/null
    echo $((($(date +%s%N) - start) / 1000000))
}

rotating=$(time_of zfs-keyprovider adopt tank/raw --rotate)
lock tank/raw tank/words
loading=$(time_of zfs-keyprovider load -a)
killed=0
devices=(device:/dev/tpm0 device:/dev/tpmrm0)
for ((round = 0; round < rounds; round++)); do
    export STRONGROOM_TCTI=${devices[round % 2]}
    root=tank/raw
    case $((RANDOM % 4)) in
    0)
        lock tank/raw tank/words
        kill_within "$loading" zfs-keyprovider load -a
        ;;
    1)
        serve
        lock tank/raw tank/words
        zfs load-key -L file:///run/zfs-keys/tank/raw tank/raw >/dev/null 2>&1 &
        sleep 0.0$((RANDOM % 10))
        kill -9 $server $(pgrep -P $server) 2>/dev/null || :
        killed=$((killed + 1))
        wait
        ;;
    *)
        kill_within "$rotating" zfs-keyprovider adopt "$root" --rotate
        ;;
    esac
    # As after a restart.
    for name in raw words; do
        if [ "$(key_status tank/$name)" = available ]; then lock tank/$name; fi
    done
    export STRONGROOM_TCTI=${devices[(round / 2) % 2]}
    zfs-keyprovider get --recovery /var/lib/kit tank/raw | zfs load-key -n tank/raw >/dev/null
    zfs-keyprovider load -a --json >/run/loaded || {
        cat /run/loaded /run/said >&2
        strongroom list >&2
        exit 1
    }
    for name in raw words; do
        zfs mount tank/$name
        is "$(cat /t/tank/$name/file)" precious
    done
    # What was mounted by a server that is gone is taken over; keys that are none pile up, beside the one
    # that was loaded.
    if ((round % 10 == 9)); then
        serve
        kill $server
        wait $server
        strongroom list --json | python3 -c 'import json, sys
loaded = {d.get("object") for d in json.load(open("/run/loaded"))["datasets"]}
for o in json.load(sys.stdin)["objects"]:
    if o["label"] == "tank/raw" and o["id"] not in loaded: print(o["id"])' |
            while read -r id; do strongroom remove --id "$id" --yes >/dev/null; done
    fi
done
unset STRONGROOM_TCTI
zfs-keyprovider adopt tank/raw --rotate >/dev/null
lock tank/raw
zfs-keyprovider load tank/raw >/dev/null
for kind in handles-transient handles-loaded-session handles-saved-session; do
    is "$(tpm2_getcap -T device:/dev/tpm0 $kind)" ""
done
echo "$killed of $rounds were killed; a rotation takes $rotating ms, a load $loading ms"
"#;

#[test]
fn whoever_is_killed_leaves_a_way_into_each_dataset() {
    killed(8);
}

#[test]
#[ignore = "200 kills take about ten minutes"]
fn whoever_is_killed_at_any_of_many_instants_leaves_a_way_into_each_dataset() {
    killed(200);
}

fn killed(rounds: u32) {
    let mut machine = Machine::new();
    machine.add_disk(384 << 20);
    let script = format!("{ENROL}\nrounds={rounds}\n{KILLS}");
    let boot = Boot::direct().timeout(Duration::from_secs(120) + Duration::from_secs(12) * rounds);
    let killed = machine.run(&boot, &script).ok();
    eprintln!("{}", killed.text().lines().last().unwrap_or_default());
}

#[test]
#[ignore = "one boot"]
fn loads_and_reads_at_once_fail_nobody_and_leave_nothing_in_the_tpm() {
    let mut machine = Machine::new();
    machine.add_disk(512 << 20);
    let script = format!("{ENROL}\nmake_twenty_roots\n{AT_ONCE}");
    let boot = Boot::direct().timeout(Duration::from_secs(420));
    machine.run(&boot, &script).ok();
}

/// Two loads and two readers at once, twice: by the resource manager all, and with whoever is first
/// on the device itself.
const AT_ONCE: &str = r#"
strongroom seal --label remote --token credentials --kind credential <<<'a credential' >/dev/null
reads() {
    local n
    for n in 1 2 3 4 5; do
        is "$(pkcs11-tool --module /usr/local/bin/libstrongroom_pkcs11.so --token-label credentials             --read-object --type data --label remote 2>/run/reads.$1)" 'a credential'
    done
}
for tcti in device:/dev/tpmrm0 ""; do
    export STRONGROOM_TCTI=$tcti
    zfs unmount -a
    zfs unload-key -a >/dev/null
    is $(locked) 20
    jobs=()
    zfs-keyprovider load -a >/run/load.1 2>&1 & jobs+=($!)
    zfs-keyprovider load -a >/run/load.2 2>&1 & jobs+=($!)
    reads 1 & jobs+=($!)
    reads 2 & jobs+=($!)
    for job in "${jobs[@]}"; do
        wait "$job" || { tail -n 30 /run/load.* /run/reads.* >&2; exit 94; }
    done
    zfs mount -a
    read_back
    for kind in handles-transient handles-loaded-session handles-saved-session; do
        is "$(tpm2_getcap -T device:/dev/tpm0 $kind)" ""
    done
done
"#;
