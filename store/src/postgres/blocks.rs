//! The kill switch: each change raises its version, by which every instance notices it.

use std::sync::Arc;

use serde::de::IgnoredAny;
use tokio_postgres::Row;
use writ_platform::clock::Timestamp;

use super::pool::{Pool, Query};
use super::signed;
use crate::StoreError;
use crate::blocks::{StoredBlock, key};

const NO_BLOCK: StoreError = StoreError::Unreadable("a record of the kill switch cannot be read");

#[derive(Debug, Clone)]
pub(crate) struct Blocks {
    pool: Arc<Pool>,
}

impl Blocks {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self { pool }
    }

    pub(crate) async fn list(&self) -> Result<Vec<StoredBlock>, StoreError> {
        let rows = self.pool.rows("read", Query::Text(&self.pool.connector.statements.blocks), &[]).await?;
        let blocks = rows.iter().map(|row| parse(row).map_err(|_| NO_BLOCK));
        blocks.filter_map(Result::transpose).map(|block| block?.ok_or(NO_BLOCK)).collect()
    }

    pub(crate) async fn add(&self, block: &StoredBlock) -> Result<(), StoreError> {
        let StoredBlock { selectors, added_at, until } = block;
        serde_json::from_str::<IgnoredAny>(selectors).map_err(|_| NO_BLOCK)?;
        let values = (key(selectors), signed(*added_at), until.map(signed));
        let text = &self.pool.connector.statements.add_block;
        self.pool.rows("swap", Query::Text(text), &[&values.0, selectors, &values.1, &values.2]).await.map(drop)
    }

    pub(crate) async fn remove(&self, selectors: &str) -> Result<(), StoreError> {
        let text = &self.pool.connector.statements.remove_block;
        self.pool.rows("swap", Query::Text(text), &[&key(selectors)]).await.map(drop)
    }
}

/// The outer `None`: the row that stands for no entry. The inner one: its key does not match its selectors.
#[expect(clippy::option_option, reason = "two different absences, distinguished where it is called")]
pub(super) fn parse(row: &Row) -> Result<Option<Option<StoredBlock>>, tokio_postgres::Error> {
    let Some(id) = row.try_get::<_, Option<Vec<u8>>>("id")? else { return Ok(None) };
    let selectors: String = row.try_get("selectors")?;
    let time = |seconds: i64| Timestamp::from_epoch(u64::try_from(seconds).unwrap_or(0));
    let added_at = time(row.try_get("added_at")?);
    let until = row.try_get::<_, Option<i64>>("until")?.map(time);
    Ok(Some((key(&selectors) == id).then_some(StoredBlock { selectors, added_at, until })))
}
