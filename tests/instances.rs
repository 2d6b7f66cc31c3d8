//! Several `writ serve` over one database: one key ring, one ledger, one kill switch.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the harness serves several test crates")]

#[path = "support/postgres.rs"]
mod database;
#[path = "support/delayed.rs"]
mod delayed;
#[path = "support/instances.rs"]
mod shared;
mod support;

use std::collections::BTreeSet;
use std::thread::scope;
use std::time::{Duration, Instant};

use database::Postgres;
use delayed::PURGE;
use shared::setups;
use support::workload::Form;
use support::writ::{Setup, Writ};
use support::{eventually, now, wait_until};

/// The configurations of instances over a single server.
fn instances<const COUNT: usize>(servers: &Postgres) -> [Setup; COUNT] {
    setups(servers, "2s").map(|setup| setup.set("store.replication", "none"))
}

fn kids(writ: &Writ) -> BTreeSet<String> {
    writ.site().jwks().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_one_instance_does_counts_for_the_other() {
    let Some(servers) = Postgres::single() else { return };
    let [one, other] = instances(&servers).map(Setup::start);
    assert_eq!(kids(&one), kids(&other));
    let original = one.workload("accounts").token(&Form::client_credentials(PURGE)).issued();
    original.wait_until_expired();
    let redeemed = other.workload("batch").token(&Form::redeem(&original.token, PURGE)).issued();
    // A lost answer is repeated by whichever instance is asked.
    let again = one.workload("batch").token(&Form::redeem(&original.token, PURGE)).issued();
    assert_eq!(again.claims, redeemed.claims);
    redeemed.wait_until_expired();
    for writ in [&one, &other] {
        let refused = writ.workload("batch").token(&Form::redeem(&original.token, PURGE));
        assert_eq!(refused.reason(), "redemption_exhausted");
    }
    let rename = || other.workload("renames").token(&Form::client_credentials("account.rename"));
    rename().issued();
    one.run(&["block", "add", "--client", "renames"]).exits(0);
    let began = Instant::now();
    eventually("the block is in force", || (rename().reason() == "blocked").then_some(()));
    println!("a block of the other instance after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(1));
    other.run(&["block", "remove", "--client", "renames"]).exits(0);
    one.run(&["keys", "verify"]).exits(0);
}

/// R-KEYS-03: a token verifies with the JWKS of every instance from the moment it is issued.
#[test]
fn keys_rotate_once_for_all_instances_and_go_on_without_one() {
    let Some(servers) = Postgres::single() else { return };
    // A killed instance is waited for until its lease is over, which takes longer than the shortest keys live.
    let [one, other] = instances(&servers).map(|setup| setup.short_keys(8));
    let [one, mut other] = [one, other].map(Setup::start);
    let mut signed = BTreeSet::new();
    let mut rotate_to = |keys: usize, writs: &[&Writ]| {
        eventually("the keys rotate", || {
            for writ in writs {
                let token = writ.workload("renames").token(&Form::client_credentials("account.rename")).issued();
                let kid = token.kid().to_owned();
                assert!(writs.iter().all(|writ| kids(writ).contains(&kid)), "{kid}");
                signed.insert(kid);
            }
            (signed.len() >= keys).then_some(())
        });
    };
    rotate_to(2, &[&one, &other]);
    other.kill();
    rotate_to(3, &[&one]);
    other.start();
    rotate_to(4, &[&one, &other]);
    eventually("both publish the same keys", || (kids(&one) == kids(&other)).then_some(()));
}

#[test]
fn tokens_that_write_nothing_are_issued_without_the_database_and_it_comes_back_by_itself() {
    let Some(mut servers) = Postgres::single() else { return };
    let [writ] = instances(&servers);
    let writ = writ.start();
    let ask = |id: &str, scope: &str| writ.workload(id).token(&Form::client_credentials(scope));
    ask("accounts", PURGE).issued();
    eventually("it holds its lease", || (writ.site().ops("/readyz").status == 200).then_some(()));
    servers.kill_primary();
    let killed = Instant::now();
    let is_pending = || writ.site().ops("/readyz").json()["pending"][0] == "ledger";
    eventually("the ledger is away", || is_pending().then_some(()));
    let refused = ask("accounts", PURGE);
    assert_eq!((refused.status(), refused.reason().as_str()), (503, "store_unavailable"));
    assert!(refused.response.header("retry-after").is_some());
    ask("renames", "account.rename").issued();
    // Once its lease is over, the others no longer wait for it.
    eventually("it is not ready", || (writ.site().ops("/readyz").status == 503).then_some(()));
    println!("not ready {:?} after the database was lost", killed.elapsed());
    let jwks = writ.site().discover("/.well-known/jwks.json", &[]);
    assert_eq!(jwks.header("cache-control"), Some("public, max-age=0"));
    ask("renames", "account.rename").issued();
    servers.restart(0);
    let restarted = Instant::now();
    eventually("it recovers", || (ask("accounts", PURGE).status() == 200).then_some(()));
    println!("recovered {:?} after the database", restarted.elapsed());
    assert!(restarted.elapsed() < Duration::from_secs(5));
    eventually("it is ready", || (writ.site().ops("/readyz").status == 200).then_some(()));
}

/// R-KEYS-04: verifiers hold for `jwks_max_age` what an instance has published.
#[test]
fn a_rotation_waits_for_verifiers_of_an_instance_that_was_cut_off_or_killed_with_an_older_ring() {
    let Some(servers) = Postgres::single() else { return };
    let [setup] = instances(&servers).map(|setup| setup.short_keys(120).set("tokens.jwks_max_age", "3s"));
    let mut writ = setup.start();
    let rotated = |writ: &Writ| (writ.run(&["keys", "rotate"]).code == 0).then_some(());
    servers.sql(
        "INSERT INTO writ.instances
        SELECT 'other', 'other', clock_timestamp() + interval '5 s', version - 1, 0, 0 FROM writ.ring",
    );
    eventually("a rotation", || rotated(&writ));
    let since = "SELECT clock_timestamp() - lease_until > interval '3 s' FROM writ.instances WHERE id = 'other'";
    assert_eq!(servers.sql(since), "t");

    servers.sql("DELETE FROM writ.instances WHERE id = 'other'");
    wait_until(now() + 6); // the ring itself allows the next one
    writ.kill();
    servers.sql("UPDATE writ.instances SET ring_version = ring_version - 1");
    writ.start();
    let began = servers.sql("SELECT next_since FROM writ.instances");
    eventually("a rotation", || rotated(&writ));
    assert_eq!(servers.sql(&format!("SELECT extract(epoch FROM clock_timestamp()) - {began} > 3")), "t");
}

/// A heartbeat that waits in the database when an instance leaves does not announce the instance again.
#[test]
fn an_instance_that_has_left_is_not_waited_for() {
    let Some(servers) = Postgres::single() else { return };
    let [setup] = instances(&servers).map(|setup| setup.set("tokens.jwks_max_age", "1s"));
    let mut writ = setup.start();
    // Until then, verifiers may hold an older JWKS of it.
    eventually("its keys are published for long enough", || {
        let old = "SELECT next_since + 2 <= extract(epoch FROM clock_timestamp()) FROM writ.instances";
        (servers.sql(old) == "t").then_some(())
    });
    scope(|scope| {
        let lock = "BEGIN; SELECT FROM writ.clock FOR UPDATE; SELECT pg_sleep(60)";
        scope.spawn(|| servers.try_sql(lock));
        eventually("a heartbeat waits", || {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'writ' AND wait_event_type = 'Lock'";
            (servers.sql(waiting) == "1").then_some(())
        });
        writ.terminate();
        let locking = "query LIKE '%pg_sleep(60)' AND pid <> pg_backend_pid()";
        servers.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {locking}"));
    });
    eventually("its sessions end", || {
        (servers.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'writ'") == "0").then_some(())
    });
    assert_eq!(servers.sql("SELECT count(*) FROM writ.instances"), "0");
}

#[test]
fn a_start_says_what_is_wrong_with_the_database_and_how_to_cure_it() {
    let Some(servers) = Postgres::single() else { return };
    let [setup] = setups(&servers, "2s");
    setup.run(&["serve"]).exits(2).says("a commit does not wait for a standby: synchronous_standby_names is ''");
    let setup = setup.set("store.replication", "none").set("store.schema", "other");
    setup.run(&["serve"]).exits(2).says("its schema other is missing; run `writ store migrate`");
    setup.run(&["keys", "list"]).exits(2);
    let setup = setup.set("store.schema", "writ");
    setup.run(&["keys", "list"]).exits(2).says("it holds no key ring; `writ serve` creates it");
    let mut writ = setup.start();
    assert_eq!(writ.terminate(), 0);
    writ.setup.change("trust_domain", "other.example");
    writ.run(&["serve"]).exits(2).says("the store belongs to the trust domain trust-domain.example");
    writ.run(&["store", "schema"]).exits(0).says("CREATE TABLE IF NOT EXISTS writ.redemptions");
}

#[test]
fn a_restored_backup_is_refused_until_it_is_repaired_and_then_grants_nothing_from_before() {
    let Some(servers) = Postgres::single() else { return };
    let [setup] = instances(&servers);
    let mut writ = setup.start();
    let original = writ.workload("accounts").token(&Form::client_credentials(PURGE)).issued();
    let beat = servers.sql("SELECT beat FROM writ.clock");
    original.wait_until_expired();
    writ.workload("batch").token(&Form::redeem(&original.token, PURGE)).issued();
    eventually("a heartbeat", || (servers.sql("SELECT beat FROM writ.clock") != beat).then_some(()));
    assert_eq!(writ.terminate(), 0);
    // The use is missing, and so are the heartbeats since.
    servers.sql(&format!("DELETE FROM writ.redemptions; UPDATE writ.clock SET beat = {beat}"));
    writ.run(&["serve"]).exits(2).says("it has gone back in time: its last heartbeat is").says("writ store repair");
    writ.run(&["store", "repair"]).exits(0).says("can no longer be redeemed (redemption_not_on_record)");
    writ.run(&["store", "repair"]).exits(0).says("there is nothing to repair");
    writ.start();
    let refused = writ.workload("batch").token(&Form::redeem(&original.token, PURGE));
    assert_eq!(refused.reason(), "redemption_not_on_record");
    // What began in the second of the repair is from before.
    wait_until(now() + 1);
    let later = writ.workload("accounts").token(&Form::client_credentials(PURGE)).issued();
    later.wait_until_expired();
    writ.workload("batch").token(&Form::redeem(&later.token, PURGE)).issued();
}
