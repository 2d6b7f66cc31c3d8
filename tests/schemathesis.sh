#!/bin/sh
# Starts a quickstart, and sends it generated requests, valid and invalid according to docs/openapi.json, over mTLS. No
# response may be a 5xx, and each must match the description. The requests are the same in each run. Needs a previous
# `cargo build --bins`. Skipped if schemathesis could not be fetched (tests/tools.sh); with CI=true that is a failure.
set -u

root=$(cd "$(dirname "$0")/.." && pwd)
writ=${CARGO_TARGET_DIR:-$root/target}/debug/writ
tool=$root/target/tools/schemathesis/bin
work=$(mktemp -d)
folder=$work/folder
page=$work/page
passed=0
failed=0

finish() {
    if [ -n "${pid:-}" ]; then kill "$pid" 2>/dev/null && wait "$pid"; fi
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP

if ! "$tool/python" -c 'import schemathesis' 2>/dev/null; then
    echo "skipped: generated requests (schemathesis is not installed)"
    [ "${CI:-}" != true ]
    exit
fi
if [ ! -x "$writ" ]; then
    echo "$writ is missing: cargo build --bins" >&2
    exit 2
fi

"$writ" quickstart --dir "$folder" >"$page" 2>"$work/errors" &
pid=$!
tries=0
until grep -q '^ *Serving' "$page" 2>/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -gt 600 ] || ! kill -0 "$pid" 2>/dev/null; then
        echo "FAILED  quickstart does not start"
        cat "$page" "$work/errors"
        exit 1
    fi
    sleep 0.1
done

# run NAME PATHS NARROWED OPTION...: checks that each response matches the description, and that some are successful.
checks=not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance
checks=$checks,response_schema_conformance,negative_data_rejection,unsupported_method,allow_header_conformance
run() {
    name=$1 paths=$2 narrowed=$3
    shift 3
    (cd "$work" && SCHEMATHESIS_HOOKS=hooks NARROWED=$narrowed PYTHONPATH=$root/tests/schemathesis PYTHONDONTWRITEBYTECODE=1 \
        "$tool/schemathesis" --config-file "$root/tests/schemathesis/schemathesis.toml" run "$root/docs/openapi.json" \
        --include-path-regex "$paths" --checks $checks \
        --phases examples,coverage,fuzzing --max-examples 60 --generation-deterministic --no-shrink \
        --request-timeout 10 --no-color --warnings off --report ndjson --report-ndjson-path "$work/answers" \
        "$@") >"$work/out" 2>&1
    actual=$?
    good=$(grep -o '"status_code":200' "$work/answers" | wc -l)
    if [ "$actual" = 0 ] && [ "$good" -gt 0 ]; then
        passed=$((passed + 1))
        echo "ok      $name: $(sed -n 's/^ *\([0-9]* generated\).*/\1/p' "$work/out"), $good granted"
    else
        failed=$((failed + 1))
        echo "FAILED  $name: exit code $actual, $good granted"
        cut -c 1-300 "$work/out" | sed 's/^/        /'
    fi
}

# port LISTENER: the port of the listener.
port() {
    sed -n "s/^$1 = \".*:\([0-9]*\)\"$/\1/p" "$folder/writ.toml"
}

# run_as CLIENT NAME PATHS NARROWED: the same on the exchange listener, with the client's certificate.
run_as() {
    cert=$folder/certs/$1.pem key=$folder/certs/$1.key
    shift
    run "$@" --url "https://localhost:$(port exchange)" --tls-verify "$folder/certs/ca.pem" --request-cert "$cert" \
        --request-cert-key "$key"
}

fresh=$("$writ" token request --url "https://localhost:$(port exchange)" --ca "$folder/certs/ca.pem" \
    --cert "$folder/certs/mail-delivery-agent.pem" --key "$folder/certs/mail-delivery-agent.key" \
    --scope mailbox.deliver --audience trust-domain.example)
# For any other token the response is `{"active":false}`.
run_as account-service "token introspection" '^/introspect$' '[
    ["IntrospectionRequest", "client_id", ["account-service"]],
    ["IntrospectionRequest", "token", ["'"$fresh"'", "'"$(cat "$folder/stored-token.jwt")"'"]]]' \
    --exclude-checks negative_data_rejection
run_as mail-delivery-agent "tokens for a mail delivery agent" '^/token$' '[
    ["ClientCredentialsRequest", "client_id", ["mail-delivery-agent"]],
    ["ClientCredentialsRequest", "audience", ["trust-domain.example"]],
    ["ClientCredentialsRequest", "scope", ["mailbox.deliver"]]]'
run_as gateway "tokens for a gateway" '^/token$' '[
    ["TokenExchangeRequest", "client_id", ["gateway"]],
    ["TokenExchangeRequest", "audience", ["trust-domain.example"]],
    ["TokenExchangeRequest", "scope", ["order.refund", "trade.execute"]],
    ["TokenExchangeRequest", "subject_token", ["'"$(cat "$folder/access-token.jwt")"'"]],
    ["TokenExchangeRequest", "subject_token_type", ["urn:ietf:params:oauth:token-type:access_token"]]]'
run "the keys and the metadata" '^/[.]well-known/' '[]' --url "https://localhost:$(port discovery)" \
    --tls-verify "$folder/certs/ca.pem"
run "health and metrics" '^/(livez|readyz|metrics)$' '[]' --url "http://127.0.0.1:$(port ops)"

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
