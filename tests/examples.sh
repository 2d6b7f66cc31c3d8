#!/bin/sh
# Runs the example programs, every command that `writ quickstart` prints, and every command that README.md and
# docs/conformance-of-others.md have for its folder, against a quickstart of its own.
# Builds nothing: `cargo build --workspace --bins --examples` comes first. Needs curl.
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
    if [ -n "${pid:-}" ]; then kill "$pid" 2>/dev/null; fi
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP

# expect NAME CODE TEXT COMMAND...: the command ends with that code, and its output contains the text.
expect() {
    name=$1 code=$2 text=$3
    shift 3
    "$@" >"$work/out" 2>"$work/err"
    came=$?
    if [ "$came" = "$code" ] && grep -qF -e "$text" "$work/out" "$work/err"; then
        passed=$((passed + 1))
        echo "ok      $name"
    else
        failed=$((failed + 1))
        echo "FAILED  $name: exit code $came, expected $code and \"$text\""
        sed 's/^/        /' "$work/out" "$work/err"
    fi
}

# The page's command that contains a text, as a script of its own.
printed() {
    awk -v text="$1" '
        /^Your turn/ { ours = 1 }
        ours && /^      / { command = command $0 "\n"; next }
        command != "" { if (index(command, text)) { printf "%s", command; exit } command = "" }
    ' "$page" >"$work/command"
    sh "$work/command"
}

# The README's block that contains a text, run in the folder with its function `ask`, on the ports of this quickstart.
readme() {
    awk -v text="$1" '
        /^```sh$/ { block = ""; within = 1; next }
        /^```$/ { if (within && (index(block, "ask() {") || index(block, text))) printf "%s", block; within = 0 }
        within { block = block $0 "\n" }
    ' "$root/README.md" | sed "s/8443/$exchange/g; s/8444/$discovery/g" >"$work/command"
    (cd "$folder" && bash -euc "$(cat "$work/command")")
}

# The command that docs/conformance-of-others.md has for a quickstart, on the ports of this one.
conformance() {
    awk '
        /^```sh$/ { block = ""; within = 1; next }
        /^```$/ { if (within && index(block, "quickstart/")) printf "%s", block; within = 0 }
        within { block = block $0 "\n" }
    ' "$root/docs/conformance-of-others.md" | sed "s/cargo run -p writ-conformance --/writ-conformance/
        s#quickstart/#folder/#g; s/8443/$exchange/g; s/8444/$discovery/g" >"$work/command"
    (cd "$work" && sh -eu command)
}

# judge FILE OPTION...: what the service downstream says to the tokens in the file.
judge() {
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

# Left out where it could not be fetched (tests/tools.sh says so).
python=$root/target/tools/python/bin/python
"$python" -c 'import jwt' 2>/dev/null || python=

"$bin/writ" quickstart --dir "$folder" >"$page" 2>"$work/errors" &
pid=$!
tries=0
until grep -q '^ *Serving' "$page"; do
    tries=$((tries + 1))
    if [ "$tries" -gt 600 ] || ! kill -0 "$pid" 2>/dev/null; then
        echo "FAILED  quickstart does not serve"
        cat "$page" "$work/errors"
        exit 1
    fi
    sleep 0.1
done

# What the page says can be done, as it is printed.
expect "the gateway exchanges an access token" 0 '"scope":"order.refund"' printed scope=order.refund
expect "the mail delivery agent gets a token" 0 '"scope":"mailbox.deliver"' printed scope=mailbox.deliver
expect "the purge job redeems the stored token" 0 '"scope":"account.purge"' printed scope=account.purge
expect "the same call brings a token again" 0 '"access_token"' printed scope=account.purge
expect "the keys are published" 0 '"kid"' printed jwks.json
expect "the metadata is published" 0 '"token_endpoint"' printed oauth-authorization-server
expect "the requests are counted" 0 'client="purge-job"' printed /metrics
expect "the key ring is listed" 0 historical printed 'keys list'

# What the README has for this folder.
exchange=$(sed -n 's/^exchange = "127.0.0.1:\([0-9]*\)"/\1/p' "$folder/writ.toml")
discovery=$(sed -n 's/^discovery = "127.0.0.1:\([0-9]*\)"/\1/p' "$folder/writ.toml")
expect "README: an access token is exchanged" 0 '"scope":"order.refund"' readme scope=order.refund
mail() { readme 'writ token request' && cat "$folder/mail.jwt"; }
expect "README: a certificate is enough" 0 'ey' mail
expect "README: the token verifies" 0 'valid until' readme 'writ token verify'
expect "README: an expired token is redeemed" 0 '"scope":"account.purge"' readme scope=account.purge
expect "README: policies are explained, tested and checked" 0 'ok' readme 'writ policy test'
expect "the service conforms to the draft" 0 ' passed, 0 FAILED, 0 noted, ' conformance

# The batch job and the service downstream.
expect "a batch job gets a token with its certificate" 0 'mailbox.deliver' "$examples/batch_job" "$folder"
cp "$work/out" "$work/batch"
expect "the service downstream takes it" 0 'taken: mailbox.deliver for svc:mail-delivery' \
    judge "$work/batch" mailbox.deliver
expect "for no other purpose" 1 'refused: ' judge "$work/batch" order.refund
expect "and not for delayed work" 1 'refused: ' judge "$work/batch" mailbox.deliver --delayed
sed 's/.$/_/' "$work/batch" >"$work/broken"
expect "nor with another signature" 1 'refused: ' judge "$work/broken" mailbox.deliver

# Another language, with a standard JWT library.
if [ -n "$python" ]; then
    jwks=$(sed -n 's#.*\(https://tts[^ ]*jwks.json\)#\1#p' "$page" | tail -1 | sed 's#//[^:/]*#//localhost#')
    pyjwt() { "$python" "$root/examples/verify.py" "$jwks" "$folder/certs/ca.pem" trust-domain.example "$1" <"$work/batch"; }
    expect "PyJWT takes it too" 0 '"sub": "svc:mail-delivery"' pyjwt mailbox.deliver
    expect "and for no other purpose" 1 'refused: not for order.refund' pyjwt order.refund
fi

# The mail delivery agent.
expect "mail for Bob is delivered, for a stranger it is not" 0 'carol@elsewhere.example: returned' \
    "$examples/mail_delivery_agent" "$folder" bob@trust-domain.example carol@elsewhere.example
cp "$work/out" "$work/mail"
expect "the mailbox service takes the one token" 0 'taken: mailbox.deliver for bob@trust-domain.example' \
    judge "$work/mail" mailbox.deliver

# The work that comes later: first with the token that the story left, whose only use is spent but still free.
printf '{"token":"%s","redeemable_until":%s}' "$(cat "$folder/stored-token.jwt")" 9999999999 \
    >"$folder/cancellation.json"
expect "the purge job survives a lost answer" 0 'attempt 2: the account is purged' \
    "$examples/delayed_purge" "$folder" purge --lose-an-answer
cp "$work/out" "$work/purge"
expect "the account store takes the redeemed token" 0 'asked by account-service > purge-job, delayed since' \
    judge "$work/purge" account.purge --delayed
expect "it is the first use" 0 'use 1' judge "$work/purge" account.purge --delayed
expect "a cancellation is stored" 0 'can be purged until' "$examples/delayed_purge" "$folder" cancel
expect "and waits while its token is alive" 0 'too early: come again at' "$examples/delayed_purge" "$folder" purge

kill -TERM "$pid"
stopped() {
    wait "$pid" && pid= && echo stopped
}
expect "quickstart stops at SIGTERM" 0 stopped stopped

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
