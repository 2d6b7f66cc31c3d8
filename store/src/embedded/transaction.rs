//! A transaction: a function that reads records through a [`View`] and decides what to write.

use std::cell::Cell;

use tokio::sync::oneshot;

use super::database::Fault;
use super::engine::Engine;
use super::table::{Change, Table, Writes};
use crate::StoreError;

/// Sends the outcome of a transaction, or the reason why it was not written, to the caller.
pub(super) type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// The records as a transaction sees them: durable ones, overlaid with the decided writes of the current batch.
pub(crate) struct View<'a> {
    engine: &'a Engine,
    accepted: &'a Writes,
    basis: Cell<Basis>,
}

/// What a transaction has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Basis {
    /// Durable records only.
    Durable,
    /// A write of its batch too, which may still fail.
    Batch,
}

/// Why a transaction could not be decided.
#[derive(Debug)]
pub(crate) enum Undecided {
    /// The database failed.
    Fault(Fault),
    /// A record is malformed; the text is for the log.
    Unreadable(&'static str),
}

/// What a transaction decides: its writes and its outcome.
pub(crate) type Decision<T> = Result<(Change, T), Undecided>;

/// A queued transaction.
pub(super) trait Job: Send {
    /// Whether the caller no longer waits for the outcome.
    fn is_abandoned(&self) -> bool;
    /// Whether it fails while the store cannot be written, even if it would write nothing.
    fn needs_disk(&self) -> bool;
    fn decide(self: Box<Self>, view: &View<'_>) -> Decided;
    fn refuse(self: Box<Self>, error: StoreError);
}

/// The state of a transaction after its turn.
pub(super) enum Decided {
    /// To be written; the outcome is sent once the write has succeeded or failed. With nothing to write and a durable
    /// basis, it is known at once.
    Change(Change, Finish, Basis),
    /// The database failed; the caller gets an error.
    Failed(Fault, Box<dyn FnOnce(StoreError) + Send>),
    /// Refused; the caller has its answer.
    Refused,
}

/// A queued function, and the channel for its outcome.
pub(crate) struct Transaction<T, D> {
    pub(crate) decide: D,
    pub(crate) needs_disk: bool,
    /// Receives the outcome, and whether anything was written.
    pub(crate) answer: oneshot::Sender<Result<(T, bool), StoreError>>,
}

impl<T, D> Job for Transaction<T, D>
where
    T: Send + 'static,
    D: FnOnce(&View<'_>) -> Decision<T> + Send,
{
    fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    fn needs_disk(&self) -> bool {
        self.needs_disk
    }

    fn decide(self: Box<Self>, view: &View<'_>) -> Decided {
        let Self { decide, answer, .. } = *self;
        // The caller may have stopped waiting.
        let refuse = |answer: oneshot::Sender<_>, error| drop(answer.send(Err(error)));
        match decide(view) {
            Ok((change, outcome)) => match change.check_size() {
                Ok(()) => {
                    let wrote = !change.writes.is_empty();
                    let finish = move |written: Result<(), StoreError>| {
                        let _ = answer.send(written.map(|()| (outcome, wrote)));
                    };
                    Decided::Change(change, Box::new(finish), view.basis.get())
                }
                Err(error) => {
                    refuse(answer, error);
                    Decided::Refused
                }
            },
            Err(Undecided::Unreadable(what)) => {
                refuse(answer, StoreError::Unreadable(what));
                Decided::Refused
            }
            Err(Undecided::Fault(fault)) => Decided::Failed(fault, Box::new(move |error| refuse(answer, error))),
        }
    }

    fn refuse(self: Box<Self>, error: StoreError) {
        // The caller may have stopped waiting.
        let _ = self.answer.send(Err(error));
    }
}

impl<'a> View<'a> {
    pub(crate) fn new(engine: &'a Engine, accepted: &'a Writes) -> Self {
        Self { engine, accepted, basis: Cell::new(Basis::Durable) }
    }

    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Undecided> {
        let record = table.record(key);
        match self.accepted.get(&record) {
            Some(accepted) => {
                self.basis.set(Basis::Batch);
                Ok(accepted.clone())
            }
            None => self.engine.read(&record).map_err(Undecided::Fault),
        }
    }
}
