//! Fills the ledger of a store, for measurements with a large one:
//! `cargo run --release -p writ-store --example fill -- <store.path> <records>`.
//!
//! Of ten records six are tokens, three counts of uses and one is a single-use identifier, in the form and the random
//! order in which a service writes them. No service may have the store open; what it contains stays.

use std::env;
use std::error::Error;
use std::path::PathBuf;

use futures_util::future::try_join_all;
use writ_platform::clock::Timestamp;
use writ_store::ledger::{Entry, Redeemable, Redemption, SingleUse};
use writ_store::{LedgerStore, Settings, Store};

/// How many records are written at the same time.
const AT_ONCE: u64 = 256;
const DAY: u64 = 24 * 60 * 60;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let (Some(path), Some(records)) = (arguments.next(), arguments.next()) else {
        return Err("usage: fill <store.path> <records>".into());
    };
    let records: u64 = records.to_str().ok_or("not a number")?.parse()?;
    let store = Store::open(&Settings::Sled { path: PathBuf::from(path) }).await?;
    let (ledger, now) = (store.ledger(), Timestamp::now());
    for first in (0..records).step_by(usize::try_from(AT_ONCE)?) {
        let numbers = first..records.min(first + AT_ONCE);
        try_join_all(numbers.map(|number| write(&ledger, number, now))).await?;
    }
    println!("{:?}", ledger.counts());
    store.close().await;
    Ok(())
}

async fn write(ledger: &LedgerStore, number: u64, now: Timestamp) -> Result<(), Box<dyn Error>> {
    let id = spread(number);
    let txn = format!("{:08x}-{:04x}-7000-8000-{:012x}", now.epoch(), id[0], number);
    let keep_until = Timestamp::from_epoch(now.epoch() + 90 * DAY);
    match number % 10 {
        0..6 => {
            let token = Redeemable { signed_part: id, txn: &txn, iat: now, keep_until };
            let _ = ledger.record(Entry { token: Some(token), single_use: None }, now).await?;
        }
        6..9 => {
            let redemption = Redemption {
                txn: &txn,
                purpose: "account.purge",
                client: "purge-job",
                presented: id,
                original_iat: now,
                began: None,
                exp: Timestamp::from_epoch(now.epoch() + 60),
                max_uses: 1,
                require_record: false,
            };
            let _ = ledger.spend(redemption, now).await?;
        }
        _ => {
            let single_use = SingleUse { id, made: now, keep_until };
            let _ = ledger.record(Entry { token: None, single_use: Some(single_use) }, now).await?;
        }
    }
    Ok(())
}

/// Bytes that look as random as a hash, and differ for each number.
fn spread(number: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    let mut state = number;
    for eight in bytes.chunks_exact_mut(8) {
        // The finaliser of SplitMix64, a bijection.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        eight.copy_from_slice(&(mixed ^ (mixed >> 31)).to_be_bytes());
    }
    bytes
}
