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

/// What `BEAT` writes for an instance, over the row of before. A clock that steps forward does not make the time longer.
pub fn renewed(before: Option<Lease>, lease: Lease) -> Lease {
    let same = before.filter(|before| before.serves == lease.serves);
    Lease { next_since: same.map_or(lease.next_since, |before| before.next_since.max(lease.next_since)), ..lease }
}

/// `LEAVE`: whether the row of an instance is dropped; not while verifiers may hold what it published with an older ring.
pub fn may_leave(lease: Lease, recorded: u64, now: Timestamp, lead: Duration) -> bool {
    lease.serves == recorded && lease.next_since + lead <= now
}

/// What `BEAT` finds of the other instances, and of this one `before` it was started, as long as it has no lease again; then
/// its row is its `own`.
///
/// One whose lease has ended has no JWKS in caches that it served later; and a time longer than `enough` makes no
/// difference to anyone.
pub fn peers(
    others: &(impl Iterator<Item = Lease> + Clone),
    (before, own): (Option<Lease>, Option<Lease>),
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
        next_for: all()
            .map(lacked_next)
            .chain(own.map(|lease| lease.next_since))
            .max()
            .map(|last| now.since(last).min(enough)),
        cut_off_at: cut_off.map(|lease| lease.until).max(),
        was_behind: before.is_some_and(|lease| lease.serves < recorded),
    }
}
