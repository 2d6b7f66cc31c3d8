#!/bin/sh
# Starts a quickstart, and runs against it the example programs, the commands that `writ quickstart` prints, and the
# commands of README.md and docs/conformance-of-others.md that use its folder; then runs several instances. Needs curl, and
# a previous `cargo build --workspace --bins --examples`.
set -u

root=$(cd "$(dirname "$0")/.." && pwd)
bin=${CARGO_TARGET_DIR:-$root/target}/debug
examples=$bin/examples
PATH=$bin:$PATH
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

# expect NAME CODE TEXT COMMAND...: checks that the command exits with the code, and that its output contains the text.
expect() {
    name=$1 code=$2 text=$3
    shift 3
    "$@" >"$work/out" 2>"$work/err"
    actual=$?
    if [ "$actual" = "$code" ] && grep -qF -e "$text" "$work/out" "$work/err"; then
        passed=$((passed + 1))
        echo "ok      $name"
    else
        failed=$((failed + 1))
        echo "FAILED  $name: exit code $actual, expected $code and \"$text\""
        sed 's/^/        /' "$work/out" "$work/err"
    fi
}

# run_printed TEXT: runs the command of the quickstart page that contains the text.
run_printed() {
    awk -v text="$1" '
        /^Your turn/ { ours = 1 }
        ours && /^      / { command = command $0 "\n"; next }
        command != "" { if (index(command, text)) { printf "%s", command; exit } command = "" }
    ' "$page" >"$work/command"
    sh "$work/command"
}

# run_readme TEXT: runs the README block that contains the text, in the folder, with the function `ask` of the README and
# the ports of this quickstart.
run_readme() {
    awk -v text="$1" '
        /^```sh$/ { block = ""; within = 1; next }
        /^```$/ { if (within && (index(block, "ask() {") || index(block, text))) printf "%s", block; within = 0 }
        within { block = block $0 "\n" }
    ' "$root/README.md" | sed "s/8443/$exchange/g; s/8444/$discovery/g" >"$work/command"
    (cd "$folder" && bash -euc "$(cat "$work/command")")
}

# run_conformance: runs the command of docs/conformance-of-others.md for a quickstart, with the ports of this one.
run_conformance() {
    awk '
        /^```sh$/ { block = ""; within = 1; next }
        /^```$/ { if (within && index(block, "quickstart/")) printf "%s", block; within = 0 }
        within { block = block $0 "\n" }
    ' "$root/docs/conformance-of-others.md" | sed "s/cargo run -p writ-conformance --/writ-conformance/
        s#quickstart/#folder/#g; s/8443/$exchange/g; s/8444/$discovery/g" >"$work/command"
    (cd "$work" && sh -eu command)
}

# verify FILE OPTION...: verifies the tokens in the file with the downstream service.
verify() {
    tokens=$1
    shift
    "$examples/downstream_service" "$folder" "$@" <"$tokens"
}

for program in "$bin/writ" "$bin/writ-conformance" "$examples/batch_job" "$examples/mail_delivery_agent" \
    "$examples/delayed_purge" "$examples/downstream_service"; do
    if [ ! -x "$program" ]; then
        echo "$program is missing: cargo build --workspace --bins --examples" >&2
        exit 2
    fi
done

# PyJWT is optional: tests/tools.sh reports if it could not be fetched.
python=$root/target/tools/python/bin/python
"$python" -c 'import jwt' 2>/dev/null || python=

"$bin/writ" quickstart --dir "$folder" >"$page" 2>"$work/errors" &
pid=$!
tries=0
until grep -q '^ *Serving' "$page"; do
    tries=$((tries + 1))
    if [ "$tries" -gt 600 ] || ! kill -0 "$pid" 2>/dev/null; then
        echo "FAILED  quickstart does not start"
        cat "$page" "$work/errors"
        exit 1
    fi
    sleep 0.1
done

# The commands that the quickstart page prints.
expect "the gateway exchanges an access token" 0 '"scope":"order.refund"' run_printed scope=order.refund
expect "the mail delivery agent gets a token" 0 '"scope":"mailbox.deliver"' run_printed scope=mailbox.deliver
expect "the purge job redeems the stored token" 0 '"scope":"account.purge"' run_printed scope=account.purge
expect "the same call returns a token again" 0 '"access_token"' run_printed scope=account.purge
expect "the keys are published" 0 '"kid"' run_printed jwks.json
expect "the metadata is published" 0 '"token_endpoint"' run_printed oauth-authorization-server
expect "the requests are counted" 0 'client="purge-job"' run_printed /metrics
expect "the key ring is listed" 0 historical run_printed 'keys list'

# The commands of the README.
exchange=$(sed -n 's/^exchange = "127.0.0.1:\([0-9]*\)"/\1/p' "$folder/writ.toml")
discovery=$(sed -n 's/^discovery = "127.0.0.1:\([0-9]*\)"/\1/p' "$folder/writ.toml")
expect "README: an access token is exchanged" 0 '"scope":"order.refund"' run_readme scope=order.refund
mail() { run_readme 'writ token request' && cat "$folder/mail.jwt"; }
expect "README: a certificate is enough" 0 'ey' mail
expect "README: the token verifies" 0 'valid until' run_readme 'writ token verify'
expect "README: an expired token is redeemed" 0 '"scope":"account.purge"' run_readme scope=account.purge
expect "README: policies are explained, tested and checked" 0 'ok' run_readme 'writ policy test'
expect "the service conforms to the draft" 0 ' passed, 0 FAILED, 0 noted, ' run_conformance

# The batch job and the downstream service.
expect "a batch job gets a token with its certificate" 0 'mailbox.deliver' "$examples/batch_job" "$folder"
cp "$work/out" "$work/batch"
expect "the downstream service accepts it" 0 'accepted: mailbox.deliver for svc:mail-delivery' \
    verify "$work/batch" mailbox.deliver
expect "it refuses the token for another purpose" 1 'refused: ' verify "$work/batch" order.refund
expect "it refuses the token for delayed work" 1 'refused: ' verify "$work/batch" mailbox.deliver --delayed
sed 's/.$/_/' "$work/batch" >"$work/broken"
expect "it refuses the token with another signature" 1 'refused: ' verify "$work/broken" mailbox.deliver

# Verification in Python with a standard JWT library.
if [ -n "$python" ]; then
    jwks=$(sed -n 's#.*\(https://tts[^ ]*jwks.json\)#\1#p' "$page" | tail -1 | sed 's#//[^:/]*#//localhost#')
    pyjwt() { "$python" "$root/examples/verify.py" "$jwks" "$folder/certs/ca.pem" trust-domain.example "$1" <"$work/batch"; }
    expect "PyJWT accepts it" 0 '"sub": "svc:mail-delivery"' pyjwt mailbox.deliver
    expect "PyJWT refuses it for another purpose" 1 'refused: not for order.refund' pyjwt order.refund
fi

# The mail delivery agent.
expect "mail for Bob is delivered, and mail for an unknown recipient is returned" 0 'carol@elsewhere.example: returned' \
    "$examples/mail_delivery_agent" "$folder" bob@trust-domain.example carol@elsewhere.example
cp "$work/out" "$work/mail"
expect "the mailbox service accepts the token" 0 'accepted: mailbox.deliver for bob@trust-domain.example' \
    verify "$work/mail" mailbox.deliver

# Delayed work, first with the token of the quickstart story. Its only use is counted, but
# the same request still returns the token.
printf '{"token":"%s","redeemable_until":%s}' "$(cat "$folder/stored-token.jwt")" 9999999999 \
    >"$folder/cancellation.json"
expect "the purge job recovers from a lost response" 0 'attempt 2: the account is purged' \
    "$examples/delayed_purge" "$folder" purge --lose-an-answer
cp "$work/out" "$work/purge"
expect "the account store accepts the redeemed token" 0 'requested by account-service > purge-job, delayed since' \
    verify "$work/purge" account.purge --delayed
expect "the token has use number 1" 0 'use 1' verify "$work/purge" account.purge --delayed
expect "a cancellation is stored" 0 'can be purged until' "$examples/delayed_purge" "$folder" cancel
expect "the purge job does not redeem a token that is still valid" 0 'too early: try again at' \
    "$examples/delayed_purge" "$folder" purge

kill -TERM "$pid"
wait_for_exit() {
    wait "$pid" && pid= && echo stopped
}
expect "quickstart stops on SIGTERM" 0 stopped wait_for_exit

# Several instances behind HAProxy, until they are told to stop.
cluster=$work/cluster
run_several() {
    "$root/examples/several-instances/run.sh" --keep-running --network "127.$(($$ % 200 + 20)).$(($$ / 200 % 250))" \
        "$cluster" >"$work/several" 2>&1 &
    pid=$!
    until grep -q 'until Ctrl-C' "$work/several"; do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.5
    done
    cat "$work/several"
    kill -0 "$pid"
}
# stop_several: neither a process nor the folder is left.
stop_several() {
    kill -TERM "$pid" && { wait "$pid"; [ $? = 143 ]; } && pid= && [ ! -e "$cluster" ] &&
        ! ls -l /proc/[0-9]*/cwd 2>/dev/null | grep -F -- "-> $cluster" && echo gone
}
# shown PAGE LANGUAGE FILE: each block of the language on the page is in the file.
shown() {
    awk -v language="$2" '
        FNR == NR { file = file $0 "\n"; next }
        $0 == "```" language { block = ""; within = 1; next }
        /^```$/ && within { within = 0; found++; if (!index(file, block)) { print "not in the file:\n" block; bad = 1 } }
        within { block = block $0 "\n" }
        END { if (found && !bad) print "as in the file"; exit bad || !found }
    ' "$3" "$1"
}
expect "the page shows the configuration of HAProxy" 0 'as in the file' \
    shown "$root/docs/how-to/run-several-instances.md" haproxy "$root/examples/several-instances/haproxy.cfg"
if [ -x "$root/target/tools/postgres/usr/lib/postgresql/15/bin/postgres" ] &&
    [ -x "$root/target/tools/haproxy/usr/sbin/haproxy" ]; then
    expect "several instances survive the loss of a primary, of an instance, and a restart" 0 ' 0 requests failed twice' \
        run_several
    expect "they end without a trace" 0 gone stop_several
fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
