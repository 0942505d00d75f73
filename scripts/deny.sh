#!/usr/bin/env bash
# Runs cargo-deny over the dependencies; installs it under target/ the first time (some minutes).
set -euo pipefail
cd "$(dirname "$0")/.."

readonly TOOL=$PWD/target/tools/bin/cargo-deny
[ -x "$TOOL" ] || cargo install --quiet --locked --root target/tools cargo-deny
# Advisories come from a repository that is not everywhere in reach.
"$TOOL" --log-level error check bans licenses sources
