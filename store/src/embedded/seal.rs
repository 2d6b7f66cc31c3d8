//! The seal, a checksum of all records: reveals lost, foreign and rolled-back records, which sled does not detect.
//!
//! Before a batch is written, the seal announces the tally of all records before and after it, and is synced. If the
//! power fails at any moment, the records found must match one of the two; anything else is damage. Once the batch is
//! durable the seal notes that too, and from then on the records of before count as damage: otherwise a truncated sled
//! file would look like a batch that was never written.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use super::table::Table;
use crate::folder;

/// The number of counters, indexed by a record's first byte; some are for future tables.
const PLACES: usize = 16;
const COUNT_LEN: usize = 8 + 16;
const TALLY_LEN: usize = PLACES * COUNT_LEN;
const MAGIC: &[u8; 8] = b"WRITSEAL";
const SLOT_LEN: usize = MAGIC.len() + 8 + 2 * TALLY_LEN + SHA256_OUTPUT_LEN;
/// Each slot has a page of its own, so that a torn write of one leaves the others intact.
const SLOT_SPACING: usize = 4096;
/// The first two slots hold the announcements, alternately; the third holds the last one that is known to be durable.
const CONFIRMED: usize = 2;

/// For each table the number of records and the wrapping sum of their hashes: updated record by record, in any order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tally([Count; PLACES]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Count {
    records: u64,
    sum: u128,
}

/// The file with the last two announcements.
#[derive(Debug)]
pub(super) struct Seal {
    file: File,
    newest: Slot,
    /// The slot of `newest`: 0 or 1.
    place: usize,
    /// Whether its batch is known to be durable.
    is_confirmed: bool,
}

/// One announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    sequence: u64,
    before: Tally,
    after: Tally,
}

impl Tally {
    /// Adds a record; `false` if it belongs to no table.
    #[must_use]
    pub(super) fn add(&mut self, record: &[u8], value: &[u8]) -> bool {
        self.count(record, |count| {
            count.records = count.records.wrapping_add(1);
            count.sum = count.sum.wrapping_add(hash(record, value));
        })
    }

    /// Subtracts a record; `false` if it belongs to no table.
    #[must_use]
    pub(super) fn remove(&mut self, record: &[u8], value: &[u8]) -> bool {
        self.count(record, |count| {
            count.records = count.records.wrapping_sub(1);
            count.sum = count.sum.wrapping_sub(hash(record, value));
        })
    }

    /// The number of records in a table.
    pub(super) fn records(&self, table: Table) -> u64 {
        self.of(table).records
    }

    fn of(&self, table: Table) -> Count {
        self.0[usize::from(table.prefix())]
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn count(&mut self, record: &[u8], change: impl FnOnce(&mut Count)) -> bool {
        let Some(table) = Table::of(record) else { return false };
        change(&mut self.0[usize::from(table.prefix())]);
        true
    }

    pub(super) fn write_to(&self, bytes: &mut Vec<u8>) {
        for count in &self.0 {
            bytes.extend(count.records.to_be_bytes());
            bytes.extend(count.sum.to_be_bytes());
        }
    }

    pub(super) fn read_from(bytes: &mut &[u8]) -> Option<Self> {
        let mut tally = Self::default();
        for count in &mut tally.0 {
            count.records = u64::from_be_bytes(take(bytes)?);
            count.sum = u128::from_be_bytes(take(bytes)?);
        }
        Some(tally)
    }
}

fn hash(record: &[u8], value: &[u8]) -> u128 {
    let length = |part: &[u8]| (part.len() as u64).to_be_bytes();
    let text = [&length(record), record, &length(value), value].concat();
    let hash = digest(&SHA256, &text);
    u128::from_be_bytes(take(&mut hash.as_ref()).expect("SHA-256 has 32 bytes"))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

impl Seal {
    /// Creates the seal of a store with these records, atomically and durably.
    pub(super) fn create(path: &Path, held: &Tally) -> io::Result<Self> {
        let slot = |sequence| Slot { sequence, before: held.clone(), after: held.clone() };
        let mut bytes = slot(1).to_bytes();
        bytes.resize(SLOT_SPACING, 0);
        bytes.extend(slot(2).to_bytes());
        bytes.resize(3 * SLOT_SPACING, 0);
        let file_path = folder::seal(path);
        folder::write_file(&file_path, &bytes)?;
        Ok(Self { file: open(&file_path)?, newest: slot(2), place: 1, is_confirmed: true })
    }

    /// Opens the seal of a store; `None` if there is no file. An invalid file is an error of kind `InvalidData`.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match open(&folder::seal(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let [first, second] = [read_slot(&file, 0)?, read_slot(&file, 1)?];
        // A torn slot means that the power failed while the *next* batch was announced: the previous one was complete.
        let other_torn = first.is_none() || second.is_none();
        let (newest, place) = match (first, second) {
            (Some(first), Some(second)) if first.sequence > second.sequence => (first, 0),
            (_, Some(second)) => (second, 1),
            (Some(first), None) => (first, 0),
            (None, None) => return Err(io::ErrorKind::InvalidData.into()),
        };
        let noted = read_slot(&file, CONFIRMED)?.is_some_and(|slot| slot.sequence == newest.sequence);
        Ok(Some(Self { file, newest, place, is_confirmed: other_torn || noted }))
    }

    /// The content of the file, synced to the disk first; `None` if there is no file.
    pub(super) fn content(path: &Path) -> io::Result<Option<Vec<u8>>> {
        let file_path = folder::seal(path);
        match File::open(&file_path).and_then(|file| file.sync_all()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            synced => synced.and_then(|()| std::fs::read(&file_path)).map(Some),
        }
    }

    /// Whether `found` is the tally of the records that were last sealed.
    pub(super) fn matches(&self, found: &Tally) -> bool {
        *found == self.newest.after || (!self.is_confirmed && *found == self.newest.before)
    }

    /// As [`matches`](Self::matches), for one table.
    pub(super) fn matches_table(&self, found: &Tally, table: Table) -> bool {
        let sealed = |tally: &Tally| tally.of(table) == found.of(table);
        sealed(&self.newest.after) || (!self.is_confirmed && sealed(&self.newest.before))
    }

    /// Whether `found` is the only tally that the table can have: no batch that changed it may be missing.
    pub(super) fn proves_table(&self, found: &Tally, table: Table) -> bool {
        let Slot { before, after, .. } = &self.newest;
        found.of(table) == after.of(table) && (self.is_confirmed || before.of(table) == after.of(table))
    }

    /// The tally that the records should have.
    pub(super) fn sealed(&self) -> &Tally {
        &self.newest.after
    }

    /// Announces a batch; durable on return, before any of the batch is written.
    pub(super) fn announce(&mut self, before: &Tally, after: &Tally) -> io::Result<()> {
        let next =
            Slot { sequence: self.newest.sequence.wrapping_add(1), before: before.clone(), after: after.clone() };
        let place = 1 - self.place;
        self.write(&next, place)?;
        self.file.sync_data()?;
        self.newest = next;
        self.place = place;
        self.is_confirmed = false;
        Ok(())
    }

    /// Records that the announced batch is durable.
    ///
    /// Not synced: it only tightens the next check, and the next announcement syncs it.
    pub(super) fn confirm(&mut self) -> io::Result<()> {
        self.write(&self.newest, CONFIRMED)?;
        self.is_confirmed = true;
        Ok(())
    }

    fn write(&self, slot: &Slot, place: usize) -> io::Result<()> {
        self.file.write_all_at(&slot.to_bytes(), (place * SLOT_SPACING) as u64)
    }

    /// Rewrites both announcement slots: no batch is in progress, and no torn or unsynced announcement remains.
    pub(super) fn settle(&mut self, found: &Tally) -> io::Result<()> {
        self.announce(found, found)?;
        self.announce(found, found)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn read_slot(file: &File, place: usize) -> io::Result<Option<Slot>> {
    let mut bytes = [0; SLOT_LEN];
    match file.read_exact_at(&mut bytes, (place * SLOT_SPACING) as u64) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        read => read.map(|()| Slot::from_bytes(&bytes)),
    }
}

impl Slot {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SLOT_SPACING);
        bytes.extend(MAGIC);
        bytes.extend(self.sequence.to_be_bytes());
        self.before.write_to(&mut bytes);
        self.after.write_to(&mut bytes);
        let checksum = digest(&SHA256, &bytes);
        bytes.extend(checksum.as_ref());
        bytes
    }

    /// The announcement, if it is whole.
    fn from_bytes(bytes: &[u8; SLOT_LEN]) -> Option<Self> {
        let (mut body, checksum) = bytes.split_at(SLOT_LEN - SHA256_OUTPUT_LEN);
        if digest(&SHA256, body).as_ref() != checksum || take(&mut body)? != *MAGIC {
            return None;
        }
        Some(Self {
            sequence: u64::from_be_bytes(take(&mut body)?),
            before: Tally::read_from(&mut body)?,
            after: Tally::read_from(&mut body)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(records: &[(&[u8], &[u8])]) -> Tally {
        let mut tally = Tally::default();
        for (record, value) in records {
            assert!(tally.add(record, value));
        }
        tally
    }

    fn reopened(path: &Path) -> Seal {
        Seal::open(path).unwrap().unwrap()
    }

    fn flip(path: &Path, at: u64) {
        let file = open(&folder::seal(path)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }

    #[test]
    fn tally_knows_records_and_not_their_order() {
        let both = tally(&[(b"\x01a", b"1"), (b"\x02b", b"2")]);
        assert_eq!(both, tally(&[(b"\x02b", b"2"), (b"\x01a", b"1")]));
        assert_ne!(both, tally(&[(b"\x01a", b"2"), (b"\x02b", b"1")]));
        assert_ne!(tally(&[(b"\x01a", b"b1")]), tally(&[(b"\x01ab", b"1")]));
        assert_eq!(both.records(Table::Keys), 1);
    }

    #[test]
    fn what_is_counted_out_leaves_no_trace() {
        let mut tally = tally(&[(b"\x01a", b"1")]);
        assert!(!tally.is_empty());
        assert!(tally.remove(b"\x01a", b"1"));
        assert!(tally.is_empty());
    }

    #[test]
    fn record_of_no_table_is_not_counted() {
        assert!(!Tally::default().add(b"\x09a", b"1"));
        assert!(!Tally::default().add(b"", b"1"));
    }

    #[test]
    fn announced_batch_may_have_been_written_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let [before, after, other] = [&b"1"[..], b"2", b"3"].map(|value| tally(&[(b"\x01a", value)]));
        let mut seal = Seal::create(folder.path(), &Tally::default()).unwrap();
        assert!(seal.matches(&Tally::default()) && !seal.matches(&before));
        seal.announce(&Tally::default(), &before).unwrap();
        seal.announce(&before, &after).unwrap();
        for seal in [seal, reopened(folder.path())] {
            assert!(seal.matches(&before) && seal.matches(&after));
            assert!(!seal.matches(&other) && !seal.matches(&Tally::default()));
            assert_eq!(*seal.sealed(), after);
        }
    }

    #[test]
    fn batch_that_was_carried_out_cannot_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        let [before, after] = [&b"1"[..], b"2"].map(|value| tally(&[(b"\x01a", value)]));
        let mut seal = Seal::create(folder.path(), &Tally::default()).unwrap();
        seal.announce(&Tally::default(), &before).unwrap();
        seal.confirm().unwrap();
        for seal in [seal, reopened(folder.path())] {
            assert!(seal.matches(&before) && !seal.matches(&Tally::default()));
        }
        let mut seal = reopened(folder.path());
        seal.announce(&before, &after).unwrap();
        let seal = reopened(folder.path());
        assert!(seal.matches(&before) && seal.matches(&after));
    }

    #[test]
    fn torn_announcement_leaves_the_one_before_it_complete() {
        let folder = tempfile::tempdir().unwrap();
        let [before, after] = [&b"1"[..], b"2"].map(|value| tally(&[(b"\x01a", value)]));
        let mut seal = Seal::create(folder.path(), &Tally::default()).unwrap();
        seal.announce(&Tally::default(), &before).unwrap();
        seal.announce(&before, &after).unwrap();
        let place = seal.place;
        flip(folder.path(), (place * SLOT_SPACING + 100) as u64);
        let mut seal = reopened(folder.path());
        assert!(seal.matches(&before) && !seal.matches(&after) && !seal.matches(&Tally::default()));
        seal.settle(&before).unwrap();
        flip(folder.path(), 100);
        assert!(reopened(folder.path()).matches(&before));
    }

    #[test]
    fn seal_with_no_whole_slot_is_invalid_data() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Seal::open(folder.path()).unwrap().is_none());
        drop(Seal::create(folder.path(), &Tally::default()).unwrap());
        flip(folder.path(), 0);
        flip(folder.path(), (SLOT_SPACING + SLOT_LEN - 1) as u64);
        assert_eq!(Seal::open(folder.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        std::fs::write(folder::seal(folder.path()), b"").unwrap();
        assert_eq!(Seal::open(folder.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
