//! What must hold at every instant.

use writ_store::ledger::{SpendOutcome, Use};

use crate::ring::{Key, published};
use crate::system::{KEYS, State, System};

/// Never more than `max_uses` distinct sets of claims for a transaction and purpose.
pub const MAX_USES: &str = "never more than max_uses distinct sets of claims";
/// The client of the last use gets the very same claims when it asks again before they have expired.
pub const REPEATABLE: &str = "a lost answer can be repeated";
/// No token is signed by a key that a ready instance does not publish.
pub const PUBLISHED: &str = "every ready instance publishes the key of every token that is alive";
/// The same for the copies of its JWKS that verifiers have in their caches.
pub const CACHED: &str = "no cached JWKS lacks the key of a token that is alive";
/// A use or a ring that the database acknowledged is still there.
pub const NOTHING_LOST: &str = "nothing acknowledged is lost";

/// [`MAX_USES`].
pub(crate) fn grants_at_most_max_uses(system: &System, state: &State) -> bool {
    state.history.granted.len() <= system.max_uses as usize
}

/// [`REPEATABLE`].
pub(crate) fn is_repeatable(system: &System, state: &State) -> bool {
    let Some(node) = state.cluster.newest() else { return true };
    let Some(uses) = state.cluster.all_rows(node).uses else { return true };
    let last = state.history.granted.iter().find(|claims| claims.number == uses.count);
    let Some(last) = last.filter(|last| state.now < last.exp) else { return true };
    let again = Use { client: last.client, ..system.next_use(state.now) };
    let same = SpendOutcome::Repeated { use_number: last.number, iat: last.iat, exp: last.exp };
    system.redeem(Some(uses), again).0 == same
}

/// [`PUBLISHED`].
pub(crate) fn is_published(_: &System, state: &State) -> bool {
    alive(state).all(|key| {
        let ready = state.instances.iter().filter(|instance| instance.is_ready(state.now));
        ready.filter_map(|instance| instance.ring).all(|ring| published(ring.next).contains(&key))
    })
}

/// [`CACHED`].
pub(crate) fn is_cached(_: &System, state: &State) -> bool {
    alive(state).all(|key| state.history.cached.iter().all(|(next, _)| published(*next).contains(&key)))
}

/// [`NOTHING_LOST`].
pub(crate) fn loses_nothing(_: &System, state: &State) -> bool {
    let Some(rows) = state.cluster.newest().map(|node| state.cluster.all_rows(node)) else { return true };
    rows.uses.map_or(0, |uses| uses.count) >= state.history.acknowledged_uses
        && rows.ring.version >= state.history.acknowledged_ring
}

/// The keys with which a token that has not expired may have been signed.
fn alive(state: &State) -> impl Iterator<Item = Key> {
    (0..KEYS).filter_map(|key| Key::try_from(key).ok()).filter(|key| state.is_alive(*key))
}

// What some run must reach, so that the above is not true for want of events.

/// A use was counted before a fail-over, and its answer repeated after it.
pub const REPEATED: &str = "an answer is repeated after a fail-over";
/// Every instance has every ring that the bounds allow.
pub const ROTATED: &str = "all promotions are made and known everywhere";

/// [`REPEATED`].
pub(crate) fn has_repeated(_: &System, state: &State) -> bool {
    state.history.repeated
}

/// [`ROTATED`].
pub(crate) fn has_rotated(system: &System, state: &State) -> bool {
    let all = 1 + system.bounds.promotions;
    state.instances.iter().all(|instance| instance.ring.is_some_and(|ring| ring.next == all))
}
