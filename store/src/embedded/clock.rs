//! The last event and the floors, as records.

use writ_platform::clock::Timestamp;

use super::records::Records;
use super::table::{Change, Table};
use super::times::{self, LAST_EVENT};
use super::transaction::{Undecided, View};
use crate::StoreError;
use crate::clock::{EventOutcome, RETENTION_MARGIN, is_behind};

pub(crate) const REDEMPTION_FLOOR: &[u8] = b"redemption_floor";
pub(crate) const SINGLE_USE_FLOOR: &[u8] = b"single_use_floor";
/// The latest time at which records were dropped. Never decreases.
pub(crate) const SWEPT: &[u8] = b"swept";

pub(crate) const NO_LAST_EVENT: &str = "the time of the last event cannot be read";
const NO_FLOOR: &str = "the time up to which records may be missing cannot be read";
const NO_SWEPT: &str = "the time at which records were last dropped cannot be read";

/// The recorded last event and floors of one store; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    records: Records,
}

impl Clock {
    pub(crate) fn new(records: Records) -> Self {
        Self { records }
    }

    /// Checks that the last event and the floors can be read.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`], [`StoreError::Unavailable`].
    pub(crate) async fn check_records(&self) -> Result<(), StoreError> {
        let times = [
            (Table::Clock, LAST_EVENT, NO_LAST_EVENT),
            (Table::Meta, REDEMPTION_FLOOR, NO_FLOOR),
            (Table::Meta, SINGLE_USE_FLOOR, NO_FLOOR),
        ];
        for (table, key, otherwise) in times {
            let record = self.records.read(table, key).await?;
            times::parse(record.as_deref()).ok_or(StoreError::Unreadable(otherwise))?;
        }
        Ok(())
    }

    /// The time of the last event on record.
    pub(crate) fn last_event(&self) -> Timestamp {
        self.records.last_event()
    }

    /// Whether `now` is more than [`STEP_TOLERANCE`](writ_platform::clock::STEP_TOLERANCE) before the last event.
    pub(crate) fn is_behind(&self, now: Timestamp) -> bool {
        is_behind(self.last_event(), now)
    }

    /// Sets the last event to `now`, because an operator has checked the clock. If records that may be needed again
    /// were dropped at a later time, every single-use identifier created up to `now` counts as used.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`], [`StoreError::Unavailable`].
    pub(crate) async fn trust(&self, now: Timestamp) -> Result<(), StoreError> {
        let trust = move |view: &View<'_>| {
            let mut change = Change::new().put(Table::Clock, LAST_EVENT, times::value(now));
            // The last event is not enough: an operator may set it back in two steps.
            if last_event(view)?.max(swept(view)?) > now + RETENTION_MARGIN {
                let floor = single_use_floor(view)?.max(now);
                change = change.put(Table::Meta, SINGLE_USE_FLOOR, times::value(floor));
            }
            Ok((change, ()))
        };
        self.records.transact(trust).await
    }

    /// Moves the last event forward to `now`, if that is later. Succeeds only if the store can be written.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Unreadable`].
    pub(crate) async fn record(&self, now: Timestamp) -> Result<EventOutcome, StoreError> {
        self.records.transact(move |view| event(view, Change::new(), now)).await
    }

    /// Records the event that records are dropped at `now`.
    pub(crate) async fn record_drop(&self, now: Timestamp) -> Result<EventOutcome, StoreError> {
        let note = move |view: &View<'_>| {
            let swept = swept(view)?.max(now);
            event(view, Change::new().put(Table::Meta, SWEPT, times::value(swept)), now)
        };
        self.records.transact(note).await
    }
}

/// Makes `change` an event at `now`; writes nothing if the clock is behind.
fn event(view: &View<'_>, change: Change, now: Timestamp) -> Result<(Change, EventOutcome), Undecided> {
    Ok(match advance_checked(view, change, now)? {
        Some(change) => (change, EventOutcome::Recorded),
        None => (Change::new(), EventOutcome::ClockBehind),
    })
}

/// Adds to `change` that the last event is not before `now`; `None` if the clock is behind.
pub(crate) fn advance_checked(view: &View<'_>, change: Change, now: Timestamp) -> Result<Option<Change>, Undecided> {
    let last = last_event(view)?;
    Ok((!is_behind(last, now)).then(|| advanced(last, change, now)))
}

/// As [`advance_checked`], without the check: the key ring changes even if the clock is behind.
pub(crate) fn advance(view: &View<'_>, change: Change, now: Timestamp) -> Result<Change, Undecided> {
    Ok(advanced(last_event(view)?, change, now))
}

fn advanced(last: Timestamp, change: Change, now: Timestamp) -> Change {
    if last < now { change.put(Table::Clock, LAST_EVENT, times::value(now)) } else { change }
}

pub(crate) fn last_event(view: &View<'_>) -> Result<Timestamp, Undecided> {
    read_time(view, Table::Clock, LAST_EVENT, NO_LAST_EVENT)
}

/// Recorded uses of tokens issued up to this time may be missing.
pub(crate) fn redemption_floor(view: &View<'_>) -> Result<Timestamp, Undecided> {
    read_time(view, Table::Meta, REDEMPTION_FLOOR, NO_FLOOR)
}

/// Recorded uses of single-use identifiers created up to this time may be missing.
pub(crate) fn single_use_floor(view: &View<'_>) -> Result<Timestamp, Undecided> {
    match view.get(Table::Meta, SINGLE_USE_FLOOR)? {
        // Earlier versions' repairs wrote only the redemption floor, which then applies to both.
        None => redemption_floor(view),
        record => times::parse(record.as_deref()).ok_or(Undecided::Unreadable(NO_FLOOR)),
    }
}

fn swept(view: &View<'_>) -> Result<Timestamp, Undecided> {
    read_time(view, Table::Meta, SWEPT, NO_SWEPT)
}

fn read_time(view: &View<'_>, table: Table, key: &[u8], otherwise: &'static str) -> Result<Timestamp, Undecided> {
    times::parse(view.get(table, key)?.as_deref()).ok_or(Undecided::Unreadable(otherwise))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Settings, Store};

    const DAY: u64 = 86_400;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_epoch(1_790_000_000 + seconds)
    }

    async fn open(folder: &tempfile::TempDir) -> Store {
        Store::open(&Settings::Sled { path: folder.path().join("store") }).await.unwrap()
    }

    async fn single_use_floor_of(store: &Store) -> Timestamp {
        store.records().transact(|view| Ok((Change::new(), single_use_floor(view)?))).await.unwrap()
    }

    #[tokio::test]
    async fn the_last_event_goes_forward_only_and_survives() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder).await;
        let clock = store.clock();
        assert_eq!(clock.record(at(100)).await.unwrap(), EventOutcome::Recorded);
        assert_eq!(clock.record(at(70)).await.unwrap(), EventOutcome::Recorded);
        assert_eq!(clock.record(at(69)).await.unwrap(), EventOutcome::ClockBehind);
        assert_eq!((clock.last_event(), clock.is_behind(at(70)), clock.is_behind(at(69))), (at(100), false, true));
        store.close().await;
        assert_eq!(open(&folder).await.clock().last_event(), at(100));
    }

    #[tokio::test]
    async fn setting_the_clock_back_raises_the_floor_only_if_something_may_have_been_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder).await;
        let clock = store.clock();
        let _ = clock.record(at(2 * DAY)).await.unwrap();
        clock.trust(at(0)).await.unwrap();
        assert_eq!((clock.last_event(), single_use_floor_of(&store).await), (at(0), Timestamp::default()));
        let _ = Clock::new(store.records().clone()).record_drop(at(2 * DAY + 1)).await.unwrap();
        clock.trust(at(DAY)).await.unwrap();
        assert_eq!(single_use_floor_of(&store).await, Timestamp::default());
        clock.trust(at(0)).await.unwrap();
        assert_eq!(single_use_floor_of(&store).await, at(0), "in two steps, too");
    }

    #[tokio::test]
    async fn a_time_that_cannot_be_read_is_reported() {
        for (table, key) in
            [(Table::Clock, LAST_EVENT), (Table::Meta, REDEMPTION_FLOOR), (Table::Meta, SINGLE_USE_FLOOR)]
        {
            let folder = tempfile::tempdir().unwrap();
            let store = open(&folder).await;
            store.records().transact(move |_| Ok((Change::new().put(table, key, "-1"), ()))).await.unwrap();
            assert!(matches!(store.clock().check_records().await, Err(StoreError::Unreadable(_))));
        }
    }
}
