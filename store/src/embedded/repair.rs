//! The steps of `writ store repair`: read what is left, decide which of it can be kept, and replace the store by a new
//! one; or accept the records as they are.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use chrono::Utc;

use super::database::{self, Database, Fault, attempt, damaged};
use super::engine::{Page, VERSION, VERSION_KEY, count};
use super::marks;
use super::seal::{Seal, Tally};
use super::table::{Change, Record, Table};
use super::working_copy::{self, Source, WorkingCopy};
use crate::folder::{self, Lock, io_error};
use crate::{OpenError, Settings};

mod salvage;

pub use self::salvage::{Kept, Salvage};

/// The files to open sled with, tried in turn: any file besides that of the records may be the damaged one.
const SOURCES: [Source; 3] = [Source::Everything, Source::NoSnapshot, Source::Records];

/// How many records of a new store are written to sled at once.
const CHUNK: usize = 1000;

/// The readable records of a store that does not open.
#[derive(Debug, Default)]
pub struct Remains {
    tables: HashMap<Table, Found>,
    sealed: Option<Tally>,
}

/// The readable records of one table.
#[derive(Debug, Clone, Default)]
struct Found {
    records: Page,
    /// Their number and hashes match the seal: none is missing, altered, or older than the seal.
    is_complete: bool,
}

impl Remains {
    /// Whether the seal proves that the key ring is complete and unaltered.
    pub fn has_whole_ring(&self) -> bool {
        [Table::Meta, Table::Keys, Table::History, Table::Clock].into_iter().all(|table| self.is_complete(table))
    }

    /// Marks every table as incomplete, because the seal itself is out of date.
    #[must_use]
    pub fn without_proof(mut self) -> Self {
        for found in self.tables.values_mut() {
            found.is_complete = false;
        }
        self
    }

    /// The readable records of a table. Unless it is complete, some may be missing or outdated.
    fn records(&self, table: Table) -> &[Record] {
        self.tables.get(&table).map_or(&[], |found| &found.records)
    }

    /// Whether the seal proves that the table's records are all present and unaltered.
    fn is_complete(&self, table: Table) -> bool {
        self.tables.get(&table).is_some_and(|found| found.is_complete)
    }

    /// The number of records when the table was last sealed; `None` if the seal is lost.
    fn sealed(&self, table: Table) -> Option<u64> {
        Some(self.sealed.as_ref()?.records(table))
    }

    /// Keeps the better version of each table: the complete one, otherwise the one with more records.
    fn merge(&mut self, other: HashMap<Table, Found>) {
        for (table, found) in other {
            let known = self.tables.entry(table).or_default();
            if (found.is_complete, found.records.len()) > (known.is_complete, known.records.len()) {
                *known = found;
            }
        }
    }
}

/// Reads the readable records of a store that does not open. Its files are not changed.
///
/// # Errors
/// [`OpenError`] if the folder cannot be locked, or the disk has no space for a working copy. Damage is not an error.
pub fn survey(settings: &Settings) -> Result<Remains, OpenError> {
    let path = settings.path();
    let _lock = lock(path)?;
    let seal = match Seal::open(path) {
        // A damaged seal proves nothing. A disk that does not return it is no reason to distrust the records.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
        seal => seal.map_err(|source| io_error(&folder::seal(path), source))?,
    };
    let mut remains = Remains { sealed: seal.as_ref().map(|seal| seal.sealed().clone()), ..Remains::default() };
    // With its snapshot sled finds records behind a damaged place that it misses without, and vice versa.
    for source in SOURCES {
        if Table::ALL.into_iter().all(|table| remains.is_complete(table)) {
            break;
        }
        match open_found(path, source) {
            Ok(opened) => remains.merge(read_tables(&opened.db, seal.as_ref())),
            Err(OpenError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(remains)
}

/// Replaces the store by a new one with these records; the old files are moved to `<path>/damaged-<time>`.
///
/// Atomic: afterwards either the old store or the complete new one exists. Returns the folder of the old files; `None`
/// if there were none.
///
/// # Errors
/// [`OpenError`] if the store is in use or the file system refuses.
pub fn replace(settings: &Settings, salvage: &Salvage) -> Result<Option<PathBuf>, OpenError> {
    replace_records(settings, &salvage.change)
}

fn replace_records(settings: &Settings, records: &Change) -> Result<Option<PathBuf>, OpenError> {
    let path = settings.path();
    let _lock = lock(path)?;
    let copy = WorkingCopy::make(path, Source::Nothing)?;
    let db = database::open(&copy.folder(), path)?;
    let mut writes = records.writes.clone();
    writes.insert(Table::Meta.record(VERSION_KEY), Some(VERSION.into()));
    let records: Vec<_> = writes.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let written = write(&db, &records).map_err(|fault| io_error(path, io::Error::other(fault)))?;
    if count(path, &db, &AtomicBool::new(false))? != written {
        return Err(io_error(path, io::Error::other("the new store does not hold what was written to it")));
    }
    take_place(path, Opened { db, copy }, &written)
}

/// Seals the records as they are found. Returns the folder of the old files.
///
/// # Errors
/// [`OpenError`] if there are none, not all of them can be read, or they are of another version.
pub fn reseal(settings: &Settings) -> Result<Option<PathBuf>, OpenError> {
    let path = settings.path();
    let _lock = lock(path)?;
    let whole = |source| {
        let opened = open_found(path, source)?;
        let found = count(path, &opened.db, &AtomicBool::new(false))?;
        if found.is_empty() { Err(damaged(path, "there are no records")) } else { Ok((opened, found)) }
    };
    let mut outcome = whole(SOURCES[0]);
    for source in &SOURCES[1..] {
        if matches!(outcome, Err(OpenError::Damaged { .. })) {
            outcome = whole(*source);
        }
    }
    let (opened, found) = outcome?;
    take_place(path, opened, &found)
}

/// A database and its working copy. Field order matters: the database is closed first.
struct Opened {
    db: Database,
    copy: WorkingCopy,
}

fn lock(path: &Path) -> Result<Lock, OpenError> {
    folder::prepare(path)?;
    let lock = Lock::acquire(path)?;
    marks::check(path)?;
    working_copy::clean_up(path)?;
    working_copy::probe(path)?;
    Ok(lock)
}

/// Opens an existing database; never creates one.
fn open_found(path: &Path, source: Source) -> Result<Opened, OpenError> {
    if !folder::database(path).exists() {
        return Err(damaged(path, "there are no records"));
    }
    let copy = WorkingCopy::make(path, source)?;
    Ok(Opened { db: database::open(&copy.folder(), path)?, copy })
}

fn write(db: &sled::Db, records: &[(Vec<u8>, Vec<u8>)]) -> Result<Tally, Fault> {
    let mut tally = Tally::default();
    for chunk in records.chunks(CHUNK) {
        let mut batch = sled::Batch::default();
        for (name, value) in chunk {
            if !tally.add(name, value) {
                return Err(Fault("a record of no table".to_owned()));
            }
            batch.insert(name.as_slice(), value.as_slice());
        }
        attempt(|| db.apply_batch(batch))?;
    }
    attempt(|| db.flush())?;
    Ok(tally)
}

/// Seals the opened records and replaces the store by them.
fn take_place(path: &Path, opened: Opened, records: &Tally) -> Result<Option<PathBuf>, OpenError> {
    let Opened { db, mut copy } = opened;
    drop(db);
    Seal::create(&copy.folder(), records).map_err(|source| io_error(path, source))?;
    let aside = keep_aside(path)?;
    copy.finish(records).map_err(|source| io_error(path, source))?;
    Ok(aside)
}

/// Hard-links the store's files into `<path>/damaged-<time>`, so that they survive being replaced.
fn keep_aside(path: &Path) -> Result<Option<PathBuf>, OpenError> {
    let mut files = folder::engine_files(path).map_err(|source| io_error(path, source))?;
    files.extend(Some(folder::seal(path)).filter(|seal| seal.exists()));
    if files.is_empty() {
        return Ok(None);
    }
    let aside = path.join(format!("damaged-{}", Utc::now().format("%Y%m%dT%H%M%S%.3fZ")));
    let kept = DirBuilder::new().mode(0o700).create(&aside).and_then(|()| {
        for file in &files {
            let target = aside.join(file.file_name().unwrap_or_default());
            if !file.is_dir() {
                // Some file systems have no hard links.
                fs::hard_link(file, &target).or_else(|_| fs::copy(file, &target).map(drop))?;
            }
        }
        folder::sync_folder(&aside)?;
        folder::sync_folder(path)
    });
    kept.map_err(|source| io_error(&aside, source))?;
    Ok(Some(aside))
}

/// The readable records of each table, and whether they are complete.
fn read_tables(db: &sled::Db, seal: Option<&Seal>) -> HashMap<Table, Found> {
    let read = |table: Table| {
        let records = read_table(db, table);
        let mut tally = Tally::default();
        for (name, value) in &records {
            let _ = tally.add(name, value);
        }
        let is_complete = seal.is_some_and(|seal| seal.matches_table(&tally, table));
        let records = records.into_iter().map(|(name, value)| (name[1..].to_vec(), value)).collect();
        (table, Found { records, is_complete })
    };
    Table::ALL.into_iter().map(read).collect()
}

/// The records of a table, keys with table prefix. Unreadable ones are skipped, from both ends.
fn read_table(db: &sled::Db, table: Table) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    // The error is the damage that is being repaired.
    let forward = attempt(|| {
        for record in db.scan_prefix(table.record(&[])) {
            let (name, value) = record?;
            found.insert(name.to_vec(), value.to_vec());
        }
        Ok(())
    });
    if forward.is_err() {
        let _ = attempt(|| {
            for record in db.scan_prefix(table.record(&[])).rev() {
                let (name, value) = record?;
                if found.insert(name.to_vec(), value.to_vec()).is_some() {
                    break;
                }
            }
            Ok(())
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    fn settings(folder: &tempfile::TempDir) -> Settings {
        Settings::Sled { path: folder.path().join("store") }
    }

    async fn filled(settings: &Settings) {
        let store = Store::open(settings).await.unwrap();
        let change = Change::new().put(Table::Keys, b"k", "key").put(Table::Uses, b"u", "1");
        store.records().transact(|_| Ok((change, ()))).await.unwrap();
        folder::write_file(&store.key_folder().join("k.json"), b"{}").unwrap();
        store.close().await;
    }

    async fn damage(settings: &Settings) -> String {
        match Store::open(settings).await {
            Err(OpenError::Damaged { what, .. }) => what,
            opened => panic!("{opened:?}"),
        }
    }

    #[tokio::test]
    async fn every_part_that_is_missing_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        filled(&settings).await;
        let hidden = folder.path().join("hidden");
        for (part, complaint) in [("db", "its records are missing"), ("seal", "its seal is missing")] {
            fs::rename(settings.path().join(part), &hidden).unwrap();
            assert_eq!(damage(&settings).await, complaint);
            fs::rename(&hidden, settings.path().join(part)).unwrap();
        }
        Store::open(&settings).await.unwrap().close().await;
        for file in folder::engine_files(settings.path()).unwrap().into_iter().chain([folder::seal(settings.path())]) {
            if file.is_dir() { fs::remove_dir_all(file).unwrap() } else { fs::remove_file(file).unwrap() }
        }
        assert_eq!(damage(&settings).await, "there are key files, but no records");
    }

    #[tokio::test]
    async fn survey_reports_what_is_complete_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        filled(&settings).await;
        let state = |remains: &Remains| {
            (remains.records(Table::Uses).len(), remains.sealed(Table::Uses), remains.is_complete(Table::Uses))
        };
        assert_eq!(state(&survey(&settings).unwrap()), (1, Some(1), true));
        fs::rename(settings.path().join("db"), folder.path().join("hidden")).unwrap();
        assert_eq!(state(&survey(&settings).unwrap()), (0, Some(1), false));
        assert!(!settings.path().join("db").exists());
        fs::rename(folder.path().join("hidden"), settings.path().join("db")).unwrap();
        for lost in [&b""[..], b"garbled"] {
            fs::write(settings.path().join("seal"), lost).unwrap();
            assert_eq!(state(&survey(&settings).unwrap()), (1, None, false));
        }
    }

    #[tokio::test]
    async fn records_are_complete_even_if_other_files_are_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        filled(&settings).await;
        let conf = settings.path().join("conf");
        let whole = fs::read(&conf).unwrap();
        for garbled in [&b""[..], b"garbled, and no settings", &[0xff; 4096], &whole[..whole.len() / 2]] {
            fs::write(&conf, garbled).unwrap();
            fs::write(settings.path().join("snap.FFFFFFFFFFFFFFFF"), b"not a snapshot at all").unwrap();
            let remains = survey(&settings).unwrap();
            assert!(Table::ALL.into_iter().all(|table| remains.is_complete(table)), "{garbled:?}");
            assert_eq!(fs::read(&conf).unwrap(), garbled);
        }
    }

    #[tokio::test]
    async fn only_what_the_seal_proves_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        filled(&settings).await;
        let db = database::open(settings.path(), settings.path()).unwrap();
        db.insert(Table::Tokens.record(b"foreign"), b"1").unwrap();
        drop(db);
        let remains = survey(&settings).unwrap();
        let complete: Vec<_> = Table::ALL.into_iter().filter(|table| remains.is_complete(*table)).collect();
        assert_eq!(complete.len(), Table::ALL.len() - 1);
        assert!(!complete.contains(&Table::Tokens));
        assert!(Table::ALL.into_iter().all(|table| !survey(&settings).unwrap().without_proof().is_complete(table)));
    }

    #[tokio::test]
    async fn repaired_store_begins_with_what_it_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        filled(&settings).await;
        // More than fits in one change, and in one segment of sled's file.
        let records = (0..4000_u16)
            .fold(Change::new(), |change, number| change.put(Table::History, &number.to_be_bytes(), vec![7; 400]));
        let old = fs::read(settings.path().join("db")).unwrap();
        let aside = replace_records(&settings, &records).unwrap().unwrap();
        assert_eq!(fs::read(aside.join("db")).unwrap(), old);
        assert!(aside.join("seal").exists());
        let store = Store::open(&settings).await.unwrap();
        assert_eq!(store.records().scan(Table::History).await.unwrap().len(), 4000);
        assert_eq!(store.records().scan(Table::Uses).await.unwrap(), vec![]);
        assert!(matches!(replace_records(&settings, &Change::new()), Err(OpenError::Locked { .. })));
    }

    #[tokio::test]
    async fn resealed_store_is_accepted_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        filled(&settings).await;
        Store::open(&settings).await.unwrap().keep().await.unwrap();
        let harms: [fn(&Path); 5] = [
            |path| fs::write(path.join("conf"), b"garbled, and no settings").unwrap(),
            |path| fs::remove_file(path.join("seal")).unwrap(),
            |path| fs::write(path.join("seal"), b"garbled").unwrap(),
            |path| fs::write(path.join("snap.00FFFFFFFFFFFFFF"), b"").unwrap(),
            |path| fs::write(path.join("snap.FFFFFFFFFFFFFFFF"), b"not a snapshot at all").unwrap(),
        ];
        for harm in harms {
            harm(settings.path());
            damage(&settings).await;
            reseal(&settings).unwrap();
            let store = Store::open(&settings).await.unwrap();
            assert_eq!(store.records().read(Table::Uses, b"u").await.unwrap(), Some(b"1".to_vec()));
            assert!(matches!(reseal(&settings), Err(OpenError::Locked { .. })));
            store.close().await;
        }
    }

    #[test]
    fn nothing_is_not_resealed() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(reseal(&settings(&folder)), Err(OpenError::Damaged { .. })));
        assert!(!settings(&folder).path().join("db").exists());
    }
}
