//! The records of the kill switch: the blocks that operators have added.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use writ_platform::clock::Timestamp;

use super::records::Records;
use super::table::{Change, Record, Table};
use crate::StoreError;
use crate::blocks::{StoredBlock, key};

const NO_BLOCK: &str = "a record of the kill switch cannot be read";

/// The kill switch of one store; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Blocks {
    records: Records,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BlockRecord {
    block: Box<RawValue>,
    added_at: Timestamp,
    until: Option<Timestamp>,
}

impl Blocks {
    pub(crate) fn new(records: Records) -> Self {
        Self { records }
    }

    /// Every entry, including those that have ended but are not yet dropped.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] if one of them cannot be read, [`StoreError::Unavailable`].
    pub(crate) async fn list(&self) -> Result<Vec<StoredBlock>, StoreError> {
        let records = self.records.scan(Table::Blocks).await?;
        records.iter().map(|record| parse(record).ok_or(StoreError::Unreadable(NO_BLOCK))).collect()
    }

    /// Records an entry, replacing one with the same selectors.
    ///
    /// # Errors
    /// [`StoreError`]; also if the selectors are not valid JSON.
    pub(crate) async fn add(&self, block: &StoredBlock) -> Result<(), StoreError> {
        let (key, value) = record(block).ok_or(StoreError::Unreadable(NO_BLOCK))?;
        let change = Change::new().put(Table::Blocks, &key, value);
        self.records.transact(|_| Ok((change, ()))).await
    }

    /// Removes the entry with these selectors, if it exists.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn remove(&self, selectors: &str) -> Result<(), StoreError> {
        let change = Change::new().remove(Table::Blocks, &key(selectors));
        self.records.transact(|_| Ok((change, ()))).await
    }
}

/// `None` if the selectors are not valid JSON.
pub(crate) fn record(block: &StoredBlock) -> Option<Record> {
    let StoredBlock { selectors, added_at, until } = block;
    let selected = RawValue::from_string(selectors.clone()).ok()?;
    let record = BlockRecord { block: selected, added_at: *added_at, until: *until };
    Some((key(selectors), serde_json::to_vec(&record).ok()?))
}

/// `None` if the record is malformed, or its name does not match its selectors.
pub(crate) fn parse((name, value): &Record) -> Option<StoredBlock> {
    let BlockRecord { block, added_at, until } = serde_json::from_slice(value).ok()?;
    let selectors = block.get().to_owned();
    (key(&selectors) == *name).then_some(StoredBlock { selectors, added_at, until })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(until: Option<u64>) -> StoredBlock {
        let selectors = r#"{"sub":"u-1","client":"job"}"#.to_owned();
        StoredBlock { selectors, added_at: Timestamp::from_epoch(5), until: until.map(Timestamp::from_epoch) }
    }

    /// The form on disk never changes.
    #[test]
    fn record_has_the_form_that_earlier_versions_wrote() {
        for (until, text) in [(None, "null"), (Some(9), "9")] {
            let value = format!(r#"{{"block":{{"sub":"u-1","client":"job"}},"added_at":5,"until":{text}}}"#);
            let name = key(r#"{"sub":"u-1","client":"job"}"#);
            assert_eq!(record(&block(until)), Some((name.clone(), value.clone().into_bytes())));
            assert_eq!(parse(&(name, value.clone().into_bytes())), Some(block(until)));
            assert_eq!(parse(&(b"elsewhere".to_vec(), value.into_bytes())), None);
        }
    }
}
