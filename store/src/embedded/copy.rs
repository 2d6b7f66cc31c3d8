//! The embedded engine's part in a move: a store that is not in use is read, or one is built in `<path>/copying`, which
//! takes its place once it was verified.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::blocks;
use super::clock::{REDEMPTION_FLOOR, SINGLE_USE_FLOOR, SWEPT};
use super::database::{self, Database, Fault, attempt, damaged};
use super::engine::{Engine, VERSION, VERSION_KEY, count, page};
use super::ledger;
use super::marks::{self, Received};
use super::quiet::quietly;
use super::ring::{self, INSTALLATION, RING};
use super::seal::{Seal, Tally};
use super::table::{Change, Record, Table};
use super::times::{self, LAST_EVENT};
use super::working_copy;
use crate::folder::{self, Lock, io_error};
use crate::portable::{Basis, Contents, CopyError, Incoming, Kind, Outgoing, Page, Progress, Read, State};
use crate::{OpenError, StoreError};

const NO_RECORD: CopyError = CopyError::Store(StoreError::Unreadable("a record of the ledger cannot be read"));
const NO_TIME: CopyError = CopyError::Store(StoreError::Unreadable("a time cannot be read"));
const NO_BLOCK: CopyError = CopyError::Store(StoreError::Unreadable("a record of the kill switch cannot be read"));

/// How many records are written between two times at which it is noted how far the copy is.
const NOTE_EVERY: u64 = 10_000;

/// A store that is not in use, and is not while this exists. Fields are dropped in order: the lock last.
pub(crate) struct Source {
    engine: Engine,
    outgoing: Option<Outgoing>,
    path: PathBuf,
    lock: Lock,
}

impl Source {
    /// Opens a store; one that was moved, too. All of its records match the seal.
    pub(crate) fn open(path: &Path) -> Result<Self, CopyError> {
        if !folder::database(path).exists() && !folder::seal(path).exists() {
            return Err(CopyError::Nothing { store: path.display().to_string() });
        }
        folder::prepare(path)?;
        let lock = Lock::acquire(path)?;
        let outgoing = marks::outgoing(path)?;
        if outgoing.is_none() {
            marks::check(path)?;
        }
        let engine = quietly(|| Engine::open(path)).unwrap_or_else(|panic| Err(damaged(path, panic)))?;
        Ok(Self { engine, outgoing, path: path.to_owned(), lock })
    }

    /// The mark of an earlier move.
    pub(crate) fn outgoing(&self) -> Option<&Outgoing> {
        self.outgoing.as_ref()
    }

    pub(crate) fn basis(&self) -> Result<Option<Basis>, CopyError> {
        read_basis(self.engine.database(), &self.path)
    }

    pub(crate) fn read(&self, kind: Kind, after: Option<&[u8]>) -> Result<Read, CopyError> {
        read_page(self.engine.database(), &self.path, kind, after)
    }

    /// Marks the store as moved, durably: it does not open any more.
    pub(crate) fn move_away(&mut self, outgoing: &Outgoing) -> Result<(), CopyError> {
        if !self.lock.is_in_place() {
            return Err(io_error(&self.path, io::Error::other("its lock file was removed or replaced")).into());
        }
        marks::set_outgoing(&self.path, outgoing)?;
        self.outgoing = Some(outgoing.clone());
        Ok(())
    }
}

/// A store that is being built. Fields are dropped in order: the lock last.
pub(crate) struct Target {
    /// Once records are written or read.
    db: Option<Database>,
    /// Of all records, once they are settled.
    tally: Option<Tally>,
    /// How many records were received when that was last noted.
    noted: u64,
    path: PathBuf,
    lock: Lock,
}

impl Target {
    pub(crate) fn open(path: &Path) -> Result<Self, CopyError> {
        folder::prepare(path)?;
        let lock = Lock::acquire(path)?;
        folder::require_folder(&building(path))?;
        working_copy::clean_up(path)?;
        Ok(Self { db: None, tally: None, noted: 0, path: path.to_owned(), lock })
    }

    pub(crate) fn state(&self) -> Result<State, CopyError> {
        let path = &self.path;
        if let Some(Outgoing { to, .. }) = marks::outgoing(path)? {
            return Ok(State::Occupied(format!("records that were moved to {to}")));
        }
        match marks::received(path)? {
            Some(Received { is_receiving: true, incoming }) if building(path).exists() => {
                Ok(State::Receiving(incoming))
            }
            Some(Received { is_receiving: true, incoming }) if !self.has_records()? => {
                Ok(State::Receiving(Incoming { progress: Progress::beginning(), ..incoming }))
            }
            Some(Received { is_receiving, incoming }) => {
                if is_receiving {
                    // It took its place, and was interrupted before that was noted.
                    marks::set_received(path, &Received { is_receiving: false, incoming: incoming.clone() })?;
                }
                Ok(State::Complete(incoming))
            }
            // Each copy notes that it begins before it makes the folder.
            None if building(path).exists() => {
                Ok(State::Occupied("a folder `copying` that no copy has made".to_owned()))
            }
            None if self.has_records()? => Ok(State::Occupied("records".to_owned())),
            None if folder::has_key_files(path).map_err(|source| io_error(path, source))? => {
                Ok(State::Occupied("key files".to_owned()))
            }
            None => Ok(State::Empty),
        }
    }

    fn has_records(&self) -> Result<bool, CopyError> {
        let files = folder::engine_files(&self.path).map_err(|source| io_error(&self.path, source))?;
        Ok(!files.is_empty() || folder::seal(&self.path).exists())
    }

    /// Begins to receive a copy; what was received before is removed.
    pub(crate) fn begin(&mut self, incoming: &Incoming, basis: &Basis) -> Result<(), CopyError> {
        let folder = building(&self.path);
        working_copy::probe_to_open(&self.path)?;
        self.db = None;
        self.note(incoming)?;
        let at_folder = |source| io_error(&folder, source);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(at_folder)?;
        }
        DirBuilder::new().mode(0o700).create(&folder).map_err(at_folder)?;
        self.reopen()?;
        let mut records = vec![(Table::Meta.record(VERSION_KEY), VERSION.into())];
        records.extend(records_of(basis)?);
        self.write(records)
    }

    /// Goes on with a copy that was interrupted; `false` if what was received is missing or cannot be read.
    pub(crate) fn resume(&mut self, incoming: &Incoming, basis: &Basis) -> Result<bool, CopyError> {
        // sled would create an empty one.
        if !folder::database(&building(&self.path)).exists() {
            return Ok(false);
        }
        self.noted = incoming.progress.records;
        match self.reopen() {
            Err(CopyError::Open(OpenError::Damaged { .. })) => return Ok(false),
            opened => opened?,
        }
        Ok(matches!(self.basis(), Ok(Some(found)) if Contents::of(&found) == Contents::of(basis)))
    }

    /// Writes records. How far the copy is, which `incoming` says, is noted every now and then.
    pub(crate) fn put(&mut self, page: &Page, incoming: &Incoming) -> Result<(), CopyError> {
        let table = match page {
            Page::Tokens(_) => ledger::table(Kind::Tokens),
            Page::Uses(_) => ledger::table(Kind::Uses),
            Page::SingleUse(_) => ledger::table(Kind::SingleUse),
        };
        let records = ledger::import(page).into_iter().map(|(key, value)| (table.record(&key), value)).collect();
        self.write(records)?;
        if incoming.progress.records >= self.noted + NOTE_EVERY {
            self.flush()?;
            self.note(incoming)?;
        }
        Ok(())
    }

    /// Prepares for reading back what is on the disk.
    pub(crate) fn freeze(&mut self) -> Result<(), CopyError> {
        self.flush()?;
        self.reopen()
    }

    pub(crate) fn basis(&self) -> Result<Option<Basis>, CopyError> {
        read_basis(self.db()?, &self.path)
    }

    pub(crate) fn read(&self, kind: Kind, after: Option<&[u8]>) -> Result<Read, CopyError> {
        read_page(self.db()?, &self.path, kind, after)
    }

    /// Closes the database and makes its files durable, and the folders that list them.
    pub(crate) fn settle(&mut self) -> Result<(), CopyError> {
        self.tally = Some(count(&self.path, self.db()?, &false.into())?);
        self.db = None;
        let synced = working_copy::sync_all_below(&building(&self.path));
        Ok(synced.and_then(|()| folder::sync_folder(&self.path)).map_err(|source| io_error(&self.path, source))?)
    }

    /// Seals the records, which are settled, and puts them in their place: from now on the store opens.
    pub(crate) fn complete(&mut self, incoming: &Incoming) -> Result<(), CopyError> {
        let (path, folder) = (&self.path, building(&self.path));
        let unsettled = || io_error(path, io::Error::other("the copy is not settled"));
        let tally = self.tally.take().ok_or_else(unsettled)?;
        let failed = |source| io_error(path, source);
        if !self.lock.is_in_place() {
            return Err(failed(io::Error::other("its lock file was removed or replaced")).into());
        }
        Seal::create(&folder, &tally).map_err(failed)?;
        working_copy::put_in_place(path, &folder, &tally).map_err(failed)?;
        Ok(marks::set_received(path, &Received { is_receiving: false, incoming: incoming.clone() })?)
    }

    fn db(&self) -> Result<&Database, CopyError> {
        let closed = || io_error(&self.path, io::Error::other("the copy is not open"));
        self.db.as_ref().ok_or_else(|| closed().into())
    }

    fn reopen(&mut self) -> Result<(), CopyError> {
        // Closed first: sled locks its file.
        self.db = None;
        let (path, folder) = (&self.path, building(&self.path));
        working_copy::probe_to_open(path)?;
        working_copy::remove_unfinished_snapshots(&folder).map_err(|source| io_error(&folder, source))?;
        let opened = database::open(&folder, path).map_err(|error| match error {
            // If the disk has filled up meanwhile, sled's error is arbitrary: report the disk.
            OpenError::Damaged { .. } => working_copy::probe_to_open(path).err().unwrap_or(error),
            error => error,
        });
        self.db = Some(opened?);
        Ok(())
    }

    fn flush(&self) -> Result<(), CopyError> {
        let db = self.db()?;
        attempt(|| db.flush()).map(drop).map_err(|fault| failed(&self.path, fault))
    }

    fn note(&mut self, incoming: &Incoming) -> Result<(), CopyError> {
        self.noted = incoming.progress.records;
        Ok(marks::set_received(&self.path, &Received { is_receiving: true, incoming: incoming.clone() })?)
    }

    fn write(&self, records: Vec<Record>) -> Result<(), CopyError> {
        let mut batch = sled::Batch::default();
        for (name, value) in records {
            let len = name.len() + value.len();
            if len > Change::MAX_RECORD_LEN {
                return Err(StoreError::TooLarge(format!("a record of {len} bytes")).into());
            }
            batch.insert(name, value);
        }
        let db = self.db()?;
        attempt(|| db.apply_batch(batch)).map_err(|fault| failed(&self.path, fault))
    }
}

/// The folder of a store that is not yet complete.
fn building(store: &Path) -> PathBuf {
    store.join("copying")
}

fn failed(path: &Path, fault: Fault) -> CopyError {
    io_error(path, io::Error::other(fault)).into()
}

fn read_basis(db: &sled::Db, path: &Path) -> Result<Option<Basis>, CopyError> {
    let get = |table: Table, key: &[u8]| {
        let value = attempt(|| db.get(table.record(key))).map_err(|fault| failed(path, fault))?;
        Ok::<_, CopyError>(value.map(|value| value.to_vec()))
    };
    let time = |table, key| times::parse(get(table, key)?.as_deref()).ok_or(NO_TIME);
    let (installation, document) = (get(Table::Meta, INSTALLATION)?, get(Table::Keys, RING)?);
    let Some(ring) = ring::assemble(installation, document, read_all(db, path, Table::History)?)? else {
        return Ok(None);
    };
    let blocks = read_all(db, path, Table::Blocks)?;
    let redemption_floor = time(Table::Meta, REDEMPTION_FLOOR)?;
    Ok(Some(Basis {
        ring,
        blocks: blocks.iter().map(blocks::parse).collect::<Option<_>>().ok_or(NO_BLOCK)?,
        last_event: time(Table::Clock, LAST_EVENT)?,
        swept: time(Table::Meta, SWEPT)?,
        redemption_floor,
        single_use_floor: match get(Table::Meta, SINGLE_USE_FLOOR)? {
            // As `clock::single_use_floor` has it.
            None => redemption_floor,
            Some(_) => time(Table::Meta, SINGLE_USE_FLOOR)?,
        },
    }))
}

fn records_of(basis: &Basis) -> Result<Vec<Record>, CopyError> {
    let mut change = ring::put(&basis.ring, Change::new())
        .put(Table::Clock, LAST_EVENT, times::value(basis.last_event))
        .put(Table::Meta, SWEPT, times::value(basis.swept))
        .put(Table::Meta, REDEMPTION_FLOOR, times::value(basis.redemption_floor))
        .put(Table::Meta, SINGLE_USE_FLOOR, times::value(basis.single_use_floor));
    for block in &basis.blocks {
        let (key, value) = blocks::record(block).ok_or(NO_BLOCK)?;
        change = change.put(Table::Blocks, &key, value);
    }
    Ok(change.writes.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}

fn read_all(db: &sled::Db, path: &Path, table: Table) -> Result<Vec<Record>, CopyError> {
    let mut records: Vec<Record> = Vec::new();
    loop {
        let after = records.last().map(|(key, _)| table.record(key));
        let found = page(db, table, after.as_deref()).map_err(|fault| failed(path, fault))?;
        if found.is_empty() {
            return Ok(records);
        }
        records.extend(found);
    }
}

fn read_page(db: &sled::Db, path: &Path, kind: Kind, after: Option<&[u8]>) -> Result<Read, CopyError> {
    let table = ledger::table(kind);
    let full = after.map(|key| table.record(key));
    let records = page(db, table, full.as_deref()).map_err(|fault| failed(path, fault))?;
    let after = records.last().map(|(key, _)| key.clone()).or_else(|| after.map(<[u8]>::to_vec)).unwrap_or_default();
    Ok(Read { page: ledger::export(kind, &records).ok_or(NO_RECORD)?, after })
}
