//! The records of the key ring: one document for the keys in use, and one for each key that is no longer published.
//!
//! The documents are opaque here except for the ring's version, which compare-and-swap uses.

use writ_platform::clock::Timestamp;

use super::clock;
use super::records::Records;
use super::table::{Change, Record, Table};
use super::times::{self, LAST_EVENT};
use super::transaction::{Undecided, View};
use crate::StoreError;
use crate::ring::{PastKeyDocument, RingRecords, StoredRing, Swapped, version_of};

pub(super) const INSTALLATION: &[u8] = b"installation";
pub(super) const RING: &[u8] = b"ring";

const NO_RING: &str = "the record of the keys in use cannot be read";
const NO_INSTALLATION: &str = "the record that names the store cannot be read";
const NO_PAST_KEY: &str = "a record of the history cannot be read";

/// How many past keys one transaction writes into a store in use.
const BATCH_LEN: usize = 50;

/// The key ring of one store; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Ring {
    records: Records,
}

impl Ring {
    pub(crate) fn new(records: Records) -> Self {
        Self { records }
    }

    /// The ring on record; `None` if there never was one.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] if a part of it is missing or cannot be read, [`StoreError::Unavailable`].
    pub(crate) async fn load(&self) -> Result<Option<StoredRing>, StoreError> {
        let installation = self.records.read(Table::Meta, INSTALLATION).await?;
        let document = self.records.read(Table::Keys, RING).await?;
        let past = self.records.scan(Table::History).await?;
        let Some(ring) = assemble(installation, document, past)? else { return Ok(None) };
        let last_event = times::parse(self.records.read(Table::Clock, LAST_EVENT).await?.as_deref());
        let last_event = last_event.ok_or(StoreError::Unreadable(clock::NO_LAST_EVENT))?;
        Ok(Some(StoredRing { ring, last_event }))
    }

    /// Whether it can be written: the store is open, and not only the tables that a start needs.
    pub(crate) fn is_writable(&self) -> bool {
        self.records.is_whole()
    }

    /// Waits until it can be written.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the store does not open.
    pub(crate) async fn wait_until_writable(&self) -> Result<(), StoreError> {
        self.records.wait_until_whole().await
    }

    /// Records the first ring; a conflict if one exists.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Unavailable`] it is not known whether it was recorded.
    pub(crate) async fn create(&self, ring: &RingRecords, now: Timestamp) -> Result<Swapped, StoreError> {
        let change = put(ring, Change::new());
        let create = move |view: &View<'_>| {
            if view.get(Table::Meta, INSTALLATION)?.is_some() || view.get(Table::Keys, RING)?.is_some() {
                return Ok((Change::new(), Swapped::Conflict));
            }
            Ok((clock::advance(view, change, now)?, Swapped::Done))
        };
        self.records.transact(create).await
    }

    /// Replaces the ring of this version: its document, and those past keys that are new or have changed.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Unavailable`] it is not known whether it was recorded.
    pub(crate) async fn compare_and_swap(
        &self,
        version: u64,
        document: Vec<u8>,
        changed: &[PastKeyDocument],
        now: Timestamp,
    ) -> Result<Swapped, StoreError> {
        let change = put_past(Change::new(), changed).put(Table::Keys, RING, document);
        let swap = move |view: &View<'_>| {
            let found = view
                .get(Table::Keys, RING)?
                .map(|document| version_of(&document).ok_or(Undecided::Unreadable(NO_RING)))
                .transpose()?;
            if found != Some(version) {
                return Ok((Change::new(), Swapped::Conflict));
            }
            Ok((clock::advance(view, change, now)?, Swapped::Done))
        };
        self.records.transact(swap).await
    }

    /// Replaces the ring on record, whatever its version. Past keys are written first, in several transactions; if it
    /// is interrupted, call it again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn overwrite(&self, ring: &RingRecords) -> Result<(), StoreError> {
        for several in ring.past.chunks(BATCH_LEN) {
            let change = put_past(Change::new(), several);
            self.records.transact(|_| Ok((change, ()))).await?;
        }
        let change = put_in_use(ring, Change::new());
        self.records.transact(|_| Ok((change, ()))).await
    }
}

/// The ring in these records: that of the installation, that of the keys in use, and those of the history.
pub(super) fn assemble(
    installation: Option<Vec<u8>>,
    document: Option<Vec<u8>>,
    past: Vec<Record>,
) -> Result<Option<RingRecords>, StoreError> {
    let (installation, document) = match (installation, document) {
        (Some(installation), Some(document)) => (installation, document),
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(StoreError::Unreadable("the keys in use are missing")),
        (None, Some(_)) => return Err(StoreError::Unreadable("the record that names the store is missing")),
    };
    let installation = serde_json::from_slice(&installation).map_err(|_| StoreError::Unreadable(NO_INSTALLATION))?;
    let past = past.into_iter().map(|(kid, document)| {
        let kid = String::from_utf8(kid).map_err(|_| StoreError::Unreadable(NO_PAST_KEY))?;
        Ok(PastKeyDocument { kid, document })
    });
    Ok(Some(RingRecords { installation, document, past: past.collect::<Result<_, StoreError>>()? }))
}

/// Adds the complete ring to `change`.
pub(crate) fn put(ring: &RingRecords, change: Change) -> Change {
    put_in_use(ring, put_past(change, &ring.past))
}

fn put_in_use(ring: &RingRecords, change: Change) -> Change {
    let installation = serde_json::to_vec(&ring.installation).expect("two texts always make JSON");
    change.put(Table::Meta, INSTALLATION, installation).put(Table::Keys, RING, ring.document.as_slice())
}

fn put_past(change: Change, past: &[PastKeyDocument]) -> Change {
    past.iter().fold(change, |change, key| change.put(Table::History, key.kid.as_bytes(), key.document.as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Installation;
    use crate::{Settings, Store};

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_epoch(1_790_000_000 + seconds)
    }

    fn document(version: u64) -> Vec<u8> {
        format!(r#"{{"version":{version},"next":"…"}}"#).into_bytes()
    }

    fn past(kid: &str, document: &str) -> PastKeyDocument {
        PastKeyDocument { kid: kid.to_owned(), document: document.into() }
    }

    fn ring(version: u64, past: Vec<PastKeyDocument>) -> RingRecords {
        let installation = Installation { id: "i".to_owned(), trust_domain: "d.example".to_owned() };
        RingRecords { installation, document: document(version), past }
    }

    async fn open(folder: &tempfile::TempDir) -> Store {
        Store::open(&Settings::Sled { path: folder.path().join("store") }).await.unwrap()
    }

    #[tokio::test]
    async fn ring_is_swapped_by_its_version_and_keeps_its_history() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder).await;
        let stored = store.ring();
        assert_eq!(stored.load().await.unwrap(), None);
        assert_eq!(stored.compare_and_swap(1, document(2), &[], at(0)).await.unwrap(), Swapped::Conflict);
        assert_eq!(stored.create(&ring(1, vec![]), at(0)).await.unwrap(), Swapped::Done);
        assert_eq!(stored.create(&ring(9, vec![]), at(0)).await.unwrap(), Swapped::Conflict);
        let swap = |version, next, key| {
            let stored = stored.clone();
            async move { stored.compare_and_swap(version, document(next), &[key], at(next)).await.unwrap() }
        };
        assert_eq!(swap(1, 2, past("a", "1")).await, Swapped::Done);
        assert_eq!(swap(1, 2, past("a", "lost")).await, Swapped::Conflict);
        assert_eq!(swap(2, 3, past("b", "1")).await, Swapped::Done);
        let expected = StoredRing { ring: ring(3, vec![past("a", "1"), past("b", "1")]), last_event: at(3) };
        assert_eq!(stored.load().await.unwrap(), Some(expected));
    }

    #[tokio::test]
    async fn ring_changes_by_a_clock_that_is_behind_and_does_not_take_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder).await;
        let _ = store.ring().create(&ring(1, vec![]), at(1000)).await.unwrap();
        assert_eq!(store.ring().compare_and_swap(1, document(2), &[], at(0)).await.unwrap(), Swapped::Done);
        assert_eq!(store.clock().last_event(), at(1000));
    }

    #[tokio::test]
    async fn overwriting_puts_a_ring_of_any_size() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder).await;
        let _ = store.ring().create(&ring(7, vec![]), at(0)).await.unwrap();
        let many = (100..300).map(|number| past(&number.to_string(), "1")).collect::<Vec<_>>();
        store.ring().overwrite(&ring(1, many.clone())).await.unwrap();
        assert_eq!(store.ring().load().await.unwrap().unwrap().ring, ring(1, many));
    }
}
