//! What is stored of the kill switch: the blocks that operators have added.
//!
//! The operations are those of [`BlockStore`](super::BlockStore).

use aws_lc_rs::digest::{SHA256, digest};
use writ_platform::clock::Timestamp;

use super::clock::RETENTION_MARGIN;

/// One block on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlock {
    /// What it blocks, as canonical JSON, which also identifies the entry.
    pub selectors: String,
    /// The time at which it took effect.
    pub added_at: Timestamp,
    /// The first second in which it is no longer in force; `None`: it has no end.
    pub until: Option<Timestamp>,
}

/// Whether an entry that was in force until `until` can be removed at `now`: two days later, so that a clock that runs ahead
/// for a day removes nothing early.
pub fn is_over(until: Timestamp, now: Timestamp) -> bool {
    until + RETENTION_MARGIN < now
}

/// The key of an entry: SHA-256 of its selectors.
pub(crate) fn key(selectors: &str) -> Vec<u8> {
    digest(&SHA256, selectors.as_bytes()).as_ref().to_vec()
}
