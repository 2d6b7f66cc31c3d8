#!/bin/sh
# Fetches the pinned tools that some tests need into target/tools, without root privileges. Tests whose tool cannot be
# fetched are skipped with a message; in continuous integration (CI=true) that is a failure. With names, fetches only those.
set -u

only=$*

root=$(cd "$(dirname "$0")/.." && pwd)
tools=$root/target/tools
mkdir -p "$tools"
cd "$tools" || exit 1
code=0

skip() {
    echo "skipped: $1"
    [ "${CI:-}" = true ] && code=1
}

# wanted NAME: whether a tool is to be fetched.
wanted() {
    case " $only " in "  " | *" $1 "*) ;; *) return 1 ;; esac
}

# unpack FOLDER PACKAGE...: unpacks Debian packages into the folder without installing them.
unpack() {
    folder=$1
    shift
    rm -rf "$folder" "$folder.part" && mkdir "$folder.part" && cd "$folder.part" || return
    apt-get download "$@" 2>/dev/null || { apt-get update && apt-get download "$@"; } || return
    for deb in *.deb; do dpkg -x "$deb" . && rm "$deb" || return; done
    echo "$*" >packages && cd .. && mv "$folder.part" "$folder"
}

# debian FOLDER TESTS PACKAGE...: unpacks the packages unless they are present; skips the tests if that fails.
debian() {
    folder=$1 tests=$2
    shift 2
    wanted "$folder" || return
    [ "$(cat "$folder/packages" 2>/dev/null)" = "$*" ] && return
    (unpack "$folder" "$@") >fetch.log 2>&1 || skip "$tests (cannot fetch $*: $(tail -1 fetch.log))"
}

# libfaketime: a clock that tests can set.
debian faketime "tests with a changed clock" libfaketime=0.9.10-2.1

# promtool checks the metrics. The wildcards are needed because Debian keeps only the newest build of a version.
debian prometheus "metrics with promtool" 'prometheus=2.42.0+ds-5*'

# valgrind counts instructions.
debian valgrind "counts of instructions" 'valgrind=1:3.19.0-1*'

# nginx, a proxy that introspects tokens.
debian nginx "nginx with token introspection" 'nginx=1.22.1-9*' libnginx-mod-http-js=0.7.9-2

# Go and its OAuth client with dependencies.
debian go "the OAuth client of Go" 'golang-1.19-go=1.19.8-2*' 'golang-1.19-src=1.19.8-2*' \
    golang-golang-x-oauth2-dev=0.3.0-1 golang-golang-x-net-dev=1:0.7.0+dfsg-1

# PostgreSQL, the store of several instances. The security archive keeps only the newest build of a major version. The
# libraries are those that Debian's base system lacks; libllvm is left out, since the tests' servers do not compile queries.
debian postgres "PostgreSQL as the store" 'postgresql-15=15.*' 'postgresql-client-15=15.*' 'libpq5=15.*' libicu72 \
    libxml2 libldap-2.5-0 libsasl2-2 libssl3 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 libkeyutils1 \
    libcom-err2 libreadline8

# HAProxy, which passes TLS through to several instances, with the libraries that Debian's base system lacks.
debian haproxy "several instances behind HAProxy" 'haproxy=2.6.12-1*' liblua5.3-0 libopentracing-c-wrapper0 \
    libopentracing1 libpcre2-8-0 libssl3 libsystemd0

# A JWT library and an OAuth client for Python.
if wanted python && ! python/bin/python -c 'import jwt, requests_oauthlib' 2>/dev/null; then
    { python3 -m venv python && python/bin/python -m pip install --disable-pip-version-check \
        -r "$root/examples/requirements.txt" -r "$root/examples/clients/requirements.txt"; } >fetch.log 2>&1 ||
        skip "verification with PyJWT and requests-oauthlib ($(tail -1 fetch.log))"
fi

# javascript FOLDER TESTS SOURCE: installs the packages of the package-lock.json in the source folder.
javascript() {
    wanted "$1" || return
    cmp -s "$3/package-lock.json" "$1/package-lock.json" && [ -d "$1/node_modules" ] && return
    { mkdir -p "$1" && cp "$3/package.json" "$3/package-lock.json" "$1" &&
        npm ci --prefix "$1" --ignore-scripts --no-audit --no-fund; } >fetch.log 2>&1 ||
        skip "$2 ($(tail -1 fetch.log))"
}

# A JWT library for JavaScript, for the test vectors, and the OAuth clients for JavaScript.
javascript node "verification with jose" "$root/tests/vectors/judges"
javascript clients "openid-client and oauth4webapi" "$root/examples/clients"

# schemathesis sends requests generated from the OpenAPI description.
if wanted schemathesis && ! schemathesis/bin/python -c 'import schemathesis' 2>/dev/null; then
    { python3 -m venv schemathesis && schemathesis/bin/python -m pip install --disable-pip-version-check \
        -r "$root/tests/schemathesis/requirements.txt"; } >fetch.log 2>&1 ||
        skip "generated requests ($(tail -1 fetch.log))"
fi
exit $code
