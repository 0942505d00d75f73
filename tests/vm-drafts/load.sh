#!/bin/bash
#
# Draft of a test in a virtual machine with a real ZFS and a real /dev/tpm0: `zfs-keyprovider load`,
# `adopt` and `get --recovery` end to end. Runs as root in the guest, with the programs and the
# libraries that they need in /mnt/host/bin and /mnt/host/lib.
#
# Every line that begins with "ok" or "FAIL" is a check; the exit status is the number of failures.

export PATH=/mnt/host/bin:$PATH LD_LIBRARY_PATH=/mnt/host/lib STRONGROOM_DIR=/run/vault
FAILED=0
ok() { echo "ok    $1 ($(cut -d" " -f1 /proc/uptime) s)"; }
bad() { echo "FAIL  $1"; FAILED=$((FAILED + 1)); }
# check WORDS COMMAND...: the command must succeed
check() { local words=$1; shift; if "$@" > /run/out 2>&1; then ok "$words"; else bad "$words: $(cat /run/out)"; fi; }
# exits CODE WORDS TEXT COMMAND...: the command must exit so, and say so
exits() {
    local code=$1 words=$2 text=$3 rc; shift 3
    "$@" > /run/out 2>&1; rc=$?
    if [ $rc = "$code" ] && grep -qF -- "$text" /run/out; then ok "$words"; else bad "$words: rc $rc: $(cat /run/out)"; fi
}
status() { zfs get -H -o value keystatus "$1"; }
is() { if [ "$2" = "$3" ]; then ok "$1"; else bad "$1: $2, not $3"; fi; }
lock() { for d; do zfs unmount "$d" 2>/dev/null; zfs unload-key "$d"; done; }
json() { python3 -c "import json,sys; d=json.load(open('/run/out')); print($1)"; }

zfs version | head -1
strongroom init --recovery-out /run/kit --yes > /run/out 2>&1 || { cat /run/out; exit 99; }
cd /run
truncate -s 512M vd0 vd1
zpool create -O mountpoint=none tank /run/vd0
head -c 32 /dev/urandom > raw; od -An -tx1 raw | tr -d ' \n' > hex; echo 'correct horse battery' > pass
mk() { zfs create -o encryption=on -o keyformat=$2 ${4:+-o pbkdf2iters=$4} -o keylocation=prompt -o canmount=noauto -o mountpoint=/t/$1 tank/$1 < $3; }
mk raw raw raw; mk hex hex hex; mk pass passphrase pass 100000; mk alien raw raw
zfs create -o canmount=noauto tank/raw/child; zfs create tank/plain
zfs create -V 8M -o encryption=on -o keyformat=raw -o keylocation=prompt tank/vol < raw

echo "== adopt"
for d in raw hex pass vol; do
    f=$d; [ $d = vol ] && f=raw
    check "adopt $d" sh -c "zfs-keyprovider adopt tank/$d < $f"
done
exits 7 "a wrong key is not sealed" "it is not the dataset's key" sh -c "head -c 32 /dev/zero | zfs-keyprovider adopt tank/raw"
exits 7 "a child is not adopted" "its key is that of tank/raw" sh -c "zfs-keyprovider adopt tank/raw/child < raw"
exits 7 "what is not encrypted is not adopted" "it is not encrypted" sh -c "zfs-keyprovider adopt tank/plain < raw"
exits 6 "what is not there is not adopted" "does not exist" sh -c "zfs-keyprovider adopt tank/none < raw"
is "a child inherits the property, and has none of its own" "$(zfs get -H -o source strongroom:recovery tank/raw/child)" "inherited from tank/raw"
is "the copy's length" "$(zfs get -Hp -o value strongroom:recovery tank/pass | wc -c | awk '{print ($1 < 4000)}')" 1

echo "== load"
lock tank/raw tank/hex tank/pass tank/alien tank/vol
check "a dry run" zfs-keyprovider load -a --dry-run --json
is "a dry run says four" "$(json "d['would-be-loaded'], d['not-sealed'], d['tpm']")" "4 1 None"
is "and loads none" "$(status tank/raw)" unavailable
check "load -a" zfs-keyprovider load -a --json
is "four loaded, one not sealed" "$(json "d['loaded'], d['not-sealed'], d['failed'], d['loader'], d['tpm']")" "4 1 0 libzfs_core device:/dev/tpm0"
for d in raw hex pass vol raw/child; do is "keystatus of $d" "$(status tank/$d)" available; done
is "keystatus of alien" "$(status tank/alien)" unavailable
check "what is loaded mounts" zfs mount tank/pass
check "load -a again" zfs-keyprovider load -a --json
is "all loaded already, without a TPM" "$(json "d['already-loaded'], d['loaded'], d['tpm']")" "4 0 None"
zfs unmount tank/pass
lock tank/raw tank/hex tank/pass
sleep 1000 3< /dev/tpm0 & HOLDER=$!; sleep 0.3
check "load while someone holds /dev/tpm0" zfs-keyprovider load tank/raw --json
is "the resource manager was taken" "$(json "d['tpm']")" device:/dev/tpmrm0
kill $HOLDER; wait $HOLDER 2>/dev/null
exits 1 "some fail, the rest are done" "its key is that of tank/raw" zfs-keyprovider load tank/hex tank/raw/child
is "the rest is done" "$(status tank/hex)" available
exits 6 "nothing known" "does not exist" zfs-keyprovider load tank/none
exits 6 "nothing sealed" "the vault has no key of it" zfs-keyprovider load tank/alien
exits 1 "not encrypted" "it is not encrypted" zfs-keyprovider load tank/plain
check "a terminal's table" zfs-keyprovider load -r tank
cat /run/out
is "the passphrase, too" "$(status tank/pass)" available

echo "== through the command, without the library"
lock tank/raw tank/hex tank/pass
mkdir -p /run/nolib /run/noclib; echo broken > /run/nolib/libzfs_core.so.3
printf '#!/bin/sh\nunset LD_LIBRARY_PATH\nexec %s "$@"\n' "$(command -v zfs)" > /run/noclib/zfs
printf '#!/bin/sh\nunset LD_LIBRARY_PATH\nexec %s "$@"\n' "$(command -v zpool)" > /run/noclib/zpool
chmod +x /run/noclib/*
LD_LIBRARY_PATH=/run/nolib:/mnt/host/lib PATH=/run/noclib:$PATH check "load -a by zfs load-key" zfs-keyprovider load -a --json
is "by the command" "$(json "d['loaded'], d['failed'], d['loader']")" "3 0 zfs load-key"

echo "== keys that are not the dataset's"
zfs change-key -o keyformat=raw tank/hex < <(head -c 32 /dev/zero)
lock tank/hex tank/raw
exits 1 "a key that was changed since" "is not its key" zfs-keyprovider load tank/hex tank/raw
is "does not stop the rest" "$(status tank/raw)" available
LD_LIBRARY_PATH=/run/nolib:/mnt/host/lib PATH=/run/noclib:$PATH exits 1 "the same by the command" "is not its key" zfs-keyprovider load tank/hex
zfs load-key tank/hex < <(head -c 32 /dev/zero)
zfs change-key -o keyformat=passphrase -o pbkdf2iters=100000 tank/hex < pass; lock tank/hex
exits 1 "a keyformat that was changed since" "its keyformat is passphrase" zfs-keyprovider load tank/hex
check "adopted again" sh -c "zfs-keyprovider adopt tank/hex < pass"
check "and loaded" zfs-keyprovider load tank/hex

echo "== rotate"
check "rotate a passphrase" zfs-keyprovider adopt tank/pass --rotate
is "keyformat is raw now" "$(zfs get -H -o value keyformat tank/pass)" raw
lock tank/pass
exits 255 "the old passphrase is refused" "" zfs load-key -L file:///run/pass tank/pass
check "the new key loads" zfs-keyprovider load tank/pass
lock tank/pass
exits 7 "a locked dataset is not rotated" "its key must be loaded" zfs-keyprovider adopt tank/pass --rotate
check "get gives the new one" sh -c "zfs-keyprovider get tank/pass | zfs load-key tank/pass"
zfs snapshot tank/raw@s; zfs clone tank/raw@s tank/clone
check "rotate with a keylocation" zfs-keyprovider adopt tank/raw --rotate --keylocation file:///run/zfs-keys/tank/raw
is "keylocation" "$(zfs get -H -o value keylocation tank/raw)" file:///run/zfs-keys/tank/raw
exits 7 "a clone is no encryption root" "its key is that of" zfs-keyprovider adopt tank/clone --rotate

echo "== the recovery copy, without vault and TPM"
lock tank/pass tank/vol
mv /run/vault /run/gone
check "get --recovery" sh -c "STRONGROOM_TCTI=device:/dev/none zfs-keyprovider get --recovery /run/kit tank/pass | zfs load-key tank/pass"
is "it loads" "$(status tank/pass)" available
exits 5 "load without a vault" "there is no vault" zfs-keyprovider load -a
mv /run/gone /run/vault
GOOD=$(zfs get -Hp -o value strongroom:recovery tank/vol)
zfs set strongroom:recovery="${GOOD/AAAA/AAAB}x" tank/vol
exits 7 "a copy that was spoilt" "recovery copy is not usable" zfs-keyprovider get --recovery /run/kit tank/vol
zfs set strongroom:recovery="$(zfs get -Hp -o value strongroom:recovery tank/pass)" tank/vol
exits 7 "the copy of another dataset" "it is not the dataset's key" zfs-keyprovider get --recovery /run/kit tank/vol
check "load puts it right" zfs-keyprovider load tank/vol
is "as it was" "$(zfs get -Hp -o value strongroom:recovery tank/vol)" "$GOOD"
zfs inherit strongroom:recovery tank/vol
check "load writes what is missing, loaded as it is" zfs-keyprovider load -a
is "as it was" "$(zfs get -Hp -o value strongroom:recovery tank/vol)" "$GOOD"

echo "== a pool swapped in under the same name"
zpool export tank
zpool create -O mountpoint=none tank /run/vd1
zfs create -o encryption=on -o keyformat=raw -o keylocation=prompt tank/raw < raw; lock tank/raw
exits 1 "is refused" "another pool was put in its place" zfs-keyprovider load -a
is "and gets no key" "$(status tank/raw)" unavailable
exits 7 "nor through get" "another pool was put in its place" zfs-keyprovider get tank/raw
zpool destroy tank; zpool import -d /run/vd0 tank

echo "== another boot"
tpm2_pcrextend 7:sha256=$(printf '%064d' 1)
exits 3 "is refused" "PCR 7" zfs-keyprovider load -a
check "what is open, or needs none, is not" zfs-keyprovider load -a --dry-run

echo "== $FAILED failed"
exit $FAILED
