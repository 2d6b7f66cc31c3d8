#!/bin/sh
# Fetches what tests need beside Rust, unprivileged and pinned, into target/tools. What cannot be had is left out, and
# said to be; in continuous integration (CI=true) that is a failure.
set -u

root=$(cd "$(dirname "$0")/.." && pwd)
tools=$root/target/tools
mkdir -p "$tools"
cd "$tools" || exit 1
code=0

left_out() {
    echo "left out: $1"
    [ "${CI:-}" = true ] && code=1
}

# A clock that tests can set.
if [ ! -d faketime ]; then
    { apt-get download libfaketime=0.9.10-2.1 >/dev/null 2>&1 || { apt-get update && apt-get download libfaketime=0.9.10-2.1; }; } \
        >fetch.log 2>&1 && dpkg -x libfaketime_*.deb faketime.part >>fetch.log 2>&1 && mv faketime.part faketime ||
        left_out "tests of a clock behind (no libfaketime: $(tail -1 fetch.log))"
fi

# Another language's JWT library.
if ! python/bin/python -c 'import jwt' 2>/dev/null; then
    { python3 -m venv python && python/bin/python -m pip install --disable-pip-version-check -r "$root/examples/requirements.txt"; } \
        >fetch.log 2>&1 || left_out "verification with PyJWT ($(tail -1 fetch.log))"
fi

# And one in a third language, for the test vectors.
judges=$root/tests/vectors/judges
if [ ! -d node/node_modules/jose ] || ! cmp -s "$judges/package-lock.json" node/package-lock.json; then
    { mkdir -p node && cp "$judges/package.json" "$judges/package-lock.json" node &&
        npm ci --prefix node --ignore-scripts --no-audit --no-fund; } >fetch.log 2>&1 ||
        left_out "verification with jose ($(tail -1 fetch.log))"
fi

# What asks the service anything that its description allows, and more.
if ! schemathesis/bin/python -c 'import schemathesis' 2>/dev/null; then
    { python3 -m venv schemathesis && schemathesis/bin/python -m pip install --disable-pip-version-check \
        -r "$root/tests/schemathesis/requirements.txt"; } >fetch.log 2>&1 ||
        left_out "generated requests ($(tail -1 fetch.log))"
fi
exit $code
