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

/// What the instances that hold their lease have in force, this one included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holders {
    /// The oldest version of the key ring that one of them serves.
    pub oldest_ring: u64,
    /// For how long all of them have published the key that will sign next, by the database's clock.
    pub next_for: Duration,
}

/// The end of the last lease of those instances that did not leave and have an older ring: they may still sign with the
/// keys in their memory, and verifiers may hold what they published until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutOff {
    /// When it ended, by the database's clock.
    pub at: Timestamp,
    /// How long ago that was, by the same clock.
    pub ago: Duration,
}
