#!/bin/sh
# Counts the instructions of issuing a token and of verifying one, in a release build, and compares them with
# tests/instructions.txt: times vary between machines and runs, counts hardly do. The instructions of the bare signature,
# or of its verification, are subtracted, since they depend on the processor and would hide the rest.
#
# More than the tolerance above a stored count is an error in continuous integration (CI=true); elsewhere it is only said,
# since the C library counts differently on another kind of processor. WRIT_INSTRUCTIONS=write stores the counts.
set -eu

# In percent. Counts of the same build differ by 1 %, since keys and signatures are random.
tolerance=5
times=200

cd "$(dirname "$0")/.."
stored=tests/instructions.txt

[ "$(uname -m)" = x86_64 ] || { echo "skipped: the counts are those of x86_64"; exit 0; }
tool=$PWD/target/tools/valgrind/usr
if [ -x "$tool/bin/valgrind" ]; then
    VALGRIND_LIB=$tool/libexec/valgrind
    PATH=$tool/bin:$PATH
    export VALGRIND_LIB PATH
fi
command -v valgrind >/dev/null || { echo "skipped: counts of instructions (no valgrind)"; [ "${CI:-}" != true ]; exit; }

steps=$(cargo bench --profile release --locked --bench steps --no-run --message-format=json-render-diagnostics |
    sed -n 's/.*"name":"steps".*"executable":"\([^"]*\)".*/\1/p')

# count STEP: instructions of one such step.
count() {
    total=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect='steps::counted' \
        "$steps" "$1" "$times" 2>&1 | sed -n 's/.*Collected : //p')
    [ "${total:-0}" -gt 0 ] || { echo "$1: nothing was counted" >&2; exit 1; }
    echo $((total / times))
}

code=0
issue=$(count issue)
verify=$(count verify)
sign=$(count bare-sign)
raw=$(count bare-verify)
counts="issue $((issue - sign))
verify $((verify - raw))"
if [ "${WRIT_INSTRUCTIONS:-}" = write ]; then
    echo "$counts" >"$stored"
fi
while read -r name now; do
    before=$(sed -n "s/^$name //p" "$stored")
    change=$(((now - before) * 100 / before))
    echo "$name: $now instructions besides the cryptography, $before stored ($change %)"
    if [ $((now * 100)) -gt $((before * (100 + tolerance))) ]; then
        echo "$name needs more instructions than $stored says; if that is right: WRIT_INSTRUCTIONS=write $0"
        [ "${CI:-}" != true ] || code=1
    fi
done <<END
$counts
END
exit $code
