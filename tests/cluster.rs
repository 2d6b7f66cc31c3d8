//! Several instances over a PostgreSQL cluster whose nodes fail.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the harness serves several test crates")]

#[path = "support/postgres.rs"]
mod database;
#[path = "support/delayed.rs"]
mod delayed;
#[path = "support/random.rs"]
mod random;
#[path = "support/instances.rs"]
mod shared;
mod support;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{scope, sleep, spawn};
use std::time::{Duration, Instant};

use database::Postgres;
use delayed::{PURGE, token_of};
use random::Random;
use shared::setups;
use support::answer::Answer;
use support::workload::{Form, Workload};
use support::writ::{Setup, Writ};
use support::{eventually, jose, now, wait_until};

/// How often each token is tried in a round.
const TRIES: usize = 5;
const WORKERS: usize = 16;

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
    setups(servers, "60s").map(Setup::start)
}

/// The way of one instance to the servers, which can be cut.
struct Link {
    ports: Vec<u16>,
    is_cut: Arc<AtomicBool>,
}

impl Link {
    fn to(servers: &Postgres) -> Self {
        let is_cut = Arc::new(AtomicBool::new(false));
        let forward = |to: u16| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let is_cut = Arc::clone(&is_cut);
            spawn(move || {
                for near in listener.incoming().flatten() {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                    for (from, to) in [(&near, &far), (&far, &near)] {
                        let (from, to, is_cut) =
                            (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(&is_cut));
                        spawn(move || pass_on(from, to, &is_cut));
                    }
                }
            });
            port
        };
        let ports = servers.ports().into_iter().map(forward).collect();
        Self { ports, is_cut }
    }

    fn url(&self) -> String {
        let hosts: Vec<_> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("postgresql://writ@{}/writ", hosts.join(","))
    }

    /// From now on every connection ends at its next byte, or passes bytes again.
    fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::SeqCst);
    }
}

/// Passes bytes on, and drops them while the link is cut.
fn pass_on(mut from: TcpStream, mut to: TcpStream, is_cut: &AtomicBool) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        if is_cut.load(Ordering::SeqCst) || to.write_all(&bytes[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// An instance that is cut off issues what writes nothing, with a key that the others publish, and is not ready; it comes
/// back by itself. A second rotation would take that key out of the JWKS, so it is refused meanwhile.
#[test]
fn an_instance_that_is_cut_off_issues_tokens_that_the_others_verify() {
    let Some(servers) = Postgres::cluster() else { return };
    let link = Link::to(&servers);
    let setups = setups(&servers, "2s").map(|setup| setup.short_keys(120));
    let [one, other, apart] = setups;
    let writs = [one, other, apart.set("store.url", link.url())].map(Setup::start);
    let issue = |writ: &Writ| {
        let token = token_of(&writ.workload("renames").token(&Form::client_credentials("account.rename"))).unwrap();
        let (header, _) = jose::decode(&token);
        let kid = header["kid"].as_str().unwrap().to_owned();
        for ready in &writs[..2] {
            assert!(ready.site().jwks().iter().any(|key| key["kid"] == kid.as_str()), "{kid} is not published");
        }
    };
    link.cut(true);
    eventually("it is not ready", || {
        issue(&writs[2]);
        (writs[2].site().ops("/readyz").status == 503).then_some(())
    });
    eventually("a rotation", || {
        issue(&writs[2]);
        (writs[0].run(&["keys", "rotate"]).code == 0).then_some(())
    });
    eventually("a rotation is refused for the instance's sake", || {
        writs.iter().for_each(issue);
        let refused = writs[1].run(&["keys", "rotate"]).exits(1);
        refused.stderr.contains("an instance was cut off from the store").then_some(())
    });
    link.cut(false);
    let began = Instant::now();
    eventually("it is ready", || (writs[2].site().ops("/readyz").status == 200).then_some(()));
    println!("ready {:?} after it was connected again", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5));
    eventually("another rotation", || {
        writs.iter().for_each(issue);
        (writs[0].run(&["keys", "rotate"]).code == 0).then_some(())
    });
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

/// each token yields one set of claims, whatever happens to the primary and to an instance; and what writes nothing
/// is issued by every living instance all the while.
#[test]
fn a_fail_over_under_load_grants_each_use_once_and_stops_nothing_that_does_not_write() {
    fail_over_under_load(&[Fault::Killed, Fault::Frozen, Fault::KilledWithInstance], 200);
}

/// The same for longer.
#[test]
#[ignore = "takes minutes"]
fn twenty_fail_overs_under_load_grant_each_of_a_thousand_uses_once() {
    fail_over_under_load(&[Fault::Killed, Fault::Frozen, Fault::KilledWithInstance, Fault::Killed].repeat(5), 1000);
}

fn fail_over_under_load(faults: &[Fault], count: usize) {
    let Some(mut servers) = Postgres::cluster() else { return };
    let mut writs = instances(&servers);
    let mut random = Random::seeded("cluster");
    for fault in faults {
        let tokens = issue(&writs[0], count);
        let round = Round::new(&writs, &tokens, &mut random);
        let outage = round.run(&mut servers, &mut writs, *fault);
        let claims: Vec<usize> = round.claims.into_inner().unwrap().iter().map(BTreeSet::len).collect();
        println!(
            "{fault:?}: {count} tokens tried {TRIES} times each, {} sets of claims; redeemed again {outage:?} after the \
             fail-over; {} tokens issued that write nothing, the slowest in {:?}",
            claims.iter().sum::<usize>(),
            round.issued.into_inner(),
            round.slowest.into_inner().unwrap()
        );
        assert!(claims.iter().all(|claims| *claims == 1), "{fault:?}: {claims:?}");
        assert!(outage < Duration::from_secs(5), "{fault:?}: {outage:?}");
        servers.rejoin();
        if matches!(fault, Fault::KilledWithInstance) {
            writs[2].start();
        }
    }
}

/// What is granted is known to a standby: with all of them lost nothing is granted, and what the primary alone has is lost
/// with it.
#[test]
fn without_standbys_no_use_is_granted() {
    let Some(mut servers) = Postgres::cluster() else { return };
    let writs = instances(&servers);
    let tokens = issue(&writs[0], 40);
    servers.kill_standbys();
    let granted = AtomicUsize::new(0);
    scope(|scope| {
        for (number, token) in tokens.iter().enumerate() {
            let (batch, granted) = (writs[number % 3].workload("batch"), &granted);
            scope.spawn(move || {
                let answer = batch.token(&Form::redeem(token, PURGE));
                granted.fetch_add(usize::from(token_of(&answer).is_some()), Ordering::SeqCst);
            });
        }
    });
    let waiting = servers.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
    println!(
        "{} of {} tokens redeemed without a standby; {waiting} statements wait",
        granted.load(Ordering::SeqCst),
        40
    );
    assert_eq!(granted.into_inner(), 0);
    servers.kill_primary();
    for standby in servers.standbys() {
        servers.restart(standby);
    }
    servers.fail_over();
    assert_eq!(servers.sql("SELECT count(*) FROM writ.redemptions"), "0");
    let batch = writs[1].workload("batch");
    for token in &tokens {
        let form = Form::redeem(token, PURGE);
        eventually("the use is granted", || (batch.token(&form).status() == 200).then_some(()));
    }
    assert_eq!(servers.sql("SELECT count(*), max(uses) FROM writ.redemptions"), "40|1");
}

/// Tokens to redeem, which have expired.
fn issue(writ: &Writ, count: usize) -> Vec<String> {
    let mut session = writ.workload("accounts").connect();
    let tokens: Vec<String> =
        (0..count).map(|_| token_of(&session.token(&Form::client_credentials(PURGE))).expect("a token")).collect();
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
        let mut queue: Vec<usize> = (0..tokens.len() * TRIES).map(|number| number % tokens.len()).collect();
        for at in (1..queue.len()).rev() {
            queue.swap(at, usize::try_from(random.below(at as u64 + 1)).unwrap());
        }
        Self {
            tokens,
            queue: Mutex::new(queue),
            claims: Mutex::new(vec![BTreeSet::new(); tokens.len()]),
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
            eventually("a third is redeemed", || (self.left() < self.tokens.len() * TRIES * 2 / 3).then_some(()));
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
