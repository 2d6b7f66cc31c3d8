//! The store's interfaces in domain words, each over the engine that is configured.

use writ_platform::clock::Timestamp;

use super::StoreError;
use super::blocks::StoredBlock;
use super::clock::EventOutcome;
use super::cluster::Peers;
use super::embedded;
use super::ledger::{Entry, LedgerCounts, RecordOutcome, Redemption, SpendOutcome};
use super::postgres;
use super::ring::{PastKeyDocument, RingRecords, StoredRing, Swapped};

/// The engine of a handle.
///
/// What waits for a database is boxed: the futures of the embedded engine stay as small as they are.
#[derive(Debug, Clone)]
pub(crate) enum Engine<S, P> {
    Sled(S),
    Postgres(P),
}

/// The key ring of one store; clones share it.
#[derive(Debug, Clone)]
pub struct RingStore(pub(crate) Engine<embedded::ring::Ring, postgres::ring::Ring>);

/// The ledger of one store; clones share it.
#[derive(Debug, Clone)]
pub struct LedgerStore(pub(crate) Engine<embedded::ledger::Ledger, postgres::ledger::Ledger>);

/// The kill switch of one store; clones share it.
#[derive(Debug, Clone)]
pub struct BlockStore(pub(crate) Engine<embedded::blocks::Blocks, postgres::blocks::Blocks>);

/// The recorded last event and floors of one store; clones share them.
#[derive(Debug, Clone)]
pub struct EventClock(pub(crate) Engine<embedded::clock::Clock, postgres::clock::Clock>);

impl RingStore {
    /// The ring on record; `None` if there never was one.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] if a part of it is missing or cannot be read, [`StoreError::Unavailable`].
    pub async fn load(&self) -> Result<Option<StoredRing>, StoreError> {
        match &self.0 {
            Engine::Sled(ring) => ring.load().await,
            Engine::Postgres(ring) => Box::pin(ring.load()).await,
        }
    }

    /// Whether it can be written: the store is open, and not only the tables that a start needs; the database is well.
    pub fn is_writable(&self) -> bool {
        match &self.0 {
            Engine::Sled(ring) => ring.is_writable(),
            Engine::Postgres(ring) => ring.is_writable(),
        }
    }

    /// Waits until the store is open.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it does not open, or the database is unavailable.
    pub async fn wait_until_writable(&self) -> Result<(), StoreError> {
        match &self.0 {
            Engine::Sled(ring) => ring.wait_until_writable().await,
            Engine::Postgres(ring) => ring.check_writable(),
        }
    }

    /// Whether the others wait for this instance: it has proven within the last seconds that it follows the ring. Always
    /// so where there are no others.
    pub fn holds_lease(&self) -> bool {
        match &self.0 {
            Engine::Sled(_) => true,
            Engine::Postgres(ring) => ring.holds_lease(),
        }
    }

    /// What is known of the other instances; `None` where there can be none.
    pub fn peers(&self) -> Option<Peers> {
        match &self.0 {
            Engine::Sled(_) => None,
            Engine::Postgres(ring) => Some(ring.peers()),
        }
    }

    /// Records the first ring; a conflict if one exists.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Unavailable`] it is not known whether it was recorded.
    pub async fn create(&self, ring: &RingRecords, now: Timestamp) -> Result<Swapped, StoreError> {
        match &self.0 {
            Engine::Sled(stored) => stored.create(ring, now).await,
            Engine::Postgres(stored) => Box::pin(stored.create(ring)).await,
        }
    }

    /// Replaces the ring of this version: its document, and those past keys that are new or have changed.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Unavailable`] it is not known whether it was recorded.
    pub async fn compare_and_swap(
        &self,
        version: u64,
        document: Vec<u8>,
        changed: &[PastKeyDocument],
        now: Timestamp,
    ) -> Result<Swapped, StoreError> {
        match &self.0 {
            Engine::Sled(ring) => ring.compare_and_swap(version, document, changed, now).await,
            Engine::Postgres(ring) => Box::pin(ring.compare_and_swap(version, &document, changed)).await,
        }
    }

    /// Replaces the ring on record, whatever its version. Past keys are written first, in several transactions; if it
    /// is interrupted, call it again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn overwrite(&self, ring: &RingRecords) -> Result<(), StoreError> {
        match &self.0 {
            Engine::Sled(stored) => stored.overwrite(ring).await,
            Engine::Postgres(stored) => Box::pin(stored.overwrite(ring)).await,
        }
    }
}

impl LedgerStore {
    /// Records an issued token, uses up an identifier, or both at once.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Unavailable`] the entry may or may not be recorded.
    pub async fn record(&self, entry: Entry<'_>, now: Timestamp) -> Result<RecordOutcome, StoreError> {
        match &self.0 {
            Engine::Sled(ledger) => ledger.record(entry, now).await,
            Engine::Postgres(ledger) => Box::pin(ledger.record(entry, now)).await,
        }
    }

    /// Spends a use, or repeats the last one.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Unavailable`] the use may or may not be counted. The same redemption can be
    /// retried: if it was counted, the outcome is repeated.
    pub async fn spend(&self, redemption: Redemption<'_>, now: Timestamp) -> Result<SpendOutcome, StoreError> {
        match &self.0 {
            Engine::Sled(ledger) => ledger.spend(redemption, now).await,
            Engine::Postgres(ledger) => Box::pin(ledger.spend(redemption, now)).await,
        }
    }

    /// Drops records that no decision needs any more: tokens and identifiers that expired more than two days before
    /// `now`, and the counts of transactions whose latest presented token was issued before `counts_before`.
    ///
    /// A missing count would grant uses, so counts are never dropped by the clock. Dropping is an event, durable before
    /// the first record is removed: a clock that is corrected after a wrong time is then found to be behind.
    ///
    /// # Errors
    /// [`StoreError`]; some may have been dropped.
    pub async fn expire(&self, counts_before: Timestamp, now: Timestamp) -> Result<EventOutcome, StoreError> {
        match &self.0 {
            Engine::Sled(ledger) => ledger.expire(counts_before, now).await,
            Engine::Postgres(ledger) => Box::pin(ledger.expire(counts_before, now)).await,
        }
    }

    /// Whether it is proven that no record is missing. Until then nothing can be recorded or spent.
    pub fn is_whole(&self) -> bool {
        match &self.0 {
            Engine::Sled(ledger) => ledger.is_whole(),
            Engine::Postgres(ledger) => ledger.is_whole(),
        }
    }

    /// The number of durable records of each kind.
    pub fn counts(&self) -> LedgerCounts {
        match &self.0 {
            Engine::Sled(ledger) => ledger.counts(),
            Engine::Postgres(ledger) => ledger.counts(),
        }
    }
}

impl BlockStore {
    /// Every entry, including those that have ended but are not yet dropped.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] if one of them cannot be read, [`StoreError::Unavailable`].
    pub async fn list(&self) -> Result<Vec<StoredBlock>, StoreError> {
        match &self.0 {
            Engine::Sled(blocks) => blocks.list().await,
            Engine::Postgres(blocks) => Box::pin(blocks.list()).await,
        }
    }

    /// Records an entry, replacing one with the same selectors.
    ///
    /// # Errors
    /// [`StoreError`]; also if the selectors are not valid JSON.
    pub async fn add(&self, block: &StoredBlock) -> Result<(), StoreError> {
        match &self.0 {
            Engine::Sled(blocks) => blocks.add(block).await,
            Engine::Postgres(blocks) => Box::pin(blocks.add(block)).await,
        }
    }

    /// Removes the entry with these selectors, if it exists.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove(&self, selectors: &str) -> Result<(), StoreError> {
        match &self.0 {
            Engine::Sled(blocks) => blocks.remove(selectors).await,
            Engine::Postgres(blocks) => Box::pin(blocks.remove(selectors)).await,
        }
    }
}

impl EventClock {
    /// Checks that the last event and the floors can be read.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`], [`StoreError::Unavailable`].
    pub async fn check_records(&self) -> Result<(), StoreError> {
        match &self.0 {
            Engine::Sled(clock) => clock.check_records().await,
            // Its columns hold nothing else.
            Engine::Postgres(_) => Ok(()),
        }
    }

    /// The time of the last event on record.
    pub fn last_event(&self) -> Timestamp {
        match &self.0 {
            Engine::Sled(clock) => clock.last_event(),
            Engine::Postgres(clock) => clock.last_event(),
        }
    }

    /// Whether `now` is more than [`STEP_TOLERANCE`](writ_platform::clock::STEP_TOLERANCE) before the last event.
    pub fn is_behind(&self, now: Timestamp) -> bool {
        super::clock::is_behind(self.last_event(), now)
    }

    /// Sets the last event to `now`, because an operator has checked the clock. If records that may be needed again
    /// were dropped at a later time, every single-use identifier created up to `now` counts as used.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`], [`StoreError::Unavailable`].
    pub async fn trust(&self, now: Timestamp) -> Result<(), StoreError> {
        match &self.0 {
            Engine::Sled(clock) => clock.trust(now).await,
            Engine::Postgres(clock) => Box::pin(clock.trust(now)).await,
        }
    }

    /// Moves the last event forward to `now`, if that is later. Succeeds only if the store can be written.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Unreadable`].
    pub async fn record(&self, now: Timestamp) -> Result<EventOutcome, StoreError> {
        match &self.0 {
            Engine::Sled(clock) => clock.record(now).await,
            Engine::Postgres(clock) => Box::pin(clock.record(now)).await,
        }
    }
}
