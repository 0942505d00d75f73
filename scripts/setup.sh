#!/usr/bin/env bash
# Installs what Strongroom needs to be built, shown and tested on Debian 12 or 13: packages by
# name; where the system's libtss2 is too old, one from Debian 13's own source package; and where
# the system lacks OpenSSL's PKCS#11 provider, that from its backports.
# Asks nothing, and a second run takes well under a second.
set -euo pipefail

# The release line of tss-esapi that has PolicyAuthorizeNV needs this one.
readonly TSS_MINIMUM=4.1.3
readonly TSS_SUITE=trixie

# What building Strongroom needs.
build_packages=(build-essential pkg-config libssl-dev clang libclang-dev ca-certificates)
# What the demo and the tests run against; clevis and tpm2-pkcs11 are peers in `make bench`,
# SoftHSM2 is one in `make suites`.
test_packages=(shellcheck swtpm swtpm-tools opensc rclone restic sqlite3 openssl python3
    python3-venv python3-dev python3-cryptography age xxd
    strace util-linux tpm2-tools libtss2-tcti-swtpm0 clevis clevis-tpm2
    curl nginx openssh-client openssh-server libengine-pkcs11-openssl p11-kit p11-kit-modules systemd
    tpm2-abrmd libtss2-tcti-tabrmd0 dbus-daemon libtpm2-pkcs11-1 softhsm2 chromium
    gnutls-bin libnss3-tools default-jre-headless cryptsetup-bin iproute2 valgrind)
# Of these, what would serve by itself: it stays off, the tests start their own.
serving_packages=(nginx openssh-server tpm2-abrmd)
serving_units=(nginx.service ssh.service ssh.socket tpm2-abrmd.service)
# Of these, what D-Bus would start all the same when somebody asks for it, such as a TPM tool that
# was told no TCTI: it would then keep this machine's own TPM to itself.
activated_units=(tpm2-abrmd.service)
# What the test machine is built and run with (tests/vm).
machine_packages=(qemu-system-x86 qemu-utils ovmf mmdebstrap debian-archive-keyring busybox-static
    kmod cpio zstd e2fsprogs binutils sbsigntool)
# What building libtss2 itself needs.
tss_packages=(autoconf automake autoconf-archive libtool libltdl-dev libjson-c-dev uuid-dev
    dpkg-dev git)

main() {
    if packaged_tss_is_new_enough; then
        build_packages+=(libtss2-dev)
        # Debian 13 renamed the TCTI package in its 64-bit time transition.
        test_packages=("${test_packages[@]/libtss2-tcti-swtpm0/libtss2-tcti-swtpm0t64}")
        # And gave systemd-cryptenroll a package of its own.
        install_packages "${build_packages[@]}" "${test_packages[@]}" "${machine_packages[@]}" \
            pkcs11-provider systemd-cryptsetup
        return
    fi
    install_packages "${build_packages[@]}" "${test_packages[@]}" "${machine_packages[@]}"
    install_provider
    if installed_tss_is_new_enough; then
        return
    fi
    install_packages "${tss_packages[@]}"
    build_tss
}

say() { printf 'set-up: %s\n' "$*"; }

# Installs the packages that are missing, and touches apt only if one is.
install_packages() {
    local missing=() package installed
    installed=$(installed_packages "$@")
    for package in "$@"; do
        [[ $'\n'$installed$'\n' == *$'\n'"$package"$'\n'* ]] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    apt-get -qq update
    for package in "${serving_packages[@]}"; do
        if [[ " ${missing[*]} " == *" $package "* ]]; then
            without_services apt_install "${missing[@]}"
            return
        fi
    done
    apt_install "${missing[@]}"
}

# Which of these packages are installed, one a line.
installed_packages() {
    dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null \
        | sed -n 's/ installed$//p' || true
}

# tpm2-pkcs11 is a peer, and is not to turn up in every program that asks p11-kit for tokens: there
# it would make itself a store, and complain where there is no TPM.
apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
        -o DPkg::Options::=--path-exclude=/usr/share/p11-kit/modules/tpm2_pkcs11.module \
        "$@" >/dev/null
}

# Runs an installation that starts no service, now or at the next boot. What was there before is
# left as it was.
without_services() {
    local policy=/usr/sbin/policy-rc.d own_policy="" fresh=() unit
    for unit in "${serving_units[@]}"; do
        systemctl cat "$unit" >/dev/null 2>&1 || fresh+=("$unit")
    done
    if [ ! -e "$policy" ]; then
        own_policy=1
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    local status=0
    "$@" || status=$?
    [ -z "$own_policy" ] || rm -f "$policy"
    for unit in "${fresh[@]}"; do
        systemctl disable "$unit" >/dev/null 2>&1 || true
        if [[ " ${activated_units[*]} " == *" $unit "* ]]; then
            systemctl mask "$unit" >/dev/null 2>&1 || true
        fi
    done
    return "$status"
}

# OpenSSL's PKCS#11 provider out of this release's backports, and nothing else out of them.
install_provider() {
    [ -z "$(installed_packages pkcs11-provider)" ] || return 0
    local work
    work=$(mktemp -d)
    say "installing pkcs11-provider from backports"
    private_apt "$work" deb "$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")-backports"
    (cd "$work" && apt-get -qq "${private[@]}" download pkcs11-provider >/dev/null)
    apt_install "$work"/pkcs11-provider_*.deb
    rm -rf "$work"
}

packaged_tss_is_new_enough() {
    local candidate
    candidate=$(LC_ALL=C apt-cache policy libtss2-dev 2>/dev/null | awk '/Candidate:/ {print $2}')
    [ -n "$candidate" ] && [ "$candidate" != "(none)" ] \
        && dpkg --compare-versions "$candidate" ge "$TSS_MINIMUM"
}

installed_tss_is_new_enough() {
    pkg-config --atleast-version="$TSS_MINIMUM" tss2-esys 2>/dev/null
}

# Debian 13's source package, fetched with an apt configuration of its own that names the mirror
# this machine already uses, verified by apt as ever, built without FAPI into /usr/local.
build_tss() {
    local work
    work=$(mktemp -d)
    # shellcheck disable=SC2064  # the folder's name is meant to be fixed now
    trap "rm -rf '$work'" EXIT
    say "building libtss2 from Debian's source package (about 90 s, once)"
    fetch_tss_source "$work"
    (
        cd "$work/source"
        # bootstrap asks git for the version; the package is an archive without a repository.
        git init -q .
        git -c user.name=set-up -c user.email=set-up@localhost commit -q --allow-empty -m source
        git tag "$(dpkg-parsechangelog -S Version | sed 's/-[^-]*$//')"
        ./bootstrap
        ./configure --prefix=/usr/local --disable-fapi --disable-doxygen-doc --disable-static \
            --with-udevrulesdir=/usr/local/lib/udev/rules.d
        make -j"$(nproc)"
        make install
    ) >"$work/build.log" 2>&1 || {
        tail -n 40 "$work/build.log" >&2
        say "building libtss2 failed; the lines above are the end of its log" >&2
        exit 1
    }
    ldconfig
    installed_tss_is_new_enough || {
        say "libtss2 was built, but pkg-config does not find $TSS_MINIMUM or newer" >&2
        exit 1
    }
}

fetch_tss_source() {
    local work=$1
    private_apt "$work" deb-src "$TSS_SUITE"
    (cd "$work" && apt-get -qq "${private[@]}" source --download-only tpm2-tss >/dev/null)
    dpkg-source --no-check -x "$work"/tpm2-tss_*.dsc "$work/source" >/dev/null
}

# Sets `private` to the options of an apt that knows one suite, and reads that suite's lists. $1: a
# folder for it; $2: deb or deb-src; $3: the suite.
private_apt() {
    local apt=$1/apt mirror
    mirror=$("$(dirname "$0")/debian-mirror")
    mkdir -p "$apt"/{state/lists/partial,cache/archives/partial,parts}
    printf '%s [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
        "$2" "$mirror" "$3" >"$apt/sources.list"
    private=(-o "Dir::Etc::SourceList=$apt/sources.list" -o "Dir::Etc::SourceParts=$apt/parts"
        -o "Dir::State=$apt/state" -o "Dir::State::status=/var/lib/dpkg/status"
        -o "Dir::Cache=$apt/cache" -o "APT::Sandbox::User=root")
    apt-get -qq "${private[@]}" update
}

main "$@"
