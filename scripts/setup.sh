#!/usr/bin/env bash
# Installs what Strongroom needs to be built, shown and tested on Debian 12 or 13: packages by
# name, and libtss2 from Debian 13's own source package where the system's is too old.
# Asks nothing, and a second run takes well under a second.
set -euo pipefail

# The release line of tss-esapi that has PolicyAuthorizeNV needs this one.
readonly TSS_MINIMUM=4.1.3
readonly TSS_SUITE=trixie

# What building Strongroom needs.
build_packages=(build-essential pkg-config libssl-dev clang libclang-dev ca-certificates)
# What the demo and the tests run against; clevis is a peer in `make bench`.
test_packages=(swtpm swtpm-tools opensc rclone sqlite3 openssl python3 python3-cryptography age xxd
    strace util-linux tpm2-tools libtss2-tcti-swtpm0 clevis clevis-tpm2)
# What building libtss2 itself needs.
tss_packages=(autoconf automake autoconf-archive libtool libltdl-dev libjson-c-dev uuid-dev
    dpkg-dev git)

main() {
    if packaged_tss_is_new_enough; then
        build_packages+=(libtss2-dev)
        # Debian 13 renamed the TCTI package in its 64-bit time transition.
        test_packages=("${test_packages[@]/libtss2-tcti-swtpm0/libtss2-tcti-swtpm0t64}")
        install_packages "${build_packages[@]}" "${test_packages[@]}"
        return
    fi
    install_packages "${build_packages[@]}" "${test_packages[@]}"
    if installed_tss_is_new_enough; then
        return
    fi
    install_packages "${tss_packages[@]}"
    build_tss
}

say() { printf 'set-up: %s\n' "$*"; }

# Installs the packages that are missing, and touches apt only if one is.
install_packages() {
    local missing=() package
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" = "install ok installed" ] \
            || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
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
    local work=$1 mirror
    mirror=$(debian_mirror)
    mkdir -p "$work"/apt/{state/lists/partial,cache/archives/partial,parts}
    printf 'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
        "$mirror" "$TSS_SUITE" >"$work/apt/sources.list"
    local private=(-o "Dir::Etc::SourceList=$work/apt/sources.list"
        -o "Dir::Etc::SourceParts=$work/apt/parts"
        -o "Dir::State=$work/apt/state" -o "Dir::State::status=/var/lib/dpkg/status"
        -o "Dir::Cache=$work/apt/cache" -o "APT::Sandbox::User=root")
    apt-get -qq "${private[@]}" update
    (cd "$work" && apt-get -qq "${private[@]}" source --download-only tpm2-tss >/dev/null)
    dpkg-source --no-check -x "$work"/tpm2-tss_*.dsc "$work/source" >/dev/null
}

# The mirror of the distribution itself, out of this machine's own sources, in either format.
debian_mirror() {
    local codename
    codename=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
    {
        cat /etc/apt/sources.list 2>/dev/null | awk -v suite="$codename" '
            $1 == "deb" {
                for (i = 2; i < NF; i++) if ($i ~ /^https?:/ && $(i + 1) == suite) print $i
            }'
        cat /etc/apt/sources.list.d/*.list 2>/dev/null | awk -v suite="$codename" '
            $1 == "deb" {
                for (i = 2; i < NF; i++) if ($i ~ /^https?:/ && $(i + 1) == suite) print $i
            }'
        cat /etc/apt/sources.list.d/*.sources 2>/dev/null | awk -v suite="$codename" '
            /^URIs:/ { uri = $2 }
            /^Suites:/ { for (i = 2; i <= NF; i++) if ($i == suite) print uri }'
    } | head -n 1 | grep . || {
        say "no apt source names the suite $codename, so there is no mirror to fetch from" >&2
        return 1
    }
}

main "$@"
