//! A small set of connections, and the repetition of a statement until its outcome is known.
//!
//! Nothing is ever cancelled: a cancelled commit is acknowledged although no standby has it. A statement whose outcome is
//! unknown is sent again with the same values, on another connection; every statement is made so that this is safe.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{sleep, timeout, timeout_at};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};
use writ_platform::clock::Timestamp;

use super::connection::{Connection, Connector, Prepared, describe};
use super::health::Health;
use super::outcome::{Outcome, classify};
use super::schema::WEEK;
use crate::StoreError;

/// The most connections of one instance, besides that of the heartbeat.
const MAX_CONNECTIONS: usize = 16;
/// How long one statement may take before its connection is given up.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a statement is repeated; within the time that a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// The same for a statement that was sent to the database before, together with others.
const PATIENCE_AFTER_FAILURE: Duration = Duration::from_secs(5);
const FIRST_DELAY: Duration = Duration::from_millis(5);
const MAX_DELAY: Duration = Duration::from_millis(200);

/// A statement.
#[derive(Clone, Copy)]
pub(super) enum Query<'a> {
    Prepared(fn(&Prepared) -> &Statement),
    Text(&'a str),
}

/// The values of a statement.
pub(super) type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The connections of an instance.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) connector: Arc<Connector>,
    pub(super) health: Arc<Health>,
    connections: Mutex<Vec<Arc<Connection>>>,
    is_opening: AtomicBool,
    opened: Notify,
}

/// A connection in use, which counts towards how busy it is.
struct Borrowed(Arc<Connection>);

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How one attempt ended without an answer that counts.
struct Failure {
    outcome: Outcome,
    what: String,
}

impl Pool {
    pub(super) fn new(connector: Arc<Connector>, health: Arc<Health>) -> Self {
        Self {
            connector,
            health,
            connections: Mutex::default(),
            is_opening: AtomicBool::new(false),
            opened: Notify::new(),
        }
    }

    /// The rows of a statement, which is repeated until it is answered or refused.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: it may have been applied.
    pub(super) async fn rows(
        self: &Arc<Self>,
        operation: &'static str,
        query: Query<'_>,
        values: Values<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        self.rows_within(PATIENCE, operation, query, values).await
    }

    /// The only row of a statement that may have been applied already, and is repeated even if the database is not well
    /// now.
    pub(super) async fn row_again(
        self: &Arc<Self>,
        operation: &'static str,
        query: Query<'_>,
        values: Values<'_>,
    ) -> Result<Option<Row>, StoreError> {
        let outcome = self.repeat(PATIENCE_AFTER_FAILURE, query, values).await;
        outcome.map(|mut rows| rows.pop()).map_err(|what| unavailable(operation, what))
    }

    /// As [`rows`](Self::rows), repeated for as long as `patience` lasts.
    pub(super) async fn rows_within(
        self: &Arc<Self>,
        patience: Duration,
        operation: &'static str,
        query: Query<'_>,
        values: Values<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        // Without proof that the database is well, nothing new is started: it would only leave one more waiting commit.
        let outcome = match self.health.check() {
            Ok(()) => self.repeat(patience, query, values).await,
            Err(what) => Err(what),
        };
        outcome.map_err(|what| unavailable(operation, what))
    }

    /// The only row of a statement.
    pub(super) async fn row(
        self: &Arc<Self>,
        operation: &'static str,
        query: Query<'_>,
        values: Values<'_>,
    ) -> Result<Row, StoreError> {
        self.rows(operation, query, values).await?.pop().ok_or(StoreError::Unreadable("a row is missing"))
    }

    /// The rows of a statement that is sent once; `None` if it did not succeed: whether it was applied is then not known.
    pub(super) async fn try_once(
        self: &Arc<Self>,
        of: fn(&Prepared) -> &Statement,
        values: Values<'_>,
    ) -> Option<Vec<Row>> {
        self.health.check().ok()?;
        let borrowed = timeout(STATEMENT_TIMEOUT, self.borrow()).await.ok()?;
        match attempt(&borrowed.0, Query::Prepared(of), values).await {
            Ok(rows) => Some(rows),
            Err(Failure { outcome, what }) => {
                tracing::debug!(?outcome, what, "a statement for several requests failed");
                if matches!(outcome, Outcome::Unknown | Outcome::Elsewhere) {
                    self.retire(&borrowed.0);
                }
                None
            }
        }
    }

    async fn repeat(
        self: &Arc<Self>,
        patience: Duration,
        query: Query<'_>,
        values: Values<'_>,
    ) -> Result<Vec<Row>, String> {
        let deadline = Instant::now() + patience;
        let mut delay = FIRST_DELAY;
        loop {
            let borrowed = timeout_at(deadline.into(), self.borrow()).await.map_err(|_| self.reason())?;
            let Failure { outcome, what } = match attempt(&borrowed.0, query, values).await {
                Ok(rows) => return Ok(rows),
                Err(failure) => failure,
            };
            match outcome {
                Outcome::Refused => return Err(what),
                Outcome::Busy => {}
                Outcome::NoPartition => self.make_weeks().await,
                Outcome::Unknown | Outcome::Elsewhere => self.retire(&borrowed.0),
            }
            drop(borrowed);
            if Instant::now() + delay > deadline {
                return Err(what);
            }
            tracing::debug!(?outcome, what, "a statement is repeated");
            sleep(delay).await;
            delay = MAX_DELAY.min(delay * 2);
        }
    }

    /// Why no statement can start.
    pub(super) fn reason(&self) -> String {
        self.health.check().err().unwrap_or_else(|| "no connection to the database".to_owned())
    }

    /// The least busy connection, once there is one and the database is well.
    async fn borrow(self: &Arc<Self>) -> Borrowed {
        loop {
            let opened = self.opened.notified();
            if self.health.check().is_ok() {
                let (least, count) = self.least_busy();
                let is_idle = least.as_ref().is_some_and(|found| found.in_flight.load(Ordering::Relaxed) == 0);
                if !is_idle && count < MAX_CONNECTIONS {
                    self.open();
                }
                if let Some(connection) = least {
                    connection.in_flight.fetch_add(1, Ordering::Relaxed);
                    return Borrowed(connection);
                }
            }
            // The health is checked again even if nothing is opened.
            let _ = timeout(MAX_DELAY, opened).await;
        }
    }

    /// Drops connections that no answer can come from; returns the least busy one, and how many there are.
    fn least_busy(&self) -> (Option<Arc<Connection>>, usize) {
        let mut connections = self.connections();
        connections.retain(|connection| connection.is_sound() && self.connector.is_current(connection));
        let least = connections.iter().min_by_key(|connection| connection.in_flight.load(Ordering::Relaxed));
        (least.map(Arc::clone), connections.len())
    }

    /// Opens a connection in the background, one at a time.
    fn open(self: &Arc<Self>) {
        if self.is_opening.swap(true, Ordering::AcqRel) {
            return;
        }
        let pool = Arc::clone(self);
        self.connector.spawn(async move {
            match pool.connector.connect().await {
                Ok(connection) => pool.connections().push(Arc::new(connection)),
                Err(error) => tracing::debug!(%error, "no further connection to the database"),
            }
            pool.is_opening.store(false, Ordering::Release);
            pool.opened.notify_waiters();
        });
    }

    /// Makes the partitions of this and the next weeks. A failure shows in the statement that needs one.
    pub(super) async fn make_weeks(self: &Arc<Self>) {
        let week = i64::try_from(Timestamp::now().epoch() / WEEK).unwrap_or(0);
        let borrowed = self.borrow().await;
        let text = &self.connector.statements.ensure_weeks;
        if let Err(failure) = attempt(&borrowed.0, Query::Text(text), &[&(week - 1), &(week + 2)]).await {
            tracing::warn!(what = failure.what, "the partitions of the coming weeks could not be made");
        }
    }

    fn retire(&self, connection: &Arc<Connection>) {
        self.connections().retain(|other| !Arc::ptr_eq(other, connection));
    }

    /// Drops all connections; statements in flight still get their answers.
    pub(super) fn clear(&self) {
        self.connections().clear();
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        // Adding and removing leaves it consistent, even if the lock is poisoned.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable(operation: &'static str, what: String) -> StoreError {
    metrics::counter!("writ_store_errors_total", "operation" => operation).increment(1);
    StoreError::Unavailable(what)
}

/// Sends a statement once. The rows count only once all of them have arrived: they are sent before the commit.
async fn attempt(connection: &Connection, query: Query<'_>, values: Values<'_>) -> Result<Vec<Row>, Failure> {
    let client = &connection.client;
    let sent = async {
        match query {
            Query::Prepared(of) => client.query(of(&connection.prepared), values).await,
            Query::Text(text) => client.query(text, values).await,
        }
    };
    let unknown = |what: &str| Failure { outcome: Outcome::Unknown, what: what.to_owned() };
    match timeout(STATEMENT_TIMEOUT, sent).await {
        Err(_) => Err(unknown("the database did not answer in time")),
        Ok(_) if connection.is_poisoned() => Err(unknown("the database warned of its own answer")),
        Ok(Ok(rows)) => Ok(rows),
        Ok(Err(error)) => Err(Failure { outcome: classify(error.code()), what: describe(&error) }),
    }
}
