//! One to four instances over a PostgreSQL cluster of three nodes: what a request costs the instances and the database,
//! how a redemption compares with the cheapest row that the database can store and with the embedded store, and whether
//! dropping old records is noticed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use writ_platform::clock::Timestamp;
use writ_store::clock::EventOutcome;
use writ_store::ledger::{Redemption, SpendOutcome};
use writ_store::postgres::{self, Address, Credentials, Replication, SchemaName};
use writ_store::{LedgerStore, Settings, Store, StoreError};

use crate::cluster::{Log, SETTLING, Usage};
use crate::database::Postgres;
use crate::generator::{Endpoint, Generator, Outcome, Request, Response};
use crate::growth::export_of_historical_keys;
use crate::loads::{WARM_UP, access_token, exchanges, mint};
use crate::results::{
    BEFORE, BYTES, COMMITS, CONNECTIONS, CPU, DURING, PRIMARY, RESIDENT, Results, SLACK, SLOWER, STANDBY, SYNCS, TOOK,
};
use crate::site::{GATEWAY, Kind, PURGE_JOB, Server, Site};
use crate::support::workload::Form;
use crate::support::writ::client_policy;
use crate::support::{now, wait_until};
use crate::{Scale, micros, record_times};

/// The most instances.
const INSTANCES: usize = 4;
/// Requests at the same time: so few that none shares a statement with another, and many.
const FEW: usize = 4;
const MANY: usize = 32;
/// Records of each kind whose size is measured.
const SIZED: u64 = 100_000;
const WEEK: u64 = 7 * 24 * 60 * 60;

/// Gets recorded tokens, and redeems them.
const WORKER: &str = "worker";

const WORKER_POLICY: &str = r#"
[[purpose]]
scope = "mailbox.purge"
accept = ["access_token", "expired_txn_token"]
granted_by = ["orders.write"]
lifetime = "1s"
[purpose.redemption]
issued_to = ["worker"]
max_age = "1d"
"#;

type Part = (&'static str, fn(&Scale, &mut Results));

/// The parts by name.
const PARTS: [Part; 4] = [("inserts", inserts), ("bytes", bytes), ("drop", drop_week), ("several", several)];

/// Measures these parts; all if none is named.
pub(crate) fn run(scale: &Scale, parts: &[String], results: &mut Results) {
    for part in parts {
        let known = PARTS.map(|(name, _)| name);
        assert!(known.contains(&part.as_str()), "{part} is not one of {}", known.join(" "));
    }
    for (name, measure) in PARTS {
        if parts.is_empty() || parts.iter().any(|part| part == name) {
            eprintln!("{name}");
            measure(scale, results);
        }
    }
}

fn cluster() -> Postgres {
    Postgres::cluster().expect("PostgreSQL is there once tests/tools.sh has run")
}

// Redemptions through the store of this process, and INSERTs of one row, at the same concurrency.

/// All processes use all cores.
fn inserts(scale: &Scale, results: &mut Results) {
    let servers = cluster();
    let _migrated = Site::over(&servers, 1, 2, scale.cores);
    let (runtime, folder) = (runtime(), TempDir::new().expect("a temporary folder"));
    let store = runtime.block_on(Store::begin_to_open(&settings(&servers, folder.path()))).expect("the store opens").0;
    let count = scale.requests as u64;
    for round in 0..scale.rounds {
        for at_once in [8, MANY] {
            let insert = |results: &mut Results| {
                let (times, elapsed) = insert_rows(&servers, at_once, scale.requests, round);
                record_times(&format!("insert/{at_once}"), times, elapsed, results);
            };
            if round % 2 == 0 {
                insert(results);
            }
            let issued = Tokens::put_on_record(&servers, count + WARM_UP as u64);
            runtime.block_on(issued.redeem(&store, 0..WARM_UP as u64, at_once));
            let began = Instant::now();
            let times = runtime.block_on(issued.redeem(&store, WARM_UP as u64..count + WARM_UP as u64, at_once));
            record_times(&format!("store/{at_once}"), times, began.elapsed(), results);
            if round % 2 == 1 {
                insert(results);
            }
        }
    }
    runtime.block_on(store.close());
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// As the service's role.
fn settings(servers: &Postgres, folder: &Path) -> Settings {
    Settings::Postgres(postgres::Settings {
        path: folder.join("data"),
        address: Address::parse(&servers.url("writ")).expect("a URL"),
        credentials: Credentials { password: Some(servers.password_file("writ")), certificate: None },
        ca: servers.ca(),
        schema: SchemaName::parse("writ").expect("a name"),
        replication: Replication::Quorum,
    })
}

/// Stores rows of uses, each by one prepared statement of its own, with pgbench. How long each took, and all.
fn insert_rows(servers: &Postgres, at_once: usize, count: usize, round: u32) -> (Vec<Duration>, Duration) {
    let folder = TempDir::new().expect("a temporary folder");
    let script = folder.path().join("insert.sql");
    let statement = "\\set number :number + 1\n\
        INSERT INTO writ.redemptions (txn, purpose, uses, client, presented, iat, exp, original_iat) VALUES \
        (:round || '-' || lpad(:client_id::text, 4, '0') || '-7000-8000-' || lpad(:number::text, 12, '0'), \
        'account.purge', 1, 'purge-job', sha256(:number::text::bytea), 1800000000, 1800000060, 1800000000);\n";
    fs::write(&script, statement).expect("a script");
    let mut pgbench = servers.client("pgbench", "writ");
    pgbench.args(["--no-vacuum", "--protocol=prepared", "--jobs=2", "--log", "--define=number=0"]);
    pgbench.arg(format!("--define=round={}", 10_000_000 + round * 100 + u32::try_from(at_once).expect("small")));
    pgbench.arg(format!("--client={at_once}")).arg(format!("--transactions={}", count / at_once));
    pgbench.arg("--log-prefix").arg(folder.path().join("log")).arg("--file").arg(&script);
    let output = pgbench.output().expect("pgbench runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut times, mut first, mut last) = (Vec::new(), Duration::MAX, Duration::ZERO);
    for log in logs(folder.path()) {
        for line in fs::read_to_string(log).expect("a log").lines() {
            // Client, number, time in µs, script, and when it ended: seconds and µs.
            let fields: Vec<u64> = line.split(' ').map(|field| field.parse().expect("a number")).collect();
            let (took, ended) =
                (Duration::from_micros(fields[2]), Duration::from_secs(fields[4]) + Duration::from_micros(fields[5]));
            (first, last) = (first.min(ended.saturating_sub(took)), last.max(ended));
            times.push(took);
        }
    }
    assert_eq!(times.len(), count / at_once * at_once, "all rows are stored");
    (times, last.saturating_sub(first))
}

fn logs(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log."))).collect()
}

/// Tokens on record that no service has signed.
struct Tokens {
    iat: Timestamp,
    /// Distinguishes them from others.
    name: String,
}

impl Tokens {
    fn put_on_record(servers: &Postgres, count: u64) -> Self {
        let iat = Timestamp::now();
        let name = format!("{:08x}-{:04x}", iat.epoch(), thread_random());
        servers.sql(&format!(
            "INSERT INTO writ.tokens (iat, signed_part, keep_until, txn)
             SELECT {iat}, sha256(txn::bytea), {iat} + 86400, txn
             FROM generate_series(0, {last}) n, LATERAL (SELECT '{name}-7000-8000-' || lpad(n::text, 12, '0')) q (txn)",
            iat = iat.epoch(),
            last = count - 1,
        ));
        Self { iat, name }
    }

    /// Redeems each of them once. How long each took.
    async fn redeem(&self, store: &Store, numbers: std::ops::Range<u64>, at_once: usize) -> Vec<Duration> {
        let (next, last) = (Arc::new(AtomicU64::new(numbers.start)), numbers.end);
        let workers: Vec<_> = (0..at_once)
            .map(|_| {
                let (ledger, next, name, iat) = (store.ledger(), Arc::clone(&next), self.name.clone(), self.iat);
                tokio::spawn(async move {
                    let mut times = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= last {
                            return times;
                        }
                        let began = Instant::now();
                        redeem_one(&ledger, &format!("{name}-7000-8000-{number:012}"), iat).await;
                        times.push(began.elapsed());
                    }
                })
            })
            .collect();
        let mut times = Vec::new();
        for worker in workers {
            times.extend(worker.await.expect("does not panic"));
        }
        times
    }
}

async fn redeem_one(ledger: &LedgerStore, txn: &str, iat: Timestamp) {
    let redemption = Redemption {
        txn,
        purpose: "account.purge",
        client: "purge-job",
        presented: digest(&SHA256, txn.as_bytes()).as_ref().try_into().expect("32 bytes"),
        original_iat: iat,
        began: None,
        exp: Timestamp::now() + Duration::from_secs(60),
        max_uses: 1,
        require_record: true,
    };
    // On a machine that is busy with other work, a heartbeat may be late. The time until it is made up for counts.
    let outcome = loop {
        match ledger.spend(redemption, Timestamp::now()).await {
            Err(StoreError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            outcome => break outcome.expect("redeemed"),
        }
    };
    assert!(matches!(outcome, SpendOutcome::Spent { use_number: 1 } | SpendOutcome::Repeated { use_number: 1, .. }));
}

fn thread_random() -> u16 {
    let mut bytes = [0; 2];
    aws_lc_rs::rand::fill(&mut bytes).expect("random bytes");
    u16::from_ne_bytes(bytes)
}

// The size of records, in the tables of the service.

/// Table, and the rows that are stored in it; `n` is their number. A txn is as long as those of the service, and as they
/// are in the order of time.
const ROWS_OF: [(&str, &str); 3] = [
    ("tokens", "{first} + n * 604800 / {count}, sha256(n::text::bytea), {first} + n, {txn}"),
    (
        "redemptions",
        "{txn}, 'account.purge', 1, 'purge-job', sha256(n::text::bytea), {first}, {first} + 60, {first} + n",
    ),
    ("single_use", "sha256(n::text::bytea), {first} + n, decode(md5(n::text), 'hex')"),
];

const TXN: &str = "lpad(to_hex(n), 8, '0') || '-0000-7000-8000-' || left(md5(n::text), 12)";

/// Makes the partition of a week and stores tokens of it that expired long ago; or rows of another table.
fn fill(servers: &Postgres, table: &str, week: u64, count: u64) {
    let (_, values) = ROWS_OF.iter().find(|(name, _)| *name == table).expect("a table");
    let values = values.replace("{txn}", TXN).replace("{first}", &(week * WEEK).to_string());
    let values = values.replace("{count}", &count.to_string());
    servers.sql(&format!("SELECT writ.ensure_weeks({week}, {week})"));
    servers.sql(&format!("INSERT INTO writ.{table} SELECT {values} FROM generate_series(0, {count}::bigint - 1) n"));
}

/// A week whose tokens have expired.
fn old_week() -> u64 {
    now() / WEEK - 10
}

fn bytes(scale: &Scale, results: &mut Results) {
    let servers = cluster();
    let sites = Site::over(&servers, 1, 2, scale.cores);
    sites[0].restart().process.terminate();
    let mut note = |name: &str, sql: &str| {
        let bytes = servers.sql(&format!("SELECT ({sql})::float8")).parse().expect("a number");
        results.add(&format!("bytes/{name}"), BYTES, bytes);
    };
    for (table, _) in ROWS_OF {
        fill(&servers, table, old_week(), SIZED);
        let relation = if table == "tokens" { format!("tokens_{}", old_week()) } else { table.to_owned() };
        servers.sql(&format!("VACUUM ANALYZE writ.{relation}"));
        note(table, &format!("pg_total_relation_size('writ.{relation}') / {SIZED}.0"));
    }
    note("ring", "SELECT octet_length(document) FROM writ.ring");
    sites[0].setup.write("export.json", &export_of_historical_keys(1_000).0.to_string());
    sites[0].setup.run(&["keys", "import", "export.json"]).exits(0);
    note("past-key", "SELECT pg_total_relation_size('writ.past_keys') / count(*) FROM writ.past_keys");
}

// Dropping a week of records while requests that write go on.

fn drop_week(scale: &Scale, results: &mut Results) {
    let servers = scale.cores.on_server(cluster);
    let sites = Site::over(&servers, 1, 100, scale.cores);
    sites[0].setup.write(&format!("policies/{WORKER}.toml"), &client_policy(WORKER, WORKER_POLICY));
    let server = sites[0].restart();
    let (runtime, folder) = (runtime(), TempDir::new().expect("a temporary folder"));
    let store = runtime.block_on(Store::open(&settings(&servers, folder.path()))).expect("the store opens");
    let mut worst = f64::MIN;
    for _ in 0..scale.rounds {
        fill(&servers, "tokens", old_week(), scale.records);
        servers.sql("CHECKPOINT");
        let mut generator = Generator::connect(&sites[0].endpoint(&server, WORKER), 8);
        let requests = issues_and_redemptions(&sites[0], &mut generator, scale.requests);
        let (before, during) = requests.split_at(requests.len() / 2);
        let before = slowest(scale.cores.on_generator(|| generator.run_closed(before)));
        let (took, during) = thread::scope(|scope| {
            let dropping = scope.spawn(|| {
                thread::sleep(Duration::from_millis(200));
                let began = Instant::now();
                let dropped = runtime.block_on(store.ledger().expire(Timestamp::from_epoch(0), Timestamp::now()));
                assert_eq!(dropped.expect("dropped"), EventOutcome::Recorded);
                (began.elapsed(), Instant::now())
            });
            let outcome = scale.cores.on_generator(|| generator.run_closed(during));
            let answered = Instant::now();
            let (took, dropped) = dropping.join().expect("does not panic");
            assert!(dropped < answered, "dropping outlasted the load: raise BENCH_REQUESTS");
            (took, slowest(outcome))
        });
        let left = servers.sql(&format!("SELECT to_regclass('writ.tokens_{}') IS NULL", old_week()));
        assert_eq!(left, "t", "the week is dropped");
        let millis = |duration: Duration| micros(duration) / 1000.0;
        results.add("drop", BEFORE, millis(before));
        results.add("drop", DURING, millis(during));
        results.add("drop", TOOK, millis(took));
        worst = worst.max(millis(during) - millis(before));
    }
    results.add("drop", SLOWER, worst);
    runtime.block_on(store.close());
    server.process.terminate();
}

/// Half of each, in turn.
fn issues_and_redemptions(site: &Site, generator: &mut Generator, count: usize) -> Vec<Request> {
    let form = Form::exchange(&access_token(site).mint(), "mailbox.purge");
    let issue = Request::post("/token", &form.encode());
    let issued = generator.run_closed(&vec![issue.clone(); count / 2]);
    let redemptions = redemptions_of(&issued.responses, "mailbox.purge");
    wait_until(now() + 2);
    redemptions.into_iter().flat_map(|redemption| [issue.clone(), redemption]).collect()
}

fn redemptions_of(issued: &[Response], scope: &str) -> Vec<Request> {
    let redemption = |response: &Response| {
        let body: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
        let token = body["access_token"].as_str().unwrap_or_else(|| panic!("no token: {body}"));
        Request::post("/token", &Form::redeem(token, scope).encode())
    };
    issued.iter().map(redemption).collect()
}

fn slowest(outcome: Outcome) -> Duration {
    check(&outcome.responses);
    outcome.latencies.into_iter().max().expect("at least one")
}

fn check(responses: &[Response]) {
    for response in responses {
        assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
    }
}

// The same load on one to four instances, and on one with the embedded store.

/// The instances and the database share a core.
fn several(scale: &Scale, results: &mut Results) {
    let servers = scale.cores.on_server(cluster);
    let sites = Site::over(&servers, INSTANCES, 100, scale.cores);
    let sled = [Site::new(100, scale.cores)];
    let fresh = exchanges(&mint(scale.requests + WARM_UP, || access_token(&sites[0])));
    for round in 1..=scale.rounds {
        let group =
            Group { name: "sled".to_owned(), sites: &sled, servers: vec![sled[0].start(Kind::Writ)], database: None };
        group.issue_and_redeem(scale, MANY, results);
        group.end();
        for count in 1..=INSTANCES {
            eprintln!("round {round} of {}, {count} instances", scale.rounds);
            let sites = &sites[..count];
            let group = Group {
                name: format!("instances/{count}"),
                sites,
                servers: sites.iter().map(Site::restart).collect(),
                database: Some(&servers),
            };
            group.load(&format!("exchange/{MANY}"), GATEWAY, &fresh, MANY, results);
            group.settle(results);
            for connections in [FEW, MANY] {
                group.issue_and_redeem(scale, connections, results);
            }
            group.end();
        }
    }
}

/// Instances of one service.
struct Group<'a> {
    /// Of its measurements, before a slash.
    name: String,
    sites: &'a [Site],
    servers: Vec<Server>,
    database: Option<&'a Postgres>,
}

impl Group<'_> {
    fn issue_and_redeem(&self, scale: &Scale, connections: usize, results: &mut Results) {
        let issue = Request::post("/token", &Form::client_credentials("account.close").encode());
        let (requests, name) = (vec![issue; scale.requests + WARM_UP], format!("issue/{connections}"));
        let settled = self.usage(Usage::before);
        let issued = self.load(&name, GATEWAY, &requests, connections, results);
        let settled = self.settle_since(settled, &name, results);
        let (requests, name) = (redemptions_of(&issued, "account.close"), format!("redemption/{connections}"));
        wait_until(now() + 2);
        self.load(&name, PURGE_JOB, &requests, connections, results);
        self.settle_since(settled, &name, results);
    }

    /// Sends requests, of which the first are the warm-up; every answer.
    fn load(
        &self,
        name: &str,
        client: &str,
        requests: &[Request],
        connections: usize,
        results: &mut Results,
    ) -> Vec<Response> {
        let name = format!("{}/{name}", self.name);
        let endpoints: Vec<Endpoint> =
            self.sites.iter().zip(&self.servers).map(|(site, server)| site.endpoint(server, client)).collect();
        let (warm_up, requests) = requests.split_at(WARM_UP);
        let (mut first, outcome, cpu, used) = self.sites[0].cores.on_generator(|| {
            let first = Generator::connect_to_all(&endpoints, connections).run_closed(warm_up);
            let log = self.database.map(Log::read);
            // New ones: a service closes those that are idle for long, on a machine that is busy with other work.
            let mut generator = Generator::connect_to_all(&endpoints, connections);
            let before = self.database.zip(log).map(|(servers, log)| Usage::cpu(servers, log));
            let cpu = self.cpu_time();
            let outcome = generator.run_closed(requests);
            let (cpu, after) = (self.cpu_time().saturating_sub(cpu), self.usage(Usage::after));
            (first, outcome, cpu, before.zip(after).map(|(before, after)| after.since(&before)))
        });
        check(&first.responses);
        check(&outcome.responses);
        let count = f64::from(u32::try_from(requests.len()).expect("some thousands"));
        let mut all = cpu;
        results.add(&name, CPU, micros(cpu) / count);
        if let Some(used) = used {
            all += used.primary + used.standby * 2;
            note_usage(&name, &used, count, results);
            let connected = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'writ'";
            let connected = self.database.expect("used").sql(connected).parse().expect("a number");
            results.add(&name, CONNECTIONS, connected);
        }
        results.add(&name, SLACK, 100.0 * (1.0 - all.as_secs_f64() / outcome.elapsed.as_secs_f64()));
        record_times(&name, outcome.latencies, outcome.elapsed, results);
        first.responses.extend(outcome.responses);
        first.responses
    }

    /// Waits until the statistics of the database are complete; what is used meanwhile is that of an idle service.
    fn settle(&self, results: &mut Results) {
        let Some(servers) = self.database else { return };
        let name = format!("{}/idle", self.name);
        let (before, cpu, began) = (Usage::before(servers), self.cpu_time(), Instant::now());
        thread::sleep(SETTLING);
        let (cpu, seconds) = (self.cpu_time().saturating_sub(cpu), began.elapsed().as_secs_f64());
        results.add(&name, CPU, micros(cpu) / seconds);
        note_usage(&name, &Usage::after(servers).since(&before), seconds, results);
        for server in &self.servers {
            results.add(&name, RESIDENT, server.process.resident_mib());
        }
    }

    /// The same; and how many syncs a commit has needed since another such moment.
    fn settle_since(&self, before: Option<Usage>, name: &str, results: &mut Results) -> Option<Usage> {
        self.settle(results);
        let settled = self.usage(Usage::after);
        if let (Some(before), Some(settled)) = (before, settled) {
            let log = settled.since(&before).log;
            let number = |count: u64| f64::from(u32::try_from(count).expect("some thousands"));
            results.add(&format!("{}/{name}", self.name), SYNCS, number(log.syncs) / number(log.commits));
        }
        settled
    }

    fn usage(&self, read: fn(&Postgres) -> Usage) -> Option<Usage> {
        self.database.map(read)
    }

    fn cpu_time(&self) -> Duration {
        self.servers.iter().map(|server| server.process.cpu_time()).sum()
    }

    fn end(self) {
        for server in self.servers {
            server.process.terminate();
        }
    }
}

/// For each of `count` requests or seconds.
fn note_usage(name: &str, used: &Usage, count: f64, results: &mut Results) {
    let number = |count: u64| f64::from(u32::try_from(count).expect("less than 4 GiB"));
    results.add(name, PRIMARY, micros(used.primary) / count);
    results.add(name, STANDBY, micros(used.standby) / count);
    results.add(name, BYTES, number(used.log.bytes) / count);
    results.add(name, COMMITS, number(used.log.commits) / count);
}
