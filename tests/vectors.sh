#!/bin/sh
# Runs the test vectors with two independent JWT libraries, which tests/tools.sh fetches. verifier/tests/vectors.rs runs
# them with our verifier. A missing library is skipped; with CI=true that is a failure.
set -u

root=$(cd "$(dirname "$0")/.." && pwd)
vectors=$root/tests/vectors
tools=$root/target/tools
code=0

skip() {
    echo "skipped: test vectors with $1"
    [ "${CI:-}" = true ] && code=1
}

if "$tools/python/bin/python" -c 'import jwt' 2>/dev/null; then
    "$tools/python/bin/python" "$vectors/judges/pyjwt.py" "$vectors" || code=1
else
    skip PyJWT
fi

# Node resolves packages relative to the program.
if [ -d "$tools/node/node_modules/jose" ]; then
    cp "$vectors/judges/jose.mjs" "$tools/node/" && node "$tools/node/jose.mjs" "$vectors" || code=1
else
    skip jose
fi
exit $code
