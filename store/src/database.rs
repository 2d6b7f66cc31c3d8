//! sled alone, with its panics and its hangs handled.

use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::OpenError;
use super::folder::io_error;
use super::quiet::quietly;

const CACHE_LEN: u64 = 32 << 20;
/// How long a flush may take before the disk counts as gone.
const FLUSH_PATIENCE: Duration = Duration::from_secs(30);
const FLUSH_CHECK: Duration = Duration::from_millis(250);
/// How long sled may take to end.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// How often sled looks for parts of its file that are worth freeing. Without, a file part stays for the sake of a single
/// old record, and the file grows by all that is ever written. What this thread flushes early has been sealed before.
const CLEAN_EVERY_MS: u64 = 100;

/// sled or the disk failed; what it said, for the log.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct Fault(pub(super) String);

/// sled, with an end that neither panics nor hangs, as sled's own does when one of its threads has panicked.
///
/// Errors at its end do not matter: all that was acknowledged is durable.
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

/// sled without its seal, in a folder that it may change: a copy of that of the store.
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

/// A thread that flushes sled, because a flush may hang: in one place sled does not wake its waiters when a write fails.
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
                // Before the answer, so that the caller can close the database.
                drop(db);
                if done.send(outcome).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { requests, outcomes })
    }

    pub(super) fn flush(&self, db: &sled::Db) -> Result<(), Fault> {
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
