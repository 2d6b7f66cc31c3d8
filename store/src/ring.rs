//! What is stored of the key ring: one document for the keys in use, and one for each key that is no longer published.
//!
//! The documents are opaque here except for the ring's version, which compare-and-swap uses. The operations are those of
//! [`RingStore`](super::RingStore).

use serde::{Deserialize, Serialize};
use writ_platform::clock::Timestamp;

/// The identity of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Installation {
    /// A random identifier, generated when the store was created.
    pub id: String,
    /// The trust domain that the store was created for.
    pub trust_domain: String,
}

/// The document of a key that is no longer published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastKeyDocument {
    /// The key's `kid`.
    pub kid: String,
    /// Its opaque content.
    pub document: Vec<u8>,
}

/// A complete key ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingRecords {
    /// The store that it belongs to.
    pub installation: Installation,
    /// A JSON object with the keys in use and the number `version`.
    pub document: Vec<u8>,
    /// Every key that is no longer published.
    pub past: Vec<PastKeyDocument>,
}

/// The key ring on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRing {
    /// The ring.
    pub ring: RingRecords,
    /// The time of the last event on record.
    pub last_event: Timestamp,
}

/// The outcome of changing the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a change that met a conflict was not applied"]
pub enum Swapped {
    /// The change is durable.
    Done,
    /// The ring on record has another version; nothing was changed.
    Conflict,
}

/// The version of a ring's document.
#[derive(Deserialize)]
pub(crate) struct Versioned {
    pub(crate) version: u64,
}

/// The version in a ring's document; `None` if it is malformed.
pub(crate) fn version_of(document: &[u8]) -> Option<u64> {
    serde_json::from_slice(document).ok().map(|Versioned { version }| version)
}
