//! ZFS that gets its keys from the vault, on a real kernel: after a reboot, by `load`, by served
//! files, and what becomes of what is not as it should be.

use strongroom_tests::{Boot, Machine};

/// The disk with the pools, in bytes.
const DISK: u64 = 512 << 20;

/// A vault that is bound to what a direct boot measures, and twenty encryption roots.
const ENROL: &str = "
make_disk
strongroom init --recovery-out /var/lib/kit --yes --pcrs 7
make_twenty_roots
read_back
export_pools
";

#[test]
fn twenty_roots_are_unlocked_after_a_reboot_by_load_and_by_served_files() {
    let mut machine = Machine::new();
    machine.add_disk(DISK);
    machine.run(&Boot::direct(), ENROL).ok();

    let load = "
        import_pools
        is $(locked) 20
        zfs-keyprovider load -a --json
        zfs mount -a
        read_back
        export_pools";
    let loaded = machine.run(&Boot::direct(), load).ok().json();
    assert_eq!(loaded["loaded"], 20, "{loaded}");
    assert_eq!(loaded["failed"], 0, "{loaded}");
    assert_eq!(loaded["tpm"], "device:/dev/tpm0", "{loaded}");
    assert_eq!(loaded["loader"], "libzfs_core", "{loaded}");

    let served = r#"
        import_pools
        roots=$(zfs get -H -t filesystem,volume -o name,value encryptionroot | awk -F '\t' '$1 == $2 { print $1 }')
        while read -r root; do
            zfs set "keylocation=file:///run/zfs-keys/.flat/${root//\//%2F}" "$root"
        done <<<"$roots"
        serve
        zfs load-key -a
        zfs mount -a
        read_back
        export_pools

        import_pools -l
        read_back
        zfs unmount -a
        zfs unload-key -a
        is $(locked) 20
        zfs mount -a -l
        is "$(cat "/t/tank/hex 4/file")" "data of tank/hex 4"

        # Without its server, ZFS says that it has no key, and the next server takes over.
        lock tank/raw3
        kill -9 $server
        fails zfs load-key tank/raw3
        serve
        zfs load-key tank/raw3
        kill $server
        wait $server
        fails mountpoint /run/zfs-keys
        export_pools
        cat /run/serve.log"#;
    let served = machine.run(&Boot::direct(), served).ok().text();
    for words in ["the key of tank/raw1 is given to pid", "(zpool)", "(zfs)"] {
        assert!(served.contains(words), "{served}");
    }
}

#[test]
#[ignore = "two boots"]
fn what_is_not_as_it_should_be_is_said_and_costs_the_rest_nothing() {
    let mut machine = Machine::new();
    machine.add_disk(DISK);
    machine.run(&Boot::direct(), ENROL).ok();
    machine.run(&Boot::direct(), BAD_INPUT).ok();
}

const BAD_INPUT: &str = r#"
import_pools
load() { must "$1" "$2" zfs-keyprovider load "${@:3}"; }

# What is no encryption root, not there, not encrypted, loaded already.
load 1 "its key is that of tank/hex1" tank/hex1 tank/hex1/child
is "$(key_status tank/hex1)" available
load 6 "does not exist" tank/none
load 1 "it is not encrypted" tank tank/hex2
load 0 "loaded already" tank/hex2
make_root tank/stranger raw
id=$(strongroom list --json | python3 -c 'import json,sys
print([o["id"] for o in json.load(sys.stdin)["objects"] if o["label"] == "tank/stranger"][0])')
strongroom remove --id "$id" --yes
lock tank/stranger
load 6 "the vault has no key of it" tank/stranger
load 0 "not in the vault; left locked" -a
is "$(locked)" 1
must 7 "its key is that of tank/hex1" zfs-keyprovider adopt tank/hex1/child </dev/null
must 7 "it is not encrypted" zfs-keyprovider adopt tank </dev/null
must 6 "does not exist" zfs-keyprovider adopt tank/none </dev/null

# A key and a keyformat that were changed since.
a_key raw >/run/other
zfs change-key -o keyformat=raw -o keylocation=prompt tank/raw3 </run/other
lock tank/raw3 tank/raw4
load 1 "is not its key" tank/raw3 tank/raw4
is "$(key_status tank/raw4)" available
zfs load-key tank/raw3 </run/other
echo "other words" | zfs change-key -o keyformat=passphrase -o pbkdf2iters=100000 tank/raw3
lock tank/raw3
load 1 "its keyformat is passphrase" tank/raw3
echo "other words" | zfs-keyprovider adopt tank/raw3
load 0 "loaded" tank/raw3
zfs mount tank/raw3
is "$(cat /t/tank/raw3/file)" "data of tank/raw3"

# By the command, where there is no library.
lock tank/hex2 tank/words2
mkdir /run/broken && echo broken >/run/broken/libzfs_core.so.3
for program in zfs zpool; do
    printf '#!/bin/sh
unset LD_LIBRARY_PATH
exec %s "$@"
' "$(command -v $program)" >/run/broken/$program
    chmod +x /run/broken/$program
done
(export LD_LIBRARY_PATH=/run/broken PATH=/run/broken:$PATH; load 0 '"loader": "zfs load-key"' --json tank/hex2 tank/words2)
is "$(key_status tank/words2)" available

# A new key.
zfs-keyprovider adopt tank/words2 --rotate
is "$(zfs get -H -o value keyformat tank/words2)" raw
lock tank/words2
must 7 "its key must be loaded" zfs-keyprovider adopt tank/words2 --rotate
load 0 "loaded" tank/words2

# Somebody else holds /dev/tpm0.
lock tank/hex2
sleep 1000 3<>/dev/tpm0 &
holder=$!
wait_for sh -c "ls -l /proc/$holder/fd | grep -q tpm0"
load 0 '"tpm": "device:/dev/tpmrm0"' --json tank/hex2
kill $holder

# Another pool of the same name, with a dataset of the same name.
zpool export tank
truncate -s 128M /pool/swapped
zpool create -O mountpoint=none tank /pool/swapped
zfs create -o encryption=on -o keyformat=raw -o keylocation=prompt tank/raw1 </run/other
lock tank/raw1
load 1 "another pool was put in its place under the same name" -a
is "$(key_status tank/raw1)" unavailable
serve
fails zfs load-key -L file:///run/zfs-keys/.flat/tank%2Fraw1 tank/raw1
grep -q "another pool was put in its place under the same name" /run/serve.log
kill $server
zpool destroy tank
zpool import -d /pool tank

# A mountpoint that is busy or is no folder.
must 7 "is busy: a file system of type" zfs-keyprovider serve /proc
must 7 "it is not empty" zfs-keyprovider serve /var
must 7 "it is not a folder" zfs-keyprovider serve /run/other

# Another boot.
tpm2_pcrextend 7:sha256=$(printf %064d 1)
load 3 "PCR 7 is not as in" -a
"#;
