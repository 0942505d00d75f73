# What scripts in the machine have at hand: Machine::run puts this before each of them. Pools are of
# files, in /pool on the machine's first disk.
set -euo pipefail
shopt -s inherit_errexit extglob nullglob

# must CODE TEXT COMMAND...: the command has to end with this code, and to say this.
must() {
    local code=$1 text=$2 said status=0
    shift 2
    said=$("$@" 2>&1) || status=$?
    if [ "$status" != "$code" ] || ! grep -qF -- "$text" <<<"$said"; then
        printf '%s\n' "this was to end with $code and to say \"$text\": $*" "it ended with $status: $said" >&2
        exit 90
    fi
}

# fails COMMAND...: the command has to fail, however.
fails() {
    if "$@" >/run/said 2>&1; then
        printf '%s\n' "this was to fail: $*" "$(cat /run/said)" >&2
        exit 93
    fi
}

# is ACTUAL EXPECTED
is() {
    [ "$1" = "$2" ] || {
        printf '%s\n' "line ${BASH_LINENO[0]}: it is \"$1\" and should be \"$2\"" >&2
        exit 91
    }
}

# How the keys of datasets stand: available or unavailable.
key_status() { zfs get -H -o value keystatus "$@"; }

# How many encryption roots are locked.
locked() { zfs get -H -t filesystem,volume -o name,value keystatus,encryptionroot \
    | awk -F '\t' '$2 == "unavailable" { locked[$1] } $1 == $2 { root[$1] }
        END { for (name in root) n += name in locked; print n + 0 }'; }

# Unmounts datasets and takes their keys from the kernel, as a restart does.
lock() {
    local dataset
    for dataset; do
        zfs unmount "$dataset" 2>/dev/null || :
        zfs unload-key "$dataset"
    done
}

# The disk with the pools. make_disk formats it first.
mount_disk() { mkdir -p /pool && mount /dev/vdd /pool; }
make_disk() { mke2fs -q -t ext4 /dev/vdd && mount_disk; }

import_pools() {
    mountpoint -q /pool || mount_disk
    zpool import -d /pool -a "$@"
}
export_pools() { zpool export -a; }

# a_key FORMAT: a new one, on standard output.
a_key() {
    case $1 in
    raw) openssl rand 32 ;;
    hex) openssl rand -hex 32 | tr -d '\n' ;;
    passphrase) openssl rand -base64 24 ;;
    esac
}

# make_root NAME FORMAT [OPTION...]: an encryption root, whose key is in the vault and nowhere else.
make_root() {
    local name=$1 format=$2
    shift 2
    a_key "$format" >/run/key
    zfs create -o encryption=on -o keyformat="$format" -o keylocation=prompt "$@" "$name" </run/key
    zfs-keyprovider adopt "$name" </run/key >/dev/null
    rm /run/key
}

# make_twenty_roots: two pools, and in them encryption roots of every kind, with data.
make_twenty_roots() {
    local name
    truncate -s 256M /pool/tank
    truncate -s 128M /pool/dozer
    zpool create -O mountpoint=/t/tank tank /pool/tank
    for name in raw1 raw2 raw3 raw4 raw5; do make_root tank/$name raw; done
    for name in hex1 hex2 hex3 "hex 4"; do make_root "tank/$name" hex; done
    for name in words1 words2 words3; do make_root tank/$name passphrase -o pbkdf2iters=100000; done
    # Beneath a root one of its own, and beneath that another.
    make_root tank/raw1/own hex
    make_root tank/raw1/own/deep raw
    make_root tank/words1/own raw
    make_root tank/volume raw -V 8M
    make_root tank/raw2/volume passphrase -V 8M -o pbkdf2iters=100000
    # A child with its parent's key.
    zfs create tank/hex1/child
    a_key hex >/run/key
    zpool create -O mountpoint=/t/dozer -O encryption=on -O keyformat=hex -O keylocation=prompt \
        dozer /pool/dozer </run/key
    zfs-keyprovider adopt dozer </run/key >/dev/null
    rm /run/key
    make_root dozer/home raw
    make_root dozer/words passphrase -o pbkdf2iters=100000
    while read -r name; do echo "data of $name" >"/t/$name/file"; done < <(file_systems)
    for name in $(volumes); do echo "data of a volume" | dd of="$name" conv=fsync status=none; done
    is "$(volumes | wc -w)" 2
}

file_systems() { zfs list -H -o name -t filesystem; }
# Without udev, volumes have no names.
volumes() { echo /dev/zd+([0-9]); }

# All that make_twenty_roots has written is there.
read_back() {
    local name
    is "$(locked)" 0
    while read -r name; do is "$(cat "/t/$name/file")" "data of $name"; done < <(file_systems)
    for name in $(volumes); do is "$(head -n 1 "$name" | tr -d '\0')" "data of a volume"; done
    is "$(file_systems | wc -l) $(volumes | wc -w)" "20 2"
}

# wait_for COMMAND...: until it succeeds, for half a minute.
wait_for() {
    local tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { echo "this did not come about: $*" >&2; exit 92; }
        sleep 0.1
    done
}

# Starts `zfs-keyprovider serve`; its log is in /run/serve.log and its number in $server.
serve() {
    zfs-keyprovider serve /run/zfs-keys 2>>/run/serve.log &
    server=$!
    wait_for test -d /run/zfs-keys/.flat
}
