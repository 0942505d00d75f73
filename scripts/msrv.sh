#!/usr/bin/env bash
# Checks the workspace with the oldest compiler that Strongroom promises to build with, Rust 1.85,
# Debian 13's own. Debian 12 offers the same release as `rustc-web`; the packages are unpacked under
# target/, not installed.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly RELEASE=1.85
readonly ROOT=$PWD/target/msrv

main() {
    [ -x "$ROOT/usr/bin/rustc" ] || unpack
    # The machine's own cargo, with that compiler.
    export RUSTC=$PWD/target/msrv/rustc
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s/usr/bin/rustc "$@"\n' \
        "$(find "$ROOT/usr/lib" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)" "$ROOT" >"$RUSTC"
    chmod +x "$RUSTC"
    "$RUSTC" --version
    "$RUSTC" --version | grep -qF "rustc $RELEASE." || {
        printf 'this is not Rust %s\n' "$RELEASE" >&2
        exit 1
    }
    cargo check --locked --workspace --target-dir "$ROOT/build"
}

unpack() {
    local flavour="" package
    version_of rustc >/dev/null || flavour=-web
    rm -rf "$ROOT"
    mkdir -p "$ROOT/packages"
    cd "$ROOT/packages"
    for package in "rustc$flavour" "libstd-rust$flavour-dev" "libstd-rust$flavour-$RELEASE"; do
        apt-get -qq download "$package=$(version_of "$package")"
    done
    # Where the compiler's LLVM is a package of its own.
    for package in $(dpkg-deb -f ./libstd-rust*-"$RELEASE"_*.deb Depends | grep -oE 'libllvm[0-9]+'); do
        apt-get -qq download "$package"
    done
    for package in ./*.deb; do
        dpkg-deb -x "$package" "$ROOT"
    done
    cd - >/dev/null
}

# The version of a package that is of the release, in any suite that apt knows.
version_of() {
    apt-cache madison "$1" | awk -F'|' -v release="$RELEASE" '
        { gsub(/ /, "", $2) } index($2, release ".") == 1 { print $2; found = 1; exit }
        END { exit !found }' ||
        apt-cache madison "$1" | awk -F'|' -v package="$1" -v release="$RELEASE" '
        index(package, release) { gsub(/ /, "", $2); print $2; found = 1; exit }
        END { exit !found }'
}

main
