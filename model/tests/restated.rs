//! The model's decision is the ledger's.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use tokio::task::JoinSet;
use writ_model::restated::{Outcome, Time, Use, Uses, spend};
use writ_platform::clock::Timestamp;
use writ_store::ledger::{Redemption, SpendOutcome};
use writ_store::{LedgerStore, Settings, Store};

/// Of a new token, in instants of the model, which are seconds here.
const LIFETIME: Time = 2;
const START: u64 = 1_790_000_000;

/// A redemption: so much later than the one before, by that client, of that token.
#[derive(Debug, Clone, Copy)]
struct Step {
    later: Time,
    client: u8,
    presented: u8,
}

fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for later in 0..=LIFETIME {
        for client in 0..2 {
            steps.extend((0..2).map(|presented| Step { later, client, presented }));
        }
    }
    steps
}

fn at(time: Time) -> Timestamp {
    Timestamp::from_epoch(START) + Duration::from_secs(u64::from(time))
}

/// The outcome of the embedded store, in the terms of the model.
async fn spend_in_store(ledger: &LedgerStore, txn: &str, this: Use, max_uses: u8) -> Outcome {
    let redemption = Redemption {
        txn,
        purpose: "purpose",
        client: ["a", "b"][usize::from(this.client)],
        presented: [this.presented; 32],
        original_iat: at(0),
        began: None,
        exp: at(this.exp),
        max_uses: u32::from(max_uses),
        require_record: false,
    };
    let number = |number: u32| u8::try_from(number).unwrap();
    let time = |time: Timestamp| Time::try_from(time.epoch() - START).unwrap();
    match ledger.spend(redemption, at(this.iat)).await.unwrap() {
        SpendOutcome::Spent { use_number } => Outcome::Spent(number(use_number)),
        SpendOutcome::Repeated { use_number, iat, exp } => {
            Outcome::Repeated(number(use_number), Use { iat: time(iat), exp: time(exp), ..this })
        }
        SpendOutcome::Exhausted => Outcome::Exhausted,
        other @ (SpendOutcome::NotOnRecord | SpendOutcome::ClockBehind) => panic!("{other:?}"),
    }
}

async fn compare(ledger: LedgerStore, txn: String, steps: Vec<Step>, max_uses: u8) {
    let (mut uses, mut now): (Option<Uses>, Time) = (None, 0);
    for Step { later, client, presented } in &steps {
        now += later;
        let this = Use { client: *client, presented: *presented, iat: now, exp: now + LIFETIME };
        let (outcome, after) = spend(uses, this, max_uses, now);
        assert_eq!(spend_in_store(&ledger, &txn, this, max_uses).await, outcome, "{steps:?} with {max_uses} uses");
        uses = after.or(uses);
    }
}

/// Every sequence of three redemptions by two clients of two tokens, at once, before and after a token has expired.
#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_decides_as_the_model_does() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&Settings::Sled { path: folder.path().join("data") }).await.unwrap();
    let mut running = JoinSet::new();
    for max_uses in 1..=2 {
        for (first, one) in steps().into_iter().enumerate() {
            for (second, two) in steps().into_iter().enumerate() {
                for (third, three) in steps().into_iter().enumerate() {
                    let txn = format!("{max_uses}.{first}.{second}.{third}");
                    running.spawn(compare(store.ledger(), txn, vec![one, two, three], max_uses));
                }
            }
        }
    }
    println!("{} sequences", running.len());
    while let Some(compared) = running.join_next().await {
        compared.unwrap();
    }
}
