//! Durable storage of the key ring, the ledger and the kill switch.
//!
//! In: plain data in domain terms; each call is one transaction. Out: its outcome, which is durable when the call
//! returns. Acknowledged data survives `kill -9` and a power failure, and a store that has lost any does not open.
//! `writ-core` decides what the data means.
//!
//! - [`ring`]: the key ring with its history, changed by compare-and-swap.
//! - [`ledger`]: tokens on record, spent uses, single-use identifiers.
//! - [`blocks`]: the kill switch.
//! - [`clock`]: the time of the last event, and the floors up to which records may be missing.
//! - [`repair`]: salvages the records of a store that does not open.
//! - [`copy`]: moves all records to another store, of the same engine or the other.
//!
//! The `handles` dispatch to one of two engines: `embedded`, a sled database for a single instance, and `postgres`.

use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use self::cluster::{Served, Versions};
use self::embedded::records::Records;
use self::handles::Engine;
use self::postgres::{Postgres, Role};

pub mod blocks;
pub mod clock;
pub mod cluster;
pub mod copy;
pub mod ledger;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(not(feature = "postgres"))]
#[path = "no_postgres.rs"]
pub mod postgres;
pub mod ring;

mod embedded;
mod folder;
mod handles;
mod portable;

pub use self::embedded::{Opening, repair};
pub use self::folder::write_file;
pub use self::handles::{BlockStore, EventClock, LedgerStore, RingStore};

/// The engine of the store, and its location.
#[derive(Debug, Clone)]
pub enum Settings {
    /// An embedded database for a single instance.
    Sled {
        /// The folder of the store (`store.path`).
        path: PathBuf,
    },
    /// A PostgreSQL server or cluster, for any number of instances.
    Postgres(postgres::Settings),
}

impl Settings {
    /// The folder of this instance: the embedded store, its key files, the admin socket (`store.path`).
    pub fn path(&self) -> &Path {
        match self {
            Self::Sled { path } => path,
            Self::Postgres(settings) => &settings.path,
        }
    }
}

/// Why the store cannot be opened. The texts are for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the store's lock.
    #[error("the store {} is locked by {}", path.display(), holder(*pid))]
    Locked {
        /// The store's folder.
        path: PathBuf,
        /// The process that holds the lock, if known.
        pid: Option<u32>,
    },
    /// Records were lost, added or rolled back: they are not those that were last sealed.
    #[error("the store {} is damaged: {what}; see `writ store repair`", path.display())]
    Damaged {
        /// The store's folder.
        path: PathBuf,
        /// The damage, as a clause for the message.
        what: String,
    },
    /// Written by a version of Writ with another record layout.
    #[error("the store {} has version {found:?}; this program knows version {}", path.display(), embedded::engine::VERSION)]
    Version {
        /// The store's folder.
        path: PathBuf,
        /// The version in the store.
        found: String,
    },
    /// Users other than its owner have access to it.
    #[error("{} has mode {mode:04o}: the store must be its owner's alone (0700)", path.display())]
    Permissions {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The store's folder contains an entry that Writ did not create.
    #[error("{} {what}; nothing was changed: move it out of the store's folder and start again", path.display())]
    Foreign {
        /// The entry.
        path: PathBuf,
        /// What is wrong with it, as the predicate of the message.
        what: String,
    },
    /// The disk has too little free space to open the store.
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
    /// The database cannot be used: the reason of each server, and the cure where there is one.
    #[error("the database cannot be used: {0}")]
    Database(String),
    /// The database lacks what it once had.
    #[error("the database cannot be used: {0}")]
    WentBack(String),
    /// Its records are in another store now: served here, too, they would grant uses twice.
    #[error("{store} was moved to {to} by `writ store copy`: serve that one")]
    Moved {
        /// The store.
        store: String,
        /// Where it was moved to.
        to: String,
    },
    /// A copy into it was interrupted.
    #[error("{store} is an unfinished copy of {from}: run `writ store copy` again")]
    Unfinished {
        /// The store.
        store: String,
        /// The source.
        from: String,
    },
    /// The file system reported an error.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder that was read or written.
        path: PathBuf,
        /// The file system's error.
        source: io::Error,
    },
}

/// Why a read or a transaction failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk failed, or the store is closed. Nothing was acknowledged; the change may or may not have been applied,
    /// which only reading it back can tell.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The transaction has too many records, or one that is too long. Nothing was changed.
    #[error("the change is too large for the store: {0}")]
    TooLarge(String),
    /// A record is missing or malformed. Nothing was changed.
    #[error("the store holds a record that cannot be read: {0}")]
    Unreadable(&'static str),
}

/// An open store; clones share it.
#[derive(Debug, Clone)]
pub struct Store(Engine<Records, Postgres>);

impl Store {
    /// Opens the store, or creates it if there never was one.
    ///
    /// The files of an existing store change only with the first write, or by [`keep`](Self::keep).
    ///
    /// # Errors
    /// [`OpenError`] if another process has it open, users other than its owner have access, its version is another, or
    /// its records are not those that were last sealed.
    pub async fn open(settings: &Settings) -> Result<Self, OpenError> {
        if let Settings::Postgres(settings) = settings {
            return Ok(Self(Engine::Postgres(Box::pin(Postgres::open(settings, Role::Command)).await?)));
        }
        let (store, opening) = Self::begin_to_open(settings).await?;
        if let Some(opening) = opening {
            opening.finish().await?;
        }
        Ok(store)
    }

    /// As [`open`](Self::open), but if the ledger is large, and the key ring, the kill switch and the clock are proven
    /// without it, returns before it is proven whole, with the rest of the opening.
    ///
    /// These three can then be read; writing them waits until the opening is finished. The ledger answers
    /// [`StoreError::Unavailable`] until then.
    ///
    /// # Errors
    /// As [`open`](Self::open). Damage may be found only by [`Opening::finish`].
    pub async fn begin_to_open(settings: &Settings) -> Result<(Self, Option<Opening>), OpenError> {
        match settings {
            Settings::Sled { path } => {
                let (records, opening) = Records::begin(path).await?;
                Ok((Self(Engine::Sled(records)), opening))
            }
            Settings::Postgres(settings) => {
                Ok((Self(Engine::Postgres(Box::pin(Postgres::open(settings, Role::Instance)).await?)), None))
            }
        }
    }

    /// The key ring.
    pub fn ring(&self) -> RingStore {
        match &self.0 {
            Engine::Sled(records) => RingStore(Engine::Sled(embedded::ring::Ring::new(records.clone()))),
            Engine::Postgres(database) => RingStore(Engine::Postgres(database.ring())),
        }
    }

    /// The ledger.
    pub fn ledger(&self) -> LedgerStore {
        match &self.0 {
            Engine::Sled(records) => LedgerStore(Engine::Sled(embedded::ledger::Ledger::new(records.clone()))),
            Engine::Postgres(database) => LedgerStore(Engine::Postgres(database.ledger())),
        }
    }

    /// The kill switch.
    pub fn blocks(&self) -> BlockStore {
        match &self.0 {
            Engine::Sled(records) => BlockStore(Engine::Sled(embedded::blocks::Blocks::new(records.clone()))),
            Engine::Postgres(database) => BlockStore(Engine::Postgres(database.blocks())),
        }
    }

    /// The last event and the floors.
    pub fn clock(&self) -> EventClock {
        match &self.0 {
            Engine::Sled(records) => EventClock(Engine::Sled(embedded::clock::Clock::new(records.clone()))),
            Engine::Postgres(database) => EventClock(Engine::Postgres(database.clock())),
        }
    }

    /// Replaces the store's files by the working copy that was opened. Call it once the records have been checked.
    ///
    /// # Errors
    /// [`OpenError::Io`] if the copy cannot be written; nothing is lost then.
    pub async fn keep(&self) -> Result<(), OpenError> {
        let kept = match &self.0 {
            Engine::Sled(records) => records.keep().await,
            Engine::Postgres(_) => Ok(()),
        };
        kept.map_err(|error| folder::io_error(self.path(), io::Error::other(error)))
    }

    /// The store's folder.
    pub fn path(&self) -> &Path {
        match &self.0 {
            Engine::Sled(records) => records.path(),
            Engine::Postgres(database) => database.path(),
        }
    }

    /// The folder of the public key files, which outlive the records (`<path>/keys`).
    ///
    /// If it contains `*.json`, a store without records has lost them and does not open.
    pub fn key_folder(&self) -> PathBuf {
        folder::keys(self.path())
    }

    /// Whether every record is proven, which opening the store ends with.
    pub fn is_whole(&self) -> bool {
        match &self.0 {
            Engine::Sled(records) => records.is_whole(),
            Engine::Postgres(database) => database.is_whole(),
        }
    }

    /// Whether the last change was made durable. After a failure, only a successful change sets it again.
    ///
    /// An instance over a database is well as long as it holds its lease.
    pub fn is_well(&self) -> bool {
        match &self.0 {
            Engine::Sled(records) => records.is_well(),
            Engine::Postgres(database) => database.is_well(),
        }
    }

    /// The versions of key ring and kill switch on record, if other instances can change them.
    pub fn versions(&self) -> Option<watch::Receiver<Versions>> {
        match &self.0 {
            Engine::Sled(_) => None,
            Engine::Postgres(database) => Some(database.versions()),
        }
    }

    /// Announces what this instance has in force to the others, with its next heartbeat.
    pub fn serve(&self, served: Served) {
        match &self.0 {
            Engine::Sled(_) => {}
            Engine::Postgres(database) => database.serve(served),
        }
    }

    /// When this returns, the others know what this instance [serves](Self::serve), which is the ring on record, and their
    /// rotations wait for it.
    ///
    /// # Errors
    /// [`OpenError::Database`] if that is not possible within some seconds.
    pub async fn join(&self) -> Result<(), OpenError> {
        match &self.0 {
            Engine::Sled(_) => Ok(()),
            Engine::Postgres(database) => Box::pin(database.join()).await,
        }
    }

    /// Waits until the records were moved to another store, which may grant their uses from then on; an embedded store is
    /// locked and cannot be moved meanwhile.
    pub async fn moved(&self) -> OpenError {
        match &self.0 {
            Engine::Sled(_) => std::future::pending().await,
            Engine::Postgres(database) => Box::pin(database.moved()).await,
        }
    }

    /// Writes all pending changes and releases the lock.
    ///
    /// Its clones then return [`StoreError::Unavailable`].
    pub async fn close(self) {
        match self.0 {
            Engine::Sled(records) => records.close().await,
            Engine::Postgres(database) => Box::pin(database.close()).await,
        }
    }
}

/// Checks that only its owner has access to the store's folder, and that this process does. A missing folder is
/// accepted.
///
/// # Errors
/// [`OpenError`], as opening the store would report.
pub fn check_access(settings: &Settings) -> Result<(), OpenError> {
    let path = settings.path();
    if path.is_dir() { folder::check_access(path) } else { Ok(()) }
}

/// Whether any part of a store exists: records, seal or key files. A path that cannot be checked counts as existing.
pub fn exists(settings: &Settings) -> bool {
    let Settings::Sled { path } = settings else {
        // The database knows, and says it when it is opened.
        return true;
    };
    let is_there = |file: PathBuf| file.try_exists().unwrap_or(true);
    is_there(folder::database(path)) || is_there(folder::seal(path)) || folder::has_key_files(path).unwrap_or(false)
}

/// The folder of the store's public key files; see [`Store::key_folder`].
pub fn key_folder(settings: &Settings) -> PathBuf {
    folder::keys(settings.path())
}

#[cfg(any(test, feature = "testing"))]
impl Store {
    /// The records of the embedded engine.
    pub(crate) fn records(&self) -> &Records {
        match &self.0 {
            Engine::Sled(records) => records,
            Engine::Postgres(_) => panic!("not an embedded store"),
        }
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// Raw records, for tests that damage a store or compare two.
#[cfg(feature = "testing")]
pub mod testing {
    use std::collections::BTreeMap;

    use super::embedded::table::{Change, Table};
    use super::{Store, StoreError};

    /// All records by `<table>/<key>`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn dump(store: &Store) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
        let mut found = BTreeMap::new();
        for table in Table::ALL {
            for (key, value) in store.records().scan(table).await? {
                found.insert([table.name().as_bytes(), b"/", &key].concat(), value);
            }
        }
        Ok(found)
    }

    /// The record `<table>/<key>`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    ///
    /// # Panics
    /// If there is no such table.
    pub async fn read(store: &Store, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let (table, key) = split(name);
        store.records().read(table, key).await
    }

    /// Writes these records in one transaction; `None` removes a record.
    ///
    /// # Errors
    /// [`StoreError`].
    ///
    /// # Panics
    /// If there is no such table.
    pub async fn write(store: &Store, records: &[(&[u8], Option<&[u8]>)]) -> Result<(), StoreError> {
        let change = records.iter().fold(Change::new(), |change, (name, value)| {
            let (table, key) = split(name);
            match value {
                Some(value) => change.put(table, key, *value),
                None => change.remove(table, key),
            }
        });
        store.records().transact(|_| Ok((change, ()))).await
    }

    fn split(name: &[u8]) -> (Table, &[u8]) {
        let end = name.iter().position(|&byte| byte == b'/').expect("<table>/<key>");
        let table = Table::ALL.into_iter().find(|table| table.name().as_bytes() == &name[..end]);
        (table.expect("a table"), &name[end + 1..])
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::try_join_all;
    use writ_platform::clock::Timestamp;

    use super::clock::EventOutcome;
    use super::embedded::table::{Change, Table};
    use super::ledger::{Entry, RecordOutcome, SingleUse};
    use super::*;

    #[tokio::test]
    async fn second_opening_names_the_process_with_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::Sled { path: folder.path().join("store") };
        let _store = Store::open(&settings).await.unwrap();
        let refused = Store::open(&settings).await.unwrap_err();
        assert!(refused.to_string().ends_with(&format!("is locked by process {}", std::process::id())), "{refused}");
    }

    /// A closed store whose ledger is so large that it is opened in two steps.
    async fn large(folder: &tempfile::TempDir) -> Settings {
        let settings = Settings::Sled { path: folder.path().join("store") };
        let store = Store::open(&settings).await.unwrap();
        let changes = (0..110_u8).map(|hundred| {
            let keys = (0..100_u8).map(|number| [hundred, number]);
            let change = keys.fold(Change::new(), |change, key| change.put(Table::Tokens, &key, "1"));
            store.records().transact(|_| Ok((change, ())))
        });
        try_join_all(changes).await.unwrap();
        assert_eq!(store.clock().record(Timestamp::from_epoch(90)).await.unwrap(), EventOutcome::Recorded);
        store.close().await;
        settings
    }

    fn use_up() -> Entry<'static> {
        let time = Timestamp::from_epoch(100);
        Entry { token: None, single_use: Some(SingleUse { id: [1; 32], made: time, keep_until: time }) }
    }

    #[tokio::test]
    async fn what_a_start_needs_is_read_before_a_large_ledger_is_proven_and_written_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let settings = large(&folder).await;
        let (store, opening) = Store::begin_to_open(&settings).await.unwrap();
        let opening = opening.expect("a second step");
        assert_eq!((store.clock().last_event(), store.ledger().counts().tokens), (Timestamp::from_epoch(90), 11_000));
        assert_eq!(store.blocks().list().await.unwrap(), []);
        let now = Timestamp::from_epoch(100);
        // It waits for the second step.
        assert_eq!(store.clock().record(now).await.unwrap(), EventOutcome::Recorded);
        opening.finish().await.unwrap();
        assert!(store.is_whole());
        assert_eq!(store.ledger().record(use_up(), now).await.unwrap(), RecordOutcome::Recorded);
        store.close().await;
        // What was written is in the copies.
        let (store, opening) = Store::begin_to_open(&settings).await.unwrap();
        assert_eq!(store.clock().last_event(), now);
        opening.expect("a second step").finish().await.unwrap();
    }

    #[tokio::test]
    async fn damage_of_a_large_ledger_is_found_before_anything_is_recorded_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let settings = large(&folder).await;
        std::fs::write(folder::database(settings.path()), b"").unwrap();
        let (store, opening) = Store::begin_to_open(&settings).await.unwrap();
        let ledger = store.ledger();
        let failed = opening.expect("a second step").finish().await;
        assert!(matches!(failed, Err(OpenError::Damaged { .. })), "{failed:?}");
        let refused = ledger.record(use_up(), Timestamp::from_epoch(100)).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))) && !store.is_whole());
        let refused = store.clock().record(Timestamp::from_epoch(100)).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    }
}
