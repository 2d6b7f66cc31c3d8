//! Several instances over a PostgreSQL cluster whose nodes fail.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the harness serves several test crates")]

mod support;

use std::time::Instant;

use support::postgres::Postgres;

/// The harness itself: what was committed on a quorum is there after the primary was lost, and the old primary comes back
/// as a standby.
#[test]
fn a_cluster_keeps_what_was_committed_when_its_primary_is_lost() {
    let started = Instant::now();
    let Some(mut postgres) = Postgres::cluster() else { return };
    println!("started after {:?}", started.elapsed());
    postgres.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1)");
    postgres.kill_primary();
    let started = Instant::now();
    assert_ne!(postgres.fail_over(), 0);
    println!("failed over after {:?}", started.elapsed());
    assert_eq!(postgres.sql("INSERT INTO t VALUES (2) RETURNING (SELECT count(*) FROM t)"), "1");
    let started = Instant::now();
    postgres.rejoin();
    println!("rejoined after {:?}", started.elapsed());
    assert_eq!(postgres.sql_on(0, "SELECT pg_is_in_recovery(), count(*) FROM t"), "t|2");
    // A frozen primary: the standbys take over, and what it would still commit has no quorum.
    let frozen = postgres.primary();
    postgres.pause(frozen);
    let started = Instant::now();
    postgres.fail_over();
    println!("failed over after {:?}", started.elapsed());
    postgres.resume(frozen);
    assert_eq!(postgres.sql("SELECT count(*) FROM t"), "2");
    let started = Instant::now();
    postgres.rejoin();
    println!("rejoined after {:?}", started.elapsed());
    assert_eq!(postgres.sql_on(frozen, "SELECT pg_is_in_recovery()"), "t");
}

/// A single server takes writes without a standby.
#[test]
fn a_single_server_takes_writes() {
    let Some(postgres) = Postgres::single() else { return };
    assert_eq!(postgres.sql("SHOW synchronous_standby_names"), "");
    assert_eq!(postgres.sql("SELECT datname FROM pg_database WHERE datname = 'writ'"), "writ");
}
