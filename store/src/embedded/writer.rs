//! The only thread that owns the database: it reads, decides transactions in order, and writes all queued ones as one
//! batch.
//!
//! Plain reads return the state after the last batch, never a value that is not yet durable. A transaction sees the
//! writes of those before it in its batch, and is then answered with them: when the batch is durable, or has failed.
//! After a failed write the thread continues to answer reads with acknowledged values, and reopens the database as soon
//! as the disk accepts writes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use writ_platform::clock::Timestamp;

use super::database::{Fault, damaged};
use super::engine::{self, Engine, Page};
use super::marks;
use super::quiet::quietly;
use super::start_records::StartRecords;
use super::table::{Change, Table, Writes};
use super::times;
use super::transaction::{Basis, Decided, Finish, Job, View};
use super::working_copy;
use crate::folder::{self, Lock};
use crate::{OpenError, StoreError};

/// How many requests are queued before senders wait.
const QUEUE_LEN: usize = 1024;
/// The maximum size of one batch, in transactions and in bytes.
const BATCH_LEN: usize = 256;
const BATCH_BYTES: usize = 256 * 1024;
/// The time between a fault, or a failed attempt, and the next attempt to reopen the database, made by the next
/// request.
const RETRY_AFTER: Duration = Duration::from_millis(500);

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// A request to the thread. Record keys include the table prefix.
pub(super) enum Command {
    Read { key: Vec<u8>, answer: Answer<Option<Vec<u8>>> },
    Page { table: Table, after: Option<Vec<u8>>, answer: Answer<Page> },
    Transact(Box<dyn Job>),
    Keep { answer: Answer<()> },
    Close { answer: oneshot::Sender<()> },
}

/// Figures that can be read without a request to the thread, which updates them.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// The number of durable records of each table, in the order of [`Table::ALL`].
    counts: [AtomicU64; Table::ALL.len()],
    /// The last durable event, in seconds since 1970.
    last_event: AtomicU64,
    start_records: Mutex<Option<StartRecords>>,
    /// Whether the database is open, and all of its records are proven.
    is_whole: AtomicBool,
    /// Whether no one waits any more for the database to be opened.
    is_abandoned: AtomicBool,
}

struct Writer {
    path: PathBuf,
    /// `None` while the database is being reopened, or if that failed.
    engine: Option<Engine>,
    fault: Option<Suspension>,
    figures: Arc<Figures>,
    /// Dropped last: released once everything else is closed.
    lock: Lock,
}

/// Why nothing can be written, and when the next attempt is due.
struct Suspension {
    reason: String,
    retry_at: Instant,
}

/// The current batch: its writes, and the callers that wait for it.
#[derive(Default)]
struct Batch {
    writes: Writes,
    bytes: usize,
    waiting: Vec<Finish>,
}

/// The opening of the database, which for a large ledger takes longer than that of the small tables.
#[derive(Debug)]
pub struct Opening {
    path: PathBuf,
    outcome: oneshot::Receiver<Result<(), OpenError>>,
}

impl Opening {
    /// Waits until every record of the store is proven.
    ///
    /// # Errors
    /// [`OpenError`], as [`Store::open`](crate::Store::open) reports it. The store is then closed.
    pub async fn finish(self) -> Result<(), OpenError> {
        self.outcome.await.unwrap_or_else(|_| Err(thread_ended(&self.path)))
    }
}

/// Starts the thread; it ends on [`Command::Close`], when all handles are gone, or if the database cannot be opened.
///
/// Returns once the small tables can be read, or else once the database is open. In the first case the opening is returned
/// too, and requests to the thread wait for it.
pub(super) async fn spawn(
    path: PathBuf,
    figures: Arc<Figures>,
) -> Result<(mpsc::Sender<Command>, Option<Opening>), OpenError> {
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    let (begun, beginning) = oneshot::channel();
    let (done, outcome) = oneshot::channel();
    let at = path.clone();
    let thread = thread::Builder::new().name("store".to_owned());
    let spawned = thread.spawn(move || match prepare(&path) {
        Ok((lock, opening)) => {
            let is_early = figures.publish_sealed(&opening);
            if begun.send(Ok(is_early)).is_ok() {
                match Writer::finish(path, figures, lock, opening) {
                    Ok(writer) => {
                        // The caller may have stopped waiting.
                        let _ = done.send(Ok(()));
                        writer.run(receiver);
                    }
                    Err(error) => drop(done.send(Err(error))),
                }
            }
        }
        Err(error) => drop(begun.send(Err(error))),
    });
    spawned.map_err(|source| folder::io_error(&at, source))?;
    let is_early = beginning.await.unwrap_or_else(|_| Err(thread_ended(&at)))?;
    let opening = Opening { path: at, outcome };
    if is_early {
        return Ok((sender, Some(opening)));
    }
    opening.finish().await?;
    Ok((sender, None))
}

fn thread_ended(path: &Path) -> OpenError {
    folder::io_error(path, io::Error::other("the store's thread has ended"))
}

fn prepare(path: &Path) -> Result<(Lock, engine::Opening), OpenError> {
    folder::prepare(path)?;
    let lock = Lock::acquire(path)?;
    marks::check(path)?;
    Ok((lock, engine::Opening::begin(path)?))
}

impl Figures {
    pub(super) fn count(&self, table: Table) -> u64 {
        self.counts[table as usize].load(Ordering::Relaxed)
    }

    pub(super) fn last_event(&self) -> Timestamp {
        Timestamp::from_epoch(self.last_event.load(Ordering::Acquire))
    }

    /// Whether the database is open, and all of its records are proven.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Acquire)
    }

    /// Stops the opening of the database, if it is not open yet.
    pub(super) fn abandon_opening(&self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
    }

    /// The records of the small tables, if they can be read before the database is open and it is not yet.
    pub(super) fn start_records(&self) -> MutexGuard<'_, Option<StartRecords>> {
        // It is replaced as a whole, so it is consistent even if the lock is poisoned.
        self.start_records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes what is known before the database is open; whether the records of the small tables are.
    fn publish_sealed(&self, opening: &engine::Opening) -> bool {
        for (table, count) in Table::ALL.into_iter().zip(&self.counts) {
            count.store(opening.sealed(table), Ordering::Relaxed);
        }
        let records = opening.start_records();
        let last_event = records.as_ref().and_then(|records| records.get(&Table::Clock.record(times::LAST_EVENT)));
        self.last_event.store(times::parse(last_event).unwrap_or_default().epoch(), Ordering::Release);
        let is_early = records.is_some();
        *self.start_records() = records;
        is_early
    }

    fn publish(&self, engine: &Engine) {
        for (table, count) in Table::ALL.into_iter().zip(&self.counts) {
            count.store(engine.records(table), Ordering::Relaxed);
        }
        // `EventClock::check_records` reports a malformed record; after a fault the figure stays as it was.
        if let Ok(record) = engine.read(&Table::Clock.record(times::LAST_EVENT)) {
            let last_event = times::parse(record.as_deref()).unwrap_or_default();
            self.last_event.store(last_event.epoch(), Ordering::Release);
        }
    }
}

impl Writer {
    fn finish(path: PathBuf, figures: Arc<Figures>, lock: Lock, opening: engine::Opening) -> Result<Self, OpenError> {
        let engine = quietly(|| opening.finish(&figures.is_abandoned));
        let engine = engine.unwrap_or_else(|panic| Err(damaged(&path, panic)))?;
        let writer = Self { path, engine: Some(engine), fault: None, figures, lock };
        writer.publish_figures();
        *writer.figures.start_records() = None;
        writer.figures.is_whole.store(true, Ordering::Release);
        Ok(writer)
    }

    fn publish_figures(&self) {
        if let Some(engine) = &self.engine {
            self.figures.publish(engine);
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
            // The caller may have stopped waiting.
            let _ = answer.send(());
        }
    }

    /// Serves all queued commands; returns the sender to answer once the database is closed.
    fn serve(&mut self, first: Command, commands: &mut mpsc::Receiver<Command>) -> Option<oneshot::Sender<()>> {
        let mut batch = Batch::default();
        let mut closing = None;
        let mut served = 0;
        let mut next = Some(first);
        while let Some(command) = next.take() {
            match command {
                Command::Read { key, answer } => reply(answer, self.read(&key)),
                Command::Page { table, after, answer } => reply(answer, self.page(table, after.as_deref())),
                Command::Transact(job) if job.is_abandoned() => {}
                Command::Transact(job) => self.admit(&mut batch, job),
                Command::Keep { answer } => reply(answer, self.keep()),
                Command::Close { answer } => closing = Some(answer),
            }
            served += 1;
            if closing.is_none() && served < BATCH_LEN && batch.bytes < BATCH_BYTES {
                next = commands.try_recv().ok();
            }
        }
        self.commit(batch);
        closing
    }

    fn read(&mut self, record: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let engine = self.engine.as_ref().ok_or_else(|| self.unavailable())?;
        engine.read(record).map_err(|fault| self.suspend(&fault))
    }

    fn page(&mut self, table: Table, after: Option<&[u8]>) -> Result<Page, StoreError> {
        self.usable_engine()?.page(table, after).map_err(|fault| self.suspend(&fault))
    }

    fn keep(&mut self) -> Result<(), StoreError> {
        match (&mut self.engine, &self.fault) {
            (Some(engine), None) => engine.keep().map_err(|fault| self.suspend(&fault)),
            _ => Err(self.unavailable()),
        }
    }

    /// The engine, unless it is suspended.
    fn usable_engine(&self) -> Result<&Engine, StoreError> {
        match (&self.engine, &self.fault) {
            (Some(engine), None) => Ok(engine),
            _ => Err(self.unavailable()),
        }
    }

    fn admit(&mut self, batch: &mut Batch, job: Box<dyn Job>) {
        let (nothing, needs_disk) = (Writes::new(), job.needs_disk());
        // After a fault, the writes accepted so far in this batch will fail too: only acknowledged values count.
        let decided = match (&self.engine, &self.fault) {
            (Some(engine), None) => job.decide(&View::new(engine, &batch.writes)),
            (Some(engine), Some(_)) if !needs_disk => job.decide(&View::new(engine, &nothing)),
            _ => return job.refuse(self.unavailable()),
        };
        match decided {
            // It rests on durable records alone: it does not wait for the batch, nor fail with it.
            Decided::Change(change, finish, Basis::Durable) if change.writes.is_empty() && !needs_disk => {
                finish(Ok(()));
            }
            Decided::Change(change, finish, _) if self.fault.is_none() => batch.accept(change, finish),
            Decided::Change(change, finish, _) if change.writes.is_empty() => finish(Ok(())),
            Decided::Change(_, finish, _) => finish(Err(self.unavailable())),
            Decided::Failed(fault, finish) => finish(self.suspend(&fault)),
            Decided::Refused => {}
        }
    }

    fn commit(&mut self, batch: Batch) {
        let written = match (&mut self.engine, &self.fault) {
            (Some(_), None) if !batch.writes.is_empty() && !self.lock.is_in_place() => {
                Err(self.suspend(&Fault("its lock file was removed or replaced".to_owned())))
            }
            (Some(engine), None) => engine.commit(&batch.writes).map_err(|fault| self.suspend(&fault)),
            _ => Err(self.unavailable()),
        };
        self.publish_figures();
        for finish in batch.waiting {
            finish(written.clone());
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

    /// Reopens the database after a fault. Its records must match the seal: with the failed batch or without it.
    fn resume_if_due(&mut self) {
        if self.fault.as_ref().is_none_or(|fault| Instant::now() < fault.retry_at) {
            return;
        }
        match self.resume() {
            Ok(engine) => {
                tracing::info!("the store is available again");
                self.engine = Some(engine);
                self.fault = None;
                self.publish_figures();
            }
            Err(error) => self.postpone(error.to_string()),
        }
    }

    fn resume(&mut self) -> Result<Engine, OpenError> {
        if !self.lock.is_in_place() {
            // Another process may have written since, so the state in memory is worthless.
            self.engine = None;
            self.lock = Lock::acquire(&self.path)?;
        }
        // While the disk accepts no writes, the old engine still answers reads.
        working_copy::probe(&self.path)?;
        self.engine = None;
        quietly(|| Engine::open(&self.path)).unwrap_or_else(|panic| Err(damaged(&self.path, panic)))
    }
}

impl Batch {
    fn accept(&mut self, change: Change, finish: Finish) {
        self.bytes += change.len();
        self.writes.extend(change.writes);
        self.waiting.push(finish);
    }
}

/// Ignores a caller that has stopped waiting.
fn reply<T>(answer: Answer<T>, outcome: Result<T, StoreError>) {
    let _ = answer.send(outcome);
}

#[cfg(test)]
mod tests {
    use super::super::transaction::Transaction;
    use super::*;

    type Answered = oneshot::Receiver<Result<(bool, bool), StoreError>>;

    /// Reads a record, and writes it if `value` is given; the answer arrives at the receiver.
    fn job(key: &'static [u8], value: Option<&'static str>) -> (Box<dyn Job>, Answered) {
        let (answer, answered) = oneshot::channel();
        let decide = move |view: &View<'_>| {
            let is_there = view.get(Table::Uses, key)?.is_some();
            let change = value.map_or_else(Change::new, |value| Change::new().put(Table::Uses, key, value));
            Ok((change, is_there))
        };
        (Box::new(Transaction { decide, needs_disk: false, answer }), answered)
    }

    /// A repeated answer or a refusal must not depend on the writes of other clients.
    #[test]
    fn an_outcome_that_writes_nothing_waits_only_for_what_it_was_read_from() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let (lock, opening) = prepare(&path).unwrap();
        let mut writer = Writer::finish(path, Arc::default(), lock, opening).unwrap();
        let mut batch = Batch::default();
        let (write, mut written) = job(b"new", Some("1"));
        let (unrelated, mut unrelated_answer) = job(b"other", None);
        let (dependent, mut dependent_answer) = job(b"new", None);
        for job in [write, unrelated, dependent] {
            writer.admit(&mut batch, job);
        }
        assert_eq!(unrelated_answer.try_recv().unwrap().unwrap(), (false, false));
        assert!(written.try_recv().is_err() && dependent_answer.try_recv().is_err(), "before the batch is durable");
        writer.commit(batch);
        assert_eq!(written.try_recv().unwrap().unwrap(), (false, true));
        assert_eq!(dependent_answer.try_recv().unwrap().unwrap(), (true, false));
    }
}
