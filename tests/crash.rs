//! Kills the service at random instants, a hundred times in the middle of rotations and a hundred times in the middle
//! of redemptions, and looks for what was lost. `WRIT_TEST_SEED` repeats a run.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the harness serves several test crates")]

#[path = "support/delayed.rs"]
mod delayed;
#[path = "support/random.rs"]
mod random;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use delayed::{PURGE, token_of};
use random::Random;
use support::answer::{Answer, Issued};
use support::workload::{Form, Workload};
use support::writ::Writ;
use support::{eventually, jose, now, wait_until};

const MAX_USES: u32 = 3;
/// `rotation_period` in seconds, the shortest that can hold.
const ROTATION: u32 = 3;

fn ask(client: &Workload) -> Option<Answer> {
    client.try_token(&Form::client_credentials(PURGE)).ok()
}

/// A-113, R-KEYS-08: a rotation is a chain of steps, and the service may die between any two of them.
#[test]
fn a_hundred_rotations_cut_short_lose_no_key() {
    let mut random = Random::seeded("rotations");
    let rounds = AtomicUsize::new(0);
    let seen = AtomicUsize::new(0);
    let seeds: Vec<u64> = (0..4).map(|_| random.next()).collect();
    std::thread::scope(|scope| {
        for seed in seeds {
            let (rounds, seen) = (&rounds, &seen);
            scope.spawn(move || {
                let keys = rotate_and_kill(Random(seed), 25);
                rounds.fetch_add(25, Ordering::SeqCst);
                seen.fetch_add(keys, Ordering::SeqCst);
            });
        }
    });
    println!("killed {} times around rotations; {} keys seen, none lost", rounds.into_inner(), seen.into_inner());
}

/// Kills one service around each of its rotations; how many keys it had.
fn rotate_and_kill(mut random: Random, rounds: usize) -> usize {
    let mut writ = delayed::setup("2s", "1d", MAX_USES).short_keys(ROTATION).start();
    let mut published: BTreeSet<String> = BTreeSet::new();
    let mut tokens: Vec<String> = Vec::new();
    for _ in 0..rounds {
        published.extend(jwks(&writ));
        wait_until_about(next_rotation(&writ), &mut random);
        let last = ask(&writ.workload("accounts")).as_ref().and_then(token_of);
        writ.kill();
        writ.start();
        tokens.extend(last);
        judge_ring(&writ, &published);
    }
    // every token that was acknowledged redeems, whatever became of its key
    for token in tokens.iter().rev().take(40) {
        let (_, claims) = jose::decode(token);
        wait_until(claims["exp"].as_u64().unwrap());
        let answer = writ.workload("batch").token(&Form::redeem(token, PURGE));
        assert_eq!(answer.reason(), "-", "{claims}");
    }
    published.len()
}

/// Just before, at, or just after the rotation.
fn wait_until_about(rotation: u64, random: &mut Random) {
    let instant = UNIX_EPOCH + Duration::from_secs(rotation) - Duration::from_millis(40);
    if let Ok(left) = instant.duration_since(SystemTime::now()) {
        std::thread::sleep(left);
    }
    std::thread::sleep(random.duration_below(Duration::from_millis(120)));
}

/// When the current key stops signing.
fn next_rotation(writ: &Writ) -> u64 {
    let keys = writ.keys();
    let current = keys.iter().find(|key| key["state"] == "current").expect("a current key");
    let from = chrono::DateTime::parse_from_rfc3339(current["signs_from"].as_str().unwrap()).unwrap();
    u64::try_from(from.timestamp()).unwrap() + u64::from(ROTATION)
}

fn jwks(writ: &Writ) -> Vec<String> {
    writ.site().jwks().iter().map(|jwk| jwk["kid"].as_str().unwrap().to_owned()).collect()
}

/// Exactly one current key, in the JWKS; what was ever published is still known; what is issued verifies.
fn judge_ring(writ: &Writ, published: &BTreeSet<String>) {
    let keys = writ.keys();
    let in_state = |state: &str| keys.iter().filter(|key| key["state"] == state).count();
    assert_eq!((in_state("current"), in_state("next")), (1, 1), "{keys:?}");
    assert!(in_state("previous") <= 1, "{keys:?}");
    let known: BTreeSet<&str> = keys.iter().filter_map(|key| key["kid"].as_str()).collect();
    for kid in published {
        assert!(known.contains(kid.as_str()), "{kid} is lost");
    }
    let issued: Issued = writ.workload("accounts").token(&Form::client_credentials(PURGE)).issued();
    assert!(jwks(writ).iter().any(|kid| kid == issued.kid()) || now() > issued.exp());
}

/// what was handed out and what is left never exceed `max_uses`.
#[test]
fn a_hundred_redemptions_cut_short_grant_no_use_twice() {
    let mut random = Random::seeded("redemptions");
    let seeds: Vec<u64> = (0..2).map(|_| random.next()).collect();
    let figures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for seed in seeds {
            let figures = &figures;
            scope.spawn(move || figures.lock().unwrap().push(redeem_and_kill(Random(seed), 50)));
        }
    });
    for Figures { granted, records } in figures.into_inner().unwrap() {
        println!("killed 50 times in the middle of redemptions; {granted} sets of claims of {records} transactions");
    }
}

struct Figures {
    granted: usize,
    records: usize,
}

/// The distinct sets of claims that each transaction's token was redeemed for, by the number of the use.
type Granted = BTreeMap<String, BTreeMap<u64, BTreeSet<String>>>;

fn redeem_and_kill(mut random: Random, rounds: usize) -> Figures {
    let mut writ = delayed::setup("2s", "1d", MAX_USES).start();
    let originals: Vec<String> = (0..rounds)
        .map(|_| token_of(&ask(&writ.workload("accounts")).expect("the service runs")).expect("a token"))
        .collect();
    let recorded = Mutex::new(originals.clone());
    let granted: Mutex<Granted> = Mutex::new(BTreeMap::new());
    wait_until(now() + 2);
    for (round, original) in originals.iter().enumerate() {
        let dying = AtomicBool::new(false);
        let batch = writ.workload("batch");
        let accounts = writ.workload("accounts");
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| hammer(&batch, original, &granted, &dying));
            }
            scope.spawn(|| {
                // a record must be durable before its token leaves
                while let Some(token) = ask(&accounts).as_ref().and_then(token_of) {
                    recorded.lock().unwrap().push(token);
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            // most often while the first use is being counted, sometimes much later
            let window = if round % 4 == 0 { 150 } else { 25 };
            std::thread::sleep(random.duration_below(Duration::from_millis(window)));
            dying.store(true, Ordering::SeqCst);
            writ.kill();
        });
        writ.start();
    }
    let recorded = recorded.into_inner().unwrap();
    drain(&writ, &originals, &granted);
    judge_records(&writ, &recorded);
    let granted = granted.into_inner().unwrap();
    for (txn, uses) in &granted {
        assert!(uses.len() <= MAX_USES as usize, "{txn}: {uses:?}");
        for (number, sets) in uses {
            assert_eq!(sets.len(), 1, "use {number} of {txn} was granted twice: {sets:?}");
        }
    }
    Figures { granted: granted.values().map(BTreeMap::len).sum(), records: recorded.len() }
}

/// Redeems until the service is gone.
fn hammer(batch: &Workload, original: &str, granted: &Mutex<Granted>, dying: &AtomicBool) {
    let form = Form::redeem(original, PURGE);
    loop {
        match batch.try_token(&form) {
            Ok(answer) => note(&answer, granted),
            Err(_) if dying.load(Ordering::SeqCst) => return,
            // refused for a moment, because it is dying without having said so
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn note(answer: &Answer, granted: &Mutex<Granted>) {
    let Some(token) = token_of(answer) else {
        assert_eq!(answer.reason(), "redemption_exhausted");
        return;
    };
    let (_, claims) = jose::decode(&token);
    let number = claims["rctx"]["delayed"]["use"].as_u64().expect("the number of the use");
    let txn = claims["txn"].as_str().expect("txn").to_owned();
    granted.lock().unwrap().entry(txn).or_default().entry(number).or_default().insert(claims.to_string());
}

/// Spends every use that is left.
fn drain(writ: &Writ, originals: &[String], granted: &Mutex<Granted>) {
    let batch = writ.workload("batch");
    let started = Instant::now();
    eventually("every use is spent", || {
        let mut is_spent = true;
        for original in originals {
            let answer = batch.token(&Form::redeem(original, PURGE));
            note(&answer, granted);
            is_spent &= answer.status() != 200;
        }
        is_spent.then_some(())
    });
    println!("all uses spent after {:?}", started.elapsed());
}

/// Every acknowledged token is on record.
fn judge_records(writ: &Writ, recorded: &[String]) {
    let mut session = writ.workload("batch").connect();
    for token in recorded {
        let (_, claims): (Value, Value) = jose::decode(token);
        wait_until(claims["exp"].as_u64().unwrap());
        let reason = session.token(&Form::redeem(token, PURGE)).reason();
        assert!(reason == "-" || reason == "redemption_exhausted", "{reason} for {claims}");
    }
}
