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

# unpack FOLDER PACKAGE...: packages of Debian, their files alone; nothing is installed.
unpack() {
    folder=$1
    shift
    rm -rf "$folder" "$folder.part" && mkdir "$folder.part" && cd "$folder.part" || return
    apt-get download "$@" 2>/dev/null || { apt-get update && apt-get download "$@"; } || return
    for deb in *.deb; do dpkg -x "$deb" . && rm "$deb" || return; done
    echo "$*" >packages && cd .. && mv "$folder.part" "$folder"
}

# debian FOLDER TESTS PACKAGE...: the same where it is not there yet, or left out with these tests.
debian() {
    folder=$1 tests=$2
    shift 2
    [ "$(cat "$folder/packages" 2>/dev/null)" = "$*" ] && return
    (unpack "$folder" "$@") >fetch.log 2>&1 || left_out "$tests (cannot fetch $*: $(tail -1 fetch.log))"
}

# A clock that tests can set.
debian faketime "tests of a clock behind" libfaketime=0.9.10-2.1

# What judges metrics. Debian keeps only the newest build of a version, or the newest security fix: hence the stars.
debian prometheus "metrics by promtool" 'prometheus=2.42.0+ds-5*'

# A proxy that asks about tokens.
debian nginx "nginx that asks about tokens" 'nginx=1.22.1-9*' libnginx-mod-http-js=0.7.9-2

# Go, and its OAuth client with what that needs.
debian go "the OAuth client of Go" 'golang-1.19-go=1.19.8-2*' 'golang-1.19-src=1.19.8-2*' \
    golang-golang-x-oauth2-dev=0.3.0-1 golang-golang-x-net-dev=1:0.7.0+dfsg-1

# Another language's JWT library, and its OAuth client.
if ! python/bin/python -c 'import jwt, requests_oauthlib' 2>/dev/null; then
    { python3 -m venv python && python/bin/python -m pip install --disable-pip-version-check \
        -r "$root/examples/requirements.txt" -r "$root/examples/clients/requirements.txt"; } >fetch.log 2>&1 ||
        left_out "verification with PyJWT, and requests-oauthlib ($(tail -1 fetch.log))"
fi

# javascript FOLDER TESTS SOURCE: what the package-lock.json in the source folder names.
javascript() {
    cmp -s "$3/package-lock.json" "$1/package-lock.json" && [ -d "$1/node_modules" ] && return
    { mkdir -p "$1" && cp "$3/package.json" "$3/package-lock.json" "$1" &&
        npm ci --prefix "$1" --ignore-scripts --no-audit --no-fund; } >fetch.log 2>&1 ||
        left_out "$2 ($(tail -1 fetch.log))"
}

# A JWT library in a third language, for the test vectors; and the OAuth clients of that language.
javascript node "verification with jose" "$root/tests/vectors/judges"
javascript clients "openid-client and oauth4webapi" "$root/examples/clients"

# What asks the service anything that its description allows, and more.
if ! schemathesis/bin/python -c 'import schemathesis' 2>/dev/null; then
    { python3 -m venv schemathesis && schemathesis/bin/python -m pip install --disable-pip-version-check \
        -r "$root/tests/schemathesis/requirements.txt"; } >fetch.log 2>&1 ||
        left_out "generated requests ($(tail -1 fetch.log))"
fi
exit $code
