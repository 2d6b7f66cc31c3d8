//! Several instances over a PostgreSQL cluster whose nodes fail.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the harness serves several test crates")]

#[path = "support/delayed.rs"]
mod delayed;
#[path = "support/random.rs"]
mod random;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use delayed::{PURGE, token_of};
use random::Random;
use support::answer::Answer;
use support::postgres::Postgres;
use support::workload::{Form, Workload};
use support::writ::{Setup, Writ};
use support::{eventually, jose, now, wait_until};

/// How many tokens are redeemed in a round, and how often each is tried.
const TOKENS: usize = 200;
const TRIES: usize = 5;
const WORKERS: usize = 16;

/// A purpose whose tokens are not on record.
const RENAME: &str = r#"
[[purpose]]
scope = "account.rename"
accept = ["client_credentials"]
"#;

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

/// Three instances over these servers.
fn instances(servers: &Postgres) -> [Writ; 3] {
    let mut sealing_key = None;
    let setups = [(); 3].map(|()| {
        let setup = delayed::setup("60s", "1d", 1).client("renames", RENAME);
        let path = setup.path("certs/sealing.key");
        let key = sealing_key.get_or_insert_with(|| fs::read_to_string(&path).unwrap()).clone();
        setup.write("certs/sealing.key", &key);
        setup
            .set("store.kind", "postgres")
            .set("store.url", servers.url("writ"))
            .set("store.password_file", servers.password_file("writ").display().to_string())
            .set("store.ca", servers.ca().display().to_string())
    });
    let owner = servers.password_file("writ_owner").display().to_string();
    setups[0].run(&["store", "migrate", "--password-file", &owner]).exits(0);
    setups.map(Setup::start)
}

/// What happens to the servers in the middle of a round.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The primary loses power.
    Killed,
    /// The primary freezes; its connections stay open.
    Frozen,
    /// The primary loses power together with an instance.
    KilledWithInstance,
}

/// A-100: each token yields one set of claims, whatever happens to the primary and to an instance; and what writes nothing
/// is issued by every living instance all the while.
#[test]
fn a_fail_over_under_load_grants_each_use_once_and_stops_nothing_that_does_not_write() {
    let Some(mut servers) = Postgres::cluster() else { return };
    let mut writs = instances(&servers);
    let mut random = Random::seeded("cluster");
    for fault in [Fault::Killed, Fault::Frozen, Fault::KilledWithInstance] {
        let tokens = issue(&writs[0]);
        let round = Round::new(&writs, &tokens, &mut random);
        let outage = round.run(&mut servers, &mut writs, fault);
        let claims: usize = round.claims.into_inner().unwrap().iter().map(BTreeSet::len).sum();
        println!(
            "{fault:?}: {TOKENS} tokens tried {TRIES} times each, {claims} sets of claims; redeemed again {outage:?} after \
             the fail-over; {} tokens issued without the database, the slowest in {:?}",
            round.issued.into_inner(),
            round.slowest.into_inner().unwrap()
        );
        assert_eq!(claims, TOKENS, "{fault:?}");
        assert!(outage < Duration::from_secs(5), "{fault:?}: {outage:?}");
        servers.rejoin();
        if matches!(fault, Fault::KilledWithInstance) {
            writs[2].start();
        }
    }
}

/// Tokens to redeem, which have expired.
fn issue(writ: &Writ) -> Vec<String> {
    let mut session = writ.workload("accounts").connect();
    let tokens: Vec<String> =
        (0..TOKENS).map(|_| token_of(&session.token(&Form::client_credentials(PURGE))).expect("a token")).collect();
    wait_until(now() + 2);
    tokens
}

/// One round: all tokens through all instances.
struct Round<'a> {
    tokens: &'a [String],
    /// The next tries, by the number of the token.
    queue: Mutex<Vec<usize>>,
    /// The distinct sets of claims of each token.
    claims: Mutex<Vec<BTreeSet<String>>>,
    batch: [Workload; 3],
    renames: [Workload; 3],
    instance_is_dying: AtomicBool,
    is_over: AtomicBool,
    granted_after: Mutex<Option<Instant>>,
    failed_over: Mutex<Option<Instant>>,
    issued: AtomicUsize,
    slowest: Mutex<Duration>,
}

impl<'a> Round<'a> {
    fn new(writs: &[Writ; 3], tokens: &'a [String], random: &mut Random) -> Self {
        let mut queue: Vec<usize> = (0..TOKENS * TRIES).map(|number| number % TOKENS).collect();
        for at in (1..queue.len()).rev() {
            queue.swap(at, usize::try_from(random.below(at as u64 + 1)).unwrap());
        }
        Self {
            tokens,
            queue: Mutex::new(queue),
            claims: Mutex::new(vec![BTreeSet::new(); TOKENS]),
            batch: writs.each_ref().map(|writ| writ.workload("batch")),
            renames: writs.each_ref().map(|writ| writ.workload("renames")),
            instance_is_dying: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            granted_after: Mutex::new(None),
            failed_over: Mutex::new(None),
            issued: AtomicUsize::new(0),
            slowest: Mutex::new(Duration::ZERO),
        }
    }

    /// How long after the fail-over the first use was granted.
    fn run(&self, servers: &mut Postgres, writs: &mut [Writ; 3], fault: Fault) -> Duration {
        scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|worker| scope.spawn(move || self.redeem(worker))).collect();
            for instance in 0..3 {
                scope.spawn(move || self.issue_all_the_while(instance));
            }
            eventually("a third is redeemed", || (self.left() < TOKENS * TRIES * 2 / 3).then_some(()));
            let old = servers.primary();
            match fault {
                Fault::Frozen => servers.pause(old),
                Fault::Killed => servers.kill_primary(),
                Fault::KilledWithInstance => {
                    self.instance_is_dying.store(true, Ordering::SeqCst);
                    servers.kill_primary();
                    writs[2].kill();
                }
            }
            servers.fail_over();
            *self.failed_over.lock().unwrap() = Some(Instant::now());
            for worker in workers {
                worker.join().unwrap();
            }
            if matches!(fault, Fault::Frozen) {
                servers.resume(old);
            }
            self.is_over.store(true, Ordering::SeqCst);
        });
        let (granted, failed_over) = (*self.granted_after.lock().unwrap(), *self.failed_over.lock().unwrap());
        granted.expect("uses are granted").duration_since(failed_over.unwrap())
    }

    fn left(&self) -> usize {
        self.queue.lock().unwrap().len()
    }

    fn redeem(&self, worker: usize) {
        let mut instance = worker;
        loop {
            let Some(token) = self.queue.lock().unwrap().pop() else { return };
            let form = Form::redeem(&self.tokens[token], PURGE);
            // An unknown outcome is asked for again, of another instance.
            let answer = eventually("a redemption is decided", || {
                instance += 1;
                self.batch[instance % 3].try_token(&form).ok().filter(|answer| answer.status() != 503)
            });
            self.note(token, &answer);
        }
    }

    fn note(&self, token: usize, answer: &Answer) {
        let Some(redeemed) = token_of(answer) else {
            assert_eq!(answer.reason(), "redemption_exhausted");
            return;
        };
        let (_, claims) = jose::decode(&redeemed);
        self.claims.lock().unwrap()[token].insert(claims.to_string());
        if self.failed_over.lock().unwrap().is_some() {
            self.granted_after.lock().unwrap().get_or_insert_with(Instant::now);
        }
    }

    /// Every living instance issues what writes nothing, at any time.
    fn issue_all_the_while(&self, instance: usize) {
        let form = Form::client_credentials("account.rename");
        while !self.is_over.load(Ordering::SeqCst) {
            if instance == 2 && self.instance_is_dying.load(Ordering::SeqCst) {
                return;
            }
            let began = Instant::now();
            match self.renames[instance].try_token(&form) {
                Ok(answer) => assert_eq!(answer.reason(), "-"),
                Err(_) if instance == 2 && self.instance_is_dying.load(Ordering::SeqCst) => return,
                Err(error) => panic!("instance {instance}: {error}"),
            }
            self.issued.fetch_add(1, Ordering::SeqCst);
            let mut slowest = self.slowest.lock().unwrap();
            *slowest = began.elapsed().max(*slowest);
            drop(slowest);
            sleep(Duration::from_millis(20));
        }
    }
}
