#!/usr/bin/env bash
# Three instances of Writ over a PostgreSQL primary with two synchronous standbys, behind HAProxy, on this host. Issues
# and redeems tokens through the load balancer while servers and instances fail. Linux only; needs curl.
#
#   run.sh [--keep-running] [--network 127.0.1] [DIR]
#
#   DIR              where everything is kept, ./several-instances by default; it must not exist, and is removed at the end,
#                    unless something fails
#   --keep-running   goes on until Ctrl-C, so that you can try it
#   --network        the addresses: .1 to .3 stand for three machines, each with a database server and an instance, and .10
#                    for that of the load balancer
#
# tests/tools.sh fetches PostgreSQL and HAProxy; PG_BIN and HAPROXY name others. `writ` is that of the PATH, or is built.
set -euo pipefail

here=$(realpath "$(dirname "$0")")
root=$(realpath "$here/../..")
keep_running='' network=127.0.1 dir=several-instances
while [ $# -gt 0 ]; do
    case $1 in
        --keep-running) keep_running=yes ;;
        --network) network=${2:?which?} && shift ;;
        -*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
        *) dir=$1 ;;
    esac
    shift
done
tools=$root/target/tools
haproxy=${HAPROXY:-$tools/haproxy/usr/sbin/haproxy}
balancer=$network.10
issuer=https://tts.trust-domain.example:8443
keys=https://tts.trust-domain.example:8444/.well-known/jwks.json

step() { echo; echo "== $*"; }

# The processes that this script has started, besides the database.
pids=() has_failed=''

finish() {
    set +e
    trap '' INT TERM HUP
    touch stop
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
    [ ! -e nodes ] || "$here/database.sh" stop .
    if [ -n "$has_failed" ]; then
        echo "the logs are in $dir" >&2
    else
        cd / && rm -rf "$dir"
    fi
}

fail() {
    has_failed=yes
    echo "$*" >&2
    exit 1
}

# now: milliseconds
now() { echo "$((${EPOCHREALTIME/[.,]/} / 1000))"; }

# instance NUMBER: starts it as if on a machine of its own.
instance() {
    WRIT_STORE__PATH=data-$1 WRIT_LISTEN__EXCHANGE=$network.$1:8443 WRIT_LISTEN__DISCOVERY=$network.$1:8444 \
        WRIT_LISTEN__OPS=$network.$1:9464 setsid writ serve --config writ.toml </dev/null >>"tts-$1.log" 2>&1 &
    instances[$1]=$!
    pids+=($!)
}

is_ready() { [ "$(curl -s -o ready -w '%{http_code}' --noproxy '*' "http://$network.$1:9464/readyz")" = 200 ]; }

await_ready() {
    local tries=0
    until is_ready "$1"; do
        tries=$((tries + 1))
        kill -0 "${instances[$1]}" 2>/dev/null || fail "tts-$1 has ended"
        [ "$tries" -lt 300 ] || fail "tts-$1 is not ready: $(cat ready)"
        sleep 0.1
    done
}

# ask CLIENT SCOPE [OPTION...]: requests a token through the load balancer.
ask() {
    local client=$1 scope=$2
    shift 2
    writ token request --url "$issuer" --resolve "tts.trust-domain.example:8443:$balancer" --ca certs/ca.pem \
        --cert "certs/$client.pem" --key "certs/$client.key" --audience trust-domain.example --scope "$scope" "$@"
}

redeem() { ask purge-job account.purge --subject-token "$1" --subject-token-type urn:ietf:params:oauth:token-type:txn_token; }

# insist COMMAND...: repeats what the store may refuse for a moment.
insist() {
    local began
    began=$(now)
    until "$@" 2>insist.error; do
        [ $(($(now) - began)) -lt 30000 ] || fail "$*: $(cat insist.error)"
    done
}

verify() {
    writ token verify --jwks "$keys" --resolve "tts.trust-domain.example:8444:$balancer" --ca certs/ca.pem \
        --audience trust-domain.example "$1"
}

# Requests tokens that need not be recorded, one after the other, until it is told to stop. As any client should, it
# repeats a request whose connection was cut, which happens when an instance is killed, a moment later.
load() {
    until [ -e stop ]; do
        if ask account-service account.rename >/dev/null 2>>load.log; then
            echo issued
        elif sleep 0.5 && ask account-service account.rename >/dev/null 2>>load.log; then
            echo repeated
        else
            echo failed
        fi
    done >load.out
}

# --- what is needed

[ ! -e "$dir" ] || { echo "$dir exists" >&2; exit 1; }
if ! command -v writ >/dev/null; then
    step "Building writ"
    cargo build --release --locked --bin writ --manifest-path "$root/Cargo.toml"
    PATH=${CARGO_TARGET_DIR:-$root/target}/release:$PATH
fi
if [ -z "${PG_BIN:-}" ] || [ -z "${HAPROXY:-}" ]; then "$root/tests/tools.sh" postgres haproxy; fi
mkdir -p "$dir" && dir=$(realpath "$dir") && cd "$dir"
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

step "Certificates and configuration"
echo "$network" >network
cp -r "$here/policies" .
for file in writ.toml haproxy.cfg; do sed "s/127\.0\.1\./$network./g" "$here/$file" >"$file"; done
writ certs init certs --config writ.toml >/dev/null
for client in account-service purge-job; do writ certs issue --dir certs --client "$client" >/dev/null; done
# The database has an authority of its own: a client of Writ is none of the database.
writ certs init database --name "$network.1" --name "$network.2" --name "$network.3" >/dev/null
writ certs issue --dir database --client postgres >/dev/null
for role in writ writ_owner; do
    (umask 077 && od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"database/$role.password")
done

step "A primary and two synchronous standbys"
"$here/database.sh" start .
"$here/database.sh" status .

step "Roles, database and tables"
# What an administrator runs.
writ store schema --config writ.toml | sed '/^-- As writ_owner/,$d' | "$here/database.sh" psql .
for role in writ writ_owner; do
    "$here/database.sh" psql . -c "ALTER ROLE $role PASSWORD '$(cat "database/$role.password")'"
done
writ store migrate --config writ.toml --password-file database/writ_owner.password

step "Three instances"
instances=()
for number in 1 2 3; do instance "$number"; done
for number in 1 2 3; do await_ready "$number"; done
echo "ready: tts-1, tts-2 and tts-3"

step "HAProxy"
LD_LIBRARY_PATH=$tools/haproxy/usr/lib/$(uname -m)-linux-gnu:$tools/haproxy/lib/$(uname -m)-linux-gnu \
    setsid "$haproxy" -db -f haproxy.cfg </dev/null >haproxy.log 2>&1 &
pids+=($!)
tries=0
until ask account-service account.rename >token.jwt 2>ask.error; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || fail "no token through HAProxy: $(cat ask.error)"
    sleep 0.1
done
verify token.jwt
echo "issued through $issuer, and verified with the keys at $keys"

# --- what is shown

load &
load=$!
pids+=("$load")

step "A stored token is redeemed once"
for name in first second; do insist ask account-service account.purge >"$name.jwt"; done
sleep 3 # until they have expired
insist redeem first.jwt >redeemed.jwt
writ token inspect redeemed.jwt

step "The primary is lost, and a standby takes over"
"$here/database.sh" kill . "$(cat primary)"
"$here/database.sh" fail-over .
failed_over=$(now)
insist redeem second.jwt >redeemed.jwt
echo "the second token is redeemed $(($(now) - failed_over)) ms after the fail-over"
sleep 3 # until the token that was given for the first one has expired; before, a repeated request gets it again
if redeem first.jwt 2>redeem.error >/dev/null; then fail "the first token was redeemed twice"; fi
grep -q redemption_exhausted redeem.error || fail "$(cat redeem.error)"
echo "the first one is not: $(cat redeem.error)"
"$here/database.sh" rejoin .
"$here/database.sh" status .

step "An instance is killed, and comes back"
{ kill -KILL "${instances[2]}" && wait "${instances[2]}"; } 2>/dev/null || true
for _ in 1 2 3 4 5 6; do insist ask account-service account.purge >/dev/null; done
instance 2
await_ready 2

step "Both standbys are lost: nothing can be recorded"
for node in n1 n2 n3; do
    [ "$node" = "$(cat primary)" ] || "$here/database.sh" kill . "$node"
done
for number in 1 2 3; do
    tries=0
    while is_ready "$number"; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || fail "tts-$number is ready without a quorum"
        sleep 0.1
    done
done
if ask account-service account.purge 2>ask.error >/dev/null; then fail "a token was recorded without a standby"; fi
echo "no instance is ready; a token that has to be recorded is refused: $(cat ask.error)"
sleep 2 # until HAProxy has seen it
insist ask account-service account.rename >token.jwt
verify token.jwt
echo "another one is issued, and verifies"
"$here/database.sh" rejoin .
for number in 1 2 3; do await_ready "$number"; done
"$here/database.sh" status .

step "A rolling restart"
for number in 1 2 3; do
    kill -TERM "${instances[number]}"
    wait "${instances[number]}" || fail "tts-$number did not stop as asked"
    instance "$number"
    await_ready "$number"
    echo "tts-$number is ready again"
    sleep 1 # until HAProxy has seen it
done

touch stop
wait "$load"
count() { grep -c "$1" load.out || true; }
step "All the while, tokens that need not be recorded"
echo "$(count issued) issued, $(count repeated) more at the second request, $(count failed) requests failed twice"
cat load.log
[ "$(count failed)" = 0 ] || fail "requests failed"
[ -z "$keep_running" ] || {
    cat <<TEXT

Everything goes on running until Ctrl-C. In another shell:

  cd $dir
  PATH=$(dirname "$(command -v writ)"):\$PATH
  writ token request --url $issuer --resolve tts.trust-domain.example:8443:$balancer \\
    --ca certs/ca.pem --cert certs/account-service.pem --key certs/account-service.key \\
    --audience trust-domain.example --scope account.purge >token
  writ token request --url $issuer --resolve tts.trust-domain.example:8443:$balancer \\
    --ca certs/ca.pem --cert certs/purge-job.pem --key certs/purge-job.key \\
    --audience trust-domain.example --scope account.purge --subject-token token \\
    --subject-token-type urn:ietf:params:oauth:token-type:txn_token
  curl http://$network.1:9464/readyz
  $here/database.sh status .
  $here/database.sh kill . $(cat primary)
  $here/database.sh fail-over .
  $here/database.sh rejoin .
TEXT
    while sleep 1; do :; done
}
