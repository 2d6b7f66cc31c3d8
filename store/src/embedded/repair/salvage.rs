//! Decides which records of a damaged store can be kept without granting anything twice.

use super::Remains;
use crate::blocks::StoredBlock;
use crate::embedded::blocks;
use crate::embedded::clock::{REDEMPTION_FLOOR, SINGLE_USE_FLOOR, SWEPT};
use crate::embedded::ledger;
use crate::embedded::ring;
use crate::embedded::table::{Change, Table};
use crate::embedded::times::{self, LAST_EVENT};
use crate::ring::RingRecords;
use writ_platform::clock::Timestamp;

/// How many records of one kind were kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The number of records kept.
    pub kept: usize,
    /// Their number when the store was last sealed; `None` if the seal is lost.
    pub sealed: Option<u64>,
    /// Whether the seal proves that none is missing or altered.
    pub is_complete: bool,
}

/// The records of a new store: those of a damaged one that can be kept without granting anything twice.
#[derive(Debug)]
pub struct Salvage {
    pub(super) change: Change,
    /// Tokens on record.
    pub tokens: Kept,
    /// Transactions and purposes for which uses were counted.
    pub uses: Kept,
    /// Single-use identifiers that were used.
    pub single_use: Kept,
    /// Entries of the kill switch.
    pub blocks: Kept,
    /// Tokens issued up to this time can no longer be redeemed, since counted uses may be lost.
    pub redemption_floor: Option<Timestamp>,
    /// Single-use identifiers created up to this time are refused, since the record of their use may be lost.
    pub single_use_floor: Option<Timestamp>,
}

/// The clock records of a repaired store.
struct Floors {
    last_event: Timestamp,
    swept: Timestamp,
    keeps_uses: bool,
    keeps_single_use: bool,
    redemption: Timestamp,
    single_use: Timestamp,
}

impl Remains {
    /// The readable entries of the kill switch.
    pub fn blocks(&self) -> Vec<StoredBlock> {
        self.records(Table::Blocks).iter().filter_map(blocks::parse).collect()
    }

    /// All entries of the kill switch, for a store whose records are accepted as they are.
    pub fn all_blocks(&self) -> Kept {
        self.kept(Table::Blocks, self.records(Table::Blocks).len())
    }

    /// The number of transactions and purposes for which uses were counted.
    pub fn counts_of_uses(&self) -> usize {
        self.records(Table::Uses).len()
    }

    /// Decides what to keep: the existing key ring, or `ring` in its place; the entries of the kill switch in `blocks`;
    /// and the ledger records that cannot grant anything twice.
    ///
    /// A count that is missing or too low would grant uses again, as would a missing identifier. So if one of these
    /// tables is incomplete, nothing from before `now` is granted; its records are kept, because they can only refuse.
    /// A token record grants uses, limited by their counts: token records are kept only if the counts are complete.
    pub fn salvage(&self, ring: Option<&RingRecords>, blocks: &[StoredBlock], now: Timestamp) -> Salvage {
        let mut change = match ring {
            Some(ring) => ring::put(ring, Change::new()),
            None => [Table::Meta, Table::Keys, Table::History].into_iter().fold(Change::new(), |change, table| {
                self.records(table).iter().fold(change, |change, (key, value)| change.put(table, key, value.as_slice()))
            }),
        };
        let mut kept_blocks = 0;
        for (key, value) in blocks.iter().filter_map(blocks::record) {
            change = change.put(Table::Blocks, &key, value);
            kept_blocks += 1;
        }
        let floors = self.floors(now);
        change = floors.put(change);
        let mut keep = |table| {
            let is_complete = self.is_complete(table);
            let mut kept = 0;
            for (key, value) in self.records(table) {
                if is_complete || ledger::is_sound(table, value) {
                    change.writes.insert(table.record(key), Some(value.clone()));
                    kept += 1;
                }
            }
            self.kept(table, kept)
        };
        let uses = keep(Table::Uses);
        let single_use = keep(Table::Single);
        let tokens = if floors.keeps_uses { keep(Table::Tokens) } else { self.kept(Table::Tokens, 0) };
        Salvage {
            change,
            tokens,
            uses,
            single_use,
            blocks: self.kept(Table::Blocks, kept_blocks),
            redemption_floor: (!floors.keeps_uses).then_some(floors.last_event),
            single_use_floor: (!floors.keeps_single_use).then_some(floors.last_event),
        }
    }

    fn floors(&self, now: Timestamp) -> Floors {
        let found = |table, key: &[u8]| {
            let record = self.records(table).iter().find(|(name, _)| name == key);
            record.map(|(_, value)| times::parse(Some(value)))
        };
        // If the clock is behind, tokens issued between `now` and the last event would appear later than a floor at
        // `now`.
        let last_event = now.max(found(Table::Clock, LAST_EVENT).flatten().unwrap_or_default());
        let swept = found(Table::Meta, SWEPT).flatten().unwrap_or_default();
        // If the floors of an earlier repair are lost, the tables may have been incomplete before.
        let redemption = found(Table::Meta, REDEMPTION_FLOOR).unwrap_or(Some(Timestamp::default()));
        let single_use = found(Table::Meta, SINGLE_USE_FLOOR).unwrap_or(redemption);
        let known = redemption.zip(single_use).filter(|_| self.is_complete(Table::Meta));
        let keeps_uses = known.is_some() && self.is_complete(Table::Uses);
        let keeps_single_use = known.is_some() && self.is_complete(Table::Single);
        let (redemption, single_use) = known.unwrap_or_default();
        Floors {
            last_event,
            swept,
            keeps_uses,
            keeps_single_use,
            redemption: if keeps_uses { redemption } else { last_event },
            single_use: if keeps_single_use { single_use } else { last_event },
        }
    }

    fn kept(&self, table: Table, kept: usize) -> Kept {
        Kept { kept, sealed: self.sealed(table), is_complete: self.is_complete(table) }
    }
}

impl Floors {
    fn put(&self, change: Change) -> Change {
        change
            .put(Table::Meta, REDEMPTION_FLOOR, times::value(self.redemption))
            .put(Table::Meta, SINGLE_USE_FLOOR, times::value(self.single_use))
            .put(Table::Meta, SWEPT, times::value(self.swept))
            .put(Table::Clock, LAST_EVENT, times::value(self.last_event))
    }
}
