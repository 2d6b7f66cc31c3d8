//! Copies of the small tables in files of their own, from which a service starts before its database is open.
//!
//! Opening a large database takes seconds, and only the ledger is large. The seal has a hash sum for each table, so it
//! proves a copy as it proves the database: a copy that is missing, torn, or older than the seal is not used, and the
//! service then starts when the database is open. For that reason the files are not synced.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _};
use std::ops::Bound;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::seal::{Seal, Tally};
use super::table::{Record, Table};
use crate::folder;

/// More than a copy ever has: whatever is in its place must not fill the memory.
const MAX_LEN: u64 = 64 * 1024 * 1024;

/// The proven records of all small tables, by full key.
#[derive(Debug)]
pub(super) struct StartRecords(BTreeMap<Vec<u8>, Vec<u8>>);

impl StartRecords {
    /// The copies, if the seal proves every one of them.
    pub(super) fn read(store: &Path, seal: &Seal) -> Option<Self> {
        let mut all = BTreeMap::new();
        for table in Table::ALL.into_iter().filter(|table| table.is_small()) {
            // Whatever is wrong with a copy, the database is read instead.
            let file = File::open(folder::start(store).join(table.name())).ok()?;
            let mut bytes = Vec::new();
            file.take(MAX_LEN).read_to_end(&mut bytes).ok()?;
            let records = decode(&bytes, seal.sealed().records(table))?;
            let mut tally = Tally::default();
            for (record, value) in &records {
                if Table::of(record) != Some(table) || !tally.add(record, value) {
                    return None;
                }
            }
            if !seal.proves_table(&tally, table) {
                return None;
            }
            all.extend(records);
        }
        Some(Self(all))
    }

    /// The value of a record of a small table.
    pub(super) fn get(&self, record: &[u8]) -> Option<&[u8]> {
        self.0.get(record).map(Vec::as_slice)
    }

    /// The records of a small table after the full key `after`, keys without the table prefix.
    pub(super) fn after(&self, table: Table, after: Option<&[u8]>) -> Vec<Record> {
        let prefix = [table.prefix()];
        let from = after.map_or(Bound::Included(&prefix[..]), Bound::Excluded);
        let records = self.0.range::<[u8], _>((from, Bound::Unbounded));
        let records = records.take_while(|(record, _)| record.starts_with(&prefix));
        records.map(|(record, value)| (record[prefix.len()..].to_vec(), value.clone())).collect()
    }
}

/// Replaces the copy of a table. `records` are all of its records, with full keys.
pub(super) fn write(store: &Path, table: Table, records: &[Record]) -> io::Result<()> {
    let folder = folder::start(store);
    if !folder.is_dir() {
        DirBuilder::new().mode(0o700).create(&folder)?;
    }
    folder::replace_unsynced(&folder.join(table.name()), &encode(records))
}

/// For each record the lengths of key and value, then both.
fn encode(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(records.iter().map(|(record, value)| 16 + record.len() + value.len()).sum());
    for (record, value) in records {
        for part in [record, value] {
            bytes.extend((part.len() as u64).to_be_bytes());
            bytes.extend(part);
        }
    }
    bytes
}

/// `None` if these are not `count` records.
fn decode(mut bytes: &[u8], count: u64) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        if records.len() as u64 == count {
            return None;
        }
        records.push((take_part(&mut bytes)?, take_part(&mut bytes)?));
    }
    Some(records)
}

fn take_part(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (part, rest) = rest.split_at_checked(usize::try_from(u64::from_be_bytes(*len)).ok()?)?;
    *bytes = rest;
    Some(part.to_vec())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn sealed(store: &Path) -> Seal {
        Seal::open(store).unwrap().unwrap()
    }

    /// A store whose copies contain `records`, and whose seal knows them.
    fn prepare(store: &Path, records: &[(Table, &[u8], &[u8])]) -> Tally {
        let mut tally = Tally::default();
        for table in Table::ALL.into_iter().filter(|table| table.is_small()) {
            let own = records.iter().filter(|(of, ..)| *of == table);
            let own: Vec<Record> = own.map(|(_, key, value)| (table.record(key), value.to_vec())).collect();
            assert!(own.iter().all(|(record, value)| tally.add(record, value)));
            write(store, table, &own).unwrap();
        }
        Seal::create(store, &tally).unwrap();
        tally
    }

    const RECORDS: [(Table, &[u8], &[u8]); 4] = [
        (Table::Keys, b"ring", b"1"),
        (Table::History, b"a", b""),
        (Table::History, b"b", b"2"),
        (Table::Clock, b"last", b"90"),
    ];

    #[test]
    fn copies_that_the_seal_proves_are_read() {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path(), &RECORDS);
        let records = StartRecords::read(folder.path(), &sealed(folder.path())).unwrap();
        assert_eq!(records.get(&Table::Keys.record(b"ring")), Some(&b"1"[..]));
        assert_eq!(records.get(&Table::Keys.record(b"none")), None);
        let all = records.after(Table::History, None);
        assert_eq!(all, [(b"a".to_vec(), b"".to_vec()), (b"b".to_vec(), b"2".to_vec())]);
        assert_eq!(records.after(Table::History, Some(&Table::History.record(b"a"))), all[1..]);
        assert!(records.after(Table::Blocks, None).is_empty());
    }

    #[test]
    fn copy_that_is_missing_damaged_or_old_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        prepare(path, &RECORDS);
        for table in Table::ALL.into_iter().filter(|table| table.is_small()) {
            let file = folder::start(path).join(table.name());
            let whole = fs::read(&file).unwrap();
            fs::remove_file(&file).unwrap();
            assert!(StartRecords::read(path, &sealed(path)).is_none(), "{table:?}");
            for damaged in [[&whole[..], b"\0"].concat(), [0; 16].to_vec(), [0xff; 16].to_vec()] {
                fs::write(&file, damaged).unwrap();
                assert!(StartRecords::read(path, &sealed(path)).is_none(), "{table:?}");
            }
            write(path, table, &[(Table::Keys.record(b"of no table"), vec![])]).unwrap();
            assert!(StartRecords::read(path, &sealed(path)).is_none(), "{table:?}");
            fs::write(&file, whole).unwrap();
        }
        assert!(StartRecords::read(path, &sealed(path)).is_some());
    }

    /// It would not fit in memory.
    #[test]
    fn copy_of_any_length_takes_little_memory() {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path(), &RECORDS);
        let copy = File::options().write(true).open(folder::start(folder.path()).join(Table::Keys.name())).unwrap();
        copy.set_len(1 << 40).unwrap();
        assert!(StartRecords::read(folder.path(), &sealed(folder.path())).is_none());
    }

    /// After a crash in the middle of a batch it is open which of the two states the database has.
    #[test]
    fn copy_of_a_table_whose_last_batch_may_be_missing_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let before = prepare(folder.path(), &RECORDS);
        let mut after = before.clone();
        assert!(after.add(&Table::Tokens.record(b"t"), b"1"));
        sealed(folder.path()).announce(&before, &after).unwrap();
        assert!(StartRecords::read(folder.path(), &sealed(folder.path())).is_some(), "only the ledger is uncertain");
        let mut later = after.clone();
        assert!(later.add(&Table::Blocks.record(b"b"), b"1"));
        let mut seal = sealed(folder.path());
        seal.announce(&after, &later).unwrap();
        for blocks in [vec![], vec![(Table::Blocks.record(b"b"), b"1".to_vec())]] {
            write(folder.path(), Table::Blocks, &blocks).unwrap();
            assert!(StartRecords::read(folder.path(), &sealed(folder.path())).is_none());
        }
        seal.confirm().unwrap();
        assert!(StartRecords::read(folder.path(), &sealed(folder.path())).is_some());
    }
}
