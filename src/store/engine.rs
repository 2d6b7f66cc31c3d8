//! sled under the seal: opens it only if its records are those that were sealed, and writes batches that last.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::{Bound, Deref};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use super::folder::{self, io_error};
use super::quiet::quietly;
use super::seal::{Seal, Tally};
use super::{Change, OpenError, Table};

/// The layout of the records.
pub(super) const VERSION: &str = "1";
const VERSION_KEY: &[u8] = b"version";
const CACHE_LEN: u64 = 32 << 20;
const PAGE_RECORDS: usize = 512;
/// How long a flush may take before the disk counts as gone.
const FLUSH_PATIENCE: Duration = Duration::from_secs(30);
const FLUSH_CHECK: Duration = Duration::from_millis(250);
/// How long sled may take to end.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// How often sled looks for parts of its file that are worth freeing. Without, a file part stays for the sake of a single
/// old record, and the file grows by all that is ever written. What this thread flushes early has been sealed before.
const CLEAN_EVERY_MS: u64 = 100;

/// Full names and new values; `None` removes.
pub(super) type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;
/// Keys without their table, and values.
pub(super) type Page = Vec<(Vec<u8>, Vec<u8>)>;

/// What is expected of the records that are found.
#[derive(Debug, Clone)]
pub(super) enum Start {
    /// They are those that were sealed, or there never were any.
    AsSealed,
    /// There are none; they begin with these.
    AfterRepair(Change),
}

/// sled or the disk did not do what it was asked to. For the log.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct Fault(String);

/// An open database whose records are durable and sealed.
///
/// After a [`Fault`] its state is not known: it must be closed and opened anew, and till then only be read.
pub(super) struct Engine {
    db: Database,
    /// The same file as sled's, for the sync that sled leaves out.
    file: File,
    flusher: Flusher,
    seal: Seal,
    tally: Tally,
    /// What the batch under way replaces. After a fault this is still what is acknowledged.
    under_way: Writes,
}

impl Engine {
    /// Opens the database; the caller holds the lock.
    pub(super) fn open(path: &Path, start: Start) -> Result<Self, OpenError> {
        let first_records = match start {
            Start::AsSealed => None,
            Start::AfterRepair(change) => Some(change.writes),
        };
        let mut seal = open_seal(path, first_records.is_some())?;
        let db = open_sled(path)?;
        let tally = count(path, &db)?;
        if !seal.matches(&tally) {
            return Err(damaged(path, difference(&tally, seal.sealed())));
        }
        seal.settle(&tally).map_err(|source| io_error(&folder::seal(path), source))?;
        let file = File::open(folder::database(path)).map_err(|source| io_error(path, source))?;
        let flusher = Flusher::start().map_err(|source| io_error(path, source))?;
        let mut engine = Self { db, file, flusher, seal, tally, under_way: Writes::new() };
        if engine.tally.is_empty() {
            engine.begin(path, first_records)?;
        } else if first_records.is_some() {
            return Err(damaged(path, "there are records already"));
        }
        Ok(engine)
    }

    /// The first batch of a new store.
    fn begin(&mut self, path: &Path, first_records: Option<Writes>) -> Result<(), OpenError> {
        if first_records.is_none() {
            refuse_key_files(path)?;
        }
        let mut writes = first_records.unwrap_or_default();
        writes.insert(Table::Meta.record(VERSION_KEY), Some(VERSION.into()));
        self.commit(&writes).map_err(|fault| io_error(path, io::Error::other(fault)))
    }

    /// The durable value of a record by its full name.
    pub(super) fn read(&self, record: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        match self.under_way.get(record) {
            Some(acknowledged) => Ok(acknowledged.clone()),
            None => Ok(attempt(|| self.db.get(record))?.map(|value| value.to_vec())),
        }
    }

    /// The next records of a table.
    pub(super) fn page(&self, table: Table, after: Option<&[u8]>) -> Result<Page, Fault> {
        let prefix = [table.prefix()];
        let from = after.map_or(Bound::Included(&prefix[..]), Bound::Excluded);
        attempt(|| {
            self.db
                .range::<&[u8], _>((from, Bound::Unbounded))
                .take_while(|record| record.as_ref().map_or(true, |(name, _)| name.starts_with(&prefix)))
                .take(PAGE_RECORDS)
                .map(|record| record.map(|(name, value)| (name[prefix.len()..].to_vec(), value.to_vec())))
                .collect()
        })
    }

    /// Writes all or nothing, sealed and durable.
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
        // sled's flush hands the data to the disk; it asks neither for the disk's cache nor for the file's length.
        self.file.sync_data().map_err(|error| Fault(format!("db: {error}")))
    }
}

/// A thread that flushes sled, because a flush may hang: in one place sled forgets to wake who waits when a write fails.
struct Flusher {
    requests: Sender<sled::Db>,
    outcomes: Receiver<Result<(), Fault>>,
}

impl Flusher {
    fn start() -> io::Result<Self> {
        let (requests, requested) = mpsc::channel::<sled::Db>();
        let (done, outcomes) = mpsc::channel();
        thread::Builder::new().name("store-flush".to_owned()).spawn(move || {
            for db in requested {
                let outcome = attempt(|| db.flush()).map(drop);
                // Before the answer, so that whoever asked can close the database.
                drop(db);
                if done.send(outcome).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { requests, outcomes })
    }

    fn flush(&self, db: &sled::Db) -> Result<(), Fault> {
        let gone = || Fault("the thread that flushes is gone".to_owned());
        self.requests.send(db.clone()).map_err(|_| gone())?;
        let deadline = Instant::now() + FLUSH_PATIENCE;
        loop {
            match self.outcomes.recv_timeout(FLUSH_CHECK) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
                Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                    return Err(Fault("the disk does not answer".to_owned()));
                }
                // With an error on record a second flush returns at once, and wakes the first.
                Err(RecvTimeoutError::Timeout) if db.context.global_error().is_err() => {
                    let _ = attempt(|| db.flush());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// sled, with an end that neither panics nor hangs, as sled's own does when one of its threads has panicked.
///
/// What it has to say at its end does not matter: all that was acknowledged is durable.
pub(super) struct Database(Option<sled::Db>);

impl Deref for Database {
    type Target = sled::Db;

    fn deref(&self) -> &sled::Db {
        self.0.as_ref().expect("only dropping takes it away")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let db = self.0.take();
        let (done, ended) = mpsc::channel();
        let spawned = thread::Builder::new().name("store-close".to_owned()).spawn(move || {
            let _ = quietly(move || drop(db));
            let _ = done.send(());
        });
        if spawned.is_ok() {
            let _ = ended.recv_timeout(CLOSE_PATIENCE);
        }
    }
}

/// sled without its seal; may change its files, as every opening by sled does.
pub(super) fn open_sled(path: &Path) -> Result<Database, OpenError> {
    forget_cached(path).map_err(|source| io_error(path, source))?;
    let config = sled::Config::new().path(path).cache_capacity(CACHE_LEN).flush_every_ms(Some(CLEAN_EVERY_MS));
    let db = match quietly(|| config.open()) {
        Ok(Ok(db)) => Database(Some(db)),
        Ok(Err(error)) => return Err(open_error(path, error)),
        Err(panic) => return Err(damaged(path, panic)),
    };
    folder::tighten(path).map_err(|source| io_error(path, source))?;
    Ok(db)
}

/// After a failed write the system may still show what never reached the disk.
fn forget_cached(path: &Path) -> io::Result<()> {
    match File::open(folder::database(path)) {
        Ok(file) => Ok(fadvise(file, 0, None, Advice::DontNeed)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn open_error(path: &Path, error: sled::Error) -> OpenError {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        // sled tells this by its text alone.
        sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => {
            OpenError::Locked { path: path.to_owned(), pid: None }
        }
        sled::Error::Io(error) if !matches!(error.kind(), InvalidData | UnexpectedEof) => io_error(path, error),
        error => damaged(path, error.to_string()),
    }
}

/// What all records add up to; refuses records of another version.
pub(super) fn count(path: &Path, db: &sled::Db) -> Result<Tally, OpenError> {
    let unreadable = |fault: Fault| damaged(path, fault.to_string());
    let version = attempt(|| db.get(Table::Meta.record(VERSION_KEY))).map_err(unreadable)?;
    if let Some(found) = version.filter(|found| found != VERSION.as_bytes()) {
        return Err(OpenError::Version { path: path.to_owned(), found: String::from_utf8_lossy(&found).into_owned() });
    }
    let (tally, fault) = count_readable(db);
    fault.map_or(Ok(tally), |fault| Err(unreadable(fault)))
}

/// What the records add up to as far as they can be read, and why not further.
pub(super) fn count_readable(db: &sled::Db) -> (Tally, Option<Fault>) {
    let mut tally = Tally::default();
    let counted = attempt(|| {
        for record in db.iter() {
            let (name, value) = record?;
            if !tally.add(&name, &value) {
                return Ok(Some(Fault("a record of no table".to_owned())));
            }
        }
        Ok(None)
    });
    (tally, counted.unwrap_or_else(Some))
}

fn open_seal(path: &Path, after_repair: bool) -> Result<Seal, OpenError> {
    let at_seal = |source| io_error(&folder::seal(path), source);
    match Seal::open(path) {
        Ok(Some(seal)) if !folder::database(path).exists() && !seal.matches(&Tally::default()) => {
            Err(damaged(path, "its records are missing"))
        }
        Ok(Some(seal)) => Ok(seal),
        Ok(None) => {
            if !folder::engine_files(path).map_err(|source| io_error(path, source))?.is_empty() {
                return Err(damaged(path, "its seal is missing"));
            }
            if !after_repair {
                refuse_key_files(path)?;
            }
            Seal::create(path).map_err(at_seal)
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

pub(super) fn damaged(path: &Path, what: impl Into<String>) -> OpenError {
    OpenError::Damaged { path: path.to_owned(), what: what.into() }
}

fn attempt<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, Fault> {
    match quietly(work) {
        Ok(outcome) => outcome.map_err(|error| Fault(error.to_string())),
        Err(panic) => Err(Fault(panic)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        folder
    }

    fn open(path: &Path) -> Result<Engine, OpenError> {
        folder::prepare(path).unwrap();
        Engine::open(path, Start::AsSealed)
    }

    fn writes<const N: usize>(records: [(&[u8], Option<&[u8]>); N]) -> Writes {
        records.map(|(key, value)| (Table::Uses.record(key), value.map(<[u8]>::to_vec))).into()
    }

    fn value(engine: &Engine, key: &[u8]) -> Option<Vec<u8>> {
        engine.read(&Table::Uses.record(key)).unwrap()
    }

    #[test]
    fn crash_between_seal_and_batch_is_no_damage() {
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
            let engine = open(folder.path()).unwrap();
            engine.db.insert(foreign, b"1").unwrap();
            drop(engine);
            assert!(matches!(open(folder.path()), Err(OpenError::Damaged { .. })));
            open_sled(folder.path()).unwrap().remove(foreign).unwrap();
        }
        open(folder.path()).unwrap();
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
        // The thread that flushes is gone: the batch is in memory, but not on the disk.
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
