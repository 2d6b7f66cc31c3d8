//! The store over PostgreSQL: real servers, which are killed, frozen, replaced and restored from a backup.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the harness serves several test crates")]

#[path = "support/postgres.rs"]
mod database;
mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use database::Postgres;
use futures_util::future::join_all;
use tempfile::TempDir;
use writ_platform::clock::Timestamp;
use writ_store::blocks::StoredBlock;
use writ_store::cluster::{Served, Versions};
use writ_store::ledger::{Entry, RecordOutcome, Redeemable, Redemption, SingleUse, SpendOutcome};
use writ_store::postgres::{self, Address, Credentials, Replication, SchemaName};
use writ_store::ring::{Installation, PastKeyDocument, RingRecords, Swapped};
use writ_store::{OpenError, Settings, Store, StoreError};

/// The settings of one instance, whose folder is removed with it.
struct Instance {
    folder: TempDir,
    settings: postgres::Settings,
}

impl Instance {
    fn new(servers: &Postgres, replication: Replication) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = postgres::Settings {
            path: folder.path().join("data"),
            address: Address::parse(&servers.url("writ")).unwrap(),
            credentials: Credentials { password: Some(servers.password_file("writ")), certificate: None },
            ca: servers.ca(),
            schema: SchemaName::parse("writ").unwrap(),
            replication,
        };
        Self { folder, settings }
    }

    fn store(&self) -> Settings {
        Settings::Postgres(self.settings.clone())
    }

    async fn migrate(&self, servers: &Postgres) {
        let owner = Credentials { password: Some(servers.password_file("writ_owner")), certificate: None };
        postgres::migrate(&self.settings, "writ_owner", &owner).await.unwrap();
    }

    async fn open(&self) -> Store {
        Store::begin_to_open(&self.store()).await.unwrap().0
    }

    async fn refusal(&self) -> String {
        Store::begin_to_open(&self.store()).await.unwrap_err().to_string()
    }
}

/// A single server with the tables, and an instance.
async fn single() -> Option<(Postgres, Instance)> {
    let servers = Postgres::single()?;
    let instance = Instance::new(&servers, Replication::None);
    instance.migrate(&servers).await;
    Some((servers, instance))
}

async fn cluster() -> Option<(Postgres, Instance)> {
    let servers = Postgres::cluster()?;
    let instance = Instance::new(&servers, Replication::Quorum);
    instance.migrate(&servers).await;
    Some((servers, instance))
}

fn part(number: u32) -> [u8; 32] {
    let mut part = [0; 32];
    part[..4].copy_from_slice(&number.to_be_bytes());
    part
}

fn redemption(txn: &str, number: u32, max_uses: u32, now: Timestamp) -> Redemption<'_> {
    Redemption {
        txn,
        purpose: "account.purge",
        client: "purge-job",
        presented: part(number),
        original_iat: now,
        began: None,
        exp: now + Duration::from_secs(60),
        max_uses,
        require_record: true,
    }
}

/// At its own time: one that stands still while the clock of the database goes on would be refused.
async fn try_record(store: &Store, txn: &str, number: u32, iat: Timestamp) -> Result<RecordOutcome, StoreError> {
    let keep_until = iat + Duration::from_secs(3600);
    let token = Redeemable { signed_part: part(number), txn, iat, keep_until };
    store.ledger().record(Entry { token: Some(token), single_use: None }, Timestamp::now()).await
}

async fn record(store: &Store, txn: &str, number: u32, iat: Timestamp) {
    assert_eq!(try_record(store, txn, number, iat).await.unwrap(), RecordOutcome::Recorded);
}

async fn is_recorded(store: &Store, number: u32, iat: Timestamp) -> bool {
    matches!(try_record(store, "later", number, iat).await, Ok(RecordOutcome::Recorded))
}

fn ring(version: u64, past: &[&str]) -> RingRecords {
    RingRecords {
        installation: Installation { id: "i".to_owned(), trust_domain: "d.example".to_owned() },
        document: document(version),
        past: past.iter().map(|kid| key(kid)).collect(),
    }
}

fn document(version: u64) -> Vec<u8> {
    format!(r#"{{"version":{version}}}"#).into_bytes()
}

fn key(kid: &str) -> PastKeyDocument {
    PastKeyDocument { kid: kid.to_owned(), document: b"{}".to_vec() }
}

/// Many redemptions at a time share statements. Each looks up the rows that it asks for, however many others there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_redemption_reads_a_whole_table() {
    let Some((servers, instance)) = single().await else { return };
    let (store, now) = (instance.open().await, Timestamp::now());
    let txns: Vec<String> = (0..600).map(|number| format!("t-{number}")).collect();
    for (txn, number) in txns.iter().zip(0..) {
        record(&store, txn, number, now).await;
    }
    let (rows, iat) = ("FROM generate_series(1, 5000) n", now.epoch());
    servers.sql(&format!("INSERT INTO writ.tokens SELECT {iat}, sha256(n::text::bytea), {iat}, n::text {rows}"));
    servers.sql(&format!("INSERT INTO writ.redemptions SELECT n::text, 'p', 1, 'c', sha256('c'), 1, 2, {iat} {rows}"));
    servers.sql("ANALYZE writ.tokens, writ.redemptions");
    let ledger = store.ledger();
    let spends = txns.iter().zip(0..).map(|(txn, number)| ledger.spend(redemption(txn, number, 1, now), now));
    for spent in join_all(spends).await {
        assert_eq!(spent.unwrap(), SpendOutcome::Spent { use_number: 1 });
    }
    // The database counts what a connection read once that connection ends.
    store.close().await;
    let sum = |column: &str, view: &str, table: &str| -> u64 {
        let sql = format!("SELECT sum({column}) FROM {view} WHERE relname ~ '^{table}(_[0-9]+)?$'");
        servers.sql(&sql).parse().unwrap()
    };
    support::eventually("the statistics are complete", || {
        (sum("n_tup_ins", "pg_stat_user_tables", "redemptions") == 5600).then_some(())
    });
    for table in ["tokens", "redemptions"] {
        let in_turn = sum("seq_tup_read", "pg_stat_user_tables", table);
        let by_index = sum("idx_tup_read", "pg_stat_user_indexes", table);
        println!("{table}: {in_turn} rows read in turn, {by_index} by an index");
        assert!(in_turn + by_index < 5000, "{table}: {in_turn} rows read in turn, {by_index} by an index");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uses_are_counted_repeated_and_refused_as_in_the_embedded_store() {
    let Some((_servers, instance)) = single().await else { return };
    let (store, now) = (instance.open().await, Timestamp::now());
    let ledger = store.ledger();
    let spend = |redemption| {
        let ledger = &ledger;
        async move { ledger.spend(redemption, now).await.unwrap() }
    };
    assert_eq!(spend(redemption("t", 1, 2, now)).await, SpendOutcome::NotOnRecord);
    record(&store, "t", 1, now).await;
    record(&store, "t", 2, now).await;
    assert_eq!(spend(redemption("t", 1, 2, now)).await, SpendOutcome::Spent { use_number: 1 });
    let again = SpendOutcome::Repeated { use_number: 1, iat: now, exp: now + Duration::from_secs(60) };
    assert_eq!(spend(redemption("t", 1, 2, now)).await, again);
    assert_eq!(spend(Redemption { client: "other", ..redemption("t", 1, 1, now) }).await, SpendOutcome::Exhausted);
    assert_eq!(spend(redemption("t", 2, 2, now)).await, SpendOutcome::Spent { use_number: 2 });
    assert_eq!(spend(redemption("t", 1, 2, now)).await, SpendOutcome::Exhausted);
    assert_eq!(spend(Redemption { purpose: "b", ..redemption("t", 1, 0, now) }).await, SpendOutcome::Exhausted);
    let unrecorded = Redemption { require_record: false, ..redemption("u", 9, 1, now) };
    assert_eq!(spend(unrecorded).await, SpendOutcome::Spent { use_number: 1 });
    assert_eq!(
        ledger.spend(redemption("t", 1, 9, now), now - Duration::from_secs(60)).await.unwrap(),
        SpendOutcome::ClockBehind
    );
    let single_use = SingleUse { id: [7; 32], made: now, keep_until: now + Duration::from_secs(60) };
    let entry = Entry { token: None, single_use: Some(single_use) };
    assert_eq!(ledger.record(entry, now).await.unwrap(), RecordOutcome::Recorded);
    assert_eq!(ledger.record(entry, now).await.unwrap(), RecordOutcome::Replayed);
    let old = Entry { single_use: Some(SingleUse { id: [8; 32], made: Timestamp::default(), ..single_use }), ..entry };
    assert_eq!(ledger.record(old, now).await.unwrap(), RecordOutcome::Replayed, "up to the floor");
    store.close().await;
    assert!(matches!(ledger.record(entry, now).await, Err(StoreError::Unavailable(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ring_and_blocks_of_one_instance_reach_another_within_a_second() {
    let Some((servers, instance)) = single().await else { return };
    let (one, now) = (instance.open().await, Timestamp::now());
    assert_eq!(one.ring().load().await.unwrap(), None);
    assert_eq!(one.ring().create(&ring(1, &[]), now).await.unwrap(), Swapped::Done);
    let second = Instance::new(&servers, Replication::None);
    let other = second.open().await;
    assert_eq!(other.ring().create(&ring(9, &[]), now).await.unwrap(), Swapped::Conflict);
    let mut versions = other.versions().unwrap();
    assert_eq!(versions.borrow_and_update().ring, 1);
    let swapped = one.ring().compare_and_swap(1, document(2), &[key("a"), key("b")], now).await.unwrap();
    let began = Instant::now();
    assert_eq!(swapped, Swapped::Done);
    versions.changed().await.unwrap();
    let ring_after = began.elapsed();
    assert_eq!(versions.borrow_and_update().ring, 2);
    let stale = other.ring().compare_and_swap(1, document(2), &[key("c")], now).await.unwrap();
    assert_eq!(stale, Swapped::Conflict);
    assert_eq!(other.ring().load().await.unwrap().unwrap().ring, ring(2, &["a", "b"]));
    let block = StoredBlock { selectors: r#"{"all":true}"#.to_owned(), added_at: now, until: None };
    one.blocks().add(&block).await.unwrap();
    let began = Instant::now();
    versions.changed().await.unwrap();
    println!("the ring after {ring_after:?}, a block after {:?}", began.elapsed());
    assert!(ring_after < Duration::from_secs(1) && began.elapsed() < Duration::from_secs(1));
    assert_eq!(other.blocks().list().await.unwrap(), std::slice::from_ref(&block));
    other.blocks().remove(&block.selectors).await.unwrap();
    assert_eq!(one.blocks().list().await.unwrap(), []);
    one.ring().overwrite(&ring(1, &["d"])).await.unwrap();
    assert_eq!(other.ring().load().await.unwrap().unwrap().ring, ring(1, &["a", "b", "d"]));
    other.close().await;
    one.close().await;
}

/// It would publish a JWKS without the key that signs elsewhere, and sign with a key that is published nowhere else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_ready_once_it_serves_the_ring_on_record_and_learns_that_it_ended_behind_it() {
    let Some((servers, instance)) = single().await else { return };
    let (store, now) = (instance.open().await, Timestamp::now());
    let serve = |store: &Store, ring| {
        let versions = Versions { ring, blocks: 0 };
        let next_since = now - Duration::from_secs(100);
        store.serve(Served { versions, next_since, lead: Duration::from_secs(1) });
    };
    assert_eq!(store.ring().create(&ring(1, &[]), now).await.unwrap(), Swapped::Done);
    serve(&store, 1);
    store.join().await.unwrap();
    let peers = store.ring().peers().unwrap();
    assert_eq!((peers.oldest_ring, peers.was_behind), (None, false), "{peers:?}");
    assert!(peers.next_for >= Some(Duration::from_secs(99)), "its own row counts: {peers:?}");
    // Its clock steps forward: it has not published the next key for longer.
    let versions = Versions { ring: 1, blocks: 7 };
    store.serve(Served { versions, next_since: now - Duration::from_secs(1_000), ..Served::default() });
    support::eventually("a heartbeat", || {
        (servers.sql("SELECT blocks_version FROM writ.instances") == "7").then_some(())
    });
    let since = servers.sql("SELECT next_since FROM writ.instances").parse::<u64>().unwrap();
    assert!(since + 110 > now.epoch(), "{since}");
    assert_eq!(store.ring().compare_and_swap(1, document(2), &[], now).await.unwrap(), Swapped::Done);
    // Killed before it has put the new ring in force.
    drop(store);
    let store = instance.open().await;
    let peers = store.ring().peers().unwrap();
    assert_eq!((peers.ring, peers.oldest_ring, peers.was_behind), (2, Some(1), true), "{peers:?}");
    assert!(peers.next_for < Some(Duration::from_secs(5)), "{peers:?}");
    serve(&store, 1);
    let lease = "SELECT lease_until > clock_timestamp() + interval '8 seconds', ring_version FROM writ.instances";
    for _ in 0..2 {
        servers.sql("UPDATE writ.instances SET lease_until = clock_timestamp()");
        support::eventually("the others wait for it", || (servers.sql(lease) == "t|1").then_some(()));
    }
    assert!(!store.is_well());
    serve(&store, 2);
    store.join().await.unwrap();
    let peers = store.ring().peers().unwrap();
    assert_eq!((peers.oldest_ring, peers.cut_off_at, peers.was_behind), (None, None, false), "{peers:?}");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_never_count_more_uses_than_there_are() {
    const TOKENS: u32 = 100;
    let Some((servers, instance)) = single().await else { return };
    let second = Instance::new(&servers, Replication::None);
    let stores = [instance.open().await, second.open().await];
    let now = Timestamp::now();
    let names: Arc<Vec<String>> = Arc::new((0..TOKENS).map(|number| format!("t{number}")).collect());
    for number in 0..TOKENS {
        record(&stores[0], &names[number as usize], number, now).await;
    }
    // 16 clients race for three uses of each token.
    let racers = (0..16).map(|racer| {
        let (ledger, names) = (stores[racer % 2].ledger(), Arc::clone(&names));
        tokio::spawn(async move {
            let client = format!("client-{racer}");
            let mut spent = Vec::new();
            for number in 0..TOKENS {
                let txn = &names[number as usize];
                let redemption = Redemption { client: &client, ..redemption(txn, number, 3, now) };
                if let SpendOutcome::Spent { use_number } = ledger.spend(redemption, now).await.unwrap() {
                    spent.push((number, use_number));
                }
            }
            spent
        })
    });
    let mut granted: HashMap<u32, Vec<u32>> = HashMap::new();
    for spent in join_all(racers).await {
        for (number, use_number) in spent.unwrap() {
            granted.entry(number).or_default().push(use_number);
        }
    }
    assert_eq!(granted.len(), TOKENS as usize);
    for (number, mut uses) in granted {
        uses.sort_unstable();
        assert_eq!(uses, [1, 2, 3], "token {number}");
    }
    for store in stores {
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_may_not_be_relied_upon_is_refused_with_the_cure() {
    let Some(servers) = Postgres::single() else { return };
    let lone = Instance::new(&servers, Replication::None);
    let refusal = lone.refusal().await;
    assert!(refusal.contains("schema writ is missing; run `writ store migrate`"), "{refusal}");
    lone.migrate(&servers).await;
    lone.migrate(&servers).await;
    lone.open().await.close().await;
    let refusal = Instance::new(&servers, Replication::Quorum).refusal().await;
    assert!(refusal.contains("synchronous_standby_names is ''; set synchronous_standby_names"), "{refusal}");
    let mut other = Instance::new(&servers, Replication::None);
    other.settings.ca = servers.certificate("writ");
    let refusal = other.refusal().await;
    assert!(refusal.contains("certificate"), "{refusal}");
    other.settings.ca = servers.ca();
    other.settings.credentials.password = Some(servers.password_file("writ_owner"));
    let refusal = other.refusal().await;
    assert!(refusal.contains("28P01"), "{refusal}");
    servers.sql("UPDATE writ.meta SET version = 99");
    let refusal = lone.refusal().await;
    assert!(refusal.contains("has version 99; this program needs version 2; run `writ store migrate`"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_role_of_the_service_can_neither_create_nor_drop() {
    let Some((servers, instance)) = single().await else { return };
    instance.open().await.close().await;
    for statement in [
        "CREATE TABLE writ.t (n int)",
        "DROP TABLE writ.redemptions",
        "TRUNCATE writ.redemptions",
        "DELETE FROM writ.tokens",
        "UPDATE writ.meta SET version = 2",
        "CREATE SCHEMA other",
        "CREATE TABLE public.t (n int)",
    ] {
        let tried = format!(
            "DO $$ BEGIN SET LOCAL ROLE writ; {statement}; RAISE 'possible'; \
             EXCEPTION WHEN insufficient_privilege THEN NULL; END $$"
        );
        servers.sql(&tried);
    }
    let weeks = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'writ.tokens'::regclass";
    assert_eq!(servers.sql(weeks), "4", "made by a function of the owner");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_weeks_and_records_are_dropped_and_nothing_else() {
    let Some((servers, instance)) = single().await else { return };
    let (store, now) = (instance.open().await, Timestamp::now());
    record(&store, "alive", 1, now).await;
    servers.sql(
        "SELECT writ.ensure_weeks(2800, 2803);
         INSERT INTO writ.tokens SELECT 2800 * 604800 + n, sha256(n::text::bytea), 2801 * 604800, 't' FROM generate_series(1, 2000) n;
         INSERT INTO writ.tokens SELECT 2801 * 604800 + n, sha256(n::text::bytea), 9999999999, 't' FROM generate_series(1, 9) n;
         INSERT INTO writ.redemptions SELECT n::text, 'p', 1, 'c', '', 1, 1, n FROM generate_series(1, 2500) n;
         INSERT INTO writ.single_use SELECT sha256(n::text::bytea), n, '' FROM generate_series(1, 10) n;
         INSERT INTO writ.single_use VALUES ('x', 9999999999, '')",
    );
    let _ = store.ledger().expire(Timestamp::from_epoch(2400), now).await.unwrap();
    assert_eq!(servers.sql("SELECT count(*) FROM writ.tokens"), "10");
    assert_eq!(
        servers.sql("SELECT to_regclass('writ.tokens_2800'), to_regclass('writ.tokens_2801')"),
        "|writ.tokens_2801"
    );
    assert_eq!(servers.sql("SELECT count(*) FROM writ.redemptions"), "101");
    assert_eq!(servers.sql("SELECT count(*) FROM writ.single_use"), "1");
    store.close().await;
}

/// Redeems tokens of `iat` with one use each; what was acknowledged. Each request is made at its own time.
async fn redeem_all(store: &Store, names: &[String], iat: Timestamp) -> Vec<Option<u32>> {
    let ledger = store.ledger();
    let mut granted = Vec::new();
    for (number, txn) in names.iter().enumerate() {
        let number = u32::try_from(number).unwrap();
        let mut outcome = None;
        for _ in 0..200 {
            let now = Timestamp::now();
            let request = Redemption { original_iat: iat, ..redemption(txn, number, 1, now) };
            match ledger.spend(request, now).await {
                Ok(SpendOutcome::Spent { use_number } | SpendOutcome::Repeated { use_number, .. }) => {
                    outcome = Some(use_number);
                    break;
                }
                Ok(other) => panic!("{txn}: {other:?}"),
                Err(StoreError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(error) => panic!("{error}"),
            }
        }
        granted.push(outcome);
    }
    granted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_use_is_lost_or_counted_twice_when_the_server_is_killed() {
    let Some((mut servers, instance)) = single().await else { return };
    let (store, now) = (instance.open().await, Timestamp::now());
    let names: Vec<String> = (0..400).map(|number| format!("t{number}")).collect();
    for (number, txn) in names.iter().enumerate() {
        record(&store, txn, u32::try_from(number).unwrap(), now).await;
    }
    let (store, names) = (Arc::new(store), Arc::new(names));
    let workers: Vec<_> = (0..4)
        .map(|worker: usize| {
            let (store, names) = (Arc::clone(&store), Arc::clone(&names));
            tokio::spawn(async move { redeem_all(&store, &names[worker * 100..][..100], now).await })
        })
        .collect();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        servers.kill_primary();
        servers.restart(0);
    }
    for worker in workers {
        let granted = worker.await.unwrap();
        assert!(granted.iter().all(|use_number| *use_number == Some(1)), "{granted:?}");
    }
    assert_eq!(servers.sql("SELECT count(*), max(uses) FROM writ.redemptions"), "400|1");
}

/// The old primary comes back as what it was and must not be relied upon again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_loses_nothing_when_the_primary_dies_or_freezes() {
    let Some((mut servers, instance)) = cluster().await else { return };
    let (store, now) = (Arc::new(instance.open().await), Timestamp::now());
    let names: Arc<Vec<String>> = Arc::new((0..400).map(|number| format!("t{number}")).collect());
    for (number, txn) in names.iter().enumerate() {
        record(&store, txn, u32::try_from(number).unwrap(), now).await;
    }
    for round in 0..2 {
        let worker = {
            let (store, names) = (Arc::clone(&store), Arc::clone(&names));
            tokio::spawn(async move { redeem_all(&store, &names[round * 200..][..200], now).await })
        };
        tokio::time::sleep(Duration::from_millis(300)).await;
        let old = servers.primary();
        if round == 0 {
            servers.kill(old);
        } else {
            servers.pause(old);
        }
        servers.fail_over();
        let began = Instant::now();
        let is_writable = async {
            while !is_recorded(&store, 2_000 + u32::try_from(round).unwrap(), now).await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), is_writable).await.unwrap();
        println!("written again {:?} after the fail-over", began.elapsed());
        let granted = worker.await.unwrap();
        assert!(granted.iter().all(|use_number| *use_number == Some(1)), "{granted:?}");
        if round == 0 {
            servers.restart(old);
        } else {
            servers.resume(old);
        }
        // Primary in its own eyes, with the lower timeline.
        record(&store, "later", 1_000 + u32::try_from(round).unwrap(), now).await;
        servers.rejoin();
    }
    assert_eq!(servers.sql("SELECT count(*), max(uses) FROM writ.redemptions"), "400|1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_standby_nothing_is_granted() {
    let Some((mut servers, instance)) = cluster().await else { return };
    let (store, now) = (instance.open().await, Timestamp::now());
    record(&store, "t", 0, now).await;
    servers.kill_standbys();
    let refused = store.ledger().spend(redemption("t", 0, 1, now), now).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(!store.is_whole());
    for standby in servers.standbys() {
        servers.restart(standby);
    }
    servers.wait_for_standbys();
    assert_eq!(redeem_all(&store, &["t".to_owned()], now).await, [Some(1)], "the same use, counted once");
    assert_eq!(servers.sql("SELECT max(uses) FROM writ.redemptions"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_backup_is_refused_until_an_operator_accepts_it() {
    let Some((servers, instance)) = single().await else { return };
    let (store, now) = (instance.open().await, Timestamp::now());
    record(&store, "t", 1, now).await;
    let _ = store.ring().create(&ring(1, &[]), now).await.unwrap();
    let saved = "SELECT beat FROM writ.clock";
    let beat = servers.sql(saved);
    let spent = store.ledger().spend(redemption("t", 1, 1, now), now).await.unwrap();
    assert_eq!(spent, SpendOutcome::Spent { use_number: 1 });
    while servers.sql(saved) == beat {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    store.close().await;
    // As a backup would restore it: the use is gone, and so are the heartbeats since.
    servers.sql(&format!("DELETE FROM writ.redemptions; UPDATE writ.clock SET beat = {beat}"));
    let refused = Store::begin_to_open(&instance.store()).await.unwrap_err();
    assert!(matches!(&refused, OpenError::WentBack(what) if what.contains("its last heartbeat is")), "{refused}");
    let floor = postgres::accept(&instance.settings, false).await.unwrap();
    assert!(floor >= now);
    let store = instance.open().await;
    let refused = store.ledger().spend(redemption("t", 1, 1, now), now).await.unwrap();
    assert_eq!(refused, SpendOutcome::NotOnRecord);
    store.close().await;
}
