# For the suites: a new vault, a new SoftHSM2, and what ends them. To be sourced, with HOUSE, BIN and WORK
# set; WORK is removed at the end.
# shellcheck shell=bash

SERVER=

finish() {
    [ -z "$SERVER" ] || kill "$SERVER" 2>/dev/null || true
    rm -rf "$WORK"
}
trap finish EXIT

# A vault on a TPM of its own, which shows the token `keys` first, and after it the slot for a new one.
begin_vault() {
    mkdir "$WORK/tpm"
    setpriv --pdeathsig TERM -- swtpm socket --tpm2 --tpmstate "dir=$WORK/tpm" \
        --server "type=unixio,path=$WORK/tpm/socket" --ctrl "type=unixio,path=$WORK/tpm/socket.ctrl" \
        --flags not-need-init,startup-clear >"$WORK/tpm/log" 2>&1 &
    SERVER=$!
    export STRONGROOM_TCTI=swtpm:path=$WORK/tpm/socket STRONGROOM_DIR=$WORK/vault
    export TPM2TOOLS_TCTI=$STRONGROOM_TCTI STRONGROOM_TOKENS=keys
    local pcr
    for _ in $(seq 100); do
        [ -S "$WORK/tpm/socket.ctrl" ] && tpm2_getcap properties-fixed >/dev/null 2>&1 && break
        sleep 0.05
    done
    for pcr in 7 9 11; do
        tpm2_pcrextend "$pcr:sha256=$(printf 'boot %s' "$pcr" | sha256sum | cut -d' ' -f1)"
    done
    "$BIN/strongroom" init --yes --recovery-out "$WORK/recovery" >/dev/null 2>&1
}

# $1: a token's label; $2: its PIN; $3: its security officer's. In $4, a folder.
begin_softhsm() {
    mkdir "$4"
    printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$4" >"$4.conf"
    export SOFTHSM2_CONF=$4.conf
    softhsm2-util --init-token --free --label "$1" --so-pin "$3" --pin "$2" >/dev/null
}
