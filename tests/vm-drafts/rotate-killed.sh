#!/bin/bash
#
# Draft of a test in a virtual machine: `zfs-keyprovider adopt --rotate` killed at random instants,
# over a real ZFS. After each kill the key is unloaded, as a restart does, and has to come back out
# of the vault, and by the kit out of the dataset's own recovery copy.
#
# ROUNDS (default 12) says how often. Programs and libraries as for load.sh.

export PATH=/mnt/host/bin:$PATH LD_LIBRARY_PATH=/mnt/host/lib STRONGROOM_DIR=/run/vault
ROUNDS=${1:-12}
strongroom init --recovery-out /run/kit --yes > /run/out 2>&1 || { cat /run/out; exit 99; }
cd /run
truncate -s 256M vd0; zpool create -O mountpoint=none tank /run/vd0
head -c 32 /dev/urandom > raw
zfs create -o encryption=on -o keyformat=raw -o keylocation=prompt -o mountpoint=/t tank/d < raw
echo precious > /t/f
zfs-keyprovider adopt tank/d < raw || exit 98
s=$(date +%s%N); zfs-keyprovider adopt tank/d --rotate || exit 97
whole=$(( ($(date +%s%N) - s) / 1000000 )); echo "a rotation takes $whole ms"
failed=0 killed=0
for i in $(seq "$ROUNDS"); do
    # Most of what can go wrong is in the second half.
    ms=$(( whole / 3 + RANDOM % (whole * 2 / 3) ))
    before=$(zfs get -Hp -o value strongroom:recovery tank/d)
    timeout -s KILL "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))" zfs-keyprovider adopt tank/d --rotate > /run/out 2>&1
    rc=$?; [ $rc = 137 ] && killed=$((killed + 1))
    while pgrep -x zfs > /dev/null; do sleep 0.1; done
    zfs unmount tank/d; zfs unload-key tank/d
    ok=yes
    zfs-keyprovider get --recovery /run/kit tank/d | zfs load-key -n tank/d > /run/out 2>&1 || { ok="no (kit: $(cat /run/out))"; }
    zfs-keyprovider load tank/d > /run/out 2>&1 || { ok="no (load: $(cat /run/out))"; }
    zfs mount tank/d && [ "$(cat /t/f)" = precious ] || ok="no (content)"
    [ "$ok" = yes ] || failed=$((failed + 1))
    echo "killed after $ms ms (rc $rc): opens: $ok; $(strongroom list --json | grep -c '"label"') keys sealed"
done
zfs-keyprovider adopt tank/d --rotate || failed=$((failed + 1))
echo "== $killed killed, $failed failed"
exit $failed
