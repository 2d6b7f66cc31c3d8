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
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{scope, sleep, spawn};
use std::time::{Duration, Instant, UNIX_EPOCH};

use database::Postgres;
use delayed::{PURGE, token_of};
use random::Random;
use rustix::process::Signal;
use shared::setups;
use support::answer::Answer;
use support::workload::{Form, Workload};
use support::writ::{Setup, Site, Writ};
use support::{TRUST_DOMAIN, eventually, jose, now, wait_until};
use writ_verifier::Verifier;
use writ_verifier::jwks::KeySet;

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

/// How long after its `iat` a token is verified here at most: as long as it may live, its key is published.
const MAX_LIFETIME: u64 = 4;

/// R-KEYS-03: whatever fails, each living instance issues what writes nothing, and each token verifies with the keys that a
/// ready instance publishes from then on, or has published within `jwks_max_age` before. A second rotation would take a key
/// out of the JWKS with which an instance may sign that is cut off or frozen, so it is refused meanwhile.
#[test]
fn through_every_failure_each_living_instance_issues_what_every_ready_one_verifies() {
    let Some(mut servers) = Postgres::cluster() else { return };
    let link = Link::to(&servers);
    // A request that waits in a frozen instance is answered when it goes on.
    let [one, apart, other] = setups(&servers, "2s").map(|setup| {
        let setup = setup.short_keys(120).set("limits.request_timeout", "60s");
        setup.set("tokens.max_lifetime", format!("{MAX_LIFETIME}s"))
    });
    let mut writs = [one, apart.set("store.url", link.url()), other].map(Setup::start);
    let load = &Load::new(&writs);
    scope(|scope| {
        let _end = EndOnDrop(&load.is_over);
        for instance in 0..3 {
            scope.spawn(move || load.issue(instance));
            scope.spawn(move || load.record(instance));
            scope.spawn(move || load.verify(instance));
        }
        println!("a standby freezes");
        let standby = servers.standbys()[0];
        servers.pause(standby);
        rotate(&writs[0]);
        servers.resume(standby);

        println!("the primary freezes");
        let old = servers.primary();
        servers.pause(old);
        servers.fail_over();
        load.await_records();
        servers.resume(old);
        servers.rejoin();

        println!("the primary is killed");
        servers.kill_primary();
        servers.fail_over();
        load.await_records();
        servers.rejoin();

        println!("one instance is cut off from the servers, and one freezes");
        link.cut(true);
        load.may_fail(2, true);
        writs[2].signal(Signal::STOP);
        rotate(&writs[0]);
        eventually("the instance that is cut off is not ready", || (!load.is_ready(1)).then_some(()));
        eventually("a second rotation is refused for their sake", || {
            let refused = writs[0].run(&["keys", "rotate"]).exits(1);
            refused.stderr.contains("an instance was cut off from the store").then_some(())
        });
        link.cut(false);
        writs[2].signal(Signal::CONT);
        let began = Instant::now();
        for instance in [1, 2] {
            eventually("it is ready", || load.is_ready(instance).then_some(()));
            println!("instance {instance} is ready {:?} after it came back", began.elapsed());
        }
        load.may_fail(2, false);
        rotate(&writs[0]);

        println!("an instance is killed, and started again");
        eventually("the instances follow", || {
            let follow = "SELECT bool_and(i.ring_version = r.version) FROM writ.instances i, writ.ring r";
            (servers.sql(follow) == "t").then_some(())
        });
        load.may_fail(2, true);
        writs[2].kill();
        rotate(&writs[0]);
        writs[2].start();
        load.may_fail(2, false);
        rotate(&writs[2]);
    });
    load.report();
}

/// Rotates the keys as soon as that is possible.
fn rotate(writ: &Writ) {
    let began = Instant::now();
    eventually("a rotation", || (writ.run(&["keys", "rotate"]).code == 0).then_some(()));
    println!("rotated, possible after {:?}", began.elapsed());
}

/// Ends a load, so that a test that fails ends too.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Clients that request tokens of every instance, and verifiers that have the keys from every instance.
struct Load {
    sites: [Arc<Site>; 3],
    renames: [Workload; 3],
    accounts: [Workload; 3],
    /// Whether requests to an instance may fail now.
    may_fail: [AtomicBool; 3],
    is_over: AtomicBool,
    issued: Mutex<Vec<Received>>,
    /// When an instance has last issued a token that is on record.
    recorded_at: [Mutex<Instant>; 3],
    slowest: Mutex<Duration>,
    verified: AtomicUsize,
    held: AtomicUsize,
    late: AtomicUsize,
}

/// A token that was issued.
#[derive(Clone)]
struct Received {
    token: String,
    iat: u64,
    at: Instant,
}

/// What a verifier has fetched.
struct Fetched {
    keys: KeySet,
    verifier: Verifier,
    from: Instant,
    max_age: Duration,
}

impl Load {
    fn new(writs: &[Writ; 3]) -> Self {
        Self {
            sites: writs.each_ref().map(|writ| Arc::clone(writ.site())),
            renames: writs.each_ref().map(|writ| writ.workload("renames")),
            accounts: writs.each_ref().map(|writ| writ.workload("accounts")),
            may_fail: Default::default(),
            is_over: AtomicBool::new(false),
            issued: Mutex::default(),
            recorded_at: [(); 3].map(|()| Mutex::new(Instant::now())),
            slowest: Mutex::default(),
            verified: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            late: AtomicUsize::new(0),
        }
    }

    fn may_fail(&self, instance: usize, may_fail: bool) {
        self.may_fail[instance].store(may_fail, Ordering::SeqCst);
    }

    /// Requests tokens that are not recorded; each request succeeds.
    fn issue(&self, instance: usize) {
        let form = Form::client_credentials("account.rename");
        while let Some((began, answer)) = self.ask(instance, &self.renames[instance], &form) {
            let Some(answer) = answer else { continue };
            assert_eq!(answer.reason(), "-", "instance {instance}");
            self.note(&answer);
            if !self.may_fail[instance].load(Ordering::SeqCst) {
                let mut slowest = self.slowest.lock().unwrap();
                *slowest = began.elapsed().max(*slowest);
            }
        }
    }

    /// Requests tokens that are recorded; a request is refused while the store is away.
    fn record(&self, instance: usize) {
        let form = Form::client_credentials(PURGE);
        while let Some((_, answer)) = self.ask(instance, &self.accounts[instance], &form) {
            match answer {
                Some(answer) if answer.status() == 200 => {
                    self.note(&answer);
                    *self.recorded_at[instance].lock().unwrap() = Instant::now();
                }
                Some(answer) => assert_eq!(answer.reason(), "store_unavailable", "instance {instance}"),
                None => {}
            }
        }
    }

    /// One request and when it began, after a pause; `None` once the load is over. Without an answer if the instance may
    /// fail, and the request does.
    fn ask(&self, instance: usize, client: &Workload, form: &Form) -> Option<(Instant, Option<Answer>)> {
        sleep(Duration::from_millis(20));
        if self.is_over.load(Ordering::SeqCst) {
            return None;
        }
        let may_fail = || self.may_fail[instance].load(Ordering::SeqCst);
        let (could_fail, began) = (may_fail(), Instant::now());
        let answer = match client.try_token(form) {
            Err(error) => {
                assert!(could_fail || may_fail(), "instance {instance}: {error}");
                None
            }
            Ok(answer) => Some(answer).filter(|answer| answer.status() == 200 || !could_fail),
        };
        Some((began, answer))
    }

    fn note(&self, answer: &Answer) {
        let at = Instant::now();
        let token = token_of(answer).unwrap();
        let iat = jose::decode(&token).1["iat"].as_u64().unwrap();
        self.issued.lock().unwrap().push(Received { token, iat, at });
    }

    /// Verifies every token with the keys of one instance, whenever it is ready.
    fn verify(&self, instance: usize) {
        let mut next = 0;
        let mut before: Option<Fetched> = None;
        while !self.is_over.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(20));
            let tokens = self.issued.lock().unwrap()[next..].to_vec();
            let was_ready = self.is_ready(instance);
            let Ok(fetched) = self.fetch(instance) else { continue };
            let (alive, late): (Vec<_>, Vec<_>) =
                tokens.iter().partition(|received| now() <= received.iat + MAX_LIFETIME);
            if let Some(before) = &before {
                let held = alive.iter().filter(|received| received.at < before.from + before.max_age);
                self.held.fetch_add(held.clone().count(), Ordering::SeqCst);
                held.for_each(|received| before.verify(received, instance));
            }
            if was_ready && self.is_ready(instance) {
                next += tokens.len();
                for received in &alive {
                    fetched.verify(received, instance);
                }
                self.verified.fetch_add(alive.len(), Ordering::SeqCst);
                self.late.fetch_add(late.len(), Ordering::SeqCst);
            }
            before = Some(fetched);
        }
    }

    fn is_ready(&self, instance: usize) -> bool {
        self.sites[instance].try_ops("/readyz").is_ok_and(|response| response.status == 200)
    }

    fn fetch(&self, instance: usize) -> io::Result<Fetched> {
        let from = Instant::now();
        let response = self.sites[instance].try_discover("/.well-known/jwks.json", &[])?;
        if response.status != 200 {
            return Err(io::Error::other(response.text()));
        }
        let max_age = response.header("cache-control").unwrap().rsplit_once('=').unwrap().1.parse().unwrap();
        let document = response.text();
        let keys = KeySet::parse(document.as_bytes()).unwrap();
        let verifier = Verifier::builder(TRUST_DOMAIN).jwks_json(document).build().unwrap();
        Ok(Fetched { keys, verifier, from, max_age: Duration::from_secs(max_age) })
    }

    /// Waits until each instance has issued a token that is on record, from now.
    fn await_records(&self) {
        let began = Instant::now();
        for recorded_at in &self.recorded_at {
            eventually("tokens are recorded", || (*recorded_at.lock().unwrap() > began).then_some(()));
        }
        println!("every instance records tokens {:?} after the fail-over", began.elapsed());
    }

    fn report(&self) {
        let issued = self.issued.lock().unwrap();
        let keys: BTreeSet<_> =
            issued.iter().map(|received| jose::decode(&received.token).0["kid"].to_string()).collect();
        let (verified, held) = (self.verified.load(Ordering::SeqCst), self.held.load(Ordering::SeqCst));
        println!(
            "{} tokens, the slowest that writes nothing in {:?}, signed by {} keys; {verified} times verified with the keys \
             of a ready instance, {held} times with keys fetched before; {} times too late",
            issued.len(),
            self.slowest.lock().unwrap(),
            keys.len(),
            self.late.load(Ordering::SeqCst)
        );
        assert!(keys.len() > 4 && verified > 0 && held > 0);
    }
}

impl Fetched {
    fn verify(&self, received: &Received, instance: usize) {
        let then = UNIX_EPOCH + Duration::from_secs(received.iat);
        let verified = self.verifier.verify_at(&received.token, &self.keys, then);
        assert!(verified.is_ok(), "instance {instance}: {verified:?}: {:?}", jose::decode(&received.token));
    }
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

/// A-100: each token yields one set of claims, whatever happens to the primary and to an instance.
#[test]
fn a_fail_over_under_load_grants_each_use_once() {
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
             fail-over",
            claims.iter().sum::<usize>()
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
    granted_after: Mutex<Option<Instant>>,
    failed_over: Mutex<Option<Instant>>,
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
            granted_after: Mutex::new(None),
            failed_over: Mutex::new(None),
        }
    }

    /// How long after the fail-over the first use was granted.
    fn run(&self, servers: &mut Postgres, writs: &mut [Writ; 3], fault: Fault) -> Duration {
        scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|worker| scope.spawn(move || self.redeem(worker))).collect();
            eventually("a third is redeemed", || (self.left() < self.tokens.len() * TRIES * 2 / 3).then_some(()));
            let old = servers.primary();
            match fault {
                Fault::Frozen => servers.pause(old),
                Fault::Killed => servers.kill_primary(),
                Fault::KilledWithInstance => {
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
}
