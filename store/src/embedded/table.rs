//! Records, each with a key and a value in one of a few tables; and the writes of a transaction.

use std::collections::BTreeMap;

use crate::StoreError;

/// New values by key, table prefix included; `None` removes a record.
pub(crate) type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// The kind of a record; each table has its own key space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Table {
    /// The store's identity and, under the key `version`, the layout of its records.
    Meta,
    /// The key ring.
    Keys,
    /// Signing keys that are no longer published, by `kid`.
    History,
    /// Issued tokens that can be redeemed.
    Tokens,
    /// Counts of uses.
    Uses,
    /// The last event.
    Clock,
    /// Single-use identifiers that were used.
    Single,
    /// The kill switch.
    Blocks,
}

/// A key without table prefix, and a value.
pub(crate) type Record = (Vec<u8>, Vec<u8>);

/// What a transaction writes, atomically. The last write to a record wins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    pub(crate) writes: Writes,
}

impl Change {
    /// The maximum number of records in one change; far below the limit of a clustered database.
    pub(crate) const MAX_RECORDS: usize = 100;
    /// The maximum length of a record, key and value together, in bytes.
    ///
    /// A page of sled holds up to twenty records. sled writes pages beyond 128 KiB to separate files, which it does not
    /// sync.
    pub(crate) const MAX_RECORD_LEN: usize = 6 * 1024;

    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn put(mut self, table: Table, key: &[u8], value: impl Into<Vec<u8>>) -> Self {
        self.writes.insert(table.record(key), Some(value.into()));
        self
    }

    pub(crate) fn remove(mut self, table: Table, key: &[u8]) -> Self {
        self.writes.insert(table.record(key), None);
        self
    }

    /// The length of all keys and values in bytes.
    pub(crate) fn len(&self) -> usize {
        self.lengths().sum()
    }

    fn lengths(&self) -> impl Iterator<Item = usize> {
        self.writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len))
    }

    pub(crate) fn check_size(&self) -> Result<(), StoreError> {
        let records = self.writes.len();
        if records > Self::MAX_RECORDS {
            return Err(StoreError::TooLarge(format!("{records} records in one change")));
        }
        match self.lengths().max() {
            Some(longest) if longest > Self::MAX_RECORD_LEN => {
                Err(StoreError::TooLarge(format!("a record of {longest} bytes")))
            }
            _ => Ok(()),
        }
    }
}

impl Table {
    pub(crate) const ALL: [Self; 8] =
        [Self::Meta, Self::Keys, Self::History, Self::Tokens, Self::Uses, Self::Clock, Self::Single, Self::Blocks];

    /// The name used in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Keys => "keys",
            Self::History => "history",
            Self::Tokens => "tokens",
            Self::Uses => "uses",
            Self::Clock => "clock",
            Self::Single => "single",
            Self::Blocks => "blocks",
        }
    }

    /// The first byte of its records' full keys. It is on disk, so a number is never reused for another table.
    pub(crate) fn prefix(self) -> u8 {
        match self {
            Self::Meta => 1,
            Self::Keys => 2,
            Self::History => 3,
            Self::Tokens => 4,
            Self::Uses => 5,
            Self::Clock => 6,
            Self::Single => 7,
            Self::Blocks => 8,
        }
    }

    /// Whether it has few records. The tables of the ledger grow with every token.
    pub(crate) fn is_small(self) -> bool {
        !matches!(self, Self::Tokens | Self::Uses | Self::Single)
    }

    /// The table of a full key.
    pub(crate) fn of(record: &[u8]) -> Option<Self> {
        let first = record.first()?;
        Self::ALL.into_iter().find(|table| table.prefix() == *first)
    }

    /// The full key: table prefix and `key`.
    pub(crate) fn record(self, key: &[u8]) -> Vec<u8> {
        [&[self.prefix()], key].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_prefixes_of_their_own() {
        for table in Table::ALL {
            assert_eq!(Table::of(&table.record(b"key")), Some(table));
        }
    }
}
