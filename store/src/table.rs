//! Named records: a key and a value in one of a few tables, and what a transaction writes to them.

use std::collections::BTreeMap;

use super::StoreError;

/// Full names of records and their new values; `None` removes.
pub(crate) type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// What kind of record; each table has keys of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Table {
    /// About the store and the installation. The key `version` is the layout of the records.
    Meta,
    /// The key ring.
    Keys,
    /// Keys that are not published any more, by their names.
    History,
    /// Issued tokens on record.
    Tokens,
    /// Uses spent.
    Uses,
    /// The last event.
    Clock,
    /// Identifiers that were used and may be used once.
    Single,
    /// The kill switch.
    Blocks,
}

/// A key without its table, and a value.
pub(crate) type Record = (Vec<u8>, Vec<u8>);

/// What a transaction writes: all of it or nothing. The last write to a record counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    pub(crate) writes: Writes,
}

impl Change {
    /// How many records one change may write: what a cluster takes in one transaction, with room to spare.
    pub(crate) const MAX_RECORDS: usize = 100;
    /// How long a record may be, key and value together, in bytes.
    ///
    /// A page of sled holds up to twenty records; pages beyond 128 KiB go to files of their own, which sled does not sync.
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

    /// In bytes, keys and values.
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

    /// Its name in messages.
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

    /// The first byte of its records' names. On disk for good: numbers are never used again for something else.
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

    /// The table a record's full name belongs to.
    pub(crate) fn of(record: &[u8]) -> Option<Self> {
        let first = record.first()?;
        Self::ALL.into_iter().find(|table| table.prefix() == *first)
    }

    /// The full name of a record.
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
