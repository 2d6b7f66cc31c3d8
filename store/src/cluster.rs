//! What several instances over one store agree on.

use std::time::Duration;

use writ_platform::clock::Timestamp;

/// The versions of what every instance keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Versions {
    /// The version of the key ring; 0 before there is a ring.
    pub ring: u64,
    /// The version of the kill switch, which changes with each of its entries.
    pub blocks: u64,
}

/// What an instance has in force, as it announces it to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Served {
    /// The versions.
    pub versions: Versions,
    /// Since when it publishes the key that will sign next, by its own clock.
    pub next_since: Timestamp,
    /// For how long verifiers may hold what it published before that.
    pub lead: Duration,
}

/// What one instance knows of the others, by its last heartbeat. Until it has joined them, it counts as another itself, by
/// what it announced before it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Peers {
    /// The version of the ring that was on record then.
    pub ring: u64,
    /// The oldest version that any instance with a lease serves; `None` if no instance has a lease.
    pub oldest_ring: Option<u64>,
    /// For how long none has published a JWKS without the key that will sign next, this one included, by the database's
    /// clock; `None` if no instance has announced itself.
    pub next_for: Option<Duration>,
    /// When the last lease ended of those that did not leave and have an older ring: they may still sign with the keys in
    /// their memory. `None` if there is no such instance.
    pub cut_off_at: Option<Timestamp>,
    /// Whether this instance ended without leaving, with an older ring, and has not joined the others since: it may have
    /// signed with a key that has become the previous one.
    pub was_behind: bool,
}
