//! sled, with its panics and hangs turned into errors.

use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::quiet::quietly;
use crate::OpenError;
use crate::folder::io_error;

/// How much sled caches, besides the pages of the last few thousand accesses. The pages of a ledger are read at random,
/// so that a larger cache finds hardly more of them, and the system caches the file.
const CACHE_LEN: u64 = 4 << 20;
/// How long a flush may take before the disk counts as unavailable.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);
const FLUSH_CHECK: Duration = Duration::from_millis(250);
/// How long sled may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often sled compacts its file. Without this, one old record keeps its whole segment allocated, and the file grows
/// with every write. What sled's thread flushes early is already announced in the seal.
const CLEAN_EVERY_MS: u64 = 100;

/// sled or the disk failed. The text is its message, for the log.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Fault(pub(super) String);

/// A sled database whose drop neither panics nor hangs; sled's own does both if one of its threads has panicked.
///
/// Errors while closing are ignored: everything acknowledged is already durable.
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
            let _ = ended.recv_timeout(CLOSE_TIMEOUT);
        }
    }
}

/// Opens sled in `folder`, a working copy that it may change, without checking the seal. Errors name `store`.
pub(super) fn open(folder: &Path, store: &Path) -> Result<Database, OpenError> {
    let config = sled::Config::new().path(folder).cache_capacity(CACHE_LEN).flush_every_ms(Some(CLEAN_EVERY_MS));
    match quietly(|| config.open()) {
        Ok(Ok(db)) => Ok(Database(Some(db))),
        Ok(Err(error)) => Err(open_error(store, error)),
        Err(panic) => Err(damaged(store, panic)),
    }
}

fn open_error(store: &Path, error: sled::Error) -> OpenError {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        sled::Error::Io(error) if !matches!(error.kind(), InvalidData | UnexpectedEof) => io_error(store, error),
        error => damaged(store, error.to_string()),
    }
}

/// A thread that flushes sled, because a flush may hang: on one path sled does not wake its waiters after a failed
/// write.
pub(super) struct Flusher {
    pub(super) requests: Sender<sled::Db>,
    pub(super) outcomes: Receiver<Result<(), Fault>>,
}

impl Flusher {
    pub(super) fn start() -> io::Result<Self> {
        let (requests, requested) = mpsc::channel::<sled::Db>();
        let (done, outcomes) = mpsc::channel();
        thread::Builder::new().name("store-flush".to_owned()).spawn(move || {
            for db in requested {
                let outcome = attempt(|| db.flush()).map(drop);
                // Dropped before the reply, so that the caller can close the database.
                drop(db);
                if done.send(outcome).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { requests, outcomes })
    }

    pub(super) fn flush(&self, db: &sled::Db) -> Result<(), Fault> {
        let gone = || Fault("the flush thread has ended".to_owned());
        self.requests.send(db.clone()).map_err(|_| gone())?;
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        loop {
            match self.outcomes.recv_timeout(FLUSH_CHECK) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
                Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                    return Err(Fault("the disk does not respond".to_owned()));
                }
                // Once sled has recorded an error, a second flush returns at once and wakes the first.
                Err(RecvTimeoutError::Timeout) if db.context.global_error().is_err() => {
                    let _ = attempt(|| db.flush());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

pub(super) fn damaged(path: &Path, what: impl Into<String>) -> OpenError {
    OpenError::Damaged { path: path.to_owned(), what: what.into() }
}

/// Turns the errors of sled and its panics into a [`Fault`].
pub(super) fn attempt<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, Fault> {
    match quietly(work) {
        Ok(outcome) => outcome.map_err(|error| Fault(error.to_string())),
        Err(panic) => Err(Fault(panic)),
    }
}
