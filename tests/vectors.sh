#!/bin/sh
# Judges the test vectors with two JWT libraries that are not ours (tests/tools.sh fetches them); the crate's own verdict
# is in verifier/tests/vectors.rs. A judge that could not be had is left out; with CI=true that is a failure.
set -u

root=$(cd "$(dirname "$0")/.." && pwd)
vectors=$root/tests/vectors
tools=$root/target/tools
code=0

left_out() {
    echo "left out: the vectors by $1"
    [ "${CI:-}" = true ] && code=1
}

if "$tools/python/bin/python" -c 'import jwt' 2>/dev/null; then
    "$tools/python/bin/python" "$vectors/judges/pyjwt.py" "$vectors" || code=1
else
    left_out PyJWT
fi

# Node looks for packages beside the program.
if [ -d "$tools/node/node_modules/jose" ]; then
    cp "$vectors/judges/jose.mjs" "$tools/node/" && node "$tools/node/jose.mjs" "$vectors" || code=1
else
    left_out jose
fi
exit $code
