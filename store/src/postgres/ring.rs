//! The key ring: a versioned compare-and-swap decides between instances.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;
use writ_platform::clock::Timestamp;

use super::pool::{Pool, Query, Values};
use super::signed;
use crate::StoreError;
use crate::cluster::Peers;
use crate::ring::{Installation, PastKeyDocument, RingRecords, StoredRing, Swapped, version_of};

const NO_RING: StoreError = StoreError::Unreadable("the record of the keys in use cannot be read");

/// How long a change is repeated: no longer than a key signs at the end of its span while its successor is stored.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub(crate) struct Ring {
    pool: Arc<Pool>,
    /// The key of the instance's row.
    instance: String,
}

fn unreadable(_: tokio_postgres::Error) -> StoreError {
    NO_RING
}

impl Ring {
    pub(super) fn new(pool: Arc<Pool>, instance: String) -> Self {
        Self { pool, instance }
    }

    pub(crate) async fn load(&self) -> Result<Option<StoredRing>, StoreError> {
        let row = self.pool.row("read", Query::Text(&self.pool.connector.statements.ring), &[]).await?;
        let Some(stored) = parse(&row)? else { return Ok(None) };
        let remembered = self.pool.connector.remember(&stored.ring.installation.id).await;
        remembered.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Some(stored))
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.pool.health.check().is_ok()
    }

    pub(crate) fn holds_lease(&self) -> bool {
        self.pool.health.holds_lease()
    }

    pub(crate) fn peers(&self) -> Peers {
        self.pool.health.peers()
    }

    /// An error at once while the database is unavailable: a step is tried again later.
    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        self.pool.health.check().map_err(StoreError::Unavailable)
    }

    pub(crate) async fn create(&self, ring: &RingRecords) -> Result<Swapped, StoreError> {
        let swapped = self.put(ring, false).await?;
        if swapped == Swapped::Done {
            let remembered = self.pool.connector.remember(&ring.installation.id).await;
            remembered.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        }
        Ok(swapped)
    }

    pub(crate) async fn overwrite(&self, ring: &RingRecords) -> Result<(), StoreError> {
        match self.put(ring, true).await? {
            Swapped::Done => Ok(()),
            Swapped::Conflict => Err(NO_RING),
        }
    }

    async fn put(&self, ring: &RingRecords, replaces: bool) -> Result<Swapped, StoreError> {
        let RingRecords { installation: Installation { id, trust_domain }, document, past } = ring;
        let version = number(version_of(document).ok_or(NO_RING)?);
        let (kids, documents) = columns(past);
        let attempt = Uuid::new_v4();
        let text = &self.pool.connector.statements.put_ring;
        let attempt = &&attempt.as_bytes()[..];
        self.swap(text, &[&version, document, attempt, &self.instance, &kids, &documents, id, trust_domain, &replaces])
            .await
    }

    pub(crate) async fn compare_and_swap(
        &self,
        version: u64,
        document: &[u8],
        changed: &[PastKeyDocument],
    ) -> Result<Swapped, StoreError> {
        let next = number(version_of(document).ok_or(NO_RING)?);
        let (kids, documents) = columns(changed);
        let attempt = Uuid::new_v4();
        let text = &self.pool.connector.statements.swap_ring;
        let attempt = &&attempt.as_bytes()[..];
        self.swap(text, &[&number(version), &next, &document, attempt, &self.instance, &kids, &documents]).await
    }

    async fn swap(&self, text: &str, values: Values<'_>) -> Result<Swapped, StoreError> {
        let rows = self.pool.rows_within(PATIENCE, "swap", Query::Text(text), values).await?;
        let row = rows.first().ok_or(NO_RING)?;
        if row.try_get("is_done").map_err(unreadable)? {
            return Ok(Swapped::Done);
        }
        if row.try_get("was_done").map_err(unreadable)? {
            // An earlier repetition was applied. What was read is not yet known to be durable.
            let settle = Query::Text(&self.pool.connector.statements.settle);
            self.pool.rows_within(PATIENCE, "swap", settle, &[]).await?;
            return Ok(Swapped::Done);
        }
        Ok(Swapped::Conflict)
    }
}

pub(super) fn parse(row: &Row) -> Result<Option<StoredRing>, StoreError> {
    let id: Option<String> = row.try_get("id").map_err(unreadable)?;
    let trust_domain: Option<String> = row.try_get("trust_domain").map_err(unreadable)?;
    let document: Option<Vec<u8>> = row.try_get("document").map_err(unreadable)?;
    let (id, trust_domain, document) = match (id, trust_domain, document) {
        (Some(id), Some(trust_domain), Some(document)) => (id, trust_domain, document),
        (None, None, None) => return Ok(None),
        (_, _, None) => return Err(StoreError::Unreadable("the keys in use are missing")),
        (_, _, Some(_)) => return Err(StoreError::Unreadable("the record that names the store is missing")),
    };
    let last_event: i64 = row.try_get("last_event").map_err(unreadable)?;
    let kids: Vec<String> = row.try_get("kids").map_err(unreadable)?;
    let documents: Vec<Vec<u8>> = row.try_get("documents").map_err(unreadable)?;
    let past = kids.into_iter().zip(documents).map(|(kid, document)| PastKeyDocument { kid, document }).collect();
    let installation = Installation { id, trust_domain };
    let last_event = Timestamp::from_epoch(u64::try_from(last_event).unwrap_or(0));
    Ok(Some(StoredRing { ring: RingRecords { installation, document, past }, last_event }))
}

fn columns(past: &[PastKeyDocument]) -> (Vec<&str>, Vec<&[u8]>) {
    past.iter().map(|key| (key.kid.as_str(), key.document.as_slice())).unzip()
}

fn number(version: u64) -> i64 {
    signed(Timestamp::from_epoch(version))
}
