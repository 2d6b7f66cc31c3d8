//! sled with the seal: opens only if the records are the sealed ones, and makes each batch durable.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::database::{self, Database, Fault, Flusher, attempt, damaged};
use super::seal::{Seal, Tally};
use super::start_records::{self, StartRecords};
use super::table::{Record, Table, Writes};
use super::working_copy::{self, Source, WorkingCopy};
use crate::OpenError;
use crate::folder::{self, io_error};

/// The version of the record layout.
pub(crate) const VERSION: &str = "1";
pub(super) const VERSION_KEY: &[u8] = b"version";
const PAGE_RECORDS: usize = 512;
/// sled evicts pages only after 64 accesses to each of 256 parts of its cache. Reading every few records of a page once
/// more makes these accesses to few pages: otherwise some ten thousand pages stay in memory after all were read.
const TOUCH_EVERY: usize = 4;
/// From this number of records of the ledger on, a service starts before the database is open. Fewer are read in less
/// than a tenth of a second.
const LARGE_LEDGER: u64 = 10_000;
/// Records of one table, keys without the table prefix.
pub(super) type Page = Vec<Record>;

/// An open database whose records are durable and sealed.
///
/// After a [`Fault`] its state is unknown: it may only be read until it is closed and reopened.
pub(crate) struct Engine {
    path: PathBuf,
    db: Database,
    /// sled's file `db`, for the `fdatasync` that sled omits.
    file: File,
    flusher: Flusher,
    seal: Seal,
    tally: Tally,
    /// The values that the current batch replaces; after a fault they are still the acknowledged ones.
    under_way: Writes,
    /// Dropped last: it may remove the files that sled has open.
    copy: WorkingCopy,
}

/// A store whose seal has been read, and whose database is not yet open.
pub(super) struct Opening {
    path: PathBuf,
    seal: Seal,
    /// Nothing in it was ever acknowledged.
    is_new: bool,
}

impl Opening {
    /// Reads the seal; the caller holds the lock.
    pub(super) fn begin(path: &Path) -> Result<Self, OpenError> {
        working_copy::clean_up(path)?;
        working_copy::probe(path)?;
        let seal = open_seal(path)?;
        // Left by a first start that was interrupted: nothing in it was acknowledged.
        let is_new = seal.matches(&Tally::default());
        if is_new {
            refuse_key_files(path)?;
        }
        Ok(Self { path: path.to_owned(), seal, is_new })
    }

    /// The number of records in a table when it was last sealed.
    pub(super) fn sealed(&self, table: Table) -> u64 {
        self.seal.sealed().records(table)
    }

    /// The records of the small tables, if the database is so large that opening it takes a while and they are proven
    /// without it.
    pub(super) fn start_records(&self) -> Option<StartRecords> {
        let ledger = Table::ALL.into_iter().filter(|table| !table.is_small()).map(|table| self.sealed(table));
        if ledger.sum::<u64>() < LARGE_LEDGER {
            return None;
        }
        let records = StartRecords::read(&self.path, &self.seal)?;
        (records.get(&Table::Meta.record(VERSION_KEY)) == Some(VERSION.as_bytes())).then_some(records)
    }

    /// Opens the database and checks all of its records, unless `is_abandoned` becomes true meanwhile.
    ///
    /// The store's files change only with the first batch, or by [`Engine::keep`].
    pub(super) fn finish(self, is_abandoned: &AtomicBool) -> Result<Engine, OpenError> {
        let path = self.path.clone();
        self.open_copy(is_abandoned).map_err(|error| match error {
            // If the disk has filled up meanwhile, sled's error is arbitrary: report the disk.
            OpenError::Damaged { .. } => working_copy::probe(&path).err().unwrap_or(error),
            error => error,
        })
    }

    fn open_copy(self, is_abandoned: &AtomicBool) -> Result<Engine, OpenError> {
        let Self { path, seal, is_new } = self;
        let copy = WorkingCopy::make(&path, if is_new { Source::Nothing } else { Source::Everything })?;
        let db = database::open(&copy.folder(), &path)?;
        let tally = count(&path, &db, is_abandoned)?;
        if !seal.matches(&tally) {
            return Err(damaged(&path, difference(&tally, seal.sealed())));
        }
        let file = File::open(folder::database(&copy.folder())).map_err(|source| io_error(&path, source))?;
        let flusher = Flusher::start().map_err(|source| io_error(&path, source))?;
        let mut engine = Engine { path, db, file, flusher, seal, tally, under_way: Writes::new(), copy };
        if is_new {
            let version = (Table::Meta.record(VERSION_KEY), Some(VERSION.into()));
            let begun = engine.commit(&[version].into());
            begun.map_err(|fault| io_error(&engine.path, io::Error::other(fault)))?;
        }
        Ok(engine)
    }
}

impl Engine {
    /// Opens the database; the caller holds the lock. The store's files change only with the first batch, or by
    /// [`keep`](Self::keep).
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        Opening::begin(path)?.finish(&AtomicBool::new(false))
    }

    /// Replaces the store's files by the working copy.
    pub(super) fn keep(&mut self) -> Result<(), Fault> {
        if !self.copy.is_finished() {
            self.flusher.flush(&self.db)?;
            self.copy.finish(&self.tally).map_err(|error| Fault(format!("the opened copy: {error}")))?;
            self.seal.settle(&self.tally).map_err(|error| Fault(format!("seal: {error}")))?;
            Table::ALL.into_iter().filter(|table| table.is_small()).for_each(|table| self.copy_for_start(table));
        }
        Ok(())
    }

    /// Replaces the table's copy for the next start. An old copy costs that start time, and nothing else.
    fn copy_for_start(&self, table: Table) {
        let records = attempt(|| {
            let records = self.db.scan_prefix([table.prefix()]);
            records
                .map(|record| record.map(|(name, value)| (name.to_vec(), value.to_vec())))
                .collect::<sled::Result<_>>()
        });
        let copied = records.and_then(|records: Vec<Record>| {
            start_records::write(&self.path, table, &records).map_err(|error| Fault(error.to_string()))
        });
        if let Err(error) = copied {
            tracing::debug!(%error, table = table.name(), "the next start has to wait for the whole store");
        }
    }

    /// The durable value of a record; `record` includes the table prefix.
    pub(super) fn read(&self, record: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        match self.under_way.get(record) {
            Some(acknowledged) => Ok(acknowledged.clone()),
            None => Ok(attempt(|| self.db.get(record))?.map(|value| value.to_vec())),
        }
    }

    /// The number of records in a table; after a fault, of acknowledged ones.
    pub(super) fn records(&self, table: Table) -> u64 {
        self.tally.records(table)
    }

    /// As [`page`], of acknowledged records.
    pub(super) fn page(&self, table: Table, after: Option<&[u8]>) -> Result<Page, Fault> {
        page(&self.db, table, after)
    }

    /// The database, to be read while nothing is written.
    pub(super) fn database(&self) -> &sled::Db {
        &self.db
    }

    /// Writes all of `writes` or nothing. On return they are sealed and durable.
    pub(super) fn commit(&mut self, writes: &Writes) -> Result<(), Fault> {
        self.under_way.clear();
        for (record, new) in writes {
            let old = self.read(record)?;
            if old != *new {
                self.under_way.insert(record.clone(), old);
            }
        }
        if !self.under_way.is_empty() {
            let after = self.tally_after(writes)?;
            self.write(writes, &after)?;
            self.tally = after;
            let changed: BTreeSet<_> = self.under_way.keys().filter_map(|record| Table::of(record)).collect();
            changed.into_iter().filter(|table| table.is_small()).for_each(|table| self.copy_for_start(table));
            self.under_way.clear();
        }
        Ok(())
    }

    fn tally_after(&self, writes: &Writes) -> Result<Tally, Fault> {
        let mut after = self.tally.clone();
        for (record, old) in &self.under_way {
            let counted = old.as_ref().is_none_or(|old| after.remove(record, old))
                && writes[record].as_ref().is_none_or(|new| after.add(record, new));
            if !counted {
                return Err(Fault("a record of no table".to_owned()));
            }
        }
        Ok(after)
    }

    fn write(&mut self, writes: &Writes, after: &Tally) -> Result<(), Fault> {
        self.keep()?;
        let mut batch = sled::Batch::default();
        for record in self.under_way.keys() {
            match &writes[record] {
                Some(new) => batch.insert(record.as_slice(), new.as_slice()),
                None => batch.remove(record.as_slice()),
            }
        }
        self.seal.announce(&self.tally, after).map_err(|error| Fault(format!("seal: {error}")))?;
        attempt(|| self.db.apply_batch(batch))?;
        self.flusher.flush(&self.db)?;
        // sled's flush does not make the disk write its cache, nor the file system the file's length.
        self.file.sync_data().map_err(|error| Fault(format!("db: {error}")))?;
        self.seal.confirm().map_err(|error| Fault(format!("seal: {error}")))
    }
}

/// Up to [`PAGE_RECORDS`] records of a table, after the full key `after`.
pub(super) fn page(db: &sled::Db, table: Table, after: Option<&[u8]>) -> Result<Page, Fault> {
    let prefix = [table.prefix()];
    let from = after.map_or(Bound::Included(&prefix[..]), Bound::Excluded);
    attempt(|| {
        db.range::<&[u8], _>((from, Bound::Unbounded))
            .take_while(|record| record.as_ref().map_or(true, |(name, _)| name.starts_with(&prefix)))
            .take(PAGE_RECORDS)
            .map(|record| record.map(|(name, value)| (name[prefix.len()..].to_vec(), value.to_vec())))
            .collect()
    })
}

/// The tally of all records; an error if their layout version is another, or once `is_abandoned`.
pub(super) fn count(path: &Path, db: &sled::Db, is_abandoned: &AtomicBool) -> Result<Tally, OpenError> {
    let unreadable = |fault: Fault| damaged(path, fault.to_string());
    let version = attempt(|| db.get(Table::Meta.record(VERSION_KEY))).map_err(unreadable)?;
    if let Some(found) = version.filter(|found| found != VERSION.as_bytes()) {
        return Err(OpenError::Version { path: path.to_owned(), found: String::from_utf8_lossy(&found).into_owned() });
    }
    let mut tally = Tally::default();
    let counted = attempt(|| {
        for (number, record) in db.iter().enumerate() {
            let (name, value) = record?;
            if !tally.add(&name, &value) {
                return Ok(Err(damaged(path, "a record of no table")));
            }
            if number % TOUCH_EVERY == 0 {
                db.get(&name)?;
            }
            if is_abandoned.load(Ordering::Relaxed) {
                return Ok(Err(io_error(path, io::ErrorKind::Interrupted.into())));
            }
        }
        Ok(Ok(()))
    });
    counted.map_err(unreadable)??;
    Ok(tally)
}

fn open_seal(path: &Path) -> Result<Seal, OpenError> {
    let at_seal = |source| io_error(&folder::seal(path), source);
    let is_there = |file: PathBuf| file.try_exists().map_err(|source| io_error(path, source));
    match Seal::open(path) {
        Ok(Some(seal)) if !seal.matches(&Tally::default()) && !is_there(folder::database(path))? => {
            Err(damaged(path, "its records are missing"))
        }
        Ok(Some(seal)) => Ok(seal),
        Ok(None) => {
            if !folder::engine_files(path).map_err(|source| io_error(path, source))?.is_empty() {
                return Err(damaged(path, "its seal is missing"));
            }
            refuse_key_files(path)?;
            Seal::create(path, &Tally::default()).map_err(at_seal)
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(damaged(path, "its seal cannot be read")),
        Err(error) => Err(at_seal(error)),
    }
}

fn refuse_key_files(path: &Path) -> Result<(), OpenError> {
    if folder::has_key_files(path).map_err(|source| io_error(path, source))? {
        return Err(damaged(path, "there are key files, but no records"));
    }
    Ok(())
}

fn difference(found: &Tally, sealed: &Tally) -> String {
    let differing = Table::ALL.into_iter().find(|table| found.records(*table) != sealed.records(*table));
    match differing {
        Some(table) => {
            let (name, found, sealed) = (table.name(), found.records(table), sealed.records(table));
            format!("of {name} {found} records were found and {sealed} sealed")
        }
        None => "its records are not those that were sealed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc;

    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        folder
    }

    fn open(path: &Path) -> Result<Engine, OpenError> {
        folder::prepare(path).unwrap();
        Engine::open(path)
    }

    fn writes<const N: usize>(records: [(&[u8], Option<&[u8]>); N]) -> Writes {
        records.map(|(key, value)| (Table::Uses.record(key), value.map(<[u8]>::to_vec))).into()
    }

    fn value(engine: &Engine, key: &[u8]) -> Option<Vec<u8>> {
        engine.read(&Table::Uses.record(key)).unwrap()
    }

    #[test]
    fn crash_between_seal_and_batch_is_not_damage() {
        let folder = folder();
        let mut engine = open(folder.path()).unwrap();
        engine.commit(&writes([(b"a", Some(b"1"))])).unwrap();
        let mut announced = engine.tally.clone();
        assert!(announced.add(&Table::Uses.record(b"b"), b"2"));
        engine.seal.announce(&engine.tally, &announced).unwrap();
        drop(engine);
        let engine = open(folder.path()).unwrap();
        assert_eq!((value(&engine, b"a"), value(&engine, b"b")), (Some(b"1".to_vec()), None));
    }

    #[test]
    fn batch_that_was_sealed_long_ago_is_damage() {
        let folder = folder();
        let mut engine = open(folder.path()).unwrap();
        engine.commit(&writes([(b"a", Some(b"1"))])).unwrap();
        for _ in 0..2 {
            let later = engine.tally.clone();
            let mut announced = later.clone();
            assert!(announced.add(&Table::Uses.record(b"lost"), b"2"));
            engine.seal.announce(&announced, &announced).unwrap();
        }
        drop(engine);
        let refused = open(folder.path()).err().unwrap().to_string();
        assert!(refused.contains("of uses 1 records were found and 2 sealed; see `writ store repair`"), "{refused}");
    }

    #[test]
    fn record_that_never_went_through_the_seal_is_damage() {
        let folder = folder();
        for foreign in [&b"\x05x"[..], b"\x7fx"] {
            let mut engine = open(folder.path()).unwrap();
            engine.keep().unwrap();
            engine.db.insert(foreign, b"1").unwrap();
            drop(engine);
            assert!(matches!(open(folder.path()), Err(OpenError::Damaged { .. })));
            database::open(folder.path(), folder.path()).unwrap().remove(foreign).unwrap();
        }
        open(folder.path()).unwrap();
    }

    /// Nothing was acknowledged yet, so the files that are left have no meaning.
    #[test]
    fn first_start_that_was_cut_off_is_done_again() {
        let whole = folder();
        open(whole.path()).unwrap();
        let conf = fs::read(whole.path().join("conf")).unwrap();
        let states: [&[(&str, &[u8])]; 5] = [
            &[],
            &[("conf", b"")],
            &[("conf", &conf[..conf.len() / 2])],
            &[("conf", &conf), ("db", b"")],
            &[("conf", &[0; 62]), ("db", &[0; 4096]), ("snap.00000000000000FF", b"")],
        ];
        for (number, state) in states.into_iter().enumerate() {
            let folder = folder();
            folder::prepare(folder.path()).unwrap();
            Seal::create(folder.path(), &Tally::default()).unwrap();
            for (name, content) in state {
                fs::write(folder.path().join(name), content).unwrap();
            }
            let mut engine = open(folder.path()).unwrap_or_else(|error| panic!("state {number}: {error}"));
            engine.commit(&writes([(b"a", Some(b"1"))])).unwrap();
            drop(engine);
            assert_eq!(value(&open(folder.path()).unwrap(), b"a"), Some(b"1".to_vec()), "state {number}");
        }
    }

    #[test]
    fn other_version_is_refused_and_named() {
        let folder = folder();
        let mut engine = open(folder.path()).unwrap();
        engine.commit(&[(Table::Meta.record(VERSION_KEY), Some(b"2".to_vec()))].into()).unwrap();
        drop(engine);
        let refused = open(folder.path()).err().unwrap();
        assert!(matches!(&refused, OpenError::Version { found, .. } if found == "2"), "{refused}");
    }

    #[test]
    fn after_a_fault_the_acknowledged_value_is_read() {
        let folder = folder();
        let mut engine = open(folder.path()).unwrap();
        engine.commit(&writes([(b"a", Some(b"1"))])).unwrap();
        // The flush thread has ended: the batch is in memory, but not on the disk.
        let (requests, _) = mpsc::channel();
        let flusher = std::mem::replace(&mut engine.flusher, Flusher { requests, outcomes: mpsc::channel().1 });
        engine.commit(&writes([(b"a", None), (b"b", Some(b"2"))])).unwrap_err();
        drop(flusher);
        assert_eq!(engine.db.get(Table::Uses.record(b"a")).unwrap(), None);
        assert_eq!((value(&engine, b"a"), value(&engine, b"b")), (Some(b"1".to_vec()), None));
    }

    #[test]
    fn pages_follow_each_other_and_stop_at_the_table() {
        let folder = folder();
        let mut engine = open(folder.path()).unwrap();
        let name = |table: Table, number: usize| table.record(format!("{number:04}").as_bytes());
        let mut records: Writes =
            (0..PAGE_RECORDS + 3).map(|number| (name(Table::Tokens, number), Some(vec![]))).collect();
        records.insert(Table::Tokens.record(b""), Some(vec![1]));
        records.insert(name(Table::History, 9), Some(vec![]));
        records.insert(name(Table::Uses, 0), Some(vec![]));
        engine.commit(&records).unwrap();
        let first = engine.page(Table::Tokens, None).unwrap();
        assert_eq!((first.len(), &first[0].0), (PAGE_RECORDS, &vec![]));
        let last = Table::Tokens.record(&first[PAGE_RECORDS - 1].0);
        assert_eq!(engine.page(Table::Tokens, Some(&last)).unwrap().len(), 4);
        assert!(engine.page(Table::Tokens, Some(&name(Table::Tokens, PAGE_RECORDS + 2))).unwrap().is_empty());
        assert!(engine.page(Table::Blocks, None).unwrap().is_empty());
    }
}
