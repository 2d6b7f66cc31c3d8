#!/bin/sh
# The shipped policies: their expectations, and `writ check` of a folder that has all it needs.
# Builds nothing: `cargo build --bins` comes first.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
writ=${CARGO_TARGET_DIR:-$root/target}/debug/writ
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cp -R "$root/writ.toml" "$root/policies" "$work"
"$writ" certs init "$work/certs" >"$work/said"
cd "$work"
"$writ" check
"$writ" policy test
