#!/usr/bin/env bash
# Checks the workspace with Rust 1.85, the compiler of Debian 13. Debian 12 offers the same release
# as `rustc-web`; its packages are unpacked under target/, not installed.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly ROOT=$PWD/target/msrv

if [ ! -x "$ROOT/usr/bin/rustc" ]; then
    mkdir -p "$ROOT/packages"
    if apt-cache show rustc-web >/dev/null 2>&1; then
        packages=(rustc-web cargo-web libstd-rust-web-dev)
    else
        packages=(rustc cargo libstd-rust-dev)
    fi
    # What rustc needs beside itself, by name from its own dependencies.
    mapfile -t libraries < <(apt-cache depends --no-recommends --no-suggests "${packages[@]}" \
        | awk '/Depends: (libllvm|libstd-rust|libgit2|libhttp-parser|libssh2)/ {print $2}' | sort -u)
    (cd "$ROOT/packages" && apt-get -qq download "${packages[@]}" "${libraries[@]}")
    for package in "$ROOT"/packages/*.deb; do
        dpkg-deb -x "$package" "$ROOT"
    done
fi

library_path=$(find "$ROOT/usr/lib" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
export LD_LIBRARY_PATH=$library_path RUSTC=$ROOT/usr/bin/rustc
"$RUSTC" --version
"$ROOT/usr/bin/cargo" check --locked --workspace --target-dir "$ROOT/build"
