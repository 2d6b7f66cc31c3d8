//! What statements do with the rows of the database, where only SQL says it: `store/src/postgres/statements.rs`.

use std::time::Duration;

use writ_platform::clock::Timestamp;
use writ_store::cluster::Peers;
use writ_store::ledger::{SpendOutcome, Use, Uses, decide_spend};

/// The row of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The first instant in which it no longer holds.
    pub until: Timestamp,
    /// The version of the ring that the instance serves.
    pub serves: u64,
    /// Since when it publishes the next key of that ring.
    pub next_since: Timestamp,
}

/// `REDEEM`: the outcome, and the row after it if that changes.
pub fn redeem<'a>(before: Option<Uses<'a>>, this: Use<'a>, max_uses: u32) -> (SpendOutcome, Option<Uses<'a>>) {
    let outcome = decide_spend(before, this, max_uses);
    let after = match outcome {
        SpendOutcome::Spent { use_number } => Some(Uses { count: use_number, last: this }),
        _ => None,
    };
    (outcome, after)
}

/// What `BEAT` finds of the other instances, and of this one `before` it was started, as long as it has no lease again.
///
/// One whose lease has ended has no JWKS in caches that it served later; and a time longer than `enough` makes no
/// difference to anyone.
pub fn peers(
    others: impl Iterator<Item = Lease> + Clone,
    before: Option<Lease>,
    recorded: u64,
    now: Timestamp,
    enough: Duration,
) -> Peers {
    let all = || others.clone().chain(before);
    let lacked_next = |lease: Lease| if lease.serves < recorded { lease.until } else { lease.next_since };
    let live = all().filter(|lease| now < lease.until);
    let cut_off = all().filter(|lease| lease.until <= now && lease.serves < recorded);
    Peers {
        ring: recorded,
        oldest_ring: live.map(|lease| lease.serves).min(),
        next_for: all().map(lacked_next).max().map(|last| now.since(last).min(enough)),
        cut_off_at: cut_off.map(|lease| lease.until).max(),
        was_behind: before.is_some_and(|lease| lease.serves < recorded),
    }
}
