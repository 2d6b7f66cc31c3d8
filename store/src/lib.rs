//! Named records that survive: compare-and-swap, durable before it is acknowledged.
//!
//! A record is a key and a value in one of a few [`Table`]s; what they mean is the business of the rooms that use
//! them. In comes a [`Change`], conditions and writes; out comes whether all of it was applied or none. What was
//! acknowledged survives `kill -9` and a power cut, and a store that lost something does not open.
//!
//! The records live in an embedded sled database that one thread owns (`writer`); a seal beside it (`seal`) tells
//! damage and rollback, to which sled itself is blind.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use self::writer::Command;

mod database;
mod engine;
mod folder;
mod quiet;
mod repair;
mod seal;
mod working_copy;
mod writer;

pub use self::folder::write_file;
pub use self::repair::{Remains, replace, reseal, survey};

/// Where the records are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of the embedded store (`store.path`).
    pub path: PathBuf,
}

/// What kind of record; each table has keys of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// About the store and the installation. The key `version` is the store's own.
    Meta,
    /// Signing keys that are in use.
    Keys,
    /// Keys that were.
    History,
    /// Issued tokens on record.
    Tokens,
    /// Uses spent.
    Uses,
    /// The last recorded event.
    Clock,
    /// Identifiers that may be used once.
    Single,
    /// The kill switch.
    Blocks,
}

/// Conditions and writes that hold together: all is applied, or nothing.
///
/// A condition is about a record before the change; a record may have both, one or neither of them. What is said last of a
/// record holds.
#[derive(Debug, Clone, Default)]
#[must_use = "a change does nothing until it is swapped"]
pub struct Change {
    conditions: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a change that met a conflict was not applied"]
pub enum Swapped {
    /// All conditions held; all writes are durable.
    Done,
    /// A condition did not hold; nothing has changed.
    Conflict,
}

/// Why the store cannot be opened. The sentences are for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store {} is locked by {}", path.display(), holder(*pid))]
    Locked {
        /// The store's folder.
        path: PathBuf,
        /// The process that has it, where it says so.
        pid: Option<u32>,
    },
    /// Something was lost, added or put back: the records are not those that were last sealed.
    #[error("the store {} is damaged: {what}; see `writ store repair`", path.display())]
    Damaged {
        /// The store's folder.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Written by another version of Writ, which laid records out differently.
    #[error("the store {} has version {found:?}; this program knows version {}", path.display(), engine::VERSION)]
    Version {
        /// The store's folder.
        path: PathBuf,
        /// The version in the store.
        found: String,
    },
    /// Others than the owner can get at it.
    #[error("{} has mode {mode:04o}: the store must be its owner's alone (0700)", path.display())]
    Permissions {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Something in its folder is not what Writ puts there.
    #[error("{} {what}; nothing was changed: move it out of the store's folder and start again", path.display())]
    Foreign {
        /// The entry of the folder.
        path: PathBuf,
        /// What it is, or is not.
        what: String,
    },
    /// The disk is too full to open it.
    #[error(
        "the store {} cannot be opened: the disk is full; opening needs {} MiB of free space for a working copy; nothing was changed: free some space and start again",
        path.display(), needed.div_ceil(1 << 20)
    )]
    NoSpace {
        /// The store's folder.
        path: PathBuf,
        /// How much free space is needed, in bytes.
        needed: u64,
    },
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was to be read or written.
        path: PathBuf,
        /// How it was refused.
        source: io::Error,
    },
}

/// Why a record could not be read or a change not applied.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk refused, or the store is closed. Nothing was acknowledged; whether the change was applied is not known
    /// and must be read, never assumed.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The change has more records than [`Change::MAX_RECORDS`] or one beyond [`Change::MAX_RECORD_LEN`]; nothing was done.
    #[error("the change is too large for the store: {0}")]
    TooLarge(String),
}

/// An open store; clones are the same store.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
    writer: mpsc::Sender<Command>,
    /// Whether the last change could be made durable.
    well: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

/// How many records each table has, in the order of [`Table::ALL`]. The thread that owns them keeps it up to date.
#[derive(Debug, Default)]
struct Counts([AtomicU64; Table::ALL.len()]);

/// What is counted when it fails.
const OPERATIONS: [&str; 4] = ["keep", "read", "scan", "swap"];

impl Store {
    /// Opens the store, and creates it if there never was one.
    ///
    /// The files of a store that was there already change only with the first [`swap`](Self::swap), or with
    /// [`keep`](Self::keep).
    ///
    /// # Errors
    /// [`OpenError`] if another process has it, others than its owner can get at it, it is of another version, or its
    /// records are not those that were last sealed.
    pub async fn open(settings: &Settings) -> Result<Self, OpenError> {
        // `increase()` sees the first event only of a counter that was there before it.
        for operation in OPERATIONS {
            metrics::counter!("writ_store_errors_total", "operation" => operation).absolute(0);
        }
        let (path, counts) = (settings.path.clone(), Arc::<Counts>::default());
        let writer = writer::spawn(path.clone(), Arc::clone(&counts)).await?;
        Ok(Self { path, writer, well: Arc::new(AtomicBool::new(true)), counts })
    }

    /// Puts what was opened in force: whoever opened the store has found all of it to be right.
    ///
    /// # Errors
    /// [`OpenError::Io`] if the disk does not take it. Nothing is lost then.
    pub async fn keep(&self) -> Result<(), OpenError> {
        let kept = self.ask("keep", |answer| Command::Keep { answer }).await;
        kept.map_err(|error| folder::io_error(&self.path, io::Error::other(error)))
    }

    /// The store's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the small files that are kept beside the records and outlive them (`<path>/keys`).
    ///
    /// Where it holds `*.json`, an empty store is one that has lost its records and does not open.
    pub fn key_folder(&self) -> PathBuf {
        folder::keys(&self.path)
    }

    /// The durable value of a record.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it cannot be read.
    pub async fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let key = table.record(key);
        self.ask("read", |answer| Command::Read { key, answer }).await
    }

    /// All records of a table in the order of their keys.
    ///
    /// Records that change meanwhile may be seen as they were or as they are.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if they cannot be read.
    pub async fn scan(&self, table: Table) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        let mut records = Vec::new();
        loop {
            let last: Option<Vec<u8>> = records.last().map(|(key, _): &(Vec<u8>, _)| key.clone());
            let page = self.page(table, last.as_deref()).await?;
            if page.is_empty() {
                return Ok(records);
            }
            records.extend(page);
        }
    }

    /// The next records of a table after the key `after`, or from its beginning; empty at its end.
    ///
    /// For tables that are too large for [`scan`](Self::scan). A page has a few hundred records.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if they cannot be read.
    pub async fn page(&self, table: Table, after: Option<&[u8]>) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        let after = after.map(|key| table.record(key));
        self.ask("scan", |answer| Command::Page { table, after, answer }).await
    }

    /// How many durable records a table has.
    pub fn records(&self, table: Table) -> u64 {
        self.counts.0[table as usize].load(Ordering::Relaxed)
    }

    /// Applies a change, or nothing if one of its conditions does not hold.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it could not be made durable; it may yet turn out to have been applied.
    pub async fn swap(&self, change: Change) -> Result<Swapped, StoreError> {
        change.check_size()?;
        let swapped = self.ask("swap", |answer| Command::Swap { change, answer }).await;
        self.well.store(swapped.is_ok(), Ordering::Relaxed);
        swapped
    }

    /// Whether the last change could be made durable. After a failure only another change can tell.
    pub fn is_well(&self) -> bool {
        self.well.load(Ordering::Relaxed)
    }

    /// Ends the store in order: all is written, the lock is free.
    ///
    /// Other clones find it unavailable from then on.
    pub async fn close(self) {
        let (answer, closed) = oneshot::channel();
        if self.writer.send(Command::Close { answer }).await.is_ok() {
            // A dropped answer means that the writer is gone, which is what was asked for.
            let _ = closed.await;
        }
    }

    async fn ask<T>(
        &self,
        operation: &'static str,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let closed = |()| StoreError::Unavailable("it is closed".to_owned());
        let sent = self.writer.send(command(answer)).await.map_err(|_| closed(()));
        let outcome = match sent {
            Ok(()) => answered.await.unwrap_or_else(|_| Err(closed(()))),
            Err(error) => Err(error),
        };
        outcome.inspect_err(|_| metrics::counter!("writ_store_errors_total", "operation" => operation).increment(1))
    }
}

impl Change {
    /// How many records one change may name: what a cluster takes in one transaction, with room to spare.
    pub const MAX_RECORDS: usize = 100;
    /// How long a record may be, key and value together, in bytes.
    ///
    /// A page of sled holds up to twenty records; pages beyond 128 KiB go to files of their own, which sled does not sync.
    pub const MAX_RECORD_LEN: usize = 6 * 1024;

    /// A change that asks nothing and does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if there is no such record.
    pub fn absent(mut self, table: Table, key: &[u8]) -> Self {
        self.conditions.insert(table.record(key), None);
        self
    }

    /// Only if the record is exactly this.
    pub fn is(mut self, table: Table, key: &[u8], value: impl Into<Vec<u8>>) -> Self {
        self.conditions.insert(table.record(key), Some(value.into()));
        self
    }

    /// Only if the record is what was read: this value, or absent.
    pub fn unchanged(self, table: Table, key: &[u8], seen: Option<&[u8]>) -> Self {
        match seen {
            Some(value) => self.is(table, key, value),
            None => self.absent(table, key),
        }
    }

    /// Writes the record, new or over the old.
    pub fn put(mut self, table: Table, key: &[u8], value: impl Into<Vec<u8>>) -> Self {
        self.writes.insert(table.record(key), Some(value.into()));
        self
    }

    /// Removes the record if it is there.
    pub fn remove(mut self, table: Table, key: &[u8]) -> Self {
        self.writes.insert(table.record(key), None);
        self
    }

    fn check_size(&self) -> Result<(), StoreError> {
        let records = self.conditions.len().max(self.writes.len());
        if records > Self::MAX_RECORDS {
            return Err(StoreError::TooLarge(format!("{records} records in one change")));
        }
        let lengths = self.writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len));
        match lengths.max() {
            Some(longest) if longest > Self::MAX_RECORD_LEN => {
                Err(StoreError::TooLarge(format!("a record of {longest} bytes")))
            }
            _ => Ok(()),
        }
    }
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 8] =
        [Self::Meta, Self::Keys, Self::History, Self::Tokens, Self::Uses, Self::Clock, Self::Single, Self::Blocks];

    /// What it is called in messages and metrics.
    pub fn name(self) -> &'static str {
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
    fn prefix(self) -> u8 {
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
    fn of(record: &[u8]) -> Option<Self> {
        let first = record.first()?;
        Self::ALL.into_iter().find(|table| table.prefix() == *first)
    }

    /// The full name of a record.
    fn record(self, key: &[u8]) -> Vec<u8> {
        [&[self.prefix()], key].concat()
    }
}

/// Who may get at the store's folder, if it is there, and whether this process can.
///
/// # Errors
/// [`OpenError`], as opening it would say.
pub fn judge(settings: &Settings) -> Result<(), OpenError> {
    if settings.path.is_dir() { folder::judge(&settings.path) } else { Ok(()) }
}

/// Whether anything of a store is there: records, their seal, or key files. What cannot be looked at counts.
pub fn exists(settings: &Settings) -> bool {
    let path = &settings.path;
    let is_there = |file: PathBuf| file.try_exists().unwrap_or(true);
    is_there(folder::database(path)) || is_there(folder::seal(path)) || folder::has_key_files(path).unwrap_or(false)
}

/// Where the small files are that are kept beside the records of a store, open or not.
pub fn key_folder(settings: &Settings) -> PathBuf {
    folder::keys(&settings.path)
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(folder: &Path) -> Settings {
        Settings { path: folder.join("store") }
    }

    async fn open(folder: &Path) -> Store {
        Store::open(&settings(folder)).await.unwrap()
    }

    async fn read(store: &Store, key: &[u8]) -> Option<Vec<u8>> {
        store.read(Table::Uses, key).await.unwrap()
    }

    #[tokio::test]
    async fn change_is_applied_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let spend = || Change::new().absent(Table::Uses, b"a").put(Table::Uses, b"a", "1").put(Table::Uses, b"b", "2");
        assert_eq!(store.swap(spend()).await.unwrap(), Swapped::Done);
        assert_eq!(store.swap(spend().put(Table::Uses, b"c", "3")).await.unwrap(), Swapped::Conflict);
        assert_eq!(read(&store, b"c").await, None);
        let second = Change::new().is(Table::Uses, b"a", "1").put(Table::Uses, b"a", "2").remove(Table::Uses, b"b");
        assert_eq!(store.swap(second.clone()).await.unwrap(), Swapped::Done);
        assert_eq!(store.swap(second).await.unwrap(), Swapped::Conflict);
        assert_eq!((read(&store, b"a").await, read(&store, b"b").await), (Some(b"2".to_vec()), None));
    }

    #[tokio::test]
    async fn condition_that_was_read_is_what_was_seen() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let mut seen = None;
        for next in ["1", "2"] {
            let change = Change::new().unchanged(Table::Clock, b"", seen.as_deref()).put(Table::Clock, b"", next);
            assert_eq!(store.swap(change).await.unwrap(), Swapped::Done);
            let stale = Change::new().unchanged(Table::Clock, b"", seen.as_deref()).put(Table::Clock, b"", "stale");
            assert_eq!(store.swap(stale).await.unwrap(), Swapped::Conflict);
            seen = store.read(Table::Clock, b"").await.unwrap();
        }
        assert_eq!(seen.as_deref(), Some(&b"2"[..]));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn eight_tasks_cannot_spend_the_same_record() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        for round in 0..20_u8 {
            let racers = (0..8_u8).map(|racer| {
                let store = store.clone();
                let change = Change::new().absent(Table::Uses, &[round]).put(Table::Uses, &[round], [racer]);
                tokio::spawn(async move { (racer, store.swap(change).await.unwrap()) })
            });
            let mut winners = Vec::new();
            for racer in racers.collect::<Vec<_>>() {
                let (racer, outcome) = racer.await.unwrap();
                winners.extend((outcome == Swapped::Done).then_some(racer));
            }
            assert_eq!(winners.len(), 1, "{winners:?}");
            assert_eq!(read(&store, &[round]).await, Some(winners));
        }
    }

    #[tokio::test]
    async fn changes_of_one_batch_see_each_other_in_the_order_of_their_arrival() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let step = |from: u8| Change::new().is(Table::Clock, b"", [from]).put(Table::Clock, b"", [from + 1]);
        let _ = store.swap(Change::new().put(Table::Clock, b"", [0])).await.unwrap();
        // Polled in their order before the thread can answer any: they wait in the queue together.
        let steps = futures_util::future::join_all((0..100).map(|from| store.swap(step(from)))).await;
        assert!(steps.into_iter().all(|outcome| outcome.unwrap() == Swapped::Done));
        assert_eq!(store.read(Table::Clock, b"").await.unwrap(), Some(vec![100]));
    }

    #[tokio::test]
    async fn every_request_of_a_long_queue_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let reads = futures_util::future::join_all((0..2000).map(|_| store.read(Table::Meta, b"version"))).await;
        assert!(reads.into_iter().all(|read| read.unwrap().is_some()));
    }

    #[tokio::test]
    async fn scan_has_every_record_of_one_table_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let name = |number: u16| number.to_be_bytes();
        for hundred in 0..11 {
            let numbers = hundred * 100..hundred * 100 + 100;
            let change = numbers.fold(Change::new(), |change, number| change.put(Table::Single, &name(number), "x"));
            let _ = store.swap(change).await.unwrap();
        }
        let scanned = store.scan(Table::Single).await.unwrap();
        let keys: Vec<_> = scanned.into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, (0..1100).map(|number| name(number).to_vec()).collect::<Vec<_>>());
        assert!(store.scan(Table::Tokens).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn closed_store_is_free_at_once_and_unavailable_to_its_clones() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let _ = store.swap(Change::new().put(Table::Uses, b"a", "1")).await.unwrap();
        let clone = store.clone();
        store.close().await;
        assert!(matches!(clone.read(Table::Uses, b"a").await, Err(StoreError::Unavailable(_))));
        assert_eq!(read(&open(folder.path()).await, b"a").await, Some(b"1".to_vec()));
    }

    #[tokio::test]
    async fn second_opening_is_told_who_has_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let _store = open(folder.path()).await;
        let refused = Store::open(&settings(folder.path())).await.unwrap_err();
        assert!(refused.to_string().ends_with(&format!("is locked by process {}", std::process::id())), "{refused}");
    }

    #[tokio::test]
    async fn change_that_no_engine_takes_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let long = Change::new().put(Table::Meta, b"k", vec![0; Change::MAX_RECORD_LEN]);
        assert!(matches!(store.swap(long).await, Err(StoreError::TooLarge(_))));
        let many = (0..=100_u8).fold(Change::new(), |change, number| change.put(Table::Uses, &[number], "x"));
        assert!(matches!(store.swap(many).await, Err(StoreError::TooLarge(_))));
        assert_eq!(store.scan(Table::Uses).await.unwrap(), vec![]);
    }

    #[test]
    fn tables_have_prefixes_of_their_own() {
        for table in Table::ALL {
            assert_eq!(Table::of(&table.record(b"key")), Some(table));
        }
    }
}
