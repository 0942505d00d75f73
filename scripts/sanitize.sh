#!/usr/bin/env bash
# AddressSanitizer over the module's own tests of the C interface, the random calls among them, with whatever
# compiler is at hand: what the sanitizer needs is unstable in Rust, so the stable one is told to allow it.
# Everything is built once more, with the sanitizer in it, and removed at the end.
#
# STRONGROOM_FUZZ_SECONDS is how long the random calls go on, ten seconds unless it says otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
target=$PWD/target/sanitized
trap 'rm -rf "$target"' EXIT

# A child that is forked keeps what its parent had, on purpose: no leaks are looked for there.
RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_PROFILE_DEV_DEBUG=line-tables-only ASAN_OPTIONS=detect_leaks=0 \
    STRONGROOM_FUZZ_SECONDS=${STRONGROOM_FUZZ_SECONDS:-10} \
    cargo test --locked --target "$host" --target-dir "$target" -p pkcs11-module -- --include-ignored
