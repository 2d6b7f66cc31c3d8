//! A transaction: a function that reads records through a [`View`] and decides what is written.

use tokio::sync::oneshot;

use super::StoreError;
use super::database::Fault;
use super::engine::Engine;
use super::table::{Change, Table, Writes};

/// Gives a transaction's outcome, or why it was not written, to the caller.
pub(super) type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// The records as a transaction sees them: those on the disk, with what is decided and on its way there.
pub(crate) struct View<'a> {
    engine: &'a Engine,
    accepted: &'a Writes,
}

/// Why a transaction could not be decided.
#[derive(Debug)]
pub(crate) enum Undecided {
    /// The database failed.
    Fault(Fault),
    /// A record does not hold what Writ writes: a sentence for the log.
    Unreadable(&'static str),
}

/// What a transaction decides: its writes and its outcome.
pub(crate) type Decision<T> = Result<(Change, T), Undecided>;

/// A transaction that waits for its turn.
pub(super) trait Job: Send {
    /// Whether no one waits for its outcome any more.
    fn is_abandoned(&self) -> bool;
    /// Whether it is refused while nothing can be written, even if it would write nothing.
    fn needs_disk(&self) -> bool;
    fn decide(self: Box<Self>, view: &View<'_>) -> Decided;
    fn refuse(self: Box<Self>, error: StoreError);
}

/// What became of a transaction in its turn.
pub(super) enum Decided {
    /// To be written; its outcome is given once it is known whether that worked.
    Change(Change, Finish),
    /// The database failed; the caller gets an error.
    Failed(Fault, Box<dyn FnOnce(StoreError) + Send>),
    /// Refused, and answered.
    Refused,
}

/// A function that waits for its turn, and who waits for its outcome.
pub(crate) struct Transaction<T, D> {
    pub(crate) decide: D,
    pub(crate) needs_disk: bool,
    /// Gets the outcome, and whether anything was written.
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
        // The caller may no longer wait, which changes nothing.
        let refuse = |answer: oneshot::Sender<_>, error| drop(answer.send(Err(error)));
        match decide(view) {
            Ok((change, outcome)) => match change.check_size() {
                Ok(()) => {
                    let wrote = !change.writes.is_empty();
                    let finish = move |written: Result<(), StoreError>| {
                        let _ = answer.send(written.map(|()| (outcome, wrote)));
                    };
                    Decided::Change(change, Box::new(finish))
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
        // The caller may no longer wait, which changes nothing.
        let _ = self.answer.send(Err(error));
    }
}

impl<'a> View<'a> {
    pub(crate) fn new(engine: &'a Engine, accepted: &'a Writes) -> Self {
        Self { engine, accepted }
    }

    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Undecided> {
        let record = table.record(key);
        match self.accepted.get(&record) {
            Some(accepted) => Ok(accepted.clone()),
            None => self.engine.read(&record).map_err(Undecided::Fault),
        }
    }
}
