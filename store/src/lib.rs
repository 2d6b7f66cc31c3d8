//! What survives a restart: the key ring, the ledger and the kill switch.
//!
//! In: plain data in the words of the domain, each call one transaction. Out: its outcome, durable when it is given; what
//! was acknowledged survives `kill -9` and a power cut, and a store that lost something does not open. What the domain
//! makes of the data is decided above, in `writ-core`.
//!
//! - [`ring`]: the key ring, compared and swapped by its version, with its history.
//! - [`ledger`]: tokens on record, uses spent, identifiers that are used once.
//! - [`blocks`]: the kill switch.
//! - [`clock`]: the last event, and up to when records may be missing.
//! - [`repair`]: what can be kept of a store that does not open.
//!
//! The one engine today is an embedded sled database that one thread owns (`records`, `writer`); a seal beside it
//! (`seal`) reveals damage and rollback, to which sled itself is blind.

use std::io;
use std::path::{Path, PathBuf};

use self::blocks::BlockStore;
use self::clock::EventClock;
use self::ledger::LedgerStore;
use self::records::Records;
use self::ring::RingStore;

pub mod blocks;
pub mod clock;
pub mod ledger;
pub mod repair;
pub mod ring;

mod database;
mod engine;
mod folder;
mod quiet;
mod records;
mod seal;
mod table;
mod times;
mod transaction;
mod working_copy;
mod writer;

pub use self::folder::write_file;

/// Where the records are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of the embedded store (`store.path`).
    pub path: PathBuf,
}

/// Why the store cannot be opened. The sentences are for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds its lock.
    #[error("the store {} is locked by {}", path.display(), holder(*pid))]
    Locked {
        /// The store's folder.
        path: PathBuf,
        /// The process that holds it, if known.
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
    /// Others than the owner have access to it.
    #[error("{} has mode {mode:04o}: the store must be its owner's alone (0700)", path.display())]
    Permissions {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Something in its folder was not put there by Writ.
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

/// Why something could not be read or recorded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk refused, or the store is closed. Nothing was acknowledged; whether the change was applied is not known
    /// and must be read, never assumed.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// More records than one transaction takes, or one that is too long; nothing was done.
    #[error("the change is too large for the store: {0}")]
    TooLarge(String),
    /// A record is missing, or does not hold what Writ writes; what is wrong. Nothing was done.
    #[error("the store holds a record that cannot be read: {0}")]
    Unreadable(&'static str),
}

/// An open store; clones are the same store.
#[derive(Debug, Clone)]
pub struct Store {
    records: Records,
}

impl Store {
    /// Opens the store, and creates it if there never was one.
    ///
    /// The files of a store that was there already change only with the first write, or with [`keep`](Self::keep).
    ///
    /// # Errors
    /// [`OpenError`] if another process has it, others than its owner can get at it, it is of another version, or its
    /// records are not those that were last sealed.
    pub async fn open(settings: &Settings) -> Result<Self, OpenError> {
        Ok(Self { records: Records::open(&settings.path).await? })
    }

    /// The key ring.
    pub fn ring(&self) -> RingStore {
        RingStore::new(self.records.clone())
    }

    /// The ledger.
    pub fn ledger(&self) -> LedgerStore {
        LedgerStore::new(self.records.clone())
    }

    /// The kill switch.
    pub fn blocks(&self) -> BlockStore {
        BlockStore::new(self.records.clone())
    }

    /// The last event and the floors.
    pub fn clock(&self) -> EventClock {
        EventClock::new(self.records.clone())
    }

    /// Puts what was opened in force: whoever opened the store has found all of it to be right.
    ///
    /// # Errors
    /// [`OpenError::Io`] if the disk does not take it. Nothing is lost then.
    pub async fn keep(&self) -> Result<(), OpenError> {
        let kept = self.records.keep().await;
        kept.map_err(|error| folder::io_error(self.path(), io::Error::other(error)))
    }

    /// The store's folder.
    pub fn path(&self) -> &Path {
        self.records.path()
    }

    /// The folder of the small files that are kept beside the records and outlive them (`<path>/keys`).
    ///
    /// Where it holds `*.json`, an empty store is one that has lost its records and does not open.
    pub fn key_folder(&self) -> PathBuf {
        folder::keys(self.path())
    }

    /// Whether the last change could be made durable. After a failure only another change can tell.
    pub fn is_well(&self) -> bool {
        self.records.is_well()
    }

    /// Ends the store in order: all is written, the lock is free.
    ///
    /// Other clones find it unavailable from then on.
    pub async fn close(self) {
        self.records.close().await;
    }
}

/// Checks who has access to the store's folder, if it exists, and whether this process does.
///
/// # Errors
/// [`OpenError`], as opening it would say.
pub fn judge(settings: &Settings) -> Result<(), OpenError> {
    if settings.path.is_dir() { folder::judge(&settings.path) } else { Ok(()) }
}

/// Whether anything of a store exists: records, their seal, or key files. What cannot be checked counts as existing.
pub fn exists(settings: &Settings) -> bool {
    let path = &settings.path;
    let is_there = |file: PathBuf| file.try_exists().unwrap_or(true);
    is_there(folder::database(path)) || is_there(folder::seal(path)) || folder::has_key_files(path).unwrap_or(false)
}

/// The folder of the small files that are kept beside the records of a store, open or not.
pub fn key_folder(settings: &Settings) -> PathBuf {
    folder::keys(&settings.path)
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// The records below the domain interfaces, for tests that damage a store or compare all of one.
#[cfg(feature = "testing")]
pub mod testing {
    use std::collections::BTreeMap;

    use super::table::{Change, Table};
    use super::{Store, StoreError};

    /// All records by `<table>/<key>`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn dump(store: &Store) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
        let mut found = BTreeMap::new();
        for table in Table::ALL {
            for (key, value) in store.records.scan(table).await? {
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
        store.records.read(table, key).await
    }

    /// Writes these records in one transaction, or removes them where there is no value.
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
        store.records.transact(|_| Ok((change, ()))).await
    }

    fn split(name: &[u8]) -> (Table, &[u8]) {
        let end = name.iter().position(|&byte| byte == b'/').expect("<table>/<key>");
        let table = Table::ALL.into_iter().find(|table| table.name().as_bytes() == &name[..end]);
        (table.expect("a table"), &name[end + 1..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn second_opening_is_told_who_has_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { path: folder.path().join("store") };
        let _store = Store::open(&settings).await.unwrap();
        let refused = Store::open(&settings).await.unwrap_err();
        assert!(refused.to_string().ends_with(&format!("is locked by process {}", std::process::id())), "{refused}");
    }
}
