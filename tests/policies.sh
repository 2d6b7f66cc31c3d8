#!/bin/sh
# Runs `writ check` and `writ policy test` on the shipped configuration and policies, in a folder with certificates.
# Needs a previous `cargo build --bins`.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
writ=${CARGO_TARGET_DIR:-$root/target}/debug/writ
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cp -R "$root/writ.toml" "$root/policies" "$work"
"$writ" certs init "$work/certs" >"$work/output"
cd "$work"
"$writ" check
"$writ" policy test
