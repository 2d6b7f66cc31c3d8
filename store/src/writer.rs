//! The one thread that owns the database: reads, checks conditions, and writes what waits as one batch.
//!
//! Reads go through it too. They cost microseconds, and so a value that is not yet durable is never seen: reads are
//! answered from what the last batch left, before the next is written. After a failed write the thread goes on reading
//! what was acknowledged, and opens the database anew as soon as the disk takes data.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::database::{Fault, damaged};
use super::engine::{Engine, Page, Writes};
use super::folder::{self, Lock};
use super::quiet::quietly;
use super::working_copy;
use super::{Change, Counts, OpenError, StoreError, Swapped, Table};

/// How many requests wait before those who send them do.
const QUEUE_LEN: usize = 1024;
/// How much is written as one batch.
const GROUP_LEN: usize = 256;
const GROUP_BYTES: usize = 256 * 1024;
/// How long after a fault, or a failed attempt, the database is opened anew; counted by the next request.
const RETRY_AFTER: Duration = Duration::from_millis(500);

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the thread is asked for; records by their full names.
#[derive(Debug)]
pub(super) enum Command {
    Read { key: Vec<u8>, answer: Answer<Option<Vec<u8>>> },
    Page { table: Table, after: Option<Vec<u8>>, answer: Answer<Page> },
    Swap { change: Change, answer: Answer<Swapped> },
    Keep { answer: Answer<()> },
    Close { answer: oneshot::Sender<()> },
}

struct Writer {
    path: PathBuf,
    /// None only while it is being opened anew, or could not be.
    engine: Option<Engine>,
    fault: Option<Suspension>,
    counts: Arc<Counts>,
    /// Last, so that it is freed when all else is closed.
    lock: Lock,
}

/// Why nothing is written, and when that is looked at again.
struct Suspension {
    reason: String,
    retry_at: Instant,
}

/// Changes that were accepted in one go, and who waits for them.
#[derive(Default)]
struct Group {
    writes: Writes,
    waiting: Vec<(Answer<Swapped>, Swapped)>,
}

/// Starts the thread; it ends when it is told to close or nobody can ask it any more.
pub(super) async fn spawn(path: PathBuf, counts: Arc<Counts>) -> Result<mpsc::Sender<Command>, OpenError> {
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    let (opened, opening) = oneshot::channel();
    let at = path.clone();
    let thread = thread::Builder::new().name("store".to_owned());
    let spawned = thread.spawn(move || match Writer::open(path, counts) {
        Ok(writer) => {
            if opened.send(Ok(())).is_ok() {
                writer.run(receiver);
            }
        }
        Err(error) => {
            let _ = opened.send(Err(error));
        }
    });
    spawned.map_err(|source| folder::io_error(&at, source))?;
    opening.await.map_err(|_| folder::io_error(&at, io::Error::other("the store's thread is gone")))??;
    Ok(sender)
}

impl Writer {
    fn open(path: PathBuf, counts: Arc<Counts>) -> Result<Self, OpenError> {
        folder::prepare(&path)?;
        let lock = Lock::acquire(&path)?;
        let engine = Engine::open(&path)?;
        let writer = Self { path, engine: Some(engine), fault: None, counts, lock };
        writer.publish_counts();
        Ok(writer)
    }

    fn publish_counts(&self) {
        let Some(engine) = &self.engine else { return };
        for (table, count) in Table::ALL.into_iter().zip(&self.counts.0) {
            count.store(engine.records(table), Ordering::Relaxed);
        }
    }

    fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut closing = None;
        while closing.is_none() {
            let Some(first) = commands.blocking_recv() else { break };
            self.resume_if_due();
            closing = self.serve(first, &mut commands);
        }
        drop(self);
        if let Some(answer) = closing {
            // Whoever asked may have gone; it is closed all the same.
            let _ = answer.send(());
        }
    }

    /// Answers what waits; returns whom to tell when it is to close.
    fn serve(&mut self, first: Command, commands: &mut mpsc::Receiver<Command>) -> Option<oneshot::Sender<()>> {
        let mut group = Group::default();
        let mut closing = None;
        let (mut served, mut bytes) = (0, 0);
        let mut next = Some(first);
        while let Some(command) = next.take() {
            match command {
                Command::Read { key, answer } => reply(answer, self.read(&key)),
                Command::Page { table, after, answer } => reply(answer, self.page(table, after.as_deref())),
                // What nobody waits for any more is not worked on.
                Command::Swap { answer, .. } if answer.is_closed() => {}
                Command::Swap { change, answer } => {
                    bytes += change.len();
                    self.admit(&mut group, change, answer);
                }
                Command::Keep { answer } => reply(answer, self.keep()),
                Command::Close { answer } => closing = Some(answer),
            }
            served += 1;
            if closing.is_none() && served < GROUP_LEN && bytes < GROUP_BYTES {
                next = commands.try_recv().ok();
            }
        }
        self.commit(group);
        closing
    }

    fn read(&mut self, record: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let engine = self.engine.as_ref().ok_or_else(|| self.unavailable())?;
        engine.read(record).map_err(|fault| self.suspend(&fault))
    }

    fn page(&mut self, table: Table, after: Option<&[u8]>) -> Result<Page, StoreError> {
        self.sound()?.page(table, after).map_err(|fault| self.suspend(&fault))
    }

    fn keep(&mut self) -> Result<(), StoreError> {
        match (&mut self.engine, &self.fault) {
            (Some(engine), None) => engine.keep().map_err(|fault| self.suspend(&fault)),
            _ => Err(self.unavailable()),
        }
    }

    /// The engine, if nothing is known against it.
    fn sound(&self) -> Result<&Engine, StoreError> {
        match (&self.engine, &self.fault) {
            (Some(engine), None) => Ok(engine),
            _ => Err(self.unavailable()),
        }
    }

    fn admit(&mut self, group: &mut Group, change: Change, answer: Answer<Swapped>) {
        let verdict = match self.sound() {
            Ok(engine) => group.holds(engine, &change).map_err(|fault| self.suspend(&fault)),
            Err(unavailable) => Err(unavailable),
        };
        match verdict {
            Ok(true) => group.accept(change, answer),
            // It may be a change of this very group that is in the way; so it waits for that one's fate.
            Ok(false) => group.waiting.push((answer, Swapped::Conflict)),
            Err(error) => reply(answer, Err(error)),
        }
    }

    fn commit(&mut self, group: Group) {
        let written = match (&mut self.engine, &self.fault) {
            (Some(_), None) if !group.writes.is_empty() && !self.lock.is_in_place() => {
                Err(self.suspend(&Fault("its lock file was removed or replaced".to_owned())))
            }
            (Some(engine), None) => engine.commit(&group.writes).map_err(|fault| self.suspend(&fault)),
            _ => Err(self.unavailable()),
        };
        self.publish_counts();
        for (answer, swapped) in group.waiting {
            reply(answer, written.clone().map(|()| swapped));
        }
    }

    fn suspend(&mut self, fault: &Fault) -> StoreError {
        self.postpone(fault.to_string());
        self.unavailable()
    }

    fn postpone(&mut self, reason: String) {
        if self.fault.is_none() {
            tracing::error!(%reason, "the store is unavailable");
        }
        self.fault = Some(Suspension { reason, retry_at: Instant::now() + RETRY_AFTER });
    }

    fn unavailable(&self) -> StoreError {
        StoreError::Unavailable(self.fault.as_ref().map_or_else(String::new, |fault| fault.reason.clone()))
    }

    /// Opens the database anew after a fault. What is found must be as sealed: with the failed batch or without it.
    fn resume_if_due(&mut self) {
        if self.fault.as_ref().is_none_or(|fault| Instant::now() < fault.retry_at) {
            return;
        }
        match self.resume() {
            Ok(engine) => {
                tracing::info!("the store is available again");
                self.engine = Some(engine);
                self.fault = None;
                self.publish_counts();
            }
            Err(error) => self.postpone(error.to_string()),
        }
    }

    fn resume(&mut self) -> Result<Engine, OpenError> {
        if !self.lock.is_in_place() {
            // Another process may have written since: what this one knows counts for nothing.
            self.engine = None;
            self.lock = Lock::acquire(&self.path)?;
        }
        // As long as the disk takes nothing, the old one still answers reads.
        working_copy::probe(&self.path)?;
        self.engine = None;
        quietly(|| Engine::open(&self.path)).unwrap_or_else(|panic| Err(damaged(&self.path, panic)))
    }
}

impl Group {
    /// Whether a change's conditions hold, with what this group has accepted so far.
    fn holds(&self, engine: &Engine, change: &Change) -> Result<bool, Fault> {
        for (record, expected) in &change.conditions {
            let holds = match self.writes.get(record) {
                Some(accepted) => accepted == expected,
                None => engine.read(record)? == *expected,
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn accept(&mut self, change: Change, answer: Answer<Swapped>) {
        self.writes.extend(change.writes);
        self.waiting.push((answer, Swapped::Done));
    }
}

impl Change {
    fn len(&self) -> usize {
        self.writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum()
    }
}

/// Whoever asked may have gone, which changes nothing.
fn reply<T>(answer: Answer<T>, outcome: Result<T, StoreError>) {
    let _ = answer.send(outcome);
}
