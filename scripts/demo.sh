#!/usr/bin/env bash
# The main job on a software TPM, step by step. Needs what scripts/setup.sh installs and the built
# programs (target/release, or the folder that STRONGROOM_BIN names). Works in a folder of its own,
# which it removes, and ends what it starts. --quiet prints the steps alone.
set -euo pipefail
cd "$(dirname "$0")/.."

BIN=$(realpath "${STRONGROOM_BIN:-target/release}")
readonly BIN
readonly MODULE=$BIN/libstrongroom_pkcs11.so
QUIET=no
[ "${1:-}" != --quiet ] || QUIET=yes

WORK=$(mktemp -d /tmp/strongroom-demo.XXXXXX)
# Off the boot disk: another file system, as a data pool is.
POOL=$(mktemp -d /dev/shm/strongroom-demo.XXXXXX 2>/dev/null || mktemp -d "$WORK/pool.XXXXXX")
readonly WORK POOL
declare -a SERVERS=()
finish() {
    local status=$?
    local pid
    for pid in "${SERVERS[@]}"; do
        kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true
    done
    rm -rf "$WORK" "$POOL"
    [ $status -eq 0 ] || printf '\nThe demo failed (exit code %s).\n' "$status" >&2
    exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

export STRONGROOM_DIR=$WORK/vault STRONGROOM_MODULE=$MODULE
unset RCLONE_CONFIG STRONGROOM_LOG
export TSS2_LOG=all+NONE

main() {
    step "1. A software TPM starts, and a boot is measured into its PCRs 7, 9 and 11"
    start_tpm first
    measure_boot kernel-6.12.1
    show_pcrs

    step "2. A vault is made: its keys in the TPM, bound to this boot; the recovery kit to the admin"
    run strongroom init --recovery-out "$WORK/recovery-kit.txt" --yes
    redacted "$WORK/recovery-kit.txt"

    step "3. Every key moves out of a TrueNAS database (a made-up one)"
    "$BIN/truenas-sample" "$WORK"
    run strongroom migrate --database "$WORK/freenas-v1.db" --pwenc-secret "$WORK/pwenc_secret" \
        --backup "$POOL/strongroom.backup" --yes
    say "What is left in the database for dataset tank, and its check:"
    run sqlite3 "$WORK/freenas-v1.db" \
        "SELECT name, encryption_key IS NULL AS cleared FROM storage_encrypteddataset WHERE id = 1" \
        "PRAGMA integrity_check"

    step "4. zfs-keyprovider gives ZFS a dataset's key"
    say "$ zfs-keyprovider get tank | zfs load-key tank    (there is no ZFS here: compared instead)"
    same_as_before dataset tank

    step "5. OpenSC's pkcs11-tool lists the objects, and reads a credential by its label"
    run pkcs11-tool --module "$MODULE" --token-label credentials --list-objects
    run pkcs11-tool --module "$MODULE" --token-label credentials --read-object --type data \
        --label nextcloud --output-file "$WORK/credential.json"
    same_as_before credential nextcloud "$WORK/credential.json"

    step "6. rclone copies files to a WebDAV server; its password comes out of the vault"
    start_webdav
    write_rclone_config
    say "The configuration that rclone gets, with a placeholder where the password was:"
    quiet_cat "$WORK/rclone.conf"
    mkdir "$WORK/files"
    echo "a file worth keeping" >"$WORK/files/note.txt"
    run credential-provider rclone -- --config "$WORK/rclone.conf" copy "$WORK/files" remote:
    cmp "$WORK/files/note.txt" "$WORK/served/note.txt"
    say "The file has arrived."

    step "7. The machine boots another kernel: PCR 11 changes, and everything is refused"
    extend 11 kernel-6.12.2
    refused 3 strongroom unseal --token credentials --label nextcloud
    refused 3 strongroom status
    refused 3 strongroom migrate --database "$WORK/freenas-v1.db" \
        --pwenc-secret "$WORK/pwenc_secret" --backup "$POOL/again" --yes
    refused 3 zfs-keyprovider get tank
    refused any pkcs11-tool --module "$MODULE" --token-label credentials --read-object --type data \
        --label nextcloud --output-file "$WORK/nothing"
    refused 123 credential-provider rclone -- --config "$WORK/rclone.conf" lsf remote:
    say
    say "The recovery kit brings it back, with one write to the TPM:"
    run strongroom rebind --recovery "$WORK/recovery-kit.txt" --yes
    everything_opens

    say
    say "The next update is announced before it happens, from the good boot:"
    local next
    next=$(pcr_after 11 kernel-6.12.3)
    run strongroom rebind --add "11=$next" --yes
    extend 11 kernel-6.12.3
    say "The machine has booted it, and nothing needs to be typed:"
    everything_opens

    step "8. The box is gone. The recovery kit and the backup open everything on another TPM"
    rm -rf "$STRONGROOM_DIR"
    start_tpm second
    measure_boot new-mainboard
    run strongroom recover --recovery "$WORK/recovery-kit.txt" \
        --backup "$POOL/strongroom.backup" --yes
    everything_opens

    step "Done. Nothing of the demo stays."
}

step() { printf '\n== %s\n\n' "$*"; }

say() { [ $QUIET = yes ] || printf '%s\n' "$*"; }

# Shows a command as an admin would type it, and runs it.
run() {
    say "\$ $(shorten "$@")"
    local program=$1
    shift
    if [ $QUIET = yes ]; then
        "$(locate "$program")" "$@" >"$WORK/output" 2>&1 || {
            cat "$WORK/output" >&2
            return 1
        }
    else
        "$(locate "$program")" "$@" 2>&1 | sed 's/^/    /'
    fi
}

# Runs a command that must fail with this exit code and name the PCR.
refused() {
    local expected=$1 code=0 program=$2
    say "\$ $(shorten "${@:2}")"
    "$(locate "$program")" "${@:3}" >"$WORK/output" 2>&1 </dev/null || code=$?
    [ $QUIET = yes ] || sed 's/^/    /' "$WORK/output"
    say "    (exit code $code)"
    [ "$code" -ne 0 ] && { [ "$expected" = any ] || [ "$code" -eq "$expected" ]; } || {
        printf 'It should have been refused with exit code %s.\n' "$expected" >&2
        return 1
    }
    grep -q 'PCR 11' "$WORK/output" || {
        printf 'The refusal does not name PCR 11.\n' >&2
        return 1
    }
}

locate() {
    if [ -x "$BIN/$1" ]; then printf '%s' "$BIN/$1"; else printf '%s' "$1"; fi
}

shorten() {
    local text=$*
    text=${text//$WORK\//}
    text=${text//$POOL\///mnt/data-pool/}
    printf '%s' "${text//$BIN\//}"
}

everything_opens() {
    same_as_before dataset tank
    run pkcs11-tool --module "$MODULE" --token-label credentials --read-object --type data \
        --label nextcloud --output-file "$WORK/credential.json"
    same_as_before credential nextcloud "$WORK/credential.json"
    run credential-provider rclone -- --config "$WORK/rclone.conf" lsf remote:
}

# Compares what the vault gives with what was in the database before.
same_as_before() {
    local kind=$1 name=$2
    if [ "$kind" = dataset ]; then
        "$BIN/zfs-keyprovider" get "$name" >"$WORK/given"
    else
        cp "$3" "$WORK/given"
    fi
    python3 - "$WORK/expected.json" "$kind" "$name" "$WORK/given" <<'PYTHON'
import json, sys
expected, kind, name, given = json.load(open(sys.argv[1])), *sys.argv[2:4], open(sys.argv[4]).read()
if kind == "dataset":
    was, now = next(row["key"] for row in expected["datasets"] if row["name"] == name), given
else:
    row = next(row for row in expected["credentials"] if row["name"] == name)
    was, now = {field: row["attributes"][field] for field in row["secret"]}, json.loads(given)
sys.exit(0 if was == now else f"{kind} {name} is not what it was")
PYTHON
    say "    $kind $name: the same as it was in the database"
}

start_tpm() {
    local state=$WORK/tpm-$1
    mkdir "$state"
    setpriv --pdeathsig TERM -- swtpm socket --tpm2 --tpmstate "dir=$state" \
        --server "type=unixio,path=$state/socket" --ctrl "type=unixio,path=$state/socket.ctrl" \
        --flags not-need-init,startup-clear >"$state/log" 2>&1 &
    SERVERS+=($!)
    export STRONGROOM_TCTI=swtpm:path=$state/socket TPM2TOOLS_TCTI=swtpm:path=$state/socket
    local tries
    for tries in $(seq 100); do
        if [ -S "$state/socket.ctrl" ] && tpm2_getcap properties-fixed >/dev/null 2>&1; then
            return
        fi
        sleep 0.05
    done
    printf 'The software TPM does not answer after %s tries:\n' "$tries" >&2
    cat "$state/log" >&2
    return 1
}

measure_boot() {
    extend 7 "secure boot on"
    extend 9 "initrd of $1"
    extend 11 "$1"
}

extend() {
    say "PCR $1 is extended with \"$2\""
    tpm2_pcrextend "$1:sha256=$(digest "$2")"
}

digest() { printf '%s' "$1" | sha256sum | cut -d' ' -f1; }

show_pcrs() { run tpm2_pcrread sha256:7,9,11; }

# What a PCR will be after one more extend.
pcr_after() {
    tpm2_pcrread -Q -o "$WORK/pcr" "sha256:$1"
    { cat "$WORK/pcr"; digest "$2" | xxd -r -p; } | sha256sum | cut -d' ' -f1
}

start_webdav() {
    mkdir "$WORK/served"
    : >"$WORK/webdav.log"
    # The server's own copy of the password, as its admin would have set it.
    RCLONE_USER=nas RCLONE_PASS=$(python3 -c '
import json, sys
rows = json.load(open(sys.argv[1]))["credentials"]
print(next(row["attributes"]["pass"] for row in rows if row["name"] == "nextcloud"))' \
        "$WORK/expected.json") \
        setpriv --pdeathsig TERM -- rclone serve webdav "$WORK/served" --config /dev/null \
        --addr 127.0.0.1:0 >"$WORK/webdav.log" 2>&1 &
    SERVERS+=($!)
    local tries
    for tries in $(seq 100); do
        URL=$(grep -o 'http://127\.0\.0\.1:[0-9]*' "$WORK/webdav.log" | head -n 1) && return
        sleep 0.05
    done
    printf 'The WebDAV server does not answer after %s tries:\n' "$tries" >&2
    cat "$WORK/webdav.log" >&2
    return 1
}

# As the TrueNAS middleware writes it for each run; the password's field is obscured, as rclone
# wants it.
write_rclone_config() {
    local id
    id=$("$BIN/strongroom" list --json | python3 -c '
import json, sys
print(next(o["id"] for o in json.load(sys.stdin)["objects"] if o["label"] == "nextcloud"))')
    printf '[remote]\ntype = webdav\nurl = %s\nvendor = other\nuser = nas\npass = %s\n' \
        "$URL" "strongroom:v1:$id" >"$WORK/rclone.conf"
}

redacted() {
    say "The kit, all but its secret:"
    quiet_cat <(sed 's/^AGE-SECRET-KEY-1.*/AGE-SECRET-KEY-1(not shown)/' "$1")
}

quiet_cat() { [ $QUIET = yes ] || sed 's/^/    /' "$1"; }

main
