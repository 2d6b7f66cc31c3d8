//! The embedded store and the store over PostgreSQL go through the same random histories, crashes included, and give the
//! same answers as a small reference. `PROPTEST_CASES` sets the number of histories; a failure prints the shortest one
//! found.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the harness serves several test crates")]

#[path = "support/postgres.rs"]
mod database;
mod support;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::{Duration, Instant};

use database::Postgres;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{TestCaseError, TestRunner};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use writ_platform::clock::Timestamp;
use writ_store::blocks::StoredBlock;
use writ_store::clock::EventOutcome;
use writ_store::ledger::{Entry, RecordOutcome, Redeemable, Redemption, SingleUse, SpendOutcome};
use writ_store::postgres::{self, Address, Credentials, Replication, SchemaName};
use writ_store::ring::{Installation, PastKeyDocument, RingRecords, Swapped};
use writ_store::{LedgerStore, OpenError, Settings, Store, StoreError, testing};

/// How many histories are tried, unless `PROPTEST_CASES` says so.
const CASES: u32 = 12;
const TOKENS: u8 = 6;
const PURPOSES: [&str; 2] = ["account.purge", "account.export"];
const CLIENTS: [&str; 2] = ["purge-job", "other-job"];
/// Two forms of a block, and a text that is not a block.
const SELECTORS: [&str; 3] = [r#"{"client":"a"}"#, r#"{"all":true}"#, "{"];
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A clock that is so far behind is refused.
const BEHIND: Duration = Duration::from_secs(1000);

/// A step of a history. Times are counted from its beginning.
#[derive(Debug, Clone)]
enum Step {
    /// The clock moves on by so many seconds.
    Later(u64),
    /// A token is recorded.
    Record {
        token: u8,
        is_behind: bool,
    },
    /// A single-use identifier is used up, together with the record of a token or alone.
    UseUp {
        id: u8,
        token: Option<u8>,
        made: u64,
        has_expired: bool,
        is_behind: bool,
    },
    /// A token is redeemed.
    Redeem(Redeem),
    /// The same of so many transactions at once.
    RedeemSeveral(Redeem, u8),
    /// The same, and something is killed in the middle; then it is repeated until it is answered.
    RedeemAndCrash(Redeem, Victim),
    /// Records that are not needed are dropped, with the counts of tokens from before this second.
    Expire {
        counts_before: u64,
        is_behind: bool,
    },
    /// Uses of tokens from up to this second, and identifiers, may be missing, as after a repair.
    RaiseFloors(u64),
    CreateRing {
        version: u64,
    },
    /// The ring is replaced, if it has the expected version: the present one, or another.
    SwapRing {
        expects_present: bool,
        key: u8,
    },
    OverwriteRing {
        version: u64,
        key: u8,
    },
    AddBlock {
        selectors: usize,
        until: Option<u64>,
    },
    RemoveBlock {
        selectors: usize,
    },
    /// The store is closed and opened again.
    Reopen,
    Crash(Victim),
}

/// What is killed. The embedded store is in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Process,
    Server,
}

#[derive(Debug, Clone, Copy)]
struct Redeem {
    token: u8,
    purpose: usize,
    client: usize,
    max_uses: u32,
    require_record: bool,
    /// When the transaction began.
    began: Option<u64>,
    /// Of the new token, in seconds.
    lifetime: u64,
    is_behind: bool,
}

fn redeem() -> impl Strategy<Value = Redeem> {
    let who = (0..TOKENS, 0..PURPOSES.len(), 0..CLIENTS.len());
    let terms = (select(vec![1, 1, 2, 2, 3, 0]), prop::bool::weighted(0.7), option_of(0..120_u64), 1..60_u64, rarely());
    (who, terms).prop_map(|((token, purpose, client), (max_uses, require_record, began, lifetime, is_behind))| Redeem {
        token,
        purpose,
        client,
        max_uses,
        require_record,
        began,
        lifetime,
        is_behind,
    })
}

/// A server takes a second to come back.
fn victim() -> impl Strategy<Value = Victim> {
    prop_oneof![3 => Just(Victim::Process), 1 => Just(Victim::Server)]
}

fn rarely() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.05)
}

fn option_of<T: Debug>(some: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.3, some)
}

fn step() -> impl Strategy<Value = Step> {
    let use_up = (0..4_u8, option_of(0..TOKENS), 0..120_u64, any::<bool>(), rarely());
    prop_oneof![
        8 => (0..40_u64).prop_map(Step::Later),
        16 => (0..TOKENS, rarely()).prop_map(|(token, is_behind)| Step::Record { token, is_behind }),
        8 => use_up.prop_map(|(id, token, made, has_expired, is_behind)| {
            Step::UseUp { id, token, made, has_expired, is_behind }
        }),
        32 => redeem().prop_map(Step::Redeem),
        3 => (redeem(), 2..24_u8).prop_map(|(redeem, count)| Step::RedeemSeveral(redeem, count)),
        2 => (redeem(), victim()).prop_map(|(redeem, victim)| Step::RedeemAndCrash(redeem, victim)),
        4 => (0..120_u64, rarely()).prop_map(|(counts_before, is_behind)| Step::Expire { counts_before, is_behind }),
        1 => (0..120_u64).prop_map(Step::RaiseFloors),
        3 => (1..4_u64).prop_map(|version| Step::CreateRing { version }),
        6 => (prop::bool::weighted(0.8), 0..4_u8)
            .prop_map(|(expects_present, key)| Step::SwapRing { expects_present, key }),
        1 => (1..9_u64, 0..4_u8).prop_map(|(version, key)| Step::OverwriteRing { version, key }),
        5 => (0..SELECTORS.len(), option_of(0..9_u64))
            .prop_map(|(selectors, until)| Step::AddBlock { selectors, until }),
        3 => (0..SELECTORS.len()).prop_map(|selectors| Step::RemoveBlock { selectors }),
        2 => Just(Step::Reopen),
        2 => victim().prop_map(Step::Crash),
    ]
}

/// What a step answers, as text: all of it is compared.
type Answer = String;

fn answer(outcome: impl Debug) -> Answer {
    format!("{outcome:?}")
}

/// The instants of a history.
#[derive(Debug, Clone, Copy)]
struct Times {
    start: Timestamp,
    now: Timestamp,
}

impl Times {
    /// So many seconds before or after its beginning: events around it are a minute after second 0.
    fn at(self, second: u64) -> Timestamp {
        self.start - Duration::from_secs(60) + Duration::from_secs(second)
    }

    fn of(self, is_behind: bool) -> Timestamp {
        if is_behind { self.start - BEHIND } else { self.now }
    }

    /// `iat` of a token.
    fn issued(self, token: u8) -> Timestamp {
        self.at(u64::from(token) * 20)
    }

    fn redeemable(self, token: u8) -> Redeemable<'static> {
        let keep_until = self.start + DAY;
        Redeemable { signed_part: [token; 32], txn: txn(token), iat: self.issued(token), keep_until }
    }

    fn single_use(self, id: u8, made: u64, has_expired: bool) -> SingleUse {
        // Longer ago than the margin with which records are kept.
        let keep_until = if has_expired { self.start - DAY * 3 } else { self.start + DAY };
        SingleUse { id: [id; 32], made: self.at(made), keep_until }
    }

    fn redemption(self, redeem: Redeem, txn: &str) -> Redemption<'_> {
        let Redeem { token, purpose, client, max_uses, require_record, began, lifetime, is_behind } = redeem;
        Redemption {
            txn,
            purpose: PURPOSES[purpose],
            client: CLIENTS[client],
            presented: [token; 32],
            original_iat: self.issued(token),
            began: began.map(|second| self.at(second)),
            exp: self.of(is_behind) + Duration::from_secs(lifetime),
            max_uses,
            require_record,
        }
    }
}

/// Two tokens belong to each transaction.
fn txn(token: u8) -> &'static str {
    ["t0", "t1", "t2"][usize::from(token) % 3]
}

fn document(version: u64) -> Vec<u8> {
    format!(r#"{{"version":{version}}}"#).into_bytes()
}

fn past(key: u8, version: u64) -> PastKeyDocument {
    PastKeyDocument { kid: format!("k{key}"), document: document(version) }
}

fn ring(version: u64, past: Vec<PastKeyDocument>) -> RingRecords {
    let installation = Installation { id: "i".to_owned(), trust_domain: "d.example".to_owned() };
    RingRecords { installation, document: document(version), past }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sled,
    Postgres,
}

/// What a store must answer.
#[derive(Debug, Clone)]
struct Reference {
    kind: Kind,
    tokens: BTreeSet<u8>,
    uses: BTreeMap<(String, &'static str), Used>,
    single_use: BTreeMap<u8, Timestamp>,
    redemption_floor: Timestamp,
    single_use_floor: Timestamp,
    ring: Option<(u64, BTreeMap<String, Vec<u8>>)>,
    blocks: BTreeMap<&'static str, StoredBlock>,
}

#[derive(Debug, Clone)]
struct Used {
    count: u32,
    by: &'static str,
    token: u8,
    iat: Timestamp,
    exp: Timestamp,
    latest_iat: Timestamp,
}

impl Reference {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            tokens: BTreeSet::new(),
            uses: BTreeMap::new(),
            single_use: BTreeMap::new(),
            redemption_floor: Timestamp::default(),
            single_use_floor: Timestamp::default(),
            ring: None,
            blocks: BTreeMap::new(),
        }
    }

    fn record(&mut self, token: u8, is_behind: bool) -> RecordOutcome {
        if is_behind {
            return RecordOutcome::ClockBehind;
        }
        self.tokens.insert(token);
        RecordOutcome::Recorded
    }

    fn use_up(&mut self, id: u8, token: Option<u8>, single_use: SingleUse, is_behind: bool) -> RecordOutcome {
        if is_behind {
            return RecordOutcome::ClockBehind;
        }
        if single_use.made <= self.single_use_floor || self.single_use.contains_key(&id) {
            return RecordOutcome::Replayed;
        }
        self.single_use.insert(id, single_use.keep_until);
        self.tokens.extend(token);
        RecordOutcome::Recorded
    }

    fn spend(&mut self, redeem: Redeem, txn: &str, times: Times) -> SpendOutcome {
        let (redemption, now) = (times.redemption(redeem, txn), times.now);
        if redeem.is_behind {
            return SpendOutcome::ClockBehind;
        }
        let is_later = redemption.original_iat > self.redemption_floor;
        let is_recorded = self.tokens.contains(&redeem.token);
        let may = match self.kind {
            // Up to the floor, records over PostgreSQL may be those of a restored backup.
            Kind::Postgres => is_later && (is_recorded || !redeem.require_record),
            Kind::Sled => is_recorded || (is_later && !redeem.require_record),
        };
        if !may || redemption.began.is_some_and(|began| began < self.redemption_floor) {
            return SpendOutcome::NotOnRecord;
        }
        let key = (txn.to_owned(), PURPOSES[redeem.purpose]);
        let this = Used {
            count: 1,
            by: CLIENTS[redeem.client],
            token: redeem.token,
            iat: now,
            exp: redemption.exp,
            latest_iat: redemption.original_iat,
        };
        match self.uses.get_mut(&key) {
            Some(used) if used.by == this.by && used.token == this.token && now < used.exp => {
                SpendOutcome::Repeated { use_number: used.count, iat: used.iat, exp: used.exp }
            }
            Some(used) if used.count < redemption.max_uses => {
                let latest_iat = used.latest_iat.max(this.latest_iat);
                *used = Used { count: used.count + 1, latest_iat, ..this };
                SpendOutcome::Spent { use_number: used.count }
            }
            None if redemption.max_uses > 0 => {
                self.uses.insert(key, this);
                SpendOutcome::Spent { use_number: 1 }
            }
            Some(_) | None => SpendOutcome::Exhausted,
        }
    }

    fn expire(&mut self, counts_before: Timestamp, now: Timestamp, is_behind: bool) -> EventOutcome {
        if is_behind {
            return EventOutcome::ClockBehind;
        }
        self.single_use.retain(|_, keep_until| *keep_until + DAY * 2 >= now);
        self.uses.retain(|_, used| used.latest_iat >= counts_before);
        EventOutcome::Recorded
    }

    fn put_ring(&mut self, version: u64, key: Option<PastKeyDocument>) {
        let (present, past) = self.ring.get_or_insert_default();
        *present = version;
        past.extend(key.map(|PastKeyDocument { kid, document }| (kid, document)));
    }

    fn take(&mut self, step: &Step, times: Times) -> Answer {
        match step {
            Step::Later(_) | Step::Reopen | Step::Crash(_) => String::new(),
            Step::Record { token, is_behind } => answer(self.record(*token, *is_behind)),
            Step::UseUp { id, token, made, has_expired, is_behind } => {
                answer(self.use_up(*id, *token, times.single_use(*id, *made, *has_expired), *is_behind))
            }
            Step::Redeem(redeem) => answer(self.spend(*redeem, txn(redeem.token), times)),
            Step::RedeemAndCrash(redeem, _) => {
                answer(repeated(self.spend(*redeem, txn(redeem.token), times), *redeem, times))
            }
            Step::RedeemSeveral(redeem, count) => {
                let txns = (0..*count).map(one_of_several);
                answer(txns.map(|txn| self.spend(*redeem, &txn, times)).collect::<Vec<_>>())
            }
            Step::Expire { counts_before, is_behind } => {
                answer(self.expire(times.at(*counts_before), times.now, *is_behind))
            }
            Step::RaiseFloors(second) => {
                let floor = times.at(*second);
                self.redemption_floor = self.redemption_floor.max(floor);
                self.single_use_floor = self.single_use_floor.max(floor);
                String::new()
            }
            Step::CreateRing { version } => {
                let is_first = self.ring.is_none();
                if is_first {
                    self.put_ring(*version, None);
                }
                answer(if is_first { Swapped::Done } else { Swapped::Conflict })
            }
            Step::SwapRing { expects_present, key } => {
                let present = self.ring.as_ref().map(|(version, _)| *version).filter(|_| *expects_present);
                if let Some(version) = present {
                    self.put_ring(version + 1, Some(past(*key, version)));
                }
                answer(if present.is_some() { Swapped::Done } else { Swapped::Conflict })
            }
            Step::OverwriteRing { version, key } => {
                self.put_ring(*version, Some(past(*key, *version)));
                String::new()
            }
            Step::AddBlock { selectors, until } => {
                let block = block(times, *selectors, *until);
                let is_json = *selectors < 2;
                if is_json {
                    self.blocks.insert(SELECTORS[*selectors], block);
                }
                answer(is_json)
            }
            Step::RemoveBlock { selectors } => {
                self.blocks.remove(SELECTORS[*selectors]);
                String::new()
            }
        }
    }
}

fn block(times: Times, selectors: usize, until: Option<u64>) -> StoredBlock {
    let until = until.map(|second| times.at(second));
    StoredBlock { selectors: SELECTORS[selectors].to_owned(), added_at: times.now, until }
}

fn one_of_several(number: u8) -> String {
    format!("several-{number}")
}

/// The outcome as a repetition reports it.
fn repeated(outcome: SpendOutcome, redeem: Redeem, times: Times) -> SpendOutcome {
    match outcome {
        SpendOutcome::Spent { use_number } => {
            SpendOutcome::Repeated { use_number, iat: times.now, exp: times.redemption(redeem, "").exp }
        }
        outcome => outcome,
    }
}

/// A real store.
struct Subject<'a> {
    kind: Kind,
    settings: Settings,
    store: Option<Store>,
    servers: &'a RefCell<Postgres>,
    schema: String,
    folder: TempDir,
}

impl<'a> Subject<'a> {
    async fn new(kind: Kind, servers: &'a RefCell<Postgres>, number: u32, start: Timestamp) -> Self {
        let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let (path, schema) = (folder.path().join("data"), format!("history_{number}"));
        let settings = match kind {
            Kind::Sled => Settings::Sled { path },
            Kind::Postgres => Settings::Postgres(migrated(servers, path, &schema).await),
        };
        let mut new = Self { kind, settings, store: None, servers, schema, folder };
        new.open().await;
        assert_eq!(new.store().clock().record(start).await.unwrap(), EventOutcome::Recorded);
        new
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("an open store")
    }

    async fn open(&mut self) {
        let started = Instant::now();
        while self.store.is_none() {
            match Store::begin_to_open(&self.settings).await {
                Ok((store, _)) => self.store = Some(store),
                // A busy machine: the server does not answer in time.
                Err(OpenError::Database(what)) => assert!(started.elapsed() < support::DEADLINE, "{what}"),
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn reopen(&mut self) {
        self.store.take().expect("an open store").close().await;
        self.open().await;
    }

    async fn crash(&mut self, victim: Victim, now: Timestamp) {
        if (self.kind, victim) == (Kind::Postgres, Victim::Server) {
            self.restart_server();
            let clock = self.store().clock();
            let _ = until_available(async || clock.record(now).await).await;
        } else {
            self.store = None;
            self.open().await;
        }
    }

    fn restart_server(&self) {
        let mut servers = self.servers.borrow_mut();
        servers.kill_primary();
        servers.restart(0);
    }

    async fn take(&mut self, step: &Step, times: Times, present: Option<u64>) -> Answer {
        let now = times.now;
        match step {
            Step::Reopen => {
                self.reopen().await;
                return String::new();
            }
            Step::Crash(victim) => {
                self.crash(*victim, now).await;
                return String::new();
            }
            _ => {}
        }
        let ledger = self.store().ledger();
        match step {
            Step::Later(_) | Step::Reopen | Step::Crash(_) => String::new(),
            Step::Record { token, is_behind } => {
                let entry = Entry { token: Some(times.redeemable(*token)), single_use: None };
                answer(ledger.record(entry, times.of(*is_behind)).await.unwrap())
            }
            Step::UseUp { id, token, made, has_expired, is_behind } => {
                let single_use = Some(times.single_use(*id, *made, *has_expired));
                let entry = Entry { token: token.map(|token| times.redeemable(token)), single_use };
                answer(ledger.record(entry, times.of(*is_behind)).await.unwrap())
            }
            Step::Redeem(redeem) => answer(spend(&ledger, *redeem, txn(redeem.token), times).await.unwrap()),
            Step::RedeemSeveral(redeem, count) => {
                let txns: Vec<_> = (0..*count).map(one_of_several).collect();
                let all = join_all(txns.iter().map(|txn| spend(&ledger, *redeem, txn, times))).await;
                answer(all.into_iter().collect::<Result<Vec<_>, _>>().unwrap())
            }
            Step::RedeemAndCrash(redeem, victim) => {
                let (redeem, victim) = (*redeem, *victim);
                let outcome = if (self.kind, victim) == (Kind::Postgres, Victim::Server) {
                    let spent = until_available(async || spend(&ledger, redeem, txn(redeem.token), times).await);
                    tokio::join!(spent, self.crash(victim, now)).0
                } else {
                    let _ = spend(&ledger, redeem, txn(redeem.token), times).now_or_never();
                    drop(ledger);
                    self.crash(victim, now).await;
                    spend(&self.store().ledger(), redeem, txn(redeem.token), times).await.unwrap()
                };
                answer(repeated(outcome, redeem, times))
            }
            Step::Expire { counts_before, is_behind } => {
                answer(ledger.expire(times.at(*counts_before), times.of(*is_behind)).await.unwrap())
            }
            Step::RaiseFloors(second) => {
                self.raise_floors(times.at(*second)).await;
                String::new()
            }
            Step::CreateRing { version } => {
                answer(self.store().ring().create(&ring(*version, vec![]), now).await.unwrap())
            }
            Step::SwapRing { expects_present, key } => {
                let version = present.unwrap_or(1) + if *expects_present { 0 } else { 7 };
                let (next, changed) = (document(version + 1), [past(*key, version)]);
                answer(self.store().ring().compare_and_swap(version, next, &changed, now).await.unwrap())
            }
            Step::OverwriteRing { version, key } => {
                self.store().ring().overwrite(&ring(*version, vec![past(*key, *version)])).await.unwrap();
                String::new()
            }
            Step::AddBlock { selectors, until } => {
                let added = self.store().blocks().add(&block(times, *selectors, *until)).await;
                assert!(matches!(added, Ok(()) | Err(StoreError::Unreadable(_))), "{added:?}");
                answer(added.is_ok())
            }
            Step::RemoveBlock { selectors } => {
                self.store().blocks().remove(SELECTORS[*selectors]).await.unwrap();
                String::new()
            }
        }
    }

    /// As a repair does it.
    async fn raise_floors(&self, floor: Timestamp) {
        match self.kind {
            Kind::Sled => {
                for name in [&b"meta/redemption_floor"[..], b"meta/single_use_floor"] {
                    let before = testing::read(self.store(), name).await.unwrap();
                    let before = before.map_or(0, |text| String::from_utf8(text).unwrap().parse().unwrap());
                    let after = floor.epoch().max(before).to_string();
                    testing::write(self.store(), &[(name, Some(after.as_bytes()))]).await.unwrap();
                }
            }
            Kind::Postgres => {
                self.sql(&format!(
                    "UPDATE {{s}}.installation SET redemption_floor = greatest(redemption_floor, {floor}), \
                     single_use_floor = greatest(single_use_floor, {floor})",
                    floor = floor.epoch()
                ));
            }
        }
    }

    fn sql(&self, statement: &str) -> String {
        self.servers.borrow().sql(&statement.replace("{s}", &self.schema))
    }

    /// Everything that is on record, in the words of the reference.
    async fn content(&self) -> Vec<String> {
        let mut content = match self.kind {
            Kind::Sled => self.content_of_sled().await,
            Kind::Postgres => self.content_of_postgres(),
        };
        content.sort();
        if let Some(stored) = self.store().ring().load().await.unwrap() {
            let RingRecords { document, mut past, .. } = stored.ring;
            past.sort_by(|one, other| one.kid.cmp(&other.kid));
            let past = past.into_iter().map(|key| (key.kid, key.document)).collect();
            content.push(describe_ring(&document, &past));
        }
        let mut blocks = self.store().blocks().list().await.unwrap();
        blocks.sort_by(|one, other| one.selectors.cmp(&other.selectors));
        content.extend(blocks.iter().map(|block| format!("{block:?}")));
        content
    }

    async fn content_of_sled(&self) -> Vec<String> {
        let lines = testing::dump(self.store()).await.unwrap().into_iter().filter_map(|(name, value)| {
            let (table, key) = name.split_at(name.iter().position(|byte| *byte == b'/')? + 1);
            let json = || serde_json::from_slice::<serde_json::Value>(&value).unwrap();
            match table {
                b"tokens/" => Some(format!("token {}", key[0])),
                b"single/" => Some(format!("id {} {}", key[0], json())),
                b"uses/" => {
                    let key = String::from_utf8(key.to_vec()).unwrap().replace('\0', " ");
                    let (uses, last) = (json(), json()["last"].clone());
                    let [count, latest] = ["count", "original_iat"].map(|name| uses[name].clone());
                    let [iat, exp] = ["iat", "exp"].map(|name| last[name].clone());
                    let (client, token) = (last["client"].as_str().unwrap(), last["presented"][0].clone());
                    Some(format!("{key} {count} {client} {token} {iat} {exp} {latest}"))
                }
                _ => None,
            }
        });
        lines.collect()
    }

    fn content_of_postgres(&self) -> Vec<String> {
        let rows = self.sql(
            "SELECT 'token ' || get_byte(signed_part, 0) FROM {s}.tokens
             UNION ALL SELECT 'id ' || get_byte(id, 0) || ' ' || keep_until FROM {s}.single_use
             UNION ALL SELECT concat_ws(' ', txn, purpose, uses, client, get_byte(presented, 0), iat, exp, original_iat)
               FROM {s}.redemptions",
        );
        rows.lines().map(str::to_owned).collect()
    }
}

fn describe_ring(document: &[u8], past: &BTreeMap<String, Vec<u8>>) -> String {
    format!("ring {} {past:?}", String::from_utf8_lossy(document))
}

impl Reference {
    /// Everything that must be on record.
    fn content(&self) -> Vec<String> {
        let mut content: Vec<_> = self.tokens.iter().map(|token| format!("token {token}")).collect();
        content.extend(self.single_use.iter().map(|(id, keep_until)| format!("id {id} {}", keep_until.epoch())));
        content.extend(self.uses.iter().map(|((txn, purpose), used)| {
            let Used { count, by, token, .. } = used;
            let [iat, exp, latest] = [used.iat, used.exp, used.latest_iat].map(Timestamp::epoch);
            format!("{txn} {purpose} {count} {by} {token} {iat} {exp} {latest}")
        }));
        content.sort();
        content.extend(self.ring.clone().map(|(version, past)| describe_ring(&document(version), &past)));
        content.extend(self.blocks.values().map(|block| format!("{block:?}")));
        content
    }
}

async fn spend(ledger: &LedgerStore, redeem: Redeem, txn: &str, times: Times) -> Result<SpendOutcome, StoreError> {
    ledger.spend(times.redemption(redeem, txn), times.of(redeem.is_behind)).await
}

/// Asks until the store is available.
async fn until_available<T>(mut ask: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    let started = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(StoreError::Unavailable(what)) => assert!(started.elapsed() < support::DEADLINE, "{what}"),
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The tables of one history.
async fn migrated(servers: &RefCell<Postgres>, path: std::path::PathBuf, schema: &str) -> postgres::Settings {
    let (settings, owner) = access(&servers.borrow(), path, schema);
    postgres::migrate(&settings, "writ_owner", &owner).await.unwrap();
    settings
}

/// The settings of a store, and the credentials of the owner of its tables.
fn access(servers: &Postgres, path: std::path::PathBuf, schema: &str) -> (postgres::Settings, Credentials) {
    let credentials = |role| Credentials { password: Some(servers.password_file(role)), certificate: None };
    let settings = postgres::Settings {
        path,
        address: Address::parse(&servers.url("writ")).unwrap(),
        credentials: credentials("writ"),
        ca: servers.ca(),
        schema: SchemaName::parse(schema).unwrap(),
        replication: Replication::None,
    };
    (settings, credentials("writ_owner"))
}

/// Takes the steps on both stores, and compares each answer, and what is on record at the end.
async fn run(steps: &[Step], servers: &RefCell<Postgres>, number: u32) -> Result<(), TestCaseError> {
    let start = Timestamp::now();
    for kind in [Kind::Sled, Kind::Postgres] {
        let mut times = Times { start, now: start };
        let (mut subject, mut reference) = (Subject::new(kind, servers, number, start).await, Reference::new(kind));
        for (index, step) in steps.iter().enumerate() {
            if let Step::Later(seconds) = step {
                times.now = times.now + Duration::from_secs(*seconds);
            }
            let present = reference.ring.as_ref().map(|(version, _)| *version);
            let given = subject.take(step, times, present).await;
            prop_assert_eq!(given, reference.take(step, times), "{:?}, step {}: {:?}", kind, index, step);
        }
        prop_assert_eq!(subject.content().await, reference.content(), "{:?}, on record", kind);
        subject.reopen().await;
        prop_assert_eq!(subject.content().await, reference.content(), "{:?}, opened again", kind);
        subject.store.take().unwrap().close().await;
    }
    Ok(())
}

#[test]
fn both_stores_answer_as_the_reference_whatever_happens_to_them() {
    let Some(servers) = Postgres::single() else { return };
    let (servers, runtime) = (RefCell::new(servers), Runtime::new().unwrap());
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let config =
        ProptestConfig { cases, failure_persistence: None, max_shrink_time: 60_000, ..ProptestConfig::default() };
    let (number, steps_taken, started) = (Cell::new(0), Cell::new(0), Instant::now());
    let tried = TestRunner::new(config).run(&prop::collection::vec(step(), 1..80), |steps| {
        number.set(number.get() + 1);
        steps_taken.set(steps_taken.get() + steps.len());
        runtime.block_on(run(&steps, &servers, number.get()))
    });
    println!("{} histories, {} steps, {:?}", number.get(), steps_taken.get(), started.elapsed());
    if let Err(failure) = tried {
        panic!("{failure}");
    }
}
