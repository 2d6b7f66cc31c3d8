//! The key ring of the service without its key material.

use std::ops::RangeInclusive;

use writ_core::keys::ring::{KeyTimes, Schedule};
use writ_platform::clock::Timestamp;

/// A key, by number in the order in which keys are introduced.
pub type Key = u8;

/// The keys in the JWKS of a ring with this next key: the previous, the current and the next one.
pub fn published(next: Key) -> RangeInclusive<Key> {
    next.saturating_sub(2)..=next
}

/// A ring whose keys were only promoted: the newest is the next one, and before it come the current and the previous one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ring {
    /// Increases by one with each transition.
    pub version: u64,
    /// The key that will sign.
    pub next: Key,
    /// When keys sign.
    pub schedule: Schedule,
}

impl Ring {
    /// The ring of a first start.
    pub fn first(times: KeyTimes, now: Timestamp) -> Self {
        Self { version: 1, next: 1, schedule: Schedule::first(times, now) }
    }

    /// The key that signs.
    pub fn current(&self) -> Key {
        self.next - 1
    }

    /// The ring after a promotion, if that is possible.
    pub fn promote(&self, times: KeyTimes, now: Timestamp) -> Option<Self> {
        let schedule = self.schedule.promote(times, now, now).ok()?;
        Some(Self { version: self.version + 1, next: self.next + 1, schedule })
    }

    /// The ring after an instance that signed with `key` until `last` has found it; `None` if it needs no change.
    pub fn prolong(&self, key: Key, last: Timestamp) -> Option<Self> {
        let schedule = self.schedule.prolong(last).filter(|_| key + 2 == self.next)?;
        Some(Self { version: self.version + 1, schedule, ..*self })
    }
}
