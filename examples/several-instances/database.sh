#!/usr/bin/env bash
# Three PostgreSQL servers with quorum commit, each on an address of its own on this host, as if on three machines.
#
#   database.sh start DIR       n1, the primary; n2 and n3, its standbys; the roles, and the empty database `writ`
#   database.sh status DIR      which server is what
#   database.sh psql DIR …      psql on the primary as superuser
#   database.sh kill DIR n1     ends a server as if its machine had lost power
#   database.sh fail-over DIR   makes a standby the primary
#   database.sh rejoin DIR      makes each server that does not follow the primary a fresh standby
#   database.sh stop DIR        ends all servers
#
# `run.sh` prepares DIR. PG_BIN names the folder of another PostgreSQL than the one that tests/tools.sh fetches.
set -euo pipefail

action=${1:?what? see the head of this script}
dir=$(realpath "${2:?in which folder?}")
nodes=(n1 n2 n3)
network=$(cat "$dir/network")
tools=$(realpath -m "$(dirname "$0")/../../target/tools/postgres")
bin=${PG_BIN:-$tools/usr/lib/postgresql/15/bin}

export LC_ALL=C
cd "$dir"

# What each node has besides the defaults. All have the same, so that a fail-over changes nothing here: a primary is no
# standby of itself.
settings() {
    cat <<CONF
unix_socket_directories = ''
ssl = on
ssl_min_protocol_version = 'TLSv1.3'
ssl_ca_file   = '$dir/server/ca.pem'
ssl_cert_file = '$dir/server/server.pem'
ssl_key_file  = '$dir/server/server.key'
synchronous_standby_names = 'ANY 1 (n1, n2, n3)'
wal_keep_size = 512MB               # a standby that comes back finds what it missed
wal_sender_timeout = 3s
wal_receiver_timeout = 3s
wal_retrieve_retry_interval = 100ms
tcp_keepalives_idle = 2             # connections of a machine that is gone end
tcp_keepalives_interval = 1
tcp_keepalives_count = 3
tcp_user_timeout = 5000
shared_buffers = 64MB
dynamic_shared_memory_type = mmap   # a container has little /dev/shm
jit = off
timezone = GMT
log_timezone = GMT
CONF
}

# Who may log in: the superuser and the standbys with a certificate, Writ with a password.
access() {
    cat <<CONF
hostssl all         postgres        samehost cert
hostssl replication postgres        samehost cert
hostssl writ        writ,writ_owner samehost scram-sha-256
CONF
}

# Runs a program of the pinned PostgreSQL with the libraries that were fetched with it.
pg() {
    local program=$1
    shift
    LD_LIBRARY_PATH=$tools/usr/lib/$(uname -m)-linux-gnu:$tools/lib/$(uname -m)-linux-gnu "$bin/$program" "$@"
}

# PostgreSQL refuses to run as root. There it runs as `nobody`, or, where that account cannot reach the files, in a user
# namespace in which root has another number.
unprivileged() {
    if [ "$(id -u)" != 0 ]; then
        "$@"
    elif [ "$(cat account)" = nobody ]; then
        setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups "$@"
    else
        unshare --user --map-user=65534 --map-group=65534 "$@"
    fi
}

server() {
    export LD_LIBRARY_PATH=$tools/usr/lib/$(uname -m)-linux-gnu:$tools/lib/$(uname -m)-linux-gnu
    local program=$1
    shift
    HOME=$dir unprivileged "$bin/$program" "$@"
}

choose_account() {
    echo other >account
    if [ "$(id -u)" = 0 ]; then
        if setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups \
            sh -c "test -x '$bin/postgres' && test -x '$dir'" 2>/dev/null; then
            echo nobody >account
            chown nobody "$dir/server" "$dir/server"/*
        fi
    fi
}

# The connection of the superuser to a node.
connection() {
    echo "host=$network.${1#n} port=5432 user=postgres sslmode=verify-full connect_timeout=5" \
        "sslrootcert=$dir/server/ca.pem sslcert=$dir/server/postgres.pem sslkey=$dir/server/postgres.key"
}

# sql NODE SQL...: each statement is a transaction of its own.
sql() {
    local node=$1 arguments=()
    shift
    for statement in "$@"; do arguments+=(-c "$statement"); done
    pg psql -XAtq -P pager=off -v ON_ERROR_STOP=1 "$(connection "$node") dbname=postgres" "${arguments[@]}"
}

wait_for() {
    local what=$1 tries=0
    shift
    until "$@"; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || { echo "waited in vain: $what" >&2; exit 1; }
        sleep 0.1
    done
}

pid() { head -n 1 "nodes/$1/postmaster.pid" 2>/dev/null; }

# A process that has ended stays as a zombie until its parent asks for its exit code.
runs() { kill -0 "$1" 2>/dev/null && ! grep -qs '^State:.Z' "/proc/$1/status"; }

is_up() { local pid; pid=$(pid "$1") && runs "$pid"; }

has_ended() { ! runs "$1"; }

is_started() { [[ "$(sed -n 8p "nodes/$1/postmaster.pid" 2>/dev/null)" =~ ^(ready|standby) ]]; }

start_node() {
    local node=$1
    # On the command line, because standbys are copies of the primary with its configuration.
    (server postgres -D "$dir/nodes/$node" -h "$network.${node#n}" -p 5432 -c "cluster_name=$node" \
        </dev/null >>"$node.log" 2>&1 &)
    wait_for "$node starts; see $dir/$node.log" is_started "$node"
}

# Lets a node that is not running follow another one when it starts.
follow() {
    unprivileged sh -c "echo \"primary_conninfo = '$(connection "$2")'\" >'nodes/$1/postgresql.auto.conf' &&
        touch 'nodes/$1/standby.signal'"
}

followers() { sql "$(cat primary)" "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'"; }

have_joined() { [ "$(followers | wc -l)" = 2 ]; }

start() {
    [ ! -e nodes ] || { echo "$dir/nodes exists; run: rm -r $dir" >&2; exit 1; }
    mkdir -p server nodes
    cp -p database/{ca,server,postgres}.pem database/{server,postgres}.key server
    choose_account
    if [ "$(cat account)" = nobody ]; then chown nobody nodes; fi
    server initdb --pgdata=nodes/n1 --username=postgres --auth=reject --encoding=UTF8 --no-sync >initdb.log
    settings | unprivileged tee -a nodes/n1/postgresql.conf >/dev/null
    access | unprivileged tee nodes/n1/pg_hba.conf >/dev/null
    for node in n2 n3; do
        unprivileged cp -r nodes/n1 nodes/$node # it was never started
        follow $node n1
    done
    echo n1 >primary
    for node in "${nodes[@]}"; do start_node "$node"; done
    wait_for "the standbys follow" have_joined
}

kill_node() {
    local pid
    pid=$(pid "$1")
    # First the one that starts the others.
    kill -STOP "$pid"
    kill -KILL $(cat "/proc/$pid/task/$pid/children") "$pid" 2>/dev/null || true # some may have ended by themselves
    wait_for "$1 ends" has_ended "$pid"
    rm -f "nodes/$1/postmaster.pid"
}

lets_go() { [ "$(sql "$1" 'SELECT count(*) FROM pg_stat_wal_receiver')" = 0 ]; }

# The order matters: all standbys are cut from the old primary *before* they are compared, otherwise it could go on with
# one of them as its quorum, and acknowledge what the other, promoted, never gets. Both must answer: each commit is on two
# of the three nodes, so that one standby alone may lack some.
fail_over() {
    local old best='' most=-1 received standbys=()
    old=$(cat primary)
    for node in "${nodes[@]}"; do if [ "$node" != "$old" ]; then standbys+=("$node"); fi; done
    for node in "${standbys[@]}"; do
        sql "$node" "ALTER SYSTEM SET primary_conninfo = ''" "SELECT pg_reload_conf()" >/dev/null
    done
    for node in "${standbys[@]}"; do
        wait_for "$node lets go of $old" lets_go "$node"
        received=$(sql "$node" "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'")
        if [ "$received" -gt "$most" ]; then best=$node most=$received; fi
    done
    [ "$(sql "$best" "SELECT pg_promote(true, 60)")" = t ]
    echo "$best" >primary
    for node in "${standbys[@]}"; do
        [ "$node" = "$best" ] ||
            sql "$node" "ALTER SYSTEM SET primary_conninfo = '$(connection "$best")'" "SELECT pg_reload_conf()" >/dev/null
    done
    echo "$best is the primary"
}

rejoin() {
    local primary following
    primary=$(cat primary) following=$(followers)
    for node in "${nodes[@]}"; do
        if [ "$node" = "$primary" ] || grep -qx "$node" <<<"$following"; then continue; fi
        if is_up "$node"; then kill_node "$node"; fi
        rm -rf "nodes/$node"
        server pg_basebackup --checkpoint=fast --no-sync --dbname="$(connection "$primary")" --pgdata="nodes/$node"
        follow "$node" "$primary"
        start_node "$node"
    done
    wait_for "the standbys follow" have_joined
}

status() {
    for node in "${nodes[@]}"; do
        if is_up "$node"; then
            sql "$node" "SELECT '$node $network.${node#n} ' || CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END"
        else
            echo "$node $network.${node#n} down"
        fi
    done
}

stop() {
    local pid pids=()
    for node in "${nodes[@]}"; do
        if is_up "$node"; then
            pid=$(pid "$node") pids+=("$(pid "$node")")
            # At once: a commit that waits for a standby would hold up anything else.
            kill -CONT "$pid" && kill -QUIT "$pid" || true
        fi
    done
    for pid in "${pids[@]}"; do wait_for "process $pid ends" has_ended "$pid"; done
}

case $action in
    start) start ;;
    status) status ;;
    psql) pg psql "$(connection "$(cat primary)") dbname=postgres" -Xqv ON_ERROR_STOP=1 "${@:3}" ;;
    kill) kill_node "${3:?which server?}" ;;
    fail-over) fail_over ;;
    rejoin) rejoin ;;
    stop) stop ;;
    *) echo "unknown: $action" >&2; exit 2 ;;
esac
