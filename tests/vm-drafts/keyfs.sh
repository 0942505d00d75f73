#!/bin/bash
# A draft, to be run as root in a virtual machine with OpenZFS and a TPM: ZFS itself loads keys that
# `zfs-keyprovider serve` has. Argument: the folder of the built programs. It has passed on OpenZFS
# 2.1.11 and Linux 6.1.
set -eu
BIN=$1
export STRONGROOM_DIR=/run/vault
KEYS=/run/zfs-keys
RAW=$(printf '000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f')

say() { echo "== $*"; }
status() { zfs get -H -o value keystatus "$1"; }
seal() { "$BIN/strongroom" seal --token datasets --kind dataset-key --label "$1" --keyformat "$2"; }
serve() {
	"$BIN/zfs-keyprovider" serve "$KEYS" 2>>/run/keyfs.log &
	server=$!
	for _ in $(seq 100); do
		[ -e "$KEYS/.flat" ] && return
		sleep 0.1
	done
	cat /run/keyfs.log
	exit 1
}

say "kernel $(uname -r), $(zfs version | tr '\n' ' '), LSMs $(cat /sys/kernel/security/lsm 2>/dev/null || echo unknown)"
modprobe fuse 2>/dev/null || :
"$BIN/strongroom" init --recovery-out /run/kit --yes
for name in tank tank/hex; do printf %s "$RAW" | seal "$name" hex; done
printf %s "$RAW" | xxd -r -p | seal tank/raw raw
printf %s "$RAW" | seal tank/raw-as-hex hex
printf %s "correct horse battery" | seal tank/words passphrase
serve
ls -laR "$KEYS"

say "pools and datasets are made with keys from files"
truncate -s 256M /run/disk
zpool create -O mountpoint=/tank -O encryption=on -O keyformat=hex \
	-O keylocation="file://$KEYS/.flat/tank" tank /run/disk
zfs create -o encryption=on -o keyformat=hex -o keylocation="file://$KEYS/tank/hex" tank/hex
zfs create -o encryption=on -o keyformat=raw -o keylocation="file://$KEYS/tank/raw" tank/raw
zfs create -o encryption=on -o keyformat=passphrase -o keylocation="file://$KEYS/tank/words" tank/words
# As in a database that holds a raw key as hexadecimal digits.
printf %s "$RAW" | xxd -r -p | zfs create -o encryption=on -o keyformat=raw -o keylocation=prompt tank/raw-as-hex
zfs set keylocation="file://$KEYS/.flat/tank%2Fraw-as-hex" tank/raw-as-hex
for name in hex raw words raw-as-hex; do echo "of $name" >"/tank/$name/file"; done

say "zfs load-key -a, with what was sealed as hex given raw"
zfs unmount -a
zfs unload-key -r tank
time zfs load-key -a
for name in tank tank/hex tank/raw tank/words tank/raw-as-hex; do [ "$(status $name)" = available ]; done

say "zfs mount -l and zpool import -l"
zfs unload-key -r tank
zfs mount -a -l
for name in hex raw words raw-as-hex; do [ "$(cat "/tank/$name/file")" = "of $name" ]; done
zpool export tank
zpool import -d /run -l tank
for name in hex raw words raw-as-hex; do [ "$(cat "/tank/$name/file")" = "of $name" ]; done

say "a server that was killed is an error that ZFS says, and the next one takes over"
kill -9 "$server"
zfs unmount tank/raw
zfs unload-key tank/raw
if zfs load-key tank/raw; then exit 1; fi
serve
zfs load-key tank/raw
zfs mount tank/raw
[ "$(cat /tank/raw/file)" = "of raw" ]

say "in another boot state ZFS is refused"
tpm2_pcrextend 7:sha256="$RAW" 2>/dev/null || python3 - "$RAW" <<'PY'
import sys, struct
digest = bytes.fromhex(sys.argv[1])
auth = struct.pack('>IHBH', 0x40000009, 0, 0, 0)
body = struct.pack('>I', 7) + struct.pack('>I', len(auth)) + auth + struct.pack('>IH', 1, 0xb) + digest
command = struct.pack('>HII', 0x8002, 10 + len(body), 0x182) + body
tpm = open('/dev/tpmrm0', 'r+b', buffering=0)
tpm.write(command)
assert struct.unpack('>HII', tpm.read(4096)[:10])[2] == 0
PY
zfs unmount tank/raw
zfs unload-key tank/raw
if zfs load-key tank/raw; then exit 1; fi

say "a stop unmounts"
kill "$server"
wait "$server"
if grep "$KEYS" /proc/mounts; then exit 1; fi
zpool export tank
cat /run/keyfs.log
say PASS
