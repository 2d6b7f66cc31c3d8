//! What several instances over one store agree on.

use std::time::Duration;

use writ_platform::clock::Timestamp;

/// The versions of what every instance keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Versions {
    /// The version of the key ring; 0: there is none.
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
}

/// What the other instances that hold their lease have in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Others {
    /// The oldest version of the key ring that one of them serves.
    pub oldest_ring: u64,
    /// For how long all of them have published the key that will sign next, by the database's clock.
    pub next_for: Duration,
}
